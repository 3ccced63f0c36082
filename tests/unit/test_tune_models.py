"""The weights of known models, by what their config.json says, and what is said of others."""

import json
from pathlib import Path
from typing import Any

import pytest

from cute_gemm.measure.errors import CommandError
from cute_gemm.measure.models import read_model

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


def test_all_that_is_missing_or_wrong_is_named_at_once(tmp_path: Path) -> None:
    config = {name: value for name, value in DEEPSEEK.items() if name not in ("v_head_dim", "hidden_act")}
    with pytest.raises(CommandError) as info:
        layers_of(tmp_path, config | {"hidden_size": -1, "q_lora_rank": "many"})
    message = str(info.value)
    assert "it lacks hidden_act, v_head_dim; its hidden_size is -1, not a number" in message
    assert "its q_lora_rank is many, not a number" in message
    assert "\n" not in message


LLAMA_4 = LLAMA | {
    "model_type": "llama4_text",
    "num_local_experts": 16,
    "interleave_moe_layer_step": 1,
    "intermediate_size_mlp": 16384,
}
QWEN3_NEXT = QWEN_MOE | {
    "model_type": "qwen3_next",
    "linear_num_key_heads": 16,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention"],
}
JAMBA = LLAMA | {
    "model_type": "jamba",
    "num_experts": 16,
    "attn_layer_period": 8,
    "expert_layer_period": 2,
    "mamba_d_state": 16,
    "mamba_expand": 2,
}
UNKNOWN = "what a model of type {}, which is not known here, has beyond a Llama-like one"


@pytest.mark.parametrize(
    ("config", "left_out"),
    [
        (LLAMA, []),
        (QWEN_MOE, []),
        (DEEPSEEK, []),
        (
            LLAMA_4,
            [
                "a shared expert beside the others (interleave_moe_layer_step)",
                "MLPs of another size in layers without experts (intermediate_size_mlp)",
            ],
        ),
        (QWEN3_NEXT, ["linear attention (linear_*)", "layers of type linear_attention"]),
        (JAMBA, ["layers without attention (attn_layer_period)", "state-space layers (mamba_*)"]),
        (LLAMA | {"model_type": "of\x1bmine"}, []),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else None,
)
def test_what_is_left_out_is_named(tmp_path: Path, config: dict[str, Any], left_out: list[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    kind = config["model_type"].replace("\x1b", "\\x1b")
    is_known = config in (LLAMA, QWEN_MOE, DEEPSEEK)
    assert read_model(tmp_path).left_out == left_out + ([] if is_known else [UNKNOWN.format(kind)])


def test_a_part_that_sees_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": LLAMA, "vision_config": {"depth": 4}}))
    assert read_model(tmp_path).left_out == ["the part that sees (vision_config)"]


def test_gates_beside_queries_and_layers_without_experts(tmp_path: Path) -> None:
    assert layers_of(tmp_path, QWEN3_NEXT)["qkv_proj"] == ((2 * 32 + 2 * 4) * 128, 2048)
    assert layers_of(tmp_path, QWEN3_NEXT | {"attn_output_gate": False})["qkv_proj"] == (5120, 2048)
    assert layers_of(tmp_path, JAMBA)["mlp.down_proj"] == (4096, 14336)


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
