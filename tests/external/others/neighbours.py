"""Loads a few modules of a package that is not installed, and stubs in place of their neighbours.

A stub has every name that is asked of it: a class, which has every name again, and which, called with a function,
returns it, as a decorator that does nothing. What is to be more than that is given.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any


class _Anything(type):
    """The class of stubs; a class derived of one is an ordinary class."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _stub(name)
        setattr(cls, name, made)
        return made

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if "is_stub" not in vars(cls):
            return super().__call__(*args, **kwargs)
        return args[0] if len(args) == 1 and isinstance(args[0], FunctionType) else _stub(f"{cls.__name__}()")


def _stub(name: str) -> _Anything:
    return _Anything(name, (), {"is_stub": True})


class _StubModule(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        made = _stub(name)
        setattr(self, name, made)
        return made


class Neighbours(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one package: its modules that are real, as files of a checkout, and all others as stubs.

    Args:
        root: the folder of the package.
        real: modules to be loaded, without the package's name: `utils.deep_gemm`.
        given: names of stubs, by module.
    """

    def __init__(self, root: Path, real: set[str], given: dict[str, dict[str, Any]]) -> None:
        self.root, self.real, self.given = root, real, given
        sys.meta_path.insert(0, self)

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        package, _, module = fullname.partition(".")
        if package != self.root.name:
            return None
        if module in self.real:
            file = self.root.joinpath(*module.split("."))
            if file.is_dir():
                init = file / "__init__.py"
                return importlib.util.spec_from_file_location(
                    fullname, init, submodule_search_locations=[str(file)]
                )
            return importlib.util.spec_from_file_location(fullname, file.with_suffix(".py"))
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StubModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        vars(module).update(self.given.get(module.__name__.partition(".")[2], {}))


def stub_progress() -> None:
    """A `tqdm` that shows nothing, where there is none."""
    try:
        importlib.import_module("tqdm")
    except ImportError:
        module = ModuleType("tqdm")
        module.tqdm = _NoProgress  # type: ignore[attr-defined]
        module.__spec__ = importlib.machinery.ModuleSpec("tqdm", None)
        sys.modules["tqdm"] = module


class _NoProgress:
    def __new__(cls, iterable: Any = (), **kwargs: Any) -> Any:
        return iterable
