"""Puts a run's encoder and decoder together as its configuration names them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from infovae.config import RunConfig
from infovae.networks import (
    Decoder,
    Encoder,
    Gaussian,
    IndependentDecoder,
    conv_decoder,
    conv_encoder,
    dense_decoder,
    dense_encoder,
)
from infovae.pixelcnn import PixelCNN
from infovae.scalar import ScalarDecoder, scalar_encoder


class Model(nn.Module):
    """An encoder q(z|x) and a decoder p(x|z) under the prior p(z) = N(0, I)."""

    def __init__(self, encoder: Encoder, decoder: Decoder, latent_dim: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.latent_dim = latent_dim


class PixelModel(nn.Module):
    """The baseline whose code is the image: q(z|x) has all its mass at x, flattened."""

    def encoder(self, x: Tensor) -> Gaussian:
        """Return the pixels (n, H * W) as means, with standard deviation 0."""
        return Gaussian(x.flatten(1), torch.zeros_like(x.flatten(1)))


def build_model(config: RunConfig, image_shape: tuple[int, int]) -> Model:
    """Build the model of a run, with weights drawn from torch's global generator.

    Parameters
    ----------
    image_shape : (height, width); for convolutions both must be divisible by 4.
    """
    encoders = {"conv": conv_encoder, "dense": dense_encoder, "scalar": scalar_encoder}
    # without a code there is nothing to encode, and torch would warn of layers without outputs
    encode = encoders[config.encoder](config.latent_dim, image_shape) if config.latent_dim else None
    encoder = Encoder(encode, config.posterior_std, config.mean_scale, config.latent_dim)
    decoder: Decoder
    if config.decoder == "pixelcnn":
        decoder = PixelCNN(config.latent_dim, config.pixelcnn_channels, config.pixelcnn_layers, config.receptive_radius)
    elif config.decoder == "scalar":
        decoder = ScalarDecoder(config.latent_dim, config.decoder_min_std)
    else:
        body = {"conv": conv_decoder, "dense": dense_decoder}[config.decoder]
        decoder = IndependentDecoder(body(config.latent_dim, image_shape))
    # channels-last: the layout in which a CPU's and a GPU's convolutions of few channels are fastest
    return Model(encoder, decoder, config.latent_dim).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
