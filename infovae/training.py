"""Trains one model from one configuration. Owns the loop and its random streams; knows nothing of files."""

from __future__ import annotations

import math
import os
import time
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from infovae.config import N_MEASURED, RunConfig
from infovae.data.datasets import Batches, ImageData, observe, static_binarization
from infovae.evaluation import WATCH_SEED_OFFSET, encode, latent, measuring_device
from infovae.evaluation.images import STATIC_SEEDS
from infovae.evaluation.posterior import posterior_metrics
from infovae.model import divergences
from infovae.model.build import Model, build_model
from infovae.model.networks import cast_weights, spread_means
from infovae.model.objective import Terms, charged_rate, info_vae_loss, make_divergence, make_lambda
from infovae.model.scalar import ScalarDecoder
from infovae.refusals import ParameterError, flag, shorten

N_LOGGED = 20
"""Rows of a run's history beside those at `measured_steps`: only at these does the host wait for the device."""
N_VALIDATION = 500
"""Validation images on which a logged row has the squared MMD; at `measured_steps` it is on `N_MEASURED`."""


class TrainingDiverged(RuntimeError):
    """A loss that is no longer finite."""


def train(config: RunConfig, data: ImageData, device: torch.device) -> Training:
    """Train the model of `config` from its first step to its last; it is returned in evaluation mode, with its history.

    The result depends on the configuration, the data and the kind of device alone: on the CPU it is computed by one
    thread, whatever else runs beside it.

    Raises
    ------
    TrainingDiverged
        When the loss is not finite at a logged step.
    """
    run = Training(config, data, device)
    run.advance(config.steps)
    run.model.eval()
    return run


class Training:
    """A run in progress: its model, optimiser, random streams, place in the data and history.

    It may stop after any step and go on elsewhere, to the same bits: see `infovae.runs.checkpoint`.
    """

    def __init__(self, config: RunConfig, data: ImageData, device: torch.device) -> None:
        if device.type == "cpu":
            torch.set_num_threads(1)
        self.config, self.device = config, device
        self.generator = torch.Generator(device).manual_seed(config.seed)
        images = training_images(config, data).to(device)
        self.own_generator = torch.Generator(device).manual_seed(config.seed + WATCH_SEED_OFFSET)
        validation = data.validation_images[:N_MEASURED].to(device)
        self.validation = observe(validation, config.binarization, self.own_generator)
        with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
            torch.default_generator.manual_seed(config.seed)  # torch.manual_seed would seed the GPUs too
            self.model = build_model(config, (images.shape[1], images.shape[2])).to(device)
            self.divergence = make_divergence(config, device)
        if config.encoder_norm == "spread" and config.latent_dim:
            spread_means(self.model.encoder, observe(images[:N_VALIDATION], config.binarization, self.own_generator))
        self.forward: nn.Module = torch.compile(self.model) if compiles() else self.model  # type: ignore[assignment]
        self.precision, self.choose_lambda = choose_precision(config, device), make_lambda(config, device)
        self.optimizer = make_optimizer(config, self.model)
        self.batches = Batches(images, config.batch_size, self.generator)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []

    def advance(self, until: int) -> None:
        """Train until `until` steps are done."""
        config, model, generator = self.config, self.model, self.generator
        start = time.perf_counter() - self.seconds
        for step in range(self.step, until):
            for group in self.optimizer.param_groups:
                group["lr"] = config.learning_rate * (decay(step / config.steps) if config.learning_rate_decay else 1)
            x = observe(self.batches.draw(), config.binarization, generator)
            if self.precision == "bfloat16":  # weights are converted once a step; their gradients come back as float32
                weights = cast_weights(self.forward, torch.bfloat16)
                q_z_given_x, z, log_p = functional_call(self.forward, weights, (x, generator))
            else:
                q_z_given_x, z, log_p = self.forward(x, generator)
            divergence = self.divergence(z, q_z_given_x, generator)
            terms = Terms(-log_p.mean(), q_z_given_x.kl().mean(), divergence)
            lambda_ = self.choose_lambda(step, terms.divergence)
            charged = terms._replace(rate=charged_rate(q_z_given_x, config.free_bits))  # the history has the true rate
            loss = info_vae_loss(charged, config.alpha, lambda_)
            self.optimizer.zero_grad()
            loss.backward()
            if config.gradient_clip is not None:
                torch.nn.utils.clip_grad_value_(model.parameters(), config.gradient_clip)
            self.optimizer.step()
            if is_logged(step, config.steps):  # note: these lines wait for the device, the rest of the loop does not
                row = {"step": step + 1, "loss": loss.item(), "lambda_": float(lambda_)}
                row |= {name: term.item() for name, term in terms._asdict().items()}
                if not math.isfinite(row["loss"]):
                    raise TrainingDiverged(f"loss is {row['loss']} at step {step + 1} of {config.steps}")
                measured = step + 1 in measured_steps(config.steps)
                try:
                    row |= validation_metrics(model, self.validation, self.own_generator, measured)
                except TrainingDiverged as error:
                    raise TrainingDiverged(f"{error} at step {step + 1} of {config.steps}") from error
                self.history.append(row | {"seconds": time.perf_counter() - start})
        self.step, self.seconds = until, time.perf_counter() - start
        if until == config.steps:
            self._require_finite_bound()

    @torch.no_grad()
    def _require_finite_bound(self) -> None:
        """Raise TrainingDiverged if the last update, which no logged loss has seen, left a model that is of no use."""
        q_z_given_x, _, log_p = self.model.eval()(self.validation[:N_VALIDATION], self.own_generator)
        self.model.train()
        bound = (log_p - q_z_given_x.kl()).mean().item()
        if not math.isfinite(bound):
            raise TrainingDiverged(f"the bound on log p(x) is {bound} after step {self.step} of {self.config.steps}")


def training_images(config: RunConfig, data: ImageData) -> Tensor:
    """Return the first n_train images (uint8, (n, H, W)), binarised once and for all if the configuration says so."""
    if config.n_train > len(data.train_images):
        raise ValueError(f"n_train must be at most {len(data.train_images)} for {data.name}, got {config.n_train}")
    images = data.train_images[: config.n_train]
    return static_binarization(images, STATIC_SEEDS["train"]) if config.binarization == "static" else images


def make_optimizer(config: RunConfig, model: Model) -> torch.optim.Optimizer:
    """Return the optimiser of the model's weights: Adam, or the authors' RMSProp (decay 0.9, epsilon 1e-10)."""
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(model.parameters(), lr=config.learning_rate, alpha=0.9, eps=1e-10)
    return torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)


def decay(progress: float) -> float:
    """Return the learning rate's factor: 1 in the first half of training, then linear to 0.

    DEVIATION: the learning rate falls to 0 over the second half of training; the authors' is constant, for far longer.
    """
    return min(1.0, 2 * (1 - progress))


def is_logged(step: int, n_steps: int) -> bool:
    """Say whether a step is one of about `N_LOGGED` evenly spaced ones, or of `measured_steps`; the last always is."""
    return step + 1 in measured_steps(n_steps) or (step + 1) % math.ceil(n_steps / N_LOGGED) == 0


@lru_cache
def measured_steps(n_steps: int) -> frozenset[int]:
    """Return the steps after which a run's codes are measured: the last, half of it, a quarter, ..., ten in all."""
    return frozenset(math.ceil(n_steps / 2**k) for k in range(10))


@torch.no_grad()
def validation_metrics(model: Model, x: Tensor, generator: torch.Generator, measured: bool) -> dict[str, float]:
    """Return the columns of a logged row that are not terms of the loss; the toy has its exact ones too.

    `squared_mmd` is the unbiased one between codes of validation images x (n, 1, H, W) and as many prior draws, under
    the reporting kernel (rbf, bandwidth `prior`). `measured` adds `mutual_information` and `log_det_cov_per_dim`;
    without it the first `N_VALIDATION` images are used. Codes without dimensions have none of these.
    """
    if not model.latent_dim:
        return {}
    model.eval()  # looking must not move the statistics of batch normalisation
    q = encode(model, x if measured else x[:N_VALIDATION])
    model.train()
    if not bool((q.mu.isfinite() & q.std.isfinite()).all()):
        raise TrainingDiverged("codes of validation images are not finite")
    z = q.sample(generator)
    prior = torch.randn(z.shape, generator=generator, device=z.device)
    z, prior, mu, std = (codes.to(measuring_device(z.device)) for codes in (z, prior, q.mu, q.std))
    kernel = divergences.reporting_kernel(z.shape[1])
    metrics = {"squared_mmd": divergences.squared_mmd_chunked(z, prior, kernel).value}
    if measured:
        metrics["mutual_information"] = latent.mutual_information(z, mu, std)
        metrics["log_det_cov_per_dim"] = latent.log_det_covariance_per_dim(mu, std)
    if isinstance(model.decoder, ScalarDecoder) and model.latent_dim == 1:
        metrics |= posterior_metrics(model.encoder, model.decoder)
    return metrics


def choose_precision(config: RunConfig, device: torch.device) -> Literal["float32", "bfloat16"]:
    """Return the precision that a run trains in: the one it names; for `auto` bfloat16 where it is the faster one.

    The toy's is float32: it has little arithmetic, and its densities need all digits.
    """
    if config.precision != "auto":
        return config.precision
    if config.decoder == "scalar":
        return "float32"
    if device.type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    flags = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return "bfloat16" if flags.get("avx512_bf16") or flags.get("amx_bf16") else "float32"


def compiles() -> bool:
    """Return whether INFOVAE_COMPILE asks for torch.compile.

    Like the choice of the device it changes speed and rounding, and is no part of a run's identity.
    """
    return flag("INFOVAE_COMPILE")


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
