"""Text to token ids and back, from the files that lie beside an exported model."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

import tokenizers

from resq_onnx.errors import ResqError
from resq_onnx.runtime.chat import render_chat

INCOMPLETE: Final = "\N{REPLACEMENT CHARACTER}"
"""What a decoder puts where the bytes of a character have not all come yet."""


@dataclass(frozen=True)
class Tokenizer:
    """A model's tokenizer, its stop tokens and its chat template.

    Attributes:
        backend: The tokenizer of the `tokenizers` library.
        stop_ids: Tokens after which the model has said everything.
        special_tokens: What the chat template may name: bos_token, eos_token, ...
        chat_template: Jinja source; None if the model has none.
        folder: Where it was loaded from, for messages.
    """

    backend: tokenizers.Tokenizer
    stop_ids: frozenset[int] = frozenset()
    special_tokens: Mapping[str, str] = field(default_factory=dict)
    chat_template: str | None = None
    folder: Path = Path()

    @classmethod
    def load(cls, folder: str | Path) -> Tokenizer:
        """Read tokenizer.json and, where they exist, the other files of a tokenizer.

        These are tokenizer_config.json and chat_template.jinja, and for the stop tokens
        config.json and generation_config.json.

        Raises:
            ResqError: tokenizer.json is missing, or a file is broken.
        """
        folder = Path(folder)
        backend = _load_backend(folder / "tokenizer.json")
        config = _read_json(folder / "tokenizer_config.json")
        special_tokens = {
            name: _token_text(value)
            for name, value in config.items()
            if name.endswith("_token") and isinstance(value, str | dict)
        }
        return cls(
            backend=backend,
            stop_ids=_stop_ids(folder, backend, special_tokens.get("eos_token")),
            special_tokens=special_tokens,
            chat_template=_chat_template(folder, config),
            folder=folder,
        )

    @cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token, as the vocabulary writes it: it stands for no more."""
        return max((len(token.encode()) for token in self.backend.get_vocab()), default=1)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; special tokens are those tokenizer.json adds, such as BOS."""
        return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; what is no complete UTF-8 becomes a replacement character."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Decode tokens as they come; a piece holds whole UTF-8 characters only.

        The pieces joined are `decode` of all tokens. What is still incomplete when the
        tokens end comes as the last piece.
        """
        # A token's text may depend on the one before it (a leading space), so each step
        # decodes from the last piece on and emits what its tokens add.
        window: list[int] = []
        shown = ""
        shown_tokens = 0
        for token in ids:
            window.append(token)
            text = self.decode(window)
            if len(text) > len(shown) and not text.endswith(INCOMPLETE):
                yield text[len(shown) :]
                window = window[shown_tokens:]
                shown_tokens = len(window)
                shown = self.decode(window)
        rest = self.decode(window)[len(shown) :]
        if rest:
            yield rest

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        cancelled: threading.Event | None = None,
    ) -> str:
        """Write messages as the text the model continues.

        It holds the special tokens already: encode it with `add_special_tokens=False`.

        Args:
            messages: Each with "role" and "content".
            add_generation_prompt: Whether to end with the beginning of the answer.
            cancelled: Set by another thread when nobody wants the text any more.

        Raises:
            ResqError: The model has no chat template, or it refuses the messages or takes too much.
            ChatCancelledError: `cancelled` was set.
        """
        if self.chat_template is None:
            raise ResqError(
                f"{self.folder}: the model has no chat template (neither chat_template.jinja nor "
                f"one in tokenizer_config.json); give it plain text to continue"
            )
        return render_chat(
            self.chat_template,
            messages,
            add_generation_prompt,
            self.special_tokens,
            where=str(self.folder),
            cancelled=cancelled,
        )


def _load_backend(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise ResqError(
            f"{path}: no such file; the tokenizer's files must lie beside the model, where "
            f"resq-onnx export writes them"
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises nothing more specific
        raise ResqError(f"{path}: not a tokenizer ({error}); export the model again") from None
    # Settings of the training run that may be left in the file.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _read_json(path: Path) -> dict[str, Any]:
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ResqError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(contents, dict):
        raise ResqError(f"{path}: must hold a JSON object")
    return cast("dict[str, Any]", contents)


def _token_text(value: str | Mapping[str, Any]) -> str:
    return value if isinstance(value, str) else str(value.get("content", ""))


def _stop_ids(folder: Path, backend: tokenizers.Tokenizer, eos: str | None) -> frozenset[int]:
    """All that any file calls an end: models' files often name the end of a turn in one only."""
    found = set()
    for name in ("config.json", "generation_config.json"):
        ids = _read_json(folder / name).get("eos_token_id")
        found.update(ids if isinstance(ids, list) else [] if ids is None else [ids])
    named = backend.token_to_id(eos) if eos else None
    if named is not None:
        found.add(named)
    return frozenset(found)


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several templates: [{"name": ..., "template": ...}]
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template
