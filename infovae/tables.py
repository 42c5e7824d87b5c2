"""Tables as people read them: numbers with their intervals, names with their units; Markdown, LaTeX and notebooks.

Knows nothing of claims or pages, and computes no result: an experiment's table comes from its `table`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from infovae.experiments import Experiment
from infovae.labels import label, objective_name
from infovae.store import write_atomically

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler


def write_tables(experiment: Experiment, runs: pd.DataFrame, folder: Path) -> None:
    """Write an experiment's table as LaTeX and Markdown (mean ± 95 % interval) and as CSV (every number)."""
    table = experiment.table(runs)
    readable = format_table(table)
    latex = readable.rename(columns=_latex_cell).map(_latex_cell)
    write_atomically(folder / "table.tex", latex.to_latex(index=False, escape=False).encode())
    write_atomically(folder / "table.md", (to_markdown(readable) + "\n").encode())
    write_atomically(folder / "table.csv", table.to_csv(index=False).encode())


def format_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with each metric and its interval in one cell, "mean ± half-width"; "–" for no number.

    Columns and objectives have the names that a reader sees. A metric without any number is left out.
    """
    readable = pd.DataFrame(index=table.index)
    for column in table.columns:
        interval = table.get(f"{column}_ci95")
        if column.endswith("_ci95") or (interval is not None and table[column].isna().all()):
            continue
        if interval is not None:
            readable[column] = [
                format_number(m) + (f" ± {format_number(c)}" if c == c else "")
                for m, c in zip(table[column], interval, strict=True)
            ]
        elif column == "objective":
            readable[column] = table[column].map(objective_name)
        elif not column.endswith("_missing") or table[column].any():
            readable[column] = [
                format_number(value) if isinstance(value, float) else str(value) for value in table[column]
            ]
    return readable.rename(columns=label)


def to_markdown(frame: pd.DataFrame) -> str:
    """Return a frame of strings as a Markdown table."""
    rows = [list(frame.columns), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in row) + " |" for row in rows)


def show_table(readable: pd.DataFrame, identity: str = "table") -> Styler:
    """Return a table of words for a notebook, with all of its columns; identities differ within a page."""
    left = {"text-align": "left", "vertical-align": "top"}
    return readable.style.hide(axis="index").set_properties(subset=None, **left).set_uuid(identity)


def format_number(value: float) -> str:
    """Return a number with three significant digits, without exponent where it stays short."""
    if value != value:
        return "–"
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e+" in text else text


_LATEX = {
    "_": r"\_", "%": r"\%", "±": r"$\pm$", "−": "$-$", "–": "--", "|": "$|$", "‖": r"$\|$", "~": r"$\sim$",
    "λ": r"$\lambda$", "α": r"$\alpha$",
}  # fmt: skip


def _latex_cell(cell: object) -> str:
    return "".join(_LATEX.get(character, character) for character in str(cell))
