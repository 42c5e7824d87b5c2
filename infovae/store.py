"""Finished work on disk, found by the fingerprint of what produced it. A cache: it may be deleted at any time.

    STORE/runs/<run id>/record.json          configuration, history, seconds; written last: its presence means "done"
    STORE/runs/<run id>/model.safetensors    weights
    STORE/runs/<run id>/checkpoint-<step>-<sum>.safetensors     the state of a run in progress
    STORE/runs/<run id>/<evaluation>.json    the numbers of one evaluation
    STORE/runs/<run id>/<evaluation>.safetensors    its arrays: samples, codes
    STORE/classifiers/<id>.safetensors

Whatever cannot be read (a truncated file, a foreign schema) counts as absent and is made again, with a warning.
Only the driver writes here; workers hand their results back over the wire.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from infovae.config import ClassifierConfig, Evaluation, PixelConfig, RunConfig, project_path

log = logging.getLogger(__name__)

Arrays = dict[str, np.ndarray]


class StoreError(RuntimeError):
    """The store cannot be written; the message says where, why and what to do."""


class _Record(BaseModel):
    """What a file must hold to be believed: "1" is no number and null is no list."""

    model_config = ConfigDict(strict=True)


class _RunRecord(_Record):
    config: dict[str, Any]
    weights_sha256: str
    history: list[dict[str, float]]
    train_seconds: float


class _EvaluationRecord(_Record):
    evaluation: dict[str, Any]
    metrics: dict[str, float]
    arrays: list[str]


class _ClassifierRecord(_Record):
    sha256: str


class Store:
    """The store at `root`, by default the folder named by INFOVAE_STORE, else `.infovae` beside the package."""

    def __init__(self, root: Path | None = None) -> None:
        self.root = root or project_path("INFOVAE_STORE", ".infovae")

    def save_run(self, run_id: str, config: RunConfig | PixelConfig, weights: bytes, training: dict[str, Any]) -> None:
        """Keep a trained model (`weights` in safetensors format) and its record: `history` and `train_seconds`."""
        folder = self._run(run_id)
        digest = hashlib.sha256(weights).hexdigest()
        record = {"config": config.model_dump(mode="json"), "weights_sha256": digest, **training}
        write_atomically(folder / "model.safetensors", weights)
        write_atomically(folder / "record.json", to_json(record))
        for checkpoint in folder.glob("checkpoint-*"):
            checkpoint.unlink(missing_ok=True)

    def save_checkpoint(self, run_id: str, step: int, state: bytes) -> None:
        """Keep the state of a run in progress after `step` steps, in place of the one before."""
        folder = self._run(run_id)
        path = folder / f"checkpoint-{step:09d}-{_sha256(state)[:16]}.safetensors"
        write_atomically(path, state)
        for older in folder.glob("checkpoint-*"):
            if older != path:
                older.unlink(missing_ok=True)

    def load_checkpoint(self, run_id: str) -> tuple[int, bytes] | None:
        """Return the latest state of a run in progress and its number of steps, None if there is none that is whole."""
        for path in sorted(self._run(run_id).glob("checkpoint-*.safetensors"), reverse=True):
            state = _read(path)
            _, step, digest = path.stem.split("-")
            if state is not None and _sha256(state).startswith(digest):
                return int(step), state
            log.warning("the checkpoint of run %s is damaged: going back", run_id)
        return None

    def load_run(self, run_id: str, config: RunConfig | PixelConfig | None = None) -> dict[str, Any] | None:
        """Return the record of a finished run, None if there is none, or none of that configuration."""
        record = _read_json(self._run(run_id) / "record.json", _RunRecord)
        if record and config and record["config"] != config.model_dump(mode="json"):
            log.warning("the record of run %s is that of another run: training it again", run_id)
            return None
        if record and not (self._run(run_id) / "model.safetensors").is_file():
            log.warning("the weights of run %s are gone: training it again", run_id)
            return None
        return record

    def load_weights(self, run_id: str, config: RunConfig | PixelConfig | None = None) -> bytes | None:
        """Return the weights of a finished run, None if they are missing or not those that were written."""
        record = self.load_run(run_id, config)
        if record is None:
            return None
        weights = _read(self._run(run_id) / "model.safetensors")
        if weights is None or hashlib.sha256(weights).hexdigest() != record["weights_sha256"]:
            log.warning("the weights of run %s are damaged: training it again", run_id)
            return None
        return weights

    def save_evaluation(self, run_id: str, evaluation: Evaluation, metrics: dict[str, Any], arrays: Arrays) -> None:
        """Keep the numbers and arrays of one evaluation of one run."""
        path = self._evaluation(run_id, evaluation)
        if arrays:
            write_atomically(path.with_suffix(".safetensors"), save_arrays(arrays))
        record = {"evaluation": evaluation.model_dump(mode="json"), "metrics": metrics, "arrays": sorted(arrays)}
        write_atomically(path, to_json(record))

    def load_evaluation(self, run_id: str, evaluation: Evaluation) -> dict[str, Any] | None:
        """Return the numbers of one evaluation, None if it has not been made, or its arrays are gone."""
        path = self._evaluation(run_id, evaluation)
        record = _read_json(path, _EvaluationRecord)
        if record is None:
            return None
        if record["evaluation"] != evaluation.model_dump(mode="json") or not _holds(path, record["arrays"]):
            log.warning("%s is that of another evaluation, or its arrays are gone: making it again", path)
            return None
        return record["metrics"]

    def load_arrays(self, run_id: str, evaluation: Evaluation) -> Arrays:
        """Return the arrays of one evaluation; empty if it has none."""
        data = _read(self._evaluation(run_id, evaluation).with_suffix(".safetensors"))
        try:
            return load_arrays(data) if data else {}
        except SafetensorError:
            log.warning("the arrays of run %s are damaged: leaving them out", run_id)
            return {}

    def save_classifier(self, classifier_id: str, weights: bytes) -> None:
        """Keep a trained classifier, with the sum of its bytes in its name's sidecar."""
        write_atomically(self._classifier(classifier_id), weights)
        write_atomically(self._classifier(classifier_id).with_suffix(".json"), to_json({"sha256": _sha256(weights)}))

    def load_classifier(self, classifier_id: str) -> bytes | None:
        """Return the weights of a trained classifier, None if there is none or it is damaged."""
        record = _read_json(self._classifier(classifier_id).with_suffix(".json"), _ClassifierRecord)
        weights = _read(self._classifier(classifier_id)) if record else None
        return weights if record and weights and _sha256(weights) == record["sha256"] else None

    def _run(self, run_id: str) -> Path:
        return self.root / "runs" / run_id

    def _evaluation(self, run_id: str, evaluation: Evaluation) -> Path:
        return self._run(run_id) / f"{type(evaluation).__name__}-{evaluation.fingerprint()}.json"

    def _classifier(self, classifier_id: str) -> Path:
        return self.root / "classifiers" / f"{classifier_id}.safetensors"


def run_id(config: RunConfig | PixelConfig | ClassifierConfig, data_checksum: str) -> str:
    """Return the identity of a run: its validated configuration, the schema version and the data's checksum."""
    return config.fingerprint(data_checksum)


def to_json(value: Any) -> bytes:
    """Serialise deterministically; NaN and infinity as null would lose them, so they are written as Python does."""
    return json.dumps(value, indent=1, sort_keys=True).encode()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file as a whole: a reader sees the old content or the new, never a part; nor does a kill leave one.

    Raises
    ------
    StoreError
        When the folder cannot be written, for instance on a full disk; the old file stays as it was.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as file:  # its mode is what the user's umask says
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = f"cannot write {path}: {error.strerror or error}"
        raise StoreError(
            f"{reason}. Finished runs are kept; free the disk or set INFOVAE_STORE, then run again"
        ) from error
    finally:
        with contextlib.suppress(OSError):  # its folder is none
            temporary.unlink(missing_ok=True)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("cannot read %s (%s): making it again", path, error.strerror)
        return None


def _read_json(path: Path, model: type[_Record]) -> dict[str, Any] | None:
    content = _read(path)
    if content is None:
        return None
    try:
        record = json.loads(content)
        model.model_validate(record)
    except (ValueError, RecursionError):  # pydantic's errors are ValueErrors
        log.warning("%s is damaged or of another version: making it again", path)
        return None
    return record


def _holds(path: Path, arrays: list[str]) -> bool:
    """Say whether the arrays of an evaluation are there: header and length of the file, not every bit."""
    if not arrays:
        return True
    try:
        with safe_open(path.with_suffix(".safetensors"), framework="numpy") as file:
            return sorted(file.keys()) == arrays
    except (OSError, SafetensorError):
        return False
