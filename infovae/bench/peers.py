"""What the package is measured against: pythae's INFOVAE_MMD under its own trainer, and its masked convolutions.

Needs pythae, which only `.venv-bench` has. Architectures, data and numbers of steps are those of `rows`, which checks
that they agree; everything else is pythae's.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr
from pathlib import Path

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import INFOVAE_MMD, INFOVAE_MMD_Config
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.models.normalizing_flows import PixelCNN, PixelCNNConfig
from pythae.models.normalizing_flows.pixelcnn.utils import MaskedConv2d
from pythae.trainers import BaseTrainer, BaseTrainerConfig
from torch import Tensor, nn

for _name in ("pythae", "pythae.trainers.base_trainer.base_trainer"):
    logging.getLogger(_name).setLevel(logging.WARNING)


class ConvEncoder(BaseEncoder):
    """The layers of `networks.conv_encoder`, written as one usually does."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 32, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 4, stride=2, padding=1)),
            *(nn.ReLU(), nn.Flatten(), nn.Linear(7 * 7 * 64, 2 * latent_dim)),
        )

    def forward(self, x: Tensor) -> ModelOutput:
        """Return mean and log-variance of q(z|x)."""
        mu, log_var = self.body(x).chunk(2, dim=-1)
        return ModelOutput(embedding=mu, log_covariance=log_var)


class ConvDecoder(BaseDecoder):
    """The layers of `networks.conv_decoder`, with the sigmoid that pythae's loss expects."""

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Linear(latent_dim, 7 * 7 * 64), nn.ReLU(), nn.Unflatten(1, (64, 7, 7))),
            *(nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1), nn.ReLU()),
            *(nn.ConvTranspose2d(32, 1, 4, stride=2, padding=1), nn.Sigmoid()),
        )

    def forward(self, z: Tensor) -> ModelOutput:
        """Return the pixels' probabilities."""
        return ModelOutput(reconstruction=self.body(z))


def build_infovae(latent_dim: int, alpha: float, lambda_: float) -> INFOVAE_MMD:
    """Return pythae's InfoVAE with the networks above, Bernoulli pixels and its own kernel (imq)."""
    settings = INFOVAE_MMD_Config((1, 28, 28), latent_dim, reconstruction_loss="bce", alpha=alpha, lbd=lambda_)
    return INFOVAE_MMD(settings, ConvEncoder(latent_dim), ConvDecoder(latent_dim))


def make_training(
    x: Tensor, model: Callable[[], INFOVAE_MMD], batch_size: int, n_epochs: int, learning_rate: float
) -> Callable[[Path], None]:
    """Return a function that trains one model on images x (n, 1, 28, 28) and saves it below a folder."""
    dataset = BaseDataset(x, torch.zeros(len(x)))

    def train(folder: Path) -> None:
        settings = BaseTrainerConfig(
            str(folder),
            per_device_train_batch_size=batch_size,
            num_epochs=n_epochs,
            learning_rate=learning_rate,
            no_cuda=True,
        )
        with redirect_stderr(io.StringIO()):  # its progress bars
            BaseTrainer(model(), dataset, training_config=settings).train()

    return train


def build_pixelcnn(n_channels: int, kernel_sizes: Sequence[int], batch_norm: bool) -> nn.Module:
    """Return pythae's PixelCNN for binary pixels, its layers remade with this width and these kernels."""
    model = PixelCNN(PixelCNNConfig(input_dim=(1, 28, 28), n_embeddings=2, n_layers=1))
    layers: list[nn.Module] = []
    for number, size in enumerate(kernel_sizes):
        mask, n_in = ("B", n_channels) if number else ("A", 1)
        layers.append(MaskedConv2d(mask, n_in, n_channels, size, 1, size // 2))
        layers += [nn.BatchNorm2d(n_channels)] if batch_norm else []
        layers.append(nn.ReLU())
    model.net = nn.Sequential(*layers, nn.Conv2d(n_channels, 2, 1))
    return model
