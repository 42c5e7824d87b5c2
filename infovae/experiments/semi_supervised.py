"""What the code knows of the classes: support vector machines with few labels on E[z|x] and z (paper, section 5)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from infovae import sources
from infovae.config import (
    Decoder,
    LatentEvaluation,
    PixelConfig,
    RunConfig,
    SemiSupervisedEvaluation,
    TrainingSize,
    all_training_images,
)
from infovae.experiments import Experiment, LatentDims, Objectives, aggregate, product

if TYPE_CHECKING:
    import pandas as pd

    from infovae.sweep import Task


class SemiSupervised(Experiment):
    """The very models of the divergence comparison, as feature extractors; the pixels themselves as baseline."""

    name: ClassVar[str] = "semi_supervised"
    title: ClassVar[str] = "Semi-supervised accuracy"
    notebook: ClassVar[str] = "04_semi_supervised"
    caveat: ClassVar[str] = (
        "Encoders that have seen each image less than a few times separate classes less well than fully trained "
        "ones: errors are upper limits, and an order that rests on fine detail of the code (many dimensions) may "
        "still change."
    )

    objectives: Objectives = ("elbo", "unregularized", "mmd", "mmd_annealed", "stein", "jensen")
    latent_dims: LatentDims = (2, 10)
    decoder: Decoder = "pixelcnn"
    n_train: TrainingSize = Field(default_factory=all_training_images)
    n_labels: Annotated[int, Field(strict=True, ge=20, le=50_000)] = 1000
    n_draws: Annotated[int, Field(strict=True, ge=1, le=100)] = 2
    n_unlabelled: Annotated[int, Field(strict=True, ge=0, le=60_000)] = 500

    def model_post_init(self, context: Any) -> None:
        """Refuse images without labels, and more labelled and unlabelled ones than there are to draw from."""
        super().model_post_init(context)
        n_classes = sources.facts(self.dataset).n_classes
        if n_classes < 2 or self.n_labels % n_classes:
            raise ValueError(
                f"n_labels must be a multiple of the number of classes, at least 2, of {self.dataset}: it has "
                f"{n_classes or 'no labels'}, got {self.n_labels}"
            )
        n_pool = min(self.n_train, self.evaluation.n_pool)
        if self.n_labels + self.n_unlabelled > n_pool:
            raise ValueError(
                f"n_labels + n_unlabelled must be at most {n_pool} (they are drawn from the first training images), "
                f"got {self.n_labels} + {self.n_unlabelled}"
            )

    @property
    def evaluation(self) -> SemiSupervisedEvaluation:
        """The evaluation that every run of this experiment gets."""
        return SemiSupervisedEvaluation(n_labels=self.n_labels, n_draws=self.n_draws, n_unlabelled=self.n_unlabelled)

    def grid(self) -> list[Task]:
        """Return one run per seed, dimension and objective, and the pixel baseline."""
        from infovae.sweep import Task

        choices = product(seed=self.seeds, latent_dim=self.latent_dims, objective=self.objectives)
        runs = [
            Task(RunConfig(**choice, **self.budget, decoder=self.decoder), (self.evaluation, LatentEvaluation()))
            for choice in choices
        ]
        return [*runs, Task(PixelConfig(dataset=self.dataset, n_train=self.n_train), (self.evaluation,))]

    def table(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return, per dimension and objective, the test error of either machine in [0, 1]."""
        metrics = ("svm_error", "svm_error_std", "tsvm_error", "tsvm_error_std", "svm_error_sampled")
        return aggregate(runs, ("latent_dim", "objective"), metrics)
