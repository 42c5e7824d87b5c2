"""Markdown as HTML: equations become MathML, headings get ids, and no HTML of a text's own passes."""

from __future__ import annotations

import itertools
import re
from html import escape, unescape
from xml.etree.ElementTree import tostring

from latex2mathml.converter import convert_to_element
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath


class Renderer(IPythonRenderer):
    """Of one page: an id that is there already gets a number."""

    def __init__(self) -> None:
        super().__init__(escape=True, allow_harmful_protocols=False, exclude_anchor_links=True)
        self.ids: set[str] = set()

    def heading(self, text: str, level: int, **attrs: object) -> str:
        """Return a heading whose id follows from its words."""
        words = unescape(re.sub(r"(?s)<math.*?</math>|<[^>]*>", "", text)).lower()
        first = re.sub(r"[^a-z0-9]+", "-", words).strip("-") or "section"
        numbered = (f"{first}-{n}" for n in itertools.count(2))
        name = next(name for name in itertools.chain([first], numbered) if name not in self.ids)
        self.ids.add(name)
        return f'<h{level} id="{name}">{text}</h{level}>\n'

    def block_math(self, body: str) -> str:
        """Return `$$...$$` as MathML on a line of its own."""
        return f'<span class="equation">{to_mathml(body, "block")}</span>'

    def inline_math(self, body: str) -> str:
        """Return `$...$` as MathML."""
        return to_mathml(body, "inline")

    def latex_environment(self, name: str, body: str) -> str:
        r"""Return `\begin{...}...\end{...}` as MathML."""
        return self.block_math(rf"\begin{{{name}}}{body}\end{{{name}}}")


def to_mathml(latex: str, display: str) -> str:
    """Return an equation as MathML; as its source, where that is no LaTeX."""
    try:
        math = convert_to_element(latex.strip(), display=display)
    except Exception:  # the converter raises whatever its parser stumbles over
        return f"<code>{escape(latex)}</code>"
    for element in math.iter():
        element.text = unescape(element.text or "")  # its symbols are character references
        if element.text in ("log", "det", "exp"):  # else it touches what follows
            element.tag, element.attrib = "mo", {"lspace": "0.1em", "rspace": "0.17em"}
    return tostring(math, encoding="unicode")  # escaped, which the converter's own text is not


def markdown() -> MarkdownWithMath:
    """Return a renderer for the texts of one page."""
    return MarkdownWithMath(renderer=Renderer())
