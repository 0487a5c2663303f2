"""The decoder over a fixed buffer: against the decoder that concatenates, step by step."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from resq_onnx.errors import ResqError
from resq_onnx.runtime import BufferedDecoder, Decoder, buffered, create_session, read_signature
from tests.runtime import toy

TOKENS: Final = np.array([[3, 1, 4, 1, 5, 9], [2, 7, 1, 8, 2, 8]], np.int64)

ROOM: Final = 9
"""More than there are tokens, so that the end of the buffer has to be left out."""


def session_of(path: Path, **options: Any) -> Any:
    return create_session(toy.save_toy(path / "toy.onnx", **options), threads=1)


@pytest.fixture
def session(tmp_path: Path) -> Any:
    return session_of(tmp_path)


def twin(
    session: Any, ids: NDArray[np.int64], mask: NDArray[np.int64] | None = None
) -> NDArray[np.float32]:
    """The logits after the last token, as the concatenating decoder finds them in one pass."""
    return Decoder(session).run(ids, attention_mask=mask)[0][:, -1]


@pytest.mark.parametrize("cuts", [(6,), (1, 6), (3, 4, 5, 6), (2, 6), (1, 2, 3, 4, 5, 6)])
def test_in_any_portions_the_logits_are_those_of_one_pass(
    session: Any, cuts: tuple[int, ...]
) -> None:
    decoder = BufferedDecoder(session, ROOM, batch=2)
    start = 0
    for end in cuts:
        found = decoder.run(TOKENS[:, start:end])
        assert found.shape == (2, toy.VOCABULARY)
        np.testing.assert_array_equal(found, twin(session, TOKENS[:, :end]))
        assert decoder.length == end
        start = end


@pytest.mark.parametrize("size", [1, 2, 4, 6, 7])
def test_a_long_prompt_runs_in_slices(
    session: Any, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffered, "PREFILL_SLICE", size)
    decoder = BufferedDecoder(session, ROOM, batch=2)
    np.testing.assert_array_equal(decoder.run(TOKENS), twin(session, TOKENS))
    np.testing.assert_array_equal(
        decoder.run(TOKENS[:, :1]), twin(session, np.concatenate([TOKENS, TOKENS[:, :1]], axis=1))
    )


@pytest.mark.parametrize(
    "options",
    [{"cache_type": TensorProto.FLOAT}, {"without": "position_ids"}, {"last_only": True}],
    ids=str,
)
def test_float_caches_no_positions_and_last_logits_work_as_well(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    session = session_of(tmp_path, **options)
    decoder = BufferedDecoder(session, ROOM, batch=2)
    for end in range(1, 7):
        found = decoder.run(TOKENS[:, end - 1 : end])
        np.testing.assert_array_equal(found, twin(session, TOKENS[:, :end]))
    decoder.reset()
    np.testing.assert_array_equal(decoder.run(TOKENS), twin(session, TOKENS))


def test_the_cache_is_the_same_memory_in_every_call(session: Any) -> None:
    decoder = BufferedDecoder(session, ROOM, batch=2)
    caches = decoder._memory.caches
    _, state = Decoder(session).run(TOKENS)
    decoder.run(TOKENS)
    for buffer, cache in zip(caches, state.caches, strict=True):
        np.testing.assert_array_equal(buffer[:, :, :6], cache)
        np.testing.assert_array_equal(buffer[:, :, 6:], 0)


def test_padding_has_no_effect(session: Any) -> None:
    ids = np.array([[40, 41, 3, 1, 4], [2, 7, 1, 8, 2]], np.int64)
    mask = np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]], np.int64)
    decoder = BufferedDecoder(session, ROOM, batch=2)
    decoder.run(ids[:, :3], mask[:, :3])
    np.testing.assert_array_equal(decoder.run(ids[:, 3:]), twin(session, ids, mask))
    decoder.rewind(1)
    np.testing.assert_array_equal(decoder.run(ids[:, 1:], mask[:, 1:]), twin(session, ids, mask))


@pytest.mark.parametrize("length", [0, 1, 4, 6])
def test_after_a_rewind_another_text_can_follow(session: Any, length: int) -> None:
    decoder = BufferedDecoder(session, ROOM, batch=2)
    decoder.run(TOKENS)
    decoder.rewind(length)
    assert decoder.length == length
    other = np.concatenate([TOKENS[:, :length], TOKENS[:, :3] + 1], axis=1)
    np.testing.assert_array_equal(decoder.run(other[:, length:]), twin(session, other))


def test_decoders_on_one_session_do_not_disturb_each_other(session: Any) -> None:
    first, second = BufferedDecoder(session, ROOM), BufferedDecoder(session, ROOM)
    for end in range(1, 7):
        for decoder, text in ((first, TOKENS[:1]), (second, TOKENS[1:])):
            found = decoder.run(text[:, end - 1 : end])
            np.testing.assert_array_equal(found, twin(session, text[:, :end]))


def test_a_full_buffer_says_how_long_it_should_be_and_stays_as_it_was(session: Any) -> None:
    decoder = BufferedDecoder(session, 6, batch=2)
    decoder.run(TOKENS[:, :5])
    with pytest.raises(ResqError, match=r"holds 6 tokens, and there would be 7; .*max_length=7"):
        decoder.run(TOKENS[:, :2])
    np.testing.assert_array_equal(decoder.run(TOKENS[:, 5:]), twin(session, TOKENS))


@pytest.mark.parametrize(("length", "batch"), [(0, 1), (4, 0), (-1, 1)])
def test_a_buffer_for_nothing_is_refused(session: Any, length: int, batch: int) -> None:
    with pytest.raises(ResqError, match="give 1 or more"):
        BufferedDecoder(session, length, batch)


@pytest.mark.parametrize("length", [2**50, 2**60, 2**63, 10**30])
def test_a_buffer_that_no_machine_has_room_for_is_a_lack_of_memory(
    session: Any, length: int
) -> None:
    with pytest.raises(MemoryError):
        BufferedDecoder(session, length)


@pytest.mark.parametrize("shape", [(2,), (1, 3), (2, 0)])
def test_tokens_of_another_shape_are_a_mistake(session: Any, shape: tuple[int, ...]) -> None:
    decoder = BufferedDecoder(session, ROOM, batch=2)
    with pytest.raises(ValueError, match=r"input_ids is .*, it must be \(2, 1 or more\)"):
        decoder.run(np.ones(shape, np.int64))


def test_a_mask_of_another_shape_is_a_mistake(session: Any) -> None:
    decoder = BufferedDecoder(session, ROOM, batch=2)
    with pytest.raises(ValueError, match=r"attention_mask is \(2, 5\), it must be \(2, 6\)"):
        decoder.run(TOKENS, np.ones((2, 5), np.int64))


def test_one_cannot_rewind_into_the_future(session: Any) -> None:
    with pytest.raises(ValueError, match="cannot rewind to 1 tokens: there are 0"):
        BufferedDecoder(session, ROOM).rewind(1)


def test_a_graph_that_can_only_concatenate_is_refused(tmp_path: Path) -> None:
    decoder = BufferedDecoder(session_of(tmp_path, concatenates=True), ROOM)
    with pytest.raises(ResqError, match=r"ONNX Runtime cannot run it: .*shape"):
        decoder.run(TOKENS[:1])
    assert decoder.length == 0


def test_a_width_that_the_graph_does_not_say_can_be_given(tmp_path: Path) -> None:
    session = session_of(tmp_path, record="width")
    with pytest.raises(ResqError, match="a cache must have four dimensions"):
        BufferedDecoder(session, ROOM)
    decoder = BufferedDecoder(session, ROOM, batch=2, cache_width=toy.RECORD)
    np.testing.assert_array_equal(
        decoder.run(TOKENS).argmax(-1), toy.expected_tokens(TOKENS)[:, -1]
    )


def test_logits_of_unknown_width_are_refused(session: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    signature = dataclasses.replace(read_signature(session), vocabulary=None)
    monkeypatch.setattr(buffered, "read_signature", lambda *_arguments: signature)
    with pytest.raises(ResqError, match="logits has no fixed last dimension"):
        BufferedDecoder(session, ROOM)


@pytest.mark.parametrize("length", [0, 1, 4])
def test_a_copied_beginning_is_as_good_as_one_that_ran(session: Any, length: int) -> None:
    mask = np.ones_like(TOKENS)
    mask[0, 0] = 0
    first, second = (BufferedDecoder(session, ROOM + extra, batch=2) for extra in (0, 2))
    first.run(TOKENS, mask)
    second.run(TOKENS[:, ::-1].copy())  # another text, which is forgotten
    second.copy_beginning(first, length)
    assert second.length == length
    found = second.run(TOKENS[:, length:], mask[:, length:])
    np.testing.assert_array_equal(found, twin(session, TOKENS, mask))
    # The one that was copied from goes on as if nothing had happened.
    np.testing.assert_array_equal(
        first.run(TOKENS[:, :1]),
        twin(
            session,
            np.concatenate([TOKENS, TOKENS[:, :1]], axis=1),
            np.concatenate([mask, mask[:, -1:]], axis=1),
        ),
    )


def test_no_more_is_copied_than_there_is_or_has_room(session: Any) -> None:
    long, short = BufferedDecoder(session, ROOM, batch=2), BufferedDecoder(session, 3, batch=2)
    long.run(TOKENS)
    with pytest.raises(ValueError, match="cannot copy 7 tokens: there are 6"):
        BufferedDecoder(session, ROOM, batch=2).copy_beginning(long, 7)
    with pytest.raises(ValueError, match="cannot copy 4 tokens: there are 6, and room for 3"):
        short.copy_beginning(long, 4)
