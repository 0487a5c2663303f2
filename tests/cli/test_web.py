"""`resq-onnx web`, as a user runs it."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from resq_onnx.web.packages import PACKAGES
from tests.command_line import program, run, run_successfully
from tests.tiny_models import write_tokenizer

SECONDS: Final = 120.0
"""For the server's process to end, on a machine however busy."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder as an export writes it; nobody runs the model."""
    folder = tmp_path / "model"
    write_tokenizer(folder, 256)
    (folder / "model.onnx").write_bytes(b"a graph")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's cache in which everything is already."""
    folder = tmp_path / "cache" / "resq-onnx" / "web"
    for package in PACKAGES:
        for name in package.files:
            path = folder / package.archive.removesuffix(".tgz") / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"// {name}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def test_a_site_is_written_for_another_server(model: Path, tmp_path: Path) -> None:
    printed = run_successfully("web", model, "--write", tmp_path / "site").stdout
    assert printed == f"Wrote {tmp_path / 'site'}\n"
    names = {str(path.relative_to(tmp_path / "site")) for path in (tmp_path / "site").rglob("*.*")}
    assert names >= {"index.html", "worker.js", "manifest.json", "model/model.onnx"}
    assert names >= {f"vendor/{name}" for package in PACKAGES for name in package.files}


def test_what_is_missing_is_one_line(tmp_path: Path) -> None:
    result = run("web", tmp_path / "nothing")
    assert result.exit_code == 1
    assert "nothing: no such file" in result.stderr


@pytest.fixture
def running(model: Path) -> Iterator[subprocess.Popen[str]]:
    command = program("web", model, "--port", 0)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def test_it_says_where_the_page_is_and_ends_by_ctrl_c(running: subprocess.Popen[str]) -> None:
    assert running.stdout is not None
    line = running.stdout.readline()
    port = re.search(r"http://localhost:(\d+)/", line)
    assert port is not None, line
    connection = http.client.HTTPConnection("127.0.0.1", int(port[1]))
    connection.request("GET", "/manifest.json")
    assert json.loads(connection.getresponse().read())["graph"] == "model.onnx"
    connection.close()
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=SECONDS)
    assert running.returncode == 0
    assert errors.strip() == "Stopped."
