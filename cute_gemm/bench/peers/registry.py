"""The peers by name."""

from __future__ import annotations

from collections.abc import Sequence

from ...measure.records import CHAIN, DEEPGEMM_DEPENDENT
from . import Peer
from .copy import Copy
from .cublas import Cublas
from .deep_gemm import DeepGemm
from .floor import Floor
from .triton import Triton

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


def split_available(names: Sequence[str]) -> tuple[list[Peer], list[str]]:
    """Those of ``names`` that can be timed here; and for each of the others a line that says why not."""
    reasons = {name: PEERS[name].available() for name in names}
    peers = [PEERS[name] for name, reason in reasons.items() if reason is None]
    return peers, [f"{name} is not timed: {reason}" for name, reason in reasons.items() if reason]
