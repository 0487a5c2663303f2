"""Rows that are kept while layers run: those of the whole model, at the chosen tokens."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resq_onnx.calibration import rows
from resq_onnx.calibration.rows import RowSample, Samples, tokens_of_sample
from resq_onnx.checkpoint.source import ModelSource
from tests.calibration.collected import collect
from tests.calibration.test_layer_pass import TEXTS, assert_same_arrays, run
from tests.tiny_models import write_model

SIXTEEN_BITS = 2**-10
"""Rows are kept in float16."""

TOKENS = TEXTS.calibration.size


def _kept(folder: Path, kind: str, **others: Any) -> tuple[Samples, Samples, ModelSource]:
    """The rows that a pass keeps, and those of all tokens of the whole model."""
    whole = write_model(folder / "model", kind, tied=True)
    source = ModelSource(folder / "model", kind)
    found = run(source, folder / "work", keeps_rows=True, **others).rows()
    return found, collect(whole, source.layout, TEXTS.calibration), source


@pytest.mark.parametrize("kind", ["llama", "gemma3", "phi3", "qwen3"])
def test_rows_are_those_of_the_whole_model(tmp_path: Path, kind: str) -> None:
    found, expected, _ = _kept(tmp_path, kind, batch=2)
    for name in ("hidden", "value", "key"):
        one, other = getattr(found, name).float(), getattr(expected, name).float()
        torch.testing.assert_close(
            one, other, atol=SIXTEEN_BITS * float(other.abs().max()), rtol=SIXTEEN_BITS
        )


def test_a_sample_has_other_tokens_in_each_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "TOKENS", 13)
    found, expected, source = _kept(tmp_path, "llama", batch=2)
    layers = source.layout.num_layers
    assert found.hidden.shape == (2 * layers * 13, source.layout.hidden_size)
    assert found.key.shape[2] == found.value.shape[2] == 13
    all_rows = expected.hidden.view(2, layers, TOKENS, -1).float()
    rows_found = found.hidden.view(2, layers, 13, -1).float()
    for layer in range(layers):
        chosen = np.sort(np.random.default_rng(layer).choice(TOKENS, 13, replace=False))
        for one, other in (
            (rows_found[:, layer], all_rows[:, layer, chosen]),
            (found.key[layer].float(), expected.key[layer][:, chosen].float()),
            (found.value[layer].float(), expected.value[layer][:, chosen].float()),
        ):
            torch.testing.assert_close(one, other, atol=0.05, rtol=0.01)


def test_batches_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TOKENS", 13)
    one, _, _ = _kept(tmp_path / "one", "llama", batch=1)
    three, _, _ = _kept(tmp_path / "three", "llama", batch=3)
    torch.testing.assert_close(one.hidden, three.hidden, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(one.value, three.value, atol=1e-3, rtol=1e-3)


def test_a_pass_that_was_stopped_keeps_the_same(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "llama", tied=True, num_hidden_layers=3)
    source = ModelSource(tmp_path / "model", "llama")
    run(source, tmp_path / "whole", keeps_rows=True)

    class StoppedError(Exception):
        pass

    def stop(done: int, _of: int) -> None:
        if done == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        run(source, tmp_path / "stopped", keeps_rows=True, progress=stop)
    run(source, tmp_path / "stopped", keeps_rows=True)
    assert_same_arrays(tmp_path / "stopped", tmp_path / "whole")


def test_a_large_model_keeps_fewer_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "model", "llama", tied=True)
    layout = ModelSource(tmp_path / "model", "llama").layout
    assert tokens_of_sample(layout, 10) == 10
    assert tokens_of_sample(layout, 1_000_000) == rows.TOKENS
    monkeypatch.setattr(rows, "BYTES", 100 * layout.num_layers * rows.bytes_of_token(layout))
    assert tokens_of_sample(layout, 1_000_000) == 100


def test_what_float16_cannot_hold_is_limited(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "llama", tied=True)
    layout = ModelSource(tmp_path / "model", "llama").layout
    sample, large = RowSample(layout, 0, 1), torch.tensor([[1e9, -1e9, 1.0]])
    for site in rows.ROW_SITES:
        sample.take(site, large)
    for array in sample.arrays().values():
        assert np.isfinite(array).all()
