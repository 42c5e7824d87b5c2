"""log p(x) of trained models under z ~ N(0, I), and of a PixelCNN without a code as control (paper, table 1)."""

from __future__ import annotations

import re
from typing import Annotated, Any

import numpy as np
import pandas as pd
from pydantic import Field

from infovae import plotting
from infovae.claims import authors
from infovae.config import Draws, FewImages, FitSteps, LatentDim, LatentEvaluation, LikelihoodEvaluation, ObjectiveName
from infovae.experiments import HEADLINE_DIM, ImageExperiment, Several, Wanted, product
from infovae.labels import objective_name
from infovae.plotting import Captioned

N_DRAWS = (1, 10, 100, 1000, 10_000)


class LogLikelihood(ImageExperiment):
    """The models of the comparison in one latent dimension; `unconditional` is the control without a code.

    DEVIATION: the log-likelihood is bounded, by default, on few test images with few draws.
    """

    title = "Log-likelihood"
    caveat = (
        "Decoders after few steps are many nats from the paper's. What separates objectives early is how fast the "
        "decoder learns, not what a code is worth in the end."
    )
    conditions = ("latent_dim", "objective")
    metrics = (
        *(f"nll_{k}" for k in N_DRAWS), "nll", "nll_std_error", "ess_median", "ess_5pct", "nll_elbo", "elbo_rate",
        "mutual_information", "nll_searched", "nll_missed", "nll_missed_std_error",
    )  # fmt: skip

    objectives: Several[ObjectiveName] = ("elbo", "mmd", "stein", "wasserstein", "unconditional")
    latent_dim: LatentDim = HEADLINE_DIM
    n_images: FewImages = 50
    n_draws: Draws = 100
    fit_steps: FitSteps = 100
    n_searched: Annotated[int, Field(strict=True, ge=0, le=10_000)] = 10

    def wanted(self) -> Wanted:
        """Return one run per seed and objective, with its likelihood; the control has no code to evaluate."""
        likelihood = LikelihoodEvaluation(
            n_images=self.n_images,
            n_draws=self.n_draws,
            fit_steps=self.fit_steps,
            n_searched=self.n_searched,
        )
        choices = product(seed=self.seeds, objective=self.objectives)
        control = {"latent_dim": 0}
        return [
            (self.config(**choice, **control), (likelihood,))
            if choice["objective"] == "unconditional"
            else (self.config(**choice), (likelihood, LatentEvaluation()))
            for choice in choices
        ]


@plotting.figure
def plot_bounds(runs: pd.DataFrame) -> Captioned:
    """Return bounds on -log p(x): less that without a code, the tightest beside the recalled table, what K draws gain.

    Each seed has images of its own, so only differences of one seed tell objectives apart: the first panel has those
    from the control without a code, where there is one. Its log p(x) is exact.
    """
    done = plotting.finished(runs, "nll")
    draws = sorted(int(name[4:]) for name in map(str, done) if re.fullmatch(r"nll_\d+", name))
    columns = [f"nll_{k}" for k in draws]
    control = done[done["objective"] == "unconditional"].set_index("seed")["nll"]
    drawn, axes = plotting.panels(3 if len(control) else 2, 3.8, 3.2)
    *paired, by_objective, by_draws = axes
    recalled = authors.read("likelihood").set_index("objective")["nll"]
    comparable = set(done["latent_dim"]) <= {0, 5} and set(done["dataset"]) <= {"mnist"}
    for place, (objective, group) in enumerate(plotting.by_objective(done)):
        color, values = plotting.PALETTE[objective], group[columns].to_numpy(float)
        if objective != "unconditional":
            gained = values - values[:, :1]
            by_draws.plot(draws, gained.mean(0), color=color, lw=1.8)
            by_draws.plot(draws, gained.T, color=color, lw=0.6, marker="o", ms=3, alpha=0.5)
        excess = group.assign(place=place, excess=group["nll"] - group["seed"].map(control))
        style: dict[str, Any] = {"name": objective_name(objective), **plotting.look(objective)}
        plotting.draw_runs(by_objective, excess, "place", "nll", **style, bars=False)
        for ax in paired if objective != "unconditional" else ():
            plotting.draw_runs(ax, excess, "place", "excess", **style)
        if comparable and objective in recalled:
            by_objective.plot(place, recalled[objective], "D", mfc="none", mec="0.4", ms=7)
    names = [objective_name(name) for name, _ in plotting.by_objective(done)]
    by_objective.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    for ax in paired:
        with_code = [name for name in names if name != objective_name("unconditional")]
        ax.set_xticks(range(len(with_code)), with_code, rotation=30, ha="right", rotation_mode="anchor")
        ax.set(title="bound less that without a code", ylabel="nats, paired by seed")
        plotting.ideal(ax, 0, "as good as no code")
    by_draws.set(xscale="log", xlabel="draws K of the fitted proposal", title="bound less that with one draw")
    by_draws.set_xticks(draws, [f"{k:,}" for k in draws])
    by_draws.minorticks_off()
    by_objective.set(title="the tightest bound", ylabel="bound on −log p(x), nats")
    plotting.legend(
        drawn, {"paper (recalled, unverified)": {"marker": "D", "mfc": "none", "ls": ""}} if comparable else {}
    )
    return drawn.captioned(
        done,
        f"Lower is better. {plotting.spread(runs)} Seeds have different test images, so only the differences of one "
        "seed tell objectives apart: below 0 a code is worth something. Right: bold lines are means. A bound falls "
        "towards the truth as K grows: where a line still falls at its end, the truth is lower. The log p(x) of a "
        "PixelCNN without a code is exact.",
    )


@plotting.figure
def plot_missed(runs: pd.DataFrame) -> Captioned:
    """Return by how much fits that do not start from the encoder tighten the bound of as many draws, a dot per run."""
    done = plotting.finished(runs, "nll_missed", "nll_missed_std_error").dropna(subset=["nll_missed"])
    drawn, (ax,) = plotting.panels(1, 5.4, 2.8)
    for place, (objective, group) in enumerate(plotting.by_objective(done)):
        at, look = np.full(len(group), place), plotting.look(objective)
        ax.scatter(at, group["nll_missed"], s=24, **look)
        ax.errorbar(at, group["nll_missed"], group["nll_missed_std_error"], fmt="none", ecolor=look["color"], lw=0.7)
    plotting.ideal(ax, 0, "nothing missed")
    names = [objective_name(name) for name, _ in plotting.by_objective(done)]
    ax.set_xticks(range(len(names)), names)
    ax.set_ylabel("nats missed by the fit")
    ax.margins(x=0.2)
    return drawn.captioned(
        done,
        "The fitted proposal starts where the encoder points, and may miss a part of the posterior that lies "
        "elsewhere; the effective sample size does not tell. Here fits from elsewhere take a part of the draws, on a "
        "few images. Below 0 they were wasted. Dots are runs, bars their standard errors over images.",
    )
