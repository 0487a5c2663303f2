"""A pass layer by layer measures what the whole model shows, and goes on where it was stopped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resq_onnx.calibration import layer_pass
from resq_onnx.calibration.layer_pass import LayerPass, Texts
from resq_onnx.calibration.layered import LayeredModel
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.projections.moments import SITES, Moments
from resq_onnx.projections.sums import sums_of
from tests.calibration.whole_model import collect_moments, load_in
from tests.tiny_models import KINDS, write_model

RANDOM = np.random.default_rng(0)
TEXTS = Texts(
    RANDOM.integers(3, 64, (5, 16)), RANDOM.integers(3, 64, (2, 6)), RANDOM.integers(3, 64, (2, 9))
)
LAYERS: dict[str, Any] = {"num_hidden_layers": 3}

ROUNDING = 1e-6
"""Of float32, relative to the largest element of a moment."""

BFLOAT16 = 0.02
"""The same of bfloat16, whose elements are rounded by up to 0.4 %."""


def _silent(_done: int, _total: int) -> None:
    pass


def run(
    source: ModelSource,
    folder: Path,
    texts: Texts = TEXTS,
    progress: Callable[[int, int], None] = _silent,
    **others: Any,
) -> LayerPass:
    folder.mkdir(exist_ok=True)
    one = LayerPass(source.layout, WorkFolder(folder), texts, **others)
    one.run(LayeredModel(source), progress)
    assert one.is_finished
    return one


def assert_same_arrays(found: Path, expected: Path) -> None:
    names = sorted(path.name for path in expected.iterdir())
    assert sorted(path.name for path in found.iterdir()) == names
    for name in names:
        assert (found / name).read_bytes() == (expected / name).read_bytes(), name


@pytest.mark.parametrize("kind", ["llama", "gemma3", "phi3", "qwen2_vl"])
def test_moments_are_those_of_the_whole_model(tmp_path: Path, kind: str) -> None:
    whole = write_model(tmp_path / "model", kind, tied=True)
    source = ModelSource(tmp_path / "model", kind)
    found = run(source, tmp_path / "work", batch=2)
    expected = collect_moments(whole, source.layout, TEXTS.calibration, batch_size=2)
    assert_same_moments(source, found, expected)


def assert_same_moments(source: ModelSource, found: LayerPass, expected: Moments) -> None:
    moments, sums = found.moments(), found.sums()
    assert moments is not None
    assert sums is not None
    assert moments.tokens == expected.tokens == 80
    for layer in range(source.layout.num_layers):
        for site in SITES:
            one, other = moments.site(layer, site), getattr(expected, site)[layer]
            np.testing.assert_allclose(one, other, atol=ROUNDING * np.abs(other).max(), rtol=0)
    other_sums = sums_of(source.layout, expected)
    for name in ("hidden", "value", "key", "down"):
        one, other = getattr(sums, name), getattr(other_sums, name)
        np.testing.assert_allclose(one, other, atol=ROUNDING * np.abs(other).max(), rtol=0)


@pytest.mark.parametrize("kind", ["llama", "gemma2", "gemma3", "phi3", "qwen3"])
def test_in_bfloat16_the_moments_are_those_of_a_model_in_bfloat16(
    tmp_path: Path, kind: str
) -> None:
    write_model(tmp_path / "model", kind, tied=True)
    source = ModelSource(tmp_path / "model", kind)
    found = run(source, tmp_path / "work", batch=2, dtype="bfloat16")
    whole = load_in(tmp_path / "model", kind, torch.bfloat16)
    expected = collect_moments(whole, source.layout, TEXTS.calibration, batch_size=2)
    assert_same_moments(source, found, expected)


def test_what_the_export_is_compared_with_is_float32_whatever_the_moments_are(
    tmp_path: Path,
) -> None:
    write_model(tmp_path / "model", "llama", tied=True)
    source = ModelSource(tmp_path / "model", "llama")
    passes = [run(source, tmp_path / one, dtype=one) for one in ("float32", "bfloat16")]
    for one, other in zip(*(found.outputs() for found in passes), strict=True):
        np.testing.assert_array_equal(one.logits, other.logits)
        np.testing.assert_array_equal(one.stream, other.stream)
    in_float32, in_bfloat16 = (found.sums() for found in passes)
    assert in_float32 is not None
    assert in_bfloat16 is not None
    assert not np.array_equal(in_float32.hidden, in_bfloat16.hidden)
    scale = np.abs(in_float32.hidden).max()
    np.testing.assert_allclose(in_float32.hidden, in_bfloat16.hidden, atol=BFLOAT16 * scale)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_are_those_of_the_whole_model(tmp_path: Path, kind: str) -> None:
    whole = write_model(tmp_path / "model", kind, tied=True)
    source = ModelSource(tmp_path / "model", kind)
    none = np.empty((0, 0), np.int64)
    outputs = run(source, tmp_path / "work", Texts(none, TEXTS.parity, TEXTS.quality)).outputs()
    for text, found in zip((TEXTS.parity, TEXTS.quality), outputs, strict=True):
        with torch.inference_mode():
            expected = whole(input_ids=torch.from_numpy(text), output_hidden_states=True)
        # lm_head has other rows beside each other, and may add in another order.
        np.testing.assert_allclose(found.logits, expected.logits.numpy(), rtol=1e-4, atol=1e-4)
        states = torch.stack(expected.hidden_states[:-1]).numpy()  # the last one is normed
        np.testing.assert_array_equal(found.stream[:-1:2], states)
        assert found.stream.shape[0] == 2 * source.layout.num_layers + 1


@pytest.mark.parametrize("stop", [1, 2])
def test_a_pass_that_was_stopped_goes_on_and_nothing_differs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int
) -> None:
    write_model(tmp_path / "model", "llama", tied=False, **LAYERS)
    source = ModelSource(tmp_path / "model", "llama")
    run(source, tmp_path / "whole")

    def interrupt(done: int, _total: int) -> None:
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped(source, tmp_path / "work", interrupt)
    layers = []
    monkeypatch.setattr(layer_pass.LayerPass, "_begin", lambda *_: pytest.fail("began anew"))
    one = LayerPass(source.layout, WorkFolder(tmp_path / "work"), TEXTS)
    assert one.finished == stop
    one.run(LayeredModel(source), lambda done, _total: layers.append(done))
    assert layers == list(range(stop + 1, 4))
    assert_same_arrays(tmp_path / "work", tmp_path / "whole")


def stopped(source: ModelSource, folder: Path, progress: Any) -> None:
    folder.mkdir()
    one = LayerPass(source.layout, WorkFolder(folder), TEXTS)
    one.run(LayeredModel(source), progress)


def test_a_layer_that_was_stopped_half_way_is_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "model", "llama", tied=False, **LAYERS)
    source = ModelSource(tmp_path / "model", "llama")
    run(source, tmp_path / "whole")

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(layer_pass.LayerPass, "_packed", fail)
        with pytest.raises(KeyboardInterrupt):
            stopped(source, tmp_path / "work", lambda done, total: None)
    run(source, tmp_path / "work")
    assert_same_arrays(tmp_path / "work", tmp_path / "whole")


def test_only_the_outputs_stay_when_all_is_done(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "llama", tied=False, **LAYERS)
    run(ModelSource(tmp_path / "model", "llama"), tmp_path / "work")
    names = {path.name for path in (tmp_path / "work").iterdir()}
    assert not any(name.startswith("hidden-") for name in names)


def test_the_room_of_the_moments_is_known_before_and_given_back_after(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "llama", tied=True)
    source = ModelSource(tmp_path / "model", "llama")
    (tmp_path / "work").mkdir()
    asked = LayerPass(source.layout, WorkFolder(tmp_path / "work"), TEXTS).bytes_to_write
    done = run(source, tmp_path / "work")
    parts = sorted((tmp_path / "work").glob("layer-*"))
    stored, hidden = sum(part.stat().st_size for part in parts), 2 * 4 * 80 * 64
    assert stored * 0.95 < asked - hidden <= stored
    assert done.bytes_to_write == hidden
    moments = done.moments()
    assert moments is not None
    for layer in range(len(parts)):
        moments.release(layer)
    assert sum(part.stat().st_size for part in parts) < 100
    assert done.is_finished
