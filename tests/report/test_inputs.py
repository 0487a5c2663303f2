from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from resq_onnx.errors import ResqError
from resq_onnx.evaluation.machine import Gpu
from resq_onnx.graph.inspection import inspect_model
from resq_onnx.report.inputs import read_benchmark, read_evaluation, read_summary
from tests.report.cases import FLOAT, QUANTISED, write_benchmark, write_evaluation, write_export


def test_what_evaluate_printed_is_read_back(tmp_path: Path) -> None:
    found = read_evaluation(write_evaluation(tmp_path / "a.json"))
    assert (found.text, found.window, found.way) == ("held-out.txt", 512, "one pass")
    assert found.reference == "float.onnx"
    first, second = found.models
    assert (first.path, first.perplexity, first.tokens) == ("float.onnx", 20.125, 10220)
    assert (second.kl_divergence, second.top1_agreement, second.ratio) == (0.2718, 0.775, 1.267)
    assert second.layer_sqnr_db == (40.0, 20.0, 15.0, 12.0)
    assert first.layer_sqnr_db == ()  # infinite: there is no noise


def test_without_a_reference_perplexities_are_compared_with_the_first(tmp_path: Path) -> None:
    found = read_evaluation(write_evaluation(tmp_path / "a.json", reference=False))
    assert found.reference is None
    assert [model.ratio for model in found.models] == [
        1.0, QUANTISED.perplexity / FLOAT.perplexity
    ]  # fmt: skip
    assert {model.kl_divergence for model in found.models} == {None}


def test_a_perplexity_without_bounds_is_none(tmp_path: Path) -> None:
    path = write_evaluation(tmp_path / "a.json", reference=False)
    content = json.loads(path.read_text())
    content["models"]["four <bits>.onnx"]["perplexity"] = None
    path.write_text(json.dumps(content))
    last = read_evaluation(path).models[-1]
    assert (last.perplexity, last.ratio) == (None, None)


@pytest.mark.parametrize("threads", [None, 1])
def test_what_bench_printed_is_read_back(tmp_path: Path, threads: int | None) -> None:
    found = read_benchmark(write_benchmark(tmp_path / "a.json", threads))
    assert (found.prompt_tokens, found.new_tokens, found.threads) == (512, 128, threads)
    assert (found.machine, found.kernels) == ("A <fast> CPU, 2 cores", "avx2")
    second = found.models[1]
    assert (second.path, second.prefill, second.prefill_ratio) == ("float.onnx", 617.0, 0.5)
    assert (second.decode, second.decode_ratio) == (30.1, 0.2)
    assert (second.peak_bytes, second.load_seconds) == (813_000_000, 1.07)


def test_a_benchmark_on_a_gpu_is_that_of_the_gpu(tmp_path: Path) -> None:
    gpu = Gpu("A <fast> GPU", "580.65", "81559 MiB")
    found = read_benchmark(write_benchmark(tmp_path / "a.json", gpu=gpu))
    assert found.machine == "A <fast> GPU; A <fast> CPU, 2 cores"
    assert found.kernels == "for CUDA"


OTHERS: dict[str, Any] = {"empty": {}, "list": {"models": []}, "no models": {"models": {}}}


@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_a_file_of_another_command_is_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ResqError, match=r"a\.json: not what `resq-onnx evaluate --json` writes"):
        read_evaluation(path)
    with pytest.raises(ResqError, match=r"a\.json: not what `resq-onnx bench --json` writes"):
        read_benchmark(path)


def test_each_reader_refuses_the_others_file(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match="evaluate --json"):
        read_evaluation(write_benchmark(tmp_path / "a.json"))
    with pytest.raises(ResqError, match="bench --json"):
        read_benchmark(write_evaluation(tmp_path / "b.json"))


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot be read"), ("{", "not JSON"), ("[1]", "must hold")],
)
def test_a_file_that_is_no_json_is_refused(tmp_path: Path, content: str | None, words: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ResqError, match=rf"a\.json: .*{words}"):
        read_evaluation(path)


def test_resq_json_is_read_where_it_is_of_this_model(tmp_path: Path) -> None:
    inspection = inspect_model(write_export(tmp_path))
    assert read_summary(inspection)["quality"]["tokens"] == 512
    path = tmp_path / "resq.json"
    said = json.loads(path.read_text())
    path.write_text(json.dumps(said | {"bytes": said["bytes"] | {"graph": 1}}))
    assert read_summary(inspection) == {}
    path.unlink()
    assert read_summary(inspection) == {}


@pytest.mark.parametrize("content", ["{}", '{"bytes": 3}', "no"])
def test_a_damaged_resq_json_is_refused(tmp_path: Path, content: str) -> None:
    inspection = inspect_model(write_export(tmp_path))
    (tmp_path / "resq.json").write_text(content)
    with pytest.raises(ResqError, match=r"resq\.json: "):
        read_summary(inspection)
