"""The job behind `cute-gemm demo`: quantise operands, multiply them, tell how far off and how fast it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

import cute_gemm
from cute_gemm import testing
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.quantize import scale_blocks
from cute_gemm.reference import dequantized_product
from cute_gemm.runtime import selection

# What FP8 checkpoints append to a weight's name to name its 128x128 scales.
_SCALE_SUFFIX = "_scale_inv"
_FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


class DemoError(ValueError):
    """The user asked for something that cannot be run; the message says what and why."""


@dataclass(frozen=True)
class Result:
    """One multiplication, checked and, on a GPU, timed."""

    label: str
    problem: GemmProblem
    config: str
    error_dequantised: float
    """Worst tile's error against the product of the dequantised operands: what the kernel adds."""
    error_unquantised: float
    """Worst tile's error against the product before quantisation: what FP8 costs in all."""
    us: float | None
    """Median device time with a cold L2; None on a CPU, whose time says nothing, and where `untimed`."""
    untimed: str = ""
    """Why there is no time although there is a GPU."""

    @property
    def tflops(self) -> float | None:
        """Rate in TFLOP/s."""
        return None if self.us is None else self.problem.flops / self.us * 1e-6

    @property
    def share_of_limit(self) -> float | None:
        """The least time this shape could take on an H200, over the time it took."""
        return None if self.us is None else testing.limit_us(self.problem) / self.us


@dataclass(frozen=True)
class Weight:
    """A 2-D tensor of a safetensors file that the operation takes as its B operand."""

    file: Path
    name: str
    n: int
    k: int
    has_scales: bool

    def load(self, device: torch.device) -> torch.Tensor:
        """The weight as fp32 [n, k]; where the file holds scales for it, they are multiplied in."""
        with safe_open(self.file, framework="pt", device=str(device)) as file:
            stored = file.get_tensor(self.name)
            if not self.has_scales:
                return stored.float()
            scales = file.get_tensor(self.name + _SCALE_SUFFIX)
        return cute_gemm.dequantize_128x128(stored, scales.float())


@dataclass(frozen=True)
class Skipped:
    """A 2-D tensor that the operation cannot take, and why."""

    name: str
    reason: str


def find_weights(path: Path) -> tuple[list[Weight], list[Skipped]]:
    """List the 2-D tensors of a safetensors file without loading them: those the operation takes, and others.

    Raises:
        DemoError: the file is missing, is not a safetensors file, or has no 2-D tensor.
    """
    if not path.is_file():
        raise DemoError(f"no such file: {path}")
    weights: list[Weight] = []
    skipped: list[Skipped] = []
    try:
        with safe_open(path, framework="pt") as file:
            headers = {name: file.get_slice(name) for name in sorted(file.keys())}
            for name, header in headers.items():
                shape, dtype = header.get_shape(), header.get_dtype()
                scales_another = name.endswith(_SCALE_SUFFIX) and name.removesuffix(_SCALE_SUFFIX) in headers
                if len(shape) != 2 or scales_another:
                    continue
                n, k = shape
                scales = headers.get(name + _SCALE_SUFFIX)
                reason = _why_not(n, k, dtype)
                if scales is not None and dtype != "F8_E4M3":
                    reason = f"{dtype} with scales is unknown here; F8_E4M3 is what has them"
                elif scales is not None and scales.get_shape() != [scale_blocks(n), scale_blocks(k)]:
                    reason = f"its scales have shape {scales.get_shape()}, which is not one per 128x128 block"
                if reason:
                    skipped.append(Skipped(name, reason))
                else:
                    weights.append(Weight(path, name, n, k, has_scales=scales is not None))
    except SafetensorError as error:
        raise DemoError(f"{path} is not a safetensors file: {error}") from error
    if not weights and not skipped:
        raise DemoError(f"{path} holds no 2-D tensor; a weight is stored as [out_features, in_features]")
    return weights, skipped


def run_shapes(
    shapes: list[tuple[int, int, int]], device: torch.device, out_dtype: torch.dtype
) -> Iterator[Result]:
    """Multiply random normal operands of each (m, n, k).

    Raises:
        DemoError: the operation cannot take such a shape.
    """
    for m, n, k in shapes:
        reason = _why_not(n, k)
        if reason:
            raise DemoError(f"{m} x {n} x {k}: {reason}")
    random = torch.Generator(device).manual_seed(0)
    for m, n, k in shapes:
        weight = torch.randn(n, k, generator=random, device=device)
        yield _run("random", m, weight, out_dtype, random)


def run_weights(
    weights: list[Weight], tokens: list[int], device: torch.device, out_dtype: torch.dtype
) -> Iterator[Result]:
    """Multiply random normal activations of each number of tokens with each weight."""
    random = torch.Generator(device).manual_seed(0)
    for weight in weights:
        tensor = weight.load(device)
        for m in tokens:
            yield _run(weight.name, m, tensor, out_dtype, random)


def _run(label: str, m: int, weight: torch.Tensor, out_dtype: torch.dtype, random: torch.Generator) -> Result:
    n, k = weight.shape
    activations = torch.randn(m, k, generator=random, device=weight.device)
    a = cute_gemm.quantize_1x128(activations)
    b = cute_gemm.quantize_128x128(weight)
    out = cute_gemm.fp8_gemm_nt(a, b, out_dtype=out_dtype)

    problem = GemmProblem(m, n, k, str(out_dtype).removeprefix("torch."))
    us, untimed = None, ""
    if weight.is_cuda:
        num_sms = torch.cuda.get_device_properties(weight.device).multi_processor_count
        problem = replace(problem, num_sms=num_sms)
        us, untimed = _time(lambda: cute_gemm.fp8_gemm_nt(a, b, out))
    return Result(
        label=label,
        problem=problem,
        config=selection.select(problem).name,
        error_dequantised=testing.worst_tile_error(out, dequantized_product(*a, *b)),
        error_unquantised=testing.worst_tile_error(out, activations.double() @ weight.double().T),
        us=us,
        untimed=untimed,
    )


def _time(call: Callable[[], object]) -> tuple[float | None, str]:
    """Microseconds of a call; or None and, in one line, why the profiler gave no figure.

    Many containers and clusters forbid profiling. A kernel that failed ends here too, but leaves CUDA in a
    state in which whatever comes next raises.
    """
    try:
        return testing.time_cold(call).median_us, ""
    except RuntimeError as error:
        return None, " ".join(str(error).split())


def _why_not(n: int, k: int, dtype: str = "F32") -> str:
    """Why a weight [n, k] of a safetensors dtype cannot be multiplied; empty if it can."""
    if dtype not in _FLOATING:
        return f"{dtype} is not a floating-point type"
    if n < 1 or n % 8:
        return f"N = {n} is not a positive multiple of 8"
    if k < 1 or k % 16:
        return f"K = {k} is not a positive multiple of 16"
    return ""
