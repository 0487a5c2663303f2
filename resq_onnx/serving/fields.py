"""Validate the fields of a JSON request: the value, its default, or an error that names it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from resq_onnx.errors import reason
from resq_onnx.serving.refusals import invalid


def parse_object(body: bytes) -> dict[str, Any]:
    """Read a request's body.

    A field that is null counts as omitted, as in OpenAI's API.

    Raises:
        RefusalError: It is not a JSON object, or contains invalid Unicode.
    """
    try:
        text = body.decode().removeprefix("\ufeff")
        found = json.loads(text, parse_constant=_refuse_constant)
        # An escape such as \ud800 is a lone surrogate, which cannot be encoded.
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise invalid(f"the body cannot be read as JSON: {reason(error)}") from None
    if not isinstance(found, dict):
        raise invalid("the body must be a JSON object")
    return {name: value for name, value in found.items() if value is not None}


def whole_number(
    fields: Mapping[str, Any], name: str, low: int, high: int, default: int | None = None
) -> int | None:
    """An integer from low to high."""
    value = fields.get(name, default)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise invalid(f"{name} must be a whole number from {low} to {high}", name)
    return value


def number(fields: Mapping[str, Any], name: str, low: float, high: float, default: float) -> float:
    """A number from low to high."""
    value = fields.get(name, default)
    if not _is_number(value, low, high):
        raise invalid(f"{name} must be a number from {low:g} to {high:g}", name)
    return float(value)


def flag(fields: Mapping[str, Any], name: str, where: str = "") -> bool:
    """True or false; false if omitted."""
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(f"{where}{name} must be true or false", f"{where}{name}")
    return bool(value)


def text(value: Any, where: str) -> str:
    """A string."""
    if not isinstance(value, str):
        raise invalid(f"{where} must be a string", where)
    return value


def texts(fields: Mapping[str, Any], name: str, most: int, longest: int) -> tuple[str, ...]:
    """A string or a list of strings, none of them empty; empty if omitted."""
    value = fields.get(name, [])
    found = [value] if isinstance(value, str) else value
    if (
        not isinstance(found, list)
        or len(found) > most
        or not all(isinstance(one, str) and 0 < len(one) <= longest for one in found)
    ):
        raise invalid(
            f"{name} must be a string or a list of at most {most} strings, each of 1 to {longest} "
            f"characters",
            name,
        )
    return tuple(found)


def biases(fields: Mapping[str, Any], name: str, largest: float, most: int) -> dict[int, float]:
    """Numbers from -largest to largest by token id, which JSON writes as a string."""
    value = fields.get(name, {})
    if (
        not isinstance(value, dict)
        or len(value) > most
        or not all(token.isascii() and token.isdecimal() and len(token) < 19 for token in value)
        or not all(_is_number(bias, -largest, largest) for bias in value.values())
    ):
        raise invalid(
            f"{name} must be an object of at most {most} token ids, each with a number from "
            f"{-largest:g} to {largest:g}",
            name,
        )
    return {int(token): float(bias) for token, bias in value.items()}


def same(value: Any, allowed: Sequence[Any]) -> bool:
    """Whether a value is one of those allowed; true equals 1 in Python, but not in JSON."""
    kind = isinstance(value, bool)
    return any(value == one and isinstance(one, bool) == kind for one in allowed)


def _is_number(value: Any, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
