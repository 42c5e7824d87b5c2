"""What takes minutes: killed at random moments, spread over machines without a common disk, attacked, 10,000 runs.

Not part of `make test`; `make stress` runs it and writes what it saw to results/stress.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import dask
import nbformat
import pandas as pd
import pytest
import zmq
import zmq.asyncio
from conftest import tiny
from distributed import Security, comm
from safetensors import safe_open

from infovae.config import PixelConfig
from infovae.paths import PROJECT_ROOT
from infovae.runs.cluster import ClusterError, connect
from infovae.runs.store import Store
from infovae.runs.sweep import Task, sweep

pytestmark = [pytest.mark.stress, pytest.mark.timeout(1200)]

N_KILLS = 30
N_RUNS, N_WORKERS = 10_000, 50
NETWORK = "10.213.77"


@pytest.fixture(scope="module")
def report() -> Iterator[list[str]]:
    """Lines for results/stress.md, written when the last test is done."""
    lines: list[str] = []
    yield lines
    text = f"# Stress\n\nWhat `make stress` last saw, on {os.cpu_count()} cores.\n\n" + "".join(
        f"- {line}\n" for line in lines
    )
    (PROJECT_ROOT / "results" / "stress.md").write_text(text, encoding="utf-8")


def start(home: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start the reproduction of the smoke profile with a store and results of its own, in small pieces."""
    folders = {"INFOVAE_STORE": str(home / "store"), "INFOVAE_RESULTS": str(home / "results")}
    settings = {"INFOVAE_DEVICE": "cpu", "INFOVAE_CHECKPOINT_SECONDS": "0.3"}
    home.mkdir(exist_ok=True)
    with (home / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "infovae", "reproduce", "--profile", "smoke"],
            env={**os.environ, **folders, **settings, **environment},
            cwd=PROJECT_ROOT,
            stdout=log,
            stderr=log,
        )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke profile, reproduced without a disturbance."""
    home = tmp_path_factory.mktemp("undisturbed")
    assert start(home).wait() == 0, (home / "log").read_text()
    return home


def tables(home: Path) -> dict[str, bytes]:
    """Return every published CSV file without the columns of seconds, which no two reproductions share."""
    found = {}
    for path in sorted((home / "results").rglob("*.csv")):
        frame = pd.read_csv(path, dtype=str)
        frame = frame[[column for column in frame.columns if "seconds" not in column]]
        found[str(path.relative_to(home))] = frame.to_csv(index=False).encode()
    assert len(found) > 10
    return found


def require_whole_files(home: Path) -> int:
    """Open every file that a reader may open; return how many there are."""
    n = 0
    for path in [*home.glob("store/**/*"), *home.glob("results/**/*")]:
        if not path.is_file() or any(part.startswith(".") for part in path.relative_to(home).parts):
            continue
        n += 1
        if path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".ipynb":
            nbformat.validate(nbformat.read(path, as_version=4))
        elif path.suffix == ".csv":
            pd.read_csv(path)
        elif path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                file.keys()
        elif path.suffix == ".html":
            assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
        elif path.suffix == ".png":
            assert path.read_bytes().endswith(b"IEND\xaeB`\x82")
    return n


def finished(home: Path) -> dict[Path, int]:
    """Return the records of finished runs and when each was written."""
    return {path: path.stat().st_mtime_ns for path in home.glob("store/runs/*/record.json")}


def children(process: subprocess.Popen[bytes]) -> dict[str, list[int]]:
    """Return the living processes by what they are: driver, worker, kernel."""
    found: dict[str, list[int]] = {"driver": [process.pid], "worker": [], "kernel": []}
    listing = subprocess.run(
        ["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split(None, 2) for line in listing.splitlines()]
    family = {process.pid}
    for pid, parent, arguments in rows * 3:  # three generations
        if int(parent) in family and int(pid) not in family:
            family.add(int(pid))
            if "ipykernel" in arguments:
                found["kernel"].append(int(pid))
            elif "multiprocessing.spawn" in arguments:
                found["worker"].append(int(pid))
    return {kind: pids for kind, pids in found.items() if pids}


def test_killed_at_random_moments_it_ends_with_the_same_tables(
    undisturbed: Path, tmp_path: Path, report: list[str]
) -> None:
    choose = random.Random(0)
    home = tmp_path / "home"
    begin = time.perf_counter()
    process, kills = start(home), dict.fromkeys(("driver", "worker", "kernel"), 0)
    records: dict[Path, int] = {}
    n_files = 0
    while sum(kills.values()) < N_KILLS:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(choose.uniform(2, 12))
        if process.poll() is None:
            alive = children(process)
            kind = choose.choice(list(alive))
            with contextlib.suppress(ProcessLookupError):
                os.kill(choose.choice(alive[kind]), signal.SIGKILL)
                kills[kind] += 1
        n_files = max(n_files, require_whole_files(home))
        now = finished(home)
        assert all(now.get(path) == written for path, written in records.items()), "a finished run was trained again"
        records = now
        if process.poll() is not None:
            if process.returncode == 0:  # it got to its end between two kills: begin anew, to be killed on
                shutil.rmtree(home)
                records = {}
            process = start(home)
    process.wait()
    if process.returncode != 0:
        assert start(home).wait() == 0, (home / "log").read_text()[-3000:]
    now = finished(home)
    assert all(now.get(path) == written for path, written in records.items())
    assert tables(home) == tables(undisturbed)
    report.append(
        f"smoke profile, SIGKILL at {N_KILLS} random moments ("
        + ", ".join(f"{kind} {n}" for kind, n in kills.items())
        + f"), started again each time: tables byte-identical to those of an undisturbed run, no finished run trained "
        f"twice, none of up to {n_files} files torn; {time.perf_counter() - begin:.0f} s"
    )


@contextlib.contextmanager
def namespaces(names: list[str]) -> Iterator[None]:
    """Give each name a network namespace of its own; all meet at one bridge, whose end here is NETWORK.254."""

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True, capture_output=True)

    try:
        ip("link", "add", "infovae", "type", "bridge")
        ip("addr", "add", f"{NETWORK}.254/24", "dev", "infovae")
        ip("link", "set", "infovae", "up")
        for number, name in enumerate(names, start=1):
            ip("netns", "add", name)
            ip("link", "add", f"{name}-a", "type", "veth", "peer", "name", "eth0", "netns", name)
            ip("link", "set", f"{name}-a", "master", "infovae", "up")
            ip("-n", name, "addr", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
        subprocess.run(["ip", "link", "del", "infovae"], capture_output=True)


def start_node(name: str, hidden: Path, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a Dask process in its namespace, with an empty disk in place of `hidden`."""
    command = 'mount -t tmpfs -o size=64m tmpfs "$1" && shift && cd / && exec "$@"'
    with log.open("ab") as file:
        return subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "-m", "sh", "-c", command, "sh", str(hidden), *arguments],
            env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), "INFOVAE_STORE": "/nonexistent/store"},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )


@pytest.mark.skipif(
    not shutil.which("ip") or not shutil.which("unshare") or os.geteuid() != 0, reason="needs network namespaces"
)
def test_cluster_of_machines_without_a_common_disk_gives_the_same_tables(
    undisturbed: Path, tmp_path: Path, report: list[str]
) -> None:
    home = tmp_path / "home"
    nodes = ["infovae-s", *(f"infovae-{number}" for number in range(1, 6))]
    address = f"tcp://{NETWORK}.1:8786"
    scheduler = ["-m", "distributed.cli.dask_scheduler", "--host", f"{NETWORK}.1", "--no-dashboard"]
    worker = ["-m", "distributed.cli.dask_worker", address, "--nthreads", "1", "--no-dashboard", "--local-directory"]
    running: list[subprocess.Popen[bytes]] = []
    log = tmp_path.parent / "cluster.log"
    begin = time.perf_counter()
    with namespaces(nodes):
        try:
            running.append(start_node(nodes[0], tmp_path, log, sys.executable, *scheduler))
            for name in nodes[1:5]:
                running.append(start_node(name, tmp_path, log, sys.executable, *worker, str(tmp_path)))
            process = start(home, DASK_SCHEDULER_ADDRESS=address)
            while len(finished(home)) < 2 and process.poll() is None:
                time.sleep(0.2)
            os.killpg(running[1].pid, signal.SIGKILL)  # a machine is gone in the middle of a run
            running.append(start_node(nodes[5], tmp_path, log, sys.executable, *worker, str(tmp_path)))  # another joins
            assert process.wait() == 0, (home / "log").read_text()[-3000:] + log.read_text()[-3000:]
        finally:
            for node in running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(node.pid, signal.SIGKILL)
    assert tables(home) == tables(undisturbed)
    report.append(
        "smoke profile on a Dask scheduler and four workers in network namespaces of their own without a common disk, "
        "one killed during a run, one joining late: tables byte-identical to the local ones; "
        f"{time.perf_counter() - begin:.0f} s"
    )


def documented_tls(folder: Path) -> dict[str, str]:
    """Make a certificate in a folder and return the variables that name it, both by the lines of docs/cluster.md."""
    text = (PROJECT_ROOT / "docs" / "cluster.md").read_text(encoding="utf-8").partition("## Security")[2]
    lines = "\n".join(line.strip() for line in text.splitlines() if line.startswith("    "))
    folder.mkdir()
    shell = subprocess.run(["sh", "-ec", f"{lines}\nenv"], cwd=folder, capture_output=True, text=True, check=True)
    variables = dict(line.split("=", 1) for line in shell.stdout.splitlines() if line.startswith("DASK_"))
    assert len(variables) == 8 and len(list(folder.iterdir())) == 2
    return variables


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_cluster_with_tls_as_documented_works_and_admits_nobody_else(
    tmp_path: Path, report: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, foreign = documented_tls(tmp_path / "ours"), documented_tls(tmp_path / "foreign")

    def start_dask(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", *arguments, "--no-dashboard"]
        environment = {**os.environ, **ours, "PYTHONPATH": str(PROJECT_ROOT), "INFOVAE_DEVICE": "cpu"}
        with (tmp_path / "cluster.log").open("ab") as log:
            return subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)

    def settings(variables: dict[str, str]) -> dict[str, str]:
        """Return what Dask makes of environment variables when a process starts."""
        return {name.removeprefix("DASK_").replace("__", ".").lower(): value for name, value in variables.items()}

    begin = time.perf_counter()
    where = tmp_path / "scheduler.json"
    running = [
        start_dask("distributed.cli.dask_scheduler", "--host=127.0.0.1", "--port=0", f"--scheduler-file={where}")
    ]
    try:
        while not where.exists():
            assert running[0].poll() is None, (tmp_path / "cluster.log").read_text()
            time.sleep(0.2)
        address = json.loads(where.read_text())["address"]
        assert address.startswith("tls://127.0.0.1:")
        worker = ("--nthreads=1", f"--local-directory={tmp_path / 'scratch'}")
        running.append(start_dask("distributed.cli.dask_worker", address, *worker))
        nothing = {**ours, "DASK_DISTRIBUTED__COMM__TLS__CA_FILE": "none.pem"}
        strangers = [
            (address.replace("tls", "tcp"), {}, ""),
            (address, {}, "TLS expects"),
            (address, foreign, ""),
            (address, nothing, "is not there"),
        ]
        for place, variables, why in strangers:
            monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", place)
            reason = f"no scheduler answers at DASK_SCHEDULER_ADDRESS='{place}': .*{why}"
            with dask.config.set(settings(variables)), pytest.raises(ClusterError, match=reason), connect(1):
                pass
        with dask.config.set(settings(ours)):
            runs = sweep([Task(tiny(steps=5))], Store(tmp_path / "store"))
        assert runs["status"].item() == "done", (tmp_path / "cluster.log").read_text()
    finally:
        for process in running:
            process.terminate()  # killed, the nanny would leave its worker behind
            process.wait()
    report.append(
        "a scheduler and a worker with TLS, by the lines of docs/cluster.md: a run is trained; refused in one line: "
        f"who comes without TLS, without a certificate, with another; {time.perf_counter() - begin:.0f} s"
    )


def listening(pids: list[int]) -> list[int]:
    """Return the TCP ports that processes listen on; none may be open beyond loopback."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # the process has ended
            for descriptor in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError):
                    inodes.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    ports = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *rest = line.split()
            if state == "0A" and rest[5] in inodes:
                address, port = local.split(":")
                assert address == "0100007F", f"{address} is not 127.0.0.1"
                ports.append(int(port, 16))
    return ports


async def attack(ports: list[int]) -> list[str]:
    """Return what a stranger achieves at ports of this machine: by Dask without TLS, with TLS, as a kernel's reader."""
    achieved: list[str] = []

    async def as_client(port: int, protocol: str, security: Security) -> None:
        with contextlib.suppress(OSError, ValueError):  # a kernel's port greets first: Tornado then refuses TLS itself
            arguments = security.get_connection_args("client")
            (await comm.connect(f"{protocol}://127.0.0.1:{port}", timeout=20, **arguments)).abort()
            achieved.append(f"{protocol} to {port}")

    async def as_reader(port: int) -> None:
        socket = zmq.asyncio.Context.instance().socket(zmq.SUB)
        socket.subscribe(b"")
        socket.connect(f"tcp://127.0.0.1:{port}")
        if await socket.poll(20_000):
            achieved.append(f"read {await socket.recv()!r} at {port}")
        socket.close(linger=0)

    plain, foreign = Security(require_encryption=False), Security.temporary()
    attempts = [as_client(port, "tcp", plain) for port in ports] + [as_client(port, "tls", foreign) for port in ports]
    await asyncio.gather(*attempts, *(as_reader(port) for port in ports))
    return achieved


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's list of ports")
def test_another_user_of_the_machine_gets_in_nowhere(tmp_path: Path, report: list[str]) -> None:
    """While the smoke profile trains and executes notebooks; TCP knows no users, so the attacker is this process."""
    process = start(tmp_path / "home", TMPDIR=str(tmp_path))
    try:
        found: dict[str, list[int]] = {}
        while len(found.get("kernel", [])) < 5:  # they listen last
            assert process.poll() is None, (tmp_path / "home" / "log").read_text()
            time.sleep(0.1)
            found = {kind: listening(pids) for kind, pids in children(process).items()}
        ports = [port for kind in found.values() for port in kind]
        assert len(found["driver"]) > 2 and found["worker"]
        folders = list(tmp_path.glob("infovae-*"))  # of the workers, and of the kernels
        assert len(folders) > 1 and all(folder.stat().st_mode & 0o777 == 0o700 for folder in folders)
        assert asyncio.run(attack(ports)) == []
    finally:
        process.kill()
        process.wait()
    report.append(
        f"a stranger at all {len(ports)} ports that the smoke profile listens on (by Dask without TLS, with TLS and a "
        "certificate of its own, and as a reader of a kernel's output): got in nowhere"
    )


CLUSTER = f"""
import sys
from distributed import LocalCluster
settings = {{"protocol": "tcp", "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
settings["memory_limit"] = 0  # each worker would take the whole process's memory for its own, and pause
with LocalCluster(n_workers={N_WORKERS}, threads_per_worker=1, processes=False, **settings) as cluster:
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""


def test_ten_thousand_runs_cost_the_driver_little(
    tmp_path: Path, report: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that do nothing: what is measured is the driver, at each fifth of the way."""
    marks: dict[int, tuple[float, float]] = {}

    def mark(open_keys: set[str]) -> None:
        if len(open_keys) % (N_RUNS // 5) == 0:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MB
            marks[5 - len(open_keys) // (N_RUNS // 5)] = time.process_time(), peak

    # scheduler and workers in a process of their own: their processor time and memory are not the driver's
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    tasks = [Task(PixelConfig(dataset="digits", n_train=100, seed=seed)) for seed in range(N_RUNS)]
    begin = time.perf_counter()
    try:
        assert cluster.stdout is not None
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", cluster.stdout.readline().strip())
        assert (sweep(tasks, Store(tmp_path), mark)["status"] == "done").all()
    finally:
        cluster.kill()
        cluster.wait()
    wall = time.perf_counter() - begin
    whole, early, late = ((marks[b][0] - marks[a][0]) / (b - a) * 5 / N_RUNS for a, b in ((0, 5), (1, 2), (4, 5)))
    grown = marks[5][1] - marks[1][1]
    report.append(
        f"{N_RUNS:,} runs that do nothing on {N_WORKERS} workers (threads of another process): "
        f"{1000 * whole:.1f} ms of the driver's processor time per run, {1000 * early:.1f} in the second fifth and "
        f"{1000 * late:.1f} in the last; its peak memory grew by {grown:.0f} MB after the first fifth; {wall:.0f} s"
    )
    assert whole < 0.020
    assert late < 1.5 * early
    assert grown < 50


def test_verify_tells_the_same_from_other_results(undisturbed: Path, tmp_path: Path, report: list[str]) -> None:
    home = Path(shutil.copytree(undisturbed, tmp_path / "home"))
    shutil.rmtree(home / "store")  # verify starts from an empty one

    def verify() -> subprocess.CompletedProcess[str]:
        folders = {"INFOVAE_STORE": str(home / "store"), "INFOVAE_RESULTS": str(home / "results")}
        return subprocess.run(
            [sys.executable, "-m", "infovae", "verify", "--profile", "smoke"],
            env={**os.environ, **folders, "INFOVAE_DEVICE": "cpu"},
            cwd=PROJECT_ROOT,
            capture_output=True,
            text=True,
        )

    begin = time.perf_counter()
    same = verify()
    lines = [line for line in same.stdout.splitlines() if ": " in line]
    assert same.returncode == 0, same.stdout + same.stderr
    assert len(lines) > 10 and all(line.startswith("identical: ") for line in lines), same.stdout
    path = home / "results" / "smoke" / "latent_usage" / "runs.csv"
    runs = pd.read_csv(path)
    runs["mutual_information"] += 10.0 * (runs.index == 0)
    runs.to_csv(path, index=False)
    other = verify()
    different = [line for line in other.stdout.splitlines() if line.startswith("different: ")]
    assert other.returncode == 1, other.stdout + other.stderr
    assert len(different) == 1 and "latent_usage" in different[0] and "mutual_information" in different[0], other.stdout
    assert not [path for path in (home / "store").rglob("*") if path.is_file()]
    report.append(
        f"smoke profile, verified from an empty store: all {len(lines)} conditions identical; one committed value "
        f"falsified: that condition different, exit status 1; {time.perf_counter() - begin:.0f} s"
    )
