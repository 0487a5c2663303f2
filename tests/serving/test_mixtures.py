"""Requests that come, run together and go in any order get the text that they get alone."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from resq_onnx.runtime import BufferedDecoder, Tokenizer, create_session, generate
from resq_onnx.serving.batch import Generation
from resq_onnx.serving.engine import Engine
from resq_onnx.serving.events import End, Finished, Piece
from resq_onnx.serving.protocol import GenerationRequest, Prompt
from resq_onnx.serving.refusals import RefusalError
from resq_onnx.serving.scoring import ScoredToken
from tests.smollm2 import Exported

MIXTURES: Final = 300

ROWS: Final = 3
"""Fewer than requests, so that some wait, and rows are used again."""

MAX_LENGTH: Final = 420


@dataclass(frozen=True)
class Known:
    """A request, and what `generate` says to it."""

    asked: GenerationRequest
    tokens: list[int]
    text: str


def requests(vocabulary: int, count: int, longest: int, seed: int) -> Iterator[GenerationRequest]:
    """Requests of all kinds; many share beginnings."""
    rng = np.random.default_rng(seed)
    common = rng.integers(3, vocabulary, longest)
    for number in range(count):
        own = rng.integers(3, vocabulary, int(rng.integers(1, 40)))
        shared = common[: int(rng.choice([0, 1, 17, 64, longest]))]
        yield GenerationRequest(
            Prompt(token_ids=tuple(int(token) for token in (*shared, *own))),
            max_tokens=int(rng.integers(1, 14)),
            temperature=float(rng.choice([0.0, 0.7, 1.3])),
            top_p=float(rng.choice([0.8, 1.0])),
            seed=number,
            stop=(),
            stream=False,
            include_usage=False,
        )


PET: Final = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["cat", "dog"]},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["kind", "age"],
    "additionalProperties": False,
}

ASKING_MORE: Final[list[dict[str, Any]]] = [
    {"logprobs": 2},
    {"logprobs": 0, "echo": True},
    {"schema": PET, "max_tokens": 60},
    {"schema": PET, "max_tokens": 60, "logprobs": 1},
    {"presence_penalty": 0.5, "logprobs": 1},
    {},
]
"""What requests of other tests do not ask for."""


def known(model: Path, asked: list[GenerationRequest], max_length: int) -> list[Known]:
    """What the requests get alone, as `resq-onnx generate` runs them."""
    decoder = BufferedDecoder(create_session(model, 1), max_length)
    tokenizer = Tokenizer.load(model.parent)
    found = []
    for one in asked:
        assert one.max_tokens is not None
        options = (one.temperature, one.top_p, one.seed, tokenizer.stop_ids)
        tokens = list(generate(decoder, one.prompt.token_ids, one.max_tokens, *options))
        text = "".join(tokenizer.stream(tokens))
        # Every third ends by a string that is in it.
        if one.seed % 3 == 0 and len(text) > 4:
            stop = text[2:4]
            one, text = replace(one, stop=(stop,)), text[: text.index(stop)]
        found.append(Known(one, tokens, text))
    return found


@dataclass
class Run:
    """A request in a mixture: when it comes, when it goes, and what it has been told."""

    wanted: Known
    arrival: int
    departure: int | None
    generation: Generation
    text: str = ""
    scores: list[ScoredToken] = field(default_factory=list)
    end: End | None = None
    reason: str = ""


def mix(engine: Engine, wanted: list[Known], rng: np.random.Generator) -> list[Run]:
    """Let requests run together; some go before their end."""
    runs = []
    for one in wanted:
        arrival = int(rng.integers(0, 12))
        departure = arrival + int(rng.integers(0, 9)) if rng.random() < 0.25 else None
        (generation,) = engine.prepare(one.asked, threading.Event())
        runs.append(Run(one, arrival, departure, generation))
    return follow(engine, runs)


def follow(engine: Engine, runs: list[Run]) -> list[Run]:
    """Run requests until all of them have ended."""
    by_generation = {run.generation: run for run in runs}
    step = 0
    while any(run.end is None for run in runs):
        for run in runs:
            if run.arrival == step:
                engine.batch.add(run.generation)
            if run.departure == step:
                run.generation.cancelled.set()
        for generation, event in engine.batch.advance():
            run = by_generation[generation]
            assert run.end is None
            match event:
                case Piece():
                    run.text += event.text
                    run.scores += event.scores
                case Finished():
                    run.reason = event.reason
                    run.scores += event.scores
                case End():
                    run.end = event
        step += 1
    assert engine.batch.is_idle
    return runs


def check(run: Run) -> None:
    """A request has got its text, or the beginning of it if it went."""
    assert run.end is not None
    tokens = run.generation.writer.tokens[len(run.wanted.asked.prompt.token_ids) :]
    assert tokens == run.wanted.tokens[: len(tokens)]
    if run.end.error is not None:
        assert isinstance(run.end.error, RefusalError)
        assert run.departure is not None
        assert run.wanted.text.startswith(run.text)
        return
    assert run.text == run.wanted.text
    limit = run.wanted.asked.max_tokens
    assert run.reason == ("length" if len(tokens) == limit and not stopped(run) else "stop")


def stopped(run: Run) -> bool:
    """Whether a stop string has ended the answer."""
    return bool(run.wanted.asked.stop)


@pytest.fixture(scope="module")
def tiny(folder: Path) -> list[Known]:
    model = folder / "model.onnx"
    return known(model, list(requests(256, 40, 350, seed=0)), MAX_LENGTH)


def test_any_mixture_of_requests_gives_each_its_own_text(folder: Path, tiny: list[Known]) -> None:
    engine = Engine(folder / "model.onnx", "tiny", ROWS, MAX_LENGTH, threads=1)
    rng = np.random.default_rng(1)
    ended = 0
    for _ in range(MIXTURES):
        chosen = rng.integers(0, len(tiny), int(rng.integers(1, 8)))
        runs = mix(engine, [tiny[index] for index in chosen], rng)
        for run in runs:
            check(run)
        ended += sum(run.end is not None and run.end.error is None for run in runs)
    assert ended > MIXTURES


@pytest.mark.parametrize("guesses", [0, 7])
def test_scores_and_constraints_are_those_of_each_request_alone(folder: Path, guesses: int) -> None:
    settings = (folder / "model.onnx", "tiny", ROWS, MAX_LENGTH)
    engine = Engine(*settings, threads=1)
    plain = requests(256, 4 * len(ASKING_MORE), 100, seed=11)
    asked = [replace(one, **ASKING_MORE[i % len(ASKING_MORE)]) for i, one in enumerate(plain)]
    alone = [run_alone(engine, one) for one in asked]
    for run in alone:
        if run.wanted.asked.schema is not None:
            assert json.loads(run.text)["kind"] in ("cat", "dog")
    engine = Engine(*settings, threads=1, most_guesses=guesses)
    rng = np.random.default_rng(12)
    ended = 0
    for _ in range(MIXTURES // 10):
        chosen = [alone[index] for index in rng.integers(0, len(alone), int(rng.integers(2, 8)))]
        runs = mix(engine, [Known(run.wanted.asked, [], run.text) for run in chosen], rng)
        for run, first in zip(runs, chosen, strict=True):
            assert run.end is not None
            if run.end.error is None:
                assert (run.text, run.scores, run.reason) == (
                    first.text,
                    first.scores,
                    first.reason,
                )
                ended += 1
            else:
                assert run.departure is not None
    assert ended > MIXTURES // 10


def run_alone(engine: Engine, asked: GenerationRequest) -> Run:
    """A request that comes alone, and stays."""
    (generation,) = engine.prepare(asked, threading.Event())
    run = Run(Known(asked, [], ""), 0, None, generation)
    return follow(engine, [run])[0]


def test_separate_rows_give_the_same_texts_in_turn(folder: Path) -> None:
    """Without kernels the requests of a mixture do not run together."""
    asked = [one for one in requests(256, 6, 20, seed=3) if len(one.prompt.token_ids) < 100]
    engine = Engine(folder / "model.onnx", "tiny", 2, MAX_LENGTH, threads=1, kernels=False)
    alone = [mix(engine, [Known(one, [], "")], np.random.default_rng(9))[0] for one in asked]
    wanted = [
        Known(run.wanted.asked, run.generation.writer.tokens, run.text)
        for run in alone
        if run.end is not None and run.end.error is None
    ]
    for run in mix(engine, wanted, np.random.default_rng(5)):
        assert run.end is not None
        assert run.wanted.text.startswith(run.text)
        assert run.text == run.wanted.text or run.end.error is not None


@pytest.mark.slow
def test_any_mixture_of_requests_to_smollm2_gives_each_its_own_text(
    smollm2_exported: Exported,
) -> None:
    model = smollm2_exported.out
    wanted = known(model, list(requests(49152, 10, 200, seed=4)), MAX_LENGTH)
    engine = Engine(model, "smollm2", ROWS, MAX_LENGTH, threads=2)
    rng = np.random.default_rng(7)
    for _ in range(3):
        for run in mix(engine, wanted, rng):
            check(run)
