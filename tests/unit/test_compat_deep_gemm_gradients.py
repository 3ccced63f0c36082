"""DeepGEMM's products by scales of 1x128 of both operands: values, what is added, groups along K."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from deep_gemm_process import forget_settings
from torch import Tensor

import cute_gemm
from cute_gemm.compat import deep_gemm
from cute_gemm.compat.deep_gemm import gradients
from cute_gemm.testing import poisoned

M, N, K = 130, 136, 272
KS = [256, 0, 128, 384]
RECIPES = [{"recipe": (1, 1, 128)}, {"recipe": [1, 1, 128]}, {"recipe_a": (1, 128), "recipe_b": [1, 128]}]

Pair = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True)
def nothing_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Pair, Pair]]:
    """The operands of the dense products that a test computes."""
    seen: list[tuple[Pair, Pair]] = []

    def record(a: Pair, b: Pair, **named: Any) -> Tensor:
        seen.append((a, b))
        return cute_gemm.fp8_gemm_nt(a, b, **named)

    monkeypatch.setattr(gradients, "_dense", record)
    return seen


def exact(pair: Pair) -> Tensor:
    """What FP8 and its scales of 1x128 say, in FP64."""
    x, scales = pair
    return x.double() * scales.double().repeat_interleave(128, 1)[:, : x.shape[1]]


def rows(count: int, k: int = K) -> Pair:
    return cute_gemm.quantize_1x128(torch.randn(count, k) * torch.rand(count, 1).exp())


def assert_close(d: Tensor, wanted: Tensor, k: int) -> None:
    """Within the rounding of sums in FP32, of values of order 1."""
    assert d.dtype is torch.float32
    limit = 16 * torch.finfo(torch.float32).eps * math.sqrt(max(k, 1)) * max(float(wanted.abs().max()), 1)
    assert (d - wanted).abs().max() <= limit


def turned(pair: Pair) -> Pair:
    return pair[0].mT, pair[1].mT


# Dense


@pytest.mark.parametrize("said", RECIPES, ids=str)
@pytest.mark.parametrize("operands", ["nt", "nn", "tn", "tt"])
def test_a_product_by_scales_of_rows(operands: str, said: dict[str, Any]) -> None:
    a, b = rows(M), rows(N)
    d, check = poisoned(M, N, torch.float32)
    given = turned(a) if operands[0] == "t" else a, turned(b) if operands[1] == "n" else b
    assert getattr(deep_gemm, f"fp8_fp4_gemm_{operands}")(*given, d, **said) is None
    check()
    assert_close(d, exact(a) @ exact(b).T, K)


@pytest.mark.parametrize("k", [K, 0])
def test_a_product_is_added_to_c(k: int) -> None:
    a, b, c = rows(M, k), rows(N, k), torch.randn(M, N) * 32
    wanted = exact(a) @ exact(b).T + c
    others = [torch.full((M, N), torch.nan), c.clone(), c.clone()]
    given = [c.clone(), others[1], others[2].view(M, N)]
    for d, added in zip(others, given, strict=True):
        deep_gemm.fp8_gemm_nt(a, b, d, added, recipe=(1, 1, 128))
        assert_close(d, wanted, k)
        assert torch.equal(d, others[0])
    assert torch.equal(given[0], c)


def test_empty_results_are_left_alone() -> None:
    for m, n in ((0, N), (M, 0)):
        d = torch.empty(m, n)
        for c in (None, d, d.clone()):
            deep_gemm.fp8_gemm_nt(rows(m), rows(n), d, c, recipe=(1, 1, 128))


def test_results_that_require_a_gradient_are_taken() -> None:
    a, b = rows(M), rows(N)
    weight = torch.zeros(M, N, requires_grad=True)
    deep_gemm.fp8_gemm_nt(a, b, weight, torch.ones(M, N), recipe=(1, 1, 128))
    assert_close(weight.detach(), exact(a) @ exact(b).T + 1, K)
    stacked = torch.zeros(1, M, N, requires_grad=True)
    operands = tuple((x[:, :256].reshape(-1), s[:, :2]) for x, s in (a, b))
    deep_gemm.k_grouped_fp8_gemm_nt_contiguous(*operands, stacked, [256], layout([256]), stacked)
    assert bool((stacked != 0).any())


def test_scales_are_those_that_the_recipe_says() -> None:
    a, b, d = rows(M), rows(N), torch.full((M, N), torch.nan)
    blocks = cute_gemm.quantize_128x128(torch.randn(N, K))
    with pytest.raises(ValueError, match=r"sb has shape \(2, 3\); wanted .*= \(136, 3\)"):
        deep_gemm.fp8_gemm_nt(a, blocks, d, recipe=(1, 1, 128))
    for said in ({}, {"recipe": (1, 128, 128)}):
        with pytest.raises(ValueError, match=r"sb has shape \(136, 3\); wanted .*= \(2, 3\)"):
            deep_gemm.fp8_gemm_nt(a, b, d, **said)
    with pytest.raises(TypeError, match=r"the pair \(b, sb\) is one tensor"):
        deep_gemm.fp8_gemm_nt(a, b[0], d, recipe=(1, 1, 128))
    assert d.isnan().all()


RESULTS = [
    (torch.zeros(M, N).bfloat16(), None, TypeError, "d has dtype torch.bfloat16; wanted torch.float32"),
    (None, None, TypeError, "d is None; wanted a tensor"),
    (torch.zeros(M, N), torch.zeros(M, N).bfloat16(), TypeError, "c has dtype torch.bfloat16; wanted"),
    (torch.zeros(M, N), torch.zeros(N), ValueError, r"c is torch.float32 of shape \(136,\)"),
    (torch.zeros(M, N), torch.zeros(M, N, device="meta"), ValueError, "on meta, d .*wanted the same"),
    (torch.zeros(M, N), 1.0, TypeError, "c is a builtins.float; wanted a tensor"),
    (torch.zeros(M + 1, N), None, ValueError, "out has shape"),
]


@pytest.mark.parametrize(("d", "c", "error", "words"), RESULTS, ids=range(len(RESULTS)))
def test_results_that_are_refused(d: Any, c: Any, error: type[Exception], words: str) -> None:
    before = None if d is None else d.clone()
    with pytest.raises(error, match=words):
        deep_gemm.fp8_gemm_nt(rows(M), rows(N), d, c, recipe=(1, 1, 128))
    assert d is None or torch.equal(d, before)


def test_a_refused_product_leaves_the_result_as_it_was() -> None:
    d = torch.full((M, N), torch.nan)
    (a, sa), b = rows(M), rows(N)
    with pytest.raises(TypeError, match="a has dtype"):
        deep_gemm.fp8_gemm_nt((a.float(), sa), b, d, torch.zeros(M, N), recipe=(1, 1, 128))
    assert d.isnan().all()


# Groups along K


def layout(ks: list[int]) -> Tensor:
    return torch.tensor(ks, dtype=torch.int32)


def grouped(count: int, ks: list[int], operands: str) -> tuple[Pair, list[Pair]]:
    """Tokens by groups, in a layout of the two, and each group's as `[count, k]`."""
    each = [rows(count, k) for k in ks]
    scales = torch.cat([s.T for _, s in each]).contiguous()
    if operands == "tn":
        return (torch.cat([x.view(torch.uint8).T for x, _ in each]).view(each[0][0].dtype), scales), each
    return (
        torch.cat([x.view(torch.uint8).flatten() for x, _ in each]).view(each[0][0].dtype),
        scales.T,
    ), each


def products(of_a: list[Pair], of_b: list[Pair]) -> Tensor:
    return torch.stack([exact(a) @ exact(b).T for a, b in zip(of_a, of_b, strict=True)])


@pytest.mark.parametrize("ks", [KS, [128], [0, 0], (0, 128)], ids=str)
@pytest.mark.parametrize("operands", ["nt", "tn"])
def test_products_of_groups(operands: str, ks: Any) -> None:
    (a, of_a), (b, of_b) = grouped(M, list(ks), operands), grouped(N, list(ks), operands)
    wanted, c = products(of_a, of_b), torch.randn(len(ks), M, N) * 32
    function = getattr(deep_gemm, f"k_grouped_fp8_gemm_{operands}_contiguous")
    for added in (None, c, "d", "its view"):
        d, check = poisoned(len(ks) * M, N, torch.float32)
        d = d.view(len(ks), M, N)
        given = {"d": d, "its view": d.view_as(d)}.get(added, c) if isinstance(added, str) else added
        if isinstance(added, str):
            d.copy_(c)
        assert (
            function(a, b, d, ks, layout(list(ks)), given, recipe=(1, 1, 128), use_psum_layout=False) is None
        )
        check()
        assert_close(d, wanted if added is None else wanted + c, max(ks))
        assert all(bool((d[i] == (0 if added is None else c[i])).all()) for i, k in enumerate(ks) if not k)


@pytest.mark.parametrize("operands", ["nt", "tn"])
@pytest.mark.parametrize("m", [M, 4, 3, 1])
def test_scales_are_loaded_as_they_are_or_copied_once(
    operands: str, m: int, launched: list[tuple[Pair, Pair]]
) -> None:
    (a, _), (b, _) = grouped(m, KS, operands), grouped(N, KS, operands)
    function = getattr(deep_gemm, f"k_grouped_fp8_gemm_{operands}_contiguous")
    function(a, b, torch.zeros(len(KS), m, N), KS, layout(KS))
    assert len(launched) == len(KS)
    for of_a, of_b in launched:
        for scales in (of_a[1], of_b[1]):
            assert scales.stride(0) == 1
            assert scales.stride(1) % 4 == 0
    starts = {scales[1].untyped_storage().data_ptr() for pairs in launched for scales in pairs}
    assert len(starts) == 2
    assert (a[1].untyped_storage().data_ptr() in starts) is (m % 4 == 0)
    assert b[1].untyped_storage().data_ptr() in starts


@pytest.mark.parametrize(
    "strided", [Tensor.contiguous, lambda s: torch.cat([s.T, s.T])[: s.shape[1]].T, lambda s: s * 1]
)
def test_scales_of_any_strides(strided: Callable[[Tensor], Tensor]) -> None:
    ((a, sa), of_a), ((b, sb), of_b) = grouped(M, KS, "nt"), grouped(N, KS, "nt")
    d = torch.full((len(KS), M, N), torch.nan)
    deep_gemm.k_grouped_fp8_gemm_nt_contiguous((a, strided(sa)), (b, strided(sb)), d, KS, layout(KS))
    assert_close(d, products(of_a, of_b), max(KS))


def test_tokens_may_be_aligned_to_less() -> None:
    """A last block of a group is shorter then, and its scale a row of its own."""
    ks = [160, 32, 0, 128]
    (a, of_a), (b, of_b) = grouped(M, ks, "tn"), grouped(N, ks, "tn")
    d = torch.full((len(ks), M, N), torch.nan)
    with pytest.raises(ValueError, match="wanted a multiple of 128"):
        deep_gemm.k_grouped_fp8_gemm_tn_contiguous(a, b, d, ks, layout(ks))
    deep_gemm.set_mk_alignment_for_contiguous_layout(32)
    deep_gemm.k_grouped_fp8_gemm_tn_contiguous(a, b, d, ks, layout(ks))
    assert_close(d, products(of_a, of_b), max(ks))
    deep_gemm.set_mk_alignment_for_contiguous_layout(8)
    with pytest.raises(ValueError, match="wanted a multiple of 16 for each group"):
        deep_gemm.k_grouped_fp8_gemm_tn_contiguous(a, b, d, [8], layout([8]))


@pytest.mark.parametrize("shape", [(0, N), (M, 0)])
@pytest.mark.parametrize("operands", ["nt", "tn"])
def test_groups_of_nothing(operands: str, shape: tuple[int, int]) -> None:
    (a, _), (b, _) = (grouped(count, KS, operands) for count in shape)
    d = torch.empty(len(KS), *shape)
    getattr(deep_gemm, f"k_grouped_fp8_gemm_{operands}_contiguous")(a, b, d, KS, layout(KS), d.clone())


def test_a_cast_by_channels_makes_tokens_as_they_are_taken() -> None:
    x, y = torch.randn(256, M), torch.randn(256, N)
    a, b = (deep_gemm.per_channel_cast_to_fp8(each, use_ue8m0=False) for each in (x, y))
    d = torch.full((1, M, N), torch.nan)
    deep_gemm.k_grouped_fp8_gemm_tn_contiguous(a, b, d, [256], layout([256]))
    assert deep_gemm.calc_diff(d[0], x.T @ y) < 1e-3


REFUSED: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "psum": ({"use_psum_layout": True}, NotImplementedError, "use_psum_layout=True"),
    "no ks": ({"ks_cpu": None}, ValueError, "ks_cpu is None; wanted a multiple of 128 for each"),
    "empty ks": ({"ks_cpu": []}, ValueError, r"ks_cpu is \[\]"),
    "negative": ({"ks_cpu": [384, -128, 128, 384]}, ValueError, "ks_cpu is .*wanted a multiple"),
    "unaligned": ({"ks_cpu": [256, 0, 64, 448]}, ValueError, "ks_cpu is .*wanted a multiple of 128"),
    "fractions": ({"ks_cpu": [256.0, 0, 128, 384]}, TypeError, "integer"),
    "another sum": ({"ks_cpu": [128, 0, 128, 384]}, ValueError, r"^a has shape .*by ks_cpu and d"),
    "groups": ({"ks_cpu": [256, 512]}, ValueError, r"d has shape .*wanted \[2, M, N\]"),
    "no layout": ({"grouped_layout": None}, TypeError, "grouped_layout is None"),
    "its dtype": ({"grouped_layout": layout(KS).long()}, TypeError, "grouped_layout is torch.int64"),
    "its length": ({"grouped_layout": layout(KS)[1:]}, ValueError, r"grouped_layout has shape \(3,\)"),
    "recipe": ({"recipe": (1, 128, 128)}, ValueError, r"recipe is \(1, 128, 128\); wanted \(1, 1, 128\)"),
    "fine recipe": ({"recipe": (1, 1, 32)}, ValueError, "the recipe says scales for"),
    "bf16 d": ({"d": torch.zeros(4, M, N).bfloat16()}, TypeError, "d has dtype torch.bfloat16"),
    "bf16 c": ({"c": torch.zeros(4, M, N).bfloat16()}, TypeError, "c has dtype torch.bfloat16"),
    "flat d": ({"d": torch.zeros(4 * M, N)}, ValueError, r"d has shape .*wanted \[4, M, N\]"),
    "c of one group": ({"c": torch.zeros(M, N)}, ValueError, "c is .*wanted the same of both"),
    "one tensor": ({"a": torch.zeros(1)}, TypeError, r"the pair \(a, sa\) is one tensor"),
    "no scales": ({"b": (torch.zeros(1), None)}, TypeError, "sb is None; wanted a tensor"),
}


@pytest.mark.parametrize("operands", ["nt", "tn"])
@pytest.mark.parametrize(("changed", "error", "words"), REFUSED.values(), ids=REFUSED)
def test_groups_that_are_refused(
    changed: dict[str, Any], error: type[Exception], words: str, operands: str
) -> None:
    (a, _), (b, _) = grouped(M, KS, operands), grouped(N, KS, operands)
    given = {"a": a, "b": b, "d": torch.zeros(4, M, N), "ks_cpu": KS, "grouped_layout": layout(KS)} | changed
    with pytest.raises(error, match=words):
        getattr(deep_gemm, f"k_grouped_fp8_gemm_{operands}_contiguous")(**given)
    assert not given["d"].any()


def test_operands_of_groups_that_are_refused() -> None:
    (((a, sa), _), (b, _)), ((tokens, s), _) = (
        (grouped(M, KS, "nt"), grouped(N, KS, "nt")),
        grouped(M, KS, "tn"),
    )
    d = torch.zeros(4, M, N)
    nt, tn = (getattr(deep_gemm, f"k_grouped_fp8_gemm_{each}_contiguous") for each in ("nt", "tn"))
    more = d, KS, layout(KS)
    for call, error, words in (
        (lambda: nt((a.view(-1, 2)[:, 0], sa), b, *more), ValueError, "a has shape .*contiguous, by ks_cpu"),
        (lambda: nt((a.repeat_interleave(2)[::2], sa), b, *more), ValueError, r"strides \(2,\); wanted"),
        (lambda: nt((a, sa.T), b, *more), ValueError, r"sa has shape .*wanted \(130, 6\), by ks_cpu and d"),
        (lambda: nt((a, sa.double()), b, *more), TypeError, "sa has dtype torch.float64"),
        (lambda: nt((a.float(), sa), b, *more), TypeError, "a has dtype torch.float32"),
        (lambda: tn((tokens.T, s), b, *more), ValueError, r"a has shape .*wanted \(768, 130\)"),
        (lambda: tn((tokens, s.T), b, *more), ValueError, r"sa has shape .*wanted \(6, 130\)"),
    ):
        with pytest.raises(error, match=words):
            call()
    assert not d.any()
