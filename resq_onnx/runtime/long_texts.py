"""Tokenise untrusted texts with a limit: reject overlong ones before they cost time and memory.

A tokenizer takes a second and about 100 MB per megabyte of text, and `encode` holds Python's lock
all the time. So a text is rejected by its length in bytes if it cannot fit within the limit.
Otherwise its tokens are counted slice by slice, until there are too many or the request is
cancelled.
"""

from __future__ import annotations

import threading
from typing import Final

import tokenizers

SLICE: Final = 2**14
"""Characters that are tokenised together; a shorter text takes no longer than a token does."""

SLACK: Final = 64
"""Upper bound on the extra tokens that a cut between two slices causes."""


class TooLongError(Exception):
    """A text has more tokens than are allowed."""


class EncodingCancelledError(Exception):
    """The request for the tokens was cancelled."""


def encode_at_most(
    backend: tokenizers.Tokenizer,
    text: str,
    limit: int,
    longest: int,
    cancelled: threading.Event,
    add_special_tokens: bool = True,
) -> list[int]:
    """Token ids of a text, unless it clearly exceeds the limit.

    Args:
        backend: The tokenizer.
        text: A text of any length.
        limit: Number of tokens allowed. The result may have a few more; a text with many more is
            rejected.
        longest: Bytes of the longest token.
        cancelled: Set by another thread to cancel the request.
        add_special_tokens: Whether to add the special tokens with which the tokenizer begins and
            ends a text.

    Raises:
        TooLongError: There are too many.
        EncodingCancelledError: `cancelled` was set.
    """
    if len(text) > SLICE:
        if len(text.encode()) > limit * longest:
            raise TooLongError
        count = 0
        for start in range(0, len(text), SLICE):
            if cancelled.is_set():
                raise EncodingCancelledError
            count += len(_encode(backend, text[start : start + SLICE], False)) - SLACK
            if count > limit:
                raise TooLongError
    return _encode(backend, text, add_special_tokens)


def _encode(backend: tokenizers.Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
    """Tokenise without holding Python's lock, as `encode` does, and without computing offsets."""
    (found,) = backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
    return list(found.ids)
