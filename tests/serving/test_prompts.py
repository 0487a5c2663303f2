"""Several prompts in one request: each has the answers that it has alone."""

from __future__ import annotations

from typing import Any, Final

import openai
import pytest

from tests.serving.asking import complete

PROMPTS: Final[list[str]] = ["A compound statement", "The import statement", "A compound loop"]


def in_parts(chunks: Any, count: int) -> list[str]:
    """The texts of a stream, by choice."""
    texts = [""] * count
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    return texts


def test_several_prompts_have_the_answers_and_scores_of_each_alone(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"max_tokens": 8, "seed": 3, "logprobs": 1, "echo": True}
    alone = [complete(client, prompt=prompt, **options) for prompt in PROMPTS]
    together = complete(client, prompt=PROMPTS, **options)
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    for choice, answer in zip(together.choices, alone, strict=True):
        assert choice.text == answer.choices[0].text
        assert choice.logprobs == answer.choices[0].logprobs
        assert choice.finish_reason == answer.choices[0].finish_reason
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(together.usage, name) == sum(getattr(one.usage, name) for one in alone)


def test_n_answers_to_each_prompt_come_prompt_by_prompt(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"max_tokens": 6, "seed": 5, "n": 2}
    alone = [complete(client, prompt=prompt, **options) for prompt in PROMPTS[:2]]
    wanted = [choice.text for answer in alone for choice in answer.choices]
    together = complete(client, prompt=PROMPTS[:2], **options)
    assert [choice.text for choice in together.choices] == wanted
    assert together.usage.prompt_tokens == sum(one.usage.prompt_tokens for one in alone)
    assert in_parts(complete(client, prompt=PROMPTS[:2], **options, stream=True), 4) == wanted


def test_prompts_may_be_token_ids(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"max_tokens": 6, "temperature": 0}
    ids = [[5, 6, 7], [9, 8]]
    alone = [complete(client, prompt=one, **options).choices[0].text for one in ids]
    assert [one.text for one in complete(client, prompt=ids, **options).choices] == alone


def test_more_prompts_than_the_server_has_places_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="this server takes at most 4") as found:
        complete(client, prompt=["a"] * 5)
    assert found.value.param == "prompt"
