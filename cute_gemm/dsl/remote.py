"""Barriers and shared memory of another CTA of the cluster, for a DSL that has less: in PTX.

What is here has the names of ``cutlass.cute.arch`` and takes as much of their arguments as is used.
"""

from typing import Any

import cutlass.cute as cute
from cutlass import Int32
from cutlass._mlir.dialects.nvvm import MemScopeKind

_MAP = "mapa.shared::cluster.u32 {$w0}, {$r0}, {$r1};"


def mbarrier_arrive(mbar_ptr: cute.Pointer, peer_cta_rank_in_cluster: Any, *, scope: MemScopeKind) -> None:
    """Arrives once at a barrier of another CTA, releasing what was written to the cluster before."""
    assert scope == MemScopeKind.CLUSTER, "of a cluster"
    cute.arch.inline_ptx(
        "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [{$r0}];",
        read_only_args=[_remote(mbar_ptr, peer_cta_rank_in_cluster)],
    )


def store_async_dsmem(smem_ptr: cute.Pointer, value: Any, mbar_ptr: cute.Pointer, peer_cta_rank: Any) -> None:
    """Stores 32-bit words to another CTA, one or four, which count at its barrier when they have arrived."""
    words = value if isinstance(value, tuple) else (value,)
    names = ", ".join(f"{{$r{i + 2}}}" for i in range(len(words)))
    kind, listed = ("v4.b32", f"{{ {names} }}") if len(words) == 4 else ("b32", names)
    cute.arch.inline_ptx(
        f"st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.{kind} [{{$r0}}], {listed}, [{{$r1}}];",
        read_only_args=[_remote(each, peer_cta_rank) for each in (smem_ptr, mbar_ptr)] + [*words],
    )


def _remote(pointer: cute.Pointer, cta: Any) -> Int32:
    """The address of the same place in another CTA."""
    return cute.arch.inline_ptx(_MAP, write_only_types=[Int32], read_only_args=[pointer.toint(), Int32(cta)])
