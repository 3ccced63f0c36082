"""The command line: `cute-gemm demo`, `bench`, `tune`, `warmup`, `pack`, `inspect`, `info` and `share`, a
file each.

`main` parses arguments and runs a command. The DSL takes seconds to import, so commands import what they need
when they run.
"""

from .main import main

__all__ = ["main"]
