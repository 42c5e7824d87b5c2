"""Training is a function of its configuration, learns, says when it diverges, and reports what it did."""

import shutil
import warnings
from typing import Any

import pytest
import torch
from conftest import tiny
from safetensors.torch import load, save

from infovae.config import LatentEvaluation, RunConfig
from infovae.data import datasets
from infovae.data.datasets import Batches, ImageData
from infovae.evaluation import evaluate
from infovae.evaluation.posterior import posterior_metrics
from infovae.model.build import build_model
from infovae.model.objective import lambda_at
from infovae.training import (
    N_LOGGED,
    Training,
    TrainingDiverged,
    choose_device,
    choose_precision,
    decay,
    is_logged,
    train,
)

CPU = torch.device("cpu")


def test_the_callers_random_state_is_left_alone(digits: ImageData) -> None:
    torch.manual_seed(17)
    expected = torch.rand(3)
    torch.manual_seed(17)
    train(tiny(objective="wasserstein"), digits, CPU)
    assert torch.equal(torch.rand(3), expected)


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


@pytest.mark.parametrize("changes", [{"encoder_norm": "spread"}, {"conditioning": "spatial"}])
def test_a_decoder_without_a_code_trains_as_without_what_concerns_the_code(
    changes: dict[str, str], digits: ImageData
) -> None:
    plain, changed = (train(tiny(objective="unconditional", steps=3, **more), digits, CPU) for more in ({}, changes))
    assert logged(plain.history, "nll") == logged(changed.history, "nll")


def test_history_is_logged_evenly_and_ends_at_the_last_step(digits: ImageData) -> None:
    trained = train(tiny(steps=60), digits, CPU)
    steps = [row["step"] for row in trained.history]
    evenly, halves = set(range(3, 61, 3)), {60, 30, 15, 8, 4, 2, 1}
    assert set(steps) == evenly | halves and len(evenly) == N_LOGGED
    measured = {row["step"] for row in trained.history if "mutual_information" in row}
    assert measured == halves == {row["step"] for row in trained.history if "log_det_cov_per_dim" in row}
    assert {"loss", "lambda_", "nll", "rate", "divergence", "squared_mmd", "seconds"} <= trained.history[0].keys()
    row = trained.history[-1]
    assert row["loss"] == pytest.approx(row["nll"] + row["rate"], rel=1e-6)  # the ELBO, in nats per image


def logged(history: list[dict[str, float]], column: str) -> list[float]:
    return [row[column] for row in history]


def test_lambda_is_logged_as_it_was_applied(digits: ImageData) -> None:
    annealed = tiny(objective="mmd_annealed", steps=20)
    history = train(annealed, digits, CPU).history
    assert logged(history, "lambda_") == [lambda_at(annealed, int(row["step"]) - 1) for row in history]
    adaptive = logged(train(tiny(objective="mmd_adaptive", steps=60), digits, CPU).history, "lambda_")
    assert 1 <= min(adaptive) < max(adaptive) <= 10_000
    row = train(tiny(objective="mmd"), digits, CPU).history[-1]
    assert row["loss"] == pytest.approx(row["nll"] + row["lambda_"] * row["divergence"], rel=1e-6)


def test_free_bits_are_paid_and_the_true_rate_is_logged(digits: ImageData) -> None:
    row = train(tiny(objective="free_bits", free_bits=50.0), digits, CPU).history[-1]
    assert row["rate"] < 50 and row["loss"] == pytest.approx(row["nll"] + 2 * 50.0, rel=1e-6)
    without = train(tiny(objective="free_bits", free_bits=0.0), digits, CPU)
    elbo = train(tiny(), digits, CPU)
    assert logged(without.history, "loss") == logged(elbo.history, "loss")


def test_model_without_a_code_trains_and_has_nothing_to_match(digits: ImageData) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trained = train(tiny(objective="unconditional", steps=60, learning_rate=5e-3), digits, CPU)
    assert logged(trained.history, "rate") == [0.0] * len(trained.history)
    assert not any("squared_mmd" in row for row in trained.history)
    assert trained.history[-1]["nll"] < trained.history[0]["nll"] - 1
    images = trained.model.decoder.sample(torch.zeros(3, 0), torch.rand(3, 1, 8, 8))
    assert images.shape == (3, 1, 8, 8) and trained.model.encoder(images).mu.shape == (3, 0)
    evaluation = LatentEvaluation(n_images=200, n_likelihood=200)
    metrics, _ = evaluate(evaluation, tiny(objective="unconditional"), trained.model, digits, CPU)
    assert metrics["rate"] == metrics["mutual_information"] == 0
    assert metrics["reconstruction_nll"] == pytest.approx(trained.history[-1]["nll"], rel=0.1)


def test_normalised_means_hold_the_rate_up_in_training(digits: ImageData) -> None:
    """The ELBO with a powerful enough decoder empties the code; the batch's rate cannot fall below its bound."""
    config = tiny(objective="bn_vae", steps=60, latent_dim=4)
    trained = train(config, digits, CPU)
    assert config.mean_scale is not None
    assert min(logged(trained.history, "rate")) > 0.999 * 4 * config.mean_scale**2 / 2
    # looking at the validation images between the steps leaves no trace in the running statistics
    assert trained.model.state_dict()["encoder.normalize_mean.num_batches_tracked"].item() == 60


def test_normalised_encoder_is_stored_with_its_statistics(digits: ImageData) -> None:
    config = tiny(objective="bn_vae", steps=60)
    trained = train(config, digits, CPU)
    model = build_model(config, (8, 8))
    model.load_state_dict(load(save({name: value.contiguous() for name, value in trained.model.state_dict().items()})))
    metrics = [
        evaluate(LatentEvaluation(n_images=200, n_likelihood=20), config, m, digits, CPU)[0]
        for m in (trained.model, model.eval())
    ]
    assert metrics[0] == metrics[1]
    assert config.mean_scale is not None  # on all images, by running statistics, the rate is near its bound on a batch
    assert metrics[0]["rate"] > 0.7 * 2 * config.mean_scale**2 / 2


@pytest.mark.parametrize("objective", ["elbo", "mmd_adaptive", "bn_vae", "unconditional"])
def test_bfloat16_networks_train_float32_parameters(objective: str, digits: ImageData) -> None:
    full, half = (
        train(tiny(objective=objective, steps=60, precision=precision), digits, CPU)
        for precision in ("float32", "bfloat16")
    )
    assert {value.dtype for value in half.model.parameters()} == {torch.float32}
    # bfloat16 has 8 bits: the sum over 64 pixels is as good as the logits, not as their sum in bfloat16 would be
    assert half.history[-1]["nll"] != full.history[-1]["nll"]
    assert half.history[-1]["nll"] == pytest.approx(full.history[-1]["nll"], rel=0.02)
    assert half.history[-1]["nll"] < half.history[0]["nll"]


def test_toy_trains_in_bfloat16_where_asked_and_in_float32_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    toy = RunConfig(dataset="two_points", encoder="scalar", decoder="scalar", latent_dim=1, steps=20)
    full, half = (
        train(toy.model_copy(update={"precision": precision}), datasets.load("two_points"), CPU)
        for precision in ("float32", "bfloat16")
    )
    assert half.history[-1]["nll"] != full.history[-1]["nll"]
    assert half.history[-1]["nll"] == pytest.approx(full.history[-1]["nll"], rel=0.05)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True})
    assert choose_precision(toy, CPU) == "float32"


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
    trained = train(config, datasets.load("two_points"), CPU)
    exact = posterior_metrics(trained.model.encoder, trained.model.decoder)
    assert exact.items() <= trained.history[-1].items()
    assert exact["elbo"] == pytest.approx(-trained.history[-1]["loss"], abs=0.2)  # a batch and a draw apart


def test_divergence_is_an_error_that_names_the_step(digits: ImageData) -> None:
    with pytest.raises(TrainingDiverged, match="at step"):
        train(tiny(learning_rate=1e6, objective="mmd", posterior_std="exp", steps=50), digits, CPU)


def test_batches_visit_every_image_once_per_epoch() -> None:
    images = torch.arange(10, dtype=torch.uint8).view(10, 1, 1)
    batches = Batches(images, 5, torch.Generator().manual_seed(0))
    seen = torch.cat([batches.draw() for _ in range(4)]).flatten().tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    for size, n_batches in ((4, 2), (99, 1)):  # what does not fill a batch is left out; there is one batch at least
        some = Batches(images, size, torch.Generator().manual_seed(0))
        epoch = torch.cat([some.draw() for _ in range(n_batches)]).flatten().tolist()
        assert len(epoch) == len(set(epoch)) == n_batches * min(size, 10)


def test_learning_rate_decays_to_zero_over_the_second_half() -> None:
    assert decay(0) == decay(0.5) == 1
    assert decay(0.75) == pytest.approx(0.5)
    assert decay(1) == 0


@pytest.mark.parametrize("n_steps", [1, 7, 25, 26, 1000])
def test_last_step_is_logged(n_steps: int) -> None:
    logged = [step for step in range(n_steps) if is_logged(step, n_steps)]
    assert logged[-1] == n_steps - 1 and len(logged) <= N_LOGGED + 11


def test_last_update_is_looked_at_too(digits: ImageData) -> None:
    with pytest.raises(TrainingDiverged, match="after step 1 of 1"):
        train(tiny(learning_rate=1e6, objective="mmd", decoder="dense", encoder="dense", steps=1), digits, CPU)


@pytest.mark.parametrize("changes", [{"optimizer": "rmsprop", "gradient_clip": 1.0}, {"learning_rate_decay": False}])
def test_the_authors_optimiser_trains(changes: dict[str, object], digits: ImageData) -> None:
    history = train(tiny(steps=60, **changes), digits, CPU).history
    assert history[-1]["nll"] < history[0]["nll"] - 1


def test_gradients_are_clipped_entry_by_entry(digits: ImageData) -> None:
    run = Training(tiny(gradient_clip=1e-3, steps=2), digits, CPU)
    run.advance(1)
    largest = max(float(weight.grad.abs().max()) for weight in run.model.parameters() if weight.grad is not None)
    assert largest == pytest.approx(1e-3)


def test_spread_means_start_at_the_priors_moments(digits: ImageData) -> None:
    run = Training(tiny(encoder_norm="spread"), digits, CPU)
    mu = run.model.encoder(datasets.binarize(digits.train_images, torch.Generator().manual_seed(0))).mu
    assert mu.mean(0).abs().max() < 0.1 and (mu.std(0) - 1).abs().max() < 0.1
    plain = Training(tiny(encoder_norm="none"), digits, CPU).model.encoder(run.validation).mu
    assert plain.std(0).max() < 0.5


def test_grey_images_train_under_gaussian_pixels(digits: ImageData) -> None:
    trained = train(tiny(binarization="none", decoder="conv", steps=60), digits, CPU)
    assert trained.history[-1]["nll"] < trained.history[0]["nll"] - 10
    x = datasets.observe(digits.test_images, "none", torch.Generator())
    q = trained.model.encoder(x)
    p_x = trained.model.decoder(None, q.mu)
    expected = torch.distributions.Normal(p_x.mu, p_x.std).log_prob(x.flatten(1)).sum(1)
    assert torch.allclose(trained.model.decoder.log_prob(x, q.mu), expected, rtol=1e-4)
    assert bool((p_x.std >= torch.tensor(5e-3)).all())


def test_precision_is_the_named_one_or_what_the_device_is_fast_in(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_precision(tiny(precision="float32"), CPU) == "float32"
    assert choose_precision(tiny(precision="bfloat16"), CPU) == "bfloat16"
    for flag in (True, False):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda flag=flag: {"avx512_bf16": flag})
        assert choose_precision(tiny(), CPU) == ("bfloat16" if flag else "float32")


def test_unusable_device_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INFOVAE_DEVICE", "warp")
    with pytest.raises(ValueError, match="INFOVAE_DEVICE='warp'"):
        choose_device()


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a compiler")
def test_compiled_training_differs_by_rounding_alone(digits: ImageData, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny(decoder="dense", steps=3, precision="float32")
    plain = Training(config, digits, CPU)
    start = {name: value.clone() for name, value in plain.model.state_dict().items()}
    plain.advance(3)
    monkeypatch.setenv("INFOVAE_COMPILE", "1")
    compiled = Training(config, digits, CPU)
    compiled.advance(3)
    assert compiled.forward is not compiled.model
    # Adam divides a gradient by its own size: where one is nearly zero, rounding decides the sign of its step. So the
    # whole change of a tensor is compared, not each of its elements.
    for name, value in compiled.model.state_dict().items():
        other = plain.model.state_dict()[name].double()
        change = (other - start[name]).norm().item()
        assert (value.double() - other).norm().item() <= 1e-3 * change, name


CHANGES: dict[str, tuple[dict[str, Any], Any]] = {
    "alpha": ({"objective": "mmd"}, 0.5),
    "lambda_": ({"objective": "mmd"}, 10.0),
    "divergence": ({"objective": "mmd"}, "kl"),
    "lambda_start": ({"objective": "mmd"}, 1.0),
    "lambda_warmup": ({"objective": "mmd_annealed"}, 0.9),
    "kernel": ({"objective": "mmd"}, "imq"),
    "bandwidth": ({"objective": "mmd"}, "median"),
    "n_prior_draws": ({"objective": "mmd"}, 25),
    "stein_bandwidth": ({"objective": "stein"}, "median"),
    "stein_include_self": ({"objective": "stein"}, False),
    "critic_learning_rate": ({"objective": "wasserstein"}, 1e-2),
    "critic_steps": ({"objective": "wasserstein"}, 2),
    "saturating": ({"objective": "jensen"}, True),
    "sinkhorn_blur": ({"objective": "sinkhorn"}, 2.0),
    "n_projections": ({"objective": "sliced_wasserstein"}, 5),
    "mmd_target": ({"objective": "mmd_adaptive"}, 3.0),
    "free_bits": ({}, 9.0),
    "encoder": ({}, "dense"),
    "encoder_width": ({}, 8),
    "encoder_norm": ({}, "none"),
    "posterior_std": ({}, "exp"),
    "mean_scale": ({}, 0.5),
    "latent_dim": ({}, 3),
    "decoder": ({}, "conv"),
    "decoder_min_std": ({"dataset": "two_points", "encoder": "scalar", "decoder": "scalar", "latent_dim": 1}, 1.0),
    "conditioning": ({}, "spatial"),
    "pixelcnn_channels": ({}, 8),
    "pixelcnn_layers": ({}, 2),
    "receptive_radius": ({}, 5),
    "batch_size": ({}, 20),
    "learning_rate": ({}, 1e-2),
    "learning_rate_decay": ({}, False),
    "optimizer": ({}, "rmsprop"),
    "gradient_clip": ({}, 1e-3),
    "precision": ({"precision": "float32"}, "bfloat16"),
    "steps": ({}, 5),
    "seed": ({}, 1),
    "n_train": ({}, 400),
    "binarization": ({"decoder": "conv"}, "none"),
}
"""Setting -> settings under which it matters, and a value that is not the one that it has there."""


@pytest.mark.parametrize("name", sorted(CHANGES))
def test_every_setting_reaches_the_training(name: str, digits: ImageData) -> None:
    shared, value = CHANGES[name]
    weights = []
    for changes in ({}, {name: value}):
        config = tiny(**{"steps": 4, **shared, **changes})
        data = datasets.load(config.dataset) if config.dataset == "two_points" else digits
        weights.append([w.flatten() for w in train(config, data, CPU).model.parameters()])
    first, second = map(torch.cat, weights)
    assert first.shape != second.shape or not torch.equal(first, second)


def test_no_setting_is_left_out_of_that() -> None:
    assert set(CHANGES) == set(RunConfig.model_fields) - {"dataset", "objective"}  # these two choose among others
