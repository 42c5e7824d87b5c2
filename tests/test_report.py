"""Tables say what their numbers are, damaged results are refused by name, and the README shows what was computed."""

import json
import math
from pathlib import Path

import pandas as pd
import pytest

from infovae.config import PROJECT_ROOT, ParameterError
from infovae.experiments import MODULES, make_experiment
from infovae.report import (
    format_table,
    list_deviations,
    load_published,
    to_markdown,
    write_report,
    write_tables,
)

TABLE = pd.DataFrame(
    {
        "objective": ["a_b", "c"],
        "latent_dim": [2, 10],
        "m": [0.123456, 1234567.0],
        "m_ci95": [0.01, math.nan],
        "n_seeds": [3, 1],
        "n_failed": [0, 0],
    }
)
COMMITTED = sorted(
    path.parent for path in (PROJECT_ROOT / "results").glob("*/claims.csv") if path.parent.name != "custom"
)


def test_mean_and_interval_stand_in_one_cell() -> None:
    readable = format_table(TABLE)
    assert list(readable["m"]) == ["0.123 ± 0.01", "1234567"]
    assert "n_failed" not in readable
    assert "n_failed" in format_table(TABLE.assign(n_failed=[0, 2]))


def test_markdown_table_survives_bars() -> None:
    assert to_markdown(pd.DataFrame({"a": ["x|y"]})) == "| a |\n| --- |\n| x\\|y |"


def test_latex_escapes_names(tmp_path: Path) -> None:
    experiment = make_experiment("latent_usage", {})
    runs = pd.DataFrame({"receptive_radius": [4], "objective": ["mmd_annealed"], "alpha": 1.0, "lambda_": 1.0})
    write_tables(experiment, runs.assign(status="done", mutual_information=2.0), tmp_path)
    latex = (tmp_path / "table.tex").read_text()
    assert r"mmd\_annealed" in latex and "toprule" in latex
    assert not [line for line in latex.splitlines() if "_" in line.replace(r"\_", "")]


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
    assert set(published) == set(MODULES)
    for name, (experiment, runs) in published.items():
        assert (runs["status"] == "done").all()
        table = pd.read_csv(folder / name / "table.csv")
        pd.testing.assert_frame_equal(experiment.table(runs), table, check_dtype=False, rtol=1e-9)
        executed = (folder / name / "notebook.ipynb").read_text(encoding="utf-8")
        assert '"output_type": "error"' not in executed
        for wanted in ("parameters.json", "runs.csv"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / wanted).write_bytes((folder / name / wanted).read_bytes())
    write_report(folder.name, tmp_path)
    made, committed = (pd.read_csv(f / "claims.csv") for f in (tmp_path, folder))
    pd.testing.assert_frame_equal(made, committed, rtol=1e-9)


def test_readme_shows_the_committed_headline() -> None:
    if not COMMITTED:
        pytest.skip("no results are committed yet")
    headline = (PROJECT_ROOT / "results/quick/headline.md").read_text(encoding="utf-8").strip()
    assert headline in (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
