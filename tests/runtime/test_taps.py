"""The residual stream of exported files, against PyTorch's and against the untapped graph."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime import Decoder, create_session
from resq_onnx.runtime.taps import Embedder, TappedDecoder, layer_outputs, tapped_session
from tests.command_line import contents
from tests.runtime import toy
from tests.tiny_exports import TinyExports, TinyModel
from tests.tiny_models import SIZES

FORMATS: Final[dict[str, tuple[str, ...]]] = {
    "none": ("--method", "none"),
    "custom": (),
    "qdq": ("--format", "qdq"),
    "contrib": ("--format", "contrib"),
    "last": ("--logits", "last"),
    "float activations": ("--activations", "float", "--cache", "float"),
}

FLOAT_TOLERANCE: Final = 1e-5
"""Float32 sums of 64 to 192 terms of order 1, in another order."""

QUANTISED_TOLERANCE: Final = 0.3
"""Relative: what 4 bits do to the length of a token's stream in a model this small."""

SAME_PLACE: Final = 0.99
"""Correlation of lengths over tokens and layers, which grow from layer to layer; any other value of
the graph has lengths of its own."""

IDS: Final = np.random.default_rng(0).integers(0, SIZES["vocab_size"], (2, 20))

SHAPE: Final = (SIZES["num_hidden_layers"] + 1, *IDS.shape, SIZES["hidden_size"])


@pytest.fixture(scope="module")
def original(tiny_exports: TinyExports) -> TinyModel:
    return tiny_exports.model("qwen2", tied=True)


@pytest.fixture(scope="module")
def exported(original: TinyModel) -> dict[str, Path]:
    """By format, the file."""
    return {name: original.export(*options) for name, options in FORMATS.items()}


def torch_layer_outputs(model: Any) -> NDArray[np.float32]:
    found: list[torch.Tensor] = []
    hooks = [model.model.embed_tokens, *model.model.layers]
    handles = [module.register_forward_hook(lambda *x: found.append(x[2])) for module in hooks]
    with torch.inference_mode():
        model(input_ids=torch.from_numpy(IDS))
    for handle in handles:
        handle.remove()
    return np.stack([tensor.numpy() for tensor in found])


def test_the_taps_of_an_unquantised_file_give_what_pytorch_computes(
    original: TinyModel, exported: dict[str, Path]
) -> None:
    found = layer_outputs(exported["none"], IDS)
    assert found.shape == SHAPE
    np.testing.assert_allclose(found, torch_layer_outputs(original.original), atol=FLOAT_TOLERANCE)


@pytest.mark.parametrize("kernels", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_taps_change_nothing_of_what_they_are_added_to(
    exported: dict[str, Path], name: str, kernels: bool
) -> None:
    tapped = TappedDecoder(tapped_session(exported[name], threads=1, kernels=kernels))
    logits, stream, state = tapped.run(IDS)
    plain = Decoder(create_session(exported[name], threads=1, kernels=kernels))
    expected, expected_state = plain.run(IDS)
    np.testing.assert_array_equal(logits, expected)
    for found, cache in zip(state.caches, expected_state.caches, strict=True):
        np.testing.assert_array_equal(found, cache)
    assert stream.shape == SHAPE


@pytest.mark.parametrize("name", ["custom", "qdq", "contrib", "last", "float activations"])
def test_the_stream_of_a_quantised_file_is_the_original_one_rotated_with_some_noise(
    original: TinyModel, exported: dict[str, Path], name: str
) -> None:
    lengths, expected = (
        np.linalg.norm(stream, axis=-1)
        for stream in (layer_outputs(exported[name], IDS), torch_layer_outputs(original.original))
    )
    # A rotation keeps lengths.
    np.testing.assert_allclose(lengths, expected, rtol=QUANTISED_TOLERANCE)
    assert np.corrcoef(lengths.ravel(), expected.ravel())[0, 1] > SAME_PLACE


def test_going_on_from_a_state_gives_the_stream_of_the_new_tokens(
    exported: dict[str, Path],
) -> None:
    decoder = TappedDecoder(tapped_session(exported["none"], threads=1))
    _, whole, _ = decoder.run(IDS)
    _, first, state = decoder.run(IDS[:, :12])
    _, second, state = decoder.run(IDS[:, 12:], state)
    assert state.length == IDS.shape[1]
    parts = np.concatenate([first, second], axis=2)
    np.testing.assert_allclose(parts, whole, atol=FLOAT_TOLERANCE)


@pytest.mark.parametrize("name", FORMATS)
def test_an_embedder_gives_the_stream_before_the_first_layer(
    exported: dict[str, Path], name: str
) -> None:
    found = Embedder(exported[name], threads=1).run(IDS)
    np.testing.assert_array_equal(found, layer_outputs(exported[name], IDS)[0])


def test_taps_leave_no_file_behind(exported: dict[str, Path]) -> None:
    before = contents(exported["custom"].parent)
    layer_outputs(exported["custom"], IDS)
    assert contents(exported["custom"].parent) == before


def linked(exported: Path, cache: Path) -> Path:
    """The same file as a Hugging Face cache has it: links into another folder."""
    snapshot, blobs = cache / "snapshots" / "0a1b", cache / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for number, file in enumerate(exported.parent.glob(f"{exported.name}*")):
        shutil.copy(file, blobs / f"sha{number}")
        (snapshot / file.name).symlink_to(f"../../blobs/sha{number}")
    return snapshot / exported.name


def test_a_file_in_a_cache_of_links_has_the_same_stream(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    path = linked(exported["custom"], tmp_path)
    assert np.array_equal(layer_outputs(path, IDS), layer_outputs(exported["custom"], IDS))
    embedded = Embedder(exported["custom"]).run(IDS)
    assert np.array_equal(Embedder(path).run(IDS), embedded)


def test_data_behind_a_link_out_of_the_folder_is_refused(
    exported: dict[str, Path], tmp_path: Path
) -> None:
    path = linked(exported["custom"], tmp_path)
    away = tmp_path / "away.data"
    shutil.copy(f"{path}.data", away)
    Path(f"{path}.data").unlink()
    Path(f"{path}.data").symlink_to(away)
    with pytest.raises(ResqError, match=r"model\.onnx\.data: is a link to .*away\.data, outside"):
        layer_outputs(path, IDS)


def test_what_has_no_taps_is_refused(tmp_path: Path) -> None:
    path = toy.save_toy(tmp_path / "toy.onnx")
    with pytest.raises(ResqError, match=r"toy\.onnx: the graph has no weights named model\.layers"):
        tapped_session(path)
    with pytest.raises(ResqError, match="open the model with tapped_session"):
        layer_outputs(create_session(path, threads=1), IDS)
    with pytest.raises(ResqError, match="no such file"):
        layer_outputs(tmp_path / "missing.onnx", IDS)
    (tmp_path / "broken.onnx").write_bytes(b"not a model at all")
    with pytest.raises(ResqError, match=r"broken\.onnx: not an ONNX model"):
        Embedder(tmp_path / "broken.onnx")
