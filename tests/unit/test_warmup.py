"""Kernels are compiled in processes of their own, each once, before anything is timed."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.runtime import warmup as compilation


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

    monkeypatch.setattr(compilation, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(compilation.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(compilation.dispatch, "instance", asked.append)
    first, second = candidates.all_configs()[:2]
    compilation.compile_configs([first, second, first])
    assert workers == [2]
    assert sorted(asked, key=id) == sorted([first, second], key=id)
