"""The random problems of a survey, and operands for them."""

import importlib
import itertools
import random
import sys
from pathlib import Path

import pytest
import torch
from stand_ins import card_of

from cute_gemm import reference
from cute_gemm.measure.cases import in_layout
from cute_gemm.measure.records import CONTIGUOUS, DENSE, GROUPED, M_MAJOR, MASKED, OFFSETS
from cute_gemm.plan.layouts import resolve
from cute_gemm.plan.limits import H100_SMS
from cute_gemm.runtime import launcher

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
drawn_shapes = importlib.import_module("drawn_shapes")
operand_pool = importlib.import_module("operand_pool")
peer_warmup = importlib.import_module("peer_warmup")
Draw = drawn_shapes.Draw

OPS = DENSE, *GROUPED


def drawn(count, seed=1, ops=OPS, device_sms=None):
    return list(itertools.islice(drawn_shapes.draw_shapes(seed, ops, device_sms), count))


@pytest.fixture(scope="module")
def many():
    return drawn(4000)


def test_a_seed_gives_the_same_stream_and_operations_alternate(many):
    assert drawn(300) == many[:300]
    assert drawn(300, seed=2) != many[:300]
    for op in OPS:
        assert drawn(50, ops=[op]) == [each for each in many if each.op == op][:50]
    for start in range(0, 4000, 10):
        ops = [each.op for each in many[start : start + 10]]
        assert [ops.count(op) for op in OPS] == [7, 1, 1, 1]


def test_dense_problems_are_as_models_have_them(many):
    dense = [each for each in many if each.op == DENSE]
    ms = [each.rows for each in dense]
    assert min(ms) == 1
    assert 12000 < max(ms) <= 16384
    assert 0.46 < sum(m <= 256 for m in ms) / len(ms) < 0.54
    assert 0.1 < sum(m <= 16 for m in ms) / len(ms) < 0.35
    assert 0.4 < sum(m % 8 == 0 for m in ms) / len(ms) < 0.65
    assert len(set(ms)) > 700
    for each in dense:
        assert each.n in range(256, 32769, 64)
        assert each.k in range(256, 18433, 64)
        assert each.n * each.k <= 256 << 20
        assert 2 * each.rows * each.n * each.k <= 4e12
        assert each.sizes == (each.rows,)
    assert 0.75 < sum(each.k % 128 == 0 for each in dense) / len(dense) < 0.95
    assert 0.3 < sum(each.n % 128 == 0 for each in dense) / len(dense) < 0.7


def test_grouped_problems_are_within_bounds(many):
    grouped = [each for each in many if each.op != DENSE]
    groups = [each.groups for each in grouped]
    assert (min(groups), 200 < max(groups) <= 256) == (1, True)
    assert min(each.expected_rows for each in grouped) == 1
    assert max(each.expected_rows for each in grouped) > 2000
    for each in grouped:
        assert 0 < sum(each.sizes) <= 65536
        assert min(each.sizes) >= 0
        assert each.groups * each.n * each.k <= 1 << 30
        assert each.all_rows * max(each.k, 2 * each.n) <= 1 << 30
        assert each.n in range(256, 32769, 64)
        assert each.k in range(256, 18433, 64)
    assert any(0 in each.sizes for each in grouped)
    assert any(len(set(each.sizes)) == 1 < each.groups for each in grouped)
    assert any(max(each.sizes) > 4 * each.expected_rows for each in grouped)


@pytest.mark.parametrize("kind", drawn_shapes.KINDS)
@pytest.mark.parametrize(("groups", "mean"), [(1, 1), (2, 1), (7, 100), (256, 255)])
def test_rows_are_shared_out(kind, groups, mean):
    sizes = drawn_shapes.draw_sizes(random.Random(5), groups, mean, kind)
    assert len(sizes) == groups
    assert sum(sizes) > 0
    if kind in ("even", "skewed"):
        assert sum(sizes) == groups * mean
    if kind == "even" or groups == 1:
        assert set(sizes) == {mean}
    elif kind == "empty":
        assert 0 < sizes.count(0) < groups
    elif kind == "spread":
        assert all(round(0.7 * mean) <= size <= round(1.3 * mean) for size in sizes)
    elif mean == 255:
        assert max(sizes) > 3 * mean > 9 * min(sizes)


def test_problems_are_those_that_calls_pose():
    assert Draw(DENSE, 512, 256, (77,)).problem(card_of(78)).m == 77
    sizes = 100, 0, 300
    contiguous, offsets, masked = (Draw(op, 512, 256, sizes) for op in GROUPED)
    assert (contiguous.rows, offsets.rows, masked.rows) == (512, 400, 384)
    assert [each.problem(card_of(78)).m for each in (contiguous, offsets, masked)] == [512, 400, 399]
    assert masked.expected_rows == 133
    assert masked.shape == (3, 133, 512, 256)
    assert [each.problem(card_of(78)).num_sms for each in (masked, Draw(DENSE, 512, 256, (1,), 5))] == [78, 5]


def test_a_row_has_what_makes_a_problem_again(many):
    assert all(Draw.of_row(each.key()) == each for each in many[:500])
    assert Draw(MASKED, 512, 256, (5, 5, 5, 0, 7), 66).key() == {
        "op": MASKED,
        "n": 512,
        "k": 256,
        "sizes": [[5, 3], 0, 7],
        "num_sms": 66,
    }
    assert Draw.of_row(Draw(DENSE, 512, 256, (9,), 4).key()) == Draw(DENSE, 512, 256, (9,), 4)


def test_a_third_has_fewer_multiprocessors_but_takes_no_longer_than_others(many):
    limited = drawn(2000, device_sms=H100_SMS)
    sms = [each.num_sms for each in limited if each.num_sms is not None]
    assert 0.28 < len(sms) / 2000 < 0.38
    assert (min(sms), max(sms)) == (1, H100_SMS)
    assert [(each.op, each.n, each.k, each.sizes) for each in limited] == [
        (each.op, each.n, each.k, each.sizes) for each in many[:2000]
    ]
    for each in limited:
        if each.num_sms is not None and each.num_sms < H100_SMS:
            assert drawn_shapes.flops_of(each) <= 1.01 * 4e12 * each.num_sms / H100_SMS
    large = Draw(DENSE, 16384, 8192, (14000,))
    assert drawn_shapes.least_sms(large, H100_SMS) > 120


# Operands


@pytest.fixture(scope="module")
def pool():
    return operand_pool.OperandPool.make("cpu", 40 << 20, 8 << 20)


SIZES = {DENSE: (77,), CONTIGUOUS: (100, 0, 300), OFFSETS: (33, 0, 40), MASKED: (0, 130, 5)}


@pytest.mark.parametrize("op", OPS)
def test_operands_are_views_as_kernels_want_them(pool, op):
    draw = Draw(op, 320, 576, SIZES[op])
    cases = pool.cases(draw, 4)
    assert len(cases) == 4
    spans = []
    for case in cases:
        (a, sa), (b, sb) = case.lhs, case.rhs
        assert (a.data_ptr(), sa.data_ptr()) == (cases[0].lhs[0].data_ptr(), cases[0].lhs[1].data_ptr())
        assert launcher.tma_can_load(sa)
        assert sa.stride() == in_layout(sa, M_MAJOR).stride()
        assert sa.shape == (*a.shape[:-1], 5)
        assert b.shape == ((320, 576) if op == DENSE else (3, 320, 576))
        assert sb.shape == (*b.shape[:-2], 3, 5)
        spans += [(x.data_ptr(), x.data_ptr() + x.numel() * x.element_size()) for x in (b, sb)]
        for x in (a, sa, b, sb):
            assert (x.data_ptr() - pool.scales.data_ptr() if x.dtype == torch.float32 else 0) % 256 == 0
            assert (x.data_ptr() - pool.values.data_ptr() if x.dtype != torch.float32 else 0) % 256 == 0
            assert x.float().isfinite().all()
        assert (sa > 0).all()
        assert (sb > 0).all()
        assert a.float().std() > 50
        assert b.float().std() > 50
    a, sa = cases[0].lhs
    spans += [(a.data_ptr(), a.data_ptr() + a.numel())]
    spans.sort()
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


def test_values_and_scales_are_those_of_quantised_normal_numbers(pool):
    wide = pool.values[: 1 << 20].view(-1, 128).double() * pool.scales[: 1 << 13, None]
    assert abs(wide.mean()) < 0.01
    assert abs(wide.std() - 1) < 0.01
    assert len(pool.scales) * 128 == len(pool.values)
    assert (pool.values.view(torch.uint8) & 0x7F == 0).float().mean() < 0.01


def test_results_take_turns_where_memory_is_short(pool):
    draw = Draw(DENSE, 1024, 256, (1024,))
    outs = pool.results(draw, 6)
    assert [out.shape for out in outs] == [(1024, 1024)] * 6
    assert [out.data_ptr() for out in outs] == [outs[i % 4].data_ptr() for i in range(6)]
    assert len({out.data_ptr() for out in outs}) == 4
    with pytest.raises(ValueError, match="the pool has 4194304 elements"):
        pool.results(Draw(DENSE, 8192, 256, (1024,)), 4)


def test_a_chain_has_more_weights_than_l2_holds():
    layers = operand_pool.layers_of
    assert layers(Draw(DENSE, 256, 256, (1,))) == 256
    assert layers(Draw(DENSE, 4096, 4096, (1,))) == 8
    assert layers(Draw(DENSE, 4096, 4160, (1,))) == 8
    assert layers(Draw(MASKED, 4096, 4096, (1,) * 64)) == 4


def test_every_problem_fits_the_pool(many):
    """At full size, of memory that is not there."""
    values, scales = (torch.empty(operand_pool.POOL_BYTES // each, device="meta") for each in (1, 128))
    outs = torch.empty(operand_pool.RESULT_BYTES // 2, dtype=torch.bfloat16, device="meta")
    pool = operand_pool.OperandPool(values.to(torch.float8_e4m3fn), scales, outs)
    assert operand_pool.POOL_BYTES + 4 * len(scales) + operand_pool.RESULT_BYTES < 8 << 30
    largest = sorted(many, key=lambda each: each.bytes_of_b + each.all_rows * (each.k + each.n))[-300:]
    for draw in [*largest, Draw(MASKED, 8192, 8192, (128,) * 16), Draw(OFFSETS, 8192, 16384, (65536,))]:
        layers = operand_pool.layers_of(draw)
        assert len(pool.cases(draw, layers)) == layers
        outs = pool.results(draw, layers)
        # So that what is stored next is not in L2.
        assert len({out.storage_offset() for out in outs}) >= 2
        assert peer_warmup.blank_pool("meta").cases(draw, 1)


# What results are checked by


def product_of(case):
    """As a kernel leaves it: rows of no group are NaN."""
    out = case.poisoned_out()
    (a, sa), (b, sb) = case.lhs, case.rhs
    if b.dim() == 2:
        return out.copy_(reference.fp8_gemm_nt(a, sa, b, sb))
    row_groups = case.inputs.row_groups
    for group in range(len(b)):
        rows = (row_groups == group).nonzero(as_tuple=True)
        out[rows] = reference.fp8_gemm_nt(reference.take_rows(a, rows), sa[rows], b[group], sb[group])
    return out


@pytest.mark.parametrize("op", OPS)
def test_right_results_pass_and_wrong_ones_do_not(pool, op):
    draw = Draw(op, 832, 384, SIZES[op])
    case = pool.cases(draw, 1)[0]
    right = product_of(case)
    if op != DENSE:
        case.judge(right)
    sample = operand_pool.Sample(case, draw)
    assert sample.judge(right) < 1.6e-6
    assert sample.columns.start % 128 == 0
    assert 256 < sample.columns.stop - sample.columns.start <= 512
    rows = [row for _, rows in sample.rows for row in rows]
    assert 3 < len(rows) == len(set(rows)) <= 64

    def flat(out):
        return out.view(-1, draw.n)

    wrong = right.clone()
    flat(wrong)[rows[-1], sample.columns.stop - 1] *= -3
    with pytest.raises(AssertionError, match=r"tile|element"):
        sample.judge(wrong)
    wrong = right.clone()
    outside = 0 if sample.columns.start else draw.n - 1
    filled = (~flat(right).isnan().any(1)).nonzero()[-1]
    flat(wrong)[filled, outside] = torch.nan
    with pytest.raises(AssertionError, match="an element was not written"):
        sample.judge(wrong)
    if op in (CONTIGUOUS, MASKED):
        wrong = right.clone()
        flat(wrong)[flat(right).isnan().all(1).nonzero()[0], 3] = 1.0
        with pytest.raises(AssertionError, match="a row of no group was written"):
            sample.judge(wrong)


@pytest.mark.parametrize("op", GROUPED)
def test_samples_are_rows_of_their_groups(pool, op):
    sizes = [0, 1, 9, 140, 0, *range(1, 40)]
    draw = Draw(op, 256, 256, tuple(sizes))
    case = pool.cases(draw, 1)[0]
    sample = operand_pool.Sample(case, draw)
    assert len(sample.rows) == 8
    assert sample.rows[0][0] == 1
    assert sample.rows[-1][0] == len(sizes) - 1
    flat = case.inputs.row_groups.flatten()
    for group, rows in sample.rows:
        assert 0 < len(rows) <= 8
        of_group = (flat == group).nonzero().flatten().tolist()
        assert set(rows) <= set(of_group)
        assert {of_group[0], of_group[-1]} <= set(rows)
    index, layout = case.inputs.index, draw.layout
    assert torch.equal(resolve(layout.row_groups)(index, 1, draw.rows, draw.groups), case.inputs.row_groups)


def test_few_tokens_choose_some_of_many_groups():
    routed = list(itertools.islice(drawn_shapes.draw_routed(1), 200))
    assert routed == list(itertools.islice(drawn_shapes.draw_routed(1), 200))
    assert {each.op for each in routed} == {OFFSETS}
    for each in routed:
        assert 8 <= each.groups <= 256
        assert 1 <= sum(each.sizes) <= 8 * 512
        assert drawn_shapes.is_in_bounds(each)
    shares = [sum(size > 0 for size in each.sizes) / each.groups for each in routed]
    assert min(shares) < 0.05
    assert max(shares) == 1
