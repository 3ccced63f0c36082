"""Calls of products, on a device, and the verdict on what they did."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import torch
from api_products import BLOCK, INDEX, Product, call
from api_values import E4M3, WIDTH, Placed, anyhow, chance, matrices, vector
from torch import Tensor

from cute_gemm.reference import product_scale
from cute_gemm.testing import (
    TENSOR_CORE_NOISE,
    assert_elements_close,
    poisoned_rows,
    tile_errors,
    tile_limits,
)

# What fp32 sums of k-blocks err, as the reference makes them, with a margin; a tensor core errs more.
_CPU_NOISE = 2.0**-20

# Of e4m3. A tensor core aligns terms by the exponents that their factors are stored with, and smaller numbers
# are stored with that of this one (docs/performance.md, 74).
_LEAST_NORMAL = 2.0**-6

# In tiles that few elements carry, what a tensor core errs comes on top of what rounding costs: a model of it
# passes the limits by up to 13% in 4 of 5636 such tiles.
_TENSOR_CORE_MARGIN = 1.5

# Smaller products are judged on the host: a GPU that processes share is slow to start so many kernels.
_FEW_PRODUCTS = 1 << 24


class _Out:
    """A poisoned result on the host, and the tensor on a device that stands for it in a call.

    Args:
        product: of which it is a result.
        device: of the call.
        pad_rows, pad_columns: around each matrix.
    """

    def __init__(self, product: Product, device: torch.device, pad_rows: int, pad_columns: int) -> None:
        n, dtype = product.b.shape[-2], product.out_dtype
        written = (product.row_groups >= 0) | product.is_filled
        self.host, self.check = poisoned_rows(written, n, dtype, pad_rows, pad_columns)
        size = self.host.untyped_storage().nbytes() // self.host.element_size()
        self._host_buffer = self.host.as_strided((size,), (1,), 0)
        self._buffer = self._host_buffer.to(device, copy=True)
        self.given = self._buffer.as_strided(self.host.shape, self.host.stride(), self.host.storage_offset())

    def fetch(self) -> Tensor:
        """The result on the host, with nothing written around it."""
        self._host_buffer.copy_(self._buffer)
        self.check()
        return self.host


class Trial:
    """Two calls of one product, on a device, and the verdict on what they did.

    Args:
        draw: decides how tensors lie in memory and whether ``out`` is given.
        product: what to compute.
        device: of the tensors.
    """

    def __init__(self, draw: random.Random, product: Product, device: torch.device) -> None:
        self.product, self.device = product, device
        placed: dict[str, Placed] = {
            "a": matrices(draw, product.a),
            "sa": anyhow(draw, product.sa),
            "b": matrices(draw, product.b),
            "sb": anyhow(draw, product.sb),
        }
        if product.index is not None:
            placed[INDEX[product.layout]] = vector(draw, product.index)
        self.given: dict[str, Any] = dict(product.options)
        self._buffers, self._placed = [], placed
        for name, each in placed.items():
            self.given[name], buffer = each.on(device)
            self._buffers.append(buffer)
        self._outs = [None if chance(draw, 0.3) else self._out(draw) for _ in range(2)]
        self._results: list[Tensor] = []

    def _out(self, draw: random.Random) -> _Out:
        return _Out(self.product, self.device, draw.randrange(3), 8 * draw.randrange(3))

    def run(self) -> None:
        """Both calls, with nothing in between."""
        dtype = self.product.out_dtype
        for out in self._outs:
            given = {**self.given, "out": None if out is None else out.given}
            if out is None or dtype is torch.float32:
                given["out_dtype"] = dtype
            self._results.append(call(self.product.layout, given))

    def judge(self) -> None:
        """Raises AssertionError where something is wrong."""
        written = self.product.row_groups >= 0
        shape = (*written.shape, self.product.b.shape[-2])
        rows = []
        for result, out in zip(self._results, self._outs, strict=True):
            assert out is None or result is out.given, "another tensor than out"
            assert out is not None or result.is_contiguous()
            found = result.shape, result.dtype, result.device
            assert found == (shape, self.product.out_dtype, self.given["a"].device), found
            found_rows = result.cpu() if out is None else out.fetch()
            rows.append(found_rows[written])
            assert not self.product.is_filled or not _bits(found_rows[~written]).any(), "rows are not zeros"
        assert torch.equal(*(_bits(x) for x in rows)), "the second call gave other bits"
        for (name, placed), buffer in zip(self._placed.items(), self._buffers, strict=True):
            assert torch.equal(buffer.cpu(), placed.buffer), f"{name} was written to"
        self._judge_values(rows[0])

    def _judge_values(self, rows: Tensor) -> None:
        groups = self.product.row_groups[self.product.row_groups >= 0]
        is_exact = self.device.type == "cpu"
        for group, operands in self._groups():
            out = rows[groups == group].to(operands[0].device)
            if not out.numel():
                continue
            ref, magnitudes = _truth(*operands, least=0.0 if is_exact else _LEAST_NORMAL)
            try:
                assert_elements_close(out, ref, magnitudes, _CPU_NOISE if is_exact else TENSOR_CORE_NOISE)
                if self.product.is_well_conditioned or is_exact:
                    _judge_tiles(out, ref, 1.0 if is_exact else _TENSOR_CORE_MARGIN, *operands)
            except AssertionError as error:
                raise AssertionError(f"{self._describe()}, group {group}: {error}") from None

    def _groups(self) -> Iterator[tuple[int, tuple[Tensor, Tensor, Tensor, Tensor]]]:
        """Each group that has rows, and its operands, where they are judged."""
        product = self.product
        is_small = product.a.numel() * product.b.shape[-2] < _FEW_PRODUCTS
        device = torch.device("cpu") if is_small else self.device
        for group in product.row_groups[product.row_groups >= 0].unique().tolist():
            of_group = product.row_groups == group
            b, sb = product.b, product.sb
            if product.index is not None:
                b, sb = b[group], sb[group]
            a, sa, b, sb = (x.to(device) for x in (product.a[of_group], product.sa[of_group], b, sb))
            yield group, (a.view(E4M3), sa, b.view(E4M3), sb)

    def _describe(self) -> str:
        shapes = {name: tuple(x.shape) for name, x in self.given.items() if isinstance(x, Tensor)}
        return f"{self.product.layout} {shapes} {self.product.options} {self.product.out_dtype}"


def _judge_tiles(
    out: Tensor, ref: Tensor, margin: float, a: Tensor, sa: Tensor, b: Tensor, sb: Tensor
) -> None:
    errors = tile_errors(out, ref)
    if bool((errors <= tile_limits(ref, out.dtype)).all()):
        return
    # What cancels is allowed more.
    limits = margin * tile_limits(ref, out.dtype, product_scale(a, sa, b, sb))
    if not bool((errors <= limits).all()):
        raise AssertionError(f"errors of tiles are {errors.tolist()}, limits {limits.tolist()}")


def _bits(x: Tensor) -> Tensor:
    return x.view({2: torch.int16, 4: torch.int32}[x.element_size()])


def _truth(a: Tensor, sa: Tensor, b: Tensor, sb: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """The product in FP64 and the sums of its terms' magnitudes, by no function of the library.

    Operands count as at least ``least`` in magnitudes, those that are not 0.
    """
    k = a.shape[-1]
    sx = sa.double().repeat_interleave(WIDTH, -1)[:, :k]
    sy = sb.double().repeat_interleave(BLOCK, 0)[: len(b)].repeat_interleave(WIDTH, -1)[:, :k]
    x, y = a.double(), b.double()
    mx, my = (torch.where(each == 0, 0.0, each.abs().clamp(min=least)) for each in (x, y))
    return (x * sx) @ (y * sy).t(), (mx * sx.abs()) @ (my * sy.abs()).t()
