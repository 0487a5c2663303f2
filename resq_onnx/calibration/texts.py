"""Load texts for calibration and evaluation: files, data sets, or what this package comes with."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from resq_onnx.calibration.built_in import BUILT_IN, PYTHON_DOCS
from resq_onnx.checkpoint.hub import unreachable
from resq_onnx.checkpoint.quiet import quiet_libraries
from resq_onnx.errors import ResqError, blaming, first_line
from resq_onnx.files.contents import read_text
from resq_onnx.files.scratch import scratch_folder

DATASETS: Final = {"wikitext": ("Salesforce/wikitext", "wikitext-2-raw-v1")}
"""Short names of data sets that need a configuration: their repository and configuration."""

TABLES: Final = (".csv", ".parquet")
"""Files that `datasets` reads."""

FILE_SUFFIXES: Final = (".txt", ".jsonl", ".json", *TABLES)
"""Suffixes that mark a file, not the name of a data set."""

MOST_BYTES: Final = 1 << 34
"""Largest size of a file of texts."""

KINDS: Final = f"a {', '.join(FILE_SUFFIXES[:-1])} or {FILE_SUFFIXES[-1]} file"


Messages = Sequence[Mapping[str, Any]]
ChatTemplate = Callable[[Messages], str]
"""Renders messages as the text that a model was trained on."""


def load_text(
    spec: str, what: str = "calibration text", chat: ChatTemplate | None = None
) -> list[str]:
    """Read the documents of a text, in a fixed order.

    Args:
        spec: A .txt file (one document); a .jsonl, .json, .csv or .parquet file (one document a
            line or row, in the field "text", or as a chat in the field "messages");
            one of `built_in.BUILT_IN`; or the name of a data set on the Hugging Face hub,
            `owner/name` or one of `DATASETS`, where `owner/name:configuration` chooses a
            configuration.
        what: The purpose of the text, for messages.
        chat: The model's chat template; None if only plain texts are allowed.

    Raises:
        ResqError: The file or data set cannot be read, or has no text.
    """
    if spec in BUILT_IN:
        return BUILT_IN[spec]()
    path = Path(spec)
    if not path.exists() and not _names_dataset(spec):
        raise ResqError(
            f"{what} {spec}: no such file; give {KINDS}, {PYTHON_DOCS}, or a data set on the "
            f"Hugging Face hub as OWNER/NAME"
        )
    if not path.exists():
        return _documents(_dataset_rows(spec, what), spec, chat)
    if path.suffix not in FILE_SUFFIXES:
        raise ResqError(f"{spec}: a {what} must be {KINDS}")
    if path.suffix == ".txt":
        return [_read_file(path)]
    if path.suffix == ".jsonl":
        return _documents(_json_lines(path), spec, chat)
    rows = _table_rows(path) if path.suffix in TABLES else _json_rows(path)
    return _documents(rows, spec, chat)


def _names_dataset(spec: str) -> bool:
    """Whether a spec that is not a file can be a data set: `owner/name`, or one of `DATASETS`."""
    name = spec.partition(":")[0]
    owner, _, rest = name.partition("/")
    is_path = Path(name).suffix in FILE_SUFFIXES or owner in ("", ".", "..", "~") or "/" in rest
    return name in DATASETS or (bool(rest) and not is_path and not Path(owner).exists())


def _documents(rows: Iterable[tuple[str, Any]], spec: str, chat: ChatTemplate | None) -> list[str]:
    """The text of each row; each row comes with its name for messages."""
    documents = []
    for where, row in rows:
        is_record = isinstance(row, dict)
        text, messages = (row.get("text"), row.get("messages")) if is_record else (row, None)
        if isinstance(messages, list) and text is None:
            if chat is None:
                raise ResqError(
                    f'{where}: holds a chat ("messages"), and a text is needed here; give one with '
                    'the field "text"'
                )
            text = chat(messages)
        if not isinstance(text, str):
            raise ResqError(
                f'{where}: must be an object with a string in the field "text", or a chat in the '
                'field "messages"'
            )
        with blaming(where, "cannot be read", "correct the text"):
            text.encode()
        documents.append(text)
    if not documents:
        raise ResqError(f"{spec}: holds no text; give another one")
    return documents


def _read_file(path: Path) -> str:
    remedy = "convert the file to UTF-8, or give another text"
    return read_text(path, remedy, most=MOST_BYTES)


def _json_lines(path: Path) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): JSON strings may hold U+2028, which does not end a line here.
    for number, line in enumerate(_read_file(path).split("\n"), start=1):
        if line.strip():
            where = f"{path}, line {number}"
            with blaming(where, "cannot be read", "correct the line"):
                row = json.loads(line)
            yield where, row


def _json_rows(path: Path) -> Iterator[tuple[str, Any]]:
    with blaming(path, "cannot be read", "correct the file"):
        rows = json.loads(_read_file(path))
    if not isinstance(rows, list):
        raise ResqError(f"{path}: must hold a list of texts, or of chats; write it so")
    yield from ((f"{path}, entry {number}", row) for number, row in enumerate(rows, start=1))


def _table_rows(path: Path) -> Iterator[tuple[str, Any]]:
    datasets = _import_datasets(str(path))
    kind = path.suffix.removeprefix(".")
    with (
        scratch_folder("text") as cache,
        blaming(path, f"cannot be read as {kind}", "give the text as .txt or .jsonl"),
        quiet_libraries(),
    ):
        if not path.is_file():
            raise ResqError(f"{path}: not a regular file; give {KINDS}")
        table = datasets.load_dataset(
            kind, data_files=str(path.absolute()), split="train", cache_dir=str(cache)
        )
        yield from _rows(table, str(path))


def _dataset_rows(spec: str, what: str) -> Iterator[tuple[str, Any]]:
    datasets = _import_datasets(f"{what} {spec!r}")
    name, _, configuration = spec.partition(":")
    name, default = DATASETS.get(name, (name, ""))
    away = unreachable()
    try:
        with _offline(datasets.config, away is not None):
            table = datasets.load_dataset(name, configuration or default or None, split="train")
    except Exception as error:  # of the network, the repository or a parser: no common base
        raise ResqError(
            f"{what} {spec!r} is not a file, and loading it as a data set failed: "
            f"{away or first_line(error)}; give {KINDS}, {PYTHON_DOCS}, or a data set within reach"
        ) from None
    yield from _rows(table, f"data set {spec}")


@contextmanager
def _offline(config: Any, away: bool) -> Iterator[None]:
    """Let `datasets` look into its cache alone, if the hub is away."""
    before = config.HF_HUB_OFFLINE
    config.HF_HUB_OFFLINE = before or away
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


def _rows(table: Any, shown: str) -> Iterator[tuple[str, Any]]:
    column = next((name for name in ("text", "messages") if name in table.column_names), None)
    if column is None:
        raise ResqError(
            f'{shown}: has no column "text" or "messages", only {", ".join(table.column_names)}; '
            f"write the texts to a .jsonl file and give that"
        )
    for number, value in enumerate(table[column], start=1):
        yield f"{shown}, row {number}", {column: value}


def _import_datasets(shown: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise ResqError(
            f"{shown}: to read it `datasets` must be installed: pip install datasets; or give a "
            f".txt or .jsonl file"
        ) from None
    return datasets
