"""Has a machine without a Hopper GPU pose as one with it: `cuda` then means the CPU, for all but cute_gemm.

Others' code asks for tensors on `cuda`, and whether they are there. It gets CPU tensors, and is told that
they are; to cute_gemm the same tensors are what they are, and its products of them are computed by its
reference. Triton's kernels run in Triton's interpreter, and `torch.compile` is off.
"""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

SMS = 132

_posing = False


def is_posing() -> bool:
    """Whether this process poses: some kernels the interpreter cannot run."""
    return _posing


def pose() -> bool:
    """Poses, until the process ends, unless there is a Hopper GPU; whether it does. To be called first."""
    import torch
    from torch import library as torch_library

    if torch.cuda.is_available() and torch.cuda.get_device_capability() == (9, 0):
        return False
    global _posing
    _posing = True
    os.environ["TRITON_INTERPRET"] = "1"
    _pose_devices(torch)
    _pose_tensors(torch)
    _choose_first_configs()
    torch.compile = lambda function=None, **named: function or (lambda function: function)
    # It takes no kernel that is interpreted.
    torch_library.wrap_triton = lambda kernel: kernel
    _cpu_as_cuda(torch).__enter__()
    return True


def _pose_devices(torch: Any) -> None:
    """What `torch.cuda` says of a device, and what it does there."""
    properties = SimpleNamespace(
        name="NVIDIA H100 80GB HBM3",
        major=9,
        minor=0,
        multi_processor_count=SMS,
        total_memory=80 << 30,
        warp_size=32,
    )
    stream = SimpleNamespace(synchronize=lambda: None, wait_stream=lambda other: None, cuda_stream=0)
    said = {
        "is_available": True,
        "device_count": 1,
        "current_device": 0,
        "get_device_capability": (9, 0),
        "get_device_name": properties.name,
        "get_device_properties": properties,
        "mem_get_info": (64 << 30, 80 << 30),
        "current_stream": stream,
        "synchronize": None,
        "empty_cache": None,
        "set_device": None,
        "device": nullcontext(),
    }
    for name, value in said.items():
        setattr(torch.cuda, name, lambda *args, _value=value, **kwargs: _value)
    torch.version.cuda = torch.version.cuda or "13.0"
    torch.set_default_device = lambda device: None


def _choose_first_configs() -> None:
    """Of a kernel that Triton would tune, the first of its configurations: the interpreter has no clock."""
    try:
        import triton
    except ImportError:
        return

    class First:
        def __init__(self, function: Any, config: Any) -> None:
            self.function, self.config = function, config

        def __getitem__(self, grid: Any) -> Any:
            return lambda *args, **kwargs: self.function[grid](*args, **kwargs, **self.config.kwargs)

    def autotune(configs: Any, *args: Any, **kwargs: Any) -> Any:
        return lambda function: First(function, configs[0])

    triton.autotune = autotune


def round_to_nearest() -> None:
    """Has Triton's interpreter, where it poses, round FP32 to e4m3 as a GPU does: its own carry is lost.

    What it should round up to a power of two it may halve, so quantisers are 3 dB worse than a GPU's.
    """
    if not _posing:
        return
    import torch
    from triton.runtime import interpreter

    convert = interpreter._convert_float

    def rounded(values: Any, dtype: Any, wanted: Any, mode: Any) -> Any:
        if (str(dtype), str(wanted)) != ("fp32", "fp8e4nv"):
            return convert(values, dtype, wanted, mode)
        quantised = torch.from_numpy(values.copy()).to(torch.float8_e4m3fn)
        return quantised.view(torch.uint8).numpy().reshape(values.shape)

    interpreter._convert_float = rounded


def _pose_tensors(torch: Any) -> None:
    """Tensors say that they are on a GPU, to all but cute_gemm."""

    def is_cuda(x: Any) -> bool:
        return not sys._getframe(1).f_globals.get("__name__", "").startswith("cute_gemm")

    torch.Tensor.is_cuda = property(is_cuda)
    torch.Tensor.cuda = lambda x, *args, **kwargs: x


def _cpu_as_cuda(torch: Any) -> Any:
    """What makes a CPU tensor where one on a GPU is asked for."""

    def on_cpu(x: Any) -> Any:
        is_cuda = isinstance(x, (str, torch.device)) and str(x).startswith("cuda")
        return torch.device("cpu") if is_cuda else x

    class CpuAsCuda(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = {name: on_cpu(x) for name, x in (kwargs or {}).items()}
            if kwargs.get("pin_memory"):
                kwargs["pin_memory"] = False
            return function(*map(on_cpu, args), **kwargs)

    return CpuAsCuda()
