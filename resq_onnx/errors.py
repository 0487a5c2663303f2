"""The one exception whose message is meant for the user, and other libraries' in its words."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

DATACLASS: Final = re.compile(r"error for (?:field|validator) '(\w+)':\s*(?:\w+: )?(.*)", re.DOTALL)
"""How huggingface_hub, and so transformers, refuses an entry of a config.json."""

PANIC: Final = "PanicException"
"""What Rust's libraries, such as tokenizers, raise where they find a fault of their own."""

PROTOBUF: Final = ("DecodeError", "EncodeError")
"""Its exceptions, by name: whoever runs this file may not have it."""


class ResqError(Exception):
    """Something the user can put right: the message says what, where and what to do.

    The command line prints the message alone and exits with status 1; any other
    exception is a defect of this program.
    """


def first_line(error: BaseException) -> str:
    """An exception's message as one line: its first that says anything."""
    return lines_of(error)[0]


def lines_of(error: BaseException) -> list[str]:
    """The lines of an exception's message that say anything; its type's name if none does."""
    lines = (line.strip() for line in str(error).splitlines())
    return [line for line in lines if line] or [type(error).__name__]


def reason(error: BaseException) -> str:
    """What is wrong with an input on which another library, or Python, gave up: one line."""
    match error:
        case FileNotFoundError():
            return "no such file"
        case OSError(strerror=str(said)):
            return said
        case UnicodeDecodeError():
            return f"not UTF-8 text (byte {error.start})"
        case UnicodeEncodeError():
            return "a text in it holds half a character (a lone surrogate)"
        case json.JSONDecodeError():
            return f"not JSON ({error.msg}: line {error.lineno} column {error.colno})"
        case RecursionError():
            return "it is nested too deeply"
        case MemoryError():
            return "it asks for more memory than there is"
        case KeyError(args=(name, *_)):
            return f"it has no {name!r}"
        case struct.error():
            return f"it is cut off ({first_line(error)})"
    if found := DATACLASS.search(str(error)):
        return f"{found[1]}: {' '.join(found[2].split())}"
    if type(error).__name__ in PROTOBUF:
        return f"not a protobuf message ({first_line(error)})"
    return first_line(error)


@contextmanager
def blaming(what: str | Path, wrong: str, remedy: str) -> Iterator[None]:
    """Say which input it was on which other libraries gave up.

    It stands around what reads an input, and little else: a defect of this program would be taken
    for one of the input there.

    Args:
        what: The file, and the place in it where that is known.
        wrong: What could not be done, or is not so, such as `not a tokenizer`.
        remedy: What to do.

    Raises:
        ResqError: In place of any other exception, but that of a package that is not installed.
    """
    try:
        yield
    except (ResqError, ModuleNotFoundError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        raise ResqError(f"{what}: {wrong}: {reason(error)}; {remedy}") from error
