"""The images of an evaluation: seen as the run saw its own, encoded, and passed through a network in batches."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from infovae.config import PixelConfig, RunConfig
from infovae.data.datasets import ImageData, observe, static_binarization
from infovae.model.build import Model
from infovae.model.networks import Gaussian

Evaluated = tuple[dict[str, Any], dict[str, Any]]
"""Metrics by name, and arrays by name for the figures."""

Split = Literal["train", "test", "validation"]
STATIC_SEEDS: dict[Split, int] = {"train": 0, "test": 1, "validation": 2}
"""Of the images that are binarised once and for all; 0 is the one that training uses."""


def measuring_device(device: torch.device) -> torch.device:
    """Return where the codes of a model on `device` are measured: in float64, which Apple's MPS does not have."""
    return torch.device("cpu") if device.type == "mps" else device


def see(
    data: ImageData,
    split: Split,
    config: RunConfig | PixelConfig,
    generator: torch.Generator,
    rows: slice | Tensor = slice(None),
) -> Tensor:
    """Return images of a part of the data, float32 (n, 1, H, W), as the run saw its own: binarised or grey."""
    images, binarization = getattr(data, f"{split}_images"), getattr(config, "binarization", "dynamic")
    if binarization == "static":  # the whole part's draw, of which the run has seen these
        images = static_binarization(images, STATIC_SEEDS[split])
    return observe(images[rows].to(generator.device), binarization, generator)


def encode(model: Model, x: Tensor, batch_size: int = 250, batch_statistics: bool = False) -> Gaussian:
    """Return q(z|x) for images (n, 1, H, W), in batches.

    Parameters
    ----------
    batch_statistics : normalise each batch by its own statistics, as in training, instead of the running ones; the
        model is not changed.
    """
    encoder = model.encoder
    if batch_statistics:
        encoder = copy.deepcopy(encoder).train()
    parts = [encoder(batch) for batch in x.split(batch_size)]
    return Gaussian(torch.cat([q.mu for q in parts]), torch.cat([q.std for q in parts]))


def in_batches(function: Callable[..., Tensor], *arguments: Tensor, size: int) -> Tensor:
    """Return function(*arguments), computed for `size` rows of all arguments at a time."""
    return torch.cat([function(*rows) for rows in zip(*(each.split(size) for each in arguments), strict=True)])
