"""What a worker of a sweep does: train a model, evaluate one, train a classifier. Knows nothing of the store.

Arguments and results travel over Dask's connections: settings, tensors of data, weights as bytes.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from infovae.config import ClassifierConfig, Evaluation, PixelConfig, RunConfig

if TYPE_CHECKING:
    import torch

    from infovae.data import ImageData
    from infovae.training import Training

log = logging.getLogger(__name__)

PROGRESS_TOPIC = "infovae-progress"


def keep(data: ImageData) -> ImageData:
    """Return a data set as it is: a task's result can be had again when the worker that held it is gone."""
    return data


def train(config: RunConfig | PixelConfig, data: ImageData, state: bytes | None = None) -> tuple[bytes, dict[str, Any]]:
    """Train a model, from `state` on if given; return its weights in safetensors format, its history and seconds."""
    from safetensors.torch import save

    if isinstance(config, PixelConfig):
        return save({}), {"history": [], "train_seconds": 0.0}
    run = _advance(config, data, config.steps, state)
    weights = {name: tensor.contiguous() for name, tensor in run.model.state_dict().items()}
    return save(weights), {"history": run.history, "train_seconds": run.seconds}


def train_until(config: RunConfig, data: ImageData, until: int, state: bytes | None = None) -> bytes:
    """Train the first `until` steps, from `state` on if given; return the state of the run in progress."""
    from infovae import checkpoint

    return checkpoint.to_bytes(_advance(config, data, until, state))


def _advance(config: RunConfig, data: ImageData, until: int, state: bytes | None) -> Training:
    from infovae import checkpoint
    from infovae.training import Training

    run = Training(config, data, _worker_device())
    if state is not None:
        try:
            checkpoint.restore(run, state)
        except checkpoint.CheckpointError as error:
            log.warning("a checkpoint cannot be gone on from (%s): training from the beginning", error)
            run = Training(config, data, _worker_device())
    run.advance(until, _reporter(run.step, until))
    return run


def evaluate(
    evaluation: Evaluation,
    config: RunConfig | PixelConfig,
    training: bytes | tuple[bytes, dict[str, Any]],
    data: ImageData,
    classifier: bytes | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Evaluate a model given as weights, or as the result of `train`; return metrics and arrays by name."""
    from safetensors.torch import load

    from infovae import evaluation as evaluations
    from infovae.model import PixelModel, build_model

    device = _worker_device()
    weights = training if isinstance(training, bytes) else training[0]
    if isinstance(config, PixelConfig):
        return evaluations.evaluate(evaluation, config, PixelModel(), data, device)
    model = build_model(config, tuple(data.train_images.shape[1:])).to(device)  # type: ignore[arg-type]
    try:
        model.load_state_dict(load(weights))
    except RuntimeError as error:
        raise ValueError(
            "the weights kept for this run do not fit its model: delete the folder of runs (INFOVAE_STORE, else "
            ".infovae), then run again"
        ) from error
    return evaluations.evaluate(evaluation, config, model.eval(), data, device, classifier)


def train_classifier(config: ClassifierConfig, data: ImageData) -> bytes:
    """Train a classifier; return its weights in safetensors format."""
    from safetensors.torch import save

    from infovae.evaluation import samples

    classifier = samples.train_classifier(
        data.train_images,
        data.train_labels,
        steps=config.steps,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        seed=config.seed,
        device=_worker_device(),
        progress=_reporter(0, config.steps),
    )
    return save({name: tensor.contiguous() for name, tensor in classifier.state_dict().items()})


def _reporter(first: int, until: int) -> Callable[[int, float], None]:
    """Return a function that tells the driver how far this worker's job, the steps from `first` to `until`, is."""
    from distributed import get_worker
    from distributed.worker import thread_state

    worker, key = get_worker(), getattr(thread_state, "key", "")

    def report(step: int, loss: float) -> None:
        share = (step - first) / (until - first)
        worker.log_event(PROGRESS_TOPIC, {"key": key, "share": share, "step": step, "loss": loss})

    return report


def _worker_device() -> torch.device:
    """Return this worker's device: the GPUs are dealt out to the workers in turn, to several if they are more."""
    import torch
    from distributed import get_worker

    from infovae.training import choose_device

    torch.set_num_threads(1)
    device = choose_device()
    if device.type == "cuda" and os.environ.get("INFOVAE_DEVICE", "") in ("", "cuda"):
        number = next(itertools.chain((int(n) for n in [str(get_worker().name)] if n.isdecimal()), [0]))
        device = torch.device("cuda", number % torch.cuda.device_count())
    return device
