"""`cute-gemm demo` from a pack, in an environment with a server's pins, in which nothing may be compiled.

    python3.10 -m venv pinned && pinned/bin/pip install . nvidia-cutlass-dsl==4.6.2 apache-tvm-ffi==0.1.11
    python tests/external/run_from_pack.py --python pinned/bin/python

vLLM and SGLang pin these versions. The pack is made there, too: kernels of a newer DSL want its runtime
library. Without a Hopper GPU `demo` computes by its reference; its kernels are looked up and loaded.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
M, N, K = 64, 2112, 7168
LIMIT_S = 1200

MAKE = "import sys; from cute_gemm.cli import main; sys.exit(main(sys.argv[1:]))"
DEMO = f"""
import sys
from importlib.metadata import version

import torch

sys.modules["cutlass"] = None
from cute_gemm.cli import main
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.quantizer import BlockQuantizer, RowQuantizer
from cute_gemm.runtime import builder, quantizer_builder, selection

print({{name: version(name) for name in ("nvidia-cutlass-dsl", "apache-tvm-ffi", "torch")}})
builder.instance(selection.select(GemmProblem({M}, {N}, {K})))
quantizer_builder.instance(RowQuantizer("float32", passes=1))
quantizer_builder.instance(BlockQuantizer("float32"))
sys.exit(main(["demo", "--m", "{M}", "--n", "{N}", "--k", "{K}"]))
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", default=sys.executable, help="of the environment; else this one")
    parser.add_argument("--card", default="NVIDIA H200", help="the GPU that kernels are chosen for")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        pack, cache, empty = (str(Path(folder, name)) for name in ("pack", "cache", "empty"))
        shape = ["--nk", f"{N},{K}", "--max-m", str(M), "--op", "dense", "--dtype", "float32"]
        arguments = ["pack", pack, *shape, "--card", asked.card]
        run(asked.python, MAKE, arguments, {"CUTE_GEMM_CACHE_DIR": cache})
        settings = {"CUTE_GEMM_CACHE_DIR": empty, "CUTE_GEMM_PACKS": pack, "CUTE_GEMM_JIT": "never"}
        run(asked.python, DEMO, [], settings)
        assert not list(Path(empty).glob("*.kernel")), "something was compiled"
    return 0


def run(python: str, program: str, arguments: list[str], settings: dict[str, str]) -> None:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | settings | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [python, "-c", program, *arguments]
    subprocess.run(command, env=environment, check=True, timeout=LIMIT_S)


if __name__ == "__main__":
    sys.exit(main())
