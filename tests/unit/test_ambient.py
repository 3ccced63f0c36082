"""What is set around a call changes no result: the same bits as without it, or refused in words."""

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import pytest
import torch
from restoring import restored
from torch import Tensor
from torch.autograd import forward_ad

import cute_gemm
from cute_gemm import reference, testing
from cute_gemm.contract import ambient
from cute_gemm.ops import library
from cute_gemm.plan.layouts import LAYOUTS, Layout
from cute_gemm.runtime import launcher, torch_internals
from cute_gemm.runtime.selection import Launch

N, K = 24, 144
Bits = list[Tensor]


class Operation(NamedTuple):
    """Something that is to give the same bits wherever it is called."""

    call: Callable[..., Bits]
    tensors: dict[str, Tensor]  # its arguments, by the names that messages use


def bits(*results: Tensor) -> Bits:
    return [x.detach().contiguous().view(torch.uint8) for x in results]


def product(layout: str, make: Callable[[int, int], testing.GroupedInputs], **count: int) -> Operation:
    """A grouped operation, of which only the rows of groups count."""
    inputs = make(N, K)
    rows = inputs.row_groups >= 0
    operation = getattr(cute_gemm, f"m_grouped_fp8_gemm_nt_{layout}")

    def call(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, out: Tensor) -> Bits:
        given = operation((a, sa), (b, sb), inputs.index, out=out, **count)
        assert given is out
        made = operation((a, sa), (b, sb), inputs.index, out_dtype=torch.float32, validate=True, **count)
        assert (made.dtype, made.device.type) == (torch.float32, "cpu")
        return bits(given[rows], made[rows])

    out = torch.zeros(*rows.shape, N, dtype=torch.bfloat16)
    return Operation(
        call, dict(zip(("a", "sa", "b", "sb"), (*inputs.lhs, *inputs.rhs), strict=True), out=out)
    )


def dense() -> Operation:
    operands = [x for pair in testing.make_inputs(67, N, K) for x in pair]

    def call(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, out: Tensor) -> Bits:
        assert cute_gemm.fp8_gemm_nt((a, sa), (b, sb), out) is out
        made = cute_gemm.fp8_gemm_nt((a, sa), (b, sb), out_dtype=torch.float32)
        assert (made.dtype, made.device.type) == (torch.float32, "cpu")
        return bits(out, made)

    out = torch.zeros(67, N, dtype=torch.bfloat16)
    return Operation(call, dict(zip(("a", "sa", "b", "sb"), operands, strict=True), out=out))


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


(A, SA), (B, SB) = testing.make_inputs(67, 136, K)

OPERATIONS = {
    "dense": dense(),
    "contiguous": product("contiguous", lambda n, k: testing.make_contiguous_inputs([0, 3], n, k, m=130)),
    "offsets": product("offsets", lambda n, k: testing.make_offsets_inputs([3, 0, 60], n, k), alignment=1),
    "masked": product(
        "masked", lambda n, k: testing.make_masked_inputs([3, 0, 9], 10, n, k), expected_rows=4
    ),
    "quantize_1x128": Operation(lambda x: bits(*cute_gemm.quantize_1x128(x)), {"x": normal(67, K)}),
    "quantize_128x128": Operation(
        lambda w: bits(*cute_gemm.quantize_128x128(w, power_of_two_scales=True)),
        {"w": normal(1, 130, K, dtype=torch.bfloat16)},
    ),
    "dequantize_1x128": Operation(
        lambda q, s: bits(cute_gemm.dequantize_1x128(q, s, torch.bfloat16)), {"q": A, "s": SA}
    ),
    "dequantize_128x128": Operation(lambda q, s: bits(cute_gemm.dequantize_128x128(q, s)), {"q": B, "s": SB}),
    "m_major": Operation(lambda s: bits(cute_gemm.m_major(s)), {"s": SA}),
}

# What tests and benchmarks judge results by, which is not differentiated.
TRUTHS = {
    "dequantized_product": Operation(
        lambda: bits(
            reference.dequantized_product(A, SA, B, SB),
            reference.dequantized_product(A, SA, B, SB, torch.float32),
        ),
        {},
    ),
    "product_scale": Operation(lambda: bits(reference.product_scale(A, SA, B, SB)), {}),
    "make_inputs": Operation(
        lambda: bits(*(x for pair in testing.make_inputs(5, N, K, "wide_scales") for x in pair)), {}
    ),
    "make_masked_inputs": Operation(
        lambda: bits(*testing.make_masked_inputs([1, 2], 3, N, K).lhs), {}
    ),
}  # fmt: skip

every_operation = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
every_tensor = pytest.mark.parametrize(
    ("operation", "name"),
    [(operation, name) for operation in OPERATIONS.values() for name in operation.tensors],
    ids=[f"{key}-{name}" for key, operation in OPERATIONS.items() for name in operation.tensors],
)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """On a busy machine several take a hundred times as long for as little as this."""
    with restored(torch.get_num_threads, torch.set_num_threads, 1):
        yield


def run(operation: Operation, **changed: Tensor) -> Bits:
    """A call with tensors of its own, some of them others."""
    return operation.call(**({name: x.clone() for name, x in operation.tensors.items()} | changed))


def assert_same(found: Bits, wanted: Bits) -> None:
    for x, y in zip(found, wanted, strict=True):
        assert (x.shape, x.device) == (y.shape, y.device)
        assert torch.equal(x, y)


# What is without effect


def default_dtype(dtype: torch.dtype) -> AbstractContextManager[None]:
    return restored(torch.get_default_dtype, torch.set_default_dtype, dtype)


def set_device(name: str | None) -> None:
    # None takes the mode away, where "cpu" would leave one.
    torch.set_default_device(name)


def tf32(value: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = value


STATES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "autocast fp16": lambda: torch.autocast("cpu", torch.float16),
    "autocast bf16": lambda: torch.autocast("cpu", torch.bfloat16),
    "default dtype fp64": lambda: default_dtype(torch.float64),
    "default dtype bf16": lambda: default_dtype(torch.bfloat16),
    "default dtype fp16": lambda: default_dtype(torch.float16),
    "default device": lambda: restored(lambda: None, set_device, "meta"),
    "with device": lambda: torch.device("meta"),
    "precision high": lambda: restored(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "high"
    ),
    "precision medium": lambda: restored(
        torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "medium"
    ),
    "TF32": lambda: restored(lambda: torch.backends.cuda.matmul.allow_tf32, tf32, True),
    "deterministic": lambda: restored(
        torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True
    ),
    "inference mode": torch.inference_mode,
    "no grad": torch.no_grad,
    "anomaly detection": torch.autograd.detect_anomaly,
    "forward-mode AD": forward_ad.dual_level,
}
every_state = pytest.mark.parametrize("state", STATES.values(), ids=STATES)


@every_state
@pytest.mark.parametrize("operation", (OPERATIONS | TRUTHS).values(), ids=OPERATIONS | TRUTHS)
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_a_state_changes_no_bit(
    operation: Operation, state: Callable[[], AbstractContextManager[Any]]
) -> None:
    wanted = run(operation)
    with_state = {name: x.clone() for name, x in operation.tensors.items()}
    with state():
        found = operation.call(**with_state)
    assert_same(found, wanted)


def test_the_number_of_threads_changes_no_bit() -> None:
    """It does those of the truths, whose sums are long."""
    lhs, rhs = testing.make_inputs(200, 264, 1040)
    x = normal(200, 1040)

    def results() -> Bits:
        y = cute_gemm.fp8_gemm_nt(lhs, rhs, out_dtype=torch.float32)
        return bits(y, *cute_gemm.quantize_1x128(x), *cute_gemm.quantize_128x128(x))

    wanted = results()
    with restored(torch.get_num_threads, torch.set_num_threads, 2):
        assert_same(results(), wanted)


@every_operation
def test_tensors_of_inference_mode_are_tensors(operation: Operation) -> None:
    with torch.inference_mode():
        tensors = {name: x.clone() for name, x in operation.tensors.items()}
    assert_same(operation.call(**tensors), run(operation))


@every_operation
def test_results_are_no_tensors_of_inference_mode(operation: Operation) -> None:
    """Of those autograd would save nothing; what a call uses inside does not show."""
    seen: list[Tensor] = []
    run(Operation(lambda **tensors: seen.extend(operation.call(**tensors)) or [], operation.tensors))
    assert not any(x.is_inference() for x in seen)


def test_autocast_is_off_where_torch_computes() -> None:
    """Also for what it would lower, though nothing here does that today."""
    x = normal(8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype is torch.bfloat16
        with ambient.no_autocast(x.device):
            assert (x @ x).dtype is torch.float32
        with ambient.no_autocast(torch.device("meta")):
            assert (x @ x).dtype is torch.bfloat16
        assert (x @ x).dtype is torch.bfloat16


# Derivatives, which are refused


def refused(operation: Operation, name: str, x: Tensor, says: str = "") -> str:
    with pytest.raises(ValueError, match=rf"^{name} .*{says}") as info:
        run(operation, **{name: x})
    return str(info.value)


@every_tensor
@pytest.mark.parametrize("make", [torch.nn.Parameter, Tensor.requires_grad_], ids=["parameter", "tensor"])
def test_a_gradient_is_refused_while_it_would_be_recorded(
    operation: Operation, name: str, make: Callable[[Tensor], Tensor]
) -> None:
    x = make(operation.tensors[name].clone())
    message = refused(operation, name, x, "requires a gradient")
    (code,) = re.findall(r"wanted `([^`]+)`", message)
    assert code == f"{name}.detach()"
    wanted = run(operation)
    assert_same(run(operation, **{name: eval(code, {name: x})}), wanted)
    for off in (torch.no_grad, torch.inference_mode):
        with off():
            assert_same(run(operation, **{name: x}), wanted)


@every_tensor
def test_a_tangent_is_refused_with_grad_mode_and_without(operation: Operation, name: str) -> None:
    wanted, x = run(operation), operation.tensors[name].clone()
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x.clone())
        for mode in (nullcontext(), torch.no_grad()):
            with mode:
                message = refused(operation, name, dual, "carries a tangent")
        assert f"wanted `{name}.detach()`" in message
        assert_same(run(operation, **{name: dual.detach()}), wanted)


@every_tensor
def test_a_function_of_autograd_may_call(operation: Operation, name: str) -> None:
    """Its author says what derivatives are: there, tensors are taken as they are."""
    found: list[Tensor] = []

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(x: Tensor) -> Tensor:
            found[:] = run(operation, **{name: x})
            return torch.zeros(())

        @staticmethod
        def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
            pass

        @staticmethod
        def jvp(ctx: Any, tangent: Tensor) -> Tensor:
            return torch.zeros(())

    x = operation.tensors[name].clone()
    Function.apply(x.clone().requires_grad_())
    assert_same(found, run(operation))
    with forward_ad.dual_level():
        found.clear()
        Function.apply(forward_ad.make_dual(x, x.clone()))
        assert_same(found, run(operation))


def total(results: Bits) -> Tensor:
    return torch.stack([x.sum() for x in results]).sum().float()


TRANSFORMS: dict[str, Callable[[Callable[[Tensor], Tensor], Tensor], Any]] = {
    "vmap": lambda f, x: torch.func.vmap(f)(x[None]),
    "grad": lambda f, x: torch.func.grad(f)(x),
    "vjp": lambda f, x: torch.func.vjp(f, x),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x.clone(),)),
    "vmap of grad": lambda f, x: torch.func.vmap(torch.func.grad(f))(x[None]),
    "grad of vmap": lambda f, x: torch.func.grad(lambda x: torch.func.vmap(f)(x[None]).sum())(x),
    "jvp of vmap": lambda f, x: torch.func.jvp(torch.func.vmap(f), (x[None],), (x.clone()[None],)),
}


@every_tensor
@pytest.mark.parametrize("transform", TRANSFORMS.values(), ids=TRANSFORMS)
def test_what_a_transform_wraps_is_refused(
    operation: Operation, name: str, transform: Callable[..., Any]
) -> None:
    # Where the transform differentiates, all that is made inside is wrapped.
    others = {key: x.clone() for key, x in operation.tensors.items()}
    with pytest.raises(ValueError, match=rf"^{name} (requires a gradient|.* a transform )"):
        transform(lambda x: total(operation.call(**others | {name: x})), others[name])


@every_operation
def test_what_vmap_does_not_map_is_an_ordinary_tensor(operation: Operation) -> None:
    found: list[Tensor] = []

    def of_a_number(x: Tensor) -> Tensor:
        found[:] = run(operation)
        return x

    torch.func.vmap(of_a_number)(torch.zeros(2))
    assert_same(found, run(operation))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_products_are_refused_where_their_results_would_be_wrapped(layout: str) -> None:
    operation = OPERATIONS[layout]
    tensors = {name: x.clone() for name, x in operation.tensors.items()}

    def of_a_number(x: Tensor) -> Tensor:
        operation.call(**tensors)
        return x

    for transform in (torch.func.grad(of_a_number), lambda x: torch.func.jvp(of_a_number, (x,), (x,))):
        with pytest.raises(ValueError, match=r"^a is used inside a transform of torch\.func"):
            transform(torch.ones(()))
        assert not tensors["out"].any()


# torch.compile


@pytest.fixture
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("fresh_dynamo")
@every_operation
def test_compiled_callers_get_the_same_bits(operation: Operation) -> None:
    wanted = run(operation)
    tensors = {name: x.clone() for name, x in operation.tensors.items()}

    @torch.compile(backend="eager")
    def caller(tensors: dict[str, Tensor]) -> Bits:
        doubled = {name: x.clone() for name, x in tensors.items()}
        return operation.call(**doubled)

    assert_same(caller(tensors), wanted)


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("name", [name for name in OPERATIONS if "quantize" in name or name == "m_major"])
def test_quantising_is_traced_whole(name: str) -> None:
    operation = OPERATIONS[name]
    compiled = torch.compile(operation.call, backend="aot_eager", fullgraph=True)
    assert_same(compiled(**operation.tensors), run(operation))


@pytest.mark.usefixtures("fresh_dynamo")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_a_product_two_ops_are_traced_and_nothing_else(layout: str) -> None:
    """Neither its rules, which look at shapes and addresses, nor the reference."""
    ops = {library.op(library.returning[layout]), library.op(library.writing[layout])}
    products: list[Any] = []
    traced: list[str] = []

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        calls = [node for node in module.graph.nodes if node.op.startswith("call")]
        products.extend(node.target for node in calls if node.target in ops)
        traced.extend(node.name for node in calls if node.target not in ops)
        return module.forward

    operation = OPERATIONS[layout]

    def caller(tensors: dict[str, Tensor]) -> Bits:
        return [-x for x in operation.call(**tensors)]

    tensors = {name: x.clone() for name, x in operation.tensors.items()}
    wanted = [-x for x in run(operation)]
    assert_same(torch.compile(caller, backend=backend)(tensors), wanted)
    assert (len(products), {*products}) == (2, ops)
    # What the caller does itself: views of bytes and rows, and the negation.
    assert any("neg" in name for name in traced)
    assert not [name for name in traced if re.search("mul|mm|matmul|double|data_ptr|empty|zeros", name)]


@pytest.mark.usefixtures("fresh_dynamo")
@every_operation
def test_compiled_callers_lose_no_gradient(operation: Operation) -> None:
    name = next(iter(operation.tensors))
    tensors = {key: x.clone() for key, x in operation.tensors.items()}
    tensors[name].requires_grad_()
    compiled = torch.compile(lambda tensors: operation.call(**tensors), backend="eager")
    with pytest.raises(ValueError, match=f"^{name} requires a gradient"):
        compiled(tensors)


# The fast path, by which calls on a GPU go: it asks no contract


class Kernel:
    """In place of one that launched before: counts its launches."""

    def __init__(self) -> None:
        self.launches = 0

    def __call__(self, *arguments: Any) -> None:
        self.launches += 1
        status = arguments[8]
        ctypes.c_int32.from_address(status).value = 1


class WarmFor(dict[Any, Launch]):
    """What was launched before, whatever is asked for."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch

    def get(self, key: Any, default: Any = None) -> Launch:
        return self.launch


@pytest.fixture(params=LAYOUTS.values(), ids=LAYOUTS)
def warm(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[Kernel, Callable[..., Any]]:
    """A kernel, and a call by the fast path alone that launches it."""
    layout: Layout = request.param
    kernel, tensors = Kernel(), OPERATIONS[layout.name].tensors
    index = None if layout.index is None else torch.zeros(3, dtype=torch.int32)
    monkeypatch.setattr(launcher, "_launches", WarmFor(Launch(kernel, 132, 0, False)))
    monkeypatch.setattr(launcher, "empty_strided_cuda", torch._C._dynamo.guards._empty_strided_cpu)

    def call(out_dtype: torch.dtype = torch.float32, **changed: Any) -> Tensor | None:
        given = tensors | {"out": None} | changed
        lhs, rhs = (given["a"], given["sa"]), (given["b"], given["sb"])
        return launcher.launch(layout, lhs, rhs, given["out"], out_dtype, index, 1)

    return kernel, call


@every_state
@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
def test_the_fast_path_launches_or_leaves_it_to_the_slow_one(
    warm: tuple[Kernel, Callable[..., Any]], state: Callable[[], AbstractContextManager[Any]]
) -> None:
    kernel, call = warm
    assert call() is not None
    with state():
        result = call()
    if state is STATES["forward-mode AD"]:
        assert result is None
    else:
        assert (result.dtype, result.device.type) == (torch.float32, "cpu")
    assert kernel.launches == 1 + (result is not None)


@pytest.mark.parametrize("name", ["a", "sa", "b", "sb", "out"])
def test_the_fast_path_leaves_derivatives_alone(
    warm: tuple[Kernel, Callable[..., Any]], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, call = warm
    layout = next(key for key in LAYOUTS if call() is not None)
    kernel.launches = 0
    x = OPERATIONS[layout].tensors[name].clone()
    assert call(torch.bfloat16, **{name: x.clone().requires_grad_()}) is None
    with forward_ad.dual_level():
        assert call(torch.bfloat16, **{name: forward_ad.make_dual(x, x.clone())}) is None
    seen = []
    for transform in TRANSFORMS.values():
        transform(lambda x: seen.append(call(torch.bfloat16, **{name: x})) or x.float().sum(), x)
    assert seen == [None] * len(TRANSFORMS)
    assert not kernel.launches
    # Where torch does not tell, the contract is asked.
    monkeypatch.setattr(torch_internals, "_transforms_are_active", torch_internals._unknown)
    assert call() is None
