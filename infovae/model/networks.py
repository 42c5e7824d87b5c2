"""The parts of a model: posteriors, encoders, decoders and critics. No loss, no training.

The autoregressive decoders live in `pixelcnn` and `gated_pixelcnn`.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_STD = 1e-3
"""Floor of the posterior's standard deviation, the authors' under a PixelCNN.

DEVIATION: for grey images the authors have 0.005 here too, as for the pixels.
"""
MIN_PIXEL_STD = 5e-3
"""Floor of the standard deviation of a grey pixel, in [0, 1] (the authors' value)."""

LEAK = 0.1
"""Slope of the authors' leaky ReLUs below 0."""


class Gaussian(NamedTuple):
    """A diagonal Gaussian q(z|x) for each image: `mu` and `std`, both (n, latent_dim)."""

    mu: Tensor
    std: Tensor

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """Draw z by the reparametrisation z = mu + std * eps, shape (n, latent_dim)."""
        eps = torch.randn(self.mu.shape, generator=generator, device=self.mu.device, dtype=self.mu.dtype)
        return self.mu + self.std * eps

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z|x) in nats, summed over latent dimensions, shape (n,)."""
        standardized = (z - self.mu) / self.std
        return (-0.5 * standardized.square() - self.std.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def quantile(self, uniforms: Tensor) -> Tensor:
        """Return the inverse distribution function of uniforms, shape (n, latent_dim); finite at 0 and 1 too."""
        eps = torch.finfo(uniforms.dtype).eps
        return self.mu + self.std * torch.special.ndtri(uniforms.flatten(1).clamp(eps, 1 - eps))

    def kl(self) -> Tensor:
        """Return KL(q(z|x) || N(0, I)) in nats, shape (n,)."""
        return (0.5 * (self.mu.square() + self.std.square() - 1) - self.std.log()).sum(-1)


class Encoder(nn.Module):
    """q(z|x): a network with 2 * latent_dim outputs, read as mean and unconstrained standard deviation.

    Parameters
    ----------
    body : None for a code without dimensions.
    mean_scale
        When given, E[z|x] is batch-normalised to this standard deviation, which is fixed, about a shift that is learnt
        and starts at 0, so that E KL(q(z|x)||p(z)) >= latent_dim mean_scale^2 / 2 on every training batch, up to batch
        normalisation's own floor of 1e-5 on the variance (BN-VAE, Zhu et al. 2020; as in their code, the standard
        deviation of q(z|x) is not normalised). In evaluation the running statistics take the place of the batch's.
    """

    def __init__(
        self, body: nn.Module | None, posterior_std: str, mean_scale: float | None = None, latent_dim: int | None = None
    ) -> None:
        super().__init__()
        self.body = body
        self.posterior_std = posterior_std
        self.mean_scale = mean_scale
        if mean_scale is not None:
            if latent_dim is None:
                raise ValueError(f"mean_scale={mean_scale:g} normalises each latent dimension: pass latent_dim too")
            self.normalize_mean = nn.BatchNorm1d(latent_dim, affine=False)
            self.mean_shift = nn.Parameter(torch.zeros(latent_dim))

    def forward(self, x: Tensor) -> Gaussian:
        """Encode images (n, 1, H, W) into Gaussians over (n, latent_dim), in float32."""
        if self.body is None:
            nothing = x.new_zeros(len(x), 0)
            return Gaussian(nothing, nothing)
        mu, raw = at_least_float32(self.body(x.to(dtype_of(self.body)))).chunk(2, dim=-1)
        if self.mean_scale is not None:
            mu = self.mean_scale * self.normalize_mean(mu) + self.mean_shift
        positive = {"sigmoid": torch.sigmoid, "exp": lambda s: torch.exp(s / 2), "softplus": F.softplus}
        # clamped before exp: a log-variance of 30 would overflow the loss long before it meant anything
        return Gaussian(mu, positive[self.posterior_std](raw.clamp(max=15)) + MIN_STD)


class Decoder(nn.Module):
    """p(x|z) with Bernoulli pixels. `forward(x, z)` gives the logit of each pixel, given those before it or not."""

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """Return log p(x|z) in nats, summed over pixels: x (n, 1, H, W) in {0, 1}, z (n, latent_dim) -> (n,)."""
        logits = at_least_float32(self(x, z))  # the sum over pixels needs all digits
        return -F.binary_cross_entropy_with_logits(logits, x.to(logits), reduction="none").flatten(1).sum(1)

    def expected(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the expected value of every pixel given z and, where they matter, the pixels of x before it."""
        return torch.sigmoid(self(x, z))

    def sample(self, z: Tensor, uniforms: Tensor) -> Tensor:
        """Draw x ~ p(x|z), in {0, 1}, of z's dtype: a pixel is on where its uniform lies below its probability.

        Codes z (n, latent_dim) and uniforms (n, 1, H, W) in [0, 1) to images (n, 1, H, W).
        """
        raise NotImplementedError


class IndependentDecoder(Decoder):
    """p(x|z) with independent pixels: `body` maps z (n, latent_dim) to logits (n, 1, H, W)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor | None, z: Tensor) -> Tensor:
        """Return the logits of the pixels, shape (n, 1, H, W); they do not depend on x."""
        return self.body(z.to(dtype_of(self.body)))

    def mean(self, z: Tensor) -> Tensor:
        """Return E[x|z], the probability of each pixel, shape (n, 1, H, W)."""
        return torch.sigmoid(self(None, z))

    def sample(self, z: Tensor, uniforms: Tensor) -> Tensor:
        """Draw x ~ p(x|z); see `Decoder.sample`."""
        return (uniforms < self.mean(z)).to(z.dtype)


class GaussianDecoder(Decoder):
    """p(x|z) of grey images with independent Gaussian pixels: `body` maps z (n, latent_dim) to two maps (n, 2, H, W).

    Their sigmoids are the mean and the standard deviation of each pixel, the latter at least `MIN_PIXEL_STD`: as in the
    authors' script. Where images are few, what the ELBO gains from small deviations is what drives its codes apart
    (paper, variance over-estimation). With a linear mean they did not come apart.
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor | None, z: Tensor) -> Gaussian:
        """Return mean and standard deviation of the pixels, each (n, H * W); they do not depend on x."""
        mean, std = self._maps(z).sigmoid().flatten(2).unbind(1)
        return Gaussian(mean, std.clamp(min=MIN_PIXEL_STD))

    def _maps(self, z: Tensor) -> Tensor:
        return at_least_float32(self.body(z.to(dtype_of(self.body))))

    def log_prob(self, x: Tensor, z: Tensor) -> Tensor:
        """Return the log-density of grey images in nats, summed over pixels: x (n, 1, H, W), z (n, d) -> (n,)."""
        return self(None, z).log_prob(x.flatten(1))

    def mean(self, z: Tensor) -> Tensor:
        """Return E[x|z], (n, 1, H, W)."""
        return self._maps(z)[:, :1].sigmoid()

    def expected(self, x: Tensor, z: Tensor) -> Tensor:
        """Return E[x|z], whatever x is."""
        return self.mean(z)

    def sample(self, z: Tensor, uniforms: Tensor) -> Tensor:
        """Draw grey images (n, 1, H, W) by the inverse distribution function, clipped to [0, 1]."""
        return self(None, z).quantile(uniforms).clamp(0, 1).view(uniforms.shape)


class Float32Linear(nn.Linear):
    """A linear layer that stays float32 where the network around it is bfloat16: to codes and from codes."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b, (n, n_in) to (n, n_out)."""
        return super().forward(x.to(self.weight.dtype))


def at_least_float32(x: Tensor) -> Tensor:
    """Return x in float32, or in its own precision where that is higher."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def dtype_of(network: nn.Module) -> torch.dtype:
    """Return the precision of a network's first weights, in which it expects its input; float32 if it has none."""
    return next((weight.dtype for weight in network.parameters()), torch.float32)


def cast_weights(network: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return a network's weights in another precision, by name, for `torch.func.functional_call`; differentiable.

    Those of batch normalisation and of `Float32Linear` stay as they are.
    """
    kept = (nn.modules.batchnorm._BatchNorm, Float32Linear)
    return {
        f"{path}.{name}" if path else name: weight if isinstance(module, kept) else weight.to(dtype)
        for path, module in network.named_modules()
        for name, weight in module.named_parameters(recurse=False)
    }


def mlp(sizes: list[int]) -> nn.Sequential:
    """Return a ReLU network through the given widths, linear at its end."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def build_critic(latent_dim: int) -> nn.Sequential:
    """Return a critic of codes, the authors': (n, latent_dim) to one unbounded output (n, 1)."""
    return nn.Sequential(
        *(nn.Linear(latent_dim, 512), nn.LeakyReLU(LEAK), nn.Linear(512, 512), nn.LeakyReLU(LEAK), nn.Linear(512, 1))
    )


class ChannelsLastFlatten(nn.Module):
    """(n, C, H, W) to (n, H * W * C): the order in which channels-last activations lie in memory, so a mere view.

    `nn.Flatten`'s order would copy the activations, and hand the layers before it gradients in the slower layout.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Flatten."""
        return x.permute(0, 2, 3, 1).flatten(1)


class ChannelsLastUnflatten(nn.Module):
    """(n, H * W * C) to (n, C, H, W): the inverse of `ChannelsLastFlatten`, a view with channels-last strides."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: Tensor) -> Tensor:
        """Unflatten."""
        return x.unflatten(1, (self.height, self.width, -1)).permute(0, 3, 1, 2)


class DoublingConvTranspose2d(nn.ConvTranspose2d):
    """`nn.ConvTranspose2d(..., 4, stride=2, padding=1)` as a matrix product and an overlapping sum.

    For one output channel about twice as fast on a CPU, whose transposed convolutions are made for many; for many
    output channels slower.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, 4, stride=2, padding=1)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return (n, C_out, 2 H, 2 W) for x (n, C_in, H, W)."""
        height, width = x.shape[2:]
        patches = x.permute(0, 2, 3, 1).flatten(1, 2) @ self.weight.flatten(1)  # (n, H * W, C_out * 4 * 4)
        image = F.fold(patches.transpose(1, 2), (2 * height, 2 * width), 4, padding=1, stride=2)
        return image if self.bias is None else image + self.bias[:, None, None]


def conv_encoder(latent_dim: int, image_shape: tuple[int, int], width: int, batch_norm: bool) -> nn.Sequential:
    """Return the body of a convolutional encoder: (n, 1, H, W) to (n, 2 * latent_dim), H and W divisible by 4.

    Convolutions to `width` and 2 `width` maps, a dense layer of 8 `width`; each with leaky ReLU, after batch
    normalisation if asked for. The authors' encoder is that of width 64 with batch normalisation.
    """
    height, width_ = quarter(image_shape)

    def layer(linear: nn.Module, norm: nn.Module) -> tuple[nn.Module, ...]:
        return linear, *((norm,) if batch_norm else ()), nn.LeakyReLU(LEAK, inplace=True)

    bias = not batch_norm  # normalisation would take it out again
    first = nn.Conv2d(1, width, 4, stride=2, padding=1, bias=bias)
    second = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1, bias=bias)
    dense = nn.Linear(height * width_ * 2 * width, 8 * width, bias=bias)
    return nn.Sequential(
        *layer(first, nn.BatchNorm2d(width)),
        *layer(second, nn.BatchNorm2d(2 * width)),
        *(ChannelsLastFlatten(), *layer(dense, nn.BatchNorm1d(8 * width))),
        Float32Linear(8 * width, 2 * latent_dim),
    )


@torch.no_grad()
def spread_means(encoder: Encoder, x: Tensor) -> None:
    """Shift and scale the means E[z|x] of a batch (n, 1, H, W) to mean 0 and standard deviation 1 in each dimension.

    By the weights of the last layer, once, before training.
    """
    last = encoder.body[-1] if isinstance(encoder.body, nn.Sequential) else None
    if not isinstance(last, nn.Linear):
        raise ValueError("encoder_norm 'spread' needs an encoder whose last layer is linear")
    mu = encoder(x).mu
    d, scale = mu.shape[1], 1 / mu.std(0)
    last.weight[:d] *= scale[:, None]
    last.bias[:d] = (last.bias[:d] - mu.mean(0)) * scale


def conv_decoder(latent_dim: int, image_shape: tuple[int, int], n_outputs: int) -> nn.Sequential:
    """Return the body of a convolutional decoder: codes (n, latent_dim) to (n, n_outputs, H, W)."""
    height, width = quarter(image_shape)
    return nn.Sequential(
        *(nn.Linear(latent_dim, height * width * 64), nn.ReLU(inplace=True), ChannelsLastUnflatten(height, width)),
        *(nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.ReLU(inplace=True)),
        DoublingConvTranspose2d(32, n_outputs),
    )


def dense_encoder(latent_dim: int, image_shape: tuple[int, int]) -> nn.Sequential:
    """Return the body of a dense encoder: images (n, 1, H, W) to (n, 2 * latent_dim)."""
    return nn.Sequential(nn.Flatten(), *mlp([math.prod(image_shape), 512, 512, 2 * latent_dim]))


def dense_decoder(latent_dim: int, image_shape: tuple[int, int], n_outputs: int) -> nn.Sequential:
    """Return the body of a dense decoder: codes (n, latent_dim) to (n, n_outputs, H, W)."""
    shape = (n_outputs, *image_shape)
    return nn.Sequential(*mlp([latent_dim, 512, 512, math.prod(shape)]), nn.Unflatten(1, shape))


def quarter(image_shape: tuple[int, int]) -> tuple[int, int]:
    """Return a quarter of both sides; ValueError where 4 does not divide them."""
    if any(size % 4 for size in image_shape):
        raise ValueError(f"convolutions, and maps of shifts, need image sides divisible by 4, got {image_shape}")
    return image_shape[0] // 4, image_shape[1] // 4
