"""`evaluate` as a user has it: original models and their exports, on tiny random models."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import torch

from resq_onnx.evaluation.perplexity import token_losses
from resq_onnx.runtime.tokenizer import Tokenizer
from tests.command_line import contents, error_line, run, run_process, run_successfully
from tests.runtime import toy
from tests.tiny_exports import TinyExports
from tests.tiny_models import SIZES, write_model, write_tokenizer

TEXT: Final = "A compound statement contains other statements; they affect their execution. " * 4

WINDOW: Final = 32

CUT: Final = ("--window", WINDOW, "--max-windows", 3, "--threads", 1)

LAYERS: Final = SIZES["num_hidden_layers"]

FLOAT_TOLERANCE: Final = 1e-4
"""Relative, of a perplexity: float32 sums in another order change no logit by more than this."""

FLOAT_KL: Final = 1e-8
"""Nats: the divergence is quadratic in the errors of logits, which are about 1e-5."""

FLOAT_DECIBELS: Final = 90.0
"""Float32 has 24 bits, 144 dB; two layers' sums of 192 terms take some of it."""

EMBEDDING_DECIBELS: Final = 35.0
"""8 bits a row: 127 steps to its largest value, of a Gaussian about 3 σ, so 20 log10(127 √12 / 3)
= 43 dB."""

BLOCK_TORCH: Final = "import sys; sys.modules['torch'] = None"


@dataclass(frozen=True)
class Models:
    """A tiny model: in PyTorch, as its folder, and exported without and with quantisation."""

    original: Any
    folder: Path
    plain: Path
    resq: Path
    text: Path


@pytest.fixture(scope="module")
def models(tiny_exports: TinyExports, tmp_path_factory: pytest.TempPathFactory) -> Models:
    text = tmp_path_factory.mktemp("models") / "text.txt"
    text.write_text(TEXT)
    model = tiny_exports.model("qwen2", tied=False)
    plain, resq = model.export("--method", "none"), model.export()
    return Models(model.original, model.folder, plain, resq, text)


def evaluated(models: Models, *arguments: object) -> dict[str, Any]:
    asked = ("evaluate", *arguments, "--text", models.text, *CUT, "--json")
    return dict(json.loads(run_successfully(*asked).stdout))


def test_the_original_has_the_perplexity_that_pytorch_finds(models: Models) -> None:
    ids = np.array(Tokenizer.load(models.folder).encode(TEXT, add_special_tokens=False))
    ids = ids[: 3 * WINDOW].reshape(3, WINDOW)
    with torch.inference_mode():
        logits = models.original(input_ids=torch.from_numpy(ids)).logits.numpy()
    losses = token_losses(logits[:, :-1].reshape(-1, logits.shape[-1]), ids[:, 1:].ravel())
    row = evaluated(models, models.folder)["models"][str(models.folder)]
    assert row["nll"] == pytest.approx(losses.mean(), rel=FLOAT_TOLERANCE)
    assert row["tokens"] == 3 * (WINDOW - 1)
    assert row["bytes"] == (models.folder / "model.safetensors").stat().st_size


def test_an_export_without_quantisation_is_the_original(models: Models) -> None:
    found = evaluated(models, models.plain, "--reference", models.folder, "--per-layer")
    assert found["reference"] == str(models.folder)
    row = found["models"][str(models.plain)]
    assert 0.0 <= row["kl_divergence"] < FLOAT_KL
    assert row["top1_agreement"] == 1.0
    assert row["perplexity_ratio"] == pytest.approx(1.0, rel=FLOAT_TOLERANCE)
    assert len(row["layer_sqnr_db"]) == LAYERS + 1
    assert min(row["layer_sqnr_db"]) > FLOAT_DECIBELS


@pytest.mark.parametrize("reference", ["folder", "plain"])
def test_the_noise_of_a_quantised_file_grows_from_layer_to_layer(
    models: Models, reference: str
) -> None:
    """Though its residual stream is in another basis, whatever the reference is."""
    path = getattr(models, reference)
    found = evaluated(models, models.resq, path, "--reference", path, "--per-layer")
    row, itself = found["models"].values()
    assert row["kl_divergence"] > 100 * FLOAT_KL
    assert 0.0 < row["top1_agreement"] < 1.0
    ratios = row["layer_sqnr_db"]
    assert ratios[0] > EMBEDDING_DECIBELS
    assert ratios == sorted(ratios, reverse=True)
    assert ratios[-1] > 0.0
    assert itself["kl_divergence"] == 0.0
    assert itself["layer_sqnr_db"] == [None] * (LAYERS + 1)
    assert row["perplexity"] == pytest.approx(itself["perplexity"] * row["perplexity_ratio"])


def test_the_distance_is_that_of_two_runs_without_a_reference(models: Models) -> None:
    paths = (models.plain, models.resq)
    alone = evaluated(models, *paths)
    compared = evaluated(models, *paths, "--reference", models.plain)
    for path in map(str, paths):
        one, other = alone["models"][path], compared["models"][path]
        assert one["perplexity"] == pytest.approx(other["perplexity"])
        assert "kl_divergence" in other
        assert "kl_divergence" not in one


def test_a_stride_is_told_and_predicts_more_tokens(models: Models) -> None:
    found = evaluated(models, models.plain, "--stride", 16, "--reference", models.folder)
    assert (found["window"], found["stride"]) == (WINDOW, 16)
    row = found["models"][str(models.plain)]
    assert row["tokens"] == WINDOW - 1 + 2 * 16
    assert row["kl_divergence"] < FLOAT_KL


def test_token_by_token_the_distance_from_the_original_is_nothing_either(models: Models) -> None:
    asked = (models.plain, "--reference", models.folder, "--token-by-token", "--per-layer")
    found = evaluated(models, *asked)
    assert found["way"] == "token by token"
    row = found["models"][str(models.plain)]
    assert row["kl_divergence"] < FLOAT_KL
    assert min(row["layer_sqnr_db"]) > FLOAT_DECIBELS


def test_the_tables_name_what_was_asked_for(models: Models) -> None:
    printed = run_successfully(
        *("evaluate", models.plain, "--text", models.text, *CUT, "--stride", 8),
        *("--reference", models.folder, "--per-layer"),
    ).stdout
    assert f"windows of {WINDOW} tokens, stride 8, one pass" in printed
    assert "KL" in printed
    assert f"layer {LAYERS - 1}" in printed


def test_evaluation_leaves_no_file_behind(models: Models) -> None:
    before = contents(models.resq.parent)
    evaluated(models, models.resq, "--reference", models.plain, "--per-layer")
    assert contents(models.resq.parent) == before


# Refusals


def error_of(*arguments: object) -> str:
    result = run("evaluate", *arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    return error_line(result.stderr)


def test_a_reference_with_another_tokenizer_is_refused(models: Models, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(models.plain.parent, folder)
    write_tokenizer(folder, vocab_size=160)
    line = error_of(models.plain, "--text", models.text, "--reference", folder / "model.onnx")
    assert f"{models.plain}: its tokenizer makes" in line
    assert "read the same tokens" in line


def test_a_reference_of_another_size_is_refused(models: Models, tmp_path: Path) -> None:
    write_model(tmp_path / "deeper", "qwen2", tied=True, num_hidden_layers=3)
    asked = ("--text", models.text, "--reference", tmp_path / "deeper", "--per-layer", *CUT)
    line = error_of(models.plain, *asked)
    assert f"the model has {LAYERS} layers and the reference 3" in line


def test_a_file_without_layers_is_refused_only_where_they_are_asked_for(
    models: Models, tmp_path: Path
) -> None:
    path = toy.save_toy(tmp_path / "toy.onnx")
    shutil.copyfile(models.folder / "tokenizer.json", tmp_path / "tokenizer.json")
    asked = (path, "--text", models.text, "--reference", path)
    assert f"{path}: the graph has no weights named" in error_of(*asked, "--per-layer")


def test_the_stride_must_fit_into_a_window(models: Models) -> None:
    line = error_of(models.plain, "--text", models.text, "--window", 16, "--stride", 17)
    assert "the stride is 17 and a window has 16 tokens" in line


def test_an_original_model_that_is_not_there_is_named(models: Models, tmp_path: Path) -> None:
    for missing in ("absent.gguf", "absent", "absent.onnx"):
        line = error_of(tmp_path / missing, "--text", models.text)
        assert f"{tmp_path / missing}: no such" in line
    line = error_of(tmp_path, "--text", models.text)
    assert f"{tmp_path}: " in line


def test_layers_that_the_weights_do_not_have_are_refused_before_any_is_made(
    models: Models, tmp_path: Path
) -> None:
    folder = shutil.copytree(models.folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 9999}))
    line = error_of(folder, "--text", models.text, *CUT)
    assert f"have no tensor model.layers.{LAYERS}." in line


def test_without_torch_an_original_model_is_refused_and_a_file_is_not(models: Models) -> None:
    asked = ("--text", models.text, *CUT)
    refused = run_process("evaluate", models.folder, *asked, before=BLOCK_TORCH)
    assert refused.returncode == 1
    line = error_line(refused.stderr)
    assert "run in PyTorch, which needs torch" in line
    assert "resq-onnx[export]" in line
    options = ("--reference", models.plain, "--per-layer")
    done = run_process("evaluate", models.resq, *asked, *options, before=BLOCK_TORCH)
    assert done.returncode == 0, done.stderr
