"""Quantisation of matrices to e4m3 with fine-grained scales, and the inverses.

The granularity is that of the DeepSeek-V3 technical report (arXiv:2412.19437, section 3.3): activations carry
one scale per row and 128 consecutive elements of K ("1x128"), weights one per 128x128 block. A scale
multiplies the stored e4m3 values: ``x`` is about ``q * s``.

    by_rows.py     1x128, also of what SwiGLU makes of x     road.py        what each call goes through
    normed.py      1x128 of normalised rows                  library.py     as ops of torch's dispatcher
    by_blocks.py   128x128                                   selection.py   which rows
    both_ways.py   1x128 along rows and along columns        formula.py     the same in torch
    gate_up.py     weights by turns                          dequantize.py  the inverses
    k_grouped.py   along columns, by groups of rows

What is set around a call changes no result, as for a product: see :mod:`cute_gemm.contract.ambient`.
"""

from ..contract.quantizing import scale_blocks
from ..plan.quantizer import E4M3_MAX
from .both_ways import quantize_both_ways
from .by_blocks import quantize_128x128
from .by_rows import quantize_1x128, swiglu_quantize_1x128
from .dequantize import dequantize_1x128, dequantize_128x128, m_major
from .gate_up import interleave_gate_up, split_gate_up
from .k_grouped import quantize_k_grouped
from .normed import rms_norm_quantize_1x128

__all__ = [
    "E4M3_MAX",
    "dequantize_1x128",
    "dequantize_128x128",
    "interleave_gate_up",
    "m_major",
    "quantize_1x128",
    "quantize_128x128",
    "quantize_both_ways",
    "quantize_k_grouped",
    "rms_norm_quantize_1x128",
    "scale_blocks",
    "split_gate_up",
    "swiglu_quantize_1x128",
]
