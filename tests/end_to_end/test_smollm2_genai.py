"""A real model in onnxruntime-genai: SmolLM2 exported for it, held against our own session."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final

import numpy as np
import onnxruntime_genai as og
import pytest

from resq_onnx.runtime import BufferedDecoder, Tokenizer, create_session, generate
from tests.command_line import run_successfully
from tests.handoff.genai import begin
from tests.smollm2 import Exported

pytestmark = pytest.mark.slow

QUICK: Final = ("--weights", "rtn")
"""Which tokens come out does not matter here, only that both say the same."""

QUESTIONS: Final = (
    "What is the capital of France?",
    "Write a short poem about the sea, and do not forget the salt in the wind.",
    "Why?",
)
NEW: Final = 24

MUCH_WORSE: Final = 0.5
"""Nats per token. A search may lose a little to greedy choice, whose beginning it can drop; one
that mixes up the beams' caches goes on with another text, whose tokens are far less likely."""


@pytest.fixture(scope="module")
def exported(
    smollm2: Path, smollm2_exported: Exported, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "model.onnx"
    known = ("--projections", smollm2_exported.projections)
    run_successfully("export", smollm2, out, "--target", "genai", *known, *QUICK)
    return out


@pytest.fixture(scope="module")
def tokenizer(exported: Path) -> Tokenizer:
    return Tokenizer.load(exported.parent)


@pytest.fixture(scope="module")
def prompts(tokenizer: Tokenizer) -> list[list[int]]:
    texts = (
        tokenizer.apply_chat_template([{"role": "user", "content": question}])
        for question in QUESTIONS
    )
    return [tokenizer.encode(text, add_special_tokens=False) for text in texts]


@pytest.fixture(scope="module")
def answers(exported: Path, tokenizer: Tokenizer, prompts: list[list[int]]) -> list[list[int]]:
    """What our own session says to each, greedily, without the token that ends it."""
    decoder = BufferedDecoder(create_session(exported), 256)
    stops = tokenizer.stop_ids
    return [list(generate(decoder, prompt, NEW, stop_ids=stops)) for prompt in prompts]


@pytest.fixture(scope="module")
def model(exported: Path) -> Any:
    return og.Model(str(exported.parent))


def generator(model: Any, prompts: Sequence[Sequence[int]], **options: Any) -> Any:
    width = max(map(len, prompts))
    return begin(model, prompts, **{"max_length": width + NEW, "do_sample": False, **options})


def test_the_card_states_licence_and_figures(exported: Path) -> None:
    card = (exported.parent / "README.md").read_text()
    quality = json.loads((exported.parent / "resq.json").read_text())["quality"]
    assert "license: apache-2.0" in card
    assert f"| {quality['kl_divergence']:.3f} |" in card
    assert "og.Model" in card


def test_the_tokenizers_agree_on_prose_and_on_a_chat(
    model: Any, tokenizer: Tokenizer, prompts: list[list[int]]
) -> None:
    theirs = og.Tokenizer(model)
    for text in (*list(topics.values())[:3], "naïve — 汉字 🌊\t\n"):
        assert [int(token) for token in theirs.encode(text)] == tokenizer.encode(text)
    messages = json.dumps([{"role": "user", "content": QUESTIONS[0]}])
    chat = theirs.apply_chat_template(messages, add_generation_prompt=True)
    assert [int(token) for token in theirs.encode(chat)] == prompts[0]


@pytest.mark.parametrize("shared", [True, False], ids=["shared buffer", "concatenation"])
def test_streamed_text_is_that_of_our_own_session(
    model: Any,
    prompts: list[list[int]],
    answers: list[list[int]],
    tokenizer: Tokenizer,
    shared: bool,
) -> None:
    running = generator(model, prompts[1:2], past_present_share_buffer=shared)
    stream, pieces = og.Tokenizer(model).create_stream(), []
    while not running.is_done():
        running.generate_next_token()
        pieces.append(stream.decode(running.get_next_tokens()[0]))
    assert len(answers[1]) == NEW
    assert running.get_sequence(0)[len(prompts[1]) :].tolist() == answers[1]
    assert "".join(pieces) == tokenizer.decode(answers[1])


@pytest.mark.parametrize("shared", [True, False], ids=["shared buffer", "concatenation"])
def test_chats_of_unequal_length_run_in_one_batch(
    model: Any, prompts: list[list[int]], answers: list[list[int]], shared: bool
) -> None:
    """Padding lies between prompt and answer: sums are equal to 10⁻⁵ then, and so are tokens."""
    running = generator(model, prompts, past_present_share_buffer=shared)
    while not running.is_done():
        running.generate_next_token()
    width = max(map(len, prompts))
    for row, answer in enumerate(answers):
        assert running.get_sequence(row)[width : width + len(answer)].tolist() == answer


def test_the_best_of_one_beam_is_greedy_and_of_three_is_about_as_likely(
    exported: Path, model: Any, prompts: list[list[int]], answers: list[list[int]]
) -> None:
    decoder = BufferedDecoder(create_session(exported), 256)
    found = []
    for beams in (1, 3):
        running = generator(model, prompts[1:2], num_beams=beams)
        while not running.is_done():
            running.generate_next_token()
        found.append(running.get_sequence(0)[len(prompts[1]) :].tolist())
    assert found[0] == answers[1]
    greedy, beam = (likelihood(decoder, prompts[1], answer) for answer in found)
    assert beam > greedy - MUCH_WORSE


def likelihood(decoder: BufferedDecoder, prompt: list[int], answer: list[int]) -> float:
    """Mean logarithm of the probability of an answer's tokens."""
    decoder.reset()
    logits, total = decoder.run(np.array([prompt]))[0].astype(np.float64), 0.0
    for token in answer:
        total += logits[token] - logits.max() - np.log(np.exp(logits - logits.max()).sum())
        logits = decoder.run(np.array([[token]]))[0].astype(np.float64)
    return total / len(answer)
