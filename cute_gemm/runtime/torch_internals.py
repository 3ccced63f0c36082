"""What is taken from inside torch, and why: each saves up to a microsecond of a warm call's fifteen.

Nothing else in the package uses a private name of torch. Each has a public function that does the same, or a
slower way, which is used where the private one is not there (docs/performance.md, 68).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import CodeType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def _empty_strided_publicly(size: tuple[int, ...], stride: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty_strided(size, stride, dtype=dtype, device="cuda")


def _raw_stream_publicly(device: int) -> int:
    return int(torch.cuda.current_stream(device).cuda_stream)


_guards: Any = getattr(getattr(torch._C, "_dynamo", None), "guards", None)

# As the code that Inductor generates does.
empty_strided_cuda: Callable[[tuple[int, ...], tuple[int, ...], torch.dtype], Tensor] = getattr(
    _guards,
    "_empty_strided_cuda",
    _empty_strided_publicly,
)
"""An uninitialised tensor of a size, stride and dtype on the current CUDA device."""

current_raw_stream: Callable[[int], int] = getattr(
    torch._C, "_cuda_getCurrentRawStream", _raw_stream_publicly
)
"""The handle of the current stream of a CUDA device."""

increment_version: Callable[[Iterable[Tensor]], None] = getattr(
    torch._C, "_increment_version", torch.autograd.graph.increment_version
)
"""Says to autograd that tensors have changed."""


def _of_another_kind(*tensors: Any) -> bool:
    return False


def same_kind(tensors: tuple[Tensor, ...], last_strides: list[int | None]) -> Callable[..., bool]:
    """Whether objects are of the kind of these tensors, each of its own: a function that takes as many.

    That is, each has the type, dtype, device, layout, number of dimensions and ``requires_grad`` of its own,
    the stride of the last dimension that is said (None for any), and a negation pending where that one has;
    and transforms of torch.func and inference mode are in force as here. Forward-mode AD may be. It keeps no
    tensor. False may be said of any: of a tensor that comes twice, and always where torch cannot tell.
    """
    sizes: list[list[int | None]] = [[None] * each.dim() for each in tensors]
    strides = [[*of[1:], last] for of, last in zip(sizes, last_strides, strict=True)]
    try:
        # As compiled code does, to find out whether it was compiled for its arguments.
        guards: Any = _guards.TensorGuards(*tensors, dynamic_dims_sizes=sizes, dynamic_dims_strides=strides)
    except (AttributeError, TypeError):
        return _of_another_kind
    are_of_kind: Callable[..., bool] = guards.check
    return are_of_kind


_subclasses = getattr(torch, "_subclasses", None)
STAND_INS: tuple[type[Tensor], ...] = tuple(
    getattr(getattr(_subclasses, module, None), name)
    for module, name in (("fake_tensor", "FakeTensor"), ("functional_tensor", "FunctionalTensor"))
    if hasattr(getattr(_subclasses, module, None), name)
)
"""Tensors that stand for ones which will be there, while torch traces. Where torch does not name them they
are refused, as any subclass."""


def keep_from_dynamo(code: CodeType, and_what_it_calls: bool = False) -> None:
    """Has Dynamo not compile a function's code by itself; it is still traced as part of a caller.

    It is for functions that do something else while they are traced, and that Dynamo would come to where
    their caller runs as it would without. Publicly there is `torch.compiler.disable`, which breaks the
    caller's graph. Where torch has no such way nothing is done, and tests of settings in compiled code fail.
    """
    hook: Any = getattr(getattr(torch._C, "_dynamo", None), "eval_frame", None)
    try:
        skip = hook._FrameAction.SKIP
        hook.set_code_exec_strategy(
            code, hook._FrameExecStrategy(skip, skip if and_what_it_calls else hook._FrameAction.DEFAULT)
        )
    except AttributeError:
        return


def register_fake(library: torch.library.Library, name: str, function: Callable[..., Any]) -> None:
    """Says what an op makes of tensors without memory, as `torch.library.register_fake` does.

    That looks for the caller's source at each op, which takes longer than all else that is done for one.

    Args:
        library: which the op is registered by.
        name: of the op, with its namespace.
        function: what it makes of them.
    """
    place = getattr(function, "__code__", None)
    source = f"{__file__}: {name}" if place is None else f"{place.co_filename}:{place.co_firstlineno}"
    try:
        register = torch._library.simple_registry.singleton.find(name).fake_impl.register
        handles = library._registration_handles
        handles.append(register(function, source, lib=library))
    except (AttributeError, TypeError):
        torch.library.register_fake(name, function, lib=library)


def _unknown() -> bool:
    return True


_transforms_are_active: Callable[[], bool] = getattr(torch._C, "_are_functorch_transforms_active", _unknown)


def _level_is_entered() -> bool:
    return forward_ad._current_level >= 0


forward_mode_may_be_active: Callable[[], bool] = (
    _level_is_entered if hasattr(forward_ad, "_current_level") else _unknown
)
"""Whether a level of forward-mode AD is; also true where torch does not tell."""


def derivatives_may_be_tracked() -> bool:
    """Whether forward-mode AD or a transform of torch.func is active, of which grad mode says nothing.

    Also true where torch does not tell: then the contract asks each tensor, by public functions.
    """
    return forward_mode_may_be_active() or _transforms_are_active()


def forward_mode_is_active() -> bool:
    """Whether a level of forward-mode AD is; False where torch does not tell."""
    return getattr(forward_ad, "_current_level", -1) >= 0


def transforms_are_active() -> bool:
    """Whether a transform of torch.func is; False where torch does not tell. Dynamo traces it."""
    return _transforms_are_active is not _unknown and _transforms_are_active()
