"""How objectives differ, and what a code is worth: in samples, with few labels and in likelihood, a sentence each."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from infovae.claims.intervals import SEEDS_FOR_INTERVAL
from infovae.config import EMPTY_CODE
from infovae.experiments.variance_overestimation import KINDS
from infovae.labels import format_number, join, objective_name
from infovae.plotting import by_objective, count_seeds, finished
from infovae.publishing.ways import used_by_seed, with_log_det_authors
from infovae.publishing.wording import (
    capitalise,
    decide,
    say,
    say_decided,
    say_differences,
    say_dimensions,
    say_interval,
)

EMPTY = "the empty code"
DIFFERENCES = {
    "|log det Cov[q(z)]| / dim less MMD’s, test images": ("log_det_cov_per_dim_test", "mmd"),
    "|log det Cov[q(z)]| / dim less MMD’s, authors’ way": ("log_det_cov_per_dim_authors", "mmd"),
    "Fréchet distance less MMD’s": ("frechet_distance", "mmd"),
    "Fréchet distance less the empty code’s": ("frechet_distance", EMPTY),
    "class cross-entropy less the empty code’s, nats": ("class_cross_entropy", EMPTY),
}
"""What `compare_objectives` compares: words -> metric, and the objective that it is held against."""


def by_seed_and_reference(runs: pd.DataFrame, metric: str, reference: str) -> tuple[dict[str, pd.Series], pd.Series]:
    """Return objective -> a metric by seed, and that of the reference, which is `EMPTY` or an objective.

    `EMPTY` is the one whose code is empty in every seed. Of log det the size counts, of codes used in every seed.
    """
    groups = {
        name: group.set_index("seed") for name, group in by_objective(finished(runs, "mutual_information", metric))
    }
    empty = [name for name, group in groups.items() if (group["mutual_information"] < EMPTY_CODE).all()]
    if reference == EMPTY:
        reference = empty[0] if len(empty) == 1 else ""
    found = {name: group[metric] for name, group in groups.items() if not group[metric].isna().any()}
    if metric.startswith("log_det"):
        found = {name: values.abs() for name, values in used_by_seed(runs, metric).items()}
    return {n: x for n, x in found.items() if n != reference}, found.get(reference, pd.Series(dtype=float))


def compare_objectives(runs: pd.DataFrame) -> pd.DataFrame:
    """Return each of `DIFFERENCES`, paired by seed, a row per objective, with its interval and what decides it."""
    runs = finished(with_log_det_authors(runs), *(metric for metric, _ in DIFFERENCES.values()))
    names = [name for name, _ in by_objective(runs)]
    table = pd.DataFrame({"objective": names}, index=names)
    for words, (metric, reference) in DIFFERENCES.items():
        by_seed, of_reference = by_seed_and_reference(runs, metric, reference)
        pairs = {name: (values - of_reference).dropna() for name, values in by_seed.items()}
        decided = decide(by_seed, of_reference)
        marks = {
            name: "".join(f" [{way[0].upper()}]" for way, found in decided.items() if name in found) for name in names
        }
        cells = {n: say_interval(pair) + marks[n] for n, pair in pairs.items() if len(pair) >= SEEDS_FOR_INTERVAL}
        if cells:
            table[words] = pd.Series(cells)
    return table.dropna(thresh=2).fillna("–")


def sample_quality(runs: pd.DataFrame) -> str:
    """What a used code is worth in samples."""
    metrics = {"frechet_distance": "Fréchet distance", "class_cross_entropy": "class cross-entropy"}
    columns = [*metrics, "frechet_distance_real"]
    known = finished(runs, *columns).dropna(subset=columns)
    if known.empty:
        return ""
    listed = [
        f"{objective_name(name)} {' and '.join(say(group[metric]) for metric in metrics)}"
        + (", empty code" if (group["mutual_information"] < EMPTY_CODE).all() else "")
        for name, group in by_objective(known)
    ]
    text = (
        f"{' and '.join(metrics.values())} of samples, in {say_dimensions(known)}: {'; '.join(listed)}. Validation "
        f"images, as many as there are samples, have a Fréchet distance of "
        f"{format_number(known['frechet_distance_real'].mean())}."
    )
    for metric, words in metrics.items():
        if said := say_decided(*by_seed_and_reference(known, metric, EMPTY)):
            text += f" {capitalise(words)} less that of the empty code, {said}."
    return text


def samples_against_mmd(runs: pd.DataFrame) -> str:
    """Whose samples are nearer to images than MMD’s."""
    known = finished(runs, "frechet_distance").dropna(subset="frechet_distance")
    said = say_decided(*by_seed_and_reference(known, "frechet_distance", "mmd"))
    return f"Fréchet distance less that of MMD, in {say_dimensions(known)}, {said}." if said else ""


def spread_against_mmd(runs: pd.DataFrame) -> str:
    """Whose codes have the spread of the prior."""
    runs = with_log_det_authors(runs)
    ways = {"On test images": "log_det_cov_per_dim_test", "Measured the authors’ way": "log_det_cov_per_dim_authors"}
    found = {way: say_decided(*by_seed_and_reference(runs, column, "mmd")) for way, column in ways.items()}
    listed = " ".join(f"{way}, {said}." for way, said in found.items() if said)
    return (
        f"|log det Cov[q(z)]| / dim less that of MMD, in {say_dimensions(runs)}; below 0 the other is nearer to the "
        f"prior than MMD. {listed}"
        if listed
        else ""
    )


def classes_in_code(runs: pd.DataFrame) -> str:
    """What the code knows of the classes."""
    columns = ["svm_error_sampled", "svm_error"]
    known = finished(runs, *columns).dropna(subset=columns)
    codes = known[known["objective"] != "pixels"]
    mean = {name: [100 * group[column].mean() for column in columns] for name, group in by_objective(codes)}
    listed = [
        f"{objective_name(n)} {mean[n][0]:.1f} ({mean[n][1]:.1f})" for n in sorted(mean, key=lambda n: mean[n][0])
    ]
    pixels = known.loc[known["objective"] == "pixels", "svm_error"]
    raw = f" On binarised pixels it is {100 * pixels.mean():.1f}." if len(pixels) else ""
    return (
        f"Error in % of a support vector machine with few labels, on a draw of z, in brackets on E[z|x], in "
        f"{say_dimensions(codes)}, least first: {join(listed)}.{raw}"
        if listed
        else ""
    )


def worth_of_code(runs: pd.DataFrame) -> str:
    """What a code is worth in likelihood."""
    by_seed = {name: group.set_index("seed")["nll"] for name, group in by_objective(finished(runs, "nll"))}
    gains = _less(by_seed, "unconditional")
    of_codes = {name: nll for name, nll in by_seed.items() if name != "unconditional"}
    beside_vae = _less(of_codes, "elbo")
    return (
        f"Bound on −log p(x) less that of a PixelCNN without a code, in nats, in {say_dimensions(runs)}, with 95 % "
        "intervals over seeds, each by itself. Below 0 the model with a code is better, by that much at least, since "
        f"the other’s log p(x) is exact: {gains}" + (f" Less that of the VAE: {beside_vae}" if beside_vae else "")
        if gains
        else ""
    )


def _less(by_seed: Mapping[str, pd.Series], reference: str) -> str:
    """Return a metric of each objective less that of one of them, whose images it shares, and what is decided."""
    others = {name: metric for name, metric in by_seed.items() if name != reference}
    of_reference = by_seed.get(reference, pd.Series(dtype=float))
    differences = say_differences(others, of_reference)
    decided = capitalise(say_decided(others, of_reference, shared_images=True))
    return f"{differences}. {decided}." if differences else ""


def worth_on_all_images(runs: pd.DataFrame) -> str:
    """What the VAE’s code is worth on all test images."""
    known = finished(runs, "reconstruction_nll", "rate").dropna(subset=["reconstruction_nll", "rate"])
    known = known[known["objective"].isin(["elbo", "averaged_elbo"])].assign(
        bound=lambda r: r.reconstruction_nll + r.rate
    )
    vae, empty = (known[known["objective"] == name].set_index("seed") for name in ("elbo", "averaged_elbo"))
    gain = (vae["bound"] - empty["bound"][empty["mutual_information"] < EMPTY_CODE]).dropna()
    return (
        f"−ELBO of the VAE less that of the empty code of {objective_name('averaged_elbo')}, in "
        f"{say_dimensions(known)}: {say_interval(gain)} nats, with its 95 % interval. The VAE’s log p(x) exceeds its "
        "ELBO by the error of inference, and the other’s by almost nothing."
        if len(gain) >= SEEDS_FOR_INTERVAL
        else ""
    )


def worth_of_mmd_where_images_are_few(runs: pd.DataFrame) -> str:
    """What MMD gains and loses where images are few."""
    metrics = {
        "frechet_distance": "Fréchet distance of samples",
        "nll": "bound on −log p(x), nats",
        "sharpness_reconstructions": "sharpness of reconstructions, which is between 0 and 1",
    }
    done, said = finished(runs, *metrics), []
    for kind, of_kind in done[done["binarization"] != "none"].groupby("binarization", sort=False):
        for metric, words in metrics.items():
            mmd, vae = (
                of_kind[of_kind["objective"] == name].set_index(["n_train", "seed"])[metric] for name in ("mmd", "elbo")
            )
            by_size = (mmd - vae).dropna().groupby("n_train")
            listed = [f"{say_interval(d)} at {n:,}" for n, d in by_size if len(d) >= SEEDS_FOR_INTERVAL]
            said += [f"{capitalise(words)}: {', '.join(listed)}"] if listed else []
        if said:
            return (
                f"MMD less VAE, {KINDS[str(kind)]}, by the number of training images, paired by seed "
                f"({count_seeds(of_kind)}), with 95 % intervals, each by itself. {'. '.join(said)}."
            )
    return ""
