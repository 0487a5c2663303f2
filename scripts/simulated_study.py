"""What the choices that are no options of `export` are worth: docs/quality.md's second table.

    python scripts/fetch_brown.py build/brown
    resq-onnx calibrate MODEL build/p.safetensors --calibration build/brown/calibration.txt
    python -m scripts.simulated_study MODEL build/p.safetensors
    python -m scripts.simulated_study MODEL build/p.safetensors --only sequential

The model runs in PyTorch: weights are rounded by the same GPTQ, activations and cache by what
training simulates them with. Embedding and lm_head stay in float.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from resq_onnx.calibration.corpus import calibration_sequences
from resq_onnx.families import ModelLayout
from resq_onnx.hadamard import random_orthogonal
from resq_onnx.moments import Moments
from resq_onnx.projections import (
    Projections,
    ascending_eigenvectors,
    compute_projections,
    high_last_order,
)
from resq_onnx.projections_file import load_calibration
from resq_onnx.recipe import BitSplit, Recipe
from resq_onnx.reference import Reference
from resq_onnx.source import open_model
from resq_onnx.training.quantisers import Part, fake_quantise, parts_of
from resq_onnx.training.simulation import Parts, bases_of, parts_by_recipe, simulated
from scripts.simulated_weights import Columns, columns_of, fold_gains, quantise_layer

Array = NDArray[Any]

WINDOW: Final = 512
"""Tokens of a window, as `resq-onnx evaluate` takes them."""

DEFAULT: Final = Recipe()


@dataclass(frozen=True)
class Variant:
    """One line of the table: what differs from the default.

    Attributes:
        label: What is printed.
        recipe: Its fractions, bits, clip and seed.
        parts: Changes how activations are rounded.
        projections: Changes the bases.
        hidden_by_layer: Whether each layer has a U_A of its own.
        sequential: Whether a layer's Hessians come from the quantised layers before it.
        searches: Whether weights' scales are searched, or are those of the largest weight.
        two_bits: Share of the residual stream, that of least variance, in 2 bits.
        per_token: Whether what o_proj reads is rounded per token instead of per head.
    """

    label: str
    recipe: Recipe = DEFAULT
    parts: Callable[[Parts], Parts] = lambda parts: parts
    projections: Callable[[Projections], Projections] = lambda projections: projections
    hidden_by_layer: bool = False
    sequential: bool = False
    searches: bool = True
    two_bits: float = 0.0
    per_token: bool = False


def down_in_8_bits(parts: Parts) -> Parts:
    """down_proj's input in 8 bits throughout."""
    down = tuple(tuple(Part(part.width, 8) for part in some) for some in parts.down)
    return dataclasses.replace(parts, down=down)


def one_key_basis(projections: Projections) -> Projections:
    """The first kv head's U_C for all kv heads of a layer."""
    key = np.broadcast_to(projections.key[:, :1], projections.key.shape)
    return dataclasses.replace(projections, key=key)


VARIANTS: Final = {
    "default": Variant("default"),
    "sequential": Variant("GPTQ with sequential Hessians", sequential=True),
    "paper": Variant("`down_high` 0", Recipe(down_high=0.0)),
    "paper-sequential": Variant(
        "`down_high` 0, sequential Hessians", Recipe(down_high=0.0), sequential=True
    ),
    "no-search": Variant("no clip search for weights", searches=False),
    "per-token": Variant("o_proj's input rounded per token, not per head", per_token=True),
    "down-8": Variant("down_proj's input at 8 bits", Recipe(down_high=0.0), parts=down_in_8_bits),
    "key-by-layer": Variant("one U_C for a layer", projections=one_key_basis),
    "hidden-by-layer": Variant("U_A for each layer", hidden_by_layer=True),
    "three": Variant("2/4/8 bits: the least 1/8 of the stream in 2 bits", two_bits=0.125),
    "three-half": Variant("2/4/8 bits: the least 1/4 of the stream in 2 bits", two_bits=0.25),
}


class Study:
    """One model, its calibration, and the text on which variants are compared."""

    def __init__(self, reference: Reference, layout: ModelLayout, moments: Moments) -> None:
        self._model, self._layout, self._moments = reference.model, layout, moments
        fold_gains(self._model, layout)
        self._weights = copy.deepcopy(self._model.state_dict())

    def perplexity(self, variant: Variant | None, text: Array, calibration: Array) -> float:
        """Of the float model, or of a variant of the quantised one, on windows (n, tokens)."""
        self._model.load_state_dict(self._weights)
        if variant is None:
            return _perplexity(self._model, text)
        bases = variant.projections(
            compute_projections(variant.recipe, self._layout, self._moments)
        )
        hidden = self._hidden(variant, bases)
        columns = columns_of(bases, self._layout, variant.two_bits)
        parts = _parts(variant, bases, columns, self._layout)
        tensors = dataclasses.replace(bases_of(bases), hidden=torch.from_numpy(hidden).float())
        rounding = _per_token(self._model, self._layout, variant, bases)
        with rounding, simulated(self._model, self._layout, bases, parts, lambda: tensors):
            runs = _LayerByLayer(self._model, self._layout, calibration, variant.sequential)
            for layer in range(self._layout.num_layers):
                moments = runs.moments(layer, bases) if variant.sequential else self._moments
                own = dataclasses.replace(bases, hidden=hidden[layer])
                quantise_layer(
                    self._model, self._layout, layer, own, moments, columns, variant.searches
                )
                runs.advance(layer)
            return _perplexity(self._model, text)

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


class _CaughtError(Exception):
    """Ends a pass once the first layer's inputs are known."""


class _LayerByLayer:
    """The calibration text on its way through a model, layer by layer as these are quantised."""

    def __init__(self, model: Any, layout: ModelLayout, text: Array, wanted: bool) -> None:
        self._model, self._layout = model, layout
        self._states: list[torch.Tensor] = []
        self._others: list[dict[str, Any]] = []
        if wanted:
            self._catch_inputs(text)

    def _catch_inputs(self, text: Array) -> None:
        def catch(_module: nn.Module, inputs: tuple[torch.Tensor, ...], others: Any) -> None:
            self._states.append(inputs[0])
            self._others.append(others)
            raise _CaughtError

        handle = self._layer(0).register_forward_pre_hook(catch, with_kwargs=True)
        with torch.inference_mode():
            for row in text:
                with suppress(_CaughtError):
                    self._model(input_ids=torch.from_numpy(row[None]), use_cache=False)
        handle.remove()

    def moments(self, layer: int, bases: Projections) -> Moments:
        """Second moments of what one layer reads now, the others' left at zero."""
        moments = Moments.zeros(self._layout)
        with _recording(self._model, self._layout, layer, moments, bases):
            self._run(layer)
        return moments

    def advance(self, layer: int) -> None:
        """Take the states through a layer."""
        self._states = self._run(layer)

    def _run(self, layer: int) -> list[torch.Tensor]:
        results = []
        with torch.inference_mode():
            for state, others in zip(self._states, self._others, strict=True):
                out = self._layer(layer)(state, **others)
                results.append(out[0] if isinstance(out, tuple) else out)
        return results

    def _layer(self, layer: int) -> nn.Module:
        module: nn.Module = self._model.get_submodule(self._layout.family.layer.format(layer))
        return module


@contextmanager
def _recording(
    model: nn.Module, layout: ModelLayout, layer: int, moments: Moments, bases: Projections
) -> Iterator[None]:
    """Sum up what the four linear layers of a layer read, in the original basis."""

    def add(total: Array, turn: Callable[[Array], Array]) -> Callable[..., None]:
        def record(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            rows = turn(inputs[0].flatten(0, -2).numpy().astype(np.float64))
            total[...] += rows.T @ rows

        return record

    def as_it_is(rows: Array) -> Array:
        return rows

    handles = [
        model.get_submodule(layout.module(layer, role)).register_forward_pre_hook(
            add(total[layer], as_it_is)
        )
        for role, total in (
            ("query", moments.hidden_attention),
            ("gate", moments.hidden_mlp),
            ("attention_out", moments.attention_out),
            ("down", moments.down),
        )
    ]
    yield
    for handle in handles:
        handle.remove()


def _parts(variant: Variant, bases: Projections, columns: Columns, layout: ModelLayout) -> Parts:
    clip = variant.recipe.activation_clip
    parts = parts_by_recipe(variant.recipe, bases)
    if variant.two_bits:
        stream = tuple(
            Part(width, bits, clip if bits < 8 else 1.0) for width, bits in columns.hidden
        )
        of_layers = (stream,) * layout.num_layers
        parts = dataclasses.replace(parts, attention=of_layers, mlp=of_layers)
    if variant.per_token:
        parts = dataclasses.replace(parts, attention_out=((),) * layout.num_layers)
    return variant.parts(parts)


@contextmanager
def _per_token(
    model: nn.Module, layout: ModelLayout, variant: Variant, bases: Projections
) -> Iterator[None]:
    """Round what o_proj reads over all heads together, if the variant says so."""

    def hook(layer: int) -> Callable[..., tuple[torch.Tensor]]:
        split, heads = bases.splits.attention_out[layer], layout.num_heads
        order = torch.from_numpy(high_last_order(heads, split))
        whole = BitSplit(split.low * heads, split.high * heads, split.low_bits, split.high_bits)
        parts = parts_of(whole, variant.recipe.activation_clip)

        def read(_module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            rounded = fake_quantise(inputs[0][..., order], parts)
            return (rounded[..., torch.argsort(order)],)

        return read

    handles = [
        model.get_submodule(layout.module(layer, "attention_out")).register_forward_pre_hook(
            hook(layer)
        )
        for layer in range(layout.num_layers if variant.per_token else 0)
    ]
    yield
    for handle in handles:
        handle.remove()


def _perplexity(model: nn.Module, text: Array) -> float:
    total = 0.0
    with torch.inference_mode():
        for row in text:
            ids = torch.from_numpy(row[None])
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            total += float(nn.functional.cross_entropy(logits, ids[0, 1:]))
    return float(np.exp(total / len(text)))


def main() -> None:
    """Print one line a variant as Markdown, as soon as it is known."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("projections", type=Path)
    parser.add_argument("--only", help="names of variants, with commas between them")
    parser.add_argument("--brown", type=Path, default=Path("build/brown"))
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--windows", type=int, default=20)
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(VARIANTS)
    if unknown := set(names) - set(VARIANTS):
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    with open_model(options.model) as source:
        reference = Reference(source)
        moments = load_calibration(options.projections).moments
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
