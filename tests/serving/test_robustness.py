"""What clients do wrong, too fast, too slowly, or not at all any more."""

from __future__ import annotations

import json
import shutil
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest

from resq_onnx.serving.bodies import MAX_BODY
from tests.serving.served import CHAT, COMPLETIONS, HELLO, Served, served

ENDLESS: dict[str, Any] = {"max_tokens": 8000}
"""An answer that takes seconds: greedily the model says the same for ever."""

TOO_SHORT = 0.1
"""Seconds in which no machine makes such an answer."""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "cannot be read as JSON"),
        (b'{"prompt": "a"', "cannot be read as JSON"),
        (b'{"prompt": "\xff"}', "cannot be read as JSON: not UTF-8 text (byte 12)"),
        ('{"prompt": "a"}'.encode("utf-16"), "cannot be read as JSON: not UTF-8 text (byte 0)"),
        (b"[1]", "must be a JSON object"),
        (b'{"prompt": "a", "temperature": NaN}', "NaN is no JSON"),
        (b'{"prompt": "\\ud800"}', "half a character (a lone surrogate)"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"prompt": "a", "seed": ' + b"1" * 5000 + b"}", "cannot be read as JSON"),
        (b'{"prompt": ""}', "prompt has no tokens"),
        (b'{"prompt": ["a", 3]}', "prompt must be a text, a list of token ids, or a list of"),
        (b'{"prompt": []}', "prompt must be a text"),
        (b'{"prompt": ["a", ""]}', "prompt has no tokens"),
        (b'{"prompt": [1, 256]}', "token ids must be from 0 to 255"),
    ],
)
def test_a_bad_body_is_refused_with_a_reason(server: Served, body: bytes, reason: str) -> None:
    status, found = server.post(COMPLETIONS, body)
    assert status == 400
    assert reason in found["error"]["message"]


def test_a_prompt_without_room_for_an_answer_is_refused(server: Served) -> None:
    status, found = server.post(COMPLETIONS, {"prompt": [5] * 8192})
    assert status == 400
    assert found["error"]["code"] == "context_length_exceeded"
    assert "takes 8192 tokens, and there would be 8192 of the prompt" in found["error"]["message"]


def test_a_huge_body_is_refused_unread_or_as_soon_as_it_is_too_long(server: Served) -> None:
    count = len(server.lines())
    status, found = server.post(COMPLETIONS, {"prompt": "a" * MAX_BODY})
    assert status == 413
    assert f"more than {MAX_BODY} bytes" in found["error"]["message"]
    connection = server.connect()
    headers = {"Content-Type": "application/json"}
    chunks = (b"a" * 2**16 for _ in range(MAX_BODY // 2**16 + 1))
    connection.request("POST", COMPLETIONS, chunks, headers, encode_chunked=False)
    response = connection.getresponse()
    assert response.status == 413
    response.read()
    connection.close()
    server.wait_for_line(count + 1)  # or the next test would count it as its own


def test_long_prompts_whose_clients_are_gone_hold_up_nobody(server: Served) -> None:
    count, prompt = len(server.lines()), "\N{SPOUTING WHALE}" * ((MAX_BODY - 1000) // 4)
    body = json.dumps({"prompt": prompt}, ensure_ascii=False).encode()
    clients = [server.connect() for _ in range(4)]
    for client in clients:
        client.request("POST", COMPLETIONS, body, {"Content-Type": "application/json"})
        began = time.monotonic()
        server.health()
        assert time.monotonic() - began < 5  # half a second on a machine without tests
    for client in clients:
        client.close()
    server.wait_for_line(count + 3)
    server.wait_for(running=0)
    # 413: a line of the test before, which may come late.
    assert {line.status for line in server.lines()[count:]} <= {400, 413, 429, 499}


def test_only_json_is_read_so_that_no_web_page_can_ask(server: Served) -> None:
    body = {"prompt": "a"}
    assert server.post(COMPLETIONS, body, **{"Content-Type": "text/plain"})[0] == 415
    utf8 = {"Content-Type": "application/json; charset=utf-8"}
    assert server.post(COMPLETIONS, body, **utf8)[0] == 200


def test_unknown_paths_and_methods_are_refused_in_the_same_form(server: Served) -> None:
    status, found = server.post("/v1/embeddings", {})
    assert status == 404
    assert "there are /v1/chat/completions" in found["error"]["message"]
    assert server.post("/v1/models", {})[0] == 405


def test_more_requests_than_places_are_told_to_come_back(server: Served) -> None:
    running = [server.begin_stream(**ENDLESS) for _ in range(2)]
    with ThreadPoolExecutor(2) as threads:
        waiting = [
            threads.submit(server.post, COMPLETIONS, {"prompt": "a", "max_tokens": 1})
            for _ in range(2)
        ]
        server.wait_for(running=2, waiting=2)
        with pytest.raises(
            openai.RateLimitError, match="2 requests are running and 2 waiting"
        ) as found:
            server.client().completions.create(model="tiny", prompt="a")
        assert found.value.response.headers["retry-after"] == "2"
        for connection in running:
            connection.close()
        assert [one.result()[0] for one in waiting] == [200, 200]
    server.wait_for(running=0)


def test_many_clients_at_once_all_get_their_own_answers(server: Served) -> None:
    client = server.client(max_retries=30)
    prompts = [f"{word} statement" for word in ("if", "while", "for", "try", "with", "def")]

    def say(prompt: str) -> str:
        answer = client.completions.create(
            model="tiny", prompt=prompt, max_tokens=20, temperature=0
        )
        return answer.choices[0].text

    alone = [say(prompt) for prompt in prompts]
    assert len(set(alone)) > 1
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(say, prompts * 2)) == alone * 2


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_ends_its_generation(server: Served, stream: bool) -> None:
    count = len(server.lines())
    if stream:
        connection = server.begin_stream(**ENDLESS)
    else:
        connection = server.connect()
        body = json.dumps({"messages": HELLO, "temperature": 0, **ENDLESS})
        connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
        server.wait_for(running=1)
    connection.close()
    line = server.wait_for_line(count)
    assert (line.status, line.reason) == (499, "client_closed_request")
    assert line.new_tokens < ENDLESS["max_tokens"]
    server.wait_for(running=0)


def test_a_client_that_goes_gives_up_its_place_in_the_queue(server: Served) -> None:
    running = [server.begin_stream(**ENDLESS) for _ in range(2)]
    waiting = server.connect()
    body = json.dumps({"messages": HELLO})
    waiting.request("POST", CHAT, body, {"Content-Type": "application/json"})
    server.wait_for(running=2, waiting=1)
    waiting.close()
    server.wait_for(running=2, waiting=0)
    for connection in running:
        connection.close()
    server.wait_for(running=0)


def test_a_client_that_reads_nothing_holds_up_nobody(server: Served) -> None:
    connection = server.connect()
    body = json.dumps({"messages": HELLO, "temperature": 0, "stream": True, **ENDLESS})
    connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
    # Its pieces pile up, and its place is free as soon as they are made.
    server.wait_for(running=1)
    assert server.post(COMPLETIONS, {"prompt": "a"})[0] == 200
    server.wait_for(running=0)
    text = connection.getresponse().read().decode()
    connection.close()
    assert text.endswith("data: [DONE]\n\n")
    assert text.count("data: ") > 1000


def test_a_request_that_takes_too_long_is_ended(folder: Path, tmp_path: Path) -> None:
    with served(folder, tmp_path / "log.txt", "--timeout", TOO_SHORT) as server:
        client = server.client(max_retries=2)
        options: Any = {"model": "tiny", "messages": HELLO, "temperature": 0, **ENDLESS}
        begun = time.monotonic()
        with pytest.raises(
            openai.InternalServerError, match=f"longer than {TOO_SHORT} seconds"
        ) as found:
            client.chat.completions.create(**options)
        assert time.monotonic() - begun >= TOO_SHORT
        assert found.value.status_code == 504
        stream = client.chat.completions.create(**options, stream=True)
        with pytest.raises(openai.APIError, match=f"longer than {TOO_SHORT} seconds"):
            list(stream)
        server.wait_for_line(1)
        assert [(line.status, line.reason) for line in server.lines()] == [(504, "timeout")] * 2


LOOPS = """
{%- for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"""


def test_a_template_that_loops_is_an_error_of_its_request_and_holds_up_no_end(
    folder: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(folder, tmp_path / "tiny")
    (model / "chat_template.jinja").write_text(LOOPS)
    faster = "from resq_onnx.runtime import chat; chat.SECONDS = 1"
    with served(model, tmp_path / "log.txt", before=faster) as server:
        status, found = server.post(CHAT, {"messages": HELLO})
        assert status == 400
        assert "the chat template takes longer than 1 seconds" in found["error"]["message"]
        assert server.post(COMPLETIONS, {"prompt": "a", "max_tokens": 1})[0] == 200
    with served(model, tmp_path / "log.txt") as server:
        connection = server.connect()
        body = json.dumps({"messages": HELLO})
        connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
        server.wait_for(running=1)
        began = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 5
        connection.close()


DEAF = """
import time
from resq_onnx.runtime.ragged import RaggedDecoder
RaggedDecoder.run_rows = lambda self, *given: time.sleep(60)
"""
"""A model of which one run takes a minute."""


def test_a_run_of_the_model_that_takes_long_holds_up_no_end(folder: Path, tmp_path: Path) -> None:
    with served(folder, tmp_path / "log.txt", before=DEAF) as server:
        connection = server.connect()
        body = json.dumps({"messages": HELLO})
        connection.request("POST", CHAT, body, {"Content-Type": "application/json"})
        server.wait_for(running=1)
        began = time.monotonic()
        assert server.stop(signal.SIGINT) == 0
        assert time.monotonic() - began < 5
        assert server.log.read_text().endswith("stopped\n")
        connection.close()


DAMAGED = """
import numpy as np
from resq_onnx.runtime.ragged import RaggedDecoder
run_rows = RaggedDecoder.run_rows
RaggedDecoder.run_rows = lambda self, *given: run_rows(self, *given) * np.nan
"""
"""A model that computes what is not a number."""


def test_a_model_that_computes_no_numbers_is_an_error_that_says_so(
    folder: Path, tmp_path: Path
) -> None:
    with served(folder, tmp_path / "log.txt", before=DAMAGED) as server:
        for wishes in ({"temperature": 0}, {"temperature": 1}, {"top_p": 0.9}):
            status, found = server.post(COMPLETIONS, {"prompt": [5, 6, 7], **wishes})
            assert status == 500
            assert found["error"]["code"] == "model_error"
            assert "not finite for new token 1, at position 3" in found["error"]["message"]
        stream = server.client().completions.create(model="tiny", prompt=[5, 6, 7], stream=True)
        with pytest.raises(openai.APIError, match="not finite for new token 1"):
            list(stream)
        server.wait_for_line(3)
        assert [(line.status, line.reason) for line in server.lines()] == [(500, "model_error")] * 4
        assert "Traceback" not in server.log.read_text()


def test_the_log_has_a_line_for_each_request_and_no_prompt(folder: Path, tmp_path: Path) -> None:
    with served(folder, tmp_path / "log.txt") as server:
        server.post(COMPLETIONS, {"prompt": "a very secret prompt", "max_tokens": 3, "seed": 1})
        server.post(COMPLETIONS, {"prompt": "a very secret prompt", "suffix": "x"})
        first, second = server.wait_for_line(0), server.wait_for_line(1)
        assert (first.path, first.status, first.reason) == (COMPLETIONS, 200, "length")
        assert (first.prompt_tokens > 0, first.new_tokens) == (True, 3)
        assert (second.status, second.reason) == (400, "unsupported_parameter")
        assert "secret" not in server.log.read_text()
