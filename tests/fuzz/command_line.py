"""Draws command lines with files, environments and streams of their own, and runs them: each must end right.

That is: no traceback; a status that is documented; where it is 1, a line on standard error that names the
program and says why; no control characters, whatever files hold; and no time passes that no clock gives.

    python tests/fuzz/command_line.py --count 1000
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import campaign
import odd_files
import torch
from odd_files import BAD_TIMES, ODD_TEXTS

from cute_gemm import cli
from cute_gemm.bench import command as bench_command
from cute_gemm.bench.run import Bench
from cute_gemm.measure import timers
from cute_gemm.measure.timers import Times
from cute_gemm.plan.candidates import every_config
from cute_gemm.plan.card import H100
from cute_gemm.plan.tuned import files
from cute_gemm.runtime import hardware, lookup, warmup
from cute_gemm.runtime.inspection import InspectionError, KernelStats
from cute_gemm.tune import command as tune_command
from cute_gemm.tune import picking

ROOT = Path(__file__).parents[2]
STATUSES = {0, 1, 2, 130}
BROKEN_PIPE = 141
SHARE_OF_PROCESSES = 0.05
"""Of command lines that run in a process of their own, which takes seconds; the others run in this one."""

MOST_SECONDS = 60

NO_ERRORS = tuple(f"cute-gemm: {each} " for each in ("warning:", "left out:", "compiling", "compiled"))
"""How lines on standard error begin that go with any status."""


@dataclass
class CommandLine:
    """What is run, where, and what must come of it beyond what must come of any."""

    arguments: list[str]
    environment: dict[str, str | None] = field(default_factory=dict)
    has_gpu: bool = False
    status: int | None = None


@dataclass
class Ending:
    """What came of it."""

    status: int
    out: str
    err: str
    stream: str


# Command lines


def demo(draw: random.Random, folder: Path) -> CommandLine:
    if draw.random() < 0.6:
        path = odd_files.checkpoint(draw, folder / "checkpoint")
        tokens = draw.choice([[], [], ["--tokens", draw.choice(["1", "3", "2147482624", "0", "x"])]])
        return CommandLine(["demo", "--weights", str(path), *tokens])
    return CommandLine(
        ["demo", *shape(draw), *draw.choice([[], ["--out-dtype", "float32"], ["--tokens", "1"]])]
    )


def shape(draw: random.Random) -> list[str]:
    """Extents: small ones, ones beyond memory, and what is none."""
    small, huge = ["1", "8", "16", "32", "144"], ["2147482624", "1000000000", "100000"]
    odd = ["0", "-1", "7", "1e3", "", "٣", "9" * 5000, "2147483648", "\x1b[31m", "[/b]"]
    options = []
    for name in ("--m", "--n", "--k"):
        if draw.random() < 0.95:
            options += [name, draw.choice(draw.choice([small, small, small, huge, odd]))]
    return options


def compare(draw: random.Random, folder: Path) -> CommandLine:
    old = odd_files.rows(draw)
    new = [dict(each) for each in old]
    status: int | None = 0
    if draw.random() < 0.3:
        # Whatever the other rows say, nothing was compared.
        draw.choice(new)[draw.choice(["us", "median"])] = draw.choice(BAD_TIMES)
        status = 1
    elif draw.random() < 0.5:
        odd_files.spoil_row(draw, draw.choice(draw.choice([old, new])))
        status = None
    paths = [folder / "old.jsonl", folder / "new" / "new.jsonl"]
    paths[1].parent.mkdir()
    for path, rows in zip(paths, (old, new), strict=True):
        path.write_text(odd_files.lines(rows))
    if draw.random() < 0.15:
        odd_files.spoil_file(draw, draw.choice(paths))
        status = None
    where = [str(paths[0]), str(draw.choice([paths[1], paths[1].parent]))]
    return CommandLine(["bench", "--compare", *where], status=status)


def plot(draw: random.Random, folder: Path) -> CommandLine:
    rows = odd_files.rows(draw)
    if draw.random() < 0.85:
        odd_files.spoil_row(draw, draw.choice(rows))
    path = folder / "rows.jsonl"
    path.write_text(odd_files.lines(rows))
    if draw.random() < 0.2:
        odd_files.spoil_file(draw, path)
    out = draw.choice([[], ["--out", odd_place(draw, folder)]])
    return CommandLine(["bench", "--plot", str(draw.choice([path, folder])), *out])


def odd_place(draw: random.Random, folder: Path) -> str:
    """Where something is to be written."""
    (folder / "file").write_text("a file")
    (folder / "damaged.json").write_bytes(b"\xff{")
    (folder / "loop").symlink_to("loop")
    names = [
        "new",
        "new/deep/er",
        "file",
        "file/under",
        "damaged.json",
        "loop",
        "x" * 300,
        "\x1b[31m",
        "[/b]",
        "é",
    ]
    return draw.choice([str(folder / draw.choice(names)), "/proc/nothing/here", "/dev/full", "/dev/null", ""])


def bench(draw: random.Random, folder: Path) -> CommandLine:
    shapes = [
        "8x32x128",
        "2x20x32x128",
        "64x7x16",
        "1x8x16",
        "2147482624x8x16",
        "1022x2147482624x8x16",
        "9x9",
        "64x128",
        "2147482624x16",
        "17x7168",
        "8x4x8x2x128x128",
        "8x4x8x9x128x128",
        "2147482624x1x1x1x16x8",
    ]
    options = [
        ["--shapes", *draw.sample(shapes, draw.randint(1, 2))],
        ["--suite", draw.choice(["dense", "grouped", "quantize", "moe", "gradients", "all", "none"])],
        ["--regime", draw.choice(["cold", "chain", "sustained"])],
        ["--peers", draw.choice(["none", "cublas", "deep_gemm", "copy,torch", "bf16,unfused", "", ","])],
        ["--ops", *draw.sample(["m_grouped_masked", "quantize_1x128", "quantize_both_ways", "x"], 2)],
        ["--out", odd_place(draw, folder)],
    ]
    chosen = [word for option in options if draw.random() < 0.8 for word in option]
    return CommandLine(["bench", *chosen], has_gpu=draw.random() < 0.8)


def tune(draw: random.Random, folder: Path) -> CommandLine:
    options = []
    if draw.random() < 0.5:
        options += ["--model", str(odd_files.model(draw, folder / "config.json"))]
        options += draw.choice([[], ["--m", "1"], ["--m", "64", "2147482624"]])
    else:
        shapes = [
            "64x136x272",
            "1x8x16",
            "2147482624x8x16",
            "4x20x136x272",
            "1022x2147482624x8x16",
            "64x7x16",
            "1x2",
        ]
        options += ["--shapes", *draw.sample(shapes, draw.randint(1, 2))]
    more = [
        ["--op", draw.choice(["dense", "dense", "masked", "offsets", "contiguous", "none"])],
        ["--num-sms", draw.choice(["1", "100", "132", "133", "0"])],
        ["--within", draw.choice(["1", "1.1", "nan", "inf", "-1", "1e300"])],
        ["--regime", *draw.choice([["cold"], ["chain"], ["sustained", "cold"], ["both"], []])],
        ["--out", odd_place(draw, folder)],
    ]
    options += [word for option in more if draw.random() < 0.3 for word in option]
    if draw.random() < 0.4:
        options.append("--dry-run")
    return CommandLine(["tune", *options], has_gpu=draw.random() < 0.7)


def warm_up(draw: random.Random, folder: Path) -> CommandLine:
    options = draw.choice(
        [
            ["--model", str(odd_files.model(draw, folder / "config.json"))],
            ["--nk", *draw.sample(["136,272", "4,136,272", "7,16", "1022,2147482624,16", "1", "8x16"], 2)],
            ["--kernel", draw.choice(["quantize_128x128_bf16", "7x7", "os:path", ":", *ODD_TEXTS])],
            [],
        ]
    )
    more = [
        ["--max-m", draw.choice(["1", "64", "65537", "2147482624", "0"])],
        ["--op", *draw.choice([["dense"], ["masked", "moe"], ["offsets"], ["gradients"], ["none"]])],
        ["--card", draw.choice(["NVIDIA H200", "NVIDIA H200", "H200"])],
        ["--num-sms", draw.choice(["1", "100", "133", "0"])],
        ["--epilogue", draw.choice(["cute_gemm.epilogue:silu", "cute_gemm.epilogue:bias", "os:path", "x"])],
        ["--batch-invariant"],
        ["--no-quantizers"],
    ]
    options += [word for option in more if draw.random() < 0.4 for word in option]
    return CommandLine(["warmup", *(each.replace("\0", "") for each in options), "--dry-run"])


def inspect(draw: random.Random, folder: Path) -> CommandLine:
    kernel = odd_files.program(draw, folder / "mine.py")
    config = draw.choice([draw.choice(every_config()).name, "7x7", *ODD_TEXTS]).replace("\0", "")
    options = draw.choice(
        [
            shape(draw),
            [
                "--kernel",
                draw.choice([kernel, kernel, kernel, "nowhere:x", ":", ".:x", f"{folder}:x", "os:path"]),
            ],
            ["--config", config],
            [*shape(draw), "--config", "a"],
        ]
    )
    return CommandLine(["inspect", *options, *draw.choice([[], ["--m-major"]])])


def info(draw: random.Random, folder: Path) -> CommandLine:
    return CommandLine(["info", *draw.choice([[], ["--report"]])])


def share(draw: random.Random, folder: Path) -> CommandLine:
    place = odd_place(draw, folder)
    return CommandLine(["share", place], {"CUTE_GEMM_CACHE_DIR": str(folder / "cache")})


def soup(draw: random.Random, folder: Path) -> CommandLine:
    words = [
        "demo",
        "bench",
        "tune",
        "warmup",
        "pack",
        "inspect",
        "info",
        "share",
        "--help",
        "--version",
        "--m",
        "--plot",
        "8",
        "--",
    ]
    words += [
        "--compare",
        "--weights",
        "--wheel",
        "--shapes",
        "--traceback",
        "64x8x16",
        str(folder),
        *ODD_TEXTS,
    ]
    return CommandLine([draw.choice(words).replace("\0", "") for _ in range(draw.randint(0, 5))])


COMMANDS: list[Callable[[random.Random, Path], CommandLine]] = [
    *(demo, demo, compare, compare, bench, tune, tune, warm_up, inspect, info, share, soup, plot)
]


def odd_environment(draw: random.Random, folder: Path) -> dict[str, str | None]:
    """Variables that the program, or what it stands on, reads."""
    (folder / "open").mkdir(mode=0o777, exist_ok=True)
    (folder / "open").chmod(0o777)
    places = [
        None,
        "",
        str(folder / "open"),
        str(folder / "none"),
        "/dev/null",
        "~nosuchuser/x",
        "\x1b[31m",
        ".",
    ]
    choices: dict[str, list[str | None]] = {
        "CUTE_GEMM_CACHE_DIR": places,
        "CUTE_GEMM_SHARED_CACHE_DIR": places,
        "CUTE_GEMM_TUNED_DIR": places,
        "HOME": [None, "", "/nowhere", str(folder)],
        "XDG_CACHE_HOME": [None, "", "relative"],
        "COLUMNS": [None, "0", "1", "60", "100000", "x"],
        "TERM": [None, "dumb", "xterm-256color"],
    }
    return {name: draw.choice(values) for name, values in choices.items() if draw.random() < 0.3}


# In this process


class Stream(io.RawIOBase):
    """A standard stream that takes so many bytes, and then fails."""

    def __init__(self, most: float, error: OSError | None) -> None:
        self.content = b""
        self.most, self.error = most, error

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if len(self.content) + len(data) > self.most and self.error is not None:
            raise self.error
        self.content += bytes(data)
        return len(data)


def run_here(draw: random.Random, line: CommandLine, folder: Path) -> Ending:
    """The command line in this process, with captured streams, and a stand-in for a GPU where it has one."""
    kind = draw.choices(["plain", "broken", "full", "closed"], [85, 6, 5, 4])[0]
    error = {
        "broken": BrokenPipeError(32, "Broken pipe"),
        "full": OSError(28, "No space left on device"),
    }.get(kind)
    raw, raw_err = Stream(draw.choice([0, 100]), error), Stream(0, None)
    encoding = draw.choice(["utf-8", "utf-8", "ascii", "latin-1"])
    out = None if kind == "closed" else io.TextIOWrapper(io.BufferedWriter(raw), encoding=encoding)
    err = io.TextIOWrapper(raw_err, encoding=encoding, errors="backslashreplace", write_through=True)
    variables = {name: value for name, value in line.environment.items() if value is not None}
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, variables))
        for name in line.environment.keys() - variables.keys():
            os.environ.pop(name, None)
        stack.enter_context(_chdir(folder))
        stack.enter_context(mock.patch.object(sys, "path", [*sys.path]))
        stack.enter_context(mock.patch.object(sys, "stdout", out))
        stack.enter_context(mock.patch.object(sys, "stderr", err))
        # Compiling takes seconds.
        stack.enter_context(mock.patch.object(lookup, "examine", examined(draw)))
        if line.has_gpu:
            stand_in_gpu(draw, stack)
        files.tables.cache_clear()
        try:
            status = cli.main(line.arguments)
        except SystemExit as left:
            status = left.code if isinstance(left.code, int) else 1 if left.code else 0
        if out is not None and kind == "plain":
            out.flush()
    files.tables.cache_clear()
    return Ending(status, raw.content.decode(encoding), raw_err.content.decode(encoding), kind)


@contextlib.contextmanager
def _chdir(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def examined(draw: random.Random) -> Callable[[Any], KernelStats]:
    def examine(of: Any) -> KernelStats:
        errors = [InspectionError("nvdisasm was not found"), RuntimeError("two\nlines"), KeyboardInterrupt()]
        if draw.random() < 0.2:
            raise draw.choice(errors)
        return KernelStats("k", 168, 1024, 48, (), ())

    return examine


class StandInTimer:
    """Says what it likes; some calls fail."""

    name = "stand-in"

    def __init__(self, draw: random.Random, **_: Any) -> None:
        self.draw = draw

    def __call__(self, calls: Any) -> list[Times]:
        if self.draw.random() < 0.15:
            errors = [
                RuntimeError("CUDA error:\n\x1b[31mtwo"),
                torch.OutOfMemoryError("CUDA out of memory. Tried"),
            ]
            raise self.draw.choice([*errors, KeyboardInterrupt()])
        return [Times((self.draw.uniform(1, 100),)) for _ in calls]


def stand_in_gpu(draw: random.Random, stack: contextlib.ExitStack) -> None:
    """A Hopper GPU by any name, whose kernels do nothing."""

    def patch(where: Any, name: str, value: Any) -> None:
        stack.enter_context(mock.patch.object(where, name, value))

    def compile_configs(configs: Any, make: Any = None) -> None:
        if draw.random() < 0.15:
            raise draw.choice([warmup.KilledWorker("a process was killed"), KeyboardInterrupt()])

    def measure(bench: Any, trial: Any) -> Iterator[dict[str, Any]]:
        bench.timers[trial.regime]([])
        if draw.random() < 0.1:
            raise AssertionError("tile (0, 0)\nis off")
        of = {"regime": trial.regime, "device": bench.origin["device"]}
        if len(trial.shape) == 3:
            yield odd_files.row(draw, trial.shape) | of
        elif trial.is_of_layers:
            yield odd_files.layer_row(draw, trial.shape) | of
        elif trial.is_of_quantizers:
            yield odd_files.quantizer_row(draw, trial.shape) | of | {"op": trial.ops[0]}

    name = draw.choice(["NVIDIA H200", *ODD_TEXTS]).replace("\ud800", "?")
    origin = {"versions": {"torch": "2.13.0"}, "device": name, "date": "2026-11-29"}
    patch(torch.cuda, "is_available", lambda: True)
    patch(torch.cuda, "get_device_name", lambda *_: name)
    patch(hardware, "card", lambda *_: H100)
    patch(hardware, "is_hopper", lambda *_: True)
    patch(timers, "cold_timer", lambda: (StandInTimer(draw), draw.choice(["", "no CUPTI: \x1b[31m"])))
    patch(timers, "GraphReplay", lambda: StandInTimer(draw))
    patch(warmup, "compile_configs", compile_configs)
    patch(bench_command, "Sustained", lambda **_: StandInTimer(draw))
    patch(bench_command, "describe_origin", lambda versions: origin)
    patch(Bench, "measure", measure)
    patch(tune_command, "Sustained", lambda **_: StandInTimer(draw))
    patch(timers, "GraphReplay", lambda: StandInTimer(draw))
    patch(picking, "case_of", lambda *_: None)
    patch(picking, "checked_calls", lambda problem, configs, case: [print] * len(configs))
    patch(picking, "chains_of", lambda problem, configs, case: ([print] * len(configs), 4))


# In a process of its own


def run_apart(draw: random.Random, line: CommandLine, folder: Path) -> Ending:
    """The command line as a shell would run it: output may go nowhere, and Ctrl-C may come at any time."""
    kind = draw.choice(["plain", "plain", "broken", "full", "closed", "interrupt", "interrupt"])
    environment = dict(os.environ) | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    for name, value in line.environment.items():
        environment.pop(name, None)
        if value is not None:
            environment[name] = value
    environment |= draw.choice([{}, {"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
    reader, writer = os.pipe()
    out: Any = subprocess.PIPE
    if kind == "broken":
        os.close(reader)
        out = writer
    elif kind == "full":
        out = os.open("/dev/full", os.O_WRONLY)

    def prepare() -> None:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if kind == "closed":
            os.close(1)

    process = subprocess.Popen(
        [sys.executable, "-m", "cute_gemm", *line.arguments],
        stdin=subprocess.DEVNULL,
        stdout=None if kind == "closed" else out,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=folder,
        preexec_fn=prepare,
    )
    try:
        if kind == "interrupt":
            # Earlier, it is Python itself that is interrupted.
            time.sleep(draw.uniform(0.4, 3))
            process.send_signal(signal.SIGINT)
        out_bytes, err_bytes = process.communicate(timeout=MOST_SECONDS)
    finally:
        process.kill()
        for descriptor in (writer, *((out,) if kind == "full" else (reader,) if kind != "broken" else ())):
            os.close(descriptor)
    text = (out_bytes or b"").decode(errors="backslashreplace")
    # Python has no handler any more when it is about to be gone; a shell says the same of either.
    status = 130 if process.returncode == -signal.SIGINT else process.returncode
    return Ending(status, text, err_bytes.decode(errors="backslashreplace"), kind)


# What must come of each


def judge(line: CommandLine, ending: Ending) -> None:
    """Raises AssertionError with all that is known unless the ending is right."""
    objections = list(objections_to(line, ending))
    assert not objections, f"{objections}: {line}\n{ending}"


def objections_to(line: CommandLine, ending: Ending) -> Iterator[str]:
    status, err = ending.status, ending.err
    is_help = {"--help", "-h", "--version"} & {*line.arguments}
    if status not in STATUSES | ({BROKEN_PIPE} if ending.stream == "broken" else set()):
        yield f"status {status}"
    if "Traceback" in err and "--traceback" not in line.arguments:
        yield "a traceback"
    if "unexpected" in err and "unexpected keyword" not in err:
        yield "an error that nobody expected"
    for text in (ending.out, err):
        if odd := {each for each in text if not each.isprintable() and each not in "\n\ufffd"}:
            yield f"it prints {odd}"
    complaints = [each for each in err.splitlines() if not each.startswith(("usage:", " "))]
    if strays := [each for each in complaints if not each.startswith(("cute-gemm", "FAILED "))]:
        yield f"lines that do not name the program: {strays}"
    errors = [each for each in complaints if not each.startswith(NO_ERRORS)]
    is_slower = "SLOWER" in ending.out
    if status == 0 and errors:
        yield "errors, and status 0"
    if status == 1 and not errors and not is_slower and ending.stream in ("plain", "interrupt"):
        yield "status 1, and no word why"
    if status in (1, 2) and len([each for each in errors if each.startswith("cute-gemm")]) > 1:
        yield "more than one line"
    if status == 130 and err and not all(each.startswith("cute-gemm") for each in complaints):
        yield "words about an interrupt"
    if (
        ending.stream == "full"
        and status == 0
        and ending.out == ""
        and not is_help
        and line.arguments[-1:] == ["info"]
    ):
        yield "nothing was printed, and status 0"
    if line.status is not None and ending.stream == "plain" and status != line.status:
        yield f"status {status}, not {line.status}"


def case(draw: random.Random) -> None:
    """A command line, drawn, run and judged."""
    torch.manual_seed(draw.randrange(2**31))
    folder = Path(tempfile.mkdtemp(prefix="cute_gemm_fuzz_"))
    try:
        line = draw.choice(COMMANDS)(draw, folder)
        if draw.random() < 0.3:
            line.environment |= odd_environment(draw, folder)
        line.environment.setdefault("CUTE_GEMM_TUNED_DIR", str(folder / "tuned"))
        is_apart = not line.has_gpu and draw.random() < SHARE_OF_PROCESSES
        # Arguments of a process are bytes, which surrogates of this kind are not.
        if is_apart and all("\ud800" not in each for each in line.arguments):
            judge(line, run_apart(draw, line, folder))
        else:
            judge(line, run_here(draw, line, folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(campaign.main(case))
