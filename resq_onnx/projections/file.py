"""projections.safetensors: one calibration pass, kept for every export that follows.

It holds the sums of which bases are made, so another rank, seed or method needs no second pass for
them, and the projections of the recipe at hand. If it also holds the second moments of every layer
(float32, upper triangles), then GPTQ needs no second pass either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from resq_onnx.errors import ResqError, blaming
from resq_onnx.families import ModelLayout
from resq_onnx.files import reading, replacing
from resq_onnx.projections.bases import DownTransform, Projections
from resq_onnx.projections.hadamard import KroneckerFactors
from resq_onnx.projections.moments import SITES, SecondMoments, check_shape, checked_site
from resq_onnx.projections.splits import Splits, alike_in_all_layers, splits_from_json
from resq_onnx.projections.stored_moments import PREFIX, StoredMoments, write_tensors
from resq_onnx.projections.sums import BasisSums, sums_of
from resq_onnx.projections.triangles import pack, unpack
from resq_onnx.recipe import BitSplit, Recipe

Array = NDArray[Any]

FORMAT_VERSION: Final = "4"

READABLE_VERSIONS: Final = ("1", "2", "3", "4")
"""Version 1 had one split for all layers, and one pair of rotations before down_proj. Before
version 3 no hidden moment had a norm's gain in it, and files held spectra, which nothing read.
Before version 4 all files held the second moments of every layer, and none the sums."""

FIELDS_OF_PROJECTIONS: Final[tuple[str, ...]] = (
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

FIELDS_OF_TRAINING: Final = ("activation_clip", "activations")
"""Fields that change trained ones besides, with the steps, or else the minutes. Not the text: the
file's was chosen when it was made. Fitted ones serve other clips as well."""


@dataclass(frozen=True)
class Calibration:
    """What a projections file holds.

    Attributes:
        recipe_json: The recipe of the calibration, as `Recipe.to_json` gave it.
        model_hash: Which model was calibrated.
        moments: Those of every layer, read when they are used; None if the file has none.
        sums: Of these; None in files of older versions.
        projections: Those of `recipe_json`.
        has_gains: Whether the hidden moments hold the norms' gains where the layers are rounded
            behind these.
    """

    recipe_json: dict[str, Any]
    model_hash: str
    moments: SecondMoments | None
    sums: BasisSums | None
    projections: Projections
    has_gains: bool = True

    def sums_for(self, layout: ModelLayout) -> BasisSums:
        """The sums, of an older file from its moments.

        Raises:
            ResqError: The moments are another model's.
        """
        if self.sums is None:
            assert self.moments is not None, "older files have moments"
            return sums_of(layout, self.moments)
        return self.sums


def save_calibration(
    path: str | Path,
    recipe: Recipe,
    model_hash: str,
    layout: ModelLayout,
    sums: BasisSums,
    projections: Projections,
    moments: SecondMoments | None = None,
) -> None:
    """Write a projections file; an existing one is replaced only by a complete one.

    Args:
        path: The file.
        recipe: That of the calibration.
        model_hash: Which model was calibrated.
        layout: Its layout.
        sums: Those of the calibration.
        projections: Those of `recipe`.
        moments: The second moments of every layer, if they are to be in it.

    Raises:
        ResqError: The moments are not finite, or the file cannot be written.
    """
    path = Path(path)
    tensors: dict[str, Array] = {
        "sums.hidden": pack(sums.hidden),
        "sums.value": pack(sums.value),
        "sums.key": pack(sums.key),
        "sums.down": sums.down.astype(np.float32),
    }
    tensors |= _projection_tensors(projections)
    metadata = {
        "format_version": FORMAT_VERSION,
        "recipe": json.dumps(recipe.to_json()),
        "model_hash": model_hash,
        "tokens": str(sums.tokens),
        "splits": json.dumps(projections.splits.to_json()),
        "rotates": json.dumps([projections.rotates_keys, projections.rotates_down]),
    }
    try:
        with replacing(path) as temporary:
            write_tensors(temporary, tensors, metadata, layout, moments)
    except OSError as error:
        raise ResqError(f"{path}: cannot be written: {error}") from error


def load_calibration(path: str | Path) -> Calibration:
    """Read a projections file.

    Raises:
        ResqError: The file is missing, truncated, of another kind or version, or
            incomplete.
    """
    again = "make it anew with `resq-onnx calibrate`"
    if not Path(path).exists():
        raise ResqError(f"{path}: no such file; {again}")
    with (
        reading(Path(path)),
        blaming(path, "not a readable projections file", again),
        safe_open(path, framework="numpy") as file,
    ):
        metadata: Mapping[str, str] = file.metadata() or {}
        version = metadata.get("format_version")
        if version not in READABLE_VERSIONS or "recipe" not in metadata:
            raise ResqError(
                f"{path}: format version is {version or 'absent'} and must be {FORMAT_VERSION}; "
                "make the file anew with `resq-onnx calibrate`"
            )
        names = set(file.keys())
        tensors = {name: file.get_tensor(name) for name in names if not name.startswith(PREFIX)}
        tokens, with_sums = int(metadata["tokens"]), version == FORMAT_VERSION
        has_moments = any(name.startswith(PREFIX) for name in names)
        for site in SITES if has_moments or not with_sums else ():
            if f"{PREFIX}{site}" not in names:
                raise KeyError(f"{PREFIX}{site}")
        return Calibration(
            recipe_json=json.loads(metadata["recipe"]),
            model_hash=metadata["model_hash"],
            moments=StoredMoments(Path(path), tokens) if has_moments else None,
            sums=_sums_from(tensors, tokens) if with_sums else None,
            projections=_projections_from(tensors, metadata),
            has_gains=version not in ("1", "2"),
        )


def stored_projections(
    calibration: Calibration, recipe: Recipe, layout: ModelLayout
) -> Projections | None:
    """The projections of a file if they are those that a recipe asks for, else None.

    Raises:
        ResqError: The calibration is another model's, or an older one that no longer serves.
    """
    _check_shapes(calibration, layout)
    if layout.turns_inputs and not calibration.has_gains:
        raise ResqError(
            f"the projections file was made by an older version, whose moments do not serve "
            f"{layout.family.name}; make it anew with `resq-onnx calibrate`"
        )
    return None if differing_fields(calibration, recipe) else calibration.projections


def differing_fields(calibration: Calibration, recipe: Recipe) -> list[str]:
    """Fields in which a recipe asks for other projections than those of a file."""
    asked = recipe.to_json()
    # An older file lacks newer fields, and its rotations are random.
    stored = Recipe().to_json() | {"rotations": "random"} | calibration.recipe_json
    fields = list(FIELDS_OF_PROJECTIONS)
    if recipe.how.training != "optional":
        fields.remove("rotations")  # the method decides
    if recipe.trains:
        duration = "training_minutes" if recipe.training_steps is None else "training_steps"
        fields += [*FIELDS_OF_TRAINING, duration]
    return [field for field in fields if stored[field] != asked[field]]


def _check_shapes(calibration: Calibration, layout: ModelLayout) -> None:
    """Refuse the calibration of another model."""
    sums, layers, head = calibration.sums, layout.num_layers, layout.head_dim
    if sums is not None:
        heads = (layers, layout.num_kv_heads, head, head)
        check_shape("hidden", sums.hidden.shape, (layout.hidden_size, layout.hidden_size))
        check_shape("value", sums.value.shape, heads)
        check_shape("key", sums.key.shape, heads)
        check_shape("down", sums.down.shape, (layers, layout.intermediate_size))
    if calibration.moments is not None:
        for site in SITES:
            checked_site(layout, calibration.moments, layers - 1, site)


def _sums_from(tensors: Mapping[str, Array], tokens: int) -> BasisSums:
    sums = {site: unpack(tensors[f"sums.{site}"]) for site in ("hidden", "value", "key")}
    sums["down"] = tensors["sums.down"]
    return BasisSums(
        **{site: total.astype(np.float64) for site, total in sums.items()}, tokens=tokens
    )


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
