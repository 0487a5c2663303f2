"""Tokens per second of the server's batch with `--speculate N` and without.

    python -m tests.benchmarks.served_speculation FOLDER [--clients 1,4] [--rounds 3] [--guesses 15]
        [--draft FOLDER]

FOLDER is an export of a chat model; the tasks are those of `speculation.py`, and "mixed": each of
them in turn. With and without take turns in one process. Times are those of the CPU, on one thread,
because other programs change them less than elapsed ones, which stand behind them. Different texts
end the program.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import threading
import time
from pathlib import Path
from typing import NamedTuple

from resq_onnx.files import find_model
from resq_onnx.serving.engine import Engine
from resq_onnx.serving.events import Finished
from resq_onnx.serving.protocol import GenerationRequest, Prompt
from tests.benchmarks.machine import machine_line
from tests.benchmarks.speculation import NEW_TOKENS, TASKS

MAX_LENGTH = 2048


class Result(NamedTuple):
    """The answers of all clients; seconds for each token of each; guesses."""

    texts: list[list[int]]
    cpu_seconds: float
    seconds: float
    guessed: int
    right: int


def answered(engine: Engine, tasks: list[str], clients: int, temperature: float) -> Result:
    """Answer some clients at once, who ask in turn; their prompts run before the clock."""
    asked = [
        GenerationRequest(
            Prompt(messages=({"role": "user", "content": tasks[seed % len(tasks)]},)),
            max_tokens=NEW_TOKENS, temperature=temperature, top_p=0.95, seed=seed,
            stop=(), stream=False, include_usage=False,
        )
        for seed in range(clients)
    ]  # fmt: skip
    made = [engine.prepare(one, threading.Event())[0] for one in asked]
    for generation in made:
        engine.batch.add(generation)
    while not all(generation.writer.new_tokens for generation in made):
        engine.batch.advance()
    before = sum(generation.writer.new_tokens for generation in made)
    cpu, wall = time.process_time(), time.perf_counter()
    ends = []
    while not engine.batch.is_idle:
        ends += [event for _, event in engine.batch.advance() if isinstance(event, Finished)]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    tokens = max(sum(generation.writer.new_tokens for generation in made) - before, 1)
    return Result(
        [generation.writer.tokens for generation in made], cpu / tokens, wall / tokens,
        sum(end.guessed for end in ends), sum(end.right for end in ends),
    )  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--clients", default="1,4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--guesses", type=int, default=15)
    parser.add_argument("--draft", type=Path)
    given = parser.parse_args()
    path, clients = find_model(given.model), [int(n) for n in given.clients.split(",")]
    most = (0, given.guesses)
    draft = find_model(given.draft) if given.draft else None
    settings = (path, "model", max(clients), MAX_LENGTH, 1)
    engines = {n: Engine(*settings, most_guesses=n, draft=draft if n else None) for n in most}
    print(f"{machine_line()}; one thread; tokens per second of CPU time (elapsed), medians")
    print(f"| text | temperature | clients | without | {most[1]} guesses | | right |")
    print("|---|---|---|---|---|---|---|", flush=True)
    all_tasks = {name: [task] for name, task in TASKS.items()} | {"mixed": [*TASKS.values()]}
    for (name, tasks), temperature, count in itertools.product(
        all_tasks.items(), (0.0, 0.8), clients
    ):
        runs: dict[int, list[Result]] = {n: [] for n in most}
        for _, n in itertools.product(range(given.rounds), most):
            runs[n].append(answered(engines[n], tasks, count, temperature))
            if runs[n][-1].texts != runs[0][0].texts:
                raise SystemExit(f"{name}: with {n} guesses the texts are others")
        cpu = [1 / statistics.median(run.cpu_seconds for run in runs[n]) for n in most]
        wall = [1 / statistics.median(run.seconds for run in runs[n]) for n in most]
        last = runs[most[1]][0]
        print(
            f"| {name} | {temperature} | {count} | {cpu[0]:.0f} ({wall[0]:.0f}) | "
            f"{cpu[1]:.0f} ({wall[1]:.0f}) | {cpu[1] / cpu[0]:.2f}x | "
            f"{last.right} of {last.guessed} |", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
