"""Answers in this process: what a decoder knows changes how fast they come, and nothing else."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resq_onnx.runtime import BufferedDecoder, create_session
from resq_onnx.runtime.ragged import RaggedDecoder
from resq_onnx.serving.batch import Generation
from resq_onnx.serving.engine import Engine
from resq_onnx.serving.events import End, Event, Finished, Piece, Started
from resq_onnx.serving.protocol import GenerationRequest, Prompt
from resq_onnx.serving.refusals import RefusalError

LONG = tuple(range(3, 253)) * 3
"""A prompt of 750 tokens: three slices."""

DEFAULTS: dict[str, Any] = {
    "max_tokens": 24,
    "temperature": 1.0,
    "top_p": 0.9,
    "seed": 4,
    "stop": (),
    "stream": False,
    "include_usage": False,
}


@pytest.fixture
def engine(folder: Path) -> Engine:
    return open_engine(folder)


def open_engine(folder: Path, concurrent: int = 1, **options: Any) -> Engine:
    return Engine(folder / "model.onnx", "tiny", concurrent, 1024, threads=1, **options)


def asked(ids: tuple[int, ...], **changes: Any) -> GenerationRequest:
    return GenerationRequest(Prompt(token_ids=ids), **(DEFAULTS | changes))


def answer(
    engine: Engine, request: GenerationRequest, cancelled: threading.Event | None = None
) -> Iterator[Event]:
    """The events of a request that runs alone."""
    engine.batch.add(engine.prepare(request, cancelled or threading.Event())[0])
    while not engine.batch.is_idle:
        for _, event in engine.batch.advance():
            if not isinstance(event, End):
                yield event
            elif event.error is not None:
                raise event.error


def said(engine: Engine, request: GenerationRequest) -> tuple[int, str, Finished]:
    """Tokens that were known, the text, and how it ended."""
    begun, *pieces, ended = answer(engine, request)
    assert isinstance(begun, Started)
    assert isinstance(ended, Finished)
    assert [piece for piece in pieces if not isinstance(piece, Piece)] == []
    return begun.known, "".join(piece.text for piece in pieces if isinstance(piece, Piece)), ended


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("before", [LONG, LONG[:300], LONG[:2] + LONG, LONG + LONG[:30]])
def test_an_answer_is_the_same_whatever_the_decoder_knew(
    folder: Path, engine: Engine, before: tuple[int, ...], temperature: float
) -> None:
    request = asked(LONG, temperature=temperature)
    known, fresh, ended = said(open_engine(folder), request)
    assert known == 0
    said(engine, asked(before))
    known, text, again = said(engine, request)
    shared = next((i for i, (a, b) in enumerate(zip(before, LONG[:-1], strict=False)) if a != b),
                  min(len(before), len(LONG) - 1))  # fmt: skip
    assert known >= shared > 0
    assert (text, again) == (fresh, ended)


@pytest.mark.parametrize(
    "prompt",
    [
        Prompt(text="a" * 4_000_000),
        Prompt(messages=({"role": "user", "content": "a" * 4_000_000},)),
        Prompt(token_ids=(5,) * 2_000_000),
    ],
)
def test_a_prompt_far_too_long_is_refused_before_it_costs_anything(
    engine: Engine, prompt: Prompt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resq_onnx.runtime.tokenizer.render_chat", pytest.fail)
    began = time.monotonic()
    with pytest.raises(RefusalError, match="takes 1024 tokens, and there would be"):
        engine.prepare(GenerationRequest(prompt, **DEFAULTS), threading.Event())
    assert time.monotonic() - began < 1


def test_without_kernels_nothing_is_kept_and_answers_repeat(folder: Path) -> None:
    engine = open_engine(folder, kernels=False)
    first = said(engine, asked(LONG[:20], max_tokens=5))
    assert first == said(engine, asked(LONG[:20], max_tokens=5))
    assert first[0] == 0


def test_a_conversation_is_not_forgotten_for_another_with_the_same_instructions(
    folder: Path,
) -> None:
    engine = open_engine(folder, concurrent=2)
    instructions = LONG[:40]
    first, second = instructions + LONG[100:200], instructions + LONG[300:400][::-1]
    assert said(engine, asked(first))[0] == 0
    assert said(engine, asked(second))[0] == 40
    assert said(engine, asked((*first, 9, 9)))[0] >= len(first)
    assert said(engine, asked((*second, 9, 9)))[0] >= len(second)


def test_penalties_are_subtracted_from_what_the_answer_has_said(
    folder: Path, engine: Engine
) -> None:
    request = asked(LONG[:9], temperature=0.0, presence_penalty=0.02, frequency_penalty=0.01)
    generation = engine.prepare(request, threading.Event())[0]
    engine.batch.add(generation)
    while not engine.batch.is_idle:
        engine.batch.advance()
    decoder = BufferedDecoder(create_session(folder / "model.onnx", 1), 1024)
    ids, said = list(LONG[:9]), np.zeros(decoder.signature.vocabulary or 0)
    logits = decoder.run(np.array([ids]))[0]
    for _ in range(24):
        token = int((logits - 0.02 * (said > 0) - 0.01 * said).argmax())
        ids.append(token)
        said[token] += 1
        logits = decoder.run(np.array([[token]]))[0]
    assert generation.writer.tokens == ids[: len(generation.writer.tokens)]
    assert said.max() > 1


@pytest.mark.parametrize("pulled", [1, 2, 5])
def test_a_cancelled_answer_ends_at_once_and_gives_its_row_back(
    engine: Engine, pulled: int
) -> None:
    whole = said(engine, asked(LONG))
    cancelled = threading.Event()
    events = answer(engine, asked(LONG[::-1]), cancelled)
    for _ in range(pulled):
        next(events)
    cancelled.set()
    with pytest.raises(RefusalError, match="closed the connection"):
        list(events)
    assert said(engine, asked(LONG))[1:] == whole[1:]


def test_a_request_that_is_cancelled_while_it_waits_never_runs(engine: Engine) -> None:
    first = engine.prepare(asked(LONG), threading.Event())[0]
    second = engine.prepare(asked(LONG[:9]), threading.Event())[0]
    for one in (first, second):
        engine.batch.add(one)
    engine.batch.advance()
    second.cancelled.set()
    told = engine.batch.advance()
    assert [type(event) for generation, event in told if generation is second] == [End]
    assert not engine.batch.is_idle


def test_the_choices_of_a_request_share_one_run_of_its_prompt(folder: Path) -> None:
    engine = open_engine(folder, concurrent=3)
    generations = engine.prepare(asked(LONG, choices=3), threading.Event())
    known = []
    for one in generations:
        engine.batch.add(one)
    while not engine.batch.is_idle:
        told = engine.batch.advance()
        known += [event.known for _, event in told if isinstance(event, Started)]
    assert known == [0, len(LONG) - 1, len(LONG) - 1]


def test_short_prompts_do_not_wait_for_a_long_one(folder: Path) -> None:
    engine = open_engine(folder, concurrent=3)
    prompts = [LONG, LONG[5:30], LONG[9:40]]
    begun = list[Generation]()
    for ids in prompts:
        engine.batch.add(engine.prepare(asked(ids, max_tokens=100), threading.Event())[0])
    while len(begun) < 3:
        for one, event in engine.batch.advance():
            if isinstance(event, Piece) and one not in begun:
                begun.append(one)
    lengths = [len(one.writer.tokens) - one.writer.new_tokens for one in begun]
    assert lengths == [25, 31, 750]


def test_an_error_of_the_model_ends_all_that_run_and_leaves_their_rows_usable(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine(folder, concurrent=2)
    whole = said(engine, asked(LONG[:9]))
    with monkeypatch.context() as patched:
        for ids in (LONG[:9], LONG[3:9]):
            engine.batch.add(engine.prepare(asked(ids), threading.Event())[0])
        engine.batch.advance()
        engine.batch.advance()
        patched.setattr(RaggedDecoder, "run_rows", broken)
        ends = [event for _, event in engine.batch.advance() if isinstance(event, End)]
    assert [type(end.error) for end in ends] == [ZeroDivisionError] * 2
    assert engine.batch.is_idle
    assert said(engine, asked(LONG[:9]))[1:] == whole[1:]


def broken(*_: object) -> None:
    raise ZeroDivisionError
