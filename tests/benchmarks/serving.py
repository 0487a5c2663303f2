"""Speed of a server under load: clients that ask again as soon as they have their answer.

    python -m tests.benchmarks.serving FOLDER [--clients 1,2,4,8,16] [--prompts 30,512,mixed]

Starts `resq-onnx serve FOLDER`, or measures the server at --url, which may be any that has
/v1/completions and takes token ids. Each request has other words, so that nothing of it is cached.
With `mixed` prompts one client sends 512 tokens each time and the others 30, and only the times
between the others' tokens count: what a long prompt does to streams that run.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final
from urllib.parse import urlsplit

from resq_onnx.files import find_model
from resq_onnx.runtime import Tokenizer
from tests.benchmarks.machine import machine_line

SHORT, LONG = 30, 512
MIXED: Final = "mixed"
TEMPERATURE: Final = 0.7


@dataclass
class Sample:
    """One answer, in seconds from its request.

    Attributes:
        length: Tokens of its prompt.
        new_tokens: Tokens of the answer.
        times: When each piece came.
    """

    length: int
    new_tokens: int = 0
    times: list[float] = field(default_factory=list)


async def ask(url: str, model: str, ids: Sequence[int], new_tokens: int, seed: int) -> Sample:
    """Stream one answer."""
    address = urlsplit(url)
    body = {
        "model": model, "prompt": list(ids), "max_tokens": new_tokens, "stream": True,
        "temperature": TEMPERATURE, "seed": seed, "stream_options": {"include_usage": True},
    }  # fmt: skip
    sent = json.dumps(body).encode()
    head = (
        f"POST {address.path}/completions HTTP/1.1\r\nHost: {address.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(sent)}\r\n"
        "Connection: close\r\n\r\n"
    )
    sample, began = Sample(len(ids)), time.perf_counter()
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(head.encode() + sent)
    async for line in reader:
        if line.startswith(b"HTTP/") and b" 200 " not in line:
            raise SystemExit((line + await reader.read()).decode())
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        if event.get("usage"):
            sample.new_tokens = event["usage"]["completion_tokens"]
        if any(choice.get("text") for choice in event["choices"]):
            sample.times.append(time.perf_counter() - began)
    writer.close()
    return sample


def prompts(tokenizer: Tokenizer, length: int) -> Iterator[list[int]]:
    """Ever new pieces of Python's language reference."""
    ids = tokenizer.encode("\n".join(topics[name] for name in sorted(topics))[:400_000])
    place = 0
    while True:
        place = (place + length + 1) % (len(ids) - length)
        yield ids[place : place + length]


async def load(
    url: str, tokenizer: Tokenizer, clients: int, kind: str, arguments: argparse.Namespace
) -> tuple[float, list[Sample]]:
    """Seconds and answers of some clients, each of which asks a number of times."""
    shorts, longs = prompts(tokenizer, SHORT), prompts(tokenizer, LONG)
    samples: list[Sample] = []

    async def client(number: int) -> None:
        is_long = number == 0 if kind == MIXED else kind == str(LONG)
        for again in range(arguments.requests):
            ids = next(longs if is_long else shorts)
            seed = 1000 * number + again
            samples.append(await ask(url, arguments.name, ids, arguments.new_tokens, seed))

    began = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    return time.perf_counter() - began, samples


def p95(values: Sequence[float]) -> float:
    """The value below which 95 % of them are."""
    return sorted(values)[min(int(0.95 * len(values)), len(values) - 1)]


def describe(kind: str, clients: int, seconds: float, samples: Sequence[Sample]) -> dict[str, Any]:
    """A row of the table; times in milliseconds."""
    counted = [one for one in samples if kind != MIXED or one.length == SHORT]
    first = [1e3 * one.times[0] for one in samples if one.times]
    gaps = [1e3 * (b - a) for one in counted for a, b in pairwise(one.times)]
    return {
        "prompt": kind,
        "clients": clients,
        "tokens/s": sum(one.new_tokens for one in samples) / seconds,
        "first, median": statistics.median(first),
        "first, p95": p95(first),
        "between, median": statistics.median(gaps),
        "between, p95": p95(gaps),
    }


@contextmanager
def server(arguments: argparse.Namespace) -> Iterator[str]:
    """The URL of a server."""
    if arguments.url:
        yield arguments.url
        return
    rows = max(arguments.clients)
    command = [sys.executable, "-m", "resq_onnx", "serve", arguments.folder, "--port", "0"]
    command += ["--max-concurrent", str(rows), "--name", arguments.name]
    command += ["--threads", str(arguments.threads), "--max-length", "2048"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.terminate()


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("folder", help="an exported model; of a server at --url, its tokenizer")
    parser.add_argument("--url", help="such as http://127.0.0.1:8000/v1")
    parser.add_argument("--name", default="served", help="what the server calls the model")
    parser.add_argument("--clients", type=lambda text: [int(n) for n in text.split(",")],
                        default=[1, 2, 4, 8, 16])  # fmt: skip
    parser.add_argument("--prompts", type=lambda text: text.split(","),
                        default=[str(SHORT), str(LONG), MIXED])  # fmt: skip
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=3, help="of each client")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="writes all samples to this file")
    return parser.parse_args()


def main() -> None:
    """Measure, and print a table."""
    arguments = parse()
    tokenizer = Tokenizer.load(find_model(Path(arguments.folder)).parent)
    print(machine_line())
    rows, kept = [], []
    with server(arguments) as url:
        for kind in arguments.prompts:
            for clients in arguments.clients:
                if kind == MIXED and clients == 1:
                    continue
                seconds, samples = asyncio.run(load(url, tokenizer, clients, kind, arguments))
                rows.append(describe(kind, clients, seconds, samples))
                kept.append({**rows[-1], "samples": [vars(one) for one in samples]})
                if len(rows) == 1:
                    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
                cells = (f"{v:.1f}" if isinstance(v, float) else str(v) for v in rows[-1].values())
                print("| " + " | ".join(cells) + " |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(kept))


if __name__ == "__main__":
    main()
