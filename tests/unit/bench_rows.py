"""Rows and stand-ins that the tests of the benchmark share."""

import subprocess
import sys

import pytest
import torch
from stand_ins import stand_in_card

from cute_gemm.bench import command
from cute_gemm.bench.rows import measurement
from cute_gemm.bench.run import Bench
from cute_gemm.measure import records, timers
from cute_gemm.measure.timers import Times
from cute_gemm.measure.work import Work
from cute_gemm.runtime import hardware, warmup

ORIGIN = {"versions": {"torch": "2.11.0"}, "device": "NVIDIA H200", "date": "2026-11-23"}
SHAPE = (4096, 4096, 7168)
GROUPED_SHAPE = (4, 8192, 6144, 7168)

# Shapes as small as the CPU needs them stand in for the peers'.
SMALL = {"contiguous": (4, 100, 136, 272), "masked": (3, 20, 136, 272)}


def timed_row(op, shape, us, peer, regime, *, scale_layout, config, error, median=None, spread=0.01):
    """A row of any suite, of twenty rounds by CUPTI."""
    return measurement(
        Work.of(op, shape),
        peer,
        us,
        median=us if median is None else median,
        spread=spread,
        rounds=20,
        timer="CUPTI",
        regime=regime,
        scale_layout=scale_layout,
        config=config,
        error_worst_tile=error,
        origin=ORIGIN,
    )


def row(us=200.0, shape=SHAPE, peer=records.OURS, regime="cold", layout="m_major", op="dense_1d2d", **more):
    found = timed_row(
        op,
        shape,
        us,
        peer,
        regime,
        scale_layout=layout,
        config="256x128_c2x1_s3_bf16",
        error=1.4321e-6,
        median=more.pop("median", us),
        spread=more.pop("spread", 0.01234567),
    )
    return found | more


def grouped_row(us=2000.0, op="m_grouped_contiguous", shape=GROUPED_SHAPE, **more):
    return row(us, shape, op=op, **more)


class StandInTimer:
    """Takes the place of the timers, which need a GPU: calls all twice, and says 10, 11, 12, ... us."""

    name = "stand-in"

    def __init__(self):
        self.order = []

    def __call__(self, calls):
        for call in [*calls] * 2:
            call()
            self.order.append(call)
        return [Times((9.0 + i, 10.0 + i, 11.0 + i)) for i in range(len(calls))]


def stand_in_gpu(monkeypatch, sms):
    """Makes the command run on the CPU as on a Hopper GPU; gives the kernels that would be compiled."""
    compiled = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(hardware, "is_hopper", lambda: True)
    stand_in_card(monkeypatch, sms)
    monkeypatch.setattr(timers, "cold_timer", lambda: (StandInTimer(), ""))
    monkeypatch.setattr(timers, "GraphReplay", StandInTimer)
    monkeypatch.setattr(command, "describe_origin", lambda versions: ORIGIN)
    monkeypatch.setattr(warmup, "compile_configs", compiled.extend)
    on_cpu = {"device": "cpu", "host_time": lambda call: 12.0}
    monkeypatch.setattr(command, "Bench", lambda *arguments, **more: Bench(*arguments, **more, **on_cpu))
    return compiled


def kernels_interpreted(program):
    """How many configurations of Triton kernels a program has tried in Triton's interpreter.

    In a process of its own: what interprets kernels must be chosen before they are defined.
    """
    pytest.importorskip("triton", minversion="3.8", reason="its interpreter needs Triton 3.8 for NumPy 2.4")
    command_line = [sys.executable, "-c", program]
    found = subprocess.run(command_line, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return int(found.stdout)
