"""The fuzzer of the operations: some of its cases, and mistakes planted for it to find."""

import functools
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from cute_gemm import contract, reference, row_groups
from cute_gemm.quantize import formula

sys.path.append(str(Path(__file__).parents[1] / "fuzz"))

import api
import api_products as products
import api_trials as trials
import api_values as values
import campaign

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings(r"ignore:.*(Sparse CSR|nested tensors):UserWarning")
case = functools.partial(api.case, device="cpu")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_some_cases() -> None:
    campaign.run(case, seed=0, count=150)


@pytest.mark.parametrize("kind", [*api.KINDS, *api.ON_A_CPU], ids=lambda kind: kind.__name__)
def test_some_cases_of_each_kind(kind: api.Kind) -> None:
    for number in range(20):
        kind(campaign.random_of(1, number), CPU)


def test_a_case_depends_on_its_seed_and_number_alone() -> None:
    def drawn() -> list[torch.Tensor]:
        draw = campaign.random_of(3, 7)
        trial = trials.Trial(draw, products.draw_product(draw, on_gpu=False), CPU)
        return [x for x in trial.given.values() if isinstance(x, torch.Tensor)]

    for one, other in zip(drawn(), drawn(), strict=True):
        assert (one.shape, one.stride()) == (other.shape, other.stride())
        assert one.untyped_storage().tolist() == other.untyped_storage().tolist()


def test_products_are_drawn_at_the_edges_too() -> None:
    drawn = [products.draw_product(random.Random(number), on_gpu=False) for number in range(2000)]
    assert {each.layout for each in drawn} == set(products.OPERATIONS)
    assert {0, 1, 128, 129} <= {each.a.shape[-2] for each in drawn}
    assert {0, 8, 264} <= {each.b.shape[-2] for each in drawn}
    assert {0, 16, 144, 640} <= {each.a.shape[-1] for each in drawn}
    assert {1, 2, 7} <= {len(each.b) for each in drawn if each.index is not None}
    assert any(each.options.get("validate") for each in drawn)
    assert any(0 in each.sb.stride() for each in drawn)


def test_the_largest_shapes_are_drawn_on_a_gpu() -> None:
    for on_gpu in (False, True):
        drawn = [products.draw_sizes(random.Random(number), on_gpu) for number in range(2000)]
        assert (products.LARGE in drawn) is on_gpu
        assert {products.SMALL, products.EDGES} <= {*drawn}


@pytest.mark.parametrize("kind", sorted(set(values.KINDS)))
def test_operands_hold_no_nan(kind: str) -> None:
    for number in range(20):
        found = values.codes(random.Random(number), kind, 7, 272).view(values.E4M3).float()
        assert found.isfinite().all()
        assert found.any() or kind in ("zero", "zero blocks")
        scales = values.scales(random.Random(number), 7, 3)
        assert ((scales == 0) | ((scales.abs() >= 2.0**-20) & (scales.abs() < 2.0**21))).all()


# Mistakes, which it finds


def _drop_a_scale(a: Any, sa: Any, b: Any, sb: Any, *dtype: Any) -> Any:
    return _product(a, sa[:, :1].expand(sa.shape), b, sb, *dtype)


def _round_twice(a: Any, sa: Any, b: Any, sb: Any, *dtype: Any) -> Any:
    return _product(a, sa, b, sb, torch.bfloat16).to(*dtype)


def _write_an_input(a: Any, sa: Any, *others: Any) -> Any:
    found = _product(a, sa, *others)
    sa.fill_(1.0)
    return found


def _a_row_more(*given: Any) -> torch.Tensor:
    groups = _masked(*given)
    groups[0] = 0
    return groups


def _raise(*given: Any) -> None:
    raise RuntimeError("of torch's")


_product, _masked = reference.fp8_gemm_nt, row_groups.masked_row_groups

MISTAKES: dict[str, tuple[api.Kind, Any, str, Any, str]] = {
    "a scale dropped": (api.product, reference, "fp8_gemm_nt", _drop_a_scale, "element "),
    "rounded twice": (api.product, reference, "fp8_gemm_nt", _round_twice, "element "),
    "an input written": (api.product, reference, "fp8_gemm_nt", _write_an_input, "other bits|was written to"),
    "a row of no group written": (
        api.product, row_groups, "masked_row_groups", _a_row_more, "outside the output"
    ),
    "an error of torch's": (api.product, reference, "fp8_gemm_nt", _raise, "of torch's"),
    "no rule on overlap": (
        api.draw_broken, contract.memory, "require_disjoint", lambda *given: None, "not refused"
    ),
    "a message of torch's": (
        api.draw_broken, contract.operands, "_require_scale_shape", _raise, "RuntimeError: of torch's"
    ),
    "scales without all bits": (
        api.draw_quantising, formula, "SMALLEST_SCALE", 2.0**-149, "not equal|not the nearest"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("kind", "module", "name", "mistake", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_found(
    monkeypatch: pytest.MonkeyPatch, kind: api.Kind, module: Any, name: str, mistake: Any, says: str
) -> None:
    monkeypatch.setattr(module, name, mistake)
    with pytest.raises(AssertionError, match=rf"(?s)^case \d+ of seed 0 failed.*({says})"):
        campaign.run(functools.partial(kind, device=CPU), seed=0, count=300)


def test_a_child_that_hangs_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(call: Any) -> None:
        signal.pause()

    monkeypatch.setattr(reference, "compute", hang)
    monkeypatch.setattr(api, "PATIENCE_S", 0.2)
    monkeypatch.setattr(api, "chance", lambda draw, probability: False)
    with pytest.raises(AssertionError, match="a forked child hangs"):
        api.fork(random.Random(0), CPU)


def test_a_child_that_fails_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference, "compute", _raise)
    monkeypatch.setattr(api, "chance", lambda draw, probability: False)
    with pytest.raises(AssertionError, match="a forked child ended with 1"):
        api.fork(random.Random(0), CPU)
