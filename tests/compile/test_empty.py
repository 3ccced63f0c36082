"""The kernel that quantisers of few rows are held against does nothing but be launched."""

from cute_gemm.bench.peers import empty
from cute_gemm.runtime import compiler
from cute_gemm.runtime.inspection import read_cubin


def test_an_empty_kernel_waits_and_lets_the_next_one_begin() -> None:
    stats = read_cubin(compiler.compile_to_cubin(empty.build, "empty"))
    opcodes = [each.split(".")[0] for each in stats.opcodes]
    assert "ACQBULK" in opcodes
    assert "PREEXIT" in opcodes
    assert not {each for each in opcodes if each.startswith(("LD", "ST", "BAR"))} - {"LDC"}
    assert len(opcodes) < 40
