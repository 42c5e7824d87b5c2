"""What a claim is, which effects it may rest on, and how its verdict follows from them.

A claim names one effect per seed, averaged over the other conditions within the seed, and a bound that the paper's
statement puts on it. The verdict follows from the 95 % interval over seeds (Student) and nothing else. A seed that
lacks a run which the claim needs, because it failed or because its code is empty, drops out, is counted, and keeps
the verdict from being more than inconclusive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from infovae.config import EMPTY_CODE

Effects = Callable[[pd.DataFrame], pd.Series]
"""Maps all runs of an experiment to one number per seed; KeyError where the runs hold no such condition or metric."""

Status = Literal["seed", "checked", "recalled"]
Verdict = Literal["reproduced", "exact", "not reproduced", "inconclusive", "not measured"]
Dims = Literal["all", "few", "many", "above 2"]

SOURCES: dict[Status, str] = {"seed": "summary", "checked": "paper", "recalled": "paper (recalled, unverified)"}

EMPTY_TOY_CODE = 0.1
"""What `EMPTY_CODE` is elsewhere, in the toy, whose code can hold no more than log 2. With lambda_ = 500 and kernel
exp(-d^2) the optimum of InfoVAE itself holds 0.22 nats (two Gaussians, exact population MMD): this is about half of
that. It replaced half of log 2, by which no code that matches the prior could count, after runs had been seen."""

FEW, MANY = 5, 40
"""Latent dimensions up to which the paper's "few" reaches, and from which its "many" starts."""


@dataclass(frozen=True)
class Claim:
    """One statement of the paper and the rule by which runs decide it.

    Attributes
    ----------
    status : how sure we are that the paper says so: "seed", "checked" or "recalled" (from memory, unverified).
    effect : what `effects` measures, with its unit.
    bound : the claim holds where the effect lies below it.
    effects : maps all runs of an experiment, failed ones with NaN for metrics, to one number per seed, NaN where a
        run that it needs is missing.
    caveat : what a reader must know lest the verdict be taken for more than it says.
    """

    name: str
    statement: str
    status: Status
    experiment: str
    effect: str
    bound: float
    effects: Effects
    caveat: str = ""

    @property
    def rule(self) -> str:
        """The rule of the verdict, in words."""
        return (
            f"reproduced if the whole 95 % interval lies below {self.bound:g}, not reproduced if it lies above, "
            "else inconclusive; inconclusive with a single seed, or if a seed dropped out"
        )


def judge(claim: Claim, runs: pd.DataFrame | None) -> dict[str, object]:
    """Return a claim's row of the ledger: effect, interval over seeds, n, verdict and what it rests on."""
    effects = pd.Series(dtype=float)
    if runs is not None:
        try:
            effects = claim.effects(runs)
        except KeyError:  # the runs hold no such condition or metric: the claim was not measured
            effects = pd.Series(dtype=float)
    n_dropped = int(effects.isna().sum())
    effects = effects.dropna()
    n = len(effects)
    mean, half_width = float("nan"), float("nan")
    if n:
        mean = float(effects.mean())
        half_width = _half_width(effects)
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "source": SOURCES[claim.status],
        "experiment": claim.experiment,
        "effect": claim.effect,
        "bound": claim.bound,
        "mean": mean,
        "ci95_low": mean - half_width,
        "ci95_high": mean + half_width,
        "n_seeds": n,
        "n_dropped_seeds": n_dropped,
        "verdict": _verdict(mean, half_width, n, n_dropped, claim.bound),
        "rule": claim.rule,
        "caveat": claim.caveat,
    }


def judge_identity(
    *, name: str, statement: str, status: Status, effect: str, error: float, bound: float
) -> dict[str, object]:
    """Return the ledger's row of a statement that is exact: no seed varies, and rounding alone may differ."""
    return {
        "claim": name,
        "statement": statement,
        "source": SOURCES[status],
        "experiment": "",
        "effect": effect,
        "bound": bound,
        "mean": error,
        "ci95_low": error,
        "ci95_high": error,
        "n_seeds": 0,
        "n_dropped_seeds": 0,
        "verdict": "exact" if error < bound else "not reproduced",
        "rule": f"an identity: exact if the difference lies below {bound:g}, else not reproduced",
        "caveat": "",
    }


def _verdict(mean: float, half_width: float, n: int, n_dropped: int, bound: float) -> Verdict:
    if n == 0:
        return "inconclusive" if n_dropped else "not measured"
    if n_dropped == 0 and mean + half_width < bound:  # false for one seed, whose interval is NaN
        return "reproduced"
    if n_dropped == 0 and mean - half_width > bound:
        return "not reproduced"
    return "inconclusive"


def _pivot(runs: pd.DataFrame, values: pd.Series, *conditions: str) -> pd.DataFrame:
    """Return values with rows (seed, *conditions) and a column per objective; NaN where a run failed."""
    values = values.where(runs["status"] == "done")
    index = [runs[name] for name in ("seed", *conditions, "objective")]
    indexed = values.set_axis(pd.MultiIndex.from_arrays(index))
    return indexed[~indexed.index.duplicated()].unstack(
        "objective"
    )  # of settings told apart by other columns the first


def _by_condition(runs: pd.DataFrame, metric: str, dims: Dims = "all", used_only: bool = False) -> pd.DataFrame:
    """Return a metric under a PixelCNN decoder: rows (seed, latent_dim), a column per objective, NaN where missing.

    `used_only` leaves out empty codes.
    """
    runs = runs[runs["latent_dim"].notna() & (runs["decoder"] == "pixelcnn")]
    ranges = {"few": (1, FEW), "many": (MANY, 10**9), "above 2": (3, 10**9)}
    runs = runs[runs["latent_dim"].between(*ranges.get(dims, (1, 10**9)))]
    return _pivot(runs, _used(runs, metric) if used_only else runs[metric], "latent_dim")


def _used(runs: pd.DataFrame, metric: str) -> pd.Series:
    """Return a metric, NaN where the code is empty."""
    threshold = EMPTY_TOY_CODE if set(runs["dataset"]) == {"two_points"} else EMPTY_CODE
    return runs[metric].where(runs["mutual_information"] >= threshold)


def per_seed(values: pd.Series) -> pd.Series:
    """Return the mean over the other conditions of each seed; NaN if one of them is missing."""
    return values.groupby("seed").agg(lambda group: group.mean(skipna=False))


def _least_favourable(values: pd.Series) -> pd.Series:
    """Return, of values by seed and conditions, those of the condition on which a claim about all of them hangs.

    The claim is that every condition's value lies below 0. One condition whose 95 % interval lies above refutes it,
    however the others scatter: the one whose interval lies highest. Without such a one the condition whose interval
    reaches highest is returned, so that the claim holds only where every interval does. (Each seed's own worst
    condition would have too narrow an interval.) A seed that lacks a condition is NaN.
    """
    wide = values.unstack([name for name in values.index.names if name != "seed"])
    wide = wide.to_frame() if isinstance(wide, pd.Series) else wide
    mean = wide.mean()
    half_width = pd.Series([_half_width(wide[column].dropna()) for column in wide], index=mean.index)
    low, high = mean - half_width, mean + half_width
    ranked = low if (low > 0).any() else high if high.notna().any() else mean  # a single seed has no interval
    hangs_on = int(ranked.fillna(-math.inf).to_numpy().argmax())
    return wide.iloc[:, hangs_on].where(wide.notna().all(axis=1))


def _half_width(values: pd.Series) -> float:
    """Return the half-width of Student's 95 % interval of the mean; NaN for a single value."""
    from scipy import stats

    n = len(values)
    return float(stats.t.ppf(0.975, n - 1) * values.std() / n**0.5) if n > 1 else math.nan


def worst_level(metric: str, objective: str, sign: float = 1, shift: float = 0) -> Effects:
    """Return sign * metric + shift of one objective in the least favourable dimension."""
    return lambda runs: _least_favourable(sign * _by_condition(runs, metric)[objective] + shift)


def difference(
    metric: str, objective: str, reference: str, dims: Dims = "all", shift: float = 0, used_only: bool = False
) -> Effects:
    """Return metric(objective) - metric(reference) + shift, paired by dimension and averaged over the dimensions."""

    def effects(runs: pd.DataFrame) -> pd.Series:
        wide = _by_condition(runs, metric, dims, used_only)
        return per_seed(wide[objective] - wide[reference]) + shift

    return effects


def used_code_against(metric: str, objective: str, reference: str, shift: float) -> Effects:
    """Return metric(objective) - metric(reference) + shift, paired by dimension; used codes of the objective only.

    The reference's code may be empty: one that is so by right is still what is to be matched.
    """

    def effects(runs: pd.DataFrame) -> pd.Series:
        used, every = (_by_condition(runs, metric, used_only=used_only) for used_only in (True, False))
        return per_seed(used[objective] - every[reference]) + shift

    return effects


def against_best(metric: str, objective: str) -> Effects:
    """Return |metric| of an objective minus the least of its rivals whose code is used, averaged over dimensions.

    An empty rival is none; one that failed might have been the best, and its seed drops out.
    """

    def effects(runs: pd.DataFrame) -> pd.Series:
        rivals = ["unregularized", "stein", "jensen"]
        used, every = (_by_condition(runs, metric, used_only=used_only).abs() for used_only in (True, False))
        best = used[rivals].min(axis=1).where(every[rivals].notna().all(axis=1))
        return per_seed(used[objective] - best)

    return effects


def worst_excess(objective: str, tolerance: float) -> Effects:
    """Return the excess of the class cross-entropy over that of real images in the least favourable dimension, less a
    tolerance.
    """

    def effects(runs: pd.DataFrame) -> pd.Series:
        ours, real = (_by_condition(runs, m)[objective] for m in ("class_cross_entropy", "class_cross_entropy_real"))
        return _least_favourable(ours - real - tolerance)

    return effects


def information(objective: str | None, sign: float, shift: float) -> Effects:
    """Return sign * I(x;z) + shift in nats under a PixelCNN decoder, at the largest receptive field.

    `None` stands for the InfoVAE runs at alpha = 1; of several lambda_ the one with the best match to the prior on
    validation images counts, so that information is not bought by giving up the prior. A seed of which one failed drops
    out: it might have been the best.
    """

    def effects(runs: pd.DataFrame) -> pd.Series:
        runs = runs[(runs["receptive_radius"] == runs["receptive_radius"].max()) & (runs["decoder"] == "pixelcnn")]
        if objective is not None:
            runs = runs[runs["objective"] == objective]
        else:
            runs = runs[(runs["objective"] != "elbo") & (runs["alpha"] == 1)]
            whole = (runs["status"] == "done").groupby(runs["seed"]).transform("all")
            runs = runs.sort_values("squared_mmd_validation").groupby("seed").head(1)
            runs = runs.assign(mutual_information=runs["mutual_information"].where(whole))
        return sign * runs.set_index("seed")["mutual_information"] + shift

    return effects


def at_smallest(
    condition: str,
    metric: str,
    objective: str,
    reference: str | None,
    *others: str,
    absolute: bool = False,
    used_only: bool = False,
    sign: float = 1,
    shift: float = 0,
) -> Effects:
    """Return sign * (metric(objective) - metric(reference)) + shift where `condition` is smallest.

    Averaged over the `others`, the further conditions that vary. Without a reference the metric itself counts, with
    `absolute` its distance from 0; `used_only` leaves out empty codes.
    """

    def effects(runs: pd.DataFrame) -> pd.Series:
        runs = runs[runs[condition] == runs[condition].min()]
        values = _used(runs, metric) if used_only else runs[metric]
        wide = _pivot(runs, values.abs() if absolute else values, *others)
        return sign * per_seed(wide[objective] - (wide[reference] if reference else 0)) + shift

    return effects


def growth(condition: str, metric: str, objective: str, *others: str) -> Effects:
    """Return metric at the largest value of `condition` minus metric at the smallest, of one objective; used codes."""

    def effects(runs: pd.DataFrame) -> pd.Series:
        runs = runs[runs["objective"] == objective]
        if runs[condition].nunique() < 2:
            raise KeyError(condition)  # one value is no growth: not measured
        high, low = (runs[runs[condition] == runs[condition].agg(end)] for end in ("max", "min"))
        wide = _pivot(high, _used(high, metric), *others) - _pivot(low, _used(low, metric), *others)
        return per_seed(wide[objective])

    return effects


def largest_distance(metric: str, objective: str, tolerance: float, *conditions: str) -> Effects:
    """Return |metric| of an objective in the least favourable condition, less a tolerance; used codes."""

    def effects(runs: pd.DataFrame) -> pd.Series:
        wide = _pivot(runs, _used(runs, metric).abs(), *conditions)
        return _least_favourable(wide[objective] - tolerance)

    return effects


def paired(metric: str, objective: str, reference: str, *conditions: str, shift: float = 0) -> Effects:
    """Return metric(objective) - metric(reference) + shift, paired by and averaged over the conditions; used codes."""

    def effects(runs: pd.DataFrame) -> pd.Series:
        wide = _pivot(runs, _used(runs, metric), *conditions)
        return per_seed(wide[objective] - wide[reference]) + shift

    return effects


def all_smaller(metrics: tuple[str, ...], condition: str, objective: str, reference: str, *others: str) -> Effects:
    """Return metric(objective) - metric(reference) of the least favourable metric, where `condition` is smallest.

    Below 0 only if every metric is smaller; averaged over the `others`; used codes.
    """

    def effects(runs: pd.DataFrame) -> pd.Series:
        runs = runs[runs[condition] == runs[condition].min()]
        wides = {metric: _pivot(runs, _used(runs, metric), *others) for metric in metrics}
        differences = {metric: per_seed(wide[objective] - wide[reference]) for metric, wide in wides.items()}
        return _least_favourable(pd.concat(differences, names=["metric"]))

    return effects
