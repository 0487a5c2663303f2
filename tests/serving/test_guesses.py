"""Which guesses are worth a longer call, and how they are counted."""

from __future__ import annotations

from resq_onnx.serving.guesses import DraftedGuesses, Guesses, worthwhile

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


def test_each_text_gets_its_guesses_and_all_together_as_many_as_there_is_room_for() -> None:
    assert worthwhile([offering(2)], 15) == [2]
    assert worthwhile([offering(2), offering(0), offering(2)], 13) == [2, 0, 2]
    assert worthwhile([offering(2), offering(2), offering(2)], 3) == [2, 1, 0]
    assert worthwhile([offering(0)], 15) == [0]


def failing(times: int) -> Guesses:
    guesses = Guesses(2, REPEATED)
    for i in range(times):
        guesses.next(8)
        guesses.cut(8)
        guesses.note(100 + i)
        for token in REPEATED[:6]:
            guesses.note(token)
    guesses.next(8)
    return guesses


def test_guesses_that_are_rarely_right_are_not_worth_it_beside_other_texts() -> None:
    guesses = failing(6)
    assert 0.2 < guesses.rate < 0.5
    others = [offering(0)] * 6
    assert worthwhile([guesses], 15) == [1]
    assert worthwhile([guesses, *others], 9)[0] == 0
    assert worthwhile([offering(2), *others], 9)[0] == 2


def test_guesses_that_were_not_checked_are_rated_by_what_came() -> None:
    guesses, others, asked = failing(6), [offering(0)] * 6, []
    for token in REPEATED[1:6] + REPEATED * 2:
        guesses.next(1)
        asked.append(worthwhile([guesses, *others], 9)[0])
        guesses.cut(asked[-1])
        guesses.note(token)
    assert asked[0] == 0
    assert asked[-1] == 1


def test_a_draft_that_was_often_wrong_is_asked_again_after_a_while() -> None:
    guesses, others, asked = DraftedGuesses(2, [1]), [offering(0)] * 6, []
    for _ in range(60):
        guesses.next(8)
        asked.append(worthwhile([guesses, *others], 9)[0])
        guesses.put([7] * asked[-1])
        guesses.note(8)
    first = asked.index(0)
    assert first > 0
    assert any(asked[first:])
    assert sum(map(bool, asked[first:])) < 20


def test_the_surest_guesses_come_first() -> None:
    assert worthwhile([failing(2), offering(2)], 2) == [0, 2]


def test_what_a_draft_is_to_guess_is_decided_before_it_guesses() -> None:
    guesses = DraftedGuesses(4, [1, 2, 3])
    sizes = []
    for right in (True, True, False, False, False):
        guesses.next(8)
        sizes.append(guesses.offered)
        guesses.put([7] * guesses.offered)
        for token in guesses.cut(8) if right else [8]:
            guesses.note(token)
    assert sizes == [2, 4, 4, 2, 1]
    assert (guesses.guessed, guesses.right) == (13, 6)
    guesses.next(0)
    assert guesses.offered == 0
