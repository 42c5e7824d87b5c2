"""What users of the package import: the split, the checksums and the binarisation."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from infovae.config import RunConfig
from infovae.data import datasets, sources
from infovae.data.parsers import to_idx
from infovae.data.sources import IDX_FILES

# What stored results depend on. Whoever changes one of these must raise SPLIT_VERSION, which changes the checksums, so
# that runs on the old split are not taken for runs on the new one.
PERMUTATION_SHA256 = "2b1481487ab31adbd87211ed7bd4da3313b6891e4fd7b2c3b746ff66c664fa0c"
DIGITS_CHECKSUM = "98b233ae5aaafce42c6d2f01550da2159cfa89b08a761d2c45d46a653efe9859"
TWO_POINTS_CHECKSUM = "f0e64821b76055fb5225aa85cf1120cc285069070381e8d2aab3a94b959eae9d"
MNIST_CHECKSUM = "b77b85d9166d9e97946f8426422396def9d57aef8ee6481737291d1f0e63e7e5"
FASHION_MNIST_CHECKSUM = "a9e1117004c55c4824a50932fc784178871742f9b8f184bce3a3c3eb316b3414"

N_TRAIN, N_VALIDATION, N_TEST = 240, 40, 30


def images_that_know_their_index(n: int, first: int) -> NDArray[np.uint8]:
    index = np.arange(first, first + n)
    return np.stack([index // 256, index % 256, 255 - index % 256, index % 7], axis=1).reshape(n, 2, 2).astype(np.uint8)


def index_of(images: torch.Tensor) -> list[int]:
    return (images[:, 0, 0].long() * 256 + images[:, 0, 1].long()).tolist()


@pytest.fixture
def tiny_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a tiny data set, which takes the place of MNIST; the cache is a folder of the test's own."""
    arrays = [
        images_that_know_their_index(N_TRAIN, first=0),
        (np.arange(N_TRAIN) % 10).astype(np.uint8),
        images_that_know_their_index(N_TEST, first=N_TRAIN),
        (np.arange(N_TEST) % 10).astype(np.uint8),
    ]
    files = {file: to_idx(array) for file, array in zip(IDX_FILES, arrays, strict=True)}
    digests = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    folder = tmp_path / "published"
    folder.mkdir()
    for file, content in files.items():
        (folder / file).write_bytes(content)
    monkeypatch.setattr(sources, "DIGESTS", {"mnist": digests})
    monkeypatch.setattr(sources, "SOURCES", {"mnist": {"public": lambda scratch: folder}})
    monkeypatch.setattr(datasets, "_N_VALIDATION", N_VALIDATION)
    monkeypatch.setenv("INFOVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("INFOVAE_DATA", raising=False)
    return folder


# Splits


@pytest.mark.usefixtures("tiny_mnist")
def test_training_and_validation_images_partition_the_official_training_images() -> None:
    mnist = datasets.load("mnist")
    train, validation = index_of(mnist.train_images), index_of(mnist.validation_images)
    assert (len(train), len(validation)) == (N_TRAIN - N_VALIDATION, N_VALIDATION)
    assert sorted(train + validation) == list(range(N_TRAIN))
    test = index_of(mnist.test_images)
    assert sorted(test) == list(range(N_TRAIN, N_TRAIN + N_TEST)) != test
    assert mnist.test_labels.tolist() == [(index - N_TRAIN) % 10 for index in test]
    assert mnist.train_labels.tolist() == [index % 10 for index in train]
    assert mnist.validation_labels.tolist() == [index % 10 for index in validation]
    assert mnist.train_images.dtype == torch.uint8 and mnist.train_labels.dtype == torch.int64


@pytest.mark.usefixtures("tiny_mnist")
def test_training_images_are_shuffled_so_that_a_prefix_is_a_sample() -> None:
    train = index_of(datasets.load("mnist").train_images)
    # Mean of 50 of 0..239 drawn without replacement: 119.5, standard deviation 8.7.
    assert abs(np.mean(train[:50]) - 119.5) < 5 * 8.7
    assert abs(np.corrcoef(train, np.arange(len(train)))[0, 1]) < 5 / np.sqrt(len(train))
    assert index_of(datasets.load("mnist").train_images[:50]) == train[:50]


def test_the_permutation_of_mnist_never_changes() -> None:
    order = datasets._fixed_permutation(60_000)
    assert hashlib.sha256(order.astype("<i8").tobytes()).hexdigest() == PERMUTATION_SHA256
    assert np.array_equal(np.sort(order), np.arange(60_000))


def test_digits_are_split_into_disjoint_parts_that_make_up_the_whole() -> None:
    from sklearn.datasets import load_digits

    digits = datasets.load("digits")
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


def test_two_points_are_balanced_shuffled_and_survive_binarisation() -> None:
    points = datasets.load("two_points")
    parts = [
        (points.train_images, points.train_labels),
        (points.validation_images, points.validation_labels),
        (points.test_images, points.test_labels),
    ]
    assert [len(images) for images, _ in parts] == [1000, 500, 200]
    for images, labels in parts:
        assert images.dtype == torch.uint8 and images.shape[1:] == (1, 1)
        assert labels.double().mean().item() == 0.5
        assert torch.equal(images.flatten(), 255 * labels.to(torch.uint8))
        assert 0.3 < (labels.diff() != 0).double().mean().item() < 0.7  # neither sorted nor alternating
        x = datasets.binarize(images, torch.Generator().manual_seed(0))
        assert torch.equal(x.flatten(), labels.float())
    assert points.checksum == TWO_POINTS_CHECKSUM


@pytest.mark.parametrize(("name", "checksum"), [("mnist", MNIST_CHECKSUM), ("fashion_mnist", FASHION_MNIST_CHECKSUM)])
def test_checksum_is_that_of_the_published_results(name: str, checksum: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It follows from the files' sums, which are verified before: no file is needed."""
    shapes = [(60_000, 1, 1), (60_000,), (10_000, 1, 1), (10_000,)]
    files = {file: np.zeros(shape, np.uint8) for file, shape in zip(IDX_FILES, shapes, strict=True)}
    monkeypatch.setattr(sources, "find_files", lambda name: (files, "nowhere"))
    assert datasets.load(name).checksum == checksum


def test_digits_need_no_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INFOVAE_DATA", str(tmp_path / "nowhere"))
    assert datasets.load("digits").source == "digits embedded in scikit-learn"


def test_checksum_depends_on_the_data_and_the_split_but_not_on_the_source(
    tiny_mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = [datasets.load("mnist"), datasets.load("mnist")]
    monkeypatch.setenv("INFOVAE_DATA", str(tiny_mnist))
    loaded.append(datasets.load("mnist"))
    assert [each.source for each in loaded] == ["public", "cache", "INFOVAE_DATA"]
    assert len({each.checksum for each in loaded}) == 1
    monkeypatch.setattr(datasets, "_N_VALIDATION", N_VALIDATION + 1)
    other_part = datasets.load("mnist").checksum
    monkeypatch.setattr(datasets, "SPLIT_VERSION", datasets.SPLIT_VERSION + 1)
    other_split = datasets.load("mnist").checksum
    assert len({loaded[0].checksum, other_part, other_split, DIGITS_CHECKSUM}) == 4


@pytest.mark.parametrize("name", ["digits", "two_points"])
def test_facts_are_those_of_the_loaded_data(name: str) -> None:
    loaded = datasets.load(name)
    facts = sources.facts(name)
    assert facts[:3] == (len(loaded.train_images), loaded.n_classes, loaded.train_images.shape[1:])
    labels = torch.cat([loaded.train_labels, loaded.validation_labels, loaded.test_labels])
    assert facts.rarest_share <= labels.bincount().min() / len(labels) < 1.2 * facts.rarest_share


@pytest.mark.usefixtures("tiny_mnist")
@pytest.mark.parametrize("name", ["mnist", "digits"])
def test_each_load_returns_tensors_of_its_own(name: str) -> None:
    """Whoever keeps a data set for a process, as a sweep does, is not reached by what others do to theirs."""
    first = datasets.load(name)
    for part in ("train", "validation", "test"):
        expected = getattr(first, f"{part}_images").clone()
        getattr(datasets.load(name), f"{part}_images").fill_(7)
        assert torch.equal(getattr(first, f"{part}_images"), expected)
        assert torch.equal(getattr(datasets.load(name), f"{part}_images"), expected)


def test_unknown_name_is_refused_with_the_closest() -> None:
    with pytest.raises(
        ValueError, match=r"unknown data set 'fashion-mnist'; did you mean 'fashion_mnist'\? .valid: mnist"
    ):
        datasets.load("fashion-mnist")


# A user's own images


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INFOVAE_CACHE", str(tmp_path / "cache"))
    images = np.zeros((100, 8, 8), np.uint8)
    images[:, :2, :2] = images_that_know_their_index(100, first=0)
    np.savez(tmp_path / "own.npz", images=images, labels=np.arange(100) % 4)
    return tmp_path / "own.npz"


def test_own_images_are_split_in_a_fixed_order(own: Path) -> None:
    found = datasets.load(str(own))
    parts = [index_of(images) for images in (found.train_images, found.validation_images, found.test_images)]
    order = [index for part in parts for index in part]
    assert [len(part) for part in parts] == [80, 10, 10] and sorted(order) == list(range(100))
    assert order == datasets._fixed_permutation(100).tolist()
    assert found.train_labels.tolist() == [index % 4 for index in parts[0]] and found.n_classes == 4
    assert datasets.load(found.name).checksum == found.checksum and str(own.parent) not in repr(found)


def test_a_given_test_set_is_kept_and_labels_may_be_missing(own: Path) -> None:
    with np.load(own) as arrays:
        np.savez(own, images=arrays["images"], n_test=30)
    found = datasets.load(str(own))
    assert sorted(index_of(found.test_images)) == list(range(70, 100))
    assert (len(found.train_images), len(found.validation_images), found.n_classes) == (63, 7, 0)
    assert set(found.train_labels.tolist()) == set(found.test_labels.tolist()) == {-1}


def test_a_run_is_known_by_the_content_of_its_images_and_not_by_their_path(own: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.npz"
    config = RunConfig(dataset=str(own))
    own.rename(moved)
    again = RunConfig(dataset=str(moved))
    assert config == again and config.n_train == 80 and str(tmp_path) not in config.model_dump_json()
    assert RunConfig(dataset=config.dataset, n_train=7).n_train == 7
    with pytest.raises(ValueError, match="unknown data set"):
        RunConfig(dataset=str(own))
    np.savez(moved, images=np.zeros((19, 8, 8), np.uint8))
    with pytest.raises(ValueError, match=r"elsewhere\.npz: expected at least 20 images, found 19"):
        RunConfig(dataset=str(moved))


# Binarisation


def test_binarization_draws_each_pixel_with_its_grey_value_as_probability() -> None:
    n = 4000
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16).expand(n, 16, 16)
    x = datasets.binarize(images, torch.Generator().manual_seed(0))
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
    first, second = datasets.binarize(images, generator), datasets.binarize(images, generator)
    # Two independent fair draws of 3200 pixels agree in half of them, standard deviation 0.0088.
    assert abs((first == second).double().mean().item() - 0.5) < 5 * 0.0088
    assert torch.equal(first, datasets.binarize(images, torch.Generator().manual_seed(1)))


def test_static_binarization_is_one_fixed_draw() -> None:
    images = datasets.load("digits").train_images
    before = torch.get_rng_state()
    static = datasets.static_binarization(images, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(static, datasets.static_binarization(images, seed=3))
    assert not torch.equal(static, datasets.static_binarization(images, seed=4))
    assert static.dtype == torch.uint8 and static.shape == images.shape and set(static.unique().tolist()) == {0, 255}
    for seed in (0, 1):
        x = datasets.binarize(static, torch.Generator().manual_seed(seed))
        assert torch.equal(x.squeeze(1), static / 255)
    # A draw, not a threshold: pixels of one grey value differ.
    assert set(static[images == 128].tolist()) == {0, 255}


@pytest.mark.parametrize("n", [1, 7, 100, 999])
def test_static_binarization_of_nested_training_sets_is_nested(n: int) -> None:
    images = datasets.load("digits").train_images
    assert torch.equal(
        datasets.static_binarization(images[:n], seed=5), datasets.static_binarization(images, seed=5)[:n]
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_binarization_on_a_gpu() -> None:
    images = datasets.load("digits").train_images
    static = datasets.static_binarization(images.cuda(), seed=3)
    assert static.is_cuda and torch.equal(static.cpu(), datasets.static_binarization(images, seed=3))
    x = datasets.binarize(images.cuda(), torch.Generator("cuda").manual_seed(0))
    p = images.double() / 255
    z = (x.double().cpu().sum() - p.sum()) / (p * (1 - p)).sum().sqrt()
    assert x.is_cuda and abs(z) < 5


@pytest.mark.parametrize("images", [torch.rand(3, 4, 4), torch.zeros(3, 1, 4, 4, dtype=torch.uint8)])
def test_binarization_refuses_what_is_already_scaled_or_has_channels(images: torch.Tensor) -> None:
    for call in (lambda: datasets.binarize(images, torch.Generator()), lambda: datasets.static_binarization(images, 0)):
        with pytest.raises(ValueError, match=r"must be grey values, torch.uint8 of shape \(n, height, width\), got"):
            call()


def test_importing_the_module_imports_no_client() -> None:
    code = "import sys, infovae.data.datasets; print({'platformdirs', 'sklearn', 'requests'} & set(sys.modules))"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert result.stdout.strip() == "set()"


def test_real_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("INFOVAE_DATA", raising=False)
    cached = sources.cache_folder() / "mnist"
    if not all((cached / file).exists() for file in IDX_FILES):
        pytest.skip("MNIST is not in the cache")
    mnist = datasets.load("mnist")
    assert mnist.train_images.shape == (50_000, 28, 28)
    assert mnist.validation_images.shape == mnist.test_images.shape == (10_000, 28, 28)
    official = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert (mnist.train_labels.bincount() + mnist.validation_labels.bincount()).tolist() == official
    assert mnist.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    mean = torch.cat([mnist.train_images, mnist.validation_images]).double().mean().item() / 255
    assert mean == pytest.approx(0.1306604762738429)
    assert mnist.checksum == MNIST_CHECKSUM
    assert sources.facts("mnist") == (len(mnist.train_images), mnist.n_classes, (28, 28), 0.09)
