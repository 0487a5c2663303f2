"""Answers: where they end, how they are drawn, and what cannot be asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from lm_eval.models.utils import normalize_gen_kwargs

from resq_onnx.errors import ResqError
from resq_onnx.harness.answering import Answerer, GenerationOptions
from resq_onnx.runtime import BufferedDecoder, Tokenizer, create_session, generate

PROMPT = "A compound statement"
LENGTH = 64


@pytest.fixture(scope="module")
def tokenizer(exported: Path) -> Tokenizer:
    return Tokenizer.load(exported.parent)


@pytest.fixture(scope="module")
def answerer(exported: Path, tokenizer: Tokenizer) -> Answerer:
    return Answerer(create_session(exported, threads=1), tokenizer, LENGTH)


def greedy_ids(exported: Path, tokenizer: Tokenizer, prompt: list[int], count: int) -> list[int]:
    decoder = BufferedDecoder(create_session(exported, threads=1), LENGTH)
    return list(generate(decoder, prompt, count, stop_ids=tokenizer.stop_ids))


def test_an_answer_is_what_generate_gives(
    answerer: Answerer, exported: Path, tokenizer: Tokenizer
) -> None:
    prompt = tokenizer.encode(PROMPT)
    expected = tokenizer.decode(greedy_ids(exported, tokenizer, prompt, 20))
    assert len(expected) > 10
    assert answerer.answer(prompt, GenerationOptions((), 20), seed=0) == expected


def test_an_answer_ends_before_the_first_of_its_stop_strings(
    answerer: Answerer, tokenizer: Tokenizer
) -> None:
    prompt = tokenizer.encode(PROMPT)
    whole = answerer.answer(prompt, GenerationOptions((), 20), seed=0)
    early, late = whole[4:6], whole[8:11]
    assert "" not in (early, late)
    answer = answerer.answer(prompt, GenerationOptions((late, "no such string", early), 20), seed=0)
    assert answer == whole[: min(whole.find(early), whole.find(late))]


def test_a_stop_string_that_is_a_special_token_ends_an_answer(
    answerer: Answerer, exported: Path, tokenizer: Tokenizer
) -> None:
    prompt = tokenizer.encode(PROMPT)
    ids = greedy_ids(exported, tokenizer, prompt, 20)
    token = ids[5]
    name = tokenizer.backend.id_to_token(token)
    assert name is not None
    expected = tokenizer.decode(ids[: ids.index(token)])
    assert answerer.answer(prompt, GenerationOptions((name,), 20), seed=0) == expected


def test_of_a_long_prompt_the_end_is_read(answerer: Answerer, tokenizer: Tokenizer) -> None:
    prompt = tokenizer.encode(PROMPT) * 20
    assert len(prompt) > LENGTH
    options = GenerationOptions((), 10)
    assert answerer.answer(prompt, options, 0) == answerer.answer(prompt[10 - LENGTH :], options, 0)


def test_an_answer_that_leaves_no_room_for_a_prompt_is_refused(answerer: Answerer) -> None:
    with pytest.raises(ResqError, match=r"64 tokens, but the model reads at most 64 "):
        answerer.answer([1], GenerationOptions((), LENGTH), 0)


def test_drawn_answers_depend_on_the_seed(answerer: Answerer, tokenizer: Tokenizer) -> None:
    prompt, options = tokenizer.encode(PROMPT), GenerationOptions((), 20, temperature=1.0)
    first, again, other = (answerer.answer(prompt, options, seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"until": "\n", "max_gen_toks": 7}, GenerationOptions(("\n",), 7)),
        (
            {"until": ["a", ""], "do_sample": False, "temperature": 0.0},
            GenerationOptions(("a",), 256),
        ),
        (
            {"do_sample": False, "top_p": 0.5, "top_k": 3, "num_beams": 1},
            GenerationOptions((), 256),
        ),
        ({"do_sample": True}, GenerationOptions((), 256, 1.0)),
        ({"temperature": 0.7, "top_p": 0.9}, GenerationOptions((), 256, 0.7, 0.9)),
    ],
)
def test_a_tasks_options_are_understood(
    options: dict[str, object], expected: GenerationOptions
) -> None:
    assert GenerationOptions.of(normalize_gen_kwargs(options)) == expected


@pytest.mark.parametrize(
    "options",
    [{"num_beams": 4}, {"repetition_penalty": 1.3}, {"temperature": 0.5, "top_k": 40}],
)
def test_an_option_that_generation_lacks_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ResqError, match=rf"{list(options)[-1]} is not supported"):
        GenerationOptions.of(normalize_gen_kwargs(options))
