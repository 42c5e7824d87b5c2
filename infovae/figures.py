"""Figures of the experiments: each function takes tables and returns a matplotlib Figure; none computes a result.

One palette and one order for the objectives everywhere; intervals are drawn, and the ideal value as a thin line.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from infovae.config import ObjectiveName

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OBJECTIVE_ORDER = (*get_args(ObjectiveName), "pixels")

# Okabe and Ito's palette, safe for colour-blind readers, then three more
_COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#D55E00", "#0072B2", "#F0E442", "#7F7F7F", "#7F3C8D")
PALETTE = {name: _COLORS[number % len(_COLORS)] for number, name in enumerate(OBJECTIVE_ORDER)}
# where a colour comes again, line and marker tell its second objective from the first, which every notebook has
STYLES = {name: (("-", "o"), ("--", "s"))[number // len(_COLORS)] for number, name in enumerate(OBJECTIVE_ORDER)}

LABELS = {
    "squared_mmd": "squared MMD of q(z) and p(z)",
    "log_det_cov_per_dim_test": "log det Cov[q(z)] / dim",
    "class_cross_entropy": "class cross-entropy, nats",
    "frechet_distance": "Fréchet distance of samples",
    "mutual_information": "I(x;z), nats",
    "svm_error": "SVM error on E[z|x]",
    "tsvm_error": "transductive SVM error on E[z|x]",
    "svm_error_sampled": "SVM error on z ~ q(z|x)",
    "reconstruction_nll": "reconstruction, nats",
    "reconstruction_nll_prior": "with z from the prior, nats",
    "posterior_kl": "KL(q(z|x) ‖ p(z|x)), nats",
    "marginal_kl": "KL(q(z) ‖ p(z)), nats",
    "elbo": "ELBO, nats",
    "latent_dim": "latent dimension",
    "receptive_radius": "receptive radius, pixels",
    "n_train": "training images",
}


def plot_by_dimension(table: pd.DataFrame, runs: pd.DataFrame, metrics: Mapping[str, float | str | None]) -> Figure:
    """Return one panel per metric: mean and 95 % interval against the latent dimension, a line per objective.

    Each run is a small dot. The axes span the runs: with few seeds an interval may reach beyond the frame.

    Parameters
    ----------
    table : as `aggregate` returns it, of the `runs`.
    metrics : metric -> its ideal value, or the column that holds it, drawn as a thin line; None for no line.
    """
    figure = Figure(figsize=(3.4 * len(metrics), 3.2), layout="constrained")
    axes = figure.subplots(1, len(metrics), squeeze=False)[0]
    dims = sorted(table["latent_dim"].dropna().unique())
    for ax, (metric, ideal) in zip(axes, metrics.items(), strict=True):
        for shift, (objective, group) in enumerate(_by_objective(table[table["latent_dim"].notna()])):
            x = group["latent_dim"] * 1.05**shift  # side by side, so that no interval hides another
            _errorbar(ax, x, group[metric], group.get(f"{metric}_ci95"), objective)
            of_runs = runs[(runs["objective"] == objective) & (runs["status"] == "done")]
            _dots(ax, of_runs["latent_dim"] * 1.05**shift, of_runs[metric], objective)
        value = float(table[ideal].mean()) if isinstance(ideal, str) else ideal
        if value is not None:
            ax.axhline(value, color="0.5", lw=0.6)
        ax.set(xscale="log", xlabel=LABELS["latent_dim"], ylabel=LABELS.get(metric, metric))
        ax.set_xticks(dims, [f"{dim:g}" for dim in dims], minor=False)
        ax.set_xlim(dims[0] / 1.3, dims[-1] * 1.7)
        ax.minorticks_off()
        if metric == "squared_mmd":
            ax.set_yscale("symlog", linthresh=1e-4)
        _span(ax, [*runs[metric].dropna(), *([] if value is None else [value])])
    _legend(figure, axes[0])
    return figure


def plot_by_size(table: pd.DataFrame, runs: pd.DataFrame, metrics: Mapping[str, str]) -> Figure:
    """Return metrics against the size of the training set: a row per dimension, a line per objective.

    A metric whose name ends in `_test` is drawn beside that of the training images, which is dashed.

    Parameters
    ----------
    table : as `aggregate` returns it, of the `runs`.
    metrics : metric -> the title of its panel; each ideally 0, drawn as a thin line.
    """
    dims = sorted(table["latent_dim"].unique())
    figure = Figure(figsize=(4.2 * len(metrics), 2.9 * len(dims) + 0.4), layout="constrained")
    axes = figure.subplots(len(dims), len(metrics), squeeze=False, sharex=True)
    for row, dim in zip(axes, dims, strict=True):
        for ax, (metric, title) in zip(row, metrics.items(), strict=True):
            for number, (objective, group) in enumerate(_by_objective(table[table["latent_dim"] == dim])):
                x = group["n_train"] * 1.06**number
                chosen = (runs["objective"] == objective) & (runs["latent_dim"] == dim) & (runs["status"] == "done")
                _errorbar(ax, x, group[metric], group.get(f"{metric}_ci95"), objective)
                _dots(ax, runs[chosen]["n_train"] * 1.06**number, runs[chosen][metric], objective)
                if metric.endswith("_test"):
                    seen = metric.removesuffix("_test") + "_train"
                    ax.plot(x, group[seen], color=PALETTE[objective], lw=1, ls="--", marker="o", ms=3, mfc="white")
            ax.axhline(0, color="0.5", lw=0.6)
            ax.set(xscale="log", title=f"{title}, {dim:g} dimensions")
            drawn = [metric, metric.removesuffix("_test") + "_train"] if metric.endswith("_test") else [metric]
            _span(ax, [*runs[runs["latent_dim"] == dim][drawn].stack(), 0.0])
    sizes = sorted(table["n_train"].unique())
    for ax in axes[-1]:
        ax.set_xlabel("training images")
        ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
        ax.minorticks_off()
    _legend(figure, axes[0][0])
    return figure


def plot_densities(densities: Mapping[str, np.ndarray], extent: float) -> Figure:
    """Return contours of two-dimensional densities over those of N(0, I): a panel per entry, on one scale.

    Parameters
    ----------
    densities : title -> density on a square grid, (m, m), the first axis being that of the first coordinate.
    extent : the grid reaches from -extent to extent.
    """
    figure = Figure(figsize=(2.5 * max(1, len(densities)), 2.9), layout="constrained")
    axes = figure.subplots(1, max(1, len(densities)), squeeze=False, sharex=True, sharey=True)[0]
    levels = np.array([0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32])
    angle = np.linspace(0, 2 * np.pi, 100)
    for ax, (title, density) in zip(axes, densities.items(), strict=False):
        axis = np.linspace(-extent, extent, len(density))
        ax.contourf(axis, axis, density.T, levels, cmap="viridis", extend="max")
        for level in levels[levels < 1 / (2 * np.pi)]:  # where the prior's density takes the same value
            radius = np.sqrt(-2 * np.log(2 * np.pi * level))
            ax.plot(radius * np.cos(angle), radius * np.sin(angle), color="0.4", lw=0.5)
        ax.set(title=title, aspect="equal", xlabel="z₁")
    axes[0].set_ylabel("z₂")
    return figure


def plot_training(history: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Return the squared MMD of validation codes against the training step: one panel per dimension, a line per run."""
    dims = sorted(runs["latent_dim"].unique())
    figure = Figure(figsize=(3.6 * len(dims), 3.2), layout="constrained")
    axes = figure.subplots(1, len(dims), squeeze=False, sharey=True)[0]
    merged = history.merge(runs[["run_id", "objective", "latent_dim"]], on="run_id")
    for ax, dim in zip(axes, dims, strict=True):
        for objective, group in _by_objective(merged[merged["latent_dim"] == dim]):
            for number, (_, run) in enumerate(group.groupby("run_id")):
                label = objective if number == 0 else None
                style = {"color": PALETTE[objective], "ls": STYLES[objective][0]}
                ax.plot(run["step"], run["squared_mmd"], lw=1.2, alpha=0.8, label=label, **style)
        ax.axhline(0, color="0.5", lw=0.6)
        ax.set(xlabel="training step", title=f"{dim} dimensions", yscale="symlog")
        ax.set_yscale("symlog", linthresh=1e-3)
    axes[0].set_ylabel(LABELS["squared_mmd"])
    _legend(figure, axes[0])
    return figure


def plot_posteriors(runs: pd.DataFrame, arrays: Sequence[Mapping[str, np.ndarray]]) -> Figure:
    """Return q(z|x), filled, and the true posterior p(z|x), a line, of each objective's first run at each floor.

    A column per objective, a row per floor of the decoder's standard deviation; both x in each panel. The axes of a row
    are the same.

    Parameters
    ----------
    arrays : one mapping per row of `runs`, as a `PosteriorEvaluation` keeps it; empty for a failed run.
    """
    found: dict[tuple[float, str], Mapping[str, np.ndarray]] = {}
    for run, kept in zip(runs.itertuples(), arrays, strict=True):
        if kept:
            found.setdefault((float(run.decoder_min_std), str(run.objective)), kept)  # type: ignore[arg-type]
    floors = sorted(runs["decoder_min_std"].unique(), reverse=True)
    names = [name for name, _ in _by_objective(runs)]
    figure = Figure(figsize=(2.3 * len(names), 1.9 * len(floors) + 0.6), layout="constrained")
    axes = figure.subplots(len(floors), len(names), squeeze=False, sharex=True, sharey="row")
    for (row, floor), (column, name) in itertools.product(enumerate(floors), enumerate(names)):
        ax = axes[row, column]
        ax.set(xlim=(-3.5, 3.5), title=name if row == 0 else None, xlabel="z" if row == len(floors) - 1 else None)
        if (floor, name) in found:
            _draw_posteriors(ax, found[floor, name])
    for ax, floor in zip(axes[:, 0], floors, strict=True):
        ax.set_ylabel(f"floor {floor:g}\ndensity")
        ax.set_ylim(bottom=0)  # once all of the row is drawn: it ends the scaling to what is
    _legend(figure, axes[0, 0])
    return figure


def _draw_posteriors(ax: Axes, kept: Mapping[str, np.ndarray]) -> None:
    z = kept["z"]
    for x, q, p, color in zip(("−1", "+1"), kept["q_z_given_x"], kept["p_z_given_x"], _COLORS[6:4:-1], strict=True):
        ax.fill_between(z, q, color=color, alpha=0.3, lw=0, label=f"q(z|x = {x})")
        ax.plot(z, p, color=color, lw=1, label=f"p(z|x = {x})")
    ax.plot(z, kept["q_z"], color="0.2", lw=0.8, ls=":", label="q(z)")
    ax.plot(z, kept["p_z"], color="0.5", lw=0.6, label="p(z)")


def plot_inference(history: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Return posterior KL, ELBO and KL of q(z) to p(z) against the training step: a row per floor, a line per run."""
    linear_up_to = {"posterior_kl": 1.0, "marginal_kl": 1.0, "elbo": 3.0}  # beyond it logarithmic: training has spikes
    floors = sorted(runs["decoder_min_std"].unique(), reverse=True)
    figure = Figure(figsize=(3.4 * len(linear_up_to), 2.3 * len(floors) + 0.5), layout="constrained")
    axes = figure.subplots(len(floors), len(linear_up_to), squeeze=False, sharex=True, sharey="col")
    merged = history.merge(runs[["run_id", "objective", "decoder_min_std"]], on="run_id")
    for row, floor in enumerate(floors):
        for ax, metric in zip(axes[row], linear_up_to, strict=True):
            ax.set_yscale("symlog", linthresh=linear_up_to[metric])
            ticks = [-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100] if metric == "elbo" else [0, 0.2, 0.5, 1, 3, 10, 30]
            ax.yaxis.set_major_locator(FixedLocator(ticks))
            ax.yaxis.set_major_formatter("{x:g}")
            for objective, group in _by_objective(merged[merged["decoder_min_std"] == floor]):
                for number, (_, run) in enumerate(group.groupby("run_id")):
                    label = objective if number == 0 else None
                    ax.plot(run["step"], run[metric], color=PALETTE[objective], lw=1.2, alpha=0.8, label=label)
            if metric != "elbo":
                ax.axhline(0, color="0.5", lw=0.6)
            ax.set_title(LABELS[metric] if row == 0 else "")
            ax.set_xlabel("training step" if row == len(floors) - 1 else "")
        axes[row, 0].set_ylabel(f"floor {floor:g}")
    _legend(figure, axes[0, 0])
    return figure


def plot_latent_plane(codes: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Return the codes of test images in two dimensions, a panel per objective, coloured by class.

    Parameters
    ----------
    codes : objective -> (z of shape (n, 2), labels of shape (n,)).
    """
    figure = Figure(figsize=(2.3 * max(1, len(codes)), 2.8), layout="constrained")
    axes = figure.subplots(1, max(1, len(codes)), squeeze=False, sharex=True, sharey=True)[0]
    angle = np.linspace(0, 2 * np.pi, 100)
    scatter: Any = None
    for ax, (objective, (z, labels)) in zip(axes, codes.items(), strict=False):
        scatter = ax.scatter(z[:, 0], z[:, 1], c=labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=2, linewidths=0)
        ax.plot(2 * np.cos(angle), 2 * np.sin(angle), color="0.3", lw=0.6)  # two standard deviations of the prior
        ax.set(title=objective, aspect="equal", xlim=(-5, 5), ylim=(-5, 5), xlabel="z₁")
    axes[0].set_ylabel("z₂")
    if scatter is not None:
        figure.colorbar(scatter, ax=list(axes), ticks=range(10), label="class", fraction=0.02)
    return figure


def plot_images(rows: Mapping[str, np.ndarray], n_columns: int = 20) -> Figure:
    """Return a grid of images: one labelled row per entry, the same images in the same columns.

    Parameters
    ----------
    rows : label -> images (n, 1, H, W) in {0, 1}.
    """
    figure = Figure(figsize=(0.42 * n_columns + 1.4, 0.46 * max(1, len(rows))), layout="constrained")
    axes = figure.subplots(max(1, len(rows)), 1, squeeze=False)[:, 0]
    for ax, (label, images) in zip(axes, rows.items(), strict=False):
        strip = np.pad(images[:n_columns, 0], ((0, 0), (1, 1), (1, 1)))  # a dark frame keeps neighbours apart
        ax.imshow(np.concatenate(list(strip), axis=1), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


def plot_semi_supervised(table: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Return the errors against the latent dimension, with the pixel baseline and chance as lines."""
    metrics = ("svm_error", "tsvm_error", "svm_error_sampled")
    codes = runs[runs["objective"] != "pixels"]
    figure = plot_by_dimension(table[table["objective"] != "pixels"], codes, dict.fromkeys(metrics, 0.9))
    pixels = table[table["objective"] == "pixels"]
    for ax, metric in zip(figure.axes, metrics, strict=True):
        ax.set_yscale("log")
        if len(pixels):
            ax.axhline(pixels[metric].iloc[0], color="0.3", lw=0.8, ls="--")
            ax.annotate(
                "pixels", (1, pixels[metric].iloc[0]), xycoords=("axes fraction", "data"), ha="right", va="bottom"
            )
        ax.annotate("chance", (0.5, 0.9), xycoords=("axes fraction", "data"), ha="center", va="bottom")
        ax.set_yticks([0.05, 0.1, 0.2, 0.5, 0.9], ["5 %", "10 %", "20 %", "50 %", "90 %"])
        ax.set_ylim(0.05, 1)
        ax.minorticks_off()
    return figure


def plot_latent_usage(table: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Return I(x;z) against the receptive field: the ELBO, and a panel per alpha with a line per lambda_.

    Each run is a small dot. The axes reach from 0 to the cap: with few seeds an interval may reach beyond the frame.
    """
    runs = runs[runs["status"] == "done"]
    family = table[table["objective"] != "elbo"]
    alphas = sorted(family["alpha"].unique())
    lambdas = sorted(family["lambda_"].unique())
    figure = Figure(figsize=(3.2 * max(1, len(alphas)), 3.2), layout="constrained")
    axes = figure.subplots(1, max(1, len(alphas)), squeeze=False, sharey=True)[0]
    elbo = table[table["objective"] == "elbo"]
    metric = "mutual_information"
    for ax, alpha in zip(axes, alphas, strict=False):
        _errorbar(ax, elbo["receptive_radius"], elbo[metric], elbo.get(f"{metric}_ci95"), "elbo")
        of_elbo = runs[runs["objective"] == "elbo"]
        _dots(ax, of_elbo["receptive_radius"], of_elbo[metric], "elbo")
        for number, lambda_ in enumerate(lambdas):
            group = family[(family["alpha"] == alpha) & (family["lambda_"] == lambda_)]
            name = str(group["objective"].iloc[0]) if len(group) else "mmd"
            _errorbar(
                ax, group["receptive_radius"] + 0.1 * (number + 1), group[metric], group.get(f"{metric}_ci95"),
                f"{name}, λ = {lambda_:g}", color=PALETTE[name], alpha=0.35 + 0.65 * (number + 1) / len(lambdas),
                marker="os^Dv"[number % 5],
            )  # fmt: skip
            chosen = (runs["objective"] != "elbo") & (runs["alpha"] == alpha) & (runs["lambda_"] == lambda_)
            _dots(ax, runs[chosen]["receptive_radius"] + 0.1 * (number + 1), runs[chosen][metric], name)
        cap = table["mutual_information_cap"].max()
        ax.axhline(cap, color="0.5", lw=0.6)
        ax.axhline(0, color="0.5", lw=0.6)
        ax.set_ylim(-0.08 * cap, 1.08 * cap)
        ax.set(title=f"α = {alpha:g}", xlabel=LABELS["receptive_radius"])
        ax.set_xticks(sorted(table["receptive_radius"].unique()))
    axes[0].set_ylabel("I(x;z), nats")
    _legend(figure, axes[0])
    return figure


def plot_information_and_match(table: pd.DataFrame) -> Figure:
    """Return where information is lost: I(x;z) against the distance of q(z) to p(z), a point per condition."""
    figure = Figure(figsize=(4.6, 3.4), layout="constrained")
    ax = figure.subplots()
    for objective, group in _by_objective(table):
        points = ax.scatter(
            group["squared_mmd"], group["mutual_information"], s=10 + 4 * group["receptive_radius"], alpha=0.8,
            c=PALETTE[objective], marker=STYLES[objective][1], label=objective,
        )  # fmt: skip
        points.set_edgecolor("white")
        if objective != "elbo":
            for row in group[group["receptive_radius"] == group["receptive_radius"].max()].itertuples():
                text = f"α={row.alpha:g} λ={row.lambda_:g}"
                ax.annotate(
                    text,
                    (row.squared_mmd, row.mutual_information),
                    xytext=(4, 3),
                    textcoords="offset points",
                    fontsize=6,
                )
    ax.axvline(0, color="0.5", lw=0.6)
    ax.set_xscale("symlog", linthresh=1e-4)
    ax.set(xlabel=LABELS["squared_mmd"], ylabel=LABELS["mutual_information"])
    _legend(figure, ax)
    return figure


def plot_bounds_by_draws(table: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Return the bounds on -log p(x) against the number of draws K: a panel per decoder, a line per objective.

    Thick lines are means, thin ones with dots single runs. The control without a code, whose log p(x) is exact, is a
    dashed line for each run.
    """
    runs = runs[runs["status"] == "done"]
    draws = sorted(int(name.removeprefix("nll_")) for name in map(str, table) if re.fullmatch(r"nll_\d+", name))
    columns = [f"nll_{k}" for k in draws]
    decoders = list(table["decoder"].unique())
    figure = Figure(figsize=(3.8 * len(decoders), 3.4), layout="constrained")
    axes = figure.subplots(1, len(decoders), squeeze=False)[0]
    for ax, decoder in zip(axes, decoders, strict=True):
        of_decoder = runs[runs["decoder"] == decoder]
        for objective, group in _by_objective(table[table["decoder"] == decoder]):
            values = of_decoder.loc[of_decoder["objective"] == objective, columns].to_numpy()
            if objective == "unconditional":
                for number, level in enumerate(values[:, -1]):
                    label = "unconditional (exact)" if number == 0 else None
                    ax.axhline(level, color=PALETTE[objective], ls="--", lw=1, label=label)
                continue
            ax.plot(draws, group[columns].to_numpy()[0], color=PALETTE[objective], lw=1.8, label=objective)
            ax.plot(draws, values.T, color=PALETTE[objective], lw=0.6, marker="o", ms=3, alpha=0.5)
        ax.set(xscale="log", title=f"{decoder} decoder", xlabel="draws K of the fitted proposal")
        ax.set_xticks(draws, [f"{k:,}" for k in draws])
        ax.minorticks_off()
    axes[0].set_ylabel("bound on −log p(x), nats")
    _legend(figure, axes[0])
    return figure


def plot_annealing(runs: pd.DataFrame) -> Figure:
    """Return annealed against importance-weighted estimates of -log p(x), a dot per run: value, and difference."""
    runs = runs[(runs["status"] == "done") & runs["nll_annealed"].notna()]
    figure = Figure(figsize=(7.6, 3.4), layout="constrained")
    of_values, of_differences = figure.subplots(1, 2)
    for number, (objective, group) in enumerate(_by_objective(runs)):
        style = {"s": 22, "color": PALETTE[objective], "alpha": 0.7, "linewidths": 0}
        of_values.scatter(group["nll_annealed_reference"], group["nll_annealed"], label=objective, **style)
        difference = group["nll_annealed"] - group["nll_annealed_reference"]
        of_differences.scatter(np.full(len(group), number), difference, **style)
    limits = [f(of_values.get_xlim() + of_values.get_ylim()) for f in (min, max)]
    of_values.plot(limits, limits, color="0.5", lw=0.6)
    of_values.set(title="bound on −log p(x), nats", xlabel="importance-weighted", ylabel="annealed", aspect="equal")
    of_differences.axhline(0, color="0.5", lw=0.6)
    of_differences.margins(x=0.2)
    of_differences.set(title="annealed − importance-weighted, nats", xlabel="runs, by objective", xticks=[])
    _legend(figure, of_values)
    return figure


def _by_objective(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    present = [name for name in OBJECTIVE_ORDER if name in set(table["objective"])]
    return [(name, table[table["objective"] == name]) for name in present]


def _errorbar(
    ax: Axes, x: pd.Series, y: pd.Series, interval: pd.Series | None, label: str, color: str | None = None, **style: Any
) -> None:
    error = None if interval is None else interval.fillna(0)
    line, marker = STYLES.get(label, STYLES["elbo"])
    settings = {"ls": line, "marker": marker, "ms": 4, "lw": 1.2, "capsize": 2, "elinewidth": 0.8, **style}
    drawn = ax.errorbar(x, y, error, label=label, color=color or PALETTE.get(label, "0.4"), **settings)
    for part in (*drawn.lines[1], *drawn.lines[2]):
        part.set_alpha(0.45)  # the interval steps back behind mean and runs


def _dots(ax: Axes, x: pd.Series, y: pd.Series, label: str) -> None:
    marker = STYLES.get(label, STYLES["elbo"])[1]
    ax.scatter(x, y, s=9, color=PALETTE.get(label, "0.4"), marker=marker, alpha=0.5, linewidths=0)


def _span(ax: Axes, values: list[float]) -> None:
    """Limit the vertical axis to the values, with a margin in the axis's own scale."""
    if not values:
        return
    transform = ax.yaxis.get_transform()
    low, high = transform.transform(np.array([min(values), max(values)]))
    margin = 0.08 * (high - low) or 1.0
    ax.set_ylim(*transform.inverted().transform(np.array([low - margin, high + margin])))


def _legend(figure: Figure, ax: Axes) -> None:
    handles, labels = ax.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, max(1, len(labels))), frameon=False)


def select_arrays(
    runs: pd.DataFrame, arrays: Sequence[Mapping[str, np.ndarray]], key: str, **conditions: float
) -> dict[str, Any]:
    """Return objective -> array `key` of its first run that meets the conditions, in the palette's order."""
    found: dict[str, Any] = {}
    for (_, run), kept in zip(runs.iterrows(), arrays, strict=True):
        if key in kept and all(run[name] == value for name, value in conditions.items()):
            found.setdefault(str(run["objective"]), kept[key])
    return {name: found[name] for name in OBJECTIVE_ORDER if name in found}
