"""Training in FP8: a small language model learns Python, once with FP8 products and once with bf16.

    python examples/03_train.py [--steps 150] [--hidden 64] [--layers 2] [--png losses.png]

Runs in a minute on a CPU, where the library computes in plain torch, and on a Hopper GPU, where it runs the
kernels. 01_dense_fp8_gemm.py comes first: it explains FP8 and its scales. docs/training.md says what
`cute_gemm.nn` does in each product.

A linear layer costs three products for each token: one forward, and two backward, for the gradient of its
input and of its weight. All three run in FP8 here, at twice the rate of bf16. Weights stay in FP32: what an
optimiser adds to one in a step is far below what FP8 can tell apart.
"""

import argparse
import importlib
import inspect
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from cute_gemm.nn import swap_linear
from cute_gemm.runtime.hardware import is_hopper

CONTEXT = 64
"""Bytes that the model sees at once."""

MODULES = ("argparse", "ast", "asyncio.base_events", "configparser", "dataclasses", "difflib", "doctest")
"""What the model reads: modules that every Python has."""


def main() -> None:
    """Train twice, and compare."""
    on_gpu = is_hopper()
    parser = argparse.ArgumentParser(description="A language model, trained in FP8 and in bf16.")
    parser.add_argument("--steps", type=int, default=1000 if on_gpu else 150)
    parser.add_argument("--hidden", type=int, default=512 if on_gpu else 64, help="a multiple of 32")
    parser.add_argument("--layers", type=int, default=6 if on_gpu else 2)
    parser.add_argument("--batch", type=int, default=64 if on_gpu else 8, help="sequences in a step")
    parser.add_argument("--png", type=Path, help="where to draw the losses; it takes matplotlib")
    args = parser.parse_args()

    device = torch.device("cuda" if on_gpu else "cpu")
    if not on_gpu:
        # Products are so small that threads would wait for each other for longer than they work.
        torch.set_num_threads(1)
    text = read()
    print(f"1. Text: {len(text)} bytes of {len(MODULES)} modules of Python's library")
    losses = {}
    for number, name in enumerate(("bf16", "FP8"), start=2):
        # The same seed: the same weights to begin with, and the same batches.
        torch.manual_seed(0)
        model = Model(args.hidden, args.layers).to(device)
        if name == "FP8":
            # The last layer makes logits, and is left as it is: small differences between those matter.
            swapped = swap_linear(model, lambda layer, name: name != "head")
            print(f"   {len(swapped.swapped)} layers become FP8, {len(swapped.left)} is left")
        print(f"{number}. {name}: {args.steps} steps")
        started = time.perf_counter()
        losses[name] = train(model, batches(text, args.batch, args.steps, device))
        us = (time.perf_counter() - started) / args.steps * 1e6
        print(f"   {us:.0f} us a step, loss from {losses[name][0]:.3f} to {end(losses[name]):.3f}")
    bf16, fp8 = end(losses["bf16"]), end(losses["FP8"])
    print(f"4. Final loss of FP8 beside bf16: {fp8 / bf16 - 1:+.2%}")
    if not on_gpu:
        print("No Hopper GPU here: these are times of the reference, which mean nothing.")
    if args.png:
        draw(losses, args.png)


def read() -> Tensor:
    """The text, a number for each byte."""
    source = "".join(inspect.getsource(importlib.import_module(name)) for name in MODULES)
    return torch.tensor(list(source.encode()))


def batches(text: Tensor, size: int, steps: int, device: torch.device) -> Iterator[Tensor]:
    """Sequences [size, CONTEXT + 1] from anywhere in the text."""
    random = torch.Generator().manual_seed(0)
    for _ in range(steps):
        starts = torch.randint(len(text) - CONTEXT, (size, 1), generator=random)
        yield text[starts + torch.arange(CONTEXT + 1)].to(device)


class Block(nn.Module):
    """Attention, then a feed-forward layer; each adds to what it was given."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.heads = hidden // 32
        self.norm_1, self.norm_2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.qkv, self.out = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
        self.up, self.down = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, hidden] to the same."""
        q, k, v = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.norm_2(x))))


class Model(nn.Module):
    """Logits of the next byte, from all bytes so far."""

    def __init__(self, hidden: int, layers: int) -> None:
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, hidden), nn.Embedding(CONTEXT, hidden)
        self.blocks = nn.Sequential(*(Block(hidden) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(hidden), nn.Linear(hidden, 256)

    def forward(self, text: Tensor) -> Tensor:
        """[B, T] bytes to [B, T, 256] logits."""
        x = self.bytes(text) + self.places.weight[: text.shape[1]]
        logits: Tensor = self.head(self.norm(self.blocks(x)))
        return logits


def train(model: nn.Module, batches: Iterator[Tensor]) -> list[float]:
    """The loss of each step, in nats for a byte."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for batch in batches:
        text, following = batch[:, :-1], batch[:, 1:]
        # Autocast has layers compute in bf16: those that are FP8 quantise it.
        with torch.autocast(batch.device.type, dtype=torch.bfloat16):
            logits = model(text)
        loss = functional.cross_entropy(logits.float().flatten(0, 1), following.flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def end(losses: list[float]) -> float:
    """The mean of the last tenth: single batches differ by more than FP8 and bf16 do."""
    last = losses[-max(1, len(losses) // 10) :]
    return sum(last) / len(last)


def draw(losses: dict[str, list[float]], path: Path) -> None:
    """Both curves, as a picture."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    # They lie upon each other: the wide line is seen behind the other.
    for (name, values), width in zip(losses.items(), (5, 1), strict=True):
        axes.plot(values, label=name, linewidth=width)
    axes.set(xlabel="step", ylabel="loss, nats for a byte")
    axes.legend()
    figure.savefig(path, dpi=120)
    print(f"Losses are drawn in {path}")


if __name__ == "__main__":
    main()
