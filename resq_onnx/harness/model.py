"""The model `resq-onnx` of lm-eval: an exported file and the tokenizer beside it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from resq_onnx.errors import ResqError
from resq_onnx.harness import MODEL_NAME
from resq_onnx.harness.continuing import prefilled_chat, until_stopped
from resq_onnx.harness.scoring import Scorer
from resq_onnx.runtime import BufferedDecoder, Decoder, Tokenizer, create_session, generate

log = logging.getLogger(__name__)

UNKNOWN_MAX_LENGTH: Final = 2048
"""Tokens of a text where config.json does not say how many the model was made for."""

NEW_TOKENS: Final = 256
"""How long a generated text may become where the task does not say."""

UNDERSTOOD: Final = frozenset({"until", "max_gen_toks", "do_sample", "temperature", "top_p"})
"""What a task may ask of a generation, under the names that lm-eval brings it to."""


@register_model(MODEL_NAME)
class ExportedLM(TemplateLM):  # type: ignore[misc]  # lm-eval has no types
    """Scores and continues texts, one after the other, with a file that resq-onnx export wrote.

    Attributes:
        tokenizer: With the chat template, from the folder of the file.
        max_length: Tokens of a text; the beginning of a longer one is left out.
    """

    def __init__(
        self,
        path: str,
        threads: int | None = None,
        kernels: bool = True,
        max_length: int | None = None,
        seed: int = 0,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """Open a file.

        Args:
            path: The .onnx file.
            threads: As for `create_session`.
            kernels: As for `create_session`.
            max_length: Tokens of a text; None is what config.json says.
            seed: Of drawn tokens; the second text that is drawn has seed + 1, and so on.
            batch_size: Given by lm-eval, and not used: texts run one by one.
            max_batch_size: Likewise.
            device: Given by lm-eval; only the CPU can be asked for.

        Raises:
            ResqError: The file or the tokenizer cannot be read, or a number is out of its range.
        """
        super().__init__()
        if device not in (None, "cpu"):
            raise ResqError(f"device is {device}; exported files run on the cpu here")
        self._session = create_session(path, threads, kernels=bool(kernels))
        self._scorer = Scorer(Decoder(self._session))
        self.tokenizer: Tokenizer = Tokenizer.load(Path(path).parent)
        self.max_length = _max_length(Path(path)) if max_length is None else int(max_length)
        if self.max_length < 2:
            raise ResqError(f"max_length is {self.max_length}; it must be at least 2")
        self._seed = int(seed)
        self._unheard: set[str] = set()

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self._special("eos_token")

    @property
    def prefix_token_id(self) -> int:
        """What an empty context is replaced by: the token that begins a text."""
        return self._special("bos_token", "eos_token")

    @property
    def tokenizer_name(self) -> str:
        """Tells the caches of different models' prompts apart: a file name for this tokenizer."""
        return str(self.tokenizer.folder.resolve()).replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids of a text.

        Args:
            string: The text.
            add_special_tokens: Whether to add those that tokenizer.json asks for, such as BOS; None
                adds them unless the text has them already, as a rendered chat does.
        """
        if add_special_tokens is None:
            begin = self.tokenizer.special_tokens.get("bos_token")
            add_special_tokens = not (begin and string.startswith(begin))
        return self.tokenizer.encode(string, add_special_tokens)

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Write messages as the text the model continues.

        Args:
            chat_history: Each with "role" and "content".
            add_generation_prompt: Whether to end with the beginning of an answer. If not, the text
                ends within the last message, for the model to go on with it.

        Raises:
            ResqError: The model has no chat template, or it refuses the messages.
        """
        if add_generation_prompt:
            return self.tokenizer.apply_chat_template(chat_history)
        return prefilled_chat(self.tokenizer, chat_history)

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts, each token predicted once; see `LM` of lm-eval."""
        found = []
        for request in tqdm(requests, desc="Scoring texts", disable=disable_tqdm):
            ids = self.tok_encode(request.args[0], add_special_tokens=False)
            windows = get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1)
            pairs = (make_disjoint_window(window) for window in windows)
            total = sum(self._scorer.score(*pair).log_likelihood for pair in pairs)
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
            found.append(total)
        return found

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations of texts, up to a stop string; see `LM` of lm-eval.

        A task may ask for `until`, `max_gen_toks`, and with `do_sample` for `temperature` and
        `top_p`. All else that it asks for is named in a warning.

        Raises:
            ResqError: A number is out of its range, or leaves no room for the text.
        """
        found = []
        for request in tqdm(requests, desc="Continuing texts", disable=disable_tqdm):
            text = self._continue(*request.args)
            self.cache_hook.add_partial("generate_until", request.args, text)
            found.append(text)
        return found

    def _loglikelihood_tokens(
        self,
        requests: Iterable[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        found = []
        for strings, context, continuation in tqdm(
            requests, desc="Scoring continuations", disable=disable_tqdm
        ):
            if not 0 < len(continuation) <= self.max_length:
                raise ResqError(
                    f"a continuation has {len(continuation)} tokens; it must have at least one and "
                    f"at most max_length={self.max_length}: {strings[1][:60]!r}"
                )
            # The model reads all but the last token; what does not fit is left out on the left.
            room = self.max_length + 1 - len(continuation)
            score = self._scorer.score(context[-room:], continuation)
            result = (score.log_likelihood, score.greedy)
            self.cache_hook.add_partial("loglikelihood", strings, result)
            found.append(result)
        return found

    def _continue(self, context: str, options: Mapping[str, Any]) -> str:
        options = normalize_gen_kwargs(dict(options), NEW_TOKENS)
        self._warn_of(options.keys() - UNDERSTOOD)
        room = self.max_length - options["max_gen_toks"]
        if room < 1:
            raise ResqError(
                f"max_gen_toks is {options['max_gen_toks']}, and a text has at most "
                f"max_length={self.max_length} tokens; ask for fewer"
            )
        drawn = bool(options["do_sample"])
        prompt = self.tok_encode(context)[-room:] or [self.prefix_token_id]
        ids = generate(
            self._buffered,
            prompt,
            options["max_gen_toks"],
            temperature=options.get("temperature", 1.0) if drawn else 0.0,
            top_p=options.get("top_p", 1.0),
            seed=self._seed,
            stop_ids=self.tokenizer.stop_ids | self._tokens_of(options["until"]),
        )
        self._seed += drawn
        return until_stopped(self.tokenizer.stream(ids), options["until"])

    @cached_property
    def _buffered(self) -> BufferedDecoder:
        return BufferedDecoder(self._session, self.max_length)

    def _tokens_of(self, stops: Sequence[str]) -> set[int]:
        """Stop strings that are tokens: the text of a special one is never seen."""
        ids = {self.tokenizer.backend.token_to_id(stop) for stop in stops}
        return {token for token in ids if token is not None}

    def _special(self, *names: str) -> int:
        """The id of the first of these tokens that the model has."""
        for name in names:
            text = self.tokenizer.special_tokens.get(name)
            token = None if text is None else self.tokenizer.backend.token_to_id(text)
            if token is not None:
                return int(token)
        if self.tokenizer.stop_ids:
            return min(self.tokenizer.stop_ids)
        raise ResqError(
            f"{self.tokenizer.folder}: neither tokenizer_config.json nor config.json names a "
            f"token that ends a text; add an eos_token"
        )

    def _warn_of(self, names: Iterable[str]) -> None:
        for name in sorted(set(names) - self._unheard):
            log.warning("the task's generation option %r is not known here and has no effect", name)
            self._unheard.add(name)


def _max_length(path: Path) -> int:
    """The number of positions that the config.json beside a file names."""
    try:
        config = json.loads(path.with_name("config.json").read_text(encoding="utf-8"))
        length = config["max_position_embeddings"]
    except (OSError, ValueError, KeyError, TypeError):
        return UNKNOWN_MAX_LENGTH
    return length if isinstance(length, int) else UNKNOWN_MAX_LENGTH
