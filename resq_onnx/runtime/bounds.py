"""What a decoder refuses: more tokens than it has room for, and a past that it never had."""

from __future__ import annotations

from resq_onnx.errors import ResqError


def check_rewind(length: int, known: int) -> None:
    """Refuse to go back to `length` tokens of the `known` ones.

    Raises:
        ValueError: There are not as many.
    """
    if not 0 <= length <= known:
        raise ValueError(f"cannot rewind to {length} tokens: there are {known}")


def check_room(total: int, max_length: int) -> None:
    """Refuse more tokens than a decoder was made for.

    Raises:
        ResqError: `total` is more than `max_length`.
    """
    if total > max_length:
        raise ResqError(
            f"the cache holds {max_length} tokens, and there would be {total}; make the decoder "
            f"with max_length={total} or more"
        )
