"""Pages load nothing from elsewhere, say what their figures show, and can be read in a browser without an error."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
from pages import CHROMIUM, Page, check

from infovae.paths import PROJECT_ROOT
from infovae.publishing.site import SYMBOLS, render_markdown, render_notebook, style

RESULTS = PROJECT_ROOT / "results"
PAGES = sorted(path for path in RESULTS.glob("*/**/*.html") if path.relative_to(RESULTS).parts[0] != "custom")


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


def make_page(folder: Path, cells: list[nbformat.NotebookNode], **options: Any) -> Page:
    """Return the page of a notebook of some cells."""
    nbformat.write(nbformat.v4.new_notebook(cells=cells), folder / "notebook.ipynb")
    (folder / "page.html").write_text(render_notebook(folder / "notebook.ipynb", **options), encoding="utf-8")
    return Page(folder / "page.html")


def show(data: dict[str, str], **metadata: Any) -> nbformat.NotebookNode:
    """Return a cell of code, with what it shows."""
    return nbformat.v4.new_code_cell("x = 1", outputs=[nbformat.v4.new_output("display_data", data, metadata=metadata)])


def test_notebook_becomes_a_page(tmp_path: Path) -> None:
    image = show({"image/png": "iVBORw0KGgo="}, **{"image/png": {"alt": 'a "b" <c>'}})
    cells = [nbformat.v4.new_markdown_cell("# A & B\n\n## C\n\n## C"), image]
    page = make_page(tmp_path, cells, home="../index.html", command='make run PARAMS="<b>"')
    assert page.all("img")[0]["alt"] == 'a "b" <c>'
    assert "<title>A &amp; B · InfoVAE" in page.text
    assert page.links == ["#main", "../index.html", "notebook.ipynb", "#c", "#c-2"]
    assert "<code>make run PARAMS=" in page.text and not page.all("b")
    assert 'class="highlight' in page.text
    assert page.all("meta")[1]["content"] == "script-src 'none'", "no text of a result may run in a reader's browser"
    assert 'class="highlight' not in make_page(tmp_path, cells, code=False).text.partition("</style>")[2]


def test_published_figure_is_loaded_by_its_name(tmp_path: Path) -> None:
    words = {"alt": "[x] <y>", "src": "experiment/a b.png", "width": 300}
    cells = [show({"image/png": "iVBORw0KGgo="}, **{"image/png": words})]
    page = make_page(tmp_path, cells)
    assert page.loads == ["experiment/a b.png"] and page.all("img")[0]["width"] == "300"
    assert render_markdown(tmp_path / "notebook.ipynb").strip() == r"![\[x\] \<y>](experiment/a%20b.png)"


def test_equations_become_mathml(tmp_path: Path) -> None:
    page = make_page(tmp_path, [nbformat.v4.new_markdown_cell(r"# $q(z)$" + "\n\n$$\\frac{a}{b}$$\n\n$\\frac$ \\$5")])
    assert [each["display"] for each in page.all("math")] == ["inline", "block"]
    assert len(page.all("mfrac")) == 1 and "$$" not in page.text.partition("<main")[2]
    assert "<code>\\frac</code> $5" in page.text, "what is no equation stands there as it is"


def test_every_heading_has_an_id_of_its_own(tmp_path: Path) -> None:
    page = make_page(tmp_path, [nbformat.v4.new_markdown_cell("## C\n\n## C\n\n## C 2\n\n## C")])
    assert [each["id"] for each in page.all("h2")] == ["c", "c-2", "c-2-2", "c-3"]


@pytest.mark.parametrize("path", sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_every_equation_of_a_notebook_converts(path: Path, tmp_path: Path) -> None:
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown"]
    page = make_page(tmp_path, cells)
    prose = "".join(cell.source for cell in cells)
    found = re.findall(r"(?s)<math.*?</math>", page.text.partition("<main")[2])
    assert len(found) == len(re.findall(r"\$\$.+?\$\$|\$.+?\$", prose, re.S)) > 0
    assert not [each for each in found if "\\" in each]


EVIL = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>"


@pytest.mark.parametrize("kind", ["text/markdown", "text/plain", "alt", "stream", "cell"])
def test_no_text_becomes_markup(kind: str, tmp_path: Path) -> None:
    cells = {
        "cell": nbformat.v4.new_markdown_cell(f"# {EVIL}\n\n{EVIL}\n\n[a](javascript:{EVIL})\n\n$\\text{{{EVIL}}}$"),
        "alt": show({"image/png": EVIL}, **{"image/png": {"alt": EVIL, "src": f"a{EVIL}"}}),
        "stream": nbformat.v4.new_code_cell(EVIL, outputs=[nbformat.v4.new_output("stream", text=EVIL)]),
    }
    page = make_page(tmp_path, [cells.get(kind) or show({kind: EVIL})], command=EVIL, home=EVIL)
    assert not page.all("script") and len(page.all("img")) == (kind == "alt")
    assert not [attributes for _, attributes in page.tags if "onerror" in attributes]


def test_cells_of_tables_say_what_they_hold(tmp_path: Path) -> None:
    table = f"| a | b |\n| --- | --- |\n| ✗ not reproduced | {'word ' * 20}|"
    page = make_page(tmp_path, [nbformat.v4.new_markdown_cell(table)])
    assert [cell.get("class") for cell in page.all("td")] == ["not-reproduced", "long"]
    assert all(head["scope"] == "col" for head in page.all("th"))
    assert 'class="scroll" role="region" tabindex="0"><table>' in page.text


def test_style_speaks_of_every_class_that_a_verdict_has() -> None:
    assert all(f".{verdict.replace(' ', '-')}" in style() for verdict in SYMBOLS)


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
