"""Calibration texts: files and data sets, read."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resq_onnx.calibration import texts
from resq_onnx.calibration.texts import load_text
from resq_onnx.errors import ResqError


def test_a_txt_file_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("première ligne\n\nsecond", encoding="utf-8")
    assert load_text(str(tmp_path / "a.txt")) == ["première ligne\n\nsecond"]


def test_a_jsonl_file_is_a_document_a_line_and_blank_lines_are_skipped(tmp_path: Path) -> None:
    lines = [json.dumps({"text": "one"}), "", '{"text": "two\u2028lines", "id": 2}', ""]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    assert load_text(str(tmp_path / "a.jsonl")) == ["one", "two\u2028lines"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [("{", "not JSON"), ('{"body": "x"}', 'field "text"'), ("[1]", 'field "text"')],
)
def test_a_bad_jsonl_line_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(ResqError, match=reason) as refusal:
        load_text(str(path))
    assert f"{path}, line 2" in str(refusal.value)


def test_the_python_docs_are_english_and_in_a_fixed_order() -> None:
    documents = load_text("python-docs")
    assert sum(map(len, documents)) > 400_000
    assert documents == load_text("python-docs")
    assert any("assignment statement" in document.lower() for document in documents)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match=r"nowhere\.txt: no such file"):
        load_text(str(tmp_path / "nowhere.txt"))


def test_a_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc\xff")
    with pytest.raises(ResqError, match=r"not UTF-8 text \(byte 3\)"):
        load_text(str(tmp_path / "a.txt"))


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    with pytest.raises(ResqError, match=r"must be a \.txt, .* or \.parquet file"):
        load_text(str(tmp_path / "a.pdf"))


class FakeRows(dict[str, list[str]]):
    @property
    def column_names(self) -> list[str]:
        return list(self)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str | None, str]]:
    """Replaces `datasets`; the list holds what was asked of it."""
    asked: list[tuple[str, str | None, str]] = []

    def load_dataset(name: str, configuration: str | None, split: str) -> FakeRows:
        asked.append((name, configuration, split))
        if name == "far/away":
            raise ConnectionError("no route to host\nand a long story")
        return FakeRows(body=["x"]) if name == "the/bodies" else FakeRows(text=["a", "b"])

    config = SimpleNamespace(HF_HUB_OFFLINE=False)
    fake = SimpleNamespace(load_dataset=load_dataset, config=config)
    monkeypatch.setitem(sys.modules, "datasets", fake)
    monkeypatch.setattr(texts, "unreachable", lambda: None)
    return asked


def test_wikitext_is_the_raw_training_text_of_wikitext_2(
    requests: list[tuple[str, str | None, str]],
) -> None:
    assert load_text("wikitext") == ["a", "b"]
    assert requests == [("Salesforce/wikitext", "wikitext-2-raw-v1", "train")]


def test_a_data_set_may_name_its_configuration(
    requests: list[tuple[str, str | None, str]],
) -> None:
    load_text("wikitext:wikitext-103-raw-v1")
    load_text("someone/books")
    assert requests == [
        ("Salesforce/wikitext", "wikitext-103-raw-v1", "train"),
        ("someone/books", None, "train"),
    ]


@pytest.mark.usefixtures("requests")
def test_a_data_set_without_a_text_column_is_refused() -> None:
    with pytest.raises(ResqError, match='no column "text" or "messages", only body'):
        load_text("the/bodies")


@pytest.mark.usefixtures("requests")
def test_a_data_set_out_of_reach_is_one_line_that_says_what_would_do() -> None:
    with pytest.raises(ResqError, match=r"no route to host; give a \.txt") as refusal:
        load_text("far/away")
    assert "\n" not in str(refusal.value)


def test_a_data_set_without_the_library_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ResqError, match="pip install datasets"):
        load_text("wikitext")


def test_without_a_hub_a_data_set_is_looked_for_in_the_cache_alone(
    requests: list[tuple[str, str | None, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    offline = []
    load_dataset = datasets.load_dataset

    def load_noted(*given: Any, **how: Any) -> Any:
        offline.append(datasets.config.HF_HUB_OFFLINE)
        return load_dataset(*given, **how)

    monkeypatch.setattr(datasets, "load_dataset", load_noted)
    load_text("someone/books")
    monkeypatch.setattr(texts, "unreachable", lambda: "the hub cannot be reached (no route)")
    assert load_text("someone/books") == ["a", "b"]
    with pytest.raises(ResqError, match=r"failed: the hub cannot be reached \(no route\); give"):
        load_text("far/away")
    assert offline == [False, True, True]
    assert not datasets.config.HF_HUB_OFFLINE


@pytest.mark.parametrize("what", ["text", "calibration text"])
def test_a_plain_name_says_how_a_data_set_is_called(what: str) -> None:
    with pytest.raises(ResqError, match=r"text imdb: .* a data set .* as OWNER/NAME$"):
        load_text("imdb", what)


TYPOS = ["TYPO", "./brown", "brown.txt", "texts/brown.jsonl", "a/b/c", "/x", "~/brown"]


@pytest.mark.parametrize("spec", TYPOS)
def test_what_is_no_name_of_a_data_set_is_a_missing_file_at_once(spec: str) -> None:
    begun = time.monotonic()
    with pytest.raises(ResqError, match=r"^text .*: no such file; give a \.txt, "):
        load_text(spec, "text")
    assert time.monotonic() - begun < 1


def test_a_name_in_a_folder_that_is_there_is_a_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "texts").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ResqError, match="text texts/brown: no such file"):
        load_text("texts/brown")


def written(messages: Sequence[Mapping[str, Any]]) -> str:
    return "".join(f"<{one['role']}>{one['content']}" for one in messages)


CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]


def test_chats_go_through_the_chat_template(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"messages": CHAT}) + "\n" + json.dumps({"text": "plain"}))
    assert load_text(str(path), chat=written) == ["<user>Hi<assistant>Yes?", "plain"]
    with pytest.raises(ResqError, match="line 1: holds a chat"):
        load_text(str(path))


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabc")
    assert load_text(str(tmp_path / "a.txt")) == ["abc"]
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "abc"}')
    assert load_text(str(tmp_path / "a.jsonl")) == ["abc"]


def test_a_json_file_is_a_list_of_texts_or_chats(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(["one", {"text": "two"}, {"messages": CHAT}]))
    assert load_text(str(path), chat=written) == ["one", "two", "<user>Hi<assistant>Yes?"]


@pytest.mark.parametrize(
    ("content", "words"),
    [("{}", "must hold a list"), ("[", "not JSON"), ("[3]", "entry 1: must be"), ("[]", "no text")],
)
def test_a_json_file_of_another_form_is_refused(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ResqError, match=words):
        load_text(str(tmp_path / "a.json"))


def test_a_table_has_a_text_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n1,"one, two"\n2,three\n')
    assert load_text(str(tmp_path / "a.csv")) == ["one, two", "three"]
    from datasets import Dataset

    Dataset.from_dict({"messages": [CHAT]}).to_parquet(tmp_path / "a.parquet")
    assert load_text(str(tmp_path / "a.parquet"), chat=written) == ["<user>Hi<assistant>Yes?"]


@pytest.mark.parametrize(("name", "content"), [("a.csv", ""), ("a.parquet", "PAR1, or not")])
def test_a_damaged_table_is_refused(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ResqError, match=rf"{name}: cannot be read as \w+: .*; give the text as"):
        load_text(str(tmp_path / name))
