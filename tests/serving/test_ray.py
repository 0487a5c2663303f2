"""Two replicas under Ray Serve: both answer as the server does, and one is killed."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

from tests.serving.served import COMPLETIONS, Served, served, wait_until

if find_spec("ray") is None:
    pytest.skip("Ray is not installed: pip install 'resq-onnx[ray]'", allow_module_level=True)

pytestmark = pytest.mark.slow

PROMPT: Final = {"prompt": [5, 6, 7], "max_tokens": 20, "temperature": 0}
REPLICA: Final = b"ServeReplica"
"""Is in the title of a replica's process."""

MARK: Final = "RESQ_TEST_CLUSTER"
"""A variable that the processes of a cluster inherit."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def cluster(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Two replicas of one place each, so that two streams are at different ones."""
    log, port = tmp_path_factory.mktemp("log") / "log.txt", free_port()
    given = (f"model={folder}", "min_replicas=2", "max_concurrent=1", "max_waiting=0")
    command = [sys.executable, "-m", "tests.serving.ray_cluster", str(port), *given]
    # One machine, loopback alone: no token is written to the user's home.
    environment = os.environ | {MARK: str(log), "RAY_AUTH_MODE": "disabled"}
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                         stderr=errors, text=True, env=environment) as process,
    ):  # fmt: skip
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            assert process.stdout.readline() == "ready\n", log.read_text()
            yield Served(process, f"http://127.0.0.1:{port}/v1", log)
            process.stdin.close()
            process.wait(60)
        finally:
            process.kill()


def replicas(cluster: Served) -> set[int]:
    """Process ids of the replicas."""
    marker = f"{MARK}={cluster.log}".encode()
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            title = (path / "cmdline").read_bytes()
            environment = (path / "environ").read_bytes()
        except OSError:  # it has ended, or is not ours
            continue
        if REPLICA in title and marker in environment.split(b"\0"):
            found.add(int(path.name))
    return found


def rest_of(connection: http.client.HTTPConnection) -> str:
    """What still comes of a stream, which may be cut off."""
    try:
        text: str = connection.stream.read().decode()  # type: ignore[attr-defined]
    except (http.client.HTTPException, ConnectionError):
        return ""
    finally:
        connection.close()
    return text


def test_one_of_two_replicas_is_killed_while_both_stream(
    cluster: Served, folder: Path, tmp_path: Path
) -> None:
    with served(folder, tmp_path / "log.txt") as alone:
        expected = alone.post(COMPLETIONS, PROMPT)[1]["choices"]
    assert cluster.post(COMPLETIONS, PROMPT)[1]["choices"] == expected

    before = replicas(cluster)
    assert len(before) == 2
    streams = [cluster.begin_stream(max_tokens=8000) for _ in range(2)]
    killed = min(before)
    os.kill(killed, signal.SIGKILL)
    ends = [rest_of(stream) for stream in streams]
    assert sum(end.endswith("data: [DONE]\n\n") for end in ends) == 1

    wait_until(lambda: len(replicas(cluster) - {killed}) == 2)
    assert cluster.post(COMPLETIONS, PROMPT)[1]["choices"] == expected
