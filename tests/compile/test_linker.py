"""From an object of the DSL to a function: what the linker makes of it, and what it does not take."""

from __future__ import annotations

import struct
from typing import Any

import cutlass
import cutlass.cute as cute
import pytest
import torch
from cutlass.cute.runtime import make_fake_tensor

from cute_gemm.runtime import compiler, dsl_library, elf, linked, linker

FUNCTION = "__tvm_ffi_launch"


class Add:
    """Host code alone."""

    def __init__(self, addend: int) -> None:
        self.addend = addend

    @cute.jit
    def __call__(self, x: cute.Tensor):
        x[0] = x[0] + cutlass.Float32(self.addend)


def to_add(addend: int) -> compiler.Build:
    def build() -> Any:
        generic = cute.AddressSpace.generic
        return Add(addend), (make_fake_tensor(cutlass.Float32, (cute.sym_int32(),), (1,), memspace=generic),)

    return build


def an_object(addend: int) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linker, "link", lambda image, function: image)
        return compiler._compile(to_add(addend), "add")


@pytest.fixture(scope="module")
def image() -> bytes:
    return an_object(2)


def added(function: Any) -> float:
    x = torch.zeros(1)
    function(x)
    return float(x[0])


def test_a_library_is_called_and_raises_what_its_object_does(image: bytes) -> None:
    library = linker.link(image, FUNCTION)
    assert linked.is_library(library)
    assert not linked.is_library(image)
    function = linked.load(library, FUNCTION)
    assert added(function) == 2
    with pytest.raises(ValueError, match=r"on argument #0 .* expected dtype"):
        function(torch.zeros(1, dtype=torch.int32))
    with pytest.raises(TypeError, match="Expects 1 parameters"):
        function()


def test_libraries_that_are_loaded_one_after_the_other_are_not_confused(image: bytes) -> None:
    """Their files have the same descriptor, and the loader knows files by their names."""
    images = [linker.link(each, FUNCTION) for each in (image, an_object(3), image)]
    assert [added(linked.load(each, FUNCTION)) for each in images] == [2, 3, 2]


def test_nothing_is_both_written_and_executed(image: bytes) -> None:
    library = linker.link(image, FUNCTION)
    segments = {}
    for index in range(struct.unpack_from(elf.HEADER, library)[10]):
        kind, rights, start, *_, size, alignment = struct.unpack_from(elf.SEGMENT, library, 64 + 56 * index)
        segments[kind, start] = rights
        if kind == 1:
            assert start % alignment == 0
            assert start + size <= len(library)
    assert sorted(rights for (kind, _), rights in segments.items() if kind == 1) == [4, 5, 6]
    assert segments[0x6474E551, 0] == 6, "a stack that is executed"


def test_a_function_that_is_not_there_is_named(image: bytes) -> None:
    with pytest.raises(linker.LinkError, match="no function launch"):
        linker.link(image, "launch")
    library = linker.link(image, FUNCTION)
    with pytest.raises(AttributeError, match="launch"):
        linked.load(library, "launch")


@pytest.mark.parametrize(("place", "value"), [(4, 1), (16, 3), (18, 183)], ids=["32 bits", "linked", "ARM"])
def test_an_object_of_another_kind_is_refused(image: bytes, place: int, value: int) -> None:
    changed = bytearray(image)
    changed[place] = value
    with pytest.raises(linker.LinkError, match="no relocatable object for x86-64"):
        linker.link(bytes(changed), FUNCTION)


def test_a_section_of_another_sort_is_refused(image: bytes) -> None:
    """Such as functions to be called when a library is loaded: it would not be initialised."""
    header = struct.unpack_from(elf.HEADER, image)
    changed = bytearray(image)
    for index in range(header[12]):
        at = header[6] + 64 * index
        _, kind, flags, *_ = struct.unpack_from(elf.SECTION, image, at)
        if kind == 1 and flags & 2:
            struct.pack_into("<I", changed, at + 4, 14)
            break
    with pytest.raises(linker.LinkError, match="of a sort that is not known"):
        linker.link(bytes(changed), FUNCTION)


def test_a_relocation_that_is_not_known_is_refused(image: bytes) -> None:
    header = struct.unpack_from(elf.HEADER, image)
    changed = bytearray(image)
    for index in range(header[12]):
        _, kind, _, _, offset, size, *_ = struct.unpack_from(elf.SECTION, image, header[6] + 64 * index)
        for at in range(offset, offset + size, 24) if kind == 4 else ():
            if changed[at + 8] == linker._GOTOFF64:
                changed[at + 8] = 2
    with pytest.raises(linker.LinkError, match="kind 2, which is not known"):
        linker.link(bytes(changed), FUNCTION)


def test_what_another_library_lacks_is_said(image: bytes) -> None:
    """As where a kernel was compiled for a later version of it."""
    library = linker.link(image, FUNCTION).replace(b"TVMFFIErrorSetRaised", b"TVMFFIErrorOfTomorro")
    with pytest.raises(OSError, match="undefined symbol: TVMFFIErrorOfTomorro"):
        linked.load(library, FUNCTION)


def test_a_damaged_object_raises_nothing_else(image: bytes) -> None:
    for length in range(0, len(image), 97):
        with pytest.raises(linker.LinkError):
            linker.link(image[:length], FUNCTION)
    for place in range(0, len(image), 13):
        changed = bytearray(image)
        changed[place] ^= 0xFF
        try:
            linker.link(bytes(changed), FUNCTION)
        except linker.LinkError:
            continue


def test_without_a_runtime_library_the_dsl_links(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise dsl_library.NoLibraryError("none")

    monkeypatch.setattr(dsl_library, "path", missing)
    made = compiler._compile(to_add(2), "add")
    assert not linked.is_library(made)
    assert added(compiler._link(made)) == 2


def test_where_the_runtime_library_lies_elsewhere_the_dsl_knows_it(
    image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = dsl_library.path()
    monkeypatch.setattr(dsl_library, "_path", lambda flavour: None)
    assert dsl_library.path().samefile(known)
    monkeypatch.setattr(linked, "_get_ready", linked._get_ready.__wrapped__)
    assert added(linked.load(linker.link(image, FUNCTION), FUNCTION)) == 2
