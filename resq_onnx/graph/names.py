"""Names that the parts of this project agree on in an ONNX graph."""

from __future__ import annotations

from typing import Final

DOMAIN: Final = "ai.resq"
"""Domain of every operator of this project."""

VERSION: Final = 1
"""Version of that domain."""

OPSET: Final = 23
"""Opset of the standard operators, in graphs and in the bodies of functions."""

CONTRIB_DOMAIN: Final = "com.microsoft"
"""Domain of the operators that ONNX Runtime has beyond the standard."""

CONTRIB_VERSION: Final = 1
"""Its version."""

MODULE_KEY: Final = "ai.resq.module"
"""Node metadata: full name of the Hugging Face module the node belongs to."""

RECIPE_KEY: Final = "ai.resq.recipe"
"""Model metadata: the recipe the file was made by, as JSON."""

DATA_KEY: Final = "ai.resq.data"
"""Model metadata: name and SHA-256 of the file with the weights, as JSON."""


def cache_names(num_layers: int) -> tuple[list[str], list[str]]:
    """Names of the cache's inputs and outputs, keys and values alternating, layer by layer."""
    parts = [(layer, part) for layer in range(num_layers) for part in ("key", "value")]
    past = [f"past_key_values.{layer}.{part}" for layer, part in parts]
    present = [f"present.{layer}.{part}" for layer, part in parts]
    return past, present
