"""The whole family on one page: every objective with the same networks and a small budget."""

from __future__ import annotations

from typing import Annotated

import pandas as pd
from pydantic import Field

from infovae import plotting
from infovae.config import (
    OBJECTIVES,
    Count,
    DecoderName,
    Draws,
    FewImages,
    FitSteps,
    LatentDim,
    LatentEvaluation,
    LikelihoodEvaluation,
    ObjectiveName,
    Seed,
)
from infovae.experiments import HEADLINE_DIM, ImageExperiment, Several, Wanted, product
from infovae.experiments.compared_models import few_labels, usual_labels
from infovae.labels import OBJECTIVE_WORDS, Words, label, objective_name
from infovae.plotting import Captioned

SHOWN = {"mutual_information": None, "squared_mmd": 1e-3, "svm_error": None, "nll": None}
"""The metrics of the figure, and where a logarithmic axis becomes linear."""


class Family(ImageExperiment):
    """Every objective that has a code, in each latent dimension, with the cheap decoder.

    `n_codes` test images have their codes measured, `n_images` their likelihood. `n_labels` is 0 by default where a
    data set has no labels, or too few images.
    """

    title = "The family on one page"
    caveat = (
        "About an epoch of training with a decoder of independent pixels: this shows what each objective does, not "
        "which is best. Slow divergences look worse than they are, and no objective but the authors’ is tuned."
    )
    conditions = ("latent_dim", "objective")
    metrics = (
        "mutual_information", "squared_mmd", "squared_mmd_null_std", "squared_mmd_point_mass",
        "log_det_cov_per_dim_test", "active_units", "rate", "reconstruction_nll", "svm_error", "svm_error_sampled",
        "nll", "ess_median", "train_seconds",
    )  # fmt: skip

    objectives: Several[ObjectiveName] = tuple(n for n in OBJECTIVES if n != "unconditional")
    latent_dims: Several[LatentDim] = (2, HEADLINE_DIM)
    seeds: Several[Seed] = (0, 1)
    steps: Count = 500
    decoder: DecoderName = "conv"
    n_codes: Annotated[int, Field(strict=True, ge=100, le=60_000)] = 2000
    n_labels: Annotated[int, Field(strict=True, ge=0, le=50_000)] = Field(default_factory=usual_labels)
    n_images: FewImages = 50
    n_draws: Draws = 100
    fit_steps: FitSteps = 100

    def wanted(self) -> Wanted:
        """Return one run per seed, dimension and objective, with its codes, few labels and likelihood evaluated."""
        likelihood = LikelihoodEvaluation(
            n_images=self.n_images, n_draws=self.n_draws, fit_steps=self.fit_steps, n_searched=0
        )
        codes, labels = LatentEvaluation(n_images=self.n_codes), few_labels(self.dataset, self.n_labels, 1, 0)
        choices = product(seed=self.seeds, latent_dim=self.latent_dims, objective=self.objectives)
        return [(self.config(**choice), (codes, likelihood, *labels)) for choice in choices]

    def members(self) -> pd.DataFrame:
        """Return what each objective is, its loss in TeX, and the weights that the paper's formula has for it."""
        rows = []
        for name in self.objectives:
            words = OBJECTIVE_WORDS.get(name, Words(name))
            runs = [self.config(objective=name, latent_dim=dim) for dim in self.latent_dims]
            weights = {"1 − α": [1 - run.alpha for run in runs], "λ + α − 1": [run.divergence_weight for run in runs]}
            listed = {title: " · ".join(dict.fromkeys(f"{w:.3g}" for w in found)) for title, found in weights.items()}
            rows.append(
                {"objective": f"**{words.name}**", "what it is": words.what, "loss": f"${words.loss}$", **listed}
            )
        return pd.DataFrame(rows)


@plotting.figure
def plot_family(runs: pd.DataFrame) -> Captioned:
    """Return a row per objective and a column per metric: each run a dot, hollow in all but the most dimensions."""
    done = plotting.finished(runs, *SHOWN)
    shown = {metric: scale for metric, scale in SHOWN.items() if done[metric].notna().any() or not len(done)}
    names = [name for name in plotting.PALETTE if name in set(runs["objective"])]
    dims = sorted(runs["latent_dim"].unique())
    drawn, axes = plotting.panels(len(shown), 2.1, 0.24 * len(names) + 0.5, len(shown), sharey=True)
    for ax, metric in zip(axes, shown, strict=True):
        for place, name in enumerate(names):
            for dim in dims:
                group, color = done[(done["objective"] == name) & (done["latent_dim"] == dim)], plotting.PALETTE[name]
                face = color if dim == dims[-1] else "none"
                at = place + 0.15 * (dims.index(dim) - (len(dims) - 1) / 2)
                ax.plot(group[metric], [at] * len(group), plotting.MARKERS[name], color=color, mfc=face, ms=4)
        ax.set_title(label(metric))
    plotting.style_rows(axes, [objective_name(name) for name in names], list(shown.values()))
    hollow = {f"{dim:g} dimensions": {"marker": "o", "mfc": "none", "ls": ""} for dim in dims[:-1]}
    plotting.legend(drawn, {**hollow, f"{dims[-1]:g} dimensions": {"marker": "o", "ls": ""}})
    return drawn.captioned(
        done,
        "Each dot is a run. A code is of use where the first column is large and the second near 0, its level at a "
        "match. In the other columns lower is better.",
    )
