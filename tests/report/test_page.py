from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.report import write_report
from tests.report.cases import (
    MEASURED,
    NAME,
    SPECTRUM,
    write_benchmark,
    write_evaluation,
    write_export,
)
from tests.report.reading import Page
from tests.runtime import toy


@pytest.fixture
def full(tmp_path: Path) -> str:
    """A page with everything on it."""
    target = tmp_path / "report.html"
    evaluation = write_evaluation(tmp_path / "evaluation.json")
    benchmark = write_benchmark(tmp_path / "benchmark.json")
    write_report(write_export(tmp_path), target, [evaluation], [benchmark])
    return target.read_text(encoding="utf-8")


def sections(text: str) -> list[str]:
    return Page(text).ids()


def test_a_full_page_has_all_sections_and_every_element_is_closed(full: str) -> None:
    assert full.startswith("<!doctype html>")
    assert Page(full).errors == []
    assert sections(full) == ["quality", "layers", "spectra", "speed", "storage", "recipe"]


def test_the_page_asks_the_network_for_nothing_and_runs_no_script(full: str) -> None:
    assert re.findall(r"https?:|//[a-z]|@import|url\(", full) == []
    for name, attributes in Page(full).elements:
        assert name not in ("script", "link", "img", "iframe", "object")
        assert not {"src", "href", "srcset"} & attributes.keys()
        assert not any(attribute.startswith("on") for attribute in attributes)


def test_what_users_named_is_shown_and_not_run(full: str) -> None:
    page = Page(full)
    for name in (NAME, "four <bits>.onnx", "A <fast> CPU", "<b>text</b>.txt"):
        assert name in page.words
    assert not {"name", "bits", "fast", "b"} & {name for name, _ in page.elements}


def test_the_figures_are_those_of_the_files(full: str) -> None:
    words = Page(full).words
    for figure in (
        "0.2714 nats per token", "81.2%", "1.234 ± 0.012 times", "on 512 tokens",  # resq.json
        "20.125", "25.500", "1.2670", "0.2718", "77.5%", "10,220",  # evaluation
        "1,234", "617", "0.50", "150.5", "0.20", "196.0 MB", "1.07 s", "2 threads",  # benchmark
        "ResQ: principal components, 4 and 8 bits", "1.2.3+cpu", "1.5e-06", "× 1.0025",
        "The 2 of 16 directions in 8 bits hold 75% (median; 50% to 88%) of the energy.",
        "hold 77% of the energy",
    ):  # fmt: skip
        assert figure in words, figure


def test_spectra_and_layers_are_drawn_and_the_layers_in_two_widths(full: str) -> None:
    page = Page(full)
    assert [name for name, _ in page.elements].count("svg") == 4 + 2 * 2
    assert len(page.of_class("band")) == 3
    assert len(page.of_class("wide")) == len(page.of_class("narrow")) == 2


def test_splits_that_differ_from_layer_to_layer_are_told(tmp_path: Path) -> None:
    down = SPECTRUM | {"high": 4, "high_least": 2, "high_most": 8}
    target = tmp_path / "report.html"
    write_report(write_export(tmp_path, {"spectra": {"down": down}}, target_bits=4.5), target)
    words = Page(target.read_text(encoding="utf-8")).words
    assert "The 4 (2 to 8 by layer) of 16 directions in 8 bits" in words
    assert "differs between layers; the table lists averages" in words


def test_light_dark_narrow_and_print_each_have_a_style(full: str) -> None:
    for query in ("screen and (prefers-color-scheme: dark)", "(max-width: 700px)", "print"):
        assert f"@media {query} {{" in full


def test_a_page_without_measurements_has_storage_and_recipe(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    write_report(write_export(tmp_path, measured={}), target)
    page = Page(target.read_text(encoding="utf-8"))
    assert page.errors == []
    assert page.ids() == ["storage", "recipe"]
    assert NAME in page.words


def test_without_spectra_the_other_sections_stay(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    write_report(write_export(tmp_path, {"quality": MEASURED["quality"]}), target)
    assert sections(target.read_text(encoding="utf-8")) == [
        "quality", "layers", "storage", "recipe"
    ]  # fmt: skip


def test_a_file_of_someone_else_gives_a_page_too(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    write_report(toy.save_toy(tmp_path / "toy.onnx"), target)
    page = Page(target.read_text(encoding="utf-8"))
    assert page.errors == []
    assert page.ids() == ["storage", "recipe"]
    assert "toy.onnx" in page.words


def test_the_resq_json_of_another_model_is_left_alone(tmp_path: Path) -> None:
    write_export(tmp_path)
    target = tmp_path / "report.html"
    write_report(toy.save_toy(tmp_path / "toy.onnx"), target)
    assert NAME not in Page(target.read_text(encoding="utf-8")).words


def test_a_resq_json_whose_spectra_are_damaged_is_refused(tmp_path: Path) -> None:
    model = write_export(tmp_path, {"spectra": {"hidden": {"width": 16}}})
    target = tmp_path / "report.html"
    with pytest.raises(ResqError, match=r"resq\.json: not what `resq-onnx export` writes"):
        write_report(model, target)
    assert not target.exists()


@pytest.mark.parametrize("entry", [{"versions": "x"}, {"parity": ["float"]}, {"versions": [1]}])
def test_a_resq_json_that_the_page_cannot_show_is_refused(
    tmp_path: Path, entry: dict[str, Any]
) -> None:
    model = write_export(tmp_path)
    path = tmp_path / "resq.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entry))
    with pytest.raises(ResqError, match=r"resq\.json: not what `resq-onnx export` writes"):
        write_report(model, tmp_path / "report.html")


def test_a_page_that_cannot_be_made_leaves_the_old_one(tmp_path: Path) -> None:
    model, target = write_export(tmp_path), tmp_path / "report.html"
    target.write_text("old")
    (tmp_path / "bad.json").write_text(json.dumps([]))
    with pytest.raises(ResqError, match=r"bad\.json"):
        write_report(model, target, [tmp_path / "bad.json"])
    assert target.read_text() == "old"


def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ResqError, match=r"folder\.html: cannot be written"):
        write_report(write_export(tmp_path), tmp_path / "folder.html")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_the_page_is_written_where_there_was_no_folder(tmp_path: Path) -> None:
    target = tmp_path / "new" / "folder" / "page.html"
    write_report(write_export(tmp_path), target)
    assert [path.name for path in target.parent.iterdir()] == ["page.html"]
