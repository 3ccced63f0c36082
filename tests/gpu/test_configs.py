"""Every kernel that can be chosen, forced upon shapes it would not be chosen for."""

import pytest
import torch
from tensors import DTYPES, FLAGS, bits, scales_for, semaphore

from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import DENSE
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.reference import dequantized_product, product_scale
from cute_gemm.runtime import builder
from cute_gemm.testing import assert_close_per_tile, make_inputs, poisoned

Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

# Less than a tile, ragged tiles, clusters that do not divide. Of k-blocks the serial loop takes four at once,
# the overlapped one two after the first: all that may remain of either, after none and after some.
SHAPES = [
    (1, 8, 16),  # 1 k-block, partial
    (65, 264, 144),  # 2, the last one partial
    (129, 264, 272),  # 3, partial
    (333, 2120, 512),  # 4
    (257, 136, 640),  # 5
    (64, 144, 768),  # 6
    (200, 520, 784),  # 7, partial
    (600, 584, 1040),  # 9, partial
    (7, 328, 1424),  # 12, partial: rows for the lowest tiles, k-blocks for each of eight CTAs
    (8, 64, 2048),  # 16
]
REPEATED = (600, 584, 1040)

every_config = pytest.mark.every_config(where=lambda config: config.layout is DENSE)
# Enough where only the number of CTAs changes. Not every third: most tiles come with three clusters.
some_configs = pytest.mark.every_config(where=lambda config: config.layout is DENSE, step=5)


def can_compute(config: KernelConfig, operands: Operands) -> bool:
    """Whether ``config`` is for as few rows, or as many k-blocks."""
    a, _, b, _ = operands
    return candidates.can_compute(GemmProblem(len(a), len(b), a.shape[1], config.out_dtype), config)


def run(config: KernelConfig, operands: Operands, num_sms: int = 132, draws: bool = True) -> torch.Tensor:
    a, sa, b, sb = operands
    out, check = poisoned(a.shape[0], b.shape[0], DTYPES[config.out_dtype], "cuda")
    address = semaphore().data_ptr() if draws else 0
    builder.instance(config)(a, scales_for(config, sa), b, sb, out, num_sms, FLAGS, address, 0)
    check()
    assert not semaphore().any()
    return out


@pytest.fixture(scope="module")
def exact() -> list[tuple[Operands, torch.Tensor]]:
    """Operands, small integers and powers of two, whose products a tensor core sums without any error."""
    cases = []
    for m, n, k in SHAPES:
        random = torch.Generator("cuda").manual_seed(m)

        def draw(low: int, high: int, *shape: int, random: torch.Generator = random) -> torch.Tensor:
            return torch.randint(low, high, shape, generator=random, device="cuda").float()

        a, b = (draw(-4, 5, rows, k).to(torch.float8_e4m3fn) for rows in (m, n))
        sa, sb = (torch.exp2(draw(-3, 4, rows, -(-k // 128))) for rows in (m, -(-n // 128)))
        cases.append(((a, sa, b, sb), dequantized_product(a, sa, b, sb)))
    return cases


@every_config
def test_is_exact_where_it_can_be(config: KernelConfig, exact: list[tuple[Operands, torch.Tensor]]) -> None:
    able = [case for case in exact if can_compute(config, case[0])]
    assert len(able) >= 2
    for operands, truth in able:
        out = run(config, operands)
        wrong = (out != truth.to(out.dtype)).nonzero()
        assert not len(wrong), f"{len(wrong)} of {out.shape} wrong, from {wrong[0].tolist()} on"


@some_configs
@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize("num_sms", [1, 7, 130])
def test_runs_on_fewer_multiprocessors_whoever_takes_a_tile(
    config: KernelConfig, num_sms: int, draws: bool, exact: list[tuple[Operands, torch.Tensor]]
) -> None:
    for operands, truth in (case for case in exact[1:] if can_compute(config, case[0])):
        out = run(config, operands, num_sms, draws)
        assert torch.equal(out, truth.to(out.dtype))


@pytest.fixture(scope="module")
def normal() -> tuple[Operands, torch.Tensor, torch.Tensor]:
    (a, sa), (b, sb) = make_inputs(*REPEATED, device="cuda")
    return (a, sa, b, sb), dequantized_product(a, sa, b, sb), product_scale(a, sa, b, sb)


@pytest.fixture(scope="module")
def agreed() -> dict[str, torch.Tensor]:
    """The bits that all kernels of an output type must give: those of the first one that ran."""
    return {}


@every_config
def test_all_kernels_give_the_same_bits_every_time(
    config: KernelConfig,
    normal: tuple[Operands, torch.Tensor, torch.Tensor],
    agreed: dict[str, torch.Tensor],
) -> None:
    (a, sa, b, sb), truth, scale = normal
    if config.block_m == 8:
        a, sa, truth, scale = a[:8], sa[:8], truth[:8], scale[:8]
    first = run(config, (a, sa, b, sb))
    assert_close_per_tile(first, truth, scale)
    # Launched without a pause, so that runs overlap: a race shows as a difference.
    outs = torch.full((20, *first.shape), torch.nan, dtype=first.dtype, device="cuda")
    launch, sa = builder.instance(config), scales_for(config, sa)
    for out in outs:
        launch(a, sa, b, sb, out, 132, FLAGS, semaphore().data_ptr(), 0)
    assert (bits(outs) == bits(first)).all()
    # All sum the k-blocks in the same order, but for those that share them out.
    if config.splits == 1:
        expected = agreed.setdefault(config.out_dtype, bits(first))
        assert torch.equal(bits(first)[: len(expected)], expected[: len(first)])
