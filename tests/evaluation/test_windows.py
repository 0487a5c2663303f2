"""Which tokens of a text are read, which are predicted, and how often."""

from __future__ import annotations

import numpy as np
import pytest

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.windows import Window, Windowing


def ids_of(windows: list[Window]) -> list[list[int]]:
    return [window.token_ids.tolist() for window in windows]


def test_windows_do_not_overlap_and_the_rest_is_left_out() -> None:
    windows = Windowing(4).cut(range(11))
    assert ids_of(windows) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    # The first token of a window is only read, the last one only predicted.
    assert [window.read.tolist() for window in windows] == [[0, 1, 2], [4, 5, 6]]
    assert [window.targets.tolist() for window in windows] == [[1, 2, 3], [5, 6, 7]]


def test_what_windows_share_is_only_context() -> None:
    windows = Windowing(5, stride=2).cut(range(10))
    assert ids_of(windows) == [[0, 1, 2, 3, 4], [2, 3, 4, 5, 6], [4, 5, 6, 7, 8]]
    assert [window.targets.tolist() for window in windows] == [[1, 2, 3, 4], [5, 6], [7, 8]]


@pytest.mark.parametrize("window", [2, 3, 7, 20])
def test_with_an_overlap_every_token_up_to_the_end_is_predicted_once(window: int) -> None:
    for stride in range(1, window):
        windows = Windowing(window, stride).cut(range(50))
        predicted = np.concatenate([one.targets for one in windows]).tolist()
        assert predicted == list(range(1, len(predicted) + 1))
        assert 50 - stride < len(predicted) + 1 <= 50


def test_an_overlap_of_one_token_predicts_the_same_as_the_window_allows() -> None:
    (_, second) = Windowing(4, stride=3).cut(range(7))
    assert (second.first, second.targets.tolist()) == (1, [4, 5, 6])


def test_a_short_text_is_one_window() -> None:
    assert ids_of(Windowing(512, stride=64).cut([1, 2, 3])) == [[1, 2, 3]]


def test_the_number_of_windows_may_be_limited() -> None:
    assert ids_of(Windowing(2, max_windows=3).cut(range(100))) == [[0, 1], [2, 3], [4, 5]]
    assert len(Windowing(2, max_windows=3).cut(range(4))) == 2


@pytest.mark.parametrize(
    ("tokens", "windowing", "reason"),
    [
        ([], Windowing(), "text has 0 tokens"),
        ([1], Windowing(), "text has 1 tokens"),
        ([1, 2], Windowing(1), "a window 1"),
        ([1, 2], Windowing(2, max_windows=0), "number of windows is 0"),
        ([1, 2], Windowing(2, stride=0), "stride is 0"),
        ([1, 2], Windowing(2, stride=3), "stride is 3 and a window has 2 tokens"),
    ],
)
def test_what_allows_no_window_is_refused(
    tokens: list[int], windowing: Windowing, reason: str
) -> None:
    with pytest.raises(ResqError, match=reason):
        windowing.cut(tokens)


def test_every_window_begins_with_the_opening_and_predicts_its_whole_text() -> None:
    windows = Windowing(4, opening=(99,)).cut(range(7))
    assert ids_of(windows) == [[99, 0, 1, 2], [99, 3, 4, 5]]
    assert [list(window.targets) for window in windows] == [[0, 1, 2], [3, 4, 5]]


def test_with_an_opening_and_an_overlap_each_token_is_predicted_once() -> None:
    windows = Windowing(5, stride=2, opening=(99,)).cut(range(8))
    assert ids_of(windows) == [[99, 0, 1, 2, 3], [99, 2, 3, 4, 5], [99, 4, 5, 6, 7]]
    assert [list(window.targets) for window in windows] == [[0, 1, 2, 3], [4, 5], [6, 7]]


def test_behind_an_opening_one_token_is_text_enough() -> None:
    (window,) = Windowing(2, opening=(99,)).cut([5])
    assert list(window.targets) == [5]
