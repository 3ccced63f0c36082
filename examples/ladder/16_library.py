"""The library's kernel, each part traced to its rung.

    python examples/ladder/16_library.py

Nothing is new here: this file launches the kernel that `cute_gemm.fp8_gemm_nt` chooses for this shape, as the
rungs launch theirs, and says where to find in its source what the rungs have shown. Read
`cute_gemm/kernels/gemm_fp8_1d2d.py` beside it, a file of 400 lines: `kernel` sets up and sends each warp to
its role, `load` is the warp that loads, `mma` the warpgroups that multiply. What varies from shape to
shape is an object that it is given.

| rung | what | where in `cute_gemm/` |
|---|---|---|
| 01 | what is known when compiling | `plan/config.py`; extents and `LaunchFlags` arrive with a call |
| 02 | TMA, an mbarrier, bytes and phases | `kernels/sm90/tma.py`, `kernels/sm90/pipelines.py` |
| 03 | swizzled rows of 128 bytes | `kernels/sm90/smem.py` |
| 04 | WGMMA, and who holds which element | `kernels/sm90/mma.py` |
| 05 | the loop over K | `kernels/mainloop.py`: `multiply` |
| 06 | promotion by two scales | `kernels/scaling/promotion.py`; `k_block` of `SerialMainloop` |
| 07 | a ring of stages | `Ring` of `kernels/sm90/pipelines.py` |
| 08 | a warp that loads, registers handed over | `produce` and `mma` of the kernel |
| 09 | two warpgroups | `wg` in `mma`: each has its rows of A, both the same B |
| 10 | a store that is in flight while the next tile begins | `kernels/epilogue/tma_store.py` |
| 11 | one CTA an SM, bands of tiles | `schedulers/persistence.py`, `schedulers/raster.py` |
| 12 | clusters and multicast | `load` of the kernel: `mcast_mask` |
| 13 | scales that come with their stage | `kernels/scaling/staged.py`; by plain loads `loaded.py` |
| 14 | k-blocks shared out | `schedulers/split_k.py`, `kernels/epilogue/cluster_sum_store.py` |
| 15 | two fragments of 64 rows, whole rounds of the ring | `SerialMainloop`; `kernels/sm90/opaque.py` |
| 17 | scales of the rows of both operands | `kernels/scaling/scaling_1d1d.py` |

What no rung has: a scheduler warp draws the next tile for free SMs (`DynamicPersistence`) and hands it on
through a queue (`kernels/work_queue.py`); maps by which L2 fetches 256 bytes for 128 (`sm90/tensor_maps.py`);
the start of a kernel while the one before still runs (`griddepcontrol_wait`); groups (`schedulers/`); and
host code that checks a call's operands in registers (`kernels/preconditions.py`).

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1; NVIDIA H200, 2026-12-01, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 15_big_tile | 4096x4096x7168 | 167.6 | 1435 TFLOP/s | 72.5% | 1.4e-06 | 168 |
| 16_library | 4096x4096x7168 | 164.3 | 1464 TFLOP/s | 74.0% | 1.4e-06 | 168 |

## What follows

It takes 2 % less than rung 15, no more than runs differ by. The kernel takes objects for what differs: a
scheduler, a store, a value, a mainloop, a scaling. Each can be
one of your own, without a change to the library: that is `examples/yours/`.

To read what a kernel was compiled to, pass `--sass`. The main loop is the stretch that has nearly all
`QGMMA`: 697 instructions for the four k-blocks of a round of the ring. Of each fragment and k-block it has
four `QGMMA`, a `WARPGROUP.DEPBAR` that waits for them, and 64 `FFMA` that promote: 32, 8 and 512 in all. The
rest is small: for each k-block three `SYNCS`, which ask for the next stage, wait for it and give this one
back, and four `LDS` and four `FMUL`, for the scales of four rows and their product with B's. `STL` or `LDL`
would be spilled registers. More `WARPGROUP.DEPBAR` than groups of `QGMMA` would mean that the compiler has
made each WGMMA wait for the one before.

## Break it

Choose another kernel: `--config` of `cute-gemm inspect` lists what there is, and `CONFIG` below takes any
name. With `256x128_c1x2_s4_r8_dyn_l2p256_bf16` scales of A are loaded by the threads that use them. The
result is the same to the last bit: only the way to it differs.
"""

import cutlass.cute as cute
from cutlass import Int32, Int64

from cute_gemm.runtime import build
from cute_gemm.runtime.lookup import find_config
from cute_gemm.testing.rungs import climb, gemm

CONFIG = find_config("256x128_c1x2_s4_r8_dyn_l2p256_bf16_tma-scales")
SMS = 132  # of an H100 SXM or H200


class Library:
    """The library's kernel, launched as rungs are."""

    def __init__(self):
        self.own = build(CONFIG).kernel

    @property
    def Storage(self):
        """What is in its shared memory, once it was compiled."""
        return self.own.Storage

    @cute.jit
    def __call__(self, mA, mSFA, mB, mSFB, mD, stream):
        """Launches it without flags, and without a semaphore: CTAs take every so many tiles, as in rung 11.

        A status of 0 stands for operands that are in order, so nothing is checked.
        """
        flags, semaphore, status = Int32(0), Int64(0), Int64(0)
        self.own(mA, mSFA, mB, mSFB, mD, Int32(SMS), flags, semaphore, status, stream)


RUNG = gemm(__file__, Library(), m_major_scales=True)

if __name__ == "__main__":
    climb(RUNG)
