"""The model that lm_eval sees: `--model resq-onnx --model_args path=OUT.onnx`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from resq_onnx.errors import ResqError
from resq_onnx.families import layout_of
from resq_onnx.files import find_model
from resq_onnx.harness.answering import Answerer, GenerationOptions
from resq_onnx.harness.scoring import Question, Scorer
from resq_onnx.runtime import Decoder, Tokenizer, create_session

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance


class ResqOnnx(TemplateLM):  # type: ignore[misc]  # lm_eval carries no types
    """An exported file as a model of lm_eval; texts run one at a time.

    Attributes:
        tokenizer: The one beside the file.
        max_length: Tokens that the model reads at most.
    """

    tokenizer: Tokenizer

    def __init__(
        self,
        path: str,
        threads: int | None = None,
        kernels: bool = True,
        max_length: int | None = None,
        max_gen_toks: int = 256,
        add_bos_token: bool = True,
        seed: int = 0,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        device: str | None = None,
    ) -> None:
        """Open the file.

        Args:
            path: The exported folder, or the .onnx file in it, with tokenizer and config.json.
            threads: As for `create_session`.
            kernels: As for `create_session`.
            max_length: Read at most this many tokens instead of all the model's positions.
            max_gen_toks: Tokens of an answer where the task does not say.
            add_bos_token: Whether texts begin with the special tokens that the tokenizer adds, as
                the model knows them.
            seed: Of answers that are drawn.
            batch_size: lm_eval gives it to every model. It changes nothing here.
            max_batch_size: Likewise.
            device: Likewise; lm_eval's command line says "cuda:0" unless it is told otherwise.

        Raises:
            ResqError: A file is missing or broken, or a number is out of its range.
        """
        super().__init__()
        del batch_size, max_batch_size, device
        model = find_model(Path(path))
        self._folder = model.absolute().parent
        session = create_session(model, threads, kernels=kernels)
        self.tokenizer = Tokenizer.load(self._folder)
        self.max_length = _reading_length(self._folder, max_length)
        self._scorer = Scorer(Decoder(session))
        self._answerer = Answerer(session, self.tokenizer, self.max_length)
        self._max_gen_toks = max_gen_toks
        self._add_bos_token = add_bos_token
        self._seed = seed

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text.

        Raises:
            ResqError: The tokenizer names none.
        """
        found = self._special("eos_token")
        if found is None:
            raise ResqError(f"{self._folder}: tokenizer_config.json names no eos_token")
        return found

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it: BOS, or where there is none EOS."""
        bos = self._special("bos_token")
        return self.eot_token_id if bos is None else bos

    @property
    def tokenizer_name(self) -> str:
        """The model's folder as one word: lm_eval names files of cached requests by it."""
        return self._folder.as_posix().strip("/").replace("/", "__")

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids of a text; special tokens that are written in it are recognised."""
        special = self._add_bos_token if add_special_tokens is None else add_special_tokens
        return self.tokenizer.encode(string, add_special_tokens=special)

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template's source, which lm_eval keeps with the results; None if it is not used.

        Raises:
            ResqError: Another template than the model's own is asked for by name.
        """
        if isinstance(chat_template, str):
            raise ResqError(
                f"chat template {chat_template!r}: the model has one alone; give "
                f"--apply_chat_template without a name"
            )
        return self.tokenizer.chat_template if chat_template else None

    def apply_chat_template(
        self, chat_history: Sequence[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages as text: up to where an answer begins, or else within the last message.

        Raises:
            ResqError: The model has no chat template, or it refuses the messages.
        """
        text = self.tokenizer.apply_chat_template(chat_history, add_generation_prompt)
        if add_generation_prompt:
            return text
        # The last message is the beginning of an answer: what the template ends it with goes.
        begun = chat_history[-1]["content"].strip()
        before, found, _ = text.rpartition(begun)
        return before + found if found else text

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-likelihood of whole texts, each token predicted once, after BOS or EOS."""
        texts = [request.args[0] for request in requests]
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for owner, text in enumerate(texts):
            ids = self.tok_encode(text, add_special_tokens=False)
            for pair in get_rolling_token_windows(ids, self.prefix_token_id, self.max_length, 1):
                windows.append((None, *make_disjoint_window(pair)))
                owners.append(owner)
        sums = [0.0] * len(texts)
        scores = self._loglikelihood_tokens(windows, disable_tqdm)
        for owner, (log_likelihood, _) in zip(owners, scores, strict=True):
            sums[owner] += log_likelihood
        for text, total in zip(texts, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", (text,), total)
        return sums

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """Answers to prompts, each up to the first of its stop strings."""
        answers = []
        bar = tqdm(requests, disable=disable_tqdm, desc="Answering")
        for number, request in enumerate(bar):
            prompt, asked = request.args
            options = GenerationOptions.of(normalize_gen_kwargs(asked, self._max_gen_toks))
            ids = self.tok_encode(prompt) or [self.prefix_token_id]
            # A task may ask one question several times: each draw has a seed of its own.
            answers.append(self._answerer.answer(ids, options, self._seed + number))
            self.cache_hook.add_partial("generate_until", request.args, answers[-1])
        return answers

    def _loglikelihood_tokens(
        self,
        requests: Sequence[tuple[tuple[str, str] | None, list[int], list[int]]],
        disable_tqdm: bool = False,
        **_: Any,
    ) -> list[tuple[float, bool]]:
        """Judge continuations of contexts, which TemplateLM made into tokens."""
        questions = [
            Question.of(context, continuation, self.max_length)
            for _, context, continuation in requests
        ]
        found: dict[int, tuple[float, bool]] = {}
        scores = self._scorer.scores(questions)
        for index, score in tqdm(
            scores, total=len(questions), disable=disable_tqdm, desc="Judging"
        ):
            found[index] = (score.log_likelihood, score.greedy)
            if (key := requests[index][0]) is not None:
                self.cache_hook.add_partial("loglikelihood", key, found[index])
        return [found[index] for index in range(len(questions))]

    def _special(self, name: str) -> int | None:
        text = self.tokenizer.special_tokens.get(name)
        return None if text is None else self.tokenizer.backend.token_to_id(text)


def _reading_length(folder: Path, asked: int | None) -> int:
    """How many tokens to read at most: what was asked for, if the model has the positions."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResqError(
            f"{folder}/config.json: cannot be read ({error}); it must lie beside the model, where "
            f"resq-onnx export writes it"
        ) from None
    positions = layout_of(config, str(folder)).max_positions
    if asked is not None and not 1 <= asked <= positions:
        raise ResqError(f"max_length is {asked}; this model reads 1 to {positions} tokens")
    return positions if asked is None else asked
