"""Scores of tokens in the JSON of OpenAI's two endpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from resq_onnx.serving.scoring import Alternative, ScoredToken


def chat_logprobs(scores: Sequence[ScoredToken]) -> dict[str, Any] | None:
    """Field `logprobs` of a chat's choice; None without scores."""
    if not scores:
        return None
    content = [
        _named(score.token, score.log_probability)
        | {"top_logprobs": [_named(one.token, one.log_probability) for one in score.alternatives]}
        for score in scores
    ]
    return {"content": content, "refusal": None}


def text_logprobs(scores: Sequence[ScoredToken], offset: int) -> dict[str, Any] | None:
    """Field `logprobs` of a completion's choice; None without scores.

    Args:
        scores: Of the next tokens of the text.
        offset: Characters of the text before them.
    """
    if not scores:
        return None
    offsets = []
    for score in scores:
        offsets.append(offset)
        offset += characters([score])
    return {
        "tokens": [_text(score.token) for score in scores],
        "token_logprobs": [score.log_probability for score in scores],
        "top_logprobs": [_alternatives(score) for score in scores],
        "text_offset": offsets,
    }


def characters(scores: Sequence[ScoredToken]) -> int:
    """Characters that begin in tokens, of those that are part of the text."""
    return sum(byte & 0xC0 != 0x80 for score in scores if not score.hidden for byte in score.token)


def _named(token: bytes, log_probability: float | None) -> dict[str, Any]:
    text = token.decode(errors="replace")
    return {"token": text, "logprob": log_probability, "bytes": list(token)}


def _alternatives(score: ScoredToken) -> dict[str, float] | None:
    """By token; with the token itself, as in OpenAI's API. None for the first of a text."""
    if score.log_probability is None:
        return None
    own = Alternative(score.token, score.log_probability)
    return {_text(one.token): one.log_probability for one in (*score.alternatives, own)}


def _text(token: bytes) -> str:
    """A token's text; of one with a part of a character its bytes, as OpenAI writes them."""
    try:
        return token.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token)
