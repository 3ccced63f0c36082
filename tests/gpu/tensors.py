"""What the tests on a GPU know of tensors."""

import torch

from cute_gemm.problem import OUT_BYTES, Hint, KernelConfig, ceil_div

DTYPES = {name: getattr(torch, name) for name in OUT_BYTES}
"""The types a result may have, by the names configurations give them."""


def bits(x: torch.Tensor) -> torch.Tensor:
    """The same memory as integers: NaNs and zeros of different signs differ, too."""
    return x.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[x.element_size()])


def scales_for(config: KernelConfig, sa: torch.Tensor) -> torch.Tensor:
    """Scales of A as a kernel takes them: M-major for TMA, with NaN behind the rows that there are."""
    if not config.tma_scales:
        return sa
    *matrices, rows, k_blocks = sa.shape
    padded = sa.new_full((*matrices, k_blocks, 4 * ceil_div(rows, 4)), torch.nan).mT
    padded[..., :rows, :] = sa
    return padded[..., :rows, :]


HINTS = int(Hint.B_FIRST)
"""The hints of kernels that are launched by themselves: no result depends on them."""
