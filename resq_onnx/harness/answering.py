"""Generate continuations of prompts, up to a stop string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnxruntime

from resq_onnx.errors import ResqError
from resq_onnx.runtime import BufferedDecoder, Tokenizer, generate

SAMPLING_ONLY: Final = frozenset({"top_k", "top_p", "min_p", "typical_p"})
"""Options without effect when the most likely token is always taken."""

NEUTRAL: Final[Mapping[str, Any]] = {"num_beams": 1, "repetition_penalty": 1.0, "use_cache": True}
"""Values with which these options have no effect."""


@dataclass(frozen=True)
class GenerationOptions:
    """Options for generating an answer.

    Attributes:
        until: Strings that end the answer and are not part of it.
        max_tokens: Largest number of tokens of the answer.
        temperature: As in `generate`; 0 takes the most likely token.
        top_p: As in `generate`.
    """

    until: tuple[str, ...]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> GenerationOptions:
        """Read a task's options, as normalised by lm_eval.

        Raises:
            ResqError: `generate` does not support one of them.
        """
        rest = dict(options)
        until, max_tokens = rest.pop("until"), rest.pop("max_gen_toks")
        sampling = rest.pop("do_sample")
        temperature = rest.pop("temperature", 1.0)
        top_p = rest.pop("top_p", 1.0)
        strange = [
            name
            for name, value in rest.items()
            if not (name in NEUTRAL and value == NEUTRAL[name])
            and not (name in SAMPLING_ONLY and not sampling)
        ]
        if strange:
            raise ResqError(
                f"generation option {', '.join(sorted(strange))} is not supported; override it "
                f"with --gen_kwargs, or choose another task: until, max_gen_toks, do_sample, "
                f"temperature and top_p are supported"
            )
        stops = tuple(stop for stop in until if stop)
        if not sampling:
            return cls(stops, max_tokens)
        return cls(stops, max_tokens, float(temperature), float(top_p))


class Answerer:
    """Continues prompts with a model, one at a time."""

    def __init__(
        self, session: onnxruntime.InferenceSession, tokenizer: Tokenizer, max_length: int
    ) -> None:
        """Take the model, and the largest number of tokens of prompt and answer together."""
        self._session = session
        self._tokenizer = tokenizer
        self._max_length = max_length

    def answer(self, prompt: Sequence[int], options: GenerationOptions, seed: int) -> str:
        """Continue a prompt; if it is too long, only its end is read.

        Args:
            prompt: At least one token.
            options: Options for the answer.
            seed: Seed for sampling.

        Raises:
            ResqError: The answer alone may need all of the model's positions.
        """
        room = self._max_length - options.max_tokens
        if room < 1:
            raise ResqError(
                f"an answer may have {options.max_tokens} tokens, but the model reads at most "
                f"{self._max_length} with the prompt; set a smaller max_gen_toks"
            )
        prompt = prompt[-room:]
        decoder = BufferedDecoder(self._session, len(prompt) + options.max_tokens)
        tokens = generate(
            decoder,
            prompt,
            options.max_tokens,
            options.temperature,
            options.top_p,
            seed,
            self._stop_ids(options.until),
        )
        text = ""
        for piece in self._tokenizer.stream(tokens):
            text += piece
            ends = [text.find(stop) for stop in options.until if stop in text]
            if ends:
                return text[: min(ends)]
        return text

    def _stop_ids(self, until: Sequence[str]) -> frozenset[int]:
        """The model's stop ids, and ids of stop strings that are one (perhaps special) token."""
        found = (self._tokenizer.backend.token_to_id(stop) for stop in until)
        return self._tokenizer.stop_ids | {token for token in found if token is not None}
