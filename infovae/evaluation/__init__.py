"""One module per kind of reported number, its recipe in it; `evaluate` applies one of them to a trained model.

The exact posterior of a one-dimensional code has no recipe of its own: see `posterior`.
"""

from __future__ import annotations

import torch

from infovae.config import (
    Evaluation,
    LatentEvaluation,
    LikelihoodEvaluation,
    PixelConfig,
    PosteriorEvaluation,
    RunConfig,
    SemiSupervisedEvaluation,
)
from infovae.data.datasets import ImageData
from infovae.evaluation.images import Evaluated, encode, measuring_device
from infovae.model.build import Model
from infovae.refusals import ParameterError

__all__ = ["Evaluated", "encode", "evaluate", "measuring_device", "require_labels"]

SEED_OFFSET, WATCH_SEED_OFFSET = 1_000_003, 2_000_003
"""Added to the run's seed: evaluating a run, or watching its training, draws other numbers than the training does."""


def require_labels(evaluation: Evaluation, config: RunConfig | PixelConfig, data: ImageData) -> None:
    """Raise ParameterError if an evaluation needs more labels than the images have that it draws them from."""
    if isinstance(evaluation, SemiSupervisedEvaluation):
        from infovae.evaluation.semi_supervised import draw_labelled

        try:
            draw_labelled(data.train_labels[: min(config.n_train, evaluation.n_pool)].numpy(), evaluation.n_labels, 0)
        except ValueError as error:
            raise ParameterError(f"{data.name}: {error}") from error


@torch.no_grad()
def evaluate(
    evaluation: Evaluation,
    config: RunConfig | PixelConfig,
    model: Model | None,
    data: ImageData,
    device: torch.device,
    classifier: bytes | None = None,
) -> Evaluated:
    """Evaluate a trained model; the result depends on the arguments alone: the generator has the run's seed.

    Parameters
    ----------
    model : None for the pixel baseline.
    classifier : weights of the classifier that a `SampleEvaluation` names.

    Returns
    -------
    Metrics by name, and arrays by name for the figures.
    """
    from infovae.evaluation import latent, likelihood, samples, semi_supervised
    from infovae.evaluation.posterior import posterior_densities, posterior_metrics

    device = measuring_device(device)
    model = model.to(device) if model else None
    generator = torch.Generator(device).manual_seed(config.seed + SEED_OFFSET)
    if isinstance(evaluation, SemiSupervisedEvaluation):
        return semi_supervised.evaluate(evaluation, config, model, data, generator)
    if isinstance(config, PixelConfig) or model is None:
        raise TypeError(f"{type(evaluation).__name__} needs a trained model, the pixel baseline has none")
    if isinstance(evaluation, PosteriorEvaluation):
        if model.latent_dim != 1:
            raise ValueError(f"the exact posterior needs a code of 1 dimension, got latent_dim={model.latent_dim}")
        metrics = posterior_metrics(model.encoder, model.decoder, evaluation.z_max, evaluation.n_grid)
        densities = posterior_densities(model.encoder, model.decoder)
        return metrics, {name: density.float().numpy() for name, density in densities.items()}
    if isinstance(evaluation, LatentEvaluation):
        return latent.evaluate(evaluation, config, model, data, generator)
    if isinstance(evaluation, LikelihoodEvaluation):
        return likelihood.evaluate(evaluation, config, model, data, generator)
    if evaluation.classifier and classifier is None:
        raise ValueError("evaluating samples needs a trained classifier")
    return samples.evaluate(evaluation, config, model, data, generator, classifier)
