"""A process that has set nothing by DeepGEMM's setters."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from cute_gemm.compat.deep_gemm import elsewhere, process


def forget_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a process that has called no setter, and looked for no other DeepGEMM; until the test ends."""
    monkeypatch.setattr(process, "_said", {})
    monkeypatch.setattr(process, "_scope", nullcontext())
    monkeypatch.setattr(process, "_hints", dict(process._hints))
    monkeypatch.setattr(elsewhere, "_told", {})
    monkeypatch.setattr(elsewhere, "_of_devices", {-1: None})
