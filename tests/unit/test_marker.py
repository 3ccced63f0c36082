"""What the `gpu` marker does on a machine without a Hopper GPU."""

import shutil
import textwrap
from pathlib import Path

import pytest
import torch

pytest_plugins = ["pytester"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a Hopper GPU")
def test_gpu_tests_are_skipped_without_being_imported(pytester):
    shutil.copy(Path(__file__).parents[1] / "conftest.py", pytester.path / "conftest.py")
    pytester.makeini("[pytest]\nmarkers = gpu: needs a Hopper GPU")
    for name, text in {
        "gpu/test_kernel.py": "raise ImportError('imported')",
        "unit/test_host.py": """
            import pytest
            def test_host(): pass
            @pytest.mark.gpu
            def test_device(): raise AssertionError("ran")
        """,
    }.items():
        path = pytester.path / name
        path.parent.mkdir()
        path.write_text(textwrap.dedent(text))
    result = pytester.runpytest("-rs", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, skipped=2)
    result.stdout.fnmatch_lines(["*needs a Hopper GPU (compute capability 9.0); torch sees no CUDA device*"])
    pytester.runpytest("-m", "not gpu").assert_outcomes(passed=1, deselected=2)
    pytester.runpytest("gpu").assert_outcomes(skipped=1)
