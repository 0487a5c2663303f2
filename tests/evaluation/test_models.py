"""An exported file as a language model: decode against prefill."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation import ExportedModel, TappedModel
from resq_onnx.runtime import Decoder, create_session
from resq_onnx.runtime.taps import Embedder, TappedDecoder
from tests.runtime import toy

IDS: Final = np.random.default_rng(0).integers(0, toy.VOCABULARY, (2, 9))


def toy_decoder(folder: Path, last_only: bool = False) -> Decoder:
    path = toy.save_toy(folder / f"{last_only}.onnx", last_only=last_only)
    return Decoder(create_session(path, threads=1))


class Counting:
    """A decoder with a stream of two layers; remembers how many tokens it was given at once."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.calls: list[int] = []

    def run(self, ids: NDArray[np.int64], state: Any = None) -> Any:
        self.calls.append(ids.shape[1])
        logits, state = self.decoder.run(ids, state)
        return logits, np.broadcast_to(ids[None, ..., None], (3, *ids.shape, 4)), state


@pytest.mark.parametrize("token_by_token", [False, True])
def test_logits_are_those_of_one_pass(tmp_path: Path, token_by_token: bool) -> None:
    decoder = toy_decoder(tmp_path)
    expected, _ = decoder.run(IDS)
    np.testing.assert_array_equal(ExportedModel(decoder, token_by_token).logits(IDS), expected)


@pytest.mark.parametrize("token_by_token", [False, True])
def test_a_tapped_model_gives_the_same_logits_and_the_stream(
    tmp_path: Path, token_by_token: bool
) -> None:
    decoder = Counting(toy_decoder(tmp_path))
    model = TappedModel(cast(TappedDecoder, decoder), cast(Embedder, None), token_by_token)
    logits, layers = model.logits_and_layers(IDS)
    assert decoder.calls == ([1] * 9 if token_by_token else [9])
    np.testing.assert_array_equal(logits, decoder.decoder.run(IDS)[0])
    np.testing.assert_array_equal(layers[2, :, :, 0], IDS)
    np.testing.assert_array_equal(model.logits(IDS), logits)


def test_a_file_that_gives_only_the_last_logits_runs_token_by_token(tmp_path: Path) -> None:
    last, whole = toy_decoder(tmp_path, last_only=True), toy_decoder(tmp_path)
    with pytest.raises(ResqError, match=r"evaluate it with --token-by-token, or export"):
        ExportedModel(last)
    found = ExportedModel(last, token_by_token=True).logits(IDS)
    np.testing.assert_array_equal(found, whole.run(IDS)[0])
