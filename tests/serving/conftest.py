"""A tiny exported model with room for long answers, and a server with two places."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.serving.served import Served, served
from tests.tiny_exports import TinyExports

POSITIONS = 8192
"""An answer that fills them takes seconds: what ends one earlier can be told from its end."""


@pytest.fixture(scope="session")
def folder(tiny_exports: TinyExports, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What export wrote; the model is called `tiny`."""
    sizes = {"num_hidden_layers": 4, "max_position_embeddings": POSITIONS}
    exported = tiny_exports.model("llama", tied=False, **sizes).export()
    return shutil.copytree(exported.parent, tmp_path_factory.mktemp("serving") / "tiny")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two requests run, two wait."""
    log = tmp_path_factory.mktemp("log") / "log.txt"
    with served(folder, log, "--max-concurrent", 2, "--max-waiting", 2) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: Served) -> openai.OpenAI:
    """The real client of that server."""
    return server.client()
