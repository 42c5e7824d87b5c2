"""Image data sets as uint8 tensors, and their binarisation.

Owns: the split into training, validation and test images, the Bernoulli draw that turns grey values into binary
images, and batches. Refuses to own: how files are fetched and parsed, devices, and how many training images a run uses
(a slice of `train_images`: they are shuffled, so that the training set of size m is contained in that of size n > m).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from infovae.data import sources

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
        Classes 0, 1, ..., int64, shape (n,); -1 throughout for images without labels.
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

    @property
    def n_classes(self) -> int:
        """The number of classes, 0 without labels."""
        return 1 + int(max(labels.max() for labels in (self.train_labels, self.validation_labels, self.test_labels)))


def load(name: str) -> ImageData:
    """Load a data set by its name, or a user's own images by their path or the name that `sources.adopt` gave them.

    "digits" (embedded in scikit-learn) and "two_points" need no source. For the others see `sources.find_files`, for
    own images `parsers.read_own_images`. Threads and processes may load at once: each gets tensors of its own, and sees
    a cached file whole or not at all.

    Raises
    ------
    ValueError
        If `name` is neither a known name nor a path, or the path holds no images that can be used.
    DataError
        If no source delivers the files, or the user's folder does not.
    """
    name = sources.dataset_name(name)
    if name == "digits":
        return _load_digits()
    if name == "two_points":
        return _make_two_points()
    if sources.is_adopted(name):
        return _load_own_images(name)
    files, source = sources.find_files(name)
    train, train_labels, test, test_labels = (files[file] for file in sources.IDX_FILES)
    images, labels = np.concatenate([train, test]), np.concatenate([train_labels, test_labels])
    identity = [*sources.DIGESTS[name].values(), str(_N_VALIDATION)]
    return _split(name, images, labels, len(test), (len(train) - _N_VALIDATION, _N_VALIDATION), identity, source)


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


def observe(images: Tensor, binarization: str, generator: torch.Generator) -> Tensor:
    """Return images as a model sees them, float32, (n, 1, H, W): grey in [0, 1] for "none", else drawn by `binarize`.

    For "static" training images are already what `static_binarization` returns.
    """
    if binarization == "none":
        _require_grey_values(images)
        return images.to(torch.float32).unsqueeze(1) / 255
    return binarize(images, generator)


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
    x = binarize(images.cpu(), torch.Generator().manual_seed(seed)).squeeze(1)
    return (x.to(torch.uint8) * 255).to(images.device)


class Batches:
    """Batches of images, or of their numbers, without end, each epoch in a fresh order, without leaving the device.

    Images that do not fill a batch are left out of that epoch.
    """

    def __init__(self, images: Tensor, batch_size: int, generator: torch.Generator) -> None:
        self.images, self.generator = images, generator
        self.size = min(batch_size, len(images))
        self.order, self.first = torch.empty(0, dtype=torch.long, device=images.device), len(images)

    def draw(self) -> Tensor:
        """Return the next batch, (size, ...)."""
        n = len(self.images)
        if self.first + self.size > n:
            self.order, self.first = torch.randperm(n, generator=self.generator, device=self.images.device), 0
        self.first += self.size
        return self.images[self.order[self.first - self.size : self.first]]


def _require_grey_values(images: Tensor) -> None:
    if images.dtype != torch.uint8 or images.ndim != 3:
        found = f"{images.dtype} of shape {tuple(images.shape)}"
        raise ValueError(f"images must be grey values, torch.uint8 of shape (n, height, width), got {found}")


def _split(
    name: str,
    images: NDArray[np.uint8],
    labels: NDArray[Any],
    n_test: int,
    sizes: tuple[int, int],
    identity: Sequence[str],
    source: str,
) -> ImageData:
    """Shuffle the last `n_test` images and those before; cut `sizes`, training and validation, off the beginning."""
    order = _fixed_permutation(len(images) - n_test)
    order = np.concatenate([order, len(order) + _fixed_permutation(n_test)])
    parts = np.split(order, [sizes[0], sum(sizes)])
    return _image_data(name, [(images[part], labels[part]) for part in parts], identity, source)


def _image_data(
    name: str, parts: Iterable[tuple[NDArray[Any], NDArray[Any]]], identity: Sequence[str], source: str
) -> ImageData:
    train, validation, test = (
        (torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))) for images, labels in parts
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
    return _split("digits", images, labels, 0, (1000, 300), [content], "digits embedded in scikit-learn")


def _load_own_images(name: str) -> ImageData:
    own = sources.read_adopted(name)
    labels = np.full(len(own.images), -1) if own.labels is None else own.labels
    return _split(name, own.images, labels, own.n_test, own.split_sizes()[:2], [own.digest()], "your own images")


def _make_two_points() -> ImageData:
    """Return the toy {-1, +1} as images of one pixel, 0 or 255, which `binarize` leaves as they are.

    Each part holds as many of one as of the other: the data's distribution is known exactly.
    """
    labels = [(_fixed_permutation(n) % 2).astype("<i8") for n in (1000, 500, 200)]
    parts = [((255 * y).astype(np.uint8).reshape(-1, 1, 1), y) for y in labels]
    content = hashlib.sha256(b"".join(y.tobytes() for y in labels)).hexdigest()
    return _image_data("two_points", parts, [content], "two points, made by this package")
