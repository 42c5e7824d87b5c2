"""Whether the decoder uses the code at all: the information preference property (paper, section 3.2 and appendix)."""

from __future__ import annotations

import itertools

import pandas as pd

from infovae import plotting
from infovae.config import (
    EMPTY_CODE,
    Alpha,
    EncoderNorm,
    Lambda,
    LatentDim,
    LatentEvaluation,
    ObjectiveName,
    Radius,
    RunConfig,
)
from infovae.experiments import HEADLINE_DIM, ImageExperiment, Several, Wanted, product
from infovae.labels import label, objective_name
from infovae.plotting import Captioned


class LatentUsage(ImageExperiment):
    """InfoVAE over alpha and lambda_, then over the decoder's receptive field and the encoder's start; beside the ELBO.

    The first value of each list is the reference: alpha and lambda_ vary together at the first radius and norm, radius
    and norm each by itself at the first alpha and lambda_.
    """

    title = "Latent usage"
    caveat = (
        "The claim is about the optimum. With few steps an empty code may be one that the decoder has not learnt to "
        "use yet, and a full one may be one that the divergence has not emptied."
    )
    conditions = ("encoder_norm", "receptive_radius", "objective", "alpha", "lambda_")
    metrics = (
        "mutual_information", "active_units", "rate", "marginal_kl", "reconstruction_nll",
        "reconstruction_nll_prior", "squared_mmd", "squared_mmd_null_std", "squared_mmd_point_mass",
        "log_det_cov_per_dim_test",
    )  # fmt: skip

    objective: ObjectiveName = "mmd"
    alphas: Several[Alpha] = (1.0,)
    lambdas: Several[Lambda] = (784.0,)
    receptive_radii: Several[Radius] = (RunConfig.model_fields["receptive_radius"].default,)
    encoder_norms: Several[EncoderNorm] = ("batch",)
    latent_dim: LatentDim = HEADLINE_DIM

    def wanted(self) -> Wanted:
        """Return the ELBO and InfoVAE at each setting."""
        if self.objective == "elbo":
            raise ValueError("objective 'elbo' is always there: name the one to compare with it, such as 'mmd'")
        radii = self.receptive_radii if self.decoder == "pixelcnn" else self.receptive_radii[:1]  # others have none
        reference, *others = product(encoder_norm=self.encoder_norms, receptive_radius=radii)
        settings = [reference, *(other for other in others if other.items() & reference.items())]
        weights = product(alpha=self.alphas, lambda_=self.lambdas)
        configs = []
        for seed, setting in itertools.product(self.seeds, settings):
            configs.append(self.config(objective="elbo", seed=seed, **setting))
            for pair in weights if setting == reference else weights[:1]:
                configs.append(self.config(objective=self.objective, seed=seed, **pair, **setting))
        return [(config, (LatentEvaluation(),)) for config in configs]


def _reference(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the finished runs, with the encoder's norm as a number, and what of them has the reference's value."""
    done = plotting.finished(runs, "mutual_information", "squared_mmd")
    family = runs[runs["objective"] != "elbo"].iloc[0]
    first = (done["alpha"] == family["alpha"]) & (done["lambda_"] == family["lambda_"])
    norms = {norm: place for place, norm in enumerate(runs["encoder_norm"].unique())}
    is_radius, is_norm = (done[name] == runs[name].iloc[0] for name in ("receptive_radius", "encoder_norm"))
    return done.assign(
        norm=done["encoder_norm"].map(norms),
        weights_first=first | (done["objective"] == "elbo"),
        is_radius=is_radius,
        is_norm=is_norm,
    )


def _shades(runs: pd.DataFrame) -> tuple[str, dict[float, str]]:
    """Return the objective beside the ELBO, and a shade of its colour for each lambda_ that is to be run."""
    family = runs[runs["objective"] != "elbo"]
    name, lambdas = str(family["objective"].iloc[0]), sorted(family["lambda_"].unique())
    return name, dict(zip(lambdas, plotting.shades(plotting.PALETTE[name], len(lambdas)), strict=True))


@plotting.figure
def plot_information(runs: pd.DataFrame) -> Captioned:
    """Return I(x;z) against alpha, a shade of one colour for each lambda_, then radius and norm where they vary."""
    done, metric = _reference(runs), "mutual_information"
    by_weight = done[done["is_radius"] & done["is_norm"]]
    views = {"alpha": by_weight}
    if done["receptive_radius"].nunique() > 1:
        views["receptive_radius"] = done[done["weights_first"] & done["is_norm"]]
    if done["encoder_norm"].nunique() > 1:
        views["norm"] = done[done["weights_first"] & done["is_radius"]]
    name, shades = _shades(runs)
    drawn, axes = plotting.panels(len(views), 3.4, 3.0, sharey=True)
    for ax, (x, shown) in zip(axes, views.items(), strict=True):
        vae = shown[shown["objective"] == "elbo"]
        plotting.draw_runs(ax, vae, x, metric, objective_name("elbo"), **plotting.look("elbo"))
        for lambda_, shade in shades.items():
            group = shown[(shown["objective"] != "elbo") & (shown["lambda_"] == lambda_)]
            if len(group):
                marker = plotting.MARKERS[name]
                plotting.draw_runs(ax, group, x, metric, f"{objective_name(name)}, λ = {lambda_:g}", shade, marker)
        plotting.ideal(ax, EMPTY_CODE, "empty below")
        if "mutual_information_cap" in runs:
            plotting.ideal(ax, runs["mutual_information_cap"].max(), "cap of the estimate")
        ax.set_xlabel(label("encoder_norm" if x == "norm" else x))
        ticks = runs["encoder_norm"].unique() if x == "norm" else sorted(runs[x].unique())
        ax.set_xticks(range(len(ticks)) if x == "norm" else ticks, [f"{tick}" for tick in ticks])
        ax.margins(x=0.2)
    axes[0].set_ylabel(label(metric))
    plotting.legend(drawn)
    return drawn.captioned(
        done,
        f"{plotting.spread(runs)} The higher, the more the code says of the image. Below the lower grey line it counts "
        "as empty; above the cap the estimate cannot go. At α = 1 the objective does not charge for the rate.",
    )


@plotting.figure
def plot_information_and_match(runs: pd.DataFrame) -> Captioned:
    """Return I(x;z) against the squared MMD, a point per run: its shade tells lambda_, its form alpha."""
    done, (name, shades) = _reference(runs), _shades(runs)
    alphas = sorted(done.loc[done["objective"] != "elbo", "alpha"].unique())
    drawn, (ax,) = plotting.panels(1, 5.4, 3.8)
    for run in done.to_dict("records"):
        is_vae = run["objective"] == "elbo"
        color = plotting.PALETTE["elbo"] if is_vae else shades[run["lambda_"]]
        marker = "*" if is_vae else "o^sDv"[alphas.index(run["alpha"]) % 5]
        face = color if run["is_radius"] and run["is_norm"] else "none"
        ax.scatter(run["squared_mmd"], run["mutual_information"], s=32, marker=marker, c=face, edgecolors=color)
    plotting.ideal(ax, EMPTY_CODE, "empty below")
    if "squared_mmd_null_std" in done:
        chance = 2 * done["squared_mmd_null_std"].max()
        ax.axvspan(-chance, chance, color="0.9", lw=0, zorder=0)
    if "squared_mmd_point_mass" in done:
        level, at_bottom = done["squared_mmd_point_mass"].max(), ax.get_xaxis_transform()
        ax.axvline(level, color="0.5", lw=0.6)
        ax.text(level, 0.3, "a code of one point", rotation=90, ha="right", transform=at_bottom, **plotting.NOTE)
    ax.set_xscale("symlog", linthresh=1e-3)
    ax.margins(0.08)
    ax.set(xlabel=label("squared_mmd"), ylabel=label("mutual_information"))
    points = {objective_name("elbo"): {"color": plotting.PALETTE["elbo"], "marker": "*", "ls": ""}}
    points |= {
        f"{objective_name(name)}, λ = {value:g}": {"color": shade, "marker": "o", "ls": ""}
        for value, shade in shades.items()
        if (done["lambda_"] == value).any()
    }
    if len(alphas) > 1:
        points |= {f"α = {value:g}": {"marker": "o^sDv"[place % 5], "ls": ""} for place, value in enumerate(alphas)}
    if not (done["is_radius"] & done["is_norm"]).all():
        points["another radius or norm than first"] = {"marker": "o", "mfc": "none", "ls": ""}
    plotting.legend(drawn, points)
    return drawn.captioned(
        done,
        "The upper left corner is where a code is of use: it says much of the image, and q(z) matches the prior. To "
        "the right q(z) is off the prior, low down the code is empty. Grey: two standard deviations of a match by "
        "chance.",
    )
