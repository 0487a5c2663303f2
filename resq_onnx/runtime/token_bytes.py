"""The bytes of each token: a token may hold a part of a character only.

Byte-level tokenizers write each byte as a printable character (Radford et al., "Language Models are
Unsupervised Multitask Learners": GPT-2); SentencePiece writes a space as U+2581, and a byte without
a token of its own as <0xNN>.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import tokenizers

SPACE: Final = "\u2581"
BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def bytes_of_tokens(backend: tokenizers.Tokenizer) -> dict[int, bytes]:
    """The bytes of every token, by its id; those of a special token are its name."""
    decoder = json.loads(backend.to_str()).get("decoder")
    kinds = set(_kinds(decoder))
    alphabet = byte_alphabet() if "ByteLevel" in kinds else None
    pieces = kinds & {"ByteFallback", "Metaspace"}
    found: dict[int, bytes] = {}
    for text, token in backend.get_vocab().items():
        if alphabet is not None and all(character in alphabet for character in text):
            found[token] = bytes(alphabet[character] for character in text)
        elif "ByteFallback" in kinds and (byte := BYTE.fullmatch(text)):
            found[token] = bytes([int(byte[1], 16)])
        else:
            found[token] = (text.replace(SPACE, " ") if pieces else text).encode()
    for token, added in backend.get_added_tokens_decoder().items():
        found[token] = added.content.encode()
    return found


def byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    written = {chr(byte): byte for byte in printable}
    return written | {chr(256 + place): byte for place, byte in enumerate(others)}


def _kinds(decoder: Mapping[str, Any] | None) -> Iterator[str]:
    """Types of a decoder and of those that it consists of."""
    if decoder is not None:
        yield decoder["type"]
        for part in decoder.get("decoders", []):
            yield from _kinds(part)
