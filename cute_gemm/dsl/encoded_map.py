"""Tensor maps for a DSL that has no interface for them: by the operation that calls CUDA's encoder.

What is here has the names of ``cutlass.experimental.cuda`` and takes as much of their arguments as is used.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import cutlass
import cutlass.cute as cute
from cutlass import Int32, Int64
from cutlass._mlir import ir
from cutlass._mlir.dialects import cuda, llvm

_UINT8 = 0  # CU_TENSOR_MAP_DATA_TYPE_UINT8


class TensorMapSwizzle(IntEnum):
    """CUtensorMapSwizzle."""

    s32b = 1
    s64b = 2
    s128b = 3


class TensorMapL2Promotion(IntEnum):
    """CUtensorMapL2promotion."""

    l2_256b = 3


@dataclass(frozen=True, eq=False)
class TensorMap:
    """A tensor map, for a kernel that takes it by ``GridConstant``."""

    value: Any

    def __extract_mlir_values__(self) -> list[ir.Value]:
        return [self.value]

    def __new_from_mlir_values__(self, values: list[ir.Value]) -> "TensorMap":
        return TensorMap(values[0])

    def get_ptr(self) -> cute.Pointer:
        """In the kernel: where it is."""
        address = llvm.ptrtoint(Int64.mlir_type, cuda.cast(llvm.PointerType.get(), self.value))
        return cute.make_ptr(cutlass.Uint8, Int64(address), cutlass.AddressSpace.generic, assumed_align=64)


def create_tensor_map_tiled(
    address: Int64,
    dtype: Any,
    extents: Sequence[Int32],
    steps: Sequence[Int64],
    box: Sequence[int],
    *,
    swizzle: TensorMapSwizzle,
    l2_promotion: TensorMapL2Promotion,
) -> TensorMap:
    """On the host: of elements of a byte. ``steps`` are in units of 16 bytes."""
    assert dtype.width == 8, "of elements of a byte"
    none, rank = Int32(0).ir_value(), len(extents)
    result, value = cuda.tensor_map_encode_tiled(
        cuda.ResultType.get(),
        ir.Type.parse("!cuda.tensor_map"),
        Int32(_UINT8).ir_value(),
        Int32(rank).ir_value(),
        cuda.cast(ir.Type.parse("!ptr.ptr<#ptr.generic_space>"), Int64(address).ir_value()),
        _on_stack(Int64, extents),
        _on_stack(Int64, [Int64(step) * 16 for step in steps]),
        _on_stack(Int32, box),
        _on_stack(Int32, [1] * rank),
        none,
        Int32(int(swizzle)).ir_value(),
        Int32(int(l2_promotion)).ir_value(),
        none,
    )
    cuda.result_assert_success(result)
    return TensorMap(value)


def prefetch_tensormap(pointer: cute.Pointer) -> None:
    """Has the descriptor cache fetch a map: the work of one thread."""
    cute.arch.inline_ptx("prefetch.tensormap [{$r0}];", read_only_args=[pointer.toint()])


def _on_stack(dtype: Any, values: Sequence[Any]) -> ir.Value:
    """An array of numbers in the host's memory."""
    count = Int32(len(values)).ir_value()
    array = llvm.alloca(llvm.PointerType.get(), count, dtype.mlir_type)
    for place, value in enumerate(values):
        target = llvm.getelementptr(llvm.PointerType.get(), array, [], [place], dtype.mlir_type, 0)
        llvm.store(dtype(value).ir_value(), target)
    return array
