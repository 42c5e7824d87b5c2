"""The ledger as people read it: in a sentence, as tables, beside the ledgers of other results.

How a verdict is reached is `infovae.verdicts`; the claims themselves are `infovae.claims`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from infovae.experiments import MODULES, experiment_class
from infovae.old_claims import TUNED
from infovae.old_verdicts import EMPTY_CODE, EMPTY_TOY_CODE, Verdict
from infovae.site import SYMBOLS
from infovae.tables import format_number

READING = (
    "A claim holds where its effect lies below its bound: reproduced if the whole 95 % interval over seeds does, not "
    f"reproduced if the interval lies above, else inconclusive. A code with I(x;z) below {EMPTY_CODE:g} nat (toy: "
    f"{EMPTY_TOY_CODE:g}) is empty: where a claim is about used codes, a seed with an empty one drops out, and the "
    "claim stays open. Statements and bounds stand in `infovae/claims.py`, the rule in "
    "`infovae/verdicts.py`, all of it in claims.csv. Sources: *paper*, confirmed in a second public source; *paper "
    "(recalled, unverified)*, from memory; *summary*, a published summary of the paper that this "
    "project started from."
)
"""How to read the ledger."""

PROFILES_COMPARED = ("quick", "laptop", "fashion", "paper")
"""Profiles whose verdicts are shown beside each other; `smoke` decides nothing."""

VERDICTS: tuple[str, ...] = get_args(Verdict)

DECIDED = ("reproduced", "not reproduced")

OURS = "with annealed λ (ours)"
"""Heads the verdicts on `mmd_annealed` where it stands in for the paper's MMD."""


def summarize(claims: pd.DataFrame) -> str:
    """Return the ledger in one sentence: how many claims have which verdict."""
    measured = claims[claims["experiment"].fillna("") != ""]
    counts = measured["verdict"].value_counts()
    exact = claims.drop(measured.index)["verdict"] == "exact"
    undecidable = int(((measured["verdict"] == "inconclusive") & (measured["n_dropped_seeds"] > 0)).sum())
    statements = measured["statement"].str.removesuffix(TUNED)
    n_twice = int(statements.duplicated().sum())
    return (
        f"Of {len(measured)} claims ({statements.nunique()} statements, {n_twice} of them judged on two kinds of MMD): "
        + ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in VERDICTS if verdict != "exact")
        + f"; {undecidable} of the inconclusive ones because a code is empty or a run failed. "
        f"Beside them, {exact.sum()} of {len(exact)} special cases hold exactly."
    )


def tabulate_verdicts(claims: pd.DataFrame) -> pd.DataFrame:
    """Return a row per statement that is decided: its verdict, and that of our annealed MMD in place of the paper's.

    A dash stands where there is no such claim. There is no row where nothing is decided.
    """
    rows: dict[str, dict[str, str]] = {}
    for claim in claims[claims["verdict"] != "exact"].to_dict("records"):
        statement = f"{claim['statement'].removesuffix(TUNED)} [{claim['source']}]"
        row = rows.setdefault(statement, {"verdict": "–", OURS: "–", "claim": statement})
        column = OURS if claim["statement"].endswith(TUNED) else "verdict"
        row[column] = mark(claim["verdict"])
    decided = {mark(verdict) for verdict in DECIDED}
    return pd.DataFrame([row for row in rows.values() if decided & {row["verdict"], row[OURS]}])


def mark(verdict: str) -> str:
    """Return a verdict behind its symbol."""
    return f"{SYMBOLS[verdict]} {verdict}"


def format_claims(claims: pd.DataFrame) -> pd.DataFrame:
    """Return the ledger's readable columns, what was decided first: verdict, statement, source, effect, interval, n."""
    claims = _sorted(claims)
    return pd.DataFrame(
        {
            "verdict": list(map(mark, claims["verdict"])),
            "claim": claims["statement"],
            "source": claims["source"],
            "effect (holds below the bound)": claims["effect"],
            "measured [95 % interval]": [format_measured(claim) for claim in claims.to_dict("records")],
            "bound": [format_number(bound) for bound in claims["bound"]],
            "seeds": claims["n_seeds"].astype(str),
            "seeds dropped": claims["n_dropped_seeds"].astype(str),
        }
    )


def group_claims(claims: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the ledger by experiment, each with title, count of verdicts in words, rows, and a readable frame."""
    titles = {name: experiment_class(name).title for name in MODULES} | {"": "Special cases, exact by construction"}
    groups = []
    for name, title in titles.items():
        group = _sorted(claims[claims["experiment"].fillna("") == name])
        if group.empty:
            continue  # an experiment that no claim rests on
        counts = group["verdict"].value_counts()
        groups.append(
            {
                "name": name or "identities",
                "title": title,
                "counts": ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if verdict in counts),
                "rows": [{**row, "measured": format_measured(row)} for row in group.to_dict("records")],
                "frame": format_claims(group),
            }
        )
    return groups


def _sorted(claims: pd.DataFrame) -> pd.DataFrame:
    return claims.sort_values("verdict", key=lambda verdicts: verdicts.map(VERDICTS.index), kind="stable")


def format_measured(claim: Mapping[Any, Any]) -> str:
    """Return a claim's effect with its interval, if it has one."""
    interval = (
        f" [{format_number(claim['ci95_low'])}, {format_number(claim['ci95_high'])}]" if claim["n_seeds"] > 1 else ""
    )
    return format_number(claim["mean"]) + interval


def compare_ledgers(profile: str, results: Path, claims: pd.DataFrame) -> pd.DataFrame:
    """Return the verdicts of each profile with results in a folder, a row for each claim that one of them decides.

    The profile's own are those of `claims`, wherever they stand. Empty if there is no other.
    """
    ledgers = {name: results / name / "claims.csv" for name in PROFILES_COMPARED}
    found = {name: pd.read_csv(path) for name, path in ledgers.items() if path.is_file()}
    verdicts = {name: other.set_index("claim")["verdict"] for name, other in found.items()}
    verdicts[profile] = claims.set_index("claim")["verdict"]
    if len(verdicts) < 2:
        return pd.DataFrame()
    side_by_side = pd.DataFrame(verdicts).reindex(claims.loc[claims["verdict"] != "exact", "claim"])
    decided = side_by_side[side_by_side.isin(DECIDED).any(axis=1)].fillna("not measured")
    return (
        decided.set_axis(claims.set_index("claim").loc[decided.index, "statement"]).rename_axis("claim").reset_index()
    )
