"""What executing a notebook publishes, and what is left when it fails, is interrupted or is given bad input."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import command_line
from jupyter_server.services.contents.largefilemanager import LargeFileManager
from pages import check

from infovae.__main__ import main
from infovae.claims.statements import CLAIMS
from infovae.experiments import make_experiment
from infovae.paths import PROJECT_ROOT, WriteError
from infovae.publishing import lab, notebooks
from infovae.publishing.notebooks import FIRST_NOTEBOOK, NotebookError, execute, execute_report, hold
from infovae.publishing.report import publish

SOURCES = sorted((PROJECT_ROOT / "notebooks").glob("*.ipynb"))


def test_report_of_a_partly_trained_profile_says_what_is_missing_and_runs_no_text(tmp_path: Path) -> None:
    """One run of four has a result; a damaged objective is text, wherever it is shown."""
    evil = "<img src=x onerror=alert(1)>"
    experiment = make_experiment("divergence_comparison", {"latent_dims": [10, 40], "seeds": [0]})
    rows = [config.model_dump(mode="json") for config, _ in experiment.wanted()][:4]
    runs = pd.DataFrame(rows).assign(run_id=list("abcd"), status=["done", "not run", f"failed: {evil}", "not run"])
    runs.loc[0, ["squared_mmd", "mutual_information", "log_det_cov_per_dim_test"]] = 0.5
    runs.loc[3, "objective"] = evil
    folder = tmp_path / "quick"
    publish(experiment, runs, {}, str(folder / experiment.name), pd.DataFrame())
    execute_report("quick", folder)
    text, page = (folder / "report.md").read_text(), (folder / "index.html").read_text()
    assert "- Divergence comparison: 3 of 4 runs have no result (2 not run, 1 failed: \\<img" in text
    assert "- Latent usage: no run of it." in text and "1 of 4 runs on mnist" in text
    assert len(pd.read_csv(folder / "claims.csv")) == len(CLAIMS)
    assert "&lt;img src=x" in page and "<img src=x" not in page
    assert "<img src=x" not in text.replace("\\<img", "")


def test_prints_are_one_and_progress_bars_are_not_published() -> None:
    """How prints are cut into messages depends on the moment."""
    texts = ["a\n", "b\n\r  0% x", "\r  2% y\n"]
    streams = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in texts]
    bar = nbformat.v4.new_output("stream", name="stderr", text="\r 10% z\n")
    shown = nbformat.v4.new_output("display_data", data={"text/plain": "p"})
    found = notebooks._join_streams([*streams, bar, shown])
    assert [output.get("text", "shown") for output in found] == ["a\nb\n", "shown"]


def test_what_was_published_is_withdrawn_and_what_others_put_there_stays(tmp_path: Path) -> None:
    folder = tmp_path / "family"
    folder.mkdir()
    for name in ("table.csv", "notebook.ipynb", notebooks.FAILED):
        (folder / name).write_text("published")
    (folder / notebooks.MANIFEST).write_text('["table.csv", "notebook.ipynb"]')
    (folder / "notes.md").write_text("my own")
    notebooks.withdraw(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.md"]
    (folder / "notes.md").unlink()
    notebooks.withdraw(folder)
    notebooks.withdraw(folder)  # where nothing is
    assert not folder.exists()


def test_failed_run_is_said_and_in_the_exit_status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = pd.DataFrame({"run_id": ["a", "b"], "objective": ["mmd", "elbo"], "status": ["done", "failed: loss is nan"]})
    (tmp_path / "custom" / "latent_usage").mkdir(parents=True)
    (tmp_path / "custom" / "latent_usage" / "table.csv").write_text("the table\n1\n")
    monkeypatch.setenv("INFOVAE_RESULTS", str(tmp_path))
    monkeypatch.setenv("INFOVAE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("infovae.runs.sweep.sweep", lambda tasks: runs)
    monkeypatch.setattr(
        "infovae.publishing.notebooks.execute_experiment", lambda experiment, folder: folder / "notebook.ipynb"
    )
    result = CliRunner().invoke(main, ["run", "latent_usage", "-p", "dataset=digits n_train=500"])
    assert result.exit_code == 1
    assert "the table" in result.output and "incomplete:\nrun b (elbo) failed: loss is nan" in result.output


@pytest.mark.timeout(1800)
def test_first_notebook_trains_and_draws_on_the_digits(tmp_path: Path) -> None:
    few = {"dataset": "digits", "toy_steps": 20, "steps": 20}
    notebook = nbformat.read(execute(FIRST_NOTEBOOK, few, tmp_path / "first", proof="table.csv"), as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.get("name") == "stderr"], "a reader would see noise"
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 5
    pictures = {path.stem for path in (tmp_path / "first").glob("*.png")}
    assert pictures == {"rate", "posteriors", "course", "latent_plane", "samples"}
    table = pd.read_csv(tmp_path / "first/table.csv")
    assert len(table) == 6 and table["mutual_information"].between(-0.2, table["rate"] + 0.2).all()
    check(tmp_path / "first/notebook.html")


def test_killed_run_keeps_what_was_finished(tmp_path: Path) -> None:
    text = "dataset=digits n_train=500 steps=150 seeds=[0,1] alphas=[1] lambdas=[10] receptive_radii=[5] latent_dim=2"
    folders = {"INFOVAE_STORE": str(tmp_path / "store"), "INFOVAE_RESULTS": str(tmp_path / "results")}
    command = [sys.executable, "-m", "infovae", "run", "latent_usage", "-p", text]
    environment = {**os.environ, **folders, "INFOVAE_DEVICE": "cpu", "INFOVAE_WORKERS": "1"}
    process = subprocess.Popen(
        command, env=environment, cwd=PROJECT_ROOT, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not (finished := list((tmp_path / "store").glob("runs/*/record.json"))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in finished}
    command_line("run", "latent_usage", "-p", text, home=tmp_path)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list((tmp_path / "store").glob("runs/*/record.json"))) == 4
    assert not list((tmp_path / "results").rglob(".staging-*"))


@pytest.mark.parametrize(("number", "to_group"), [(signal.SIGTERM, False), (signal.SIGINT, True)])
def test_interrupted_run_ends_within_seconds_and_says_what_is_kept(
    number: signal.Signals, to_group: bool, tmp_path: Path
) -> None:
    """In the middle of several runs: the terminal's Ctrl-C reaches the workers too, a polite kill does not."""
    text = "dataset=digits n_train=500 steps=2000 seeds=[0,1] alphas=[1] lambdas=[10] receptive_radii=[5] latent_dim=2"
    settings = {"INFOVAE_STORE": "store", "INFOVAE_RESULTS": "results"}
    environment = {name: str(tmp_path / folder) for name, folder in settings.items()}
    environment |= {"INFOVAE_DEVICE": "cpu", "INFOVAE_WORKERS": "2", "INFOVAE_CHECKPOINT_SECONDS": "0.5"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "infovae", "run", "latent_usage", "-p", text],
            env={**os.environ, **environment}, cwd=PROJECT_ROOT, stderr=log, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's `&` has it ignored
        )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("store/runs/*/checkpoint-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    start = time.monotonic()
    (os.killpg if to_group else os.kill)(process.pid, number)
    assert process.wait(60) == 128 + number
    assert time.monotonic() - start < 10
    said = (tmp_path / "log").read_text().strip().splitlines()[-1]
    assert said.startswith("stopped. ") and "are kept: run it again to go on from there" in said
    time.sleep(1)
    living = subprocess.run(["ps", "-o", "stat=,args=", "-s", str(process.pid)], capture_output=True, text=True).stdout
    assert not [line for line in living.splitlines() if not line.startswith("Z")]
    assert not [path for path in (tmp_path / "store").rglob(".*") if path.is_file()]


REFUSED = [
    (("run", "latent_usage", "-p", "lamdas=[10]"), "did you mean 'lambdas'"),
    (("run", "latent_usage", "-p", "lambdas=ten"), "lambdas"),
    (("run", "latent_usage", "-p", "alphas=[1.5]"), "less than or equal to 1"),
    (("run", "latent_usage", "-p", "lambdas=[-1]"), "greater than or equal to 0"),
    (("run", "latent_usage", "-p", "latent_dim=0"), "latent_dim"),
    (("run", "latent_use",), "did you mean 'latent_usage'"),
    (("reproduce", "--profile", "quik"), "did you mean 'quick'"),
    (("repoduce",), "Did you mean 'reproduce'"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_bad_input_ends_at_once_with_status_2_and_writes_nothing(
    arguments: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    start = time.perf_counter()
    done = command_line(*arguments, home=tmp_path, status=2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
    assert time.perf_counter() - start < 15  # seconds: 2 on an idle machine, far from any training on a busy one


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_source_notebooks_are_short_and_clean(source: Path) -> None:
    notebook = nbformat.read(source, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    lines = [cell.source.count("\n") + 1 for cell in code]
    longest = 110 if source.stem == FIRST_NOTEBOOK else 80  # it shows the pieces that the others call
    assert sum(lines) <= longest and max(lines[1:]) <= 15 and lines[0] <= 20  # parameters stand first, one to a line
    prose = "".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "$" in prose, "an equation says what words do not"
    assert not any(re.search(r"^\s*(def|class) ", cell.source, re.M) for cell in code)
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in code) == 1


@pytest.fixture
def execute_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., nbformat.NotebookNode]:
    """Executes a notebook of one cell and publishes it in a folder, by default the test's own `published`."""

    def run(source: str, folder: Path | None = None, proof: str = "table.csv") -> nbformat.NotebookNode:
        sources, folder = tmp_path / "sources", folder or tmp_path / "published"
        sources.mkdir(exist_ok=True)
        cell = nbformat.v4.new_code_cell("output_folder = ''", metadata={"tags": ["parameters"]}, id="parameters")
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        code = nbformat.v4.new_code_cell(source, id="code")
        nbformat.write(nbformat.v4.new_notebook(cells=[cell, code], metadata=kernel), sources / "one.ipynb")
        monkeypatch.setattr(notebooks, "SOURCE", sources)
        return nbformat.read(execute("one", {}, folder, proof=proof), as_version=4)

    return run


WRITE = "from pathlib import Path\nfor name in {names}: (Path(output_folder) / name).write_text('new')\n"


@pytest.mark.parametrize(
    ("source", "reason"),
    [("1 / 0", "ZeroDivisionError"), ("x = 1", "without writing"), ("import os; os._exit(1)", "one failed")],
)
def test_failed_notebook_leaves_the_published_one_in_place(
    source: str, reason: str, tmp_path: Path, execute_cell: Callable[..., nbformat.NotebookNode]
) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "notebook.ipynb").write_text("old")
    with pytest.raises(NotebookError, match=reason):
        execute_cell(source)
    assert (folder / "notebook.ipynb").read_text() == "old"
    assert {path.name for path in folder.iterdir()} == {"notebook.ipynb", "notebook.failed.ipynb"}


def test_publishing_removes_what_was_published_before_and_nothing_else(
    tmp_path: Path, execute_cell: Callable[..., nbformat.NotebookNode]
) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    own = ["notes.md", "my_analysis.ipynb", "extra.csv", "photo.png"]
    for name in [*own, "notebook.failed.ipynb"]:
        (folder / name).write_text("own")
    execute_cell(WRITE.format(names=["table.csv", "old.png"]))
    execute_cell(WRITE.format(names=["table.csv", "new.png"]))
    made = ["table.csv", "new.png", "notebook.ipynb", "notebook.html", notebooks.MANIFEST]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*own, *made])
    assert {(folder / name).read_text() for name in own} == {"own"}


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_every_published_file_has_the_mode_that_the_umask_says(
    umask: int, tmp_path: Path, execute_cell: Callable[..., nbformat.NotebookNode]
) -> None:
    before = os.umask(umask)
    try:
        execute_cell(WRITE.format(names=["table.csv"]))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "published").iterdir()}
    assert len(modes) == 4 and set(modes.values()) == {0o666 & ~umask}


def test_what_is_published_tells_nothing_of_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, execute_cell: Callable[..., nbformat.NotebookNode]
) -> None:
    """In a folder with an accent, by a user whose home cannot be written, and who has settings of his own."""
    source = WRITE.format(names=["table.csv"]) + (
        "import sys, warnings, matplotlib.pyplot as plt\nwarnings.warn('careful')\n"
        "print(output_folder, sys.prefix, object())\nplt.plot([1, 2]);"
    )
    execute_cell(source, folder=tmp_path / "plain")
    first = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    monkeypatch.setenv("HOME", "/proc")
    for name in ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "IPYTHONDIR"):
        monkeypatch.delenv(name, raising=False)
    execute_cell(source, folder=tmp_path / "r\u00e9sultats \U0001d4e9")
    assert {path.name: path.read_bytes() for path in (tmp_path / "r\u00e9sultats \U0001d4e9").iterdir()} == first
    told = first["notebook.ipynb"].decode()
    assert not [place for place in (tmp_path, PROJECT_ROOT, sys.prefix, "/tmp") if str(place) in told]
    assert "careful" in told


def test_the_users_own_settings_stay_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, execute_cell: Callable[..., nbformat.NotebookNode]
) -> None:
    """Neither matplotlib's nor IPython's nor Jupyter's; a kernel called python3 of another environment is not ours.

    What ours says is encrypted.
    """
    home = tmp_path / "home"
    spec = '{"argv": ["/nowhere/python", "-f", "{connection_file}"], "language": "python", "display_name": "theirs"}'
    files = {
        ".config/matplotlib/matplotlibrc": "image.origin: lower",
        ".ipython/profile_default/startup/dark.py": "import matplotlib as m; m.rcParams['axes.facecolor'] = 'black'",
        ".ipython/profile_default/ipython_config.py": "get_config().InteractiveShellApp.exec_lines = ['1 / 0']",
        "startup.py": "1 / 0",
        ".local/share/jupyter/kernels/python3/kernel.json": spec,
        "elsewhere/kernels/python3/kernel.json": spec,
        ".local/share/jupyter/nbconvert/templates/lab/base.html.j2": "theirs",
    }
    for name, text in files.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("JUPYTER_PATH", str(home / "elsewhere"))
    monkeypatch.setenv("PYTHONSTARTUP", str(home / "startup.py"))
    for name in ("MPLCONFIGDIR", "MATPLOTLIBRC", "XDG_CONFIG_HOME", "IPYTHONDIR", "JUPYTER_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    source = "import matplotlib as m; print(m.rcParams['image.origin'], m.rcParams['axes.facecolor'])"
    source += "; import ipykernel as k; print('curve_secretkey' in k.get_connection_info(unpack=True))"
    notebook = execute_cell(WRITE.format(names=["table.csv"]) + source)
    assert [output.get("text") for output in notebook.cells[-1].outputs] == ["upper white\nTrue\n"]
    assert (tmp_path / "published/notebook.html").read_text() != "theirs"


@pytest.mark.parametrize("variable", ["INFOVAE_STORE", "INFOVAE_RESULTS", "INFOVAE_DATA", "INFOVAE_CACHE"])
def test_a_relative_folder_is_the_same_one_in_a_kernel(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, execute_cell: Callable[..., nbformat.NotebookNode]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, "here/é")
    source = f"import os; (Path(output_folder) / 'told').write_text(os.environ['{variable}'])"
    execute_cell(WRITE.format(names=["table.csv"]) + source)
    assert (tmp_path / "published/told").read_text() == str(tmp_path / "here/é")
    assert os.environ[variable] == "here/é"


HOLD = """
import sys, time
from pathlib import Path
from infovae.publishing.notebooks import hold
from infovae.paths import WriteError
folder = Path(sys.argv[1])
"""
WAIT = (
    HOLD
    + """
with hold(folder):
    print("held", flush=True)
    time.sleep(60)
"""
)
COMPETE = (
    HOLD
    + """
for _ in range(300):
    try:
        with hold(folder):
            (folder / "inside").touch(exist_ok=False)
            (folder / "inside").unlink()
    except WriteError:
        pass
"""
)


def test_a_folder_belongs_to_one_command_at_a_time(tmp_path: Path) -> None:
    """While the first one lives, the second is refused and its staging folder stays; once it is gone, they go too."""
    with subprocess.Popen(
        [sys.executable, "-c", WAIT, str(tmp_path)], cwd=PROJECT_ROOT, stdout=subprocess.PIPE
    ) as first:
        try:
            assert first.stdout and first.stdout.readline() == b"held\n"
            (tmp_path / "a/.staging-x").mkdir(parents=True)
            for _ in range(2):
                with pytest.raises(WriteError, match=f"^process {first.pid} is writing to {tmp_path}: [^\\n]*$"):
                    hold(tmp_path).__enter__()
            assert (tmp_path / "a/.staging-x").is_dir()
        finally:
            first.kill()
    assert (tmp_path / ".lock").read_text() == str(first.pid)
    with hold(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
        assert not (tmp_path / "a/.staging-x").exists()
        with pytest.raises(WriteError, match=f"process {os.getpid()} is writing"), hold(tmp_path):
            pass
    assert not (tmp_path / ".lock").exists()


def test_of_many_commands_at_once_one_holds_the_folder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", COMPETE, str(tmp_path)]
    processes = [subprocess.Popen(command, cwd=PROJECT_ROOT) for _ in range(3)]
    assert [process.wait() for process in processes] == [0] * 3


def contents_manager(root: Path) -> LargeFileManager:
    """JupyterLab's own contents manager, with the settings that its command line gives it."""
    options = dict(word.removeprefix("--").split("=", 1) for word in lab.command()[3:] if "=" in word)
    assert options["ServerApp.root_dir"] == str(root)
    return LargeFileManager(root_dir=str(root), pre_save_hook=options["ContentsManager.pre_save_hook"])


def run_all(content: dict[str, Any]) -> None:
    """Leave in a notebook what JupyterLab does when every cell is run."""
    for number, cell in enumerate(content["cells"]):
        cell["metadata"] |= {"trusted": True, "scrolled": True, "execution": {"iopub.status.busy": "2026"}}
        if cell["cell_type"] == "code":
            cell["execution_count"] = number + 1
            cell["outputs"] = [nbformat.v4.new_output("stream", text="printed in a cell")]
    content["metadata"]["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
    content["metadata"]["language_info"] = {"name": "python", "version": "3.11.2"}


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_saving_in_jupyterlab_keeps_a_source_notebook_clean(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notebooks").mkdir()
    copy = shutil.copy(source, tmp_path / "notebooks" / source.name)
    shutil.copy(source, tmp_path / "notebooks" / "01_first.ipynb")
    monkeypatch.setattr(lab, "PROJECT_ROOT", tmp_path)
    monkeypatch.setattr(lab, "SOURCE", tmp_path / "notebooks")
    contents = contents_manager(tmp_path)
    model = contents.get(f"notebooks/{source.name}")
    run_all(model["content"])
    contents.save(model, f"notebooks/{source.name}")
    assert Path(copy).read_bytes() == source.read_bytes()
    model["content"]["cells"][0]["source"] = "changed"
    contents.save(model, f"notebooks/{source.name}")
    assert b'"changed"' in Path(copy).read_bytes() and b"printed in a cell" not in Path(copy).read_bytes()
    (tmp_path / "results").mkdir()
    run_all(model["content"])
    contents.save(model, "results/mine.ipynb")
    assert b"printed in a cell" in (tmp_path / "results/mine.ipynb").read_bytes()


def test_jupyterlab_serves_the_project_and_opens_the_first_notebook(tmp_path: Path) -> None:
    """Started by the command line, as root where the tests are."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkey = {"JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_TOKEN": "t", "JUPYTER_PORT": str(port), "BROWSER": "true"}
    environment = {**os.environ, **monkey, "JUPYTER_RUNTIME_DIR": str(tmp_path), "INFOVAE_STORE": "kept"}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "infovae", "lab"], env=environment, cwd=PROJECT_ROOT, stderr=log
        )
    try:
        url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        while "/lab/tree/notebooks/0" not in (tmp_path / "log").read_text():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.2)
        while True:  # it says where it is before it listens
            try:
                with urllib.request.urlopen(f"{url}/api/contents/results?token=t") as answer:
                    assert "bench.csv" in {entry["name"] for entry in json.load(answer)["content"]}
                break
            except urllib.error.URLError:
                assert time.monotonic() < deadline
                time.sleep(0.2)
    finally:
        process.terminate()
        process.wait(30)


def test_help_lists_the_commands(tmp_path: Path) -> None:
    done = command_line("--help", home=tmp_path)
    assert all(command in done.stdout for command in ("reproduce", "run", "report", "data"))
