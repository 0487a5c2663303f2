"""Bytes of the tokens of byte-level and SentencePiece vocabularies."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from resq_onnx.runtime.token_bytes import byte_alphabet, bytes_of_tokens


def test_every_byte_has_a_character_and_it_is_the_one_of_the_library() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())


def test_tokens_of_a_byte_level_vocabulary_may_be_parts_of_characters() -> None:
    vocabulary = {character: place for place, character in enumerate(sorted(byte_alphabet()))}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(["<|end \N{EURO SIGN}|>"])
    names = bytes_of_tokens(backend)
    text = "a\N{EURO SIGN} \N{WAVING HAND SIGN}"
    assert [names[token] for token in backend.encode(text).ids] == [
        bytes([byte]) for byte in text.encode()
    ]
    assert names[256] == "<|end \N{EURO SIGN}|>".encode()


def test_tokens_of_sentencepiece_have_spaces_and_bytes() -> None:
    vocabulary = {"<0xE2>": 0, "\u2581a": 1, "b": 2}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(parts)
    assert bytes_of_tokens(backend) == {0: b"\xe2", 1: b" a", 2: b"b"}


def test_without_a_decoder_tokens_are_their_text() -> None:
    backend = tokenizers.Tokenizer(models.WordLevel({"\u2581a": 0, "<0xE2>": 1}, "<0xE2>"))
    assert bytes_of_tokens(backend) == {0: "\u2581a".encode(), 1: b"<0xE2>"}
