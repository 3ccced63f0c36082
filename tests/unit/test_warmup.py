"""Kernels are compiled in processes of their own, each once, before anything is timed."""

import pickle
import signal
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.runtime import warmup


def test_every_kernel_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    workers: list[int] = []
    asked: list[KernelConfig] = []

    class Pool:
        def __init__(self, count: int, context: Any) -> None:
            workers.append(count)

        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, function: Callable[..., None], config: KernelConfig) -> "Future[None]":
            done: Future[None] = Future()
            done.set_result(function(config))
            return done

    monkeypatch.setattr(warmup, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(warmup.os, "sched_getaffinity", lambda process: range(8))
    monkeypatch.setattr(warmup.builder, "instance", asked.append)
    first, second = candidates.all_configs()[:2]
    warmup.compile_configs([first, second, first])
    assert workers == [2]
    assert sorted(asked, key=id) == sorted([first, second], key=id)


def test_configurations_reach_the_processes_that_compile_them_whole() -> None:
    """They go there by pickle: the key of a kernel on disk must be the one that this process asks for."""
    config = candidates.all_configs()[0]
    there = pickle.loads(pickle.dumps(config))
    assert (repr(there), there.name, there) == (repr(config), config.name, config)


@pytest.mark.parametrize(
    ("error", "raised"),
    [(BrokenProcessPool("ended abruptly"), warmup.KilledWorker), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_workers_that_end_early(
    monkeypatch: pytest.MonkeyPatch, error: BaseException, raised: type[BaseException]
) -> None:
    """What was killed is named; an interrupt, which only this process gets, ends the others."""
    ended: list[str] = []

    class Process:
        def terminate(self) -> None:
            ended.append("one")

    class Pool:
        def __init__(self, count: int, context: Any) -> None:
            pass

        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def submit(self, function: Callable[..., None], config: KernelConfig) -> "Pool":
            assert signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
            return self

        def result(self) -> None:
            assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])
            raise error

    monkeypatch.setattr(warmup, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(warmup.multiprocessing, "active_children", lambda: [Process()])
    with pytest.raises(raised) as found:
        warmup.compile_configs(candidates.all_configs()[:1])
    assert ended == (["one"] if raised is KeyboardInterrupt else [])
    if raised is warmup.KilledWorker:
        assert "taskset" in str(found.value)
