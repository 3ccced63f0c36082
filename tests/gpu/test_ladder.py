"""Every rung of the ladder runs right on each of its shapes, and gives the same bits each time."""

from pathlib import Path

import pytest
import torch
from modules import load

RUNGS = sorted((Path(__file__).parents[2] / "examples" / "ladder").glob("*.py"))


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
