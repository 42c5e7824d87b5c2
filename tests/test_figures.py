"""Figures draw every condition once, in one palette, with intervals and ideal lines; none of them computes."""

import math

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection

from infovae import figures
from infovae.config import OBJECTIVES
from infovae.experiments import aggregate
from infovae.experiments.divergence_comparison import DivergenceComparison
from infovae.experiments.log_likelihood import LogLikelihood


def runs(n_seeds: int = 3) -> pd.DataFrame:
    rows = [
        {"objective": o, "latent_dim": d, "seed": s, "squared_mmd": 0.1 * d + 0.01 * s, "status": "done"}
        for o in ("mmd", "elbo")
        for d in (2, 10)
        for s in range(n_seeds)
    ]
    return pd.DataFrame(rows)


def table(n_seeds: int = 3) -> pd.DataFrame:
    return aggregate(runs(n_seeds), ("latent_dim", "objective"), ("squared_mmd",))


def test_palette_has_one_colour_per_objective_and_the_baseline() -> None:
    assert set(OBJECTIVES) | {"pixels"} == set(figures.PALETTE)
    looks = {(figures.PALETTE[name], *figures.STYLES[name]) for name in figures.OBJECTIVE_ORDER}
    assert len(looks) == len(figures.PALETTE)
    usual = DivergenceComparison().objectives
    together = {*usual, *LogLikelihood().objectives, "pixels"}  # what stands beside each other in some figure
    assert len({figures.PALETTE[name] for name in together}) == len(together)


def test_settings_are_drawn_where_they_vary() -> None:
    rows = [
        ("elbo", 0.0, 1.0, 1e-3, 0.5, 0.1, 2.0, 100.0),
        ("elbo", 0.0, 1.0, 2e-3, 0.5, 0.1, 1.0, 98.0),
        ("stein", 1.0, 15.0, 2e-3, 9.0, 0.1, 40.0, 95.0),
        ("stein", 1.0, 50.0, 2e-3, 8.0, 0.01, 10.0, 97.0),
    ]
    names = ("objective", "alpha", "lambda_", "learning_rate", "mutual_information", "squared_mmd", "rate")
    trade, loss = figures.plot_tuning(pd.DataFrame(rows, columns=[*names, "reconstruction_nll"]), 2e-3).axes
    assert [text.get_text() for text in trade.texts] == ["λ=15", "λ=50"]
    (rates,) = loss.lines  # Stein's learning rate does not vary
    assert list(np.asarray(rates.get_ydata(), dtype=float)) == [102, 99]  # the rate is charged at alpha = 0


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
    assert low < 0 and high > 1.02  # the axes span every run and the ideal
    assert "match" in [text.get_text() for text in ax.texts]


def test_what_no_run_has_gets_no_panel() -> None:
    without = {"frechet_distance": math.nan}
    figure = figures.plot_by_dimension(
        table().assign(**without),
        runs().assign(**without),
        {"squared_mmd": 0.0, "frechet_distance": "frechet_distance"},
    )
    assert [ax.get_ylabel() for ax in figure.axes] == [figures.label("squared_mmd")]


def test_two_seeds_are_drawn_without_an_interval() -> None:
    figure = figures.plot_by_dimension(table(2), runs(2), {"squared_mmd": 0.0})
    bars = [segment for container in figure.axes[0].containers for segment in container[2][0].get_segments()]
    assert len(bars) == 4 and not any(map(len, bars))  # places for bars, nothing in them
    assert "no intervals" in figure.caption


def test_figure_says_what_it_shows_in_a_notebook_too(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[object] = []
    monkeypatch.setattr("IPython.display.display", lambda *things: shown.extend(things))
    figure = figures.plot_by_dimension(table(), runs(), {"squared_mmd": 0.0})
    figure._ipython_display_()
    image, caption = shown
    assert image.data == figure.to_png() and image.data[:4] == b"\x89PNG"  # type: ignore[attr-defined]
    assert image._data_and_metadata()[1]["alt"] == figure.alt  # type: ignore[attr-defined]
    assert "elbo and mmd" in figure.alt and "latent dimension (2 and 10)" in figure.alt
    assert caption.data == figure.caption and "95 % intervals over 3 seeds" in figure.caption  # type: ignore[attr-defined]


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


def test_both_kinds_of_images_are_drawn_against_the_size_of_the_training_set() -> None:
    rows = [
        {"objective": o, "latent_dim": 10, "n_train": n, "seed": s, "log_det_test": 0.1 * s, "log_det_train": 1.0 + s}
        for o in ("mmd", "elbo")
        for n in (500, 5000)
        for s in (0, 1)
    ]
    runs = pd.DataFrame(rows).assign(status="done")
    table = aggregate(runs, ("latent_dim", "objective", "n_train"), ("log_det_test", "log_det_train"))
    figure = figures.plot_by_size(table, runs, {"log_det_test": "log det"})
    (ax,) = figure.axes
    assert [container.get_label() for container in ax.containers] == ["elbo", "mmd"]
    assert [text.get_text() for text in figure.legends[0].get_texts()][2:] == ["test images", "training images"]
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [list(np.asarray(line.get_ydata(), dtype=float)) for line in dashed] == [[1.5, 1.5], [1.5, 1.5]]


def test_contours_lie_where_the_density_is() -> None:
    axis = np.linspace(-4, 4, 81)
    density = np.exp(-((axis[:, None] - 2) ** 2 + axis**2) / 2) / (2 * np.pi)  # around z1 = 2, z2 = 0
    ax = figures.plot_densities({"elbo": density}, 4).axes[0]
    (contours,) = [c for c in ax.collections if hasattr(c, "levels")]
    points = np.concatenate([np.asarray(path.vertices) for path in contours.get_paths()])
    assert abs(points[:, 0].mean() - 2) < 0.3 and abs(points[:, 1].mean()) < 0.3


def test_latent_plane_shows_every_objective_on_one_scale() -> None:
    codes = {name: (np.random.default_rng(0).normal(size=(20, 2)), np.arange(20) % 10) for name in ("elbo", "mmd")}
    axes = [ax for ax in figures.plot_latent_plane(codes).axes if ax.get_title()]
    assert [ax.get_title() for ax in axes] == ["elbo", "mmd"]
    assert axes[0].get_xlim() == axes[1].get_xlim()


def test_arrays_of_the_first_run_are_selected_in_the_palettes_order() -> None:
    runs = pd.DataFrame({"objective": ["mmd", "elbo", "mmd"], "latent_dim": [2, 2, 2]})
    arrays = [{"z": np.full(1, n)} for n in range(3)]
    assert figures.select_arrays(runs, arrays, "z", latent_dim=2) == {"elbo": np.full(1, 1), "mmd": np.full(1, 0)}
    assert figures.select_arrays(runs, arrays, "z", latent_dim=10) == {}


def test_images_are_selected_in_rows_of_the_same_order() -> None:
    runs = pd.DataFrame({"objective": ["mmd", "elbo"], "latent_dim": [2, 2]})
    kept = {name: np.full((1, 1, 2, 2), n) for n, name in enumerate(("originals", "samples", "reconstructions"))}
    rows = figures.select_images(runs, [kept, kept], ("reconstructions", "samples"), latent_dim=2)
    kinds = ["elbo: reconstructions", "mmd: reconstructions", "elbo: samples", "mmd: samples"]
    assert list(rows) == ["test images", *kinds]
    assert [images.flat[0] for images in rows.values()] == [0, 2, 2, 1, 1]
    means = {**kept, "mean_samples": np.full((1, 1, 2, 2), 9)}
    assert figures.select_images(runs, [means, means], ("samples",), latent_dim=2)["elbo"].flat[0] == 9


def likelihood_runs() -> pd.DataFrame:
    rows = [
        {"decoder": decoder, "objective": objective, "seed": seed, "status": "done", "nll_std_error": 2.0,
         "nll_1": 103.0 + seed, "nll_10": 102.0 + seed, "nll": 102.0 + seed}
        for decoder, objectives in (("pixelcnn", ("elbo", "mmd", "unconditional")), ("dense", ("elbo", "mmd")))
        for objective in objectives
        for seed in (0, 1)
    ]  # fmt: skip
    runs = pd.DataFrame(rows)
    dense = runs["decoder"] == "dense"
    return runs.assign(nll_annealed=(runs["nll"] + 0.5).where(dense), nll_annealed_reference=runs["nll"].where(dense))


def test_bounds_are_drawn_at_every_k_and_the_exact_control_is_a_line() -> None:
    runs = likelihood_runs()
    table = aggregate(runs, ("decoder", "objective"), ("nll_1", "nll_10", "nll_std_error"))
    axes = figures.plot_bounds_by_draws(table, runs).axes
    assert [ax.get_title() for ax in axes] == ["pixelcnn decoder", "dense decoder"]
    for ax, n_controls in zip(axes, (2, 0), strict=True):
        means = [line for line in ax.lines if line.get_linestyle() == "-" and line.get_marker() != "o"]
        assert [np.asarray(line.get_ydata()).tolist() for line in means] == [[103.5, 102.5]] * 2
        assert np.asarray(means[0].get_xdata()).tolist() == [1, 10]
        dots = [np.asarray(line.get_ydata()).tolist() for line in ax.lines if line.get_marker() == "o"]
        assert sorted(dots) == [[103, 102], [103, 102], [104, 103], [104, 103]]
        controls = [line for line in ax.lines if line.get_linestyle() == "--"]
        assert [float(np.asarray(line.get_ydata())[0]) for line in controls] == [102, 103][:n_controls]


def test_annealed_runs_stand_beside_the_diagonal() -> None:
    values, differences = figures.plot_annealing(likelihood_runs()).axes
    points = np.concatenate([np.asarray(c.get_offsets()) for c in values.collections])
    assert len(points) == 4  # those of the dense decoder
    assert (points[:, 1] - points[:, 0]).tolist() == [0.5] * 4
    shown = np.concatenate([np.asarray(c.get_offsets()) for c in differences.collections])[:, 1]
    assert shown.tolist() == pytest.approx([0.5] * 4)
