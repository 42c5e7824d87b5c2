"""The harness of `make bench` on fake measurements, and rows that say what they should come to."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from infovae import bench
from infovae.bench import Measured, Row, measure, rows
from infovae.config import RunConfig
from infovae.model import build_model


def scripted(*values: float, log: list[str] | None = None, name: str = "") -> Callable[[], float]:
    """A measurement that reads the given values one after the other."""
    left = list(values)

    def once() -> float:
        if log is not None:
            log.append(name)
        return left.pop(0)

    return once


def fake(unit: str, ours: list[float], theirs: list[float] | None, **fields: object) -> Row:
    """A row of the given measurements; a first one of each is put before where it does not count."""
    columns = [[math.inf, *values] if len(ours) > 1 else values for values in (ours, theirs) if values]
    values = {"peer": "a peer" if theirs else "", "repeats": len(ours), **fields}
    return Row("fake", unit, lambda: [scripted(*column) for column in columns], **values)  # type: ignore[arg-type]


def test_ours_and_theirs_take_turns_after_a_warm_up() -> None:
    log: list[str] = []
    ours, theirs = scripted(9, 1, 2, log=log, name="ours"), scripted(9, 1, 2, log=log, name="theirs")
    measured = measure(Row("fake", "s", lambda: [ours, theirs], "a peer", repeats=2))
    assert log == ["ours", "theirs"] * 3
    assert (measured.ours, measured.theirs) == (1.5, 1.5)  # the warm-up's 9 is not among them


@pytest.mark.parametrize(
    ("unit", "ours", "theirs"), [("s", [1, 2, 4], [3, 4, 16]), ("images/s", [3, 4, 16], [1, 2, 4])]
)
def test_ratio_is_of_pairs_and_above_1_where_ours_is_better(unit: str, ours: list[float], theirs: list[float]) -> None:
    measured = measure(fake(unit, ours, theirs))
    assert (measured.ratio, measured.ratio_min, measured.ratio_max) == (3, 2, 4)
    assert {measured.ours, measured.theirs} == {2, 4}


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(3.0, "aim met"), (2.99, "floor met"), (2.0, "floor met"), (1.99, "missed")]
)
def test_verdict_on_a_ratio(ratio: float, verdict: str) -> None:
    assert measure(fake("images/s", [ratio], [1.0], aim=3, floor=2)).verdict == verdict
    assert measure(fake("s", [1.0], [ratio], aim=3, floor=2)).verdict == verdict


def test_verdict_on_our_own_value() -> None:
    assert measure(fake("s", [1.5], None, floor=1.5)).verdict == "floor met"
    assert measure(fake("s", [1.6], None, floor=1.5)).verdict == "missed"
    assert measure(fake("share", [0.89], None, floor=0.9)).verdict == "missed"
    assert measure(fake("share", [0.9], None, floor=0.9)).verdict == "floor met"
    assert measure(fake("s", [1.6], None)).verdict == ""
    assert measure(fake("GFLOP/s", [49], [100], aim=0.5)).verdict == "below the aim"
    assert math.isnan(measure(fake("s", [1.6], None)).ratio)


def test_rows_are_named_once_and_bounded_sensibly() -> None:
    every = rows.make_rows()
    assert len({row.name for row in every}) == len(every)
    for row in every:
        assert row.repeats >= 1
        assert row.unit in (*bench.RATES, "s", "ms", "MB"), row.name
        assert row.aim is None or row.peer, row.name
        assert row.aim is None or row.floor is None or row.aim > row.floor > 1, row.name
        assert not (row.peer and row.floor) or row.note, f"{row.name} may miss its floor without a word"
    for parameter, values in rows.GROWTH.items():
        varied = [row.varied for row in every if row.varied and row.varied[0] == parameter]
        assert varied == [(parameter, value) for value in values]
        for value in values:
            RunConfig.model_validate({"objective": "mmd_annealed", parameter: value})


def test_run_writes_table_and_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [
        fake("images/s", [3.0], [1.0], aim=3, floor=2),
        fake("s", [1.0], None, floor=2),
        *(fake("ms", [value], None, varied=("latent_dim", value)) for value in (2, 10)),
    ]
    monkeypatch.setenv("INFOVAE_DEVICE", "cpu")
    monkeypatch.setattr(rows, "make_rows", lambda: few)
    monkeypatch.setattr(rows, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(bench, "describe_machine", lambda: "a machine")
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: name)
    bench.run(tmp_path, only="nothing of this name")
    assert not list(tmp_path.iterdir())
    bench.run(tmp_path)
    lines = (tmp_path / "bench.csv").read_text().splitlines()
    assert lines[0].startswith("name,ours,theirs,ratio,ratio_min,ratio_max,unit,aim,floor,verdict,parameter,value,")
    assert lines[1] == "fake,3,1,3,3,3,images/s,3,2,aim met,,,a peer,,a machine"
    assert lines[4] == "fake,10,,,,,ms,,,,latent_dim,10,,,a machine"
    assert (tmp_path / "bench.png").stat().st_size > 5_000


def test_without_the_peers_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RuntimeError, match="make bench"):
        bench.run(tmp_path)


def test_arithmetic_of_an_image_is_that_of_its_layers() -> None:
    first, second = 14 * 14 * 32 * 16, 7 * 7 * 64 * 32 * 16  # multiplications of the encoder's convolutions
    linear = 7 * 7 * 64 * 20, 10 * 7 * 7 * 64
    forward = 2 * (2 * (first + second) + sum(linear))  # the decoder mirrors the encoder; a multiplication and a sum
    # backward: for the weights and for the input of each layer; images need no gradient
    assert rows.flops_per_image(rows.conv_config()) == 3 * forward - 2 * first


def test_pixels_of_the_naive_sampler_are_those_of_the_cached_one() -> None:
    decoder, z = rows.decoder_and_codes(2)
    uniforms = torch.rand(2, 1, 8, 8)
    assert torch.equal(rows.sample_naively(decoder, z, uniforms, 64), decoder.sample(z, uniforms))


def test_rows_seen_by_a_pixelcnn() -> None:
    decoder = build_model(RunConfig(latent_dim=1), (28, 28)).decoder
    assert rows.rows_seen(lambda x: decoder(x, torch.zeros(1, 1))) == RunConfig().receptive_radius


def test_peak_memory_is_at_least_what_was_touched() -> None:
    before = rows.peak_memory_mb()
    if math.isnan(before):
        pytest.skip("this system does not tell the peak memory of a process")
    held = torch.ones(100_000_000 // 4)
    assert rows.peak_memory_mb() >= 100 and held[0] == 1


def test_a_line_shows_value_ratio_and_verdict_and_why_it_falls_short() -> None:
    row = Row("a name", "s", list, "a peer", 3, 2, "the limit")
    line = bench.to_text(Measured(row, 2.0, 5.0, 2.5, 2.4, 2.6))
    assert line.split() == ["a", "name", "2", "s", "|", "5", "2.50x", "(2.40", "to", "2.60)", "floor", "met"]
    assert bench.to_text(Measured(row, 2.0, 3.0, 1.5, 1.4, 1.6)).endswith("missed\n    the limit")


def test_the_first_notebook_of_a_reproduction_is_read_off_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\nmkdir "$INFOVAE_STORE" || exit 0  # the second time it is warm\n'
        "echo 'a bar\r01: notebook.ipynb (after 0 s)' >&2; sleep 1; echo '02: notebook.ipynb (after 1 s)' >&2\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(rows.sys, "executable", str(python))
    rows.reproduce_smoke.cache_clear()
    first, warm = rows.reproduce_smoke()
    rows.reproduce_smoke.cache_clear()
    assert 0 < first < 1
    assert warm > 0
