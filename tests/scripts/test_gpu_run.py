from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import gpu_run
from scripts.gpu_run import Build, build_for, run_all, stages
from scripts.gpu_shapes import FULL, TINY
from scripts.gpu_stages import Stage

ROOT = Path(__file__).parents[2]

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


@pytest.mark.slow
def test_a_machine_needs_torch_and_numpy_and_nothing_else_of_ours() -> None:
    """As on one with a GPU and no network, where nothing can be installed."""
    record = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*record["dependencies"], *record["optional-dependencies"]["export"], "onnxruntime"]
    names = {one.split(">")[0].replace("-", "_") for one in needed} - {"numpy", "torch"}
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({sorted(names)}))\n"
        "import scripts.gpu_run, scripts.gpu_block, scripts.gpu_nbits"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_without_a_gpu_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_run, "capability", lambda: None)
    monkeypatch.setattr(sys, "argv", ["gpu_run"])
    with pytest.raises(SystemExit) as ended:
        gpu_run.main()
    assert ended.value.code == (
        "no NVIDIA GPU or driver here; `make gpu-rehearsal` runs the same on this CPU"
    )
