"""`cute-gemm info`: versions, GPUs and caches; all that a bug report needs is in :mod:`.report`."""

from __future__ import annotations

import argparse
import os
import platform
from typing import TYPE_CHECKING, Any

from cute_gemm import __version__
from cute_gemm.measure.console import PlainTable, say, wide_console

if TYPE_CHECKING:
    from cute_gemm.runtime.cache import CacheInfo


def register(commands: Any) -> None:
    """Add the command to a parser's."""
    parser = commands.add_parser("info", help="show versions, GPU and cache")
    parser.add_argument(
        "--report",
        action="store_true",
        help="and all else that a bug report needs; computes a small product, which may compile",
    )
    parser.set_defaults(command=_run)


def _run(args: argparse.Namespace) -> None:
    import torch

    from cute_gemm.measure.origin import distributions
    from cute_gemm.runtime.cache import SHARED_VARIABLE, cache_info, shared_cache_info
    from cute_gemm.runtime.hardware import is_hopper

    table = PlainTable(show_header=False)
    table.add_row("cute_gemm", __version__)
    table.add_row("Python", f"{platform.python_version()} on {platform.machine()}")
    for name, version in distributions("apache-tvm-ffi", "cuda-python").items():
        table.add_row(name, version)
    table.add_row("torch", torch.__version__)
    table.add_row("CUDA of torch", torch.version.cuda or "none (CPU build)")
    for index in range(torch.cuda.device_count()):
        found = torch.cuda.get_device_properties(index)
        verdict = "Hopper" if is_hopper(index) else "not Hopper, the kernels do not run on it"
        table.add_row(f"GPU {index}", f"{found.name}, {found.multi_processor_count} SMs, {verdict}")
    if not torch.cuda.device_count():
        table.add_row("GPU", "none; calls run the reference in plain torch")
    _add_cache(table, "cache", cache_info())
    if SHARED_VARIABLE in os.environ:
        _add_cache(table, "shared cache", shared_cache_info())
    _add_packs(table)
    table.add_row("tuned choices", _tuned())
    wide_console().print(table)
    if args.report:
        from . import report

        for line in report.lines():
            say(line)


def _add_cache(table: PlainTable, name: str, cache: CacheInfo) -> None:
    table.add_row(name, str(cache.directory or ("none" if cache.refusal else "switched off")))
    size = f"{cache.size / 2**20:.1f} MiB"
    leftovers = f", {cache.leftovers} leftovers of writers" if cache.leftovers else ""
    table.add_row("kernels in it", f"{cache.kernels}, {size}{leftovers}")
    if cache.refusal:
        table.add_row("not used, because", cache.refusal)


def _add_packs(table: PlainTable) -> None:
    from cute_gemm.runtime import packs

    for each in packs.infos():
        table.add_row("pack", str(each.directory))
        table.add_row("kernels in it", str(each.kernels))
        if each.refusal:
            table.add_row("not used, because", each.refusal)


def _tuned() -> str:
    from cute_gemm.plan.tuned import files
    from cute_gemm.storage import NoDirectoryError

    try:
        return str(files.user_directory() or "those of the package only")
    except NoDirectoryError as error:
        return f"those of the package only: {error}"
