"""The processes that work together: one alone, or those that torchrun started."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from common.cli import InputError, plural


@dataclass(frozen=True)
class Group:
    """This process's place among those that share each batch."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def share(self, value: Any) -> Any:
        """The first process's value, on every process."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def largest(self, values: list[float], device: torch.device) -> list[float]:
        """Of each value the largest on any process."""
        if self.size == 1:
            return values
        shared = torch.tensor(values, device=device)
        dist.all_reduce(shared, op=dist.ReduceOp.MAX)
        return shared.tolist()

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join(device: torch.device) -> Iterator[tuple[Group, torch.device]]:
    """This process's group and device, for as long as the block lasts.

    Under torchrun each process has a GPU of its own, and they talk over NCCL; on the CPU over Gloo. No module in
    DistributedDataParallel may outlive the block: were it the last to hold the group, it would wait for the group's
    threads with Python's lock in hand, and they may wait for that lock.

    Raises InputError, on every process of a machine, where it has fewer GPUs than processes.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Group(), device
        return
    if device.type == "cuda":
        processes, gpus = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if processes > gpus:
            found = f"{processes} processes on a machine with {gpus} {plural('GPU', gpus)}"
            raise InputError(f"{found}; expected --nproc_per_node of at most {gpus}")
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Group(dist.get_rank(), dist.get_world_size()), device
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # the module among their local variables
        raise
    finally:
        dist.destroy_process_group()
