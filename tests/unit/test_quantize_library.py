"""Quantising as ops of torch's dispatcher: compiled, exported and fake calls."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from levels import cases
from torch import Tensor
from torch import library as torch_library
from torch._dynamo.testing import CompileCounter
from torch._subclasses.fake_tensor import FakeTensorMode

import cute_gemm
from cute_gemm.quantize import library

# More rows than a block has: where there is one scale, torch compiles apart, as for M = 1.
X = torch.randn(272, 512, generator=torch.Generator().manual_seed(0)).bfloat16()
WEIGHT = X[0].clone()
INDEX = torch.tensor([3, -1, 15, 3], dtype=torch.int32)

MANY = torch.tensor([4096], dtype=torch.int32)
"""Rows of a group: as many as there are."""


def results(m: int = 272, k: int = 512) -> tuple[Tensor, Tensor]:
    return torch.zeros(m, k).to(torch.float8_e4m3fn), torch.zeros(m, -(-k // 128))


CALLS: dict[str, tuple[str, Callable[[Tensor], Any]]] = {
    "rows": ("quantize_1x128", lambda x: cute_gemm.quantize_1x128(x, m_major_scales=True)),
    "gathered": ("quantize_1x128", lambda x: cute_gemm.quantize_1x128(x, rows=INDEX.clamp(min=0))),
    "swiglu": ("quantize_1x128", lambda x: cute_gemm.swiglu_quantize_1x128(x, interleaved=True)),
    "blocks": ("quantize_128x128", lambda w: cute_gemm.quantize_128x128(w, power_of_two_scales=True)),
    "both ways": ("quantize_both_ways", lambda x: sum(cute_gemm.quantize_both_ways(x), ())),
    "both ways, M-major": (
        "quantize_both_ways",
        lambda x: sum(cute_gemm.quantize_both_ways(x, power_of_two_scales=True, m_major_scales=True), ()),
    ),
    "both ways of matrices": ("quantize_both_ways", lambda x: sum(cute_gemm.quantize_both_ways(x[None]), ())),
    "normed": ("rms_norm_quantize_1x128", lambda x: cute_gemm.rms_norm_quantize_1x128(x, WEIGHT, 1e-5)),
    "residual": (
        "add_rms_norm_quantize_1x128",
        lambda x: cute_gemm.rms_norm_quantize_1x128(x, WEIGHT, residual=x * 2),
    ),
    "normed, gathered": (
        "rms_norm_quantize_1x128",
        lambda x: cute_gemm.rms_norm_quantize_1x128(x, WEIGHT, rows=INDEX.clamp(min=0), m_major_scales=True),
    ),
    "normed, all of a group": (
        "rms_norm_quantize_1x128",
        lambda x: cute_gemm.rms_norm_quantize_1x128(x[None], WEIGHT, valid_rows=MANY),
    ),
    "residual, all of groups": (
        "add_rms_norm_quantize_1x128",
        lambda x: cute_gemm.rms_norm_quantize_1x128(x, WEIGHT, residual=x * 2, offsets=MANY, alignment=1),
    ),
}
every_call = pytest.mark.parametrize(("op", "call"), CALLS.values(), ids=CALLS)


def all_same(got: Any, want: Any) -> bool:
    return all(
        torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
        for a, b in zip(got, want, strict=True)
    )


class Seen(torch.utils._python_dispatch.TorchDispatchMode):
    """The ops of this package that pass the dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == library.NAMESPACE:
            self.names.append(func._opname)
        return func(*args, **(kwargs or {}))


def test_every_op_has_the_schema_that_the_documentation_shows() -> None:
    shown = " ".join((Path(__file__).parents[2] / "docs" / "torch_compile.md").read_text().split())
    for name, schema in library.SCHEMAS.items():
        op = getattr(torch.ops.cute_gemm, name).default
        assert str(op._schema).replace('"', "'") == f"cute_gemm::{name}{schema}"
        assert f" {name}{schema} " in shown


@every_call
def test_a_caller_is_compiled_whole_with_the_same_bits(op: str, call: Callable[[Tensor], Any]) -> None:
    ops = []

    def backend(graph: Any, inputs: Any) -> Any:
        ops.extend(node.target for node in graph.graph.nodes if "cute_gemm" in str(node.target))
        return graph.forward

    torch._dynamo.reset()
    got = torch.compile(call, fullgraph=True, backend=backend)(X)
    assert all_same(got, call(X))
    assert [each._opname for each in ops] == [op]


@pytest.mark.parametrize("call", cases(CALLS, usual=[*CALLS][::4]))
def test_a_new_m_compiles_nothing_anew(call: str) -> None:
    _, run = CALLS[call]
    torch._dynamo.reset()
    counter = CompileCounter()
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=counter)
    for m in (144, 160, 272):
        x = X[:m]
        assert all_same(compiled(x), run(x))
    assert counter.frame_count == 1


@every_call
def test_an_eager_call_is_no_op(op: str, call: Callable[[Tensor], Any]) -> None:
    with Seen() as seen:
        call(X)
    assert seen.names == []


@every_call
def test_fake_tensors_have_what_there_will_be(op: str, call: Callable[[Tensor], Any]) -> None:
    want = call(X)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        got = call(mode.from_tensor(X))
    for made, real in zip(got, want, strict=True):
        assert made.shape == real.shape
        assert made.dtype == real.dtype
        assert made.stride() == real.stride()


@every_call
def test_a_program_is_exported(op: str, call: Callable[[Tensor], Any]) -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor) -> Any:
            return call(x)

    m = torch.export.Dim("m", min=129, max=4096)
    program = torch.export.export(Module(), (X,), dynamic_shapes={"x": {0: m}})
    x = X[:144]
    assert all_same(program.module()(x), call(x))


def test_given_results_are_mutated_in_compiled_code() -> None:
    def caller(x: Tensor, q: Tensor, s: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        made = cute_gemm.quantize_1x128(x, out=q, scales_out=s)
        other = cute_gemm.rms_norm_quantize_1x128(x, WEIGHT, residual=residual, out=None)
        cute_gemm.quantize_128x128(x, scales_out=s[:3])
        return made[0], other[1]

    torch._dynamo.reset()
    compiled = [
        functools.partial(torch.compile, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        for dynamic in (None, True)
    ]
    for compile_ in (lambda f: f, *compiled):
        (q, s), residual = results(), X.clone()
        made, other = compile_(caller)(X, q, s, residual)
        assert made is q
        want = cute_gemm.quantize_1x128(X)
        assert all_same((q, s[3:]), (want[0], want[1][3:]))
        assert torch.equal(s[:3], cute_gemm.quantize_128x128(X)[1])
        assert torch.equal(residual, (X.float() * 2).bfloat16())
        assert torch.equal(other, cute_gemm.rms_norm_quantize_1x128(residual, WEIGHT)[1])


def test_given_results_of_both_ways_are_mutated_in_compiled_code() -> None:
    def caller(x: Tensor, q: Tensor, s: Tensor, q_t: Tensor, s_t: Tensor) -> tuple[Tensor, ...]:
        along_k, along_m = cute_gemm.quantize_both_ways(x, out=q, scales_out=s, out_t=q_t, scales_out_t=s_t)
        other = cute_gemm.quantize_both_ways(x, scales_out_t=s_t)
        return (*along_k, *along_m, other[1][0])

    want = sum(cute_gemm.quantize_both_ways(X), ())
    torch._dynamo.reset()
    for dynamic in (None, True):
        compiled = torch.compile(caller, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        given = *results(), *results(512, 272)
        *made, other = compiled(X, *given)
        assert all(a is b for a, b in zip(made, given, strict=True))
        assert all_same(given, want)
        assert all_same([other], want[2:3])


def test_given_results_of_selected_rows_are_mutated_in_compiled_code() -> None:
    def caller(
        x: Tensor, q: Tensor, s: Tensor, residual: Tensor, ends: Tensor, groups: Tensor
    ) -> tuple[Tensor, Tensor]:
        named = {"out": q, "scales_out": s}
        cute_gemm.quantize_1x128(x, group_index=groups, **named)
        return cute_gemm.rms_norm_quantize_1x128(
            x, WEIGHT, residual=residual, offsets=ends, alignment=16, **named
        )

    ends, groups = torch.tensor([5, 40, 41], dtype=torch.int32), torch.full((272,), -1, dtype=torch.int32)
    groups[8] = 0
    torch._dynamo.reset()
    found = []
    for call in (caller, torch.compile(caller, fullgraph=True, backend="aot_eager")):
        (q, s), residual = results(), X.clone()
        assert call(X, q, s, residual, ends, groups)[1] is s
        assert torch.equal(residual[5:16], X[5:16])
        assert s.count_nonzero(1).bool().sum() == 5 + 1 + 24
        found.append((q, s, residual))
    assert all_same(*found)


def test_rules_hold_for_ops() -> None:
    op = torch.ops.cute_gemm.quantize_1x128
    with pytest.raises(TypeError, match=r"x has dtype torch\.float64; wanted"):
        op(X.double())
    with pytest.raises(ValueError, match="rows and offsets are given"):
        op(X, rows=INDEX, offsets=INDEX)
    with pytest.raises(ValueError, match=r"x is used inside a transform of torch\.func"):
        torch.func.vmap(lambda x: op(x)[1])(X[None])
    parameter = torch.nn.Parameter(X)
    with pytest.raises(ValueError, match="x requires a gradient"):
        op(parameter)
    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match="wanted gate and up, a multiple of 16"):
        torch.compile(
            lambda x: cute_gemm.swiglu_quantize_1x128(x, interleaved=True), fullgraph=True, backend="eager"
        )(X[:, :24])


def arguments_of(name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What an op may be called with."""
    arguments: tuple[Any, ...] = (X.clone(),)
    named: dict[str, Any] = {"power_of_two_scales": True}
    if "rms_norm" in name:
        arguments += (WEIGHT, 1e-6)
        arguments += (X * 2,) if name.startswith("add") else ()
    if name.endswith("_out"):
        q, s = results()
        arguments += (q, s[:3] if "128x128" in name else s)
        arguments += results(512, 272) if "both_ways" in name else ()
    if name == "quantize_1x128":
        named["rows"] = INDEX.clamp(min=0)
    if name == "rms_norm_quantize_1x128":
        named |= {"offsets": MANY, "alignment": 1}
    if name == "add_rms_norm_quantize_1x128":
        named["group_index"] = torch.zeros(len(X), dtype=torch.int32)
    return arguments, named


@pytest.mark.parametrize("name", library.SCHEMAS)
def test_opcheck(name: str) -> None:
    op = getattr(torch.ops.cute_gemm, name).default
    arguments, named = arguments_of(name)
    # The first compares what is mutated by an addition, which e4m3 has not.
    utilities = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch_library.opcheck(op, arguments, named, test_utils=utilities[name.endswith("_out") :])


@pytest.mark.parametrize("name", cases(library.SCHEMAS, usual=[*library.SCHEMAS][::4]))
def test_no_op_is_found_within_its_own_computation(name: str) -> None:
    """Where Dynamo gave up what called an op, it comes to what the op runs."""
    op = getattr(torch.ops.cute_gemm, name).default
    inside: list[str] = []

    def backend(graph: Any, inputs: Any) -> Any:
        inside.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    def call() -> tuple[Any, ...]:
        arguments, named = arguments_of(name)
        made = apart(arguments, named)
        return tuple(made or arguments[1:])

    apart = torch.compiler.disable(lambda arguments, named: op(*arguments, **named), recursive=False)
    want = call()
    torch._dynamo.reset()
    made = torch.compile(call, backend=backend)()
    assert [each for each in inside if "cute_gemm" in each] == []
    assert inside, "Dynamo came by nothing"
    tensors = [[each for each in one if isinstance(each, Tensor)] for one in (made, want)]
    assert all_same(*tensors)
