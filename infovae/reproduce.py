"""From a profile to published results: train the union of all runs once, publish each notebook as soon as it can be."""

from __future__ import annotations

import logging
import platform
import re
import time
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infovae import __version__
from infovae.config import PixelConfig, RunConfig
from infovae.experiments import HEADLINE_DIM, MODULES, Experiment, make_experiment, parse_value
from infovae.paths import PROJECT_ROOT, results_root, write_atomically
from infovae.refusals import ParameterError, shorten, unknown_name

if TYPE_CHECKING:
    import pandas as pd

    from infovae.publishing.verify import Comparison

log = logging.getLogger(__name__)

PROFILES = PROJECT_ROOT / "notebooks" / "profiles"
ENVIRONMENT = "environment.json"
RECORDED_PACKAGES = ("torch", "numpy", "scipy", "scikit-learn", "pandas", "distributed", "papermill")
PUBLISHED_WEIGHTS = {"smoke": (2, 10), "laptop": (2, 10)}
"""Of which profiles, and in which latent dimensions, the comparison's models of seed 0 are published: 1.7 MB each."""


def profile_names() -> list[str]:
    """Return the profiles that exist, from the smallest budget to the largest."""
    order = ["smoke", "quick", "laptop", "fashion", "paper"]
    return sorted((path.stem for path in PROFILES.glob("*.toml")), key=lambda n: order.index(n) if n in order else 9)


def load_profile(name: str) -> dict[str, Experiment]:
    """Return the validated experiments of a profile, by name, in the order of the notebooks.

    Raises
    ------
    ParameterError
        For an unknown profile, a malformed file, an unknown experiment or a refused parameter.
    """
    if name not in profile_names():
        raise ParameterError(unknown_name("profile", name, profile_names()))
    path = PROFILES / f"{name}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ParameterError(f"profile {path.name} is not readable TOML: {error}") from error
    if not content or not all(isinstance(value, dict) for value in content.values()):
        raise ParameterError(f"profile {path.name} must hold a table of parameters, [NAME], for each experiment")
    unknown = [experiment for experiment in content if experiment not in MODULES]
    if unknown:
        raise ParameterError(f"profile {path.name}: {unknown_name('experiment', str(unknown[0]), MODULES)}")
    experiments = {}
    for experiment in [experiment for experiment in MODULES if experiment in content]:
        try:
            experiments[experiment] = make_experiment(experiment, content[experiment])
        except ParameterError as error:
            raise ParameterError(f"profile {path.name}, {experiment}: {error}") from error
    return experiments


def reproduce(profile: str, folder: Path) -> list[str]:
    """Reproduce every experiment of a profile into `folder`; return what went wrong, one line each.

    Runs that the store holds, or that are published, are not trained again; with INFOVAE_TRAIN=0 none is trained, what
    lacks is said, and an experiment without any run is not published. Each notebook is published when its runs are
    there; the runs themselves and the report are last.
    """
    from infovae.publishing.notebooks import (
        environment,
        execute_experiment,
        execute_further,
        execute_report,
        hold,
        noting,
        withdraw,
    )
    from infovae.runs.store import Store
    from infovae.runs.sweep import collect, merge, plan, publish_runs, sweep, task_id, trains

    experiments = load_profile(profile)
    require_settings(experiments.values())
    with hold(folder):
        store = Store()
        start = time.perf_counter()
        wanted = {name: experiment.tasks() for name, experiment in experiments.items()}
        needed = {name: set(plan(merge(tasks), store)) for name, tasks in wanted.items()}
        problems: list[str] = []

        def publish_ready(open_jobs: set[str]) -> None:
            for name in [name for name, jobs in needed.items() if jobs.isdisjoint(open_jobs)]:
                del needed[name]
                if trains() or (collect(wanted[name], store)["status"] == "done").any():
                    with noting(problems), environment({"INFOVAE_TRAIN": "0"}):  # what failed is not tried again there
                        notebook = execute_experiment(experiments[name], folder / name)
                        log.info("%s: %s (after %.0f s)", name, display(notebook), time.perf_counter() - start)
                else:  # a page of empty figures would say nothing
                    withdraw(folder / name)

        # by experiment, so that the first notebook can be read while the others still train
        tasks = [task._replace(rank=i) for i, found in enumerate(wanted.values()) for task in found]
        for name in set(MODULES) - set(experiments):  # published when the profile still had it
            withdraw(folder / name)
        runs = sweep(tasks, store, publish_ready)
        problems += describe_failures(runs)
        publish_runs(tasks, store, folder, _whose_weights(profile, experiments))
        dataset = next((e.dataset for e in experiments.values() if e.dataset != "two_points"), "digits")
        problems += execute_further(profile, folder, dataset)
        if not (folder / ENVIRONMENT).exists() or any(store.holds(task_id(task.config)) for task in tasks):
            write_environment(folder)  # else all was trained elsewhere
        with noting(problems):
            execute_report(profile, folder)
        return problems


def train(profile: str) -> list[str]:
    """Train and evaluate a profile's runs and publish nothing; return what went wrong, one line each.

    The most valuable runs come first, so that what is done when it is stopped can be published: see `_value`.
    """
    from infovae.runs.sweep import sweep

    experiments = load_profile(profile)
    require_settings(experiments.values())
    tasks = [task for experiment in experiments.values() for task in experiment.tasks()]
    return describe_failures(sweep([task._replace(rank=_value(task.config)) for task in tasks]))


def _value(config: RunConfig | PixelConfig) -> int:
    """Return a run's place: the toy's take seconds; then, seed by seed, the headline's dimension, 2 and 40, others."""
    if getattr(config, "decoder", "") == "scalar":
        return config.seed
    dims = (HEADLINE_DIM, 2, 40, 5, 20)
    dim = getattr(config, "latent_dim", HEADLINE_DIM)
    return config.seed + (10 + 10 * dims.index(dim) if dim in dims else 100)


def _whose_weights(profile: str, experiments: dict[str, Experiment]) -> set[RunConfig | PixelConfig]:
    """Return the runs whose weights are published: see `PUBLISHED_WEIGHTS`."""
    comparison = experiments.get("divergence_comparison")
    configs = {task.config for task in comparison.grid()} if comparison else set()
    dims = PUBLISHED_WEIGHTS.get(profile, ())
    return {c for c in configs if isinstance(c, RunConfig) and c.seed == 0 and c.latent_dim in dims}


def report(profile: str, folder: Path) -> None:
    """Execute the report's notebook and write tables, claims and pages, all from what is published.

    Raises
    ------
    ParameterError
        When the folder holds no results, or damaged ones.
    NotebookError
        When the notebook failed.
    """
    from infovae.publishing.notebooks import execute_report, hold
    from infovae.publishing.report import require_published

    require_published(profile, folder)  # refuse before a kernel starts
    with hold(folder):
        execute_report(profile, folder)


def verify(profile: str) -> tuple[list[Comparison], list[str]]:
    """Reproduce a profile from an empty store, in a folder of its own, and compare it with the committed results.

    The folder lies in the user's store, so that what was stopped goes on. It is removed where all went well and agrees.

    Returns
    -------
    One comparison per condition, and what went wrong on the way, one line each.
    """
    import shutil

    from infovae.publishing.notebooks import environment
    from infovae.publishing.verify import compare
    from infovae.runs.store import Store

    committed = results_root() / profile
    if not (committed / "claims.csv").is_file():
        raise ParameterError(f"{committed} holds no results to compare with: run `make reproduce PROFILE={profile}`")
    folder = Store().root / "verify" / profile
    reproduced = folder / "results" / profile
    with environment({"INFOVAE_STORE": f"{folder}/store", "INFOVAE_RESULTS": f"{folder}/results"}):
        problems = reproduce(profile, reproduced)
    compared = compare(committed, reproduced)
    if not problems and all(comparison.outcome != "different" for comparison in compared):
        shutil.rmtree(folder)
        return compared, []
    return compared, [*problems, f"what was trained stays in {folder}: delete it to begin anew"]


def run_experiment(name: str, parameters: dict[str, Any], folder: Path) -> tuple[Path, list[str]]:
    """Run one experiment with new parameters into `folder`; return its executed notebook and what went wrong."""
    from infovae.publishing.notebooks import environment, execute_experiment, hold
    from infovae.runs.sweep import sweep

    experiment = make_experiment(name, parameters)
    require_settings([experiment])
    with hold(folder):
        runs = sweep(experiment.tasks())
        with environment({"INFOVAE_TRAIN": "0"}):
            return execute_experiment(experiment, folder), describe_failures(runs)


def describe_failures(runs: pd.DataFrame) -> list[str]:
    """Return one line for each run that failed, and one for all that were not run."""
    failed = runs[runs["status"].str.startswith("failed")]
    lines = [f"run {run.run_id} ({getattr(run, 'objective', 'pixels')}) {run.status}" for run in failed.itertuples()]
    n_lacking = int((runs["status"] == "not run").sum())
    return lines + [f"{n_lacking} of {len(runs)} runs are not trained yet"] * (n_lacking > 0)


def require_settings(experiments: Iterable[Experiment]) -> None:
    """Refuse now what would fail after hours of training.

    Raises
    ------
    NotebookError
        When a source notebook cannot be read.
    ParameterError
        When an environment variable that names a device, a number or a choice cannot be used.
    WriteError
        When the store cannot be written.
    """
    from infovae.publishing.notebooks import FURTHER, make_folder, require_source
    from infovae.runs.cluster import count_workers
    from infovae.runs.store import Store
    from infovae.runs.sweep import checkpoint_seconds, trains
    from infovae.training import choose_device, compiles

    for read in (choose_device, compiles, count_workers, checkpoint_seconds, trains):
        read()
    for notebook in (*(experiment.notebook for experiment in experiments), *FURTHER):
        require_source(notebook)
    make_folder(Store().root, "INFOVAE_STORE")


def write_environment(folder: Path) -> None:
    """Write environment.json: the versions and the kind of machine that the results were made with."""
    from infovae.runs.store import to_json
    from infovae.training import choose_device

    facts = {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "device": choose_device().type,
        "packages": {name: metadata.version(name) for name in RECORDED_PACKAGES},
        "infovae": __version__,
    }
    write_atomically(folder / ENVIRONMENT, to_json(facts) + b"\n")


def display(path: Path) -> str:
    """Return a path as short as it can be written from the current folder."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def parse_assignments(texts: list[str]) -> dict[str, Any]:
    """Return NAME=VALUE pairs as a dictionary; several may stand in one text, separated by spaces.

    A value is JSON where it can be read so (`[10]`, `1e-3`, `true`, `"mmd"`), else the text itself; a list may hold
    bare words (`[mmd, elbo]`).

    Raises
    ------
    ParameterError
        For a text that is no NAME=VALUE, or a name given twice.
    """
    parameters: dict[str, Any] = {}
    for text in texts:
        for piece in re.split(r"\s+(?=[A-Za-z_]\w*=)", text.strip()):
            name, equals, value = piece.partition("=")
            if not piece:
                continue
            if not equals or not name.isidentifier():
                raise ParameterError(f"parameters are given as NAME=VALUE, such as seeds=[0], got {shorten(piece)}")
            if value.endswith(","):
                raise ParameterError(f"parameters are separated by spaces, not by commas, got {shorten(piece)}")
            if name in parameters:
                raise ParameterError(f"parameter {shorten(name)} is given twice")
            parameters[name] = parse_value(value)
    return parameters
