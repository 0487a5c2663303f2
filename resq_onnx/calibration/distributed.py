"""Data-parallel calibration: every process of `torchrun` measures its share of the text.

Second moments are sums over tokens, so the processes' sums only have to be added up.
"""

from __future__ import annotations

import atexit
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from transformers import PreTrainedModel

from resq_onnx.calibration.statistics import Progress, collect_moments
from resq_onnx.families import ModelLayout
from resq_onnx.projections.moments import SITES, Moments

LOOPBACK: Final = "lo"
"""Linux's network interface that reaches the processes of this machine only."""


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


ALONE: Final = Share(0, 1)


def share_of_this_process() -> Share:
    """The share given by torchrun's environment variables; all work without them."""
    return Share(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def is_main_process() -> bool:
    """Whether this is the process that writes files and talks to the user."""
    return share_of_this_process().rank == 0


def collect_shared_moments(
    model: PreTrainedModel,
    layout: ModelLayout,
    sequences: NDArray[np.int64],
    progress: Progress | None = None,
    batch_size: int = 8,
) -> Moments:
    """Collect moments of all `sequences`, together with the other processes if there are any.

    Every process calls this with the same model and sequences and gets the same result.
    Arguments and errors are those of `collect_moments`; `progress` counts this process's
    sequences.
    """
    share = share_of_this_process()
    if share.size > 1:
        connect()
    moments = collect_moments(model, layout, share.of(sequences), progress, batch_size)
    if share.size > 1:
        add_up(moments)
    return moments


def add_up(moments: Moments) -> None:
    """Replace the moments of every process by their sum over all processes, in place."""
    for site in SITES:
        for layer in getattr(moments, site):  # layer by layer: gloo makes a copy of what it sends
            dist.all_reduce(torch.from_numpy(layer))
    tokens = torch.tensor(moments.tokens)
    dist.all_reduce(tokens)
    moments.tokens = int(tokens)


def add_up_sums(sums: Mapping[str, torch.Tensor]) -> None:
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
        dist.init_process_group("gloo")
        atexit.register(_disconnect)


def _disconnect() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
