"""Has processes race for the cache of kernels, and kills them at any moment: nothing is lost.

    python tests/fuzz/cache_races.py --count 10

In each case 32 processes ask for the same kernels, keep what is not there, and prune; 30 of them are killed
and replaced. Whatever is got is whole and right; what a process has kept is there for all others, so that
nothing is kept twice; and what the killed leave is counted, and removed when it is old.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from multiprocessing.connection import Connection, wait
from pathlib import Path
from unittest import mock

import campaign

from cute_gemm import storage
from cute_gemm.runtime import cache

PROCESSES, KILLS, KEYS, ROUNDS = 32, 30, 8, 6
MOST_BYTES = 400_000
DEADLINE = 120.0

_fork = multiprocessing.get_context("fork")


def key_of(round_: int, number: int) -> str:
    return f'{{"kernel": "{round_}.{number}"}}'


def payload_of(key: str) -> bytes:
    """Up to 400 kB, the same for each process."""
    draw = random.Random(key)
    return draw.randbytes(draw.randint(1, MOST_BYTES))


class Worker:
    """A process of the case, and what it says it has kept."""

    def __init__(self, directory: Path, seed: float) -> None:
        self.received, sent = _fork.Pipe(duplex=False)
        self.process = _fork.Process(target=work, args=(directory, seed, sent))
        self.process.start()
        sent.close()
        self.kept: list[str] = []
        self.has_ended = False

    def read(self) -> None:
        """What it has said since; that there will be no more, if it has ended.

        Raises:
            AssertionError: something went wrong in it.
        """
        try:
            while self.received.poll():
                message = self.received.recv()
                assert not message.startswith("Traceback"), message
                self.kept.append(message)
        except (EOFError, OSError):
            self.has_ended = True


def work(directory: Path, seed: float, said: Connection) -> None:
    """What each process does."""
    try:
        os.environ[cache.DIRECTORY_VARIABLE] = str(directory)
        draw = random.Random(seed)
        for round_ in range(ROUNDS):
            for number in draw.sample(range(KEYS), KEYS):
                use(key_of(round_, number), said)
    except BaseException:
        said.send(traceback.format_exc())


def use(key: str, said: Connection) -> None:
    """As the compiler uses it."""
    payload = payload_of(key)
    with cache.opened() as kernels:
        store = kernels.own
        assert store is not None
        # Whoever reads it needs no lock.
        found = store.load(key)
        if found is None:
            with store.exclusive(key):
                found = store.load(key)
                if found is None:
                    store.store(key, payload)
                    said.send(key)
                    store.prune()
                    found = store.load(key)
        assert found == payload, f"{key} is damaged or gone"


def case(draw: random.Random) -> None:
    base = Path(tempfile.mkdtemp(prefix="cute_gemm-fuzz-"))
    try:
        run(base / "cache", draw)
    finally:
        shutil.rmtree(base)


def run(directory: Path, draw: random.Random) -> None:
    workers = [Worker(directory, draw.random()) for _ in range(PROCESSES)]
    try:
        kept = race(workers, directory, draw)
    finally:
        for worker in workers:
            worker.process.kill()
            worker.process.join()
    judge(directory, kept)


def race(workers: list[Worker], directory: Path, draw: random.Random) -> list[str]:
    """What processes say that they have kept, until the last has ended; some are killed and replaced."""
    started, kills, kept = time.monotonic(), KILLS, []
    while not all(worker.has_ended for worker in workers):
        assert time.monotonic() - started < DEADLINE, "it hangs"
        running = [worker for worker in workers if not worker.has_ended]
        wait([worker.received for worker in running], timeout=0.005)
        if kills and draw.random() < 0.3:
            draw.choice(running).process.kill()
            workers.append(Worker(directory, draw.random()))
            kills -= 1
        for worker in running:
            worker.read()
            kept += worker.kept
            worker.kept.clear()
    return kept


def judge(directory: Path, kept: list[str]) -> None:
    """Checks what the processes left."""
    with mock.patch.dict(os.environ, {cache.DIRECTORY_VARIABLE: str(directory)}):
        judge_named(directory, kept)


def judge_named(directory: Path, kept: list[str]) -> None:
    keys = [key_of(round_, number) for round_ in range(ROUNDS) for number in range(KEYS)]
    twice = [key for key, count in Counter(kept).items() if count > 1]
    assert not twice, f"{twice} were kept and lost"
    with cache.opened() as kernels:
        store = kernels.own
        assert store is not None
        for key in keys:
            assert digest(store.load(key)) == digest(payload_of(key)), f"{key} is damaged or gone"
        left = [path for path in directory.iterdir() if path.suffix == ".tmp"]
        held = cache.cache_info()
        assert (held.kernels, held.leftovers) == (len(keys), len(left))
        for path in left:
            os.utime(path, (0, time.time() - storage.TEMPORARY_SECONDS - 1))
        store.prune()
        assert cache.cache_info().leftovers == 0


def digest(payload: bytes | None) -> str | None:
    return None if payload is None else hashlib.sha256(payload).hexdigest()


if __name__ == "__main__":
    sys.exit(campaign.main(case))
