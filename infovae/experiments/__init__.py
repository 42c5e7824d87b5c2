"""One module per notebook: an experiment's parameters, its grid of runs, what its table holds and its figures.

What varies in an experiment is a plural list under the name of the field of `RunConfig` that it varies; a parameter
that has the name of such a field itself is the same in every run. A new experiment is one module with a subclass of
`Experiment`, one notebook and one line in a profile.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self, TypeVar

import pandas as pd
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError

from infovae.claims.intervals import half_width
from infovae.config import (
    OBJECTIVES,
    BatchSize,
    Count,
    Dataset,
    DecoderName,
    Evaluation,
    ObjectiveName,
    PixelConfig,
    Positive,
    Precision,
    RunConfig,
    Seed,
    Settings,
    TrainingSize,
    all_training_images,
)
from infovae.data import sources
from infovae.paths import PROJECT_ROOT
from infovae.refusals import ParameterError, explain, shorten, unknown_name
from infovae.runs.sweep import Task

NOTEBOOKS = {path.stem.partition("_")[2]: path.stem for path in sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb"))}
"""NAME -> NN_NAME of every notebook, in their order."""
MODULES = tuple(name for name in NOTEBOOKS if (Path(__file__).parent / f"{name}.py").is_file())
"""The experiments, in the order of their notebooks: each is a notebook NN_NAME.ipynb and a module NAME here."""

T = TypeVar("T")
Wanted = list[tuple[RunConfig | PixelConfig, tuple[Evaluation, ...]]]


def parse_value(text: str) -> Any:
    """Return what a text says in JSON, else the text itself; a list or mapping may hold bare words (`[mmd, elbo]`)."""
    try:
        return _parse(text)
    except (ValueError, RecursionError):
        return text


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if text.strip()[:1] not in ("[", "{"):
            raise
        words = r'"[^"]*"|(?<![\w.])(?!(?:true|false|null|NaN|Infinity)\b)[A-Za-z_]\w*'
        return json.loads(re.sub(words, lambda word: f'"{word[0].strip(chr(34))}"', text.replace("'", '"')))


def _parse_text(value: Any) -> Any:
    # papermill's -p hands lists and mappings over as texts
    if isinstance(value, str) and value.strip()[:1] in ("[", "{"):
        try:
            return _parse(value.strip())
        except (ValueError, RecursionError) as error:
            kind, example = ("list", "[1, 2]") if value.strip()[0] == "[" else ("mapping", '{"steps": 100}')
            raise ValueError(f"{shorten(value)} is no {kind} in JSON notation, such as {example}") from error
    return list(value) if isinstance(value, tuple) else value


def _require_unique(values: tuple[T, ...]) -> tuple[T, ...]:
    repeated = [value for value in dict.fromkeys(values) if values.count(value) > 1]
    if repeated:
        raise ValueError(f"values must differ, {repeated[0]!r} is repeated")
    return values


_READ = (BeforeValidator(_parse_text), AfterValidator(_require_unique))
Several = Annotated[tuple[T, ...], Field(min_length=1, max_length=1000), *_READ]
"""What an experiment varies: at least one value, none twice."""
MoreSeeds = Annotated[tuple[Seed, ...], Field(max_length=1000), *_READ]
Overrides = Annotated[dict[str, Any], BeforeValidator(_parse_text)]

HEADLINE_DIM = 10
"""Latent dimensions of the headline, which every experiment on images has by default."""


class Experiment(Settings):
    """What every experiment has: its data, its budget and its seeds. Parameters are the fields of its class.

    Attributes
    ----------
    name, notebook : of its module, and of the notebook of that name.
    conditions : columns of runs.csv that tell the rows of the table apart.
    metrics : columns of runs.csv that the table averages over seeds.
    overrides : further fields of `RunConfig` and their values, for every run.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    notebook: ClassVar[str]
    caveat: ClassVar[str]  # what a budget below the paper's may have changed
    conditions: ClassVar[tuple[str, ...]]
    metrics: ClassVar[tuple[str, ...]]

    dataset: Dataset = "mnist"
    seeds: Several[Seed] = (0, 1, 2)
    steps: Count = 700
    batch_size: BatchSize = 100
    learning_rate: Positive = RunConfig.model_fields["learning_rate"].default
    precision: Precision = RunConfig.model_fields["precision"].default
    overrides: Overrides = Field(default_factory=dict)

    def __init_subclass__(cls, **settings: Any) -> None:
        """Name the experiment after its module."""
        super().__init_subclass__(**settings)
        cls.name = cls.__module__.rpartition(".")[2]
        cls.notebook = NOTEBOOKS.get(cls.name, "")

    @classmethod
    def from_parameters(cls, namespace: Mapping[str, Any]) -> Self:
        """Return the experiment that a notebook's variables describe: `from_parameters(globals())`.

        Every parameter must be set. papermill writes what it was given into a cell of its own, and a mistyped name
        there would be one more variable that nobody reads: such names are refused.

        Raises
        ------
        ParameterError
            One line for each mistake.
        """
        injected = [name for name in _injected_names(namespace) if name not in cls.model_fields]
        unset = [name for name in cls.model_fields if name not in namespace]
        lines = [unknown_name("parameter", name, cls.model_fields) for name in injected]
        lines += [f"parameter {name} is not set: the cell of parameters must hold all of them" for name in unset]
        if lines:
            raise ParameterError("\n".join(lines))
        return make(cls, {name: namespace[name] for name in cls.model_fields})

    def wanted(self) -> Wanted:
        """Return the runs of this experiment and the evaluations that it needs of each."""
        raise NotImplementedError

    def grid(self) -> list[Task]:
        """Return what `wanted` does as tasks of a sweep, each run once."""
        return [Task(config, evaluations) for config, evaluations in dict(self.wanted()).items()]

    def drawn(self) -> list[Task]:
        """Return the runs that a figure draws and no number rests on; they are in no table and no claim."""
        return []

    def tasks(self) -> list[Task]:
        """Return all that its notebook needs: what `grid` and `drawn` return."""
        return [*self.grid(), *self.drawn()]

    def table(self, runs: pd.DataFrame, *metrics: str) -> pd.DataFrame:
        """Return the table of some or all `metrics`, computed from `runs` (as in runs.csv) and nothing else.

        Beside I(x;z) it has the cap of its estimate.
        """
        capped = {"mutual_information": ["mutual_information", "mutual_information_cap"]}
        columns = [name for metric in metrics or self.metrics for name in capped.get(metric, [metric])]
        return aggregate(runs, self.conditions, columns)

    def config(self, **choice: Any) -> RunConfig:
        """Return the run of a choice, with the parameters and overrides that all runs of this experiment share."""
        names = type(self).model_fields.keys() & RunConfig.model_fields.keys()
        of_rows = {"objective", "alpha", "lambda_", "seed"}
        shared = self.model_dump(include=names - of_rows)
        for name in self.overrides:
            if name in {*shared, *choice, *of_rows}:
                raise ValueError(f"overrides must not hold {name!r}: the experiment sets it")
            if name not in RunConfig.model_fields:
                raise ValueError(unknown_name("field in overrides", name, RunConfig.model_fields))
        return RunConfig(**{**shared, **self.overrides, **choice})

    def model_post_init(self, context: Any) -> None:
        """Refuse a combination that no run could have, and lists whose product nobody waits for."""
        lengths = {name: len(value) for name, value in self if isinstance(value, tuple) and value}
        too_many = f"make more than {N_RUNS_MAX:,} runs: shorten a list"
        if math.prod(lengths.values()) > 10 * N_RUNS_MAX:  # some lists are added and not multiplied: an upper bound
            raise ValueError(f"{' x '.join(f'{length} {name}' for name, length in lengths.items())} {too_many}")
        wanted = self.wanted()
        if len(wanted) > N_RUNS_MAX:
            raise ValueError(f"these {len(wanted):,} choices {too_many}")
        for config, _ in wanted:
            limit = sources.facts(config.dataset).n_train
            if config.n_train > limit:
                given = f"for {config.dataset}, got {config.n_train}"
                raise ValueError(f"n_train must be at most {limit} {given}: give it too")


class ImageExperiment(Experiment):
    """An experiment on images, with one decoder and one size of the training set."""

    decoder: DecoderName = "pixelcnn"
    n_train: TrainingSize = Field(default_factory=all_training_images)


N_RUNS_MAX = 10_000
"""Of one experiment; the largest profile has some hundreds."""


def _injected_names(namespace: Mapping[str, Any]) -> list[str]:
    """Return the names set in the cell that papermill wrote, which starts with "# Parameters"; [] without one."""
    cells = [cell for cell in namespace.get("In", []) if cell.startswith("# Parameters\n")]
    statements = ast.parse(cells[-1]).body if cells else []
    targets = [target for statement in statements if isinstance(statement, ast.Assign) for target in statement.targets]
    return [target.id for target in targets if isinstance(target, ast.Name) and target.id != "output_folder"]


def experiment_class(name: str) -> type[Experiment]:
    """Return the experiment of that name; ParameterError names the closest one."""
    if name not in MODULES:
        raise ParameterError(unknown_name("experiment", name, MODULES))
    module = importlib.import_module(f"infovae.experiments.{name}")
    classes = [value for value in vars(module).values() if isinstance(value, type) and issubclass(value, Experiment)]
    return next(cls for cls in classes if cls.__module__ == module.__name__)


def make_experiment(name: str, parameters: Mapping[str, Any]) -> Experiment:
    """Return the validated experiment; every refusal is a ParameterError that says what is allowed."""
    return make(experiment_class(name), parameters)


E = TypeVar("E", bound=Experiment)


def make(cls: type[E], parameters: Mapping[str, Any]) -> E:
    """Return the validated experiment of a class; see `make_experiment`."""
    try:
        return cls.model_validate(parameters)
    except ValidationError as error:
        raise ParameterError(explain(error, cls)) from None


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

    `metric_ci95` is the interval's half-width, see `half_width`. A metric that is NaN in one of the finished runs, or
    that no run has, has no mean. `n_missing` counts the group's runs that have no result, since they failed or were not
    run, and `why_missing` says so of each: no average is over survivors without saying so.
    """
    by = [column for column in by if column in runs]
    rows = []
    for key, group in runs.groupby(by, sort=False, dropna=False):
        done = group[group["status"] == "done"]
        row: dict[str, Any] = dict(zip(by, key, strict=True))
        for metric in metrics:
            values = done[metric].astype(float) if metric in done else pd.Series(math.nan, done.index)
            mean = values.mean(skipna=False)
            row |= {metric: mean, f"{metric}_ci95": half_width(values) if mean == mean else math.nan}
        missing = group.loc[group["status"] != "done", "status"]
        why = "; ".join(dict.fromkeys(missing))
        rows.append({**row, "n_seeds": len(done), "n_missing": len(missing), "why_missing": why})
    return pd.DataFrame(rows)
