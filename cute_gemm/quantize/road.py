"""The road of a call that quantises, whatever it makes; what differs is said by its :class:`Form`.

fast path   a kernel that ran before, whose host code checks what it is given; nothing is explained
slow path   all rules, in words; a kernel that is compiled now, or found; or torch
op          of what torch traces, or of tensors that stand for ones that will be there
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..contract import ambient, quantizing
from ..contract.quantizing import E4M3, SCALE_DTYPE
from ..plan.quantizer import Quantizer
from ..runtime import plain, quantizers, torch_internals
from . import library

Shapes = tuple[tuple[int, ...], ...]
Results = tuple[Tensor, ...]
Given = tuple[Tensor | None, ...]
"""Results by their names; None for one that is to be made."""

Request = tuple[Hashable, tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]
"""What asks for a kernel, naming a device, and what it takes: tensors that are read, in front of the results;
further tensors, and then numbers, behind its stream."""


class Form(ABC):
    """One of the functions that quantise, by the name of its op.

    ``asked`` is always what a call asks for, as it came, in the order of a named tuple whose names are those
    of the op's arguments. Its first item is what is quantised. It is a plain tuple where that is said, as a
    named one takes longer to make.

    Args:
        name: of the op, and with `_out` behind it of that which writes results that are given.
        asked: the class of such named tuples.
    """

    names: ClassVar[tuple[str, ...]] = ("out", "scales_out")
    """Of results: e4m3, its scales, and so on."""

    kept: ClassVar[int] = 1
    """Dimensions of what is quantised, and of results, that mean something; those in front only count."""

    merging: ClassVar[tuple[str, ...]] = ()
    """Of what is asked, what has those dimensions."""

    changed: ClassVar[str] = ""
    """Of what is asked, what is written, too."""

    def __init__(self, name: str, asked: Any) -> None:
        self._make = asked
        self._changed = asked._fields.index(self.changed) if self.changed else None
        self._returning, self._writing = (
            library.register(
                of + library.SCHEMAS[of],
                self._op(self.compute, is_writing),
                self._op(self._describe, is_writing),
            )
            for of, is_writing in ((name, False), (f"{name}_out", True))
        )
        arguments = self._returning._schema.arguments
        self._read = tuple(each.name for each in arguments if not each.kwarg_only)
        self._named = tuple(each.name for each in arguments if each.kwarg_only)

    @abstractmethod
    def request(self, asked: tuple[Any, ...]) -> Request | None:
        """Which kernel, and with what; None where the rules are to be asked. Nothing was looked at before.

        Args:
            asked: a plain tuple.

        Raises:
            TypeError, ValueError, AttributeError, IndexError, RuntimeError: the rules are to be asked.
        """

    @abstractmethod
    def merges(self, asked: Any) -> bool:
        """Whether dimensions in front may become one, or none, if all lies one behind the other."""

    @abstractmethod
    def require_kinds(self, asked: Any) -> None:
        """The rules that can be judged of whatever stands for a tensor.

        Raises:
            TypeError, ValueError: one is broken.
        """

    @abstractmethod
    def require(self, asked: Any, has_memory: bool) -> dict[str, Tensor]:
        """All rules, but for those of results.

        Returns:
            By its name, what is read; results must lie elsewhere.

        Raises:
            TypeError, ValueError: one is broken.
        """

    @abstractmethod
    def extents(self, asked: Any) -> tuple[int, ...]:
        """What shapes of results follow from."""

    @abstractmethod
    def shapes(self, extents: tuple[int, ...]) -> Shapes:
        """The shapes of results."""

    @abstractmethod
    def config(self, asked: Any) -> Quantizer | None:
        """Of the kernel, on a slow path; None where there is none."""

    @abstractmethod
    def in_torch(self, asked: Any, results: Results) -> None:
        """Quantises without a kernel."""

    def run(self, asked: tuple[Any, ...], given: Given) -> Results:
        """Quantises, or has torch do it later, what a plain tuple asks for."""
        if torch.compiler.is_compiling():
            return self._as_op(self._make(*asked), given)
        made = self._launched(asked, given)
        if made is not None:
            return made
        by_name = self._make(*asked)
        if library.is_needed(asked[0]):
            return self._as_op(by_name, given)
        return self._by_rules(by_name, given)

    def compute(self, asked: Any, given: Given) -> Results:
        """What an op does.

        Not :meth:`run`: Dynamo traces what an op calls where it gave up the caller, and would find the op
        again.
        """
        made = self._launched(asked, given)
        return self._by_rules(asked, given) if made is None else made

    def _launched(self, asked: tuple[Any, ...], given: Given) -> Results | None:
        """The fast path, whatever a plain tuple asks for: the results, or None where nothing was done."""
        try:
            request = self.request(asked)
            if request is None:
                return None
            key, read, behind, numbers = request
            kernel = quantizers.known(key)
            if kernel is None:
                return self._launched_merged(self._make(*asked), given)
            changed: Any = given
            for each in given:
                if each is None:
                    changed = tuple([each for each in given if each is not None])
                    break
            if not plain.are_plain(kernel, read + behind, changed):
                return None
            results: Any = given if changed is given else self._made(self._make(*asked), given)
            is_launched = quantizers.call(kernel, read + results, behind + numbers)
        # Of what is no tensor, or has too few dimensions, or no hash, or is not what the kernel is compiled
        # for; or several say which rows.
        except (TypeError, ValueError, AttributeError, IndexError, RuntimeError):
            return None
        if not is_launched:
            return None
        if self._changed is not None:
            changed += (asked[self._changed],)
        if changed:
            torch_internals.increment_version(changed)
        return results

    def _launched_merged(self, asked: Any, given: Given) -> Results | None:
        """The same where kernels take fewer dimensions."""
        if not self.merges(asked):
            return None
        views = self._merged(asked, given)
        made = None if views[1] is given else self._launched(*views)
        if made is None:
            return None
        shapes = self.shapes(self.extents(asked))
        return tuple(
            new.view(shape) if each is None else each
            for each, new, shape in zip(given, made, shapes, strict=True)
        )

    def _made(self, asked: Any, given: Given) -> Results:
        """Results, on the current device, of a call that may be in order."""
        new = torch_internals.empty_strided_cuda
        sizes = _sizes(self, self.extents(asked), getattr(asked, "m_major_scales", False))
        # Of a list, and by number: a generator would take longer, and so would a strict `zip`.
        return tuple([new(*sizes[at]) if each is None else each for at, each in enumerate(given)])

    def _merged(self, asked: Any, given: Given) -> tuple[Any, Given]:
        """The same call with as few dimensions as can be; as it is, where something has gaps.

        So it is where scales are to be made M-major, of each matrix.
        """
        own = {name: getattr(asked, name) for name in self.merging}
        own = {name: each for name, each in own.items() if each is not None}
        tensors = (*own.values(), *(each for each in given if each is not None))
        has_gaps = getattr(asked, "m_major_scales", False) and any(each is None for each in given)
        if has_gaps or not asked[0].numel() or not all(each.is_contiguous() for each in tensors):
            return asked, given
        views = {name: self._view(each) for name, each in own.items()}
        return asked._replace(**views), tuple(each if each is None else self._view(each) for each in given)

    def _view(self, x: Tensor) -> Tensor:
        return x.view(-1, *x.shape[-self.kept :])

    def _by_rules(self, asked: Any, given: Given) -> Results:
        results = self._results(asked, given)
        if not self._launch(asked, results):
            with torch.inference_mode(), ambient.no_autocast(asked[0].device):
                self.in_torch(asked, results)
        quantizers.written(given if self._changed is None else (*given, asked[self._changed]))
        return results

    def _results(self, asked: Any, given: Given, has_memory: bool = True) -> Results:
        """Where to write, for a call that obeys all rules."""
        read = self.require(asked, has_memory)
        shapes = self.shapes(self.extents(asked))
        quantizing.require_results(dict(zip(self.names, given, strict=True)), shapes, read, has_memory)
        return tuple(
            self._new(asked, number, shape) if each is None else each
            for number, (each, shape) in enumerate(zip(given, shapes, strict=True))
        )

    def _new(self, asked: Any, number: int, shape: tuple[int, ...]) -> Tensor:
        new: Tensor
        is_scales = number % 2 == 1
        if is_scales and getattr(asked, "m_major_scales", False):
            strides = quantizers.strides_of_scales(shape, m_major=True)
            new = asked[0].new_empty_strided(shape, strides, dtype=SCALE_DTYPE)
        else:
            # Strides that are worked out here are a guard on sizes to torch 2.8.
            new = asked[0].new_empty(shape, dtype=SCALE_DTYPE if is_scales else E4M3)
        return new

    def _launch(self, asked: Any, results: Results) -> bool:
        """On a Hopper GPU, if a kernel takes such tensors."""
        given: tuple[Any, ...] = results
        if self.merges(asked):
            asked, given = self._merged(asked, results)
        request = self.request(asked)
        if request is None:
            return False
        key, read, behind, numbers = request
        if not quantizers.may_launch(read, given, behind):
            return False
        config = self.config(asked)
        if config is None:
            return False
        device = asked[0].get_device()
        return quantizers.launch(key, config, device, (*read, *given), (*behind, *numbers))

    def _as_op(self, asked: Any, given: Given) -> Results:
        self.require_kinds(asked)
        # Dynamo of torch 2.8 traces neither `_asdict` nor a part of a named tuple.
        read = [getattr(asked, name) for name in self._read]
        named = {name: getattr(asked, name) for name in self._named}
        if all(each is None for each in given):
            return tuple(self._returning(*read, **named))
        results = self._results(asked, given, has_memory=False)
        self._writing(*read, *results, **named)
        return results

    def _describe(self, asked: Any, given: Given) -> Results:
        """What of fake tensors is known before."""
        return self._results(asked, given, has_memory=False)

    def _op(self, answer: Callable[[Any, Given], Results], is_writing: bool = False) -> Callable[..., Any]:
        """An op: what is read, and results if it writes them, by place; the others by name."""

        def made(*arguments: Any, **named: Any) -> Results | None:
            read, given = arguments[: len(self._read)], arguments[len(self._read) :]
            asked = self._make(**dict(zip(self._read, read, strict=True)), **named)
            results = answer(asked, given or (None,) * len(self.names))
            return None if is_writing else results

        return made


@functools.lru_cache(4096)
def _sizes(form: Form, extents: tuple[int, ...], m_major: bool) -> tuple[tuple[Any, ...], ...]:
    """Shape, strides and dtype of each new result; a `torch.Size` is no tuple to what makes them."""
    kinds = (E4M3, False), (SCALE_DTYPE, m_major)
    return tuple(
        (tuple(shape), quantizers.strides_of_scales(shape, is_m_major), dtype)
        for number, shape in enumerate(form.shapes(extents))
        for dtype, is_m_major in (kinds[number % 2],)
    )
