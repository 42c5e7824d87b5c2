"""A run that was stopped and went on elsewhere is the run that was not stopped, bit for bit."""

from pathlib import Path

import pytest
import torch
from conftest import tiny
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from infovae.config import OBJECTIVES, RunConfig
from infovae.data.datasets import ImageData, load
from infovae.runs import checkpoint, worker
from infovae.runs.store import Store
from infovae.training import Training, train

CPU = torch.device("cpu")


def interrupted(config: RunConfig, data: ImageData, *stops: int) -> Training:
    """Train in pieces, each in a new `Training` that knows of the last one nothing but its bytes."""
    state = None
    for until in (*stops, config.steps):
        run = Training(config, data, CPU)
        if state is not None:
            checkpoint.restore(run, state)
        torch.rand(3)  # what else happens in the process must not matter
        run.advance(until)
        state = checkpoint.to_bytes(run)
    run.model.eval()
    return run


def require_equal(first: Training, second: Training) -> None:
    """Compare everything but the seconds."""
    drop = lambda history: [{k: repr(v) for k, v in row.items() if k != "seconds"} for row in history]  # noqa: E731
    assert drop(first.history) == drop(second.history)
    a, b = first.model.state_dict(), second.model.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_interrupted_run_equals_the_uninterrupted_one(objective: str, digits: ImageData) -> None:
    config = tiny(objective=objective, steps=45)  # 20 steps to an epoch
    require_equal(interrupted(config, digits, 1, 17, 20, 33), train(config, digits, CPU))


DENSE = {"encoder": "dense", "decoder": "dense"}


@pytest.mark.parametrize("changes", [{"decoder": "conv"}, DENSE, {"batch_size": 999}, {"precision": "bfloat16"}])
def test_every_network_goes_on(changes: dict[str, object], digits: ImageData) -> None:
    config = tiny(steps=12, **changes)
    require_equal(interrupted(config, digits, 5), train(config, digits, CPU))


def alter(state: bytes, **parts: Tensor | None) -> bytes:
    """Return a state with parts replaced, added or, for None, left out."""
    tensors = {**load_tensors(state), **parts}
    return save_tensors({name: tensor for name, tensor in tensors.items() if tensor is not None})


UNUSABLE = {
    "nothing": lambda state: b"",
    "truncated": lambda state: state[:-1],
    "a page": lambda state: b"<html></html>",
    "without its place in the data": lambda state: alter(state, order=None),
    "of another generator": lambda state: alter(state, generator=torch.zeros(3, dtype=torch.uint8)),
    "with a part too many": lambda state: alter(state, scheduler=torch.zeros(1)),
    "without progress": lambda state: alter(state, progress=torch.frombuffer(bytearray(b"{}"), dtype=torch.uint8)),
    "with progress that is none": lambda state: alter(state, progress=torch.zeros(3)),
    "of another model": lambda state: checkpoint.to_bytes(Training(tiny(latent_dim=3), load("digits"), CPU)),
    "in another precision": lambda state: save_tensors(
        {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in load_tensors(state).items()}
    ),
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_run_starts_again_where_its_checkpoint_cannot_be_used(
    kind: str, digits: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("INFOVAE_DEVICE", "cpu")
    run = Training(tiny(), digits, CPU)
    run.advance(5)
    state = UNUSABLE[kind](checkpoint.to_bytes(run))
    store = Store(tmp_path)
    store.save_checkpoint("a", 5, state)
    weights, training = worker.train("job", digits, tiny(), state, checkpoint_seconds=60)
    assert "training from the beginning" in caplog.text
    store.drop_checkpoint("a", worker.take("job")["unusable"])
    store.save_checkpoint("a", 3, b"of the run that began again")
    assert store.load_checkpoint("a") == b"of the run that began again"
    whole = train(tiny(), digits, CPU)
    assert [row["loss"] for row in training["history"]] == [row["loss"] for row in whole.history]
    assert all(torch.equal(load_tensors(weights)[name], value) for name, value in whole.model.state_dict().items())


def test_toy_goes_on() -> None:
    toy = {"dataset": "two_points", "encoder": "scalar", "decoder": "scalar", "latent_dim": 1}
    config = tiny(**toy, steps=12)
    data = load("two_points")
    require_equal(interrupted(config, data, 7), train(config, data, CPU))


def test_seconds_add_up(digits: ImageData) -> None:
    run = Training(tiny(), digits, CPU)
    run.advance(5)
    before, state = run.seconds, checkpoint.to_bytes(run)
    run = Training(tiny(), digits, CPU)
    checkpoint.restore(run, state)
    assert run.step == 5 and run.seconds == before
    run.advance(20)
    assert run.seconds > before
