"""A sweep trains what is missing, once, gives the same numbers with any number of workers, and survives a bad run."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import dask
import pandas as pd
import pytest
import requests
import torch
from conftest import execute_here, tiny
from distributed import Security, comm
from safetensors.torch import save

from infovae.config import (
    ClassifierConfig,
    LatentEvaluation,
    PixelConfig,
    PosteriorEvaluation,
    SampleEvaluation,
    SemiSupervisedEvaluation,
)
from infovae.data.datasets import ImageData
from infovae.evaluation import evaluate
from infovae.paths import PROJECT_ROOT
from infovae.refusals import ParameterError
from infovae.runs import cluster, worker
from infovae.runs.checkpoint import to_bytes
from infovae.runs.cluster import connect, count_workers
from infovae.runs.store import Store
from infovae.runs.sweep import (
    Task,
    checkpoint_seconds,
    collect_history,
    describe,
    load_arrays,
    load_data,
    merge,
    plan,
    publish_runs,
    seconds_per_image,
    sweep,
    task_id,
)
from infovae.runs.worker import Parcels, do_run, take
from infovae.training import Training, train

LATENT = LatentEvaluation(n_images=200, n_likelihood=50)
SAMPLES = SampleEvaluation(classifier=ClassifierConfig(dataset="digits", steps=20), n_samples=20)
SEMI = SemiSupervisedEvaluation(n_labels=50, n_draws=1, n_unlabelled=50)
VOLATILE = ["train_seconds"]


def test_result_does_not_depend_on_the_number_of_workers(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor on whether there is a cluster, nor on how often its state is kept: two workers, or all in this process."""
    tasks = [Task(tiny(seed=seed, objective="jensen"), (LATENT, SAMPLES, SEMI)) for seed in (0, 1, 2)]
    with monkeypatch.context() as here:
        here.setattr("infovae.runs.sweep.execute", execute_here)
        alone = sweep(tasks, Store(tmp_path / "store-alone")).drop(columns=VOLATILE)
    monkeypatch.setenv("INFOVAE_WORKERS", "2")
    monkeypatch.setenv("INFOVAE_CHECKPOINT_SECONDS", "0.2")
    runs = sweep(tasks, store).drop(columns=VOLATILE)
    pd.testing.assert_frame_equal(runs, alone, check_exact=True)
    assert list(runs["status"]) == ["done"] * 3
    assert runs["mutual_information"].nunique() == 3
    assert not list(tmp_path.rglob("checkpoint-*"))  # a finished run has none


def test_a_model_is_evaluated_as_training_left_it(digits: ImageData) -> None:
    """In evaluation mode: with the running statistics of batch normalisation, not those of what is measured."""
    trained = train(tiny(), digits, torch.device("cpu"))
    weights = save({name: tensor.contiguous() for name, tensor in trained.model.state_dict().items()})
    found, _ = worker.evaluate(LATENT, tiny(), weights, digits, None)
    expected, _ = evaluate(LATENT, tiny(), trained.model, digits, torch.device("cpu"))
    assert found == expected
    assert evaluate(LATENT, tiny(), trained.model.train(), digits, torch.device("cpu"))[0] != expected


def test_only_what_the_store_lacks_is_done(store: Store, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one job per run; and nothing at all where nothing may be trained."""
    tasks = [Task(tiny(), (LATENT,))]
    seen: list[int] = []
    monkeypatch.setenv("INFOVAE_TRAIN", "0")
    assert sweep(tasks, store, lambda keys: seen.append(len(keys)))["status"].item() == "not run"
    monkeypatch.delenv("INFOVAE_TRAIN")
    sweep(tasks, store, lambda keys: seen.append(len(keys)))
    assert seen == [0, 1, 0]
    record = next(store.root.glob("runs/*/record.json"))
    written = record.stat().st_mtime_ns
    assert plan(tasks, store) == {}
    pixels = PixelConfig(dataset="digits", n_train=500)
    more = [Task(tiny(), (LATENT, SEMI)), Task(pixels, (SEMI,))]
    assert plan(more, store).keys() == {task_id(tiny()), task_id(pixels)}
    runs = sweep(more, store)
    assert record.stat().st_mtime_ns == written  # not trained again
    assert runs["svm_error"].between(0, 1).all()
    assert runs["precision"][0] == "auto" and set(runs["trained_precision"]) <= {"float32", "bfloat16"}
    assert {"z", "labels"} <= load_arrays(tasks, LatentEvaluation, store)[0].keys()
    assert set(collect_history(tasks, store)["run_id"]) == {runs["run_id"][0]}


def test_failing_runs_and_evaluations_leave_the_others_and_are_shown(
    store: Store, here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever cannot be evaluated is trained, and keeps weights and other evaluations."""
    bad = tiny(learning_rate=1e6, objective="mmd", posterior_std="exp", steps=50)
    impossible = PosteriorEvaluation()  # of a code of two dimensions
    tasks = [Task(bad, (LATENT,)), Task(tiny(), (impossible, LATENT))]
    runs = sweep(tasks, store)
    assert runs["status"][0].startswith("failed: TrainingDiverged")
    assert runs["status"][1].startswith("failed: ") and "mutual_information" not in runs
    assert store.load_weights(task_id(tiny())) and store.load_evaluation(task_id(tiny()), LATENT)
    assert plan(tasks, store).keys() == set(runs["run_id"])  # tried again by the next sweep
    monkeypatch.setenv("INFOVAE_TRAIN", "0")  # as in the notebooks of a sweep: said again, and not tried
    assert list(sweep(tasks, store)["status"]) == list(runs["status"])
    assert list(sweep([Task(tiny(), (LATENT,))], store)["status"]) == ["done"]
    assert list(sweep([Task(tiny(), (SEMI,))], store)["status"]) == ["not run"]  # which was never tried
    monkeypatch.delenv("INFOVAE_TRAIN")
    fine = tiny(seed=1)
    store.save_failure(task_id(fine), "no memory")
    store.save_failure(task_id(fine), "no time", LATENT)
    sweep([Task(fine, (LATENT,))], store)
    assert store.load_failure(task_id(fine)) == store.load_failure(task_id(fine), LATENT) == ""


def test_nothing_is_trained_where_the_environment_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOVAE_TRAIN", "0")
    runs = sweep([Task(tiny(), (LATENT,)), Task(tiny(seed=1))], store)
    assert list(runs["status"]) == ["not run", "not run"]


def die_at_once(job: str, data: Any, config: Any, *rest: Any, **arguments: Any) -> Parcels:
    """Take this worker down, as the kernel does when memory is short, for every run of seed 0."""
    if config.seed == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return do_run(job, data, config, *rest, **arguments)


def die_after_a_checkpoint(job: str, data: Any, state: bytes | None, **arguments: Any) -> Parcels:
    """Take this worker down once the driver has a checkpoint of a run; let it be when it goes on from there."""

    def take_and_die(job: str) -> Parcels:
        parcels = take(job)
        threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGKILL]).start()
        return parcels

    if state is None:
        worker.take = take_and_die
    return do_run(job, data, state=state, **arguments)


def lose_the_model(job: str, data: Any, **arguments: Any) -> Parcels:
    """Have the first parcel that this worker hands over lost on the way, as when a connection breaks."""

    def take_and_lose(job: str) -> Parcels:
        worker.take = take
        take(job)
        raise OSError("the connection broke")

    if not hasattr(worker, "has_lost"):
        worker.has_lost, worker.take = True, take_and_lose  # type: ignore[attr-defined]
    return do_run(job, data, **arguments)


def test_run_whose_model_is_lost_on_the_way_is_done_again(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "do_run", lose_the_model)
    monkeypatch.setenv("INFOVAE_WORKERS", "1")
    with caplog.at_level("INFO"):
        runs = sweep([Task(tiny(), (LATENT, SAMPLES))], store)
    assert runs["status"].item() == "done" and store.load_weights(task_id(tiny()))
    assert "tried again" in caplog.text


def test_run_that_kills_its_workers_leaves_the_others_and_is_shown(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is tried again, last of all alone; neither the data nor what waits for its turn goes with it."""
    monkeypatch.setattr(worker, "do_run", die_at_once)
    monkeypatch.setenv("INFOVAE_WORKERS", "1")
    tasks = [Task(PixelConfig(dataset="digits", n_train=100, seed=seed), rank=seed) for seed in range(3)]
    seen: list[int] = []
    with caplog.at_level("INFO"):
        runs = sweep(tasks, store, lambda keys: seen.append(len(keys)))
    assert list(runs["status"]) == ["failed: its worker was killed: out of memory?", "done", "done"]
    assert "tried again, alone" in caplog.text
    assert seen == [3, 2, 1, 0]


def die_as_the_data_come(data: Any) -> Any:
    """Take this worker down the first time that it is handed a data set."""
    flag = Path(os.environ["FLAG"])
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return data


def test_a_worker_that_dies_as_the_data_come_takes_no_run_with_it(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "keep", die_as_the_data_come)
    monkeypatch.setenv("FLAG", str(tmp_path / "died"))
    monkeypatch.setenv("INFOVAE_WORKERS", "1")
    runs = sweep([Task(PixelConfig(dataset="digits", n_train=100, seed=seed), rank=seed) for seed in range(3)], store)
    assert (tmp_path / "died").exists() and set(runs["status"]) == {"done"}


def test_run_whose_worker_dies_goes_on_from_its_last_checkpoint(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [Task(tiny(steps=300), (LATENT,))]
    monkeypatch.setenv("INFOVAE_CHECKPOINT_SECONDS", "0.3")
    monkeypatch.setattr(worker, "do_run", die_after_a_checkpoint)
    runs = sweep(tasks, store)
    assert runs["status"].item() == "done" and "alone" not in caplog.text
    monkeypatch.setattr("infovae.runs.sweep.execute", execute_here)
    monkeypatch.setattr(worker, "do_run", do_run)
    whole = sweep(tasks, Store(tmp_path / "other"))
    pd.testing.assert_frame_equal(runs.drop(columns=VOLATILE), whole.drop(columns=VOLATILE), check_exact=True)


def test_run_goes_on_from_a_stored_checkpoint(store: Store, here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(steps=40)
    run = Training(config, load_data("digits"), torch.device("cpu"))
    run.advance(30)
    store.save_checkpoint(task_id(config), 30, to_bytes(run))
    monkeypatch.setattr(Training, "advance", only_from(30, Training.advance))
    assert sweep([Task(config)], store)["status"].item() == "done"
    record = store.load_run(task_id(config))
    assert record and record["history"][0]["step"] == 1  # the history is whole


def only_from(step: int, advance: Any) -> Any:
    def checked(self: Training, *arguments: Any) -> None:
        assert self.step >= step
        advance(self, *arguments)

    return checked


def test_lost_weights_are_trained_again_where_an_evaluation_lacks(store: Store, here: None) -> None:
    tasks = [Task(tiny(), (LATENT,))]
    sweep(tasks, store)
    next(store.root.glob("runs/*/model.safetensors")).unlink()
    assert plan(tasks, store) == {}  # nothing lacks
    assert plan([Task(tiny())], store).keys() == {task_id(tiny())}  # but the weights, where they are all that is wanted
    runs = sweep([Task(tiny(), (LATENT, SEMI))], store)
    assert runs["status"].item() == "done" and store.load_weights(task_id(tiny()))


def test_published_runs_are_not_trained_again(store: Store, here: None, tmp_path: Path) -> None:
    """Unless an evaluation lacks: published weights are rounded."""
    tasks = [Task(tiny(seed=seed), (LATENT,)) for seed in (0, 1)]
    runs = sweep(tasks, store)
    folder = tmp_path / "results" / "quick"
    missing = Task(tiny(seed=2), (LATENT,))
    assert publish_runs([*tasks, missing], store, folder, with_weights=[tiny()]) == 2
    store.root.rename(tmp_path / "gone")
    assert plan(tasks, Store()) == {}
    pd.testing.assert_frame_equal(sweep(tasks), runs, check_exact=True)
    assert not (store.root / "runs").exists()
    assert len(load_arrays(tasks, LatentEvaluation)[1]["z"]) == 200
    more = [Task(task.config, (LATENT, SEMI)) for task in tasks]
    again = sweep(more)
    assert all(store.holds(task_id(task.config)) for task in tasks)
    pd.testing.assert_frame_equal(again[runs.columns].drop(columns=VOLATILE), runs.drop(columns=VOLATILE))


def test_publishing_removes_runs_of_old_settings_and_nothing_else(store: Store, here: None, tmp_path: Path) -> None:
    tasks = [Task(tiny(seed=seed), (LATENT,)) for seed in (0, 1)]
    sweep(tasks, store)
    publish_runs(tasks, store, tmp_path, with_weights=[task.config for task in tasks])
    for own in ("notes.md", "runs/mine.json", "weights/mine.safetensors"):
        (tmp_path / own).write_text("{}")
    empty = Store(tmp_path / "empty")
    assert publish_runs(tasks[:1], empty, tmp_path) == 0  # lost by the store, still wanted: left as it is
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    name = task_id(tiny())
    published = {f"runs/{name}.json", f"runs/{name}.npz", f"weights/{name}.safetensors"}
    assert {path for path in left if not path.startswith("store")} == published | {
        "notes.md", "runs/mine.json", "weights/mine.safetensors",
    }  # fmt: skip


def test_equal_configurations_are_one_task_with_all_evaluations() -> None:
    merged = merge([Task(tiny(), (LATENT,)), Task(tiny(seed=1)), Task(tiny(), (SEMI, LATENT))])
    assert [(task.config.seed, task.evaluations) for task in merged] == [(0, (LATENT, SEMI)), (1, ())]


def test_what_several_need_is_as_urgent_as_the_first_needs_it(store: Store) -> None:
    tasks = merge([Task(tiny(), (LATENT,), rank=2), Task(tiny(seed=1), rank=1), Task(tiny(), rank=0)])
    assert [task.rank for task in tasks] == [0, 1]


def test_classifier_is_trained_once_and_before_all_who_need_it(store: Store) -> None:
    jobs = plan([Task(tiny(seed=seed), (SAMPLES,)) for seed in range(3)], store)
    assert SAMPLES.classifier
    key = task_id(SAMPLES.classifier)
    assert len(jobs) == 4 and jobs[key].rank < min(job.rank for name, job in jobs.items() if name != key)
    assert all(job.needs == ({key} if name != key else set()) for name, job in jobs.items())


def test_larger_networks_are_expected_to_take_longer() -> None:
    """As measured on one core: 0.75 ms for the small PixelCNN, 1.7 ms for the one that draws digits."""
    small, large = (
        tiny(pixelcnn_channels=c, pixelcnn_layers=n, receptive_radius=r, precision="float32")
        for c, n, r in ((16, 2, 8), (32, 4, 12))
    )
    assert seconds_per_image(small) == pytest.approx(0.75e-3, rel=0.25)
    assert seconds_per_image(large) == pytest.approx(1.7e-3, rel=0.25)
    assert seconds_per_image(tiny(decoder="conv")) < seconds_per_image(small)


def test_settings_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in ("often", "0", "nan", "-3"):
        monkeypatch.setenv("INFOVAE_CHECKPOINT_SECONDS", wrong)
        with pytest.raises(ParameterError, match="INFOVAE_CHECKPOINT_SECONDS must be"):
            checkpoint_seconds()
    monkeypatch.setenv("INFOVAE_WORKERS", "5")
    assert count_workers() == 5
    for wrong in ("0", "two", "-1", "9999"):
        monkeypatch.setenv("INFOVAE_WORKERS", wrong)
        with pytest.raises(ParameterError, match="INFOVAE_WORKERS must be"):
            count_workers()


def test_workers_are_as_many_as_a_container_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFOVAE_WORKERS", raising=False)
    monkeypatch.setenv("INFOVAE_DEVICE", "cpu")
    monkeypatch.setattr("dask.system.cpu_count", lambda: 2)  # of 64 cores, by its quota
    assert count_workers() == 2
    for memory, n in ((10**8, 1), (1_500_000_000, 1), (64 * 10**9, 2)):
        monkeypatch.setattr("distributed.system.MEMORY_LIMIT", memory)
        assert count_workers() == n


@pytest.mark.parametrize(
    ("named", "found", "n"), [("", "cuda:0", 8), ("cuda", "cuda:0", 8), ("cuda:1", "cuda:1", 1), ("", "mps", 1)]
)
def test_workers_are_as_many_as_the_gpus_that_they_may_use(
    named: str, found: str, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("INFOVAE_WORKERS", raising=False)
    monkeypatch.setenv("INFOVAE_DEVICE", named)
    monkeypatch.setattr("infovae.training.choose_device", lambda: torch.device(found))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 8)
    assert count_workers() == n


async def is_answered(address: str, security: Security) -> bool:
    """Return whether what listens at an address greets whoever has these credentials."""
    try:
        (await comm.connect(address, timeout=5, **security.get_connection_args("client"))).abort()
    except OSError:
        return False
    return True


def test_local_cluster_admits_nobody_else_and_a_job_that_is_given_up_ends(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither who comes without credentials nor who brings others; TLS settings for another cluster do not matter."""
    monkeypatch.setenv("INFOVAE_WORKERS", "1")
    monkeypatch.setenv("INFOVAE_DEVICE", "cpu")
    other = {f"distributed.comm.tls.{name}": "none.pem" for name in ("ca-file", "scheduler.cert", "worker.cert")}
    with dask.config.set({"distributed.comm.require-encryption": True, **other}), connect(1) as client:
        info = client.scheduler_info(n_workers=-1)
        (one,) = info["workers"].values()
        addresses = [info["address"], one["nanny"], *info["workers"]]
        listening = [*addresses, client.dashboard_link]
        assert len(listening) == 4 and all("//127.0.0.1:" in address for address in listening), listening
        assert requests.get(client.dashboard_link, timeout=60).status_code == 404
        plain, foreign = Security(require_encryption=False, tls_ca_file=None), Security.temporary()

        async def knock() -> list[bool]:
            attempts = [is_answered(address, client.security) for address in addresses]
            attempts += [is_answered(address.replace("tls:", "tcp:"), plain) for address in addresses]
            attempts += [is_answered(address, foreign) for address in addresses]
            return await asyncio.gather(*attempts)

        assert asyncio.run(knock()) == [True] * 3 + [False] * 6
        scratch = Path(one["local_directory"]).parents[1]
        assert scratch.name.startswith("infovae-") and scratch.stat().st_mode & 0o777 == 0o700
        assert not [path for path in sys.path if "dask" in path and not path.startswith(str(scratch))]
        job = Task(tiny(steps=1_000_000))
        arguments = plan([job], store)[task_id(job.config)].prepare()
        future = client.submit(do_run, "job", load_data("digits"), **arguments)
        while not client.get_events(worker.TOPIC):
            time.sleep(0.1)
        client.cancel([future])
        assert client.submit(int, 3).result(timeout=60) == 3  # Dask does not stop a thread: the only one is free again
    assert not scratch.exists()


CLUSTER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    settings = {"protocol": "tcp", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=0, threads_per_worker=1, processes=False, **settings) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.readline()
        cluster.scale(1)
        sys.stdin.read()
"""


def test_cluster_without_workers_is_waited_for_and_one_that_is_lost_ends_the_sweep(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In one line; what had been done is kept."""
    monkeypatch.setattr(cluster, "PATIENCE_SECONDS", 1)
    monkeypatch.setenv("INFOVAE_CHECKPOINT_SECONDS", "0.5")
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stderr", shown)
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        text=True, cwd=PROJECT_ROOT, env={**os.environ, "PYTHONPATH": "."},
    )  # fmt: skip
    assert process.stdin and process.stdout
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", process.stdout.readline().strip())

    def join_and_die() -> None:
        while "waiting for workers" not in shown.getvalue():
            time.sleep(0.1)
        print(file=process.stdin, flush=True)
        while not list(store.root.glob("runs/*/checkpoint-*")):
            time.sleep(0.1)
        process.kill()

    threading.Thread(target=join_and_die).start()
    with pytest.raises(RuntimeError, match=r"the scheduler is gone: stopped. Finished runs, .* are kept"):
        sweep([Task(tiny(steps=1_000_000)), Task(tiny(steps=999_999))], store)
    process.wait()
    assert not caplog.text and "Traceback" not in shown.getvalue()


INTERRUPTED = """
import os, signal, sys, threading, time
sys.path[:0] = ["tests"]
from pathlib import Path
from IPython.core.interactiveshell import InteractiveShell
from conftest import execute_here, tiny
from infovae.runs.sweep import Store, Task, sweep
def interrupt():
    while not list(Path(sys.argv[1]).glob("runs/*/checkpoint-*")):
        time.sleep(0.05)
    print("interrupted", flush=True)
    os.killpg(0, signal.SIGINT)  # as the terminal and Jupyter do
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=interrupt).start()
    shell = InteractiveShell.instance(colors="nocolor")
    shell.push({"tasks": [Task(tiny(steps=100_000))], "store": Store(Path(sys.argv[1])), "sweep": sweep})
    shell.run_cell("sweep(tasks, store)")
    print("the end", time.monotonic(), flush=True)
"""


def test_interrupted_cell_ends_within_seconds_and_says_one_sentence(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    environment = {**os.environ, "INFOVAE_CHECKPOINT_SECONDS": "0.2", "INFOVAE_WORKERS": "1", "INFOVAE_DEVICE": "cpu"}
    environment |= {"PYTHONPATH": ".", "IPYTHONDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "store")], env=environment,
        cwd=PROJECT_ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout and process.stderr
    assert process.stdout.readline() == "interrupted\n"
    begin = time.monotonic()
    said = process.stdout.readline()
    seconds = time.monotonic() - begin
    rest, bar = process.stdout.read(), process.stderr.read()
    assert said.startswith("stopped. Finished runs, and the last checkpoints of the others, are kept"), said
    assert rest.startswith("the end") and rest.count("\n") == 1, rest + bar
    assert "starting workers" in bar and all(" gone | " in line for line in bar.split("\n") if line), bar
    assert seconds < 5


def test_bar_is_on_standard_output_in_a_notebook(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    """Jupyter shows standard error on pink."""
    jobs = plan([Task(tiny())], store)
    for notebook in (False, True):
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        monkeypatch.setattr(cluster, "_in_notebook", lambda notebook=notebook: notebook)
        cluster._Driver(jobs, load_data, lambda _: None, lambda *_: None).bar.close()
        used, unused = (out, err) if notebook else (err, out)
        assert "starting workers" in used.getvalue() and not unused.getvalue()


def test_runs_are_described() -> None:
    assert describe(tiny()) == "elbo α=0 λ=1 d=2 radius=4 seed=0"
