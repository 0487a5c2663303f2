"""Generation engine: turns a request into pieces of text. Runs in threads."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from resq_onnx.errors import ResqError
from resq_onnx.files import check_is_file
from resq_onnx.runtime.chat import ChatCancelledError, start_early
from resq_onnx.runtime.generation import generate
from resq_onnx.runtime.long_texts import EncodingCancelledError, TooLongError, encode_at_most
from resq_onnx.runtime.positions import CONFIG, positions_of
from resq_onnx.runtime.providers import CPU
from resq_onnx.runtime.session import create_session
from resq_onnx.runtime.signature import read_signature, steps_do_not_matter
from resq_onnx.runtime.tokenizer import Tokenizer
from resq_onnx.serving.decoders import DecoderPool, Text
from resq_onnx.serving.protocol import GenerationRequest, Prompt
from resq_onnx.serving.refusals import RefusalError, gone, invalid
from resq_onnx.serving.stop_strings import StopStrings


@dataclass(frozen=True)
class Started:
    """The request is valid and generation has started.

    Attributes:
        prompt_tokens: Number of tokens of the prompt.
        known: Number of them that an earlier request left in the cache.
    """

    prompt_tokens: int
    known: int


@dataclass(frozen=True)
class Piece:
    """The next piece of the answer.

    Attributes:
        text: Whole characters, and no part of a stop string.
        new_tokens: Tokens generated so far.
    """

    text: str
    new_tokens: int


@dataclass(frozen=True)
class Finished:
    """The answer is complete.

    Attributes:
        reason: "stop" (a stop token or a stop string) or "length".
        new_tokens: Tokens generated, not counting the stop token.
    """

    reason: str
    new_tokens: int


Event = Started | Piece | Finished
"""An answer is one `Started`, pieces, one `Finished`."""


class Engine:
    """A model, its tokenizer, and decoders for as many requests as may run at once.

    Attributes:
        name: What clients call the model.
        max_length: Tokens of a prompt and its answer together.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        concurrent: int,
        max_length: int | None = None,
        threads: int | None = None,
        kernels: bool = True,
        provider: str = CPU,
    ) -> None:
        """Open a model.

        Args:
            path: The .onnx file, with its tokenizer beside it.
            name: What clients call it.
            concurrent: How many calls of `answer` may run at once.
            max_length: Tokens of a prompt and its answer; None for as many as the model has
                positions.
            threads: As for `create_session`.
            kernels: As for `create_session`.
            provider: As for `create_session`.

        Raises:
            ResqError: The model or its tokenizer cannot be used, or it has fewer positions.
        """
        self.name = name
        check_is_file(path)
        # Clients see the tokenizer's messages: they name the model, not our path.
        self._tokenizer = replace(Tokenizer.load(path.parent), folder=Path(name))
        self.max_length = _check_length(path.parent, max_length)
        if self._tokenizer.chat_template is not None:
            start_early()
        self._most_bytes = self.max_length * self._tokenizer.longest_token
        session = create_session(path, threads, provider=provider, kernels=kernels)
        # On a GPU it is not known whether the cache of a prompt bitwise equals that of single
        # steps.
        reuse = kernels and provider == CPU and steps_do_not_matter(session)
        self._pool = DecoderPool(session, concurrent, self.max_length, reuse)
        self._vocabulary = read_signature(session).vocabulary or 0

    def answer(self, asked: GenerationRequest, cancelled: threading.Event) -> Iterator[Event]:
        """Answer a request, piece by piece.

        The same request with the same seed has the same answer, regardless of earlier and
        concurrent requests.

        Args:
            asked: The request.
            cancelled: When it is set, the answer ends within a token or a slice of the prompt.

        Raises:
            RefusalError: The prompt is invalid or too long, or `cancelled` was set.
        """
        ids = self._encode(asked.prompt, cancelled)
        limit = self._check_room(len(ids), asked.max_tokens)
        with self._pool.lend(ids, limit) as text:
            yield Started(len(ids), text.decoder.length)
            _prefill(text, cancelled)
            tokens = generate(
                text.decoder,
                ids,
                limit,
                asked.temperature,
                asked.top_p,
                asked.seed,
                self._tokenizer.stop_ids,
                known=text.decoder.length,
            )
            stops = StopStrings(asked.stop)
            for piece in self._tokenizer.stream(_watched(tokens, text, cancelled)):
                if certain := stops.feed(piece):
                    yield Piece(certain, len(text.tokens) - len(ids))
                if stops.found:
                    break
            made = len(text.tokens) - len(ids)
            if rest := stops.rest():
                yield Piece(rest, made)
            yield Finished("length" if made == limit and not stops.found else "stop", made)

    def _encode(self, prompt: Prompt, cancelled: threading.Event) -> Sequence[int]:
        if prompt.token_ids:
            if len(prompt.token_ids) >= self.max_length:
                raise self._too_long(str(len(prompt.token_ids)))
            if not all(0 <= token < self._vocabulary for token in prompt.token_ids):
                raise invalid(f"token ids must be from 0 to {self._vocabulary - 1}", "prompt")
            return prompt.token_ids
        tokenizer = self._tokenizer
        try:
            text = prompt.text
            if text is None:
                if sum(len(one["content"]) for one in prompt.messages) > self._most_bytes:
                    raise TooLongError
                text = tokenizer.apply_chat_template(prompt.messages, cancelled=cancelled)
            return encode_at_most(
                tokenizer.backend,
                text,
                self.max_length,
                tokenizer.longest_token,
                cancelled,
                add_special_tokens=prompt.text is not None,
            )
        except (ChatCancelledError, EncodingCancelledError):
            raise gone() from None
        except TooLongError:
            raise self._too_long(f"more than {self.max_length}") from None
        except ResqError as error:
            raise invalid(str(error), "messages") from None

    def _check_room(self, prompt_tokens: int, max_tokens: int | None) -> int:
        """Largest number of new tokens."""
        if not prompt_tokens:
            raise invalid("the prompt has no tokens; give some text to continue", "prompt")
        room = self.max_length - prompt_tokens
        if room < max(max_tokens or 1, 1):
            wanted = f" and {max_tokens} new ones" if max_tokens else ""
            raise self._too_long(f"{prompt_tokens}", wanted, "max_tokens" if room > 0 else None)
        return max_tokens or room

    def _too_long(self, tokens: str, wanted: str = "", param: str | None = None) -> RefusalError:
        return invalid(
            f"this model takes {self.max_length} tokens, and there would be {tokens} of the "
            f"prompt{wanted}; shorten the prompt or ask for fewer tokens",
            param,
            "context_length_exceeded",
        )


def _prefill(text: Text, cancelled: threading.Event) -> None:
    """Run a prompt up to its last slice, and check for cancellation between slices."""
    decoder, ids = text.decoder, text.tokens
    while len(ids) - decoder.length > decoder.prefill_slice:
        _check(cancelled)
        decoder.run(np.array([ids[decoder.length :][: decoder.prefill_slice]], np.int64))


def _watched(tokens: Iterable[int], text: Text, cancelled: threading.Event) -> Iterator[int]:
    """Record the tokens, and check for cancellation after each."""
    _check(cancelled)
    for token in tokens:
        text.tokens.append(token)
        yield token
        _check(cancelled)


def _check(cancelled: threading.Event) -> None:
    if cancelled.is_set():
        raise gone()


def _check_length(folder: Path, asked: int | None) -> int:
    """Largest number of tokens of a text, from the option or the model's positions."""
    positions = positions_of(folder)
    if positions is None:
        if asked is None:
            raise ResqError(
                f"{folder / CONFIG}: does not say max_position_embeddings, the length of the "
                f"longest text; give --max-length"
            )
        return asked
    if asked is not None and asked > positions:
        raise ResqError(
            f"--max-length is {asked}, and the model has {positions} positions ({folder / CONFIG})"
        )
    return asked or positions
