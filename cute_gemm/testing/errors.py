"""How results are judged: against the FP64 product of the dequantised operands, and in three ways.

- Per 128x128 tile, by ``1 - 2<x,y> / (<x,x> + <y,y>)``. A single number for a whole large output would pass
  with a tile missing. On normal data a single wrong element of a full tile adds ``3e-5 * (its error / the
  tile's RMS)**2``.
- Per element, relative to the size of the terms behind it (`reference.product_scale`). In a tile whose rows
  differ by many powers of two the first measure sees the largest rows only.
- Per element, by half an ulp and a share of the sum of the terms' magnitudes (`assert_elements_close`): a
  bound that holds whatever the values are, and asks for nothing but them.

The limits of the first two allow for the tensor core: inside a k-block Hopper aligns FP8 products to the
largest one and keeps about 14 bits of them (DeepSeek-V3 technical report, arXiv:2412.19437, section 3.3.2). A
model of that (32 products and the accumulator, truncated 13 bits below the largest) gives tile errors of 8e-9
for fp32 results on normal data and at most 7.0e-8 on the other kinds of `make_inputs`, which is where the
fp32 and the element limits below come from.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..plan.limits import ceil_div
from ..reference import dequantized_product, product_scale

TILE = 128

# Rounding the exact result to bf16 gives up to 1.45e-6 in full tiles of normal data; small ones vary more.
BF16_TILE_LIMIT = 1.6e-6
BF16_SMALL_TILE_LIMIT = 2.5e-6
SMALL_TILE_ELEMENTS = 1024
FP32_TILE_LIMIT = 2e-7
# Where a few elements carry a tile, rounding alone may pass these limits: up to 7.6e-6 for one element.
_ROUNDING_MARGIN = 1.1
# Relative to `product_scale`. The model's noise: at most 2**-10.7 per element, RMS over a tile 2**-15.
ELEMENT_LIMIT = 2.0**-9
_NOISE_RMS = 2.0**-14
# RMS of `product_scale` over that of the result: 11.3 for data of random sign, more where terms cancelled.
_WELL_CONDITIONED = 16.0

TENSOR_CORE_NOISE = 2.0**-8
"""What Hopper's tensor cores err at most, relative to the sum of the magnitudes of the terms, with subnormal
operands taken for normal ones (`reference.term_magnitudes`)."""

_STRIP_ELEMENTS = 1 << 24


def tile_errors(out: Tensor, ref: Tensor, tile: int = TILE) -> Tensor:
    """Relative squared error of every tile: ``1 - 2<x,y> / (<x,x> + <y,y>)``, in FP64.

    It is computed as ``|x-y|**2 / (|x|**2 + |y|**2)``, which is the same number without the cancellation.

    Args:
        out: ``[M, N]``, the result to judge, any dtype.
        ref: ``[M, N]``, the truth.
        tile: height and width of a tile; the last ones may be smaller.

    Returns:
        fp64 ``[ceil(M/tile), ceil(N/tile)]``: 0 where both tiles are zero, infinity where either holds a NaN
        or an infinity, and otherwise between 0 and 2.

    Raises:
        ValueError: the shapes differ, or are not two-dimensional.
    """
    _check_pair(out, ref)
    m, n = out.shape
    errors = torch.zeros(ceil_div(m, tile), ceil_div(n, tile), dtype=torch.float64, device=out.device)
    for rows, tiles in _strips(m, n, tile):
        x, y = out[rows].double(), ref[rows].double()
        difference = _tile_sums((x - y).square(), tile)
        size = _tile_sums(x.square() + y.square(), tile)
        error = torch.where(size == 0, 0.0, difference / size)
        errors[tiles] = torch.where(error.isfinite(), error, torch.inf)
    return errors


def worst_tile_error(out: Tensor, ref: Tensor, tile: int = TILE) -> float:
    """The largest of :func:`tile_errors`, with the same arguments; 0.0 for an empty output."""
    errors = tile_errors(out, ref, tile)
    return errors.max().item() if errors.numel() else 0.0


def gate(rows: int, columns: int, dtype: torch.dtype) -> float:
    """Limit on the error of a well-conditioned tile of ``rows`` x ``columns`` in an output of ``dtype``.

    Args:
        rows, columns: size of the tile.
        dtype: bf16 or fp32.

    Raises:
        TypeError: another dtype.
    """
    if dtype == torch.float32:
        return FP32_TILE_LIMIT
    if dtype != torch.bfloat16:
        raise TypeError(f"gate: dtype is {dtype}; want torch.bfloat16 or torch.float32")
    return BF16_SMALL_TILE_LIMIT if rows * columns < SMALL_TILE_ELEMENTS else BF16_TILE_LIMIT


def tile_limits(ref: Tensor, dtype: torch.dtype, scale: Tensor | None = None, tile: int = TILE) -> Tensor:
    """Limit on the error of every tile.

    It is `gate`, or 1.1 times what rounding ``ref`` to ``dtype`` costs where that is more; and where the
    terms behind a tile are much larger than their sums, the tensor core's share of that.

    Args:
        ref: ``[M, N]``, the truth.
        dtype: dtype of the output, bf16 or fp32.
        scale: ``[M, N]`` from `reference.product_scale`; without it every tile is taken as well-conditioned.
        tile: height and width of a tile.

    Returns:
        fp64 ``[ceil(M/tile), ceil(N/tile)]``.
    """
    m, n = ref.shape
    device = ref.device
    heights = (m - torch.arange(0, m, tile, device=device)).clamp(max=tile)
    widths = (n - torch.arange(0, n, tile, device=device)).clamp(max=tile)
    small = heights[:, None] * widths < SMALL_TILE_ELEMENTS
    limits = torch.full(small.shape, gate(tile, tile, dtype), dtype=torch.float64, device=device)
    limits.masked_fill_(small, gate(1, 1, dtype))
    for rows, tiles in _strips(m, n, tile):
        y = ref[rows].double()
        rounding = _ROUNDING_MARGIN * tile_errors(y.to(dtype), y, tile)
        # A truth that is not finite, or not in dtype, must not lift the limit to infinity.
        limits[tiles] = limits[tiles].maximum(torch.where(rounding.isfinite(), rounding, 0.0))
        if scale is not None:
            ratio = _tile_sums(scale[rows].double().square(), tile) / _tile_sums(y.square(), tile)
            excess = (ratio - _WELL_CONDITIONED**2).clamp(min=0)
            limits[tiles] += torch.where(excess.isfinite(), 0.5 * _NOISE_RMS**2 * excess, 0.0)
    return limits


def assert_close_per_tile(out: Tensor, ref: Tensor, scale: Tensor | None = None, tile: int = TILE) -> None:
    """Fail unless every tile of ``out`` is as close to ``ref`` as `tile_limits` asks.

    Args:
        out: ``[M, N]``, bf16 or fp32.
        ref: ``[M, N]``, the FP64 product of the dequantised operands (`reference.dequantized_product`).
        scale: ``[M, N]`` from `reference.product_scale`. With it, results that cancel are judged fairly, and
            every element is judged by itself too, by `worst_element_error`.
        tile: height and width of a tile.

    Raises:
        AssertionError: names the worst tile or element, where it is, its error and the limit.
        ValueError: the shapes differ, or are not two-dimensional.
        TypeError: ``out`` is neither bf16 nor fp32.
    """
    errors, limits = tile_errors(out, ref, tile), tile_limits(ref, out.dtype, scale, tile)
    over = ~(errors <= limits)
    if over.any():
        i, j = divmod(int((errors / limits).argmax()), errors.shape[1])
        m, n = out.shape
        raise AssertionError(
            f"tile ({i}, {j}), rows {i * tile}:{min(m, (i + 1) * tile)},"
            f" columns {j * tile}:{min(n, (j + 1) * tile)}:"
            f" error {errors[i, j]:.3e}, limit {limits[i, j]:.3e} ({out.dtype});"
            f" {int(over.sum())} of {errors.numel()} tiles are over their limits"
        )
    if scale is None:
        return
    error, (row, column) = worst_element_error(out, ref, scale)
    if not error <= ELEMENT_LIMIT:
        raise AssertionError(
            f"element ({row}, {column}) is {out[row, column].item()!r}, want {ref[row, column].item()!r}:"
            f" error {error:.3e} of the terms behind it, limit {ELEMENT_LIMIT:.3e} ({out.dtype})"
        )


def worst_element_error(out: Tensor, ref: Tensor, scale: Tensor) -> tuple[float, tuple[int, int]]:
    """The largest error of an element beyond its rounding, relative to the terms behind it.

    Args:
        out: ``[M, N]``, the result to judge.
        ref: ``[M, N]``, the truth.
        scale: ``[M, N]`` from `reference.product_scale`.

    Returns:
        The largest ``(|out - ref| - rounding) / scale``, at least 0, where rounding is what the dtype of
        ``out`` costs; and the row and column it is at. Infinity where ``out`` is not finite, or not zero
        though it has no terms.
    """
    _check_pair(out, ref)
    m, n = out.shape
    rounding = torch.finfo(out.dtype)
    worst, where = 0.0, (0, 0)
    for rows, _ in _strips(m, n, TILE):
        y = ref[rows].double()
        excess = (out[rows].double() - y).abs() - (rounding.eps / 2 * y.abs() + rounding.tiny)
        error = torch.where(excess <= 0, 0.0, excess / scale[rows])
        error = torch.where(error.isfinite(), error, torch.inf)
        row, column = divmod(int(error.argmax()), n)
        if (here := error[row, column].item()) > worst:
            worst, where = here, (rows.start + row, column)
    return worst, where


def element_noise(out: Tensor, ref: Tensor, magnitudes: Tensor) -> Tensor:
    """Errors beyond half an ulp, relative to the sums of the terms' magnitudes.

    Args:
        out: ``[M, N]``, the result to judge, bf16 or fp32.
        ref: ``[M, N]``, the truth.
        magnitudes: fp64 ``[M, N]`` from `reference.term_magnitudes`.

    Returns:
        fp64 ``[M, N]``: ``(|out - ref| - half an ulp of out) / magnitudes``, at least 0. Numbers below the
        smallest normal one of the dtype of ``out`` count as 0. Infinity where ``out`` is not finite, or not
        zero though it has no terms.

    Raises:
        ValueError: the shapes differ, or are not two-dimensional.
    """
    _check_pair(out, ref)
    rounding, x = torch.finfo(out.dtype), out.double()
    # x is m * 2**e with m in [0.5, 1), and its ulp 2**(e - 1) * eps.
    half_ulp = torch.where(x == 0, 0.0, x / torch.frexp(x).mantissa) * (rounding.eps / 4)
    excess = (x - ref.double()).abs() - half_ulp - rounding.tiny
    noise = torch.where(excess <= 0, 0.0, excess / magnitudes)
    return torch.where(noise.isfinite(), noise, torch.inf)


def assert_elements_close(
    out: Tensor, ref: Tensor, magnitudes: Tensor, noise: float = TENSOR_CORE_NOISE
) -> None:
    """Fail unless every element is within half an ulp and a share of the terms' magnitudes of the truth.

    Args:
        out, ref, magnitudes: as for `element_noise`.
        noise: the share. The default is of magnitudes with subnormal operands taken for normal ones; what is
            summed up in fp32, as the reference does, errs far less.

    Raises:
        AssertionError: names the worst element, where it is, its error and the limit.
        ValueError: the shapes differ, or are not two-dimensional.
    """
    found = element_noise(out, ref, magnitudes)
    over = ~(found <= noise)
    if over.any():
        row, column = divmod(int(found.argmax()), out.shape[1])
        raise AssertionError(
            f"element ({row}, {column}) is {out[row, column].item()!r}, want {ref[row, column].item()!r}:"
            f" error beyond half an ulp {found[row, column]:.3e} of the terms' magnitudes, limit {noise:.3e}"
            f" ({out.dtype}); {int(over.sum())} of {out.numel()} elements are over it"
        )


def assert_correct(out: Tensor, a: Tensor, sa: Tensor, b: Tensor, sb: Tensor) -> float:
    """Fail unless ``out`` is ``A @ B.T`` of the scaled operands, per tile and per element.

    Args:
        out: ``[M, N]``, bf16 or fp32.
        a, sa, b, sb: the operands, as for `reference.fp8_gemm_nt`.

    Returns:
        The worst tile error.

    Raises:
        AssertionError: see `assert_close_per_tile`.
    """
    ref = dequantized_product(a, sa, b, sb)
    assert_close_per_tile(out, ref, product_scale(a, sa, b, sb))
    return worst_tile_error(out, ref)


def _check_pair(out: Tensor, ref: Tensor) -> None:
    if out.dim() != 2 or out.shape != ref.shape:
        raise ValueError(f"out has shape {list(out.shape)} and ref {list(ref.shape)}; want the same [M, N]")


def _strips(m: int, n: int, tile: int) -> Iterator[tuple[slice, slice]]:
    """Rows and rows of tiles of strips that bound the memory which FP64 copies take."""
    tiles = max(1, _STRIP_ELEMENTS // max(n * tile, 1))
    if n:
        for i in range(0, ceil_div(m, tile), tiles):
            yield slice(i * tile, min(m, (i + tiles) * tile)), slice(i, i + tiles)


def _tile_sums(x: Tensor, tile: int) -> Tensor:
    m, n = x.shape
    x = torch.nn.functional.pad(x, (0, -n % tile, 0, -m % tile))
    return x.unflatten(1, (-1, tile)).sum(2).unflatten(0, (-1, tile)).sum(1)
