"""The entry point: registers the commands, runs the one that is asked for, and ends in a status or a line."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from cute_gemm import __version__, interrupts, settings
from cute_gemm.measure.console import printable
from cute_gemm.measure.errors import CommandError

from . import bench, demo, info, inspect, output, pack, share, tune, warmup

_COMMANDS = demo, bench, tune, warmup, pack, inspect, info, share

_STATUSES = f"""\
exit status:
  0    done
  1    it could not be done, and a line says why; or bench found a failure, a wrong result or something
       slower, or tune left a problem
  2    arguments that do not parse
  {interrupts.STATUS}  Ctrl-C
  {output.BROKEN_PIPE}  nobody reads the output any more, as of `cute-gemm tune ... | head -1`
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: arguments without the program's name; those of the process if None.

    Returns:
        The exit status, as ``--help`` lists them. Arguments that do not parse leave through argparse with
        status 2.
    """
    given = sys.argv[1:] if argv is None else argv
    with output.tamed(), interrupts.noticed() as interrupt:
        try:
            try:
                return _run(given)
            finally:
                sys.stdout.flush()
        except KeyboardInterrupt:
            return interrupts.STATUS
        except BrokenPipeError:
            return output.BROKEN_PIPE
        except Exception as error:
            if interrupt.came:
                return interrupts.STATUS
            output.report(_in_words(error))
            return 1
        finally:
            output.give_up(sys.stdout, sys.stderr)


def _run(argv: Sequence[str]) -> int:
    args = _parser().parse_args(argv)
    try:
        # Whatever calls of a server are not to do: commands are there to compile, and to time what they did.
        with settings.config(jit=True):
            return args.command(args) or 0
    except Exception:
        if args.traceback:
            traceback.print_exc()
        raise


def _in_words(error: Exception) -> str:
    """What went wrong, for whoever typed the command."""
    if isinstance(error, (CommandError, ImportError)):
        return str(error)
    if isinstance(error, OSError):
        if error.strerror is None:
            return str(error)
        return f"{'standard output' if error.filename is None else error.filename}: {error.strerror}"
    if isinstance(error, MemoryError) or _is_out_of_memory(error):
        return f"there is not enough memory: {str(error) or 'take smaller shapes'}"
    if isinstance(error, RuntimeError) and ("CUDA" in str(error) or "NVIDIA" in str(error)):
        return f"the GPU cannot be used: {error}"
    return (
        f"unexpected {type(error).__name__}: {error}; this should not happen: `{output.PROGRAM} --traceback`"
        " with the same arguments shows where it does"
    )


def _is_out_of_memory(error: Exception) -> bool:
    """Whether torch could not allocate what it was asked for, on a GPU or on the CPU."""
    import torch

    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "Storage size" in text)
    )


class _Parser(argparse.ArgumentParser):
    """Escapes what it was given: file names, which a shell put there, may steer a terminal."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))

    def _print_message(self, message: str, file: Any = None) -> None:
        # argparse's own is silent where it cannot print.
        if message:
            print(message, end="", file=file or sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog=output.PROGRAM,
        description="FP8 GEMM with fine-grained scaling for Hopper GPUs.",
        epilog=_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--traceback", action="store_true", help="show where in the code an error came up")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in _COMMANDS:
        command.register(commands)
    return parser
