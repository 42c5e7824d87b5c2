"""A run that was stopped and went on elsewhere is the run that was not stopped, bit for bit."""

import pytest
import torch
from conftest import tiny

from infovae import checkpoint
from infovae.config import OBJECTIVES, RunConfig
from infovae.data import ImageData, load
from infovae.training import Trained, Training, train

CPU = torch.device("cpu")


def interrupted(config: RunConfig, data: ImageData, *stops: int) -> Trained:
    """Train in pieces, each in a new `Training` that knows of the last one nothing but its bytes."""
    state = None
    for until in (*stops, config.steps):
        run = Training(config, data, CPU)
        if state is not None:
            checkpoint.restore(run, state)
        torch.rand(3)  # what else happens in the process must not matter
        run.advance(until)
        state = checkpoint.to_bytes(run)
    return Trained(run.model.eval(), run.history, run.seconds)


def require_equal(first: Trained, second: Trained) -> None:
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
