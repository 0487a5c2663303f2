"""A long text as windows that a model can read, and which of their tokens it has to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError


@dataclass(frozen=True)
class Window:
    """Some tokens in a row, a text of their own: nothing comes before them, no BOS is added.

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
    """

    window: int = 512
    stride: int | None = None
    max_windows: int | None = None

    @property
    def step(self) -> int:
        """The stride, as a number."""
        return self.window if self.stride is None else self.stride

    def cut(self, token_ids: Sequence[int] | NDArray[np.int64]) -> list[Window]:
        """Cut a text into whole windows; tokens after the last one are left out.

        The first window predicts all its tokens but the first. A later one predicts those that no
        window before it has, again without its own first token: with an overlap, each token of the
        text is predicted once, from at least `window - stride` tokens before it. A text shorter
        than one window is one window of its length.

        Raises:
            ResqError: The text or the window has fewer than two tokens, or a number is out of its
                range.
        """
        ids = np.asarray(token_ids, np.int64)
        length = min(self.window, len(ids))
        if length < 2:
            raise ResqError(
                f"the text has {len(ids)} tokens and a window {self.window}; both must be at least "
                f"2, for the first token of a window is not predicted"
            )
        if not 1 <= self.step <= self.window:
            raise ResqError(
                f"the stride is {self.step} and a window has {self.window} tokens; the stride must "
                f"be at least 1 and at most a window"
            )
        if self.max_windows is not None and self.max_windows < 1:
            raise ResqError(f"the number of windows is {self.max_windows}; it must be at least 1")
        starts = range(0, len(ids) - length + 1, self.step)[: self.max_windows]
        seen = max(1, self.window - self.step)
        return [Window(ids[at : at + length], seen if at else 1) for at in starts]
