"""Check that no output of a command would overwrite one of its inputs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from resq_onnx.errors import ResqError


def refuse_overwriting(outputs: Iterable[Path], inputs: Iterable[Path]) -> None:
    """Reject an output that is an input, even by another path, name or link.

    Raises:
        ResqError: An output is an input; the message names both.
    """
    given = list(inputs)
    for output in outputs:
        for one in given:
            if same_file(output, one):
                read = "" if output == one else f"the same file as {one}, "
                raise ResqError(
                    f"{output}: is {read}what this command reads; name another file for the result"
                )


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same place, or to links of the same file."""
    try:
        if os.path.samefile(one, other):
            return True
    except OSError:  # one of them does not exist
        pass
    return os.path.realpath(one) == os.path.realpath(other)
