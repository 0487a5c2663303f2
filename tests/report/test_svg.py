from __future__ import annotations

import pytest

from resq_onnx.report.svg import Axis, Markup, element, line_path, picture, power_label


def test_text_and_attributes_are_escaped_once() -> None:
    inner = element("title", 'a < b & "c"')
    assert inner == "<title>a &lt; b &amp; &quot;c&quot;</title>"
    outer = element("g", inner, css="a", label='"><script>')
    assert outer == f'<g class="a" label="&quot;&gt;&lt;script&gt;">{inner}</g>'


def test_an_element_without_children_is_closed_at_once() -> None:
    assert element("line", x1=1, stroke_width=0.5, x2=None) == '<line x1="1" stroke-width="0.5"/>'


def test_a_picture_is_named_for_those_who_cannot_see_it() -> None:
    drawn = picture(480, 300, "What <it> shows", [element("g")], "wide")
    assert isinstance(drawn, Markup)
    assert drawn.startswith('<svg class="wide" viewBox="0 0 480 300" role="img"')
    assert 'aria-label="What &lt;it&gt; shows"' in drawn


def test_a_path_joins_its_points() -> None:
    assert line_path([(0, 1), (2.25, 3)]) == "M0.0,1.0L2.2,3.0"
    assert line_path([(0, 1), (2, 3)], closed=True).endswith("Z")


def test_a_linear_axis_maps_its_ends_to_its_ends_and_the_middle_to_the_middle() -> None:
    axis = Axis(10, 20, 300, 100)
    assert [axis(10), axis(15), axis(20)] == [300, 200, 100]


def test_a_logarithmic_axis_gives_each_decade_the_same_room() -> None:
    axis = Axis(0.01, 100, 0, 400, logarithmic=True)
    assert [round(axis(value), 9) for value in (0.01, 0.1, 1, 10, 100)] == [0, 100, 200, 300, 400]


@pytest.mark.parametrize("logarithmic", [False, True])
def test_what_is_out_of_range_lands_on_the_edge(logarithmic: bool) -> None:
    axis = Axis(1, 10, 0, 100, logarithmic)
    assert (axis(0.0), axis(11.0)) == (0, 100)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 42, [0, 10, 20, 30, 40]),
        (1, 576, [200, 400]),
        (1, 64, [20, 40, 60]),
        (-3, 3, [-2, 0, 2]),
        (0, 0.9, [0, 0.2, 0.4, 0.6, 0.8]),
    ],
)
def test_ticks_are_round_numbers_inside_the_axis(
    low: float, high: float, ticks: list[float]
) -> None:
    assert Axis(low, high, 0, 1).ticks() == pytest.approx(ticks)


def test_ticks_of_a_logarithmic_axis_are_powers_of_ten() -> None:
    assert Axis(0.002, 300, 0, 1, True).ticks() == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert Axis(1e-3, 1e3, 0, 1, True).ticks() == pytest.approx([1e-3, 1e-2, 0.1, 1, 10, 100, 1e3])


def test_few_decades_get_more_ticks() -> None:
    assert Axis(0.3, 12, 0, 1, True).ticks() == pytest.approx([0.5, 1, 2, 5, 10])
    assert Axis(0.02, 0.06, 0, 1, True).ticks() == pytest.approx([0.02, 0.05])


def test_many_decades_get_fewer_ticks() -> None:
    assert Axis(1e-9, 1e5, 0, 1, True).ticks() == pytest.approx([1e-9, 1e-6, 1e-3, 1, 1e3])


@pytest.mark.parametrize(
    ("value", "label"),
    [(1e-3, "10⁻³"), (0.1, "0.1"), (1, "1"), (100, "100"), (1e4, "10⁴"), (0.02, "0.02")],
)
def test_a_power_of_ten_is_written_as_people_write_it(value: float, label: str) -> None:
    assert power_label(value) == label
