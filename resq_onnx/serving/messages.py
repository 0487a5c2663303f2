"""Read the messages of a chat, as chat templates take them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from resq_onnx.serving import fields
from resq_onnx.serving.refusals import invalid

ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
"""The name in chat templates of each message role."""


def read_messages(messages: Any) -> tuple[dict[str, Any], ...]:
    """Read the field `messages`.

    Returns:
        Each with "role" and "content"; those of the assistant may have "tool_calls", whose
        arguments are objects; those of tools have "name" and "tool_call_id".

    Raises:
        RefusalError: A message is wrong, or has what is not supported.
    """
    if not isinstance(messages, list) or not messages:
        raise invalid("messages must be a list of at least one message", "messages")
    called: dict[str, str] = {}  # the name of the function of each call
    return tuple(_message(one, f"messages[{i}]", called) for i, one in enumerate(messages))


def _message(message: Any, where: str, called: dict[str, str]) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise invalid(f"{where} must be an object with role and content", where)
    role = message.get("role")
    if not isinstance(role, str) or role not in ROLES:
        raise invalid(
            f"{where}.role is {role!r}; it must be one of {', '.join(ROLES)}", f"{where}.role"
        )
    for name in ("function_call", "audio", "refusal"):
        if message.get(name):
            raise invalid(f"{where}.{name} is not supported by this server", f"{where}.{name}")
    calls = _calls(message, role, where, called)
    content = message.get("content")
    if calls and content is None:
        content = ""
    found = {"role": ROLES[role], "content": _content(content, f"{where}.content")}
    if calls:
        return found | {"tool_calls": calls}
    if role == "tool":
        return found | _answered(message.get("tool_call_id"), where, called)
    return found


def _calls(
    message: Mapping[str, Any], role: str, where: str, called: dict[str, str]
) -> list[dict[str, Any]]:
    calls = message.get("tool_calls") or []
    where = f"{where}.tool_calls"
    if calls and (role != "assistant" or not isinstance(calls, list)):
        raise invalid(f"{where} must be a list, in a message of the assistant", where)
    found = [_call(call, f"{where}[{place}]") for place, call in enumerate(calls)]
    called.update({call["id"]: call["function"]["name"] for call in found})
    return found


def _call(call: Any, where: str) -> dict[str, Any]:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict):
        raise invalid(f"{where} must be an object with id, type 'function' and function", where)
    written = fields.text(function.get("arguments"), f"{where}.function.arguments")
    try:
        arguments = json.loads(written or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise invalid(
            f"{where}.function.arguments must be the JSON text of an object",
            f"{where}.function.arguments",
        )
    name = fields.text(function.get("name"), f"{where}.function.name")
    return {
        "id": fields.text(call.get("id"), f"{where}.id"),
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def _answered(call: Any, where: str, called: Mapping[str, str]) -> dict[str, str]:
    """Which call the result of a tool is for."""
    if not isinstance(call, str) or call not in called:
        raise invalid(
            f"{where}.tool_call_id must be the id of a call in an earlier message",
            f"{where}.tool_call_id",
        )
    return {"tool_call_id": call, "name": called[call]}


def _content(content: Any, where: str) -> str:
    """A message's text: a string, or the text of its parts, concatenated."""
    if not isinstance(content, list):
        return fields.text(content, where)
    found = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text":
            raise invalid(
                f"{where}[{place}] has type {kind!r}; this model reads parts of type 'text' alone",
                f"{where}[{place}]",
            )
        found.append(fields.text(part.get("text"), f"{where}[{place}].text"))
    return "".join(found)
