"""From a profile to results: which runs come first, whose weights are published, what is said of runs that lack."""

import pandas as pd
import pytest

from infovae import reproduce
from infovae.config import PixelConfig, RunConfig
from infovae.reproduce import describe_failures, load_profile
from infovae.sweep import Task


def test_training_begins_with_the_most_valuable_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The headline's dimension seed by seed, then the smallest and the largest, then what lies between."""
    asked: list[Task] = []

    def sweep(tasks: list[Task]) -> pd.DataFrame:
        asked.extend(tasks)
        return pd.DataFrame({"run_id": ["a"], "status": ["done"]})

    monkeypatch.setattr("infovae.sweep.sweep", sweep)
    assert reproduce.train("laptop") == []
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
    assert not reproduce._whose_weights("quick", load_profile("quick")), "3.5 MB each, and results/ stays below 60 MB"
    assert PixelConfig() not in laptop


def test_runs_that_lack_are_counted_and_failed_ones_named() -> None:
    statuses = ["done", "failed: loss is nan", "not run", "not run"]
    runs = pd.DataFrame({"run_id": list("abcd"), "objective": "mmd", "status": statuses})
    assert describe_failures(runs) == ["run b (mmd) failed: loss is nan", "2 of 4 runs are not trained yet"]
