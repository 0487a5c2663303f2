"""Speed of servers under load, in one table of one run.

    python -m tests.benchmarks.serving [--ours FOLDER] [--clients 1,2,4,8,16] [--smoke]

Three servers, with as many slots as clients, take turns within every load: clients that ask again
as soon as they have their answer, with prompts of 30 tokens, of 512, and one client with 512
beside others with 30; and clients that ask at random times, each every two seconds on average.
All answers have the same number of tokens, the likeliest ones. Times are those that clients see.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from resq_onnx.files import find_model
from resq_onnx.runtime import Tokenizer
from tests.benchmarks.machine import machine_line
from tests.benchmarks.peer_list import installed_packages
from tests.benchmarks.peer_models import Workshop
from tests.benchmarks.peers import FOLDER, MODEL
from tests.benchmarks.serving import clients
from tests.benchmarks.serving.clients import LOADS, LONG, Endpoint, Load, Sample
from tests.benchmarks.serving.connection import StatusError
from tests.benchmarks.serving.figures import Results, figures, goals, table
from tests.benchmarks.serving.servers import LLAMA_CPP, OURS, SERVERS, Job, Server

LEAST_REQUESTS: Final = 4
"""Of all clients together: one client's speed is not that of one answer."""

SMOKE: Final = {"clients": [1, 2], "rounds": 1, "requests": 1, "new_tokens": 8}


@dataclass
class Course:
    """The servers of a run, and what came of it.

    Attributes:
        options: The command line.
        models: Of each server that takes part.
        tokenizer: Of all of them.
        reasons: Why others do not, or why no longer, by name.
        samples: By load, clients and server: those of each round.
    """

    options: argparse.Namespace
    models: dict[Server, Path]
    tokenizer: Tokenizer
    reasons: dict[str, str]
    samples: dict[tuple[str, int, str], list[list[Sample]]] = field(default_factory=dict)

    def run(self) -> None:
        """Measure with every number of clients."""
        prompts = clients.Prompts(self.tokenizer)
        for count in self.options.clients:
            with self._started(count) as endpoints:
                for load in self.options.loads:
                    if count >= load.least_clients:
                        self._measure(load, count, endpoints, prompts)

    @contextmanager
    def _started(self, count: int) -> Iterator[dict[str, Endpoint]]:
        """All servers, with so many slots each, and warmed up."""
        with ExitStack() as stack:
            endpoints = {}
            for server, model in self.models.items():
                if server.name in self.reasons:
                    continue
                job = Job(model, count, LONG + self.options.new_tokens, self.options.threads)
                python = sys.executable if server == OURS else self.options.python
                started = server.started(python, job, self.tokenizer)
                try:
                    endpoints[server.name] = stack.enter_context(started)
                except RuntimeError as error:
                    self.reasons[server.name] = str(error)
            if self.options.url:
                fields = {"model": self.options.name, "ignore_eos": True}
                endpoints[self.options.url] = Endpoint(self.options.url, fields)
            for endpoint in endpoints.values():
                asyncio.run(clients.ask(endpoint, list(range(1000, 1000 + LONG)), 8))
            yield endpoints

    def _measure(
        self, load: Load, count: int, endpoints: dict[str, Endpoint], prompts: clients.Prompts
    ) -> None:
        """One load in all rounds; another server is the first of each."""
        requests = max(self.options.requests, LEAST_REQUESTS // count)
        for turn in range(self.options.rounds):
            texts = clients.texts_of(load, prompts, count, requests)
            names = list(endpoints)
            first = turn % max(len(names), 1)
            for name in names[first:] + names[:first]:
                print(f"{load.name}, {count} clients, round {turn + 1}: {name}", file=sys.stderr)
                work = clients.run(load, endpoints[name], texts, self.options.new_tokens)
                try:
                    found = asyncio.run(work)
                except (OSError, RuntimeError, StatusError) as error:
                    self.reasons[name] = f"failed with {load.name}, {count} clients: {error}"
                    del endpoints[name]
                    continue
                self.samples.setdefault((load.name, count, name), []).append(found)

    def results(self) -> Results:
        """The figures."""
        new_tokens = self.options.new_tokens
        return {key: figures(rounds, new_tokens) for key, rounds in self.samples.items()}


def prepare(options: argparse.Namespace) -> Course:
    """Find or make the models of those that are installed."""
    own, others = installed_packages(sys.executable), installed_packages(options.python)
    shop = Workshop(options.model.resolve(), options.folder.resolve(), options.python)
    ours = find_model(options.ours or shop.prepared(OURS.form)).resolve()
    models, reasons = {OURS: ours}, {}
    for server in SERVERS:
        absent = [
            name for name in server.packages if name not in (own if server == OURS else others)
        ]
        if absent:
            reasons[server.name] = f"not installed: {', '.join(absent)}"
        elif server != OURS:
            models[server] = shop.prepared(server.form) / server.file
    return Course(options, models, Tokenizer.load(ours.parent), reasons)


def numbers(text: str) -> list[int]:
    """Such as 1,2,4."""
    return [int(word) for word in text.split(",")]


def loads(text: str) -> list[Load]:
    """Such as 30,mixed."""
    return [LOADS[word] for word in text.split(",")]


def parse() -> argparse.Namespace:
    """The command line."""
    venv = FOLDER / "venv" / "bin" / "python"
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--ours", type=Path, metavar="FOLDER", help="our export; default: made")
    parser.add_argument(
        "--model", type=Path, default=MODEL, help="the others': a .gguf file of Q4_1"
    )
    parser.add_argument("--folder", type=Path, default=FOLDER, help="keeps the peers' models")
    parser.add_argument("--python", default=str(venv) if venv.is_file() else sys.executable,
                        help="interpreter with the peers' packages")  # fmt: skip
    parser.add_argument("--url", help="one more server, such as http://127.0.0.1:8000/v1, that "
                        "takes ignore_eos")  # fmt: skip
    parser.add_argument("--name", default="model", help="what it calls the model")
    parser.add_argument("--clients", type=numbers, default=[1, 2, 4, 8, 16])
    parser.add_argument("--loads", type=loads, default=list(LOADS.values()), help=",".join(LOADS))
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2, help="of each client in each round")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--smoke", action="store_true", help="a minute, to see that all works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all samples")
    options = parser.parse_args()
    if options.smoke:
        vars(options).update(SMOKE)
    return options


def report(course: Course) -> None:
    """Print the table and the goals; write the samples where that was asked for."""
    options, results = course.options, course.results()
    versions = installed_packages(options.python)
    packages = dict.fromkeys(name for server in SERVERS for name in server.packages)
    where = machine_line({name: versions[name] for name in packages if name in versions})
    print(f"{where}. {options.threads} threads, {options.new_tokens} new tokens, medians of "
          f"{options.rounds} rounds, {options.requests} requests of each client in each; "
          f"times in milliseconds.\n")  # fmt: skip
    print(table(results) + "\n")
    for line in goals(results, OURS.name, LLAMA_CPP.name):
        print(line)
    for name, reason in course.reasons.items():
        print(f"{name}: left out, {reason}")
    if options.json:
        kept = [
            {"load": load, "clients": count, "server": server,
             "rounds": [[asdict(sample) for sample in samples] for samples in rounds]}
            for (load, count, server), rounds in course.samples.items()
        ]  # fmt: skip
        options.json.write_text(json.dumps({"machine": where, "results": kept}) + "\n")


def main() -> None:
    """Prepare, measure, print."""
    course = prepare(parse())
    try:
        course.run()
    finally:  # what there is, if that is interrupted
        report(course)


if __name__ == "__main__":
    main()
