"""Layers for training in FP8: products of forward and of both gradients, weights in bf16 or FP32.

from cute_gemm.nn import FP8Linear, swap_linear

layer = FP8Linear(4096, 14336)
swap_linear(model, lambda layer, name: name != "lm_head")

linear.py     the layer                    weights.py    FP8 values of a parameter, kept until it changes
function.py   its products, for autograd   operands.py   FP8 values of activations
swapping.py   nn.Linear in models          gradients.py  where a weight's gradient goes
"""

from .grouped import FP8GroupedLinear
from .linear import FP8Linear
from .swapping import Swapped, swap_linear

__all__ = ["FP8GroupedLinear", "FP8Linear", "Swapped", "swap_linear"]
