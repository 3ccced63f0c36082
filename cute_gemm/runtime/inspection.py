"""What a compiled kernel is made of: registers, shared memory, spills and instructions, read from its cubin.

Works without a GPU. NVIDIA's own tools do the reading: `cuobjdump -res-usage` for the resources and
`nvdisasm -json` for the instructions. Their wheels come with this package; a toolkit on PATH serves as well.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

# Every SASS instruction since Volta is 16 bytes long; branch targets are printed in bytes.
_INSTRUCTION_BYTES = 16
_TENSOR_CORE = ("QGMMA", "HGMMA", "IGMMA")
_RESOURCES = re.compile(
    r"Function (?P<name>\S+):\s+"
    r"REG:(?P<reg>\d+) STACK:(?P<stack>\d+) SHARED:(?P<shared>\d+) LOCAL:(?P<local>\d+)"
)
_BRANCH_TARGET = re.compile(r"0x([0-9a-f]+)$")


class InspectionError(RuntimeError):
    """A cubin could not be read, or a tool that reads it is missing."""


@dataclass(frozen=True, eq=False)
class Loop:
    """A backward branch and what lies between its target and itself."""

    start: int
    """Byte offset of the first instruction."""
    end: int
    """Byte offset of the branch."""
    opcodes: Counter[str]
    """How often each full opcode ("QGMMA.64x128x32.F32.E4M3.E4M3") occurs between the two."""

    def count(self, *prefixes: str) -> int:
        """Number of instructions whose opcode is, or continues with a dot, one of `prefixes`."""
        return _count(self.opcodes, prefixes)


@dataclass(frozen=True)
class Resources:
    """What one compiled kernel takes, without what its code looks like."""

    name: str
    registers: int
    """Registers per thread at launch."""
    shared_bytes: int
    """Static shared memory."""
    stack_bytes: int
    """Stack per thread: spilled registers, or arrays that are indexed at run time."""
    local_bytes: int
    """Other local memory per thread."""


@dataclass(frozen=True)
class KernelStats:
    """Static facts about one compiled kernel."""

    name: str
    registers: int
    """Registers per thread at launch; warps may reallocate them afterwards."""
    shared_bytes: int
    """Static shared memory; what a launch asks for dynamically is not in the cubin."""
    stack_bytes: int
    """Local memory per thread; more than 0 means spilled or indexed registers."""
    code: tuple[str, ...] = field(repr=False)
    """The full opcode of each instruction, by address."""
    loops: tuple[Loop, ...] = field(repr=False)
    """Backward branches in the order they occur."""

    @property
    def opcodes(self) -> Counter[str]:
        """How often each full opcode occurs."""
        return Counter(self.code)

    @property
    def instructions(self) -> Counter[str]:
        """Instruction counts by opcode root: "QGMMA.64x128x32.F32.E4M3.E4M3" counts as "QGMMA"."""
        roots: Counter[str] = Counter()
        for opcode, count in self.opcodes.items():
            roots[opcode.partition(".")[0]] += count
        return roots

    @property
    def local_loads(self) -> int:
        """Loads from local memory (spills being read back)."""
        return self.count("LDL")

    @property
    def local_stores(self) -> int:
        """Stores to local memory (spills)."""
        return self.count("STL")

    @property
    def main_loop(self) -> Loop | None:
        """Of the loops about as dense in tensor-core instructions as the densest, the one with most; or None.

        Not the innermost: waits that were moved out of a loop branch back into it, which looks like a loop.
        """
        densities = {
            loop: loop.count(*_TENSOR_CORE) / (loop.end - loop.start)
            for loop in self.loops
            if loop.count(*_TENSOR_CORE)
        }
        dense = [loop for loop, density in densities.items() if density > 0.8 * max(densities.values())]
        return max(dense, key=lambda loop: loop.count(*_TENSOR_CORE), default=None)

    def count(self, *prefixes: str) -> int:
        """Number of instructions whose opcode is, or continues with a dot, one of `prefixes`.

        `count("WARPGROUP.DEPBAR")` counts the waits for WGMMA, `count("WARPGROUP")` the arrives as well.
        """
        return _count(self.opcodes, prefixes)


def read_resources(cubin: bytes) -> Resources:
    """What the one kernel in `cubin` takes; :func:`read_cubin` for all that can be said of it.

    Raises:
        InspectionError: as :func:`read_cubin`.
    """
    with _file_of(cubin) as image:
        return _resources(image)


def read_cubin(cubin: bytes) -> KernelStats:
    """Read the one kernel in `cubin`.

    Args:
        cubin: an ELF image for one architecture, as the compiler made it.

    Raises:
        InspectionError: a tool is missing (the message holds the pip command), `cubin` is not a cubin, or it
            holds more or fewer than one kernel.
    """
    with _file_of(cubin) as image:
        resources = _resources(image)
        functions = json.loads(_run("nvdisasm", "-json", image))[1]
    if len(functions) != 1:
        raise InspectionError(f"expected a cubin with one kernel, got {len(functions)}")
    code = functions[0]["sass-instructions"]
    return KernelStats(
        name=resources.name,
        registers=resources.registers,
        shared_bytes=resources.shared_bytes,
        stack_bytes=resources.stack_bytes,
        code=tuple(i["opcode"] for i in code),
        loops=tuple(_loops(code)),
    )


def _resources(image: str) -> Resources:
    kernels = list(_RESOURCES.finditer(_run("cuobjdump", "-res-usage", image)))
    if len(kernels) != 1:
        raise InspectionError(f"expected a cubin with one kernel, got {len(kernels)}")
    found = kernels[0]
    numbers = (int(found[name]) for name in ("reg", "shared", "stack", "local"))
    return Resources(found["name"], *numbers)


@contextmanager
def _file_of(cubin: bytes) -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="cute_gemm_") as folder:
        image = Path(folder) / "kernel.cubin"
        image.write_bytes(cubin)
        yield str(image)


def _loops(code: Sequence[dict]) -> list[Loop]:
    loops = []
    for index, instruction in enumerate(code):
        target = _BRANCH_TARGET.search(instruction.get("operands", ""))
        if instruction["opcode"].partition(".")[0] != "BRA" or target is None:
            continue
        first = int(target[1], 16) // _INSTRUCTION_BYTES
        # A branch to itself is the trap after the last exit, not a loop.
        if first < index:
            body = Counter(i["opcode"] for i in code[first : index + 1])
            loops.append(Loop(first * _INSTRUCTION_BYTES, index * _INSTRUCTION_BYTES, body))
    return loops


def _count(opcodes: Counter[str], prefixes: Sequence[str]) -> int:
    return sum(
        count
        for opcode, count in opcodes.items()
        if any(opcode == prefix or opcode.startswith(prefix + ".") for prefix in prefixes)
    )


def _run(tool: str, *arguments: str) -> str:
    command = [_find_tool(tool), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        why = result.stderr.strip() or f"it ended with status {result.returncode}"
        raise InspectionError(f"{tool} could not read the cubin: {why}")
    return result.stdout


def _find_tool(tool: str) -> str:
    """Path of a CUDA binary: from its wheel, which puts none of them on PATH, else from PATH."""
    wheel = f"nvidia-cuda-{tool}"
    # All of that name: the first may be the rest of an interrupted installation.
    for distribution in metadata.distributions(name=wheel):
        for file in distribution.files or []:
            path = Path(str(file.locate()))
            if file.name == tool and path.exists():
                return str(path)
    on_path = shutil.which(tool)
    if on_path is None:
        raise InspectionError(f"{tool} was not found; install it with: pip install {wheel}")
    return on_path
