"""What a kernel is made of, wherever it is defined: a digest for the cache's key, and whether it still holds.

:func:`read` walks from an object, such as the function that builds a kernel, to all that it refers to: values
in closures, attributes and defaults, classes with their bases, the globals that functions name, the modules
these come from. Three kinds of code are told apart, by where it is:

- code of the standard library, torch, numpy, CUDA's bindings, TVM FFI and the DSL counts by name: the key has
  the DSL's version beside it, and the rest does not reach what is compiled;
- this package's own parts of kernels count by name, too: their files are in the key as a whole;
- everything else counts in full: the file that it is in, or, where there is none (a notebook's cell, the
  REPL, ``exec``), the source that :mod:`linecache` has, as that is what the DSL reads.

The digest depends on no address, path, hash seed, or order of imports, so processes agree on it. Two things
make an object unfit for the disk (:meth:`Sources.objection`): a value of which nothing can be said but its
address, and a file that is no longer what this process imported, because the DSL reads sources anew.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import hashlib
import inspect
import itertools
import linecache
import os
import re
import sys
import sysconfig
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
OWN_PARTS = (
    *("kernels", "schedulers", "dsl", "plan"),
    *(
        f"runtime/{name}.py"
        for name in ("builder", "compiler", "cubins", "elf", "host_level", "linker", "operand_reuse")
    ),
)
"""What of this package shapes kernels: folders and files, each a part of every key."""

_KNOWN = frozenset({"torch", "numpy", "cuda", "tvm_ffi", "cutlass"})
_STDLIB = tuple({sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib")})
_unknown_values = itertools.count()
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_LITERALS = (type(None), bool, int, float, complex, str, bytes, type(...), type(NotImplemented))
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE
_BUILTINS = (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
# Of a class's attributes: what says where it was defined, or repeats what is walked anyway.
_PASSED_OVER = frozenset(
    {
        *("__module__", "__doc__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__"),
        *("__dataclass_params__", "__match_args__", "__abstractmethods__", "_abc_impl", "__hash__"),
        *("__annotate__", "__annotate_func__", "__annotations_cache__", "__parameters__"),
    }
)


@dataclasses.dataclass(frozen=True)
class Sources:
    """What an object is made of.

    Args:
        digest: of all of it; equal in two processes where all that was found is.
        files: SHA-256 of each file that counts, as it was read.
        code: of the functions that were found in files.
        unknown: values that cannot be told apart between processes.
    """

    digest: str
    files: dict[str, str]
    code: tuple[tuple[types.CodeType, str], ...]
    unknown: tuple[str, ...]

    def objection(self) -> str:
        """Why an object compiled from these must not be kept for other processes; empty if it may be."""
        if self.unknown:
            return f"{self.unknown[0]} has no value that another process could compare"
        fresh: dict[str, list[types.CodeType]] = {}
        for path, digest in self.files.items():
            try:
                content = Path(path).read_bytes()
                fresh[path] = list(_all_code(content, path))
            except (OSError, SyntaxError, ValueError):
                return f"{path} cannot be read any more"
            if _digest(content) != digest:
                return f"{path} changed since it was read"
        for code, path in self.code:
            if code not in fresh[path]:
                return f"{path} is not what this process imported: {code.co_name} differs"
        return ""


def read(*roots: object) -> Sources:
    """What these objects are made of, now. Runs none of their code but the imports in functions' bodies."""
    walk = _Walk()
    walk.digest.update("\n".join(map(walk.refer, roots)).encode())
    walk.finish()
    unknown = tuple(dict.fromkeys(walk.unknown))
    return Sources(walk.digest.hexdigest(), walk.files, tuple(walk.code), unknown)


def is_of_user(kind: type) -> bool:
    """Whether a class is neither a part of this package's kernels nor of a known library."""
    return not _is_known(kind)


def own_digests() -> list[str]:
    """Of each of :data:`OWN_PARTS`, as it was when first asked for."""
    return [_first_digest(PACKAGE / part) for part in OWN_PARTS]


def own_parts_changed() -> bool:
    """Whether they are no longer as they were."""
    try:
        return [_tree_digest(PACKAGE / part) for part in OWN_PARTS] != own_digests()
    except OSError:
        return True


def _tree_digest(path: Path) -> str:
    """Of a file, or of all Python files in a folder, as they are on disk now."""
    digest = hashlib.sha256()
    for file in _python_files(path) if path.is_dir() else [str(path)]:
        with open(file, "rb", buffering=0) as opened:
            content = opened.read()
        digest.update(f"{os.path.basename(file)} {len(content)}\n".encode() + content)
    return digest.hexdigest()


def _python_files(folder: Path) -> list[str]:
    """All below a folder, sorted by the names on their way. As :meth:`Path.rglob` in a third of its time."""
    found = [
        os.path.join(place, name)
        for place, _, names in os.walk(folder)
        for name in names
        if name.endswith(".py")
    ]
    return sorted(found, key=lambda path: path.split(os.sep))


_first_digest = functools.cache(_tree_digest)


class _Walk:
    """Objects are numbered as they are found and described in that order, so that cycles end."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.files: dict[str, str] = {}
        self.code: list[tuple[types.CodeType, str]] = []
        self.unknown: list[str] = []
        self._texts: dict[str, list[types.CodeType]] = {}
        self._numbers: dict[Any, int] = {}
        # Keeps what was found alive, so that no address comes to stand for another object.
        self._found: list[tuple[object, Callable[[], Iterable[str]]]] = []

    def finish(self) -> None:
        """Describes all that was referred to, and what that refers to."""
        at = 0
        while at < len(self._found):
            _, describe = self._found[at]
            self.digest.update(f"\n#{at}".encode())
            for part in describe():
                self.digest.update(f"\0{part}".encode("utf-8", "surrogatepass"))
            at += 1

    def refer(self, value: object) -> str:
        """Text that stands for a value: itself, or the number of its description."""
        if type(value) in _LITERALS:
            return f"{type(value).__name__} {value!r}"
        # By value: whether equal tuples are one object depends on where their code was loaded from.
        if type(value) is tuple:
            return f"({', '.join(map(self.refer, value))})"
        return self._number(id(value), value, lambda: self._describe(value))

    def _number(self, key: Any, value: object, describe: Callable[[], Iterable[str]]) -> str:
        if key not in self._numbers:
            self._numbers[key] = len(self._found)
            self._found.append((value, describe))
        return f"#{self._numbers[key]}"

    def _describe(self, value: Any) -> Iterable[str]:
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.ModuleType):
            return self._module(value, frozenset())
        if isinstance(value, types.MethodType):
            return ["method", self.refer(value.__func__), self.refer(value.__self__)]
        if isinstance(value, types.CodeType):
            return self._bare_code(value)
        if isinstance(value, property):
            return ["property", *map(self.refer, (value.fget, value.fset, value.fdel))]
        if isinstance(value, (staticmethod, classmethod)):
            return [type(value).__name__, self.refer(value.__func__)]
        if isinstance(value, functools.cached_property):
            return ["cached_property", self.refer(value.func)]
        if isinstance(value, functools.partial):
            return ["partial", *map(self.refer, (value.func, value.args, value.keywords))]
        if isinstance(
            value, (types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
        ):
            return ["builtin", str(getattr(value, "__module__", "")), value.__qualname__]
        if isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
            return ["descriptor", value.__qualname__]
        if isinstance(value, enum.Enum):
            return ["enum", self.refer(type(value)), value.name, self.refer(value.value)]
        return self._instance(value)

    def _instance(self, value: Any) -> Iterator[str]:
        kind = type(value)
        yield "instance"
        yield self.refer(kind)
        if isinstance(value, _LITERALS):
            base: Any = next(base for base in _LITERALS if isinstance(value, base))
            yield base.__repr__(value)
        elif isinstance(value, (tuple, list)):
            yield from map(self.refer, value)
        elif isinstance(value, (dict, types.MappingProxyType)):
            for key, item in value.items():
                yield f"{self.refer(key)}: {self.refer(item)}"
        elif isinstance(value, (set, frozenset)):
            # Their order is that of hashes, which differ between processes.
            yield from map(self.refer, sorted(value, key=lambda each: _ADDRESS.sub("", repr(each))))
        elif _is_known(kind) and "__wrapped__" in getattr(value, "__dict__", {}):
            yield self.refer(value.__wrapped__)
            return
        elif hasattr(kind, "__dlpack__"):
            yield self._unknown(value)
            return
        elif _origin(kind) == "stdlib" and kind is not types.SimpleNamespace:
            yield _ADDRESS.sub("", repr(value))
            return
        elif not _has_state(value):
            text = repr(value)
            yield self._unknown(value) if _ADDRESS.search(text) else text
        for name, item in _state(value):
            yield f"{name} = {self.refer(item)}"

    def _unknown(self, value: object) -> str:
        kind = type(value)
        self.unknown.append(f"a value of type {kind.__module__}.{kind.__qualname__}")
        # Not its address, which may be another's later in this process.
        return f"unknown {next(_unknown_values)}"

    def _class(self, kind: type) -> Iterator[str]:
        if _is_known(kind):
            yield f"class {kind.__module__}.{kind.__qualname__}"
            return
        yield f"class {kind.__qualname__}"
        yield from map(self.refer, (type(kind), *kind.__mro__[1:]))
        fields = kind.__dict__.get("__dataclass_fields__")
        for name, value in kind.__dict__.items():
            if name in _PASSED_OVER or isinstance(value, types.GetSetDescriptorType):
                continue
            if fields is not None and _is_generated(value):
                continue
            if name == "__dataclass_fields__":
                for field in value.values():
                    yield f"{field.name} = {self.refer(field.default)} {self.refer(field.default_factory)}"
            elif name == "__annotations__":
                for each, annotation in value.items():
                    yield f"{each}: {self.refer(annotation)}"
            else:
                yield f"{name} = {self.refer(value)}"

    def _function(self, function: types.FunctionType) -> Iterator[str]:
        # The DSL puts code that it has rewritten in the place of a function's own.
        code = getattr(function, "_original_code", function.__code__)
        yield f"function {function.__qualname__}"
        wrapped = getattr(function, "__wrapped__", None)
        if wrapped is not None:
            yield self.refer(wrapped)
        if _origin(function) in ("stdlib", "known", "own"):
            yield str(function.__globals__.get("__name__"))
            if wrapped is not None:
                return
        else:
            yield self._source(function, code)
            yield from self._names(function, code)
        for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=False):
            yield f"{name} = {self._content(cell)}"
        yield from map(self.refer, function.__defaults__ or ())
        for name, default in (function.__kwdefaults__ or {}).items():
            yield f"{name} = {self.refer(default)}"

    def _content(self, cell: types.CellType) -> str:
        try:
            return self.refer(cell.cell_contents)
        except ValueError:  # Not assigned yet.
            return "empty"

    def _source(self, function: types.FunctionType, code: types.CodeType) -> str:
        """The file that a function is in; where there is none, its own lines; at last, its instructions."""
        path = Path(code.co_filename)
        of_module = Path(function.__globals__.get("__file__") or "")
        # A script's own name is relative to where it was started.
        if not path.is_absolute() and path.name == of_module.name:
            path = of_module
        if path.is_absolute() and path.is_file():
            self.code.append((code, str(path)))
            return f"{self._file(path)} {self._place(code, str(path), path.read_bytes)}"
        lines = linecache.getlines(code.co_filename, function.__globals__)
        own = lines[code.co_firstlineno - 1 :]
        if own:
            place = self._place(code, code.co_filename, "".join(lines).encode)
            return f"{''.join(inspect.getblock(own))} {place}"
        return self._number(id(code), code, lambda: self._bare_code(code))

    def _place(self, code: types.CodeType, path: str, read: Callable[[], bytes]) -> str:
        """Which of the functions of a text it is: several may have one name, and lie in one line."""
        if path not in self._texts:
            try:
                self._texts[path] = list(_all_code(read(), path))
            except (OSError, SyntaxError, ValueError):
                self._texts[path] = []
        every = self._texts[path]
        # Of one that is not there, the text has changed since it was read.
        return f"function {every.index(code)}" if code in every else self.refer(code)

    def _bare_code(self, code: types.CodeType) -> Iterator[str]:
        yield f"code {sys.version} {code.co_code.hex()} {code.co_names} {code.co_varnames}"
        yield from map(self.refer, code.co_consts)

    def _names(self, function: types.FunctionType, code: types.CodeType) -> Iterator[str]:
        """The globals that a function names, and what it imports."""
        every = [code, *_nested(code)]
        names = sorted({name for each in every for name in each.co_names})
        space = function.__globals__
        # An attribute that is called like a global is none: `cute.gemm` where there is a function `gemm`.
        for name in sorted({name for each in every for name in _globals_of(each)}):
            if name in space:
                yield f"{name} = {self._named(space[name], frozenset(names))}"
        for each in every:
            for module, attributes in _imports(each, space):
                yield self._named(module, frozenset(attributes or names))

    def _named(self, value: object, names: frozenset[str]) -> str:
        """Of a module, only what is named counts beside its file."""
        if isinstance(value, types.ModuleType):
            return self._number((id(value), names), value, lambda: self._module(value, names))
        return self.refer(value)

    def _module(self, module: types.ModuleType, names: frozenset[str]) -> Iterator[str]:
        if _is_known(module):
            yield f"module {module.__name__}"
            return
        yield self._file_of(module)
        for name in sorted(names & vars(module).keys()):
            yield f"{name} = {self._named(vars(module)[name], names)}"

    def _file_of(self, module: types.ModuleType | None) -> str:
        file = getattr(module, "__file__", None)
        return self._file(Path(file)) if file and Path(file).is_file() else ""

    def _file(self, path: Path) -> str:
        if str(path) not in self.files:
            try:
                self.files[str(path)] = _digest(path.read_bytes())
            except OSError:
                return self._unknown(path)
        return f"file {self.files[str(path)]}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _all_code(content: bytes, path: str) -> Iterator[types.CodeType]:
    """The code of every function that a file defines; of none if it is no Python."""
    if path.endswith((".so", ".pyd", ".pyc")):
        return
    yield from _nested(compile(content, path, "exec", dont_inherit=True))


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _nested(constant)


def _globals_of(code: types.CodeType) -> set[str]:
    """The names that code looks up among globals, or may: bodies of classes look there last."""
    looked_up = "LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"
    return {each.argval for each in dis.get_instructions(code) if each.opname in looked_up}


def _imports(
    code: types.CodeType, space: dict[str, Any]
) -> Iterator[tuple[types.ModuleType, tuple[str, ...]]]:
    """Modules that a function's body imports, but for known ones, and the names it takes from each."""
    instructions = [each for each in dis.get_instructions(code) if each.opname != "EXTENDED_ARG"]
    for at, instruction in enumerate(instructions):
        if instruction.opname != "IMPORT_NAME":
            continue
        level, taken = (each.argval for each in instructions[at - 2 : at])
        name = instruction.argval
        if level == 0 and (name.partition(".")[0] in _KNOWN | sys.stdlib_module_names):
            continue
        try:
            yield __import__(name, space, None, taken or (), level), tuple(taken or ())
        except Exception:  # The function would meet it too, if it came this way.
            continue


def _is_generated(value: object) -> bool:
    """Whether a method was written by :mod:`dataclasses`, out of what is walked anyway."""
    return isinstance(value, types.FunctionType) and inspect.unwrap(value).__code__.co_filename == "<string>"


def _is_known(value: Any) -> bool:
    return _origin(value) != "user"


def _origin(value: Any) -> str:
    """Whose code a function, class or module is: ``stdlib``, ``known``, ``own`` or ``user``."""
    if isinstance(value, types.FunctionType):
        # Not __module__, which functools.wraps takes from what it wraps.
        name, file = value.__globals__.get("__name__"), value.__globals__.get("__file__")
    else:
        name = value.__name__ if isinstance(value, types.ModuleType) else value.__module__
        file = getattr(sys.modules.get(name), "__file__", None)
        if name == "builtins" and isinstance(value, type) and value.__flags__ & _HEAP_TYPE:
            return "user"  # Of a namespace without a name, such as that of `exec`.
    return _origin_of(str(name), file)


@functools.cache
def _origin_of(name: str, file: str | None) -> str:
    root = name.partition(".")[0]
    if file is None:
        # A notebook, or `exec`, is no module of the interpreter's own.
        return "stdlib" if root in sys.stdlib_module_names else "known" if root in _KNOWN else "user"
    if root in sys.stdlib_module_names:
        return "stdlib" if file.startswith(_STDLIB) and not _is_installed(Path(file).parent) else "user"
    if root in _KNOWN and _is_installed(Path(file).parent):
        return "known"
    if any(Path(file).is_relative_to(PACKAGE / part) for part in OWN_PARTS):
        return "own"
    return "user"


@functools.cache
def _is_installed(folder: Path) -> bool:
    """Whether packages were installed here or above: into ``site-packages``, or anywhere by ``--target``."""
    return any(path.suffix == ".dist-info" for path in _listed(folder)) or (
        folder != folder.parent and _is_installed(folder.parent)
    )


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _has_state(value: object) -> bool:
    return hasattr(value, "__dict__") or any("__slots__" in kind.__dict__ for kind in type(value).__mro__)


def _state(value: object) -> Iterator[tuple[str, object]]:
    """The attributes of an instance, from its dictionary and its slots."""
    yield from getattr(value, "__dict__", {}).items()
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            mangled = (
                f"_{kind.__name__.lstrip('_')}{name}"
                if name.startswith("__") and not name.endswith("__")
                else name
            )
            if name not in ("__dict__", "__weakref__") and hasattr(value, mangled):
                yield name, getattr(value, mangled)
