"""API keys: who is answered, and who is not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from resq_onnx.serving.api_keys import VARIABLE, keys_of
from tests.command_line import error_line, run
from tests.serving.served import Served, served


@pytest.fixture(scope="module")
def guarded(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    log = tmp_path_factory.mktemp("log") / "log.txt"
    with served(folder, log, "--api-key", "first", "--api-key", "the other") as found:
        yield found


@pytest.mark.parametrize("key", ["first", "the other"])
def test_each_key_is_answered(guarded: Served, key: str) -> None:
    client = guarded.client(api_key=key)
    assert [model.id for model in client.models.list()] == ["tiny"]
    answer = client.completions.create(model="tiny", prompt="a", max_tokens=1)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 1


@pytest.mark.parametrize("key", ["firs", "first2", "First", "the", "é"])
def test_another_key_is_refused(guarded: Served, key: str) -> None:
    status, found = guarded.post("/v1/completions", {"prompt": "a"}, Authorization=f"Bearer {key}")
    assert status == 401
    assert found["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic first", "first"])
def test_a_header_without_a_key_is_refused(guarded: Served, header: str) -> None:
    status, found = guarded.post("/v1/models", {}, Authorization=header)
    assert status == 401
    assert "needs an API key" in found["error"]["message"]


def test_a_key_beyond_ascii_is_answered(tmp_path: Path, folder: Path) -> None:
    with served(folder, tmp_path / "log.txt", "--api-key", "clé") as server:
        sent = "Bearer clé".encode().decode("latin-1")  # as UTF-8, which curl sends
        assert server.post("/v1/completions", {"prompt": "a"}, Authorization=sent)[0] == 200


def test_the_real_client_understands_the_refusal(guarded: Served) -> None:
    with pytest.raises(openai.AuthenticationError, match="needs an API key"):
        guarded.client(api_key="wrong").models.list()


def test_health_needs_no_key_and_no_key_is_logged(guarded: Served) -> None:
    assert guarded.health()["status"] == "ok"
    assert "first" not in guarded.log.read_text()


def test_an_empty_key_is_refused(folder: Path) -> None:
    result = run("serve", folder, "--api-key", "")
    assert result.exit_code == 1
    assert "--api-key is empty" in error_line(result.stderr)


@pytest.mark.parametrize("value", ["", "  "])
def test_a_variable_without_a_key_does_not_open_the_server_to_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv(VARIABLE, value)
    result = run("serve", tmp_path)  # keys are checked first: there is no model
    assert result.exit_code == 1
    assert "RESQ_API_KEYS is set, but holds no key" in error_line(result.stderr)


def test_the_variable_holds_keys_separated_by_spaces() -> None:
    assert keys_of({VARIABLE: " first  second\n"}) == ("first", "second")
    assert keys_of({}) == ()


def test_keys_of_the_option_replace_those_of_the_variable(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "old")
    with served(folder, tmp_path / "log.txt", "--api-key", "new") as server:
        assert server.client(api_key="new").models.list().data
        with pytest.raises(openai.AuthenticationError):
            server.client(api_key="old").models.list()
