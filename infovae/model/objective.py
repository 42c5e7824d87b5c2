"""The InfoVAE objective: the one place where alpha and lambda_ meet the terms (paper, eq. 6)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from infovae.config import RunConfig, divergence_weight
from infovae.model import adversarial, divergences
from infovae.model.networks import Gaussian, build_critic


class Terms(NamedTuple):
    """The terms of the objective, scalars in nats per image (summed over pixels, averaged over images).

    `nll` is -E log p(x|z), `rate` is E KL(q(z|x)||p(z)), `divergence` is D(q(z)||p(z)) or a surrogate that has its
    gradient with respect to the codes.
    """

    nll: Tensor
    rate: Tensor
    divergence: Tensor


def info_vae_loss(terms: Terms, alpha: float, lambda_: float | Tensor) -> Tensor:
    """Return nll + (1 - alpha) rate + (lambda_ + alpha - 1) D, the negative of the paper's eq. 6.

    alpha = 0, lambda_ = 1 is the negative ELBO, bit for bit. A lambda_ on the device (a scalar) is not waited for.
    """
    loss = terms.nll + (1 - alpha) * terms.rate
    weight = lambda_ + alpha - 1 if isinstance(lambda_, Tensor) else divergence_weight(alpha, lambda_)
    if isinstance(weight, float) and weight == 0:
        return loss  # a divergence that has no weight must not reach the loss, not even as 0 * nan
    return loss + weight * terms.divergence


def charged_rate(q_z_given_x: Gaussian, free_bits: float) -> Tensor:
    """Return the rate that the loss pays: in each latent dimension at least `free_bits` nats, a scalar.

    sum_d max(free_bits, mean over the batch of KL_d), with KL = sum_d KL_d (Kingma et al. 2016, eq. 15, one dimension
    to a group). Where a dimension's KL is below `free_bits`, its gradient is 0.
    """
    if free_bits == 0:
        return q_z_given_x.kl().mean()
    of_each_dimension = Gaussian(q_z_given_x.mu[..., None], q_z_given_x.std[..., None]).kl()
    return of_each_dimension.mean(0).clamp_min(free_bits).sum()


def lambda_at(config: RunConfig, step: int) -> float:
    """Return lambda_ at a training step: constant, or geometric from `lambda_start` over the warm-up."""
    if config.lambda_start is None:
        return config.lambda_
    progress = min(1.0, step / (config.lambda_warmup * config.steps))
    return config.lambda_start * (config.lambda_ / config.lambda_start) ** progress


ChooseLambda = Callable[[int, Tensor], float | Tensor]
"""Maps a training step and the divergence of its batch to lambda_."""


def make_lambda(config: RunConfig, device: torch.device) -> ChooseLambda:
    """Return how lambda_ is chosen: by the schedule `lambda_at`, or by what the MMD of the batches is."""
    if config.mmd_target is not None:
        return AdaptiveLambda(config, device)
    return lambda step, divergence: lambda_at(config, step)


class AdaptiveLambda(nn.Module):
    """Steers lambda_ so that the squared MMD of a batch, a V-statistic, stays at `mmd_target` times its null level.

    DEVIATION: with `mmd_target` lambda_ follows the MMD that training reaches; the paper's is constant.

    After each step log lambda_ grows by

        log(lambda_ / lambda_start) / (lambda_warmup steps) * clamp(log(MMD / (mmd_target null)), -1, 1)

    and is kept between the logarithms of `lambda_start` and `lambda_`; MMD is the mean over the last batches, with
    weights that decay exponentially. So it rises at most as fast as the geometric schedule of the same range, which it
    follows while q(z) is far from p(z), and stops where q(z) is near enough. The null level is the expected V-statistic
    of two prior samples, of the batch's size and of `n_prior_draws`, under the training kernel. The state is on the
    device.
    """

    MEMORY = 0.95
    """Weight of the past in the mean: about the last 20 batches, over which a null MMD's own spread averages out."""

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        super().__init__()
        assert config.mmd_target is not None and config.lambda_start is not None
        generator = torch.Generator(device).manual_seed(0)  # of its own: the null level is the same for every run
        reference = torch.randn(divergences.NULL_ROWS, config.latent_dim, generator=generator, device=device)
        kernel = divergences.make_kernel(config.kernel, config.latent_dim, config.bandwidth, reference)
        sizes = min(config.batch_size, config.n_train), config.n_prior_draws
        self.target = config.mmd_target * divergences.squared_mmd_v_null(*sizes, config.latent_dim, kernel, generator)
        self.range = math.log(config.lambda_start), math.log(config.lambda_)
        self.gain = (self.range[1] - self.range[0]) / (config.lambda_warmup * config.steps)
        self.mean: Tensor
        self.log_lambda: Tensor
        self.register_buffer("mean", torch.tensor(self.target, device=device))
        self.register_buffer("log_lambda", torch.tensor(self.range[0], device=device))

    def forward(self, step: int, divergence: Tensor) -> Tensor:
        """Return lambda_ for this batch, a scalar on the device, then learn from its squared MMD."""
        lambda_ = self.log_lambda.exp().clamp(math.exp(self.range[0]), math.exp(self.range[1]))
        self.mean = torch.lerp(divergence.detach(), self.mean, self.MEMORY)
        error = (self.mean / self.target).log().clamp(-1, 1)
        self.log_lambda = (self.log_lambda + self.gain * error).clamp(*self.range)
        return lambda_


Divergence = Callable[[Tensor, Gaussian, torch.Generator], Tensor]
"""Maps codes z ~ q(z|x), their posteriors and a generator to a scalar whose gradient decreases D(q(z)||p(z))."""


def make_divergence(config: RunConfig, device: torch.device) -> Divergence:
    """Return D(q(z)||p(z)) as the configuration names it; an adversarial one trains its critic at each call."""
    if config.divergence in ("jensen", "wasserstein", "chi2"):
        return Adversary(config, device)
    return partial(_without_critic, config)


class Adversary(nn.Module):
    """A critic of codes with an optimiser of its own; the model's optimiser never touches it.

    Called once per training step: it first improves the critic on detached codes, then returns the loss of the codes
    under the improved critic.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.critic = build_critic(config.latent_dim).to(device)
        # beta_1 = 0.5: the usual choice for adversarial training (Radford et al. 2016)
        self.optimizer = torch.optim.Adam(
            self.critic.parameters(), lr=config.critic_learning_rate, betas=(0.5, 0.9), fused=True
        )

    def forward(self, z: Tensor, q_z_given_x: Gaussian, generator: torch.Generator) -> Tensor:
        """Train the critic, then return the loss of the codes z (n, latent_dim) under it."""
        for _ in range(self.config.critic_steps):
            loss = self._critic_loss(_draw_prior(len(z), z, generator), z.detach(), generator)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.critic.requires_grad_(False)
        code_loss = self._code_loss(z)
        self.critic.requires_grad_(True)
        return code_loss

    def _critic_loss(self, z_prior: Tensor, z_code: Tensor, generator: torch.Generator) -> Tensor:
        if self.config.divergence == "wasserstein":
            return adversarial.wasserstein_critic_loss(self.critic, z_prior, z_code, generator)
        if self.config.divergence == "chi2":
            return adversarial.chi2_critic_loss(self.critic(z_prior), self.critic(z_code))
        return adversarial.jensen_critic_loss(self.critic(z_prior), self.critic(z_code))

    def _code_loss(self, z: Tensor) -> Tensor:
        if self.config.divergence == "wasserstein":
            return adversarial.wasserstein_code_loss(self.critic(z))
        if self.config.divergence == "chi2":
            return adversarial.chi2_code_loss(self.critic(z))
        return adversarial.jensen_code_loss(self.critic(z), saturating=self.config.saturating)


def _without_critic(config: RunConfig, z: Tensor, q_z_given_x: Gaussian, generator: torch.Generator) -> Tensor:
    if config.divergence == "none":
        return z.new_zeros(())
    if config.divergence == "stein":
        return divergences.stein_loss(z, config.stein_bandwidth, config.stein_include_self)
    if config.divergence == "kl":
        return divergences.kl_aggregate_minibatch(z, q_z_given_x.mu, q_z_given_x.std)
    if config.divergence == "mmd":
        prior = _draw_prior(config.n_prior_draws, z, generator)
        kernel = divergences.make_kernel(config.kernel, config.latent_dim, config.bandwidth, reference=prior)
        return divergences.squared_mmd(z, prior, kernel, unbiased=False)
    prior = _draw_prior(len(z), z, generator)
    if config.divergence == "sliced_wasserstein":
        return divergences.sliced_wasserstein(z, prior, config.n_projections, generator)
    if config.divergence == "sinkhorn":
        # of the prior and of codes about as wide; given, so that the solver need not wait for the device to measure it
        diameter = 4 * (math.sqrt(config.latent_dim) + 2)
        return divergences.sinkhorn_energy(z, prior, config.sinkhorn_blur, diameter)
    raise ValueError(f"no function is written for the divergence {config.divergence!r}")


def _draw_prior(n: int, z: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(n, z.shape[1], generator=generator, device=z.device, dtype=z.dtype)
