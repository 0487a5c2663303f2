"""Decoder for many texts of unequal lengths, which run together and share one cache.

`BufferedDecoder` runs texts of equal length. Here each text has a row of the cache and a length of
its own, and a call runs the next tokens of any of them. Each token gets the logits that it gets
where its text runs alone, to the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime.buffered import MAX_LENGTH, PREFILL_SLICE
from resq_onnx.runtime.decoder import check_rewind, check_room
from resq_onnx.runtime.memory import HostMemory
from resq_onnx.runtime.ragged_graph import CACHE_ROWS, CACHED, PREDICTED
from resq_onnx.runtime.session import running
from resq_onnx.runtime.signature import read_signature

if TYPE_CHECKING:
    import onnxruntime


class RaggedDecoder:
    """Runs a graph of `ragged_session`, one thread at a time.

    Attributes:
        signature: The inputs and outputs of its graph.
        max_length: Largest number of tokens of a text.
        lengths: Tokens of each row so far.
    """

    def __init__(self, session: onnxruntime.InferenceSession, max_length: int, rows: int) -> None:
        """Allocate the caches; the operating system fills a page only when it is written to.

        Args:
            session: Of `ragged_session`.
            max_length: Largest number of tokens of a text.
            rows: Number of texts.

        Raises:
            ResqError: The graph is not a decoder, or does not specify its vocabulary size.
            MemoryError: There is not that much memory.
        """
        self.signature = read_signature(session)
        if self.signature.vocabulary is None:
            raise ResqError("output logits has no fixed last dimension; export the model again")
        if max_length > MAX_LENGTH:
            raise MemoryError(f"a buffer of {max_length} tokens")
        self.max_length = max_length
        self.lengths = [0] * rows
        self._memory = HostMemory(session)
        signature = self.signature
        names = zip(signature.past, signature.present, signature.caches, strict=True)
        for past, present, form in names:
            shape = (rows, form.heads, max_length, form.width)
            self._memory.add_cache(past, present, shape, form.dtype)
        self._selects = any(entry.name == PREDICTED for entry in session.get_inputs())
        self._bound: dict[str, NDArray[Any]] = {}
        most = max(rows, PREFILL_SLICE)
        self._ones = np.ones(rows * max_length, np.int64)
        # Kept between calls of unequal shapes: a new array costs the pages that it touches.
        self._logits = np.zeros(most * self.signature.vocabulary, signature.logits_dtype)

    def run(self, rows: Sequence[int], input_ids: NDArray[np.int64]) -> NDArray[Any]:
        """Run the next tokens of some texts.

        Args:
            rows: The row of each text; B of them, each once.
            input_ids: (B, S); B times S is at most PREFILL_SLICE or the number of rows.

        Returns:
            The logits after the last token of each, (B, vocabulary): valid until the next call.

        Raises:
            ResqError: A row is too short, or ONNX Runtime refuses the input.
        """
        return self.run_rows(rows, input_ids, 1)[:, 0]

    def run_rows(
        self, rows: Sequence[int], input_ids: NDArray[np.int64], count: int
    ) -> NDArray[Any]:
        """As `run`, but return the logits after each of the last tokens, (B, count, vocabulary).

        Args:
            rows: As for `run`.
            input_ids: As for `run`.
            count: How many, at most S; 1 if the graph gives the logits of the last token alone
                (`signature.last_only`).
        """
        new = input_ids.shape[1]
        cached = np.array([self.lengths[row] for row in rows], np.int64)
        logits = self._run(rows, cached, input_ids, count)
        for row in rows:
            self.lengths[row] += new
        return logits

    def run_unequal(
        self, rows: Sequence[int], texts: Sequence[Sequence[int]]
    ) -> list[NDArray[Any]]:
        """Run next tokens of some texts, of each as many as are given.

        Args:
            rows: As for `run`.
            texts: At least one token of each; all of them together as many as `run` takes.

        Returns:
            The logits after each token, (tokens, vocabulary): valid until the next call.
        """
        pairs = [(row, place) for row, text in zip(rows, texts, strict=True)
                 for place in range(len(text))]  # fmt: skip
        cached = np.array([self.lengths[row] + place for row, place in pairs], np.int64)
        ids = np.array([[token] for text in texts for token in text], np.int64)
        logits = self._run([row for row, _ in pairs], cached, ids, 1)[:, 0]
        for row, text in zip(rows, texts, strict=True):
            self.lengths[row] += len(text)
        return np.split(logits, np.cumsum([len(text) for text in texts])[:-1])

    def _run(
        self,
        rows: Sequence[int],
        cached: NDArray[np.int64],
        input_ids: NDArray[np.int64],
        count: int,
    ) -> NDArray[Any]:
        """Run tokens (B, S) behind the first `cached` (B,) of some rows."""
        batch, new = input_ids.shape
        total = int(cached.max()) + new
        check_room(total, self.max_length)
        self._bind("input_ids", np.ascontiguousarray(input_ids))
        if batch * total > self._ones.size:  # there are more parts of texts than rows
            self._ones = np.ones(batch * self.max_length, np.int64)
        self._bind("attention_mask", self._ones[: batch * total].reshape(batch, total))
        if self.signature.takes_positions:
            self._bind("position_ids", cached[:, None] + np.arange(new))
        self._bind(CACHED, cached)
        self._bind(CACHE_ROWS, np.array(rows, np.int64))
        if self._selects:
            self._bind(PREDICTED, np.arange(new - count, new))
        logits = self._bind_logits(batch, count if self._selects else new)
        with running():
            self._memory.run()
        return logits[:, -count:]

    def rewind(self, row: int, length: int) -> None:
        """Forget all but the first `length` tokens of a row.

        Raises:
            ValueError: Fewer tokens are cached.
        """
        check_rewind(length, self.lengths[row])
        self.lengths[row] = length

    def copy_beginning(self, row: int, other: int, length: int) -> None:
        """Replace the text of a row by the first `length` tokens of another row.

        Raises:
            ValueError: The other row has cached fewer tokens.
        """
        check_rewind(length, self.lengths[other])
        for cache in self._memory.caches:
            cache[row, :, :length] = cache[other, :, :length]
        self.lengths[row] = length

    def _bind(self, name: str, array: NDArray[Any]) -> None:
        self._bound[name] = array  # ONNX Runtime reads its memory, and does not keep it alive
        self._memory.bind_input(name, array)

    def _bind_logits(self, batch: int, count: int) -> NDArray[Any]:
        assert self.signature.vocabulary is not None
        shape = (batch, 1 if self.signature.last_only else count, self.signature.vocabulary)
        logits = self._logits[: int(np.prod(shape))].reshape(shape)
        self._memory.bind_output("logits", logits)
        return logits
