"""Compares results that were just reproduced with the committed ones: identical, within the interval, or different.

On the machine and with the packages that made the committed results, a run gives the same bits. Elsewhere rounding
differs, and training amplifies it: there the mean over seeds may move, and is asked to stay within an interval about
the committed one that 95 of 100 conditions would stay in whose seeds were drawn afresh.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from infovae.claims.intervals import LEVEL, half_width
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
    metrics = [metric for metric in experiment.metrics if metric in old and not metric.endswith("seconds")]
    by = [column for column in experiment.conditions if column in old and column in new]
    merged = tables[0].merge(tables[1], on=by, how="left", suffixes=("", "_new"), indicator=True)
    for _, row in merged.iterrows():
        condition = ", ".join(f"{column} {row[column]}" for column in by)
        if row["_merge"] == "left_only":
            yield Comparison(experiment.name, condition, "different", "it was not reproduced")
        elif _identical(*(runs[_equal(runs[by], row[by])] for runs in (old, new))):
            yield Comparison(experiment.name, condition, "identical", "")
        else:
            committed = old[_equal(old[by], row[by])]
            tolerances = {metric: _tolerance(committed[metric], len(metrics)) for metric in metrics}
            details = [
                f"{metric} {row[f'{metric}_new']:.4g}, committed {row[metric]:.4g}, ± {tolerance:.2g} admitted"
                for metric, tolerance in tolerances.items()
                if not _within(row[metric], row[f"{metric}_new"], tolerance)
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


def _tolerance(committed: pd.Series, n_metrics: int) -> float:
    """Return how far the mean of a metric over as many other runs may be from that of these.

    Both means vary over seeds, hence sqrt(2); the metrics of a condition are compared all at once, hence the level. Of
    a single seed, or where seeds agree, four digits have to.
    """
    spread = half_width(committed.dropna(), LEVEL / n_metrics)
    return float(np.fmax(2**0.5 * spread, 1e-4 * abs(committed.mean())))


def _within(old: float, new: float, tolerance: float) -> bool:
    """Say whether a mean is as the committed one; where none is committed there is nothing to compare."""
    return bool(np.isnan(old) or abs(new - old) <= tolerance)
