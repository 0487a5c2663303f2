"""Decoder with a fixed-length KV cache that is read and written in place.

`Decoder` receives a new cache from every call and passes it to the next: a copy per token that
grows with the text. Here each cache is allocated once and bound twice, as past and as present; a
token then costs only its operators and one rebinding of the attention mask. On a GPU the cache
stays there; a step sends token ids, mask and positions, and fetches logits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime.decoder import check_rewind, check_room
from resq_onnx.runtime.memory import memory_for
from resq_onnx.runtime.providers import runs_on_cuda
from resq_onnx.runtime.session import running
from resq_onnx.runtime.signature import read_signature

if TYPE_CHECKING:
    import onnxruntime

PREFILL_SLICE: Final = 256
"""Tokens of a prompt that run together. Memory for activations and logits is that of one slice,
however long the prompt. Each weight is unpacked once a slice, which at 256 rows costs 4 % of the
speed at 512 (SmolLM2-135M, AVX-512-VNNI), and takes 11 MB less. With our kernels, whose results do
not depend on the number of rows, the logits are those of one pass to the last bit."""

CUDA_PREFILL_SLICE: Final = 2048
"""The same on a GPU, which needs more rows to be fully used and has the memory for them."""

MAX_LENGTH: Final = 1 << 40
"""Tokens for which no machine has the memory; NumPy refuses some larger sizes as wrong values."""


class BufferedDecoder:
    """Runs a decoder graph on the next tokens of a text, or of several of equal length.

    One text at a time and one thread at a time; several decoders may share a session.

    Attributes:
        session: The ONNX Runtime session.
        signature: The inputs and outputs of its graph.
        batch: Number of texts, B.
        max_length: Largest number of tokens.
        length: Tokens so far, padding included.
        prefill_slice: Tokens of a prompt that run together.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        max_length: int,
        batch: int = 1,
        cache_width: int | None = None,
    ) -> None:
        """Allocate the caches; the operating system fills a page only when it is written to.

        Args:
            session: The model.
            max_length: Largest number of tokens.
            batch: Number of texts.
            cache_width: The last dimension of a cache, if the graph does not specify it.

        Raises:
            ResqError: The graph is not a decoder, or does not specify its vocabulary size.
        """
        if max_length < 1 or batch < 1:
            raise ResqError(f"a buffer of {max_length} tokens for {batch} texts: give 1 or more")
        self.session = session
        self.signature = read_signature(session, cache_width)
        if self.signature.vocabulary is None:
            raise ResqError(
                "output logits has no fixed last dimension; give a file that resq-onnx export wrote"
            )
        self.batch = batch
        self.max_length = max_length
        self.length = 0
        self.prefill_slice = CUDA_PREFILL_SLICE if runs_on_cuda(session) else PREFILL_SLICE
        if max_length > MAX_LENGTH:
            raise MemoryError(f"a buffer of {max_length} tokens")
        self._mask = np.zeros((batch, max_length), np.int64)  # of the tokens so far
        self._seen = np.zeros((batch, 1), np.int64)  # tokens so far that are not padding
        self._memory: Any = memory_for(session)
        signature = self.signature
        names = zip(signature.past, signature.present, signature.caches, strict=True)
        for past, present, form in names:
            shape = (batch, form.heads, max_length, form.width)
            self._memory.add_cache(past, present, shape, form.dtype)
        self._allocate(1)

    def run(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64] | None = None
    ) -> NDArray[Any]:
        """Run the model on the next tokens; a long prompt runs in slices.

        Args:
            input_ids: (B, S), S at least 1.
            attention_mask: Of these tokens, (B, S), 0 for padding; None if none is padding.

        Returns:
            The logits after the last token, (B, vocabulary): valid until the next call.

        Raises:
            ValueError: The token ids are not (B, S), or the mask is not of their shape.
            ResqError: The buffer is too short, or ONNX Runtime refuses the input.
        """
        return self.run_rows(input_ids, 1, attention_mask)[:, 0]

    def run_rows(
        self,
        input_ids: NDArray[np.int64],
        rows: int,
        attention_mask: NDArray[np.int64] | None = None,
    ) -> NDArray[Any]:
        """As `run`, but return the logits after each of the last tokens, (B, rows, vocabulary).

        Args:
            input_ids: As for `run`; at least `rows` of them run in the last slice.
            rows: How many; 1 if the graph gives the logits of the last token alone.
            attention_mask: As for `run`.
        """
        if input_ids.ndim != 2 or len(input_ids) != self.batch or not input_ids.size:
            raise ValueError(
                f"input_ids is {input_ids.shape}, it must be ({self.batch}, 1 or more)"
            )
        new = input_ids.shape[1]
        check_room(self.length + new, self.max_length)
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask is {attention_mask.shape}, it must be {input_ids.shape}"
            )
        self._mask[:, self.length : self.length + new] = (
            1 if attention_mask is None else attention_mask
        )
        for start in range(0, new, self.prefill_slice):
            self._step(input_ids[:, start : start + self.prefill_slice])
        logits: NDArray[Any] = self._memory.logits()
        return logits[:, -rows:]

    def reset(self) -> None:
        """Forget the text."""
        self.rewind(0)

    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens.

        Raises:
            ValueError: Fewer tokens are cached.
        """
        check_rewind(length, self.length)
        self.length = length
        self._seen[:] = self._mask[:, :length].sum(axis=1, keepdims=True)

    def copy_beginning(self, other: BufferedDecoder, length: int) -> None:
        """Replace the cache by the first `length` tokens of another decoder's cache.

        Args:
            other: A decoder of the same session and batch. It must not run at the same time.
            length: How many tokens.

        Raises:
            ValueError: The other decoder has cached fewer tokens, or they do not fit into this one.
        """
        if not 0 <= length <= min(other.length, self.max_length):
            raise ValueError(
                f"cannot copy {length} tokens: there are {other.length}, and room for "
                f"{self.max_length}"
            )
        self._memory.copy_caches(other._memory, length)
        self._mask[:, :length] = other._mask[:, :length]
        self.length = length
        self.rewind(length)

    def _step(self, ids: NDArray[np.int64]) -> None:
        """Run the graph once; `_mask` holds these tokens already."""
        new = ids.shape[1]
        total = self.length + new
        if new != self._ids.shape[1]:
            self._allocate(new)
        self._ids[:] = ids
        mask = self._mask[:, self.length : total]
        # Padding has no position of its own; any valid one does, because no token attends to it.
        np.maximum(self._seen + mask.cumsum(axis=1) - 1, 0, out=self._positions)
        # Of one text, the columns so far are contiguous; of several they are copied.
        bound_mask = np.ascontiguousarray(self._mask[:, :total])
        self._memory.bind_input("attention_mask", bound_mask)
        with running():
            self._memory.run()
        self._seen += mask.sum(axis=1, keepdims=True)
        self.length = total

    def _allocate(self, new: int) -> None:
        """Allocate and bind the arrays that have a row for each of `new` tokens."""
        signature = self.signature
        assert signature.vocabulary is not None
        rows = 1 if signature.last_only else new
        self._ids = np.zeros((self.batch, new), np.int64)
        self._positions = np.zeros((self.batch, new), np.int64)
        self._memory.bind_input("input_ids", self._ids)
        if signature.takes_positions:
            self._memory.bind_input("position_ids", self._positions)
        self._memory.bind_logits((self.batch, rows, signature.vocabulary), signature.logits_dtype)
