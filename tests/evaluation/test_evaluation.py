"""The numbers of a model whose answers are known: a code that holds nothing, and one that holds the image."""

import dataclasses
import math
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from conftest import tiny
from safetensors.torch import save
from torch import Tensor, nn

from infovae.config import (
    LatentEvaluation,
    LikelihoodEvaluation,
    PixelConfig,
    RunConfig,
    SampleEvaluation,
    SemiSupervisedEvaluation,
)
from infovae.data.datasets import ImageData, static_binarization
from infovae.evaluation import evaluate, require_labels
from infovae.evaluation.images import encode, in_batches, measuring_device, see
from infovae.evaluation.latent import PLANE
from infovae.evaluation.samples import CLASSIFIER_METRICS, Classifier, sharpness
from infovae.model.build import Model, build_model
from infovae.model.networks import Encoder, Gaussian, GaussianDecoder, IndependentDecoder
from infovae.refusals import ParameterError

CPU = torch.device("cpu")
LATENT = LatentEvaluation(n_images=400, n_likelihood=100)


class EmptyEncoder(Encoder):
    """q(z|x) = p(z), whatever x."""

    def __init__(self) -> None:
        super().__init__(nn.Identity(), "sigmoid")

    def forward(self, x: Tensor) -> Gaussian:
        return Gaussian(torch.zeros(len(x), 2), torch.ones(len(x), 2))


def empty_model() -> Model:
    torch.manual_seed(0)
    model = build_model(tiny(decoder="dense"), (8, 8))
    model.encoder = EmptyEncoder()
    return model.eval()


def test_empty_code_holds_nothing_and_matches_the_prior(digits: ImageData) -> None:
    metrics, arrays = evaluate(LATENT, tiny(decoder="dense"), empty_model(), digits, CPU)
    assert metrics["mutual_information"] == pytest.approx(0, abs=1e-6)
    assert metrics["rate"] == metrics["marginal_kl"] == pytest.approx(0, abs=1e-6)
    assert metrics["log_det_cov_per_dim_test"] == metrics["log_det_cov_per_dim_train"] == pytest.approx(0, abs=1e-6)
    assert metrics["active_units"] == 0
    assert abs(metrics["squared_mmd"]) < 4 * metrics["squared_mmd_null_std"] < metrics["squared_mmd_no_overlap"] / 10
    assert metrics["mutual_information_cap"] == pytest.approx(math.log(400))
    assert metrics["reconstruction_nll"] == pytest.approx(metrics["reconstruction_nll_prior"], rel=0.05)
    assert arrays["z"].shape == (400, 2) and arrays["labels"].shape == (400,)


def test_validation_images_are_judged_in_place_of_test_images(digits: ImageData) -> None:
    evaluation = LATENT.model_copy(update={"split": "validation"})
    config, model = tiny(decoder="dense"), build_model(tiny(decoder="dense"), (8, 8)).eval()
    swapped = dataclasses.replace(digits, test_images=digits.validation_images, test_labels=digits.validation_labels)
    metrics, arrays = evaluate(evaluation, config, model, digits, CPU)
    expected, expected_arrays = evaluate(LATENT, config, model, swapped, CPU)
    assert metrics.pop("log_det_cov_per_dim_validation") == expected.pop("log_det_cov_per_dim_test")
    assert metrics == expected
    assert (arrays["labels"] == expected_arrays["labels"]).all()


def test_evaluation_depends_on_its_arguments_alone(digits: ImageData) -> None:
    first = evaluate(LATENT, tiny(), empty_model(), digits, CPU)[0]
    torch.rand(5)
    assert evaluate(LATENT, tiny(), empty_model(), digits, CPU)[0] == first
    assert evaluate(LATENT, tiny(seed=1), empty_model(), digits, CPU)[0]["squared_mmd"] != first["squared_mmd"]


def test_draws_of_an_empty_code_are_at_chance_and_pixels_are_not(digits: ImageData) -> None:
    evaluation = SemiSupervisedEvaluation(n_labels=100, n_draws=1, n_unlabelled=0)
    empty, _ = evaluate(evaluation, tiny(), empty_model(), digits, CPU)
    assert empty["svm_error_sampled"] == pytest.approx(0.9, abs=0.06)
    pixels, _ = evaluate(evaluation, PixelConfig(dataset="digits", n_train=1000), None, digits, CPU)
    assert pixels["svm_error"] == pixels["svm_error_sampled"] < 0.4


def test_tiny_differences_of_means_classify_though_the_code_is_empty(digits: ImageData) -> None:
    class Faint(EmptyEncoder):
        def forward(self, x: Tensor) -> Gaussian:
            return Gaussian(1e-3 * x.flatten(1), torch.ones(len(x), 64))

    model = empty_model()
    model.encoder = Faint()
    evaluation = SemiSupervisedEvaluation(n_labels=100, n_draws=1, n_unlabelled=0)
    metrics, _ = evaluate(evaluation, tiny(), model, digits, CPU)
    assert metrics["svm_error"] < 0.4 and metrics["svm_error_sampled"] > 0.8


def test_density_of_an_empty_code_is_the_priors(digits: ImageData) -> None:
    _, arrays = evaluate(LATENT, tiny(decoder="dense"), empty_model(), digits, CPU)
    prior = torch.exp(-(PLANE[:, None] ** 2 + PLANE**2) / 2) / (2 * math.pi)
    for name in ("density_train", "density_test"):
        assert torch.allclose(torch.from_numpy(arrays[name]), prior, atol=1e-6)


def test_means_have_a_sharpness_where_pixels_are_independent(digits: ImageData) -> None:
    classifier = untrained_classifier()
    evaluation = SampleEvaluation.for_dataset("digits", 100)
    model = empty_model()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()  # every pixel is on with probability 1/2
    metrics, arrays = evaluate(evaluation, tiny(decoder="dense"), model, digits, CPU, classifier)
    assert metrics["sharpness_samples"] == metrics["sharpness_reconstructions"] == pytest.approx(0)
    assert metrics["sharpness_real"] == pytest.approx(sharpness(digits.test_images[:100].float() / 255))
    grey = digits.test_images[:100].double() / 255
    entropy = -(torch.xlogy(grey, grey) + torch.xlogy(1 - grey, 1 - grey)).flatten(1).sum(1).mean()
    assert metrics["reconstruction_nll_real"] == pytest.approx(entropy.item(), rel=1e-6)
    for name in ("samples", "reconstructions"):
        assert arrays[name].shape == (50, 1, 8, 8) and np.abs(arrays[name] - 0.5).max() <= 0.51 / 255
    autoregressive, _ = evaluate(evaluation, tiny(), build_model(tiny(), (8, 8)).eval(), digits, CPU, classifier)
    assert "sharpness_samples" not in autoregressive


def test_images_without_labels_have_samples_and_nothing_of_a_classifier(digits: ImageData) -> None:
    names = [f"{part}_labels" for part in ("train", "validation", "test")]
    without: dict[str, Any] = {name: torch.full_like(getattr(digits, name), -1) for name in names}
    data = dataclasses.replace(digits, **without)
    evaluation = SampleEvaluation(classifier=None, n_samples=50)
    metrics, arrays = evaluate(evaluation, tiny(decoder="dense"), empty_model(), data, CPU)
    assert {name for name, value in metrics.items() if math.isnan(value)} == set(CLASSIFIER_METRICS)
    assert arrays["samples"].shape[1:] == (1, 8, 8) and 0 < metrics["sharpness_samples"] < 1
    judged, _ = evaluate(
        SampleEvaluation.for_dataset("digits", 50),
        tiny(decoder="dense"),
        empty_model(),
        digits,
        CPU,
        untrained_classifier(),
    )
    assert metrics.keys() == judged.keys()


def test_too_few_labels_are_refused_before_training(digits: ImageData) -> None:
    few = dataclasses.replace(digits, train_labels=digits.train_labels.clamp(max=1), name="mine")
    require_labels(SemiSupervisedEvaluation(n_labels=20), tiny(), few)
    require_labels(SampleEvaluation(), tiny(), few)
    with pytest.raises(ParameterError, match="mine: n_labels=400 needs 200 images of each class, but class 0 has"):
        require_labels(SemiSupervisedEvaluation(n_labels=400), tiny(), few)


def untrained_classifier() -> bytes:
    torch.manual_seed(5)
    return save({name: weight.contiguous() for name, weight in Classifier((8, 8), 10).state_dict().items()})


def test_pictures_are_of_the_same_codes_whatever_objective_and_seed(digits: ImageData) -> None:
    evaluation = SampleEvaluation.for_dataset("digits", 50)
    model = build_model(tiny(), (8, 8)).eval()
    first, second = (
        evaluate(evaluation, tiny(objective=objective, seed=seed), model, digits, CPU, untrained_classifier())
        for objective, seed in (("elbo", 0), ("mmd", 1))
    )
    assert first[0] != second[0]
    assert first[1]["samples"].shape == (100, 1, 8, 8) and first[1]["originals"].shape == (50, 1, 8, 8)
    for name in ("samples", "originals", "reconstructions"):
        assert (first[1][name] == second[1][name]).all()
    three = build_model(tiny(latent_dim=3), (8, 8)).eval()
    _, arrays = evaluate(evaluation, tiny(latent_dim=3), three, digits, CPU, untrained_classifier())
    assert (arrays["originals"] == first[1]["originals"]).all()


@torch.no_grad()
@pytest.mark.parametrize("decoder", ["pixelcnn", "dense"])
def test_expected_pixels_are_those_from_which_the_image_was_sampled(decoder: str) -> None:
    torch.manual_seed(0)
    model = build_model(tiny(decoder=decoder), (8, 8)).eval()
    z, uniforms = torch.randn(30, 2), torch.rand(30, 1, 8, 8)
    x = model.decoder.sample(z, uniforms)
    assert torch.equal((uniforms < model.decoder.expected(x, z)).float(), x)


def test_the_authors_classifier_is_given_probabilities(digits: ImageData) -> None:
    """Every pixel is on with probability 1/2: bits give images of many kinds, probabilities one image, so one class."""
    model = build_model(tiny(), (8, 8)).eval()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.zero_()
    evaluation = SampleEvaluation.for_dataset("digits", 400)
    metrics, _ = evaluate(evaluation, tiny(), model, digits, CPU, untrained_classifier())
    worst = 0.9 * math.log(2 * 400 + 10) - math.log(10)
    assert metrics["class_cross_entropy_authors"] == pytest.approx(worst, abs=1 / 400)


def test_real_images_are_smoothed_by_their_own_number(digits: ImageData) -> None:
    """There are 497 test images, without a grey pixel here: asking for more samples changes nothing about them."""
    black = dataclasses.replace(digits, test_images=255 * (digits.test_images > 127).to(torch.uint8))
    model = build_model(tiny(decoder="dense"), (8, 8)).eval()
    few, many = (
        evaluate(
            SampleEvaluation.for_dataset("digits", n), tiny(decoder="dense"), model, black, CPU, untrained_classifier()
        )[0]["class_cross_entropy_real"]
        for n in (497, 2000)
    )
    assert few == many > 0.01


def test_codes_of_grey_training_images_are_measured_as_the_authors_do(digits: ImageData) -> None:
    """A code that is the mean grey value, minus 1/4: binarised images would have another spread."""

    class Mean(EmptyEncoder):
        def forward(self, x: Tensor) -> Gaussian:
            mu = x.flatten(1)[:, :2]
            return Gaussian(mu, torch.full_like(mu, 0.1))

    model = empty_model()
    model.encoder = Mean()
    metrics, _ = evaluate(LATENT, tiny(decoder="dense"), model, digits, CPU)
    mu = digits.train_images[:400].flatten(1)[:, :2].double() / 255
    covariance = mu.T.cov() + 0.01 * torch.eye(2)
    assert metrics["log_det_cov_total_authors"] == pytest.approx(torch.logdet(covariance).item(), abs=1e-4)
    assert metrics["squared_mmd_point_mass"] == pytest.approx(1 + 0.5 - 4 / 3)
    assert 0 < metrics["squared_mmd_authors"] < 1
    assert metrics["squared_mmd_grey"] == pytest.approx(metrics["squared_mmd_authors"], abs=0.02)  # of other draws


def test_whose_statistics_normalise_the_grey_images_decides_their_squared_mmd(digits: ImageData) -> None:
    """With wrong running statistics the codes are off the prior, and those of each batch are not."""
    config = tiny(encoder_norm="batch")
    model = build_model(config, (8, 8)).eval()
    norms = [module for module in model.encoder.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        assert norm.running_mean is not None
        norm.running_mean += 30.0
    metrics, _ = evaluate(LatentEvaluation(n_images=200), config, model, digits, CPU)
    assert abs(metrics["squared_mmd_grey"] - metrics["squared_mmd_authors"]) > 0.01


def test_batch_statistics_make_each_batch_standard_and_leave_the_model_as_it_was() -> None:
    """E[z|x] is the normalised image: with running statistics (0 and 1 at the start) it is the image itself."""
    model = empty_model()
    body = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4, affine=False))
    model.encoder = Encoder(body, "sigmoid").eval()
    x = 3 + 2 * torch.randn(200, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    for batch in encode(model, x, batch_size=50, batch_statistics=True).mu.split(50):
        torch.testing.assert_close(batch.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(batch.var(0, correction=0), torch.ones(2), atol=1e-4, rtol=0)
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, before[name])
    torch.testing.assert_close(encode(model, x).mu, x.flatten(1)[:, :2], rtol=1e-4, atol=1e-4)


def test_images_are_seen_as_the_run_saw_its_own(digits: ImageData) -> None:
    generator, rows = torch.Generator().manual_seed(0), torch.tensor([3, 1])
    dynamic = see(digits, "test", tiny(), generator)
    assert not torch.equal(dynamic, see(digits, "test", tiny(), generator))
    assert dynamic.mean().item() == pytest.approx(digits.test_images.double().mean().item() / 255, abs=0.01)
    static = see(digits, "test", tiny(binarization="static"), generator)
    assert torch.equal(static[rows], see(digits, "test", tiny(binarization="static"), generator, rows))
    same_images = dataclasses.replace(digits, validation_images=digits.test_images)
    assert not torch.equal(static, see(same_images, "validation", tiny(binarization="static"), generator))
    grey = see(digits, "test", tiny(binarization="none", decoder="dense"), generator, slice(7))
    assert torch.equal(grey, digits.test_images[:7, None] / 255)


def test_models_of_grey_images_are_evaluated_on_grey_images(digits: ImageData) -> None:
    """The classifier sees binarised samples; the code's numbers and the likelihood are those of grey images."""
    torch.manual_seed(0)
    config = tiny(binarization="none", decoder="dense", encoder_norm="none")
    model = build_model(config, (8, 8)).eval()
    latent, _ = evaluate(LATENT, config, model, digits, CPU)
    assert latent["log_det_cov_per_dim_train"] * 2 == pytest.approx(latent["log_det_cov_total_authors"])
    grey = digits.test_images[:100, None] / 255
    with torch.no_grad():
        q = model.encoder(grey)
        at_mean = -model.decoder.log_prob(grey, q.mu).mean().item()
    assert latent["reconstruction_nll"] == pytest.approx(at_mean, rel=0.05)

    evaluation = SampleEvaluation.for_dataset("digits", 60)
    metrics, arrays = evaluate(evaluation, config, model, digits, CPU, untrained_classifier())
    assert math.isfinite(metrics["class_cross_entropy"]) and math.isfinite(metrics["class_cross_entropy_authors"])
    assert set((255 * arrays["samples"]).flatten().tolist()) <= set(map(float, range(256)))
    generator = torch.Generator().manual_seed(0)
    torch.rand(100, 1, 8, 8, generator=generator)  # the uniforms, which a mean needs not
    with torch.no_grad():
        means = cast(GaussianDecoder, model.decoder).mean(torch.randn(100, 2, generator=generator))
    assert np.abs(arrays["samples"] - means[:50].numpy()).max() <= 0.51 / 255
    assert (arrays["originals"] == digits.test_images[:50, None].numpy() / np.float32(255)).all()
    assert "sharpness_samples" not in metrics  # the entropy of a binary pixel says nothing of a grey one

    likelihood = LikelihoodEvaluation(n_images=4, n_draws=10, fit_steps=10, n_searched=2)
    bound, _ = evaluate(likelihood, config, model, digits, CPU)
    assert bound["nll"] < bound["nll_elbo"] + 5


def test_a_function_in_batches_is_the_function() -> None:
    a, b = torch.arange(7.0), torch.arange(7.0, 14.0)
    assert torch.equal(in_batches(torch.mul, a, b, size=3), a * b)


def test_pixels_have_neither_code_nor_samples(digits: ImageData) -> None:
    for evaluation in (LATENT, SampleEvaluation()):
        with pytest.raises(TypeError, match="needs a trained model"):
            evaluate(evaluation, PixelConfig(dataset="digits", n_train=100), None, digits, CPU)


def test_encoding_in_batches_is_encoding(digits: ImageData) -> None:
    torch.manual_seed(0)
    model = build_model(tiny(), (8, 8)).eval()
    x = (torch.rand(33, 1, 8, 8) < 0.5).float()
    assert torch.allclose(encode(model, x, batch_size=10).mu, model.encoder(x).mu, atol=1e-5)


# Likelihood: a decoder of two codes and 36 pixels, whose log p(x) is a sum over a grid

AXIS = torch.linspace(-6, 6, 201)
GRID = torch.cartesian_prod(AXIS, AXIS)
LOG_PRIOR = -GRID.double().square().sum(1) / 2 - math.log(2 * math.pi)
LOG_CELL = 2 * math.log(12 / 200)


class FixedEncoder(Encoder):
    """The same q(z|x), whatever x."""

    def __init__(self, mu: Tensor, std: Tensor) -> None:
        super().__init__(nn.Identity(), "sigmoid")
        self.mu, self.std = mu, std

    def forward(self, x: Tensor) -> Gaussian:
        return Gaussian(self.mu.expand(len(x), -1), self.std.expand(len(x), -1))


def drawn(images: Tensor, n: int, seed: int = 0) -> Tensor:
    rows = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:n]
    return (images[rows] / 255).unsqueeze(1)


class Solvable(NamedTuple):
    model: Model
    data: ImageData

    def x_test(self, n: int, seed: int = 0) -> Tensor:
        """The test images that a static run of that seed draws, as it sees them."""
        return drawn(static_binarization(self.data.test_images, seed=1), n, seed)

    @torch.no_grad()
    def log_joint(self, x: Tensor) -> Tensor:
        """log p(x, z) for each image at each point of the grid."""
        logits = self.model.decoder(x, GRID).flatten(1)
        log_likelihood = x.flatten(1) @ logits.T - nn.functional.softplus(logits).sum(1)
        return log_likelihood.double() + LOG_PRIOR

    def nll(self, x: Tensor) -> Tensor:
        return -self.log_joint(x).logsumexp(1) - LOG_CELL


@pytest.fixture
def solvable() -> Solvable:
    """Grey images, so that it matters how they are binarised."""
    torch.set_num_threads(1)  # as on a worker: several are slower on tensors this small
    torch.manual_seed(0)
    body = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 36), nn.Unflatten(1, (1, 6, 6)))
    for parameter in body.parameters():
        nn.init.normal_(parameter, std=1.0)
    model = Model(FixedEncoder(torch.zeros(2), torch.ones(2)), IndependentDecoder(body), 2).eval()
    with torch.no_grad():
        grey = (255 * torch.sigmoid(body(torch.randn(90, 2)))).to(torch.uint8).squeeze(1)
    labels = torch.zeros(30, dtype=torch.int64)
    train, validation, test = grey.split(30)
    return Solvable(model, ImageData("solvable", train, labels, validation, labels, test, labels, "", ""))


def static_run(**changes: Any) -> RunConfig:
    return tiny(binarization="static", decoder="dense", **changes)


def test_bounds_approach_the_exact_likelihood_from_above_as_draws_grow(solvable: Solvable) -> None:
    evaluation = LikelihoodEvaluation(n_images=20, n_draws=1000, fit_steps=100)
    metrics, _ = evaluate(evaluation, static_run(), solvable.model, solvable.data, CPU)
    exact = solvable.nll(solvable.x_test(20))
    bounds = [metrics[f"nll_{k}"] for k in (1, 10, 100, 1000)]
    assert bounds == sorted(bounds, reverse=True) and bounds[0] > bounds[-1] + 0.02
    assert bounds[-1] == metrics["nll"] == pytest.approx(float(exact.mean()), abs=0.02)
    assert min(bounds) > float(exact.mean()) - 0.01
    assert metrics["nll_std_error"] == pytest.approx(float(exact.std()) / 20**0.5, rel=0.02)
    assert 0 < metrics["ess_5pct"] < metrics["ess_median"] <= 1
    assert metrics["ess_median"] > 0.3  # of the draws, not a count
    assert metrics["elbo_rate"] == pytest.approx(0, abs=1e-6)
    assert metrics["nll_elbo"] > metrics["nll"] + 1  # the encoder knows nothing, and the fit does not mind
    assert not any(name.startswith(("nll_train", "nll_gap", "nll_anneal")) for name in metrics)


def test_images_are_binarised_as_the_run_was(solvable: Solvable) -> None:
    evaluation = LikelihoodEvaluation(n_images=20, n_draws=100)
    static = [
        evaluate(evaluation, static_run(seed=seed), solvable.model, solvable.data, CPU)[0]["nll"] for seed in (0, 1)
    ]
    dynamic = evaluate(evaluation, tiny(decoder="dense"), solvable.model, solvable.data, CPU)[0]["nll"]
    exact = [float(solvable.nll(solvable.x_test(20, seed)).mean()) for seed in (0, 1)]
    assert static == pytest.approx(exact, abs=0.1)  # each seed has images of its own, of one binarisation
    assert abs(exact[0] - exact[1]) > 0.2 and abs(dynamic - exact[0]) > 0.2


def test_no_reported_number_is_the_invalid_estimator(solvable: Solvable) -> None:
    """-log E_q[p(x|z)] + KL lies below the true -log p(x) where q is near the posterior; every bound lies above."""
    image = (255 * solvable.x_test(1)[0]).to(torch.uint8)
    data = dataclasses.replace(solvable.data, test_images=image.expand(200, 6, 6))
    x = solvable.x_test(1)
    exact = float(solvable.nll(x))
    posterior = (solvable.log_joint(x)[0] + LOG_CELL + exact).exp()
    mu = posterior @ GRID.double()
    std = (posterior @ (GRID.double() - mu).square()).sqrt()
    q = FixedEncoder(mu.float(), std.float())
    log_q = q(x).log_prob(GRID).double()
    kl, log_likelihood = float(q(x).kl()), solvable.log_joint(x)[0] - LOG_PRIOR
    invalid = kl - float((log_q + log_likelihood).logsumexp(0) + LOG_CELL)
    elbo = kl - float(log_q.exp() @ log_likelihood) * math.exp(LOG_CELL)
    assert invalid < exact - 0.15 < exact < elbo

    model = Model(q, solvable.model.decoder, 2).eval()
    evaluation = LikelihoodEvaluation(n_images=200, n_draws=100, fit_steps=50)
    metrics, _ = evaluate(evaluation, static_run(), model, data, CPU)
    noise = 0.03
    assert metrics["nll"] == pytest.approx(exact, abs=noise)
    assert metrics["nll_elbo"] == pytest.approx(elbo, abs=4 * noise)
    assert metrics["elbo_rate"] == pytest.approx(kl, rel=1e-4)
    assert all(value > exact - noise for name, value in metrics.items() if name.startswith("nll_1"))


def test_gap_is_to_the_images_that_the_run_was_trained_on(solvable: Solvable) -> None:
    """The run saw 4 images; the fifth and later ones are unlike them."""
    train = solvable.data.train_images.clone()
    train[4:] = 255 - train[4:]
    data = dataclasses.replace(solvable.data, train_images=train)
    evaluation = LikelihoodEvaluation(n_images=20, n_draws=100, n_train_images=20)
    metrics, _ = evaluate(evaluation, static_run(n_train=4), solvable.model, data, CPU)
    x_train = drawn(static_binarization(train[:4], seed=0), 4)
    assert metrics["nll_train"] == pytest.approx(float(solvable.nll(x_train).mean()), abs=0.1)
    assert metrics["nll_gap"] == pytest.approx(metrics["nll"] - metrics["nll_train"], abs=1e-12)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_without_a_code_the_likelihood_is_exact(solvable: Solvable) -> None:
    """A PixelCNN of 3 x 3 pixels, all of whose 512 images can be listed: they sum to one, and no draw is needed."""
    config = tiny(objective="unconditional", latent_dim=0, binarization="static")
    torch.manual_seed(1)
    decoder = build_model(config, (8, 8)).decoder
    encoder = FixedEncoder(torch.zeros(0), torch.ones(0))
    model = Model(encoder, decoder, 0).eval()
    every = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 9).view(512, 1, 3, 3)
    with torch.no_grad():
        log_p = decoder.log_prob(every, torch.zeros(512, 0)).double()
    assert float(log_p.exp().sum()) == pytest.approx(1, abs=1e-5)

    data = dataclasses.replace(solvable.data, test_images=solvable.data.test_images[:, :3, :3].contiguous())
    evaluation = LikelihoodEvaluation(n_images=30, n_draws=1000)
    metrics, _ = evaluate(evaluation, config, model, data, CPU)
    x = drawn(static_binarization(data.test_images, seed=1), 30)
    numbers = (x.flatten(1) @ 2 ** torch.arange(8.0, -1, -1)).long()  # of each image in the list
    exact = -log_p[numbers]
    expected = float(exact.mean())
    for name in ("nll_1", "nll_10", "nll_100", "nll_1000", "nll", "nll_elbo"):
        assert metrics[name] == pytest.approx(expected, rel=1e-6)
    assert metrics["elbo_rate"] == 0
    assert metrics["nll_std_error"] == pytest.approx(float(exact.std()) / 30**0.5, rel=1e-5)
    assert math.isnan(metrics["ess_median"]) and math.isnan(metrics["ess_5pct"])


def test_search_elsewhere_is_reported_beside_the_bound(solvable: Solvable) -> None:
    evaluation = LikelihoodEvaluation(n_images=20, n_draws=100, fit_steps=100, n_searched=10)
    metrics, _ = evaluate(evaluation, static_run(), solvable.model, solvable.data, CPU)
    first = float(solvable.nll(solvable.x_test(20))[:10].mean())
    assert metrics["nll_searched"] == pytest.approx(first, abs=0.03)
    assert abs(metrics["nll_missed"]) < 0.1 and 0 < metrics["nll_missed_std_error"] < 0.1
    none = evaluation.model_copy(update={"n_searched": 0})
    without, _ = evaluate(none, static_run(), solvable.model, solvable.data, CPU)
    assert without["nll"] == metrics["nll"] and "nll_missed" not in without


def test_more_draws_alone_are_not_taken_for_a_missed_mode(solvable: Solvable) -> None:
    """A fit of one step is poor, so that five times as many draws tighten its bound by a nat where one mode is all."""
    evaluation = LikelihoodEvaluation(n_images=20, n_draws=10, fit_steps=1, n_searched=20)
    metrics, _ = evaluate(evaluation, static_run(), solvable.model, solvable.data, CPU)
    assert metrics["nll"] - metrics["nll_searched"] > 0.5
    assert metrics["nll_missed"] < metrics["nll_missed_std_error"]


def test_codes_are_measured_where_there_is_float64() -> None:
    found = [measuring_device(torch.device(name)).type for name in ("cpu", "cuda", "mps")]
    assert found == ["cpu", "cuda", "cpu"]
