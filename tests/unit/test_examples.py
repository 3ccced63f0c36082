"""Every example runs as a user would run it, on the CPU, with small shapes, and shows what it says."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from levels import cases

import cute_gemm

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(name, *arguments):
    """Standard output of an example."""
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, EXAMPLES / name, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def figures(out, label):
    """Numbers at the ends of the lines that hold `label`."""
    lines = [line.removesuffix(" error").removesuffix("%") for line in out.splitlines() if label in line]
    return [float(line.split()[-1]) for line in lines]


def test_01_dense_fp8_gemm():
    out = run("01_dense_fp8_gemm.py", "--m", "128", "--n", "256", "--k", "1040")
    # The text says what each of these figures shows; they had better show it.
    one_scale, fine = figures(out, "beside one value")
    assert one_scale > 50
    assert fine < 4
    (kept,), (promoted,) = figures(out, "kept in the tensor core"), figures(out, "promoted to FP32")
    assert promoted < kept / 2
    (own,), (total,) = figures(out, "of the quantised operands"), figures(out, "before quantisation")
    assert own < 3e-6
    assert 4e-4 < total < 1e-3
    assert "no Hopper GPU here" in out


def load(name):
    """An example as a module."""
    specification = importlib.util.spec_from_file_location(Path(name).stem, EXAMPLES / name)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


SIZES = [(128, 256, 128, 8, 2), (70, 144, 48, 5, 1)]


@pytest.mark.parametrize(("tokens", "hidden", "inner", "experts", "top_k"), cases(SIZES, usual=SIZES[1:]))
def test_02_moe_layer(tokens, hidden, inner, experts, top_k):
    sizes = {"tokens": tokens, "hidden": hidden, "inner": inner, "experts": experts, "top-k": top_k}
    out = run("02_moe_layer.py", *(f"--{name}={size}" for name, size in sizes.items()))
    rows = tokens * top_k
    assert f"{tokens} tokens, each to {top_k} of {experts} experts, are {rows} rows" in out
    differences = figures(out, "difference from the loop")
    assert len(differences) == 3
    assert max(differences) < 1e-5
    steps = [block.splitlines() for block in re.split(r"^(?=\d\. )", out, flags=re.MULTILINE)[1:]]
    assert [lines[0].split(":")[0] for lines in steps] == [
        "1. Route",
        "2. Loop over the experts",
        "3. Contiguous",
        "4. Offsets",
        "5. Masked",
        "6. Fused",
    ]
    *steps, fused = steps
    assert re.fullmatch(r"   the whole layer: \d+ us", fused[1])
    errors = re.fullmatch(r"   off what it is without FP8 by (.*)%, the loop by (.*)%", fused[2]).groups()
    assert all(1 < float(each) < 8 for each in errors)
    loop, contiguous, offsets, masked = (lines[1].strip() for lines in steps[1:])
    assert loop == offsets == f"{rows} rows"
    padded, share = re.fullmatch(r"(\d+) rows, (\d+)% of them empty", contiguous).groups()
    assert int(padded) % 128 == 0
    assert int(share) == round(100 * (1 - rows / int(padded)))
    assert masked.startswith(f"{tokens * experts} rows, ")
    for lines in steps[1:]:
        assert re.fullmatch(r"   both products: \d+ us", lines[2])
    assert "No Hopper GPU here" in out


def test_03_train(tmp_path):
    picture = tmp_path / "losses.png"
    out = run("03_train.py", "--steps=12", "--hidden=32", "--layers=1", "--batch=4", f"--png={picture}")
    assert "4 layers become FP8, 1 is left" in out
    (bf16_start, bf16_end), (fp8_start, fp8_end) = (
        map(float, re.search(r"loss from (.*) to (.*)$", line).groups())
        for line in out.splitlines()
        if "loss from" in line
    )
    assert fp8_start == pytest.approx(bf16_start, rel=0.01)
    assert fp8_end == pytest.approx(bf16_end, rel=0.01)
    assert fp8_end < 0.9 * fp8_start
    (difference,) = figures(out, "Final loss of FP8 beside bf16")
    assert difference == pytest.approx(100 * (fp8_end / bf16_end - 1), abs=0.05)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "No Hopper GPU here" in out


def test_03_train_reads_what_is_there():
    train = load("03_train.py")
    text = train.read()
    assert len(text) > 100_000
    (batch,) = train.batches(text, 4, 1, torch.device("cpu"))
    assert batch.shape == (4, train.CONTEXT + 1)
    assert bytes(batch[0].tolist()) in bytes(text.tolist())


def test_02_moe_layer_is_the_layer():
    """The loop that others are compared with gives what the formula says, in full precision."""
    moe = load("02_moe_layer.py")
    torch.manual_seed(1)
    tokens, hidden, inner, experts, top_k = 70, 256, 128, 5, 2
    x = moe.embed(tokens, hidden, torch.device("cpu"))
    gate_up = cute_gemm.quantize_128x128(moe.random_matrices(experts, 2 * inner, hidden, x.device))
    down = cute_gemm.quantize_128x128(moe.random_matrices(experts, hidden, inner, x.device))
    routing = moe.route(x, experts, top_k)
    y, _ = moe.layer(x, routing, moe.loop(routing), gate_up, down)

    w_up, w_down = (cute_gemm.dequantize_128x128(*w) for w in (gate_up, down))
    wanted = torch.zeros_like(x)
    for token, (chosen, weight) in enumerate(
        zip(routing.expert.view(tokens, top_k), routing.weight, strict=True)
    ):
        assert len(set(chosen.tolist())) == top_k
        assert weight.sum().item() == pytest.approx(1)
        for expert, share in zip(chosen, weight, strict=True):
            gate, up = (w_up[expert] @ x[token]).split(inner)
            wanted[token] += share * (w_down[expert] @ (gate * gate.sigmoid() * up))
    # Both activations are rounded to 8 bits.
    assert ((y - wanted).norm() / wanted.norm()).item() < 0.06
    assert len(set(y.sum(1).tolist())) == tokens
