"""A tokenizer with a token for each byte, and a few longer ones; it needs no training."""

from __future__ import annotations

from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from resq_onnx.runtime import Tokenizer
from resq_onnx.runtime.token_bytes import byte_alphabet


def byte_tokenizer(longer: Sequence[str] = (), special: Sequence[str] = ("<|end|>",)) -> Tokenizer:
    """Bytes are tokens 0 to 255, then come longer ones, which no text is made of, and special ones.

    Args:
        longer: Texts of the longer tokens.
        special: Special tokens, of which the first ends an answer.
    """
    written = {byte: character for character, byte in byte_alphabet().items()}
    vocabulary = {written[byte]: byte for byte in range(256)}
    for place, text in enumerate(longer, 256):
        vocabulary["".join(written[byte] for byte in text.encode())] = place
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special))
    return Tokenizer(backend, frozenset({256 + len(longer)}))
