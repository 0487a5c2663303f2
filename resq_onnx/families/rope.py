"""RoPE settings of a config.json: scaling type, its parameters, and the rotated share of a head."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from resq_onnx.errors import ResqError
from resq_onnx.families.records import Family

YARN: Final = ("attention_factor", "mscale", "mscale_all_dim", "beta_fast", "beta_slow")
"""Numbers that YaRN may have."""

LONGROPE: Final = ("longrope", "su")
"""Names of LongRoPE: today's, and that of the first Phi-3 models."""

ORIGINAL: Final = "original_max_position_embeddings"

WAY_OUT: Final[Mapping[str, str]] = {
    "dynamic": "Within its positions the model is the same without: remove it from config.json",
    "yarn": f"Within {ORIGINAL} a model not trained with it is the same without: remove it from "
    "config.json",
}
"""By what is not supported, what to do; for others, there is none but another model."""

OTHER_MODEL: Final = "Export a model of this family that has one of these"

CORRECT: Final = "take the original model's config.json"
"""Remedy for a missing entry."""

NUMBERS: Final[Mapping[str, tuple[str, ...]]] = {
    "linear": ("factor",),
    "llama3": (
        *("factor", "low_freq_factor", "high_freq_factor"),
        ORIGINAL,
    ),
    "yarn": ("factor", ORIGINAL),
    **dict.fromkeys(LONGROPE, (ORIGINAL,)),
}
"""The parameters, all above 0, from which the table of each `rope_type` is computed."""


def rope_of(config: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """The RoPE section of a config.json.

    Raises:
        ResqError: It is not a JSON object.
    """
    name = rope_entry(config)
    said = config.get(name) or {}
    if not isinstance(said, Mapping):
        raise ResqError(
            f"{where}: config.json says {name} is {said!r}; it must be an object, or null"
        )
    return said


def rope_entry(config: Mapping[str, Any]) -> str:
    """Name of the entry of config.json that holds RoPE's settings."""
    # transformers 5 writes rope_parameters, earlier versions rope_scaling.
    return "rope_parameters" if config.get("rope_parameters") else "rope_scaling"


def rope_type(config: Mapping[str, Any], where: str) -> str:
    """The `rope_type` of a model whose layers have all the same RoPE; "default" for others.

    Raises:
        ResqError: As for `rope_of`.
    """
    rope = rope_of(config, where)
    return str(rope.get("rope_type", rope.get("type", "default")))


def longrope_factors(
    config: Mapping[str, Any], positions: int, where: str
) -> Literal["short", "long"] | None:
    """Which of LongRoPE's two lists of factors a model of some positions takes.

    LongRoPE (Ding et al. 2024) divides RoPE's frequencies by one list of factors in texts of up to
    `original_max_position_embeddings` tokens, and by another in longer ones. transformers chooses
    at each call. A graph has one table, so its number of positions decides.

    Args:
        config: The language model's entries, with the family's defaults filled in.
        positions: Positions of the exported model.
        where: The model's path, for error messages.

    Returns:
        None if the model has another RoPE.

    Raises:
        ResqError: As for `rope_of`.
    """
    if rope_type(config, where) not in LONGROPE:
        return None
    return "long" if positions > original_positions(config, where) else "short"


def original_positions(config: Mapping[str, Any], where: str) -> int:
    """Positions with which a model was trained before YaRN or LongRoPE stretched it.

    Raises:
        ResqError: As for `rope_of`.
    """
    # transformers prefers the entry beside the section, which Phi-3 has.
    return int(config.get(ORIGINAL) or rope_of(config, where)[ORIGINAL])


def check_rope(config: Mapping[str, Any], family: Family, where: str) -> None:
    """Reject RoPE of an unknown type, or without the parameters that its table needs.

    Raises:
        ResqError: The type is unknown, or a parameter is missing.
    """
    for part in _parts(rope_of(config, where)):
        kind = part.get("rope_type", part.get("type", "default"))
        if not isinstance(kind, str) or kind not in family.rope_types:
            raise ResqError(
                f"{where}: config.json says the rope_type is {kind!r}; RoPE scaling {kind!r} is "
                f"not supported for {family.name}; supported: {', '.join(family.rope_types)}. "
                f"{WAY_OUT.get(str(kind), OTHER_MODEL)}"
            )
        said = {**config, **part}
        for name in NUMBERS.get(kind, ()):
            if said.get(name) is None:
                raise ResqError(
                    f"{where}: config.json has no {name}, which the rope_type {kind!r} needs; "
                    f"{CORRECT}"
                )
            _check_number(said[name], name, where)
        for name in ("rope_theta", "rope_local_base_freq"):
            if said.get(name) is not None:
                _check_number(said[name], name, where)


def rope_factor(config: Mapping[str, Any], where: str) -> float:
    """What cosines and sines are multiplied with: YaRN's or LongRoPE's attention factor, else 1.

    YaRN (Peng et al. 2023, section 3.4) sharpens the attention of stretched texts: it divides the
    scores by a temperature, whose square root is put into RoPE. LongRoPE's is √(1 + ln s / ln L),
    for L original positions stretched s times.

    Raises:
        ResqError: A number of it is none.
    """
    rope, kind = rope_of(config, where), rope_type(config, where)
    if kind in LONGROPE:
        return _longrope_factor(config, rope, where)
    if kind != "yarn":
        return 1.0
    said = {name: rope[name] for name in YARN if rope.get(name) is not None}
    for name, value in said.items():
        _check_number(value, name, where)
    if "attention_factor" in said:
        return float(said["attention_factor"])
    if "mscale" in said and "mscale_all_dim" in said:
        return _stretch(rope["factor"], said["mscale"]) / _stretch(
            rope["factor"], said["mscale_all_dim"]
        )
    return _stretch(rope["factor"], 1.0)


def _longrope_factor(config: Mapping[str, Any], rope: Mapping[str, Any], where: str) -> float:
    for name in ("attention_factor", "factor"):
        if rope.get(name) is not None:
            _check_number(rope[name], name, where)
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    original = original_positions(config, where)
    stretch = rope.get("factor") or config["max_position_embeddings"] / original
    return 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(original))


def check_longrope(config: Mapping[str, Any], width: int, where: str) -> None:
    """Reject LongRoPE without its two lists of factors.

    Args:
        config: The language model's entries, with the family's defaults filled in.
        width: Coefficients of a head that RoPE rotates, in pairs with a factor each.
        where: The model's path, for error messages.

    Raises:
        ResqError: A list is missing, or does not have width / 2 numbers above 0.
    """
    if rope_type(config, where) not in LONGROPE:
        return
    for name in ("short_factor", "long_factor"):
        said = rope_of(config, where).get(name)
        if not isinstance(said, list) or len(said) != width // 2:
            raise ResqError(
                f"{where}: config.json says {name} is {said!r:.60}; it must list "
                f"{width // 2} numbers, one for each frequency: {CORRECT}"
            )
        for number in said:
            _check_number(number, name, where)


def _stretch(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def rotary_dim(config: Mapping[str, Any], family: Family, head_dim: int, where: str) -> int | None:
    """Number of coefficients of a head that RoPE rotates, or None for all.

    Raises:
        ResqError: The family rotates all of them, or the number is odd.
    """
    name = "partial_rotary_factor"
    factor = rope_of(config, where).get(name, config.get(name, 1.0))
    if factor is None or factor == 1.0:
        return None
    if not family.partly_rotary:
        raise ResqError(
            f"{where}: config.json says {name} is {factor!r}, which is not supported for "
            f"{family.name}; only models in which it is 1, or left out, can be exported"
        )
    width = int(head_dim * factor) if isinstance(factor, float) and 0 < factor < 1 else 0
    if not 0 < width < head_dim or width % 2:
        raise ResqError(
            f"{where}: config.json says {name} is {factor!r}; of a head of {head_dim} it must "
            f"give an even number of coefficients"
        )
    return width


def _parts(rope: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The entries: a model with several kinds of layers has one for each."""
    parts = [part for part in rope.values() if isinstance(part, Mapping)]
    yield from parts or [rope]


def _check_number(value: Any, name: str, where: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < float("inf"):
        raise ResqError(
            f"{where}: config.json says {name} is {value!r}; it must be a number above 0"
        )
