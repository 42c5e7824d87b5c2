"""One module per notebook: an experiment's parameters, its grid of runs and its table.

`EXPERIMENTS` finds them by name. What varies in an experiment is a plural list; what is fixed is a singular.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from infovae import sources
from infovae.config import (
    OBJECTIVES,
    Alpha,
    Count,
    Dataset,
    Decoder,
    Lambda,
    LatentDim,
    ObjectiveName,
    ParameterError,
    Positive,
    RunConfig,
    Seed,
    Settings,
    TrainingSize,
    explain,
    shorten,
    unknown_name,
)

if TYPE_CHECKING:
    import pandas as pd

    from infovae.sweep import Task

MODULES = {
    "tuning": "Tuning",
    "amortized_inference": "AmortizedInference",
    "variance_overestimation": "VarianceOverestimation",
    "divergence_comparison": "DivergenceComparison",
    "semi_supervised": "SemiSupervised",
    "latent_usage": "LatentUsage",
    "log_likelihood": "LogLikelihood",
}
"""Module name -> class, in the order of the notebooks."""

T = TypeVar("T")


def parse_value(text: str) -> Any:
    """Return what a text says in JSON, else the text itself; a list may hold bare words (`[mmd, elbo]`)."""
    try:
        return _parse(text)
    except (ValueError, RecursionError):
        return text


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if text.startswith("[") and text.endswith("]") and "[" not in text[1:]:
            return [parse_value(word.strip().strip("'")) for word in text[1:-1].split(",")]
        raise


def _parse_list(value: Any) -> Any:
    # papermill's -p hands lists over as strings
    if isinstance(value, str) and value.strip().startswith("["):
        try:
            return _parse(value.strip())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{shorten(value)} is not a list in JSON notation ({error})") from error
    return list(value) if isinstance(value, tuple) else value


def _require_unique(values: tuple[T, ...]) -> tuple[T, ...]:
    repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    if repeated:
        raise ValueError(f"values must differ, {repeated[0]!r} is repeated")
    return values


_LIST = (Field(min_length=1, max_length=1000), BeforeValidator(_parse_list), AfterValidator(_require_unique))
Seeds = Annotated[tuple[Seed, ...], *_LIST]
LatentDims = Annotated[tuple[LatentDim, ...], *_LIST]
Objectives = Annotated[tuple[ObjectiveName, ...], *_LIST]
Alphas = Annotated[tuple[Alpha, ...], *_LIST]
Lambdas = Annotated[tuple[Lambda, ...], *_LIST]
TrainingSizes = Annotated[tuple[TrainingSize, ...], *_LIST]
Decoders = Annotated[tuple[Decoder, ...], *_LIST]
MinStds = Annotated[tuple[Positive, ...], *_LIST]
Scales = Annotated[tuple[Positive, ...], *_LIST]
LearningRates = Annotated[tuple[Positive, ...], *_LIST]
Radii = Annotated[tuple[Annotated[int, Field(strict=True, ge=2, le=28)], ...], *_LIST]


class Experiment(Settings):
    """What every experiment has: its data, its budget and its seeds. Parameters are the fields of its class."""

    name: ClassVar[str]
    title: ClassVar[str]
    notebook: ClassVar[str]
    caveat: ClassVar[str]  # what a budget below the paper's may have changed

    dataset: Dataset = "mnist"
    seeds: Seeds = (0, 1)
    steps: Count = 200
    batch_size: Annotated[int, Field(strict=True, ge=2, le=100_000)] = 100
    learning_rate: Positive = 2e-3
    precision: Literal["float32", "bfloat16"] = "float32"

    def grid(self) -> list[Task]:
        """Return the runs of this experiment and the evaluations that it needs of each."""
        raise NotImplementedError

    def drawn(self) -> list[Task]:
        """Return the runs that a figure draws and no number rests on; they are in no table and no claim."""
        return []

    def table(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return the experiment's table, computed from `runs` (one row per run, as in runs.csv) and nothing else."""
        raise NotImplementedError

    def model_post_init(self, context: Any) -> None:
        """Refuse a combination that no run could have, and lists whose product nobody waits for."""
        lengths = {name: len(value) for name, value in self if isinstance(value, tuple)}
        n_runs = math.prod(lengths.values())
        if n_runs > N_RUNS_MAX:
            factors = " x ".join(f"{length} {name}" for name, length in lengths.items())
            raise ValueError(f"{factors} make {n_runs} runs, at most {N_RUNS_MAX} are allowed: shorten a list")
        for task in self.grid():
            if isinstance(task.config, RunConfig):
                check_data_size(task.config)

    @property
    def budget(self) -> dict[str, Any]:
        """The settings that every run of this experiment shares; `n_train` where it is not what varies."""
        return self.model_dump(include={"dataset", "n_train", "steps", "batch_size", "learning_rate", "precision"})


N_RUNS_MAX = 10_000
"""Of one experiment; the largest profile has some hundreds."""


def check_data_size(config: RunConfig) -> None:
    """Raise ValueError if the data set has fewer training images than the run asks for."""
    limit = sources.facts(config.dataset).n_train
    if config.n_train > limit:
        raise ValueError(f"n_train must be at most {limit} for {config.dataset}, got {config.n_train}: give it too")


def experiment_class(name: str) -> type[Experiment]:
    """Return the experiment of that name; ParameterError names the closest one."""
    if name not in MODULES:
        raise ParameterError(unknown_name("experiment", name, MODULES))
    return getattr(importlib.import_module(f"infovae.experiments.{name}"), MODULES[name])


def make_experiment(name: str, parameters: dict[str, Any]) -> Experiment:
    """Return the validated experiment; every refusal is a ParameterError that says what is allowed."""
    cls = experiment_class(name)
    try:
        return cls.model_validate(parameters)
    except ValidationError as error:
        raise ParameterError(explain(error, cls)) from error


def weights_at(objective: ObjectiveName, alpha: float, lambda_of_mmd: float) -> dict[str, Any]:
    """Return alpha and lambda_ of an objective at that alpha, where the paper has a lambda_ of its own for MMD.

    Every other divergence keeps the weight lambda_ + alpha - 1 of its preset. Without a divergence nothing changes.
    """
    preset = OBJECTIVES[objective]
    if preset["divergence"] == "none":
        return {}
    kept = preset["lambda_"] + preset["alpha"] - alpha
    return {"alpha": alpha, "lambda_": lambda_of_mmd if objective == "mmd" else kept}


def product(**choices: Iterable[Any]) -> list[dict[str, Any]]:
    """Return every combination of the choices, the last one varying fastest."""
    return [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())]


def aggregate(runs: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    """Return mean, 95 % interval over seeds and n of each metric, for each group of finished runs.

    The interval is Student's, `metric_ci95` its half-width: NaN for a single seed. A metric that is NaN in one of the
    finished runs has no mean. `n_failed` counts the group's runs
    that have no result: no average is over survivors without saying so.
    """
    import pandas as pd
    from scipy import stats

    rows = []
    for key, group in runs.groupby(list(by), sort=False, dropna=False):
        done = group[group["status"] == "done"]
        n = len(done)
        row: dict[str, Any] = dict(zip(by, key, strict=True))
        for metric in metrics:
            values = done[metric] if metric in done else pd.Series(dtype=float)
            row[metric] = values.mean(skipna=False)
            spread = values.std(skipna=False) if n > 1 else float("nan")
            row[f"{metric}_ci95"] = stats.t.ppf(0.975, n - 1) * spread / n**0.5 if n > 1 else float("nan")
        rows.append({**row, "n_seeds": n, "n_failed": len(group) - n})
    return pd.DataFrame(rows)
