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


def decide(by_seed: Mapping[str, pd.Series], reference: pd.Series, shared_images: bool = False) -> dict[str, pd.Series]:
    """Return which differences from a reference survive Holm's correction for all of them: test -> name -> difference.

    By Student's test of the pairs of one seed, and by Welch's test of all seeds unless the values of a seed
    `shared_images`: others need not vary together, and pairing them leaves out the seeds that one side lacks. Empty
    where nothing is compared.
    """
    pairs = {name: (metric - reference).dropna() for name, metric in by_seed.items()}
    several = [name for name, pair in pairs.items() if len(pair) >= SEEDS_FOR_INTERVAL]
    if not several:
        return {}
    paired = pd.DataFrame({name: [pairs[name].mean(), p_value(pairs[name])] for name in several}).T
    tests = {"paired by seed": paired}
    if not shared_images:
        differences = [by_seed[name].mean() - reference.mean() for name in several]
        p = [welch(by_seed[name], reference)[2] for name in several]
        tests["not paired (Welch, all seeds)"] = pd.DataFrame({0: differences, 1: p}, index=several)
    return {way: found[0][holm(found[1]) < LEVEL] for way, found in tests.items()}


def say_decided(by_seed: Mapping[str, pd.Series], reference: pd.Series, shared_images: bool = False) -> str:
    """Return what `decide` found as a part of a sentence; empty where nothing is compared."""
    found = decide(by_seed, reference, shared_images)
    said = [_say_sides(differences) for differences in found.values()]
    if not said:
        return ""
    ways = list(found)
    if len(set(said)) == 1:
        return f"after Holm’s correction, {' or '.join(ways)}: {said[0]}"
    return "after Holm’s correction, " + "; ".join(f"{way}: {sides}" for way, sides in zip(ways, said, strict=True))


def _say_sides(differences: pd.Series) -> str:
    """Return on which side of 0 differences lie, by the names of their objectives."""
    sides = {"below": differences[differences < 0], "above": differences[differences > 0]}
    parts = [
        f"{side} 0 {_be(found)} {join(map(objective_name, found.index))}" for side, found in sides.items() if len(found)
    ]
    return ", ".join(parts) or "none is decided"


def _be(things: pd.Series) -> str:
    return "is" if len(things) == 1 else "are"
