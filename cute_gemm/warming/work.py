"""Makes many kernels: what is not there in several processes, then all of it is loaded here."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from .. import settings

if TYPE_CHECKING:
    from ..epilogue import Epilogue
    from ..plan.card import Card
    from ..plan.models import Layer, Model
    from .kernels import Kernel
    from .needs import Calls

# An H200's memory delivers 0.3 % more by its driver than by its data sheet, which moves where choices change.
_SLACK = 0.01

MOST_M = 65536
"""The most rows that kernels are looked for: the choices for so many take minutes."""


class Warmed(NamedTuple):
    """What :func:`warmup` did."""

    made: tuple[str, ...]
    """Names of kernels that were compiled now."""
    found: tuple[str, ...]
    """Names of those that were in a pack or on disk."""
    seconds: float
    """That it took."""


def warmup(
    nk: Iterable[tuple[int, ...]] = (),
    *,
    max_m: int,
    model: str | Path | dict[str, Any] | None = None,
    ops: Collection[str] | None = None,
    out_dtype: torch.dtype = torch.bfloat16,
    epilogue: Epilogue | None = None,
    dtype: torch.dtype = torch.bfloat16,
    power_of_two_scales: bool = False,
    quantizers: bool = True,
    card: str | None = None,
    jobs: int | None = None,
) -> Warmed:
    """Makes the kernels that calls may take, and loads them into this process: such calls compile nothing.

    Which kernel a product takes depends on its M, on whether scales of A are M-major, on the card and on the
    settings. All that can be chosen for M from 1 to ``max_m``, with both, are made, under the settings of
    :func:`cute_gemm.config` that are in force. Those that are in no pack and not on disk are compiled by
    several processes at a time, and kept on disk; so another process, or the command `cute-gemm warmup`, may
    do it before a server starts. Processes are started as `multiprocessing` starts them: a script calls this
    below ``if __name__ == "__main__":``. No GPU is needed, and none is used. CUDA loads a kernel when it is
    first launched, so a call must still be made once before it is captured into a CUDA graph.

    Args:
        nk: shapes of B: ``(N, K)``, or ``(G, N, K)`` of grouped operations.
        max_m: the most rows of A in a call, up to 65536; of the masked layout ``expected_rows``. With
            ``model``, the most tokens.
        model: what a HuggingFace ``config.json`` says, or its path: the layers of a Llama-, Qwen- or
            DeepSeek-like model, as docs/tuning.md lists them, as if on one GPU.
        ops: of ``"dense"``, ``"contiguous"``, ``"offsets"``, ``"masked"``, and ``"moe"``, which is the expert
            layers and MLPs of :mod:`cute_gemm.moe` for a model, and ``"gradients"``, which is the products
            that make gradients of such weights, over up to ``max_m`` tokens; None for all but these two.
        out_dtype: torch.bfloat16 or torch.float32, of products.
        epilogue: what calls of ``nk`` pass. Its tensors say their dtype and number of dimensions alone. Such
            kernels are compiled in this process, one after the other.
        dtype: fp32, bf16 or fp16, of what is quantised.
        power_of_two_scales: as of what quantises.
        quantizers: whether to make what quantises inputs and weights, too: :func:`cute_gemm.quantize_1x128`,
            :func:`cute_gemm.quantize_128x128`, and for layers of a model
            :func:`cute_gemm.swiglu_quantize_1x128` and :func:`cute_gemm.rms_norm_quantize_1x128`.
        card: the name of a GPU, as torch gives it, such as ``"NVIDIA H200"``; None for the current one.
            A named card is as its data sheet says, with as many multiprocessors.
        jobs: processes that compile, of about 1 GB each; None for one a core.

    Returns:
        Names of the kernels that were made and found, and the time it took.

    Raises:
        TypeError: an argument of another kind.
        ValueError: no kernel computes such a product; an unknown name; or the model's layers do not follow
            from its config.
        OSError: the model's file cannot be read.
        RuntimeError: no card is named, and the current device is no Hopper GPU; or a process that compiled
            was killed.
        ImportError: the DSL is missing.

    Warns:
        KernelWarning: a kernel spills.
    """
    from .kernels import load
    from .needs import needs

    if model is None:
        layers, per_token = layers_of_shapes(nk), None
    else:
        if epilogue is not None:
            raise ValueError("epilogue goes with nk; the layers of a model have those of ops='moe'")
        found = _read(model)
        layers, per_token = [*layers_of_shapes(nk), *found.layers], found.experts_per_token
    started = time.perf_counter()
    calls = calls_of(
        max_m=max_m,
        ops=ops,
        out_dtype=_name_of("out_dtype", out_dtype),
        dtype=_name_of("dtype", dtype),
        power_of_two_scales=power_of_two_scales,
        has_quantizers=quantizers,
        cards=cards_named(card),
        epilogue=epilogue,
        experts_per_token=per_token,
    )
    every = list(needs(layers, calls))
    missing, kept = sort(every)
    for _ in make(missing, jobs):
        pass
    for each in every:
        load(each)
    made, there = (tuple(each.name for each in kernels) for kernels in (missing, kept))
    return Warmed(made, there, time.perf_counter() - started)


def layers_of_shapes(nk: Iterable[tuple[int, ...]]) -> list[Layer]:
    """Weights of shapes ``(N, K)`` or ``(G, N, K)``.

    Raises:
        ValueError: one is no such shape.
    """
    from ..plan.models import PLAIN, Layer

    layers = []
    for shape in nk:
        if len(shape) not in (2, 3) or not all(type(each) is int for each in shape):
            raise ValueError(f"nk has {shape!r}; want (N, K), or (G, N, K) of grouped operations")
        groups = shape[0] if len(shape) == 3 else None
        layers.append(Layer("", shape[-2], shape[-1], groups, PLAIN))
    return layers


def calls_of(*, ops: Collection[str] | None, cards: tuple[Card, ...], epilogue: Any, **others: Any) -> Calls:
    """:class:`.needs.Calls` under the settings in force.

    Raises:
        ValueError: an unknown operation, or fewer multiprocessors than the settings ask for.
    """
    from ..plan.layouts import LAYOUTS
    from ..plan.limits import OUT_BYTES, QUANTIZED
    from ..plan.quantizer import SOURCE_BYTES
    from .kernels import epilogue_at
    from .needs import OPS, Calls

    chosen = tuple(LAYOUTS) if ops is None else tuple(ops)
    for op in chosen:
        if op not in OPS:
            raise ValueError(f"ops has {op!r}; want some of {', '.join(OPS)}")
    for name, known in (("out_dtype", OUT_BYTES), ("dtype", SOURCE_BYTES)):
        if others[name] not in known:
            raise ValueError(f"{name} is {others[name]}; want {' or '.join(known)}")
    if not 1 <= others["max_m"] <= MOST_M:
        raise ValueError(f"max_m is {others['max_m']}; want 1 to {MOST_M}")
    now, card = settings.current(), cards[0]
    if now.num_sms is not None and now.num_sms > card.sms:
        raise ValueError(f"num_sms is {now.num_sms}, but {card.name} has {card.sms} multiprocessors")
    if epilogue is not None:
        form = (epilogue_at(epilogue) if isinstance(epilogue, str) else epilogue).form
        others |= {"epilogue": epilogue, "narrowing": form.narrowing, "turn": form.turn}
        if form.is_quantized:
            others["out_dtype"] = QUANTIZED
    num_sms = card.sms if now.num_sms is None else now.num_sms
    return Calls(ops=chosen, cards=cards, num_sms=num_sms, batch_invariant=now.batch_invariant, **others)


def cards_named(name: str | None) -> tuple[Card, ...]:
    """A card by its name, as its data sheet and as its driver may describe it; or the current device.

    Raises:
        ValueError: there is none of that name.
        RuntimeError: none is named, and the current device is no Hopper GPU.
    """
    from ..plan.card import CARDS
    from ..runtime import hardware

    known = ", ".join(CARDS)
    if name is None:
        if not hardware.is_hopper():
            raise RuntimeError(
                f"torch sees no Hopper GPU, so name the card that kernels are chosen for: {known}"
            )
        return (hardware.card(),)
    if name not in CARDS:
        raise ValueError(f"no card is known by the name {name!r}; want one of {known}")
    card = CARDS[name]
    factors = 1.0, 1 - _SLACK, 1 + _SLACK
    return tuple(replace(card, dram_bytes_per_us=card.dram_bytes_per_us * factor) for factor in factors)


def sort(kernels: Iterable[Kernel]) -> tuple[list[Kernel], list[Kernel]]:
    """Those that are to be made, and those that are there."""
    from .kernels import is_kept

    missing: list[Kernel] = []
    kept: list[Kernel] = []
    for each in kernels:
        (kept if is_kept(each) else missing).append(each)
    return missing, kept


def make(kernels: Iterable[Kernel], jobs: int | None = None) -> Iterator[Kernel]:
    """Compiles kernels, and gives each when it is on disk. What no other process can be told of is left out.

    Raises:
        KilledWorker: as :func:`cute_gemm.runtime.warmup.in_processes`.
    """
    from ..runtime.warmup import in_processes
    from ..storage import cache_dir
    from .kernels import is_movable, made_elsewhere

    # Where nothing is kept, there is nothing to be had of another process.
    if cache_dir() is not None:
        movable = [each for each in kernels if is_movable(each)]
        if movable:
            yield from in_processes(made_elsewhere, movable, jobs)


def _read(model: str | Path | dict[str, Any]) -> Model:
    from ..plan.models import model_of

    if isinstance(model, dict):
        return model_of(model)
    path = Path(model)
    return model_of(json.loads((path / "config.json" if path.is_dir() else path).read_text()))


def _name_of(name: str, dtype: Any) -> str:
    if not isinstance(dtype, torch.dtype):
        raise TypeError(f"{name} is {dtype!r}; want a torch.dtype")
    return str(dtype).removeprefix("torch.")
