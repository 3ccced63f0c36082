"""Sorts tokens by expert: a stable counting sort of choices, each of which is a token's for an expert.

A CTA has an expert, and looks at all choices: how many are of experts before its own, and which are of its
own. Each warp has a run of choices that follow each other, so that places can be given in order without a
word between CTAs, and without atomics: the same choices are always sorted alike.

Choices of all tokens are a few hundred KiB at most, which L2 hands to each CTA twice.
"""

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Float32, Int32, Int64, const_expr

from ...dsl import SmemAllocator
from ...plan.launch_policy import LaunchFlags
from ...plan.limits import MAX_EXTENT, MAX_GROUPS
from ...plan.moe import RouteConfig
from ..preconditions import report
from ..quantize.preconditions import do_not_meet
from ..sm90.threads import WARP

NOBODY = -1
"""In place of a token where there is none, and of a place where a choice has none."""

_UNROLL = 4


class RouteTokens:
    """The kernel of one :class:`RouteConfig`; all extents arrive with a call."""

    def __init__(self, config: RouteConfig):
        self.config = config
        self.threads = config.warps * WARP

    @cute.jit
    def __call__(self, gChoices, gTokens, gPlaces, gEnds, *rest):
        """Checks a call's tensors, and launches.

        Args:
            gChoices: int32 or int64 (choices,): the expert of each, those of a token one behind the other.
            gTokens: Int32 (choices,): is written, the token of each row.
            gPlaces: Int32 (choices,): is written, the row of each choice.
            gEnds: Int32 (experts,): is written, the row behind the last of each expert.
            rest: FP32 (choices,) that is written, the weight of each row, if there are weights; then
                :class:`LaunchFlags`, address of a status as of ``Fp8Gemm1D2D``, and the stream; the weights
                FP32 (choices,) of choices, if there are some; then the number of the first expert, and the
                choices of a token.
        """
        weights, (flags, status, stream), (first_expert, per_token) = self.parts(rest)
        go = Boolean(True)
        if status != 0:
            go = self.hold(gChoices, (gTokens, gPlaces, gEnds), weights, per_token)
            report(status, Int32(go))
        if go:
            self.start(
                gChoices,
                gTokens,
                gPlaces,
                gEnds,
                weights,
                first_expert,
                per_token,
                flags=flags,
                stream=stream,
            )

    def start(self, gChoices, gTokens, gPlaces, gEnds, weights, first_expert, per_token, *, flags, stream):
        """Launches the kernel for tensors that are in order."""
        divisor = cute.FastDivmodDivisorV2(per_token)
        self.kernel(gChoices, gTokens, gPlaces, gEnds, weights, first_expert, divisor).launch(
            grid=(gEnds.shape[0], 1, 1),
            block=(self.threads, 1, 1),
            stream=stream,
            use_pdl=flags & LaunchFlags.PDL,
        )

    def parts(self, rest: tuple) -> tuple:
        """Weights of rows and of choices, if there are some; what a launch takes; and numbers."""
        if self.config.has_weights:
            of_rows, *launch, of_choices, first_expert, per_token = rest
            return (of_rows, of_choices), tuple(launch), (first_expert, per_token)
        return (), rest[:3], rest[3:]

    @cute.jit
    def hold(self, gChoices, results: tuple, weights: tuple, per_token: Int32) -> Boolean:
        """Whether tensors are in order without a closer look; sizes were judged by the conversion."""
        choices, experts = gChoices.shape[0], results[2].shape[0]
        fits = choices > 0 and choices <= MAX_EXTENT and experts > 0 and experts <= MAX_GROUPS
        fits = fits and per_token > 0 and choices % cutlass.max(per_token, 1) == 0
        written = (*results, *weights[:1])
        for number, result in enumerate(written):
            for other in (gChoices, *weights[1:], *written[:number]):
                fits = fits and do_not_meet(other, result)
        return fits

    @cute.kernel
    def kernel(
        self,
        gChoices,
        gTokens,
        gPlaces,
        gEnds,
        weights: tuple,
        first_expert: Int32,
        per_token: cute.FastDivmodDivisorV2,
    ):
        warps = self.config.warps
        thread, own = cute.arch.thread_idx()[0], cute.arch.block_idx()[0]
        warp, lane = cute.arch.make_warp_uniform(thread // WARP), cute.arch.lane_idx()
        sCounts = SmemAllocator().allocate_tensor(Int32, cute.make_layout((2, warps)), 16)
        choices, experts = gChoices.shape[0], gEnds.shape[0]
        share = cute.ceil_div(choices, self.threads) * WARP
        begin = cutlass.min(warp * share, choices)
        end = begin + cutlass.min(share, choices - begin)  # begin + share may overflow
        cute.arch.griddepcontrol_wait()
        cute.arch.griddepcontrol_launch_dependents()

        earlier, ours = Int32(0), Int32(0)
        for at in cutlass.range(begin, end, WARP, unroll=_UNROLL):
            expert = self.expert(gChoices, at + lane, end, first_expert, experts)
            earlier += Int32(expert >= 0 and expert < own)
            ours += Int32(expert == own)
        earlier = cute.arch.warp_redux_sync(earlier, "add")
        ours = cute.arch.warp_redux_sync(ours, "add")
        if lane == 0:
            sCounts[0, warp], sCounts[1, warp] = earlier, ours
        cute.arch.sync_threads()
        first, place, behind = Int32(0), Int32(0), Int32(0)
        for each in cutlass.range_constexpr(warps):
            first += sCounts[0, each]
            place += cutlass.select_(each < warp, sCounts[1, each], Int32(0))
            behind += sCounts[1, each]
        place, behind = place + first, behind + first

        before_lane = cute.arch.lanemask_lt()
        for at in cutlass.range(begin, end, WARP, unroll=_UNROLL):
            choice = at + lane
            expert = self.expert(gChoices, choice, end, first_expert, experts)
            votes = cute.arch.vote_ballot_sync(expert == own)
            if expert == own:
                row = place + cute.arch.popc(votes & before_lane)
                gTokens[row], gPlaces[choice] = choice // per_token, row
                if const_expr(self.config.has_weights):
                    weights[0][row] = weights[1][choice]
            if own == 0 and expert < 0 and choice < end:
                gPlaces[choice] = Int32(NOBODY)
            place += cute.arch.popc(votes)
        if thread == 0:
            gEnds[own] = behind
        if own == experts - 1:
            for row in cutlass.range(behind + thread, choices, self.threads, unroll=1):
                gTokens[row] = Int32(NOBODY)
                if const_expr(self.config.has_weights):
                    weights[0][row] = Float32(0.0)

    @cute.jit
    def expert(self, gChoices, choice: Int32, end: Int32, first_expert: Int32, experts: Int32) -> Int32:
        """The expert of a choice, counted from the first that is here; :data:`NOBODY` for one elsewhere."""
        found = Int32(NOBODY)
        if choice < end:
            named = Int64(gChoices[choice]) - first_expert
            if named >= 0 and named < experts:
                found = Int32(named)
        return found
