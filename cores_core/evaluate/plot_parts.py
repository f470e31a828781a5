"""What all plots are made of: a frame with its axes, labels, and the SVG around them.

A plot is 440 units wide, to be read on a phone and, at about one and a quarter of that, beside another one on a screen.
Colours are variables of the page (`--c2`, `--c1`, `--muted`, `--line`), text has the colour of its surroundings.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cores_core.evaluate.report_markup import Markup, join, tag

WIDTH = 440
ANSWER, COARSE = "var(--c2, #d81b6a)", "var(--c1, #9a6500)"
MUTED, LINE = "var(--muted, #5d6673)", "var(--line, #d9dde2)"
_MAX_LABEL = 19  # characters that fit beside a bar


@dataclass(frozen=True)
class Frame:
    """Where the axes lie, in units from the top left; places on them are 0-1, to the right and upwards."""

    left: float
    right: float
    top: float
    bottom: float

    def x(self, place: float) -> float:
        """Where a place on the horizontal axis is."""
        return self.left + place * (self.right - self.left)

    def y(self, place: float) -> float:
        """Where a place on the vertical axis is."""
        return self.bottom - place * (self.bottom - self.top)


def svg(title: str, height: float, parts: Sequence[Markup]) -> Markup:
    """The plot itself; `title` is for those who hear the page."""
    return tag("svg", *parts, viewBox=f"0 0 {WIDTH} {height:g}", role="img", aria_label=title, class_="plot")


def label(x: float, y: float, text: str, anchor: str = "middle", fill: str = MUTED) -> Markup:
    """A line of text; `anchor`: start, middle or end."""
    return tag("text", text, x=x, y=y, text_anchor=anchor, fill=fill, font_size=12)


def row_label(x: float, y: float, text: str) -> Markup:
    """The name of a row, to the left of `x`, cut where there is no room."""
    shown = text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1].rstrip() + "…"
    return label(x, y, shown, anchor="end", fill="currentColor")


def grid_y(frame: Frame, place: float, text: str) -> Markup:
    """A horizontal line of the grid, and its label on the left."""
    y = frame.y(place)
    line = tag("path", d=f"M{frame.left} {y:.1f}H{frame.right}", stroke=LINE)
    return join([line, label(frame.left - 8, y + 4, text, anchor="end")])


def grid_x(frame: Frame, place: float, text: str) -> Markup:
    """A vertical line of the grid, and its label below."""
    x = frame.x(place)
    line = tag("path", d=f"M{x:.1f} {frame.top}V{frame.bottom}", stroke=LINE)
    return join([line, label(x, frame.bottom + 16, text)])


def title_x(frame: Frame, text: str) -> Markup:
    """What the horizontal axis shows."""
    return label(frame.x(0.5), frame.bottom + 36, text)


def title_y(text: str) -> Markup:
    """What the vertical axis shows, in the upper left corner."""
    return label(4, 12, text, anchor="start")
