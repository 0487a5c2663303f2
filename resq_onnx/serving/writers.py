"""Make the writers of a request: one for each of its choices, with all that it asks for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from resq_onnx.errors import ResqError, reason
from resq_onnx.runtime.constraints import Constraint, Constraints
from resq_onnx.runtime.penalties import Penalties
from resq_onnx.runtime.sampling import SEEDS, Sampler
from resq_onnx.runtime.text_stream import TextStream
from resq_onnx.runtime.tokenizer import Tokenizer
from resq_onnx.serving.call_reading import CallReader
from resq_onnx.serving.choosing import Chooser
from resq_onnx.serving.guesses import Guesses
from resq_onnx.serving.protocol import GenerationRequest, Prompt
from resq_onnx.serving.refusals import invalid
from resq_onnx.serving.response_format import ANY_OBJECT
from resq_onnx.serving.scoring import PromptScores, Scorer
from resq_onnx.serving.stop_strings import StopStrings
from resq_onnx.serving.tool_calls import CallFormat, format_of, schema_of_call
from resq_onnx.serving.tools import Tools
from resq_onnx.serving.writing import Writer


@dataclass(frozen=True)
class Rules:
    """What answers have to follow.

    Attributes:
        answer: A whole answer.
        call: A call that the model begins of its own accord.
    """

    answer: Constraint | None = None
    call: Constraint | None = None


class Writers:
    """Makes the writers of one model; several threads may use it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        vocabulary: int,
        last_only: bool,
        guessing: Callable[[Sequence[int]], Guesses],
    ) -> None:
        """Begin.

        Args:
            tokenizer: The model's.
            vocabulary: Number of logits.
            last_only: Whether the model gives the logits of the last token alone.
            guessing: Begins the guesses behind a prompt.
        """
        self._tokenizer = tokenizer
        self._last_only = last_only
        self._guessing = guessing
        self._constraints = Constraints(tokenizer, vocabulary)
        self._constraints.start_early()  # or its first use would hold up running answers
        self._format = format_of(tokenizer.chat_template)

    def opening(self, tools: Tools | None) -> str:
        """What to put behind a prompt, so that the answer is a call if it must be one.

        Raises:
            RefusalError: There are tools, and the model knows no format of calls.
        """
        if tools is None:
            return ""
        form = self._call_format()
        return form.opening if tools.forced else ""

    def make(
        self,
        ids: Sequence[int],
        limit: int,
        asked: GenerationRequest,
        rules: Rules,
    ) -> list[Writer]:
        """The writers of the choices of a request with one prompt.

        Args:
            ids: The prompt.
            limit: Largest number of new tokens.
            asked: The request.
            rules: What `rules` gives for it.

        Raises:
            RefusalError: What the request asks for cannot be done with this model.
        """
        scores = self._prompt_scores(ids, asked)
        return [
            self._writer(ids, limit, asked, choice, scores, rules)
            for choice in range(asked.choices)
        ]

    def _writer(
        self,
        ids: Sequence[int],
        limit: int,
        asked: GenerationRequest,
        choice: int,
        scores: PromptScores | None,
        rules: Rules,
    ) -> Writer:
        seed = (asked.seed + choice) % SEEDS
        chooser = Chooser(
            Sampler(asked.temperature, asked.top_p, seed, asked.top_k, asked.min_p),
            Penalties(asked.presence_penalty, asked.frequency_penalty, asked.logit_bias),
            self._scorer(asked, self._tokenizer.special_ids),
            None if rules.answer is None else rules.answer.copy(),
            "response_format" if asked.tools is None else "tools",
        )
        return Writer(
            ids,
            limit,
            chooser,
            self._text(asked.tools),
            self._tokenizer.stop_ids,
            StopStrings(asked.stop),
            self._echo(asked.prompt) if asked.echo else None,
            scores,
            self._calls(asked.tools),
            rules.call,
            self._guessing(ids),
        )

    def _text(self, tools: Tools | None) -> TextStream:
        """Decodes an answer; what marks a call may be a special token."""
        decode = self._tokenizer.decode
        return TextStream(lambda ids: decode(ids, skip_special_tokens=tools is None))

    def _scorer(self, asked: GenerationRequest, hidden: Collection[int] = ()) -> Scorer | None:
        if asked.logprobs is None:
            return None
        return Scorer(self._tokenizer.token_bytes, asked.logprobs, hidden)

    def _prompt_scores(self, ids: Sequence[int], asked: GenerationRequest) -> PromptScores | None:
        scorer = self._scorer(asked)
        if scorer is None or not asked.echo:
            return None
        if self._last_only:
            raise invalid(
                "this model gives the logits of the last token alone, because it was exported "
                "with --logits last; leave out echo, or logprobs",
                "echo",
            )
        opened = asked.prompt.text is not None and bool(self._tokenizer.opening())
        return PromptScores(scorer, ids, opened)

    def _echo(self, prompt: Prompt) -> str:
        if prompt.text is not None:
            return prompt.text
        return self._tokenizer.decode(prompt.token_ids, skip_special_tokens=False)

    def rules(self, asked: GenerationRequest) -> Rules:
        """What all answers to a request have to follow.

        Raises:
            RefusalError: The request asks for it, and it cannot be followed.
        """
        tools, schema, param = asked.tools, asked.schema, "response_format"
        if tools is not None and not tools.forced:
            return Rules(call=self._call_rule(tools))
        try:
            if tools is not None:
                parameters = {name: tools.parameters[name] for name in tools.forced}
                schema, param = schema_of_call(self._call_format(), parameters), "tools"
            return Rules(answer=None if schema is None else self._constraints.of_schema(schema))
        except (ResqError, RecursionError) as error:
            raise invalid(f"the schema cannot be followed: {reason(error)}", param) from None

    def _call_rule(self, tools: Tools) -> Constraint | None:
        """What a call has to follow if the model makes one.

        Arguments may be any object if a schema cannot be followed: nobody has asked for that. Which
        one it is is not looked for, as that takes up to half a second for each.
        """
        form, given = self._call_format(), tools.parameters
        for parameters in (given, dict.fromkeys(given, ANY_OBJECT)):
            with suppress(ResqError, RecursionError):
                schema = schema_of_call(form, parameters, tools.several)
                return self._constraints.of_schema(schema, spaced=True)
        return None

    def _calls(self, tools: Tools | None) -> CallReader | None:
        if tools is None:
            return None
        names = tuple(tools.parameters)
        return CallReader(self._call_format(), names, bool(tools.forced), tools.several)

    def _call_format(self) -> CallFormat:
        if self._format is None:
            raise invalid(
                "this model's chat template has no calls of functions in the form of Llama 3, "
                "Mistral, or Qwen 2.5 and 3; leave out tools",
                "tools",
            )
        return self._format


def strings_of(value: Any) -> Iterator[str]:
    """All texts in a JSON value, in depth first order."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str(text):
                yield text
            case Mapping() as fields:
                waiting += [*fields.keys(), *fields.values()]
            case [*items]:
                waiting += items
