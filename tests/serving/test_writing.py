"""Answers of a model that says what it is told to, token by token."""

from __future__ import annotations

import json
from typing import Any, Final

import numpy as np
import pytest

from resq_onnx.runtime import Tokenizer
from resq_onnx.runtime.constraints import Constraint, Constraints
from resq_onnx.runtime.penalties import Penalties
from resq_onnx.runtime.sampling import Sampler
from resq_onnx.runtime.text_stream import TextStream
from resq_onnx.serving.answers import Outcome
from resq_onnx.serving.call_reading import CallReader
from resq_onnx.serving.choosing import Chooser
from resq_onnx.serving.events import Called, Event, Finished, Piece
from resq_onnx.serving.refusals import RefusalError
from resq_onnx.serving.scoring import Scorer
from resq_onnx.serving.stop_strings import StopStrings
from resq_onnx.serving.tool_calls import HERMES, LLAMA, MISTRAL, Call, CallFormat, schema_of_call
from resq_onnx.serving.writing import Writer
from tests.byte_tokenizer import byte_tokenizer

SPECIAL: Final = ("<|end|>", "[TOOL_CALLS]", "<|other|>")
END, TOOL_CALLS, _ = range(256, 259)
CALL: Final = '{"name": "clock", "arguments": {"zone": "CET"}}'


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return byte_tokenizer(special=SPECIAL)


def writer(
    tokenizer: Tokenizer,
    calls: CallReader | None = None,
    stops: tuple[str, ...] = (),
    call_rule: Constraint | None = None,
    **of: Any,
) -> Writer:
    return Writer(
        [5], 1000, Chooser(Sampler(), Penalties(), **of),
        TextStream(lambda ids: tokenizer.decode(ids, skip_special_tokens=calls is None)),
        tokenizer.stop_ids, StopStrings(stops), calls=calls, call_rule=call_rule,
    )  # fmt: skip


def said(one: Writer, tokens: list[int]) -> list[Event]:
    """What comes of tokens, until the answer ends."""
    events: list[Event] = []
    for token in tokens:
        logits = np.zeros(256 + len(SPECIAL), np.float32)
        logits[token] = 9
        events += one.take(logits)
        if one.is_done:
            break
    return events


def ended(events: list[Event]) -> tuple[str, list[str], str]:
    """The text, the functions that are called, and why the answer ended."""
    text = "".join(event.text for event in events if isinstance(event, Piece))
    names = [call.name for call in calls_of(events)]
    last = events[-1]
    assert isinstance(last, Finished)
    return text, names, last.reason


def calls_of(events: list[Event]) -> list[Call]:
    """The calls, each with all of its arguments."""
    outcome = Outcome()
    for event in events:
        outcome.add(event)
    return outcome.calls


def reader(form: CallFormat, several: bool = True) -> CallReader:
    return CallReader(form, ("clock",), opened=False, several=several)


def test_a_model_may_speak_and_then_call_several_functions(tokenizer: Tokenizer) -> None:
    call = f"<tool_call>\n{CALL}\n</tool_call>"
    tokens = [*tokenizer.encode(f"I look. {call}\n{call}\n"), END]
    events = said(writer(tokenizer, reader(HERMES)), tokens)
    assert ended(events) == ("I look. ", ["clock", "clock"], "tool_calls")
    numbers = [event.number for event in events if isinstance(event, Called)]
    assert sorted(numbers) == numbers
    assert set(numbers) == {0, 1}
    assert [json.loads(call.arguments) for call in calls_of(events)] == [{"zone": "CET"}] * 2
    only = said(writer(tokenizer, reader(HERMES, several=False)), tokens)
    assert ended(only) == ("I look. ", ["clock"], "tool_calls")
    assert only[-1].new_tokens < events[-1].new_tokens  # type: ignore[union-attr]


def test_a_special_token_may_mark_a_call(tokenizer: Tokenizer) -> None:
    tokens = [TOOL_CALLS, *tokenizer.encode(f" [{CALL}]"), END]
    assert ended(said(writer(tokenizer, reader(MISTRAL)), tokens)) == ("", ["clock"], "tool_calls")
    plain = ended(said(writer(tokenizer), tokens))
    assert plain == (f" [{CALL}]", [], "stop")


def test_a_stop_string_before_a_call_ends_the_answer_without_it(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode(f"No. <tool_call>{CALL}</tool_call>")
    events = said(writer(tokenizer, reader(HERMES), stops=("tool",)), tokens)
    assert ended(events) == ("No. <", [], "stop")


def test_every_token_has_one_score_and_special_ones_are_no_text(tokenizer: Tokenizer) -> None:
    scorer = Scorer(tokenizer.token_bytes, 1, tokenizer.special_ids)
    tokens = [*tokenizer.encode("\N{EURO SIGN} ab"), TOOL_CALLS, END]
    events = said(writer(tokenizer, stops=("abc",), scorer=scorer), tokens)
    scores = [score for event in events for score in getattr(event, "scores", ())]
    assert b"".join(score.token for score in scores) == "\N{EURO SIGN} ab[TOOL_CALLS]".encode()
    assert [score.hidden for score in scores] == [False] * 6 + [True]
    assert all(score.alternatives[0].token == score.token for score in scores)


def test_a_constraint_ends_an_answer_without_a_stop_token(tokenizer: Tokenizer) -> None:
    constraint = Constraints(tokenizer, 259).of_schema({"enum": ["ab", "ac"]})
    events = said(writer(tokenizer, constraint=constraint), tokenizer.encode('xxac"yy'))
    assert ended(events) == ('"ab"', [], "stop")


def test_a_schema_that_turns_out_too_hard_is_the_fault_of_the_request(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    constraint = Constraints(tokenizer, 259).of_schema({"type": "string"})
    one = writer(tokenizer, constraint=constraint)
    said(one, tokenizer.encode('"'))
    monkeypatch.setattr(constraint, "_vocabulary", 1)
    with pytest.raises(RefusalError, match="after 1 tokens: no token of the model") as found:
        said(one, tokenizer.encode("a"))
    assert found.value.status == 400


ZONES: Final = {
    "type": "object",
    "properties": {"zone": {"enum": ["CET"]}},
    "required": ["zone"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("form", "opening"),
    [
        (HERMES, "I look. <tool_call>"),
        (HERMES, "<tool_call>\n"),
        (HERMES, '<tool_call>{"na'),
        (MISTRAL, "[TOOL_CALLS]"),
        (MISTRAL, '[TOOL_CALLS] [{"name": "clock"'),
        (LLAMA, '{"name"'),
        (LLAMA, "<|python_tag|>"),
    ],
)
def test_a_call_that_the_model_begins_is_held_to_its_schema(
    tokenizer: Tokenizer, form: CallFormat, opening: str
) -> None:
    """Whatever comes next, which would be no JSON."""
    schema = schema_of_call(form, {"clock": ZONES}, several=True)
    rule = Constraints(tokenizer, 259).of_schema(schema, spaced=True)
    bound = writer(tokenizer, reader(form), call_rule=rule)
    events = said(bound, tokenizer.encode(opening + "]" * 80))
    (call,) = calls_of(events)
    assert call.name == "clock"
    assert json.loads(call.arguments) == {"zone": "CET"}


def test_behind_a_call_the_model_may_say_what_it_likes(tokenizer: Tokenizer) -> None:
    rule = Constraints(tokenizer, 259).of_schema(
        schema_of_call(HERMES, {"clock": ZONES}), spaced=True
    )
    text = f"<tool_call>\n{CALL}\n</tool_call>\nSo."
    events = said(writer(tokenizer, reader(HERMES), call_rule=rule), [*tokenizer.encode(text), END])
    assert ended(events) == ("So.", ["clock"], "tool_calls")


def test_an_answer_in_json_that_is_no_call_is_not_held_to_a_schema(tokenizer: Tokenizer) -> None:
    rule = Constraints(tokenizer, 259).of_schema(
        schema_of_call(LLAMA, {"clock": ZONES}), spaced=True
    )
    for text in ('{"warm": true}', '{ "name" : "Ann"}'):
        events = said(
            writer(tokenizer, reader(LLAMA), call_rule=rule), [*tokenizer.encode(text), END]
        )
        assert ended(events) == (text, [], "stop")
