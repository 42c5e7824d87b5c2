"""Numbers of several runs in words."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from infovae.claims.intervals import LEVEL, SEEDS_FOR_INTERVAL, half_width, holm, p_value, welch
from infovae.config import EMPTY_CODE
from infovae.labels import format_number, join, objective_name
from infovae.plotting import count_seeds


def capitalise(words: str) -> str:
    """Return words as they stand at the beginning of a sentence."""
    return words[:1].upper() + words[1:]


def say(values: pd.Series) -> str:
    """Return the mean of the runs, with the least and the largest where they differ."""
    mean, low, high = (format_number(value) for value in (values.mean(skipna=False), values.min(), values.max()))
    return mean if low == high else f"{mean} ({low} to {high})"


def say_information(values: pd.Series) -> str:
    """Return I(x;z) with its unit, and whether all the codes are empty."""
    return f"{say(values)} nats" + (" (empty)" if (values < EMPTY_CODE).all() else "")


def say_match(runs: pd.DataFrame) -> str:
    """Return I(x;z), squared MMD and log det of some runs."""
    squared_mmd, log_det = say(runs["squared_mmd"]), say(runs["log_det_cov_per_dim_test"])
    return f"I(x;z) {say_information(runs['mutual_information'])}; squared MMD {squared_mmd}; log det / dim {log_det}"


def say_dimensions(runs: pd.DataFrame) -> str:
    """Return the latent dimension of some runs that share it, and how many seeds they have."""
    return f"{runs['latent_dim'].max():g} dimensions ({count_seeds(runs)})"


def say_interval(values: pd.Series) -> str:
    """Return the mean of one value per seed with its 95 % interval."""
    mean, half = values.mean(), half_width(values)
    return f"{format_number(mean)} ({format_number(mean - half)} to {format_number(mean + half)})"


def say_differences(by_seed: Mapping[str, pd.Series], reference: pd.Series) -> str:
    """Return each objective's metric less a reference, paired by seed, with its interval; empty where seeds are few."""
    pairs = {name: (metric - reference).dropna() for name, metric in by_seed.items()}
    said = {name: say_interval(pair) for name, pair in pairs.items() if len(pair) >= SEEDS_FOR_INTERVAL}
    return "; ".join(f"{objective_name(name)} {interval}" for name, interval in said.items())


def say_corrected(by_seed: Mapping[str, pd.Series], reference: pd.Series, paired: bool = False) -> str:
    """Return which of the differences of `say_differences` survive Holm's correction for all of them; empty where none.

    By Student's test of the pairs, and by Welch's test of all seeds unless `paired`: values of one seed that share no
    images need not vary together, and pairing them leaves out the seeds that one side lacks.
    """
    pairs = {name: (metric - reference).dropna() for name, metric in by_seed.items()}
    several = {name: pair for name, pair in pairs.items() if len(pair) >= SEEDS_FOR_INTERVAL}
    if len(several) < 2:
        return ""
    means = pd.Series({name: pair.mean() for name, pair in several.items()})
    tests = {"paired by seed": (means, pd.Series({name: p_value(pair) for name, pair in several.items()}))}
    if not paired:
        unpaired = pd.Series({name: welch(by_seed[name], reference)[2] for name in several})
        all_seeds = pd.Series({name: by_seed[name].mean() - reference.mean() for name in several})
        tests["not paired, all seeds (Welch)"] = all_seeds, unpaired
    said = {way: _say_decided(mean[holm(p) < LEVEL]) for way, (mean, p) in tests.items()}
    corrected = f"corrected for {len(several)} comparisons (Holm)"
    if len(set(said.values())) == 1:
        return f"{capitalise(' or '.join(said))}, and {corrected}: {next(iter(said.values()))}."
    first, second = (f"{way}: {sides}." for way, sides in said.items())
    return f"{capitalise(corrected)}, {first} {capitalise(second)}"


def _say_decided(differences: pd.Series) -> str:
    """Return the names of decided differences as "VAE below 0, Stein above"; "none is decided" without any."""
    sides = {"below 0": differences[differences < 0], "above 0": differences[differences > 0]}
    parts = [
        f"{join(objective_name(name) for name in found.index)} {side}" for side, found in sides.items() if len(found)
    ]
    return ", ".join(parts) or "none is decided"
