from __future__ import annotations

import json
import resource
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import resq_onnx
from resq_onnx.calibration.held_out import LENGTH, TOKENS, text_shape
from resq_onnx.evaluation.against_float import (
    MOST_DECIBELS,
    _array_on_disk,
    compare_with_float,
    observe,
)
from resq_onnx.evaluation.distance import compare
from resq_onnx.recipe import Recipe
from resq_onnx.runtime import Decoder, create_session
from resq_onnx.runtime.outputs import ModelOutputs
from resq_onnx.runtime.taps import TappedDecoder, layer_outputs, tapped_session
from tests.tiny_models import SIZES, write_model

NEAR = 1e-4
"""Relative, of logits by decode and by prefill: the kernels give both the same bits."""


def random(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def observed(path: Path, ids: NDArray[np.int64]) -> ModelOutputs:
    return observe(TappedDecoder(tapped_session(path, halves=True)), ids, path.parent)


def sequences(outputs: ModelOutputs) -> Iterator[ModelOutputs]:
    for place in range(len(outputs.logits)):
        one = slice(place, place + 1)
        yield ModelOutputs(outputs.logits[one], outputs.stream[:, one])


IDS = np.random.default_rng(1).integers(0, 9, (2, 5))
EXPECTED = ModelOutputs(logits=random(2, 5, 9), stream=random(5, 2, 5, 8))


def test_noise_of_a_hundredth_of_the_energy_is_20_decibels() -> None:
    noise = np.random.default_rng(2).normal(size=EXPECTED.stream.shape)
    lengths = [np.linalg.norm(x, axis=-1, keepdims=True) for x in (EXPECTED.stream, noise)]
    found = EXPECTED.stream + 0.1 * noise / lengths[1] * lengths[0]
    outputs = ModelOutputs(EXPECTED.logits, found.astype(np.float32))
    quality = compare_with_float(EXPECTED, sequences(outputs), IDS)
    assert quality.layer_sqnr_db == pytest.approx([20.0] * 3, abs=1e-3)
    assert quality.tokens == 10


def test_equal_streams_have_a_finite_ratio_as_json_needs_it() -> None:
    quality = compare_with_float(EXPECTED, sequences(EXPECTED), IDS)
    assert quality.layer_sqnr_db == (MOST_DECIBELS,) * 3
    assert json.loads(json.dumps(quality.to_json(), allow_nan=False))["tokens"] == 10


def test_the_agreement_is_that_of_the_logits() -> None:
    other = ModelOutputs(EXPECTED.logits[:, ::-1], EXPECTED.stream)
    expected = compare(EXPECTED.logits, other.logits, IDS)
    assert compare_with_float(EXPECTED, sequences(other), IDS).distance == expected


@pytest.mark.parametrize("positions", [1, 2, 3, 64, 100, 256, 8192])
def test_the_text_is_long_enough_and_no_sequence_longer_than_the_model_can_read(
    positions: int,
) -> None:
    sequences, length = text_shape(positions)
    assert 2 <= length <= max(positions, 2)
    assert length <= LENGTH
    assert sequences * length >= TOKENS


def test_what_an_export_measures_is_what_its_files_show(tmp_path: Path) -> None:
    """Again from the files, and of one that computes the last token's logits alone."""
    write_model(tmp_path / "model", "llama", tied=True, num_hidden_layers=2)
    quick = Recipe(calibration="python-docs", samples=4, sequence_length=64)
    summary = resq_onnx.export(
        tmp_path / "model",
        tmp_path / "a" / "model.onnx",
        quick,
        save_rotated=tmp_path / "float" / "float.onnx",
    )
    quality = summary.quality
    assert quality is not None
    said = json.loads((tmp_path / "a" / "resq.json").read_text())
    assert said["quality"] == quality.to_json()
    assert len(quality.layer_sqnr_db) == SIZES["num_hidden_layers"] + 1
    assert said["spectra"].keys() == {"hidden", "value", "key", "down"}
    assert 0 < quality.distance.kl_divergence < 1
    assert quality.tokens == TOKENS

    ids = np.random.default_rng(3).integers(3, 250, (2, 24))
    floats, found = observed(tmp_path / "float" / "float.onnx", ids), observed(summary.path, ids)
    np.testing.assert_array_equal(found.stream[::2], layer_outputs(summary.path, ids))
    np.testing.assert_array_equal(found.logits, Decoder(create_session(summary.path)).run(ids)[0])
    again = compare_with_float(floats, sequences(found), ids)
    # The same model on another text: each layer's noise is of the same kind.
    assert again.layer_sqnr_db == pytest.approx(quality.layer_sqnr_db, abs=3.0)

    last = resq_onnx.export(
        tmp_path / "model",
        tmp_path / "last" / "model.onnx",
        Recipe(calibration="python-docs", samples=4, sequence_length=64, logits="last"),
    )
    scale = np.abs(found.logits).max()
    np.testing.assert_allclose(observed(last.path, ids).logits, found.logits, atol=NEAR * scale)


def test_logits_that_find_no_room_are_an_error_and_not_the_end_of_the_process(
    tmp_path: Path,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            _array_on_disk(tmp_path, (2, 5_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    kept = _array_on_disk(tmp_path, (2, 5))
    assert kept.shape == (2, 5)
    kept[:] = 1
    assert list(tmp_path.iterdir()) == []
