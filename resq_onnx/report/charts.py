"""Charts of a report as SVG: energy spectra and error per layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from resq_onnx.report.svg import Axis, Markup, element, line_path, picture, power_label

WIDTH, HEIGHT = 480, 300
"""Size of a spectrum: two fit side by side on a page, one on a phone."""

LEFT, RIGHT, TOP, BOTTOM = 54, 12, 30, 46
"""Margins around the plot for labels."""

LOWEST: Final = 1e-6
"""Smaller energies are drawn at this value: they are rounding errors of the calibration."""


def spectrum(site: str, record: Mapping[str, Any]) -> Markup:
    """Plot energy over rank, with the high part shaded and a band for several curves.

    Args:
        site: Name of the site, for the text alternative.
        record: An entry of `resq_onnx.projections.spectra.describe_spectra`. If the split
            differs between layers, the range of its places is shaded, with a line at the median.
    """
    width, high, ranks = record["width"], record["high"], record["ranks"]
    lowest, highest = (
        record.get("minimum", record["median"]),
        record.get("maximum", record["median"]),
    )
    x = Axis(1, max(width, 2), LEFT, WIDTH - RIGHT)
    floor = max(min((value for value in lowest if value > 0), default=LOWEST), LOWEST)
    y = Axis(
        min(floor / 1.5, 0.5), max(max(highest) * 1.5, 2.0), HEIGHT - BOTTOM, TOP, logarithmic=True
    )
    parts = [
        *_parts_of_the_split(x, record),
        *_horizontal_lines(x, y, power_label),
        element("line", css="mean", x1=x.start, x2=x.end, y1=y(1), y2=y(1)),
        element("text", "mean", css="note end", x=x.end - 4, y=y(1) - 5),
        *_ticks_below(x, [1, *(tick for tick in x.ticks(5) if tick > 0)]),
        *_titles(x, y, f"{record['components'][:-1]}, by energy", "energy ÷ mean"),
    ]
    if "minimum" in record:
        above = [(x(rank), y(value)) for rank, value in zip(ranks, highest, strict=True)]
        below = [(x(rank), y(value)) for rank, value in zip(ranks, lowest, strict=True)]
        parts.append(element("path", css="band", d=line_path(above + below[::-1], closed=True)))
    middle = [(x(rank), y(value)) for rank, value in zip(ranks, record["median"], strict=True)]
    parts.append(element("path", css="curve", d=line_path(middle)))
    if high:
        parts.append(_split_line(x, high))
    if "high_most" in record:
        least, most = x(record["high_least"] + 0.5), x(record["high_most"] + 0.5)
        area = {"y": TOP, "height": HEIGHT - TOP - BOTTOM}
        parts.append(element("rect", css="split-range", x=least, width=most - least, **area))
    return picture(WIDTH, HEIGHT, f"Spectrum of {site}: energy falls with rank", parts)


def layer_ratios(series: Sequence[Sequence[float]], width: int, css: str) -> Markup:
    """Plot signal over noise along the residual stream: a curve per model, a dot per layer.

    Args:
        series: For each model, decibels at the embedding and after each layer.
        width: Width of the picture; the page shows a wide one or a narrow one.
        css: Class of the picture, for the choice between them.
    """
    every = [value for decibels in series for value in decibels]
    longest = max(map(len, series))
    x = Axis(-0.5, longest - 0.5, LEFT, width - RIGHT)
    y = Axis(min(0.0, *every), max(1.0, *every) * 1.08, HEIGHT - BOTTOM, TOP / 2)
    parts = [
        *_horizontal_lines(x, y, "{:g}".format),
        *_ticks_below(x, _layers_with_a_tick(longest, width)),
        *_titles(x, y, "layers done", "signal ÷ noise, dB"),
    ]
    for number, decibels in enumerate(series):
        points = [(x(layer), y(value)) for layer, value in enumerate(decibels)]
        if len(series) == 1:
            area = [(points[0][0], y(0)), *points, (points[-1][0], y(0))]
            parts.append(element("path", css="area", d=line_path(area, closed=True)))
        parts.append(element("path", css=f"curve series-{number}", d=line_path(points)))
        parts += [
            element("circle", _tip(f"{_after(layer)}: {value:.1f} dB"), cx=point[0], cy=point[1],
                    css=f"dot series-{number}", r=3.5)
            for layer, (point, value) in enumerate(zip(points, decibels, strict=True))
        ]  # fmt: skip
    first, last = series[0][0], series[0][-1]
    label = f"Signal over noise, from {first:.1f} dB at the embedding to {last:.1f} dB at the end"
    return picture(width, HEIGHT, label, parts, css)


def _parts_of_the_split(x: Axis, record: Mapping[str, Any]) -> list[Markup]:
    high, low_bits, high_bits = record["high"], record["low_bits"], record["high_bits"]
    middle = x(high + 0.5) if high else x.start
    area = {"y": TOP, "height": HEIGHT - TOP - BOTTOM}
    parts = [
        element("rect", css="low-part", x=middle, width=x.end - middle, **area),
        element("text", f"{low_bits} bits", css="of-low end", x=x.end, y=TOP - 10),
    ]
    if high:
        parts += [
            element("rect", css="high-part", x=x.start, width=middle - x.start, **area),
            element("text", f"{high_bits} bits", css="of-high", x=x.start, y=TOP - 10),
        ]
    return parts


def _split_line(x: Axis, high: int) -> Markup:
    middle = x(high + 0.5)
    return element("line", css="split", x1=middle, x2=middle, y1=TOP, y2=HEIGHT - BOTTOM)


def _horizontal_lines(x: Axis, y: Axis, label: Callable[[float], str]) -> list[Markup]:
    parts = []
    for tick in y.ticks():
        place = y(tick)
        parts += [
            element("line", css="grid", x1=x.start, x2=x.end, y1=place, y2=place),
            element("text", label(tick), css="tick end", x=x.start - 7, y=place + 4),
        ]
    return parts


def _ticks_below(x: Axis, ticks: Sequence[float]) -> list[Markup]:
    base = HEIGHT - BOTTOM
    parts = [element("line", css="axis", x1=x.start, x2=x.end, y1=base, y2=base)]
    for tick in ticks:
        parts += [
            element("line", css="axis", x1=x(tick), x2=x(tick), y1=base, y2=base + 4),
            element("text", f"{tick:g}", css="tick middle", x=x(tick), y=base + 17),
        ]
    return parts


def _titles(x: Axis, y: Axis, below: str, beside: str) -> list[Markup]:
    middle = (y.start + y.end) / 2
    return [
        element("text", below, css="title middle", x=(x.start + x.end) / 2, y=HEIGHT - 8),
        element(
            "text", beside, css="title middle", transform=f"translate(13 {middle:g}) rotate(-90)"
        ),
    ]


def _layers_with_a_tick(layers: int, width: int) -> list[float]:
    """Multiples of a round number, at such a distance that labels do not touch."""
    room = max((width - LEFT - RIGHT) // 34, 1)
    step = next((step for step in (1, 2, 5, 10, 20, 50, 100) if layers / step <= room), layers)
    return list(range(0, layers, step))


def _after(layers: int) -> str:
    return f"after layer {layers - 1}" if layers else "embedding"


def _tip(text: str) -> Markup:
    return element("title", text)
