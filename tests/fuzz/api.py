"""Fuzzes the public operations: drawn calls judged element by element, and calls that break one rule.

On a Hopper GPU if there is one, else by the reference on the CPU. A valid call is made twice, in drawn
surroundings, with tensors that lie in memory in drawn ways; now and then several are made at once, by
threads, by a forked child or on several streams.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import ExitStack

import campaign
import torch
from api_broken import draw_broken, refusal
from api_products import draw_product
from api_quantising import draw_broken_quantising, draw_quantising
from api_surroundings import draw_surroundings
from api_trials import Trial
from api_values import chance

import cute_gemm
from cute_gemm import settings
from cute_gemm.runtime import hardware

PATIENCE_S = 60
"""A forked child that takes longer hangs."""


def _trial(draw: random.Random, device: torch.device) -> Trial:
    return Trial(draw, draw_product(draw, device.type == "cuda"), device)


def product(draw: random.Random, device: torch.device) -> None:
    """A call that is in order."""
    trial = _trial(draw, device)
    with draw_surroundings(draw):
        trial.run()
    trial.judge()


def threads(draw: random.Random, device: torch.device) -> None:
    """Several at once, each in a thread with settings, and on a GPU at times with a stream, of its own."""
    trials = [_trial(draw, device) for _ in range(draw.randrange(2, 5))]
    draws = [random.Random(draw.random()) for _ in trials]
    failures: list[str] = []

    def work(trial: Trial, draw: random.Random) -> None:
        try:
            with _stream(draw, device), draw_surroundings(draw, alone=False):
                trial.run()
        except Exception:
            failures.append(traceback.format_exc())

    _synchronize(device)
    workers = [threading.Thread(target=work, args=each) for each in zip(trials, draws, strict=True)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    _synchronize(device)
    assert not failures, "\n".join(failures)
    for trial in trials:
        trial.judge()


def _stream(draw: random.Random, device: torch.device) -> ExitStack:
    """A CUDA stream, where there are such; at times the one in use."""
    chosen = ExitStack()
    if device.type == "cuda" and chance(draw, 0.7):
        chosen.enter_context(torch.cuda.stream(torch.cuda.Stream(device)))
    return chosen


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def streams(draw: random.Random, device: torch.device) -> None:
    """Several, one directly behind the other, on streams of their own."""
    trials = [_trial(draw, device) for _ in range(draw.randrange(2, 5))]
    _synchronize(device)
    for trial in trials:
        with _stream(draw, device), draw_surroundings(draw):
            trial.run()
    _synchronize(device)
    for trial in trials:
        trial.judge()


def fork(draw: random.Random, device: torch.device) -> None:
    """A call by a forked child, at times while another thread computes: that thread is not in the child."""
    beside, trial = _trial(draw, device), _trial(draw, device)
    worker = threading.Thread(target=beside.run)
    if chance(draw, 0.5):
        worker.start()
    with warnings.catch_warnings():
        # Python warns of threads, from 3.12 on.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        _in_child(trial)
    try:
        _await(child)
    finally:
        if worker.ident:
            worker.join()
            beside.judge()


def _in_child(trial: Trial) -> None:
    """Ends the process."""
    status = 1
    try:
        trial.run()
        trial.judge()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _await(child: int) -> None:
    """Raises AssertionError if a child fails, or hangs."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            assert status == 0, f"a forked child ended with {os.waitstatus_to_exitcode(status)}"
            return
        time.sleep(0.001)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("a forked child hangs")


def scopes(draw: random.Random, device: torch.device) -> None:
    """Settings, in order and not, in scopes within scopes."""
    before = settings.current()
    with ExitStack() as entered:
        wanted = {"num_sms": None, "batch_invariant": False, "pdl": None}
        for _ in range(draw.randrange(4)):
            changes = {
                "num_sms": draw.choice((None, 1, 7, 10**6)),
                "batch_invariant": chance(draw, 0.5),
                "pdl": draw.choice((None, False, True)),
            }
            changes = {name: changes[name] for name in draw.sample(sorted(changes), draw.randrange(4))}
            wanted |= changes
            entered.enter_context(cute_gemm.config(**changes))
        now = settings.current()
        assert {name: getattr(now, name) for name in wanted} == wanted
        name, value, error = draw.choice(
            (
                ("num_sms", 0, ValueError),
                ("num_sms", -(2**40), ValueError),
                ("num_sms", draw.choice((1.5, True, "8", torch.tensor(8))), TypeError),
                ("batch_invariant", draw.choice((None, 1, "no", torch.ones(2))), TypeError),
                ("pdl", draw.choice((1.5, 0, [])), TypeError),
            )
        )
        refusal(lambda: cute_gemm.config(**{name: value}), name, error, repr(value))
        stray = cute_gemm.config(pdl=True)
        refusal(lambda: stray(draw.choice((1, None, int, property(len)))), "cannot", TypeError, "decorates")
        refusal(lambda: stray.__exit__(None, None, None), "left", RuntimeError, "a scope not entered")
        assert settings.current() is now
    assert settings.current() is before


Kind = Callable[[random.Random, torch.device], None]

KINDS: dict[Kind, float] = {
    product: 70,
    draw_broken: 14,
    draw_quantising: 9,
    draw_broken_quantising: 4,
    scopes: 1,
    threads: 1,
}
"""Kinds of cases, and how often each is drawn."""

ON_A_CPU: dict[Kind, float] = {fork: 0.2}
ON_A_GPU: dict[Kind, float] = {streams: 1}


def find_device(name: str | None) -> torch.device:
    """The device of that name; for None a Hopper GPU, and a CPU where there is none."""
    if name is None:
        name = "cuda" if torch.cuda.is_available() and hardware.is_hopper() else "cpu"
    return torch.device(name)


def case(draw: random.Random, device: str | None = None) -> None:
    """One case on a device."""
    where = find_device(device)
    kinds = KINDS | (ON_A_CPU if where.type == "cpu" else ON_A_GPU)
    (kind,) = draw.choices(list(kinds), list(kinds.values()))
    kind(draw, where)


def main() -> int:
    """The command line."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--device", choices=("cpu", "cuda"), default=find_device(None).type)
    # Tensors are small: several threads would wait for each other.
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*(Sparse CSR|nested tensors)", category=UserWarning)
    return campaign.main(case, options=options)


if __name__ == "__main__":
    sys.exit(main())
