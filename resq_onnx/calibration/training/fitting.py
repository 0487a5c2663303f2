"""Fit the rotations inside the parts of bases to rows of what is rounded in them.

A row is rounded with a step that is proportional to its range, the difference between its largest
and its smallest coefficient; its expected squared error is a twelfth of the squared step for each
coefficient, and what clipping cuts off. PCA fixes which directions are in a part, and any rotation
inside it leaves them there. Gradient descent finds rotations with smaller errors than random ones
have. It needs no pass through the model: a start for training, at a fraction of its cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Final

import numpy as np
import torch

from resq_onnx.calibration.rows import Samples
from resq_onnx.calibration.training.quantisers import Part
from resq_onnx.calibration.training.stiefel import cayley, skew_part
from resq_onnx.calibration.training.turned import Turned, TurnedBases
from resq_onnx.projections.linalg import one_thread

STEPS: Final = 200
"""Steps of gradient descent."""

BATCH: Final = 4096
"""Rows of a step, of all matrices together."""

LEAST: Final = 64
"""Rows of a step for each matrix, however many there are."""

FIRST_ANGLE: Final = 0.1
"""By how much a vector turns in the first step, in radians; it falls linearly to 0."""

NARROW: Final = 1024
"""Rows up to this width are fitted by one thread: on a busy machine a step of two took 0.6 seconds,
and one of a single thread 0.1."""

Advance = Callable[[int, int], None]


def fit(turned: TurnedBases, samples: Samples, seed: int, advance: Advance) -> None:
    """Turn bases, so that the rows of a sample are rounded with small errors.

    Args:
        turned: The bases; their rotations are set.
        samples: What is rounded in them.
        seed: Chooses the rows of each step.
        advance: Called with the number of finished steps and of all.
    """
    jobs = [([one], samples.hidden[None]) for one in turned.hidden]
    for some, rows in ((turned.values, samples.value), (turned.keys, samples.key)):
        for edges in sorted({tuple(one.edges) for one in some}):
            layers = [i for i, one in enumerate(some) if tuple(one.edges) == edges]
            of_layers = rows if len(layers) == len(rows) else rows[layers]  # a copy
            jobs.append(([some[i] for i in layers], of_layers))
    rng = np.random.default_rng(seed)
    for number, (bases, rows) in enumerate(jobs):
        with one_thread() if rows.shape[-1] <= NARROW else nullcontext():
            for step in range(STEPS):
                _step(bases, rows, FIRST_ANGLE * (1 - step / STEPS), rng)
                advance(number * STEPS + step + 1, len(jobs) * STEPS)


def _step(
    bases: Sequence[Turned],
    rows: torch.Tensor,
    angle: float,
    rng: np.random.Generator,
) -> None:
    """Turn bases that are cut alike; rows (bases, ..., tokens, n), on any device."""
    at_once = min(max(LEAST, BATCH // rows[..., 0, 0].numel()), rows.shape[-2])
    chosen = torch.from_numpy(np.sort(rng.choice(rows.shape[-2], at_once, replace=False)))
    start = torch.stack([one.basis().detach() for one in bases])
    y = rows[..., chosen.to(rows.device), :].to(start.device, torch.float32) @ start
    parts = bases[0].parts
    for place, block in enumerate(y.split([part.width for part in parts], dim=-1)):
        gradient = _gradient(block, parts[place])
        skew = skew_part(block.mT @ gradient)
        norm = torch.linalg.matrix_norm(skew, keepdim=True).clamp(min=1e-30)
        turns = cayley(-angle * skew.shape[-1] ** 0.5 / norm * skew)
        with torch.no_grad():
            for one, turn in zip(bases, turns, strict=True):
                one.rotations[place].copy_(one.rotations[place] @ turn)


def expected_error(y: torch.Tensor, part: Part) -> torch.Tensor:
    """The expected squared errors of rows (..., width) of a part, summed."""
    least = part.clip * y.amin(-1, keepdim=True).clamp(max=0)
    greatest = part.clip * y.amax(-1, keepdim=True).clamp(min=0)
    step = (greatest - least) / part.levels
    cut = (y - greatest).clamp(min=0).square() + (least - y).clamp(min=0).square()
    return part.width / 12 * step.square().sum() + cut.sum()


def _gradient(y: torch.Tensor, part: Part) -> torch.Tensor:
    y = y.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(expected_error(y, part), y)
    return gradient
