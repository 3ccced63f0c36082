"""The ladder: texts of rungs, their order, what is on record of them, what they print without a GPU."""

import ast
import difflib
import importlib
import io
import re
import shutil
import sys
import tokenize
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from modules import load as load_file

from cute_gemm import reference
from cute_gemm.measure import records
from cute_gemm.testing.rungs import goes_on_from

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))
ladder, figures = importlib.import_module("ladder"), importlib.import_module("figures")

RUNGS = ladder.files()
MOST_CODE, MOST_LINES, MOST_CHANGED = 150, 300, 60
MORE_CODE = dict.fromkeys(("15_big_tile", "17_two_scales"), 250)
"""These are whole kernels."""
GO_ON_FROM_OTHERS = {
    "14_split_k": "08_warp_specialization",
    "15_big_tile": "13_scales",
    "17_two_scales": "15_big_tile",
}
"""Rungs that are not made from the one before them."""
NEW = {
    "03_swizzle": "threads read the tile, where TMA took it back, and it is traced in two ways",
    "04_wgmma": "two operands in place of one, and what the tensor core is told of them",
    "15_big_tile": "two fragments a warpgroup: the loop and the store are written anew",
    "16_library": "launches the library's kernel, in place of one of its own",
}
"""Rungs of which more lines are new than 60, and why."""


def code(path: Path) -> list[str]:
    """The lines of code, without docstrings, comments and blank lines."""
    source = path.read_text()
    dropped = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node):
            first = node.body[0]
            dropped |= {*range(first.lineno, first.end_lineno + 1)}
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    kept = [line.rstrip() for number, line in enumerate(lines, 1) if number not in dropped]
    return [line for line in kept if line]


def changed(before: list[str], after: list[str]) -> int:
    """Lines that differ; one that was replaced counts once. Indentation alone is no difference."""
    stripped = ([line.strip() for line in lines] for lines in (before, after))
    matcher = difflib.SequenceMatcher(None, *stripped, autojunk=False)
    return sum(max(i2 - i1, j2 - j1) for tag, i1, i2, j1, j2 in matcher.get_opcodes() if tag != "equal")


def test_code_is_told_from_text(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        '"""Text\n\nof two lines."""\n\n\ndef f():\n    """Text."""\n    # a comment\n    return 1  # one\n'
    )
    assert code(path) == ["def f():", "    return 1"]
    assert changed(["a", "b", "c"], ["a", "x", "c", "d"]) == 2
    assert changed(["a", "b"], ["if a:", "    a", "    b"]) == 1


def test_rungs_are_numbered_and_their_index_lists_all() -> None:
    numbers = [int(path.stem[:2]) for path in RUNGS]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1
    text = (ROOT / "examples" / "README.md").read_text()
    assert re.findall(r"^\| \[\w+\]\(ladder/(\w+\.py)\)", text, flags=re.MULTILINE) == [
        path.name for path in RUNGS
    ]
    tops = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
    assert re.findall(r"^\| \[[\w.]+\]\((\w+\.py)\)", text, flags=re.MULTILINE) == tops


@pytest.mark.parametrize("path", RUNGS, ids=lambda path: path.stem)
def test_a_rung_says_its_idea_what_follows_and_how_to_break_it(path: Path) -> None:
    source = path.read_text()
    text = ast.get_docstring(ast.parse(source))
    title, blank, command, *_ = text.splitlines()
    assert title.endswith(".")
    assert blank == ""
    assert command == f"    python examples/ladder/{path.name}"
    head, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    assert [each.partition("\n")[0] for each in sections] == ["Measured", "What follows", "Break it"]
    assert all(len(each.split()) > 30 for each in (head, *sections[1:]))
    assert source.endswith('\n\nif __name__ == "__main__":\n    climb(RUNG)\n')
    assert len(re.findall(r"^RUNG = ", source, flags=re.MULTILINE)) == 1


@pytest.mark.parametrize("path", RUNGS, ids=lambda path: path.stem)
def test_a_rung_is_short(path: Path) -> None:
    assert len(code(path)) <= MORE_CODE.get(path.stem, MOST_CODE)
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("number", range(len(RUNGS)), ids=[path.stem for path in RUNGS])
def test_a_rung_is_the_one_before_with_few_lines_changed(number: int) -> None:
    path = RUNGS[number]
    before = goes_on_from(path) or RUNGS[number - 1].stem
    new = changed(code(path.with_stem(before)) if number else [], code(path))
    # An exception that is none any more is to go.
    assert (new > MOST_CHANGED) == (path.stem in NEW), new


def test_a_rung_says_from_which_it_goes_on() -> None:
    named = {path.stem: goes_on_from(path) for path in RUNGS}
    assert {rung: before for rung, before in named.items() if before} == GO_ON_FROM_OTHERS


def test_texts_are_what_the_records_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert ladder.main(["--check"]) == 0, capsys.readouterr().err


PRODUCT = [4096, 4096, 7168]


def test_the_last_rung_of_the_product_is_as_fast_as_the_librarys_kernel() -> None:
    """Within 5 %, by what is on record; and the one of two scales, by the benchmark of those."""
    us = {row["rung"]: row["us"] for row in ladder.read() if row["shape"] == PRODUCT}
    assert us["15_big_tile"] <= 1.05 * us["16_library"]
    (gradients,) = (
        row["us"]
        for row in records.read_rows(ROOT / "benchmarks" / "results" / "h200" / "gradients_cold.jsonl")
        if (row["op"], row["peer"]) == (records.DENSE_FP32, records.OURS)
        if [row["m"], row["n"], row["k"]] == PRODUCT
    )
    assert us["17_two_scales"] <= 1.05 * gradients


def row(rung: str, shape: list[int], us: float, **more: object) -> dict[str, object]:
    return {
        "rung": rung,
        "shape": shape,
        "us": us,
        "tflops": 120.0,
        "gbps": 3000.4,
        "of_limit": 0.1234,
        "error": 1.42e-6,
        "registers": 90,
        "device": "NVIDIA H200",
        "date": "2026-11-30",
        "versions": {"nvidia-cutlass-dsl": "4.8.1"},
    } | more


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with two rungs of the ladder, and their index."""
    for name in ("ladder/04_wgmma.py", "ladder/01_hello.py", "README.md"):
        target = tmp_path / "examples" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "examples" / name, target)
    assert ladder.main([], tmp_path) == 0
    assert ladder.main(["--check"], tmp_path) == 0
    return tmp_path


def record(root: Path, *rows: dict[str, object], name: str = "h200.jsonl") -> None:
    records.write_rows(root / ladder.RECORDS / name, rows)


def test_new_records_make_texts_and_the_chart_out_of_date(root: Path) -> None:
    path = root / "examples" / "ladder" / "04_wgmma.py"
    before = path.read_text()
    assert "## Measured\n\nNot yet measured.\n\n## What follows\n" in before
    record(root, row("04_wgmma", PRODUCT, 2000.0))
    assert ladder.main(["--check"], root) == 1
    assert path.read_text() == before
    assert ladder.main([], root) == 0
    assert ladder.main(["--check"], root) == 0
    line = "| 04_wgmma | 4096x4096x7168 | 2000.0 | 120 TFLOP/s | 12.3% | 1.4e-06 | 90 |"
    assert (
        f"NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:\n\n{ladder._HEAD}\n{line}\n\n## What"
        in path.read_text()
    )
    index = (root / "examples" / "README.md").read_text()
    assert "(ladder/04_wgmma.py) | One WGMMA: who holds which element | 120 TFLOP/s |" in index
    assert "(../docs/pictures/ladder.svg)" in index

    # The chart alone, and back to no records at all.
    (root / ladder.PICTURE).unlink()
    assert ladder.main(["--check"], root) == 1
    record(root)
    assert ladder.main([], root) == 0
    assert path.read_text() == before


def test_a_rung_stands_beside_the_last_one_of_the_same_shape_and_card(root: Path) -> None:
    other = {"device": "NVIDIA H20"}
    record(
        root,
        row("04_wgmma", PRODUCT, 5.0),
        row("05_k_loop", PRODUCT, 4.0),
        row("05_k_loop, wide", PRODUCT, 3.9),
        row("06_promotion", [1, 2, 3], 1.0),
        row("07_ring", PRODUCT, 3.0),
        row("07_ring", PRODUCT, 2.0),
        row("07_ring, plain", PRODUCT, 2.5, tflops=0.0, error=0.0),
        row("07_ring", PRODUCT, 9.0, **other),
        row("08_roles", PRODUCT, 1.0),
    )
    ours, theirs = ladder.measured(ladder.read(root), root / "examples/ladder/07_ring.py").split(
        "\n\nNVIDIA H20, "
    )
    assert [line.split(" | ")[:3:2] for line in ours.splitlines()[4:]] == [
        ["| 05_k_loop", "4.0"],
        ["| 07_ring", "2.0"],
        ["| 07_ring, plain", "2.5"],
    ]
    assert ours.endswith("| 2.5 | 3000 GB/s | 12.3% | 0 | 90 |")
    assert theirs.count("\n| 0") == 1
    assert ladder.measured(ladder.read(root), root / "examples/ladder/09_epilogue.py") == "Not yet measured."


def test_the_chart_has_rungs_of_the_product_and_says_of_what_it_is(root: Path) -> None:
    rows = row("04_wgmma", PRODUCT, 5.0), row("04_wgmma, b", PRODUCT, 5.0), row("01_hello", [5], 5.0)
    record(root, *rows, row("04_wgmma", PRODUCT, 1.0, device="A < B & C"))
    shown = ladder.chart(ladder.read(root))
    assert shown == {"NVIDIA H200": {"04_wgmma": 120.0}, "A < B & C": {"04_wgmma": 120.0}}
    assert ladder.main([], root) == 0
    assert ladder.shows(root / ladder.PICTURE) == shown


def of_errors(k: int, unpromoted: float, **more: object) -> dict[str, object]:
    made_up = {"rung": "05_k_loop", "shape": [1024, 1024, k], "device": "NVIDIA H200"}
    return made_up | {"unpromoted_error": unpromoted, "promoted_error": 1.4e-6} | more


def test_errors_over_k_are_drawn_and_shown_where_they_are_on_record(root: Path) -> None:
    shutil.copy(ROOT / "examples" / "ladder" / "05_k_loop.py", root / "examples" / "ladder")
    timed = row("04_wgmma", PRODUCT, 2000.0), row("05_k_loop", PRODUCT, 1000.0)
    record(root, *timed)
    assert ladder.main([], root) == 0
    texts = [root / "examples" / "ladder" / "05_k_loop.py", root / "examples" / "README.md"]
    assert [path.read_text().count("error_over_k.svg") for path in texts] == [0, 0]
    assert not (root / ladder.ERRORS_PICTURE).exists()

    record(root, *timed, of_errors(128, 1.5e-6), of_errors(128, 1.4e-6), of_errors(4096, 2.5e-6))
    assert ladder.read(root) == [*timed]
    assert ladder.read_errors(root) == {
        "05_k_loop": {"NVIDIA H200": {128: (1.4e-6, 1.4e-6), 4096: (2.5e-6, 1.4e-6)}}
    }
    assert ladder.main(["--check"], root) == 1
    assert ladder.main([], root) == 0
    assert ladder.main(["--check"], root) == 0
    assert f"| 90 |\n\n![{ladder.ABOUT_ERRORS}](../../docs/pictures/error_over_k.svg)\n\n## What" in (
        texts[0].read_text()
    )
    assert f"![{ladder.ABOUT_ERRORS}](../docs/pictures/error_over_k.svg)\n{ladder.END}" in (
        texts[1].read_text()
    )
    picture = (root / ladder.ERRORS_PICTURE).read_text()
    assert ">128<" in picture
    assert ">4096<" in picture

    # Another error is another picture.
    record(root, *timed, of_errors(128, 1.4e-6), of_errors(4096, 3.5e-6))
    assert ladder.main(["--check"], root) == 1
    assert ladder.main([], root) == 0
    assert (root / ladder.ERRORS_PICTURE).read_text() != picture


def test_a_text_without_its_place_is_refused() -> None:
    with pytest.raises(ValueError, match="want one section"):
        ladder.with_measured('"""Title.\n"""\n', "new")
    with pytest.raises(ValueError, match="want one"):
        ladder.listed(f"{ladder.END} {ladder.BEGIN}", "new")


def test_rows_of_the_ladder_are_no_results_of_operations(tmp_path: Path) -> None:
    records.write_rows(tmp_path / "ladder" / "h200.jsonl", [row("04_wgmma", PRODUCT, 1.0)])
    records.write_rows(tmp_path / "h200" / "dense.jsonl", [{"op": "dense_1d2d"}])
    assert figures.read_results(tmp_path) == [{"op": "dense_1d2d"}]


def load(name: str):
    """A rung as a module; they are written for the newest DSL."""
    pytest.importorskip("cutlass.memory")
    return load_file(ROOT / "examples" / "ladder" / f"{name}.py")


def computed(name: str, module: object, tensors: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """What rungs have to compute, by torch."""
    *given, _ = tensors
    return {
        "01_hello": lambda x, y: 2 * x + y,
        "02_tma": lambda a: a,
        "03_swizzle": getattr(module, "checksums", None),
        "04_wgmma": lambda a, b: a.float() @ b.float().T,
        "17_two_scales": lambda a, sa, b, sb: reference.dequantized_product(a, sa, b, sb).float(),
    }[name](*given)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("01_hello", (5000,)),
        ("02_tma", (130, 256)),
        ("03_swizzle", (256, 128)),
        ("04_wgmma", (64, 128, 128)),
        ("17_two_scales", (130, 260, 256)),
    ],
)
def test_a_rungs_judge_takes_what_is_right_and_nothing_else(name: str, shape: tuple[int, ...]) -> None:
    module = load(name)
    tensors = module.RUNG.make(shape, torch.device("cpu"))
    with pytest.raises(AssertionError):
        module.RUNG.judge(tensors)
    tensors[-1].copy_(computed(name, module, tensors))
    assert module.RUNG.judge(tensors) < 1.6e-6
    assert module.RUNG.bytes_moved(shape) > 0
    tensors[-1].view(torch.uint8).flatten()[-1] ^= 0x40
    with pytest.raises(AssertionError):
        module.RUNG.judge(tensors)


def test_a_judge_of_two_scales_refuses_scales_of_another_row_or_k_block() -> None:
    rung = load("17_two_scales").RUNG
    shape = (64, 128, 256)
    *given, out = rung.make(shape, torch.device("cpu"))
    a, sa, b, sb = given
    assert (out.dtype, out.shape, sb.shape) == (torch.float32, (64, 128), (128, 2))
    assert sa.stride(0) == sb.stride(0) == 1
    for wrong in (sb.roll(1, 0), sb.roll(1, 1)):
        out.copy_(reference.dequantized_product(a, sa, b, wrong))
        with pytest.raises(AssertionError):
            rung.judge((*given, out))
    assert rung.bytes_moved(shape) == (64 + 128) * 256 + 4 * 64 * 128


def test_a_rung_says_what_it_was_compiled_to_where_there_is_no_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    module = load("03_swizzle")
    monkeypatch.setattr("cute_gemm.testing.rungs.is_hopper", lambda: False)
    importlib.import_module("cute_gemm.testing.rungs").climb(
        module.RUNG, ["--out", str(tmp_path / "none.jsonl")]
    )
    out = capsys.readouterr().out.splitlines()
    assert [line.partition(" for ")[0] for line in out[::2][:2]] == ["03_swizzle", "03_swizzle, plain"]
    assert re.search(r"sm_90a: \d+ registers, 17408 bytes of shared memory, no spills$", out[0])
    assert out[1].startswith("instructions: 1 TMA loads, ")
    assert out[-1] == "There is no Hopper GPU here: it was compiled, and not run."
    assert not (tmp_path / "none.jsonl").exists()


def test_a_row_is_told_in_a_line() -> None:
    rungs = importlib.import_module("cute_gemm.testing.rungs")
    assert "120.0 TFLOP/s  12.3% of the limit  error 1.4e-06" in rungs.line(row("04_wgmma", PRODUCT, 5.0))
    assert "3000.4 GB/s" in rungs.line(row("04_wgmma", PRODUCT, 5.0, tflops=0.0))


def test_on_a_gpu_the_errors_over_k_are_told_and_written(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rung is played by a product that loses bits, and the library's kernel by the reference."""
    rungs = importlib.import_module("cute_gemm.testing.rungs")
    rung = load("05_k_loop").RUNG
    assert sorted(k for *_, k in rung.over_k)[::9] == [128, 65536]

    def multiply(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> None:
        out.copy_(a.float() @ b.float().T * 1.01)

    small = replace(rung, over_k=((128, 128, 128), (128, 128, 256)))
    monkeypatch.setattr(rungs, "is_hopper", lambda: True)
    monkeypatch.setattr(rungs, "run", lambda rung, shape: row(rung.name, [*shape], 2.0))
    monkeypatch.setattr(rungs.Rung, "instance", lambda self: multiply)
    monkeypatch.setattr(rungs, "launch", lambda config, lhs, rhs: reference.fp8_gemm_nt(*lhs, *rhs))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    monkeypatch.setattr(rungs.origin, "describe_origin", lambda: {"device": "NVIDIA H200"})
    of_gpu = rungs.errors_of
    monkeypatch.setattr(rungs, "errors_of", lambda rung, shape, _: of_gpu(rung, shape, torch.device("cpu")))
    path = root / ladder.RECORDS / "h200.jsonl"
    path.parent.mkdir(parents=True)
    rungs.climb(small, ["--out", str(path)])
    errors = ladder.read_errors(root)["05_k_loop"]["NVIDIA H200"]
    assert [*errors] == [128, 256]
    for unpromoted, promoted in errors.values():
        assert 4e-5 < unpromoted < 6e-5  # a hundredth, squared, over two
        assert 1e-6 < promoted < 2e-6
    assert len(ladder.read(root)) == len(rung.shapes)
    out = capsys.readouterr().out
    assert re.search(
        r"^05_k_loop +128x128x256 +error [45]\.\de-05, promoted 1\.\de-06$", out, flags=re.MULTILINE
    )


def test_a_run_stands_beside_what_is_on_record_of_the_rung_before(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rungs = importlib.import_module("cute_gemm.testing.rungs")
    shape = [4096, 4096, 128]
    record(
        root,
        row("02_tma", shape, 1.0),
        row("03_swizzle", shape, 2.0),
        row("03_swizzle, plain", shape, 3.0),
        row("03_swizzle", PRODUCT, 4.0),
        row("03_swizzle", shape, 5.0, device="NVIDIA H20"),
        row("04_wgmma", shape, 6.0),
        of_errors(128, 1.4e-6) | {"rung": "03_swizzle", "shape": shape},
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200")
    rung = replace(load("04_wgmma").RUNG, file=str(root / "examples" / "ladder" / "04_wgmma.py"))
    assert [(each["rung"], each["us"]) for each in rungs.recorded_before(rung)] == [
        ("03_swizzle, on record", 2.0)
    ]
    assert rungs.recorded_before(replace(rung, file=str(root / "examples" / "ladder" / "01_hello.py"))) == []
