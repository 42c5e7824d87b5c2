"""What a code is worth: in samples, in what a classifier learns from few labels, and in likelihood, a sentence each."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from infovae.claims.intervals import SEEDS_FOR_INTERVAL
from infovae.config import EMPTY_CODE
from infovae.experiments.variance_overestimation import KINDS
from infovae.labels import format_number, join, objective_name
from infovae.plotting import by_objective, count_seeds, finished
from infovae.publishing.wording import capitalise, say, say_corrected, say_differences, say_dimensions, say_interval


def sample_quality(runs: pd.DataFrame) -> str:
    """What a used code is worth in samples."""
    metrics = {"frechet_distance": "Fréchet distance", "class_cross_entropy": "class cross-entropy"}
    columns = [*metrics, "frechet_distance_real"]
    known = finished(runs, *columns).dropna(subset=columns)
    groups = {name: group.set_index("seed") for name, group in by_objective(known)}
    empty = [name for name, group in groups.items() if (group["mutual_information"] < EMPTY_CODE).all()]
    if not groups:
        return ""
    real = (
        "Validation images, as many as there are samples, have a Fréchet distance of "
        f"{format_number(known['frechet_distance_real'].mean())}."
    )
    gains = {
        metric: _less({name: group[metric] for name, group in groups.items()}, empty[0])
        for metric in (metrics if len(empty) == 1 else ())
    }
    parts = [
        f"{objective_name(name)} {' and '.join(say(group[metric]) for metric in metrics)}"
        + (", empty code" if name in empty else "")
        for name, group in groups.items()
        if name in empty or not any(gains.values())
    ]
    text = f"{' and '.join(metrics.values())} of samples, in {say_dimensions(known)}: {'; '.join(parts)}. {real}"
    if any(gains.values()):
        text += " With 95 % intervals over seeds, each by itself, below 0 where a used code is better."
    for metric, said in gains.items():
        text += f" {capitalise(metrics[metric])} less that of the empty code: {said}" if said else ""
    return text


def samples_against_mmd(runs: pd.DataFrame) -> str:
    """Whose samples are nearer to images than MMD’s."""
    known = finished(runs, "frechet_distance").dropna(subset="frechet_distance")
    said = _less({n: group.set_index("seed")["frechet_distance"] for n, group in by_objective(known)}, "mmd")
    return (
        f"Fréchet distance less that of MMD, in {say_dimensions(known)}, each with a 95 % interval over seeds; below 0 "
        f"the other’s samples are nearer to images: {said}"
        if said
        else ""
    )


def _less(by_seed: Mapping[str, pd.Series], reference: str, paired: bool = False) -> str:
    """Return a metric of each objective less that of one of them, and which differences survive a correction.

    Empty where seeds are few. `paired`: values of one seed share their images, and only pairs are compared.
    """
    others = {name: metric for name, metric in by_seed.items() if name != reference}
    of_reference = by_seed.get(reference, pd.Series(dtype=float))
    differences = say_differences(others, of_reference)
    return f"{differences}. {say_corrected(others, of_reference, paired)}".rstrip() if differences else ""


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
    gains = _less(by_seed, "unconditional", paired=True)
    of_codes = {name: nll for name, nll in by_seed.items() if name != "unconditional"}
    beside_vae = _less(of_codes, "elbo", paired=True)
    return (
        f"Bound on −log p(x) less that of a PixelCNN without a code, in nats, in {say_dimensions(runs)}, with 95 % "
        "intervals over seeds, each by itself. Below 0 the model with a code is better, by that much at least, since "
        f"the other’s log p(x) is exact: {gains}" + (f" Less that of the VAE: {beside_vae}" if beside_vae else "")
        if gains
        else ""
    )


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
