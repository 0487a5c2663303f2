from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from resq_onnx.families import FAMILIES, ModelLayout, layout_of
from resq_onnx.projections.bases import compute_projections
from resq_onnx.projections.moments import Moments, moment_shapes
from resq_onnx.projections.spectra import POINTS, describe_spectra, thinned_ranks
from resq_onnx.projections.sums import sums_of
from resq_onnx.recipe import BitSplit, Recipe

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 128,
    "intermediate_size": 192,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 100,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
}

TOKENS = 50

DIGITS_KEPT = 1e-4
"""Relative: spectra are rounded to five digits."""


def moments_of(layout: ModelLayout) -> Moments:
    """Of random activations whose directions differ in energy by three decades."""
    random = np.random.default_rng(0)

    def one(shape: tuple[int, ...]) -> NDArray[np.float32]:
        width = shape[-1]
        x = random.normal(size=(*shape[:-2], TOKENS * 4, width)) * np.geomspace(1, 30, width)
        turn = np.linalg.qr(random.normal(size=(width, width)))[0]
        x = x @ turn
        return np.asarray(np.swapaxes(x, -1, -2) @ x, np.float32)

    arrays = {site: one(shape) for site, shape in moment_shapes(layout).items()}
    return Moments(**arrays, tokens=TOKENS)


LAYOUT = layout_of(CONFIG, "test")
MOMENTS = moments_of(LAYOUT)
SUMS = sums_of(LAYOUT, MOMENTS)


def described(method: str, **changes: object) -> dict[str, dict[str, object]]:
    recipe = replace(Recipe(method=method), **changes)  # type: ignore[arg-type]
    bases = compute_projections(recipe, LAYOUT, MOMENTS)
    return describe_spectra(SUMS, bases, method == "outlier")


def test_the_hidden_spectrum_is_that_of_all_layers_together_its_mean_1() -> None:
    found = described("resq")["hidden"]
    values = np.linalg.eigvalsh(SUMS.hidden)[::-1]
    expected = values / values.mean()
    assert found["median"] == pytest.approx(expected[np.array(found["ranks"]) - 1], rel=DIGITS_KEPT)
    assert "minimum" not in found
    assert (found["curves"], found["width"], found["high"]) == (1, 128, 16)
    assert found["high_share"] == pytest.approx(
        dict.fromkeys(("minimum", "median", "maximum"), values[:16].sum() / values.sum()),
        rel=DIGITS_KEPT,
    )


def test_the_hidden_spectrum_is_that_of_the_moment_of_which_the_basis_is_made() -> None:
    """Behind gains one layer's activations may be a thousand times those of the others."""
    layout = replace(LAYOUT, family=FAMILIES["Gemma2ForCausalLM"])
    factors = np.geomspace(1, 1e6, layout.num_layers)[:, None, None]
    moments = replace(MOMENTS, hidden_mlp=MOMENTS.hidden_mlp * factors)
    bases, sums = compute_projections(Recipe(), layout, moments), sums_of(layout, moments)
    found = describe_spectra(sums, bases, picks_channels=False)["hidden"]
    total = np.zeros_like(sums.hidden)
    for moment in (*moments.hidden_attention, *moments.hidden_mlp):
        total += moment / np.trace(moment)
    values = np.linalg.eigvalsh(total)[::-1]
    expected = values / values.mean()
    assert found["median"] == pytest.approx(expected[np.array(found["ranks"]) - 1], rel=DIGITS_KEPT)


def test_keys_have_a_curve_for_each_layer_and_head() -> None:
    found = described("resq")["key"]
    values = np.linalg.eigvalsh(MOMENTS.key.astype(np.float64)).reshape(-1, 16)[:, ::-1]
    curves = values / values.mean(axis=1, keepdims=True)
    assert found["curves"] == 6
    assert found["ranks"] == list(range(1, 17))
    for name in ("minimum", "median", "maximum"):
        level = getattr(np, {"minimum": "min", "maximum": "max"}.get(name, name))
        assert found[name] == pytest.approx(level(curves, axis=0), rel=DIGITS_KEPT)


def test_the_share_of_the_high_part_is_what_its_projection_keeps() -> None:
    """By the bases themselves: tr(U_highᵀ M U_high) / tr(M)."""
    bases = compute_projections(Recipe(), LAYOUT, MOMENTS)
    shares = []
    for index in np.ndindex(3, 2):
        high = bases.value[index][:, -2:]
        moment = MOMENTS.value[index].astype(np.float64)
        shares.append(np.trace(high.T @ moment @ high) / np.trace(moment))
    share = described("resq")["value"]["high_share"]
    expected = {"minimum": min(shares), "median": np.median(shares), "maximum": max(shares)}
    assert share == pytest.approx(expected, rel=DIGITS_KEPT)


def test_before_down_proj_components_are_channels() -> None:
    found = described("resq")["down"]
    assert (found["components"], found["curves"], found["high"]) == ("channels", 3, 24)
    energies = np.sort(np.diagonal(MOMENTS.down, axis1=1, axis2=2), axis=1)[:, ::-1]
    shares = energies[:, :24].sum(axis=1) / energies.sum(axis=1)
    assert found["high_share"]["maximum"] == pytest.approx(shares.max(), rel=DIGITS_KEPT)  # type: ignore[index]


def test_a_method_that_picks_channels_is_described_by_channels() -> None:
    by_channel, by_direction = described("outlier"), described("resq")
    assert {site["components"] for site in by_channel.values()} == {"channels"}
    # No choice of channels holds more than the best directions do.
    for site in ("hidden", "value", "key"):
        shares = [found[site]["high_share"]["median"] for found in (by_channel, by_direction)]  # type: ignore[index]
        assert shares[0] < shares[1]


def test_a_uniform_method_has_no_high_part() -> None:
    for site in described("quarot").values():
        assert (site["high"], site["high_share"]) == (0, None)


def test_keys_of_a_float_cache_are_not_split() -> None:
    found = described("resq", cache="float")
    assert found["key"]["high_share"] is None
    assert found["value"]["high"] == 2


def test_where_splits_differ_each_curve_has_its_own() -> None:
    bases = compute_projections(Recipe(), LAYOUT, MOMENTS)
    high = (0, 8, 24)
    down = tuple(BitSplit(192 - count, count) for count in high)
    attention = (BitSplit(120, 8), BitSplit(112, 16), BitSplit(96, 32))
    splits = replace(bases.splits, down=down, attention=attention)
    found = describe_spectra(SUMS, replace(bases, splits=splits), picks_channels=False)

    assert [found["down"][name] for name in ("high", "high_least", "high_most")] == [8, 0, 24]
    energies = np.sort(np.diagonal(MOMENTS.down, axis1=1, axis2=2), axis=1)[:, ::-1]
    shares = [row[:count].sum() / row.sum() for row, count in zip(energies, high, strict=True)]
    expected = {"minimum": 0.0, "median": np.median(shares), "maximum": max(shares)}
    assert found["down"]["high_share"] == pytest.approx(expected, rel=DIGITS_KEPT)

    assert [found["hidden"][name] for name in ("high", "high_least", "high_most")] == [16, 8, 32]
    values = np.linalg.eigvalsh(SUMS.hidden)[::-1]
    ends = {name: values[:n].sum() / values.sum() for name, n in (("minimum", 8), ("maximum", 32))}
    share = found["hidden"]["high_share"]
    assert {name: share[name] for name in ends} == pytest.approx(ends, rel=DIGITS_KEPT)
    assert "high_most" not in found["key"]


@pytest.mark.parametrize("width", [1, 16, POINTS, POINTS + 1, 576, 1536, 14336])
@pytest.mark.parametrize("part", [0, 1, 8])
def test_thinned_ranks_keep_both_ends_and_both_sides_of_the_split(width: int, part: int) -> None:
    high = width // part if part > 1 else 0
    ranks = thinned_ranks(width, high)
    assert len(ranks) <= POINTS
    assert (ranks[0], ranks[-1]) == (1, width)
    assert (np.diff(ranks) > 0).all()
    if 0 < high < width:
        assert {high, high + 1} <= set(ranks.tolist())
