"""`deep_gemm` is `cute_gemm.compat.deep_gemm`, the same module, and so are the modules in it."""

import importlib
import sys
from pathlib import Path

if any(Path(__file__).parent.glob("_C.*")):
    raise ImportError(
        f"{Path(__file__).parent} holds a real DeepGEMM and cute_gemm's drop-in; wanted one of them: "
        "uninstall `deep_gemm`, remove what is left of the folder, and install one again"
    )

_drop_in = importlib.import_module("cute_gemm.compat.deep_gemm")
for _name in _drop_in.MODULES:
    sys.modules[f"{__name__}.{_name}"] = importlib.import_module(f"{_drop_in.__name__}.{_name}")
sys.modules[__name__] = _drop_in
