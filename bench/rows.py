"""The rows of `make bench`: what is measured, against what, and what it should come to."""

from __future__ import annotations

import io
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from infovae import config as settings
from infovae.config import LatentEvaluation, RunConfig
from infovae.data.datasets import binarize
from infovae.evaluation.latent import mutual_information
from infovae.model import divergences
from infovae.model.build import build_model
from infovae.runs.cluster import count_workers
from infovae.runs.store import Store
from infovae.runs.sweep import Task, load_data, sweep
from infovae.training import Training

DATASET: settings.Dataset = "mnist"
N_TRAIN, BATCH_SIZE, N_SAMPLES, N_CODES = 50_000, 100, 1000, 10_000
STEPS, SWEEP_STEPS = {"conv/conv": 50, "published PixelCNN": 5, "small PixelCNN": 10}, 600
N_SEEDS, SCIENCE_STEPS, METRICS = 5, 300, ["reconstruction_nll", "mutual_information", "squared_mmd"]

# a code of two dimensions keeps I(x;z) below its cap, where all seeds would agree
MMD = {"objective": "mmd", "bandwidth": "prior", "latent_dim": 2}
PYTHAE = {"objective": "mmd", "kernel": "imq", "bandwidth": "paper", "alpha": 0.0, "lambda_": 10.0}
RUNS: dict[str, dict[str, object]] = {
    "conv/conv": PYTHAE | {"decoder": "conv", "posterior_std": "exp", "n_prior_draws": 100},
    "published PixelCNN": MMD | {"pixelcnn_channels": 32, "pixelcnn_layers": 4, "receptive_radius": 12},
    "small PixelCNN": MMD | {"pixelcnn_channels": 16, "pixelcnn_layers": 2, "receptive_radius": 8},
}
KERNELS: dict[str, dict[str, tuple[int, ...]]] = {
    "published PixelCNN": {"usual": (7, 7, 5, 5, 5), "our": (17, 3, 3, 3, 3)},
    "small PixelCNN": {"usual": (7, 7, 5), "our": (13, 3, 3)},
}
"""Sizes of masked convolutions that see as many rows in as many layers as ours."""


class Row(NamedTuple):
    """One line of the table.

    `ours` and `theirs` do the work once and return what was measured, in the row's unit, on one thread unless the name
    says otherwise. `aim` and `floor` are of the ratio "how many times as good as theirs", without a peer of our own
    value. Each is measured `repeats` times, by turns; where that is above 1, after a first time that does not count.
    """

    name: str
    unit: str
    ours: Callable[[], float]
    theirs: Callable[[], float] | None = None
    aim: float | None = None
    floor: float | None = None
    repeats: int = 3


def make_rows(bfloat16: bool) -> list[Row]:
    """Return the rows in the order in which they are measured, with or without those of training in bfloat16."""
    peer = partial(pythae_rate, max(1, SWEEP_STEPS // 4), count_workers())
    rows = [Row("sweep of 8, conv/conv, all cores, against pythae one by one", "images/s", sweep_rate, peer, 3, 2.3, 1)]
    for precision in ("float32", "bfloat16") if bfloat16 else ("float32",):
        rows += training_rows(precision)
    if bfloat16:
        rows.append(Row(f"same science: means of {N_SEEDS} seeds apart", "spreads", science, floor=1, repeats=1))
    naive, import_ = partial(sampling_seconds, cached=False), partial(command_seconds, "-c", "import infovae")
    return [
        *rows,
        Row(f"published PixelCNN, sampling {N_SAMPLES:,} images", "s", sampling_seconds, floor=1),
        Row("published PixelCNN, sampling, against a pass per pixel", "s", sampling_seconds, naive, 100, 50, 1),
        Row(f"squared MMD, {N_CODES:,} x {N_CODES:,}", "s", mmd_seconds, floor=3),
        Row(f"I(x;z), {N_CODES:,} x {N_CODES:,}", "s", information_seconds, floor=3),
        Row("import infovae", "s", import_, floor=1.5),
        Row("--help", "s", partial(command_seconds, "-m", "infovae", "--help"), floor=1.5),
        Row("peak memory of a worker, training and evaluations", "MB", worker_memory, floor=1500, repeats=1),
    ]


def training_rows(precision: str) -> list[Row]:
    """Return the rows of training in a precision: against the peers, the matrix product and, in bfloat16, float32."""
    ours = {name: partial(training_rate, name, precision) for name in RUNS}
    name, goals = f"conv/conv, {precision}, against pythae", {"conv/conv": (1.7, 1.5), "published PixelCNN": (2.5, 2.2)}
    rows = [Row(name, "images/s", ours["conv/conv"], partial(pythae_rate, STEPS["conv/conv"]), 2.3, 2)]
    for name, kernels in KERNELS.items():
        decoder, floor = partial(ours[name], objective="unconditional", latent_dim=0), 1.5 if "publ" in name else 1
        for kind in kernels:
            peer = partial(masked_rate, name, kind)
            text = f"{name} alone, {precision}, against masked convolutions of {kind} sizes"
            rows.append(Row(text, "images/s", decoder, peer, 2, floor))
    rows += [
        Row(f"{name}, {precision}, share of the matrix product", "share", partial(share, name, precision), aim=0.5)
        for name in RUNS
    ]
    if precision == "bfloat16":
        for name in RUNS:
            text, peer = f"{name}, bfloat16, against float32", partial(training_rate, name)
            rows.append(Row(text, "images/s", ours[name], peer, *goals.get(name, (1.5, None))))
    return rows


def make_config(name: str, precision: str = "float32", **fields: object) -> RunConfig:
    """Return a run of `RUNS`: by default so long that no step of a measurement is logged."""
    common = {"dataset": DATASET, "n_train": N_TRAIN, "batch_size": BATCH_SIZE, "steps": 1_000_000}
    return RunConfig.model_validate(RUNS[name] | common | {"precision": precision} | fields)


def timed(function: Callable[[], object], n_threads: int = 1) -> float:
    """Return the seconds that a call takes when torch has this many threads."""
    torch.set_num_threads(n_threads)
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def training_rate(name: str, precision: str = "float32", n_steps: int | None = None, **fields: object) -> float:
    """Return images/s of the first steps of a run."""
    run, n_steps = _begin(make_config(name, precision, **fields)), n_steps or STEPS[name]
    return n_steps * BATCH_SIZE / timed(lambda: run.advance(n_steps))


def _begin(config: RunConfig) -> Training:
    return Training(config, load_data(config.dataset), torch.device("cpu"))


def pythae_rate(n_steps: int, n_threads: int = 1) -> float:
    """Return images/s of pythae's equal of conv/conv in float32, with the start and the end of its trainer."""
    from bench import peers

    config, x = make_config("conv/conv"), batch(n_steps * BATCH_SIZE)
    model = peers.build_infovae(config, x.shape[2])
    ours, theirs = (sum(weight.numel() for weight in m.parameters()) for m in (_begin(config).model, model))
    if ours != theirs:
        raise RuntimeError(f"this is no comparison of equals: {ours} weights here and {theirs} there")
    return len(x) / timed(lambda: peers.train_infovae(config, model, x), n_threads)


def batch(n: int) -> torch.Tensor:
    """Return binary images, (n, 1, H, W)."""
    return binarize(load_data(DATASET).train_images[:n], torch.Generator().manual_seed(0))


def masked_rate(name: str, kind: str) -> float:
    """Return images/s of pythae's PixelCNN in float32, with batch normalisation where the sizes are the usual ones."""
    from bench import peers

    x = batch(BATCH_SIZE)
    model = peers.build_pixelcnn(make_config(name).pixelcnn_channels, KERNELS[name][kind], kind == "usual", x.shape[2])
    optimizer = torch.optim.Adam(model.parameters())  # as pythae's trainer has it

    def steps() -> None:
        for _ in range(STEPS[name]):
            optimizer.zero_grad()
            model({"data": x}).loss.backward()
            optimizer.step()

    return STEPS[name] * len(x) / timed(steps)


def share(name: str, precision: str) -> float:
    """Return the rate of a step's convolutions and matrix products, over that of one product of large matrices."""
    with FlopCounterMode(display=False) as counter:
        training_rate(name, precision, n_steps=1)
    flops_per_image = counter.get_total_flops() / BATCH_SIZE
    return training_rate(name, precision) * flops_per_image / matrix_product_rate(precision)


def matrix_product_rate(precision: str, size: int = 2048) -> float:
    """Return the median rate of products of two matrices on one thread, in operations per second."""
    a, b = torch.randn(2, size, size).to(getattr(torch, precision))
    return 2 * size**3 / statistics.median([timed(partial(torch.mm, a, b)) for _ in range(3)])


def sweep_quietly(configs: Sequence[RunConfig], *evaluations: settings.Evaluation) -> pd.DataFrame:
    """Sweep into a store of its own, without the progress bar; RuntimeError where a run failed."""
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        runs = sweep([Task(config, evaluations) for config in configs], Store(Path(folder)))
    if set(runs["status"]) != {"done"}:
        raise RuntimeError(f"the sweep of the bench did not come to its end: {set(runs['status'])}")
    return runs


def sweep_rate() -> float:
    """Return images/s of eight conv/conv runs on all cores, in the precision that runs have by default."""
    precision = RunConfig().precision
    configs = [make_config("conv/conv", precision, steps=SWEEP_STEPS, seed=seed) for seed in range(8)]
    return len(configs) * SWEEP_STEPS * BATCH_SIZE / timed(lambda: sweep_quietly(configs))


def science() -> float:
    """Return how far the metrics of float32 and bfloat16 are apart at most, in standard deviations over seeds."""
    seeds = [{"seed": seed, "steps": SCIENCE_STEPS} for seed in range(N_SEEDS)]
    configs = [make_config("small PixelCNN", p, **seed) for p in ("float32", "bfloat16") for seed in seeds]
    metrics = sweep_quietly(configs, LatentEvaluation(split="validation")).groupby("precision")[METRICS]
    difference = metrics.mean().loc["bfloat16"] - metrics.mean().loc["float32"]
    return (difference.abs() / metrics.std().loc["float32"]).to_numpy().max().item()


@torch.no_grad()
def sampling_seconds(cached: bool = True) -> float:
    """Return the seconds that samples take: with cached activations, or with a forward pass for each pixel."""
    height, width = load_data(DATASET).train_images.shape[1:]
    decoder = build_model(make_config("published PixelCNN"), (height, width)).decoder.eval()
    z, uniforms = torch.randn(N_SAMPLES, 2), torch.rand(N_SAMPLES, 1, height, width)
    if cached:
        return timed(lambda: decoder.sample(z, uniforms))
    return height * width * timed(lambda: decoder(uniforms, z))


def mmd_seconds() -> float:
    """Return the seconds that the squared MMD of codes against as many takes, in 10 dimensions."""
    x, y = torch.randn(2, N_CODES, 10)
    return timed(lambda: divergences.squared_mmd_chunked(x, y, divergences.make_kernel("rbf", 10, "prior")))


def information_seconds() -> float:
    """Return the seconds that the mutual information of codes takes, in 10 dimensions."""
    z, mu, std = torch.randn(N_CODES, 10), torch.randn(N_CODES, 10), torch.rand(N_CODES, 10) + 0.1
    return timed(lambda: mutual_information(z, mu, std))


def command_seconds(*arguments: str) -> float:
    """Return the seconds that this Python takes with these arguments."""
    return timed(lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True))


def worker_memory() -> float:
    """Return the most memory that any worker of the bench has held so far, in MB: training, codes and samples."""
    classifier = settings.ClassifierConfig(dataset=DATASET, steps=5)
    samples = settings.SampleEvaluation(classifier=classifier, n_samples=N_SAMPLES)
    config = make_config("published PixelCNN", RunConfig().precision, steps=10)  # more steps hold no more
    sweep_quietly([config], LatentEvaluation(n_images=N_CODES), samples)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
