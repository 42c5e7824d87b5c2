"""Reports say what was computed; damaged results are refused by name."""

import json
import math
import re
from html import unescape
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rows import runs_of

from infovae.claims.statements import CLAIMS, ledger
from infovae.config import RunConfig
from infovae.experiments import MODULES, experiment_class, make_experiment, sensitivity
from infovae.labels import LABELS, OBJECTIVE_WORDS, as_markdown, format_mean
from infovae.paths import PROJECT_ROOT
from infovae.plotting import Captioned
from infovae.publishing.claims_table import show_both_ways, show_claims, show_course, summarize
from infovae.publishing.report import (
    Published,
    _load_history,
    compare_settings,
    describe_missing,
    format_command,
    list_deviations,
    load_published,
    publish,
    publish_page,
    require_published,
    show_published,
)
from infovae.publishing.site.markdown import markdown
from infovae.publishing.tables import WORDS, _latex_cell, format_table, preview, show_table, to_markdown, write_tables
from infovae.refusals import ParameterError
from infovae.reproduce import load_profile, parse_assignments, profile_names

COMMITTED = sorted(
    path.parent for path in (PROJECT_ROOT / "results").glob("*/claims.csv") if path.parent.name != "custom"
)


@pytest.mark.parametrize("profile", profile_names())
def test_command_gives_the_same_experiment(profile: str) -> None:
    for name, experiment in load_profile(profile).items():
        _, chosen, *parameters = re.fullmatch(
            r'(make run) EXPERIMENT=(\w+)(?: PARAMS="([^"]*)")?', format_command(experiment)
        ).groups()  # type: ignore[union-attr]
        assert chosen == name
        assert make_experiment(name, parse_assignments([text for text in parameters if text])) == experiment


def test_command_has_what_was_changed_and_not_what_follows_from_the_data() -> None:
    assert format_command(make_experiment("family", {})) == "make run EXPERIMENT=family"
    experiment = make_experiment("family", {"dataset": "digits", "n_train": 500})
    assert format_command(experiment) == 'make run EXPERIMENT=family PARAMS="dataset=digits n_train=500"'


def test_figures_are_published_with_their_words(tmp_path: Path) -> None:
    figure = Captioned().captioned([1], "how to read it")
    figure.subplots().set_title("what it shows")
    runs = pd.DataFrame({"receptive_radius": [4], "objective": ["mmd"], "alpha": 1.0, "lambda_": 1.0, "status": "done"})
    publish(make_experiment("latent_usage", {}), runs, {"b": figure, "a": figure}, str(tmp_path))
    captions = json.loads((tmp_path / "captions.json").read_text(encoding="utf-8"))
    assert list(captions) == ["b", "a"] and captions["a"]["alt"] == "1 panel: what it shows. how to read it"
    assert (tmp_path / "a.png").read_bytes() == figure.to_png()


def test_page_of_a_notebook_that_is_no_experiment_is_a_table_and_figures(tmp_path: Path) -> None:
    table, figures = pd.DataFrame({"a": [1.5]}), {"codes": Captioned()}
    publish_page(table, figures, "")
    publish_page(table, figures, str(tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"codes.png", "table.csv"}
    assert (tmp_path / "table.csv").read_text() == "a\n1.5\n"


@pytest.mark.parametrize("content", ["{", "[]", '{"a": {}}', '{"a": 1}', '{"a": {"alt": "", "caption": ""}}'])
def test_damaged_captions_are_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(ParameterError, match=r"captions\.json is damaged"):
        show_published(tmp_path)


@pytest.mark.parametrize("damage", ["parameters.json", "runs.csv"])
def test_damaged_results_are_refused_by_name(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "latent_usage"
    folder.mkdir()
    experiment = make_experiment("latent_usage", {})
    (folder / "parameters.json").write_text(json.dumps(experiment.model_dump(mode="json")))
    (folder / "runs.csv").write_text("run_id,status,seed\nx,done,0\n")
    assert set(load_published(tmp_path)) == {"latent_usage"}
    (folder / damage).write_text("{")
    with pytest.raises(ParameterError, match="latent_usage"):
        load_published(tmp_path)


def test_report_without_results_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="make reproduce PROFILE=quick"):
        require_published("quick", tmp_path)


def test_missing_runs_are_said_by_experiment_reason_and_condition() -> None:
    wanted = {name: make_experiment(name, {}) for name in ("divergence_comparison", "latent_usage")}
    runs = pd.DataFrame(
        {
            "status": ["done", "not run", "failed: <b>"],
            "latent_dim": [10, 40, 10],
            "objective": ["mmd", "mmd", "stein"],
        }
    )
    published = {"divergence_comparison": Published(wanted["divergence_comparison"], runs, pd.DataFrame())}
    assert describe_missing(published, wanted, ["paper"]).splitlines() == [
        "- Latent usage: no run of it.",
        "- Divergence comparison: 2 of 3 runs have no result (1 not run, 1 failed: \\<b>); none for latent dimension "
        "40; none for objective Stein.",
        "- No results of these profiles are published: paper.",
    ]
    variants = pd.DataFrame({"status": ["done", "not run"], "variant": ["mmd", "jensen_784"], "objective": "mmd"})
    sensitive = make_experiment("sensitivity", {})
    said = describe_missing(
        {"sensitivity": Published(sensitive, variants, pd.DataFrame())}, {"sensitivity": sensitive}, []
    )
    assert f"none for variant {as_markdown(WORDS['variant']('jensen_784'))}" in said and "jensen_784" not in said
    whole = {"latent_usage": Published(wanted["latent_usage"], runs.assign(status="done"), pd.DataFrame())}
    assert "Every run" in describe_missing(whole, {"latent_usage": wanted["latent_usage"]}, [])


def test_settings_are_those_of_the_models_that_are_there() -> None:
    configs = [RunConfig(objective="mmd", seed=0), RunConfig(objective="mmd", seed=1), RunConfig(objective="elbo")]
    runs = pd.DataFrame([config.model_dump(mode="json") for config in configs]).assign(status="done")
    runs["trained_precision"] = ["bfloat16", "bfloat16", "float32"]
    ours = compare_settings(runs).set_index("")["ours"]
    assert ours["arithmetic"] == "bfloat16 (2 runs), float32 (1 run)" and ours["MMD"] == "λ = 784"
    assert ours["decoder"] == "pixelcnn, 4 layers of 32 maps, sees 12 pixels far"
    before = compare_settings(runs.drop(columns="trained_precision")).set_index("")["ours"]  # published before it was
    assert before["arithmetic"] == "auto (3 runs)"
    assert compare_settings(runs.assign(decoder="conv")).set_index("")["ours"]["decoder"] == "conv"
    assert ours["encoder"] == "conv 32, 64, dense 256, norm: batch"
    assert compare_settings(runs.assign(encoder="dense")).set_index("")["ours"]["encoder"] == "dense, norm: batch"
    clipped = show_table(compare_settings(runs.assign(gradient_clip=1.0))).data
    assert "clipped to ±1" in str(clipped) and "interval" not in str(clipped)


def test_ledger_is_shown_whole_and_what_is_decided_stands_first() -> None:
    claims = ledger({})
    verdicts = ["not reproduced", "reproduced", *["inconclusive"] * (len(claims) - 2)]
    shown = str(show_claims(claims.assign(verdict=verdicts, open_because="", at_half=0.5)).data).splitlines()
    assert len(shown) == 2 + len(CLAIMS)
    assert shown[2].startswith("| ✓ reproduced |") and shown[3].startswith("| ✗ not reproduced |")
    assert all(any(as_markdown(claim.statement) in row for row in shown) for claim in CLAIMS.values())
    assert summarize(claims) == f"Of {len(CLAIMS)} statements: 0 reproduced, 0 not reproduced, 0 inconclusive, " + (
        f"{len(CLAIMS)} not measured."
    )
    refuted = claims.iloc[:1].assign(verdict="not reproduced", statement="a_b")
    assert summarize(refuted.assign(p_ledger=0.01)).endswith(
        "1 not reproduced, 0 inconclusive, 0 not measured. 1 of the 1 verdicts survive Holm’s correction over "
        "all statements. Not reproduced:\n\n- a\\_b"
    )
    assert summarize(refuted.assign(p_ledger=0.2)).endswith("- a\\_b (This does not survive that correction.)")


def test_statements_are_judged_by_both_ways_of_measuring() -> None:
    """MMD has twice the squared MMD of Stein on test images, and half the authors' way; failed runs decide nothing."""
    choices = [
        {"objective": name, "seed": seed, "squared_mmd": ours, "squared_mmd_authors": theirs}
        for name, ours, theirs in (("mmd", 0.002, 0.001), ("stein", 0.001, 0.002), ("wasserstein", 0.001, 0.002))
        for seed in range(3)
    ]
    runs = runs_of(*choices, mutual_information=5.0)
    course = pd.DataFrame({"run_id": runs["run_id"], "step": runs["steps"], "squared_mmd": 0.001})

    def both(runs: pd.DataFrame) -> str:
        given = {"divergence_comparison": Published(make_experiment("divergence_comparison", {}), runs, course)}
        return str(show_both_ways(ledger({name: found.runs for name, found in given.items()}), given).data)

    (row,) = [row for row in both(runs).splitlines() if row.startswith("| MMD matches the prior as well")]
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    assert cells[2].startswith("✗ not reproduced") and cells[3].startswith("2 (2 to 2)")
    assert cells[4].startswith("✓ reproduced") and cells[5].startswith("0.5 (0.5 to 0.5)")
    same = runs.assign(squared_mmd_authors=runs["squared_mmd"])
    failed = same.assign(status=same["status"].mask(same.index == 0, "failed: loss is nan"))
    assert both(same) == both(failed) == "No statement is moved by it."


def test_history_without_a_finished_run_has_no_row(tmp_path: Path) -> None:
    for content, n_rows in (("\n", 0), ("run_id,step\na,1\n", 1)):
        (tmp_path / "history.csv").write_text(content)
        history = _load_history(tmp_path / "history.csv")
        assert len(history) == n_rows and {"run_id", "step"} <= set(history)


TABLE = pd.DataFrame(
    {
        "objective": ["a_b", "mmd"],
        "latent_dim": [2, 10],
        "m": [0.123456, 1234567.0],
        "m_ci95": [0.01, math.nan],
        "n_seeds": [3, 1],
        "nothing": [math.nan, math.nan],
        "nothing_ci95": [math.nan, math.nan],
        "n_missing": [0, 0],
        "why_missing": ["", ""],
    }
)


def test_mean_and_interval_stand_in_one_cell() -> None:
    readable = format_table(TABLE)
    assert list(readable["m"]) == ["0.123 ± 0.010", "1234567"]
    assert list(readable) == ["objective", "latent dimension", "m", "seeds"]
    assert list(readable["objective"]) == ["a_b", "MMD"]
    lacking = format_table(TABLE.assign(n_missing=[0, 2], why_missing=["", "not run"]))
    assert list(lacking) == list(readable) and list(lacking["seeds"]) == ["3", "1 of 3: not run"]


@pytest.mark.parametrize(
    ("mean", "half", "cell"),
    [
        (30981.2, 11017.3, "31000 ± 11000"),
        (87.63, 4.59, "87.6 ± 4.6"),
        (0.00134, 6.38e-05, "0.001340 ± 0.000064"),
        (-387.0, 2358.0, "-400 ± 2400"),
        (1.0, 1e-12, "1 ± 1e-12"),
        (9.96, 0.996, "9.96 ± 1.00"),
    ],
)
def test_a_mean_ends_where_its_interval_does(mean: float, half: float, cell: str) -> None:
    assert format_mean(mean, half) == cell


def test_an_interval_of_two_seeds_is_not_printed() -> None:
    two = TABLE.assign(n_seeds=[2, 1], m_ci95=[218.0, math.nan])
    assert list(format_table(two)["m"]) == ["0.123", "1234567"]
    assert "Of fewer than 3 seeds: the mean alone" in show_table(two).data


def test_a_wide_table_becomes_several_that_each_say_whose_row_it_is() -> None:
    more = {f"m{i}{end}": 1.0 + i for i in range(12) for end in ("", "_ci95")}
    first, second, third, *_ = show_table(TABLE.assign(**more)).data.split("\n\n")
    assert first.startswith("| objective | latent dimension | seeds | m | m0 | m1 | m2 |")
    assert second.startswith("| objective | latent dimension | m3 | m4 | m5 | m6 |")
    assert third.startswith("| objective | latent dimension | m7 | m8 | m9 | m10 | m11 |")
    assert [part.count("a\\_b") for part in (first, second, third)] == [1, 1, 1]


def test_what_is_the_same_in_every_row_stands_once_below_the_table() -> None:
    shown, *notes = show_table(TABLE.assign(latent_dim=2)).data.split("\n\n")
    assert shown.startswith("| objective | m | seeds |")
    assert notes[0] == "The same in every row: latent dimension 2." and notes[1].startswith("±: half of the 95 %")
    waiting = show_table(TABLE.assign(n_seeds=[0, 1], n_missing=[3, 0], why_missing=["not run", ""])).data
    assert "a\\_b" not in waiting and "\n\nNot run yet: 1 of 2 rows." in waiting
    failed = show_table(TABLE.assign(n_seeds=[0, 1], n_missing=[3, 0], why_missing=["failed: loss is nan", ""])).data
    assert "failed: loss is nan" in failed and "Not run" not in failed


def test_information_at_its_cap_is_said_to_be_at_least_that() -> None:
    table = pd.DataFrame({"objective": ["elbo", "mmd"], "n_seeds": [3, 3], "n_missing": 0, "why_missing": ""})
    table["mutual_information"], table["mutual_information_cap"] = [1.5, 9.2103], 9.2103
    table = table.assign(mutual_information_ci95=0.1, mutual_information_cap_ci95=0.0)
    readable = format_table(table)
    assert list(readable["I(x;z), nats"]) == ["1.50 ± 0.10", "≥ 9.21"] and "cap" not in " ".join(map(str, readable))


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_an_interval_stands_in_the_cell_unless_it_has_no_width(mean: float, half: float) -> None:
    table = pd.DataFrame({"m": [mean], "m_ci95": [half], "n_seeds": [3]})
    assert ("±" in format_table(table)["m"].item()) == (half > 1e-6 * abs(mean))


def test_course_shows_what_was_watched_and_changed_its_side() -> None:
    rows = {"at_quarter": [1.0] * 3, "at_half": [-0.1, 0.2, math.nan], "at_end": [0.1, 0.1, math.nan]}
    claims = pd.DataFrame(rows).assign(statement="s", measured="m", holds="below 0", turned=[True, False, False])
    assert [line.split(" | ")[-1] for line in show_course(claims).data.splitlines()[2:]] == ["yes |", "no |"]


def test_preview_fits_the_terminal_and_leaves_out_no_metric(tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "table.csv", index=False)
    whole = preview(tmp_path, 80)
    assert whole.splitlines()[0].split() == ["objective", "latent", "dimension", "m", "seeds"]
    assert len(whole.splitlines()) == 1 + len(TABLE)
    turned = preview(tmp_path, 40)
    assert [line.split("  ")[0] for line in turned.splitlines()] == ["objective", "latent dimension", "m", "seeds"]
    assert "1234567" in turned
    narrow = preview(tmp_path, 31)
    first, second = narrow.split("\n\n")  # a row each
    assert "1234567" not in first and "1234567" in second and len(first.splitlines()) == len(second.splitlines())
    assert max(map(len, narrow.splitlines())) <= 31
    pd.concat([TABLE] * 3).to_csv(tmp_path / "table.csv", index=False)
    assert preview(tmp_path, 31).endswith("... and 2 more rows in table.csv")


@pytest.mark.parametrize("name", MODULES)
def test_every_column_that_a_reader_sees_has_words_of_its_own(name: str) -> None:
    assert len(set(LABELS.values())) == len(LABELS)
    cls = experiment_class(name)
    assert {*cls.conditions, *cls.metrics} - {"objective", "variant", "rate"} <= set(LABELS)


def test_markdown_table_survives_every_character() -> None:
    assert to_markdown(pd.DataFrame({"a_b": ["x|y", "<i>"]})) == "| a\\_b |\n| :--- |\n| x\\|y |\n| \\<i> |"
    text = r"\ ` * _ [a](b) <img src=x onerror=y> & &lt; | $x$ ~~z~~ \[ \begin{a}"
    assert unescape(re.sub("<[^>]*>", "", markdown().render(as_markdown(text)))).strip() == text


def test_latex_escapes_names(tmp_path: Path) -> None:
    experiment = make_experiment("latent_usage", {})
    runs = pd.DataFrame({"receptive_radius": [4], "objective": ["a_b"], "alpha": 1.0, "lambda_": 1.0})
    write_tables(experiment, runs.assign(status="done", mutual_information=2.0), tmp_path)
    latex = (tmp_path / "table.tex").read_text()
    assert r"a\_b" in latex and "toprule" in latex
    assert not [line for line in latex.splitlines() if "_" in line.replace(r"\_", "")]


def test_latex_of_every_name_is_known_to_plain_latex() -> None:
    names = [*(words.name for words in OBJECTIVE_WORDS.values()), *LABELS.values(), *sensitivity.VARIANTS, "≥ 1"]
    left = set("".join(map(_latex_cell, names)))
    assert not {character for character in left if ord(character) > 127} - set("éäöüß")


def test_every_deviation_of_the_code_is_listed() -> None:
    marks = sum(
        path.read_text(encoding="utf-8").count("DEVIATION: ")
        for path in (PROJECT_ROOT / "infovae").rglob("*.py")
        if path.name != "report.py"
    )
    listed = list_deviations()
    assert len(listed) == marks >= 5
    assert all(len(text) > 20 and text.endswith((".", ")")) for _, text in listed), listed


@pytest.mark.parametrize("folder", COMMITTED, ids=lambda path: path.name)
def test_committed_results_are_complete_and_recompute(folder: Path) -> None:
    published = load_published(folder)
    for name, (experiment, runs, _) in published.items():
        table = pd.read_csv(folder / name / "table.csv", dtype={"why_missing": "str"}).fillna({"why_missing": ""})
        pd.testing.assert_frame_equal(experiment.table(runs), table, check_dtype=False, rtol=1e-9)
        executed = (folder / name / "notebook.ipynb").read_text(encoding="utf-8")
        assert '"output_type": "error"' not in executed
    histories = {name: found.history for name, found in published.items() if len(found.history)}
    made = ledger({name: found.runs for name, found in published.items()}, histories)
    committed = pd.read_csv(folder / "claims.csv")
    pd.testing.assert_frame_equal(pd.read_csv(StringIO(made.to_csv(index=False))), committed, rtol=1e-9)
