"""Several processes measure what one does."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from resq_onnx.calibration.distributed import Share, is_main_process, share_of_this_process
from resq_onnx.calibration.layer_pass import LayerPass, Texts
from resq_onnx.calibration.layered import LayeredModel
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.files.work_folder import WorkFolder
from tests.calibration import tiny
from tests.tiny_models import write_model

SUM_TOLERANCE: Final = 1e-6
"""Relative to the largest entry: the same float32 activations, in other batches."""

ROOT: Final = Path(__file__).parents[2]

SAMPLES: Final = (5, 1)
"""Shares that are uneven, and a process without work."""

LATENESS: Final = 2.0
"""Seconds; a process group made anew for each round failed every time with this."""

WORKER: Final = f"""
import sys
import time
from pathlib import Path
import numpy as np
from resq_onnx.calibration.distributed import share_of_this_process
from tests.calibration.test_distributed import run

share = share_of_this_process()
for samples in {SAMPLES}:
    # One process comes late: the other must not go on with addresses of an earlier round.
    time.sleep({LATENESS} * (1 - share.rank))
    sums = run(Path(sys.argv[1]), samples, share)
    np.savez(f"{{sys.argv[1]}}/{{samples}}_{{share.rank}}.npz", **sums)
"""


def run(folder: Path, samples: int, share: Share) -> dict[str, Any]:
    """The sums of a pass of the model in a folder, as this process has them."""
    source, work = ModelSource(folder / "model", "tiny"), folder / f"work-{samples}-{share.size}"
    work.mkdir(exist_ok=True)
    tokens, none = tiny.sequences(samples, 6), np.empty((0, 0), np.int64)
    one = LayerPass(source.layout, WorkFolder(work), Texts(tokens, none, none), share)
    one.run(LayeredModel(source), lambda done, total: None)
    return dataclasses.asdict(one.sums() or pytest.fail("no sums"))


def test_shares_are_disjoint_and_together_everything() -> None:
    sequences = tiny.sequences(7, 3)
    shares = [Share(rank, 3).of(sequences) for rank in range(3)]
    assert sorted(map(len, shares)) == [2, 2, 3]
    np.testing.assert_array_equal(np.sort(np.concatenate(shares), 0), np.sort(sequences, 0))


def test_without_torchrun_there_is_one_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert share_of_this_process() == Share(0, 1)
    assert is_main_process()


def test_torchrun_says_which_share_this_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert share_of_this_process() == Share(3, 4)
    assert not is_main_process()


def test_two_processes_get_the_sums_of_one_as_often_as_they_are_asked(tmp_path: Path) -> None:
    write_model(tmp_path / "model", "llama", tied=True)
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", str(tmp_path / "worker.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

    for samples in SAMPLES:
        expected = run(tmp_path, samples, Share(0, 1))
        for rank in range(2):
            with np.load(tmp_path / f"{samples}_{rank}.npz") as found:
                assert found["tokens"] == expected.pop("tokens", 6 * samples)
                for name in ("hidden", "value", "key", "down"):
                    right = expected[name]
                    difference = np.abs(found[name] - right).max() / np.abs(right).max()
                    assert difference < SUM_TOLERANCE, (samples, rank, name, difference)
