"""Products of groups of columns in plain torch: what CPU tensors get, and what tests compare with."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from .column_groups import edges
from .contract import ambient
from .contract.k_grouped import KGroupedCall
from .plan.limits import ceil_div
from .plan.recipe import FP8_1D1D as RECIPE


def k_grouped_fp8_gemm_nt(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, offsets: Tensor) -> Tensor:
    """``A[:, group] @ B[:, group].T`` of each group, promoted to fp32 every 128 of its own columns.

    The order of operations is that of :func:`cute_gemm.reference.fp8_gemm_nt`, by each group's own blocks.

    Args:
        a: e4m3 ``[M, K]``, any strides.
        sa: fp32 ``[M, K // 128 + G]``, any strides; which block has which column :mod:`.column_groups` says.
        b, sb: the same of N rows.
        offsets: int32 ``[G + 1]``, which the host waits for.

    Returns:
        fp32 ``[G, M, N]``, contiguous; zeros of groups without columns.
    """
    (m, k), n, width = a.shape, b.shape[0], RECIPE.promote_k
    acc = torch.zeros(len(offsets) - 1, m, n, dtype=torch.float32, device=a.device)
    at = edges(offsets, k).tolist()
    with ambient.no_autocast(a.device):
        for group, (first, end) in enumerate(itertools.pairwise(at)):
            for block in range(ceil_div(max(end - first, 0), width)):
                columns = slice(first + block * width, min(first + (block + 1) * width, end))
                scale = first // width + group + block
                # FP64 holds sums of 128 products of e4m3 values, in any order of adding up.
                product = (a[:, columns].double() @ b[:, columns].double().t()).float()
                acc[group] += product * (sa[:, scale, None] * sb[:, scale])
    return acc


def serves(call: KGroupedCall) -> bool:
    """Whether a call is for :func:`compute`: on the CPU, or where there is nothing to multiply."""
    return call.a.is_cpu or call.a.shape[1] == 0 or 0 in call.shape


def compute(call: KGroupedCall) -> Tensor:
    """The result of a call. With K = 0 the host does not wait for the device."""
    result = call.a.new_empty(call.shape, dtype=call.out_dtype) if call.out is None else call.out
    # As a kernel does, it writes also outside of the inference_mode that `out` was made under.
    with torch.inference_mode():
        if 0 in call.shape:
            pass
        elif call.a.shape[1] == 0:
            if not call.accumulate:
                result.zero_()
        else:
            sums = k_grouped_fp8_gemm_nt(call.a, call.sa, call.b, call.sb, call.offsets)
            if call.accumulate:
                # Not of empty groups: where D holds -0.0, adding 0 would change it.
                at = edges(call.offsets, call.a.shape[1])
                has_columns = (at[1:] > at[:-1])[:, None, None]
                result.copy_(torch.where(has_columns, result + sums, result))
            else:
                result.copy_(sums)
    return result
