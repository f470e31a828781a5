"""HTML from small functions that return strings, safe by default: what is not `Markup` yet is escaped."""

from collections.abc import Iterable
from html import escape

_VOID = {"img", "link", "meta"}
"""Elements without an end."""


class Markup(str):
    """A string that is HTML already. Any operation on it gives a plain string, which is escaped again."""

    __slots__ = ()


def tag(name: str, /, *children: str, **attributes: str | float | None) -> Markup:
    """An element.

    Args:
        children: text, which is escaped, or `Markup`.
        attributes: by name, with `_` for `-` and one more at the end for words of Python; numbers are rounded to two
            decimals, and None leaves the attribute out.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_write(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{join(children)}</{name}>")


def join(children: Iterable[str]) -> Markup:
    """Several pieces, one after the other; text among them is escaped."""
    return Markup("".join(child if isinstance(child, Markup) else escape(child) for child in children))


def table(heads: Iterable[str], rows: Iterable[Iterable[str]], label: str) -> Markup:
    """A table in a box of its own, which scrolls where it is too wide; the first cell of each row names the row."""
    head = tag("tr", *(tag("th", cell, scope="col") for cell in heads))
    body = [
        tag("tr", tag("th", first, scope="row"), *(tag("td", cell) for cell in rest))
        for first, *rest in map(list, rows)
    ]
    content = tag("table", tag("thead", head), tag("tbody", *body))
    return tag("div", content, class_="scroll", role="region", aria_label=label, tabindex="0")


def _write(value: str | float) -> str:
    return value if isinstance(value, str) else f"{round(value, 2):g}"
