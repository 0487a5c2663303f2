import dataclasses
import itertools
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from resq_onnx.errors import ResqError
from resq_onnx.families import FAMILIES, ModelLayout
from resq_onnx.projections.bases import Projections, compute_projections
from resq_onnx.projections.file import load_calibration, save_calibration, stored_projections
from resq_onnx.projections.moments import SITES, Moments, moment_shapes
from resq_onnx.projections.sums import BasisSums, sums_of
from resq_onnx.recipe import Recipe

LAYOUT = ModelLayout(
    family=FAMILIES["Qwen2ForCausalLM"],
    num_layers=2,
    hidden_size=32,
    num_heads=2,
    num_kv_heads=1,
    head_dim=16,
    intermediate_size=48,
    vocab_size=32,
    max_positions=64,
    norm_epsilon=1e-6,
    tied=True,
)

FLOAT32_ROUNDING = 1e-6
"""Moments are stored as float32, whose relative rounding is 6e-8."""


def _moments(layout: ModelLayout = LAYOUT) -> Moments:
    rng = np.random.default_rng(0)
    moments = Moments.zeros(layout)
    for site, shape in moment_shapes(layout).items():
        x = rng.standard_normal((*shape[:-2], 100, shape[-1])) * rng.uniform(0.1, 3, shape[-1])
        getattr(moments, site)[:] = np.swapaxes(x, -1, -2) @ x
    moments.tokens = 100
    return moments


def _saved(path: Path, recipe: Recipe, *, whole: bool = True) -> tuple[Moments, Projections]:
    moments = _moments()
    projections = compute_projections(recipe, LAYOUT, moments)
    sums = sums_of(LAYOUT, moments)
    kept = moments if whole else None
    save_calibration(path, recipe, "c0ffee", LAYOUT, sums, projections, kept)
    return moments, projections


def _assert_same(first: Projections, second: Projections) -> None:
    for field in dataclasses.fields(Projections):
        left, right = getattr(first, field.name), getattr(second, field.name)
        if field.name == "down":
            for one, other in zip(left, right, strict=True):
                np.testing.assert_array_equal(one.order, other.order)
                np.testing.assert_array_equal(one.signs, other.signs)
        elif field.name in ("down_low", "down_high"):
            assert left.keys() == right.keys()
            for width, factors in left.items():
                np.testing.assert_array_equal(factors.outer, right[width].outer)
                np.testing.assert_array_equal(factors.inner, right[width].inner)
        else:
            np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("method", ["resq", "quarot", "outlier", "rtn"])
@pytest.mark.parametrize("down_high", [0.0, 0.25])
def test_what_is_saved_comes_back(tmp_path: Path, method: str, down_high: float) -> None:
    recipe = Recipe(method=method, down_high=down_high, high_fraction=0.125)
    file = tmp_path / "projections.safetensors"
    moments, projections = _saved(file, recipe)
    loaded = load_calibration(file)
    _assert_same(loaded.projections, projections)
    assert loaded.recipe_json == recipe.to_json()
    assert loaded.model_hash == "c0ffee"
    assert loaded.moments is not None
    assert loaded.moments.tokens == moments.tokens
    for layer, site in itertools.product(range(2), SITES):
        expected = getattr(moments, site)[layer].astype(np.float32)
        found = loaded.moments.site(layer, site)
        np.testing.assert_allclose(found, expected, rtol=FLOAT32_ROUNDING, atol=1e-4)
        np.testing.assert_array_equal(found, np.swapaxes(found, -1, -2))
    _assert_same_sums(loaded.sums_for(LAYOUT), sums_of(LAYOUT, moments))


def _assert_same_sums(found: BasisSums, expected: BasisSums) -> None:
    assert found.tokens == expected.tokens
    for name in ("hidden", "value", "key", "down"):
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=FLOAT32_ROUNDING, atol=1e-4
        )


def test_without_the_moments_of_the_layers_the_file_is_small(tmp_path: Path) -> None:
    moments, projections = _saved(tmp_path / "small.safetensors", Recipe(), whole=False)
    _saved(tmp_path / "whole.safetensors", Recipe())
    loaded = load_calibration(tmp_path / "small.safetensors")
    assert loaded.moments is None
    _assert_same(loaded.projections, projections)
    _assert_same_sums(loaded.sums_for(LAYOUT), sums_of(LAYOUT, moments))
    small, whole = (path.stat().st_size for path in sorted(tmp_path.iterdir()))
    assert small < 0.75 * whole  # layers weigh more in every real model


def test_moments_of_more_layers_than_there_are_belong_to_another_model(tmp_path: Path) -> None:
    _saved(tmp_path / "a.safetensors", Recipe())
    loaded = load_calibration(tmp_path / "a.safetensors")
    assert loaded.moments is not None
    with pytest.raises(ResqError, match="moments of 2 layers: they belong to another model"):
        loaded.moments.site(2, "down")


def test_splits_that_differ_by_layer_come_back(tmp_path: Path) -> None:
    moments = _moments()
    moments.down[0] = np.diag(np.arange(1.0, 49.0) ** 3)
    recipe, file = Recipe(target_bits=4.6), tmp_path / "projections.safetensors"
    projections = compute_projections(recipe, LAYOUT, moments)
    assert len(set(projections.splits.down)) == 2
    save_calibration(file, recipe, "c0ffee", LAYOUT, sums_of(LAYOUT, moments), projections)
    _assert_same(load_calibration(file).projections, projections)


def test_a_file_of_version_1_is_read(tmp_path: Path) -> None:
    """It had one split for each width, and one pair of rotations for all layers."""
    new, old = tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    _, projections = _saved(new, Recipe())
    with safe_open(new, framework="numpy") as stored:
        metadata = stored.metadata()
        tensors = {
            name.replace(".42.", ".").replace(".6.", "."): stored.get_tensor(name)
            for name in stored.keys()  # noqa: SIM118
        }
    uniform = (projections.hidden_split, projections.head_split, projections.down_split)
    metadata["splits"] = json.dumps([dataclasses.asdict(split) for split in uniform])
    metadata["format_version"] = "1"
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("sums.")}
    recipe = json.loads(metadata["recipe"])
    del recipe["target_bits"], recipe["cache"], recipe["rotations"]
    metadata["recipe"] = json.dumps(recipe)
    save_file(tensors, old, metadata)
    loaded = load_calibration(old)
    _assert_same(loaded.projections, projections)
    old_recipe = Recipe(rotations="random")
    assert stored_projections(loaded, old_recipe, LAYOUT) is loaded.projections


def test_only_half_of_each_symmetric_matrix_is_stored(tmp_path: Path) -> None:
    file = tmp_path / "projections.safetensors"
    _saved(file, Recipe())
    with safe_open(file, framework="numpy") as stored:
        assert stored.get_slice("moments.down").get_shape() == [2, 48 * 49 // 2]


def test_the_stored_projections_serve_a_recipe_that_differs_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "projections.safetensors"
    _saved(file, Recipe(samples=4))
    loaded = load_calibration(file)
    other = Recipe(samples=9, weights="rtn", format="qdq", activations="float", activation_clip=1)
    assert stored_projections(loaded, other, LAYOUT) is loaded.projections


def test_the_rotations_of_a_file_that_does_not_say_how_they_were_found_are_random(
    tmp_path: Path,
) -> None:
    file = tmp_path / "projections.safetensors"
    _saved(file, Recipe(rotations="random"))
    loaded = load_calibration(file)
    del loaded.recipe_json["rotations"]
    assert stored_projections(loaded, Recipe(), LAYOUT) is None
    random = stored_projections(loaded, Recipe(rotations="random"), LAYOUT)
    assert random is loaded.projections


def test_rotations_do_not_matter_to_a_method_that_has_its_own(tmp_path: Path) -> None:
    file = tmp_path / "projections.safetensors"
    _saved(file, Recipe(method="quarot", rotations="random"))
    loaded = load_calibration(file)
    assert stored_projections(loaded, Recipe(method="quarot"), LAYOUT) is loaded.projections


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(seed=1),
        Recipe(method="outlier"),
        Recipe(method="quarot"),
        Recipe(high_fraction=0.25),
        Recipe(down_high=0.0),
        Recipe(low_bits=8),
        Recipe(cache="float"),
        Recipe(target_bits=5.0),
        Recipe(rotations="trained"),
        Recipe(rotations="random"),
    ],
    ids=lambda recipe: "-".join(
        name for name, value in recipe.to_json().items() if value != Recipe().to_json()[name]
    ),
)
def test_stored_projections_do_not_serve_other_ones(tmp_path: Path, recipe: Recipe) -> None:
    file = tmp_path / "projections.safetensors"
    _saved(file, Recipe())
    assert stored_projections(load_calibration(file), recipe, LAYOUT) is None


CHANGES: list[dict[str, Any]] = [
    {"training_steps": 7},
    {"training_steps": None, "training_minutes": 3.0},
    {"activation_clip": 1.0},
]


@pytest.mark.parametrize("changed", CHANGES)
def test_trained_projections_serve_their_own_training_alone(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    file, recipe = (
        tmp_path / "projections.safetensors",
        Recipe(rotations="trained", training_steps=9),
    )
    _saved(file, recipe)
    loaded = load_calibration(file)
    for asked in (recipe, dataclasses.replace(recipe, training_steps=None)):
        assert stored_projections(loaded, asked, LAYOUT) is loaded.projections
    other = dataclasses.replace(recipe, **changed)
    assert stored_projections(loaded, other, LAYOUT) is None


def test_a_calibration_of_another_model_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "projections.safetensors"
    _saved(file, Recipe())
    other = dataclasses.replace(LAYOUT, hidden_size=64)
    with pytest.raises(ResqError, match="belong to another model"):
        stored_projections(load_calibration(file), Recipe(), other)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match=r"nothing\.safetensors: no such file"):
        load_calibration(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff" * 4096])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "wrong.safetensors"
    file.write_bytes(content)
    with pytest.raises(ResqError, match=r"wrong\.safetensors: not a readable projections file"):
        load_calibration(file)


@pytest.mark.parametrize("kept", [0.001, 0.5, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: float) -> None:
    file = tmp_path / "cut.safetensors"
    _saved(file, Recipe())
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ResqError, match=r"cut\.safetensors: not a readable projections file"):
        load_calibration(file)


@pytest.mark.parametrize("version", [None, "0", "5"])
def test_another_format_version_is_refused(tmp_path: Path, version: str | None) -> None:
    file = tmp_path / "old.safetensors"
    metadata = {"recipe": "{}"} | ({} if version is None else {"format_version": version})
    save_file({"x": np.zeros(1)}, file, metadata)
    with pytest.raises(ResqError, match=r"old\.safetensors: format version is .* must be 4"):
        load_calibration(file)


@pytest.mark.parametrize(
    "name", ["moments.down", "sums.key", "projections.hidden", "projections.down_high.6.outer"]
)
def test_a_missing_tensor_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / "part.safetensors"
    _saved(file, Recipe())
    with safe_open(file, framework="numpy") as stored:
        metadata = stored.metadata()
        tensors = {key: stored.get_tensor(key) for key in stored.keys() if key != name}  # noqa: SIM118
    save_file(tensors, file, metadata)
    with pytest.raises(ResqError, match=rf"part\.safetensors: .*: it has no '{name}'"):
        load_calibration(file)


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "projections.safetensors"
    file.write_bytes(b"old")

    def fill_the_disk(path: Path, *_others: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("resq_onnx.projections.file.write_tensors", fill_the_disk)
    with pytest.raises(ResqError, match=r"projections\.safetensors: cannot be written.*No space"):
        _saved(file, Recipe())
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResqError, match="cannot be written"):
        _saved(tmp_path / "nowhere" / "projections.safetensors", Recipe())


def test_moments_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    moments = _moments()
    projections, sums = compute_projections(Recipe(), LAYOUT, moments), sums_of(LAYOUT, moments)
    moments.attention_out[0, 1, 1] = np.nan
    file = tmp_path / "projections.safetensors"
    with pytest.raises(ResqError, match="attention_out are not finite"):
        save_calibration(file, Recipe(), "c0ffee", LAYOUT, sums, projections, moments)
    assert not file.exists()


def test_the_file_has_the_mode_of_a_new_one(tmp_path: Path) -> None:
    _saved(tmp_path / "a.safetensors", Recipe())
    (tmp_path / "new").touch()
    modes = [(tmp_path / name).stat().st_mode for name in ("a.safetensors", "new")]
    assert modes[0] == modes[1]


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(ResqError, match=r"a\.safetensors: is not a regular file"):
        load_calibration(tmp_path / "a.safetensors")


def test_a_file_without_gains_in_its_moments_does_not_serve_a_basis_behind_them(
    tmp_path: Path,
) -> None:
    file = tmp_path / "old.safetensors"
    _saved(file, Recipe())
    old = dataclasses.replace(load_calibration(file), has_gains=False)
    gemma = dataclasses.replace(LAYOUT, family=FAMILIES["Gemma3ForCausalLM"])
    assert stored_projections(old, Recipe(), LAYOUT) is not None
    with pytest.raises(ResqError, match=r"do not serve Gemma 3; make it anew"):
        stored_projections(old, Recipe(), gemma)
