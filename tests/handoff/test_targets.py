"""The table of targets, and what a target makes of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest

import resq_onnx
from resq_onnx.errors import ResqError
from resq_onnx.handoff.target import Target
from resq_onnx.handoff.targets import DEFAULT, TARGETS, target_named
from resq_onnx.methods import FORMATS
from resq_onnx.recipe import Recipe
from resq_onnx.runtime import library
from tests.command_line import error_line, run, run_successfully


def test_every_row_is_found_by_its_name() -> None:
    assert next(iter(TARGETS)) == DEFAULT
    for name, target in TARGETS.items():
        assert target_named(name) is target
        assert set(target.formats) <= set(FORMATS)
        assert target.recipe().format == target.formats[0]


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ResqError, match=r"target is 'cloud'; it must be one of ort, genai, "):
        target_named("cloud")


def test_the_default_target_has_the_default_recipe() -> None:
    assert TARGETS[DEFAULT].recipe() == Recipe()


@pytest.mark.parametrize(
    ("target", "format", "logits"),
    [
        ("ort", "custom", "all"),
        ("genai", "custom", "last"),
        ("openvino", "qdq", "last"),
        ("web", "web", "last"),
        ("portable", "qdq", "all"),
    ],
)
def test_a_target_sets_what_its_runtime_wants(target: str, format: str, logits: str) -> None:
    recipe = TARGETS[target].recipe(samples=3)
    assert (recipe.format, recipe.logits, recipe.samples) == (format, logits, 3)


def test_what_a_user_chooses_stands_above_a_target_s_defaults() -> None:
    assert TARGETS["genai"].recipe(logits="all", format="qdq") == Recipe(format="qdq")


def test_a_format_that_the_target_cannot_read_is_refused_in_one_line(tmp_path: Path) -> None:
    asked = ("export", tmp_path / "absent", tmp_path / "out.onnx", "--target", "portable")
    result = run(*asked, "--format", "custom")
    assert result.exit_code == 1
    assert error_line(result.stderr) == (
        "Error: target portable reads format qdq, but the recipe has custom: drop --format, "
        "or choose another --target"
    )
    with pytest.raises(ResqError, match="reads format qdq"):
        resq_onnx.export(tmp_path, tmp_path / "out.onnx", Recipe(), target="portable")


def test_help_lists_the_table() -> None:
    listed = run_successfully("export", "--help").stdout
    assert "|".join(TARGETS) in listed.replace("\n", "").replace(" ", "")


def test_a_library_that_was_not_built_is_missed_before_anything_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resq_onnx.__spec__, "submodule_search_locations", [str(tmp_path)])
    with pytest.raises(ResqError, match=f"{library.LIBRARY_NAME} is not in"):
        TARGETS["genai"].recipe()
    assert TARGETS["genai"].recipe(format="qdq").format == "qdq"  # needs none


def test_a_target_may_look_at_the_recipe_first() -> None:
    def refuse(recipe: Recipe) -> None:
        raise ResqError(f"no {recipe.method}")

    target = Target("picky", "a runtime", ("custom",), "", check=refuse)
    with pytest.raises(ResqError, match="no resq"):
        target.recipe()


def test_the_portable_folder_holds_standard_operators_alone(
    tiny_model: Path, projections: Path, tmp_path: Path
) -> None:
    out = tmp_path / "model.onnx"
    options = ("--target", "portable", "--projections", projections)
    run_successfully("export", tiny_model, out, *options)
    model = onnx.load(out, load_external_data=False)
    assert {node.domain for node in model.graph.node} == {""}
    assert not model.functions
    card = (tmp_path / "README.md").read_text()
    assert "`model.onnx` contains only standard operators" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {"__name__": "card"}
    exec(compile(code.replace("model.onnx", str(out)), "card", "exec"), names)
    assert names["logits"].shape == (1, 3, 256)
