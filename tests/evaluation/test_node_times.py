"""Times of nodes: what a profile says, run by run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.evaluation import node_times as module
from resq_onnx.evaluation.node_times import NodeTime, node_times
from resq_onnx.evaluation.workload import Workload
from tests.runtime import toy

SMALL = Workload(prompt_tokens=6, new_tokens=4, threads=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return toy.save_toy(tmp_path / "toy.onnx")


def event(name: str, start: int, microseconds: int, **more: Any) -> dict[str, Any]:
    return {"name": name, "ts": start, "dur": microseconds, **more}


def node(name: str, operator: str, start: int, microseconds: int) -> dict[str, Any]:
    args = {"op_name": operator}
    return event(f"{name}_kernel_time", start, microseconds, cat="Node", args=args)


def test_nodes_of_all_layers_are_one_kind_and_runs_are_told_apart() -> None:
    loading = event("model_loading_uri", 0, 5)
    before = node("warm.up", "Cast", 5, 1)  # no run: of the session's own beginning
    runs = [event("model_run", 10 + 100 * run, 50 + run) for run in range(6)]
    nodes = [
        node(f"model.layers.{layer}.mlp.down_proj", "MatMul", 11 + 100 * run + layer, 3 + run)
        for run in range(6)
        for layer in range(2)
    ]
    inlined = [node("_inlfunc_Gather_7", "Gather", 20 + 100 * run, 1) for run in range(6)]
    found = module._runs([loading, before, *nodes, *inlined, *runs[::-1]], Path("m.onnx"))
    # Two turns of a prompt in one slice and two tokens; the first is not counted.
    times = module._summary(Path("m.onnx"), found, 1, 2, 1)
    down, gather = times.kinds
    assert (down.operator, down.name, down.nodes) == ("MatMul", "model.layers.*.mlp.down_proj", 2)
    assert (down.prefill, down.decode) == pytest.approx((12e-6, 15e-6))
    assert gather == NodeTime("Gather", "", 1, 1e-6, 1e-6)
    assert (times.prefill, times.decode) == pytest.approx((53e-6, 54.5e-6))


def test_a_prompt_of_several_slices_is_their_sum() -> None:
    runs = [module._Run(1.0 + n, {("A", "a"): 0.5 * n}, {("A", "a"): 1}) for n in range(6)]
    times = module._summary(Path("m.onnx"), runs, 2, 1, 1)
    assert times.prefill == 4.0 + 5.0
    assert times.kinds == (NodeTime("A", "a", 1, 0.5 * (3 + 4), 2.5),)


def test_a_model_is_profiled(path: Path) -> None:
    times = node_times(path, SMALL, 2)
    assert times.path == path
    assert {kind.operator for kind in times.kinds} >= {"CumSum", "Concat"}
    assert 0 < sum(kind.decode for kind in times.kinds) < times.decode
    assert 0 < sum(kind.prefill for kind in times.kinds) < times.prefill
    assert list(path.parent.iterdir()) == [path]


def test_runs_that_the_profiler_has_lost_are_missed(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = module._runs
    monkeypatch.setattr(module, "_runs", lambda *asked: runs(*asked)[:-1])
    with pytest.raises(ResqError, match=r"has recorded 9 of 10 runs; use fewer --new-tokens"):
        node_times(path, SMALL, 1)


def test_a_gpu_is_not_profiled(path: Path) -> None:
    with pytest.raises(ResqError, match="use --per-node without --provider"):
        node_times(path, Workload(provider="cuda"), 1)
