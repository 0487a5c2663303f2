"""Measure design choices that are not options of `export`, for a table of docs/quality.md.

    python scripts/fetch_brown.py build/brown
    resq-onnx calibrate MODEL build/p.safetensors --calibration build/brown/calibration.txt
    python -m scripts.simulated_study MODEL build/p.safetensors
    python -m scripts.simulated_study MODEL build/p.safetensors --only sequential

The model runs in PyTorch: weights are rounded by the same GPTQ, activations and cache by the
simulation that training uses. Embedding and lm_head stay in float.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from resq_onnx.calibration.corpus import calibration_sequences
from resq_onnx.calibration.reference import Reference
from resq_onnx.calibration.training.simulation import bases_of, simulated
from resq_onnx.checkpoint.source import open_model
from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.projections.bases import (
    Projections,
    ascending_eigenvectors,
    compute_projections,
)
from resq_onnx.projections.file import load_calibration
from resq_onnx.projections.hadamard import random_orthogonal
from resq_onnx.projections.moments import SITES, Moments
from resq_onnx.recipe import Recipe
from scripts.sequential_hessians import LayerByLayer
from scripts.simulated_variants import VARIANTS, Variant, parts_of_variant, rounded_per_token
from scripts.simulated_weights import Columns, columns_of, fold_gains, quantise_layer

Array = NDArray[Any]

WINDOW: Final = 512
"""Tokens per window, as in `resq-onnx evaluate`."""

DEFAULT: Final = Recipe()


class Study:
    """One model, its calibration, and the text on which variants are compared."""

    def __init__(self, reference: Reference, layout: ModelLayout, moments: Moments) -> None:
        self._model, self._layout, self._moments = reference.model, layout, moments
        fold_gains(self._model, layout)
        self._weights = copy.deepcopy(self._model.state_dict())
        self._rounded: tuple[Any, dict[str, torch.Tensor]] | None = None

    def perplexity(self, variant: Variant | None, text: Array, calibration: Array) -> float:
        """Perplexity of the float model, or of a quantised variant, on windows (n, tokens)."""
        self._model.load_state_dict(self._weights)
        if variant is None:
            return _perplexity(self._model, text)
        bases = variant.projections(
            compute_projections(variant.recipe, self._layout, self._moments)
        )
        hidden = self._hidden(variant, bases)
        columns = columns_of(bases, self._layout, variant.two_bits)
        parts = parts_of_variant(variant, bases, columns, self._layout)
        tensors = dataclasses.replace(bases_of(bases), hidden=torch.tensor(hidden).float())
        rounding = rounded_per_token(self._model, self._layout, variant, bases)
        with rounding, simulated(self._model, self._layout, bases, parts, lambda: tensors):
            self._quantise(variant, bases, hidden, columns, calibration)
            return _perplexity(self._model, text)

    def _quantise(
        self,
        variant: Variant,
        bases: Projections,
        hidden: Array,
        columns: Columns,
        calibration: Array,
    ) -> None:
        """Round all weights in place, or reuse those of the previous variant if they are equal."""
        key = variant.what_weights_depend_on()
        if self._rounded is not None and self._rounded[0] == key:
            self._model.load_state_dict(self._rounded[1])
            return
        runs = LayerByLayer(self._model, self._layout, calibration, variant.sequential)
        for layer in range(self._layout.num_layers):
            moments = runs.moments(layer) if variant.sequential else self._moments
            own = dataclasses.replace(bases, hidden=hidden[layer])
            quantise_layer(
                self._model, self._layout, layer, own, moments, columns, variant.searches
            )
            runs.advance(layer)
        self._rounded = key, copy.deepcopy(self._model.state_dict())

    def _hidden(self, variant: Variant, bases: Projections) -> Array:
        layers = self._layout.num_layers
        if not variant.hidden_by_layer:
            return np.broadcast_to(bases.hidden, (layers, *bases.hidden.shape))
        edges, rng = bases.splits.hidden_edges(), np.random.default_rng(variant.recipe.seed)
        own = []
        for layer in range(layers):
            moment = self._moments.hidden_attention[layer] + self._moments.hidden_mlp[layer]
            blocks = np.split(ascending_eigenvectors(moment), edges, axis=1)
            turned = [block @ random_orthogonal(block.shape[1], rng) for block in blocks]
            own.append(np.concatenate(turned, axis=1))
        return np.stack(own)


def _perplexity(model: Any, text: Array) -> float:
    with torch.inference_mode():
        rows = [torch.from_numpy(row[None]) for row in text]
        losses = [float(model(input_ids=row, labels=row, use_cache=False).loss) for row in rows]
    return float(np.exp(np.mean(losses)))


def whole_moments(layout: ModelLayout, projections: Path) -> Moments:
    """The second moments of all layers in a projections file."""
    stored, moments = load_calibration(projections).moments, Moments.zeros(layout)
    if stored is None:
        raise ResqError(f"{projections}: no second moments; make it by calibrate --hessians")
    for layer in range(layout.num_layers):
        for site in SITES:
            getattr(moments, site)[layer] = stored.site(layer, site)
    moments.tokens = stored.tokens
    return moments


def main() -> None:
    """Print one line per variant as Markdown, as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("projections", type=Path)
    parser.add_argument("--only", help="comma-separated names of variants")
    parser.add_argument("--brown", type=Path, default=Path("build/brown"))
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--windows", type=int, default=20)
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(VARIANTS)
    if unknown := set(names) - set(VARIANTS):
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    with open_model(options.model) as source:
        reference = Reference(source)
        moments = whole_moments(source.layout, options.projections)
        calibration = calibration_sequences(
            reference.tokenizer,
            str(options.brown / "calibration.txt"),
            options.samples,
            WINDOW,
            seed=0,
        )
        ids = reference.encode((options.brown / "held-out.txt").read_text(encoding="utf-8"))
        text = ids[: options.windows * WINDOW].reshape(-1, WINDOW)
        study = Study(reference, source.layout, moments)
        baseline = study.perplexity(None, text, calibration)
        print(f"| variant | perplexity | ÷ float |\n|---|---|---|\n| float | {baseline:.3f} | 1 |")
        for name in names:
            value = study.perplexity(VARIANTS[name], text, calibration)
            line = f"| {VARIANTS[name].label} | {value:.3f} | {value / baseline:.4f} |"
            print(line, flush=True)


if __name__ == "__main__":
    main()
