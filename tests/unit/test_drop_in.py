"""The distribution that is imported as `deep_gemm`; and on other GPUs than Hopper, calls of a real one."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from deep_gemm_process import forget_settings
from torch._subclasses.fake_tensor import FakeTensorMode

from cute_gemm.bench.peers.deep_gemm import DeepGemm
from cute_gemm.compat import deep_gemm
from cute_gemm.compat.deep_gemm import elsewhere
from cute_gemm.runtime import hardware

ROOT = Path(__file__).parents[2]
DROP_IN = ROOT / "drop_in"

if sys.version_info >= (3, 11):
    import tomllib


@pytest.fixture(autouse=True)
def nothing_was_set(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_settings(monkeypatch)


def python(code: str, *folders: Path) -> str:
    """What a new process prints that finds modules in folders, too."""
    paths = "".join(f"sys.path.insert(0, {str(folder)!r});" for folder in folders)
    done = subprocess.run(
        [sys.executable, "-c", f"import sys;{paths}\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        # Else it would find the package of a checkout that the tests are run in, whichever is installed.
        cwd=Path(sys.executable).parent,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORTS = """
import torch
import deep_gemm
import deep_gemm.utils.math
from deep_gemm.legacy import m_grouped_bf16_gemm_nt_contiguous_tl
from deep_gemm.testing import bench_kineto, calc_diff
from deep_gemm.testing.bench import bench
from deep_gemm.utils.dist import init_dist
from deep_gemm.utils.layout import get_mn_major_tma_aligned_tensor
import cute_gemm.compat.deep_gemm as own

assert deep_gemm is own and deep_gemm.utils.layout is sys.modules["deep_gemm.utils.layout"]
assert get_mn_major_tma_aligned_tensor is own.get_mn_major_tma_aligned_tensor
copies = [name for name in sys.modules if name.startswith("deep_gemm.")]
assert all(sys.modules[name] is sys.modules[f"cute_gemm.compat.{name}"] for name in copies), copies
deep_gemm.set_num_sms(7)
assert own.get_num_sms() == 7 and own.utils.math.align(3, 4) == 4
assert "cutlass" not in sys.modules and not torch.cuda.is_initialized()
print(*deep_gemm.__path__)
"""


def test_it_is_the_same_module_under_another_name() -> None:
    """And importing it, or setting something, neither uses CUDA nor loads what compiles kernels."""
    assert Path(python(IMPORTS, DROP_IN).strip()) == Path(deep_gemm.__file__).parent


def test_every_module_can_be_imported_by_name() -> None:
    folder = Path(deep_gemm.__file__).parent
    inside = {path.relative_to(folder).with_suffix("") for path in folder.glob("*/*.py")} | {
        Path(name) for name in ("legacy", "testing", "utils")
    }
    own = {Path("utils/ue8m0")}
    names = {path.parent if path.name == "__init__" else path for path in inside} - own
    assert {".".join(name.parts) for name in names} == set(deep_gemm.MODULES)


def test_a_forked_child_computes() -> None:
    assert (
        python(
            """
import os, torch
import deep_gemm, cute_gemm
torch.set_num_threads(1)
child = os.fork()
if not child:
    a, b = cute_gemm.quantize_1x128(torch.ones(4, 128)), cute_gemm.quantize_128x128(torch.ones(8, 128))
    d = torch.empty(4, 8, dtype=torch.bfloat16)
    deep_gemm.fp8_gemm_nt(a, b, d)
    os._exit(0 if (d == 128).all() else 1)
print(os.waitpid(child, 0)[1])
""",
            DROP_IN,
        )
        == "0\n"
    )


def test_it_is_not_imported_beside_a_real_one(tmp_path: Path) -> None:
    shutil.copytree(DROP_IN / "deep_gemm", tmp_path / "deep_gemm")
    caught = "try:\n    import deep_gemm\nexcept ImportError as error:\n    print(error)"
    assert python(caught, tmp_path) == ""
    (tmp_path / "deep_gemm" / "_C.cpython-312-x86_64-linux-gnu.so").touch()
    assert "holds a real DeepGEMM and cute_gemm's drop-in" in python(caught, tmp_path)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib")
def test_it_is_a_distribution_of_its_own_that_replaces_a_real_one() -> None:
    own, main = (tomllib.loads((folder / "pyproject.toml").read_text()) for folder in (DROP_IN, ROOT))
    assert own["project"]["name"] == "deep_gemm"
    assert own["project"]["version"] == deep_gemm.__version__
    assert own["project"]["dependencies"] == [main["project"]["name"]]
    assert own["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["deep_gemm"]
    assert main["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["cute_gemm"]


def test_benchmarks_do_not_take_it_for_deepgemm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deep_gemm", deep_gemm)
    assert DeepGemm().available() == "the deep_gemm that is installed is cute_gemm's drop-in"


# Other GPUs

REAL = """
from . import part
from .part import einsum

asked = []

def __getattr__(name):
    if name.startswith("_"):
        raise AttributeError(name)
    return lambda *args, **kwargs: asked.append((name, args, kwargs)) or name
"""


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """The folder of a package that answers any call with its name."""
    folder = tmp_path / "deep_gemm"
    folder.mkdir()
    (folder / "__init__.py").write_text(REAL)
    (folder / "part.py").write_text(
        "from . import __name__ as package\n\ndef einsum(*args):\n    return package\n"
    )
    return folder


@pytest.fixture
def blackwell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    properties = SimpleNamespace(multi_processor_count=148)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(hardware, "is_hopper", lambda index=None: False)
    monkeypatch.setattr(hardware, "describe", lambda index=None: "NVIDIA B200 (compute capability 10.0)")
    monkeypatch.delitem(sys.modules, elsewhere._NAMED, raising=False)
    monkeypatch.delenv(elsewhere.DIRECTORY_VARIABLE, raising=False)


def on_gpu(*shape: int) -> torch.Tensor:
    """What looks like a tensor of cuda:0."""
    # Torch 2.8 would initialise a GPU that it believes to be there.
    with mock.patch.object(torch.cuda, "is_available", return_value=False), FakeTensorMode():
        return torch.empty(shape, device="cuda:0")


@pytest.mark.usefixtures("blackwell")
def test_calls_go_to_the_one_that_is_named(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(elsewhere.DIRECTORY_VARIABLE, str(real))
    deep_gemm.set_pdl(True)
    x = on_gpu(4, 4)
    given: tuple[Any, ...] = (x, x), (x, x), x
    assert deep_gemm.fp8_gemm_nt(*given, recipe=(1, 1, 32)) == "fp8_gemm_nt"
    deep_gemm.set_num_sms(100)
    other = elsewhere.of_current_device()
    assert other is not None
    assert Path(other.__file__ or "") == real / "__init__.py"
    assert [name for name, *_ in other.asked] == ["set_pdl", "fp8_gemm_nt", "set_num_sms"]
    assert other.asked[1][1] is not None
    assert other.asked[1][2] == {"recipe": (1, 1, 32)}
    for name in (
        "m_grouped_fp8_fp4_gemm_nt_contiguous",
        "fp8_m_grouped_gemm_nt_masked",
        "fp8_mqa_logits",
        "bf16_gemm_tn",
    ):
        answer = getattr(deep_gemm, name)(*given, d=x)
        assert answer == {
            "m_grouped_fp8_fp4_gemm_nt_contiguous": "m_grouped_fp8_gemm_nt_contiguous",
            "fp8_m_grouped_gemm_nt_masked": "m_grouped_fp8_gemm_nt_masked",
        }.get(name, name)
    assert deep_gemm.transform_sf_into_required_layout(sf=x) == "transform_sf_into_required_layout"
    assert deep_gemm.get_symm_buffer_for_mega_moe(8, num_experts=2) == "get_symm_buffer_for_mega_moe"
    assert deep_gemm.SymmBuffer(1) == "SymmBuffer"
    assert deep_gemm.einsum("bmk,bnk->mn", x) == elsewhere._NAMED
    # Of transposed operands as views, which is what it does itself.
    assert deep_gemm.fp8_gemm_nn(*given) is None
    assert other.asked[-1][0] == "fp8_gemm_nt"


@pytest.mark.usefixtures("blackwell")
def test_calls_of_the_cpu_stay_here(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(elsewhere.DIRECTORY_VARIABLE, str(real))
    with pytest.raises(NotImplementedError):
        deep_gemm.einsum("bmk,bnk->mn", torch.zeros(1), torch.zeros(1))
    assert torch.equal(deep_gemm.get_mn_major_tma_aligned_tensor(torch.ones(4, 2)), torch.ones(4, 2))
    assert elsewhere._of_devices == {-1: None}


@pytest.mark.usefixtures("blackwell")
def test_alignments_are_asked_for_there(real: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (real / "__init__.py").write_text(
        "def get_theoretical_mk_alignment_for_contiguous_layout(expected_m=None):\n"
        "    return 224 if expected_m is None else 32\n"
    )
    monkeypatch.setenv(elsewhere.DIRECTORY_VARIABLE, str(real))
    assert deep_gemm.get_theoretical_mk_alignment_for_contiguous_layout() == 224
    assert deep_gemm.get_theoretical_mk_alignment_for_contiguous_layout(20) == 32
    assert deep_gemm.get_mk_alignment_for_contiguous_layout() == 128


@pytest.mark.usefixtures("blackwell")
def test_calls_go_to_that_of_vllm(monkeypatch: pytest.MonkeyPatch, real: Path) -> None:
    vendored = real.parent / "vllm" / "third_party"
    vendored.mkdir(parents=True)
    for package in (vendored, vendored.parent):
        (package / "__init__.py").touch()
    real.rename(vendored / "deep_gemm")
    monkeypatch.syspath_prepend(str(vendored.parents[1]))
    assert deep_gemm.fp8_gemm_nt((on_gpu(1, 1),)) == "fp8_gemm_nt"
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        del sys.modules[name]


@pytest.mark.usefixtures("blackwell")
def test_without_another_one_it_says_what_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    x = on_gpu(4, 4)
    wanted = (
        r"cuda:0 is NVIDIA B200 .* vllm.third_party.deep_gemm, cannot be imported .* CUTE_GEMM_DEEP_GEMM_DIR"
    )
    with pytest.raises(RuntimeError, match=wanted):
        deep_gemm.fp8_gemm_nt((x, x), (x, x), x)
    monkeypatch.setenv(elsewhere.DIRECTORY_VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(
        RuntimeError, match=r"nowhere, which CUTE_GEMM_DEEP_GEMM_DIR names, cannot be imported"
    ):
        deep_gemm.fp8_gemm_nt((x, x), (x, x), x)
    assert elsewhere._NAMED not in sys.modules


def test_a_hopper_gpu_looks_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(hardware, "is_hopper", lambda index=None: True)
    monkeypatch.setattr(elsewhere, "_other", lambda index: pytest.fail("looked for"))
    x = on_gpu(4, 4)
    with pytest.raises(NotImplementedError):
        deep_gemm.einsum("bmk,bnk->mn", x)
    assert elsewhere._of_devices == {-1: None, 0: None}
