"""Tables as people read them: numbers with their intervals, names with their units; Markdown, LaTeX and notebooks.

Knows nothing of claims or pages, and computes no result: an experiment's table comes from its `table`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from infovae.experiments import Experiment
from infovae.experiments.log_likelihood import PAPER_COLUMN
from infovae.labels import label
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

    Its columns have the names that a reader sees.
    """
    readable = pd.DataFrame(index=table.index)
    for column in table.columns:
        if column.endswith("_ci95"):
            continue
        interval = table.get(f"{column}_ci95")
        if interval is not None:
            readable[column] = [
                format_number(m) + (f" ± {format_number(c)}" if c == c else "")
                for m, c in zip(table[column], interval, strict=True)
            ]
        elif column != "n_failed" or table[column].any():
            readable[column] = [
                format_number(value) if isinstance(value, float) else str(value) for value in table[column]
            ]
    return readable.rename(columns=label)


def to_markdown(frame: pd.DataFrame) -> str:
    """Return a frame of strings as a Markdown table."""
    rows = [list(frame.columns), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in row) + " |" for row in rows)


def compare_with_paper(table: pd.DataFrame) -> pd.DataFrame:
    """Return paper, ours and difference where the paper has a number for a row of the table; else an empty frame."""
    if PAPER_COLUMN not in table or table[PAPER_COLUMN].isna().all():
        return pd.DataFrame()
    table = table[table[PAPER_COLUMN].notna()]
    ours = max((name for name in table if re.fullmatch(r"nll_\d+", str(name))), key=lambda name: int(str(name)[4:]))
    readable = format_table(table)
    return pd.DataFrame(
        {
            "objective": readable["objective"],
            label(PAPER_COLUMN): readable[label(PAPER_COLUMN)],
            f"ours: {label(str(ours))}": readable[label(str(ours))],
            "difference, nats": [f"{value:+.1f}" for value in table[ours] - table[PAPER_COLUMN]],
        }
    )


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
