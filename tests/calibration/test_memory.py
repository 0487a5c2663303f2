"""What an export takes is estimated, and refused at the beginning where that is too much."""

import shutil
from pathlib import Path

import pytest
import torch

from resq_onnx.calibration import memory
from resq_onnx.calibration.layer_pass import BATCH
from resq_onnx.calibration.memory import batch_within, check_room, fitting_type, steps_of
from resq_onnx.calibration.writing import CannotWriteError
from resq_onnx.checkpoint.source import ModelSource
from resq_onnx.errors import ResqError
from resq_onnx.families import layout_of
from resq_onnx.resources import Resources, bytes_of
from scripts.random_model import SHAPES
from tests.tiny_models import SIZES, write_model

LLAMA_8B = layout_of(SHAPES["Llama-3-8B"], "8B")


def test_without_a_limit_the_usual_batch_is_run() -> None:
    assert batch_within(LLAMA_8B, 512, None) == BATCH


def test_a_smaller_batch_serves_a_smaller_memory() -> None:
    most = max(steps_of(LLAMA_8B, 4096, 3).values())
    assert batch_within(LLAMA_8B, 4096, most) == 3
    assert batch_within(LLAMA_8B, 4096, most - 1) == 2


def test_too_little_is_refused_with_what_would_do() -> None:
    with pytest.raises(
        ResqError, match=r"layer of this model takes about .* use --max-memory"
    ) as e:
        batch_within(LLAMA_8B, 512, 1_000_000_000)
    enough = bytes_of(str(e.value).split("--max-memory ")[2].split(" ")[0])
    assert batch_within(LLAMA_8B, 512, enough) >= 1


def test_a_disk_that_is_too_small_is_refused_with_what_would_do(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    check_room(tmp_path, free // 2)
    with pytest.raises(ResqError, match=r"takes [\d.]+ GB of disk there, and .* use --work DIR"):
        check_room(tmp_path, 2 * free)


@pytest.mark.parametrize(
    ("text", "size"),
    [("8GB", 8e9), ("7.5 GiB", 7.5 * 2**30), ("512mb", 512e6), ("1000", 1000), ("1kib", 1024)],
)
def test_an_amount_of_memory_is_read(text: str, size: float) -> None:
    assert bytes_of(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "8 apples", "nan", "1e9", "8GB8"])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(ResqError, match="is no amount of memory"):
        bytes_of(text)


def test_resources_have_defaults() -> None:
    assert Resources() == Resources("auto", None, None, False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ModelSource:
    folder = tmp_path_factory.mktemp("memory") / "model"
    write_model(folder, "llama", tied=True)
    return ModelSource(folder, "tiny")


def test_a_model_that_does_not_fit_writes_nothing(source: ModelSource) -> None:
    with pytest.raises(CannotWriteError, match=r"the whole model takes .* GB, and 0\.0 may be"):
        fitting_type(source, (1, 64), "cpu", max_memory=1000)


def test_where_float32_does_not_fit_the_files_own_type_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_model(tmp_path / "model", "llama", tied=False, dtype=torch.bfloat16, vocab_size=2000)
    source = ModelSource(tmp_path / "model", "tiny")
    monkeypatch.setattr(memory, "resident_bytes", lambda: 0)
    whole = source.float32_bytes + 8 * 2 * SIZES["num_key_value_heads"] * SIZES["head_dim"]
    logits = 16 * 2000
    assert fitting_type(source, (1, 1), "cpu", whole + logits) == torch.float32
    assert fitting_type(source, (1, 1), "cpu", whole + logits - 1) == torch.bfloat16
    with pytest.raises(CannotWriteError):
        fitting_type(source, (1, 1), "cpu", whole // 2)


def test_half_of_the_free_memory_may_be_taken(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: source.float32_bytes)
    with pytest.raises(CannotWriteError):
        fitting_type(source, (1, 1), "cpu", None)
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    assert fitting_type(source, (1, 1), "cpu", None) == torch.float32
