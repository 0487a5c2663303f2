"""Guesses: what followed the same tokens earlier in the text."""

from __future__ import annotations

from resq_onnx.runtime.guessing import REST, TRIAL, Guesser


def after(text: list[int], most: int = 8, room: int = 100) -> list[int]:
    guesser = Guesser(most)
    guesser._pace._size = most
    guesser.extend(text)
    return guesser.guess(room)


def test_what_followed_before_is_guessed() -> None:
    assert after([1, 2, 3, 4, 5, 6, 9, 1, 2, 3]) == [4, 5, 6, 9, 1, 2, 3]
    assert after([1, 2, 3, 4, 5, 6, 9, 1, 2, 3], room=2) == [4, 5]
    assert after([1, 2, 3, 4, 5, 6, 9, 1, 2, 3], most=1) == [4]


def test_new_text_is_not_guessed() -> None:
    assert after([]) == after([1, 2]) == after([1, 2, 3, 4, 5]) == []
    assert after([1, 2, 7, 1, 2]) == []
    assert after([1, 2, 3, 4, 1, 2, 3], room=0) == []


def test_the_longest_equal_end_decides_and_of_equals_the_latest() -> None:
    assert after([9, 1, 2, 3, 4, 0, 8, 1, 2, 3, 5, 0, 9, 1, 2, 3])[0] == 4
    assert after([9, 1, 2, 3, 4, 0, 8, 1, 2, 3, 5, 0, 7, 1, 2, 3])[0] == 5


def test_a_repeated_token_is_guessed_on() -> None:
    assert after([7] * 8, most=3) == [7]
    assert after([1, 2, 3] * 3, most=3) == [1, 2, 3]


def test_right_guesses_make_more_of_them_and_wrong_ones_fewer() -> None:
    guesser = Guesser(8)
    guesser.extend([*range(20), *range(4)])
    sizes = [len(guesser.guess(100))]
    for guessed, right in ((2, 2), (4, 4), (8, 8), (8, 3), (8, 0), (4, 0), (2, 0), (1, 0), (0, 0)):
        guesser.learn(guessed, right)
        sizes.append(len(guesser.guess(100)))
    assert sizes == [2, 4, 8, 8, 8, 4, 2, 1, 1, 1]
    assert (guesser.guessed, guesser.right) == (37, 17)


def test_after_many_wrong_guesses_it_rests_and_then_tries_again() -> None:
    guesser = Guesser(8)
    guesser.extend([1, 2, 3] * 4)
    for _ in range(TRIAL // 2):
        assert guesser.guess(100)
        guesser.learn(2, 0)
    assert guesser.guess(100) == []
    guesser.extend([1, 2, 3] * (REST // 3))
    assert guesser.guess(100) == []
    guesser.extend([1, 2, 3])
    assert guesser.guess(100)
