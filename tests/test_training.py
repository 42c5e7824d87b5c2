"""Training is a function of its configuration, learns, says when it diverges, and reports what it did."""

import math

import pytest
import torch
from conftest import tiny

from infovae.config import OBJECTIVES, RunConfig
from infovae.data import ImageData, load
from infovae.evaluation.posterior import posterior_metrics
from infovae.training import N_LOGGED, TrainingDiverged, batches, choose_device, decay, is_logged, train

CPU = torch.device("cpu")


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_same_configuration_gives_the_same_bits(objective: str, digits: ImageData) -> None:
    torch.manual_seed(123)  # whatever happened before must not matter
    first = train(tiny(objective=objective), digits, CPU)
    torch.rand(7)
    second = train(tiny(objective=objective), digits, CPU)
    drop = lambda history: [{k: v for k, v in row.items() if k != "seconds"} for row in history]  # noqa: E731
    assert drop(first.history) == drop(second.history)
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_another_seed_gives_another_model(digits: ImageData) -> None:
    first, second = (train(tiny(seed=seed), digits, CPU).history[-1]["nll"] for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize("decoder", ["pixelcnn", "conv", "dense"])
def test_training_learns_more_than_the_pixels_frequencies(decoder: str, digits: ImageData) -> None:
    changes = {"steps": 300, "learning_rate": 5e-3, "n_train": 1000, "pixelcnn_channels": 16}
    config = tiny(decoder=decoder, objective="unregularized", **changes)
    p = (digits.train_images.float() / 255).mean(0).clamp(1e-3, 1 - 1e-3)
    independent = -(p * p.log() + (1 - p) * (1 - p).log()).sum().item()  # best code-free, pixel-wise model, nats
    assert train(config, digits, CPU).history[-1]["nll"] < independent


def test_history_is_logged_evenly_and_ends_at_the_last_step(digits: ImageData) -> None:
    trained = train(tiny(steps=60), digits, CPU)
    steps = [row["step"] for row in trained.history]
    assert steps[-1] == 60 and len(steps) <= N_LOGGED
    assert {"loss", "nll", "rate", "divergence", "squared_mmd", "seconds"} <= trained.history[0].keys()
    row = trained.history[-1]
    assert row["loss"] == pytest.approx(row["nll"] + row["rate"], rel=1e-6)  # the ELBO, in nats per image


def test_history_of_the_toy_has_its_exact_numbers() -> None:
    config = RunConfig(
        dataset="two_points",
        encoder="scalar",
        decoder="scalar",
        latent_dim=1,
        n_train=100,
        steps=20,
        learning_rate=3e-4,
    )
    trained = train(config, load("two_points"), CPU)
    exact = posterior_metrics(trained.model)
    assert exact.items() <= trained.history[-1].items()
    assert exact["elbo"] == pytest.approx(-trained.history[-1]["loss"], abs=0.2)  # a batch and a draw apart


def test_progress_is_told(digits: ImageData) -> None:
    seen: list[int] = []
    train(tiny(), digits, CPU, lambda step, loss: seen.append(step))
    assert seen[-1] == 20


def test_divergence_is_an_error_that_names_the_step(digits: ImageData) -> None:
    with pytest.raises(TrainingDiverged, match="at step"):
        train(tiny(learning_rate=1e6, objective="mmd", posterior_std="exp", steps=50), digits, CPU)


def test_batches_visit_every_image_once_per_epoch() -> None:
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1)
    config = RunConfig(n_train=10, batch_size=5, steps=4)
    seen = torch.cat(list(batches(images, config, torch.Generator().manual_seed(0)))).flatten().tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_learning_rate_decays_to_zero_over_the_second_half() -> None:
    assert decay(0) == decay(0.5) == 1
    assert decay(0.75) == pytest.approx(0.5)
    assert decay(1) == 0


@pytest.mark.parametrize("n_steps", [1, 7, 25, 26, 1000])
def test_last_step_is_logged(n_steps: int) -> None:
    logged = [step for step in range(n_steps) if is_logged(step, n_steps)]
    assert logged[-1] == n_steps - 1 and len(logged) <= math.ceil(N_LOGGED) + 1


def test_unusable_device_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOVAE_DEVICE", "warp")
    with pytest.raises(ValueError, match="INFOVAE_DEVICE='warp'"):
        choose_device()
