"""Which FFMAs keep their second operand for the next, and which yield."""

import struct

import pytest

from cute_gemm.runtime import operand_reuse
from cute_gemm.runtime.operand_reuse import RUN, mark

STAYS, KEEPS = 1 << 45, 1 << 59
FFMA, GUARDED_FFMA, FMUL = 0x7223, 0x0223, 0x7220
SCALE, OTHER_SCALE = 200, 201
UPPER = 0x000FC400_00000078
"""Some stall, no barriers, an accumulator."""


def instruction(written: int, scale: int = SCALE, opcode: int = FFMA, upper: int = UPPER) -> bytes:
    return struct.pack("<QQ", opcode | written << 16 | 24 << 24 | scale << 32, upper)


def run(length: int, scale: int = SCALE, **more: int) -> bytes:
    return b"".join(instruction(written, scale, **more) for written in range(length))


def upper_halves(code: bytes) -> list[int]:
    return [upper for _, upper in struct.iter_unpack("<QQ", code)]


def keeping(code: bytes) -> list[bool]:
    """Of each instruction, whether it keeps; no one may keep and yield, and nothing else may change."""
    marked = mark(code)
    for (lower, upper), (lower_before, before) in zip(
        struct.iter_unpack("<QQ", marked), struct.iter_unpack("<QQ", code), strict=True
    ):
        assert lower == lower_before
        assert (upper ^ before) & ~(STAYS | KEEPS) == 0
        assert upper & (STAYS | KEEPS) in (0, STAYS | KEEPS)
    return [upper & KEEPS != 0 for upper in upper_halves(marked)]


def test_all_of_a_run_keep_but_every_sixth_and_the_last() -> None:
    assert RUN == 6
    assert keeping(run(8)) == [True] * 5 + [False, True, False]
    assert keeping(run(12)) == ([True] * 5 + [False]) * 2


def test_what_kept_before_yields_where_it_is_the_last() -> None:
    assert keeping(run(2, upper=UPPER | STAYS | KEEPS)) == [True, False]


@pytest.mark.parametrize(
    "between",
    [instruction(9, OTHER_SCALE), instruction(9, opcode=FMUL), instruction(9, opcode=GUARDED_FFMA)],
    ids=["another scale", "another opcode", "a guard"],
)
def test_a_run_ends(between: bytes) -> None:
    assert keeping(run(3) + between + run(2)) == [True, True, False, False, True, False]


def test_a_scale_that_is_written_is_read_again() -> None:
    code = instruction(1) + instruction(SCALE) + instruction(2) + instruction(3)
    assert keeping(code) == [True, False, True, False]


def test_one_that_waits_for_long_yields() -> None:
    long, short = (UPPER & ~(0xF << 41) | cycles << 41 for cycles in (12, 11))
    assert keeping(run(2) + run(1, upper=long) + run(2)) == [True, True, False, True, False]
    assert keeping(run(2) + run(1, upper=short) + run(2)) == [True] * 4 + [False]


@pytest.mark.parametrize("upper", [UPPER, UPPER | STAYS, UPPER | STAYS | KEEPS])
def test_one_by_itself_is_as_the_compiler_made_it(upper: int) -> None:
    code = run(1, OTHER_SCALE, upper=upper) + run(1, upper=upper) + run(2, opcode=FMUL, upper=upper)
    assert mark(code) == code


def test_marked_twice_is_marked_once() -> None:
    once = mark(run(20) + run(3, OTHER_SCALE))
    assert mark(once) == once


def test_what_holds_no_gpu_code_stays() -> None:
    image = b"\x7fELF" + run(4)
    assert operand_reuse.with_longer_runs(image) == image
