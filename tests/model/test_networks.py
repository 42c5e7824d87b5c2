"""Densities against torch.distributions and closed forms; every encoder and decoder on both image sizes."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.func import functional_call

from infovae.config import RunConfig
from infovae.model.build import build_model
from infovae.model.networks import (
    MIN_STD,
    ChannelsLastFlatten,
    ChannelsLastUnflatten,
    DoublingConvTranspose2d,
    Encoder,
    Gaussian,
    GaussianDecoder,
    cast_weights,
    conv_encoder,
)


def test_gaussian_log_prob_and_kl_are_those_of_torch() -> None:
    torch.manual_seed(0)
    mu, std, z = torch.randn(7, 4).double(), torch.rand(7, 4).double() + 0.1, torch.randn(7, 4).double()
    q = Gaussian(mu, std)
    assert torch.allclose(q.log_prob(z), Normal(mu, std).log_prob(z).sum(1))
    prior = Normal(torch.zeros_like(mu), torch.ones_like(std))
    assert torch.allclose(q.kl(), kl_divergence(Normal(mu, std), prior).sum(1))


def test_sample_is_reparametrised_and_has_the_right_moments() -> None:
    mu = torch.full((200_000, 1), 2.0, dtype=torch.double, requires_grad=True)
    std = torch.full((200_000, 1), 0.5, dtype=torch.double, requires_grad=True)
    z = Gaussian(mu, std).sample(torch.Generator().manual_seed(0))
    assert z.mean().item() == pytest.approx(2, abs=0.005)
    assert z.std().item() == pytest.approx(0.5, abs=0.005)
    z.sum().backward()
    assert mu.grad is not None and std.grad is not None
    assert torch.equal(mu.grad, torch.ones_like(mu))
    assert torch.allclose(std.grad, (z.detach() - 2) / 0.5)


@pytest.mark.parametrize(
    ("kind", "at_zero", "largest"),
    [("sigmoid", 0.5, 1.0), ("exp", 1.0, math.exp(7.5)), ("softplus", math.log(2), 15.0)],
)
def test_posterior_std_parametrisations(kind: str, at_zero: float, largest: float) -> None:
    encoder = Encoder(torch.nn.Identity(), kind)
    std = encoder(torch.tensor([[0.0, 0.0], [0.0, 1e6], [0.0, -1e6]])).std[:, 0]
    assert std[0].item() == pytest.approx(at_zero + MIN_STD)
    assert std[1].item() == pytest.approx(largest + MIN_STD, rel=1e-4)
    assert std[2].item() == pytest.approx(MIN_STD)


@pytest.mark.parametrize("size", [28, 8])
@pytest.mark.parametrize("encoder", ["conv", "dense"])
@pytest.mark.parametrize("decoder", ["pixelcnn", "conv", "dense"])
def test_every_model_gives_a_likelihood_of_images(size: int, encoder: str, decoder: str) -> None:
    torch.manual_seed(0)
    config = RunConfig(encoder=encoder, decoder=decoder, latent_dim=3)  # type: ignore[arg-type]
    model = build_model(config, (size, size))
    x = (torch.rand(5, 1, size, size) < 0.3).float()
    q = model.encoder(x)
    assert q.mu.shape == q.std.shape == (5, 3)
    logits = model.decoder(x, q.mu)
    expected = Bernoulli(logits=logits).log_prob(x).sum((1, 2, 3))  # summed over pixels, one number per image
    assert torch.allclose(model.decoder.log_prob(x, q.mu), expected, atol=1e-3)
    drawn = model.decoder.sample(q.mu, torch.rand(5, 1, size, size))
    assert drawn.shape == x.shape and set(drawn.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("out_channels", [1, 3])
def test_transposed_convolution_by_matrix_product_is_that_of_torch(
    out_channels: int, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    layer = DoublingConvTranspose2d(6, out_channels).double().to(memory_format=memory_format)  # type: ignore[call-overload]
    x = torch.randn(4, 6, 5, 3, dtype=torch.double).to(memory_format=memory_format).requires_grad_()
    expected = torch.nn.functional.conv_transpose2d(x, layer.weight, layer.bias, stride=2, padding=1)
    found = layer(x)
    assert torch.allclose(found, expected, atol=1e-12)
    weights, inputs = torch.randn_like(expected), [x, *layer.parameters()]
    gradients = torch.autograd.grad((weights * found).sum(), inputs)
    for gradient, reference in zip(gradients, torch.autograd.grad((weights * expected).sum(), inputs), strict=True):
        assert torch.allclose(gradient, reference, atol=1e-12)


def test_channels_last_activations_are_flattened_and_restored_without_a_copy() -> None:
    x = torch.randn(4, 6, 5, 3).to(memory_format=torch.channels_last)
    flat = ChannelsLastFlatten()(x)
    assert torch.equal(flat[1, (2 * 3 + 1) * 6 + 5], x[1, 5, 2, 1])  # channel 5 of the pixel in row 2, column 1
    restored = ChannelsLastUnflatten(5, 3)(flat)
    assert torch.equal(restored, x)
    assert restored.is_contiguous(memory_format=torch.channels_last)
    assert x.data_ptr() == flat.data_ptr() == restored.data_ptr()


def test_independent_decoder_samples_by_its_probabilities() -> None:
    torch.manual_seed(0)
    model = build_model(RunConfig(decoder="dense", latent_dim=2), (8, 8))
    z = torch.randn(1, 2).expand(20_000, -1)
    frequency = model.decoder.sample(z, torch.rand(20_000, 1, 8, 8)).mean(0)
    assert (frequency - torch.sigmoid(model.decoder(None, z[:1]))[0]).abs().max() < 0.02


def test_grey_pixels_have_the_authors_mean_and_standard_deviation() -> None:
    """Both are sigmoids; the deviation is at least 0.005, and passes no gradient below."""
    raw = torch.tensor([[0.0, 2.0, -50.0], [0.0, -2.0, -9.0]]).view(1, 2, 1, 3).requires_grad_()
    decoder = GaussianDecoder(Constant(raw))
    mean, std = decoder(None, torch.zeros(1, 2))
    assert torch.allclose(mean, torch.tensor([[0.5, 0.8807971, 0.0]]))
    assert torch.allclose(std, torch.tensor([[0.5, 0.1192029, 0.005]]))
    assert torch.equal(decoder.mean(torch.zeros(1, 2)).flatten(1), mean)
    x = torch.tensor([0.25, 1.0, 0.0]).view(1, 1, 1, 3)
    log_prob = decoder.log_prob(x, torch.zeros(1, 2))
    log_prob.sum().backward()
    assert log_prob.item() == pytest.approx(torch.distributions.Normal(mean, std).log_prob(x.flatten(1)).sum().item())
    assert raw.grad is not None and raw.grad[0, 1, 0, 2] == 0 and raw.grad[0, 1, 0, :2].all()
    uniforms = torch.full((1, 1, 1, 3), 0.5)
    assert torch.allclose(decoder.sample(torch.zeros(1, 2), uniforms).flatten(1), mean, atol=1e-6)


class Constant(nn.Module):
    """A body whose output is the same for every code."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Return the output."""
        return self.output


def test_convolutions_refuse_sides_they_cannot_halve_twice() -> None:
    with pytest.raises(ValueError, match="divisible by 4"):
        build_model(RunConfig(), (10, 10))


def test_batch_normalised_mean_has_its_scale_and_bounds_the_rate() -> None:
    torch.manual_seed(0)
    encoder = Encoder(torch.nn.Identity(), "exp", mean_scale=0.6, latent_dim=3)
    with torch.no_grad():
        encoder.mean_shift.copy_(torch.tensor([0.0, 0.5, -1.0]))
    means = 4 + torch.tensor([0.3, 1.0, 20.0]) * torch.randn(500, 3)
    q = encoder(torch.cat([means, torch.zeros(500, 3)], 1))
    assert torch.allclose(q.mu.mean(0), encoder.mean_shift, atol=1e-5)
    assert torch.allclose(q.mu.std(0, correction=0), torch.tensor(0.6), rtol=1e-3)
    # standard deviation 1 (and MIN_STD): the bound d mean_scale^2 / 2 is met, with the shifts' squares over 2 on top
    assert q.kl().mean().item() == pytest.approx(3 * 0.6**2 / 2 + (0.5**2 + 1**2) / 2, rel=1e-3)
    for raw in (torch.randn(500, 3), torch.full((500, 3), -4.0)):
        assert encoder(torch.cat([means, raw], 1)).kl().mean() > 3 * 0.6**2 / 2
    assert {name for name, _ in encoder.named_parameters()} == {"mean_shift"}  # the scale is fixed, the shift learnt


def test_batch_normalised_encoder_is_evaluated_image_by_image() -> None:
    torch.manual_seed(0)
    encoder = Encoder(torch.nn.Identity(), "sigmoid", mean_scale=0.6, latent_dim=2)
    for _ in range(200):
        encoder(torch.cat([3 + 2 * torch.randn(100, 2), torch.zeros(100, 2)], 1))
    encoder.eval()
    x = torch.tensor([[3.0, 5.0, 0.0, 0.0], [1.0, 3.0, 0.0, 0.0]])
    assert torch.allclose(encoder(x).mu, torch.tensor([[0.0, 0.6], [-0.6, 0.0]]), atol=0.05)
    assert torch.allclose(encoder(x[:1]).mu, encoder(x).mu[:1])
    with pytest.raises(ValueError, match=r"mean_scale=0\.6 .* pass latent_dim"):
        Encoder(torch.nn.Identity(), "sigmoid", mean_scale=0.6)


def test_encoder_without_a_code_has_nothing_to_learn() -> None:
    encoder = Encoder(None, "sigmoid")
    q = encoder(torch.ones(5, 1, 8, 8))
    assert q.mu.shape == (5, 0) and torch.equal(q.kl(), torch.zeros(5)) and not list(encoder.parameters())


def test_codes_of_a_bfloat16_encoder_are_float32() -> None:
    encoder = build_model(RunConfig(latent_dim=3), (8, 8)).encoder
    q = functional_call(encoder, cast_weights(encoder, torch.bfloat16), (torch.ones(5, 1, 8, 8),))
    assert q.mu.dtype == q.std.dtype == torch.float32
    assert encoder.double()(torch.ones(5, 1, 8, 8).double()).mu.dtype == torch.float64


def test_likelihood_of_a_bfloat16_decoder_is_summed_in_float32() -> None:
    torch.manual_seed(0)
    decoder = build_model(RunConfig(decoder="dense", latent_dim=2), (28, 28)).decoder
    x, z = (torch.rand(5, 1, 28, 28) < 0.3).float(), torch.randn(5, 2)
    decoder.bfloat16()
    logits, log_prob = decoder(x, z), decoder.log_prob(x, z)
    assert logits.dtype == torch.bfloat16 and log_prob.dtype == torch.float32
    expected = Bernoulli(logits=logits.double()).log_prob(x.double()).sum((1, 2, 3)).float()
    assert torch.allclose(log_prob, expected, rtol=1e-6)


@pytest.mark.parametrize("decoder", ["pixelcnn", "conv", "dense"])
def test_bfloat16_gradients_reach_every_float32_weight(decoder: str) -> None:
    torch.manual_seed(0)
    model = build_model(RunConfig(decoder=decoder, latent_dim=3), (8, 8))  # type: ignore[arg-type]
    x = (torch.rand(40, 1, 8, 8) < 0.3).float()
    gradients = []
    for weights in ({}, cast_weights(model, torch.bfloat16)):
        model.zero_grad()
        _, _, log_p = functional_call(model, weights, (x, torch.Generator().manual_seed(0)))
        log_p.mean().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    full, half = gradients
    assert full.keys() == half.keys() == dict(model.named_parameters()).keys()
    for name, gradient in full.items():
        assert half[name].dtype == torch.float32
        assert (half[name] - gradient).norm() < 0.2 * gradient.norm() + 1e-4, name  # of three layers of 8 bits


def test_the_authors_encoder_has_their_widths() -> None:
    body = conv_encoder(10, (28, 28), width=64, batch_norm=True)
    shapes = [tuple(layer.weight.shape) for layer in body if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear)]
    assert shapes == [(64, 1, 4, 4), (128, 64, 4, 4), (512, 7 * 7 * 128), (20, 512)]
    assert sum(isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d) for layer in body) == 3
    assert not any("BatchNorm" in type(layer).__name__ for layer in conv_encoder(10, (28, 28), 64, batch_norm=False))
