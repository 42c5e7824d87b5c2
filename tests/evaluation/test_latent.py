"""Numbers of the code against closed forms, above all of a linear-Gaussian encoder: z = W x + noise, x ~ N(0, I)."""

import math
import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm
from torch import Tensor

from infovae.evaluation.latent import (
    N_AUTHORS,
    active_units,
    log_det_covariance_per_dim,
    marginal_kl,
    measure_as_authors,
    mixture_density,
    mutual_information,
    rate,
    reconstruction_nll,
    squared_mmd_point_mass,
)
from infovae.model.divergences import reporting_kernel, squared_mmd_chunked
from infovae.model.networks import Decoder, Gaussian

WEIGHT = torch.tensor([[1.0, 0.5, 0.0], [-0.3, 0.2, 0.8]], dtype=torch.float64)
NOISE = 0.4
COVARIANCE = WEIGHT @ WEIGHT.T + NOISE**2 * torch.eye(2, dtype=torch.float64)
Codes = tuple[Tensor, Tensor, Tensor]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def linear_gaussian() -> Codes:
    """z, mu and std of 10,000 images in 3 dimensions, coded in 2."""
    x = torch.randn(10_000, 3, generator=generator(), dtype=torch.float64)
    mu = x @ WEIGHT.T
    std = torch.full_like(mu, NOISE)
    return mu + std * torch.randn(mu.shape, generator=generator(1), dtype=torch.float64), mu, std


def whitened(n: int, d: int) -> Tensor:
    """Points whose mean is 0 and whose unbiased covariance is the identity, exactly."""
    q, _ = torch.linalg.qr(torch.cat([torch.ones(n, 1), torch.randn(n, d, generator=generator())], 1).double())
    return q[:, 1:] * math.sqrt(n - 1)


# Closed forms. The sampling error of a mean over 10,000 images is about 0.015 in each.


def test_mutual_information_of_the_linear_gaussian_encoder(linear_gaussian: Codes) -> None:
    expected = float(torch.logdet(COVARIANCE / NOISE**2)) / 2
    assert 1.5 < expected < 3  # far from 0 and from the cap, where wrong estimators agree too
    assert mutual_information(*linear_gaussian) == pytest.approx(expected, abs=0.05)


def test_rate_of_the_linear_gaussian_encoder(linear_gaussian: Codes) -> None:
    _, mu, std = linear_gaussian
    expected = float(WEIGHT.square().sum() + 2 * NOISE**2 - 2 - 4 * math.log(NOISE)) / 2
    assert rate(mu, std) == pytest.approx(expected, abs=0.05)


def test_rate_less_information_is_the_divergence_of_the_linear_gaussian_encoder(linear_gaussian: Codes) -> None:
    expected = float(COVARIANCE.trace() - 2 - torch.logdet(COVARIANCE)) / 2
    assert rate(*linear_gaussian[1:]) - mutual_information(*linear_gaussian) == pytest.approx(expected, abs=0.05)


def test_log_det_covariance_of_the_linear_gaussian_encoder(linear_gaussian: Codes) -> None:
    z, mu, std = linear_gaussian
    expected = float(torch.logdet(COVARIANCE)) / 2
    assert log_det_covariance_per_dim(mu, std) == pytest.approx(expected, abs=0.03)
    assert log_det_covariance_per_dim(z, torch.zeros_like(z)) == pytest.approx(expected, abs=0.03)


def test_rate_is_the_integral_that_defines_it() -> None:
    def density_times_log_ratio(z: float) -> float:
        return norm.pdf(z, 0.7, 0.3) * (norm.logpdf(z, 0.7, 0.3) - norm.logpdf(z))

    one_dim = quad(density_times_log_ratio, -3, 4)[0]
    mu, std = torch.full((5, 4), 0.7).double(), torch.full((5, 4), 0.3).double()
    assert rate(mu, std) == pytest.approx(4 * one_dim, rel=1e-6)


# Mutual information


def test_mutual_information_is_the_mixture_of_all_posteriors() -> None:
    mu = torch.randn(50, 3, generator=generator(), dtype=torch.float64)
    std = 0.1 + torch.rand(50, 3, generator=generator(1), dtype=torch.float64)
    z = mu + std * torch.randn(50, 3, generator=generator(2), dtype=torch.float64)
    log_q = torch.distributions.Normal(mu, std).log_prob(z.unsqueeze(1)).sum(2)  # (z, posterior)
    expected = float((log_q.diagonal() - log_q.logsumexp(1) + math.log(50)).mean())
    for chunk in (1, 7, 50, 256):
        assert mutual_information(z, mu, std, chunk) == pytest.approx(expected, abs=1e-10)
    assert mutual_information(z.roll(1, 0), mu, std) < 0 < expected  # codes in the wrong order are no information


@pytest.mark.parametrize(("d", "std"), [(2, 1e-4), (80, 1e-4), (80, 1e-3)])
def test_narrow_posteriors_tell_groups_of_equal_images_apart(d: int, std: float) -> None:
    """Four copies of each of 200 images: I = log 200. Squared distances of 1e11 must cancel for the copies."""
    mu = (1000 + 3 * torch.randn(200, d, generator=generator(), dtype=torch.float64)).repeat(4, 1)
    stds = torch.full_like(mu, std)
    z = mu + std * torch.randn(mu.shape, generator=generator(1), dtype=torch.float64)
    assert mutual_information(z, mu, stds) == pytest.approx(math.log(200), abs=1e-4)


@pytest.mark.parametrize("scale", [1e-4, 1e-6, 1e-7, 1e-8])
def test_mutual_information_reaches_its_cap_exactly(scale: float) -> None:
    mu = torch.randn(300, 10, generator=generator(), dtype=torch.float64)
    std = torch.full_like(mu, scale)
    value = mutual_information(mu + std * torch.randn(mu.shape, generator=generator(1)), mu, std)
    assert value == pytest.approx(math.log(300), abs=1e-9)
    assert value <= math.log(300)


def test_mutual_information_is_zero_if_the_code_ignores_the_image() -> None:
    mu, std = torch.full((300, 5), 0.3), torch.full((300, 5), 0.7)
    z = mu + std * torch.randn(mu.shape, generator=generator())
    assert mutual_information(z, mu, std) == pytest.approx(0, abs=1e-12)


codes = st.tuples(
    st.integers(0, 2**31), st.integers(2, 40), st.integers(1, 8), st.floats(-4, 1), st.floats(-3, 3), st.floats(-5, 5)
)


@settings(max_examples=60, deadline=None)
@given(codes)
def test_mutual_information_is_capped_and_indifferent_to_units(
    drawn: tuple[int, int, int, float, float, float],
) -> None:
    seed, n, d, log10_std, log10_unit, shift = drawn
    mu, eps = torch.randn(2, n, d, generator=generator(seed), dtype=torch.float64)
    std = 10**log10_std * (0.5 + torch.rand(n, d, generator=generator(seed), dtype=torch.float64))
    z, unit = mu + std * eps, 10**log10_unit
    value = mutual_information(z, mu, std)
    assert value <= math.log(n)
    assert mutual_information(unit * z + shift, unit * mu + shift, unit * std) == pytest.approx(value, abs=1e-3)
    order = torch.randperm(n, generator=generator(seed))
    assert mutual_information(z[order], mu[order], std[order]) == pytest.approx(value, abs=1e-3)


def test_mutual_information_of_10_000_images_in_80_dimensions_is_cheap() -> None:
    resource = pytest.importorskip("resource")
    mu = torch.randn(10_000, 80, generator=generator())
    std = torch.full_like(mu, 0.5)
    z = mu + std * torch.randn(mu.shape, generator=generator(1))
    peak_before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    mutual_information(z, mu, std)
    seconds = time.perf_counter() - start
    assert seconds < 10  # 1.5 measured on one core; the margin is for a busy machine
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before < 500_000  # kB; the full matrix has 800,000


# KL(q(z) || p(z)) where I(x;z) allows it


@pytest.mark.parametrize(("d", "printed"), [(10, 1.87), (80, 2.26)])
def test_marginal_kl_is_not_given_where_information_is_near_its_cap(d: int, printed: float) -> None:
    """q(z) is the prior, the posteriors are narrow: the difference is the bias of I(x;z), not a divergence."""
    std = 8**-0.5 if d == 10 else 1.3**-0.5
    mu = math.sqrt(1 - std**2) * torch.randn(10_000, d, generator=generator(), dtype=torch.float64)
    stds = torch.full_like(mu, std)
    z = mu + std * torch.randn(mu.shape, generator=generator(1), dtype=torch.float64)
    nats, information = rate(mu, stds), mutual_information(z, mu, stds)
    assert information < math.log(10_000) - 0.5  # what was once thought to be far enough
    assert nats - information == pytest.approx(printed, abs=0.1)
    assert math.isnan(marginal_kl(nats, information, math.log(10_000)))


def test_marginal_kl_is_nearly_unbiased_where_it_is_given() -> None:
    std = 2.6**-0.5  # I(x;z) = 5 log 2.6 = 4.8 nats, just below 9.2 - 4
    mu = math.sqrt(1 - std**2) * torch.randn(10_000, 10, generator=generator(), dtype=torch.float64)
    stds = torch.full_like(mu, std)
    z = mu + std * torch.randn(mu.shape, generator=generator(1), dtype=torch.float64)
    nats, information = rate(mu, stds), mutual_information(z, mu, stds)
    assert marginal_kl(nats, information, math.log(10_000)) == pytest.approx(0, abs=0.13)


# Levels of the squared MMD, and the authors' way of measuring


@pytest.mark.parametrize(("d", "level"), [(20, 0.158), (40, 0.156), (80, 0.156)])
def test_level_of_a_point_mass_is_that_of_codes_that_are_all_zero(d: int, level: float) -> None:
    assert squared_mmd_point_mass(d) == pytest.approx(level, abs=5e-4)
    prior = torch.randn(4000, d, generator=generator())
    measured = squared_mmd_chunked(torch.zeros(4000, d), prior, reporting_kernel(d)).value
    assert squared_mmd_point_mass(d) == pytest.approx(measured, abs=2e-3)


@pytest.mark.parametrize(("d", "variance"), [(2, 1.0), (10, 0.7), (40, 1.0)])
def test_authors_squared_mmd_is_the_expected_v_statistic_of_theirs(d: int, variance: float) -> None:
    """In closed form for q(z) = N(0, v I): pairs within, pairs between, and k(0) = 1 once in 40,000 pairs of each."""
    mu = math.sqrt(variance - 0.25) * torch.randn(6000, d, generator=generator())
    found = measure_as_authors(Gaussian(mu, torch.full_like(mu, 0.5)), generator(1))

    def expected_kernel(total: float) -> float:
        return (1 + total / d) ** (-d / 2)

    within, between = (expected_kernel(2 * variance), expected_kernel(2)), expected_kernel(1 + variance)
    v_statistic = sum(k + (1 - k) / N_AUTHORS for k in within) - 2 * between
    assert found["squared_mmd_authors"] == pytest.approx(v_statistic, abs=4e-4)
    assert found["log_det_cov_total_authors"] == pytest.approx(d * math.log(variance), abs=0.3)


def test_authors_squared_mmd_has_the_bias_of_their_sample_and_not_of_ours() -> None:
    """Over many small samples of the prior: 2 (1 - E k) / 40,000, where their estimator on 100 codes reads 0.01."""
    mu = torch.zeros(100, 10)
    values = [measure_as_authors(Gaussian(mu, mu + 1), generator(seed))["squared_mmd_authors"] for seed in range(400)]
    expected = 2 * (1 - (1 + 2 / 10) ** -5) / N_AUTHORS
    mean, error = sum(values) / 400, torch.tensor(values).std().item() / 20
    assert mean == pytest.approx(expected, abs=4 * error) and error < 3e-4


# Density


def test_mixture_density_is_the_mean_of_gaussians_and_integrates_to_one() -> None:
    mu, std = torch.tensor([[0.0, 1.0], [-1.0, 0.5]]), torch.tensor([[0.5, 1.0], [0.2, 0.3]])
    axis = torch.linspace(-6, 6, 241)
    grid = torch.cartesian_prod(axis, axis)
    density = mixture_density(grid, mu, std)
    point = grid[7321].numpy()
    expected = sum(norm.pdf(point, m, s).prod() for m, s in zip(mu.numpy(), std.numpy(), strict=True)) / 2
    assert float(density[7321]) == pytest.approx(expected, rel=1e-6)
    assert float(density.sum() * 0.05**2) == pytest.approx(1, abs=1e-4)


# Active units and log det


def test_active_units_counts_dimensions_whose_mean_moves() -> None:
    variances = torch.tensor([2.0, 0.0101, 0.0099, 0.0]).double()
    mu = whitened(100, 4) * variances.sqrt() + 3
    assert active_units(mu) == 2
    assert active_units(mu, threshold=0.001) == 3


def test_log_det_covariance_is_zero_for_a_perfect_match() -> None:
    mu = whitened(200, 10) * math.sqrt(0.75) + 1
    assert log_det_covariance_per_dim(mu, torch.full_like(mu, 0.5)) == pytest.approx(0, abs=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.floats(-3, 3))
def test_log_det_covariance_per_dim_grows_by_the_log_of_the_variance(d: int, log_scale: float) -> None:
    mu = whitened(60, d) * math.sqrt(0.75)
    std, scale = torch.full_like(mu, 0.5), math.exp(log_scale)
    assert log_det_covariance_per_dim(scale * mu, scale * std) == pytest.approx(2 * log_scale, abs=1e-9)


def test_log_det_covariance_sees_correlation() -> None:
    correlated = whitened(100, 2) @ torch.tensor([[1.0, 0.9], [0.0, math.sqrt(1 - 0.81)]]).double()
    value = log_det_covariance_per_dim(correlated, torch.zeros_like(correlated))
    assert value == pytest.approx(math.log(1 - 0.81) / 2, abs=1e-6)


def test_log_det_covariance_of_a_collapsed_deterministic_code_is_minus_infinity() -> None:
    assert log_det_covariance_per_dim(torch.zeros(10, 3), torch.zeros(10, 3)) == -math.inf


# Reconstruction


class Shifted(Decoder):
    """Every pixel has the logit z_0, whatever x."""

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        return z[:, 0].view(-1, 1, 1, 1).expand_as(x)


def test_reconstruction_nll_sums_over_pixels_and_averages_over_images() -> None:
    x = torch.zeros(7, 1, 3, 4)
    x[:, :, 0] = 1  # 4 of 12 pixels are on
    z = torch.linspace(-1, 2, 7).unsqueeze(1)
    expected = sum(4 * math.log1p(math.exp(-float(s))) + 8 * math.log1p(math.exp(float(s))) for s in z) / 7
    for batch_size in (1, 3, 100):
        assert reconstruction_nll(Shifted(), x, z, batch_size) == pytest.approx(expected, rel=1e-6)


# Errors


def test_log_variances_in_place_of_standard_deviations_are_refused() -> None:
    mu, log_var = torch.zeros(5, 2), torch.full((5, 2), -1.0)
    for call in (rate, log_det_covariance_per_dim):
        with pytest.raises(ValueError, match=r"-1\.0"):
            call(mu, log_var)


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one draw of z for each posterior"):
        mutual_information(torch.zeros(4, 2), torch.zeros(5, 2), torch.ones(5, 2))
    with pytest.raises(ValueError, match=r"\(5, 2\)"):
        rate(torch.zeros(5, 2), torch.ones(5, 1))
    with pytest.raises(ValueError, match=r"at least 2 images"):
        active_units(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"7 images and 6 codes"):
        reconstruction_nll(Shifted(), torch.zeros(7, 1, 2, 2), torch.zeros(6, 2))
