"""Which trained models a folder holds, and which of them a selection of settings means. Reads no weights.

A folder is the results of a profile or of an experiment, or a store; see `infovae.runs.store` for what lies in them.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from infovae.config import RunConfig
from infovae.data.sources import dataset_name
from infovae.paths import PROJECT_ROOT, results_root
from infovae.refusals import ParameterError, shorten, unknown_name
from infovae.runs.store import Store

log = logging.getLogger(__name__)

ELSEWHERE = (
    "Published with weights are some models of seed 0 alone, in results/laptop; INFOVAE_PUBLISHED=0 `make reproduce` "
    "trains all of a profile anew."
)
"""What to do where the weights of a run are not here."""

PREFERRED = ("divergence_comparison", "family")
"""Experiments in the order in which their runs are meant where several match a selection."""


class Found(NamedTuple):
    """A run in a folder: its settings as its record has them, and where record and weights lie."""

    run_id: str
    config: dict[str, Any]
    record: Path
    place: str  # what the record is sealed for, see `store.read_record`
    weights: Path


def choose(folder: str | Path, **selection: Any) -> Found:
    """Return the one run of a folder that a selection means: of several, the one of the first in `PREFERRED`.

    Raises
    ------
    ParameterError
        When there is none, or more than one: what there is.
    """
    found = by_experiment(folder, find(folder, **selection))[0]
    if len(found) > 1:
        raise ParameterError(
            f"{len(found)} models in {folder} are {_words(selection)}: name more. {_differences(found)}"
        )
    return found[0]


def by_experiment(folder: str | Path, found: list[Found]) -> list[list[Found]]:
    """Return runs of a folder in groups, none empty: those of each experiment in `PREFERRED`, then the others."""
    groups, left = [], list(found)
    for experiment in PREFERRED:
        ids = set(_ids(_folder(folder) / experiment))
        groups.append([run for run in left if run.run_id in ids])
        left = [run for run in left if run.run_id not in ids]
    return [group for group in (*groups, left) if group]


def find(folder: str | Path, **selection: Any) -> list[Found]:
    """Return the runs of a folder whose weights are on this machine and whose settings are those of the selection.

    Raises
    ------
    ParameterError
        When there is none: what there is.
    """
    for name in selection:
        if name not in RunConfig.model_fields:
            raise ParameterError(unknown_name("setting", name, RunConfig.model_fields))
    if "dataset" in selection:
        selection["dataset"] = dataset_name(str(selection["dataset"]))
    runs = list(_runs(_folder(folder)))
    here = [run for run in runs if run.weights.is_file()]
    if not here:
        raise ParameterError(f"{folder} holds {len(runs)} runs and no weights of any. {ELSEWHERE}")

    def matching(among: list[Found]) -> list[Found]:
        return [run for run in among if all(run.config.get(name) == value for name, value in selection.items())]

    if not (found := matching(here)):
        n = len(matching(runs))
        lacking = f" The weights of {n} that are so are not on this machine. {ELSEWHERE}" * (n > 0)
        raise ParameterError(f"no model in {folder} is {_words(selection)}.{lacking} {_differences(here, *selection)}")
    return found


def _folder(folder: str | Path) -> Path:
    """Return a folder as it is, or as it is called among the results, from wherever one works."""
    results = None
    with contextlib.suppress(ParameterError):
        results = results_root()
    given = Path(folder).expanduser()
    candidates = [given, *([results / given, results.parent / given] if results else []), PROJECT_ROOT / given]
    found = [path for path in candidates if path.is_dir()]
    if not found:
        there = sorted(path.name for path in results.iterdir() if path.is_dir()) if results and results.is_dir() else []
        raise ParameterError(f"there is no folder {folder}; results are there of: {', '.join(there) or 'nothing'}")
    return found[0].absolute()


def _runs(folder: Path) -> Iterator[Found]:
    """Yield every run that a folder holds or names, with the first of its weights that are there."""
    roots = [folder, folder.parent]
    with contextlib.suppress(ParameterError):
        roots.append(Store().root)
    kept = [path.stem for path in sorted(folder.glob("runs/*.json"))]
    kept += [path.parent.name for path in sorted(folder.glob("runs/*/record.json"))]
    named = [run_id for path in [folder, *sorted(folder.glob("*"))] for run_id in _ids(path)]
    for run_id in dict.fromkeys([*kept, *named]):
        places = []
        for root in roots:
            runs, weights = root / "runs", root / "weights" / f"{run_id}.safetensors"
            places.append((runs / f"{run_id}.json", f"{run_id}/published", weights))
            places.append((runs / run_id / "record.json", run_id, runs / run_id / "model.safetensors"))
        places = [place for place in places if place[0].is_file()]
        for record, place, weights in sorted(places, key=lambda place: not place[2].is_file())[:1]:
            try:
                config = dict(json.loads(record.read_bytes())["config"])
            except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
                log.warning("%s cannot be read (%s): leaving it out", record, type(error).__name__)
                continue
            if "decoder" in config:  # the pixel baseline has no model
                yield Found(run_id, config, record, place, weights)


def _ids(folder: Path) -> list[str]:
    """Return the ids in an experiment's runs.csv; none if it has none."""
    path = folder / "runs.csv"
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row["run_id"] for row in csv.DictReader(file) if row.get("run_id")]


def _words(selection: dict[str, Any]) -> str:
    return ", ".join(f"{name}={shorten(value)}" for name, value in selection.items()) or "meant"


def _differences(runs: list[Found], *selected: str) -> str:
    """Say in which settings runs differ, and which values there are; those that were selected by stand first."""
    values = {
        name: sorted({repr(run.config.get(name)) for run in runs}) for name in (*selected, *RunConfig.model_fields)
    }
    varying = [f"{name}: {', '.join(found)}" for name, found in values.items() if len(found) > 1 or name in selected]
    if not varying:
        varying = [f"{name}: {', '.join(values[name])}" for name in ("objective", "latent_dim", "seed")]
    return "\n  ".join([f"There are {len(runs)}, with", *varying])
