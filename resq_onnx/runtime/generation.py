"""Text generation: sample tokens from a decoder, one at a time or several that were guessed."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime.buffered import BufferedDecoder
from resq_onnx.runtime.guessing import TokenGuesser
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
    guesser: TokenGuesser | None = None,
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
        guesser: Guesses tokens, which are then checked several in a call. The text is the same if
            the decoder's logits do not depend on how many tokens run together
            (`signature.steps_do_not_matter`). None runs one token at a time.

    Raises:
        ResqError: The prompt is empty, a number is out of its range, the buffer is too short, or
            there is a guesser and the model gives the logits of the last token alone; during
            generation, the logits of a token are not finite.
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
    if guesser is not None and decoder.signature.last_only:
        raise ResqError(
            "guessed tokens cannot be checked: this model was exported with --logits last; export "
            "it without that option, or do not speculate"
        )
    return _tokens(decoder, prompt_ids, max_new_tokens, sampler, stop_ids, known, guesser)


def _tokens(
    decoder: BufferedDecoder,
    prompt_ids: Sequence[int],
    max_new_tokens: int,
    sampler: Sampler,
    stop_ids: Collection[int],
    known: int,
    guesser: TokenGuesser | None,
) -> Iterator[int]:
    decoder.rewind(known)
    next_ids, guesses, made = list(prompt_ids[known:]), list[int](), 0
    if guesser is not None:
        guesser.extend(prompt_ids)
    while made < max_new_tokens:
        ids = np.array([next_ids + guesses], np.int64)  # (1, tokens)
        rows = decoder.run_rows(ids, len(guesses) + 1)[0] if guesses else decoder.run(ids)
        right = 0
        for row, guess in zip(rows, [*guesses, None], strict=True):
            token = choose(sampler, row, made, decoder.length - len(guesses) + right)
            if token in stop_ids:
                return
            made += 1
            yield token
            if guesser is not None:
                guesser.extend([token])
            if token != guess:
                break
            right += 1
        next_ids = [token]
        if guesser is not None:
            decoder.rewind(decoder.length - len(guesses) + right)
            guesser.learn(len(guesses), right)
            guesses = guesser.guess(max_new_tokens - made - 1, sampler)


def choose(sampler: Sampler, logits: NDArray[Any], made: int, position: int) -> int:
    """Choose the next token of a text from logits (vocabulary,).

    Args:
        sampler: Of the text.
        logits: After the last token.
        made: Tokens that the model has added, for error messages.
        position: Tokens of the whole text, for error messages.

    Raises:
        ResqError: The logits are not finite.
    """
    if not np.isfinite(logits.max()):  # max() returns NaN if there is one
        raise ResqError(
            f"the model computes logits that are not finite for new token {made + 1}, at "
            f"position {position} of the text: its weights are damaged, or its activations "
            f"overflow; export it again, with another --dtype if it is float16"
        )
    return sampler.choose(logits)
