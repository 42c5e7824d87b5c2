"""Annealed importance sampling: log p(x) from prior to posterior, without a proposal.

A check of `likelihood` that does not start from an encoder, for cheap decoders. Never changes a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from infovae.evaluation.proposal import standard_normal
from infovae.model.divergences import standard_normal_log_prob
from infovae.model.networks import Decoder

N_CHAINS, N_LEAPFROG = 10, 2
"""Independent chains for each image, and gradients in each transition."""

TARGET_ACCEPTANCE = 0.65
"""Of the Hamiltonian transitions; the optimum in many dimensions (Neal 2011)."""


class AnnealedEstimate(NamedTuple):
    """Stochastic lower bounds on log p(x), in nats, (n,) float64, and the transitions' mean acceptance probability.

    With an acceptance far below the target the bounds are loose.
    """

    lower: Tensor
    acceptance: float


def annealed_importance_sampling(
    decoder: Decoder, x: Tensor, latent_dim: int, generator: torch.Generator, n_temperatures: int
) -> AnnealedEstimate:
    """Bound log p(x) of images (n, 1, h, w) by annealed importance sampling (Neal 2001).

    The path is p_t(z) ~ p(z) p(x|z)^beta_t, beta a sigmoid from 0 to 1 in `n_temperatures` steps, with one Hamiltonian
    transition of `N_LEAPFROG` gradients for each, as in Wu, Burda, Salakhutdinov and Grosse (2017). The weights of
    `N_CHAINS` independent chains for each image are averaged. Needs about 2 n_temperatures N_CHAINS N_LEAPFROG
    gradients of the decoder for each image, the pilot run included. The gap of the bound falls as 1 / n_temperatures
    once the chains mix; at equal cost more temperatures gave tighter bounds than longer transitions.

    The step size of each temperature and image is adapted in a pilot run of its own and then held fixed: adapted on
    the way it would depend on the chain's past, the transitions would not leave p_t invariant, and the bound be void.
    """
    n = len(x)
    x_chains = x.repeat(N_CHAINS, 1, 1, 1)
    ramp = torch.linspace(-4, 4, n_temperatures + 1, dtype=torch.float64).sigmoid()
    betas = ((ramp - ramp[0]) / (ramp[-1] - ramp[0])).tolist()

    @torch.enable_grad()
    def at(z: Tensor) -> _Position:
        z = z.detach().requires_grad_()
        log_likelihood = decoder.log_prob(x_chains, z)
        gradient = torch.autograd.grad(log_likelihood.sum(), z)[0]
        return _Position(z.detach(), log_likelihood.detach(), gradient)

    def prior_sample() -> _Position:
        return at(standard_normal((N_CHAINS * n, latent_dim), generator, x))

    step_sizes = torch.ones(n_temperatures, n).to(x)  # the scale of the prior, where the chains start

    def transition(position: _Position, t: int) -> tuple[_Position, Tensor]:
        return _hamiltonian_step(at, position, betas[t], step_sizes[t - 1].repeat(N_CHAINS), generator)

    position = prior_sample()
    for t in range(1, n_temperatures + 1):
        step_sizes[t - 1] = step_sizes[max(t - 2, 0)]
        position, acceptance = transition(position, t)
        step_sizes[t - 1] *= (0.5 * (acceptance.view(N_CHAINS, n).mean(0) - TARGET_ACCEPTANCE)).exp()

    position, log_w, acceptances = prior_sample(), torch.zeros(len(x_chains), dtype=torch.float64, device=x.device), []
    for t in range(1, n_temperatures + 1):
        log_w += (betas[t] - betas[t - 1]) * position.log_likelihood.double()
        position, acceptance = transition(position, t)
        acceptances.append(float(acceptance.mean()))
    lower = log_w.view(N_CHAINS, n).logsumexp(0) - math.log(N_CHAINS)
    return AnnealedEstimate(lower, sum(acceptances) / n_temperatures)


class _Position(NamedTuple):
    """Where the chains are, z (n, d), with log p(x|z) (n,) and its gradient in z: kept, never computed twice."""

    z: Tensor
    log_likelihood: Tensor
    gradient: Tensor


def _hamiltonian_step(
    at: Callable[[Tensor], _Position], position: _Position, beta: float, step_size: Tensor, generator: torch.Generator
) -> tuple[_Position, Tensor]:
    """Make one Hamiltonian transition that leaves p(z) p(x|z)^beta invariant; unit mass, step_size (n,).

    Returns the next position and the acceptance probability, (n,).
    """

    def energy(of: _Position, momentum: Tensor) -> Tensor:
        return momentum.square().sum(1) / 2 - standard_normal_log_prob(of.z) - beta * of.log_likelihood

    def force(of: _Position) -> Tensor:
        return beta * of.gradient - of.z

    step = step_size.unsqueeze(1)
    momentum = standard_normal(position.z.shape, generator, position.z)
    start, proposed = energy(position, momentum), position
    for _ in range(N_LEAPFROG):
        momentum = momentum + step / 2 * force(proposed)
        proposed = at(proposed.z + step * momentum)
        momentum = momentum + step / 2 * force(proposed)
    # a trajectory that diverges has energy inf or nan: rejected
    acceptance = (start - energy(proposed, momentum)).clamp(max=0).exp().nan_to_num(0)
    accepted = torch.rand(acceptance.shape, generator=generator, device=generator.device).to(acceptance) < acceptance
    chosen = (
        torch.where(accepted.view(-1, *[1] * (new.ndim - 1)), new, old)
        for new, old in zip(proposed, position, strict=True)
    )
    return _Position(*chosen), acceptance
