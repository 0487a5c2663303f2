"""What /metrics says of requests that ran, run, wait and were refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.served import CHAT, COMPLETIONS, HELLO, Served, served

PROMPT_TOKENS, NEW_TOKENS = 3, 5
PROMPT = {"prompt": [5, 6, 7], "max_tokens": NEW_TOKENS, "temperature": 0}


@pytest.fixture
def fresh(folder: Path, tmp_path: Path) -> Iterator[Served]:
    with served(folder, tmp_path / "log.txt", "--max-concurrent", 1) as found:
        yield found


def metrics(server: Served, **headers: str) -> dict[str, float]:
    """Each sample, by its name without `resq_onnx_`, and its labels."""
    connection = server.connect()
    connection.request("GET", "/metrics", headers=headers)
    response = connection.getresponse()
    text = response.read().decode()
    assert response.status == 200, text
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            labels = ",".join(sample.labels.values())
            name = sample.name.removeprefix("resq_onnx_")
            found[f"{name}{{{labels}}}" if labels else name] = sample.value
    connection.close()
    return found


def test_tokens_and_times_are_those_of_the_answers(fresh: Served) -> None:
    before = metrics(fresh)
    assert before["prompt_tokens_total"] == before["generated_tokens_total"] == 0
    for _ in range(2):
        assert fresh.post(COMPLETIONS, PROMPT)[0] == 200
    after = metrics(fresh)
    assert after["prompt_tokens_total"] == 2 * PROMPT_TOKENS
    assert after["prompt_tokens_cached_total"] == PROMPT_TOKENS - 1
    assert after["generated_tokens_total"] == 2 * NEW_TOKENS
    assert after["time_to_first_token_seconds_count"] == 2
    assert 0 < after["time_to_first_token_seconds_sum"] < 120
    later = after["time_between_tokens_seconds_count"]
    assert 0 < later <= 2 * (NEW_TOKENS - 1)
    assert after["time_between_tokens_seconds_sum"] > 0


def test_running_and_waiting_requests_and_their_rows_are_counted(fresh: Served) -> None:
    assert metrics(fresh)["cache_rows"] == 1
    running = fresh.begin_stream()
    waiting = fresh.connect()
    waiting.request("POST", CHAT, b'{"messages": [{"role": "user", "content": "a"}]}',
                    {"Content-Type": "application/json"})  # fmt: skip
    fresh.wait_for(running=1, waiting=1)
    found = metrics(fresh)
    assert (found["requests_running"], found["requests_waiting"]) == (1, 1)
    assert found["cache_rows_in_use"] == 1
    waiting.close()
    running.close()
    fresh.wait_for(running=0)
    found = metrics(fresh)
    assert found["requests_running"] == found["requests_waiting"] == 0
    assert found["cache_rows_in_use"] == 0


def test_requests_are_counted_by_path_and_by_the_status_that_they_end_with(fresh: Served) -> None:
    fresh.post(COMPLETIONS, PROMPT)
    fresh.post(COMPLETIONS, {"prompt": ""})
    fresh.post("/v1/" + "made-up" * 3, {})
    stream = fresh.begin_stream()
    stream.close()
    fresh.wait_for_line(2)
    found = metrics(fresh)
    assert found[f"requests_total{{{COMPLETIONS},200}}"] == 1
    assert found[f"requests_total{{{COMPLETIONS},400}}"] == 1
    assert found["requests_total{other,404}"] == 1
    # It began with 200, and its client went.
    assert found[f"requests_total{{{CHAT},499}}"] == 1
    assert f"requests_total{{{CHAT},200}}" not in found


def test_guesses_of_a_request_whose_client_has_gone_are_counted(
    folder: Path, tmp_path: Path
) -> None:
    options = ("--max-concurrent", 1, "--draft", folder)
    with served(folder, tmp_path / "log.txt", *options) as server:
        stream = server.begin_stream(max_tokens=8000)
        pieces = 0
        while pieces < 20:  # nothing is guessed of an answer that has not begun
            line = stream.stream.readline()  # type: ignore[attr-defined]
            assert line, "the answer has ended"
            pieces += b"content" in line
        stream.close()
        server.wait_for_line(0)
        server.wait_for(running=0)
        found = metrics(server)
        assert found["guessed_tokens_total"] >= found["guessed_tokens_accepted_total"] > 0


def test_a_failing_stream_counts_as_failed(folder: Path, tmp_path: Path) -> None:
    with served(folder, tmp_path / "log.txt", "--timeout", 0.5) as server:
        connection = server.begin_stream(messages=HELLO, max_tokens=8000)
        connection.stream.read()  # type: ignore[attr-defined]
        connection.close()
        server.wait_for_line(0)
        assert metrics(server)[f"requests_total{{{CHAT},504}}"] == 1


def test_with_keys_metrics_need_one(folder: Path, tmp_path: Path) -> None:
    with served(folder, tmp_path / "log.txt", "--api-key", "secret") as server:
        connection = server.connect()
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 401
        connection.close()
        found = metrics(server, Authorization="Bearer secret")
        assert found["requests_total{/metrics,401}"] == 1
