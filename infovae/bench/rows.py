"""The rows of `make bench`: each prepares a piece of work and returns how ours, and a peer's, is measured."""

from __future__ import annotations

import ctypes
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
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, suppress
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from infovae import divergences
from infovae.bench import Measure, Row
from infovae.config import (
    ClassifierConfig,
    LatentEvaluation,
    LikelihoodEvaluation,
    RunConfig,
    SampleEvaluation,
    SemiSupervisedEvaluation,
)
from infovae.data import binarize
from infovae.evaluation.latent import mutual_information
from infovae.evaluation.likelihood import Proposal, importance_weighted_bound, initial_proposal
from infovae.model import build_model
from infovae.networks import Decoder, Gaussian
from infovae.pixelcnn import PixelCNN
from infovae.store import Store
from infovae.sweep import Task, count_workers, load_data, sweep
from infovae.training import Training

CPU = torch.device("cpu")
IMAGE = (28, 28)


def timed(function: Callable[[], object], n_threads: int = 1) -> float:
    """Return the seconds that a call takes when torch has this many threads."""
    torch.set_num_threads(n_threads)
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def keep_freed_memory() -> None:
    """Have glibc keep freed memory, as in a sweep's workers (`sweep.connect`): for ours and theirs."""
    if platform.libc_ver()[0] == "glibc":
        for option, value in ((-1, 2**30), (-3, 2**25), (-8, 1)):  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX
            ctypes.CDLL(None).mallopt(option, value)


def matrix_product_rate(n_threads: int, size: int = 2048) -> float:
    """Return the median rate of five products of two float32 matrices, in GFLOP/s."""
    a, b = torch.randn(2, size, size)
    times = [timed(partial(torch.mm, a, b), n_threads) for _ in range(6)][1:]
    return 2 * size**3 / statistics.median(times) / 1e9


def peak_memory_mb(process: int | str = "self") -> float:
    """Return the most memory that a process has held, in MB; NaN where the system does not tell."""
    with suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1e3
    return math.nan


def require_equal(what: str, ours: int, theirs: int) -> None:
    """Raise RuntimeError where ours and theirs would not do the same."""
    if ours != theirs:
        raise RuntimeError(f"this is no comparison of equals: {what} is {ours} here and {theirs} there")


# --- training one model, and eight

EPOCH_STEPS, BATCH, N_MODELS, SWEEP_EPOCHS, PEER_MODELS, PEER_EPOCHS = 100, 128, 8, 10, 1, 3


def conv_config(steps: int = 1000, seed: int = 0) -> RunConfig:
    """Return the run that pythae's INFOVAE_MMD has an equal of, but for its divergence's bias."""
    return RunConfig(
        objective="mmd", kernel="imq", alpha=0.0, lambda_=10.0, decoder="conv", posterior_std="exp", seed=seed,
        n_train=EPOCH_STEPS * BATCH, batch_size=BATCH, steps=steps, learning_rate=1e-3,
    )  # fmt: skip


def our_training(n_threads: int) -> float:
    """Begin a run of ours and train for an epoch; return images per second."""

    def train() -> None:
        run = Training(conv_config(), load_data("mnist"), CPU)
        torch.set_num_threads(n_threads)
        run.advance(EPOCH_STEPS)

    return EPOCH_STEPS * BATCH / timed(train)


def their_training(n_threads: int, n_epochs: int = 1, n_models: int = 1) -> Measure:
    """Return how pythae's equals of `conv_config`, trained one after the other, are measured, in images per second."""
    from infovae.bench import peers

    config = conv_config()
    build = partial(peers.build_infovae, config.latent_dim, config.alpha, config.lambda_)
    sizes = [sum(weight.numel() for weight in model.parameters()) for model in (build_model(config, IMAGE), build())]
    require_equal("number of weights", *sizes)
    x = binarize(load_data("mnist").train_images[: config.n_train], torch.Generator().manual_seed(0))
    train = peers.make_training(x, build, config.batch_size, n_epochs, config.learning_rate)

    def theirs() -> float:
        with tempfile.TemporaryDirectory() as folder:
            seconds = timed(lambda: [train(Path(folder) / str(number)) for number in range(n_models)], n_threads)
        return n_models * n_epochs * len(x) / seconds

    return theirs


def prepare_training(n_threads: int) -> Sequence[Measure]:
    """One training of ours, and one of pythae's."""
    return partial(our_training, n_threads), their_training(n_threads)


def flops_per_image(config: RunConfig) -> float:
    """Return the floating-point operations that a step's matrix products and convolutions need for each image."""
    model, x = build_model(config, IMAGE), torch.zeros(config.batch_size, 1, *IMAGE)
    with FlopCounterMode(display=False) as counter:
        model.decoder.log_prob(x, model.encoder(x).sample()).mean().backward()
    return counter.get_total_flops() / config.batch_size


class Swept(NamedTuple):
    """What a sweep took: images in all, wall seconds, workers, and the sum of its runs' own seconds."""

    images: int
    wall_seconds: float
    n_workers: int
    run_seconds: float


def sweep_quietly(tasks: list[Task], on_progress: Callable[[set[str]], None] | None = None) -> pd.DataFrame:
    """Sweep into a store of its own, without the progress bar; RuntimeError where a run failed."""
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):
        runs = sweep(tasks, Store(Path(folder)), on_progress)
    if set(runs["status"]) != {"done"}:
        raise RuntimeError(f"the sweep of the bench did not come to its end: {set(runs['status'])}")
    return runs


@cache
def eight_models() -> Swept:
    """Train eight models on all cores by `sweep`, once in this process: three rows look at it."""
    steps = SWEEP_EPOCHS * EPOCH_STEPS
    start = time.perf_counter()
    runs = sweep_quietly([Task(conv_config(steps, seed)) for seed in range(N_MODELS)])
    wall = time.perf_counter() - start
    return Swept(N_MODELS * steps * BATCH, wall, min(count_workers(), N_MODELS), float(runs["train_seconds"].sum()))


def prepare_sweep() -> Sequence[Measure]:
    """Eight models of ours on all cores, and pythae's one after the other, in images per second."""
    theirs = their_training(count_workers(), PEER_EPOCHS, PEER_MODELS)
    return lambda: eight_models().images / eight_models().wall_seconds, theirs


def prepare_share_of_peak() -> Sequence[Measure]:
    """The arithmetic of the sweep while its runs were running, and the peak on all cores, in GFLOP/s."""

    def ours() -> float:
        swept = eight_models()
        return swept.images * flops_per_image(conv_config()) / (swept.run_seconds / swept.n_workers) / 1e9

    return ours, partial(matrix_product_rate, count_workers())


def sweep_efficiency() -> float:
    """Return sum of run seconds / (wall seconds x workers)."""
    swept = eight_models()
    return swept.run_seconds / (swept.wall_seconds * swept.n_workers)


# --- the PixelCNN


def prepare_pixelcnn(n_layers: int, radius: int, kernel_sizes: Sequence[int], batch_norm: bool) -> Sequence[Measure]:
    """Steps of both unconditional PixelCNNs of 16 channels, in images per second, on one thread."""
    from infovae.bench import peers

    x = binarize(load_data("mnist").train_images[:100], torch.Generator().manual_seed(0))
    nothing = x.new_zeros(len(x), 0)
    ours = PixelCNN(0, 16, n_layers - 1, radius).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    masked = peers.build_pixelcnn(16, kernel_sizes, batch_norm).eval()  # a batch's statistics would see every pixel
    require_equal("number of layers", n_layers, len(kernel_sizes))
    require_equal("receptive radius", rows_seen(lambda x: ours(x, nothing[:1])), rows_seen(masked.net))  # type: ignore[arg-type]
    masked.train()
    return (
        training_rate(ours, lambda: -ours.log_prob(x, nothing).mean(), len(x), fused=True),
        training_rate(masked, lambda: masked({"data": x}).loss, len(x), fused=False),  # as pythae's trainer has it
    )


def training_rate(model: nn.Module, loss: Callable[[], Tensor], batch: int, fused: bool, n_steps: int = 5) -> Measure:
    """Return how a few steps with Adam are measured, in images per second."""
    optimizer = torch.optim.Adam(model.parameters(), fused=fused)

    def steps() -> None:
        for _ in range(n_steps):
            optimizer.zero_grad()
            loss().backward()
            optimizer.step()

    return lambda: n_steps * batch / timed(steps)


def rows_seen(logits: Callable[[Tensor], Tensor]) -> int:
    """Return how many rows above a pixel in the middle of a large image its logit depends on."""
    x = torch.rand(1, 1, 101, 101, requires_grad=True)
    (gradient,) = torch.autograd.grad(logits(x)[0, :, 50, 50].sum(), x)
    return 50 - int(gradient[0, 0].abs().sum(1).nonzero().min())


def prepare_sampling(n_images: int = 1000, n_pixels: int = 4) -> Sequence[Measure]:
    """Cached and naive sampling, in seconds for `n_images`; the naive one on `n_pixels` of the 784, and scaled."""
    decoder, z = decoder_and_codes(n_images)
    uniforms = torch.rand(n_images, 1, *IMAGE)
    n_all, few = uniforms[0].numel(), uniforms[:4]
    different = int((decoder.sample(z[:4], few) != sample_naively(decoder, z[:4], few, n_all)).sum())
    require_equal("number of pixels in which the samplers differ", different, 0)

    def theirs() -> float:
        return n_all / n_pixels * timed(lambda: sample_naively(decoder, z, uniforms, n_pixels))

    return lambda: timed(lambda: decoder.sample(z, uniforms)), theirs


@torch.no_grad()
def sample_naively(decoder: Decoder, z: Tensor, uniforms: Tensor, n_pixels: int) -> Tensor:
    """Draw the first `n_pixels` pixels of x ~ p(x|z), each by a forward pass over the whole image."""
    x = torch.zeros_like(uniforms)
    for i, j in (divmod(number, x.shape[3]) for number in range(n_pixels)):
        x[:, :, i, j] = (torch.logit(uniforms[:, :, i, j]) < decoder(x, z)[:, :, i, j]).to(x.dtype)
    return x


def decoder_and_codes(n_images: int) -> tuple[Decoder, Tensor]:
    """Return the decoder that a run has by default, as in the laptop profile, and codes."""
    torch.manual_seed(0)
    config = RunConfig()
    return build_model(config, IMAGE).decoder.eval(), torch.randn(n_images, config.latent_dim)


# --- estimators


def mmd_cost() -> tuple[float, float]:
    """Return seconds and peak extra MB of the squared MMD of 10,000 codes against 10,000, in 10 dimensions."""
    kernel = divergences.make_kernel("rbf", 10, "prior")
    x, y = torch.randn(2, 10_000, 10)
    return _cost(lambda n: divergences.squared_mmd_chunked(x[:n], y[:n], kernel))


def information_cost() -> tuple[float, float]:
    """Return seconds and peak extra MB of the mutual information of 10,000 codes in 10 dimensions."""
    mu, std = torch.randn(10_000, 10), torch.rand(10_000, 10) + 0.1
    z = mu + std * torch.randn(10_000, 10)
    return _cost(lambda n: mutual_information(z[:n], mu[:n], std[:n]))


def _cost(estimate: Callable[[int], object]) -> tuple[float, float]:
    timed(lambda: estimate(500))
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from what is held now
    before = peak_memory_mb()
    seconds = timed(lambda: estimate(10_000))
    return seconds, peak_memory_mb() - before


def in_fresh_process(cost: Callable[[], tuple[float, float]], which: int) -> Sequence[Measure]:
    """One of the numbers that `cost` returns in a new process, whose memory nothing else has touched."""

    def ours() -> float:
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            return pool.submit(cost).result()[which]

    return [ours]


def prepare_bound(n_images: int = 10, n_draws: int = 100) -> Sequence[Measure]:
    """The importance-weighted bound, in seconds per image: draws batched, and one by one."""
    decoder, z = decoder_and_codes(n_images)
    x = binarize(load_data("mnist").test_images[:n_images], torch.Generator().manual_seed(0))
    proposal = initial_proposal(Gaussian(z, torch.full_like(z, 0.5)))

    def per_image(n: int, chunk: int) -> float:
        few, generator = Proposal(proposal.mu[:n], proposal.scale_tril[:n]), torch.Generator().manual_seed(0)
        bound = partial(importance_weighted_bound, decoder, few, x[:n], generator, (n_draws,), chunk)
        return timed(bound) / n

    return partial(per_image, n_images, 1000), partial(per_image, 2, 1)


# --- the whole


def prepare_command(*arguments: str) -> Sequence[Measure]:
    """A run of this Python with these arguments, in seconds."""
    command = partial(subprocess.run, [sys.executable, *arguments], check=True, capture_output=True)
    return [partial(timed, command)]


@cache
def reproduce_smoke() -> tuple[float, float]:
    """Return the seconds to the first notebook of a cold smoke profile, and those of all of it once it is warm."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "INFOVAE_STORE": f"{folder}/store", "INFOVAE_RESULTS": f"{folder}/results"}
        command = [sys.executable, "-m", "infovae", "reproduce", "--profile", "smoke"]
        start, first = time.perf_counter(), math.nan
        with subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        ) as cold:
            for line in cold.stderr or ():
                if math.isnan(first) and ".ipynb (after" in line:
                    first = time.perf_counter() - start
        if cold.returncode:
            raise RuntimeError(f"reproduce --profile smoke ended with status {cold.returncode}")
        warm = timed(partial(subprocess.run, command, env=environment, check=True, capture_output=True))
    return first, warm


def prepare_smoke(which: int) -> Sequence[Measure]:
    """One of the numbers of `reproduce_smoke`."""
    return [lambda: reproduce_smoke()[which]]


def worker_memory() -> float:
    """Return the largest peak among the workers of two short default runs with every evaluation, in MB.

    What is held does not grow with the number of steps.
    """
    evaluations = (
        LatentEvaluation(),
        LikelihoodEvaluation(n_images=20, fit_steps=5),
        SampleEvaluation(classifier=ClassifierConfig(steps=5), n_samples=1000),
        SemiSupervisedEvaluation(n_labels=100, n_draws=1),
    )
    peaks: list[float] = []

    def look(open_jobs: set[str]) -> None:
        peaks.extend(peak_memory_mb(child.pid or "self") for child in multiprocessing.active_children())

    runs = [RunConfig(objective="mmd_annealed", steps=10, seed=seed) for seed in (0, 1)]
    sweep_quietly([Task(config, evaluations) for config in runs], look)
    return max(peaks)


# --- how cost grows

GROWTH = {
    "latent_dim": (2, 5, 10, 20, 40, 80),
    "n_train": (500, 5_000, 50_000),
    "receptive_radius": (4, 8, 12, 16, 20, 28),
    "batch_size": (25, 50, 100, 200, 400),
}
"""What is varied, one at a time, in a default run of `mmd_annealed` with a PixelCNN."""


def prepare_growth(parameter: str, value: int, n_steps: int = 5) -> Sequence[Measure]:
    """Steps of training, in ms each; those that look at validation images are left out."""
    config = RunConfig.model_validate({"objective": "mmd_annealed", "steps": 1000, parameter: value})
    run = Training(config, load_data(config.dataset), CPU)
    return (lambda: 1e3 / n_steps * timed(lambda: run.advance(run.step + n_steps)),)


CONV_LIMIT = (
    "The limit is the row 'arithmetic of the sweep': 1 / its ratio is what could still be gained if nothing but "
    "arithmetic, at the matrix product's rate, took time. Tried without gain: im2col, space-to-depth, pixel-shuffle "
    "decoders, own matrix products, batches in chunks, torch.compile."
)
PIXELCNN_NOTE = (
    "Unconditional, 16 channels, one thread; both see as many rows. Theirs has {} kernels, {} batch normalisation. "
    "Ours splits each kernel into rows above and pixels to the left, and multiplies nothing that a mask would hide."
)


def make_rows() -> list[Row]:
    """Return every row, in the order in which they are measured and shown."""
    n, steps = count_workers(), SWEEP_EPOCHS * EPOCH_STEPS
    pythae = "pythae 0.1.2, INFOVAE_MMD under its BaseTrainer"
    note = f"Same networks, kernel, batches of {BATCH}, {EPOCH_STEPS} steps. {CONV_LIMIT}"
    sweep_note = f"{steps} steps each, ours with the start of its workers; theirs is one of the {N_MODELS}, "
    sweep_note += f"of {PEER_EPOCHS * EPOCH_STEPS} steps, scaled: one takes as long as the other. {CONV_LIMIT}"
    masked = "pythae's PixelCNN"
    smoke_note = "Data at hand, a store of its own: first empty, then with everything in it."
    rows = [
        Row("one model, one thread each", "images/s", partial(prepare_training, 1), pythae, 3, 2, note),
        Row(
            "one model, all cores each", "images/s", partial(prepare_training, n), pythae, 3, 2,
            f"{note} Not how a run of ours is made: it has one thread, so that nothing beside it changes its result.",
        ),
        Row(
            "sweep of 8 models, all cores", "images/s", prepare_sweep, f"{pythae}, 8 in a row, all cores", 4, 3,
            sweep_note, repeats=1,
        ),
        Row(
            "arithmetic of the sweep, all cores", "GFLOP/s", prepare_share_of_peak,
            "the product of two 2048 x 2048 float32 matrices", 0.5,
            note=f"Operations of convolutions and matrix products while the runs are running. {CONV_LIMIT}", repeats=1,
        ),
        Row(
            "efficiency of the sweep", "share", lambda: [sweep_efficiency], floor=0.9, repeats=1,
            note=f"Sum of run seconds / (wall seconds x workers), {steps} steps each. What is missing is the start of "
            "the workers: some seconds, however long the runs.",
        ),
        Row(
            "PixelCNN, 5 layers, radius 10", "images/s", partial(prepare_pixelcnn, 5, 10, (5,) * 5, True), masked, 3, 2,
            PIXELCNN_NOTE.format("5x5", "with"),
        ),
        Row(
            "PixelCNN, 3 layers, radius 9", "images/s", partial(prepare_pixelcnn, 3, 9, (7,) * 3, True), masked, 3, 2,
            PIXELCNN_NOTE.format("7x7", "with"),
        ),
        Row(
            "PixelCNN, 3 layers, radius 8, kernels as ours", "images/s",
            partial(prepare_pixelcnn, 3, 8, (13, 3, 3), False), f"{masked}, our kernel sizes, no batch normalisation",
            3, 2, PIXELCNN_NOTE.format("13x13 and two 3x3", "no"),
        ),
        Row(
            "PixelCNN, sampling 1,000 images", "s", prepare_sampling, "a forward pass of the same network per pixel",
            100, 50, "One thread; the same pixels from the same uniforms, checked. Theirs is measured on 4 of the 784 "
            "pixels and scaled: each costs the same.",
        ),
        Row("squared MMD, 10,000 x 10,000", "s", partial(in_fresh_process, mmd_cost, 0), floor=3),
        Row("squared MMD, peak extra memory", "MB", partial(in_fresh_process, mmd_cost, 1), floor=500, repeats=1),
        Row("I(x;z), 10,000 x 10,000", "s", partial(in_fresh_process, information_cost, 0), floor=3),
        Row("I(x;z), peak extra memory", "MB", partial(in_fresh_process, information_cost, 1), floor=500, repeats=1),
        Row(
            "importance-weighted bound, K = 100, per image", "s", prepare_bound, "one draw in each call of the decoder",
            note="One thread.",
        ),
        Row("import infovae", "s", partial(prepare_command, "-c", "import infovae"), floor=1.5),
        Row("--help", "s", partial(prepare_command, "-m", "infovae", "--help"), floor=1.5),
        Row("reproduce smoke, first notebook", "s", partial(prepare_smoke, 0), floor=180, note=smoke_note, repeats=1),
        Row("reproduce smoke, warm", "s", partial(prepare_smoke, 1), floor=90, note=smoke_note, repeats=1),
        Row(
            "peak memory of a worker", "MB", lambda: [worker_memory], floor=1500, repeats=1,
            note="PixelCNN, training on 50,000 images, evaluations of codes, samples, likelihood, few labels.",
        ),
    ]  # fmt: skip
    return rows + [
        Row(f"step of training, {name} = {value:,}", "ms", partial(prepare_growth, name, value), varied=(name, value))
        for name, values in GROWTH.items()
        for value in values
    ]
