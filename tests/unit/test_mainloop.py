"""What the roles of a kernel work out of a ring's stages and a launch's flags, run on the host."""

import cutlass
import cutlass.cute as cute
import pytest
import torch
from cutlass import Int32, Int64, pipeline
from cutlass.cute.runtime import from_dlpack

from cute_gemm.kernels.mainloop import SerialMainloop
from cute_gemm.kernels.sm90.tma import l2_policy
from cute_gemm.plan.launch_policy import LaunchFlags

STEPS = 24


def run(function, dtype: torch.dtype = torch.int32) -> list[list[int]]:
    """The rows of two numbers that ``function``, in the DSL, writes."""
    out = torch.full((STEPS, 2), -1, dtype=dtype)
    argument = from_dlpack(out)
    cute.compile(function, argument)(argument)
    return out.tolist()


def serial_mainloop(stages: int) -> SerialMainloop:
    return SerialMainloop(m_fragments=1, n_fragments=1, stages=stages, group=4)


@pytest.mark.parametrize("stages", [3, 4, 6, 7, 8, 12])
def test_a_tile_ends_with_a_group_of_stages_where_the_ring_has_whole_groups(stages: int) -> None:
    mainloop = serial_mainloop(stages)

    @cute.jit
    def skipped(out: cute.Tensor):
        for i in cutlass.range(STEPS, unroll=1):
            out[i, 0] = mainloop.skipped_stages(i)

    for k_count, (unused, _) in enumerate(run(skipped)):
        assert unused == (-k_count % 4 if stages % 4 == 0 else 0)


@pytest.mark.parametrize("stages", [4, 8, 12])
def test_groups_of_stages_follow_each_other_as_the_stages_of_the_ring_do(stages: int) -> None:
    mainloop = serial_mainloop(stages)

    @cute.jit
    def walk(out: cute.Tensor):
        state = pipeline.PipelineState(stages, Int32(0), Int32(0), Int32(0))
        for group in cutlass.range(0, STEPS, 4, unroll=1):
            for i in cutlass.range_constexpr(4):
                here = mainloop.within(state, i)
                out[group + i, 0] = here.index
                out[group + i, 1] = here.phase
            state = mainloop.group_after(state)

    assert run(walk) == [[step % stages, step // stages % 2] for step in range(STEPS)]


def test_evict_first_is_a_policy_of_l2() -> None:
    @cute.jit
    def policies(out: cute.Tensor):
        for i in cutlass.range_constexpr(8):
            flags = Int32(i)
            out[i, 0] = Int64(l2_policy(flags & LaunchFlags.EVICT_FIRST_A))
            out[i, 1] = Int64(l2_policy(flags & LaunchFlags.EVICT_FIRST_B))

    # As createpolicy.fractional.L2::evict_normal and evict_first make them for all of an access.
    normal, first = 0x1000000000000000, 0x12F0000000000000
    for flags, found in enumerate(run(policies, torch.int64)[:8]):
        assert found == [first if flags & bit else normal for bit in (2, 4)]
