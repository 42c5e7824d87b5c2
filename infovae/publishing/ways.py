"""How near codes come to the prior, by each way of measuring it, and what the authors' way of measuring is worth."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from infovae.claims.intervals import SEEDS_FOR_INTERVAL, half_width, welch
from infovae.claims.statements import LEAST_SQUARED_MMD
from infovae.config import EMPTY_CODE
from infovae.labels import format_number, join, objective_name
from infovae.plotting import by_objective, count_seeds, finished
from infovae.publishing.wording import capitalise, say, say_dimensions, say_interval

WAYS = {
    "on test images": "squared_mmd",
    "on validation images": "squared_mmd_validation",
    "on grey training images, each batch normalised by itself, as the authors measure": "squared_mmd_authors",
    "on grey training images with the running statistics": "squared_mmd_grey",
}
"""How squared MMD is measured -> its column."""


def used_by_seed(runs: pd.DataFrame, column: str) -> dict[str, pd.Series]:
    """Return objective -> a metric by seed, of the objectives that have it and use their code in every seed."""
    groups = {name: group.set_index("seed") for name, group in by_objective(runs) if column in group}
    used = {name: g[column] for name, g in groups.items() if (g["mutual_information"] >= EMPTY_CODE).all()}
    return {name: metric for name, metric in used.items() if not metric.isna().any()}


def nearest_to_prior(runs: pd.DataFrame) -> str:
    """Which objective comes nearest to the prior."""
    said, otherwise = [], []
    for way, column in WAYS.items():
        sides = _sides(ratios_to_mmd(runs, column))
        if not sides:
            continue
        said.append(f"{capitalise(way)}, MMD is {_say_sides(sides)}")
        unpaired = _sides(ratios_to_mmd(runs, column, paired=False))
        if changed := {name: side for name, side in unpaired.items() if side != sides[name]}:
            otherwise.append(f"{way}, MMD is {_say_sides(changed)}")
    if not said:
        return ""
    used = used_by_seed(runs, "squared_mmd")
    others = [objective_name(name) for name, _ in by_objective(runs) if name not in used]
    return (
        f"By squared MMD in {say_dimensions(runs)}: of each other objective the 95 % interval of the ratio to MMD’s, "
        f"paired by seed, by itself. {'. '.join(said)}."
        + (f" Not paired, over all seeds (Welch), this differs: {'; '.join(otherwise)}." if otherwise else "")
        + " The numbers stand under “Measured the authors’ way”."
        + (f" Left out, since the code is empty in one seed or more: {join(others)}." if others else "")
    )


def _sides(ratios: Mapping[str, tuple[float, ...]]) -> dict[str, str]:
    """Return on which side of another MMD is, by the interval of its ratio: "nearer", "farther" or "open"."""
    return {
        name: "open" if low < 1 < high else "farther" if low > 1 else "nearer"
        for name, (_, low, high) in ratios.items()
    }


def _say_sides(sides: Mapping[str, str]) -> str:
    """Return what `_sides` found as a sentence goes on after "MMD is"."""
    words = {"nearer": "nearer than", "farther": "farther than", "open": "not decided against"}
    of_side = {side: [objective_name(name) for name in sides if sides[name] == side] for side in words}
    return join(f"{words[side]} {join(names)}" for side, names in of_side.items() if names)


def with_log_det_authors(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the finished runs with the authors' log det per dimension."""
    runs = finished(runs, "log_det_cov_total_authors")
    return runs.assign(log_det_cov_per_dim_authors=runs["log_det_cov_total_authors"] / runs["latent_dim"])


def the_authors_way(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with what the authors measure in the place of what is measured here, where it was."""
    if "log_det_cov_total_authors" in runs:
        runs = runs.assign(log_det_cov_per_dim_authors=runs["log_det_cov_total_authors"] / runs["latent_dim"])
    theirs = {
        "squared_mmd": "squared_mmd_authors",
        "log_det_cov_per_dim_test": "log_det_cov_per_dim_authors",
        "class_cross_entropy": "class_cross_entropy_authors",
        "svm_error_sampled": "svm_error_authors",
    }
    return runs.assign(**{ours: runs[column] for ours, column in theirs.items() if column in runs})


def ratios_to_mmd(runs: pd.DataFrame, column: str, paired: bool = True) -> dict[str, tuple[float, ...]]:
    """Return objective -> MMD's squared MMD divided by its own, with the ends of its 95 % interval.

    Paired by seed, or by Welch's interval over all seeds. Of what is within the error of the estimate the ratio says
    nothing: such an interval is very wide.
    """
    logs = {
        name: np.log(metric.abs().clip(lower=LEAST_SQUARED_MMD)) for name, metric in used_by_seed(runs, column).items()
    }
    found = {}
    for name, log in logs.items():
        pairs = (logs["mmd"] - log).dropna() if name != "mmd" and "mmd" in logs else log[:0]
        if len(pairs) >= SEEDS_FOR_INTERVAL:
            mean, half = pairs.mean(), half_width(pairs)
            ends = (mean - half, mean + half) if paired else welch(logs["mmd"], log)[:2]
            found[name] = tuple(float(np.exp(x)) for x in (np.mean(ends), *ends))
    return found


def compare_to_prior(runs: pd.DataFrame) -> pd.DataFrame:
    """Return each objective's squared MMD in each of `WAYS`, and by how much MMD's is larger or smaller, in words."""
    short = dict(
        zip(WAYS, ("test images", "validation images", "authors’ way", "grey, running statistics"), strict=True)
    )
    rows = []
    for objective in used_by_seed(runs, "squared_mmd"):
        row = {"objective": objective, "seeds": str(runs.loc[runs["objective"] == objective, "seed"].nunique())}
        for way, column in WAYS.items():
            metric, ratio = used_by_seed(runs, column).get(objective), ratios_to_mmd(runs, column).get(objective)
            row[short[way]] = "–" if metric is None else say(metric)
            low, middle, high = map(format_number, ratio[1:2] + ratio[:1] + ratio[2:]) if ratio else ("", "–", "")
            row[f"MMD’s / it, {short[way]}"] = f"{middle} ({low} to {high})" if ratio else middle
        rows.append(row)
    return pd.DataFrame(rows)


def excess_on_test_images(runs: pd.DataFrame) -> str:
    """What the test images add."""
    known = finished(runs, "squared_mmd", "squared_mmd_validation").dropna(subset="squared_mmd_validation")
    known = known[known["objective"] == "mmd"]
    if known.empty or set(known["dataset"]) != {"mnist"}:
        return ""
    test, validation = (say(known[column]) for column in ("squared_mmd", "squared_mmd_validation"))
    text = (
        f"MMD’s squared MMD, in {say_dimensions(known)}, is {validation} on 5,000 validation images and {test} on the "
        "10,000 test images. Neither are trained on."
    )
    excess = known["squared_mmd"] - known["squared_mmd_validation"]
    if len(excess) < SEEDS_FOR_INTERVAL:
        return text
    text += f" The difference is {say_interval(excess)}, with its 95 % interval over seeds."
    if excess.mean() > half_width(excess):
        text += (
            " MNIST’s test images are a set of their own; validation images are from the same set as training images."
        )
    return text


def batch_statistics(runs: pd.DataFrame) -> str:
    """Whose statistics normalise the codes that are measured."""
    columns = ["squared_mmd", "squared_mmd_grey", "squared_mmd_authors"]
    known = finished(runs, *columns).dropna(subset=columns)
    known = known[(known["objective"] == "mmd") & (known["encoder_norm"] == "batch")]
    if known.empty:
        return ""
    ours, running, batch = (say(known[column]) for column in columns)
    return (
        "Models are trained on binarised images, each pixel drawn as 0 or 1. The authors’ code measures on grey ones, "
        "and its batch normalisation has no evaluation mode: 100 images at a time are normalised by their own "
        f"statistics. MMD’s squared MMD ({count_seeds(known)}) is {batch} on grey images so normalised, {running} on "
        f"the same images with the running statistics of training, and {ours} on binarised test images with these."
    )


def compare_ways(runs: pd.DataFrame) -> pd.DataFrame:
    """Return, a row per objective, what is measured soundly beside the same measured the authors' way."""
    pairs = {
        "squared MMD": ("squared_mmd", "squared_mmd_authors", 1.0),
        "log det Cov[q(z)] / dim": ("log_det_cov_per_dim_test", "log_det_cov_per_dim_authors", 1.0),
        "class cross-entropy, nats": ("class_cross_entropy", "class_cross_entropy_authors", 1.0),
        "error of the authors’ SVM on a draw of z, %": ("svm_error_rbf_sampled", "svm_error_authors", 100.0),
    }
    runs = with_log_det_authors(runs)
    rows = []
    for objective, group in by_objective(runs):
        row = {"objective": objective, "seeds": str(group["seed"].nunique())}
        for words, (ours, theirs, factor) in pairs.items():
            for column, way in ((ours, "ours"), (theirs, "authors’ way")):
                row[f"{words}: {way}"] = format_number(factor * group[column].mean()) if column in group else "–"
        rows.append(row)
    return pd.DataFrame(rows)
