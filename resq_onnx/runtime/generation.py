"""Text generation: sample tokens one at a time from a decoder."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np

from resq_onnx.errors import ResqError
from resq_onnx.runtime.buffered import BufferedDecoder
from resq_onnx.runtime.sampling import Sampler


def generate(
    decoder: BufferedDecoder,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop_ids: Collection[int] = (),
    known: int = 0,
) -> Iterator[int]:
    """Continue a prompt; yield each token id as soon as it is chosen.

    Args:
        decoder: The model; its cache is cut to `known` tokens. Its buffer must hold the prompt and
            all new tokens but the last, from which nothing is predicted.
        prompt_ids: At least one token.
        max_new_tokens: Ends the text if no stop token does.
        temperature: As for `Sampler`.
        top_p: As for `Sampler`.
        seed: As for `Sampler`.
        stop_ids: Tokens that end the text; they are not yielded themselves.
        known: Number of leading tokens of the prompt that the decoder has already cached. The last
            token of a prompt is always run.

    Raises:
        ResqError: The prompt is empty, a number is out of its range, or the buffer is too short;
            during generation, the logits of a token are not finite.
    """
    if not prompt_ids:
        raise ResqError("the prompt has no tokens; give a --prompt to continue")
    if not 0 <= known < len(prompt_ids):
        raise ValueError(f"{known} of {len(prompt_ids)} tokens cannot be known")
    sampler = Sampler(temperature, top_p, seed)
    needed = len(prompt_ids) + max_new_tokens - 1
    if needed > decoder.max_length:
        raise ResqError(
            f"a prompt of {len(prompt_ids)} tokens and {max_new_tokens} new ones need a cache of "
            f"{needed}, and it holds {decoder.max_length}; make the decoder with "
            f"max_length={needed} or more"
        )
    return _tokens(decoder, prompt_ids, max_new_tokens, sampler, stop_ids, known)


def _tokens(
    decoder: BufferedDecoder,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    sampler: Sampler,
    stop_ids: Collection[int],
    known: int,
) -> Iterator[int]:
    decoder.rewind(known)
    ids = np.array([prompt_ids[known:]], np.int64)  # (1, tokens)
    for made in range(max_new_tokens):
        logits = decoder.run(ids)[0]
        if not np.isfinite(logits.max()):  # max() returns NaN if there is one
            raise ResqError(
                f"the model computes logits that are not finite for new token {made + 1}, at "
                f"position {decoder.length} of the text: its weights are damaged, or its "
                f"activations overflow; export it again, with another --dtype if it is float16"
            )
        token = sampler.choose(logits)
        if token in stop_ids:
            return
        yield token
        ids = np.array([[token]], np.int64)
