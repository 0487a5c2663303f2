"""An export is repeated by its resq.json: the same model gives the same bytes."""

from __future__ import annotations

from pathlib import Path

from tests.command_line import QUICK, repeatable, run_successfully
from tests.tiny_exports import TinyExports

TEXT = "The sea is wide, and nobody knows how deep it is. " * 200


def test_an_export_is_repeated_byte_for_byte_by_its_resq_json(
    tiny_exports: TinyExports, tmp_path: Path
) -> None:
    model = tiny_exports.model("llama", tied=True).folder
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    chosen = ("--method", "outlier", "--high-fraction", "0.25", "--weights", "gptq", "--bos")
    first, second = (tmp_path / name / "model.onnx" for name in ("first", "second"))
    run_successfully(
        *("export", model, first, *QUICK, *chosen, "--calibration", text, "--seed", 3),
        *("--target", "portable", "--logits", "last"),
    )
    recipe = ("--recipe", first.parent / "resq.json", "--calibration", text)
    run_successfully("export", model, second, *recipe)
    assert repeatable(first.parent) == repeatable(second.parent)


def test_a_projections_file_stands_in_for_the_text_of_the_recipe(
    tiny_exports: TinyExports, tmp_path: Path
) -> None:
    tiny = tiny_exports.model("qwen2", tied=True)
    first, again = tiny.export(), tmp_path / "again" / "model.onnx"
    recipe = ("--recipe", first.parent, "--projections", tiny.projections)
    run_successfully("export", tiny.folder, again, *recipe)
    assert repeatable(again.parent) == repeatable(first.parent)
