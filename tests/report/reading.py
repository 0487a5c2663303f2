"""Reads a page as a browser would, as far as tests need it: text, attributes, open elements."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Final

VOID: Final = {"meta", "link", "br", "img", "input", "hr"}
"""Elements that have no end."""


class Page(HTMLParser):
    """A page that was read; `errors` says which ends do not fit.

    Attributes:
        words: All text but styles, blanks run together.
        elements: Names and attributes of all elements, in order.
        errors: Elements that are not closed where they should be.
    """

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.errors: list[str] = []
        self._open: list[str] = []
        self._texts: list[str] = []
        self.feed(text)
        self.close()
        self.errors += [f"{name} stays open" for name in self._open]
        self.words = " ".join(" ".join(self._texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.errors.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self._texts.append(data)

    def ids(self) -> list[str]:
        """The ids of all elements, in order."""
        return [attributes["id"] for _, attributes in self.elements if "id" in attributes]

    def of_class(self, name: str) -> list[dict[str, str]]:
        """Attributes of the elements that have a class."""
        found = (attributes for _, attributes in self.elements)
        return [each for each in found if name in each.get("class", "").split()]
