"""What the package is measured against: pythae's INFOVAE_MMD under its own trainer, and its masked convolutions."""

from __future__ import annotations

import io
import logging
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import INFOVAE_MMD, INFOVAE_MMD_Config
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.normalizing_flows import PixelCNN, PixelCNNConfig
from pythae.models.normalizing_flows.pixelcnn.utils import MaskedConv2d
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn

from infovae.config import RunConfig

for _name in ("pythae", "pythae.trainers.base_trainer.base_trainer"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class Encoder(BaseEncoder):
    """The layers of `networks.conv_encoder`, as one usually writes them, for images of side x side pixels."""

    def __init__(self, latent_dim: int, side: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 32, 4, 2, 1, bias=False), nn.BatchNorm2d(32), nn.LeakyReLU(0.1)),
            *(nn.Conv2d(32, 64, 4, 2, 1, bias=False), nn.BatchNorm2d(64), nn.LeakyReLU(0.1), nn.Flatten()),
            *(nn.Linear(side**2 * 4, 256, bias=False), nn.BatchNorm1d(256), nn.LeakyReLU(0.1)),
            nn.Linear(256, 2 * latent_dim),
        )

    def forward(self, x: Tensor) -> ModelOutput:
        """Return mean and log-variance of q(z|x)."""
        mu, log_var = self.body(x).chunk(2, dim=-1)
        return ModelOutput(embedding=mu, log_covariance=log_var)


class Decoder(BaseDecoder):
    """The layers of `networks.conv_decoder`, with the sigmoid that pythae's loss expects."""

    def __init__(self, latent_dim: int, side: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Linear(latent_dim, side**2 * 4), nn.ReLU(), nn.Unflatten(1, (64, side // 4, side // 4))),
            *(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(32, 1, 4, 2, 1), nn.Sigmoid()),
        )

    def forward(self, z: Tensor) -> ModelOutput:
        """Return the pixels' probabilities."""
        return ModelOutput(reconstruction=self.body(z))


def build_infovae(config: RunConfig, side: int) -> INFOVAE_MMD:
    """Return pythae's InfoVAE with the networks above, Bernoulli pixels and its own kernel (imq)."""
    settings = INFOVAE_MMD_Config(
        (1, side, side), config.latent_dim, reconstruction_loss="bce", alpha=config.alpha, lbd=config.lambda_
    )
    return INFOVAE_MMD(settings, Encoder(config.latent_dim, side), Decoder(config.latent_dim, side))


def train_infovae(config: RunConfig, model: INFOVAE_MMD, x: Tensor) -> None:
    """Train pythae's InfoVAE for an epoch of images x (n, 1, H, W), under its own trainer, which saves it."""
    with tempfile.TemporaryDirectory() as folder, redirect_stderr(io.StringIO()):  # its progress bars
        settings = BaseTrainerConfig(
            folder, per_device_train_batch_size=config.batch_size, learning_rate=config.learning_rate, num_epochs=1,
            no_cuda=True,
        )  # fmt: skip
        BaseTrainer(model, BaseDataset(x, torch.zeros(len(x))), training_config=settings).train()


def build_pixelcnn(n_channels: int, kernel_sizes: Sequence[int], batch_norm: bool, side: int) -> nn.Module:
    """Return pythae's PixelCNN for binary pixels, its layers remade with this width and these kernels."""
    model = PixelCNN(PixelCNNConfig(input_dim=(1, side, side), n_embeddings=2, n_layers=1))
    layers: list[nn.Module] = []
    for number, size in enumerate(kernel_sizes):
        mask, n_in = ("B", n_channels) if number else ("A", 1)
        layers.append(MaskedConv2d(mask, n_in, n_channels, size, 1, size // 2))
        layers += [nn.BatchNorm2d(n_channels), nn.ReLU()] if batch_norm else [nn.ReLU()]
    model.net = nn.Sequential(*layers, nn.Conv2d(n_channels, 2, 1))
    return model
