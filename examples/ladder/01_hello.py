"""Hello, DSL: what Python does once, and what the GPU does.

    python examples/ladder/01_hello.py

The function under `@cute.kernel` is Python that runs *once*, on the CPU, before there is any data. It is
*traced*: the things that it computes with are not numbers but symbols, and each operation on a symbol is
written down. The list of operations is compiled to machine code, and that is what the GPU runs, once for each
of its threads.

So there are two times, and each value belongs to one of them:

| | trace time | run time |
|---|---|---|
| who computes | Python, once | each thread of the GPU, at each launch |
| values | numbers: `self.scale`, `THREADS`, `j` | symbols: `thread`, `i`, `mX[i]`, the length of `mX` |
| `print` | prints, once; a symbol as `?` | has no effect: it is not in the machine code |
| a loop | `range_constexpr`: Python repeats the body | `cutlass.range`: a loop of the machine code |
| a branch | `if const_expr(...)`: only one side is traced | `if i < n`: each thread chooses |

The kernel adds two vectors, one of them scaled: `d = scale * x + y`. Threads come in *blocks* (also called
CTAs) of 256; a thread finds out by two numbers which elements are its own. The function under `@cute.jit`
runs on the CPU at each call: it says how many blocks there are. It is traced and compiled too, so a call
costs microseconds, not Python's time.

## Measured

NVIDIA H200, 2026-11-30, nvidia-cutlass-dsl 4.8.1:

| rung | shape | us | speed | of the limit | error | registers |
|---|---|--:|--:|--:|--:|--:|
| 01_hello | 67108864 | 220.7 | 3649 GB/s | 76.0% | 0 | 16 |
| 01_hello | 1000003 | 5.7 | 2101 GB/s | 43.8% | 0 | 16 |

## What follows

Look at what is printed without a GPU. There are four multiply-adds and no loop: Python repeated the body, and
its counter `j` is gone. The scale is gone too: it is a part of the instruction, so for another scale another
kernel is compiled. The length is not: one kernel serves both shapes.

Each element takes 12 bytes of memory and a single multiply-add, so memory is the limit. 76.0 % of what the
data sheet promises is what plain code gets; later rungs change nothing about it for this operation. Of the
short vector, 12 MB, the limit would be 2.5 us; it takes 5.7, as a launch and the first answer from memory
cost about as much whatever the length. A matrix product uses each number that it loads many times; all the
rungs that follow are about that.

## Break it

In the kernel, replace `n = mX.shape[0]` by `n = 1_000_003`, the length of the second shape. Now the length
belongs to trace time, and is compiled in. The first shape fails its check: all that is behind element 1000002
has not been written, and is still the NaN that the result was filled with. The second shape alone would have
passed. A value of run time that is frozen while tracing is an error that is easily made, and one shape in a
test does not find it.
"""

import cutlass
import cutlass.cute as cute
import torch

from cute_gemm.testing.rungs import climb, exact, vector

THREADS = 256  # of a block
EACH = 4  # elements of a thread


class ScaledAdd:
    """d = scale * x + y, of vectors."""

    def __init__(self, scale: float):
        self.scale = scale

    @cute.jit
    def __call__(self, mX, mY, mD, stream):
        """Launches enough blocks for all elements."""
        blocks = cute.ceil_div(mX.shape[0], THREADS * EACH)
        self.kernel(mX, mY, mD).launch(grid=(blocks, 1, 1), block=(THREADS, 1, 1), stream=stream)

    @cute.kernel
    def kernel(self, mX, mY, mD):
        """The elements of one thread."""
        thread, block = cute.arch.thread_idx()[0], cute.arch.block_idx()[0]
        n = mX.shape[0]
        print(f"traced: the scale is {self.scale}, the thread is {thread}, and x[0] is {mX[0]}")
        for j in cutlass.range_constexpr(EACH):
            # Neighbours have neighbouring elements, so that a warp asks memory for whole lines.
            i = (block * EACH + j) * THREADS + thread
            if i < n:
                mD[i] = mX[i] * self.scale + mY[i]


x = vector(cutlass.Float32, cute.sym_int32())
RUNG = exact(
    __file__,
    ScaledAdd(2.0),
    (x, x, x),
    lambda n: (torch.randn(n), torch.randn(n)),
    lambda x, y: 2.0 * x + y,
    (1 << 26,),
    (1_000_003,),
    bytes_moved=lambda n: 3 * 4 * n,
)

if __name__ == "__main__":
    climb(RUNG)
