"""Models with fresh weights, of the digits: in a store as a sweep puts them there, or at hand."""

import numpy as np
import torch
from conftest import tiny
from safetensors.torch import save

from infovae.config import RunConfig
from infovae.model.build import build_model
from infovae.runs.store import Store
from infovae.runs.sweep import task_id
from infovae.trained.models import TrainedModel

GREY = np.random.default_rng(0).integers(2, 256, (40, 8, 8)).astype(np.uint8)


def keep(store: Store, config: RunConfig, image_shape: tuple[int, int] = (8, 8), identity: str = "") -> str:
    """Put a model with fresh weights into a store, as a sweep does; return its id."""
    torch.manual_seed(config.seed)
    weights = {name: tensor.contiguous() for name, tensor in build_model(config, image_shape).state_dict().items()}
    identity = identity or task_id(config)
    store.save_run(identity, config, save(weights), {"history": [], "train_seconds": 0.0, "precision": "float32"})
    return identity


def conv(**changes: object) -> TrainedModel:
    """Return a convolutional model of digits with fresh weights."""
    torch.manual_seed(0)
    config = tiny(decoder="conv", **changes)
    return TrainedModel(build_model(config, (8, 8)), config, (8, 8))
