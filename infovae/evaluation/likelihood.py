"""log p(x) of a trained decoder under z ~ p(z) = N(0, I), estimated from below (paper, table 1).

Owns the two estimators: importance sampling with a proposal that is fitted to the frozen decoder, and annealed
importance sampling, which needs no proposal and, on data simulated from the decoder, bounds log p(x) from above too.
Refuses to own the model: of a decoder it uses `log_prob(x, z)` and its gradient in z, and never changes a parameter.

The encoder's q(z|x) enters as a starting point only. For a model that was not trained on the ELBO it is a poor
approximation of p(z|x), and importance sampling from it measures that, not the decoder. And log E_q[p(x|z)] -
KL(q(z|x) || p(z)), which other replications report, is no bound: by Jensen's inequality it exceeds the ELBO, and where
q(z|x) = p(z|x) it exceeds log p(x) itself, by 1/2 - log(2)/2 = 0.15 nats for each latent dimension that x determines.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from infovae.divergences import standard_normal_log_prob
from infovae.networks import Decoder, Gaussian

DEGREES_OF_FREEDOM = 16
"""nu of `Proposal`. Where p(z|x) is Gaussian and fitted exactly, the tails cost 0.06 nats at K = 1 in 5 dimensions and
0.4 in 20; at K = 10 no more than 0.01."""
TARGET_ACCEPTANCE = 0.65
"""Of the Hamiltonian transitions; the optimum in many dimensions (Neal 2011)."""


class Proposal(NamedTuple):
    """r(z|x): for each of n images a multivariate Student t, mu + scale_tril eps sqrt(nu / chi^2_nu), eps ~ N(0, I).

    Student t and not Gaussian: r has to cover the posterior's tails. Since p(x|z) <= 1 for discrete pixels and r decays
    polynomially, the weights p(x|z) p(z) / r(z|x) are bounded wherever mu and scale_tril are, so that their variance is
    finite. One chi^2 for all dimensions keeps the price low: for a Gaussian posterior in 80 dimensions the effective
    sample size is still half the number of draws.

    Attributes
    ----------
    mu : Tensor, shape (n, d)
    scale_tril : Tensor, shape (n, d, d)
        Lower triangular with positive diagonal.
    """

    mu: Tensor
    scale_tril: Tensor

    def sample(self, n_draws: int, generator: torch.Generator) -> Tensor:
        """Independent draws, shape (n_draws, n, d)."""
        n, d = self.mu.shape
        eps = _standard_normal((n_draws, n, d), generator, self.mu)
        chi_squared = (
            _standard_normal((n_draws, n, DEGREES_OF_FREEDOM), generator, self.mu).square().sum(2, keepdim=True)
        )
        eps = eps * (DEGREES_OF_FREEDOM / chi_squared).sqrt()
        return self.mu + torch.einsum("nij,knj->kni", self.scale_tril, eps)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z, shape (k, n, d), under each image's proposal: shape (k, n)."""
        nu, d = DEGREES_OF_FREEDOM, self.mu.shape[1]
        log_norm = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d / 2 * math.log(nu * math.pi)
        log_det = self.scale_tril.diagonal(dim1=1, dim2=2).log().sum(1)
        return log_norm - log_det - (nu + d) / 2 * torch.log1p(_squared_radius(self, z) / nu)


class LikelihoodEstimate(NamedTuple):
    """Importance-weighted bounds log p_K(x), K -> nats for each image, and how well the proposal fits.

    Attributes
    ----------
    log_p_x : dict of int to Tensor, shape (n,), float64
        A lower bound on log p(x) in expectation for each K, increasing in K in expectation.
    effective_sample_size : Tensor, shape (n,), float64
        (sum w)^2 / sum w^2 over all draws, from 1 to the largest K. Near 1, the bound rests on a single draw and more
        draws would raise it.
    """

    log_p_x: dict[int, Tensor]
    effective_sample_size: Tensor

    def mean_log_p_x(self) -> dict[int, float]:
        """K -> mean over images, in nats per image."""
        return {k: float(log_p_x.mean()) for k, log_p_x in self.log_p_x.items()}


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


def initial_proposal(q_z_given_x: Gaussian) -> Proposal:
    """The proposal with the location and scales of the encoder's q(z|x) for the n images."""
    return Proposal(q_z_given_x.mu.detach().double(), q_z_given_x.std.detach().double().diag_embed())


def fit_proposal(
    decoder: Decoder,
    initial: Proposal,
    x: Tensor,
    generator: torch.Generator,
    steps: int = 200,
    learning_rate: float = 0.1,
    minimum_initial_scale: float = 0.05,
    batch_size: int = 500,
) -> Proposal:
    """Fit r(z|x) to the posterior p(z|x) of the frozen decoder, for these images, by ascent on the ELBO.

    Location and Cholesky factor are free parameters of each image (local variational inference). A fresh encoder,
    trained with the decoder frozen, would have to be trained on other images and would leave its amortisation gap on
    these ones, a different gap for each model and so a bias of the comparison; and a step here costs about three draws
    of the bound, so that at K = 1,000 the fit is not the expense. The covariance is full: an uncorrelated r shrinks to
    the narrow directions of a correlated posterior and misses the wide ones. The bound stays a bound whatever the fit,
    since its draws are made afterwards.

    What is fitted is the Gaussian; `Proposal` then puts heavier tails on it. Adam on one reparameterised draw for each
    step, learning rate falling linearly to 0, with the gradient that holds r's parameters fixed inside log r (Roeder,
    Wu and Duvenaud 2017): its noise vanishes as r approaches the posterior.

    Parameters
    ----------
    initial : Proposal
        Where to start: `initial_proposal` of the encoder's output.
    x : Tensor, shape (n, 1, h, w)
        The images to be evaluated, binarised as they will be.
    generator : torch.Generator
    steps, learning_rate
        Gradient steps for every image; Adam's learning rate for mu and the log of the scales.
    minimum_initial_scale
        A floor for the starting scales. Posteriors of unregularised models are so narrow that the gradient sees a
        point, and Adam would need hundreds of steps to widen them.
    batch_size : int
        Images fitted at the same time; bounds the memory.
    """
    _require_same_length(initial, x)
    batches = zip(initial.mu.split(batch_size), initial.scale_tril.split(batch_size), x.split(batch_size), strict=True)
    fitted = []
    for mu, scale_tril, x_batch in batches:
        scale = scale_tril.diagonal(dim1=1, dim2=2)
        start = scale_tril.tril(-1) + scale.clamp(minimum_initial_scale, 1).diag_embed()
        fitted.append(_fit_batch(decoder, Proposal(mu, start), x_batch, generator, steps, learning_rate))
    return Proposal(*(torch.cat(parts) for parts in zip(*fitted, strict=True)))


@torch.enable_grad()
def _fit_batch(
    decoder: Decoder, start: Proposal, x: Tensor, generator: torch.Generator, steps: int, learning_rate: float
) -> Proposal:
    d = start.mu.shape[1]
    identity = torch.eye(d).to(start.mu)
    start_scale = start.scale_tril.diagonal(dim1=1, dim2=2)
    mu, log_scale = start.mu.clone().requires_grad_(), start_scale.log().requires_grad_()
    # rows relative to their scale, so that one learning rate suits wide and narrow posteriors
    below = (start.scale_tril.tril(-1) / start_scale.unsqueeze(2)).requires_grad_()
    parameters = [mu, log_scale, below]

    def proposal() -> Proposal:
        return Proposal(mu, log_scale.exp().unsqueeze(2) * (below.tril(-1) + identity))

    # A row has (d - 1) / 2 entries below the diagonal on average, and Adam gives each a step of its own whatever its
    # gradient: with the common learning rate their sum drowns the scale, and in 20 dimensions the fit diverges.
    groups: list[dict[str, Any]] = [{"params": [mu, log_scale]}, {"params": [below], "lr": learning_rate * 2 / d}]
    # the gradient's scale changes by orders of magnitude within 200 steps: a memory of 1,000 steps would be too long
    optimizer = torch.optim.Adam(groups, lr=learning_rate, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, total_iters=steps)
    for _ in range(steps):
        r = proposal()
        z = r.mu + torch.einsum("nij,nj->ni", r.scale_tril, _standard_normal(r.mu.shape, generator, r.mu))
        # the other terms of log r do not depend on z, and its own parameters are held fixed
        log_r = -_squared_radius(Proposal(*(part.detach() for part in r)), z.unsqueeze(0))[0] / 2
        negative_elbo = (log_r - standard_normal_log_prob(z) - decoder.log_prob(x, z.to(x.dtype))).sum()
        # grad, not backward: the decoder's own .grad stays as it was
        for parameter, gradient in zip(parameters, torch.autograd.grad(negative_elbo, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
    return Proposal(*(part.detach() for part in proposal()))


@torch.no_grad()
def estimate_log_likelihood(
    decoder: Decoder,
    q_z_given_x: Gaussian,
    x: Tensor,
    generator: torch.Generator,
    n_draws: int,
    fit_steps: int,
    chunk: int,
) -> LikelihoodEstimate:
    """Fit a proposal to the frozen decoder and return the bounds for K = 1, 10, ... up to n_draws.

    A decoder without a code (latent dimension 0) needs neither: its log p(x) is exact, the same for every K, and its
    effective sample size is NaN.

    Parameters
    ----------
    q_z_given_x : Gaussian
        The encoder's posteriors of the images: where the fit starts.
    x : Tensor, shape (n, 1, h, w)
    n_draws : int
        A power of ten.
    fit_steps : int
        For each image.
    chunk : int
        Images fitted at the same time, and pairs (x, z) in one call of the decoder. 1,000 images of 28 x 28 fall out of
        a CPU's caches: the PixelCNN took 2.7 times as long for each pair as with 100.
    """
    n_samples = powers_of_ten(n_draws)
    if q_z_given_x.mu.shape[1] == 0:
        batches = zip(x.split(chunk), q_z_given_x.mu.split(chunk), strict=True)
        exact = torch.cat([decoder.log_prob(x_batch, no_code).double() for x_batch, no_code in batches])
        return LikelihoodEstimate(dict.fromkeys(n_samples, exact), torch.full_like(exact, math.nan))
    start = initial_proposal(q_z_given_x)
    proposal = fit_proposal(decoder, start, x, generator, steps=fit_steps, batch_size=chunk)
    return importance_weighted_bound(decoder, proposal, x, generator, n_samples, chunk)


def powers_of_ten(largest: int) -> tuple[int, ...]:
    """1, 10, 100, ... up to `largest`: the K at which bounds are reported."""
    return tuple(10**exponent for exponent in range(len(str(largest))))


@torch.no_grad()
def importance_weighted_bound(
    decoder: Decoder,
    proposal: Proposal,
    x: Tensor,
    generator: torch.Generator,
    n_samples: Sequence[int] = (1, 10, 100, 1000),
    chunk: int = 1000,
) -> LikelihoodEstimate:
    """Importance-weighted bounds on log p(x) (Burda, Grosse and Salakhutdinov 2016), for the K in `n_samples`.

        log p_K(x) = log (1/K) sum_k w_k,    w_k = p(x|z_k) p(z_k) / r(z_k|x),    z_k ~ r(z|x)

    All K share one set of log-weights; a K below the largest is the average of log p_K over the disjoint groups of K
    draws, so each is unbiased for its own bound.

    Parameters
    ----------
    proposal : Proposal
        For exactly these images.
    x : Tensor, shape (n, 1, h, w)
    generator : torch.Generator
    n_samples : sequence of int
        Each must divide the largest.
    chunk : int
        Pairs (x, z) in one call of the decoder.
    """
    largest = max(n_samples)
    if min(n_samples) < 1 or any(largest % k for k in n_samples):
        raise ValueError(f"n_samples={tuple(n_samples)}: each must be positive and divide the largest, {largest}")
    _require_same_length(proposal, x)
    batches = zip(proposal.mu.split(chunk), proposal.scale_tril.split(chunk), x.split(chunk), strict=True)
    log_w = [_log_weights(decoder, Proposal(mu, tril), part, generator, largest, chunk) for mu, tril, part in batches]
    return _estimate(torch.cat(log_w, 1), n_samples)


def _estimate(log_w: Tensor, n_samples: Sequence[int]) -> LikelihoodEstimate:
    """Bounds and effective sample size from log-weights of shape (draws, n)."""
    largest = len(log_w)
    log_p_x = {k: _log_mean_exp(log_w.view(largest // k, k, -1), 1).mean(0) for k in n_samples}
    effective_sample_size = (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()
    return LikelihoodEstimate(log_p_x, effective_sample_size)


def _log_weights(
    decoder: Decoder, proposal: Proposal, x: Tensor, generator: torch.Generator, n_draws: int, chunk: int
) -> Tensor:
    """log p(x|z) + log p(z) - log r(z|x) for n_draws draws, shape (n_draws, n), float64."""
    n = len(x)
    draws_per_call = max(1, chunk // n)
    log_w = []
    for start in range(0, n_draws, draws_per_call):
        k = min(draws_per_call, n_draws - start)
        z = proposal.sample(k, generator).to(x.dtype)
        log_p_x_given_z = decoder.log_prob(x.repeat(k, *[1] * (x.ndim - 1)), z.flatten(0, 1)).view(k, n)
        z = z.double()  # the z that the decoder saw, so that rounding it changes no weight
        log_w.append(log_p_x_given_z.double() + standard_normal_log_prob(z) - proposal.log_prob(z))
    return torch.cat(log_w)


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
        return at(_standard_normal((n_chains * n, latent_dim), generator, x))

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
    momentum = _standard_normal(position.z.shape, generator, position.z)
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


def _standard_normal(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Drawn where the generator lives: with one on the CPU the numbers are the same whatever the model's device."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def _squared_radius(proposal: Proposal, z: Tensor) -> Tensor:
    """|scale_tril^-1 (z - mu)|^2 for z of shape (k, n, d): shape (k, n)."""
    difference = (z - proposal.mu).permute(1, 2, 0)  # (n, d, k): one triangular solve for each image
    return torch.linalg.solve_triangular(proposal.scale_tril, difference, upper=False).square().sum(1).T


def _require_same_length(proposal: Proposal, x: Tensor) -> None:
    if len(proposal.mu) != len(x):
        raise ValueError(f"a proposal for {len(proposal.mu)} images, but {len(x)} images: pass the same images to both")


def _log_mean_exp(log_w: Tensor, dim: int) -> Tensor:
    return log_w.logsumexp(dim) - math.log(log_w.shape[dim])
