"""Command lines for child processes that import the same copy of this package."""

from __future__ import annotations

import os
import sys


def python_running(module: str) -> list[str]:
    """Command line of a process that calls `main()` of a module.

    `python -m` would look for the module in the working directory first, which may be the top of
    another version's source tree.

    Args:
        module: Its full name. More arguments of the command are `sys.argv[1:]` there.
    """
    path = [os.path.abspath(entry) for entry in sys.path]
    code = f"import sys; sys.path[:] = {path!r}; from {module} import main; main()"
    return [sys.executable, "-P", "-c", code]
