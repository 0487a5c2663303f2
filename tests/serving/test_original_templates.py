"""The chat templates that Qwen, Llama and Mistral publish: what they write is what we read.

They are not part of this repository. `RESQ_CHAT_TEMPLATES` names a folder with such files, by the
names that llama.cpp gives them: `models/templates` in its sources, which are in the source archive
of llama-cpp-python on PyPI.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

import pytest

from resq_onnx.runtime.chat import render_chat
from resq_onnx.serving.tool_calls import HERMES, LLAMA, MISTRAL, CallFormat, format_of
from tests.serving.test_tool_calls import read

FOLDER: Final = os.environ.get("RESQ_CHAT_TEMPLATES")

pytestmark = pytest.mark.skipif(FOLDER is None, reason="RESQ_CHAT_TEMPLATES names no folder")

FORMATS: Final[dict[str, CallFormat | None]] = {
    "Qwen-Qwen2.5-7B-Instruct": HERMES,
    "Qwen-Qwen3-0.6B": HERMES,
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": HERMES,
    "meta-llama-Llama-3.1-8B-Instruct": LLAMA,
    "meta-llama-Llama-3.2-3B-Instruct": LLAMA,
    "meta-llama-Llama-3.3-70B-Instruct": LLAMA,
    "mistralai-Mistral-Nemo-Instruct-2407": MISTRAL,
    "Mistral-Small-3.2-24B-Instruct-2506": None,
    "Qwen3-Coder": None,
}
"""The last two write calls in other forms."""

TOOL: Final[dict[str, Any]] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "The city."}},
            "required": ["city"],
        },
    },
}
QUESTION: Final[dict[str, Any]] = {"role": "user", "content": "And in Rome?"}
ARGUMENTS: Final = {"city": "Rome", "days": [1, {"a": "}"}]}
CALLING: Final[dict[str, Any]] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "id": "abcdefghi",
            "type": "function",
            "function": {"name": "weather", "arguments": ARGUMENTS},
        }
    ],
}
RESULT: Final = {"role": "tool", "content": "sun", "tool_call_id": "abcdefghi", "name": "weather"}


def rendered(name: str, messages: list[dict[str, Any]], opens: bool) -> str:
    assert FOLDER is not None
    template = (Path(FOLDER) / f"{name}.jinja").read_text()
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    return render_chat(template, messages, opens, tokens, where=name, tools=[TOOL])


@pytest.mark.parametrize(("name", "form"), FORMATS.items(), ids=FORMATS)
def test_the_format_of_calls_is_known_by_the_template(name: str, form: CallFormat | None) -> None:
    assert FOLDER is not None
    assert format_of((Path(FOLDER) / f"{name}.jinja").read_text()) is form


@pytest.mark.parametrize("step", [1, 1000])
@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form is not None])
def test_a_call_that_the_template_writes_is_read(name: str, step: int) -> None:
    form = FORMATS[name]
    assert form is not None
    asked = rendered(name, [QUESTION], True)
    assert "Tell the weather." in asked
    whole = rendered(name, [QUESTION, CALLING], False)
    assert whole.startswith(asked)
    answer = whole[len(asked) :]
    for end in ("<|im_end|>", "<|eot_id|>", "</s>"):
        answer = answer.partition(end)[0]
    said, calls = read(form, answer, step)
    assert said.strip() in ("", "<think>\n\n</think>")
    assert [call.name for call in calls] == ["weather"]
    assert [json.loads(call.arguments) for call in calls] == [ARGUMENTS]


@pytest.mark.parametrize("name", [name for name, form in FORMATS.items() if form is not None])
def test_results_of_calls_are_part_of_the_prompt(name: str) -> None:
    text = rendered(name, [QUESTION, CALLING, RESULT], True)
    assert text.rindex("sun") > text.rindex("Rome")
