"""Under settings: right on few multiprocessors, and the same bits of a row whatever it is multiplied with."""

import groups
import pytest
import torch
from tensors import DTYPES, bits

import cute_gemm
from cute_gemm import dispatch
from cute_gemm.testing import assert_correct, make_inputs, poisoned

ROWS = 1, 2, 7, 64, 65, 129, 4096
every_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)


@every_dtype
@pytest.mark.parametrize("num_sms", [1, 7, 100])
@pytest.mark.parametrize("shape", [(1, 2112, 7168), (129, 264, 1040), (1000, 4096, 2048)])
def test_products_on_few_multiprocessors(
    shape: tuple[int, int, int], num_sms: int, dtype: torch.dtype
) -> None:
    (a, sa), (b, sb) = make_inputs(*shape, device="cuda")
    out, check = poisoned(*shape[:2], dtype, "cuda")
    with cute_gemm.config(num_sms=num_sms):
        cute_gemm.fp8_gemm_nt((a, sa), (b, sb), out)
        assert dispatch._launcher("dense", 1, *shape, dtype, a.get_device())[1] == num_sms
    groups.wait()
    check()
    assert_correct(out, a, sa, b, sb)


@pytest.mark.parametrize("num_sms", [1, 7, 100])
@pytest.mark.parametrize("layout", groups.LAYOUTS)
def test_groups_on_few_multiprocessors(layout: str, num_sms: int) -> None:
    problem = groups.Problem.make([0, 1, 129, 0, 500, 64], 264, 1040)
    inputs = problem.arranged(layout)
    with cute_gemm.config(num_sms=num_sms):
        problem.assert_equals(groups.run(layout, inputs), inputs)


def test_one_multiprocessor_is_slower_than_all() -> None:
    """That the limit reaches the device; 132 to 1, so the margin is wide."""
    lhs, rhs = make_inputs(4096, 2112, 2048, device="cuda")

    def milliseconds() -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cute_gemm.fp8_gemm_nt(lhs, rhs)
        start.record()
        cute_gemm.fp8_gemm_nt(lhs, rhs)
        end.record()
        end.synchronize()
        return start.elapsed_time(end)

    with cute_gemm.config(num_sms=1):
        alone = milliseconds()
    assert alone > 10 * milliseconds()


@every_dtype
@pytest.mark.parametrize(("n", "k"), [(576, 7168), (2112, 7168), (264, 1040), (7168, 2048)])
def test_a_row_does_not_depend_on_how_many_there_are(n: int, k: int, dtype: torch.dtype) -> None:
    (a, sa), rhs = make_inputs(max(ROWS), n, k, device="cuda")
    with cute_gemm.config(batch_invariant=True):
        results = [cute_gemm.fp8_gemm_nt((a[:m], sa[:m]), rhs, out_dtype=dtype) for m in ROWS]
    for m, out in zip(ROWS, results, strict=True):
        assert torch.equal(bits(out), bits(results[-1][:m])), f"M = {m} differs from M = {max(ROWS)}"


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    (a, sa), rhs = make_inputs(max(ROWS), 2112, 7168, device="cuda")
    others = make_inputs(max(ROWS), 2112, 7168, kind="outliers", seed=1, device="cuda")[0]
    with cute_gemm.config(batch_invariant=True):
        for m in ROWS[1:]:
            out = cute_gemm.fp8_gemm_nt((a[:m], sa[:m]), rhs)
            place = m // 2
            x, s = others[0][:m].clone(), others[1][:m].clone()
            bits(x)[place], s[place] = bits(a)[place], sa[place]
            among_others = cute_gemm.fp8_gemm_nt((x, s), rhs)
            assert torch.equal(bits(out[place]), bits(among_others[place])), f"M = {m}"
            assert not torch.equal(bits(out), bits(among_others))


@pytest.mark.parametrize("layout", groups.LAYOUTS)
def test_a_row_does_not_depend_on_the_size_of_its_group(layout: str) -> None:
    """The same rows of standard normal numbers, of which another order of sums would show."""
    (a, sa), (b, sb) = make_inputs(max(ROWS), 2112, 7168, device="cuda")
    whole = groups.Problem((len(a),), a, sa, b[None], sb[None], a.new_empty(0))
    with cute_gemm.config(batch_invariant=True):
        expected = cute_gemm.fp8_gemm_nt((a, sa), (b, sb))
        for m in ROWS:
            part = groups.Problem((m,), a[:m], sa[:m], whole.b, whole.sb, whole.truth)
            inputs = part.arranged(layout)
            out = groups.run(layout, inputs, expected_rows=m)
            rows = out[inputs.row_groups >= 0]
            assert torch.equal(bits(rows), bits(expected[:m])), f"a group of {m}"
