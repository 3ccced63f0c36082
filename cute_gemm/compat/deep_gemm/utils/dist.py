"""Processes of several GPUs, by torch.distributed."""

from __future__ import annotations

import os
from typing import cast

import torch
import torch.distributed as distributed
from torch import Tensor


def init_dist(local_rank: int, num_local_ranks: int) -> tuple[int, int, distributed.ProcessGroup]:
    """Joins the processes of all nodes by NCCL; the GPU with the number of the process becomes current.

    ``MASTER_ADDR`` and ``MASTER_PORT`` say where they meet (127.0.0.1, 8361), ``WORLD_SIZE`` how many nodes
    there are (1), and ``RANK`` which of them this is (0). CUDA becomes torch's default device.

    Args:
        local_rank: the number of this process on its node.
        num_local_ranks: how many a node has.

    Returns:
        The rank, the number of all processes, and their group.
    """
    address = os.environ.get("MASTER_ADDR", "127.0.0.1")
    port = os.environ.get("MASTER_PORT", "8361")
    nodes, node = (int(os.environ.get(name, default)) for name, default in (("WORLD_SIZE", 1), ("RANK", 0)))
    torch.cuda.set_device(local_rank)
    torch.set_default_device("cuda")
    distributed.init_process_group(
        "nccl",
        init_method=f"tcp://{address}:{port}",
        world_size=nodes * num_local_ranks,
        rank=node * num_local_ranks + local_rank,
        device_id=torch.device("cuda", local_rank),
    )
    world_size = distributed.get_world_size()
    group = cast(distributed.ProcessGroup, distributed.new_group(list(range(world_size))))
    return distributed.get_rank(), world_size, group


def uneven_all_gather(tensor: Tensor, dim: int = 0, group: distributed.ProcessGroup | None = None) -> Tensor:
    """The tensors of all processes of a group, joined along a dimension in which they may differ."""
    sizes: list[int] = [0] * distributed.get_world_size(group)
    distributed.all_gather_object(sizes, tensor.shape[dim], group)
    shape = [*tensor.shape]
    shape[dim] = max(sizes)
    padded = tensor.new_zeros(shape)
    padded.narrow(dim, 0, tensor.shape[dim]).copy_(tensor)
    gathered = [torch.empty_like(padded) for _ in sizes]
    distributed.all_gather(gathered, padded, group)
    return torch.cat([each.narrow(dim, 0, size) for each, size in zip(gathered, sizes, strict=True)], dim)
