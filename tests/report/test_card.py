"""The model card: true figures, how to run the model, and nobody's file replaced."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from resq_onnx.files import Staging
from resq_onnx.graph.inspection import inspect_model
from resq_onnx.handoff.targets import TARGETS
from resq_onnx.report.card import MARK, render_card, write_card


@pytest.fixture
def folder(for_genai: Path, tmp_path: Path) -> Path:
    """A finished folder of files that a test may change: links would be the session's own."""
    for file in for_genai.parent.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def card(folder: Path) -> str:
    return (folder / "README.md").read_text()


def summary(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "resq.json").read_text())
    return found


def rows(text: str) -> dict[str, list[str]]:
    """All table rows of a card, by their first cell."""
    cells = [
        [cell.strip() for cell in line.strip("|").split(" | ")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    return {first.strip("| "): rest for first, *rest in cells}


def test_the_figures_are_those_of_resq_json(folder: Path) -> None:
    table, said = rows(card(folder)), summary(folder)
    quality = said["quality"]
    assert table["this file with the float model, 512 tokens"] == [
        f"{quality['kl_divergence']:.3f}",
        f"{100 * quality['top1_agreement']:.1f} %",
        f"{quality['perplexity_ratio']:.3f}",
    ]
    assert quality["tokens"] == 512
    decode = said["parity"]["decode"]
    assert table["decode through the cache with one pass"][0] == f"{decode['kl_divergence']:.1e}"
    inspection = inspect_model(folder / "model.onnx")
    assert table["KV cache"][0].startswith(f"{inspection.cache_bytes_per_token} bytes per token")
    assert f"{said['bytes']['total'] / 1e6:.1f} MB" in table["graph and weights"][0]


def test_every_file_is_listed_with_its_size_and_meaning(folder: Path) -> None:
    table = rows(card(folder))
    for path in folder.iterdir():
        if path.name != "README.md":
            said, meaning = table[f"`{path.name}`"]
            size = path.stat().st_size
            if size < 100_000:
                assert said == "under 0.1 MB"
            else:
                assert float(said.removesuffix(" MB")) == pytest.approx(size / 1e6, abs=0.05)
            assert meaning


def test_the_recipe_says_on_which_text_the_projections_were_measured(folder: Path) -> None:
    table = rows(card(folder))
    assert table["calibration"] == ["text.txt"]
    assert table["samples"] == ["4"]
    assert table["logits"] == ["last"]
    assert summary(folder)["recipe"]["calibration"] == "text.txt"


def test_the_licence_is_the_one_that_the_model_states(folder: Path) -> None:
    assert rows(card(folder))["licence of the base model"] == ["tiny-licence (LICENSE.md)"]
    front = yaml.safe_load(card(folder).split("---\n")[1])
    assert front["license"] == "other"
    assert front["license_name"] == "tiny-licence"
    assert "base_model" not in front  # a folder's name is no name on the hub


def rendered(folder: Path, target: str = "genai", **changes: Any) -> str:
    (folder / "README.md").unlink()
    (folder / "resq.json").write_text(json.dumps(summary(folder) | changes))
    return render_card(folder / "model.onnx", TARGETS[target])


def test_a_licence_that_nobody_states_is_not_stated(folder: Path) -> None:
    text = rendered(folder, licence={}, model="org/name")
    assert rows(text)["licence of the base model"] == ["not stated"]
    front = yaml.safe_load(text.split("---\n")[1])
    assert "license" not in front
    assert front["base_model"] == "org/name"


def test_what_a_licence_says_cannot_add_to_the_front_matter(folder: Path) -> None:
    text = rendered(folder, licence={"license": "mit\n---\ntags: [injected]"})
    assert yaml.safe_load(text.partition("\n---\n\n<!--")[0][4:])["tags"] == [
        "onnx",
        "resq-onnx",
        "resq",
    ]


def test_what_was_not_measured_has_no_row(folder: Path) -> None:
    floats = summary(folder)["recipe"] | {"method": "none"}
    text = rendered(folder, quality=None, recipe=floats)
    assert "this file with the float model" not in text
    assert "in float, in ONNX" in text


@pytest.mark.parametrize("target", TARGETS)
def test_a_card_of_any_target_is_filled_in(folder: Path, target: str) -> None:
    text = rendered(folder, target)
    assert MARK in text
    assert TARGETS[target].about in text
    assert "{{" not in text
    assert "{%" not in text


def test_how_to_run_it_runs(folder: Path) -> None:
    """In the default target's card, by a program that knows nothing but the folder."""
    code = rendered(folder, "ort").partition("```python\n")[2].partition("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def staging(folder: Path, out: Path) -> Staging:
    (folder / "README.md").unlink()
    return Staging(folder, out / "model.onnx")


def test_somebody_else_s_readme_stays(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    out, warnings = tmp_path_factory.mktemp("out"), list[str]()
    (out / "README.md").write_text("My notes.")
    write_card(staging(folder, out), TARGETS["ort"], warnings.append)
    assert not (folder / "README.md").exists()
    assert MARK in (folder / "model.README.md").read_text()
    assert warnings == [
        f"{out / 'README.md'} was not written by resq-onnx and is kept; the card is model.README.md"
    ]


def test_an_older_card_is_replaced(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("out")
    (out / "README.md").write_text(card(folder))
    write_card(staging(folder, out), TARGETS["ort"], pytest.fail)
    assert MARK in card(folder)
