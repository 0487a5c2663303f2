"""How a text begins, as a model's tokenizer has it."""

from __future__ import annotations

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.runtime.opening import opening_of

BOS, EOS = 1, 2


def adding_bos(text: str, special: bool) -> list[int]:
    return [*([BOS] if special else []), *map(ord, text)]


def adding_both(text: str, special: bool) -> list[int]:
    return [*adding_bos(text, special), *([EOS] if special else [])]


def adding_nothing(text: str, special: bool) -> list[int]:
    del special
    return list(map(ord, text))


def test_it_is_what_the_tokenizer_adds_before_a_text() -> None:
    assert opening_of(adding_bos, BOS) == (BOS,)
    assert opening_of(adding_both, BOS) == (BOS,)
    assert opening_of(adding_nothing, BOS) == ()


def test_bos_may_be_asked_for_where_the_tokenizer_adds_none() -> None:
    assert opening_of(adding_nothing, BOS, bos=True) == (BOS,)
    assert opening_of(adding_bos, BOS, bos=True) == (BOS,)


def test_it_may_be_left_out() -> None:
    assert opening_of(adding_bos, BOS, bos=False) == ()


def test_a_tokenizer_without_bos_cannot_begin_with_it() -> None:
    with pytest.raises(ResqError, match="no BOS token"):
        opening_of(adding_nothing, None, bos=True)
