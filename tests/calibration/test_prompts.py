"""Prompts made by rule."""

from __future__ import annotations

import re
import string

from resq_onnx.calibration.prompts import KINDS, NUMBERS, SLOTS, make_prompts

PATTERNS = [pattern for patterns in KINDS.values() for pattern in patterns]


def slots(pattern: str) -> list[str]:
    return [slot for _, slot, _, _ in string.Formatter().parse(pattern) if slot is not None]


def test_a_few_hundred_prompts_differ() -> None:
    prompts = make_prompts(300, seed=0)
    assert len(prompts) == 300
    assert len(set(prompts)) > 290


def test_there_are_as_many_as_wanted_even_if_patterns_run_out() -> None:
    assert len(make_prompts(2000, seed=0)) == 2000
    assert make_prompts(0, seed=0) == []


def test_the_seed_chooses_them() -> None:
    assert make_prompts(20, seed=1) == make_prompts(20, seed=1)
    assert make_prompts(20, seed=1) != make_prompts(20, seed=2)


def test_any_few_prompts_have_all_kinds() -> None:
    for seed in range(5):
        for prompt, patterns in zip(make_prompts(len(KINDS), seed), KINDS.values(), strict=True):
            assert any(fits(prompt, pattern) for pattern in patterns), prompt


def fits(prompt: str, pattern: str) -> bool:
    """Whether a prompt is a pattern with its slots filled."""
    parts = []
    for text, slot, _, _ in string.Formatter().parse(pattern):
        parts.append(re.escape(text))
        if slot is not None:
            words = SLOTS.get(slot.lower(), (r"\d+",))
            parts.append(f"(?i:{'|'.join(words)})")
    return re.fullmatch("".join(parts), prompt) is not None


def test_every_slot_can_be_filled_and_every_filling_is_used() -> None:
    used = {slot.lower() for pattern in PATTERNS for slot in slots(pattern)}
    assert used == {*SLOTS, *NUMBERS}


def test_no_slot_is_left_open() -> None:
    assert not [prompt for prompt in make_prompts(500, seed=3) if "{" in prompt]


def test_a_sentence_begins_with_a_capital() -> None:
    assert all(prompt[0].isupper() for prompt in make_prompts(500, seed=4))
