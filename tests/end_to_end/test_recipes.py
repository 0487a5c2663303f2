"""What a recipe decides: which bits are stored where, and in which operators."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import resq_onnx
from resq_onnx.calibration import tuning_plan
from resq_onnx.evaluation.distance import compare
from resq_onnx.evaluation.parity import FLOAT_TOLERANCE
from resq_onnx.graph.inspection import Inspection, inspect_model
from resq_onnx.projections.file import load_calibration
from resq_onnx.recipe import Recipe
from resq_onnx.runtime import Decoder, create_session
from resq_onnx.runtime.decoder import decode_logits
from tests.command_line import QUICK, repeatable, run, run_successfully
from tests.end_to_end.tiny import Exported, quantisation_divergence
from tests.end_to_end.tiny_text import TEXT, WINDOW, prefill, token_ids, torch_logits
from tests.tiny_exports import TinyExports, TinyModel
from tests.tiny_models import SIZES
from tests.traced_once import tracing_anew
from tests.usual_tuning import tuning_by_default


@pytest.fixture(scope="module")
def costly(tiny_exports: TinyExports) -> Exported:
    """A model an eighth of whose intermediate size leaves parts that are slow to rotate."""
    sizes = {"num_hidden_layers": 1, "intermediate_size": 272}
    return Exported.of(tiny_exports.model("llama", tied=True, **sizes))


@pytest.fixture(scope="module")
def small(tiny_exports: TinyExports) -> TinyModel:
    """A model of one layer, on which different recipes are tried."""
    return tiny_exports.model("llama", tied=True, num_hidden_layers=1)


@pytest.fixture(scope="module")
def plain(small: TinyModel) -> Path:
    """The small model by the default recipe."""
    return small.export()


@pytest.fixture(scope="module")
def floats(small: TinyModel) -> Path:
    """The small model, not quantised."""
    return small.export("--method", "none")


def test_the_same_recipe_gives_the_same_bytes(
    small: TinyModel, plain: Path, tmp_path: Path
) -> None:
    """By the Python API as by the command line, with projections from a file or of its own."""
    out = tmp_path / "model.onnx"
    with tracing_anew():
        recipe = Recipe(samples=4, sequence_length=64)
        summary = resq_onnx.export(small.folder, out, recipe)
    assert repeatable(out.parent) == repeatable(plain.parent)
    assert summary.path == out
    assert summary.model_bytes == sum(
        path.stat().st_size for path in (out, out.with_name("model.onnx.data"))
    )


def test_a_direct_export_gives_the_model_of_saved_projections(
    small: TinyModel, plain: Path, tmp_path: Path
) -> None:
    out, dumps = tmp_path / "out" / "model.onnx", tmp_path / "dumps"
    with tracing_anew():
        run_successfully("export", small.folder, out, *QUICK, "--dump-passes", dumps)
    assert repeatable(out.parent) == repeatable(plain.parent)
    names = sorted(path.name for path in dumps.iterdir())
    assert [name[:2] for name in names] == [f"{i:02}" for i in range(1, len(names) + 1)]
    assert names[0] == "01_SplitProjections.txt"
    assert names[-1].endswith("_CleanUp.txt")
    assert "MixedPrecisionMatMul" in (dumps / names[-1]).read_text()


def test_calibrate_says_how_its_file_is_used(small: TinyModel, tmp_path: Path) -> None:
    file = tmp_path / "projections.safetensors"
    printed = run_successfully("calibrate", small.folder, file, "--hessians", *QUICK).stdout
    assert f"--projections {file}" in printed
    found, expected = load_file(file), load_file(small.projections)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_the_type_of_a_calibration_is_recorded_and_comes_with_its_file(
    small: TinyModel, plain: Path, tmp_path: Path
) -> None:
    in_bfloat16 = (*QUICK, "--dtype-compute", "bfloat16")
    direct, file = tmp_path / "direct" / "model.onnx", tmp_path / "projections.safetensors"
    run_successfully("export", small.folder, direct, *in_bfloat16)
    assert recipe_of(direct)["dtype_compute"] == "bfloat16"
    run_successfully("calibrate", small.folder, file, *in_bfloat16)
    assert load_calibration(file).recipe_json["dtype_compute"] == "bfloat16"
    # Its moments are measured again, in the type in which its sums are.
    later = tmp_path / "later" / "model.onnx"
    run_successfully("export", small.folder, later, "--projections", file)
    assert recipe_of(later) == recipe_of(direct)
    weights = [path.with_name("model.onnx.data").read_bytes() for path in (direct, later, plain)]
    assert weights[0] == weights[1] != weights[2]


def test_rotations_are_fitted_again_for_another_seed_than_the_files(
    small: TinyModel, tmp_path: Path
) -> None:
    same, other = (tmp_path / name / "model.onnx" for name in ("same", "other"))
    known = ("--projections", small.projections, "--weights", "rtn")
    assert "Fitting" not in run_successfully("export", small.folder, same, *known).stderr
    stderr = run_successfully("export", small.folder, other, *known, "--seed", 1).stderr
    assert "Fitting the rotations" in stderr
    assert recipe_of(other)["rotations"] == "fitted"


def test_training_begins_with_the_fitted_rotations(small: TinyModel, tmp_path: Path) -> None:
    bases = {"fitted": load_calibration(small.projections).projections.hidden}
    for name, options in (("random", ("--rotations", "random")), ("one", ("--training-steps", 1))):
        file = tmp_path / f"{name}.safetensors"
        run_successfully("calibrate", small.folder, file, *QUICK, *options)
        bases[name] = load_calibration(file).projections.hidden
    a_step, fit = (np.linalg.norm(bases[name] - bases["fitted"]) for name in ("one", "random"))
    assert 0 < a_step < fit / 3


def test_tuned_weights_are_those_of_the_layers_and_steps_repeat_them(
    small: TinyModel, plain: Path, tmp_path: Path
) -> None:
    outs = [tmp_path / name / "model.onnx" for name in ("one", "again", "minutes")]
    asked = ("--projections", small.projections, *QUICK)
    for out in outs[:2]:
        run_successfully("export", small.folder, out, *asked, "--tuning-steps", 2)
    assert repeatable(outs[0].parent) == repeatable(outs[1].parent)
    changed = [
        name for name, value in weights_of(outs[0]) if value != dict(weights_of(plain))[name]
    ]
    matrices = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
    assert all(any(one in name for one in matrices) for name in changed)
    assert {one for one in matrices if any(one in name for name in changed)} == set(matrices)
    other = run("export", small.folder, outs[2], *asked, "--tune", 1, "--samples", 5)
    assert "made with another samples; tuning the weights reads" in other.stderr
    trained = ("--projections", small.projections, "--training-steps", 1, *QUICK, "--samples", 5)
    other = run("export", small.folder, outs[2], *trained)
    assert "made with another samples; training the rotations reads" in other.stderr
    stderr = run_successfully("export", small.folder, outs[2], *asked, "--tune", "0.0001").stderr
    assert "Tuning the weights in 1 steps" in stderr
    assert recipe_of(outs[2])["tuning_steps"] == 1


def test_by_default_weights_are_tuned_and_the_recipe_repeats_it(
    small: TinyModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuning_by_default(monkeypatch, 2)
    outs = [tmp_path / name / "model.onnx" for name in ("one", "again", "little")]
    by_default = ("--projections", small.projections, *QUICK)
    assert "Tuning the weights in 2 steps" in (
        run_successfully("export", small.folder, outs[0], *by_default).stderr
    )
    assert recipe_of(outs[0])["tuning_steps"] == 2
    tuning_by_default(monkeypatch, 1)
    again = ("--projections", small.projections, "--recipe", outs[0].parent)
    run_successfully("export", small.folder, outs[1], *again)
    assert repeatable(outs[0].parent) == repeatable(outs[1].parent)
    monkeypatch.setattr(tuning_plan, "room_for", lambda *_: 0)
    stderr = run_successfully("export", small.folder, outs[2], *by_default).stderr
    assert "Warning: the weights are not tuned, which costs quality" in stderr
    assert recipe_of(outs[2])["tuning_steps"] == 0


def weights_of(model: Path) -> list[tuple[str, bytes]]:
    loaded = onnx.load(model)
    return [(one.name, one.raw_data) for one in loaded.graph.initializer]


def test_a_projections_file_that_does_not_say_its_type_is_of_float32(
    small: TinyModel, plain: Path, tmp_path: Path
) -> None:
    with safe_open(small.projections, framework="numpy") as stored:
        metadata = stored.metadata()
    recipe = json.loads(metadata["recipe"])
    assert recipe.pop("dtype_compute") == "float32"
    older, out = tmp_path / "older.safetensors", tmp_path / "out" / "model.onnx"
    save_file(load_file(small.projections), older, metadata | {"recipe": json.dumps(recipe)})
    run_successfully("export", small.folder, out, "--projections", older)
    assert repeatable(out.parent) == repeatable(plain.parent)


def recipe_of(out: Path) -> dict[str, Any]:
    recipe: dict[str, Any] = json.loads(out.with_name("resq.json").read_text())["recipe"]
    return recipe


def test_plain_onnx_speaks_the_same_text(plain: Path, small: TinyModel) -> None:
    inlined = small.export("--format", "qdq")
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
    small: TinyModel, plain: Path, options: tuple[str, ...], tmp_path: Path
) -> None:
    out = tmp_path / "model.onnx"
    run_successfully("export", small.folder, out, *QUICK, *options)
    # parity of decode and prefill is checked by the export itself
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
    direct = tmp_path / "model.onnx"
    run_successfully("export", costly.model, direct, *QUICK)
    assert direct.with_name("model.onnx.data").read_bytes() == costly.data.read_bytes()
    found = {}
    for format in ("custom", "qdq", "contrib", "web"):
        for share in ((), ("--down-high", "0.125")):
            out = costly.source.export("--format", format, *share)
            found[format, share] = columns_of(inspect_model(out), "down_proj")
            assert np.isfinite(prefill(out, token_ids(out.parent))).all()
    for (_, share), columns in found.items():
        assert columns == ({4: 238, 8: 34} if share else {4: 232, 8: 40})


def columns_of(inspection: Inspection, module: str) -> dict[int, int]:
    (kind,) = (kind for kind in inspection.matrices if kind.name.endswith(module))
    return kind.columns


def test_with_last_logits_the_same_text_comes_out(
    plain: Path, small: TinyModel, tmp_path: Path
) -> None:
    last = small.export("--logits", "last")
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
    plain: Path, floats: Path, small: TinyModel
) -> None:
    eight = small.export("--low-bits", "8")
    ids = token_ids(plain.parent)
    expected = prefill(floats, ids)
    errors = [compare(expected, prefill(path, ids), ids).kl_divergence for path in (plain, eight)]
    assert errors[1] < errors[0] / 10
    assert "INT4" not in {group.dtype for group in inspect_model(eight).groups}


def test_without_a_method_the_float_model_is_written(small: TinyModel, floats: Path) -> None:
    ids = token_ids(floats.parent)
    agreement = compare(torch_logits(small.original, ids), prefill(floats, ids), ids)
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
    plain: Path, floats: Path, small: TinyModel,
    options: tuple[str, ...], format: str, text: Path,
) -> None:  # fmt: skip
    """Decode parity is checked by the export; the rest by the commands that run a file."""
    out = small.export("--format", format, *options)
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
    floats: Path, small: TinyModel, text: Path, format: str
) -> None:
    """The same weights; activations are floats, and in contrib's kernels 8 bits."""
    ours = small.export("--activations", "float", "--cache", "float")
    own = small.export("--format", format)
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
    plain: Path, floats: Path, small: TinyModel, target: float
) -> None:
    out = small.export("--target-bits", target)
    found = inspect_model(out)
    assert found.layer_weight_bits is not None
    assert target - 0.1 < found.layer_weight_bits <= target  # one layer, so steps are large
    assert found.cache_bytes_per_token == inspect_model(plain).cache_bytes_per_token
    ids = token_ids(plain.parent)
    expected = prefill(floats, ids)
    errors = [compare(expected, prefill(path, ids), ids).kl_divergence for path in (plain, out)]
    assert (errors[1] < errors[0]) == (target > 4.5)
