"""Train a small Qwen2 model on a text: a trained model of a second family for testing exports.

    python scripts/fetch_brown.py build/brown
    python scripts/train_small.py build/brown/calibration.txt build/models/brown-qwen2

OUT is a Hugging Face directory with a tokenizer trained on the same text. One window in 32 is held
out; the perplexity printed at the end is measured on these. The same seed, machine and versions
give the same weights. Training takes about ten minutes on one core.
"""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from resq_onnx.checkpoint.quiet import quiet_libraries

END: Final = "<|endoftext|>"
"""The only special token: padding and end of text."""

POSITIONS: Final = 1024
HELD_OUT_EVERY: Final = 32


@dataclass(frozen=True)
class Sizes:
    """Widths of the model: an eighth of each is even, and both parts have a Hadamard matrix."""

    vocabulary: int = 4096
    hidden: int = 256
    intermediate: int = 768
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2


@dataclass(frozen=True)
class Training:
    """Hyperparameters of the training.

    Attributes:
        steps: Number of updates of the weights.
        batch: Windows per step.
        window: Predicted tokens per window.
        rate: Highest learning rate, reached after a twentieth of the steps.
        seed: Seed of the initial weights and of the order of the windows.
        threads: Threads of PyTorch. The rounding of float sums depends on it, and so do weights.
    """

    steps: int = 600
    batch: int = 2
    window: int = 512
    rate: float = 3e-3
    seed: int = 0
    threads: int = 1

    def rate_at(self, step: int) -> float:
        """Learning rate: a linear rise, then half a cosine down to a twentieth of the highest."""
        rise = max(1, self.steps // 20)
        if step < rise:
            return self.rate * (step + 1) / rise
        turn = math.pi * (step - rise) / max(1, self.steps - rise)
        return self.rate * (0.05 + 0.95 * 0.5 * (1.0 + math.cos(turn)))


def train_tokenizer(text: str, vocabulary: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of at most this many tokens; it can encode any text.

    Raises:
        SystemExit: The vocabulary is too small for the 256 bytes and the special token.
    """
    if vocabulary < 257:
        raise SystemExit(f"a vocabulary of {vocabulary} cannot hold 256 bytes and {END}")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=END, model_max_length=POSITIONS
    )


def make_model(sizes: Sizes, seed: int) -> Qwen2ForCausalLM:
    """The untrained model in float32: bias in q, k and v, tied embeddings."""
    config = Qwen2Config(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=True,
        use_cache=False,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    torch.manual_seed(seed)
    return Qwen2ForCausalLM(config)


def cut(ids: list[int], window: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows for training and held-out ones, (windows, window + 1); neighbours share a token.

    Raises:
        SystemExit: The text has too few tokens for one window of each kind.
    """
    tokens = torch.tensor(ids)
    if len(tokens) <= HELD_OUT_EVERY * window:
        raise SystemExit(
            f"the text has {len(tokens)} tokens; it needs more than {HELD_OUT_EVERY * window}"
        )
    windows = tokens.unfold(0, window + 1, window)
    held_out = torch.arange(len(windows)) % HELD_OUT_EVERY == HELD_OUT_EVERY - 1
    return windows[~held_out], windows[held_out]


def loss_of(model: Qwen2ForCausalLM, windows: torch.Tensor) -> torch.Tensor:
    """Mean negative log-likelihood of all but the first tokens of windows (B, window + 1)."""
    logits = model(input_ids=windows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())


def train(
    model: Qwen2ForCausalLM,
    windows: torch.Tensor,
    how: Training,
    progress: Callable[[int, float], None],
) -> None:
    """Train the model in place; `progress` is called with each step and its loss."""
    wide = [weight for weight in model.parameters() if weight.ndim > 1]
    narrow = [weight for weight in model.parameters() if weight.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": wide, "weight_decay": 0.1},
        {"params": narrow, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.95))
    model.train()
    for step, batch in zip(range(how.steps), batches(windows, how), strict=False):
        for group in optimiser.param_groups:
            group["lr"] = how.rate_at(step)
        loss = loss_of(model, batch)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        progress(step + 1, loss.item())
    model.eval()


def batches(windows: torch.Tensor, how: Training) -> Iterator[torch.Tensor]:
    """Endless batches; every window is used once before any is used again."""
    generator = torch.Generator().manual_seed(how.seed)
    while True:
        for chosen in torch.randperm(len(windows), generator=generator).split(how.batch):
            yield windows[chosen]


def perplexity(model: Qwen2ForCausalLM, windows: torch.Tensor, batch: int) -> float:
    """Perplexity of all but the first tokens of the windows."""
    with torch.inference_mode():
        losses = [loss_of(model, some) * len(some) for some in windows.split(batch)]
    return math.exp(float(sum(losses)) / len(windows))


def train_small(
    text: str, out: Path, sizes: Sizes, how: Training, say: Callable[[str], None] = print
) -> Path:
    """Train, and write the directory `out`, which appears whole or not at all.

    Raises:
        SystemExit: `out` already exists, or the text is too short.
    """
    if out.exists():
        raise SystemExit(f"{out} already exists; remove it or name another folder")
    torch.set_num_threads(how.threads)
    tokenizer = train_tokenizer(text, sizes.vocabulary)
    ids = tokenizer.backend_tokenizer.encode(text).ids
    trained_on, held_out = cut(ids, how.window)
    model = make_model(sizes, how.seed)
    say(f"{model.num_parameters():,} parameters; {len(ids):,} tokens, {len(tokenizer)} different")
    start = time.monotonic()
    every = max(1, how.steps // 20)

    def progress(step: int, loss: float) -> None:
        if step % every == 0 or step in (1, how.steps):
            seconds = time.monotonic() - start
            say(f"step {step:5} of {how.steps}   loss {loss:.3f}   {seconds:6.1f} s")

    train(model, trained_on, how, progress)
    say(f"held-out perplexity {perplexity(model, held_out, how.batch):.3f}")
    write(model, tokenizer, out)
    return out


def write(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model's directory beside its place, then rename it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        model.generation_config = GenerationConfig(eos_token_id=0, pad_token_id=0)
        model.config.use_cache = True
        with quiet_libraries():
            model.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
        partial.chmod(0o755)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train a small Qwen2 model on a text.")
    parser.add_argument("text", type=Path, help="a UTF-8 text file")
    parser.add_argument("out", type=Path, help="the directory to write")
    parser.add_argument("--steps", type=int, default=Training.steps)
    parser.add_argument("--seed", type=int, default=Training.seed)
    parser.add_argument("--threads", type=int, default=Training.threads)
    asked = parser.parse_args()
    how = Training(steps=asked.steps, seed=asked.seed, threads=asked.threads)
    print(train_small(asked.text.read_text(encoding="utf-8"), asked.out, Sizes(), how))


if __name__ == "__main__":
    main()
