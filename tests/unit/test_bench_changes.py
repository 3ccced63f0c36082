"""What got slower between two runs, and what only looks like it."""

import pytest
from bench_rows import grouped_row, row
from rich.console import Console

from cute_gemm.bench import changes
from cute_gemm.measure import records
from cute_gemm.measure.errors import CommandError

SMALL = (64, 2112, 7168)


def test_worst_comes_first():
    old = [row(100.0), row(100.0, layout="row_major"), row(10.0, SMALL), grouped_row(2000.0)]
    new = [row(101.0), row(90.0, layout="row_major"), row(12.0, SMALL), grouped_row(2100.0)]
    found = changes.compare(old, new)
    assert [(each.shape, each.scale_layout, round(each.ratio, 3)) for each in found] == [
        (SMALL, "m_major", 1.2),
        ((4, 8192, 6144, 7168), "m_major", 1.05),
        ((4096, 4096, 7168), "m_major", 1.01),
        ((4096, 4096, 7168), "row_major", 0.9),
    ]
    assert [each.is_beyond_spread for each in found] == [True, True, False, True]


@pytest.mark.parametrize(
    ("new_us", "spreads", "beyond", "regression"),
    [
        (103.0, (0.01, 0.02), True, True),
        (103.0, (0.04, 0.02), False, False),
        (103.0, (0.01, 0.04), False, False),
        (101.5, (0.01, 0.01), True, False),
        (97.0, (0.01, 0.02), True, False),
        (97.0, (0.01, 0.04), False, False),
        (103.0, (None, None), True, True),
    ],
)
def test_slower_is_beyond_the_threshold_and_both_spreads(new_us, spreads, beyond, regression):
    old, new = (row(us, spread=spread) for us, spread in zip((100.0, new_us), spreads, strict=True))
    (found,) = changes.compare([old], [new])
    assert found.is_beyond_spread == beyond
    assert found.is_regression(0.02) == regression


def test_medians_are_compared_where_there_are_any():
    (found,) = changes.compare([row(100.0, median=90.0)], [row(200.0, median=99.0)])
    assert found.ratio == pytest.approx(1.1)
    (found,) = changes.compare([row(100.0, median=None)], [row(200.0, median=99.0)])
    assert (found.old_us, found.new_us) == (100.0, 99.0)


def test_peers_and_other_regimes_and_scales_are_no_match():
    others = [row(peer=records.FAST), row(regime="sustained"), row(shape=SMALL), row(layout="row_major")]
    with pytest.raises(CommandError, match="no row in common"):
        changes.compare([row(), row(peer=records.FAST)], others)
    with pytest.raises(CommandError, match="two cold rows"):
        changes.compare([row(), row()], [row()])


def test_it_is_shown_in_a_table():
    old = [row(100.0), row(10.0, SMALL), row(50.0, (1, 8, 16)), row(1.0, (2, 8, 16))]
    new = [row(103.0) | {"device": "NVIDIA H100 NVL"}, row(9.0, SMALL), row(50.8, (1, 8, 16))]
    found = changes.compare(old, new)
    console = Console(width=200)
    with console.capture() as capture:
        console.print(changes.table(found, 0.02))
    lines = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in capture.get().splitlines() if "│" in line
    ]
    common = ["cold", "m_major"]
    assert lines == [
        ["dense_1d2d", "4096x4096x7168", *common, "100.00", "103.00", "1.030", "1.2%", "SLOWER"],
        ["dense_1d2d", "1x8x16", *common, "50.00", "50.80", "1.016", "1.2%", "slower"],
        ["dense_1d2d", "64x2112x7168", *common, "10.00", "9.00", "0.900", "1.2%", "faster"],
    ]
    assert changes.summary(old, new, found, 0.02).splitlines() == [
        "3 rows compared; SLOWER, by more than 2.0% and the spread of both: 1",
        "only in OLD: 1 rows",
        "measured on different devices: NVIDIA H200 and NVIDIA H100 NVL, NVIDIA H200",
    ]
    assert changes.summary(old[:1], old[:1], changes.compare(old[:1], old[:1]), 0.0).count("\n") == 0
