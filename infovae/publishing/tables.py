"""An experiment's table as people read it: in a notebook, in a terminal, as LaTeX and Markdown."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import pandas as pd
from IPython.display import Markdown

from infovae.claims.intervals import SEEDS_FOR_INTERVAL
from infovae.experiments import Experiment
from infovae.experiments.sensitivity import variant_name
from infovae.labels import as_markdown, count, format_mean, format_number, label, objective_name
from infovae.paths import write_atomically

MAX_BLOCKS = 4
"""Of a turned table in a terminal."""
WORDS = {"objective": objective_name, "variant": variant_name}
"""Columns of names -> what a reader sees for one."""

AT_CAP = 0.01
"""Nats below the cap of its estimate from which I(x;z) is only known to be at least the cap."""

MAX_METRICS = 6
"""Metrics of an experiment that stand side by side; where there are more, several tables stand one below the other."""


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

    Columns and objectives have the names that a reader sees. A metric without any number is left out. So is an interval
    without width, or of fewer than `SEEDS_FOR_INTERVAL` seeds. Where runs lack a result the number of seeds says of how
    many, and why. I(x;z) at the cap of its estimate stands as "≥ cap"; the cap has no column of its own.
    """
    readable = pd.DataFrame(index=table.index)
    enough = table.get("n_seeds", pd.Series(SEEDS_FOR_INTERVAL, table.index)) >= SEEDS_FOR_INTERVAL
    for column in table.columns:
        values, interval = table[column], table.get(f"{column}_ci95")
        if (
            column.endswith("_ci95")
            or column in ("mutual_information_cap", "n_missing", "why_missing")
            or (interval is not None and values.isna().all())
        ):
            continue
        if interval is not None:
            wide = enough & (interval > 1e-6 * values.abs())  # else runs agree but for rounding
            pairs = zip(values, interval.where(wide), strict=True)
            values = pd.Series(
                [format_mean(*pair) if pair[1] == pair[1] else format_number(pair[0]) for pair in pairs], table.index
            )
            if column == "mutual_information" and "mutual_information_cap" in table:
                cap = table["mutual_information_cap"]
                values = values.mask(table[column] > cap - AT_CAP, "≥ " + cap.map(format_number))
        elif column == "n_seeds" and "n_missing" in table:
            parts = zip(values, table["n_missing"], table["why_missing"], strict=True)
            said = [f"{n} of {n + lacking}: {why}" if lacking else str(n) for n, lacking, why in parts]
            values = pd.Series(said, table.index)
        elif column in WORDS:
            values = values.map(WORDS[column])
        else:
            values = values.map(lambda value: format_number(value) if isinstance(value, float) else str(value))
        readable[column] = values
    return readable.rename(columns=label)


def preview(folder: Path, width: int) -> str:
    """Return the table of a published experiment as plain text of at most `width` characters.

    Where they are too few it is turned: a line per column of the table, and rows that do not fit in blocks below. What
    is beyond `MAX_BLOCKS` of them is counted.
    """
    table = pd.read_csv(folder / "table.csv", dtype={"why_missing": "str"}).fillna({"why_missing": ""})
    readable = format_table(table)
    text = readable.to_string(index=False)
    if _width(text) <= width:
        return text
    rest = readable.T
    blocks: list[str] = []
    while rest.shape[1] and len(blocks) < MAX_BLOCKS:
        n = rest.shape[1]
        while n > 1 and _width(rest.iloc[:, :n].to_string(header=False)) > width:
            n -= 1
        blocks.append(rest.iloc[:, :n].to_string(header=False))
        rest = rest.iloc[:, n:]
    return "\n\n".join(blocks) + f"\n... and {count(rest.columns, 'more row')} in table.csv" * (rest.shape[1] > 0)


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
    and what ± means. One with more than `MAX_METRICS` metrics becomes several, each with the columns that tell rows
    apart.
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
    if readable.map(lambda cell: " ± " in str(cell)).any(axis=None):
        notes.append("±: half of the 95 % interval of the mean over seeds, by Student; of few seeds it is wide.")
    if table.get("n_seeds", pd.Series()).between(2, SEEDS_FOR_INTERVAL - 1).any():
        notes.append(f"Of fewer than {SEEDS_FOR_INTERVAL} seeds: the mean alone, since the interval would be too wide.")
    if "KL(q(z) ‖ p(z)), nats" in readable and (readable["KL(q(z) ‖ p(z)), nats"] == "–").any():
        notes.append(
            "–: not computable, since I(x;z) is at the cap of its estimate; the rate less I(x;z) is an upper bound."
        )
    metrics = [label(column) for column in map(str, table) if f"{column}_ci95" in table and label(column) in readable]
    rows = [to_markdown(part) for part in _side_by_side(readable, metrics)] if len(table) else ["Nothing is measured."]
    return Markdown("\n\n".join([*rows, *map(as_markdown, notes)]))


def _side_by_side(readable: pd.DataFrame, metrics: list[str]) -> list[pd.DataFrame]:
    """Return a table in parts of at most `MAX_METRICS` metrics, the first with all that is no metric."""
    others = [name for name in readable if name not in metrics]
    n_parts = max(1, -(-len(metrics) // MAX_METRICS))
    parts = [metrics[len(metrics) * i // n_parts : len(metrics) * (i + 1) // n_parts] for i in range(n_parts)]
    if n_parts == 1:
        return [readable]
    keys = others[: list(readable).index(metrics[0])]
    return [readable[[*(keys if i else others), *part]] for i, part in enumerate(parts)]


_LATEX = {
    "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "±": r"$\pm$", "−": "$-$", "–": "--", "|": "$|$",
    "‖": r"$\|$", "~": r"$\sim$", "λ": r"$\lambda$", "α": r"$\alpha$", "β": r"$\beta$", "γ": r"$\gamma$",
    "χ": r"$\chi$", "²": "$^2$", "≥": r"$\ge$", "’": "'", "“": "``", "”": "''", "\\": r"\textbackslash{}",
}  # fmt: skip


def _latex_cell(cell: object) -> str:
    return "".join(_LATEX.get(character, character) for character in str(cell))
