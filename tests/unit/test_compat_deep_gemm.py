"""DeepGEMM's names compute what DeepGEMM computes on a Hopper GPU, of what it takes there."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from deep_gemm_names import (
    DIST,
    FP4,
    LAYOUTS,
    LEGACY,
    MATH,
    MISSING,
    PRODUCTS,
    SETTINGS,
    TESTING,
)
from deep_gemm_process import forget_settings
from torch import Tensor

import cute_gemm
from cute_gemm import settings
from cute_gemm.compat import deep_gemm
from cute_gemm.compat.deep_gemm import products
from cute_gemm.testing import make_contiguous_inputs, make_inputs, poisoned, poisoned_rows

M, N, K = 130, 136, 272
GROUPS = 3


@pytest.fixture(autouse=True)
def nothing_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)


def filled(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A result in which what is not written is seen."""
    return torch.full(shape, torch.nan, dtype=dtype)


def turned(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    x, scales = pair
    return x.mT, scales.mT


# The surface


def test_all_names_are_there() -> None:
    names = [*PRODUCTS, *SETTINGS, *LAYOUTS, *MATH, *FP4, *DIST, *MISSING]
    assert [name for name in names if not callable(getattr(deep_gemm, name, None))] == []
    others = {"calc_diff", "get_col_major_tma_aligned_tensor", "transform_sf_into_required_layout"}
    assert others <= set(dir(deep_gemm))
    assert set(deep_gemm.__all__) <= set(dir(deep_gemm))
    assert deep_gemm.__version__.startswith("2.6.1")
    for module, expected in {
        deep_gemm.utils: [*LAYOUTS, *MATH, *FP4, *DIST],
        deep_gemm.utils.math: [*MATH, *FP4],
        deep_gemm.utils.layout: [*LAYOUTS, "transform_sf_into_required_layout"],
        deep_gemm.utils.dist: DIST,
        deep_gemm.testing: TESTING,
        deep_gemm.legacy: LEGACY,
    }.items():
        assert [name for name in expected if not callable(getattr(module, name, None))] == []


@pytest.mark.parametrize("name", [*MISSING, *FP4, *(f"legacy.{name}" for name in LEGACY)])
def test_what_is_missing_says_so(name: str) -> None:
    module, _, own = name.rpartition(".")
    function = getattr(getattr(deep_gemm, module) if module else deep_gemm, own)
    with pytest.raises(NotImplementedError, match=rf"^deep_gemm\.{name}: cute_gemm has no \w.* yet$"):
        function(torch.zeros(1), torch.zeros(1))
    with pytest.raises(NotImplementedError):
        function(anything=1)


@pytest.mark.parametrize(
    ("name", "parameters"),
    {
        "fp8_gemm_nt": "a b d c recipe recipe_a recipe_b compiled_dims disable_ue8m0_cast",
        "m_grouped_fp8_gemm_nt_contiguous": "a b d grouped_layout recipe recipe_a recipe_b compiled_dims "
        "disable_ue8m0_cast use_psum_layout ensure_zero_padding expected_m_for_psum_layout",
        "m_grouped_fp8_gemm_nn_contiguous": "a b d grouped_layout recipe recipe_a recipe_b compiled_dims "
        "disable_ue8m0_cast use_psum_layout ensure_zero_padding",
        "fp8_m_grouped_gemm_nt_masked": "a b d masked_m expected_m recipe recipe_a recipe_b compiled_dims "
        "disable_ue8m0_cast",
        "k_grouped_fp8_gemm_nt_contiguous": "a b d ks_cpu grouped_layout c recipe compiled_dims "
        "use_psum_layout",
        "k_grouped_fp8_gemm_tn_contiguous": "a b d ks_cpu grouped_layout c recipe compiled_dims "
        "use_psum_layout",
        "gemm_fp8_fp8_bf16_nt": "lhs rhs out",
        "m_grouped_gemm_fp8_fp8_bf16_nt_contiguous": "lhs rhs out m_indices",
        "m_grouped_gemm_fp8_fp8_bf16_nt_masked": "lhs rhs out masked_m expected_m",
        "transform_sf_into_required_layout": "sf mn k recipe num_groups is_sfa disable_ue8m0_cast "
        "psum_layout",
        "cublaslt_gemm_nt": "a b d c",
        "per_token_cast_to_fp8": "x use_ue8m0 gran_k use_packed_ue8m0",
        "get_theoretical_mk_alignment_for_contiguous_layout": "expected_m num_groups",
    }.items(),
)
def test_arguments_have_its_names_and_order(name: str, parameters: str) -> None:
    found = inspect.signature(getattr(deep_gemm, name)).parameters.values()
    assert [each.name for each in found if each.kind is each.POSITIONAL_OR_KEYWORD] == parameters.split()


@pytest.mark.parametrize("operands", ["nn", "tn", "tt"])
def test_transposed_ones_have_the_same_arguments(operands: str) -> None:
    theirs = inspect.signature(getattr(deep_gemm, f"fp8_gemm_{operands}"))
    assert list(theirs.parameters) == list(inspect.signature(deep_gemm.fp8_gemm_nt).parameters)


# Dense


@pytest.mark.parametrize("name", ["fp8_gemm_nt", "fp8_fp4_gemm_nt", "gemm_fp8_fp8_bf16_nt"])
def test_a_product_under_each_of_its_names(name: str) -> None:
    a, b = make_inputs(M, N, K)
    d, check = poisoned(M, N, torch.bfloat16)
    assert getattr(deep_gemm, name)(a, b, d) is None
    check()
    assert torch.equal(d, cute_gemm.fp8_gemm_nt(a, b))


@pytest.mark.parametrize("family", ["fp8", "fp8_fp4"])
@pytest.mark.parametrize("operands", ["nt", "nn", "tn", "tt"])
def test_transposed_operands(family: str, operands: str) -> None:
    a, b = make_inputs(M, N, K)
    d = filled(M, N, dtype=torch.float32)
    given = turned(a) if operands[0] == "t" else a, turned(b) if operands[1] == "n" else b
    getattr(deep_gemm, f"{family}_gemm_{operands}")(*given, d)
    assert torch.equal(d, cute_gemm.fp8_gemm_nt(a, b, out_dtype=torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("k", [K, 0])
def test_a_product_is_added_to_c(k: int, dtype: torch.dtype) -> None:
    a, b = make_inputs(M, N, k)
    c = torch.randn(M, N).to(dtype)
    wanted = (c.float() + cute_gemm.fp8_gemm_nt(a, b, out_dtype=torch.float32)).to(dtype)
    d = filled(M, N, dtype=dtype)
    deep_gemm.fp8_gemm_nt(a, b, d, c)
    assert torch.equal(d, wanted)
    alias = c.view(M, N)
    for d, given in ((c.clone(), None), (c, alias)):
        deep_gemm.fp8_gemm_nt(a, b, d, c=d if given is None else given)
        assert torch.equal(d, wanted)


def test_an_empty_sum_is_zero_and_an_empty_result_is_left_alone() -> None:
    a, b = make_inputs(M, N, 0)
    d = filled(M, N)
    deep_gemm.fp8_gemm_nt(a, b, d)
    assert (d == 0).all()
    for m, n in ((0, N), (M, 0)):
        a, b = make_inputs(m, n, K)
        d = filled(m, n)
        deep_gemm.fp8_gemm_nt(a, b, d)
        deep_gemm.fp8_gemm_nt(a, b, d, d)
        deep_gemm.fp8_gemm_nt(a, b, d, d.clone())


@pytest.mark.parametrize(
    "said",
    [
        {"recipe": (1, 128, 128)},
        {"recipe": [1, 128, 128]},
        {"recipe_a": (1, 128), "recipe_b": (128, 128)},
        {"disable_ue8m0_cast": True, "compiled_dims": "mnk"},
    ],
    ids=str,
)
def test_a_recipe_may_be_said(said: dict[str, Any]) -> None:
    a, b = make_inputs(M, N, K)
    d = filled(M, N)
    deep_gemm.fp8_gemm_nt(a, b, d, **said)
    assert torch.equal(d, cute_gemm.fp8_gemm_nt(a, b))


BOTH_BY_ROWS = [{"recipe": (1, 1, 128)}, {"recipe_a": (1, 128), "recipe_b": (1, 128)}]
RECIPES = [
    *((said, NotImplementedError, "1x128 of both") for said in BOTH_BY_ROWS),
    ({"recipe": (1, 128, 32)}, ValueError, "says scales for"),
    ({"recipe_a": (128, 128), "recipe_b": (1, 128)}, ValueError, "says scales for"),
    ({"recipe_a": (1, 128)}, ValueError, "wanted `recipe`, or"),
    ({"recipe_b": (1, 128)}, ValueError, "wanted `recipe`, or"),
    (
        {"recipe": (1, 128, 128), "recipe_a": (1, 128), "recipe_b": (128, 128)},
        ValueError,
        "wanted `recipe`, or",
    ),
    ({"recipe": (1, 128, 128), "recipe_b": (128, 128)}, ValueError, "wanted `recipe`, or"),
]


@pytest.mark.parametrize(("said", "error", "words"), RECIPES, ids=lambda each: str(each)[:60])
def test_other_recipes_are_refused(said: dict[str, Any], error: type[Exception], words: str) -> None:
    a, b = make_inputs(128, N, K)
    d = filled(128, N)
    of_groups = (b[0][None], b[1][None])
    index = torch.zeros(128, dtype=torch.int32)
    is_of_both = said in BOTH_BY_ROWS
    calls = (
        lambda: deep_gemm.fp8_gemm_nt(a, b, d, **said),
        lambda: deep_gemm.fp8_gemm_tt(turned(a), b, d, **said),
        lambda: deep_gemm.m_grouped_fp8_gemm_nt_contiguous(a, of_groups, d, index, **said),
        lambda: deep_gemm.m_grouped_fp8_gemm_nt_masked(
            tuple(each[None] for each in a), of_groups, d[None], index[:1], 1, **said
        ),
    )
    for call in calls[2 * is_of_both :]:
        with pytest.raises(error, match=words):
            call()
    assert d.isnan().all()


@pytest.mark.parametrize("scales", [cute_gemm.m_major, Tensor.contiguous, lambda s: s.mT.contiguous().mT])
def test_scales_of_any_layout(scales: Callable[[Tensor], Tensor]) -> None:
    (a, sa), (b, sb) = make_inputs(M, N, K)
    d = filled(M, N)
    deep_gemm.fp8_gemm_nt((a, scales(sa)), (b, sb.mT.contiguous().mT), d)
    assert torch.equal(d, cute_gemm.fp8_gemm_nt((a, sa), (b, sb)))


def test_what_no_operation_takes_is_refused_in_its_words() -> None:
    (a, sa), b = make_inputs(M, N, K)
    with pytest.raises(TypeError, match="a has dtype"):
        deep_gemm.fp8_gemm_nt((a.float(), sa), b, filled(M, N))
    with pytest.raises(TypeError, match=r"sb has dtype"):
        deep_gemm.fp8_gemm_nt((a, sa), (b[0], b[1].int()), filled(M, N))
    with pytest.raises(TypeError, match=r"the pair \(b, sb\) is one tensor"):
        deep_gemm.fp8_gemm_nn((a, sa), b[0], filled(M, N))
    with pytest.raises(ValueError, match="out has shape"):
        deep_gemm.fp8_gemm_nt((a, sa), b, filled(M + 1, N))


# Groups


def contiguous(sizes: list[int], *, tail: int = 0) -> tuple[Any, Any, Tensor, Tensor]:
    """Operands with NaN in all padding of A and its scales, the index, and the result, with zeros there."""
    inputs = make_contiguous_inputs(sizes, N, K)
    (a, sa), b, index = inputs.lhs, inputs.rhs, inputs.index
    pad = torch.nn.functional.pad
    a = pad(a.view(torch.uint8), (0, 0, 0, tail)).view(a.dtype)
    sa, index = pad(sa, (0, 0, 0, tail)), pad(index, (0, tail), value=-1)
    is_padding = index < 0
    a.view(torch.uint8)[is_padding], sa[is_padding] = 0x7F, torch.nan
    wanted = cute_gemm.m_grouped_fp8_gemm_nt_contiguous((a, sa), b, index, fill=0)
    return (a, sa), b, index, wanted


CONTIGUOUS = (
    "m_grouped_fp8_gemm_nt_contiguous",
    "m_grouped_fp8_fp4_gemm_nt_contiguous",
    "m_grouped_gemm_fp8_fp8_bf16_nt_contiguous",
)


@pytest.mark.parametrize("name", CONTIGUOUS)
@pytest.mark.parametrize("tail", [0, 128, 200, 381])
def test_all_rows_of_groups_are_written(name: str, tail: int) -> None:
    """Also where rows of padding hold NaN, and rows are no multiple of 128, but end in padding."""
    a, b, index, wanted = contiguous([100, 0, 128, 70], tail=tail)
    assert (index < 0).any()
    d, check = poisoned(len(index), N, torch.bfloat16)
    assert getattr(deep_gemm, name)(a, b, d, index) is None
    check()
    assert torch.equal(d, wanted)
    assert (d[index < 0] == 0).all()
    assert (d[index >= 0] != 0).any(1).all()


def test_padding_alone_is_zeros() -> None:
    a, b, index, _ = contiguous([100, 70])
    d = filled(len(index), N)
    deep_gemm.m_grouped_fp8_gemm_nt_contiguous(a, b, d, torch.full_like(index, -1))
    assert (d == 0).all()


@pytest.mark.parametrize("name", ["m_grouped_fp8_gemm_nn_contiguous", "m_grouped_fp8_fp4_gemm_nn_contiguous"])
def test_groups_with_transposed_matrices(name: str) -> None:
    a, b, index, wanted = contiguous([100, 128])
    d = filled(len(index), N)
    getattr(deep_gemm, name)(a, turned(b), d, index)
    assert torch.equal(d, wanted)


@pytest.mark.parametrize("alignment", [128, 32, 1024])
@pytest.mark.parametrize("operands", ["nt", "nn"])
def test_the_psum_layout(operands: str, alignment: int) -> None:
    """Ends of groups, which begin at multiples of an alignment; rows between are anything, and stay."""
    sizes, ends, start = [100, 0, 128, 30], [], 0
    for size in sizes:
        ends.append(start + size)
        start = -(-ends[-1] // alignment) * alignment
    m = start + 64
    (a, sa), _ = make_inputs(m, N, K)
    b = cute_gemm.quantize_128x128(torch.randn(len(sizes), N, K))
    offsets = torch.tensor(ends, dtype=torch.int32)
    wanted = cute_gemm.m_grouped_fp8_gemm_nt_offsets((a, sa), b, offsets, filled(m, N), alignment=alignment)
    is_written = ~wanted.isnan().any(1)
    assert int(is_written.sum()) == sum(sizes)
    a.view(torch.uint8)[~is_written] = 0x7F
    d, check = poisoned_rows(is_written, N, torch.bfloat16)
    deep_gemm.set_mk_alignment_for_contiguous_layout(alignment)
    named: dict[str, Any] = {"expected_m_for_psum_layout": 64} if operands == "nt" else {}
    function = getattr(deep_gemm, f"m_grouped_fp8_gemm_{operands}_contiguous")
    function((a, sa), b if operands == "nt" else turned(b), d, offsets, use_psum_layout=True, **named)
    check()
    assert torch.equal(d[is_written], wanted[is_written])


def test_alignments_that_a_layout_cannot_have_are_refused() -> None:
    a, b, index, wanted = contiguous([100, 128])
    d = filled(len(index), N)
    with pytest.raises(ValueError, match="expected_m_for_psum_layout is 7"):
        deep_gemm.m_grouped_fp8_gemm_nt_contiguous(a, b, d, index, expected_m_for_psum_layout=7)
    deep_gemm.set_mk_alignment_for_contiguous_layout(64)
    with pytest.raises(ValueError, match=r"layout\(64\) is in force; wanted a multiple of 128"):
        deep_gemm.m_grouped_fp8_gemm_nt_contiguous(a, b, d, index)
    assert d.isnan().all()
    deep_gemm.set_mk_alignment_for_contiguous_layout(256)
    deep_gemm.m_grouped_fp8_gemm_nt_contiguous(a, b, d, index)
    assert torch.equal(d, wanted)


MASKED = (
    "m_grouped_fp8_gemm_nt_masked",
    "m_grouped_fp8_fp4_gemm_nt_masked",
    "fp8_m_grouped_gemm_nt_masked",
    "m_grouped_gemm_fp8_fp8_bf16_nt_masked",
)


@pytest.mark.parametrize("name", MASKED)
@pytest.mark.parametrize("shape", [(GROUPS,), (GROUPS, 1)], ids=str)
@pytest.mark.parametrize("expected", [5, 1000, np.int64(3)], ids=str)
def test_masked_rows(name: str, shape: tuple[int, ...], expected: Any) -> None:
    capacity = 20
    a = cute_gemm.quantize_1x128(torch.randn(GROUPS, capacity, K))
    b = cute_gemm.quantize_128x128(torch.randn(GROUPS, N, K))
    masked_m = torch.tensor([7, 0, capacity], dtype=torch.int32).view(shape)
    is_valid = torch.arange(capacity) < masked_m.view(-1, 1)
    a[0].view(torch.uint8)[~is_valid] = 0x7F
    d, check = poisoned_rows(is_valid, N, torch.bfloat16)
    assert getattr(deep_gemm, name)(a, b, d, masked_m=masked_m, expected_m=expected) is None
    check()
    wanted = cute_gemm.m_grouped_fp8_gemm_nt_masked(a, b, masked_m.flatten(), 5)
    assert torch.equal(d[is_valid], wanted[is_valid])


def test_hints_of_a_fork_are_taken_and_its_signals_refused() -> None:
    a = cute_gemm.quantize_1x128(torch.randn(1, 4, K))
    b = cute_gemm.quantize_128x128(torch.randn(1, N, K))
    given = a, b, filled(1, 4, N), torch.ones(1, dtype=torch.int32), 1
    deep_gemm.fp8_m_grouped_gemm_nt_masked(*given, enable_overlap=False, max_block_n=128, signal=None)
    with pytest.raises(NotImplementedError, match="enable_overlap=True"):
        deep_gemm.fp8_m_grouped_gemm_nt_masked(*given, enable_overlap=True, signal=torch.zeros(4))
    with pytest.raises(TypeError):
        deep_gemm.fp8_m_grouped_gemm_nt_masked(*given[:4], 1.5)


# What is around a call


def test_parameters_are_multiplied_without_gradients() -> None:
    """As DeepGEMM does: cute_gemm's own operations refuse them."""
    (a, sa), (b, sb) = make_inputs(M, N, K)
    weight, scales = (torch.nn.Parameter(each) for each in (b, sb))
    assert weight.requires_grad
    d, c = filled(M, N), torch.zeros(M, N, requires_grad=True)
    deep_gemm.fp8_gemm_nt((a, sa), (weight, scales), d)
    assert torch.equal(d, cute_gemm.fp8_gemm_nt((a, sa), (b, sb)))
    deep_gemm.fp8_gemm_nt((a, sa), (weight, scales), d, c)
    assert not d.requires_grad
    assert torch.is_grad_enabled()
    x = torch.randn(M, K, requires_grad=True)
    for cast in (deep_gemm.per_token_cast_to_fp8, deep_gemm.per_block_cast_to_fp8):
        assert not any(each.requires_grad for each in cast(x, use_ue8m0=False))


def test_a_compiled_caller_has_one_graph() -> None:
    deep_gemm.set_batch_invariant(True)
    a, b = make_inputs(M, N, K)
    of_groups = (b[0][None], b[1][None])
    counts = torch.tensor([100], dtype=torch.int32)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def calls(d: Tensor, in_matrices: Tensor) -> None:
        deep_gemm.fp8_gemm_nt(a, b, d)
        one = tuple(each[None] for each in a)
        deep_gemm.m_grouped_fp8_gemm_nt_masked(one, of_groups, in_matrices, counts, 100)

    d, in_matrices = filled(M, N), filled(1, M, N)
    calls(d, in_matrices)
    wanted = cute_gemm.fp8_gemm_nt(a, b)
    assert torch.equal(d, wanted)
    assert torch.equal(in_matrices[0, :100], wanted[:100])


# Settings


def in_force(monkeypatch: pytest.MonkeyPatch) -> settings.Settings:
    """What a product is called with."""
    seen = []
    with monkeypatch.context() as patch:
        patch.setattr(products, "_dense", lambda *args, **kwargs: seen.append(settings.current()))
        deep_gemm.fp8_gemm_nt((torch.zeros(1), torch.zeros(1)), (), torch.zeros(1))
    (found,) = seen
    return found


def test_nothing_is_set_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_force(monkeypatch) == settings.Settings()
    with cute_gemm.config(num_sms=7, pdl=True):
        assert in_force(monkeypatch) == settings.Settings(num_sms=7, pdl=True)
    assert (deep_gemm.get_pdl(), deep_gemm.get_batch_invariant()) == (False, False)
    assert (deep_gemm.get_tc_util(), deep_gemm.get_compile_mode()) == (100, 0)


def test_setters_hold_in_all_threads_and_products_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    deep_gemm.set_num_sms(100)
    deep_gemm.set_pdl(True)
    deep_gemm.set_batch_invariant(True)
    wanted = settings.Settings(num_sms=100, pdl=True, batch_invariant=True)
    found = []
    thread = threading.Thread(target=lambda: found.append(in_force(monkeypatch)))
    thread.start()
    thread.join(60)
    assert [in_force(monkeypatch), *found] == [wanted, wanted]
    assert settings.current() == settings.Settings()
    assert (deep_gemm.get_num_sms(), deep_gemm.get_pdl(), deep_gemm.get_batch_invariant()) == (
        100,
        True,
        True,
    )
    thread = threading.Thread(target=deep_gemm.set_pdl, args=(False,))
    thread.start()
    thread.join(60)
    assert in_force(monkeypatch) == settings.Settings(num_sms=100, pdl=False, batch_invariant=True)


def test_what_was_set_wins_over_a_scope_and_the_rest_is_the_scopes(monkeypatch: pytest.MonkeyPatch) -> None:
    deep_gemm.set_pdl(False)
    with cute_gemm.config(pdl=True, num_sms=3):
        assert in_force(monkeypatch) == settings.Settings(pdl=False, num_sms=3)


def test_settings_do_not_begin_to_use_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is forked behind them could not use the GPU."""

    def ask(*_: object) -> None:
        raise AssertionError("CUDA was begun to be used")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    for name in ("get_device_properties", "current_device", "_lazy_init"):
        monkeypatch.setattr(torch.cuda, name, ask)
    deep_gemm.set_num_sms(100)
    deep_gemm.set_pdl(True)
    deep_gemm.set_tc_util(50)
    deep_gemm.set_batch_invariant(True)
    deep_gemm.set_mk_alignment_for_contiguous_layout(128)


def test_no_number_of_multiprocessors_is_all(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        multi_processor_count = 132

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda *device: Properties)
    assert deep_gemm.get_num_sms() == 132
    deep_gemm.set_num_sms(20)
    assert deep_gemm.get_num_sms() == 20
    deep_gemm.set_num_sms(0)
    assert deep_gemm.get_num_sms() == 132
    assert in_force(monkeypatch).num_sms is None
    with pytest.raises(ValueError, match="num_sms is -1"):
        deep_gemm.set_num_sms(-1)
    assert in_force(monkeypatch).num_sms is None


def test_multiprocessors_that_a_device_has_not_are_refused_as_by_deep_gemm(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Properties:
        multi_processor_count = 132

    for name, value in {"is_initialized": True, "current_device": 0, "get_device_capability": (9, 0)}.items():
        monkeypatch.setattr(torch.cuda, name, lambda *device, value=value: value)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties)
    deep_gemm.set_num_sms(132)
    for wrong in (133, -1):
        with pytest.raises(RuntimeError, match=f"num_sms is {wrong}; wanted 0 to 132"):
            deep_gemm.set_num_sms(wrong)
        assert deep_gemm.get_num_sms() == 132


def test_hints_are_kept() -> None:
    deep_gemm.set_tc_util(60)
    deep_gemm.set_compile_mode(1)
    deep_gemm.set_ignore_compile_dims(True)
    deep_gemm.set_block_size_multiple_of((16, 8))
    deep_gemm.set_block_size_multiple_of(16)
    deep_gemm.use_deterministic_algorithms(True)
    assert (deep_gemm.get_tc_util(), deep_gemm.get_compile_mode()) == (60, 1)
    for kind in (ValueError, RuntimeError):
        with pytest.raises(kind, match="wanted 0 to 100"):
            deep_gemm.set_tc_util(101)
    assert deep_gemm.get_tc_util() == 60


def test_alignments() -> None:
    getters = [getattr(deep_gemm, f"get_{each}_alignment_for_contiguous_layout") for each in ("mk", "m", "k")]
    assert [getter() for getter in getters] == [128] * 3
    theoretical = deep_gemm.get_theoretical_mk_alignment_for_contiguous_layout
    assert {
        theoretical(),
        theoretical(None),
        theoretical(20),
        theoretical(20, 8),
        theoretical(expected_m=4),
    } == {128}
    deep_gemm.set_mk_alignment_for_contiguous_layout(32)
    assert [getter() for getter in getters] == [32] * 3
    assert theoretical() == 128


# cuBLASLt


@pytest.mark.parametrize("operands", ["nt", "nn", "tn", "tt"])
@pytest.mark.parametrize("source", [torch.bfloat16, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_products_by_cublaslt(source: torch.dtype, dtype: torch.dtype, operands: str) -> None:
    a, b = (torch.randn(*shape).to(source) for shape in ((M, K), (N, K)))
    exact = a.double() @ b.double().mT
    given = a.mT if operands[0] == "t" else a, b.mT if operands[1] == "n" else b
    c = torch.randn(M, N).to(dtype)
    function = getattr(deep_gemm, f"cublaslt_gemm_{operands}")
    for wanted, added, d in (
        (exact, None, filled(M, N, dtype=dtype)),
        (exact + c, c, filled(M, N, dtype=dtype)),
        (exact + c, "d", c.clone()),
    ):
        assert function(*given, d, c=d if isinstance(added, str) else added) is None
        assert d.dtype is dtype
        ulps = 0.5 if dtype is torch.bfloat16 else 8
        limit = ulps * torch.finfo(dtype).eps * (exact.abs() + c.abs()).max()
        assert (d - wanted).abs().max() <= limit


def test_what_cublaslt_does_not_take() -> None:
    a, b, d = (torch.zeros(4, 4, dtype=torch.bfloat16) for _ in range(3))
    for given, error, words in (
        ((a.float(), b.float(), d), TypeError, "wanted bf16 of both"),
        ((a, b.to(torch.float8_e4m3fn), d), TypeError, "wanted bf16 of both"),
        ((a, b, d.half()), TypeError, "d has dtype"),
        ((a, b, d, d.float()), TypeError, "c has dtype"),
        ((a, b[:, :2], d), ValueError, "wanted .M, K."),
        ((a, b, d[:2]), ValueError, "d has shape"),
        ((a, b, d, d[:2]), ValueError, "c has shape"),
    ):
        with pytest.raises(error, match=words):
            deep_gemm.cublaslt_gemm_nt(*given)
