"""How the command line ends where something goes wrong: with a status and a line, whatever it was."""

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from levels import cases

from cute_gemm import cli
from cute_gemm.cli import info, output
from cute_gemm.measure import console, memory
from cute_gemm.measure.console import printable
from cute_gemm.measure.errors import CommandError

Run = Callable[..., tuple[int, str, str]]
DRY_RUN = "tune", "--shapes", "64x7168x2048", "1x576x7168", "--dry-run"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def run(*arguments: Any) -> tuple[int, str, str]:
        status = cli.main([str(each) for each in arguments])
        return status, *capsys.readouterr()

    return run


def raise_from_info(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def broken(args: object) -> None:
        raise error

    monkeypatch.setattr(info, "_run", broken)


def program(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cute_gemm", *arguments]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, text=True, timeout=120, check=False, **options)


# Errors


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (CommandError("two\nlines \x1b[31m"), "two lines \\x1b[31m"),
        (OSError(28, "No space left on device", "/a\x1b"), "/a\\x1b: No space left on device"),
        (OSError("in words"), "in words"),
        (ImportError("pip install it"), "pip install it"),
        (MemoryError(), "there is not enough memory: take smaller shapes"),
        (torch.OutOfMemoryError("Tried"), "there is not enough memory: Tried"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "there is not enough memory: Default"),
        (RuntimeError("CUDA error: out\nof order"), "the GPU cannot be used: CUDA error: out of order"),
        (KeyError("k"), "unexpected KeyError: 'k'; this should not happen: `cute-gemm --traceback`"),
    ],
)
def test_an_error_takes_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    raise_from_info(monkeypatch, error)
    status, out, err = run("info")
    assert (status, out) == (1, "")
    assert err.startswith(f"cute-gemm: {line}")
    assert err.count("\n") == 1


def test_a_traceback_is_shown_to_whoever_asks(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_from_info(monkeypatch, KeyError("k"))
    status, _, err = run("--traceback", "info")
    assert status == 1
    assert err.startswith("Traceback (most recent call last)")
    assert "in broken" in err


def test_an_interrupt_says_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    raise_from_info(monkeypatch, KeyboardInterrupt())
    assert run("info") == (130, "", "")


def test_an_interrupt_that_a_library_turns_into_an_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(args: object) -> None:
        try:
            os.kill(os.getpid(), 2)
        except KeyboardInterrupt as interrupt:
            raise ImportError("partially initialised") from interrupt

    monkeypatch.setattr(info, "_run", interrupted)
    assert run("info") == (130, "", "")


def test_warnings_and_records_take_a_line_each(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn(args: object) -> None:
        warnings.warn("two\nlines", stacklevel=1)
        logger = logging.getLogger("a_library")
        logger.propagate = False
        logger.warning("of a file: %s", "\x1b[31m")

    monkeypatch.setattr(info, "_run", warn)
    last = logging.lastResort
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        status, _, err = run("info")
    assert status == 0
    assert err == "cute-gemm: warning: two lines\ncute-gemm: warning: of a file: \\x1b[31m\n"
    assert logging.lastResort is last


def test_arguments_are_escaped(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["\x1b[31m"], ["demo", "\x1b[31m"], ["demo", "--m", "\x1b[31m"]):
        with pytest.raises(SystemExit) as left:
            cli.main(arguments)
        assert left.value.code == 2
        assert "\x1b" not in capsys.readouterr().err


def test_help_lists_every_status(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main(["--help"])
    assert left.value.code == 0
    words = capsys.readouterr().out.split("exit status:")[1]
    assert {line.split()[0] for line in words.splitlines() if line.strip()} >= {"0", "1", "2", "130", "141"}


@pytest.mark.parametrize("text", ["\x1b[31m", "a\rb", "\x9b", "\u202e", "\u2028", "\x07", "\ud800", "\x00"])
def test_what_steers_a_terminal_is_escaped(text: str) -> None:
    assert printable(text).isprintable()
    assert printable("名 [/b] é") == "名 [/b] é"


def test_markup_of_others_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    table = console.PlainTable()
    table.add_column(":smile:")
    table.add_row("[red]x[/red] [/b] :smile: \x1b")
    console.wide_console().print(table)
    console.wide_console().print("[/b] :smile:")
    out = capsys.readouterr().out
    assert "[red]x[/red] [/b] :smile: \\x1b" in out
    assert out.endswith("[/b] :smile:\n")


# Streams


@pytest.mark.parametrize(
    ("arguments", "unbuffered"),
    cases(product((DRY_RUN, ("--help",)), ("", "1")), usual=[(DRY_RUN, ""), (("--help",), "1")]),
)
def test_nobody_reads_on(arguments: tuple[str, ...], unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        found = program(*arguments, stdout=writer, env=os.environ | {"PYTHONUNBUFFERED": unbuffered})
    finally:
        os.close(writer)
    assert (found.returncode, found.stderr) == (output.BROKEN_PIPE, "")


def test_a_full_disk_is_said() -> None:
    with open("/dev/full", "w") as full:
        found = program("info", stdout=full)
    assert found.returncode == 1
    assert found.stderr == "cute-gemm: standard output: No space left on device\n"


def test_closed_streams_are_nowhere() -> None:
    found = program(*DRY_RUN, stdout=None, preexec_fn=lambda: os.close(1))
    assert (found.returncode, found.stderr) == (0, "")
    found = program("demo", "--m", "8", stderr=None, preexec_fn=lambda: os.close(2))
    # Not on the other stream, where results are.
    assert (found.returncode, found.stdout) == (1, "")


def test_any_encoding_will_do(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "CUTE_GEMM_CACHE_DIR": str(tmp_path / "é")}
    found = program("info", env=environment)
    assert (found.returncode, found.stderr) == (0, "")
    assert "\\xe9" in found.stdout


# Ctrl-C


@pytest.mark.parametrize("module", [True, False])
def test_an_interrupt_while_torch_is_imported(tmp_path: Path, module: bool) -> None:
    """A torch that takes for ever, and is interrupted as if at a terminal."""
    (tmp_path / "torch.py").write_text("import os, time\nos.kill(os.getpid(), 2)\ntime.sleep(60)\n")
    script = tmp_path / "cute-gemm"
    script.write_text("import sys\nfrom cute_gemm.cli import main\nsys.exit(main())\n")
    path = os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]])
    started = ["-m", "cute_gemm"] if module else [str(script)]
    found = subprocess.run(
        [sys.executable, *started, "info"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")


def test_other_programs_are_left_alone(tmp_path: Path) -> None:
    """The library handles no interrupts of who imports it."""
    code = (
        "import signal, cute_gemm; assert signal.getsignal(signal.SIGINT) is signal.default_int_handler;"
        "from cute_gemm.cli import main; main(['tune', '--shapes', '1x8x16', '--dry-run']);"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, stdout=subprocess.DEVNULL)


# Memory


@pytest.mark.parametrize(
    ("limit", "usage", "expected"), [("4096\n", "1024\n", 3072), ("max\n", "1\n", None), (None, None, None)]
)
def test_memory_that_is_there(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    limit: str | None,
    usage: str | None,
    expected: int | None,
) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:  5 kB\n")
    if limit is not None and usage is not None:
        (tmp_path / "max").write_text(limit)
        (tmp_path / "current").write_text(usage)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUPS", [(tmp_path, "max", "current")] * 2)
    assert memory.available_bytes() == (5120 if expected is None else expected)


def test_what_a_container_has_read_of_files_is_free(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Linux gives pages of files back. Reading a checkpoint fills what there is with them."""
    (tmp_path / "max").write_text("1000\n")
    (tmp_path / "current").write_text("990\n")
    (tmp_path / "memory.stat").write_text("anon 90\ninactive_file 700\nactive_file 200\n")
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "_CGROUPS", [(tmp_path, "max", "current")])
    assert memory.available_bytes() == 910


def test_a_shape_beyond_memory_is_refused_before_it_is_tried(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    status, _, err = run("demo", "--m", 8, "--n", 2147482624, "--k", 16000)
    assert status == 1
    assert err.startswith("cute-gemm: 8 x 2147482624 x 16000: it takes ")
    assert "GiB of memory to multiply and check" in err
    assert err.count("\n") == 1
