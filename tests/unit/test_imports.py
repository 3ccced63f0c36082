"""Imports point one way: which room of the package may know which, and what none of them may know."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import cute_gemm

ROOT = Path(cute_gemm.__file__).parent

ROOMS: dict[str, set[str]] = {
    # From the bottom: what a room stands on.
    "interrupts": set(),
    "storage": set(),
    "settings": set(),
    "plan": {"storage"},
    "dsl": set(),
    "schedulers": {"dsl", "plan"},
    "kernels": {"dsl", "plan", "schedulers"},
    "contract": {"column_groups", "plan"},
    "row_groups": {"plan"},
    "column_groups": {"plan"},
    "runtime": {"contract", "kernels", "plan", "settings", "storage"},
    "quantize": {"column_groups", "contract", "plan", "row_groups", "runtime"},
    "reference": {"contract", "plan", "quantize"},
    "reference_k_grouped": {"column_groups", "contract", "plan"},
    "epilogue": {"contract", "plan", "runtime"},
    "ops": {"contract", "epilogue", "plan", "reference", "reference_k_grouped", "runtime", "settings"},
    "moe": {"contract", "epilogue", "ops", "plan", "quantize", "runtime"},
    "nn": {"column_groups", "contract", "epilogue", "ops", "plan", "quantize"},
    "packing": {"runtime"},
    "warming": {"", "epilogue", "plan", "quantize", "runtime", "settings", "storage"},
    # The package as users import it.
    "": {"epilogue", "interrupts", "moe", "nn", "ops", "packing", "quantize", "settings", "warming"},
    # Tests run parts of kernels on the host.
    "testing": {
        "column_groups",
        "kernels",
        "measure",
        "plan",
        "quantize",
        "reference",
        "runtime",
        "schedulers",
        "settings",
        "storage",
    },
    # It stands on the package as users import it, and nothing stands on it.
    "compat": {"", "contract", "epilogue", "measure", "plan", "quantize", "runtime"},
    "measure": {"", "plan", "quantize", "reference", "runtime", "storage", "testing"},
    "bench": {"measure", "plan", "runtime", "testing"},
    "tune": {"measure", "plan", "runtime", "storage", "testing"},
    "cli": {
        *("", "interrupts", "measure", "plan", "quantize", "reference", "runtime", "settings", "storage"),
        *("testing", "warming"),
    },
    "__main__": {"cli"},
}

COMMANDS = {"cli/bench.py": "bench", "cli/tune.py": "tune"}
"""The files that register a command of another room, and import that when it is asked for."""

TIMERS = {"measure/clocks.py", "measure/cold.py"}
"""What `testing` gives users as its own. They know nothing of the package but each other and statistics."""

RECORDS = {"measure/origin.py", "measure/records.py"}
"""What rungs of the ladder, and tutorials, write their rows with, beside timers."""

FOREIGN = {
    "plan": {"torch", "cutlass", "cuda", "tvm_ffi"},
    "dsl": {"torch"},
    "schedulers": {"torch"},
    "kernels": {"torch"},
    "contract": {"cutlass", "cuda", "tvm_ffi"},
    "ops": {"cutlass", "cuda", "tvm_ffi"},
}
"""Distributions that a room must not know."""


class Import(NamedTuple):
    file: str
    """Of the package, such as ``"plan/config.py"``."""
    target: tuple[str, ...]
    """Parts of what is imported: ``("cute_gemm", "plan", "limits")``."""
    is_lazy: bool
    """Whether it happens in a function."""

    @property
    def room(self) -> str:
        return room_of(self.file)


def room_of(file: str) -> str:
    room = file.split("/")[0].removesuffix(".py")
    return "" if room == "__init__" else room


def imports_of(file: str, text: str) -> Iterator[Import]:
    package = ("cute_gemm", *Path(file).parts[:-1])

    def visit(node: ast.AST, is_lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(file, tuple(each.name.split(".")), is_lazy) for each in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = package[: len(package) - child.level + 1] if child.level else ()
                base += tuple(child.module.split(".")) if child.module else ()
                yield from (Import(file, (*base, each.name), is_lazy) for each in child.names)
            else:
                is_function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))
                yield from visit(child, is_lazy or is_function)

    yield from visit(ast.parse(text), False)


def room_imported(target: tuple[str, ...]) -> str:
    """The room of a target inside the package; names of the package itself, such as operations, are in ""."""
    return target[1] if len(target) > 1 and target[1] in ROOMS else ""


FILES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(ROOT.rglob("*.py"))}
IMPORTS = [found for file, text in FILES.items() for found in imports_of(file, text)]
INSIDE = [found for found in IMPORTS if found.target[0] == "cute_gemm"]


def objections(inside: list[Import]) -> list[str]:
    """What may not be imported, a line each."""
    found = []
    for each in inside:
        room = room_imported(each.target)
        is_command = COMMANDS.get(each.file) == room and each.is_lazy
        if room != each.room and room not in ROOMS[each.room] and not is_command:
            when = "in a function" if each.is_lazy else "when it is imported"
            found.append(f"{each.file} imports {'.'.join(each.target)} {when}")
    return found


def test_every_room_has_its_rules() -> None:
    assert {room_of(file) for file in FILES} == ROOMS.keys()


def test_imports_point_one_way() -> None:
    assert objections(INSIDE) == []


@pytest.mark.parametrize("room", FOREIGN)
def test_rooms_know_no_more_than_they_need(room: str) -> None:
    known = {(each.file, each.target[0]) for each in IMPORTS if each.room == room}
    assert [each for each in sorted(known) if each[1] in FOREIGN[room]] == []


def modules_of_measure(files: set[str]) -> set[str]:
    """The files of `measure` that these import."""
    targets = {each.target[:3] for each in INSIDE if each.file in files and each.target[1:2] == ("measure",)}
    return {f"measure/{target[2]}.py" for target in targets}


def test_testing_takes_nothing_but_timers_and_records_from_measure() -> None:
    files = {file for file in FILES if room_of(file) == "testing"}
    assert modules_of_measure(files - {"testing/rungs.py", "testing/programs.py"}) <= TIMERS
    assert modules_of_measure(files) <= TIMERS | RECORDS
    assert modules_of_measure(TIMERS) <= {*TIMERS, "measure/statistics.py"}


def test_what_testing_takes_from_measure_takes_nothing_of_testing() -> None:
    known = TIMERS | RECORDS
    while not known >= (more := known | modules_of_measure(known)):
        known = more
    assert [each for each in INSIDE if each.file in known and room_imported(each.target) == "testing"] == []


@pytest.mark.parametrize(
    ("file", "line", "is_fine"),
    [
        ("bench/run.py", "from ..tune import tasks", False),
        ("tune/tasks.py", "def f():\n    from ..bench.results import by_kind", False),
        ("measure/work.py", "from ..bench.results import Row", False),
        ("measure/work.py", "from cute_gemm import tune", False),
        ("cli/demo.py", "def f():\n    import cute_gemm.bench.command", False),
        ("cli/bench.py", "from cute_gemm.bench import command", False),
        ("cli/bench.py", "def f():\n    from cute_gemm.tune import command", False),
        ("cli/bench.py", "def f():\n    from cute_gemm.bench import command", True),
        ("kernels/mainloop.py", "from ..runtime import compiler", False),
        ("kernels/mainloop.py", "from ..schedulers.base import WorkTile", True),
        ("schedulers/base.py", "from ..kernels import hopper", False),
        ("plan/config.py", "from .. import settings", False),
        ("plan/layouts/base.py", "from ...runtime import builder", False),
        ("plan/layouts/base.py", "from ..limits import ceil_div", True),
        ("runtime/launcher.py", "from ..ops import dense", False),
        ("__init__.py", "from .runtime import launcher", False),
        ("measure/cases.py", "import cute_gemm", True),
    ],
)
def test_wrong_directions_are_seen(file: str, line: str, is_fine: bool) -> None:
    assert (objections(list(imports_of(file, line))) == []) == is_fine


CALLS = """
import sys
import torch
import cute_gemm as c
from cute_gemm import epilogue, moe
before = set(sys.modules)
a, b = c.quantize_1x128(torch.randn(256, 256)), c.quantize_128x128(torch.randn(2, 128, 256))
rows = c.quantize_1x128(torch.randn(2, 16, 256))
one = tuple(each[0] for each in b)
sizes = torch.tensor([100, 256], dtype=torch.int32)
c.fp8_gemm_nt(a, one)
c.fp8_gemm_nt(a, one, epilogue=epilogue.swiglu() | epilogue.quantize_1x128())
c.m_grouped_fp8_gemm_nt_offsets(a, b, sizes)
c.m_grouped_fp8_gemm_nt_contiguous(a, b, torch.arange(256, dtype=torch.int32) // 128)
c.m_grouped_fp8_gemm_nt_masked(rows, b, torch.tensor([3, 4], dtype=torch.int32), 4)
c.swiglu_quantize_1x128(torch.randn(4, 512))
c.rms_norm_quantize_1x128(torch.randn(4, 256), torch.ones(256))
c.quantize_both_ways(torch.randn(128, 256))
moe.route(torch.tensor([[0, 1]] * 4), 2)
print(*sorted(set(sys.modules) - before))
"""


def test_calls_on_the_cpu_import_nothing() -> None:
    """What a thread is importing when its process forks can never be imported in the child: it would hang.

    On a GPU the first call imports what compiles kernels; a child cannot use the GPU of its parent anyway.
    """
    done = subprocess.run([sys.executable, "-c", CALLS], check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


IMPORTED_LATER = (
    *("cuda", "cutlass", "platformdirs", "rich", "safetensors", "tvm_ffi"),
    *("cute_gemm.kernels", "cute_gemm.nn", "cute_gemm.plan.cost_model", "cute_gemm.plan.tuned"),
    *("cute_gemm.runtime.inspection", "cute_gemm.runtime.pack_manifest", "cute_gemm.warming.needs"),
)
"""What takes milliseconds, or seconds, and is of use to some processes alone."""


def test_what_few_need_is_not_imported_with_the_package() -> None:
    program = (
        "import sys, torch; before = set(sys.modules); import cute_gemm; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    imported = set(done.stdout.split())
    assert imported & set(IMPORTED_LATER) == set()
    assert "cute_gemm.runtime.launcher" in imported


def test_what_is_imported_when_it_is_named_is_there() -> None:
    program = (
        "import cute_gemm; assert 'nn' in dir(cute_gemm); cute_gemm.nn.FP8Linear; "
        "names = {}; exec('from cute_gemm import *', names); assert names['nn'] is cute_gemm.nn; "
        "assert not hasattr(cute_gemm, 'no_such_name')"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
