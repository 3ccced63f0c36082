"""Layers in compiled code: the graph is whole, and results have the same bits."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from compiling import HAS_COMPILER, compiled
from nn_layers import IN, OUT, layer, normal
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

from cute_gemm.nn import FP8Linear


@pytest.fixture(autouse=True)
def fresh_dynamo() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def model() -> nn.Module:
    return nn.Sequential(layer(), nn.GELU(), FP8Linear(OUT, IN, bias=False, dtype=torch.bfloat16))


def step(function: object, module: nn.Module, tokens: int = 40) -> list[Tensor]:
    """The result, and all gradients."""
    x, dy = normal(tokens, IN).requires_grad_(), normal(tokens, IN, seed=2)
    y = function(x)
    y.backward(dy)
    found = [y.detach(), x.grad, *(each.grad for each in module.parameters())]
    module.zero_grad()
    return found


def same(found: list[Tensor], wanted: list[Tensor]) -> bool:
    return len(found) == len(wanted) and all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("is_dynamic", [False, True])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_code_gives_the_same_bits(backend: str, is_dynamic: bool) -> None:
    module = model()
    wanted = step(module, module)
    assert same(step(compiled(module, backend, dynamic=is_dynamic), module), wanted)


@pytest.mark.skipif(not HAS_COMPILER, reason="Inductor wants a C++ compiler")
def test_inductor_gives_the_same_bits() -> None:
    module = layer()
    x, dy = normal(40, IN).requires_grad_(), normal(40, OUT, seed=2)
    for function in (module, compiled(module, "inductor")):
        function(x).backward(dy)
    # Both were added up: each the same.
    doubled = x.grad
    x.grad = None
    module(x).backward(dy)
    assert torch.equal(doubled, 2 * x.grad)


@pytest.mark.thorough
def test_weights_that_change_compile_nothing_anew() -> None:
    module, counting = model(), CompileCounterWithBackend("aot_eager")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    function = compiled(module, counting)
    for _ in range(3):
        assert same(step(function, module), step(module, module))
        module(normal(16, IN)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert counting.frame_count == 1


@pytest.mark.thorough
def test_other_tokens_compile_nothing_anew() -> None:
    module, counting = model(), CompileCounterWithBackend("aot_eager")
    function = compiled(module, counting, dynamic=True)
    # Torch takes what has one block of 128 tokens for a case of its own.
    for number, several in enumerate(((160, 256, 400), (161, 250), (32, 64)), start=1):
        for tokens in several:
            assert same(step(function, module, tokens), step(module, module, tokens))
        assert counting.frame_count == number


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_in_compiled_code(dtype: torch.dtype) -> None:
    module = layer(torch.float32)
    x = normal(40, IN, dtype=dtype)

    def call(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return module(x)

    y = compiled(call)(x)
    assert y.dtype is torch.bfloat16
    assert torch.equal(y, call(x))


@torch.no_grad()
def test_without_gradients() -> None:
    module, x = model(), normal(40, IN)
    assert torch.equal(compiled(module)(x), module(x))


def test_checkpointing_in_compiled_code() -> None:
    module = model()
    wanted = step(module, module)
    assert same(step(compiled(lambda x: checkpoint(module, x, use_reentrant=False)), module), wanted)


def test_a_main_grad_breaks_the_graph() -> None:
    module = layer()
    x, dy = normal(40, IN), normal(40, OUT, seed=2)
    module(x).backward(dy)
    module.weight.main_grad = torch.zeros(OUT, IN)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="has a `main_grad`"):
        compiled(module)(x)
    torch._dynamo.reset()
    wanted, module.weight.grad = module.weight.grad, None
    torch.compile(module, backend="aot_eager")(x).backward(dy)
    assert torch.equal(module.weight.main_grad.bfloat16(), wanted)
    assert module.weight.grad is None
