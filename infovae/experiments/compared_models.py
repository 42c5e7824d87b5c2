"""The models of the divergence comparison, which the experiment with few labels reads too, and those labels."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from infovae.config import LatentDim, ObjectiveName, RunConfig, SemiSupervisedEvaluation
from infovae.data import sources
from infovae.experiments import HEADLINE_DIM, ImageExperiment, MoreSeeds, Several, product

N_POOL = SemiSupervisedEvaluation.model_fields["n_pool"].default
"""Training images, from the first on, that labelled and unlabelled ones are drawn from."""


def usual_labels(values: dict[str, Any]) -> int:
    """Return how many labels are asked for by default: 1,000, fewer of few images, 0 where there are no labels.

    Each class gives as many, and at most half of what the rarest has.
    """
    facts, n_pool = sources.facts(values["dataset"]), min(values["n_train"], N_POOL)
    n_classes = facts.n_classes or 1
    usual = n_classes * min(min(1000, n_pool // 4) // n_classes, int(facts.rarest_share * n_pool / 2))
    return usual if usual >= max(20, 2 * n_classes) and n_classes > 1 else 0


def _usual_unlabelled(values: dict[str, Any]) -> int:
    return max(0, min(1000, min(values["n_train"], N_POOL) - values["n_labels"]))


def few_labels(dataset: str, n: int, n_draws: int, n_unlabelled: int) -> tuple[SemiSupervisedEvaluation, ...]:
    """Return the evaluation with n labels of the first `N_POOL` images; nothing without labels.

    ValueError where the images have no labels, or n is not the same number, at least 2, of each class.
    """
    if not n:
        return ()
    n_classes = sources.facts(dataset).n_classes
    if n_classes < 2 or n % n_classes or n < 2 * n_classes:
        raise ValueError(
            f"n_labels must be a multiple of the number of classes, at least 2 of each, of {dataset}: it has "
            f"{n_classes or 'no labels'}, got {n}"
        )
    return (SemiSupervisedEvaluation(n_labels=n, n_draws=n_draws, n_unlabelled=n_unlabelled),)


class ComparedModels(ImageExperiment):
    """An experiment on every objective in every latent dimension, with the same decoder and budget.

    `extra_seeds` are further runs in `HEADLINE_DIM` dimensions alone. `n_labels` is 0 by default where a data set has
    no labels, or too few images: then no machine is trained on the codes.
    """

    conditions = ("latent_dim", "objective")

    objectives: Several[ObjectiveName] = ("elbo", "unregularized", "mmd", "stein", "wasserstein")
    latent_dims: Several[LatentDim] = (HEADLINE_DIM,)
    extra_seeds: MoreSeeds = ()
    n_labels: Annotated[int, Field(strict=True, ge=0, le=50_000)] = Field(default_factory=usual_labels)
    n_draws: Annotated[int, Field(strict=True, ge=1, le=100)] = 3
    n_unlabelled: Annotated[int, Field(strict=True, ge=0, le=60_000)] = Field(default_factory=_usual_unlabelled)

    def model_post_init(self, context: Any) -> None:
        """Refuse more labelled and unlabelled images than there are to draw from."""
        super().model_post_init(context)
        if repeated := set(self.seeds) & set(self.extra_seeds):
            raise ValueError(f"extra_seeds must be others than seeds, {min(repeated)} is in both")
        n_pool = min(self.n_train, N_POOL)
        if self.n_labels and self.n_labels + self.n_unlabelled > n_pool:
            raise ValueError(
                f"n_labels + n_unlabelled must be at most {n_pool} (they are drawn from the first training images), "
                f"got {self.n_labels} + {self.n_unlabelled}"
            )

    @property
    def labelling(self) -> tuple[SemiSupervisedEvaluation, ...]:
        """The evaluation with few labels that every run gets."""
        return few_labels(self.dataset, self.n_labels, self.n_draws, self.n_unlabelled)

    def models(self) -> list[RunConfig]:
        """Return one run per seed, dimension and objective."""
        choices = product(seed=self.seeds, latent_dim=self.latent_dims, objective=self.objectives)
        if HEADLINE_DIM in self.latent_dims:
            choices += product(seed=self.extra_seeds, latent_dim=[HEADLINE_DIM], objective=self.objectives)
        return [self.config(**choice) for choice in choices]
