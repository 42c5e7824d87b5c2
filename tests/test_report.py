"""Reports say what was computed; damaged results are refused by name."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from infovae.config import PROJECT_ROOT, ParameterError
from infovae.experiments import make_experiment
from infovae.old_claims import ledger
from infovae.plotting import Captioned
from infovae.report import (
    discuss,
    format_command,
    format_headline,
    list_deviations,
    load_published,
    publish,
    write_report,
)
from infovae.reproduce import load_profile, parse_assignments, profile_names


def is_of_this_version(folder: Path) -> bool:
    """Say whether published results have today's parameters and columns; else they await their next publication."""
    try:
        published = load_published(folder).items()
    except ParameterError:
        return False
    tables = {name: pd.read_csv(folder / name / "table.csv") for name, _ in published}
    return all(list(experiment.table(runs)) == list(tables[name]) for name, (experiment, runs) in published)


COMMITTED = sorted(
    path.parent
    for path in (PROJECT_ROOT / "results").glob("*/claims.csv")
    if path.parent.name != "custom" and is_of_this_version(path.parent)
)


@pytest.mark.parametrize("profile", profile_names())
def test_command_gives_the_same_experiment(profile: str) -> None:
    for name, experiment in load_profile(profile).items():
        _, chosen, *parameters = re.fullmatch(
            r'(make run) EXPERIMENT=(\w+)(?: PARAMS="([^"]*)")?', format_command(experiment)
        ).groups()  # type: ignore[union-attr]
        assert chosen == name
        assert make_experiment(name, parse_assignments([text for text in parameters if text])) == experiment


def test_discussion_counts_what_the_ledger_says(tmp_path: Path) -> None:
    experiment = make_experiment("latent_usage", {"seeds": [0, 1, 2]})
    informed = {0: 2.0, 1: 2.01, 2: 2.02}  # nats at alpha = 1: claims below 1 are refuted, above it hold
    rows = [
        {"seed": s, "objective": o, "alpha": a, "lambda_": 1.0, "mutual_information": informed[s], "status": "done"}
        for s in informed
        for o, a in (("elbo", 0.0), ("mmd_annealed", 1.0))
    ]
    runs = pd.DataFrame(rows).assign(receptive_radius=8, decoder="pixelcnn", squared_mmd_validation=0.1)
    claims = ledger({"latent_usage": runs})
    text = discuss("quick", tmp_path, {"latent_usage": (experiment, runs)}, claims)
    assert set(claims["verdict"]) == {"reproduced", "not reproduced", "not measured", "exact"}
    assert "- Under the ELBO a decoder that can model the data alone ignores the code" in text
    assert "Of the 2 verdicts that are decided, 2 stay as they are" in text and "and 0 turn" in text
    assert "0 claims are *inconclusive*" in text and f"{experiment.title}.** {experiment.caveat}" in text


def test_headline_is_in_ten_dimensions_or_the_nearest() -> None:
    runs = pd.DataFrame(
        {
            "run_id": list("abcd"),
            "objective": "mmd",
            "latent_dim": [2, 8, 40, 8],
            "seed": [0, 1, 0, 0],
            "status": "done",
        }
    )
    metrics = ("mutual_information", "squared_mmd", "log_det_cov_per_dim_test", "class_cross_entropy")
    compared = runs.assign(**{name: [1.0, 2.0, 3.0, 4.0] for name in metrics})
    labelled = runs.assign(svm_error_sampled=[0.1, 0.2, 0.3, 0.4])
    published = {"divergence_comparison": (None, compared), "semi_supervised": (None, labelled)}
    headline = format_headline(published)  # type: ignore[arg-type]
    assert headline.to_numpy().tolist() == [["mmd", *["4 · 2"] * 4, "0.4 · 0.2"]]


def test_figures_are_published_with_their_words(tmp_path: Path) -> None:
    figure = Captioned().captioned([1], "how to read it")
    figure.subplots().set_title("what it shows")
    runs = pd.DataFrame({"receptive_radius": [4], "objective": ["mmd"], "alpha": 1.0, "lambda_": 1.0, "status": "done"})
    publish(make_experiment("latent_usage", {}), runs, {"b": figure, "a": figure}, str(tmp_path))
    captions = json.loads((tmp_path / "captions.json").read_text(encoding="utf-8"))
    assert list(captions) == ["b", "a"] and captions["a"]["alt"] == "1 panel: what it shows."
    assert (tmp_path / "a.png").read_bytes() == figure.to_png()


def test_damaged_captions_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "latent_usage").mkdir()
    (tmp_path / "latent_usage/parameters.json").write_text("{}")
    runs = pd.DataFrame({"run_id": ["x"], "status": "done", "seed": 0, "receptive_radius": 4, "objective": "elbo"})
    runs.assign(alpha=0.0, lambda_=1.0, n_train=9).to_csv(tmp_path / "latent_usage/runs.csv", index=False)
    for content in ("{", "[]", '{"a": {}}', '{"a": 1}'):
        (tmp_path / "latent_usage/captions.json").write_text(content)
        with pytest.raises(ParameterError, match=r"captions\.json is damaged"):
            write_report("quick", tmp_path)


@pytest.mark.parametrize("damage", ["parameters.json", "runs.csv"])
def test_damaged_results_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "latent_usage"
    folder.mkdir()
    experiment = make_experiment("latent_usage", {})
    (folder / "parameters.json").write_text(json.dumps(experiment.model_dump(mode="json")))
    (folder / "runs.csv").write_text("run_id,status,seed\nx,done,0\n")
    assert set(load_published(tmp_path)) == {"latent_usage"}
    (folder / damage).write_text("{")
    with pytest.raises(ParameterError, match="latent_usage"):
        load_published(tmp_path)


def test_report_without_results_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="make reproduce PROFILE=quick"):
        write_report("quick", tmp_path)


def test_every_deviation_of_the_code_is_listed() -> None:
    marks = sum(
        path.read_text(encoding="utf-8").count("DEVIATION: ")
        for path in (PROJECT_ROOT / "infovae").rglob("*.py")
        if path.name != "report.py"
    )
    listed = list_deviations()
    assert len(listed) == marks >= 5
    assert all(len(text) > 20 and text.endswith((".", ")")) for _, text in listed), listed


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_committed_results_are_complete_and_recompute(folder: Path, tmp_path: Path) -> None:
    published = load_published(folder)
    assert set(published) == set(load_profile(folder.name))
    for name, (experiment, runs) in published.items():
        assert (runs["status"] == "done").all()
        table = pd.read_csv(folder / name / "table.csv").fillna({"why_missing": ""})
        pd.testing.assert_frame_equal(experiment.table(runs), table, check_dtype=False, rtol=1e-9)
        executed = (folder / name / "notebook.ipynb").read_text(encoding="utf-8")
        assert '"output_type": "error"' not in executed
        for wanted in ("parameters.json", "runs.csv"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / wanted).write_bytes((folder / name / wanted).read_bytes())
    write_report(folder.name, tmp_path)
    made, committed = (pd.read_csv(f / "claims.csv") for f in (tmp_path, folder))
    pd.testing.assert_frame_equal(made, committed, rtol=1e-9)
