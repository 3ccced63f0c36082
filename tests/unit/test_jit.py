"""Where calls are not to compile they say so: what needs which kernel, and the command that makes it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from calls import arguments, every_layout
from stand_ins import Device, card_of, stand_in
from test_launch_epilogued import launch as launch_with_epilogue
from test_quantize_slow_path import CALLS

import cute_gemm
from cute_gemm import cli, epilogue, runtime, settings
from cute_gemm.plan import choice
from cute_gemm.plan.config import KernelConfig
from cute_gemm.plan.layouts import DENSE, Layout
from cute_gemm.runtime import builder, compiler, jit, launcher, quantizers
from cute_gemm.runtime.jit import NotCompiledError
from cute_gemm.warming import work

REAL_INSTANCE = builder.instance


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Device]:
    """A GPU to launch on in a process that has no kernel, beside an empty cache; nothing may be compiled."""
    with stand_in(monkeypatch) as device:
        device.choose = choice.choose
        monkeypatch.setattr(builder, "instance", REAL_INSTANCE)
        monkeypatch.setattr(compiler, "_loaded", {})
        monkeypatch.setattr(compiler, "_compile", lambda build, label: pytest.fail(f"compiled {label}"))
        monkeypatch.setenv("CUTE_GEMM_CACHE_DIR", str(tmp_path))
        monkeypatch.setenv(jit.VARIABLE, "never")
        yield device


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[str], set[str]]:
    """Names of the kernels that a message's command would make, on the card that calls were for."""
    monkeypatch.setattr(work, "cards_named", lambda name: (card_of(132),))
    monkeypatch.setattr(work, "sort", lambda kernels: (list(kernels), []))

    def run(command: str) -> set[str]:
        program, *given = shlex.split(command)
        assert program == "cute-gemm"
        capsys.readouterr()
        assert cli.main([*given, "--dry-run"]) == 0
        return {line.partition(":")[0] for line in capsys.readouterr().out.splitlines()}

    return run


def commands_in(error: object) -> list[str]:
    return re.findall(r"`(cute-gemm [^`]*)`", str(error))


@every_layout
def test_products(device: Device, layout: Layout, listed: Callable[[str], set[str]]) -> None:
    with (
        pytest.raises(
            NotCompiledError, match=r"N = 16, K = 144.* needs the kernel .*CUTE_GEMM_JIT=never"
        ) as found,
        cute_gemm.config(batch_invariant=layout is DENSE, num_sms=100),
    ):
        launcher.launch_checked(arguments(layout).checked(out_dtype=torch.float32))
    of_kernel, of_calls = commands_in(found.value)
    name = found.value.label
    assert of_kernel == f"cute-gemm warmup --kernel {name}"
    assert name in listed(of_kernel)
    assert name in listed(of_calls)
    assert "--num-sms 100" in of_calls
    assert ("--batch-invariant" in of_calls) == (layout is DENSE)
    assert not device.launches


@every_layout
def test_products_with_an_epilogue(device: Device, layout: Layout, listed: Callable[[str], set[str]]) -> None:
    given = arguments(layout)
    with pytest.raises(NotCompiledError, match="N = 16, K = 144") as found:
        launch_with_epilogue(given, epilogue.silu())
    (command,) = commands_in(found.value)
    names = listed(command.replace("WHERE", "cute_gemm.epilogue:silu"))
    assert f"{found.value.label} with silu" in names


def test_programs(device: Device) -> None:
    given = arguments(DENSE)
    program = builder.Program(KernelConfig(64, 64, 4), lambda: None, ())
    for of, where in ((program.config, program.config.name), (program, "WHERE")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "device", lambda index: nullcontext())
            patch.setattr("cute_gemm.runtime.programs._require_gpu", lambda call: None)
            with pytest.raises(NotCompiledError, match="M = 5, N = 16, K = 144") as found:
                runtime.launch(of, *given.pairs)
        assert commands_in(found.value)[0] == f"cute-gemm warmup --kernel {where}"


@pytest.mark.parametrize("name", CALLS)
def test_what_quantises_and_what_is_around_experts(
    device: Device, name: str, monkeypatch: pytest.MonkeyPatch, listed: Callable[[str], set[str]]
) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda index: nullcontext())
    monkeypatch.setattr(quantizers, "is_on_hopper", lambda x: True)
    monkeypatch.setattr(quantizers, "known", lambda key: None)
    call, tensors = CALLS[name]
    with pytest.raises(NotCompiledError) as found:
        call(*tensors)
    (command,) = commands_in(found.value)
    assert found.value.label in listed(command)


def test_a_kernel_on_disk_is_loaded(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_from_disk", lambda kernels, key, label: device.launch)
    launcher.launch_checked(arguments(DENSE).checked())
    assert len(device.launches) == 1


def test_a_scope_goes_before_the_environment(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(compiler, "_compile", lambda build, label: made.append(label))
    monkeypatch.setattr(compiler, "_keep", lambda *_: None)
    monkeypatch.setattr(compiler, "_link", lambda image: device.launch)
    given = arguments(DENSE)
    with cute_gemm.config(jit=True):
        with cute_gemm.config(jit=None), pytest.raises(NotCompiledError, match="CUTE_GEMM_JIT=never forbids"):
            launcher.launch_checked(given.checked())
        launcher.launch_checked(given.checked())
    assert len(made) == len(device.launches) == 1
    monkeypatch.delenv(jit.VARIABLE)
    with (
        cute_gemm.config(jit=False),
        pytest.raises(NotCompiledError, match=r"config\(jit=False\) is in force"),
    ):
        launcher.launch_checked(given.checked(out_dtype=torch.float32))


@pytest.mark.parametrize("said", ["Never", "0", "no"])
def test_a_slip_is_no_permission(device: Device, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv(jit.VARIABLE, said)
    with pytest.raises(ValueError, match=f"CUTE_GEMM_JIT is '{said}'; want never"):
        launcher.launch_checked(arguments(DENSE).checked())
    monkeypatch.setenv(jit.VARIABLE, "")
    monkeypatch.setattr(compiler, "_from_disk", lambda kernels, key, label: device.launch)
    launcher.launch_checked(arguments(DENSE).checked())


def test_commands_compile_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(jit.VARIABLE, "nevr")
    monkeypatch.setattr("cute_gemm.cli.info._run", lambda args: seen.append(settings.current().jit))
    seen: list[bool | None] = []
    assert cli.main(["info"]) == 0
    assert seen == [True]
    with cute_gemm.config(jit=True):
        jit.require_understood()
        jit.require_allowed("a kernel", "")


@pytest.mark.parametrize("wrong", [1, "never", 0.0])
def test_the_setting_is_a_bool(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"jit is .*want a bool"):
        cute_gemm.config(jit=wrong)


def test_it_is_no_part_of_what_is_traced() -> None:
    from cute_gemm.ops import library

    assert library.settings_as_arguments({"jit": False, "num_sms": 7}) == {"num_sms": 7}


def test_nobody_else_compiles() -> None:
    """What is not compiled there need not ask whether it may be."""
    package = Path(cute_gemm.__file__).parent
    calls = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if re.search(r"\bcute\.compile\(", path.read_text())
    }
    assert calls == {"runtime/compiler.py"}
