"""The readers of foreign bytes: the well-formed is read exactly, all else is a DataError, nothing is executed."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from infovae import parsers
from infovae.parsers import DataError, gunzip, idx_from_pickle, parse_idx, read_tar, read_zip, to_idx

fuzz = settings(max_examples=150, deadline=None, derandomize=True)


@st.composite
def damaged(draw: st.DrawFn, original: bytes) -> bytes:
    """A well-formed original with up to three stretches overwritten, removed or inserted."""
    content = original
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(content)))
        removed = draw(st.sampled_from([0, 1, 2, 4, len(content)]))
        content = content[:start] + draw(st.binary(max_size=8)) + content[start + removed :]
    return content


def only_data_error(read: Callable[[bytes], Any], content: bytes) -> None:
    try:
        read(content)
    except DataError as error:
        assert 0 < len(str(error)) < 1000


# idx


@given(st.lists(st.integers(1, 5), min_size=1, max_size=3), st.data())
@fuzz
def test_idx_is_the_inverse_of_writing(shape: list[int], draws: st.DataObject) -> None:
    size = int(np.prod(shape))
    array = np.frombuffer(draws.draw(st.binary(min_size=size, max_size=size)), np.uint8).reshape(shape)
    header = bytes([0, 0, 8, len(shape)]) + b"".join(length.to_bytes(4, "big") for length in shape)
    parsed = parse_idx(header + array.tobytes())
    assert parsed.dtype == np.uint8 and np.array_equal(parsed, array)
    assert to_idx(array) == header + array.tobytes()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\0\0\x08",
        b"\0\0\x08\0",
        b"\0\0\x08\1",
        b"\0\0\x08\1\0\0\0",
        b"\0\0\x08\1\0\0\0\0",
        b"\0\0\x08\1\0\0\0\3ab",
        b"\0\0\x08\1\0\0\0\3abcd",
        b"\0\0\x0d\1\0\0\0\4abcd",
        b"\1\0\x08\1\0\0\0\4abcd",
        b"\0\1\x08\1\0\0\0\4abcd",
        b"\0\0\x08\4" + struct.pack(">4I", 1, 1, 1, 1) + b"a",
        b"\0\0\x08\xff" + struct.pack(">255I", *[1] * 255) + b"a",
        b"\0\0\x08\3" + b"\xff" * 12 + b"abc",
        b"\0\0\x08\3" + struct.pack(">3I", 0, 2**32 - 1, 2**32 - 1),
        # 65536 * 65536 is 0 in 32 bits.
        b"\0\0\x08\2" + struct.pack(">2I", 65536, 65536),
        b"<html></html>",
    ],
)
def test_malformed_idx(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^idx data: expected .* found "):
        parse_idx(content)


@given(st.binary(max_size=40) | st.binary(max_size=40).map(b"\0\0\x08".__add__))
@fuzz
def test_any_bytes_are_idx_or_a_data_error(content: bytes) -> None:
    only_data_error(parse_idx, content)


def test_claimed_size_is_not_allocated() -> None:
    tracemalloc.start()
    with pytest.raises(DataError):
        parse_idx(b"\0\0\x08\3" + struct.pack(">3I", 60_000, 2800, 2800) + bytes(100))
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


# gzip


def test_gzip() -> None:
    content = bytes(range(256)) * 10
    assert gunzip(gzip.compress(content), len(content)) == content
    for bad, reason in [
        (gzip.compress(content)[:-1], "truncated"),
        (gzip.compress(content)[:20], "truncated"),
        (gzip.compress(content) + b"more", "followed by 4 bytes"),
        (content, "incorrect header"),
        (b"", "truncated"),
        (gzip.compress(content)[:-8] + bytes(8), "incorrect data check"),
    ]:
        with pytest.raises(DataError, match=reason):
            gunzip(bad, 10_000)
    with pytest.raises(DataError, match="expected at most 2559 bytes"):
        gunzip(gzip.compress(content), len(content) - 1)


def test_gzip_bomb_is_not_inflated() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(DataError, match="expected at most 1000000 bytes of content, found more"):
        gunzip(bomb, 1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@given(st.binary(max_size=30) | damaged(gzip.compress(b"some content" * 5, mtime=0)))
@fuzz
def test_any_bytes_are_gzip_or_a_data_error(content: bytes) -> None:
    only_data_error(lambda raw: gunzip(raw, 1000), content)


# tar


def make_tar(*members: tuple[tarfile.TarInfo | str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for member, content in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def linked(name: str, kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def test_tar_members_are_read_by_exact_name_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    archive = make_tar(("../escape", b"x"), ("/tmp-escape", b"x"), ("wanted", b"content"), ("sub/wanted", b"other"))
    assert read_tar(archive, ["wanted"]) == {"wanted": b"content"}
    assert not list(tmp_path.iterdir()) and not (tmp_path.parent / "escape").exists()
    with pytest.raises(DataError, match="missing absent"):
        read_tar(archive, ["wanted", "absent"])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_only_regular_members_are_read(kind: bytes) -> None:
    archive = make_tar(("other", b"secret"), (linked("wanted", kind, "other"), b""))
    with pytest.raises(DataError, match="expected one regular file wanted"):
        read_tar(archive, ["wanted"])


def test_member_given_twice_is_refused() -> None:
    with pytest.raises(DataError, match="expected one regular file wanted"):
        read_tar(make_tar(("wanted", b"one"), ("wanted", b"two")), ["wanted"])


def test_claimed_sizes_are_not_believed() -> None:
    header = tarfile.TarInfo("wanted")
    header.size = 2**45
    with pytest.raises(DataError):
        read_tar(header.tobuf() + bytes(2048), ["wanted"])
    sparse = tarfile.TarInfo("wanted")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(2**45)}
    with pytest.raises(DataError, match="expected one regular file wanted"):
        read_tar(make_tar((sparse, b"0\n" + bytes(510)), format=tarfile.PAX_FORMAT), ["wanted"])


@pytest.mark.timeout(20)
def test_member_that_points_back_to_itself_does_not_loop() -> None:
    header = tarfile.TarInfo("back")
    header.size = -512
    archive = tarfile.TarInfo("first").tobuf() + header.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    with pytest.raises(DataError):
        read_tar(archive, ["wanted"])


@given(st.binary(max_size=1100) | damaged(make_tar(("wanted", b"content"), ("n" * 150, b"long name"))[:4096]))
@fuzz
def test_any_bytes_are_tar_or_a_data_error(content: bytes) -> None:
    only_data_error(lambda raw: read_tar(raw, ["wanted"]), content)


# zip


def make_zip(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def test_zip() -> None:
    assert read_zip(make_zip("a/b", b"content"), "a/b", 7) == b"content"
    with pytest.raises(DataError, match="expected at most 6 bytes, found more"):
        read_zip(make_zip("a/b", b"content"), "a/b", 6)
    with pytest.raises(DataError, match="a/c"):
        read_zip(make_zip("a/b", b"content"), "a/c", 7)
    with pytest.raises(DataError, match="another method"):
        read_zip(make_zip("a/b", b"content", zipfile.ZIP_BZIP2), "a/b", 7)


def test_zip_bomb_is_not_inflated() -> None:
    bomb = make_zip("a/b", bytes(20_000_000))
    tracemalloc.start()
    with pytest.raises(DataError, match="expected at most 1000000 bytes, found more"):
        read_zip(bomb, "a/b", 1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


@given(st.binary(max_size=60) | damaged(make_zip("wanted", b"content" * 9)))
@fuzz
def test_any_bytes_are_zip_or_a_data_error(content: bytes) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        only_data_error(lambda raw: read_zip(raw, "wanted", 1000), content)


# pickle


def string(content: bytes) -> bytes:
    return pickle.BINSTRING + struct.pack("<i", len(content)) + content


def integer(value: int) -> bytes:
    return pickle.BININT + struct.pack("<i", value)


def name(module: str, attribute: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


def pickled_array(values: bytes, shape: bytes, code: bytes) -> bytes:
    """An array as NumPy under Python 2 wrote it in protocol 2; `shape` is itself a pickled tuple."""
    new = name("numpy.core.multiarray", "_reconstruct") + name("numpy", "ndarray")
    new += integer(0) + pickle.TUPLE1 + string(b"b") + pickle.TUPLE3 + pickle.REDUCE
    dtype = name("numpy", "dtype") + string(code) + integer(0) + integer(1) + pickle.TUPLE3 + pickle.REDUCE
    dtype += pickle.MARK + integer(3) + string(b"<") + pickle.NONE * 3 + integer(-1) * 2 + integer(0)
    dtype += pickle.TUPLE + pickle.BUILD
    return (
        new + pickle.MARK + integer(1) + shape + dtype + pickle.NEWFALSE + string(values) + pickle.TUPLE + pickle.BUILD
    )


def pickled(content: bytes) -> bytes:
    return pickle.PROTO + b"\2" + content + pickle.STOP


def shape_of(array: NDArray[Any]) -> bytes:
    return b"".join(integer(size) for size in array.shape) + {1: pickle.TUPLE1, 2: pickle.TUPLE2}[array.ndim]


def pickled_pairs(pairs: Sequence[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> bytes:
    content = b""
    for images, labels in pairs:
        x = images.reshape(len(images), -1).astype("<f4") / np.float32(256)
        y = labels.astype("<i8")
        content += pickled_array(x.tobytes(), shape_of(x), b"f4") + pickled_array(y.tobytes(), shape_of(y), b"i8")
        content += pickle.TUPLE2
    return pickled(content + pickle.TUPLE3)


def make_pairs() -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    rng = np.random.default_rng(0)
    return [(rng.integers(0, 256, (n, 3, 3), np.uint8), rng.integers(0, 10, n).astype(np.uint8)) for n in (5, 3, 2)]


def test_pickled_images_come_back_as_the_idx_files_that_they_were() -> None:
    pairs = make_pairs()
    train, labels, test, test_labels = (parse_idx(content) for content in idx_from_pickle(pickled_pairs(pairs)))
    assert np.array_equal(train, np.concatenate([pairs[0][0], pairs[1][0]]))
    assert np.array_equal(labels, np.concatenate([pairs[0][1], pairs[1][1]]))
    assert np.array_equal(test, pairs[2][0]) and np.array_equal(test_labels, pairs[2][1])


def test_the_stand_ins_read_what_numpy_reads() -> None:
    content = pickled_pairs(make_pairs())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        expected = pickle.loads(content, encoding="latin1")
    found: Any = parsers._unpickle_arrays(content)
    for (x, y), (x_expected, y_expected) in zip(found, expected, strict=True):
        for array, array_expected in ((x.array, x_expected), (y.array, y_expected)):
            assert array.dtype == array_expected.dtype and np.array_equal(array, array_expected)


def test_hostile_pickle_is_not_executed(tmp_path: Path) -> None:
    target = os.fsencode(tmp_path / "made-by-pickle")
    for module in ("os", "posix"):
        hostile = pickled(name(module, "mkdir") + string(target) + pickle.TUPLE1 + pickle.REDUCE)
        with pytest.raises(DataError, match=f"expected NumPy arrays and nothing else, found {module}.mkdir"):
            idx_from_pickle(hostile)
        assert not Path(os.fsdecode(target)).exists()
    # The same bytes are dangerous to a reader that admits everything.
    pickle.loads(hostile, encoding="bytes")
    assert Path(os.fsdecode(target)).exists()


class MakesFolder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_protocol_executes_anything(tmp_path: Path, protocol: int) -> None:
    with pytest.raises(DataError):
        idx_from_pickle(pickle.dumps(MakesFolder(tmp_path / "made"), protocol))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "attribute", ["load", "fromfile", "memmap", "ndarray.__new__", "core.multiarray._reconstruct", "lib.npyio.load"]
)
def test_other_names_of_numpy_are_not_admitted(attribute: str) -> None:
    with pytest.raises(DataError, match="expected NumPy arrays and nothing else"):
        parsers._unpickle_arrays(pickled(name("numpy", attribute)))


def doubling(first_slot: int) -> bytes:
    """A tuple whose printed form, comparison or hash takes 2^60 steps, in a few hundred bytes."""
    slots = range(first_slot, first_slot + 60)
    steps = (pickle.BINPUT + bytes([i]) + pickle.BINGET + bytes([i]) + pickle.TUPLE2 for i in slots)
    return integer(1) + pickle.TUPLE1 + b"".join(steps)


ONE = struct.pack("<f", 0.5)


@pytest.mark.parametrize(
    "content",
    [
        pickle.NONE + pickle.LONG_BINPUT + b"\xff\xff\xff\x7f",
        pickle.BYTEARRAY8 + struct.pack("<q", 2**45),
        pickle.BINBYTES8 + struct.pack("<q", 2**45),
        pickle.LONG4 + struct.pack("<i", 2**31 - 1),
        pickle.BINSTRING + struct.pack("<i", 2**31 - 1),
        pickle.BINSTRING + struct.pack("<i", -1),
        pickled_array(ONE, integer(2**31 - 1) * 2 + pickle.TUPLE2, b"f4"),
        pickled_array(ONE, integer(-1) * 2 + pickle.TUPLE2, b"f4"),
        pickled_array(ONE, integer(-1) + pickle.TUPLE1, b"f4"),
        pickled_array(b"", integer(0) + pickle.TUPLE1, b"f4"),
        pickled_array(ONE, pickle.MARK + integer(1) * 40 + pickle.TUPLE, b"f4"),
        pickled_array(ONE, pickle.MARK + pickle.TUPLE, b"f4"),
        pickled_array(ONE, doubling(0) + doubling(100) + pickle.TUPLE2, b"f4"),
        pickled_array(ONE, integer(1), b"f4"),
        pickled_array(ONE * 2, integer(1) + pickle.TUPLE1, b"O8"),
        pickled_array(ONE * 2, integer(1) + pickle.TUPLE1, b"f8"),
        pickled_array(ONE[:3], integer(1) + pickle.TUPLE1, b"f4"),
        name("numpy", "dtype") + doubling(0) + pickle.TUPLE1 + pickle.REDUCE,
        name("numpy.core.multiarray", "_reconstruct") + pickle.NONE + pickle.TUPLE1 + pickle.REDUCE,
        name("numpy.core.multiarray", "_reconstruct") + doubling(0) + pickle.BUILD,
        name("numpy", "ndarray") + integer(9) + pickle.TUPLE1 + pickle.REDUCE,
        doubling(0),
        pickle.NONE,
        b"",
        pickle.MARK * 100_000 + pickle.NONE,
        pickle.BINGET + b"\7",
    ],
)
def test_forged_pickle_costs_neither_memory_nor_time(content: bytes) -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match=r"^pickle: ") as error:
        idx_from_pickle(pickled(content))
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()
    assert len(str(error.value)) < 500


def test_forged_pickle_leaves_the_reader_as_it_was() -> None:
    new = name("numpy.core.multiarray", "_reconstruct")
    for state in (pickle.NONE, string(b"__setstate__") * 2 + pickle.TUPLE2):
        with pytest.raises(DataError):
            idx_from_pickle(pickled(new + state + pickle.BUILD))
    assert len(idx_from_pickle(pickled_pairs(make_pairs()))) == 4


@pytest.mark.parametrize("value", [-1 / 256, 1.0, np.nan, np.inf, -np.inf, 3e38])
def test_pixels_that_are_no_grey_values_are_refused(value: float) -> None:
    x, y = np.full((2, 4), value, "<f4"), np.zeros(2, "<i8")
    pair = pickled_array(x.tobytes(), shape_of(x), b"f4") + pickled_array(y.tobytes(), shape_of(y), b"i8")
    with pytest.raises(DataError, match="expected pixels of 0 to 255 / 256"):
        idx_from_pickle(pickled((pair + pickle.TUPLE2) * 3 + pickle.TUPLE3))


@pytest.mark.filterwarnings("ignore:invalid escape sequence:DeprecationWarning")
@given(st.binary(max_size=60).map(pickled) | damaged(pickled_pairs(make_pairs())))
@settings(fuzz, max_examples=400)
def test_any_bytes_are_pickled_arrays_or_a_data_error(content: bytes) -> None:
    only_data_error(idx_from_pickle, content)
