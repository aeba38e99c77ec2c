"""Finding out which rank this process is, under `deepspeed`, `torchrun`, slurm, MPI, or alone."""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping
from datetime import timedelta

import torch
from torch import distributed
from torch._C._distributed_c10d import HashStore

from metaformer.engine.base import Place
from metaformer.errors import UsageError

_VARIABLES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
)


def read_ranks(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """(rank, world size, local rank) from the launcher's variables; (0, 1, 0) where there is no launcher."""
    for rank, world, local in _VARIABLES:
        if rank in environment and world in environment:
            return int(environment[rank]), int(environment[world]), int(environment.get(local, 0))
    return 0, 1, 0


def find_place(threads: int | None = None, timeout: float = 1800.0) -> Place:
    """Join the process group, once per process and until it ends, and choose the device."""
    rank, world, local = read_ranks(os.environ)
    if threads is not None:
        torch.set_num_threads(threads)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        # Not left before the process ends: DeepSpeed keeps handles of its groups, also between two runs.
        atexit.register(leave_place)
        # DeepSpeed looks for these even when the group exists already.
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(local))
        backend = "nccl" if cuda else "gloo"
        if world == 1:
            # No sockets for a single process: a store in memory is enough.
            distributed.init_process_group(backend, store=HashStore(), rank=0, world_size=1)
        else:
            if "MASTER_ADDR" not in os.environ:
                raise UsageError(
                    f"rank {rank} of {world} needs to know where rank zero is",
                    "MASTER_ADDR is not set",
                    "start with `deepspeed` or `torchrun`, or set MASTER_ADDR and MASTER_PORT",
                )
            distributed.init_process_group(backend, rank=rank, world_size=world, timeout=timedelta(seconds=timeout))
    return Place(rank, world, device)


def leave_place() -> None:
    """Leave the process group, so that the process can end without a warning."""
    if distributed.is_initialized():
        distributed.destroy_process_group()


def broadcast_text(text: str, place: Place) -> str:
    """Rank zero's text, on every rank."""
    if place.world == 1:
        return text
    box = [text]
    distributed.broadcast_object_list(box, src=0)
    return box[0]
