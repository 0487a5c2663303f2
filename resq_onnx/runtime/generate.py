"""Generation: one token after the other from a decoder."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime.buffered import BufferedDecoder


def generate(
    decoder: BufferedDecoder,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_ids: Collection[int] = (),
) -> Iterator[int]:
    """Continue a prompt, one token id at a time, as soon as each is known.

    Args:
        decoder: The model; it forgets what it knew. Its buffer must hold the prompt and all new
            tokens but the last, which nothing is predicted from.
        prompt_ids: At least one token.
        max_new_tokens: Ends the text if no stop token does.
        temperature: 0 always takes the likeliest token (the first of equals); else logits are
            divided by it and a token is drawn.
        top_p: Draw only among the likeliest tokens that together have this probability.
        seed: Seeds the draws.
        stop_ids: Tokens that end the text; they are not yielded themselves.

    Raises:
        ResqError: The prompt is empty, a number is out of its range, or the buffer is too short.
    """
    if not prompt_ids:
        raise ResqError("the prompt has no tokens; give a --prompt to continue")
    if temperature < 0.0:
        raise ResqError(f"temperature is {temperature}; it must be 0 or more")
    if not 0.0 < top_p <= 1.0:
        raise ResqError(f"top-p is {top_p}; it must be more than 0 and at most 1")
    needed = len(prompt_ids) + max_new_tokens - 1
    if needed > decoder.max_length:
        raise ResqError(
            f"a prompt of {len(prompt_ids)} tokens and {max_new_tokens} new ones need a cache of "
            f"{needed}, and it holds {decoder.max_length}; make the decoder with "
            f"max_length={needed} or more"
        )
    return _tokens(
        decoder, prompt_ids, max_new_tokens, _Sampler(temperature, top_p, seed), stop_ids
    )


def _tokens(
    decoder: BufferedDecoder,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    sampler: _Sampler,
    stop_ids: Collection[int],
) -> Iterator[int]:
    decoder.reset()
    ids = np.array([prompt_ids], np.int64)  # (1, tokens)
    for _ in range(max_new_tokens):
        token = sampler.choose(decoder.run(ids)[0])
        if token in stop_ids:
            return
        yield token
        ids = np.array([[token]], np.int64)


class _Sampler:
    """Chooses tokens from logits, (vocabulary,)."""

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self.temperature = temperature
        self.top_p = top_p
        self.random = np.random.default_rng(seed)

    def choose(self, logits: NDArray[np.float32]) -> int:
        if self.temperature == 0.0:
            return int(logits.argmax())
        scaled = logits.astype(np.float64)
        weights = np.exp((scaled - scaled.max()) / self.temperature)
        weights /= weights.sum()
        order = np.argsort(-weights, kind="stable")
        # The token that crosses top_p is still in, so there is always one.
        kept = order[: int(np.searchsorted(weights[order].cumsum(), self.top_p)) + 1]
        return int(self.random.choice(kept, p=weights[kept] / weights[kept].sum()))
