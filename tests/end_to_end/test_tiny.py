"""The whole line on tiny random models: from a model directory to text out of a session."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

import resq_onnx
from resq_onnx.evaluation.distance import compare
from resq_onnx.evaluation.parity import FLOAT_TOLERANCE
from resq_onnx.evaluation.perplexity import negative_log_likelihood
from resq_onnx.graph.inspection import Inspection, inspect_model
from resq_onnx.recipe import Recipe
from resq_onnx.runtime import BufferedDecoder, Decoder, Tokenizer, create_session, generate
from resq_onnx.runtime.decoder import decode_logits
from tests.command_line import QUICK, contents, run, run_process, run_successfully
from tests.end_to_end.tiny_text import TEXT, WINDOW, prefill, token_ids, torch_logits
from tests.tiny_models import SIZES, write_model

KINDS: Final = {"llama": True, "qwen2": False}
"""By kind, whether the embedding is tied: between them with and without biases, tied and not."""

NOISE: Final = 0.25
"""Relative: what one flipped bit in the cache can do to the perplexity of a model so small, on a
text so short."""

PERPLEXITY_TOLERANCE: Final = 1e-4
"""Relative: rotating a model changes its perplexity by less than 0.01 %."""

COMPANIONS: Final = {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "resq.json",
    "tokenizer.json",
    "tokenizer_config.json",
}

BLOCK_TORCH: Final = "import sys\n" + "\n".join(
    f"sys.modules['{name}'] = None"
    for name in ("torch", "transformers", "onnxscript", "accelerate", "datasets", "gguf")
)
"""Code that makes the packages of the `export` extra impossible to import."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """A tiny model, as it was and as it came out."""

    original: PreTrainedModel
    model: Path
    out: Path
    rotated: Path
    shares_table: bool

    @property
    def data(self) -> Path:
        return self.out.with_name(f"{self.out.name}.data")


@pytest.fixture(scope="module", params=KINDS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """Exported by the command line, together with the float model."""
    folder = tmp_path_factory.mktemp(request.param)
    original = write_model(folder / "model", request.param, tied=KINDS[request.param])
    found = Exported(
        original,
        folder / "model",
        folder / "out" / "a.onnx",
        folder / "out" / "b.onnx",
        KINDS[request.param],
    )
    run_successfully("export", found.model, found.out, *QUICK, "--save-rotated", found.rotated)
    return found


@pytest.fixture(scope="module")
def costly(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A model an eighth of whose intermediate size leaves parts that are slow to rotate."""
    folder = tmp_path_factory.mktemp("costly")
    out, rotated = folder / "out" / "a.onnx", folder / "out" / "b.onnx"
    original = write_model(
        folder / "model", "llama", tied=True, num_hidden_layers=1, intermediate_size=272
    )
    run_successfully("export", folder / "model", out, *QUICK, "--save-rotated", rotated)
    return Exported(original, folder / "model", out, rotated, shares_table=True)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of one layer, on which different recipes are tried."""
    folder = tmp_path_factory.mktemp("small") / "model"
    write_model(folder, "llama", tied=True, num_hidden_layers=1)
    return folder


Export = Callable[..., Path]


@pytest.fixture(scope="module")
def export_small(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Exports the small model with options, each into a folder of its own."""

    def export(*options: object) -> Path:
        out = tmp_path_factory.mktemp("out") / "model.onnx"
        run_successfully("export", small, out, *QUICK, *options)
        return out

    return export


@pytest.fixture(scope="module")
def plain(export_small: Export) -> Path:
    """The small model by the default recipe."""
    return export_small()


@pytest.fixture(scope="module")
def floats(export_small: Export) -> Path:
    """The small model, not quantised."""
    return export_small("--method", "none")


# The exported file


def test_beside_the_model_lies_what_one_needs_to_run_it(exported: Exported) -> None:
    models = {
        f"{path.name}{end}" for path in (exported.out, exported.rotated) for end in ("", ".data")
    }
    assert {path.name for path in exported.out.parent.iterdir()} == COMPANIONS | models
    for name in COMPANIONS - {"README.md", "resq.json"}:
        assert (exported.out.parent / name).read_bytes() == (exported.model / name).read_bytes()


def test_resq_json_says_what_was_done(exported: Exported) -> None:
    said = json.loads((exported.out.parent / "resq.json").read_text())
    assert said["recipe"] == Recipe(samples=4, sequence_length=64).to_json()
    assert said["model"] == exported.model.name
    assert said["versions"]["resq-onnx"] == resq_onnx.__version__
    assert said["versions"]["torch"] == torch.__version__
    assert said["parity"]["float"]["relative_error"] < FLOAT_TOLERANCE
    assert said["parity"]["decode"].keys() == said["parity"]["float"].keys()
    data = exported.out.with_name("a.onnx.data")
    assert said["bytes"]["graph"] == exported.out.stat().st_size
    assert said["bytes"]["data"] == data.stat().st_size
    assert said["bytes"]["total"] == said["bytes"]["graph"] + said["bytes"]["data"]
    tensors = {id(p): p.numel() for p in exported.original.parameters()}
    assert said["bytes"]["source_float32"] == 4 * sum(tensors.values())


def test_a_layer_of_the_file_is_six_nodes(exported: Exported) -> None:
    """Once a runtime has folded what is constant: the Cast of U_C, the tables of RoPE."""
    operators, layers = inspect_model(exported.out).operators, SIZES["num_hidden_layers"]
    ours = {name: count for name, count in operators.items() if name.startswith("ai.resq.")}
    shared = exported.shares_table  # then a norm and a product come before lm_head
    assert ours == {
        "ai.resq.MixedPrecisionGather": 1,
        "ai.resq.MixedPrecisionMatMul": 4 * layers + 1,  # lm_head is one more
        "ai.resq.MixedPrecisionAttention": layers,
        "ai.resq.GatedHadamard": layers,
    }
    around = {"RMSNormalization": 1, "MatMul": 1} if shared else {}
    folded = {"Cast": layers + 1 + shared, "Range": 1, "Unsqueeze": 1, "Mul": 1, "Cos": 1, "Sin": 1}
    assert operators == ours | around | folded


def test_no_file_names_the_machine_it_was_made_on(exported: Exported) -> None:
    for name, content in contents(exported.out.parent).items():
        assert str(exported.model.parent).encode() not in content, name
        assert str(Path(resq_onnx.__file__).parent).encode() not in content, name


def test_a_plain_session_runs_the_file_with_its_packed_cache(exported: Exported) -> None:
    """Neither a library of ours nor an option: prefill, then one token with the cache."""
    onnx.checker.check_model(exported.out)
    session = onnxruntime.InferenceSession(exported.out, providers=["CPUExecutionProvider"])
    kinds = {entry.name: entry.type for entry in session.get_inputs()}
    heads, head_dim = SIZES["num_key_value_heads"], SIZES["head_dim"]
    record = (head_dim - 2) // 2 + 2 + 6  # low values, high values, scales and zero points
    empty = np.zeros((1, heads, 0, record), np.uint8)
    caches = {name: empty for name in kinds if name.startswith("past_key_values")}
    assert {kinds[name] for name in caches} == {"tensor(uint8)"}
    assert len(caches) == 2 * SIZES["num_hidden_layers"]

    ids = token_ids(exported.out.parent)[:1]
    names = ["logits", *(name.replace("past_key_values", "present") for name in caches)]
    _, *presents = session.run(names, feeds(ids[:, :-1], 0) | caches)
    caches = dict(zip(caches, presents, strict=True))
    logits, *_ = session.run(names, feeds(ids[:, -1:], WINDOW - 1) | caches)

    one_pass = prefill(exported.out, ids)
    divergence = compare(one_pass[:, -1:], logits, ids[:, -1:]).kl_divergence
    assert divergence < quantisation_divergence(exported, ids, one_pass)


def feeds(ids: NDArray[np.int64], past: int) -> dict[str, NDArray[Any]]:
    total = past + ids.shape[1]
    return {
        "input_ids": ids,
        "attention_mask": np.ones((1, total), np.int64),
        "position_ids": np.arange(past, total)[None],
    }


def test_cached_decode_agrees_with_prefill(exported: Exported) -> None:
    ids = token_ids(exported.out.parent)
    decoder = Decoder(create_session(exported.out))
    one_pass, _ = decoder.run(ids)
    divergence = compare(one_pass, decode_logits(decoder, ids), ids).kl_divergence
    assert divergence < quantisation_divergence(exported, ids, one_pass)


@pytest.mark.parametrize("kernels", [False, True], ids=["functions", "kernels"])
@pytest.mark.parametrize("file", ["out", "rotated"])
def test_a_fixed_buffer_gives_what_concatenation_gives(
    exported: Exported, file: str, kernels: bool
) -> None:
    """Packed records and float caches; whole prompts, portions of them, single tokens."""
    session = create_session(getattr(exported, file), threads=1, kernels=kernels)
    ids = token_ids(exported.out.parent, windows=2)
    buffered, plain, state = BufferedDecoder(session, 2 * WINDOW, batch=2), Decoder(session), None
    for start, end in ((0, 20), (20, 21), (21, 22), (22, 30), (30, 32)):
        found = buffered.run(ids[:, start:end])
        logits, state = plain.run(ids[:, start:end], state)
        np.testing.assert_array_equal(found, logits[:, -1])


def quantisation_divergence(
    exported: Exported, ids: NDArray[np.int64], one_pass: NDArray[np.float32]
) -> float:
    """How far quantisation moved the logits: a bound for what rounding noise may do.

    Another order of a float sum can move an integer by one, and then all tokens after it a
    little. A low bit flipped in the cache of every row gives a seventh of this bound, a token
    that decode forgets three times as much.
    """
    return compare(torch_logits(exported.original, ids), one_pass, ids).kl_divergence


def test_the_quantised_model_is_near_the_original(exported: Exported) -> None:
    ids = token_ids(exported.out.parent)
    expected = torch_logits(exported.original, ids)
    found = prefill(exported.out, ids)
    correlation = np.corrcoef(expected.ravel(), found.ravel())[0, 1]
    assert correlation > 0.9  # random weights have no redundancy; a wrong fold gives about 0
    assert not np.array_equal(expected, found)


def test_the_rotated_model_has_the_logits_of_the_original(exported: Exported) -> None:
    ids = token_ids(exported.out.parent)
    expected = torch_logits(exported.original, ids)
    assert compare(expected, prefill(exported.rotated, ids), ids).relative_error < FLOAT_TOLERANCE


# The commands on it


def test_generate_continues_a_text_greedily(exported: Exported) -> None:
    printed = run_successfully(
        "generate", exported.out, "--prompt", "A compound", "--max-new-tokens", "6"
    ).stdout
    tokenizer = Tokenizer.load(exported.out.parent)
    session = create_session(exported.out)
    ids = tokenizer.encode("A compound")
    tokens = list(
        generate(BufferedDecoder(session, len(ids) + 6), ids, 6, stop_ids=tokenizer.stop_ids)
    )
    assert printed == "A compound" + tokenizer.decode(tokens) + "\n"
    assert tokens[0] == Decoder(session).run(np.array([ids]))[0][0, -1].argmax()


def test_generate_answers_by_the_chat_template(exported: Exported) -> None:
    asked = ("generate", exported.out, "--prompt", "Why?", "--max-new-tokens", "6")
    answer = run_successfully(*asked, "--chat").stdout
    assert "Why?" not in answer
    assert answer != run_successfully(*asked).stdout


def test_the_same_seed_draws_the_same_text(exported: Exported) -> None:
    asked = ("generate", exported.out, "--prompt", "A", "--temperature", "2", "--seed")
    texts = [run_successfully(*asked, seed).stdout for seed in (1, 1, 2)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_evaluate_finds_the_original_perplexity_in_the_rotated_model(
    exported: Exported, text: Path
) -> None:
    printed = run_successfully(
        *("evaluate", exported.rotated, exported.out, "--text", text, "--json"),
        *("--window", WINDOW, "--max-windows", 4),
    ).stdout
    found = {name: row["perplexity"] for name, row in json.loads(printed)["models"].items()}
    ids = token_ids(exported.out.parent)
    logits = torch_logits(exported.original, ids)
    loss = sum(
        negative_log_likelihood(rows[:-1], targets[1:])
        for rows, targets in zip(logits, ids, strict=True)
    )
    original = np.exp(loss / ids[:, 1:].size)
    assert found[str(exported.rotated)] == pytest.approx(original, rel=PERPLEXITY_TOLERANCE)
    assert found[str(exported.out)] != pytest.approx(original, rel=PERPLEXITY_TOLERANCE)


def test_evaluate_finds_the_same_perplexity_token_by_token(exported: Exported, text: Path) -> None:
    asked = ("evaluate", exported.out, "--text", text, "--json", "--window", WINDOW)
    ways = [
        json.loads(run_successfully(*asked, "--max-windows", 2, *more).stdout)
        for more in ([], ["--token-by-token"])
    ]
    assert [way["way"] for way in ways] == ["one pass", "token by token"]
    one_pass, token_by_token = (way["models"][str(exported.out)] for way in ways)
    assert token_by_token["tokens"] == one_pass["tokens"] == 2 * (WINDOW - 1)
    assert token_by_token["perplexity"] == pytest.approx(one_pass["perplexity"], rel=NOISE)


def test_running_a_model_needs_nothing_of_the_export_extra(exported: Exported, text: Path) -> None:
    for command in (
        ["generate", exported.out, "--prompt", "A", "--max-new-tokens", "2"],
        ["evaluate", exported.out, "--text", text, "--window", WINDOW],
        ["inspect", exported.out],
    ):
        result = run_process(*command, before=BLOCK_TORCH)
        assert result.returncode == 0, result.stderr


# Recipes


def test_the_same_recipe_gives_the_same_bytes(small: Path, plain: Path, tmp_path: Path) -> None:
    """Once by the command line, once by the Python API."""
    out = tmp_path / "model.onnx"
    summary = resq_onnx.export(small, out, Recipe(samples=4, sequence_length=64))
    assert contents(out.parent) == contents(plain.parent)
    assert summary.path == out
    assert summary.model_bytes == sum(
        path.stat().st_size for path in (out, out.with_name("model.onnx.data"))
    )


@pytest.fixture(scope="module")
def projections(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("projections") / "projections.safetensors"
    printed = run_successfully("calibrate", small, file, *QUICK).stdout
    assert f"--projections {file}" in printed
    return file


def test_saved_projections_give_the_model_of_a_direct_export(
    plain: Path, export_small: Export, projections: Path, tmp_path: Path
) -> None:
    dumps = tmp_path / "dumps"
    out = export_small("--projections", projections, "--dump-passes", dumps)
    assert contents(out.parent) == contents(plain.parent)
    names = sorted(path.name for path in dumps.iterdir())
    assert [name[:2] for name in names] == [f"{i:02}" for i in range(1, len(names) + 1)]
    assert names[0] == "01_SplitProjections.txt"
    assert names[-1].endswith("_CleanUp.txt")
    assert "MixedPrecisionMatMul" in (dumps / names[-1]).read_text()


def test_plain_onnx_speaks_the_same_text(
    plain: Path, export_small: Export, projections: Path
) -> None:
    inlined = export_small("--projections", projections, "--format", "qdq")
    model = onnx.load(inlined, load_external_data=False)
    onnx.checker.check_model(inlined)
    assert len(model.functions) == 0
    assert {entry.domain for entry in model.opset_import} == {""}
    assert {node.domain for node in model.graph.node} == {""}
    operators = {node.op_type for node in model.graph.node}
    assert "DequantizeLinear" in operators  # of weights; activations are rounded by arithmetic
    assert "QuantizeLinear" not in operators

    texts = [
        run_successfully("generate", path, "--prompt", "A compound", "--max-new-tokens", 24).stdout
        for path in (plain, inlined)
    ]
    assert texts[0] == texts[1]
    ids = token_ids(plain.parent)
    assert compare(prefill(plain, ids), prefill(inlined, ids), ids).top1_agreement > 0.95


LOW_RECORD: Final = SIZES["head_dim"] // 2 + 3
MIXED_RECORD: Final = (SIZES["head_dim"] - 2) // 2 + 2 + 6
"""Bytes of a cache record without a high part, and with one of two values: three bytes of scale
and zero point for each part there is."""

RECIPES: Final[dict[tuple[str, ...], tuple[int, dict[int, int], dict[int, int]]]] = {
    # options: bytes of a cache record, columns by bits of q/k/v, and of down
    ("--method", "quarot", "--seed", "3"): (LOW_RECORD, {4: 64}, {4: 192}),
    ("--method", "spinquant", "--training-steps", "2"): (LOW_RECORD, {4: 64}, {4: 192}),
    ("--rotations", "trained", "--training-steps", "2"): (
        MIXED_RECORD,
        {4: 56, 8: 8},
        {4: 168, 8: 24},
    ),
    ("--method", "rtn", "--weights", "rtn"): (LOW_RECORD, {4: 64}, {4: 192}),
    ("--method", "outlier", "--down-high", "0"): (MIXED_RECORD, {4: 56, 8: 8}, {4: 192}),
    ("--high-fraction", "0", "--weights", "rtn"): (LOW_RECORD, {4: 64}, {4: 168, 8: 24}),
}


@pytest.mark.parametrize("options", RECIPES, ids=" ".join)
def test_a_recipe_decides_what_is_stored_in_how_many_bits(
    export_small: Export, plain: Path, options: tuple[str, ...]
) -> None:
    out = export_small(*options)  # parity of decode and prefill is checked by the export itself
    found = inspect_model(out)
    record, hidden, down = RECIPES[options]
    assert found.cache_bytes_per_token == 2 * SIZES["num_key_value_heads"] * record
    assert columns_of(found, "qkv_proj") == hidden
    assert columns_of(found, "down_proj") == down
    logits = prefill(out, token_ids(out.parent))
    assert np.isfinite(logits).all()
    assert not np.array_equal(logits, prefill(plain, token_ids(out.parent)))


@pytest.mark.parametrize("kernels", [False, True], ids=["functions", "kernels"])
def test_a_width_whose_eighth_is_costly_to_rotate_has_a_larger_high_part(
    costly: Exported, kernels: bool
) -> None:
    """238 + 34 have outer orders of 119 and 17, 232 + 40 of 29 and 20."""
    assert columns_of(inspect_model(costly.out), "down_proj") == {4: 232, 8: 40}
    ids = token_ids(costly.out.parent)
    expected = torch_logits(costly.original, ids)
    assert compare(expected, prefill(costly.rotated, ids), ids).relative_error < FLOAT_TOLERANCE
    decoder = Decoder(create_session(costly.out, kernels=kernels))
    one_pass, _ = decoder.run(ids)
    token_by_token = decode_logits(decoder, ids)
    divergence = compare(one_pass, token_by_token, ids).kl_divergence
    assert divergence < quantisation_divergence(costly, ids, one_pass)
    if kernels:
        np.testing.assert_array_equal(one_pass, token_by_token)


def test_every_way_to_the_split_gives_the_same_and_a_named_share_is_exact(
    costly: Exported, tmp_path: Path
) -> None:
    projections = tmp_path / "projections.safetensors"
    run_successfully("calibrate", costly.model, projections, *QUICK)
    found = {}
    for format in ("custom", "qdq", "contrib", "web"):
        options = ("--projections", projections, "--format", format)
        for share in ((), ("--down-high", "0.125")):
            out = tmp_path / format / str(len(share)) / "a.onnx"
            run_successfully("export", costly.model, out, *options, *share)
            found[format, share] = columns_of(inspect_model(out), "down_proj")
            assert np.isfinite(prefill(out, token_ids(out.parent))).all()
    assert (tmp_path / "custom/0/a.onnx.data").read_bytes() == costly.data.read_bytes()
    for (_, share), columns in found.items():
        assert columns == ({4: 238, 8: 34} if share else {4: 232, 8: 40})


def columns_of(inspection: Inspection, module: str) -> dict[int, int]:
    (kind,) = (kind for kind in inspection.matrices if kind.name.endswith(module))
    return kind.columns


def test_with_last_logits_the_same_text_comes_out(
    plain: Path, export_small: Export, projections: Path, tmp_path: Path
) -> None:
    last = export_small("--projections", projections, "--logits", "last")
    ids = token_ids(plain.parent)
    np.testing.assert_array_equal(prefill(last, ids), prefill(plain, ids)[:, -1:])
    texts = [
        run_successfully("generate", path, "--prompt", "A compound", "--max-new-tokens", 24).stdout
        for path in (plain, last)
    ]
    assert texts[0] == texts[1]
    assert "logits last" in run_successfully("inspect", last).stdout

    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    asked = ("evaluate", last, "--text", text, "--window", WINDOW, "--max-windows", 1)
    refused = run(*asked)
    assert refused.exit_code == 1
    assert "--token-by-token" in refused.stderr
    run_successfully(*asked, "--token-by-token")


def test_eight_bits_are_nearer_to_the_original_than_four(
    plain: Path, floats: Path, export_small: Export
) -> None:
    eight = export_small("--low-bits", "8")
    ids = token_ids(plain.parent)
    expected = prefill(floats, ids)
    errors = [compare(expected, prefill(path, ids), ids).kl_divergence for path in (plain, eight)]
    assert errors[1] < errors[0] / 10
    assert "INT4" not in {group.dtype for group in inspect_model(eight).groups}


def test_without_a_method_the_float_model_is_written(floats: Path, tmp_path: Path) -> None:
    original = write_model(tmp_path / "model", "llama", tied=True, num_hidden_layers=1)
    ids = token_ids(floats.parent)
    agreement = compare(torch_logits(original, ids), prefill(floats, ids), ids)
    assert agreement.relative_error < FLOAT_TOLERANCE
    assert {group.dtype for group in inspect_model(floats).groups} <= {"FLOAT", "INT64"}


FLOAT_RECORD: Final = 4 * SIZES["head_dim"]
"""Bytes of a head of a float cache."""

REFERENCE_POINTS: Final = {
    ("--activations", "float"): ({"MixedPrecisionAttention"}, MIXED_RECORD),
    ("--cache", "float"): ({"MixedPrecisionMatMul", "RotaryAttention"}, FLOAT_RECORD),
    ("--activations", "float", "--cache", "float"): ({"RotaryAttention"}, FLOAT_RECORD),
}
"""By options, which of the operators below are in the file, and bytes of a head in the cache."""

OF_INTEREST: Final = {"MixedPrecisionMatMul", "MixedPrecisionAttention", "RotaryAttention"}


@pytest.mark.parametrize("options", REFERENCE_POINTS, ids=" ".join)
@pytest.mark.parametrize("format", ["custom", "qdq"])
def test_activations_and_cache_may_stay_in_float(
    plain: Path, floats: Path, export_small: Export, projections: Path,
    options: tuple[str, ...], format: str, text: Path,
) -> None:  # fmt: skip
    """Decode parity is checked by the export; the rest by the commands that run a file."""
    out = export_small("--projections", projections, "--format", format, *options)
    operators, record = REFERENCE_POINTS[options]
    found = inspect_model(out)
    ours = {name.removeprefix("ai.resq.") for name in found.operators if "." in name}
    assert ours & OF_INTEREST == (operators if format == "custom" else set())
    assert found.cache_bytes_per_token == 2 * SIZES["num_key_value_heads"] * record
    assert columns_of(found, "qkv_proj") == {4: 56, 8: 8}

    ids = token_ids(plain.parent)
    expected = prefill(floats, ids)
    errors = [compare(expected, prefill(path, ids), ids).kl_divergence for path in (plain, out)]
    assert errors[1] < errors[0]
    printed = run_successfully(
        *("evaluate", floats, out, "--text", text, "--window", WINDOW, "--json")
    ).stdout
    assert np.isfinite(json.loads(printed)["models"][str(out)]["perplexity"])
    run_successfully("generate", out, "--prompt", "A compound", "--max-new-tokens", 4)
    assert "weight" in run_successfully("inspect", out).stdout


@pytest.mark.parametrize("format", ["contrib", "web"])
def test_onnx_runtimes_own_operators_are_near_the_functions(
    floats: Path, export_small: Export, projections: Path, text: Path, format: str
) -> None:
    """The same weights; activations are floats, and in contrib's kernels 8 bits."""
    shared = ("--projections", projections)
    ours = export_small(*shared, "--activations", "float", "--cache", "float")
    own = export_small(*shared, "--format", format)
    model = onnx.load(own, load_external_data=False)
    onnx.checker.check_model(own)
    assert len(model.functions) == 0
    assert {entry.domain for entry in model.opset_import} == {"", "com.microsoft"}
    operators = {node.op_type for node in model.graph.node if node.domain == "com.microsoft"}
    products = {"MatMulNBits", "GatherBlockQuantized"} if format == "contrib" else set()
    assert operators == {"GroupQueryAttention", "SkipSimplifiedLayerNormalization"} | products

    ids = token_ids(own.parent)
    expected = prefill(floats, ids)
    errors = [compare(expected, prefill(path, ids), ids).kl_divergence for path in (ours, own)]
    assert errors[1] == pytest.approx(errors[0], rel=0.1)
    agreement = compare(prefill(ours, ids), prefill(own, ids), ids)
    assert agreement.kl_divergence < errors[0] / 20
    assert (agreement.relative_error < FLOAT_TOLERANCE) == (format == "web")

    found, known = inspect_model(own), inspect_model(ours)
    columns = [{kind.name: kind.columns for kind in one.matrices} for one in (found, known)]
    assert columns[0] == columns[1]  # in another order: blocks and scales take other sizes
    assert found.cache_bytes_per_token == known.cache_bytes_per_token
    run_successfully("evaluate", own, "--text", text, "--window", WINDOW, "--json")
    run_successfully("generate", own, "--prompt", "A compound", "--max-new-tokens", 4)
    run_successfully("bench", own, "--prompt-tokens", 8, "--new-tokens", 4, "--repeat", 1)


@pytest.mark.parametrize("target", [4.25, 4.75])
def test_a_target_is_the_mean_of_the_layers_bits(
    plain: Path, floats: Path, export_small: Export, projections: Path, target: float
) -> None:
    out = export_small("--projections", projections, "--target-bits", target)
    found = inspect_model(out)
    assert found.layer_weight_bits is not None
    assert target - 0.1 < found.layer_weight_bits <= target  # one layer, so steps are large
    assert found.cache_bytes_per_token == inspect_model(plain).cache_bytes_per_token
    ids = token_ids(plain.parent)
    expected = prefill(floats, ids)
    errors = [compare(expected, prefill(path, ids), ids).kl_divergence for path in (plain, out)]
    assert (errors[1] < errors[0]) == (target > 4.5)
