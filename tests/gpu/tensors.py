"""What the tests on a GPU know of tensors."""

import torch

from cute_gemm.problem import OUT_BYTES, Hint

DTYPES = {name: getattr(torch, name) for name in OUT_BYTES}
"""The types a result may have, by the names configurations give them."""


def bits(x: torch.Tensor) -> torch.Tensor:
    """The same memory as integers: NaNs and zeros of different signs differ, too."""
    return x.view({1: torch.uint8, 2: torch.int16, 4: torch.int32}[x.element_size()])


HINTS = int(Hint.B_FIRST)
"""The hints of kernels that are launched by themselves: no result depends on them."""
