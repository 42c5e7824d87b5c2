"""Pages that can be read offline: the index of a results folder and a page per notebook, in one style.

Nothing here computes a result, and no page requests anything but the figures beside it. Templates, style and the prose
of the discussion are the files beside this one.
"""

from __future__ import annotations

import logging
import math
import re
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

SYMBOLS = {"reproduced": "✓", "exact": "≡", "not reproduced": "✗", "inconclusive": "?", "not measured": "–"}
"""What stands beside the word and the colour of a verdict."""


def render_index(**content: Any) -> str:
    """Return index.html; `content` is what the template names."""
    page = _environment().get_template("index.html.j2").render(style=read("style.css"), symbols=SYMBOLS, **content)
    return _set_scopes(page)


def render_discussion(**content: Any) -> str:
    """Return the discussion as Markdown: its prose with the numbers and lists of `content`."""
    from jinja2 import Environment

    environment = Environment(trim_blocks=True, lstrip_blocks=True)  # Markdown: nothing is escaped
    return environment.from_string(read("discussion.md.j2")).render(**content).strip()


def render_notebook(notebook: Path, home: str = "") -> str:
    """Return an executed notebook as one page.

    Parameters
    ----------
    home : where the page's link to the index leads; empty for no link.
    """
    import nbformat
    from jinja2 import PackageLoader
    from nbconvert import HTMLExporter

    loader = PackageLoader("infovae", "site")
    exporter = HTMLExporter(template_file="notebook.html.j2", extra_loaders=[loader], exclude_anchor_links=True)
    exporter.log.setLevel(logging.ERROR)
    content = nbformat.read(notebook, as_version=4)
    heading = re.search(r"^# (.+)$", "\n".join(cell.source for cell in content.cells), re.M)
    files = sorted(path.name for path in notebook.parent.iterdir() if path.suffix == ".csv")
    given = {
        "home": home,
        "style": read("style.css") + _highlighting(),
        "title": heading and heading[1],
        "files": files,
    }
    return _set_scopes(exporter.from_notebook_node(content, resources={"site": given})[0])


def _set_scopes(page: str) -> str:
    """Say what each head of a table is the head of, where pandas and Markdown do not."""
    for part, scope in (("thead", "col"), ("tbody", "row")):
        page = re.sub(f"(?s)<{part}>.*?</{part}>", partial(_set_scope, scope=scope), page)
    return page


def _set_scope(match: re.Match[str], scope: str) -> str:
    return re.sub(r"<th(?![^>]*scope)(?=[\s>])", f'<th scope="{scope}"', match[0])


def draw_interval(low: float, mean: float, high: float, bound: float) -> str:
    """Return an effect and its interval against its bound as a small SVG, on a scale of its own.

    The bound is the line in the middle, the side where the claim holds is tinted. Numbers that stand beside it say the
    same, so that it is hidden from screen readers.
    """
    half, middle = 78, 80
    ends = [value - bound for value in (low, mean, high) if not math.isnan(value)]
    scale = (half - 6) / (max(map(abs, ends), default=0) or 1)
    parts = [
        f'<rect class="holds" x="2" y="1" width="{half}" height="18"/>',
        f'<path class="bound" d="M{middle} 0V20"/>',
    ]
    if not math.isnan(low):
        start, end = (middle + scale * (value - bound) for value in (low, high))
        parts.append(f'<path class="interval" d="M{start:.1f} 10H{end:.1f}M{start:.1f} 6V14M{end:.1f} 6V14"/>')
    if not math.isnan(mean):
        parts.append(f'<circle cx="{middle + scale * (mean - bound):.1f}" cy="10" r="3.5"/>')
    return f'<svg viewBox="0 0 160 20" width="160" height="20" aria-hidden="true">{"".join(parts)}</svg>'


def read(name: str) -> str:
    """Return the text of a file of this package."""
    return resources.files("infovae.site").joinpath(name).read_text(encoding="utf-8")


@lru_cache
def _environment() -> Environment:
    from jinja2 import Environment, PackageLoader
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    environment = Environment(
        loader=PackageLoader("infovae", "site"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    markdown = MarkdownWithMath(renderer=IPythonRenderer(escape=True, exclude_anchor_links=True))
    environment.filters["markdown"] = markdown.render
    environment.globals["draw_interval"] = draw_interval
    return environment


@lru_cache
def _highlighting() -> str:
    from pygments.formatters import HtmlFormatter  # type: ignore[import-untyped]

    light, dark = (HtmlFormatter(style=style).get_style_defs(".highlight") for style in ("default", "github-dark"))
    return f"{light}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
