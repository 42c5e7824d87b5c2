"""Divergences between the aggregated posterior q(z) and the prior p(z) = N(0, I), estimated from samples.

Owns: kernels and their bandwidth, squared MMD with its null and no-overlap levels, the Stein variational direction,
KL(q(z)||p(z)) by the minibatch mixture, sliced Wasserstein and Sinkhorn. Refuses: networks, optimisers, weights,
configuration, and everything that needs a critic (`adversarial`). Samples are (n, dim) tensors; every random draw
comes from the generator that is passed in, on the generator's device.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kernel = Callable[[Tensor], Tensor]  # squared distances (n, m) to kernel values (n, m)
KernelName = Literal["rbf", "imq", "energy"]
Bandwidth = Literal["paper", "prior", "median"] | float

IMQ_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
MEDIAN_ROWS = 2_000  # 2 million pairs: the median's relative error is far below anything a kernel can resolve
NULL_ROWS = 2_000  # rows from which the null level's standard deviation is estimated: within about 3 %
SMALLEST_SQ_DIST = 1e-12  # below it float32 distances are rounding, and the gradient of a square root blows up


class NullLevel(NamedTuple):
    """What the unbiased squared MMD reads when both samples come from the prior: mean 0, this spread."""

    value: float  # one draw
    std: float  # over draws


class LargeSampleMmd(NamedTuple):
    """An unbiased squared MMD beside the value it would have if no sample of one kind were near any of the other.

    A value near `no_overlap` says "no overlap", however small it is. NaN for a kernel that does not vanish at infinite
    distance (`energy`), which has no such level.
    """

    value: float
    no_overlap: float


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Return log N(z; 0, I) in nats, summed over dimensions: (..., dim) to (...)."""
    return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)


# --- kernels


def rbf(sq_dist: Tensor, two_sigma_sq: float | Tensor) -> Tensor:
    """Return exp(-sq_dist / (2 sigma^2)), elementwise."""
    return torch.exp(sq_dist / -two_sigma_sq)


def imq(sq_dist: Tensor, dim: int) -> Tensor:
    """Return the sum over scales of C / (C + sq_dist), C = 2 dim scale (Tolstikhin et al. 2018, WAE, section 4)."""
    values, one = torch.zeros_like(sq_dist), sq_dist.new_ones(())
    for scale in IMQ_SCALES:
        c = 2 * dim * scale
        values = torch.addcdiv(values, one, c + sq_dist, value=c)  # values + c / (c + sq_dist), in one pass
    return values


def energy(sq_dist: Tensor) -> Tensor:
    """Return -distance, so that the "squared MMD" is the squared energy distance (Sejdinovic et al. 2013).

    Conditionally positive definite: the squared MMD is a divergence, a single kernel mean is not meaningful.
    """
    return -sq_dist.clamp_min(SMALLEST_SQ_DIST).sqrt()


def two_sigma_squared(dim: int, bandwidth: Bandwidth, reference: Tensor | None = None) -> float | Tensor:
    """Return 2 sigma^2 of the RBF kernel.

    Parameters
    ----------
    bandwidth
        `"paper"`: dim^2, which makes the kernel exp(-d^2 / dim^2) as in the authors' scripts of the toy and of few
        images. `"prior"`: 2 dim, the mean squared distance of two draws of N(0, I), as in their code of the PixelCNN.
        `"median"`: the median squared distance within `reference`, without gradient, from at most `MEDIAN_ROWS` evenly
        spaced rows. A positive number: sigma itself.
    reference
        (n, dim) samples, needed by `"median"` alone.

    Raises
    ------
    ValueError
        For an unknown rule, a sigma that is not positive and finite, or a reference on the CPU that has no positive
        median.
    """
    if bandwidth == "paper":
        return float(dim**2)
    if bandwidth == "prior":
        return float(2 * dim)
    if bandwidth == "median":
        return _median_sq_dist(reference)
    if isinstance(bandwidth, str) or not 0 < bandwidth < math.inf:
        raise ValueError(f'bandwidth is {bandwidth!r}: give "paper", "prior", "median" or a positive number (sigma)')
    return 2 * float(bandwidth) ** 2


def _median_sq_dist(reference: Tensor | None) -> float | Tensor:
    if reference is None or len(reference) < 2:
        raise ValueError('bandwidth "median" is taken from samples: pass reference with two rows or more')
    rows = reference.detach()[:: math.ceil(len(reference) / MEDIAN_ROWS)]
    here = rows.cpu() if rows.device.type == "mps" else rows  # which has no pdist
    on_device = torch.pdist(here).square().median().to(rows.device)
    if on_device.device.type != "cpu":  # looking at it would wait for the device; a median of 0 makes the loss nan
        return on_device
    median = on_device.item()
    if not 0 < median < math.inf:
        raise ValueError(f'the median squared distance is {median}: use bandwidth "prior", or samples that differ')
    return median


def make_kernel(name: KernelName, dim: int, bandwidth: Bandwidth = "paper", reference: Tensor | None = None) -> Kernel:
    """Return the kernel of this name as a function of squared distances.

    `bandwidth` and `reference` (see `two_sigma_squared`) belong to `"rbf"`. `"imq"` takes its scales from `dim` and
    `"energy"` has none, so both refuse a bandwidth other than the default rather than ignore it.
    """
    if name == "rbf":
        return partial(rbf, two_sigma_sq=two_sigma_squared(dim, bandwidth, reference))
    if name not in ("imq", "energy"):
        raise ValueError(f'kernel is {name!r}: give "rbf", "imq" or "energy"')
    if bandwidth != "paper":
        raise ValueError(f'kernel "{name}" has no bandwidth, but bandwidth is {bandwidth!r}: leave it out or use "rbf"')
    return partial(imq, dim=dim) if name == "imq" else energy


def reporting_kernel(dim: int) -> Kernel:
    """Return the kernel of every reported squared MMD: exp(-d^2 / (2 dim)), that of the authors' PixelCNN code."""
    return make_kernel("rbf", dim, "prior")


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Return |x_i - y_j|^2, (n, dim) and (m, dim) to (n, m), by one matrix product."""
    products = torch.addmm(y.square().sum(1), x, y.T, alpha=-2)
    return products.add_(x.square().sum(1, keepdim=True)).clamp_min_(0)


# --- maximum mean discrepancy


def squared_mmd(x: Tensor, y: Tensor, kernel: Kernel, unbiased: bool) -> Tensor:
    """Return E k(x, x') + E k(y, y') - 2 E k(x, y), differentiable (Gretton et al. 2012, equations 3 and 5).

    Parameters
    ----------
    unbiased
        True: the U-statistic, without the pairs (i, i), 0 in expectation when the distributions are equal, and so
        negative about half of the time. False: the V-statistic, never negative, 2 (k(0) - E k(x, x')) / n too high for
        two equal distributions and samples of n. The pairs (i, i) are constants: for given samples of equal size the
        gradients of the two differ in the weight of the within-sample pairs alone, by n / (n - 1). That weight pulls
        codes inwards where the kernel is flat: in expectation over batches of 100 the V-statistic of N(0, v I) under
        the paper's kernel is least at v = 0.98, 0.91, 0.82, 0.62 and 0.22 in 2, 10, 20, 40 and 80 dimensions.
    """
    between = kernel(squared_distances(x, y)).mean()
    return _mean_within(x, kernel, unbiased) + _mean_within(y, kernel, unbiased) - 2 * between


def _mean_within(x: Tensor, kernel: Kernel, unbiased: bool) -> Tensor:
    n = len(x)
    _require_pairs(n)
    values = kernel(squared_distances(x, x))
    distinct = values.sum() - values.diagonal().sum()
    if unbiased:
        return distinct / (n * (n - 1))
    return (distinct + n * kernel(x.new_zeros(()))) / n**2  # k(0) itself: the diagonal has rounding in it


def _require_pairs(n: int) -> None:
    if n < 2:
        raise ValueError(f"{n} sample(s) have no pair: pass two rows or more")


@torch.no_grad()
def squared_mmd_chunked(x: Tensor, y: Tensor, kernel: Kernel, chunk: int = 256) -> LargeSampleMmd:
    """Return the unbiased squared MMD of large samples and its no-overlap value, in memory bounded by chunk^2.

    Blocks are computed in the samples' precision and added in float64. A block of 256 x 256 float32 numbers stays in a
    core's cache, which makes it about twice as fast as one of 1,024 x 1,024.
    """
    within = _mean_within_chunked(x, kernel, chunk) + _mean_within_chunked(y, kernel, chunk)
    total = x.new_zeros((), dtype=torch.float64)
    for rows in x.split(chunk):
        for columns in y.split(chunk):
            total += _sum_float64(kernel(squared_distances(rows, columns)))
    vanishes = kernel(x.new_full((), math.inf)).item() == 0
    return LargeSampleMmd(within - 2 * total.item() / (len(x) * len(y)), within if vanishes else math.nan)


def _mean_within_chunked(x: Tensor, kernel: Kernel, chunk: int) -> float:
    n = len(x)
    _require_pairs(n)
    blocks = x.split(chunk)
    total = x.new_zeros((), dtype=torch.float64)
    for i, rows in enumerate(blocks):
        values = kernel(squared_distances(rows, rows))
        total += _sum_float64(values) - _sum_float64(values.diagonal())
        for columns in blocks[i + 1 :]:
            total += 2 * _sum_float64(kernel(squared_distances(rows, columns)))
    return total.item() / (n * (n - 1))


def _sum_float64(values: Tensor) -> Tensor:
    # sum(dtype=float64) would first copy the whole block to float64
    return values.sum(-1).sum(dtype=torch.float64)


@torch.no_grad()
def squared_mmd_null(n: int, dim: int, kernel: Kernel, generator: torch.Generator) -> NullLevel:
    """Return the unbiased squared MMD of two independent prior samples of size n, and its standard deviation.

    With the centred kernel h(x, y) = k(x, y) - E k(x, .) - E k(., y) + E k, all pairs of the U-statistic are
    uncorrelated at q = p, and its variance is exactly

        Var = (4 / (n (n - 1)) + 4 / n^2) E h(x, x')^2.

    E h^2 is estimated, without bias, from `NULL_ROWS` prior draws (U-centring: Szekely and Rizzo 2014, proposition 1).
    The null distribution is a weighted sum of chi-squared variables: skewed to the right, the more the fewer dimensions
    the kernel resolves, so two standard deviations above 0 are exceeded in more than 2 % of draws.
    """

    def draw(rows: int) -> Tensor:
        return torch.randn(rows, dim, generator=generator, device=generator.device)

    value = squared_mmd_chunked(draw(n), draw(n), kernel).value
    h_squared = _mean_squared_centred_kernel(draw(NULL_ROWS), kernel)
    return NullLevel(value, math.sqrt(max(0.0, h_squared * (4 / (n * (n - 1)) + 4 / n**2))))


@torch.no_grad()
def squared_mmd_v_null(n: int, m: int, dim: int, kernel: Kernel, generator: torch.Generator) -> float:
    """Return the expected V-statistic of two prior samples of sizes n and m, (1/n + 1/m) (k(0) - E k(x, x')).

    E k is estimated, without bias, from `NULL_ROWS` prior draws.
    """
    x = torch.randn(NULL_ROWS, dim, generator=generator, device=generator.device)
    k_0 = kernel(x.new_zeros(())).item()
    return (1 / n + 1 / m) * (k_0 - _mean_within(x, kernel, unbiased=True).item())


def _mean_squared_centred_kernel(x: Tensor, kernel: Kernel) -> float:
    n = len(x)
    values = kernel(squared_distances(x.double(), x.double())).fill_diagonal_(0)
    sums = values.sum(0)
    centred = values - (sums + sums[:, None]) / (n - 2) + sums.sum() / ((n - 1) * (n - 2))
    return (centred.fill_diagonal_(0).square().sum() / (n * (n - 3))).item()


# --- Stein


@torch.no_grad()
def stein_direction(z: Tensor, bandwidth: Bandwidth, include_self: bool = False) -> Tensor:
    """Return the direction in which each sample moves to decrease KL(q||p) fastest, p = N(0, I): (n, dim) to (n, dim).

    phi(z_i) = mean_j [k(z_j, z_i) grad log p(z_j) + grad_{z_j} k(z_j, z_i)], k the RBF kernel, without gradient
    (Liu and Wang 2016, equation 8).

    Parameters
    ----------
    bandwidth
        See `two_sigma_squared`; `"median"` is taken from z.
    include_self
        Whether j = i, which contributes -z_i / n, is in the mean.

        False for a training loss, where each minibatch is a fresh draw of q: the other samples are independent of
        z_i, so that E phi(z_i) is the exact kernelised gradient and 0 at p (Stein's identity). With j = i, a code
        N(0, v I) stops instead where 2 (n - 1) M (1 - v) = s + 4 v, with s = 2 sigma^2 and
        M = (s / (s + 4 v))^(dim/2). For n = 100 and bandwidth `"paper"` that is v = 0.44 in 10 dimensions, and 0,
        a collapse, in 20 and more; for `"prior"` 0.76, 0.39 and 0.10 in 10, 40 and 80. Trained on fresh noise in 2 to
        80 dimensions, codes land within 3 % of that v, and within 3 % of v = 1 without j = i (in the tests).
        The authors' code includes it.

        True for one fixed set of particles moved again and again: there sum_{j != i} z_j = -z_i once the mean is 0,
        and leaving j = i out pushes every particle outwards by z_i / n, up to about v = 1 + s / (2 n).
    """
    n, dim = z.shape
    _require_pairs(n)
    two_sigma_sq = two_sigma_squared(dim, bandwidth, z)
    values = rbf(squared_distances(z, z), two_sigma_sq)
    if not include_self:
        values.fill_diagonal_(0)
    attraction = -values @ z
    repulsion = (2 / two_sigma_sq) * (values.sum(1, keepdim=True) * z - values @ z)
    return (attraction + repulsion) / (n if include_self else n - 1)


def stein_loss(z: Tensor, bandwidth: Bandwidth, include_self: bool = False) -> Tensor:
    """Return -mean_i phi(z_i) . z_i, phi constant: its gradient at z_i is -phi(z_i) / n, its value means nothing."""
    return -(stein_direction(z, bandwidth, include_self) * z).sum(1).mean()


# --- KL divergence


def kl_aggregate_minibatch(z: Tensor, mu: Tensor, std: Tensor) -> Tensor:
    """Return KL(q(z)||p(z)) in nats with q(z) = (1/n) sum_j N(z; mu_j, std_j^2); differentiable; memory n^2 dim.

    Estimates E_q[log q(z) - log p(z)] from z_i drawn from N(mu_i, std_i^2), all (n, dim).

    It is too high in expectation, and by how much depends on n: the component that z_i came from has weight 1/n in the
    mixture, where it has none in q(z), so the estimate is the rate E KL(q(z|x)||p(z)) minus a lower bound of I(x;z)
    (the InfoNCE bound with the true density: Poole et al. 2019, equation 12). The latter cannot exceed log n: for
    I(x;z) well above log n this is the rate - log n, whose gradient charges for information just as the ELBO does. The
    excess is at least I(x;z) - log n and vanishes as n grows. Leaving the own component out would be too low instead,
    without limit.
    """
    n = len(z)
    standardised = (z[:, None] - mu) / std  # (z, component, dim)
    log_components = standard_normal_log_prob(standardised) - std.log().sum(-1)
    log_q = torch.logsumexp(log_components, dim=1) - math.log(n)
    return (log_q - standard_normal_log_prob(z)).mean()


# --- optimal transport


def sliced_wasserstein(x: Tensor, y: Tensor, n_projections: int, generator: torch.Generator) -> Tensor:
    """Return the squared sliced 2-Wasserstein distance of two samples of equal size; differentiable.

    The mean over random directions of the squared 2-Wasserstein distance of the projections, which sorting solves
    exactly (Bonneel et al. 2015). Positive in expectation for two samples of one distribution.
    """
    if len(x) != len(y):
        raise ValueError(f"sorting pairs samples of equal size, got {len(x)} and {len(y)}: drop rows of the larger")
    directions = torch.randn(x.shape[1], n_projections, generator=generator, device=generator.device).to(x)
    directions = directions / directions.norm(dim=0)
    return ((x @ directions).sort(0).values - (y @ directions).sort(0).values).square().mean()


def sinkhorn_energy(x: Tensor, y: Tensor, blur: float, diameter: float) -> Tensor:
    """Return the minibatch energy distance under an entropic transport cost W; differentiable.

        mean_{a, b} W(x_a, y_b) - W(x_1, x_2) / 2 - W(y_1, y_2) / 2,    a, b in {1, 2}

    with x_1, x_2 and y_1, y_2 the halves of the two samples, without the last row of an odd number (Salimans et al.
    2018, in OT-GAN; over 4, in units of the squared distance). W is the optimal transport cost for |x - y|^2 plus
    2 blur^2 times the plan's KL to the product: `blur` is a length, structure below it is not seen. 0 in expectation,
    and without a slope, where the distributions are equal, whatever the size of the samples.

    For a training loss, where each minibatch is a fresh draw. The debiased W(x, y) - W(x, x) / 2 - W(y, y) / 2 (Feydy
    et al. 2019) compares a sample with itself, which is nearer to itself than to a second draw, and so is least for a
    code too narrow: trained on fresh noise with 100 samples and blur 0.5, a code stops at standard deviation 0.99, 0.69
    and below 0.4 in 2, 10 and 40 dimensions; with this one within 4 % of 1 in all of them.

    Parameters
    ----------
    diameter
        A length of the order of the samples' diameter, from which the solver's temperature falls to blur. Given, so
        that the host need not wait for the device to measure it.
    """
    from geomloss import SamplesLoss

    n = min(len(x), len(y)) // 2
    if n < 1:
        raise ValueError(f"samples of {len(x)} and {len(y)} have no halves: pass two rows or more")
    x_1, x_2, y_1, y_2 = x[:n], x[n : 2 * n], y[:n], y[n : 2 * n]
    left, right = torch.stack([x_1, x_1, x_2, x_2, x_1, y_1]), torch.stack([y_1, y_2, y_1, y_2, x_2, y_2])
    transport = SamplesLoss("sinkhorn", p=2, blur=blur, diameter=diameter, debias=False, backend="tensorized")
    costs = 2 * transport(left, right)  # geomloss moves mass at |x - y|^2 / 2, with weight blur^2 on the KL term
    return costs[:4].mean() - costs[4:].sum() / 2
