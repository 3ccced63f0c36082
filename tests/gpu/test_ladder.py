"""Every rung of the ladder is right on all of its shapes, always to the same bits, and as fast as it says."""

from pathlib import Path

import pytest
import torch
from modules import load

from cute_gemm.measure import records
from cute_gemm.testing import rungs

ROOT = Path(__file__).parents[2]
RUNGS = sorted((ROOT / "examples" / "ladder").glob("*.py"))


@pytest.mark.parametrize("path", RUNGS, ids=lambda path: path.stem)
def test_rung(path: Path) -> None:
    module = load(path)
    for rung in (module.RUNG, *module.RUNG.beside):
        instance = rung.instance()
        for shape in rung.shapes:
            tensors = rung.make(shape, torch.device("cuda"))
            bits = tensors[-1].view(torch.uint8)
            before, results = bits.clone(), []
            for _ in range(3):
                bits.copy_(before)
                instance(*tensors)
                results.append(bits.clone())
            torch.cuda.synchronize()
            rung.judge(tensors)
            assert all(torch.equal(result, results[0]) for result in results), f"{rung.name}, {shape}: a race"


@pytest.mark.parametrize("path", RUNGS, ids=lambda path: path.stem)
def test_a_rung_takes_no_longer_than_is_on_record(path: Path) -> None:
    """By more than clocks differ; nothing is known of cards without a record."""
    rung = load(path).RUNG
    recorded = [
        row
        for file in sorted((ROOT / rungs.RECORDS).glob("*.jsonl"))
        for row in records.read_rows(file)
        if (row["rung"], row["shape"]) == (rung.name, list(rung.shapes[0])) and rungs.is_timed(row)
        if row["device"] == torch.cuda.get_device_name()
    ]
    if not recorded:
        pytest.skip("nothing is on record of this card")
    assert rungs.run(rung, rung.shapes[0])["us"] <= 1.15 * recorded[-1]["us"]
