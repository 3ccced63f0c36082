"""FP8Linear: its products against FP64, and that it stands where nn.Linear stands."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from nn_layers import IN, OUT, by_blocks, by_rows, layer, normal, off
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from cute_gemm.nn import FP8Linear

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: 2.0**-20}
"""What a result may be off the product of the dequantised operands, of norms."""


def gradients(module: nn.Module, x: Tensor, dy: Tensor) -> tuple[Tensor, ...]:
    """Of the input and all parameters, which are left without."""
    x = x.detach().requires_grad_()
    y = module(x)
    y.backward(dy.to(y.dtype))
    found = (x.grad, *(each.grad for each in module.parameters()))
    module.zero_grad()
    return y.detach(), *found


# What it computes


@pytest.mark.parametrize("of_weight", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", [1, 16, 77, 256])
def test_products_are_those_of_dequantised_operands(
    tokens: int, dtype: torch.dtype, of_weight: torch.dtype
) -> None:
    linear = layer(of_weight)
    x, dy = normal(tokens, IN, dtype=dtype), normal(tokens, OUT, dtype=dtype, seed=2)
    y, dx, dw, db = gradients(linear, x, dy)
    w = by_blocks(linear.weight)
    assert (y.dtype, dx.dtype, dw.dtype, db.dtype) == (dtype, dtype, of_weight, of_weight)
    assert off(y, by_rows(x) @ w.t() + linear.bias.double()) < ROUNDING[dtype]
    assert off(dx, by_rows(dy) @ w) < ROUNDING[dtype]
    assert off(dw, by_rows(dy.t()) @ by_rows(x.t()).t()) < ROUNDING[of_weight]
    assert off(db, dy.double().sum(0)) < ROUNDING[of_weight]


def test_it_is_near_to_what_is_without_fp8() -> None:
    linear, plain = layer(torch.float32), nn.Linear(IN, OUT)
    plain.load_state_dict(linear.state_dict())
    x, dy = normal(256, IN, dtype=torch.float32), normal(256, OUT, dtype=torch.float32, seed=2)
    for mine, wanted in zip(gradients(linear, x, dy), gradients(plain, x, dy), strict=True):
        assert off(mine, wanted) < 0.05


@pytest.mark.parametrize("of", ["input", "weight"])
def test_gradients_are_slopes(of: str) -> None:
    """What the loss gains along a direction. FP8 is a staircase: steps are far larger than its own."""
    linear = layer(torch.float32)
    x, dy = normal(64, IN, dtype=torch.float32), normal(64, OUT, dtype=torch.float32, seed=2)

    def loss(x: Tensor, w: Tensor) -> float:
        with torch.no_grad():
            y = torch.func.functional_call(linear, {"weight": w}, x)
        return (y.double() * dy.double()).sum().item()

    w = linear.weight.detach()
    _, dx, dw, _ = gradients(linear, x, dy)
    for seed in range(3):
        if of == "input":
            direction = dx + normal(*x.shape, dtype=torch.float32, seed=10 + seed)
            gained, slope = loss(x + direction, w) - loss(x - direction, w), dx
        else:
            # Half of it along the gradient: across it the slope would be small, and all error.
            direction = dw * 0.1 + normal(*w.shape, dtype=torch.float32, seed=10 + seed)
            gained, slope = loss(x, w + direction) - loss(x, w - direction), dw
        assert gained == pytest.approx(2 * (slope.double() * direction.double()).sum().item(), rel=0.03)


def test_the_same_call_gives_the_same_bits() -> None:
    linear = layer()
    x, dy = normal(77, IN), normal(77, OUT, seed=2)
    first = gradients(linear, x, dy)
    for _ in range(3):
        assert all(map(torch.equal, first, gradients(linear, x, dy)))


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 1, 3), (0,), (2, 0)])
def test_any_shape_in_front(shape: tuple[int, ...]) -> None:
    linear = layer()
    x, dy = normal(*shape, IN), normal(*shape, OUT, seed=2)
    y, dx, dw, db = gradients(linear, x, dy)
    assert (y.shape, dx.shape) == ((*shape, OUT), x.shape)
    flat = gradients(linear, x.reshape(-1, IN), dy.reshape(-1, OUT))
    assert torch.equal(y.reshape(-1, OUT), flat[0])
    assert torch.equal(dx.reshape(-1, IN), flat[1])
    assert torch.equal(dw, flat[2])
    assert torch.equal(db, flat[3])
    if x.numel() == 0:
        assert dw.abs().sum() == db.abs().sum() == 0


def test_strides_of_input_and_gradient_are_any() -> None:
    linear = layer()
    x, dy = normal(IN, 40), normal(OUT, 40, seed=2)
    wanted = gradients(linear, x.t().contiguous(), dy.t().contiguous())
    assert all(map(torch.equal, wanted, gradients(linear, x.t(), dy.t())))
    y = linear(x.t().clone().requires_grad_())
    y.sum().backward()  # a gradient of stride 0
    assert linear.weight.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(40,), (2, 20), ()])
def test_a_result_may_be_changed_in_place(shape: tuple[int, ...]) -> None:
    linear, x = layer(), normal(*shape, IN).requires_grad_()
    y = linear(x)
    assert not y._is_view()
    wanted = torch.autograd.grad(y.relu().sum(), x)
    y = linear(x)
    y.relu_()
    assert torch.equal(torch.autograd.grad(y.sum(), x)[0], wanted[0])


@pytest.mark.parametrize("frozen", ["input", "weight", "bias", "input bias", "input weight"])
def test_what_is_frozen_gets_no_gradient(frozen: str) -> None:
    linear = layer()
    x, dy = normal(40, IN), normal(40, OUT, seed=2)
    y, *wanted = gradients(linear, x, dy)
    tensors = {"input": x.clone().requires_grad_(), "weight": linear.weight, "bias": linear.bias}
    for name in frozen.split():
        tensors[name].requires_grad_(False)
    made = linear(tensors["input"])
    made.backward(dy)
    assert torch.equal(made, y)
    for (name, each), gradient in zip(tensors.items(), wanted, strict=True):
        assert each.grad is None if name in frozen.split() else torch.equal(each.grad, gradient)


def test_without_a_bias() -> None:
    linear = layer(bias=False)
    y, dx, dw = gradients(linear, normal(40, IN), normal(40, OUT, seed=2))
    assert off(y, by_rows(normal(40, IN)) @ by_blocks(linear.weight).t()) < ROUNDING[torch.bfloat16]
    assert dx is not None
    assert dw is not None


def test_gradients_add_up() -> None:
    linear = layer(torch.float32)
    batches = [(normal(40, IN, seed=seed), normal(40, OUT, seed=seed + 10)) for seed in range(2)]
    apart = [gradients(linear, *each)[2] for each in batches]
    for x, dy in batches:
        linear(x).backward(dy)
    assert torch.equal(linear.weight.grad, apart[0] + apart[1])
    assert not torch.equal(apart[0], apart[1])


# What is set around it


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", DTYPES)
def test_autocast_casts_the_input_as_of_linear(dtype: torch.dtype, lower: torch.dtype) -> None:
    linear, plain = layer(torch.float32), nn.Linear(IN, OUT)
    x, dy = normal(40, IN, dtype=dtype), normal(40, OUT, seed=2)
    wanted = gradients(linear, x.to(lower), dy.to(lower))
    with torch.autocast("cpu", dtype=lower):
        found, of_plain = gradients(linear, x, dy), gradients(plain, x, dy)
        assert linear(x.double()[:0].to(dtype)).dtype is lower
    assert [each.dtype for each in found] == [each.dtype for each in of_plain]
    assert found[1].dtype is dtype
    for mine, each in zip(found, wanted, strict=True):
        assert torch.equal(mine, each.to(mine.dtype))


class Saving:
    """Counts what is saved for backward, and its bytes."""

    def __init__(self) -> None:
        self.count = self.bytes = 0

    def __enter__(self) -> Saving:
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda x: x)
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, x: Tensor) -> Tensor:
        self.count += 1
        self.bytes += x.nbytes
        return x


def test_nothing_is_saved_without_gradients() -> None:
    linear, x = layer(), normal(40, IN).requires_grad_()
    with Saving() as saving:
        with torch.no_grad():
            without = linear(x)
        linear.requires_grad_(False)
        linear(x.detach())
        with torch.inference_mode():
            inferred = linear(x)
    assert saving.count == 0
    assert not without.requires_grad
    assert torch.equal(without, linear(x))
    assert torch.equal(without, inferred)


def test_of_the_input_fp8_values_alone_are_saved() -> None:
    linear, x = layer(), normal(256, IN).requires_grad_()
    with Saving() as saving:
        linear(x)
    assert saving.bytes - linear.weight.nbytes == x.numel() + x.numel() // 128 * 4
    linear.weight.requires_grad_(False)
    with Saving() as saving:
        linear(x)
    assert saving.bytes == linear.weight.nbytes


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_checkpointing(is_reentrant: bool) -> None:
    model = nn.Sequential(layer(), nn.GELU(), FP8Linear(OUT, IN, dtype=torch.bfloat16))
    x, dy = normal(40, IN), normal(40, IN, seed=2)
    wanted = gradients(model, x, dy)
    x.requires_grad_()
    y = checkpoint(model, x, use_reentrant=is_reentrant)
    y.backward(dy)
    assert all(map(torch.equal, wanted, (y, x.grad, *(each.grad for each in model.parameters()))))


def test_a_weight_that_changed_before_backward_is_an_error() -> None:
    linear = layer()
    y = linear(normal(40, IN))
    with torch.no_grad():
        linear.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# Megatron's main_grad


def with_main_grad(linear: FP8Linear, dtype: torch.dtype = torch.float32) -> Tensor:
    linear.weight.main_grad = torch.ones(OUT, IN, dtype=dtype)
    return linear.weight.main_grad


def test_a_main_grad_is_added_to_in_fp32() -> None:
    linear = layer()
    given = [(normal(40, IN, seed=seed), normal(40, OUT, seed=seed + 10)) for seed in range(2)]
    exact = [by_rows(dy.t()) @ by_rows(x.t()).t() for x, dy in given]
    main = with_main_grad(linear)
    for x, dy in given:
        linear(x).backward(dy)
    assert linear.weight.grad is None
    assert linear.weight.main_grad is main
    assert off(main, 1 + exact[0] + exact[1]) < 2.0**-20
    assert linear.bias.grad is not None


def test_a_main_grad_of_another_dtype() -> None:
    linear = layer()
    main = with_main_grad(linear, torch.bfloat16)
    x, dy = normal(40, IN), normal(40, OUT, seed=2)
    linear(x).backward(dy)
    assert off(main, 1 + by_rows(dy.t()) @ by_rows(x.t()).t()) < 2.0**-7


@pytest.mark.parametrize("zeros", [None, False, True])
def test_hooks_of_a_parameter_find_what_megatron_wants(zeros: bool | None) -> None:
    linear = layer()
    with_main_grad(linear)
    seen = []
    linear.weight.register_post_accumulate_grad_hook(lambda parameter: seen.append(parameter.grad))
    if zeros is not None:
        linear.weight.grad_added_to_main_grad = False
        linear.weight.zero_out_wgrad = zeros
    linear(normal(40, IN)).backward(normal(40, OUT, seed=2))
    (gradient,) = seen
    assert (gradient is None) is (zeros is None)
    assert hasattr(linear.weight, "grad_added_to_main_grad") is (zeros is not None)
    if zeros is not None:
        assert linear.weight.grad_added_to_main_grad is True
    if zeros:
        assert gradient.abs().sum() == 0


@pytest.mark.parametrize("is_reentrant", [False, True])
def test_a_main_grad_with_checkpointing(is_reentrant: bool) -> None:
    linear, other = layer(), layer()
    x, dy = normal(40, IN).requires_grad_(), normal(40, OUT, seed=2)
    wanted, main = with_main_grad(linear), with_main_grad(other)
    linear(x).backward(dy)
    checkpoint(other, x, use_reentrant=is_reentrant).backward(dy)
    assert torch.equal(main, wanted)
    assert not torch.equal(main, torch.ones_like(main))


# A module like another


def test_a_state_dict_is_that_of_linear() -> None:
    linear, plain = layer(), nn.Linear(IN, OUT, dtype=torch.bfloat16)
    assert {name: (x.shape, x.dtype) for name, x in linear.state_dict().items()} == {
        name: (x.shape, x.dtype) for name, x in plain.state_dict().items()
    }
    x = normal(40, IN)
    linear(x)
    plain.load_state_dict(linear.state_dict())
    other = layer(seed=5)
    before = other(x)
    other.load_state_dict(plain.state_dict())
    assert torch.equal(other(x), linear(x))
    assert not torch.equal(before, linear(x))
    assert isinstance(linear, nn.Linear)
    assert repr(linear) == f"FP8Linear(in_features={IN}, out_features={OUT}, bias=True)"


@pytest.mark.parametrize("has_bias", [True, False])
def test_a_layer_made_of_linear_has_its_parameters(has_bias: bool) -> None:
    plain = nn.Linear(IN, OUT, bias=has_bias, dtype=torch.bfloat16).eval()
    linear = FP8Linear.from_linear(plain)
    assert type(linear) is FP8Linear
    assert linear.weight is plain.weight
    assert linear.bias is plain.bias
    assert not linear.training
    assert off(linear(normal(40, IN)), plain(normal(40, IN))) < 0.05


def test_copies_compute_the_same() -> None:
    linear, x = layer(), normal(40, IN)
    y = linear(x)
    file = io.BytesIO()
    torch.save(linear, file)
    file.seek(0)
    for made in (copy.deepcopy(linear), copy.copy(linear), torch.load(file, weights_only=False)):
        assert torch.equal(made(x), y)
    assert len(file.getvalue()) < linear.weight.nbytes + 8000


def test_parameters_may_be_made_later() -> None:
    linear = layer(device="meta")
    assert linear.weight.is_meta
    linear = linear.to_empty(device="cpu")
    linear.reset_parameters()
    assert linear(normal(40, IN)).isfinite().all()


# What is refused


def test_sizes_are_multiples_of_16() -> None:
    for sizes in ((40, 32), (32, 40), (0, 32)):
        with pytest.raises(ValueError, match=r"_features is (40|0); wanted a multiple of 16"):
            FP8Linear(*sizes)
    with pytest.raises(ValueError, match="in_features is 40"):
        FP8Linear.from_linear(nn.Linear(40, 32))


def test_what_is_no_plain_linear_is_not_taken() -> None:
    for module in (layer(), nn.Bilinear(16, 16, 16), None):
        with pytest.raises(TypeError, match=r"wanted a torch\.nn\.Linear, and no subclass"):
            FP8Linear.from_linear(module)


def test_input_is_what_the_layer_takes() -> None:
    linear = layer()
    for x in (normal(40, IN + 16), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=rf"input has shape .*; wanted \[\.\.\., {IN}\]"):
            linear(x)
    with pytest.raises(TypeError, match=r"input is None; wanted a torch\.Tensor"):
        linear(None)
    for dtype in (torch.int64, torch.float64):
        with pytest.raises(TypeError, match=f"x has dtype {dtype}"):
            linear(normal(40, IN).to(dtype))


def test_a_gradient_has_no_gradient() -> None:
    linear, x = layer(), normal(40, IN).requires_grad_()
    with pytest.raises(RuntimeError, match="wanted `create_graph=False`"):
        torch.autograd.grad(linear(x).sum(), x, create_graph=True)


def test_tangents_and_transforms_are_refused() -> None:
    linear, x = layer(), normal(40, IN)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x)
        with pytest.raises(NotImplementedError):
            linear(dual)
        with torch.no_grad(), pytest.raises(ValueError, match="carries a tangent"):
            linear(dual)
    with pytest.raises(RuntimeError):
        torch.func.grad(lambda x: linear(x).sum())(x)
    with pytest.raises(RuntimeError):
        torch.func.vmap(linear)(x[:, None])
