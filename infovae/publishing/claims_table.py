"""The ledger of statements as people read it: in the quantities that were measured, not in the ratios that were judged.

How a verdict follows is `infovae.claims.verdicts`; `claims.csv` has the numbers that it rests on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import pandas as pd
from IPython.display import Markdown

from infovae.claims.intervals import LEVEL
from infovae.claims.statements import MATCHED, USE_AND_MATCH, ledger
from infovae.labels import as_markdown, format_number
from infovae.publishing.report import Published
from infovae.publishing.site import SYMBOLS
from infovae.publishing.tables import show_table
from infovae.publishing.ways import the_authors_way


class Part(NamedTuple):
    """One of several things that a statement asks: what was measured, what is needed, and its value of an effect."""

    metric: str
    needed: str
    value: Callable[[float], float] = float


def _squared_mmd(effect: float) -> float:
    """Undo the effect of `statements.used_and_matched`."""
    return MATCHED * (1 - math.log(effect))


_SPREAD = "log det Cov[q(z)] / dim, training images"
PARTS = {
    "information": Part("I(x;z), nats", "above 1"),
    "read": Part("nats that the reconstruction loses with a draw of the prior in place of the code", "above 1"),
    "match": Part("squared MMD of q(z) and p(z)", f"below {MATCHED:g}", _squared_mmd),
    "least": Part(f"{_SPREAD}: with the fewest", "above 0.1"),
    "excess": Part(f"{_SPREAD}: with the fewest less with the most", "above 0.1"),
    "not wider": Part(_SPREAD, "below 0.1", lambda room: 0.1 - room),
    "not narrower": Part(_SPREAD, "above −0.1", lambda room: room - 0.1),
}
"""The first word of a condition -> what it asks. Effects of a statement must have one scale: these are ratios to a
bound, or what is left to it."""


def show_verdicts(experiment: str, runs: pd.DataFrame, history: pd.DataFrame) -> Markdown:
    """Return the statements that an experiment judges, by its runs alone."""
    claims = ledger({experiment: runs}, {experiment: history})
    return show_claims(claims[claims["experiment"] == experiment].drop(columns="p_ledger"))


def show_claims(claims: pd.DataFrame) -> Markdown:
    """Return a ledger for a notebook, a row per statement, in every word; what is decided stands first.

    A verdict is marked † that does not survive Holm's correction over all statements, where the claims have it.
    """
    if (claims["verdict"] == "not measured").all():
        return show_table(claims[:0])
    claims = claims.sort_values("verdict", key=lambda verdicts: verdicts.map(list(SYMBOLS).index), kind="stable")
    return show_table(pd.DataFrame([_row(claim) for _, claim in claims.iterrows()]))


def _row(claim: pd.Series) -> dict[str, str]:
    """Return what a reader sees of a statement; of one that asks several things the one that decides."""
    verdict, condition, why, where = (
        _text(claim[name]) for name in ("verdict", "condition", "open_because", "measured_in")
    )
    part, measured, needed = Part("", ""), str(claim["measured"]), str(claim["holds"])
    first, _, rest = condition.partition(", ")
    if first in PARTS:
        part, condition = PARTS[first], rest
        whose = measured.partition(": ")[0]
        measured = (f"{whose[3:]}: " if whose.startswith("of ") else "") + part.metric
        needed = part.needed
    ours, *ends, theirs = (part.value(claim[name]) for name in ("mean", "ci95_low", "ci95_high", "authors"))
    low, high = map(format_number, sorted(ends))
    by_seed = [format_number(part.value(float(effect))) for effect in _text(claim["by_seed"]).split()]
    partly = {"reproduced": f" for {where}; the others were not run", "not reproduced": f" for {where}"}
    unsure = verdict in partly and claim.get("p_ledger", 0) >= LEVEL
    return {
        "verdict": f"{SYMBOLS[verdict]} {verdict}"
        + (" †" if unsure else "")
        + (f": {why}" if why else "")
        + (partly.get(verdict, "") if where else ""),
        "statement": claim["statement"],
        "ours, with 95 % interval": f"{format_number(ours)} ({low} to {high})" if low != "–" else format_number(ours),
        "needed": needed,
        "authors": format_number(theirs),
        "measured": measured,
        "decisive condition": condition or "–",
        "by seed": " · ".join(by_seed) or "–",
        "source": claim["source"],
    }


def show_both_ways(claims: pd.DataFrame, published: Mapping[str, Published]) -> Markdown:
    """Return each statement that the authors' way of measuring moves: its verdict and decisive condition by both ways.

    `claims` are by our way.
    """
    judged = {name: published[name] for name in ("divergence_comparison", "semi_supervised") if name in published}
    runs = {name: the_authors_way(found.runs) for name, found in judged.items()}
    theirs = ledger(runs, {name: found.history for name, found in judged.items()}).set_index("claim")
    ours = claims[claims["experiment"].isin(list(judged))].set_index("claim")
    rows = []
    for name in ours.index[ours["verdict"] != "not measured"]:
        both = [_row(frame.loc[name].drop("p_ledger")) for frame in (ours, theirs)]
        if both[0] == both[1]:
            continue
        row = {"statement": ours.loc[name, "statement"], "needed": both[0]["needed"]}
        for way, found in zip(("ours", "the authors’ way"), both, strict=True):
            decisive = "" if found["decisive condition"] == "–" else f", {found['decisive condition']}"
            row |= {f"verdict, {way}": found["verdict"], way: found["ours, with 95 % interval"] + decisive}
        rows.append(row)
    return show_table(pd.DataFrame(rows)) if rows else Markdown("No statement is moved by it.")


def _text(cell: object) -> str:
    """Return a cell of the ledger as text: of a file an empty one is NaN."""
    return "" if cell != cell else str(cell)


def show_course(claims: pd.DataFrame) -> Markdown:
    """Return, of each statement that was watched during training, its decisive condition on the way.

    Of what the intervals confirmed, the least favourable condition at each time.
    """
    watched = claims[claims["at_half"].notna()]
    columns = {"after a quarter": "at_quarter", "after a half": "at_half", "at the end": "at_end"}
    readable = {words: watched[column].map(format_number) for words, column in columns.items()}
    turned = watched["turned"].map({True: "yes", False: "no"})
    # what the decoder reads of a code is not watched
    least = ": the lesser of I(x;z) / 1 nat and exp(1 − squared MMD / 0.08), 2.72 at a match"
    measured = watched["measured"].str.replace(USE_AND_MATCH, least).str.replace(", test images", "")
    words = {"statement": watched["statement"], "on validation images": measured, "needed": watched["holds"]}
    return show_table(pd.DataFrame({**words, **readable, "changed its side": turned}))


def summarize(claims: pd.DataFrame) -> str:
    """Return the ledger in Markdown: how many statements have which verdict, and which are not reproduced."""
    counts = claims["verdict"].value_counts()
    text = f"Of {len(claims)} statements: {', '.join(f'{counts.get(verdict, 0)} {verdict}' for verdict in SYMBOLS)}."
    in_part = claims[(claims["verdict"] == "reproduced") & (claims["measured_in"].fillna("") != "")]
    if len(in_part):
        text += f" {len(in_part)} of those reproduced name more conditions than were run; the table says which were."
    decided = claims[claims["verdict"].isin(["reproduced", "not reproduced"])]
    if len(decided):
        n_sure = int((decided["p_ledger"] < LEVEL).sum())
        text += f" {n_sure} of the {len(decided)} verdicts survive Holm’s correction over all statements."
        text += " The others have a † in the table." if n_sure < len(decided) else ""
    refuted = [
        row["statement"] + ("" if row["p_ledger"] < LEVEL else " (This does not survive that correction.)")
        for _, row in claims[claims["verdict"] == "not reproduced"].iterrows()
    ]
    return "\n- ".join([as_markdown(text) + (" Not reproduced:\n" if len(refuted) else ""), *map(as_markdown, refuted)])
