"""Processes that publish files and are killed, or meet one another.

A program of its own, for it forks: `python -m tests.files.publishers killed|paired FOLDER ...`. It
prints one line of JSON for each try.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from resq_onnx.errors import ResqError
from resq_onnx.files import check_is_file, staged

NAMES: Final = ("README.md", "config.json", "model.onnx", "model.onnx.data", "z.json")
"""Of the files of an export, one of which comes after the model by name."""

EVENTS: Final = ("open", "os.", "shutil.")
"""Beginnings of the names of audit events that have to do with files."""

PAUSE: Final = 0.004
"""Seconds within which the second of two publishers begins."""


def publish(target: Path, text: str, before: Callable[[], None] = lambda: None) -> None:
    with staged(target) as staging:
        for name in NAMES:
            (staging.folder / name).write_text(text)
        before()
        staging.publish()


def old_files(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in NAMES:
        (folder / name).write_text("old")
    return folder / "model.onnx"


def state(folder: Path) -> dict[str, str]:
    return {name: (folder / name).read_text() for name in NAMES if (folder / name).exists()}


def in_a_process(work: Callable[[], None]) -> int:
    """Start it, forked from this one; returns its number."""
    number = os.fork()
    if number == 0:
        try:
            work()
        except ResqError:
            os._exit(1)
        except BaseException:
            os._exit(2)
        os._exit(0)
    return number


def ended(number: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])


def killed(folder: Path, *, replaces: bool) -> Iterator[dict[str, Any]]:
    """Kill a publisher before the first thing it does with files, before the second, ...

    Args:
        folder: To publish in.
        replaces: Whether an older export is there.
    """
    step, code = 0, -signal.SIGKILL
    while code == -signal.SIGKILL:
        target = old_files(folder)
        if not replaces:
            for name in NAMES:
                (folder / name).unlink()

        def work(step: int = step, target: Path = target) -> None:
            publish(target, "new", lambda: kill_at(step))

        code, step = ended(in_a_process(work)), step + 1
        found = {"code": code, "killed": state(folder)}
        with suppress(ResqError):  # there may be none
            check_is_file(target)
        read = state(folder)
        publish(target, "next")
        left = sorted({path.name for path in folder.iterdir()} - set(NAMES))
        yield {**found, "read": read, "next": state(folder), "left": left}


def kill_at(step: int) -> None:
    """From here on, end this process before it does one more thing with files than `step`."""
    count = 0

    def count_down(event: str, _arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event.startswith(EVENTS) and event != "os.kill":
            if count == step:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    sys.addaudithook(count_down)


def paired(folder: Path, tries: int) -> Iterator[dict[str, Any]]:
    """Let two publish at about the same time."""
    for _ in range(tries):
        target = old_files(folder)
        begin, pauses = time.time() + 0.01, (0.0, random.uniform(0, PAUSE))

        def work(text: str, pause: float, begin: float = begin, target: Path = target) -> None:
            while time.time() < begin + pause:
                pass
            publish(target, text)

        numbers = [
            in_a_process(lambda text=text, pause=pause: work(text, pause))  # type: ignore[misc]
            for text, pause in zip("AB", pauses, strict=True)
        ]
        codes = [ended(number) for number in numbers]
        left = sorted({path.name for path in folder.iterdir()} - set(NAMES))
        yield {"codes": codes, "files": state(folder), "left": left}


if __name__ == "__main__":
    what, where, *rest = sys.argv[1:]
    tried = (
        paired(Path(where), int(rest[0]))
        if what == "paired"
        else killed(Path(where), replaces=rest[0] == "old")
    )
    for line in tried:
        print(json.dumps(line))
