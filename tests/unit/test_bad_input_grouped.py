"""Every rule of a grouped call beyond those of a dense one, broken once, as in test_bad_input.py."""

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from bad_calls import OPERATIONS, byte_shifted, call, far_apart, mended, refused
from hypothesis import given, settings

from cute_gemm import reference
from cute_gemm.contract import Call, grouping
from cute_gemm.plan import limits
from cute_gemm.plan.layouts import CONTIGUOUS, MASKED, OFFSETS
from cute_gemm.testing import make_contiguous_inputs, make_masked_inputs, make_offsets_inputs

G, M, N, K = 2, 4, 16, 256
E4M3 = torch.float8_e4m3fn

LAYOUTS = {layout.index.name: layout for layout in (CONTIGUOUS, OFFSETS, MASKED)}


def arguments(index: str, n: int = N, k: int = K, groups: int = G) -> dict[str, Any]:
    """A valid call of the operation that has this index; every row is in a group."""
    sizes = [0] * groups
    sizes[-1] = M
    inputs = {
        "group_index": lambda: make_contiguous_inputs(sizes, n, k),
        "offsets": lambda: make_offsets_inputs(sizes, n, k),
        "valid_rows": lambda: make_masked_inputs([M] * groups, M, n, k),
    }[index]()
    rows = slice(M) if index == "group_index" else slice(None)
    (a, sa), (b, sb) = inputs.lhs, inputs.rhs
    given = {"a": a[rows], "sa": sa[rows], "b": b, "sb": sb, index: inputs.index[rows]}
    out = torch.full((*inputs.row_groups[rows].shape, n), 7.0, dtype=torch.bfloat16)
    return {**given, **({"expected_rows": 3} if index == "valid_rows" else {}), "out": out}


def matrices(x: torch.Tensor, group_stride: int, row_stride: int) -> torch.Tensor:
    """The matrices with these strides, in elements."""
    groups, rows, columns = x.shape
    room = (groups - 1) * group_stride + (rows - 1) * row_stride + columns
    return torch.zeros(room, dtype=x.dtype).as_strided(x.shape, (group_stride, row_stride, 1)).copy_(x)


def matrices_far_apart(x: torch.Tensor) -> torch.Tensor:
    return far_apart(x.flatten(1), 2**40).unflatten(1, x.shape[1:])


# index, argument, what becomes of it, error, what the message says; each is mended by the code it suggests
MENDABLE = {
    "group_index int64": (
        "group_index", "group_index", lambda x: x.long(), TypeError,
        "has dtype torch.int64; wanted torch.int32: `group_index.to(torch.int32)`",
    ),
    "offsets fp32": ("offsets", "offsets", lambda x: x.float(), TypeError, "has dtype torch.float32"),
    "valid_rows int16": ("valid_rows", "valid_rows", lambda x: x.short(), TypeError, "wanted torch.int32"),
    "group_index every other": (
        "group_index", "group_index", lambda x: x.repeat_interleave(2)[::2], ValueError,
        "has stride 2; wanted its elements one behind the other",
    ),
    "offsets repeated": ("offsets", "offsets", lambda x: x[1:].expand(2), ValueError, "has stride 0"),
    "offsets with a 0 in front": (
        "offsets", "offsets", lambda x: torch.nn.functional.pad(x, (1, 0)), ValueError,
        "has shape (3,); wanted [G] = (2,), one for each of the matrices of b: if they begin with a 0",
    ),
    "valid_rows misaligned": (
        "valid_rows", "valid_rows", byte_shifted, ValueError, "2 bytes off; wanted a multiple of 4",
    ),
    "offsets sparse": ("offsets", "offsets", lambda x: x.to_sparse(), ValueError, "has layout torch.sparse"),
    "a 3-D where a matrix is wanted": (
        "offsets", "a", lambda a: a.view(2, 2, K), ValueError, "shape (2, 2, 256); wanted 2, [M, K]",
    ),
    "b bf16": ("offsets", "b", lambda b: b.bfloat16(), TypeError, "`b, sb = cute_gemm.quantize_128x128(b)`"),
    "a bf16": ("valid_rows", "a", lambda a: a.bfloat16(), TypeError, "`a, sa = cute_gemm.quantize_1x128(a)`"),
    "b is [G, K, N], a view": (
        "group_index", "b", lambda b: b.mT, ValueError,
        "wanted [G, N, 256]: if it is stored as [G, K, N], pass `b.transpose(1, 2)`, with scales "
        "[G, ceil(N / 128), ceil(K / 128)]",
    ),
    "b is [G, K, N], in memory": (
        "group_index", "b", lambda b: b.mT.contiguous(), ValueError, "`b.transpose(1, 2).contiguous()`",
    ),
    "sb transposed": ("offsets", "sb", lambda s: s.mT, ValueError, "looks transposed, `sb.transpose(1, 2)`"),
    "sa transposed": ("valid_rows", "sa", lambda s: s.mT, ValueError, "`sa.transpose(1, 2)`"),
    "sb per tensor": (
        "group_index", "sb", lambda s: s[0, 0, 0], ValueError, "`sb.reshape(1, 1, 1).expand(2, 1, 2)`",
    ),
    "sa per row": (
        "valid_rows", "sa", lambda s: s[..., 0], ValueError, "`sa.reshape(2, 4, 1).expand(2, 4, 2)`",
    ),
    "a K not contiguous": (
        "valid_rows", "a", lambda a: a.mT.contiguous().mT, ValueError,
        "has strides (1024, 1, 4) for shape (2, 4, 256); wanted K contiguous",
    ),
    "out N not contiguous": (
        "valid_rows", "out", lambda o: o.mT.contiguous().mT, ValueError, "wanted N contiguous",
    ),
    "out of one matrix": (
        "valid_rows", "out", lambda o: o.flatten(0, 1), ValueError,
        "has shape (8, 16); wanted [G, capacity, N] = (2, 4, 16)",
    ),
    "out of several": (
        "offsets", "out", lambda o: o.view(2, 2, N), ValueError, "shape (2, 2, 16); wanted [M, N] = (4, 16)",
    ),
    "out fp16": ("valid_rows", "out", lambda o: o.half(), TypeError, "`torch.empty((2, 4, 16), dtype="),
    "b row stride": (
        "group_index", "b", lambda b: matrices(b, 2**14, K + 8), ValueError, "rows are 264 bytes apart",
    ),
    "b group stride": (
        "group_index", "b", lambda b: matrices(b, N * K + 8, K), ValueError,
        "has strides (4104, 256, 1) for shape (2, 16, 256), so its matrices are 4104 bytes apart; "
        "wanted a multiple of 16: `b.contiguous()`",
    ),
    "out group stride": (
        "valid_rows", "out", lambda o: matrices(o, M * N + 4, N), ValueError, "matrices are 136 bytes apart",
    ),
    "b expanded": (
        "offsets", "b", lambda b: b[:1].expand(G, N, K), ValueError,
        "matrices are 0 bytes apart; wanted at least 4096, so that they do not overlap: `b.contiguous()`",
    ),
    "a expanded": (
        "valid_rows", "a", lambda a: a[:1].expand(G, M, K), ValueError, "matrices are 0 bytes apart",
    ),
    "out expanded": (
        "valid_rows", "out", lambda o: o[:1].expand(G, M, N), ValueError, "matrices are 0 bytes apart",
    ),
    "b overlapping": (
        "offsets", "b", lambda b: b.flatten().as_strided((G, N, K), (N * K - 16, K, 1)), ValueError,
        "wanted at least 4096, so that they do not overlap; or rows at least 4336 apart, not 256, to inter",
    ),
    "a interleaved too closely": (
        "valid_rows", "a", lambda a: a.flatten().as_strided((G, M, K), (K, 2 * K - 16, 1)), ValueError,
        "wanted at least 1744, so that they do not overlap; or rows at least 512 apart, not 496, to inter",
    ),
    "out interleaved too closely": (
        "valid_rows", "out", lambda o: o.flatten().as_strided((G, M, N), (N, 2 * N - 8, 1)), ValueError,
        "or rows at least 64 apart, not 48, to interleave: `torch.empty((2, 4, 16)",
    ),
    "b misaligned": (
        "offsets", "b", lambda b: torch.cat([b.flatten()[:8], b.flatten()])[8:].view(b.shape), ValueError,
        "8 bytes off; wanted a multiple of 16: `b.clone()`",
    ),
    "b wants a gradient": ("offsets", "b", lambda b: b.requires_grad_(), ValueError, "`b.detach()`"),
}  # fmt: skip


@pytest.mark.parametrize(("index", "argument", "change", "error", "says"), MENDABLE.values(), ids=MENDABLE)
def test_message_says_what_to_pass(
    index: str, argument: str, change: Any, error: type[Exception], says: str
) -> None:
    given = arguments(index)
    given[argument] = change(given[argument])
    message = refused(given, error, argument)
    assert says in message
    given = mended(given, argument, message)
    expected = torch.empty_like(given["out"], memory_format=torch.contiguous_format)
    operands = (given[name] for name in ("a", "sa", "b", "sb"))
    shape, dtype, count = tuple(expected.shape), expected.dtype, {"offsets": 1, "valid_rows": 3}.get(index, 0)
    reference.compute(Call(LAYOUTS[index], *operands, expected, dtype, shape, given[index], count))
    torch.testing.assert_close(call(given), expected)


# the same, where the way out is more than one piece of code
REFUSED = {
    "group_index None": ("group_index", "group_index", lambda x: None, TypeError, "is None; wanted a torch"),
    "offsets a list": ("offsets", "offsets", lambda x: x.tolist(), TypeError, "is a builtins.list"),
    "group_index of another M": (
        "group_index", "group_index", lambda x: x[:3], ValueError,
        "has shape (3,); wanted [M] = (4,), one for each of the rows of a",
    ),
    "group_index 2-D": ("group_index", "group_index", lambda x: x[None], ValueError, "has shape (1, 4)"),
    "offsets of fewer groups": (
        "offsets", "offsets", lambda x: x[:1], ValueError,
        "offsets has shape (1,); wanted [G] = (2,), one for each of the matrices of b",
    ),
    "valid_rows 0-D": ("valid_rows", "valid_rows", lambda x: x[0], ValueError, "has shape (); wanted [G]"),
    "group_index meta": (
        "group_index", "group_index", lambda x: x.to("meta"), ValueError, "is on device 'meta'; wanted 'cu",
    ),
    "b 2-D": (
        "group_index", "b", lambda b: b[0], ValueError,
        "has 2 dimensions, shape (16, 256); wanted 3, [G, N, K]: `b[None]` is a single group",
    ),
    "b 1-D": ("group_index", "b", lambda b: b[0, 0], ValueError, "has 1 dimensions, shape (256,); wanted 3"),
    "a 2-D": (
        "valid_rows", "a", lambda a: a[0], ValueError,
        "wanted 3, [G, capacity, K]: `a[None]` is a single group",
    ),
    "a 4-D": ("valid_rows", "a", lambda a: a[None], ValueError, "`a.flatten(0, -3)` joins"),
    "a of another G": (
        "valid_rows", "a", lambda a: a[:1], ValueError, "sa has shape (2, 4, 2); wanted [G, capacity, ",
    ),
    "K differs": (
        "offsets", "b", lambda b: b[..., :128].contiguous(), ValueError,
        "so K = 128, but a has K = 256; wanted [G, N, 256]",
    ),
    "N not a multiple of 8": (
        "offsets", "b", lambda b: b[:, :12], ValueError, "so N = 12; wanted a multiple of 8",
    ),
    "sb of one matrix": (
        "offsets", "sb", lambda s: s[0], ValueError,
        "has shape (1, 2); wanted [G, ceil(N / 128), ceil(K / 128)] = (2, 1, 2)",
    ),
    "b matrices too far apart": (
        "offsets", "b", matrices_far_apart, ValueError, "bytes apart; wanted less than 2^40",
    ),
    "sb matrices too far apart": (
        "offsets", "sb", lambda s: far_apart(s.flatten(1), 2**31).unflatten(1, s.shape[1:]), ValueError,
        "its last element is 2147483649 elements behind its first",
    ),
    "sa matrices too far apart": (
        "valid_rows", "sa", lambda s: far_apart(s.flatten(1), 2**31).unflatten(1, s.shape[1:]), ValueError,
        "its last element is 2147483655 elements behind its first",
    ),
    "expected_rows 0": ("valid_rows", "expected_rows", lambda x: 0, ValueError, "is 0; wanted at least 1"),
    "expected_rows a tensor": (
        "valid_rows", "expected_rows", torch.tensor, TypeError,
        "is a torch.Tensor; wanted an int that the host knows: `int(expected_rows)`, which waits",
    ),
    "expected_rows None": ("valid_rows", "expected_rows", lambda x: None, TypeError, "is None; wanted an in"),
    "expected_rows a mean": (
        "valid_rows", "expected_rows", lambda x: 2.5, TypeError, "is a builtins.float; wanted an int",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("index", "argument", "change", "error", "says"), REFUSED.values(), ids=REFUSED)
def test_message_says_what_is_wrong(
    index: str, argument: str, change: Any, error: type[Exception], says: str
) -> None:
    given = arguments(index)
    given[argument] = change(given[argument])
    assert says in refused(given, error, says.split(" ")[0] if says.startswith("sa ") else argument)


def test_the_order_of_arguments_in_deep_gemm_is_explained() -> None:
    given = arguments("group_index")
    given["group_index"], given["out"] = given["out"], given["group_index"]
    says = "an index of groups comes before `out`, unlike in DeepGEMM; for a result `torch.empty((4, 16), "
    assert says in refused(given, TypeError, "out")

    given = arguments("valid_rows")
    order = given["out"], given["valid_rows"], given["expected_rows"]
    given["valid_rows"], given["expected_rows"], given["out"] = order
    says = "wanted an int that the host knows; an index of groups comes before it, and `out` behind it, un"
    assert says in refused(given, TypeError, "expected_rows")


@pytest.mark.parametrize("alignment", [0, -1, 1025])
def test_alignment_is_in_range(alignment: int) -> None:
    message = refused({**arguments("offsets"), "alignment": alignment}, ValueError, "alignment")
    assert message == f"alignment is {alignment}; wanted at least 1 and at most 1024"


@pytest.mark.parametrize("alignment", [True, 128.0, None, torch.tensor(128)])
def test_alignment_is_an_int(alignment: Any) -> None:
    refused({**arguments("offsets"), "alignment": alignment}, TypeError, "alignment")


def test_of_several_numbers_no_int_is_advised() -> None:
    message = refused({**arguments("offsets"), "alignment": torch.ones(2)}, TypeError, "alignment")
    assert message == "alignment is a torch.Tensor; wanted an int that the host knows"


def test_the_last_row_rounded_up_to_an_alignment_has_32_bits() -> None:
    assert limits.MAX_EXTENT + limits.MAX_ALIGNMENT - 1 == 2**31 - 1


every_index = pytest.mark.parametrize("index", OPERATIONS)


@every_index
def test_more_groups_than_a_table_holds_are_refused(index: str) -> None:
    call(arguments(index, 8, 16, limits.MAX_GROUPS))
    message = refused(arguments(index, 8, 16, limits.MAX_GROUPS + 1), ValueError, "b")
    assert message.startswith("b has shape (1023, 8, 16), so G = 1023; wanted 1 to 1022 groups")


@every_index
def test_no_group_is_refused(index: str) -> None:
    given = arguments(index)
    for name in ("b", "sb", *(("a", "sa", "out", index) if index == "valid_rows" else ())):
        given[name] = given[name][:0]
    assert "so G = 0; wanted 1 to 1022 groups" in refused(given, ValueError, "b")


def test_every_group_has_a_matrix_of_a() -> None:
    given = arguments("valid_rows")
    given["a"], given["sa"] = given["a"][:1], given["sa"][:1]
    message = refused(given, ValueError, "a")
    assert "so G = 1, but b has shape (2, 16, 256); wanted one matrix for each of the 2 groups" in message


@every_index
def test_out_dtype_must_not_contradict_out(index: str) -> None:
    message = refused({**arguments(index), "out_dtype": torch.float32}, TypeError, "out_dtype")
    assert "but out has dtype torch.bfloat16" in message
    given = {**arguments(index), "out": None, "out_dtype": torch.float16}
    assert "wanted `torch.bfloat16`" in refused(given, TypeError, "out_dtype")


@every_index
@pytest.mark.parametrize("name", ["a", "sa", "b", "sb", "index", "out"])
def test_devices_do_not_mix_even_where_nothing_is_computed(index: str, name: str) -> None:
    given = arguments(index, n=0)
    name = index if name == "index" else name
    # Other than on the CPU, a tensor without elements has no address to miss.
    given[name] = given[name].to("meta")
    message = refused(given, ValueError, name)
    assert f"{name} on meta" in message or f"{name} is on device 'meta'" in message


@every_index
def test_the_index_is_where_the_operands_are(index: str) -> None:
    class Elsewhere(torch.Tensor):
        device = torch.device("cuda:1")

    given = arguments(index)
    given[index] = given[index].as_subclass(Elsewhere)
    message = refused(given, ValueError, index)
    assert message.startswith(f"{index} is on cuda:1; wanted one device, not a on cpu, ")
    assert message.endswith(f"`{index}.to('cpu')`")


@every_index
@pytest.mark.parametrize("name", ["a", "b", "index", "out"])
def test_freed_memory_is_noticed(index: str, name: str) -> None:
    given = arguments(index)
    name = index if name == "index" else name
    storage = given[name].untyped_storage()
    size = storage.size()
    storage.resize_(0)
    try:
        with pytest.raises(ValueError, match=rf"^{name}, .* has no memory behind it"):
            call(given)
    finally:
        storage.resize_(size)


@every_index
@pytest.mark.parametrize("value", [1, None, torch.ones(2)], ids=repr)
def test_validate_is_a_bool(index: str, value: Any) -> None:
    refused({**arguments(index), "validate": value}, TypeError, "validate")


@every_index
@pytest.mark.parametrize("value", [True, False, 0.0, torch.zeros(()), torch.zeros(2), "0"], ids=repr)
def test_fill_is_an_int(index: str, value: Any) -> None:
    refused({**arguments(index), "fill": value}, TypeError, "fill")


@every_index
@pytest.mark.parametrize("value", [1, -1, 2**70])
def test_nothing_but_zeros_is_filled_in(index: str, value: int) -> None:
    assert f"fill is {value}; wanted 0, " in refused({**arguments(index), "fill": value}, ValueError, "fill")


@every_index
def test_an_index_without_a_shape_is_called_so(index: str) -> None:
    given = arguments(index)
    given[index] = torch.nn.UninitializedBuffer(dtype=torch.int32)
    assert "which has no shape and no elements yet" in refused(given, ValueError, index)


# Where out may lie


@every_index
def test_out_over_the_index_is_refused(index: str) -> None:
    given = arguments(index)
    out = given["out"]
    buffer = torch.zeros(out.nbytes, dtype=torch.uint8)
    at = buffer[-given[index].nbytes :].view(torch.int32)
    given[index] = at.copy_(given[index])
    given["out"] = buffer.view(torch.bfloat16).view(out.shape)
    assert f"lies in the memory of {index}: " in refused(given, ValueError, "out")


def test_the_index_may_lie_beside_out() -> None:
    given = arguments("offsets")
    buffer = torch.zeros(M, N + 8, dtype=torch.bfloat16)
    given["out"] = buffer[:, :N]
    given["offsets"] = buffer.view(torch.int32)[1, N // 2 :][:G].copy_(given["offsets"])
    expected = call(arguments("offsets"))
    torch.testing.assert_close(call(given), expected)
    assert given["offsets"].tolist() == arguments("offsets")["offsets"].tolist()


@pytest.mark.parametrize("k", [K, 128])
@pytest.mark.parametrize("interleave", [False, True])
def test_columns_of_one_buffer_may_be_matrices_of_a_and_of_the_result(interleave: bool, k: int) -> None:
    given = arguments("valid_rows", k=k)
    buffer = torch.zeros((M, G, k + 64) if interleave else (G, M, k + 64), dtype=torch.uint8)
    buffer = buffer.transpose(0, 1) if interleave else buffer
    given["a"] = buffer[..., :k].view(E4M3).copy_(given["a"])
    given["out"] = buffer[..., k : k + 2 * N].view(torch.bfloat16)
    given["sa"] = buffer[..., k + 2 * N :].view(torch.float32)[..., : k // 128].copy_(given["sa"])
    kept = given["a"].float(), given["sa"].clone()
    torch.testing.assert_close(call(given), call(arguments("valid_rows", k=k)))
    assert torch.equal(given["a"].float(), kept[0])
    assert torch.equal(given["sa"], kept[1])


def test_rows_of_one_buffer_may_be_matrices_of_a_and_of_the_result() -> None:
    given = arguments("valid_rows")
    buffer = torch.zeros(G, 2 * M, K, dtype=torch.uint8)
    given["a"] = buffer[:, :M].view(E4M3).copy_(given["a"])
    given["out"] = buffer[:, M:].view(torch.bfloat16)[..., :N]
    torch.testing.assert_close(call(given), call(arguments("valid_rows")))
    given["out"] = buffer[:, M - 1 : -1].view(torch.bfloat16)[..., :N]
    assert "lies in the memory of a: " in refused(given, ValueError, "out")


def bytes_of(x: torch.Tensor) -> list[int]:
    size = x.element_size()
    starts = [x.data_ptr()]
    for count, stride in zip(x.shape, x.stride(), strict=True):
        starts = [start + i * stride * size for start in starts for i in range(count)]
    return [start + byte for start in starts for byte in range(size)]


two_steps = st.tuples(st.integers(0, 12), st.integers(0, 12))


@settings(max_examples=400, deadline=None)
@given(
    groups=st.integers(1, 3), m=st.integers(1, 3), a_steps=two_steps, out_steps=two_steps,
    scale_steps=two_steps, out_at=st.integers(0, 60), scales_at=st.integers(0, 240),
)  # fmt: skip
def test_no_byte_is_shared_that_must_not_be(
    groups: int, m: int, a_steps: tuple[int, int], out_steps: tuple[int, int], scale_steps: tuple[int, int],
    out_at: int, scales_at: int,
) -> None:  # fmt: skip
    """Whatever strides are accepted: no two elements of an operand share memory, nor out and an operand."""
    buffer = torch.zeros(4096, dtype=torch.uint8)
    given = arguments("valid_rows", 8, 16, groups)
    a = buffer.view(E4M3).as_strided((groups, m, 16), (*(16 * step for step in a_steps), 1))
    out = buffer.view(torch.bfloat16).as_strided(
        (groups, m, 8), (*(8 * step for step in out_steps), 1), 8 * out_at
    )
    sa = buffer.view(torch.float32).as_strided((groups, m, 1), (*scale_steps, 0), scales_at)
    given.update(a=a, sa=sa, out=out)
    a_bytes, out_bytes = bytes_of(a), bytes_of(out)
    clean = {name: len(set(found)) == len(found) for name, found in (("a", a_bytes), ("out", out_bytes))}
    disjoint = not set(out_bytes) & {*a_bytes, *bytes_of(sa)}
    try:
        call(given)
    except ValueError as error:
        name, rule = str(error).split(" ", 1)
        if rule.startswith("has strides"):
            steps = {"a": a_steps, "out": out_steps}[name]
            # Rows of matrices that neither follow one another nor interleave may still share nothing.
            nests = max(steps) >= max(groups, m) * min(steps)
            assert not clean[name] or not nests
        else:
            assert (name, rule[:22]) == ("out", "lies in the memory of ")
    else:
        assert all(clean.values())
        assert disjoint


# What an index holds, if it is asked for


INVALID = {
    "a group beyond the last": (
        "group_index", [0, 0, 2, -1], "holds 2 at row 2; wanted one of the 2 groups, 0 to 1, or -1",
    ),
    "a negative group": ("group_index", [0, -2, -1, -1], "holds -2 at row 1; wanted one of the 2 groups"),
    "two groups in a block": (
        "group_index", [0, 1, 1, -1],
        "holds 0 at row 0 and 1 at row 1, within the block of rows 0:128; wanted rows of one group",
    ),
    "a row behind padding": (
        "group_index", [0, 0, -1, 0], "holds -1 at row 2 and 0 at row 3, within the block of rows 0:128",
    ),
    "padding in front": ("group_index", [-1, 0, 0, 0], "holds -1 at row 0 and 0 at row 1"),
    "an end that decreases": ("offsets", [3, 2], "holds 2 for group 1; wanted at least 3, the end before it"),
    "an end below 0": ("offsets", [-1, 4], "holds -1 for group 0; wanted at least 0"),
    "an end beyond M": ("offsets", [2, 5], "holds 5 for group 1; wanted at most 4, the rows of a"),
    "too many rows": ("valid_rows", [4, 5], "holds 5 for group 1; wanted 0 to 4, the rows of each matrix"),
    "fewer than no rows": ("valid_rows", [-1, 4], "holds -1 for group 0; wanted 0 to 4"),
}  # fmt: skip


@pytest.mark.parametrize(("index", "values", "says"), INVALID.values(), ids=INVALID)
def test_validation_names_what_it_found(index: str, values: list[int], says: str) -> None:
    given = arguments(index)
    given[index] = torch.tensor(values, dtype=torch.int32)
    call(given)
    assert says in refused({**given, "validate": True}, ValueError, index)


def test_validation_of_offsets_knows_the_alignment() -> None:
    given = {**arguments("offsets"), "alignment": 2, "validate": True}
    given["offsets"] = torch.tensor([1, 4], dtype=torch.int32)
    call(given)
    given["offsets"] = torch.tensor([3, 3], dtype=torch.int32)
    call(given)
    given.update(arguments("offsets", groups=3))
    given["alignment"] = 4
    given["offsets"] = torch.tensor([1, 2, 4], dtype=torch.int32)
    message = refused(given, ValueError, "offsets")
    assert message == (
        "offsets holds 2 for group 1; wanted at least 4, the group's start (the end before it, 1, rounded up "
        "to a multiple of alignment = 4), or 1 for an empty group"
    )


def test_validation_looks_at_every_block() -> None:
    inputs = make_contiguous_inputs([130, 0, 256], 8, 16, order=[2, 1, 0], m=600)
    group_index = inputs.index
    grouping.group_index_values(group_index, 0, 600, 3)
    # A group may follow any other where a block starts.
    group_index[512:] = 1
    grouping.group_index_values(group_index, 0, 600, 3)
    for row, value in ((255, 0), (300, 1), (387, 0), (512, 0), (599, 2)):
        was = int(group_index[row])
        group_index[row] = value
        start = row // 128 * 128
        with pytest.raises(ValueError, match=f"within the block of rows {start}:{start + 128}; wanted rows"):
            grouping.group_index_values(group_index, 0, 600, 3)
        group_index[row] = was


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-1, 9), min_size=1, max_size=5), st.sampled_from([1, 2, 4]), st.integers(0, 8)
)  # fmt: skip
def test_validated_offsets_are_a_layout(ends: list[int], alignment: int, m: int) -> None:
    """What is accepted means the same without clamping, and nothing else is refused."""
    start = before = 0
    is_fine = True
    for end in ends:
        is_fine &= end == before or start <= end
        is_fine &= 0 <= end <= m
        before, start = end, -(-end // alignment) * alignment
    offsets = torch.tensor(ends, dtype=torch.int32)
    if is_fine:
        grouping.offsets_values(offsets, alignment, m, len(ends))
    else:
        with pytest.raises(ValueError, match=r"^offsets holds"):
            grouping.offsets_values(offsets, alignment, m, len(ends))


@every_index
def test_validation_is_no_part_of_a_capture(monkeypatch: pytest.MonkeyPatch, index: str) -> None:
    class OnGpu(torch.Tensor):
        is_cuda = True

    given = {**arguments(index), "validate": True}
    given[index] = given[index].as_subclass(OnGpu)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    call(given)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    message = refused(given, RuntimeError, "validate=True")
    assert f"reads {index}, which has no values while a CUDA graph is being captured" in message
