"""A sweep trains what is missing, once, gives the same numbers with any number of workers, and survives a bad run."""

import os
import signal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import tiny

from infovae import sweep as sweep_module
from infovae import worker
from infovae.checkpoint import to_bytes
from infovae.config import ClassifierConfig, LatentEvaluation, PixelConfig, SampleEvaluation, SemiSupervisedEvaluation
from infovae.store import Store
from infovae.sweep import (
    Task,
    checkpoint_seconds,
    collect,
    collect_history,
    connect,
    count_workers,
    load_arrays,
    load_data,
    merge,
    plan,
    sweep,
    task_id,
)
from infovae.training import Training
from infovae.worker import train

LATENT = LatentEvaluation(n_images=200, n_likelihood=50)
SAMPLES = SampleEvaluation(classifier=ClassifierConfig(dataset="digits", steps=20), n_samples=20)
SEMI = SemiSupervisedEvaluation(n_labels=50, n_draws=1, n_unlabelled=50)
VOLATILE = ["train_seconds"]


def test_result_does_not_depend_on_the_number_of_workers(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = [Task(tiny(seed=seed), (LATENT, SAMPLES, SEMI)) for seed in (0, 1, 2)]
    frames = []
    for workers in ("1", "4"):
        monkeypatch.setenv("INFOVAE_WORKERS", workers)
        frames.append(sweep(tasks, Store(tmp_path / f"store-{workers}")).drop(columns=VOLATILE))
    pd.testing.assert_frame_equal(frames[0], frames[1], check_exact=True)
    assert list(frames[0]["status"]) == ["done"] * 3
    assert frames[0]["mutual_information"].nunique() == 3
    alone = sweep(tasks[:1], Store(tmp_path / "store-alone")).drop(columns=VOLATILE)
    pd.testing.assert_frame_equal(alone, frames[0][:1], check_exact=True)


def test_only_what_the_store_lacks_is_done(store: Store) -> None:
    tasks = [Task(tiny(), (LATENT,))]
    sweep(tasks, store)
    record = store.root.glob("runs/*/record.json").__next__()
    written = record.stat().st_mtime_ns
    assert plan(tasks, store) == {}
    more = [Task(tiny(), (LATENT, SEMI)), Task(PixelConfig(dataset="digits", n_train=500), (SEMI,))]
    assert [key.split("-")[0] for key in plan(merge(more), store)] == [
        "SemiSupervisedEvaluation", "train", "SemiSupervisedEvaluation",
    ]  # fmt: skip
    runs = sweep(more, store)
    assert record.stat().st_mtime_ns == written  # not trained again
    assert runs["svm_error"].between(0, 1).all()
    assert {"z", "labels"} <= load_arrays(tasks, LatentEvaluation, store)[0].keys()
    assert set(collect_history(tasks, store)["run_id"]) == {runs["run_id"][0]}


def test_failing_run_leaves_the_others_and_is_shown(store: Store) -> None:
    bad = tiny(learning_rate=1e6, objective="mmd", posterior_std="exp", steps=50)
    runs = sweep([Task(bad, (LATENT,)), Task(tiny(), (LATENT,))], store)
    assert runs["status"][0].startswith("failed: TrainingDiverged")
    assert runs["status"][1] == "done"
    assert pd.isna(runs["mutual_information"][0])
    assert len(plan([Task(bad, (LATENT,))], store)) == 2  # tried again by the next sweep


def die_or_train(config: PixelConfig, *rest: Any, **arguments: Any) -> Any:
    """Take this worker down, as the kernel does when memory is short, for every run of seed 0."""
    if config.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return train(config, *rest, **arguments)


def test_run_that_kills_its_workers_leaves_the_others_and_is_shown(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again, last of all alone; neither the data nor what waited on the same worker goes with it."""
    monkeypatch.setattr(worker, "train", die_or_train)
    monkeypatch.setenv("INFOVAE_WORKERS", "1")
    tasks = [Task(PixelConfig(dataset="digits", n_train=100, seed=seed), rank=seed) for seed in range(3)]
    seen: list[int] = []
    with caplog.at_level("INFO"):
        runs = sweep(tasks, store, lambda keys: seen.append(len(keys)))
    assert list(runs["status"]) == ["failed: its worker was killed: out of memory?", "done", "done"]
    assert "tried again, alone" in caplog.text
    assert seen[-1] == 0


def test_lost_weights_void_the_evaluations_made_with_them(store: Store) -> None:
    tasks = [Task(tiny(), (LATENT,))]
    sweep(tasks, store)
    next(store.root.glob("runs/*/model.safetensors")).unlink()
    assert [key.split("-")[0] for key in plan(tasks, store)] == ["train", "LatentEvaluation"]


def test_equal_configurations_are_one_task_with_all_evaluations() -> None:
    merged = merge([Task(tiny(), (LATENT,)), Task(tiny(seed=1)), Task(tiny(), (SEMI, LATENT))])
    assert [(task.config.seed, task.evaluations) for task in merged] == [(0, (LATENT, SEMI)), (1, ())]


def test_what_several_need_is_as_urgent_as_the_first_needs_it(store: Store) -> None:
    tasks = merge([Task(tiny(), (LATENT,), rank=2), Task(tiny(seed=1), rank=1), Task(tiny(), rank=0)])
    assert [task.rank for task in tasks] == [0, 1]
    assert {job.rank for job in plan(tasks, store).values() if "seed=0" in job.label} == {0}


def test_classifier_is_planned_once_for_all_who_need_it(store: Store) -> None:
    jobs = plan([Task(tiny(seed=seed), (SAMPLES,)) for seed in range(3)], store)
    assert sum(key.startswith("classifier") for key in jobs) == 1
    assert len(jobs) == 7


def test_run_in_pieces_is_the_run_in_one_piece(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [Task(tiny(steps=40, objective="jensen"), (LATENT,))]
    whole = sweep(tasks, Store(tmp_path / "other"))
    monkeypatch.setenv("INFOVAE_CHECKPOINT_SECONDS", "0.2")
    jobs = plan(tasks, store)
    assert [job.arguments.get("until") for job in jobs.values()] == [11, 22, 33, None, None]
    pieces = sweep(tasks, store)
    pd.testing.assert_frame_equal(pieces.drop(columns=VOLATILE), whole.drop(columns=VOLATILE))
    assert not list(store.root.rglob("checkpoint-*"))  # a finished run has none


def test_run_goes_on_from_its_last_whole_checkpoint(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOVAE_CHECKPOINT_SECONDS", "0.2")
    config = tiny(steps=40)
    first = next(iter(plan([Task(config)], store).values()))
    run = Training(config, load_data("digits"), torch.device("cpu"))
    run.advance(first.arguments["until"])
    first.save(to_bytes(run))
    assert [job.arguments.get("until") for job in plan([Task(config)], store).values()] == [22, 33, None]
    assert sweep([Task(config)], store)["status"].item() == "done"
    assert store.load_run(task_id(config))["history"][0]["step"] == 2  # type: ignore[index]  # the history is whole


def test_damaged_checkpoint_is_not_gone_on_from(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.save_checkpoint("abc", 5, b"old")
    store.save_checkpoint("abc", 10, b"new")
    assert store.load_checkpoint("abc") == (10, b"new")
    (path,) = store.root.rglob("checkpoint-*")
    path.write_bytes(b"torn")
    assert store.load_checkpoint("abc") is None and "damaged" in caplog.text


def test_checkpoint_seconds_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("often", "0", "nan", "-3"):
        monkeypatch.setenv("INFOVAE_CHECKPOINT_SECONDS", wrong)
        with pytest.raises(ValueError, match="INFOVAE_CHECKPOINT_SECONDS must be"):
            checkpoint_seconds()


def test_unfinished_runs_are_shown_as_such(store: Store) -> None:
    assert collect([Task(tiny())], store)["status"].item().startswith("failed")


def test_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOVAE_WORKERS", "5")
    assert count_workers() == 5
    for wrong in ("0", "two", "-1", "9999"):
        monkeypatch.setenv("INFOVAE_WORKERS", wrong)
        with pytest.raises(ValueError, match="INFOVAE_WORKERS must be"):
            count_workers()


def test_nothing_listens_beyond_loopback() -> None:
    with connect(1) as client:
        info = client.scheduler_info(n_workers=-1)
        (worker,) = info["workers"].values()
        addresses = [info["address"], worker["nanny"], *info["workers"], client.dashboard_link]
        assert len(addresses) == 4 and all("//127.0.0.1:" in address for address in addresses), addresses


def test_progress_names_what_is_left(store: Store) -> None:
    seen: list[int] = []
    sweep([Task(tiny(), (LATENT,))], store, lambda keys: seen.append(len(keys)))
    assert seen == [2, 1, 0]
    assert sweep_module.describe(tiny()) == "elbo α=0 λ=1 d=2 radius=4 seed=0"
