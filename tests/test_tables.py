"""Tables say what their numbers are, in words, units and every notation that they are written in."""

import math
from pathlib import Path

import pandas as pd
import pytest

from infovae.config import PROJECT_ROOT
from infovae.experiments import make_experiment
from infovae.experiments.log_likelihood import PAPER_COLUMN
from infovae.labels import LABELS
from infovae.report import load_published
from infovae.tables import compare_with_paper, format_table, to_markdown, write_tables

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
    assert list(readable) == ["objective", "latent dimension", "m", "seeds"]
    assert "failed runs" in format_table(TABLE.assign(n_failed=[0, 2]))


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_every_column_that_a_reader_sees_has_words_of_its_own(folder: Path) -> None:
    assert len(set(LABELS.values())) == len(LABELS)
    for name in load_published(folder):
        seen = format_table(pd.read_csv(folder / name / "table.csv")).columns
        assert not [column for column in seen if "_" in column]


def test_papers_numbers_stand_beside_ours() -> None:
    runs = pd.DataFrame({"decoder": "pixelcnn", "objective": ["elbo", "free_bits"], "seed": 0, "status": "done"})
    table = make_experiment("log_likelihood", {}).table(runs.assign(nll_10=99.0, nll_100=[90.0, 91.0]))
    compared = compare_with_paper(table)
    assert compared["objective"].tolist() == ["elbo"]
    assert compared.iloc[0, 1:].tolist() == ["82.8", "90", "+7.2"]
    assert "unverified" in compared.columns[1] and "K = 100" in compared.columns[2]
    assert compare_with_paper(table.drop(columns=PAPER_COLUMN)).empty


def test_markdown_table_survives_bars() -> None:
    assert to_markdown(pd.DataFrame({"a": ["x|y"]})) == "| a |\n| --- |\n| x\\|y |"


def test_latex_escapes_names(tmp_path: Path) -> None:
    experiment = make_experiment("latent_usage", {})
    runs = pd.DataFrame({"receptive_radius": [4], "objective": ["mmd_annealed"], "alpha": 1.0, "lambda_": 1.0})
    write_tables(experiment, runs.assign(status="done", mutual_information=2.0), tmp_path)
    latex = (tmp_path / "table.tex").read_text()
    assert r"mmd\_annealed" in latex and "toprule" in latex
    assert not [line for line in latex.splitlines() if "_" in line.replace(r"\_", "")]
