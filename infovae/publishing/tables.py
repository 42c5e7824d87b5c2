"""An experiment's table as people read it: in a notebook, in a terminal, as LaTeX and Markdown."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd
from IPython.display import Markdown

from infovae.experiments import Experiment
from infovae.experiments.sensitivity import variant_name
from infovae.labels import as_markdown, format_number, label, objective_name
from infovae.paths import write_atomically
from infovae.plotting import count

WORDS = {"objective": objective_name, "variant": variant_name}
"""Columns of names -> what a reader sees for one."""

AT_CAP = 0.01
"""Nats below the cap of its estimate from which I(x;z) is only known to be at least the cap."""


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

    Columns and objectives have the names that a reader sees. A metric without any number is left out, and so is an
    interval without width. I(x;z) at the cap of its estimate stands as "≥ cap"; the cap has no column of its own.
    """
    readable = pd.DataFrame(index=table.index)
    for column in table.columns:
        values, interval = table[column], table.get(f"{column}_ci95")
        if (
            column.endswith("_ci95")
            or column == "mutual_information_cap"
            or (interval is not None and values.isna().all())
        ):
            continue
        if column in ("n_missing", "why_missing") and not values.map(bool).any():
            continue
        if interval is not None:
            wide = interval > 1e-6 * values.abs()  # else runs agree but for rounding
            values = values.map(format_number) + interval.map(format_number).radd(" ± ").where(wide, "")
            if column == "mutual_information" and "mutual_information_cap" in table:
                cap = table["mutual_information_cap"]
                values = values.mask(table[column] > cap - AT_CAP, "≥ " + cap.map(format_number))
        elif column in WORDS:
            values = values.map(WORDS[column])
        else:
            values = values.map(lambda value: format_number(value) if isinstance(value, float) else str(value))
        readable[column] = values
    return readable.rename(columns=label)


def preview(folder: Path, width: int) -> str:
    """Return the table of a published experiment as plain text of at most `width` characters.

    Where they are too few it is turned: a line per column of the table. Rows that do not fit are counted.
    """
    table = pd.read_csv(folder / "table.csv", dtype={"why_missing": "str"}).fillna({"why_missing": ""})
    readable = format_table(table)
    text, n = readable.to_string(index=False), len(readable)
    if _width(text) <= width:
        return text
    turned = readable.T
    while n > 1 and _width(turned.iloc[:, :n].to_string(header=False)) > width:
        n -= 1
    more = count(readable[n:], "more row")
    return turned.iloc[:, :n].to_string(header=False) + f"\n... and {more} in table.csv" * (n < len(readable))


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def to_markdown(frame: pd.DataFrame, markup: Collection[str] = ()) -> str:
    """Return a frame as a Markdown table, left-aligned, its cells as they are but in the columns of `markup`."""
    raw = [column in markup for column in frame.columns]
    rows = [
        [str(cell) if is_raw else as_markdown(cell) for cell, is_raw in zip(row, raw, strict=True)]
        for row in [list(frame.columns), *frame.to_numpy().tolist()]
    ]
    return "\n".join("| " + " | ".join(row) + " |" for row in [rows[0], [":---"] * frame.shape[1], *rows[1:]])


def show_table(table: pd.DataFrame) -> Markdown:
    """Return a table for a notebook, as `format_table` has it.

    Of an experiment's table, what is the same in every row stands once below it; so does how many rows are not run yet,
    and what ± means.
    """
    notes = []
    if "n_missing" in table:
        waiting = (table["n_seeds"] == 0) & (table["why_missing"] == "not run")
        if waiting.any():
            notes.append(f"Not run yet: {waiting.sum()} of {len(table)} rows.")
        table = table[~waiting]
    readable = format_table(table)
    if "n_missing" in table and len(table) > 1:
        same = readable.columns[readable.nunique() == 1]
        if len(same):
            notes.append(
                "The same in every row: " + "; ".join(f"{name} {readable[name].iloc[0]}" for name in same) + "."
            )
        readable = readable.drop(columns=same)
    if readable.map(lambda cell: "±" in str(cell)).any(axis=None):
        notes.append("±: half of the 95 % interval of the mean over seeds, by Student; of few seeds it is wide.")
    if "KL(q(z) ‖ p(z)), nats" in readable and (readable["KL(q(z) ‖ p(z)), nats"] == "–").any():
        notes.append(
            "–: not computable, since I(x;z) is at the cap of its estimate; the rate less I(x;z) is an upper bound."
        )
    lines = [to_markdown(readable) if len(table) else "Nothing is measured.", *map(as_markdown, notes)]
    return Markdown("\n\n".join(lines))


_LATEX = {
    "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "±": r"$\pm$", "−": "$-$", "–": "--", "|": "$|$",
    "‖": r"$\|$", "~": r"$\sim$", "λ": r"$\lambda$", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$",
    "χ": r"$\chi$", "²": "$^2$", "≥": r"$\ge$", "’": "'", "“": "``", "”": "''", "\\": r"\textbackslash{}",
}  # fmt: skip


def _latex_cell(cell: object) -> str:
    return "".join(_LATEX.get(character, character) for character in str(cell))
