"""Compares results that were just reproduced with the committed ones: identical, within the interval, or different.

On the machine and with the packages that made the committed results, a run gives the same bits. Elsewhere rounding
differs, and training amplifies it: there the mean over seeds may move, and is asked to stay within the committed
95 % interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from infovae.experiments import Experiment
from infovae.publishing.report import load_published

Outcome = Literal["identical", "within the interval", "different"]


class Comparison(NamedTuple):
    """One condition of one experiment, and how its reproduced numbers compare with the committed ones."""

    experiment: str
    condition: str
    outcome: Outcome
    detail: str

    def __str__(self) -> str:
        """Return the line that `make verify` prints."""
        return f"{self.outcome}: {self.experiment}, {self.condition}" + (f": {self.detail}" if self.detail else "")


def compare(committed: Path, reproduced: Path) -> list[Comparison]:
    """Compare two results folders, one line per condition of every experiment of the committed one."""
    old, new = load_published(committed), load_published(reproduced)
    lines: list[Comparison] = []
    for name, (experiment, runs, _) in old.items():
        if name not in new:
            lines.append(Comparison(name, "the whole experiment", "different", "it was not reproduced"))
            continue
        lines += _compare_conditions(experiment, runs, new[name].runs)
    return lines


def _compare_conditions(experiment: Experiment, old: pd.DataFrame, new: pd.DataFrame) -> Iterator[Comparison]:
    """Yield a comparison for each row of the experiment's table."""
    tables = experiment.table(old), experiment.table(new)
    metrics = [metric for metric in experiment.metrics if not metric.endswith("seconds")]
    by = [column for column in experiment.conditions if column in old and column in new]
    merged = tables[0].merge(tables[1], on=by, how="left", suffixes=("", "_new"), indicator=True)
    for _, row in merged.iterrows():
        condition = ", ".join(f"{column} {row[column]}" for column in by)
        if row["_merge"] == "left_only":
            yield Comparison(experiment.name, condition, "different", "it was not reproduced")
        elif _identical(*(runs[_equal(runs[by], row[by])] for runs in (old, new))):
            yield Comparison(experiment.name, condition, "identical", "")
        else:
            details = [
                f"{metric} {row[f'{metric}_new']:.4g}, committed {row[metric]:.4g} ± {row[f'{metric}_ci95']:.2g}"
                for metric in metrics
                if not _within(row, metric)
            ]
            outcome: Outcome = "different" if details else "within the interval"
            yield Comparison(experiment.name, condition, outcome, "; ".join(details))


def _equal(conditions: pd.DataFrame, row: pd.Series) -> pd.Series:
    """Return which rows have these conditions; none in both, as of the pixel baseline's code, is equal."""
    return ((conditions == row) | (conditions.isna() & row.isna())).all(axis=1)


def _identical(old: pd.DataFrame, new: pd.DataFrame) -> bool:
    """Say whether the runs of one condition agree in every cell but the times."""
    columns = [column for column in old.columns if not column.endswith("seconds") and column != "run_id"]
    if len(old) != len(new) or set(columns) - set(new.columns):
        return False
    a, b = (frame[columns].sort_values("seed").reset_index(drop=True) for frame in (old, new))
    return a.equals(b)


def _within(row: pd.Series, metric: str) -> bool:
    """Say whether a mean lies in the committed interval; for a single seed, which has none, whether it is equal."""
    old, new, half_width = (float(row[name]) for name in (metric, f"{metric}_new", f"{metric}_ci95"))
    if np.isnan(old) or np.isnan(new):
        return np.isnan(old) == np.isnan(new)
    tolerance = 1e-6 * abs(old) if np.isnan(half_width) else half_width
    return abs(new - old) <= tolerance
