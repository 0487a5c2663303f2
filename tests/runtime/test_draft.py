"""Drafts: what they guess, which texts they can guess, and which files they can be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.runtime import BufferedDecoder, Tokenizer, create_session, generate
from resq_onnx.runtime.draft import FEW, SHARED_SLICE, Draft, DraftGuesser, Wish, open_draft
from resq_onnx.runtime.ragged_graph import ragged_session
from tests.harness.conftest import POSITIONS
from tests.tiny_exports import TinyExports

VOCABULARY = 256
MAX_LENGTH = 200


@pytest.fixture(scope="module")
def model(tiny_exports: TinyExports) -> Path:
    return tiny_exports.model("llama", tied=True).export()


@pytest.fixture(scope="module")
def twin(tiny_exports: TinyExports) -> Path:
    """The same model, which gives the logits of the last token alone."""
    return tiny_exports.model("llama", tied=True).export("--logits", "last")


@pytest.fixture(scope="module")
def stranger(tiny_exports: TinyExports) -> Path:
    """Another model of the same vocabulary, which the harness's tests export as well."""
    return tiny_exports.model("qwen2", tied=True, max_position_embeddings=POSITIONS).export()


def opened(
    path: Path, rows: int = 3, vocabulary: int = VOCABULARY, max_length: int = MAX_LENGTH
) -> Draft:
    session = ragged_session(path, 1)
    assert session is not None
    return Draft(session, rows, max_length, vocabulary)


def text(length: int, seed: int) -> list[int]:
    found: list[int] = np.random.default_rng(seed).integers(3, VOCABULARY, length).tolist()
    return found


def likeliest(logits: NDArray[np.float32]) -> int:
    return int(logits.argmax())


def wish(row: int, tokens: Sequence[int], count: int) -> Wish:
    return Wish(row, tokens, count, likeliest)


def greedy(path: Path, tokens: list[int], count: int) -> list[int]:
    return list(generate(BufferedDecoder(create_session(path, 1), MAX_LENGTH), tokens, count))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_that_computes_the_same_is_always_right(
    model: Path, twin: Path, temperature: float
) -> None:
    decoder, prompt = BufferedDecoder(create_session(model, 1), MAX_LENGTH), text(70, 0)
    wanted = list(generate(decoder, prompt, 60, temperature, 0.9, seed=5))
    guesser = DraftGuesser(opened(twin, 1), 8)
    assert list(generate(decoder, prompt, 60, temperature, 0.9, 5, guesser=guesser)) == wanted
    assert guesser.right == guesser.guessed > 40


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_draft_that_is_wrong_does_not_change_the_text(
    model: Path, stranger: Path, temperature: float
) -> None:
    decoder = BufferedDecoder(create_session(model, 1), MAX_LENGTH)
    draft, wrong = opened(stranger, 1), 0
    for seed in range(5):  # one after another, as the draft's row is used again
        prompt = text(30, seed)
        wanted = list(generate(decoder, prompt, 40, temperature, seed=seed))
        guesser = DraftGuesser(draft, 8)
        found = generate(decoder, prompt, 40, temperature, seed=seed, guesser=guesser)
        assert list(found) == wanted
        wrong += guesser.guessed - guesser.right
    # Greedily, tiny models of random weights agree on a token to repeat.
    assert wrong or not temperature


def test_texts_are_guessed_together_as_each_alone(twin: Path) -> None:
    draft = opened(twin)
    texts = [text(9, 1), text(1, 2), text(FEW, 3)]
    wanted = [greedy(twin, one, 8) for one in texts]
    wishes = [
        wish(row, one, count) for row, one, count in zip((2, 0, 1), texts, (3, 0, 5), strict=True)
    ]
    assert draft.guess(wishes) == [wanted[0][:3], [], wanted[2][:5]]
    # Of the first all were right, of the third none; the second comes anew.
    texts = [[*texts[0], *wanted[0][:4]], texts[1], [*texts[2], 77]]
    wanted = [wanted[0][4:], wanted[1], greedy(twin, texts[2], 8)]
    wishes = [wish(row, one, 4) for row, one in zip((2, 0, 1), texts, strict=True)]
    assert draft.guess(wishes) == [one[:4] for one in wanted]


def test_a_row_forgets_the_text_that_it_had(twin: Path) -> None:
    draft = opened(twin)
    for seed in (1, 2, 1):
        one = text(FEW - seed, seed)
        assert draft.guess([wish(1, one, 4)]) == [greedy(twin, one, 4)]
    shared = [*text(FEW - 1, 1)[:6], 9, 9]
    assert draft.guess([wish(1, shared, 4)]) == [greedy(twin, shared, 4)]


def test_a_long_text_is_read_in_slices_while_others_are_guessed(twin: Path) -> None:
    draft, long, short = opened(twin), text(2 * SHARED_SLICE + FEW, 4), text(5, 5)
    found = [draft.guess([wish(0, long, 2), wish(1, short, 2)]) for _ in range(3)]
    assert [one[1] for one in found] == [greedy(twin, short, 2)] * 3
    assert [one[0] for one in found] == [[], [], greedy(twin, long, 2)]


def test_nothing_is_guessed_behind_the_drafts_last_position(twin: Path) -> None:
    draft = opened(twin, max_length=12)
    assert draft.guess([wish(0, text(10, 6), 5)]) == [greedy(twin, text(10, 6), 3)]
    assert draft.guess([wish(0, text(13, 6), 5)]) == [[]]
    draft.read(wish(1, text(100, 6), 5))
    assert draft.guess([wish(1, text(100, 6), 5)]) == [[]]


def test_a_text_of_tokens_that_a_draft_does_not_have_is_not_guessed(twin: Path) -> None:
    draft = opened(twin, vocabulary=VOCABULARY + 9)
    seen: list[NDArray[np.float32]] = []

    def draw(logits: NDArray[np.float32]) -> int:
        seen.append(logits)
        return VOCABULARY + 8

    assert draft.guess([wish(0, [3, VOCABULARY + 1], 2)]) == [[]]
    assert draft.guess([Wish(0, [3, 4], 2, draw)]) == [[]]
    assert len(seen[0]) == VOCABULARY + 9
    assert np.all(np.isneginf(seen[0][VOCABULARY:]))


def test_a_token_that_ends_the_text_is_not_guessed(twin: Path) -> None:
    session = ragged_session(twin, 1)
    assert session is not None
    draft, coming = Draft(session, 1, MAX_LENGTH, VOCABULARY, stop_ids=[7]), iter([5, 6, 7, 8])
    assert draft.guess([Wish(0, text(5, 7), 8, lambda _: next(coming))]) == [[5, 6]]
    assert next(coming) == 8


def test_a_draft_of_another_vocabulary_is_refused(twin: Path, tmp_path: Path) -> None:
    other = shutil.copytree(twin.parent, tmp_path / "other")
    described = json.loads((other / "tokenizer.json").read_text())
    vocabulary = described["model"]["vocab"]
    last = max(vocabulary, key=vocabulary.__getitem__)
    vocabulary["unheard"] = vocabulary.pop(last)
    described["model"]["merges"].pop()
    (other / "tokenizer.json").write_text(json.dumps(described))
    tokenizer = Tokenizer.load(twin.parent)
    with pytest.raises(ResqError, match=r"another vocabulary.* token 255 is .* the same tokenizer"):
        open_draft(other / "model.onnx", tokenizer, VOCABULARY, 1, MAX_LENGTH, 1)


def test_a_draft_whose_results_depend_on_the_call_is_refused(tiny_exports: TinyExports) -> None:
    qdq = tiny_exports.model("llama", tied=True).export("--format", "qdq")
    with pytest.raises(ResqError, match=r"cannot be a draft.* in the format custom"):
        open_draft(qdq, Tokenizer.load(qdq.parent), VOCABULARY, 1, MAX_LENGTH, 1)


def test_a_draft_without_a_tokenizer_is_refused(twin: Path, tmp_path: Path) -> None:
    alone = tmp_path / "model.onnx"
    alone.touch()
    with pytest.raises(ResqError, match=r"tokenizer\.json: no such file"):
        open_draft(alone, Tokenizer.load(twin.parent), VOCABULARY, 1, MAX_LENGTH, 1)
