"""Tables say what their numbers are, in words, units and every notation that they are written in."""

import math
from pathlib import Path

import pandas as pd
import pytest

from infovae.experiments import MODULES, experiment_class, make_experiment
from infovae.labels import LABELS
from infovae.tables import format_table, to_markdown, write_tables

TABLE = pd.DataFrame(
    {
        "objective": ["a_b", "mmd"],
        "latent_dim": [2, 10],
        "m": [0.123456, 1234567.0],
        "m_ci95": [0.01, math.nan],
        "n_seeds": [3, 1],
        "nothing": [math.nan, math.nan],
        "nothing_ci95": [math.nan, math.nan],
        "n_missing": [0, 0],
    }
)


def test_mean_and_interval_stand_in_one_cell() -> None:
    readable = format_table(TABLE)
    assert list(readable["m"]) == ["0.123 ± 0.01", "1234567"]
    assert list(readable) == ["objective", "latent dimension", "m", "seeds"]
    assert list(readable["objective"]) == ["a_b", "MMD"]
    assert "runs without a result" in format_table(TABLE.assign(n_missing=[0, 2]))


@pytest.mark.parametrize("name", MODULES)
def test_every_column_that_a_reader_sees_has_words_of_its_own(name: str) -> None:
    assert len(set(LABELS.values())) == len(LABELS)
    cls = experiment_class(name)
    assert {*cls.conditions, *cls.metrics} - {"objective", "variant", "rate"} <= set(LABELS)


def test_markdown_table_survives_bars() -> None:
    assert to_markdown(pd.DataFrame({"a": ["x|y"]})) == "| a |\n| --- |\n| x\\|y |"


def test_latex_escapes_names(tmp_path: Path) -> None:
    experiment = make_experiment("latent_usage", {})
    runs = pd.DataFrame({"receptive_radius": [4], "objective": ["a_b"], "alpha": 1.0, "lambda_": 1.0})
    write_tables(experiment, runs.assign(status="done", mutual_information=2.0), tmp_path)
    latex = (tmp_path / "table.tex").read_text()
    assert r"a\_b" in latex and "toprule" in latex
    assert not [line for line in latex.splitlines() if "_" in line.replace(r"\_", "")]
