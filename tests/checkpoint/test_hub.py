"""Models on the Hugging Face hub, by their names there."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resq_onnx.calibration.texts import load_text
from resq_onnx.checkpoint import hub as hub_module
from resq_onnx.checkpoint.hub import PATTERNS, fetch_model, hub_name
from resq_onnx.checkpoint.source import open_model
from resq_onnx.errors import ResqError

LLAMA = "meta-llama/Llama-3.2-1B"


@pytest.mark.parametrize(
    "given",
    [
        LLAMA,
        f"hf://{LLAMA}",
        f"https://huggingface.co/{LLAMA}",
        f"https://huggingface.co/{LLAMA}/",
        Path(f"hf://{LLAMA}"),  # one slash
    ],
)
def test_a_model_is_named_as_on_the_hub_or_by_its_address(given: str | Path) -> None:
    assert hub_name(given) == LLAMA


@pytest.mark.parametrize(
    "given",
    ["model", "a/b/c", "./a/b", "../a", "/a/b", "a/b.gguf", "a/model.onnx", ".a/b", "a/"],
)
def test_what_looks_like_a_path_is_no_name(given: str) -> None:
    assert hub_name(given) is None


def test_a_name_in_a_folder_that_is_there_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert hub_name("models/llama") is None
    with (
        pytest.raises(ResqError, match=r"^models/llama: no such model directory"),
        open_model("models/llama"),
    ):
        pass


@pytest.mark.parametrize("given", ["https://x.org/model.gguf", "s3://bucket/model"])
def test_another_address_says_what_is_fetched(given: str) -> None:
    with pytest.raises(ResqError, match="download the model, and give its path"):
        hub_name(given)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces huggingface_hub; the list holds what was asked of it."""
    asked: list[Any] = []

    def snapshot_download(name: str, **how: Any) -> str:
        asked.append((name, how["allow_patterns"]))
        if name == LLAMA:
            return str(tmp_path)
        raise ConnectionError("no route\nand a long story")

    fake = SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    monkeypatch.setattr(hub_module, "unreachable", lambda: None)
    return asked


def test_a_model_is_fetched_and_named_as_it_was_given(hub: list[Any], tmp_path: Path) -> None:
    with open_model(f"hf://{LLAMA}") as source:
        assert (source.folder, source.name) == (tmp_path, LLAMA)
    assert hub == [(LLAMA, list(PATTERNS))]


@pytest.mark.usefixtures("hub")
def test_a_model_that_is_out_of_reach_says_what_to_do() -> None:
    with pytest.raises(ResqError) as error, open_model("far/away"):
        pass
    assert str(error.value) == (
        "far/away: no such folder here, and the Hugging Face hub does not give it (no route); "
        "where there is a network, run `hf download far/away`, and give the folder that it prints"
    )


def test_without_the_library_a_name_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ResqError, match=r'pip install "resq-onnx\[export\]"'), open_model(LLAMA):
        pass


def test_nothing_that_can_run_is_fetched() -> None:
    ends = (".py", ".bin", ".pt", ".pkl", ".so")
    assert not [pattern for pattern in PATTERNS if pattern.endswith(ends) or pattern == "*"]


PATIENCE = 0.5


@pytest.fixture(params=["silent", "absent", "offline"])
def away(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A hub that never answers, that is not there, or that is not to be asked; and what is said."""
    from huggingface_hub import constants

    monkeypatch.setattr(hub_module, "PATIENCE", PATIENCE)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", request.param == "offline")
    listening = socket.create_server(("127.0.0.1", 0))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
    if request.param == "absent":
        listening.close()
    with listening:
        yield {
            "silent": f"no answer within {PATIENCE} seconds|timed out",
            "absent": "Connection refused",
            "offline": "offline mode is enabled",
        }[request.param]


@pytest.mark.parametrize("find", [fetch_model, load_text], ids=["model", "data set"])
def test_a_hub_that_is_away_is_said_at_once(away: str, find: Callable[[str], object]) -> None:
    import datasets  # noqa: F401, which takes seconds

    begun = time.monotonic()
    with pytest.raises(ResqError, match=rf"the Hugging Face hub cannot be reached \(.*({away})"):
        find("far/away")
    assert time.monotonic() - begun < PATIENCE + 2
