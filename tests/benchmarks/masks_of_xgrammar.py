"""xgrammar with the methods of `resq_onnx.runtime.constraints`, to measure both in the same way."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Grammars:
    """As `Constraints`."""

    def __init__(self, folder: Path, vocabulary: int) -> None:
        """Read the tokenizer of a folder."""
        self._library: Any = importlib.import_module("xgrammar")
        transformers: Any = importlib.import_module("transformers")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        info = self._library.TokenizerInfo.from_huggingface(tokenizer, vocab_size=vocabulary)
        self._compiler = self._library.GrammarCompiler(info, max_threads=1)
        self._vocabulary = vocabulary

    def of_schema(self, schema: Mapping[str, Any]) -> Grammar:
        """As `Constraints.of_schema`."""
        compiled = self._compiler.compile_json_schema(json.dumps(schema), any_whitespace=False)
        return Grammar(self._library, self._library.GrammarMatcher(compiled), self._vocabulary)


class Grammar:
    """As `Constraint`."""

    def __init__(self, library: Any, matcher: Any, vocabulary: int) -> None:
        """Begin a text."""
        self._matcher = matcher
        self._mask: Any = library.allocate_token_bitmask(1, vocabulary)
        self._vocabulary = vocabulary

    @property
    def is_complete(self) -> bool:
        """As `Constraint.is_complete`."""
        return bool(self._matcher.is_terminated())

    def allowed(self) -> NDArray[np.bool_]:
        """As `Constraint.allowed`."""
        self._matcher.fill_next_token_bitmask(self._mask)
        words = self._mask.numpy()[0].view(np.uint8)
        return np.unpackbits(words, bitorder="little", count=self._vocabulary).astype(np.bool_)

    def note(self, token: int) -> None:
        """As `Constraint.note`."""
        self._matcher.accept_token(token)
