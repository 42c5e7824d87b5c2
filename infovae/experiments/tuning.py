"""The size of the decoder and the learning rate, chosen on validation images by a seed of their own."""

from __future__ import annotations

import pandas as pd
from pydantic import Field

from infovae import plotting
from infovae.config import (
    LatentDim,
    LatentEvaluation,
    Layers,
    Maps,
    ObjectiveName,
    Positive,
    Radius,
    Seed,
    TrainingSize,
    all_training_images,
)
from infovae.experiments import HEADLINE_DIM, Experiment, Several, Wanted, product
from infovae.labels import label
from infovae.plotting import Captioned

Size = tuple[Maps, Layers, Radius]


class Tuning(Experiment):
    """The PixelCNN's maps, layers and radius for one objective, and the learning rate for several, one at a time."""

    title = "Choice of settings"
    caveat = "One latent dimension, few seeds: a choice. With more steps others may be better."
    conditions = (
        "objective", "pixelcnn_channels", "pixelcnn_layers", "receptive_radius", "learning_rate",
    )  # fmt: skip
    metrics = (
        "reconstruction_nll", "rate", "mutual_information", "squared_mmd", "train_seconds",
    )  # fmt: skip

    seeds: Several[Seed] = (1000,)
    objective: ObjectiveName = "mmd"
    sizes: Several[Size] = ((16, 2, 8), (32, 2, 8), (32, 4, 12))
    seconds_at_most: Positive = 300.0
    objectives: Several[ObjectiveName] = ("elbo", "mmd")
    learning_rates: Several[Positive] = (5e-4, 1e-3, 2e-3)
    latent_dim: LatentDim = HEADLINE_DIM
    n_train: TrainingSize = Field(default_factory=all_training_images)

    def wanted(self) -> Wanted:
        """Return one run per seed and setting, evaluated on validation images."""
        names = ("pixelcnn_channels", "pixelcnn_layers", "receptive_radius")
        sizes = [dict(zip(names, size, strict=True)) for size in self.sizes]
        choices = [{"seed": seed, "objective": self.objective, **size} for seed in self.seeds for size in sizes]
        choices += product(seed=self.seeds, objective=self.objectives, learning_rate=self.learning_rates)
        return [(self.config(**choice), (LatentEvaluation(split="validation"),)) for choice in choices]

    def choose_size(self, runs: pd.DataFrame) -> str:
        """Return the size with the least loss of those that train within `seconds_at_most`, in words, or "none"."""
        fast = self._sizes(runs)[lambda means: means["train_seconds"] <= self.seconds_at_most]
        return str(fast["loss"].idxmin()) if len(fast) else "none"

    def choose_learning_rate(self, runs: pd.DataFrame) -> float:
        """Return the learning rate with the least loss, averaged over objectives and seeds; NaN if there is none."""
        means = self._rates(runs)
        return float(str(means.idxmin())) if len(means) else float("nan")

    def explain_choice(self, runs: pd.DataFrame) -> str:
        """Return in words what is chosen, and among how many settings all of whose runs have a loss."""
        n_sizes, n_rates = len(self._sizes(runs)), len(self._rates(runs))
        size = f"{self.choose_size(runs)}; {n_sizes} of {len(self.sizes)} sizes were run"
        rate = f"{self.choose_learning_rate(runs):g} (in use: {self.learning_rate:g})"
        return (
            f"decoder: {size}, and at most {self.seconds_at_most:g} s of training are allowed\n"
            f"learning rate: {rate}; {n_rates} of {len(self.learning_rates)} were run with every objective"
        )

    def _sizes(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return mean loss and seconds of each size in words, all of whose runs have a loss."""
        sized = charged_loss(runs)[lambda frame: frame["learning_rate"] == self.learning_rate]
        sized = sized[(sized["objective"] == self.objective) & sized["loss"].notna()]
        asked = {f"{maps} maps, {layers} layers, radius {radius}" for maps, layers, radius in self.sizes}
        sized = sized[size_in_words(sized).isin(asked)]
        groups = sized.groupby(size_in_words(sized))
        return groups[["loss", "train_seconds"]].mean()[groups.size() == len(self.seeds)]

    def _rates(self, runs: pd.DataFrame) -> pd.Series:
        """Return the mean loss of each learning rate, all of whose runs have one: objectives differ in its size."""
        done, default = charged_loss(runs), size_in_words(runs).iloc[-1]
        rated = done[size_in_words(done) == default]
        losses = rated[rated["objective"].isin(self.objectives)].groupby("learning_rate")["loss"]
        return losses.mean()[losses.count() == len(self.objectives) * len(self.seeds)]


def charged_loss(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the finished runs with `loss`: reconstruction plus (1 - alpha) of the rate, nats per validation image."""
    done = plotting.finished(runs, "reconstruction_nll", "rate", "train_seconds")
    return done.assign(loss=done["reconstruction_nll"] + (1 - done["alpha"]) * done["rate"])


def size_in_words(runs: pd.DataFrame) -> pd.Series:
    """Return each run's decoder in words."""
    sizes = runs[["pixelcnn_channels", "pixelcnn_layers", "receptive_radius"]].astype(int).astype(str)
    maps, layers, radius = (sizes[column] for column in sizes)
    return maps + " maps, " + layers + " layers, radius " + radius


@plotting.figure
def plot_tuning(runs: pd.DataFrame, learning_rate: float, seconds_at_most: float) -> Captioned:
    """Return the loss against the seconds of training, a point per size at one learning rate, and against that rate.

    A line marks the seconds that are allowed.
    """
    done = charged_loss(runs)
    drawn, (by_size, by_rate) = plotting.panels(2, 4.4, 3.2)
    by_size_of = done[done["learning_rate"] == learning_rate]
    by_size_of = by_size_of[by_size_of["objective"].isin(by_size_of["objective"].mode()[:1])]  # whose size varies
    for words, group in by_size_of.groupby(size_in_words(by_size_of)) if len(done) else []:
        for objective, part in plotting.by_objective(group):
            by_size.plot(part["train_seconds"], part["loss"], ls="", ms=5, **plotting.look(objective))
        at = (part["train_seconds"].mean(), part["loss"].max())
        by_size.annotate(str(words), at, (6, 0), textcoords="offset points", fontsize=7, va="center")
    usual = done[size_in_words(done) == size_in_words(done).iloc[-1]] if len(done) else done
    plotting.draw_objectives(by_rate, usual, "learning_rate", "loss")
    by_size.set(xlabel=label("train_seconds"), ylabel="loss on validation images, nats", title="size of the decoder")
    by_size.margins(0.4, 0.2)
    by_size.axvline(seconds_at_most, color="0.5", lw=0.6)
    by_size.annotate("allowed ", (seconds_at_most, 0.97), xycoords=by_size.get_xaxis_transform(), ha="right", va="top",
                     **plotting.NOTE)  # fmt: skip
    by_size.set_xlim(0, 1.8 * max(seconds_at_most, by_size.dataLim.xmax if len(done) else 0))
    by_rate.set(xlabel=label("learning_rate"), title="learning rate")
    plotting.legend(drawn)
    return drawn.captioned(
        done,
        "The loss is the reconstruction plus (1 − α) of the rate. Left: lower and further left is better. Right: "
        "lower is better; losses of two objectives are two quantities.",
    )
