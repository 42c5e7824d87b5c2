"""Divergences against closed forms between Gaussians; each check is one that a plausible wrong version fails."""

import math
import statistics

import pytest
import torch
from geomloss import SamplesLoss
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from infovae.model.divergences import (
    Bandwidth,
    Kernel,
    KernelName,
    energy,
    imq,
    kl_aggregate_minibatch,
    make_kernel,
    rbf,
    sinkhorn_energy,
    sliced_wasserstein,
    squared_distances,
    squared_mmd,
    squared_mmd_chunked,
    squared_mmd_null,
    squared_mmd_v_null,
    standard_normal_log_prob,
    stein_direction,
    stein_loss,
    two_sigma_squared,
)

DIMS = (2, 10, 40, 80)
KERNELS: tuple[KernelName, ...] = ("rbf", "imq", "energy")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def assert_mean(samples: list[float], expected: float, standard_errors: float = 4) -> None:
    error = statistics.stdev(samples) / math.sqrt(len(samples))
    assert abs(statistics.mean(samples) - expected) < standard_errors * error, (
        statistics.mean(samples),
        expected,
        error,
    )


def expected_rbf(mean_difference: Tensor, summed_variance: Tensor, s: float) -> float:
    """E exp(-|x - y|^2 / s) of two independent diagonal Gaussians."""
    factors = (1 + 2 * summed_variance / s).rsqrt() * torch.exp(-mean_difference.square() / (s + 2 * summed_variance))
    return factors.prod().item()


def closed_form_squared_mmd_rbf(m1: Tensor, s1: Tensor, m2: Tensor, s2: Tensor, s: float) -> float:
    """Squared MMD between N(m1, diag s1^2) and N(m2, diag s2^2) for the kernel exp(-d^2 / s)."""
    zero = torch.zeros_like(m1)
    return (
        expected_rbf(zero, 2 * s1.square(), s)
        + expected_rbf(zero, 2 * s2.square(), s)
        - 2 * expected_rbf(m1 - m2, s1.square() + s2.square(), s)
    )


def two_gaussians(dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    steps = torch.linspace(0, 1, dim, dtype=torch.float64)
    return 0.4 * steps, 0.5 + 0.5 * steps, torch.zeros_like(steps), torch.ones_like(steps)


# --- density and kernels


def test_standard_normal_log_prob() -> None:
    z = torch.tensor([[0.0, 0.0, 0.0], [1.0, -2.0, 3.0]])
    peak = -1.5 * math.log(2 * math.pi)  # summed over the three dimensions
    torch.testing.assert_close(standard_normal_log_prob(z), torch.tensor([peak, peak - 7]))


def test_kernel_values() -> None:
    three = torch.tensor(3.0)
    assert make_kernel("rbf", 4)(three).item() == pytest.approx(math.exp(-3 / 16))  # the authors' exp(-d^2 / dim^2)
    assert make_kernel("rbf", 4, "prior")(three).item() == pytest.approx(math.exp(-3 / 8))
    assert make_kernel("rbf", 4, 0.5)(three).item() == pytest.approx(math.exp(-3 / 0.5))
    assert imq(three, dim=4).item() == pytest.approx(sum(8 * s / (8 * s + 3) for s in (0.1, 0.2, 0.5, 1, 2, 5, 10)))
    assert energy(three).item() == pytest.approx(-math.sqrt(3))


def test_prior_bandwidth_is_the_mean_squared_distance_of_two_prior_draws() -> None:
    x, y = torch.randn(2, 20_000, 5, generator=seeded())
    assert (x - y).square().sum(1).mean().item() == pytest.approx(two_sigma_squared(5, "prior"), rel=0.03)


def test_median_bandwidth_counts_distinct_pairs_and_carries_no_gradient() -> None:
    reference = torch.tensor([[0.0], [1.0], [3.0]], requires_grad=True)  # squared distances 1, 4, 9
    assert two_sigma_squared(1, "median", reference) == pytest.approx(4)  # 1 if the zeros of (i, i) were counted
    large = torch.randn(3_001, 3, generator=seeded())
    assert two_sigma_squared(3, "median", large) == pytest.approx(torch.pdist(large).square().median().item(), rel=0.05)


@pytest.mark.parametrize("bandwidth", ["wide", 0.0, -1.0, math.nan, math.inf])
def test_bad_bandwidths_are_named(bandwidth: Bandwidth) -> None:
    with pytest.raises(ValueError, match=f"bandwidth is {bandwidth!r}"):
        make_kernel("rbf", 2, bandwidth)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="pass reference"):
        make_kernel("rbf", 2, "median")
    with pytest.raises(ValueError, match="median squared distance is 0"):
        make_kernel("rbf", 2, "median", reference=torch.ones(5, 2))
    with pytest.raises(ValueError, match='"imq" has no bandwidth'):
        make_kernel("imq", 2, "median")
    with pytest.raises(ValueError, match="kernel is 'cosine'"):
        make_kernel("cosine", 2)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="1 sample"):
        squared_mmd(torch.ones(1, 2), torch.ones(3, 2), energy, unbiased=True)


def test_squared_distances() -> None:
    x, y = torch.randn(6, 3, generator=seeded()), torch.randn(4, 3, generator=seeded(1))
    torch.testing.assert_close(squared_distances(x, y), (x[:, None] - y).square().sum(-1))


# --- squared MMD


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("bandwidth", ["paper", "prior"])
def test_unbiased_squared_mmd_is_unbiased(dim: int, bandwidth: Bandwidth) -> None:
    m1, s1, m2, s2 = two_gaussians(dim)
    kernel = make_kernel("rbf", dim, bandwidth)
    expected = closed_form_squared_mmd_rbf(m1, s1, m2, s2, float(two_sigma_squared(dim, bandwidth)))
    generator, n, unbiased, biased = seeded(), 20, [], []
    for _ in range(300):
        x = m1 + s1 * torch.randn(n, dim, generator=generator, dtype=torch.float64)
        y = m2 + s2 * torch.randn(n, dim, generator=generator, dtype=torch.float64)
        unbiased.append(squared_mmd(x, y, kernel, unbiased=True).item())
        biased.append(squared_mmd(x, y, kernel, unbiased=False).item())
    assert_mean(unbiased, expected)
    with pytest.raises(AssertionError):
        assert_mean(biased, expected)
    # The V-statistic is off by the pairs (i, i): (1 - E k) / n for either sample.
    within = expected_rbf(0 * m1, 2 * s1**2, float(two_sigma_squared(dim, bandwidth)))
    within += expected_rbf(0 * m2, 2 * s2**2, float(two_sigma_squared(dim, bandwidth)))
    assert_mean(biased, expected + (2 - within) / n)


@pytest.mark.parametrize("dim", DIMS)
def test_chunked_squared_mmd_of_a_large_float32_sample_meets_the_closed_form(dim: int) -> None:
    m1, s1, m2, s2 = (parameter.float() for parameter in two_gaussians(dim))
    kernel = make_kernel("rbf", dim)
    x = m1 + s1 * torch.randn(3_000, dim, generator=seeded())
    y = m2 + s2 * torch.randn(3_000, dim, generator=seeded(1))
    blocks = [squared_mmd_chunked(*pair, kernel).value for pair in zip(x.split(300), y.split(300), strict=True)]
    expected = closed_form_squared_mmd_rbf(*two_gaussians(dim), float(two_sigma_squared(dim, "paper")))
    standard_error = statistics.stdev(blocks) / math.sqrt(10)  # of ten blocks of 300: about that of all 3,000
    assert abs(squared_mmd_chunked(x, y, kernel).value - expected) < 4 * standard_error
    assert 4 * standard_error < 0.6 * expected


@pytest.mark.parametrize("dim", [1, 10, 80])
def test_energy_kernel_meets_the_closed_form(dim: int) -> None:
    # E|N(0, v I)| = sqrt(2 v) Gamma((dim + 1) / 2) / Gamma(dim / 2)
    unit = math.sqrt(2) * math.exp(math.lgamma((dim + 1) / 2) - math.lgamma(dim / 2))
    v = 0.25
    expected = unit * (2 * math.sqrt(1 + v) - math.sqrt(2) - math.sqrt(2 * v))
    generator, values = seeded(), []
    for _ in range(200):
        x, y = torch.randn(2, 30, dim, generator=generator)
        values.append(squared_mmd(x, 0.5 * y, energy, unbiased=True).item())
    assert_mean(values, expected)


def test_imq_kernel_meets_the_closed_form() -> None:
    # C / (C + r) = E_t exp(-t r / C) with t ~ Exp(1), so that E k is an integral of RBF expectations
    dim, v = 10, 0.25

    def expected(variance: float) -> float:
        return sum(
            quad(lambda t, c=2 * dim * scale: math.exp(-t) * (1 + 2 * variance * t / c) ** (-dim / 2), 0, math.inf)[0]
            for scale in (0.1, 0.2, 0.5, 1, 2, 5, 10)
        )

    kernel, generator, values = make_kernel("imq", dim), seeded(), []
    for _ in range(200):
        x, y = torch.randn(2, 30, dim, generator=generator)
        values.append(squared_mmd(x, 0.5 * y, kernel, unbiased=True).item())
    assert_mean(values, expected(2) + expected(2 * v) - 2 * expected(1 + v))


@settings(deadline=None, max_examples=30)
@given(
    n=st.integers(2, 40), m=st.integers(2, 40), dim=st.integers(1, 5), chunk=st.integers(1, 50), seed=st.integers(0, 99)
)
def test_chunked_equals_direct_and_the_v_statistic_is_a_squared_distance(
    n: int, m: int, dim: int, chunk: int, seed: int
) -> None:
    generator = seeded(seed)
    x = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    y = 2 + torch.randn(m, dim, generator=generator, dtype=torch.float64)
    for name in KERNELS:
        kernel = make_kernel(name, dim)
        direct = squared_mmd(x, y, kernel, unbiased=True).item()
        assert squared_mmd_chunked(x, y, kernel, chunk).value == pytest.approx(direct, abs=1e-10)
        assert squared_mmd(y.flip(0), x, kernel, unbiased=True).item() == pytest.approx(direct, abs=1e-10)
        assert squared_mmd(x, y, kernel, unbiased=False).item() >= -1e-10
        assert squared_mmd(x, x, kernel, unbiased=False).item() == pytest.approx(0, abs=1e-6)


def rbf_null_std(n: int, dim: int, s: float) -> float:
    """The exact standard deviation at q = p = N(0, I), from E k^2, E_x (E_x' k)^2 and E k in closed form."""
    h_squared = (s / (s + 8)) ** (dim / 2) - 2 * (s**2 / ((s + 2) * (s + 6))) ** (dim / 2) + (s / (s + 4)) ** dim
    return math.sqrt(h_squared * (4 / (n * (n - 1)) + 4 / n**2))


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("bandwidth", ["paper", "prior"])
def test_null_level_has_mean_zero_and_the_exact_spread(dim: int, bandwidth: Bandwidth) -> None:
    n, kernel, generator = 40, make_kernel("rbf", dim, bandwidth), seeded(3)
    exact = rbf_null_std(n, dim, float(two_sigma_squared(dim, bandwidth)))
    null = squared_mmd_null(n, dim, kernel, generator)
    assert null.std == pytest.approx(exact, rel=0.05)
    assert 0 < abs(null.value) < 5 * exact
    draws = torch.randn(400, 2, n, dim, generator=generator, dtype=torch.float64)
    values = [squared_mmd(x, y, kernel, unbiased=True).item() for x, y in draws]
    assert_mean(values, 0)
    assert statistics.stdev(values) == pytest.approx(exact, rel=0.15)


def test_float32_rounding_is_far_below_the_null_level() -> None:
    # 80 dimensions and exp(-d^2 / dim^2): every kernel value is within 5 % of 1
    x, y = torch.randn(2, 2_000, 80, generator=seeded())
    kernel = make_kernel("rbf", 80)
    rounding = squared_mmd_chunked(x, y, kernel).value - squared_mmd_chunked(x.double(), y.double(), kernel).value
    assert abs(rounding) < 0.02 * rbf_null_std(2_000, 80, 6_400)


def test_no_overlap_level_is_reached_by_samples_far_apart() -> None:
    x, y = torch.randn(2, 300, 3, generator=seeded(), dtype=torch.float64)
    for name in ("rbf", "imq"):
        kernel = make_kernel(name, 3)
        level = squared_mmd_chunked(x, y, kernel, chunk=100).no_overlap
        assert squared_mmd(x, y + 1e4, kernel, unbiased=True).item() == pytest.approx(level, abs=1e-5)
        assert level > 10 * abs(squared_mmd(x, y, kernel, unbiased=True).item())
    assert math.isnan(squared_mmd_chunked(x, y, energy).no_overlap)


def test_the_paper_kernel_with_sigma_1_sees_nothing_in_40_dimensions() -> None:
    # the trap that the no-overlap level is there for: a tiny squared MMD between a shrunken code and the prior
    x, y = torch.randn(2, 200, 40, generator=seeded())
    kernel = make_kernel("rbf", 40, 1.0)
    assert abs(squared_mmd_chunked(0.9 * x, y, kernel).value) < 1e-5
    assert squared_mmd_chunked(0.9 * x, y, kernel).no_overlap < 1e-5


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("name", KERNELS)
def test_minimising_squared_mmd_moves_samples_to_the_prior(name: KernelName, unbiased: bool) -> None:
    generator = seeded()
    kernel: Kernel = make_kernel(name, 2, "prior") if name == "rbf" else make_kernel(name, 2)
    x = (0.8 + 0.3 * torch.randn(200, 2, generator=generator)).requires_grad_()
    optimizer = torch.optim.Adam([x], lr=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.02, 200)
    for _ in range(200):
        optimizer.zero_grad()
        squared_mmd(x, torch.randn(200, 2, generator=generator), kernel, unbiased).backward()
        optimizer.step()
        schedule.step()
    assert x.detach().mean(0).abs().max() < 0.15
    assert torch.cov(x.detach().T).diagonal().sub(1).abs().max() < 0.25
    fresh = torch.randn(2_000, 2, generator=generator)
    assert squared_mmd_chunked(x.detach(), fresh, kernel).value < 2 * squared_mmd_null(200, 2, kernel, generator).std


@pytest.mark.parametrize(("dim", "variance"), [(2, 0.98), (10, 0.913), (20, 0.816), (40, 0.616), (80, 0.215)])
def test_expected_v_statistic_of_the_paper_kernel_is_least_below_the_prior(dim: int, variance: float) -> None:
    n, two_sigma_sq = 100, float(dim**2)

    def within(v: float) -> float:
        return 1 / n + (1 - 1 / n) * (1 + 4 * v / two_sigma_sq) ** (-dim / 2)

    def expected(v: float) -> float:
        return within(v) + within(1.0) - 2 * (1 + 2 * (1 + v) / two_sigma_sq) ** (-dim / 2)

    best = minimize_scalar(expected, bounds=(0.01, 2.0), method="bounded").x
    assert best == pytest.approx(variance, abs=1e-3)
    generator = torch.Generator().manual_seed(0)
    kernel = make_kernel("rbf", dim, "paper")
    draws = [torch.randn(2, n, dim, generator=generator, dtype=torch.float64) for _ in range(300)]
    values = [float(squared_mmd(best**0.5 * z, prior, kernel, unbiased=False)) for z, prior in draws]
    error = statistics.stdev(values) / len(values) ** 0.5
    assert abs(statistics.fmean(values) - expected(best)) < 4 * error


def test_energy_gradient_is_finite_where_samples_coincide() -> None:
    x = torch.ones(3, 2, requires_grad=True)
    squared_mmd(x, torch.ones(4, 2), energy, unbiased=False).backward()
    assert x.grad is not None and x.grad.isfinite().all()


# --- Stein


def expected_attraction(dim: int, v: float, s: float) -> float:
    """E z_i . phi(z_i) over independent z from N(0, v I), without j = i."""
    return 2 * dim * v * (1 - v) / (s + 4 * v) * (s / (s + 4 * v)) ** (dim / 2)


def test_stein_direction_is_its_definition() -> None:
    z = torch.randn(6, 3, generator=seeded(), dtype=torch.float64)
    for include_self in (False, True):
        expected = torch.zeros_like(z)
        for i in range(6):
            others = [j for j in range(6) if include_self or j != i]
            for j in others:
                z_j = z[j].clone().requires_grad_()
                value = rbf((z_j - z[i]).square().sum(), two_sigma_sq=9.0)
                (gradient,) = torch.autograd.grad(value, z_j)
                expected[i] += (-z[j] * value.detach() + gradient) / len(others)
        torch.testing.assert_close(stein_direction(z, "paper", include_self), expected)


def test_stein_loss_has_minus_the_direction_over_n_as_its_gradient() -> None:
    z = torch.randn(7, 3, generator=seeded(), requires_grad=True)
    for include_self in (False, True):
        (gradient,) = torch.autograd.grad(stein_loss(z, "median", include_self), z)
        torch.testing.assert_close(gradient, -stein_direction(z, "median", include_self) / 7)


@pytest.mark.parametrize("dim", DIMS)
@pytest.mark.parametrize("v", [0.5, 1.0])
def test_stein_direction_meets_its_closed_form_without_self_and_shrinks_with_it(dim: int, v: float) -> None:
    n, generator = 50, seeded()
    for bandwidth in ("paper", "prior"):
        expected = expected_attraction(dim, v, float(two_sigma_squared(dim, bandwidth)))
        without, with_self = [], []
        for _ in range(100):
            z = math.sqrt(v) * torch.randn(n, dim, generator=generator)
            without.append((z * stein_direction(z, bandwidth)).sum(1).mean().item())
            with_self.append((z * stein_direction(z, bandwidth, include_self=True)).sum(1).mean().item())
        assert_mean(without, expected)
        assert_mean(with_self, (n - 1) / n * expected - v * dim / n)
        with pytest.raises(AssertionError):
            assert_mean(with_self, expected)


@pytest.mark.parametrize("dim", DIMS)
def test_stein_direction_is_zero_in_expectation_at_the_prior(dim: int) -> None:
    generator, point = seeded(), torch.linspace(-1, 2, dim)
    directions = []
    for _ in range(200):
        z = torch.randn(50, dim, generator=generator)
        z[0] = point
        directions.append(stein_direction(z, "prior")[0])
    stacked = torch.stack(directions)
    t = stacked.mean(0) / (stacked.std(0) / math.sqrt(len(stacked)))
    assert t.square().mean() < 1 + 5 * math.sqrt(2 / dim)  # a mean of squared, nearly normal, t values
    assert stein_direction(2 + torch.randn(50, dim, generator=generator), "prior").mean() < 0


@pytest.mark.parametrize("dim", DIMS)
def test_fresh_samples_trained_by_the_stein_loss_reach_the_prior(dim: int) -> None:
    n, s = 256, 2 * dim
    n_steps = 500 if dim == 80 else 300

    def train(include_self: bool) -> tuple[Tensor, float]:
        generator = seeded()
        mu, log_std = torch.ones(dim, requires_grad=True), torch.full((dim,), math.log(0.6), requires_grad=True)
        optimizer = torch.optim.Adam([mu, log_std], lr=0.03)
        schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, n_steps)
        for _ in range(n_steps):
            z = mu + log_std.exp() * torch.randn(n, dim, generator=generator)
            optimizer.zero_grad()
            stein_loss(z, "prior", include_self).backward()
            optimizer.step()
            schedule.step()
        return mu.detach(), 2 * log_std.mean().item()

    mu, log_det_per_dim = train(include_self=False)
    assert mu.square().mean().sqrt() < 0.03
    assert log_det_per_dim == pytest.approx(0, abs=0.03)
    # With j = i the code stops where the pull of the other samples outweighs -z_i / n, as the docstring derives.
    stops_at = brentq(lambda v: (n - 1) * expected_attraction(dim, v, s) - v * dim, 1e-6, 1)
    assert train(include_self=True)[1] == pytest.approx(math.log(stops_at), abs=0.03)


@pytest.mark.parametrize("dim", DIMS)
def test_a_fixed_set_of_particles_pushed_along_the_direction_reaches_the_prior(dim: int) -> None:
    n, s = 500, 2 * dim
    z = 0.5 + 0.8 * torch.randn(n, dim, generator=seeded())
    step = 1.5 * ((s + 4) / s) ** (dim / 2)  # stable: the mean moves by 1.5 of its distance to 0
    for _ in range(120):
        z = z + step * stein_direction(z, "prior", include_self=True)
    covariance = torch.cov(z.T)
    assert z.mean(0).norm() < 0.05
    assert covariance.diagonal().mean().item() == pytest.approx(1, abs=0.12)
    assert torch.logdet(covariance).item() / dim == pytest.approx(0, abs=0.12)


def test_a_fixed_set_of_particles_without_self_is_pushed_too_far_out() -> None:
    z = torch.randn(100, 10, generator=seeded())
    for _ in range(2_000):
        z = z + stein_direction(z, "paper")
    assert torch.cov(z.T).diagonal().mean() > 1.4  # up to 1 + s / (2 n) = 1.5 to first order


# --- KL divergence


def linear_gaussian(n: int, dim: int, a: float, b: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw z from N(a x, b^2) with x from N(0, I), so that q(z) = N(0, (a^2 + b^2) I)."""
    mu = a * torch.randn(n, dim, generator=generator, dtype=torch.float64)
    std = torch.full_like(mu, b)
    return mu + std * torch.randn(n, dim, generator=generator, dtype=torch.float64), mu, std


def test_minibatch_kl_falls_to_the_closed_form_from_above() -> None:
    a, b, generator = 1.2, 0.8, seeded()
    v = a**2 + b**2
    exact = 0.5 * (v - 1 - math.log(v))
    excess = []
    for n, repeats in ((10, 1_000), (100, 200), (1_000, 10)):
        values = [kl_aggregate_minibatch(*linear_gaussian(n, 1, a, b, generator)).item() for _ in range(repeats)]
        excess.append((statistics.mean(values) - exact, statistics.stdev(values) / math.sqrt(repeats)))
    assert excess[0][0] > 6 * excess[0][1] and excess[1][0] > 0
    assert excess[2][0] == pytest.approx(0, abs=0.03)
    assert excess[0][0] > 5 * excess[1][0]  # the bias falls as 1 / n


def test_minibatch_kl_is_the_rate_less_log_n_once_the_information_exceeds_log_n() -> None:
    n, dim, b = 50, 10, 0.01
    z, mu, std = linear_gaussian(n, dim, 1.0, b, seeded())
    z = mu + std * (z - mu).sign()  # squared residuals at their mean
    rate = 0.5 * (mu.square() + b**2 - 1 - 2 * math.log(b)).sum(1).mean().item()
    prior_terms = standard_normal_log_prob(z).mean() - (standard_normal_log_prob(mu) - dim * b**2 / 2).mean()
    assert (kl_aggregate_minibatch(z, mu, std) + prior_terms).item() == pytest.approx(rate - math.log(n), abs=1e-3)


def test_minimising_the_minibatch_kl_moves_a_wide_and_shifted_code_to_the_prior() -> None:
    generator = seeded()
    shift = torch.tensor([2.0, -1.0], requires_grad=True)
    log_scale = torch.tensor([1.0, -1.0], requires_grad=True)
    optimizer = torch.optim.Adam([shift, log_scale], lr=0.05)
    for _ in range(200):
        mu = shift + log_scale.exp() * torch.randn(128, 2, generator=generator)
        std = 0.4 * torch.ones_like(mu)
        optimizer.zero_grad()
        kl_aggregate_minibatch(mu + std * torch.randn(128, 2, generator=generator), mu, std).backward()
        optimizer.step()
    assert shift.detach().abs().max() < 0.15
    assert (log_scale.detach().exp().square() + 0.16).sub(1).abs().max() < 0.2


# --- optimal transport


@pytest.mark.parametrize("dim", DIMS)
def test_sliced_wasserstein_meets_the_closed_form(dim: int) -> None:
    # SW2^2 between N(0, I) and N(m, s^2 I): |m|^2 / dim + (1 - s)^2
    generator = seeded()
    m = torch.linspace(-1, 1, dim)
    x, y = torch.randn(2, 4_000, dim, generator=generator)
    estimate = sliced_wasserstein(x, m + 0.5 * y, 300, generator).item()
    assert estimate == pytest.approx(m.square().mean().item() + 0.25, rel=0.1)


def test_sliced_wasserstein_of_one_dimension_is_exact() -> None:
    x = torch.tensor([[3.0], [0.0], [1.0]])
    y = torch.tensor([[1.0], [5.0], [2.0]])  # sorted pairs (0, 1), (1, 2), (3, 5)
    assert sliced_wasserstein(x, y, 4, seeded()).item() == pytest.approx((1 + 1 + 4) / 3)
    with pytest.raises(ValueError, match="3 and 2"):
        sliced_wasserstein(x, y[:2], 4, seeded())


@pytest.mark.parametrize("name", KERNELS)
def test_null_level_of_the_v_statistic_is_its_mean_over_prior_batches(name: KernelName) -> None:
    kernel, generator, n, dim = make_kernel(name, 3), seeded(1), 20, 3
    level = squared_mmd_v_null(n, n, dim, kernel, seeded())
    draws = torch.randn(2000, 2, n, dim, generator=generator)
    values = torch.stack([squared_mmd(x, y, kernel, unbiased=False) for x, y in draws])
    assert level == pytest.approx(values.mean().item(), rel=0.03)


def test_null_level_of_the_v_statistic_is_the_closed_form() -> None:
    # E exp(-|x - y|^2 / s) = (1 + 4 / s)^(-dim / 2), s = dim^2
    expected = (1 / 100 + 1 / 200) * (1 - (1 + 4 / 9) ** -1.5)
    level = squared_mmd_v_null(100, 200, 3, make_kernel("rbf", 3, "paper"), seeded())
    assert level == pytest.approx(expected, rel=0.01)


def sinkhorn(x: Tensor, y: Tensor, blur: float) -> Tensor:
    """The debiased Sinkhorn divergence, in the units of `sinkhorn_energy`."""
    return 2 * SamplesLoss("sinkhorn", p=2, blur=blur, backend="tensorized")(x, y)


def test_sinkhorn_energy_is_the_transport_between_the_samples_less_that_within_them() -> None:
    # halves of one repeated point: every transport cost is the squared distance of two points
    x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    y = torch.tensor([[5.0], [5.0], [8.0], [8.0]])
    between, within = (25 + 64 + 16 + 49) / 4, (1 + 9) / 2
    for odd in (x, torch.cat([x, torch.tensor([[100.0]])])):
        assert sinkhorn_energy(odd, y, 0.5, 8.0).item() == pytest.approx(between - within, rel=1e-5)
    with pytest.raises(ValueError, match="no halves"):
        sinkhorn_energy(x[:1], y, 0.5, 8.0)


@pytest.mark.parametrize("dim", [2, 10])
def test_sinkhorn_energy_has_no_slope_at_the_prior_and_sinkhorn_has(dim: int) -> None:
    """Of the expectation over batches of 40, in the standard deviation of the code."""
    std, generator = torch.ones((), requires_grad=True), seeded()
    slopes: dict[str, list[float]] = {"energy": [], "plain": []}
    for _ in range(60):
        x, y = std * torch.randn(40, dim, generator=generator), torch.randn(40, dim, generator=generator)
        slopes["energy"].append(torch.autograd.grad(sinkhorn_energy(x, y, 0.5, 10.0), std, retain_graph=True)[0].item())
        slopes["plain"].append(torch.autograd.grad(sinkhorn(x, y, 0.5), std)[0].item())
    means = {name: torch.tensor(values).mean().item() for name, values in slopes.items()}
    errors = {name: torch.tensor(values).std().item() / 60**0.5 for name, values in slopes.items()}
    assert abs(means["energy"]) < 3 * errors["energy"]
    assert dim == 2 or means["plain"] > 10 * errors["plain"]
