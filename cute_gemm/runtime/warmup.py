"""Fills the disk cache with kernels before anything is timed."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import TypeVar

from .. import settings
from ..plan.config import KernelConfig
from ..plan.quantizer import Quantizer
from . import builder, quantizer_builder

_MOST_WORKERS = 16

_Item = TypeVar("_Item")
_Made = TypeVar("_Made")


class KilledWorker(RuntimeError):
    """A process that compiled kernels has ended before it was done."""


def compile_and_report(
    configs: Iterable[KernelConfig | Quantizer], make: Callable[[KernelConfig], builder.Program] | None = None
) -> None:
    """As :func:`compile_configs`; prints how many there were and how long they took."""
    different = set(configs)
    started = time.perf_counter()
    compile_configs(different, *([make] if make else []))
    print(f"{len(different)} kernels ready after {time.perf_counter() - started:.1f} s")


def compile_configs(
    configs: Iterable[KernelConfig | Quantizer],
    make: Callable[[KernelConfig], builder.Program] | None = None,
) -> None:
    """Compile kernels, several at a time, in processes of their own.

    Args:
        configs: what they are of.
        make: a function of a module, if of a product not the package's own kernels are wanted.

    Raises:
        KilledWorker: one of them was killed, as Linux does where memory runs out.
    """
    ordered = sorted(set(configs), key=lambda config: config.name)
    for _ in in_processes(functools.partial(_compile_one, make), ordered):
        pass


def workers_for(count: int, most: int | None = None) -> int:
    """Processes that make so many kernels at a time: one a core, but no more than are told or are of use."""
    limit = len(os.sched_getaffinity(0)) if most is None else most
    return max(1, min(count, limit, _MOST_WORKERS))


def in_processes(
    work: Callable[[_Item], _Made], items: Sequence[_Item], most: int | None = None
) -> Iterator[_Made]:
    """Gives what a function of a module makes of each item, in their order, as several processes make it.

    Args:
        work, items: as said; both go to those processes.
        most: of the processes; None for one a core.

    Raises:
        KilledWorker: one of them was killed, as Linux does where memory runs out.
    """
    workers = workers_for(len(items), most)
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            # A terminal sends Ctrl-C to all of them. This process has to end the others.
            with _interrupts_put_off():
                made = [pool.submit(work, item) for item in items]
            for each in made:
                yield each.result()
        except BrokenProcessPool as error:
            raise KilledWorker(
                f"a process that compiles kernels was killed, maybe for want of memory: {workers} of them"
                f" take about {workers} GB. Kernels that are ready are kept; run it again, on fewer cores by"
                " `taskset -c 0`"
            ) from error
        except KeyboardInterrupt:
            for process in set(multiprocessing.active_children()) - others:
                process.terminate()
            raise
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _compile_one(
    make: Callable[[KernelConfig], builder.Program] | None, config: KernelConfig | Quantizer
) -> None:
    with settings.config(jit=True):
        if isinstance(config, KernelConfig):
            builder.instance(make(config) if make else config)
        else:
            quantizer_builder.instance(config)


@contextmanager
def _interrupts_put_off() -> Iterator[None]:
    """Within it interrupts wait; processes that are started never get one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
