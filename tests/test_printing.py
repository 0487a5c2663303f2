from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from resq_onnx.evaluation.parity import Agreement
from resq_onnx.evaluation.perplexity import PerplexityResult
from resq_onnx.inspection import Inspection, QuantisedKind, TensorGroup
from resq_onnx.printing import print_inspection, print_perplexities, print_summary
from resq_onnx.summary import Summary

PATH = Path("/a/folder whose name is long/and has [brackets]") / ("deep/" * 20) / "model.onnx"
"""Longer than a line of a terminal, and markup if one is not careful."""

RESULTS = {
    "float.onnx": PerplexityResult(perplexity=20.0, nll=3.0, tokens=1022, windows=2),
    "quantised.onnx": PerplexityResult(perplexity=25.0, nll=3.2, tokens=1022, windows=2),
}

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


def printed_summary() -> list[str]:
    out, stream = console()
    exact = Agreement(0.0, 0.0, 1.0, 1.0)
    near = Agreement(0.1, 0.01, 0.98, 1.0062)
    print_summary(out, Summary(PATH, 90_000_000, 540_000_000, {"float": exact, "decode": near}))
    return stream.getvalue().splitlines()


def test_the_command_that_runs_an_export_is_printed_on_one_line() -> None:
    assert printed_summary()[-1].endswith(f'resq-onnx generate {PATH} --prompt "Once upon a time"')


def test_a_summary_says_where_how_large_and_how_good() -> None:
    lines = printed_summary()
    assert f"{PATH} + model.onnx.data" in lines[0]
    assert "90.0 MB, 6.0 times less than in float32" in lines[1]
    assert "perplexity 1.0062 times that of one pass, top-1 agreement 98.0%" in lines[3]


def test_perplexities_are_compared_with_the_first() -> None:
    out, stream = console()
    print_perplexities(out, RESULTS, 512, token_by_token=False, as_json=False)
    text = stream.getvalue()
    assert "windows of 512 tokens, one pass" in text
    (row,) = (line for line in text.splitlines() if "quantised.onnx" in line)
    assert [cell.strip() for cell in row.split("│")[1:-1]] == [
        "quantised.onnx", "25.0000", "1.2500", "1022"
    ]  # fmt: skip


def test_perplexities_as_json_can_be_read_back() -> None:
    out, stream = console()
    print_perplexities(out, {str(PATH): RESULTS["float.onnx"]}, 64, True, as_json=True)
    assert json.loads(stream.getvalue()) == {
        "window": 64,
        "way": "token by token",
        "models": {str(PATH): {"perplexity": 20.0, "nll": 3.0, "tokens": 1022, "windows": 2}},
    }


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
