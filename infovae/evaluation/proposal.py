"""The proposal r(z|x) of importance sampling, fitted to a frozen decoder's posterior p(z|x), and mixtures of several.

Of a decoder it uses `log_prob(x, z)` and its gradient in z, and never changes a parameter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from infovae.divergences import standard_normal_log_prob
from infovae.networks import Decoder, Gaussian

DEGREES_OF_FREEDOM = 16
"""nu of `Proposal`. Where p(z|x) is Gaussian and fitted exactly, the tails cost 0.06 nats at K = 1 in 5 dimensions and
0.4 in 20; at K = 10 no more than 0.01."""


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

    @property
    def n_images(self) -> int:
        """How many images it is for."""
        return len(self.mu)

    def of_images(self, rows: slice) -> Proposal:
        """Return the proposal of some of the images."""
        return Proposal(self.mu[rows], self.scale_tril[rows])

    def sample(self, n_draws: int, generator: torch.Generator) -> Tensor:
        """Independent draws, shape (n_draws, n, d)."""
        n, d = self.mu.shape
        eps = standard_normal((n_draws, n, d), generator, self.mu)
        chi_squared = (
            standard_normal((n_draws, n, DEGREES_OF_FREEDOM), generator, self.mu).square().sum(2, keepdim=True)
        )
        eps = eps * (DEGREES_OF_FREEDOM / chi_squared).sqrt()
        return self.mu + torch.einsum("nij,knj->kni", self.scale_tril, eps)

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z, shape (k, n, d), under each image's proposal: shape (k, n)."""
        nu, d = DEGREES_OF_FREEDOM, self.mu.shape[1]
        log_norm = math.lgamma((nu + d) / 2) - math.lgamma(nu / 2) - d / 2 * math.log(nu * math.pi)
        log_det = self.scale_tril.diagonal(dim1=1, dim2=2).log().sum(1)
        return log_norm - log_det - (nu + d) / 2 * torch.log1p(_squared_radius(self, z) / nu)


class Mixture(NamedTuple):
    """A proposal that is one of several for the same images, each with the same probability."""

    components: tuple[Proposal, ...]

    @property
    def n_images(self) -> int:
        """How many images it is for."""
        return self.components[0].n_images

    def of_images(self, rows: slice) -> Mixture:
        """Return the proposal of some of the images."""
        return Mixture(tuple(component.of_images(rows) for component in self.components))

    def sample(self, n_draws: int, generator: torch.Generator) -> Tensor:
        """Independent draws, shape (n_draws, n, d)."""
        z = torch.stack([component.sample(n_draws, generator) for component in self.components])
        shape = (1, *z.shape[1:3], 1)
        chosen = torch.randint(len(z), shape, generator=generator, device=generator.device).to(z.device)
        return z.gather(0, chosen.expand(-1, -1, -1, z.shape[3]))[0]

    def log_prob(self, z: Tensor) -> Tensor:
        """Log-density of z, shape (k, n, d), under each image's mixture: shape (k, n)."""
        log_r = torch.stack([component.log_prob(z) for component in self.components])
        return log_r.logsumexp(0) - math.log(len(log_r))


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
    require_same_length(initial, x)
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
    """Drawn where the generator lives: with one on the CPU the numbers are the same whatever the model's device."""
    return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def _squared_radius(proposal: Proposal, z: Tensor) -> Tensor:
    """|scale_tril^-1 (z - mu)|^2 for z of shape (k, n, d): shape (k, n)."""
    difference = (z - proposal.mu).permute(1, 2, 0)  # (n, d, k): one triangular solve for each image
    return torch.linalg.solve_triangular(proposal.scale_tril, difference, upper=False).square().sum(1).T


def require_same_length(proposal: Proposal | Mixture, x: Tensor) -> None:
    """Raise ValueError unless the proposal is for as many images."""
    if proposal.n_images != len(x):
        raise ValueError(
            f"a proposal for {proposal.n_images} images, but {len(x)} images: pass the same images to both"
        )
