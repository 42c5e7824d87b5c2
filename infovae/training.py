"""Trains one model from one configuration. Owns the loop and its random streams; knows nothing of files."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from infovae import divergences
from infovae.config import ParameterError, RunConfig, shorten
from infovae.data import ImageData, binarize, static_binarization
from infovae.evaluation.posterior import posterior_metrics
from infovae.model import Model, build_model
from infovae.objective import Terms, charged_rate, info_vae_loss, make_divergence, make_lambda
from infovae.scalar import ScalarDecoder

N_LOGGED = 20
"""Rows of a run's history: the only points of the loop at which the host waits for the device."""
N_VALIDATION = 500


class TrainingDiverged(RuntimeError):
    """A loss that is no longer finite."""


class Trained(NamedTuple):
    """A trained model, its history (one row per logged step) and the seconds that training took."""

    model: Model
    history: list[dict[str, float]]
    train_seconds: float


Progress = Callable[[int, float], None]
"""Called at each logged step with the number of steps done and the loss in nats per image."""


def train(config: RunConfig, data: ImageData, device: torch.device, progress: Progress | None = None) -> Trained:
    """Train the model of `config`.

    The result depends on the configuration, the data and the kind of device alone: on the CPU it is computed by one
    thread, whatever else runs beside it.

    Raises
    ------
    TrainingDiverged
        When the loss is not finite at a logged step.
    """
    if device.type == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(config.seed)
    generator = torch.Generator(device).manual_seed(config.seed)
    images = training_images(config, data).to(device)
    own_generator = torch.Generator(device).manual_seed(config.seed + 2_000_003)  # looking must not change the run
    validation = binarize(data.validation_images[:N_VALIDATION].to(device), own_generator)
    model = build_model(config, (images.shape[1], images.shape[2])).to(device)
    divergence, choose_lambda = make_divergence(config, device), make_lambda(config, device)
    bfloat16 = config.precision == "bfloat16"
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)

    history: list[dict[str, float]] = []
    start = time.perf_counter()
    for step, batch in enumerate(batches(images, config, generator)):
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * decay(step / config.steps)
        x = binarize(batch, generator)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            q_z_given_x = model.encoder(x)
            z = q_z_given_x.sample(generator)
            nll = -model.decoder.log_prob(x, z).mean()
        terms = Terms(nll, rate=q_z_given_x.kl().mean(), divergence=divergence(z, q_z_given_x, generator))
        lambda_ = choose_lambda(step, terms.divergence)
        charged = terms._replace(rate=charged_rate(q_z_given_x, config.free_bits))  # the history has the true rate
        loss = info_vae_loss(charged, config.alpha, lambda_)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if is_logged(step, config.steps):  # note: these lines wait for the device, the rest of the loop does not
            row = {"step": step + 1, "loss": loss.item(), "lambda_": float(lambda_)}
            row |= {name: term.item() for name, term in terms._asdict().items()}
            if not math.isfinite(row["loss"]):
                raise TrainingDiverged(f"loss is {row['loss']} at step {step + 1} of {config.steps}")
            row |= validation_metrics(model, validation, own_generator)
            row |= {"seconds": time.perf_counter() - start}
            history.append(row)
            if progress:
                progress(step + 1, row["loss"])
    return Trained(model.eval(), history, time.perf_counter() - start)


def training_images(config: RunConfig, data: ImageData) -> Tensor:
    """Return the first n_train images (uint8, (n, H, W)), binarised once and for all if the configuration says so."""
    if config.n_train > len(data.train_images):
        raise ValueError(f"n_train must be at most {len(data.train_images)} for {data.name}, got {config.n_train}")
    images = data.train_images[: config.n_train]
    return static_binarization(images, seed=0) if config.binarization == "static" else images


def batches(images: Tensor, config: RunConfig, generator: torch.Generator) -> Iterator[Tensor]:
    """Yield `config.steps` batches of images, each epoch in a fresh order, without leaving the device."""
    n, size = len(images), min(config.batch_size, len(images))
    done = 0
    while True:
        order = torch.randperm(n, generator=generator, device=images.device)
        for first in range(0, n - size + 1, size):
            if done == config.steps:
                return
            done += 1
            yield images[order[first : first + size]]


def decay(progress: float) -> float:
    """Return the learning rate's factor: 1 in the first half of training, then linear to 0.

    DEVIATION: the paper trains at a constant rate for far longer.
    """
    return min(1.0, 2 * (1 - progress))


def is_logged(step: int, n_steps: int) -> bool:
    """Say whether a step is one of about `N_LOGGED` evenly spaced ones; the last always is."""
    return step + 1 == n_steps or (step + 1) % math.ceil(n_steps / N_LOGGED) == 0


def validation_metrics(model: Model, x: Tensor, generator: torch.Generator) -> dict[str, float]:
    """Return the columns of a logged row that are not terms of the loss; the toy has its exact ones too."""
    exact = posterior_metrics(model) if isinstance(model.decoder, ScalarDecoder) and model.latent_dim == 1 else {}
    return {"squared_mmd": validation_mmd(model, x, generator), **exact}


@torch.no_grad()
def validation_mmd(model: Model, x: Tensor, generator: torch.Generator) -> float:
    """Return the unbiased squared MMD between codes of validation images and as many prior draws.

    The kernel is the reporting one (rbf, bandwidth `prior`). NaN for codes without dimensions.
    """
    if not model.latent_dim:
        return math.nan
    model.eval()  # looking must not move the statistics of a batch-normalised encoder
    z = model.encoder(x).sample(generator)
    model.train()
    kernel = divergences.make_kernel("rbf", z.shape[1], "prior")
    prior = torch.randn(z.shape, generator=generator, device=z.device)
    return divergences.squared_mmd(z, prior, kernel, unbiased=True).item()


def choose_device() -> torch.device:
    """Return the device that INFOVAE_DEVICE names (cpu, cuda, cuda:1, mps), else the best one present."""
    name = os.environ.get("INFOVAE_DEVICE", "")
    if not name:
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        probe = torch.zeros(1, device=name)
        probe.cpu()  # the device `meta` computes nothing
        return probe.device
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ParameterError(f"INFOVAE_DEVICE={shorten(name)} cannot be used: {reason}") from error
