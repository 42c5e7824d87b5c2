"""What is kept comes back, what is damaged counts as absent, and no reader sees half a file."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import tiny
from safetensors.numpy import save

from infovae.config import LatentEvaluation
from infovae.store import Store, StoreError, run_id, write_atomically

WEIGHTS = save({"w": np.arange(3.0)})
TRAINING = {"history": [{"step": 1, "loss": 2.5}], "train_seconds": 1.0}


def test_run_comes_back(store: Store) -> None:
    store.save_run("a", tiny(), WEIGHTS, TRAINING)
    record = store.load_run("a")
    assert record is not None and record["history"] == TRAINING["history"]
    assert store.load_weights("a") == WEIGHTS
    assert store.load_run("b") is None and store.load_weights("b") is None


@pytest.mark.parametrize("damage", [b"", b'{"config": 1', b"[]", b'"text"', b'{"other": "schema"}', b"\xff\xfe"])
def test_damaged_record_counts_as_absent(store: Store, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    store.save_run("a", tiny(), WEIGHTS, TRAINING)
    (store.root / "runs/a/record.json").write_bytes(damage)
    assert store.load_run("a") is None
    assert "making it again" in caplog.text


def test_damaged_or_lost_weights_count_as_absent(store: Store) -> None:
    store.save_run("a", tiny(), WEIGHTS, TRAINING)
    path = store.root / "runs/a/model.safetensors"
    path.write_bytes(WEIGHTS[:-1] + b"x")
    assert store.load_weights("a") is None
    path.unlink()
    assert store.load_run("a") is None


def test_evaluation_comes_back_with_its_arrays(store: Store) -> None:
    evaluation = LatentEvaluation()
    store.save_evaluation("a", evaluation, {"rate": float("inf"), "units": 3}, {"z": np.eye(2)})
    assert store.load_evaluation("a", evaluation) == {"rate": float("inf"), "units": 3}
    assert np.array_equal(store.load_arrays("a", evaluation)["z"], np.eye(2))
    assert store.load_evaluation("a", LatentEvaluation(n_images=500)) is None


def test_classifier_comes_back_unless_damaged(store: Store) -> None:
    store.save_classifier("c", WEIGHTS)
    assert store.load_classifier("c") == WEIGHTS
    (store.root / "classifiers/c.safetensors").write_bytes(b"x")
    assert store.load_classifier("c") is None


def test_run_id_depends_on_configuration_and_data() -> None:
    assert run_id(tiny(), "data") == run_id(tiny(), "data")
    assert len({run_id(tiny(), "data"), run_id(tiny(seed=1), "data"), run_id(tiny(), "other")}) == 3


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    contents = [json.dumps([n] * 20_000).encode() for n in range(2)]
    write_atomically(path, contents[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                write_atomically(path, content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            assert path.read_bytes() in contents
    finally:
        stop.set()
        writer.join()
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_unwritable_store_is_a_clear_error_and_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
