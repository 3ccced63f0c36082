"""What the host code of a quantiser checks before it launches; see :mod:`cute_gemm.kernels.preconditions`."""

import cutlass
import cutlass.cute as cute
from cutlass import Boolean, Int32, Int64, const_expr

from ...plan.limits import K_MULTIPLE, MAX_EXTENT, MAX_SCALE_SPAN
from ..preconditions import place_of, report

__all__ = ["hold", "report"]


@cute.jit
def hold(mX, mQ, mS, index, parts: cutlass.Constexpr[int]) -> Boolean:
    return Boolean(True)
