"""The readers of image files: the well-formed is read exactly, all else is a DataError of one line."""

import gzip
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from infovae.data import parsers
from infovae.data.parsers import DataError, OwnImages, parse_idx, read_idx, read_own_images, to_idx

fuzz = settings(max_examples=100, deadline=None, derandomize=True)
RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (30, 9, 12), np.uint8)
LABELS = np.arange(30) % 3


def npz(folder: Path, name: str = "mine.npz", **arrays: Any) -> Path:
    np.savez(folder / name, **arrays)
    return folder / name


def picture(path: Path, pixels: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path)


def pictures(folder: Path, images: np.ndarray = GREY, suffix: str = ".png", labels: Any = None) -> Path:
    for i, image in enumerate(images):
        picture(folder / (str(labels[i]) if labels is not None else "") / f"{i:03d}{suffix}", image)
    return folder


def idx(folder: Path, arrays: dict[str, np.ndarray]) -> Path:
    for name, array in arrays.items():
        content = to_idx(array.astype(np.uint8))
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


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
        b"\0\0\x08",
        b"\0\0\x08\0",
        b"\0\0\x08\1",
        b"\0\0\x08\1\0\0\0",
        b"\0\0\x08\1\0\0\0\0",
        b"\0\0\x08\1\0\0\0\3ab",
        b"\0\0\x08\1\0\0\0\3abcd",
        b"\0\0\x0d\1\0\0\0\4abcd",
        b"\0\1\x08\1\0\0\0\4abcd",
        b"\0\0\x08\4" + struct.pack(">4I", 1, 1, 1, 1) + b"a",
        b"\0\0\x08\3" + b"\xff" * 12 + b"abc",
        b"\0\0\x08\2" + struct.pack(">2I", 65536, 65536),  # 0 in 32 bits
        b"<html></html>",
    ],
)
def test_malformed_idx(content: bytes) -> None:
    with pytest.raises(DataError, match=r"^idx data: expected .* found "):
        parse_idx(content)


@given(st.binary(max_size=40) | st.binary(max_size=40).map(b"\0\0\x08".__add__))
@fuzz
def test_any_bytes_are_idx_or_a_data_error(content: bytes) -> None:
    try:
        parse_idx(content)
    except DataError as error:
        assert len(str(error)) < 200


def test_gzipped_file_is_read_and_a_damaged_or_endless_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = gzip.compress(to_idx(GREY))
    path = tmp_path / "some.gz"
    path.write_bytes(content)
    assert np.array_equal(read_idx(path)[0], GREY)
    for bad in (content[:-9], content[:-8] + b"abcd" + content[-4:], content[:50]):
        path.write_bytes(bad)
        with pytest.raises(DataError, match=r"^some.gz: cannot be read: "):
            read_idx(path)
    monkeypatch.setattr(parsers, "MAX_BYTES", 1_000_000)
    path.write_bytes(gzip.compress(bytes(1_000_001)))
    with pytest.raises(DataError, match="expected at most 1 MB, found more"):
        read_idx(path)


# A user's own images


def padded(images: np.ndarray) -> np.ndarray:
    return np.pad(images, ((0, 0), (1, 2), (0, 0)))  # 9 rows become 12, 12 columns stay


FORMATS: dict[str, Callable[[Path], Path]] = {
    "npz": lambda folder: npz(folder, images=GREY, labels=LABELS),
    "npz of floats, classes by name": lambda folder: npz(
        folder, images=(GREY / 255).astype(np.float32), labels=np.array(["ant", "bee", "cat"])[LABELS]
    ),
    "class folders": lambda folder: pictures(folder, labels=np.array(["ant", "bee", "cat"])[LABELS]),
    "idx": lambda folder: idx(
        folder,
        {"train-images-idx3-ubyte": GREY[:25], "train-labels.idx1-ubyte.gz": LABELS[:25],
         "t10k-images.idx3-ubyte.gz": GREY[25:], "t10k-labels-idx1-ubyte": LABELS[25:]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_read_exactly(name: str, tmp_path: Path) -> None:
    own = read_own_images(FORMATS[name](tmp_path))
    order = np.argsort(LABELS, kind="stable") if name == "class folders" else np.arange(30)
    assert own.images.dtype == np.uint8 and np.array_equal(own.images, padded(GREY)[order])
    assert own.labels is not None and own.labels.dtype == np.int64 and np.array_equal(own.labels, LABELS[order])
    assert own.n_classes == 3 and own.n_test == (5 if name == "idx" else 0)


def test_zeros_and_ones_are_bools_or_floats_and_no_grey_values(tmp_path: Path) -> None:
    """1 of 255 would be nearly black."""
    on = GREY > 127
    white = padded(on * np.uint8(255))
    rounded = on + 1e-9  # as a scaler leaves them
    for images in (on, on.astype(float), rounded, -rounded + 1 + 2e-9 - (1 - 2 * on)):
        assert np.array_equal(read_own_images(npz(tmp_path, images=images)).images, white)
    with pytest.raises(DataError, match="found uint8 of 0 and 1 alone: give those as floats or bools"):
        read_own_images(npz(tmp_path, images=on.astype(np.uint8)))
    assert not read_own_images(npz(tmp_path, images=np.zeros_like(GREY))).images.any()


def test_pictures_without_classes_in_the_order_of_their_names(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "README.txt").touch()
    (tmp_path / ".hidden.png").touch()
    (tmp_path / "notes").mkdir()
    picture(tmp_path / "010.png", np.repeat(GREY[10][..., None], 3, axis=2))  # grey, though saved in colour
    own = read_own_images(tmp_path)
    assert np.array_equal(own.images, padded(GREY)) and own.labels is None and own.n_classes == 0


def test_jpeg_and_binary_pictures(tmp_path: Path) -> None:
    own = read_own_images(pictures(tmp_path / "jpeg", np.full((20, 9, 12), 77, np.uint8), ".JPG"))
    assert np.array_equal(own.images, padded(np.full((20, 9, 12), 77, np.uint8)))
    for i in range(20):
        picture(tmp_path / "binary" / f"{i}.png", 255 * (GREY[0] % 2), mode="1")
    assert np.array_equal(read_own_images(tmp_path / "binary").images[0], padded(255 * (GREY[:1] % 2))[0])


def test_identity_is_that_of_images_and_labels(tmp_path: Path) -> None:
    plain = read_own_images(npz(tmp_path, images=GREY)).digest()
    (tmp_path / "elsewhere").mkdir()
    moved = npz(tmp_path / "elsewhere", "renamed.npz", images=GREY, unused=3)
    os.utime(moved, (0, 0))
    assert read_own_images(moved).digest() == plain == read_own_images(pictures(tmp_path / "pictures")).digest()
    changed = GREY.copy()
    changed[3, 4, 5] ^= 1
    others: list[dict[str, Any]] = [
        {"images": changed},
        {"images": GREY, "labels": LABELS},
        {"images": GREY, "n_test": 3},
    ]
    assert len({plain, *(read_own_images(npz(tmp_path, **other)).digest() for other in others)}) == 4


@pytest.mark.parametrize(
    ("n", "n_test", "sizes"), [(100, 0, (80, 10, 10)), (20, 0, (16, 2, 2)), (119, 0, (97, 11, 11)), (50, 9, (37, 4, 9))]
)
def test_split_sizes(n: int, n_test: int, sizes: tuple[int, int, int]) -> None:
    assert OwnImages(np.zeros((n, 8, 8), np.uint8), None, n_test).split_sizes() == sizes


@pytest.mark.parametrize(("side", "expected"), [(1, 8), (8, 8), (9, 12), (28, 28), (30, 32), (64, 64)])
def test_sides_are_padded_to_what_the_networks_need(side: int, expected: int, tmp_path: Path) -> None:
    own = read_own_images(npz(tmp_path, images=np.full((20, side, side), 9, np.uint8)))
    assert own.images.shape == (20, expected, expected)
    first = (expected - side) // 2
    assert (own.images[:, first : first + side, first : first + side] == 9).all()
    assert own.images.sum() == 9 * 20 * side**2


def write_bytes(folder: Path, content: bytes) -> Path:
    (folder / "mine.npz").write_bytes(content)
    return folder / "mine.npz"


def bomb(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "mine.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", bytes(2_000_000))
    return folder / "mine.npz"


def among(folder: Path, pixels: np.ndarray, mode: str | None = None, **options: Any) -> Path:
    """Good pictures and one other, 7.png."""
    picture(pictures(folder, **options) / "7.png", pixels, mode)
    return folder


def file_among(folder: Path, content: bytes | None, **options: Any) -> Path:
    pictures(folder, **options)
    (folder / "7.png").mkdir() if content is None else (folder / "7.png").write_bytes(content)
    return folder


def html_beside(folder: Path) -> Path:
    (folder / "train-images.idx3-ubyte").write_bytes(b"<html>")
    return folder


def encoded(format: str) -> bytes:
    Image.fromarray(GREY[0]).save(stream := io.BytesIO(), format)
    return stream.getvalue()


class MakesFolder:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("made-by-pickle",)


COLOUR = RNG.integers(0, 256, (9, 12, 3), np.uint8)
TRAIN = {"train-images-idx3-ubyte": GREY, "train-labels-idx1-ubyte": LABELS}
TEST = "t10k-images-idx3-ubyte"
REFUSED: list[tuple[str, Callable[[Path], Path], str]] = [
    # .npz
    ("colour", lambda f: npz(f, images=np.zeros((30, 9, 9, 3), np.uint8)), r"\(30, 9, 9, 3\) \(colour images are not"),
    ("one image", lambda f: npz(f, images=GREY[0]), r"expected grey images, \(n, height, width\).* found \(9, 12\)"),
    ("one of n", lambda f: npz(f, images=GREY[:1]), "expected at least 20 images, found 1"),
    ("too large", lambda f: npz(f, images=np.zeros((30, 65, 8), np.uint8)), r"sides of 1 to 64, found \(30, 65, 8\)"),
    ("empty", lambda f: npz(f, images=np.zeros((30, 0, 8))), "sides of 1 to 64"),
    ("floats to 255", lambda f: npz(f, images=GREY * 1.0), r"or as floats from 0 to 1, found float64 from 0.0 to 255"),
    ("negative", lambda f: npz(f, images=GREY / -255), "floats from 0 to 1, found float64 from -1"),
    ("nan", lambda f: npz(f, images=np.full((30, 9, 9), np.nan)), "found float64 from nan"),
    ("integers", lambda f: npz(f, images=GREY.astype(int)), "expected grey values as uint8.* found int64 from 0"),
    ("complex", lambda f: npz(f, images=GREY * 1j), "found complex128"),
    ("other name", lambda f: npz(f, x_train=GREY, y=LABELS), "expected an array `images`, found x_train, y"),
    ("no array", npz, "expected an array `images`, found none"),
    ("objects", lambda f: npz(f, images=np.array([MakesFolder()] * 30)), "expected plain arrays, no Python objects"),
    ("labels", lambda f: npz(f, images=GREY, labels=np.array([MakesFolder()] * 30)), "expected plain arrays, no"),
    ("pickle", lambda f: write_bytes(f, pickle.dumps(MakesFolder())), "expected an .npz file, or a folder"),
    ("other file", lambda f: write_bytes(f, b"PK\3\4 no zip"), "expected an .npz file"),
    ("truncated", lambda f: write_bytes(f, npz(f, images=GREY).read_bytes()[:-50]), "expected an .npz file"),
    ("bomb", bomb, "expected at most 1 MB, found more"),
    ("large file", lambda f: write_bytes(f, b"PK" + bytes(1_000_000)), "expected at most 1 MB, found more"),
    ("few labels", lambda f: npz(f, images=GREY, labels=LABELS[1:]), r"each of 30 images.* of shape \(29,\)"),
    ("float labels", lambda f: npz(f, images=GREY, labels=LABELS / 1), "number from 0 on or a name, found float64"),
    ("negative labels", lambda f: npz(f, images=GREY, labels=LABELS - 1), "a whole number from 0 on"),
    ("test set", lambda f: npz(f, images=GREY, n_test=11), "2 test images or more, and 20 others, found 11 of 30"),
    ("test image", lambda f: npz(f, images=GREY, n_test=1), "expected 2 test images or more"),
    # pictures
    ("nothing", lambda f: f, "expected PNG or JPEG pictures, perhaps in one subfolder for each class, or idx files"),
    ("colours", lambda f: among(f, COLOUR), "7.png: expected a grey picture, found colours"),
    ("sizes", lambda f: among(f, GREY[0].T), r"000.png of \(9, 12\) and 7.png of \(12, 9\) \(height, width\)"),
    ("16 bits", lambda f: among(f, GREY[0].astype(np.uint16)), "7.png: expected 8-bit grey .*found mode I"),
    ("transparent", lambda f: among(f, GREY[0], "LA"), "7.png: expected 8-bit grey without transparency"),
    ("large", lambda f: among(f, np.zeros((65, 8), np.uint8)), "sides of at most 64 pixels, found 8 x 65"),
    ("unreadable", lambda f: file_among(f, b"<html>"), "7.png: cannot be read: UnidentifiedImageError"),
    ("truncated picture", lambda f: file_among(f, encoded("PNG")[:-30]), "7.png: cannot be read"),
    ("other format", lambda f: file_among(f, encoded("GIF")), "7.png: cannot be read"),
    ("huge", lambda f: file_among(f, bytes(1_000_001)), "expected at most 1 MB"),
    ("few pictures", lambda f: pictures(f, GREY[:3]), "expected at least 20 images, found 3"),
    ("empty class", lambda f: file_among(f, None, labels=LABELS), "7.png: a class's folder without PNG or JPEG"),
    ("mixed", lambda f: among(f, GREY[0], labels=LABELS), "or in one subfolder for each class, found both"),
    # idx
    ("no test", lambda f: idx(f, TRAIN), "idx files are missing: test images, test labels"),
    ("two sets", lambda f: idx(f, {**TRAIN, "letters-train-images-idx3-ubyte": GREY}), "expected one set of idx files"),
    ("half labels", lambda f: idx(f, {**TRAIN, TEST: GREY}), "missing: test labels"),
    ("lengths", lambda f: idx(f, {**TRAIN, TEST: GREY, "t10k-labels-idx1-ubyte": LABELS[1:]}), "a label for each"),
    ("shapes", lambda f: idx(f, {"train-images-idx3-ubyte": GREY, TEST: GREY[:, :8]}), "images of one size"),
    ("dimensions", lambda f: idx(f, {"train-images-idx3-ubyte": LABELS, TEST: LABELS}), "images of one size"),
    ("not idx", lambda f: html_beside(idx(f, {TEST: GREY})), "train-images.idx3-ubyte: idx data: expected 0, 0, 8"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_what_cannot_be_used_is_refused_in_one_line(
    make: Callable[[Path], Path], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parsers, "MAX_BYTES", 1_000_000)
    path = make(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        read_own_images(path)
    assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)
    assert len(str(error.value)) < 300 + len(str(path)) and not Path("made-by-pickle").exists()


@given(st.binary(max_size=30), st.integers(0, 400), st.integers(0, 40))
@fuzz
def test_any_npz_is_read_or_a_data_error(inserted: bytes, start: int, removed: int) -> None:
    stream = io.BytesIO()
    np.savez_compressed(stream, images=np.zeros((20, 8, 8), np.uint8))
    content = stream.getvalue()
    path = Path(os.environ.get("TMPDIR", "/tmp"), f"fuzzed-{os.getpid()}.npz")
    try:
        path.write_bytes(content[:start] + inserted + content[start + removed :])
        assert read_own_images(path).images.shape[0] >= 20
    except DataError:
        pass
    finally:
        path.unlink()
