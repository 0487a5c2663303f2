"""Many clients for a long time: no error but status 429, no growing memory, and no other answers.

    python -m tests.benchmarks.soak FOLDER [--minutes 20] [--clients 64]

First every request is answered alone, by a server with one row of the cache. Then clients ask
a second server at random, for whole answers and streams, some of which they leave. Each answer has
to be the one from before. Memory is that of the server and its children, once a minute, from when
each row of the cache has been filled once; the first fifth of the time does not count. The program
ends with status 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.benchmarks.machine import machine_line
from tests.benchmarks.serving.connection import StatusError
from tests.benchmarks.soak_requests import Question, Said, ask_stream, ask_whole, fillers, questions

NAME: Final = "soaked"
BUSY: Final = 429
PAUSE_SECONDS: Final = 3.0
"""Mean time until a client that was refused asks again."""

LEAVING: Final = 0.1
"""Share of the streams whose client goes."""

WARM_UP: Final = 0.2
MOST_GROWTH: Final = 0.05
SAMPLES: Final = 20
LENGTH: Final = 512
ROWS: Final = 8
KEPT: Final = 5
"""Differences and errors of which the summary tells."""


@dataclass
class Tally:
    """What has happened.

    Attributes:
        counts: By kind.
        wrong: What was wrong, the first few.
        memory: In bytes, once a minute.
        prompt_tokens: Of all complete answers.
        known: How many of them came from the cache.
    """

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    prompt_tokens: int = 0
    known: int = 0

    def note(self, kind: str, wrong: str = "") -> None:
        """Count one request; say what was wrong with it, if anything."""
        self.counts[kind] += 1
        if wrong and len(self.wrong) < KEPT:
            self.wrong.append(wrong)

    @property
    def growth(self) -> float:
        """By how much the largest memory after the warm-up exceeds the smallest one."""
        counted = self.memory[int(WARM_UP * len(self.memory)) :]
        return max(counted) / min(counted) - 1


@contextmanager
def server(folder: str, log: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process and its URL."""
    command = [sys.executable, "-m", "resq_onnx", "serve", folder, "--port", "0", "--name", NAME]
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*command, "--max-length", str(LENGTH), *options],
            stdout=subprocess.PIPE, stderr=errors, text=True,
        ) as process,
    ):  # fmt: skip
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().split()[-1]
        finally:
            process.kill()


async def alone(url: str, asked: Sequence[Question]) -> list[Said]:
    """The answers, one after the other."""
    return [await ask_whole(url, question) for question in asked]


async def client(
    number: int, url: str, asked: Sequence[Question], wanted: Sequence[Said], until: float,
    tally: Tally,
) -> None:  # fmt: skip
    """Ask at random until the time is over."""
    chosen = random.Random(number)
    while time.monotonic() < until:
        place = chosen.randrange(len(asked))
        streams, leaves = chosen.random() < 0.5, chosen.random() < LEAVING
        most_events = chosen.randint(1, 12) if leaves else None
        try:
            if streams:
                said = await ask_stream(url, asked[place], most_events)
            else:
                said = await ask_whole(url, asked[place])
        except StatusError as error:
            if error.status == BUSY:
                tally.note("status 429")
                await asyncio.sleep(chosen.expovariate(1 / PAUSE_SECONDS))
            else:
                tally.note("errors", str(error))
            continue
        except (RuntimeError, OSError, ValueError) as error:
            tally.note("errors", repr(error))
            continue
        compare(said, wanted[place], asked[place], tally, streams, leaves)


def compare(
    said: Said, wanted: Said, question: Question, tally: Tally, streams: bool, leaves: bool
) -> None:
    """Count an answer, and whether it is the one that is wanted."""
    complete = not (streams and leaves) or said.equals(wanted)
    kind = ("streams" if streams else "whole answers") if complete else "streams left"
    if not (said.equals(wanted) if complete else said.begins(wanted)):
        tally.note("other answers", f"{question}:\n{said}\ninstead of\n{wanted}")
    tally.note(kind)
    tally.prompt_tokens += said.prompt_tokens
    tally.known += said.known


async def watch(process: subprocess.Popen[str], seconds: float, tally: Tally) -> None:
    """Take the memory from time to time, and say how it goes."""
    while True:
        await asyncio.sleep(min(60.0, seconds / SAMPLES))
        tally.memory.append(memory(process.pid))
        print(f"{tally.memory[-1] / 1e6:.1f} MB, {dict(tally.counts)}", flush=True)


def memory(pid: int) -> int:
    """Resident bytes of a process and its children; 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    own = sum(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))
    return 1024 * own + sum(memory(int(child)) for child in children)


async def soak(
    process: subprocess.Popen[str], url: str, asked: Sequence[Question], wanted: Sequence[Said],
    options: argparse.Namespace, tally: Tally,
) -> None:  # fmt: skip
    """All clients at once."""
    await asyncio.gather(*(ask_whole(url, one) for one in fillers(ROWS, LENGTH - 1, NAME)))
    print(f"{memory(process.pid) / 1e6:.1f} MB with full rows", flush=True)
    seconds = 60.0 * options.minutes
    until = time.monotonic() + seconds
    watching = asyncio.create_task(watch(process, seconds, tally))
    await asyncio.gather(
        *(client(n, url, asked, wanted, until, tally) for n in range(options.clients))
    )
    watching.cancel()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folder", help="an exported chat model")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=200, help="different ones")
    parser.add_argument("--speculate", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Run, and print a summary."""
    options, tally = parse(), Tally()
    asked = questions(options.requests, options.seed, NAME)
    threads = ("--threads", str(options.threads))
    print(f"{machine_line()}; {options.threads} threads, {options.clients} clients", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        with server(options.folder, log, *threads, "--max-concurrent", "1") as (_, url):
            wanted = asyncio.run(alone(url, asked))
        print(f"{len(wanted)} requests have been answered alone", flush=True)
        more = (*threads, "--speculate", str(options.speculate), "--max-concurrent", str(ROWS))
        with server(options.folder, log, *more) as (process, url):
            asyncio.run(soak(process, url, asked, wanted, options, tally))
            process.send_signal(signal.SIGTERM)
            status = process.wait()
        if "Traceback" in (text := log.read_text()):
            tally.note("errors", text[text.index("Traceback") :][:2000])
    report(tally, status)


def report(tally: Tally, status: int) -> None:
    """Print the summary, and end with the status."""
    print(*tally.wrong, sep="\n")
    print(f"{dict(tally.counts)}; exit status {status}; "
          f"{tally.known / max(tally.prompt_tokens, 1):.0%} of the prompts' tokens were cached; "
          f"memory {min(tally.memory) / 1e6:.1f} to {max(tally.memory) / 1e6:.1f} MB, "
          f"after the warm-up within {tally.growth:.1%}")  # fmt: skip
    bad = tally.counts["errors"] + tally.counts["other answers"] + status
    sys.exit(1 if bad or tally.growth > MOST_GROWTH else 0)


if __name__ == "__main__":
    main()
