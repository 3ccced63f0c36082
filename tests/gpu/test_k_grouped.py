"""Products of groups of columns: values of what is chosen and of every kernel, written and added."""

import pytest
import torch
from tensors import bits

from cute_gemm import k_grouped_fp8_gemm_nt
from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import K_GROUPED
from cute_gemm.runtime import programs
from cute_gemm.testing import INPUT_KINDS, assert_k_grouped_correct, make_k_grouped_inputs, worst_tile_error

CONFIGS = [config for config in candidates.every_row_scaled_config() if config.layout is K_GROUPED]
# Whole, short, single, empty and ragged groups.
SIZES = [[128, 256, 0, 1024], [16, 112, 144, 0, 0, 2000], [0, 0], [4096 - 48], [272] * 9]


def poisoned_results(groups: int, m: int, n: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.full((groups, m, n), torch.nan, dtype=dtype, device="cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mn", [(64, 24), (333, 264), (520, 1160)], ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_each_group_has_its_product(sizes: list[int], mn: tuple[int, int], dtype: torch.dtype) -> None:
    """What is around groups' columns, and around their scales, is NaN."""
    inputs = make_k_grouped_inputs(sizes, *mn, device="cuda", first=32, behind=48)
    out = poisoned_results(len(sizes), *mn, dtype)
    for _ in range(2):
        out.fill_(torch.nan)
        assert k_grouped_fp8_gemm_nt(inputs.lhs, inputs.rhs, inputs.offsets, out) is out
        assert_k_grouped_correct(out, inputs)


@pytest.mark.parametrize("kind", INPUT_KINDS)
def test_kinds_of_data(kind: str) -> None:
    inputs = make_k_grouped_inputs([144, 0, 1040, 16], 333, 264, kind, device="cuda")
    out = k_grouped_fp8_gemm_nt(inputs.lhs, inputs.rhs, inputs.offsets)
    assert_k_grouped_correct(out, inputs)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_products_are_added_once(sizes: list[int]) -> None:
    """Of groups without columns every bit stays, NaN too."""
    inputs = make_k_grouped_inputs(sizes, 333, 264, device="cuda")
    product = k_grouped_fp8_gemm_nt(inputs.lhs, inputs.rhs, inputs.offsets)
    before = torch.randn_like(product)
    for group, size in enumerate(sizes):
        if not size:
            before[group, 0] = torch.nan
    out = before.clone()
    k_grouped_fp8_gemm_nt(inputs.lhs, inputs.rhs, inputs.offsets, out, accumulate=True)
    assert torch.equal(bits(out), bits(torch.where(product == 0, before, before + product)))


def test_neighbours_do_not_matter() -> None:
    """The bits of a group's product are the same whatever its neighbours are, NaN or huge."""
    inputs = make_k_grouped_inputs([112, 48, 400], 256, 128, device="cuda")
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    wanted = k_grouped_fp8_gemm_nt((a, sa), (b, sb), inputs.offsets)
    for operand in (a, b):
        as_bytes = operand.view(torch.uint8)
        as_bytes[:, :112] = 0x7F
        as_bytes[:, 160:] = 0x7F
    found = k_grouped_fp8_gemm_nt((a, sa), (b, sb), inputs.offsets)
    assert torch.equal(bits(found[1]), bits(wanted[1]))
    assert found[0].isnan().all()
    assert found[2].isnan().all()


@pytest.mark.parametrize("edges", [[-64, 7, 10**9], [48, 32, 400], [0, 0, 0]], ids=str)
def test_edges_that_are_wrong_lead_nowhere(edges: list[int]) -> None:
    """Every element is written, and nothing is read out of bounds."""
    inputs = make_k_grouped_inputs([112, 288], 256, 128, device="cuda")
    # Finite wherever a block may be read, so that what is compared is.
    for q, s in (inputs.lhs, inputs.rhs):
        q.view(torch.uint8)[q.isnan()] = 0
        s[s.isnan()] = 1.0
    offsets = torch.tensor(edges, dtype=torch.int32, device="cuda")
    out = poisoned_results(2, 256, 128, torch.float32)
    k_grouped_fp8_gemm_nt(inputs.lhs, inputs.rhs, offsets, out)
    torch.cuda.synchronize()
    lhs, rhs = ((x.cpu(), s.cpu()) for x, s in (inputs.lhs, inputs.rhs))
    wanted = k_grouped_fp8_gemm_nt(lhs, rhs, offsets.cpu())
    assert wanted.isfinite().all()
    # Scales of unlike sizes meet in a sum, so elements that are small beside their terms say nothing.
    for found, right in zip(out.cpu(), wanted, strict=True):
        assert worst_tile_error(found, right) < 1e-5


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("mn", [(333, 264), (257, 136), (5, 24)], ids=str)
def test_what_lies_between_results_is_left_alone(mn: tuple[int, int], accumulate: bool) -> None:
    """Rows beyond the last of a group are in front of the next group's; so are columns beyond the last."""
    m, n = mn
    inputs = make_k_grouped_inputs([144, 0, 272], m, n, device="cuda")
    whole = torch.full((3, m + 3, n + 8), 7.0, device="cuda")
    out = whole[:, :m, :n]
    before = out.clone() if accumulate else None
    k_grouped_fp8_gemm_nt(inputs.lhs, inputs.rhs, inputs.offsets, out, accumulate=accumulate)
    assert_k_grouped_correct(out, inputs, before)
    assert (whole[:, m:] == 7).all()
    assert (whole[:, :, n:] == 7).all()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.name)
def test_every_kernel(config: KernelConfig) -> None:
    """Twenty times the same bits, with all multiprocessors and with few."""
    inputs = make_k_grouped_inputs([656, 0, 48, 2064, 128], 777, 1160, device="cuda")
    first = None
    for turn in range(20):
        out = poisoned_results(5, 777, 1160, getattr(torch, config.out_dtype))
        if config.accumulates:
            out.zero_()
        num_sms = None if turn % 2 else 8
        programs.launch(config, inputs.lhs, inputs.rhs, inputs.offsets, out=out, num_sms=num_sms)
        if first is None:
            first = out.clone()
            assert_k_grouped_correct(out, inputs)
        assert torch.equal(bits(out), bits(first))
