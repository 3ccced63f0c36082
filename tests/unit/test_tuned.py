"""What was measured is chosen: for problems that it holds for, from the user's file before the package's."""

import json
import logging
import math
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cache_places import a_pipe, a_sparse_file

from cute_gemm import storage
from cute_gemm.plan import candidates, cost_model, tuned
from cute_gemm.plan.card import CARDS
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import MASKED, OFFSETS
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.tuned import choice, files
from cute_gemm.plan.tuned import table as table_module
from cute_gemm.plan.tuned.table import Entry, Table, TunedError, parse, render
from cute_gemm.runtime import selection

DEVICE = "NVIDIA H200"
FILE = "nvidia_h200.json"
CARD = CARDS[DEVICE]
PROBLEM = GemmProblem(64, 4096, 7168, card=CARD)
MASKED = GemmProblem(32 * 20, 4096, 2048, "float32", 78, MASKED, 32, card=CARD)


def config_of(problem: GemmProblem, rank: int) -> KernelConfig:
    """Something else than the model's choice, and the same for all M of these tests."""
    low = [config for config in candidates.all_configs(problem.out_dtype, problem.layout)]
    low = [config for config in low if config.block_m == 64 and config.cluster_size == 1]
    assert low[rank] != cost_model.best(problem)
    return low[rank]


def entry(m: int, rank: int, problem: GemmProblem = PROBLEM) -> Entry:
    return Entry.of(replace(problem, m=m), config_of(problem, rank), cold_us=10.0)


@pytest.fixture(autouse=True)
def directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Path]]:
    """The user's directory and the package's, which are asked; and a device."""
    user, package = tmp_path / "user", tmp_path / "package"
    package.mkdir()
    monkeypatch.setenv(files.DIRECTORY_VARIABLE, str(user))
    monkeypatch.setattr(files, "_PACKAGE_DIRECTORY", package)
    monkeypatch.setattr(tuned, "choice", choice)
    files.tables.cache_clear()
    yield user, package
    files.tables.cache_clear()


# Which problems an entry holds for


@pytest.mark.parametrize("problem", [PROBLEM, MASKED])
def test_an_entry_holds_for_its_problem_only(problem: GemmProblem) -> None:
    table = Table([Entry.of(problem, config_of(problem, 1))])
    assert table.choice(problem) == config_of(problem, 1)
    other_type = {"float32": "bfloat16", "bfloat16": "float32"}[problem.out_dtype]
    changes: list[dict[str, Any]] = [
        {name: getattr(problem, name) + 16} for name in ("m", "n", "k", "groups")
    ]
    changes += [{"num_sms": 100}, {"out_dtype": other_type}, {"layout": OFFSETS}]
    for change in changes:
        assert table.choice(replace(problem, **change)) is None, change


def test_between_entries_that_agree_holds_what_they_say() -> None:
    table = Table([entry(256, 1), entry(16, 1), entry(64, 1), entry(128, 2)])
    chosen = {
        m: table.choice(replace(PROBLEM, m=m)) for m in (15, 16, 17, 63, 64, 65, 127, 128, 129, 256, 257)
    }
    one, two = config_of(PROBLEM, 1), config_of(PROBLEM, 2)
    assert {m for m, config in chosen.items() if config == one} == {16, 17, 63, 64, 256}
    assert {m for m, config in chosen.items() if config == two} == {128}
    assert {m for m, config in chosen.items() if config is None} == {15, 65, 127, 129, 257}


def test_what_does_not_suit_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a configuration that sums in another order, for a batch-invariant problem."""
    table = Table([entry(64, 1), entry(128, 1)])
    invariant = replace(PROBLEM, batch_invariant=True)
    assert table.choice(invariant) == table.choice(PROBLEM) is not None
    monkeypatch.setattr(table_module, "is_candidate", lambda problem, config: not problem.batch_invariant)
    assert table.choice(invariant) is None
    assert table.choice(replace(invariant, m=65)) is None
    assert table.choice(PROBLEM) is not None


# The text of a file


def test_a_file_is_sorted_with_a_line_for_each_entry() -> None:
    entries = [
        entry(128, 2),
        entry(64, 1),
        Entry.of(MASKED, config_of(MASKED, 1), cold_us=1.5, sustained_us=2.5),
    ]
    text = render(DEVICE, entries)
    assert text == render(DEVICE, reversed(entries))
    assert parse(text, DEVICE) == [entries[1], entries[0], entries[2]]
    lines = text.splitlines()
    assert lines[:4] == ["{", '"format": 2,', '"device": "NVIDIA H200",', '"entries": [']
    assert json.loads(lines[4].rstrip(",")) == {
        "layout": "dense",
        "out_dtype": "bfloat16",
        "num_sms": 132,
        "groups": 1,
        "n": 4096,
        "k": 7168,
        "m": 64,
        "config": config_of(PROBLEM, 1).name,
        "cold_us": 10.0,
    }
    assert lines[7:] == ["]", "}"]


ROW = json.loads(render(DEVICE, [entry(64, 1)]))["entries"][0]


def test_the_file_in_the_documentation_is_one() -> None:
    text = (Path(__file__).parents[2] / "docs" / "tuning.md").read_text()
    example = text.split("```json\n")[1].split("```")[0]
    assert render(DEVICE, parse(example, DEVICE)) == example


BAD: dict[str, tuple[Any, str]] = {
    "a list": ([], "no tuned choices"),
    "no device": ({"format": 2, "entries": []}, "no tuned choices: KeyError: 'device'"),
    "another format": ({"format": 1, "device": DEVICE, "entries": []}, "format 1; .* writes format 2"),
    "another device": (
        {"format": 2, "device": "NVIDIA H20", "entries": []},
        "for \"NVIDIA H20\", not for 'NVIDIA H200'",
    ),
    "entries of another kind": ({"format": 2, "device": DEVICE, "entries": {}}, "no list"),
}
BAD |= {
    name: ({"format": 2, "device": DEVICE, "entries": [ROW, row]}, message)
    for name, row, message in (
        ("a missing key", {key: value for key, value in ROW.items() if key != "m"}, "other keys.*'m'"),
        ("a further key", ROW | {"colour": 1}, "other keys.*'colour'"),
        ("no such layout", ROW | {"layout": "sparse"}, "cannot be.*sparse"),
        ("no such type", ROW | {"out_dtype": ["float8"]}, "cannot be.*float8"),
        ("M as text", ROW | {"m": "64"}, "cannot be"),
        ("N as a truth", ROW | {"n": True}, "cannot be"),
        ("a configuration as a list", ROW | {"config": ["a"]}, "cannot be"),
        ("a time as text", ROW | {"cold_us": "1"}, "cannot be"),
        ("a time that is no number", ROW | {"cold_us": math.nan}, "cannot be"),
        ("a time without end", ROW | {"sustained_us": math.inf}, "cannot be"),
        ("no rows", ROW | {"m": 0}, "cannot be"),
        *((f"{name} as a list", ROW | {name: [ROW[name]]}, "cannot be") for name in ROW),
        *((f"{name} as an object", ROW | {name: {}}, "cannot be") for name in ROW),
        ("a name of a megabyte", ROW | {"layout": "x" * 2**20}, "cannot be.{,220}$"),
    )
}


OTHERS = "another format", "another device"
DAMAGED = {name: json.dumps(content).encode() for name, (content, _) in BAD.items() if name not in OTHERS}
DAMAGED |= {
    "no UTF-8": render(DEVICE, []).encode().replace(b"entries", b"entr\xffes"),
    "deep nesting": b"[" * 100_000,
    "a number of ten thousand digits": b'{"format": ' + b"1" * 10_000 + b"}",
    "cut short": render(DEVICE, []).encode()[:-4],
    "nothing": b"",
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=list(DAMAGED))
def test_a_damaged_file_is_ignored_with_one_warning_and_copied_before_it_is_written(
    content: bytes, directories: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    user, package = directories
    user.mkdir()
    path = user / FILE
    path.write_bytes(content)
    files.merge(package / FILE, DEVICE, [entry(64, 2)])
    for m in (64, 65, 64):
        selection.select(replace(PROBLEM, m=m))
    assert selection.select(PROBLEM) == config_of(PROBLEM, 2)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"ignored {path}: ")
    for number in (1, 2):
        path.write_bytes(content)
        copy = files.merge(path, DEVICE, [entry(64, 1)])
        assert copy == user / f"{FILE}.damaged-{number}"
        assert copy.read_bytes() == content
        assert files.read(path, DEVICE) == [entry(64, 1)]
    assert files.merge(path, DEVICE, [entry(65, 1)]) is None


@pytest.mark.parametrize("case", OTHERS)
def test_a_file_of_another_format_or_device_is_ignored_and_stays(
    case: str, directories: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    content, message = BAD[case]
    path = directories[0] / FILE
    path.parent.mkdir()
    path.write_text(json.dumps(content))
    assert selection.select(PROBLEM) == cost_model.best(PROBLEM)
    assert caplog.text.count(f"ignored {path}: ") == 1
    with pytest.raises(TunedError, match=message):
        files.merge(path, DEVICE, [entry(64, 1)])
    assert path.read_text() == json.dumps(content)


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_file_of_choices_says_why(case: str) -> None:
    content, message = BAD[case]
    with pytest.raises(TunedError, match=message):
        parse(json.dumps(content), DEVICE)


ODD: dict[str, tuple[Callable[[Path], None], str]] = {
    "a pipe": (a_pipe, "no regular file"),
    "a folder": (Path.mkdir, "Is a directory"),
    "64 GiB of nothing": (a_sparse_file, "more than 16777216 bytes"),
    "a link to itself": (lambda path: path.symlink_to(path), "symbolic links"),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_no_file_neither_hangs_nor_is_read(
    case: str, directories: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    make, message = ODD[case]
    path = directories[0] / FILE
    path.parent.mkdir()
    make(path)
    started = time.monotonic()
    for _ in range(2):
        assert selection.select(PROBLEM) == cost_model.best(PROBLEM)
    with pytest.raises(TunedError, match=message):
        files.merge(path, DEVICE, [entry(64, 1)])
    assert time.monotonic() - started < 5
    (record,) = caplog.records
    assert message in record.getMessage()


def test_text_that_is_no_json_is_none() -> None:
    with pytest.raises(TunedError, match="no tuned choices: JSONDecodeError"):
        parse("<<<<<<< HEAD", DEVICE)


def test_entries_without_a_configuration_are_ignored_with_one_warning(
    directories: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    path = directories[0] / FILE
    gone = [replace(entry(m, 1), config=f"96x{m}_c1x1_s4_bf16") for m in (32, 64, 96, 128)]
    of_another_layout = replace(entry(8, 1), config=config_of(MASKED, 1).name)
    files.merge(path, DEVICE, [*gone, of_another_layout, entry(16, 1)])
    for problem in (PROBLEM, replace(PROBLEM, m=8), PROBLEM):
        assert selection.select(problem) == cost_model.best(problem)
    assert selection.select(replace(PROBLEM, m=16)) == config_of(PROBLEM, 1)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(
        f"ignored 5 of 6 entries of {path}: this version has no configuration"
    )
    assert "'96x32_c1x1_s4_bf16', ...; see `cute-gemm tune`" in record.getMessage()


# Files


def test_the_users_choice_wins_where_it_is_known(directories: tuple[Path, Path]) -> None:
    user, package = directories
    files.merge(package / FILE, DEVICE, [entry(m, 1) for m in (32, 64, 128)])
    files.merge(user / FILE, DEVICE, [entry(64, 2)])
    for m, rank in ((32, 1), (48, 1), (64, 2), (96, 1)):
        assert selection.select(replace(PROBLEM, m=m)) == config_of(PROBLEM, rank), m
    assert selection.select(replace(PROBLEM, m=129)) == cost_model.best(replace(PROBLEM, m=129))


def test_choices_are_of_the_card(directories: tuple[Path, Path]) -> None:
    files.merge(directories[0] / FILE, DEVICE, [entry(64, 2)])
    assert selection.select(PROBLEM) == config_of(PROBLEM, 2)
    on_another = replace(PROBLEM, card=replace(CARD, name="NVIDIA H20"))
    assert selection.select(on_another) == cost_model.best(on_another)


def test_no_file_is_read_twice(directories: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    files.merge(directories[0] / FILE, DEVICE, [entry(64, 2)])
    real, reads = files.read, []
    monkeypatch.setattr(files, "read", lambda path, device: reads.append(path) or real(path, device))
    for m in (64, 65, 64):
        choice(replace(PROBLEM, m=m))
    assert reads == [directory / FILE for directory in directories]


def test_configurations_of_other_layouts_than_a_calls_are_not_looked_for(
    directories: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would take milliseconds of a first call."""
    files.merge(directories[1] / FILE, DEVICE, [entry(64, 2), entry(64, 1, MASKED)])
    real, layouts = tuned.table._configs, []
    monkeypatch.setattr(
        tuned.table, "_configs", lambda dtype, layout: layouts.append(layout) or real(dtype, layout)
    )
    assert choice(replace(PROBLEM, m=64)) == config_of(PROBLEM, 2)
    assert layouts == [PROBLEM.layout.name]


@pytest.mark.parametrize(
    ("variable", "cache_variable", "expected"),
    [
        ("{tmp}/a", "{tmp}/b", "{tmp}/a"),
        (None, "{tmp}/b", "{tmp}/b/tuned"),
        ("", "{tmp}/b", None),
        (None, "", None),
        ("{tmp}/a", "", "{tmp}/a"),
    ],
)
def test_where_the_users_files_are(
    variable: str | None,
    cache_variable: str,
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in ((files.DIRECTORY_VARIABLE, variable), ("CUTE_GEMM_CACHE_DIR", cache_variable)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value.format(tmp=tmp_path))
    wanted = None if expected is None else Path(expected.format(tmp=tmp_path))
    assert files.user_directory() == wanted
    assert choice(PROBLEM) is None


@pytest.mark.parametrize("named", ["~nosuchuser/tuned", None], ids=["a user whom nobody knows", "no home"])
def test_without_a_directory_the_packages_choices_are_taken(
    named: str | None,
    directories: tuple[Path, Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where the cache of kernels has none either, that warns."""

    def has_no_home(name: str) -> str:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("platformdirs.user_cache_dir", has_no_home)
    for variable in (files.DIRECTORY_VARIABLE, storage.DIRECTORY_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    if named:
        monkeypatch.setenv(files.DIRECTORY_VARIABLE, named)
    files.merge(directories[1] / FILE, DEVICE, [entry(64, 2)])
    for _ in range(2):
        assert selection.select(PROBLEM) == config_of(PROBLEM, 2)
    assert caplog.text.count("no tuned choices of one's own: ") == (1 if named else 0)


def test_a_lock_that_another_holds_for_too_long_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To write all the same could lose what the other writes."""
    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.05)
    path = tmp_path / FILE
    with (
        storage.locked(path.with_name(f".{FILE}.lock"), 1),
        pytest.raises(TimeoutError, match="another process"),
    ):
        files.merge(path, DEVICE, [entry(64, 1)])
    assert not path.exists()


def test_what_a_killed_writer_left_is_removed_by_a_later_one(tmp_path: Path) -> None:
    for name, seconds in (("old", storage.TEMPORARY_SECONDS + 9), ("new", 0)):
        left = tmp_path / f".{FILE}.{name}.tmp"
        left.touch()
        os.utime(left, (time.time() - seconds,) * 2)
    files.merge(tmp_path / FILE, DEVICE, [entry(64, 1)])
    assert {path.name for path in tmp_path.glob(".*")} == {f".{FILE}.new.tmp", f".{FILE}.lock"}


def test_other_files_stay_as_they_are(tmp_path: Path) -> None:
    """Also one that has the name that a lock would have."""
    names = "nvidia_h200.lock", f".{FILE}.lock"
    for name in names:
        (tmp_path / name).write_text("precious")
    files.merge(tmp_path / FILE, DEVICE, [entry(64, 1)])
    assert files.read(tmp_path / FILE, DEVICE) == [entry(64, 1)]
    assert [(tmp_path / name).read_text() for name in names] == ["precious"] * 2


def test_merging_replaces_what_was_measured_again_and_keeps_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "new" / FILE
    gone = replace(entry(1, 1), config="gone")
    files.merge(path, DEVICE, [entry(64, 1), entry(128, 1), gone])
    files.merge(path, DEVICE, [entry(64, 2), entry(32, 2)])
    assert files.read(path, DEVICE) == [gone, entry(32, 2), entry(64, 2), entry(128, 1)]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_write_that_fails_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / FILE
    files.merge(path, DEVICE, [entry(64, 1)])

    def fails(descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="no space left"):
        files.merge(path, DEVICE, [entry(64, 2)])
    assert files.read(path, DEVICE) == [entry(64, 1)]
    assert sorted(each.name for each in path.parent.iterdir() if not each.name.endswith(".lock")) == [FILE]


def merge_some(path: Path, first: int) -> None:
    for m in range(first, first + 10):
        files.merge(path, DEVICE, [entry(m, 1)])


def test_processes_may_merge_at_the_same_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    starts = 1, 11, 21
    processes = [context.Process(target=merge_some, args=(tmp_path / FILE, first)) for first in starts]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [each.m for each in files.read(tmp_path / FILE, DEVICE)] == list(range(1, 31))


def test_the_files_that_come_with_the_package_are_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = list(Path(tuned.__file__).parent.glob("*.json"))
    assert paths
    for path in paths:
        text = path.read_text()
        device = json.loads(text)["device"]
        assert path.name == files.file_name(device)
        entries = parse(text, device)
        assert text == render(device, entries)
        assert all(each.kernel_config for each in entries)
