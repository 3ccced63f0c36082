"""The pictures hold what the rows say, and are the same for the same rows."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from bench_rows import grouped_row, row

from cute_gemm.bench import published
from cute_gemm.measure import records
from cute_gemm.measure.work import Work
from cute_gemm.plan.data_sheets import data_sheet

plots = pytest.importorskip("cute_gemm.bench.plots", reason="needs matplotlib")

SHAPES = [(64, 2112, 7168), (512, 2112, 7168), (4096, 2112, 7168), (4096, 4096, 7168)]


@pytest.fixture
def rows():
    ours = [row(50.0 + 10 * i, shape) for i, shape in enumerate(SHAPES)]
    triton = [row(100.0 + 20 * i, shape, peer=records.TRITON) for i, shape in enumerate(SHAPES)]
    triton[1]["wrong"] = "beyond its limit"
    row_major = [each | {"us": 2 * each["us"], "scale_layout": "row_major"} for each in ours]
    return [*row_major, *ours, *triton, grouped_row(2000.0)]


def figures(rows):
    return dict(plots._figures(rows))


def test_all_pictures_are_drawn(rows, tmp_path):
    files = plots.draw(rows, tmp_path / "new")
    names = [
        "roofline_cold",
        "speedup_dense_1d2d_cold",
        "speedup_m_grouped_contiguous_cold",
        "tflops_over_m_cold",
    ]
    assert [file.name for file in files] == [f"{name}.{end}" for name in names for end in ("png", "svg")]
    for file in files:
        if file.suffix == ".png":
            assert file.read_bytes().startswith(b"\x89PNG")
        else:
            ElementTree.parse(file)
    first = {file.name: file.read_bytes() for file in files}
    plots.draw(rows, tmp_path / "again")
    assert {file.name: file.read_bytes() for file in (tmp_path / "again").iterdir()} == first


def test_roofline_has_every_shape_below_the_roof(rows):
    (axes,) = figures(rows)["roofline_cold"].axes
    points = {each.get_label(): each.get_offsets().data for each in axes.collections}
    assert {label: len(found) for label, found in points.items()} == {"Dense": 4, "Grouped, contiguous": 1}
    work = Work.of("dense_1d2d", SHAPES[3])
    assert points["Dense"][3] == pytest.approx([work.flops / work.bytes_moved, work.flops / 80.0 * 1e-6])
    (roof,) = axes.lines
    x, y = roof.get_data()
    sheet = data_sheet("NVIDIA H200")
    assert y == pytest.approx(np.minimum(x * sheet.bytes, sheet.flops) / 1e12)
    assert y[0] < y[1] == pytest.approx(y[2])
    assert [text.get_text() for text in axes.texts] == ["NVIDIA H200: 1979 TFLOP/s, 4.80 TB/s"]

    (axes,) = figures([each | {"device": "NVIDIA L4"} for each in rows])["roofline_cold"].axes
    assert len(axes.lines) == len(axes.texts) == 0


def test_speedups_have_a_panel_for_each_peer(rows):
    figure = figures(rows)["speedup_dense_1d2d_cold"]
    panels = {" ".join(axes.get_title().split("\n")[:-1]): axes for axes in figure.axes}
    # What was measured beside us is shown; of others what is published.
    assert list(panels) == [
        "DeepGEMM, reference",
        "cuBLASLt blockwise, reference",
        "cuBLASLt tensorwise fast-accumulate, reference",
        "Triton",
    ]
    triton = panels["Triton"]
    assert [text.get_text() for text in triton.texts] == ["2.00", "2.00", "2.00"]
    # The wrong one is left out, and the others stay at their shapes.
    assert [bar.get_y() + bar.get_height() / 2 for bar in triton.patches] == pytest.approx([0, 2, 3])
    assert [bar.get_x() + bar.get_width() for bar in triton.patches] == pytest.approx([2.0] * 3)
    assert triton.get_title() == "Triton\ngeometric mean 2.000"
    deepgemm = published.peer_times("cold")["DeepGEMM"]
    assert [bar.get_x() + bar.get_width() for bar in panels["DeepGEMM, reference"].patches] == pytest.approx(
        [deepgemm[shape] / (50.0 + 10 * i) for i, shape in enumerate(SHAPES)]
    )
    assert figure.axes[0].get_yticklabels()[0].get_text() == "64 x 2112 x 7168"
    assert figure.axes[0].get_ylabel() == "M x N x K"
    assert figure.get_suptitle().endswith("\nDense\ncold L2, one call at a time (NVIDIA H200)")
    (grouped,) = figures(rows)["speedup_m_grouped_contiguous_cold"].axes
    assert grouped.get_ylabel() == "groups x rows of each x N x K"


def test_slower_and_faster_differ_in_colour_and_side(rows):
    rows = [row(50.0, SHAPES[0]), row(100.0, SHAPES[1])]
    rows += [row(75.0, shape, peer=records.TRITON) for shape in SHAPES[:2]]
    panel = figures(rows)["speedup_dense_1d2d_cold"].axes[-1]
    fast, slow = panel.patches
    assert fast.get_facecolor() != slow.get_facecolor()
    assert fast.get_width() == pytest.approx(0.5)
    assert slow.get_width() == pytest.approx(-0.25)


def test_rates_over_m(rows):
    figure = figures(rows)["tflops_over_m_cold"]
    panel, legend = figure.axes[:2]
    # The one with a single M is no curve.
    assert panel.get_title() == "N = 2112, K = 7168"
    assert not legend.axison
    lines = {line.get_label(): line.get_data() for line in panel.lines}
    m, rates = lines["cute_gemm"]
    assert list(m) == [64, 512, 4096]
    assert rates == pytest.approx([2 * m * 2112 * 7168 / (50.0 + 10 * i) * 1e-6 for i, m in enumerate(m)])
    assert list(lines["Triton"][0]) == [64, 4096]
    assert list(lines["DeepGEMM, reference"][0]) == [1, 64, 128, 512, 4096]
    named = [text.get_text() for text in legend.get_legend().get_texts()]
    assert named == list(lines)


def test_row_major_rows_alone_are_not_drawn(tmp_path):
    rows = [row(50.0, layout="row_major"), row(100.0, peer=records.TRITON)]
    assert plots.draw(rows, tmp_path) == []


def test_peers_look_different():
    looks = list(plots._LOOK.values())
    for part in zip(*looks, strict=True):
        assert len(set(part)) == len(looks)
