"""Executes notebooks and publishes what they produce. The only importer of papermill.

A notebook runs in a staging folder, in a kernel that reads nothing of the user's own settings; only when its own
finished table is there do its files replace the published ones, each atomically, the executed notebook last. What
failed or was killed is kept as `notebook.failed.ipynb`. A folder belongs to one command at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from infovae.experiments import Experiment
from infovae.paths import PART, PROJECT_ROOT, WriteError, write_atomically
from infovae.publishing.report import format_command, require_published
from infovae.publishing.site import render_markdown, render_notebook
from infovae.publishing.tables import write_tables
from infovae.refusals import ParameterError
from infovae.runs.store import to_json

log = logging.getLogger(__name__)

SOURCE = PROJECT_ROOT / "notebooks"
FIRST_NOTEBOOK = "01_infovae_in_one_page"
REPORT_NOTEBOOK = "09_report"
EXPLORER = "12_explore"
FURTHER = {
    FIRST_NOTEBOOK: "infovae_in_one_page", "11_your_own_images": "your_own_images", EXPLORER: "explore"
}  # fmt: skip
"""Notebooks that are no experiments, and the folders of a profile's results that they are published in."""
LARGE_PROFILES = ("laptop", "fashion", "paper")
"""Beside these the notebooks of `FURTHER` that are the same for every profile are not published again."""
MANIFEST = ".published.json"
"""Names the files of a folder that were published there: the next publication replaces or removes these alone."""
FAILED = "notebook.failed.ipynb"
PAGE = "notebook.html"


class NotebookError(RuntimeError):
    """A notebook that did not come to its end; the message says which, why and where its remains are."""


@contextmanager
def noting(problems: list[str]) -> Iterator[None]:
    """Add to `problems` why a notebook failed, or lacks all that it reads, and go on."""
    try:
        yield
    except (NotebookError, ParameterError) as error:
        log.error("%s", error)
        problems.append(str(error))


def execute_experiment(experiment: Experiment, folder: Path) -> Path:
    """Execute the notebook of an experiment with its parameters and publish it in `folder`; return the notebook."""
    pages = {PAGE: partial(render_notebook, command=format_command(experiment))}
    return execute(experiment.notebook, experiment.model_dump(mode="json"), folder, "table.csv", pages)


def execute_report(profile: str, folder: Path) -> Path:
    """Execute the report's notebook on the results folder of a profile, named after it, and publish it there.

    Its page is index.html, its text report.md, its ledger claims.csv. Each experiment's tables and page are made again,
    too: the page links to the index from now on.

    Raises
    ------
    NotebookError
        When it failed; what was published before stays as it was.
    ParameterError
        When the folder holds no results, or damaged ones.
    """
    commands = {}
    for name, (experiment, runs, _) in require_published(profile, folder).items():
        write_tables(experiment, runs, folder / name)
        commands[name] = format_command(experiment)
    with isolated():
        for notebook in sorted(folder.glob("*/notebook.ipynb")):
            command = commands.get(notebook.parent.name, f"make reproduce PROFILE={profile}")
            write_atomically(notebook.with_name(PAGE), render_notebook(notebook, "../index.html", command).encode())
    pages: dict[str, Callable[[Path], str]] = {
        "index.html": partial(render_notebook, command=f"make reproduce PROFILE={profile}", code=False),
        "report.md": render_markdown,
    }
    with environment({"INFOVAE_RESULTS": str(folder.parent.resolve())}):
        return execute(REPORT_NOTEBOOK, {"profile": profile}, folder, "claims.csv", pages)


def execute(
    notebook: str,
    parameters: dict[str, Any],
    folder: Path,
    proof: str,
    pages: Mapping[str, Callable[[Path], str]] = MappingProxyType({PAGE: render_notebook}),
) -> Path:
    """Execute one notebook and publish what it wrote.

    Parameters
    ----------
    notebook : name in `notebooks/`, without suffix.
    parameters : validated values for its parameters cell; `output_folder` is added.
    folder : where the executed notebook, its pages and the files that it wrote are published.
    proof : the file that a notebook writes at its end; without it the execution counts as failed.
    pages : files made of the executed notebook, name -> function of its path that returns their text.

    Raises
    ------
    NotebookError
        When it failed; what was published before stays as it was.
    """
    require_source(notebook)
    make_folder(folder)
    log.info("executing notebook %s", notebook)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".staging-") as staging_name, isolated():
        staging = Path(staging_name)
        executed = staging / "notebook.ipynb"
        reason = _run(SOURCE / f"{notebook}.ipynb", executed, {**parameters, "output_folder": str(staging)})
        if not reason and not (staging / proof).is_file():
            reason = f"it ended without writing {proof}: its kernel died or timed out"
        if reason:
            if not executed.is_file():
                raise NotebookError(f"notebook {notebook} failed: {reason}")
            executed.replace(folder / FAILED)
            raise NotebookError(f"notebook {notebook} failed: {reason}; see {folder / FAILED}")
        _clean(executed, staging)
        for name, render in pages.items():
            write_atomically(staging / name, render(executed).encode())
        _publish(staging, folder)
    return folder / "notebook.ipynb"


def execute_further(profile: str, folder: Path, dataset: str) -> list[str]:
    """Execute the notebooks that are no experiments, once a profile's runs are published; return what went wrong.

    `dataset` is that of the first notebook's pictures. Where no weights are published there is nothing to explore.
    """
    parameters: dict[str, dict[str, Any]] = {}
    if profile not in LARGE_PROFILES:
        small = dataset == "digits"  # shows that everything runs, not what is true
        parameters[FIRST_NOTEBOOK] = {"dataset": dataset} | ({"toy_steps": 60, "steps": 40} if small else {})
        parameters["11_your_own_images"] = {"steps": 40} if small else {}
    if any((folder / "weights").glob("*.safetensors")):
        parameters[EXPLORER] = {"results": profile}
    problems: list[str] = []
    # two of them train small models of their own, in about a minute
    with environment({"INFOVAE_TRAIN": "1"}), tempfile.TemporaryDirectory(prefix="infovae-") as empty:
        for notebook in FURTHER.keys() - parameters.keys():
            withdraw(folder / FURTHER[notebook])
        for notebook, values in parameters.items():
            # the explorer shows the published weights, and not what else this machine has trained
            with noting(problems), environment({"INFOVAE_STORE": empty} if notebook == EXPLORER else {}):
                execute(notebook, values, folder / FURTHER[notebook], proof="table.csv")
    return problems


def require_source(notebook: str) -> None:
    """Raise NotebookError unless the source notebook of that name can be read."""
    import nbformat

    path = SOURCE / f"{notebook}.ipynb"
    try:
        nbformat.validate(nbformat.read(path, as_version=4))
    except Exception as error:  # nbformat raises whatever its first step into a damaged file does
        reason = f"{path} is no readable notebook: {type(error).__name__}: {str(error)[:500]}"
        raise NotebookError(f"{reason}. Restore it: git checkout {path}") from error


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Keep other commands out of a folder; on entry, remove what a killed one left: staging folders, parts of files.

    The lock is the system's, so that it ends with this process, however that ends; its file names the process.

    Raises
    ------
    WriteError
        When the folder cannot be written, or while another process holds it.
    """
    make_folder(folder)
    path = folder / ".lock"
    while True:
        with path.open("a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = f"process {file.read() or 'of unknown number'}"
                raise WriteError(f"{owner} is writing to {folder}: wait for its end, or stop it") from None
            if os.fstat(file.fileno()).st_nlink == 0:
                continue  # its holder removed it between our opening and our locking
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for leftover in folder.glob("**/.staging-*"):
                shutil.rmtree(leftover, ignore_errors=True)
            for leftover in folder.glob(f"**/{PART}"):
                leftover.unlink(missing_ok=True)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def make_folder(folder: Path, variable: str = "INFOVAE_RESULTS") -> None:
    """Make a folder, below the one that an environment variable names; a clear error if it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = f"cannot write to {folder}: {error.strerror or error}"
        raise WriteError(f"{reason}. Set {variable} to a folder that can be written") from error


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def folder_variables() -> dict[str, str]:
    """Return the folders that the user named by environment variables, absolute: a kernel works in another one."""
    names = ("INFOVAE_STORE", "INFOVAE_RESULTS", "INFOVAE_DATA", "INFOVAE_CACHE")
    return {name: os.path.abspath(os.path.expanduser(os.environ[name])) for name in names if os.environ.get(name)}


@contextmanager
def isolated() -> Iterator[None]:
    """Keep the user's settings of Jupyter, IPython and matplotlib out of this process and its kernels for a while."""
    import matplotlib

    kinds = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    with tempfile.TemporaryDirectory(prefix="infovae-") as private:
        folders = {name: f"{private}/{name}" for name in kinds}
        nothing = dict.fromkeys(("JUPYTER_PATH", "JUPYTER_CONFIG_PATH", "PYTHONSTARTUP"), "")
        # the matplotlibrc that sets nothing; and this process's list of fonts, which it finds a place for where the
        # user's home cannot be written
        style = {
            "MATPLOTLIBRC": f"{matplotlib.get_data_path()}/matplotlibrc",
            "MPLCONFIGDIR": matplotlib.get_cachedir(),
        }
        with environment({**folder_variables(), **folders, **nothing, **style}):
            yield


def _own_kernel() -> type[Any]:
    """Return a kernel manager that starts the running interpreter's kernel, whatever "python3" is to Jupyter.

    What the kernel says on loopback is encrypted: other users of the machine cannot read along.
    """
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    class OwnKernelManager(AsyncKernelManager):
        def __init__(self, **settings: Any) -> None:
            super().__init__(**settings, transport_encryption="required")

        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(
                # it would log the interrupt that comes before every shutdown as an error
                argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--log-level=50"],
                metadata={"supported_encryption": "curve"},
            )

    return OwnKernelManager


def _run(source: Path, target: Path, parameters: dict[str, Any]) -> str:
    """Execute a notebook; return why it failed, or an empty string."""
    import papermill
    from papermill.exceptions import PapermillExecutionError

    logging.getLogger("papermill").setLevel(logging.ERROR)
    try:
        papermill.execute_notebook(
            str(source), str(target), parameters, kernel_name="python3", iopub_timeout=60, progress_bar=False,
            cwd=str(PROJECT_ROOT), log_output=False, kernel_manager_class=_own_kernel(),
        )  # fmt: skip
    except PapermillExecutionError as error:
        return f"{error.ename}: {error.evalue}"
    except Exception as error:  # whatever a kernel, a damaged notebook or a full disk raises: one notebook failed
        return f"{type(error).__name__}: {error}"
    return ""


def _clean(executed: Path, staging: Path) -> None:
    """Take out of an executed notebook what differs from run to run or tells where it ran."""
    import nbformat

    notebook = nbformat.read(executed, as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if "injected-parameters" in cell.metadata.get("tags", []):
            cell.source = re.sub("(?m)^output_folder = .*$", 'output_folder = ""', cell.source)
            cell.id = "injected-parameters"
        if "outputs" in cell:
            cell.outputs = _join_streams(cell.outputs)
        for output in cell.get("outputs", []):
            for holder, kind in [(output, "text"), (output.get("data", {}), "text/plain")]:
                if kind in holder:
                    holder[kind] = _forget_places(holder[kind], staging)
    write_atomically(executed, nbformat.writes(notebook).encode())


def _join_streams(outputs: list[Any]) -> list[Any]:
    """Join what was printed in several pieces, without what a progress bar wrote while it trained."""
    joined: list[Any] = []
    for output in outputs:
        last: Any = joined[-1] if joined else {}
        if "text" in output and "text" in last and output.name == last.name:
            last.text += output.text
        else:
            joined.append(output)
    for output in joined:
        if "text" in output:
            output.text = re.sub(r"\r[^\r\n]*\n?", "", output.text)
    return [output for output in joined if output.get("text", "shown").strip()]


def _forget_places(text: str, staging: Path) -> str:
    """Take addresses in memory, a cell's temporary file and the folders of this machine out of what was printed."""
    text = re.sub(r" at 0x[0-9a-f]+|\S*/ipykernel_\d+/\d+\.py:", "", text)
    for folder, name in ((staging, "."), (PROJECT_ROOT, "."), (Path(sys.prefix), "python")):
        text = text.replace(str(folder), name)
    return text


def _publish(staging: Path, folder: Path) -> None:
    """Replace the publication before; files that others put there stay."""
    names = sorted((path.name for path in staging.iterdir()), key=lambda name: (name == "notebook.ipynb", name))
    for stale in {FAILED, *_published(folder)} - set(names):
        (folder / stale).unlink(missing_ok=True)
    write_atomically(folder / MANIFEST, to_json(names) + b"\n")
    for name in names:
        (staging / name).replace(folder / name)


def withdraw(folder: Path) -> None:
    """Remove what was published in a folder; files that others put there stay."""
    for name in {FAILED, MANIFEST, *_published(folder)}:
        (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there is none, or it is not empty
        folder.rmdir()


def _published(folder: Path) -> list[str]:
    """Return the names in a folder's manifest; none if there is none that can be read."""
    try:
        names = json.loads((folder / MANIFEST).read_bytes())
        return [name for name in names if Path(name).name == name and (folder / name).is_file()]
    except (OSError, ValueError, RecursionError, TypeError):
        return []
