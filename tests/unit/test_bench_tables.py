"""The Markdown tables say what the rows say."""

import pytest
from bench_rows import SHAPE, grouped_row, row

from cute_gemm.bench import published, tables
from cute_gemm.measure import records
from cute_gemm.measure.errors import CommandError
from cute_gemm.measure.work import Work
from cute_gemm.plan.data_sheets import data_sheet


def cells(text):
    """By heading of the section: the rows of its first table as dictionaries, and those of its second."""
    found = {}
    for section in text.split("\n## ")[1:]:
        heading, *lines = section.splitlines()
        parts = [[]]
        for line in lines:
            if line.startswith("|"):
                parts[-1].append([cell.strip() for cell in line.split("|")[1:-1]])
            elif parts[-1]:
                parts.append([])
        found[heading] = [
            [dict(zip(table[0], line, strict=True)) for line in table[2:]] for table in parts if table
        ]
    return found


def test_a_shape_is_a_line():
    rows = [
        row(200.0),
        row(210.0, layout="row_major"),
        row(160.0, peer=records.FAST, layout=None),
        row(400.0, peer=records.TRITON),
        row(100.0, peer=records.DEEPGEMM, wrong="beyond its limit"),
    ]
    text = tables.render(rows)
    assert "NVIDIA H200, 2026-11-23, timed by CUPTI (torch 2.11.0)" in text
    ((line,), means) = cells(text)["Dense: cold L2, one call at a time"]
    limit = data_sheet("NVIDIA H200").limit_us(Work.of("dense_1d2d", SHAPE))
    published_us = published.peer_times("cold")
    assert line == {
        "M": "4096",
        "N": "4096",
        "K": "7168",
        "kernel": "`256x128_c2x1_s3_bf16`",
        "us": "200.00",
        "spread": "1.2%",
        "row-major us": "210.00",
        "TFLOP/s": "1203",
        "limit us": f"{limit:.2f}",
        "of it": "61%",
        records.FAST: "160.00 (0.80x)",
        "Triton": "400.00 (2.00x)",
        "DeepGEMM": "**wrong** 100.00 (0.50x)",
        **{
            f"{peer}, reference": f"{times[SHAPE]:.2f} ({times[SHAPE] / 200:.2f}x)"
            for peer, times in published_us.items()
        },
    }
    assert "DeepGEMM, reference" in line
    by_peer = {each["speed relative to"]: each for each in means}
    assert by_peer["Triton"]["geometric mean"] == "2.000"
    # A wrong result is no speed to be compared with.
    assert "DeepGEMM" not in by_peer


def test_what_was_not_measured_is_left_blank():
    other = row(100.0, shape=(64, 2112, 7168))
    rows = [row(200.0), other, row(160.0, peer=records.FAST), row(210.0, layout="row_major")]
    ((first, second), means) = cells(tables.render(rows))["Dense: cold L2, one call at a time"]
    assert (first[records.FAST], second[records.FAST]) == ("160.00 (0.80x)", "")
    assert (first["row-major us"], second["row-major us"]) == ("210.00", "")
    assert [each["shapes"] for each in means] == ["1", "2", "2", "2", "2"]
    old = {key: value for key, value in other.items() if key not in ("timer", "rounds", "limit_us")}
    ((line,), _) = cells(tables.render([old]))["Dense: cold L2, one call at a time"]
    assert records.FAST not in line
    assert "row-major us" not in line
    assert line["limit us"] == "3.31"
    ((line,), _) = cells(tables.render([{**old, "device": "NVIDIA L4"}]))[
        "Dense: cold L2, one call at a time"
    ]
    assert "limit us" not in line


def test_row_major_rows_alone_are_no_section():
    rows = [row(200.0, layout="row_major"), row(160.0, peer=records.FAST), grouped_row(2000.0)]
    assert list(cells(tables.render(rows))) == ["Grouped, contiguous: cold L2, one call at a time"]


def test_operations_and_regimes_have_their_sections():
    shape = (4096, 7168, 16384)
    rows = [
        row(800.0, shape, regime="sustained", spread=None),
        grouped_row(2000.0),
        grouped_row(4000.0, peer=records.TRITON),
        grouped_row(1900.0, "m_grouped_offsets"),
    ]
    found = cells(tables.render(rows))
    assert list(found) == [
        "Dense: sustained, at the power limit",
        "Grouped, contiguous: cold L2, one call at a time",
        "Grouped, offsets (peers: the same rows, padded): cold L2, one call at a time",
    ]
    sustained, contiguous, offsets = ([line for line in parts[0]] for parts in found.values())
    assert (sustained[0]["spread"], sustained[0]["DeepGEMM, reference"]) == ("", "794.20 (0.99x)")
    assert contiguous[0]["rows of each"] == "8192"
    # A peer, which cannot do without padding, is timed with it.
    assert contiguous[0]["Triton"] == "4000.00 (2.00x)"
    assert offsets[0]["Triton"] == "4000.00 (2.11x)"


def test_runs_that_were_mixed_show():
    other = row(100.0, shape=(64, 2112, 7168)) | {"date": "2026-11-24"}
    text = tables.render([row(), other])
    assert "2026-11-23, timed by CUPTI (torch 2.11.0); NVIDIA H200, 2026-11-24" in text
    with pytest.raises(CommandError, match="two cold rows"):
        tables.render([row(), row()])
