"""Another process on a core that a benchmark uses, too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

PROGRAM: Final = """
import os, time
os.sched_setaffinity(0, {{{core}}})
print(flush=True)
while True:
    end = time.perf_counter() + {seconds}
    while time.perf_counter() < end:
        pass
    time.sleep({pause})
"""


@contextmanager
def busy_core(burst_ms: int | None = None) -> Iterator[None]:
    """A process that computes on the first core this one may use.

    Args:
        burst_ms: It computes for so many milliseconds and then sleeps as long; None for a process
            that never sleeps.
    """
    seconds = (burst_ms or 1000) / 1000
    pause = 0 if burst_ms is None else seconds
    program = PROGRAM.format(core=min(os.sched_getaffinity(0)), seconds=seconds, pause=pause)
    other = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        other.stdout.readline()  # it computes now
        yield
    finally:
        other.kill()
        other.communicate()
