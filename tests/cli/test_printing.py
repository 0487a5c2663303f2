from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from resq_onnx.cli.printing import print_benchmark, print_inspection, print_summary
from resq_onnx.evaluation.against_float import Quality
from resq_onnx.evaluation.benchmark import ModelSpeed
from resq_onnx.evaluation.distance import Distance
from resq_onnx.evaluation.fresh_process import Footprint
from resq_onnx.evaluation.machine import Gpu, Machine
from resq_onnx.evaluation.workload import Workload
from resq_onnx.graph.inspection import Inspection, QuantisedKind, TensorGroup
from resq_onnx.report.summary import Summary

PATH = Path("/a/folder whose name is long/and has [brackets]") / ("deep/" * 20) / "model.onnx"
"""Longer than a line of a terminal, and markup if one is not careful."""

SPEEDS = [
    ModelSpeed(
        Path("a[b].onnx"), (100.0, 300.0, 200.0), (9.0, 11.0, 10.0), Footprint(0.25, 180_000_000)
    ),
    ModelSpeed(
        Path("float.onnx"), (50.0, 70.0, 60.0), (5.0, 3.0, 4.0), Footprint(1.5, 849_000_000)
    ),
]

MACHINE = Machine("A CPU [of one kind]", 2, ("AVX2",), "avx2", {"onnxruntime": "1.2.3"})

INSPECTION = Inspection(
    path=PATH,
    graph_bytes=1_000_000,
    data_bytes=2_500_000,
    operators={"ai.resq.MixedPrecisionMatMul": 9, "Gather": 1},
    matrices=[QuantisedKind("model.layers.*.mlp.down_proj", 2, {4: 168, 8: 24}, 1_500_000)],
    groups=[
        TensorGroup("model.layers.*.mlp.down_proj.weight_low", 2, "INT4", 1, 168, 1_500_000),
        TensorGroup("model.rotary_emb.cos", 1, "FLOAT", 1, 8, 700_000),
    ],
    layer_weight_bits=4.5,
    cache_bytes_per_token=60,
    cache_bytes_per_token_float16=256,
    recipe={"method": "resq", "calibration": "[a].txt"},
)


def console() -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, width=80), stream


def printed_summary(quality: Quality | None = None, dtype: str = "float32") -> list[str]:
    out, stream = console()
    exact = Distance(0.0, 0.0, 1.0, 1.0, 0.0)
    near = Distance(0.1, 0.01, 0.98, 1.0062, 0.001)
    parity = {"float": exact, "decode": near}
    print_summary(out, Summary(PATH, 90_000_000, 540_000_000, parity, quality, dtype))
    return stream.getvalue().splitlines()


def test_the_command_that_runs_an_export_is_printed_on_one_line() -> None:
    assert printed_summary()[-1].endswith(f'resq-onnx generate {PATH} --prompt "Once upon a time"')


def test_the_command_runs_the_functions_of_what_has_no_kernels() -> None:
    assert printed_summary(dtype="float16") == printed_summary()
    assert printed_summary(dtype="bfloat16")[-1] == f"{printed_summary()[-1]} --no-kernels"


def test_a_summary_says_where_how_large_and_how_good() -> None:
    lines = printed_summary()
    assert f"{PATH} + model.onnx.data" in lines[0]
    assert "90.0 MB, 6.0 times less than in float32" in lines[1]
    assert "perplexity 1.0062 times that of one pass, top-1 agreement 98.0%" in lines[3]


def test_a_summary_of_a_quantised_model_says_how_far_it_is_from_float() -> None:
    agreement = Distance(0.1, 0.2714, 0.781, 1.2234, 0.01)
    lines = printed_summary(Quality(agreement, 512, (20.0, 15.0)))
    assert lines[4] == (
        "Against float  KL 0.271 nats, top-1 78.1%, perplexity 1.223 times, on 512 tokens"
    )
    assert len(lines) == len(printed_summary()) + 1


def test_an_inspection_says_what_is_quantised_how() -> None:
    out, stream = console()
    print_inspection(out, INSPECTION, as_json=False)
    lines = stream.getvalue().splitlines()
    assert lines[:5] == [
        f"{PATH}: 3.5 MB",
        "recipe: method resq, calibration [a].txt",
        "layer weights: 4.500 bits on average, scales not counted",
        "cache: 60 bytes per token (float16: 256, 4.27 times)",
        "nodes: 9 ai.resq.MixedPrecisionMatMul, 1 Gather",
    ]
    (row,) = (line for line in lines if "down_proj" in line)
    assert "168 in 4 bits + 24 in 8 bits" in row
    (row,) = (line for line in lines if "everything else" in line)
    assert "0.7" in row


def test_an_inspection_as_json_can_be_read_back() -> None:
    out, stream = console()
    print_inspection(out, INSPECTION, as_json=True)
    found = json.loads(stream.getvalue())
    assert found["path"] == str(PATH)
    assert found["cache_bytes_per_token"] == 60
    assert found["matrices"][0]["columns"] == {"4": 168, "8": 24}
    assert found["recipe"] == INSPECTION.recipe


def test_a_benchmark_is_a_row_per_model_under_the_machine() -> None:
    out, text = console()
    print_benchmark(out, SPEEDS, Workload(512, 128, threads=2), MACHINE, as_json=False)
    machine, title, *rows = text.getvalue().splitlines()
    assert machine == "A CPU [of one kind], 2 cores (AVX2); kernels avx2; onnxruntime 1.2.3"
    assert title.strip() == (
        "512 prompt tokens, 128 new, 2 threads; tokens per second, median of 3"
    )
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows if "onnx" in row]
    assert cells == [
        ["a[b].onnx", "200.0", "1.00", "10.0", "1.00", "180", "0.25"],
        ["float.onnx", "60.0", "0.30", "4.0", "0.40", "849", "1.50"],
    ]


def test_a_benchmark_without_kernels_says_so() -> None:
    out, text = console()
    print_benchmark(out, SPEEDS, Workload(kernels=False), MACHINE, as_json=False)
    assert "; no kernels;" in text.getvalue()
    assert "a thread per core" in text.getvalue()


def test_a_benchmark_on_a_gpu_names_it_its_driver_and_the_versions() -> None:
    out, text = console()
    versions = {"onnxruntime-gpu": "1.2.3", "CUDA": "13.0"}
    machine = replace(MACHINE, versions=versions, gpu=Gpu("A GPU", "580.65", "81559 MiB"))
    print_benchmark(out, SPEEDS, Workload(provider="cuda"), machine, as_json=False)
    where, title, *rows = text.getvalue().splitlines()
    assert where == (
        "A GPU (81559 MiB), driver 580.65; A CPU [of one kind], 2 cores (AVX2); "
        "kernels for CUDA; onnxruntime-gpu 1.2.3, CUDA 13.0"
    )
    assert "128 new, on the GPU; tokens per second" in " ".join(title.split())
    assert "host" in " ".join(rows)


def test_a_benchmark_in_json_has_every_turn_and_the_machine() -> None:
    out, text = console()
    print_benchmark(out, SPEEDS, Workload(512, 128), MACHINE, as_json=True)
    found = json.loads(text.getvalue())
    assert found["machine"]["instruction_sets"] == ["AVX2"]
    assert found["workload"]["threads"] is None
    assert found["models"][1] == {
        "path": "float.onnx",
        "prefill_tokens_per_second": 60.0,
        "decode_tokens_per_second": 4.0,
        "prefill_ratio": 0.3,
        "decode_ratio": 0.4,
        "peak_memory_bytes": 849_000_000,
        "load_seconds": 1.5,
        "turns": {"prefill": [50.0, 70.0, 60.0], "decode": [5.0, 3.0, 4.0]},
    }
