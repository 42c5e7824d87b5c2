"""Pages load nothing from elsewhere, say what their figures show, and can be read in a browser without an error."""

import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest

from infovae.config import PROJECT_ROOT
from infovae.site import draw_interval, read, render_discussion, render_notebook

RESULTS = PROJECT_ROOT / "results"
PAGES = sorted(path for path in RESULTS.glob("*/**/*.html") if path.relative_to(RESULTS).parts[0] != "custom")
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
        for style in (r"@import\s+[\"']?([^\"';]+)", r"url\([\"']?([^\"')]+)"):
            self.loads += re.findall(style, self.text)

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


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(RESULTS)))
def test_committed_pages_stand_alone(path: Path) -> None:
    check(path)
    if path.name == "notebook.html":
        assert "../index.html" in Page(path).links


DAMAGE = [
    "<script src='https://a.b/c.js'></script>",
    "<script src=''></script>",
    "<img src='//a.b/c.png' alt='x'>",
    "<style>@import 'https://a.b'</style>",
    "<style>p { background: url(http://a.b/c.png) }</style>",
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_check_sees_a_request(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "page.html"
    path.write_text(f"<html lang=en><title>t</title><nav></nav><main><h1>h</h1>{damage}</main></html>")
    with pytest.raises(AssertionError, match="not beside it"):
        check(path)


def test_notebook_becomes_a_page(tmp_path: Path) -> None:
    words = {"image/png": {"alt": 'a "b" <c>'}}
    image = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="}, metadata=words)
    cells = [nbformat.v4.new_markdown_cell("# A & B"), nbformat.v4.new_code_cell("x = 1", outputs=[image])]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebook.ipynb")
    (tmp_path / "page.html").write_text(render_notebook(tmp_path / "notebook.ipynb"))
    page = Page(tmp_path / "page.html")
    assert page.all("img")[0]["alt"] == 'a "b" <c>'
    assert "<title>A &amp; B · InfoVAE" in page.text and page.links == ["#main", "notebook.ipynb"]
    assert 'class="highlight' in page.text
    assert page.all("meta")[1]["content"] == "script-src 'none'", "no text of a result may run in a reader's browser"


def test_interval_lies_on_its_side_of_the_bound() -> None:
    drawn = draw_interval(low=1.0, mean=2.0, high=3.0, bound=0.5)
    start, end = map(float, re.findall(r"M([\d.]+) 10H([\d.]+)", drawn)[0])
    (dot,) = map(float, re.findall(r'cx="([\d.]+)"', drawn))
    assert 80 < start < dot < end <= 160 and dot - start == pytest.approx(end - dot, abs=0.2)
    assert "interval" not in draw_interval(math.nan, -1.0, math.nan, 0.0)
    assert float(re.findall(r'cx="([\d.]+)"', draw_interval(math.nan, -1.0, math.nan, 0.0))[0]) < 80
    assert "circle" not in draw_interval(math.nan, math.nan, math.nan, 0.0)


def test_style_speaks_of_every_class_that_a_verdict_has() -> None:
    assert all(f".{name}" in read("style.css") for name in ("reproduced", "exact", "not-reproduced", "inconclusive"))


def test_discussion_lists_what_was_refuted() -> None:
    given = {
        "profile": "quick", "device": "cpu", "seeds": [2], "caveats": [("T", "C.")], "n_open": 3, "n_leaning": 2,
        "n_dropped": 1, "n_unmeasured": 4, "n_pairs": 5, "n_both": 6, "n_agreeing": 6, "n_decided": 7, "n_stable": 8,
        "n_turned": 9, "deviations": [("m.py", "text.")],
    }  # fmt: skip
    refuted = {"statement": "S.", "effect": "E", "measured": "1 [0.5, 2]", "bound": 0.0}
    assert "- S. — E: 1 [0.5, 2], bound 0." in render_discussion(refuted=[refuted], **given)
    text = render_discussion(refuted=[], **given)
    assert "No claim was judged" in text and "`m.py`" in text and "trained on a CPU" in text
    numbers = re.findall(r"\d", re.sub(r"50,000|16 channels|95 %", "", text.partition("### What the budget")[0]))
    assert {*map(int, numbers)} >= set(range(1, 10)), "a number is missing"


def browse(path: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Open a page in a browser whose every name fails to resolve; return what it requested and its console's lines."""
    quiet = ["gpu", "quic", "background-networking", "component-update", "sync"]
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet),
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}",
            f"--log-net-log={folder / 'net.json'}", "--enable-logging=stderr", "--dump-dom", path.as_uri(),
        ],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "</html>" in done.stdout, done.stderr
    log = json.loads((folder / "net.json").read_text(encoding="utf-8", errors="replace"))
    found = [event["params"] for event in log["events"] if {"url", "initiator"} <= event.get("params", {}).keys()]
    own = [each["url"] for each in found if each["initiator"] != "not an origin"]  # the browser has errands, too
    return own, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_browser_would_see_a_request_and_an_error(tmp_path: Path) -> None:
    bad = "<html><img src='http://example.org/a.png'><script>undefinedFunction()</script></html>"
    (tmp_path / "bad.html").write_text(bad)
    requests, errors = browse(tmp_path / "bad.html", tmp_path)
    assert requests == ["http://example.org/a.png"] and len(errors) == 1


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(RESULTS)))
def test_browser_requests_nothing_and_sees_no_error(path: Path, tmp_path: Path) -> None:
    assert browse(path, tmp_path) == ([], [])
