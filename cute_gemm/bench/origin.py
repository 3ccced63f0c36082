"""What the rows of a run share: versions, device and date."""

from __future__ import annotations

import datetime
import subprocess
from collections.abc import Iterable
from importlib import metadata

import torch

import cute_gemm

from .peers import Peer
from .records import Row


def describe_origin(peers: Iterable[Peer] = ()) -> Row:
    """``versions``, also of ``peers``, ``device`` and ``date``, for the current CUDA device."""
    versions = {"cute_gemm": cute_gemm.__version__, "torch": torch.__version__}
    found = {each.name.replace("_", "-"): each.version for each in metadata.distributions() if each.name}
    versions |= {name: found[name] for name in sorted(found) if name.startswith("nvidia-cutlass-dsl")}
    versions["tvm-ffi"] = metadata.version("apache-tvm-ffi")
    for peer in peers:
        versions |= peer.versions()
    versions["cuda driver"] = _driver_version()
    date = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    return {"versions": versions, "device": torch.cuda.get_device_name(), "date": date}


def _driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "unknown"
