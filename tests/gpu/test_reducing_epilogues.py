"""Epilogues that reduce over columns in kernels: bits, rows at the edges of groups, and what stays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from kinds import kinds
from tensors import FLAGS, bits, m_major_amid_nans, semaphore
from test_values import Case, Inputs, inputs_of
from torch import Tensor
from torch.nn import functional

from cute_gemm import (
    config,
    dequantize_1x128,
    epilogue,
    fp8_gemm_nt,
    interleave_gate_up,
    m_grouped_fp8_gemm_nt_contiguous,
    m_grouped_fp8_gemm_nt_masked,
    m_grouped_fp8_gemm_nt_offsets,
    m_major,
    quantize_1x128,
    quantize_128x128,
    runtime,
)
from cute_gemm.plan.candidates import every_reducing_config
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import DENSE
from cute_gemm.reference import dequantized_product, term_magnitudes
from cute_gemm.runtime import epilogued
from cute_gemm.testing import (
    INPUT_KINDS,
    GroupedInputs,
    make_contiguous_inputs,
    make_inputs,
    make_masked_inputs,
    make_offsets_inputs,
    poisoned,
    poisoned_rows,
)

E4M3 = torch.float8_e4m3fn
QUANTIZE = epilogue.quantize_1x128()


@epilogue.gated
def product(gate: Any, up: Any) -> Any:
    """Rounded once, so that torch has the same bits."""
    return gate * up


def in_turns(x: Tensor, turn: int = 8) -> tuple[Tensor, Tensor]:
    gate, up = x.unflatten(-1, (-1, 2, turn)).unbind(-2)
    return gate.flatten(-2), up.flatten(-2)


def scale_blocks(columns: int) -> int:
    return -(-columns // 128)


# Each kind of kernel by itself, of sums that are exact

# Ragged tiles, groups that are empty, or end within a tile, a fragment and eight rows of it; several tiles
# for a CTA; a last block of scales of fewer columns.
SIZES = {True: (300,), False: (64, 0, 200, 7, 1, 130)}


def launched(
    of: KernelConfig, made: epilogue.Epilogue, inputs: Inputs, out: Tensor, *behind: Any, num_sms: int = 132
) -> None:
    applied = made.applied
    kernel = runtime.instance(epilogued.program(of, applied, list(applied.operands)))
    address = semaphore().data_ptr()
    kernel(*inputs.operands, out, num_sms, FLAGS, address, 0, *inputs.grouping, *applied.operands, *behind)
    assert not semaphore().any()


@pytest.mark.parametrize("of", kinds(every_reducing_config()), ids=lambda of: of.name)
@pytest.mark.parametrize("n", [672, 512, 32])
def test_each_kind_of_kernel_gives_the_bits_of_torch(of: KernelConfig, n: int) -> None:
    # A CTA that shares k-blocks has one at least.
    inputs = inputs_of(
        Case(of, SIZES[of.layout is DENSE], n, 528 if of.splits == 1 else 128 * of.splits + 16)
    )
    is_written = inputs.row_groups >= 0
    sums = inputs.sums.float()
    turn = 128 if of.is_quantized and of.scale_ctas == 1 and n % 256 == 0 else 8
    values = sums if of.narrowing == 1 else torch.mul(*in_turns(sums, turn))
    made = epilogue.Epilogue() if of.narrowing == 1 else product(turn=turn)
    columns = values.shape[-1]
    if not of.is_quantized:
        dtype = getattr(torch, of.out_dtype)
        out, check = poisoned_rows(is_written, columns, dtype)
        launched(of, made, inputs, out)
        check()
        assert torch.equal(bits(out[is_written]), bits(values[is_written].to(dtype)))
        return
    for power_of_two in (False, True):
        want_q, want_s = quantize_1x128(values[is_written], power_of_two_scales=power_of_two)
        # CTAs that meet do so tile after tile: any two of them may be ahead.
        repeats = 1 if of.scale_ctas == 1 else 5
        for num_sms in (132, of.cluster_size, 3 * of.cluster_size, 132) * repeats:
            q, check_q = poisoned_rows(is_written, columns, E4M3)
            s, check_s = poisoned_rows(is_written, scale_blocks(columns), torch.float32, pad_cols=5)
            quantize = epilogue.quantize_1x128(power_of_two_scales=power_of_two)
            launched(of, made | quantize, inputs, q, s, columns, num_sms=num_sms)
            check_q()
            check_s()
            assert torch.equal(s[is_written], want_s)
            assert torch.equal(bits(q)[is_written], bits(want_q))


# Operations

SHAPES = [
    (1, 4096, 7168),
    (8, 544, 272),
    (65, 288, 1040),
    (130, 4096, 528),
    (300, 2048, 2064),
    (2000, 4096, 512),
]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda")


def chains(m: int, n: int) -> dict[str, epilogue.Epilogue]:
    return {
        "nothing": epilogue.Epilogue(),
        "swiglu": epilogue.swiglu(),
        "limit": epilogue.swiglu(0.75),
        "bias_silu": epilogue.bias_silu(normal(n)),
        "chain": epilogue.bias(normal(n)) | epilogue.swiglu() | epilogue.row_weights(normal(m)),
        "residual": epilogue.residual(normal(m, n).bfloat16()) | product(),
    }


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_fp32_value_is_quantised(shape: tuple[int, int, int]) -> None:
    """Bit for bit as the quantiser does it, of what the same epilogue stores in FP32; the same every time."""
    m, n, _ = shape
    lhs, rhs = make_inputs(*shape, device="cuda")
    # Without it k-blocks may be shared out, and sums added in one order here, in another there.
    with config(batch_invariant=True):
        for name, made in chains(m, n).items():
            values = fp8_gemm_nt(lhs, rhs, out_dtype=torch.float32, epilogue=made)
            columns = values.shape[-1]
            for power_of_two in (False, True):
                quantize = epilogue.quantize_1x128(power_of_two_scales=power_of_two)
                want_q, want_s = quantize_1x128(values, power_of_two_scales=power_of_two)
                q, check_q = poisoned(m, columns, E4M3, "cuda")
                s, check_s = poisoned(m, scale_blocks(columns), torch.float32, "cuda", pad_cols=5)
                assert fp8_gemm_nt(lhs, rhs, (q, s), epilogue=made | quantize)[0] is q
                check_q()
                check_s()
                assert torch.equal(s, want_s), name
                assert torch.equal(bits(q), bits(want_q)), name
    made = epilogue.swiglu() | epilogue.quantize_1x128(m_major_scales=True)
    runs = [fp8_gemm_nt(lhs, rhs, epilogue=made) for _ in range(20)]
    assert runs[0][1].stride(0) == 1
    for q, s in runs[1:]:
        assert torch.equal(bits(q), bits(runs[0][0]))
        assert torch.equal(s, runs[0][1])


@pytest.mark.parametrize("kind", INPUT_KINDS)
def test_adversarial_inputs(kind: str) -> None:
    m, n, k = 200, 1056, 784
    (a, sa), (b, sb) = make_inputs(m, n, k, kind, device="cuda")
    exact, slack = dequantized_product(a, sa, b, sb), 2**-8 * term_magnitudes(a, sa, b, sb)
    gate, up = in_turns(exact)
    of_gate, of_up = in_turns(slack)
    want = functional.silu(gate) * up
    error = of_gate * up.abs() * 1.1 + gate.abs() * of_up + of_gate * of_up
    for values, slack_of, made in ((exact, slack, epilogue.Epilogue()), (want, error, epilogue.swiglu())):
        q, s = fp8_gemm_nt((a, sa), (b, sb), epilogue=made | QUANTIZE)
        step = s.repeat_interleave(128, -1)[:, : q.shape[-1]].double()
        got = dequantize_1x128(q, s, torch.float64)
        # Half an ulp of e4m3, half a step of its subnormals, what sums err, and what silu does.
        allowed = 2**-4 * values.abs() + 2**-10 * step + 1.1 * slack_of + 2**-18 * values.abs() + 2**-126
        assert ((got - values).abs() <= allowed).all()


def test_what_is_not_finite_stays_in_its_blocks() -> None:
    (a, sa), (b, sb) = make_inputs(150, 544, 528, device="cuda")
    sa[3], sa[64], sa[149, 1] = torch.nan, torch.inf, -torch.inf
    bits(a)[7] = 0
    bits(b)[300, 5] = 0x7F  # a NaN in one row of B: in one column of each row
    q, s = fp8_gemm_nt((a, sa), (b, sb), epilogue=QUANTIZE)
    is_bad = torch.zeros(150, 5, dtype=torch.bool, device="cuda")
    is_bad[[3, 64, 149]] = True
    is_bad[:, 300 // 128] = True
    assert torch.equal(s.isnan(), is_bad)
    assert torch.equal(bits(q) == 0x7F, is_bad.repeat_interleave(128, 1)[:, :544])
    assert (s[7, [0, 1, 3, 4]] == 1).all()
    assert (bits(q)[7, :256] & 0x7F == 0).all()


GROUPS = (70, 0, 200, 1, 64, 130, 7)


def grouped(n: int, k: int) -> dict[str, tuple[Callable[..., Any], GroupedInputs, tuple[Any, ...]]]:
    of: dict[str, Any] = {"n": n, "k": k, "device": "cuda"}
    offsets = make_offsets_inputs(GROUPS, alignment=16, **of)
    return {
        "contiguous": (m_grouped_fp8_gemm_nt_contiguous, make_contiguous_inputs(GROUPS, **of), ()),
        "offsets": (m_grouped_fp8_gemm_nt_offsets, offsets, ()),
        "masked": (m_grouped_fp8_gemm_nt_masked, make_masked_inputs(GROUPS, 210, **of), (80,)),
    }


@pytest.mark.parametrize("staged", [False, True])
@pytest.mark.parametrize("n", [416, 4096])
@pytest.mark.parametrize("name", ["contiguous", "offsets", "masked"])
def test_groups(name: str, n: int, staged: bool) -> None:
    """Nothing is written of rows of no group, or beside them, neither values nor scales."""
    operation, given, count = grouped(n, 528)[name]
    options = {"alignment": 16} if name == "offsets" else {}
    (a, sa), is_written = given.lhs, given.row_groups >= 0
    lhs = a, m_major_amid_nans(sa) if staged else sa
    bias = normal(len(GROUPS), n)
    for made in (QUANTIZE, epilogue.bias(bias) | epilogue.swiglu(1.5) | QUANTIZE):
        arguments = lhs, given.rhs, given.index, *count
        stages = epilogue.Epilogue(made.stages)
        values = operation(*arguments, out_dtype=torch.float32, epilogue=stages, **options)
        want_q, want_s = quantize_1x128(values[is_written])
        q, check_q = poisoned_rows(is_written, values.shape[-1], E4M3)
        s, check_s = poisoned_rows(is_written, want_s.shape[-1], torch.float32, pad_cols=3)
        for _ in range(20):
            operation(*arguments, (q, s), epilogue=made, **options)
            check_q()
            check_s()
            assert torch.equal(s[is_written], want_s)
            assert torch.equal(bits(q)[is_written], bits(want_q))


def test_half_the_columns_are_stored() -> None:
    for shape in SHAPES:
        lhs, rhs = make_inputs(*shape, device="cuda")
        with config(batch_invariant=True):
            sums = fp8_gemm_nt(lhs, rhs, out_dtype=torch.float32)
        for dtype in (torch.bfloat16, torch.float32):
            out, check = poisoned(shape[0], shape[1] // 2, dtype, "cuda")
            assert fp8_gemm_nt(lhs, rhs, out, epilogue=product()) is out
            check()
            assert torch.equal(bits(out), bits(torch.mul(*in_turns(sums)).to(dtype)))
            gate, up = in_turns(sums)
            got = fp8_gemm_nt(lhs, rhs, out_dtype=torch.float32, epilogue=epilogue.swiglu())
            torch.testing.assert_close(got, functional.silu(gate) * up, rtol=2**-12, atol=1e-30)


def test_a_layer_in_two_launches_and_in_a_graph() -> None:
    """Gate and up, SwiGLU and quantising, down: scales M-major, as the second product loads them by TMA."""
    tokens, hidden, inner = 300, 1024, 768
    x, gate, up = normal(tokens, hidden), normal(inner, hidden), normal(inner, hidden)
    down = quantize_128x128(normal(hidden, inner))
    lhs, both = quantize_1x128(x), quantize_128x128(interleave_gate_up(gate, up))
    made = epilogue.swiglu() | epilogue.quantize_1x128(power_of_two_scales=True)
    q = torch.empty(tokens, inner, dtype=E4M3, device="cuda")
    s = m_major(torch.empty(tokens, inner // 128, device="cuda"))
    y = torch.empty(tokens, hidden, device="cuda")

    def layer() -> None:
        fp8_gemm_nt(lhs, both, (q, s), epilogue=made)
        fp8_gemm_nt((q, s), down, y)

    layer()
    eager = y.clone()
    sums = dequantized_product(*lhs, *both)
    of_gate, of_up = in_turns(sums)
    inner_values = functional.silu(of_gate) * of_up
    want_q, want_s = quantize_1x128(inner_values.float(), power_of_two_scales=True)
    want = dequantized_product(want_q, want_s, *down)
    assert (y.double() - want).norm() < 2e-2 * want.norm()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        layer()
    for _ in range(3):
        y.fill_(torch.nan)
        bits(q).fill_(0xFF)
        s.fill_(torch.nan)
        graph.replay()
        assert torch.equal(y, eager)
