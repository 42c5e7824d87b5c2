"""A run in progress as bytes and back, in safetensors format: whoever goes on with it gets the same bits.

Owns which parts make up the state: weights and buffers, the optimisers' moments, the states of the random generators,
the place in the data, the history. Refuses to own where the bytes are kept.
"""

from __future__ import annotations

import json

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from infovae.training import Training


class CheckpointError(ValueError):
    """A state that a run cannot go on from."""


def to_bytes(training: Training) -> bytes:
    """Return the state of a run in progress."""
    tensors: dict[str, Tensor] = {
        "generator": training.generator.get_state(),
        "own_generator": training.own_generator.get_state(),
        "order": training.batches.order,
    }
    for name, module in _modules(training).items():
        tensors |= {f"{name}/{key}": tensor for key, tensor in module.state_dict().items()}
    for name, optimizer in _optimizers(training).items():
        for number, parameter in enumerate(_parameters(optimizer)):
            moments = optimizer.state.get(parameter, {})
            tensors |= {f"{name} optimizer/{number}/{key}": tensor for key, tensor in moments.items()}
    progress = {key: getattr(training, key) for key in ("step", "seconds", "precision", "history")}
    text = json.dumps({**progress, "first": training.batches.first}).encode()
    tensors["progress"] = torch.frombuffer(bytearray(text), dtype=torch.uint8)
    return save({name: tensor.contiguous() for name, tensor in tensors.items()})


def restore(training: Training, state: bytes) -> None:
    """Put a run of the same configuration, data and kind of device where the one that `state` was taken from stood.

    Raises
    ------
    CheckpointError
        When `state` is damaged or was written by another version; `training` must then not be used.
    """
    try:
        _restore(training, load(state))
        whole = to_bytes(training) == state
    except (SafetensorError, RuntimeError, LookupError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{type(error).__name__}: {error}") from error
    if not whole:
        raise CheckpointError("it holds more, or other, than this version keeps")


def _restore(training: Training, tensors: dict[str, Tensor]) -> None:
    for name, module in _modules(training).items():
        module.load_state_dict(_below(f"{name}/", tensors))
    for name, optimizer in _optimizers(training).items():
        for number, parameter in enumerate(_parameters(optimizer)):
            moments = _below(f"{name} optimizer/{number}/", tensors)
            if optimizer.defaults.get("fused") and "step" in moments:  # a fused update on a GPU reads it there
                moments["step"] = moments["step"].to(parameter.device)
            # in the parameter's memory layout, which the file does not keep and the fused update relies on
            optimizer.state[parameter] = {
                key: torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
                for key, value in moments.items()
            }
    training.generator.set_state(tensors["generator"])
    training.own_generator.set_state(tensors["own_generator"])
    progress = json.loads(tensors["progress"].numpy().tobytes())
    training.batches.order = tensors["order"].to(training.batches.order.device)
    training.batches.first = progress["first"]
    for key in ("step", "seconds", "precision", "history"):  # a run goes on in the precision that it began in
        setattr(training, key, progress[key])


def _modules(training: Training) -> dict[str, nn.Module]:
    parts = {"model": training.model, "divergence": training.divergence, "lambda": training.choose_lambda}
    return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}


def _optimizers(training: Training) -> dict[str, torch.optim.Optimizer]:
    parts = {"model": training.optimizer, "divergence": getattr(training.divergence, "optimizer", None)}
    return {name: part for name, part in parts.items() if part is not None}


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
