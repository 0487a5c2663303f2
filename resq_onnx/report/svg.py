"""SVG markup for charts: elements, axes that map numbers to pixels, and ticks."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

MAX_DECADES: Final = 6
"""Largest number of decades of a logarithmic axis that all get a tick; above it, every second or
third does."""

FEW_DECADES: Final = 2
"""Below this number of decades, a logarithmic axis also gets ticks at 2 and 5 times each power."""

STEPS: Final = (1, 2, 2.5, 5, 10)
"""Round distances between ticks, times a power of ten."""


class Markup(str):
    """Finished markup, which neither `element` nor Jinja escapes again."""

    __slots__ = ()

    def __html__(self) -> str:
        """The markup, for Jinja."""
        return self


def element(name: str, *children: str, css: str = "", **attributes: str | float | None) -> Markup:
    """One element; text and attributes are escaped.

    Args:
        name: Name of the element.
        children: Text or elements.
        css: CSS class.
        attributes: Other attributes: `stroke_width` is written stroke-width; None is omitted.
    """
    given = {"class": css or None, **attributes}
    written = "".join(
        f' {key.replace("_", "-")}="{html.escape(_plain(value))}"'
        for key, value in given.items()
        if value is not None
    )
    inner = "".join(c if isinstance(c, Markup) else html.escape(c) for c in children)
    return Markup(f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>")


def picture(width: float, height: float, label: str, parts: Iterable[str], css: str = "") -> Markup:
    """An <svg> that scales with the page; `label` is its text for screen readers."""
    box = f"0 0 {_plain(width)} {_plain(height)}"
    return element("svg", *parts, css=css, viewBox=box, role="img", aria_label=label)


def line_path(points: Sequence[tuple[float, float]], closed: bool = False) -> str:
    """The `d` of a path through points."""
    return "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in points) + ("Z" if closed else "")


@dataclass(frozen=True)
class Axis:
    """Maps numbers from `low` to `high` to pixels from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of a number; numbers out of range are clipped to the edges."""
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.logarithmic:
            low, high, value = math.log10(low), math.log10(high), math.log10(value)
        share = (value - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers on the axis: about this many equal steps, or powers of ten."""
        if self.logarithmic:
            first = math.ceil(math.log10(self.low) - 1e-9)
            last = math.floor(math.log10(self.high) + 1e-9)
            if last - first < FEW_DECADES:
                every = [m * 10.0**power for power in range(first - 1, last + 1) for m in (1, 2, 5)]
                return [value for value in every if self.low <= value <= self.high]
            step = -(-(last - first) // MAX_DECADES) or 1
            return [10.0**power for power in range(first, last + 1) if power % step == 0]
        size = round_step(self.high - self.low, about)
        first, last = math.ceil(self.low / size - 1e-9), math.floor(self.high / size + 1e-9)
        return [count * size for count in range(first, last + 1)]


def round_step(span: float, about: int) -> float:
    """A round step that divides a span into about this many parts."""
    rough = span / about
    magnitude: float = 10.0 ** math.floor(math.log10(rough))
    return magnitude * next(step for step in STEPS if step * magnitude >= rough * (1 - 1e-9))


def power_label(value: float) -> str:
    """Label of a tick of a logarithmic axis: 0.1, 1, 10, 10⁻³; and 0.02."""
    power = round(math.log10(value))
    if -1 <= power <= 2 or not math.isclose(value, 10.0**power):
        return f"{value:g}"
    return f"10{str(power).translate(SUPERSCRIPTS)}"


def _plain(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.6g}"
