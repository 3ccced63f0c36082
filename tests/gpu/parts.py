"""Parts of kernels as a user writes them: values, a scaling, a mainloop."""

from dataclasses import dataclass
from typing import Any, ClassVar

import cutlass
import cutlass.cute as cute
import torch
from cutlass import Float32, Int32
from cutlass.cute.nvgpu import warpgroup
from cutlass.cute.runtime import make_fake_tensor

from cute_gemm import runtime
from cute_gemm.kernels.epilogue import Place, Shape
from cute_gemm.kernels.mainloop import Inputs, multiply
from cute_gemm.plan import candidates
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import Layout


@dataclass(frozen=True)
class Bias:
    """Adds a number to each column of each group: FP32 ``(groups, N)``."""

    tensors: ClassVar[int] = 1
    unit: ClassVar[int] = 8
    width: ClassVar[int] = 32

    def out_columns(self, n: Any) -> Any:
        return n

    def operands(self, bias: cute.Tensor) -> tuple:
        return (bias,)

    def prefetch(self, operands: tuple, place: Place, shape: Shape) -> None:
        pass

    def __call__(self, sums: cute.Tensor, place: Place, operands: tuple, fetched: None) -> cute.Tensor:
        (bias,) = operands
        last = bias.shape[1] - 1
        for i in range(0, cute.size(sums), 4):
            for j in range(2):
                added = bias[place.group, cutlass.min(place.column_of(i + j), last)]
                # The row eight below has the same columns.
                sums[i + j] += added
                sums[i + j + 2] += added
        return sums


@dataclass(frozen=True)
class RowFactor:
    """Multiplies each row by a number, FP32 ``(matrices of D, M)``, which is read ahead of the main loop."""

    m_fragments: int

    tensors: ClassVar[int] = 1
    unit: ClassVar[int] = 8
    width: ClassVar[int] = 32

    def out_columns(self, n: Any) -> Any:
        return n

    def operands(self, factors: cute.Tensor) -> tuple:
        return (factors,)

    def prefetch(self, operands: tuple, place: Place, shape: Shape) -> list[Float32]:
        return [
            self.factor(operands, place, 64 * m + 8 * half)
            for m in range(self.m_fragments)
            for half in (0, 1)
        ]

    def factor(self, operands: tuple, place: Place, offset: int) -> Float32:
        (factors,) = operands
        return factors[place.m_group, cutlass.min(place.row + offset, factors.shape[1] - 1)]

    def __call__(
        self, sums: cute.Tensor, place: Place, operands: tuple, fetched: list[Float32]
    ) -> cute.Tensor:
        # Of one m-fragment what was read ahead is right; of two, which one a call is for is not said.
        halves = fetched if self.m_fragments == 1 else [self.factor(operands, place, 8 * i) for i in (0, 1)]
        for i in range(cute.size(sums)):
            sums[i] *= halves[i // 2 % 2]
        return sums


@dataclass(frozen=True)
class SwiGlu:
    """``silu(gate) * up`` of columns of B that are interleaved: eight of the gate, eight to multiply with."""

    tensors: ClassVar[int] = 0
    unit: ClassVar[int] = 16
    width: ClassVar[int] = 32

    def out_columns(self, n: Any) -> Any:
        return n // 2

    def operands(self) -> tuple:
        return ()

    def prefetch(self, operands: tuple, place: Place, shape: Shape) -> None:
        pass

    def __call__(self, sums: cute.Tensor, place: Place, operands: tuple, fetched: None) -> cute.Tensor:
        size = cute.size(sums) // 2
        out = cute.make_rmem_tensor(size, Float32)
        for i in range(size):
            gate = sums[i // 4 * 8 + i % 4]
            up = sums[i // 4 * 8 + 4 + i % 4]
            out[i] = 0.5 * gate * (1.0 + cute.math.tanh(0.5 * gate, fastmath=True)) * up
        return out


def swiglu(sums: torch.Tensor) -> torch.Tensor:
    """What :class:`SwiGlu` makes of the sums."""
    gate, up = sums.unflatten(-1, (-1, 2, 8)).unbind(-2)
    return (torch.nn.functional.silu(gate) * up).flatten(-2)


# bf16 rounding alone gives 1.42e-6, and the tanh that it takes is good to 2^-11.
SWIGLU_LIMIT = 3e-6
"""Of :func:`cute_gemm.testing.tile_errors`."""


@dataclass(frozen=True)
class NoScales:
    """Sums are not scaled, and promoted all the same: an object of its own, and nothing else changes."""

    group: ClassVar[int] = 4
    stage_bytes: ClassVar[int] = 0
    fetches_ahead: ClassVar[bool] = False

    @property
    def Storage(self) -> type:
        @cute.struct
        class Storage:
            nothing: cute.struct.MemRange[Float32, 0]

        return Storage

    def operands(self, mSFA: cute.Tensor, mSFB: cute.Tensor) -> tuple:
        return ()

    def prefetch(self, operands: tuple) -> None:
        pass

    def open(self, storage: Any) -> None:
        pass

    def along_k(self, operands: tuple, shared: None, tile: Any) -> tuple:
        return ()

    def load(self, *arguments: Any) -> None:
        pass

    def feed(self, operands: tuple, shared: None, row: Any) -> "NoFeed":
        return NoFeed()


@dataclass(frozen=True)
class NoFeed:
    def start(self, tile: Any) -> None:
        pass

    def promotion(self, tile: Any) -> Any:
        return add

    def begin(self, tile: Any) -> None:
        pass

    def read(self, state: Any) -> None:
        pass

    def hand_out(self, staged: None, tile: Any, k: Any, place: Any) -> tuple:
        return ()


def add(acc: cute.Tensor, partial: cute.Tensor, scales: tuple, m: int, n: int) -> None:
    for i in range(cute.size(acc)):
        acc[i] = acc[i] + partial[i]


@dataclass(frozen=True)
class SimpleMainloop:
    """One k-block after the other, of any fragments: wait, multiply, wait, release, promote."""

    group: int

    def skipped_stages(self, k_count: Int32) -> Int32:
        return Int32(0)

    @cute.jit
    def __call__(self, inputs: Inputs, state, tile, has_rows, accs):
        partials = [cute.make_rmem_tensor_like(acc) for acc in accs]
        promote = inputs.scales.promotion(tile)
        for acc in accs:
            acc.fill(0.0)
        inputs.scales.begin(tile)
        n_fragments = inputs.tCrB.shape[3]
        for k in cutlass.range(tile.k_count, unroll=1):
            inputs.ring.consumer_wait(state)
            staged = inputs.scales.read(state)
            for i in cutlass.range_constexpr(len(accs)):
                multiply(partials[i], inputs, i // n_fragments, i % n_fragments, state.index)
            scales = inputs.scales.hand_out(staged, tile, k, k % self.group)
            warpgroup.wait_group(0)
            inputs.ring.consumer_release(state)
            for i in cutlass.range_constexpr(len(accs)):
                promote(accs[i], partials[i], scales, i // n_fragments, i % n_fragments)
            state.advance()
        return state


def pick(layout: Layout, out_dtype: str = "bfloat16", **wanted: Any) -> KernelConfig:
    """The first configuration with these properties."""
    wanted |= {"layout": layout, "out_dtype": out_dtype}
    for config in candidates.every_config():
        if all(getattr(config, name) == value for name, value in wanted.items()):
            return config
    raise LookupError(wanted)


def program(config: KernelConfig, value: Any) -> runtime.Program:
    """The kernel of ``config`` that applies ``value``, whose tensors are FP32 matrices."""
    tensors = tuple(
        make_fake_tensor(
            Float32, (cute.sym_int32(), cute.sym_int32()), (cute.sym_int64(), 1), assumed_align=4
        )
        for _ in range(value.tensors)
    )
    return runtime.build(config, value=value, tensors=tensors)
