"""Tokenizer: text to token ids and back, with the files beside an exported model."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import tokenizers

from resq_onnx.errors import ResqError, blaming
from resq_onnx.files.contents import read_json, read_text
from resq_onnx.runtime.chat import render_chat
from resq_onnx.runtime.opening import opening_of
from resq_onnx.runtime.text_stream import TextStream
from resq_onnx.runtime.token_bytes import bytes_of_tokens
from resq_onnx.runtime.tokenizer_file import check_tokenizer_file

REMEDY: Final = "put the original model's file there, or export the model again"
"""Remedy for a damaged tokenizer file."""


@dataclass(frozen=True)
class Tokenizer:
    """A model's tokenizer, its stop tokens and its chat template.

    Attributes:
        backend: The tokenizer of the `tokenizers` library.
        stop_ids: Tokens that end the model's answer.
        special_tokens: Variables for the chat template: bos_token, eos_token, ...
        chat_template: Jinja source; None if the model has none.
        folder: The folder it was loaded from, for messages.
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
        config = read_json(folder / "tokenizer_config.json", REMEDY, optional=True)
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
        """Bytes of the longest token in the vocabulary: an upper bound on the text of any token."""
        return max((len(token.encode()) for token in self.backend.get_vocab()), default=1)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Tokens that `decode` skips."""
        added = self.backend.get_added_tokens_decoder()
        return frozenset(token for token, one in added.items() if one.special)

    @cached_property
    def token_bytes(self) -> Mapping[int, bytes]:
        """The bytes of each token, by its id."""
        return bytes_of_tokens(self.backend)

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text; special tokens are those tokenizer.json adds, such as BOS.

        Raises:
            ResqError: The text holds half a character, as bytes that are not UTF-8 give.
        """
        with blaming(self.folder, "its tokenizer refuses the text", "give it in UTF-8"):
            text.encode()  # what the library says of it names neither the text nor the cause
            return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def opening(self, bos: bool | None = None) -> tuple[int, ...]:
        """Special tokens at the beginning of a text; None follows tokenizer.json.

        Raises:
            ResqError: BOS is requested and the tokenizer has none.
        """
        named = self.special_tokens.get("bos_token")
        bos_id = self.backend.token_to_id(named) if named else None
        return opening_of(self.encode, bos_id, bos, str(self.folder))

    def decode(self, ids: Iterable[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids; incomplete UTF-8 becomes a replacement character."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Decode tokens as they come; a piece holds whole UTF-8 characters only.

        The joined pieces equal `decode` of all tokens. Any incomplete rest at the end comes as the
        last piece.
        """
        text = TextStream(self.decode)
        for token in ids:
            if piece := text.feed(token):
                yield piece
        if rest := text.rest():
            yield rest

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        cancelled: threading.Event | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """Write messages as the text the model continues.

        It holds the special tokens already: encode it with `add_special_tokens=False`.

        Args:
            messages: Each with "role" and "content".
            add_generation_prompt: Whether to end with the beginning of the answer.
            cancelled: Set by another thread to cancel the request.
            tools: Functions that the model may call, as OpenAI's API describes them.

        Raises:
            ResqError: The model has no chat template, or it refuses the messages or exceeds a
                limit.
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
            tools=tools,
        )


def _load_backend(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise ResqError(
            f"{path}: no such file; the tokenizer's files must be beside the model, where "
            f"resq-onnx export writes them"
        )
    with blaming(path, "not a tokenizer", REMEDY):
        check_tokenizer_file(path, REMEDY)
        backend = tokenizers.Tokenizer.from_file(str(path))
    # Settings of the training run that may be left in the file.
    backend.no_truncation()
    backend.no_padding()
    return backend


def _token_text(value: str | Mapping[str, Any]) -> str:
    return value if isinstance(value, str) else str(value.get("content", ""))


def _stop_ids(folder: Path, backend: tokenizers.Tokenizer, eos: str | None) -> frozenset[int]:
    """Stop tokens of all files together: often only one file names the end of a turn."""
    found = set()
    for name in ("config.json", "generation_config.json"):
        said = read_json(folder / name, REMEDY, optional=True).get("eos_token_id")
        ids = said if isinstance(said, list) else [] if said is None else [said]
        if not all(isinstance(token, int) for token in ids):
            raise ResqError(
                f"{folder / name}: eos_token_id is {said!r}; it must be a token's number, or a "
                f"list of them; {REMEDY}"
            )
        found.update(ids)
    named = backend.token_to_id(eos) if eos else None
    if named is not None:
        found.add(named)
    return frozenset(found)


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return read_text(path, REMEDY)
    template = config.get("chat_template")
    with blaming(folder / "tokenizer_config.json", "its chat_template is not understood", REMEDY):
        if isinstance(template, list):  # several templates: [{"name": ..., "template": ...}]
            template = {entry["name"]: entry["template"] for entry in template}.get("default")
        if not isinstance(template, str | None):
            raise TypeError(f"it is {template!r}, and must be a text")
    return template
