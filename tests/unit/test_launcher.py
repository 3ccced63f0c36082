"""The short way: what it launches, what it leaves to the long one, and that it asks for no less than that."""

import ctypes
from typing import Any

import cutlass
import cutlass.cute as cute
import hypothesis.strategies as st
import pytest
import torch
from bad_calls import far_apart
from cutlass import Int32
from cutlass.cute.runtime import make_fake_tensor
from hypothesis import example, given, settings

import cute_gemm
from cute_gemm import ops
from cute_gemm.contract import product as checks
from cute_gemm.kernels.hopper import as_matrices
from cute_gemm.kernels.preconditions import is_plain
from cute_gemm.plan.limits import MAX_EXTENT, ceil_div
from cute_gemm.runtime import cache, quick
from cute_gemm.runtime import compiler as jit
from cute_gemm.runtime import semaphores as counters
from cute_gemm.testing import make_inputs

Operand = tuple[torch.Tensor, torch.Tensor]
M, N, K = 3, 16, 144
ON_THE_CPU = -1


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
            ctypes.c_int32.from_address(arguments[-1]).value = self.launches


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(quick, "_kernels", {})
    monkeypatch.setattr(quick, "_allocate", torch._C._dynamo.guards._empty_strided_cpu)
    kernel = Kernel()
    for dtype in (torch.bfloat16, torch.float32):
        quick.remember((M, N, K, False, dtype, ON_THE_CPU, None, False, False), kernel, 132, 6, False)
    return kernel


@pytest.fixture
def operands() -> tuple[Operand, Operand]:
    return make_inputs(M, N, K)


def call(operands: tuple[Any, Any], out: Any = None, out_dtype: Any = torch.bfloat16) -> Any:
    return quick.fp8_gemm_nt(*operands, out, out_dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("allocate", [False, True])
def test_what_is_plain_is_launched_and_returned(
    kernel: Kernel, operands: tuple[Operand, Operand], dtype: torch.dtype, allocate: bool
) -> None:
    out = None if allocate else torch.empty(M, N, dtype=dtype)
    result = call(operands, out, dtype if allocate else torch.bfloat16)
    ((a, sa, b, sb, written, *options, _),) = kernel.calls
    (wanted_a, wanted_sa), (wanted_b, wanted_sb) = operands
    assert (a is wanted_a, sa is wanted_sa, b is wanted_b, sb is wanted_sb) == (True,) * 4
    assert written is result
    assert options == [132, 6, 0]
    assert (result.shape, result.stride(), result.dtype) == ((M, N), (N, 1), dtype)
    if out is not None:
        assert result is out
        assert out._version == 1


class Own(torch.Tensor):
    pass


def negated(rows: int) -> torch.Tensor:
    """Scales whose memory has the wrong sign."""
    return torch.zeros(rows, 2, dtype=torch.complex64).conj().imag


def own(x: torch.Tensor) -> torch.Tensor:
    return x.as_subclass(Own)


def trained(x: torch.Tensor) -> torch.Tensor:
    return x.clone().requires_grad_()


LEFT: dict[str, Any] = {
    "no pair": lambda a, b: ((a[0],), b),
    "a list": lambda a, b: (list(a), b),
    "no tensor": lambda a, b: ((a[0], None), b),
    "three dimensions": lambda a, b: ((a[0][None], a[1]), b),
    "a shape that is new": lambda a, b: ((a[0][:1], a[1][:1]), b),
    "other scales": lambda a, b: ((a[0], a[1].new_zeros(2, 4).T[:M]), b),
    "scales of one dimension": lambda a, b: ((a[0], a[1][0]), b),
    "a pending negation of A's": lambda a, b: ((a[0], negated(M)), b),
    "a pending negation of B's": lambda a, b: (a, (b[0], negated(1))),
}


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("change", [own, trained])
def test_operands_that_are_not_plain_tensors_are_left_alone(
    kernel: Kernel, operands: tuple[Operand, Operand], change: Any, place: int
) -> None:
    tensors = [x for operand in operands for x in operand]
    if change is trained and place % 2 == 0:
        # As a parameter of a layer may be.
        tensors[place] = torch.nn.Parameter(tensors[place].float()).to(tensors[place].dtype)
    else:
        tensors[place] = change(tensors[place])
    a, sa, b, sb = tensors
    assert call(((a, sa), (b, sb))) is None
    assert not kernel.calls


@pytest.mark.parametrize("case", LEFT)
def test_what_is_not_is_left_alone(kernel: Kernel, operands: tuple[Operand, Operand], case: str) -> None:
    assert call(LEFT[case](*operands)) is None
    assert not kernel.calls


@pytest.mark.parametrize(
    ("out", "out_dtype"),
    [
        (torch.zeros(M, N, dtype=torch.bfloat16), torch.float32),
        (torch.zeros(M, N, dtype=torch.float16), torch.bfloat16),
        (torch.zeros(M, N, dtype=torch.bfloat16).as_subclass(Own), torch.bfloat16),
        (torch.zeros(M, N, dtype=torch.bfloat16, requires_grad=True), torch.bfloat16),
        (None, torch.float16),
        (None, []),
        ("no tensor", torch.bfloat16),
    ],
)
def test_a_result_that_is_not_plain_is_left_alone(
    kernel: Kernel, operands: tuple[Operand, Operand], out: Any, out_dtype: Any
) -> None:
    assert call(operands, out, out_dtype) is None
    assert not kernel.calls


def test_other_settings_are_left_alone(kernel: Kernel, operands: tuple[Operand, Operand]) -> None:
    with cute_gemm.config(num_sms=7):
        assert call(operands) is None
    with cute_gemm.config(batch_invariant=True):
        assert call(operands) is None
    with cute_gemm.config(pdl=True):
        assert call(operands) is None
    assert not kernel.calls
    assert call(operands) is not None


def test_a_gradient_that_nobody_records_does_not_matter(
    kernel: Kernel, operands: tuple[Operand, Operand]
) -> None:
    (a, sa), b = operands
    with torch.no_grad():
        assert call(((a, sa.requires_grad_()), b)) is not None


@pytest.mark.parametrize(
    "error", [None, ValueError("a rule"), TypeError("a type"), RuntimeError("no memory")]
)
def test_what_a_kernel_refuses_goes_the_long_way(
    kernel: Kernel, operands: tuple[Operand, Operand], error: Exception | None
) -> None:
    kernel.launches, kernel.error = False, error
    out = torch.zeros(M, N, dtype=torch.bfloat16)
    assert call(operands, out) is None
    assert out._version == 0


def test_what_a_kernel_does_not_say_was_not_launched(
    kernel: Kernel, operands: tuple[Operand, Operand]
) -> None:
    assert call(operands) is not None
    kernel.launches = None
    assert call(operands) is None


def test_several_devices_have_a_current_one(
    kernel: Kernel, operands: tuple[Operand, Operand], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quick, "_several_devices", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert call(operands) is None
    monkeypatch.setattr(torch.cuda, "current_device", lambda: ON_THE_CPU)
    assert call(operands) is not None


def test_the_operation_goes_the_short_way_first(
    kernel: Kernel, operands: tuple[Operand, Operand], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "product", None)
    out = torch.zeros(M, N, dtype=torch.bfloat16)
    assert ops.fp8_gemm_nt(*operands, out) is out
    assert len(kernel.calls) == 1


def test_a_kernel_that_draws_gets_a_counter(
    kernel: Kernel, operands: tuple[Operand, Operand], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "address", lambda device: 4096)
    for draws, address in (False, 0), (True, 4096):
        key = (M, N, K, False, torch.bfloat16, ON_THE_CPU, None, False, False)
        quick.remember(key, kernel, 132, 6, draws)
        assert call(operands) is not None
        assert kernel.calls[-1][5:8] == (132, 6, address)


def test_compiled_code_does_not_depend_on_what_is_remembered(
    kernel: Kernel, operands: tuple[Operand, Operand]
) -> None:
    """Its guards would; and code that is compiled anew for every shape gives up after a few."""

    @torch.compile(backend="eager")
    def asks(x: torch.Tensor) -> bool:
        torch._dynamo.graph_break()
        return call(operands) is None

    with torch._dynamo.config.patch(error_on_recompile=True):
        for m in range(20):
            quick.remember((m,), kernel, 132, 6, False)
            assert asks(torch.zeros(1))


def test_memory_is_bounded(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quick, "_MOST", 3)
    for m in range(9):
        quick.remember((m,), kernel, 1, 0, False)
        assert len(quick._kernels) <= 3


# What host code finds plain


@cute.jit
def judge(
    a: cute.Tensor, sa: cute.Tensor, b: cute.Tensor, sb: cute.Tensor, out: cute.Tensor, said: cute.Tensor
):
    said[0] = Int32(is_plain(*(as_matrices(x) for x in (a, sa, b, sb, out))))


def is_plain_by_host_code(a: Any, sa: Any, b: Any, sb: Any, out: Any) -> bool:
    """What a kernel's host code says, or its argument checks before that."""

    def build() -> Any:
        m, n, k, k_blocks, n_blocks = (cute.sym_int32() for _ in range(5))

        def matrix(dtype: Any, *shape: Any, align: int = 16) -> Any:
            stride = (cute.sym_int64(divisibility=16 * 8 // dtype.width), 1)
            return make_fake_tensor(
                dtype, shape, stride, memspace=cute.AddressSpace.generic, assumed_align=align
            )

        def scales(*shape: Any) -> Any:
            stride = (cute.sym_int64(), cute.sym_int64())
            return make_fake_tensor(
                cutlass.Float32, shape, stride, memspace=cute.AddressSpace.generic, assumed_align=4
            )

        said = make_fake_tensor(Int32, (1,), (1,), memspace=cute.AddressSpace.generic)
        e4m3 = cutlass.Uint8
        operands = matrix(e4m3, m, k), scales(m, k_blocks), matrix(e4m3, n, k), scales(n_blocks, k_blocks)
        return judge, (*operands, matrix(cutlass.BFloat16, m, n), said)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.DIRECTORY_VARIABLE, "")
        function = jit.instance("is_plain", build, "what is plain")
    said = torch.full((1,), -1, dtype=torch.int32)
    try:
        function(a.view(torch.uint8), sa, b.view(torch.uint8), sb, out, said)
    except (TypeError, ValueError, RuntimeError):
        return False
    return bool(said)


BUFFER = torch.zeros(1 << 14, dtype=torch.uint8)


def placed(dtype: torch.dtype, shape: tuple[int, int], strides: tuple[int, int], place: int) -> torch.Tensor:
    """A view into the one buffer, ``place`` elements behind its start."""
    return BUFFER.view(dtype).as_strided(shape, strides, place)


@st.composite
def products(draw: Any) -> tuple[torch.Tensor, ...]:
    """Operands and a result anywhere in one buffer, mostly in order."""

    def around(right: int, *wrong: int) -> int:
        return draw(st.sampled_from([right] * 6 + list(wrong)))

    m, n, k = (
        draw(st.integers(1, 5)),
        draw(st.sampled_from([8, 16, 12])),
        draw(st.sampled_from([16, 144, 24])),
    )
    k_blocks, n_blocks = -(-k // 128), 1

    def place(size: int) -> int:
        return draw(st.integers(0, 12)) * 1024 // size + around(0, 0, 8, 16 // size, 1)

    a = placed(torch.float8_e4m3fn, (m, k), (around(k, k + 16, k + 8, 8, 160, 0), around(1, 2)), place(1))
    b = placed(torch.float8_e4m3fn, (around(n, 8), around(k, 16)), (around(k, 160, 0), 1), place(1))
    sa_shape = around(m, 1), around(k_blocks, 1, 2)
    sa = placed(torch.float32, sa_shape, (around(k_blocks, 1, 0), around(1, m, 4)), place(4))
    sb = placed(torch.float32, (around(n_blocks, 2), around(k_blocks, 1)), (around(k_blocks, 0), 1), place(4))
    out = placed(
        torch.bfloat16, (around(m, 1), around(n, 8)), (around(n, n + 8, 4, 40), around(1, 2)), place(2)
    )
    return a, sa, b, sb, out


def in_order() -> tuple[torch.Tensor, ...]:
    (a, sa), (b, sb) = make_inputs(M, N, K)
    return a, sa, b, sb, torch.zeros(M, N, dtype=torch.bfloat16)


@settings(max_examples=600, deadline=None)
@example(in_order())
@given(products())
def test_what_host_code_finds_plain_obeys_all_rules(product: tuple[torch.Tensor, ...]) -> None:
    a, sa, b, sb, out = product
    if is_plain_by_host_code(*product):
        checks.product((a, sa), 2, (b, sb), 2, out, torch.bfloat16)


def test_what_is_in_order_is_plain() -> None:
    a, sa, b, sb, out = in_order()
    assert is_plain_by_host_code(a, sa, b, sb, out)
    # Rows further apart, scales in any order, a result beside an operand.
    padded = torch.zeros(M, 160, dtype=torch.uint8).view(torch.float8_e4m3fn)[:, :K]
    assert is_plain_by_host_code(padded, sa.T.contiguous().T, b, sb.expand(1, 2), out)
    both = torch.zeros(M * (N * 2 + K), dtype=torch.uint8)
    behind = both[M * N * 2 :].view(torch.float8_e4m3fn).view(M, K)
    assert is_plain_by_host_code(behind, sa, b, sb, both[: M * N * 2].view(torch.bfloat16).view(M, N))


def over(x: torch.Tensor) -> torch.Tensor:
    """A result in the memory of ``x``."""
    return x.view(torch.uint8).flatten()[: 2 * M * N].view(torch.bfloat16).view(M, N)


def roomy(scales: torch.Tensor) -> torch.Tensor:
    """The same scales in memory that has room for a result."""
    rows, columns = scales.shape
    return torch.zeros(rows, 64)[:, :columns].copy_(scales)


BENT: dict[str, Any] = {
    "N is no multiple of 8": lambda a, sa, b, sb, out: (a, sa, b[:12], sb, out[:, :12]),
    "K is no multiple of 16": lambda a, sa, b, sb, out: (a[:, :136], sa, b[:, :136], sb, out),
    "more scales along K than k-blocks": lambda a, sa, b, sb, out: (a[:, :128], sa, b[:, :128], sb, out),
    "more rows of scales of B": lambda a, sa, b, sb, out: (a, sa, b, sb.expand(2, 2), out),
    "rows of A overlap": lambda a, sa, b, sb, out: (a.as_strided((M, K), (16, 1)), sa, b, sb, out),
    "rows of B overlap": lambda a, sa, b, sb, out: (a, sa, b.as_strided((N, K), (0, 1)), sb, out),
    "rows of D overlap": lambda a, sa, b, sb, out: (a, sa, b, sb, out.as_strided((M, N), (8, 1))),
    "D over A": lambda a, sa, b, sb, out: (a, sa, b, sb, over(a)),
    "D over B": lambda a, sa, b, sb, out: (a, sa, b, sb, over(b)),
    "D over scales of A": lambda a, sa, b, sb, out: (a, (s := roomy(sa)), b, sb, over(s._base)),
    "D over scales of B": lambda a, sa, b, sb, out: (a, sa, b, (s := roomy(sb)), over(s._base)),
}


def vast(m: int, n: int, k: int) -> tuple[torch.Tensor, ...]:
    """A product of any extents, in address space that takes no memory."""

    def matrix(dtype: torch.dtype, rows: int, columns: int) -> torch.Tensor:
        return far_apart(torch.zeros(1, 1, dtype=dtype).expand(rows, columns), columns)

    k_blocks, e4m3 = ceil_div(k, 128), torch.float8_e4m3fn
    a, sa = matrix(e4m3, m, k), matrix(torch.float32, m, k_blocks)
    b, sb = matrix(e4m3, n, k), matrix(torch.float32, ceil_div(n, 128), k_blocks)
    return a, sa, b, sb, matrix(torch.bfloat16, m, n)


@pytest.mark.parametrize("place", range(3))
def test_extents_beyond_the_limit_are_not_plain(place: int) -> None:
    extents = [16, 16, 16]
    extents[place] = MAX_EXTENT
    assert is_plain_by_host_code(*vast(*extents))
    extents[place] = MAX_EXTENT + 16
    assert not is_plain_by_host_code(*vast(*extents))


@pytest.mark.parametrize(("place", "most"), [(0, 2**40 - 16), (1, 2**30 - 1), (3, 2**31 - 2), (4, 2**39 - 8)])
def test_steps_beyond_the_limit_are_not_plain(place: int, most: int) -> None:
    """Of rows: three of A, of its scales and of D, two of B's scales, which have two columns."""
    a, sa, b, sb, out = in_order()
    product = [a, sa, torch.cat([b.view(torch.uint8)] * 9).view(b.dtype), sb.repeat(2, 1), out.repeat(1, 9)]
    assert is_plain_by_host_code(*product)
    step = 1 if place in (1, 3) else 16 // product[place].element_size()
    product[place] = far_apart(product[place], most)
    assert is_plain_by_host_code(*product)
    product[place] = far_apart(product[place], most + step)
    assert not is_plain_by_host_code(*product)


@pytest.mark.parametrize("place", range(5))
def test_memory_that_was_freed_is_not_plain(place: int) -> None:
    product = [x.clone() for x in in_order()]
    assert is_plain_by_host_code(*product)
    product[place].untyped_storage().resize_(0)
    assert not is_plain_by_host_code(*product)


@pytest.mark.parametrize("case", BENT)
def test_what_breaks_a_rule_is_not_plain(case: str) -> None:
    product = BENT[case](*in_order())
    assert not is_plain_by_host_code(*product)
    a, sa, b, sb, out = product
    with pytest.raises(ValueError, match=r"^(a|sa|b|sb|out) "):
        checks.product((a, sa), 2, (b, sb), 2, out, torch.bfloat16)
