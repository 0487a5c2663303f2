"""Names shared by all modules that read or write ONNX graphs."""

from __future__ import annotations

from typing import Final

DOMAIN: Final = "ai.resq"
"""Domain of every operator of this project."""

VERSION: Final = 1
"""Version of that domain."""

OPSET: Final = 23
"""Opset of the standard operators, in graphs and in the bodies of functions."""

CONTRIB_DOMAIN: Final = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""

CONTRIB_VERSION: Final = 1
"""Version of that domain."""

MODULE_KEY: Final = "ai.resq.module"
"""Node metadata: full name of the Hugging Face module of the node."""

RECIPE_KEY: Final = "ai.resq.recipe"
"""Model metadata: the recipe of the export, as JSON."""

DATA_KEY: Final = "ai.resq.data"
"""Model metadata: name and SHA-256 of the file with the weights, as JSON."""


def cache_names(num_layers: int) -> tuple[list[str], list[str]]:
    """Names of the cache's inputs and outputs, keys and values alternating, layer by layer."""
    parts = [(layer, part) for layer in range(num_layers) for part in ("key", "value")]
    past = [f"past_key_values.{layer}.{part}" for layer, part in parts]
    present = [f"present.{layer}.{part}" for layer, part in parts]
    return past, present
