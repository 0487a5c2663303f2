"""Constrained generation: only tokens that can continue a JSON text of a schema may be drawn.

llguidance computes for each place the mask of such tokens. Schemas come from clients and are
untrusted: it limits the work of a schema and of each step, and so does this file its memory.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from resq_onnx.errors import ResqError, reason
from resq_onnx.runtime.tokenizer import Tokenizer

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

MAX_SCHEMA: Final = 2**16
"""Largest number of characters of a schema: a hundred times those of today's clients."""

MAX_MESSAGE: Final = 300
"""Characters of a message of llguidance; it may repeat what the client has sent."""

LIMITS: Final[dict[str, Any]] = {
    "initial_lexer_fuel": 1_000_000,
    "step_lexer_fuel": 200_000,
    "step_max_items": 50_000,
    "max_lexer_states": 20_000,
    "max_grammar_size": 100_000,
    "verbose_errors": False,
}
"""Of llguidance: about 20 ms for the lexer, 15 ms for a step, 40 MB of states."""

LAYOUT: Final[Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
    "lenient": False,
}
"""One way to write a value, as Python does: free white space would let an answer never end.

Of `oneOf` one alternative is followed, though another may fit too. Unknown keywords are refused.
"""

SPACED: Final = "start: SPACE? json\nSPACE: /[ \\n]/\njson: %json "
"""Grammar of a JSON text behind white space, but for the schema."""


class Constraint:
    """What one answer may still hold."""

    def __init__(self, matcher: LLMatcher, words: LLTokenizer, vocabulary: int) -> None:
        """Begin an answer.

        Args:
            matcher: At the beginning; nobody else may use it.
            words: The tokens of the vocabulary.
            vocabulary: Number of logits.
        """
        self._matcher = matcher
        self._words = words
        self._mask = np.zeros((vocabulary + 31) // 32, np.uint32)
        self._vocabulary = vocabulary

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow."""
        return bool(self._matcher.is_stopped())

    def copy(self) -> Constraint:
        """The same constraint for another answer."""
        return Constraint(self._matcher.deep_copy(), self._words, self._vocabulary)

    def after(self, text: str) -> Constraint | None:
        """The same constraint for an answer that has begun so; None if it may not begin so."""
        found, tokens = self.copy(), self._words.greedy_tokenize(text)
        return found if found._matcher.try_consume_tokens(tokens) == len(tokens) else None

    def applied(self, logits: NDArray[Any]) -> NDArray[Any]:
        """The logits (vocabulary,), those of all other tokens minus infinity.

        Raises:
            ResqError: The schema takes too much work, or the vocabulary cannot write it.
        """
        return np.where(self.allowed(), logits, -np.inf)

    def allowed(self) -> NDArray[np.bool_]:
        """The tokens that can follow, (vocabulary,); errors as for `applied`."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        self._check()
        bits = np.unpackbits(self._mask.view(np.uint8), bitorder="little", count=self._vocabulary)
        if not bits.any():
            raise ResqError("no token of the model can continue what the schema asks for")
        return bits.astype(np.bool_)

    def note(self, token: int) -> None:
        """Take a token into the answer.

        Raises:
            ResqError: It is not allowed.
        """
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise ResqError(_message(self._matcher))


class Constraints:
    """Makes constraints for one tokenizer; several threads may use it."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: int) -> None:
        """Begin; the work is done early, or when the first constraint is asked for.

        Args:
            tokenizer: The model's.
            vocabulary: Number of logits.
        """
        self._tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._words: LLTokenizer | None = None

    def start_early(self) -> None:
        """Do the work of the first constraint now, in a thread: it takes a second."""

        def load() -> None:
            with suppress(ResqError, ModuleNotFoundError):  # said when one is asked for
                self._loaded()

        # Not a daemon: the program's end must not meet it inside the library.
        threading.Thread(target=load, name="constraints").start()

    def of_schema(self, schema: Mapping[str, Any], *, spaced: bool = False) -> Constraint:
        """Allow the JSON texts that a schema describes.

        Args:
            schema: The schema.
            spaced: Whether a space or a line break may come before.

        Raises:
            ResqError: The schema is invalid, uses what is not supported, or is too large; or
                llguidance is not installed.
        """
        written = json.dumps(schema)
        if len(written) > MAX_SCHEMA:
            raise ResqError(
                f"it has {len(written)} characters as JSON; at most {MAX_SCHEMA} are taken"
            )
        try:
            from llguidance import LLMatcher, LLParserLimits
        except ModuleNotFoundError:
            raise ResqError(
                "this server has no llguidance, which constrains answers; install resq-onnx[serve]"
            ) from None
        try:
            grammar = LLMatcher.grammar_from_json_schema(written, overrides=LAYOUT)
            if spaced:
                laid_out = json.dumps({**schema, "x-guidance": LAYOUT})
                grammar = LLMatcher.grammar_from_lark(SPACED + laid_out)
        except ValueError as error:  # it is nested too deeply
            raise ResqError(reason(error)) from None
        limits = LLParserLimits(**LIMITS)
        words = self._loaded()
        matcher = LLMatcher(words, grammar, log_level=0, limits=limits)
        found = Constraint(matcher, words, self._vocabulary)
        found.copy().allowed()  # some schemas turn out too large only at the first token
        return found

    def _loaded(self) -> LLTokenizer:
        """The vocabulary as llguidance needs it, which takes a second for a large one."""
        from llguidance import LLTokenizer

        with self._lock:
            if self._words is None:
                stop_ids = sorted(self._tokenizer.stop_ids) or None
                try:
                    self._words = LLTokenizer(
                        self._tokenizer.backend.to_str(), self._vocabulary, stop_ids
                    )
                except Exception as error:  # it has no common base
                    raise ResqError(
                        f"the tokenizer cannot constrain answers: {reason(error)}"
                    ) from None
            return self._words


def _message(matcher: LLMatcher) -> str:
    """What is wrong, in one line."""
    message = " ".join(matcher.get_error().split())
    if message.startswith("NoExtension"):
        return "no JSON text of finite length satisfies it"
    return message[:MAX_MESSAGE]
