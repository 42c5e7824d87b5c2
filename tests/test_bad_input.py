"""Bad input, as tables: what is given, the exit status, the message. Status 2: refused; 1: work that failed.

Every case ends within `SECONDS`, in a message without a traceback, and leaves no file behind. A damaged store is not
refused but mended: the numbers are those of an undamaged one.
"""

import contextlib
import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner
from conftest import tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from infovae import notebooks, reproduce, worker
from infovae import sweep as sweep_module
from infovae.__main__ import main
from infovae.config import PROJECT_ROOT, ClassifierConfig, LatentEvaluation, ParameterError, SampleEvaluation
from infovae.experiments import MODULES, make_experiment
from infovae.parsers import to_idx
from infovae.sources import IDX_FILES
from infovae.store import Store
from infovae.sweep import Task, collect, connect, sweep, task_id
from infovae.training import choose_device

SECONDS = 5
EXECUTE = sweep_module._execute
TINY = "dataset=digits n_train=500 steps=5 seeds=[0] alphas=[1] lambdas=[10] receptive_radii=[5] latent_dim=2"
NOWHERE = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "", "PATH": ""}
"""Every connection is refused and no client is installed."""

fuzz = settings(max_examples=100, deadline=None, derandomize=True)


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """Import what the first command would, so that each case is charged with its own time alone."""
    import papermill  # noqa: F401

    choose_device()


@st.composite
def damaged(draw: st.DrawFn, original: bytes) -> bytes:
    """A well-formed original with up to three stretches overwritten, removed or inserted."""
    content = original
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        removed = draw(st.sampled_from([0, 1, 2, 4, len(content)]))
        content = content[:start] + draw(st.binary(max_size=8)) + content[start + removed :]
    return content


def refuse_to_train(*_: object) -> None:
    pytest.fail("bad input reached training")


@pytest.fixture
def ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a command that must end in the given status and message; nothing may be written below the test's folder."""
    home = tmp_path / "home"
    monkeypatch.setenv("INFOVAE_STORE", str(home / "store"))
    monkeypatch.setenv("INFOVAE_RESULTS", str(home / "results"))
    monkeypatch.setenv("INFOVAE_CACHE", str(home / "cache"))
    monkeypatch.setenv("INFOVAE_DEVICE", "cpu")
    monkeypatch.delenv("INFOVAE_DATA", raising=False)
    monkeypatch.setattr(sweep_module, "_execute", refuse_to_train)
    sweep_module.load_data.cache_clear()

    def run(arguments: tuple[str, ...], status: int, message: str, **environment: str) -> str:
        before = contents(tmp_path)
        start = time.perf_counter()
        result = CliRunner().invoke(main, list(arguments), env=environment)
        seconds = time.perf_counter() - start
        assert isinstance(result.exception, SystemExit), result.exception
        assert result.exit_code == status, result.output
        assert re.search(message, result.output, re.DOTALL), result.output
        assert "Traceback" not in result.output and "pydantic" not in result.output and len(result.output) < 2500
        assert seconds < SECONDS
        assert contents(tmp_path) == before
        assert status != 2 or not home.exists()
        return result.output

    return run


def contents(folder: Path) -> dict[Path, int]:
    kept = {"notebook.failed.ipynb"}  # on purpose, to be looked at
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*") if not path.is_dir() and path.name not in kept}


# Parameters. What the fields of an experiment refuse one by one stands in test_experiments.py.

LIST = "[" * 100_000
PARAMETERS = [
    # names
    ("latent_usage", "free_bits=0.5", "unknown parameter 'free_bits' .valid: dataset, seeds"),
    ("latent_usage", "Seeds=[0]", "unknown parameter 'Seeds'; did you mean 'seeds'"),
    ("latent_usage", "output_folder=x", "unknown parameter 'output_folder'"),
    ("latent_usage", "model_config=1", "unknown parameter 'model_config'"),
    ("latent_usage", "__class__=1", "unknown parameter '__class__'"),
    ("latent_usage", "{seeds}=[0]", "given as NAME=VALUE, such as seeds=.0., got '{seeds}=.0.'"),
    ("latent_usage", "seeds", "given as NAME=VALUE"),
    ("latent_usage", "seeds=[0] seeds=[1]", "parameter 'seeds' is given twice"),
    ("latent_usage", "x" * 100_000 + "=1", r"unknown parameter 'x+ \.\.\. x+' "),
    ("amortized_inference", "latent_dim=2", "unknown parameter 'latent_dim'"),
    # types
    ("latent_usage", "seeds=0", "parameter seeds: input should be a valid list, got 0"),
    ("latent_usage", "seeds=", "parameter seeds: input should be a valid list, got ''"),
    ("latent_usage", "seeds=[1.0]", r"parameter seeds\.0: input should be a valid integer, got 1\.0\n$"),
    ("latent_usage", "seeds=[true]", r"parameter seeds\.0: input should be a valid integer, got True\n$"),
    ("latent_usage", "seeds=[null]", r"seeds\.0: .* integer, got None\n$"),
    ("latent_usage", 'seeds=["0"]', r"seeds\.0: .* integer, got '0'\n$"),
    ("latent_usage", "seeds=[[0]]", r"seeds\.0: .* integer, got \[0\]\n$"),
    ("latent_usage", 'seeds={"a": 1}', "seeds: .* list, got {'a': 1}"),
    ("latent_usage", "seeds=[0", r"'\[0' is not a list in JSON notation"),
    ("latent_usage", "seeds=[0,]", r"seeds\.1: .* integer, got ''"),
    ("latent_usage", "seeds=[2024-99-99]", r"seeds\.0: .* integer, got '2024-99-99'"),
    ("latent_usage", "seeds=[!!int '']", r"seeds\.0: .* integer, got '!!int"),
    ("latent_usage", "steps=1e3", r"parameter steps: .* integer, got 1000\.0"),
    ("latent_usage", "dataset=null", "dataset: .*string, got None"),
    ("latent_usage", "dataset=[digits]", r"dataset: .*got \['digits'\]"),
    ("variance_overestimation", "n_trains=[500.0]", r"n_trains\.0: .* integer, got 500\.0"),
    # ranges
    ("latent_usage", "steps=0", "steps: .*greater than or equal to 1, got 0"),
    ("latent_usage", "learning_rate=NaN", "learning_rate: .*finite number, got nan"),
    ("latent_usage", "learning_rate=1e400", "learning_rate: .*finite number, got inf"),
    ("latent_usage", "alphas=[NaN]", r"alphas\.0: .*finite number, got nan"),
    ("latent_usage", "lambdas=[-Infinity]", r"lambdas\.0: .*finite number, got -inf"),
    ("latent_usage", "lambdas=[1e7]", r"lambdas\.0: .*less than or equal to 1000000"),
    ("latent_usage", "seeds=[-1]", r"seeds\.0: .*greater than or equal to 0, got -1"),
    ("latent_usage", f"seeds=[{2**31}]", r"seeds\.0: .*less than 2147483648"),
    ("latent_usage", f"steps={'9' * 5000}", r"steps: .*got '9+ \.\.\. 9+'"),
    ("latent_usage", f"seeds=[{'9' * 5000}]", r"seeds\.0: .*got '9+ \.\.\. 9+'"),
    ("latent_usage", "n_train=1", "n_train: .*greater than or equal to 2, got 1"),
    ("latent_usage", "n_train=50001", "n_train must be at most 50000 for mnist, got 50001"),
    ("divergence_comparison", "latent_dims=[0]", r"latent_dims\.0: .*greater than or equal to 1, got 0"),
    ("divergence_comparison", "latent_dims=[100000]", r"latent_dims\.0: .*less than or equal to 1024"),
    ("variance_overestimation", "n_trains=[1]", r"n_trains\.0: .*greater than or equal to 2"),
    ("variance_overestimation", "alpha=2", "alpha: .*less than or equal to 1, got 2"),
    ("log_likelihood", "n_draws=7", "n_draws: .*10, 100, 1000 or 10000, got 7"),
    # lists
    ("latent_usage", "alphas=[]", r"alphas: list should have at least 1 item .*got \[\]"),
    ("latent_usage", "seeds=[0,1,0]", "values must differ, 0 is repeated"),
    ("latent_usage", f"seeds={list(range(1001))}", "seeds: list should have at most 1000 items"),
    ("latent_usage", f"seeds={list(range(1000))} alphas={[i / 999 for i in range(999)]} receptive_radii=[4,5,6]",
     "1000 seeds x 999 alphas x 1 lambdas x 3 receptive_radii make 2997000 runs, at most 10000 are allowed"),
    # combinations
    ("latent_usage", "alphas=[0] lambdas=[0.5]", "alpha . lambda_ - 1 must not be negative.*alpha=0, lambda_=0.5"),
    ("latent_usage", "objective=unconditional", "'unconditional' has no divergence.*alpha . lambda_ must be 1"),
    ("latent_usage", "dataset=digits n_train=1001", "n_train must be at most 1000 for digits, got 1001"),
    ("semi_supervised", "dataset=digits n_train=500 n_labels=25 n_unlabelled=50", "multiple of .* has 10, got 25"),
    ("latent_usage", "receptive_radii=[2]", "receptive_radius must exceed pixelcnn_layers=2"),
    ("divergence_comparison", "objectives=[unconditional]", "objective 'unconditional' has no code.*got latent_dim=2"),
    ("divergence_comparison", "decoder=scalar", "encoder 'scalar' and decoder 'scalar' are for dataset 'two_points'"),
    ("semi_supervised", "n_labels=9000 n_unlabelled=5000", "at most 10000 .*got 9000 . 5000"),
    ("amortized_inference", "dataset=mnist", "dataset: .*'two_points', got 'mnist'"),
    ("log_likelihood", "decoders=[dense] objectives=[unconditional]", "needs decoder 'pixelcnn'.*nothing is left"),
    # hostile text
    ("latent_usage", "objective={mmd}", "objective: .*'mmd'.*got '{mmd}'"),
    ("latent_usage", 'objective="mmd', "objective: .*got '\"mmd'"),
    ("latent_usage", "objective=m\nmd", r"objective: .*got 'm\\nmd'"),
    ("latent_usage", "objective=m\0md", r"objective: .*got 'm\\x00md'"),
    ("latent_usage", "objective=\x1b[31mmmd", r"objective: .*got '\\x1b\[31mmmd'"),
    ("latent_usage", "objective=\ud800", "objective: .*valid string"),
    ("latent_usage", "objective=$(touch home)", r"objective: .*got '\$\(touch home\)'"),
    ("latent_usage", "seeds=!!python/object:os.system [0]", "seeds: .*valid list, got '!!python"),
    ("latent_usage", f"objective={'x' * 100_000}", r"objective: .*got 'x+ \.\.\. x+'"),
    ("latent_usage", f"steps={LIST}", r"steps: .*integer, got '\[+ \.\.\. \[+'"),
    ("latent_usage", f"seeds={LIST}", "is not a list in JSON notation .*recursion"),
    ("latent_usage", f"seeds={LIST}{LIST.replace('[', ']')}", "is not a list in JSON notation"),
    ("latent_usage", "steps=" + '{"a":' * 50_000, "steps: .*integer"),
]  # fmt: skip


def label(value: object) -> str:
    if isinstance(value, bytes):
        value = re.sub(rb"^\x1f\x8b.*", b"gzip", value, flags=re.DOTALL)  # it holds the time, and ids must repeat
    return getattr(value, "__name__", ascii(value))[:50]


@pytest.mark.parametrize(("experiment", "text", "message"), PARAMETERS, ids=label)
def test_parameters(experiment: str, text: str, message: str, ends: Callable[..., str]) -> None:
    ends(("run", experiment, "-p", text), 2, message)


# Commands

COMMANDS = [
    ((), "Commands:"),
    (("repoduce",), "unknown command 'repoduce'; did you mean 'reproduce'"),
    (("--nope",), "No such option"),
    (("run",), "Missing argument 'EXPERIMENT'"),
    (("run", "latent_usage", "-p"), "requires an argument"),
    (("run", "latent_usage", "seeds=[0]"), "unexpected extra argument"),
    (("run", "latent_use"), "unknown experiment 'latent_use'; did you mean 'latent_usage'"),
    (("run", "../latent_usage"), "unknown experiment '../latent_usage'"),
    (("run", ""), "name an experiment, such as EXPERIMENT=latent_usage; there are: tuning,"),
    (("run", "latent_usage", "--profile", "../quick"), "unknown profile '../quick'.*valid: smoke, quick"),
    (("run", "latent_usage", "--profile", "/etc/passwd"), "unknown profile"),
    (("reproduce", "--profile", "quick.yaml"), "unknown profile 'quick.yaml'; did you mean 'quick'"),
    (("reproduce", "--profile", "*"), r"unknown profile '\*'"),
    (("reproduce", "--profile", "\0"), r"unknown profile '\\x00'"),
    (("report", "--profile", "../results"), "unknown profile '../results'"),
    (("report", "--profile", "smoke"), "holds no results yet: run `make reproduce PROFILE=smoke` first"),
    (("data", "mnsit"), "unknown data set 'mnsit'; did you mean 'mnist'"),
    (("data", "digits", "../mnist"), "unknown data set '../mnist'"),
]


@pytest.mark.parametrize(("arguments", "message"), COMMANDS, ids=label)
def test_commands(arguments: tuple[str, ...], message: str, ends: Callable[..., str]) -> None:
    output = ends(arguments, 2, message)
    assert "training images" not in output


# Profiles

PROFILES = [
    (b"", "must map experiments to their parameters"),
    (b"a: [", "mine.yaml is not readable YAML"),
    (b"\xff\xfe\x00", "not readable YAML: .*codec can't decode"),
    (b"a\0: {}", "not readable YAML: .*special characters"),
    (b"latent_usage:", "must map experiments"),
    (b"latent_usage: [seeds]", "must map experiments"),
    (b"--- {}\n--- {}", "not readable YAML: .*single document"),
    (b"latent_use: {}", "unknown experiment 'latent_use'; did you mean 'latent_usage'"),
    (b"1: {}", "unknown experiment '1'"),
    (b"[a, b]: {}", "not readable YAML: .*key"),
    (b"latent_usage: {1: 2}", "mine.yaml, latent_usage: parameter 1: keys should be strings"),
    (b"latent_usage: {lamdas: [1]}", "mine.yaml, latent_usage: unknown parameter 'lamdas'; did you mean 'lambdas'"),
    (b"latent_usage: {steps: 5}\nlatent_usage: {steps: 6}", "key 'latent_usage' is given twice.*line 1"),
    (b"latent_usage:\n  steps: 5\n  steps: 6", "key 'steps' is given twice.*line 2"),
    (b"a: &x {}\nb: *x", "no alias and no tag.*line 2"),
    (b"latent_usage: {seeds: &x [*x]}", "no alias and no tag"),
    (b"latent_usage: !!python/object/apply:os.mkdir [home]", "no alias and no tag.*line 1"),
    (b"latent_usage: {seeds: [!!int '']}", "no alias and no tag"),
    (b"latent_usage: {seeds: [2024-99-99]}", "not readable YAML: month must be in 1"),
    (b"a: " + b"[" * 100_000, "nested too deeply"),
    (b"latent_usage: {learning_rate: .nan}", "learning_rate: .*finite number"),
    (b"latent_usage: {learning_rate: 1e-3}", "learning_rate: .*valid number, got '1e-3'"),
    (None, "mine.yaml is not readable YAML: .*Is a directory"),
]


@pytest.mark.parametrize(("content", "message"), PROFILES, ids=label)
def test_profiles(
    content: bytes | None, message: str, ends: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduce, "PROFILES", tmp_path)
    path = tmp_path / "mine.yaml"
    path.mkdir() if content is None else path.write_bytes(content)
    ends(("reproduce", "--profile", "mine"), 2, message)


# The environment: {file} is a file, {home} a folder that does not exist, {long} a name that no file system takes

ENVIRONMENT = [
    ({"INFOVAE_WORKERS": "two"}, 2, "INFOVAE_WORKERS must be a whole number from 1 to 1024, got 'two'"),
    ({"INFOVAE_WORKERS": "0"}, 2, "INFOVAE_WORKERS must be"),
    ({"INFOVAE_WORKERS": "²"}, 2, "INFOVAE_WORKERS must be"),
    ({"INFOVAE_WORKERS": "9" * 5000}, 2, r"INFOVAE_WORKERS must be.*\.\.\. 9"),
    ({"INFOVAE_COMPILE": "yes"}, 2, "INFOVAE_COMPILE must be 0 or 1, got 'yes'"),
    ({"INFOVAE_DEVICE": "warp"}, 2, "INFOVAE_DEVICE='warp' cannot be used: Expected one of cpu, cuda"),
    ({"INFOVAE_DEVICE": "cuda:99"}, 2, "INFOVAE_DEVICE='cuda:99' cannot be used"),
    ({"INFOVAE_DEVICE": "meta"}, 2, "INFOVAE_DEVICE='meta' cannot be used"),
    ({"INFOVAE_DEVICE": "hpu"}, 2, "INFOVAE_DEVICE='hpu' cannot be used"),
    ({"INFOVAE_STORE": "{file}/store"}, 1, "cannot write to .*: Not a directory. Set INFOVAE_STORE"),
    ({"INFOVAE_STORE": "{long}"}, 1, "cannot write to .*File name too long. Set INFOVAE_STORE"),
    ({"INFOVAE_RESULTS": "{file}"}, 1, "cannot write to .*: Not a directory. Set INFOVAE_RESULTS"),
    ({"INFOVAE_RESULTS": "/proc/none"}, 1, "cannot write to /proc/none.* Set INFOVAE_RESULTS"),
]


@pytest.mark.parametrize("command", [("run", "latent_usage", "-p", TINY), ("reproduce", "--profile", "smoke")])
@pytest.mark.parametrize(("environment", "status", "message"), ENVIRONMENT, ids=label)
def test_environment(
    command: tuple[str, ...],
    environment: dict[str, str],
    status: int,
    message: str,
    ends: Callable[..., str],
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    values = {"file": tmp_path / "file", "long": tmp_path / ("a" * 300)}
    ends(command, status, message, **{key: value.format(**values) for key, value in environment.items()})


def test_home_folder_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOVAE_STORE", "~/kept")
    assert Store().root == Path.home() / "kept"


# Data: what lies in the place of the training images

IMAGES = to_idx(np.zeros((60, 28, 28), np.uint8))
DATA = [
    (IMAGES, r"train-images-idx3-ubyte: idx data of shape \(60, 28, 28\) and another SHA-256"),
    (b"\n<!DOCTYPE html><title>Sign in</title>", "expected 0, 0, 8, .*found b'.n<!DOCTYPE"),
    (b"", "found b''"),
    (gzip.compress(IMAGES)[:-9], "cannot be read: EOFError"),
    ("folder", "missing in .*: train-images-idx3-ubyte"),
    ("/nowhere", "missing in .*: train-images-idx3-ubyte"),
    ("/proc/self/mem", "Input/output error"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), DATA, ids=label)
def test_data(content: bytes | str, message: str, ends: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for file in IDX_FILES[1:]:
        (folder / file).touch()
    path = folder / IDX_FILES[0]
    if content == "folder":
        path.mkdir()
    elif isinstance(content, str):
        path.symlink_to(content)
    else:
        path.write_bytes(content)
    ends(("data",), 1, f"INFOVAE_DATA: .*{message}.*What to do: set INFOVAE_DATA", INFOVAE_DATA=str(folder))


@pytest.mark.parametrize("named", ["{file}", "{nowhere}", "{long}", "~nobody-of-this-name/data"])
def test_data_folder(named: str, ends: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    values = {"file": tmp_path / "file", "nowhere": tmp_path / "nowhere", "long": tmp_path / ("a" * 300)}
    ends(("data",), 1, "(no such folder|name too long).*What to do", INFOVAE_DATA=named.format(**values))


def test_no_network(ends: Callable[..., str]) -> None:
    """Nothing answers: neither a mirror nor, to the real pip, an index."""
    tried = "mirror ossci.*ProxyError.*mirror cvdf.*ProxyError.*No such file or directory: 'npm'.*exit status"
    index = {"PIP_INDEX_URL": "http://127.0.0.1:9", "PIP_CONFIG_FILE": os.devnull}
    ends(("data",), 1, f"Tried, in this order:.*{tried}.*What to do: set INFOVAE_DATA", **NOWHERE, **index)


@pytest.mark.parametrize(
    ("path", "message"), [("{file}", "expected an .npz file"), ("{folder}", "expected PNG or JPEG")]
)
def test_own_images(path: str, message: str, ends: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.npz").write_text("no zip")
    dataset = path.format(file=tmp_path / "file.npz", folder=tmp_path / "empty")
    ends(("run", "latent_usage", "-p", f"dataset={dataset}"), 2, f"{dataset}: {message}")


# Folders and disks


def mount(folder: Path, *options: str) -> None:
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    """Where a test may mount a small file system."""
    folder = tmp_path / "mounted"
    yield folder
    if folder.is_mount():
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("variable", ["INFOVAE_STORE", "INFOVAE_RESULTS"])
def test_read_only_folder(variable: str, ends: Callable[..., str], mounted: Path) -> None:
    mount(mounted, "ro")
    message = f"cannot write to .*Read-only file system. Set {variable}"
    ends(("run", "latent_usage", "-p", TINY), 1, message, **{variable: str(mounted)})


def test_full_disk(ends: Callable[..., str], mounted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk holds a record, not the weights of a model: the first run to end says so."""
    mount(mounted, "size=8k")
    train_here(monkeypatch)
    message = "cannot write .*No space left on device. Finished runs are kept; free the disk or set INFOVAE_STORE"
    ends(("run", "latent_usage", "-p", TINY), 1, message, INFOVAE_STORE=str(mounted))
    assert not [path for path in mounted.rglob("*") if path.is_file()]


# Notebooks and kernels


def train_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a sweep do its jobs in this process, one after the other, as a worker would."""

    def execute(jobs: dict[str, sweep_module.Job], *_: object) -> dict[str, sweep_module.Failure]:
        results: dict[str, Any] = {}
        for key, job in jobs.items():
            arguments = {**job.arguments, **{argument: results[need] for argument, need in job.needs.items()}}
            arguments["data"] = sweep_module.load_data(arguments.pop("dataset"))
            results[key] = job.function(**arguments)
            job.save(results[key])
        return {}

    monkeypatch.setattr(sweep_module, "_execute", execute)
    monkeypatch.setattr(worker, "_reporter", lambda first, until: lambda step, loss: None)
    monkeypatch.setattr(worker, "_worker_device", choose_device)
    torch.optim.Adam([torch.zeros(1)])  # the first one of a process imports for seconds, which are not the command's


NOTEBOOKS = [
    (None, "No such file"),
    (b"", "JSON"),
    (b"{", "JSON"),
    (b"\xff\xfe", "decode"),
    (b"<html></html>", "JSON"),
    (b"[]", ""),
    (b"{}", "missing a key: cells"),
    (b'{"cells": 3, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', ""),
    (b'{"cells": [3], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}', ""),
    (b'{"cells": [], "metadata": {}, "nbformat": 99, "nbformat_minor": 0}', "version 99"),
]


@pytest.mark.parametrize(("content", "message"), NOTEBOOKS, ids=label)
def test_damaged_notebook(
    content: bytes | None, message: str, ends: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notebooks, "SOURCE", tmp_path)
    if content is not None:
        (tmp_path / "05_latent_usage.ipynb").write_bytes(content)
    ends(("run", "latent_usage", "-p", TINY), 1, f"05_latent_usage.ipynb is no readable notebook: .*{message}")


# The scheduler


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("tcp://127.0.0.1:{closed}", "no scheduler answers at DASK_SCHEDULER_ADDRESS='tcp://127.0.0.1:.*: Timed out"),
        ("tcp://127.0.0.1:{mute}", "no scheduler answers at .*: connected, but no answer"),
        ("nonsense", "no scheduler answers at DASK_SCHEDULER_ADDRESS='nonsense'"),
        ("carrier-pigeon://coop", "unknown address scheme 'carrier-pigeon'"),
    ],
)
def test_absent_scheduler(
    address: str, message: str, ends: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep_module, "_execute", EXECUTE)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        where = address.format(closed=closed_port(), mute=mute.getsockname()[1])
        ends(("run", "latent_usage", "-p", TINY), 1, message, DASK_SCHEDULER_ADDRESS=where)


@pytest.mark.filterwarnings("error::UserWarning")
def test_ports_in_use_disturb_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    monkeypatch.setenv("INFOVAE_WORKERS", "1")
    taken = []
    for port in (8786, 8787):  # Dask's own, of scheduler and dashboard
        with contextlib.suppress(OSError):  # in use already
            taken.append(socket.create_server(("127.0.0.1", port)))
    with connect(1) as client:
        assert client.submit(sum, [1, 2]).result() == 3
    for server in taken:
        server.close()


# Published results, from which a report is made

PUBLISHED = [
    ("parameters.json", b"{", "latent_usage is damaged .*: restore it"),
    ("parameters.json", b"[]", "latent_usage is damaged .*valid dictionary.*restore it"),
    ("parameters.json", b'{"lamdas": [1]}', "latent_usage is damaged .*did you mean 'lambdas'"),
    ("parameters.json", b"[" * 100_000, "latent_usage is damaged .*recursion"),
    ("parameters.json", b"\xff", "latent_usage is damaged .*decode"),
    ("runs.csv", b"", "latent_usage is damaged .*No columns"),
    ("runs.csv", b"\xff\xfe\0", "latent_usage is damaged .*decode"),
    ("runs.csv", b"a,b\n1,2\n", "runs.csv lacks the columns .'run_id', 'seed', 'status'"),
]


@pytest.mark.parametrize(("file", "content", "message"), PUBLISHED, ids=label)
def test_damaged_results(file: str, content: bytes, message: str, ends: Callable[..., str], tmp_path: Path) -> None:
    folder = tmp_path / "published" / "smoke" / "latent_usage"
    folder.mkdir(parents=True)
    (folder / "parameters.json").write_text("{}")
    (folder / "runs.csv").write_text("run_id,status,seed\n")
    (folder / file).write_bytes(content)
    ends(("report", "--profile", "smoke"), 2, message, INFOVAE_RESULTS=str(tmp_path / "published"))


# The store: damage is mended, and no number changes

LATENT = LatentEvaluation(n_images=200, n_likelihood=50)
SAMPLES = SampleEvaluation(classifier=ClassifierConfig(dataset="digits", steps=5), n_samples=20)
TASKS = [Task(tiny(seed=seed, steps=5), (LATENT, SAMPLES)) for seed in (0, 1)]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pd.DataFrame]:
    """A store with two runs, and what was computed from it."""
    root = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFOVAE_DEVICE", "cpu")
        train_here(patch)
        return root, sweep(TASKS, Store(root))


def edited(**changes: object) -> Callable[[bytes], bytes]:
    def edit(content: bytes) -> bytes:
        return json.dumps({**json.loads(content), **changes}).encode()

    edit.__name__ = f"edited {changes}"
    return edit


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


MENDED = [
    # (which file, its new content, what is done again)
    ("record.json", truncated, "train"),
    ("record.json", b"", "train"),
    ("record.json", b"null", "train"),
    ("record.json", b"[" * 100_000, "train"),
    ("record.json", b'{"schema": 1, "loss": 2}', "train"),
    ("record.json", edited(history="none"), "train"),
    ("record.json", edited(history=[[1, 2]]), "train"),
    ("record.json", edited(history=[{"squared_mmd": "0.1"}]), "train"),
    ("record.json", edited(train_seconds=None), "train"),
    ("record.json", edited(weights_sha256=3), "train"),
    ("record.json", edited(config={"objective": "mmd"}), "train"),
    ("model.safetensors", truncated, "train"),
    ("model.safetensors", b"<html></html>", "train"),
    ("Latent*.json", truncated, "Latent"),
    ("Latent*.json", b"[]", "Latent"),
    ("Latent*.json", edited(metrics=None), "Latent"),
    ("Latent*.json", edited(metrics={"squared_mmd": "small"}), "Latent"),
    ("Latent*.json", edited(metrics={"squared_mmd": True}), "Latent"),
    ("Latent*.json", edited(evaluation={"n_images": 100}), "Latent"),
    ("Latent*.json", edited(arrays="z"), "Latent"),
    ("Latent*.safetensors", truncated, "Latent"),
    ("Latent*.safetensors", b"", "Latent"),
    ("Sample*.safetensors", None, "Sample"),
]


def mend(tmp_path: Path, kept: tuple[Path, pd.DataFrame], damage: Callable[[Path], None]) -> list[str]:
    """Damage a copy of the store, sweep again, require the same numbers; return what was done again."""
    root = shutil.copytree(kept[0], tmp_path / "store")
    damage(root)
    store = Store(root)
    collect(TASKS, store)  # as a report would: no crash before the mending either
    done: list[set[str]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFOVAE_DEVICE", "cpu")
        train_here(patch)
        runs = sweep(TASKS, store, lambda keys: done.append(set(keys)))
    pd.testing.assert_frame_equal(
        runs.drop(columns="train_seconds"), kept[1].drop(columns="train_seconds"), check_exact=True
    )
    assert list(runs["status"]) == ["done", "done"]
    return sorted(key.split("-")[0].removesuffix("Evaluation") for key in done[0])


@pytest.mark.parametrize(("pattern", "content", "again"), MENDED, ids=label)
def test_damaged_store_is_mended(
    pattern: str,
    content: bytes | Callable[[bytes], bytes] | None,
    again: str,
    tmp_path: Path,
    kept: tuple[Path, pd.DataFrame],
    caplog: pytest.LogCaptureFixture,
) -> None:
    def damage(root: Path) -> None:
        (path,) = (root / "runs" / task_id(TASKS[0].config)).glob(pattern)
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content(path.read_bytes()) if callable(content) else content)

    expected = {"train": ["Latent", "Sample", "train"]}.get(again, [again])
    assert mend(tmp_path, kept, damage) == expected
    assert re.search("again", caplog.text)


def test_folder_of_another_run_is_not_believed(tmp_path: Path, kept: tuple[Path, pd.DataFrame]) -> None:
    """Its record and weights agree with each other, and are of the right shape: only the configuration tells."""
    first, second = (task_id(task.config) for task in TASKS)

    def damage(root: Path) -> None:
        shutil.rmtree(root / "runs" / first)
        shutil.copytree(root / "runs" / second, root / "runs" / first)

    assert mend(tmp_path, kept, damage) == ["Latent", "Sample", "train"]


def test_weights_of_another_shape_are_named(tmp_path: Path, kept: tuple[Path, pd.DataFrame]) -> None:
    """As after a change of the code without a new schema version: the record agrees, the model does not."""
    weights = Store(kept[0]).load_weights(task_id(TASKS[0].config))
    assert weights is not None
    wider = TASKS[0].config.model_copy(update={"latent_dim": 3})
    with pytest.raises(ValueError, match="the weights kept for this run do not fit its model: delete the folder"):
        worker.evaluate(LATENT, wider, weights, sweep_module.load_data("digits"))


# Any input at all


@given(st.text(max_size=60) | damaged(TINY.encode()).map(lambda content: content.decode(errors="replace")))
@fuzz
def test_any_text_is_parameters_or_refused(text: str) -> None:
    try:
        make_experiment("latent_usage", reproduce.parse_assignments([text]))
    except ParameterError as error:
        assert 0 < len(str(error)) < 3000


@given(st.binary(max_size=60) | damaged((PROJECT_ROOT / "notebooks/profiles/smoke.yaml").read_bytes()))
@fuzz
def test_any_bytes_are_a_profile_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "any.yaml").write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reproduce, "PROFILES", folder)
        try:
            assert set(reproduce.load_profile("any")) <= set(MODULES)
        except ParameterError as error:
            assert 0 < len(str(error)) < 3000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = ("config", "weights_sha256", "history", "train_seconds", "evaluation", "metrics", "arrays")


@given(JSON | st.fixed_dictionaries({}, optional={field: JSON for field in FIELDS}), st.sampled_from(FIELDS))
@fuzz
def test_any_json_in_the_store_is_a_record_or_absent(
    kept: tuple[Path, pd.DataFrame], tmp_path_factory: pytest.TempPathFactory, value: object, field: str
) -> None:
    identity = task_id(TASKS[0].config)
    root = tmp_path_factory.getbasetemp() / "fuzzed"
    folder = root / "runs" / identity
    if not folder.is_dir():
        shutil.copytree(kept[0] / "runs" / identity, folder)
    for path in folder.glob("*.json"):
        original = (kept[0] / "runs" / identity / path.name).read_bytes()
        path.write_text(json.dumps(value))
        collect(TASKS[:1], Store(root))
        path.write_bytes(edited(**{field: value})(original))
        collect(TASKS[:1], Store(root))
        path.write_bytes(original)
    assert collect(TASKS[:1], Store(root))["status"].item() == "done"
