"""Critic-based divergences against integrals and closed forms, with the best critic known and with trained ones."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from infovae.model.adversarial import (
    chi2_code_loss,
    chi2_critic_loss,
    jensen_code_loss,
    jensen_critic_loss,
    wasserstein_code_loss,
    wasserstein_critic_loss,
)
from infovae.model.divergences import standard_normal_log_prob


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def log_q(z: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    return standard_normal_log_prob((z - mean) / std) - std.log().sum()


def integrate(f: Callable[[Tensor], Tensor], dim: int) -> float:
    """Integrate over [-9, 9]^dim by the midpoint rule, which is spectrally accurate for densities that vanish there."""
    width = 0.04
    axis = torch.arange(-9 + width / 2, 9, width, dtype=torch.float64)
    grid = torch.cartesian_prod(*[axis] * dim).reshape(-1, dim)
    return f(grid).sum().item() * width**dim


def jensen_shannon_estimate(prior: Tensor, code: Tensor) -> Tensor:
    """What the critic's loss says of the Jensen-Shannon divergence: in expectation a lower bound, in nats."""
    return math.log(2) - jensen_critic_loss(prior, code) / 2


def jensen_shannon(mean: Tensor, std: Tensor) -> float:
    """JS between N(0, I) and N(mean, diag std^2), in nats, from its definition by the mixture m."""

    def integrand(z: Tensor) -> Tensor:
        p, q = standard_normal_log_prob(z), log_q(z, mean, std)
        m = torch.logaddexp(p, q) - math.log(2)
        return (p.exp() * (p - m) + q.exp() * (q - m)) / 2

    return integrate(integrand, len(mean))


def small_critic(dim: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(dim, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 1))


def train_critic(
    mean: Tensor, std: Tensor, loss: Callable[[nn.Module, Tensor, Tensor], Tensor], n_steps: int = 300
) -> nn.Module:
    critic, generator = small_critic(len(mean)), seeded()
    optimizer = torch.optim.Adam(critic.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.02, n_steps)
    for _ in range(n_steps):
        z_prior, z = torch.randn(2, 512, len(mean), generator=generator)
        optimizer.zero_grad()
        loss(critic, z_prior, mean + std * z).backward()
        optimizer.step()
        schedule.step()
    return critic


GAUSSIANS = [([1.5], [0.5]), ([1.0, -0.5], [0.5, 1.2])]


@pytest.mark.parametrize(("mean", "std"), GAUSSIANS)
def test_jensen_shannon_of_the_best_critic_is_the_integral(mean: list[float], std: list[float]) -> None:
    m, s = torch.tensor(mean).double(), torch.tensor(std).double()

    def logits(z: Tensor) -> Tensor:
        return standard_normal_log_prob(z) - log_q(z, m, s)

    z_prior, z = torch.randn(2, 200_000, len(m), generator=seeded(), dtype=torch.float64)
    at_best = jensen_shannon_estimate(logits(z_prior), logits(m + s * z)).item()
    assert at_best == pytest.approx(jensen_shannon(m, s), abs=0.003)
    for other in (lambda z: 0.7 * logits(z), lambda z: logits(z) + 0.5):
        assert jensen_shannon_estimate(other(z_prior), other(m + s * z)).item() < at_best - 0.002


@pytest.mark.parametrize(("mean", "std"), GAUSSIANS)
def test_jensen_shannon_of_a_trained_critic_approaches_the_integral(mean: list[float], std: list[float]) -> None:
    m, s = torch.tensor(mean), torch.tensor(std)
    critic = train_critic(m, s, lambda critic, z_p, z_q: jensen_critic_loss(critic(z_p), critic(z_q)))
    z_prior, z = torch.randn(2, 50_000, len(m), generator=seeded(1))
    with torch.no_grad():
        estimate = jensen_shannon_estimate(critic(z_prior), critic(m + s * z)).item()
    exact = jensen_shannon(m.double(), s.double())
    assert exact - 0.015 < estimate < exact + 0.006


@settings(deadline=None)
@given(st.lists(st.floats(-80, 80), min_size=1), st.lists(st.floats(-80, 80), min_size=1))
def test_jensen_shannon_never_exceeds_log_2(prior: list[float], code: list[float]) -> None:
    assert jensen_shannon_estimate(torch.tensor(prior), torch.tensor(code)) <= math.log(2) + 1e-6


def test_jensen_shannon_ends_of_the_scale() -> None:
    nothing, sure = torch.zeros(3), torch.full((3,), 50.0)
    assert jensen_shannon_estimate(nothing, nothing).item() == pytest.approx(0, abs=1e-7)
    assert jensen_shannon_estimate(sure, -sure).item() == pytest.approx(math.log(2))


def test_saturating_code_loss_has_the_gradient_of_jensen_shannon() -> None:
    m, s, step = torch.tensor([1.0]).double(), torch.tensor([0.7]).double(), 1e-3
    expected = (jensen_shannon(m + step, s) - jensen_shannon(m - step, s)) / (2 * step)
    shift = m.clone().requires_grad_()
    z = shift + s * torch.randn(200_000, 1, generator=seeded(), dtype=torch.float64)
    loss = jensen_code_loss(standard_normal_log_prob(z) - log_q(z, m, s), saturating=True)
    (gradient,) = torch.autograd.grad(loss, shift)
    assert gradient.item() == pytest.approx(expected, rel=0.02)


def test_non_saturating_code_loss_keeps_its_gradient_where_the_critic_is_sure() -> None:
    def slope(logit: float, saturating: bool) -> float:
        logits = torch.tensor([logit, logit], requires_grad=True)
        (gradient,) = torch.autograd.grad(jensen_code_loss(logits, saturating), logits)
        return gradient.sum().item()

    assert slope(0.0, True) == pytest.approx(-0.25) == pytest.approx(slope(0.0, False))
    assert slope(-20.0, True) == pytest.approx(0, abs=1e-6)
    assert slope(-20.0, False) == pytest.approx(-0.5)


def test_every_code_loss_falls_as_the_code_moves_to_the_prior() -> None:
    m, s = torch.tensor([2.0]), torch.tensor([1.0])
    z = torch.randn(5_000, 1, generator=seeded())

    def log_ratio(z: Tensor) -> Tensor:
        return standard_normal_log_prob(z) - log_q(z, m, s)

    code_losses: list[Callable[[Tensor], Tensor]] = [
        lambda z: jensen_code_loss(log_ratio(z), saturating=True),
        lambda z: jensen_code_loss(log_ratio(z), saturating=False),
        lambda z: wasserstein_code_loss(-z),  # the best potential for q to the right of p
        lambda z: chi2_code_loss(2 * torch.expm1(-log_ratio(z))),
    ]
    for code_loss in code_losses:
        losses = [code_loss(shift + z).item() for shift in (2.0, 1.5, 1.0, 0.5, 0.0)]
        assert losses == sorted(losses, reverse=True)


def test_chi2_of_the_best_critic_is_the_closed_form() -> None:
    z_prior, z = torch.randn(2, 200_000, 1, generator=seeded(), dtype=torch.float64)
    for mean, v in ((0.6, 1.0), (0.0, 0.5)):
        m, s = torch.tensor([mean]).double(), torch.tensor([v]).double().sqrt()

        def output(z: Tensor, m: Tensor = m, s: Tensor = s) -> Tensor:
            return 2 * torch.expm1(log_q(z, m, s) - standard_normal_log_prob(z))

        exact = math.exp(mean**2) / math.sqrt(v * (2 - v)) - 1  # one of the two factors is 1 in each case
        assert -chi2_critic_loss(output(z_prior), output(m + s * z)).item() == pytest.approx(exact, rel=0.05)
        for factor in (0.6, 1.4):
            other = -chi2_critic_loss(factor * output(z_prior), factor * output(m + s * z)).item()
            assert other == pytest.approx((1 - (1 - factor) ** 2) * exact, rel=0.08)


@pytest.mark.parametrize(("mean", "v"), [([0.6], [1.0]), ([0.5, 0.0], [1.0, 0.5])])
def test_chi2_of_a_trained_critic_approaches_the_closed_form(mean: list[float], v: list[float]) -> None:
    m, variance = torch.tensor(mean), torch.tensor(v)
    critic = train_critic(m, variance.sqrt(), lambda critic, z_p, z_q: chi2_critic_loss(critic(z_p), critic(z_q)))
    z_prior, z = torch.randn(2, 50_000, len(m), generator=seeded(1))
    with torch.no_grad():
        estimate = -chi2_critic_loss(critic(z_prior), critic(m + variance.sqrt() * z)).item()
    exact = (m.square().exp() / (variance * (2 - variance)).sqrt()).prod().item() - 1
    assert estimate == pytest.approx(exact, rel=0.1)


def test_wasserstein_critic_loss_and_its_gradient_on_a_linear_critic() -> None:
    weight = torch.tensor([3.0, 4.0], requires_grad=True)  # slope 5 everywhere
    z_prior, z_code = torch.randn(2, 6, 2, generator=seeded())
    loss = wasserstein_critic_loss(lambda z: z @ weight, z_prior, z_code, seeded(1), penalty=10.0)
    difference = z_code.mean(0) - z_prior.mean(0)
    assert loss.item() == pytest.approx((difference @ weight).item() + 10 * (5 - 1) ** 2, rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, weight)
    torch.testing.assert_close(gradient, difference + 10 * 2 * (5 - 1) * weight.detach() / 5)


def test_wasserstein_penalty_is_taken_between_the_two_samples() -> None:
    seen: list[Tensor] = []

    def critic(z: Tensor) -> Tensor:
        seen.append(z.detach())
        return z.square().sum(1)

    z_prior, z_code = torch.zeros(200, 2), torch.ones(200, 2)
    wasserstein_critic_loss(critic, z_prior, z_code, seeded(), penalty=1.0)
    between = seen[0]
    torch.testing.assert_close(between[:, 0], between[:, 1])  # on the line from (0, 0) to (1, 1)
    assert between.min() < 0.05 and between.max() > 0.95 and between.mean().item() == pytest.approx(0.5, abs=0.1)
    with pytest.raises(ValueError, match=r"\(200, 2\) and \(100, 2\)"):
        wasserstein_critic_loss(critic, z_prior, z_code[:100], seeded(), penalty=1.0)


def test_wasserstein_of_a_trained_critic_approaches_the_shift() -> None:
    m, generator = torch.tensor([1.2, -1.6]), seeded(2)  # the 1-Wasserstein distance is |m| = 2
    critic = train_critic(
        m, torch.ones(2), lambda critic, z_p, z_q: wasserstein_critic_loss(critic, z_p, z_q, generator, penalty=10.0)
    )
    z_prior, z = torch.randn(2, 20_000, 2, generator=seeded(1))
    z_code = (m + z).requires_grad_()
    estimate = -wasserstein_critic_loss(critic, z_prior, z_code, generator, penalty=0.0).item()
    # The penalty is soft: a linear critic's slope is 1 + |m| / (2 penalty) at the optimum.
    assert estimate == pytest.approx(2.0 * (1 + 2.0 / 20), rel=0.1)
    (gradient,) = torch.autograd.grad(wasserstein_code_loss(critic(z_code)), z_code)
    torch.testing.assert_close(gradient.sum(0), m / 2, atol=0.15, rtol=0)  # descent moves the code along -m
