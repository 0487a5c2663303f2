"""Length of an exported model: the config.json of the same model with other positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from resq_onnx.errors import ResqError, blaming
from resq_onnx.families.layout import ModelLayout, layout_of
from resq_onnx.families.lookup import family_of, text_config
from resq_onnx.families.rope import (
    longrope_factors,
    original_positions,
    rope_entry,
    rope_of,
    rope_type,
)

POSITIONS: Final = "max_position_embeddings"


def with_length(config: Mapping[str, Any], max_length: int | None, where: str) -> dict[str, Any]:
    """The config.json of a model for texts of some length, which is what an export writes.

    1. `max_position_embeddings` is the length, also where a file leaves it to a default.
    2. YaRN's model may have more than config.json says: up to its factor times the original ones.
    3. LongRoPE's factors are those of the length, `longrope_factors`, in shorter texts too; its
       attention factor, which follows from the positions before the change, is written out.

    Args:
        config: The parsed config.json.
        max_length: Tokens of the longest text; None for all that config.json gives, and with
            LongRoPE for all with the short factors.
        where: The model's path, for error messages.

    Returns:
        An equal config.json if nothing changes.

    Raises:
        ResqError: As for `layout_of`, or the model has fewer positions.
    """
    layout, family = layout_of(config, where), family_of(config, where)
    said = text_config(config, family)
    with blaming(f"{where}: config.json", "is not understood", "download it again"):
        usual, most = _positions(said, layout, where)
        if max_length is not None and max_length > most:
            raise ResqError(
                f"{where}: max_length is {max_length}, and the model has {most} positions; give "
                f"--max-length {most} or less"
            )
        length = max_length or usual
        changes: dict[str, Any] = {POSITIONS: length}
        if layout.longrope is not None:
            changes |= _with_factors(said, layout, length, where)
    return _replaced(config, family.text_section, changes)


def _positions(said: Mapping[str, Any], layout: ModelLayout, where: str) -> tuple[int, int]:
    """Positions that a model has unless others are asked for, and the most it can have."""
    given = layout.max_positions
    if layout.longrope is not None:
        return min(given, original_positions(said, where)), given
    if rope_type(said, where) == "yarn":
        stretched = rope_of(said, where)["factor"] * original_positions(said, where)
        return given, max(given, int(stretched))
    return given, given


def _with_factors(
    said: Mapping[str, Any], layout: ModelLayout, length: int, where: str
) -> dict[str, Any]:
    """The changed entry of config.json: LongRoPE's factors for a length."""
    rope = {**rope_of(said, where), "attention_factor": layout.rope_factor}
    if longrope_factors(said, length, where) == "long":
        rope["short_factor"] = rope["long_factor"]
    return {rope_entry(said): rope}


def _replaced(
    config: Mapping[str, Any], section: str | None, changes: dict[str, Any]
) -> dict[str, Any]:
    part = config.get(section) if section else None
    if section and isinstance(part, Mapping):
        changes = {section: {**part, **changes}}
    return {**config, **changes}
