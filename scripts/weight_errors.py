"""Print how GPTQ's settings round weights for other texts than the calibration's.

    resq-onnx calibrate MODEL build/calibration.safetensors --hessians
    resq-onnx calibrate MODEL build/prose.safetensors --hessians --calibration HELD_OUT.txt
    python -m scripts.weight_errors MODEL build/calibration.safetensors build/prose.safetensors

Weights are rounded with the second moments of the first file. Their errors are measured with those
of each file: tr(E H Eᵀ), the squared error of the layer's outputs, relative to the first row of the
table, as a geometric mean over the layers. A table of docs/quality.md. For families whose norms'
gains are folded into the weights and whose projections are separate, such as Llama.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from resq_onnx.checkpoint.source import ModelSource, open_model
from resq_onnx.projections import Projections
from resq_onnx.projections.file import load_calibration
from resq_onnx.projections.hessians import down_hessian, hidden_hessian
from resq_onnx.projections.moments import SecondMoments
from resq_onnx.recipe import BitSplit
from resq_onnx.weights.gptq import gptq_in_parts

Matrix = NDArray[np.float64]

SETTINGS: Final = ((0.01, 0), (0.1, 0), (0.01, 3), (0.05, 2), (0.1, 1), (0.1, 3), (0.3, 3))
"""Damping, relative to the mean of the Hessian's diagonal, and sweeps of coordinate descent."""


@dataclass(frozen=True)
class Site:
    """Weights (N, K) that read the same input, in the basis in which it is rounded.

    Attributes:
        name: In the table.
        weight: Its columns' low part first.
        moments: Their second moments by each file, (K, K).
        split: Of its columns.
    """

    name: str
    weight: Matrix
    moments: list[Matrix]
    split: BitSplit

    def errors(self, damping: float, sweeps: int) -> NDArray[np.float64]:
        """The errors by each file's moments, with the weights rounded by those of the first."""
        hessian = torch.from_numpy(self.moments[0].copy())
        parts = ((self.split.low, self.split.low_bits), (self.split.high, self.split.high_bits))
        rounded = gptq_in_parts(self.weight, hessian, parts, sweeps=sweeps, dampings=(damping,))
        values = [integers * scale.astype(np.float64)[:, None] for integers, scale in rounded]
        error = self.weight - np.concatenate(values, axis=1)
        return np.array([np.sum(error @ moment * error) for moment in self.moments])


def sites_of(
    source: ModelSource, bases: Projections, files: list[SecondMoments], layer: int
) -> Iterator[Site]:
    """What a layer's q/k/v, gate/up and down_proj read."""
    layout = source.layout

    def weight(*roles: str) -> Matrix:
        names = [f"{layout.module(layer, role)}.weight" for role in roles]
        return np.concatenate([source.weights[name].float32() for name in names]).astype(float)

    def moments(site: str, turn: Any) -> list[Matrix]:
        found = (torch.tensor(file.site(layer, site)).double() for file in files)
        return [np.asarray(turn(moment).numpy()) for moment in found]

    for name, norm, roles, site, split in (
        ("q/k/v", "attention_norm", ("query", "key", "value"), "hidden_attention", "attention"),
        ("gate/up", "mlp_norm", ("gate", "up"), "hidden_mlp", "mlp"),
    ):
        folded = weight(*roles) * weight(norm) @ bases.hidden
        turned = moments(site, lambda moment: hidden_hessian(bases, moment))
        yield Site(name, folded, turned, getattr(bases.splits, split)[layer])
    turned = moments("down", lambda moment: down_hessian(bases, layer, moment))
    rows = bases.apply_down(layer, weight("down"))
    yield Site("down", rows, turned, bases.splits.down[layer])


def read(path: Path) -> tuple[Projections, SecondMoments]:
    """What a projections file holds.

    Raises:
        SystemExit: It has no second moments.
    """
    file = load_calibration(path)
    if file.moments is None:
        raise SystemExit(f"{path}: no second moments; make it by resq-onnx calibrate --hessians")
    return file.projections, file.moments


def table(model: Path, paths: list[Path], layers: list[int]) -> Iterator[str]:
    """Lines of the table.

    Raises:
        SystemExit: As for `read`.
    """
    (bases, *_), files = zip(*map(read, paths), strict=True)
    found: dict[str, list[NDArray[np.float64]]] = {}
    with open_model(model) as source:
        for layer in layers:
            for site in sites_of(source, bases, list(files), layer):
                errors = np.array([site.errors(*setting) for setting in SETTINGS])
                found.setdefault(site.name, []).append(np.log(errors / errors[0]))
    heads = [f"{name}, {path.stem}" for name in found for path in paths]
    yield f"| damping | sweeps | {' | '.join(heads)} |"
    yield "|---" * (2 + len(heads)) + "|"
    for number, (damping, sweeps) in enumerate(SETTINGS):
        ratios = np.concatenate([np.exp(np.mean(logs, axis=0)[number]) for logs in found.values()])
        cells = " | ".join(f"{ratio:.3f}" for ratio in ratios)
        yield f"| {damping:g} | {sweeps} | {cells} |"


def main() -> None:
    """Read the files, round, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("files", type=Path, nargs="+", help="the calibration's first")
    parser.add_argument("--layers", default="4,14,24", help="comma-separated")
    options = parser.parse_args()
    layers = [int(layer) for layer in options.layers.split(",")]
    print(*table(options.model, options.files, layers), sep="\n")


if __name__ == "__main__":
    main()
