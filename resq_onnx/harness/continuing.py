"""Where a text goes on, and where it stops: an answer begun by the task, and stop strings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resq_onnx.errors import ResqError
from resq_onnx.runtime import Tokenizer


def until_stopped(pieces: Iterable[str], stops: Sequence[str]) -> str:
    """Join the pieces of a text up to the first stop string, which is left out.

    No more pieces are taken than it needs: they may be tokens that a model has yet to compute.
    An empty stop string stops nothing.
    """
    text = ""
    for piece in pieces:
        text += piece
        found = [text.find(stop) for stop in stops if stop and stop in text]
        if found:
            return text[: min(found)]
    return text


def prefilled_chat(tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]]) -> str:
    """Write messages of which the last is the beginning of an answer, to be continued.

    What a chat template writes after it - the end of the turn - is left out.

    Raises:
        ResqError: The model has no chat template, or it refuses the messages or changes the
            content of the last.
    """
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=False)
    content = str(messages[-1]["content"])
    for shown in (content, content.strip()):  # some templates strip what they are given
        before, found, _ = text.rpartition(shown)
        if found:
            return before + found
    raise ResqError(
        f"{tokenizer.folder}: the chat template does not show the beginning of the answer, "
        f"{content[:60]!r}, as it is; leave out the task's gen_prefix"
    )
