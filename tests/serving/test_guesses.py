"""Which guesses are worth a longer call, and how they are counted."""

from __future__ import annotations

from resq_onnx.serving.guesses import Guesses, worthwhile

REPEATED = [1, 2, 3, 4, 5, 6] * 4


def offering(most: int) -> Guesses:
    found = Guesses(most, REPEATED)
    found.next(8)
    return found


def test_guesses_are_counted_as_right_until_the_first_wrong_one() -> None:
    guesses = offering(2)
    assert guesses.cut(8) == [1, 2]
    guesses.note(1)
    assert guesses.last_was_right
    guesses.note(7)
    assert not guesses.last_was_right
    assert (guesses.guessed, guesses.right) == (2, 1)


def test_what_is_cut_was_not_guessed() -> None:
    guesses = offering(2)
    assert guesses.cut(1) == [1]
    assert guesses.guessed == 1
    assert guesses.cut(0) == []
    assert guesses.guessed == 0


def test_one_text_gets_its_guesses_and_a_few_of_many_texts_do_not() -> None:
    assert worthwhile([offering(2)]) == 2
    assert worthwhile([offering(2), offering(2)]) == 2
    assert worthwhile([offering(2), offering(0), offering(0)]) == 0
    assert worthwhile([offering(0)]) == 0


def test_guesses_that_are_rarely_right_are_not_worth_it() -> None:
    guesses = Guesses(2, REPEATED)
    for i in range(6):
        guesses.next(8)
        guesses.cut(8)
        guesses.note(100 + i)
        for token in REPEATED[:6]:
            guesses.note(token)
    guesses.next(8)
    assert guesses.rate < 0.5
    assert worthwhile([guesses, guesses, guesses]) == 0
