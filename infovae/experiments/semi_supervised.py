"""What the code knows of the classes: support vector machines with few labels on E[z|x] and z (paper, section 5)."""

from __future__ import annotations

from typing import Any

import pandas as pd

from infovae import plotting
from infovae.config import LatentEvaluation, PixelConfig
from infovae.data import sources
from infovae.experiments import Wanted
from infovae.experiments.compared_models import ComparedModels
from infovae.plotting import Captioned, Panel

ERRORS = ("svm_error", "svm_error_sampled", "tsvm_error", "svm_error_authors")


class SemiSupervised(ComparedModels):
    """The very models of the divergence comparison, as feature extractors; the pixels themselves as baseline."""

    title = "Semi-supervised accuracy"
    caveat = (
        "An encoder that has seen each image only a few times separates classes less well than a fully trained one: "
        "errors are upper limits, and an order that rests on fine detail of the code (many dimensions) may change."
    )
    metrics = (
        *ERRORS,
        "svm_error_rbf_sampled",
        "svm_error_std",
        "tsvm_error_std",
        "mutual_information",
    )

    def model_post_init(self, context: Any) -> None:
        """Refuse images without labels."""
        super().model_post_init(context)
        if not self.n_labels:
            raise ValueError(f"n_labels must be at least 20, got 0: {self.dataset} needs labels, and enough images")

    def wanted(self) -> Wanted:
        """Return the models of the comparison, and the pixel baseline."""
        wanted: Wanted = [(config, (*self.labelling, LatentEvaluation())) for config in self.models()]
        return [*wanted, (PixelConfig(dataset=self.dataset, n_train=self.n_train), self.labelling)]


def plot_errors(runs: pd.DataFrame) -> Captioned:
    """Return the errors against the latent dimension, with the pixel baseline and chance as lines."""
    pixels = plotting.finished(runs[runs["objective"] == "pixels"], *ERRORS)
    chance = 1 - 1 / sources.facts(runs["dataset"].iloc[0]).n_classes
    metrics = {metric: Panel(0.01, {"chance": chance, "the pixels": pixels[metric].mean()}) for metric in ERRORS}
    caption = (
        "Test error, lower is better. A code that holds next to nothing may still classify by its means; a draw of it "
        "does not. Grey lines: chance, and the same machine on binarised pixels."
    )
    return plotting.plot_metrics(runs[runs["objective"] != "pixels"], "latent_dim", metrics, caption)
