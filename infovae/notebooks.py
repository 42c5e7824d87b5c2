"""Executes notebooks and publishes what they produce. The only importer of papermill.

A notebook runs in a staging folder; only when its own finished table is there do its files replace the published
ones, each atomically, the executed notebook last. What failed or was killed is kept as `notebook.failed.ipynb`.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from infovae.config import PROJECT_ROOT, project_path
from infovae.experiments import Experiment
from infovae.site import render_notebook
from infovae.store import StoreError, write_atomically

log = logging.getLogger(__name__)

SOURCE = PROJECT_ROOT / "notebooks"
REPORT_NOTEBOOK = "07_report"


class NotebookError(RuntimeError):
    """A notebook that did not come to its end; the message says which, why and where its remains are."""


def results_root() -> Path:
    """Return the folder of all results: INFOVAE_RESULTS, else `results` beside the package."""
    return project_path("INFOVAE_RESULTS", "results")


def execute_experiment(experiment: Experiment, folder: Path) -> Path:
    """Execute the notebook of an experiment with its parameters and publish it in `folder`; return the notebook."""
    return execute(experiment.notebook, experiment.model_dump(mode="json"), folder, proof="table.csv")


def execute(notebook: str, parameters: dict[str, Any], folder: Path, proof: str) -> Path:
    """Execute one notebook and publish what it wrote.

    Parameters
    ----------
    notebook : name in `notebooks/`, without suffix.
    parameters : validated values for its parameters cell; `output_folder` is added.
    folder : where the executed notebook, its HTML page and the files that it wrote are published.
    proof : the file that a notebook writes at its end; without it the execution counts as failed.

    Raises
    ------
    NotebookError
        When it failed; what was published before stays as it was.
    """
    make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".staging-") as staging_name:
        staging = Path(staging_name)
        executed = staging / "notebook.ipynb"
        reason = _run(SOURCE / f"{notebook}.ipynb", executed, {**parameters, "output_folder": str(staging)})
        if not reason and not (staging / proof).is_file():
            reason = f"it ended without writing {proof}: its kernel died or timed out"
        if reason:
            failed = folder / "notebook.failed.ipynb"
            if not executed.is_file():
                raise NotebookError(f"notebook {notebook} failed: {reason}")
            executed.replace(failed)
            raise NotebookError(f"notebook {notebook} failed: {reason}; see {failed}")
        _clean(executed, staging)
        write_atomically(staging / "notebook.html", render_notebook(executed).encode())
        _publish(staging, folder)
    return folder / "notebook.ipynb"


def make_folder(folder: Path, variable: str = "INFOVAE_RESULTS") -> None:
    """Make a folder, below the one that an environment variable names; a clear error if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = f"cannot write to {folder}: {error.strerror or error}"
        raise StoreError(f"{reason}. Set {variable} to a folder that can be written") from error


def _run(source: Path, target: Path, parameters: dict[str, Any]) -> str:
    """Execute a notebook; return why it failed, or an empty string."""
    import nbformat
    import papermill
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        nbformat.validate(nbformat.read(source, as_version=4))
    except Exception as error:  # nbformat raises whatever its first step into a damaged file does
        return f"{source} is no readable notebook: {type(error).__name__}: {str(error)[:500]}"
    try:
        papermill.execute_notebook(
            str(source), str(target), parameters, kernel_name="python3", iopub_timeout=60, progress_bar=False,
            cwd=str(PROJECT_ROOT), log_output=False,
            extra_arguments=["--IPKernelApp.log_level=40"],  # its note on unencrypted loopback is for shared machines
        )  # fmt: skip
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    except Exception as error:  # whatever a kernel, a damaged notebook or a full disk raises: one notebook failed
        return f"{type(error).__name__}: {error}"
    return ""


def _clean(executed: Path, staging: Path) -> None:
    """Take out of an executed notebook what differs from run to run or names this machine's folders."""
    import nbformat

    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source, cell.id = cell.source.replace(f'"{staging}"', '""'), "injected-parameters"
        for data in [output["data"] for output in cell.get("outputs", []) if "data" in output]:
            if "text/plain" in data:
                data["text/plain"] = re.sub(r" at 0x[0-9a-f]+", "", data["text/plain"])  # where an object stood
    write_atomically(executed, nbformat.writes(notebook).encode())


def _publish(staging: Path, folder: Path) -> None:
    names = sorted((path.name for path in staging.iterdir()), key=lambda name: (name == "notebook.ipynb", name))
    for stale in {path.name for path in folder.iterdir() if not path.name.startswith(".")} - set(names):
        if Path(stale).suffix in {".png", ".csv", ".md", ".tex", ".ipynb", ".html"}:
            (folder / stale).unlink()
    for name in names:
        (staging / name).replace(folder / name)


def clean_staging(root: Path) -> None:
    """Remove the staging folders that a killed process left behind."""
    for leftover in root.glob("**/.staging-*"):
        shutil.rmtree(leftover, ignore_errors=True)
