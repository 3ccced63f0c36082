"""Every rule of a call, broken once: the message says which argument, and the call it suggests mends it."""

import re
from types import SimpleNamespace
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from bad_calls import byte_shifted, call, far_apart, mended, negated, refused, strided, transposed_memory
from hypothesis import example, given, settings

import cute_gemm
from cute_gemm import fp8_gemm_nt, reference
from cute_gemm.contract import check, memory
from cute_gemm.plan.layouts import DENSE, OFFSETS
from cute_gemm.plan.problem import why_impossible

M, N, K = 4, 16, 256
E4M3 = torch.float8_e4m3fn
pytestmark = pytest.mark.filterwarnings(r"ignore:.*(Sparse CSR|nested tensors):UserWarning")


def arguments(m: int = M, n: int = N, k: int = K) -> dict[str, Any]:
    """A valid call, with an `out` that is not what it will be."""
    generator = torch.Generator().manual_seed(m + n + k)
    a, sa = cute_gemm.quantize_1x128(torch.randn(m, k, generator=generator))
    b, sb = cute_gemm.quantize_128x128(torch.randn(n, k, generator=generator))
    return {"a": a, "sa": sa, "b": b, "sb": sb, "out": torch.full((m, n), 7.0, dtype=torch.bfloat16)}


def packed(s: torch.Tensor) -> torch.Tensor:
    """The exponents of four scales along K in an int32."""
    padded = torch.nn.functional.pad(s, (0, -s.shape[1] % 4), value=1)
    return padded.to(torch.float8_e8m0fnu).view(torch.int32)


# argument, what becomes of it, error, what the message says; each is mended by the code the message suggests
MENDABLE = {
    "a bf16": (
        "a", lambda a: a.bfloat16(), TypeError, "has dtype torch.bfloat16; wanted torch.float8_e4m3fn",
    ),
    "a fp32": ("a", lambda a: a.float(), TypeError, "has dtype torch.float32"),
    "a fnuz": (
        "a", lambda a: (a.float() / 2).to(torch.float8_e4m3fnuz), TypeError, "keeps the values, except",
    ),
    "a bytes": ("a", lambda a: a.view(torch.uint8), TypeError, "has dtype torch.uint8"),
    "b bf16": ("b", lambda b: b.bfloat16(), TypeError, "`b, sb = cute_gemm.quantize_128x128(b)`"),
    "a fp64": ("a", lambda a: a.double(), TypeError, "`a, sa = cute_gemm.quantize_1x128(a.float())`"),
    "b bytes": ("b", lambda b: b.view(torch.int8), TypeError, "`b.view(torch.float8_e4m3fn)`"),
    "sa fp64": ("sa", lambda s: s.double(), TypeError, "has dtype torch.float64; wanted torch.float32"),
    "sa bf16": ("sa", lambda s: s.bfloat16(), TypeError, "`sa.to(torch.float32)`"),
    "sb e8m0": ("sb", lambda s: s.to(torch.float8_e8m0fnu), TypeError, "has dtype torch.float8_e8m0fnu"),
    "sb exponent bytes": (
        "sb", lambda s: s.to(torch.float8_e8m0fnu).view(torch.uint8), TypeError, "if these are packed",
    ),
    "sa packed exponents": ("sa", packed, TypeError, "[..., :2].to(torch.float32)`"),
    "sb packed exponents": ("sb", packed, TypeError, "if these are packed exponents"),
    "sa packed exponents, M-major": (
        "sa", lambda s: transposed_memory(packed(s)), TypeError, "`sa[..., None].view(torch.float8_e8m0fnu)",
    ),
    "sa packed exponents, M-major, padded": (
        "sa", lambda s: strided(packed(s.repeat(1, 4)).t(), M + 4).t()[:, :1], TypeError, ".flatten(-2)",
    ),
    "out fp16": ("out", lambda o: o.half(), TypeError, "wanted torch.bfloat16 or torch.float32"),
    "a 3-D row": (
        "a", lambda a: a.view(2, 2, K), ValueError, "has 3 dimensions, shape (2, 2, 256); wanted 2, [M, K]",
    ),
    "b is [K, N], a view": ("b", lambda b: b.t(), ValueError, "pass `b.t()`"),
    "b is [K, N], in memory": ("b", lambda b: b.t().contiguous(), ValueError, "pass `b.t().contiguous()`"),
    "out [N, M]": ("out", lambda o: o.t().contiguous(), ValueError, "wanted [M, N] = (4, 16)"),
    "out 1-D": ("out", lambda o: o.flatten(), ValueError, "has shape (64,)"),
    "out N not a multiple of 8": ("out", lambda o: o[:, :12].contiguous(), ValueError, "has shape (4, 12)"),
    "sa transposed": ("sa", lambda s: s.t(), ValueError, "looks transposed, `sa.t()`"),
    "sb transposed": ("sb", lambda s: s.t().contiguous(), ValueError, "looks transposed, `sb.t()`"),
    "sa per tensor": ("sa", lambda s: s[0, 0], ValueError, "`sa.reshape(1, 1).expand(4, 2)`"),
    "sa per row": ("sa", lambda s: s[:, 0], ValueError, "`sa.reshape(4, 1).expand(4, 2)`"),
    "sa per row, column": ("sa", lambda s: s[:, :1], ValueError, "`sa.reshape(4, 1).expand(4, 2)`"),
    "a K not contiguous": (
        "a", transposed_memory, ValueError, "has strides (1, 4) for shape (4, 256); wanted K",
    ),
    "b K not contiguous": ("b", transposed_memory, ValueError, "`b.contiguous()`"),
    "out N not contiguous": ("out", transposed_memory, ValueError, "wanted N contiguous"),
    "a every other column": (
        "a", lambda a: a.repeat_interleave(2, dim=1)[:, ::2], ValueError, "has strides (512, 2)",
    ),
    "a row stride": (
        "a", lambda a: strided(a, K + 8), ValueError, "rows are 264 bytes apart; wanted a multiple of 16",
    ),
    "b row stride": (
        "b", lambda b: strided(b, K + 1), ValueError, "rows are 257 bytes apart; wanted a multiple of 16",
    ),
    "out row stride": ("out", lambda o: strided(o, N + 4), ValueError, "rows are 40 bytes apart"),
    "out fp32 row stride": (
        "out", lambda o: strided(o.float(), N + 2), ValueError, "rows are 72 bytes apart",
    ),
    "a expanded": (
        "a", lambda a: a[:1].expand(M, K), ValueError, "rows are 0 bytes apart; wanted at least the 256",
    ),
    "b expanded": ("b", lambda b: b[:1].expand(N, K), ValueError, "rows do not overlap: `b.contiguous()`"),
    "out expanded": ("out", lambda o: o[:1].expand(M, N), ValueError, "at least the 32 of a row"),
    "a overlapping rows": (
        "a", lambda a: a.as_strided((M, K), (K - 16, 1)), ValueError, "rows are 240 bytes apart",
    ),
    "out overlapping rows": (
        "out", lambda o: o.as_strided((M, N), (N - 8, 1)), ValueError, "rows are 16 bytes apart",
    ),
    "a misaligned": (
        "a", lambda a: strided(a, K, offset=8), ValueError, "8 bytes off; wanted a multiple of 16",
    ),
    "b misaligned": (
        "b", lambda b: strided(b, K, offset=1), ValueError, "1 bytes off; wanted a multiple of 16",
    ),
    "out misaligned": (
        "out", lambda o: strided(o, N, offset=1), ValueError, "2 bytes off; wanted a multiple of 16",
    ),
    "sa misaligned": ("sa", byte_shifted, ValueError, "2 bytes off; wanted a multiple of 4: `sa.clone()`"),
    "sb misaligned": ("sb", byte_shifted, ValueError, "`sb.clone()`"),
    "sa negated": ("sa", negated, ValueError, "`sa.resolve_neg()`"),
    "sb negated": ("sb", negated, ValueError, "`sb.resolve_neg()`"),
    "out sparse": ("out", lambda o: o.to_sparse(), ValueError, "`torch.empty((4, 16), dtype=torch.bfloat16"),
    "sa sparse": ("sa", lambda s: s.to_sparse(), ValueError, "has layout torch.sparse_coo"),
    "sb sparse rows": ("sb", lambda s: s.to_sparse_csr(), ValueError, "`sb.to_dense()`"),
    "a wants a gradient": ("a", lambda a: a.requires_grad_(), ValueError, "requires a gradient"),
    "sa wants a gradient": ("sa", lambda s: s.requires_grad_(), ValueError, "`sa.detach()`"),
    "b wants a gradient": ("b", lambda b: b.requires_grad_(), ValueError, "`b.detach()`"),
    "sb parameter": ("sb", torch.nn.Parameter, ValueError, "`torch.no_grad()`"),
    "out wants a gradient": ("out", lambda o: o.requires_grad_(), ValueError, "`out.detach()`"),
}  # fmt: skip


@pytest.mark.parametrize(("argument", "change", "error", "says"), MENDABLE.values(), ids=MENDABLE)
def test_message_says_what_to_pass(argument: str, change: Any, error: type[Exception], says: str) -> None:
    given = arguments()
    given[argument] = change(given[argument])
    message = refused(given, error, argument)
    assert says in message
    given = mended(given, argument, message)
    expected = reference.fp8_gemm_nt(given["a"], given["sa"], given["b"], given["sb"], given["out"].dtype)
    torch.testing.assert_close(call(given), expected)


# the same, where the way out is more than one piece of code
REFUSED = {
    "a e5m2": ("a", lambda a: a.float().to(torch.float8_e5m2), TypeError, "quantise the original values"),
    "b e5m2": (
        "b", lambda b: b.float().to(torch.float8_e5m2), TypeError, "`b, sb = cute_gemm.quantize_128x128(x)`",
    ),
    "a int32": ("a", lambda a: a.int(), TypeError, "has dtype torch.int32"),
    "sa int32": ("sa", lambda s: s.int(), TypeError, "if these are packed exponents"),
    "a None": ("a", lambda a: None, TypeError, "is None; wanted a torch.Tensor"),
    "sa a number": ("sa", lambda s: 1.0, TypeError, "is a builtins.float; wanted a torch.Tensor"),
    "b numpy": ("b", lambda b: b.float().numpy(), TypeError, "is a numpy.ndarray"),
    "sb None": ("sb", lambda s: None, TypeError, "is None"),
    "out a dtype": ("out", lambda o: torch.float32, TypeError, "the result's dtype is `out_dtype=`"),
    "a 1-D": ("a", lambda a: a[0], ValueError, "`a[None]` is a single row"),
    "a 0-D": ("a", lambda a: a[0, 0], ValueError, "has 0 dimensions, shape (); wanted 2, [M, K]"),
    "b 3-D": ("b", lambda b: b[None], ValueError, "has 3 dimensions, shape (1, 16, 256); wanted 2, [N, K]"),
    "out 3-D": ("out", lambda o: o[None], ValueError, "has shape (1, 4, 16)"),
    "K differs": ("b", lambda b: b[:, :128].contiguous(), ValueError, "so K = 128, but a has K = 256"),
    "N not a multiple of 8": ("b", lambda b: b[:12], ValueError, "so N = 12; wanted a multiple of 8"),
    "sa of another K": (
        "sa", lambda s: s.repeat(1, 2), ValueError, "has shape (4, 4); wanted [M, ceil(K / 128)]",
    ),
    "sa of another M": ("sa", lambda s: s[:3], ValueError, "= (4, 2): `a, sa = cute_gemm.quantize_1x128(x)`"),
    "sa 3-D": ("sa", lambda s: s[None], ValueError, "has shape (1, 4, 2)"),
    "sb for other rows": ("sb", lambda s: s.expand(N - 1, 2), ValueError, "cute_gemm.quantize_128x128(x)`"),
    "sa nested": ("sa", lambda s: torch.nested.nested_tensor([s, s]), ValueError, "is nested"),
    "sa jagged": (
        "sa", lambda s: torch.nested.nested_tensor([s], layout=torch.jagged), TypeError, "a tensor subclass",
    ),
    "a meta": (
        "a", lambda a: a.to("meta"), ValueError, "is on device 'meta'; wanted 'cuda' (a Hopper GPU) or 'cpu'",
    ),
    "sb meta": ("sb", lambda s: s.to("meta"), ValueError, "is on device 'meta'"),
    "out meta": ("out", lambda o: o.to("meta"), ValueError, "is on device 'meta'"),
    "a too large": (
        "a", lambda a: a[:1].expand(2**31 - 1016, K), ValueError, "wanted no dimension above 2147482624",
    ),
    "b too large": (
        "b", lambda b: b[:1].expand(2**31 - 1016, K), ValueError, "wanted no dimension above 2147482624",
    ),
    "a row stride": ("a", lambda a: far_apart(a, 2**40), ValueError, "bytes apart; wanted less than 2^40"),
    "sa too far apart": (
        "sa", lambda s: far_apart(s, 2**30), ValueError, "its last element is 3221225473 elements",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("argument", "change", "error", "says"), REFUSED.values(), ids=REFUSED)
def test_message_says_what_is_wrong(argument: str, change: Any, error: type[Exception], says: str) -> None:
    given = arguments()
    given[argument] = change(given[argument])
    assert says in refused(given, error, argument)


PAIRS = {
    "one tensor": (lambda a, sa: a, TypeError, "is one tensor, torch.float8_e4m3fn of shape (4, 256) on cpu"),
    "a tensor of two": (
        lambda a, sa: a[:2],
        TypeError,
        "pass `(a, sa)`, as `a, sa = cute_gemm.quantize_1x128(x)`",
    ),
    "None": (lambda a, sa: None, TypeError, "is None"),
    "three items": (lambda a, sa: (a, sa, None), ValueError, "has 3 items"),
    "one item": (lambda a, sa: [a], ValueError, "has 1 items"),
    "a generator": (lambda a, sa: (x for x in (a, sa)), TypeError, "is a builtins.generator"),
}


@pytest.mark.parametrize(("pair", "error", "says"), PAIRS.values(), ids=PAIRS)
def test_what_is_no_pair_is_refused(pair: Any, error: type[Exception], says: str) -> None:
    given = arguments()
    with pytest.raises(error, match=r"^the pair \(a, sa\) ") as info:
        fp8_gemm_nt(pair(given["a"], given["sa"]), (given["b"], given["sb"]))
    assert says in str(info.value)
    with pytest.raises(error, match=r"^the pair \(b, sb\) "):
        fp8_gemm_nt((given["a"], given["sa"]), pair(given["b"], given["sb"]))


def test_lists_and_named_tuples_are_pairs() -> None:
    given = arguments()
    torch.testing.assert_close(
        fp8_gemm_nt([given["a"], given["sa"]], torch.return_types.max((given["b"], given["sb"]))), call(given)
    )


@pytest.mark.parametrize("k", [8, 24, 100, 257])
def test_k_is_a_multiple_of_16(k: int) -> None:
    message = refused(arguments(k=k), ValueError, "a")
    assert f"so K = {k}; wanted a multiple of 16" in message
    padding = int(re.search(r"pad\(x, \(0, (\d+)\)\)", message)[1])
    assert (k + padding) % 16 == 0
    call(arguments(k=k + padding))


@pytest.mark.parametrize("n", [1, 4, 12, 129])
def test_n_is_a_multiple_of_8(n: int) -> None:
    message = refused(arguments(n=n), ValueError, "b")
    padding = int(re.search(r"pad\(w, \(0, 0, 0, (\d+)\)\)", message)[1])
    assert (n + padding) % 8 == 0
    call(arguments(n=n + padding))


@pytest.mark.parametrize("out_dtype", [torch.float16, torch.float64, torch.int32, "bf16", None, []])
def test_out_dtype_is_one_that_is_stored(out_dtype: Any) -> None:
    given = {**arguments(), "out": None, "out_dtype": out_dtype}
    assert repr(out_dtype) in refused(given, TypeError, "out_dtype")


@pytest.mark.parametrize("out_dtype", [torch.float32, torch.float16])
def test_out_dtype_must_not_contradict_out(out_dtype: torch.dtype) -> None:
    given = {**arguments(), "out_dtype": out_dtype}
    message = refused(given, TypeError, "out_dtype")
    assert f"out_dtype is {out_dtype}, but out has dtype torch.bfloat16" in message
    given = {**mended(given, "out", message), "out_dtype": torch.float32}
    assert call(given).dtype is torch.float32


def test_gradients_may_be_wanted_where_none_is_recorded() -> None:
    given = arguments()
    expected = call(given).clone()
    for name in ("a", "sa", "b", "sb", "out"):
        given[name] = torch.nn.Parameter(given[name])
    with torch.no_grad():
        assert call(given) is given["out"]
    torch.testing.assert_close(given["out"].data, expected)


def test_a_subclass_with_memory_of_its_own_is_a_tensor() -> None:
    class Named(torch.Tensor):
        pass

    given = arguments()
    expected = call(given).clone()
    given["a"], given["out"] = given["a"].as_subclass(Named), given["out"].as_subclass(Named)
    assert call(given) is given["out"]
    assert torch.equal(given["out"], expected)


def test_vmapped_operands_are_refused() -> None:
    given = arguments()
    with pytest.raises(ValueError, match=r"^sa is inside a transform such as vmap"):
        torch.func.vmap(lambda s: fp8_gemm_nt((given["a"], s), (given["b"], given["sb"])))(given["sa"][None])


@pytest.mark.parametrize("name", ["a", "sa", "b", "sb", "out"])
@pytest.mark.parametrize(
    "make", [torch.nn.UninitializedParameter, torch.nn.UninitializedBuffer], ids=lambda make: make.__name__
)
def test_a_parameter_without_a_shape_is_called_so(name: str, make: Any) -> None:
    given = arguments()
    given[name] = make(requires_grad=False, dtype=given[name].dtype)
    message = refused(given, ValueError, name)
    assert f"is a torch.nn.parameter.{make.__name__}, which has no shape and no elements yet" in message


@pytest.mark.parametrize("name", ["a", "sa", "b", "sb", "out"])
def test_freed_memory_is_noticed(name: str) -> None:
    given = arguments()
    storage = given[name].untyped_storage()
    size = storage.size()
    storage.resize_(0)
    try:
        # Only the checks: whatever reads the tensor, if only to print it, would crash.
        lhs, rhs = (given["a"], given["sa"]), (given["b"], given["sb"])
        with pytest.raises(ValueError, match=rf"^{name}, .* has no memory behind it"):
            check(DENSE, lhs, rhs, given["out"], torch.bfloat16, None, 0, False)
    finally:
        storage.resize_(size)


@pytest.mark.parametrize("name", ["a", "sa", "b", "sb", "out"])
def test_devices_do_not_mix_even_where_nothing_is_computed(name: str) -> None:
    given = arguments(m=0) if name in ("a", "sa", "out") else arguments(n=0)
    given[name] = given[name].to("meta")
    # Nothing is said of moving it: it has nothing that could be moved.
    message = refused(given, ValueError, name)
    assert message.startswith(f"{name} is on device 'meta'; wanted ")
    assert f"`torch.empty_like({name}, device='cpu')`" in message


def test_meta_tensors_are_refused_even_where_nothing_is_computed() -> None:
    given = {name: x.to("meta") for name, x in arguments(0, 0, 0).items()}
    assert "is on device 'meta'" in refused(given, ValueError, "a")


def test_the_odd_device_out_is_the_one_to_move() -> None:
    on = [SimpleNamespace(device=torch.device(name), is_meta=False) for name in ("cpu", "cuda:1")]
    with pytest.raises(ValueError, match=r"^sa is on cpu; wanted one device, ") as info:
        memory.require_one_device(a=on[1], sa=on[0], b=on[1], sb=on[1])
    message = str(info.value)
    assert message.startswith("sa is on cpu; wanted one device, not a on cuda:1, sa on cpu, b on cuda:1, ")
    assert message.endswith("`sa.to('cuda:1')`")
    with pytest.raises(ValueError, match=r"`torch.empty_like\(out, device='cuda:1'\)`$"):
        memory.require_one_device(a=on[1], sa=on[1], b=on[1], sb=on[1], out=on[0])


def fused(rows: int, *widths: int) -> list[torch.Tensor]:
    """Columns of one row-major buffer of bytes, side by side."""
    buffer = torch.randint(0, 64, (rows, sum(widths)), dtype=torch.uint8)
    return list(buffer.split(widths, dim=1))


def test_a_fused_buffer_may_hold_inputs_and_result() -> None:
    a, out, scales = fused(M, 256, 32, 16)
    b, sb = arguments()["b"], arguments()["sb"]
    a, sa, out = a.view(E4M3), scales.view(torch.float32)[:, :2].fill_(0.5), out.view(torch.bfloat16)
    expected = reference.fp8_gemm_nt(a, sa, b, sb)
    kept = a.view(torch.uint8).clone()
    assert fp8_gemm_nt((a, sa), (b, sb), out) is out
    torch.testing.assert_close(out, expected)
    assert torch.equal(a.view(torch.uint8), kept)
    assert (scales.view(torch.float32)[:, :2] == 0.5).all()


def test_strides_of_extents_of_one_make_no_overlap() -> None:
    """Scales of one k-block, beside the rows of a result, whose strides along K may be any."""
    given = arguments(k=128)
    out, scales = fused(M, 32, 16)
    given["out"] = out.view(torch.bfloat16)
    expected = call(arguments(k=128))
    given["sa"] = scales.view(torch.float32)[:, :1].copy_(given["sa"]).as_strided((M, 1), (12, 13))
    torch.testing.assert_close(call(given), expected)


def test_each_row_of_out_may_touch_the_rows_of_an_input_before_and_behind() -> None:
    a, out = fused(M, 256, 32)
    given = {**arguments(), "a": a.view(E4M3), "out": out.view(torch.bfloat16)}
    expected = reference.fp8_gemm_nt(given["a"], given["sa"], given["b"], given["sb"])
    torch.testing.assert_close(call(given), expected)


def test_rows_may_alternate() -> None:
    buffer = torch.randint(0, 64, (2 * M, 256), dtype=torch.uint8)
    given = {**arguments(), "a": buffer[::2].view(E4M3), "out": buffer[1::2, 16:48].view(torch.bfloat16)}
    expected = reference.fp8_gemm_nt(given["a"], given["sa"], given["b"], given["sb"])
    torch.testing.assert_close(call(given), expected)


@pytest.mark.parametrize("out_first", [False, True])
@pytest.mark.parametrize("name", ["a", "sa", "b", "sb"])
def test_out_overlaps_an_input(name: str, out_first: bool) -> None:
    given = arguments(m=16, n=16, k=256)
    room = given[name].numel() * given[name].element_size()
    buffer = torch.zeros(room + 512, dtype=torch.uint8)
    # By no more than 16 bytes, the least that two aligned addresses allow.
    out_at, at = (0, 496) if out_first else ((room - 1) // 16 * 16, 0)
    given["out"] = buffer[out_at : out_at + 512].view(torch.bfloat16).view(16, 16)
    given[name] = buffer[at : at + room].view(given[name].dtype).view(given[name].shape).copy_(given[name])
    message = refused(given, ValueError, "out")
    assert message.startswith(f"out lies in the memory of {name}: ")
    torch.testing.assert_close(call(mended(given, "out", message)), call({**given, "out": None}))


def test_out_directly_behind_or_before_an_input_is_fine() -> None:
    given = arguments()
    buffer = torch.zeros(M * K + M * N * 2 + N * K, dtype=torch.uint8)
    first, middle, last = buffer.split([M * K, M * N * 2, N * K])
    given["a"] = first.view(E4M3).view(M, K).copy_(given["a"])
    given["b"] = last.view(E4M3).view(N, K).copy_(given["b"])
    given["out"] = middle.view(torch.bfloat16).view(M, N)
    torch.testing.assert_close(call(given), call(arguments()))


def bytes_of(x: torch.Tensor) -> set[int]:
    size = x.element_size()
    starts = [0]
    for count, stride in zip(x.shape, x.stride(), strict=True):
        starts = [start + i * stride * size for start in starts for i in range(count)]
    return {x.data_ptr() + start + byte for start in starts for byte in range(size)}


@st.composite
def layouts(draw: st.DrawFn) -> tuple[tuple[int, int, int], ...]:
    """Offset in 16 bytes, row stride in 16 bytes, for a and out; offset and strides of 4 bytes for sa."""
    stride = st.integers(2, 8)
    a, out = [(draw(st.integers(0, 20)), draw(stride), 0) for _ in range(2)]
    return a, out, (draw(st.integers(0, 100)), draw(st.integers(0, 40)), draw(st.integers(0, 40)))


@settings(max_examples=300, deadline=None)
@given(m=st.integers(1, 4), k=st.sampled_from([16, 32]), layout=layouts())
def test_out_is_refused_if_it_shares_a_byte(m: int, k: int, layout: tuple[tuple[int, int, int], ...]) -> None:
    (a_at, a_step, _), (out_at, out_step, _), (sa_at, sa_step, sa_inner) = layout
    buffer = torch.zeros(1024, dtype=torch.uint8)
    a = buffer.view(E4M3).as_strided((m, k), (16 * a_step, 1), 16 * a_at)
    out = buffer.view(torch.bfloat16).as_strided((m, 8), (8 * out_step, 1), 8 * out_at)
    sa = buffer.view(torch.float32).as_strided((m, 1), (sa_step, sa_inner), sa_at)
    b, sb = arguments(n=8, k=k)["b"], arguments(n=8, k=k)["sb"]
    shared = bytes_of(out) & (bytes_of(a) | bytes_of(sa))
    try:
        fp8_gemm_nt((a, sa), (b, sb), out)
    except ValueError as error:
        assert str(error).startswith("out lies in the memory of ")  # noqa: PT017
        if not shared:
            # Refused on suspicion, which rows that are equally far apart never raise.
            assert m > 1
            suspect = 4 * sa_step if "the memory of sa" in str(error) else 16 * a_step
            assert suspect != 16 * out_step
    else:
        assert not shared


@given(
    n=st.integers(-8, 300), k=st.integers(-16, 300), groups=st.sampled_from([-1, 0, 1, 2, 1022, 1023])
)  # fmt: skip
@example(n=8, k=16, groups=1022)
@example(n=8, k=16, groups=1023)
@example(n=0, k=16, groups=1)
def test_sizes_that_are_typed_are_held_to_the_same_rules(n: int, k: int, groups: int) -> None:
    """Only that there must be something to compute."""
    reason = why_impossible(n, k, groups)
    if min(n, k, groups) < 1:
        assert reason
        return
    a, b = (torch.zeros(*shape, k, dtype=torch.uint8).view(E4M3) for shape in ((1,), (groups, n)))
    scales = [torch.ones(*shape) for shape in ((1, -(-k // 128)), (groups, -(-n // 128), -(-k // 128)))]
    ends = torch.ones(groups, dtype=torch.int32)
    try:
        check(OFFSETS, (a, scales[0]), (b, scales[1]), None, torch.bfloat16, ends, 1, False)
    except ValueError as error:
        assert "wanted" in str(error)  # noqa: PT017
        assert reason
    else:
        assert not reason


def test_what_is_impossible_is_named() -> None:
    assert why_impossible(12, 16) == "N = 12 is not a positive multiple of 8"
    assert why_impossible(8, 24) == "K = 24 is not a positive multiple of 16"
    assert why_impossible(8, 16, 1023) == "1023 groups are not between 1 and 1022"
    assert why_impossible(8, 16, 1022) == ""
