"""Running an exported model: tokenizer, ONNX Runtime session, generation. No torch here."""

from resq_onnx.runtime.generate import generate
from resq_onnx.runtime.session import Decoder, DecoderState, create_session
from resq_onnx.runtime.tokenizer import Tokenizer

__all__ = ["Decoder", "DecoderState", "Tokenizer", "create_session", "generate"]
