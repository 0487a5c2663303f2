"""Tasks from WordNet, made of a dictionary of a few lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

import pytest

from scripts.wordnet_tasks import (
    ANSWERS,
    definitions,
    kinds,
    read_synsets,
    with_wrong_answers,
    write,
)

LICENCE: Final = "  1 This software and database is being provided to you\n"

NOUNS: Final = {
    "dog": ("00000001", "dog 0 domestic_dog 0", 2, "@ 00000009 n 0000", 'a pet; "the dog barked"'),
    "cat": ("00000002", "cat 0", 1, "@ 00000009 n 0000", "a feline"),
    "oak": ("00000003", "oak 0", 1, "@ 00000008 n 0000", "a hard wood; of the acorn"),
    "sea": ("00000004", "sea 0", 1, "@ 00000007 n 0000", "salt water"),
    "sun": ("00000005", "sun 0", 1, "@ 00000006 n 0000", "what the sun is"),
    "animal": ("00000009", "animal 0 beast 0", 2, "", "a living thing that moves"),
    "plant": ("00000008", "plant 0", 1, "", "a living thing that grows"),
    "water": ("00000007", "water 0", 1, "", "a liquid"),
    "star": ("00000006", "star 0", 1, "", "a hot body"),
}
VERBS: Final = {
    word: (f"0000001{i}", f"{word} 0", 1, "", f"to do thing {i}")
    for i, word in enumerate(("run", "sit", "eat", "fly"))
}


def data_file(entries: dict[str, tuple[str, str, int, str, str]], kind: str) -> str:
    lines = [
        f"{place} 03 {kind} {count:02x} {words} 001 {pointer} | {gloss}  \n"
        for place, words, count, pointer, gloss in entries.values()
    ]
    return LICENCE + "".join(lines)


PACKAGE: Final = {
    "data.noun": data_file(NOUNS, "n"),
    "data.verb": data_file(VERBS, "v"),
    "index.sense": "".join(
        [f"{word}%1:03:00:: {entry[0]} 1 9\n" for word, entry in NOUNS.items()]
        + [f"{word}%2:03:00:: {entry[0]} 1 9\n" for word, entry in VERBS.items()]
        + [
            "dog%1:03:01:: 00000002 2 9\n",
            "cat%2:03:00:: 00000010 1 4\n",
            "run's%1:03:00:: 1 1 9\n",
        ]
    ),
}


def test_a_synset_has_its_words_its_definition_without_examples_and_its_hypernym() -> None:
    synsets = read_synsets(PACKAGE["data.noun"].splitlines())
    dog = synsets["00000001"]
    assert (dog.words, dog.definition, dog.hypernym) == (
        ("dog", "domestic dog"),
        "a pet",
        "00000009",
    )
    assert synsets["00000003"].definition == "a hard wood; of the acorn"
    assert synsets["00000009"].hypernym is None


def test_a_definition_is_asked_for_unless_it_has_its_own_word() -> None:
    asked = {question.answer: question.text for question in definitions(PACKAGE)}
    assert asked["dog"] == 'The noun that means "a pet" is'
    assert asked["fly"] == 'The verb that means "to do thing 3" is'
    assert "sun" not in asked
    assert len(asked) == len(NOUNS) + len(VERBS) - 1, "rare and second senses are not asked for"


def test_a_kind_is_asked_for_where_there_is_one() -> None:
    asked = {question.text: question.answer for question in kinds(PACKAGE)}
    assert asked["The word dog names a kind of"] == "animal"
    assert len(asked) == 5


def test_answers_are_of_one_part_of_speech_and_one_of_them_is_right() -> None:
    questions = definitions(PACKAGE)
    right = {question.text: question for question in questions}
    documents = list(with_wrong_answers(questions, 100, seed=0))
    assert len(documents) == len(questions)
    for document in documents:
        choices, question = document["choices"], right[document["question"]]
        assert len(set(choices)) == ANSWERS
        assert choices[document["answer"]] == question.answer
        assert {choice in VERBS for choice in choices} == {question.answer in VERBS}


def test_the_seed_decides_the_questions_and_their_order() -> None:
    questions = definitions(PACKAGE)
    first, again, other = (list(with_wrong_answers(questions, 5, seed)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.slow
def test_lm_eval_reads_the_tasks(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    described = list(write(PACKAGE, tmp_path, 3, seed=0))
    names = [path.stem for path in described]
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    tasks = manager.load(names)["tasks"]
    assert set(tasks) == set(names)
    for name, task in tasks.items():
        documents = list(task.test_docs())
        lines = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        assert [json.loads(line)["question"] for line in lines] == [
            task.doc_to_text(document) for document in documents
        ]
