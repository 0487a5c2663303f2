"""Read `tools`, `tool_choice` and `parallel_tool_calls`: the functions that a model may call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from resq_onnx.serving import fields
from resq_onnx.serving.refusals import invalid

MAX_TOOLS: Final = 128
NAME: Final = re.compile(r"[a-zA-Z0-9_-]{1,64}")
"""OpenAI's limits."""

NO_PARAMETERS: Final[Mapping[str, Any]] = {
    "type": "object", "properties": {}, "additionalProperties": False,
}  # fmt: skip


@dataclass(frozen=True)
class Tools:
    """The functions of a request.

    Attributes:
        definitions: As chat templates take them: each with "type" and "function".
        forced: Names of the functions of which one must be called; empty if none must.
        several: Whether an answer may hold several calls.
    """

    definitions: tuple[Mapping[str, Any], ...]
    forced: tuple[str, ...] = ()
    several: bool = True

    @property
    def parameters(self) -> dict[str, Mapping[str, Any]]:
        """The JSON schema of each function's arguments, by its name."""
        functions = [one["function"] for one in self.definitions]
        return {one["name"]: one.get("parameters") or NO_PARAMETERS for one in functions}


def read_tools(found: Mapping[str, Any]) -> Tools | None:
    """The tools that the model is told of; None if there are none, or it must not call any.

    Args:
        found: The fields of the request.

    Raises:
        RefusalError: A field is wrong.
    """
    given = found.get("tools", [])
    if not isinstance(given, list) or len(given) > MAX_TOOLS:
        raise invalid(f"tools must be a list of at most {MAX_TOOLS} functions", "tools")
    definitions = tuple(_definition(one, f"tools[{place}]") for place, one in enumerate(given))
    names = [one["function"]["name"] for one in definitions]
    if len(set(names)) < len(names):
        raise invalid("two tools have the same name", "tools")
    several = found.get("parallel_tool_calls") is None or fields.flag(found, "parallel_tool_calls")
    forced = _forced(found.get("tool_choice"), names)
    if forced is None or not definitions:
        return None
    return Tools(definitions, forced, several)


def _definition(tool: Any, where: str) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) else None
    if not isinstance(function, dict) or tool.get("type") != "function":
        raise invalid(f"{where} must be an object with type 'function' and function", where)
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise invalid(
            f"{where}.function.name must have 1 to 64 letters, digits, underscores and hyphens",
            f"{where}.function.name",
        )
    if not isinstance(function.get("parameters") or {}, dict):
        raise invalid(
            f"{where}.function.parameters must be a JSON schema", f"{where}.function.parameters"
        )
    return {"type": "function", "function": function}


def _forced(choice: Any, names: list[str]) -> tuple[str, ...] | None:
    """The functions of which one must be called; None if none may be."""
    if choice is None or choice == "auto":
        return ()
    if choice == "none":
        return None
    if choice == "required":
        if not names:
            raise invalid("tool_choice is 'required', and there are no tools", "tool_choice")
        return tuple(names)
    function = choice.get("function") if isinstance(choice, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if name not in names or choice.get("type") != "function":
        raise invalid(
            "tool_choice must be none, auto, required, or an object with type 'function' and a "
            "function with the name of one of the tools",
            "tool_choice",
        )
    return (name,)
