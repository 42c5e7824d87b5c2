"""Trains one model from one configuration. Owns the loop and its random streams; knows nothing of files."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import NamedTuple, ParamSpec, TypeVar

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


P = ParamSpec("P")
T = TypeVar("T")
Progress = Callable[[int, float], None]
"""Called at each logged step with the number of steps done and the loss in nats per image."""


def train(config: RunConfig, data: ImageData, device: torch.device, progress: Progress | None = None) -> Trained:
    """Train the model of `config` from its first step to its last.

    The result depends on the configuration, the data and the kind of device alone: on the CPU it is computed by one
    thread, whatever else runs beside it.

    Raises
    ------
    TrainingDiverged
        When the loss is not finite at a logged step.
    """
    run = Training(config, data, device)
    run.advance(config.steps, progress)
    return Trained(run.model.eval(), run.history, run.seconds)


class Training:
    """A run in progress: its model, optimiser, random streams, place in the data and history.

    It may stop after any step and go on elsewhere, to the same bits: see `infovae.checkpoint`.
    """

    def __init__(self, config: RunConfig, data: ImageData, device: torch.device) -> None:
        if device.type == "cpu":
            torch.set_num_threads(1)
        torch.manual_seed(config.seed)
        self.config, self.device = config, device
        self.generator = torch.Generator(device).manual_seed(config.seed)
        images = training_images(config, data).to(device)
        self.own_generator = torch.Generator(device).manual_seed(config.seed + 2_000_003)  # looking changes no run
        self.validation = binarize(data.validation_images[:N_VALIDATION].to(device), self.own_generator)
        self.model = build_model(config, (images.shape[1], images.shape[2])).to(device)
        self.encode, self.log_prob = as_asked(self.model.encoder), as_asked(self.model.decoder.log_prob)
        self.divergence, self.choose_lambda = make_divergence(config, device), make_lambda(config, device)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate, fused=True)
        self.batches = Batches(images, config.batch_size, self.generator)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []

    def advance(self, until: int, progress: Progress | None = None) -> None:
        """Train until `until` steps are done."""
        config, model, generator = self.config, self.model, self.generator
        bfloat16 = config.precision == "bfloat16"
        start = time.perf_counter() - self.seconds
        for step in range(self.step, until):
            for group in self.optimizer.param_groups:
                group["lr"] = config.learning_rate * decay(step / config.steps)
            x = binarize(self.batches.draw(), generator)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=bfloat16):
                q_z_given_x = self.encode(x)
                z = q_z_given_x.sample(generator)
                nll = -self.log_prob(x, z).mean()
            terms = Terms(nll, rate=q_z_given_x.kl().mean(), divergence=self.divergence(z, q_z_given_x, generator))
            lambda_ = self.choose_lambda(step, terms.divergence)
            charged = terms._replace(rate=charged_rate(q_z_given_x, config.free_bits))  # the history has the true rate
            loss = info_vae_loss(charged, config.alpha, lambda_)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if is_logged(step, config.steps):  # note: these lines wait for the device, the rest of the loop does not
                row = {"step": step + 1, "loss": loss.item(), "lambda_": float(lambda_)}
                row |= {name: term.item() for name, term in terms._asdict().items()}
                if not math.isfinite(row["loss"]):
                    raise TrainingDiverged(f"loss is {row['loss']} at step {step + 1} of {config.steps}")
                row |= validation_metrics(model, self.validation, self.own_generator)
                self.history.append(row | {"seconds": time.perf_counter() - start})
                if progress:
                    progress(step + 1, row["loss"])
        self.step, self.seconds = until, time.perf_counter() - start


class Batches:
    """Batches of images without end, each epoch in a fresh order, without leaving the device.

    Images that do not fill a batch are left out of that epoch.
    """

    def __init__(self, images: Tensor, batch_size: int, generator: torch.Generator) -> None:
        self.images, self.generator = images, generator
        self.size = min(batch_size, len(images))
        self.order, self.first = torch.empty(0, dtype=torch.long, device=images.device), len(images)

    def draw(self) -> Tensor:
        """Return the next batch, (size, H, W)."""
        n = len(self.images)
        if self.first + self.size > n:
            self.order, self.first = torch.randperm(n, generator=self.generator, device=self.images.device), 0
        self.first += self.size
        return self.images[self.order[self.first - self.size : self.first]]


def training_images(config: RunConfig, data: ImageData) -> Tensor:
    """Return the first n_train images (uint8, (n, H, W)), binarised once and for all if the configuration says so."""
    if config.n_train > len(data.train_images):
        raise ValueError(f"n_train must be at most {len(data.train_images)} for {data.name}, got {config.n_train}")
    images = data.train_images[: config.n_train]
    return static_binarization(images, seed=0) if config.binarization == "static" else images


def decay(progress: float) -> float:
    """Return the learning rate's factor: 1 in the first half of training, then linear to 0.

    DEVIATION: the learning rate falls to 0 over the second half of training; the paper's is constant, for far longer.
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


def as_asked(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function, through torch.compile where INFOVAE_COMPILE=1 asks for it.

    Like the choice of the device it changes speed and rounding, and is no part of a run's identity.
    """
    return torch.compile(function) if compiles() else function


def compiles() -> bool:
    """Return whether INFOVAE_COMPILE asks for torch.compile; ParameterError for other values than 0 and 1."""
    asked = os.environ.get("INFOVAE_COMPILE", "")
    if asked not in ("", "0", "1"):
        raise ParameterError(f"INFOVAE_COMPILE must be 0 or 1, got {shorten(asked)}")
    return asked == "1"


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
