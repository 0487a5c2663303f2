"""Train a small language model on one core: a second model to measure quantisation on.

    python scripts/fetch_brown.py build/brown
    python scripts/train_small.py build/models/brown-qwen2 --text build/brown/calibration.txt

A byte-pair tokenizer of 4,096 entries and a Qwen2 of 5.8 million parameters, with everything that
makes the family different from Llama: biases in q, k and v, and kv heads that are shared. Its text
is the file and Python's language reference. OUT becomes a Hugging Face directory; `--held-out FILE`
prints the perplexity on another text. Everything is seeded; it takes some 15 minutes of one core.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from tokenizers import decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from resq_onnx.calibration.corpus import PYTHON_DOCS, load_text
from resq_onnx.evaluation.windows import Windowing
from resq_onnx.quiet import quiet_libraries

END_OF_TEXT: Final = "<|endoftext|>"
"""Comes after each document; a text begins with it too."""

ARCHITECTURE: Final[dict[str, Any]] = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
"""An eighth of 256, of 768 and of a head of 64 is whole and even, as the exporter asks."""

WEIGHT_DECAY: Final = 0.1
"""Of matrices; gains and biases have none."""

LARGEST_GRADIENT: Final = 1.0
"""Norm of the gradient over all parameters, to which a larger one is scaled down."""

LEAST_RATE: Final = 0.1
"""Learning rate at the end, over the highest one."""


@dataclass(frozen=True)
class Training:
    """How long and on what.

    Attributes:
        steps: Updates of the weights.
        batch: Sequences of an update.
        length: Tokens of a sequence; perplexities are of windows this long.
        vocabulary: Entries of the tokenizer.
        rate: Highest learning rate, reached after a twentieth of the steps.
        seed: Of the first weights and of the order of the text.
    """

    steps: int
    batch: int = 2
    length: int = 512
    vocabulary: int = 4096
    rate: float = 2e-3
    seed: int = 0

    def rate_at(self, step: int) -> float:
        """Learning rate of a step: a linear rise, then half a cosine down to `LEAST_RATE`."""
        rise = max(self.steps // 20, 1)
        if step < rise:
            return self.rate * (step + 1) / rise
        done = (step - rise) / max(self.steps - rise, 1)
        return self.rate * (LEAST_RATE + (1 - LEAST_RATE) * (1 + math.cos(math.pi * done)) / 2)


def train_tokenizer(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level byte-pair tokenizer; `END_OF_TEXT` has the id 0."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    if backend.get_vocab_size() != vocabulary:
        raise SystemExit(
            f"the text gives {backend.get_vocab_size()} tokens, not {vocabulary}: give more text"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT
    )


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> NDArray[np.int64]:
    """All texts as one row of token ids, an `END_OF_TEXT` before each and at the end."""
    ids = [0]
    for text in texts:
        ids += [*tokenizer(text, verbose=False)["input_ids"], 0]
    return np.array(ids)


def batches(ids: NDArray[np.int64], training: Training) -> Iterator[torch.Tensor]:
    """Sequences (batch, length + 1) without end: every pass cuts elsewhere, in another order."""
    random = np.random.default_rng(training.seed)
    rows: list[NDArray[np.int64]] = []
    if len(ids) <= 2 * training.length:
        raise SystemExit(f"{len(ids)} tokens are too few for sequences of {training.length}")
    while True:
        first = int(random.integers(training.length))
        starts = np.arange(first, len(ids) - training.length, training.length)
        for start in random.permutation(starts):
            rows.append(ids[start : start + training.length + 1])
            if len(rows) == training.batch:
                yield torch.from_numpy(np.stack(rows))
                rows = []


def train(ids: NDArray[np.int64], training: Training) -> Qwen2ForCausalLM:
    """A model of random weights, trained on a row of token ids."""
    torch.manual_seed(training.seed)
    config = Qwen2Config(
        **ARCHITECTURE, vocab_size=training.vocabulary, bos_token_id=0, eos_token_id=0
    )
    model = Qwen2ForCausalLM(config)
    groups: dict[bool, list[torch.nn.Parameter]] = {True: [], False: []}
    for parameter in model.parameters():
        groups[parameter.ndim > 1].append(parameter)
    optimiser = torch.optim.AdamW(
        [
            {"params": groups[True], "weight_decay": WEIGHT_DECAY},
            {"params": groups[False], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.95),
    )
    start = time.monotonic()
    for step, rows in zip(range(training.steps), batches(ids, training), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = training.rate_at(step)
        loss = _loss(model, rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
        optimiser.step()
        optimiser.zero_grad()
        if step % 50 == 0 or step == training.steps - 1:
            print(f"step {step:5}  loss {loss.item():.3f}  {time.monotonic() - start:.0f} s")
    model.eval()
    return model


def perplexity(model: Qwen2ForCausalLM, ids: NDArray[np.int64], windows: Windowing) -> float:
    """Of windows that follow each other; their first tokens are not predicted."""
    losses = []
    with torch.inference_mode():
        for window in windows.cut(ids):
            losses.append(_loss(model, torch.from_numpy(window.token_ids[None])).item())
    return math.exp(sum(losses) / len(losses))


def write(out: Path, model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a Hugging Face directory, which appears complete."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        folder = Path(scratch, out.name)
        with quiet_libraries():
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        os.replace(folder, out)


def _loss(model: Qwen2ForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood, nats, of the tokens (B, S) but the first."""
    logits = model(input_ids=rows[:, :-1]).logits
    return cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description="Train a small Qwen2 on one core.")
    parser.add_argument("out", type=Path, help="folder to make; it must not exist, or be empty")
    parser.add_argument("--text", required=True, type=Path, help="a .txt file to train on")
    parser.add_argument("--held-out", type=Path, help="a .txt file to measure perplexity on")
    parser.add_argument("--windows", type=int, default=40, help="how much of it (default: 40)")
    parser.add_argument("--steps", type=int, default=1500, help="default: 1500")
    parser.add_argument("--length", type=int, default=512, help="tokens of a sequence: 512")
    parser.add_argument("--vocabulary", type=int, default=4096, help="default: 4096")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"{options.out}: is there already; remove it or name another folder")
    torch.set_num_threads(1)  # another number gives other roundings, so another model
    training = Training(
        options.steps, length=options.length, vocabulary=options.vocabulary, seed=options.seed
    )
    texts = [*load_text(str(options.text)), *load_text(PYTHON_DOCS)]
    tokenizer = train_tokenizer(texts, training.vocabulary)
    ids = encode(tokenizer, texts)
    print(f"{len(ids)} tokens of text, {sum(map(len, texts)) / len(ids):.2f} characters each")
    model = train(ids, training)
    if options.held_out:
        held_out = encode(tokenizer, load_text(str(options.held_out)))
        windows = Windowing(training.length, max_windows=options.windows)
        print(f"held-out perplexity {perplexity(model, held_out, windows):.2f}")
    write(options.out, model, tokenizer)
    print(f"wrote {options.out}, {sum(p.numel() for p in model.parameters())} parameters")


if __name__ == "__main__":
    main()
