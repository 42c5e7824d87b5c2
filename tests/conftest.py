"""Shared by the tests: the embedded digits, and a store and results folder of each test's own."""

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from infovae.config import RunConfig
from infovae.data.datasets import ImageData, load
from infovae.model.networks import Decoder
from infovae.paths import PROJECT_ROOT, WriteError
from infovae.runs.cluster import Job
from infovae.runs.store import Store

settings.register_profile("shared-machine", deadline=None)  # a slow machine is not a failing test
settings.load_profile("shared-machine")
torch.set_num_threads(1)  # as in a worker: on busy cores two threads are many times slower than one


@pytest.fixture(scope="session")
def digits() -> ImageData:
    """Scikit-learn's 8x8 digits: no download."""
    return load("digits")


@pytest.fixture(autouse=True)
def logging_left_as_found() -> Iterator[None]:
    """The command line, called within the process, sets how much is logged: the next test must not see it."""
    logger = logging.getLogger("infovae")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An empty store, also the default one of everything that asks for it."""
    monkeypatch.setenv("INFOVAE_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("INFOVAE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("INFOVAE_DEVICE", "cpu")
    return Store()


def execute_here(
    jobs: dict[str, Job],
    load: Callable[[str], ImageData],
    report: Callable[[set[str]], None],
    tell: Callable[[str, str], None],
) -> None:
    """Do the jobs of a sweep in this process, one after the other, in place of `cluster.execute`."""
    left = set(jobs)
    report(left)
    for key, job in sorted(jobs.items(), key=lambda item: item[1].rank):
        assert not job.needs & left
        try:
            reasons = job.keep(job.function(key, load(job.dataset), **job.prepare()))
        except WriteError:
            raise
        except Exception as error:
            reasons = [f"{type(error).__name__}: {error}"]
        tell(key, "; ".join(reasons))
        left.discard(key)
        report(left)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sweeps start no cluster."""
    monkeypatch.setattr("infovae.runs.sweep.execute", execute_here)


def tiny(**changes: object) -> RunConfig:
    """Return a run on the digits that takes a fraction of a second."""
    values: dict[str, object] = {
        "dataset": "digits",
        "n_train": 500,
        "steps": 20,
        "batch_size": 25,
        "latent_dim": 2,
        "receptive_radius": 4,
    }
    if changes.get("objective") == "unconditional":
        del values["latent_dim"]
    return RunConfig(**{**values, "pixelcnn_layers": 1, "pixelcnn_channels": 4, **changes})  # type: ignore[arg-type]


def sample_naively(decoder: Decoder, z: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Return what an autoregressive decoder samples, by a forward pass for each pixel."""
    x = torch.zeros_like(uniforms)
    for i in range(x.shape[2]):
        for j in range(x.shape[3]):
            x[:, :, i, j] = (uniforms[:, :, i, j] < torch.sigmoid(decoder(x, z)[:, :, i, j])).to(x.dtype)
    return x


def command_line(*arguments: str, home: Path, status: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with a store and results of its own; check the exit status."""
    folders = {"INFOVAE_STORE": str(home / "store"), "INFOVAE_RESULTS": str(home / "results"), "INFOVAE_DEVICE": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "infovae", *arguments],
        env={**os.environ, **folders, **environment},
        cwd=PROJECT_ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that takes longest: it is one worker's, while another does all others."""
    items.sort(key=lambda item: item.path.name != "test_reproduce.py")
