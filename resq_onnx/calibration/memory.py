"""How much memory and disk an export takes, estimated before it begins.

The numbers are sums of the large arrays that are held at once, for each of the steps; what a
recipe's details add is small beside them. The finished file is checked where it is mapped to
memory: its pages are in a process's resident memory, but the system takes them back where others
need it.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Final

import torch

from resq_onnx.calibration.layer_pass import BATCH
from resq_onnx.calibration.layered import HEAD_BYTES, LOGITS_BYTES
from resq_onnx.calibration.rows import bytes_of_rows
from resq_onnx.calibration.writing import CannotWriteError
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.projections.moments import layer_shapes
from resq_onnx.projections.splits import weight_counts
from resq_onnx.resources import available_bytes, resident_bytes

PROCESS_BYTES: Final = 750_000_000
"""Python with PyTorch, transformers and ONNX Runtime, before they do anything."""

AVAILABLE_SHARE: Final = 0.5
"""Share of the machine's free memory that the model may take, without `--max-memory`."""

BUFFERS: Final = 4
"""Arrays as large as the input of down_proj that the layers' code holds at once: gate, up, their
product, and the one that an operator is writing."""

FITTED_COPIES: Final = 12
"""Matrices as large as U_A, in float32, that are held while it is fitted: with its gradient, its
Cayley transform, and what is solved for that."""


def steps_of(
    layout: ModelLayout, sequence_length: int, batch: int, *, fits: bool = False
) -> dict[str, int]:
    """Bytes that each large step takes, with the process itself.

    Args:
        layout: Of the model.
        sequence_length: Tokens of a calibration sequence.
        batch: Sequences that are run at a time.
        fits: Whether rotations are fitted.
    """
    shapes = {site: math.prod(shape) for site, shape in layer_shapes(layout).items()}
    counts = weight_counts(layout)
    weights = sum(counts.values())
    tokens = sequence_length * batch
    activations = 4 * tokens * (BUFFERS * layout.intermediate_size + 4 * layout.hidden_size)
    hessian = max(shapes.values())
    steps = {
        "calibrating a layer": 4 * weights + 8 * sum(shapes.values()) + activations,
        "checking a layer": 2 * 4 * weights,  # ONNX Runtime packs a copy of each matrix
        "quantising a matrix": 4 * max(counts.values()) + (8 + 4) * hessian,
        "computing logits": HEAD_BYTES + 3 * LOGITS_BYTES,
    }
    if fits:
        matrices = FITTED_COPIES * 4 * layout.hidden_size**2
        steps["fitting the rotations (--method resq --rotations random omits it)"] = (
            bytes_of_rows(layout) + matrices
        )
    return {name: PROCESS_BYTES + size for name, size in steps.items()}


def batch_within(
    layout: ModelLayout, sequence_length: int, most: int | None, *, fits: bool = False
) -> int:
    """The largest number of calibration sequences at a time, up to `BATCH`, for so much memory.

    Args:
        layout: Of the model.
        sequence_length: Tokens of a calibration sequence.
        most: Bytes that may be taken; None for no limit.
        fits: Whether rotations are fitted.

    Raises:
        ResqError: It cannot be done with so little; says how much is needed, and for what.
    """
    if most is None:
        return BATCH
    for batch in range(BATCH, 0, -1):
        if max(steps_of(layout, sequence_length, batch, fits=fits).values()) <= most:
            return batch
    steps = steps_of(layout, sequence_length, 1, fits=fits)
    name, size = max(steps.items(), key=lambda step: step[1])
    raise ResqError(
        f"{name} of this model takes about {size / 1e9:.1f} GB, and --max-memory allows "
        f"{most / 1e9:.1f}; use --max-memory {size / 1e9 + 0.1:.1f}GB or more"
    )


def fitting_type(
    source: ModelSource, shape: tuple[int, int], device: str, max_memory: int | None
) -> torch.dtype:
    """The type in which the whole model fits into memory: float32, or its file's 16-bit type.

    Args:
        source: The model.
        shape: Rows that are written at a time, and tokens of each.
        device: Where it computes.
        max_memory: Bytes of main memory that this process may take; None for no limit.

    Raises:
        CannotWriteError: It fits in neither.
    """
    layout = source.layout
    stored = {tensor.dtype.name for tensor in source.weights if len(tensor.shape) > 1}
    types = {"FLOAT16": torch.float16, "BFLOAT16": torch.bfloat16}
    others = [types[name] for name in stored & types.keys()] if len(stored) == 1 else []
    cached = 2 * layout.num_layers * layout.num_kv_heads * layout.head_dim * math.prod(shape)
    logits = 4 * 4 * shape[0] * layout.vocab_size
    room = room_for(device, max_memory)
    for dtype in (torch.float32, *others):
        needed = dtype.itemsize * (source.float32_bytes // 4 + cached) + logits
        if room is None or needed <= room:
            return dtype
    raise CannotWriteError(
        f"the whole model takes {needed / 1e9:.1f} GB, and {max(room or 0, 0) / 1e9:.1f} may be "
        "taken"
    )


def room_for(device: str, max_memory: int | None) -> int | None:
    """Bytes that a model may take; None if nothing says it."""
    if device != "cpu":
        return int(AVAILABLE_SHARE * torch.cuda.mem_get_info(device)[0])
    if max_memory is not None:
        return max_memory - (resident_bytes() or 0)
    free = available_bytes()
    return None if free is None else int(AVAILABLE_SHARE * free)


def check_room(folder: Path, needed: int, what: str = "calibrating") -> None:
    """Refuse a work folder on whose disk there is not enough room.

    Args:
        folder: It exists.
        needed: Bytes that will be written there.
        what: Is done with the model, for the message.

    Raises:
        ResqError: Fewer are free; says how many are needed.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise ResqError(
            f"{folder}: {what} this model takes {needed / 1e9:.1f} GB of disk there, and "
            f"{free / 1e9:.1f} are free; make room, or use --work DIR on another disk"
        )
