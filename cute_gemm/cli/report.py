"""What a bug report needs, as text to be pasted: `cute-gemm info --report`."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

import cute_gemm
from cute_gemm.measure.console import in_a_line
from cute_gemm.measure.memory import available_bytes, in_gib
from cute_gemm.measure.origin import driver_version
from cute_gemm.runtime import hardware
from cute_gemm.runtime.distributions import versions

_DISTRIBUTIONS = (
    *("torch", "nvidia-cutlass-dsl", "apache-tvm-ffi", "cuda-python", "cuda-bindings", "triton", "numpy"),
    *("deep-gemm", "vllm", "sglang", "safetensors", "platformdirs"),
)
"""Whose versions matter, or whose presence does; and all whose names begin so."""

_VARIABLES = (
    *("CUTE_GEMM_", "CUTE_DSL_", "CUDA_", "NVIDIA_", "PYTORCH_", "TORCH_", "XDG_CACHE_HOME", "TMPDIR"),
    *("LD_LIBRARY_PATH", "LD_PRELOAD", "OMP_NUM_THREADS"),
)
"""How the names of environment variables begin that may matter."""

_UNWANTED = ("KEY", "TOKEN", "SECRET", "PASSWORD")


def lines() -> Iterator[str]:
    """A fact each, by its name. What cannot be found out says why."""
    facts: dict[str, Callable[[], object]] = {
        "cute_gemm": lambda: f"{cute_gemm.__version__}, {_home(str(Path(cute_gemm.__file__).parent))}",
        "Python": lambda: f"{platform.python_implementation()} {sys.version}",
        "system": lambda: f"{platform.platform()}, {' '.join(platform.libc_ver())}",
        "CPU": lambda: f"{_cpu()}, {len(os.sched_getaffinity(0))} cores to be used",
        "memory": lambda: f"{in_gib(available_bytes())} free",
        "distributions": lambda: ", ".join(_distributions()),
        "the DSL": _dsl,
        "CUDA of torch": lambda: torch.version.cuda or torch.version.hip or "none (CPU build)",
        "driver": driver_version,
        "GPUs": lambda: "; ".join(map(_gpu, range(torch.cuda.device_count()))) or "none",
        "variables": lambda: ", ".join(_variables()) or "none of those that matter",
        "product": _product,
    }
    for name, ask in facts.items():
        try:
            found = ask()
        # Whatever is broken is what the report is for.
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
        yield f"{name}: {_home(in_a_line(found))}"


def _home(text: str) -> str:
    """Without the name of the user's own directory."""
    home = os.path.expanduser("~")
    return text.replace(home, "~") if len(home) > 1 else text


def _cpu() -> str:
    try:
        named = [
            line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
        ]
    except OSError:
        named = []
    return named[0].partition(":")[2].strip() if named else platform.machine()


def _distributions() -> list[str]:
    found = versions(*(f"{name}*" for name in _DISTRIBUTIONS))
    return [f"{name} {version}" for name, version in found.items()]


def _dsl() -> str:
    started = time.perf_counter()
    cutlass = importlib.import_module("cutlass")
    importlib.import_module("cutlass.cute")
    return f"imported in {time.perf_counter() - started:.1f} s, for CUDA {cutlass.CUDA_VERSION}"


def _gpu(index: int) -> str:
    found = torch.cuda.get_device_properties(index)
    memory = in_gib(found.total_memory)
    return f"{hardware.describe(index)}, {found.multi_processor_count} SMs, {memory}"


def _variables() -> list[str]:
    return [
        f"{name}={value}"
        for name, value in sorted(os.environ.items())
        if name.startswith(_VARIABLES) and not any(each in name for each in _UNWANTED)
    ]


def _product() -> str:
    """Whether a product, on a Hopper GPU if there is one, is right."""
    from cute_gemm import testing
    from cute_gemm.reference import dequantized_product

    device = "cuda" if hardware.is_hopper() else "cpu"
    x, w = torch.randn(64, 512, device=device), torch.randn(256, 512, device=device)
    a, b = cute_gemm.quantize_1x128(x), cute_gemm.quantize_128x128(w)
    started = time.perf_counter()
    error = testing.worst_tile_error(cute_gemm.fp8_gemm_nt(a, b), dequantized_product(*a, *b))
    return f"on {device}, error {error:.1e} (about 1e-06 is right), {time.perf_counter() - started:.1f} s"
