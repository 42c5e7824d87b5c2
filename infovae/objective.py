"""The InfoVAE objective: the one place where alpha and lambda_ meet the terms (paper, eq. 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from infovae import adversarial, divergences
from infovae.config import RunConfig
from infovae.networks import Gaussian, build_critic


class Terms(NamedTuple):
    """The terms of the objective, scalars in nats per image (summed over pixels, averaged over images).

    `nll` is -E log p(x|z), `rate` is E KL(q(z|x)||p(z)), `divergence` is D(q(z)||p(z)) or a surrogate that has its
    gradient with respect to the codes.
    """

    nll: Tensor
    rate: Tensor
    divergence: Tensor


def info_vae_loss(terms: Terms, alpha: float, lambda_: float) -> Tensor:
    """Return nll + (1 - alpha) rate + (lambda_ + alpha - 1) D, the negative of the paper's eq. 6.

    alpha = 0, lambda_ = 1 is the negative ELBO, bit for bit.
    """
    loss = terms.nll + (1 - alpha) * terms.rate
    if lambda_ + alpha - 1 == 0:  # a divergence that has no weight must not reach the loss, not even as 0 * nan
        return loss
    return loss + (lambda_ + alpha - 1) * terms.divergence


def lambda_at(config: RunConfig, step: int) -> float:
    """Return lambda_ at a training step: constant, or geometric from `lambda_start` over the warm-up."""
    if config.lambda_start is None:
        return config.lambda_
    progress = min(1.0, step / (config.lambda_warmup * config.steps))
    return config.lambda_start * (config.lambda_ / config.lambda_start) ** progress


Divergence = Callable[[Tensor, Gaussian, torch.Generator], Tensor]
"""Maps codes z ~ q(z|x), their posteriors and a generator to a scalar whose gradient decreases D(q(z)||p(z))."""


def make_divergence(config: RunConfig, device: torch.device) -> Divergence:
    """Return D(q(z)||p(z)) as the configuration names it; an adversarial one trains its critic at each call."""
    if config.divergence in ("jensen", "wasserstein"):
        return Adversary(config, device)
    return {"none": _none, "mmd": _mmd, "stein": _stein, "kl": _kl}[config.divergence](config)


class Adversary:
    """A critic of codes with an optimiser of its own; the model's optimiser never touches it.

    Called once per training step: it first improves the critic on detached codes, then returns the loss of the codes
    under the improved critic.
    """

    def __init__(self, config: RunConfig, device: torch.device) -> None:
        self.config = config
        self.critic = build_critic(config.latent_dim).to(device)
        # beta_1 = 0.5: the usual choice for adversarial training (Radford et al. 2016)
        self.optimizer = torch.optim.Adam(
            self.critic.parameters(), lr=config.critic_learning_rate, betas=(0.5, 0.9), fused=True
        )

    def __call__(self, z: Tensor, q_z_given_x: Gaussian, generator: torch.Generator) -> Tensor:
        """Train the critic, then return the loss of the codes z (n, latent_dim) under it."""
        for _ in range(self.config.critic_steps):
            loss = self._critic_loss(_draw_prior(z, generator), z.detach(), generator)
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
        return adversarial.jensen_critic_loss(self.critic(z_prior), self.critic(z_code))

    def _code_loss(self, z: Tensor) -> Tensor:
        if self.config.divergence == "wasserstein":
            return adversarial.wasserstein_code_loss(self.critic(z))
        return adversarial.jensen_code_loss(self.critic(z), saturating=self.config.saturating)


def _none(config: RunConfig) -> Divergence:
    return lambda z, q_z_given_x, generator: z.new_zeros(())


def _mmd(config: RunConfig) -> Divergence:
    def squared_mmd(z: Tensor, q_z_given_x: Gaussian, generator: torch.Generator) -> Tensor:
        prior = _draw_prior(z, generator)
        kernel = divergences.make_kernel(config.kernel, config.latent_dim, config.bandwidth, reference=prior)
        return divergences.squared_mmd(z, prior, kernel, unbiased=False)

    return squared_mmd


def _stein(config: RunConfig) -> Divergence:
    return lambda z, q_z_given_x, generator: divergences.stein_loss(z, config.stein_bandwidth)


def _kl(config: RunConfig) -> Divergence:
    return lambda z, q_z_given_x, generator: divergences.kl_aggregate_minibatch(z, q_z_given_x.mu, q_z_given_x.std)


def _draw_prior(z: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
