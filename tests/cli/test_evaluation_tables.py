from __future__ import annotations

import io
import json
import math
from pathlib import Path

from rich.console import Console

from resq_onnx.cli.evaluation_tables import EvaluationRequest, print_evaluations
from resq_onnx.evaluation import Distance, Evaluation, PerplexityResult, Windowing
from resq_onnx.evaluation.side_by_side import FileEvaluation

FLOAT = PerplexityResult(perplexity=20.0, nll=3.0, tokens=1022, windows=2)
QUANTISED = PerplexityResult(perplexity=25.0, nll=3.2, tokens=1022, windows=2)

ALONE = [
    FileEvaluation(Path("float.onnx"), 538_400_000, Evaluation(FLOAT)),
    FileEvaluation(Path("quantised[4].onnx"), 119_600_000, Evaluation(QUANTISED)),
]

AGAINST = [
    FileEvaluation(
        Path("float.onnx"),
        538_400_000,
        Evaluation(FLOAT, Distance(0.0, 0.0, 1.0, 1.0, 0.0), (math.inf, math.inf)),
    ),
    FileEvaluation(
        Path("quantised[4].onnx"),
        119_600_000,
        Evaluation(QUANTISED, Distance(0.1, 0.2, 0.775, 1.25, 0.0125), (38.7, 12.34)),
    ),
]

ASKED = EvaluationRequest(Path("folder/held-out.txt"), None, Windowing(512), token_by_token=False)
COMPARED = EvaluationRequest(
    Path("folder/held-out.txt"), Path("a/float.onnx"), Windowing(512, 128), token_by_token=True
)


def printed(found: list[FileEvaluation], asked: EvaluationRequest, as_json: bool = False) -> str:
    stream = io.StringIO()
    print_evaluations(Console(file=stream, width=120), found, asked, as_json)
    return stream.getvalue()


def row_of(name: str, text: str) -> list[str]:
    (row,) = (line for line in text.splitlines() if line.startswith(f"│ {name} "))
    return [cell.strip() for cell in row.split("│")[1:-1]]


def test_without_a_reference_perplexities_are_compared_with_the_first() -> None:
    text = printed(ALONE, ASKED)
    assert text.startswith("held-out.txt: windows of 512 tokens, stride 512, one pass")
    assert row_of("quantised[4].onnx", text) == [
        "quantised[4].onnx", "25.0000", "1.2500", "1022", "119.6"
    ]  # fmt: skip
    assert "reference" not in text
    assert "dB" not in text


def test_with_a_reference_the_distance_from_it_is_told() -> None:
    text = printed(AGAINST, COMPARED)
    assert "windows of 512 tokens, stride 128, token by token" in text
    assert "against a/float.onnx" in text
    assert row_of("quantised[4].onnx", text) == [
        "quantised[4].onnx", "25.0000", "1.2500 ± 0.0125", "0.2000", "77.5%", "1022", "119.6"
    ]  # fmt: skip


def test_the_noise_of_layers_is_a_table_with_a_row_for_each() -> None:
    text = printed(AGAINST, COMPARED)
    assert row_of("embedding", text) == ["embedding", "–", "38.7"]
    assert row_of("layer 0", text) == ["layer 0", "–", "12.3"]


def test_an_error_that_one_token_cannot_have_is_a_dash() -> None:
    one = FileEvaluation(Path("a"), 0, Evaluation(FLOAT, Distance(0.0, 0.0, 1.0, 1.0, None)))
    assert row_of("a", printed([one], COMPARED))[2] == "1.0000 ± –"


def test_evaluations_as_json_can_be_read_back() -> None:
    found = json.loads(printed(ALONE[:1], ASKED, as_json=True))
    assert found == {
        "text": "folder/held-out.txt",
        "window": 512,
        "stride": 512,
        "way": "one pass",
        "reference": None,
        "models": {
            "float.onnx": {
                "perplexity": 20.0, "nll": 3.0, "tokens": 1022, "windows": 2, "bytes": 538_400_000
            }
        },
    }  # fmt: skip


def test_a_distance_as_json_has_no_infinity_which_json_does_not_know() -> None:
    found = json.loads(printed(AGAINST, COMPARED, as_json=True), parse_constant=lambda _: 1 / 0)
    assert (found["stride"], found["way"]) == (128, "token by token")
    assert found["reference"] == "a/float.onnx"
    first, second = found["models"].values()
    assert first["layer_sqnr_db"] == [None, None]
    assert {
        "kl_divergence": 0.2,
        "top1_agreement": 0.775,
        "perplexity_ratio": 1.25,
        "standard_error": 0.0125,
        "layer_sqnr_db": [38.7, 12.34],
        "bytes": 119_600_000,
    }.items() <= second.items()


def test_a_perplexity_too_large_for_a_number_is_nothing_in_json() -> None:
    hopeless = PerplexityResult(math.inf, 1e4, 3, 1)
    text = printed([FileEvaluation(Path("a"), 0, Evaluation(hopeless))], ASKED, as_json=True)
    assert json.loads(text, parse_constant=lambda _: 1 / 0)["models"]["a"]["perplexity"] is None
