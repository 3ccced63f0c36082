"""`cute-gemm tune` on a GPU: real candidates pass its checks, are timed, and what it keeps is what runs."""

from collections.abc import Iterator
from pathlib import Path

import groups
import pytest
import torch
from tensors import problem_here

import cute_gemm
from cute_gemm import cli
from cute_gemm.plan.layouts import Layout
from cute_gemm.plan.tuned import files
from cute_gemm.plan.tuned.table import Entry
from cute_gemm.runtime import launcher, selection
from cute_gemm.testing import assert_correct, make_inputs


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The user's, empty; nothing that was chosen before or is chosen here is remembered."""
    monkeypatch.setenv(files.DIRECTORY_VARIABLE, str(tmp_path))
    files.tables.cache_clear()
    launcher.forget()
    yield tmp_path
    files.tables.cache_clear()
    launcher.forget()


def tune(directory: Path, *arguments: str) -> list[Entry]:
    device_name = torch.cuda.get_device_name()
    assert cli.main(["tune", *arguments]) == 0
    files.tables.cache_clear()
    return files.read(directory / files.file_name(device_name), device_name)


@pytest.mark.parametrize("out_dtype", ["bfloat16", "float32"])
def test_what_is_tuned_is_run(directory: Path, out_dtype: str) -> None:
    shape = (64, 2112, 1024)
    arguments = "--shapes", "64x2112x1024", "--out-dtype", out_dtype, "--num-sms", "100", "--within", "1.5"
    (entry,) = tune(directory, *arguments)
    assert selection.select(problem_here(*shape, out_dtype=out_dtype, num_sms=100)) == entry.kernel_config
    assert entry.cold_us is not None
    assert entry.chain_us is not None
    assert 1 < entry.cold_us < 1000
    assert 1 < entry.chain_us < 1000
    (a, sa), (b, sb) = make_inputs(*shape, device="cuda")
    with cute_gemm.config(num_sms=100):
        out = cute_gemm.fp8_gemm_nt((a, sa), (b, sb), out_dtype=getattr(torch, out_dtype))
    assert_correct(out, a, sa, b, sb)


@groups.every_layout
def test_groups_are_tuned(directory: Path, layout: Layout) -> None:
    (entry,) = tune(directory, "--op", layout.name, "--shapes", "8x100x2112x1024")
    problem = problem_here(entry.m, 2112, 1024, layout=layout, groups=8)
    assert selection.select(problem) == entry.kernel_config
    assert entry.kernel_config is not None


def test_sustained_times_are_kept_too(directory: Path) -> None:
    (entry,) = tune(directory, "--shapes", "1024x2112x2048", "--regime", "sustained", "--within", "1.01")
    assert entry.sustained_us is not None
    assert entry.cold_us is None
