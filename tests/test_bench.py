"""`make bench` with measurements that are made up, and each of its rows at a size that takes no time."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch

from bench import rows
from bench.__main__ import measure, run
from bench.rows import Row
from infovae.config import RunConfig, SampleEvaluation
from infovae.evaluation import evaluate
from infovae.runs.store import Store
from infovae.runs.sweep import Task
from infovae.training import is_logged, train

UNITS = {"images/s", "share", "spreads", "s", "MB"}
TINY = {
    "DATASET": "digits", "N_TRAIN": 100, "BATCH_SIZE": 8, "N_SAMPLES": 20, "N_CODES": 200, "SWEEP_STEPS": 2,
    "STEPS": dict.fromkeys(rows.STEPS, 1), "N_SEEDS": 2, "SCIENCE_STEPS": 2,
}  # fmt: skip
ROWS = rows.make_rows(bfloat16=True)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOVAE_DEVICE", "cpu")
    monkeypatch.setattr(rows, "matrix_product_rate", partial(rows.matrix_product_rate, size=64))
    for name, value in TINY.items():
        monkeypatch.setattr(rows, name, value)


def fake(unit: str, ours: list[float], theirs: list[float] | None = None, **fields: float) -> Row:
    """A row that reads its measurements one after the other, the first of several not to count."""

    def script(values: list[float]) -> Callable[[], float]:
        left = iter([math.inf, *values] if len(values) > 1 else values)
        return lambda: next(left)

    return Row("fake", unit, script(ours), theirs and script(theirs), repeats=len(ours), **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("unit", "ours", "theirs"), [("s", [1, 2, 4], [3, 4, 16]), ("images/s", [3, 4, 16], [1, 2, 4])]
)
def test_ratio_is_of_pairs_and_above_1_where_ours_is_better(unit: str, ours: list[float], theirs: list[float]) -> None:
    line = measure(fake(unit, ours, theirs))
    assert (line["ratio"], line["ratio_min"], line["ratio_max"]) == (3, 2, 4)
    assert {line["ours"], line["theirs"]} == {2, 4}


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (fake("images/s", [3], [1], aim=3, floor=2), "aim met"),
        (fake("s", [1], [2.99], aim=3, floor=2), "floor met"),
        (fake("images/s", [1.99], [1], aim=3, floor=2), "missed"),
        (fake("s", [1.5], floor=1.5), "floor met"),
        (fake("s", [1.6], floor=1.5), "missed"),
        (fake("share", [0.5], aim=0.5), "aim met"),
        (fake("share", [0.49], aim=0.5), "missed"),
    ],
)
def test_verdicts(row: Row, verdict: str) -> None:
    assert measure(row)["verdict"] == verdict


def test_rows_are_named_once_and_bounded_sensibly() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert row.unit in UNITS
        assert row.aim or row.floor, f"{row.name} has nothing to come to"
        assert not (row.theirs and row.aim and row.floor) or row.aim > row.floor >= 1, row.name
    without = {row.name for row in rows.make_rows(bfloat16=False)}
    assert {row.name for row in ROWS} - without == {r.name for r in ROWS if "bfloat16" in r.name or "science" in r.name}


@pytest.mark.parametrize("name", rows.KERNELS)
def test_masked_convolutions_see_as_many_rows_in_as_many_layers(name: str) -> None:
    config = rows.make_config(name)
    for sizes in rows.KERNELS[name].values():
        assert len(sizes) == config.pixelcnn_layers + 1
        assert sum(size // 2 for size in sizes) == config.receptive_radius


def test_no_step_of_a_measurement_is_logged() -> None:
    assert not any(is_logged(step, rows.make_config("conv/conv").steps) for step in range(max(rows.STEPS.values())))


def test_arithmetic_of_a_step_is_that_of_its_layers(tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "training_rate", _train_once)
    monkeypatch.setattr(rows, "matrix_product_rate", lambda precision: 1.0)
    first, second = 4 * 4 * 32 * 16, 2 * 2 * 64 * 32 * 16  # multiplications of the encoder's convolutions, 8 x 8 pixels
    linear = 2 * 2 * 64 * 256, 256 * 20, 10 * 2 * 2 * 64
    forward = 2 * (2 * (first + second) + sum(linear))  # the decoder mirrors the encoder; a multiplication and a sum
    # backward: for the weights and for the input of each layer; images need no gradient. The MMD adds a little.
    assert rows.share("conv/conv", "float32") == pytest.approx(3 * forward - 2 * first, rel=0.02)


def _train_once(name: str, precision: str, n_steps: int = 1) -> float:
    rows._begin(rows.make_config(name, precision)).advance(n_steps)
    return 1.0


@pytest.mark.parametrize("number", range(len(ROWS)), ids=lambda number: ROWS[number].name)
def test_each_row_at_a_tiny_size(number: int, tiny: None, monkeypatch: pytest.MonkeyPatch) -> None:
    row = rows.make_rows(bfloat16=True)[number]
    monkeypatch.setattr(rows, "sweep", sweep_here)
    measured = row.ours()
    assert 0 <= measured < math.inf and (measured > 0 or row.unit == "MB")  # no worker has ended here
    if row.theirs and (find_spec("pythae") or not ("pythae" in row.name or "masked" in row.name)):
        assert 0 < row.theirs() < math.inf


def sweep_here(tasks: list[Task], store: Store) -> pd.DataFrame:
    """Train and evaluate in this process; samples, which need a classifier, are left out."""
    runs = []
    for config, evaluations, _ in tasks:
        assert isinstance(config, RunConfig)
        data, device = rows.load_data(config.dataset), torch.device("cpu")
        model, run = train(config, data, device).model, config.model_dump() | {"status": "done"}
        for evaluation in evaluations:
            if not isinstance(evaluation, SampleEvaluation):
                run |= evaluate(evaluation, config, model, data, device)[0]
        runs.append(run)
    return pd.DataFrame(runs)


def test_a_sweep_that_failed_is_no_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "sweep", lambda tasks, store: pd.DataFrame({"status": ["done", "failed: no memory"]}))
    with pytest.raises(RuntimeError, match="failed: no memory"):
        rows.sweep_quietly([])


def test_run_writes_table_and_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = [fake("images/s", [3.0], [1.0], aim=3, floor=2), fake("s", [1.0], floor=2)]
    run([Row("other", *few[0][1:])], "a machine", tmp_path, only="nothing of this name")
    assert not list(tmp_path.iterdir())
    run(few, "a machine", tmp_path, only="")
    assert capsys.readouterr().out.splitlines()[-2].endswith("floor met")
    lines = (tmp_path / "bench.csv").read_text().splitlines()
    assert lines == [
        "name,unit,aim,floor,ours,theirs,ratio,ratio_min,ratio_max,verdict,machine",
        "fake,images/s,3,2,3,1,3,3,3,aim met,a machine",
        "fake,s,,2,1,,,,,floor met,a machine",
    ]
    assert (tmp_path / "bench.png").stat().st_size > 5_000
