"""No claim is lost on the way to its readers, and what they see at once is what was decided."""

from pathlib import Path

import pandas as pd

from infovae.experiments import MODULES
from infovae.ledger import OURS, compare_ledgers, group_claims, mark, tabulate_verdicts
from infovae.old_claims import CLAIMS, TUNED, ledger


def test_ledger_is_grouped_and_no_claim_is_lost() -> None:
    groups = group_claims(claims := ledger({}))
    assert sum(len(group["rows"]) for group in groups) == len(claims)
    assert [group["name"] for group in groups] == [
        *(name for name in MODULES if name not in ("tuning", "sensitivity")),
        "identities",
    ]
    assert groups[0]["counts"] == "5 not measured" and groups[-1]["counts"] == "3 exact"
    assert set(groups[0]["frame"]["verdict"]) == {"– not measured"}


def test_ledgers_of_other_profiles_stand_beside_where_one_decides(tmp_path: Path) -> None:
    claims = pd.DataFrame(
        {"claim": list("abc"), "statement": list("ABC"), "verdict": ["inconclusive", "reproduced", "exact"]}
    )
    assert compare_ledgers("laptop", tmp_path, claims).empty
    (tmp_path / "quick").mkdir()
    claims.assign(verdict=["inconclusive", "not reproduced", "exact"]).to_csv(tmp_path / "quick" / "claims.csv")
    (tmp_path / "smoke").mkdir()
    claims.assign(verdict="reproduced").to_csv(tmp_path / "smoke" / "claims.csv")
    (tmp_path / "laptop").mkdir()
    claims.assign(verdict="reproduced").to_csv(tmp_path / "laptop" / "claims.csv")  # of an earlier run
    assert compare_ledgers("laptop", tmp_path, claims).to_dict("list") == {
        "claim": ["B"], "quick": ["not reproduced"], "laptop": ["reproduced"]
    }  # fmt: skip


def test_decided_statements_stand_once_with_both_verdicts() -> None:
    claims = pd.DataFrame(
        {
            "claim": list("abcdef"),
            "statement": ["A", f"A{TUNED}", "B", f"C{TUNED}", "D", "E"],
            "source": "paper",
            "verdict": ["inconclusive", "reproduced", "not reproduced", "not reproduced", "not measured", "exact"],
        }
    )
    assert tabulate_verdicts(claims).to_dict("records") == [
        {"claim": "A [paper]", "verdict": "? inconclusive", OURS: "✓ reproduced"},
        {"claim": "B [paper]", "verdict": "✗ not reproduced", OURS: "–"},
        {"claim": "C [paper]", "verdict": "–", OURS: "✗ not reproduced"},
    ]
    assert tabulate_verdicts(ledger({})).empty


def test_no_two_claims_fall_into_one_cell() -> None:
    cells = [(claim.statement.removesuffix(TUNED), claim.status, claim.statement.endswith(TUNED)) for claim in CLAIMS]
    assert len(set(cells)) == len(cells)
    claims = ledger({}).assign(verdict="reproduced")
    shown = tabulate_verdicts(claims)
    assert (shown[["verdict", OURS]] == mark("reproduced")).to_numpy().sum() == len(claims)
