"""Calibration text that a model writes itself, and when it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resq_onnx.calibration import own_text, recipe_text
from resq_onnx.calibration.corpus import SEPARATOR, calibration_sequences
from resq_onnx.calibration.distributed import Share
from resq_onnx.calibration.own_text import joined, make_rows
from resq_onnx.calibration.recipe_text import CalibrationText, calibration_text
from resq_onnx.calibration.reference import load_tokenizer
from resq_onnx.calibration.run import CalibrationRun
from resq_onnx.calibration.writing import CannotWriteError, TooSlowError, Vocabulary
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.files.work_folder import WorkFolder
from resq_onnx.progress import Progress
from resq_onnx.recipe import Recipe
from resq_onnx.resources import Resources
from tests.tiny_models import write_model

BOS, EOS = 1, 2
ANSWER = "assistant\n"
QUICK: dict[str, Any] = {"samples": 4, "sequence_length": 48}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    folder = tmp_path_factory.mktemp("own") / "model"
    write_model(folder, "llama", tied=True)
    return ModelSource(folder, "tiny")


@pytest.fixture(scope="module")
def tokenizer(source: ModelSource) -> Any:
    return load_tokenizer(source)


@pytest.fixture
def text(source: ModelSource, tokenizer: Any, tmp_path: Path) -> Any:
    """The calibration text of a recipe, with the warnings on the way."""
    heard: list[str] = []

    def find(calibration: str, **others: Any) -> CalibrationText:
        recipe = Recipe(calibration=calibration, **(QUICK | others))
        told, resources = Progress(warn=heard.append), Resources()
        run = CalibrationRun(source, tokenizer, WorkFolder(tmp_path), told, resources)
        return calibration_text(run, recipe)

    find.heard = heard  # type: ignore[attr-defined]
    return find


def bundled(tokenizer: Any, **samples: int) -> Any:
    """Sequences of the texts that are there: so many of each."""
    parts = [
        calibration_sequences(tokenizer, text.replace("_", "-"), count, 48, seed=0)
        for text, count in samples.items()
    ]
    return np.concatenate(parts)


def test_bundled_is_prose_code_and_documentation(text: Any, tokenizer: Any) -> None:
    found = text("bundled", samples=8)
    assert found.spec == "bundled"
    expected = bundled(tokenizer, prose=4, python_code=2, python_docs=2)
    np.testing.assert_array_equal(found.token_ids, expected)


def test_auto_is_bundled_and_own_text(text: Any, tokenizer: Any) -> None:
    found = text("auto")
    assert found.spec == "auto"
    assert found.token_ids.shape == (4, 48)
    expected = bundled(tokenizer, prose=2, python_code=1)
    np.testing.assert_array_equal(found.token_ids[:3], expected)


def test_own_text_has_the_shape_and_follows_the_seed(text: Any, tmp_path: Path) -> None:
    first = text("self", samples=5).token_ids
    assert first.shape == (5, 48)
    (tmp_path / "text-5.safetensors").unlink()
    np.testing.assert_array_equal(text("self", samples=5).token_ids, first)
    (tmp_path / "text-5.safetensors").unlink()
    assert (text("self", samples=5, seed=1).token_ids != first).any()


def test_every_sequence_begins_with_bos_if_the_recipe_wants_it(text: Any) -> None:
    found = text("self", bos=True).token_ids
    assert found.shape == (4, 48)
    assert (found[:, 0] == BOS).all()


def test_what_was_written_is_kept_for_a_run_that_goes_on(
    text: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = text("self")
    monkeypatch.setattr(recipe_text, "own_text", lambda *_: pytest.fail("written again"))
    again = text("self")
    np.testing.assert_array_equal(again.token_ids, first.token_ids)
    assert again.spec == "self"


def test_a_process_beside_the_first_waits_and_reads(
    text: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = text("self").token_ids
    waited: list[int] = []
    monkeypatch.setattr(recipe_text, "share_of_this_process", lambda: Share(1, 2))
    monkeypatch.setattr(Share, "wait", lambda share: waited.append(share.rank))
    monkeypatch.setattr(recipe_text, "own_text", lambda *_: pytest.fail("written by the second"))
    np.testing.assert_array_equal(text("self").token_ids, first)
    assert waited == [1]


@pytest.mark.parametrize("spec", ["self", "auto"])
def test_a_model_that_is_too_slow_leaves_it_to_the_bundled_texts(
    text: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    def slow(*_: Any, **__: Any) -> Any:
        raise TooSlowError(7200.0)

    monkeypatch.setattr(own_text, "write_rows", slow)
    found = text(spec)
    assert found.spec == "bundled"
    expected = bundled(tokenizer, prose=2, python_code=1, python_docs=1)
    np.testing.assert_array_equal(found.token_ids, expected)
    (line,) = text.heard
    assert "writing it would take 120 minutes of processor time" in line
    assert "--calibration FILE" in line
    # The decision stays, as the next run might be quicker.
    monkeypatch.undo()
    assert text(spec).spec == "bundled"


def test_first_tokens_are_ordinary_and_chats_are_prompts(tokenizer: Any) -> None:
    vocabulary = Vocabulary.of(tokenizer, 300)
    assert not vocabulary.ends[3:].any()
    assert vocabulary.ends[:3].all()
    assert vocabulary.unused[256:].all()
    assert not np.isin(vocabulary.ordinary, [0, BOS, EOS]).any()
    rows = make_rows(tokenizer, vocabulary, 40, 64, (BOS,), seed=0)
    plain = [list(next(row.beginnings)) for row in rows if not row.may_end]
    chats = [row for row in rows if row.may_end]
    assert 0 < len(chats) < 40
    assert all(len(begin) == 2 and begin[0] == BOS for begin in plain)
    assert np.isin([begin[1] for begin in plain], vocabulary.ordinary).all()
    for row in chats:
        first, second = (tokenizer.decode(list(next(row.beginnings))) for _ in range(2))
        assert first.endswith(ANSWER)
        assert first != second


def test_a_model_without_a_chat_template_only_continues(tokenizer: Any) -> None:
    base = load_base(tokenizer)
    rows = make_rows(base, Vocabulary.of(base, 256), 10, 64, (), seed=0)
    assert not any(row.may_end for row in rows)


@pytest.mark.parametrize(
    ("template", "size", "reason"),
    [
        ("{{ raise_exception('no') }}", 256, "its chat template refuses a prompt"),
        ("{{ messages[0].content }}", 20, "tokens that it has no embedding of"),
        ("{{ messages[0].content }}", 3, "no ordinary tokens"),
    ],
)
def test_a_tokenizer_that_does_not_fit_the_model_writes_nothing(
    tokenizer: Any, template: str, size: int, reason: str
) -> None:
    other = load_base(tokenizer)
    other.chat_template = template
    with pytest.raises(CannotWriteError, match=reason):
        make_rows(other, Vocabulary.of(other, size), 4, 64, (), seed=0)


def load_base(tokenizer: Any) -> Any:
    import copy

    base = copy.deepcopy(tokenizer)
    base.chat_template = None
    return base


def test_pieces_lose_their_opening_and_are_separated_and_chats_keep_it(tokenizer: Any) -> None:
    vocabulary = Vocabulary.of(tokenizer, 256)
    rows = make_rows(tokenizer, vocabulary, 2, 64, (BOS,), seed=0)
    pieces = [np.array([BOS, 10, 11]), np.array([BOS, 20, 21])]
    between = tokenizer(SEPARATOR, add_special_tokens=False)["input_ids"]
    assert joined(tokenizer, pieces, rows, (BOS,)).tolist() == [10, 11, *between, BOS, 20, 21]
