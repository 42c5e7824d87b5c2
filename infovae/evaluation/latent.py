"""What the code knows of the image, and how far its distribution is from the prior: one function per reported number.

Owns the numbers that follow from the codes of an evaluation set, N images, each with its Gaussian q(z|x_i) =
N(mu_i, diag(std_i^2)): rate, mutual information, their difference, active units, log det of the covariance; and the
reconstruction error with codes from q(z|x) and from p(z). Refuses to own distances between samples (`divergences`),
log p(x) (`likelihood`), and the choice of images: every average here is over exactly the images it is given.

Arithmetic on codes is in float64, whatever the codes' type: trained standard deviations reach 1e-4, where squared
distances divided by variances cancel badly in float32.
"""

import math

import torch
from torch import Tensor

from infovae.networks import Decoder, Gaussian

ROWS_PER_CHUNK = 256
"""Rows of the N x N matrix of log-densities held at once: 20 MB for N = 10,000."""


def rate(mu: Tensor, std: Tensor) -> float:
    """Mean over images of KL(q(z|x) || p(z)), in nats; the term that the ELBO pays for (paper, ELBO).

    Parameters
    ----------
    mu, std : Tensor, shape (n, d)
    """
    mu, std = _checked_posteriors(mu, std)
    return float(Gaussian(mu, std).kl().mean())


def mutual_information_cap(n: int) -> float:
    """The largest value, log n nats, that `mutual_information` can return for n images."""
    return math.log(n)


def mutual_information(z: Tensor, mu: Tensor, std: Tensor, chunk: int = ROWS_PER_CHUNK) -> float:
    """I(x; z) under q, in nats, for x uniform over the n given images (paper, information preference).

        I = mean_i [ log q(z_i|x_i) - log (1/n) sum_j q(z_i|x_j) ],    z_i ~ q(z|x_i)

    Unbiased for the mutual information *of these n images*, whose cap is log n. That in turn is below that of the
    population, so at the cap the result says "at least log n" and no more.

    The n x n squared distances are expanded into one matrix product. The terms i = j, which carry the result when the
    posteriors are narrow, are computed from the differences instead, and so are free of cancellation; the others have
    an absolute error of about 1e-16 d max|z - mean|^2 / min(std)^2 nats (1e-5 for d = 80, std = 1e-4).

    Parameters
    ----------
    z : Tensor, shape (n, d)
        One draw from each posterior, in the order of `mu` and `std`.
    mu, std : Tensor, shape (n, d)
    chunk : int
        Rows computed at once; bounds the memory at a few times 8 * chunk * n bytes and does not change the result.

    Returns
    -------
    float
        At most `mutual_information_cap(n)`, always. The noise of the draws can take it below 0.
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
    cap = mutual_information_cap(n)
    return min(float((log_q_own - log_q_mixture).mean()) + cap, cap)


def active_units(mu: Tensor, threshold: float = 0.01) -> int:
    """Number of latent dimensions whose posterior mean moves with x: Var over x of E[z|x] above `threshold`.

    The criterion of Burda, Grosse and Salakhutdinov (2016).

    Parameters
    ----------
    mu : Tensor, shape (n, d)
    """
    return int((_checked_means(mu).var(0) > threshold).sum())


def log_det_covariance_per_dim(mu: Tensor, std: Tensor) -> float:
    """log det Cov[q(z)] / d (paper, variance over-estimation and divergence comparison).

    By the law of total covariance, Cov[q(z)] = Cov_x(mu) + E_x[diag(std^2)], so that no z is drawn. 0 where the
    covariance is that of p(z) = N(0, I), above 0 where q(z) is spread too widely. 0 is necessary for a match, not
    sufficient: factors above and below 1 cancel. For a perfect match, what Cov_x(mu) holds is estimated from n images:
    where that is everything (std = 0), the expected value is about -(d + 1) / (2n).

    Parameters
    ----------
    mu, std : Tensor, shape (n, d)
        Pass draws of z as `mu` and zeros as `std` for the covariance of the draws.

    Returns
    -------
    float
        -inf if the covariance is singular, which needs std = 0 in some direction.
    """
    mu = _checked_means(mu)
    if std.shape != mu.shape or bool((std < 0).any()):
        raise ValueError(
            f"std has shape {tuple(std.shape)}, minimum {float(std.min())}: needed {tuple(mu.shape)}, >= 0"
        )
    covariance = torch.atleast_2d(mu.T.cov()) + std.double().square().mean(0).diag()
    return float(torch.linalg.slogdet(covariance).logabsdet / mu.shape[1])


def mixture_density(grid: Tensor, mu: Tensor, std: Tensor) -> Tensor:
    """The density of q(z) = (1/n) sum_i N(z; mu_i, diag(std_i^2)) at each point of `grid`, (m, d) to (m,)."""
    mu, std = _checked_posteriors(mu, std)
    log_norm = -std.log().sum(1) - mu.shape[1] / 2 * math.log(2 * math.pi) - math.log(len(mu))
    rows = grid.double().split(ROWS_PER_CHUNK)
    return torch.cat([(log_norm - ((z[:, None] - mu) / std).square().sum(2) / 2).logsumexp(1).exp() for z in rows])


@torch.no_grad()
def reconstruction_nll(decoder: Decoder, x: Tensor, z: Tensor, batch_size: int = 500) -> float:
    """Mean of -log p(x|z) in nats per image (sum over pixels, mean over images).

    Parameters
    ----------
    x : Tensor, shape (n, 1, h, w)
    z : Tensor, shape (n, d)
        From q(z|x) for the reconstruction error. From p(z) for what the wrong code costs: the same number if the
        decoder ignores z.
    """
    if len(x) != len(z):
        raise ValueError(f"{len(x)} images and {len(z)} codes: pass one code for each image")
    batches = zip(x.split(batch_size), z.split(batch_size), strict=True)
    return -sum(float(decoder.log_prob(x_batch, z_batch).double().sum()) for x_batch, z_batch in batches) / len(x)


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
