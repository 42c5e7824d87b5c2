"""What a worker of a sweep does: train a model and evaluate it, or train a classifier. Knows nothing of the store.

Arguments and results travel over Dask's connections. What is finished on the way, a checkpoint, a trained model, an
evaluation, waits here as a parcel until the driver, told by an event, takes it: Dask's scheduler keeps events.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from infovae.config import ClassifierConfig, Evaluation, PixelConfig, RunConfig

if TYPE_CHECKING:
    import torch
    from distributed import Worker

    from infovae.data.datasets import ImageData
    from infovae.training import Training

log = logging.getLogger(__name__)

TOPIC = "infovae"
"""Of the events that say how far a job is, and that it has a parcel."""

Parcels = dict[str | Evaluation, Any]
"""What a job has made: `checkpoint` (steps, state), `unusable` (SHA-256 of a state that it could not go on from), `run`
(weights and record of a model or a classifier) and, of each evaluation, metrics and arrays, or why it failed."""

_parcels: dict[str, Parcels] = {}
_lock = threading.Lock()


class Abandoned(RuntimeError):
    """A job that nobody waits for any more."""


def take(job: str) -> Parcels:
    """Return what a job has made since this was last called."""
    with _lock:
        return _parcels.pop(job, {})


def keep(data: ImageData) -> ImageData:
    """Return a data set as it is: a task's result can be had again when the worker that held it is gone."""
    return data


def do_run(
    job: str,
    data: ImageData,
    config: RunConfig | PixelConfig,
    evaluations: list[tuple[Evaluation, bytes | None]],
    weights: bytes | None,
    state: bytes | None,
    checkpoint_seconds: float,
) -> Parcels:
    """Train a model, from `state` on if given, unless there are weights; then evaluate it. Return the last parcels.

    Beside each evaluation are the weights of the classifier that it needs, if any.
    """
    if weights is None:
        try:
            weights, training = train(job, data, config, state, checkpoint_seconds)
        except Exception:
            take(job)  # nobody will ask for its checkpoint
            raise
        _post(job, "run", (weights, training), tell=bool(evaluations))
    for number, (evaluation, classifier) in enumerate(evaluations, 1):
        try:
            parcel: Any = evaluate(evaluation, config, weights, data, classifier)
        except Exception as error:  # whatever one raises: the model and the other evaluations are kept
            parcel = f"{type(error).__name__}: {error}"
        _post(job, evaluation, parcel, tell=number < len(evaluations))
    return take(job)


def train(
    job: str, data: ImageData, config: RunConfig | PixelConfig, state: bytes | None, checkpoint_seconds: float
) -> tuple[bytes, dict[str, Any]]:
    """Train a model, from `state` on if given; return its weights in safetensors format and its record."""
    from safetensors.torch import save

    from infovae.runs import checkpoint

    if isinstance(config, PixelConfig):
        return save({}), {"history": [], "train_seconds": 0.0, "precision": "float32"}
    run = _begin(job, config, data, state)
    kept, stride = time.monotonic(), 1
    while run.step < config.steps:
        start = time.monotonic()
        run.advance(min(run.step + stride, config.steps))
        now = time.monotonic()
        stride = max(1, min(2 * stride, int(0.1 * checkpoint_seconds * stride / (now - start))))
        _require_wanted()
        _tell(job, step=run.step, loss=run.history[-1]["loss"] if run.history else None)
        if now - kept >= checkpoint_seconds and run.step < config.steps:
            _post(job, "checkpoint", (run.step, checkpoint.to_bytes(run)))
            kept = now
    weights = {name: tensor.contiguous() for name, tensor in run.model.state_dict().items()}
    return save(weights), {"history": run.history, "train_seconds": run.seconds, "precision": run.precision}


def _begin(job: str, config: RunConfig, data: ImageData, state: bytes | None) -> Training:
    from infovae.runs import checkpoint
    from infovae.training import Training

    run = Training(config, data, _worker_device())
    if state is not None:
        try:
            checkpoint.restore(run, state)
        except checkpoint.CheckpointError as error:
            log.warning("a checkpoint cannot be gone on from (%s): training from the beginning", error)
            _post(job, "unusable", hashlib.sha256(state).hexdigest())
            run = Training(config, data, _worker_device())
    return run


def evaluate(
    evaluation: Evaluation,
    config: RunConfig | PixelConfig,
    weights: bytes,
    data: ImageData,
    classifier: bytes | None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate a model, given as weights; return metrics and arrays by name."""
    from safetensors.torch import load

    from infovae import evaluation as evaluations
    from infovae.model.build import build_model

    device = _worker_device()
    if isinstance(config, PixelConfig):
        return evaluations.evaluate(evaluation, config, None, data, device)
    model = build_model(config, tuple(data.train_images.shape[1:])).to(device)  # type: ignore[arg-type]
    try:
        model.load_state_dict(load(weights))
    except RuntimeError as error:
        raise ValueError(
            "the weights kept for this run do not fit its model: delete the folder of runs (INFOVAE_STORE, else "
            ".infovae), then run again"
        ) from error
    return evaluations.evaluate(evaluation, config, model.eval(), data, device, classifier)


def do_classifier(job: str, data: ImageData, config: ClassifierConfig) -> Parcels:
    """Train a classifier; return its weights in safetensors format and an empty record, as a parcel."""
    from safetensors.torch import save

    from infovae.evaluation import samples

    classifier = samples.train_classifier(
        data.train_images, data.train_labels, **config.model_dump(exclude={"dataset"}), device=_worker_device(),
        progress=lambda step, loss: _tell(job, step=step, loss=loss),
    )  # fmt: skip
    weights = {name: tensor.contiguous() for name, tensor in classifier.state_dict().items()}
    return {"run": (save(weights), {})}


def _post(job: str, name: str | Evaluation, parcel: Any, tell: bool = True) -> None:
    with _lock:
        _parcels.setdefault(job, {})[name] = parcel
    if tell:
        _tell(job)


def _tell(job: str, **progress: float | None) -> None:
    worker = _dask_worker()
    if worker:
        worker.log_event(TOPIC, {"job": job, "worker": worker.address, **progress})


def _require_wanted() -> None:
    """Raise Abandoned when the driver has given up this worker's task, or is gone: Dask does not stop a thread."""
    from distributed.worker import thread_state

    worker = _dask_worker()
    task = worker.state.tasks.get(thread_state.key) if worker else None
    if worker and (task is None or task.state == "cancelled"):
        raise Abandoned


def _worker_device() -> torch.device:
    """Return this worker's device: the GPUs are dealt out to the workers in turn, to several if they are more."""
    import torch

    from infovae.training import choose_device

    torch.set_num_threads(1)
    device, worker = choose_device(), _dask_worker()
    if worker and device.type == "cuda" and os.environ.get("INFOVAE_DEVICE", "") in ("", "cuda"):
        name = str(worker.name)
        device = torch.device("cuda", int(name) % torch.cuda.device_count() if name.isdecimal() else 0)
    return device


def _dask_worker() -> Worker | None:
    """Return the worker that this runs on, None where a job is done without a cluster."""
    from distributed import get_worker

    try:
        return get_worker()
    except ValueError:
        return None
