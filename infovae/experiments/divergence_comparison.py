"""How well each divergence matches q(z) to p(z), and what codes and samples come of it (paper, section 5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from infovae import plotting
from infovae.claims import authors
from infovae.claims.verdicts import MMD_NOISE
from infovae.config import (
    N_MEASURED,
    LatentEvaluation,
    SampleEvaluation,
    Samples,
)
from infovae.experiments import HEADLINE_DIM, Wanted
from infovae.experiments.compared_models import ComparedModels
from infovae.labels import format_number, label, objective_name
from infovae.plotting import Captioned, Panel


class DivergenceComparison(ComparedModels):
    """Every objective in every latent dimension, with the same decoder and budget.

    Parameters beside `n_samples` are those of `ComparedModels`.
    """

    title = "Divergence comparison"
    caveat = (
        "With few steps the distances to the prior are those on the way, not those reached: slow divergences (the "
        "adversary above all) look worse than after the authors' training, and samples are those of young decoders."
    )
    metrics: ClassVar[tuple[str, ...]] = (
        "mutual_information", "rate", "squared_mmd", "squared_mmd_null_std", "squared_mmd_point_mass",
        "log_det_cov_per_dim_test", "log_det_cov_per_dim_train", "class_cross_entropy", "class_cross_entropy_real",
        "frechet_distance", "frechet_distance_real", "reconstruction_nll", "squared_mmd_authors",
        "log_det_cov_total_authors", "class_cross_entropy_authors", "svm_error_authors", "train_seconds",
    )  # fmt: skip

    n_samples: Samples = 2000

    def wanted(self) -> Wanted:
        """Return the models, with their codes, samples and labels evaluated."""
        samples = SampleEvaluation.for_dataset(self.dataset, self.n_samples)
        return [(config, (LatentEvaluation(), samples, *self.labelling)) for config in self.models()]


AUTHORS_PANELS = {
    "squared_mmd": ("squared_mmd_authors", "squared MMD of q(z) and p(z)", 1e-5),
    "log_det_cov_total": ("log_det_cov_total_authors", "log det Cov[q(z)], total", 0.1),
    "class_cross_entropy": ("class_cross_entropy_authors", "class cross-entropy, nats", None),
    "accuracy_1000_labels": ("accuracy_authors", "accuracy with few labels, draws of z", None),
}
"""The authors' metric -> our column that is measured their way, title, and where a logarithmic axis becomes linear."""


def measured_their_way(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the finished runs with the columns of `AUTHORS_PANELS`."""
    done = plotting.finished(runs, "svm_error_authors", *(column for column, *_ in AUTHORS_PANELS.values()))
    return done.assign(accuracy_authors=1 - done["svm_error_authors"])


@plotting.figure
def plot_five_panels(runs: pd.DataFrame, history: pd.DataFrame) -> Captioned:
    """Return the paper's five-panel figure: ours solid with every run, the authors' numbers dashed, on the same axes.

    Parameters
    ----------
    history : as `collect_history` returns it, of the runs.
    """
    done, theirs = measured_their_way(runs), authors.beside("figure", runs)
    drawn, axes = plotting.panels(5, 3.6, 2.9)
    grid = axes[4].get_gridspec()
    assert grid is not None
    axes[4].set_subplotspec(grid[1, 1:])  # two panels wide
    for ax, (metric, (column, title, linear_below)) in zip(axes, AUTHORS_PANELS.items(), strict=False):
        plotting.draw_objectives(ax, done, "latent_dim", column)
        plotting.draw_theirs(ax, theirs[theirs["metric"] == metric], "latent_dim", "value")
        dims = sorted({*theirs["latent_dim"], *done["latent_dim"]})
        ax.set_xticks(dims, [f"{dim:g}" for dim in dims])
        plotting.logarithmic(ax, linear_below)
        ax.set(title=title, xlabel=label("latent_dim"))
        far = "unregularized" if metric == "class_cross_entropy" else ""
        plotting.span_near(ax, done, column, far, theirs["value"][theirs["metric"] == metric])
    curves = authors.beside("training_curves", runs).query("step > 0")
    for objective, curve in plotting.by_objective(curves):
        color = plotting.PALETTE[objective]
        axes[4].plot(curve["step"], curve["squared_mmd"], color=color, ls="--", lw=0.7, alpha=0.6)
    plotting.draw_history(axes[4], _course(runs, history, [_headline_dim(runs)]), "squared_mmd")
    plotting.logarithmic(axes[4], MMD_NOISE)
    axes[4].axhspan(-MMD_NOISE, MMD_NOISE, color="0.92", lw=0, zorder=0)
    axes[4].set(xscale="log", title="squared MMD during training", xlabel="training step")
    plotting.legend(drawn, plotting.OURS_AND_THEIRS if len(theirs) else {})
    theirs_too = " Dashed: what the authors’ code plots; its curves are of a batch each, in a dimension not stated."
    return drawn.captioned(
        done,
        f"Measured the authors’ way. {plotting.spread(runs)} Closer to 0 is better in the first three panels, higher "
        f"in the fourth. The training curves are of validation images, in {_headline_dim(runs):g} dimensions; "
        f"in the grey an estimate from 500 images, as most are, may be 0.{plotting.bold(runs)}"
        + (theirs_too if len(theirs) else ""),
    )


def beside_authors(runs: pd.DataFrame) -> pd.DataFrame:
    """Return our means, measured the authors' way, beside their numbers, in the dimension nearest to `HEADLINE_DIM`."""
    dim, done, theirs = _headline_dim(runs), measured_their_way(runs), authors.beside("figure", runs)
    values = theirs[theirs["latent_dim"] == dim].set_index(["metric", "objective"])["value"]
    rows = []
    for objective, group in plotting.by_objective(done[done["latent_dim"] == dim]):
        row = {"objective": objective_name(objective), "seeds": str(len(group))}
        for metric, (column, title, _) in AUTHORS_PANELS.items():
            ours = format_number(group[column].mean(skipna=False))
            number = values.get((metric, objective))
            row[title] = ours if number is None else f"{ours} (authors’ code: {format_number(number)})"
        rows.append(row)
    return pd.DataFrame(rows)


@plotting.figure
def plot_over_training(runs: pd.DataFrame, history: pd.DataFrame) -> Captioned:
    """Return I(x;z), squared MMD and log det of validation images against the step, even in log, a line per run."""
    scales = {"mutual_information": None, "squared_mmd": 1e-3, "log_det_cov_per_dim": 0.1}
    done = plotting.finished(runs)
    shown = done if len(done) else runs
    dims = sorted({min(shown["latent_dim"]), _headline_dim(shown), max(shown["latent_dim"])})
    drawn, axes = plotting.panels(3 * len(dims), 3.4, 2.3, sharex=True)
    course = _course(runs, history, dims, *scales)
    for row, dim in enumerate(dims):
        for ax, (metric, linear_below) in zip(axes[3 * row : 3 * row + 3], scales.items(), strict=True):
            plotting.draw_history(ax, course[course["latent_dim"] == dim], metric)
            ax.set(xscale="log", title=label(metric) if row == 0 else "")
            plotting.logarithmic(ax, linear_below)
            if linear_below:
                plotting.ideal(ax, 0, "match")
            if metric == "squared_mmd":
                ax.axhspan(-MMD_NOISE, MMD_NOISE, color="0.92", lw=0, zorder=0)
            if metric == "mutual_information" and course[metric].max() > np.log(N_MEASURED) - 0.1:
                plotting.ideal(ax, float(np.log(N_MEASURED)), "cap of the estimate")
                ax.margins(y=0.12)
        axes[3 * row].set_ylabel(f"{dim:g} dimensions")
    for ax in axes[-3:]:
        ax.set_xlabel("training step")
    plotting.legend(drawn)
    return drawn.captioned(
        course,
        "On validation images. A line that still moves at its end would change with more training. One that is level "
        "may be so because the learning rate has fallen to 0. Grey: what 500 images leave uncertain of a squared MMD, "
        "3 standard deviations in 10 dimensions; at ten steps it is on 5,000." + plotting.bold(runs),
    )


def plot_by_dimension(runs: pd.DataFrame) -> Captioned:
    """Return information, match, samples and reconstruction against the latent dimension."""
    metrics = {
        "mutual_information": Panel(limits={"cap": "mutual_information_cap"}),
        "squared_mmd": Panel(1e-3, {"match": 0.0}),
        "log_det_cov_per_dim_test": Panel(0.1, {"match": 0.0}),
        "class_cross_entropy": Panel(limits={"real images": "class_cross_entropy_real"}, far="unregularized"),
        "frechet_distance": Panel(limits={"real images": "frechet_distance_real"}, far="unregularized"),
        "reconstruction_nll": Panel(),
    }
    caption = "Grey lines: a match, the value of real images, or the cap of the estimate of I(x;z)."
    return plotting.plot_metrics(runs, "latent_dim", metrics, caption)


@plotting.figure
def plot_rate_distortion(runs: pd.DataFrame) -> Captioned:
    """Return the reconstruction against the rate, both of test images, a panel per latent dimension.

    A thin line has all pairs of the VAE's ELBO.
    """
    done = plotting.finished(runs, "rate", "reconstruction_nll").dropna(subset=["rate", "reconstruction_nll"])
    dims = sorted(done["latent_dim"].unique())
    drawn, axes = plotting.panels(len(dims), 3.4, 2.8, sharey=True)
    for ax, dim in zip(axes, dims, strict=False):
        at_dim = done[done["latent_dim"] == dim]
        for objective, group in plotting.by_objective(at_dim):
            ax.scatter(group["rate"], group["reconstruction_nll"], s=16, **plotting.look(objective), alpha=0.7)
            ax.scatter([], [], s=24, **plotting.look(objective), label=objective_name(objective))
        ax.set_xscale("symlog", linthresh=1)
        ax.set(xlim=(-0.2, 2 * at_dim["rate"].max()), title=f"{dim:g} dimensions", xlabel=label("rate"))
        vae = at_dim[at_dim["objective"] == "elbo"]
        if len(vae):
            rate = np.geomspace(1, 1 + vae["reconstruction_nll"].max(), 200) - 1
            spent = (vae["rate"] + vae["reconstruction_nll"]).mean()
            ax.plot(rate, spent - rate, color="0.5", lw=0.6, zorder=0.5)
    plotting.span(axes[0], done["reconstruction_nll"])
    axes[0].set_ylabel(label("reconstruction_nll"))
    plotting.legend(drawn, {"the VAE’s ELBO": {"color": "0.5", "lw": 0.6}})
    return drawn.captioned(
        done,
        "A dot is a run. Further to the right more is paid for the code, further down more of the image is kept. Along "
        "the thin line rate and reconstruction add up to the VAE’s −ELBO, above it the ELBO is worse. A rate that buys "
        "no reconstruction is spent on codes that do not match the prior, or on what the decoder does not read.",
    )


@plotting.figure
def plot_latent_plane(runs: pd.DataFrame, arrays: Sequence[Mapping[str, np.ndarray]]) -> Captioned:
    """Return the codes of test images in two dimensions, a panel per objective, coloured by class.

    Parameters
    ----------
    arrays : one mapping per run, with `z` (n, 2) and `labels` (n,), as a `LatentEvaluation` keeps them.
    """
    z, labels = (plotting.select_arrays(runs, arrays, key, latent_dim=2) for key in ("z", "labels"))
    most = max((int(found.max()) for found in labels.values()), default=-1)  # -1: without labels
    labelled, n_classes = most >= 0, max(10, most + 1)
    colors = "tab10" if n_classes == 10 else "turbo"
    shape = (2.9, 2.6, 0) if len(z) < 10 else (2.1, 1.9, 6)
    drawn, axes = plotting.panels(len(z), *shape, sharex=True, sharey=True)
    angle, extent = np.linspace(0, 2 * np.pi, 100), 4.5
    for ax, (objective, codes) in zip(axes, z.items(), strict=False):
        look: dict[str, Any] = {"s": 2, "linewidths": 0, "c": plotting.PALETTE[objective]}
        if labelled:
            look |= {"c": labels[objective], "cmap": colors, "vmin": -0.5, "vmax": n_classes - 0.5}
        dots = ax.scatter(codes[:, 0], codes[:, 1], **look)
        for radius in (1, 2, 3):  # standard deviations of the prior
            ax.plot(radius * np.cos(angle), radius * np.sin(angle), color="0.3", lw=0.5)
        limits = (-extent, extent)
        ax.set(aspect="equal", xlim=limits, ylim=limits, xlabel="z₁", ylabel="z₂")
        ax.set_title(objective_name(objective), fontsize=12 if len(z) < 10 else 9)
        ax.label_outer()
        outside = 100 * float(np.mean(np.abs(codes).max(axis=1) > extent))
        if outside > 0.5:
            plain = {"fc": "white", "ec": "none", "alpha": 0.8, "pad": 1}
            words = f"{outside:.0f} % outside"
            ax.text(0.98, 0.03, words, transform=ax.transAxes, ha="right", bbox=plain, **plotting.NOTE)
        if ax is axes[-1] and labelled:
            drawn.colorbar(dots, ax=axes, ticks=range(n_classes), label="class", fraction=0.02)
    classes = " Colours that separate are classes that the code tells apart." if labelled else ""
    return drawn.captioned(
        z,
        "Circles: one, two and three standard deviations of the prior. A matching q(z) puts 39, 86 and 99 % of the "
        f"dots inside them.{classes} First seed.",
    )


def select_pictures(runs: pd.DataFrame, arrays: Sequence[Mapping[str, np.ndarray]], kind: str) -> dict[str, np.ndarray]:
    """Return the "samples" or "reconstructions" of each objective in the dimension nearest to `HEADLINE_DIM`.

    Reconstructions come after the images that were shown.
    """
    dim = _headline_dim(runs)
    found = plotting.select_arrays(runs, arrays, kind, latent_dim=dim)
    originals = plotting.select_arrays(runs, arrays, "originals", latent_dim=dim)
    shown = {"test images": next(iter(originals.values()))} if originals and kind == "reconstructions" else {}
    return shown | {objective_name(name): images for name, images in found.items()}


def _headline_dim(runs: pd.DataFrame) -> float:
    """Return the latent dimension of the runs that is nearest to `HEADLINE_DIM`."""
    return min(set(runs["latent_dim"]), key=lambda dim: abs(dim - HEADLINE_DIM))


def _course(runs: pd.DataFrame, history: pd.DataFrame, dims: Sequence[float], *metrics: str) -> pd.DataFrame:
    """Return the history of the runs in some latent dimensions, with the columns `objective` and `latent_dim`."""
    chosen = runs.loc[runs["latent_dim"].isin(dims), ["run_id", "objective", "latent_dim"]]
    columns = dict.fromkeys(["run_id", "step", "squared_mmd", *metrics])
    return history.reindex(columns=list(columns)).merge(chosen, on="run_id")
