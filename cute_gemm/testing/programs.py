"""What tutorials on kernels of one's own (examples/yours) do besides their idea: compile, run, check, time.

On a Hopper GPU kernels run in turns, their results are checked, and their times are printed. On any other
machine they are compiled for sm_90a, and what they were compiled to is printed.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import settings
from ..measure import cold, origin, records
from ..plan.data_sheets import data_sheet
from ..runtime import inspection, lookup
from ..runtime.builder import Program
from ..runtime.hardware import is_hopper
from .poison import poisoned
from .rungs import SHOWN, Shape, arguments_of, line, tell

RECORDS = Path("benchmarks/results/yours")
"""Where the repository has what kernels of tutorials took, a file a card."""


@dataclass(frozen=True)
class Trial:
    """A kernel of a tutorial, and how it is called and judged.

    Args:
        title: what it is.
        program: what it was built from.
        run: calls it, and whatever else belongs to it: ``run(program, inputs, out)``, with what ``make`` of
            the tutorial returned, and the result to write.
        judge: the error of a result, ``judge(inputs, out)``; raises AssertionError if it is wrong.
    """

    title: str
    program: Program
    run: Callable[[Program, Any, Tensor], object]
    judge: Callable[[Any, Tensor], float]


@dataclass(frozen=True)
class Tutorial:
    """Kernels of the same product, into bf16 ``[M, N]``.

    Args:
        name: of its file, without ``.py``.
        shape: ``(M, N, K)``.
        trials: the kernels; this package's own comes first.
        make: operands and whatever else a call takes, on a device.
        groups: matrices of B.
        opcodes: which instructions matter beside those that :data:`.rungs.SHOWN` has.
    """

    name: str
    shape: Shape
    trials: tuple[Trial, ...]
    make: Callable[[torch.device], Any]
    groups: int = 1
    opcodes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def flops(self) -> int:
        """Multiplications and additions."""
        return 2 * math.prod(self.shape)

    @property
    def bytes_moved(self) -> int:
        """What its operands and its result take."""
        m, n, k = self.shape
        return m * k + self.groups * n * k + 2 * m * n


def present(tutorial: Tutorial, argv: Sequence[str] | None = None) -> None:
    """A tutorial's command: runs its kernels where there is a Hopper GPU; says what they were compiled to.

    Args:
        tutorial: as said.
        argv: arguments; None for those of this process, if it was started for this file: a notebook's are not
            for what its cells run.

    Raises:
        AssertionError: a result is wrong.
    """
    parser = argparse.ArgumentParser(description=f"Tutorial {tutorial.name}.")
    parser.add_argument("--out", type=Path, help="append what was measured to this file, as JSON lines")
    args = parser.parse_args(arguments_of(tutorial.name) if argv is None else argv)
    # Backwards, so that of trials of one program the first gives the title.
    programs = {trial.program: trial.title for trial in reversed(tutorial.trials)}
    registers = {}
    for program, title in reversed(programs.items()):
        stats = lookup.examine(program)
        registers[program] = stats.registers
        tell(title, stats, lookup.shared_bytes(program))
        tell_loops(stats)
        counts = [f"{stats.count(*opcodes)} {what}" for what, opcodes in tutorial.opcodes.items()]
        print("".join(f"    {count}\n" for count in counts), end="")
    if not is_hopper():
        print("There is no Hopper GPU here: all of it was compiled, and not run.")
        return
    measured = zip(tutorial.trials, run(tutorial), strict=True)
    rows = [row | {"registers": registers[trial.program]} for trial, row in measured]
    if args.out:
        with args.out.open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    print("\n".join(line(row) for row in rows))


def tell_loops(stats: inspection.KernelStats) -> None:
    """Prints what the loops have that multiply and store nothing; a loop over tiles stores."""
    loops = [each for each in stats.loops if each.count("QGMMA") and not each.count("UTMASTG", "STG")]
    found = dict.fromkeys((each.count("QGMMA"), each.count(*SHOWN["FP32 multiply-adds"])) for each in loops)
    said = "; ".join(f"{wgmma} WGMMA and {others} FP32 multiply-adds" for wgmma, others in found)
    print(f"    loops over k-blocks: {said}")


def run(tutorial: Tutorial) -> list[records.Row]:
    """Runs and checks its kernels on the current device, then times them in turns; what a record has of each.

    Raises:
        AssertionError: a result is wrong, or not all of it was written.
    """
    device = torch.device("cuda")
    inputs, (m, n, _) = tutorial.make(device), tutorial.shape
    errors = []
    # By dependent launch a kernel would start while L2 is flushed, and its wait would count.
    with settings.config(pdl=False):
        for trial in tutorial.trials:
            out, check = poisoned(m, n, torch.bfloat16, device)
            trial.run(trial.program, inputs, out)
            torch.cuda.synchronize()
            check()
            errors.append(trial.judge(inputs, out))
        out = torch.empty(m, n, dtype=torch.bfloat16, device=device)
        calls = [functools.partial(trial.run, trial.program, inputs, out) for trial in tutorial.trials]
        times = cold.time_cold_together(calls)
    sheet = data_sheet(torch.cuda.get_device_name())
    return [
        {
            "tutorial": tutorial.name,
            "rung": trial.title,
            "shape": list(tutorial.shape),
            "us": round(us, 2),
            "tflops": round(tutorial.flops / us / 1e6, 1),
            "gbps": round(tutorial.bytes_moved / us / 1e3, 1),
            "of_limit": round(sheet.limit_us(tutorial) / us, 4) if sheet else None,
            "error": error,
        }
        | origin.describe_origin()
        for trial, us, error in zip(tutorial.trials, (each.median_us for each in times), errors, strict=True)
    ]
