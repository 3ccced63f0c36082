"""What `cute-gemm demo` does: quantise operands, multiply them, tell how far off and how fast it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

import cute_gemm
from cute_gemm import testing
from cute_gemm.measure.errors import CommandError
from cute_gemm.measure.memory import available_bytes, in_gib
from cute_gemm.plan.data_sheets import data_sheet
from cute_gemm.plan.limits import ceil_div
from cute_gemm.plan.problem import GemmProblem, why_impossible
from cute_gemm.reference import dequantized_product
from cute_gemm.runtime import hardware, selection

from .weights import Weight

# Bytes that each element of the operands and of the result takes at the worst moment, as measured on a CPU:
# FP32, e4m3, the FP64 that errors are computed in, and what lies between them.
_OPERAND_BYTES, _RESULT_BYTES = 13, 16


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
    device: str = ""
    """The GPU, by its name as torch gives it."""

    @property
    def tflops(self) -> float | None:
        """Rate in TFLOP/s."""
        return None if self.us is None else self.problem.flops / self.us * 1e-6

    @property
    def share_of_limit(self) -> float | None:
        """The least time that the card's data sheet allows, over the time it took; None for unknown cards."""
        sheet = data_sheet(self.device)
        return None if self.us is None or sheet is None else sheet.limit_us(self.problem) / self.us


def run_shapes(
    shapes: list[tuple[int, int, int]], device: torch.device, out_dtype: torch.dtype
) -> Iterator[Result]:
    """Multiply random normal operands of each (m, n, k).

    Raises:
        CommandError: the operation cannot take such a shape, or there is no memory for it.
    """
    for m, n, k in shapes:
        if reason := why_impossible(n, k) or why_too_large(m, n, k, device):
            raise CommandError(f"{m} x {n} x {k}: {reason}")
    random = torch.Generator(device).manual_seed(0)
    for m, n, k in shapes:
        weight = torch.randn(n, k, generator=random, device=device)
        yield _run("random", m, weight, out_dtype, random)


def why_too_large(m: int, n: int, k: int, device: torch.device) -> str:
    """Why there is no memory for a product, in words; empty if there is. A GPU's memory says so itself."""
    # Blocks of scales are made whole.
    whole_n, whole_k = (128 * ceil_div(extent, 128) for extent in (n, k))
    needed = _OPERAND_BYTES * (m + whole_n) * whole_k + _RESULT_BYTES * m * n
    if device.type != "cpu" or needed <= (there := available_bytes()):
        return ""
    return f"it takes {in_gib(needed)} of memory to multiply and check, and {in_gib(there)} are free"


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
    us, untimed, device = None, "", ""
    if weight.is_cuda:
        device = torch.cuda.get_device_name(weight.device)
        card = hardware.card(weight.get_device())
        problem = replace(problem, num_sms=card.sms, card=card)
        us, untimed = _time(lambda: cute_gemm.fp8_gemm_nt(a, b, out))
    return Result(
        label=label,
        problem=problem,
        config=selection.select(problem).name,
        error_dequantised=testing.worst_tile_error(out, dequantized_product(*a, *b)),
        error_unquantised=testing.worst_tile_error(out, activations.double() @ weight.double().T),
        us=us,
        untimed=untimed,
        device=device,
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
