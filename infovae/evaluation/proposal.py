"""The proposal r(z|x) of importance sampling, fitted to a frozen decoder's posterior p(z|x).

Of a decoder it uses `log_prob(x, z)` and its gradient in z, and never changes a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from infovae.model.divergences import standard_normal_log_prob
from infovae.model.networks import Decoder, Gaussian

DEGREES_OF_FREEDOM = 16
"""nu of `Proposal`. Where p(z|x) is Gaussian and fitted exactly, the tails cost 0.06 nats at K = 1 in 5 dimensions and
0.4 in 20; at K = 10 about 0.01."""
LEARNING_RATE = 0.1
"""Adam's, for the location and the logarithm of the scales; it falls linearly to 0."""
SMALLEST_START = 0.05
"""Floor of the scales at which a fit starts. Posteriors of unregularised models are so narrow that the gradient sees a
point, and Adam would need hundreds of steps to widen them."""


class Proposal(NamedTuple):
    """r(z|x): for each of n images a multivariate Student t, mu + scale_tril eps sqrt(nu / chi^2_nu), eps ~ N(0, I).

    `mu` is (n, d), `scale_tril` (n, d, d), lower triangular with a positive diagonal. Student t and not Gaussian: r has
    to cover the posterior's tails. Since p(x|z) <= 1 for discrete pixels and r decays polynomially, the weights
    p(x|z) p(z) / r(z|x) are bounded wherever mu and scale_tril are, so that their variance is finite. One chi^2 for all
    dimensions keeps the price low: for a Gaussian posterior in 80 dimensions the effective sample size is still half
    the number of draws.
    """

    mu: Tensor
    scale_tril: Tensor

    def of_images(self, rows: slice) -> Proposal:
        """Return the proposal of some of the images."""
        return Proposal(self.mu[rows], self.scale_tril[rows])

    def sample(self, n_draws: int, generator: torch.Generator) -> Tensor:
        """Return independent draws, (n_draws, n, d)."""
        n, d = self.mu.shape
        eps = standard_normal((n_draws, n, d), generator, self.mu)
        chi = standard_normal((n_draws, n, DEGREES_OF_FREEDOM), generator, self.mu)
        eps = eps * (DEGREES_OF_FREEDOM / chi.square().sum(2, keepdim=True)).sqrt()
        return self.mu + torch.einsum("nij,knj->kni", self.scale_tril, eps)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return the log-density of z (k, n, d) under each image's proposal, (k, n)."""
        nu, d = DEGREES_OF_FREEDOM, self.mu.shape[1]
        log_norm = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d / 2 * math.log(nu * math.pi)
        log_det = self.scale_tril.diagonal(dim1=1, dim2=2).log().sum(1)
        return log_norm - log_det - (nu + d) / 2 * torch.log1p(_squared_radius(self, z) / nu)


def initial_proposal(q_z_given_x: Gaussian) -> Proposal:
    """Return the proposal with the location and the scales of q(z|x), for n images."""
    return Proposal(q_z_given_x.mu.detach().double(), q_z_given_x.std.detach().double().diag_embed())


def fit_proposal(
    decoder: Decoder, initial: Proposal, x: Tensor, generator: torch.Generator, steps: int = 200, batch_size: int = 500
) -> Proposal:
    """Fit r(z|x) to the posterior p(z|x) of the frozen decoder, for these images (n, 1, h, w), by ascent on the ELBO.

    Location and Cholesky factor are free parameters of each image (local variational inference). A fresh encoder,
    trained with the decoder frozen, would have to be trained on other images and would leave its amortisation gap on
    these ones, a different gap for each model and so a bias of the comparison; and a step here costs about three draws
    of the bound, so that at K = 1,000 the fit is not the expense. The covariance is full: an uncorrelated r shrinks to
    the narrow directions of a correlated posterior and misses the wide ones. The bound stays a bound whatever the fit,
    since its draws are made afterwards.

    What is fitted is the Gaussian; `Proposal` then puts heavier tails on it. Adam on one reparameterised draw for each
    of the `steps`, with the gradient that holds r's parameters fixed inside log r (Roeder, Wu and Duvenaud 2017): its
    noise vanishes as r approaches the posterior. `batch_size` images at a time, which bounds the memory.
    """
    require_same_length(initial, x)
    rows = [slice(first, first + batch_size) for first in range(0, len(x), batch_size)]
    fitted = [_fit_batch(decoder, initial.of_images(part), x[part], generator, steps) for part in rows]
    return Proposal(*(torch.cat(parts) for parts in zip(*fitted, strict=True)))


@torch.enable_grad()
def _fit_batch(decoder: Decoder, start: Proposal, x: Tensor, generator: torch.Generator, steps: int) -> Proposal:
    d = start.mu.shape[1]
    identity = torch.eye(d).to(start.mu)
    start_scale = start.scale_tril.diagonal(dim1=1, dim2=2).clamp(SMALLEST_START, 1)
    mu, log_scale = start.mu.clone().requires_grad_(), start_scale.log().requires_grad_()
    # rows relative to their scale, so that one learning rate suits wide and narrow posteriors
    below = (start.scale_tril.tril(-1) / start_scale.unsqueeze(2)).requires_grad_()
    parameters = [mu, log_scale, below]

    def proposal() -> Proposal:
        return Proposal(mu, log_scale.exp().unsqueeze(2) * (below.tril(-1) + identity))

    # A row has (d - 1) / 2 entries below the diagonal on average, and Adam gives each a step of its own whatever its
    # gradient: with the common learning rate their sum drowns the scale, and in 20 dimensions the fit diverges.
    groups: list[dict[str, Any]] = [{"params": [mu, log_scale]}, {"params": [below], "lr": LEARNING_RATE * 2 / d}]
    # the gradient's scale changes by orders of magnitude within 200 steps: a memory of 1,000 steps would be too long
    optimizer = torch.optim.Adam(groups, lr=LEARNING_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0, total_iters=steps)
    for _ in range(steps):
        r = proposal()
        z = r.mu + torch.einsum("nij,nj->ni", r.scale_tril, standard_normal(r.mu.shape, generator, r.mu))
        # the other terms of log r do not depend on z, and its own parameters are held fixed
        log_r = -_squared_radius(Proposal(*(part.detach() for part in r)), z.unsqueeze(0))[0] / 2
        negative_elbo = (log_r - standard_normal_log_prob(z) - decoder.log_prob(x, z.to(x.dtype))).sum()
        # grad, not backward: the decoder's own .grad stays as it was
        for parameter, gradient in zip(parameters, torch.autograd.grad(negative_elbo, parameters), strict=True):
            parameter.grad = gradient
        optimizer.step()
        schedule.step()
    return Proposal(*(part.detach() for part in proposal()))


def standard_normal(shape: Sequence[int], generator: torch.Generator, like: Tensor) -> Tensor:
    """Draw where the generator lives: with one on the CPU the numbers are the same whatever the model's device."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def require_same_length(proposal: Proposal, x: Tensor) -> None:
    """Raise ValueError unless the proposal is for as many images."""
    n = len(proposal.mu)
    if n != len(x):
        raise ValueError(f"a proposal for {n} images, but {len(x)} images: pass the same images to both")


def _squared_radius(proposal: Proposal, z: Tensor) -> Tensor:
    """Return |scale_tril^-1 (z - mu)|^2 for z (k, n, d): (k, n)."""
    difference = (z - proposal.mu).permute(1, 2, 0)  # (n, d, k): one triangular solve for each image
    return torch.linalg.solve_triangular(proposal.scale_tril, difference, upper=False).square().sum(1).T
