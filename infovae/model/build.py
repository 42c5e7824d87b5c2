"""Puts a run's encoder and decoder together as its configuration names them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from infovae.config import RunConfig
from infovae.model.gated_pixelcnn import GatedPixelCNN
from infovae.model.networks import (
    Decoder,
    Encoder,
    Gaussian,
    GaussianDecoder,
    IndependentDecoder,
    conv_decoder,
    conv_encoder,
    dense_decoder,
    dense_encoder,
)
from infovae.model.pixelcnn import PixelCNN
from infovae.model.scalar import ScalarDecoder, scalar_encoder


class Model(nn.Module):
    """An encoder q(z|x) and a decoder p(x|z) under the prior p(z) = N(0, I)."""

    def __init__(self, encoder: Encoder, decoder: Decoder, latent_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim

    def forward(self, x: Tensor, generator: torch.Generator) -> tuple[Gaussian, Tensor, Tensor]:
        """Return q(z|x), a draw z of it, and log p(x|z) in nats, (n,), for images x (n, 1, H, W)."""
        q_z_given_x = self.encoder(x)
        z = q_z_given_x.sample(generator)
        return q_z_given_x, z, self.decoder.log_prob(x, z)


def build_model(config: RunConfig, image_shape: tuple[int, int]) -> Model:
    """Build the model of a run, with weights drawn from torch's global generator.

    Parameters
    ----------
    image_shape : (height, width); for convolutions both must be divisible by 4.
    """
    dim = config.latent_dim
    body: nn.Module | None = None  # without a code there is nothing to encode, and torch would warn of empty layers
    if dim and config.encoder == "conv":
        body = conv_encoder(dim, image_shape, config.encoder_width, batch_norm=config.encoder_norm == "batch")
    elif dim:
        body = {"dense": dense_encoder, "scalar": scalar_encoder}[config.encoder](dim, image_shape)
    encoder = Encoder(body, config.posterior_std, config.mean_scale, dim)
    decoder: Decoder
    channels, layers = config.pixelcnn_channels, config.pixelcnn_layers
    if config.decoder == "pixelcnn":
        map_shape = image_shape if config.conditioning == "spatial" else None
        decoder = PixelCNN(dim, channels, layers, config.receptive_radius, map_shape)
    elif config.decoder == "gated_pixelcnn":
        decoder = GatedPixelCNN(dim, channels, layers)
    elif config.decoder == "scalar":
        decoder = ScalarDecoder(dim, config.decoder_min_std)
    else:
        make_body = {"conv": conv_decoder, "dense": dense_decoder}[config.decoder]
        grey = config.binarization == "none"
        decoder = (GaussianDecoder if grey else IndependentDecoder)(make_body(dim, image_shape, 2 if grey else 1))
    # channels-last: the layout in which a CPU's and a GPU's convolutions of few channels are fastest
    return Model(encoder, decoder, dim).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
