"""log p(x) of trained models under z ~ N(0, I), and of a PixelCNN without a code as control (paper, table 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from infovae.config import (
    Draws,
    LatentDim,
    LatentEvaluation,
    LikelihoodEvaluation,
    RunConfig,
    TrainingSize,
    all_training_images,
)
from infovae.experiments import Decoders, Experiment, Objectives, aggregate, product

if TYPE_CHECKING:
    import pandas as pd

    from infovae.sweep import Task

PAPER_NLL = {"elbo": 82.75, "mmd": 80.76, "stein": 81.47, "jensen": 82.21}
"""Table 1, nats per image (binarised MNIST, PixelCNN decoder, 5 dimensions): recalled, not checked against a copy."""

PAPER_COLUMN = "paper_nll (recalled, unverified)"


class LogLikelihood(Experiment):
    """Every objective with every decoder, in one latent dimension; `unconditional` is the control without a code.

    DEVIATION: beside the paper's PixelCNN stands a dense decoder (with a dense encoder), cheap enough for annealed
    importance sampling as a second estimate of the same models; and by default few test images and draws.
    """

    name: ClassVar[str] = "log_likelihood"
    title: ClassVar[str] = "Log-likelihood"
    notebook: ClassVar[str] = "06_log_likelihood"
    caveat: ClassVar[str] = (
        "Decoders after few steps are many nats from the paper's: compare rows with each other, not with the "
        "paper's column. What separates objectives early is how fast the decoder learns, not what a code is worth in "
        "the end. A mean over few test images has the sampling error given as nll_std_error."
    )

    objectives: Objectives = ("elbo", "mmd", "stein", "jensen", "unconditional")
    decoders: Decoders = ("pixelcnn", "dense")
    latent_dim: LatentDim = 5
    n_train: TrainingSize = Field(default_factory=all_training_images)
    n_images: Annotated[int, Field(strict=True, ge=2, le=10_000)] = 50
    n_draws: Draws = 100
    fit_steps: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 100
    n_annealed: Annotated[int, Field(strict=True, ge=0, le=10_000)] = 8

    def model_post_init(self, context: Any) -> None:
        """Refuse a choice that leaves no run at all."""
        super().model_post_init(context)
        if not self.grid():
            raise ValueError(
                f"objective 'unconditional' needs decoder 'pixelcnn', got decoders={list(self.decoders)}: "
                "nothing is left to train"
            )

    def grid(self) -> list[Task]:
        """Return one run per seed, decoder and objective; `unconditional` has the PixelCNN decoder alone."""
        from infovae.sweep import Task

        tasks = []
        for choice in product(seed=self.seeds, decoder=self.decoders, objective=self.objectives):
            if choice["objective"] == "unconditional":
                if choice["decoder"] == "pixelcnn":
                    config = RunConfig(**choice, **self.budget, binarization="static")
                    tasks.append(Task(config, (self.evaluation(annealed=False),)))
                continue
            config = RunConfig(
                **choice,
                **self.budget,
                binarization="static",
                latent_dim=self.latent_dim,
                encoder="dense" if choice["decoder"] == "dense" else "conv",
            )
            likelihood = self.evaluation(annealed=choice["decoder"] != "pixelcnn")
            tasks.append(Task(config, (likelihood, LatentEvaluation())))
        return tasks

    def evaluation(self, annealed: bool) -> LikelihoodEvaluation:
        """Return the evaluation of a run, with annealing or without: it is for cheap decoders.

        The temperatures are three for each draw.
        """
        return LikelihoodEvaluation(
            n_images=self.n_images,
            n_draws=self.n_draws,
            fit_steps=self.fit_steps,
            n_annealed=self.n_annealed if annealed else 0,
            n_temperatures=max(10, 3 * self.n_draws),
        )

    def table(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return, per decoder and objective, the bounds on -log p(x) in nats, and the paper's in its own column."""
        metrics = (
            *(f"nll_{k}" for k in (1, 10, 100, 1000, 10_000) if k <= self.n_draws),
            "nll_std_error",
            "ess_median",
            "ess_5pct",
            "nll_elbo",
            "elbo_rate",
            "mutual_information",
            "nll_annealed",
            "nll_annealed_reference",
            "annealed_acceptance",
        )
        table = aggregate(runs, ("decoder", "objective"), metrics)
        is_papers = (table["decoder"] == "pixelcnn") & (self.dataset == "mnist")
        table[PAPER_COLUMN] = table["objective"].map(PAPER_NLL).where(is_papers)
        return table
