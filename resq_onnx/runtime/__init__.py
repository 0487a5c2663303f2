"""Run an exported model: tokenizer, ONNX Runtime session, generation. Needs no torch.

A name's module is imported when the name is first used, so `runtime.library`, which the command
line reads for its help, brings no numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from resq_onnx.runtime.buffered import PREFILL_SLICE, BufferedDecoder
    from resq_onnx.runtime.decoder import Decoder, DecoderState
    from resq_onnx.runtime.generation import generate
    from resq_onnx.runtime.session import create_session
    from resq_onnx.runtime.signature import Signature, read_signature
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

_LAZY: Final = {
    "PREFILL_SLICE": "buffered",
    "BufferedDecoder": "buffered",
    "Decoder": "decoder",
    "DecoderState": "decoder",
    "Signature": "signature",
    "Tokenizer": "tokenizer",
    "create_session": "session",
    "generate": "generation",
    "read_signature": "signature",
}
"""Maps each public name to the module of this folder that defines it, imported on first use.

No module may have the same name as a public name: once imported, it would shadow it."""

if not TYPE_CHECKING:  # a type checker would take every name to be an attribute

    def __getattr__(name: str) -> Any:
        if name not in _LAZY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
