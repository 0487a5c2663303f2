"""Options of commands that guess tokens and check several in one call."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from resq_onnx.errors import ResqError

MOST_GUESSES: Final = 15
"""Guesses at a time: with the token before them 16 rows, which take SmolLM2 3.7 times as long as
one on AVX-512."""

DRAFTED: Final = 8
"""Guesses at a time of a draft, unless the user says otherwise; fewer while many are wrong."""


def speculation_options(command: Any) -> Any:
    """Add `--speculate` and `--draft`; `guesses_at_a_time` takes their values."""
    command = click.option(
        "--draft", type=click.Path(path_type=Path), metavar="FILE",
        help="A smaller exported model of the same tokenizer, or its folder, that guesses in place "
        "of the text so far; worth it if it is about ten times as fast.",
    )(command)  # fmt: skip
    return click.option(
        "--speculate", type=click.IntRange(0, MOST_GUESSES), metavar="N",
        show_default=f"0; with --draft {DRAFTED}",
        help="Guess up to N tokens from the text so far and check them together: the same text, "
        "faster where it repeats itself.",
    )(command)  # fmt: skip


def guesses_at_a_time(speculate: int | None, draft: Path | None) -> int:
    """How many tokens to guess at a time, at most.

    Raises:
        ResqError: There is a draft, and it is told to guess nothing.
    """
    if speculate == 0 and draft is not None:
        raise ResqError("--draft guesses tokens, and --speculate is 0; leave out one of them")
    if speculate is None:
        return 0 if draft is None else DRAFTED
    return speculate
