"""How a kernel that was chosen is launched: what leaves L2 first, and where clusters draw their tiles."""

from dataclasses import replace

import pytest

from cute_gemm.plan import launch_policy
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.launch_policy import LaunchFlags
from cute_gemm.plan.layouts import DENSE, MASKED, OFFSETS, Layout
from cute_gemm.plan.problem import GemmProblem


@pytest.mark.parametrize(
    ("m", "n", "layout", "groups", "flags"),
    [
        (64, 4096, DENSE, 1, LaunchFlags.EVICT_FIRST_B),  # a tile reads a row of B, 32 read one of A
        (512, 4096, DENSE, 1, LaunchFlags.EVICT_FIRST_B),
        (513, 4096, DENSE, 1, LaunchFlags(0)),
        (4096, 512, DENSE, 1, LaunchFlags.EVICT_FIRST_A),
        (128, 128, DENSE, 1, LaunchFlags.EVICT_FIRST_A | LaunchFlags.EVICT_FIRST_B),
        (32 * 512, 4096, OFFSETS, 32, LaunchFlags.EVICT_FIRST_B),  # few rows in each group
        (32 * 600, 4096, OFFSETS, 32, LaunchFlags(0)),
    ],
)
def test_operands_that_few_tiles_read_leave_l2_first(
    m: int, n: int, layout: Layout, groups: int, flags: LaunchFlags
) -> None:
    problem = GemmProblem(m, n, 1024, layout=layout, groups=groups)
    assert launch_policy.launch_flags(problem, KernelConfig(128, 128, 6, layout=layout)) == flags


@pytest.mark.parametrize(
    ("l2_promotion", "groups", "flags"),
    [
        (256, 9, LaunchFlags.EVICT_FIRST_B),  # 396 MB of B
        (256, 10, LaunchFlags(0)),
        (128, 10, LaunchFlags.EVICT_FIRST_B),  # whose maps do not promote
    ],
)
def test_b_of_many_groups_does_not_leave_l2_first(l2_promotion: int, groups: int, flags: LaunchFlags) -> None:
    problem = GemmProblem(20 * groups, 6144, 7168, layout=MASKED, groups=groups)
    config = KernelConfig(64, 128, 8, layout=MASKED, l2_promotion=l2_promotion)
    assert launch_policy.launch_flags(problem, config) == flags


PAIR = KernelConfig(128, 128, 6, cluster_n=2, dynamic_persistence=True)


@pytest.mark.parametrize(
    ("n", "k", "num_sms", "draws"),
    [
        (66 * 256 + 8, 1024, 132, True),
        (66 * 256, 1024, 132, False),  # a tile for each cluster
        (66 * 256, 1024, 131, True),
        (66 * 256 + 8, 896, 132, False),  # too few k-blocks
        (66 * 256 + 8, 904, 132, True),
        (256, 1024, 1, False),  # one cluster runs all the same
        (264, 1024, 1, True),
    ],
)
def test_tiles_are_drawn_where_there_are_more_than_run_at_once(
    n: int, k: int, num_sms: int, draws: bool
) -> None:
    assert launch_policy.is_drawn(GemmProblem(128, n, k, num_sms=num_sms), PAIR) == draws


def test_no_tiles_are_drawn_by_kernels_that_cannot() -> None:
    problem = GemmProblem(4096, 4096, 1024)
    assert launch_policy.is_drawn(problem, PAIR)
    assert not launch_policy.is_drawn(problem, replace(PAIR, dynamic_persistence=False))


@pytest.mark.parametrize("pdl", [False, True])
def test_dependent_launch_is_a_flag_beside_the_others(pdl: bool) -> None:
    problem, config = GemmProblem(64, 4096, 1024), KernelConfig(128, 128, 6)
    flags = launch_policy.launch_flags(problem, config, pdl)
    assert LaunchFlags.EVICT_FIRST_B in flags
    assert (LaunchFlags.PDL in flags) == pdl


@pytest.mark.parametrize(
    ("n", "k", "is_dependent"),
    [
        (64 * 66, 16384, True),  # half of the SMs: the next kernel starts on the others
        (64 * 68, 16384, False),
        (64 * 104, 16384, False),
        (64 * 106, 16384, True),
        (64 * 200, 16384, True),
        (64 * 80, 7680, True),  # 983040 bytes for each CTA
        (64 * 80, 7808, True),  # 999424
        (64 * 80, 7936, False),
    ],
)
def test_dependent_launch_is_chosen_but_where_it_was_measured_to_cost(
    n: int, k: int, is_dependent: bool
) -> None:
    problem, config = GemmProblem(64, n, k), KernelConfig(64, 64, 8)
    assert (LaunchFlags.PDL in launch_policy.launch_flags(problem, config, None)) == is_dependent
    # CTAs that share out k-blocks load as much less each.
    shared = replace(problem, n=n // 2, k=2 * k)
    assert launch_policy.dependent_launch_pays(shared, replace(config, splits=2)) == is_dependent


def test_clusters_are_of_the_tiles_of_whole_groups() -> None:
    assert launch_policy.clusters_of(GemmProblem(300, 264, 128), PAIR) == (3, 2)
    grouped = GemmProblem(800, 264, 128, layout=OFFSETS, groups=8)
    assert launch_policy.clusters_of(grouped, replace(PAIR, layout=OFFSETS)) == (8, 2)
