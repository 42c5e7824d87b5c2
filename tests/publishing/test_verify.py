"""Reproduced results are identical, within the committed interval, or different, and each is told from the others."""

import math
import shutil
from pathlib import Path

import pandas as pd
import pytest

from infovae.experiments import make_experiment
from infovae.publishing.verify import compare
from infovae.runs.store import to_json


def publish(folder: Path, information: dict[str, list[float]], seconds: float = 1.0) -> None:
    """Publish made-up runs of the latent usage: objective -> I(x;z) of each seed."""
    target = folder / "latent_usage"
    target.mkdir(parents=True)
    rows = [
        {"run_id": f"{objective}{seed}", "status": "done", "seed": seed, "objective": objective, "alpha": 0.0,
         "lambda_": 1.0, "receptive_radius": 8, "mutual_information": value, "train_seconds": seconds}
        for objective, values in information.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(target / "runs.csv", index=False)
    (target / "parameters.json").write_bytes(to_json(make_experiment("latent_usage", {}).model_dump(mode="json")))


OLD = {"elbo": [0.1, 0.2], "mmd": [5.0, 5.0]}


@pytest.mark.parametrize(
    ("new", "outcomes"),
    [
        (OLD, ["identical", "identical"]),
        # the interval of elbo is 0.15 ± 0.635, and sqrt(2) of that for another mean; that of mmd has no width
        ({"elbo": [0.5, 0.6], "mmd": [5.0, 5.0]}, ["within the interval", "identical"]),
        ({"elbo": [0.9, 1.1], "mmd": [5.0, 5.0 + 1e-9]}, ["within the interval", "within the interval"]),
        ({"elbo": [1.5, 1.6], "mmd": [5.0, 5.1]}, ["different", "different"]),
        ({"elbo": [0.1, 0.2]}, ["identical", "different"]),
        ({"elbo": [0.1], "mmd": [5.0, 5.0]}, ["within the interval", "identical"]),
        ({"elbo": [math.nan, math.nan], "mmd": [5.0, 5.0]}, ["different", "identical"]),
    ],
)
def test_each_condition_has_its_outcome(tmp_path: Path, new: dict[str, list[float]], outcomes: list[str]) -> None:
    publish(tmp_path / "old", OLD)
    publish(tmp_path / "new", new, seconds=2.0)  # times are nobody's business
    found = compare(tmp_path / "old", tmp_path / "new")
    assert [comparison.outcome for comparison in found] == outcomes
    assert ("mutual_information" in str(found[0])) == (outcomes[0] == "different")


def test_the_pixel_baseline_is_compared_though_it_has_no_latent_dimension(tmp_path: Path) -> None:
    for name, error in (("old", 0.1), ("same", 0.1), ("other", 0.9)):
        target = tmp_path / name / "semi_supervised"
        target.mkdir(parents=True)
        row = {"run_id": "p", "status": "done", "seed": 0, "objective": "pixels", "latent_dim": math.nan}
        pd.DataFrame([{**row, "svm_error": error}]).to_csv(target / "runs.csv", index=False)
        (target / "parameters.json").write_bytes(
            to_json(make_experiment("semi_supervised", {}).model_dump(mode="json"))
        )
    found = [compare(tmp_path / "old", tmp_path / name)[0].outcome for name in ("same", "other")]
    assert found == ["identical", "different"]


def test_missing_experiment_is_a_difference(tmp_path: Path) -> None:
    publish(tmp_path / "old", OLD)
    publish(tmp_path / "new", OLD)
    shutil.rmtree(tmp_path / "new/latent_usage")
    (comparison,) = compare(tmp_path / "old", tmp_path / "new")
    assert comparison.outcome == "different" and "not reproduced" in str(comparison)


def test_a_condition_that_was_committed_without_a_result_is_no_difference(tmp_path: Path) -> None:
    publish(tmp_path / "old", {"elbo": [math.nan, math.nan]})
    publish(tmp_path / "new", {"elbo": [0.1, 0.2]})
    assert [comparison.outcome for comparison in compare(tmp_path / "old", tmp_path / "new")] == ["within the interval"]
