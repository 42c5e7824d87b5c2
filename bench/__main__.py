"""`make bench`: measures every row, ours and theirs by turns, and writes results/bench.csv and results/bench.png."""

from __future__ import annotations

import argparse
import platform
import statistics
import textwrap
import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from matplotlib.figure import Figure

from bench.rows import Row, count_workers, make_rows, matrix_product_rate
from infovae.paths import results_root
from infovae.runs.store import write_atomically


def measure(row: Row) -> dict[str, Any]:
    """Return a line of the table: medians, and the median, least and largest ratio of measurements made in turn."""
    more_is_better = row.unit in ("images/s", "share")
    measures = [row.ours, row.theirs] if row.theirs else [row.ours]
    rounds = [[once() for once in measures] for _ in range(row.repeats + (row.repeats > 1))][-row.repeats :]
    line: dict[str, Any] = {"name": row.name, "unit": row.unit, "aim": row.aim, "floor": row.floor}
    line |= dict(zip(("ours", "theirs"), map(statistics.median, zip(*rounds, strict=True)), strict=False))
    value, sign = line["ours"], 1 if more_is_better else -1
    if row.theirs:
        ratios = [ours / theirs if more_is_better else theirs / ours for ours, theirs in rounds]
        value, sign = statistics.median(ratios), 1
        line |= {"ratio": value, "ratio_min": min(ratios), "ratio_max": max(ratios)}
    goals = {"aim met": row.aim, "floor met": row.floor}
    met = [verdict for verdict, goal in goals.items() if goal is not None and sign * value >= sign * goal]
    return line | {"verdict": met[0] if met else "missed"}


def run(rows: list[Row], machine: str, folder: Path, only: str) -> None:
    """Measure the rows whose name contains `only`, print each; where that is all of them, write table and figure."""
    print(machine, flush=True)
    start, lines = time.perf_counter(), []
    for row in rows:
        if only.lower() in row.name.lower():
            lines.append(measure(row))
            text = "{name:<76} {ours:9.4g} {unit:<9}" + ("{theirs:9.4g} {ratio:8.2f}x  " if row.theirs else " " * 20)
            print((text + "{verdict}").format(**lines[-1]), flush=True)
    print(f"measured in {(time.perf_counter() - start) / 60:.1f} minutes")
    if not only:
        table = pd.DataFrame(lines).assign(machine=machine)
        write_atomically(folder / "bench.csv", table.to_csv(index=False, float_format="%.4g").encode())
        plot(table[table["ratio"].notna()], machine).savefig(folder / "bench.png", dpi=200)


def plot(table: pd.DataFrame, title: str) -> Figure:
    """Return the ratios, from the least to the largest of each row, with their aims and floors."""
    table = table[::-1].reset_index(drop=True).astype({"aim": float, "floor": float})
    figure = Figure(figsize=(9, 0.3 * len(table) + 1.5), layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, 130)), fontsize=8)
    ax = figure.subplots()
    ax.hlines(table.index, table["ratio_min"], table["ratio_max"], color="#0072B2")
    for column, marker, color in (("ratio", "o", "#0072B2"), ("floor", "|", "#D55E00"), ("aim", "|", "#009E73")):
        ax.plot(table[column], table.index, marker, color=color, ms=5 if marker == "o" else 14, label=column)
    ax.axvline(1, color="0.5", lw=0.6)
    ax.set(xscale="log", xlabel="how many times as good as the peer: median, least and largest ratio")
    ax.xaxis.set_major_formatter("{x:g}")
    ax.set_yticks(table.index, table["name"], fontsize=7)
    ax.legend(frameon=False, fontsize=8)
    return figure


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", default="", metavar="TEXT", help="the rows whose name contains this; writes nothing")
    arguments = parser.parse_args()
    rates = {precision: matrix_product_rate(precision, 1024) / 1e9 for precision in ("float32", "bfloat16")}
    machine = (
        f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}, {count_workers()} cores; GFLOP/s of a "
        f"matrix product on one: {rates['float32']:.0f} in float32, {rates['bfloat16']:.0f} in bfloat16; "
        f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}, {platform.system()}"
    )
    run(make_rows(rates["bfloat16"] > rates["float32"]), machine, results_root(), arguments.only)
