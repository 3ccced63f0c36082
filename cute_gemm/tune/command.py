"""What `cute-gemm tune` does, behind its arguments."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from ..measure.console import failed, say
from ..measure.device import compile_kernels, require_hopper
from ..measure.errors import CommandError
from ..measure.models import read_model
from ..measure.progress import track
from ..measure.timers import Sustained, timers_of
from ..plan.card import H100, Card
from ..plan.layouts import LAYOUTS
from ..plan.tuned import files
from ..runtime import hardware
from ..storage import NoDirectoryError
from .arguments import DEFAULT_M
from .calls import kernel_of
from .picking import keep, tune_all
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
    card = hardware.card() if hardware.is_hopper() else H100
    tasks, left_out = _tasks(args, card)
    for each in left_out:
        # Whether anybody reads it does not matter to what was asked for.
        with suppress(OSError):
            say(f"cute-gemm: left out: {each}", sys.stderr)
    if args.dry_run:
        _list(tasks, args.within)
        return 0
    require_hopper("tune", "--dry-run works without one")
    path = args.out or _user_file(card.name)
    if path.is_dir():
        raise CommandError(f"{path} is a folder; name a file by --out")
    # What cannot be written had better be known now.
    copy = keep(path, card.name, [])
    if copy is not None:
        say(f"{path} is damaged; kept a copy as {copy}")
    timers, notes = timers_of(dict.fromkeys(args.regime), Sustained(rounds=1))
    for note in notes:
        say(note)
    compile_kernels(
        kernel_of(task.problem, config)
        for task in tasks
        for config in configs_to_time(task.problem, args.within)
    )
    failures = tune_all(track(tasks, "tuning"), timers, args.within, path, card.name)
    say(f"{len(tasks) - len(failures)} of {len(tasks)} problems tuned: {path}")
    return failed(failures)


def _tasks(args: argparse.Namespace, card: Card) -> tuple[list[TuningTask], list[str]]:
    """What is to be tuned; and what of a model is not."""
    layout, num_sms = LAYOUTS[args.op], _num_sms(args.num_sms, card)
    if args.model:
        model = read_model(args.model)
        ms = args.m or DEFAULT_M
        return plan_layers(layout, model.layers, ms, args.out_dtype, num_sms, card), model.left_out
    return plan_shapes(layout, args.shapes, args.out_dtype, num_sms, card), []


def _num_sms(wanted: int | None, card: Card) -> int:
    """The multiprocessors that kernels are given: all of the card, or as many as are wanted."""
    if wanted is not None and wanted > card.sms:
        raise CommandError(f"--num-sms is {wanted}, but there are {card.sms}")
    return card.sms if wanted is None else wanted


def _list(tasks: Sequence[TuningTask], within: float) -> None:
    for task in tasks:
        names = [config.name for config in configs_to_time(task.problem, within)]
        say(f"{task.title}: {len(names)} candidates: {' '.join(names)}")


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
