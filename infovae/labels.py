"""What a reader sees for the name of a column or an objective, for numbers and for lists. CSV files keep names."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

_NLL = "bound on −log p(x), nats"


class Words(NamedTuple):
    """What a reader sees of an objective: its name, what it is, and its loss in TeX.

    In a loss R is the reconstruction, -E log p(x|z), the rate is E KL(q(z|x) || p(z)), and rate_j that of a dimension.
    """

    name: str
    what: str = ""
    loss: str = r"\text{–}"


OBJECTIVE_WORDS = {
    "elbo": Words("VAE", "the variational autoencoder: the whole rate is charged", r"R + \mathrm{rate}"),
    "averaged_elbo": Words(
        "“ELBO” of the authors’ code",
        "what the authors’ code calls ELBO: the rate averaged over the dimensions of z, the reconstruction over pixels",
        r"R + \tfrac{784}{d}\, \mathrm{rate}",
    ),
    "unregularized": Words("no regulariser", "an autoencoder with noise: nothing is charged", r"R"),
    "mmd": Words(
        "MMD",
        "MMD-VAE: the maximum mean discrepancy under a Gaussian kernel, weight and width of the authors’ code",
        r"R + \lambda\, \mathrm{MMD}^2_{\mathrm{rbf}}(q, p)",
    ),
    "stein": Words(
        "Stein",
        "codes are moved along the kernelised gradient of KL(q(z) ‖ p(z)): the Stein variational gradient",
        r"R + \lambda\, \mathrm{KL}(q \| p), \text{ by } \phi_q(z)",
    ),
    "wasserstein": Words(
        "Wasserstein",
        "a critic with gradient penalty estimates the 1-Wasserstein distance, as in the authors’ code",
        r"R + \lambda\, W_1(q, p)",
    ),
    "jensen": Words("Jensen", "a critic bounds the Jensen-Shannon divergence", r"R + \lambda\, \mathrm{JS}(q, p)"),
    "aae": Words("AAE", "the adversarial autoencoder: the same at λ = 1", r"R + \mathrm{JS}(q, p)"),
    "beta_vae": Words("β-VAE", "the rate is charged several times (β = λ)", r"R + \lambda\, \mathrm{rate}"),
    "mmd_annealed": Words(
        "MMD, rising λ",
        "MMD under an inverse multiquadratic kernel, λ rising over the first part of training",
        r"R + \lambda_t\, \mathrm{MMD}^2_{\mathrm{imq}}(q, p)",
    ),
    "kl": Words("KL", "KL(q(z) ‖ p(z)), with q(z) the mixture of a batch", r"R + \lambda\, \mathrm{KL}(q \| p)"),
    "chi2": Words("χ²", "a critic bounds Pearson’s χ² divergence", r"R + \lambda\, \chi^2(q \| p)"),
    "energy": Words(
        "energy distance", "the energy distance: MMD under the kernel −|z − z′|", r"R + \lambda_t\, \mathrm{ED}(q, p)"
    ),
    "sinkhorn": Words("Sinkhorn", "transport cost with an entropic blur", r"R + \lambda_t\, S_\varepsilon(q, p)"),
    "sliced_wasserstein": Words(
        "sliced Wasserstein",
        "the squared 2-Wasserstein distance, averaged over one-dimensional projections",
        r"R + \lambda_t\, \mathrm{SW}_2^2(q, p)",
    ),
    "mmd_adaptive": Words(
        "MMD, steered λ",
        "MMD with a λ that is steered so that the MMD of a batch stays near its level at a match",
        r"R + \lambda_t\, \mathrm{MMD}^2_{\mathrm{imq}}(q, p)",
    ),
    "free_bits": Words(
        "VAE, free bits",
        "the VAE with so many nats of each dimension free of charge",
        r"R + \textstyle\sum_j \max(c, \mathrm{rate}_j)",
    ),
    "bn_vae": Words(
        "VAE, batch-normed mean",
        "the VAE with E[z|x] batch-normalised, so that the rate cannot vanish",
        r"R + \mathrm{rate}",
    ),
    "unconditional": Words("no code", "a decoder without a code: the control", r"-\log p(x)"),
    "pixels": Words("pixels"),
}
"""In the order in which figures have them."""

LABELS = {
    "alpha": "α",
    "lambda_": "λ",
    "latent_dim": "latent dimension",
    "receptive_radius": "receptive radius, pixels",
    "n_train": "training images",
    "decoder_min_std": "floor of the decoder's std",
    "learning_rate": "learning rate",
    "encoder_norm": "encoder norm",
    "binarization": "binarisation",
    "conditioning": "conditioning",
    "posterior_std": "std by",
    "bandwidth": "bandwidth",
    "stein_bandwidth": "Stein’s bandwidth",
    "stein_include_self": "self-pairs",
    "critic_learning_rate": "critic's learning rate",
    "pixelcnn_channels": "maps",
    "pixelcnn_layers": "layers",
    "n_seeds": "seeds",
    "train_seconds": "training, s",
    # match of q(z) and p(z)
    "squared_mmd": "squared MMD of q(z) and p(z)",
    "squared_mmd_null_std": "noise of the squared MMD at a match (std)",
    "squared_mmd_no_overlap": "squared MMD without overlap",
    "squared_mmd_point_mass": "squared MMD of a point at 0",
    "squared_mmd_authors": "squared MMD, authors’ way",
    "squared_mmd_grey": "squared MMD of grey images, normalised by running statistics",
    "log_det_cov_total_authors": "log det Cov[q(z)], total, authors’ way",
    "log_det_cov_per_dim": "log det Cov[q(z)] / dim",
    "log_det_cov_per_dim_test": "log det Cov[q(z)] / dim, test images",
    "log_det_cov_per_dim_train": "log det Cov[q(z)] / dim, training images",
    "log_det_cov_per_dim_validation": "log det Cov[q(z)] / dim, validation images",
    "marginal_kl": "KL(q(z) ‖ p(z)), nats",
    # what the code holds
    "mutual_information": "I(x;z), nats",
    "mutual_information_cap": "cap of the estimate of I(x;z), nats",
    "active_units": "active units",
    "rate": "rate KL(q(z|x) ‖ p(z)), nats",
    "reconstruction_nll": "reconstruction −log p(x|z), nats",
    "reconstruction_nll_prior": "reconstruction with z from the prior, nats",
    "reconstruction_nll_real": "reconstruction by the grey images themselves, nats",
    # the toy
    "posterior_kl": "KL(q(z|x) ‖ p(z|x)), nats",
    "elbo": "ELBO, nats",
    "log_evidence": "log p(x), nats",
    "q_separation": "distance of the means of q(z|−1) and q(z|+1)",
    "q_std_minus": "std of q(z|−1)",
    "q_std_plus": "std of q(z|+1)",
    # samples
    "class_cross_entropy": "class cross-entropy, nats",
    "class_cross_entropy_real": "class cross-entropy of real images, nats",
    "class_cross_entropy_authors": "class cross-entropy, authors’ way, nats",
    "frechet_distance": "Fréchet distance of samples",
    "frechet_distance_real": "Fréchet distance of real images",
    "sharpness_reconstructions": "sharpness of reconstructions, 0 to 1",
    "sharpness_samples": "sharpness of samples, 0 to 1",
    "sharpness_real": "sharpness of real images, 0 to 1",
    # labels
    "svm_error": "SVM error on E[z|x]",
    "svm_error_std": "SVM error, std over draws of labels",
    "tsvm_error": "transductive SVM error on E[z|x]",
    "tsvm_error_std": "transductive SVM error, std over draws of labels",
    "svm_error_sampled": "SVM error on z ~ q(z|x)",
    "svm_error_rbf_sampled": "SVM error, authors’ way but γ chosen without test labels",
    "svm_error_authors": "SVM error, authors’ way",
    # likelihood
    "nll": f"{_NLL}, test images",
    "nll_train": f"{_NLL}, training images",
    "nll_gap": "gap of −log p(x), test − training images, nats",
    **{f"nll_{k}": f"{_NLL}, K = {k:,}" for k in (1, 10, 100, 1000, 10_000)},
    "nll_std_error": "standard error of the bound over images, nats",
    "ess_median": "effective sample size / K, median",
    "ess_5pct": "effective sample size / K, 5th percentile",
    "nll_elbo": f"{_NLL}, by the encoder alone",
    "elbo_rate": "KL term of the encoder’s bound, nats",
    "nll_searched": f"{_NLL}, with fits from elsewhere, on a few images",
    "nll_missed": "nats that the usual fit missed on a few images",
    "nll_missed_std_error": "standard error of the nats missed",
    # the explorer
    "median_distance": "distance to the nearest training image, median",
    "near": "share nearer than 99 % of test images",
}


def label(column: str) -> str:
    """Return what a reader sees for a column: its words and unit, or the name itself where there are none."""
    return LABELS.get(column, column.replace("_", " "))


def objective_name(objective: str) -> str:
    """Return what a reader sees for an objective."""
    return OBJECTIVE_WORDS.get(objective, Words(objective)).name


def as_markdown(text: object) -> str:
    """Return a text such that Markdown shows its characters: none of them is markup, HTML or part of an equation."""
    return re.sub(r"([\\`*_\[\]<&|$~])", r"\\\1", " ".join(str(text).split()))


def format_number(value: float) -> str:
    """Return a number with three significant digits, without exponent where it stays short."""
    if value != value:
        return "–"
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e+" in text else text


def format_mean(mean: float, half_width: float) -> str:
    """Return "mean ± half-width": two significant digits of the half-width, and the mean to the same place."""
    places = 1 - math.floor(math.log10(half_width)) if half_width > 0 else 0
    if not -15 < places < 8:
        return f"{format_number(mean)} ± {format_number(half_width)}"
    return " ± ".join(f"{round(value, places):.{max(places, 0)}f}" for value in (mean, half_width))


def join(words: Iterable[str]) -> str:
    """Return words as a sentence lists them: "a, b and c"."""
    *first, last = list(words) or ["nothing"]
    return f"{', '.join(first)} and {last}" if first else last


def count(things: Any, name: str) -> str:
    """Return "3 panels", or "1 panel"."""
    return f"{len(things)} {name}{'s' if len(things) != 1 else ''}"
