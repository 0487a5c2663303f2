from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resq_onnx.graph.inspection import inspect_model
from resq_onnx.recipe import Recipe
from resq_onnx.report.figures import (
    headlines,
    megabytes,
    method_in_words,
    share_in_words,
    stored_kinds,
)
from tests.report.cases import (
    HEAD_DIM,
    HIGH,
    KV_HEADS,
    LAYERS,
    LOW,
    MEASURED,
    RECORD,
    ROWS,
    write_export,
)
from tests.runtime import toy


def test_headlines_are_size_bits_cache_and_perplexity(tmp_path: Path) -> None:
    path = write_export(tmp_path)
    size = path.stat().st_size + path.with_name("model.onnx.data").stat().st_size
    found = headlines(inspect_model(path), {"bytes": {"source_float32": 10 * size}, **MEASURED})
    assert [(one.title, one.value, one.unit) for one in found] == [
        ("Size", f"{size / 1e6:.1f}", "MB"),
        ("Weights", "4.50", "bits"),
        ("Cache", str(2 * LAYERS * KV_HEADS * RECORD), "B per token"),
        ("Perplexity", "1.234", "× float"),
    ]
    assert found[0].note.startswith("10.00 times less than in float32")
    float16 = 2 * LAYERS * KV_HEADS * HEAD_DIM * 2
    assert found[2].note == f"{2 * HEAD_DIM / RECORD:.2f} times less than in float16 ({float16} B)"
    assert found[3].note == "KL 0.271 nats, top-1 81.2%, on 512 tokens"


def test_what_is_not_known_is_no_headline(tmp_path: Path) -> None:
    found = headlines(inspect_model(toy.save_toy(tmp_path / "a.onnx")), {})
    assert [one.title for one in found] == ["Size", "Cache"]
    assert {one.note for one in found} == {""}


def test_bytes_are_told_apart_by_bits(tmp_path: Path) -> None:
    matrix, rest = stored_kinds(inspect_model(write_export(tmp_path)))
    assert (matrix.name, matrix.count) == ("mlp.down_proj", LAYERS)
    assert matrix.columns == f"{LOW} in 4 bits + {HIGH} in 8 bits"
    assert matrix.low_bytes == LAYERS * ROWS * LOW // 2
    assert matrix.high_bytes == LAYERS * ROWS * HIGH
    assert matrix.float_bytes == LAYERS * ROWS * 2 * 4
    assert (rest.name, rest.count, rest.bytes) == ("everything else", 1, 64)


def test_the_bytes_of_a_float_model_are_all_there(tmp_path: Path) -> None:
    inspection = inspect_model(toy.save_toy(tmp_path / "a.onnx"))
    kinds = stored_kinds(inspection)
    assert sum(kind.bytes for kind in kinds) == sum(group.bytes for group in inspection.groups)
    assert kinds[-1].name == "everything else"
    assert {kind.low_bytes + kind.high_bytes for kind in kinds} == {0}


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        (Recipe(), "ResQ: principal components, 4 and 8 bits"),
        (Recipe(low_bits=8), "ResQ: principal components, 8 bits"),
        (Recipe(high_fraction=0.0, down_high=0.0), "ResQ: principal components, 4 bits"),
        (Recipe(method="quarot"), "QuaRot: random Hadamard rotations, 4 bits"),
        (Recipe(cache="float"), "ResQ: principal components, 4 and 8 bits, cache in float"),
        (
            Recipe(activations="float", cache="float"),
            "ResQ: principal components, 4 and 8 bits, activations and cache in float",
        ),
        (Recipe(method="none"), "float, not quantised"),
    ],
)
def test_a_method_is_put_in_words(recipe: Recipe, words: str) -> None:
    assert method_in_words(recipe.to_json()) == words


@pytest.mark.parametrize(
    ("recipe", "words"),
    [(None, ""), ({"method": "{new}", "low_bits": 4, "high_bits": 8}, "{new}, 4 bits")],
)
def test_an_unknown_method_is_named(recipe: dict[str, Any] | None, words: str) -> None:
    assert method_in_words(recipe) == words


def test_a_share_has_a_range_where_curves_differ() -> None:
    assert share_in_words(None) == ""
    assert share_in_words({"minimum": 0.771, "median": 0.771, "maximum": 0.771}) == "77%"
    words = share_in_words({"minimum": 0.24, "median": 0.436, "maximum": 1.0})
    assert words == "44% (median; 24% to 100%)"


def test_sizes_have_a_unit_that_fits() -> None:
    assert [megabytes(count) for count in (0.8e6, 119.6e6, 1.25e9)] == [
        "0.8 MB", "119.6 MB", "1.25 GB"
    ]  # fmt: skip
