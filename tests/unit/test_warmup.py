"""Kernels are compiled in processes of their own, each once, before anything is timed."""

import pickle
from collections.abc import Callable, Iterable, Iterator
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

        def map(self, function: Callable[..., None], configs: Iterable[KernelConfig]) -> Iterator[None]:
            return map(function, configs)

    monkeypatch.setattr(warmup, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(warmup.os, "cpu_count", lambda: 8)
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
