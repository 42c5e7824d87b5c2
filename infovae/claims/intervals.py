"""Student's and Welch's intervals and p-values over seeds, and Holm's procedure for several: their only home."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

LEVEL = 0.05
"""Of every test, two-sided: intervals are at 1 - LEVEL."""

SEEDS_FOR_INTERVAL = 3
"""Seeds from which an interval is shown: for two Student's factor is 12.7."""


def half_width(values: pd.Series, level: float = LEVEL) -> float:
    """Return the half-width of Student's interval of the mean at 1 - `level`; NaN for fewer than two values."""
    from scipy import stats

    n = len(values)
    return float(stats.t.ppf(1 - level / 2, n - 1) * values.std() / n**0.5) if n > 1 else math.nan


def p_value(values: pd.Series) -> float:
    """Return the two-sided p-value of a mean of 0, by Student's t; 1 for fewer than two values."""
    from scipy import stats

    n, mean = len(values), abs(values.mean())
    if n < 2 or mean == 0:
        return 1.0
    error = values.std() / n**0.5
    return float(2 * stats.t.sf(mean / error, n - 1)) if error > 1e-12 * mean else 0.0  # else equal to rounding


def welch(a: pd.Series, b: pd.Series) -> tuple[float, float, float]:
    """Return the ends of Welch's interval of mean(a) - mean(b), and the p-value of 0; NaN for fewer than two values.

    For values that are not paired. Of values that are equal but for rounding p is 0, or 1 where their means are equal.
    """
    from scipy import stats

    if min(len(a), len(b)) < 2:
        return math.nan, math.nan, math.nan
    difference, parts = float(a.mean() - b.mean()), [values.var() / len(values) for values in (a, b)]
    error = sum(parts) ** 0.5
    if error <= 1e-12 * max(abs(a.mean()), abs(b.mean())):  # the values differ by rounding
        return difference, difference, float(abs(difference) <= error)
    freedom = sum(parts) ** 2 / sum(part**2 / (len(x) - 1) for part, x in zip(parts, (a, b), strict=True))
    half = float(stats.t.ppf(1 - LEVEL / 2, freedom) * error)
    return difference - half, difference + half, float(2 * stats.t.sf(abs(difference) / error, freedom))


def holm(p: pd.Series) -> pd.Series:
    """Return p-values adjusted by Holm's procedure, in their order; NaN stays NaN and is not counted."""
    ordered = p.dropna().sort_values(kind="stable")
    return (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1).reindex(p.index)
