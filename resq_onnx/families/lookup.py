"""The family of a config.json, and the entries that describe its language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from resq_onnx.errors import ResqError
from resq_onnx.families.records import FAMILIES, Family

EXPERTS: Final = ("num_experts", "num_local_experts", "n_routed_experts")
"""Entries with the number of experts of a layer, by which a mixture of experts is recognised."""

TIED: Final = "tie_word_embeddings"


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """The family that config.json names.

    Args:
        config: The parsed config.json.
        where: The model's path, for error messages.

    Raises:
        ResqError: The architecture is not supported.
    """
    architectures = config.get("architectures") or ["(none named)"]
    if not isinstance(architectures, list):
        architectures = [architectures]
    names = [str(name) for name in architectures]
    for name in names:
        if name in FAMILIES:
            return FAMILIES[name]
    if any(config.get(name) for name in EXPERTS):
        raise ResqError(
            f"{where}: architecture {', '.join(names)} is a mixture of experts, which is not "
            f"supported; export a dense model, such as Qwen3ForCausalLM"
        )
    raise ResqError(
        f"{where}: architecture {', '.join(names)} is not supported; "
        f"supported: {', '.join(sorted(FAMILIES))}"
    )


def text_config(config: Mapping[str, Any], family: Family) -> dict[str, Any]:
    """The language model's entries of a config.json, with the family's defaults filled in."""
    section = config.get(family.text_section) if family.text_section else None
    if not isinstance(section, Mapping):
        return {**family.defaults, **config}
    # Given at the top level, or by older versions in the section.
    tied = [bool(part[TIED]) for part in (config, section) if part.get(TIED) is not None]
    said = {TIED: any(tied)} if tied else {}
    return {**family.defaults, **config, **section, **said}
