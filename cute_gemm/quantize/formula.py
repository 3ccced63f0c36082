"""What quantising computes, in plain torch: what kernels are held to, and what runs where there is none.

Everything is written to given tensors. Of rows that are not to be quantised nothing is written.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..column_groups import Blocks
from ..plan.limits import ceil_div
from ..plan.quantizer import BLOCK, E4M3_MAX, INTERLEAVE, SMALLEST_SCALE

E4M3 = torch.float8_e4m3fn


def quantize_rows(
    values: Tensor, q: Tensor, s: Tensor, power_of_two: bool, is_written: Tensor | None = None
) -> None:
    """Writes e4m3 of values ``[..., K]`` to ``q``, and a scale for each 128 along K to ``s``.

    Args:
        values, q, s: as said; ``values`` of any dtype.
        power_of_two: whether scales are rounded up to powers of two.
        is_written: bool ``[...]``, which rows are; None for all.
    """
    k = values.shape[-1]
    blocks = _pad(values, (0, -k % BLOCK)).unflatten(-1, (ceil_div(k, BLOCK), BLOCK))
    made_s = scales(blocks.abs().amax(-1), power_of_two)
    made_q = to_e4m3(blocks, made_s.unsqueeze(-1)).flatten(-2)[..., :k]
    if is_written is None:
        q.copy_(made_q)
        s.copy_(made_s)
    else:
        # Of bytes: torch selects among no e4m3 on all devices.
        of_bytes = q.view(torch.uint8)
        of_bytes.copy_(torch.where(is_written[..., None], made_q.view(torch.uint8), of_bytes))
        s.copy_(torch.where(is_written[..., None], made_s, s))


def quantize_groups(values: Tensor, q: Tensor, s: Tensor, power_of_two: bool, blocks: Blocks) -> None:
    """Writes e4m3 of values ``[N, K]`` to ``q``, and a scale for each row and block of columns to ``s``.

    Args:
        values, q: as said.
        s: as many columns as there are ``blocks``.
        power_of_two: whether scales are rounded up to powers of two.
        blocks: which columns are whose.
    """
    k = values.shape[1]
    if not k:
        return
    place = blocks.first[:, None] + torch.arange(BLOCK, device=values.device)
    is_in = place < blocks.end[:, None]
    # Blocks one behind the other, each made up with zeros.
    apart = torch.where(is_in, values[:, place.clamp(max=k - 1)], 0).flatten(1)
    made_q = torch.empty_like(apart, dtype=E4M3)
    made_s = s.new_empty(s.shape)
    quantize_rows(apart, made_q, made_s, power_of_two)
    # Where each column has gone to; the last one takes those that are in no block.
    source = place.new_full((k + 1,), -1)
    number = torch.arange(place.numel(), device=place.device)
    source.scatter_(0, torch.where(is_in, place, k).flatten(), number)
    source = source[:k]
    of_bytes = q.view(torch.uint8)
    made = made_q.view(torch.uint8)[:, source.clamp(min=0)]
    of_bytes.copy_(torch.where(source >= 0, made, of_bytes))
    s.copy_(torch.where(blocks.is_used, made_s, s))


def quantize_padded_groups(
    values: Tensor, q: Tensor, s: Tensor, power_of_two: bool, blocks: Blocks, rows: Tensor, is_ours: Tensor
) -> None:
    """As :func:`quantize_groups` of what is transposed; columns without a row become zeros, beside NaN, too.

    Args:
        values: ``[M, N]``.
        q: e4m3 ``[N, K]``.
        s: fp32 ``[N, ...]``, as many columns as there are ``blocks``.
        power_of_two: whether scales are rounded up to powers of two.
        blocks: which columns of ``q`` are whose.
        rows: int64 ``[K]``, the row of ``values`` for each column; M for none.
        is_ours: bool ``[K]``, which columns are of a block.
    """
    with_zeros = torch.cat((values, values.new_zeros(1, values.shape[1])))
    quantize_groups(with_zeros[rows].t(), q, s, power_of_two, blocks)
    # Of bytes: torch fills no e4m3 on all devices.
    q.view(torch.uint8).masked_fill_(is_ours & (rows == len(values)), 0)


def quantize_blocks(w: Tensor, q: Tensor, s: Tensor, power_of_two: bool) -> None:
    """Writes e4m3 of matrices ``[..., N, K]`` to ``q``, and a scale for each 128 x 128 to ``s``."""
    n, k = w.shape[-2:]
    blocks = _pad(w, (0, -k % BLOCK, 0, -n % BLOCK))
    blocks = blocks.unflatten(-1, (ceil_div(k, BLOCK), BLOCK)).unflatten(-3, (ceil_div(n, BLOCK), BLOCK))
    made_s = scales(blocks.abs().amax((-3, -1)), power_of_two)
    made_q = to_e4m3(blocks, made_s[..., :, None, :, None]).flatten(-2).flatten(-3, -2)
    q.copy_(made_q[..., :n, :k])
    s.copy_(made_s)


def scales(amax: Tensor, power_of_two: bool) -> Tensor:
    """Scales of blocks whose largest magnitudes are ``amax``."""
    amax = amax.float()
    # Dividing by a Python number multiplies by its rounded inverse on CUDA: an amax of 448 * 2**e would then
    # miss the power of two, and devices would disagree.
    s = (amax / amax.new_full((), E4M3_MAX)).clamp(min=SMALLEST_SCALE)
    if power_of_two:
        # Adding all ones to the mantissa carries into the exponent unless the mantissa is zero.
        s = ((s.view(torch.int32) + 0x007FFFFF) & 0x7F800000).view(torch.float32)
    s = s.masked_fill(amax == 0, 1.0)
    return s.masked_fill(~amax.isfinite(), torch.nan)


def to_e4m3(blocks: Tensor, s: Tensor) -> Tensor:
    """Elements times the inverse of their scale, rounded to FP32, in e4m3."""
    # The clamp matters where the product rounds past 448: not every torch release saturates in the cast.
    return (blocks.float() * s.reciprocal()).clamp(-E4M3_MAX, E4M3_MAX).to(E4M3)


def swiglu(x: Tensor, is_interleaved: bool) -> Tensor:
    """``silu(gate) * up`` in FP32 of what holds both."""
    if is_interleaved:
        gate, up = x.unflatten(-1, (-1, 2, INTERLEAVE)).float().unbind(-2)
        return (torch.nn.functional.silu(gate) * up).flatten(-2)
    gate, up = x.float().chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Rows over the root of the mean of their squares, times a weight for each column, in FP32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.float()


def _pad(x: Tensor, pad: tuple[int, ...]) -> Tensor:
    if x.numel():
        return torch.nn.functional.pad(x, pad) if any(pad) else x
    # torch 2.8 does not pad what is empty.
    shape = [*x.shape]
    for dim, more in enumerate(pad[1::2], start=1):
        shape[-dim] += more
    return x.new_empty(shape)
