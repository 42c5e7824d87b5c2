"""Pictures of trained models for the explorer: the latent plane, traversals, neighbours among the training images."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from infovae import plotting
from infovae.data.parsers import pad
from infovae.labels import label, objective_name
from infovae.plotting import Captioned
from infovae.refusals import ParameterError
from infovae.trained.models import TrainedModel, load_found
from infovae.trained.selection import by_experiment, find

Array = NDArray[Any]
Models = dict[str, TrainedModel]


def load_each(folder: str | Path, latent_dim: int, exactly: bool = False, **selection: Any) -> Models:
    """Return objective -> its model, in the order of the palette, all of one data set and one latent dimension.

    Experiments are in the order of `selection.by_experiment`. Of the dimensions of the first one it is the nearest to
    `latent_dim`, or with `exactly` that one alone: then there may be no model. Of several runs of an objective the
    first is taken.

    Raises
    ------
    ParameterError
        When no run with a code is as the selection says.
    """
    groups = by_experiment(folder, [run for run in find(folder, **selection) if run.config["latent_dim"]])
    if not groups:
        raise ParameterError(f"no model in {folder} has a code")
    dims = {latent_dim} if exactly else {run.config["latent_dim"] for run in groups[0]}
    nearest_dim = min(dims, key=lambda dim: abs(dim - latent_dim))
    runs = [run for group in groups for run in group if run.config["latent_dim"] == nearest_dim]
    same = [run for run in runs if run.config["dataset"] == runs[0].config["dataset"]]
    first = {run.config["objective"]: run for run in reversed(same)}
    return {name: load_found(first[name]) for name in plotting.PALETTE if name in first}


def tabulate(models: Iterable[TrainedModel]) -> pd.DataFrame:
    """Return which models these are, one row each, no row twice."""
    names = ("dataset", "n_train", "latent_dim", "alpha", "lambda_", "decoder", "steps", "seed")
    rows = [
        {"objective": objective_name(model.config.objective)}
        | {
            label(name): f"{value:g}" if isinstance(value := getattr(model.config, name), float) else value
            for name in names
        }
        for model in models
    ]
    return pd.DataFrame(rows).drop_duplicates()


def grid(n: int) -> Array:
    """Return n x n codes, (n * n, 2), row by row from the top, at equal steps of the prior's probability."""
    axis = [NormalDist().inv_cdf((i + 0.5) / n) for i in range(n)]
    return np.array([(x, y) for y in reversed(axis) for x in axis], np.float32)


@plotting.figure
def plot_plane(models: Models, n: int = 12) -> Captioned:
    """Return a panel per model in two dimensions: what it draws at the codes of `grid`, each at its place."""
    drawn, axes = plotting.panels(len(models), 3.4, 3.4)
    for ax, (objective, model) in zip(axes, models.items(), strict=False):
        plotting.draw_digits(ax, model.decode(grid(n), expected=True, same_noise=True)[:, None], "", n_columns=n)
        ax.set(title=objective_name(objective), xlabel="z₁", ylabel="z₂")
    return drawn.captioned(
        models,
        "Each picture is what the decoder makes of the code at its place, at equal steps of the prior’s probability in "
        "both directions: all pictures are drawn equally often. Grey is the expected value of a pixel, of a "
        "PixelCNN given the pixels before it.",
    )


def traverse(model: TrainedModel, z: Array, steps: int = 10, extent: float = 2.0) -> Array:
    """Return the images as each dimension in turn, at most ten, goes from -extent to extent, (dims * steps, h, w).

    The others stay at the code z (latent_dim,). All images have the same noise.
    """
    dims = range(min(10, len(z)))
    codes = np.repeat(np.asarray(z, np.float32)[None], len(dims) * steps, 0)
    for dim in dims:
        codes[dim * steps : (dim + 1) * steps, dim] = np.linspace(-extent, extent, steps)
    return model.decode(codes, expected=True, same_noise=True)


def ways_between(model: TrainedModel, starts: Array, ends: Array, steps: int = 8) -> Array:
    """Return rows of `steps` + 2 images, (n * (steps + 2), h, w): from each uint8 image of `starts` to that of `ends`.

    Between the two stand pictures of codes on the straight line from E[z|x] of the one to that of the other.
    """
    starts, ends = (x if x.shape[1:] == model.image_shape else pad(x) for x in (starts, ends))
    rows = [
        np.stack([a / 255, *model.interpolate(a, b, steps=steps, expected=True), b / 255])
        for a, b in zip(starts, ends, strict=True)
    ]
    return np.concatenate(rows)


def nearest(images: Array, among: Array) -> tuple[NDArray[np.int64], Array]:
    """Return for each image (n, h, w) which of the others (m, h, w) is nearest, and how far: Euclidean, over pixels."""
    from sklearn.metrics import pairwise_distances_argmin_min

    return pairwise_distances_argmin_min(*(x.reshape(len(x), -1).astype(np.float32) for x in (images, among)))


def compare_distances(of_samples: Mapping[str, Array], of_tests: Array) -> pd.DataFrame:
    """Return how near samples are to training images beside test images, which are no copies: a row per objective.

    `near` is the share of samples that are nearer than all but one in a hundred test images: 0.01 if they were like
    these, much more for a model that repeats what it was trained on.
    """
    limit = np.quantile(of_tests, 0.01)
    rows: list[dict[str, Any]] = [
        {"objective": objective_name(name), "median_distance": np.median(found), "near": np.mean(found < limit)}
        for name, found in of_samples.items()
    ]
    rows.append({"objective": "test images", "median_distance": np.median(of_tests), "near": np.mean(of_tests < limit)})
    return pd.DataFrame(rows)


@plotting.figure
def plot_distances(of_samples: Mapping[str, Array], of_tests: Array) -> Captioned:
    """Return the distribution of distances to the nearest training image: each model's samples, and test images."""
    drawn, (ax,) = plotting.panels(1, 6.0, 3.0)
    share = np.linspace(0, 1, 201)
    for name, found in of_samples.items():
        ax.plot(np.quantile(found, share), share, color=plotting.PALETTE[name], lw=1.2, label=objective_name(name))
    ax.plot(np.quantile(of_tests, share), share, color="0.4", lw=2, ls="--", label="test images")
    ax.set(xlabel="distance to the nearest training image", ylabel="share that is nearer")
    plotting.legend(drawn)
    return drawn.captioned(
        of_samples,
        "Left of the dashed line: nearer to the training images than new images are. A line that begins at 0 is of a "
        "model that repeats training images. To the right: samples that are unlike any image.",
    )


def sliders(model: TrainedModel, z: Array) -> Any:
    """Return a slider for each of the first ten dimensions and the image that they make, starting at the code z.

    Without ipywidgets: the still picture of `traverse`.
    """
    n = min(10, len(z))
    if importlib.util.find_spec("ipywidgets") is None:
        caption = "Each row changes one dimension of the code, from −2 to 2. With ipywidgets there are sliders here."
        return plotting.plot_digits({"one dimension in each row": traverse(model, z)[:, None]}, caption)

    def draw(**values: float) -> None:
        code = np.concatenate([np.array(list(values.values()), np.float32), np.asarray(z, np.float32)[n:]])
        image = model.decode(code[None], expected=True, same_noise=True)
        plotting.plot_digits({"": image[:, None]}, "")._ipython_display_()

    ranges = {f"z{dim + 1}": (-3.0, 3.0, 0.1) for dim in range(n)}
    return import_module("ipywidgets").interactive(draw, **ranges)
