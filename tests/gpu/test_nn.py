"""Layers for training on a GPU: the CPU's results, and weights that change under a captured graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cute_gemm import dequantize_1x128, dequantize_128x128, quantize_1x128, quantize_128x128
from cute_gemm.nn import FP8GroupedLinear, FP8Linear

OUT, IN = 272, 400


def by_rows(x: Tensor) -> Tensor:
    return dequantize_1x128(*quantize_1x128(x.contiguous()), torch.float64)


def off(x: Tensor, wanted: Tensor) -> float:
    return ((x.double() - wanted).norm() / wanted.norm()).item()


def inputs(tokens: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x, dy = (torch.randn(tokens, size, device="cuda", dtype=torch.bfloat16) for size in (IN, OUT))
    return x.requires_grad_(), dy


@pytest.mark.parametrize("has_main_grad", [False, True])
@pytest.mark.parametrize("tokens", [1, 77, 1024])
def test_products_are_those_of_dequantised_operands(tokens: int, has_main_grad: bool) -> None:
    linear = FP8Linear(IN, OUT, device="cuda", dtype=torch.bfloat16)
    x, dy = inputs(tokens)
    if has_main_grad:
        linear.weight.main_grad = torch.zeros(OUT, IN, device="cuda")
    y = linear(x)
    y.backward(dy)
    w = dequantize_128x128(*quantize_128x128(linear.weight.detach()), torch.float64)
    of_x, of_dy = x.detach(), dy
    assert off(y.detach() - linear.bias.detach(), by_rows(of_x) @ w.t()) < 2.0**-6
    assert off(x.grad, by_rows(of_dy) @ w) < 2.0**-7
    dw = linear.weight.main_grad if has_main_grad else linear.weight.grad
    assert off(dw, by_rows(of_dy.t()) @ by_rows(of_x.t()).t()) < 2.0**-7
    assert (linear.weight.grad is None) is has_main_grad


def test_a_captured_step_quantises_the_weight_as_it_is() -> None:
    linear = FP8Linear(IN, OUT, device="cuda", dtype=torch.bfloat16)
    x, dy = inputs(256)

    def step() -> tuple[Tensor, Tensor]:
        y = linear(x)
        (dx,) = torch.autograd.grad(y, x, dy)
        return y, dx

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    with torch.no_grad():
        linear.weight.mul_(-3)
    graph.replay()
    assert all(map(torch.equal, captured, step()))


def test_groups_are_layers() -> None:
    sizes = (130, 0, 1, 77)
    x, dy = inputs(sum(sizes))
    layer = FP8GroupedLinear(len(sizes), IN, OUT, device="cuda", dtype=torch.bfloat16)
    ends = torch.tensor(sizes, device="cuda").cumsum(0).int()
    y = layer(x, ends)
    y.backward(dy)
    first = 0
    for group, size in enumerate(sizes):
        rows, first = slice(first, first + size), first + size
        if not size:
            assert layer.weight.grad[group].abs().sum() == 0
            continue
        w = dequantize_128x128(*quantize_128x128(layer.weight[group].detach()), torch.float64)
        own, own_dy = x[rows].detach(), dy[rows]
        assert off(y[rows].detach(), by_rows(own) @ w.t()) < 2.0**-7
        assert off(x.grad[rows], by_rows(own_dy) @ w) < 2.0**-7
        assert off(layer.weight.grad[group], by_rows(own_dy.t()) @ by_rows(own.t()).t()) < 2.0**-7


def test_a_captured_step_of_groups_follows_their_sizes() -> None:
    """The host reads none: a graph that was captured with some sizes is right of others."""
    layer = FP8GroupedLinear(3, IN, OUT, device="cuda", dtype=torch.bfloat16)
    x, dy = inputs(301)
    ends = torch.tensor([100, 100, 290], device="cuda", dtype=torch.int32)

    def step() -> tuple[Tensor, ...]:
        layer.forget()
        y = layer(x, ends)
        return y.detach(), *torch.autograd.grad(y, (x, layer.weight), dy)

    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for sizes in ([1, 131, 301], [0, 0, 0], [17, 290, 299]):
        ends.copy_(torch.tensor(sizes))
        graph.replay()
        assert all(map(torch.equal, captured, step()))
