"""Products with an epilogue as ops of torch's dispatcher: compiled, exported, of fake tensors; refusals."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from calls import Arguments, arguments, every_layout
from compiling import HAS_COMPILER, Seen, compiled, grouping, tensors
from levels import cases
from torch import Tensor
from torch import library as torch_library
from torch._subclasses import FakeTensorMode

import cute_gemm
from cute_gemm import epilogue, moe, reference, settings
from cute_gemm.epilogue import functions, spelling
from cute_gemm.ops import epilogued_library as library
from cute_gemm.ops.library import op as op_of
from cute_gemm.plan.layouts import DENSE, LAYOUTS, OFFSETS, Layout
from examples import is_exhaustive

N = 32
BIAS = torch.randn(N, generator=torch.Generator().manual_seed(0))
SLOPE = 0.5
NAMES = {"epilogue": library.returning, "epilogue_out": library.writing}
NAMES |= {"quantizing": library.returning_pairs, "quantizing_out": library.writing_pairs}
RESULTS = {of: {layout: op_of(name) for layout, name in names.items()} for of, names in NAMES.items()}


@epilogue.function
def leaky(x: Any, weight: Any) -> Any:
    return epilogue.where(x > 0, x, SLOPE * x) * weight


@epilogue.gated
def clipped(gate: Any, up: Any, alpha: Any) -> Any:
    return gate * epilogue.sigmoid(alpha * gate) * (up + 1.0)


PLAIN = epilogue.bias(BIAS) | epilogue.alpha(0.5) | leaky(2.0)
QUANTIZING = epilogue.swiglu(7.0) | epilogue.quantize_1x128()


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def given_of(layout: Layout, rows: int = 5) -> Arguments:
    return arguments(layout, n=N, rows=rows)


def pair(given: Arguments) -> tuple[Tensor, Tensor]:
    """Where to write what is quantised of half as many columns."""
    shape = given.shape[:-1]
    return torch.zeros(*shape, N // 2).to(torch.float8_e4m3fn), torch.zeros(*shape, 1)


def spelled(of: epilogue.Epilogue) -> dict[str, Any]:
    text, operands, numbers = spelling.spell(of)
    return {"epilogue": text, "operands": operands, "numbers": numbers}


def assert_same(found: Any, wanted: Any) -> None:
    for x, y in zip(found, wanted, strict=True):
        assert (x.shape, x.stride(), x.dtype) == (y.shape, y.stride(), y.dtype)
        assert torch.equal(x.float(), y.float())


# The ops themselves


def calls_of_ops(given: Arguments) -> dict[str, tuple[tuple[Any, ...], dict[str, Any]]]:
    """Arguments of the four ops of a layout."""
    first, behind = tensors(given), grouping(given)
    plain = (
        PLAIN
        | epilogue.residual(torch.ones(given.shape))
        | epilogue.row_weights(given.sa[..., 0].contiguous())
    )
    wider = torch.zeros(*given.shape[:-1], N + 8)[..., :N]
    named = spelled(QUANTIZING)
    return {
        "epilogue": ((*first, *behind), spelled(plain) | {"out_dtype": torch.float32, "pdl": True}),
        "epilogue_out": ((*first, wider, *behind), spelled(plain | epilogue.accumulate(0.5))),
        "quantizing": ((*first, *behind), named | {"num_sms": 3}),
        "quantizing_out": ((*first, *pair(given), *behind), named),
    }


@pytest.mark.parametrize("name", RESULTS)
@every_layout
def test_torch_finds_nothing_wrong_with_an_op(
    layout: Layout, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compare = torch.allclose

    # As in test_library.py: torch compares no FP8 numbers on the CPU.
    def allclose(x: Tensor, y: Tensor, **options: Any) -> bool:
        return compare(
            *(each.view(torch.uint8) if each.itemsize == 1 else each for each in (x, y)), **options
        )

    monkeypatch.setattr(torch, "allclose", allclose)
    arguments_of_op, named = calls_of_ops(given_of(layout))[name]
    checks = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch_library.opcheck(RESULTS[name][layout.name], arguments_of_op, named, test_utils=checks)


@every_layout
def test_an_op_gives_what_the_operation_does_which_does_not_go_by_the_dispatcher(layout: Layout) -> None:
    given = given_of(layout)
    first, behind = tensors(given), grouping(given)
    with Seen() as seen:
        out, both = torch.ones(given.shape), pair(given)
        wanted = [
            given.run(epilogue=PLAIN),
            given.run(out, epilogue=PLAIN | epilogue.accumulate()),
            *given.run(epilogue=QUANTIZING),
            *given.run(both, epilogue=QUANTIZING),  # type: ignore[arg-type]
        ]
    assert seen.names == []
    out, both = torch.ones(given.shape), pair(given)
    found = [
        RESULTS["epilogue"][layout.name](*first, *behind, out_dtype=torch.bfloat16, **spelled(PLAIN)),
        out,
        *RESULTS["quantizing"][layout.name](*first, *behind, **spelled(QUANTIZING)),
        *both,
    ]
    RESULTS["epilogue_out"][layout.name](*first, out, *behind, **spelled(PLAIN | epilogue.accumulate()))
    RESULTS["quantizing_out"][layout.name](*first, *both, *behind, **spelled(QUANTIZING))
    assert_same(found, wanted)


def test_schemas_are_documented(request: pytest.FixtureRequest) -> None:
    text = (request.config.rootpath / "docs" / "torch_compile.md").read_text()
    text = re.sub(r"\s+", " ", text)
    for ops in RESULTS.values():
        assert ops.keys() == LAYOUTS.keys()
        for op in ops.values():
            assert torch.Tag.needs_exact_strides in op.tags
    for op in (each["dense"] for each in RESULTS.values()):
        assert str(op._schema).removeprefix("cute_gemm::") in text, op


# torch.compile


@pytest.mark.parametrize(
    ("layout", "backend"),
    [(DENSE, "eager"), *((layout, "aot_eager") for layout in LAYOUTS.values())],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_a_caller_is_compiled_whole_with_the_same_bits(layout: Layout, backend: str) -> None:
    given = given_of(layout)

    def caller(out: Tensor, q: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        halved = given.run(epilogue=epilogue.bias_silu(bias).then(leaky(2.0)), out_dtype=torch.float32) / 2
        returned = given.run(out, epilogue=PLAIN.then(epilogue.accumulate(0.25)))
        given.run(out, epilogue=epilogue.residual(out, 2.0))
        opened = epilogue.swiglu(7.0).then(epilogue.quantize_1x128(m_major_scales=True))
        own = clipped(1.7).then(epilogue.quantize_1x128(power_of_two_scales=True))
        both = given.run((q, None), epilogue=own)  # type: ignore[arg-type]
        assert both[0] is q
        return returned, halved, *given.run(epilogue=opened), *both

    found, wanted = ([torch.ones(given.shape), pair(given)[0], BIAS] for _ in range(2))
    made = compiled(caller, backend)(*found)
    assert made[0] is found[0]
    assert made[4] is found[1]
    assert_same(made, caller(*wanted))
    assert_same(found, wanted)


@pytest.mark.parametrize("layout", cases(LAYOUTS.values(), usual=[DENSE]), ids=LAYOUTS)
def test_a_new_m_compiles_nothing_anew(layout: Layout) -> None:
    def caller(a: Tensor, sa: Tensor, index: Tensor | None, c: Tensor, out: Tensor) -> tuple[Tensor, ...]:
        now = given.with_(a=a, sa=sa, index=index)
        added = PLAIN.then(epilogue.residual(c))
        return now.run(out, epilogue=added) + now.run(epilogue=added), *now.run(epilogue=QUANTIZING)

    run = compiled(caller, dynamic=True)
    for rows in (130, 7, 128, 2):
        given = given_of(layout, rows)
        call = given.a, given.sa, given.index, torch.ones(given.shape)
        with torch._dynamo.config.patch(error_on_recompile=rows != 130):
            assert_same(run(*call, given.new_out()), caller(*call, given.new_out()))


def test_the_graph_says_what_the_epilogue_does() -> None:
    given, graphs = given_of(DENSE), []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled(lambda: given.run(epilogue=epilogue.bias_silu(BIAS)), backend)()
    (node,) = (x for x in graphs[0].graph.nodes if x.target is RESULTS["epilogue"]["dense"])
    assert node.kwargs["epilogue"] == "add_bias(per_column) | silu()"


def test_scopes_inside_of_compiled_code_become_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int | None, bool]] = []
    compute = reference.compute

    def noting(call: Any, *more: Any) -> Tensor:
        seen.append((settings.current().num_sms, settings.current().batch_invariant))
        return compute(call, *more)

    given = given_of(DENSE)

    @cute_gemm.config(num_sms=7)
    def caller() -> Tensor:
        return given.run(epilogue=PLAIN)

    monkeypatch.setattr(reference, "compute", noting)
    with cute_gemm.config(batch_invariant=True):
        compiled(caller)()
    # The reference calls itself for the sums.
    assert {*seen} == {(7, True)}


def test_rows_of_no_group_are_filled_and_indices_validated_in_compiled_code() -> None:
    given = given_of(OFFSETS)
    some = given.with_(index=given.index // 2)

    def caller(index: Tensor) -> Tensor:
        now = given.with_(index=index)
        return now.run(torch.full(given.shape, torch.nan), epilogue=PLAIN, fill=0, validate=True)

    run = compiled(caller)
    assert torch.equal(run(some.index), caller(some.index))
    with pytest.raises(ValueError, match=r"^offsets holds 99"):
        run(torch.full_like(given.index, 99))


@pytest.mark.parametrize("turn", cases([8, 128], usual=[8]))
def test_layers_are_compiled_whole_for_any_number_of_tokens(turn: int) -> None:
    draw = torch.Generator().manual_seed(0)
    experts, middle, k, n = 3, 128, 144, 24
    both = (torch.randn(experts, middle, k, generator=draw).bfloat16() for _ in range(2))
    if turn == 8:
        gate_up = cute_gemm.quantize_128x128(cute_gemm.interleave_gate_up(*both))
    else:
        gate_up = cute_gemm.interleave_gate_up(*map(cute_gemm.quantize_128x128, both), turn=128)
    down = cute_gemm.quantize_128x128(torch.randn(experts, n, middle, generator=draw).bfloat16())
    shared = tuple((q[0], s[0]) for q, s in (gate_up, down))
    limited = epilogue.swiglu(limit=1.0, turn=turn)

    def layers(x: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        whole = moe.expert_layer(x, gate_up, down, ids, weights, shared=shared, activation=limited)
        lhs = cute_gemm.quantize_1x128(x)
        first = moe.experts(lhs, gate_up, down, group_index=torch.zeros_like(ids[:, 0]), activation=limited)
        room = tuple(each[None].expand(experts, -1, -1).contiguous() for each in lhs)
        valid = torch.full((experts,), 1, dtype=torch.int32)
        of_room = moe.experts(
            room, gate_up, down, valid_rows=valid, expected_rows=1, row_weights=None, activation=limited
        )
        return whole * 2, moe.mlp(x, *shared, activation=limited), first, of_room[:, :1]

    run = compiled(layers, dynamic=True)
    for tokens in (9, 4, 17):
        x = torch.randn(tokens, k, generator=draw).bfloat16()
        ids = torch.randint(-1, experts, (tokens, 2), generator=draw, dtype=torch.int32)
        weights = torch.rand(tokens, 2, generator=draw)
        with torch._dynamo.config.patch(error_on_recompile=tokens != 9):
            assert_same(run(x, ids, weights), layers(x, ids, weights))


# Functions of one's own


def test_a_function_whose_numbers_changed_is_not_taken_for_what_was_traced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = given_of(DENSE)
    run = compiled(lambda: given.run(epilogue=leaky(1.0)), "eager")
    wanted = run()
    monkeypatch.setitem(globals(), "SLOPE", 0.25)
    with pytest.raises(RuntimeError, match=r"the epilogue function 'leaky' of digest .* trace the call anew"):
        run()
    torch._dynamo.reset()
    assert torch.equal(run(), given.run(epilogue=leaky(1.0)))
    assert not torch.equal(run(), wanted)
    # Back again, by the name under which nothing new was registered.
    monkeypatch.undo()
    torch._dynamo.reset()
    assert torch.equal(run(), wanted)


def test_a_function_is_found_by_what_it_is_now(monkeypatch: pytest.MonkeyPatch) -> None:
    name = functions.name_of(leaky(1.0).stages[0].function)
    monkeypatch.setattr(functions, "_in_graphs", {("leaky@0", 1): leaky(1.0).stages[0].function})
    assert functions.find(name, 1) is leaky(1.0).stages[0].function
    with pytest.raises(RuntimeError, match="'leaky'"):
        functions.find(name, 2)
    with pytest.raises(RuntimeError, match="has no epilogue 'soft'; wanted"):
        functions.find("soft", 1)


def test_functions_are_kept_as_long_as_a_program_or_a_graph_has_them() -> None:
    def scaled(by: float) -> Callable[..., epilogue.Epilogue]:
        return epilogue.function(lambda x: x * by)

    first, again = scaled(2.0)(), scaled(2.0)()
    name = functions.name_of(first.stages[0].function)
    assert functions.find(name, 1) in (first.stages[0].function, again.stages[0].function)
    functions._in_graphs.clear()
    before = len(functions._functions[1])
    for number in range(100):
        scaled(3.0 + number)
    assert len(functions._functions[1]) == before
    # Of two that are equal, whichever is left.
    del first
    assert functions.find(name, 1) is again.stages[0].function
    functions._in_graphs.clear()
    del again
    with pytest.raises(RuntimeError, match="is not in this process"):
        functions.find(name, 1)
    text, *_ = spelling.spell(scaled(2.0)())
    assert functions.find(text.partition("(")[0], 1)


def test_names_are_of_what_a_function_does() -> None:
    def scaled(by: float) -> Callable[..., epilogue.Epilogue]:
        return epilogue.function(lambda x: x * by)

    names = [functions.name_of(scaled(by)().stages[0].function) for by in (2.0, 2.0, 3.0, 2)]
    assert names[0] == names[1]
    assert len({*names}) == 3
    assert all(re.fullmatch(r"_lambda_@[0-9a-f]{16}", name) for name in names)


def test_every_epilogue_is_read_as_it_was_spelled() -> None:
    column = torch.ones(4)
    every = [
        epilogue.Epilogue(),
        epilogue.bias_gelu(column, "tanh") | epilogue.accumulate(3.0) | epilogue.relu(),
        epilogue.alpha(column[:1]) | epilogue.gelu() | epilogue.bias(torch.ones(2, 4)),
        epilogue.swiglu(turn=128) | epilogue.quantize_1x128(power_of_two_scales=True, m_major_scales=True),
        clipped(1.5)
        | epilogue.row_weights(column)
        | epilogue.residual(column, 2.0)
        | leaky(column[0].item()),
        epilogue.quantize_1x128(),
    ]
    for of in every:
        made = spelling.read(*spelling.spell(of))
        assert type(made) is type(of)
        assert made.key == of.key
        assert made.m_major_scales == of.m_major_scales
        pairs = zip(made.operands, of.operands, strict=True)
        assert all(x.kind == y.kind and (x.value is y.value or x.value == y.value) for x, y in pairs)


@pytest.mark.parametrize(
    "text",
    [
        "silu",
        "silu() |",
        "silu(per_day)",
        "swiglu[9]()",
        "swiglu[8]() | swiglu[8]()",
        "quantize_1x128() | silu()",
        "quantize_1x128(fast)",
        "quantize_1x128[8]()",
    ],
)
def test_text_of_no_epilogue_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=rf"^epilogue is '{re.escape(text)}'; wanted text such as"):
        spelling.read(text, [], [])


def test_an_op_says_which_epilogue_it_wants() -> None:
    given = given_of(DENSE)
    quantizing, plain = RESULTS["quantizing"]["dense"], RESULTS["epilogue"]["dense"]
    with pytest.raises(ValueError, match="quantises nothing; wanted the op whose name ends in _epilogue"):
        quantizing(*tensors(given), **spelled(epilogue.relu()))
    with pytest.raises(ValueError, match="quantises; wanted the op whose name ends in _quantizing"):
        plain(*tensors(given), out_dtype=torch.float32, **spelled(QUANTIZING))
    with pytest.raises(ValueError, match="was given 0 tensors and 1 numbers; wanted 1 and 0"):
        plain(
            *tensors(given),
            out_dtype=torch.float32,
            epilogue="add_bias(per_column)",
            operands=[],
            numbers=[1.0],
        )


# torch.export


class Products(torch.nn.Module):
    def __init__(self, given: Arguments, made: epilogue.Epilogue) -> None:
        super().__init__()
        self.given, self.made = given, made
        for name in "b", "sb":
            self.register_buffer(name, getattr(given, name))
        self.register_buffer("bias", BIAS)

    def forward(self, a: Tensor, sa: Tensor) -> tuple[Tensor, ...]:
        given = self.given.with_(a=a, sa=sa, b=self.b, sb=self.sb)
        out = given.run(out_dtype=torch.float32, epilogue=epilogue.bias(self.bias).then(self.made))
        return given.run(out, epilogue=epilogue.accumulate(0.5)), *given.run(epilogue=QUANTIZING)


ELSEWHERE = """
import sys, torch, cute_gemm
from cute_gemm import epilogue

a, sa, wanted = torch.load(sys.argv[2])
program = torch.export.load(sys.argv[1]).module()
try:
    program(a, sa)
except RuntimeError as error:
    assert "epilogue function 'leaky'" in str(error), error
else:
    raise AssertionError("it ran without the function")

SLOPE = 0.5

@epilogue.function
def leaky(x, weight):
    # Of another file, in another line.
    return epilogue.where(x > 0, x, SLOPE * x) * weight

for x, y in zip(program(a, sa), wanted, strict=True):
    assert torch.equal(x.float(), y.float())
"""


@pytest.mark.parametrize("strict", [False, True])
def test_an_exported_program_runs_for_any_m(strict: bool) -> None:
    given = given_of(DENSE, rows=6)
    rows = {0: torch.export.Dim("m", min=2, max=4096)}
    exported = torch.export.export(
        Products(given, leaky(2.0)),
        (given.a, given.sa),
        dynamic_shapes={"a": rows, "sa": rows},
        strict=strict,
    )
    kept = io.BytesIO()
    torch.export.save(exported, kept)
    kept.seek(0)
    program = torch.export.load(kept).module()
    for m in (6, 13):
        now = given_of(DENSE, m).with_(b=given.b, sb=given.sb)
        assert_same(program(now.a, now.sa), Products(given, leaky(2.0))(now.a, now.sa))


@pytest.mark.thorough
def test_another_process_says_which_function_it_has_not_and_runs_with_it(tmp_path: Path) -> None:
    given = given_of(DENSE)
    module = Products(given, leaky(2.0))
    torch.export.save(torch.export.export(module, (given.a, given.sa)), tmp_path / "program.pt2")
    torch.save((given.a, given.sa, module(given.a, given.sa)), tmp_path / "tensors.pt")
    ran = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, tmp_path / "program.pt2", tmp_path / "tensors.pt"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr


class Steps(torch.nn.Module):
    """Ops whose lists of tensors and of numbers are empty by turns."""

    def __init__(self, given: Arguments) -> None:
        super().__init__()
        for name in "b", "sb":
            self.register_buffer(name, getattr(given, name))

    def forward(self, a: Tensor, sa: Tensor) -> tuple[Tensor, ...]:
        rhs = self.b, self.sb
        out = torch.ones(a.shape[0], N)
        cute_gemm.fp8_gemm_nt((a, sa), rhs, out, epilogue=epilogue.accumulate(0.5))
        opened = epilogue.swiglu().then(epilogue.row_weights(sa[:, 0].contiguous()))
        return out, *cute_gemm.fp8_gemm_nt((a, sa), rhs, epilogue=opened.then(epilogue.quantize_1x128()))


@pytest.mark.skipif(not HAS_COMPILER, reason="Inductor needs a C++ compiler")
def test_a_package_of_aot_inductor_runs_for_any_m(tmp_path: Path) -> None:
    if not is_exhaustive():
        pytest.skip("it takes half a minute; --exhaustive runs it")
    given = given_of(DENSE, rows=6)
    rows = {0: torch.export.Dim("m", min=2, max=4096)}
    exported = torch.export.export(Steps(given), (given.a, given.sa), dynamic_shapes={"a": rows, "sa": rows})
    with torch._inductor.config.patch({"force_disable_caches": True, "cpp.simdlen": 1}):
        path = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "steps.pt2"))
    package = torch._inductor.aoti_load_package(path)
    for m in (6, 13):
        now = given_of(DENSE, m)
        assert_same(package(now.a, now.sa), Steps(given)(now.a, now.sa))


@pytest.mark.skipif(not HAS_COMPILER, reason="Inductor needs a C++ compiler")
def test_inductor_keeps_strides_of_operands_and_what_a_result_held() -> None:
    if not is_exhaustive():
        pytest.skip("it takes half a minute; --exhaustive runs it")
    given = given_of(DENSE, rows=8)

    def caller(sa: Tensor, out: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        now = given.with_(sa=cute_gemm.m_major(sa) * 2.0)
        wider = torch.nn.functional.pad(c, (0, 8)) + 1.0
        now.run(out, epilogue=epilogue.residual(wider[..., :-8]).then(epilogue.accumulate(0.5)))
        now.run(out, epilogue=epilogue.residual(out, 2.0))
        return out + 1, *now.run(
            epilogue=epilogue.swiglu().then(epilogue.quantize_1x128(m_major_scales=True))
        )

    found, wanted = ([given.sa, torch.ones(given.shape), torch.ones(given.shape)] for _ in range(2))
    with torch._inductor.config.patch({"force_disable_caches": True, "cpp.simdlen": 1}):
        made = compiled(caller, "inductor")(*found)
    assert_same(made, caller(*wanted))
    assert_same(found, wanted)


# Fake tensors


@every_layout
def test_fake_tensors_give_shapes_and_compute_nothing(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = given_of(layout)
    wanted = given.run(epilogue=PLAIN), *given.run(epilogue=QUANTIZING)
    monkeypatch.setattr(reference, "compute", None)
    with FakeTensorMode() as mode:
        a, sa, b, sb = (mode.from_tensor(x) for x in tensors(given))
        index = None if given.index is None else mode.from_tensor(given.index)
        fake = Arguments(layout, a, sa, b, sb, index, given.count)
        plain = epilogue.bias(mode.from_tensor(BIAS)) | leaky(1.0)
        found = fake.run(epilogue=plain), *fake.run(epilogue=QUANTIZING)
        out, both = torch.empty(given.shape), pair(given)
        assert fake.run(out, epilogue=plain) is out
        made = fake.run(both, epilogue=QUANTIZING)  # type: ignore[arg-type]
        assert all(x is y for x, y in zip(made, both, strict=True))
    for x, y in zip(found, wanted, strict=True):
        assert (x.shape, x.stride(), x.dtype) == (y.shape, y.stride(), y.dtype)


# What is refused


GIVEN = given_of(DENSE)
BROKEN: dict[str, tuple[str, epilogue.Epilogue, dict[str, Any]]] = {
    "shape of an operand": (r"bias has shape \(5,\); wanted \(32,\)", epilogue.bias(torch.ones(5)), {}),
    "dtype of an operand": ("bias has dtype torch.float64", epilogue.bias(BIAS.double()), {}),
    "nothing before": ("no out is given", epilogue.accumulate(), {}),
    "columns": (
        "wanted a multiple of 256",
        epilogue.swiglu(turn=128) | epilogue.quantize_1x128(),
        {},
    ),
    "dtype of a result": (
        r"out\[0\] has dtype torch.float32",
        QUANTIZING,
        {"out": (torch.zeros(5, 16), torch.zeros(5, 1))},
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_rules_are_said_of_fake_tensors_and_where_code_is_compiled(case: str) -> None:
    says, made, named = BROKEN[case]
    with pytest.raises((TypeError, ValueError), match=says):
        GIVEN.run(epilogue=made, **named)
    with pytest.raises(torch._dynamo.exc.TorchRuntimeError, match=says):
        compiled(lambda: GIVEN.run(epilogue=made, **named))()


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "no epilogue": (r"^epilogue is a builtins.str", {"epilogue": "relu"}),
    "no tensor": (r"^bias is a builtins.str", {"epilogue": epilogue.bias("bias")}),  # type: ignore[arg-type]
    "no pair": (r"^out is one tensor", {"epilogue": QUANTIZING, "out": torch.zeros(5, 16)}),
    "out_dtype": (r"^out_dtype is torch.float32", {"epilogue": QUANTIZING, "out_dtype": torch.float32}),
}


@pytest.mark.parametrize("case", KINDS)
def test_what_no_op_takes_is_said_by_the_contract(case: str) -> None:
    says, named = KINDS[case]

    def call() -> Any:
        return GIVEN.run(**named)

    for caller in (call, torch.compile(call, backend="eager")):
        with pytest.raises(TypeError, match=says):
            caller()
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="not of the kind or dtype that it takes"):
        compiled(call)()


def test_derivatives_are_refused() -> None:
    bias = BIAS.clone().requires_grad_()

    def call(bias: Tensor) -> Tensor:
        return GIVEN.run(epilogue=epilogue.bias(bias))

    for caller in (call, torch.compile(call, backend="eager")):
        with pytest.raises(ValueError, match=r"^bias requires a gradient"):
            caller(bias)
    torch._dynamo.reset()
    with pytest.raises(torch._dynamo.exc.Unsupported, match="requires a gradient, which"):
        compiled(call)(bias)
    op = RESULTS["epilogue"]["dense"]
    with pytest.raises(ValueError, match=r"^bias requires a gradient"):
        op(*tensors(GIVEN), out_dtype=torch.float32, **spelled(epilogue.bias(bias)))
    with pytest.raises(ValueError, match=r"^a is used inside a transform"):
        torch.func.vmap(
            lambda sa: op(GIVEN.a, sa, GIVEN.b, GIVEN.sb, out_dtype=torch.float32, **spelled(PLAIN))
        )(GIVEN.sa[None])
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        a, sa, b, sb = map(mode.from_tensor, tensors(GIVEN))
        with pytest.raises(ValueError, match=r"^bias requires a gradient"):
            cute_gemm.fp8_gemm_nt((a, sa), (b, sb), epilogue=epilogue.bias(mode.from_tensor(bias)))
