"""Whether q(z|x) is the posterior, on data so simple that the posterior is known (paper, section 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from infovae.config import Count, Positive, PosteriorEvaluation, RunConfig
from infovae.experiments import Experiment, MinStds, Objectives, aggregate, product, weights_at

if TYPE_CHECKING:
    import pandas as pd

    from infovae.sweep import Task


class AmortizedInference(Experiment):
    """Every objective on {-1, +1}, those with a divergence at alpha = 0, over the floor of the decoder's deviation."""

    name: ClassVar[str] = "amortized_inference"
    title: ClassVar[str] = "Amortised inference"
    notebook: ClassVar[str] = "01_amortized_inference"
    caveat: ClassVar[str] = (
        "The paper's decoder has no floor, so that its ELBO grows without bound; here the floor bounds it, and the "
        "failure is read from how it changes as the floor is lowered. Numbers are those after the given steps; where "
        "training stopped short of the optimum, it is the way there that is compared."
    )

    dataset: Literal["two_points"] = "two_points"
    objectives: Objectives = ("elbo", "mmd", "mmd_annealed", "stein", "jensen")
    decoder_min_stds: MinStds = (0.1, 0.01)
    n_train: Count = 1000
    steps: Count = 600
    learning_rate: Positive = 3e-4

    def grid(self) -> list[Task]:
        """Return one run per seed, floor and objective, with its exact posterior."""
        from infovae.sweep import Task

        shared = {**self.budget, "encoder": "scalar", "decoder": "scalar", "latent_dim": 1}
        choices = product(seed=self.seeds, decoder_min_std=self.decoder_min_stds, objective=self.objectives)
        configs = [
            RunConfig(**choice, **weights_at(choice["objective"], alpha=0.0, lambda_of_mmd=500.0), **shared)
            for choice in choices
        ]
        return [Task(config, (PosteriorEvaluation(),)) for config in configs]

    def table(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return, per floor and objective, the distances of q(z|x) to the posterior and of q(z) to the prior."""
        metrics = (
            "posterior_kl",
            "marginal_kl",
            "elbo",
            "log_evidence",
            "mutual_information",
            "q_separation",
            "q_std_minus",
            "q_std_plus",
        )
        return aggregate(runs, ("decoder_min_std", "objective"), metrics)
