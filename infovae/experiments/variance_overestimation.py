"""How far q(z) spreads beyond the prior when data are few, and what that does to samples (paper, section 2.3 and 5)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from infovae import plotting
from infovae.claims import authors
from infovae.config import (  # fmt: skip
    EMPTY_CODE,
    PIXELS,
    Alpha,
    BatchSize,
    Count,
    DecoderName,
    EncoderNorm,
    FewImages,
    LatentDim,
    LatentEvaluation,
    LikelihoodEvaluation,
    ObjectiveName,
    RunConfig,
    SampleEvaluation,
    Samples,
    TrainingSize,
    all_training_images,
)
from infovae.experiments import Experiment, Several, Wanted, product, weights_at
from infovae.labels import label, objective_name
from infovae.plotting import Captioned, Panel
from infovae.runs.sweep import Task

if TYPE_CHECKING:
    from infovae.data.datasets import ImageData

KINDS = {
    "none": "grey images, Gaussian pixels",
    "dynamic": "binarised images, Bernoulli pixels",
    "static": "images binarised once, Bernoulli pixels",
}
"""Binarisation -> what it makes of the images, and of p(x|z)."""

MMD_WEIGHTS = {"none": (1.0, 50.0 * PIXELS), "dynamic": (0.0, 1000.0), "static": (0.0, 1000.0)}
"""Binarisation -> alpha and MMD's lambda_: of the authors' script on grey images, of the paper (second hand) on binary
ones. The script averages over pixels and adds 50 MMD; it does not charge for the rate."""

AUTHORS_DIM = 5


def _few_and_all(values: dict[str, Any]) -> tuple[int, int]:
    n = all_training_images(values)
    return min(500, n // 2), n


class VarianceOverestimation(Experiment):
    """Each objective on nested training sets of growing size, with a decoder of independent pixels.

    `alpha` is that of every objective with a divergence, by default the one in `MMD_WEIGHTS`; see `weights_at` for
    lambda_. The encoder has no batch normalisation: in the authors' script there is none.
    """

    title = "Variance over-estimation"
    caveat = (
        "The effect comes from fitting the training images too well, and grows with training: the authors' script runs "
        "100,000 steps. Every training set gets the same number of steps, hence the small ones many more epochs."
    )
    conditions = ("binarization", "objective", "alpha", "lambda_", "n_train")
    metrics = (
        "log_det_cov_per_dim_train", "log_det_cov_per_dim_test", "squared_mmd", "squared_mmd_null_std",
        "mutual_information", "nll", "nll_train", "nll_gap", "reconstruction_nll",
        "reconstruction_nll_real", "sharpness_reconstructions", "sharpness_samples", "sharpness_real",
        "frechet_distance", "frechet_distance_real", "class_cross_entropy", "class_cross_entropy_real",
    )  # fmt: skip

    objectives: Several[ObjectiveName] = ("elbo", "mmd")
    alpha: Alpha | None = None
    binarizations: Several[Literal["none", "dynamic", "static"]] = ("none",)
    latent_dim: LatentDim = AUTHORS_DIM
    n_trains: Several[TrainingSize] = Field(default_factory=_few_and_all)
    decoder: DecoderName = "conv"
    encoder_norm: EncoderNorm = "none"
    steps: Count = 1000
    batch_size: BatchSize = 200
    n_samples: Samples = 1000
    n_likelihood: FewImages = 50

    def wanted(self) -> Wanted:
        """Return one run per seed, kind of pixels, size and objective, with codes, samples and likelihood evaluated."""
        likelihood = LikelihoodEvaluation(n_images=self.n_likelihood, n_train_images=self.n_likelihood, n_searched=0)
        samples = SampleEvaluation.for_dataset(self.dataset, self.n_samples)
        choices = product(
            seed=self.seeds, binarization=self.binarizations, n_train=self.n_trains, objective=self.objectives
        )
        return [(self._run(**choice), (LatentEvaluation(), samples, likelihood)) for choice in choices]

    def drawn(self) -> list[Task]:
        """Return the runs whose q(z) is drawn: in 2 dimensions on the fewest images, first seed.

        On binarised images, as in the paper, where there are some.
        """
        kind = "dynamic" if "dynamic" in self.binarizations else self.binarizations[0]
        few = {"n_train": min(self.n_trains), "seed": self.seeds[0], "binarization": kind}
        plane = self.model_copy(update={"latent_dim": 2})
        return [Task(plane._run(objective=name, **few), (LatentEvaluation(),)) for name in self.objectives]

    def _run(self, **choice: Any) -> RunConfig:
        alpha, lambda_of_mmd = MMD_WEIGHTS[choice["binarization"]]
        weights = weights_at(choice["objective"], alpha if self.alpha is None else self.alpha, lambda_of_mmd)
        return self.config(**choice, **weights, bandwidth="paper")  # the authors' script: exp(-d^2 / dim^2)


@plotting.figure
def plot_spread(runs: pd.DataFrame) -> Captioned:
    """Return log det Cov[q(z)] / dim against the number of images: a row for each kind of pixels, ours and theirs.

    Training images on the left, test images on the right. The authors' curve is theirs in 5 dimensions, per dimension.
    """
    done = plotting.finished(runs, "log_det_cov_per_dim_train", "log_det_cov_per_dim_test")
    kinds, curves = list((done if len(done) else runs)["binarization"].unique()), authors.beside("variance", runs)
    drawn, axes = plotting.panels(2 * len(kinds), 4.2, 2.9, 2, sharex=True, sharey=True)
    for ax, (kind, part) in zip(axes, itertools.product(kinds, ("train", "test")), strict=True):
        plotting.draw_objectives(ax, done[done["binarization"] == kind], "n_train", f"log_det_cov_per_dim_{part}")
        comparable = curves[(curves["split"] == part) & (kind == "none")]
        plotting.draw_theirs(ax, comparable, "n_train", "log_det_cov_total", divide_by=AUTHORS_DIM)
        plotting.ideal(ax, 0, "match")
        sizes = sorted({*runs["n_train"], *(curves["n_train"] if "none" in kinds else ())})
        ax.set_xticks(sizes, plotting.thousands(sizes))
        if kind == kinds[0]:
            ax.set_title("on training images" if part == "train" else "on test images")
        if kind == kinds[-1]:
            ax.set_xlabel(label("n_train"))
        if part == "train":
            ax.set_ylabel(KINDS[kind])
    axes[0].set_xlim(sizes[0] / 1.3, sizes[-1] * 1.3)
    drawn.supylabel("log det Cov[q(z)] / dim", fontsize=10)
    plotting.legend(drawn, plotting.OURS_AND_THEIRS if len(curves) else {})
    dashed = (
        " Dashed: read off the figure of the authors’ code (5 dimensions, Gaussian pixels), divided by the dimension."
    )
    return drawn.captioned(
        done,
        f"{plotting.spread(runs)} Above 0 the code is spread wider than the prior, below 0 narrower."
        + (dashed if len(curves) else ""),
    )


def plot_consequences(runs: pd.DataFrame) -> Captioned:
    """Return what the spread costs, against the number of images: likelihood gap, samples, sharpness.

    Of one kind of pixels; grey images have no sharpness.
    """
    metrics = {"nll_gap": Panel(), "frechet_distance": Panel(), "sharpness_reconstructions": Panel()}
    kind = runs["binarization"].iloc[0]
    crisp = " Sharpness: higher is crisper." if kind != "none" else ""
    caption = f"Of {KINDS[kind]}. Gap and distance: lower is better.{crisp}"
    return plotting.plot_metrics(runs, "n_train", metrics, caption)


@plotting.figure
def plot_densities(runs: pd.DataFrame, arrays: Sequence[Mapping[str, np.ndarray]]) -> Captioned:
    """Return contours of q(z) in two dimensions over those of N(0, I): training images above, test images below.

    Parameters
    ----------
    arrays : one mapping per run, with `density_train` and `density_test` on a square grid from -4 to 4, (m, m), the
        first axis being that of the first coordinate.
    """
    parts, extent = {"training": "density_train", "test": "density_test"}, 4
    shown = {
        (name, words): density
        for words, key in parts.items()
        for name, density in plotting.select_arrays(runs, arrays, key).items()
    }
    held = plotting.finished(runs, "mutual_information").groupby("objective")["mutual_information"].first()
    n_columns = max(1, len(shown) // 2)
    drawn, axes = plotting.panels(len(shown), 2.5 + 0.8 / n_columns, 2.5, n_columns, sharex=True, sharey=True)
    levels = np.array([0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32])
    angle = np.linspace(0, 2 * np.pi, 100)
    for ax, ((name, words), density) in zip(axes, shown.items(), strict=False):
        axis = np.linspace(-extent, extent, len(density))
        filled = ax.contourf(axis, axis, density.T, levels, cmap="viridis", extend="max")
        for level in levels[levels < 1 / (2 * np.pi)]:  # where the prior's density takes the same value
            radius = np.sqrt(-2 * np.log(2 * np.pi * level))
            ax.plot(radius * np.cos(angle), radius * np.sin(angle), color="0.4", lw=0.5)
        empty = ": empty code" if held[name] < EMPTY_CODE else ""
        ax.set(title=f"{objective_name(name)}, {words}{empty}", aspect="equal", xlabel="z₁", ylabel="z₂")
        ax.label_outer()
        step = 2 * extent / (len(density) - 1)
        outside = 1 - float(np.trapezoid(np.trapezoid(density, dx=step), dx=step))
        if outside > 0.05:  # the grid is coarse beside the narrowest codes: less may be its error
            ax.text(0.98, 0.03, f"{outside:.0%} outside", transform=ax.transAxes, ha="right", **plotting.NOTE)
        if ax is axes[-1]:
            drawn.colorbar(filled, ax=axes, label="density of q(z)", fraction=0.02, ticks=levels)
    first = runs.iloc[0]
    return drawn.captioned(
        shown,
        f"Models of {first['n_train']:,} images in 2 dimensions, {KINDS[first['binarization']]}. A match would fill "
        "each circle with its own colour, and so does an empty code. Holes within the circles are places that samples "
        "come from and no image was coded into; bright spots are packed more densely than under the prior. First seed.",
    )


def select_images(
    runs: pd.DataFrame, arrays: Sequence[Mapping[str, np.ndarray]], data: ImageData
) -> dict[str, np.ndarray]:
    """Return, of the smallest training set: test images and what is left of them, training images and samples.

    Reconstructions and samples are means E[x|z] of each objective, of the kind of pixels and the seed that come first.
    """
    chosen = {"n_train": runs["n_train"].min(), "binarization": runs["binarization"].iloc[0]}
    originals = plotting.select_arrays(runs, arrays, "originals", **chosen)
    shown = next(iter(originals.values()), np.empty((0, 1, 1, 1)))
    n = int(min(len(shown), chosen["n_train"]))
    images = {"test images": shown, "training images": data.train_images[:n, None].numpy() / 255}
    groups: dict[str, np.ndarray] = {}
    for words, kind in zip(images, ("reconstructions", "samples"), strict=True):
        groups |= {words: images[words]} if originals else {}
        found = plotting.select_arrays(runs, arrays, kind, **chosen)
        groups |= {f"{objective_name(name)}: {kind}": images for name, images in found.items()}
    return groups
