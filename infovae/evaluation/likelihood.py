"""log p(x) of a trained decoder under z ~ p(z) = N(0, I), estimated from below (paper, table 1).

Owns importance sampling with a proposal that is fitted to the frozen decoder, and its check by fits that do not start
from the encoder. The proposals are those of `proposal`.

The encoder's q(z|x) enters as a starting point only. For a model that was not trained on the ELBO it is a poor
approximation of p(z|x), and importance sampling from it measures that, not the decoder. And log E_q[p(x|z)] -
KL(q(z|x) || p(z)), which other replications report, is no bound: by Jensen's inequality it exceeds the ELBO, and where
q(z|x) = p(z|x) it exceeds log p(x) itself, by 1/2 - log(2)/2 = 0.15 nats for each latent dimension that x determines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from infovae.config import LikelihoodEvaluation, RunConfig
from infovae.data.datasets import ImageData
from infovae.evaluation.images import Evaluated, Split, encode, in_batches, see
from infovae.evaluation.latent import reconstruction_nll
from infovae.evaluation.proposal import (
    Proposal,
    fit_proposal,
    initial_proposal,
    require_same_length,
    standard_normal,
)
from infovae.model.build import Model
from infovae.model.divergences import standard_normal_log_prob
from infovae.model.networks import Decoder, Gaussian

N_STARTS = 4
"""Fits that do not start from the encoder. A mode whose basin holds half of the prior is missed by one image in 16."""
FITTED_AT_ONCE = 500
"""Images, which bounds the memory of gradients through the decoder: of the gated PixelCNN 10 MB each."""
START_STD = 0.3
"""Of such a fit: wide enough for the gradient to see its surroundings."""


def evaluate(
    evaluation: LikelihoodEvaluation, config: RunConfig, model: Model, data: ImageData, generator: torch.Generator
) -> Evaluated:
    """Return negative bounds on log p(x), in nats per image: upper bounds on the truth, the lower the tighter.

    `nll_K` has K draws of the fitted proposal, `nll` the most; `nll_std_error` is the standard error of `nll` as a mean
    over a sample of images. The images are drawn by the run's seed: models of one seed are compared on the same ones,
    and the spread over seeds contains that of the draw.
    `ess_median` and `ess_5pct` are the effective sample size as a fraction of the draws, the median and the 5th
    percentile over images. `nll_elbo` = -E_q[log p(x|z)] + `elbo_rate` needs no fit: the encoder's own q, one draw for
    each image.
    `nll_searched` is the bound of `search_elsewhere` on the first n_searched images, `nll_missed` by how much it is
    tighter than a bound of the very same images with as many draws, all from the fit that starts at the encoder: at
    least so much are modes worth that the encoder does not know. It is below 0 where the draws of the other fits are
    wasted. Its standard error is `nll_missed_std_error`.
    """
    chunk = 100 if generator.device.type == "cpu" else 5000
    budget = {"n_draws": evaluation.n_draws, "fit_steps": evaluation.fit_steps, "chunk": chunk}

    def draw(split: Split, n_all: int, n: int) -> Tensor:
        """Return n of the first n_all images (all if there are fewer), drawn by the run's seed."""
        rows = torch.randperm(n_all, generator=torch.Generator().manual_seed(config.seed))[:n]
        return see(data, split, config, generator, rows)

    x = draw("test", len(data.test_images), evaluation.n_images)
    q = encode(model, x)
    elbo_rate = float(q.kl().double().mean())
    of_test = estimate_log_likelihood(model.decoder, q, x, generator, **budget)
    nll = -of_test.log_p_x[evaluation.n_draws]
    ess = of_test.effective_sample_size / evaluation.n_draws
    metrics = {f"nll_{k}": -float(log_p_x.mean()) for k, log_p_x in of_test.log_p_x.items()} | {
        "nll": float(nll.mean()),
        "nll_std_error": _std_error(nll),
        "ess_median": float(ess.median()),
        "ess_5pct": float(ess.quantile(0.05)),
        "nll_elbo": reconstruction_nll(model.decoder, x, q.sample(generator), chunk) + elbo_rate,
        "elbo_rate": elbo_rate,
    }
    if evaluation.n_train_images:
        x_train = draw("train", config.n_train, evaluation.n_train_images)
        of_train = estimate_log_likelihood(model.decoder, encode(model, x_train), x_train, generator, **budget)
        metrics["nll_train"] = -float(of_train.log_p_x[evaluation.n_draws].mean())
        metrics["nll_gap"] = metrics["nll"] - metrics["nll_train"]
    if evaluation.n_searched and of_test.proposal:
        n, n_all = min(evaluation.n_searched, len(x)), (1 + N_STARTS) * evaluation.n_draws
        known = of_test.proposal.of_images(slice(n))
        searched = search_elsewhere(model.decoder, known, x[:n], generator, **budget)
        as_many = importance_weighted_bound(model.decoder, known, x[:n], generator, (n_all,), chunk).log_p_x[n_all]
        metrics["nll_searched"] = -float(searched.mean())
        metrics["nll_missed"] = float((searched - as_many).mean())
        metrics["nll_missed_std_error"] = _std_error(searched - as_many)
    return metrics, {}


def _std_error(values: Tensor) -> float:
    return float(values.std() / len(values) ** 0.5) if len(values) > 1 else math.nan


class LikelihoodEstimate(NamedTuple):
    """Importance-weighted bounds on log p(x) in nats for each of n images, and how well the proposal fits.

    Attributes
    ----------
    log_p_x : K -> (n,), float64. A lower bound in expectation for each K, increasing in K in expectation.
    effective_sample_size : (n,), float64: (sum w)^2 / sum w^2 over all draws, from 1 to their number. Near 1, the bound
        rests on a single draw and more draws would raise it. It cannot see a mode of p(z|x) that the proposal misses.
    proposal : from which the draws came; None where none were needed.
    """

    log_p_x: dict[int, Tensor]
    effective_sample_size: Tensor
    proposal: Proposal | None


@torch.no_grad()
def estimate_log_likelihood(
    decoder: Decoder,
    q_z_given_x: Gaussian,
    x: Tensor,
    generator: torch.Generator,
    n_draws: int,
    fit_steps: int,
    chunk: int,
) -> LikelihoodEstimate:
    """Fit a proposal to the frozen decoder, from q(z|x) on, and return the bounds for K = 1, 10, ... up to n_draws.

    A decoder without a code (latent dimension 0) needs neither: its log p(x) is exact, the same for every K, and its
    effective sample size is NaN. `chunk` is the number of images fitted at the same time, up to
    `FITTED_AT_ONCE`, and of pairs (x, z) in one call of the decoder. 1,000 images of 28 x 28 fall out of a CPU's
    caches: the PixelCNN took 2.7 times as long for each pair as with 100.
    """
    n_samples = powers_of_ten(n_draws)
    if q_z_given_x.mu.shape[1] == 0:
        exact = in_batches(decoder.log_prob, x, q_z_given_x.mu, size=chunk).double()
        return LikelihoodEstimate(dict.fromkeys(n_samples, exact), torch.full_like(exact, math.nan), None)
    proposal = fit_proposal(decoder, initial_proposal(q_z_given_x), x, generator, fit_steps, min(chunk, FITTED_AT_ONCE))
    return importance_weighted_bound(decoder, proposal, x, generator, n_samples, chunk)


def powers_of_ten(largest: int) -> tuple[int, ...]:
    """Return 1, 10, 100, ... up to `largest`: the K at which bounds are reported."""
    return tuple(10**exponent for exponent in range(len(str(largest))))


@torch.no_grad()
def importance_weighted_bound(
    decoder: Decoder,
    proposal: Proposal,
    x: Tensor,
    generator: torch.Generator,
    n_samples: Sequence[int] = (1, 10, 100, 1000),
    chunk: int = 1000,
    others: Sequence[Proposal] = (),
) -> LikelihoodEstimate:
    """Return importance-weighted bounds on log p(x) (Burda, Grosse and Salakhutdinov 2016), for the K in `n_samples`.

        log p_K(x) = log (1/K) sum_k w_k,    w_k = p(x|z_k) p(z_k) / r(z_k|x),    z_k ~ r(z|x)

    All K share one set of log-weights; a K below the largest is the average of log p_K over the disjoint groups of K
    draws, so each is unbiased for its own bound. With `others`, further proposals for the same images x (n, 1, h, w),
    K is the number of draws from each of them, and r the mean of their densities.

    Raises
    ------
    ValueError
        If an element of n_samples does not divide the largest, or the proposal is for another number of images.
    """
    largest = max(n_samples)
    if min(n_samples) < 1 or any(largest % k for k in n_samples):
        raise ValueError(f"n_samples={tuple(n_samples)}: each must be positive and divide the largest, {largest}")
    require_same_length(proposal, x)
    rows = [slice(first, first + chunk) for first in range(0, len(x), chunk)]
    parts = [([r.of_images(part) for r in (proposal, *others)], x[part]) for part in rows]
    log_w = torch.cat([_log_weights(decoder, *part, generator, largest, chunk) for part in parts], 1)
    groups = {k: log_w.view(largest // k, k * (1 + len(others)), -1) for k in n_samples}
    log_p_x = {k: (group.logsumexp(1) - math.log(group.shape[1])).mean(0) for k, group in groups.items()}
    effective_sample_size = (2 * log_w.logsumexp(0) - (2 * log_w).logsumexp(0)).exp()
    return LikelihoodEstimate(log_p_x, effective_sample_size, proposal)


def _log_weights(
    decoder: Decoder, proposals: Sequence[Proposal], x: Tensor, generator: torch.Generator, n_draws: int, chunk: int
) -> Tensor:
    """Return log p(x|z) + log p(z) - log r(z|x) for n_draws draws of each of m proposals, (n_draws m, n), float64."""
    n, m, log_w = len(x), len(proposals), []
    draws_per_call = max(1, chunk // (n * m))
    for first in range(0, n_draws, draws_per_call):
        k = min(draws_per_call, n_draws - first)
        z = torch.stack([r.sample(k, generator) for r in proposals], 1).flatten(0, 1).to(x.dtype)  # (k m, n, d)
        log_p_x_given_z = decoder.log_prob(x.repeat(k * m, *[1] * (x.ndim - 1)), z.flatten(0, 1)).view(k * m, n)
        z = z.double()  # the z that the decoder saw, so that rounding it changes no weight
        log_r = torch.stack([r.log_prob(z) for r in proposals]).logsumexp(0) - math.log(m)
        log_w.append(log_p_x_given_z.double() + standard_normal_log_prob(z) - log_r)
    return torch.cat(log_w)


@torch.no_grad()
def search_elsewhere(
    decoder: Decoder,
    proposal: Proposal,
    x: Tensor,
    generator: torch.Generator,
    n_draws: int,
    fit_steps: int,
    chunk: int,
) -> Tensor:
    """Return a bound on log p(x), (n,), whose proposals have also looked where the encoder does not point.

    Beside the given proposal, fitted from q(z|x) for these images, stand `N_STARTS` others, fitted as it was but
    started at draws of the prior; n_draws of each make one bound, weighted by the mean of the densities (a defensive
    mixture: Owen and Zhou 2000). A mode of p(z|x) that holds a share s of the posterior, is missed by the encoder and
    found by a fit, raises it by -log(1 - s). It says nothing of a mode that no fit finds.
    """
    scale_tril = torch.full_like(proposal.mu, START_STD).diag_embed()
    starts = [Proposal(standard_normal(proposal.mu.shape, generator, proposal.mu), scale_tril) for _ in range(N_STARTS)]
    others = [fit_proposal(decoder, start, x, generator, fit_steps, min(chunk, FITTED_AT_ONCE)) for start in starts]
    return importance_weighted_bound(decoder, proposal, x, generator, (n_draws,), chunk, others).log_p_x[n_draws]
