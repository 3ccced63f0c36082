"""FFMAs of promotion in compiled kernels: how often the scale is read, and that nothing else differs."""

import itertools
import struct

import pytest

from cute_gemm.runtime import builder, cubins, lookup, operand_reuse
from cute_gemm.runtime.inspection import read_cubin

STAYS, KEEPS = 1 << 45, 1 << 59
ALONE_WITH_ITS_SCALE = "fp8_1d1d_128x128_c1x1_s5_r4_l2p256_fp32"


def instructions(cubin: bytes) -> list[tuple[int, int]]:
    return [each for code in cubins.code(cubin) for each in struct.iter_unpack("<QQ", cubin[code])]


def both_ways(name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[bytes, bytes]:
    """A kernel's cubin, and the same as the compiler made it."""
    config = lookup.find_config(name)
    marked = builder.cubin(config)
    monkeypatch.setattr(operand_reuse, "with_longer_runs", lambda image: image)
    return marked, builder.cubin(config)


@pytest.mark.parametrize(
    "name",
    [
        "128x64_c1x1_s8_l2p256_bf16",
        pytest.param("256x128_c1x2_s4_dyn_l2p256_bf16_tma-scales", marks=pytest.mark.thorough),
    ],
)
def test_scales_are_read_less_often_and_nothing_else_differs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    marked, plain = both_ways(name, monkeypatch)
    assert read_cubin(marked).code == read_cubin(plain).code
    pairs = list(zip(instructions(marked), instructions(plain), strict=True))
    for (lower, upper), (lower_before, before) in pairs:
        assert lower == lower_before
        assert upper == before or lower & 0xFFF == 0x223
        assert (upper ^ before) & ~(STAYS | KEEPS) == 0
    kept = [upper & KEEPS != 0 for (lower, upper), _ in pairs if lower & 0xFFF == 0x223]
    kept_before = [upper & KEEPS != 0 for (lower, _), (_, upper) in pairs if lower & 0xFFF == 0x223]
    # ptxas comes to a half.
    assert sum(kept_before) < 0.55 * len(kept) < 0.65 * len(kept) < sum(kept)
    longest = max(sum(1 for _ in run) for keeps, run in itertools.groupby(kept) if keeps)
    assert longest == operand_reuse.RUN - 1


@pytest.mark.thorough
def test_where_each_ffma_has_a_scale_of_its_own_nothing_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    marked, plain = both_ways(ALONE_WITH_ITS_SCALE, monkeypatch)
    assert marked == plain
