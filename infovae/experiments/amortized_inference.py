"""Whether q(z|x) is the posterior, on data so simple that the posterior is known (paper, section 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from infovae.config import OBJECTIVES, Count, ObjectiveName, Positive, PosteriorEvaluation, RunConfig
from infovae.experiments import Experiment, MinStds, Objectives, aggregate, product

if TYPE_CHECKING:
    import pandas as pd

    from infovae.sweep import Task


class AmortizedInference(Experiment):
    """Every objective at alpha = 0 on the data {-1, +1}, over the floor of the decoder's standard deviation."""

    name: ClassVar[str] = "amortized_inference"
    title: ClassVar[str] = "Amortised inference"
    notebook: ClassVar[str] = "01_amortized_inference"
    caveat: ClassVar[str] = (
        "The paper's decoder has no floor, so that its ELBO grows without bound; here the floor bounds it, and the "
        "failure is read from how it changes as the floor is lowered. Numbers are those after the given steps; where "
        "training stopped short of the optimum, it is the way there that is compared."
    )

    dataset: Literal["two_points"] = "two_points"
    objectives: Objectives = ("elbo", "mmd", "stein", "jensen")
    decoder_min_stds: MinStds = (0.1, 0.01)
    n_train: Count = 1000
    steps: Count = 800
    learning_rate: Positive = 3e-4

    def grid(self) -> list[Task]:
        """Return one run per seed, floor and objective, with its exact posterior."""
        from infovae.sweep import Task

        shared = {**self.budget, "encoder": "scalar", "decoder": "scalar", "latent_dim": 1}
        choices = product(seed=self.seeds, decoder_min_std=self.decoder_min_stds, objective=self.objectives)
        configs = [RunConfig(**choice, **toy_weights(choice["objective"]), **shared) for choice in choices]
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


def toy_weights(objective: ObjectiveName) -> dict[str, Any]:
    """Return alpha and lambda_ of an objective in the toy: alpha = 0, with the ELBO's rate beside the divergence.

    MMD's lambda_ is the paper's 500. The others keep the weight lambda_ + alpha - 1 of their preset: with alpha = 0
    that takes a lambda_ which is 1 larger. Objectives without a divergence stay as they are.
    """
    preset = OBJECTIVES[objective]
    if preset["divergence"] == "none":
        return {}
    return {"alpha": 0.0, "lambda_": 500.0 if objective == "mmd" else preset["lambda_"] + preset["alpha"]}
