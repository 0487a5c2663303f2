"""Running an exported model: tokenizer, ONNX Runtime session, generation. No torch here.

`Tokenizer` is imported when it is first used: who hands over token ids pays for no tokenizer.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from resq_onnx.runtime.buffered import PREFILL_SLICE, BufferedDecoder
from resq_onnx.runtime.decoder import Decoder, DecoderState
from resq_onnx.runtime.generate import generate
from resq_onnx.runtime.session import create_session
from resq_onnx.runtime.signature import Signature, read_signature

if TYPE_CHECKING:
    from resq_onnx.runtime.tokenizer import Tokenizer

__all__ = [
    "PREFILL_SLICE",
    "BufferedDecoder",
    "Decoder",
    "DecoderState",
    "Signature",
    "Tokenizer",
    "create_session",
    "generate",
    "read_signature",
]

if not TYPE_CHECKING:  # a type checker would take every name to be an attribute

    def __getattr__(name: str) -> Any:
        if name == "Tokenizer":
            return importlib.import_module("resq_onnx.runtime.tokenizer").Tokenizer
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
