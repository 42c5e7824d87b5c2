"""Annealed importance sampling: log p(x) without a proposal, from prior to posterior.

A check of `likelihood` that does not start from an encoder, for cheap decoders. On data simulated from the decoder it
bounds log p(x) from above too.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from infovae.divergences import standard_normal_log_prob
from infovae.evaluation.proposal import standard_normal
from infovae.networks import Decoder

TARGET_ACCEPTANCE = 0.65
"""Of the Hamiltonian transitions; the optimum in many dimensions (Neal 2011)."""


class AnnealedEstimate(NamedTuple):
    """Stochastic bounds on log p(x) by annealing, in nats for each image.

    Attributes
    ----------
    lower : Tensor, shape (n,), float64
        At most log p(x) in expectation.
    upper : Tensor, shape (n,), float64, or None
        At least log p(x) in expectation; only where exact posterior samples were given.
    acceptance : float
        Mean acceptance probability of the Hamiltonian transitions; far below the target, the bounds are loose.
    """

    lower: Tensor
    upper: Tensor | None
    acceptance: float


def annealed_importance_sampling(
    decoder: Decoder,
    x: Tensor,
    latent_dim: int,
    generator: torch.Generator,
    n_temperatures: int = 1000,
    n_chains: int = 10,
    n_leapfrog: int = 2,
    posterior_sample: Tensor | None = None,
) -> AnnealedEstimate:
    """Bounds on log p(x) by annealed importance sampling (Neal 2001) from the prior to the posterior.

    The path is p_t(z) ~ p(z) p(x|z)^beta_t, beta a sigmoid from 0 to 1, with one Hamiltonian transition for each
    temperature, as in Wu, Burda, Salakhutdinov and Grosse (2017). Needs about 2 n_temperatures n_chains n_leapfrog
    gradients of the decoder for each image, the pilot run included: for cheap decoders, and for checking
    `importance_weighted_bound`.

    The step size of each temperature and image is adapted in a pilot run of its own and then held fixed: adapted on
    the way it would depend on the chain's past, the transitions would not leave p_t invariant, and the bounds be void.

    Parameters
    ----------
    x : Tensor, shape (n, 1, h, w)
    latent_dim : int
    generator : torch.Generator
    n_temperatures : int
        Number of steps from 0 to 1. The gap of the bounds falls as 1 / n_temperatures once the chains mix.
    n_chains : int
        Independent chains for each image, whose weights are averaged.
    n_leapfrog : int
        Gradients in each transition. At equal cost more temperatures gave tighter bounds than longer transitions.
    posterior_sample : Tensor, shape (n, d), optional
        An exact draw of p(z|x) for each image: the z from which x was simulated with this decoder. Starts the reverse
        chains of bidirectional Monte Carlo (Grosse, Ghahramani and Adams 2015), which give the upper bound. The draws
        of an encoder are not exact, and the result would be no bound.
    """
    n = len(x)
    x_chains = x.repeat(n_chains, *[1] * (x.ndim - 1))
    ramp = torch.linspace(-4, 4, n_temperatures + 1, dtype=torch.float64).sigmoid()
    betas = ((ramp - ramp[0]) / (ramp[-1] - ramp[0])).tolist()

    @torch.enable_grad()
    def at(z: Tensor) -> _Position:
        z = z.detach().requires_grad_()
        log_likelihood = decoder.log_prob(x_chains, z)
        gradient = torch.autograd.grad(log_likelihood.sum(), z)[0]
        return _Position(z.detach(), log_likelihood.detach(), gradient)

    def prior_sample() -> _Position:
        return at(standard_normal((n_chains * n, latent_dim), generator, x))

    step_sizes = torch.ones(n_temperatures, n).to(x)  # the scale of the prior, where the chains start

    def transition(position: _Position, t: int) -> tuple[_Position, Tensor]:
        return _hamiltonian_step(at, position, betas[t], step_sizes[t - 1].repeat(n_chains), n_leapfrog, generator)

    position = prior_sample()
    for t in range(1, n_temperatures + 1):
        step_sizes[t - 1] = step_sizes[max(t - 2, 0)]
        position, acceptance = transition(position, t)
        step_sizes[t - 1] *= (0.5 * (acceptance.view(n_chains, n).mean(0) - TARGET_ACCEPTANCE)).exp()

    position, log_w, acceptances = prior_sample(), torch.zeros(len(x_chains), dtype=torch.float64, device=x.device), []
    for t in range(1, n_temperatures + 1):
        log_w += (betas[t] - betas[t - 1]) * position.log_likelihood.double()
        position, acceptance = transition(position, t)
        acceptances.append(float(acceptance.mean()))
    lower = _log_mean_exp(log_w.view(n_chains, n), 0)
    if posterior_sample is None:
        return AnnealedEstimate(lower, None, sum(acceptances) / n_temperatures)

    position, log_w = at(posterior_sample.to(x).repeat(n_chains, 1)), torch.zeros_like(log_w)
    for t in range(n_temperatures, 0, -1):
        position, _ = transition(position, t)
        log_w += (betas[t] - betas[t - 1]) * position.log_likelihood.double()
    upper = -_log_mean_exp(-log_w.view(n_chains, n), 0)
    return AnnealedEstimate(lower, upper, sum(acceptances) / n_temperatures)


class _Position(NamedTuple):
    """Where the chains are, z (n, d), with log p(x|z) (n,) and its gradient in z: kept, never computed twice."""

    z: Tensor
    log_likelihood: Tensor
    gradient: Tensor


def _hamiltonian_step(
    at: Callable[[Tensor], _Position],
    position: _Position,
    beta: float,
    step_size: Tensor,
    n_leapfrog: int,
    generator: torch.Generator,
) -> tuple[_Position, Tensor]:
    """One Hamiltonian Monte Carlo transition that leaves p(z) p(x|z)^beta invariant; unit mass, step_size (n,).

    Returns the next position and the acceptance probability, shape (n,).
    """

    def energy(of: _Position, momentum: Tensor) -> Tensor:
        return momentum.square().sum(1) / 2 - standard_normal_log_prob(of.z) - beta * of.log_likelihood

    def force(of: _Position) -> Tensor:
        return beta * of.gradient - of.z

    step = step_size.unsqueeze(1)
    momentum = standard_normal(position.z.shape, generator, position.z)
    start, proposed = energy(position, momentum), position
    for _ in range(n_leapfrog):
        momentum = momentum + step / 2 * force(proposed)
        proposed = at(proposed.z + step * momentum)
        momentum = momentum + step / 2 * force(proposed)
    # a trajectory that diverges has energy inf or nan: rejected
    acceptance = (start - energy(proposed, momentum)).clamp(max=0).exp().nan_to_num(0)
    uniform = torch.rand(acceptance.shape, generator=generator, device=generator.device).to(acceptance)
    accepted = uniform < acceptance
    chosen = (
        torch.where(accepted.view(-1, *[1] * (new.ndim - 1)), new, old)
        for new, old in zip(proposed, position, strict=True)
    )
    return _Position(*chosen), acceptance


def _log_mean_exp(log_w: Tensor, dim: int) -> Tensor:
    return log_w.logsumexp(dim) - math.log(log_w.shape[dim])
