"""What the rows of a run share: versions, device and date."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Mapping
from importlib import metadata

import torch

import cute_gemm

from .records import Row

_DSL = "nvidia-cutlass-dsl"  # and what begins with it


def describe_origin(more: Mapping[str, str] | None = None) -> Row:
    """``versions``, to which ``more`` are added, ``device`` and ``date``, for the current CUDA device."""
    versions = {"cute_gemm": cute_gemm.__version__, "torch": torch.__version__, **distributions()}
    versions["tvm-ffi"] = metadata.version("apache-tvm-ffi")
    versions |= more or {}
    versions["cuda driver"] = _driver_version()
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {"versions": versions, "device": torch.cuda.get_device_name(), "date": date}


def distributions(*names: str) -> dict[str, str]:
    """Versions of what is installed of the CuTe DSL and of ``names``, by the names of distributions."""
    named = [each for each in metadata.distributions() if each.name]
    found = {each.name.lower().replace("_", "-"): each.version for each in named}
    return {name: found[name] for name in sorted(found) if name in names or name.startswith(_DSL)}


def _driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
