"""The exact posterior of a one-dimensional code beside q(z|x) (paper, amortised inference); see `quadrature`."""

from __future__ import annotations

from infovae.config import PosteriorEvaluation
from infovae.evaluation.images import Evaluated
from infovae.model import Model
from infovae.quadrature import posterior_densities, posterior_metrics


def evaluate(evaluation: PosteriorEvaluation, model: Model) -> Evaluated:
    """Return the toy's exact metrics and the densities for its figure.

    Raises
    ------
    ValueError
        For a code that does not have one dimension.
    """
    if model.latent_dim != 1:
        raise ValueError(f"the exact posterior needs a code of 1 dimension, got latent_dim={model.latent_dim}")
    metrics = posterior_metrics(model.encoder, model.decoder, evaluation.z_max, evaluation.n_grid)
    densities = posterior_densities(model.encoder, model.decoder)
    return metrics, {name: density.float().numpy() for name, density in densities.items()}
