"""Where this process stands among its peers, under `deepspeed`, `torchrun`, slurm, MPI, or alone, and how they agree.

Small numbers travel over a CPU group of their own: agreeing never waits for an accelerator.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import distributed
from torch._C._distributed_c10d import HashStore, PrefixStore
from torch.distributed.rendezvous import rendezvous

from metaformer.errors import MetaformerError, PeerError, UsageError

_VARIABLES = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    # Before slurm's: `mpirun` inside a slurm job starts ranks that all have the SLURM_PROCID of the job's script.
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    # Of the step, which `srun` makes: a batch script alone has SLURM_NTASKS as well, and nobody starts those tasks.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)
_GONE = (
    "connection closed by peer",
    "connection reset by peer",
    "broken pipe",
    "timed out",
    "remote process has exited",
)
"""What gloo, NCCL and the store say when another process no longer answers."""


@dataclass(frozen=True)
class Place:
    """A rank, how many there are, its device, and the group and store by which they agree."""

    rank: int
    world: int
    device: torch.device
    store: Any = field(default_factory=HashStore, compare=False)
    """Small texts that every rank can set and look up without the others' taking part."""
    group: Any = field(default=None, compare=False)
    """Process group for numbers on the CPU; None: the default one."""

    @property
    def leads(self) -> bool:
        """Rank zero: writes files and talks."""
        return self.rank == 0

    def agree(self, values: Sequence[float]) -> list[float]:
        """The largest of each value over all ranks."""
        return self._reduce(values, distributed.ReduceOp.MAX)

    def total(self, values: Sequence[float]) -> list[float]:
        """The sum of each value over all ranks."""
        return self._reduce(values, distributed.ReduceOp.SUM)

    def _reduce(self, values: Sequence[float], op: Any) -> list[float]:
        if self.world == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(tensor, op=op, group=self.group)
        return [float(v) for v in tensor]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank, in the order of ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        distributed.all_gather_object(values, value, group=self.group)
        return values

    def broadcast(self, value: Any) -> Any:
        """Rank zero's value, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        distributed.broadcast_object_list(box, src=0, group=self.group)
        return box[0]

    def together(self, error: BaseException | None = None, values: Sequence[float] = ()) -> list[float]:
        """The sums of the values over all ranks; where any rank comes with an error, all ranks raise: that one its
        own, the others a PeerError that quotes it. So no rank waits for one that has left."""
        failed, *sums = self.total([float(error is not None), *values])
        if not failed:
            return sums
        reports = self.gather(None if error is None else (_summary(error), getattr(error, "exit_code", 1)))
        if error is not None:
            raise error
        first, (text, code) = next((rank, report) for rank, report in enumerate(reports) if report is not None)
        raise PeerError(f"rank {self.rank} of {self.world} stops with the others", f"rank {first}: {text}", "", code)


def _summary(error: BaseException) -> str:
    return str(error) if isinstance(error, MetaformerError) else f"{type(error).__name__}: {error}"


def lost_peer(error: BaseException, place: Place) -> PeerError | None:
    """What to say where an error means that another rank no longer answers; None where it means something else."""
    kinds = (RuntimeError, ConnectionError, TimeoutError)
    if place.world == 1 or not isinstance(error, kinds) or isinstance(error, MetaformerError):
        return None
    text = str(error)
    if not any(sign in text.lower() for sign in _GONE):
        return None
    return PeerError(
        f"rank {place.rank} of {place.world} waits for the others",
        f"another rank has died or does not answer: {text.strip().splitlines()[0][:200]}",
        "look at what that rank printed (killed by the system for its memory?), then start again with --resume",
    )


def read_ranks(environment: Mapping[str, str]) -> tuple[int, int, int]:
    """(rank, world size, local rank) from the launcher's variables; (0, 1, 0) where there is no launcher."""
    for rank, world, local in _VARIABLES:
        if rank in environment and world in environment:
            return int(environment[rank]), int(environment[world]), int(environment.get(local, 0))
    return 0, 1, 0


_place: Place | None = None
"""Found once per process: DeepSpeed keeps handles of its groups, also between two runs."""


def find_place(threads: int | None = None, timeout: float = 1800.0) -> Place:
    """Join the process group, once per process and until it ends, and choose the device. `timeout`: seconds that a
    rank waits for the others."""
    global _place
    if threads is not None:
        torch.set_num_threads(threads)
    if _place is None:
        _place = _join(timedelta(seconds=timeout))
    return _place


def _join(timeout: timedelta) -> Place:
    rank, world, local = read_ranks(os.environ)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    # DeepSpeed looks for these even when the group exists already.
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), LOCAL_RANK=str(local))
    backend = "nccl" if cuda else "gloo"
    atexit.register(leave_place)
    if world == 1:
        # No sockets for a single process: a store in memory is enough.
        store = HashStore()
        distributed.init_process_group(backend, store=store, rank=0, world_size=1)
        return Place(rank, world, device, store)
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(
            f"rank {rank} of {world} needs to know where rank zero is",
            f"{' and '.join(missing)} not set",
            "start with `deepspeed` or `torchrun`, or set MASTER_ADDR and MASTER_PORT on all ranks alike",
        )
    store, _, _ = next(rendezvous("env://", rank, world, timeout=timeout))
    distributed.init_process_group(
        backend, store=PrefixStore("groups", store), rank=rank, world_size=world, timeout=timeout
    )
    group = distributed.new_group(backend="gloo", timeout=timeout) if cuda else None
    return Place(rank, world, device, PrefixStore("metaformer", store), group)


def leave_place() -> None:
    """Leave the process group, so that the process can end without a warning."""
    global _place
    _place = None
    if distributed.is_initialized():
        distributed.destroy_process_group()
