"""The figures in README.md and docs/ are what the results say, and say what they are."""

import importlib
import re
import sys
from pathlib import Path

import pytest

from cute_gemm.bench import published
from cute_gemm.measure import records

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
figures = importlib.import_module("figures")
pictures = importlib.import_module("pictures")
part_pictures = importlib.import_module("part_pictures")

README = "# Title\n<!-- figures:begin -->\nold\n<!-- figures:end -->\nThe end.\n"


def row(shape, us, peer="cute_gemm", regime="cold", layout="m_major"):
    m, n, k = shape
    return {
        "op": "dense_1d2d",
        "m": m,
        "n": n,
        "k": k,
        "peer": peer,
        "us": us,
        "tflops": 1234.4,
        "regime": regime,
        "config": "256x128_c2x1_s3_bf16",
        "scale_layout": layout,
        "error_worst_tile": 1.43e-6,
        "versions": {"torch": "2.11.0", "nvidia-cutlass-dsl": "4.8.1"},
        "device": "NVIDIA H200",
        "date": "2026-11-23",
    }


def grouped_row(shape, us, op="m_grouped_contiguous", **more):
    groups, expected_m, n, k = shape
    config = f"128x192_c1x2_s4_bf16{op.removeprefix('m_grouped')}"
    key = {"op": op, "groups": groups, "expected_m": expected_m, "config": config}
    return {**row((0, n, k), us), **key, **more}


@pytest.fixture
def results(tmp_path, monkeypatch):
    """An empty directory of results, and a function that fills it."""
    directory = tmp_path / "results"
    directory.mkdir()
    monkeypatch.setattr(figures, "read_results", lambda read=figures.read_results: read(directory))
    return lambda rows, name="dense_cold.jsonl": records.write_rows(directory / name, rows)


@pytest.fixture
def root(tmp_path):
    """A project with a README and an empty docs/."""
    path = tmp_path / "project"
    (path / "docs").mkdir(parents=True)
    (path / "README.md").write_text(README)
    return path


def test_readme_results_and_pictures_are_up_to_date(capsys):
    assert figures.main(["--check"]) == 0, capsys.readouterr().err


def test_check_tells_new_results_from_old(root, results):
    readme, page = root / "README.md", root / "docs" / "results.md"
    assert figures.main(["--check"], root) == 1
    assert readme.read_text() == README
    assert list((root / "docs").iterdir()) == []

    assert figures.main([], root) == 0
    assert readme.read_text() == README.replace("old", "No figures yet.")
    assert page.read_text().endswith("\nNo figures yet.\n")
    assert figures.main(["--check"], root) == 0

    results([row((4096, 4096, 7168), 200.0)])
    assert figures.main(["--check"], root) == 1
    assert figures.main([], root) == 0
    assert figures.main(["--check"], root) == 0
    assert readme.read_text().startswith("# Title\n<!-- figures:begin -->\nOn NVIDIA H200, 2026-11-23,")
    assert readme.read_text().endswith("\n<!-- figures:end -->\nThe end.\n")
    assert "| 4096 | 4096 | 7168 | `256x128_c2x1_s3_bf16` | 200.0 |" in page.read_text()

    # So little that only the picture shows it.
    results([row((4096, 4096, 7168), 200.03)])
    summary = readme.read_text()
    assert figures.main(["--check"], root) == 1
    assert figures.main([], root) == 0
    assert readme.read_text() == summary


def test_readme_has_a_line_for_each_size_in_each_operation():
    rows = [
        row((64, 2112, 7168), 10.02),
        row((4096, 4096, 7168), 168.73 / 0.9),
        row((4096, 2112, 7168), 94.16 / 0.4),
        row((4096, 4096, 7168), 202.2, regime="sustained"),
        grouped_row((4, 8192, 6144, 7168), 2079.18 / 0.9),
    ]
    lines = [line for line in figures.summary(rows).splitlines() if line.startswith("| ")][1:]
    assert lines == [
        "| dense | M = 64 | 1.000 (1.000; 1) |  |",
        "| dense | M = 4096 | 0.600 (0.400; 2) | 1.000 (1.000; 1) |",
        "| contiguous | 4 x 8192 | 0.900 (0.900; 1) |  |",
    ]


def test_pictures_are_judged_by_the_numbers_they_show(root, results):
    # A limit is what the second picture needs.
    results([row((4096, 4096, 7168), 200.0) | {"limit_us": 121.6}])
    assert figures.main([], root) == 0
    speed, limit = (root / "docs" / name for name in (pictures.SPEED, pictures.LIMIT))
    assert "![Speed relative to DeepGEMM](docs/speed.png)" in (root / "README.md").read_text()
    data = pictures.data_of(figures._cold(figures.read_results()))
    assert data[pictures.SPEED] == {"NVIDIA H200": {"dense": {"M = 4096": [0.8436]}}}
    assert data[pictures.LIMIT] == {"NVIDIA H200": {"dense": [[121.6, 200.0, 168.73]]}}

    # Other pixels of the same numbers are as good.
    pictures.STYLE["font.size"] += 1
    before = speed.read_bytes()
    try:
        pictures.write(speed, data[pictures.SPEED])
    finally:
        pictures.STYLE["font.size"] -= 1
    assert speed.read_bytes() != before
    assert figures.main(["--check"], root) == 0

    for path in (speed, limit):
        kept = path.read_bytes()
        path.write_bytes(b"no picture")
        assert figures.main(["--check"], root) == 1
        path.unlink()
        assert figures.main(["--check"], root) == 1
        path.write_bytes(kept)
    assert figures.main(["--check"], root) == 0


def test_a_measured_shape_is_one_line():
    text = figures.render([row((4096, 4096, 7168), 200.04)])
    expected = "| 4096 | 4096 | 7168 | `256x128_c2x1_s3_bf16` | 200.0 | 1234 | 168.7 | 0.84 |"
    assert expected in text.splitlines()
    assert "(NVIDIA H200, 2026-11-23, nvidia-cutlass-dsl 4.8.1, torch 2.11.0)" in text
    assert "The worst tile's error over all shapes is 1.43e-06." in text
    assert "Sustained" not in text
    assert "calibrated" not in text


def test_means_are_given_per_m_and_calibrated_where_they_can_be():
    first, second, small = (4096, 4096, 7168), (4096, 2112, 7168), (64, 2112, 7168)
    cublaslt = published.peer_times("cold")[records.FAST]
    rows = [row(first, 168.73 / 0.9), row(second, 94.16 / 0.4), row(small, 10.02)]
    rows += [row(shape, cublaslt[shape] * 1.1, peer=records.FAST, layout=None) for shape in (first, second)]
    text = figures.render(rows).splitlines()
    assert "| geometric mean | M = 64 | M = 4096 |" in text
    assert "| speed / DeepGEMM | 1.000 | 0.600 |" in text
    assert "| the same, cards calibrated |  | 0.660 |" in text


def test_cost_of_row_major_scales_is_told():
    shape = (4096, 4096, 7168)
    other = (64, 2112, 7168)
    rows = [row(shape, 200.0), row(other, 10.0), row(shape, 206.0, layout="row_major")]
    note = "Scales of A are M-major, as DeepGEMM takes them"
    cost = "row-major ones take 1.030 times as long (geometric mean of 1 shapes; 1.030 at worst)"
    assert f"{note}; {cost}. The worst" in figures.render(rows)
    rows.append(row(other, 10.6, layout="row_major"))
    cost = "row-major ones take 1.045 times as long (geometric mean of 2 shapes; 1.060 at worst)"
    assert f"{note}; {cost}." in figures.render(rows)
    assert f"{note}. The worst" in figures.render(rows[:2])


def test_row_major_rows_alone_are_no_figures():
    assert figures.render([row((4096, 4096, 7168), 200.0, layout="row_major")]) == "No figures yet."


def test_regimes_are_kept_apart():
    shape = (4096, 4096, 7168)
    text = figures.render([row(shape, 210.0, regime="sustained"), row(shape, 190.0)])
    cold, sustained = text.split("**Sustained")
    assert "| 190.0 | 1234 | 168.7 |" in cold
    assert "| 210.0 | 1234 | 202.2 |" in sustained
    assert "168.7" not in sustained


def test_grouped_operations_have_sections_of_their_own():
    first, second = (4, 8192, 6144, 7168), (8, 4096, 4096, 2048)
    offsets = "m_grouped_offsets"
    rows = [
        row((4096, 4096, 7168), 200.0),
        grouped_row(first, 2079.18 / 0.9),
        grouped_row(second, 466.74 / 0.4),
        grouped_row(first, 2079.18 / 1.1, offsets),
        grouped_row(second, 466.74 / 0.3, offsets),
        grouped_row((32, 192, 4096, 4096), 223.59, "m_grouped_masked"),
    ]
    text = figures.render(rows)
    dense, contiguous, without, masked = text.split("\n\n**")
    assert dense.startswith("**Cold L2, one call at a time** (NVIDIA H200")
    assert contiguous.startswith("Grouped, contiguous. Cold L2, one call at a time** (NVIDIA H200")
    lines = contiguous.splitlines()
    assert lines[2].startswith("| groups | rows of each | N | K | kernel | us |")
    assert lines[3] == "|--:|--:|--:|--:|---|--:|--:|--:|--:|"
    name = "`128x192_c1x2_s4_bf16_contiguous`"
    assert lines[4] == f"| 4 | 8192 | 6144 | 7168 | {name} | 2310.2 | 1234 | 2079.2 | 0.90 |"
    assert "| geometric mean | 4 x 8192 | 8 x 4096 | all |" in lines
    assert "| speed / DeepGEMM | 0.900 | 0.400 | 0.600 |" in lines
    assert "padding" not in contiguous
    assert "| 1890.2 | 1234 | 2079.2 | 1.10 |" in without
    assert "DeepGEMM's time is that of the padded layout" in without
    # (1.1 / 0.9 * 0.3 / 0.4) ** 0.5
    assert "is 0.957 (geometric mean of 2 shapes; 0.750 at worst)" in without
    assert "| 32 | 192 | 4096 | 4096 |" in masked


def test_grouped_figures_are_calibrated_by_what_was_measured_beside_them():
    shape = (4, 8192, 6144, 7168)
    beside = {"op": "dense_1d2d", "m": 4096, "n": 4096, "k": 7168, "us": 156.88 * 1.1}
    text = figures.render([grouped_row(shape, 2079.18, calibration=beside)])
    assert "| the same, cards calibrated | 1.100 | 1.100 |" in text
    assert "cuBLASLt beside our kernel took 1.100 times as long" in text


def test_runs_that_were_mixed_show():
    other = {**row((4096, 2112, 7168), 100.0), "date": "2026-11-24"}
    text = figures.render([row((4096, 4096, 7168), 200.0), other])
    assert "2026-11-23, nvidia-cutlass-dsl 4.8.1, torch 2.11.0; NVIDIA H200, 2026-11-24" in text


def test_two_results_for_one_thing_are_refused(results):
    results([row((4096, 4096, 7168), 200.0)])
    results([row((4096, 4096, 7168), 190.0)], "experiment.jsonl")
    with pytest.raises(ValueError, match=r"two cold rows of cute_gemm \(m_major\) at \(4096, 4096, 7168\)"):
        figures.render(figures.read_results())


@pytest.mark.parametrize(
    "text",
    [
        "no markers",
        f"{figures.BEGIN} only",
        f"{figures.END} {figures.BEGIN}",
        f"{figures.BEGIN} {figures.END} {figures.END}",
        f"{figures.BEGIN} {figures.BEGIN} {figures.END}",
    ],
)
def test_a_readme_without_its_markers_is_refused(text):
    with pytest.raises(ValueError, match="want one"):
        figures.replaced(text, "new")


H100 = {"device": "NVIDIA H100 80GB HBM3", "date": "2026-12-01", "limit_us": 121.6}


def beside(shape, us, deepgemm_us, **more):
    """Rows of an H100 on which DeepGEMM took turns with ours."""
    return [row(shape, us, **more) | H100, row(shape, deepgemm_us, "DeepGEMM", **more) | H100]


def test_readme_has_columns_for_each_card():
    other = (64, 2112, 7168)
    rows = [
        row((4096, 4096, 7168), 168.73 / 0.9),
        row(other, 10.02),
        *beside((4096, 4096, 7168), 180.0, 150.0),
        *beside((4096, 2112, 7168), 100.0, 110.0),
        *beside((4096, 4096, 7168), 220.0, 210.0, regime="sustained"),
    ]
    text = figures.summary(rows)
    versions = "nvidia-cutlass-dsl 4.8.1, torch 2.11.0"
    origins = f"NVIDIA H100 80GB HBM3, 2026-12-01, {versions}; NVIDIA H200, 2026-11-23, {versions}"
    h100 = "NVIDIA H100 80GB HBM3"
    assert text.startswith(f"On {origins}:\n\n| operation | rows | {h100}, cold | {h100}, sustained |")
    header, rule, *lines = [line for line in text.splitlines() if line.startswith("|")]
    assert header.count("|") == rule.count("|") == 6
    assert header.endswith("| NVIDIA H200, cold |")
    assert lines == [
        "| dense | M = 4096 | 0.957 (0.833; 2) | 0.955 (0.955; 1) | 0.900 (0.900; 1) |",
        "| dense | M = 64 |  |  | 1.000 (1.000; 1) |",
    ]


def test_a_chain_is_compared_with_both_ways_of_deepgemm_and_the_floor():
    shape, other = (64, 2112, 7168), (128, 2112, 7168)
    peers = {"cute_gemm": 8.0, "DeepGEMM": 10.0, "DeepGEMM, dependent launch": 9.6, "floor": 7.2}
    rows = [row(shape, us, peer, "chain") for peer, us in peers.items()]
    rows += [row(other, us, peer, "chain") for peer, us in (("cute_gemm", 10.0), ("DeepGEMM", 9.0))]
    lines = [line for line in figures.render(rows).splitlines() if line.startswith("| ")]
    assert lines[0].endswith("| speed / DeepGEMM | by `set_pdl` | speed / floor |")
    assert lines[1].endswith("| 8.0 | 1234 | 10.0 | 1.25 | 1.20 | 0.90 |")
    assert lines[2].endswith("| 10.0 | 1234 | 9.0 | 0.90 |  |  |")
    assert "| dense | M = 64 | 1.250 (1.250; 1) |" in figures.summary(rows)


def test_a_floor_of_another_run_is_told():
    shape = (64, 2112, 7168)
    peers = {"cute_gemm": 8.0, "DeepGEMM": 10.0, "DeepGEMM, dependent launch": 9.6, "floor": 7.2}
    rows = [row(shape, us, peer, "chain") for peer, us in peers.items()]
    assert "another run" not in figures.render(rows)
    rows[-1]["date"] = "2026-11-22"
    note = 'What "speed / floor" compares with is of 2026-11-22, another run.'
    assert figures.render(rows).count("another run") == figures.render(rows).count(note) == 1


def test_a_second_card_adds_columns_to_the_readme_and_a_section_to_results(root, results, tmp_path):
    shape = (4096, 4096, 7168)
    records.write_rows(tmp_path / "results" / "h100" / "dense_cold.jsonl", beside(shape, 180.0, 150.0))
    assert figures.main([], root) == 0
    alone = (root / "README.md").read_text().splitlines()
    records.write_rows(
        tmp_path / "results" / "h200" / "dense_cold.jsonl", [row(shape, 200.0) | {"limit_us": 121.6}]
    )
    assert figures.main(["--check"], root) == 1
    assert figures.main([], root) == 0
    assert figures.main(["--check"], root) == 0
    both = (root / "README.md").read_text().splitlines()
    # The README is as long as it may be.
    assert len(both) == len(alone)
    _, first, second = (root / "docs" / "results.md").read_text().split("\n## ")
    assert first.startswith("NVIDIA H100 80GB HBM3\n\n**Cold L2")
    assert "| 180.0 | 1234 | 150.0 | 0.83 |" in first
    assert second.startswith("NVIDIA H200\n\n**Cold L2")
    assert "| 200.0 | 1234 | 168.7 | 0.84 |" in second
    data = pictures.data_of(figures._cold(figures.read_results()))
    for shown in data.values():
        assert list(shown) == ["NVIDIA H100 80GB HBM3", "NVIDIA H200"]
    assert pictures.is_up_to_date(root / "docs" / pictures.SPEED, data[pictures.SPEED])


def quantizer_row(us, shape=(4096, 7168), **more):
    made = {"op": "quantize_1x128", "m": shape[0], "k": shape[1], "scale_layout": "row_major"}
    found = row((0, 0, 0), us) | made | {"copy_share": 22.9 / us} | more
    return {key: value for key, value in found.items() if key not in ("n", "tflops")}


def quantizer_pictures(rows):
    """Those that results.md shows, which are those that are drawn."""
    shown = re.findall(r"\(pictures/(quantizers\w+\.png)\)", figures.render(rows))
    assert shown == [name for name in part_pictures.data_of(rows) if name.startswith("quantizers")]
    return shown


def test_quantisers_have_tables_of_their_own():
    rows = [
        quantizer_row(25.42),
        quantizer_row(25.9, scale_layout="m_major"),
        quantizer_row(2.4, (16, 7168)),
        quantizer_row(9.4, (4096, 2048), op="quantize_128x128"),
        quantizer_row(1.8, (16, 7168), regime="chain", over_empty_us=0.554),
        quantizer_row(20.0, peer="copy"),
        row((4096, 4096, 7168), 200.0),
    ]
    dense, cold, few = figures.render(rows).split("\n\n**")
    assert dense.startswith("**Cold L2")
    assert cold.startswith("Quantising bf16, cold L2: ")
    assert (
        "copy of as many bytes** (NVIDIA H200, 2026-11-23, nvidia-cutlass-dsl 4.8.1, torch 2.11.0):" in cold
    )
    assert [line for line in cold.splitlines() if line.startswith("| ")] == [
        "| K = 7168 | M = 16 | M = 4096 |",
        "| Quantising 1x128 | 2.4 (9.54) | 25.4 (0.90) |",
        "| Quantising 1x128, M-major scales |  | 25.9 (0.88) |",
        "| K = 2048 | M = 4096 |",
        "| Quantising 128x128 | 9.4 (2.44) |",
    ]
    assert few.splitlines()[2:5] == ["| K = 7168 | M = 16 |", "|---|--:|", "| Quantising 1x128 | 0.55 |"]
    assert quantizer_pictures(rows) == ["quantizers_nvidia_h200_cold.png", "quantizers_nvidia_h200_chain.png"]
    # A card may have nothing else; the README has room for products alone.
    page = figures.results_page(rows[:5])
    assert "## NVIDIA H200\n\n**Quantising bf16" in page
    assert figures.summary(rows[:5]) == "No figures yet."


def layer_row(us, tokens, peer="cute_gemm", **more):
    sizes = {"tokens": tokens, "experts": 32, "all_experts": 256, "choices": 8, "k": 7168, "inner": 2048}
    layout = "row_major" if peer == "cute_gemm" else None
    made = {"op": "moe_expert_layer", "scale_layout": layout, "bytes_us": 9.2, "regime": "chain"}
    return row((0, 0, 0), us, peer) | sizes | made | {"stages": {"route": 1.3, "down": us / 2}} | more


def test_expert_layers_have_a_table_and_a_picture_of_stages(root, results):
    rows = [
        layer_row(20.0, 1),
        layer_row(40.0, 4),
        layer_row(22.0, 1, "unfused"),
        layer_row(80.0, 4, "unfused", wrong="beyond its limit"),
        layer_row(60.0, 4, "bf16"),
        # Nothing to compare with.
        layer_row(60.0, 16, "bf16"),
    ]
    results(rows)
    assert figures.main([], root) == 0
    page = (root / "docs" / "results.md").read_text()
    table = [line for line in page.splitlines() if line.startswith("| ")]
    assert table == [
        "| tokens | experts | of | choices | K | I | us | us of its bytes | speed / unfused | speed / bf16 |",
        "| 1 | 32 | 256 | 8 | 7168 | 2048 | 20.0 | 9.2 | 1.10 |  |",
        "| 4 | 32 | 256 | 8 | 7168 | 2048 | 40.0 | 9.2 |  | 1.50 |",
        "| geometric mean |  |  |  |  |  |  |  | 1.100 | 1.500 |",
    ]
    name = "stages_nvidia_h200_chain.png"
    assert page.endswith(f"](pictures/{name})\n")
    picture = root / "docs" / "pictures" / name
    (shown,) = part_pictures.data_of(rows).values()
    assert pictures.is_up_to_date(picture, shown)
    assert shown[0]["stages"] == {"route": 1.3, "down": 10.0}
    assert "versions" not in shown[0]
    (axes,) = part_pictures.figure_of(shown).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "1 token, cute_gemm",
        "1 token, unfused",
        "4 tokens, cute_gemm",
        "4 tokens, unfused",
        "4 tokens, bf16",
    ]
    assert figures.main(["--check"], root) == 0
    results([each | {"stages": {"route": 1.4}} for each in rows])
    assert figures.main(["--check"], root) == 1


def test_a_card_without_anything_to_compare_with_is_not_shown():
    alone = row((4096, 4096, 7168), 180.0) | H100
    rows = [row((4096, 4096, 7168), 200.0), alone]
    assert "H100" not in figures.summary(rows) + figures.results_page(rows)
    assert figures.summary([alone]) == "No figures yet."
    assert figures.results_page([alone]).endswith("\nNo figures yet.\n")


def test_results_are_read_whatever_folder_they_are_in(tmp_path):
    for folder, us in (("h100", 180.0), ("h200", 200.0)):
        records.write_rows(tmp_path / folder / "dense_cold.jsonl", [row((4096, 4096, 7168), us)])
    assert [each["us"] for each in figures.read_results(tmp_path)] == [180.0, 200.0]


def test_gradients_are_on_the_results_page_alone():
    """One mean of all, as each weight has an M of its own."""
    shapes = [(2112, 4096, 7168), (24576, 4096, 1536)]
    of = {"op": records.DENSE_ADDED}
    ours = [row(shape, 200.0) | of for shape in shapes]
    beside = zip(ours, (220.0, 242.0), strict=True)
    theirs = [each | {"peer": records.DEEPGEMM, "us": us, "config": None} for each, us in beside]
    (section,) = figures._parts([*ours, *theirs])
    assert section.startswith("**Gradients of weights, added to FP32. Cold L2, one call at a time**")
    assert "| geometric mean | all |" in section
    assert "| speed / DeepGEMM | 1.154 |" in section
    assert figures.summary([*ours, *theirs]) == "No figures yet."
