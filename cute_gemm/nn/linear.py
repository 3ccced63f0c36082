"""A linear layer whose products are FP8, forward and backward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..contract import memory, words
from ..plan.limits import K_MULTIPLE
from . import function
from .keeping import Keeping


class FP8Linear(Keeping, nn.Linear):
    """:class:`torch.nn.Linear` with FP8 products: ``y = x @ weight.T + bias``, and both gradients.

    Parameters and state dict are those of ``nn.Linear``; weights stay what they are, bf16, fp16 or fp32, and
    optimisers see nothing else. Quantised are, as the DeepSeek-V3 technical report (arXiv:2412.19437, section
    3.3) has it: ``x`` and the gradient of ``y`` 1x128 along features, and 1x128 along tokens for the gradient
    of the weight; the weight in blocks of 128x128. Products are summed in FP32.

    The FP8 values of the weight are kept until it changes, which takes two bytes for each element: see
    :meth:`forget`. Of the input FP8 values are kept for backward, one byte for each.

    Args:
        in_features, out_features: multiples of 16.
        bias: whether there is one.
        device, dtype: of the parameters, as of ``nn.Linear``.

    Raises:
        ValueError: a size is no multiple of 16.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        why = why_not_sizes(in_features, out_features)
        if why:
            raise ValueError(why)
        super().__init__(in_features, out_features, bias, device, dtype)

    @classmethod
    def from_linear(cls, linear: nn.Linear) -> FP8Linear:
        """A layer with the very parameters of another, which optimisers may have already.

        Args:
            linear: a plain ``nn.Linear``.

        Raises:
            TypeError: ``linear`` is none, or of a subclass, whose meaning is not known.
            ValueError: a size is no multiple of 16.
        """
        if type(linear) is not nn.Linear:
            raise TypeError(f"linear is {words.kind(linear)}; wanted a torch.nn.Linear, and no subclass")
        has_bias = linear.bias is not None
        made = cls(linear.in_features, linear.out_features, has_bias, "meta", linear.weight.dtype)
        made.weight, made.bias = linear.weight, linear.bias
        return made.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """``y``.

        Args:
            input: ``[..., in_features]``, bf16, fp16 or fp32, whatever the dtype of the weight; under
                autocast it is cast as ``nn.Linear`` casts it. Any number of tokens.

        Returns:
            ``[..., out_features]``, of the dtype of the (cast) input.

        Raises:
            TypeError: ``input`` is no tensor, or of another dtype; or it or the weight is a DTensor.
            ValueError: ``input`` has another number of features.
            RuntimeError: in backward, the gradient itself is to be differentiated.
        """
        require_input(input, self.in_features)
        require_local(input=input, weight=self.weight)
        return function.linear(input, self.weight, self.bias, self._kept)


def why_not_sizes(in_features: int, out_features: int) -> str:
    """Why a layer of such sizes has no FP8 products; empty where it has."""
    for name, size in (("in_features", in_features), ("out_features", out_features)):
        if size <= 0 or size % K_MULTIPLE:
            return f"{name} is {size}; wanted a multiple of {K_MULTIPLE}, as FP8 products sum over it"
    return ""


def require_input(x: object, features: int) -> None:
    """What a layer is given is a tensor with its features.

    Raises:
        TypeError: it is no tensor.
        ValueError: it has others.
    """
    memory.require_tensor("input", x)
    assert isinstance(x, Tensor)
    if x.dim() == 0 or x.shape[-1] != features:
        raise ValueError(f"input has shape {tuple(x.shape)}; wanted [..., {features}]")


def require_local(**tensors: Tensor) -> None:
    """No tensor is spread over processes.

    Raises:
        TypeError: one is.
    """
    for name, x in tensors.items():
        if hasattr(x, "to_local"):
            raise TypeError(
                f"{name} is {words.kind(x)}, spread over processes, and FP8 products take what is here; "
                "wanted a plain tensor: where `fully_shard` has sharded parameters, call the module that it "
                "was applied to, which gathers them; else pass `.to_local()`"
            )
