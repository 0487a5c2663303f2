"""Benchmarks on the toy: who runs when, what is counted, and what a process of its own says."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from resq_onnx.errors import ResqError
from resq_onnx.evaluation import benchmark as module
from resq_onnx.evaluation import fresh_process
from resq_onnx.evaluation.benchmark import ModelSpeed, benchmark
from resq_onnx.evaluation.fresh_process import Footprint, measure_footprint
from resq_onnx.evaluation.machine import Gpu, describe_machine
from resq_onnx.evaluation.workload import Workload, open_decoder, run_once
from resq_onnx.resources import peak_bytes
from resq_onnx.runtime import BufferedDecoder
from tests.runtime import toy

SMALL = Workload(prompt_tokens=6, new_tokens=4, threads=1)

FOOTPRINT = Footprint(load_seconds=0.5, peak_bytes=1000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return toy.save_toy(tmp_path / "toy.onnx")


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same footprint for every model, at once."""
    monkeypatch.setattr(module, "measure_footprint", lambda _path, _workload: FOOTPRINT)
    monkeypatch.setattr(module, "PAUSE", 0.0)


@pytest.fixture
def ticking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second whenever it is looked at."""
    seconds = itertools.count()
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(seconds)))


class Recording:
    """A decoder that writes down what it is fed."""

    def __init__(self, decoder: BufferedDecoder) -> None:
        self.decoder = decoder
        self.fed: list[list[int]] = []
        self.reset = decoder.reset
        self.prefill_slice = decoder.prefill_slice

    def run(self, ids: NDArray[np.int64]) -> NDArray[Any]:
        self.fed.append(ids[0].tolist())
        return self.decoder.run(ids)


def test_a_run_reads_the_prompt_and_feeds_back_the_likeliest_tokens(path: Path) -> None:
    recording = Recording(open_decoder(path, SMALL))
    decoder, fed = cast(BufferedDecoder, recording), recording.fed
    prompt = np.array([[3, 1, 4, 1, 5, 9]], np.int64)
    timing = run_once(decoder, prompt, 4)
    text = prompt[0].tolist()
    for _ in range(4):
        text.append(int(toy.expected_tokens(np.array([text]))[0, -1]))
    assert fed == [prompt[0].tolist(), *([token] for token in text[6:])]
    assert timing.prefill > 0
    assert timing.decode > 0
    run_once(decoder, prompt, 4)
    assert fed[5:] == fed[:5]  # from an empty cache again


@pytest.mark.usefixtures("no_processes", "ticking")
def test_speed_is_tokens_over_seconds_and_the_median_is_that_of_the_turns(path: Path) -> None:
    (speed,) = benchmark([path], SMALL, repeat=3)
    assert speed == ModelSpeed(path, (6.0,) * 3, (4.0,) * 3, FOOTPRINT)
    uneven = dataclasses.replace(speed, prefill=(1.0, 9.0, 2.0), decode=(5.0, 3.0, 4.0))
    assert (uneven.median_prefill, uneven.median_decode) == (2.0, 4.0)


@pytest.mark.usefixtures("no_processes")
def test_models_run_in_turns_after_one_run_that_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [toy.save_toy(tmp_path / f"{name}.onnx") for name in "ab"]
    decoders: list[Any] = []
    order: list[tuple[int, int]] = []

    def opening(path: Path, asked: Workload) -> Any:
        decoders.append(open_decoder(path, asked))
        return decoders[-1]

    def running(decoder: Any, prompt: Any, new_tokens: int) -> Any:
        order.append((decoders.index(decoder), new_tokens))
        return run_once(decoder, prompt, new_tokens)

    monkeypatch.setattr(module, "open_decoder", opening)
    monkeypatch.setattr(module, "run_once", running)
    monkeypatch.setattr(module, "WARM_UP_TOKENS", 2)
    steps: list[tuple[int, int]] = []
    speeds = benchmark(paths, SMALL, 2, lambda done, all_: steps.append((done, all_)))
    assert order == [(0, 2), (1, 2), (0, 4), (1, 4), (0, 4), (1, 4)]
    assert [speed.path for speed in speeds] == paths
    assert steps == [(done, 8) for done in range(1, 9)]


def test_a_process_of_its_own_measures_memory_and_load_time(path: Path) -> None:
    found = measure_footprint(path, SMALL)
    assert 0 < found.load_seconds < 30
    assert 10e6 < found.peak_bytes < 1e9


def test_what_fails_in_the_process_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match=r"none\.onnx: measuring .* failed: .*no such file"):
        measure_footprint(tmp_path / "none.onnx", SMALL)


def test_the_process_imports_none_of_what_makes_models(path: Path) -> None:
    code = (
        f"import sys\nfrom {fresh_process.__name__} import main\nmain()\n"
        "print({'torch', 'transformers', 'onnxscript', 'onnx', 'onnx_ir'} & sys.modules.keys())"
    )
    asked = json.dumps({"path": str(path), **dataclasses.asdict(SMALL)})
    done = subprocess.run([sys.executable, "-c", code, asked], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "set()"


def test_the_peak_is_that_of_memory_that_was_given_back() -> None:
    before = peak_bytes()
    size = before + 100_000_000  # more than there ever was, touched page by page
    np.ones(size, np.uint8).sum()
    after = peak_bytes()
    assert after >= size
    assert peak_bytes() >= after


def test_a_cache_whose_width_only_the_builders_config_knows_is_found(tmp_path: Path) -> None:
    path = toy.save_toy(tmp_path / "a.onnx", record="width")
    with pytest.raises(ResqError, match="a cache must have four dimensions"):
        open_decoder(path, SMALL)
    config = {"model": {"decoder": {"head_size": toy.RECORD}}}
    (tmp_path / "genai_config.json").write_text(json.dumps(config))
    decoder = open_decoder(path, SMALL)
    found = decoder.run(np.array([[3, 1, 4]]))[0].argmax()
    assert found == toy.expected_tokens(np.array([[3, 1, 4]]))[0, -1]


@pytest.mark.parametrize("field", ["prompt_tokens", "new_tokens"])
def test_a_workload_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ResqError, match=f"{field} is 0; it must be at least 1"):
        Workload(**cast(Any, {field: 0}))


def test_no_turns_are_refused(path: Path) -> None:
    with pytest.raises(ResqError, match="repeat is 0"):
        benchmark([path], SMALL, repeat=0)


def test_a_machine_says_what_it_is() -> None:
    machine = describe_machine()
    assert machine.cpu
    assert machine.cores >= 1
    assert list(machine.versions) == ["resq-onnx", "onnxruntime", "numpy", "python"]
    assert "not installed" not in machine.versions.values()
    assert machine.gpu is None


GPU = "echo 'A GPU of some kind, 580.65, 81559 MiB'"


@pytest.mark.parametrize(
    ("script", "visible", "told"),
    [
        (f'test "$4" = 0 && {GPU}', None, Gpu("A GPU of some kind", "580.65", "81559 MiB")),
        (f'test "$4" = 3 && {GPU}', "3,1", Gpu("A GPU of some kind", "580.65", "81559 MiB")),
        ("exit 9", None, None),
        ("echo no devices were found", None, None),
    ],
)
def test_a_machine_says_which_gpu_a_session_runs_on(
    script: str,
    visible: str | None,
    told: Gpu | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0")
    machine = describe_machine("cuda")
    assert machine.gpu == told
    assert "onnxruntime-gpu" in machine.versions
    assert machine.versions["CUDA"] == "13.0"


def test_on_a_gpu_either_length_of_a_slice_is_warmed_up(path: Path) -> None:
    recording = Recording(open_decoder(path, SMALL))
    recording.prefill_slice = 4
    asked = dataclasses.replace(SMALL, provider="cuda")
    module._warm_up(cast(BufferedDecoder, recording), np.array([[3, 1, 4, 1, 5, 9]]), asked)
    assert [len(ids) for ids in recording.fed if len(ids) > 1] == [4, 2]
