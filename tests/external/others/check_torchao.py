"""torchao's tests of its DeepGEMM backend for layers of experts, unmodified, forward and backward.

    git clone https://github.com/pytorch/ao
    python tests/external/run_others.py --torchao ao

Nothing of torchao is stubbed; Triton is needed. Its tests of its own quantisers are left out.
"""

from __future__ import annotations

import sys
from pathlib import Path

from checks import Checks, begin

TESTS = Path("test", "prototype", "moe_training", "test_fp8_blockwise_deepgemm_backend.py")


def main() -> int:
    checkout = begin(__doc__, TESTS)
    import pytest

    sys.path.insert(0, str(checkout))
    checks = Checks()
    options = ["-q", "--no-header", "--tb=short", "-p", "no:cacheprovider", "-k", "not quant"]
    pytest.main([*options, "--rootdir", str(checkout), str(checkout / TESTS)], [checks.of_pytest()])
    return checks.end()


if __name__ == "__main__":
    sys.exit(main())
