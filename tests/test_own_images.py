"""The promise to users with images of their own: one command, no network; models to load, pages to read."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from pages import Page, check
from PIL import Image
from sklearn.datasets import load_digits

import infovae
from infovae.paths import PROJECT_ROOT
from infovae.publishing.notebooks import EXPLORER, FURTHER, execute
from infovae.trained.explore import ways_between

pytestmark = pytest.mark.timeout(1800)  # seconds: a minute or two on an idle machine

N_PICTURES = 500
PARAMETERS = "latent_dims=[2] objectives=[elbo,mmd] seeds=[0] steps=5 decoder=conv n_samples=100"
NO_NETWORK = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]


def in_no_network(command: list[str]) -> list[str]:
    """Return the command in a network namespace with nothing but loopback, where this machine allows one."""
    try:
        allowed = subprocess.run([*NO_NETWORK, "true"], capture_output=True).returncode == 0
    except OSError:
        allowed = False
    return [*NO_NETWORK, *command] if allowed else command


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 500 pictures of 30 x 30 pixels, and what one command makes of it."""
    home = tmp_path_factory.mktemp("own")
    (home / "pictures").mkdir()
    for number, digit in enumerate(load_digits().images[:N_PICTURES]):
        large = np.kron(digit, np.ones((3, 3))) * 255 / 16
        picture = np.pad(large, 3).astype(np.uint8)
        Image.fromarray(picture).save(home / "pictures" / f"{number}.png")
    text = f"dataset={home / 'pictures'} {PARAMETERS}"
    command = [sys.executable, "-m", "infovae", "run", "divergence_comparison", "-p", text]
    folders = {f"INFOVAE_{name}": str(home / name.lower()) for name in ("STORE", "RESULTS", "CACHE")}
    environment = {**os.environ, **folders, "INFOVAE_DEVICE": "cpu"}
    done = subprocess.run(in_no_network(command), env=environment, cwd=PROJECT_ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "I(x;z), nats" in done.stdout
    return home


@pytest.fixture
def environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folders of that command."""
    for name in ("STORE", "RESULTS", "CACHE"):
        monkeypatch.setenv(f"INFOVAE_{name}", str(home / name.lower()))
    monkeypatch.setenv("INFOVAE_DEVICE", "cpu")


def test_a_folder_of_pictures_gives_tables_and_figures(home: Path) -> None:
    folder = home / "results" / "custom" / "divergence_comparison"
    runs = pd.read_csv(folder / "runs.csv")
    assert list(runs["objective"]) == ["elbo", "mmd"] and (runs["status"] == "done").all()
    assert (runs["n_train"] == 400).all() and runs["dataset"].str.startswith("images:").all()
    assert runs[["mutual_information", "squared_mmd", "reconstruction_nll"]].notna().all(axis=None)
    assert runs["class_cross_entropy"].isna().all()  # no labels, no classifier
    table = pd.read_csv(folder / "table.csv")
    assert set(table["objective"]) == {"elbo", "mmd"}
    assert {"five_panels.png", "latent_plane.png", "samples.png"} <= {path.name for path in folder.glob("*.png")}
    check(folder / "notebook.html")
    assert {"five_panels.png", "samples.png"} <= set(Page(folder / "notebook.html").loads)  # not copies of them


def test_its_models_can_be_loaded(home: Path, environment: None) -> None:
    model = infovae.load("results/custom/divergence_comparison", objective="mmd")
    picture = np.asarray(Image.open(home / "pictures" / "0.png"))
    assert model.image_shape == (32, 32)
    assert model.sample(3).shape == model.reconstruct(np.stack([picture] * 3)).shape == (3, 32, 32)
    large = np.asarray([picture] * 2)
    assert ways_between(model, large, large, steps=2).shape == (8, 32, 32)  # pictures that were padded for training
    by_path = infovae.load(home / "store", dataset=home / "pictures", objective="mmd")
    np.testing.assert_array_equal(by_path.sample(3), model.sample(3))


def test_the_explorer_shows_its_models_and_trains_nothing(home: Path, environment: None) -> None:
    before = set((home / "store" / "runs").iterdir())
    folder = home / "results" / "custom" / FURTHER[EXPLORER]
    execute(EXPLORER, {"results": "custom"}, folder, proof="table.csv")
    notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert str(home) not in (folder / "notebook.ipynb").read_text(encoding="utf-8")
    assert "image/png" in (folder / "notebook.ipynb").read_text(encoding="utf-8")
    check(folder / "notebook.html")
    assert set((home / "store" / "runs").iterdir()) == before
    distances = pd.read_csv(folder / "table.csv")
    assert list(distances["objective"]) == ["VAE", "MMD", "test images"] and (distances["median_distance"] > 0).all()
