"""The paper's claims as data: what is measured, what is compared, and the rule of the verdict.

A claim names one effect per seed, averaged over the other conditions within the seed, and a bound that the paper's
statement puts on it. The verdict follows from the 95 % interval over seeds (Student) and nothing else. A seed that
lacks a run which the claim needs, because it failed or because its code is empty, drops out, is counted, and keeps
the verdict from being more than inconclusive.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

Verdict = Literal["reproduced", "not reproduced", "inconclusive", "not measured"]
Dims = Literal["all", "few", "many", "above 2"]

EMPTY_CODE = 1.0
"""Nats of I(x;z) below which a code counts as empty: its match with the prior is trivial and decides nothing."""

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
    """

    name: str
    statement: str
    status: Literal["seed", "checked", "recalled"]
    experiment: str
    effect: str
    bound: float
    effects: Callable[[pd.DataFrame], pd.Series]

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
    if n > 1:
        from scipy import stats

        half_width = float(stats.t.ppf(0.975, n - 1) * effects.std() / n**0.5)
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "source": {"seed": "seed", "checked": "paper", "recalled": "paper (recalled, unverified)"}[claim.status],
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
    }


def ledger(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the ledger: one row per claim, from the runs of each experiment by name."""
    return pd.DataFrame([judge(claim, runs.get(claim.experiment)) for claim in CLAIMS])


def _verdict(mean: float, half_width: float, n: int, n_dropped: int, bound: float) -> Verdict:
    if n == 0:
        return "not measured"
    if n_dropped == 0 and mean + half_width < bound:  # false for one seed, whose interval is NaN
        return "reproduced"
    if n_dropped == 0 and mean - half_width > bound:
        return "not reproduced"
    return "inconclusive"


def _by_condition(runs: pd.DataFrame, metric: str, dims: Dims = "all", used_only: bool = False) -> pd.DataFrame:
    """Return a metric under a PixelCNN decoder: rows (seed, latent_dim), a column per objective, NaN where missing.

    `used_only` leaves out the codes that hold less than `EMPTY_CODE` nats.
    """
    runs = runs[runs["latent_dim"].notna() & (runs["decoder"] == "pixelcnn")]
    ranges = {"few": (1, FEW), "many": (MANY, 10**9), "above 2": (3, 10**9)}
    runs = runs[runs["latent_dim"].between(*ranges.get(dims, (1, 10**9)))]
    values = runs[metric].where(runs["status"] == "done")
    if used_only:
        values = values.where(runs["mutual_information"] >= EMPTY_CODE)
    index = [runs["seed"], runs["latent_dim"], runs["objective"]]
    return values.set_axis(pd.MultiIndex.from_arrays(index)).unstack("objective")


def _per_seed(values: pd.Series) -> pd.Series:
    """Return the mean over dimensions of each seed; NaN if one of them is missing."""
    return values.groupby("seed").agg(lambda group: group.mean(skipna=False))


def _level(metric: str, objective: str, sign: float = 1, shift: float = 0) -> Callable[[pd.DataFrame], pd.Series]:
    """Return sign * metric + shift of one objective, averaged over the dimensions."""
    return lambda runs: sign * _per_seed(_by_condition(runs, metric)[objective]) + shift


def _difference(
    metric: str, objective: str, reference: str, dims: Dims = "all", shift: float = 0, used_only: bool = False
) -> Callable[[pd.DataFrame], pd.Series]:
    """Return metric(objective) - metric(reference) + shift, paired by dimension and averaged over the dimensions."""

    def effects(runs: pd.DataFrame) -> pd.Series:
        wide = _by_condition(runs, metric, dims, used_only)
        return _per_seed(wide[objective] - wide[reference]) + shift

    return effects


def _against_best(metric: str, objective: str) -> Callable[[pd.DataFrame], pd.Series]:
    """Return |metric| of an objective minus the least of its rivals whose code is used, averaged over dimensions."""

    def effects(runs: pd.DataFrame) -> pd.Series:
        wide = _by_condition(runs, metric, used_only=True).abs()
        return _per_seed(wide[objective] - wide[["unregularized", "stein", "jensen"]].min(axis=1))

    return effects


def _worst_excess(objective: str, tolerance: float) -> Callable[[pd.DataFrame], pd.Series]:
    """Return the largest excess of the class cross-entropy over that of real images, less a tolerance."""

    def effects(runs: pd.DataFrame) -> pd.Series:
        ours, real = (_by_condition(runs, m)[objective] for m in ("class_cross_entropy", "class_cross_entropy_real"))
        return (ours - real).groupby("seed").agg(lambda group: group.max(skipna=False)) - tolerance

    return effects


def _information(objective: str | None, sign: float, shift: float) -> Callable[[pd.DataFrame], pd.Series]:
    """Return sign * I(x;z) + shift in nats under a PixelCNN decoder, at the largest receptive field.

    `None` stands for the InfoVAE runs at alpha = 1; of several lambda_ the one with the best match to the prior counts,
    so that information is not bought by giving up the prior.
    """

    def effects(runs: pd.DataFrame) -> pd.Series:
        runs = runs[(runs["receptive_radius"] == runs["receptive_radius"].max()) & (runs["decoder"] == "pixelcnn")]
        if objective is not None:
            runs = runs[runs["objective"] == objective]
        else:
            runs = runs[(runs["objective"] != "elbo") & (runs["alpha"] == 1)]
            runs = runs.sort_values("squared_mmd").groupby("seed").head(1)
        return sign * runs.set_index("seed")["mutual_information"] + shift

    return effects


_TUNED = " (annealed λ: a deviation, tuned for information and match)"
_MMDS = (("mmd", ""), ("mmd_annealed", _TUNED))

CLAIMS: tuple[Claim, ...] = (
    Claim(
        "elbo_ignores_z",
        "Under the ELBO a decoder that can model the data alone ignores the code: I(x;z) = 0.",
        "checked",
        "latent_usage",
        "I(x;z) of the ELBO at the largest receptive field, nats",
        0.1,
        _information("elbo", 1, 0),
    ),
    Claim(
        "infovae_keeps_z",
        "InfoVAE with alpha = 1 does not pay for information and keeps using the code." + _TUNED,
        "checked",
        "latent_usage",
        f"{EMPTY_CODE:g} - I(x;z) at alpha = 1, largest receptive field, the lambda_ that matches the prior best, nats",
        0.0,
        _information(None, -1, EMPTY_CODE),
    ),
    *(
        Claim(
            f"{objective}_keeps_z",
            f"InfoVAE with {divergence} keeps using the code under a PixelCNN decoder.{note}",
            "checked",
            "divergence_comparison",
            f"{EMPTY_CODE:g} - I(x;z) of {objective}, nats, averaged over the dimensions",
            0.0,
            _level("mutual_information", objective, sign=-1, shift=EMPTY_CODE),
        )
        for objective, divergence, note in (
            ("mmd", "MMD", ""),
            ("mmd_annealed", "MMD", _TUNED),
            ("stein", "Stein", ""),
            ("jensen", "Jensen", ""),
        )
    ),
    *(
        Claim(
            f"{objective}_{name}",
            f"Apart from the ELBO, MMD matches q(z) to p(z) best, by {quantity}.{note}",
            "checked",
            "divergence_comparison",
            f"|{metric}| of {objective} - of the best of unregularized, stein and jensen; used codes only",
            0.0,
            _against_best(metric, objective),
        )
        for objective, note in _MMDS
        for name, quantity, metric in (
            ("squared_mmd_best", "squared MMD", "squared_mmd"),
            ("log_det_best", "log det Cov / dim", "log_det_cov_per_dim_test"),
        )
    ),
    Claim(
        "stein_class_distribution",
        "The adversarial model's samples have a better class distribution than Stein's in more than 2 dimensions.",
        "recalled",
        "divergence_comparison",
        "class cross-entropy of jensen - of stein, nats, more than 2 dimensions",
        0.0,
        _difference("class_cross_entropy", "jensen", "stein", "above 2"),
    ),
    *(
        Claim(
            f"{objective}_class_distribution",
            f"MMD's samples have a good class distribution in every dimension.{note}",
            "recalled",
            "divergence_comparison",
            f"largest excess over dimensions of {objective}'s class cross-entropy over real images', - 0.05, nats",
            0.0,
            _worst_excess(objective, 0.05),
        )
        for objective, note in _MMDS
    ),
    *(
        Claim(
            f"adversarial_slower_than_{objective}",
            f"The adversarial divergence takes longer to match the prior than {name}.",
            "recalled",
            "divergence_comparison",
            f"squared MMD averaged over training, of {objective} - of jensen; used codes only",
            0.0,
            _difference("squared_mmd_over_training", objective, "jensen", used_only=True),
        )
        for objective, name in (("mmd", "MMD"), ("stein", "Stein"))
    ),
    Claim(
        "adversarial_less_stable",
        "The adversarial divergence is at times unstable, MMD is not.",
        "recalled",
        "divergence_comparison",
        "jitter of the squared MMD in the second half of training, of mmd - of jensen; used codes only",
        0.0,
        _difference("squared_mmd_jitter", "mmd", "jensen", used_only=True),
    ),
    Claim(
        "elbo_error_at_chance",
        "The codes of the ELBO with a PixelCNN decoder are at chance with 1,000 labels.",
        "recalled",
        "semi_supervised",
        "0.8 - error of the support vector machine on z ~ q(z|x) (chance is 0.9)",
        0.0,
        _level("svm_error_sampled", "elbo", sign=-1, shift=0.8),
    ),
    Claim(
        "unregularized_better_in_few_dimensions",
        "In few dimensions the unregularised code classifies better than MMD's.",
        "recalled",
        "semi_supervised",
        f"error on E[z|x] of unregularized - of mmd, up to {FEW} dimensions",
        0.0,
        _difference("svm_error", "unregularized", "mmd", "few"),
    ),
    Claim(
        "mmd_catches_up_in_many_dimensions",
        "In many dimensions MMD's code classifies as well as the unregularised one.",
        "recalled",
        "semi_supervised",
        f"error on E[z|x] of mmd - of unregularized - 0.01 of tolerance, from {MANY} dimensions",
        0.0,
        _difference("svm_error", "mmd", "unregularized", "many", shift=-0.01),
    ),
    *(
        Claim(
            f"{objective}_beats_elbo_semi_supervised",
            f"InfoVAE's code is better than the ELBO's for semi-supervised learning.{note}",
            "seed",
            "semi_supervised",
            f"error on z ~ q(z|x) of {objective} - of elbo, paired by dimension",
            0.0,
            _difference("svm_error_sampled", objective, "elbo"),
        )
        for objective, note in _MMDS
    ),
)
