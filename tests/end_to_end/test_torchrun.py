"""Two processes export one model: each its share of the text and of the layers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from resq_onnx.files.work_folder import usual_folder
from resq_onnx.runtime import Decoder, create_session
from tests.command_line import QUICK as SHORT
from tests.command_line import run_successfully
from tests.tiny_models import write_model

pytestmark = pytest.mark.slow

QUICK = (*SHORT, "--calibration", "auto")
"""A text of which the model writes a part: the first process does, for all."""

PARTING = 0.25
"""Relative difference of the divergence from float: bases rotate as freely as signs do where sums
differ in the last bits, so these are two draws of the same rounding noise."""


def test_two_processes_write_a_model_as_good_as_that_of_one(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "llama", tied=True, num_hidden_layers=3)
    outs = [tmp_path / name / "model.onnx" for name in ("one", "two")]
    run_successfully("export", tmp_path / "model", outs[0], *QUICK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command += ["-m", "resq_onnx", "export", *map(str, (tmp_path / "model", outs[1], *QUICK))]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Wrote") == 1
    assert not usual_folder(outs[1]).exists()
    said = [json.loads((out.parent / "resq.json").read_text()) for out in outs]
    found, expected = (one["quality"]["kl_divergence"] for one in said)
    assert found == pytest.approx(expected, rel=PARTING)
    ids = np.random.default_rng(0).integers(3, 200, (1, 9))
    logits = [Decoder(create_session(out)).run(ids)[0] for out in outs]
    assert np.corrcoef(logits[0].ravel(), logits[1].ravel())[0, 1] > 0.9
