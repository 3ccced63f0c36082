"""What a kernel's host code checks before it launches: whatever it accepts, the contract accepts.

The very host code of kernels runs here, on CPU tensors, with the arguments that kernels are compiled for; all
that it lacks is the launch.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import cutlass
import cutlass.cute as cute
import hypothesis.strategies as st
import pytest
import torch
from bad_calls import far_apart
from calls import Arguments, arguments, every_grouped_layout, every_layout
from cutlass.cute import runtime as dsl
from hypothesis import assume, given
from torch import Tensor
from tutorials import load

from cute_gemm import contract
from cute_gemm.kernels.gemm_fp8_1d2d import Fp8Gemm1D2D
from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import CONTIGUOUS, DENSE, LAYOUTS, MASKED, OFFSETS, Layout
from cute_gemm.plan.limits import MAX_ALIGNMENT, MAX_EXTENT, MAX_GROUPS, ceil_div
from cute_gemm.runtime import builder, cache, compiler
from examples import examples

STREAM = 9
"""Where a kernel takes its stream, which a CPU has none of."""


class HostCode(Fp8Gemm1D2D):
    """A kernel that launches nothing."""

    def start(self, *_: Any) -> None:
        pass

    def kernel(self, *_: Any) -> None:
        raise AssertionError("this would launch")


@functools.cache
def host_code(layout: Layout, tma_scales: bool = False) -> Callable[..., None]:
    """Of a kernel for ``layout``."""

    config = next(
        config
        for config in candidates.every_config()
        if config.layout is layout and config.tma_scales == tma_scales and config.out_dtype == "bfloat16"
    )
    return host_code_of(config)


def host_code_of(config: KernelConfig, **parts: Any) -> Callable[..., None]:
    """Of a kernel of a configuration and of parts of one's own."""

    def build() -> Any:
        on_the_host = functools.partial(dsl.make_fake_tensor, memspace=cute.AddressSpace.generic)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(dsl, "make_fake_tensor", on_the_host)
            program = builder.build(config, **parts)
        program.kernel.__class__ = HostCode
        declared = list(program.arguments)
        declared[STREAM] = cutlass.Int64(0)
        return program.kernel, tuple(declared)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.DIRECTORY_VARIABLE, "")
        return compiler.instance(("host code", config), build, "host code")


def holds(call: Arguments, out: Tensor, tma_scales: bool = False) -> bool:
    """What the host code reports; False where its argument checks raise before that."""
    status = ctypes.c_int32(-1)
    options = 132, 0, 0, ctypes.addressof(status), 0
    try:
        host_code(call.layout, tma_scales)(call.a, call.sa, call.b, call.sb, out, *options, *call.grouping)
    except (TypeError, ValueError, RuntimeError):
        return False
    assert status.value in (0, 1), "nothing was reported"
    return bool(status.value)


def obeys(call: Arguments, out: Tensor) -> bool:
    """Whether the contract finds nothing wrong."""
    try:
        call.checked(out)
    except (TypeError, ValueError):
        return False
    return True


def test_scales_are_as_many_as_the_recipe_says() -> None:
    tutorial = load("04_scaling")
    kernel = host_code_of(tutorial.CONFIG, scaling=tutorial.Unscaled())
    m, n, k = 72, 136, 2048
    a, b = (torch.zeros(rows, k, dtype=torch.float8_e4m3fn) for rows in (m, n))
    out = torch.zeros(m, n, dtype=torch.bfloat16)

    def holds(*shapes: tuple[int, int]) -> int:
        status = ctypes.c_int32(-1)
        sa, sb = (torch.ones(shape) for shape in shapes)
        kernel(a, sa, b, sb, out, 132, 0, 0, ctypes.addressof(status), 0)
        return status.value

    assert holds((m, 1), (n, 1)) == 1
    assert holds((m, 1), (2, 1)) == 0
    assert holds((m, 16), (n, 16)) == 0


# Whatever holds is in order


SLOT = 8192  # bytes; what is usual of a call takes less
BUFFER = torch.zeros(
    10 * SLOT, dtype=torch.uint8
)  # what is unusual may take more, and begin in the last slot
TENSORS = "a", "sa", "b", "sb", "index", "out"
WRONG = (
    *(f"{what} of {name}" for name in TENSORS for what in ("place", "extents", "last stride", "address")),
    *(f"{what} of {name}" for name in ("a", "b", "out") for what in ("rows", "matrices", "interleaving")),
    *("n", "k", "count"),
)
"""What may be unusual in a call that is drawn; much of it breaks a rule, some of it does not."""


@st.composite
def calls(draw: Any, layout: Layout) -> tuple[Arguments, Tensor]:
    """Operands and a result anywhere in one buffer; nothing, or one or two things, are unusual."""
    absent = {DENSE: ("index", "matrices", "count"), CONTIGUOUS: ("count",)}.get(layout, ())
    possible = [each for each in WRONG if not any(name in each for name in absent)]
    wrong = draw(st.lists(st.sampled_from(possible), max_size=2))

    def either(what: str, usual: int, *unusual: int) -> int:
        return draw(st.sampled_from(unusual)) if what in wrong else usual

    def placed(name: str, dtype: torch.dtype, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
        """Each in a slot of its own, or in that of the result, around where it is."""
        place = TENSORS.index(name)
        if f"place of {name}" in wrong and name != "out":
            place = TENSORS.index("out")
        begin = SLOT * (place + 1) + 16 * draw(st.integers(-60, 60))
        begin += either(f"address of {name}", 0, 8, 4, dtype.itemsize)
        # Steps of less than a narrow row come out below 0, which torch has no tensors of.
        assume(min(strides) >= 0)
        return BUFFER.view(dtype).as_strided(shape, strides, begin // dtype.itemsize)

    def matrices(name: str, dtype: torch.dtype, groups: tuple[int, ...], rows: int, width: int) -> Tensor:
        """Rows, and groups if there are any, that lie behind one another, in one another, or interleave."""
        step = 16 // dtype.itemsize
        line = ceil_div(width, step) * step + draw(st.sampled_from([0, 0, step]))
        line = either(f"rows of {name}", line, line + 8, width - step, step, 0)
        inner = either(f"last stride of {name}", 1, 2, 0)
        if not groups:
            return placed(name, dtype, (rows, width), (line, inner))
        if f"interleaving of {name}" in wrong:
            return placed(name, dtype, (*groups, rows, width), (width, width * groups[0], inner))
        apart = rows * line + draw(st.sampled_from([0, 0, step]))
        last = ceil_div((rows - 1) * line + width, step) * step
        apart = either(f"matrices of {name}", apart, last, last - step, (rows - 1) * line, line, step, 8, 0)
        return placed(name, dtype, (*groups, rows, width), (apart, line, inner))

    def scales(name: str, groups: tuple[int, ...], rows: int, columns: int) -> Tensor:
        """By rows, by columns, or the same for all."""
        rows, columns = (either(f"extents of {name}", each, 1, 2, each + 1) for each in (rows, columns))
        steps = [(columns, 1), (1, rows), (columns + 3, 1), (0, 1), (0, 0), (4, 8)]
        strides = draw(st.sampled_from(steps))
        return placed(
            name, torch.float32, (*groups, rows, columns), (*(rows * columns for _ in groups), *strides)
        )

    m, groups = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    n, k = (
        either("n", draw(st.sampled_from([8, 16])), 12, 4),
        either("k", draw(st.sampled_from([16, 144])), 24, 8),
    )
    of_a = (groups,) if layout.has_matrix_per_group else ()
    of_b = (either("extents of b", groups, groups + 1, 1),) if layout.is_grouped else ()
    e4m3, k_blocks = torch.float8_e4m3fn, ceil_div(k, 128)
    index = None
    if layout.index is not None:
        length = m if layout.index.axis == "M" else groups
        shape = (either("extents of index", length, length + 1, 1),)
        index = placed("index", torch.int32, shape, (either("last stride of index", 1, 2, 0),))
    count = draw(st.sampled_from([1, 128, MAX_ALIGNMENT]))
    # The expected rows of the masked layout are part of the key, so they were in order when a kernel ran.
    if layout is not MASKED:
        count = either("count", count, 0, -1, MAX_ALIGNMENT + 1, 2**31 - 1)
    call = Arguments(
        layout,
        a=matrices("a", e4m3, of_a, either("extents of a", m, m + 1, 1), k),
        sa=scales("sa", of_a, m, k_blocks),
        b=matrices("b", e4m3, of_b, n, either("extents of b", k, 16, k + 16)),
        sb=scales("sb", of_b, 1, k_blocks),
        index=index,
        count=count if layout.count is not None else 0,
    )
    rows, columns = (either("extents of out", each, each + 8, 8, 1) for each in (m, n))
    return call, matrices("out", torch.bfloat16, of_a, rows, columns)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=list(LAYOUTS))
def test_what_holds_is_in_order(layout: Layout) -> None:
    """And much of what is drawn does hold, so that this says something."""
    held: list[bool] = []

    @examples(900)
    @given(calls(layout))
    def check(drawn: tuple[Arguments, Tensor]) -> None:
        call, out = drawn
        held.append(holds(call, out))
        if held[-1]:
            call.checked(out)

    check()
    assert len(held) / 8 < sum(held) < len(held)


@pytest.mark.parametrize("tma_scales", [False, True])
@every_layout
def test_what_is_in_order_holds(layout: Layout, tma_scales: bool) -> None:
    call = arguments(layout)
    if tma_scales and layout is OFFSETS:
        pytest.skip("rows of offsets begin anywhere, where TMA cannot")
    if tma_scales:
        staged = call.sa.new_zeros(*call.sa.shape[:-2], 2, 8).mT[..., : call.sa.shape[-2], :]
        assert not holds(call, call.new_out(), tma_scales)
        call = call.with_(sa=staged)
    assert holds(call, call.new_out(), tma_scales)
    assert obeys(call, call.new_out())


def roomy(x: Tensor, room: int = 16) -> Tensor:
    """The same, with room behind each row."""
    memory = torch.zeros(
        (*x.shape[:-1], x.shape[-1] + room), dtype=torch.uint8 if x.itemsize == 1 else x.dtype
    )
    view = memory.view(x.dtype)[..., : x.shape[-1]]
    (view.view(torch.uint8) if x.itemsize == 1 else view).copy_(x.view(torch.uint8) if x.itemsize == 1 else x)
    return view


def beside(call: Arguments) -> tuple[Arguments, Tensor]:
    """A result and A in one buffer, one right behind the other."""
    out_bytes = 2 * torch.Size(call.shape).numel()
    memory = torch.zeros(out_bytes + call.a.numel(), dtype=torch.uint8)
    a = memory[out_bytes:].view(call.a.dtype).view(call.a.shape)
    return call.with_(a=a), memory[:out_bytes].view(torch.bfloat16).view(call.shape)


@every_layout
def test_other_strides_hold_where_nothing_overlaps(layout: Layout) -> None:
    call = arguments(layout)
    assert holds(call.with_(a=roomy(call.a), b=roomy(call.b)), roomy(call.new_out()))
    assert holds(
        call.with_(sa=call.sa.mT.contiguous().mT, sb=call.sb[..., :1, :1].expand(call.sb.shape)),
        call.new_out(),
    )
    assert holds(*beside(call))


# What breaks a rule does not hold


def strided(x: Tensor, **steps: int) -> Tensor:
    """The same memory with other strides of rows, or of groups."""
    strides = list(x.stride())
    for name, step in steps.items():
        strides[{"rows": -2, "groups": -3}[name]] = step
    return x.as_strided(x.shape, strides)


def together(call: Arguments, name: str, shared: int, behind: bool) -> tuple[Arguments, Tensor]:
    """A result directly behind an operand or the index, or before it, that shares some bytes with it."""
    x, out = getattr(call, name), call.new_out()
    x_bytes, out_bytes = x.numel() * x.itemsize, out.numel() * out.itemsize
    memory = torch.zeros(3 * (x_bytes + out_bytes) // 16 * 16, dtype=torch.uint8)
    out_place = ceil_div(x_bytes, 16) * 16
    place = out_place - x_bytes + shared if behind else out_place + out_bytes - shared
    there = memory[place : place + x_bytes].view(x.dtype).view(x.shape)
    if x.itemsize != 1:
        there.copy_(x)
    result = memory[out_place : out_place + out_bytes].view(out.dtype).view(out.shape)
    return call.with_(**{name: there}), result


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("name", ["a", "sa", "b", "sb", "index"])
@every_layout
def test_a_result_may_touch_an_operand_but_share_nothing(layout: Layout, name: str, behind: bool) -> None:
    call = arguments(layout, k=256)
    x = getattr(call, name)
    if x is None:
        pytest.skip("a dense product has no index")
    assert holds(*together(call, name, 0, behind))
    shared = 16 if x.itemsize == 1 else x.itemsize
    call, out = together(call, name, shared, behind)
    assert not holds(call, out)
    assert not obeys(call, out)


Bend = Callable[[Arguments], tuple[Arguments, Tensor]]


def with_out(change: Callable[[Arguments], Arguments]) -> Bend:
    return lambda call: (changed := change(call), changed.new_out())


BENT: dict[str, Bend] = {
    "N is no multiple of 8": with_out(lambda x: x.with_(b=x.b[..., :12, :])),
    "K is no multiple of 16": with_out(
        lambda x: x.with_(a=roomy(x.a[..., :136], 8), b=roomy(x.b[..., :136], 8))
    ),
    "more scales along K than k-blocks": with_out(lambda x: x.with_(a=x.a[..., :128], b=x.b[..., :128])),
    "more rows of scales of B": with_out(lambda x: x.with_(sb=torch.cat([x.sb, x.sb], -2))),
    "rows of A overlap": with_out(lambda x: x.with_(a=strided(x.a, rows=16))),
    "rows of B overlap": with_out(lambda x: x.with_(b=strided(x.b, rows=0))),
    "rows of D overlap": lambda x: (x, strided(x.new_out(), rows=8)),
    "rows of A are 8 bytes further apart": with_out(lambda x: x.with_(a=roomy(x.a, 8))),
    "rows of D are 8 bytes further apart": lambda x: (x, roomy(x.new_out(), 4)),
    "K is not contiguous": with_out(lambda x: x.with_(a=x.a.as_strided(x.a.shape, (*x.a.stride()[:-1], 0)))),
    "A off by 8 bytes": with_out(
        lambda x: x.with_(a=roomy(x.a, 16).as_strided(x.a.shape, roomy(x.a, 16).stride(), 8))
    ),
}
BENT_GROUPS: dict[str, Bend] = {
    "matrices of B overlap": with_out(lambda x: x.with_(b=strided(x.b, groups=16))),
    "matrices of B are the same": with_out(lambda x: x.with_(b=strided(x.b, groups=0))),
    "matrices of B overlap by a row": with_out(lambda x: x.with_(b=strided(x.b, groups=x.b.stride(1) * 15))),
    "one group less of scales": with_out(lambda x: x.with_(sb=x.sb[:2])),
    "an index of another length": with_out(lambda x: x.with_(index=x.index.new_zeros(7))),
    "an index with gaps": with_out(lambda x: x.with_(index=x.index.new_zeros(2 * len(x.index))[::2])),
    "an index in 64 bits": with_out(lambda x: x.with_(index=x.index.long())),
}
BENT_MASKED: dict[str, Bend] = {
    "matrices of A overlap": with_out(lambda x: x.with_(a=strided(x.a, groups=16))),
    "matrices of A overlap by a row": with_out(lambda x: x.with_(a=strided(x.a, groups=x.a.stride(1) * 4))),
    "matrices of D overlap": lambda x: (x, strided(x.new_out(), groups=8)),
    "matrices of D are the same": lambda x: (x, strided(x.new_out(), groups=0)),
    "matrices of D overlap by a row": lambda x: (x, strided(x.new_out(), groups=64)),
    "other groups of A than of B": with_out(lambda x: x.with_(a=x.a[:2], sa=x.sa[:2])),
}
CASES = [
    *((layout, name, bend) for layout in LAYOUTS.values() for name, bend in BENT.items()),
    *((layout, name, bend) for layout in (CONTIGUOUS, OFFSETS, MASKED) for name, bend in BENT_GROUPS.items()),
    *((MASKED, name, bend) for name, bend in BENT_MASKED.items()),
]


@pytest.mark.parametrize(
    ("layout", "bend"),
    [pytest.param(layout, bend, id=f"{layout.name}: {name}") for layout, name, bend in CASES],
)
def test_what_breaks_a_rule_does_not_hold(layout: Layout, bend: Bend) -> None:
    call, out = bend(arguments(layout))
    assert not holds(call, out)
    assert not obeys(call, out), "this breaks no rule"


@pytest.mark.parametrize(
    ("alignment", "in_range"),
    [(1, True), (128, True), (MAX_ALIGNMENT, True), (MAX_ALIGNMENT + 1, False), (0, False), (-1, False)],
)
def test_alignments_out_of_range_do_not_hold(alignment: int, in_range: bool) -> None:
    call = arguments(OFFSETS).with_(count=alignment)
    assert holds(call, call.new_out()) == obeys(call, call.new_out()) == in_range


@every_grouped_layout
def test_more_groups_than_there_may_be_do_not_hold(layout: Layout) -> None:
    for groups, few_enough in ((MAX_GROUPS, True), (MAX_GROUPS + 1, False)):
        call = arguments(layout, n=8, k=16, rows=2, groups=groups)
        assert holds(call, call.new_out()) == obeys(call, call.new_out()) == few_enough


def interleaved(x: Tensor) -> Tensor:
    """As `transpose(0, 1)` of `[rows, groups, K]`."""
    groups, rows, width = x.shape
    return x.new_zeros(1).expand(1).new_empty(rows, groups, width).transpose(0, 1)


INTERLEAVED = [(CONTIGUOUS, "b"), (OFFSETS, "b"), (MASKED, "b"), (MASKED, "a"), (MASKED, "out")]


@pytest.mark.parametrize(("layout", "name"), INTERLEAVED, ids=lambda x: getattr(x, "name", x))
def test_matrices_that_interleave_are_left_to_the_contract(layout: Layout, name: str) -> None:
    """They are in order, but whether they are takes more than host code does."""
    call, out = arguments(layout), arguments(layout).new_out()
    if name == "out":
        out = interleaved(out)
    else:
        call = call.with_(**{name: interleaved(getattr(call, name))})
    assert obeys(call, out)
    assert not holds(call, out)


@pytest.mark.parametrize("name", ["a", "sa", "b", "sb", "out", "index"])
@every_layout
def test_memory_that_was_freed_does_not_hold(layout: Layout, name: str) -> None:
    call, out = arguments(layout), arguments(layout).new_out()
    call = call.with_(**{each: getattr(call, each).clone() for each in ("a", "sa", "b", "sb")})
    freed = out if name == "out" else getattr(call, name)
    if freed is None:
        pytest.skip("a dense product has no index")
    assert holds(call, out)
    freed.untyped_storage().resize_(0)
    # By name: a failure must not show what tensors hold.
    held, obeyed = holds(call, out), obeys(call, out)
    assert (held, obeyed) == (False, False)


# Limits


def vast(layout: Layout, m: int, n: int, k: int) -> tuple[Arguments, Tensor]:
    """A product of any extents, in address space that takes no memory, of one group."""

    def matrix(dtype: torch.dtype, rows: int, columns: int, groups: int = 0) -> Tensor:
        x = far_apart(torch.zeros(1, 1, dtype=dtype).expand(rows, columns), columns)
        return x[None] if groups else x

    k_blocks, e4m3 = ceil_div(k, 128), torch.float8_e4m3fn
    of_a, of_b = int(layout.has_matrix_per_group), int(layout.is_grouped)
    index = None
    if layout.index is not None:
        index = matrix(torch.int32, 1, m if layout.index.axis == "M" else 1)[0]
    call = Arguments(
        layout,
        matrix(e4m3, m, k, of_a),
        matrix(torch.float32, m, k_blocks, of_a),
        matrix(e4m3, n, k, of_b),
        matrix(torch.float32, ceil_div(n, 128), k_blocks, of_b),
        index,
        1 if layout.count is not None else 0,
    )
    return call, matrix(torch.bfloat16, m, n, of_a)


@pytest.mark.parametrize("place", range(3))
@every_layout
def test_extents_beyond_the_limit_do_not_hold(layout: Layout, place: int) -> None:
    extents = [16, 16, 16]
    for extent, few_enough in ((MAX_EXTENT, True), (MAX_EXTENT + 16, False)):
        extents[place] = extent
        call, out = vast(layout, *extents)
        held, obeyed = holds(call, out), obeys(call, out)
        assert (held, obeyed) == (few_enough, few_enough)


@pytest.mark.parametrize(
    ("name", "most", "step"),
    [("a", 2**40 - 16, 16), ("sa", 2**30 - 1, 1), ("sb", 2**31 - 2, 1), ("out", 2**39 - 8, 8)],
)
def test_rows_too_far_apart_do_not_hold(name: str, most: int, step: int) -> None:
    """Three of A, of its scales and of D; two of B's scales, which have two columns."""
    call = arguments(DENSE, n=144, rows=3)
    for distance, near_enough in ((most, True), (most + step, False)):
        tensors = {"a": call.a, "sa": call.sa, "sb": call.sb, "out": call.new_out()}
        tensors[name] = far_apart(tensors[name], distance)
        out = tensors.pop("out")
        changed = call.with_(**tensors)
        held, obeyed = holds(changed, out), obeys(changed, out)
        assert (held, obeyed) == (near_enough, near_enough)


def groups_far_apart(x: Tensor, step: int) -> Tensor:
    """Matrices that many elements apart, in address space that takes no memory."""
    groups, rows, width = x.shape
    flat = far_apart(x.new_zeros(()).expand(groups, rows * width), step)
    return flat.as_strided(x.shape, (step, width, 1))


@pytest.mark.parametrize(
    ("layout", "name", "most", "step"),
    [
        *((layout, "b", 2**40 - 16, 16) for layout in (CONTIGUOUS, OFFSETS, MASKED)),
        (MASKED, "a", 2**40 - 16, 16),
        (MASKED, "out", 2**39 - 8, 8),
        (MASKED, "sa", 2**31 - 10, 1),
        (OFFSETS, "sb", 2**31 - 2, 1),
    ],
)
def test_matrices_too_far_apart_do_not_hold(layout: Layout, name: str, most: int, step: int) -> None:
    """Two of each; of scales it is the last number that may be too far from the first."""
    call = arguments(layout, groups=2)
    for distance, near_enough in ((most, True), (most + step, False)):
        tensors = {"a": call.a, "b": call.b, "sa": call.sa, "sb": call.sb, "out": call.new_out()}
        tensors[name] = groups_far_apart(tensors[name], distance)
        out = tensors.pop("out")
        changed = call.with_(**tensors)
        held, obeyed = holds(changed, out), obeys(changed, out)
        assert (held, obeyed) == (near_enough, near_enough)


def test_the_contract_is_what_this_is_held_to() -> None:
    """Not to a stand-in of it."""
    call = arguments(DENSE)
    assert isinstance(call.checked(call.new_out()), contract.Call)
