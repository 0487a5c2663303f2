"""Read `response_format`: the JSON schema that an answer has to follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from resq_onnx.serving import fields
from resq_onnx.serving.refusals import invalid

KINDS: Final = ("text", "json_object", "json_schema")
ANY_OBJECT: Final[Mapping[str, Any]] = {"type": "object"}


def read_response_format(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The schema; None for any text.

    A schema is followed whether it is `strict` or not. What is wrong with the schema itself is
    found when it is compiled.

    Args:
        found: The fields of the request.

    Raises:
        RefusalError: The field is none of OpenAI's forms.
    """
    wanted = found.get("response_format")
    if wanted is None:
        return None
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind not in KINDS:
        raise invalid(
            f"response_format must be an object with type {', '.join(KINDS[:-1])} or {KINDS[-1]}",
            "response_format",
        )
    if kind != "json_schema":
        return ANY_OBJECT if kind == "json_object" else None
    described = wanted.get("json_schema")
    where = "response_format.json_schema"
    if not isinstance(described, dict) or not isinstance(described.get("schema"), dict):
        raise invalid(f"{where} must be an object with name and schema, an object", where)
    fields.flag(described, "strict", f"{where}.")
    schema: Mapping[str, Any] = described["schema"]
    return schema
