"""Whether the decoder uses the code at all: the information preference property (paper, section 3.2 and appendix)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from infovae.config import (
    Decoder,
    LatentDim,
    LatentEvaluation,
    ObjectiveName,
    RunConfig,
    TrainingSize,
    all_training_images,
)
from infovae.experiments import Alphas, Experiment, Lambdas, Radii, aggregate, product

if TYPE_CHECKING:
    import pandas as pd

    from infovae.sweep import Task


class LatentUsage(Experiment):
    """InfoVAE over alpha, lambda_ and the decoder's receptive field, with the ELBO as reference at each field."""

    name: ClassVar[str] = "latent_usage"
    title: ClassVar[str] = "Latent usage"
    notebook: ClassVar[str] = "05_latent_usage"
    caveat: ClassVar[str] = (
        "The claim is about the optimum. With few steps an empty code may be one that the decoder has not learnt "
        "to use yet (the ELBO's information tends to grow with training), and a full one may be one that the "
        "divergence has not emptied."
    )

    objective: ObjectiveName = "mmd_annealed"
    alphas: Alphas = (0.0, 1.0)
    lambdas: Lambdas = (300.0,)
    receptive_radii: Radii = (4, 8)
    latent_dim: LatentDim = 10
    decoder: Decoder = "pixelcnn"
    n_train: TrainingSize = Field(default_factory=all_training_images)

    def grid(self) -> list[Task]:
        """Return the ELBO and the whole alpha x lambda_ grid at each receptive field."""
        from infovae.sweep import Task

        shared = {**self.budget, "latent_dim": self.latent_dim, "decoder": self.decoder}
        tasks = []
        for choice in product(seed=self.seeds, receptive_radius=self._radii):
            configs = [RunConfig(objective="elbo", **choice, **shared)]
            for weights in product(alpha=self.alphas, lambda_=self.lambdas):
                configs.append(RunConfig(objective=self.objective, **weights, **choice, **shared))
            tasks += [Task(config, (LatentEvaluation(),)) for config in configs]
        return tasks

    def table(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return, per receptive field, objective, alpha and lambda_, the information that the code carries."""
        metrics = (
            "mutual_information",
            "mutual_information_cap",
            "active_units",
            "rate",
            "marginal_kl",
            "reconstruction_nll",
            "reconstruction_nll_prior",
            "squared_mmd",
            "squared_mmd_null_std",
            "squared_mmd_no_overlap",
            "log_det_cov_per_dim_test",
        )
        return aggregate(runs, ("receptive_radius", "objective", "alpha", "lambda_"), metrics)

    @property
    def _radii(self) -> tuple[int, ...]:
        # a decoder of independent pixels has no receptive field to vary
        return self.receptive_radii if self.decoder == "pixelcnn" else self.receptive_radii[:1]
