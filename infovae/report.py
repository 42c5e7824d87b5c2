"""Tables, the ledger of claims and the pages, from published runs.csv files alone: nothing here trains."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pandas as pd

from infovae.claims import ledger
from infovae.config import PROJECT_ROOT, ParameterError
from infovae.experiments import MODULES, Experiment, make_experiment
from infovae.store import to_json, write_atomically
from infovae.verdicts import EMPTY_CODE, EMPTY_TOY_CODE, Verdict

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas.io.formats.style import Styler

log = logging.getLogger(__name__)

READING = (
    "A claim holds where its effect lies below its bound: reproduced if the whole 95 % interval over seeds does, not "
    f"reproduced if the interval lies above, else inconclusive. A code with I(x;z) below {EMPTY_CODE:g} nat (toy: "
    f"{EMPTY_TOY_CODE:g}) is empty: where a claim is about used codes, a seed with an empty one drops out, and the "
    "claim stays open. Statements and bounds stand in `infovae/claims.py`, the rule in "
    "`infovae/verdicts.py`, all of it in claims.csv."
)
"""How to read the ledger."""

VERDICTS: tuple[str, ...] = get_args(Verdict)


def publish(
    experiment: Experiment,
    runs: pd.DataFrame,
    figures: dict[str, Figure],
    output_folder: str,
    history: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Write what an experiment found into `output_folder` and return its table, formatted for reading.

    Files: parameters.json, runs.csv (one row per run), history.csv, one PNG per figure, and last table.tex, table.md,
    table.csv. With an empty `output_folder` nothing is written: so a notebook runs as it is in JupyterLab.
    """
    if output_folder:
        folder = Path(output_folder)
        write_atomically(folder / "parameters.json", to_json(experiment.model_dump(mode="json")) + b"\n")
        write_atomically(folder / "runs.csv", runs.to_csv(index=False).encode())
        if history is not None:
            write_atomically(folder / "history.csv", history.to_csv(index=False, float_format="%.6g").encode())
        for name, figure in figures.items():
            figure.savefig(folder / f"{name}.png", dpi=200, bbox_inches="tight")
        write_tables(experiment, runs, folder)
    return format_table(experiment.table(runs))


def write_tables(experiment: Experiment, runs: pd.DataFrame, folder: Path) -> None:
    """Write an experiment's table as LaTeX and Markdown (mean ± 95 % interval) and as CSV (every number)."""
    table = experiment.table(runs)
    readable = format_table(table)
    latex = readable.rename(columns=lambda name: name.replace("_", r"\_")).map(_latex_cell)
    write_atomically(folder / "table.tex", latex.to_latex(index=False, escape=False).encode())
    write_atomically(folder / "table.md", (to_markdown(readable) + "\n").encode())
    write_atomically(folder / "table.csv", table.to_csv(index=False).encode())


def format_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with each metric and its interval in one cell, "mean ± half-width"; "–" for no number."""
    readable = pd.DataFrame(index=table.index)
    for column in table.columns:
        if column.endswith("_ci95"):
            continue
        interval = table.get(f"{column}_ci95")
        if interval is not None:
            readable[column] = [
                _number(m) + (f" ± {_number(c)}" if c == c else "")
                for m, c in zip(table[column], interval, strict=True)
            ]
        elif column != "n_failed" or table[column].any():
            readable[column] = [_number(value) if isinstance(value, float) else str(value) for value in table[column]]
    return readable


def to_markdown(frame: pd.DataFrame) -> str:
    """Return a frame of strings as a Markdown table."""
    rows = [list(frame.columns), ["---"] * frame.shape[1], *frame.to_numpy().tolist()]
    return "\n".join("| " + " | ".join(str(cell).replace("|", r"\|") for cell in row) + " |" for row in rows)


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


def write_report(profile: str, folder: Path) -> None:
    """Write the tables, headline.md, claims.csv, report.md and index.html of a results folder."""
    published = load_published(folder)
    if not published:
        raise ParameterError(f"{folder} holds no results yet: run `make reproduce PROFILE={profile}` first")
    for name, (experiment, runs) in published.items():
        write_tables(experiment, runs, folder / name)
    claims = ledger({name: runs for name, (_, runs) in published.items()})
    headline = to_markdown(format_headline(published))
    write_atomically(folder / "headline.md", (headline + "\n").encode())
    write_atomically(folder / "claims.csv", claims.to_csv(index=False).encode())
    write_atomically(folder / "report.md", _markdown(profile, folder, published, claims).encode())
    write_atomically(folder / "index.html", _html(profile, folder, published, claims).encode())


def format_claims(claims: pd.DataFrame) -> pd.DataFrame:
    """Return the ledger's readable columns, what was decided first: verdict, statement, source, effect, interval, n."""
    claims = claims.sort_values("verdict", key=lambda verdicts: verdicts.map(VERDICTS.index), kind="stable")
    interval = [
        _number(mean) + (f" [{_number(low)}, {_number(high)}]" if n_seeds > 1 else "")
        for mean, low, high, n_seeds in claims[["mean", "ci95_low", "ci95_high", "n_seeds"]].to_numpy()
    ]
    return pd.DataFrame(
        {
            "verdict": claims["verdict"],
            "claim": claims["statement"],
            "source": claims["source"],
            "effect (holds below the bound)": claims["effect"],
            "measured [95 % interval]": interval,
            "bound": [_number(bound) for bound in claims["bound"]],
            "seeds": claims["n_seeds"].astype(str),
            "seeds dropped": claims["n_dropped_seeds"].astype(str),
        }
    )


def show_claims(claims: pd.DataFrame) -> Styler:
    """Return the readable ledger for a notebook, with every word of every cell."""
    left = {"text-align": "left", "vertical-align": "top"}
    style = format_claims(claims).style.hide(axis="index").set_uuid("claims")
    return style.set_properties(subset=None, **left)


def format_headline(published: dict[str, tuple[Experiment, pd.DataFrame]]) -> pd.DataFrame:
    """Return the one table that says most: each objective in the most dimensions of the comparison, every seed's value.

    Information in the code, its match with the prior, the samples' classes and the error with few labels.
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
    runs = compared.merge(labelled[["run_id", "svm_error_sampled"]], on="run_id")
    runs = runs[(runs["status"] == "done") & (runs["latent_dim"] == runs["latent_dim"].max())].sort_values("seed")
    rows = []
    for objective, group in runs.groupby("objective", sort=False):
        cells = {title: " · ".join(map(_number, group[name])) for name, title in columns.items()}
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
    seconds = runs["train_seconds"].sum() if "train_seconds" in runs else 0.0
    sizes = sorted(set(runs["n_train"]))
    epochs = [experiment.steps * experiment.batch_size / n for n in sizes]
    return (
        f"{len(runs)} runs on {experiment.dataset}, {len(experiment.seeds)} seed(s), "
        f"{', '.join(f'{n:,}' for n in sizes)} training images, {experiment.steps:,} steps of {experiment.batch_size} "
        f"({', '.join(f'{n:.3g}' for n in epochs)} epochs), {seconds:,.0f} s of training in all"
    )


def _markdown(
    profile: str, folder: Path, published: dict[str, tuple[Experiment, pd.DataFrame]], claims: pd.DataFrame
) -> str:
    parts = [
        f"# InfoVAE, reproduced: profile `{profile}`",
        summarize(claims),
        READING,
        "What a small budget may have changed stands with each experiment.",
        to_markdown(format_headline(published)),
        to_markdown(format_claims(claims)),
    ]
    for name, (experiment, runs) in published.items():
        parts += [
            f"## {experiment.title}",
            f"{describe_budget(experiment, runs)}. [Executed notebook]({name}/notebook.ipynb), "
            f"[its page]({name}/notebook.html), [every run]({name}/runs.csv).",
            f"**What the small budget may have changed.** {experiment.caveat}",
            (folder / name / "table.md").read_text(encoding="utf-8"),
            *(
                f"![{path.stem.replace('_', ' ')}]({name}/{path.name})"
                for path in sorted((folder / name).glob("*.png"))
            ),
        ]
    parts += ["## Deviations from the paper", *(f"- {text} (`{module}`)" for module, text in list_deviations())]
    return "\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n"


def summarize(claims: pd.DataFrame) -> str:
    """Return the ledger in one sentence: how many claims have which verdict."""
    measured = claims[claims["experiment"].fillna("") != ""]
    counts = measured["verdict"].value_counts()
    exact = claims.drop(measured.index)["verdict"] == "exact"
    undecidable = int(((measured["verdict"] == "inconclusive") & (measured["n_dropped_seeds"] > 0)).sum())
    return (
        f"Of {len(measured)} claims: "
        + ", ".join(f"{counts.get(verdict, 0)} {verdict}" for verdict in VERDICTS if verdict != "exact")
        + f"; {undecidable} of the inconclusive ones because a code is empty or a run failed. "
        f"Beside them, {exact.sum()} of {len(exact)} special cases hold exactly."
    )


def _html(
    profile: str, folder: Path, published: dict[str, tuple[Experiment, pd.DataFrame]], claims: pd.DataFrame
) -> str:
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader("infovae", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    sections = []
    for name, (experiment, runs) in published.items():
        sections.append(
            {
                "name": name,
                "title": experiment.title,
                "budget": describe_budget(experiment, runs),
                "caveat": experiment.caveat,
                "table": format_table(experiment.table(runs)),
                "figures": [path.name for path in sorted((folder / name).glob("*.png"))],
                "command": f"make reproduce PROFILE={profile}",
                "claims": format_claims(claims[claims["experiment"] == name]),
            }
        )
    return environment.get_template("index.html.j2").render(
        profile=profile, summary=summarize(claims), reading=READING, sections=sections, claims=format_claims(claims),
        deviations=list_deviations(),
    )  # fmt: skip


def _number(value: float) -> str:
    """Return a number with three significant digits, without exponent where it stays short."""
    if value != value:
        return "–"
    text = f"{value:.3g}"
    return f"{value:.0f}" if "e+" in text else text


def _latex_cell(cell: object) -> str:
    return str(cell).replace("_", r"\_").replace("±", r"$\pm$").replace("–", "--").replace("%", r"\%")
