"""Products with an epilogue: what is thought about once, what is handed over, and which calls are alike."""

import ctypes
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from bad_calls import negated
from calls import Arguments, arguments, every_layout
from stand_ins import Device, stand_in
from torch import Tensor

from cute_gemm import config, epilogue
from cute_gemm.contract import check
from cute_gemm.contract.quantizing import E4M3
from cute_gemm.epilogue import Epilogue
from cute_gemm.ops import epilogued as ops
from cute_gemm.plan import candidates
from cute_gemm.plan.layouts import DENSE, OFFSETS, Layout
from cute_gemm.runtime import epilogued, launcher

QUANTIZE = epilogue.quantize_1x128()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    with stand_in(monkeypatch) as device:
        device.choose = lambda problem: next(
            each
            for each in candidates.all_configs(problem.out_dtype, problem.layout, narrowing=problem.narrowing)
            if candidates.is_candidate(problem, each)
        )
        yield device


def launch(given: Arguments, of: Epilogue, out: Any = None) -> torch.Tensor:
    call = check(
        given.layout, *given.pairs, out, torch.bfloat16, given.index, given.count, False, form=of.form
    )
    of.check(call)
    return epilogued.launch(call, of.applied)


@every_layout
def test_operands_are_handed_over_and_a_choice_is_made_once(device: Device, layout: Layout) -> None:
    given = arguments(layout)
    biases = [torch.full((16,), float(i)) for i in range(3)]
    for bias in biases:
        launch(given, epilogue.bias(bias) | epilogue.alpha(bias[0].item()))
    assert len(device.problems) == len(device.made) == 1
    assert len(device.launches) == 3
    for launched, bias in zip(device.launches, biases, strict=True):
        *_, got, number = launched
        assert got is bias
        assert number == bias[0].item()


def test_what_shapes_a_kernel_is_told_apart(device: Device) -> None:
    given, bias = arguments(DENSE), torch.ones(16)
    others: list[Epilogue] = [
        epilogue.bias(bias),
        epilogue.bias(bias.half()),
        epilogue.bias(bias) | epilogue.silu(),
        epilogue.alpha(2.0),
        epilogue.alpha(bias[:1]),
        epilogue.swiglu(),
        epilogue.swiglu(7.0),
    ]
    for _ in range(2):
        for each in others:
            launch(given, each)
    assert len(device.problems) == len(others)
    assert len(device.launches) == 2 * len(others)
    with config(num_sms=64):
        launch(given, others[0])
    launch(given, others[0], out=given.new_out(torch.float32))
    launch(arguments(DENSE, rows=7), others[0])
    launcher.launch_checked(given.checked())
    assert len(device.problems) == len(others) + 4


def test_a_first_launch_is_not_captured_and_a_known_one_is(device: Device) -> None:
    given = arguments(DENSE)
    device.capturing = True
    with pytest.raises(RuntimeError, match="was not called on"):
        launch(given, epilogue.relu())
    device.capturing = False
    launch(given, epilogue.relu())
    device.capturing = True
    launch(given, epilogue.relu())
    assert len(device.launches) == 2


# Calls like one that was launched


class Warm:
    """Calls with an epilogue that the slow path has launched once; then kernels say that they launch."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.launches: list[tuple[Any, ...]] = []
        self.agrees = True

    def kernel(self, *arguments: Any) -> None:
        self.launches.append(arguments)
        if status := arguments[8]:
            ctypes.c_int32.from_address(status).value = self.agrees

    def first(self, given: Arguments, of: Epilogue, out: Any = None) -> None:
        arguments = given.layout, *given.pairs, out, torch.bfloat16, given.index, given.count, of
        epilogued.launch(ops.checked(*arguments, validate=False, fill=None), of.applied)
        self.launches.clear()

    def again(
        self,
        given: Arguments,
        of: Epilogue,
        out: Any = None,
        dtype: Any = torch.bfloat16,
        fill: int | None = None,
    ) -> Any:
        made = epilogued.launch_again(
            given.layout,
            *given.pairs,
            out,
            dtype,
            given.index,
            given.count,
            fill,
            of,
        )
        assert (made is None) == (not self.launches or not self.agrees)
        return made


@pytest.fixture
def warm(device: Device, monkeypatch: pytest.MonkeyPatch) -> Warm:
    warm = Warm(device)
    monkeypatch.setattr(device, "launch", warm.kernel)
    monkeypatch.setattr(
        epilogued,
        "empty_strided_cuda",
        lambda size, strides, dtype: torch.empty_strided(size, strides, dtype=dtype),
    )
    return warm


@every_layout
def test_a_call_like_one_before_is_launched_at_once(warm: Warm, layout: Layout) -> None:
    given = arguments(layout)
    of = epilogue.bias(torch.ones(16)) | epilogue.alpha(2.0)
    assert warm.again(given, of) is None
    warm.first(given, of)
    for is_given in (False, True):
        warm.launches.clear()
        out = given.new_out() if is_given else None
        version = out._version if out is not None else 0
        other = epilogue.bias(torch.zeros(16)) | epilogue.alpha(3.0)
        made = warm.again(given, other, out)
        assert made.shape == given.shape
        assert made.dtype is torch.bfloat16
        assert is_given == (made is out)
        assert out is None or out._version > version
        (launched,) = warm.launches
        assert launched[4] is made
        assert launched[9:-2] == given.grouping
        assert launched[-2] is other.operands[0].value
        assert launched[-1] == 3.0
    assert len(warm.device.problems) == 1
    warm.agrees = False
    warm.launches.clear()
    assert warm.again(given, of) is None


@pytest.mark.parametrize("m_major", [False, True])
def test_what_is_quantised_is_a_pair_again(warm: Warm, m_major: bool) -> None:
    given = wide()
    of = epilogue.swiglu() | epilogue.quantize_1x128(m_major_scales=m_major)
    warm.first(given, of)
    q, s = warm.again(given, of)
    assert q.shape == (5, 128)
    assert q.dtype is E4M3
    assert s.shape == (5, 1)
    assert s.stride() == ((1, 8) if m_major else (1, 1))
    assert warm.launches[-1][-2] is s
    assert warm.launches[-1][-1] == 128
    warm.launches.clear()
    assert warm.again(given, of, dtype=E4M3)[0].dtype is E4M3
    warm.launches.clear()
    given_q, given_s = (
        torch.empty(5, 128, dtype=E4M3),
        torch.empty(1, 8)[:, :5].T if m_major else torch.empty(5, 1),
    )
    versions = given_q._version, given_s._version
    made = warm.again(given, of, (given_q, given_s))
    assert made[0] is given_q
    assert made[1] is given_s
    assert given_q._version > versions[0]
    assert given_s._version > versions[1]
    warm.launches.clear()
    made_q, made_s = warm.again(given, of, (None, given_s))
    assert made_q is not given_q
    assert made_s is given_s


def wide() -> Arguments:
    """A dense product of 256 columns."""
    given, rows = arguments(DENSE), 256
    b, sb = given.b.new_zeros(rows, given.b.shape[1]), given.sb.new_ones(2, given.sb.shape[1])
    return given.with_(b=b, sb=sb)


def not_alike() -> dict[str, Callable[[Tensor, Tensor], tuple[Epilogue, Any]]]:
    """Of a bias and a result in one memory: calls that the contract refuses, or has not seen yet."""
    whole = torch.zeros(5, 16).bfloat16()
    return {
        "another width": lambda bias, out: (epilogue.bias(bias[:8]), None),
        "strides": lambda bias, out: (epilogue.bias(torch.ones(32)[::2]), None),
        "alignment": lambda bias, out: (epilogue.bias(torch.ones(17)[1:]), None),
        "a dtype": lambda bias, out: (epilogue.bias(bias.half()), None),
        "a gradient": lambda bias, out: (epilogue.bias(bias.clone().requires_grad_()), None),
        "a subclass": lambda bias, out: (epilogue.bias(bias.as_subclass(Own)), None),
        "no tensor": lambda bias, out: (epilogue.bias("bias"), None),  # type: ignore[arg-type]
        "a sign": lambda bias, out: (epilogue.bias(negated(bias)), None),
        "another dtype of out": lambda bias, out: (epilogue.bias(bias), out.float()),
        "out with gaps": lambda bias, out: (epilogue.bias(bias), torch.zeros(5, 32).bfloat16()[:, :16]),
        "a pair": lambda bias, out: (epilogue.bias(bias), (out, None)),
        "memory that was freed": lambda bias, out: (epilogue.bias(freed(16)), None),
        "a result that was freed": lambda bias, out: (
            epilogue.bias(bias),
            freed(5, 16, dtype=torch.bfloat16),
        ),
        "a result that holds the bias": lambda bias, out: (
            epilogue.bias(whole.view(-1).view(torch.float32)[:16]),
            whole,
        ),
    }


def freed(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.ones(*shape, dtype=dtype)
    x.untyped_storage().resize_(0)
    return x


class Own(torch.Tensor):
    """One of a user's."""


@pytest.mark.parametrize("why", not_alike())
def test_a_call_unlike_those_before_is_left_to_the_contract(warm: Warm, why: str) -> None:
    given, bias = arguments(DENSE), torch.ones(16)
    out = given.new_out()
    warm.first(given, epilogue.bias(bias))
    warm.first(given, epilogue.bias(bias), out)
    assert warm.again(given, epilogue.bias(bias), out) is out
    warm.launches.clear()
    of, result = not_alike()[why](bias, out)
    assert warm.again(given, of, result) is None


def test_a_residual_may_be_the_result_and_meets_it_nowhere_else(warm: Warm) -> None:
    given = arguments(DENSE)
    rows = torch.zeros(6, 16).bfloat16()
    out, below = rows[:5], rows[1:]
    warm.first(given, epilogue.residual(given.new_out()), out)
    assert warm.again(given, epilogue.residual(out), out) is out
    warm.launches.clear()
    assert warm.again(given, epilogue.residual(below), out) is None
    warm.first(given, epilogue.accumulate(), out)
    assert warm.again(given, epilogue.accumulate(), out) is out
    assert warm.launches[-1][-2] is out


@pytest.mark.parametrize("name", ["a", "sa", "b", "sb", "q", "weights"])
def test_scales_meet_nothing_that_the_same_call_uses(warm: Warm, name: str) -> None:
    given, room = wide(), torch.zeros(65536, dtype=torch.uint8)
    tensors = {each: getattr(given, each) for each in ("a", "sa", "b", "sb")}
    tensors |= {"q": torch.empty(5, 128, dtype=E4M3), "weights": torch.ones(5)}
    of = tensors[name]
    tensors[name] = room[: of.numel() * of.element_size()].view(of.dtype).view(of.shape)
    given = given.with_(**{each: tensors[each] for each in ("a", "sa", "b", "sb")})
    made = epilogue.swiglu() | epilogue.row_weights(tensors["weights"]) | QUANTIZE
    apart, meeting = (
        room.view(torch.float32)[first : first + 5].view(5, 1) for first in (65536 // 4 - 16, 0)
    )
    warm.first(given, made, (tensors["q"], apart))
    assert warm.again(given, made, (tensors["q"], apart)) is not None
    warm.launches.clear()
    assert warm.again(given, made, (tensors["q"], meeting)) is None


def test_scales_may_not_even_be_an_operand_itself(warm: Warm) -> None:
    """Of the same extents and strides, which of a residual is in order."""
    given = arguments(DENSE)
    k, blocks = given.b.shape[1], given.sb.shape[1]
    b, sb = given.b.new_zeros(256 * blocks, k), given.sb.new_ones(2 * blocks, blocks)
    given, made, s = given.with_(b=b, sb=sb), epilogue.swiglu() | QUANTIZE, torch.empty_like(given.sa)
    warm.first(given, made, (None, s))
    assert warm.again(given, made, (None, s)) is not None
    warm.launches.clear()
    assert warm.again(given, made, (None, given.sa)) is None


def test_a_bias_of_groups_is_not_the_result_though_it_lies_as_that_does(warm: Warm) -> None:
    given = arguments(OFFSETS)
    groups = given.b.shape[0]
    out = given.new_out()
    warm.first(given, epilogue.bias(torch.zeros(groups, 16).bfloat16()), out)
    assert warm.again(given, epilogue.bias(torch.zeros(groups, 16).bfloat16()), out) is out
    warm.launches.clear()
    assert warm.again(given, epilogue.bias(out[:groups]), out) is None


def test_what_out_held_needs_one(warm: Warm) -> None:
    given = arguments(DENSE)
    out = given.new_out()
    warm.first(given, epilogue.accumulate(), out)
    assert warm.again(given, epilogue.accumulate(), out) is out
    warm.launches.clear()
    assert warm.again(given, epilogue.accumulate()) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, "bfloat16", None])
def test_a_dtype_that_does_not_fit_is_left_to_the_contract(warm: Warm, dtype: Any) -> None:
    given, wide_one = arguments(DENSE), wide()
    bias, quantized = epilogue.bias(torch.ones(16)), epilogue.swiglu() | QUANTIZE
    out = given.new_out()
    warm.first(given, bias, out)
    warm.first(wide_one, quantized)
    assert warm.again(given, bias, out, dtype) is None
    assert warm.again(wide_one, quantized, None, dtype) is None


def test_rows_that_are_quantised_are_not_filled_again(warm: Warm) -> None:
    given = wide()
    quantized = epilogue.swiglu() | QUANTIZE
    warm.first(given, quantized)
    assert warm.again(given, quantized, fill=0) is None
    assert warm.again(given, quantized) is not None


def test_a_function_whose_globals_are_none_any_more_is_left_to_the_contract(
    warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = arguments(DENSE)
    warm.first(given, scaled())
    assert warm.again(given, scaled()) is not None
    warm.launches.clear()
    monkeypatch.setitem(globals(), "FACTOR", torch.ones(1))
    assert warm.again(given, scaled()) is None


FACTOR = 2.0


@epilogue.function
def scaled(x: Any) -> Any:
    return x * FACTOR


def test_operations_take_the_fast_path(warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    given = arguments(DENSE)
    of = epilogue.bias(torch.ones(16))
    warm.first(given, of)
    monkeypatch.setattr(ops.contract, "check", None)
    given.run(epilogue=of)
    assert len(warm.launches) == 1
