"""The paper's claims as data: what is measured, what is compared, and the rule of the verdict, fixed before the run.

A claim names one effect per seed, averaged over the other conditions within the seed, and a bound that the paper's
statement puts on it. The verdict follows from the 95 % interval over seeds (Student) and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import pandas as pd

Verdict = Literal["reproduced", "not reproduced", "inconclusive", "not measured"]


@dataclass(frozen=True)
class Claim:
    """One statement of the paper and the rule by which runs decide it.

    Attributes
    ----------
    status : how sure we are that the paper says so: "seed", "checked" or "recalled" (from memory, unverified).
    effect : what `effects` measures, with its unit.
    bound : the claim holds where the effect lies below it.
    effects : maps an experiment's finished runs to one number per seed.
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
            "else inconclusive; inconclusive with a single seed"
        )


def judge(claim: Claim, runs: pd.DataFrame | None) -> dict[str, object]:
    """Return a claim's row of the ledger: effect, interval over seeds, n, verdict and what it rests on."""
    effects = pd.Series(dtype=float)
    n_failed = 0
    if runs is not None:
        n_failed = int((runs["status"] != "done").sum())
        try:
            effects = claim.effects(runs[runs["status"] == "done"]).dropna()
        except KeyError:  # the runs hold no such condition or metric: the claim was not measured
            effects = pd.Series(dtype=float)
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
        "n_failed_runs": n_failed,
        "verdict": _verdict(mean, half_width, n, claim.bound),
        "rule": claim.rule,
    }


def ledger(runs: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the ledger: one row per claim, from the runs of each experiment by name."""
    return pd.DataFrame([judge(claim, runs.get(claim.experiment)) for claim in CLAIMS])


def _verdict(mean: float, half_width: float, n: int, bound: float) -> Verdict:
    if n == 0:
        return "not measured"
    if mean + half_width < bound:  # false for one seed, whose interval is NaN
        return "reproduced"
    if mean - half_width > bound:
        return "not reproduced"
    return "inconclusive"


def _level(metric: str, objective: str) -> Callable[[pd.DataFrame], pd.Series]:
    """Return a metric of one objective, per seed."""

    def effects(runs: pd.DataFrame) -> pd.Series:
        return runs[runs["objective"] == objective].groupby("seed")[metric].mean()

    return effects


def _difference(
    metric: str, objective: str, reference: str, dims: Literal["all", "lowest", "highest", "above 2"] = "all"
) -> Callable[[pd.DataFrame], pd.Series]:
    """Return metric(objective) - metric(reference) per seed, paired by dimension and averaged over the dimensions."""

    def effects(runs: pd.DataFrame) -> pd.Series:
        present = sorted(runs[runs["objective"].isin([objective, reference])]["latent_dim"].dropna().unique())
        choices = {"lowest": present[:1], "highest": present[-1:], "above 2": [d for d in present if d > 2]}
        chosen = runs[runs["latent_dim"].isin(choices.get(dims, present))]
        wide = chosen.pivot_table(index=["seed", "latent_dim"], columns="objective", values=metric)
        return (wide[objective] - wide[reference]).groupby("seed").mean()

    return effects


def _used_information(objective: str | None) -> Callable[[pd.DataFrame], pd.Series]:
    """Return I(x;z) as a share of the estimator's cap, per seed, at the largest receptive field.

    `None` stands for the InfoVAE runs at alpha = 1; of several lambda_ the one with the best match to the prior among
    those trained counts, so that information is not bought by giving up the prior.
    """

    def effects(runs: pd.DataFrame) -> pd.Series:
        runs = runs[runs["receptive_radius"] == runs["receptive_radius"].max()]
        if objective is not None:
            runs = runs[runs["objective"] == objective]
        else:
            runs = runs[(runs["objective"] != "elbo") & (runs["alpha"] == 1)]
            runs = runs.sort_values("squared_mmd").groupby("seed").head(1)
        return (runs["mutual_information"] / runs["mutual_information_cap"]).groupby(runs["seed"]).mean()

    return effects


def _negative(effects_of: Callable[[pd.DataFrame], pd.Series]) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda runs: -effects_of(runs)


def _shifted(effects_of: Callable[[pd.DataFrame], pd.Series], shift: float) -> Callable[[pd.DataFrame], pd.Series]:
    return lambda runs: effects_of(runs) + shift


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "elbo_ignores_z",
        "Under the ELBO a decoder that can model the data alone ignores the code: I(x;z) = 0.",
        "checked",
        "latent_usage",
        "I(x;z) / cap of the ELBO at the largest receptive field",
        0.1,
        _used_information("elbo"),
    ),
    Claim(
        "infovae_keeps_z",
        "InfoVAE with alpha = 1 does not pay for information and keeps using the code.",
        "checked",
        "latent_usage",
        "0.5 - I(x;z) / cap at alpha = 1, largest receptive field, the lambda_ that matches the prior best",
        0.0,
        _shifted(_negative(_used_information(None)), 0.5),
    ),
    *(
        Claim(
            f"{objective}_distance_to_prior",
            f"Apart from the ELBO, MMD matches q(z) to p(z) best: better than {other}.",
            "checked",
            "divergence_comparison",
            f"squared MMD of mmd_annealed - of {objective}, paired by dimension",
            0.0,
            _difference("squared_mmd", "mmd_annealed", objective),
        )
        for objective, other in (("unregularized", "no regulariser"), ("stein", "Stein"), ("jensen", "Jensen"))
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
    Claim(
        "mmd_class_distribution",
        "MMD's samples have a good class distribution throughout: not worse than the adversarial model's.",
        "recalled",
        "divergence_comparison",
        "class cross-entropy of mmd_annealed - of jensen - 0.05 nat of tolerance",
        0.0,
        _shifted(_difference("class_cross_entropy", "mmd_annealed", "jensen"), -0.05),
    ),
    Claim(
        "adversarial_slower",
        "The adversarial divergence takes longest to match the prior.",
        "recalled",
        "divergence_comparison",
        "squared MMD averaged over training, of mmd_annealed - of jensen, paired by dimension",
        0.0,
        _difference("squared_mmd_over_training", "mmd_annealed", "jensen"),
    ),
    Claim(
        "adversarial_less_stable",
        "The adversarial divergence is at times unstable.",
        "recalled",
        "divergence_comparison",
        "standard deviation of the squared MMD over the second half of training, of mmd_annealed - of jensen",
        0.0,
        _difference("squared_mmd_late_std", "mmd_annealed", "jensen"),
    ),
    Claim(
        "elbo_error_at_chance",
        "The codes of the ELBO with a PixelCNN decoder are at chance with 1,000 labels.",
        "recalled",
        "semi_supervised",
        "0.8 - error of the support vector machine (chance is 0.9)",
        0.0,
        _shifted(_negative(_level("svm_error", "elbo")), 0.8),
    ),
    Claim(
        "unregularized_best_in_few_dimensions",
        "In few dimensions the unregularised code classifies best.",
        "recalled",
        "semi_supervised",
        "error of unregularized - of mmd_annealed, fewest dimensions",
        0.0,
        _difference("svm_error", "unregularized", "mmd_annealed", "lowest"),
    ),
    Claim(
        "mmd_catches_up_in_many_dimensions",
        "In many dimensions the MMD code classifies as well as the unregularised one.",
        "recalled",
        "semi_supervised",
        "error of mmd_annealed - of unregularized - 0.01 of tolerance, most dimensions",
        0.0,
        _shifted(_difference("svm_error", "mmd_annealed", "unregularized", "highest"), -0.01),
    ),
    Claim(
        "infovae_beats_elbo_semi_supervised",
        "InfoVAE's code is the better one for semi-supervised learning.",
        "seed",
        "semi_supervised",
        "error of mmd_annealed - of elbo, paired by dimension",
        0.0,
        _difference("svm_error", "mmd_annealed", "elbo"),
    ),
)
