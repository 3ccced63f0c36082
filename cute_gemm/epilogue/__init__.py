"""What becomes of a product before it is stored, in the kernel that computes it.

    from cute_gemm import epilogue, fp8_gemm_nt

    y = fp8_gemm_nt(x, w, epilogue=epilogue.bias_silu(bias))
    y = fp8_gemm_nt(x, w, out=y, epilogue=epilogue.alpha(0.5) | epilogue.accumulate())

    @epilogue.function
    def scaled_tanh(x, factor, shift):
        return factor * epilogue.tanh(x + shift)

    y = fp8_gemm_nt(x, w, epilogue=scaled_tanh(2.0, epilogue.per_column(bias)))

    q, s = fp8_gemm_nt(x, gate_up, epilogue=epilogue.swiglu() | epilogue.quantize_1x128())

The same function is applied to registers in a kernel and, on the CPU, to the reference's sums in FP32.

Tensors among the operands are fp32, bf16 or fp16, on the device of A, and contiguous in the last dimension.
They require no gradient, and do not overlap what is written, but for :func:`like_out`, which may be ``out``
itself. The call that takes the epilogue checks this, and their shapes: it raises a TypeError for a dtype or a
kind, a ValueError for all else, and names the operand.
"""

from .builtin import (
    accumulate,
    alpha,
    bias,
    bias_gelu,
    bias_relu,
    bias_silu,
    gelu,
    quantize_1x128,
    relu,
    residual,
    row_weights,
    silu,
    swiglu,
)
from .chain import Epilogue, QuantizingEpilogue, function, gated
from .math import clamp, erf, exp, log, maximum, minimum, rsqrt, sigmoid, sqrt, tanh, where
from .operands import before, like_out, per_column, per_group_column, per_row, scalar

__all__ = [
    "Epilogue",
    "QuantizingEpilogue",
    "accumulate",
    "alpha",
    "before",
    "bias",
    "bias_gelu",
    "bias_relu",
    "bias_silu",
    "clamp",
    "erf",
    "exp",
    "function",
    "gated",
    "gelu",
    "like_out",
    "log",
    "maximum",
    "minimum",
    "per_column",
    "per_group_column",
    "per_row",
    "quantize_1x128",
    "relu",
    "residual",
    "row_weights",
    "rsqrt",
    "scalar",
    "sigmoid",
    "silu",
    "sqrt",
    "swiglu",
    "tanh",
    "where",
]
