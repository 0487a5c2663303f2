"""The real `openai` client against a server that the command line started."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from tests.command_line import run_successfully
from tests.serving.asking import PROMPT, chat, complete


def test_the_model_is_listed_under_the_name_of_its_folder(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "resq-onnx"
    with pytest.raises(openai.NotFoundError, match="'gpt' is not served here; this is 'tiny'"):
        client.models.retrieve("gpt")
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.completions.create(model="gpt", prompt="a")


def test_greedy_answers_are_what_generate_says(client: openai.OpenAI, folder: Path) -> None:
    model = folder / "model.onnx"
    said = run_successfully("generate", model, "--prompt", PROMPT, "--max-new-tokens", 24).stdout
    found = complete(client, max_tokens=24, temperature=0)
    assert f"{PROMPT}{found.choices[0].text}\n" == said
    said = run_successfully(
        "generate", model, "--chat", "--prompt", "hello", "--max-new-tokens", 24
    ).stdout
    answer = chat(client, max_tokens=24, temperature=0)
    assert f"{answer.choices[0].message.content}\n" == said
    assert answer.choices[0].finish_reason == "length"


def test_sampled_answers_are_what_generate_says_with_the_same_seed(
    client: openai.OpenAI, folder: Path
) -> None:
    options = {"temperature": 0.9, "top_p": 0.8, "seed": 7}
    said = run_successfully(
        "generate", folder / "model.onnx", "--prompt", PROMPT, "--max-new-tokens", 24,
        "--temperature", 0.9, "--top-p", 0.8, "--seed", 7,
    ).stdout  # fmt: skip
    assert f"{PROMPT}{complete(client, max_tokens=24, **options).choices[0].text}\n" == said


def test_a_stream_says_what_the_whole_answer_does(client: openai.OpenAI) -> None:
    options = {"max_tokens": 30, "seed": 5}
    whole = chat(client, **options)
    chunks = list(chat(client, **options, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[-3:-1]] == [None, "length"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens == 30
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_of_a_completion_says_what_the_whole_one_does(client: openai.OpenAI) -> None:
    whole = complete(client, seed=5)
    chunks = list(complete(client, seed=5, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"
    assert whole.usage.completion_tokens == 16


def test_the_same_seed_gives_the_same_answer_and_no_seed_another(client: openai.OpenAI) -> None:
    def say(**options: int) -> str:
        return str(chat(client, max_tokens=40, **options).choices[0].message.content)

    assert say(seed=-3) == say(seed=-3) != say(seed=3)
    assert say() != say()


def test_the_model_ends_its_answer_by_a_stop_token(client: openai.OpenAI) -> None:
    answer = chat(client, temperature=2, seed=0, max_completion_tokens=4000)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens < 4000


def test_nothing_of_a_stop_string_is_sent_wherever_tokens_cut_it(client: openai.OpenAI) -> None:
    options = {"max_tokens": 60, "seed": 11}
    text = str(chat(client, **options).choices[0].message.content)
    for start in range(5, len(text) - 9, 3):
        stop = text[start : start + 6]
        expected = text[: text.find(stop)]
        chunks = list(chat(client, **options, stop=["never said", stop], stream=True))
        found = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert found == expected
        assert chunks[-1].choices[0].finish_reason == "stop"
    assert chat(client, **options, stop=stop).choices[0].message.content == expected


def test_top_k_of_one_and_min_p_of_one_are_greedy(client: openai.OpenAI) -> None:
    options = {"temperature": 2, "max_tokens": 20}
    greedy = chat(client, temperature=0, max_tokens=20).choices[0].message.content
    for only in ({"top_k": 1}, {"min_p": 1}):
        assert chat(client, **options, extra_body=only).choices[0].message.content == greedy
    assert chat(client, **options, seed=1).choices[0].message.content != greedy


def test_a_bias_forces_or_bans_a_token(client: openai.OpenAI, folder: Path) -> None:
    from resq_onnx.runtime import Tokenizer

    token = Tokenizer.load(folder).encode("x", add_special_tokens=False)[0]
    options = {"temperature": 0, "max_tokens": 5}
    assert complete(client, **options, logit_bias={token: 100}).choices[0].text == "xxxxx"
    found = complete(client, **options, logit_bias={token: 100}, frequency_penalty=2)
    assert found.choices[0].text == "xxxxx"
    drawn = {"max_tokens": 200, "temperature": 2, "seed": 1, "logprobs": 0}
    likely, banned = (
        complete(client, **drawn, logit_bias=bias).choices[0].logprobs.tokens
        for bias in ({token: 8}, {token: -100})
    )
    assert "x" in likely
    assert "x" not in banned
    with pytest.raises(openai.BadRequestError, match="token ids must be from 0 to 255"):
        complete(client, logit_bias={256: 1})


def test_the_choices_of_a_request_are_answers_with_seeds_of_their_own(
    client: openai.OpenAI,
) -> None:
    options = {"max_tokens": 12, "temperature": 1.2}
    alone = [chat(client, **options, seed=seed).choices[0].message.content for seed in (20, 21, 22)]
    whole = chat(client, **options, seed=20, n=3)
    assert [choice.message.content for choice in whole.choices] == alone
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert whole.usage.completion_tokens == 36
    texts = ["", "", ""]
    reasons: dict[int, str] = {}
    for chunk in chat(client, **options, seed=20, n=3, stream=True):
        (choice,) = chunk.choices
        texts[choice.index] += choice.delta.content or ""
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts == alone
    assert reasons == dict.fromkeys(range(3), "length")
    found = complete(client, **options, seed=20, n=2)
    assert found.choices[0].text == complete(client, **options, seed=20).choices[0].text
    assert found.choices[1].text == complete(client, **options, seed=21).choices[0].text


def test_token_ids_and_text_parts_are_prompts_as_well(client: openai.OpenAI, folder: Path) -> None:
    from resq_onnx.runtime import Tokenizer

    ids = Tokenizer.load(folder).encode(PROMPT)
    by_text, by_ids = complete(client, seed=1), complete(client, prompt=ids, seed=1)
    assert by_text.choices[0].text == by_ids.choices[0].text
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    messages = [{"role": "user", "content": parts}]
    options = {"seed": 1, "max_tokens": 9}
    found = chat(client, messages=messages, **options).choices[0].message.content
    assert found == chat(client, **options).choices[0].message.content


def test_the_next_turn_of_a_conversation_begins_where_the_last_one_ended(
    client: openai.OpenAI,
) -> None:
    question = {"role": "user", "content": "What is an expression list, and what is it for?"}
    first = chat(client, messages=[question], temperature=0, max_tokens=20)
    answer = {"role": "assistant", "content": first.choices[0].message.content}
    turn = [question, answer, {"role": "user", "content": "And then?"}]
    second = chat(client, messages=turn, temperature=0, max_tokens=20)
    known = second.usage.prompt_tokens_details.cached_tokens
    assert first.usage.prompt_tokens - 5 < known < second.usage.prompt_tokens


@pytest.mark.parametrize(
    ("options", "param", "reason"),
    [
        ({"n": 129}, "n", "from 1 to 128"),
        ({"n": 5}, "n", "for 5 answers, n to each prompt; this server takes at most 4"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools", "leave out tools"),
        ({"extra_body": {"suffix": "a"}}, "suffix", "suffix is not supported"),
        ({"temperature": 3}, "temperature", "from 0 to 2"),
        ({"max_tokens": 8190}, "max_tokens", "takes 8192 tokens, and there would be"),
        ({"stop": [""]}, "stop", "each of 1 to 1000 characters"),
        ({"messages": [{"role": "robot", "content": "a"}]}, "messages[0].role", "must be one of"),
    ],
)
def test_what_cannot_be_done_is_refused(
    client: openai.OpenAI, options: dict[str, Any], param: str, reason: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=reason) as found:
        chat(client, **options)
    assert found.value.param == param
    assert found.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError, match=reason):
        chat(client, **options, stream=True)


def test_harmless_fields_are_let_pass(client: openai.OpenAI) -> None:
    answer = chat(
        client, max_tokens=1, n=1, user="me", metadata={"a": "b"}, store=False, logit_bias={},
        presence_penalty=0.0, response_format={"type": "text"}, extra_body={"unheard_of": 1},
    )  # fmt: skip
    assert answer.usage.completion_tokens == 1
