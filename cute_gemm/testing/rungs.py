"""What every rung of examples/ladder does besides its idea: compile, run, check, time, print.

On a Hopper GPU a rung runs, its result is checked, and its time is printed beside that of the rung before, as
it was recorded; of one that does not promote, the error over K, too. On any other machine it is compiled for
sm_90a, and what it was compiled to is printed.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..measure import cold, origin, records
from ..plan.config import KernelConfig
from ..plan.data_sheets import DataSheet, data_sheet
from ..plan.limits import TMA_ALIGNMENT, ceil_div
from ..plan.recipe import FP8_1D2D, Recipe
from ..quantize import m_major
from ..reference import dequantized_product
from ..runtime import compiler, inspection, launch, sources, symbols
from ..runtime.hardware import is_hopper
from .errors import assert_correct, worst_tile_error
from .inputs import make_inputs
from .poison import poisoned

Shape = tuple[int, ...]

RECORDS = Path("benchmarks/results/ladder")
"""Where the repository has what rungs took, a file a card."""

SHOWN = {
    "TMA loads": ("UTMALDG",),
    "TMA stores": ("UTMASTG",),
    "WGMMA": ("QGMMA", "HGMMA"),
    "waits for WGMMA": ("WARPGROUP.DEPBAR",),
    "mbarrier operations": ("SYNCS",),
    "FP32 multiply-adds": ("FFMA", "FMUL", "FADD", "FFMA2"),
    "loads of shared memory": ("LDS", "LDSM"),
    "stores to shared memory": ("STS", "STSM"),
    "loads of global memory": ("LDG",),
    "stores to global memory": ("STG",),
}
"""The instructions that matter, by opcode."""

PROMOTING = KernelConfig(128, 128, stages=6)
"""The library's kernel that stands beside a rung that does not promote."""


@dataclass(frozen=True)
class Work:
    """What a rung computes of a shape."""

    flops: int
    bytes_moved: int


@dataclass(frozen=True)
class Rung:
    """A kernel, what it is compiled for, and how its result is judged.

    Args:
        file: the rung's ``__file__``.
        kernel: a ``@cute.jit`` callable whose last argument is the stream.
        arguments: symbolic ones, less the stream.
        shapes: what it is run on; the first is what its figures are of.
        make: the tensors of a call for a shape on a device; the last is written.
        judge: a result's error, by the tensors of a call; raises AssertionError if it is wrong.
        flops, bytes_moved: of a shape.
        limit_us: the least time that a card's data sheet allows for a rung's work.
        variant: what tells it from another rung of its file.
        beside: rungs of the same file that are run, and recorded, with it.
        over_k: shapes, of several K, whose errors are told beside those of a kernel that promotes.
    """

    file: str
    kernel: Callable[..., Any]
    arguments: tuple[Any, ...]
    shapes: tuple[Shape, ...]
    make: Callable[[Shape, torch.device], tuple[Tensor, ...]]
    judge: Callable[[tuple[Tensor, ...]], float]
    flops: Callable[[Shape], int]
    bytes_moved: Callable[[Shape], int]
    limit_us: Callable[[DataSheet, Work], float] = DataSheet.limit_us
    variant: str = ""
    beside: tuple[Rung, ...] = ()
    over_k: tuple[Shape, ...] = ()

    @property
    def name(self) -> str:
        """As its file is called, and the variant, if it is one."""
        return ", ".join(filter(None, (Path(self.file).stem, self.variant)))

    def build(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """What the DSL compiles."""
        *_, stream = symbols.launch()
        return self.kernel, (*self.arguments, stream)

    def cubin(self) -> bytes:
        """Its GPU code, compiled on any machine."""
        return compiler.compile_to_cubin(self.build, self.name)

    def instance(self) -> Callable[..., None]:
        """What is called with tensors, on a Hopper GPU."""
        made_of = sources.read(*self.build())
        return compiler.instance(("rung", self.name), self.build, self.name, made_of)


def exact(
    file: str,
    kernel: Callable[..., Any],
    arguments: tuple[Any, ...],
    inputs: Callable[..., tuple[Tensor, ...]],
    truth: Callable[..., Tensor],
    *shapes: Shape,
    bytes_moved: Callable[..., int],
    **more: Any,
) -> Rung:
    """A rung whose result has the bits of what torch computes.

    Args:
        file: the rung's ``__file__``.
        kernel: takes the inputs, the result and the stream.
        arguments: symbolic ones, less the stream.
        inputs: random tensors for a shape, whose extents it takes one by one, on torch's default device.
        truth: the result for these.
        shapes: what it is run on.
        bytes_moved: for a shape, whose extents it takes one by one.
        more: fields of :class:`Rung`.
    """

    def make(shape: Shape, device: torch.device) -> tuple[Tensor, ...]:
        torch.manual_seed(0)
        with device:
            given = inputs(*shape)
        out = torch.empty_like(truth(*given))
        # Of floating-point numbers a NaN.
        out.view(torch.uint8).fill_(0xFF)
        return *given, out

    def judge(tensors: tuple[Tensor, ...]) -> float:
        *given, out = tensors
        wrong = (out.view(torch.uint8) != truth(*given).view(torch.uint8)).view(len(out), -1).any(1)
        if wrong.any():
            first = int(wrong.nonzero()[0])
            raise AssertionError(f"{int(wrong.sum())} of {len(out)} rows are wrong, the first is {first}")
        return 0.0

    return Rung(
        file,
        kernel,
        arguments,
        shapes,
        make,
        judge,
        lambda shape: 0,
        lambda shape: bytes_moved(*shape),
        **more,
    )


def shared_memory_limit_us(sheet: DataSheet, work: Work) -> float:
    """The least time in which threads read bytes from shared memory: 128 a clock on each multiprocessor."""
    return work.bytes_moved / (128 * sheet.sms * sheet.sm_mhz)


def gemm(
    file: str,
    kernel: Callable[..., Any],
    *shapes: Shape,
    scaled: bool = True,
    m_major_scales: bool = False,
    recipe: Recipe = FP8_1D2D,
    dtype: torch.dtype = torch.bfloat16,
    limit: float | None = None,
    over_k: tuple[Shape, ...] = (),
) -> Rung:
    """A rung that multiplies: ``D = A @ B.T`` of e4m3 ``A [M, K]`` and ``B [N, K]`` into ``D [M, N]``.

    Args:
        file: the rung's ``__file__``.
        kernel: takes ``(A, SFA, B, SFB, D, stream)`` where it is ``scaled``, else ``(A, B, D, stream)``.
        shapes: ``(M, N, K)`` each, by default 4096 x 4096 x 7168.
        scaled: whether there are scales: FP32 ``[M, K / 128]`` of A and, of B, what ``recipe`` says.
        m_major_scales: whether those of rows are M-major, as TMA loads them.
        recipe: scales of B are ``[N / 128, K / 128]``, by ``FP8_1D1D`` one a row: ``[N, K / 128]``.
        dtype: of D, bf16 or FP32.
        limit: the error that the worst tile may have; None for what :func:`.assert_correct` asks.
        over_k: of a rung without scales, as of :class:`Rung`.
    """
    from cutlass import BFloat16, Float8E4M3FN, Float32, cute

    m, n, k, k_blocks, n_blocks = (cute.sym_int32() for _ in range(5))
    a, b = matrix(Float8E4M3FN, m, k), matrix(Float8E4M3FN, n, k)
    d = matrix({torch.bfloat16: BFloat16, torch.float32: Float32}[dtype], m, n)
    # Scales of blocks of this many rows, of A and of B: TMA loads those of single rows.
    by_tma = [m_major_scales and height == 1 for height in (recipe.scale_m, recipe.scale_n)]
    sfa, sfb = (
        columns(Float32, count, k_blocks) if staged else matrix(Float32, count, k_blocks, 4)
        for count, staged in zip((m, n_blocks), by_tma, strict=True)
    )

    def make(shape: Shape, device: torch.device) -> tuple[Tensor, ...]:
        given = operands(shape, scaled, device, recipe)
        out, _ = poisoned(shape[0], shape[1], dtype, device, 0, 0)
        if not scaled:
            (a, _), (b, _) = given
            return a, b, out
        (a, sa), (b, sb) = (
            (x, m_major(s) if staged else s) for (x, s), staged in zip(given, by_tma, strict=True)
        )
        return a, sa, b, sb, out

    def judge(tensors: tuple[Tensor, ...]) -> float:
        if scaled:
            a, sa, b, sb, out = tensors
        else:
            a, b, out = tensors
            sa, sb = ones(a, 1), ones(b, 128)
        if limit is None:
            return assert_correct(out, a, sa, b, sb)
        error = worst_tile_error(out, dequantized_product(a, sa, b, sb))
        if not error <= limit:
            raise AssertionError(f"the worst tile's error is {error:.2e}, limit {limit:.0e}")
        return error

    return Rung(
        file,
        kernel,
        (a, sfa, b, sfb, d) if scaled else (a, b, d),
        shapes or ((4096, 4096, 7168),),
        make,
        judge,
        lambda shape: 2 * math.prod(shape),
        lambda shape: (shape[0] + shape[1]) * shape[2] + dtype.itemsize * shape[0] * shape[1],
        over_k=over_k,
    )


def operands(
    shape: Shape, scaled: bool, device: torch.device, recipe: Recipe = FP8_1D2D
) -> tuple[tuple[Tensor, Tensor], ...]:
    """Random operands of a product, with their scales: those of ``recipe`` if it is ``scaled``, else 1."""
    m, n, k = shape
    if scaled:
        return make_inputs(m, n, k, device=device, recipe=recipe)
    random = torch.Generator(device=device).manual_seed(0)
    a, b = (torch.randn(rows, k, generator=random, device=device).to(torch.float8_e4m3fn) for rows in (m, n))
    return (a, ones(a, 1)), (b, ones(b, 128))


def ones(operand: Tensor, height: int) -> Tensor:
    """Scales of 1, for blocks of ``height`` rows and 128 columns."""
    rows, columns = operand.shape
    return torch.ones(ceil_div(rows, height), ceil_div(columns, 128), device=operand.device)


def matrix(dtype: Any, rows: Any, columns: Any, align: int = TMA_ALIGNMENT) -> Any:
    """A symbolic row-major matrix whose address and row stride are multiples of ``align`` bytes."""
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    stride = cute.sym_int64(divisibility=align * 8 // dtype.width)
    return make_fake_tensor(dtype, (rows, columns), (stride, 1), assumed_align=align)


def vector(dtype: Any, length: Any) -> Any:
    """A symbolic contiguous vector."""
    from cutlass.cute.runtime import make_fake_tensor

    return make_fake_tensor(dtype, (length,), (1,), assumed_align=TMA_ALIGNMENT)


def columns(dtype: Any, rows: Any, columns: Any) -> Any:
    """A symbolic column-major matrix that TMA can load."""
    from cutlass import cute
    from cutlass.cute.runtime import make_fake_tensor

    stride = cute.sym_int64(divisibility=TMA_ALIGNMENT * 8 // dtype.width)
    return make_fake_tensor(dtype, (rows, columns), (1, stride), assumed_align=TMA_ALIGNMENT)


def arguments_of(name: str) -> list[str]:
    """Those of this process, if it was started for the file of this name: a notebook's are not for cells."""
    return sys.argv[1:] if Path(sys.argv[0]).stem == name else []


def climb(rung: Rung, argv: Sequence[str] | None = None) -> None:
    """A rung's command: runs it where there is a Hopper GPU, else says what it was compiled to.

    Raises:
        AssertionError: its result is wrong.
    """
    parser = argparse.ArgumentParser(description=f"Rung {rung.name} of the ladder.")
    parser.add_argument("--out", type=Path, help="append what was measured to this file, as JSON lines")
    parser.add_argument("--sass", action="store_true", help="print the opcodes of its instructions, in order")
    args = parser.parse_args(arguments_of(rung.name) if argv is None else argv)
    registers = {}
    for each in (rung, *rung.beside):
        stats = inspection.read_cubin(each.cubin())
        registers[each] = stats.registers
        if args.sass:
            print("\n".join(f"{16 * i:#07x}  {opcode}" for i, opcode in enumerate(stats.code)))
        describe(each, stats)
    if is_hopper():
        rows = [
            run(each, shape) | {"registers": number}
            for each, number in registers.items()
            for shape in each.shapes
        ]
        errors = [errors_of(rung, shape, torch.device("cuda")) for shape in rung.over_k]
        if args.out:
            with args.out.open("a") as file:
                file.writelines(json.dumps(row) + "\n" for row in (*rows, *errors))
        before = recorded_before(rung)
        print("\n".join([*map(line, (*before, *rows)), *map(line_of_errors, errors)]))
    else:
        print("There is no Hopper GPU here: it was compiled, and not run.")


def describe(rung: Rung, stats: inspection.KernelStats) -> None:
    """Prints what a rung was compiled to."""
    storage = getattr(rung.kernel, "Storage", None)
    tell(rung.name, stats, storage.size_in_bytes() if storage is not None else stats.shared_bytes)


def tell(name: str, stats: inspection.KernelStats, shared: int) -> None:
    """Prints what a kernel of ``shared`` bytes of shared memory was compiled to."""
    spills = f"{stats.stack_bytes} bytes of stack" if stats.stack_bytes else "no spills"
    takes = f"{stats.registers} registers, {shared} bytes of shared memory, {spills}"
    print(f"{name} for {compiler.ARCH}: {takes}")
    counts = {what: stats.count(*opcodes) for what, opcodes in SHOWN.items()}
    print("instructions: " + ", ".join(f"{count} {what}" for what, count in counts.items() if count))


def run(rung: Rung, shape: Shape) -> records.Row:
    """Runs, checks and times a rung; the row that a record has of it."""
    tensors = rung.make(shape, torch.device("cuda"))
    instance = rung.instance()
    instance(*tensors)
    torch.cuda.synchronize()
    error = rung.judge(tensors)
    us = cold.time_cold(lambda: instance(*tensors)).median_us
    work = Work(rung.flops(shape), rung.bytes_moved(shape))
    sheet = data_sheet(torch.cuda.get_device_name())
    return {
        "rung": rung.name,
        "shape": list(shape),
        "us": round(us, 2),
        "tflops": round(work.flops / us / 1e6, 1),
        "gbps": round(work.bytes_moved / us / 1e3, 1),
        "of_limit": round(rung.limit_us(sheet, work) / us, 4) if sheet else None,
        "error": error,
    } | origin.describe_origin()


def errors_of(rung: Rung, shape: Shape, device: torch.device) -> records.Row:
    """The error of a rung that does not promote, and of the library's kernel, which does; a row for a record.

    Both multiply the same operands, with scales of 1, and store bf16: an error is that of the worst tile.
    """
    a, b, out = tensors = rung.make(shape, device)
    rung.instance()(*tensors)
    lhs, rhs = (a, ones(a, 1)), (b, ones(b, 128))
    exact = dequantized_product(*lhs, *rhs)
    return {
        "rung": rung.name,
        "shape": list(shape),
        "unpromoted_error": worst_tile_error(out, exact),
        "promoted_error": worst_tile_error(launch(PROMOTING, lhs, rhs), exact),
    } | origin.describe_origin()


def is_timed(row: records.Row) -> bool:
    """Whether a row on record is what a rung took, and not :func:`errors_of` it."""
    return "us" in row


def goes_on_from(path: Path) -> str | None:
    """The name of the rung that a rung's file is made from, where its text names one: else it is the last."""
    text = path.read_text("utf-8") if path.is_file() else ""
    said = re.search(r"(?:[Gg]oes on|[Mm]ade) from rung (\d+)", text)
    return None if said is None else next(path.parent.glob(f"{int(said[1]):02}_*.py")).stem


def before(path: Path) -> Callable[[str], bool]:
    """Says of a rung's name whether it is the one that a file is made from, or one before that."""
    last = goes_on_from(path)
    return (lambda rung: rung < path.stem) if last is None else (lambda rung: rung <= last)


def recorded_before(rung: Rung) -> list[records.Row]:
    """What is on record of the last rung before this one, as :func:`before` has it, on its card and shape.

    None outside a checkout.
    """
    file = Path(rung.file).resolve()
    is_before = before(file)
    found = [
        row
        for path in sorted((file.parents[2] / RECORDS).glob("*.jsonl"))
        for row in records.read_rows(path)
        if is_timed(row) and is_before(row["rung"]) and row["device"] == torch.cuda.get_device_name()
        if tuple(row["shape"]) == rung.shapes[0] and "," not in row["rung"]
    ]
    last = max((row["rung"] for row in found), default=None)
    return [row | {"rung": f"{last}, on record"} for row in found if row["rung"] == last][-1:]


def line(row: records.Row) -> str:
    """A row in words."""
    shape = "x".join(map(str, row["shape"]))
    speed = f"{row['tflops']:7.1f} TFLOP/s" if row["tflops"] >= 1 else f"{row['gbps']:7.1f} GB/s"
    share = f"  {row['of_limit']:5.1%} of the limit" if row["of_limit"] else ""
    return f"{row['rung']:30}  {shape:16}  {row['us']:9.2f} us  {speed}{share}  error {row['error']:.1e}"


def line_of_errors(row: records.Row) -> str:
    """A row of :func:`errors_of` in words."""
    shape = "x".join(map(str, row["shape"]))
    errors = f"error {row['unpromoted_error']:.1e}, promoted {row['promoted_error']:.1e}"
    return f"{row['rung']:30}  {shape:16}  {errors}"
