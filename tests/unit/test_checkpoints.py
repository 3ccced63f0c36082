"""`cute-gemm demo --weights`: folders, scales of any kind, experts, and what is said of all else."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import cute_gemm
from cute_gemm import cli
from cute_gemm.cli import products, weights
from cute_gemm.cli.checkpoints import tensors_of
from cute_gemm.measure.errors import CommandError

INDEX = "model.safetensors.index.json"
CPU = torch.device("cpu")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: Any) -> tuple[int, str, str]:
        status = cli.main(["demo", "--tokens", "1", "--weights", *map(str, arguments)])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder of two files, whose index says which; the scales of one's weight are in the other."""
    stored, scales = cute_gemm.quantize_128x128(torch.randn(136, 256) * 1e-3)
    parts = {
        "a.safetensors": {"x.weight": stored, "y.weight": torch.randn(8, 16)},
        "b.safetensors": {"x.weight_scale_inv": scales, "z.weight": torch.randn(8, 32)},
    }
    for name, tensors in parts.items():
        save_file(tensors, tmp_path / name)
    homes = {each: name for name, tensors in parts.items() for each in tensors}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": homes}))
    save_file({"other.weight": torch.randn(8, 16)}, tmp_path / "consolidated.safetensors")
    return tmp_path


def test_a_folder_is_read_by_its_index(run: Run, shards: Path) -> None:
    for path in (shards, shards / INDEX):
        found, skipped = weights.find(path)
        assert [each.name for each in found] == ["x.weight", "y.weight", "z.weight"]
        assert skipped == []
    assert 0.9e-3 < found[0].load(CPU).std() < 1.1e-3
    status, out, err = run(shards)
    assert (status, err) == (0, "")
    assert "136 x 256" in out


def test_a_folder_without_an_index(shards: Path) -> None:
    (shards / INDEX).unlink()
    assert {"other.weight", "x.weight", "z.weight"} < tensors_of(shards).keys()
    save_file({"other.weight": torch.randn(8, 16)}, shards / "again.safetensors")
    with pytest.raises(CommandError, match=r"both have other\.weight; name one"):
        tensors_of(shards)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "index.json: Expecting"),
        ("[]", "it has no weight_map"),
        ('{"weight_map": {}}', "it has no weight_map"),
        ('{"weight_map": {"x": "none.safetensors"}}', "it names none.safetensors, which is not there"),
        ('{"weight_map": {"x": "../a.safetensors"}}', "x is in '../a.safetensors', which is no file of this"),
        ('{"weight_map": {"x": 1}}', "x is in 1, which is no file"),
        ('{"weight_map": {"gone": "a.safetensors"}}', "it has gone in a.safetensors, which lacks it"),
    ],
)
def test_an_index_that_is_wrong(run: Run, shards: Path, content: str, message: str) -> None:
    (shards / INDEX).write_text(content)
    status, _, err = run(shards)
    assert status == 1
    assert message in err
    assert err.count("\n") == 1


def test_folders_that_cannot_be_read(run: Run, tmp_path: Path) -> None:
    assert "no *.safetensors in it" in run(tmp_path)[2]
    for name in ("one", "two"):
        (tmp_path / f"{name}.safetensors.index.json").write_text("{}")
    assert "several indexes, one.safetensors.index.json, two" in run(tmp_path)[2]


@pytest.mark.parametrize("suffix", ["_scale_inv", "_scale"])
@pytest.mark.parametrize("scales", [(), (1,), (1, 1), (136,), (136, 1), (2, 2)])
def test_scales_of_any_kind_multiply(tmp_path: Path, suffix: str, scales: tuple[int, ...]) -> None:
    stored, factors = torch.randn(136, 256).to(torch.float8_e4m3fn), torch.rand(scales) + 0.5
    save_file({"w": stored, f"w{suffix}": factors}, tmp_path / "w.safetensors")
    (found,), skipped = weights.find(tmp_path)
    assert skipped == []
    whole = factors.repeat_interleave(128, 0)[:136].repeat_interleave(128, 1) if scales == (2, 2) else None
    expected = stored.float() * (factors.reshape(-1, 1) if whole is None else whole)
    assert torch.equal(found.load(CPU), expected)


def test_the_first_of_experts_is_run_and_the_others_are_named(run: Run, tmp_path: Path) -> None:
    stored, scales = torch.randn(4, 136, 256).to(torch.float8_e4m3fn), torch.rand(4, 2, 2) + 0.5
    tensors = {
        "experts": stored,
        "experts_scale": scales,
        "conv": torch.randn(8, 1, 4),
        "4d": torch.ones(2, 2, 8, 16),
    }
    save_file(tensors, tmp_path / "w.safetensors")
    (found,), _ = weights.find(tmp_path)
    assert found.name == "experts[0]"
    assert torch.equal(found.load(CPU), cute_gemm.dequantize_128x128(stored[0], scales[0]))
    status, out, _ = run(tmp_path)
    assert status == 0
    assert [line for line in out.splitlines() if line.startswith("skipped")] == [
        "skipped 4d: its shape is [2, 2, 8, 16]; a weight has two dimensions, or three with those of experts",
        "skipped conv: N = 1 is not a positive multiple of 8",
        "skipped experts[1:4]: of a 3-D tensor the first matrix is run, taken as [out_features, in_features]",
    ]


@pytest.mark.parametrize(
    ("scales", "reason"),
    [
        ({"w_scale": torch.ones(3, 3)}, "its scales have shape [3, 3], which is not one per 128x128 block"),
        ({"w_scale": torch.ones(2, dtype=torch.uint8)}, "its scales are U8"),
        (
            {"w_scale": torch.ones(1), "w_scale_inv": torch.ones(1)},
            "it has scales twice, w_scale_inv and w_scale",
        ),
    ],
)
def test_scales_that_are_not_used_are_named(
    run: Run, tmp_path: Path, scales: dict[str, torch.Tensor], reason: str
) -> None:
    save_file({"w": torch.zeros(8, 16).to(torch.float8_e4m3fn), **scales}, tmp_path / "w.safetensors")
    status, out, err = run(tmp_path)
    assert f"skipped w: {reason}" in out
    assert (status, err) == (1, f"cute-gemm: nothing of {tmp_path} can be run\n")


def test_a_weight_beyond_memory_is_skipped(run: Run, shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "available_bytes", lambda: 13.0 * 129 * 128 + 16 * 8)
    status, out, _ = run(shards)
    assert status == 0
    assert "8 x 16" in out
    assert "skipped x.weight: it takes 0.0 GiB of memory to multiply and check, and 0.0 GiB are free" in out


def test_names_cannot_steer_a_terminal(run: Run, tmp_path: Path) -> None:
    names = ["[/b]", "[red]x[/red]", ":smile:", "\x1b[31m", "a\rb"]
    save_file({name: torch.randn(8, 16) for name in names}, tmp_path / "w.safetensors")
    status, out, err = run(tmp_path)
    assert (status, err) == (0, "")
    for name in ("[/b]", "[red]x[/red]", ":smile:", "\\x1b[31m", "a\\rb"):
        assert f"│ {name} " in out
