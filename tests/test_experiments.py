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

from infovae.config import (
    OBJECTIVES,
    PROJECT_ROOT,
    LatentEvaluation,
    LikelihoodEvaluation,
    ParameterError,
    PixelConfig,
    RunConfig,
)
from infovae.experiments import MODULES, aggregate, experiment_class, make_experiment
from infovae.experiments.tuning import Tuning
from infovae.reproduce import load_profile, parse_assignments, profile_names

REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("latent_usage", {"lamdas": [10]}, "unknown parameter 'lamdas'; did you mean 'lambdas'"),
    ("latent_usage", {"alphas": [1.5]}, "alphas.0.*less than or equal to 1, got 1.5"),
    ("latent_usage", {"lambdas": [-1]}, "lambdas.0.*greater than or equal to 0"),
    ("latent_usage", {"alphas": [0.0], "lambdas": [0.5]}, "alpha \\+ lambda_ - 1 must not be negative"),
    ("latent_usage", {"latent_dim": 0}, "latent_dim.*greater than or equal to 1"),
    ("latent_usage", {"receptive_radii": [2]}, "receptive_radius must exceed"),
    ("latent_usage", {"objective": "elbo"}, "has no divergence"),
    ("latent_usage", {"seeds": "[0"}, "not a list in JSON notation"),
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
    ("semi_supervised", {"n_labels": 7}, "n_labels.*greater than or equal to 20"),
    ("semi_supervised", {"n_draws": None}, "n_draws.*integer, got None"),
    ("log_likelihood", {"n_draws": 50}, "n_draws.*10, 100, 1000 or 10000, got 50"),
    ("log_likelihood", {"decoders": ["dense"], "objectives": ["unconditional"]}, "needs decoder 'pixelcnn'"),
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
    with pytest.raises(ParameterError, match=r"number of classes, at least 2, of images:\w+: it has no labels, got 40"):
        make_experiment("semi_supervised", {"dataset": pictures, "n_labels": 40, "n_unlabelled": 0})
    with pytest.raises(
        ParameterError, match="multiple of the number of classes, at least 2, of digits: it has 10, got 25"
    ):
        make_experiment("semi_supervised", {"dataset": "digits", "n_labels": 25})


def test_unknown_experiment_suggests_the_closest() -> None:
    with pytest.raises(ParameterError, match="did you mean 'latent_usage'"):
        experiment_class("latent_use")


def test_lists_may_come_as_papermill_hands_them_over() -> None:
    experiment = make_experiment("divergence_comparison", {"seeds": "[0, 3]", "objectives": '["mmd"]'})
    assert experiment.seeds == (0, 3)
    bare_words = make_experiment("divergence_comparison", {"objectives": "[mmd, elbo]"})
    assert bare_words.model_dump()["objectives"] == ("mmd", "elbo")
    assert len(experiment.grid()) == 2 * 2


@pytest.mark.parametrize("name", MODULES)
def test_grid_is_every_combination_once(name: str) -> None:
    experiment = make_experiment(name, {"seeds": [0, 1]})
    configs = [task.config for task in experiment.grid()]
    assert len(set(configs)) == len(configs)
    seeds = [config.seed for config in configs if not isinstance(config, PixelConfig)]
    assert seeds.count(0) == seeds.count(1) == len(seeds) / 2


def test_density_is_drawn_of_runs_in_two_dimensions_that_no_number_rests_on() -> None:
    experiment = make_experiment("variance_overestimation", {"latent_dims": [10], "seeds": [3, 4]})
    drawn = [task.config for task in experiment.drawn()]
    assert {(run.latent_dim, run.n_train, run.seed) for run in drawn if isinstance(run, RunConfig)} == {(2, 500, 3)}
    assert len(drawn) == 2 and not {*drawn} & {task.config for task in experiment.grid()}
    everywhere = make_experiment("variance_overestimation", {})  # in 2 dimensions anyway: nothing is trained beside
    assert {task.config for task in everywhere.drawn()} < {task.config for task in everywhere.grid()}
    assert not make_experiment("latent_usage", {}).drawn()


def test_semi_supervised_uses_the_models_of_the_comparison() -> None:
    for profile in profile_names():
        experiments = load_profile(profile)
        models = {task.config for task in experiments["divergence_comparison"].grid()}
        used = {task.config for task in experiments["semi_supervised"].grid()}
        assert {config for config in used if not isinstance(config, PixelConfig)} <= models, profile


def test_likelihood_anneals_cheap_decoders_only_and_has_one_control() -> None:
    experiment = make_experiment("log_likelihood", {"decoders": ["pixelcnn", "conv", "dense"], "seeds": [0]})
    tasks = experiment.grid()
    controls = [task for task in tasks if task.config.objective == "unconditional"]
    assert len(tasks) == 4 * 3 + 1 and len(controls) == 1
    assert {task.config.binarization for task in tasks if not isinstance(task.config, PixelConfig)} == {"static"}
    for config, evaluations, _ in tasks:
        assert not isinstance(config, PixelConfig)
        (likelihood,) = [e for e in evaluations if isinstance(e, LikelihoodEvaluation)]
        assert (likelihood.n_annealed > 0) == (config.decoder != "pixelcnn")
        assert (config.encoder == "dense") == (config.decoder == "dense")
        assert config.latent_dim == (0 if config.objective == "unconditional" else 5)
        has_code = any(isinstance(e, LatentEvaluation) for e in evaluations)
        assert has_code == (config.objective != "unconditional")


def test_papers_likelihoods_stand_apart_with_their_status_and_only_beside_their_like() -> None:
    runs = pd.DataFrame(
        [{"decoder": d, "objective": o, "seed": 0, "status": "done", "nll_1": 100.0, "nll_10": 99.0, "nll_100": 98.0}
         for d in ("pixelcnn", "dense") for o in ("elbo", "mmd", "mmd_annealed", "unconditional")]
    )  # fmt: skip
    column = "paper_nll (recalled, unverified)"
    table = make_experiment("log_likelihood", {}).table(runs)
    assert table.columns[-1] == column
    papers = table.set_index(["decoder", "objective"])[column].dropna().to_dict()
    assert papers == {("pixelcnn", "elbo"): 82.75, ("pixelcnn", "mmd"): 80.76}
    assert {"nll_1", "nll_10", "nll_100"} <= set(table.columns) and "nll_1000" not in table
    digits = make_experiment("log_likelihood", {"dataset": "digits", "n_train": 1000})
    assert digits.table(runs)[column].isna().all()


def test_toy_has_alpha_0_the_papers_lambda_and_the_presets_weights() -> None:
    configs = [task.config for task in make_experiment("amortized_inference", {"seeds": [0]}).grid()]
    weights = {c.objective: (c.rate_weight, c.divergence_weight) for c in configs if isinstance(c, RunConfig)}
    assert weights == {"elbo": (1, 0), "mmd": (1, 499), "mmd_annealed": (1, 300), "stein": (1, 50), "jensen": (1, 1)}
    assert all((c.latent_dim, c.encoder, c.decoder) == (1, "scalar", "scalar") for c in configs)  # type: ignore[union-attr]


@pytest.mark.parametrize("objective", sorted(set(OBJECTIVES) - {"unconditional"}))
def test_toy_accepts_every_objective_that_has_a_code(objective: str) -> None:
    (task,) = make_experiment(
        "amortized_inference", {"objectives": [objective], "seeds": [0], "decoder_min_stds": [0.1]}
    ).grid()
    assert isinstance(task.config, RunConfig)
    preset = RunConfig(objective=objective)  # type: ignore[arg-type]
    assert task.config.divergence_weight == pytest.approx(499 if objective == "mmd" else preset.divergence_weight)


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
    passed = re.search(rf"{cls.__name__}\((.*?)\)\s*# fmt", "\n".join(c.source for c in notebook.cells), re.S)
    assert passed is not None
    assert set(re.findall(r"(\w+)=\1", passed.group(1))) == set(fields)  # and every one reaches the experiment


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
    assert (row["m"], row["n_seeds"], row["n_failed"]) == (1, 1, 1)
    assert math.isnan(row["m_ci95"])


@pytest.mark.parametrize("profile", profile_names())
def test_every_profile_is_valid(profile: str) -> None:
    left_out = {
        "quick": {"tuning"},
        "fashion": set(MODULES) - {"divergence_comparison", "semi_supervised", "latent_usage"},
    }
    assert set(load_profile(profile)) == set(MODULES) - left_out.get(profile, set())


def test_settings_are_chosen_by_match_and_loss_among_those_that_keep_information() -> None:
    tuning = make_experiment("tuning", {"learning_rates": [1e-3, 2e-3]})
    assert isinstance(tuning, Tuning)
    rows = [
        ("mmd_annealed", 90.0, 2e-3, 5.0, 0.02, 1.0, 9.0, 80.0),
        ("mmd_annealed", 300.0, 2e-3, 4.0, 0.01, 1.0, 9.0, 80.0),
        ("mmd_annealed", 900.0, 2e-3, 2.0, 0.001, 1.0, 3.0, 90.0),  # matches best, by giving up information
        ("stein", 15.0, 2e-3, 0.1, 0.0, 1.0, 0.1, 90.0),  # empty throughout
        ("elbo", 1.0, 1e-3, 1.0, 0.0, 0.0, 20.0, 70.0),  # reconstructs best, and pays for it
        ("elbo", 1.0, 2e-3, 1.0, 0.0, 0.0, 1.0, 80.0),
        ("mmd_annealed", 300.0, 1e-3, 4.0, 0.0001, 1.0, 90.0, 79.0),  # another rate; nothing charged
    ]
    names = ("objective", "lambda_", "learning_rate", "mutual_information", "squared_mmd", "alpha", "rate")
    runs = pd.DataFrame(rows, columns=[*names, "reconstruction_nll"])
    assert tuning.choose_lambda(runs) == {"mmd_annealed": 300.0}
    assert tuning.choose_learning_rate(runs) == 2e-3
    emptied = runs.assign(mutual_information=runs["mutual_information"].where(runs.index != 1, 1.5))
    assert tuning.choose_learning_rate(emptied) == 1e-3
    assert math.isnan(tuning.choose_learning_rate(runs.assign(mutual_information=0.5)))


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
        ("a: [", "not readable YAML"),
        ("- 1", "must map experiments"),
        ("latent_usage: 3", "must map experiments"),
        ("latent_use: {}", "did you mean 'latent_usage'"),
        ("latent_usage: {lamdas: [1]}", "did you mean 'lambdas'"),
    ],
)
def test_damaged_profile_is_refused(content: str, message: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.yaml").write_text(content)
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
