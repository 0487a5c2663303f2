from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from scripts import gpu_run
from scripts.gpu_run import Build, build_for, run_all, stages
from scripts.gpu_shapes import FULL, TINY
from scripts.gpu_stages import Stage

ORDER = ["build", "compare", "kernels", "layers", "float16", "matmulnbits", "memcheck", "racecheck"]


def test_correctness_comes_before_times_and_these_before_the_tools() -> None:
    build = Build(Path("build/simt"), "compare_cuda_simt")
    assert [one.name for one in stages(build, TINY, rehearses=True)] == [*ORDER, "profile"]


def test_a_gpu_is_built_for_by_its_own_architecture_alone() -> None:
    build = build_for(90, Path("build/gpu"))
    first = next(iter(stages(build, FULL, rehearses=False)))
    assert first.name == "configure"
    assert "-DRESQ_CUDA_ARCH=90" in first.command


def test_on_a_gpu_all_cases_are_compared() -> None:
    found = {one.name: one for one in stages(build_for(90, Path("out")), FULL, rehearses=False)}
    assert found["compare"].command[1:] == ()
    assert "--rehearse" not in found["float16"].command


def test_a_stage_that_fails_stops_neither_the_next_nor_the_report(tmp_path: Path) -> None:
    def stage(name: str, code: str) -> Stage:
        return Stage(name, (sys.executable, "-c", code), 60)

    every = iter([stage("build", "raise SystemExit(3)"), stage("later", "print('ran')")])
    outcomes = run_all(every, TINY, tmp_path)
    assert {name: one.state for name, one in outcomes.items()} == {
        "build": "failed",
        "later": "passed",
    }
    record = json.loads((tmp_path / "report.json").read_text())
    assert [one["name"] for one in record["stages"]] == ["build", "later"]


def test_without_a_gpu_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_run, "capability", lambda: None)
    monkeypatch.setattr(sys, "argv", ["gpu_run"])
    with pytest.raises(SystemExit) as ended:
        gpu_run.main()
    assert ended.value.code == (
        "no NVIDIA GPU or driver here; `make gpu-rehearsal` runs the same on this CPU"
    )
