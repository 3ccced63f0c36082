"""What the rows of a run share: versions, device and date."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Mapping

import torch

import cute_gemm

from ..runtime import distributions as installed
from .records import Row


def describe_origin(more: Mapping[str, str] | None = None) -> Row:
    """``versions``, to which ``more`` are added, ``device`` and ``date``, for the current CUDA device."""
    versions = {"cute_gemm": cute_gemm.__version__, "torch": torch.__version__, **distributions()}
    versions["tvm-ffi"] = installed.versions("apache-tvm-ffi").get("apache-tvm-ffi", "unknown")
    versions |= more or {}
    versions["cuda driver"] = driver_version()
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {"versions": versions, "device": torch.cuda.get_device_name(), "date": date}


def distributions(*names: str) -> dict[str, str]:
    """Versions of what is installed of the CuTe DSL and of ``names``, by the names of distributions."""
    return installed.versions("nvidia-cutlass-dsl*", *names)


def driver_version() -> str:
    """Of CUDA's driver, as `nvidia-smi` says; "unknown" where it does not."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
