"""Guessed tokens, right and wrong ones: the texts are those without, and usage says how many."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from resq_onnx.errors import ResqError
from resq_onnx.serving import guesses
from resq_onnx.serving.engine import Engine
from tests.command_line import error_line, run
from tests.serving.served import COMPLETIONS, served
from tests.serving.test_metrics import metrics
from tests.serving.test_mixtures import MAX_LENGTH, Known, check, known, mix, requests
from tests.smollm2 import Exported

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


@pytest.mark.slow
def test_any_mixture_with_guesses_gives_smollm2_its_own_texts(
    smollm2_exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = smollm2_exported.out
    wanted = known(model, list(requests(49152, 8, 100, seed=22)), MAX_LENGTH)
    engine = Engine(model, "smollm2", ROWS, MAX_LENGTH, threads=2, most_guesses=15)
    guessed, right = speculate_in_mixtures(engine, wanted, monkeypatch, 3)
    assert 0 < right < guessed


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


def test_usage_and_metrics_say_how_many_guesses_were_right(folder: Path, tmp_path: Path) -> None:
    found: list[dict[str, Any]] = []
    for speculate in (0, 15):
        log = tmp_path / f"{speculate}.txt"
        with served(folder, log, "--speculate", speculate) as server:
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
    assert counted["guessed_tokens_total"] == right + wrong
    assert counted["guessed_tokens_accepted_total"] == right


def test_a_model_whose_guesses_cannot_be_checked_is_refused(folder: Path) -> None:
    with pytest.raises(ResqError, match="guessed tokens cannot be checked"):
        Engine(folder / "model.onnx", "tiny", 1, threads=1, kernels=False, most_guesses=4)
    result = run("serve", folder, "--no-kernels", "--speculate", 4, "--port", 0)
    assert result.exit_code == 1
    assert "leave out --speculate" in error_line(result.stderr).replace("\n", " ")
