"""Untrusted bytes to arrays: readers of idx, gzip, tar, zip and pickle data.

Owns: what is well-formed, and `DataError` for whatever is not. The readers run no code found in the data, write nothing
to disk, and allocate no more than a given limit or what the data themselves occupy. Refuses to own: where bytes come
from, what the files are called, and whether they hold the right images (only a checksum can tell).
"""

import io
import math
import pickle
import pickletools
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


class DataError(RuntimeError):
    """Data that cannot be had or is not what it should be: says which, what was expected and what was found."""


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


def to_idx(array: NDArray[np.uint8]) -> bytes:
    """Write what `parse_idx` reads."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def gunzip(data: bytes, limit: int) -> bytes:
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


def read_tar(data: bytes, members: Sequence[str]) -> dict[str, bytes]:
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


def read_zip(data: bytes, member: str, limit: int) -> bytes:
    """Return the named file of a zip archive, of at most `limit` bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive, archive.open(member) as stream:
            # Only these two are decompressed no further than asked for.
            if archive.getinfo(member).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"zip archive: {member}: expected to be stored or deflated, found another method")
            content = stream.read(limit + 1)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"zip archive: {member}: {type(error).__name__}: {error}") from error
    if len(content) > limit:
        raise DataError(f"zip archive: {member}: expected at most {limit} bytes, found more")
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


def idx_from_pickle(data: bytes) -> list[bytes]:
    """Turn three pickled pairs (images as grey value / 256 in float32, labels) back into four idx files.

    They are the training images, their labels, the test images, their labels; the first two pairs are the training
    images. Only the checksum can tell that the result is right.
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
    return [to_idx(part) for part in parts]


def _to_grey_values(images: NDArray[Any]) -> NDArray[np.uint8]:
    values = np.rint(images * 256)
    # Written so that NaN fails too.
    if not (values.min() >= 0 and values.max() <= 255):
        raise DataError(f"pickle: expected pixels of 0 to 255 / 256, found {images.min()} to {images.max()}")
    side = math.isqrt(images.shape[-1])
    return values.astype(np.uint8).reshape(len(images), side, side)
