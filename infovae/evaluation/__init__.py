"""One function per reported number, and `evaluate`, which applies those of one evaluation to a trained model."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from infovae.config import (
    Evaluation,
    LatentEvaluation,
    PixelConfig,
    PosteriorEvaluation,
    RunConfig,
    SampleEvaluation,
    SemiSupervisedEvaluation,
)
from infovae.data import ImageData, binarize, static_binarization
from infovae.model import Model, PixelModel
from infovae.networks import Gaussian

if TYPE_CHECKING:
    from infovae.divergences import NullLevel

N_KEPT = 2000
"""Codes kept for the plot of a two-dimensional latent plane."""

Evaluated = tuple[dict[str, Any], dict[str, Any]]
"""Metrics by name, and arrays by name for the figures."""


@torch.no_grad()
def evaluate(
    evaluation: Evaluation,
    config: RunConfig | PixelConfig,
    model: Model | PixelModel,
    data: ImageData,
    device: torch.device,
    classifier: bytes | None = None,
) -> Evaluated:
    """Evaluate a trained model; the result depends on the arguments alone: the generator has the run's seed.

    Parameters
    ----------
    classifier : weights of the classifier that a `SampleEvaluation` names.
    """
    generator = torch.Generator(device).manual_seed(config.seed + 1_000_003)
    if isinstance(evaluation, SemiSupervisedEvaluation):
        return _evaluate_semi_supervised(evaluation, config, model, data, generator)
    if isinstance(config, PixelConfig) or isinstance(model, PixelModel):
        raise TypeError(f"{type(evaluation).__name__} needs a trained model, the pixel baseline has none")
    if isinstance(evaluation, PosteriorEvaluation):
        return _evaluate_posterior(evaluation, model)
    if isinstance(evaluation, LatentEvaluation):
        return _evaluate_latent(evaluation, config, model, data, generator)
    if classifier is None:
        raise ValueError("evaluating samples needs a trained classifier")
    return _evaluate_samples(evaluation, model, data, generator, classifier)


def encode(model: Model | PixelModel, x: Tensor, batch_size: int = 250) -> Gaussian:
    """Return q(z|x) for images (n, 1, H, W), in batches."""
    parts = [model.encoder(batch) for batch in x.split(batch_size)]
    return Gaussian(torch.cat([q.mu for q in parts]), torch.cat([q.std for q in parts]))


def _evaluate_latent(
    evaluation: LatentEvaluation, config: RunConfig, model: Model, data: ImageData, generator: torch.Generator
) -> Evaluated:
    from infovae import divergences
    from infovae.evaluation import latent

    device = generator.device
    test = data.test_images[: evaluation.n_images]
    train = data.train_images[: min(config.n_train, evaluation.n_images)]
    if config.binarization == "static":
        test, train = static_binarization(test, seed=1), static_binarization(train, seed=0)
    x = binarize(test.to(device), generator)
    q, q_train = encode(model, x), encode(model, binarize(train.to(device), generator))
    z = q.sample(generator)
    prior = torch.randn(z.shape, generator=generator, device=device)
    kernel = divergences.make_kernel("rbf", config.latent_dim, "prior")
    null = _null_level(len(z), config.latent_dim, device)
    rate, information = latent.rate(q.mu, q.std), latent.mutual_information(z, q.mu, q.std)
    cap = latent.mutual_information_cap(len(z))
    n = min(evaluation.n_likelihood, len(x))
    metrics = {
        "squared_mmd": divergences.squared_mmd_chunked(z, prior, kernel),
        "squared_mmd_null": null.value,
        "squared_mmd_null_std": null.std,
        "squared_mmd_no_overlap": divergences.squared_mmd_no_overlap(z, prior, kernel),
        "log_det_cov_per_dim_test": latent.log_det_covariance_per_dim(q.mu, q.std),
        "log_det_cov_per_dim_train": latent.log_det_covariance_per_dim(q_train.mu, q_train.std),
        "mutual_information": information,
        "mutual_information_cap": cap,
        "rate": rate,
        # KL(q(z) || p(z)); near its cap I(x;z) is an underestimate, and the difference would be no divergence of q(z)
        "marginal_kl": rate - information if information < cap - 0.5 else float("nan"),
        "active_units": latent.active_units(q.mu),
        "reconstruction_nll": latent.reconstruction_nll(model.decoder, x[:n], z[:n]),
        "reconstruction_nll_prior": latent.reconstruction_nll(model.decoder, x[:n], prior[:n]),
    }
    kept = {"z": z[:N_KEPT], "labels": data.test_labels[: min(N_KEPT, len(z))]}
    return metrics, {name: tensor.cpu().numpy() for name, tensor in kept.items()}


@lru_cache
def _null_level(n: int, dim: int, device: torch.device) -> NullLevel:
    """Return the reporting kernel's null level: the same for every run of a dimension, so computed once per process."""
    from infovae import divergences

    kernel = divergences.make_kernel("rbf", dim, "prior")
    return divergences.squared_mmd_null(n, dim, kernel, torch.Generator(device).manual_seed(0))


def _evaluate_samples(
    evaluation: SampleEvaluation, model: Model, data: ImageData, generator: torch.Generator, weights: bytes
) -> Evaluated:
    from safetensors.torch import load

    from infovae.evaluation import samples

    device = generator.device
    classifier = samples.Classifier((data.test_images.shape[1], data.test_images.shape[2])).to(device).eval()
    classifier.load_state_dict(load(weights))
    n = evaluation.n_samples
    z = torch.randn(n, model.latent_dim, generator=generator, device=device)
    uniforms = torch.rand(n, 1, *data.test_images.shape[1:], generator=generator, device=device)
    generated = model.decoder.sample(z, uniforms)
    x = binarize(data.test_images.to(device), generator)
    accuracy = (samples.classify(classifier, x).cpu() == data.test_labels).double().mean().item()
    true = samples.class_distribution(data.train_labels)
    real = binarize(data.train_images[:n].to(device), generator)
    test_features = samples.extract_features(classifier, x)
    metrics = {
        "class_cross_entropy": samples.class_cross_entropy(
            true, samples.class_distribution(samples.classify(classifier, generated)), n
        ),
        "class_cross_entropy_real": samples.class_cross_entropy(
            true, samples.class_distribution(data.test_labels[:n]), n
        ),
        "frechet_distance": samples.frechet_distance(samples.extract_features(classifier, generated), test_features),
        "frechet_distance_real": samples.frechet_distance(samples.extract_features(classifier, real), test_features),
        "classifier_accuracy": accuracy,
    }
    originals = x[: min(50, n)]
    again = model.decoder.sample(model.encoder(originals).sample(generator), uniforms[: len(originals)])
    kept = {"samples": generated[:100], "originals": originals, "reconstructions": again}
    return metrics, {name: tensor.to(torch.uint8).cpu().numpy() for name, tensor in kept.items()}


def _evaluate_posterior(evaluation: PosteriorEvaluation, model: Model) -> Evaluated:
    from infovae.evaluation import posterior

    metrics = posterior.posterior_metrics(model, evaluation.z_max, evaluation.n_grid)
    kept = posterior.posterior_densities(model)
    return metrics, {name: tensor.float().numpy() for name, tensor in kept.items()}


def _evaluate_semi_supervised(
    evaluation: SemiSupervisedEvaluation,
    config: RunConfig | PixelConfig,
    model: Model | PixelModel,
    data: ImageData,
    generator: torch.Generator,
) -> Evaluated:
    from infovae.evaluation.semi_supervised import semi_supervised_errors

    device = generator.device
    n_pool = min(config.n_train, evaluation.n_pool)
    pool = encode(model, binarize(data.train_images[:n_pool].to(device), generator))
    test = encode(model, binarize(data.test_images.to(device), generator))

    def errors(features_pool: Tensor, features_test: Tensor, n_unlabelled: int) -> dict[str, float]:
        return semi_supervised_errors(
            features_pool.cpu().numpy(),
            data.train_labels[:n_pool].numpy(),
            features_test.cpu().numpy(),
            data.test_labels.numpy(),
            n_labels=evaluation.n_labels,
            n_draws=evaluation.n_draws,
            n_unlabelled=n_unlabelled,
            seed=config.seed,
        )

    of_means = errors(pool.mu, test.mu, evaluation.n_unlabelled)
    # the machine does not see the scale of its features: means that vary by a thousandth of the posterior's standard
    # deviation classify well though the code z holds nothing, so z itself is judged too
    of_draws = of_means if isinstance(model, PixelModel) else errors(pool.sample(generator), test.sample(generator), 0)
    return {**of_means, "svm_error_sampled": of_draws["svm_error"]}, {}
