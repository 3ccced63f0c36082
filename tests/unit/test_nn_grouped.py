"""FP8GroupedLinear: each group's products against FP64, and those of layers one by one."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from compiling import compiled
from nn_layers import by_blocks, by_rows, normal, off
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from cute_gemm.nn import FP8GroupedLinear, FP8Linear, grouped_function

OUT, IN = 80, 144
SIZES = (130, 0, 1, 77, 256)
"""Rows of each group; those behind the last belong to none."""
BEHIND = 9


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def grouped(dtype: torch.dtype = torch.bfloat16) -> FP8GroupedLinear:
    torch.manual_seed(0)
    return FP8GroupedLinear(len(SIZES), IN, OUT, dtype=dtype)


def offsets(sizes: tuple[int, ...] = SIZES) -> Tensor:
    return torch.tensor(sizes).cumsum(0).int()


def spans() -> list[slice]:
    ends = offsets().tolist()
    return [slice(end - size, end) for size, end in zip(SIZES, ends, strict=True)]


def inputs(dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor]:
    """Of rows of no group, NaN."""
    rows = sum(SIZES)
    x, dy = (normal(rows + BEHIND, size, dtype=dtype, seed=size) for size in (IN, OUT))
    x[rows:], dy[rows:] = torch.nan, torch.nan
    return x, dy


def gradients(layer: FP8GroupedLinear, x: Tensor, dy: Tensor) -> list[Tensor]:
    x = x.detach().requires_grad_()
    y = layer(x, offsets())
    y.backward(dy)
    found = [y.detach(), x.grad, layer.weight.grad]
    layer.weight.grad = None
    return found


def same(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("of_weight", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_products_are_those_of_dequantised_operands(dtype: torch.dtype, of_weight: torch.dtype) -> None:
    layer = grouped(of_weight)
    x, dy = inputs(dtype)
    y, dx, dw = gradients(layer, x, dy)
    assert (y.dtype, dx.dtype, dw.dtype) == (dtype, dtype, of_weight)
    assert y[sum(SIZES) :].abs().sum() == dx[sum(SIZES) :].abs().sum() == 0
    for group, rows in enumerate(spans()):
        if not SIZES[group]:
            assert dw[group].abs().sum() == 0
            continue
        w = by_blocks(layer.weight[group])
        assert off(y[rows], by_rows(x[rows]) @ w.t()) < 2.0**-8
        assert off(dx[rows], by_rows(dy[rows]) @ w) < 2.0**-8
        exact = by_rows(dy[rows].t()) @ by_rows(x[rows].t()).t()
        assert off(dw[group], exact) < (2.0**-20 if of_weight is torch.float32 else 2.0**-8)


def test_groups_are_layers() -> None:
    layer = grouped()
    x, dy = inputs()
    y, dx, dw = gradients(layer, x, dy)
    for group, rows in enumerate(spans()):
        one = FP8Linear(IN, OUT, bias=False, dtype=torch.bfloat16)
        one.load_state_dict({"weight": layer.weight[group]})
        own = x[rows].detach().requires_grad_()
        made = one(own)
        made.backward(dy[rows])
        assert torch.equal(made, y[rows])
        assert torch.equal(own.grad, dx[rows])
        assert torch.equal(one.weight.grad, dw[group])


def test_no_tokens() -> None:
    layer = grouped()
    x = normal(0, IN).requires_grad_()
    layer(x, offsets((0,) * len(SIZES))).sum().backward()
    assert x.grad.shape == (0, IN)
    assert layer.weight.grad.abs().sum() == 0


def test_gradients_add_up() -> None:
    layer = grouped(torch.float32)
    x, dy = inputs()
    _, _, once = gradients(layer, x, dy)
    for _ in range(2):
        layer(x, offsets()).backward(dy)
    assert torch.equal(layer.weight.grad, 2 * once)
    main = layer.weight.main_grad = once.clone()
    layer.weight.grad = None
    layer(x, offsets()).backward(dy)
    assert torch.equal(main, 2 * once)
    assert layer.weight.grad is None


def test_a_change_of_the_weight_is_seen() -> None:
    layer = grouped()
    x, _ = inputs()
    y = layer(x, offsets())
    torch.optim.SGD(layer.parameters(), lr=1.0).step()
    assert torch.equal(layer(x, offsets()), y)
    with torch.no_grad():
        layer.weight.mul_(2)
    assert torch.equal(layer(x, offsets()), 2 * y)
    layer.weight.data.mul_(2)
    assert torch.equal(layer(x, offsets()), 2 * y)
    layer.forget()
    assert torch.equal(layer(x, offsets()), 4 * y)
    assert torch.equal(copy.deepcopy(layer)(x, offsets()), 4 * y)


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_checkpointing(is_reentrant: bool) -> None:
    layer = grouped()
    x, dy = inputs()
    wanted = gradients(layer, x, dy)
    x.requires_grad_()
    y = checkpoint(layer, x, offsets(), use_reentrant=is_reentrant)
    y.backward(dy)
    assert same([y, x.grad, layer.weight.grad], wanted)


@pytest.mark.parametrize("is_dynamic", [False, True])
def test_compiled_code_gives_the_same_bits(is_dynamic: bool) -> None:
    layer = grouped()
    x, dy = inputs()
    wanted = gradients(layer, x, dy)
    assert same(gradients(compiled(layer, dynamic=is_dynamic), x, dy), wanted)
    with torch.no_grad():
        assert torch.equal(compiled(layer)(x, offsets()), wanted[0])


def test_autocast_casts_the_input() -> None:
    layer = grouped(torch.float32)
    x, dy = inputs(torch.float32)
    wanted = gradients(layer, x.bfloat16(), dy.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x, offsets())
    assert torch.equal(y, wanted[0])


def test_what_is_refused() -> None:
    layer = grouped()
    x, _ = inputs()
    with pytest.raises(ValueError, match="groups is 0; wanted 1 or more"):
        FP8GroupedLinear(0, 32, 32)
    with pytest.raises(ValueError, match="in_features is 40"):
        FP8GroupedLinear(2, 40, 32)
    with pytest.raises(ValueError, match=rf"input has shape .*; wanted \[T, {IN}\]"):
        layer(x[None], offsets())
    with pytest.raises(ValueError, match="offsets has shape"):
        layer(x, offsets()[:-1])
    with pytest.raises(TypeError, match=r"offsets has dtype torch\.int64"):
        layer(x, offsets().long())
    with pytest.raises(RuntimeError, match="wanted `create_graph=False`"):
        torch.autograd.grad(layer(x, offsets()).sum(), layer.weight, create_graph=True)
    assert repr(layer) == f"FP8GroupedLinear(groups={len(SIZES)}, in_features={IN}, out_features={OUT})"


def test_the_host_reads_no_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of tensors that have none, nor of others where torch quantises in place of a kernel."""
    layer, (x, dy) = grouped(), inputs()
    wanted = gradients(layer, x, dy)
    ends = offsets()
    x = x.detach().requires_grad_()

    def refuse(*_: object) -> None:
        raise AssertionError("the host reads a tensor")

    with monkeypatch.context() as patch:
        for name in ("tolist", "item", "__int__", "__index__", "__bool__", "__float__", "numpy"):
            patch.setattr(torch.Tensor, name, refuse)
        # On a CPU this product does read where groups begin.
        patch.setattr(grouped_function, "k_grouped_fp8_gemm_nt", lambda *_, **__: wanted[2])
        y = layer(x, ends)
        y.backward(dy)
    assert same([y.detach(), x.grad, layer.weight.grad], wanted)

    with FakeTensorMode():
        layer = grouped()
        x, ends = torch.empty(99, IN, dtype=torch.bfloat16, requires_grad=True), torch.empty(len(SIZES)).int()
        layer(x, ends).sum().backward()
    assert layer.weight.grad.shape == layer.weight.shape
    assert x.grad.shape == x.shape
