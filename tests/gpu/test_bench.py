"""`cute-gemm bench` on a GPU: kernels and peers pass its judges, are timed, and rows say what they should."""

from __future__ import annotations

from pathlib import Path

import pytest

from cute_gemm import cli
from cute_gemm.bench import results
from cute_gemm.bench.peers.registry import GRADIENTS, LAYERS
from cute_gemm.measure import layers, records
from cute_gemm.measure.records import Row


def measured(out: Path, *arguments: str) -> list[Row]:
    assert cli.main(["bench", "--out", str(out), *arguments]) == 0
    return results.read_results(out)


def of_peer(rows: list[Row], peer: str) -> list[Row]:
    return [row for row in rows if row["peer"] == peer]


def test_quantisers_beside_a_copy_and_an_empty_kernel(tmp_path: Path) -> None:
    """Every form, in both regimes: results of ours are right, of others, too, and nothing is refused."""
    rows = measured(
        tmp_path, "--suite", "quantize", "--shapes", "64x2048", "--peers", "copy,torch,torch_compile,empty"
    )
    ours = of_peer(rows, records.OURS)
    assert {row["op"] for row in ours} == set(records.QUANTIZERS)
    assert not any("wrong" in row for row in rows)
    for regime in ("cold", "chain"):
        here = [row for row in rows if row["regime"] == regime]
        for peer in (records.COPY, records.TORCH, records.COMPILED):
            assert {row["op"] for row in of_peer(here, peer)} == set(records.QUANTIZERS), (regime, peer)
        for row in of_peer(here, records.OURS):
            assert 0.2 < row["copy_share"] < 5
    for row in ours:
        if row["regime"] == "chain":
            assert 0 < row["host_us"] < 1000
            assert 0 < row["host_mm_us"] < 1000
            # The target is 1.5; what is asked here is that graphs were timed, and not the host.
            assert -0.5 < row["over_empty_us"] < 5, row


@pytest.mark.parametrize("op", [records.ROWS, records.GATHERED, records.SWIGLU])
def test_quantisers_of_triton_are_right(op: str, tmp_path: Path) -> None:
    pytest.importorskip("triton")
    rows = measured(
        tmp_path, "--suite", "quantize", "--ops", op, "--shapes", "130x2064", "--peers", "triton,copy"
    )
    assert not any("wrong" in row for row in rows)
    assert len(of_peer(rows, records.TRITON)) == 1


def test_many_rows_are_no_slower_than_half_a_copy(tmp_path: Path) -> None:
    rows = measured(
        tmp_path, "--suite", "quantize", "--regime", "cold", "--shapes", "4096x7168", "--peers", "copy"
    )
    for row in of_peer(rows, records.OURS):
        # Clocks and cards differ: what is asked of a figure is asked of the benchmark's own.
        assert 0.5 < row["copy_share"] < 1.5, row


def test_products_beside_a_chain_of_copies(tmp_path: Path) -> None:
    rows = measured(tmp_path, "--regime", "chain", "--shapes", "64x2112x7168", "--peers", "copy")
    assert {row["peer"] for row in rows} == {
        records.OURS,
        records.OURS_DEPENDENT,
        records.OURS_INDEPENDENT,
        records.COPY,
    }


@pytest.mark.parametrize("shape", ["16x8x16x4x1024x512", "16x8x8x2x1024x512"])
def test_expert_layers_beside_products_without_epilogues(shape: str, tmp_path: Path) -> None:
    """In both regimes: results of all are right, and each stage takes a part of the time."""
    rows = measured(tmp_path, "--suite", "moe", "--shapes", shape, "--peers", "unfused,bf16")
    assert not any("wrong" in row for row in rows)
    peers = {records.OURS, records.UNFUSED}
    if LAYERS["bf16"].available() is None:
        peers.add(records.BF16)
    for regime in ("cold", "chain"):
        here = [row for row in rows if row["regime"] == regime]
        assert {row["peer"] for row in here} == peers
        for row in here:
            fused = {records.ACTIVATE} if row["peer"] == records.OURS else set()
            assert row["stages"].keys() == {*records.STAGES} - fused
            # By themselves they read from DRAM what the layer finds in L2.
            assert 0.5 * row["us"] < sum(row["stages"].values()) < 4 * row["us"], row
    for row in of_peer(rows, records.OURS):
        # Of a card without a data sheet it is not known.
        assert row.get("bytes_us", 0.0) < row["us"]
    chain = [row for row in rows if row["regime"] == "chain"]
    assert all(row["layers"] >= layers.LAYER_CALLS for row in chain)


def test_few_tokens_of_experts_beside_deepgemm(tmp_path: Path) -> None:
    """Without the package ours alone are timed."""
    shape = "16x16x64x8x2048x768"
    rows = measured(
        tmp_path, "--suite", "moe", "--shapes", shape, "--regime", "chain", "--peers", "unfused_masked"
    )
    assert not any("wrong" in row for row in rows)
    peers = {records.OURS}
    if LAYERS["unfused_masked"].available() is None:
        peers.add(records.UNFUSED_MASKED)
    assert {row["peer"] for row in rows} == peers


def test_many_tokens_of_experts_beside_deepgemm(tmp_path: Path) -> None:
    """Without the package the others are timed."""
    names = "unfused,unfused_deep_gemm"
    rows = measured(tmp_path, "--suite", "moe", "--shapes", "2048x16x64x8x2048x768", "--peers", names)
    assert {row["regime"] for row in rows} == {"cold"}
    assert not any("wrong" in row for row in rows)
    found = {row["peer"] for row in rows}
    assert (records.UNFUSED_DEEPGEMM in found) == (LAYERS["unfused_deep_gemm"].available() is None)
    assert found >= {records.OURS, records.UNFUSED}


@pytest.mark.parametrize(
    ("shape", "ops"),
    [("520x264x1040", records.DENSE_GRADIENTS), ("3x520x264x1040", records.K_GROUPED_GRADIENTS)],
)
def test_gradients_of_weights_beside_deepgemm(shape: str, ops: tuple[str, ...], tmp_path: Path) -> None:
    """In both regimes; without the package ours alone are timed."""
    rows = measured(tmp_path, "--suite", "gradients", "--shapes", shape, "--peers", "deep_gemm")
    assert not any("wrong" in row for row in rows)
    for regime in ("cold", "sustained"):
        here = [row for row in rows if row["regime"] == regime]
        assert [row["op"] for row in of_peer(here, records.OURS)] == list(ops)
        beside = [row["op"] for row in of_peer(here, records.DEEPGEMM)]
        assert beside == ([ops[0]] if GRADIENTS["deep_gemm"].available() is None else [])
