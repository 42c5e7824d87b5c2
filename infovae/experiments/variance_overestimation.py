"""How far q(z) spreads beyond the prior when data are few, and what that does to samples (paper, section 2.3 and 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from infovae.config import (
    Alpha,
    Count,
    Decoder,
    LatentEvaluation,
    LikelihoodEvaluation,
    RunConfig,
    SampleEvaluation,
    all_training_images,
)
from infovae.experiments import Experiment, LatentDims, Objectives, TrainingSizes, aggregate, product, weights_at

if TYPE_CHECKING:
    import pandas as pd

    from infovae.sweep import Task


def _few_and_all(values: dict[str, Any]) -> tuple[int, int]:
    n = all_training_images(values)
    return min(500, n // 2), n


class VarianceOverestimation(Experiment):
    """Each objective on nested training sets of growing size, with a decoder of independent pixels.

    alpha is that of every objective with a divergence, 0 in the paper; see `weights_at` for lambda_.
    """

    name: ClassVar[str] = "variance_overestimation"
    title: ClassVar[str] = "Variance over-estimation"
    notebook: ClassVar[str] = "02_variance_overestimation"
    caveat: ClassVar[str] = (
        "The effect comes from fitting the training images too well: with few steps even 500 images are hardly fitted, "
        "so the ELBO looks better than after the paper's training. Every training set gets the same number of steps, "
        "hence the small ones many more epochs."
    )

    objectives: Objectives = ("elbo", "mmd")
    alpha: Alpha = 0.0
    latent_dims: LatentDims = (2, 10)
    n_trains: TrainingSizes = Field(default_factory=_few_and_all)
    decoder: Decoder = "conv"
    steps: Count = 300
    n_samples: Annotated[int, Field(strict=True, ge=10, le=100_000)] = 1000
    n_likelihood: Annotated[int, Field(strict=True, ge=2, le=10_000)] = 50

    def grid(self) -> list[Task]:
        """Return one run per seed, dimension, size and objective, with codes, samples and likelihood evaluated."""
        from infovae.sweep import Task

        likelihood = LikelihoodEvaluation(n_images=self.n_likelihood, n_train_images=self.n_likelihood)
        samples = SampleEvaluation.for_dataset(self.dataset, self.n_samples)
        choices = product(
            seed=self.seeds, latent_dim=self.latent_dims, n_train=self.n_trains, objective=self.objectives
        )
        return [
            Task(
                RunConfig(
                    **choice,
                    **weights_at(choice["objective"], self.alpha, lambda_of_mmd=1000.0),
                    **self.budget,
                    decoder=self.decoder,
                ),
                (LatentEvaluation(), samples, likelihood),
            )
            for choice in choices
        ]

    def drawn(self) -> list[Task]:
        """Return the runs whose q(z) is drawn: in 2 dimensions, as in the paper, on the fewest images, first seed."""
        from infovae.sweep import Task

        few = {"latent_dims": (2,), "n_trains": (min(self.n_trains),), "seeds": self.seeds[:1]}
        return [Task(task.config, (LatentEvaluation(),)) for task in self.model_copy(update=few).grid()]

    def table(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return, per dimension, objective and size, spread of the code, likelihood gap, reconstructions, samples."""
        metrics = (
            "log_det_cov_per_dim_train",
            "log_det_cov_per_dim_test",
            "squared_mmd",
            "squared_mmd_null_std",
            "squared_mmd_no_overlap",
            "mutual_information",
            "nll",
            "nll_train",
            "nll_gap",
            "reconstruction_nll",
            "reconstruction_nll_real",
            "sharpness_reconstructions",
            "sharpness_samples",
            "sharpness_real",
            "frechet_distance",
            "frechet_distance_real",
            "class_cross_entropy",
            "class_cross_entropy_real",
        )
        return aggregate(runs, ("latent_dim", "objective", "n_train"), metrics)
