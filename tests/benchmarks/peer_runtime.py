"""One peer, and what is asked of it: each time a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.benchmarks.busy_core import busy_core
from tests.benchmarks.masked_cpu import MaskedCpu
from tests.benchmarks.masked_cpu.counts import Counts
from tests.benchmarks.peer_list import Peer
from tests.benchmarks.peer_models import ROOT

TIMEOUT_S: Final = 900


@dataclass(frozen=True)
class Scenario:
    """What is asked of every runtime.

    Attributes:
        threads: That it may compute with.
        prompt_tokens: Before the first new one.
        busy: Whether another process keeps one core busy.
    """

    threads: int
    prompt_tokens: int
    busy: bool = False

    def __str__(self) -> str:
        beside = ", one core busy" if self.busy else ""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return f"{self.prompt_tokens} prompt tokens, {threads}{beside}"


@dataclass(frozen=True)
class Runtime:
    """A peer that can run: its interpreter, and its model; and the CPU it sees, if not this one."""

    peer: Peer
    python: str
    model: Path
    cpu: MaskedCpu | None = None

    def measure(self, scenario: Scenario, new_tokens: int) -> dict[str, float]:
        """One run in a fresh process.

        Raises:
            RuntimeError: It failed; the message is its last line.
        """
        command, options = self._process(scenario, new_tokens)
        with busy_core() if scenario.busy else nullcontext(), timeout_as_error():
            if self.cpu:
                done, _ = self.cpu.run(command, **options)
            else:
                done = subprocess.run(command, **options)
        return sample_of(done)

    def watch(self, cpu: MaskedCpu, masked: bool, scenario: Scenario, new_tokens: int) -> Counts:
        """What instructions one run executes, in the same process that `measure` starts.

        Raises:
            RuntimeError: It failed; the message is its last line.
        """
        command, options = self._process(scenario, new_tokens)
        with timeout_as_error():
            done, counts = cpu.run(command, masked=masked, sampled=True, **options)
        sample_of(done)
        return counts

    def _process(self, scenario: Scenario, new_tokens: int) -> tuple[list[str], dict[str, Any]]:
        """The command, and options of `subprocess.run`."""
        command = [self.python, "-m", "tests.benchmarks.peer_process"]
        command += [self.peer.runner, str(self.model), "--threads", str(scenario.threads)]
        command += ["--prompt-tokens", str(scenario.prompt_tokens)]
        command += ["--new-tokens", str(new_tokens)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(scenario.threads)}
        options = {"env": environment, "cwd": ROOT, "timeout": TIMEOUT_S}
        return command, {**options, "capture_output": True, "text": True}


@contextmanager
def timeout_as_error() -> Iterator[None]:
    """Raise a process's timeout as RuntimeError."""
    try:
        yield
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"took more than {TIMEOUT_S} s") from None


def sample_of(done: subprocess.CompletedProcess[str]) -> dict[str, float]:
    """What a process printed.

    Raises:
        RuntimeError: It failed; the message is its last line.
    """
    printed = [line for line in done.stdout.splitlines() if line.startswith('{"load_s"')]
    if done.returncode or not printed:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise RuntimeError(lines[-1])
    sample: dict[str, float] = json.loads(printed[-1])
    return sample
