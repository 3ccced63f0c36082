"""What `cute-gemm tune` does, behind its arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..measure.device import multiprocessors, require_hopper
from ..measure.errors import CommandError
from ..measure.progress import track
from ..measure.records import COLD, SUSTAINED
from ..measure.timers import Sustained, timers_of
from ..plan.layouts import LAYOUTS
from ..plan.limits import H100_SMS
from ..plan.tuned import files
from ..plan.tuned.table import TunedError
from ..runtime import hardware
from ..runtime.warmup import compile_and_report
from ..storage import NoDirectoryError
from .arguments import DEFAULT_M
from .calls import kernel_of
from .models import read_layers
from .picking import tune_all
from .tasks import TuningTask, configs_to_time, plan_layers, plan_shapes


def run(args: argparse.Namespace) -> int:
    """What the arguments of `arguments.add_arguments` ask for.

    Returns:
        The exit status: 1 if a problem could not be tuned, else 0.

    Raises:
        CommandError: it cannot be done.
    """
    if args.m and not args.model:
        raise CommandError("--m goes with --model; --shapes bring their own M")
    tasks = _tasks(args, _num_sms(args.num_sms))
    if args.dry_run:
        _list(tasks, args.within)
        return 0
    require_hopper("tune", "--dry-run works without one")
    device_name = torch.cuda.get_device_name()
    path = args.out or _user_file(device_name)
    try:
        # What cannot be written had better be known now.
        copy = files.merge(path, device_name, [])
        if copy is not None:
            print(f"{path} is damaged; kept a copy as {copy}")
        timers, notes = timers_of(_regimes(args.regime), Sustained(rounds=1))
        for note in notes:
            print(note)
        compile_and_report(
            kernel_of(task.problem, config)
            for task in tasks
            for config in configs_to_time(task.problem, args.within)
        )
        failures = tune_all(track(tasks, "tuning"), timers, args.within, path, device_name)
    except (TunedError, OSError) as error:
        raise CommandError(f"cannot keep choices in {path}: {error}") from error
    print(f"{len(tasks) - len(failures)} of {len(tasks)} problems tuned: {path}")
    for failure in failures:
        print(f"FAILED {failure}", file=sys.stderr)
    return 1 if failures else 0


def _tasks(args: argparse.Namespace, num_sms: int) -> list[TuningTask]:
    layout = LAYOUTS[args.op]
    if args.model:
        ms = args.m or DEFAULT_M
        return plan_layers(layout, read_layers(args.model), ms, args.out_dtype, num_sms)
    return plan_shapes(layout, args.shapes, args.out_dtype, num_sms)


def _regimes(chosen: str) -> tuple[str, ...]:
    return (COLD, SUSTAINED) if chosen == "both" else (chosen,)


def _num_sms(wanted: int | None) -> int:
    """The multiprocessors that kernels are given: those of the device, or of an H100 where there is none."""
    there = multiprocessors() if hardware.is_hopper() else H100_SMS
    if wanted is not None and wanted > there:
        raise CommandError(f"--num-sms is {wanted}, but there are {there}")
    return there if wanted is None else wanted


def _list(tasks: Sequence[TuningTask], within: float) -> None:
    for task in tasks:
        names = [config.name for config in configs_to_time(task.problem, within)]
        print(f"{task.title}: {len(names)} candidates: {' '.join(names)}")


def _user_file(device_name: str) -> Path:
    try:
        directory = files.user_directory()
    except NoDirectoryError as error:
        raise CommandError(f"there is no directory for choices: {error}; name a file by --out") from error
    if directory is None:
        raise CommandError(
            f"there is no directory for choices, as {files.DIRECTORY_VARIABLE} is empty or the disk cache is "
            "switched off; name a file by --out"
        )
    return directory / files.file_name(device_name)
