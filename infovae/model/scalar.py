"""The networks of the toy data {-1, +1}: a Gaussian encoder and a Gaussian decoder of one number (paper, section 2).

Owns the scale: outside of here an image is 0 or 1, as `datasets.binarize` returns it, inside it is x = -1 or +1, and
densities are with respect to that x. No loss, no training.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from infovae.model.networks import Gaussian, GaussianDecoder, mlp

WIDTHS = (200, 200, 200)


class PlusMinusOne(nn.Module):
    """Images (n, 1, 1, 1) in {0, 1} to x (n, 1) in {-1, +1}."""

    def forward(self, images: Tensor) -> Tensor:
        """Return 2 images - 1, flattened."""
        return 2 * images.flatten(1) - 1


def scalar_encoder(latent_dim: int, image_shape: tuple[int, int]) -> nn.Sequential:
    """Return the body of the toy's encoder: images (n, 1, 1, 1) to (n, 2 * latent_dim)."""
    if math.prod(image_shape) != 1:
        raise ValueError(f"the scalar encoder is for images of one pixel, got {image_shape}: use 'conv' or 'dense'")
    return nn.Sequential(PlusMinusOne(), *mlp([1, *WIDTHS, 2 * latent_dim]))


class ScalarDecoder(GaussianDecoder):
    """p(x|z) = N(x; m(z), s(z)^2) with s(z) > min_std, x the number that the image stands for.

    Without a floor log p(x|z) has no upper bound; how far the ELBO can go for it is decided by the floor.
    """

    def __init__(self, latent_dim: int, min_std: float) -> None:
        super().__init__(mlp([latent_dim, *WIDTHS, 2]))
        self.latent_dim, self.min_std = latent_dim, min_std

    def forward(self, x: Tensor | None, z: Tensor) -> Gaussian:
        """Return m(z) and s(z), each (n, 1)."""
        mean, raw = self._maps(z).chunk(2, dim=1)
        return Gaussian(mean, F.softplus(raw) + self.min_std)

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the log-density of 2 x - 1 given z, in nats: images x (n, 1, 1, 1), z (n, latent_dim) -> (n,)."""
        return super().log_prob(2 * x - 1, z)

    def mean(self, z: Tensor) -> Tensor:
        """Return E[x|z] as images, (n, 1, 1, 1)."""
        return (self(None, z).mu[..., None, None] + 1) / 2

    def sample(self, z: Tensor, uniforms: Tensor) -> Tensor:
        """Draw images (n, 1, 1, 1) by the inverse distribution function; any number, not 0 and 1 alone."""
        return ((self(None, z).quantile(uniforms) + 1) / 2).view(uniforms.shape)
