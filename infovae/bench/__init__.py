"""What the package costs, beside its peers: `make bench` measures every row in one run, ours and theirs by turns.

Owns the harness, its table and its figure; the rows are in `rows`, the peers' models in `peers`, which alone needs what
`.venv-bench` has and the project's own environment has not. Everything is measured on the CPU; a GPU is not asked.
"""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import statistics
import textwrap
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Measure = Callable[[], float]
"""Does the work once and returns what was measured, in the row's unit."""

RATES = ("images/s", "GFLOP/s", "share")
"""Units of which more is better; of all others less is."""


@dataclass(frozen=True)
class Row:
    """One line of the table: what is measured, against what, and what it should come to.

    Attributes
    ----------
    prepare : does the slow set-up; returns how ours is measured and, where there is a peer, how theirs is.
    peer : what ours is measured against; "" for nothing.
    aim, floor : with a peer, of the ratio "how many times as good as theirs"; without, of our own value.
    note : how the comparison is made and, where the goal is out of reach, what was tried and what the limit is.
    repeats : how many times ours and theirs are measured, by turns; above 1 after a first time that does not count.
    varied : the parameter that a series of rows varies, and its value in this one.
    """

    name: str
    unit: str
    prepare: Callable[[], Sequence[Measure]]
    peer: str = ""
    aim: float | None = None
    floor: float | None = None
    note: str = ""
    repeats: int = 3
    varied: tuple[str, float] | None = None

    def ratio(self, ours: float, theirs: float) -> float:
        """Return how many times as good ours is: above 1 where ours is better, whatever the unit."""
        return ours / theirs if self.unit in RATES else theirs / ours

    def verdict(self, value: float) -> str:
        """Judge a ratio (with a peer) or our own value (without); "" for a row that has neither aim nor floor."""
        sign = 1 if self.peer or self.unit in RATES else -1
        if self.aim is not None and sign * value >= sign * self.aim:
            return "aim met"
        if self.floor is None:
            return "" if self.aim is None else "below the aim"
        return "floor met" if sign * value >= sign * self.floor else "missed"


class Measured(NamedTuple):
    """A row's medians, and the median, least and largest ratio of the pairs measured one after the other."""

    row: Row
    ours: float
    theirs: float = math.nan
    ratio: float = math.nan
    ratio_min: float = math.nan
    ratio_max: float = math.nan

    @property
    def verdict(self) -> str:
        """The verdict of `Row.verdict`."""
        return self.row.verdict(self.ratio if self.row.peer else self.ours)


def measure(row: Row) -> Measured:
    """Measure a row: ours, theirs, ours, theirs, ... so that a machine that slows down slows both."""
    measures = row.prepare()
    rounds = [[once() for once in measures] for _ in range(row.repeats + (row.repeats > 1))][-row.repeats :]
    medians = [statistics.median(values) for values in zip(*rounds, strict=True)]
    if len(measures) == 1:
        return Measured(row, medians[0])
    ratios = [row.ratio(*pair) for pair in rounds]
    return Measured(row, medians[0], medians[1], statistics.median(ratios), min(ratios), max(ratios))


def run(folder: Path, only: str = "") -> pd.DataFrame:
    """Measure every row, print each as it comes, write `bench.csv` and `bench.png` into a folder.

    Parameters
    ----------
    only : measure just the rows whose name contains this, and write nothing.

    Raises
    ------
    RuntimeError
        Where pythae is not installed.
    """
    if importlib.util.find_spec("pythae") is None:
        raise RuntimeError("pythae is not installed here: `make bench` makes an environment that has it")
    from infovae.bench import rows
    from infovae.notebooks import make_folder
    from infovae.store import write_atomically

    os.environ["INFOVAE_DEVICE"] = "cpu"
    make_folder(folder)
    rows.keep_freed_memory()
    start, machine = time.perf_counter(), describe_machine()
    print(machine, flush=True)
    measured = []
    for row in rows.make_rows():
        if only.lower() in row.name.lower():
            measured.append(measure(row))
            print(to_text(measured[-1]), flush=True)
    print(f"measured in {(time.perf_counter() - start) / 60:.1f} minutes")
    table = to_table(measured, machine)
    if not only:
        write_atomically(folder / "bench.csv", table.to_csv(index=False, float_format="%.4g").encode())
        plot_bench(table).savefig(folder / "bench.png", dpi=200)
    return table


def to_text(measured: Measured) -> str:
    """Return a measured row as a line for the terminal; its note below where it falls short."""
    row, verdict = measured.row, measured.verdict
    values = f"{measured.ours:9.4g} {row.unit}"
    goal = f"limit {row.floor:g}" if row.floor else ""
    if row.peer:
        values += f" | {measured.theirs:9.4g}"
        goal = f"{measured.ratio:.2f}x ({measured.ratio_min:.2f} to {measured.ratio_max:.2f})"
    line = f"{row.name:<60} {values:<31} {goal:<24} {verdict}".rstrip()
    why = textwrap.wrap(row.note, 116) if verdict in ("missed", "below the aim") else []
    return "\n    ".join([line, *why])


def to_table(measured: Sequence[Measured], machine: str) -> pd.DataFrame:
    """Return one line per row: the columns of bench.csv."""
    import pandas as pd

    return pd.DataFrame(
        {
            "name": m.row.name,
            **{column: getattr(m, column) for column in ("ours", "theirs", "ratio", "ratio_min", "ratio_max")},
            **{column: getattr(m.row, column) for column in ("unit", "aim", "floor")},
            "verdict": m.verdict,
            "parameter": m.row.varied[0] if m.row.varied else "",
            "value": m.row.varied[1] if m.row.varied else math.nan,
            "peer": m.row.peer,
            "note": m.row.note,
            "machine": machine,
        }
        for m in measured
    )


def plot_bench(table: pd.DataFrame) -> Figure:
    """Return ratios with spread, aim and floor; our own values as shares of their limits; how a step's cost grows."""
    from matplotlib.figure import Figure

    from infovae.labels import label

    blue, red, green = "#0072B2", "#D55E00", "#009E73"
    ratios = table[table["ratio"].notna()][::-1].reset_index(drop=True)
    limits = table[table["ratio"].isna() & table["floor"].notna()][::-1].reset_index(drop=True)
    growth = table[table["parameter"] != ""]
    names = list(dict.fromkeys(growth["parameter"])) or [""]
    heights = [0.3 * len(ratios) + 0.8, 0.25 * len(limits) + 0.8, 2.6]
    figure = Figure(figsize=(9, sum(heights) + 0.3), layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(str(table["machine"].iloc[0]), 130)), fontsize=8)
    above, middle, below = figure.subfigures(3, 1, squeeze=False, height_ratios=heights)[:, 0]

    ax = above.subplots()
    spread = [ratios["ratio"] - ratios["ratio_min"], ratios["ratio_max"] - ratios["ratio"]]
    ax.errorbar(ratios["ratio"], ratios.index, xerr=spread, fmt="o", color=blue, ms=5, capsize=2)
    for column, color in (("floor", red), ("aim", green)):
        ax.plot(ratios[column].astype(float), ratios.index, "|", color=color, ms=14, mew=2, label=column)
    ax.axvline(1, color="0.5", lw=0.6)
    ax.set(xscale="log", xlabel="ours against theirs: median, least and largest ratio", ylim=(-0.6, len(ratios) - 0.4))
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(frameon=False, fontsize=8)
    ax.set_yticks(ratios.index, ratios["name"], fontsize=7)

    ax = middle.subplots()
    ax.barh(limits.index, limits["ours"] / limits["floor"].astype(float), color=blue, height=0.6)
    ax.axvline(1, color=red, lw=1.5)
    ax.set(xlabel="our own values, limit = 1 (a share should reach it, the others should stay below)")
    labels = [f"{row.name}: {row.ours:.4g} {row.unit}" for row in limits.itertuples()]
    ax.set_yticks(limits.index, labels, fontsize=7)

    panels = below.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for ax, name in zip(panels, names, strict=True):
        of_name = growth[growth["parameter"] == name]
        ax.plot(of_name["value"], of_name["ours"], "o-", color=blue, ms=4)
        ax.set_xlabel(label(name))
        if of_name["value"].max() > 1000:
            ax.set_xscale("log")
    panels[0].set_ylabel("ms per step of training")
    panels[0].set_ylim(bottom=0)
    return figure


def describe_machine() -> str:
    """Return the processor, its cores, what a matrix product reaches on it, and torch's version."""
    import torch

    from infovae.bench.rows import matrix_product_rate
    from infovae.sweep import count_workers

    processor, n = platform.processor() or platform.machine(), count_workers()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), processor)
    peaks = ", ".join(f"{matrix_product_rate(threads):.0f} on {threads}" for threads in sorted({1, n}))
    return (
        f"{processor}, {n} cores, float32 matrix product in GFLOP/s by threads: {peaks}; "
        f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}, {platform.system()}"
    )
