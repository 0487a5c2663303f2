"""Damaged inputs, thousands of them: python -m tests.fuzz --seconds 60 --seed 1.

Every command has to end in time and within its memory, with status 0 or with one line of error that
does not begin with "unexpected"; without a traceback; and with its inputs as they were.
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tests.fuzz.cases import KINDS, make_case
from tests.fuzz.inputs import Inputs, make_inputs
from tests.fuzz.supervisor import run_cases


def main() -> int:
    """Run cases until the time or their number is over; status 1 if something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long, without the start")
    parser.add_argument("--seed", type=int, default=0, help="which inputs")
    parser.add_argument("--count", type=int, help="how many at most")
    parser.add_argument("--first", type=int, default=0, help="the first case")
    parser.add_argument("--keep", type=Path, help="only write the first case into this new folder")
    parser.add_argument("--inputs", type=Path, help="good inputs that an earlier run has left here")
    parser.add_argument("--only", action="append", choices=KINDS, help="this kind alone")
    asked = parser.parse_args()
    only = asked.only or []
    folder = asked.inputs or Path(tempfile.mkdtemp(prefix="resq-fuzz-inputs-")) / "inputs"
    try:
        inputs = Inputs(folder) if folder.is_dir() else make_inputs(folder)
        if asked.keep is not None:
            case = make_case(asked.seed, asked.first, inputs, asked.keep, only)
            print(case.done, *case.command, case.sent, sep="\n")
            return 0
        indices: Iterable[int] = itertools.count(asked.first)
        if asked.count is not None:
            indices = itertools.islice(indices, asked.count)
        return fuzz(inputs, asked.seed, indices, asked.seconds, only)
    finally:
        if asked.inputs is None:
            shutil.rmtree(folder.parent, ignore_errors=True)


def fuzz(
    inputs: Inputs, seed: int, indices: Iterable[int], seconds: float, only: Sequence[str]
) -> int:
    """Run cases and print what was found; returns the number of findings, at most 1."""
    refused: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    found = 0
    until = time.monotonic() + seconds
    in_time = itertools.takewhile(lambda _: time.monotonic() < until, indices)
    for case in run_cases(inputs, seed, in_time, only):
        (refused if case["code"] else accepted)[case["kind"]] += 1
        for wrong in case["wrong"]:
            found += 1
            print(f"FOUND {case['kind']}: {case['done']}\n  {wrong}")
            again = f"python -m tests.fuzz --seed {seed} --first {case['index']} --count 1"
            print(" ", again, *(f"--only {shlex.quote(kind)}" for kind in only), flush=True)
        if os.environ.get("RESQ_FUZZ_ALL"):
            print(f"{case['index']} {case['kind']}: {case['done']}: {case.get('last', '')}")
    total = refused.total() + accepted.total()
    for kind in sorted({*refused, *accepted}):
        print(f"{kind:24}{refused[kind]:6} refused{accepted[kind]:6} accepted")
    print(f"{total} inputs, seed {seed}: {found} findings")
    return min(found, 1)


if __name__ == "__main__":
    sys.exit(main())
