"""The peers by name: of products, of quantisers, of expert layers, and of gradients of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from ...measure.cases import Case
from ...measure.expert_layers import LayerCase
from ...measure.gradients import GradientCase
from ...measure.quantizing import QuantizerCase
from ...measure.records import CHAIN, DEEPGEMM_DEPENDENT
from . import GradientPeer, LayerPeer, Peer, PeerOf, QuantizerPeer
from .bf16_layer import Bf16Layer
from .copy import Copy, CopyOfQuantizer
from .cublas import Cublas
from .deep_gemm import DeepGemm
from .deep_gemm_gradients import DeepGemmGradients
from .empty import Empty
from .floor import Floor
from .formulas import COMPILED_FORMULAS, EAGER
from .triton import Triton, TritonQuantizers
from .unfused import Unfused, UnfusedDeepGemm
from .unfused_masked import UnfusedMasked

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Cublas(),
        Triton(),
        DeepGemm(),
        DeepGemm("deep_gemm_pdl", DEEPGEMM_DEPENDENT, pdl=True, regimes=(CHAIN,)),
        Floor(),
        Copy(),
    )
}

QUANTIZERS: dict[str, QuantizerPeer] = {
    peer.name: peer for peer in (CopyOfQuantizer(), EAGER, COMPILED_FORMULAS, TritonQuantizers(), Empty())
}

LAYERS: dict[str, LayerPeer] = {
    peer.name: peer for peer in (Unfused(), UnfusedDeepGemm(), UnfusedMasked(), Bf16Layer())
}

GRADIENTS: dict[str, GradientPeer] = {peer.name: peer for peer in (DeepGemmGradients(),)}

NAMES = tuple(dict.fromkeys((*PEERS, *QUANTIZERS, *LAYERS, *GRADIENTS)))
"""Some name a peer of several."""

P = TypeVar("P", PeerOf[Case], PeerOf[QuantizerCase], PeerOf[LayerCase], PeerOf[GradientCase])


def split_available(names: Sequence[str], registry: Mapping[str, P]) -> tuple[list[P], list[str]]:
    """Those of ``names`` in ``registry`` that can be timed, and for each other a line that says why not."""
    reasons = {name: registry[name].available() for name in names if name in registry}
    peers = [registry[name] for name, reason in reasons.items() if reason is None]
    return peers, [f"{name} is not timed: {reason}" for name, reason in reasons.items() if reason]
