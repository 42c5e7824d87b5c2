"""What a results folder says: publishing an experiment, the report and its discussion.

Everything comes from published runs.csv files alone: nothing here trains.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from infovae.config import PROJECT_ROOT, ParameterError
from infovae.experiments import MODULES, Experiment, make_experiment
from infovae.ledger import (
    DECIDED,
    READING,
    compare_ledgers,
    format_claims,
    format_measured,
    group_claims,
    summarize,
    tabulate_verdicts,
)
from infovae.old_claims import ledger
from infovae.site import render_discussion, render_index, render_notebook
from infovae.store import to_json, write_atomically
from infovae.tables import format_number, format_table, show_table, to_markdown, write_tables

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

    from infovae.plotting import Captioned

log = logging.getLogger(__name__)

HEADLINE_DIM = 10
"""Latent dimensions of the headline: those that the other experiments have by default."""


def publish(
    experiment: Experiment,
    runs: pd.DataFrame,
    figures: dict[str, Captioned],
    output_folder: str,
    history: pd.DataFrame | None = None,
) -> Styler:
    """Write what an experiment found into `output_folder` and return its table, formatted for reading.

    Files: parameters.json, runs.csv (one row per run), history.csv, one PNG per figure, captions.json (what each shows
    and how to read it), and last table.tex, table.md, table.csv. With an empty `output_folder` nothing is written: so a
    notebook runs as it is in JupyterLab.
    """
    if output_folder:
        from infovae.plotting import display_width

        folder = Path(output_folder)
        write_atomically(folder / "parameters.json", to_json(experiment.model_dump(mode="json")) + b"\n")
        write_atomically(folder / "runs.csv", runs.to_csv(index=False).encode())
        if history is not None:
            write_atomically(folder / "history.csv", history.to_csv(index=False, float_format="%.6g").encode())
        captions = {}
        for name, figure in figures.items():
            png = figure.to_png()
            write_atomically(folder / f"{name}.png", png)
            captions[name] = {"alt": figure.alt, "caption": figure.caption, "width": display_width(png)}
        in_order = json.dumps(captions, indent=1, ensure_ascii=False)
        write_atomically(folder / "captions.json", f"{in_order}\n".encode())
        write_tables(experiment, runs, folder)
    return show_table(format_table(experiment.table(runs)))


def load_published(folder: Path) -> dict[str, tuple[Experiment, pd.DataFrame]]:
    """Return each published experiment of a results folder with its runs.

    Raises
    ------
    ParameterError
        When parameters.json or runs.csv of an experiment is damaged: which, and what to do.
    """
    published = {}
    for name in MODULES:
        source = folder / name
        if not (source / "runs.csv").is_file():
            continue
        try:
            parameters = json.loads((source / "parameters.json").read_text(encoding="utf-8"))
            if not isinstance(parameters, dict):
                raise ValueError(f"parameters.json holds no valid dictionary but a {type(parameters).__name__}")
            runs = pd.read_csv(source / "runs.csv")
            missing = {"run_id", "status", "seed"} - set(runs.columns)
            experiment = make_experiment(name, parameters)
        except (OSError, ValueError, RecursionError) as error:
            raise ParameterError(f"{source} is damaged ({error}): restore it or run `make reproduce` again") from error
        if missing:
            raise ParameterError(
                f"{source / 'runs.csv'} lacks the columns {sorted(missing)}: run `make reproduce` again"
            )
        published[name] = (experiment, runs)
    return published


def require_published(profile: str, folder: Path) -> dict[str, tuple[Experiment, pd.DataFrame]]:
    """Return what `load_published` does; ParameterError, too, where a profile's folder holds no results at all."""
    published = load_published(folder)
    if not published:
        raise ParameterError(f"{folder} holds no results yet: run `make reproduce PROFILE={profile}` first")
    return published


def write_report(profile: str, folder: Path) -> None:
    """Write the tables, verdicts.md, headline.md, claims.csv, report.md and the pages of a results folder."""
    published = require_published(profile, folder)
    for name, (experiment, runs) in published.items():
        write_tables(experiment, runs, folder / name)
    claims = ledger({name: runs for name, (_, runs) in published.items()})
    headline, verdicts = format_headline(published), tabulate_verdicts(claims)
    content: dict[str, Any] = {
        "profile": profile,
        "summary": summarize(claims),
        "reading": READING,
        "headline": headline,
        "verdicts": verdicts,
        "claims": group_claims(claims),
        "sections": [_section(folder / name, *found) for name, found in published.items()],
        "discussion": discuss(profile, folder, published, claims),
    }
    for name, frame in (("headline", headline), ("verdicts", verdicts)):
        write_atomically(folder / f"{name}.md", (to_markdown(frame) + "\n").encode())
    write_atomically(folder / "claims.csv", claims.to_csv(index=False).encode())
    write_atomically(folder / "report.md", _markdown(content).encode())
    for notebook in sorted(folder.glob("*/notebook.ipynb")):
        write_atomically(notebook.with_suffix(".html"), render_notebook(notebook, "../index.html").encode())
    write_atomically(folder / "index.html", render_index(**content).encode())


def _section(folder: Path, experiment: Experiment, runs: pd.DataFrame) -> dict[str, Any]:
    """Return what a page shows of an experiment."""
    table = experiment.table(runs)
    return {
        "name": experiment.name,
        "title": experiment.title,
        "budget": describe_budget(experiment, runs),
        "command": format_command(experiment),
        "caveat": experiment.caveat,
        "table": format_table(table),
        "figures": _load_captions(folder),
    }


def _load_captions(folder: Path) -> dict[str, dict[str, str]]:
    """Return name -> alt, caption and width of an experiment's figures, in order; none if it was published without."""
    path = folder / "captions.json"
    if not path.is_file():
        return {}
    try:
        captions = json.loads(path.read_text(encoding="utf-8"))
        return {name: {key: str(words[key]) for key in ("alt", "caption", "width")} for name, words in captions.items()}
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise ParameterError(f"{path} is damaged ({error}): restore it or run `make reproduce` again") from error


def format_command(experiment: Experiment) -> str:
    """Return the command that makes an experiment's numbers: the parameters that differ from the defaults."""
    changed = experiment.model_dump(mode="json", exclude_defaults=True)
    pieces = [f"{name}={json.dumps(value, separators=(',', ':'))}" for name, value in changed.items()]
    parameters = " ".join(pieces).replace('"', "")  # a shell's quotes stand around it; bare words are read as text
    return f"make run EXPERIMENT={experiment.name}" + (f' PARAMS="{parameters}"' if parameters else "")


def discuss(
    profile: str, folder: Path, published: dict[str, tuple[Experiment, pd.DataFrame]], claims: pd.DataFrame
) -> str:
    """Return what to make of the results, in Markdown: the prose of the site, and lists computed from the ledger."""
    verdicts = claims.set_index("claim")["verdict"]
    pairs = [(name.replace("mmd_annealed", "mmd"), name) for name in verdicts.index if "mmd_annealed" in name]
    counted = [(verdicts[paper], verdicts[ours]) for paper, ours in pairs if paper in verdicts]
    both = [pair for pair in counted if {*pair} <= {*DECIDED}]
    elsewhere = compare_ledgers(profile, folder.parent, claims)
    environment = folder / "environment.json"
    return render_discussion(
        profile=profile,
        device=json.loads(environment.read_text(encoding="utf-8")).get("device", "") if environment.is_file() else "",
        seeds=sorted({len(e.seeds) for name, (e, _) in published.items() if name in set(claims["experiment"])}),
        caveats=[(experiment.title, experiment.caveat) for experiment, _ in published.values()],
        refuted=[
            {**claim, "measured": format_measured(claim)}
            for claim in claims.to_dict("records")
            if claim["verdict"] == "not reproduced"
        ],
        runaways=_list_runaways(published),
        accuracy=_classifier_accuracy(published),
        n_open=int((verdicts == "inconclusive").sum()),
        n_leaning=int(((claims["verdict"] == "inconclusive") & (claims["mean"] < claims["bound"])).sum()),
        n_dropped=int(((claims["verdict"] == "inconclusive") & (claims["n_dropped_seeds"] > 0)).sum()),
        n_unmeasured=int((verdicts == "not measured").sum()),
        n_pairs=len(counted),
        n_both=len(both),
        n_agreeing=sum(paper == ours for paper, ours in both),
        **_leave_one_out(published, claims),
        elsewhere=to_markdown(elsewhere) if len(elsewhere) else "",
        deviations=list_deviations(),
    )


def _list_runaways(published: dict[str, tuple[Experiment, pd.DataFrame]]) -> list[str]:
    """Return in words the runs whose codes spread e times as wide as the prior, or wider, by the mean of log std."""
    metric = "log_det_cov_per_dim_test"
    found: dict[str, str] = {}
    for experiment, runs in published.values():
        wide = runs[runs[metric] / 2 >= 1] if metric in runs else runs[:0]
        for run in wide.to_dict("records"):
            where = f"{run['objective']}, {run['latent_dim']:g} dimensions, seed {run['seed']}"
            words = f"{experiment.title}: {where}, log det Cov / dim {format_number(run[metric])}"
            found.setdefault(run["run_id"], words)  # several experiments may share a run
    return list(found.values())


def _classifier_accuracy(published: dict[str, tuple[Experiment, pd.DataFrame]]) -> float | None:
    """Return the share of test images that the classifier of the samples has right; None where it was not asked."""
    metric = "classifier_accuracy"
    return next((float(runs[metric].mean()) for _, runs in published.values() if metric in runs), None)


def _leave_one_out(published: dict[str, tuple[Experiment, pd.DataFrame]], claims: pd.DataFrame) -> dict[str, int]:
    """Return how many verdicts are decided, stay so whichever seed is left out, and turn round without one."""
    decided = claims["verdict"].isin(DECIDED)
    stays, turns = decided.copy(), pd.Series(False, index=claims.index)
    for seed in sorted({seed for experiment, _ in published.values() for seed in experiment.seeds}):
        without = ledger({name: runs[runs["seed"] != seed] for name, (_, runs) in published.items()})["verdict"]
        stays &= without == claims["verdict"]
        turns |= decided & without.isin(DECIDED) & (without != claims["verdict"])
    return {"n_decided": int(decided.sum()), "n_stable": int(stays.sum()), "n_turned": int(turns.sum())}


def show_claims(claims: pd.DataFrame) -> Styler:
    """Return the readable ledger for a notebook, with every word of every cell."""
    if "measured" not in claims:
        return show_table(format_claims(claims), "claims")
    words = {
        "verdict": "verdict",
        "statement": "statement",
        "measured": "measured",
        "holds": "holds",
        "condition": "where",
    }
    numbers = {"mean": "ours", "ci95_low": "from", "ci95_high": "to", "authors": "theirs"}
    readable = claims[list(words)].rename(columns=words)
    for column, title in numbers.items():
        readable[title] = [format_number(value) for value in claims[column]]
    return show_table(readable.assign(seeds=claims["n_seeds"]), "claims")


def format_headline(published: dict[str, tuple[Experiment, pd.DataFrame]]) -> pd.DataFrame:
    """Return the one table that says most: each objective in `HEADLINE_DIM` dimensions, every seed's value.

    Information in the code, its match with the prior, the samples' classes and the error with few labels; in the
    nearest dimension where there are no runs in that one.
    """
    columns = {
        "mutual_information": "I(x;z), nats",
        "squared_mmd": "squared MMD of q(z), p(z)",
        "log_det_cov_per_dim_test": "log det Cov[q(z)] / dim",
        "class_cross_entropy": "class cross-entropy, nats",
        "svm_error_sampled": "SVM error on z",
    }
    if not {"divergence_comparison", "semi_supervised"} <= published.keys():
        return pd.DataFrame({"objective": []})
    compared, labelled = (published[name][1] for name in ("divergence_comparison", "semi_supervised"))
    compared = compared.drop(columns="svm_error_sampled", errors="ignore")
    runs = compared.merge(labelled[["run_id", "svm_error_sampled"]], on="run_id")
    distance = (runs["latent_dim"] - HEADLINE_DIM).abs()
    runs = runs[(runs["status"] == "done") & (distance == distance.min())].sort_values("seed", kind="stable")
    rows = []
    for objective, group in runs.groupby("objective", sort=False):
        cells = {title: " · ".join(map(format_number, group[name])) for name, title in columns.items()}
        rows.append({"objective": str(objective), **cells})
    return pd.DataFrame(rows)


def list_deviations() -> list[tuple[str, str]]:
    """Return every departure from the paper that the code marks, as (module, text)."""
    found = []
    for path in sorted((PROJECT_ROOT / "infovae").rglob("*.py")):
        if path.name == "report.py":
            continue
        for match in re.finditer(
            r"DEVIATION: (.+?)(?=\n\s*\n|\"\"\"|\n\s*[\w, ]+ : )", path.read_text(encoding="utf-8"), re.S
        ):
            text = re.sub(r"\s*\n\s*#?\s*", " ", match.group(1)).strip()
            found.append((path.relative_to(PROJECT_ROOT).as_posix(), text))
    return found


def describe_budget(experiment: Experiment, runs: pd.DataFrame) -> str:
    """Say in one sentence what the numbers of an experiment rest on."""
    n_seeds = len(experiment.seeds)
    seconds = runs["train_seconds"].sum() if "train_seconds" in runs else 0.0
    sizes = sorted(set(runs["n_train"]))
    epochs = [f"{experiment.steps * experiment.batch_size / n:.3g}" for n in sizes]
    return (
        f"{len(runs)} runs on {experiment.dataset}, {n_seeds} seed{'s' if n_seeds > 1 else ''}, "
        f"{', '.join(f'{n:,}' for n in sizes)} training images, {experiment.steps:,} steps of {experiment.batch_size} "
        f"({', '.join(epochs)} epoch{'' if epochs == ['1'] else 's'}), {seconds:,.0f} s of training in all"
    )


def _markdown(content: dict[str, Any]) -> str:
    parts = [
        f"# InfoVAE, reproduced: profile `{content['profile']}`",
        content["summary"],
        *([to_markdown(content["verdicts"])] if len(content["verdicts"]) else []),
        "In 10 latent dimensions, or the nearest to it; in each cell the value of every seed:",
        to_markdown(content["headline"]),
        "## The paper's claims",
        content["reading"],
    ]
    for group in content["claims"]:
        parts += [f"### {group['title']}: {group['counts']}", to_markdown(group["frame"])]
    for section in content["sections"]:
        name = section["name"]
        parts += [
            f"## {section['title']}",
            f"{section['budget']}. [Executed notebook]({name}/notebook.ipynb), [its page]({name}/notebook.html), "
            f"[every run]({name}/runs.csv), [table as CSV]({name}/table.csv).",
            f"    {section['command']}",
            f"**What the budget may have changed.** {section['caveat']}",
        ]
        parts.append(to_markdown(section["table"]))
        for figure, words in section["figures"].items():
            parts += [f"![{_bracketed(words['alt'])}]({name}/{figure}.png)", f"*{words['caption']}*"]
    return "\n\n".join([*parts, content["discussion"]]) + "\n"


def _bracketed(text: str) -> str:
    return text.replace("[", r"\[").replace("]", r"\]")
