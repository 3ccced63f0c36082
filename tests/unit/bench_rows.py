"""Rows and stand-ins that the tests of the benchmark share."""

from cute_gemm.bench.rows import measurement
from cute_gemm.measure import records
from cute_gemm.measure.timers import Times
from cute_gemm.measure.work import Work

ORIGIN = {"versions": {"torch": "2.11.0"}, "device": "NVIDIA H200", "date": "2026-11-23"}
SHAPE = (4096, 4096, 7168)
GROUPED_SHAPE = (4, 8192, 6144, 7168)

# Shapes as small as the CPU needs them stand in for the peers'.
SMALL = {"contiguous": (4, 100, 136, 272), "masked": (3, 20, 136, 272)}


def row(us=200.0, shape=SHAPE, peer=records.OURS, regime="cold", layout="m_major", op="dense_1d2d", **more):
    spread = more.pop("spread", 0.01234567)
    found = measurement(
        Work.of(op, shape),
        peer,
        us,
        median=more.pop("median", us),
        spread=spread,
        rounds=20,
        timer="CUPTI",
        regime=regime,
        scale_layout=layout,
        config="256x128_c2x1_s3_bf16",
        error_worst_tile=1.4321e-6,
        origin=ORIGIN,
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
