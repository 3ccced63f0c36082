"""Fills the disk cache with kernels before anything is timed."""

from __future__ import annotations

import functools
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

from ..plan.config import KernelConfig
from . import builder


def compile_and_report(configs: Iterable[KernelConfig]) -> None:
    """As :func:`compile_configs`; prints how many there were and how long they took."""
    different = set(configs)
    started = time.perf_counter()
    compile_configs(different)
    print(f"{len(different)} kernels ready after {time.perf_counter() - started:.1f} s")


def compile_configs(
    configs: Iterable[KernelConfig], make: Callable[[KernelConfig], builder.Program] | None = None
) -> None:
    """Compile kernels, several at a time, in processes of their own.

    Args:
        configs: what they are of.
        make: a function of a module, if not the package's own kernels are wanted.
    """
    ordered = sorted(set(configs), key=lambda config: config.name)
    workers = max(1, min(len(ordered), os.cpu_count() or 1, 16))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        list(pool.map(functools.partial(_compile_one, make), ordered))


def _compile_one(make: Callable[[KernelConfig], builder.Program] | None, config: KernelConfig) -> None:
    builder.instance(make(config) if make else config)
