"""A page of the project as tests look at it: well-formed, and nothing in it that a page must not have."""

import re
from html.parser import HTMLParser

_VOID = {"meta", "img", "br", "link", "hr"}
_REFERENCES = ("src", "href", "xlink:href", "action", "data", "poster", "srcset")


class Page(HTMLParser):
    """A page, or a part of one, that needs nothing but itself: its tags with their attributes, its ids, its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self._open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self._open == []
        assert not {"script", "link", "iframe", "object", "form"} & {tag for tag, _ in self.tags}
        assert not any(name.startswith("on") for _, attributes in self.tags for name in attributes)
        assert not re.search(r"url\((?!#)|@import", html)
        self.ids = self.values("id")
        assert len(set(self.ids)) == len(self.ids)
        references = [value for name in _REFERENCES for value in self.values(name)]
        self.links = [value[1:] for value in references if value.startswith("#")]
        assert set(self.links) <= set(self.ids)
        self.embedded = [value for value in references if not value.startswith("#")]
        assert all(value.startswith(("data:image/jpeg;base64,", "data:audio/")) for value in self.embedded)

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] for _, attributes in self.tags if attribute in attributes]

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if "style" in self._open else " ".join(data.split()) + " "
