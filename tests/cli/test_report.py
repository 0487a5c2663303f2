from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.command_line import QUICK, error_line, run, run_successfully
from tests.report.cases import write_benchmark, write_evaluation, write_export
from tests.report.reading import Page
from tests.tiny_models import write_model


def test_the_page_lies_beside_the_model(tmp_path: Path) -> None:
    model = write_export(tmp_path)
    printed = run_successfully("report", model).stdout
    assert printed == f"Wrote {tmp_path / 'report.html'}\n"
    assert "spectra" in Page((tmp_path / "report.html").read_text(encoding="utf-8")).ids()


def test_the_page_lies_where_it_is_wanted_and_holds_what_was_given(tmp_path: Path) -> None:
    model, page = write_export(tmp_path / "model"), tmp_path / "page.html"
    evaluation = write_evaluation(tmp_path / "evaluation.json")
    again = write_evaluation(tmp_path / "again.json", reference=False)
    benchmark = write_benchmark(tmp_path / "benchmark.json")
    run_successfully(
        *("report", model, "--out", page, "--benchmark", benchmark),
        *("--evaluation", evaluation, "--evaluation", again),
    )
    assert not (model.parent / "report.html").exists()
    found = Page(page.read_text(encoding="utf-8"))
    assert "speed" in found.ids()
    assert found.words.count("windows of 512 tokens") == 2


@pytest.mark.parametrize("option", ["--evaluation", "--benchmark"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, option: str) -> None:
    result = run("report", write_export(tmp_path), option, tmp_path / "absent.json")
    assert result.exit_code == 1
    assert "absent.json: cannot be read" in error_line(result.stderr)
    assert not (tmp_path / "report.html").exists()


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = run("report", tmp_path / "absent.onnx")
    assert result.exit_code == 1
    assert "absent.onnx: no such file" in error_line(result.stderr)


@pytest.mark.parametrize(
    ("options", "sections"),
    [
        ((), ["quality", "layers", "spectra", "storage", "recipe"]),
        (("--method", "none"), ["storage", "recipe"]),
        (
            ("--method", "rtn", "--weights", "rtn"),  # without a calibration
            ["quality", "layers", "storage", "recipe"],
        ),
    ],
    ids=["resq", "none", "rtn"],
)
def test_an_export_writes_its_page_if_asked_to(
    tmp_path: Path, options: tuple[str, ...], sections: list[str]
) -> None:
    write_model(tmp_path / "model", "llama", tied=True, num_hidden_layers=1)
    out = tmp_path / "out" / "model.onnx"
    printed = run_successfully(
        "export", tmp_path / "model", out, *QUICK, *options, "--report"
    ).stdout
    page = Page((out.parent / "report.html").read_text(encoding="utf-8"))
    assert page.errors == []
    assert page.ids() == sections
    assert ("Against float" in printed) == ("quality" in sections)
    said = json.loads((out.parent / "resq.json").read_text())
    if "quality" in sections:
        assert f"{said['quality']['kl_divergence']:.4f} nats per token" in page.words
