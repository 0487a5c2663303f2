"""Engine: a model, its tokenizer and its batch; turns requests into work for the batch."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from resq_onnx.errors import ResqError
from resq_onnx.files import check_is_file
from resq_onnx.runtime.chat import ChatCancelledError, start_early
from resq_onnx.runtime.draft import open_draft
from resq_onnx.runtime.long_texts import EncodingCancelledError, TooLongError, encode_at_most
from resq_onnx.runtime.positions import CONFIG, positions_of
from resq_onnx.runtime.providers import CPU
from resq_onnx.runtime.ragged_graph import ragged_session
from resq_onnx.runtime.session import create_session
from resq_onnx.runtime.signature import read_signature
from resq_onnx.runtime.tokenizer import Tokenizer
from resq_onnx.serving.batch import Batch, Generation
from resq_onnx.serving.guesses import new_guesses
from resq_onnx.serving.protocol import GenerationRequest, Prompt
from resq_onnx.serving.refusals import RefusalError, gone, invalid
from resq_onnx.serving.rows import Rows, SeparateRows, SharedRows
from resq_onnx.serving.tools import Tools
from resq_onnx.serving.writers import Writers, strings_of


class Engine:
    """A model, its tokenizer, and rows for as many requests as may run at once.

    Where a token's results depend on it alone, the requests run together. On a GPU it is not known
    whether they do; other formats and function bodies depend on what else is in a call.

    Attributes:
        name: What clients call the model.
        max_length: Tokens of a prompt and its answer together.
        batch: Runs the requests.
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
        most_guesses: int = 0,
        draft: Path | None = None,
    ) -> None:
        """Open a model.

        Args:
            path: The .onnx file, with its tokenizer beside it.
            name: What clients call it.
            concurrent: How many requests may run at once.
            max_length: Tokens of a prompt and its answer; None for as many as the model has
                positions.
            threads: As for `create_session`.
            kernels: As for `create_session`.
            provider: As for `create_session`.
            most_guesses: How many tokens of an answer to guess at a time; 0 for none.
            draft: The .onnx file of the model that guesses them; None for the text so far.

        Raises:
            ResqError: The model or its tokenizer cannot be used, it has fewer positions, guesses
                cannot be checked with it, or the draft cannot guess for it.
        """
        self.name = name
        check_is_file(path)
        # Clients see the tokenizer's messages: they name the model, not our path.
        self._tokenizer = replace(Tokenizer.load(path.parent), folder=Path(name))
        self.max_length = _check_length(path.parent, max_length)
        if self._tokenizer.chat_template is not None:
            start_early()
        self._most_bytes = self.max_length * self._tokenizer.longest_token
        session = ragged_session(path, threads) if kernels and provider == CPU else None
        if session is not None:
            rows: Rows = SharedRows(session, concurrent, self.max_length)
        else:
            session = create_session(path, threads, provider=provider, kernels=kernels)
            rows = SeparateRows(session, concurrent, self.max_length)
        if most_guesses and not rows.run_together:
            raise ResqError(
                f"{path}: guessed tokens cannot be checked: only our kernels on the CPU, running a "
                f"model quantised in weights, activations and cache, compute the same for one "
                f"token as for several; leave out --speculate and --draft"
            )
        self._vocabulary = vocabulary = read_signature(session).vocabulary or 0
        opened = None
        if draft is not None:
            if not most_guesses:
                raise ResqError(f"{draft}: a draft guesses tokens; give --speculate 1 or more")
            opened = open_draft(
                draft, self._tokenizer, vocabulary, concurrent, self.max_length, threads
            )
        self.batch = Batch(rows, opened)
        guessing = partial(new_guesses, most_guesses, drafted=opened is not None)
        self._writers = Writers(self._tokenizer, vocabulary, rows.last_only, guessing)

    def prepare(self, asked: GenerationRequest, cancelled: threading.Event) -> list[Generation]:
        """Turn a request into work for the batch; several threads may call this at once.

        The same request with the same seed has the same answer, regardless of earlier and
        concurrent requests.

        Args:
            asked: The request.
            cancelled: When it is set, the request ends soon.

        Returns:
            One for each of its choices, prompt by prompt.

        Raises:
            RefusalError: The prompt is invalid or too long, or `cancelled` was set.
        """
        if asked.logit_bias and max(asked.logit_bias) >= self._vocabulary:
            raise invalid(f"token ids must be from 0 to {self._vocabulary - 1}", "logit_bias")
        rules = self._writers.rules(asked)
        found: list[Generation] = []
        for prompt in (asked.prompt, *asked.further):
            ids = self._encode(prompt, asked.tools, cancelled)
            limit = self._check_room(len(ids), asked.max_tokens)
            alone = replace(asked, prompt=prompt, further=())
            writers = self._writers.make(ids, limit, alone, rules)
            first = Generation(writers[0], cancelled)
            found += [first, *(Generation(one, cancelled, after=first) for one in writers[1:])]
        return found

    def _encode(
        self, prompt: Prompt, tools: Tools | None, cancelled: threading.Event
    ) -> Sequence[int]:
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
                text = self._chat_text(prompt, tools, cancelled)
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

    def _chat_text(self, prompt: Prompt, tools: Tools | None, cancelled: threading.Event) -> str:
        """The messages as text, up to the answer, or up to within the call that it must be."""
        definitions = None if tools is None else tools.definitions
        given = [*prompt.messages, *(definitions or ())]
        if sum(len(text) for text in strings_of(given)) > self._most_bytes:
            raise TooLongError
        text = self._tokenizer.apply_chat_template(
            prompt.messages, cancelled=cancelled, tools=definitions
        )
        return text + self._writers.opening(tools)

    def _check_room(self, prompt_tokens: int, max_tokens: int | None) -> int:
        """Largest number of new tokens."""
        if not prompt_tokens:
            raise invalid("the prompt has no tokens; give some text to continue", "prompt")
        room = self.max_length - prompt_tokens
        if room < max(1 if max_tokens is None else max_tokens, 1):
            wanted = f" and {max_tokens} new ones" if max_tokens else ""
            raise self._too_long(f"{prompt_tokens}", wanted, "max_tokens" if room > 0 else None)
        return room if max_tokens is None else max_tokens

    def _too_long(self, tokens: str, wanted: str = "", param: str | None = None) -> RefusalError:
        return invalid(
            f"this model takes {self.max_length} tokens, and there would be {tokens} of the "
            f"prompt{wanted}; shorten the prompt or ask for fewer tokens",
            param,
            "context_length_exceeded",
        )


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
