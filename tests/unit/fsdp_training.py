"""What `test_nn_fsdp` runs in two processes: a sharded model trains as one that is not.

    python fsdp_training.py FILE

FILE is where processes meet; it is not there yet.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from cute_gemm.nn import FP8Linear

PROCESSES, STEPS = 2, 3


def model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(FP8Linear(64, 96), nn.GELU(), FP8Linear(96, 48))


def batch(step: int, rank: int) -> Tensor:
    return torch.randn(40, 64, generator=torch.Generator().manual_seed(10 * step + rank))


def loss(module: nn.Module, step: int, rank: int) -> Tensor:
    return module(batch(step, rank)).float().square().mean()


def mean_of_ones() -> float:
    """What processes make of the mean of ones: Gloo of torch 2.8 adds them up."""
    ones = torch.ones(PROCESSES)
    mean = torch.empty(1)
    distributed.reduce_scatter_tensor(mean, ones, op=distributed.ReduceOp.AVG)
    return mean.item()


def train(module: nn.Module, ranks: list[int], batches: int) -> list[Tensor]:
    """Weights after each step, where a step takes several batches of each rank."""
    count = mean_of_ones() if len(ranks) == 1 else len(ranks)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    after = []
    for step in range(STEPS):
        for number in range(batches):
            for rank in ranks:
                (loss(module, step * batches + number, rank) / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        after.append(
            torch.cat(
                [
                    (each.full_tensor() if isinstance(each, DTensor) else each).detach().flatten()
                    for each in module.parameters()
                ]
            ).clone()
        )
    return after


def check(rank: int, *, reshard: bool, each_layer: bool, batches: int, dtype: torch.dtype | None) -> None:
    sharded = model()
    mesh = init_device_mesh("cpu", (PROCESSES,))
    options = {
        "mesh": mesh,
        "reshard_after_forward": reshard,
        "mp_policy": MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32),
    }
    if each_layer:
        for layer in sharded:
            if isinstance(layer, FP8Linear):
                fully_shard(layer, **options)
    fully_shard(sharded, **options)
    assert isinstance(sharded[0].weight, DTensor)
    found = train(sharded, [rank], batches)
    # What is gathered is let go: FP8 values of all of a weight would take as much as what was sharded.
    assert [layer._kept._kept for layer in sharded if isinstance(layer, FP8Linear)] == [None, None]
    if dtype is not None:
        assert all(each.isfinite().all() for each in found)
        return
    wanted = train(model(), list(range(PROCESSES)), batches)
    start = torch.cat([each.detach().flatten() for each in model().parameters()])
    for mine, each in zip(found, wanted, strict=True):
        assert (each - start).abs().max() > 1e-3
        # Gradients are summed up in another order.
        assert (mine - each).norm() < 1e-5 * (each - start).norm()


def check_loading(rank: int) -> None:
    """Values that are put into shards by hand, without a step."""
    sharded = model()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (PROCESSES,)))
    with torch.no_grad():
        before = sharded(batch(0, 0))
        sharded.reshard()
        for each in sharded.parameters():
            each.to_local().mul_(2)
        after = sharded(batch(0, 0))
        changed = model()
        for each in changed.parameters():
            each.mul_(2)
        assert not torch.equal(before, after)
        assert torch.equal(after, changed(batch(0, 0)))


def check_refusal(rank: int) -> None:
    sharded = model()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (PROCESSES,)))
    with pytest.raises(TypeError, match=r"weight is a torch\.distributed\.tensor\.DTensor.*call the module"):
        FP8Linear.forward(sharded[0], batch(0, 0))


def run(rank: int, meeting: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=PROCESSES)
    check(rank, reshard=True, each_layer=True, batches=1, dtype=None)
    check(rank, reshard=False, each_layer=True, batches=2, dtype=None)
    check(rank, reshard=True, each_layer=False, batches=2, dtype=None)
    check(rank, reshard=True, each_layer=True, batches=1, dtype=torch.bfloat16)
    check_loading(rank)
    check_refusal(rank)
    distributed.barrier()
    distributed.destroy_process_group()


if __name__ == "__main__":
    assert not Path(sys.argv[1]).exists()
    multiprocessing.spawn(run, (sys.argv[1],), PROCESSES)
    print("trained")
