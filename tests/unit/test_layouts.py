"""What layouts say of themselves: parts that exist, and a repr that may be kept on disk."""

import copy
import pickle
from dataclasses import replace

import pytest
from calls import every_layout

from cute_gemm.plan import candidates, cost_model
from cute_gemm.plan.buildable import why_unbuildable
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import CONTIGUOUS, DENSE, K_GROUPED, LAYOUTS, MASKED, OFFSETS, Layout, resolve
from cute_gemm.plan.limits import MAX_ALIGNMENT
from cute_gemm.plan.problem import GemmProblem
from cute_gemm.plan.recipe import FP8_1D1D


def test_layouts_are_found_by_name() -> None:
    assert list(LAYOUTS) == ["dense", "contiguous", "offsets", "masked"]
    assert list(LAYOUTS.values()) == [DENSE, CONTIGUOUS, OFFSETS, MASKED]
    assert all(layout.name == name for name, layout in LAYOUTS.items())


@every_layout
def test_a_repr_is_the_same_in_every_process(layout: Layout) -> None:
    """It is part of the key of kernels on disk, in which an address would never be found again."""
    assert repr(layout) == f"<{layout.name}>"
    config = candidates.all_configs(layout=layout)[0]
    assert " at 0x" not in repr(config)
    assert repr(layout) in repr(config)


@every_layout
def test_a_configuration_that_went_to_another_process_is_the_same(layout: Layout) -> None:
    """As those that are compiled in processes of their own do."""
    config = candidates.all_configs(layout=layout)[0]
    for there in (pickle.loads(pickle.dumps(config)), copy.deepcopy(config)):
        assert there.layout is layout
        assert there == config
        assert hash(there) == hash(config)
        assert there.name == config.name


@every_layout
def test_all_parts_of_a_layout_exist(layout: Layout) -> None:
    configs = candidates.all_configs(layout=layout)
    for path in {layout.scheduler(config) for config in configs}:
        assert hasattr(resolve(path), "initial_work")
    for path in {layout.store(config) for config in configs}:
        assert hasattr(resolve(path), "of")
    assert layout.is_grouped == (layout.index is not None)
    if layout.index is not None:
        assert callable(resolve(layout.row_groups))
        assert callable(resolve(layout.validation))


def test_what_does_not_exist_is_not_resolved() -> None:
    with pytest.raises(AttributeError):
        resolve("cute_gemm.kernels.epilogue:NoStore")


@every_layout
def test_ranks_are_those_of_the_operation(layout: Layout) -> None:
    assert layout.a_rank == (3 if layout.name == "masked" else 2)
    assert layout.b_rank == (2 if layout.name == "dense" else 3)


def test_what_goes_with_an_index() -> None:
    """By name: these are arguments of public operations."""
    names = {
        layout.name: (
            layout.index and (layout.index.name, layout.index.axis),
            layout.count and (layout.count.name, layout.count.limit),
            layout.gives_count_to_kernel,
        )
        for layout in LAYOUTS.values()
    }
    assert names == {
        "dense": (None, None, False),
        "contiguous": (("group_index", "M"), None, False),
        "offsets": (("offsets", "G"), ("alignment", MAX_ALIGNMENT), True),
        "masked": (("valid_rows", "G"), ("expected_rows", None), False),
    }


@every_layout
def test_rows_are_all_but_where_fewer_are_expected(layout: Layout) -> None:
    expected = {"masked": {5: 15, 20: 60, 50: 60}}.get(layout.name, {5: 20, 20: 20, 50: 20})
    assert {count: layout.rows(20, 3, count) for count in expected} == expected


@pytest.mark.parametrize(
    ("layout", "rows", "height", "blocks"),
    [
        (DENSE, 129, 64, 3),
        (CONTIGUOUS, 256, 128, 2),
        # Of 8 groups of 100 rows on average, of 74 to 126 rows, one block of 128 rows each, or two of 64.
        (OFFSETS, 800, 128, 8),
        (MASKED, 800, 64, 16),
    ],
)
def test_blocks_of_rows_have_rows_of_one_group(layout: Layout, rows: int, height: int, blocks: int) -> None:
    groups = 8 if layout.is_grouped else 1
    assert layout.row_blocks(rows, groups, height) == blocks


def test_few_rows_leave_groups_of_any_size_empty() -> None:
    assert OFFSETS.groups_in_use(1, 32) == pytest.approx(1)
    # Of 32 rows, each of one of 32 groups: 32 (1 - (31 / 32) ** 32).
    assert OFFSETS.groups_in_use(32, 32) == pytest.approx(20.4, abs=0.1)
    assert OFFSETS.groups_in_use(8192, 32) == pytest.approx(32)
    # One block of rows for each group that has some, however low it is.
    assert OFFSETS.row_blocks(8, 128, 64) == OFFSETS.row_blocks(8, 128, 16) == 8
    # Who gives a number of rows for each group means that each has some.
    assert MASKED.groups_in_use(8, 128) == MASKED.row_blocks(8, 128, 64) == 128


def test_problems_in_words() -> None:
    shape = {"n": 8, "k": 16}
    assert DENSE.describe(GemmProblem(20, **shape)) == "M = 20, N = 8, K = 16"
    grouped = GemmProblem(20, **shape, layout=OFFSETS, groups=3)
    assert OFFSETS.describe(grouped) == "M = 20, N = 8, K = 16, 3 groups"
    masked = GemmProblem(15, **shape, layout=MASKED, groups=3)
    assert MASKED.describe(masked) == "3 x 5 expected rows, N = 8, K = 16, 3 groups"


@every_layout
def test_k_blocks_are_shared_out_by_dense_tiles_alone(layout: Layout) -> None:
    config = KernelConfig(64, 64, 8, splits=2, epi_n=64, epi_stages=1, layout=layout)
    assert candidates.can_be_built(config) == (layout is DENSE)


# Groups of columns


def columns_config(**fields: object) -> KernelConfig:
    return KernelConfig(128, 128, 4, layout=K_GROUPED, recipe=FP8_1D1D, out_dtype="float32", **fields)


@pytest.mark.parametrize("accumulates", [False, True])
def test_parts_of_groups_of_columns(accumulates: bool) -> None:
    config = columns_config(accumulates=accumulates)
    assert resolve(K_GROUPED.scheduler(config)).has_padding is False
    assert K_GROUPED.scheduler(config).endswith("KGroupedAddingScheduler") == accumulates
    assert K_GROUPED.store(config) == f"cute_gemm.kernels.epilogue:Tma{'Add' if accumulates else ''}Store"
    assert (K_GROUPED.a_rank, K_GROUPED.b_rank) == (2, 2)
    assert (K_GROUPED.index.name, K_GROUPED.index.axis) == ("offsets", "G + 1")


def test_groups_of_columns_have_scales_of_rows_and_all_their_k_blocks() -> None:
    assert K_GROUPED.allows(columns_config())
    assert not K_GROUPED.allows(columns_config(splits=2))
    assert not K_GROUPED.allows(columns_config(block_k=64))
    assert not K_GROUPED.allows(KernelConfig(128, 128, 4, layout=K_GROUPED))


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("m", [1, 8, 64, 65, 4096])
@pytest.mark.parametrize("groups", [1, 8, 1022])
def test_groups_of_columns_of_any_number_of_rows_have_a_kernel(m: int, groups: int, accumulate: bool) -> None:
    named = {"recipe": FP8_1D1D, "layout": K_GROUPED, "groups": groups, "accumulate": accumulate}
    for num_sms in (1, 132):
        best = cost_model.best(GemmProblem(m, 4096, 8192, "float32", num_sms, **named))
        assert best.layout is K_GROUPED
        assert best.accumulates == accumulate
        assert why_unbuildable(best) == ""


@pytest.mark.parametrize("block_m", [8, 16])
def test_a_stage_of_groups_of_columns_has_all_rows_that_are_multiplied(block_m: int) -> None:
    """Else what is trimmed would be rows of the next stage."""
    config = next(each for each in candidates.every_row_scaled_config() if each.layout is K_GROUPED)
    assert "does not allow its tile" in why_unbuildable(replace(config, block_m=block_m))


def test_what_groups_of_columns_are_expected_to_have() -> None:
    assert K_GROUPED.row_blocks(300, 4, 128) == 12
    # Of 1024 columns on average, 0.7375 to 1.2625 times as many: 6, 7, 8, 8, 9, 9, 10 and 11 k-blocks.
    assert K_GROUPED.k_blocks(8 * 1024, 8, 128) == pytest.approx(68 / 8)
    assert DENSE.k_blocks(130, 1, 128) == 2
    problem = GemmProblem(20, 8, 48, layout=K_GROUPED, groups=3)
    assert K_GROUPED.describe(problem) == "M = 20, N = 8, K = 48 of 3 groups together"
