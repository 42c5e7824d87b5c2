"""From a profile to results: the smallest one, made once through the front door, and what the larger ones would do."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import command_line
from pages import check

from infovae import reproduce
from infovae.claims.statements import EMPTY_TOY_CODE
from infovae.config import PixelConfig, RunConfig
from infovae.experiments import MODULES
from infovae.paths import PROJECT_ROOT
from infovae.publishing.notebooks import FURTHER, execute_report
from infovae.publishing.report import load_published
from infovae.reproduce import describe_failures, load_profile
from infovae.runs.sweep import Task


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke profile, reproduced once from an empty store."""
    home = tmp_path_factory.mktemp("smoke")
    command_line("reproduce", "--profile", "smoke", home=home)
    return home


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", MODULES)
def test_every_experiment_is_published_whole(smoke: Path, name: str) -> None:
    folder = smoke / "results" / "smoke" / name
    published = {path.name for path in folder.iterdir()}
    assert {
        "notebook.ipynb", "notebook.html", "runs.csv", "table.csv", "table.md", "table.tex", "parameters.json",
        "captions.json",
    } <= published  # fmt: skip
    assert any(path.endswith(".png") for path in published)
    assert not [path for path in published if path.startswith(".staging") or "failed" in path]
    notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"], "a reader would see noise"
    assert str(smoke) not in (folder / "notebook.ipynb").read_text(encoding="utf-8")
    runs = pd.read_csv(folder / "runs.csv")
    assert (runs["status"] == "done").all() and runs["run_id"].is_unique


@pytest.mark.parametrize("name", MODULES)
def test_every_number_of_a_table_recomputes_from_its_runs(smoke: Path, name: str) -> None:
    folder = smoke / "results" / "smoke" / name
    experiment, runs, _ = load_published(folder.parent)[name]
    table = pd.read_csv(folder / "table.csv", dtype={"why_missing": "str"}).fillna(
        {"why_missing": ""}
    )  # an empty text reads as no number
    pd.testing.assert_frame_equal(experiment.table(runs), table, check_dtype=False)
    group = table.iloc[0]
    metric = next(column for column in map(str, table.columns) if f"{column}_ci95" in table)
    keys = list(table.columns[: table.columns.get_loc(metric)])
    if name == "amortized_inference":  # its table is of used codes
        runs = runs[runs["mutual_information"] >= EMPTY_TOY_CODE]
    of_group = runs[(runs[keys] == group[keys]).all(axis=1)]
    assert group[metric] == pytest.approx(of_group[metric].mean(), nan_ok=True)


def test_pages_request_nothing_from_elsewhere(smoke: Path) -> None:
    pages = [*(smoke / "results/smoke").glob("*/notebook.html"), smoke / "results/smoke/index.html"]
    assert len(pages) == len(MODULES) + len(FURTHER) + 1
    for page in pages:
        check(page)


def test_report_is_made_again_from_what_is_published_alone(smoke: Path, tmp_path: Path) -> None:
    folder = smoke / "results" / "smoke"
    copy = tmp_path / "smoke"
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("claims.csv", "index.html", "report.md"))
    for path in (copy / "notebook.ipynb", *(path for name in MODULES for path in (copy / name).glob("table.*"))):
        path.unlink()
    execute_report("smoke", copy)
    made = {path.relative_to(copy): path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    assert made == {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"]


def test_report_opens_with_the_picture_and_the_findings(smoke: Path) -> None:
    folder = smoke / "results" / "smoke"
    text, page = (folder / "report.md").read_text(), (folder / "index.html").read_text()
    order = ["# Does InfoVAE", "](five_panels.png)", "## What was found", "Which objective", "| verdict |", "### Div"]
    places = [text.index(words) for words in order]
    assert places == sorted(places)
    assert '<img alt="5 panels' in page or 'src="five_panels.png"' in page
    assert "make reproduce PROFILE=smoke" in page and "<math" in page and "import " not in page.partition("</style>")[2]
    for name in MODULES:
        assert f"make run EXPERIMENT={name}" in (folder / name / "notebook.html").read_text()


@pytest.mark.timeout(1800)
def test_a_clone_without_a_store_trains_nothing_and_changes_nothing(smoke: Path, tmp_path: Path) -> None:
    """What results/PROFILE carries is all that its notebooks read; those that train models of their own do so again."""
    shutil.copytree(smoke / "results", tmp_path / "results")
    command_line("reproduce", "--profile", "smoke", home=tmp_path, INFOVAE_TRAIN="0")
    published = {
        path.relative_to(smoke): path.read_bytes()
        for path in (smoke / "results/smoke").rglob("*")
        if path.is_file() and path.parent.name != "your_own_images"
    }
    assert [path for path, content in published.items() if (tmp_path / path).read_bytes() != content] == []
    own = set(pd.read_csv(tmp_path / "results/smoke/your_own_images/runs.csv")["run_id"])
    kept = {path.parent.name for path in (tmp_path / "store").rglob("record.json") if b'"decoder"' in path.read_bytes()}
    assert kept == own, "these are not published; what else was trained is a classifier"
    assert len(list((tmp_path / "results/smoke/weights").iterdir())) == 5


def test_run_writes_beside_the_profiles_and_prints_its_table(smoke: Path) -> None:
    before = (smoke / "results/smoke/latent_usage/runs.csv").read_bytes()
    text = "dataset=digits n_train=500 steps=10 seeds=[0] alphas=[1] lambdas=[10] receptive_radii=[5] latent_dim=2"
    done = command_line("run", "latent_usage", "-p", text, home=smoke)
    assert "I(x;z), nats" in done.stdout and "notebook.ipynb" in done.stdout
    assert (smoke / "results/custom/latent_usage/table.csv").is_file()
    assert (smoke / "results/smoke/latent_usage/runs.csv").read_bytes() == before


def test_plain_papermill_runs_a_notebook(smoke: Path, tmp_path: Path) -> None:
    parameters = load_profile("smoke")["divergence_comparison"].model_dump(mode="json")
    arguments = [a for name, value in parameters.items() for a in ("-p", name, json.dumps(value).strip('"'))]
    output = tmp_path / "out.ipynb"
    subprocess.run(
        [sys.executable, "-m", "papermill", "notebooks/04_divergence_comparison.ipynb", str(output), *arguments],
        cwd=PROJECT_ROOT,
        env={**os.environ, "INFOVAE_STORE": str(smoke / "store"), "INFOVAE_DEVICE": "cpu"},
        check=True,
        capture_output=True,
    )
    assert "image/png" in output.read_text(encoding="utf-8")


def test_training_begins_with_the_most_valuable_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy, of seconds; the headline's dimension seed by seed; the smallest and the largest; what lies between."""
    asked: list[Task] = []

    def sweep(tasks: list[Task]) -> pd.DataFrame:
        asked.extend(tasks)
        return pd.DataFrame({"run_id": ["a"], "status": ["done"]})

    monkeypatch.setattr("infovae.runs.sweep.sweep", sweep)
    assert reproduce.train("laptop") == []
    toy = {task.config for task in load_profile("laptop")["amortized_inference"].grid()}
    assert {task.config for task in sorted(asked, key=lambda task: task.rank)[: len(toy)]} == toy
    comparison = {task.config for task in load_profile("laptop")["divergence_comparison"].grid()}
    ordered = sorted((task for task in asked if task.config in comparison), key=lambda task: task.rank)
    places = [(task.config.latent_dim, task.config.seed) for task in ordered if isinstance(task.config, RunConfig)]
    distinct = list(dict.fromkeys(places))
    assert distinct[:5] == [(10, seed) for seed in range(5)]
    assert {dim for dim, _ in distinct[5:11]} == {2, 40} and {dim for dim, _ in distinct[11:]} == {5, 20}


def test_weights_of_one_seed_are_published_in_two_dimensions() -> None:
    laptop = reproduce._whose_weights("laptop", load_profile("laptop"))
    assert len(laptop) == 14 and {config.seed for config in laptop} == {0}
    assert {config.latent_dim for config in laptop if isinstance(config, RunConfig)} == {2, 10}
    assert not reproduce._whose_weights("quick", load_profile("quick")), "1.7 MB each, and results/ stays below 60 MB"
    assert PixelConfig() not in laptop


def test_runs_that_lack_are_counted_and_failed_ones_named() -> None:
    statuses = ["done", "failed: loss is nan", "not run", "not run"]
    runs = pd.DataFrame({"run_id": list("abcd"), "objective": "mmd", "status": statuses})
    assert describe_failures(runs) == ["run b (mmd) failed: loss is nan", "2 of 4 runs are not trained yet"]


def test_a_stopped_verification_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOVAE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("INFOVAE_STORE", str(tmp_path / "store"))
    (tmp_path / "results" / "smoke").mkdir(parents=True)
    (tmp_path / "results" / "smoke" / "claims.csv").touch()
    seen: list[list[str]] = []

    def stopped(profile: str, folder: Path) -> list[str]:
        kept = Path(os.environ["INFOVAE_STORE"])
        kept.mkdir(parents=True, exist_ok=True)
        seen.append(sorted(path.name for path in kept.iterdir()))
        (kept / f"run {len(seen)}").touch()
        if len(seen) < 2:
            raise KeyboardInterrupt
        return ["a problem"]

    monkeypatch.setattr(reproduce, "reproduce", stopped)
    monkeypatch.setattr("infovae.publishing.verify.compare", lambda old, new: [])
    with pytest.raises(KeyboardInterrupt):
        reproduce.verify("smoke")
    _, problems = reproduce.verify("smoke")
    assert problems[0] == "a problem" and "begin anew" in problems[1]
    assert seen == [[], ["run 1"]] and list(tmp_path.glob("store/verify/smoke/store/run 2"))
    monkeypatch.setattr(reproduce, "reproduce", lambda profile, folder: [])
    assert reproduce.verify("smoke") == ([], [])
    assert not list(tmp_path.glob("store/verify/*"))
