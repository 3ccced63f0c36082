"""Functions that hide where a value comes from, so that the compiler keeps it in a register.

The compiler computes thread ids and shared-memory addresses again wherever it can, also inside loops. There
they lie on the critical path between two WGMMAs (docs/performance.md, 5 and 73). A shuffle gives a value an
unknown origin, so it is computed once. No function here changes a value. Whole warps call them.
"""

import cutlass
import cutlass.cute as cute


def hide(value):
    """``value``, which all lanes of a warp have in common: for base addresses of shared memory."""
    return cute.arch.shuffle_sync(value, 0)


def hide_lane(value):
    """``value``, which may differ from lane to lane: for thread ids, and addresses that follow from them."""
    return cute.arch.shuffle_sync(value, cute.arch.lane_idx())


def hidden_tensor(storage, layout: cute.ComposedLayout, dtype) -> cute.Tensor:
    """A swizzled tensor of shared memory. WGMMA descriptors are built once from its hidden base address."""
    address = hide(storage.data_ptr().toint())
    pointer = cute.make_ptr(dtype, address, cutlass.AddressSpace.smem, assumed_align=1024)
    return cute.make_tensor(cute.recast_ptr(pointer, layout.inner, dtype=dtype), layout.outer)
