"""Executed notebooks as pages that can be read offline, all in one style, and the report's as Markdown too.

Nothing here computes a result, and no page requests anything but the figures beside it. Templates and style are the
files beside this one.
"""

from __future__ import annotations

import logging
import re
from base64 import b64decode
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from infovae.labels import as_markdown

SYMBOLS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?", "not measured": "–"}
"""What stands beside the word and the colour of a verdict."""

LONG = 40
"""Characters from which a cell of a table may be broken into lines."""


def render_notebook(notebook: Path, home: str = "", command: str = "", code: bool = True) -> str:
    """Return an executed notebook as one page.

    Parameters
    ----------
    home : where the page's link to the index leads; empty for no link.
    command : what makes the page's numbers; empty for none.
    code : whether the page shows the cells of code, too, and not their outputs alone.
    """
    import nbformat
    from jinja2 import PackageLoader
    from nbconvert import HTMLExporter

    from infovae.publishing.site.markdown import markdown

    exporter = HTMLExporter(
        template_file="notebook.html.j2", extra_loaders=[PackageLoader("infovae.publishing", "site")],
        exclude_input=not code, filters={"markdown2html": markdown().render},
    )  # fmt: skip
    exporter.log.setLevel(logging.ERROR)
    content = nbformat.read(notebook, as_version=4)
    _refer_to_files(content, notebook.parent)
    heading = re.search(r"^# (.+)$", "\n".join(cell.source for cell in content.cells), re.M)
    given: dict[str, Any] = {
        "home": home,
        "command": command,
        "style": style(),
        "title": heading[1].replace("$", "") if heading else notebook.stem,
        "files": sorted(path.name for path in notebook.parent.iterdir() if path.suffix == ".csv"),
    }
    return _finish(exporter.from_notebook_node(content, resources={"site": given})[0])


def _refer_to_files(content: Any, folder: Path) -> None:
    """Have a notebook's figures that lie in its folder as files shown from there, instead of written into the page."""
    files = {path.read_bytes(): path.name for path in sorted(folder.glob("*.png"))}
    for cell in content.cells:
        for output in cell.get("outputs", []):
            if name := files.get(b64decode(output.get("data", {}).get("image/png", ""))):
                output.metadata.setdefault("image/png", {})["src"] = name


def render_markdown(notebook: Path) -> str:
    """Return the texts and outputs of an executed notebook as Markdown, with its published figures by their names."""
    import nbformat
    from jinja2 import PackageLoader
    from nbconvert import MarkdownExporter

    loader = PackageLoader("infovae.publishing", "site")
    filters = {"as_markdown": as_markdown}
    exporter = MarkdownExporter(
        template_file="report.md.j2", extra_loaders=[loader], exclude_input=True, filters=filters
    )
    text = exporter.from_notebook_node(nbformat.read(notebook, as_version=4))[0]
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _finish(page: str) -> str:
    """Give tables what Markdown and pandas cannot, and the page its contents."""
    for part, scope in (("thead", "col"), ("tbody", "row")):
        page = re.sub(f"(?s)<{part}>.*?</{part}>", partial(_set_scope, scope=scope), page)
    page = re.sub(r"<td[^>]*>((?:(?!</?td).)*)</td>", _mark_cell, page)
    page = re.sub(r"<table(?=[\s>])", '<div aria-label="table" class="scroll" role="region" tabindex="0"><table', page)
    page = page.replace("</table>", "</table></div>")
    heads = re.findall(r'(?s)<h2 id="([^"]*)">(.*?)</h2>', page)
    return page.replace(
        "<!-- contents -->", "".join(f'<li><a href="#{name}">{words}</a></li>' for name, words in heads)
    )


def _set_scope(match: re.Match[str], scope: str) -> str:
    return re.sub(r"<th(?![^>]*scope)(?=[\s>])", f'<th scope="{scope}"', match[0])


def _mark_cell(match: re.Match[str]) -> str:
    """Say in a cell's class that it is a verdict, or long."""
    symbols = "".join(map(re.escape, SYMBOLS.values()))
    verdict = re.match(rf"[{symbols}] ({'|'.join(SYMBOLS)})", match[1])
    name = verdict[1].replace(" ", "-") if verdict else "long" if len(match[1]) > LONG else ""
    return f'<td class="{name}">{match[1]}</td>' if name else f"<td>{match[1]}</td>"


@lru_cache
def style() -> str:
    """Return the style of a page, and of the code on it."""
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]

    own = resources.files("infovae.publishing.site").joinpath("style.css").read_text(encoding="utf-8")
    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("default", "github-dark"))
    return f"{own}{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
