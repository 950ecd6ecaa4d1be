"""Several processes that train one policy, as ``torchrun`` starts them.

    torchrun --nproc-per-node 2 -m xfer.cli train cartpole

Each rank has environments and seeds of its own. Gradients are averaged (DistributedDataParallel; gloo on CPUs, nccl
on GPUs), so that a step of all ranks is one on their joint batch, and all hold the same weights. Rank 0 evaluates,
writes the run's folder, and is the only one that prints; on several machines that folder must be on a disk they share.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")

SEEDS_APART = 1_000_003
"""How far the seeds of two ranks lie from each other; rank 0 has the seed that a single process would have."""


@contextmanager
def group(device: str) -> Iterator[None]:
    """Join the processes that ``torchrun`` started, if it did.

    Args:
        device: ``cpu``, or ``cuda``, which from then on means this rank's own GPU.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    if rank():
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.close(silence)
    try:
        yield
        distributed.barrier()  # no rank leaves while another still needs it
    finally:
        distributed.destroy_process_group()


def rank() -> int:
    """Return which process this is, from 0."""
    return distributed.get_rank() if distributed.is_initialized() else 0


def size() -> int:
    """Return how many processes there are."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def own_seed(seed: int) -> int:
    """Return this rank's seed."""
    return seed + SEEDS_APART * rank()


def wait() -> None:
    """Wait until every rank is here."""
    if size() > 1:
        distributed.barrier()


def from_first(value: T) -> T:
    """Return what rank 0 has: a plain value."""
    values = [value]
    if size() > 1:
        distributed.broadcast_object_list(values)
    return values[0]


def parallel(module: nn.Module) -> nn.Module:
    """Wrap a module so that ``backward`` gives every rank the mean of all ranks' gradients.

    All start from rank 0's parameters and buffers. Batch norm normalizes by each rank's own batch; call
    ``average_buffers`` when training is over, so that the statistics it kept are of all of them.
    """
    if size() == 1:
        return module
    for tensor in module.buffers():
        distributed.broadcast(tensor, 0)
    return DistributedDataParallel(module, broadcast_buffers=False)


@torch.no_grad()
def average_buffers(module: nn.Module) -> None:
    """Give every rank the mean of all ranks' float buffers; counters are equal anyway."""
    if size() == 1:
        return
    for tensor in module.buffers():
        if tensor.is_floating_point():
            distributed.all_reduce(tensor)
            tensor /= size()


def mean(values: dict[str, float]) -> dict[str, float]:
    """Return the means over all ranks of what each measured."""
    if size() == 1:
        return values
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    total = torch.tensor(list(values.values()), dtype=torch.float64, device=device)
    distributed.all_reduce(total)
    return dict(zip(values, (total / size()).tolist(), strict=True))
