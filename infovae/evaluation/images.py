"""The images of an evaluation: seen as the run saw its own, encoded, and passed through a network in batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from infovae.config import PixelConfig, RunConfig
from infovae.data import ImageData, binarize, static_binarization
from infovae.model import Model, PixelModel
from infovae.networks import Gaussian

Evaluated = tuple[dict[str, Any], dict[str, Any]]
"""Metrics by name, and arrays by name for the figures."""

Split = Literal["train", "test", "validation"]
STATIC_SEEDS: dict[Split, int] = {"train": 0, "test": 1, "validation": 2}
"""Of the images that are binarised once and for all; 0 is the one that training uses."""


def split_images(data: ImageData, split: Split) -> tuple[Tensor, Tensor]:
    """Return the images (n, H, W), uint8, and the labels (n,) of a part of the data."""
    return getattr(data, f"{split}_images"), getattr(data, f"{split}_labels")


def see(
    images: Tensor,
    config: RunConfig | PixelConfig,
    split: Split,
    generator: torch.Generator,
    rows: Tensor | None = None,
) -> Tensor:
    """Return x, float32 (n, 1, H, W), as the run saw its own: binarised afresh or once and for all, or grey.

    Parameters
    ----------
    images : the first images of `split`, uint8 (n, H, W): a static binarisation is the same for any number of them.
    rows : of these images, to be returned; by default all.
    """
    if getattr(config, "binarization", "dynamic") == "static":
        images = static_binarization(images, STATIC_SEEDS[split])
    images = (images if rows is None else images[rows]).to(generator.device)
    return grey(images) if is_grey(config) else binarize(images, generator)


def is_grey(config: RunConfig | PixelConfig) -> bool:
    """Return whether the run is a model of grey images."""
    return getattr(config, "binarization", "dynamic") == "none"


def grey(images: Tensor) -> Tensor:
    """Return grey values in [0, 1], float32 (n, 1, H, W), of images uint8 (n, H, W)."""
    return images.float().unsqueeze(1) / 255


def encode(model: Model | PixelModel, x: Tensor, batch_size: int = 250) -> Gaussian:
    """Return q(z|x) for images (n, 1, H, W), in batches."""
    parts = [model.encoder(batch) for batch in x.split(batch_size)]
    return Gaussian(torch.cat([q.mu for q in parts]), torch.cat([q.std for q in parts]))


def in_batches(function: Callable[..., Tensor], *arguments: Tensor, size: int) -> Tensor:
    """Return function(*arguments), computed for `size` rows of all arguments at a time."""
    return torch.cat([function(*rows) for rows in zip(*(each.split(size) for each in arguments), strict=True)])
