"""ResqError, the exception for user errors, and the conversion of other libraries' exceptions."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

DATACLASS: Final = re.compile(r"error for (?:field|validator) '(\w+)':\s*(?:\w+: )?(.*)", re.DOTALL)
"""The message with which huggingface_hub, and so transformers, rejects an entry of a
config.json."""

PANIC: Final = "PanicException"
"""The exception of Rust libraries, such as tokenizers, for an internal fault."""

PROTOBUF: Final = ("DecodeError", "EncodeError")
"""Protobuf's exceptions by name, because it may not be installed."""


class ResqError(Exception):
    """An error that the user can fix: the message says what is wrong, where, and what to do.

    The command line prints the message alone and exits with status 1; any other
    exception is a defect of this program.
    """


def first_line(error: BaseException) -> str:
    """The first line of an exception's message that is not empty."""
    return lines_of(error)[0]


def lines_of(error: BaseException) -> list[str]:
    """The non-empty lines of an exception's message, or the name of its type."""
    lines = (line.strip() for line in str(error).splitlines())
    return [line for line in lines if line] or [type(error).__name__]


def reason(error: BaseException) -> str:
    """One line that says why another library, or Python, rejected an input."""
    match error:
        case FileNotFoundError(strerror=str()):
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
    """Name the input that another library rejected.

    Wrap only the code that reads the input: otherwise a defect of this program would be reported as
    one of the input.

    Args:
        what: The file, and the place in it where that is known.
        wrong: What is wrong with it, such as `not a tokenizer`.
        remedy: What to do.

    Raises:
        ResqError: Replaces any other exception, except that of a missing package.
    """
    try:
        yield
    except (ResqError, ModuleNotFoundError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != PANIC:
            raise
        raise ResqError(f"{what}: {wrong}: {reason(error)}; {remedy}") from error
