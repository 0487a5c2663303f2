"""Several processes measure what one does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from resq_onnx.calibration.distributed import (
    Share,
    collect_shared_moments,
    is_main_process,
    share_of_this_process,
)
from resq_onnx.calibration.statistics import collect_moments
from resq_onnx.projections.moments import SITES
from tests.calibration import tiny

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
import numpy as np
from resq_onnx.calibration.distributed import collect_shared_moments, is_main_process
from resq_onnx.projections.moments import SITES
from tests.calibration import tiny

model = tiny.tiny_llama()
rank = 0 if is_main_process() else 1
for samples in {SAMPLES}:
    # One process comes late: the other must not go on with addresses of an earlier round.
    time.sleep({LATENESS} * (1 - rank))
    moments = collect_shared_moments(model, tiny.layout(model), tiny.sequences(samples, 6))
    arrays = {{site: getattr(moments, site) for site in SITES}}
    np.savez(f"{{sys.argv[1]}}/{{samples}}_{{rank}}.npz", tokens=moments.tokens, **arrays)
"""


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


def test_one_process_needs_no_process_group() -> None:
    model, tokens = tiny.tiny_llama(), tiny.sequences(3, 6)
    alone = collect_shared_moments(model, tiny.layout(model), tokens)
    expected = collect_moments(model, tiny.layout(model), tokens)
    np.testing.assert_array_equal(alone.down, expected.down)


def test_two_processes_get_the_moments_of_one_as_often_as_they_are_asked(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node=2", str(tmp_path / "worker.py"), str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

    model = tiny.tiny_llama()
    for samples in SAMPLES:
        expected = collect_moments(model, tiny.layout(model), tiny.sequences(samples, 6))
        for rank in range(2):
            with np.load(tmp_path / f"{samples}_{rank}.npz") as found:
                assert found["tokens"] == expected.tokens
                for site in SITES:
                    right = getattr(expected, site)
                    difference = np.abs(found[site] - right).max() / np.abs(right).max()
                    assert difference < SUM_TOLERANCE, (samples, rank, site, difference)
