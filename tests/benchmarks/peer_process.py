"""One measurement in a process of its own, so that memory and threads are those of one runtime.

python -m tests.benchmarks.peer_process RUNNER MODEL --threads N ... prints one line of JSON:
{"load_s", "prefill_tokens_per_s", "decode_tokens_per_s", "peak_memory_mb"}.
"""

from __future__ import annotations

import argparse
import importlib
import json
import random
import time
from pathlib import Path

from tests.benchmarks.runners import WARM_UP_TOKENS, Load

WARM_UP_NEW = 8


def main() -> None:
    """Load, warm up, run once, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runner", help="a module of tests/benchmarks/runners")
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--prompt-tokens", type=int, required=True)
    parser.add_argument("--new-tokens", type=int, required=True)
    options = parser.parse_args()

    load: Load = importlib.import_module(f"tests.benchmarks.runners.{options.runner}").load
    started = time.perf_counter()
    run = load(options.model, options.threads, options.prompt_tokens + options.new_tokens + 1)
    load_s = time.perf_counter() - started
    # Another prompt: a runtime may keep what it has computed for a beginning that comes again.
    warm_up = random_tokens(min(WARM_UP_TOKENS, options.prompt_tokens), seed=0)
    run(warm_up, min(WARM_UP_NEW, options.new_tokens))
    timing = run(random_tokens(options.prompt_tokens, seed=1), options.new_tokens)
    found = {
        "load_s": load_s,
        "prefill_tokens_per_s": timing.prefill,
        "decode_tokens_per_s": timing.decode,
        "peak_memory_mb": peak_memory_mb(),
    }
    print(json.dumps(found), flush=True)


def random_tokens(count: int, seed: int) -> list[int]:
    """Ordinary tokens of any vocabulary of more than 32,000; the same ones for a seed."""
    chosen = random.Random(seed)
    return [chosen.randrange(1000, 32000) for _ in range(count)]


def peak_memory_mb() -> float:
    """The most memory this process ever had resident, in 10^6 bytes; mapped files count."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError("/proc/self/status has no VmHWM: memory is measured on Linux only")


if __name__ == "__main__":
    main()
