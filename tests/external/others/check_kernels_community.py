"""The tests that kernels-community's CI runs of its deep-gemm, unmodified: its test_kernels_ci.py.

    git clone https://github.com/huggingface/kernels-community
    python tests/external/run_others.py --kernels-community kernels-community

What is stubbed: the package `kernels`, whose `get_kernel` returns the drop-in.
"""

from __future__ import annotations

import sys
import types
from pathlib import Path

from checks import Checks, begin

TESTS = Path("deep-gemm", "tests", "test_kernels_ci.py")


def main() -> int:
    checkout = begin(__doc__, TESTS)
    import deep_gemm
    import pytest

    kernels = types.ModuleType("kernels")
    kernels.get_kernel = lambda name, **kwargs: deep_gemm  # type: ignore[attr-defined]
    sys.modules["kernels"] = kernels
    checks = Checks()
    options = ["-q", "--no-header", "-p", "no:cacheprovider", "-o", "markers=kernels_ci"]
    pytest.main([*options, "--rootdir", str(checkout), str(checkout / TESTS)], [checks.of_pytest()])
    return checks.end()


if __name__ == "__main__":
    sys.exit(main())
