"""The settings that the paper leaves free, chosen on validation images by seeds of their own: no claim rests on it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from infovae.config import (
    EMPTY_CODE,
    OBJECTIVES,
    Decoder,
    LatentDim,
    LatentEvaluation,
    ObjectiveName,
    RunConfig,
    TrainingSize,
    all_training_images,
)
from infovae.experiments import Experiment, LearningRates, Objectives, Scales, Seeds, aggregate, product

if TYPE_CHECKING:
    import pandas as pd

    from infovae.sweep import Task

SHARE_KEPT = 0.5
"""Of the information in the code that a setting must keep. It replaced "the code is used", at least 1 nat, after the
sweep had been seen: that rule takes an objective to the edge where its code empties (lambda_ = 900 for `mmd_annealed`,
3.2 nats of 9.2) and says nothing about learning rates."""


class Tuning(Experiment):
    """lambda_ of the objectives whose weight the paper leaves free, and the learning rate of all, one at a time.

    `scales` multiply the lambda_ of `OBJECTIVES`; `learning_rate` holds while lambda_ varies, and scale 1 while the
    learning rate does.
    """

    name: ClassVar[str] = "tuning"
    title: ClassVar[str] = "Choice of settings"
    notebook: ClassVar[str] = "00_tuning"
    caveat: ClassVar[str] = (
        "One latent dimension, few seeds: a choice, not a finding. The budget is that of the other experiments; "
        "with more steps others may be better."
    )

    seeds: Seeds = (1000,)
    objectives: Objectives = ("mmd_annealed", "stein")
    scales: Scales = (0.3, 1.0, 3.0)
    rated_objectives: Objectives = ("elbo", "mmd_annealed", "stein", "jensen")
    learning_rates: LearningRates = (1e-3, 2e-3, 4e-3)
    latent_dim: LatentDim = 10
    decoder: Decoder = "pixelcnn"
    n_train: TrainingSize = Field(default_factory=all_training_images)

    def grid(self) -> list[Task]:
        """Return one run per seed, objective and setting, evaluated on validation images."""
        from infovae.sweep import Task

        shared = {**self.budget, "latent_dim": self.latent_dim, "decoder": self.decoder}
        configs = []
        for choice in product(seed=self.seeds, objective=self.objectives, scale=self.scales):
            lambda_ = choice.pop("scale") * OBJECTIVES[choice["objective"]]["lambda_"]
            configs.append(RunConfig(**choice, **{**shared, "lambda_": lambda_}))
        for choice in product(seed=self.seeds, objective=self.rated_objectives, learning_rate=self.learning_rates):
            configs.append(RunConfig(**{**shared, **choice}))
        return [Task(config, (LatentEvaluation(split="validation"),)) for config in dict.fromkeys(configs)]

    def table(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return what each setting reached on validation images."""
        metrics = (
            "mutual_information",
            "squared_mmd",
            "log_det_cov_per_dim_validation",
            "rate",
            "reconstruction_nll",
            "train_seconds",
        )
        return aggregate(runs, ("objective", "alpha", "lambda_", "learning_rate"), metrics)

    def choose_lambda(self, runs: pd.DataFrame) -> dict[ObjectiveName, float]:
        """Return each objective's lambda_: of those whose code keeps its information, the best match to the prior.

        The match is the squared MMD on validation images, averaged over seeds. A code keeps its information where
        I(x;z) is at least `SHARE_KEPT` of the most that any lambda_ of this objective gives, and at least
        `EMPTY_CODE`; an objective whose codes are empty throughout is left out.
        """
        runs = runs[runs["learning_rate"] == self.learning_rate]
        chosen: dict[ObjectiveName, float] = {}
        for objective in self.objectives:
            own = runs[runs["objective"] == objective].groupby("lambda_")[["squared_mmd", "mutual_information"]].mean()
            match = own["squared_mmd"][_keeps_information(own["mutual_information"])]
            if len(match):
                chosen[objective] = float(match.index.to_numpy()[match.argmin()])
        return chosen

    def choose_learning_rate(self, runs: pd.DataFrame) -> float:
        """Return the learning rate with the least loss of those at which codes that cost nothing keep information.

        The loss is reconstruction plus charged rate, (1 - alpha) of the rate, in nats per validation image, averaged
        over objectives and seeds. At alpha = 1 the rate is not charged: an objective whose code loses its information
        there (see `choose_lambda`) rules the learning rate out. NaN if all are.
        """
        presets = runs["objective"].map(lambda objective: OBJECTIVES[objective]["lambda_"])
        runs = runs[(runs["lambda_"] == presets) & runs["objective"].isin(self.rated_objectives)]
        loss = (runs["reconstruction_nll"] + (1 - runs["alpha"]) * runs["rate"]).groupby(runs["learning_rate"]).mean()
        free = runs[runs["alpha"] == 1].groupby(["objective", "learning_rate"])["mutual_information"].mean()
        for _, information in free.groupby(level="objective"):
            loss = loss[_keeps_information(information.droplevel("objective")).reindex(loss.index, fill_value=False)]
        return float(loss.index.to_numpy()[loss.argmin()]) if len(loss) else math.nan


def _keeps_information(information: pd.Series) -> pd.Series:
    return (information >= SHARE_KEPT * information.max()) & (information >= EMPTY_CODE)
