"""`resq-onnx rewrite`: what it makes of a graph is what `export` makes of the model."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from transformers import PreTrainedModel

from resq_onnx.evaluation.distance import compare
from resq_onnx.files.recipe_file import read_recipe
from resq_onnx.pipeline import rewrite
from resq_onnx.recipe import Recipe
from resq_onnx.runtime.decoder import Decoder, decode_logits
from resq_onnx.runtime.session import create_session
from tests.command_line import QUICK, contents, error_line, run, run_successfully
from tests.tiny_models import write_model
from tests.tracing.torch_onnx import WAYS, export_plain, export_with_cache

ROUNDED = ("--weights", "rtn")
"""Rounding that takes no time."""

FLIPPED = 0.02
"""Nats between two draws of the rounding noise; a forgotten token or another gain costs 0.1."""

FAMILIES = {"qwen2": True, "smollm3": True, "phi3_partly_rotary": False, "gemma2": True}
"""By kind, whether embedding and lm_head are tied. Biases; layers without RoPE; fused projections;
gains less 1, which the exporter has added to."""


@dataclass
class Calibrated:
    """A tiny model, its projections, and what `export` makes of both."""

    model: PreTrainedModel
    folder: Path
    projections: Path
    exported: Path


def calibrated(top: Path, kind: str, *, tied: bool) -> Calibrated:
    folder, projections = top / "model", top / "projections.safetensors"
    model = write_model(folder, kind, tied=tied)
    run_successfully("calibrate", folder, projections, "--hessians", *QUICK)
    exported = top / "exported" / "model.onnx"
    run_successfully("export", folder, exported, "--projections", projections, *ROUNDED)
    return Calibrated(model, folder, projections, exported)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Calibrated:
    return calibrated(tmp_path_factory.mktemp("llama"), "llama", tied=False)


@pytest.fixture(scope="module")
def graph(llama: Calibrated) -> Path:
    """The model as torch.onnx writes it, beside its configuration and tokenizer."""
    path = llama.folder.with_name("graph") / "float.onnx"
    export_with_cache(llama.model, path)
    for file in llama.folder.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, path.parent)
    return path


def rewritten(found: Calibrated, graph: Path, *options: object) -> Path:
    out = graph.with_name("out") / "model.onnx"
    run_successfully(
        *("rewrite", graph, out, "--projections", found.projections),
        *("--model", found.folder, *ROUNDED, *options),
    )
    return out


@pytest.mark.parametrize("way", WAYS)
def test_a_graph_becomes_the_file_that_its_model_becomes(
    llama: Calibrated, way: str, tmp_path: Path
) -> None:
    WAYS[way](llama.model, tmp_path / "float.onnx")
    out = rewritten(llama, tmp_path / "float.onnx")
    assert_same_model(out, llama.exported)


@pytest.mark.parametrize("kind", FAMILIES)
def test_so_does_a_graph_of_each_family(kind: str, tmp_path: Path) -> None:
    found = calibrated(tmp_path, kind, tied=FAMILIES[kind])
    export_with_cache(found.model, tmp_path / "float.onnx")
    assert_same_model(rewritten(found, tmp_path / "float.onnx"), found.exported)


def test_its_activations_may_have_16_bits(llama: Calibrated, graph: Path, tmp_path: Path) -> None:
    halves = ("--dtype", "float16")
    exported = tmp_path / "model.onnx"
    known = ("--projections", llama.projections)
    run_successfully("export", llama.folder, exported, *known, *ROUNDED, *halves)
    out = rewritten(llama, graph, *halves)
    assert_same_model(out, exported)
    operators = {node.overload for node in onnx.load(out, load_external_data=False).graph.node}
    assert [name for name in operators if name.endswith("_float16")]


def assert_same_model(found: Path, expected: Path) -> None:
    """The same weights to the last byte, and the same logits in one pass and token by token."""
    data = [path.with_name("model.onnx.data").read_bytes() for path in (found, expected)]
    assert data[0] == data[1]
    ids = np.random.default_rng(0).integers(3, 200, (2, 12))
    decoders = [Decoder(create_session(path)) for path in (expected, found)]
    once = [decoder.run(ids)[0] for decoder in decoders]
    np.testing.assert_array_equal(once[0], once[1])
    steps = decode_logits(decoders[1], ids)
    assert compare(once[1], steps, ids).kl_divergence < FLIPPED


def test_the_graphs_own_folder_may_hold_the_configuration(llama: Calibrated, graph: Path) -> None:
    out = graph.with_name("beside") / "model.onnx"
    printed = run_successfully(
        "rewrite", graph, out, "--projections", llama.projections, "--target", "portable"
    ).stdout
    assert "Wrote" in printed
    assert "Size" in printed
    assert {"README.md", "config.json", "resq.json", "tokenizer.json"} <= contents(
        out.parent
    ).keys()
    assert len(onnx.load(out, load_external_data=False).functions) == 0
    run_successfully("generate", out, "--prompt", "if", "--max-new-tokens", 4)


def refusal(found: Calibrated, graph: Path, *options: object) -> str:
    out = graph.with_name("refused") / "model.onnx"
    result = run("rewrite", graph, out, "--projections", found.projections, *ROUNDED, *options)
    assert result.exit_code == 1
    assert not out.parent.exists()
    return error_line(result.stderr)


def test_other_files_are_refused(llama: Calibrated, graph: Path, tmp_path: Path) -> None:
    model = ("--model", llama.folder)
    assert "no such file" in refusal(llama, tmp_path / "missing.onnx", *model)
    (tmp_path / "text.onnx").write_text("no model")
    assert "not an ONNX model" in refusal(llama, tmp_path / "text.onnx", *model)
    assert "already quantised by resq-onnx" in refusal(llama, llama.exported, *model)
    alone = shutil.copy(graph, tmp_path / "alone.onnx")
    shutil.copy(f"{graph}.data", f"{alone}.data") if Path(f"{graph}.data").exists() else None
    assert "no config.json" in refusal(llama, Path(alone))
    result = run("rewrite", graph, graph, "--projections", llama.projections, *model)
    assert "what this command reads" in error_line(result.stderr)


def test_rotations_that_cannot_be_fitted_without_a_model_are_refused_and_random_ones_made(
    llama: Calibrated, graph: Path
) -> None:
    options = ("--model", llama.folder, "--seed", 1, *ROUNDED)
    assert "fitted with another seed; use --rotations random" in refusal(llama, graph, *options)
    out = graph.with_name("random") / "model.onnx"
    known = ("--projections", llama.projections, "--rotations", "random")
    run_successfully("rewrite", graph, out, *options, *known)
    assert out.exists()


def test_nothing_is_tuned_though_a_recipe_says_so(
    llama: Calibrated, graph: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuned" / "model.onnx"
    rewrite(
        graph,
        out,
        llama.projections,
        Recipe(tuning_steps=9, samples=4, sequence_length=64),
        model=llama.folder,
    )
    assert read_recipe(out.parent).tuning_steps == 0


def test_a_graph_of_another_model_is_refused(llama: Calibrated, tmp_path: Path) -> None:
    other = calibrated(tmp_path, "llama", tied=True)
    graph = tmp_path / "float.onnx"
    export_plain(llama.model, graph)
    options = ("--model", other.folder)
    assert "made for another model" in refusal(llama, graph, *options)
    wide = tmp_path / "wide"
    write_model(wide, "llama", tied=False, vocab_size=264)
    (wide / "model.safetensors").unlink()
    assert "embedding has shape (256, 64)" in refusal(llama, graph, "--model", wide)


def test_a_graph_in_float16_is_refused(llama: Calibrated, tmp_path: Path) -> None:
    halved = type(llama.model).from_pretrained(llama.folder, dtype=torch.float16)
    export_plain(halved, tmp_path / "half.onnx")
    line = refusal(llama, tmp_path / "half.onnx", "--model", llama.folder)
    assert "weights are FLOAT16; export it in float32" in line


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("scopes", "do not name their modules"),
        ("parameters", "no parameter is named model.embed_tokens.weight"),
        ("inputs", "input extra"),
        ("gain", "not as expected"),
    ],
)
def test_a_graph_without_its_names_is_refused(
    llama: Calibrated, graph: Path, tmp_path: Path, change: str, reason: str
) -> None:
    model = onnx.load(graph)
    if change == "scopes":
        for node in model.graph.node:
            del node.metadata_props[:]
    elif change == "inputs":
        model.graph.input.append(helper.make_tensor_value_info("extra", TensorProto.FLOAT, [3]))
    else:
        ending = "embed_tokens.weight" if change == "parameters" else "0.input_layernorm.weight"
        rename(
            model, next(one.name for one in model.graph.initializer if one.name.endswith(ending))
        )
    onnx.save(model, tmp_path / "changed.onnx")
    assert reason in refusal(llama, tmp_path / "changed.onnx", "--model", llama.folder)


def rename(model: onnx.ModelProto, name: str) -> None:
    for tensor in model.graph.initializer:
        tensor.name = "renamed" if tensor.name == name else tensor.name
    for node in model.graph.node:
        node.input[:] = ["renamed" if one == name else one for one in node.input]
