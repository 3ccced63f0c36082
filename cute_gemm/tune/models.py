"""The matrices that a model's linear layers multiply with, by its HuggingFace ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..measure.errors import CommandError

_EXPERTS = "n_routed_experts", "num_experts", "num_local_experts"


@dataclass(frozen=True)
class Layer:
    """A weight ``[N, K]``, or one ``[groups, N, K]`` of experts; ``groups`` is None where there are none."""

    name: str
    n: int
    k: int
    groups: int | None = None


def read_layers(path: Path) -> list[Layer]:
    """The linear layers of a Llama-, Qwen- or DeepSeek-like model, without embeddings, router and head.

    Weights with the same input count as one, as servers fuse them: q, k and v; gate and up; with latent
    attention q_a and kv_a.

    Args:
        path: a ``config.json``, or the directory that it is in.

    Raises:
        CommandError: it cannot be read, lacks what layers follow from, or is of another kind of model.
    """
    file = path / "config.json" if path.is_dir() else path
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"{file}: {error}") from error
    # Of a model that also sees, the part that reads and writes.
    config = content.get("text_config", content) if isinstance(content, dict) else None
    if not isinstance(config, dict):
        raise CommandError(f"{file}: not the config.json of a model")
    model = _Model(file, config)
    if model.get("hidden_act") != "silu":
        raise model.refusal(f"its hidden_act is {model.get('hidden_act')}, but MLPs gated by silu are wanted")
    return [*_attention(model), *_mlp(model)]


@dataclass(frozen=True)
class _Model:
    file: Path
    config: dict[str, Any]

    def refusal(self, why: str) -> CommandError:
        kind = self.config.get("model_type", "of no type")
        return CommandError(f"{self.file} ({kind}): {why}; name shapes by --shapes instead")

    def has(self, key: str) -> bool:
        return self.config.get(key) is not None

    def get(self, key: str) -> Any:
        if not self.has(key):
            raise self.refusal(f"it lacks {key}")
        return self.config[key]

    def __getitem__(self, key: str) -> int:
        value = self.get(key)
        if type(value) is not int or value < 1:
            raise self.refusal(f"its {key} is {json.dumps(value)}, not a number of at least 1")
        return value


def _attention(model: _Model) -> Iterator[Layer]:
    hidden, heads = model["hidden_size"], model["num_attention_heads"]
    if model.has("kv_lora_rank"):
        yield from _latent_attention(model, hidden, heads)
        return
    kv_heads = model["num_key_value_heads"] if model.has("num_key_value_heads") else heads
    head = model["head_dim"] if model.has("head_dim") else hidden // heads
    yield Layer("qkv_proj", (heads + 2 * kv_heads) * head, hidden)
    yield Layer("o_proj", hidden, heads * head)


def _latent_attention(model: _Model, hidden: int, heads: int) -> Iterator[Layer]:
    """Multi-head latent attention (DeepSeek-V2, arXiv:2405.04434, section 2.1)."""
    latent, rope = model["kv_lora_rank"], model["qk_rope_head_dim"]
    nope, value = model["qk_nope_head_dim"], model["v_head_dim"]
    if model.has("q_lora_rank"):
        query = model["q_lora_rank"]
        yield Layer("q_a_proj+kv_a_proj", query + latent + rope, hidden)
        yield Layer("q_b_proj", heads * (nope + rope), query)
    else:
        yield Layer("q_proj", heads * (nope + rope), hidden)
        yield Layer("kv_a_proj", latent + rope, hidden)
    yield Layer("kv_b_proj", heads * (nope + value), latent)
    yield Layer("o_proj", hidden, heads * value)


def _mlp(model: _Model) -> Iterator[Layer]:
    hidden = model["hidden_size"]
    experts = next((key for key in _EXPERTS if model.config.get(key)), None)
    if experts is None:
        yield from _gated("mlp", hidden, model["intermediate_size"])
        return
    # Mixtral has no other size than that of its experts.
    width = model["moe_intermediate_size" if model.has("moe_intermediate_size") else "intermediate_size"]
    yield from _gated("experts", hidden, width, model[experts])
    if model.config.get("n_shared_experts"):
        yield from _gated("shared_experts", hidden, model["n_shared_experts"] * width)
    if model.config.get("shared_expert_intermediate_size"):
        yield from _gated("shared_expert", hidden, model["shared_expert_intermediate_size"])
    some_are_dense = (
        model.config.get("first_k_dense_replace")
        or model.config.get("mlp_only_layers")
        or model.config.get("decoder_sparse_step") not in (None, 1)
    )
    if some_are_dense:
        yield from _gated("mlp", hidden, model["intermediate_size"])


def _gated(name: str, hidden: int, width: int, groups: int | None = None) -> Iterator[Layer]:
    yield Layer(f"{name}.gate_up_proj", 2 * width, hidden, groups)
    yield Layer(f"{name}.down_proj", hidden, width, groups)
