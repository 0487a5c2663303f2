"""Events of an answer: one `Started`, pieces of text and calls, one `Finished`."""

from __future__ import annotations

from dataclasses import dataclass

from resq_onnx.serving.scoring import ScoredToken
from resq_onnx.serving.tool_calls import Arguments, Call


@dataclass(frozen=True)
class Started:
    """The request is valid and generation has started.

    Attributes:
        prompt_tokens: Number of tokens of the prompt.
        known: Number of them that an earlier request left in the cache.
        copies: Whether another choice of the request has run the same prompt.
    """

    prompt_tokens: int
    known: int
    copies: bool = False


@dataclass(frozen=True)
class Piece:
    """The next piece of the answer.

    Attributes:
        text: Whole characters, and no part of a stop string.
        new_tokens: Tokens generated so far.
        scores: Of the tokens since the last event, if they are asked for.
    """

    text: str
    new_tokens: int
    scores: tuple[ScoredToken, ...] = ()


@dataclass(frozen=True)
class Called:
    """The next call of a function, or more of its arguments.

    Attributes:
        number: How many calls came before it.
        call: The call, or the next piece of its arguments.
        new_tokens: Tokens generated so far.
        scores: Of the tokens since the last event, if they are asked for.
    """

    number: int
    call: Call | Arguments
    new_tokens: int
    scores: tuple[ScoredToken, ...] = ()


@dataclass(frozen=True)
class Finished:
    """The answer is complete.

    Attributes:
        reason: "stop" (a stop token or a stop string), "tool_calls" or "length".
        new_tokens: Tokens generated, not counting the stop token.
        scores: Of the tokens since the last piece, if they are asked for.
        guessed: Tokens guessed.
        right: How many of them were right.
    """

    reason: str
    new_tokens: int
    scores: tuple[ScoredToken, ...] = ()
    guessed: int = 0
    right: int = 0


Event = Started | Piece | Called | Finished


@dataclass(frozen=True)
class End:
    """Nothing more comes.

    Attributes:
        error: Why the answer, or the rest of it, is missing; None if it is complete.
    """

    error: BaseException | None = None
