"""Error metrics, input generators, poisoned outputs and timers, shared by tests, benchmarks and examples."""

from .errors import (
    assert_close_per_tile,
    assert_correct,
    gate,
    tile_errors,
    tile_limits,
    worst_element_error,
    worst_tile_error,
)
from .inputs import INPUT_KINDS, make_inputs
from .poison import poisoned
from .timing import host_time, limit_us, time_cold, time_cold_together, time_sustained

__all__ = [
    "INPUT_KINDS",
    "assert_close_per_tile",
    "assert_correct",
    "gate",
    "host_time",
    "limit_us",
    "make_inputs",
    "poisoned",
    "tile_errors",
    "tile_limits",
    "time_cold",
    "time_cold_together",
    "time_sustained",
    "worst_element_error",
    "worst_tile_error",
]
