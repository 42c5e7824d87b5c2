"""What a results folder says: publishing an experiment, and the pieces of the report's notebook.

Everything comes from published files alone: nothing here trains. The report itself is `notebooks/09_report.ipynb`.
What is shown in a notebook is Markdown, whose cells keep their look wherever a notebook is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from IPython.display import Image, Markdown, display

from infovae.claims.statements import under_pixelcnn
from infovae.config import AUTOREGRESSIVE
from infovae.experiments import MODULES, Experiment, make_experiment
from infovae.labels import as_markdown, count, format_number, label, objective_name
from infovae.paths import PROJECT_ROOT, write_atomically
from infovae.plotting import Captioned, by_objective, count_seeds, display_width, finished
from infovae.publishing.tables import WORDS, show_table, write_tables
from infovae.refusals import ParameterError
from infovae.runs.store import to_json


class Published(NamedTuple):
    """An experiment as a results folder has it; `history` has no row where none was published."""

    experiment: Experiment
    runs: pd.DataFrame
    history: pd.DataFrame


def publish(
    experiment: Experiment,
    runs: pd.DataFrame,
    figures: Mapping[str, Captioned],
    output_folder: str,
    history: pd.DataFrame | None = None,
) -> Markdown:
    """Write what an experiment found into `output_folder` and return a line that names the files.

    Files: parameters.json, runs.csv (one row per run), history.csv, one PNG per figure, captions.json (what each shows
    and how to read it), and last table.tex, table.md, table.csv. With an empty `output_folder` nothing is written: so a
    notebook runs as it is in JupyterLab.
    """
    if not output_folder:
        return Markdown("Nothing is written: `output_folder` is empty.")
    folder = Path(output_folder)
    write_atomically(folder / "parameters.json", to_json(experiment.model_dump(mode="json")) + b"\n")
    write_atomically(folder / "runs.csv", runs.to_csv(index=False).encode())
    if history is not None:
        write_atomically(folder / "history.csv", history.to_csv(index=False, float_format="%.6g").encode())
    captions = {}
    for name, figure in figures.items():
        width = display_width(_write_figure(folder, name, figure))
        captions[name] = {"alt": figure.alt, "caption": figure.caption, "width": width}
    in_order = json.dumps(captions, indent=1, ensure_ascii=False)
    write_atomically(folder / "captions.json", f"{in_order}\n".encode())
    write_tables(experiment, runs, folder)
    return Markdown(
        "All numbers: [every run](runs.csv), means and intervals as [CSV](table.csv), [Markdown](table.md) and "
        "[LaTeX](table.tex)."
    )


def publish_page(table: pd.DataFrame, figures: Mapping[str, Captioned], output_folder: str) -> None:
    """Write the figures, then table.csv, of a notebook that is no experiment; with an empty `output_folder` nothing."""
    if output_folder:
        for name, figure in figures.items():
            _write_figure(Path(output_folder), name, figure)
        write_atomically(Path(output_folder) / "table.csv", table.to_csv(index=False).encode())


def _write_figure(folder: Path, name: str, figure: Captioned) -> bytes:
    png = figure.to_png()
    write_atomically(folder / f"{name}.png", png)
    return png


def load_published(folder: Path) -> dict[str, Published]:
    """Return each published experiment of a results folder.

    Raises
    ------
    ParameterError
        When a file of an experiment is damaged: which, and what to do.
    """
    published = {}
    for name in MODULES:
        source = folder / name
        if not (source / "runs.csv").is_file():
            continue
        with refusing_damage(source):
            parameters = json.loads((source / "parameters.json").read_text(encoding="utf-8"))
            runs = pd.read_csv(source / "runs.csv")
            if missing := {"run_id", "status", "seed"} - set(runs.columns):
                raise ValueError(f"runs.csv lacks the columns {sorted(missing)}")
            history = _load_history(source / "history.csv")
            published[name] = Published(make_experiment(name, parameters), runs, history)
    return published


@contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
    """Turn whatever reading a published file or folder raises into a ParameterError: which, and what to do."""
    try:
        yield
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise ParameterError(f"{path} is damaged ({error}): restore it or run `make reproduce` again") from error


def _load_history(path: Path) -> pd.DataFrame:
    if not path.is_file() or not path.read_text(encoding="utf-8").strip():
        return pd.DataFrame(columns=["run_id", "step"])  # of an experiment none of whose runs is finished
    return pd.read_csv(path)


def require_published(profile: str, folder: Path) -> dict[str, Published]:
    """Return what `load_published` does; ParameterError, too, where a profile's folder holds no results at all."""
    published = load_published(folder)
    if not published:
        raise ParameterError(f"{folder} holds no results yet: run `make reproduce PROFILE={profile}` first")
    return published


# Pieces of the report


def describe_budget(experiment: Experiment, runs: pd.DataFrame) -> str:
    """Say in one sentence what the numbers of an experiment rest on."""
    size, done = experiment.batch_size, finished(runs, "train_seconds")
    seconds = done["train_seconds"].sum()
    sizes = sorted(set(runs["n_train"]))
    n_epochs = [experiment.steps * experiment.batch_size / n for n in sizes]
    epochs = [f"{n:,.0f}" if n >= 10 else f"{n:.2g}" for n in n_epochs]
    n_runs = f"{len(runs)}" if len(done) == len(runs) else f"{len(done)} of {len(runs)}"
    return (
        f"{n_runs} runs on {experiment.dataset}, {count_seeds(runs)}, "
        f"{' or '.join(f'{n:,}' for n in sizes)} training images, {experiment.steps:,} steps of {size} "
        f"images ({' or '.join(epochs)} epoch{'' if epochs == ['1'] else 's'}), {seconds:,.0f} s of training in all"
    )


def format_command(experiment: Experiment) -> str:
    """Return the command that makes an experiment's numbers: the parameters that differ from the defaults."""
    given, fields = dict(experiment), type(experiment).model_fields
    usual = {name: f.get_default(call_default_factory=True, validated_data=given) for name, f in fields.items()}
    changed = experiment.model_dump(mode="json", include={name for name in fields if given[name] != usual[name]})
    pieces = [f"{name}={json.dumps(value, separators=(',', ':'))}" for name, value in changed.items()]
    parameters = " ".join(pieces).replace('"', "")  # a shell's quotes stand around it; bare words are read as text
    return f"make run EXPERIMENT={experiment.name}" + (f' PARAMS="{parameters}"' if parameters else "")


def show_picture(png: bytes, alt: str, caption: str, source: str) -> None:
    """Show a figure in a notebook, its caption below; pages made of the notebook have the file `source` instead."""
    display(Image(data=png, alt=alt, width=display_width(png), metadata={"src": source}))
    display(Markdown(f"*{as_markdown(caption)}*" if caption else ""))


def show_figure(figure: Captioned, name: str, output_folder: str) -> None:
    """Show a figure that the report draws, and write it into `output_folder` if there is one."""
    png = _write_figure(Path(output_folder), name, figure) if output_folder else figure.to_png()
    show_picture(png, figure.alt, figure.caption, f"{name}.png")


def show_published(folder: Path, *names: str, without: Iterable[str] = ()) -> None:
    """Show published figures of an experiment, by default all of them, in their order.

    Raises
    ------
    ParameterError
        When captions.json or a figure is damaged: which, and what to do.
    """
    path = folder / "captions.json"
    with refusing_damage(path):
        captions = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for name, words in captions.items():
            if (not names or name in names) and name not in without:
                png = (folder / f"{name}.png").read_bytes()
                show_picture(png, str(words["alt"]), str(words["caption"]), f"{folder.name}/{name}.png")


def show_section(found: Published, folder: Path, without: Iterable[str] = ()) -> None:
    """Show an experiment in the report: budget, command, table, figures; `folder` is where it is published."""
    experiment, name = found.experiment, found.experiment.name
    links = {
        "its page": "notebook.html",
        "its notebook": "notebook.ipynb",
        "every run": "runs.csv",
        "the table": "table.csv",
    }
    listed = ", ".join(f"[{words}]({name}/{file})" for words, file in links.items())
    display(
        Markdown(
            f"### {experiment.title}\n\n{as_markdown(describe_budget(experiment, found.runs))}: {listed}.\n\n"
            f"    {format_command(experiment)}\n\n"
            f"**What the budget may have changed.** {as_markdown(experiment.caveat)}"
        ),
        show_table(experiment.table(found.runs)),
    )
    show_published(folder, without=without)


def describe_results(profile: str, folder: Path, published: Mapping[str, Published]) -> str:
    """Return in Markdown which results these are: profile, number of models, data, and where they were trained."""
    path = folder / "environment.json"
    with refusing_damage(path):
        facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        where = f", on a {facts['device']}, with torch {facts['packages']['torch']}" if facts else ""
    done = [found.runs[found.runs["status"] == "done"] for found in published.values()]
    models = {run_id for runs in done for run_id in runs["run_id"]}
    data = dict.fromkeys(str(name) for runs in done for name in runs["dataset"])
    n_experiments = count(published, "experiment")
    words = as_markdown(f"Profile {profile}: {n_experiments} on {len(models)} models, on {', '.join(data)}{where}.")
    return words + (" [All packages](environment.json)." if facts else "")


def describe_missing(
    published: Mapping[str, Published], wanted: Mapping[str, Experiment], others: Iterable[str]
) -> str:
    """Return in Markdown what a profile asks for and its results lack, a line per experiment, then profiles not run."""
    lines = [f"{wanted[name].title}: no run of it." for name in wanted if name not in published]
    for experiment, runs, _ in published.values():
        lacking = runs[runs["status"] != "done"]
        if lacking.empty:
            continue
        reasons = ", ".join(f"{n} {reason}" for reason, n in lacking["status"].value_counts().items())
        parts = [f"{len(lacking)} of {len(runs)} runs have no result ({reasons})"]
        for column in experiment.conditions:
            done = set(runs.loc[runs["status"] == "done", column]) if column in runs else set()
            without = [value for value in dict.fromkeys(lacking[column]) if value not in done] if done else []
            words = [WORDS.get(column, str)(x) if isinstance(x, str) else format_number(x) for x in without]
            if words:
                parts.append(f"none for {label(column)} {', '.join(words)}")
        lines.append(f"{experiment.title}: {'; '.join(parts)}.")
    if names := ", ".join(others):
        lines.append(f"No results of these profiles are published: {names}.")
    return "\n".join(f"- {as_markdown(line)}" for line in lines) or "Every run of this profile has a result."


def compare_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what decides the comparison under a PixelCNN, ours beside the authors' code; `runs` are its models."""
    autoregressive = under_pixelcnn(runs)
    models = autoregressive if len(autoregressive) else runs
    of_first = {name: g.iloc[0] for name, g in by_objective(models)}
    precisions = models.get("trained_precision", models["precision"]).value_counts()
    row = next(iter(of_first.values()))
    width = int(row["encoder_width"])
    layers = f"conv {width}, {2 * width}, dense {8 * width}" if row["encoder"] == "conv" else row["encoder"]
    size = f", {row['pixelcnn_layers']:g} layers of {row['pixelcnn_channels']:g} maps"
    decoder = f"{row['decoder']}{size}, sees {row['receptive_radius']:g} pixels far"
    steps = [
        f"{row['steps']:,} steps of {row['batch_size']} images",
        str(row["optimizer"]),
        f"{row['learning_rate']:g}",
    ]
    steps[-1] += " falling to 0 in the second half" if row["learning_rate_decay"] else ""
    steps += [f"gradients clipped to ±{clip:g}"] if (clip := row.get("gradient_clip")) and clip == clip else []
    ours = {
        "encoder": f"{layers}, norm: {row['encoder_norm']}",
        "decoder": decoder if row["decoder"] in AUTOREGRESSIVE else row["decoder"],
        "training": ", ".join(steps),
        "arithmetic": ", ".join(f"{name} ({n} run{'s' if n > 1 else ''})" for name, n in precisions.items()),
        "VAE": "the ELBO",
    }
    for name, found in of_first.items():
        if found["divergence"] != "none":
            critic = f", critic {found['critic_learning_rate']:g}" if name in ("wasserstein", "jensen") else ""
            ours[objective_name(name)] = f"λ = {found['lambda_']:g}{critic}"
    theirs = {
        "encoder": "conv 64, 128, dense 512, norm: batch",
        "decoder": "gated residual PixelCNN, 12 layers of 32 maps, sees 14 pixels far",
        "training": "40,000 steps or more of 100 images, rmsprop, 0.001, gradients clipped to ±1",
        "arithmetic": "float32",
        "VAE": "what it calls ELBO is a β-VAE, β = 784/dim",
        "MMD": "λ = 784 (a loss averaged over 784 pixels), the same kernel",
        "Stein": "λ = 78400 (and a sum over the batch), the same kernel",
        "Wasserstein": "λ = 784, critic 2e-05",
    }
    return pd.DataFrame(
        {"": list(ours), "ours": ours.values(), "authors’ code": [theirs.get(key, "–") for key in ours]}
    )


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
