"""Parameters are refused before anything starts; grids hold what they say; tables are averages that hide nothing."""

import json
import math
import re
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell

from infovae.config import OBJECTIVES, LatentEvaluation, PixelConfig, RunConfig, SemiSupervisedEvaluation
from infovae.data import datasets
from infovae.data.datasets import ImageData
from infovae.evaluation import require_labels
from infovae.evaluation.semi_supervised import draw_labelled
from infovae.experiments import MODULES, aggregate, experiment_class, make_experiment
from infovae.experiments.family import Family
from infovae.experiments.semi_supervised import SemiSupervised
from infovae.experiments.sensitivity import VARIANTS, Sensitivity, variant_name
from infovae.experiments.tuning import Tuning
from infovae.labels import OBJECTIVE_WORDS
from infovae.paths import PROJECT_ROOT
from infovae.refusals import ParameterError
from infovae.reproduce import load_profile, parse_assignments, profile_names

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("latent_usage", {"lamdas": [10]}, "unknown parameter 'lamdas'; did you mean 'lambdas'"),
    ("latent_usage", {"alphas": [1.5]}, "alphas.0.*less than or equal to 1, got 1.5"),
    ("latent_usage", {"lambdas": [-1]}, "lambdas.0.*greater than or equal to 0"),
    ("latent_usage", {"alphas": [0.0], "lambdas": [0.5]}, "alpha \\+ lambda_ - 1 must not be negative"),
    ("latent_usage", {"latent_dim": 0}, "latent_dim.*greater than or equal to 1"),
    ("latent_usage", {"receptive_radii": [2]}, "receptive_radius must exceed"),
    ("latent_usage", {"overrides": {"encoder_wdth": 64}}, "field in overrides 'encoder_wdth'; did you mean 'encoder_w"),
    ("latent_usage", {"overrides": {"encoder_width": 0}}, "encoder_width.*greater than or equal to 1, got 0"),
    ("latent_usage", {"overrides": {"steps": 3}}, "overrides must not hold 'steps'"),
    ("latent_usage", {"overrides": {"alpha": 1.0}}, "overrides must not hold 'alpha'"),
    ("latent_usage", {"overrides": 3}, "overrides.*dictionary"),
    ("latent_usage", {"objective": "elbo"}, "is always there"),
    ("latent_usage", {"seeds": "[0"}, "is no list in JSON notation"),
    ("latent_usage", {"decoder": "pixelcn"}, "decoder.*'pixelcnn'"),
    ("amortized_inference", {"decoder_min_stds": [0.0]}, "decoder_min_stds.0.*greater than 0, got 0.0"),
    ("amortized_inference", {"decoder_min_std": [0.1]}, "did you mean 'decoder_min_stds'"),
    ("amortized_inference", {"dataset": "mnist"}, "dataset.*'two_points', got 'mnist'"),
    ("amortized_inference", {"n_train": 1001}, "n_train must be at most 1000 for two_points"),
    ("divergence_comparison", {"dataset": "two_points"}, "encoder 'scalar' and decoder 'scalar' are for"),
    ("divergence_comparison", {"seeds": []}, "seeds.*at least 1 item"),
    ("divergence_comparison", {"seeds": [0, 0]}, "0 is repeated"),
    ("divergence_comparison", {"seeds": 0}, "seeds.*valid list"),
    ("divergence_comparison", {"latent_dims": [2.5]}, "latent_dims.0.*integer"),
    ("divergence_comparison", {"objectives": ["mmmd"]}, "objectives.0.*'mmd'"),
    ("divergence_comparison", {"objectives": "mmd"}, "objectives.*valid list, got 'mmd'"),
    ("divergence_comparison", {"steps": "many"}, "steps.*integer, got 'many'"),
    ("divergence_comparison", {"steps": True}, "steps.*integer"),
    ("divergence_comparison", {"dataset": "cifar"}, "unknown data set 'cifar' .*digits"),
    ("divergence_comparison", {"dataset": "digits", "n_train": 2000}, "n_train must be at most 1000 for digits"),
    ("divergence_comparison", {"n_train": 60_000}, "n_train must be at most 50000 for mnist"),
    ("divergence_comparison", {"learning_rate": float("nan")}, "learning_rate.*"),
    ("divergence_comparison", {"batch_size": 10**12}, "batch_size.*less than or equal"),
    ("divergence_comparison", {"extra_seeds": [0]}, "extra_seeds must be others than seeds, 0 is in both"),
    ("variance_overestimation", {"binarizations": ["grey"]}, "binarizations.0.*'none'.*got 'grey'"),
    ("variance_overestimation", {"decoder": "pixelcnn"}, "'none' .grey images. needs decoder"),
    ("sensitivity", {"variants": ["mmd_no_nrm"]}, "unknown variant 'mmd_no_nrm'; did you mean 'mmd_no_norm'"),
    ("semi_supervised", {"n_labels": 10}, "at least 2 of each, of mnist: it has 10, got 10"),
    ("semi_supervised", {"n_labels": 0}, "n_labels must be at least 20"),
    ("semi_supervised", {"n_labels": 25}, "multiple of the number of classes.*it has 10, got 25"),
    (
        "semi_supervised",
        {"dataset": "digits", "n_labels": 100, "n_unlabelled": 901},
        r"must be at most 1000 .*got 100 \+ 901",
    ),
    ("semi_supervised", {"n_draws": None}, "n_draws.*integer, got None"),
    ("log_likelihood", {"n_draws": 50}, "n_draws.*10, 100, 1000 or 10000, got 50"),
    ("log_likelihood", {"decoder": "dense"}, "needs latent_dim=0 and a decoder such as 'pixelcnn'"),
    ("family", {"objectives": ["unconditional"]}, "has no code: it needs latent_dim=0"),
    ("family", {"n_codes": 10}, "n_codes.*greater than or equal to 100"),
]


@pytest.mark.parametrize(("name", "parameters", "message"), REFUSED)
def test_refusals_name_parameter_value_and_what_is_allowed(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ParameterError, match=message):
        make_experiment(name, parameters)


@pytest.fixture
def pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's own 100 images, without labels."""
    monkeypatch.setenv("INFOVAE_CACHE", str(tmp_path / "cache"))
    np.savez(tmp_path / "mine.npz", images=np.arange(6400, dtype=np.uint8).reshape(100, 8, 8))
    return str(tmp_path / "mine.npz")


@pytest.mark.parametrize("name", [name for name in MODULES if name not in ("amortized_inference", "semi_supervised")])
def test_every_experiment_takes_ones_own_images_whatever_their_number(name: str, pictures: str) -> None:
    experiment = make_experiment(name, {"dataset": pictures})
    assert re.fullmatch("images:[0-9a-f]{16}", experiment.dataset)
    sizes = {task.config.n_train for task in experiment.grid()}
    assert sizes == ({40, 80} if name == "variance_overestimation" else {80})
    assert make_experiment(name, experiment.model_dump(mode="json")) == experiment
    with pytest.raises(ParameterError, match=f"n_train must be at most 80 for {experiment.dataset}, got 81"):
        make_experiment(name, {"dataset": pictures, **({"n_trains": [81]} if len(sizes) > 1 else {"n_train": 81})})


def test_labels_that_are_missing_or_do_not_suffice_are_asked_for_before_training(pictures: str) -> None:
    with pytest.raises(ParameterError, match=r"at least 2 of each, of images:\w+: it has no labels, got 40"):
        make_experiment("semi_supervised", {"dataset": pictures, "n_labels": 40, "n_unlabelled": 0})
    with pytest.raises(
        ParameterError, match="multiple of the number of classes, at least 2 of each, of digits: it has 10, got 25"
    ):
        make_experiment("semi_supervised", {"dataset": "digits", "n_labels": 25})
    with pytest.raises(ParameterError, match="it has no labels, got 100"):
        make_experiment("family", {"dataset": pictures, "n_labels": 100})


def test_unknown_experiment_suggests_the_closest() -> None:
    with pytest.raises(ParameterError, match="did you mean 'latent_usage'"):
        experiment_class("latent_use")


def test_lists_may_come_as_papermill_hands_them_over() -> None:
    experiment = make_experiment("divergence_comparison", {"seeds": "[0, 3]", "objectives": '["mmd"]'})
    assert experiment.seeds == (0, 3)
    bare_words = make_experiment("divergence_comparison", {"objectives": "[mmd, elbo]"})
    assert bare_words.model_dump()["objectives"] == ("mmd", "elbo")
    assert len(experiment.grid()) == 2
    overridden = make_experiment("divergence_comparison", {"overrides": "{encoder_width:64, optimizer:rmsprop}"})
    assert overridden.overrides == {"encoder_width": 64, "optimizer": "rmsprop"}


@pytest.mark.parametrize("name", MODULES)
def test_grid_is_every_combination_once(name: str) -> None:
    experiment = make_experiment(name, {"seeds": [0, 1]})
    configs = [task.config for task in experiment.grid()]
    assert len(set(configs)) == len(configs)
    seeds = [config.seed for config in configs if not isinstance(config, PixelConfig)]
    assert seeds.count(0) == seeds.count(1) == len(seeds) / 2


def test_overrides_reach_every_run() -> None:
    for config in configs("latent_usage", overrides={"encoder_width": 64}):
        assert config.encoder_width == 64


def configs(name: str, **parameters: Any) -> list[RunConfig]:
    """Return the runs of an experiment, without the pixel baseline."""
    tasks = make_experiment(name, parameters).grid()
    return [task.config for task in tasks if isinstance(task.config, RunConfig)]


def test_density_is_drawn_of_runs_in_two_dimensions_that_no_number_rests_on() -> None:
    experiment = make_experiment("variance_overestimation", {"seeds": [3, 4], "binarizations": ["none", "dynamic"]})
    drawn = [task.config for task in experiment.drawn()]
    found = {(run.latent_dim, run.n_train, run.seed, run.binarization) for run in drawn if isinstance(run, RunConfig)}
    assert found == {(2, 500, 3, "dynamic")}  # as in the paper
    assert len(drawn) == 2 and not {*drawn} & {task.config for task in experiment.grid()}
    assert not make_experiment("latent_usage", {}).drawn()


def test_mmd_on_grey_images_has_the_weights_of_the_authors_script() -> None:
    """It averages over 784 pixels, adds 50 MMD and does not charge for the rate; on binary images the paper does."""
    runs = configs("variance_overestimation", binarizations=["none", "dynamic"], seeds=[0])
    found = {(run.binarization, run.alpha, run.lambda_, run.bandwidth) for run in runs if run.objective == "mmd"}
    assert found == {("none", 1.0, 39_200.0, "paper"), ("dynamic", 0.0, 1000.0, "paper")}
    half = configs("variance_overestimation", alpha=0.5, objectives=["mmd", "jensen"])
    assert {(run.objective, run.alpha, run.lambda_) for run in half} == {("mmd", 0.5, 39_200.0), ("jensen", 0.5, 10.5)}


def test_one_set_of_models_serves_every_notebook() -> None:
    for profile in profile_names():
        experiments = load_profile(profile)
        models = {name: {task.config for task in e.grid()} for name, e in experiments.items()}
        compared = models["divergence_comparison"]
        pixels = {config for config in models["semi_supervised"] if isinstance(config, PixelConfig)}
        assert models["semi_supervised"] - pixels == compared and len(pixels) == 1, profile
        if profile == "smoke":  # its grids differ, to be small
            continue
        used = [c for c in models["latent_usage"] if isinstance(c, RunConfig)]
        shared = [c for c in used if c.alpha == 1 and c.lambda_ == 784 and c in compared]
        assert {config.seed for config in shared} >= {0, 1, 2}, profile
        scored = [c for c in models.get("log_likelihood", set()) if isinstance(c, RunConfig) and c.latent_dim]
        assert set(scored) <= compared, profile


def test_extra_seeds_are_of_the_headline_alone() -> None:
    runs = configs("divergence_comparison", latent_dims=[2, 10], seeds=[0], extra_seeds=[5, 6], objectives=["mmd"])
    assert [(run.latent_dim, run.seed) for run in runs] == [(2, 0), (10, 0), (10, 5), (10, 6)]
    assert len(configs("divergence_comparison", latent_dims=[2], seeds=[0], extra_seeds=[5], objectives=["mmd"])) == 1


def test_usual_number_of_labels_leaves_half_of_the_rarest_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INFOVAE_CACHE", str(tmp_path / "cache"))
    labels = np.repeat([0, 1], [540, 60])
    np.savez(tmp_path / "a.npz", images=np.zeros((600, 8, 8), np.uint8), labels=labels)
    rare, plain = (
        make_experiment("divergence_comparison", {"dataset": dataset, "seeds": [0]}).model_dump()["n_labels"]
        for dataset in (str(tmp_path / "a.npz"), "mnist")
    )
    assert (rare, plain) == (2 * 24, 1000)
    data = datasets.load(str(tmp_path / "a.npz"))
    require_labels(SemiSupervisedEvaluation(n_labels=rare), RunConfig(dataset=data.name), data)


def test_usage_varies_radius_and_norm_one_at_a_time() -> None:
    lists = {
        "alphas": [1.0, 0.0],
        "lambdas": [784.0, 78.4],
        "receptive_radii": [12, 8],
        "encoder_norms": ["batch", "none"],
    }
    runs = [
        (run.receptive_radius, run.encoder_norm, run.objective, run.alpha, run.lambda_)
        for run in configs("latent_usage", seeds=[0], **lists)
    ]
    weights = [(1.0, 784.0), (1.0, 78.4), (0.0, 784.0), (0.0, 78.4)]
    assert runs == [
        (12, "batch", "elbo", 0, 1), *((12, "batch", "mmd", *pair) for pair in weights),
        (8, "batch", "elbo", 0, 1), (8, "batch", "mmd", 1, 784),
        (12, "none", "elbo", 0, 1), (12, "none", "mmd", 1, 784),
    ]  # fmt: skip


def test_likelihood_has_one_control_without_a_code() -> None:
    tasks = make_experiment("log_likelihood", {"seeds": [0]}).grid()
    for config, evaluations, _ in tasks:
        assert isinstance(config, RunConfig)
        has_code = any(isinstance(e, LatentEvaluation) for e in evaluations)
        assert has_code == (config.objective != "unconditional") == (config.latent_dim > 0)
    assert sum(task.config.objective == "unconditional" for task in tasks) == 1


def test_toy_has_the_authors_lambda_and_kernel_and_the_presets_weights() -> None:
    runs = configs("amortized_inference", seeds=[0], decoder_min_stds=[0.1])
    weights = {(run.objective, run.alpha): (1 - run.alpha, run.divergence_weight) for run in runs}
    preset = {name: RunConfig(objective=name).divergence_weight for name in ("stein", "jensen")}
    assert weights == {
        ("elbo", 0): (1, 0), ("mmd", 1): (0, 500), ("mmd", 0): (1, 499), ("stein", 1): (0, preset["stein"]),
        ("stein", 0): (1, preset["stein"]), ("jensen", 1): (0, preset["jensen"]), ("jensen", 0): (1, preset["jensen"]),
    }  # fmt: skip
    assert len(weights) == len(runs)
    assert all((c.latent_dim, c.encoder, c.decoder, c.bandwidth) == (1, "scalar", "scalar", "paper") for c in runs)


@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - {"unconditional"}))
def test_toy_accepts_every_objective_that_has_a_code(objective: str) -> None:
    (run,) = configs("amortized_inference", objectives=[objective], seeds=[0], decoder_min_stds=[0.1], alphas=[0.0])
    preset = RunConfig(objective=objective, latent_dim=1)
    assert run.divergence_weight == pytest.approx(499 if objective == "mmd" else preset.divergence_weight)


def test_variants_differ_from_each_other_and_have_their_names() -> None:
    experiment = make_experiment("sensitivity", {"variants": list(VARIANTS), "seeds": [0, 1], "steps": 1000})
    assert isinstance(experiment, Sensitivity)
    runs = [task.config for task in experiment.grid()]
    assert len(runs) == 2 * len(VARIANTS) == 2 * len({variant_name(name) for name in VARIANTS})
    named = experiment.name_variants(pd.DataFrame([run.model_dump() for run in runs]))
    for variant, rows in named.groupby("variant"):
        changes = {"steps": 1000, **VARIANTS[str(variant)]}
        changes["steps"] = round(changes["steps"] * changes.pop("share_of_steps", 1))
        assert len(rows) == 2 and all((rows[field] == value).all() for field, value in changes.items()), variant


def test_the_family_is_every_objective_that_has_a_code_each_with_its_line_and_weights() -> None:
    assert {name for name, words in OBJECTIVE_WORDS.items() if words.what} == set(OBJECTIVES)
    family = make_experiment("family", {"seeds": [0]})
    assert isinstance(family, Family)
    assert {run.objective for run in configs("family", seeds=[0])} == set(OBJECTIVES) - {"unconditional"}
    members = family.members().set_index("objective")
    assert tuple(members.loc["**MMD**", ["1 − α", "λ + α − 1"]]) == ("0", "784")
    assert tuple(members.loc["**VAE**", ["1 − α", "λ + α − 1"]]) == ("1", "0")
    assert members.loc["**“ELBO” of the authors’ code**", "1 − α"] == "392 · 78.4"
    charged = {name for name, loss in zip(members.index, members["loss"], strict=True) if "rate" in loss}
    assert charged == set(members.index[members["1 − α"] != "0"])  # the formula of a loss and its weights agree
    weighed = set(members.index[members["loss"].str.contains(r"\(q, p\)|q \\\| p")])
    assert weighed == set(members.index[members["λ + α − 1"] != "0"])


def test_images_without_labels_are_compared_without_them() -> None:
    evaluations = make_experiment("divergence_comparison", {"dataset": "digits"}).grid()[0].evaluations
    assert any(isinstance(evaluation, SemiSupervisedEvaluation) for evaluation in evaluations)
    (unlabelled,) = {task.evaluations for task in make_experiment("family", {"n_labels": 0}).grid()}
    assert len(unlabelled) == 2 and not any(isinstance(e, SemiSupervisedEvaluation) for e in unlabelled)
    small = make_experiment("semi_supervised", {"dataset": "digits", "n_train": 120})
    assert isinstance(small, SemiSupervised) and (small.n_labels, small.n_unlabelled) == (30, 90)


@pytest.mark.parametrize("n_train", [80, 100, 250, 500, 1000])
def test_as_many_labels_as_are_allowed_can_be_drawn(n_train: int, digits: ImageData) -> None:
    small = make_experiment("semi_supervised", {"dataset": "digits", "n_train": n_train, "n_unlabelled": 0})
    assert isinstance(small, SemiSupervised)
    labels = digits.train_labels[:n_train].numpy()
    assert len(draw_labelled(labels, small.n_labels, seed=0)) == small.n_labels


@pytest.mark.parametrize("name", MODULES)
def test_notebook_parameters_are_the_experiments_fields_and_defaults(name: str) -> None:
    cls = experiment_class(name)
    notebook = nbformat.read(PROJECT_ROOT / "notebooks" / f"{cls.notebook}.ipynb", as_version=4)
    cells = [cell.source for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(cells) == 1
    values: dict[str, Any] = {}
    exec(cells[0], values)
    fields = json.loads(cls().model_dump_json())
    assert values.pop("output_folder") == ""
    assert {key: values[key] for key in fields} == fields
    assert len(re.findall(r"^\w+:.*  # .+", cells[0], re.M)) == len(fields) + 1  # every one is explained
    assert cls.from_parameters(values) == cls()
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert code.count(f"{cls.__name__}.from_parameters(globals())") == 1


def notebook_variables(**changes: Any) -> dict[str, Any]:
    """Return what stands in a notebook once its cell of parameters has run."""
    return {**json.loads(experiment_class("latent_usage")().model_dump_json()), "output_folder": "", **changes}


def test_name_that_papermill_injected_and_nobody_reads_is_refused() -> None:
    cells = ["", "seeds = [0]", '# Parameters\nlamdas = [10.0]\noutput_folder = "x"\n', "%matplotlib inline"]
    with pytest.raises(ParameterError, match=r"^unknown parameter 'lamdas'; did you mean 'lambdas'[^\n]*$"):
        experiment_class("latent_usage").from_parameters(notebook_variables(lamdas=[10.0], In=cells))
    own = notebook_variables(In=["", "published = {}", "# Parameters\nlambdas = [10.0]"], published={}, lambdas=[10.0])
    assert experiment_class("latent_usage").from_parameters(own).lambdas == (10.0,)  # type: ignore[attr-defined]


def test_parameter_that_the_cell_lacks_is_refused() -> None:
    values = notebook_variables(lamdas=[10.0])
    del values["lambdas"]
    with pytest.raises(ParameterError, match=r"^parameter lambdas is not set: the cell of parameters must hold all"):
        experiment_class("latent_usage").from_parameters(values)


def test_wrong_value_in_a_notebook_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "from infovae.experiments.latent_usage import LatentUsage\nLatentUsage.from_parameters(values)"
    shell = InteractiveShell()
    shell.user_ns["values"] = notebook_variables(alphas=[1.5])
    shown: list[str] = []
    monkeypatch.setattr(shell, "_showtraceback", lambda kind, value, lines: shown.extend(lines))
    shell.run_cell(code)
    (line,) = shown
    assert re.fullmatch(r"ParameterError: parameter alphas\[0\]: [^\n]* less than or equal to 1, got 1.5", line)


def test_average_over_seeds_with_students_interval() -> None:
    runs = pd.DataFrame({"a": ["x"] * 3, "b": [1] * 3, "m": [1.0, 2.0, 6.0], "status": "done"})
    row = aggregate(runs, ("a", "b"), ("m",)).iloc[0]
    assert row["m"] == 3 and row["n_seeds"] == 3
    # t(0.975, 2) = 4.302653, standard deviation sqrt(7)
    assert row["m_ci95"] == pytest.approx(4.302653 * math.sqrt(7) / math.sqrt(3), rel=1e-6)


def test_metric_that_one_run_lacks_has_no_mean_over_the_others() -> None:
    runs = pd.DataFrame({"objective": "mmd", "seed": [0, 1], "status": "done", "a": [1.0, math.nan], "b": [1.0, 2.0]})
    (row,) = aggregate(runs, ["objective"], ["a", "b"]).to_dict("records")
    assert math.isnan(row["a"]) and math.isnan(row["a_ci95"]) and row["b"] == 1.5 and row["n_seeds"] == 2


def test_failed_runs_are_counted_and_a_single_seed_has_no_interval() -> None:
    runs = pd.DataFrame({"a": ["x", "x"], "m": [1.0, math.nan], "status": ["done", "failed: loss is nan"]})
    row = aggregate(runs, ("a",), ("m",)).iloc[0]
    assert (row["m"], row["n_seeds"], row["n_missing"], row["why_missing"]) == (1, 1, 1, "failed: loss is nan")
    assert math.isnan(row["m_ci95"])


@pytest.mark.parametrize("profile", profile_names())
def test_every_profile_is_valid(profile: str) -> None:
    left_out = {
        "quick": {"tuning", "sensitivity", "family"},
        "paper": {"tuning", "sensitivity", "family"},
        "fashion": set(MODULES) - {"divergence_comparison", "semi_supervised", "latent_usage"},
    }
    assert set(load_profile(profile)) == set(MODULES) - left_out.get(profile, set())


def test_size_and_learning_rate_have_the_least_loss_of_what_may_be_chosen() -> None:
    tuning = make_experiment("tuning", {"learning_rate": 1e-3, "seconds_at_most": 100.0})
    assert isinstance(tuning, Tuning)
    rows = [
        ("mmd", 1.0, 16, 2, 8, 1e-3, 90.0, 50.0, 40.0),
        ("mmd", 1.0, 32, 2, 8, 1e-3, 85.0, 50.0, 90.0),
        ("mmd", 1.0, 48, 4, 12, 1e-3, 75.0, 50.0, 300.0),  # best, and too slow
        ("elbo", 0.0, 32, 4, 12, 1e-3, 80.0, 5.0, 90.0),
        ("elbo", 0.0, 32, 4, 12, 2e-3, 70.0, 20.0, 90.0),  # reconstructs best, and pays for it
        ("mmd", 1.0, 32, 4, 12, 2e-3, 80.0, 50.0, 90.0),
        ("mmd", 1.0, 32, 4, 12, 1e-3, 80.0, 90.0, 300.0),  # the rate is not charged
    ]
    names = ("objective", "alpha", "pixelcnn_channels", "pixelcnn_layers", "receptive_radius", "learning_rate")
    runs = pd.DataFrame(rows, columns=[*names, "reconstruction_nll", "rate", "train_seconds"]).assign(status="done")
    assert tuning.choose_size(runs) == "32 maps, 2 layers, radius 8"
    assert tuning.choose_learning_rate(runs) == 1e-3
    said = tuning.explain_choice(runs)  # a size that was not asked for does not count
    assert "radius 8; 3 of 3 sizes were run" in said and "learning rate: 0.001 (in use: 0.001); 2 of 3 were run" in said
    diverged = (runs["objective"] == "elbo") & (runs["learning_rate"] == 2e-3)
    partly = runs.assign(status=runs["status"].mask(diverged, "failed: loss is nan"))
    assert tuning.choose_learning_rate(partly) == 1e-3  # else MMD's alone would stand for the rate that failed
    failed = runs.assign(status="failed: loss is nan")
    assert tuning.choose_size(failed) == "none" and math.isnan(tuning.choose_learning_rate(failed))


def test_settings_are_chosen_on_validation_images_by_seeds_of_their_own() -> None:
    for profile in profile_names():
        experiments = load_profile(profile)
        if "tuning" not in experiments:
            continue
        tasks = experiments["tuning"].grid()
        assert {e.split for _, evaluations, _ in tasks for e in evaluations} == {"validation"}  # type: ignore[union-attr]
        others = {seed for name, e in experiments.items() if name != "tuning" for seed in e.seeds}
        assert not others & set(experiments["tuning"].seeds)


def test_unknown_profile_suggests_the_closest() -> None:
    with pytest.raises(ParameterError, match="did you mean 'quick'"):
        load_profile("quik")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a = [", "not readable TOML"),
        ("a = 1", "must hold a table"),
        ("latent_usage = 3", "must hold a table"),
        ("[latent_use]", "did you mean 'latent_usage'"),
        ("[latent_usage]\nlamdas = [1]", "did you mean 'lambdas'"),
    ],
)
def test_damaged_profile_is_refused(content: str, message: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.toml").write_text(content)
    monkeypatch.setattr("infovae.reproduce.PROFILES", tmp_path)
    with pytest.raises(ParameterError, match=message):
        load_profile("mine")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("lambdas=[10] seeds=[0]", {"lambdas": [10], "seeds": [0]}),
        ("lambdas=[1, 10]  seeds=[0]", {"lambdas": [1, 10], "seeds": [0]}),
        ("learning_rate=1e-3", {"learning_rate": 1e-3}),
        ("objectives=[mmd, elbo]", {"objectives": ["mmd", "elbo"]}),
        ('objectives=["mmd"]', {"objectives": ["mmd"]}),
        ("dataset=digits", {"dataset": "digits"}),
        ('dataset="digits"', {"dataset": "digits"}),
        ("a={x} b=$HOME", {"a": "{x}", "b": "$HOME"}),
        ("", {}),
    ],
)
def test_assignments(text: str, expected: dict[str, Any]) -> None:
    assert parse_assignments([text]) == expected


@pytest.mark.parametrize("text", ["seeds", "=3", "seeds=[0] seeds=[1]", "1a=2"])
def test_bad_assignments_are_refused(text: str) -> None:
    with pytest.raises(ParameterError):
        parse_assignments([text])
