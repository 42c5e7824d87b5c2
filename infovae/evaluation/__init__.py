"""One function per reported number, and `evaluate`, which applies those of one evaluation to a trained model."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from infovae.config import (
    Evaluation,
    LatentEvaluation,
    LikelihoodEvaluation,
    PixelConfig,
    PosteriorEvaluation,
    RunConfig,
    SampleEvaluation,
    SemiSupervisedEvaluation,
)
from infovae.data import ImageData, binarize, static_binarization
from infovae.model import Model, PixelModel
from infovae.networks import Gaussian, IndependentDecoder

if TYPE_CHECKING:
    from infovae.divergences import NullLevel

N_KEPT = 2000
"""Codes kept for the plot of a two-dimensional latent plane, and posteriors of which its density is made."""

PLANE = torch.linspace(-4, 4, 81)
"""Either axis of the grid on which the density of a two-dimensional q(z) is kept."""

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
    if isinstance(evaluation, LikelihoodEvaluation):
        return _evaluate_likelihood(evaluation, config, model, data, generator)
    if classifier is None:
        raise ValueError("evaluating samples needs a trained classifier")
    return _evaluate_samples(evaluation, model, data, generator, classifier)


def encode(model: Model | PixelModel, x: Tensor, batch_size: int = 250) -> Gaussian:
    """Return q(z|x) for images (n, 1, H, W), in batches."""
    parts = [model.encoder(batch) for batch in x.split(batch_size)]
    return Gaussian(torch.cat([q.mu for q in parts]), torch.cat([q.std for q in parts]))


def _binarize(images: Tensor, config: RunConfig, seed: int, generator: torch.Generator) -> Tensor:
    """Return images as the run's own are: drawn here, or binarised once and for all (seed 0: training, 1: test,
    2: validation images).
    """
    if config.binarization == "static":
        images = static_binarization(images, seed)
    return binarize(images.to(generator.device), generator)


def _draw(images: Tensor, n: int, config: RunConfig, static_seed: int, generator: torch.Generator) -> Tensor:
    """Return n of the images (all if there are fewer), drawn by the run's seed, binarised as the run's are."""
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(config.seed))[:n]
    if config.binarization == "static":  # the whole set's draw, of which the run has seen just this
        images = static_binarization(images, static_seed)
    return binarize(images[rows].to(generator.device), generator)


def _evaluate_latent(
    evaluation: LatentEvaluation, config: RunConfig, model: Model, data: ImageData, generator: torch.Generator
) -> Evaluated:
    from infovae import divergences
    from infovae.evaluation import latent

    device = generator.device
    images, labels, static_seed = {
        "test": (data.test_images, data.test_labels, 1),
        "validation": (data.validation_images, data.validation_labels, 2),
    }[evaluation.split]
    x = _binarize(images[: evaluation.n_images], config, static_seed, generator)
    n_train = min(config.n_train, evaluation.n_images)
    q, q_train = encode(model, x), encode(model, _binarize(data.train_images[:n_train], config, 0, generator))
    z = q.sample(generator)
    prior = torch.randn(z.shape, generator=generator, device=device)
    if not config.latent_dim:  # no distribution of codes, and no match to report
        nll = latent.reconstruction_nll(model.decoder, x[: evaluation.n_likelihood], z[: evaluation.n_likelihood])
        nothing = {"rate": 0.0, "mutual_information": 0.0, "active_units": 0}
        return {**nothing, "reconstruction_nll": nll, "reconstruction_nll_prior": nll}, {}
    kernel = divergences.make_kernel("rbf", config.latent_dim, "prior")
    mmd = divergences.squared_mmd_chunked(z, prior, kernel)
    null = _null_level(len(z), config.latent_dim, device)
    rate, information = latent.rate(q.mu, q.std), latent.mutual_information(z, q.mu, q.std)
    cap = latent.mutual_information_cap(len(z))
    n = min(evaluation.n_likelihood, len(x))
    metrics = {
        "squared_mmd": mmd.value,
        "squared_mmd_null": null.value,
        "squared_mmd_null_std": null.std,
        "squared_mmd_no_overlap": mmd.no_overlap,
        f"log_det_cov_per_dim_{evaluation.split}": latent.log_det_covariance_per_dim(q.mu, q.std),
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
    kept = {"z": z[:N_KEPT], "labels": labels[: min(N_KEPT, len(z))]}
    if config.latent_dim == 2:
        plane = torch.cartesian_prod(PLANE, PLANE).to(device)
        for name, (mu, std) in {evaluation.split: q, "train": q_train}.items():
            density = latent.mixture_density(plane, mu[:N_KEPT], std[:N_KEPT])
            kept[f"density_{name}"] = density.unflatten(0, (len(PLANE), len(PLANE))).float()
    return metrics, {name: tensor.cpu().numpy() for name, tensor in kept.items()}


def _evaluate_likelihood(
    evaluation: LikelihoodEvaluation, config: RunConfig, model: Model, data: ImageData, generator: torch.Generator
) -> Evaluated:
    """Return negative bounds on log p(x), in nats per image: upper bounds on the truth, the lower the tighter.

    `nll_K` has K draws of the fitted proposal, `nll` the most; `nll_std_error` is the standard error of `nll` as a mean
    over a sample of images. The images are drawn by the run's seed: models of one seed are compared on the same ones,
    and the spread over seeds contains that of the draw.
    `ess_median` and `ess_5pct` are the effective sample size as a fraction of the draws, the median and the 5th
    percentile over images. `nll_elbo` = -E_q[log p(x|z)] + `elbo_rate` needs no fit: the encoder's own q, one draw for
    each image. `nll_annealed` stands beside `nll_annealed_reference`, which is `nll` of the very same images.
    """
    from infovae.evaluation import latent, likelihood

    chunk = 100 if generator.device.type == "cpu" else 5000

    def estimate(x: Tensor, q: Gaussian) -> likelihood.LikelihoodEstimate:
        return likelihood.estimate_log_likelihood(
            model.decoder, q, x, generator, evaluation.n_draws, evaluation.fit_steps, chunk
        )

    x = _draw(data.test_images, evaluation.n_images, config, 1, generator)
    q = encode(model, x)
    elbo_rate = float(q.kl().double().mean())
    of_test = estimate(x, q)
    nll = -of_test.log_p_x[evaluation.n_draws]
    ess = of_test.effective_sample_size / evaluation.n_draws
    metrics = {f"nll_{k}": -value for k, value in of_test.mean_log_p_x().items()} | {
        "nll": float(nll.mean()),
        "nll_std_error": float(nll.std() / len(nll) ** 0.5),
        "ess_median": float(ess.median()),
        "ess_5pct": float(ess.quantile(0.05)),
        "nll_elbo": latent.reconstruction_nll(model.decoder, x, q.sample(generator), chunk) + elbo_rate,
        "elbo_rate": elbo_rate,
    }
    if evaluation.n_train_images:
        x_train = _draw(data.train_images[: config.n_train], evaluation.n_train_images, config, 0, generator)
        metrics["nll_train"] = -estimate(x_train, encode(model, x_train)).mean_log_p_x()[evaluation.n_draws]
        metrics["nll_gap"] = metrics["nll"] - metrics["nll_train"]
    if evaluation.n_annealed and config.latent_dim:
        n = min(evaluation.n_annealed, len(x))
        annealed = likelihood.annealed_importance_sampling(
            model.decoder, x[:n], config.latent_dim, generator, evaluation.n_temperatures
        )
        metrics["nll_annealed"] = -float(annealed.lower.mean())
        metrics["nll_annealed_reference"] = float(nll[:n].mean())
        metrics["annealed_acceptance"] = annealed.acceptance
    return metrics, {}


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
    real = binarize(data.validation_images[:n].to(device), generator)
    test_features = samples.extract_features(classifier, x)
    metrics = {
        "class_cross_entropy": samples.class_cross_entropy(
            true, samples.class_distribution(samples.classify(classifier, generated)), n
        ),
        "class_cross_entropy_real": samples.class_cross_entropy(
            true, samples.class_distribution(samples.classify(classifier, x[:n])), n
        ),
        "frechet_distance": samples.frechet_distance(samples.extract_features(classifier, generated), test_features),
        "frechet_distance_real": samples.frechet_distance(samples.extract_features(classifier, real), test_features),
        "classifier_accuracy": accuracy,
    }
    originals = x[: min(50, n)]
    codes = model.encoder(x[:n]).sample(generator)
    again = model.decoder.sample(codes[: len(originals)], uniforms[: len(originals)])
    kept = {"samples": generated[:100], "originals": originals, "reconstructions": again}
    arrays = {name: tensor.to(torch.uint8).cpu().numpy() for name, tensor in kept.items()}
    if isinstance(model.decoder, IndependentDecoder):  # the means of an autoregressive decoder are not to be had
        grey = data.test_images[:n].to(device).float() / 255
        means = {"samples": model.decoder.mean(z), "reconstructions": model.decoder.mean(codes), "real": grey}
        metrics |= {f"sharpness_{name}": samples.sharpness(p) for name, p in means.items()}
        # what is left to the binarisation when the grey image itself is the mean: no reconstruction can do better
        entropy_per_pixel = (1 - metrics["sharpness_real"]) * math.log(2)
        metrics["reconstruction_nll_real"] = entropy_per_pixel * grey[0].numel()
        arrays |= {f"mean_{name}": means[name][:50].cpu().numpy() for name in ("samples", "reconstructions")}
    return metrics, arrays


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
