"""The matrices that a model's linear layers multiply with, by what its HuggingFace ``config.json`` says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .limits import MAX_EXTENT

_EXPERTS = "n_routed_experts", "num_experts", "num_local_experts"
_PER_TOKEN = "num_experts_per_tok"

NORMED, GATED, PLAIN = "normed", "gated", "plain"
"""What comes before a layer, and so what quantises its input: a normalisation, the activation of an MLP, or
something else."""

# All of whose linear layers are those below.
_KNOWN = {
    *("deepseek_v2", "deepseek_v3", "kimi_k2", "llama", "mistral", "mixtral"),
    *("qwen2", "qwen2_moe", "qwen3", "qwen3_moe"),
}
# What of a config, by how its key begins, there are layers for that are not listed.
_ELSEWHERE = {
    "attn_layer_period": "layers without attention",
    "block_types": "blocks of other kinds",
    "cross_attention_layers": "cross attention",
    "index_n_heads": "the indexer of sparse attention",
    "intermediate_size_mlp": "MLPs of another size in layers without experts",
    "interleave_moe_layer_step": "a shared expert beside the others",
    "linear_": "linear attention",
    "lru_width": "recurrent layers",
    "mamba_": "state-space layers",
    "num_nextn_predict_layers": "layers that predict more tokens",
    "ssm_": "state-space layers",
    "vision_config": "the part that sees",
}
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention", "attention"}


@dataclass(frozen=True)
class Layer:
    """A weight ``[N, K]``, or one ``[groups, N, K]`` of experts; ``groups`` is None where there are none."""

    name: str
    n: int
    k: int
    groups: int | None = None
    behind: str = NORMED


@dataclass(frozen=True)
class Model:
    """What a ``config.json`` says.

    Args:
        layers: the weights that are known to follow from it.
        left_out: what it tells of that is not among them, a phrase each.
        experts_per_token: that it chooses, if it has experts.
    """

    layers: list[Layer]
    left_out: list[str]
    experts_per_token: int = 1


class ModelError(ValueError):
    """A config that layers do not follow from; the message says why, but not what to do instead.

    Args:
        why: as said.
        kind: the type of the model; empty where it is no model's config.
    """

    def __init__(self, why: str, kind: str = "") -> None:
        super().__init__(why)
        self.kind = kind


def model_of(content: Any) -> Model:
    """The linear layers of a Llama-, Qwen- or DeepSeek-like model, without embeddings, router and head.

    Weights with the same input count as one, as servers fuse them: q, k and v; gate and up; with latent
    attention q_a and kv_a.

    Args:
        content: of a ``config.json``, as it was parsed.

    Raises:
        ModelError: it lacks what layers follow from, or is of another kind of model.
    """
    # Of a model that also sees, the part that reads and writes.
    config = content.get("text_config", content) if isinstance(content, dict) else None
    if not isinstance(config, dict):
        raise ModelError("not the config.json of a model")
    fields = _Fields(config)
    act = fields.get("hidden_act")
    layers = [*_attention(fields), *_mlp(fields)]
    if act not in (None, "silu"):
        fields.objections.append(f"its hidden_act is {_shown(act)}, but MLPs gated by silu are wanted")
    if fields.missing:
        fields.objections.insert(0, f"it lacks {', '.join(dict.fromkeys(fields.missing))}")
    if fields.objections:
        raise ModelError("; ".join(dict.fromkeys(fields.objections)), _type_of(config))
    per_token = config.get(_PER_TOKEN)
    choices = per_token if type(per_token) is int and per_token >= 1 else 1
    return Model(layers, list(dict.fromkeys(_left_out(content, config))), choices)


@dataclass(frozen=True)
class _Fields:
    """A config that notes what is missing and what is wrong, so that all of it can be said at once."""

    config: dict[str, Any]
    missing: list[str] = field(default_factory=list)
    objections: list[str] = field(default_factory=list)

    def has(self, key: str) -> bool:
        return self.config.get(key) is not None

    def get(self, key: str) -> Any:
        if not self.has(key):
            self.missing.append(key)
        return self.config.get(key)

    def __getitem__(self, key: str) -> int:
        """A size; 1 in the place of what is missing or wrong."""
        value = self.get(key)
        if type(value) is int and 1 <= value <= MAX_EXTENT:
            return value
        if value is not None:
            self.objections.append(f"its {key} is {_shown(value)}, not a number of at least 1")
        return 1


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) and value.isidentifier() else json.dumps(value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _printable(value: Any) -> str:
    """In one line, without what steers a terminal."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(value)
    )


def _type_of(config: dict[str, Any]) -> str:
    return _printable(config.get("model_type", "of no type"))[:40]


def _left_out(content: dict[str, Any], config: dict[str, Any]) -> Iterator[str]:
    for key, value in {**content, **config}.items():
        for begin, what in _ELSEWHERE.items():
            # Zeros, empty lists and nulls say that there is no such thing.
            if key.startswith(begin) and value:
                yield f"{what} ({begin}{'*' if begin.endswith('_') else ''})"
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        for kind in {each: None for each in kinds if isinstance(each, str)}:
            if kind not in _ATTENTION:
                yield f"layers of type {_printable(kind)[:40]}"
    if _type_of(config) not in _KNOWN:
        yield f"what a model of type {_type_of(config)}, which is not known here, has beyond a Llama-like one"


def _attention(model: _Fields) -> Iterator[Layer]:
    hidden, heads = model["hidden_size"], model["num_attention_heads"]
    if model.has("kv_lora_rank"):
        yield from _latent_attention(model, hidden, heads)
        return
    kv_heads = model["num_key_value_heads"] if model.has("num_key_value_heads") else heads
    head = model["head_dim"] if model.has("head_dim") else hidden // heads
    # Qwen3-Next always has a gate beside each query.
    has_gate = model.config.get("attn_output_gate", model.config.get("model_type") == "qwen3_next")
    queries = 2 * heads if has_gate else heads
    yield Layer("qkv_proj", (queries + 2 * kv_heads) * head, hidden)
    yield Layer("o_proj", hidden, heads * head, behind=PLAIN)


def _latent_attention(model: _Fields, hidden: int, heads: int) -> Iterator[Layer]:
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
    yield Layer("o_proj", hidden, heads * value, behind=PLAIN)


def _mlp(model: _Fields) -> Iterator[Layer]:
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
        or model.config.get("expert_layer_period") not in (None, 1)
    )
    if some_are_dense:
        yield from _gated("mlp", hidden, model["intermediate_size"])


def _gated(name: str, hidden: int, width: int, groups: int | None = None) -> Iterator[Layer]:
    yield Layer(f"{name}.gate_up_proj", 2 * width, hidden, groups)
    yield Layer(f"{name}.down_proj", hidden, width, groups, GATED)
