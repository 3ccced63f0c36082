"""The rows of a benchmark: what is in them, what their rates mean, and how they are read back."""

import pytest
from bench_rows import ORIGIN, SHAPE, row

from cute_gemm.bench import published, results
from cute_gemm.bench.rows import measurement
from cute_gemm.measure import records, work
from cute_gemm.measure.errors import CommandError
from cute_gemm.plan.data_sheets import data_sheet


def test_row_holds_all_that_a_result_needs():
    assert row(us=200.0004) == {
        "op": "dense_1d2d",
        "m": 4096,
        "n": 4096,
        "k": 7168,
        "peer": "cute_gemm",
        "us": 200.0,
        "tflops": 1202.6,
        "gb_per_s": 466.0,
        "median": 200.0,
        "spread": 0.0123,
        "rounds": 20,
        "timer": "CUPTI",
        "regime": "cold",
        "config": "256x128_c2x1_s3_bf16",
        "scale_layout": "m_major",
        "error_worst_tile": 1.432e-6,
        # 2 * 4096 * 4096 * 7168 / 1979 TFLOP/s
        "limit_us": 121.535,
        "share_of_limit": 0.6077,
        **ORIGIN,
    }


def test_limit_is_left_out_for_cards_that_are_not_known():
    assert data_sheet("NVIDIA L4") is None
    origin = ORIGIN | {"device": "NVIDIA H100 PCIe"}
    arguments = {"median": 1.0, "spread": 0.0, "rounds": 1, "timer": "CUPTI", "regime": "cold"}
    arguments |= {"scale_layout": None, "config": None, "error_worst_tile": None}
    one = work.Work.of("dense_1d2d", (1, 2112, 7168))
    slower = measurement(one, "peer", 10.0, origin=origin, **arguments)
    assert slower["limit_us"] == pytest.approx(row(10.0, one.shape)["limit_us"] * 4.8 / 2.0, rel=1e-3)
    unknown = measurement(one, "peer", 10.0, origin=ORIGIN | {"device": "NVIDIA L4"}, **arguments)
    assert slower.keys() - unknown.keys() == {"limit_us", "share_of_limit"}


@pytest.mark.parametrize(("shape", "us"), [((4096, 7168, 16384), 486.2), ((1, 2112, 7168), 3.157)])
def test_limit_is_that_of_the_tensor_cores_or_of_memory(shape, us):
    assert data_sheet("NVIDIA H200").limit_us(work.Work.of("dense_1d2d", shape)) == pytest.approx(
        us, rel=1e-3
    )


@pytest.mark.parametrize("regime", ["cold", "sustained"])
def test_rates_mean_what_they_mean_in_the_peers_figures(regime):
    for peer in records.read_rows(published.FILES[regime]):
        ours = row(peer["us"], records.shape_of(peer), op=peer["op"])
        # Their times are rounded to 0.1 us (sustained) or 0.01 us (cold, from 7 us).
        assert ours["tflops"] == pytest.approx(peer["tflops"], rel=1e-3, abs=0.11)
        if "gb_per_s" in peer:
            assert ours["gb_per_s"] == pytest.approx(peer["gb_per_s"], rel=2e-3)


def test_peers_shapes():
    cold, sustained = published.peer_shapes("cold"), published.peer_shapes("sustained")
    assert len(cold) == len(set(cold)) == 35
    assert {m for m, _, _ in cold} == {1, 64, 128, 512, 4096}
    assert len(sustained) == 5
    assert set(sustained) < set(cold)


def test_peers_shapes_of_grouped_operations():
    contiguous, masked = (published.peer_shapes("cold", op) for op in (records.CONTIGUOUS, records.MASKED))
    assert (len(contiguous), len(masked)) == (8, 16)
    assert {shape[:2] for shape in contiguous} == {(4, 8192), (8, 4096)}
    assert {shape[:2] for shape in masked} == {(6, 20), (6, 1024), (32, 20), (32, 192)}
    # Without padding the rows are the same: peers, which cannot do without it, have the padded row.
    assert published.peer_shapes("cold", records.OFFSETS) == contiguous
    assert len(published.peer_shapes("sustained", records.CONTIGUOUS)) == 2
    assert published.peer_shapes("sustained", records.MASKED) == []


def test_rows_are_drawn_as_the_peers_drew_them():
    """What the rates in the peers' figures leave no doubt of; a generator that went on would draw others."""
    totals = {
        op: {shape[:2]: work.total_rows(op, shape) for shape in published.peer_shapes("cold", op)}
        for op in (records.CONTIGUOUS, records.OFFSETS, records.MASKED)
    }
    assert totals == {
        "m_grouped_contiguous": {(4, 8192): 34304, (8, 4096): 34048},
        "m_grouped_offsets": {(4, 8192): 34151, (8, 4096): 33464},
        "m_grouped_masked": {(32, 192): 6559, (6, 1024): 6262, (32, 20): 670, (6, 20): 121},
    }
    for peer in records.read_rows(published.FILES["cold"]):
        if peer["op"] in totals:
            rows = totals[peer["op"]][records.shape_of(peer)[:2]]
            assert peer["tflops"] * 1e6 * peer["us"] / (2 * peer["n"] * peer["k"]) == pytest.approx(
                rows, rel=0.05 / peer["tflops"] + 0.005 / peer["us"]
            )


def test_rows_survive_the_file(tmp_path):
    rows = [row(), row(peer=records.FAST, layout=None)]
    records.write_rows(tmp_path / "new" / "rows.jsonl", rows)
    assert records.read_rows(tmp_path / "new" / "rows.jsonl") == rows
    records.write_rows(tmp_path / "new" / "more.jsonl", rows[:1])
    assert results.read_results(tmp_path / "new") == [rows[0], *rows]
    assert results.read_results(tmp_path / "new" / "more.jsonl") == rows[:1]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "No such file"),
        ("", "no JSON lines"),
        ("{", "Expecting"),
        ("[1]\n", "not a line of a benchmark"),
        ('{"op": "dense_1d2d", "us": 1}\n', "not a line of a benchmark"),
        ('{"op": "dense", "peer": "x", "us": 1, "regime": "cold", "scale_layout": null}\n', "not a line of"),
    ],
)
def test_what_is_no_result_is_refused(text, complaint, tmp_path):
    path = tmp_path / "rows.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CommandError, match=f"rows.jsonl.*{complaint}"):
        results.read_results(path)


def test_one_thing_measured_twice_is_refused():
    with pytest.raises(CommandError, match=r"two cold rows of cute_gemm \(m_major\) at \(4096, 4096, 7168\)"):
        results.by_kind([row(), row(199.0)], "dense_1d2d", "cold")
    kinds = results.by_kind([row(), row(layout="row_major"), row(peer="x")], "dense_1d2d", "cold")
    assert kinds.keys() == {("cute_gemm", "row_major"), ("cute_gemm", "m_major"), ("x", None)}
    assert kinds["x", None].keys() == {SHAPE}
