"""Hands jobs to the workers of a Dask cluster, one to each at a time, and brings home what they make as it arrives.

The cluster is one that DASK_SCHEDULER_ADDRESS names, else workers on this machine. Knows nothing of what a job is for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import secrets
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from infovae.refusals import ParameterError, shorten
from infovae.runs import worker

if TYPE_CHECKING:
    from distributed import Client, Future, LocalCluster

    from infovae.data.datasets import ImageData

log = logging.getLogger(__name__)

WORKER_BYTES = 10**9
"""Memory that a worker may take."""
PATIENCE_SECONDS = 5
"""After how long without a message the state of the cluster is looked at."""
FETCH_SECONDS = 60
"""How long what a worker has finished may take to come here."""
BAR = "{{percentage:3.0f}}% {{bar:20}} {{elapsed}} gone{left} | {{desc}}"
BAR_SECONDS = 60
"""After how long the bar says how much time is left: before, it would be off by hours."""

Load = Callable[[str], "ImageData"]
Report = Callable[[set[str]], None]
Tell = Callable[[str, str], None]
"""What `execute` calls: for a data set, with the jobs still to be done, with how each has ended."""

STOPPED = "stopped. Finished runs, and the last checkpoints of the others, are kept: run it again to go on from there."


class ClusterError(RuntimeError):
    """A cluster that cannot be reached, or was lost."""


class Interrupted(KeyboardInterrupt):
    """A sweep that was interrupted; in a notebook one sentence stands for the traceback."""

    def _render_traceback_(self) -> list[str]:
        return [STOPPED]


@dataclass
class Job:
    """One piece of work for one worker; done again if the worker dies, from where its last parcel left it.

    Attributes
    ----------
    seconds, step_seconds : about how long it and each of its steps take on one core: for order and progress bar.
    needs : keys of the jobs that must have ended before.
    function : of `infovae.runs.worker`; it is called with the job's name, its data set, and what `prepare` returns.
    keep : takes the parcels as they arrive and returns why parts of the job failed.
    """

    key: str
    label: str
    rank: int
    seconds: float
    step_seconds: float
    needs: set[str]
    dataset: str
    function: Callable[..., worker.Parcels]
    prepare: Callable[[], dict[str, Any]]
    keep: Callable[[worker.Parcels], list[str]]
    address: str = ""  # of the worker that does it
    reasons: list[str] = field(default_factory=list)
    progressed: bool = False
    strikes: int = 0


def execute(jobs: dict[str, Job], load: Load, report: Report, tell: Tell) -> None:
    """Do the jobs, those of a lower rank first, of equals the longest.

    Parameters
    ----------
    load : returns a data set by its name.
    report : called with the keys of the jobs still to be done, at the start and after each job.
    tell : called with the key of each job that has ended, and why it failed: an empty text where it did not.

    Raises
    ------
    ClusterError
        When no scheduler answers, or it is lost.
    Interrupted
        When the user interrupts.
    """
    driver = _Driver(jobs, load, report, tell)
    try:
        with driver.bar, connect(len(jobs)) as client:
            driver.run(client)
    except KeyboardInterrupt as interrupt:
        raise Interrupted(*interrupt.args) from None


class _Driver:
    """Who does what, what is done, and a bar over all jobs in expected seconds."""

    client: Client

    def __init__(self, jobs: dict[str, Job], load: Load, report: Report, tell: Tell) -> None:
        from tqdm import tqdm

        self.load, self.report, self.tell = load, report, tell
        self.waiting = sorted(jobs.values(), key=lambda job: (job.rank, -job.seconds))
        self.alone: list[Job] = []  # whose worker died: done when nothing else runs
        self.running: dict[str, tuple[Job, Future]] = {}
        self.open, self.n_jobs = set(jobs), len(jobs)
        self.data: dict[str, Future] = {}
        self.inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self.seconds: dict[str, float] = {}  # of each job, how many are done
        self.texts: dict[str, str] = {}  # what each running job does
        self.bar = tqdm(
            total=sum(job.seconds for job in jobs.values()) + 1e-3,  # rounding must not carry it past its end
            bar_format=BAR.format(left=""),
            file=sys.stdout if _in_notebook() else sys.stderr,  # a notebook shows standard error on pink
            mininterval=1,
            smoothing=0,
        )
        self.bar.set_description_str("starting workers")

    def run(self, client: Client) -> None:
        """Do all jobs."""
        self.client = client
        for topic in ("all", worker.TOPIC):  # `all` is Dask's own: who joins, who leaves
            client.subscribe_topic(topic, lambda event: self.inbox.put(event[1]))
        self.workers = dict.fromkeys(client.scheduler_info(n_workers=-1)["workers"])
        self.report(self.open)
        while self.open:
            try:
                self._assign()
                self._handle(self.inbox.get(timeout=PATIENCE_SECONDS))
            except queue.Empty:
                if not self.workers:
                    self.bar.set_description_str("waiting for workers")
            except (OSError, CancelledError):
                if client.status == "running":
                    raise
            if client.status != "running":
                raise ClusterError(f"the scheduler is gone: {STOPPED}")

    def _assign(self) -> None:
        """Give every free worker a job."""
        busy = {job.address for job, _ in self.running.values()}
        for address in [address for address in self.workers if address not in busy]:
            ready = (number for number, job in enumerate(self.waiting) if not job.needs & self.open)
            number = next(ready, None)
            if number is not None:
                self._submit(self.waiting.pop(number), address)
            elif self.alone and not self.running:
                self._submit(self.alone.pop(), address)

    def _submit(self, job: Job, address: str) -> None:
        name = f"{job.key}-{secrets.token_hex(8)}"
        held = self.data.get(job.dataset)  # as the result of a task, so that it outlives the worker that holds it
        if held is None or held.status in ("error", "cancelled", "lost"):  # a worker may have died as it took it
            self.data[job.dataset] = self.client.submit(worker.keep, self.load(job.dataset), pure=False)
        if not self.seconds:
            self.bar.reset()  # what is left is estimated from work, not from the start of the workers
        job.address, job.reasons, job.progressed = address, [], False
        self._show(job, job.label)
        data = self.data[job.dataset]
        future = self.client.submit(job.function, name, data, **job.prepare(), key=name, workers=[address])
        self.running[name] = job, future
        future.add_done_callback(lambda _: self.inbox.put({"job": name, "done": True}))

    def _handle(self, message: dict[str, Any]) -> None:
        """Take one message, of a job or of the cluster."""
        action, address, name = message.get("action"), message.get("worker", ""), message.get("job")
        if action == "add-worker":
            self.workers[address] = None
        elif action == "remove-worker":
            self.workers.pop(address, None)
            for lost in [name for name, (job, _) in self.running.items() if job.address == address]:
                self._lose(self.running.pop(lost)[0])
        elif name in self.running and "done" in message:
            self._finish(*self.running.pop(name))
        elif name in self.running and "step" in message:
            job, nats = self.running[name][0], message["loss"]
            text = f"{job.label}: {'' if nats is None else f'{nats:.1f} nats at '}step {message['step']}"
            self._show(job, text, job.step_seconds * message["step"])
        elif name in self.running:
            self._fetch(name, address)

    def _fetch(self, name: str, address: str) -> None:
        """Keep what a job has made so far; have it done again if that was lost on the way and its worker lives."""
        taken = self.client.run(worker.take, name, workers=[address], on_error="ignore")
        if address in taken:
            self._keep(self.running[name][0], taken[address])
        elif address in self.client.scheduler_info(n_workers=-1)["workers"]:  # else its death will be told
            job, future = self.running.pop(name)
            future.cancel()
            self._lose(job)

    def _keep(self, job: Job, parcels: worker.Parcels) -> None:
        reasons = job.keep(parcels)
        job.progressed |= len(reasons) < len(parcels)
        job.reasons += reasons

    def _finish(self, job: Job, future: Future) -> None:
        """Keep what a job has returned, or say why it did not."""
        from distributed import KilledWorker

        error = future.exception(timeout=FETCH_SECONDS) if future.status == "error" else None
        if isinstance(error, KilledWorker) or future.status not in ("error", "finished"):
            return self._lose(job)
        if error:
            job.reasons.append(f"{type(error).__name__}: {error}")
        else:
            try:
                self._keep(job, future.result(timeout=FETCH_SECONDS))
            except TimeoutError:  # the worker died before it could hand it over
                return self._lose(job)
        self._end(job)

    def _lose(self, job: Job) -> None:
        """Have a job done again whose worker died, or its result: alone, as memory may be short; twice is enough."""
        if job.progressed:
            job.strikes = 0
            self.waiting.insert(0, job)
        elif not job.strikes:
            log.info("%s: its worker was killed, or what it sent was lost: it will be tried again, alone", job.label)
            job.strikes = 1
            self.alone.append(job)
        else:
            job.reasons.append("its worker was killed: out of memory?")
            self._end(job)

    def _end(self, job: Job) -> None:
        reason = "; ".join(dict.fromkeys(job.reasons))
        if reason:
            log.error("%s failed: %s", job.label, reason)
        self.tell(job.key, reason)
        self.open.discard(job.key)
        self._show(job, "", job.seconds)
        self._assign()  # before a report that may take a minute: no worker waits for it
        self.report(self.open)

    def _show(self, job: Job, text: str, seconds: float = 0.0) -> None:
        """Show what a job does, if anything, and how many of its expected seconds are done."""
        before = self.seconds.get(job.key, 0.0)
        self.seconds[job.key] = max(seconds, before)
        self.bar.update(self.seconds[job.key] - before)
        if self.bar.format_dict["elapsed"] > BAR_SECONDS:
            self.bar.bar_format = BAR.format(left=", {remaining} left")
        self.texts = {key: known for key, known in {**self.texts, job.key: text}.items() if known}
        texts = [f"{self.n_jobs - len(self.open)} of {self.n_jobs} jobs done", *list(self.texts.values())[-2:]]
        self.bar.set_description_str("; ".join(texts), refresh=False)  # the bar decides how often it is drawn


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


@contextmanager
def connect(n_jobs: int) -> Iterator[Client]:
    """Connect to the cluster that DASK_SCHEDULER_ADDRESS names, else start one on this machine's loopback.

    The local one has one single-threaded worker per core, or per GPU where there are some; INFOVAE_WORKERS overrides
    the number. Its connections admit nobody who does not hold the key that it makes for itself.
    """
    import dask
    from distributed import Client

    # Dask's notes on dashboards, stale locks and lost connections help nobody here
    for name in ("distributed", "distributed.client"):  # the second has a level of its own
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    address = os.environ.get("DASK_SCHEDULER_ADDRESS")
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "10GB"}):
        if address:
            _require_scheduler(address)
            with Client(address, timeout="20s") as client:
                yield client
            return
        with _connect_locally(min(count_workers(), n_jobs)) as client:
            yield client


@contextmanager
def _connect_locally(n_workers: int) -> Iterator[Client]:
    from distributed import Client

    # Dask's own choice below /tmp may be another user's folder, and whoever owns it has modules imported from there
    scratch = tempfile.TemporaryDirectory(prefix="infovae-", ignore_cleanup_errors=True)
    thread = ThreadPoolExecutor(1)
    starting = thread.submit(_start_cluster, n_workers, scratch.name)
    thread.shutdown(wait=False)

    def tidy_up(_: object) -> None:
        if not starting.exception():
            starting.result().close()
        scratch.cleanup()

    try:
        with Client(starting.result()) as client:
            try:
                yield client
            except BaseException:
                _kill_workers(starting.result())
                raise
    finally:  # at once, or when it has started
        starting.add_done_callback(tidy_up)


def _start_cluster(n_workers: int, scratch: str) -> LocalCluster:
    """Start workers that a terminal's Ctrl-C does not reach: they inherit from this thread that SIGINT is blocked."""
    import dask
    from distributed import LocalCluster, Security
    from distributed.system import MEMORY_LIMIT

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    settings = {
        "temporary-directory": scratch,
        "distributed.scheduler.active-memory-manager.start": False,
        "distributed.scheduler.allowed-failures": 0,  # what a worker's death means is decided here
        "distributed.scheduler.http.routes": [],  # web pages ask nobody for a certificate
        "distributed.worker.http.routes": [],
        "distributed.worker.memory.pause": False,  # what is given to a paused worker would never begin
        # Dask's own settings hand every freed tensor back to the system: training took 2.2 times as long
        "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**30,
        "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": 2**25,
        "distributed.nanny.pre-spawn-environ.MALLOC_ARENA_MAX": 1,
    }
    with dask.config.set(settings):
        return LocalCluster(
            n_workers=n_workers, threads_per_worker=1, processes=True, host="127.0.0.1",
            protocol="tls", security=Security.temporary(),
            memory_limit=MEMORY_LIMIT // n_workers,
            scheduler_kwargs={"dashboard": False},
            dashboard_address="127.0.0.1:0",  # any free port, so that one in use is no matter
            silence_logs=logging.CRITICAL + 1,
        )  # fmt: skip


def _kill_workers(cluster: LocalCluster) -> None:
    """End the processes of a local cluster at once: a job does not end before its model is trained."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        with suppress(ProcessLookupError):
            if nanny.pid:
                os.kill(nanny.pid, signal.SIGKILL)


def _require_scheduler(address: str) -> None:
    """Raise ClusterError unless a scheduler answers within seconds: Dask's client waits for a mute one for ever."""
    from distributed import Security
    from distributed.comm import connect as reach

    async def greet() -> None:
        arguments = Security().get_connection_args("client")
        (await asyncio.wait_for(reach(address, timeout=3, **arguments), timeout=3.5)).abort()

    try:
        with ThreadPoolExecutor(1) as thread:  # a notebook's kernel runs an event loop of its own in this one
            thread.submit(lambda: asyncio.run(greet())).result()
    except (OSError, ValueError, RuntimeError, TypeError) as error:  # Dask raises the last two for TLS settings
        reason = str(error) or "connected, but no answer"
        if isinstance(error, FileNotFoundError):  # which does not say which
            reason = "a certificate or key that Dask's TLS settings name is not there"
        raise ClusterError(f"no scheduler answers at DASK_SCHEDULER_ADDRESS={shorten(address)}: {reason}") from error


def count_workers() -> int:
    """Return INFOVAE_WORKERS, else how many GPUs INFOVAE_DEVICE leaves, else how many cores there is memory for."""
    wanted = os.environ.get("INFOVAE_WORKERS", "")
    if wanted:
        if not (wanted.isdecimal() and len(wanted) <= 4 and 1 <= int(wanted) <= 1024):
            raise ParameterError(f"INFOVAE_WORKERS must be a whole number from 1 to 1024, got {shorten(wanted)}")
        return int(wanted)
    if os.environ.get("INFOVAE_DEVICE", "") != "cpu":
        import torch

        from infovae.training import choose_device

        device = choose_device()
        if device.type != "cpu":
            named = ":" in os.environ.get("INFOVAE_DEVICE", "")  # one of several
            return torch.cuda.device_count() if device.type == "cuda" and not named else 1
    from dask.system import cpu_count
    from distributed.system import MEMORY_LIMIT

    return max(1, min(cpu_count(), MEMORY_LIMIT // WORKER_BYTES))  # of a container with a quota, its share
