"""What decides the outcome: one setting changed at a time, in the dimension of the headline."""

from __future__ import annotations

from typing import Annotated, Any

import pandas as pd
from pydantic import AfterValidator

from infovae import plotting
from infovae.config import LatentDim, LatentEvaluation, RunConfig, SampleEvaluation, Samples, Seed
from infovae.experiments import HEADLINE_DIM, ImageExperiment, Several, Wanted
from infovae.labels import label, objective_name
from infovae.plotting import Captioned
from infovae.refusals import unknown_name

QUESTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "the encoder's normalisation, at each λ": {
        "mmd": {"objective": "mmd"},
        "mmd_spread": {"objective": "mmd", "encoder_norm": "spread"},
        "mmd_no_norm": {"objective": "mmd", "encoder_norm": "none"},
        "mmd_tenth": {"objective": "mmd", "lambda_": 78.4},
        "mmd_tenth_no_norm": {"objective": "mmd", "lambda_": 78.4, "encoder_norm": "none"},
        "mmd_tenfold": {"objective": "mmd", "lambda_": 7840.0},
        "mmd_tenfold_no_norm": {"objective": "mmd", "lambda_": 7840.0, "encoder_norm": "none"},
        "elbo": {"objective": "elbo"},
        "elbo_no_norm": {"objective": "elbo", "encoder_norm": "none"},
    },
    "the kernel": {
        "mmd": {"objective": "mmd"},
        "mmd_flat_kernel": {"objective": "mmd", "lambda_": 1000.0, "bandwidth": "paper"},
    },
    "what is called ELBO": {"elbo": {"objective": "elbo"}, "averaged_elbo": {"objective": "averaged_elbo"}},
    "the adversary and its weight": {
        "aae": {"objective": "aae"},
        "jensen": {"objective": "jensen"},
        "jensen_784": {"objective": "jensen", "lambda_": 784.0},
        "wasserstein": {"objective": "wasserstein"},
        "wasserstein_784": {"objective": "wasserstein", "lambda_": 784.0},
        "wasserstein_slow": {"objective": "wasserstein", "lambda_": 784.0, "critic_learning_rate": 2e-5},
    },
    "Stein's kernel and weight": {
        "stein": {"objective": "stein"},
        "stein_50": {"objective": "stein", "lambda_": 50.0, "stein_bandwidth": "median", "stein_include_self": False},
    },
    "the length of training": {
        "mmd": {"objective": "mmd"},
        "mmd_short": {"objective": "mmd", "share_of_steps": 0.1},
        "elbo": {"objective": "elbo"},
        "elbo_short": {"objective": "elbo", "share_of_steps": 0.1},
    },
    "how z enters the decoder": {
        "mmd": {"objective": "mmd"},
        "mmd_spatial": {"objective": "mmd", "conditioning": "spatial"},
        "elbo": {"objective": "elbo"},
        "elbo_spatial": {"objective": "elbo", "conditioning": "spatial"},
    },
    "the encoder's standard deviation": {
        "mmd": {"objective": "mmd"},
        "mmd_exp": {"objective": "mmd", "posterior_std": "exp"},
        "elbo": {"objective": "elbo"},
        "elbo_exp": {"objective": "elbo", "posterior_std": "exp"},
    },
}
"""What is asked -> variant -> the fields that differ from the defaults; `share_of_steps` shortens the training.

A variant that others are held against stands in every question that it is a part of.
"""

VARIANTS = {name: changes for variants in QUESTIONS.values() for name, changes in variants.items()}


def _require_known(name: str) -> str:
    if name not in VARIANTS:
        raise ValueError(unknown_name("variant", name, VARIANTS))
    return name


class Sensitivity(ImageExperiment):
    """Named variants of the models of the comparison, each with a few fields changed, see `QUESTIONS`."""

    title = "What decides it"
    caveat = "One change at a time around one setting: what two changes do together is open."
    conditions = ("variant",)
    metrics = (
        "mutual_information", "squared_mmd", "log_det_cov_per_dim_test", "rate",
        "reconstruction_nll", "class_cross_entropy",
    )  # fmt: skip

    variants: Several[Annotated[str, AfterValidator(_require_known)]] = (
        "mmd", "mmd_no_norm", "mmd_flat_kernel", "elbo", "averaged_elbo", "elbo_spatial",
    )  # fmt: skip
    seeds: Several[Seed] = (0,)
    latent_dim: LatentDim = HEADLINE_DIM
    n_samples: Samples = 2000

    def wanted(self) -> Wanted:
        """Return one run per seed and variant, with its codes and samples evaluated."""
        evaluations = (LatentEvaluation(), SampleEvaluation.for_dataset(self.dataset, self.n_samples))
        return [(config, evaluations) for config in self._named()]

    def name_variants(self, runs: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the grid with the column `variant`."""
        return runs.assign(variant=list(self._named().values()))

    def _named(self) -> dict[RunConfig, str]:
        found: dict[RunConfig, str] = {}
        for seed in self.seeds:
            for name in self.variants:
                changes = dict(VARIANTS[name])
                steps = max(1, round(self.steps * changes.pop("share_of_steps", 1)))
                found.setdefault(self.config(**changes, steps=steps, seed=seed, latent_dim=self.latent_dim), name)
        return found


def variant_name(variant: str) -> str:
    """Return a variant as a reader sees it: its objective, and what differs from the default; others as they are."""
    if variant not in VARIANTS:
        return variant
    changes = dict(VARIANTS[variant])
    words = [objective_name(changes.pop("objective"))]
    if share := changes.pop("share_of_steps", None):
        words.append(f"{share:g} of the steps")
    values = {name: f"{value:,g}" if isinstance(value, float) else str(value) for name, value in changes.items()}
    said = ", ".join([*words, *(f"{label(name)} {value}" for name, value in values.items())])
    return said.replace(f"{label('bandwidth')} paper", "kernel exp(−d²/dim²)")


@plotting.figure
def plot_variants(runs: pd.DataFrame) -> Captioned:
    """Return a row per variant, grouped by what is asked, and a column per metric; each run a dot."""
    metrics = {
        "mutual_information": ("I(x;z), nats", None),
        "squared_mmd": ("squared MMD", 1e-3),
        "log_det_cov_per_dim_test": ("log det Cov[q(z)] / dim", 0.1),
        "class_cross_entropy": ("class cross-entropy", None),
    }
    done = plotting.finished(runs, *metrics)
    rows: list[tuple[str, str]] = []  # (variant, text); a question stands above its variants
    for question, variants in QUESTIONS.items():
        asked = [name for name in variants if name in set((done if len(done) else runs)["variant"])]
        own = [name for name in asked if sum(name in others for others in QUESTIONS.values()) == 1]
        if own and len(asked) > 1:
            rows += [("", question), *((name, variant_name(name)) for name in asked)]
    drawn, axes = plotting.panels(len(metrics), 2.3, 0.23 * len(rows) + 0.5, len(metrics), sharey=True)
    for ax, (metric, (title, _)) in zip(axes, metrics.items(), strict=True):
        for place, (variant, _) in enumerate(rows):
            group = done[done["variant"] == variant]
            color = plotting.PALETTE[VARIANTS[variant]["objective"]] if variant else "0"
            ax.plot(group[metric], [place] * len(group), "o", color=color, ms=4, alpha=0.7)
        ax.set_title(title)
        if metric == "mutual_information" and "mutual_information_cap" in done:
            ax.axvline(done["mutual_information_cap"].max(), color="0.5", lw=0.6)
    plotting.style_rows(axes, [text for _, text in rows], [linear_below for _, linear_below in metrics.values()])
    for tick, (variant, _) in zip(axes[0].get_yticklabels(), rows, strict=True):
        tick.set_fontweight("normal" if variant else "bold")
    return drawn.captioned(
        done,
        "Rows below a bold line answer one question; where fewer than two have a run it is left out. Colours are those "
        "of the objectives. Left: the more the better, up to the cap, which is a line; second and third: a match is 0; "
        "right: lower is better.",
    )
