"""Folders are where the user says, and no reader sees half a file."""

import json
import os
import threading
from pathlib import Path

import pytest

from infovae.paths import WriteError, project_path, write_atomically
from infovae.refusals import ParameterError


def test_nothing_is_written_beside_a_package_outside_its_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infovae.paths.PROJECT_ROOT", tmp_path)
    monkeypatch.delenv("INFOVAE_STORE", raising=False)
    with pytest.raises(ParameterError, match="set INFOVAE_STORE to a folder"):
        project_path("INFOVAE_STORE", ".infovae")
    monkeypatch.setenv("INFOVAE_STORE", "kept")
    assert project_path("INFOVAE_STORE", ".infovae") == Path.cwd() / "kept"


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    contents = [json.dumps([n] * 20_000).encode() for n in range(2)]
    write_atomically(path, contents[0])
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                write_atomically(path, content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(200):
            assert path.read_bytes() in contents
    finally:
        stop.set()
        writer.join()
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_files_have_the_mode_that_the_umask_says(tmp_path: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            write_atomically(tmp_path / "file", b"")
        finally:
            os.umask(before)
        assert (tmp_path / "file").stat().st_mode & 0o777 == mode


def test_what_cannot_be_written_is_a_clear_error_and_keeps_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match="No space left on device"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
