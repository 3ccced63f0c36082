"""What counts as a source of a kernel: all that its author may change, wherever it is, and nothing else."""

import dataclasses
import enum
import functools
import importlib
import linecache
import logging
import os
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cute_gemm.plan.config import KernelConfig
from cute_gemm.runtime import sources

KERNEL = """
import math
import epilogue
from deep.scaling import FACTOR, Base
from . import near


class Kernel(Base):
    width = 4

    def __init__(self, part):
        self.part = part

    def run(self, x):
        return epilogue.store(math.sqrt(x)) * FACTOR + near.offset(x)

    @property
    def size(self):
        from deep import late

        return late.SIZE


def build():
    return Kernel(epilogue.Part(2))
"""
EPILOGUE = """
import helper


def store(x):
    return helper.twice(x)


class Part:
    def __init__(self, n):
        self.n = n

    def use(self):
        return self.n
"""
FILES = {
    "mine/__init__.py": "",
    "mine/kernel.py": KERNEL,
    "mine/near.py": "def offset(x):\n    return x + 1\n",
    "epilogue.py": EPILOGUE,
    "helper.py": "def twice(x):\n    return 2 * x\n",
    "deep/__init__.py": "",
    "deep/scaling.py": "FACTOR = 3\n\n\nclass Base:\n    def scale(self):\n        return FACTOR\n",
    "deep/late.py": "SIZE = 5\n",
    "unused.py": "def other():\n    return 1\n",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of a user's, which can be imported."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    forget()


def forget() -> None:
    """As a new process: what was imported of the user's is imported anew."""
    for name in [*sys.modules]:
        if name.partition(".")[0] in {"mine", "epilogue", "helper", "deep", "unused"}:
            del sys.modules[name]
    importlib.invalidate_caches()
    linecache.clearcache()


def digest(of: str = "build") -> str:
    forget()
    module = importlib.import_module("mine.kernel")
    return sources.read(getattr(module, of)()).digest


EDITS = {
    "the kernel": ("mine/kernel.py", "width = 4", "width = 5"),
    "an epilogue in a second file": ("epilogue.py", "helper.twice(x)", "helper.twice(x) + 1"),
    "a class in a second file": ("epilogue.py", "return self.n", "return self.n + 1"),
    "a helper two imports away": ("helper.py", "2 * x", "3 * x"),
    "a base class": ("deep/scaling.py", "return FACTOR", "return 2"),
    "a constant": ("deep/scaling.py", "FACTOR = 3", "FACTOR = 4"),
    "a relative import": ("mine/near.py", "x + 1", "x + 2"),
    "an import in a method's body": ("deep/late.py", "SIZE = 5", "SIZE = 6"),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_anywhere_counts(folder: Path, edit: str) -> None:
    name, old, new = EDITS[edit]
    before = digest()
    assert digest() == before
    text = (folder / name).read_text()
    assert old in text
    (folder / name).write_text(text.replace(old, new))
    assert digest() != before


def test_what_is_not_referred_to_does_not_count(folder: Path) -> None:
    before = digest()
    (folder / "unused.py").write_text("def other():\n    return 2\n")
    assert digest() == before


@pytest.mark.thorough
def test_neither_the_place_nor_the_process_counts(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Two processes, of other hash seeds, one of which finds the same files elsewhere."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name, text in FILES.items():
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / name).write_text(text)
    program = "from mine.kernel import build; from cute_gemm.runtime import sources; "
    program += "print(sources.read(build(), {'c', 'b', 'a'}, frozenset('xyz')).digest)"
    seen = set()
    for place, seed in ((folder, "1"), (folder, "2"), (elsewhere, "3")):
        own = {"PYTHONPATH": f"{place}{os.pathsep}{os.environ['PYTHONPATH']}", "PYTHONHASHSEED": seed}
        ran = subprocess.run(
            [sys.executable, "-c", program], env=os.environ | own, capture_output=True, text=True, check=True
        )
        seen.add(ran.stdout)
    assert len(seen) == 1


def test_a_script_and_a_module_of_the_same_text_are_the_same(folder: Path) -> None:
    """What is `__main__` in one process, is `__mp_main__` or a module in the next."""
    text = "class Kernel:\n    def run(self):\n        return 1\n"
    (folder / "unused.py").write_text(text)
    found = set()
    for name in ("__main__", "unused"):
        module = types.ModuleType(name)
        module.__file__ = str(folder / "unused.py")
        exec(compile(text, module.__file__, "exec"), module.__dict__)
        found.add(sources.read(module.Kernel()).digest)
    assert len(found) == 1


def cell(text: str, name: str) -> dict[str, Any]:
    """What a notebook makes of a cell: no file, but source for whoever asks linecache."""
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), scope)
    return scope


CELL = """
SCALE = 2
def value(x):
    return x * SCALE
class Part:
    def apply(self, x):
        return value(x)
"""


ATTRIBUTE = """
import torch

WEIGHTS = torch.zeros(3)

def gemm():
    return WEIGHTS

def kernel(x):
    return x.gemm()
"""


def test_an_attribute_that_is_called_like_a_global_is_none() -> None:
    scope = cell(ATTRIBUTE, "<cell of an attribute>")
    assert "torch.Tensor" in sources.read(scope["gemm"]).objection()
    assert not sources.read(scope["kernel"]).objection()


SAME_NAMES = """
def made(twice):
    if twice:
        def function(x):
            return 2 * x
    else:
        def function(x):
            return 3 * x
    return function


def first(): return lambda x: 2 * x
def second(): return lambda x: 3 * x
both = (lambda x: 2 * x), (lambda x: 3 * x)
"""


@pytest.mark.parametrize("has_file", [True, False])
def test_functions_of_one_name_are_told_apart(folder: Path, has_file: bool) -> None:
    if has_file:
        (folder / "names.py").write_text(SAME_NAMES)
        module: Any = importlib.import_module("names")
    else:
        module = types.SimpleNamespace()
        name = "<cell of names>"
        linecache.cache[name] = (len(SAME_NAMES), None, SAME_NAMES.splitlines(keepends=True), name)
        exec(compile(SAME_NAMES, name, "exec"), module.__dict__)
    pairs = (module.made(True), module.made(False)), module.both, (module.first(), module.second())
    for one, other in pairs:
        digests = {sources.read(each).digest for each in (one, other, one)}
        assert len(digests) == 2
        assert not sources.read(one).objection()
    assert sources.read(module.made(True)).digest == sources.read(module.made(True)).digest


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        ("", "", False),
        ("x * SCALE", "x + SCALE", True),
        ("SCALE = 2", "SCALE = 3", True),
        ("return value(x)", "return value(x) + 1", True),
        ("SCALE = 2", "SCALE = 2\nOTHER = 7", False),
    ],
)
def test_a_cell_of_a_notebook(old: str, new: str, differs: bool) -> None:
    first = sources.read(cell(CELL, "<ipython-input-1-a>")["Part"]())
    second = sources.read(cell(CELL.replace(old, new), "<ipython-input-2-b>")["Part"]())
    assert (first.digest != second.digest) == differs
    assert first.objection() == second.objection() == ""
    assert not first.files


def test_code_without_any_source_counts_by_its_instructions() -> None:
    found = []
    for text in ("def f(x): return x", "def f(x): return -x", "def f(x): return x"):
        scope: dict[str, Any] = {}
        exec(compile(text, "<nowhere>", "exec"), scope)
        found.append(sources.read(scope["f"]).digest)
    assert found[0] != found[1]
    assert found[0] == found[2]


class Colour(enum.Enum):
    RED = 1
    BLUE = 2


@dataclasses.dataclass(frozen=True)
class Data:
    n: int
    more: tuple[Any, ...] = ()


class Slotted:
    __slots__ = ("__secret", "n")

    def __init__(self, n: int, secret: int = 0) -> None:
        self.n = n
        self.__secret = secret


class Holder:
    def __init__(self, **attributes: Any) -> None:
        vars(self).update(attributes)

    def method(self) -> int:
        return 1


def closure(n: int) -> Callable[[], int]:
    return lambda: n


def defaults(n: int) -> Callable[..., int]:
    def function(a: int = n, *, b: int = n) -> int:
        return a + b

    return function


def twice(x: int) -> int:
    return 2 * x


def thrice(x: int) -> int:
    return 3 * x


def decorated(function: Callable[..., Any], n: int) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments) + n

    return wrapper


VALUES: list[Callable[[], Any]] = [
    lambda: None,
    lambda: 1,
    lambda: True,
    lambda: 1.0,
    lambda: "1",
    lambda: b"1",
    lambda: (1,),
    lambda: [1],
    lambda: {1},
    lambda: frozenset({1}),
    lambda: {1: 2},
    lambda: {1: 3},
    lambda: Colour.RED,
    lambda: Colour.BLUE,
    lambda: Data(1),
    lambda: Data(2),
    lambda: Data(1, (Data(2),)),
    lambda: Slotted(1),
    lambda: Slotted(2),
    lambda: Slotted(1, 1),
    lambda: Holder(),
    lambda: Holder(a=1),
    lambda: Holder(a=Holder()),
    lambda: Holder(a=1).method,
    lambda: Holder,
    lambda: Data,
    lambda: int,
    lambda: len,
    lambda: str.join,
    lambda: closure(1),
    lambda: closure(2),
    lambda: defaults(1),
    lambda: defaults(2),
    lambda: twice,
    lambda: thrice,
    lambda: decorated(twice, 1),
    lambda: decorated(twice, 2),
    lambda: decorated(thrice, 1),
    lambda: functools.partial(twice, 1),
    lambda: functools.partial(twice, 2),
    lambda: functools.cache(twice),
    lambda: functools.cache(thrice),
    lambda: types.SimpleNamespace(a=Data(1)),
    lambda: types.SimpleNamespace(a=Data(2)),
    lambda: Path("a"),
    lambda: Path("b"),
    lambda: KernelConfig(64, 64, 4),
    lambda: KernelConfig(64, 64, 5),
]


def test_different_values_have_different_digests_and_equal_ones_the_same() -> None:
    found = [sources.read(make()) for make in VALUES]
    assert [each.digest for each in found] == [sources.read(make()).digest for make in VALUES]
    assert len({each.digest for each in found}) == len(VALUES)
    assert not any(each.unknown for each in found)


def test_equal_tuples_may_be_one_object_or_two() -> None:
    """Which it is depends on whether Python compiled the code that makes them, or found it compiled."""
    one, two = ((1, "a"), tuple([1, "a"]))
    assert one is not two
    assert sources.read(Holder(a=one, b=one)).digest == sources.read(Holder(a=one, b=two)).digest


def test_cycles_end() -> None:
    first, second = Holder(), Holder()
    first.other, second.other = second, first  # type: ignore[attr-defined]
    assert sources.read(first).digest == sources.read(second).digest


def test_locks_and_loggers_are_no_sources() -> None:
    found = [sources.read(Holder(lock=threading.Lock(), log=logging.getLogger(name))) for name in "ab"]
    assert not found[0].unknown
    assert sources.read(Holder(lock=threading.Lock(), log=logging.getLogger("a"))).digest == found[0].digest


def test_a_value_that_only_its_address_tells_is_not_for_the_disk() -> None:
    torch = importlib.import_module("torch")
    # Two tensors look alike where their text is cut short.
    found = [sources.read(Holder(x=torch.zeros(3))) for _ in range(2)]
    assert found[0].digest != found[1].digest
    assert "torch.Tensor" in found[0].objection()


def test_types_of_torch_have_names() -> None:
    torch = importlib.import_module("torch")
    found = [sources.read(Holder(x=dtype)) for dtype in (torch.bfloat16, torch.float32)]
    assert found[0].digest != found[1].digest
    assert not found[0].unknown


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("epilogue.py", FILES["epilogue.py"].replace("twice(x)", "twice(x) + 1")),
        ("epilogue.py", "# A line more.\n" + FILES["epilogue.py"]),
        ("helper.py", "def twice(x:\n"),
        ("helper.py", None),
    ],
    ids=["edited", "moved", "broken", "gone"],
)
@pytest.mark.parametrize("moment", ["before it was read", "after"])
def test_a_file_that_is_not_what_was_imported_is_seen(
    folder: Path, name: str, text: str | None, moment: str
) -> None:
    forget()
    kernel = importlib.import_module("mine.kernel").build()
    before = sources.read(kernel)
    assert before.objection() == ""
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    if moment == "after":
        assert str(folder / name) in before.objection()
    elif text is not None:
        assert str(folder / name) in sources.read(kernel).objection()


def test_a_constant_edited_after_the_import_is_what_it_was(folder: Path) -> None:
    """The value in memory is what is compiled, and what the digest has beside the new text."""
    forget()
    kernel = importlib.import_module("mine.kernel").build()
    (folder / "deep/scaling.py").write_text(FILES["deep/scaling.py"].replace("= 3", "= 4"))
    old = sources.read(kernel)
    forget()
    new = sources.read(importlib.import_module("mine.kernel").build())
    assert old.digest != new.digest


def test_a_constant_edited_after_it_was_read_is_seen(folder: Path) -> None:
    """No function differs then, but the text does that the digest is of."""
    forget()
    before = sources.read(importlib.import_module("mine.kernel").build())
    (folder / "deep/scaling.py").write_text(FILES["deep/scaling.py"].replace("= 3", "= 4"))
    assert "scaling.py changed since it was read" in before.objection()


@pytest.mark.parametrize("name", ["queue", "cuda"])
def test_a_users_module_may_have_the_name_of_a_known_one(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for number in (1, 2):
        text = f"def f():\n    return {number}\n"
        (tmp_path / f"{name}.py").write_text(text)
        module = types.ModuleType(name)
        module.__file__ = str(tmp_path / f"{name}.py")
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(text, module.__file__, "exec"), module.__dict__)
        found.append(sources.read(module.f).digest)
    assert found[0] != found[1]


@pytest.mark.parametrize(("metadata", "is_known"), [("", False), ("tvm_ffi-1.0.dist-info", True)])
def test_a_library_is_known_wherever_it_is_installed(
    tmp_path: Path, metadata: str, is_known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by ``pip install --target``: by metadata above it, not by the name of a folder."""
    (tmp_path / "packages/tvm_ffi").mkdir(parents=True)
    (tmp_path / metadata).mkdir(exist_ok=True)
    module = types.ModuleType("tvm_ffi.part")
    module.__file__ = str(tmp_path / "packages/tvm_ffi/part.py")
    Path(module.__file__).write_text(text := "def f():\n    return 1\n")
    monkeypatch.setitem(sys.modules, "tvm_ffi.part", module)
    exec(compile(text, module.__file__, "exec"), module.__dict__)
    assert (not sources.read(module.f).files) is is_known


def test_this_packages_own_parts_count_by_name() -> None:
    found = sources.read(KernelConfig(64, 64, 4), KernelConfig.name.fget)
    assert not found.files
