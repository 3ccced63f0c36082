"""Products as ops of torch's dispatcher: compiled whole, exported, of fake tensors; settings and refusals."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from calls import Arguments, arguments, every_layout
from compiling import HAS_COMPILER, Seen, compiled, grouping, tensors
from levels import cases
from restoring import restored
from torch import Tensor
from torch import library as torch_library
from torch._dynamo.testing import CompileCounterWithBackend
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad

import cute_gemm
from cute_gemm import reference, settings
from cute_gemm.ops import library
from cute_gemm.plan.layouts import DENSE, LAYOUTS, MASKED, OFFSETS, Layout
from cute_gemm.plan.recipe import FP8_1D1D
from cute_gemm.runtime import torch_internals
from cute_gemm.testing import make_inputs
from examples import is_exhaustive

BACKENDS = ("eager", "aot_eager")
OPS = torch.ops.cute_gemm


def returning_of(layout: Layout) -> Any:
    return library.op(library.returning[layout.name])


def writing_of(layout: Layout) -> Any:
    return library.op(library.writing[layout.name])


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    with restored(torch.get_num_threads, torch.set_num_threads, 1):
        yield
    torch._dynamo.reset()


def validating(layout: Layout) -> dict[str, Any]:
    return {"validate": True} if layout.is_grouped else {}


def filling(layout: Layout) -> dict[str, Any]:
    return {"fill": 0} if layout.is_grouped else {}


def with_rows_of_no_group(given: Arguments) -> Arguments:
    """The same call, of which the last rows are no group's."""
    by_row = given.layout.index.axis == "M"
    index = torch.where(torch.arange(len(given.index)) < 2, given.index, -1) if by_row else given.index // 2
    return given.with_(index=index)


# The ops themselves


@pytest.fixture
def comparing_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """`opcheck` compares what it gave an op with a copy, which torch cannot do of FP8 numbers on the CPU."""
    compare = torch.allclose

    def allclose(x: Tensor, y: Tensor, **options: Any) -> bool:
        if x.dtype is torch.float8_e4m3fn:
            x, y = x.view(torch.uint8), y.view(torch.uint8)
        return compare(x, y, **options)

    monkeypatch.setattr(torch, "allclose", allclose)


@pytest.mark.usefixtures("comparing_bytes")
@pytest.mark.parametrize("m_major", [False, True])
@every_layout
def test_torch_finds_nothing_wrong_with_an_op(layout: Layout, m_major: bool) -> None:
    given = arguments(layout)
    if m_major:
        given = given.with_(sa=cute_gemm.m_major(given.sa))
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")
    checks += ("test_aot_dispatch_dynamic",)
    options = validating(layout) | filling(layout) | {"pdl": True, "num_sms": 3}
    returning = returning_of(layout)
    named = {"out_dtype": torch.float32, **options}
    torch_library.opcheck(returning, (*tensors(given), *grouping(given)), named, test_utils=checks)
    out = torch.zeros(*given.shape[:-1], given.shape[-1] + 8, dtype=torch.bfloat16)[..., : given.shape[-1]]
    writing = writing_of(layout)
    torch_library.opcheck(writing, (*tensors(given), out, *grouping(given)), options, test_utils=checks)


def test_opcheck_of_a_sum_that_is_added_to(comparing_bytes: None) -> None:
    lhs, rhs = make_inputs(130, 272, 400, recipe=FP8_1D1D)
    named = {"accumulate": True}
    torch_library.opcheck(library.op(library.writing["dense"]), (*lhs, *rhs, torch.ones(130, 272)), named)


def test_opcheck_would_see_an_undeclared_write(
    comparing_bytes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(call: Any) -> Tensor:
        call.a.view(torch.uint8).zero_()
        return torch.zeros(call.shape, dtype=call.out_dtype)

    monkeypatch.setattr(reference, "compute", compute)
    given = arguments(DENSE)
    with pytest.raises(torch.testing._internal.optests.OpCheckError, match="mutated"):
        torch_library.opcheck(OPS.fp8_gemm_nt, tensors(given), {"out_dtype": torch.float32})


@every_layout
def test_an_op_gives_what_the_operation_does(layout: Layout) -> None:
    given = arguments(layout)
    wanted = given.run(out_dtype=torch.float32)
    found = returning_of(layout)(*tensors(given), *grouping(given), out_dtype=torch.float32)
    assert torch.equal(found, wanted)
    out = given.new_out(torch.float32)
    version = out._version
    assert writing_of(layout)(*tensors(given), out, *grouping(given)) is None
    assert torch.equal(out, wanted)
    assert out._version > version


@every_layout
def test_an_eager_call_does_not_go_by_the_dispatcher(layout: Layout) -> None:
    given = arguments(layout)
    with Seen() as seen:
        given.run()
        given.run(given.new_out())
    assert seen.names == []
    ops = returning_of(layout), writing_of(layout)
    with Seen() as seen:
        ops[0](*tensors(given), *grouping(given), out_dtype=torch.float32)
        ops[1](*tensors(given), given.new_out(), *grouping(given))
    assert seen.names == [op._opname for op in ops]


def test_the_import_and_eager_calls_load_no_dynamo() -> None:
    program = """
import sys, torch
before = "torch._dynamo" in sys.modules
import cute_gemm
a, sa = cute_gemm.quantize_1x128(torch.ones(4, 128))
b, sb = cute_gemm.quantize_128x128(torch.ones(8, 128))
assert (cute_gemm.fp8_gemm_nt((a, sa), (b, sb)) == 128).all()
print(before or "torch._dynamo" not in sys.modules, torch.ops.cute_gemm.fp8_gemm_nt.default is not None)
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "True True"


# torch.compile


@pytest.mark.parametrize("backend", BACKENDS)
@every_layout
def test_a_caller_is_compiled_whole_with_the_same_bits(layout: Layout, backend: str) -> None:
    given = arguments(layout)

    def caller(given_out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        made = given.run(out_dtype=torch.float32, **validating(layout))
        within = torch.zeros_like(given_out)
        assert given.run(within) is within
        return made * 2, within, given.run(given_out)

    out = given.new_out()
    made, within, returned = compiled(caller, backend)(out)
    assert returned is out
    assert torch.equal(made, given.run(out_dtype=torch.float32) * 2)
    assert torch.equal(out, given.run())
    assert torch.equal(within, out)


@pytest.mark.skipif(not HAS_COMPILER, reason="Inductor needs a C++ compiler")
def test_inductor_keeps_strides_and_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of scales that are M-major, and of rows further apart: else other kernels would run, or none."""
    if not is_exhaustive():
        pytest.skip("it takes half a minute; --exhaustive runs it")
    strides: list[tuple[tuple[int, ...], ...]] = []
    compute = reference.compute

    def noting(call: Any) -> Tensor:
        strides.append(tuple(x.stride() for x in (call.a, call.sa, call.out)))
        return compute(call)

    # As many rows as M-major scales have without padding: then what is made of them is M-major, too.
    every = [arguments(layout, rows=8) for layout in (DENSE, MASKED)]
    every = [given.with_(sa=cute_gemm.m_major(given.sa)) for given in every]

    def caller(every_sa: list[Tensor], every_out: list[Tensor]) -> list[Tensor]:
        results = []
        for given, sa, out in zip(every, every_sa, every_out, strict=True):
            scales = sa * 2.0
            assert scales.stride(-2) == 1
            a = torch.nn.functional.pad(given.a.view(torch.uint8), (0, 16))[..., :-16].view(given.a.dtype)
            room = torch.nn.functional.pad(out, (0, 8)) + 1.0
            results.append(given.with_(a=a, sa=scales).run(room[..., :-8]))
        return results

    wanted = caller([x.sa for x in every], [x.new_out() for x in every])
    wanted_strides = strides
    monkeypatch.setattr(reference, "compute", noting)
    caller([x.sa for x in every], [x.new_out() for x in every])
    wanted_strides, strides = strides, []
    # What is kept on disk is not known by the tags of ops.
    with torch._inductor.config.patch({"force_disable_caches": True, "cpp.simdlen": 1}):
        found = compiled(caller, "inductor")([x.sa for x in every], [x.new_out() for x in every])
    assert strides == wanted_strides
    assert all(torch.equal(x, y) for x, y in zip(found, wanted, strict=True))


ROWS = (130, 7, 128, 2, 64, 5)


@pytest.mark.parametrize("how", cases(["dynamic=True", "mark_dynamic", "by itself"], usual=["by itself"]))
@every_layout
def test_a_new_m_compiles_nothing_anew(layout: Layout, how: str) -> None:
    counter = CompileCounterWithBackend("aot_eager")

    def caller(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, index: Tensor | None, out: Tensor) -> Tensor:
        given = Arguments(layout, a, sa, b, sb, index, count)
        return given.run(out) + given.run(**validating(layout))

    run = torch.compile(caller, backend=counter, fullgraph=True, dynamic=how == "dynamic=True" or None)
    counts = []
    for rows in ROWS:
        given = arguments(layout, rows=rows)
        count = given.count
        out = given.new_out()
        if how == "mark_dynamic":
            for x in (given.a, given.sa, out):
                torch._dynamo.mark_dynamic(x, x.dim() - 2)
            if layout.index is not None and layout.index.axis == "M":
                torch._dynamo.mark_dynamic(given.index, 0)
        result = run(*tensors(given), given.index, out)
        assert torch.equal(result, given.run() * 2)
        assert torch.equal(out, given.run())
        counts.append(counter.frame_count)
    first = 1 if how != "by itself" else 2
    assert counts == [1, *[first] * (len(ROWS) - 1)]
    one = arguments(layout, rows=1)
    assert torch.equal(run(*tensors(one), one.index, one.new_out()), one.run() * 2)
    assert counter.frame_count <= first + 1


@pytest.mark.parametrize("layout", [OFFSETS, MASKED], ids=lambda layout: layout.name)
def test_a_new_count_compiles_once_more_at_most(layout: Layout) -> None:
    given = arguments(layout)
    counter = CompileCounterWithBackend("aot_eager")
    run = torch.compile(lambda count: given.with_(count=count).run(), backend=counter, fullgraph=True)
    for count in (1, 2, 3, 5, 8):
        assert torch.equal(run(count), given.with_(count=count).run())
    assert counter.frame_count <= 2


def test_a_function_of_autograd_that_multiplies_both_ways_is_compiled_whole() -> None:
    class Linear(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
            ctx.save_for_backward(w)
            quantised = cute_gemm.quantize_1x128(x), cute_gemm.quantize_128x128(w)
            return cute_gemm.fp8_gemm_nt(*quantised, out_dtype=torch.float32)

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
            (w,) = ctx.saved_tensors
            quantised = cute_gemm.quantize_1x128(gradient), cute_gemm.quantize_128x128(w.t().contiguous())
            return cute_gemm.fp8_gemm_nt(*quantised, out_dtype=torch.float32), None

    def loss(x: Tensor, w: Tensor) -> Tensor:
        return Linear.apply(x, w).square().sum()

    def gradient(function: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        x, w = (torch.randn(n, 48, generator=torch.Generator().manual_seed(n)) for n in (7, 32))
        x.requires_grad_()
        function(x, w).backward()
        assert x.grad is not None
        return x.grad

    for backend in BACKENDS:
        torch._dynamo.reset()
        assert torch.equal(gradient(compiled(loss, backend)), gradient(loss))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_around_and_inside_changes_nothing(dtype: torch.dtype, backend: str) -> None:
    given = arguments(DENSE)
    wanted = given.run(out_dtype=torch.float32)

    def caller() -> Tensor:
        with torch.autocast("cpu", dtype):
            return given.run(out_dtype=torch.float32)

    assert torch.equal(compiled(caller, backend)(), wanted)
    with torch.autocast("cpu", dtype):
        assert torch.equal(compiled(lambda: given.run(out_dtype=torch.float32), backend)(), wanted)


@pytest.mark.parametrize("give_out", [False, True])
@pytest.mark.parametrize("layout", [x for x in LAYOUTS.values() if x.is_grouped], ids=lambda x: x.name)
def test_what_an_index_holds_is_validated_by_the_call(layout: Layout, give_out: bool) -> None:
    given = arguments(layout)

    def caller(index: Tensor) -> Tensor:
        out = given.new_out() if give_out else None
        return given.with_(index=index).run(out, validate=True)

    run = compiled(caller)
    assert torch.equal(run(given.index), given.run())
    assert given.index is not None
    with pytest.raises(ValueError, match=f"^{layout.index.name} holds 99 "):
        run(torch.full_like(given.index, 99))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", [x for x in LAYOUTS.values() if x.is_grouped], ids=lambda x: x.name)
def test_rows_of_no_group_are_filled_in_compiled_code_too(layout: Layout, backend: str) -> None:
    given = with_rows_of_no_group(arguments(layout))
    poison = torch.full(given.shape, torch.nan)

    def caller(index: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        now = given.with_(index=index)
        return now.run(out, fill=0), now.run(out_dtype=torch.float32, fill=0) + 0.0

    for found in compiled(caller, backend)(given.index, poison.clone()):
        wanted = given.run(poison.clone())
        assert wanted.isnan().any()
        assert torch.equal(found, wanted.nan_to_num(0))


@pytest.mark.parametrize("fill", [1, -3])
def test_a_fill_that_is_not_zero_is_refused_while_code_is_compiled(fill: int) -> None:
    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match=f"fill is {fill}; wanted 0"):
        compiled(lambda: GROUPED.run(fill=fill))()


# torch.export


class Product(torch.nn.Module):
    def __init__(self, given: Arguments) -> None:
        super().__init__()
        self.given = given
        self.register_buffer("b", given.b)
        self.register_buffer("sb", given.sb)

    def forward(self, a: Tensor, sa: Tensor, index: Tensor | None) -> tuple[Tensor, Tensor]:
        given = Arguments(self.given.layout, a, sa, self.b, self.sb, index, self.given.count)
        with cute_gemm.config(batch_invariant=True):
            made = given.run(out_dtype=torch.float32)
        return made, given.run(torch.zeros_like(made), **filling(given.layout))


@pytest.mark.parametrize("strict", cases([False, True], usual=[False]))
@every_layout
def test_an_exported_program_runs_for_any_m(layout: Layout, strict: bool) -> None:
    given = arguments(layout, rows=6)
    m = torch.export.Dim("m", min=2, max=4096)
    rows = {given.a.dim() - 2: m}
    index = {0: m} if layout.index is not None and layout.index.axis == "M" else None
    inputs = given.a, given.sa, given.index
    exported = torch.export.export(
        Product(given), inputs, dynamic_shapes={"a": rows, "sa": rows, "index": index}, strict=strict
    )
    kept = io.BytesIO()
    torch.export.save(exported, kept)
    kept.seek(0)
    program = torch.export.load(kept).module()
    for rows_now in (6, 130, 7):
        now = arguments(layout, rows=rows_now).with_(b=given.b, sb=given.sb)
        found = program(now.a, now.sa, now.index)
        assert all(torch.equal(x, now.run(out_dtype=torch.float32)) for x in found)
    targets = [node.target for node in exported.graph.nodes if node.op == "call_function"]
    assert [x for x in targets if x.namespace == library.NAMESPACE] == [
        returning_of(layout),
        writing_of(layout),
    ]


# Fake tensors


@every_layout
def test_fake_tensors_give_shapes_and_compute_nothing(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "compute", None)
    given = arguments(layout)
    with FakeTensorMode() as mode:
        a, sa, b, sb = (mode.from_tensor(x) for x in tensors(given))
        index = None if given.index is None else mode.from_tensor(given.index)
        fake = Arguments(layout, a, sa, b, sb, index, given.count)
        for dtype in (torch.bfloat16, torch.float32):
            result = fake.run(out_dtype=dtype, **validating(layout))
            assert isinstance(result, FakeTensor)
            assert (result.shape, result.dtype, result.device.type) == (given.shape, dtype, "cpu")
            assert fake.run(out_dtype=dtype, **filling(layout)).shape == given.shape
            assert result.is_contiguous()
            out = torch.empty(given.shape, dtype=dtype)
            assert fake.run(out) is out


def test_fake_tensors_on_a_gpu_need_none() -> None:
    given = arguments(DENSE)
    metas = [torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta") for x in tensors(given)]
    mode = FakeTensorMode()
    a, sa, b, sb = (FakeTensor(mode, x, torch.device("cuda:0")) for x in metas)
    with mode:
        result = cute_gemm.fp8_gemm_nt((a, sa), (b, sb))
    assert (result.shape, result.device) == (given.shape, torch.device("cuda:0"))


@pytest.mark.parametrize("place", range(4))
def test_a_fake_tensor_among_others_is_refused(place: int) -> None:
    operands = [*tensors(arguments(DENSE))]
    operands[place] = FakeTensorMode().from_tensor(operands[place])
    a, sa, b, sb = operands
    name = ("a", "sa", "b", "sb")[place]
    with pytest.raises(TypeError, match=rf"^{name} is a torch.*FakeTensor, a tensor subclass"):
        cute_gemm.fp8_gemm_nt((a, sa), (b, sb))


BROKEN: dict[str, tuple[str, Callable[[Arguments], Arguments]]] = {
    "scales of other rows": (r"^sa has shape \(3, 2\); wanted", lambda x: x.with_(sa=x.sa[:3])),
    "another K": (r"^b has shape .*so K = 128, but a has K = 144", lambda x: x.with_(b=x.b[..., :128])),
    "rank": (r"^a has 1 dimensions", lambda x: x.with_(a=x.a[0])),
    "K": (r"^a has shape .* wanted a multiple of 16", lambda x: x.with_(a=x.a[..., :143])),
    "N": (r"^b has shape .* wanted a multiple of 8", lambda x: x.with_(b=x.b[:15])),
    "dtype": (r"^a has dtype torch.uint8", lambda x: x.with_(a=x.a.view(torch.uint8))),
    "dtype of scales": (r"^sb has dtype torch.float64", lambda x: x.with_(sb=x.sb.double())),
}


@pytest.mark.parametrize("case", BROKEN)
def test_rules_on_shapes_and_dtypes_are_said_of_fake_tensors_and_where_code_is_compiled(case: str) -> None:
    says, break_it = BROKEN[case]
    given = break_it(arguments(DENSE))
    with pytest.raises((TypeError, ValueError), match=says):
        given.run()
    with FakeTensorMode() as mode:
        fakes = [mode.from_tensor(x) for x in tensors(given)]
        with pytest.raises((TypeError, ValueError), match=says):
            cute_gemm.fp8_gemm_nt((fakes[0], fakes[1]), (fakes[2], fakes[3]))
    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match=says[1:]):
        compiled(lambda: given.run())()


@pytest.mark.parametrize("m", [5, 6])
def test_sizes_that_are_not_known_are_judged_by_the_call(m: int) -> None:
    """No guard is installed for them, so the compiled code meets them."""
    given = arguments(DENSE, rows=6)
    run = compiled(lambda a, sa: given.with_(a=a, sa=sa).run())
    a, sa = given.a.clone(), given.sa.clone()
    torch._dynamo.mark_dynamic(a, 0)
    torch._dynamo.mark_dynamic(sa, 0)
    run(a, sa)
    with torch._dynamo.config.patch(error_on_recompile=True):
        run(given.a[:m], given.sa[:m])
        with pytest.raises(ValueError, match=rf"^sa has shape \(3, 2\); wanted .* = \({m}, 2\)"):
            run(given.a[:m], given.sa[:3])


# Settings


@pytest.fixture
def in_force(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int | None, bool, bool]]:
    """The settings that each product is computed with."""
    seen: list[tuple[int | None, bool, bool]] = []
    compute = reference.compute

    def noting(call: Any) -> Tensor:
        now = settings.current()
        seen.append((now.num_sms, now.batch_invariant, bool(now.pdl)))
        return compute(call)

    monkeypatch.setattr(reference, "compute", noting)
    return seen


GIVEN = arguments(DENSE)


def nested(x: Tensor) -> Tensor:
    with cute_gemm.config(num_sms=10, pdl=True):
        y = GIVEN.run()
        with cute_gemm.config(num_sms=None, batch_invariant=True):
            y = y + GIVEN.run()
        y = y + GIVEN.run()
    return x + y + GIVEN.run()


@cute_gemm.config(batch_invariant=True)
def decorated(x: Tensor) -> Tensor:
    return x + GIVEN.run()


def broken(x: Tensor) -> Tensor:
    with cute_gemm.config(num_sms=10):
        torch._dynamo.graph_break()
        y = x + GIVEN.run()
        torch._dynamo.graph_break()
        return y * GIVEN.run()


@torch.compiler.disable
def not_traced(x: Tensor) -> Tensor:
    return x + GIVEN.run()


def with_a_part_that_is_not_traced(x: Tensor) -> Tensor:
    with cute_gemm.config(num_sms=10):
        return not_traced(x) + GIVEN.run()


def made_before_a_break(x: Tensor) -> Tensor:
    scope = cute_gemm.config(num_sms=10)
    x = x + 1
    torch._dynamo.graph_break()
    with scope:
        return x + GIVEN.run()


USES = {
    nested: ([(10, False, True), (None, True, True), (10, False, True), (None, False, False)], True),
    decorated: ([(None, True, False)], True),
    broken: ([(10, False, False)] * 2, False),
    with_a_part_that_is_not_traced: ([(10, False, False)] * 2, False),
    made_before_a_break: ([(10, False, False)], False),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("function", USES, ids=lambda function: function.__name__)
def test_scopes_inside_of_compiled_code_hold_as_they_do_without(
    function: Callable[[Tensor], Tensor], backend: str, in_force: list[Any]
) -> None:
    wanted, whole = USES[function]
    run = torch.compile(function, backend=backend, fullgraph=whole)
    for _ in range(2):
        for each in (function, run):
            in_force.clear()
            each(torch.zeros(1))
            assert in_force == wanted
    assert settings.current() == settings.Settings()
    assert settings._traced_code.scopes == ()


@pytest.mark.parametrize("function", USES, ids=lambda function: function.__name__)
def test_a_scope_around_a_compiled_call_holds_for_what_no_scope_inside_says(
    function: Callable[[Tensor], Tensor], in_force: list[Any]
) -> None:
    run = torch.compile(function, backend="eager")
    run(torch.zeros(1))
    for scope in ({"num_sms": 77}, {"batch_invariant": True, "pdl": True}, {}):
        seen = []
        with cute_gemm.config(**scope), torch._dynamo.config.patch(error_on_recompile=True):
            for each in (function, run):
                in_force.clear()
                each(torch.zeros(1))
                seen.append([*in_force])
        assert seen[0] == seen[1]


def test_a_scope_around_tracing_says_nothing_about_calls(in_force: list[Any]) -> None:
    run = compiled(GIVEN.run)
    with cute_gemm.config(num_sms=10):
        run()
    run()
    assert in_force == [(10, False, False), (None, False, False)]


def test_traced_scopes_are_of_the_thread_that_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    said: list[dict[str, Any]] = []
    with cute_gemm.config(num_sms=3):
        thread = threading.Thread(target=lambda: said.append(settings.said_in_traced_code()))
        thread.start()
        thread.join()
        said.append(settings.said_in_traced_code())
    assert said == [{}, {"num_sms": 3}]


def test_scopes_of_another_thread_are_its_own(in_force: list[Any]) -> None:
    run = compiled(nested, "eager")
    with cute_gemm.config(num_sms=77):
        run(torch.zeros(1))
        assert in_force.pop() == (77, False, False)
        raised: list[Exception] = []

        def elsewhere() -> None:
            try:
                with torch._dynamo.config.patch(error_on_recompile=True):
                    run(torch.zeros(1))
            except Exception as error:
                raised.append(error)

        in_force.clear()
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert raised == []
    assert in_force == USES[nested][0]


@every_layout
def test_settings_are_arguments_of_an_op(layout: Layout, in_force: list[Any]) -> None:
    given = arguments(layout)
    with cute_gemm.config(num_sms=5, batch_invariant=True):
        for named, wanted in (
            ({}, (5, True, False)),
            ({"num_sms": 7, "pdl": True}, (7, True, True)),
            ({"num_sms": 0, "batch_invariant": False}, (None, False, False)),
        ):
            in_force.clear()
            returning_of(layout)(*tensors(given), *grouping(given), out_dtype=torch.float32, **named)
            writing_of(layout)(*tensors(given), given.new_out(), *grouping(given), **named)
            assert in_force == [wanted] * 2
    with pytest.raises(ValueError, match=r"^num_sms is -1; want at least 1"):
        writing_of(layout)(*tensors(given), given.new_out(), *grouping(given), num_sms=-1)


# What is refused


DIFFERENTIABLE = GIVEN.sa.clone().requires_grad_()
REFUSED: dict[str, tuple[str, str, Callable[[Callable[[Tensor], Tensor]], Any]]] = {
    "gradient": (
        r"requires a gradient, which",
        r"^sa requires a gradient",
        lambda run: run(DIFFERENTIABLE),
    ),
    "grad": (
        "inside a transform of torch.func",
        r"^sa (requires a gradient|is inside a transform)",
        lambda run: torch.func.grad(lambda sa: run(sa).float().sum())(GIVEN.sa.clone()),
    ),
    "vmap": (
        "inside a transform of torch.func",
        r"^sa is inside a transform such as vmap",
        lambda run: torch.func.vmap(run)(GIVEN.sa[None].clone()),
    ),
    "jvp": (
        "inside a transform of torch.func",
        r"^sa (carries a tangent|is inside a transform)",
        lambda run: torch.func.jvp(run, (GIVEN.sa.clone(),), (GIVEN.sa.clone(),)),
    ),
}


@pytest.mark.parametrize("case", cases(REFUSED, usual=[*REFUSED][::2]))
def test_derivatives_are_refused_inside_of_compiled_code(case: str) -> None:
    whole, broken_graph, use = REFUSED[case]

    def caller(sa: Tensor) -> Tensor:
        return GIVEN.with_(sa=sa).run()

    run = torch.compile(lambda: use(caller), backend="aot_eager")
    with pytest.raises(ValueError, match=broken_graph):
        run()
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match=whole):
        compiled(lambda: use(caller))()


def test_a_tangent_around_compiled_code_is_refused() -> None:
    run = torch.compile(lambda sa: GIVEN.with_(sa=sa).run(), backend="aot_eager")
    run(GIVEN.sa)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(GIVEN.sa.clone(), GIVEN.sa.clone())
        with pytest.raises(ValueError, match=r"^sa carries a tangent"):
            run(dual)
        assert torch.equal(run(GIVEN.sa), GIVEN.run())


@every_layout
def test_derivatives_of_an_op_are_refused(layout: Layout) -> None:
    given = arguments(layout)
    out = given.new_out()

    def returning(sa: Tensor) -> Tensor:
        sums = returning_of(layout)(given.a, sa, given.b, given.sb, *grouping(given), out_dtype=torch.float32)
        return sums.sum()

    def writing(sa: Tensor) -> Tensor:
        writing_of(layout)(given.a, sa, given.b, given.sb, out, *grouping(given))
        return out.sum()

    for op in (returning, writing):
        for transform in (torch.func.grad(op), lambda x, op=op: torch.func.vmap(op)(x[None])):
            with pytest.raises(ValueError, match=r"^a is used inside a transform"):
                transform(given.sa.clone())
        with pytest.raises(ValueError, match=r"^sa requires a gradient"):
            op(given.sa.clone().requires_grad_())
        with forward_ad.dual_level(), pytest.raises(ValueError, match=r"^a is used inside forward-mode AD"):
            op(forward_ad.make_dual(given.sa.clone(), given.sa.clone()))
        assert not out.any()


GROUPED = arguments(OFFSETS)
KINDS: dict[str, tuple[str, Callable[[], Any]]] = {
    "no pair": (
        r"^the pair \(a, sa\) is one tensor",
        lambda: cute_gemm.fp8_gemm_nt(GIVEN.a, (GIVEN.b, GIVEN.sb)),  # type: ignore[arg-type]
    ),
    "out_dtype": (r"^out_dtype is torch.float16", lambda: GIVEN.run(out_dtype=torch.float16)),
    "out of another dtype": (
        r"^out_dtype is torch.float32, but out has dtype torch.bfloat16",
        lambda: GIVEN.run(torch.zeros(GIVEN.shape, dtype=torch.bfloat16), out_dtype=torch.float32),
    ),
    "a fill that is none": (r"^fill is a builtins.bool", lambda: GROUPED.run(fill=False)),
    "a count that is none": (
        r"^alignment is a torch.Tensor",
        lambda: GROUPED.with_(count=torch.ones(2)).run(),
    ),
}


@pytest.mark.parametrize("case", KINDS)
def test_what_no_op_takes_is_said_by_the_contract(case: str) -> None:
    says, call = KINDS[case]
    for caller in (call, torch.compile(call, backend="aot_eager")):
        with pytest.raises(TypeError, match=says):
            caller()
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="not of the kind or dtype that it takes"):
        compiled(call)()


def test_a_distributed_tensor_is_refused_in_compiled_code_too() -> None:
    distributed = pytest.importorskip("torch.distributed")
    if not distributed.is_available():
        pytest.skip("torch was built without it")
    from torch.distributed.tensor import DTensor, Replicate, init_device_mesh

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        sa = DTensor.from_local(GIVEN.sa, mesh, [Replicate()])

        def call(sa: Tensor) -> Tensor:
            return GIVEN.with_(sa=sa).run()

        for caller in (call, torch.compile(call, backend="aot_eager")):
            with pytest.raises(TypeError, match=r"^sa is a torch.distributed.*DTensor.*`sa.to_local\(\)`"):
                caller(sa)
        torch._dynamo.reset()
        with pytest.raises(torch._dynamo.exc.Unsupported, match="DTensor"):
            compiled(call)(sa)
        assert torch.equal(compiled(lambda sa: call(sa.to_local()))(sa), GIVEN.run())
    finally:
        distributed.destroy_process_group()


def test_schemas_are_documented(request: pytest.FixtureRequest) -> None:
    text = (request.config.rootpath / "docs" / "torch_compile.md").read_text()
    text = re.sub(r"\s+", " ", text)
    ops = list(map(library.op, (*library.returning.values(), *library.writing.values())))
    assert len(ops) == 2 * len(LAYOUTS)
    for op in ops:
        assert str(op._schema).removeprefix("cute_gemm::") in text, op
        assert torch.Tag.needs_exact_strides in op.tags


def test_fake_tensors_are_told_publicly_where_torch_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[Any, ...]] = []
    monkeypatch.setattr(torch_library, "register_fake", lambda *given, lib: told.append((*given, lib)))
    unlike = object()  # A library that does not say what it keeps.
    torch_internals.register_fake(unlike, "cute_gemm::no_such_op", len)
    assert told == [("cute_gemm::no_such_op", len, unlike)]
