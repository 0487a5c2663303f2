"""Decoder pool with prefix caching: a conversation's next turn reuses the cache of the last."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from resq_onnx.errors import ResqError
from resq_onnx.runtime.buffered import BufferedDecoder

if TYPE_CHECKING:
    import onnxruntime


@dataclass(eq=False)
class Text:
    """A decoder and the tokens of its text.

    Attributes:
        decoder: Has cached the first `decoder.length` tokens.
        tokens: The text's tokens; the borrower appends those after the prompt.
    """

    decoder: BufferedDecoder
    tokens: list[int] = field(default_factory=list)

    def shared(self, ids: Sequence[int]) -> int:
        """Number of tokens of a new text that are cached: never the last, which has to run."""
        known = self.tokens[: self.decoder.length]
        pairs = enumerate(zip(known, ids[:-1], strict=False))
        return next((i for i, (a, b) in pairs if a != b), min(len(known), len(ids) - 1))


class DecoderPool:
    """A decoder for each request that may run at once, for threads to borrow.

    With `reuse`, a returned decoder keeps its text, and a new text goes to the decoder that has
    cached most of its beginning, if that is at least half of the decoder's text. Otherwise, for
    example if two conversations share their instructions, both are kept: the shared beginning is
    copied to the decoder that has been idle longest.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, count: int, max_length: int, reuse: bool
    ) -> None:
        """Make the decoders; the memory of their caches is allocated when it is first written to.

        Args:
            session: The model.
            count: Number of decoders.
            max_length: Largest number of tokens of each.
            reuse: Whether texts are kept, which requires `steps_do_not_matter`. Otherwise each text
                gets a decoder of its own length, because function bodies copy a whole cache.

        Raises:
            ResqError: The model is not a decoder, or there is not enough memory.
        """
        self._session = session
        self._reuse = reuse
        self._lock = threading.Lock()
        self._resting: list[Text] = []
        """Idle decoders, longest idle first."""
        try:
            for _ in range(count if reuse else 1):
                self._resting.append(Text(BufferedDecoder(session, max_length)))
        except MemoryError:
            raise ResqError(
                f"there is no memory for {count} caches of {max_length} tokens; give a smaller "
                f"--max-length or --max-concurrent"
            ) from None

    @contextmanager
    def lend(self, ids: Sequence[int], max_new_tokens: int) -> Iterator[Text]:
        """Lend a decoder for a new text, whose beginning it may have cached.

        At most `count` may be lent at once.
        """
        if not self._reuse:
            yield Text(BufferedDecoder(self._session, len(ids) + max_new_tokens), list(ids))
            return
        with self._lock:
            text = self._begin(ids)
        try:
            yield text
        finally:
            with self._lock:
                self._resting.append(text)

    def _begin(self, ids: Sequence[int]) -> Text:
        best = max(self._resting, key=lambda text: text.shared(ids))
        shared = best.shared(ids)
        text = best if 2 * shared >= best.decoder.length else self._resting[0]
        if text is best:
            text.decoder.rewind(shared)
        else:
            text.decoder.copy_beginning(best.decoder, shared)
        self._resting.remove(text)
        text.tokens = list(ids)
        return text
