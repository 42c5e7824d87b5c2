"""Estimates of log p(x) where it is known: linear-Gaussian in closed form, two codes by quadrature."""

import math
from typing import NamedTuple

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from infovae.evaluation.likelihood import (
    estimate_log_likelihood,
    importance_weighted_bound,
    powers_of_ten,
    search_elsewhere,
)
from infovae.evaluation.proposal import DEGREES_OF_FREEDOM, Proposal, fit_proposal, initial_proposal
from infovae.model.networks import Decoder, Gaussian, IndependentDecoder


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class LinearGaussian(Decoder):
    """x = W z + b + noise: p(x) and p(z|x) are Gaussian. W's columns are correlated, and so is the posterior."""

    def __init__(self, d: int, n_pixels: int, noise: float) -> None:
        super().__init__()
        mix = torch.eye(d) + 1.5 / d * torch.ones(d, d)
        self.weight = nn.Parameter(torch.randn(n_pixels, d, generator=generator(1)) @ mix / math.sqrt(d))
        self.bias = nn.Parameter(torch.randn(n_pixels, generator=generator(2)))
        self.noise = noise

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        residual = (x.flatten(1) - z @ self.weight.T - self.bias) / self.noise
        return -residual.square().sum(1) / 2 - residual.shape[1] * math.log(self.noise * math.sqrt(2 * math.pi))

    def simulate(self, n: int) -> tuple[Tensor, Tensor]:
        n_pixels, d = self.weight.shape
        z = torch.randn(n, d, generator=generator(3))
        x = z @ self.weight.T + self.bias + self.noise * torch.randn(n, n_pixels, generator=generator(4))
        return x.detach().view(n, 1, 4, -1), z

    def log_predictive(self, x: Tensor, mu: Tensor, covariance: Tensor) -> Tensor:
        """log of E[p(x|z)] for z ~ N(mu, covariance)."""
        weight = self.weight.detach().double()
        of_x = weight @ covariance @ weight.T + self.noise**2 * torch.eye(len(weight))
        return MultivariateNormal(mu @ weight.T + self.bias.detach(), of_x).log_prob(x.flatten(1).double())


class Known(NamedTuple):
    decoder: LinearGaussian
    x: Tensor
    z: Tensor
    log_p_x: Tensor
    posterior_mu: Tensor
    posterior_covariance: Tensor

    def posterior(self) -> Proposal:
        tril = torch.linalg.cholesky(self.posterior_covariance)
        return Proposal(self.posterior_mu, tril.expand(len(self.x), -1, -1))

    def gap(self, log_p_x: Tensor) -> float:
        """Mean over images of an estimate minus the truth."""
        return float((log_p_x - self.log_p_x).mean())

    def poor_encoder(self) -> Gaussian:
        """Two standard deviations beside the posterior, three times too narrow."""
        std = self.posterior_covariance.diagonal().sqrt().expand_as(self.posterior_mu)
        return Gaussian((self.posterior_mu + 2 * std).float(), (std / 3).float())


def known(n: int, d: int = 5, n_pixels: int = 20, noise: float = 0.5) -> Known:
    decoder = LinearGaussian(d, n_pixels, noise)
    x, z = decoder.simulate(n)
    weight, eye = decoder.weight.detach().double(), torch.eye(d).double()
    covariance = (eye + weight.T @ weight / noise**2).inverse()
    mu = (x.flatten(1) - decoder.bias.detach()).double() @ weight @ covariance / noise**2
    log_p_x = decoder.log_predictive(x, torch.zeros(n, d).double(), eye)
    return Known(decoder, x, z, log_p_x, mu, covariance)


@pytest.fixture(scope="module")
def linear() -> Known:
    return known(n=50)


# The proposal


def test_proposal_density_is_the_multivariate_student_t() -> None:
    tril = torch.tensor([[[0.5, 0.0], [0.3, 0.2]], [[1.0, 0.0], [-2.0, 3.0]]]).double()
    proposal = Proposal(torch.tensor([[1.0, -1.0], [0.0, 2.0]]).double(), tril)
    z = 3 * torch.randn(4, 2, 2, generator=generator()).double()
    for i in range(2):
        shape = (tril[i] @ tril[i].T).numpy()
        expected = multivariate_t(proposal.mu[i].numpy(), shape, df=DEGREES_OF_FREEDOM).logpdf(z[:, i].numpy())
        np.testing.assert_allclose(proposal.log_prob(z)[:, i].numpy(), expected, rtol=1e-10)


def test_proposal_samples_have_its_mean_covariance_and_tails() -> None:
    tril = torch.tensor([[[0.5, 0.0], [0.3, 0.2]]]).double()
    mu = torch.tensor([[1.0, -1.0]]).double()
    z = Proposal(mu, tril).sample(100_000, generator())[:, 0]
    variance_factor = DEGREES_OF_FREEDOM / (DEGREES_OF_FREEDOM - 2)
    torch.testing.assert_close(z.mean(0), mu[0], atol=0.005, rtol=0)
    torch.testing.assert_close(z.T.cov(), variance_factor * tril[0] @ tril[0].T, atol=0.005, rtol=0)
    standardized = (z[:, 0] - 1) / z[:, 0].std()
    kurtosis = float(standardized.pow(4).mean())
    assert kurtosis == pytest.approx(3 + 6 / (DEGREES_OF_FREEDOM - 4), abs=0.1)


# The importance-weighted bound


def test_with_the_exact_posterior_the_bound_is_exact(linear: Known) -> None:
    estimate = importance_weighted_bound(linear.decoder, linear.posterior(), linear.x, generator())
    assert linear.gap(estimate.log_p_x[1000]) == pytest.approx(0, abs=0.005)
    assert float((estimate.log_p_x[1000] - linear.log_p_x).abs().max()) < 0.06
    assert -0.12 < linear.gap(estimate.log_p_x[1]) < -0.01  # what the heavier tails cost
    assert 900 < float(estimate.effective_sample_size.min()) <= 1000


def test_bound_rises_to_log_p_x_from_below(linear: Known) -> None:
    scale_tril = 1.6 * linear.posterior().scale_tril
    misplaced = Proposal(linear.posterior_mu + scale_tril.sum(2) / 2, scale_tril)
    estimate = importance_weighted_bound(linear.decoder, misplaced, linear.x, generator())
    gaps = [linear.gap(estimate.log_p_x[k]) for k in (1, 10, 100, 1000)]
    assert gaps == sorted(gaps)
    assert gaps[0] < -1 and gaps[2] < -0.01 and -0.02 < gaps[3] < 0.01


def test_each_bound_averages_over_disjoint_groups_of_the_same_draws(linear: Known) -> None:
    """Hence more draws in a group can only raise it, for every image and not just on average: Jensen's inequality."""
    poor = initial_proposal(linear.poor_encoder())
    log_p_x = importance_weighted_bound(linear.decoder, poor, linear.x, generator(), (2, 24, 6, 1)).log_p_x
    assert list(log_p_x) == [2, 24, 6, 1]
    assert bool(((log_p_x[1] < log_p_x[2]) & (log_p_x[2] < log_p_x[6]) & (log_p_x[6] < log_p_x[24])).all())


def test_bound_does_not_depend_on_how_images_and_draws_are_batched() -> None:
    case = known(n=7)
    for chunk in (2, 20, 10_000):
        estimate = importance_weighted_bound(case.decoder, case.posterior(), case.x, generator(), (200,), chunk)
        torch.testing.assert_close(estimate.log_p_x[200], case.log_p_x, atol=0.15, rtol=0)


def test_the_average_log_likelihood_minus_kl_is_no_bound_and_is_not_what_is_computed() -> None:
    """log E_q[p(x|z)] - KL(q||p) at the exact posterior, in closed form: above log p(x) by 0.15 nats a dimension."""
    case = known(n=50, noise=0.05)
    mu, covariance = case.posterior_mu, case.posterior_covariance
    kl = (mu.square().sum(1) + covariance.trace() - 5 - torch.logdet(covariance)) / 2
    invalid = case.gap(case.decoder.log_predictive(case.x, mu, covariance) - kl)
    assert invalid == pytest.approx(5 * (0.5 - math.log(2) / 2), rel=0.05)
    estimate = importance_weighted_bound(case.decoder, case.posterior(), case.x, generator())
    assert all(case.gap(log_p_x) < 0.005 for log_p_x in estimate.log_p_x.values())


def test_estimate_fits_before_it_draws_at_every_power_of_ten(linear: Known) -> None:
    estimate = estimate_log_likelihood(linear.decoder, linear.poor_encoder(), linear.x, generator(), 100, 200, chunk=20)
    assert list(estimate.log_p_x) == [1, 10, 100] == list(powers_of_ten(100)) == list(powers_of_ten(999))
    assert linear.gap(estimate.log_p_x[100]) == pytest.approx(0, abs=0.03)
    assert float(estimate.effective_sample_size.median()) > 50


def test_number_of_draws_must_divide_the_largest(linear: Known) -> None:
    for n_samples in ((3, 10), (0, 10)):
        with pytest.raises(ValueError, match=r"divide the largest, 10"):
            importance_weighted_bound(linear.decoder, linear.posterior(), linear.x, generator(), n_samples)


# Fitting


@pytest.fixture(scope="module")
def fitted(linear: Known) -> Proposal:
    with torch.no_grad():  # as evaluation code runs
        return fit_proposal(linear.decoder, initial_proposal(linear.poor_encoder()), linear.x, generator())


def test_fitting_repairs_a_poor_proposal(linear: Known, fitted: Proposal) -> None:
    poor = initial_proposal(linear.poor_encoder())
    before = importance_weighted_bound(linear.decoder, poor, linear.x, generator())
    after = importance_weighted_bound(linear.decoder, fitted, linear.x, generator())
    assert linear.gap(before.log_p_x[1000]) < -3
    assert float(before.effective_sample_size.median()) < 10
    assert linear.gap(after.log_p_x[1000]) == pytest.approx(0, abs=0.01)
    assert float(after.effective_sample_size.min()) > 300


def test_fitting_finds_the_posterior_with_its_correlations(linear: Known, fitted: Proposal) -> None:
    covariance = fitted.scale_tril @ fitted.scale_tril.transpose(1, 2)
    std = linear.posterior_covariance.diagonal().sqrt()
    correlation = linear.posterior_covariance / torch.outer(std, std)
    assert float(correlation.tril(-1).abs().max()) > 0.4  # else a diagonal proposal would do
    assert float(((fitted.mu - linear.posterior_mu) / std).abs().max()) < 0.3
    error = (covariance.mean(0) - linear.posterior_covariance) / torch.outer(std, std)
    assert float(error.abs().max()) < 0.3


def test_fitting_recovers_from_a_collapsed_encoder_in_20_dimensions() -> None:
    """Starts at 0.001 standard deviations; at one learning rate for all parameters this fit diverges."""
    case = known(n=20, d=20, n_pixels=60, noise=1.0)
    collapsed = Gaussian(case.posterior_mu.float() + 0.3, torch.full((20, 20), 1e-3))
    fitted = fit_proposal(case.decoder, initial_proposal(collapsed), case.x, generator())
    estimate = importance_weighted_bound(case.decoder, fitted, case.x, generator())
    assert case.gap(estimate.log_p_x[1000]) == pytest.approx(0, abs=0.06)
    assert float(estimate.effective_sample_size.median()) > 250


def test_fitting_leaves_the_decoder_alone_and_follows_its_generator(linear: Known) -> None:
    parameters = [parameter.detach().clone() for parameter in linear.decoder.parameters()]
    start = initial_proposal(linear.poor_encoder())
    first, again = (fit_proposal(linear.decoder, start, linear.x, generator(), steps=3) for _ in range(2))
    other = fit_proposal(linear.decoder, start, linear.x, generator(1), steps=3)
    assert torch.equal(first.mu, again.mu) and torch.equal(first.scale_tril, again.scale_tril)
    assert not torch.equal(first.mu, other.mu)
    for before, after in zip(parameters, linear.decoder.parameters(), strict=True):
        assert torch.equal(before, after) and after.requires_grad and after.grad is None


def test_a_proposal_for_other_images_is_refused(linear: Known) -> None:
    for call in (fit_proposal, importance_weighted_bound):
        with pytest.raises(ValueError, match=r"50 images, but 3 images"):
            call(linear.decoder, linear.posterior(), linear.x[:3], generator())


def test_bernoulli_decoder_with_two_codes_agrees_with_quadrature() -> None:
    """A posterior that is not Gaussian, fitted in batches, from an encoder that knows nothing."""
    torch.manual_seed(0)
    decoder = IndependentDecoder(
        nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 36), nn.Unflatten(1, (1, 6, 6)))
    )
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=1.0)
    x = (torch.rand(10, 1, 6, 6) < torch.sigmoid(decoder(None, torch.randn(10, 2)))).float()
    axis = torch.linspace(-6, 6, 401)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        logits = decoder(None, grid).flatten(1)
        log_joint = x.flatten(1) @ logits.T - nn.functional.softplus(logits).sum(1)
    log_prior = -grid.double().square().sum(1) / 2 - math.log(2 * math.pi)
    exact = (log_joint.double() + log_prior).logsumexp(1) + 2 * math.log(12 / 400)

    prior = Gaussian(torch.zeros(10, 2), torch.ones(10, 2))
    fitted = fit_proposal(decoder, initial_proposal(prior), x, generator(), batch_size=4)
    estimate = importance_weighted_bound(decoder, fitted, x, generator())
    gaps = estimate.log_p_x[1000] - exact
    assert float(gaps.max()) < 0.1
    assert float(gaps.mean()) == pytest.approx(0, abs=0.05)


# Modes that the encoder does not know


def test_draws_of_several_proposals_are_weighted_by_the_mean_of_their_densities(linear: Known) -> None:
    """Half of the draws come from the posterior, half from where it is not: exact, and effective by half."""
    elsewhere = Proposal(linear.posterior_mu + 5, linear.posterior().scale_tril)
    for chunk in (20, 1000):
        estimate = importance_weighted_bound(
            linear.decoder, elsewhere, linear.x, generator(), (10, 1000), chunk, others=[linear.posterior()]
        )
        assert linear.gap(estimate.log_p_x[1000]) == pytest.approx(0, abs=0.01)
        assert linear.gap(estimate.log_p_x[10]) == pytest.approx(0, abs=0.02)  # each group has draws of both
        assert 900 < float(estimate.effective_sample_size.min()) < 1020


class Symmetric(Decoder):
    """Logits that depend on |z| alone: of every posterior's modes there is a mirror image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 36), nn.Unflatten(1, (1, 6, 6)))
        for parameter in self.body.parameters():
            nn.init.normal_(parameter, std=0.8)

    def forward(self, x: Tensor | None, z: Tensor) -> Tensor:
        return self.body(z.abs())


def test_the_search_reveals_a_mode_that_the_effective_sample_size_does_not() -> None:
    """The encoder points to z > 0; the other half of each posterior lies at z < 0, a share of 1/2 where they part."""
    decoder = Symmetric()
    z_true = 1.0 + torch.rand(20, 1, generator=generator())
    with torch.no_grad():
        x = (torch.rand(20, 1, 6, 6, generator=generator(1)) < torch.sigmoid(decoder(None, z_true))).float()
        grid = torch.linspace(-6, 6, 2001)[:, None]
        logits = decoder(None, grid).flatten(1)
        log_joint = (x.flatten(1) @ logits.T - nn.functional.softplus(logits).sum(1)).double()
        exact = (log_joint - grid[:, 0].double().square() / 2 - math.log(2 * math.pi) / 2).logsumexp(1)
        exact += math.log(12 / 2000)
    q = Gaussian(z_true, torch.full((20, 1), 0.1))
    estimate = estimate_log_likelihood(decoder, q, x, generator(), 100, 100, chunk=100)
    assert estimate.proposal is not None
    short = exact - estimate.log_p_x[100]
    assert 0.2 < float(short.mean()) < math.log(2) + 0.05
    assert float(estimate.effective_sample_size.median()) > 80  # of 100: all looks well
    searched = search_elsewhere(decoder, estimate.proposal, x, generator(), 100, 100, chunk=100)
    assert float((exact - searched).mean()) == pytest.approx(0, abs=0.03)
    assert float((searched - estimate.log_p_x[100]).mean()) == pytest.approx(float(short.mean()), abs=0.05)


def test_the_search_finds_nothing_where_there_is_one_mode(linear: Known) -> None:
    known_to_the_encoder = linear.posterior()
    searched = search_elsewhere(linear.decoder, known_to_the_encoder, linear.x, generator(), 100, 100, chunk=20)
    bound = importance_weighted_bound(linear.decoder, known_to_the_encoder, linear.x, generator(), (100,))
    assert linear.gap(searched) == pytest.approx(0, abs=0.03)
    assert float((searched - bound.log_p_x[100]).mean()) == pytest.approx(0, abs=0.04)
