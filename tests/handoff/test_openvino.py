"""OpenVINO: what it makes of weights, divisions and caches, and the decoder that keeps a state."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.distance import compare
from resq_onnx.handoff import openvino as handoff
from resq_onnx.handoff.openvino import OpenVinoSession, StatefulDecoder
from resq_onnx.runtime import BufferedDecoder, Decoder, create_session, generate
from tests.handoff.portable import Portable, export_portable, token_ids
from tests.tiny_exports import TinyExports
from tests.tiny_models import SIZES

LAYERS = SIZES["num_hidden_layers"]


@pytest.fixture(scope="module")
def portable(tiny_exports: TinyExports) -> Portable:
    return export_portable(tiny_exports, "llama", floats=True)


def own(path: Path) -> Decoder:
    return Decoder(create_session(path, threads=1, kernels=False))


def weights_of(model: Any) -> Counter[str]:
    """Element types of the weights that the products of a compiled model read."""
    found: Counter[str] = Counter()
    for node in model.get_runtime_model().get_ops():
        kind = node.get_rt_info()
        if "layerType" in kind and kind["layerType"].astype(str) == "FullyConnected":
            found[node.input(1).get_element_type().get_type_name()] += 1
    return found


def test_weights_stay_in_four_and_eight_bits(portable: Portable) -> None:
    found = weights_of(handoff.compiled(handoff.read(portable.file), threads=1))
    assert found["i4"] == 4 * LAYERS
    assert found["i8"] == 4 * LAYERS + 1  # and lm_head


def test_a_reciprocal_in_place_of_a_division_is_another_draw_of_the_same_noise(
    portable: Portable,
) -> None:
    """What OpenVINO does by itself: nearer to our session than the float model is, not equal."""
    assert portable.floats is not None
    ids = token_ids(4, 48)
    expected = own(portable.file).run(ids)[0]
    exact, free = (
        Decoder(OpenVinoSession(portable.file, 1, exact_division=exact)).run(ids)[0]
        for exact in (True, False)
    )
    noise = compare(expected, free, ids).kl_divergence
    assert compare(expected, exact, ids).kl_divergence < noise / 10
    assert noise < compare(own(portable.floats).run(ids)[0], expected, ids).kl_divergence


def test_a_state_gives_the_tokens_of_our_session(portable: Portable) -> None:
    """Of one prompt after another: a decoder forgets the one before."""
    ours = BufferedDecoder(own(portable.file).session, 64)
    decoder: Any = StatefulDecoder(portable.file, 64, threads=1)
    for seed in range(2):
        prompt = token_ids(1, 20, seed)[0].tolist()
        assert list(generate(decoder, prompt, 24)) == list(generate(ours, prompt, 24))
    assert decoder.length == 20 + 24 - 1


def test_a_state_can_be_wound_back(portable: Portable) -> None:
    decoder, ids = StatefulDecoder(portable.file, 24, threads=1), token_ids(1, 24)
    expected = decoder.run(ids)
    decoder.rewind(10)
    np.testing.assert_allclose(decoder.run(ids[:, 10:]), expected, atol=1e-5)
    with pytest.raises(ValueError, match="cannot rewind to 25 tokens: there are 24"):
        decoder.rewind(25)


def test_more_tokens_than_announced_are_refused(portable: Portable) -> None:
    decoder = StatefulDecoder(portable.file, 8, threads=1)
    decoder.run(token_ids(1, 8))
    with pytest.raises(ResqError, match="max_length=9"):
        decoder.run(token_ids(1, 1))


RECIPES = (
    ("--method", "none"),
    ("--activations", "float", "--cache", "float"),
    ("--head-bits", "4", "--tables", "separate", "--logits", "last"),
    ("--method", "quarot", "--low-bits", "8"),
)


@pytest.mark.parametrize("options", RECIPES, ids=" ".join)
def test_whatever_the_recipe_openvino_reads_the_file(
    tiny_exports: TinyExports, options: tuple[str, ...]
) -> None:
    file = export_portable(tiny_exports, "llama", *options, num_hidden_layers=1).file
    ids = token_ids()
    expected, found = (
        decoder.run(ids)[0] for decoder in (own(file), Decoder(OpenVinoSession(file, threads=1)))
    )
    assert compare(expected, found, ids[:, -expected.shape[1] :]).kl_divergence < 0.005


def test_a_file_with_functions_is_refused_with_a_remedy(tiny_exports: TinyExports) -> None:
    out = tiny_exports.model("llama", tied=True).export()
    with pytest.raises(ResqError, match="--format qdq"):
        OpenVinoSession(out)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match="no such file"):
        OpenVinoSession(tmp_path / "model.onnx")
