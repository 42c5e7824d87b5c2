"""The toy's Gaussian networks: densities on the line of -1 and +1, draws by the inverse distribution function."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from infovae.config import RunConfig
from infovae.model.build import build_model
from infovae.model.scalar import ScalarDecoder, scalar_encoder

TOY = RunConfig(dataset="two_points", encoder="scalar", decoder="scalar", latent_dim=1, decoder_min_std=0.03)
IMAGES = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)


class Constant(nn.Module):
    """A network whose outputs are given."""

    def __init__(self, *outputs: float) -> None:
        super().__init__()
        self.outputs = torch.tensor([outputs], dtype=torch.float32)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.outputs.expand(len(z), -1)


def decoder(mean: float, raw: float, min_std: float) -> ScalarDecoder:
    made = ScalarDecoder(1, min_std)
    made.body = Constant(mean, raw)
    return made


def test_density_is_that_of_plus_and_minus_one_with_all_constants() -> None:
    std = torch.nn.functional.softplus(torch.tensor(0.4)) + 0.1
    expected = Normal(torch.tensor(0.25), std).log_prob(torch.tensor([-1.0, 1.0]))
    assert torch.allclose(decoder(0.25, 0.4, 0.1).log_prob(IMAGES, torch.zeros(2, 1)), expected)


@pytest.mark.parametrize("min_std", [1e-3, 0.03, 0.5])
def test_standard_deviation_reaches_its_floor_and_never_falls_below(min_std: float) -> None:
    assert decoder(0, -200, min_std)(None, torch.zeros(3, 1)).std[0].item() == pytest.approx(min_std, rel=1e-6)
    torch.manual_seed(0)
    model = build_model(TOY.model_copy(update={"decoder_min_std": min_std}), (1, 1))
    std = model.decoder(None, 100 * torch.randn(500, 1)).std
    assert std.min().item() >= min_std and std.shape == (500, 1)


def test_draws_have_the_distribution_on_the_scale_of_the_images() -> None:
    uniforms = torch.rand(100_000, 1, 1, 1, generator=torch.Generator().manual_seed(0))
    made = decoder(0.6, 0.0, 0.1)
    images = made.sample(torch.zeros(100_000, 1), uniforms)
    std = torch.log(torch.tensor(2.0)).item() + 0.1
    assert images.shape == uniforms.shape
    x = 2 * images - 1
    assert x.mean().item() == pytest.approx(0.6, abs=0.01) and x.std().item() == pytest.approx(std, abs=0.01)
    assert made.mean(torch.zeros(1, 1)).item() == pytest.approx(0.8)
    below = Normal(0.6, std).cdf(x)  # a draw lies as high in its distribution as its uniform in [0, 1]
    assert torch.allclose(below, uniforms, atol=1e-4)


def test_uniforms_of_0_and_1_give_finite_draws() -> None:
    ends = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1)
    assert decoder(0, 0, 0.1).sample(torch.zeros(2, 1), ends).isfinite().all()


def test_encoder_sees_minus_and_plus_one() -> None:
    seen: list[torch.Tensor] = []
    model = build_model(TOY, (1, 1))
    model.encoder.body[1].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))  # type: ignore[index]
    q = model.encoder(IMAGES)
    assert seen[0].tolist() == [[-1], [1]]
    assert q.mu.shape == q.std.shape == (2, 1)


def test_both_networks_have_three_layers_of_200() -> None:
    model = build_model(TOY, (1, 1))
    for network, n_out in ((model.encoder.body, 2), (model.decoder.body, 2)):
        layers = [m for m in network.modules() if isinstance(m, nn.Linear)]  # type: ignore[union-attr]
        assert [m.out_features for m in layers] == [200, 200, 200, n_out]
    assert model.decoder.min_std == 0.03


def test_encoder_refuses_images_of_several_pixels() -> None:
    with pytest.raises(ValueError, match=r"one pixel, got \(8, 8\)"):
        scalar_encoder(1, (8, 8))
