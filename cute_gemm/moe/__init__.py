"""Expert layers in FP8: routing indices in, output out.

    from cute_gemm import moe

    y = moe.expert_layer(x, gate_up, down, expert_ids, weights)

Two products of groups, and nothing between them:

    route      sorts choices of experts, without a word to the host
    quantise   rows of x, in that order: the only copy of a token for each of its experts is in FP8
    product    gate and up, whose epilogue applies SwiGLU and quantises
    product    down, whose epilogue multiplies by the weights of routing
    combine    adds up the rows of each token, in the order of its choices

The parts may be called by themselves.
"""

from .combining import combine
from .layer import expert_layer, experts, mlp
from .routing import Routing, route

__all__ = ["Routing", "combine", "expert_layer", "experts", "mlp", "route"]
