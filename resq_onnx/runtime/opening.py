"""The special tokens with which a model's texts begin, such as BOS."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from resq_onnx.errors import ResqError

PROBE: Final = "a"
"""A text whose tokens are searched for between the special ones."""


def opening_of(
    encode: Callable[[str, bool], Sequence[int]],
    bos_id: int | None,
    bos: bool | None = None,
    where: str = "the model",
) -> tuple[int, ...]:
    """Find the special tokens that precede a text.

    Args:
        encode: Token ids of a text, without or with the special tokens that the tokenizer adds.
        bos_id: The token that the tokenizer calls BOS; None if it has none.
        bos: None for the tokenizer's default, True for BOS even if the tokenizer adds nothing,
            False for nothing.
        where: The model, for error messages.

    Raises:
        ResqError: BOS is requested and the tokenizer has none.
    """
    if bos is False:
        return ()
    own, whole = list(encode(PROBE, False)), list(encode(PROBE, True))
    places = range(len(whole) - len(own) + 1)
    begin = next((place for place in places if whole[place : place + len(own)] == own), 0)
    found = tuple(whole[:begin])
    if found or bos is None:
        return found
    if bos_id is None:
        raise ResqError(f"{where}: its tokenizer has no BOS token to begin texts with; drop --bos")
    return (bos_id,)
