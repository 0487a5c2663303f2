"""Log-probabilities of answers and of prompts, through the real `openai` client."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from resq_onnx.runtime import Decoder, Tokenizer, create_session
from resq_onnx.serving.engine import Engine
from resq_onnx.serving.events import Piece
from resq_onnx.serving.logprobs import text_logprobs
from resq_onnx.serving.protocol import GenerationRequest, Prompt
from resq_onnx.serving.refusals import RefusalError
from resq_onnx.serving.rows import SeparateRows, SharedRows
from tests.serving import asking
from tests.serving.asking import chat
from tests.serving.served import HELLO
from tests.tiny_exports import TinyExports
from tests.tiny_models import write_tokenizer

PROMPT = "A compound statement: it ends"

NOISE = 0.25
"""Mean difference of log-probabilities between kernels and function bodies: a number that falls on
the other side of a rounding changes what follows, most in a tiny model. 0.13 was seen; scores of a
neighbouring token are 1 apart."""


def complete(client: openai.OpenAI, **options: Any) -> Any:
    return asking.complete(client, **({"prompt": PROMPT} | options))


def expected(folder: Path, ids: list[int]) -> Any:
    """Log-probabilities of each token after the first, and all of them, (tokens, vocabulary)."""
    logits, _ = Decoder(create_session(folder / "model.onnx", 1)).run(np.array([ids]))
    rows = logits[0, :-1].astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows[np.arange(len(ids) - 1), ids[1:]], rows


def test_the_tokens_of_a_chat_have_their_probabilities_before_temperature_and_penalties(
    client: openai.OpenAI, folder: Path
) -> None:
    options = {"seed": 3, "max_tokens": 12, "temperature": 1.5, "presence_penalty": 1.0}
    (choice,) = chat(client, **options, logprobs=True, top_logprobs=3).choices
    found = choice.logprobs.content
    plain = chat(client, **options).choices[0]
    assert plain.message.content == choice.message.content
    assert plain.logprobs is None
    said = b"".join(bytes(token.bytes) for token in found)
    assert said.decode(errors="replace") == choice.message.content
    tokenizer = Tokenizer.load(folder)
    prompt = tokenizer.encode(tokenizer.apply_chat_template(HELLO), add_special_tokens=False)
    names = {name: token for token, name in tokenizer.token_bytes.items()}
    ids = prompt + [names[bytes(token.bytes)] for token in found]
    wanted, rows = expected(folder, ids)
    np.testing.assert_allclose([t.logprob for t in found], wanted[len(prompt) - 1 :], atol=1e-9)
    for token, row in zip(found, rows[len(prompt) - 1 :], strict=True):
        best = [names[bytes(one.bytes)] for one in token.top_logprobs]
        assert best == list(np.argsort(-row, kind="stable")[:3])
        assert token.top_logprobs[0].logprob == pytest.approx(row.max())


def test_a_stream_has_the_probabilities_of_the_whole_answer(client: openai.OpenAI) -> None:
    options = {"seed": 3, "max_tokens": 20, "logprobs": True, "top_logprobs": 2, "stop": "zz"}
    whole = chat(client, **options).choices[0].logprobs.content
    chunks = list(chat(client, **options, stream=True))
    scored = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert [token for one in scored for token in one.content] == whole
    assert len(whole) == 20


def test_a_completion_has_its_prompt_and_the_probabilities_of_all_tokens(
    client: openai.OpenAI, folder: Path
) -> None:
    tokenizer = Tokenizer.load(folder)
    ids = tokenizer.encode(PROMPT)
    options = {"max_tokens": 4, "temperature": 0, "echo": True, "logprobs": 2}
    for prompt in (PROMPT, ids):
        (choice,) = complete(client, prompt=prompt, **options).choices
        scores = choice.logprobs
        assert choice.text.startswith(PROMPT)
        wanted, rows = expected(folder, ids)
        assert scores.token_logprobs[0] is None
        assert scores.top_logprobs[0] is None
        assert len(scores.tokens) == len(ids) + 4
        np.testing.assert_allclose(scores.token_logprobs[1 : len(ids)], wanted, atol=1e-9)
        for top, row in zip(scores.top_logprobs[1 : len(ids)], rows, strict=True):
            assert max(top.values()) == pytest.approx(row.max())
        assert scores.text_offset[0] == 0
        for token, offset in zip(scores.tokens, scores.text_offset, strict=True):
            if not token.startswith(("bytes:", "<unk>")):
                assert choice.text.startswith(token, offset)


def test_no_new_token_is_needed_to_score_a_prompt(client: openai.OpenAI) -> None:
    options = {"echo": True, "logprobs": 0, "temperature": 0}
    none, one = (complete(client, max_tokens=count, **options) for count in (0, 1))
    assert none.choices[0].text == PROMPT
    assert none.choices[0].finish_reason == "length"
    assert none.usage.completion_tokens == 0
    scores = one.choices[0].logprobs.token_logprobs
    assert none.choices[0].logprobs.token_logprobs == scores[:-1]
    again = complete(client, max_tokens=1, n=2, **options)
    assert [choice.logprobs.token_logprobs[: len(scores) - 1] for choice in again.choices] == [
        scores[:-1]
    ] * 2
    assert complete(client, max_tokens=1, echo=True).choices[0].text.startswith(PROMPT)


def test_a_stream_of_a_completion_begins_with_its_prompt(client: openai.OpenAI) -> None:
    options = {"echo": True, "logprobs": 1, "max_tokens": 9, "seed": 8}
    whole = complete(client, **options).choices[0]
    chunks = [chunk.choices[0] for chunk in complete(client, **options, stream=True)]
    assert chunks[0].text == PROMPT
    assert "".join(chunk.text for chunk in chunks) == whole.text
    scored = [chunk.logprobs for chunk in chunks if chunk.logprobs]
    for name in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        joined = [value for one in scored for value in getattr(one, name)]
        assert joined == getattr(whole.logprobs, name)


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
        ({"logprobs": 1}, "logprobs"),
    ],
)
def test_what_a_chat_cannot_have_is_refused(
    client: openai.OpenAI, options: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as found:
        chat(client, **options)
    assert found.value.param == param


def request(**changes: Any) -> GenerationRequest:
    prompt = Prompt(token_ids=tuple(range(3, 60)))
    settings = {"max_tokens": 3, "echo": True, "logprobs": 0} | changes
    return GenerationRequest(
        prompt, temperature=0.0, top_p=1.0, seed=0, stop=(), stream=False, include_usage=False,
        **settings,
    )  # fmt: skip


def test_a_file_with_the_last_logits_alone_scores_answers_and_no_prompts(
    tiny_exports: TinyExports,
) -> None:
    model = tiny_exports.model("llama", tied=True).export("--logits", "last")
    engine = Engine(model, "tiny", 1, 64, threads=1)
    with pytest.raises(RefusalError, match="exported with --logits last") as found:
        engine.prepare(request(), threading.Event())
    assert found.value.param == "echo"
    assert len(engine.prepare(request(echo=False), threading.Event())) == 1


def test_a_prompt_has_the_same_scores_in_slices_beside_others_and_without_kernels(
    folder: Path,
) -> None:
    found = []
    for kernels, kind in ((True, SharedRows), (False, SeparateRows)):
        engine = Engine(folder / "model.onnx", "tiny", 2, 256, threads=1, kernels=kernels)
        assert isinstance(engine.batch._rows, kind)
        other = request(echo=False, logprobs=None) if kernels else request()
        for asked in (other, request()):
            engine.batch.add(engine.prepare(asked, threading.Event())[0])
        told = []
        while not engine.batch.is_idle:
            told += engine.batch.advance()
        scores = [
            generation.writer.prompt_scores.found
            for generation, _ in told
            if generation.writer.prompt_scores
        ]
        found.append([token.log_probability or 0.0 for token in scores[-1]])
    assert len(found[0]) == 57
    kernels_found, bodies_found = map(np.array, found)
    assert np.abs(kernels_found - bodies_found).mean() < NOISE
    assert np.abs(kernels_found[1:] - bodies_found[:-1]).mean() > 2 * NOISE


def test_what_the_tokenizer_puts_before_a_prompt_is_scored_and_no_part_of_the_text(
    folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "tiny")
    write_tokenizer(copy, 256, adds_bos=True)
    engine = Engine(copy / "model.onnx", "tiny", 1, 256, threads=1)
    asked = request(logprobs=0, max_tokens=0)
    asked = replace(asked, prompt=Prompt(text="a compound"))
    (generation,) = engine.prepare(asked, threading.Event())
    engine.batch.add(generation)
    told = []
    while not engine.batch.is_idle:
        told += [event for _, event in engine.batch.advance()]
    (echo,) = [event for event in told if isinstance(event, Piece)]
    assert echo.text == "a compound"
    found = text_logprobs(echo.scores, 0)
    assert found is not None
    assert found["tokens"][0] == "<s>"
    assert found["text_offset"][:3] == [0, 0, len(found["tokens"][1])]
    assert "".join(found["tokens"][1:]) == echo.text
