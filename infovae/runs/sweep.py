"""Many runs at once on dask.distributed: trains and evaluates what the store lacks, keeps each result as it arrives.

One job per run: a worker trains a model, then makes all its evaluations. A run's result never depends on how many
workers there are or where they stand. Workers need no file of the driver's: data, weights and results travel over
Dask's own connections, and only the driver writes to the store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Iterable
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from infovae.config import ClassifierConfig, Evaluation, PixelConfig, RunConfig, SampleEvaluation
from infovae.refusals import ParameterError, flag, shorten
from infovae.runs import worker
from infovae.runs.cluster import Job, execute
from infovae.runs.store import Arrays, Store, unpublish

if TYPE_CHECKING:
    from infovae.data.datasets import ImageData


class Task(NamedTuple):
    """A run that somebody needs, and the evaluations of it that they need; without any, its weights.

    What has a lower rank is done first.
    """

    config: RunConfig | PixelConfig
    evaluations: tuple[Evaluation, ...] = ()
    rank: int = 0


def sweep(
    tasks: Iterable[Task],
    store: Store | None = None,
    on_progress: Callable[[set[str]], None] = lambda _: None,
) -> pd.DataFrame:
    """Train and evaluate whatever store and published runs lack, unless INFOVAE_TRAIN=0; return one row per task.

    Parameters
    ----------
    tasks : those of a lower rank are started first; of equals, the longest.
    on_progress : called with the ids of the runs still to be done, at the start and after each. The set is the sweep's
        own: it shrinks.

    Returns
    -------
    DataFrame
        As `collect` returns it. A run that failed has status "failed: <reason>" and no metrics; it is tried again by
        the next sweep that trains.
    """
    from infovae.evaluation import require_labels

    store = store or Store()
    tasks = merge(tasks)
    for task in tasks:
        for evaluation in task.evaluations:
            require_labels(evaluation, task.config, load_data(task.config.dataset))
    jobs = plan(tasks, store) if trains() else {}
    if jobs:
        execute(jobs, load_data, on_progress, store.save_failure)
    else:
        on_progress(set())
    return collect(tasks, store)


def trains() -> bool:
    """Return whether runs that lack are trained: yes, unless INFOVAE_TRAIN=0."""
    return flag("INFOVAE_TRAIN", default=True)


def merge(tasks: Iterable[Task]) -> list[Task]:
    """Return the tasks with the evaluations of equal configurations united, in order of first appearance."""
    merged: dict[RunConfig | PixelConfig, Task] = {}
    for task in tasks:
        known = merged.get(task.config, task)
        evaluations = tuple(dict.fromkeys((*known.evaluations, *task.evaluations)))
        merged[task.config] = Task(task.config, evaluations, min(known.rank, task.rank))
    return list(merged.values())


def plan(tasks: Iterable[Task], store: Store) -> dict[str, Job]:
    """Return what the store lacks: a job for each run, by its id, and one for each classifier that they need."""
    jobs: dict[str, Job] = {}
    for task in tasks:
        identity = task_id(task.config)
        weights, evaluations = _lacking(identity, task, store)
        if weights is not None and not evaluations:
            continue
        needs: dict[Evaluation, str] = {}
        for evaluation in evaluations:
            if isinstance(evaluation, SampleEvaluation) and evaluation.classifier:
                needs[evaluation] = key = task_id(evaluation.classifier)
                if key not in jobs and store.load_weights(key) is None:
                    jobs[key] = _classifier_job(key, evaluation.classifier, store)
        jobs[identity] = _run_job(identity, task, store, needs, weights is None, len(evaluations))
    return jobs


def _lacking(identity: str, task: Task, store: Store) -> tuple[bytes | None, list[Evaluation]]:
    """Return the weights of a run, None if it must be trained, and the evaluations that it lacks.

    Weights are asked for where an evaluation lacks, or nothing but they are wanted; else they count as there. Numbers
    of a model that is gone are not those of the one that is trained next: then every evaluation is made again.
    """
    missing = [e for e in task.evaluations if store.load_evaluation(identity, e) is None]
    if task.evaluations and not missing:
        return b"", []
    weights = store.load_weights(identity)
    return weights, missing if weights is not None else list(task.evaluations)


def _run_job(
    identity: str, task: Task, store: Store, needs: dict[Evaluation, str], lacks_weights: bool, n_evaluations: int
) -> Job:
    config = task.config
    per_image = seconds_per_image(config)
    training = per_image * config.steps * config.batch_size if lacks_weights and isinstance(config, RunConfig) else 0.0
    seconds = training + per_image * EVALUATION_IMAGES * n_evaluations

    def prepare() -> dict[str, Any]:
        """Look again what lacks: when a job is done a second time, part of it is there."""
        weights, evaluations = _lacking(identity, task, store)
        return {
            "config": config,
            "evaluations": [(e, store.load_weights(needs[e]) if e in needs else None) for e in evaluations],
            "weights": weights,
            "state": store.load_checkpoint(identity) if weights is None else None,
            "checkpoint_seconds": checkpoint_seconds(),
        }

    return Job(
        key=identity, label=describe(config), rank=task.rank, seconds=seconds,
        step_seconds=training / getattr(config, "steps", 1), needs=set(needs.values()), dataset=config.dataset,
        function=worker.do_run, prepare=prepare, keep=partial(_keep, store, identity, config),
    )  # fmt: skip


def _classifier_job(key: str, config: ClassifierConfig, store: Store) -> Job:
    step_seconds = config.batch_size * 0.3e-3
    return Job(
        key=key, label=f"the classifier that judges samples of {config.dataset}", rank=-1,
        seconds=step_seconds * config.steps, step_seconds=step_seconds, needs=set(), dataset=config.dataset,
        function=worker.do_classifier, prepare=lambda: {"config": config}, keep=partial(_keep, store, key, config),
    )  # fmt: skip


def _keep(
    store: Store, identity: str, config: RunConfig | PixelConfig | ClassifierConfig, parcels: worker.Parcels
) -> list[str]:
    """Keep what a job has made; return why parts of it failed."""
    reasons = []
    for name, parcel in parcels.items():
        if name == "checkpoint":
            store.save_checkpoint(identity, *parcel)
        elif name == "unusable":
            store.drop_checkpoint(identity, parcel)
        elif name == "run":
            store.save_run(identity, config, *parcel)
        elif isinstance(name, str):
            raise ValueError(f"a parcel of an unknown kind: {name}")
        elif isinstance(parcel, str):
            reasons.append(parcel)
            store.save_failure(identity, parcel, name)
        else:
            store.save_evaluation(identity, name, *parcel)
    return reasons


EVALUATION_IMAGES = 5000
"""How many images of training an evaluation takes as long as, about."""


def seconds_per_image(config: RunConfig | PixelConfig) -> float:
    """Return about how long training takes per image on one core: for the order of jobs and the progress bar.

    Measured: 12 ps per multiplication, forwards and backwards, in float32, and 0.4 ms for whatever is none.
    """
    if isinstance(config, PixelConfig) or config.decoder == "scalar":
        return 0.04e-3
    c, layers = config.pixelcnn_channels, config.pixelcnn_layers
    reach = config.receptive_radius - layers
    per_pixel = {
        "pixelcnn": c * (2 * reach + 2) * reach + (8 * layers + 1) * c * c,  # its windows, see pixelcnn.PixelCNN
        "gated_pixelcnn": 21 * layers * c * c,
    }
    multiplications = 3 * (2500 * config.encoder_width**2 + 784 * per_pixel.get(config.decoder, 0))
    return 0.4e-3 + 12e-12 * multiplications / (1 if config.precision == "float32" else 2)


def checkpoint_seconds() -> float:
    """Return INFOVAE_CHECKPOINT_SECONDS, else 60: about how much of a run's training a killed process loses at most."""
    text = os.environ.get("INFOVAE_CHECKPOINT_SECONDS") or "60"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise ParameterError(f"INFOVAE_CHECKPOINT_SECONDS must be a positive number, got {shorten(text)}")
    return seconds


def collect(tasks: Iterable[Task], store: Store) -> pd.DataFrame:
    """Return one row per task from the store: run_id, status, configuration, train_seconds, every metric.

    `trained_precision` is what `precision` came to on the machine that trained the run. The status is "done",
    "failed: <reason>" or "not run".
    """
    rows = []
    for config, evaluations, _ in tasks:
        identity = task_id(config)
        record = store.load_run(identity)
        metrics = [store.load_evaluation(identity, e) for e in evaluations] if record else []
        row: dict[str, Any] = {"run_id": identity, "status": "done", **config.model_dump(mode="json")}
        if record is not None and None not in metrics:
            row |= {"train_seconds": record["train_seconds"], "trained_precision": record["precision"]}
            for values in metrics:
                row |= values or {}
        else:
            lacking = [None] if record is None else [e for e, m in zip(evaluations, metrics, strict=True) if m is None]
            reasons = (store.load_failure(identity, part) for part in lacking)
            reason = "; ".join(dict.fromkeys(filter(None, reasons)))
            row["status"] = f"failed: {reason}" if reason else "not run"
        rows.append(row)
    return pd.DataFrame(rows)


def collect_history(tasks: Iterable[Task], store: Store | None = None) -> pd.DataFrame:
    """Return the logged steps of every finished task: run_id, step, loss and terms in nats, squared MMD, seconds."""
    store = store or Store()
    frames = []
    for config, *_ in tasks:
        record = store.load_run(task_id(config))
        if record:
            frames.append(pd.DataFrame(record["history"]).assign(run_id=task_id(config)))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def load_arrays(tasks: Iterable[Task], kind: type[Evaluation], store: Store | None = None) -> list[Arrays]:
    """Return, per task, the arrays that its evaluation of this kind kept for the figures; empty if it has none."""
    store = store or Store()
    found = []
    for config, evaluations, _ in tasks:
        kept: Arrays = {}
        for evaluation in evaluations:
            if isinstance(evaluation, kind):
                kept = store.load_arrays(task_id(config), evaluation)
        found.append(kept)
    return found


def publish_runs(
    tasks: Iterable[Task], store: Store, folder: Path, with_weights: Container[RunConfig | PixelConfig] = ()
) -> int:
    """Write the tasks that are complete into a results folder, in place of the runs published there before.

    A run that was published there stays as it is while it is among the tasks, even if the store has lost part of it;
    whatever is not a published run is left alone. Of the runs in `with_weights` the weights are published too. Return
    how many runs were written.
    """
    tasks = merge(tasks)
    unpublish(folder, keep={task_id(task.config) for task in tasks})
    return sum(
        store.publish(task_id(config), evaluations, folder, config in with_weights) for config, evaluations, _ in tasks
    )


def task_id(config: RunConfig | PixelConfig | ClassifierConfig) -> str:
    """Return the identity of a configuration on its data set as it is on this machine."""
    return config.fingerprint(load_data(config.dataset).checksum)


@lru_cache(maxsize=3)
def load_data(name: str) -> ImageData:
    """Return a data set, read and verified once per process."""
    from infovae.data.datasets import load

    return load(name)


def describe(config: RunConfig | PixelConfig) -> str:
    """Return a run in a few words, for people who wait for it."""
    if isinstance(config, PixelConfig):
        return "pixels"
    details = {"scalar": f" floor={config.decoder_min_std:g}", "pixelcnn": f" radius={config.receptive_radius}"}
    weights = f"α={config.alpha:g} λ={config.lambda_:g}"
    detail = details.get(config.decoder, f" n={config.n_train}")
    return f"{config.objective} {weights} d={config.latent_dim}{detail} seed={config.seed}"
