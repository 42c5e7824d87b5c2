"""The gated decoder against the textbook's masked convolutions; its window, normalisation and cached sampler."""

import pytest
import torch
import torch.nn.functional as F
from conftest import sample_naively
from torch import Tensor

from infovae.model.gated_pixelcnn import GatedPixelCNN


def build(latent_dim: int = 3, n_channels: int = 6, n_layers: int = 3) -> GatedPixelCNN:
    torch.manual_seed(n_layers)
    decoder = GatedPixelCNN(latent_dim, n_channels, n_layers).double()
    decoder.biases.data.normal_()
    return decoder


def masked_forward(decoder: GatedPixelCNN, x: Tensor, z: Tensor) -> Tensor:
    """The textbook formulation: odd kernels, centred on the pixel, whose entries outside the context are 0."""

    def centred(x: Tensor, conv: torch.nn.Conv2d, below: int, right: int) -> Tensor:
        return F.conv2d(x, F.pad(conv.weight, (0, right, 0, below)), padding="same")

    def gate(pre: Tensor, shift: Tensor) -> Tensor:
        a, b = torch.split(pre + shift, decoder.n_channels, dim=1)
        return a.tanh() / (1 + (-b).exp())

    assert decoder.from_z is not None
    shifts = decoder.from_z(z).view(len(z), decoder.n_layers, 2, 2 * decoder.n_channels, 1, 1)
    shifts = shifts + decoder.biases[..., None, None]
    v = h = x
    for k in range(decoder.n_layers):
        v = gate(centred(v, decoder.vertical[k], 1 if k else 4, 0), shifts[:, k, 0])
        pre = centred(h, decoder.horizontal[k], 0, 1 if k else 4) + decoder.from_vertical[k](v)
        out = decoder.after_gate[k](gate(pre, shifts[:, k, 1]))
        h = h + out if k else out
    return decoder.to_logit(decoder.hidden(h).relu())


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("n_layers", [1, 2, 4])
def test_logits_and_gradients_are_those_of_masked_convolutions(
    n_layers: int, memory_format: torch.memory_format
) -> None:
    decoder = build(n_layers=n_layers).to(memory_format=memory_format)  # type: ignore[call-overload]
    x = torch.rand(5, 1, 9, 7, dtype=torch.double).round()
    z = torch.randn(5, 3, dtype=torch.double, requires_grad=True)
    weights = torch.randn(5, 1, 9, 7, dtype=torch.double)
    logits, expected = decoder(x, z), masked_forward(decoder, x, z)
    assert torch.allclose(logits, expected, atol=1e-12)
    inputs = [z, *decoder.parameters()]
    gradients = torch.autograd.grad((weights * logits).sum(), inputs)
    for gradient, reference in zip(gradients, torch.autograd.grad((weights * expected).sum(), inputs), strict=True):
        assert torch.allclose(gradient, reference, atol=1e-10)
        assert gradient.abs().max() > 1e-6


@pytest.mark.parametrize("n_layers", [1, 2])
def test_logits_depend_on_every_earlier_pixel_in_the_window_and_on_no_other(n_layers: int) -> None:
    decoder, size = build(n_layers=n_layers), 10
    x = torch.rand(1, 1, size, size, dtype=torch.double)
    z = torch.rand(1, 3, dtype=torch.double)
    jacobian = torch.autograd.functional.jacobian(lambda image: decoder(image, z)[0, 0], x)[:, :, 0, 0]
    i, j, k, m = torch.meshgrid(*[torch.arange(size)] * 4, indexing="ij")  # logit (i, j) by pixel (k, m)
    radius = n_layers + 2
    rows_above = (k < i) & (i - k <= radius) & ((j - m).abs() <= radius)
    own_row = (k == i) & (m < j) & (j - m <= radius)
    assert torch.equal(jacobian != 0, rows_above | own_row)


@pytest.mark.parametrize(("n_layers", "radius"), [(1, 3), (5, 7), (12, 14)])
def test_context_is_as_large_as_stated(n_layers: int, radius: int) -> None:
    decoder = build(n_layers=n_layers)
    assert decoder.receptive_radius == radius
    x = torch.rand(1, 1, 31, 31, dtype=torch.double, requires_grad=True)
    decoder(x, torch.rand(1, 3, dtype=torch.double))[0, 0, 15, 15].backward()
    assert x.grad is not None
    assert int((x.grad != 0).sum()) == radius * (2 * radius + 2)
    farthest = x.grad[0, 0, [15 - radius, 15 - radius, 15], [15 - radius, 15 + radius, 15 - radius]]
    assert torch.all(farthest != 0)


def test_a_distant_pixel_is_felt_at_the_start_of_training() -> None:
    """Twelve gates halve a small signal twelve times unless the weights make up for it."""
    torch.manual_seed(0)
    decoder = GatedPixelCNN(0, 32, 12)
    x = torch.rand(1, 1, 31, 31).round().requires_grad_()
    decoder(x, torch.zeros(1, 0))[0, 0, 15, 15].backward()
    assert x.grad is not None
    assert x.grad[0, 0, 3, 15].abs() > 1e-4 * x.grad.abs().max()


def test_z_enters_every_gate() -> None:
    decoder = build()
    assert decoder.from_z is not None
    blocks = decoder.from_z.weight.data.view(decoder.n_layers, 2, 2, decoder.n_channels, 3)
    x, z = torch.rand(1, 1, 8, 8, dtype=torch.double), torch.rand(1, 3, dtype=torch.double)
    before = decoder(x, z)
    for gate in torch.cartesian_prod(torch.arange(decoder.n_layers), torch.arange(2), torch.arange(2)):
        layer, stack, half = gate.tolist()
        kept = blocks[layer, stack, half].clone()
        blocks[layer, stack, half] = 0
        assert not torch.equal(decoder(x, z), before), gate
        blocks[layer, stack, half] = kept


@pytest.mark.parametrize(("n_layers", "latent_dim"), [(1, 3), (2, 0), (5, 3)])
def test_cached_sampling_gives_the_pixels_of_naive_sampling(n_layers: int, latent_dim: int) -> None:
    decoder = build(n_layers=n_layers, latent_dim=latent_dim)
    z = 3 * torch.randn(20, latent_dim, dtype=torch.double)
    uniforms = torch.rand(20, 1, 9, 11, dtype=torch.double)
    fast = decoder.sample(z, uniforms)
    assert fast.dtype == z.dtype
    assert torch.equal(fast, sample_naively(decoder, z, uniforms))
    assert 0.05 < fast.mean() < 0.95


def test_probabilities_of_all_small_images_sum_to_one() -> None:
    decoder = build(latent_dim=2, n_channels=4, n_layers=2)
    images = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.double)] * 9).view(-1, 1, 3, 3)
    z = torch.randn(1, 2, dtype=torch.double).expand(len(images), -1)
    assert decoder.log_prob(images, z).exp().sum().item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("latent_dim", [0, 10])
def test_number_of_parameters(latent_dim: int) -> None:
    c, n_layers = 32, 12
    first = 3 * 7 * 2 * c + 2 * c + 3 * 2 * c + 2 * c  # vertical, horizontal
    further = 2 * 3 * c * 2 * c + 2 * c + 2 * c * 2 * c + 2 * c
    every = c * 2 * c + c * c + c + 4 * c * latent_dim  # between the stacks, after the gate, z
    expected = first + (n_layers - 1) * further + n_layers * every + c * c + c + c + 1
    assert sum(p.numel() for p in GatedPixelCNN(latent_dim, c, n_layers).parameters()) == expected


def test_bfloat16_activations() -> None:
    torch.manual_seed(0)
    decoder = GatedPixelCNN(3, 16, 4)
    z, uniforms = torch.randn(50, 3), torch.rand(50, 1, 8, 8)
    x = decoder.sample(z, uniforms)
    expected = decoder(x, z)
    decoder.bfloat16()
    logits = decoder(x, z)
    assert logits.dtype == torch.bfloat16
    assert (logits - expected).abs().max() < 0.1 * expected.std()
    drawn = decoder.sample(z, uniforms)
    assert drawn.dtype == torch.float32
    again = torch.logit(uniforms) < decoder(drawn, z)  # the sums are rounded in another order
    assert (again == drawn).float().mean() > 0.99


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="n_layers must be at least 1, got 0"):
        GatedPixelCNN(3, 8, 0)
