"""What `cute-gemm tune` does, behind its arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..bench.records import COLD, SUSTAINED
from ..bench.timers import Sustained, timers_of
from ..measure.progress import track
from ..plan.problem import GemmProblem
from ..plan.tuned import files
from ..plan.tuned.table import TunedError
from ..runtime import hardware
from ..runtime.warmup import compile_and_tell
from . import TuneError
from .arguments import DEFAULT_M
from .candidates import kernel_of
from .measure import run_jobs
from .models import read_layers
from .plan import Job, candidates, plan_layers, plan_shapes


def run(args: argparse.Namespace) -> int:
    """What the arguments of `arguments.add_arguments` ask for.

    Returns:
        The exit status: 1 if a problem could not be tuned, else 0.

    Raises:
        TuneError: it cannot be done.
    """
    if args.m and not args.model:
        raise TuneError("--m goes with --model; --shapes bring their own M")
    jobs = _jobs(args, _num_sms(args.num_sms))
    if args.dry_run:
        _list(jobs, args.within)
        return 0
    _need_hopper()
    device_name = torch.cuda.get_device_name()
    path = args.out or _user_file(device_name)
    try:
        # What cannot be written had better be known now.
        files.merge(path, device_name, [])
        timers, notes = timers_of(_regimes(args.regime), Sustained(rounds=1))
        for note in notes:
            print(note)
        compile_and_tell(
            kernel_of(job.problem, config) for job in jobs for config in candidates(job.problem, args.within)
        )
        failures = run_jobs(track(jobs, "tuning"), timers, args.within, path, device_name)
    except (TunedError, OSError) as error:
        raise TuneError(f"cannot keep choices in {path}: {error}") from error
    print(f"{len(jobs) - len(failures)} of {len(jobs)} problems tuned: {path}")
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


def _jobs(args: argparse.Namespace, num_sms: int) -> list[Job]:
    if args.model:
        ms = args.m or DEFAULT_M
        return plan_layers(args.op, read_layers(args.model), ms, args.out_dtype, num_sms)
    return plan_shapes(args.op, args.shapes, args.out_dtype, num_sms)


def _regimes(chosen: str) -> tuple[str, ...]:
    return (COLD, SUSTAINED) if chosen == "both" else (chosen,)


def _num_sms(wanted: int | None) -> int:
    """The multiprocessors that kernels are given: those of the device, or of an H200 where there is none."""
    there = (
        torch.cuda.get_device_properties().multi_processor_count
        if hardware.is_hopper()
        else GemmProblem(1, 8, 16).num_sms
    )
    if wanted is not None and wanted > there:
        raise TuneError(f"--num-sms is {wanted}, but there are {there}")
    return there if wanted is None else wanted


def _list(jobs: Sequence[Job], within: float) -> None:
    for job in jobs:
        names = [config.name for config in candidates(job.problem, within)]
        print(f"{job.title}: {len(names)} candidates: {' '.join(names)}")


def _need_hopper() -> None:
    if not torch.cuda.is_available():
        raise TuneError("tune times a GPU, and torch sees none; --dry-run works without one")
    if not hardware.is_hopper():
        raise TuneError(f"tune times a Hopper GPU; this is {hardware.describe()}")


def _user_file(device_name: str) -> Path:
    directory = files.user_directory()
    if directory is None:
        raise TuneError(
            f"there is no directory for choices, as {files.DIRECTORY_VARIABLE} is empty or the disk cache is "
            "switched off; name a file by --out"
        )
    return directory / files.file_name(device_name)
