"""What tests, benchmarks and examples share: error metrics, inputs, poisoned outputs, timers, schedules."""

from ..measure.clocks import host_time, time_sustained
from ..measure.cold import time_cold, time_cold_together
from .errors import (
    TENSOR_CORE_NOISE,
    assert_close_per_tile,
    assert_correct,
    assert_elements_close,
    element_noise,
    gate,
    tile_errors,
    tile_limits,
    worst_element_error,
    worst_tile_error,
)
from .grouped import (
    GroupedInputs,
    assert_grouped_correct,
    make_contiguous_inputs,
    make_masked_inputs,
    make_offsets_inputs,
)
from .inputs import INPUT_KINDS, make_inputs
from .k_grouped import KGroupedInputs, assert_k_grouped_correct, make_k_grouped_inputs
from .poison import poisoned, poisoned_rows
from .schedules import Extents, Rows, Schedule, Tile, assert_each_tile_once, walk

__all__ = [
    "INPUT_KINDS",
    "TENSOR_CORE_NOISE",
    "Extents",
    "GroupedInputs",
    "KGroupedInputs",
    "Rows",
    "Schedule",
    "Tile",
    "assert_close_per_tile",
    "assert_correct",
    "assert_each_tile_once",
    "assert_elements_close",
    "assert_grouped_correct",
    "assert_k_grouped_correct",
    "element_noise",
    "gate",
    "host_time",
    "make_contiguous_inputs",
    "make_inputs",
    "make_k_grouped_inputs",
    "make_masked_inputs",
    "make_offsets_inputs",
    "poisoned",
    "poisoned_rows",
    "tile_errors",
    "tile_limits",
    "time_cold",
    "time_cold_together",
    "time_sustained",
    "walk",
    "worst_element_error",
    "worst_tile_error",
]
