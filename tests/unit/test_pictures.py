"""The pictures of documents are what their scripts draw, and legible on light and on dark pages."""

import importlib
import itertools
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
# Before all others: a DSL of 4.8.0 appends its own folder, which has a swizzle.py, too.
sys.path.insert(0, str(PICTURES))
draw, svg = importlib.import_module("draw"), importlib.import_module("svg")


def brightness(colour: str) -> float:
    """Relative luminance, as contrast is reckoned from."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", draw.NAMES)
def test_a_picture_is_what_its_script_draws(name: str) -> None:
    if name == "swizzle":
        # Drawn by a layout of the newest DSL.
        pytest.importorskip("cutlass.memory")
    text = importlib.import_module(name).draw()
    assert (PICTURES / f"{name}.svg").read_text() == text, "run docs/pictures/draw.py"


@pytest.mark.parametrize("name", draw.NAMES)
def test_a_picture_is_legible_on_light_and_on_dark(name: str) -> None:
    assert_legible((PICTURES / f"{name}.svg").read_text())


def assert_legible(text: str) -> None:
    picture = ElementTree.fromstring(text)
    _, _, width, height = map(float, picture.get("viewBox").split())
    assert set(re.findall(r"#\w+", text)) <= {svg.GREY, *svg.COLOURS}
    whole = [each for each in picture.iter() if each.get("width") == f"{width:g}"]
    assert whole == [picture], "it has a background"
    # No words reach beyond it, in a font of usual width.
    for each in picture.iter("{http://www.w3.org/2000/svg}text"):
        length = 0.56 * float(each.get("font-size")) * len(each.text)
        start = (
            float(each.get("x")) - {"start": 0, "middle": length / 2, "end": length}[each.get("text-anchor")]
        )
        assert start > -2, each.text
        assert start + length < width + 2, each.text
        assert 0 < float(each.get("y")) < height


@pytest.mark.parametrize("colour", [svg.GREY, *svg.COLOURS])
def test_tones_stand_out_from_both_pages(colour: str) -> None:
    own = brightness(colour)
    for page in ("#ffffff", "#0d1117"):
        darker, lighter = sorted((own, brightness(page)))
        assert (lighter + 0.05) / (darker + 0.05) > 3


def test_all_pictures_are_drawn_and_shown() -> None:
    drawn = {path.stem for path in PICTURES.glob("*.svg")}
    assert drawn - {"ladder", "error_over_k"} == set(draw.NAMES)
    documents = "".join(
        path.read_text() for path in (ROOT / "docs" / "how_it_works.md", ROOT / "examples" / "README.md")
    )
    assert {name for name in draw.NAMES if f"](pictures/{name}.svg)" not in documents} == set()
    assert {name for name in draw.NAMES if f"](../docs/pictures/{name}.svg)" not in documents} == set()


def test_what_is_out_of_date_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(draw, "HERE", tmp_path)
    monkeypatch.setattr(draw, "NAMES", ("ring",))
    assert draw.main(["--check"]) == 1
    assert "ring.svg is out of date" in capsys.readouterr().err
    assert draw.main([]) == 0
    assert draw.main(["--check"]) == 0


MADE_UP = {128 << i: (1.4e-6 * 1.3**i, 1.4e-6) for i in range(10)}


@pytest.mark.parametrize(
    "errors",
    [
        {"NVIDIA H200": MADE_UP},
        {"NVIDIA H200": MADE_UP, "NVIDIA H100 80GB HBM3": {128: (2e-7, 1e-6), 65536: (0.9, 1e-6)}},
        {"NVIDIA H200": {7168: (1e-5, 1e-6)}},
        {"NVIDIA H200": {7168: (1e-6, 1e-6)}},
    ],
)
def test_errors_over_k_are_drawn_legibly_whatever_they_are(errors: dict[str, dict[int, tuple]]) -> None:
    text = importlib.import_module("error_over_k").draw(errors)
    assert_legible(text)
    assert {str(k) for of_card in errors.values() for k in of_card} <= set(re.findall(r">(\d+)<", text))
    # Without promotion it is orange, with it blue; each K is a square. They lie between the axes.
    for series, colour in enumerate((svg.ORANGE, svg.BLUE)):
        squares = re.findall(f'<rect x="(.*?)" y="(.*?)" width="5" .*stroke="{colour}"', text)
        values = [of_card[k][series] for of_card in errors.values() for k in sorted(of_card)]
        heights = [float(y) for _, y in squares]
        # The larger, the higher.
        for (a, y), (b, other) in itertools.combinations(zip(values, heights, strict=True), 2):
            assert (a > b) == (y < other)
            assert (a < b) == (y > other)
        assert all(30 < float(y) < 300 and 70 < float(x) < 520 for x, y in squares)
    # What the lines are stands beside their ends, one above the other.
    ends = [float(y) for y in re.findall(r'y="(.*?)" font-size="12" text-anchor="start" fill="#[23d]', text)]
    assert len(ends) == 2
    assert abs(ends[0] - ends[1]) >= 14


def test_the_map_of_rung_4_is_the_one_that_is_drawn() -> None:
    """What its docstring says, in words, of every element of a fragment."""
    for (row, column), (thread, register) in importlib.import_module("fragment").holders().items():
        warp, lane = divmod(thread, 32)
        pair = register // 2
        assert row == 16 * warp + lane // 4 + 8 * (pair % 2)
        assert column == 2 * (4 * (pair // 2) + lane % 4) + register % 2


def test_the_order_of_rung_3_is_the_one_that_is_drawn() -> None:
    pytest.importorskip("cutlass.memory")
    places = importlib.import_module("swizzle").places()
    assert places == {(row, unit): unit ^ row % 8 for row in range(8) for unit in range(8)}
    table = (ROOT / "examples" / "ladder" / "03_swizzle.py").read_text().replace("*", "")
    rows = re.findall(r"^\| (\d) ((?:\| \d ){8})\|$", table, flags=re.MULTILINE)
    assert len(rows) == 8
    for row, cells in rows:
        for place, unit in enumerate(map(int, re.findall(r"\d", cells))):
            assert places[int(row), unit] == place


def clocked_rows(k_blocks: int, length: int, copies: int, store: int) -> list[dict]:
    """Made up, of two tiles: the TMA warp is four k-blocks ahead, warpgroup 1 half a k-block behind."""
    half = length // 2
    of_all = {"device": "NVIDIA H100 80GB HBM3", "shape": [16384, 16384, 16384], "config": 36 * "x"}
    rows = []
    for tile in range(2):
        for group in range(2):
            at = 2000 + group * half + tile * (k_blocks * length + store)
            events = []
            for k in range(k_blocks):
                end = at + length
                events += [["wait", k, at, at + 20], ["multiply", k, at + 20, at + half]]
                events += [
                    ["promote", k, at + half, end - half // 2],
                    ["multiply", k, end - half // 2, end - 9],
                ]
                events += [["promote", k, end - 9, end]]
                at = end
            events += [
                ["take", None, at, at + 30],
                *([["store", None, at + 30, at + store]] if not tile else []),
            ]
            rows.append({"role": f"math warpgroup {group}", "tile": tile, "events": events} | of_all)
        events = []
        for k in range(k_blocks):
            number = tile * k_blocks + k
            got = 50 * number if number < 4 else 2000 + (number - 3) * length + half
            before = events[-1][-1] if events else rows[-3]["events"][-1][-1] if tile else 0
            events += [["wait", k, before, got], ["issue", k, got, got + copies]]
        events.append(["take", None, events[-1][-1], events[-1][-1] + 10])
        rows.append({"role": "TMA warp", "tile": tile, "events": events} | of_all)
    return rows


@pytest.mark.parametrize(("k_blocks", "cycles", "copies"), [(56, 1370, 40), (24, 700, 1), (200, 2900, 45)])
def test_roles_over_time_are_drawn_legibly_whatever_they_took(
    k_blocks: int, cycles: int, copies: int
) -> None:
    over_time = importlib.import_module("over_time")
    rows = clocked_rows(k_blocks, cycles, copies, cycles)
    text = over_time.drawn(rows)
    assert text == over_time.drawn(rows[::-1])
    assert_legible(text)
    # Within the axes, in each of nine lanes side by side.
    bars: dict[float, list[tuple[float, float, str]]] = {}
    for x, y, width, colour in re.findall(
        rf'<rect x="(.*?)" y="(.*?)" width="(.*?)" height="{over_time.BAR}" .*stroke="(.*?)"', text
    ):
        bars.setdefault(float(y), []).append((float(x), float(width), colour))
    assert len(bars) == 9
    for lane in bars.values():
        assert lane == sorted(lane)
        for (x, width, _), (other, _, _) in itertools.pairwise(lane):
            assert x >= over_time.LEFT
            assert x + width <= other + 0.7
        assert lane[-1][0] + lane[-1][1] <= over_time.LEFT + over_time.WIDTH + 0.7
    colours = [{colour for _, _, colour in bars[y]} for y in sorted(bars)]
    math = {svg.GREY, svg.ORANGE, svg.GREEN}
    assert colours == 2 * [{svg.GREY, svg.BLUE}, math, math] + [
        {svg.GREY, svg.BLUE},
        math | {svg.PINK},
        math | {svg.PINK},
    ]
    # The next tile's first k-block is loaded before any warpgroup stores.
    *_, loads, stores, _ = (bars[y] for y in sorted(bars))
    first_load = min(x for x, _, colour in loads if colour == svg.BLUE)
    assert first_load < min(x for x, _, colour in stores if colour == svg.PINK)
    assert text.count(">tile 1, k 0<") == 3


def test_no_number_of_a_k_block_lies_beyond_the_picture() -> None:
    for store in range(100, 8000, 50):
        assert_legible(importlib.import_module("over_time").drawn(clocked_rows(24, 1000, 40, store)))
