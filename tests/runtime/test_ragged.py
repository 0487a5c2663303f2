"""Texts of unequal lengths in one call of a whole model, and each of them alone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime import BufferedDecoder, create_session
from resq_onnx.runtime.ragged import RaggedDecoder
from resq_onnx.runtime.ragged_graph import ragged_session
from tests.runtime.toy import save_toy
from tests.tiny_exports import TinyExports

LENGTHS = (1, 70, 9, 130)
ROWS = (2, 0, 4, 3)
MAX_LENGTH = 160
VOCABULARY = 256


@pytest.fixture(scope="module")
def model(tiny_exports: TinyExports) -> Path:
    return tiny_exports.model("llama", tied=True).export()


@pytest.fixture
def decoder(model: Path) -> RaggedDecoder:
    return opened(model)


def opened(model: Path, rows: int = 5) -> RaggedDecoder:
    session = ragged_session(model, 1)
    assert session is not None
    return RaggedDecoder(session, MAX_LENGTH, rows)


def texts() -> list[NDArray[np.int64]]:
    """Token ids (1, n) of a text of each length, with two more for what comes after."""
    rng = np.random.default_rng(0)
    return [rng.integers(0, VOCABULARY, (1, length + 2)) for length in LENGTHS]


def alone(model: Path, text: NDArray[np.int64], length: int) -> list[NDArray[np.float32]]:
    """Logits after the first tokens, and after each of two more."""
    plain = BufferedDecoder(create_session(model, 1), MAX_LENGTH)
    cuts = pairwise((0, length, length + 1, length + 2))
    return [plain.run(text[:, start:stop])[0].copy() for start, stop in cuts]


def test_tokens_that_run_together_get_the_logits_that_they_get_alone(
    model: Path, decoder: RaggedDecoder
) -> None:
    wanted = [alone(model, text, length) for text, length in zip(texts(), LENGTHS, strict=True)]
    for row, text, length, expected in zip(ROWS, texts(), LENGTHS, wanted, strict=True):
        np.testing.assert_array_equal(decoder.run([row], text[:, :length])[0], expected[0])
    for step in (1, 2):
        ends = zip(texts(), LENGTHS, strict=True)
        ids = np.concatenate([text[:, n + step - 1 : n + step] for text, n in ends])
        found = decoder.run(ROWS, ids)
        for logits, expected in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(logits, expected[step])
    assert [decoder.lengths[row] for row in ROWS] == [length + 2 for length in LENGTHS]
    assert decoder.lengths[1] == 0


def test_a_row_goes_on_from_where_it_is_cut_and_from_a_copy(
    model: Path, decoder: RaggedDecoder
) -> None:
    text, length = texts()[1], LENGTHS[1]
    wanted = alone(model, text, length)
    decoder.run([0], text[:, : length + 2])
    decoder.copy_beginning(3, 0, length)
    decoder.rewind(0, length)
    np.testing.assert_array_equal(decoder.run([3], text[:, length : length + 1])[0], wanted[1])
    np.testing.assert_array_equal(decoder.run([0], text[:, length : length + 1])[0], wanted[1])


@pytest.mark.parametrize("count", [1, 2, 9])
def test_each_of_the_last_tokens_has_the_logits_that_it_has_at_the_end(
    model: Path, decoder: RaggedDecoder, count: int
) -> None:
    pair = np.random.default_rng(1).integers(0, VOCABULARY, (2, 9))
    found = decoder.run_rows([4, 1], pair, count).copy()
    assert found.shape == (2, count, VOCABULARY)
    for text, rows in zip(pair, found, strict=True):
        for place, row in enumerate(rows, 9 - count + 1):
            wanted = BufferedDecoder(create_session(model, 1), 9).run(text[None, :place])[0]
            np.testing.assert_array_equal(row, wanted)


def test_unequally_many_tokens_of_texts_get_the_logits_that_they_get_alone(
    model: Path, decoder: RaggedDecoder
) -> None:
    rng = np.random.default_rng(2)
    new = [rng.integers(0, VOCABULARY, count).tolist() for count in (3, 1, 9, 2)]
    for row, text, length in zip(ROWS, texts(), LENGTHS, strict=True):
        decoder.run([row], text[:, :length])
    found = [logits.copy() for logits in decoder.run_unequal(ROWS, new)]
    for text, length, more, logits in zip(texts(), LENGTHS, new, found, strict=True):
        whole = np.concatenate([text[:, :length], [more]], axis=1)
        plain = opened(model, 1)
        np.testing.assert_array_equal(logits, plain.run_rows([0], whole, len(more))[0])
    sizes = zip(ROWS, LENGTHS, new, strict=True)
    assert all(decoder.lengths[row] == length + len(more) for row, length, more in sizes)


def test_a_file_with_the_last_logits_alone_gives_the_same_ones(
    tiny_exports: TinyExports, decoder: RaggedDecoder
) -> None:
    ids = texts()[2]
    wanted = decoder.run([0], ids).copy()
    last = opened(tiny_exports.model("llama", tied=True).export("--logits", "last"))
    assert last.signature.last_only
    assert not decoder.signature.last_only
    np.testing.assert_array_equal(last.run([0], ids), wanted)


def test_a_text_longer_than_its_row_is_refused(decoder: RaggedDecoder) -> None:
    with pytest.raises(ResqError, match="holds 160 tokens, and there would be 161"):
        decoder.run([0], np.zeros((1, MAX_LENGTH + 1), np.int64))
    with pytest.raises(ValueError, match="cannot rewind to 1 tokens: there are 0"):
        decoder.rewind(0, 1)
    with pytest.raises(ValueError, match="cannot rewind to 2 tokens: there are 0"):
        decoder.copy_beginning(0, 1, 2)


def test_what_onnx_runtime_refuses_is_said_in_a_line(decoder: RaggedDecoder) -> None:
    with pytest.raises(ResqError, match="given twice is 1, expected each slot once"):
        decoder.run([1, 1], np.zeros((2, 1), np.int64))


def test_a_model_whose_results_depend_on_the_call_has_no_such_session(
    tiny_exports: TinyExports, tmp_path: Path
) -> None:
    qdq = tiny_exports.model("llama", tied=True).export("--format", "qdq")
    assert ragged_session(qdq) is None
    assert ragged_session(save_toy(tmp_path / "toy.onnx")) is None


def test_a_file_without_the_attention_that_its_recipe_names_is_refused(
    model: Path, tmp_path: Path
) -> None:
    damaged = onnx.load(model, load_external_data=False)
    for node in damaged.graph.node:
        node.op_type = node.op_type.replace("MixedPrecisionAttention", "Attention")
    onnx.save(damaged, tmp_path / "model.onnx")
    with pytest.raises(ResqError, match="has no MixedPrecisionAttention"):
        ragged_session(tmp_path / "model.onnx")


def test_too_long_a_buffer_is_memory_that_is_not_there(model: Path) -> None:
    session = ragged_session(model, 1)
    assert session is not None
    with pytest.raises(MemoryError):
        RaggedDecoder(session, 2**50, 1)
