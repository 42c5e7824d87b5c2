"""Causality by Jacobian, the receptive field by count, and the cached sampler against the naive one."""

import pytest
import torch
import torch.nn.functional as F
from conftest import sample_naively
from torch import Tensor

from infovae.model.pixelcnn import PixelCNN, _add_and_relu_


def build(latent_dim: int = 3, n_channels: int = 8, n_layers: int = 2, radius: int = 4) -> PixelCNN:
    torch.manual_seed(0)
    decoder = PixelCNN(latent_dim, n_channels, n_layers, radius).double()
    for parameter in decoder.parameters():  # all-positive weights keep every ReLU open: no dependence is hidden
        parameter.data = parameter.data.abs() + 0.01
    return decoder


def masked_forward(decoder: PixelCNN, x: Tensor, z: Tensor) -> Tensor:
    """The textbook formulation: odd kernels, centred on the pixel, whose entries outside the context are 0."""

    def layer(x: Tensor, conv: torch.nn.Conv2d, below: int, right: int) -> Tensor:
        weight = F.pad(conv.weight, (0, right, 0, below))
        return F.conv2d(x, weight, conv.bias, padding="same")

    reach = decoder.reach
    assert decoder.from_z is not None
    shifts = decoder.from_z(z).view(len(z), 2, decoder.n_layers + 1, decoder.n_channels, *decoder.map_size)
    if decoder.map_size != (1, 1):  # each value of the map for 4 x 4 pixels
        shifts = torch.kron(shifts, torch.ones(4, 4, dtype=shifts.dtype))
    v = (layer(x, decoder.rows_above, reach + 1, 0) + shifts[:, 0, 0]).relu()
    for i, conv in enumerate(decoder.vertical):
        v = (layer(v, conv, 1, 0) + shifts[:, 0, i + 1]).relu()
    h = (layer(x, decoder.pixels_left, 0, reach + 1) + decoder.from_vertical(v) + shifts[:, 1, 0]).relu()
    for i, conv in enumerate(decoder.horizontal):
        h = (layer(h, conv, 0, 1) + shifts[:, 1, i + 1]).relu()
    return decoder.to_logit(h)


@pytest.mark.parametrize("map_shape", [None, (12, 8)])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("n_layers", "radius"), [(1, 2), (2, 8), (4, 6)])
def test_logits_and_gradients_are_those_of_masked_convolutions(
    n_layers: int, radius: int, memory_format: torch.memory_format, map_shape: tuple[int, int] | None
) -> None:
    torch.manual_seed(n_layers)
    decoder = PixelCNN(3, 8, n_layers, radius, map_shape).double().to(memory_format=memory_format)  # type: ignore[call-overload]
    height, width = map_shape or (9, 7)
    x = torch.rand(5, 1, height, width, dtype=torch.double).round()
    z = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    weights = torch.randn(5, 1, height, width, dtype=torch.double)
    logits, expected = decoder(x, z), masked_forward(decoder, x, z)
    assert torch.allclose(logits, expected, atol=1e-12)
    inputs = [z, *decoder.parameters()]
    gradients = torch.autograd.grad((weights * logits).sum(), inputs)
    for gradient, reference in zip(gradients, torch.autograd.grad((weights * expected).sum(), inputs), strict=True):
        assert torch.allclose(gradient, reference, atol=1e-10)


def test_logits_depend_on_every_earlier_pixel_in_the_window_and_on_no_other() -> None:
    radius, n_layers, size = 4, 2, 12
    decoder = build(radius=radius, n_layers=n_layers)
    x = torch.rand(1, 1, size, size, dtype=torch.double)
    z = torch.rand(1, 3, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(lambda image: decoder(image, z)[0, 0], x)[:, :, 0, 0]
    i, j, k, m = torch.meshgrid(*[torch.arange(size)] * 4, indexing="ij")  # logit (i, j) by pixel (k, m)
    rows_above = (k < i) & (i - k <= radius) & (m - j <= radius) & (j - m <= radius + n_layers)
    own_row = (k == i) & (m < j) & (j - m <= radius)
    assert torch.equal(jacobian != 0, rows_above | own_row)


@pytest.mark.parametrize(("n_layers", "radius"), [(1, 2), (2, 4), (3, 4)])
def test_context_is_as_large_as_stated(n_layers: int, radius: int) -> None:
    decoder = build(n_layers=n_layers, radius=radius)
    x = torch.rand(1, 1, 17, 17, dtype=torch.double, requires_grad=True)
    decoder(x, torch.rand(1, 3, dtype=torch.double))[0, 0, 8, 8].backward()
    assert x.grad is not None
    assert int((x.grad != 0).sum()) == radius * (2 * radius + 2 + n_layers)


def test_z_enters_every_layer() -> None:
    decoder = build()
    assert decoder.from_z is not None
    blocks = decoder.from_z.weight.data.view(2, decoder.n_layers + 1, decoder.n_channels, 3)
    x, z = torch.rand(1, 1, 8, 8, dtype=torch.double), torch.rand(1, 3, dtype=torch.double)
    for stack in range(2):
        for layer in range(decoder.n_layers + 1):
            kept = blocks[stack, layer].clone()
            before = decoder(x, z)
            blocks[stack, layer] = 0
            assert not torch.equal(decoder(x, z), before), (stack, layer)
            blocks[stack, layer] = kept


@pytest.mark.parametrize("map_shape", [None, (8, 12)])
@pytest.mark.parametrize(("n_layers", "radius"), [(1, 2), (2, 5), (4, 6)])
def test_cached_sampling_gives_the_pixels_of_naive_sampling(
    n_layers: int, radius: int, map_shape: tuple[int, int] | None
) -> None:
    torch.manual_seed(n_layers)
    decoder = PixelCNN(3, 8, n_layers, radius, map_shape).double()
    z = 3 * torch.randn(20, 3, dtype=torch.double)
    uniforms = torch.rand(20, 1, *(map_shape or (9, 11)), dtype=torch.double)
    fast = decoder.sample(z, uniforms)
    assert torch.equal(fast, sample_naively(decoder, z, uniforms))
    assert 0.05 < fast.mean() < 0.95


def test_probabilities_of_all_small_images_sum_to_one() -> None:
    torch.manual_seed(3)
    decoder = PixelCNN(2, 4, 1, 2).double()
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.double)] * 9).view(-1, 1, 3, 3)
    z = torch.randn(1, 2, dtype=torch.double).expand(len(images), -1)
    assert decoder.log_prob(images, z).exp().sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_adding_a_row_at_a_time_has_the_bits_of_adding_place_by_place(
    dtype: torch.dtype, memory_format: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(5, 16, 9, 7, generator=generator).to(dtype).to(memory_format=memory_format)
    shift = torch.randn(5, 16, 1, 1, generator=generator).to(dtype)
    upstream = torch.randn(5, 16, 9, 7, generator=generator).to(dtype).to(memory_format=memory_format)
    results = []
    for function in (_add_and_relu_, lambda a, b: a.add_(b).relu_()):
        leaves = activations.clone().requires_grad_(), shift.clone().requires_grad_()
        out = function(leaves[0] * 1, leaves[1])
        results.append((out, *torch.autograd.grad(out, leaves, upstream)))
    for ours, plain in zip(*results, strict=True):
        assert torch.equal(ours, plain)
