"""The objective's weights, bit for bit at its special cases, and its divergences on codes whose answer is known."""

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from infovae.config import OBJECTIVES, RunConfig
from infovae.model import divergences
from infovae.model.networks import Gaussian
from infovae.model.objective import (
    AdaptiveLambda,
    Adversary,
    Terms,
    charged_rate,
    info_vae_loss,
    lambda_at,
    make_divergence,
    make_lambda,
)

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors this small a second thread costs more than it does."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


finite = st.floats(-1e4, 1e4, allow_nan=False, width=32)
positive = st.floats(0, 1e4, width=32)


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


@given(nll=positive, rate=positive, divergence=positive, beta=st.floats(0.01, 10))
def test_special_cases_are_their_own_formulas(nll: float, rate: float, divergence: float, beta: float) -> None:
    """VAE and AAE bit for bit; the beta-VAE, whose weight 1 - (1 - beta) is rounded, to float32's last place."""
    found = terms(nll, rate, divergence)
    assert torch.equal(info_vae_loss(found, alpha=0, lambda_=1), found.nll + found.rate)
    assert torch.equal(info_vae_loss(found, alpha=1, lambda_=1), found.nll + found.divergence)
    of_beta_vae = info_vae_loss(found, alpha=1 - beta, lambda_=beta)
    torch.testing.assert_close(
        of_beta_vae, found.nll + beta * found.rate, rtol=2**-23, atol=1e-40
    )  # atol: of numbers too small for their full precision


@given(beta=st.floats(0.01, 1e3), divergence=st.sampled_from([1e30, math.nan]))
def test_divergence_never_reaches_a_beta_vae(beta: float, divergence: float) -> None:
    """4.1 + (1 - 4.1) - 1 is 4e-16, not 0."""
    loss = info_vae_loss(terms(50.0, 3.0, divergence), alpha=1 - beta, lambda_=beta)
    assert loss.item() == pytest.approx(50 + beta * 3, rel=1e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_lambda_on_the_device_gives_the_same_loss(alpha: float) -> None:
    number = info_vae_loss(terms(50.0, 3.0, 0.25), alpha, 8.0)
    assert torch.equal(number, info_vae_loss(terms(50.0, 3.0, 0.25), alpha, torch.tensor(8.0)))
    assert number.item() == 50 + (1 - alpha) * 3 + (7 + alpha) * 0.25


def test_aae_does_not_pay_the_rate() -> None:
    config = RunConfig(objective="aae")
    assert info_vae_loss(terms(5.0, 1e9, 0.5), config.alpha, config.lambda_).item() == 5.5


def test_lambda_schedule_is_geometric_and_ends_at_lambda() -> None:
    config = RunConfig(objective="mmd_annealed", steps=100, lambda_warmup=0.5)
    assert lambda_at(config, 0) == 1
    assert lambda_at(config, 25) == pytest.approx(300**0.5)
    assert lambda_at(config, 50) == lambda_at(config, 99) == pytest.approx(300)
    assert lambda_at(RunConfig(objective="mmd"), 0) == 784


def codes(mean: float, std: float, n: int = 512, dim: int = 3) -> tuple[Tensor, Gaussian]:
    torch.manual_seed(0)
    mu = mean + std * torch.randn(n, dim)
    q = Gaussian(mu.requires_grad_(), torch.full((n, dim), 1e-2))
    return q.mu + 0.0, q


@pytest.mark.parametrize("name", ["mmd", "stein", "kl", "energy", "sinkhorn", "sliced_wasserstein"])
@pytest.mark.parametrize(("mean", "std"), [(2.0, 1.0), (0.0, 0.3), (0.0, 3.0)])
def test_gradient_moves_codes_towards_the_prior(name: str, mean: float, std: float) -> None:
    config = RunConfig(objective=name, latent_dim=3)
    z, q = codes(mean, std)
    divergence = make_divergence(config, torch.device("cpu"))
    divergence(z, q, torch.Generator().manual_seed(0)).backward()
    assert q.mu.grad is not None
    moved = q.mu.detach() - 0.1 * len(z) * q.mu.grad  # the loss is a mean: a code's own gradient carries 1/n
    distance = lambda c: c.mean(0).square().sum() + (c.std(0).log()).square().sum()  # noqa: E731
    assert distance(moved) < distance(q.mu.detach())


@pytest.mark.parametrize("name", ["jensen", "wasserstein", "chi2"])
def test_adversary_learns_alone_and_then_moves_codes_towards_the_prior(name: str) -> None:
    config = RunConfig(objective=name, latent_dim=3, critic_steps=50)
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


WITH_DIVERGENCE = [name for name, preset in OBJECTIVES.items() if preset["divergence"] != "none"]


@pytest.mark.parametrize("name", WITH_DIVERGENCE)
def test_divergence_alone_carries_a_gaussian_code_to_the_prior(name: str) -> None:
    """From mean 2 and standard deviation 0.3 in 2 dimensions: within 0.1 of N(0, I), 0.25 by a critic."""
    critic = {"critic_steps": 2, "critic_learning_rate": 1e-3}
    config = RunConfig(objective=name, latent_dim=2, **critic)  # type: ignore[arg-type]
    torch.manual_seed(0)
    generator, n, n_steps = torch.Generator().manual_seed(0), 128, 250
    mean = torch.full((2,), 2.0, requires_grad=True)
    log_scale = torch.full((2,), 0.3).log().requires_grad_()
    divergence = make_divergence(config, CPU)
    optimizer = torch.optim.Adam([mean, log_scale], lr=0.04)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.02, n_steps)
    for _ in range(n_steps):
        scale = log_scale.exp()
        # I(x;z) is 1 nat, well below log n: the minibatch's KL is not at its cap
        q = Gaussian(mean + 0.8 * scale * torch.randn(n, 2, generator=generator), 0.6 * scale.expand(n, 2))
        optimizer.zero_grad()
        divergence(q.sample(generator), q, generator).backward()
        optimizer.step()
        schedule.step()
    tolerance = 0.25 if config.divergence in ("jensen", "wasserstein", "chi2") else 0.1
    assert mean.detach().abs().max() < tolerance
    assert (log_scale.detach().exp() - 1).abs().max() < tolerance


@pytest.mark.parametrize("name", ["energy", "sinkhorn", "sliced_wasserstein", "mmd_adaptive"])
def test_gradient_is_finite_where_codes_coincide(name: str) -> None:
    z = torch.zeros(10, 3, requires_grad=True)
    q = Gaussian(z, torch.ones(10, 3))
    divergence = make_divergence(RunConfig(objective=name, latent_dim=3), CPU)
    divergence(z, q, torch.Generator().manual_seed(0)).backward()
    assert z.grad is not None and z.grad.isfinite().all()


def test_free_bits_of_0_are_the_rate_to_the_last_bit() -> None:
    torch.manual_seed(0)
    q = Gaussian(torch.randn(100, 7), torch.rand(100, 7) + 0.1)
    assert torch.equal(charged_rate(q, 0.0), q.kl().mean())


def test_free_bits_charge_each_dimension_for_the_batch_as_a_whole() -> None:
    # mu^2 / 2 nats of an image: in dimension 0 the mean over images is 1, in dimension 1 it is 0.25
    mu = torch.tensor([[2.0, 1.0], [0.0, 0.0]], requires_grad=True)
    q = Gaussian(mu, torch.ones(2, 2))
    assert charged_rate(q, 0.5).item() == pytest.approx(1 + 0.5)  # not per image (2.5 + ...), not of the sum (1.25)
    assert charged_rate(q, 0.1).item() == pytest.approx(1 + 0.25) == pytest.approx(q.kl().mean().item())
    (gradient,) = torch.autograd.grad(charged_rate(q, 0.5), mu)
    assert torch.equal(gradient, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))  # nothing pulls a dimension that is free


def steer(target: float, lambda_: float = 10_000.0, pull: float = 2.0) -> tuple[float, Tensor]:
    """Return the mean ratio of MMD and null level at the end, and lambda_ at each step, of a Gaussian pulled away."""
    config = RunConfig(objective="mmd_adaptive", mmd_target=target, lambda_=lambda_, latent_dim=2, steps=600)
    generator, kernel = torch.Generator().manual_seed(0), divergences.make_kernel("imq", 2)
    divergence, choose_lambda = make_divergence(config, CPU), make_lambda(config, CPU)
    mean = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([mean], lr=0.02)
    null = divergences.squared_mmd_v_null(
        config.batch_size, config.n_prior_draws, 2, kernel, torch.Generator().manual_seed(1)
    )
    ratios, lambdas = [], []
    for step in range(config.steps):
        q = Gaussian(mean.expand(config.batch_size, 2), torch.ones(config.batch_size, 2))
        value = divergence(q.sample(generator), q, generator)
        lambdas.append(choose_lambda(step, value))
        optimizer.zero_grad()
        info_vae_loss(Terms(-pull * mean.sum(), q.kl().mean(), value), config.alpha, lambdas[-1]).backward()
        optimizer.step()
        ratios.append(value.item() / null)
    return sum(ratios[-250:]) / 250, torch.stack([torch.as_tensor(value) for value in lambdas])


@pytest.mark.parametrize("target", [1.5, 4.0])
def test_adaptive_lambda_holds_the_mmd_at_its_target(target: float) -> None:
    ratio, lambdas = steer(target)
    assert ratio == pytest.approx(target, rel=0.15)
    assert lambdas[0].item() == pytest.approx(1) and not lambdas.requires_grad
    assert lambdas.min() >= 1 and lambdas.max() < 1000  # the bound is not what stops it


def test_adaptive_lambda_stays_in_its_range() -> None:
    ratio, lambdas = steer(1.5, lambda_=1.2)  # too weak to reach the target
    assert ratio > 3 and lambdas.max().item() == pytest.approx(1.2)
    ratio, lambdas = steer(4.0, pull=0.0)  # nothing to hold
    assert ratio < 1.5 and lambdas.max().item() == pytest.approx(1)


def test_adaptive_lambda_rises_no_faster_than_the_geometric_schedule() -> None:
    config = RunConfig(objective="mmd_adaptive", steps=100)
    choose_lambda = AdaptiveLambda(config, CPU)
    for step in range(100):
        lambda_ = choose_lambda(step, torch.tensor(100.0)).item()
        assert lambda_ <= lambda_at(config, step) * 1.001
    assert lambda_ == pytest.approx(config.lambda_)


def test_lambda_of_every_other_objective_is_a_number() -> None:
    for name in OBJECTIVES.keys() - {"mmd_adaptive"}:
        config = RunConfig(objective=name)
        assert make_lambda(config, CPU)(3, torch.tensor(math.nan)) == lambda_at(config, 3)
