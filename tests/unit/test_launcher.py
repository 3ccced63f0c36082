"""The fast path: what it launches, and what it leaves to the slow path, having done nothing."""

import ctypes
import os
from collections.abc import Callable
from typing import Any

import pytest
import torch
from bad_calls import negated
from calls import Arguments, arguments, every_grouped_layout, every_layout
from stand_ins import ON_THE_CPU

import cute_gemm
from cute_gemm import contract
from cute_gemm.plan.launch_policy import LaunchFlags
from cute_gemm.plan.layouts import CONTIGUOUS, DENSE, K_GROUPED, LAYOUTS, MASKED, OFFSETS, Layout
from cute_gemm.plan.recipe import FP8_1D1D
from cute_gemm.runtime import launcher, semaphores
from cute_gemm.runtime.selection import Launch
from cute_gemm.testing import make_inputs, make_k_grouped_inputs

DTYPES = torch.bfloat16, torch.float32


class Kernel:
    """In place of a kernel: notes what it was called with, and launches or does not."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.launches: bool | None = True
        self.error: Exception | None = None

    def __call__(self, *arguments: Any) -> None:
        if self.error:
            raise self.error
        self.calls.append(arguments)
        if self.launches is not None:
            status = arguments[8]
            ctypes.c_int32.from_address(status).value = self.launches


def key_of(given: Arguments, dtype: torch.dtype = torch.bfloat16, device: int = ON_THE_CPU) -> Any:
    scales = launcher.tma_can_load(given.sa)
    return launcher._key(given.layout, given.a.shape, given.b.shape, scales, dtype, device, given.count)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """A kernel that has run, for the small call of every layout, on CPU tensors."""
    monkeypatch.setattr(launcher, "_launches", {})
    monkeypatch.setattr(
        launcher,
        "empty_strided_cuda",
        lambda size, stride, dtype: torch.empty_strided(size, stride, dtype=dtype),
    )
    kernel = Kernel()
    for layout in LAYOUTS.values():
        remember(arguments(layout), kernel)
    return kernel


def remember(given: Arguments, kernel: Kernel, is_drawn: bool = False) -> None:
    for dtype in DTYPES:
        launcher._launches[key_of(given, dtype)] = Launch(kernel, 132, 6, is_drawn)


def launch(given: Arguments, out: Any = None, out_dtype: Any = torch.bfloat16) -> Any:
    return launcher.launch(given.layout, *given.pairs, out, out_dtype, given.index, given.count)


# What is launched


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("allocate", [False, True])
@every_layout
def test_what_is_in_order_is_launched_and_returned(
    kernel: Kernel, layout: Layout, dtype: torch.dtype, allocate: bool
) -> None:
    given = arguments(layout)
    out = None if allocate else given.new_out(dtype)
    result = launch(given, out, dtype if allocate else torch.bfloat16)
    ((*tensors, num_sms, flags, semaphore, status), grouping) = kernel.calls[0][:9], kernel.calls[0][9:]
    operands = given.a, given.sa, given.b, given.sb, result
    assert len(kernel.calls) == 1
    assert all(got is wanted for got, wanted in zip(tensors, operands, strict=True))
    assert (num_sms, flags, semaphore) == (132, 6, 0)
    assert status == launcher.caller.address
    assert len(grouping) == len(given.grouping)
    assert all(got is wanted for got, wanted in zip(grouping, given.grouping, strict=True))
    assert (result.shape, result.dtype) == (given.shape, dtype)
    assert result.is_contiguous()
    if out is not None:
        assert result is out
        assert out._version == 1, "autograd is told once that it has changed"


@every_layout
def test_the_operation_takes_the_fast_path_first(
    kernel: Kernel, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contract, "check", None)
    given = arguments(layout)
    out = given.new_out()
    assert given.run(out) is out
    assert len(kernel.calls) == 1


@every_grouped_layout
def test_an_index_that_is_to_be_validated_goes_through_the_contract(kernel: Kernel, layout: Layout) -> None:
    given = arguments(layout)
    given.run(given.new_out(), validate=True)
    assert not kernel.calls
    wrong = given.with_(index=torch.full_like(given.index, 100))
    with pytest.raises(ValueError, match=layout.index.name):
        wrong.run(wrong.new_out(), validate=True)


@every_grouped_layout
def test_a_launch_says_whether_rows_of_no_group_are_filled(kernel: Kernel, layout: Layout) -> None:
    """By a flag: it is the kernel of the same call without."""
    given = arguments(layout)
    out = given.new_out()
    assert given.run(out, fill=0) is out
    given.run(fill=0)
    given.run(out, fill=None)
    assert [LaunchFlags(call[6]) for call in kernel.calls] == [
        LaunchFlags(6) | LaunchFlags.FILL,
        LaunchFlags(6) | LaunchFlags.FILL,
        LaunchFlags(6),
    ]


@pytest.mark.parametrize("fill", [1, -1, False, True, 0.0, torch.zeros(())], ids=repr)
@every_grouped_layout
def test_what_else_is_to_be_filled_in_is_for_the_contract(kernel: Kernel, layout: Layout, fill: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^fill is "):
        arguments(layout).run(fill=fill)
    assert not kernel.calls


@every_layout
def test_a_kernel_that_draws_gets_a_semaphore(
    kernel: Kernel, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(semaphores, "address", lambda device: 4096)
    for is_drawn, address in (False, 0), (True, 4096):
        remember(arguments(layout), kernel, is_drawn)
        assert launch(arguments(layout)) is not None
        assert kernel.calls[-1][5:8] == (132, 6, address)


def test_an_alignment_is_passed_on(kernel: Kernel) -> None:
    """It does not take part in the choice of a kernel."""
    for alignment in (1, 2, 1024):
        assert launch(arguments(OFFSETS).with_(count=alignment)) is not None
        assert kernel.calls[-1][10] == alignment


OF_ROWS = make_inputs(64, 136, 400, recipe=FP8_1D1D)
OF_COLUMNS = make_k_grouped_inputs([48, 0, 144], 64, 128)


def remember_of_rows(
    layout: Layout, lhs: Any, rhs: Any, groups: int, accumulate: bool, kernel: Kernel
) -> None:
    what = layout, lhs[0].shape, rhs[0].shape, launcher.tma_can_load(lhs[1])
    for dtype in DTYPES:
        key = launcher._key(*what, dtype, ON_THE_CPU, groups, (True, accumulate))
        launcher._launches[key] = Launch(kernel, 132, 6, False)


@pytest.fixture
def of_rows(kernel: Kernel) -> tuple[Any, Any]:
    """Operands that have scales of rows, M-major; stored and added by kernels that have run."""
    lhs, rhs = ((q, cute_gemm.m_major(s)) for q, s in OF_ROWS)
    for accumulate in (False, True):
        remember_of_rows(DENSE, lhs, rhs, 0, accumulate, kernel)
        remember_of_rows(K_GROUPED, OF_COLUMNS.lhs, OF_COLUMNS.rhs, 3, accumulate, kernel)
    return lhs, rhs


@pytest.mark.parametrize("accumulate", [False, True])
def test_scales_of_rows_are_launched_where_tma_can_load_them(
    kernel: Kernel, of_rows: tuple[Any, Any], accumulate: bool
) -> None:
    out = torch.zeros(64, 136)
    assert launcher.launch(DENSE, *of_rows, out, torch.float32, accumulate=accumulate) is out
    lhs, (b, sb) = of_rows
    before = len(kernel.calls)
    assert launcher.launch(DENSE, lhs, (b, sb.contiguous()), out, torch.float32) is None
    assert launcher.launch(DENSE, (lhs[0], lhs[1].contiguous()), (b, sb), out, torch.float32) is None
    assert len(kernel.calls) == before


def test_groups_of_columns_are_launched_with_a_result_for_each(
    kernel: Kernel, of_rows: tuple[Any, Any]
) -> None:
    given = K_GROUPED, OF_COLUMNS.lhs, OF_COLUMNS.rhs
    made = launcher.launch(*given, None, torch.float32, OF_COLUMNS.offsets)
    assert made is not None
    assert (made.shape, made.dtype) == ((3, 64, 128), torch.float32)
    assert kernel.calls[-1][9] is OF_COLUMNS.offsets
    # The default of the operation, beside a given result of another dtype; but no other dtype.
    for dtype in DTYPES:
        out = torch.zeros(3, 64, 128, dtype=dtype)
        assert launcher.launch(*given, out, torch.float32, OF_COLUMNS.offsets) is out
    assert launcher.launch(*given, torch.zeros(3, 64, 128), torch.bfloat16, OF_COLUMNS.offsets) is None


@pytest.mark.parametrize("accumulate", [True, 1, 0, None, "yes"])
def test_nothing_is_added_to_what_is_not_there_nor_by_what_is_no_bool(
    kernel: Kernel, of_rows: tuple[Any, Any], accumulate: Any
) -> None:
    columns = OF_COLUMNS.lhs, OF_COLUMNS.rhs
    out = None if accumulate is True else torch.zeros(64, 136)
    assert launcher.launch(DENSE, *of_rows, out, torch.float32, accumulate=accumulate) is None
    out = None if accumulate is True else torch.zeros(3, 64, 128)
    named = {"index": OF_COLUMNS.offsets, "accumulate": accumulate}
    assert launcher.launch(K_GROUPED, *columns, out, torch.float32, **named) is None
    assert not kernel.calls


def test_another_index_is_launched_alike(kernel: Kernel) -> None:
    for layout in (CONTIGUOUS, OFFSETS, MASKED):
        given = arguments(layout)
        changed = given.with_(index=given.index.clone())
        assert launch(changed) is not None
        assert kernel.calls[-1][9] is changed.index


@every_layout
def test_a_gradient_that_nobody_records_does_not_matter(kernel: Kernel, layout: Layout) -> None:
    given = arguments(layout)
    with torch.no_grad():
        assert launch(given.with_(sa=given.sa.clone().requires_grad_())) is not None


# Keys


KEYS: dict[str, Callable[[Arguments], Arguments]] = {
    "M": lambda x: x.with_(a=x.a[..., :-1, :], sa=x.sa[..., :-1, :]),
    "N": lambda x: x.with_(b=x.b[..., :8, :]),
    "K": lambda x: x.with_(a=x.a[..., :128], b=x.b[..., :128]),
    "scales that TMA can load": lambda x: x.with_(sa=x.sa.new_zeros(*x.sa.shape[:-2], 2, 8).mT[..., :5, :]),
}


@pytest.mark.parametrize("change", KEYS)
@every_layout
def test_keys_differ_where_a_choice_may(layout: Layout, change: str) -> None:
    given = arguments(layout)
    assert key_of(given) == key_of(arguments(layout, seed=1))
    assert key_of(KEYS[change](given)) != key_of(given)
    assert key_of(given, torch.float32) != key_of(given)
    assert key_of(given, device=0) != key_of(given)
    for setting in ({"num_sms": 7}, {"batch_invariant": True}, {"pdl": True}):
        outside = key_of(given)
        with cute_gemm.config(**setting):
            assert key_of(given) != outside


def test_keys_of_layouts_differ() -> None:
    """Also where their operands are alike, as those of the contiguous layout and of offsets."""
    assert len({key_of(arguments(layout)) for layout in LAYOUTS.values()}) == len(LAYOUTS)
    flat = arguments(OFFSETS)
    assert key_of(flat.with_(layout=CONTIGUOUS, count=0)) != key_of(flat)


@every_grouped_layout
def test_keys_of_more_groups_differ(layout: Layout) -> None:
    assert key_of(arguments(layout, groups=2)) != key_of(arguments(layout, groups=3))


def test_expected_rows_are_in_the_key_and_an_alignment_is_not() -> None:
    masked, offsets = arguments(MASKED), arguments(OFFSETS)
    assert key_of(masked.with_(count=1)) != key_of(masked.with_(count=2))
    assert key_of(offsets.with_(count=1)) == key_of(offsets.with_(count=2))


# What is left to the slow path


class Own(torch.Tensor):
    pass


def own(x: torch.Tensor) -> torch.Tensor:
    return x.as_subclass(Own)


def trained(x: torch.Tensor) -> torch.Tensor:
    """As a parameter of a layer may be."""
    return torch.nn.Parameter(x.float()).to(x.dtype) if x.itemsize == 1 else x.clone().requires_grad_()


@pytest.mark.parametrize("operand", ["a", "sa", "b", "sb"])
@pytest.mark.parametrize("change", [own, trained])
@every_layout
def test_operands_that_are_not_plain_tensors_are_left_alone(
    kernel: Kernel, layout: Layout, change: Callable[[torch.Tensor], torch.Tensor], operand: str
) -> None:
    given = arguments(layout)
    assert launch(given.with_(**{operand: change(getattr(given, operand))})) is None
    assert not kernel.calls


@pytest.mark.parametrize("index", [own, lambda index: None, lambda index: index.tolist(), lambda index: 3])
@every_grouped_layout
def test_an_index_that_is_no_plain_tensor_is_left_alone(
    kernel: Kernel, layout: Layout, index: Callable[[torch.Tensor], Any]
) -> None:
    """None is no argument at all: the kernel declines, as TVM FFI does where one is missing."""
    given = arguments(layout)
    wrong = index(given.index)
    if wrong is None:
        kernel.error = TypeError("expects 11 parameters")
    assert launch(given.with_(index=wrong)) is None
    assert not kernel.calls


@pytest.mark.parametrize("count", [True, 2.0, "2", None, torch.tensor(2)])
@pytest.mark.parametrize("layout", [OFFSETS, MASKED], ids=lambda layout: layout.name)
def test_a_count_that_is_no_int_is_left_alone(kernel: Kernel, layout: Layout, count: Any) -> None:
    given = arguments(layout)
    remember(given.with_(count=2), kernel)
    assert launch(given.with_(count=count)) is None
    assert not kernel.calls


LEFT: dict[str, Callable[[Arguments], Arguments]] = {
    "a shape that is new": lambda x: x.with_(a=x.a[..., :1, :], sa=x.sa[..., :1, :]),
    "other scales": KEYS["scales that TMA can load"],
    "one dimension more": lambda x: x.with_(a=x.a[None]),
    "scales of one dimension": lambda x: x.with_(sa=x.sa.flatten()),
    "a pending negation of A's": lambda x: x.with_(sa=negated(x.sa)),
    "a pending negation of B's": lambda x: x.with_(sb=negated(x.sb)),
}


@pytest.mark.parametrize("case", LEFT)
@every_layout
def test_what_is_new_or_odd_is_left_alone(kernel: Kernel, layout: Layout, case: str) -> None:
    given = LEFT[case](arguments(layout))
    assert launch(given) is None
    assert not kernel.calls


PAIRS: dict[str, Callable[[Any, Any], tuple[Any, Any]]] = {
    "no pair": lambda lhs, rhs: ((lhs[0],), rhs),
    "a list": lambda lhs, rhs: (list(lhs), rhs),
    "no tuple at all": lambda lhs, rhs: (lhs, 3),
    "no tensor": lambda lhs, rhs: ((lhs[0], None), rhs),
    "another word": lambda lhs, rhs: (lhs, (rhs[0], "scales")),
}


@pytest.mark.parametrize("case", PAIRS)
@every_layout
def test_what_is_no_pair_of_tensors_is_left_alone(kernel: Kernel, layout: Layout, case: str) -> None:
    given = arguments(layout)
    lhs, rhs = PAIRS[case](*given.pairs)
    assert launcher.launch(layout, lhs, rhs, None, torch.bfloat16, given.index, given.count) is None
    assert not kernel.calls


@pytest.mark.parametrize(
    ("change", "out_dtype"),
    [
        (lambda out: out, torch.float32),
        (lambda out: out.half(), torch.bfloat16),
        (own, torch.bfloat16),
        (lambda out: out.clone().requires_grad_(), torch.bfloat16),
        (lambda out: None, torch.float16),
        (lambda out: None, []),
        (lambda out: "no tensor", torch.bfloat16),
    ],
)
@every_layout
def test_a_result_that_is_not_plain_is_left_alone(
    kernel: Kernel, layout: Layout, change: Callable[[torch.Tensor], Any], out_dtype: Any
) -> None:
    given = arguments(layout)
    assert launch(given, change(given.new_out()), out_dtype) is None
    assert not kernel.calls


@every_layout
def test_other_settings_are_left_alone(kernel: Kernel, layout: Layout) -> None:
    given = arguments(layout)
    for setting in ({"num_sms": 7}, {"batch_invariant": True}, {"pdl": True}):
        with cute_gemm.config(**setting):
            assert launch(given) is None
    assert not kernel.calls
    assert launch(given) is not None


@pytest.mark.parametrize(
    "error", [None, ValueError("a rule"), TypeError("a type"), RuntimeError("no memory")]
)
@every_layout
def test_what_a_kernel_declines_goes_the_slow_path(
    kernel: Kernel, layout: Layout, error: Exception | None
) -> None:
    kernel.launches, kernel.error = False, error
    given = arguments(layout)
    out = given.new_out()
    assert launch(given, out) is None
    assert out._version == 0
    assert launch(given) is None


def test_what_a_kernel_does_not_report_was_not_launched(kernel: Kernel) -> None:
    """The answer of the call before is not taken for that of this one."""
    assert launch(arguments(DENSE)) is not None
    kernel.launches = None
    assert launch(arguments(DENSE)) is None


def test_an_error_that_is_none_of_the_hosts_checks_is_not_hidden(kernel: Kernel) -> None:
    kernel.error = MemoryError()
    with pytest.raises(MemoryError):
        launch(arguments(DENSE))


def test_several_devices_have_a_current_one(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(DENSE)
    monkeypatch.setattr(launcher, "several_devices", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert launch(given) is None
    monkeypatch.setattr(torch.cuda, "current_device", lambda: ON_THE_CPU)
    assert launch(given) is not None


def with_step(x: torch.Tensor, dim: int, step: int) -> torch.Tensor:
    """The same memory, with another stride of one extent."""
    strides = list(x.stride())
    strides[dim] = step
    return x.as_strided(x.shape, strides)


# By layout and extents: the operand and the dimension of it that has one element.
ONES: dict[str, tuple[Layout, int, int, str, int]] = {
    "a row of A": (DENSE, 1, 1, "a", 0),
    "a row of D": (DENSE, 1, 1, "out", 0),
    "a row of A of groups": (OFFSETS, 1, 3, "a", 0),
    "a row of D of groups": (CONTIGUOUS, 1, 3, "out", 0),
    "a row of each matrix of A": (MASKED, 1, 3, "a", 1),
    "a row of each matrix of D": (MASKED, 1, 3, "out", 1),
    "a matrix of A": (MASKED, 5, 1, "a", 0),
    "a matrix of D": (MASKED, 5, 1, "out", 0),
    "a matrix of B": (CONTIGUOUS, 5, 1, "b", 0),
    "a matrix of B of offsets": (OFFSETS, 5, 1, "b", 0),
}


@pytest.mark.parametrize("case", ONES)
def test_odd_strides_of_extents_of_1_are_left_alone(kernel: Kernel, case: str) -> None:
    """torch lets them be anything; a kernel that is called with them raises, which takes half a second."""
    layout, rows, groups, name, dim = ONES[case]
    given = arguments(layout, rows=rows, groups=groups)
    remember(given, kernel)
    for step, is_launched in ((7, False), (8, name == "out"), (4096, True)):
        changed = {"a": given.a, "b": given.b, "out": given.new_out()}
        assert changed[name].shape[dim] == 1
        changed[name] = with_step(changed[name], dim, step)
        result = launch(given.with_(a=changed["a"], b=changed["b"]), changed["out"])
        assert (result is not None) == is_launched, step
        assert changed["out"]._version == is_launched
    assert len(kernel.calls) == 1 + (name == "out")


def test_compiled_code_does_not_depend_on_what_is_remembered(kernel: Kernel) -> None:
    """Its guards would; and code that is compiled anew for every shape gives up after a few."""
    given = arguments(DENSE)

    @torch.compile(backend="eager")
    def multiply(x: torch.Tensor) -> torch.Tensor:
        return cute_gemm.fp8_gemm_nt(*given.pairs) + x

    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows in range(1, 20):
            remember(arguments(DENSE, rows=rows), kernel)
            multiply(torch.zeros(1))
            assert len(kernel.calls) == rows


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_remembers_no_launch(kernel: Kernel) -> None:
    """It cannot use the CUDA of its parent."""
    before = dict(launcher._launches)
    assert before
    child = os.fork()
    if not child:
        os._exit(len(launcher._launches))
    assert os.waitpid(child, 0)[1] == 0
    assert launcher._launches == before
