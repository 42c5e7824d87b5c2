"""What tests look at in a page: what it loads, where its links lead, whether it can be heard as well as seen."""

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

LOADING = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "object": "data"}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """What a browser would load from a page, what it links to, and what it tells those who cannot see it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.text = path, path.read_text(encoding="utf-8")
        self.loads: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(self.text)
        for pattern in (r"@import\s+[\"']?([^\"';]+)", r"url\([\"']?([^\"')]+)"):
            self.loads += re.findall(pattern, self.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.tags.append((tag, given))
        if tag in LOADING and LOADING[tag] in given:
            self.loads.append(given[LOADING[tag]] or "//the page itself")
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if given.get("id"):
            self.ids.append(str(given["id"]))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of one kind."""
        return [attributes for name, attributes in self.tags if name == tag]


def check(path: Path) -> None:
    """Assert that a page stands alone beside the files it names, and can be heard as well as seen."""
    page = Page(path)
    for address in page.loads:
        local = not re.match(r"([a-z]+:)?//", address) and (path.parent / address[:250]).is_file()
        assert address.startswith("data:") or local, f"{path} loads {address[:80]}, which is not beside it"
    for link in page.links:
        if not re.match(r"[a-z]+:", link):
            file, _, anchor = unquote(link).partition("#")
            assert not file or (path.parent / file).exists(), f"{path} links to {file}, which is not there"
            assert file or not anchor or anchor in page.ids, f"{path} links to #{anchor}, which is not there"
    assert len(set(page.ids)) == len(page.ids)
    assert page.all("html")[0]["lang"] == "en" and page.all("title") and page.all("main") and page.all("nav")
    assert len(page.all("h1")) == 1
    assert all(len(image.get("alt") or "") > 30 for image in page.all("img")), "a figure has no alternative text"
    assert all(head.get("scope") for head in page.all("th"))
    assert not page.all("script")
