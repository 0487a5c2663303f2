"""A long text as windows that a model can read, and which of their tokens it has to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError


@dataclass(frozen=True)
class Window:
    """Some tokens in a row, a text of their own: nothing comes before them.

    Attributes:
        token_ids: (S,).
        first: The first token that is to be predicted, at least 1; those before it are context.
    """

    token_ids: NDArray[np.int64]
    first: int

    @property
    def read(self) -> NDArray[np.int64]:
        """What the model is given, (S - 1,): the last token is only predicted."""
        return self.token_ids[:-1]

    @property
    def targets(self) -> NDArray[np.int64]:
        """The tokens to predict; the last of the model's rows of logits are for them."""
        return self.token_ids[self.first :]


@dataclass(frozen=True)
class Windowing:
    """How to cut a text.

    Attributes:
        window: Tokens of a window.
        stride: Tokens from the beginning of a window to that of the next; None for no overlap.
        max_windows: Use only the first windows; None for all.
        opening: Special tokens, such as BOS, that every window begins with; `window` counts them.
    """

    window: int = 512
    stride: int | None = None
    max_windows: int | None = None
    opening: tuple[int, ...] = ()

    @property
    def length(self) -> int:
        """Tokens of the text in a window."""
        return self.window - len(self.opening)

    @property
    def step(self) -> int:
        """The stride, as a number."""
        return self.length if self.stride is None else self.stride

    def cut(self, token_ids: Sequence[int] | NDArray[np.int64]) -> list[Window]:
        """Cut a text into whole windows; tokens after the last one are left out.

        The first window predicts all tokens of its text, but for the very first one where nothing
        comes before it. A later one predicts those that no window before it has: with an overlap,
        each token of the text is predicted once, from at least `length - stride` tokens before it.
        A text shorter than one window is one window of its length.

        Raises:
            ResqError: The text or the window has too few tokens, or a number is out of its range.
        """
        ids = np.asarray(token_ids, np.int64)
        length, opened = min(self.length, len(ids)), len(self.opening)
        least = 1 if opened else 2
        if length < least:
            raise ResqError(
                f"the text has {len(ids)} tokens and a window {self.window}; the text must have at "
                f"least {least} and the window {least + opened}, for the first token of a window "
                f"is not predicted"
            )
        if not 1 <= self.step <= self.length:
            raise ResqError(
                f"the stride is {self.step} and a window has {self.length} tokens; the stride must "
                f"be at least 1 and at most a window"
            )
        if self.max_windows is not None and self.max_windows < 1:
            raise ResqError(f"the number of windows is {self.max_windows}; it must be at least 1")
        starts = range(0, len(ids) - length + 1, self.step)[: self.max_windows]
        opening = np.asarray(self.opening, np.int64)

        def window(at: int) -> Window:
            seen = self.length - self.step if at else 0
            text = ids[at : at + length]
            return Window(np.concatenate([opening, text]), max(1, opened + seen))

        return [window(at) for at in starts]
