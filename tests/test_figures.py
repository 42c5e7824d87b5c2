"""Figures draw every condition once, in one palette, with intervals and ideal lines; none of them computes."""

import numpy as np
import pandas as pd
from matplotlib.collections import PathCollection

from infovae import figures
from infovae.config import OBJECTIVES
from infovae.experiments import aggregate


def runs() -> pd.DataFrame:
    rows = [
        {"objective": o, "latent_dim": d, "seed": s, "squared_mmd": 0.1 * d + 0.01 * s, "status": "done"}
        for o in ("mmd", "elbo")
        for d in (2, 10)
        for s in (0, 1)
    ]
    return pd.DataFrame(rows)


def table() -> pd.DataFrame:
    return aggregate(runs(), ("latent_dim", "objective"), ("squared_mmd",))


def test_palette_has_one_colour_per_objective_and_the_baseline() -> None:
    assert set(OBJECTIVES) | {"pixels"} == set(figures.PALETTE)
    assert len(set(figures.PALETTE.values())) == len(figures.PALETTE)


def test_line_per_objective_with_its_interval_and_the_ideal() -> None:
    figure = figures.plot_by_dimension(table(), runs(), {"squared_mmd": 0.0})
    (ax,) = figure.axes
    assert [container.get_label() for container in ax.containers] == ["elbo", "mmd"]  # the palette's order
    bars = ax.containers[0][2][0].get_segments()
    half = table().query("objective == 'elbo' and latent_dim == 2")["squared_mmd_ci95"].item()
    assert abs(np.ptp(bars[0][:, 1]) - 2 * half) < 1e-9
    assert any(np.allclose(line.get_ydata(), 0) for line in ax.lines)
    assert ax.get_xlabel() and ax.get_ylabel()
    dots = [np.asarray(c.get_offsets()) for c in ax.collections if isinstance(c, PathCollection)]
    assert sum(offsets.shape[0] for offsets in dots) == len(runs())  # every run is shown
    low, high = ax.get_ylim()
    assert low < 0 and high > 1.01  # the axes span every run and the ideal


def toy_runs() -> pd.DataFrame:
    rows = [
        {"run_id": f"{o}{f}{s}", "objective": o, "decoder_min_std": f, "seed": s, "status": "done"}
        for o in ("mmd", "elbo")
        for f in (0.01, 0.1)
        for s in (0, 1)
    ]
    return pd.DataFrame(rows)


def toy_arrays(height: float) -> dict[str, np.ndarray]:
    z = np.linspace(-1, 1, 5)
    q = np.array([[height] * 5, [2 * height] * 5])
    return {"z": z, "q_z_given_x": q, "p_z_given_x": q / 4, "q_z": z**2, "p_z": z**2}


def test_posteriors_have_a_panel_per_objective_and_floor_of_the_first_seed() -> None:
    arrays = [toy_arrays(1.0 + number) for number in range(len(toy_runs()))]
    arrays[0] = {}  # the first mmd run at 0.01 failed: the second stands in
    axes = figures.plot_posteriors(toy_runs(), arrays).axes
    assert [ax.get_title() for ax in axes] == ["elbo", "mmd", "", ""]
    assert [ax.get_ylabel().split("\n")[0] for ax in axes] == ["floor 0.1", "", "floor 0.01", ""]
    drawn = [[np.asarray(line.get_ydata())[0] for line in ax.lines[:3:2]] for ax in axes]
    # rows of toy_runs: mmd at 0.01 (0, 1), mmd at 0.1 (2, 3), elbo at 0.01 (4, 5), elbo at 0.1 (6, 7)
    assert drawn == [[7 / 4, 1], [3 / 4, 1], [5 / 4, 1], [2 / 4, 1]]  # p(z|-1), q(z)
    for ax, height in zip(axes, (7, 3, 5, 2), strict=True):
        low, high = ax.get_ylim()
        assert low == 0 and high > 2 * height  # all of the taller q(z|x) is seen
        assert [c.get_label() for c in ax.collections] == ["q(z|x = −1)", "q(z|x = +1)"]


def test_inference_over_training_has_a_line_per_run() -> None:
    runs = toy_runs()
    history = pd.concat(
        [
            pd.DataFrame({"run_id": run_id, "step": [1, 2], "posterior_kl": n, "marginal_kl": -n, "elbo": 10 * n})
            for n, run_id in enumerate(runs["run_id"])
        ]
    )
    axes = figures.plot_inference(history, runs).axes
    assert len(axes) == 2 * 3
    lines = [[np.asarray(line.get_ydata())[0] for line in ax.lines] for ax in axes]
    assert lines[2] == [60, 70, 20, 30]  # floor 0.1: elbo, then mmd; two seeds each
    assert lines[5] == [40, 50, 0, 10]


def test_images_stand_in_the_same_columns_in_every_row() -> None:
    images = np.zeros((5, 1, 4, 4))
    images[3] = 1
    figure = figures.plot_images({"a": images, "b": images}, n_columns=5)
    rows = [np.asarray(ax.images[0].get_array()) for ax in figure.axes]
    assert np.array_equal(rows[0], rows[1])
    assert rows[0][:, 18:24].mean() > 0.4 and rows[0][:, :18].max() == 0


def test_latent_plane_shows_every_objective_on_one_scale() -> None:
    codes = {name: (np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 10) for name in ("elbo", "mmd")}
    axes = [ax for ax in figures.plot_latent_plane(codes).axes if ax.get_title()]
    assert [ax.get_title() for ax in axes] == ["elbo", "mmd"]
    assert axes[0].get_xlim() == axes[1].get_xlim()


def test_arrays_of_the_first_run_are_selected_in_the_palettes_order() -> None:
    runs = pd.DataFrame({"objective": ["mmd", "elbo", "mmd"], "latent_dim": [2, 2, 2]})
    arrays = [{"z": np.full(1, n)} for n in range(3)]
    assert figures.select_arrays(runs, arrays, "z", 2) == {"elbo": np.full(1, 1), "mmd": np.full(1, 0)}
    assert figures.select_arrays(runs, arrays, "z", 10) == {}
