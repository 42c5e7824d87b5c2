"""Quadrature against closed forms: a linear-Gaussian decoder has a Gaussian posterior, under any Gaussian q(z|x)."""

import math
import re
from typing import cast

import numpy as np
import pytest
import torch
from conftest import tiny
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from infovae.config import PosteriorEvaluation, RunConfig
from infovae.data.datasets import load
from infovae.evaluation import evaluate, posterior
from infovae.evaluation.posterior import posterior_densities
from infovae.model.build import Model, build_model
from infovae.model.networks import Decoder, Encoder, Gaussian
from infovae.paths import PROJECT_ROOT

W, S = 1.5, 0.3
POSTERIOR_MEAN, POSTERIOR_STD = (
    W / (W**2 + S**2),
    S / math.sqrt(W**2 + S**2),
)  # of x = +1; the mean of x = -1 is minus it


class FixedEncoder(nn.Module):
    """q(z|-1) and q(z|+1) as given: means and standard deviations in this order."""

    def __init__(self, mu: tuple[float, float], std: tuple[float, float]) -> None:
        super().__init__()
        self.mu, self.std = torch.tensor(mu).double(), torch.tensor(std).double()

    def forward(self, x: Tensor) -> Gaussian:
        which = x.flatten().long()
        return Gaussian(self.mu[which, None], self.std[which, None])


class LinearDecoder(Decoder):
    """p(x|z) = N(x; w z, s^2)."""

    def __init__(self, w: float, s: float) -> None:
        super().__init__()
        self.w, self.s = w, s

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        return Normal(self.w * z[:, 0], self.s).log_prob(2 * x.flatten() - 1)


def linear_model(mu: tuple[float, float], std: tuple[float, float], w: float = W, s: float = S) -> Model:
    return Model(cast(Encoder, FixedEncoder(mu, std)), LinearDecoder(w, s), latent_dim=1)


def exact(mu: tuple[float, float], std: tuple[float, float], w: float = W, s: float = S) -> dict[str, float]:
    """The closed forms, means over x = -1 and x = +1."""
    x = torch.tensor([-1.0, 1.0]).double()
    q = Normal(torch.tensor(mu).double(), torch.tensor(std).double())
    posterior = Normal(x * w / (w**2 + s**2), s / math.sqrt(w**2 + s**2))
    evidence = Normal(0.0, math.sqrt(w**2 + s**2)).log_prob(x)
    expected = Normal(w * q.mean, s).log_prob(x) - w**2 * q.variance / (2 * s**2)
    prior = Normal(torch.zeros(2).double(), torch.ones(2).double())
    return {
        "posterior_kl": kl_divergence(q, posterior).mean().item(),
        "log_evidence": evidence.mean().item(),
        "elbo": (expected - kl_divergence(q, prior)).mean().item(),
        "rate": kl_divergence(q, prior).mean().item(),
    }


CODES: list[tuple[tuple[float, float], tuple[float, float]]] = [
    ((0.0, 0.0), (1.0, 1.0)),  # empty
    ((-0.7, 0.6), (0.4, 0.3)),
    ((-0.6432, 0.6432), (1e-3, 1e-3)),  # as narrow as the encoder allows, off the grid's points
    ((-2.0, 1.0), (1e-3, 1.0)),  # one narrow, one wide
    ((-14.0, 14.0), (0.5, 0.5)),  # beyond z_max
]


def posterior_metrics(model: Model, *grid: float) -> dict[str, float]:
    return posterior.posterior_metrics(model.encoder, model.decoder, *grid)  # type: ignore[arg-type]


@pytest.mark.parametrize(("mu", "std"), CODES)
def test_numbers_are_the_closed_forms(mu: tuple[float, float], std: tuple[float, float]) -> None:
    metrics = posterior_metrics(linear_model(mu, std), 10.0, 5001)
    expected = exact(mu, std)
    for name in ("posterior_kl", "log_evidence", "elbo"):
        assert metrics[name] == pytest.approx(expected[name], rel=2e-5, abs=1e-6), name
    assert metrics["marginal_kl"] + metrics["mutual_information"] == pytest.approx(expected["rate"])
    assert (metrics["q_mean_minus"], metrics["q_mean_plus"]) == pytest.approx(mu)
    assert metrics["q_separation"] == pytest.approx(abs(mu[0] - mu[1]))
    assert (metrics["q_std_minus"], metrics["q_std_plus"]) == pytest.approx(std)


def test_true_posterior_has_no_distance_and_a_tight_bound() -> None:
    model = linear_model((-POSTERIOR_MEAN, POSTERIOR_MEAN), (POSTERIOR_STD, POSTERIOR_STD))
    metrics = posterior_metrics(model, 10.0, 5001)
    assert metrics["posterior_kl"] == pytest.approx(0, abs=2e-6)
    assert metrics["elbo"] == pytest.approx(metrics["log_evidence"], abs=2e-6)


def test_empty_code_matches_the_prior_and_knows_nothing() -> None:
    metrics = posterior_metrics(linear_model((0, 0), (1, 1)))
    assert metrics["marginal_kl"] == pytest.approx(0, abs=1e-9)
    assert metrics["mutual_information"] == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("std", [1e-3, 0.1])
def test_codes_that_do_not_overlap_know_which_of_the_two_it_was(std: float) -> None:
    metrics = posterior_metrics(linear_model((-1, 1), (std, std)), 10.0, 5001)
    assert metrics["mutual_information"] == pytest.approx(math.log(2), abs=1e-4)  # so marginal_kl = rate - log 2


def test_equal_codes_have_the_marginal_of_one() -> None:
    metrics = posterior_metrics(linear_model((0.5, 0.5), (0.2, 0.2)), 10.0, 5001)
    assert metrics["marginal_kl"] == pytest.approx(0.5 * (0.25 + 0.04 - 1) - math.log(0.2), rel=1e-5)


@settings(max_examples=30)
@given(
    mu=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
    std=st.tuples(st.floats(1e-3, 1), st.floats(1e-3, 1)),
    w=st.floats(-2, 2),
    s=st.floats(0.1, 1),
)
def test_elbo_is_evidence_minus_distance(mu: tuple[float, float], std: tuple[float, float], w: float, s: float) -> None:
    metrics = posterior_metrics(linear_model(mu, std, w, s))
    assert metrics["elbo"] == pytest.approx(metrics["log_evidence"] - metrics["posterior_kl"], rel=1e-3, abs=1e-3)
    assert metrics["posterior_kl"] > -1e-3 and metrics["marginal_kl"] > -1e-3
    assert -1e-3 < metrics["mutual_information"] < math.log(2) + 1e-3


def test_evidence_of_a_decoder_that_only_the_code_knows() -> None:
    """A decoder that gives x any density in a thousandth of the prior alone, where q(z|x) is: the grid must see it."""

    class Needle(Decoder):
        def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
            return Normal(0.60123, 1e-3).log_prob(z[:, 0])

    model = linear_model((0.60123, 0.60123), (1e-3, 1e-3))
    model.decoder = Needle()
    expected = Normal(0.0, math.sqrt(1 + 1e-6)).log_prob(torch.tensor(0.60123)).item()
    assert posterior_metrics(model)["log_evidence"] == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(("mu", "std"), CODES)
def test_densities_of_the_figure_are_normalised_and_right(mu: tuple[float, float], std: tuple[float, float]) -> None:
    model = linear_model(mu, std)
    kept = posterior_densities(model.encoder, model.decoder)
    z = kept["z"]
    for name in ("q_z_given_x", "q_z", "p_z", "p_z_given_x"):
        assert torch.allclose(torch.trapezoid(kept[name], z), torch.ones(()).double(), atol=5e-3), name
    posterior = Normal(POSTERIOR_MEAN, POSTERIOR_STD).log_prob(z).exp()
    assert torch.allclose(kept["p_z_given_x"][1], posterior, atol=1e-4)
    assert torch.allclose(kept["q_z"], kept["q_z_given_x"].mean(0))
    assert kept["q_z_given_x"].max().item() == pytest.approx(1 / (min(std) * math.sqrt(2 * math.pi)), rel=1e-3)


def test_evaluation_of_a_run_leaves_the_model_as_it_was() -> None:
    torch.manual_seed(0)
    config = RunConfig(dataset="two_points", encoder="scalar", decoder="scalar", latent_dim=1, n_train=100)
    model = build_model(config, (1, 1))
    metrics, arrays = evaluate(PosteriorEvaluation(), config, model, load("two_points"), torch.device("cpu"))
    assert next(model.parameters()).dtype == torch.float32
    assert metrics["elbo"] == pytest.approx(metrics["log_evidence"] - metrics["posterior_kl"], abs=1e-6)
    assert {"z", "q_z_given_x", "p_z_given_x", "q_z", "p_z"} == arrays.keys()


def test_code_of_several_dimensions_is_refused() -> None:
    with pytest.raises(ValueError, match="got latent_dim=2"):
        evaluate(PosteriorEvaluation(), tiny(), build_model(tiny(), (8, 8)), load("digits"), torch.device("cpu"))


@pytest.mark.parametrize(("alpha", "information"), [(0.0, 0.22), (1.0, 0.29)])
def test_optimum_of_the_toy_under_mmd_is_what_the_notebook_says(alpha: float, information: float) -> None:
    """Two Gaussians N(-m, s^2), N(m, s^2), the exact MMD under exp(-(z - y)^2), lambda_ 500, and the best decoder."""
    z = np.linspace(-8, 8, 2001)

    def kernel_mean(distance: float, variance: float) -> float:
        """E exp(-u^2) for u ~ N(distance, variance)."""
        return math.exp(-(distance**2) / (1 + 2 * variance)) / math.sqrt(1 + 2 * variance)

    def loss(parameters: tuple[float, float]) -> float:
        m, s = abs(parameters[0]), 1 / (1 + math.exp(-parameters[1]))
        minus, plus = (np.exp(-((z - mean) ** 2) / (2 * s**2)) / (2 * s * math.sqrt(2 * math.pi)) for mean in (-m, m))
        plus_given_z = np.clip(plus / (minus + plus + 1e-300), 1e-12, 1 - 1e-12)
        std = np.maximum(np.sqrt(4 * plus_given_z * (1 - plus_given_z)), 0.01)  # of x given z, above the floor
        nll = np.log(std) + 2 * plus_given_z * (1 - plus_given_z) / std**2 + math.log(2 * math.pi) / 2
        within = (kernel_mean(0, 2 * s**2) + kernel_mean(2 * m, 2 * s**2)) / 2
        mmd = within - 2 * kernel_mean(m, 1 + s**2) + kernel_mean(0, 2)
        rate = (m**2 + s**2 - 1) / 2 - math.log(s)
        return float(np.trapezoid((minus + plus) * nll, z)) + (1 - alpha) * rate + (500 + alpha - 1) * mmd

    m, raw = min((minimize(loss, (m, 1.0), method="Nelder-Mead") for m in (0.3, 0.8)), key=lambda found: found.fun).x
    std = 1 / (1 + math.exp(-raw))
    metrics = posterior_metrics(linear_model((-abs(m), abs(m)), (std, std)))
    assert metrics["mutual_information"] == pytest.approx(information, abs=0.005)
    text = (PROJECT_ROOT / "notebooks" / "02_amortized_inference.ipynb").read_text(encoding="utf-8")
    assert re.search(rf"{information}\$? nats", text)
