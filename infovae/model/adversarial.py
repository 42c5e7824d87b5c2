"""Divergences between q(z) and p(z) that a critic estimates: Jensen-Shannon, Wasserstein, Pearson chi-squared.

Owns: the critic's loss and the code's loss, as functions of the critic's outputs on prior and code samples, (n,) or
(n, 1). Refuses: the critic network (`infovae.model.networks`), its optimiser, which has to be its own, and
the alternation. Every `*_critic_loss` is minimised by the critic with the code detached; every `*_code_loss` is
minimised by the encoder with the critic fixed, and decreases as the critic finds q(z) closer to p(z).
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

Critic = Callable[[Tensor], Tensor]  # samples (n, dim) to one number each


# --- Jensen-Shannon: the critic's output is a logit, high on the prior


def jensen_critic_loss(logits_prior: Tensor, logits_code: Tensor) -> Tensor:
    """Return -E_p log sigmoid(T) - E_q log sigmoid(-T), in nats (Goodfellow et al. 2014, equation 1)."""
    return softplus(-logits_prior).mean() + softplus(logits_code).mean()


def jensen_code_loss(logits_code: Tensor, saturating: bool) -> Tensor:
    """Return the encoder's part of the Jensen-Shannon divergence, in nats, or of a divergence that does not saturate.

    Saturating (minimax): E_q log sigmoid(-T) / 2, whose gradient is that of JS(q, p) at the best critic, but vanishes
    where the critic is sure: JS is at most log 2.

    Else: -E_q log sigmoid(T) / 2.

    DEVIATION: unless `saturating` is set, the encoder is trained with -E_q log sigmoid(T) / 2 and not with the loss of
    minimax. At the best critic its gradient is that of KL(q||p) / 2 - JS(q, p), which has no upper bound (Arjovsky and
    Bottou 2017, theorem 2.5). Near a match the two gradients agree to the first order, so there the weight multiplies
    JS in nats.
    """
    return (-softplus(logits_code) if saturating else softplus(-logits_code)).mean() / 2


# --- Wasserstein: the critic's output is a potential, high on the prior


def wasserstein_critic_loss(
    critic: Critic, z_prior: Tensor, z_code: Tensor, generator: torch.Generator, penalty: float = 10.0
) -> Tensor:
    """Return E_q f - E_p f + penalty E (|grad f| - 1)^2 (Gulrajani et al. 2017, equation 3).

    The gradient is taken at points drawn uniformly on the lines between pairs of a prior and a code sample. Without the
    last term, minus this loss is the estimate of the 1-Wasserstein distance; it is one only as far as the slope of f is
    at most 1. The critic must treat samples one by one (no batch normalisation). In one dimension the penalty traps:
    a critic whose slope starts with the wrong sign would have to pass 0, where the penalty is highest, and stays.
    """
    if z_prior.shape != z_code.shape:
        raise ValueError(f"the penalty pairs samples, got shapes {tuple(z_prior.shape)} and {tuple(z_code.shape)}")
    weight = torch.rand(len(z_code), 1, generator=generator, device=generator.device).to(z_code)
    between = torch.lerp(z_prior, z_code, weight).detach().requires_grad_()
    (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    return critic(z_code).mean() - critic(z_prior).mean() + penalty * (slope.norm(dim=1) - 1).square().mean()


def wasserstein_code_loss(potential_code: Tensor) -> Tensor:
    """Return -E_q f."""
    return -potential_code.mean()


# --- Pearson chi-squared: the critic's output is 2 (q/p - 1) at its best, high on the code


def chi2_critic_loss(output_prior: Tensor, output_code: Tensor) -> Tensor:
    """Return minus the variational lower bound of chi^2(q||p) = E_p (q/p - 1)^2.

    The bound is E_q T - E_p [T + T^2 / 4] (Nowozin et al. 2016, table 1), equal to chi^2 at T = 2 (q/p - 1). Fitting T
    is fitting the density ratio by least squares. chi^2 is infinite where q has much heavier tails than p: for
    q = N(0, v I) from v = 2 on.
    """
    return (output_prior + output_prior.square() / 4).mean() - output_code.mean()


def chi2_code_loss(output_code: Tensor) -> Tensor:
    """Return E_q T, the encoder's part of the bound."""
    return output_code.mean()
