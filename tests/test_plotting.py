"""Figures show every run, in one palette, under matplotlib's own settings; none of them computes more than a mean."""

import inspect
import io
from collections.abc import Mapping
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.colors import to_rgb
from PIL import Image

from infovae import plotting
from infovae.claims import authors
from infovae.claims.intervals import half_width
from infovae.config import OBJECTIVES
from infovae.experiments import (
    MODULES,
    amortized_inference,
    divergence_comparison,
    make_experiment,
    variance_overestimation,
)
from infovae.experiments.sensitivity import Sensitivity
from infovae.paths import PROJECT_ROOT
from infovae.plotting import Captioned

SMALL: dict[str, dict[str, Any]] = {
    "tuning": {"sizes": [[8, 1, 4], [16, 2, 8]]},
    "variance_overestimation": {"binarizations": ["none", "dynamic"]},
    "divergence_comparison": {"latent_dims": [2, 10]},
    "semi_supervised": {"latent_dims": [2, 10]},
    "latent_usage": {"alphas": [1.0, 0.0], "receptive_radii": [12, 8], "encoder_norms": ["batch", "none"]},
}


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures of few pixels: what they cost is their size."""
    monkeypatch.setattr(plotting, "DPI", 30)


def made_up(name: str, status: str = "done") -> pd.DataFrame:
    """Return a row for each run of an experiment, with made-up metrics where it is done."""
    experiment = make_experiment(name, SMALL.get(name, {}))
    rng = np.random.default_rng(0)
    rows = []
    for number, (config, _) in enumerate(experiment.wanted()):
        metrics = {metric: rng.uniform(0.01, 1) for metric in experiment.metrics} if status == "done" else {}
        rows.append({"run_id": str(number), "status": status, **config.model_dump(mode="json"), **metrics})
    runs = pd.DataFrame(rows).drop_duplicates([column for column in rows[0] if column not in ("run_id", *metrics)])
    return experiment.name_variants(runs) if isinstance(experiment, Sensitivity) else runs


def made_up_history(runs: pd.DataFrame) -> pd.DataFrame:
    """Return two logged steps of each run."""
    if (runs["status"] != "done").all():
        return pd.DataFrame()
    metrics = ("squared_mmd", "mutual_information", "log_det_cov_per_dim", "posterior_kl", "marginal_kl", "elbo")
    steps = [{"run_id": run_id, "step": step} for run_id in runs["run_id"] for step in (10, 20)]
    return pd.DataFrame(steps).assign(**{metric: 0.1 * (1 + n) for n, metric in enumerate(metrics)})


def made_up_arrays(run: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """Return what evaluations keep of a run for the figures."""
    rng, z = np.random.default_rng(0), np.linspace(-4, 4, 21)
    density = np.exp(-(z[:, None] ** 2 + z**2) / 2) / (2 * np.pi)
    line = np.exp(-((z - np.array([[1.0], [-1.0]])) ** 2))
    toy = {"z": z, "q_z_given_x": line, "p_z_given_x": line, "q_z": line[0], "p_z": line[1]}
    pictures = {kind: np.zeros((20, 1, 8, 8)) for kind in ("samples", "originals", "reconstructions")}
    plane = {"z": rng.normal(size=(20, 2)), "labels": np.arange(20) % 10}
    own = toy if run["dataset"] == "two_points" else plane
    return {**own, **pictures, "density_train": density, "density_test": density}


def figures(name: str, status: str = "done") -> dict[str, Captioned]:
    """Return every figure of an experiment's module, drawn from made-up runs."""
    runs = made_up(name, status)
    available = {
        "runs": runs,
        "learning_rate": 1e-3,
        "seconds_at_most": 300.0,
        "history": made_up_history(runs),
        "arrays": [made_up_arrays(run) if status == "done" else {} for run in runs.to_dict("records")],
    }
    module = inspect.getmodule(type(make_experiment(name, {})))
    drawn = {}
    for function_name, function in inspect.getmembers(module, inspect.isfunction):
        if function_name.startswith("plot_") and function.__module__ == module.__name__:  # type: ignore[union-attr]
            drawn[function_name] = function(*(available[key] for key in inspect.signature(function).parameters))
    return drawn


@pytest.mark.parametrize("name", MODULES)
def test_every_experiment_draws_figures_that_say_what_they_show(name: str) -> None:
    drawn = figures(name)
    assert drawn
    for figure in drawn.values():
        assert figure.to_png()[:4] == b"\x89PNG"
        panels = figure.alt.removesuffix(figure.caption).split("; ")
        number, what = figure.alt.split()[:2]
        n_panels = len([ax for ax in figure.axes if ax.get_label() != "<colorbar>"])
        assert (
            int(number) == n_panels
            and len(figure.caption) > 40
            and what.startswith("panel")
            and len(panels) <= int(number) <= len(figure.axes)
        )
        assert len(set(panels)) == len(panels), "what several panels share is said once"
        assert not [text for text in figure.texts if "no run" in text.get_text()]
        shown = " ".join(text.get_text() for ax in figure.axes for text in (ax.title, ax.xaxis.label, ax.yaxis.label))
        assert "_" not in shown and "elbo" not in figure.alt  # words, not the names of columns


@pytest.mark.parametrize("name", MODULES)
def test_experiments_without_any_result_still_have_figures_and_a_table_that_say_so(name: str) -> None:
    status = "failed: loss is nan" if name in ("tuning", "latent_usage") else "not run"
    for figure in figures(name, status).values():
        assert [text.get_text() for text in figure.texts if "no run" in text.get_text()] == ["no run has a result"]
        figure.to_png()
    runs = made_up(name, status)
    table = make_experiment(name, SMALL.get(name, {})).table(runs)
    assert (table["n_missing"].sum(), set(table["n_seeds"])) == (len(runs), {0})
    assert set(table["why_missing"]) == {status}


def test_a_users_own_style_changes_nothing() -> None:
    plain = {name: figure.to_png() for name, figure in figures("divergence_comparison").items()}
    digits = np.triu(np.ones((10, 1, 8, 8)))
    plain["digits"] = plotting.plot_digits({"a": digits}, "").to_png()
    hostile: dict[Any, Any] = {
        "image.origin": "lower",
        "font.size": 20,
        "axes.facecolor": "black",
        "lines.linewidth": 9,
    }
    with matplotlib.rc_context(hostile):
        styled = {name: figure.to_png() for name, figure in figures("divergence_comparison").items()}
        styled["digits"] = plotting.plot_digits({"a": digits}, "").to_png()
        assert matplotlib.rcParams["font.size"] == 20  # and the user's style is left alone
    assert [name for name in plain if styled[name] != plain[name]] == []


def test_palette_has_one_look_per_objective_and_colours_that_differ_side_by_side() -> None:
    assert set(OBJECTIVES) | {"pixels"} == set(plotting.PALETTE)
    looks = {(plotting.PALETTE[name], plotting.MARKERS[name]) for name in plotting.PALETTE}
    assert len(looks) == len(plotting.PALETTE)
    compared = [name for name in MODULES if name != "family"]  # there each objective has a row or a panel of its own
    together = {objective for name in compared for objective in made_up(name)["objective"]}
    together |= {"averaged_elbo", "jensen", "aae"}
    assert len({plotting.PALETTE[name] for name in together}) == len(together)


@pytest.mark.parametrize("n_seeds", [2, 3])
def test_every_seed_is_a_dot_and_an_interval_needs_three(n_seeds: int) -> None:
    values = {seed: 0.1 * seed**2 for seed in range(n_seeds)}
    runs = pd.DataFrame({"latent_dim": 10, "seed": list(values), "m": list(values.values())})
    _, (ax,) = plotting.panels(1, 3, 3)
    plotting.draw_runs(ax, runs, "latent_dim", "m", "name", "red")
    (dots,) = [c for c in ax.collections if isinstance(c, PathCollection)]
    assert np.asarray(dots.get_offsets())[:, 1].tolist() == pytest.approx(list(values.values()))
    assert np.asarray(ax.lines[0].get_ydata()).tolist() == [pytest.approx(np.mean(list(values.values())))]
    bars = [s for c in ax.collections if isinstance(c, LineCollection) for s in c.get_segments() if len(s)]
    heights = [np.ptp(np.asarray(bar)[:, 1]) for bar in bars if np.isfinite(bar).all()]
    assert heights == ([pytest.approx(2 * half_width(runs["m"]))] if n_seeds == 3 else [])


def test_the_five_panels_hold_the_authors_numbers_dashed_and_ours_solid() -> None:
    runs = made_up("divergence_comparison")
    figure = divergence_comparison.plot_five_panels(runs, made_up_history(runs))
    theirs, (mmd, *_) = authors.read("figure"), figure.axes
    assert len(figure.axes) == 5
    dashed = {line.get_label(): line for line in mmd.lines if line.get_linestyle() == "--"}
    assert set(dashed) == {"MMD", "Stein", "Wasserstein", "“ELBO” of the authors’ code"}
    expected = theirs[(theirs["metric"] == "squared_mmd") & (theirs["objective"] == "mmd")]["value"]
    assert np.asarray(dashed["MMD"].get_ydata()).tolist() == expected.tolist()
    solid = {line.get_label(): line for line in mmd.lines if line.get_linestyle() == "-"}
    own = runs[runs["objective"] == "mmd"].groupby("latent_dim")["squared_mmd_authors"].mean()
    assert np.asarray(solid["MMD"].get_ydata()).tolist() == pytest.approx(own.tolist())
    accuracy = figure.axes[3]
    (ours,) = [line for line in accuracy.lines if (line.get_label(), line.get_linestyle()) == ("VAE", "-")]
    errors = runs[runs["objective"] == "elbo"].groupby("latent_dim")["svm_error_authors"].mean()
    assert np.asarray(ours.get_ydata()).tolist() == pytest.approx((1 - errors).tolist())


def test_the_authors_numbers_stand_beside_mnist_alone() -> None:
    for dataset, n_dashed in (("mnist", 2), ("digits", 0)):
        runs = made_up("variance_overestimation").assign(dataset=dataset, binarization="none")
        figure = variance_overestimation.plot_spread(runs.drop_duplicates(["objective", "n_train", "seed"]))
        assert [line.get_linestyle() for line in figure.axes[0].lines].count("--") == n_dashed
        assert ("authors" in figure.alt) == ("authors" in figure.caption) == bool(n_dashed)


def test_an_objective_far_off_leaves_the_others_the_panel_and_stands_in_words() -> None:
    runs = pd.DataFrame({"objective": ["elbo", "mmd", "unregularized"], "m": [1.0, 2.0, 400.0]})
    _, (apart, all_three, alone) = plotting.panels(3, 2, 2)
    plotting.span_near(apart, runs, "m", "unregularized", [0.0])
    plotting.span_near(all_three, runs, "m", "")
    plotting.span_near(alone, runs[2:], "m", "unregularized")
    assert (
        apart.get_ylim() == pytest.approx((-0.16, 2.16))
        and apart.texts[0].get_text() == "no regulariser: 400 on average ↑"
    )
    assert all_three.get_ylim()[1] > 400 and alone.get_ylim()[1] > 400 and not [*all_three.texts, *alone.texts]


def test_numbers_beside_the_authors_are_those_of_the_headline() -> None:
    table = divergence_comparison.beside_authors(made_up("divergence_comparison")).set_index("objective")
    cells = table["squared MMD of q(z) and p(z)"].map(str).to_dict()
    assert cells["MMD"].endswith("(authors’ code: 0.0005)")
    assert "authors" not in cells["VAE"]  # what theirs is called ELBO is another


def test_without_labels_the_plane_speaks_of_no_class() -> None:
    runs = made_up("divergence_comparison").query("latent_dim == 2")
    arrays = [made_up_arrays(run) for run in runs.to_dict("records")]
    labelled = divergence_comparison.plot_latent_plane(runs, arrays)
    bare = [{**kept, "labels": np.full(len(kept["z"]), -1)} for kept in arrays]
    unlabelled = divergence_comparison.plot_latent_plane(runs, bare)
    assert "classes" in labelled.caption and "classes" not in unlabelled.caption
    assert len(labelled.axes) == len(unlabelled.axes) + 1  # the colour bar


def test_toys_code_points_the_same_way_in_every_panel() -> None:
    runs = made_up("amortized_inference")
    arrays = [made_up_arrays(run) for run in runs.to_dict("records")]  # q(z|x = +1) around -1
    for kept in arrays[::2]:
        kept.update(z=-kept["z"])
    for ax in amortized_inference.plot_posteriors(runs, arrays).axes:
        minus, plus = (np.asarray(c.get_paths()[0].vertices) for c in ax.collections)
        assert minus[minus[:, 1].argmax(), 0] < 0 < plus[plus[:, 1].argmax(), 0]


def test_digits_stand_upright_in_the_same_places() -> None:
    images = np.zeros((100, 1, 4, 4))
    images[13, 0, 0] = 1  # the first row of the fourth image in the second row
    figure = plotting.plot_digits({"a": images, "b": images}, "")
    grids = [np.asarray(ax.images[0].get_array()) for ax in figure.axes]
    assert np.array_equal(grids[0], grids[1]) and grids[0].shape == (60, 60)
    rows, columns = np.nonzero(grids[0])
    assert set(rows) == {7} and set(columns) == {19, 20, 21, 22}
    assert all(ax.images[0].origin == "upper" for ax in figure.axes)


def test_three_lambdas_are_three_shades_of_one_colour() -> None:
    shades = plotting.shades(plotting.PALETTE["mmd"], 3)
    assert len(set(shades)) == 3 and shades[-1] == plotting.PALETTE["mmd"].lower()


def test_arrays_of_the_first_run_are_selected_in_the_palettes_order() -> None:
    runs = pd.DataFrame({"objective": ["mmd", "elbo", "mmd"], "latent_dim": [2, 2, 2]})
    arrays = [{"z": np.full(1, n)} for n in range(3)]
    assert plotting.select_arrays(runs, arrays, "z", latent_dim=2) == {"elbo": np.full(1, 1), "mmd": np.full(1, 0)}
    assert plotting.select_arrays(runs, arrays, "z", latent_dim=10) == {}


def test_notebook_shows_a_figure_as_it_is_published(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr("IPython.display.display", lambda *things: shown.extend(things))
    figure = figures("latent_usage")["plot_information"]
    figure._ipython_display_()
    image, caption = shown
    assert image.data == figure.to_png() and image._data_and_metadata()[1]["alt"] == figure.alt
    assert caption.data == figure.caption and "95 % intervals" in figure.caption


def test_a_published_figure_keeps_the_colours_of_its_legend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plotting, "DPI", 200)
    runs = pd.read_csv(PROJECT_ROOT / "results" / "laptop" / "divergence_comparison" / "runs.csv")
    figure = divergence_comparison.plot_by_dimension(runs)
    published, exact = Image.open(io.BytesIO(figure.to_png())).convert("RGB"), io.BytesIO()
    with matplotlib.style.context("default"):
        figure.savefig(exact, dpi=plotting.DPI, bbox_inches="tight", facecolor="white")
    drawn, kept = (np.asarray(image.convert("RGB")).astype(int) for image in (Image.open(exact), published))
    for name in runs["objective"].unique():
        of_name = (drawn == np.round(255 * np.array(to_rgb(plotting.PALETTE[name])))).all(axis=-1)
        assert of_name.any() and np.abs(kept[of_name] - drawn[of_name]).max() <= 10, name
    assert np.abs(kept - drawn).max() <= 50  # an edge of the palest symbol, too
    changed = (kept != drawn).any(axis=-1)
    assert 0 < changed.mean() < 0.05  # areas and lines are as they were drawn


@pytest.mark.parametrize("values", [[0.0003], [0.0], [-0.2], [0.0003, 0.1]])
def test_an_axis_has_finite_limits_whatever_it_holds(values: list[float]) -> None:
    """One run on an axis that is logarithmic beyond 1e-5 has a margin that is not of its decades."""
    _, (ax,) = plotting.panels(1, 3, 3)
    ax.plot(range(len(values)), values)
    plotting.logarithmic(ax, 1e-5)
    plotting.span(ax, values)
    low, high = ax.get_ylim()
    assert np.isfinite([low, high]).all() and low < min(values) <= max(values) < high
