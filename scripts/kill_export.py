"""Kill an export at random moments, resume it each time, and compare the files.

    python -m scripts.kill_export MODEL [--times 10] [--seed 0] [-- OPTIONS OF EXPORT]

The first export is not stopped. Of each other one the process is killed (SIGKILL) after a random
share of the first one's time, then the same command runs to the end. All files must be equal.
"""

from __future__ import annotations

import argparse
import filecmp
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

FILES = ("model.onnx", "model.onnx.data")


def export(model: Path, out: Path, options: Sequence[str], seconds: float | None = None) -> float:
    """Export, or kill it after so many seconds; returns the seconds it took."""
    command = [sys.executable, "-m", "resq_onnx", "export", str(model), str(out), "--quiet"]
    begin = time.monotonic()
    with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL) as process:
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            code = process.wait()
    if code not in (0, -signal.SIGKILL if seconds else 0):  # it may have ended before its moment
        raise SystemExit(f"the export ended with {code}")
    return time.monotonic() - begin


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("build/killed"))
    given = sys.argv[1:]
    end = given.index("--") if "--" in given else len(given)
    asked, options = parser.parse_args(given[:end]), given[end + 1 :]
    shutil.rmtree(asked.out, ignore_errors=True)
    whole, dice = asked.out / "whole", random.Random(asked.seed)
    took = export(asked.model, whole / FILES[0], options)
    print(f"uninterrupted: {took:.0f} s", flush=True)
    different = 0
    for number in range(asked.times):
        folder, moment = asked.out / str(number), dice.uniform(0.02, 0.9) * took
        export(asked.model, folder / FILES[0], options, moment)
        parts = len(list(folder.glob(".*.work/*.safetensors")))
        rest = export(asked.model, folder / FILES[0], options)
        same = filecmp.cmpfiles(whole, folder, FILES, shallow=False)[0] == list(FILES)
        different += not same
        words = "equal" if same else "DIFFERENT"
        killed = f"killed after {moment:.0f} s, {parts} parts kept"
        print(f"{killed}; resumed, {rest:.0f} s: {words}", flush=True)
        shutil.rmtree(folder)
    raise SystemExit(1 if different else 0)


if __name__ == "__main__":
    main()
