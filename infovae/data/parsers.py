"""Strict readers of image files: idx, plain or gzipped, .npz, PNG and JPEG. Whatever they do not take is a `DataError`.

Owns: what is well-formed, and how a user's own images become arrays. Refuses to own: where files are kept, and whether
they hold the right images (only a checksum can tell).
"""

import gzip
import hashlib
import math
import re
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAX_BYTES = 200_000_000
MAX_SIDE = 64
MIN_IMAGES = 20
ROUNDING = 1e-6
"""How far beyond 0 and 1 floats may lie: a scaler's results do."""


class DataError(RuntimeError):
    """Data that cannot be had or is not what it should be: says which, what was expected and what was found."""


class OwnImages(NamedTuple):
    """A user's images as the networks take them.

    Attributes
    ----------
    images : grey values, uint8, (n, height, width); the last `n_test` are a test set of the user's choice.
    labels : classes 0, 1, ..., int64, (n,), or None.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64] | None
    n_test: int

    @property
    def n_classes(self) -> int:
        """The number of classes, 0 without labels."""
        return 0 if self.labels is None else int(self.labels.max()) + 1

    def digest(self) -> str:
        """Return the SHA-256 of images and labels: it depends neither on their format nor on where they lie."""
        content = [f"{self.images.shape} {self.n_test}".encode(), self.images.tobytes()]
        content += [] if self.labels is None else [self.labels.astype("<i8").tobytes()]
        return hashlib.sha256(b"".join(content)).hexdigest()

    def split_sizes(self) -> tuple[int, int, int]:
        """Return how many are for training, validation and testing: 80, 10 and 10 %; a given test set is kept."""
        n_others = len(self.images) - self.n_test
        n_validation, n_test = n_others // 10, self.n_test or n_others // 10
        return len(self.images) - n_validation - n_test, n_validation, n_test


def read_own_images(path: Path) -> OwnImages:
    """Read the images that a path holds, padded with zeros on all sides to multiples of 4 pixels, at least 8.

    The path is one of these:

    - an .npz file with `images`, uint8 or floats from 0 to 1, (n, height, width); perhaps `labels`, (n,), whole numbers
      or names; perhaps `n_test`, a number of images at the end that are for testing;
    - a folder of grey PNG or JPEG pictures, in the order of their names, or of one subfolder of them for each class;
    - a folder of idx files under their usual names, such as train-images-idx3-ubyte.gz, with or without labels.

    A `DataError` says in one line what else was found.
    """
    with _about(path):
        if not path.is_dir():
            images, labels, n_test = _read_npz(path)
        elif idx_files := _find_idx_files(path):
            images, labels, n_test = _read_idx_files(idx_files)
        else:
            images, labels, n_test = _read_pictures(path)
        images = grey_values(images)
        if len(images) < MIN_IMAGES:
            raise DataError(f"expected at least {MIN_IMAGES} images, found {len(images)}")
        if n_test and not 2 <= n_test <= len(images) - MIN_IMAGES:
            raise DataError(f"expected 2 test images or more, and {MIN_IMAGES} others, found {n_test} of {len(images)}")
        return OwnImages(pad(images), None if labels is None else _class_numbers(labels, len(images)), n_test)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into a `DataError` that begins with the path, or the name of a file in a folder."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except Exception as error:  # of zip, npy, gzip, PNG and JPEG: any, for damaged files
        raise DataError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error


def read_idx(path: Path) -> tuple[NDArray[np.uint8], str]:
    """Read an idx file, plain or gzipped; return its array and the SHA-256 of its content, decompressed."""
    with _about(Path(path.name)), path.open("rb") as raw:
        is_gzip = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        stream: BinaryIO | gzip.GzipFile = gzip.GzipFile(fileobj=raw) if is_gzip else raw
        content = stream.read(MAX_BYTES + 1)
        _require_limit(len(content))
        return parse_idx(content), hashlib.sha256(content).hexdigest()


def parse_idx(data: bytes) -> NDArray[np.uint8]:
    """Parse an idx file of unsigned bytes, 0, 0, 8, the number of dimensions, the sizes, the values: a read-only view.

    One to three dimensions, none of them empty; `DataError` for anything but exactly one such array.
    """
    if data[:3] != b"\x00\x00\x08" or data[3:4] not in (b"\1", b"\2", b"\3") or len(data) < (offset := 4 + 4 * data[3]):
        raise DataError(f"idx data: expected 0, 0, 8, the number of dimensions (1 to 3), sizes, found {data[:16]!r}")
    shape = struct.unpack(f">{data[3]}I", data[4:offset])
    expected = offset + math.prod(shape)
    if 0 in shape or len(data) != expected:
        raise DataError(f"idx data: expected {expected} bytes for shape {shape} without zeros, found {len(data)}")
    return np.frombuffer(data, np.uint8, offset=offset).reshape(shape)


def to_idx(array: NDArray[np.uint8]) -> bytes:
    """Write what `parse_idx` reads."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


OTHER_PICTURES = (".bmp", ".gif", ".pgm", ".tif", ".tiff", ".webp")
"""Endings of pictures that are not read: left out without a word they would be missed."""

Read = tuple[NDArray[Any], NDArray[Any] | None, int]
"""Images and labels as they were found, and the number of test images."""


def _require_limit(n_bytes: int) -> None:
    if n_bytes > MAX_BYTES:
        raise DataError(f"expected at most {MAX_BYTES // 10**6} MB, found more")


def _read_npz(path: Path) -> Read:
    _require_limit(path.stat().st_size)
    if not (path.is_file() and zipfile.is_zipfile(path)):
        damaged = "; this one is damaged" if path.suffix == ".npz" else ""
        raise DataError(f"expected an .npz file, or a folder of pictures or of idx files{damaged}")
    with np.load(path, allow_pickle=False) as arrays:
        _require_limit(sum(entry.file_size for entry in arrays.zip.infolist()))
        if "images" not in arrays:
            raise DataError(f"expected an array `images`, found {', '.join(arrays) or 'none'}")
        try:
            found = {name: arrays[name] for name in ("images", "labels", "n_test") if name in arrays}
        except ValueError as error:
            raise DataError(f"expected plain arrays, no Python objects: {error}") from error
    return found["images"], found.get("labels"), int(found.get("n_test", 0))


def _find_idx_files(folder: Path) -> dict[tuple[str, str], Path]:
    """Return (part, kind) -> its idx file; a file and its gzipped copy are one."""
    found: dict[tuple[str, str], Path] = {}
    for file in sorted(folder.iterdir(), reverse=True):
        key = _idx_key(file)
        if key and found.setdefault(key, file).name.removesuffix(".gz") != file.name.removesuffix(".gz"):
            raise DataError(f"expected one set of idx files, found {file.name} and {found[key].name}")
    return found


def _idx_key(path: Path) -> tuple[str, str] | None:
    if path.name.startswith("."):
        return None
    match = re.search(r"(train|t10k|test)\W?(images|labels).*(idx|ubyte)", path.name)
    return ("train" if match[1] == "train" else "test", match[2]) if match else None


def _read_idx_files(paths: dict[tuple[str, str], Path]) -> Read:
    kinds = ["images", "labels"] if ("train", "labels") in paths or ("test", "labels") in paths else ["images"]
    keys = [(part, kind) for kind in kinds for part in ("train", "test")]
    if missing := [" ".join(key) for key in keys if key not in paths]:
        raise DataError(f"idx files are missing: {', '.join(missing)}")
    arrays = [read_idx(paths[key])[0] for key in keys]
    images, labels = arrays[:2], arrays[2:]
    if (
        images[0].ndim != 3
        or images[0].shape[1:] != images[1].shape[1:]
        or (labels and [y.shape for y in labels] != [x.shape[:1] for x in images])
    ):
        raise DataError(f"expected images of one size and a label for each, found shapes {[a.shape for a in arrays]}")
    return np.concatenate(images), np.concatenate(labels) if labels else None, len(images[1])


def _read_pictures(folder: Path) -> Read:
    paths, labels = _pictures_in(folder), None
    subfolders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if any(by_class := [_pictures_in(path) for path in subfolders]):
        if paths:
            raise DataError("expected pictures in it, or in one subfolder for each class, found both")
        if [] in by_class:
            raise DataError(f"{subfolders[by_class.index([])].name}: a class's folder without PNG or JPEG pictures")
        paths = [path for found in by_class for path in found]
        labels = np.repeat(np.arange(len(by_class)), [len(found) for found in by_class])
    if not paths:
        raise DataError("expected PNG or JPEG pictures, perhaps in one subfolder for each class, or idx files")
    _require_limit(sum(path.stat().st_size for path in paths))
    images = [_read_picture(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape != images[0].shape:
            raise DataError(
                f"expected pictures of one size, found {paths[0].name} of {images[0].shape} and {path.name} of "
                f"{image.shape} (height, width)"
            )
    return np.stack(images), labels, 0


def _pictures_in(folder: Path) -> list[Path]:
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    if others := sorted(path.name for path in files if path.suffix.lower() in OTHER_PICTURES):
        raise DataError(f"expected PNG or JPEG pictures, found {others[0]}: convert it, or take it out")
    return sorted(path for path in files if path.suffix.lower() in (".png", ".jpg", ".jpeg"))


def _read_picture(path: Path) -> NDArray[np.uint8]:
    with _about(Path(path.name)), Image.open(path, formats=("PNG", "JPEG")) as picture:
        if max(picture.size) > MAX_SIDE:
            raise DataError(f"expected sides of at most {MAX_SIDE} pixels, found {picture.width} x {picture.height}")
        if picture.mode not in ("1", "L", "P", "RGB") or "transparency" in picture.info:
            raise DataError(f"expected 8-bit grey without transparency, found mode {picture.mode}")
        pixels = np.asarray(picture.convert("RGB"))
        if (pixels != pixels[..., :1]).any():
            raise DataError("expected a grey picture, found colours")
        return pixels[..., 0]


def grey_values(images: NDArray[Any]) -> NDArray[np.uint8]:
    """Return grey images (n, height, width) as uint8; those given are uint8, or bools, or floats from 0 to 1.

    Those of (n, 1, height, width) are taken too.

    A `DataError` says what else was found.
    """
    if images.ndim == 4 and images.shape[1] == 1:  # as PyTorch has grey images
        images = images[:, 0]
    if images.ndim != 3 or not 1 <= min(images.shape[1:]) <= max(images.shape[1:]) <= MAX_SIDE:
        hint = " (colour images are not taken)" if images.ndim == 4 else ""
        raise DataError(
            f"expected grey images, (n, height, width) with sides of 1 to {MAX_SIDE}, found {images.shape}{hint}"
        )
    if not len(images):
        return images.astype(np.uint8)
    if images.dtype == bool:
        return images * np.uint8(255)
    if images.dtype.kind == "f" and -ROUNDING <= images.min() <= images.max() <= 1 + ROUNDING:
        return np.rint(images.clip(0, 1) * 255).astype(np.uint8)
    if images.dtype != np.uint8:
        found = f"{images.dtype} from {images.min()} to {images.max()}" if images.dtype.kind in "biuf" else images.dtype
        raise DataError(f"expected grey values as uint8, or as floats from 0 to 1, found {found}")
    if images.max() == 1:  # 1 of 255 is nearly black
        raise DataError("expected grey values up to 255, found uint8 of 0 and 1 alone: give those as floats or bools")
    return images


def _class_numbers(labels: NDArray[Any], n: int) -> NDArray[np.int64]:
    """Return labels as 0, 1, ... in their own order."""
    if labels.shape != (n,) or labels.dtype.kind not in "iuU" or (labels.dtype.kind == "i" and labels.min() < 0):
        raise DataError(
            f"expected a label for each of {n} images, a whole number from 0 on or a name, found {labels.dtype} of "
            f"shape {labels.shape}"
        )
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def pad(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return images (n, height, width) with zeros on all sides, up to multiples of 4 pixels, at least 8."""
    missing = [max(8, -(-side // 4) * 4) - side for side in images.shape[1:]]
    return np.pad(images, ((0, 0), *((lack // 2, lack - lack // 2) for lack in missing)))
