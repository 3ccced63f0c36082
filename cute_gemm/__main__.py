"""`python -m cute_gemm` is `cute-gemm`."""

import sys

from cute_gemm.cli import main

sys.exit(main())
