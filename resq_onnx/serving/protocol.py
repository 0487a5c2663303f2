"""Parse and validate the JSON requests of OpenAI's two endpoints.

Unsupported fields that would change the answer are refused. Fields that change nothing (`user`,
`metadata`, `store`, ...) and unknown fields are ignored.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from resq_onnx.runtime.sampling import SEEDS
from resq_onnx.serving import fields
from resq_onnx.serving.messages import read_messages
from resq_onnx.serving.refusals import invalid, unknown_model
from resq_onnx.serving.response_format import read_response_format
from resq_onnx.serving.tools import Tools, read_tools

MAX_TEMPERATURE: Final = 2.0
MAX_CHOICES: Final = 128
MAX_PENALTY: Final = 2.0
MAX_BIAS: Final = 100.0
MAX_BIASES: Final = 1024
MAX_LOGPROBS: Final = 20
MAX_STOPS: Final = 4
MAX_STOP_LENGTH: Final = 1000
"""OpenAI's limits, except for those of lengths: every character of a stop string costs time at
every piece, and every bias at every token."""

COMPLETION_TOKENS: Final = 16
"""Default of `max_tokens` for a completion, as in OpenAI's API. A chat may fill the context."""

MAX_INTEGER: Final = 2**63 - 1

NEUTRAL: Final[dict[str, tuple[Any, ...]]] = {
    "best_of": (1,),
    "suffix": ("",),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "modalities": (["text"],),
    "audio": (),
    "web_search_options": (),
    "reasoning_effort": ("none",),
    "verbosity": (),
    # Not in OpenAI's API, but in other servers', whose clients may send them here.
    "repetition_penalty": (1,),
    "min_tokens": (0,),
    "ignore_eos": (False,),
}
"""Fields that would change the answer, with the values that do not."""


@dataclass(frozen=True)
class Prompt:
    """A text to continue, in one of three forms.

    Attributes:
        messages: Messages of a chat, as `read_messages` gives them.
        text: Plain text.
        token_ids: Text that the client has tokenised.
    """

    messages: tuple[dict[str, Any], ...] = ()
    text: str | None = None
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class GenerationRequest:
    """A validated request; only its prompt may still be too long.

    Attributes:
        prompt: What to continue.
        further: More prompts, each of which is answered as in a request of its own.
        max_tokens: Largest number of new tokens; None for as many as fit.
        temperature: As for `Sampler`.
        top_p: As for `Sampler`.
        seed: As for `Sampler`.
        stop: Strings that end the answer and are not part of it.
        stream: Whether to send pieces as they come.
        include_usage: Whether a stream ends with the token counts.
        choices: How many answers to a prompt, n. The first is that of a request for one; each has a
            seed of its own.
        top_k: As for `Sampler`.
        min_p: As for `Sampler`.
        presence_penalty: As for `Penalties`.
        frequency_penalty: As for `Penalties`.
        logit_bias: As for `Penalties`, of token ids that may not be in the vocabulary.
        logprobs: How many alternatives to score beside each token; None for no scores.
        echo: Whether the answer begins with the prompt.
        schema: The JSON schema that the answer has to follow; None for any text.
        tools: Functions that the model may call; None for none.
    """

    prompt: Prompt
    max_tokens: int | None
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...]
    stream: bool
    include_usage: bool
    choices: int = 1
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    logprobs: int | None = None
    echo: bool = False
    schema: Mapping[str, Any] | None = None
    tools: Tools | None = None
    further: tuple[Prompt, ...] = ()

    @property
    def answers(self) -> int:
        """How many answers to all prompts."""
        return self.choices * (1 + len(self.further))


def read_chat(body: bytes, model: str) -> GenerationRequest:
    """Read the body of a request to /v1/chat/completions.

    Args:
        body: JSON.
        model: The name of the model that is served.

    Raises:
        RefusalError: It is invalid, is for another model, or needs an unsupported feature.
    """
    found = _read(body, model)
    prompt = Prompt(messages=read_messages(found.get("messages")))
    limit = fields.whole_number(found, "max_tokens", 1, MAX_INTEGER)
    limit = fields.whole_number(found, "max_completion_tokens", 1, MAX_INTEGER, limit)
    asked = _asked(found, prompt, limit)
    tools = read_tools(found)
    if tools is not None and asked.schema is not None:
        raise invalid(
            "response_format beside tools is not supported; leave one out, or set tool_choice none",
            "response_format",
        )
    if fields.flag(found, "echo"):
        raise invalid("echo is for /v1/completions alone", "echo", "unsupported_parameter")
    return replace(asked, logprobs=_chat_logprobs(found), tools=tools)


def read_completion(body: bytes, model: str) -> GenerationRequest:
    """Read the body of a request to /v1/completions; as `read_chat`."""
    found = _read(body, model)
    limit = fields.whole_number(found, "max_tokens", 0, MAX_INTEGER, COMPLETION_TOKENS)
    if found.get("tools"):
        raise invalid("tools are for chats alone: /v1/chat/completions", "tools",
                      "unsupported_parameter")  # fmt: skip
    first, *further = _prompts(found.get("prompt"))
    asked = _asked(found, first, limit)
    if found.get("logprobs") is False:  # as some clients write none
        del found["logprobs"]
    logprobs = fields.whole_number(found, "logprobs", 0, MAX_LOGPROBS)
    echo = fields.flag(found, "echo")
    return replace(asked, logprobs=logprobs, echo=echo, further=tuple(further))


def _chat_logprobs(found: Mapping[str, Any]) -> int | None:
    """How many alternatives to score; None for no scores."""
    alternatives = fields.whole_number(found, "top_logprobs", 0, MAX_LOGPROBS, 0)
    if fields.flag(found, "logprobs"):
        return alternatives
    if alternatives:
        raise invalid("top_logprobs needs logprobs to be true", "top_logprobs")
    return None


def _read(body: bytes, model: str) -> dict[str, Any]:
    found = fields.parse_object(body)
    if fields.text(found.get("model", model), "model") != model:
        raise unknown_model(found["model"], model)
    for name, neutral in NEUTRAL.items():
        if name in found and not fields.same(found[name], neutral):
            allowed = " or ".join([*(repr(value) for value in neutral), "nothing"])
            raise invalid(
                f"{name} is not supported by this server; leave it out (it can only be {allowed})",
                name,
                "unsupported_parameter",
            )
    return found


def _asked(found: Mapping[str, Any], prompt: Prompt, limit: int | None) -> GenerationRequest:
    top_p = fields.number(found, "top_p", 0.0, 1.0, 1.0)
    if top_p == 0.0:
        raise invalid("top_p must be more than 0; for the likeliest tokens set temperature 0",
                      "top_p")  # fmt: skip
    seed = fields.whole_number(found, "seed", -MAX_INTEGER - 1, MAX_INTEGER)
    options = found.get("stream_options", {})
    if not isinstance(options, dict):
        raise invalid("stream_options must be an object", "stream_options")
    return GenerationRequest(
        prompt=prompt,
        max_tokens=limit,
        temperature=fields.number(found, "temperature", 0.0, MAX_TEMPERATURE, 1.0),
        top_p=top_p,
        seed=secrets.randbits(64) if seed is None else seed % SEEDS,
        stop=fields.texts(found, "stop", MAX_STOPS, MAX_STOP_LENGTH),
        stream=fields.flag(found, "stream"),
        include_usage=fields.flag(options, "include_usage", "stream_options."),
        choices=fields.whole_number(found, "n", 1, MAX_CHOICES) or 1,
        top_k=max(fields.whole_number(found, "top_k", -1, MAX_INTEGER) or 0, 0),
        min_p=fields.number(found, "min_p", 0.0, 1.0, 0.0),
        presence_penalty=_penalty(found, "presence_penalty"),
        frequency_penalty=_penalty(found, "frequency_penalty"),
        schema=read_response_format(found),
        logit_bias=fields.biases(found, "logit_bias", MAX_BIAS, MAX_BIASES),
    )


def _penalty(found: Mapping[str, Any], name: str) -> float:
    return fields.number(found, name, -MAX_PENALTY, MAX_PENALTY, 0.0)


def _prompts(given: Any) -> list[Prompt]:
    """A text or a list of token ids, or a list of these."""
    several = isinstance(given, list) and given and not all(type(one) is int for one in given)
    return [_prompt(one) for one in (given if several else [given])]


def _prompt(prompt: Any) -> Prompt:
    if isinstance(prompt, str):
        return Prompt(text=prompt)
    if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
        return Prompt(token_ids=tuple(prompt))
    raise invalid("prompt must be a text, a list of token ids, or a list of several of these",
                  "prompt")  # fmt: skip
