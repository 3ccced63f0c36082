"""Loads a few modules of a package that is not installed, and stubs in place of their neighbours.

A stub has every name that is asked of it: a class, which has every name again, and which returns a function
that it is called with, as a decorator that does nothing. What is to be more than that is given.
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
    def __init__(self, name: str, modules: set[str]) -> None:
        super().__init__(name)
        self._modules = modules

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        module = f"{self.__name__}.{name}"
        made = importlib.import_module(module) if module in self._modules else _stub(name)
        setattr(self, name, made)
        return made


class Neighbours(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds one package: its modules that are real, as files of a checkout, and all others as stubs.

    Args:
        root: the folder of the package.
        real: modules to be loaded, without the package's name: `utils.deep_gemm`. One that the checkout has
            not, as another release has it elsewhere, is a stub.
        given: names of stubs, by module.
    """

    def __init__(self, root: Path, real: set[str], given: dict[str, dict[str, Any]]) -> None:
        self.root, self.given = root, given
        self.files = {module: file for module in real if (file := self._file(module)).is_file()}
        self.modules = {f"{root.name}.{module}" for module in {*self.files, *given}}
        sys.meta_path.insert(0, self)

    def _file(self, module: str) -> Path:
        path = self.root.joinpath(*module.split("."))
        return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        package, _, module = fullname.partition(".")
        if package != self.root.name:
            return None
        if module in self.files:
            return importlib.util.spec_from_file_location(fullname, self.files[module])
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _StubModule(spec.name, self.modules)

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
