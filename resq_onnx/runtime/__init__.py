"""Running an exported model: tokenizer, ONNX Runtime session, generation. No torch here."""

from resq_onnx.runtime.buffered import PREFILL_SLICE, BufferedDecoder
from resq_onnx.runtime.generate import generate
from resq_onnx.runtime.session import Decoder, DecoderState, create_session
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
