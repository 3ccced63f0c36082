"""Products of groups of columns: values, results that are given, and what torch makes of a call."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from bad_calls import memory
from compiling import Seen, compiled
from hypothesis import example, given
from torch import Tensor
from torch import library as torch_library
from torch._subclasses import FakeTensorMode
from torch.autograd import forward_ad

import cute_gemm
from cute_gemm import column_groups, k_grouped_fp8_gemm_nt, reference, reference_k_grouped
from cute_gemm.ops import k_grouped, library
from cute_gemm.plan.layouts import K_GROUPED
from cute_gemm.plan.limits import ceil_div
from cute_gemm.plan.recipe import FP8_1D1D
from cute_gemm.runtime import launcher
from cute_gemm.testing import (
    INPUT_KINDS,
    assert_k_grouped_correct,
    make_inputs,
    make_k_grouped_inputs,
)
from examples import examples

E4M3 = torch.float8_e4m3fn
SIZES = st.lists(st.one_of(st.just(0), st.integers(0, 20).map(lambda i: 16 * i)), min_size=1, max_size=5)


def inputs(**named: Any) -> Any:
    return make_k_grouped_inputs(**dict(sizes=[48, 0, 144], m=5, n=16, first=16, behind=32) | named)


def call(given: Any, *more: Any, **named: Any) -> Tensor:
    return k_grouped_fp8_gemm_nt(given.lhs, given.rhs, given.offsets, *more, **named)


def changed(given: Any, **named: Tensor) -> Any:
    """The same call with other tensors."""
    (a, sa), (b, sb) = given.lhs, given.rhs
    now = {"a": a, "sa": sa, "b": b, "sb": sb, "offsets": given.offsets} | named
    pairs = (now["a"], now["sa"]), (now["b"], now["sb"])
    return type(given)(*pairs, now["offsets"], given.groups)


# Values


@given(
    sizes=SIZES,
    m=st.integers(1, 140),
    n=st.integers(1, 20).map(lambda n: 8 * n),
    kind=st.sampled_from(INPUT_KINDS),
    first=st.integers(0, 10).map(lambda i: 16 * i),
    behind=st.integers(0, 10).map(lambda i: 16 * i),
    accumulate=st.booleans(),
)
@examples(150)
@example(sizes=[0], m=3, n=8, kind="normal", first=0, behind=0, accumulate=False)
@example(sizes=[16, 0, 272, 128], m=130, n=136, kind="normal", first=112, behind=0, accumulate=True)
def test_against_the_product_in_fp64(
    sizes: list[int], m: int, n: int, kind: str, first: int, behind: int, accumulate: bool
) -> None:
    given = make_k_grouped_inputs(sizes, m, n, kind, first=first, behind=behind)
    out, before = None, None
    if accumulate:
        before = torch.randn(len(sizes), m, n, generator=torch.Generator().manual_seed(1))
        out = before.clone()
    result = call(given, out, accumulate=accumulate)
    assert result.dtype is torch.float32
    assert_k_grouped_correct(result, given, before)


def test_a_wrong_result_is_seen() -> None:
    given = inputs()
    for group in range(3):
        wrong = call(given)
        wrong[group, 2, 3] += 1
        with pytest.raises(AssertionError, match=f"group {group} of"):
            assert_k_grouped_correct(wrong, given)


@pytest.mark.parametrize("k", [16, 128, 400])
def test_a_group_is_a_product_by_itself(k: int) -> None:
    """To the bit, where rows of B share scales as the other recipe has them: so is the order of sums."""
    (a, sa), (b, sb) = make_inputs(9, 136, k)
    rows = sb.repeat_interleave(128, 0)[:136]
    offsets = torch.tensor([0, k], dtype=torch.int32)
    # Of 128 columns and more, the last of the columns of scales belongs to no block.
    pad = (0, k // 128 + 1 - sa.shape[1])
    scales = [torch.nn.functional.pad(each, pad, value=torch.nan) for each in (sa, rows)]
    found = k_grouped_fp8_gemm_nt((a, scales[0]), (b, scales[1]), offsets)
    assert torch.equal(found[0], reference.fp8_gemm_nt(a, sa, b, sb, torch.float32))


def test_sums_are_added_once_and_empty_groups_stay_to_the_bit() -> None:
    given = inputs()
    sums = call(given)
    before = torch.full_like(sums, -0.0)
    before[0], before[1, 0, 0] = 0.5, torch.nan
    out = before.clone()
    assert call(given, out, accumulate=True) is out
    assert torch.equal(out[0], sums[0] + 0.5)
    assert torch.equal(out[1].view(torch.int32), before[1].view(torch.int32))
    assert not sums[1].any()


def test_what_is_given_is_written_and_nothing_else() -> None:
    given = inputs()
    for dtype in (torch.float32, torch.bfloat16):
        room = torch.full((4, 7, 32), torch.nan, dtype=dtype)
        out = room[:3, 1:6, 8:24]
        version = out._version
        assert call(given, out) is out
        assert out._version > version
        assert torch.equal(out, call(given, out_dtype=dtype))
        room[:3, 1:6, 8:24] = torch.nan
        assert room.isnan().all()
    assert_k_grouped_correct(call(given, out_dtype=torch.bfloat16), given)


def test_edges_that_make_no_sense() -> None:
    """They are clamped and rounded down; a group that ends before it begins is empty."""
    given = inputs(sizes=[64, 48], first=0, behind=0)
    for edges, columns in (
        ([-(2**31), 79, 2**31 - 1], [(0, 64), (64, 112)]),
        ([100, 50, 64], [(0, 0), (48, 64)]),
    ):
        (a, _), (b, _) = given.lhs, given.rhs
        # Whatever the blocks, with a scale of one for all.
        ones = [torch.ones(len(x), a.shape[1] // 128 + 2) for x in (a, b)]
        made = changed(given, sa=ones[0], sb=ones[1], offsets=torch.tensor(edges, dtype=torch.int32))
        for group, (first, end) in enumerate(columns):
            wide = [x[:, first:end].double() for x in (a, b)]
            torch.testing.assert_close(call(made)[group].double(), wide[0] @ wide[1].t())


@given(sizes=SIZES, first=st.integers(0, 20).map(lambda i: 16 * i), behind=st.integers(0, 20))
@example(sizes=[16] * 40, first=0, behind=0)
def test_blocks_of_columns(sizes: list[int], first: int, behind: int) -> None:
    edges = [first]
    for size in sizes:
        edges.append(edges[-1] + size)
    columns = edges[-1] + 16 * behind
    blocks = column_groups.blocks(torch.tensor(edges, dtype=torch.int32), columns)
    found = [(a, b) for a, b in zip(blocks.first.tolist(), blocks.end.tolist(), strict=True) if b > a]
    wanted = [
        (at, min(at + 128, edges[group + 1]))
        for group in range(len(sizes))
        for at in range(edges[group], edges[group + 1], 128)
    ]
    assert found == wanted
    for group, start in enumerate(edges[:-1]):
        for j in range(ceil_div(sizes[group], 128)):
            assert blocks.first[start // 128 + group + j] == start + 128 * j


@pytest.mark.parametrize(("m", "n", "k"), [(0, 8, 32), (3, 0, 32), (3, 8, 0)])
def test_nothing_to_multiply(m: int, n: int, k: int) -> None:
    sizes = [k, 0]
    given = make_k_grouped_inputs(sizes, m, n)
    assert call(given).shape == (2, m, n)
    out = torch.full((2, m, n), 3.0)
    assert (call(given, out, accumulate=True) == 3).all()
    assert torch.equal(call(given, out), torch.zeros(2, m, n)) or k


def test_on_a_gpu_a_kernel_is_launched_for_as_many_results_as_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    monkeypatch.setattr(reference_k_grouped, "serves", lambda call: False)
    monkeypatch.setattr(launcher, "launch_checked", lambda call: launched.append(call) or call.out)
    given, out = inputs(), torch.full((3, 5, 16), torch.nan)
    assert call(given, out) is out
    (found,) = launched
    assert (found.layout, found.recipe, found.shape) == (K_GROUPED, FP8_1D1D, (3, 5, 16))
    assert found.index is given.offsets


# What torch makes of it


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def comparing_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of `test_library`."""
    compare = torch.allclose

    def allclose(x: Tensor, y: Tensor, **options: Any) -> bool:
        if x.dtype is E4M3:
            x, y = x.view(torch.uint8), y.view(torch.uint8)
        return compare(x, y, **options)

    monkeypatch.setattr(torch, "allclose", allclose)


CHECKS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static")


@pytest.mark.usefixtures("comparing_bytes")
@pytest.mark.parametrize("accumulate", [False, True])
def test_torch_finds_nothing_wrong_with_the_ops(accumulate: bool) -> None:
    # No NaN, which is not equal to itself.
    given = inputs(first=0, behind=0, sizes=[128, 0, 128])
    given = changed(given, sa=given.lhs[1].nan_to_num(1.0), sb=given.rhs[1].nan_to_num(1.0))
    tensors = (*given.lhs, *given.rhs)
    checks = (*CHECKS, "test_aot_dispatch_dynamic")
    torch_library.opcheck(
        library.op(k_grouped.returning),
        (*tensors, given.offsets),
        {"out_dtype": torch.float32, "num_sms": 3},
        test_utils=checks,
    )
    out = torch.zeros(3, 5, 24)[..., :16]
    named = {"accumulate": accumulate, "pdl": True}
    torch_library.opcheck(
        library.op(k_grouped.writing), (*tensors, out, given.offsets), named, test_utils=checks
    )


def test_an_eager_call_does_not_go_by_the_dispatcher_and_ops_give_the_same() -> None:
    given = inputs()
    with Seen() as seen:
        wanted = call(given)
    assert seen.names == []
    tensors = (*given.lhs, *given.rhs)
    out = torch.ones_like(wanted)
    with Seen() as seen:
        found = library.op(k_grouped.returning)(*tensors, given.offsets, out_dtype=torch.float32)
        assert library.op(k_grouped.writing)(*tensors, out, given.offsets, accumulate=True) is None
    assert seen.names == ["k_grouped_fp8_gemm_nt", "k_grouped_fp8_gemm_nt_out"]
    assert torch.equal(found, wanted)
    # What is added to an empty group's matrix is nothing, and to another's its sums.
    assert torch.equal(out, wanted + 1)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_caller_is_compiled_whole_with_the_same_bits(backend: str) -> None:
    def caller(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, offsets: Tensor, out: Tensor) -> Tensor:
        made = k_grouped_fp8_gemm_nt((a, sa), (b, sb), offsets)
        assert k_grouped_fp8_gemm_nt((a, sa), (b, sb), offsets, out, accumulate=True) is out
        return made * 2

    run = compiled(caller, backend, dynamic=True)
    for m, sizes in ((5, [48, 0, 144]), (9, [160, 16, 0]), (7, [0, 0, 32])):
        given = inputs(m=m, sizes=sizes)
        out = torch.ones(3, m, 16)
        found = run(*given.lhs, *given.rhs, given.offsets, out)
        assert torch.equal(found, 2 * call(given))
        assert torch.equal(out, 1 + call(given))


def test_of_fake_tensors_there_is_a_fake_result() -> None:
    given = inputs()
    with FakeTensorMode() as mode:
        fake = changed(
            given, **{name: mode.from_tensor(x) for name, x in zip(
                ("a", "sa", "b", "sb", "offsets"), (*given.lhs, *given.rhs, given.offsets), strict=True
            )}
        )  # fmt: skip
        made = call(fake, out_dtype=torch.bfloat16)
        assert (made.shape, made.dtype) == ((3, 5, 16), torch.bfloat16)
        out = torch.empty(3, 5, 16)
        assert call(fake, out, accumulate=True) is out
        with pytest.raises(ValueError, match=r"^out has shape \(2, 5, 16\); wanted \[G, M, N\]"):
            call(fake, torch.empty(2, 5, 16))


def test_derivatives_are_refused() -> None:
    given = inputs()
    sa = given.lhs[1].clone().requires_grad_()
    asking = changed(given, sa=sa)
    for run in (call, torch.compile(call, backend="eager")):
        with pytest.raises(ValueError, match=r"^sa requires a gradient"):
            run(asking)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="requires a gradient"):
        compiled(lambda: call(asking))()
    with torch.no_grad():
        assert torch.equal(call(asking), call(given))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(given.lhs[1], torch.ones_like(given.lhs[1]))
        with pytest.raises(ValueError, match=r"^sa carries a tangent"):
            call(changed(given, sa=dual))
        with pytest.raises(ValueError, match="forward-mode AD"):
            library.op(k_grouped.returning)(*given.lhs, *given.rhs, given.offsets, out_dtype=torch.float32)
    with pytest.raises(ValueError, match="transform"):
        torch.func.vmap(lambda sa: call(changed(given, sa=sa)))(given.lhs[1][None])
    with pytest.raises(ValueError, match="transform"):
        torch.func.grad(lambda x: call(given).sum() * x)(torch.ones(()))


@pytest.mark.parametrize("state", ["autocast", "default dtype", "inference", "deterministic"])
def test_what_is_set_around_a_call_changes_nothing(state: str) -> None:
    given = inputs()
    wanted = call(given)
    if state == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            found = call(given)
    elif state == "inference":
        with torch.inference_mode():
            found = call(given)
        assert torch.equal(call(given, found), wanted)
    elif state == "deterministic":
        torch.use_deterministic_algorithms(True)
        try:
            found = call(given)
        finally:
            torch.use_deterministic_algorithms(False)
    else:
        torch.set_default_dtype(torch.float64)
        try:
            found = call(given)
        finally:
            torch.set_default_dtype(torch.float32)
    assert torch.equal(found, wanted)
    assert found.dtype is torch.float32


def test_the_ops_are_documented(request: pytest.FixtureRequest) -> None:
    text = " ".join((request.config.rootpath / "docs" / "torch_compile.md").read_text().split())
    for op in (library.op(k_grouped.returning), library.op(k_grouped.writing)):
        assert str(op._schema).removeprefix("cute_gemm::") in text, op
        assert torch.Tag.needs_exact_strides in op.tags


# What breaks a rule


def arguments() -> dict[str, Any]:
    given = make_k_grouped_inputs([128, 128], 4, 16)
    (a, sa), (b, sb) = given.lhs, given.rhs
    sa, sb = sa.nan_to_num(1.0), sb.nan_to_num(1.0)
    return {"a": a, "sa": sa, "b": b, "sb": sb, "offsets": given.offsets, "out": torch.full((2, 4, 16), 7.0)}


def refused(given: dict[str, Any], error: type[Exception]) -> str:
    before = memory(given)
    with pytest.raises(error) as info:
        run_all(given)
    assert type(info.value) is error
    assert memory(given) == before
    assert "wanted" in str(info.value)
    return str(info.value)


def run_all(given: dict[str, Any]) -> Tensor:
    others = {name: x for name, x in given.items() if name not in ("a", "sa", "b", "sb")}
    return k_grouped_fp8_gemm_nt((given["a"], given["sa"]), (given["b"], given["sb"]), **others)


# argument, what becomes of it, error, what the message says
BROKEN = {
    "a bf16": (
        "a", lambda a: a.bfloat16(), TypeError,
        "a has dtype torch.bfloat16; wanted torch.float8_e4m3fn: `a, sa = "
        "cute_gemm.quantize_k_grouped(a.t(), offsets)`",
    ),
    "a 3-D": ("a", lambda a: a[None], ValueError, "wanted 2, [M, K]"),
    "a transposed in memory": ("a", lambda a: a.t().contiguous().t(), ValueError, "wanted K contiguous"),
    "K differs": (
        "b", lambda b: b[:, :128].contiguous(), ValueError,
        "b has shape (16, 128), so K = 128, but a has K = 256; wanted [N, 256]",
    ),
    "b is [K, N]": (
        "b", lambda b: b.t().contiguous(), ValueError,
        "pass `b.t().contiguous()`, with scales [N, K // 128 + G]",
    ),
    "N": ("b", lambda b: b[:12], ValueError, "so N = 12; wanted a multiple of 8"),
    "sb transposed": (
        "sb", lambda s: s.t(), ValueError,
        "sb has shape (4, 16); wanted [N, K // 128 + G] = (16, 4): it looks transposed, `sb.t()` will do",
    ),
    "sa of one product": (
        "sa", lambda s: s[:, :2], ValueError,
        "sa has shape (4, 2); wanted [M, K // 128 + G] = (4, 4): `a, sa = "
        "cute_gemm.quantize_k_grouped(x, offsets)` makes both",
    ),
    "sa packed": ("sa", lambda s: s.int(), TypeError, ".flatten(-2)[..., :4].to(torch.float32)`"),
    "sa fp64": ("sa", lambda s: s.double(), TypeError, "`sa.to(torch.float32)`"),
    "offsets int64": (
        "offsets", lambda x: x.long(), TypeError,
        "offsets has dtype torch.int64; wanted torch.int32: `offsets.to(torch.int32)`",
    ),
    "offsets a list": ("offsets", lambda x: x.tolist(), TypeError, "offsets is a builtins.list"),
    "offsets 2-D": ("offsets", lambda x: x[None], ValueError, "offsets has shape (1, 3); wanted [G + 1]"),
    "offsets of no group": (
        "offsets", lambda x: x[:1], ValueError, "offsets has shape (1,), so G = 0; wanted 1 to 1022 groups",
    ),
    "offsets of too many": (
        "offsets", lambda x: x.new_zeros(1024), ValueError, "so G = 1023; wanted 1 to 1022 groups: one call",
    ),
    "offsets without a 0": (
        "offsets", lambda x: x[1:], ValueError,
        "sa has shape (4, 4); wanted [M, K // 128 + G] = (4, 3): if offsets lack the 0 where the first group "
        "begins, `torch.nn.functional.pad(offsets, (1, 0))`",
    ),
    "offsets every other": (
        "offsets", lambda x: x.repeat_interleave(2)[::2], ValueError, "offsets has stride 2; wanted",
    ),
    "out of one matrix": (
        "out", lambda o: o[0], ValueError,
        "out has shape (4, 16); wanted [G, M, N] = (2, 4, 16): `torch.empty(",
    ),
    "out fp16": ("out", lambda o: o.half(), TypeError, "wanted torch.bfloat16 or torch.float32: `torch."),
    "out N not contiguous": (
        "out", lambda o: o.mT.contiguous().mT, ValueError, "wanted N contiguous",
    ),
    "out expanded": ("out", lambda o: o[:1].expand(2, 4, 16), ValueError, "matrices are 0 bytes apart"),
    "out meta": ("out", lambda o: o.to("meta"), ValueError, "out is on device 'meta'"),
}  # fmt: skip


@pytest.mark.parametrize(("argument", "change", "error", "says"), BROKEN.values(), ids=BROKEN)
def test_a_message_says_what_to_pass(argument: str, change: Any, error: type[Exception], says: str) -> None:
    given = arguments()
    given[argument] = change(given[argument])
    assert says in refused(given, error)


def test_options_that_do_not_go_together() -> None:
    given = arguments()
    assert "accumulate is a builtins.int; wanted a bool" in refused({**given, "accumulate": 1}, TypeError)
    named = {**given, "out": None, "accumulate": True}
    message = refused(named, ValueError)
    assert message.startswith("out is None, and accumulate is True; wanted what is to be added to: `torch.z")
    made = eval(message.split("`")[1], {"torch": torch})
    assert torch.equal(run_all({**named, "out": made}), run_all(given))
    message = refused({**named, "out": given["out"].bfloat16()}, TypeError)
    assert "out has dtype torch.bfloat16, and accumulate is True; wanted torch.float32" in message
    message = refused({**given, "out_dtype": torch.bfloat16}, TypeError)
    assert "out_dtype is torch.bfloat16, but out has dtype torch.float32" in message
    message = refused({**given, "out": None, "out_dtype": torch.float16}, TypeError)
    assert message.startswith("out_dtype is torch.float16; wanted `torch.bfloat16` or `torch.float32`")
    assert run_all({**given, "out": given["out"].bfloat16()}).dtype is torch.bfloat16


def test_a_result_lies_elsewhere() -> None:
    given = arguments()
    room = torch.zeros(4096, dtype=torch.uint8)
    given["a"] = room[: 4 * 256].view(E4M3).view(4, 256)
    given["out"] = room[512 : 512 + 4 * 128].view(torch.float32).view(2, 4, 16)
    assert "out lies in the memory of a" in refused(given, ValueError)


def test_it_is_public() -> None:
    assert cute_gemm.k_grouped_fp8_gemm_nt is k_grouped_fp8_gemm_nt
