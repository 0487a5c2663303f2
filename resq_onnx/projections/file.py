"""projections.safetensors: one calibration pass, kept for every export that follows.

The second moments are stored whole (float32, upper triangles), so another rank, seed or
method needs no second pass; the projections of the recipe at hand are stored beside them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from resq_onnx.errors import ResqError
from resq_onnx.families import ModelLayout
from resq_onnx.files import replacing
from resq_onnx.projections.bases import (
    DownTransform,
    Projections,
    check_finite,
    check_shapes,
    hidden_moment,
)
from resq_onnx.projections.hadamard import KroneckerFactors
from resq_onnx.projections.moments import SITES, Moments
from resq_onnx.projections.splits import Splits, alike_in_all_layers, splits_from_json
from resq_onnx.recipe import BitSplit, Recipe

Array = NDArray[Any]

FORMAT_VERSION: Final = "3"

READABLE_VERSIONS: Final = ("1", "2", "3")
"""Version 1 had one split for all layers, and one pair of rotations before down_proj. Before
version 3 no hidden moment had a norm's gain in it."""

FIELDS_OF_PROJECTIONS: Final = (
    "method",
    "low_bits",
    "high_bits",
    "high_fraction",
    "down_high",
    "seed",
    "cache",
    "target_bits",
    "rotations",
)
"""Fields of a recipe that change its projections; the others may differ."""

FIELDS_OF_TRAINING: Final = ("training_steps", "activation_clip", "activations")
"""Fields that change trained ones besides. Not the text: the file's was chosen when it was made."""

SPECTRUM_DIGITS: Final = 6


@dataclass(frozen=True)
class Calibration:
    """What a projections file holds.

    Attributes:
        recipe_json: The recipe of the calibration, as `Recipe.to_json` gave it.
        model_hash: Which model was calibrated.
        moments: float32.
        projections: Those of `recipe_json`.
        has_gains: Whether the hidden moments hold the norms' gains where the layers are rounded
            behind these.
        spectra: Per site, what `spectra_of` gave.
    """

    recipe_json: dict[str, Any]
    model_hash: str
    moments: Moments
    projections: Projections
    spectra: dict[str, Any]
    has_gains: bool = True


def save_calibration(
    path: str | Path,
    recipe: Recipe,
    model_hash: str,
    moments: Moments,
    projections: Projections,
) -> None:
    """Write a projections file; an existing one is replaced only by a complete one.

    Raises:
        ResqError: The moments are not finite, or the file cannot be written.
    """
    path = Path(path)
    check_finite(moments)
    tensors = {f"moments.{site}": _pack(getattr(moments, site)) for site in SITES}
    tensors |= _projection_tensors(projections)
    metadata = {
        "format_version": FORMAT_VERSION,
        "recipe": json.dumps(recipe.to_json()),
        "model_hash": model_hash,
        "tokens": str(moments.tokens),
        "splits": json.dumps(projections.splits.to_json()),
        "rotates": json.dumps([projections.rotates_keys, projections.rotates_down]),
        "spectra": json.dumps(spectra_of(moments)),
    }
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata)
    except (OSError, SafetensorError) as error:
        raise ResqError(f"{path}: cannot be written: {error}") from error


def load_calibration(path: str | Path) -> Calibration:
    """Read a projections file.

    Raises:
        ResqError: The file is missing, truncated, of another kind or version, or
            incomplete.
    """
    with _refusals(Path(path)), safe_open(path, framework="numpy") as file:
        metadata: Mapping[str, str] = file.metadata() or {}
        version = metadata.get("format_version")
        if version not in READABLE_VERSIONS or "recipe" not in metadata:
            raise ResqError(
                f"{path}: format version is {version or 'absent'} and must be {FORMAT_VERSION}; "
                "make the file anew with `resq-onnx calibrate`"
            )
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        moments = Moments(
            **{site: _unpack(tensors.pop(f"moments.{site}")) for site in SITES},
            tokens=int(metadata["tokens"]),
        )
        return Calibration(
            recipe_json=json.loads(metadata["recipe"]),
            model_hash=metadata["model_hash"],
            moments=moments,
            projections=_projections_from(tensors, metadata),
            spectra=json.loads(metadata["spectra"]),
            has_gains=version not in ("1", "2"),
        )


def stored_projections(
    calibration: Calibration, recipe: Recipe, layout: ModelLayout
) -> Projections | None:
    """The projections of a file if they are those that a recipe asks for, else None.

    Raises:
        ResqError: The calibration is another model's, or an older one that no longer serves.
    """
    check_shapes(layout, calibration.moments)
    if layout.turns_inputs and not calibration.has_gains:
        raise ResqError(
            f"the projections file was made by an older version, whose moments do not serve "
            f"{layout.family.name}; make it anew with `resq-onnx calibrate`"
        )
    asked = recipe.to_json()
    stored = Recipe().to_json() | calibration.recipe_json  # an older file lacks newer fields
    fields = FIELDS_OF_PROJECTIONS + (FIELDS_OF_TRAINING if recipe.trains else ())
    return calibration.projections if all(stored[f] == asked[f] for f in fields) else None


def spectra_of(moments: Moments) -> dict[str, Any]:
    """How the energy at each site is spread, per token, ascending.

    Returns:
        `hidden`: eigenvalues of the sum over all layers, (D,); `value` and `key`:
        eigenvalues per layer and kv head, (layers, G, d); `down`: the diagonal, since
        channels are what is chosen there, (layers, I).
    """
    tokens = max(moments.tokens, 1)
    down = np.diagonal(moments.down, axis1=1, axis2=2)
    spectra = {
        "hidden": np.linalg.eigvalsh(hidden_moment(moments)),
        "value": np.linalg.eigvalsh(np.asarray(moments.value, np.float64)),
        "key": np.linalg.eigvalsh(np.asarray(moments.key, np.float64)),
        "down": np.sort(down, axis=1),
    }
    return {site: _rounded(values / tokens) for site, values in spectra.items()}


def _rounded(values: Array) -> Any:
    """Nested lists of numbers of a few digits: they are read by people and plots."""
    flat = [float(f"{value:.{SPECTRUM_DIGITS}g}") for value in values.ravel()]
    return np.reshape(flat, values.shape).tolist()


def _pack(matrices: Array) -> NDArray[np.float32]:
    """The upper triangles of symmetric matrices (..., n, n) as (..., n (n + 1) / 2)."""
    matrices = np.asarray(matrices, np.float32)
    return np.ascontiguousarray(matrices[..., _upper(matrices.shape[-1])])


def _unpack(triangles: NDArray[np.float32]) -> NDArray[np.float32]:
    """The inverse of `_pack`; raises ValueError for a length no triangle has."""
    size = (int(np.sqrt(8 * triangles.shape[-1] + 1)) - 1) // 2
    full = np.zeros((*triangles.shape[:-1], size, size), np.float32)
    upper = _upper(size)
    for index in np.ndindex(triangles.shape[:-1]):
        full[index][upper] = triangles[index]
        full[index] += np.triu(full[index], 1).T
    return full


def _upper(size: int) -> NDArray[np.bool_]:
    return np.triu(np.ones((size, size), np.bool_))


def _projection_tensors(projections: Projections) -> dict[str, Array]:
    tensors: dict[str, Array] = {
        "projections.hidden": projections.hidden,
        "projections.value": projections.value,
        "projections.key": projections.key,
        "projections.down_order": np.stack([t.order for t in projections.down]),
        "projections.down_signs": np.stack([t.signs.astype(np.int8) for t in projections.down]),
    }
    for part in ("down_low", "down_high"):
        rotations: Mapping[int, KroneckerFactors] = getattr(projections, part)
        for width, factors in rotations.items():
            tensors[f"projections.{part}.{width}.outer"] = factors.outer
            tensors[f"projections.{part}.{width}.inner"] = factors.inner
    return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}


def _projections_from(tensors: dict[str, Array], metadata: Mapping[str, str]) -> Projections:
    orders = tensors["projections.down_order"]
    splits = _read_splits(json.loads(metadata["splits"]), layers=len(orders))
    rotates_keys, rotates_down = json.loads(metadata["rotates"])
    of_all_layers = metadata["format_version"] == "1"

    def rotations(part: str, widths: set[int]) -> dict[int, KroneckerFactors]:
        found = {}
        for width in widths - {0}:
            name = f"projections.{part}" if of_all_layers else f"projections.{part}.{width}"
            found[width] = KroneckerFactors(tensors[f"{name}.outer"], tensors[f"{name}.inner"])
        return found

    return Projections(
        hidden=tensors["projections.hidden"],
        value=tensors["projections.value"],
        key=tensors["projections.key"],
        down=tuple(
            DownTransform(order, sign.astype(np.float64))
            for order, sign in zip(orders, tensors["projections.down_signs"], strict=True)
        ),
        down_low=rotations("down_low", {split.low for split in splits.down}),
        down_high=rotations("down_high", {split.high for split in splits.down}),
        splits=splits,
        rotates_keys=rotates_keys,
        rotates_down=rotates_down,
    )


def _read_splits(content: Any, layers: int) -> Splits:
    """Splits as this version writes them, or as version 1 did: of the stream, a head and down."""
    if isinstance(content, dict):
        return splits_from_json(content)
    hidden, head, down = (BitSplit(**split) for split in content)
    return alike_in_all_layers(layers, hidden, head, down)


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Name the file in whatever goes wrong while it is read."""
    try:
        yield
    except FileNotFoundError as error:
        raise ResqError(f"{path}: no such file") from error
    except KeyError as error:
        raise ResqError(f"{path}: incomplete: it has no {error.args[0]}") from error
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ResqError(f"{path}: not a readable projections file: {error}") from error
