"""What the package costs, beside its peers: `make bench` measures every row in one run, ours and theirs by turns.

Owns the harness, the rows, their table and their figure. The peers' models live in `bench_peers`, which alone needs
what `.venv-bench` has and the project's own environment has not. Everything is measured on the CPU; a GPU is not asked.
"""

from __future__ import annotations

import ctypes
import importlib.util
import io
import math
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor

    from infovae.config import RunConfig
    from infovae.pixelcnn import PixelCNN
    from infovae.sweep import Task

Measure = Callable[[], float]
"""Does the work once and returns what was measured, in the row's unit."""

RATES = ("images/s", "GFLOP/s", "share")
"""Units of which more is better; of all others less is."""


@dataclass(frozen=True)
class Row:
    """One line of the table: what is measured, against what, and what it should come to.

    Attributes
    ----------
    prepare : does the slow set-up; returns how ours is measured and how theirs is, None where there is no peer.
    peer : what ours is measured against; "" for nothing.
    aim, floor : with a peer, of the ratio "how many times as good as theirs"; without, of our own value.
    repeats : how many times ours and theirs are measured, by turns.
    warm_up : whether a first measurement of each is thrown away.
    varied : the parameter that a series of rows varies, and its value in this one.
    """

    name: str
    unit: str
    prepare: Callable[[], tuple[Measure, Measure | None]]
    peer: str = ""
    aim: float | None = None
    floor: float | None = None
    note: str = ""
    repeats: int = 5
    warm_up: bool = True
    varied: tuple[str, float] | None = None

    def ratio(self, ours: float, theirs: float) -> float:
        """Return how many times as good ours is: above 1 where ours is better, whatever the unit."""
        return ours / theirs if self.unit in RATES else theirs / ours

    def reaches(self, value: float, goal: float | None) -> bool:
        """Say whether a ratio (with a peer), or our own value (without), reaches a goal; where there is none, not."""
        if goal is None:
            return False
        return value >= goal if self.peer or self.unit in RATES else value <= goal


class Measured(NamedTuple):
    """A row's medians, and the median, least and largest ratio of the pairs measured one after the other."""

    row: Row
    ours: float
    theirs: float
    ratio: float
    ratio_min: float
    ratio_max: float

    @property
    def verdict(self) -> str:
        """Return "aim met", "floor met" or "missed"; "" for a row that has no floor."""
        value = self.ratio if self.row.peer else self.ours
        if self.row.floor is None:
            return ""
        if self.row.reaches(value, self.row.aim):
            return "aim met"
        return "floor met" if self.row.reaches(value, self.row.floor) else "missed"


def measure(row: Row) -> Measured:
    """Measure a row: ours, theirs, ours, theirs, ... so that a machine that slows down slows both."""
    ours, theirs = row.prepare()
    measures = [ours] if theirs is None else [ours, theirs]
    if row.warm_up:
        for once in measures:
            once()
    rounds = [[once() for once in measures] for _ in range(row.repeats)]
    medians = [statistics.median(values) for values in zip(*rounds, strict=True)]
    if theirs is None:
        return Measured(row, medians[0], math.nan, math.nan, math.nan, math.nan)
    ratios = [row.ratio(*pair) for pair in rounds]
    return Measured(row, medians[0], medians[1], statistics.median(ratios), min(ratios), max(ratios))


def run(folder: Path, only: str = "") -> pd.DataFrame:
    """Measure every row, print each as it comes, write `bench.csv` and `bench.png` into a folder.

    Parameters
    ----------
    only : measure just the rows whose name contains this, and write nothing.

    Raises
    ------
    RuntimeError
        Where pythae is not installed.
    """
    if importlib.util.find_spec("pythae") is None:
        raise RuntimeError("pythae is not installed here: `make bench` makes an environment that has it")
    from infovae.notebooks import make_folder
    from infovae.store import write_atomically

    os.environ["INFOVAE_DEVICE"] = "cpu"
    keep_freed_memory()
    machine = describe_machine()
    print(machine, flush=True)
    measured = []
    for row in make_rows():
        if only.lower() in row.name.lower():
            measured.append(measure(row))
            print(to_line(measured[-1]), flush=True)
    table = to_table(measured, machine)
    if not only:
        make_folder(folder)
        write_atomically(folder / "bench.csv", table.to_csv(index=False, float_format="%.4g").encode())
        plot_bench(table).savefig(folder / "bench.png", dpi=200)
    return table


def to_line(measured: Measured) -> str:
    """Return a measured row as a line for the terminal."""
    row = measured.row
    ours = f"{measured.ours:10.3g} {row.unit}"
    if math.isnan(measured.ratio):
        goal = f"limit {row.floor:g}" if row.floor else ""
    else:
        ours += f" | {measured.theirs:10.3g}"
        goal = f"{measured.ratio:.2f}x ({measured.ratio_min:.2f} to {measured.ratio_max:.2f})"
    return f"{row.name:<62} {ours:<32} {goal:<24} {measured.verdict}"


def to_table(measured: Sequence[Measured], machine: str) -> pd.DataFrame:
    """Return one line per row: the columns of bench.csv."""
    import pandas as pd

    return pd.DataFrame(
        {
            "name": m.row.name,
            "ours": m.ours,
            "theirs": m.theirs,
            "unit": m.row.unit,
            "ratio": m.ratio,
            "ratio_min": m.ratio_min,
            "ratio_max": m.ratio_max,
            "aim": m.row.aim,
            "floor": m.row.floor,
            "verdict": m.verdict,
            "parameter": m.row.varied[0] if m.row.varied else "",
            "value": m.row.varied[1] if m.row.varied else math.nan,
            "peer": m.row.peer,
            "note": m.row.note,
            "machine": machine,
        }
        for m in measured
    )


def plot_bench(table: pd.DataFrame) -> Figure:
    """Return the ratios with their spread, aim and floor above, and how the cost of a step grows below."""
    from matplotlib.figure import Figure

    from infovae.figures import LABELS

    ratios = table[table["ratio"].notna()][::-1].reset_index(drop=True)
    growth = table[table["parameter"] != ""]
    names = list(dict.fromkeys(growth["parameter"]))
    figure = Figure(figsize=(9, 0.34 * len(ratios) + 4), layout="constrained")
    figure.suptitle(table["machine"].iloc[0], fontsize=8)
    halves = figure.subfigures(2, 1, squeeze=False, height_ratios=[0.34 * len(ratios) + 0.9, 2.9])
    above, below = halves[0, 0], halves[1, 0]
    ax = above.subplots()
    spread = [ratios["ratio"] - ratios["ratio_min"], ratios["ratio_max"] - ratios["ratio"]]
    ax.errorbar(ratios["ratio"], ratios.index, xerr=spread, fmt="o", color="#0072B2", ms=5, capsize=2)
    for column, mark, color in (("floor", "|", "#D55E00"), ("aim", "|", "#009E73")):
        ax.plot(ratios[column], ratios.index, mark, color=color, ms=14, mew=2, label=column)
    ax.axvline(1, color="0.5", lw=0.6)
    ax.set(xscale="log", xlabel="ours against theirs: median, least and largest ratio", ylim=(-0.6, len(ratios) - 0.4))
    ax.set_yticks(ratios.index, ratios["name"], fontsize=7)
    ax.xaxis.set_major_formatter("{x:g}")
    ax.legend(frameon=False, fontsize=8)
    if not names:
        return figure
    for ax, name in zip(below.subplots(1, len(names), sharey=True, squeeze=False)[0], names, strict=True):
        of_name = growth[growth["parameter"] == name]
        ax.plot(of_name["value"], of_name["ours"], "o-", color="#0072B2", ms=4)
        ax.set(xlabel=LABELS.get(name, name.replace("_", " ")), ylim=(0, None))
        if of_name["value"].max() > 1000:
            ax.set_xscale("log")
    below.axes[0].set_ylabel("ms per step of training")
    return figure


def describe_machine() -> str:
    """Return the processor, its cores, what a matrix product reaches on it, and torch's version."""
    import torch

    n = count_cores()
    peaks = ", ".join(f"{matrix_product_rate(threads):.0f} on {threads}" for threads in sorted({1, n}))
    return (
        f"{_processor()}, {n} cores, float32 matrix product {peaks} threads GFLOP/s, "
        f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}, {platform.system()}"
    )


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


# --- tools of the rows


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Hold torch to n threads, also where the code inside asks for another number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    with mock.patch("torch.set_num_threads"):
        yield
    torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Have the C library keep freed memory, as it does in a sweep's workers (`sweep.connect`): for ours and theirs.

    Where it is not glibc, nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    for option, value in ((-1, 2**30), (-3, 2**25), (-8, 1)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX
        ctypes.CDLL(None).mallopt(option, value)


def matrix_product_rate(n_threads: int, size: int = 2048) -> float:
    """Return the median rate of five products of two float32 matrices, in GFLOP/s."""
    import torch

    with threads(n_threads):
        a, b = torch.randn(2, size, size)
        times = [seconds(partial(torch.mm, a, b)) for _ in range(6)][1:]
    return 2 * size**3 / statistics.median(times) / 1e9


def peak_memory_mb(process: str = "self") -> float:
    """Return the most memory that a process has held, in MB; NaN where the system does not tell."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1e3
    return math.nan


def in_fresh_process(function: Callable[[], Any]) -> Any:
    """Return what a function of this module returns in a new process, whose memory nothing else has touched."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function).result()


# --- training one model, and eight

BATCH, EPOCH = 128, 12_800
"""Images in a batch and in an epoch of the comparisons with pythae's trainer."""

N_MODELS = 8


def conv_config(n_epochs: int, seed: int = 0) -> RunConfig:
    """Return the run that pythae's INFOVAE_MMD has an equal of, but for its divergence's bias."""
    from infovae.config import RunConfig

    return RunConfig(
        objective="mmd",
        kernel="imq",
        alpha=0.0,
        lambda_=10.0,
        decoder="conv",
        posterior_std="exp",
        n_train=EPOCH,
        batch_size=BATCH,
        steps=n_epochs * EPOCH // BATCH,
        learning_rate=1e-3,
        seed=seed,
    )


def our_training(config: RunConfig, n_threads: int) -> float:
    """Train once; return images per second, of everything that `training.train` does.

    The loop stops to look at validation images 20 times in a run, here as often per step as in 1,000 steps.
    """
    import torch

    from infovae.sweep import load_data
    from infovae.training import train

    data = load_data(config.dataset)
    with threads(n_threads), mock.patch("infovae.training.N_LOGGED", max(1, config.steps // 50)):
        return config.steps * config.batch_size / seconds(partial(train, config, data, torch.device("cpu")))


def their_training(config: RunConfig) -> Callable[[Path], None]:
    """Return a function that trains pythae's equal of `conv_config` once, in the threads that torch has."""
    import torch

    from infovae import bench_peers
    from infovae.data import binarize
    from infovae.model import build_model
    from infovae.sweep import load_data

    _require_equal(
        "number of weights",
        _count_weights(build_model(config, (28, 28))),
        _count_weights(bench_peers.build_infovae(config.latent_dim, config.alpha, config.lambda_)),
    )
    x = binarize(load_data(config.dataset).train_images[: config.n_train], torch.Generator().manual_seed(0))
    n_epochs = config.steps * config.batch_size // config.n_train
    return bench_peers.make_training(
        x, config.latent_dim, config.alpha, config.lambda_, config.batch_size, n_epochs, config.learning_rate
    )


def prepare_training(our_threads: int, their_threads: int) -> tuple[Measure, Measure]:
    """Return how one training of ours and one of pythae's are measured, in images per second."""
    config = conv_config(n_epochs=1)
    train = their_training(config)

    def theirs() -> float:
        with threads(their_threads), tempfile.TemporaryDirectory() as folder:
            return config.steps * config.batch_size / seconds(partial(train, Path(folder)))

    return partial(our_training, config, our_threads), theirs


def flops_per_image(config: RunConfig) -> float:
    """Return the floating-point operations that a step's matrix products and convolutions need for each image."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from infovae.model import build_model

    model, x = build_model(config, (28, 28)), torch.zeros(config.batch_size, 1, 28, 28)
    with FlopCounterMode(display=False) as counter:
        model.decoder.log_prob(x, model.encoder(x).sample()).mean().backward()
    return counter.get_total_flops() / config.batch_size


def prepare_share_of_peak() -> tuple[Measure, Measure]:
    """Return how the useful arithmetic of one training and the matrix product's rate are measured, in GFLOP/s."""
    config = conv_config(n_epochs=1)
    flops = flops_per_image(config)
    return lambda: our_training(config, 1) * flops / 1e9, partial(matrix_product_rate, 1)


class Swept(NamedTuple):
    """What one sweep took: wall seconds in all, workers, and the sum of its runs' own seconds."""

    wall_seconds: float
    n_workers: int
    run_seconds: float


LONG_SWEEPS: list[Swept] = []
"""The long sweep of this process: the rows on share of the peak and on efficiency are of the same one."""

SWEEP_EPOCHS, LONG_SWEEP_EPOCHS = 1, 3


def sweep_quietly(tasks: list[Task], on_progress: Callable[[set[str]], None] | None = None) -> pd.DataFrame:
    """Sweep into a store of its own, without the progress bar.

    Raises
    ------
    RuntimeError
        Where a run failed.
    """
    from infovae.store import Store
    from infovae.sweep import sweep

    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        runs = sweep(tasks, Store(Path(folder)), on_progress)
    if set(runs["status"]) != {"done"}:
        raise RuntimeError(f"the sweep of the bench did not come to its end: {set(runs['status'])}")
    return runs


def run_sweep(n_epochs: int) -> Swept:
    """Train eight models on all cores by `sweep`, into a store of its own; from the call to the last model kept."""
    from infovae.sweep import Task, count_workers

    tasks = [Task(conv_config(n_epochs, seed)) for seed in range(N_MODELS)]
    start = time.perf_counter()
    runs = sweep_quietly(tasks)
    wall = time.perf_counter() - start
    return Swept(wall, min(count_workers(), N_MODELS), float(runs["train_seconds"].sum()))


def long_sweep() -> Swept:
    """Return what the one long sweep of this process took."""
    if not LONG_SWEEPS:
        LONG_SWEEPS.append(run_sweep(LONG_SWEEP_EPOCHS))
    return LONG_SWEEPS[0]


def prepare_sweep() -> tuple[Measure, Measure]:
    """Return how eight models of ours on all cores, and pythae's eight in a row, are measured, in images per second."""
    config = conv_config(SWEEP_EPOCHS)
    train = their_training(config)
    n_images = N_MODELS * config.steps * config.batch_size

    def theirs() -> float:
        with threads(count_cores()), tempfile.TemporaryDirectory() as folder:
            return n_images / seconds(lambda: [train(Path(folder) / str(number)) for number in range(N_MODELS)])

    return lambda: n_images / run_sweep(SWEEP_EPOCHS).wall_seconds, theirs


def prepare_sweep_share_of_peak() -> tuple[Measure, Measure]:
    """Return the arithmetic of the long sweep, while its runs were running, and the peak on all cores, in GFLOP/s."""
    config = conv_config(LONG_SWEEP_EPOCHS)
    flops = N_MODELS * config.steps * config.batch_size * flops_per_image(config)

    def ours() -> float:
        swept = long_sweep()
        return flops / (swept.run_seconds / swept.n_workers) / 1e9

    return ours, partial(matrix_product_rate, count_cores())


def prepare_efficiency() -> tuple[Measure, None]:
    """Return sum of run seconds / (wall seconds x workers) of the long sweep."""

    def ours() -> float:
        swept = long_sweep()
        return swept.run_seconds / (swept.wall_seconds * swept.n_workers)

    return ours, None


def prepare_cluster_start() -> tuple[Measure, None]:
    """Return the seconds until the workers of a sweep stand, and are gone again."""
    from infovae.sweep import connect

    def start_and_end() -> None:
        with redirect_stderr(io.StringIO()), connect(N_MODELS):
            pass

    return partial(seconds, start_and_end), None


# --- the PixelCNN


def prepare_pixelcnn(
    n_layers: int, receptive_radius: int, kernel_sizes: Sequence[int], batch_norm: bool
) -> tuple[Measure, Measure]:
    """Return how steps of both unconditional PixelCNNs are measured, in images per second, on one thread.

    Raises
    ------
    RuntimeError
        Where the two do not see as many rows, or have not as many layers.
    """
    import torch

    from infovae import bench_peers
    from infovae.data import binarize
    from infovae.pixelcnn import PixelCNN
    from infovae.sweep import load_data

    x = binarize(load_data("mnist").train_images[:100], torch.Generator().manual_seed(0))
    nothing = x.new_zeros(len(x), 0)
    decoder = PixelCNN(0, 16, n_layers, receptive_radius).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    masked = bench_peers.build_pixelcnn(16, kernel_sizes, batch_norm).eval()  # a batch's statistics see every pixel
    _require_equal("number of layers", n_layers + 1, len(kernel_sizes))
    _require_equal(
        "receptive radius",
        _rows_seen(lambda x: decoder(x, nothing[:1])),
        _rows_seen(masked.net),  # type: ignore[arg-type]
    )
    masked.train()

    def step(model: torch.nn.Module, loss: Callable[[], Tensor], fused: bool) -> Measure:
        optimizer = torch.optim.Adam(model.parameters(), fused=fused)

        def steps(n: int = 5) -> None:
            for _ in range(n):
                optimizer.zero_grad()
                loss().backward()
                optimizer.step()

        def rate() -> float:
            with threads(1):
                return 5 * len(x) / seconds(steps)

        return rate

    return (
        step(decoder, lambda: -decoder.log_prob(x, nothing).mean(), fused=True),
        step(masked, lambda: masked({"data": x}).loss, fused=False),  # as pythae's trainer has it
    )


def _rows_seen(logits: Callable[[Tensor], Tensor]) -> int:
    """Return how many rows above a pixel in the middle of a large image its logit depends on."""
    import torch

    x = torch.rand(1, 1, 101, 101, requires_grad=True)
    (gradient,) = torch.autograd.grad(logits(x)[0, :, 50, 50].sum(), x)
    return 50 - int(gradient[0, 0].abs().sum(1).nonzero().min())


def prepare_sampling(n_images: int = 1000, n_pixels: int = 4) -> tuple[Measure, Measure]:
    """Return how cached and naive sampling are measured, in seconds for `n_images`, on one thread.

    The naive loop, one forward pass over all images for each pixel, is measured on `n_pixels` of the 784 and scaled.

    Raises
    ------
    RuntimeError
        Where the two do not give the same pixels from the same uniforms.
    """
    import torch

    decoder, z, uniforms = _decoder_and_codes(n_images)
    few = uniforms[:4]
    different = int((decoder.sample(z[:4], few) != sample_naively(decoder, z[:4], few, few[0].numel())).sum())
    _require_equal("number of pixels in which the samplers differ", different, 0)
    n_all = uniforms[0].numel()

    def ours() -> float:
        with threads(1), torch.no_grad():
            return seconds(lambda: decoder.sample(z, uniforms))

    def theirs() -> float:
        with threads(1):
            return n_all / n_pixels * seconds(lambda: sample_naively(decoder, z, uniforms, n_pixels))

    return ours, theirs


def sample_naively(decoder: PixelCNN, z: Tensor, uniforms: Tensor, n_pixels: int) -> Tensor:
    """Draw the first `n_pixels` pixels of x ~ p(x|z), each by a full forward pass; the others stay 0."""
    import torch

    x = torch.zeros_like(uniforms)
    width = x.shape[3]
    with torch.no_grad():
        for i, j in (divmod(number, width) for number in range(n_pixels)):
            x[:, :, i, j] = (torch.logit(uniforms[:, :, i, j]) < decoder(x, z)[:, :, i, j]).to(x.dtype)
    return x


def _decoder_and_codes(n_images: int) -> tuple[PixelCNN, Tensor, Tensor]:
    import torch

    from infovae.config import RunConfig
    from infovae.model import build_model
    from infovae.pixelcnn import PixelCNN

    torch.manual_seed(0)
    decoder = build_model(RunConfig(), (28, 28)).decoder.eval()
    if not isinstance(decoder, PixelCNN):
        raise TypeError(f"the default decoder is a {type(decoder).__name__}, and this row is about PixelCNN")
    return decoder, torch.randn(n_images, RunConfig().latent_dim), torch.rand(n_images, 1, 28, 28)


# --- estimators


def mmd_cost() -> tuple[float, float]:
    """Return seconds and peak extra MB of the chunked squared MMD, 10,000 codes against 10,000 in 10 dimensions."""
    import torch

    from infovae import divergences

    kernel = divergences.make_kernel("rbf", 10, "prior")
    x, y = torch.randn(2, 10_000, 10)
    return _cost(lambda n: divergences.squared_mmd_chunked(x[:n], y[:n], kernel))


def information_cost() -> tuple[float, float]:
    """Return seconds and peak extra MB of the mutual information of 10,000 codes in 10 dimensions."""
    import torch

    from infovae.evaluation.latent import mutual_information

    mu, std = torch.randn(10_000, 10), torch.rand(10_000, 10) + 0.1
    z = mu + std * torch.randn(10_000, 10)
    return _cost(lambda n: mutual_information(z[:n], mu[:n], std[:n]))


def _cost(estimate: Callable[[int], object]) -> tuple[float, float]:
    import torch

    torch.set_num_threads(1)  # as in a worker
    estimate(500)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before = peak_memory_mb()
    duration = seconds(lambda: estimate(10_000))
    return duration, peak_memory_mb() - before


def prepare_estimator(cost: Callable[[], tuple[float, float]], which: int) -> tuple[Measure, None]:
    """Return how one of the two numbers that `cost` returns is measured, each time in a fresh process."""
    return lambda: in_fresh_process(cost)[which], None


def prepare_bound(n_draws: int = 100) -> tuple[Measure, Measure]:
    """Return how the importance-weighted bound is measured, in seconds per image: draws batched, and one by one."""
    import torch

    from infovae.data import binarize
    from infovae.evaluation.likelihood import importance_weighted_bound, initial_proposal
    from infovae.networks import Gaussian
    from infovae.sweep import load_data

    decoder, z, _ = _decoder_and_codes(10)
    x = binarize(load_data("mnist").test_images[: len(z)], torch.Generator().manual_seed(0))
    proposal = initial_proposal(Gaussian(z, torch.full_like(z, 0.5)))

    def per_image(n: int, chunk: int) -> float:
        few = type(proposal)(proposal.mu[:n], proposal.scale_tril[:n])
        generator = torch.Generator().manual_seed(0)
        with threads(1), torch.no_grad():
            bound = partial(importance_weighted_bound, decoder, few, x[:n], generator, (n_draws,), chunk)
            return seconds(bound) / n

    return partial(per_image, len(x), 1000), partial(per_image, 2, 1)


# --- the whole


def prepare_command(*arguments: str) -> tuple[Measure, None]:
    """Return how a run of this Python with these arguments is measured, in seconds."""
    return lambda: seconds(partial(subprocess.run, [sys.executable, *arguments], check=True, capture_output=True)), None


def prepare_worker_memory() -> tuple[Measure, None]:
    """Return how the largest peak among a sweep's workers is measured, in MB: training and every evaluation.

    Two default runs of few steps on 50,000 images: what is held does not grow with the number of steps.
    """

    def ours() -> float:
        from infovae.config import (
            ClassifierConfig,
            LatentEvaluation,
            LikelihoodEvaluation,
            RunConfig,
            SampleEvaluation,
            SemiSupervisedEvaluation,
        )
        from infovae.sweep import Task

        evaluations = (
            LatentEvaluation(),
            LikelihoodEvaluation(n_images=20, fit_steps=5),
            SampleEvaluation(classifier=ClassifierConfig(steps=5), n_samples=1000),
            SemiSupervisedEvaluation(n_labels=100, n_draws=1),
        )
        tasks = [Task(RunConfig(objective="mmd_annealed", steps=10, seed=seed), evaluations) for seed in (0, 1)]
        peaks = [0.0]

        def look(open_jobs: set[str]) -> None:
            peaks.extend(peak_memory_mb(str(child.pid)) for child in multiprocessing.active_children())

        sweep_quietly(tasks, look)
        return max(peaks)

    return ours, None


# --- how cost grows

GROWTH = {
    "latent_dim": (2, 5, 10, 20, 40, 80),
    "n_train": (500, 5_000, 50_000),
    "receptive_radius": (4, 8, 12, 16, 20, 28),
    "batch_size": (25, 50, 100, 200, 400),
}
"""What is varied, one at a time, in a default run of `mmd_annealed` with a PixelCNN."""


def prepare_growth(parameter: str, value: int, steps: int = 10) -> tuple[Measure, None]:
    """Return how a step of training is measured, in ms."""
    from infovae.config import RunConfig

    config = RunConfig.model_validate({"objective": "mmd_annealed", "steps": steps, parameter: value})

    return lambda: 1e3 * config.batch_size / our_training(config, 1), None


def _count_weights(model: torch.nn.Module) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _require_equal(what: str, ours: int, theirs: int) -> None:
    if ours != theirs:
        raise RuntimeError(f"this is no comparison of equals: {what} is {ours} here and {theirs} there")


def make_rows() -> list[Row]:
    """Return every row, in the order in which they are measured and shown."""
    n_cores = count_cores()
    infovae_mmd = "pythae 0.1.2, INFOVAE_MMD under its BaseTrainer"
    equals = "same networks, kernel, batches of 128, 100 steps"
    product = "the product of two 2048 x 2048 float32 matrices"
    masked = "pythae's PixelCNN and MaskedConv2d with other kernel sizes"
    return [
        Row(
            "training, one thread each", "images/s", partial(prepare_training, 1, 1), infovae_mmd, 3, 2,
            f"{equals}. {CONV_LIMIT}", repeats=3,
        ),
        Row(
            "training, ours on one thread, theirs on all", "images/s", partial(prepare_training, 1, n_cores),
            infovae_mmd, 3, 2, f"{equals}. A run of ours has one thread, so that nothing else can change its result",
            repeats=3,
        ),
        Row(
            "training, all threads each", "images/s", partial(prepare_training, n_cores, n_cores),
            infovae_mmd, note=f"{equals}. Not how a run of ours is made: a sweep has one per core instead",
            repeats=3,
        ),
        Row(
            "arithmetic of training, share of the peak, one thread", "GFLOP/s", prepare_share_of_peak, product,
            note="operations of convolutions and matrix products", repeats=3,
        ),
        Row(
            "sweep of 8 models, all cores", "images/s", prepare_sweep, f"{infovae_mmd}, 8 in a row, all cores", 4, 3,
            f"{SWEEP_EPOCHS * EPOCH // BATCH} steps each; ours with the start of its workers", repeats=1, warm_up=False,
        ),
        Row(
            "arithmetic of the sweep, share of the peak, all cores", "GFLOP/s", prepare_sweep_share_of_peak, product,
            note=f"{LONG_SWEEP_EPOCHS * EPOCH // BATCH} steps each; while the runs are running", warm_up=False,
        ),
        Row(
            "efficiency of the sweep", "share", prepare_efficiency, floor=0.9,
            note=f"sum of run seconds / (wall seconds x workers), {LONG_SWEEP_EPOCHS * EPOCH // BATCH} steps each, "
            "with the start of the workers",
            repeats=1, warm_up=False,
        ),
        Row("start and end of a sweep's workers", "s", prepare_cluster_start, repeats=3, warm_up=False),
        Row(
            "PixelCNN, 16 channels, 5 layers, radius 10: 5x5 kernels", "images/s",
            partial(prepare_pixelcnn, 4, 10, (5,) * 5, True), "pythae's PixelCNN, 16 channels instead of 64", 3, 2,
            "5x5 masked convolutions with batch normalisation, as it has them; both unconditional",
        ),
        Row(
            "PixelCNN, 16 channels, 5 layers, radius 10: our kernel sizes", "images/s",
            partial(prepare_pixelcnn, 4, 10, (13, 3, 3, 3, 3), True), masked, 3, 2,
            "13x13 and four of 3x3, with batch normalisation",
        ),
        Row(
            "PixelCNN, 16 channels, 3 layers, radius 8 (the profiles')", "images/s",
            partial(prepare_pixelcnn, 2, 8, (13, 3, 3), True), masked, 3, 2,
            "13x13 and two of 3x3, with batch normalisation",
        ),
        Row(
            "the same without batch normalisation", "images/s",
            partial(prepare_pixelcnn, 2, 8, (13, 3, 3), False), masked, 3, 2, "13x13 and two of 3x3",
        ),
        Row(
            "PixelCNN, sampling 1,000 images", "s", prepare_sampling, "a forward pass of the same network per pixel",
            100, 50, "theirs is measured on 4 of the 784 pixels and scaled; both give the same pixels", repeats=3,
        ),
        Row("squared MMD, 10,000 against 10,000", "s", partial(prepare_estimator, mmd_cost, 0), floor=3, repeats=3),
        Row(
            "squared MMD, peak extra memory", "MB", partial(prepare_estimator, mmd_cost, 1), floor=500, repeats=1,
            warm_up=False,
        ),
        Row("I(x;z), 10,000 codes", "s", partial(prepare_estimator, information_cost, 0), floor=3, repeats=3),
        Row(
            "I(x;z), peak extra memory", "MB", partial(prepare_estimator, information_cost, 1), floor=500, repeats=1,
            warm_up=False,
        ),
        Row(
            "importance-weighted bound of an image, K = 100, PixelCNN", "s", prepare_bound,
            "one draw in each call of the decoder", note="one thread", repeats=3,
        ),
        Row("import infovae", "s", partial(prepare_command, "-c", "import infovae"), floor=1.5),
        Row("python -m infovae --help", "s", partial(prepare_command, "-m", "infovae", "--help"), floor=1.5),
        Row(
            "peak memory of a worker", "MB", prepare_worker_memory, floor=1500, repeats=1, warm_up=False,
            note="PixelCNN, training on 50,000 images and the evaluations of codes, samples, likelihood, few labels",
        ),
        *(
            Row(
                f"step of training, {parameter} = {value:,}", "ms", partial(prepare_growth, parameter, value),
                repeats=3, varied=(parameter, value), note="default run of mmd_annealed with a PixelCNN, one thread",
            )
            for parameter, values in GROWTH.items()
            for value in values
        ),
    ]  # fmt: skip


CONV_LIMIT = ""
