"""Operands of products of groups of columns, of tokens as they are."""

from __future__ import annotations

from torch import Tensor

from .both_ways import quantize_both_ways


def quantize_k_grouped(
    x: Tensor, offsets: Tensor, *, ends: Tensor | None = None, power_of_two_scales: bool = False
) -> tuple[Tensor, Tensor]:
    """Quantise tokens along tokens, by groups: an operand of `k_grouped_fp8_gemm_nt`.

    What a training step has is token-major: a row for each token, sorted by expert. That product sums over
    tokens, so its operands are K-major: a row for each feature, tokens contiguous. Gradients of outputs make
    the left one and inputs the right one, where weights have a row for each output.

    Args:
        x: token-major ``[K, M]``: M features of K tokens; fp32, bf16 or fp16, any strides, any device. Of
            what is K-major already, ``x.t()``. A kernel of its own reads it once, where `quantize_both_ways`
            says.
        offsets: int32 ``[G + 1]``, ascending multiples of 16 from 0 to K: where each group of tokens begins,
            and the last one ends. Groups are padded to multiples of 16 tokens, with rows of zeros, or come
            with ``ends``.
        ends: int32 ``[G]``, of tokens that are not padded: the row behind each group's last, as of
            `quantize_both_ways`. ``offsets`` then say where its columns in the result begin, of which there
            are ``L = 16 * (K // 16 + G)`` in place of K.
        power_of_two_scales: as of `quantize_1x128`.

    Returns:
        ``(a, sa)``: e4m3 ``[M, K]``, contiguous, and fp32 ``[M, K // 128 + G]``, M-major on 16 bytes as TMA
        loads it. Block j of group g has its scales in column ``offsets[g] // 128 + g + j``. What belongs to
        no group is not written, and neither is it read.

    It is the second pair of `quantize_both_ways`, which makes the first one, too. Whoever needs that as well,
    as gradients of inputs do of gradients of outputs, calls that.

    Raises:
        TypeError, ValueError, RuntimeError: as `quantize_both_ways`.
    """
    _, along_tokens = quantize_both_ways(
        x, power_of_two_scales=power_of_two_scales, m_major_scales=True, offsets=offsets, ends=ends
    )
    return along_tokens
