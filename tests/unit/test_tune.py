"""What is tuned, what is timed, what is picked and where it is kept; kernels and timers are stand-ins."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stand_ins import card_of

import cute_gemm
from cute_gemm.measure import layers
from cute_gemm.measure.errors import CommandError
from cute_gemm.measure.timers import Times
from cute_gemm.plan import candidates as plan_candidates
from cute_gemm.plan import cost_model
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.launch_policy import LaunchFlags
from cute_gemm.plan.layouts import CONTIGUOUS, DENSE, LAYOUTS, MASKED, Layout
from cute_gemm.plan.models import Layer
from cute_gemm.plan.tuned import files
from cute_gemm.plan.tuned.table import Table
from cute_gemm.runtime import builder, launcher
from cute_gemm.tune.calls import case_of, chains_of, checked_calls, kernel_of
from cute_gemm.tune.picking import Pick, fastest, pick, tune_all
from cute_gemm.tune.tasks import TuningTask, configs_to_time, plan_layers, plan_shapes

DEVICE = "NVIDIA H200"
DENSE_SHAPE = (64, 136, 272)
GROUPED_SHAPE = (4, 20, 136, 272)


def task_of(layout: Layout, out_dtype: str = "bfloat16") -> TuningTask:
    shape = GROUPED_SHAPE if layout.is_grouped else DENSE_SHAPE
    (task,) = plan_shapes(layout, [shape], out_dtype, 78)
    return task


class Kernels:
    """Computes results in plain torch; some kernels' are wrong, or a little different."""

    def __init__(self) -> None:
        self.launched: list[tuple[KernelConfig, int]] = []
        self.scales: list[torch.Tensor] = []
        self.flags: list[int] = []
        self.operands: list[tuple[int, int]] = []
        self.wrong: list[KernelConfig] = []
        self.different: list[KernelConfig] = []
        self.different_after = 1 << 30
        self.writes_padding = False

    def instance(self, config: KernelConfig) -> Callable[..., None]:
        def launch(
            a: torch.Tensor,
            sa: torch.Tensor,
            b: torch.Tensor,
            sb: torch.Tensor,
            out: torch.Tensor,
            num_sms: int,
            flags: int,
            semaphore: int,
            status: int,
            *grouping: Any,
        ) -> None:
            self.launched.append((config, num_sms))
            self.scales.append(sa)
            self.flags.append(flags)
            self.operands.append((b.data_ptr(), out.data_ptr()))
            if not config.layout.is_grouped:
                cute_gemm.fp8_gemm_nt((a, sa), (b, sb), out)
            else:
                index, *alignment = grouping
                assert alignment == ([1] if config.layout.gives_count_to_kernel else [])
                rest = (20, out) if config.layout.has_matrix_per_group else (out,)
                operation = getattr(cute_gemm, f"m_grouped_fp8_gemm_nt_{config.layout.name}")
                operation((a, sa), (b, sb), index, *rest)
            if config in self.wrong:
                out[..., 0, :] *= 2
            self.different_after -= 1
            if config in self.different or self.different_after == -1:
                integers = out.view({2: torch.int16, 4: torch.int32}[out.element_size()])
                integers[..., 0, 0] += 1
            if self.writes_padding:
                out[..., -1, :] = torch.where(out[..., -1, :].isnan(), 0, out[..., -1, :])

        return launch


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Kernels:
    kernels = Kernels()
    monkeypatch.setattr(builder, "instance", kernels.instance)
    monkeypatch.setattr(layers, "MOST_LAYERS", 5)
    return kernels


class StandInTimer:
    """Says the same of calls whatever they are; of those that are more, ``rest`` us."""

    name = "stand-in"

    def __init__(self, *us: float, rest: float = 99.0) -> None:
        self.us, self.rest = us, rest

    def __call__(self, calls: Sequence[Callable[[], object]]) -> list[Times]:
        for call in calls:
            call()
        medians = itertools.islice(itertools.chain(self.us, itertools.repeat(self.rest)), len(calls))
        return [Times((median - 1.0, median, median + 2.0)) for median in medians]


# What is tuned


@pytest.mark.parametrize(
    "layout", [each for each in LAYOUTS.values() if each.is_grouped], ids=lambda each: each.name
)
@pytest.mark.parametrize(("groups", "m"), [(1, 1), (3, 1), (4, 20), (32, 100), (256, 4096)])
def test_groups_have_different_sizes_and_the_rows_asked_for(layout: Layout, groups: int, m: int) -> None:
    (task,) = plan_shapes(layout, [(groups, m, 4096, 7168)], "float32", 100)
    problem, draws = task.problem, task.draws
    # Of contiguous groups the host knows M, which depends on the sizes.
    assert len(draws) == (1 if layout is CONTIGUOUS else 3)
    for sizes in draws:
        assert len(sizes) == groups
        assert sum(sizes) == groups * m
        assert all(round(0.7 * m) <= size <= round(1.3 * m) for size in sizes)
        if groups > 3 and m > 1:
            assert len(set(sizes)) > groups // 2
            assert list(sizes) != sorted(sizes)
    if groups > 1 and m > 1:
        assert len({tuple(sorted(sizes)) for sizes in draws}) == len(draws)
    padded = sum(-(-size // 128) * 128 for size in draws[0])
    assert problem.m == (padded if layout is CONTIGUOUS else groups * m)
    assert (problem.n, problem.k, problem.groups, problem.layout) == (4096, 7168, groups, layout)
    assert (problem.out_dtype, problem.num_sms) == ("float32", 100)
    assert task.title == f"{layout.name} {groups}x{m}x4096x7168"


def test_layers_of_a_shape_are_tuned_once_and_experts_by_themselves() -> None:
    layers = [
        Layer("o", 4096, 2048),
        Layer("up", 256, 2048),
        Layer("p", 4096, 2048),
        Layer("e", 4096, 2048, 8),
        Layer("f", 4096, 2048, 1),
    ]
    tasks = plan_layers(DENSE, layers, (1, 64), "bfloat16", 132)
    assert [task.title for task in tasks] == [
        "dense 1x4096x2048 (o, p)",
        "dense 64x4096x2048 (o, p)",
        "dense 1x256x2048 (up)",
        "dense 64x256x2048 (up)",
    ]
    experts = plan_layers(MASKED, layers, (20,), "bfloat16", 132)
    assert [task.title for task in experts] == ["masked 8x20x4096x2048 (e)", "masked 1x20x4096x2048 (f)"]
    with pytest.raises(CommandError, match="no experts, which --op masked is for"):
        plan_layers(MASKED, layers[:3], (20,), "bfloat16", 132)


@pytest.mark.parametrize(
    ("op", "shape", "message"),
    [
        ("dense", (4, 64, 128, 128), "4x64x128x128: want MxNxK for --op dense"),
        ("masked", (64, 128, 128), "64x128x128: want GxMxNxK"),
        ("dense", (64, 12, 128), "N = 12 is not a positive multiple of 8"),
        ("dense", (64, 16, 136), "K = 136 is not a positive multiple of 16"),
        ("offsets", (1023, 1, 16, 16), "1023 groups are not between 1 and 1022"),
    ],
)
def test_shapes_that_an_operation_does_not_take_are_refused(
    op: str, shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises(CommandError, match=message):
        plan_shapes(LAYOUTS[op], [shape], "bfloat16", 132)


def test_a_layer_that_cannot_be_multiplied_is_named() -> None:
    with pytest.raises(CommandError, match=r"^o_proj: N = 12 "):
        plan_layers(DENSE, [Layer("o_proj", 12, 128)], (1,), "bfloat16", 132)


def test_candidates_are_those_that_are_predicted_to_be_near_the_best() -> None:
    problem = task_of(DENSE).problem
    ranked = cost_model.rank(problem)
    assert configs_to_time(problem, 1.0)[0] == ranked[0].config
    few, more = configs_to_time(problem, 1.05), configs_to_time(problem, 1.2)
    assert more[: len(few)] == few
    assert more == [choice.config for choice in ranked[: len(more)]]
    assert ranked[len(more) - 1].cost_us <= 1.2 * ranked[0].cost_us < ranked[len(more)].cost_us


# What is checked


@pytest.mark.parametrize("out_dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda each: each.name)
def test_every_candidate_is_called_and_checked(layout: Layout, out_dtype: str, kernels: Kernels) -> None:
    task = task_of(layout, out_dtype)
    configs = configs_to_time(task.problem, 2.0)
    assert len(configs) > 2
    case = case_of(task, task.draws[0], "cpu")
    calls = checked_calls(task.problem, configs, case)
    staged = [plan_candidates.as_run(task.problem, config, True) for config in configs]
    assert (staged != configs) == (layout is CONTIGUOUS), "of which 20 rows a group are padded to 128"
    assert kernels.launched == [(config, 78) for config in staged]
    assert all(launcher.tma_can_load(sa) for sa in kernels.scales)
    for call in calls:
        call()
    assert kernels.launched[len(configs) :] == kernels.launched[: len(configs)]
    for place in (0, 1, -1):
        kernels.wrong = [staged[place]]
        with pytest.raises(
            AssertionError, match=rf"^{configs[place].name}( differs from {configs[0].name}$|: )"
        ):
            checked_calls(task.problem, configs, case)
    # What shares out k-blocks may differ.
    last = max(place for place, config in enumerate(configs) if config.splits == 1)
    kernels.wrong, kernels.different = [], [staged[last]]
    first = next(config for config in configs if config.splits == 1)
    with pytest.raises(AssertionError, match=rf"^{configs[last].name} differs from {first.name}$"):
        checked_calls(task.problem, configs, case)


def test_what_sums_in_another_order_is_judged_by_itself(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = task_of(DENSE)
    configs = configs_to_time(task.problem, 2.0)
    other = configs[0], configs[2]
    monkeypatch.setattr(
        plan_candidates,
        "is_candidate",
        lambda problem, config: not (problem.batch_invariant and config in other),
    )
    case = case_of(task, task.draws[0], "cpu")
    kernels.different = [other[0]]
    assert len(checked_calls(task.problem, configs, case)) == len(configs)
    kernels.wrong = [other[1]]
    with pytest.raises(AssertionError, match=rf"^{other[1].name}: "):
        checked_calls(task.problem, configs, case)
    kernels.wrong, kernels.different = [], [configs[3]]
    with pytest.raises(AssertionError, match=rf"^{configs[3].name} differs from {configs[1].name}$"):
        checked_calls(task.problem, configs, case)


def test_results_go_where_they_are_wanted_and_are_judged_as_asked(kernels: Kernels) -> None:
    task = task_of(MASKED)
    case = case_of(task, task.draws[0], "cpu")
    configs, out = configs_to_time(task.problem, 2.0), case.poisoned_out()
    judged: list[torch.Tensor] = []
    assert len(checked_calls(task.problem, configs, case, out, judged.append)) == len(configs)
    assert len(judged) == 1
    assert judged[0] is out
    assert case.judge(out) < 1e-5

    def refuse(result: torch.Tensor) -> None:
        raise AssertionError("not like this")

    with pytest.raises(AssertionError, match=rf"^{configs[0].name}: not like this$"):
        checked_calls(task.problem, configs, case, out, refuse)


@pytest.mark.parametrize("layout", [CONTIGUOUS, MASKED], ids=lambda each: each.name)
def test_rows_of_no_group_are_numbers_and_must_not_be_written(layout: Layout, kernels: Kernels) -> None:
    task = task_of(layout)
    case = case_of(task, task.draws[0], "cpu")
    a, sa = case.lhs
    assert a.float().isfinite().all()
    assert (a.float().abs().sum(-1) > 0).all()
    assert sa.isfinite().all()
    kernels.writes_padding = True
    with pytest.raises(AssertionError, match="a row of no group was written"):
        checked_calls(task.problem, configs_to_time(task.problem, 1.0), case)


@pytest.mark.parametrize("num_sms", [78, 50])
def test_layers_of_a_chain_have_weights_and_results_of_their_own_and_are_launched_as_a_users(
    kernels: Kernels, num_sms: int
) -> None:
    """Dependently where it pays, unless multiprocessors are left to others."""
    (task,) = plan_shapes(DENSE, [DENSE_SHAPE], "bfloat16", num_sms, card_of(78))
    configs = configs_to_time(task.problem, 1.2)[:2]
    chains, count = chains_of(task.problem, configs, case_of(task, task.draws[0], "cpu"))
    assert count == 5
    for config, chain in zip(configs, chains, strict=True):
        kernels.launched.clear()
        kernels.operands.clear()
        kernels.flags.clear()
        chain()
        assert [launched for launched, _ in kernels.launched] == [kernel_of(task.problem, config)] * count
        for of_layers in zip(*kernels.operands, strict=True):
            assert len(set(of_layers)) == count
        assert {bool(flags & LaunchFlags.PDL) for flags in kernels.flags} == {task.problem.num_sms == 78}


def test_a_layer_that_differs_in_a_chain_is_named(kernels: Kernels) -> None:
    task = task_of(DENSE)
    configs = configs_to_time(task.problem, 1.2)[:2]
    case = case_of(task, task.draws[0], "cpu")
    kernels.different_after = 1
    with pytest.raises(AssertionError, match=f"{configs[0].name} differs in a chain"):
        chains_of(task.problem, configs, case)


# What is picked


def test_the_fastest_over_all_regimes_is_picked_and_ties_go_to_the_preferred() -> None:
    assert fastest([[10.0, 9.0, 8.0]]) == 2
    assert fastest([[8.12, 9.0, 8.0]]) == 0
    assert fastest([[8.2, 8.12, 8.0]]) == 1
    assert fastest([[806.0, 801.0, 800.0]]) == 1
    # Cold the last wins by 2 to 1, sustained it loses by 3 to 1; the middle one is good at both.
    assert fastest([[20.0, 11.0, 10.0], [10.0, 11.0, 30.0]]) == 1
    assert fastest([[20.0, 30.0, 10.0], [1000.0, 1000.0, 1500.0]]) == 2


def test_a_pick_says_what_it_gains() -> None:
    task = task_of(DENSE)
    configs = configs_to_time(task.problem, 2.0)[:2]
    picked = Pick(task, configs, {"cold": [10.0, 9.004], "sustained": [8.0, 8.4]}, 1)
    assert picked.describe() == f"{configs[1].name}: 9.00 us cold (-10.0%), 8.40 us sustained (+5.0%)"
    assert picked.entry.kernel_config == configs[1]
    assert (picked.entry.cold_us, picked.entry.sustained_us) == (9.0, 8.4)
    assert picked.entry.key == ("dense", "bfloat16", 78, 1, 136, 272, 64)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=lambda each: each.name)
def test_a_measured_choice_is_found_for_its_problem(layout: Layout, kernels: Kernels) -> None:
    task = task_of(layout)
    picked = pick(task, {"cold": StandInTimer(20.0, 10.0)}, 2.0, "cpu")
    assert picked.configs == configs_to_time(task.problem, 2.0)
    assert Table([picked.entry]).choice(task.problem) == picked.configs[1]


def test_a_choice_must_hold_for_several_sizes_of_groups(kernels: Kernels) -> None:
    """The second candidate is fastest at the first sizes, and slow at others."""
    draws = iter([StandInTimer(20.0, 10.0), StandInTimer(20.0, 50.0), StandInTimer(20.0, 50.0)])
    picked = pick(task_of(MASKED), {"cold": lambda calls: next(draws)(calls)}, 1.5, "cpu")
    assert picked.times["cold"][:2] == pytest.approx([20.0, (10.0 * 50.0 * 50.0) ** (1 / 3)])
    assert picked.best == 0
    assert next(draws, None) is None


def test_every_problem_is_kept_before_the_next_is_measured(
    kernels: Kernels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, said = tmp_path / "choices.json", []
    tasks = plan_shapes(DENSE, [(m, 136, 272) for m in (1, 2, 3, 4)], "bfloat16", 78)
    second = configs_to_time(tasks[1].problem, 1.2)[0]
    kept = {**{task.problem.m: task for task in tasks}}

    class Timer(StandInTimer):
        def __call__(self, calls: Sequence[Callable[[], object]]) -> list[Times]:
            if [entry.m for entry in files.read(path, DEVICE)] == [1, 3]:
                raise KeyboardInterrupt
            return super().__call__(calls)

    files.merge(path, DEVICE, [])
    real = Kernels.instance

    def instance(config: KernelConfig) -> Callable[..., None]:
        launch = real(kernels, config)

        def checked(a: torch.Tensor, *rest: Any) -> None:
            kernels.wrong = [second] if len(a) == 2 else []
            launch(a, *rest)

        return checked

    monkeypatch.setattr(builder, "instance", instance)
    with pytest.raises(KeyboardInterrupt):
        tune_all(tasks, {"sustained": Timer(5.0)}, 1.2, path, DEVICE, device="cpu", say=said.append)
    assert [entry.m for entry in files.read(path, DEVICE)] == [1, 3]
    assert all(entry.sustained_us == 5.0 for entry in files.read(path, DEVICE))
    assert all(entry.cold_us is None for entry in files.read(path, DEVICE))
    assert [line.split(":")[0] for line in said] == [
        kept[1].title,
        f"FAILED {kept[2].title}",
        kept[3].title,
    ]
    assert f"AssertionError: {second.name}" in said[1]


def test_what_cannot_be_timed_is_left_and_reported(kernels: Kernels, tmp_path: Path) -> None:
    class Failing(StandInTimer):
        def __call__(self, calls: Sequence[Callable[[], object]]) -> list[Times]:
            raise RuntimeError("CUPTI lost records")

    path = tmp_path / "choices.json"
    task = task_of(DENSE)
    files.merge(path, DEVICE, [Pick(task, configs_to_time(task.problem, 1.0), {"cold": [3.0]}, 0).entry])
    before = path.read_text()
    failures = tune_all([task], {"cold": Failing()}, 1.2, path, DEVICE, device="cpu", say=lambda line: None)
    assert failures == [f"{task.title}: RuntimeError: CUPTI lost records"]
    assert path.read_text() == before
    timers = {"cold": StandInTimer(4.0)}
    assert tune_all([task], timers, 1.2, path, DEVICE, device="cpu", say=lambda line: None) == []
    (entry,) = files.read(path, DEVICE)
    assert entry == replace(entry, m=64, cold_us=4.0)
