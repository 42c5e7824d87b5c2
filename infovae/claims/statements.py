"""The paper's statements: one function each, and the ledger of all of them.

A function has its statement as docstring. It takes the runs of its experiment and returns one effect per seed and
condition, NaN where a run failed, or where the code is empty and its match with the prior would mean nothing. How a
verdict follows is `infovae.claims.verdicts`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd

from infovae.claims.intervals import holm
from infovae.claims.verdicts import Claim, Effects, Source, enough_seeds, every_condition, judge
from infovae.config import AUTOREGRESSIVE, EMPTY_CODE, OBJECTIVES

EMPTY_TOY_CODE = 0.1
"""Nats below which a code of the toy counts as empty; it can hold no more than log 2."""

MATCHED = 0.08
"""Squared MMD below which a code counts as matching the prior: half of what a code collapsed to 0 has. A weak bound: a
code with 70 % of its mass at 0 and the rest like the prior is within it."""

LEAST_SQUARED_MMD = 1e-5
"""A squared MMD below it counts as this much in ratios: it is within the error of every estimate here."""

CLAIMS: dict[str, Claim] = {}


AUTHORS_REACH = ("receptive_radius", (14,))
"""How far the PixelCNN of the authors sees, in pixels: 12 layers, see `gated_pixelcnn`."""

DIMS, FEW_DIMS, MANY_DIMS = (("latent_dim", dims) for dims in ((2, 5, 10, 20, 40), (2, 5, 10, 20), (10, 20, 40)))
"""The latent dimensions that the authors' statements are about: all of theirs, up to 20, from 10 on."""

SIZES = (500, 1000, 5000, 10_000, 50_000)
"""Numbers of training images in the authors' experiment."""


def claim(
    experiment: str,
    source: Source,
    measured: str,
    *,
    below: float = 0,
    above: float | None = None,
    log: bool = False,
    over: tuple[str, tuple[float | str, ...]] | None = None,
) -> Callable[[Callable[[pd.DataFrame], Effects]], Callable[[pd.DataFrame], Effects]]:
    """Enter the decorated function into `CLAIMS` under its own name. Give one of the bounds."""

    def register(function: Callable[[pd.DataFrame], Effects]) -> Callable[[pd.DataFrame], Effects]:
        name, statement = function.__name__, " ".join((function.__doc__ or "").split())
        sign, bound = (-1, below) if above is None else (1, above)
        CLAIMS[name] = Claim(name, statement, experiment, source, measured, sign, bound, log, function, over)
        return function

    return register


def ledger(runs: Mapping[str, pd.DataFrame], histories: Mapping[str, pd.DataFrame] | None = None) -> pd.DataFrame:
    """Return the ledger, a row per claim, from the runs and the histories of each experiment by name.

    `p` is that of the decisive condition, adjusted by Holm's procedure for the claim's conditions where its mean lies
    beyond the bound; `p_ledger` is adjusted once more for all claims measured.
    """
    given = histories or {}
    frame = pd.DataFrame([judge(c, runs.get(c.experiment), given.get(c.experiment)) for c in CLAIMS.values()])
    frame.insert(list(frame).index("p") + 1, "p_ledger", holm(frame["p"]))
    return frame


def conditions(runs: Mapping[str, pd.DataFrame], histories: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return each condition of each claim, a row each, as `ledger` judges them: one row of it shows but one."""
    return pd.concat(every_condition(c, runs.get(c.experiment), histories.get(c.experiment)) for c in CLAIMS.values())


# What the statements share


def values(runs: pd.DataFrame, metric: str, *conditions: str, used: bool = False, **where: Any) -> Effects:
    """Return a metric by seed and conditions, of the runs that have the values in `where`.

    NaN where a run failed and, with `used`, where the code is empty.
    """
    for column, wanted in where.items():
        runs = runs[runs[column] == wanted]
    missing = runs["status"] != "done"
    if used:
        missing |= runs["mutual_information"] < runs["dataset"].map({"two_points": EMPTY_TOY_CODE}).fillna(EMPTY_CODE)
    return runs[metric].mask(missing).set_axis(pd.MultiIndex.from_frame(runs[["seed", *conditions]]))


def under_pixelcnn(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with a PixelCNN decoder; the gated one's receptive radius follows from its layers."""
    runs = runs[runs["decoder"].isin(AUTOREGRESSIVE)]
    gated = runs["decoder"] == "gated_pixelcnn"
    if not gated.any():
        return runs
    radius = runs["receptive_radius"].mask(gated, runs["pixelcnn_layers"] + 2)
    return runs.assign(receptive_radius=radius)


def of(runs: pd.DataFrame, metric: str, objective: str, used: bool = False) -> Effects:
    """Return a metric of one objective under a PixelCNN decoder, by seed and latent dimension."""
    return values(under_pixelcnn(runs), metric, "latent_dim", used=used, objective=objective)


def difference(a: Effects, b: Effects) -> Effects:
    """Return a - b for the seeds and conditions that both have."""
    a, b = a.align(b, join="inner")
    return a - b


def ratio(a: Effects, b: Effects) -> Effects:
    """Return |a| / |b| for the seeds and conditions that both have, each at least `LEAST_SQUARED_MMD`."""
    return np.exp(difference(*(np.log(x.abs().clip(lower=LEAST_SQUARED_MMD)) for x in (a, b))))


def together(**parts: Effects) -> Effects:
    """Return several effects as conditions of one, each under its name."""
    return pd.concat(parts, names=["part"])


def average_over_sizes(effects: Effects) -> Effects:
    """Return each seed's mean over sizes of the training set, at least two, by the other conditions; NaN where one is.

    Over those sizes that most seeds have, of equally many the most, and of the seeds that have them.
    """
    others = [name for name in effects.index.names if name != "n_train"]
    found = {
        key: dict(zip(group.index.get_level_values("n_train"), group, strict=True))
        for key, group in effects.groupby(others)
    }
    kinds = sorted({tuple(sorted(by_size)) for by_size in found.values() if len(by_size) > 1})
    if not kinds:
        raise KeyError("n_train")
    sizes = max(kinds, key=lambda kind: (sum(set(kind) <= by_size.keys() for by_size in found.values()), len(kind)))
    means = {key: np.mean([d[n] for n in sizes]) for key, d in found.items() if set(sizes) <= d.keys()}
    averaged = pd.Series(means, pd.MultiIndex.from_tuples(means, names=others), dtype=float)
    return together(**{average_name(sizes): averaged})


def average_name(sizes: tuple[int, ...]) -> str:
    """Return in words an average over sizes of the training set."""
    *first, last = (f"{n:,}" for n in sizes)
    return f"the average of {', '.join(first)} and {last} images"


def extreme(runs: pd.DataFrame, column: str, end: Literal["min", "max"]) -> pd.DataFrame:
    """Return the runs with the smallest or the largest value of a column."""
    return runs[runs[column] == runs[column].agg(end)]


def used_and_matched(runs: pd.DataFrame, condition: str, **where: Any) -> Effects:
    """Return, of codes under a PixelCNN decoder, what is in the code, what is read, and how it matches; above 1 each.

    I(x;z) and what the reconstruction loses when a draw of the prior takes the code's place, both over EMPTY_CODE, and
    exp(1 - squared MMD / MATCHED): its logarithm, which is averaged, falls evenly with the squared MMD. During
    training, and of the authors, what is read is not known.
    """
    runs = under_pixelcnn(runs)
    information, squared_mmd = (values(runs, m, condition, **where) for m in ("mutual_information", "squared_mmd"))
    parts = {
        "information": information / EMPTY_CODE,
        "match": np.exp(1 - squared_mmd.abs() / MATCHED),
    }
    if "reconstruction_nll_prior" in runs:
        own, other = (values(runs, f"reconstruction_nll{end}", condition, **where) for end in ("", "_prior"))
        parts["read"] = (other - own) / EMPTY_CODE
    return together(**{name: part.clip(lower=0.01) for name, part in parts.items()})


# The statements

USE_AND_MATCH = ": I(x;z) / 1 nat; nats lost with a draw of the prior as code / 1 nat; exp(1 - squared MMD / 0.08)"

toy = partial(claim, "amortized_inference")
variance = partial(claim, "variance_overestimation")
average = partial(claim, "variance_overestimation", over=("part", (average_name(SIZES),)))
usage = partial(claim, "latent_usage")
comparison = partial(claim, "divergence_comparison")
labels = partial(claim, "semi_supervised")


def toy_mmd_against_vae(runs: pd.DataFrame, metric: str) -> Effects:
    """Return a metric of MMD at alpha = 1 minus that of the VAE, at the smallest floor of the decoder's deviation."""
    narrow = extreme(runs, "decoder_min_std", "min")
    mmd = values(narrow, metric, used=True, objective="mmd", alpha=1)
    return difference(mmd, values(narrow, metric, used=True, objective="elbo"))


@toy("authors' code", "KL(q(z|x)||p(z|x)) of MMD (alpha 1) - VAE, nats, smallest floor of the decoder's std")
def toy_posterior(runs: pd.DataFrame) -> Effects:
    """In the toy MMD keeps q(z|x) nearer to the true posterior p(z|x) than the VAE does."""
    return toy_mmd_against_vae(runs, "posterior_kl")


@toy("authors' code", "KL(q(z)||p(z)) of MMD (alpha 1) - VAE, nats, smallest floor of the decoder's std")
def toy_aggregate(runs: pd.DataFrame) -> Effects:
    """In the toy MMD keeps q(z) nearer to the prior than the VAE does."""
    return toy_mmd_against_vae(runs, "marginal_kl")


@toy("second hand", "KL(q(z|x)||p(z|x)) of VAE, smallest floor of the decoder's std - largest, nats", above=0)
def toy_vae_worsens(runs: pd.DataFrame) -> Effects:
    """The narrower p(x|z) may become in the toy, the worse the VAE's q(z|x) fits the true posterior."""
    if runs["decoder_min_std"].nunique() < 2:
        raise KeyError("decoder_min_std")
    ends = (extreme(runs, "decoder_min_std", end) for end in ("min", "max"))
    return difference(*(values(end, "posterior_kl", used=True, objective="elbo") for end in ends))


@variance("authors' code", "log det Cov[q(z)] / dim of VAE, training images: least images; least - most", above=0.1)
def vae_overestimates_variance(runs: pd.DataFrame) -> Effects:
    """With few images the VAE spreads q(z) beyond the prior (Gaussian pixels), and the more so the fewer they are."""
    if runs["n_train"].nunique() < 2:
        raise KeyError("n_train")
    vae: dict[str, Any] = {"objective": "elbo", "binarization": "none"}
    metric = "log_det_cov_per_dim_train"
    few, many = (values(extreme(runs, "n_train", end), metric, "latent_dim", **vae) for end in ("min", "max"))
    return together(least=few, excess=difference(few, many))


@variance(
    "authors' code",
    "0.1 - x and 0.1 + x, x = log det Cov[q(z)] / dim of MMD, training images",
    above=0,
    over=("n_train", ()),
)
def mmd_keeps_variance(runs: pd.DataFrame) -> Effects:
    """With MMD log det Cov[q(z)] is near 0 on training images, whatever their number (Gaussian pixels)."""
    mmd: dict[str, Any] = {"objective": "mmd", "binarization": "none"}
    log_det = values(runs, "log_det_cov_per_dim_train", "latent_dim", "n_train", used=True, **mmd)
    return together(**{"not wider": 0.1 - log_det, "not narrower": 0.1 + log_det})


def binary_mmd_and_vae(runs: pd.DataFrame, metric: str) -> tuple[Effects, Effects]:
    """Return a metric of MMD and of the VAE on binary images, by dimension, number of images and binarisation."""
    runs, conditions = runs[runs["binarization"] != "none"], ("latent_dim", "n_train", "binarization")
    mmd, vae = (values(runs, metric, *conditions, objective=name) for name in ("mmd", "elbo"))
    return mmd, vae


@variance("summary", "-log p(x) of test - of training images, MMD - VAE, nats, least images, binary pixels")
def mmd_generalises(runs: pd.DataFrame) -> Effects:
    """InfoVAE generalises better than the VAE where images are few: its gap in log p(x) is smaller."""
    return difference(*binary_mmd_and_vae(extreme(runs, "n_train", "min"), "nll_gap"))


@average("summary", "sharpness of reconstructions (0 to 1), MMD - VAE, average over sizes, binary pixels")
def mmd_less_crisp(runs: pd.DataFrame) -> Effects:
    """InfoVAE's reconstructions are not as crisp as the VAE's, on the average over the sizes of the training set."""
    return average_over_sizes(difference(*binary_mmd_and_vae(runs, "sharpness_reconstructions")))


@average("summary", "Fréchet distance of samples, MMD - VAE, average over sizes, binary pixels")
def mmd_better_samples(runs: pd.DataFrame) -> Effects:
    """InfoVAE's samples are of better quality than the VAE's, on the average over the sizes of the training set."""
    return average_over_sizes(difference(*binary_mmd_and_vae(runs, "frechet_distance")))


def default_encoder(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs whose encoder has the default normalisation."""
    return runs[runs["encoder_norm"] == "batch"] if "encoder_norm" in runs else runs


@usage("second hand", "I(x;z) of VAE, nats, largest receptive field run", below=0.1, log=True, over=AUTHORS_REACH)
def vae_ignores_z(runs: pd.DataFrame) -> Effects:
    """The VAE ignores its code where a PixelCNN decoder has a large receptive field."""
    runs = default_encoder(under_pixelcnn(runs))
    effects = enough_seeds(values(runs, "mutual_information", "receptive_radius", objective="elbo"))
    radius = effects.index.get_level_values("receptive_radius")  # of the VAE: others may have been run at more
    return effects[radius == radius.max()].clip(lower=0.01)


@usage("summary", "of MMD" + USE_AND_MATCH, above=1, log=True, over=("receptive_radius", ()))
def infovae_uses_z(runs: pd.DataFrame) -> Effects:
    """InfoVAE at alpha = 1 uses its code and matches the prior, whatever the decoder's receptive field."""
    mmd: dict[str, Any] = {"objective": "mmd", "alpha": 1, "lambda_": OBJECTIVES["mmd"]["lambda_"]}
    effects = enough_seeds(used_and_matched(default_encoder(runs), "receptive_radius", **mmd))
    if effects.index.get_level_values("receptive_radius").nunique() < 2:
        raise KeyError("receptive_radius")  # of one radius the statement is that of the comparison
    return effects


@comparison("authors' code", "of MMD" + USE_AND_MATCH, above=1, log=True, over=DIMS)
def mmd_uses_z(runs: pd.DataFrame) -> Effects:
    """MMD uses its code under a PixelCNN decoder and matches the prior, in every latent dimension."""
    return used_and_matched(runs, "latent_dim", objective="mmd")


@comparison("authors' code", "of Stein" + USE_AND_MATCH, above=1, log=True, over=DIMS)
def stein_uses_z(runs: pd.DataFrame) -> Effects:
    """Stein uses its code under a PixelCNN decoder and matches the prior, in every latent dimension."""
    return used_and_matched(runs, "latent_dim", objective="stein")


@comparison("authors' code", "of Wasserstein" + USE_AND_MATCH, above=1, log=True, over=DIMS)
def adversary_uses_z(runs: pd.DataFrame) -> Effects:
    """The adversary (Wasserstein) uses its code under a PixelCNN decoder and matches the prior, in every dimension."""
    return used_and_matched(runs, "latent_dim", objective="wasserstein")


@comparison("summary", "of Jensen" + USE_AND_MATCH, above=1, log=True, over=DIMS)
def jensen_uses_z(runs: pd.DataFrame) -> Effects:
    """Jensen uses its code under a PixelCNN decoder and matches the prior, in every latent dimension."""
    return used_and_matched(runs, "latent_dim", objective="jensen")


@comparison("authors' code", "squared MMD of MMD / of the other, test images", below=1.25, log=True, over=DIMS)
def mmd_best_squared_mmd(runs: pd.DataFrame) -> Effects:
    """MMD matches the prior as well as Stein and the adversary or better, by squared MMD, in every dimension."""
    mmd, stein, wasserstein = (of(runs, "squared_mmd", name, used=True) for name in ("mmd", "stein", "wasserstein"))
    return together(Stein=ratio(mmd, stein), Wasserstein=ratio(mmd, wasserstein))


@comparison("authors' code", "|log det Cov[q(z)] / dim| of MMD - of the other, test images", over=DIMS)
def mmd_best_log_det(runs: pd.DataFrame) -> Effects:
    """MMD matches the prior better than Stein and the adversary, by log det Cov[q(z)], in every dimension."""
    metric, names = "log_det_cov_per_dim_test", ("mmd", "stein", "wasserstein")
    mmd, stein, wasserstein = (of(runs, metric, name, used=True).abs() for name in names)
    return together(Stein=difference(mmd, stein), Wasserstein=difference(mmd, wasserstein))


@comparison("authors' code", "class cross-entropy of MMD - of the other, nats", over=FEW_DIMS)
def mmd_best_classes(runs: pd.DataFrame) -> Effects:
    """MMD's samples have a truer class distribution than Stein's and the adversary's, in up to 20 dimensions."""
    runs = runs[runs["latent_dim"] <= 20]
    mmd, stein, wasserstein = (of(runs, "class_cross_entropy", name) for name in ("mmd", "stein", "wasserstein"))
    return together(Stein=difference(mmd, stein), Wasserstein=difference(mmd, wasserstein))


@comparison("authors' code", "class cross-entropy of Wasserstein - of Stein, nats", over=MANY_DIMS)
def adversary_better_classes(runs: pd.DataFrame) -> Effects:
    """The adversary's samples have a truer class distribution than Stein's, in 10 and more dimensions."""
    runs = runs[runs["latent_dim"] >= 10]
    return difference(*(of(runs, "class_cross_entropy", name) for name in ("wasserstein", "stein")))


@comparison("authors' code", "squared MMD averaged over training, MMD / Wasserstein", below=1, log=True, over=DIMS)
def adversary_slower(runs: pd.DataFrame) -> Effects:
    """The adversary takes longer than MMD to match the prior, in every dimension."""
    return ratio(*(of(runs, "mmd_over_training", name, used=True) for name in ("mmd", "wasserstein")))


@comparison(
    "recalled",
    "jitter of the squared MMD between two looks, relative to its level, MMD / Wasserstein",
    below=1,
    log=True,
)
def adversary_less_stable(runs: pd.DataFrame) -> Effects:
    """The adversary's match with the prior is less stable than MMD's in the second half of training."""
    return ratio(*(of(runs, "relative_jitter", name, used=True) for name in ("mmd", "wasserstein")))


@labels(
    "authors' code",
    "error of a support vector machine on draws of z (chance 0.9), “ELBO” of the authors’ code",
    above=0.85,
    over=DIMS,
)
def averaged_elbo_at_chance(runs: pd.DataFrame) -> Effects:
    """With 1,000 labels the code of what the authors' code calls ELBO is at chance, in every dimension."""
    return of(runs, "svm_error_sampled", "averaged_elbo")


@labels(
    "authors' code", "error on draws of z: no regulariser - MMD up to 5; MMD - no regulariser - 0.01 from 10", over=DIMS
)
def unregularized_better_in_few(runs: pd.DataFrame) -> Effects:
    """Without a regulariser the code classifies better than MMD's in 2 and 5 dimensions; from 10 on MMD is as good."""
    excess = difference(*(of(runs, "svm_error_sampled", name) for name in ("mmd", "unregularized")))
    dims = excess.index.get_level_values("latent_dim")
    if not (dims <= 5).any() or not (dims >= 10).any():
        raise KeyError("latent_dim")  # the statement is about both
    return (excess - 0.01).where(excess.index.get_level_values("latent_dim") >= 10, -excess)


@labels("authors' code", "error on draws of z, of MMD - of the other", over=DIMS)
def mmd_best_error(runs: pd.DataFrame) -> Effects:
    """MMD's code classifies better than Stein's, the adversary's and the VAE's, in every dimension."""
    mmd, *others = (of(runs, "svm_error_sampled", name) for name in ("mmd", "stein", "wasserstein", "elbo"))
    return together(**dict(zip(("Stein", "Wasserstein", "VAE"), (difference(mmd, o) for o in others), strict=True)))


@claim("log_likelihood", "recalled", "bound on -log p(x), of the InfoVAE - of VAE, nats, PixelCNN decoder", below=0.5)
def likelihood_on_a_par(runs: pd.DataFrame) -> Effects:
    """InfoVAE with MMD, Stein or the adversary has a log-likelihood on a par with the VAE's or better."""
    vae, names = of(runs, "nll", "elbo"), {"MMD": "mmd", "Stein": "stein", "Wasserstein": "wasserstein"}
    return together(**{word: difference(of(runs, "nll", name, used=True), vae) for word, name in names.items()})
