"""What a run's configuration accepts, fills in and refuses, and when two of them are the same run."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from infovae.config import (
    OBJECTIVES,
    LatentEvaluation,
    LikelihoodEvaluation,
    RunConfig,
    SampleEvaluation,
    Settings,
    divergence_weight,
)
from infovae.refusals import unknown_name

WEIGHTS = {  # paper, section "Special cases": (1 - alpha, lambda_ + alpha - 1)
    "elbo": (1.0, 0.0),
    "beta_vae": (4.0, 0.0),
    "unregularized": (0.0, 0.0),
    "mmd": (0.0, 784.0),
    "stein": (0.0, 78_400.0),
    "aae": (0.0, 1.0),
    "averaged_elbo": (78.4, 0.0),  # in 10 dimensions
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_named_objectives_have_the_papers_weights(name: str) -> None:
    config = RunConfig(objective=name)
    assert (1 - config.alpha, config.divergence_weight) == pytest.approx(WEIGHTS[name])


@pytest.mark.parametrize("dim", [2, 5, 10, 40])
def test_averaged_elbo_charges_pixels_per_dimension(dim: int) -> None:
    config = RunConfig(objective="averaged_elbo", latent_dim=dim)
    assert 1 - config.alpha == pytest.approx(784 / dim) and config.divergence_weight == 0


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_named_objective_is_valid(name: str) -> None:
    config = RunConfig(objective=name)
    assert config.divergence_weight >= 0


@given(beta=st.floats(0.01, 100))
def test_beta_vae_is_alpha_1_minus_beta(beta: float) -> None:
    config = RunConfig(objective="beta_vae", alpha=1 - beta, lambda_=beta)
    assert config.divergence_weight == 0
    assert 1 - config.alpha == pytest.approx(beta)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"alpha": 1.5, "objective": "mmd"}, "less than or equal to 1"),
    ({"lambda_": -1.0}, "greater than or equal to 0"),
    ({"objective": "mmd", "alpha": 0.0, "lambda_": 0.5}, "must not be negative"),
    ({"objective": "elbo", "lambda_": 2.0}, "has no divergence"),
    ({"objective": "mmd", "alpha": float("nan")}, "finite"),
    ({"objective": "mmd", "lambda_": float("inf")}, "finite"),
    ({"latent_dim": -1}, "greater than or equal to 0"),
    ({"latent_dim": 0}, "objective 'unconditional' has no code"),
    ({"objective": "unconditional", "latent_dim": 2}, "objective 'unconditional' has no code"),
    ({"objective": "mmd", "mmd_target": 2.0}, "needs divergence 'mmd' and a lambda_start"),
    ({"objective": "mmd_adaptive", "mmd_target": 1.0}, "greater than 1"),
    ({"latent_dim": 2.0}, "integer"),
    ({"latent_dim": True}, "integer"),
    ({"seed": -1}, "greater than or equal to 0"),
    ({"steps": "100"}, "integer"),
    ({"learning_rate": 0.0}, "greater than 0"),
    ({"learning_rate": True}, "number"),
    ({"objective": "mmmd"}, "mmd"),
    ({"receptive_radius": 3, "pixelcnn_layers": 3}, "receptive_radius must exceed"),
    ({"objective": "mmd", "lambda_start": 2000.0}, "lambda_start"),
    ({"objective": "mmd", "kernel": "imq", "bandwidth": "prior"}, "kernel 'imq' has no bandwidth"),
    ({"binarization": "none"}, "binarization 'none' .* needs decoder 'conv' or 'dense'"),
    ({"conditioning": "spatial", "decoder": "conv"}, "conditioning 'spatial' needs decoder 'pixelcnn'"),
    ({"latnet_dim": 3}, "extra"),
]


@pytest.mark.parametrize(("values", "message"), REFUSED)
def test_refusals_say_what_is_allowed(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        RunConfig(**values)


def test_none_overrides_a_preset() -> None:
    assert RunConfig(objective="mmd_annealed").lambda_start == 1.0
    assert RunConfig(objective="mmd_annealed", lambda_start=None).lambda_start is None
    assert RunConfig(objective="bn_vae", mean_scale=None).mean_scale is None
    assert RunConfig.model_validate({"objective": "mmd", "alpha": None}).alpha == 1.0


def test_weight_of_the_start_is_rounded_as_that_of_the_end() -> None:
    config = RunConfig(objective="mmd", alpha=-3.1, lambda_=100.0, lambda_start=4.1)
    assert divergence_weight(config.alpha, 4.1) == 0


@pytest.mark.parametrize("kernel", ["imq", "energy"])
def test_other_kernels_drop_the_presets_bandwidth(kernel: str) -> None:
    assert RunConfig(objective="mmd", kernel=kernel).bandwidth == "paper"  # type: ignore[arg-type]


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        RunConfig().seed = 1


def test_fingerprint_expands_defaults_and_sees_every_field() -> None:
    explicit = RunConfig(objective="mmd", alpha=1.0, lambda_=784.0)
    assert explicit.fingerprint("data") == RunConfig(objective="mmd").fingerprint("data")
    changes: list[dict[str, Any]] = [
        {"seed": 1}, {"lambda_": 999.0}, {"steps": 7}, {"decoder": "conv"}, {"n_train": 10}, {"kernel": "imq"},
        {"posterior_std": "exp"}, {"receptive_radius": 9}, {"dataset": "digits"}, {"binarization": "static"},
        {"encoder_norm": "none"}, {"encoder_width": 64}, {"precision": "float32"}, {"n_prior_draws": 100},
    ]  # fmt: skip
    prints = {RunConfig(**{"objective": "mmd", **change}).fingerprint("data") for change in changes}
    assert len(prints | {explicit.fingerprint("data")}) == len(changes) + 1
    assert explicit.fingerprint("data") != explicit.fingerprint("other data")


def test_settings_that_are_gone_stay_in_the_fingerprint_of_what_was_evaluated_under_them() -> None:
    assert LikelihoodEvaluation().fingerprint() == "4ffec19d1aee422b"  # as before annealing went
    assert "n_annealed" not in LikelihoodEvaluation().model_dump()


def test_models_of_grey_images_before_their_pixels_were_the_authors_have_other_fingerprints() -> None:
    grey = RunConfig(binarization="none", decoder="conv")
    assert grey.fingerprint("data") != Settings.fingerprint(grey, "data")
    binary = RunConfig(decoder="conv")
    assert binary.fingerprint("data") == Settings.fingerprint(binary, "data")


def test_evaluations_of_different_kinds_differ() -> None:
    assert LatentEvaluation().fingerprint() != SampleEvaluation().fingerprint()


def test_unknown_name_suggests_the_closest() -> None:
    assert "did you mean 'lambdas'" in unknown_name("parameter", "lamdas", ["lambdas", "alphas"])
    assert "did you mean" not in unknown_name("parameter", "zzz", ["lambdas", "alphas"])
