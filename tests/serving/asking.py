"""Requests through the real `openai` client, with defaults."""

from __future__ import annotations

from typing import Any, Final

import openai

from tests.serving.served import HELLO

PROMPT: Final = "A compound statement"


def chat(client: openai.OpenAI, **options: Any) -> Any:
    """An answer to "hello", unless the options say otherwise."""
    return client.chat.completions.create(model="tiny", **({"messages": HELLO} | options))


def complete(client: openai.OpenAI, **options: Any) -> Any:
    """A continuation of `PROMPT`, unless the options say otherwise."""
    return client.completions.create(model="tiny", **({"prompt": PROMPT} | options))
