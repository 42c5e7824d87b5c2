"""Figures of the experiments: each function takes tables and returns a matplotlib Figure; none computes a result.

One palette and one order for the objectives everywhere; single runs are drawn, the interval over seeds where there are
enough of them, and the ideal value as a thin line with its name. Each figure carries what it shows and how to read it.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from infovae.config import EMPTY_CODE, ObjectiveName
from infovae.labels import label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OBJECTIVE_ORDER = (*get_args(ObjectiveName), "pixels")

# Okabe and Ito's palette, safe for colour-blind readers, with purple and brown for its yellow: too pale for lines
_COLORS = {
    "elbo": "#000000",
    "beta_vae": "#E69F00",
    "unregularized": "#56B4E9",
    "mmd": "#009E73",
    "mmd_annealed": "#CC79A7",
    "stein": "#D55E00",
    "jensen": "#0072B2",
    "wasserstein": "#7F3C8D",
    "unconditional": "#8A8A8A",
    "pixels": "#8C6D31",
}
# where a colour comes again, line and marker tell its second objective from the first, which every notebook has
_REST = dict(zip((name for name in OBJECTIVE_ORDER if name not in _COLORS), _COLORS.values(), strict=False))
PALETTE = {name: (_COLORS | _REST)[name] for name in OBJECTIVE_ORDER}
STYLES = {name: ("-", "o") if name in _COLORS else ("--", "s") for name in OBJECTIVE_ORDER}

SEEDS_FOR_INTERVAL = 3
"""Seeds from which an interval is drawn: Student's factor of two is 12.7, and its bars would fill every panel."""

DPI = 200


class Captioned(Figure):
    """A figure that says what it shows, for those who cannot see it, and how to read it."""

    alt = ""
    caption = ""

    def describe(self, alt: str, caption: str) -> Captioned:
        """Set what the figure shows and how to read it; return the figure."""
        self.alt, self.caption = alt, caption
        return self

    def to_png(self) -> bytes:
        """Return the figure as a PNG of 256 colours, a third of the size of one with all."""
        from PIL import Image

        buffer, small = io.BytesIO(), io.BytesIO()
        self.savefig(buffer, dpi=DPI, bbox_inches="tight", facecolor="white")
        image = Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        image.save(small, "PNG", optimize=True)
        return small.getvalue()

    def _ipython_display_(self) -> None:
        """Show the figure in a notebook as it is published, with its alternative text, its caption below."""
        from IPython.display import Image, Markdown, display

        png = self.to_png()
        display(Image(data=png, alt=self.alt, width=display_width(png)), Markdown(self.caption))


def display_width(png: bytes) -> int:
    """Return the width in pixels at which a PNG of `DPI` is to be shown, its text at the size of the page's."""
    return int.from_bytes(png[16:20], "big") * 100 // DPI  # of the IHDR chunk, which comes first


def plot_tuning(table: pd.DataFrame, learning_rate: float) -> Captioned:
    """Return what lambda_ does to information and match at one learning rate, and what the learning rate does to loss.

    Parameters
    ----------
    table : of `Tuning`; the loss is the reconstruction plus (1 - alpha) of the rate, in nats per validation image.
    """
    figure, (trade, loss) = _panels(2, 4.4, 3.2)
    for objective, group in _by_objective(table[table["learning_rate"] == learning_rate].sort_values("lambda_")):
        if len(group) > 1:
            trade.plot(group["squared_mmd"], group["mutual_information"], "-o", color=PALETTE[objective], ms=4)
            for row in group.itertuples():
                at = (row.squared_mmd, row.mutual_information)
                trade.annotate(f"λ={row.lambda_:g}", at, (4, 4), textcoords="offset points", fontsize=7)
    trade.set(xscale="log", xlabel=label("squared_mmd"), ylabel=label("mutual_information"))
    trade.margins(x=0.25, y=0.1)
    rates = sorted(table["learning_rate"].unique())
    for objective, group in _by_objective(table.sort_values("learning_rate")):
        for _, varied in group.groupby("lambda_"):
            if len(varied) > 1:
                charged = varied["reconstruction_nll"] + (1 - varied["alpha"]) * varied["rate"]
                loss.plot(varied["learning_rate"], charged, "-o", color=PALETTE[objective], ms=4)
    loss.set(xscale="log", xlabel=label("learning_rate"), ylabel="reconstruction + charged rate, nats")
    loss.set_xticks(rates, [f"{rate:g}" for rate in rates])
    loss.minorticks_off()
    handles = [Line2D([], [], color=PALETTE[name], marker="o", ms=4) for name, _ in _by_objective(table)]
    _legend(figure, handles=handles, labels=[name for name, _ in _by_objective(table)])
    return figure.describe(
        f"Left: I(x;z) against the squared MMD, a point for each λ at learning rate {learning_rate:g}. Right: the loss "
        f"on validation images against the learning rate ({_numbers(rates)}). A line per objective: {_names(table)}.",
        "Left: the upper left corner has all the information and the prior's match; a larger λ goes down and to the "
        "left. Right: lower is better, but what an emptied code does to the loss cannot be seen here.",
    )


def plot_by_dimension(table: pd.DataFrame, runs: pd.DataFrame, metrics: Mapping[str, float | str | None]) -> Captioned:
    """Return one panel per metric: mean and 95 % interval against the latent dimension, a line per objective.

    Each run is a small dot. The axes span the runs: an interval may reach beyond the frame.

    Parameters
    ----------
    table : as `aggregate` returns it, of the `runs`.
    metrics : metric -> its ideal value, or the column that holds that of real images, drawn as a thin line; None for
        no line. What no run has, as no class of images without labels, gets no panel.
    """
    metrics = {metric: ideal for metric, ideal in metrics.items() if runs[metric].notna().any()}
    figure, axes = _panels(len(metrics), 3.6, 3.0)
    dims = sorted(table["latent_dim"].dropna().unique())
    for ax, (metric, ideal) in zip(axes, metrics.items(), strict=True):
        for shift, (objective, group) in enumerate(_by_objective(table[table["latent_dim"].notna()])):
            x = group["latent_dim"] * 1.05**shift  # side by side, so that no interval hides another
            _errorbar(ax, x, group, metric, objective)
            of_runs = runs[(runs["objective"] == objective) & (runs["status"] == "done")]
            _dots(ax, of_runs["latent_dim"] * 1.05**shift, of_runs[metric], objective)
        value = float(table[ideal].mean()) if isinstance(ideal, str) else ideal
        if value is not None:
            _ideal(ax, value, "real images" if isinstance(ideal, str) else "match")
        ax.set(xscale="log", xlabel=label("latent_dim"), ylabel=label(metric))
        ax.set_xticks(dims, [f"{dim:g}" for dim in dims], minor=False)
        ax.set_xlim(dims[0] / 1.3, dims[-1] * 1.7)
        ax.minorticks_off()
        if metric == "squared_mmd":
            ax.set_yscale("symlog", linthresh=1e-4)
        _span(ax, [*runs[metric].dropna(), *([] if value is None else [value])])
    _legend(figure, axes[0])
    return figure.describe(
        f"{_count(metrics, 'panel')} against the latent dimension ({_numbers(dims)}): "
        f"{_join(map(label, metrics))}. A line per objective: {_names(table)}.",
        f"Large marks are means, joined by lines; small ones single runs; {_spread(table)}. Grey lines: the value of a "
        "match, or of real images, beyond which nothing can be expected. Objectives stand side by side for legibility.",
    )


def plot_by_size(table: pd.DataFrame, runs: pd.DataFrame, metrics: Mapping[str, str]) -> Captioned:
    """Return metrics against the size of the training set: a row per dimension, a line per objective.

    A metric whose name ends in `_test` is drawn beside that of the training images, which is dashed.

    Parameters
    ----------
    table : as `aggregate` returns it, of the `runs`.
    metrics : metric -> the title of its panel; each ideally 0, drawn as a thin line. What no run has gets no panel.
    """
    metrics = {metric: title for metric, title in metrics.items() if runs[metric].notna().any()}
    dims = sorted(table["latent_dim"].unique())
    figure = Captioned(figsize=(3.3 * len(metrics), 2.6 * len(dims) + 0.5), layout="constrained")
    axes = figure.subplots(len(dims), len(metrics), squeeze=False, sharex=True, sharey="col")
    for row, dim in zip(axes, dims, strict=True):
        for ax, metric in zip(row, metrics, strict=True):
            for number, (objective, group) in enumerate(_by_objective(table[table["latent_dim"] == dim])):
                x = group["n_train"] * 1.06**number
                chosen = (runs["objective"] == objective) & (runs["latent_dim"] == dim) & (runs["status"] == "done")
                _errorbar(ax, x, group, metric, objective)
                _dots(ax, runs[chosen]["n_train"] * 1.06**number, runs[chosen][metric], objective)
                if metric.endswith("_test"):
                    seen = metric.removesuffix("_test") + "_train"
                    ax.plot(x, group[seen], color=PALETTE[objective], lw=1, ls="--", marker="o", ms=3, mfc="white")
            _ideal(ax, 0, "ideal")
            ax.set(xscale="log")
        row[0].set_ylabel(f"{dim:g} dimensions")
    for ax, (metric, title) in zip(axes[0], metrics.items(), strict=True):
        ax.set_title(title)
        drawn = [metric, metric.removesuffix("_test") + "_train"] if metric.endswith("_test") else [metric]
        _span(ax, [*runs[drawn].stack(), 0.0])
    sizes = sorted(table["n_train"].unique())
    for ax in axes[-1]:
        ax.set_xlabel("training images")
        ax.set_xticks(sizes, [f"{size:,}" for size in sizes])
        ax.minorticks_off()
    handles, labels = axes[0][0].get_legend_handles_labels()
    kinds = {"test images": ("-", None), "training images": ("--", "white")}
    for name, (line, face) in kinds.items():
        handles.append(Line2D([], [], color="0.4", ls=line, marker="o", ms=3, mfc=face, lw=1))
        labels.append(name)
    _legend(figure, handles=handles, labels=labels)
    return figure.describe(
        f"{_join(metrics.values())} against the number of training images ({_numbers(sizes)}), "
        f"a row for each of {_numbers(dims)} dimensions, a line per objective: {_names(table)}.",
        "Large marks are means, small dots single runs on test images; of log det, dashed lines with hollow marks are "
        f"means on training images; {_spread(table)}. A column has one scale. Above 0 log det says that the code is "
        "spread wider than the prior, below that it is narrower.",
    )


def plot_densities(densities: Mapping[str, np.ndarray], extent: float, n_columns: int = 4) -> Captioned:
    """Return contours of two-dimensional densities over those of N(0, I): a panel per entry, on one scale.

    Parameters
    ----------
    densities : title -> density on a square grid, (m, m), the first axis being that of the first coordinate.
    extent : the grid reaches from -extent to extent.
    """
    figure, axes = _panels(len(densities), 2.5, 2.5, n_columns=n_columns, sharex=True, sharey=True)
    levels = np.array([0.01, 0.02, 0.04, 0.08, 0.12, 0.16, 0.24, 0.32])
    angle = np.linspace(0, 2 * np.pi, 100)
    filled: Any = None
    for ax, (title, density) in zip(axes, densities.items(), strict=False):
        axis = np.linspace(-extent, extent, len(density))
        filled = ax.contourf(axis, axis, density.T, levels, cmap="viridis", extend="max")
        for level in levels[levels < 1 / (2 * np.pi)]:  # where the prior's density takes the same value
            radius = np.sqrt(-2 * np.log(2 * np.pi * level))
            ax.plot(radius * np.cos(angle), radius * np.sin(angle), color="0.4", lw=0.5)
        ax.set(title=title, aspect="equal", xlabel="z₁", ylabel="z₂")
        ax.label_outer()
    if filled is not None:
        figure.colorbar(filled, ax=axes, label="density of q(z)", fraction=0.02, ticks=levels)
    return figure.describe(
        f"Filled contours of the density of q(z) in two dimensions, {_count(densities, 'panel')}: {_join(densities)}. "
        "Circles show where the prior's density has the values of the contours.",
        "A match would fill each circle with its own colour, as an empty code does, too. Holes within the circles are "
        "places that samples come from and no image was coded into; bright spots lie where codes are packed more "
        "densely than under the prior. First seed.",
    )


def plot_training(history: pd.DataFrame, runs: pd.DataFrame) -> Captioned:
    """Return the squared MMD of validation codes against the training step: one panel per dimension, a line per run."""
    dims = sorted(runs["latent_dim"].unique())
    figure, axes = _panels(len(dims), 3.4, 2.9, sharey=True)
    merged = history.merge(runs[["run_id", "objective", "latent_dim"]], on="run_id")
    for ax, dim in zip(axes, dims, strict=True):
        _draw_history(ax, merged[merged["latent_dim"] == dim], "squared_mmd")
        _ideal(ax, 0, "match")
        ax.set(xlabel="training step", ylabel=label("squared_mmd"), title=f"{dim} dimensions")
        ax.set_yscale("symlog", linthresh=1e-3)
        ax.label_outer(remove_inner_ticks=False)
        ax.tick_params(labelbottom=True)
    _legend(figure, axes[0])
    return figure.describe(
        f"Squared MMD between codes of validation images and draws of the prior against the training step, "
        f"{_count(dims, 'panel')}, one for each of {_join(map(str, dims))} dimensions; lines fall at different speeds "
        f"towards 0. A line per run, coloured by objective: {_names(runs)}.",
        "A fast divergence falls early, a stable one stays down; about 1 is no overlap. The vertical axis is "
        "logarithmic, and linear within 0.001 of 0, where only the estimate's noise is left; all panels share it.",
    )


def plot_posteriors(runs: pd.DataFrame, arrays: Sequence[Mapping[str, np.ndarray]]) -> Captioned:
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
    figure = Captioned(figsize=(2.0 * len(names), 1.7 * len(floors) + 0.6), layout="constrained")
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
    return figure.describe(
        "Densities over the code z: the encoder's q(z|x) for x = −1 and x = +1 as filled areas, the true posterior "
        f"p(z|x) as lines, with q(z) and the prior. A column per objective ({_names(runs)}), a row per floor of the "
        f"decoder's standard deviation ({_numbers(floors)}).",
        "Where inference is right, the line is the edge of the filled area of its colour; where q(z) matches the "
        "prior, the dotted curve lies on the grey one. First seed: a code empty here may be used under others.",
    )


def _draw_posteriors(ax: Axes, kept: Mapping[str, np.ndarray]) -> None:
    z = kept["z"]
    colors = (PALETTE["jensen"], PALETTE["stein"])
    for x, q, p, color in zip(("−1", "+1"), kept["q_z_given_x"], kept["p_z_given_x"], colors, strict=True):
        ax.fill_between(z, q, color=color, alpha=0.3, lw=0, label=f"q(z|x = {x})")
        ax.plot(z, p, color=color, lw=1, label=f"p(z|x = {x})")
    ax.plot(z, kept["q_z"], color="0.2", lw=0.8, ls=":", label="q(z)")
    ax.plot(z, kept["p_z"], color="0.5", lw=0.6, label="p(z)")


def plot_inference(history: pd.DataFrame, runs: pd.DataFrame) -> Captioned:
    """Return posterior KL, ELBO and KL of q(z) to p(z) against the training step: a row per floor, a line per run."""
    linear_up_to = {"posterior_kl": 1.0, "marginal_kl": 1.0, "elbo": 3.0}  # beyond it logarithmic: training has spikes
    floors = sorted(runs["decoder_min_std"].unique(), reverse=True)
    figure = Captioned(figsize=(3.2 * len(linear_up_to), 1.9 * len(floors) + 0.5), layout="constrained")
    axes = figure.subplots(len(floors), len(linear_up_to), squeeze=False, sharex=True, sharey="col")
    merged = history.merge(runs[["run_id", "objective", "decoder_min_std"]], on="run_id")
    for row, floor in enumerate(floors):
        for ax, metric in zip(axes[row], linear_up_to, strict=True):
            ax.set_yscale("symlog", linthresh=linear_up_to[metric])
            ticks = [-100, -30, -10, -3, -1, 0, 1, 3, 10, 30, 100] if metric == "elbo" else [0, 0.2, 0.5, 1, 3, 10, 30]
            ax.yaxis.set_major_locator(FixedLocator(ticks))
            ax.yaxis.set_major_formatter("{x:g}")
            _draw_history(ax, merged[merged["decoder_min_std"] == floor], metric)
            if metric != "elbo":
                _ideal(ax, 0, "match" if row == 0 else "")
            ax.set_title(label(metric) if row == 0 else "")
            ax.set_xlabel("training step" if row == len(floors) - 1 else "")
        axes[row, 0].set_ylabel(f"floor {floor:g}")
    _legend(figure, axes[0, 0])
    return figure.describe(
        f"{_join(map(label, linear_up_to))} against the training step, a row per floor of the decoder's standard "
        f"deviation ({_numbers(floors)}). A line per run, coloured by objective: {_names(runs)}.",
        "The ELBO is log p(x) − KL(q(z|x) ‖ p(z|x)): it may grow while the KL grows too. A column has one scale, "
        "linear near 0 and logarithmic beyond 1 nat (ELBO: 3): with a low floor one step may throw the decoder off for "
        "a while.",
    )


def plot_latent_plane(codes: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Captioned:
    """Return the codes of test images in two dimensions, a panel per objective, coloured by class.

    Parameters
    ----------
    codes : objective -> (z of shape (n, 2), labels of shape (n,)).
    """
    extent = 4.5
    figure, axes = _panels(len(codes), 2.9, 2.6, sharex=True, sharey=True)
    angle = np.linspace(0, 2 * np.pi, 100)
    scatter: Any = None
    for ax, (objective, (z, labels)) in zip(axes, codes.items(), strict=False):
        scatter = ax.scatter(z[:, 0], z[:, 1], c=labels, cmap="tab10", vmin=-0.5, vmax=9.5, s=2, linewidths=0)
        for radius in (1, 2, 3):  # standard deviations of the prior
            ax.plot(radius * np.cos(angle), radius * np.sin(angle), color="0.3", lw=0.5)
        limits = (-extent, extent)
        ax.set(title=objective, aspect="equal", xlim=limits, ylim=limits, xlabel="z₁", ylabel="z₂")
        ax.label_outer()
        outside = float(np.mean(np.abs(z).max(axis=1) > extent))
        if outside > 0.005:
            corner: dict[str, Any] = {"transform": ax.transAxes, "ha": "right", "va": "bottom"}
            ax.text(0.98, 0.02, f"{100 * outside:.0f} % outside", **corner, **_NOTE)
    if scatter is not None:
        figure.colorbar(scatter, ax=axes, ticks=range(10), label="class", fraction=0.02)
    return figure.describe(
        "Codes of test images as dots in the plane of the two latent dimensions, coloured by class, "
        f"{_count(codes, 'panel')}, one per objective: {_join(codes)}; with circles around the origin.",
        "Circles: one, two and three standard deviations of the prior; a matching q(z) puts 39, 86 and 99 % of the "
        "dots inside them. Colours that separate are classes that the code tells apart. First seed.",
    )


def plot_images(rows: Mapping[str, np.ndarray], n_columns: int = 20) -> Captioned:
    """Return a grid of images, dark on white: one labelled row per entry, the same images in the same columns.

    Parameters
    ----------
    rows : label -> images (n, 1, H, W) in [0, 1].
    """
    figure = Captioned(figsize=(0.36 * n_columns + 1.5, 0.39 * max(1, len(rows))), layout="constrained")
    axes = figure.subplots(max(1, len(rows)), 1, squeeze=False)[:, 0]
    for ax, (name, images) in zip(axes, rows.items(), strict=False):
        strip = np.pad(images[:n_columns, 0], ((0, 0), (1, 1), (1, 1)))  # a frame keeps neighbours apart
        ax.imshow(np.concatenate(list(strip), axis=1), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_color("0.7")
        ax.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure.describe(
        f"{_count(rows, 'row')} of {n_columns} small images each: {_join(rows)}.",
        "A column is the same throughout: reconstructions are of the same test image, samples of the same z from the "
        "prior with the same random numbers. A young decoder draws fragments; one that ignores its code does not draw "
        "the image that it was shown. First seed.",
    )


def plot_semi_supervised(table: pd.DataFrame, runs: pd.DataFrame) -> Captioned:
    """Return the errors against the latent dimension, with the pixel baseline and chance as lines."""
    metrics = ("svm_error", "tsvm_error", "svm_error_sampled")
    codes = runs[runs["objective"] != "pixels"]
    of_codes = table[table["objective"] != "pixels"]
    figure = plot_by_dimension(of_codes, codes, dict.fromkeys(metrics))
    pixels = table[table["objective"] == "pixels"]
    for ax, metric in zip(figure.axes, metrics, strict=True):
        ax.set_yscale("log")
        _ideal(ax, 0.9, "chance")
        if len(pixels):
            _ideal(ax, pixels[metric].iloc[0], "pixels", color=PALETTE["pixels"], ls="--")
        ax.set_yticks([0.02, 0.05, 0.1, 0.2, 0.5, 0.9], ["2 %", "5 %", "10 %", "20 %", "50 %", "90 %"])
        ax.set_ylim(min(0.05, 0.8 * runs[list(metrics)].min().min()), 1.1)
        ax.minorticks_off()
    return figure.describe(
        f"Three panels against the latent dimension: {_join(map(label, metrics))}. A line per objective: "
        f"{_names(of_codes)}; lines at chance and at the error on the pixels themselves.",
        "Test error with few labels, lower is better; large marks are means, small ones single runs; "
        f"{_spread(of_codes)}. Dashed: the same machine on binarised pixels. The right panel adds the code's own "
        "noise, which a code that holds next to nothing does not survive. All panels have one scale.",
    )


def plot_latent_usage(table: pd.DataFrame, runs: pd.DataFrame) -> Captioned:
    """Return I(x;z) against the receptive field: the ELBO, and a panel per alpha with a line per lambda_.

    Each run is a small dot. The axes reach from 0 to the cap: an interval may reach beyond the frame.
    """
    runs = runs[runs["status"] == "done"]
    family = table[table["objective"] != "elbo"]
    alphas = sorted(family["alpha"].unique())
    lambdas = sorted(family["lambda_"].unique())
    figure, axes = _panels(len(alphas), 3.2, 3.0, sharey=True)
    elbo = table[table["objective"] == "elbo"]
    metric = "mutual_information"
    cap = table["mutual_information_cap"].max()
    radii = sorted(table["receptive_radius"].unique())
    for ax, alpha in zip(axes, alphas, strict=False):
        _errorbar(ax, elbo["receptive_radius"], elbo, metric, "elbo")
        of_elbo = runs[runs["objective"] == "elbo"]
        _dots(ax, of_elbo["receptive_radius"], of_elbo[metric], "elbo")
        for number, lambda_ in enumerate(lambdas):
            group = family[(family["alpha"] == alpha) & (family["lambda_"] == lambda_)]
            name = str(group["objective"].iloc[0]) if len(group) else "mmd"
            _errorbar(
                ax, group["receptive_radius"] + 0.1 * (number + 1), group, metric, f"{name}, λ = {lambda_:g}",
                color=PALETTE[name], alpha=0.35 + 0.65 * (number + 1) / len(lambdas), marker=_form(number),
            )  # fmt: skip
            chosen = (runs["objective"] != "elbo") & (runs["alpha"] == alpha) & (runs["lambda_"] == lambda_)
            _dots(ax, runs[chosen]["receptive_radius"] + 0.1 * (number + 1), runs[chosen][metric], name)
        _ideal(ax, cap, "cap of the estimate", below=True)
        _ideal(ax, EMPTY_CODE, "empty below")
        ax.set_ylim(-0.08 * cap, 1.08 * cap)
        ax.set(title=f"α = {alpha:g}", xlabel=label("receptive_radius"), ylabel=label(metric))
        ax.label_outer(remove_inner_ticks=False)
        ax.set_xticks(radii)
        ax.set_xlim(radii[0] - 0.2 * (radii[-1] - radii[0]) - 1, radii[-1] + 1)  # the lines' names stand on the left
    _legend(figure, axes[0])
    return figure.describe(
        f"I(x;z) against the receptive radius of the decoder, a panel for each of α = {_numbers(alphas)}: the ELBO "
        f"in each, and a line for each of λ = {_numbers(lambdas)}.",
        "The higher, the more the code says of the image; below the lower line it counts as empty, and above the cap "
        f"the estimate cannot go. Large marks are means, small dots single runs; {_spread(table)}.",
    )


def plot_information_and_match(table: pd.DataFrame) -> Captioned:
    """Return where information is lost: I(x;z) against the distance of q(z) to p(z), a point per condition.

    Of the family, the form of a point is its lambda_, as in `plot_latent_usage`, and its filling alpha.
    """
    figure = Captioned(figsize=(5.4, 3.8), layout="constrained")
    ax = figure.subplots()
    family = table[table["objective"] != "elbo"]
    lambdas, alphas = (sorted(family[name].unique()) for name in ("lambda_", "alpha"))
    names = [str(name) for name in family["objective"].unique()]
    for row in table.to_dict("records"):
        color = PALETTE[row["objective"]]
        form, filling = "*", to_rgba(color)
        if row["objective"] != "elbo":
            form, filling = _form(lambdas.index(row["lambda_"])), to_rgba(color, row["alpha"])
        place = row["squared_mmd"], row["mutual_information"]
        ax.scatter(*place, s=10 + 4 * row["receptive_radius"], marker=form, color=filling, edgecolor=color, lw=0.8)
    keys = [("elbo", "*", PALETTE["elbo"], 1.0)]
    for name in names:
        keys += [(f"{name}, λ = {value:g}", _form(k), PALETTE[name], 0.0) for k, value in enumerate(lambdas)]
    keys += [(f"α = {value:g}", "o", PALETTE[name], value) for name in names[:1] for value in alphas]
    handles = [
        Line2D([], [], ls="", marker=form, mec=color, mfc=to_rgba(color, filling)) for _, form, color, filling in keys
    ]
    ax.axvline(0, color="0.5", lw=0.6)
    ax.text(0, 0.97, " match", transform=ax.get_xaxis_transform(), va="top", **_NOTE)
    _ideal(ax, EMPTY_CODE, "empty below")
    ax.set_xscale("symlog", linthresh=1e-4)
    ax.margins(0.1)
    ax.set(xlabel=label("squared_mmd"), ylabel=label("mutual_information"))
    _legend(figure, handles=handles, labels=[key[0] for key in keys])
    return figure.describe(
        "I(x;z) against the squared MMD of q(z) and p(z), a point per condition, coloured by objective: "
        f"{_names(table)}; its form tells λ ({_numbers(lambdas)}), its filling α ({_numbers(alphas)}).",
        "The upper left corner is where a code is of use: it says much of the image and q(z) matches the prior. To the "
        "right q(z) is off the prior, low down the code is empty. Means over seeds; larger points have a larger "
        "receptive field, and the fuller a point, the larger is α.",
    )


def plot_bounds_by_draws(table: pd.DataFrame, runs: pd.DataFrame) -> Captioned:
    """Return the bounds on -log p(x) against the number of draws K: a panel per decoder, a line per objective.

    Thick lines are means, thin ones with dots single runs. The control without a code, whose log p(x) is exact, is a
    dashed line for each run.
    """
    runs = runs[runs["status"] == "done"]
    draws = sorted(int(name.removeprefix("nll_")) for name in map(str, table) if re.fullmatch(r"nll_\d+", name))
    columns = [f"nll_{k}" for k in draws]
    decoders = list(table["decoder"].unique())
    figure, axes = _panels(len(decoders), 3.8, 3.3)
    for ax, decoder in zip(axes, decoders, strict=True):
        of_decoder = runs[runs["decoder"] == decoder]
        for objective, group in _by_objective(table[table["decoder"] == decoder]):
            values = of_decoder.loc[of_decoder["objective"] == objective, columns].to_numpy()
            if objective == "unconditional":
                for number, level in enumerate(values[:, -1]):
                    name = "unconditional (exact)" if number == 0 else None
                    ax.axhline(level, color=PALETTE[objective], ls="--", lw=1, label=name)
                continue
            ax.plot(draws, group[columns].to_numpy()[0], color=PALETTE[objective], lw=1.8, label=objective)
            ax.plot(draws, values.T, color=PALETTE[objective], lw=0.6, marker="o", ms=3, alpha=0.5)
        ax.set(xscale="log", title=f"{decoder} decoder", xlabel="draws K of the fitted proposal")
        ax.set_xticks(draws, [f"{k:,}" for k in draws])
        ax.minorticks_off()
    axes[0].set_ylabel("bound on −log p(x), nats")
    _legend(figure, axes[0])
    return figure.describe(
        f"Upper bounds on −log p(x) in nats against the number of draws K ({_numbers(draws)}), "
        f"{_count(decoders, 'panel')}: {_join(f'{decoder} decoder' for decoder in decoders)}. A line per objective: "
        f"{_names(table)}.",
        "Lower is better; each bound falls towards the truth with K, so where a line still falls at its end the truth "
        "is lower. Thick lines are means, thin ones single runs. Dashed: a PixelCNN without a code, whose log p(x) is "
        "exact. The panels have scales of their own.",
    )


def plot_annealing(runs: pd.DataFrame) -> Captioned:
    """Return annealed against importance-weighted estimates of -log p(x), a dot per run: value, and difference."""
    runs = runs[(runs["status"] == "done") & runs["nll_annealed"].notna()]
    figure = Captioned(figsize=(7.6, 3.6), layout="constrained")
    of_values, of_differences = figure.subplots(1, 2)
    names = []
    for number, (objective, group) in enumerate(_by_objective(runs)):
        names.append(objective)
        style = {"s": 22, "color": PALETTE[objective], "alpha": 0.7, "linewidths": 0}
        of_values.scatter(group["nll_annealed_reference"], group["nll_annealed"], label=objective, **style)
        difference = group["nll_annealed"] - group["nll_annealed_reference"]
        of_differences.scatter(np.full(len(group), number), difference, **style)
    limits = [f(of_values.get_xlim() + of_values.get_ylim()) for f in (min, max)]
    of_values.plot(limits, limits, color="0.5", lw=0.6, label="equal")
    of_values.set(title="bound on −log p(x), nats", xlabel="importance-weighted", ylabel="annealed", aspect="equal")
    _ideal(of_differences, 0, "equal")
    of_differences.margins(x=0.2)
    of_differences.set(title="annealed − importance-weighted, nats", xlabel="objective")
    of_differences.set_xticks(range(len(names)), names, rotation=20)
    _legend(figure, of_values)
    return figure.describe(
        "Two panels, a dot per run, coloured by objective "
        f"({_names(runs)}): the annealed against the importance-weighted bound on −log p(x), and their difference.",
        "Two estimates of the same models on the same images. Dots on the line say that neither is far off; a dot far "
        "below it would mean that the fitted proposal misses part of the posterior.",
    )


def select_arrays(
    runs: pd.DataFrame, arrays: Sequence[Mapping[str, np.ndarray]], key: str, **conditions: float
) -> dict[str, Any]:
    """Return objective -> array `key` of its first run that meets the conditions, in the palette's order."""
    found: dict[str, Any] = {}
    for (_, run), kept in zip(runs.iterrows(), arrays, strict=True):
        if key in kept and all(run[name] == value for name, value in conditions.items()):
            found.setdefault(str(run["objective"]), kept[key])
    return {name: found[name] for name in OBJECTIVE_ORDER if name in found}


def select_images(
    runs: pd.DataFrame, arrays: Sequence[Mapping[str, np.ndarray]], kinds: Sequence[str], **conditions: float
) -> dict[str, np.ndarray]:
    """Return the rows of `plot_images`: test images if they are reconstructed, then each kind for each objective.

    Parameters
    ----------
    kinds : of "reconstructions" and "samples"; means E[x|z] where the decoder has them, else draws of x.
    """
    rows = {}
    originals = list(select_arrays(runs, arrays, "originals", **conditions).values())
    if originals and "reconstructions" in kinds:
        rows["test images"] = originals[0]
    for kind in kinds:
        means = select_arrays(runs, arrays, f"mean_{kind}", **conditions)
        found = means or select_arrays(runs, arrays, kind, **conditions)
        rows |= {f"{name}: {kind}" if len(kinds) > 1 else name: images for name, images in found.items()}
    return rows


def _panels(n: int, width: float, height: float, n_columns: int = 3, **share: Any) -> tuple[Captioned, list[Axes]]:
    """Return a figure with n panels, at least one, in rows of at most `n_columns`; four make a square."""
    n = max(1, n)
    n_columns = 2 if n == 4 and n_columns == 3 else min(n, n_columns)
    n_rows = -(-n // n_columns)
    figure = Captioned(figsize=(width * n_columns, height * n_rows + 0.3), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False, **share).ravel().tolist()
    for ax in axes[n:]:
        ax.remove()
    return figure, axes[:n]


def _by_objective(table: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    present = [name for name in OBJECTIVE_ORDER if name in set(table["objective"])]
    return [(name, table[table["objective"] == name]) for name in present]


def _form(number: int) -> str:
    """Return the marker of the n-th lambda_."""
    return "os^Dv"[number % 5]


def _errorbar(
    ax: Axes, x: pd.Series, group: pd.DataFrame, metric: str, name: str, color: str | None = None, **style: Any
) -> None:
    """Draw means, and their 95 % intervals where enough seeds carry them."""
    interval = group.get(f"{metric}_ci95")
    error = None if interval is None else interval.where(group["n_seeds"] >= SEEDS_FOR_INTERVAL)
    line, marker = STYLES.get(name, STYLES["elbo"])
    settings = {"ls": line, "marker": marker, "ms": 4, "lw": 1.2, "capsize": 2, "elinewidth": 0.8, **style}
    drawn = ax.errorbar(x, group[metric], error, label=name, color=color or PALETTE.get(name, "0.4"), **settings)
    for part in (*drawn.lines[1], *drawn.lines[2]):
        part.set_alpha(0.45)  # the interval steps back behind mean and runs


def _dots(ax: Axes, x: pd.Series, y: pd.Series, name: str) -> None:
    marker = STYLES.get(name, STYLES["elbo"])[1]
    ax.scatter(x, y, s=9, color=PALETTE.get(name, "0.4"), marker=marker, alpha=0.5, linewidths=0)


def _draw_history(ax: Axes, history: pd.DataFrame, metric: str) -> None:
    """Draw a logged metric against the training step, a line per run."""
    for objective, group in _by_objective(history):
        for number, (_, run) in enumerate(group.groupby("run_id")):
            style: dict[str, Any] = {"color": PALETTE[objective], "ls": STYLES[objective][0], "lw": 1.0, "alpha": 0.75}
            ax.plot(run["step"], run[metric], label=objective if number == 0 else None, **style)


_NOTE: dict[str, Any] = {"fontsize": 7, "color": "0.35"}


def _ideal(ax: Axes, value: float, name: str, below: bool = False, **style: Any) -> None:
    """Draw the value that would be ideal, or a limit, as a thin line with its name."""
    ax.axhline(value, **{"color": "0.5", "lw": 0.6, "zorder": 0.5, **style})
    offset, align = ((3, -1), "top") if below else ((3, 1), "bottom")
    place: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    ax.annotate(name, (0, value), xytext=offset, va=align, **place, **_NOTE)


def _span(ax: Axes, values: list[float]) -> None:
    """Limit the vertical axis to the finite values, with a margin in the axis's own scale."""
    values = [value for value in values if np.isfinite(value)]
    if not values:
        return
    transform = ax.yaxis.get_transform()
    low, high = transform.transform(np.array([min(values), max(values)]))
    margin = 0.08 * (high - low) or 1.0
    ax.set_ylim(*transform.inverted().transform(np.array([low - margin, high + margin])))


def _legend(figure: Figure, ax: Axes | None = None, handles: Any = (), labels: Any = ()) -> None:
    if ax is not None:
        handles, labels = ax.get_legend_handles_labels()
    n_columns = max(1, min(len(labels), int(figure.get_figwidth() / 1.1)))
    figure.legend(handles, labels, loc="outside lower center", ncols=n_columns, frameon=False, fontsize=9)


def _names(table: pd.DataFrame) -> str:
    return _join(name for name, _ in _by_objective(table))


def _join(words: Iterable[str]) -> str:
    *first, last = list(words) or [""]
    comma = ";" if any("," in word for word in (*first, last)) else ","
    return f"{f'{comma} '.join(first)} and {last}" if first else last


def _numbers(values: Iterable[float]) -> str:
    return _join(f"{value:,.0f}" if value >= 1000 else f"{value:g}" for value in values)


def _count(things: Any, name: str) -> str:
    return f"{len(things)} {name}{'s' if len(things) != 1 else ''}"


def _spread(table: pd.DataFrame) -> str:
    """Say what the bars are, or why there are none."""
    n = int(table["n_seeds"].max())
    if n >= SEEDS_FOR_INTERVAL:
        return f"bars are 95 % intervals over {n} seeds and may reach beyond the frame"
    return f"no intervals are drawn, since {n} seed{'s' if n > 1 else ''} would make them as long as the panels"
