"""FP8 GEMMs of groups of columns: D[g] = A[:, g] @ B[:, g].T, with scales of each row of both.

They are what gradients of experts' weights are made of: columns are tokens, sorted by expert, and only the
device knows where a group of them begins and ends. The kernel is that of :mod:`.gemm_fp8_1d2d`; what differs
are objects:

    scheduler   KGroupedScheduler: all tiles of D of one group after the other, each with its k-blocks
    scaling     Scaling1D1D: scales of rows and of columns, for each k-block
    mainloop    RaggedMainloop: a group's last k-block ends before its stage does
    store       TmaStore, or TmaAddStore to add to what D holds
"""

import cutlass
import cutlass.cute as cute
from cutlass import Boolean

from ..plan.limits import MAX_GROUPS
from ..plan.recipe import Recipe
from . import preconditions
from .arguments import LaunchOptions
from .gemm_fp8_1d2d import Fp8Gemm1D2D


class Fp8GemmKGrouped(Fp8Gemm1D2D):
    """As :class:`Fp8Gemm1D2D`, of one matrix A (M, K), one B (N, K), and a D (M, N, groups) of each group.

    Scales are (M, K // 128 + groups) and (N, K // 128 + groups): see
    :class:`cute_gemm.schedulers.k_grouped.KGroupedScheduler`. The grouping is the tensor of edges.
    """

    @staticmethod
    @cute.jit
    def in_order(recipe: cutlass.Constexpr[Recipe], mA, mSFA, mB, mSFB, mD, grouping) -> Boolean:
        """As :func:`preconditions.hold`."""
        (edges,), groups = grouping, mD.shape[2]
        columns = mA.shape[1] // recipe.scale_k + groups
        fits = preconditions.hold(recipe, mA, mSFA, mB, mSFB, mD, grouping, columns)
        return fits and edges.shape[0] == groups + 1 and groups <= MAX_GROUPS

    def start(self, mA, mSFA, mB, mSFB, mD, options: LaunchOptions, grouping: tuple, of_value: tuple):
        """As :meth:`Fp8Gemm1D2D.start`."""
        grouping = (*grouping, mA.shape[1])
        Fp8Gemm1D2D.start(self, mA, mSFA, mB, mSFB, mD, options, grouping, of_value)
