"""Others' code that was written for DeepGEMM, unmodified, on `cute_gemm.compat.deep_gemm`.

    python tests/external/run_others.py --kernels-community DIR --torchao DIR --transformers DIR --vllm DIR \
        --sglang DIR --deep-gemm DIR

Each option names a checkout; what each runs, and with what in place of what is not installed, the scripts in
`others/` say. Nothing is downloaded. Without a Hopper GPU the CPU poses as one (`others/posing.py`): then the
drop-in computes by its reference, and what is tested is names, arguments, layouts and meanings.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OTHERS = Path(__file__).resolve().parent / "others"
PROJECTS = tuple(sorted(path.stem.removeprefix("check_") for path in OTHERS.glob("check_*.py")))
LIMIT_S = 3600


def main() -> int:
    """Runs what is asked for; the exit status is the number of projects in which something failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for project in PROJECTS:
        option = f"--{project.replace('_', '-')}"
        parser.add_argument(option, type=Path, metavar="DIR", help="a checkout of it")
    asked = {project: checkout for project, checkout in vars(parser.parse_args()).items() if checkout}
    if not asked:
        print("skipped: no checkout is named")
    return sum(not run(project, checkout) for project, checkout in asked.items())


def run(project: str, checkout: Path) -> bool:
    """Whether all of a project's checks pass, in a process of their own that finds the drop-in."""
    paths = [str(ROOT / "drop_in"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    command = [sys.executable, str(OTHERS / f"check_{project}.py"), str(checkout)]
    print(f"== {project}", flush=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(command, env=environment, check=False, timeout=LIMIT_S)
    print(f"== {project} {'done' if done.returncode == 0 else 'failed'}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main())
