"""Time of a token with `--speculate N` and without, on texts that repeat themselves and on others.

    python -m tests.benchmarks.speculation FOLDER [--threads 2] [--rounds 3] [--guesses 4,8,15]

FOLDER is an export of a chat model. The texts are Python's own documentation strings. Every
continuation is compared with that of one token at a time; a difference ends the program.
"""

from __future__ import annotations

import argparse
import inspect
import itertools
import shutil
import statistics
import textwrap
import time
from pathlib import Path
from typing import Any, NamedTuple

from resq_onnx.files import find_model
from resq_onnx.runtime import BufferedDecoder, Tokenizer, create_session, generate
from resq_onnx.runtime.guessing import Guesser
from tests.benchmarks.machine import machine_line

NEW_TOKENS = 160
PROSE = (inspect.getdoc(textwrap) or "") + (inspect.getdoc(argparse) or "")
TASKS = {
    "edit code": "Print this code again, but with the function renamed to `place`:\n"
    f"{inspect.getsource(shutil.which)[:1800]}",
    "summarise": f"Summarise this text:\n{PROSE[:2500]}",
    "tell": "Tell me a story about the sea.",
}


class Result(NamedTuple):
    """Tokens of one continuation, seconds per token, and the guesses."""

    tokens: list[int]
    seconds: float
    guessed: int
    right: int


def continued(
    decoder: BufferedDecoder, tokenizer: Tokenizer, ids: list[int], guesses: int, **sampling: Any
) -> Result:
    """Continue a prompt; the first token, which waits for the prompt, is not timed."""
    guesser = Guesser(guesses) if guesses else None
    made = generate(
        decoder, ids, NEW_TOKENS, stop_ids=tokenizer.stop_ids, guesser=guesser, **sampling
    )
    found = list(itertools.islice(made, 1))
    start = time.perf_counter()
    found += made
    seconds = (time.perf_counter() - start) / max(len(found) - 1, 1)
    return Result(found, seconds, *((guesser.guessed, guesser.right) if guesser else (0, 0)))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--guesses", default="4,8,15")
    asked = parser.parse_args()
    path = find_model(asked.model)
    tokenizer, session = Tokenizer.load(path.parent), create_session(path, asked.threads)
    sizes = [0, *map(int, asked.guesses.split(","))]
    print(f"{machine_line()}; {asked.threads} threads; milliseconds a token, medians", flush=True)
    print("| text | temperature | one by one |" + "".join(f" {n} guesses |" for n in sizes[1:]))
    print("|---|---|---|" + "---|" * len(sizes[1:]))
    for (name, task), temperature in itertools.product(TASKS.items(), (0.0, 0.8)):
        text = tokenizer.apply_chat_template([{"role": "user", "content": task}])
        ids = tokenizer.encode(text, add_special_tokens=False)
        decoder = BufferedDecoder(session, len(ids) + NEW_TOKENS)
        sampling = {"temperature": temperature, "top_p": 0.95, "seed": 1}
        runs: dict[int, list[Result]] = {size: [] for size in sizes}
        for _, size in itertools.product(range(asked.rounds), sizes):
            runs[size].append(continued(decoder, tokenizer, ids, size, **sampling))
            if runs[size][-1].tokens != runs[0][0].tokens:
                raise SystemExit(f"{name}: with {size} guesses the text is another one")
        took = {size: statistics.median(run.seconds for run in runs[size]) for size in sizes}
        cells = [
            f" {1e3 * took[size]:.1f}, {took[0] / took[size]:.2f}x "
            f"({runs[size][0].right} of {runs[size][0].guessed} right) |"
            for size in sizes[1:]
        ]
        print(f"| {name} | {temperature} | {1e3 * took[0]:.1f} |" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
