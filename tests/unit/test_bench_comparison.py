"""Ours beside the published figures of DeepGEMM: ratios, calibration and geometric means."""

import pytest
from bench_rows import GROUPED_SHAPE, SHAPE, grouped_row, row

from cute_gemm.bench import comparison, published
from cute_gemm.measure import records


def test_ratios():
    fast = published.peer_times("cold")[records.FAST][SHAPE]
    rows = [row(200.0), row(210.0, layout="row_major"), row(fast * 1.1, peer=records.FAST, layout=None)]
    (found,) = comparison.compare(rows, "cold")
    assert found.us == 200.0
    assert found.ratio == pytest.approx(168.73 / 200.0)
    # This card is slower than the peers' one, so on theirs we would be faster.
    assert found.scaled_ratio == pytest.approx(168.73 / 200.0 * 1.1, rel=1e-4)
    assert found.row_major_cost == pytest.approx(210.0 / 200.0)


def test_deepgemm_beside_ours_goes_before_what_was_published():
    beside = row(180.0, peer=records.DEEPGEMM)
    rows = [row(200.0), beside, row(peer=records.FAST, layout=None), row(10.0, shape=(64, 2112, 7168))]
    few, found = comparison.compare(rows, "cold")
    assert (found.ratio, found.is_beside, found.card) == (0.9, True, None)
    assert (few.ratio, few.is_beside) == (pytest.approx(10.02 / 10.0), False)
    lines = [line.split() for line in comparison.text_table([few, found], "cold").splitlines()]
    assert ["180.00", "0.900"] in [line[3:5] for line in lines]
    assert ["10.02*", "1.002"] in [line[3:5] for line in lines]
    (_, found) = comparison.compare([*rows[:1], beside | {"wrong": "beyond its limit"}, *rows[2:]], "cold")
    assert found.ratio == pytest.approx(168.73 / 200.0)
    # Groups without padding, beside what the peer needs instead.
    rows = [grouped_row(2000.0, "m_grouped_offsets"), grouped_row(1900.0, peer=records.DEEPGEMM)]
    (found,) = comparison.compare(rows, "cold", records.OFFSETS)
    assert (found.ratio, found.is_beside) == (0.95, True)


def test_another_card_is_not_compared_with_what_was_published():
    ours = row(300.0) | {"device": "NVIDIA H100 80GB HBM3"}
    assert comparison.compare([ours], "cold") == []
    shape = (96, 4096, 7168)  # the peers' file does not have it
    rows = [each | {"device": "NVIDIA H100 80GB HBM3"} for each in (ours, row(270.0, peer=records.DEEPGEMM))]
    rows += [row(20.0, shape), row(30.0, shape, records.DEEPGEMM)]
    assert [each.ratio for each in comparison.compare(rows, "cold")] == [0.9, 1.5]


def test_ours_without_padding_needs_no_peer():
    rows = [grouped_row(2000.0), grouped_row(1600.0, "m_grouped_offsets")]
    rows = [each | {"device": "NVIDIA H100 80GB HBM3"} for each in rows]
    assert comparison.speeds_without_padding(rows, "cold") == [1.25]


def test_what_was_not_measured_is_not_made_up():
    (found,) = comparison.compare([row()], "cold")
    assert found.card is found.scaled_ratio is found.row_major_cost is None
    assert comparison.compare([row(regime="sustained")], "cold") == []
    assert comparison.compare([row(shape=(96, 4096, 7168))], "cold") == []
    assert comparison.compare([{**row(), "op": "m_grouped_masked"}], "cold") == []


def test_row_major_rows_alone_are_not_ours():
    """A run that timed no M-major scales is not compared by what it timed instead."""
    assert comparison.compare([row(layout="row_major")], "cold") == []
    rows = [grouped_row(2000.0), grouped_row(1600.0, "m_grouped_offsets", layout="row_major")]
    assert comparison.speeds_without_padding(rows, "cold") == []


def test_grouped_ratios():
    calibration = {"op": "dense_1d2d", "m": 4096, "n": 4096, "k": 7168, "us": 156.88 * 1.1}
    rows = [grouped_row(calibration=calibration), grouped_row(2100.0, layout="row_major"), row()]
    (found,) = comparison.compare(rows, "cold", records.CONTIGUOUS)
    assert found.shape == GROUPED_SHAPE
    assert found.ratio == pytest.approx(2079.18 / 2000.0)
    assert found.scaled_ratio == pytest.approx(2079.18 / 2000.0 * 1.1)
    assert found.row_major_cost == pytest.approx(2100.0 / 2000.0)
    assert [each.shape for each in comparison.compare(rows, "cold")] == [SHAPE]
    assert comparison.compare(rows, "cold", records.OFFSETS) == []
    # Groups without padding are compared with what the peer needs instead.
    (found,) = comparison.compare([grouped_row(1950.0, "m_grouped_offsets")], "cold", records.OFFSETS)
    assert found.ratio == pytest.approx(2079.18 / 1950.0)
    assert found.card is None


def test_a_wrong_result_does_not_calibrate():
    fast = row(peer=records.FAST, layout=None)
    (found,) = comparison.compare([row(), fast], "cold")
    assert found.card is not None
    (found,) = comparison.compare([row(), fast | {"wrong": "beyond its limit"}], "cold")
    assert found.card is None


def test_grouped_operations_are_kept_apart():
    with pytest.raises(ValueError, match="two cold m_grouped_contiguous rows of cute_gemm"):
        comparison.compare([grouped_row(), grouped_row()], "cold", records.CONTIGUOUS)
    rows = [grouped_row(), grouped_row(op="m_grouped_offsets")]
    assert len(comparison.compare(rows, "cold", records.CONTIGUOUS)) == 1


def test_grouped_table():
    rows = [
        grouped_row(2079.18 / 0.9),
        grouped_row(1166.72 / 0.4, shape=(4, 8192, 7168, 3072)),
        grouped_row(864.67, shape=(8, 4096, 4096, 4096)),
    ]
    table = comparison.text_table(comparison.compare(rows, "cold", records.CONTIGUOUS), "cold")
    lines = [line.split() for line in table.splitlines()]
    name = "256x128_c2x1_s3_bf16"
    assert ["8x4096x4096x4096", name, "864.67", "864.67*", "1.000", "-", "-"] in lines
    assert ["4", "x", "8192", "least", "0.400", "0.600", "-", "-"] in lines
    assert ["all", "least", "0.400", f"{(0.9 * 0.4) ** (1 / 3):.3f}", "-", "-"] in lines


def test_geometric_mean():
    assert comparison.geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)
    # Only one of the two is calibrated: a mean over that one would not be the mean of both.
    rows = [row(), row(shape=(64, 4096, 7168)), row(peer=records.FAST, layout=None)]
    found = comparison.compare(rows, "cold")
    assert comparison.mean_of(found, lambda each: each.ratio) is not None
    assert comparison.mean_of(found, lambda each: each.scaled_ratio) is None
    assert comparison.mean_of([], lambda each: each.ratio) is None


def test_table():
    rows = [
        row(10.02 / 0.9, (64, 2112, 7168)),
        row(11.05 / 0.4, (128, 2112, 7168)),
        row(168.73),
        row(168.73 * 1.03, layout="row_major"),
    ]
    table = comparison.text_table(comparison.compare(rows, "cold"), "cold")
    lines = [line.split() for line in table.splitlines()]
    name = "256x128_c2x1_s3_bf16"
    assert ["4096x4096x7168", name, "168.73", "168.73*", "1.000", "-", "1.030"] in lines
    assert ["64x2112x7168", name, "11.13", "10.02*", "0.900", "-", "-"] in lines
    assert ["M", "=", "64,", "128", "least", "0.400", "0.600", "-", "-"] in lines
    assert ["M", "=", "4096", "least", "1.000", "1.000", "-", "1.030"] in lines
