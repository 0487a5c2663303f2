"""Data-parallel calibration: every process of `torchrun` measures its share of the text.

Second moments are sums over tokens, so the processes' sums only have to be added up.
"""

from __future__ import annotations

import atexit
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

LOOPBACK: Final = "lo"
"""Linux's network interface that reaches the processes of this machine only."""


PATIENCE: Final = timedelta(days=7)
"""How long a process waits for the others: the first one writes and checks the file of a large
model while they wait."""


@dataclass(frozen=True)
class Share:
    """This process's part of the work: number `rank` of `size`."""

    rank: int
    size: int

    def of(self, sequences: NDArray[np.int64]) -> NDArray[np.int64]:
        """Every size-th row, from row `rank` on."""
        return sequences[self.rank :: self.size]

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            connect()
            dist.barrier()

    def first(self, number: int) -> int:
        """The number that the first process has, in every process."""
        if self.size == 1:
            return number
        connect()
        shared = torch.tensor([number])
        dist.broadcast(shared, 0)
        return int(shared.item())


ALONE: Final = Share(0, 1)


def share_of_this_process() -> Share:
    """The share given by torchrun's environment variables; all work without them."""
    return Share(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def is_main_process() -> bool:
    """Whether this is the process that writes files and talks to the user."""
    return share_of_this_process().rank == 0


def add_up(sums: Mapping[str, torch.Tensor]) -> None:
    """Replace the sums of every process by their sum over all processes, in place."""
    connect()
    for total in sums.values():
        here = total.cpu()
        dist.all_reduce(here)
        total.copy_(here)


def connect() -> None:
    """Connect the processes, once and for as long as this one lives.

    torchrun's store keeps the addresses of a group that was destroyed. A process that connects
    again before the others have may read an old one, and its connection is refused.
    """
    if not dist.is_initialized():
        interfaces = [name for _, name in socket.if_nameindex()]
        one_machine = os.environ.get("LOCAL_WORLD_SIZE") == os.environ.get("WORLD_SIZE")
        if one_machine and LOOPBACK in interfaces:
            # The machine's own name may resolve to an unreachable address.
            os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK)
        # gloo: the sums are in main memory, wherever the model runs.
        dist.init_process_group("gloo", timeout=PATIENCE)
        atexit.register(_disconnect)


def _disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
