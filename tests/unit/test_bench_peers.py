"""Peers: what they are asked to compute, what they take, why they are missing, and how they are judged."""

import sys
from types import ModuleType

import pytest
import torch
from bench_rows import SMALL, kernels_interpreted

import cute_gemm
from cute_gemm.bench.peers import FAST_LIMIT, PROMOTED_LIMIT, cublas
from cute_gemm.bench.peers.deep_gemm import DeepGemm, operation_of
from cute_gemm.bench.peers.registry import PEERS, split_available
from cute_gemm.bench.peers.triton import Triton
from cute_gemm.measure import records
from cute_gemm.measure.cases import DenseCase, GroupedCase
from cute_gemm.measure.work import Work
from cute_gemm.plan.card import H100


@pytest.fixture(scope="module")
def dense():
    return DenseCase.make((130, 256, 512), "cpu")


@pytest.fixture
def grouped(monkeypatch):
    monkeypatch.setattr("cute_gemm.measure.cases._CAPACITY", 128)
    return {
        op: GroupedCase.make(op, SMALL["masked" if op == "m_grouped_masked" else "contiguous"], "cpu")
        for op in records.GROUPED
    }


def test_missing_peers_say_why(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(torch.version, "cuda", None)
    peers, notes = split_available(tuple(PEERS), PEERS)
    assert peers == []
    assert notes == [
        "cublas is not timed: this torch is built without CUDA",
        "triton is not timed: the package triton is not installed",
        "deep_gemm is not timed: the package deep_gemm is not installed",
        "deep_gemm_pdl is not timed: the package deep_gemm is not installed",
        "floor is not timed: this torch is built without CUDA",
        "copy is not timed: this torch is built without CUDA",
    ]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    peers, notes = split_available(["cublas", "torch"], PEERS)
    assert ([peer.name for peer in peers], notes) == (["cublas"], [])


def test_a_copy_moves_the_bytes_of_the_product_and_is_judged(dense):
    (call,) = PEERS["copy"].calls(dense)
    call()
    assert call.error() == 0.0
    moved = 2 * call.result.nbytes
    assert moved <= Work.of(dense.op, dense.shape).bytes_moved < moved + 8
    call.result[-1] += 1
    with pytest.raises(AssertionError, match="differs"):
        call.error()


# Judging


def test_a_judge_draws_the_line(dense):
    judge = cublas.judge_within(dense.error, PROMOTED_LIMIT)
    right = dense.product.bfloat16()
    assert 1e-6 < judge(right) < 2e-6
    for wrong in (torch.full_like(right, torch.nan), right * 1.01):
        with pytest.raises(AssertionError, match=r"the worst tile's error is .*, limit 1e-05"):
            judge(wrong)
    one_off = right.clone()
    one_off[3, 5] += dense.product.square().mean().sqrt()
    with pytest.raises(AssertionError):
        judge(one_off)


@pytest.mark.parametrize("op", ["m_grouped_contiguous", "m_grouped_masked"])
def test_grouped_errors_are_of_rows_with_a_group(op, grouped):
    case = grouped[op]
    right = case.ours("row_major", H100).run()
    padding = case.inputs.row_groups < 0
    assert padding.any()
    assert case.error(right.masked_fill(padding[..., None], 0)) < 2.5e-6
    last = (case.inputs.row_groups >= 0).nonzero()[-1]
    right[tuple(last)] = 0
    assert case.error(right) > 1e-3


# cuBLASLt


def test_cublas_is_given_what_each_recipe_wants(dense, grouped, monkeypatch):
    asked = []

    def scaled_mm(a, b, *, scale_a, scale_b, out_dtype, use_fast_accum=False):
        asked.append((scale_a.stride(), scale_b.stride(), use_fast_accum))
        unscaled = a.float() @ b.float()
        return (dense.product if scale_a.dim() else scale_a * unscaled * scale_b).to(out_dtype)

    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    fast, blockwise = PEERS["cublas"].calls(dense)
    for call in (fast, blockwise):
        call()
        assert call.error() < 2e-6
    # It is given no strides of scales, so columns of 130 follow each other without padding.
    assert asked == [((), (), True), ((1, 130), (1, 4), False)]
    assert (fast.peer, fast.scale_layout) == (records.FAST, None)
    assert (blockwise.peer, blockwise.scale_layout) == (records.BLOCKWISE, "m_major")
    assert [PEERS["cublas"].calls(case) for case in grouped.values()] == [[]] * 3


def test_tensorwise_errors_are_those_of_what_was_asked(dense):
    """With scales of 1; and with few bits of the sum, which would be an error beyond any other limit."""
    fast, _ = PEERS["cublas"].calls(dense)
    with pytest.raises(AssertionError):
        fast.judge(dense.product)
    product = dense.unscaled_product
    noise = torch.randn(product.shape, generator=torch.Generator().manual_seed(0), dtype=product.dtype)
    rms = product.square().mean().sqrt()
    assert PROMOTED_LIMIT < fast.judge(product + 0.01 * rms * noise) < FAST_LIMIT
    with pytest.raises(AssertionError):
        fast.judge(product + 0.1 * rms * noise)


def test_grouped_shapes_are_calibrated_by_what_bounds_them():
    assert cublas.calibration_shape((32, 20, 4096, 4096)) == (64, 7168, 16384)
    assert cublas.calibration_shape((4, 8192, 4096, 4096)) == (4096, 4096, 7168)


# DeepGEMM


NAMES = {
    "old": {
        "dense_1d2d": "gemm_fp8_fp8_bf16_nt",
        "m_grouped_contiguous": "m_grouped_gemm_fp8_fp8_bf16_nt_contiguous",
        "m_grouped_masked": "m_grouped_gemm_fp8_fp8_bf16_nt_masked",
    },
    "first of the new": {
        "dense_1d2d": "fp8_gemm_nt",
        "m_grouped_contiguous": "m_grouped_fp8_gemm_nt_contiguous",
        "m_grouped_masked": "fp8_m_grouped_gemm_nt_masked",
    },
    "new": {
        "dense_1d2d": "fp8_gemm_nt",
        "m_grouped_contiguous": "m_grouped_fp8_gemm_nt_contiguous",
        "m_grouped_masked": "m_grouped_fp8_gemm_nt_masked",
    },
}


@pytest.fixture
def deep_gemm(monkeypatch):
    """Installs a stand-in of some generation of the package's names."""

    def install(generation):
        module = ModuleType("deep_gemm")
        module.__version__ = "2.6.1"
        module.__spec__ = object()
        monkeypatch.setitem(sys.modules, "deep_gemm", module)
        asked = []

        def operation(op):
            def run(lhs, rhs, out, *grouping):
                asked.append((lhs[1].stride(), *grouping[1:]))
                if op == "dense_1d2d":
                    out.copy_(cute_gemm.fp8_gemm_nt(lhs, rhs))
                elif op == "m_grouped_masked":
                    cute_gemm.m_grouped_fp8_gemm_nt_masked(lhs, rhs, *grouping, out)
                else:
                    cute_gemm.m_grouped_fp8_gemm_nt_contiguous(lhs, rhs, *grouping, out)

            return run

        for op, name in NAMES[generation].items():
            setattr(module, name, operation(op))
        return asked

    return install


@pytest.mark.parametrize("generation", NAMES)
def test_deep_gemm_by_the_names_of_each_generation(generation, deep_gemm, dense, grouped):
    asked = deep_gemm(generation)
    peer = DeepGemm()
    assert peer.available() is None
    assert peer.versions() == {"deep_gemm": "2.6.1"}
    for case in (dense, grouped["m_grouped_contiguous"], grouped["m_grouped_masked"]):
        (call,) = peer.calls(case)
        call()
        assert call.error() < 2.5e-6
        assert (call.peer, call.scale_layout) == ("DeepGEMM", "m_major")
    # Columns of scales start on 16 bytes: 130 rows take the place of 132.
    assert asked == [((1, 132),), ((1, 512),), ((384, 1, 128), 20)]
    assert peer.calls(grouped["m_grouped_offsets"]) == []


def test_deep_gemm_of_unknown_names_is_refused(deep_gemm, dense, monkeypatch):
    deep_gemm("new")
    monkeypatch.delattr("deep_gemm.fp8_gemm_nt")
    with pytest.raises(NotImplementedError, match="none of fp8_gemm_nt, gemm_fp8_fp8_bf16_nt"):
        DeepGemm().calls(dense)


def test_deep_gemm_is_launched_as_asked_whatever_was_launched_before(deep_gemm, dense, monkeypatch):
    deep_gemm("new")
    asked = []
    monkeypatch.setattr("deep_gemm.set_pdl", asked.append, raising=False)
    (dependent,) = PEERS["deep_gemm_pdl"].calls(dense)
    (plain,) = PEERS["deep_gemm"].calls(dense)
    out = dense.poisoned_out()
    for call in (dependent, plain, dependent):
        call()
    operation_of(dense.op)(dense.lhs, dense.rhs, out)
    assert asked == [True, False, True, False]


def test_a_deep_gemm_that_cannot_be_imported_says_why(tmp_path, monkeypatch):
    (tmp_path / "deep_gemm.py").write_text("raise OSError('libcudart.so.12:\\n cannot open')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "deep_gemm", raising=False)
    assert DeepGemm().available() == "deep_gemm cannot be imported: libcudart.so.12: cannot open"


# Triton


def test_triton_is_asked_for_what_it_has(dense, grouped, monkeypatch):
    asked = []
    kernels = ModuleType("triton_kernels")
    kernels.multiply = lambda *arguments: asked.append(("dense", len(arguments)))
    kernels.multiply_groups = lambda *arguments: asked.append(("grouped", len(arguments)))
    monkeypatch.setitem(sys.modules, "cute_gemm.bench.peers.triton_kernels", kernels)
    monkeypatch.setattr("cute_gemm.bench.peers.triton_kernels", kernels, raising=False)
    for case in (dense, grouped["m_grouped_contiguous"]):
        (call,) = Triton().calls(case)
        call()
        assert call.result.isnan().all()
        assert call.peer == "Triton"
    assert asked == [("dense", 5), ("grouped", 6)]
    assert Triton().calls(grouped["m_grouped_offsets"]) == Triton().calls(grouped["m_grouped_masked"]) == []


_INTERPRET = """
import os
os.environ["TRITON_INTERPRET"] = "1"
from cute_gemm.measure.cases import DenseCase, GroupedCase
from cute_gemm.bench.peers import triton_kernels
from cute_gemm.testing import worst_tile_error

configs = list(triton_kernels._CONFIGS)
for config in configs:
    # With one there is nothing to tune, which needs a GPU.
    triton_kernels._dense.configs = triton_kernels._contiguous.configs = [config]
    for shape in [(1, 72, 144), (70, 136, 272), (600, 264, 128)]:
        case = DenseCase.make(shape, "cpu")
        out = case.poisoned_out().float()
        triton_kernels.multiply(*case.lhs, *case.rhs, out)
        assert worst_tile_error(out, case.product) < 1e-10, (config, shape)
    case = GroupedCase.make("m_grouped_contiguous", (3, 50, 136, 272), "cpu")
    out = case.poisoned_out().float()
    triton_kernels.multiply_groups(*case.lhs, *case.rhs, out, case.inputs.index)
    assert case.error(out) < 1e-10, config
    if config.kwargs["BLOCK_M"] == 64:
        assert out[64:128].isnan().all(), "a tile of padding was computed"
print(len(configs))
"""


@pytest.mark.thorough
def test_triton_kernels_are_right():
    assert kernels_interpreted(_INTERPRET) > 1
