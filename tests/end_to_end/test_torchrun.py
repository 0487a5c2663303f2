"""Two processes export one model: each its share of the text and of the layers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from resq_onnx.checkpoint.source import open_model
from resq_onnx.files.work_folder import usual_folder
from resq_onnx.projections import compute_projections
from resq_onnx.projections.file import load_calibration
from resq_onnx.recipe import Recipe
from resq_onnx.runtime import Decoder, create_session
from tests.command_line import QUICK as SHORT
from tests.command_line import run_successfully
from tests.tiny_models import write_model
from tests.usual_tuning import tuning_by_default

pytestmark = pytest.mark.slow

QUICK = (*SHORT, "--calibration", "auto")
"""A text of which the model writes a part: the first process does, for all."""

PARTING = 0.25
"""Relative difference of the divergence from float: bases rotate as freely as signs do where sums
differ in the last bits, so these are two draws of the same rounding noise."""

ALIKE: Final = 0.75
"""Least correlation of the logits: the first process fits the rotations to its own share of the
text, so the two models round in different bases. Random weights leave nothing else in common."""


def in_two_processes(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a command of resq-onnx by torchrun."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "resq_onnx", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.parametrize(
    ("options", "steps"),
    [(("--tune", 0), 0), ((), 16), (("--tuning-steps", 33), 33)],
    ids=["plain", "tuned", "tuned with rounding errors"],
)
def test_two_processes_write_a_model_as_good_as_that_of_one(
    tmp_path: Path, options: tuple[object, ...], steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning_by_default(monkeypatch)  # as in the processes
    write_model(tmp_path / "model", "llama", tied=True, num_hidden_layers=3)
    outs = [tmp_path / name / "model.onnx" for name in ("one", "two")]
    run_successfully("export", tmp_path / "model", outs[0], *QUICK, *options)
    done = in_two_processes("export", tmp_path / "model", outs[1], *QUICK, *options)
    assert done.stdout.count("Wrote") == 1
    assert not usual_folder(outs[1]).exists()
    said = [json.loads((out.parent / "resq.json").read_text()) for out in outs]
    assert [one["recipe"]["tuning_steps"] for one in said] == 2 * [steps]
    found, expected = (one["quality"]["kl_divergence"] for one in said)
    assert found == pytest.approx(expected, rel=PARTING)
    ids = np.random.default_rng(0).integers(3, 200, (1, 9))
    logits = [Decoder(create_session(out)).run(ids)[0] for out in outs]
    assert np.corrcoef(logits[0].ravel(), logits[1].ravel())[0, 1] > ALIKE


AUTO_TRAINED = ("--training-steps", 1, "--calibration", "auto")
"""On a text of which the first process writes a part."""


@pytest.mark.parametrize("options", [(), AUTO_TRAINED], ids=["fitted", "trained"])
def test_two_processes_calibrate(tmp_path: Path, options: tuple[object, ...]) -> None:
    """The first one fits and trains the rotations, and the other waits for it."""
    write_model(tmp_path / "model", "llama", tied=True)
    file = tmp_path / "projections.safetensors"
    in_two_processes("calibrate", tmp_path / "model", file, *SHORT, *options)
    found = load_calibration(file)
    hidden, low = found.projections.hidden, found.projections.hidden_split.low
    np.testing.assert_allclose(hidden.T @ hidden, np.eye(len(hidden)), atol=1e-12)
    # The rotations are fitted: other than random ones, of the same subspace.
    recipe = Recipe(samples=4, sequence_length=64, rotations="random")
    with open_model(tmp_path / "model") as source:
        random = compute_projections(recipe, source.layout, None, found.sums).hidden
    assert np.abs(hidden - random).max() > 0.01
    spans = [basis[:, :low] @ basis[:, :low].T for basis in (hidden, random)]
    np.testing.assert_allclose(spans[0], spans[1], atol=1e-6)
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".work")] == []
