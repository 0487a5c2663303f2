from __future__ import annotations

import re
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, Final

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from scripts import train_small
from scripts.train_small import Sizes, Training

SIZES: Final = Sizes(vocabulary=300, hidden=32, intermediate=64, layers=1, heads=2, kv_heads=1)
HOW: Final = Training(steps=8, window=16, rate=1e-2)
TEXT: Final = topics["compound"]


def train(out: Path, seed: int = 0) -> list[str]:
    """Train a minute model; returns what was said."""
    said: list[str] = []
    how = Training(HOW.steps, HOW.batch, HOW.window, HOW.rate, seed)
    threads = torch.get_num_threads()
    try:
        train_small.train_small(TEXT, out, SIZES, how, said.append)
    finally:
        torch.set_num_threads(threads)
    return said


def test_training_lowers_the_loss_and_writes_a_model_that_loads(tmp_path: Path) -> None:
    out = tmp_path / "folder" / "model"
    said = train(out)
    losses = [float(found[1]) for line in said if (found := re.search(r"loss ([\d.]+)", line))]
    assert len(losses) == HOW.steps
    assert losses[-1] < losses[0] - 0.3
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    model: Any = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert model.config.architectures == ["Qwen2ForCausalLM"]
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id == 0
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids) == TEXT
    _, held_out = train_small.cut(ids, HOW.window)
    expected = train_small.perplexity(model, held_out, HOW.batch)
    assert said[-1] == f"held-out perplexity {expected:.3f}"


def test_the_same_seed_gives_the_same_weights_and_another_others(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path / name, seed)
    one, same, other = (load_file(tmp_path / name / "model.safetensors") for name in "abc")
    assert one.keys() == same.keys() == other.keys()
    assert all(torch.equal(weight, same[name]) for name, weight in one.items())
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])
    assert "model.layers.0.self_attn.q_proj.bias" in one
    assert "lm_head.weight" not in one


def test_held_out_windows_are_not_trained_on() -> None:
    trained_on, held_out = train_small.cut(list(range(64 * 8 + 1)), 8)
    assert (len(trained_on), len(held_out)) == (62, 2)
    assert held_out[:, 0].tolist() == [31 * 8, 63 * 8]
    predicted = {tuple(row) for row in trained_on[:, 1:].tolist()}
    assert predicted.isdisjoint(tuple(row) for row in held_out[:, 1:].tolist())


def test_a_short_text_a_small_vocabulary_and_a_folder_that_is_there_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(SystemExit, match=r"needs more than 512"):
        train_small.cut(list(range(512)), 16)
    with pytest.raises(SystemExit, match="256 bytes"):
        train_small.train_tokenizer(TEXT, 256)
    with pytest.raises(SystemExit, match="already exists"):
        train(tmp_path)


def test_the_learning_rate_rises_and_falls() -> None:
    how = Training(steps=100, rate=1.0)
    rates = [how.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[4] == 1.0
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0.05 <= rates[-1] < 0.06
