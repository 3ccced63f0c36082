"""The command line: `cute-gemm demo`, `bench`, `tune`, `inspect` and `info`, a file each.

`main` parses arguments and runs a command. The DSL takes seconds to import, so commands import what they need
when they run.
"""

from .main import main

__all__ = ["main"]
