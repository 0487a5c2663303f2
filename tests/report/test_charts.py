from __future__ import annotations

import itertools
import re
from typing import Any

import pytest

from resq_onnx.report import charts
from resq_onnx.report.charts import HEIGHT, LEFT, RIGHT, WIDTH, layer_ratios, spectrum
from resq_onnx.report.svg import Markup
from tests.report.cases import ONE_CURVE, SPECTRUM
from tests.report.reading import Page


def points(path: dict[str, str]) -> list[tuple[float, float]]:
    pairs = re.findall(r"(-?[\d.]+),(-?[\d.]+)", path["d"])
    return [(float(x), float(y)) for x, y in pairs]


def the_curve(drawn: Markup) -> list[tuple[float, float]]:
    (curve,) = Page(drawn).of_class("curve")
    return points(curve)


def test_a_spectrum_falls_from_left_to_right_inside_the_plot() -> None:
    drawn = the_curve(spectrum("Values", SPECTRUM))
    assert len(drawn) == 16
    xs, ys = zip(*drawn, strict=True)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys)  # y grows downwards
    assert (min(xs), max(xs)) == (LEFT, WIDTH - RIGHT)
    assert 0 < min(ys) < max(ys) < HEIGHT


def test_halves_are_equal_steps_on_the_logarithmic_axis() -> None:
    ys = [y for _, y in the_curve(spectrum("Values", SPECTRUM))]
    steps = [below - above for above, below in itertools.pairwise(ys)]
    assert steps == pytest.approx([steps[0]] * len(steps), abs=0.11)  # of a tenth of a pixel each


def test_the_split_lies_between_the_last_rank_of_8_bits_and_the_first_of_4() -> None:
    page = Page(spectrum("Values", SPECTRUM))
    (line,), (shaded,), (rest,) = map(page.of_class, ("split", "high-part", "low-part"))
    xs = [x for x, _ in the_curve(spectrum("Values", SPECTRUM))]
    place = float(line["x1"])
    assert xs[SPECTRUM["high"] - 1] < place < xs[SPECTRUM["high"]]
    assert float(shaded["x"]) + float(shaded["width"]) == pytest.approx(place, abs=0.01)
    assert float(rest["x"]) == pytest.approx(place, abs=0.01)
    assert "8 bits" in page.words
    assert "4 bits" in page.words


def test_without_a_high_part_nothing_is_split() -> None:
    page = Page(spectrum("Values", SPECTRUM | {"high": 0, "high_share": None}))
    assert page.of_class("split") == page.of_class("high-part") == []
    assert "8 bits" not in page.words


def test_all_places_of_a_split_that_differs_are_shaded() -> None:
    record = SPECTRUM | {"high": 4, "high_least": 2, "high_most": 8}
    page = Page(spectrum("Values", record))
    (places,), (line,) = map(page.of_class, ("split-range", "split"))
    left, width = float(places["x"]), float(places["width"])
    xs = [x for x, _ in the_curve(spectrum("Values", record))]
    assert xs[1] < left < xs[2] < float(line["x1"]) < xs[7] < left + width < xs[8]


def test_several_curves_are_a_band_around_the_median() -> None:
    (band,) = Page(spectrum("Values", SPECTRUM)).of_class("band")
    edge = points(band)
    above, below = edge[:16], edge[:15:-1]
    for (_, high), (_, middle), (_, low) in zip(
        above, the_curve(spectrum("Values", SPECTRUM)), below, strict=True
    ):
        assert high < middle < low
    assert Page(spectrum("Hidden", ONE_CURVE)).of_class("band") == []


@pytest.mark.parametrize(
    "changes",
    [
        {"median": [16.0] + [0.0] * 15},
        {"median": [1.0] * 16},
        {"width": 1, "high": 0, "ranks": [1], "median": [1.0]},
    ],
)
def test_odd_spectra_are_drawn_all_the_same(changes: dict[str, Any]) -> None:
    drawn = spectrum("Hidden", ONE_CURVE | changes)
    assert all(0 <= y <= HEIGHT for _, y in the_curve(drawn))
    assert "nan" not in drawn


def test_layers_have_a_dot_each_that_says_its_number() -> None:
    page = Page(layer_ratios([[38.0, 20.0, 15.5]], 440, "narrow"))
    assert len(page.of_class("dot")) == 3
    assert "embedding: 38.0 dB" in page.words
    assert "after layer 1: 15.5 dB" in page.words
    assert len(page.of_class("narrow")) == 1


def test_the_noisier_layer_is_lower() -> None:
    places = [y for _, y in the_curve(layer_ratios([[38.0, 20.0, -5.0]], 440, "narrow"))]
    assert places == sorted(places)
    assert max(places) <= HEIGHT


def test_each_model_has_a_curve_of_its_own_colour() -> None:
    page = Page(layer_ratios([[30.0, 20.0], [28.0, 10.0]], 960, "wide"))
    assert [curve["class"] for curve in page.of_class("curve")] == [
        "curve series-0", "curve series-1"
    ]  # fmt: skip
    assert page.of_class("area") == []


@pytest.mark.parametrize(("layers", "width"), [(1, 440), (31, 440), (31, 960), (127, 440)])
def test_labels_of_layers_do_not_touch(layers: int, width: int) -> None:
    page = Page(layer_ratios([[10.0] * layers], width, "wide"))
    places = [float(text["x"]) for text in page.of_class("tick") if "middle" in text["class"]]
    gaps = [right - left for left, right in itertools.pairwise(places)]
    assert places
    assert min(gaps, default=99) > 8 * len(str(layers))  # pixels of a digit
    assert places[0] >= charts.LEFT
