"""Numbers of several runs in words."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from infovae.claims.intervals import SEEDS_FOR_INTERVAL, half_width
from infovae.config import EMPTY_CODE
from infovae.labels import format_number, objective_name
from infovae.plotting import count_seeds


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
