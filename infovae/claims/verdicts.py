"""How a verdict follows from the runs of several seeds: the rule for every claim.

A claim's function takes the runs of its experiment and returns one effect per seed and condition. An effect is NaN
where a run failed, or where the code is empty and its match would mean nothing.

The rule, for a statement about K conditions (a statement about an average has K = 1):

- Each condition has Student's interval over seeds. The statement is reproduced if every 95 % interval lies on the side
  where it holds: a test of the union of what would contradict it, of level 0.05 whatever K is.
- Any one condition may refute it, so refutations are tested simultaneously, by Holm's procedure over all K conditions:
  where the mean lies beyond the bound, p-value and interval are adjusted, those of the least p-value most.
  An interval beyond the bound refutes the statement. Else it is open.
- A condition with a NaN effect or a single seed has p = 1. It can neither confirm nor refute.
- The decisive condition is the first that refutes and stays (below), else the first that refutes. Where none does it is
  the one with the least p-value of those whose mean lies beyond the bound, else the one with the largest p-value of
  those that do not hold, of all if all hold.
- A verdict is open if the effect, as it is watched during training, changed its side of the bound in the second half,
  or was missing at half since a code was empty: of a refutation in the decisive condition, else in the least
  favourable. What is watched are validation images, at half and at the end. They stand for test images; a statement
  about training images is not watched.
- So is a verdict that more training may undo, either way: where the last doubling of the steps, or the one before,
  moved the effect towards the bound, and the faster of the two paces would take it across within the steps of the
  authors (`AUTHORS_STEPS`). In the last doubling the learning rate falls, and with it the pace.
- A statement that names more conditions than were run is judged in those that were: `measured_in` has them. A condition
  that was run in one or two seeds counts as not run where another was run in more: its other seeds are still to come.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from infovae.claims import authors
from infovae.claims.intervals import LEVEL, SEEDS_FOR_INTERVAL, half_width, holm, p_value
from infovae.data.sources import is_adopted

Source = Literal["summary", "authors' code", "second hand", "recalled"]
Verdict = Literal["reproduced", "not reproduced", "inconclusive", "not measured"]
Effects = pd.Series
"""Numbers by seed and conditions: the levels of the index."""

MMD_NOISE = 0.002
"""Of a squared MMD on the 500 validation images of most steps that are watched: 3 standard deviations in 10 dimensions,
1.6 in 2. At ten of the steps it is on 5,000 images."""

AUTHORS_STEPS = {"amortized_inference": 28_400}
"""Steps of the authors' training, by experiment; `AUTHORS_STEPS_ELSEWHERE` for the others that are watched."""

AUTHORS_STEPS_ELSEWHERE = 40_000

RUN_COLUMNS = (
    "run_id", "status", "seed", "dataset", "objective", "alpha", "lambda_", "latent_dim", "n_train", "binarization",
    "decoder", "decoder_min_std", "receptive_radius", "pixelcnn_layers", "encoder_norm", "steps",
)  # fmt: skip
"""Columns of a run that claims select by; all others are metrics."""

BATCH_TERMS = ("loss", "nll", "rate", "divergence", "lambda_")
"""Columns of a history that are of a training batch: `nll`, there, is the reconstruction and no bound on -log p(x)."""

WORDS: dict[str, Callable[[Any], str]] = {
    "latent_dim": "{:g} dimensions".format,
    "n_train": "{:,.0f} images".format,
    "receptive_radius": "radius {:g}".format,
    "binarization": {"none": "grey", "dynamic": "binarised", "static": "binarised once"}.__getitem__,
}
"""Level of the effects' index -> what a reader sees of its value; of others the value itself."""


@dataclass(frozen=True)
class Claim:
    """A statement, what is measured, and the side of the bound on which it holds.

    Attributes
    ----------
    source : where the statement was read: a published summary of the paper, the first author's public code, another
        public source, or memory (unverified).
    measured : what `effects` returns, with its unit.
    sign : +1 if the statement holds above the bound, -1 if below.
    log : effects are positive, and their logarithms are averaged and compared: for ratios and for I(x;z).
    over : the conditions that the statement names: a level of the effects' index, and its values; no values: more than
        one.
    """

    name: str
    statement: str
    experiment: str
    source: Source
    measured: str
    sign: int
    bound: float
    log: bool
    effects: Callable[[pd.DataFrame], Effects]
    over: tuple[str, tuple[float | str, ...]] | None = None

    def scale(self, values: Any) -> Any:
        """Return values on the scale on which they are averaged."""
        return np.log(values) if self.log else values

    def unscale(self, values: Any) -> Any:
        """Undo `scale`."""
        return np.exp(values) if self.log else values


def judge(claim: Claim, runs: pd.DataFrame | None, history: pd.DataFrame | None = None) -> dict[str, Any]:
    """Return a claim's row of the ledger from all runs of its experiment."""
    effects = enough_seeds(_measure(claim, runs, history))
    conditions = judge_conditions(claim, effects)
    watched = [enough_seeds(_measure(claim, runs, history, part)) for part in (0.25, 0.5, 1)]
    candidates = [(row, *_watch(claim, row, watched, runs)) for row in _decisive(conditions)]
    decisive, course, undone = next((found for found in candidates if not found[2]), candidates[0])
    verdict, why = ("inconclusive", undone) if undone else _verdict(decisive)
    if decisive.get("n_dropped") and runs is not None and runs["status"].str.startswith("failed").any():
        why = why.replace("code is empty", "code is empty or a run failed")
    condition = str(decisive.name) if len(decisive) else ""
    theirs = _measure(claim, authors.runs(claim.experiment), authors.history()).dropna()
    there = theirs if len(theirs) == 1 else theirs[_labels(theirs) == condition]
    return {
        "claim": claim.name,
        "statement": claim.statement,
        "source": claim.source,
        "experiment": claim.experiment,
        "measured": claim.measured,
        "holds": f"{'above' if claim.sign > 0 else 'below'} {claim.bound:g}",
        "condition": condition,
        "measured_in": _partly(claim, effects),
        "n_conditions": len(conditions),
        "authors": float(there.iloc[0]) if len(there) else math.nan,
        **{column: decisive.get(column, math.nan) for column in ("mean", "ci95_low", "ci95_high")},
        "by_seed": " ".join(f"{effect:.3g}" for effect in effects[_labels(effects) == condition]),
        "n_seeds": int(decisive.get("n_seeds", 0)),
        "n_dropped": int(conditions["n_dropped"].sum()),
        **dict(zip(("at_quarter", "at_half", "at_end"), course, strict=True)),
        "turned": _turned(claim, course),
        "p": decisive.get("p", math.nan),
        "verdict": verdict,
        "open_because": why,
    }


def every_condition(claim: Claim, runs: pd.DataFrame | None, history: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return a row for each condition of a claim, see `judge_conditions`; none where it was not measured."""
    found = judge_conditions(claim, enough_seeds(_measure(claim, runs, history)))
    found = found.rename_axis("condition").reset_index()
    found.insert(0, "claim", claim.name)
    return found


def _decisive(conditions: pd.DataFrame) -> list[pd.Series]:
    """Return the rows of the conditions that the verdict may rest on, the first if it can; an empty one if none is."""
    refuting, not_holding = conditions[conditions["side"] < 0], conditions[conditions["side"] <= 0]
    beyond, rows = conditions[conditions["beyond"]], not_holding if len(not_holding) else conditions
    weakest = beyond[:1] if len(beyond) else rows.sort_values("p", kind="stable")[-1:]
    found = refuting if len(refuting) else weakest
    return [row for _, row in found.iterrows()] or [pd.Series(dtype=float)]


Course = tuple[float, float, float]
"""An effect after a quarter and a half of the training, and at its end; NaN where it is not known."""


def _watch(claim: Claim, decisive: pd.Series, watched: list[Effects], runs: pd.DataFrame | None) -> tuple[Course, str]:
    """Return the course of a condition, and why it leaves a verdict open; an empty text where it does not.

    Of what is reproduced the course is that of the least favourable condition at each time.
    """
    if decisive.get("side", 0) <= 0:
        watched = [then[_labels(then) == decisive.name] if len(then) else then for then in watched]
    quarter, half, end = (_worst(claim, then) for then in watched)
    course = (quarter, half, end)
    if not decisive.get("side", 0):
        return course, ""
    if _turned(claim, course):
        whither = "" if decisive["side"] > 0 else ", against the statement"
        return course, f"its sign changed in the second half of training{whither}"
    if len(watched[1]) and math.isnan(half) and not math.isnan(end):
        return course, "a code was empty at half of training"
    holds = decisive["side"] > 0
    if _may_cross(claim, end if holds else decisive["mean"], course, runs):
        return course, f"it may {'not ' if holds else ''}hold after as many steps as the authors'"
    return course, ""


def _turned(claim: Claim, course: Course) -> bool:
    _, half, end = course
    return (half - claim.bound) * (end - claim.bound) < 0  # not where one is NaN


def _verdict(decisive: pd.Series) -> tuple[Verdict, str]:
    """Return the verdict by the decisive condition's interval, and why a statement is open."""
    if decisive.empty:
        return "not measured", ""
    if decisive["side"]:
        return ("reproduced" if decisive["side"] > 0 else "not reproduced"), ""
    if decisive["n_dropped"]:
        return "inconclusive", "a code is empty"
    return "inconclusive", "the interval holds the bound" if decisive["n_seeds"] > 1 else "one seed"


def _may_cross(claim: Claim, mean: float, course: Course, runs: pd.DataFrame | None) -> bool:
    """Return whether the faster pace of the last two doublings of the steps would take the mean across the bound."""
    if runs is None:
        return False
    steps = AUTHORS_STEPS.get(claim.experiment, AUTHORS_STEPS_ELSEWHERE)
    doublings = max(0.0, math.log2(steps / runs["steps"].max()))
    distance = claim.scale(claim.bound) - claim.scale(mean)
    paces = np.sign(distance) * np.diff(claim.scale(np.array(course)))
    return bool(np.fmax(*paces) * doublings > abs(distance))  # NaN where the history lacks both


def judge_conditions(claim: Claim, effects: Effects) -> pd.DataFrame:
    """Return a row per condition, the least p-value first: mean, interval, p-value, `side` and `beyond`.

    `side` is +1 where the interval lies where the claim holds, -1 where it lies beyond the bound, else 0; `beyond` says
    whether the mean does. There interval and p-value are adjusted by Holm's procedure.
    """
    groups = {name: group for name, group in claim.scale(effects).groupby(_labels(effects), sort=False)}
    raw = {n: 1.0 if g.isna().any() else p_value(g - claim.scale(claim.bound)) for n, g in groups.items()}
    rows = {}
    favour = {n: -math.inf if g.isna().any() else claim.sign * g.mean() for n, g in groups.items()}
    ranked = sorted(raw, key=lambda name: (raw[name], favour[name]))  # of equals the worst decides
    adjusted = holm(pd.Series({name: raw[name] for name in ranked}, dtype=float))
    for name in ranked:
        kept, mean = groups[name].dropna(), groups[name].mean()
        beyond = claim.sign * (mean - claim.scale(claim.bound)) < 0
        share = (raw[name] / adjusted[name] if adjusted[name] else 1 / len(raw)) if beyond else 1.0
        low, high = (mean + end * half_width(kept, LEVEL * share) for end in (-1, 1))
        numbers = {"mean": mean, "ci95_low": low, "ci95_high": high}
        rows[name] = {column: claim.unscale(number) for column, number in numbers.items()}
        rows[name] |= {"n_seeds": len(kept), "n_dropped": len(groups[name]) - len(kept)}
        rows[name]["p"] = adjusted[name] if beyond else raw[name]
        rows[name] |= {"side": -1 if beyond else 1, "beyond": beyond}
    columns = ["mean", "ci95_low", "ci95_high", "n_seeds", "n_dropped", "p", "side", "beyond"]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    frame["side"] = frame["side"].where(frame["p"] < LEVEL, 0)
    return frame.astype({"beyond": bool})


def enough_seeds(effects: Effects) -> Effects:
    """Return the effects without conditions of fewer seeds, failed ones counted, than others have, or than three."""
    if effects.empty:
        return effects
    n_seeds = effects.groupby(_labels(effects)).transform("size")
    return effects[n_seeds >= min(SEEDS_FOR_INTERVAL, n_seeds.max())]


def _labels(effects: Effects) -> pd.Index:
    """Return each effect's condition in words; empty for a claim without conditions."""
    levels = [(i, str(name)) for i, name in enumerate(effects.index.names) if name != "seed"]
    words = [effects.index.get_level_values(i).map(WORDS.get(name, str)) for i, name in levels]
    return pd.Index([", ".join(parts) for parts in zip(*words, strict=True)] if words else [""] * len(effects))


def _partly(claim: Claim, effects: Effects) -> str:
    """Return in words the conditions that were measured, where the statement names more; else an empty text."""
    if claim.over is None or effects.empty:
        return ""
    column, named = claim.over
    measured = sorted(set(effects.index.get_level_values(column)))
    if set(named) <= set(measured) and (named or len(measured) > 1):
        return ""
    return ", ".join(WORDS.get(column, str)(value) for value in measured)


def _worst(claim: Claim, effects: Effects) -> float:
    """Return the mean over seeds in the least favourable condition; NaN where an effect is."""
    if effects.empty or effects.isna().any():
        return math.nan
    means = claim.scale(effects).groupby(_labels(effects)).mean()
    return float(claim.unscale(claim.sign * (claim.sign * means).min()))


def _measure(
    claim: Claim, runs: pd.DataFrame | None, history: pd.DataFrame | None, fraction: float | None = None
) -> Effects:
    """Return a claim's effects; empty where they were not measured.

    With a fraction of the training, what was watched then on validation images takes the place of the evaluation.
    """
    try:
        if runs is None or (fraction and history is None) or runs["dataset"].map(is_adopted).any():
            raise KeyError  # the paper says nothing of a user's own images
        runs = runs[runs["status"] != "not run"]
        if history is not None:
            runs = rewind(runs, history, fraction) if fraction else add_course(runs, history)
        effects = claim.effects(runs).astype(float)
    except KeyError:  # the runs hold no such condition or metric
        return pd.Series(dtype=float, index=pd.Index([], name="seed"))
    assert effects.index.is_unique, f"{claim.name}: two runs for one seed and condition"
    return effects


# What runs looked like during training


def rewind(runs: pd.DataFrame, history: pd.DataFrame, fraction: float) -> pd.DataFrame:
    """Return the runs with the metrics that the history has after this fraction of their steps, and no others."""
    history = history.drop(columns=[name for name in BATCH_TERMS if name in history])
    near = history[(history["step"] - fraction * history["run_id"].map(runs.set_index("run_id")["steps"])).abs() <= 1]
    then = near.groupby("run_id").first()  # of each column the first number
    if "log_det_cov_per_dim" in then:
        then = then.rename(columns={"log_det_cov_per_dim": "log_det_cov_per_dim_test"})
    kept = runs[[column for column in RUN_COLUMNS if column in runs]]
    return kept.join(then[[column for column in then if column not in kept]], on="run_id")


def add_course(runs: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """Return the runs with `mmd_over_training` and `relative_jitter`, where the history has their squared MMD.

    The first is its average over the steps. The second is the standard deviation, over sqrt(2), of the changes from row
    to row of log(squared MMD + `MMD_NOISE`) in the second half of training. The estimate's own noise is in it: a code
    that does not move has about 0.15 in 10 dimensions, so that ratios are nearer to 1 than those of the codes. At half
    of the steps and at the end the estimate is on ten times as many images.
    """
    course = {}
    for run_id, rows in history.dropna(subset="squared_mmd").sort_values("step").groupby("run_id"):
        step, level = rows["step"].to_numpy(float), rows["squared_mmd"].abs()
        over_training = np.trapezoid(level, step) / (step[-1] - step[0]) if len(step) > 1 else math.nan
        course[run_id] = over_training, np.log(level[step >= step[-1] / 2] + MMD_NOISE).diff().std() / 2**0.5
    columns = ["mmd_over_training", "relative_jitter"]
    found = pd.DataFrame.from_dict(course, orient="index", columns=columns)
    return runs.drop(columns=columns, errors="ignore").join(found, on="run_id")
