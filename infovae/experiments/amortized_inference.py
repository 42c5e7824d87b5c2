"""Whether q(z|x) is the posterior, on data so simple that the posterior is known (paper, section 2)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from infovae import plotting
from infovae.claims.statements import EMPTY_TOY_CODE
from infovae.config import Alpha, Count, ObjectiveName, Positive, PosteriorEvaluation
from infovae.experiments import Experiment, Several, Wanted, product, weights_at
from infovae.labels import count, label, objective_name
from infovae.plotting import Captioned

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LAMBDA_OF_MMD, BANDWIDTH = 500.0, "paper"
"""Of the paper and of the authors' scripts alike: in one dimension the kernel is exp(-d^2)."""


class AmortizedInference(Experiment):
    """Every objective on {-1, +1}, over the floor of the decoder's deviation; those with a divergence at each alpha.

    The authors' scripts do not charge for the rate (alpha = 1), the paper does (alpha = 0, recalled).
    """

    title = "Amortised inference"
    caveat = (
        "The floor of the decoder's deviation (0.0005 in the authors' script) bounds the ELBO, and the failure is read "
        "from how it changes as the floor is lowered. Numbers are those after the given steps."
    )
    conditions = ("decoder_min_std", "objective", "alpha")
    metrics = (
        "posterior_kl", "marginal_kl", "elbo", "log_evidence", "mutual_information", "q_separation", "q_std_minus",
        "q_std_plus",
    )  # fmt: skip

    dataset: Literal["two_points"] = "two_points"
    objectives: Several[ObjectiveName] = ("elbo", "mmd", "stein", "jensen")
    alphas: Several[Alpha] = (1.0, 0.0)
    decoder_min_stds: Several[Positive] = (0.1, 0.01)
    n_train: Count = 1000
    steps: Count = 600
    learning_rate: Positive = 3e-4

    def table(self, runs: pd.DataFrame, *metrics: str) -> pd.DataFrame:
        """Return the table of the codes that are used: an empty one has small KLs, which say nothing."""
        empty = plotting.finished(runs, "mutual_information")["mutual_information"] < EMPTY_TOY_CODE
        return super().table(
            runs.assign(status=runs["status"].mask(empty.reindex(runs.index, fill_value=False), "empty code")), *metrics
        )

    def wanted(self) -> Wanted:
        """Return one run per seed, floor, objective and alpha, with its exact posterior."""
        toy = {"encoder": "scalar", "decoder": "scalar", "latent_dim": 1, "bandwidth": BANDWIDTH}
        exact = (PosteriorEvaluation(),)
        choices = product(seed=self.seeds, decoder_min_std=self.decoder_min_stds, objective=self.objectives)
        return [
            (self.config(**choice, **weights_at(choice["objective"], alpha, LAMBDA_OF_MMD), **toy), exact)
            for choice, alpha in itertools.product(choices, self.alphas)
        ]


@plotting.figure
def plot_posteriors(runs: pd.DataFrame, arrays: Sequence[Mapping[str, np.ndarray]]) -> Captioned:
    """Return q(z|x), filled, and the true posterior p(z|x), a line, of each objective's first run at each floor.

    A column per objective and alpha, a row per floor of the decoder's standard deviation; both x in each panel. What
    the code calls positive is free: every panel has q(z|x = +1) on the right.

    Parameters
    ----------
    arrays : one mapping per row of `runs`, as a `PosteriorEvaluation` keeps it; empty for a failed run.
    """
    found: dict[tuple[float, str, float], Mapping[str, np.ndarray]] = {}
    for run, kept in zip(runs.to_dict("records"), arrays, strict=True):
        if kept:
            found.setdefault((run["decoder_min_std"], run["objective"], run["alpha"]), kept)
    keys = ["decoder_min_std", "objective", "alpha"]
    held = plotting.finished(runs, "mutual_information").groupby(keys)["mutual_information"].first()
    floors = sorted(runs["decoder_min_std"].unique(), reverse=True)
    columns = [(name, alpha) for name, rows in plotting.by_objective(runs) for alpha in rows["alpha"].unique()]
    drawn, axes = plotting.panels(len(floors) * len(columns), 1.8, 1.7, len(columns), sharex=True, sharey="row")
    for ax, (floor, (objective, alpha)) in zip(axes, itertools.product(floors, columns), strict=True):
        if (floor, objective, alpha) in found:
            draw_posteriors(ax, found[floor, objective, alpha])
            if held[floor, objective, alpha] < EMPTY_TOY_CODE:
                ax.text(0.03, 0.93, "empty", transform=ax.transAxes, va="top", **plotting.NOTE)
        if floor == floors[0]:
            ax.set_title(objective_name(objective) + ("" if objective == "elbo" else f", α = {alpha:g}"), fontsize=9)
        ax.set(xlim=(-3.5, 3.5), xlabel="z" if floor == floors[-1] else None)
        if (objective, alpha) == columns[0]:
            ax.set_ylabel(f"floor {floor:g}\ndensity")
    for ax in axes[:: len(columns)]:
        ax.set_ylim(bottom=0)  # once all of the row is drawn: it ends the scaling to what is
    plotting.legend(drawn)
    return drawn.captioned(
        found,
        "Where inference is right, the line is the edge of the filled area of its colour. Where q(z) matches the "
        "prior, the dotted curve lies on the grey one. First seed: a code that is empty here may be used under others.",
    )


def draw_posteriors(ax: Axes, kept: Mapping[str, Any]) -> None:
    """Draw one panel of `plot_posteriors`, from what `evaluation.posterior.posterior_densities` returns."""
    minus, plus = kept["q_z_given_x"] @ kept["z"] / kept["q_z_given_x"].sum(1)  # which is on the right
    z = kept["z"] if plus >= minus else -kept["z"]
    colors = (plotting.PALETTE["jensen"], plotting.PALETTE["stein"])
    for x, q, p, color in zip(("−1", "+1"), kept["q_z_given_x"], kept["p_z_given_x"], colors, strict=True):
        ax.fill_between(z, q, color=color, alpha=0.3, lw=0, label=f"q(z|x = {x})")
        ax.plot(z, p, color=color, lw=1, label=f"p(z|x = {x})")
    ax.plot(z, kept["q_z"], color="0.2", lw=0.8, ls=":", label="q(z)")
    ax.plot(z, kept["p_z"], color="0.5", lw=0.6, label="p(z)")


@plotting.figure
def plot_inference(runs: pd.DataFrame, history: pd.DataFrame) -> Captioned:
    """Return posterior KL, KL of q(z) to p(z) and ELBO against the training step: a row per floor, a line per run."""
    metrics = ("posterior_kl", "marginal_kl", "elbo")
    floors = sorted(runs["decoder_min_std"].unique(), reverse=True)
    drawn, axes = plotting.panels(3 * len(floors), 3.2, 1.9, sharex=True)
    done = plotting.finished(runs, "mutual_information")
    empty = done["mutual_information"] < EMPTY_TOY_CODE
    chosen = runs.loc[~runs.index.isin(done.index[empty]), ["run_id", "objective", "alpha", "decoder_min_std"]]
    course = history.reindex(columns=["run_id", "step", *metrics]).merge(chosen, on="run_id")
    for ax, (floor, metric) in zip(axes, itertools.product(floors, metrics), strict=True):
        at_floor = course[course["decoder_min_std"] == floor]
        charged = (at_floor["alpha"] < 1) & (at_floor["objective"] != "elbo")
        plotting.draw_history(ax, at_floor[~charged], metric)
        plotting.draw_history(ax, at_floor[charged], metric, ls="--", label=None)
        late = at_floor.loc[at_floor["step"] >= course["step"].max() / 2, metric]
        plotting.span(ax, [*late, *([] if metric == "elbo" else [0])])
        ax.set(title=label(metric) if floor == floors[0] else "", ylabel="")
        if metric == "posterior_kl":
            ax.set_ylabel(f"floor {floor:g}")
        if floor == floors[-1]:
            ax.set_xlabel("training step")
    plotting.legend(drawn, {"with the rate charged too, α < 1": {"ls": "--"}} if len(set(runs["alpha"])) > 1 else {})
    return drawn.captioned(
        course,
        "Left: 0 where inference is exact. Middle: 0 where q(z) matches the prior. Right: the ELBO is log p(x) − "
        "KL(q(z|x) ‖ p(z|x)), and may grow while the KL grows too. Spikes of the first half may leave the frame."
        + (f" {count(range(empty.sum()), 'run')} with an empty code left out." if empty.any() else "")
        + plotting.bold(runs),
    )
