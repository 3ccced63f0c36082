"""Models whose linear layers become FP8 in place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cute_gemm.nn import FP8Linear, Swapped, swap_linear


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(48, 32)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(32, 64), nn.GELU()) for _ in range(2))
        self.down = nn.Linear(64, 32, bias=False)
        self.again = self.down
        self.odd = nn.Linear(32, 10)
        self.attention = nn.MultiheadAttention(32, 2)
        self.head = nn.Linear(32, 48)
        self.head.weight = self.embedding.weight


def test_layers_are_replaced_and_the_others_reported() -> None:
    model = Model()
    before = dict(model.named_parameters())
    state = {name: x.clone() for name, x in model.state_dict().items()}
    result = swap_linear(model, lambda layer, name: "blocks.1" not in name and layer.out_features != 48)
    assert isinstance(result, Swapped)
    assert result.swapped == ["blocks.0.0", "down", "again"]
    assert result.left == {
        "blocks.1.0": "the filter says so",
        "odd": "out_features is 10; wanted a multiple of 16, as FP8 products sum over it",
        "attention.out_proj": "it is a torch.nn.modules.linear.NonDynamicallyQuantizableLinear, "
        "a subclass of torch.nn.Linear",
        "head": "the filter says so",
    }
    assert {name for name, each in model.named_modules() if type(each) is FP8Linear} == {"blocks.0.0", "down"}
    assert model.again is model.down
    after = dict(model.named_parameters())
    assert after.keys() == before.keys()
    assert all(after[name] is before[name] for name in after)
    assert model.state_dict().keys() == state.keys()
    model.load_state_dict(state)


def test_tied_parameters_stay_tied() -> None:
    model = Model()
    assert "head" in swap_linear(model).swapped
    assert type(model.head) is FP8Linear
    assert model.head.weight is model.embedding.weight


def test_a_second_time_there_is_nothing_to_do() -> None:
    model = nn.Sequential(nn.Linear(32, 32))
    assert swap_linear(model) == (["0"], {})
    layer = model[0]
    assert swap_linear(model) == ([], {})
    assert model[0] is layer


def test_layers_with_hooks_are_left() -> None:
    model = nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 32))
    model[0].register_forward_hook(lambda *_: None)
    model[1].register_full_backward_pre_hook(lambda *_: None)
    assert swap_linear(model) == (["2"], dict.fromkeys(("0", "1"), "it has hooks, which would be lost"))


def test_a_model_is_taken_that_has_layers() -> None:
    with pytest.raises(ValueError, match=r"wanted `FP8Linear.from_linear\(model\)`"):
        swap_linear(nn.Linear(32, 32))
    with pytest.raises(TypeError, match=r"model is None; wanted a torch\.nn\.Module"):
        swap_linear(None)


def test_a_swapped_model_trains() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 16))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    swap_linear(model)
    x, y = torch.randn(64, 32), torch.randn(64, 16)
    losses = []
    for _ in range(30):
        loss = nn.functional.mse_loss(model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
