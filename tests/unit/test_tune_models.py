"""The weights of known models, by what their config.json says, and what is said of others."""

import json
from pathlib import Path
from typing import Any

import pytest

from cute_gemm.measure.errors import CommandError
from cute_gemm.tune.models import read_model

LLAMA = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
}
QWEN_MOE = LLAMA | {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_experts": 128,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
}
DEEPSEEK = {
    "model_type": "deepseek_v3",
    "hidden_act": "silu",
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "first_k_dense_replace": 3,
    "num_attention_heads": 128,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}


def layers_of(tmp_path: Path, config: Any) -> dict[str, tuple[int, ...]]:
    """N and K, and the number of groups where there are any, by name."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = read_model(tmp_path / "config.json")
    assert read_model(tmp_path) == model
    layers = model.layers
    assert len({layer.name for layer in layers}) == len(layers)
    return {each.name: (each.n, each.k, *([each.groups] if each.groups else [])) for each in layers}


def test_llama(tmp_path: Path) -> None:
    expected = {
        "qkv_proj": (6144, 4096),
        "o_proj": (4096, 4096),
        "mlp.gate_up_proj": (28672, 4096),
        "mlp.down_proj": (4096, 14336),
    }
    assert layers_of(tmp_path, LLAMA) == expected
    assert layers_of(tmp_path, LLAMA | {"num_experts": 0}) == expected
    assert layers_of(tmp_path, {"model_type": "sees_too", "text_config": LLAMA}) == expected
    del (every_head := dict(LLAMA))["num_key_value_heads"]
    assert layers_of(tmp_path, every_head) == expected | {"qkv_proj": (3 * 4096, 4096)}


def test_qwen_with_experts(tmp_path: Path) -> None:
    expected = {
        "qkv_proj": (5120, 2048),
        "o_proj": (2048, 4096),
        "experts.gate_up_proj": (1536, 2048, 128),
        "experts.down_proj": (2048, 768, 128),
    }
    assert layers_of(tmp_path, QWEN_MOE) == expected
    dense = {"mlp.gate_up_proj": (12288, 2048), "mlp.down_proj": (2048, 6144)}
    for some in ({"decoder_sparse_step": 2}, {"mlp_only_layers": [0]}):
        assert layers_of(tmp_path, QWEN_MOE | some) == expected | dense
    shared = {"shared_expert.gate_up_proj": (11264, 2048), "shared_expert.down_proj": (2048, 5632)}
    assert layers_of(tmp_path, QWEN_MOE | {"shared_expert_intermediate_size": 5632}) == expected | shared


def test_mixtral(tmp_path: Path) -> None:
    found = layers_of(tmp_path, LLAMA | {"model_type": "mixtral", "num_local_experts": 8})
    assert {name: shape for name, shape in found.items() if "proj" in name and "." in name} == {
        "experts.gate_up_proj": (28672, 4096, 8),
        "experts.down_proj": (4096, 14336, 8),
    }


def test_deepseek(tmp_path: Path) -> None:
    expected = {
        "q_a_proj+kv_a_proj": (2112, 7168),
        "q_b_proj": (24576, 1536),
        "kv_b_proj": (32768, 512),
        "o_proj": (7168, 16384),
        "experts.gate_up_proj": (4096, 7168, 256),
        "experts.down_proj": (7168, 2048, 256),
        "shared_experts.gate_up_proj": (4096, 7168),
        "shared_experts.down_proj": (7168, 2048),
        "mlp.gate_up_proj": (36864, 7168),
        "mlp.down_proj": (7168, 18432),
    }
    assert layers_of(tmp_path, DEEPSEEK) == expected
    assert layers_of(tmp_path, DEEPSEEK | {"n_shared_experts": 2}) == expected | {
        "shared_experts.gate_up_proj": (8192, 7168),
        "shared_experts.down_proj": (7168, 4096),
    }
    without = layers_of(tmp_path, DEEPSEEK | {"q_lora_rank": None, "first_k_dense_replace": 0})
    assert without["q_proj"] == (24576, 7168)
    assert without["kv_a_proj"] == (576, 7168)
    assert expected.keys() - without.keys() == {
        "q_a_proj+kv_a_proj",
        "q_b_proj",
        "mlp.gate_up_proj",
        "mlp.down_proj",
    }


NEEDED = {
    "llama": (LLAMA, {*LLAMA} - {"model_type", "num_key_value_heads"}),
    "qwen": (QWEN_MOE, {"hidden_size", "num_attention_heads"}),
    "deepseek": (
        DEEPSEEK,
        {"qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "intermediate_size"},
    ),
}


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind in NEEDED for key in sorted(NEEDED[kind][1])])
def test_what_is_missing_is_named(kind: str, key: str, tmp_path: Path) -> None:
    config = {name: value for name, value in NEEDED[kind][0].items() if name != key}
    with pytest.raises(
        CommandError, match=rf"config.json \({config['model_type']}\): it lacks {key}; .*--shapes"
    ):
        layers_of(tmp_path, config)


def test_other_kinds_of_models_are_refused(tmp_path: Path) -> None:
    for config, message in (
        (LLAMA | {"hidden_act": "gelu"}, "its hidden_act is gelu, but MLPs gated by silu"),
        (LLAMA | {"hidden_size": "4096"}, 'its hidden_size is "4096", not a number'),
        (LLAMA | {"num_attention_heads": 0}, "its num_attention_heads is 0"),
        ({}, r"\(of no type\): it lacks hidden_act"),
        ([], "not the config.json of a model"),
        ({"text_config": 1}, "not the config.json of a model"),
    ):
        with pytest.raises(CommandError, match=message):
            layers_of(tmp_path, config)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CommandError, match=r"config.json: Expecting"):
        read_model(tmp_path)
    with pytest.raises(CommandError, match="No such file"):
        read_model(tmp_path / "none.json")
