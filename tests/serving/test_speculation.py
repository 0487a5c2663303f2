"""Guessed tokens, right and wrong ones: the texts are those without, and usage says how many."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from resq_onnx.errors import ResqError
from resq_onnx.runtime.draft import Draft
from resq_onnx.serving import guesses
from resq_onnx.serving.engine import Engine
from tests.command_line import error_line, run
from tests.serving.served import COMPLETIONS, served
from tests.serving.test_metrics import metrics
from tests.serving.test_mixtures import (
    ASKING_MORE,
    MAX_LENGTH,
    Known,
    check,
    known,
    mix,
    requests,
    run_alone,
)
from tests.smollm2 import Exported
from tests.tiny_exports import TinyExports

ROWS: Final = 3
MIXTURES: Final = 60
REPEATED: Final = {"prompt": [5, 6, 7, 8, 9] * 12, "max_tokens": 60, "temperature": 0}


class Oracle:
    """Guesses what is to come, and now and then something else."""

    texts: dict[tuple[int, ...], list[int]]
    rng: np.random.Generator

    def __init__(self, most: int) -> None:
        self._most = most
        self._prompt: tuple[int, ...] | None = None
        self._made = 0

    def extend(self, tokens: Iterable[int]) -> None:
        if self._prompt is None:
            self._prompt = tuple(tokens)
        else:
            self._made += len(list(tokens))

    def guess(self, room: int) -> list[int]:
        assert self._prompt is not None
        count = min(int(self.rng.integers(0, self._most + 1)), max(room, 0))
        coming = self.texts[self._prompt][self._made :][:count]
        wrong = self.rng.random(len(coming)) < 0.2
        return [token + 1 if no else token for token, no in zip(coming, wrong, strict=True)]

    def learn(self, guessed: int, right: int) -> None:
        assert 0 <= right <= guessed


def speculate_in_mixtures(
    engine: Engine, wanted: list[Known], monkeypatch: pytest.MonkeyPatch, mixtures: int
) -> tuple[int, int]:
    """Run mixtures of requests; return how many tokens were guessed, and how many were right."""
    monkeypatch.setattr(guesses, "Guesser", Oracle)
    Oracle.texts = {one.asked.prompt.token_ids: one.tokens for one in wanted}
    Oracle.rng = rng = np.random.default_rng(21)
    guessed = right = 0
    for _ in range(mixtures):
        chosen = rng.integers(0, len(wanted), int(rng.integers(1, 6)))
        for one in mix(engine, [wanted[index] for index in chosen], rng):
            check(one)
            guessed += one.generation.writer.guesses.guessed
            right += one.generation.writer.guesses.right
    return guessed, right


def test_any_mixture_with_guesses_gives_each_request_its_own_text(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = folder / "model.onnx"
    wanted = known(model, list(requests(256, 30, 350, seed=20)), MAX_LENGTH)
    engine = Engine(model, "tiny", ROWS, MAX_LENGTH, threads=1, most_guesses=15)
    guessed, right = speculate_in_mixtures(engine, wanted, monkeypatch, MIXTURES)
    assert right > 200
    assert guessed - right > 50


def test_guesses_are_checked_with_a_model_that_gives_the_last_logits_alone(
    tiny_exports: TinyExports, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_exports.model("llama", tied=True).export("--logits", "last")
    wanted = known(model, list(requests(256, 10, 40, seed=27)), 100)
    engine = Engine(model, "tiny", ROWS, 100, threads=1, most_guesses=15)
    guessed, right = speculate_in_mixtures(engine, wanted, monkeypatch, 12)
    assert 20 < right < guessed


def draft_in_mixtures(engine: Engine, wanted: list[Known], mixtures: int) -> tuple[int, int]:
    """As `speculate_in_mixtures`, with the engine's own draft; stop strings cut guesses off."""
    rng = np.random.default_rng(25)
    guessed = right = 0
    for _ in range(mixtures):
        chosen = rng.integers(0, len(wanted), int(rng.integers(1, 6)))
        for one in mix(engine, [wanted[index] for index in chosen], rng):
            check(one)
            if not one.wanted.asked.stop and one.departure is None:
                guessed += one.generation.writer.guesses.guessed
                right += one.generation.writer.guesses.right
    return guessed, right


def test_any_mixture_with_a_draft_gives_each_request_its_own_text(
    folder: Path, tiny_exports: TinyExports
) -> None:
    model = folder / "model.onnx"
    asked = [replace(one, max_tokens=30) for one in requests(256, 30, 90, seed=24)]
    wanted = known(model, asked, MAX_LENGTH)
    settings = (model, "tiny", ROWS, MAX_LENGTH)
    itself = Engine(*settings, threads=1, most_guesses=8, draft=model)
    guessed, right = draft_in_mixtures(itself, wanted, MIXTURES // 2)
    assert guessed == right > 300
    stranger = tiny_exports.model("llama", tied=True).export()
    other = Engine(*settings, threads=1, most_guesses=8, draft=stranger)
    guessed, right = draft_in_mixtures(other, wanted, MIXTURES // 2)
    assert right < guessed


def test_a_draft_keeps_to_penalties_and_schemas(folder: Path) -> None:
    model = folder / "model.onnx"
    plain = requests(256, len(ASKING_MORE), 100, seed=11)
    asked = [replace(one, **more) for one, more in zip(plain, ASKING_MORE, strict=True)]
    settings = (model, "tiny", ROWS, MAX_LENGTH)
    alone = [run_alone(Engine(*settings, threads=1), one) for one in asked]
    engine = Engine(*settings, threads=1, most_guesses=8, draft=model)
    for one, first in zip(asked, alone, strict=True):
        found = run_alone(engine, one)
        assert (found.text, found.scores, found.reason) == (first.text, first.scores, first.reason)
        guesses = found.generation.writer.guesses
        assert guesses.right == guesses.guessed


def test_a_failing_draft_ends_the_requests_and_not_the_server(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = folder / "model.onnx"
    engine = Engine(model, "tiny", 2, MAX_LENGTH, threads=1, most_guesses=4, draft=model)

    def fail(*_: object) -> None:
        raise ResqError("the draft is broken")

    one = next(requests(256, 1, 40, seed=26))
    with monkeypatch.context() as patched:
        patched.setattr(Draft, "guess", fail)
        found = run_alone(engine, replace(one, max_tokens=8))
        assert found.end is not None
        assert "the draft is broken" in str(found.end.error)
    again = run_alone(engine, replace(one, max_tokens=8))
    assert again.end is not None
    assert again.end.error is None


@pytest.mark.slow
def test_any_mixture_with_guesses_gives_smollm2_its_own_texts(
    smollm2_exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = smollm2_exported.out
    wanted = known(model, list(requests(49152, 8, 100, seed=22)), MAX_LENGTH)
    engine = Engine(model, "smollm2", ROWS, MAX_LENGTH, threads=2, most_guesses=15)
    guessed, right = speculate_in_mixtures(engine, wanted, monkeypatch, 3)
    assert 0 < right < guessed
    engine = Engine(model, "smollm2", ROWS, MAX_LENGTH, threads=2, most_guesses=8, draft=model)
    guessed, right = draft_in_mixtures(engine, wanted, 1)
    assert guessed == right > 0


def test_an_answer_with_guesses_is_the_same_up_to_the_last_position(folder: Path) -> None:
    """Where a call with more tokens than are left would not fit."""
    model = folder / "model.onnx"
    (one,) = requests(256, 1, 40, seed=23)
    prompt = one.prompt.token_ids
    longest = len(prompt) + (one.max_tokens or 0)
    texts = []
    for most in (0, 15):
        engine = Engine(model, "tiny", 2, longest, threads=1, most_guesses=most)
        (generation,) = engine.prepare(one, threading.Event())
        engine.batch.add(generation)
        while not engine.batch.is_idle:
            engine.batch.advance()
        assert generation.writer.is_done
        texts.append(generation.writer.tokens)
    assert texts[0] == texts[1]


@pytest.mark.parametrize("drafted", [False, True])
def test_usage_and_metrics_say_how_many_guesses_were_right(
    folder: Path, tmp_path: Path, drafted: bool
) -> None:
    found: list[dict[str, Any]] = []
    speculating: tuple[object, ...] = ("--draft", folder) if drafted else ("--speculate", 15)
    for options in ((), speculating):
        with served(folder, tmp_path / f"{len(found)}.txt", *options) as server:
            status, answer = server.post(COMPLETIONS, REPEATED)
            assert status == 200
            found.append(answer)
            counted = metrics(server)
    plain, guessing = found
    assert plain["choices"] == guessing["choices"]
    assert set(plain["usage"]["completion_tokens_details"].values()) == {0}
    details = guessing["usage"]["completion_tokens_details"]
    right, wrong = details["accepted_prediction_tokens"], details["rejected_prediction_tokens"]
    assert right + wrong > 0
    assert wrong == 0 or not drafted
    assert counted["guessed_tokens_total"] == right + wrong
    assert counted["guessed_tokens_accepted_total"] == right


def test_a_model_whose_guesses_cannot_be_checked_is_refused(folder: Path) -> None:
    with pytest.raises(ResqError, match="guessed tokens cannot be checked"):
        Engine(folder / "model.onnx", "tiny", 1, threads=1, kernels=False, most_guesses=4)
    result = run("serve", folder, "--draft", folder, "--speculate", 0, "--port", 0)
    assert "--draft guesses tokens, and --speculate is 0" in error_line(result.stderr)
    result = run("serve", folder, "--no-kernels", "--speculate", 4, "--port", 0)
    assert result.exit_code == 1
    assert "leave out --speculate and --draft" in error_line(result.stderr).replace("\n", " ")
