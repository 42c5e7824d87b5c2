"""Finished work on disk, found by the fingerprint of what produced it: a store of one's own, and published runs.

    STORE/runs/<run id>/record.json          configuration, history, seconds; written last: its presence means "trained"
    STORE/runs/<run id>/model.safetensors    weights
    STORE/runs/<run id>/checkpoint-<step>-<sum>.safetensors     the state of a run in progress
    STORE/runs/<run id>/<evaluation>.json    the numbers of one evaluation
    STORE/runs/<run id>/<evaluation>.npz     its arrays, for the figures: samples, codes
    STORE/runs/<run id>/<run or evaluation>.failure    why it failed, until it is tried again

    RESULTS/PROFILE/runs/<run id>.json       a run as it was published: its record and every evaluation of it
    RESULTS/PROFILE/runs/<run id>.npz        its arrays
    RESULTS/PROFILE/weights/<run id>.safetensors    weights at half precision, of some runs

The store is a cache that may be deleted at any time. Published runs are read where the store has none, and written by
`Store.publish` alone. Every file carries a checksum: what is damaged, of another version or in another run's place
counts as absent and is made again, with a warning. Only the driver of a sweep writes here.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from infovae.config import Evaluation, Settings
from infovae.paths import WriteError, project_path, results_root, write_atomically
from infovae.refusals import flag

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]

FORMAT = 1
"""Part of every checksum: raise it when records written before can no longer be read."""


class KeptEvaluation(NamedTuple):
    """One evaluation as it was found: its numbers, and its arrays as a file's content and a prefix of their names."""

    metrics: dict[str, Any]
    arrays: bytes
    prefix: str


class Store:
    """The store at `root`, with the published runs of every folder of `results` behind it.

    Without a root it is the user's own: in the folder that INFOVAE_STORE names, else `.infovae` beside the package,
    with the published runs below INFOVAE_RESULTS unless INFOVAE_PUBLISHED=0. A store at a given root has only the
    published runs that it is given.
    """

    def __init__(self, root: Path | None = None, results: Path | None = None) -> None:
        self.root = root or project_path("INFOVAE_STORE", ".infovae")
        if root is None and results is None and flag("INFOVAE_PUBLISHED", default=True):
            results = results_root()
        self.results = results

    def save_run(self, run_id: str, config: Settings, weights: bytes, training: dict[str, Any]) -> None:
        """Keep a trained model or classifier (`weights` in safetensors format) and its record: history, seconds, ..."""
        folder = self._run(run_id)
        record = {"config": config.model_dump(mode="json"), "weights_sha256": _sha256(weights), **training}
        write_atomically(folder / "model.safetensors", weights)
        write_atomically(folder / "record.json", _seal(record, run_id))
        for checkpoint in folder.glob("checkpoint-*"):
            checkpoint.unlink(missing_ok=True)

    def save_failure(self, run_id: str, reason: str, evaluation: Evaluation | None = None) -> None:
        """Keep why a run, or an evaluation of it, could not be made; without a reason, forget why it could not be."""
        path = self._failure(run_id, evaluation)
        if reason:
            write_atomically(path, reason.encode())
        else:
            path.unlink(missing_ok=True)

    def load_failure(self, run_id: str, evaluation: Evaluation | None = None) -> str:
        """Return why a run, or an evaluation of it, could not be made when it was last tried; empty if not known."""
        return (_read(self._failure(run_id, evaluation)) or b"").decode(errors="replace")

    def _failure(self, run_id: str, evaluation: Evaluation | None) -> Path:
        return self._run(run_id) / f"{_name(evaluation) if evaluation else 'run'}.failure"

    def save_checkpoint(self, run_id: str, step: int, state: bytes) -> None:
        """Keep the state of a run in progress after `step` steps, in place of the one before."""
        folder = self._run(run_id)
        path = folder / f"checkpoint-{step:09d}-{_sha256(state)[:16]}.safetensors"
        write_atomically(path, state)
        for older in folder.glob("checkpoint-*"):
            if older.name < path.name:  # of another process that trains the same run, and is farther, it stays
                older.unlink(missing_ok=True)

    def drop_checkpoint(self, run_id: str, state_sha256: str) -> None:
        """Remove a state that no run can go on from: it would be found again before those of fewer steps."""
        for path in self._run(run_id).glob(f"checkpoint-*-{state_sha256[:16]}.safetensors"):
            path.unlink(missing_ok=True)

    def load_checkpoint(self, run_id: str) -> bytes | None:
        """Return the latest state of a run in progress, None if there is none that is whole."""
        for path in sorted(self._run(run_id).glob("checkpoint-*.safetensors"), reverse=True):
            state = _read(path)
            if state is not None and path.stem.endswith(f"-{_sha256(state)[:16]}"):
                return state
            log.warning("the checkpoint of run %s is damaged: going back", run_id)
        return None

    def holds(self, run_id: str) -> bool:
        """Return whether the store itself, and not the published results alone, has the record of a run."""
        return (self._run(run_id) / "record.json").is_file()

    def load_run(self, run_id: str) -> dict[str, Any] | None:
        """Return the record of a finished run, None if there is none: `config`, `history`, `train_seconds`, ..."""
        record = read_record(self._run(run_id) / "record.json", run_id)
        return record or next((found for _, found in self._published(run_id)), None)

    def load_weights(self, run_id: str) -> bytes | None:
        """Return the weights of a finished run, None if they are missing or not those that its record names.

        Published ones are rounded: they are never those.
        """
        record, path = self.load_run(run_id), self._run(run_id) / "model.safetensors"
        weights = _read(path) if record else None
        if record and weights is not None and _sha256(weights) != record["weights_sha256"]:
            log.warning("%s is damaged or of another training: leaving it out, training again if need be", path)
            return None
        return weights

    def save_evaluation(self, run_id: str, evaluation: Evaluation, metrics: dict[str, Any], arrays: Arrays) -> None:
        """Keep the numbers of one evaluation of a finished run and, at half precision, its arrays."""
        run = self.load_run(run_id)
        if run is None:
            raise WriteError(f"{self._run(run_id)} was deleted while it was in use: run it again")
        name, content = _name(evaluation), pack(arrays)
        path = self._run(run_id) / f"{name}.json"
        write_atomically(path.with_suffix(".npz"), content)
        record = {
            "evaluation": evaluation.model_dump(mode="json"),
            "metrics": metrics,
            "arrays_sha256": _sha256(content),
            "weights_sha256": run["weights_sha256"],
        }
        write_atomically(path, _seal(record, f"{run_id}/{name}"))
        self.save_failure(run_id, "", evaluation)

    def load_evaluation(self, run_id: str, evaluation: Evaluation) -> dict[str, Any] | None:
        """Return the numbers of one evaluation, None if it has not been made of the run as `load_run` returns it."""
        found = self._find(run_id, evaluation)
        return found.metrics if found else None

    def load_arrays(self, run_id: str, evaluation: Evaluation) -> Arrays:
        """Return the arrays of one evaluation; empty if it has none."""
        found = self._find(run_id, evaluation)
        return unpack(found.arrays, found.prefix) if found else {}

    def publish(self, run_id: str, evaluations: Iterable[Evaluation], folder: Path, weights: bool = False) -> bool:
        """Write a run that is here with all these evaluations into a results folder; say whether it is.

        With `weights` its weights are written too, if they are here.
        """
        run = self.load_run(run_id)
        if run is None:
            return False
        arrays: Arrays = {}
        parts = {}
        for evaluation in sorted(evaluations, key=_name):
            name, kept = _name(evaluation), self._find(run_id, evaluation)
            if kept is None:
                return False
            parts[name] = {"evaluation": evaluation.model_dump(mode="json"), "metrics": kept.metrics}
            arrays |= {f"{name}/{key}": array for key, array in _small(unpack(kept.arrays, kept.prefix)).items()}
        content = pack(arrays)
        path = folder / "runs" / f"{run_id}.json"
        record = {**run, "evaluations": parts, "arrays_sha256": _sha256(content)}
        record.pop("published_weights_sha256", None)  # a run that another folder publishes has that folder's
        if weights and (model := self.load_weights(run_id)) is not None:
            model = round_weights(model)
            record["published_weights_sha256"] = _sha256(model)
            write_atomically(folder / "weights" / f"{run_id}.safetensors", model)
        elif (before := read_record(path, f"{run_id}/published")) and before["weights_sha256"] == run["weights_sha256"]:
            record |= {name: before[name] for name in ("published_weights_sha256",) if name in before}
        else:  # those of another training
            (folder / "weights" / f"{run_id}.safetensors").unlink(missing_ok=True)
        write_atomically(path.with_suffix(".npz"), content)
        write_atomically(path, _seal(record, f"{run_id}/published"))
        return True

    def _find(self, run_id: str, evaluation: Evaluation) -> KeptEvaluation | None:
        """Return an evaluation of the run that `load_run` returns: numbers of two trainings are never mixed."""
        run = self.load_run(run_id)
        if run is None:
            return None
        name = _name(evaluation)
        path = self._run(run_id) / f"{name}.json"
        record = read_record(path, f"{run_id}/{name}")
        candidates = [(path, record, record["metrics"], "")] if record else []
        for file, published in self._published(run_id):
            if name in published["evaluations"]:
                candidates.append((file, published, published["evaluations"][name]["metrics"], f"{name}/"))
        for file, found, metrics, prefix in candidates:
            if found["weights_sha256"] != run["weights_sha256"]:
                continue
            arrays = _read(file.with_suffix(".npz"))
            if arrays is not None and _sha256(arrays) == found["arrays_sha256"]:
                return KeptEvaluation(metrics, arrays, prefix)
            log.warning("the arrays beside %s are gone or damaged: making the evaluation again", file)
        return None

    def _published(self, run_id: str) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Yield the file of a published run in each results folder, with its record."""
        for runs in sorted(self.results.glob("*/runs")) if self.results else ():
            path = runs / f"{run_id}.json"
            if record := read_record(path, f"{run_id}/published"):
                yield path, record

    def _run(self, run_id: str) -> Path:
        return self.root / "runs" / run_id


def unpublish(folder: Path, keep: set[str]) -> None:
    """Remove from a results folder the published runs of other ids; what is not one is left alone."""
    for path in (folder / "runs").glob("*.json"):
        if path.stem not in keep and read_record(path, f"{path.stem}/published"):
            for file in (folder / "weights" / f"{path.stem}.safetensors", path.with_suffix(".npz"), path):
                file.unlink(missing_ok=True)


def to_json(value: Any) -> bytes:
    """Serialise deterministically; NaN and infinity as null would lose them, so they are written as Python does."""
    return json.dumps(value, indent=1, sort_keys=True).encode()


def pack(arrays: Arrays) -> bytes:
    """Return arrays as one compressed .npz: floats at half precision if it spans them, zeros and ones as bits."""
    entries: Arrays = {}
    for name, array in arrays.items():
        if array.dtype == np.uint8 and array.size and array.max() <= 1:
            entries |= {f"{name}.bits": np.packbits(array), f"{name}.shape": np.array(array.shape)}
        elif array.dtype.kind == "f" and np.abs(array).max(initial=0) < np.finfo(np.float16).max:
            entries[name] = array.astype(np.float16)
        else:
            entries[name] = array
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **entries)
    return file.getvalue()


def unpack(content: bytes, prefix: str = "") -> Arrays:
    """Return the arrays that `pack` was given whose names begin with `prefix`, without it."""
    arrays: Arrays = {}
    with np.load(io.BytesIO(content), allow_pickle=False) as file:
        for entry in [entry for entry in file.files if entry.startswith(prefix) and not entry.endswith(".shape")]:
            array, name = file[entry], entry.removeprefix(prefix)
            if name.endswith(".bits"):
                name = name.removesuffix(".bits")
                shape = file[f"{prefix}{name}.shape"]
                array = np.unpackbits(array, count=int(shape.prod())).reshape(shape)
            arrays[name] = array.astype(np.float32) if array.dtype == np.float16 else array
    return arrays


def round_weights(weights: bytes) -> bytes:
    """Return weights in safetensors format at half precision: each float32 tensor that float16 spans."""
    from safetensors.numpy import load, save

    arrays = load(weights)
    for name, array in arrays.items():
        if array.dtype == np.float32 and np.abs(array).max(initial=0) < np.finfo(np.float16).max:
            arrays[name] = array.astype(np.float16)
    return save(arrays)


def _small(arrays: Arrays) -> Arrays:
    """Leave out codes that are drawn nowhere: those that are not two-dimensional, and their labels."""
    z = arrays.get("z")
    undrawn = ("z", "labels") if z is not None and z.ndim == 2 and z.shape[1] != 2 else ()
    return {name: array for name, array in arrays.items() if name not in undrawn}


def _name(evaluation: Evaluation) -> str:
    return f"{type(evaluation).__name__}-{evaluation.fingerprint()}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _seal(record: dict[str, Any], place: str) -> bytes:
    """Return a record as JSON with a checksum over its content, this version and the place that it belongs to."""
    return to_json({**record, "sha256": _sha256(to_json([record, place, FORMAT]))})


def read_record(path: Path, place: str) -> dict[str, Any] | None:
    """Return the record of a file, None if there is none that is, to the bit, what was written for this place.

    The place of a run in a store is its id, that of a published run its id and `/published`.
    """
    content = _read(path)
    if content is None:
        return None
    try:
        record = json.loads(content)
        del record["sha256"]
        whole = _seal(record, place) == content
    except (ValueError, TypeError, KeyError, RecursionError):
        whole = False
    if not whole:
        log.warning("%s is damaged, of another version or another run's: making it again", path)
    return record if whole else None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("cannot read %s (%s): making it again", path, error.strerror)
        return None
