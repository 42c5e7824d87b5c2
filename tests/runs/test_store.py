"""What is kept comes back, and what is damaged counts as absent."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tiny
from safetensors.numpy import load, save

from infovae.config import ClassifierConfig, LatentEvaluation, SampleEvaluation
from infovae.paths import WriteError
from infovae.runs.store import Arrays, Store, pack, unpack

WEIGHTS = save({"w": np.arange(3.0)})
TRAINING = {"history": [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 0.1 + 0.2}], "train_seconds": 1.0}
LATENT, SAMPLES = LatentEvaluation(), SampleEvaluation(classifier=ClassifierConfig(dataset="digits"))
METRICS = {"rate": float("inf"), "units": 3, "squared_mmd": 1.234567890123e-3}
ARRAYS = {
    "samples": (np.arange(2 * 64).reshape(2, 1, 8, 8) % 3 == 0).astype(np.uint8),
    "z": np.linspace(-2, 2, 8, dtype=np.float32).reshape(4, 2),
    "labels": np.arange(4),
}


def keep(store: Store, run: str = "a", weights: bytes = WEIGHTS) -> None:
    """Keep a run with two evaluations."""
    store.save_run(run, tiny(), weights, TRAINING)
    store.save_evaluation(run, LATENT, METRICS, ARRAYS)
    store.save_evaluation(run, SAMPLES, {"class_cross_entropy": 0.05}, {"samples": ARRAYS["samples"]})


def read(store: Store) -> list[Any]:
    """Return all that `keep` has kept, as far as it is whole."""
    arrays = store.load_arrays("a", LATENT)
    return [store.load_run("a"), store.load_evaluation("a", LATENT), {name: a.tolist() for name, a in arrays.items()}]


def test_run_comes_back(store: Store) -> None:
    keep(store)
    record = store.load_run("a")
    assert record and record["history"] == TRAINING["history"] and record["config"] == tiny().model_dump(mode="json")
    assert store.load_weights("a") == WEIGHTS
    assert store.load_run("b") is None and store.load_weights("b") is None


def test_evaluation_comes_back_with_its_arrays(store: Store) -> None:
    keep(store)
    assert store.load_evaluation("a", LATENT) == METRICS
    assert store.load_evaluation("a", LatentEvaluation(n_images=500)) is None
    found = store.load_arrays("a", LATENT)
    assert found.keys() == ARRAYS.keys() and np.abs(found["z"] - ARRAYS["z"]).max() < 1e-3
    assert all(np.array_equal(found[name], ARRAYS[name]) for name in ("samples", "labels"))


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"nothing": np.empty((0, 3), np.float32)},
        {"bits": np.ones((3, 5), np.uint8), "grey": np.full(3, 255, np.uint8)},
        {"far": np.array([1e30, np.nan, np.inf]), "near": np.array([0.5, -0.25])},
    ],
    ids=lambda arrays: ",".join(arrays),
)
def test_packed_arrays_come_back(arrays: Arrays) -> None:
    found = unpack(pack(arrays))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert (
            np.array_equal(found[name], array, equal_nan=array.dtype.kind == "f") and found[name].shape == array.shape
        )
    assert pack(arrays) == pack(arrays)


def flip_digit(content: bytes, choose: random.Random) -> bytes:
    """Change one digit of a text into another."""
    place = choose.choice([n for n, byte in enumerate(content) if chr(byte).isdigit()])
    digit = choose.choice([d for d in b"0123456789" if d != content[place]])
    return content[:place] + bytes([digit]) + content[place + 1 :]


def flip_bit(content: bytes, choose: random.Random) -> bytes:
    """Change one bit anywhere."""
    place = choose.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << choose.randrange(8)]) + content[place + 1 :]


@pytest.mark.parametrize("published", [False, True], ids=["store", "published"])
@pytest.mark.parametrize("damage", [flip_digit, flip_bit])
def test_one_flipped_digit_or_bit_is_never_believed(
    damage: Callable[[bytes, random.Random], bytes], published: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """200 flips: each leaves the run as it was, or absent in whole or part and a line that says so."""
    store, choose = Store(tmp_path / "store"), random.Random(0)
    keep(store)
    if published:
        assert store.publish("a", [LATENT], tmp_path / "results" / "quick")
        store = Store(tmp_path / "nothing", tmp_path / "results")
    folder = tmp_path / ("results" if published else "store")
    files = [path for path in folder.rglob("*") if path.suffix == ".json" or (damage is flip_bit and path.is_file())]
    files = [path for path in files if not path.name.startswith("Sample")]
    whole, wholly_read = read(store), store.load_weights("a")
    assert whole[1] == METRICS
    for _ in range(200):
        path = choose.choice(files)
        content = path.read_bytes()
        path.write_bytes(damage(content, choose))
        caplog.clear()
        found = read(store)
        assert found != whole or (path.suffix == ".safetensors" and store.load_weights("a") is None), path
        assert all(part in (right, None, {}) for part, right in zip(found, whole, strict=True)), path
        assert "again" in caplog.text
        path.write_bytes(content)
    assert read(store) == whole and store.load_weights("a") == wholly_read


@pytest.mark.parametrize("damage", [b"", b'{"config": 1', b"[]", b'"text"', b'{"other": "schema"}', b"\xff\xfe", b"1"])
def test_damaged_record_counts_as_absent(store: Store, damage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    keep(store)
    (store.root / "runs/a/record.json").write_bytes(damage)
    assert store.load_run("a") is None and store.load_evaluation("a", LATENT) is None
    assert "making it again" in caplog.text


def test_folder_of_another_run_is_not_believed(store: Store) -> None:
    keep(store)
    (store.root / "runs/a").rename(store.root / "runs/b")
    assert store.load_run("b") is None


def test_evaluations_of_other_weights_do_not_count(store: Store) -> None:
    """As after a training that was done again elsewhere, and was killed before its evaluations."""
    keep(store)
    store.save_run("a", tiny(), save({"w": np.ones(3)}), TRAINING)
    assert store.load_evaluation("a", LATENT) is None and store.load_arrays("a", LATENT) == {}
    keep(store)
    assert store.load_evaluation("a", LATENT) == METRICS


def test_damaged_weights_are_not_given_out_and_leave_the_numbers(store: Store) -> None:
    keep(store)
    path = store.root / "runs/a/model.safetensors"
    path.write_bytes(WEIGHTS[:-1] + b"x")
    assert store.load_weights("a") is None and store.load_evaluation("a", LATENT) == METRICS
    path.unlink()
    assert store.load_weights("a") is None and store.load_evaluation("a", LATENT) == METRICS


def test_classifier_is_kept_as_a_run_is(store: Store) -> None:
    store.save_run("c", ClassifierConfig(dataset="digits"), WEIGHTS, {})
    assert store.load_weights("c") == WEIGHTS and store.holds("c") and not store.holds("d")
    (store.root / "runs/c/model.safetensors").write_bytes(b"x")
    assert store.load_weights("c") is None


def test_damaged_checkpoint_is_not_gone_on_from(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.save_checkpoint("abc", 5, b"old")
    store.save_checkpoint("abc", 10, b"new")
    (store.root / "runs/abc/checkpoint-mine.safetensors").write_bytes(b"")  # not of this program: passed over
    assert store.load_checkpoint("abc") == b"new"
    store.save_checkpoint("abc", 7, b"of a process that began later")
    assert store.load_checkpoint("abc") == b"new"
    (store.root / "runs/abc/checkpoint-mine.safetensors").unlink()
    for path in store.root.rglob("checkpoint-*"):
        path.write_bytes(b"torn")
    assert store.load_checkpoint("abc") is None and "damaged" in caplog.text


def test_published_run_is_read_where_the_store_has_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    keep(store)
    results = store.root.parent / "results"
    assert store.publish("a", [LATENT, SAMPLES], results / "quick", weights=True)
    assert not store.publish("a", [LatentEvaluation(n_images=500)], results / "laptop")  # not whole
    assert not store.publish("b", [], results / "laptop") and not (results / "laptop").exists()
    before = read(store)
    (store.root / "runs").rename(store.root / "gone")
    again = read(Store())
    assert again[0]["history"] == before[0]["history"] and again[1:] == before[1:]
    assert Store().load_weights("a") is None and Store().load_evaluation("a", SAMPLES)  # its weights are rounded
    assert Store(store.root).load_run("a") is None  # a store at a given root stands alone
    monkeypatch.setenv("INFOVAE_PUBLISHED", "0")
    assert Store().load_run("a") is None


def test_publishing_again_changes_no_byte(store: Store, tmp_path: Path) -> None:
    keep(store)
    folder = tmp_path / "results" / "quick"
    seen = []
    for source in (store, store, Store(tmp_path / "nothing", tmp_path / "results")):
        assert source.publish("a", [SAMPLES, LATENT], folder, weights=True)
        seen.append({path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()})
    assert seen[0].keys() == {"a.json", "a.npz", "a.safetensors"} and seen[0] == seen[1] == seen[2]


def test_weights_are_published_at_half_precision_where_it_spans_them(store: Store, tmp_path: Path) -> None:
    w, wide = (np.array(values, np.float32) for values in ([1 / 3, -2], [1e6]))
    arrays = {"w": w, "wide": wide, "n": np.array(3)}
    keep(store, weights=save(arrays))
    folder = tmp_path / "results" / "quick"
    assert store.publish("a", [LATENT], folder, weights=True)
    published = load((folder / "weights" / "a.safetensors").read_bytes())
    assert {name: array.dtype.name for name, array in published.items()} == {
        "w": "float16", "wide": "float32", "n": "int64"
    }  # fmt: skip
    assert all(np.abs(published[name] / array - 1).max() < 2**-11 for name, array in arrays.items())
    assert store.load_weights("a") == save(arrays)
    seen = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (store.root / "runs" / "a" / "model.safetensors").unlink()  # the published ones are still those of the record
    assert store.publish("a", [LATENT], folder, weights=True)
    assert {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == seen


def test_published_weights_of_another_training_are_removed(store: Store, tmp_path: Path) -> None:
    keep(store, weights=save({"w": np.ones(2, np.float32)}))
    assert store.publish("a", [LATENT], tmp_path, weights=True) and (tmp_path / "weights/a.safetensors").is_file()
    keep(store, weights=save({"w": np.zeros(2, np.float32)}))
    assert store.publish("a", [LATENT], tmp_path) and not (tmp_path / "weights/a.safetensors").exists()


def test_a_run_that_another_folder_published_claims_no_weights(store: Store, tmp_path: Path) -> None:
    keep(store, weights=save({"w": np.ones(2, np.float32)}))
    assert store.publish("a", [LATENT], tmp_path / "one", weights=True)
    elsewhere = Store(tmp_path / "nothing", tmp_path)  # has it from the published files alone
    assert elsewhere.publish("a", [LATENT], tmp_path / "two")
    records = [json.loads((tmp_path / name / "runs" / "a.json").read_text()) for name in ("one", "two")]
    assert ["published_weights_sha256" in record for record in records] == [True, False]


def test_store_that_is_deleted_while_in_use_is_a_clear_error(store: Store) -> None:
    keep(store)
    shutil.rmtree(store.root)
    with pytest.raises(WriteError, match="was deleted while it was in use: run it again"):
        store.save_evaluation("a", SAMPLES, METRICS, {})


def test_codes_are_published_where_they_are_drawn(store: Store, tmp_path: Path) -> None:
    keep(store)
    store.save_evaluation("a", LATENT, METRICS, {**ARRAYS, "z": np.zeros((4, 10), np.float32)})
    assert store.publish("a", [LATENT], tmp_path / "quick")
    assert Store(tmp_path / "nothing", tmp_path).load_arrays("a", LATENT).keys() == {"samples"}


def test_evaluation_made_of_published_weights_belongs_to_the_published_run(store: Store) -> None:
    keep(store)
    store.publish("a", [LATENT], store.root.parent / "results" / "quick", weights=True)
    (store.root / "runs").rename(store.root / "gone")
    store.save_evaluation("a", SAMPLES, {"class_cross_entropy": 0.5}, {})
    assert store.load_evaluation("a", SAMPLES) == {"class_cross_entropy": 0.5}
    assert store.load_evaluation("a", LATENT) == METRICS
