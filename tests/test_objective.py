"""The objective's weights, bit for bit at its special cases, and its divergences on codes whose answer is known."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from infovae.config import RunConfig
from infovae.networks import Gaussian
from infovae.objective import Adversary, Terms, info_vae_loss, lambda_at, make_divergence

finite = st.floats(-1e4, 1e4, allow_nan=False, width=32)


def terms(nll: float, rate: float, divergence: float) -> Terms:
    return Terms(torch.tensor(nll), torch.tensor(rate), torch.tensor(divergence))


@given(nll=finite, rate=finite)
def test_alpha_0_lambda_1_is_the_elbo_to_the_last_bit(nll: float, rate: float) -> None:
    for divergence in (3.0, math.nan, math.inf):
        loss = info_vae_loss(terms(nll, rate, divergence), alpha=0.0, lambda_=1.0)
        assert torch.equal(loss, torch.tensor(nll) + torch.tensor(rate))


@given(nll=finite, rate=finite, divergence=finite, alpha=st.floats(-3, 1), extra=st.floats(0, 1000))
def test_loss_is_linear_in_the_papers_weights(
    nll: float, rate: float, divergence: float, alpha: float, extra: float
) -> None:
    lambda_ = 1 - alpha + extra
    loss = info_vae_loss(Terms(*(t.double() for t in terms(nll, rate, divergence))), alpha, lambda_)
    expected = nll + (1 - alpha) * rate + (lambda_ + alpha - 1) * divergence
    assert loss.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_aae_does_not_pay_the_rate() -> None:
    config = RunConfig(objective="jensen")
    assert info_vae_loss(terms(5.0, 1e9, 0.5), config.alpha, config.lambda_).item() == 5.5


def test_lambda_schedule_is_geometric_and_ends_at_lambda() -> None:
    config = RunConfig(objective="mmd_annealed", steps=100, lambda_warmup=0.5)
    assert lambda_at(config, 0) == 1
    assert lambda_at(config, 25) == pytest.approx(300**0.5)
    assert lambda_at(config, 50) == lambda_at(config, 99) == pytest.approx(300)
    assert lambda_at(RunConfig(objective="mmd"), 0) == 1000


def codes(mean: float, std: float, n: int = 512, dim: int = 3) -> tuple[Tensor, Gaussian]:
    torch.manual_seed(0)
    mu = mean + std * torch.randn(n, dim)
    q = Gaussian(mu.requires_grad_(), torch.full((n, dim), 1e-2))
    return q.mu + 0.0, q


@pytest.mark.parametrize("name", ["mmd", "stein", "kl"])
@pytest.mark.parametrize(("mean", "std"), [(2.0, 1.0), (0.0, 0.3), (0.0, 3.0)])
def test_gradient_moves_codes_towards_the_prior(name: str, mean: float, std: float) -> None:
    config = RunConfig(objective=name, latent_dim=3)  # type: ignore[arg-type]
    z, q = codes(mean, std)
    divergence = make_divergence(config, torch.device("cpu"))
    divergence(z, q, torch.Generator().manual_seed(0)).backward()
    assert q.mu.grad is not None
    moved = q.mu.detach() - 0.1 * len(z) * q.mu.grad  # the loss is a mean: a code's own gradient carries 1/n
    distance = lambda c: c.mean(0).square().sum() + (c.std(0).log()).square().sum()  # noqa: E731
    assert distance(moved) < distance(q.mu.detach())


@pytest.mark.parametrize("name", ["jensen", "wasserstein"])
def test_adversary_learns_alone_and_then_moves_codes_towards_the_prior(name: str) -> None:
    config = RunConfig(objective=name, latent_dim=3, critic_steps=50)  # type: ignore[arg-type]
    adversary = Adversary(config, torch.device("cpu"))
    z, q = codes(2.0, 1.0)
    before = [parameter.clone() for parameter in adversary.critic.parameters()]
    loss = adversary(z, q, torch.Generator().manual_seed(0))
    trained = [parameter.clone() for parameter in adversary.critic.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(before, trained, strict=True))
    for parameter in adversary.critic.parameters():
        parameter.grad = None
    loss.backward()
    assert all(parameter.grad is None for parameter in adversary.critic.parameters())  # the encoder's step is not its
    assert q.mu.grad is not None
    assert (q.mu.grad.mean(0) > 0).all()  # descending the loss lowers the mean, which is too high


def test_kl_surrogate_is_the_divergence_itself() -> None:
    torch.manual_seed(0)
    q = Gaussian(torch.zeros(2000, 2) + 0.7, torch.ones(2000, 2))
    divergence = make_divergence(RunConfig(objective="kl", latent_dim=2), torch.device("cpu"))
    value = divergence(q.sample(), q, torch.Generator()).item()
    assert value == pytest.approx(0.5 * 2 * 0.49, abs=0.06)  # KL(N(m, I) || N(0, I)) = |m|^2 / 2
