"""How well each divergence matches q(z) to p(z), at what speed, and what its samples look like (paper, section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from infovae.config import Decoder, LatentEvaluation, RunConfig, SampleEvaluation, TrainingSize, all_training_images
from infovae.experiments import Experiment, LatentDims, Objectives, aggregate, product

if TYPE_CHECKING:
    import pandas as pd

    from infovae.sweep import Task


class DivergenceComparison(Experiment):
    """Every objective in every latent dimension, with the same decoder and budget."""

    name: ClassVar[str] = "divergence_comparison"
    title: ClassVar[str] = "Divergence comparison"
    notebook: ClassVar[str] = "03_divergence_comparison"
    caveat: ClassVar[str] = (
        "With few steps the distances to the prior are those on the way, not those reached: strong divergences "
        "look better, slow ones (the adversary above all) worse than they would after the paper's training. "
        "Samples are those of young decoders; compare them with each other, not with the paper's."
    )

    objectives: Objectives = ("elbo", "unregularized", "mmd", "mmd_annealed", "stein", "jensen")
    latent_dims: LatentDims = (2, 10)
    decoder: Decoder = "pixelcnn"
    n_train: TrainingSize = Field(default_factory=all_training_images)
    n_samples: Annotated[int, Field(strict=True, ge=10, le=100_000)] = 1000

    def grid(self) -> list[Task]:
        """Return one run per seed, dimension and objective, with its latent and its sample evaluation."""
        from infovae.sweep import Task

        evaluations = (LatentEvaluation(), SampleEvaluation.for_dataset(self.dataset, self.n_samples))
        choices = product(seed=self.seeds, latent_dim=self.latent_dims, objective=self.objectives)
        return [Task(RunConfig(**choice, **self.budget, decoder=self.decoder), evaluations) for choice in choices]

    def table(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return, per dimension and objective, the match to the prior and the quality of the samples."""
        metrics = (
            "squared_mmd",
            "squared_mmd_no_overlap",
            "squared_mmd_null_std",
            "log_det_cov_per_dim_test",
            "log_det_cov_per_dim_train",
            "mutual_information",
            "mutual_information_cap",
            "class_cross_entropy",
            "class_cross_entropy_real",
            "frechet_distance",
            "frechet_distance_real",
            "train_seconds",
        )
        return aggregate(runs, ("latent_dim", "objective"), metrics)
