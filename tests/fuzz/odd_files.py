"""Files as nobody wishes them: results, checkpoints, models and programs, in order or odd in some way."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from cute_gemm.measure.records import EXPERT_LAYER, KEYS, QUANTIZERS

ODD_TEXTS = (
    "[/b]",
    "[red]x[/red]",
    "[bold",
    ":smile:",
    "\x1b[2J\x1b[31mred",
    "\x1b]0;title\x07",
    "a\rb",
    "two\nlines",
    "nul\x00",
    "\u202etfel",
    "\u2028",
    "\x9b31m",
    "$\\frac{x$",
    "|",
    "名前",
    "\ud800",
    "x" * 300,
    "%s {0} {name}",
    "",
)
ODD_VALUES: tuple[Any, ...] = (
    *(float("nan"), float("inf"), -float("inf"), 1e308, 5e-324, -1, -0.0, 0, 1, 2**31, 2**63, 10**400),
    *(True, False, None, [], [1], {}, {"a": 1}, *ODD_TEXTS),
)
BAD_TIMES = (
    float("nan"),
    float("inf"),
    -float("inf"),
    -5.0,
    0,
    0.0,
    -1e-9,
    True,
    "5",
    [],
    10**400,
    1e300,
    1e-300,
)
"""What no clock gives."""

DEEP = "[" * 100_000


# What a benchmark measured


def row(draw: random.Random, shape: tuple[int, ...]) -> dict[str, Any]:
    """A line of results that is in order."""
    m, n, k = shape
    us = round(draw.uniform(1, 1000), 3)
    return {
        **{"op": "dense_1d2d", "m": m, "n": n, "k": k, "peer": "cute_gemm", "us": us, "tflops": 100.0},
        **{
            "gb_per_s": 1000.0,
            "median": us,
            "spread": 0.01,
            "rounds": 20,
            "timer": "CUPTI",
            "regime": "cold",
        },
        **{"config": "64x64", "scale_layout": "m_major", "error_worst_tile": 1e-6},
        **{"versions": {"torch": "2.13.0"}, "device": "NVIDIA H200", "date": "2026-11-29"},
    }


def quantizer_row(draw: random.Random, shape: tuple[int, ...]) -> dict[str, Any]:
    """A line of results of a quantiser that is in order."""
    m, k = shape
    found = row(draw, (m, 8, k)) | {"op": draw.choice(QUANTIZERS), "bytes": 4 * m * k, "copy_share": 0.9}
    if draw.random() < 0.5:
        found |= {
            "regime": "chain",
            "over_empty_us": -0.1,
            "host_us": 11.7,
            "host_mm_us": 14.1,
            "layers": 200,
        }
    return {key: value for key, value in found.items() if key not in ("n", "tflops")} | {
        "scale_layout": draw.choice(["row_major", "m_major"])
    }


def layer_row(draw: random.Random, shape: tuple[int, ...]) -> dict[str, Any]:
    """A line of results of an expert layer that is in order."""
    found = row(draw, (1, 8, 16)) | {"op": EXPERT_LAYER, "bytes": 10**8, "scale_layout": "row_major"}
    found |= {"stages": {"route": 3.1, "gate_up": 99.0}, "bytes_us": 20.8}
    without = {key: value for key, value in found.items() if key not in ("m", "n", "k")}
    return without | dict(zip(KEYS[EXPERT_LAYER], shape, strict=True))


def rows(draw: random.Random) -> list[dict[str, Any]]:
    """A run, with a peer for some shapes, and maybe quantisers and layers."""
    found = []
    for tokens in [1, 128][: draw.randint(0, 2)]:
        ours = layer_row(draw, (tokens, 32, 256, 8, 7168, 2048))
        found += [ours, ours | {"peer": "unfused", "us": 2.0}]
    for shape in [(16, 7168), (4096, 7168)][: draw.randint(0, 2)]:
        ours = quantizer_row(draw, shape)
        found += [ours, ours | {"peer": "copy", "us": 2.0}]
    for shape in [(1, 2112, 7168), (64, 2112, 7168), (4096, 4096, 7168)][: draw.randint(1, 3)]:
        ours = row(draw, shape)
        found.append(ours)
        if draw.random() < 0.3:
            found.append(ours | {"peer": draw.choice(["DeepGEMM", "Triton", *ODD_TEXTS[:8]]), "us": 3.0})
    return found


def lines(found: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(each) + "\n" for each in found)


def spoil_row(draw: random.Random, each: dict[str, Any]) -> None:
    """Leaves out a value of a row, or puts an odd one in its place."""
    key = draw.choice(list(each))
    if draw.random() < 0.2:
        del each[key]
    else:
        each[key] = draw.choice(ODD_VALUES)


# Any file


def spoil_file(draw: random.Random, path: Path) -> None:
    """Makes something else of a file."""
    content = path.read_bytes()
    kind = draw.choice(
        ["cut", "flip", "empty", "noise", "deep", "bom", "gone", "folder", "loop", "huge", "digits"]
    )
    if kind == "cut":
        path.write_bytes(content[: draw.randrange(len(content) + 1)])
    elif kind == "flip" and content:
        at = draw.randrange(min(len(content), 400))
        path.write_bytes(content[:at] + draw.randbytes(1) + content[at + 1 :])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "noise":
        path.write_bytes(draw.randbytes(200))
    elif kind == "deep":
        path.write_text(DEEP)
    elif kind == "digits":
        path.write_text("9" * 5000)
    elif kind == "bom":
        path.write_bytes(b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n"))
    elif kind == "huge":
        os.truncate(path, 1 << 40)
    elif kind in ("gone", "folder", "loop"):
        path.unlink()
        if kind == "folder":
            path.mkdir()
        if kind == "loop":
            path.symlink_to(path.name)


# Checkpoints


_TYPES = (
    *(torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2),
    *(torch.int64, torch.int8, torch.uint8, torch.bool),
)


def checkpoint(draw: random.Random, folder: Path) -> Path:
    """A file or a folder of one to three, with tensors of every sort in them, and scales."""
    folder.mkdir()
    names = [f"model-{i}.safetensors" for i in range(draw.randint(1, 3))]
    parts: dict[str, dict[str, torch.Tensor]] = {name: {} for name in names}
    for i in range(draw.randint(1, 4)):
        name = f"{i}{draw.choice([*ODD_TEXTS, 'layer.weight', 'mlp.up_proj.weight'])}".replace("\ud800", "?")
        for each, tensor in _tensors(draw, name).items():
            parts[draw.choice(names)][each] = tensor
    for name, tensors in parts.items():
        save_file(tensors, folder / name)
    if len(names) > 1 and draw.random() < 0.6:
        homes: Any = {each: name for name, tensors in parts.items() for each in tensors}
        if homes and draw.random() < 0.4:
            homes[draw.choice(list(homes))] = draw.choice(["../x", "none.safetensors", *ODD_VALUES])
        content = {"metadata": {}, "weight_map": draw.choice([homes] * 200 + [*ODD_VALUES])}
        (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    if draw.random() < 0.3:
        spoil_file(draw, draw.choice(sorted(folder.iterdir())))
    if draw.random() < 0.1:
        os.mkfifo(folder / "pipe.safetensors")
    there = sorted(folder.iterdir())
    return draw.choice([folder, folder, *there]) if there else folder


def _tensors(draw: random.Random, name: str) -> dict[str, torch.Tensor]:
    n, k = draw.choice([8, 16, 24, 136, 7, 0]), draw.choice([16, 32, 144, 15, 0])
    shape = draw.choice([(n, k), (n, k), (n, k), (2, n, k), (0, n, k), (1, 2, n, k), (n,), ()])
    tensor = torch.randn(shape).to(draw.choice(_TYPES))
    if tensor.is_floating_point() and tensor.numel() and draw.random() < 0.2:
        tensor.view(-1)[0] = draw.choice([float("nan"), float("inf"), 3e38])
    found = {name: tensor}
    if draw.random() < 0.5:
        blocks = -(-n // 128), -(-k // 128)
        scales = draw.choice([(), (1,), (n,), (n, 1), blocks, (2, *blocks), (2, n, 1), (2,), (3, 3)])
        suffix = draw.choice(["_scale_inv", "_scale"])
        found[name + suffix] = torch.rand(scales).to(draw.choice(_TYPES))
    return found


# Models


_LLAMA = {
    **{"model_type": "llama", "hidden_act": "silu", "hidden_size": 256, "intermediate_size": 512},
    **{"num_attention_heads": 4, "num_key_value_heads": 2},
}
_MORE: dict[str, Any] = {
    **{"model_type": "jamba", "num_experts": 4, "moe_intermediate_size": 128, "mamba_d_state": 16},
    **{"layer_types": ["linear_attention", "\x1b[31m"], "kv_lora_rank": 64, "qk_rope_head_dim": 16},
    **{"qk_nope_head_dim": 32, "v_head_dim": 32, "q_lora_rank": 96, "first_k_dense_replace": 1},
    **{"n_shared_experts": 1, "head_dim": 64, "attn_output_gate": True, "num_local_experts": 8},
}


def model(draw: random.Random, path: Path) -> Path:
    """A config.json, of which something may be missing, odd or unknown."""
    config: dict[str, Any] = dict(_LLAMA)
    for key in draw.sample(list(_MORE), draw.randint(0, 5)):
        config[key] = _MORE[key]
    for key in draw.sample(list(config), draw.choice([0, 0, 1, 2])):
        if draw.random() < 0.4:
            del config[key]
        else:
            config[key] = draw.choice(ODD_VALUES)
    content: Any = {"text_config": config, "vision_config": {"a": 1}} if draw.random() < 0.2 else config
    path.write_text(json.dumps(draw.choice([content] * 500 + [*ODD_VALUES])))
    if draw.random() < 0.1:
        spoil_file(draw, path)
    return draw.choice([path, path.parent])


# Programs


_PROGRAMS = (
    "raise ValueError('\\x1b[31m[/b]\\n two')",
    "import sys; sys.exit(7)",
    "import no_such_module",
    "def f(:",
    "program = 7",
    "def program(): raise KeyError('x')",
    "def program(a): pass",
    "class A:\n    @property\n    def b(self): 1 / 0\nprogram = A()",
    "from cute_gemm.plan.config import KernelConfig\nprogram = KernelConfig(64, 64, 4)",
    "from cute_gemm.plan.config import KernelConfig\nprogram = KernelConfig(7, 64, 4)",
    "raise KeyboardInterrupt",
    "\x00",
)


def program(draw: random.Random, path: Path) -> str:
    """A file of a kernel's author, and what in it is meant."""
    path.write_text(draw.choice(_PROGRAMS))
    return f"{path}:{draw.choice(['program', 'program', 'program.b', 'none', '', 'f'])}"
