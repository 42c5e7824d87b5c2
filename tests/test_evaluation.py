"""The numbers of a model whose answers are known: a code that holds nothing, and one that holds the image."""

import math

import pytest
import torch
from conftest import tiny
from safetensors.torch import save
from torch import Tensor, nn

from infovae.config import LatentEvaluation, PixelConfig, SampleEvaluation, SemiSupervisedEvaluation
from infovae.data import ImageData
from infovae.evaluation import PLANE, encode, evaluate
from infovae.evaluation.samples import Classifier, sharpness
from infovae.model import Model, PixelModel, build_model
from infovae.networks import Encoder, Gaussian

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


def test_evaluation_depends_on_its_arguments_alone(digits: ImageData) -> None:
    first = evaluate(LATENT, tiny(), empty_model(), digits, CPU)[0]
    torch.rand(5)
    assert evaluate(LATENT, tiny(), empty_model(), digits, CPU)[0] == first
    assert evaluate(LATENT, tiny(seed=1), empty_model(), digits, CPU)[0]["squared_mmd"] != first["squared_mmd"]


def test_draws_of_an_empty_code_are_at_chance_and_pixels_are_not(digits: ImageData) -> None:
    evaluation = SemiSupervisedEvaluation(n_labels=100, n_draws=1, n_unlabelled=0)
    empty, _ = evaluate(evaluation, tiny(), empty_model(), digits, CPU)
    assert empty["svm_error_sampled"] == pytest.approx(0.9, abs=0.06)
    pixels, _ = evaluate(evaluation, PixelConfig(dataset="digits", n_train=1000), PixelModel(), digits, CPU)
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
    classifier = save({name: weight.contiguous() for name, weight in Classifier((8, 8)).state_dict().items()})
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
    assert (arrays["mean_samples"] == 0.5).all() and 0.4 < arrays["samples"].mean() < 0.6
    autoregressive, _ = evaluate(evaluation, tiny(), build_model(tiny(), (8, 8)).eval(), digits, CPU, classifier)
    assert "sharpness_samples" not in autoregressive


def test_pixels_have_neither_code_nor_samples(digits: ImageData) -> None:
    for evaluation in (LATENT, SampleEvaluation()):
        with pytest.raises(TypeError, match="needs a trained model"):
            evaluate(evaluation, PixelConfig(dataset="digits", n_train=100), PixelModel(), digits, CPU)


def test_encoding_in_batches_is_encoding(digits: ImageData) -> None:
    torch.manual_seed(0)
    model = build_model(tiny(), (8, 8)).eval()
    x = (torch.rand(33, 1, 8, 8) < 0.5).float()
    assert torch.allclose(encode(model, x, batch_size=10).mu, model.encoder(x).mu, atol=1e-5)
