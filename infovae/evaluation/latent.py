"""What the code knows of the image, and how far its distribution is from the prior: one function per reported number.

Owns the numbers that follow from the codes of N images, each with its Gaussian q(z|x_i) = N(mu_i, diag(std_i^2)), and
the levels that a squared MMD is read against. Refuses to own distances between samples (`divergences`) and log p(x)
(`likelihood`). `mu` and `std` are (n, d) throughout; information and rates are in nats per image.

Arithmetic on codes is in float64, whatever the codes' type: trained standard deviations reach their floor, 1e-3,
where squared distances divided by variances cancel badly in float32.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from infovae.config import LatentEvaluation, RunConfig
from infovae.data.datasets import ImageData, observe
from infovae.evaluation.images import Evaluated, encode, in_batches, see
from infovae.model import divergences
from infovae.model.build import Model
from infovae.model.networks import Decoder, Gaussian

ROWS_PER_CHUNK = 256
"""Rows of the N x N matrix of log-densities held at once: 20 MB for N = 10,000."""

MARGIN_NATS = 4.0
"""How far below its cap I(x;z) must lie for `marginal_kl` to be given; there its bias is about 0.13 nats in 10
dimensions."""

N_KEPT = 2000
"""Codes kept for the plot of a two-dimensional latent plane, and posteriors of which its density is made."""

PLANE = torch.linspace(-4, 4, 81)
"""Either axis of the grid on which the density of a two-dimensional q(z) is kept."""

N_AUTHORS = 40_000
"""Codes, and draws of the prior, in the authors' squared MMD."""

AUTHORS_BATCH = 100
"""Images that the authors' code encodes at a time, and normalises by their own statistics."""


def evaluate(
    evaluation: LatentEvaluation, config: RunConfig, model: Model, data: ImageData, generator: torch.Generator
) -> Evaluated:
    """Return what the code knows and how far q(z) is from the prior, on n_images test (or validation) images.

    Beside `squared_mmd` stand the values that it is read against: `squared_mmd_null` (two samples of the prior, once)
    with its standard deviation, `squared_mmd_no_overlap` and `squared_mmd_point_mass` (a code collapsed to 0).
    `marginal_kl` estimates KL(q(z) || p(z)); NaN where I(x;z) is too near its cap. Columns ending in `_authors`: see
    `measure_as_authors`. `squared_mmd_grey` is `squared_mmd_authors` with the running statistics of batch
    normalisation, which `squared_mmd` has too.
    """
    first = slice(min(config.n_train, evaluation.n_images))
    x = see(data, evaluation.split, config, generator, slice(evaluation.n_images))
    q, q_train = encode(model, x), encode(model, see(data, "train", config, generator, first))
    z = q.sample(generator)
    prior = torch.randn(z.shape, generator=generator, device=generator.device)
    n = min(evaluation.n_likelihood, len(x))
    if not config.latent_dim:  # no distribution of codes, and no match to report
        nll = reconstruction_nll(model.decoder, x[:n], z[:n])
        nothing = {"rate": 0.0, "mutual_information": 0.0, "active_units": 0}
        return {**nothing, "reconstruction_nll": nll, "reconstruction_nll_prior": nll}, {}
    mmd = divergences.squared_mmd_chunked(z, prior, divergences.reporting_kernel(config.latent_dim))
    null = _null_level(len(z), config.latent_dim, generator.device)
    nats, information, cap = rate(q.mu, q.std), mutual_information(z, q.mu, q.std), math.log(len(z))
    grey = observe(data.train_images[first], "none", generator).to(z.device)
    whole = grey[: len(grey) // AUTHORS_BATCH * AUTHORS_BATCH or None]  # batches
    metrics = {
        "squared_mmd": mmd.value,
        "squared_mmd_null": null.value,
        "squared_mmd_null_std": null.std,
        "squared_mmd_no_overlap": mmd.no_overlap,
        "squared_mmd_point_mass": squared_mmd_point_mass(config.latent_dim),
        f"log_det_cov_per_dim_{evaluation.split}": log_det_covariance_per_dim(q.mu, q.std),
        "log_det_cov_per_dim_train": log_det_covariance_per_dim(q_train.mu, q_train.std),
        "mutual_information": information,
        "mutual_information_cap": cap,
        "rate": nats,
        "marginal_kl": marginal_kl(nats, information, cap),
        "active_units": active_units(q.mu),
        "reconstruction_nll": reconstruction_nll(model.decoder, x[:n], z[:n]),
        "reconstruction_nll_prior": reconstruction_nll(model.decoder, x[:n], prior[:n]),
        **measure_as_authors(encode(model, whole, AUTHORS_BATCH, batch_statistics=True), generator),
    }
    # the same images, normalised by the running statistics: what the way of normalising is worth
    metrics["squared_mmd_grey"] = measure_as_authors(encode(model, grey), generator)["squared_mmd_authors"]
    labels = data.test_labels if evaluation.split == "test" else data.validation_labels
    kept = {"z": z[:N_KEPT], "labels": labels[: min(N_KEPT, len(z))]}
    if config.latent_dim == 2:
        plane = torch.cartesian_prod(PLANE, PLANE).to(z.device)
        for name, (mu, std) in {evaluation.split: q, "train": q_train}.items():
            density = mixture_density(plane, mu[:N_KEPT], std[:N_KEPT])
            kept[f"density_{name}"] = density.unflatten(0, (len(PLANE), len(PLANE))).float()
    return metrics, {name: tensor.cpu().numpy() for name, tensor in kept.items()}


def squared_mmd_point_mass(dim: int) -> float:
    """Return the squared MMD between N(0, I) and a point at 0 under the reporting kernel.

        1 + (1 + 2/d)^(-d/2) - 2 (1 + 1/d)^(-d/2)

    0.17 in 2 dimensions, 0.16 in 10 and more: a code that has collapsed to a point reads this much, not 1.
    """
    return 1 + (1 + 2 / dim) ** (-dim / 2) - 2 * (1 + 1 / dim) ** (-dim / 2)


def measure_as_authors(q: Gaussian, generator: torch.Generator) -> dict[str, float]:
    """Return the match to the prior as the authors' code measures it: on grey training images, in other units.

    Their batch normalisation has no evaluation mode: a batch of 100 is normalised by its own statistics. That takes
    out of the codes that grey images are not what the encoder was trained on, see `squared_mmd_grey`.

    `squared_mmd_authors`: theirs is a V-statistic of 40,000 codes and 40,000 draws of the prior, which reads
    2 (1 - E k) / 40,000 too high, about 3e-5 where q(z) is the prior. Given is the expected value of that statistic,
    estimated from one draw for each of the n images here: its noise is that of n, its bias that of 40,000.
    `log_det_cov_total_authors`: log det of the covariance of z ~ q(z|x), not divided by the dimension d. Theirs is of
    draws; here the part within q(z|x) is exact. From n images it reads up to d (d + 1) / (2 n) nats too low; theirs has
    50,000.

    Parameters
    ----------
    q : posteriors of n grey training images, pixel values in [0, 1]: for most models not what they were trained on.
        Encoded in batches of `AUTHORS_BATCH`, with `batch_statistics`.
    """
    z = q.sample(generator)
    prior = torch.randn(z.shape, generator=generator, device=z.device)
    mmd = divergences.squared_mmd_chunked(z, prior, divergences.reporting_kernel(z.shape[1]))
    # no_overlap is the sum of the two means within a sample; a V-statistic has k(0) = 1 in 1 / n of its pairs
    return {
        "squared_mmd_authors": mmd.value + (2 - mmd.no_overlap) / N_AUTHORS,
        "log_det_cov_total_authors": z.shape[1] * log_det_covariance_per_dim(q.mu, q.std),
    }


def marginal_kl(rate_nats: float, information: float, cap: float) -> float:
    """Return KL(q(z) || p(z)) = rate - I(x;z) in nats, NaN unless I(x;z) lies `MARGIN_NATS` below its cap.

    Nearer to the cap I(x;z) is an underestimate, and the difference would be no divergence of q(z).
    """
    return rate_nats - information if information < cap - MARGIN_NATS else math.nan


@lru_cache
def _null_level(n: int, dim: int, device: torch.device) -> divergences.NullLevel:
    """Return the reporting kernel's null level: the same for every run of a dimension, so computed once per process."""
    return divergences.squared_mmd_null(
        n, dim, divergences.reporting_kernel(dim), torch.Generator(device).manual_seed(0)
    )


def rate(mu: Tensor, std: Tensor) -> float:
    """Return the mean over images of KL(q(z|x) || p(z)), the term that the ELBO pays for (paper, ELBO)."""
    return float(Gaussian(*_checked_posteriors(mu, std)).kl().mean())


def mutual_information(z: Tensor, mu: Tensor, std: Tensor, chunk: int = ROWS_PER_CHUNK) -> float:
    """Return I(x; z) under q, for x uniform over the n given images (paper, information preference).

        I = mean_i [ log q(z_i|x_i) - log (1/n) sum_j q(z_i|x_j) ],    z_i ~ q(z|x_i)

    z (n, d) holds one draw from each posterior, in their order. Unbiased for the mutual information *of these n
    images*, whose cap is log n. That in turn is below that of the population, so at the cap the result says "at least
    log n" and no more. The noise of the draws can take it below 0, never above the cap.

    The n x n squared distances are expanded into one matrix product. The terms i = j, which carry the result when the
    posteriors are narrow, are computed from the differences instead, and so are free of cancellation; the others have
    an absolute error of about 1e-16 d max|z - mean|^2 / min(std)^2 nats (1e-5 for d = 80, std = 1e-4). Memory is a few
    times 8 chunk n bytes.
    """
    mu, std = _checked_posteriors(mu, std)
    if z.shape != mu.shape:
        raise ValueError(
            f"z has shape {tuple(z.shape)}, mu has {tuple(mu.shape)}: pass one draw of z for each posterior"
        )
    n = len(mu)
    center = mu.mean(0)
    z, mu = z.double() - center, mu - center
    precision = std.pow(-2)
    log_norm = -std.log().sum(1)  # (n,), without the constant -d/2 log(2 pi), which cancels
    log_q_own = log_norm - ((z - mu) / std).square().sum(1) / 2

    # log q(z_i|x_j) = [z_i^2, z_i] . [-precision_j / 2, mu_j precision_j] + offset_j
    offset = log_norm - (mu.square() * precision).sum(1) / 2
    coefficients = torch.cat([-precision / 2, mu * precision], 1).T
    features = torch.cat([z.square(), z], 1)
    log_q_mixture = torch.empty_like(log_norm)
    for rows in torch.arange(n, device=mu.device).split(chunk):
        log_q = torch.addmm(offset, features[rows], coefficients)  # (chunk, n)
        log_q[rows - rows[0], rows] = log_q_own[rows]
        log_q_mixture[rows] = log_q.logsumexp(1)
    cap = math.log(n)
    return min(float((log_q_own - log_q_mixture).mean()) + cap, cap)


def active_units(mu: Tensor, threshold: float = 0.01) -> int:
    """Return how many latent dimensions move with x: Var over x of E[z|x] above `threshold` (Burda et al. 2016)."""
    return int((_checked_means(mu).var(0) > threshold).sum())


def log_det_covariance_per_dim(mu: Tensor, std: Tensor) -> float:
    """Return log det Cov[q(z)] / d (paper, variance over-estimation and divergence comparison).

    By the law of total covariance, Cov[q(z)] = Cov_x(mu) + E_x[diag(std^2)], so that no z is drawn; for the covariance
    of given draws pass them as `mu`, and zeros as `std`. 0 where the covariance is that of p(z) = N(0, I), above 0
    where q(z) is spread too widely. 0 is necessary for a match, not sufficient: factors above and below 1 cancel. For a
    perfect match, what Cov_x(mu) holds is estimated from n images: where that is everything (std = 0), the expected
    value is about -(d + 1) / (2n). -inf if the covariance is singular.
    """
    mu = _checked_means(mu)
    if std.shape != mu.shape or bool((std < 0).any()):
        raise ValueError(
            f"std has shape {tuple(std.shape)}, minimum {float(std.min())}: needed {tuple(mu.shape)}, >= 0"
        )
    covariance = torch.atleast_2d(mu.T.cov()) + std.double().square().mean(0).diag()
    return float(torch.linalg.slogdet(covariance).logabsdet / mu.shape[1])


def mixture_density(grid: Tensor, mu: Tensor, std: Tensor) -> Tensor:
    """Return the density of q(z) = (1/n) sum_i N(z; mu_i, diag(std_i^2)) at each point of `grid`, (m, d) to (m,)."""
    q = Gaussian(*_checked_posteriors(mu, std))
    return torch.cat([q.log_prob(z[:, None]).exp().mean(1) for z in grid.double().split(ROWS_PER_CHUNK)])


@torch.no_grad()
def reconstruction_nll(decoder: Decoder, x: Tensor, z: Tensor, batch_size: int = 500) -> float:
    """Return the mean over images x (n, 1, H, W) of -log p(x|z), summed over pixels.

    With z (n, d) from q(z|x) it is the reconstruction error; with z from p(z) what the wrong code costs: the same
    number if the decoder ignores z.
    """
    if len(x) != len(z):
        raise ValueError(f"{len(x)} images and {len(z)} codes: pass one code for each image")
    return -float(in_batches(decoder.log_prob, x, z, size=batch_size).double().mean())


def _checked_means(mu: Tensor) -> Tensor:
    if mu.ndim != 2 or len(mu) < 2:
        raise ValueError(f"mu has shape {tuple(mu.shape)}: (n, d) with n of at least 2 images is needed")
    return mu.double()


def _checked_posteriors(mu: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    if mu.ndim != 2 or mu.shape != std.shape:
        raise ValueError(f"mu has shape {tuple(mu.shape)}, std {tuple(std.shape)}: both must be (n, d)")
    if not bool((std > 0).all()):
        raise ValueError(
            f"std has the value {float(std.min())}: standard deviations must be positive (not log-variances)"
        )
    return mu.double(), std.double()
