"""Many runs at once on dask.distributed: trains and evaluates what the store lacks, keeps each result as it arrives.

A run's result never depends on how many workers there are or where they stand. Workers need no file of the driver's:
data, weights and results travel over Dask's own connections, and only the driver writes to the store.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from infovae import worker
from infovae.config import (
    ClassifierConfig,
    Evaluation,
    LatentEvaluation,
    LikelihoodEvaluation,
    ParameterError,
    PixelConfig,
    PosteriorEvaluation,
    RunConfig,
    SampleEvaluation,
    SemiSupervisedEvaluation,
    shorten,
)
from infovae.store import Arrays, Store, run_id

if TYPE_CHECKING:
    from distributed import Client, Future

    from infovae.data import ImageData

log = logging.getLogger(__name__)


class Task(NamedTuple):
    """A run that somebody needs, and the evaluations of it that they need; what has a lower rank is done first."""

    config: RunConfig | PixelConfig
    evaluations: tuple[Evaluation, ...] = ()
    rank: int = 0


@dataclass
class Job:
    """One piece of work for one worker: train a classifier, train a model, or evaluate a model."""

    key: str
    label: str
    seconds: float
    rank: int
    function: Callable[..., Any]
    arguments: dict[str, Any]
    save: Callable[[Any], None]
    needs: dict[str, str] = field(default_factory=dict)  # argument name -> key of the job that produces it


class Failure(NamedTuple):
    """A job that did not come to its end, and why; `killed` if that was because its worker died."""

    label: str
    reason: str
    killed: bool = False


def sweep(
    tasks: Iterable[Task],
    store: Store | None = None,
    on_progress: Callable[[set[str]], None] | None = None,
) -> pd.DataFrame:
    """Train and evaluate whatever the store lacks, then return one row per task: configuration, metrics, seconds.

    Parameters
    ----------
    tasks : those of a lower rank are started first; of equals, the longest.
    on_progress : called with the keys of the jobs still to be done, at the start and after each job. The set is the
        sweep's own: it shrinks.

    Returns
    -------
    DataFrame
        As `collect` returns it. A run that failed has status "failed: <reason>" and no metrics; it is tried again by
        the next sweep.
    """
    from infovae.evaluation import require_labels

    store = store or Store()
    tasks = merge(tasks)
    for task in tasks:
        for evaluation in task.evaluations:
            require_labels(evaluation, task.config, load_data(task.config.dataset))
    jobs = plan(tasks, store)
    open_keys = set(jobs)
    report = on_progress or (lambda _: None)
    report(open_keys)
    failures: dict[str, Failure] = {}
    if jobs:
        failures = _execute(jobs, tasks, store, open_keys, report)
    return collect(tasks, store, failures)


def merge(tasks: Iterable[Task]) -> list[Task]:
    """Return the tasks with the evaluations of equal configurations united, in order of first appearance."""
    merged: dict[RunConfig | PixelConfig, Task] = {}
    for task in tasks:
        known = merged.get(task.config, task)
        evaluations = tuple(dict.fromkeys((*known.evaluations, *task.evaluations)))
        merged[task.config] = Task(task.config, evaluations, min(known.rank, task.rank))
    return list(merged.values())


def plan(tasks: list[Task], store: Store) -> dict[str, Job]:
    """Return the jobs that the store lacks, by key, each before those that need it."""
    jobs: dict[str, Job] = {}
    for config, evaluations, rank in tasks:
        identity = task_id(config)
        missing = [e for e in evaluations if store.load_evaluation(identity, e) is None]
        weights = store.load_weights(identity, config)
        if weights is None:
            missing = list(evaluations)  # numbers of a model that is gone are not those of the one trained next
            jobs |= {job.key: job for job in _train_jobs(identity, config, rank, store)}
        for evaluation in missing:
            job = _evaluate_job(identity, config, evaluation, rank, weights, store)
            if isinstance(evaluation, SampleEvaluation) and evaluation.classifier:
                _add_classifier(job, evaluation.classifier, jobs, store)
            jobs[job.key] = job
    return jobs


def collect(tasks: Iterable[Task], store: Store, failures: dict[str, Failure] | None = None) -> pd.DataFrame:
    """Return one row per task from the store: run_id, status, configuration, train_seconds, every metric."""
    rows = []
    for config, evaluations, _ in tasks:
        identity = task_id(config)
        record = store.load_run(identity, config)
        metrics = [store.load_evaluation(identity, e) for e in evaluations] if record else []
        reasons = dict.fromkeys(f.reason for key, f in (failures or {}).items() if identity in key)
        complete = record is not None and None not in metrics
        status = "done" if complete else f"failed: {'; '.join(reasons)}"
        row: dict[str, Any] = {"run_id": identity, "status": status}
        row |= config.model_dump(mode="json")
        if complete:
            row |= summarize_training(record)  # type: ignore[arg-type]
            for values in metrics:
                row |= values or {}
        rows.append(row)
    return pd.DataFrame(rows)


def summarize_training(record: dict[str, Any]) -> dict[str, float]:
    """Return what a run's history says of speed and stability.

    `squared_mmd_validation` is the last squared MMD on validation images, `squared_mmd_over_training` the mean of the
    squared MMD over the logged steps (slow divergences have a large one), `squared_mmd_jitter` the standard deviation
    of its steps in the second half over sqrt(2) (unstable ones have a large one; a smooth decline has none).
    """
    summary = {"train_seconds": record["train_seconds"]}
    if record["history"]:
        values = pd.Series([row.get("squared_mmd", math.nan) for row in record["history"]])
        summary["squared_mmd_validation"] = float(values.iloc[-1])
        summary["squared_mmd_over_training"] = float(values.mean())
        summary["squared_mmd_jitter"] = float(values[len(values) // 2 :].diff().std() / 2**0.5)
    return summary


def collect_history(tasks: Iterable[Task], store: Store | None = None) -> pd.DataFrame:
    """Return the logged steps of every finished task: run_id, step, loss and terms in nats, squared MMD, seconds."""
    store = store or Store()
    frames = []
    for config, *_ in tasks:
        record = store.load_run(task_id(config), config)
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


def task_id(config: RunConfig | PixelConfig | ClassifierConfig) -> str:
    """Return the identity of a configuration on its data set as it is on this machine."""
    return run_id(config, load_data(config.dataset).checksum)


@lru_cache(maxsize=3)
def load_data(name: str) -> ImageData:
    """Return a data set, read and verified once per process."""
    from infovae.data import load

    return load(name)


def describe(config: RunConfig | PixelConfig) -> str:
    """Return a run in a few words, for people who wait for it."""
    if isinstance(config, PixelConfig):
        return "pixels"
    details = {"scalar": f" floor={config.decoder_min_std:g}", "pixelcnn": f" radius={config.receptive_radius}"}
    weights = f"α={config.alpha:g} λ={config.lambda_:g}"
    detail = details.get(config.decoder, f" n={config.n_train}")
    return f"{config.objective} {weights} d={config.latent_dim}{detail} seed={config.seed}"


def _train_jobs(identity: str, config: RunConfig | PixelConfig, rank: int, store: Store) -> list[Job]:
    """Return the jobs that train a model, each going on where the one before, or a stored checkpoint, stopped."""
    key, label = f"train-{identity}", describe(config)
    arguments: dict[str, Any] = {"config": config, "dataset": config.dataset}

    def save_run(result: tuple[bytes, dict[str, Any]]) -> None:
        store.save_run(identity, config, *result)

    if isinstance(config, PixelConfig):
        return [Job(key, label, 0.1, rank, worker.train, arguments, save_run)]
    done, arguments["state"] = store.load_checkpoint(identity) or (0, None)
    per_step = _seconds_per_step(config)
    stride = max(1, round(checkpoint_seconds() / per_step))
    jobs: list[Job] = []
    while done < config.steps:
        until = done + stride if done + 1.5 * stride < config.steps else config.steps
        cost = per_step * (until - done)
        job = Job(key, label, cost, rank, worker.train, dict(arguments), save_run)
        if until < config.steps:
            job.key, job.function = f"{key}-{until}", worker.train_until
            job.arguments["until"], job.save = until, partial(store.save_checkpoint, identity, until)
        if jobs:
            job.arguments.pop("state")
            job.needs["state"] = jobs[-1].key
        jobs.append(job)
        done = until
    return jobs


def _seconds_per_step(config: RunConfig) -> float:
    """Return about how long a training step takes on one core: for the order of jobs and the progress bar."""
    per_image = {"pixelcnn": 0.75e-3, "conv": 0.4e-3, "dense": 0.2e-3, "scalar": 0.04e-3}
    return config.batch_size * per_image[config.decoder]


def checkpoint_seconds() -> float:
    """Return INFOVAE_CHECKPOINT_SECONDS, else 60: about how much of a run's training a killed process loses at most."""
    text = os.environ.get("INFOVAE_CHECKPOINT_SECONDS") or "60"
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise ValueError(f"INFOVAE_CHECKPOINT_SECONDS must be a positive number, got {text!r}")
    return seconds


_EVALUATION_SECONDS: dict[type[Evaluation], float] = {
    LatentEvaluation: 3,
    SampleEvaluation: 2,
    SemiSupervisedEvaluation: 7,
    PosteriorEvaluation: 1,
    LikelihoodEvaluation: 8,
}
"""About how long an evaluation of the quick profile takes on one core: for the order of jobs and the progress bar."""


def _evaluate_job(
    identity: str,
    config: RunConfig | PixelConfig,
    evaluation: Evaluation,
    rank: int,
    weights: bytes | None,
    store: Store,
) -> Job:
    job = Job(
        key=f"{type(evaluation).__name__}-{evaluation.fingerprint()}-{identity}",
        label=f"{type(evaluation).__name__} of {describe(config)}",
        seconds=_EVALUATION_SECONDS[type(evaluation)],
        rank=rank,
        function=worker.evaluate,
        arguments={"evaluation": evaluation, "config": config, "dataset": config.dataset, "training": weights},
        save=lambda result: store.save_evaluation(identity, evaluation, *result),
    )
    if weights is None:
        job.needs["training"] = f"train-{identity}"
    return job


def _add_classifier(job: Job, config: ClassifierConfig, jobs: dict[str, Job], store: Store) -> None:
    identity = task_id(config)
    weights = store.load_classifier(identity)
    job.arguments["classifier"] = weights
    if weights is None:
        key = f"classifier-{identity}"
        job.needs["classifier"] = key
        if key not in jobs:
            jobs[key] = Job(
                key=key,
                label=f"classifier of {config.dataset}",
                seconds=config.steps * config.batch_size * 0.3e-3,
                rank=job.rank,
                function=worker.train_classifier,
                arguments={"config": config, "dataset": config.dataset},
                save=lambda result: store.save_classifier(identity, result),
            )


def _execute(
    jobs: dict[str, Job], tasks: list[Task], store: Store, open_keys: set[str], report: Callable[[set[str]], None]
) -> dict[str, Failure]:
    """Run the jobs on a cluster, those that lost their worker a second time, and return the failures by key."""
    with connect(len(jobs)) as client:
        failures = _run(client, jobs, open_keys, report)
        _retry_alone(client, tasks, store, failures, open_keys, report)
    return failures


def _run(
    client: Client, jobs: dict[str, Job], open_keys: set[str], report: Callable[[set[str]], None], suffix: str = ""
) -> dict[str, Failure]:
    """Run the jobs, keep each result as it arrives, and return the failures by key.

    A job whose worker died stays among the open ones. Dask remembers by its key what failed: whoever tries a job again
    gives its key another suffix.
    """
    from distributed import as_completed
    from tqdm import tqdm

    failures: dict[str, Failure] = {}
    bar = tqdm(
        total=sum(job.seconds for job in jobs.values()) + 1e-3,  # rounding must not carry it past its end
        bar_format="{percentage:3.0f}% {bar:20} {elapsed} gone, {remaining} left | {desc}",
        file=sys.stderr,
        mininterval=1,
        smoothing=0,
    )
    with bar:
        state = _Progress(bar, jobs, suffix)
        client.subscribe_topic(worker.PROGRESS_TOPIC, state.update)
        futures = _submit(client, jobs, suffix)
        keys = {future: key for key, future in futures.items()}
        for future in as_completed(list(futures.values())):
            key = keys.pop(future)
            job = jobs[key]
            try:
                result = future.result()
            except Exception as error:  # whatever a job raises, or the loss of its worker
                failures[key] = _failure(job, error)
                log.error("%s failed: %s", job.label, failures[key].reason)
            else:
                job.save(result)
            if key not in failures or not failures[key].killed:
                open_keys.discard(key)
            state.finish(key)
            del futures[key]
            report(open_keys)
    return failures


def _retry_alone(
    client: Client,
    tasks: list[Task],
    store: Store,
    failures: dict[str, Failure],
    open_keys: set[str],
    report: Callable[[set[str]], None],
) -> None:
    """Run again, one task at a time, what failed because a worker died, and bring `failures` up to date.

    A worker that dies takes along what waits there for its turn, which is no fault of theirs.
    """
    killed = {key for key, failure in failures.items() if failure.killed}
    for task in tasks:
        identity = task_id(task.config)
        own = {key for key in killed if identity in key}
        if own:
            for key in own:
                del failures[key]
            log.info("%s: tried again, alone", describe(task.config))
            failures |= _run(client, plan([task], store), open_keys, report, suffix="-alone")
            open_keys -= own
            report(open_keys)


def _submit(client: Client, jobs: dict[str, Job], suffix: str) -> dict[str, Future]:
    """Submit every job; those of a lower rank go first, of equals the longest."""
    names = {job.arguments["dataset"] for job in jobs.values()}
    data = {name: _share(client, name) for name in names}
    futures: dict[str, Future] = {}
    pending = dict(jobs)
    while pending:  # a job goes out once those it needs have: futures can then be its arguments
        for key, job in list(pending.items()):
            if all(need in futures for need in job.needs.values()):
                arguments = {**job.arguments, **{name: futures[need] for name, need in job.needs.items()}}
                arguments["data"] = data[arguments.pop("dataset")]
                priority = job.seconds - 1e6 * job.rank
                futures[key] = client.submit(
                    job.function, **arguments, key=key + suffix, priority=priority, pure=False, retries=0
                )
                del pending[key]
    return futures


def _share(client: Client, name: str) -> Future:
    """Give every worker a data set: as the result of a task, so that it outlives the workers that hold it."""
    import dask

    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "10GB"}):
        future = client.submit(worker.keep, load_data(name), pure=False, priority=1e9)
    client.replicate([future])
    return future


class _Progress:
    """One bar over all jobs, in expected seconds; between a job's start and end, its share of logged steps counts."""

    def __init__(self, bar: Any, jobs: dict[str, Job], suffix: str) -> None:
        self.bar, self.jobs, self.n_jobs, self.suffix = bar, jobs, len(jobs), suffix
        self.shares: dict[str, float] = {}
        self.running: dict[str, str] = {}
        self.n_done = 0

    def update(self, event: tuple[float, dict[str, Any]]) -> None:
        """Take one message of a worker: how far a job is, and its loss."""
        _, message = event
        key = message["key"].removesuffix(self.suffix)
        if key not in self.jobs:
            return
        if not self.shares:
            self.bar.reset()  # what is left is estimated from work, not from the start of the workers
        self.running[key] = f"{self.jobs[key].label}: {message['loss']:.1f} nats at step {message['step']}"
        self._advance(key, message["share"])

    def finish(self, key: str) -> None:
        """Count a job as done."""
        self.n_done += 1
        self._advance(key, 1.0)
        self.running.pop(key, None)
        self.jobs.pop(key, None)

    def _advance(self, key: str, share: float) -> None:
        self.bar.update(self.jobs[key].seconds * max(0.0, share - self.shares.get(key, 0)))
        self.shares[key] = share
        latest = list(self.running.values())[-2:]
        text = f"{self.n_done} of {self.n_jobs} jobs done; " + "; ".join(latest)
        self.bar.set_description_str(text, refresh=False)  # the bar itself decides how often it is drawn


@contextmanager
def connect(n_jobs: int) -> Iterator[Client]:
    """Connect to the cluster that DASK_SCHEDULER_ADDRESS names, else start one on this machine's loopback.

    The local one has one single-threaded worker per core, or per GPU where there are some; INFOVAE_WORKERS overrides
    the number.
    """
    import dask
    from distributed import Client, LocalCluster

    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    if address:
        _require_scheduler(address)
        with Client(address, timeout="20s") as client:
            yield client
        return
    settings = {
        "distributed.scheduler.active-memory-manager.start": False,
        "distributed.scheduler.allowed-failures": 1,  # times more a job may lose its worker, before it is tried alone
        # Dask's own settings hand every freed tensor back to the system: training took 2.2 times as long
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**30,
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
        "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": 1,
    }
    logging.getLogger("distributed").setLevel(logging.ERROR)  # its notes on dashboards and stale locks help nobody here
    n_workers = max(1, min(count_workers(), n_jobs))
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=n_workers, threads_per_worker=1, processes=True, host="127.0.0.1",
            dashboard_address="127.0.0.1:0",  # any free port, so that one in use is no matter
            silence_logs=logging.ERROR,
        ) as cluster,
        Client(cluster) as client,
    ):  # fmt: skip
        try:
            yield client
        except KeyboardInterrupt:
            logging.getLogger("distributed").setLevel(
                logging.CRITICAL + 1
            )  # every job that is given up has a traceback
            raise


def _require_scheduler(address: str) -> None:
    """Raise RuntimeError unless a scheduler answers within seconds: Dask's client waits for a mute one for ever."""
    from distributed.comm import connect as reach

    async def greet() -> None:
        (await asyncio.wait_for(reach(address, timeout=3), timeout=3.5)).abort()

    try:
        with ThreadPoolExecutor(1) as thread:  # a notebook's kernel runs an event loop of its own in this one
            thread.submit(lambda: asyncio.run(greet())).result()
    except (OSError, ValueError) as error:
        reason = str(error) or "connected, but no answer"
        raise RuntimeError(f"no scheduler answers at DASK_SCHEDULER_ADDRESS={shorten(address)}: {reason}") from error


def count_workers() -> int:
    """Return INFOVAE_WORKERS, else the number of GPUs, else of cores."""
    wanted = os.environ.get("INFOVAE_WORKERS", "")
    if wanted:
        if not (wanted.isdecimal() and len(wanted) <= 4 and 1 <= int(wanted) <= 1024):
            raise ParameterError(f"INFOVAE_WORKERS must be a whole number from 1 to 1024, got {shorten(wanted)}")
        return int(wanted)
    if os.environ.get("INFOVAE_DEVICE", "") != "cpu":
        import torch

        if torch.cuda.is_available():
            return torch.cuda.device_count()
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _failure(job: Job, error: Exception) -> Failure:
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):  # its own text names ports, which no two sweeps share
        return Failure(job.label, "its worker was killed: out of memory?", killed=True)
    return Failure(job.label, f"{type(error).__name__}: {error}")
