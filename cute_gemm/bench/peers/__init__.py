"""Who else multiplies such operands, quantises them, or has such layers, as far as it can be had here."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from importlib import metadata
from typing import Protocol, TypeVar

import torch

from ...measure.calls import Call
from ...measure.cases import Case
from ...measure.expert_layers import LayerCase
from ...measure.gradients import GradientCase
from ...measure.quantizing import QuantizerCase

C = TypeVar("C", contravariant=True)


class PeerOf(Protocol[C]):
    """One library, in what it does with cases of one kind."""

    @property
    def name(self) -> str:
        """What it goes by on the command line."""

    @property
    def regimes(self) -> tuple[str, ...]:
        """Those in which it is timed."""

    def available(self) -> str | None:
        """Why it cannot be timed here; None if it can."""

    def versions(self) -> dict[str, str]:
        """Versions of the distributions it needs beyond torch, by their names."""

    def calls(self, case: C) -> Sequence[Call]:
        """Its ways to compute a case; none where it has no such operation.

        Scales are in the layout it wants. Making a call or calling it may raise whatever the library raises:
        the case is then refused.
        """


Peer = PeerOf[Case]
"""Who multiplies."""

QuantizerPeer = PeerOf[QuantizerCase]
"""Who quantises."""

LayerPeer = PeerOf[LayerCase]
"""Who computes expert layers."""

GradientPeer = PeerOf[GradientCase]
"""Who computes gradients of weights."""


def why_no_cuda() -> str | None:
    """Why nothing can run on a GPU with this torch; None if it can."""
    return None if torch.version.cuda else "this torch is built without CUDA"


def why_no_triton() -> str | None:
    """Why no kernel in Triton can be timed here; None if it can."""
    return None if importlib.util.find_spec("triton") else "the package triton is not installed"


def triton_version() -> dict[str, str]:
    """What :meth:`PeerOf.versions` gives of a peer with kernels in Triton."""
    return {"triton": metadata.version("triton")}


PROMOTED_LIMIT = 1e-5
"""Limit on the worst tile's error of a peer that promotes sums to FP32 as we do: rounding to bf16 gives
1.46e-6 in full tiles and up to 7.6e-6 in those of one element. A single element of a full tile that is off
by 0.6 of the tile's RMS is beyond it."""

FAST_LIMIT = 1e-3
"""The same where sums stay in the tensor core, with 14 bits of them: an error that goes with K. A tile that
misses one k-block of 128 is at 4e-3 for K = 16384."""

QUANTIZED_LIMIT = 2e-3
"""The same of a peer that quantises: rounding to e4m3 gives 3.5e-4, and up to 1e-3 in tiles of few elements.
A row of a full tile with twice the scale it should have is at 4e-3."""
