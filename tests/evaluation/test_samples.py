"""The numbers on samples against closed forms, and the classifier against images whose classes are known."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from infovae.data.datasets import ImageData, binarize, load
from infovae.evaluation import samples
from infovae.evaluation.samples import (
    Classifier,
    class_cross_entropy,
    class_distribution,
    classify,
    extract_features,
    frechet_distance,
    sharpness,
    train_classifier,
)

CPU = torch.device("cpu")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# --- distribution of classes


def test_class_distribution_counts() -> None:
    found = class_distribution(torch.tensor([0, 2, 2, 3]), n_classes=5)
    assert torch.equal(found, torch.tensor([0.25, 0, 0.5, 0.25, 0], dtype=torch.double))


@pytest.mark.parametrize("labels", [[], [-1, 0], [0, 10]])
def test_class_distribution_refuses_what_is_no_label(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="labels"):
        class_distribution(torch.tensor(labels, dtype=torch.long), n_classes=10)


def test_class_cross_entropy_by_hand() -> None:
    true, generated = torch.tensor([0.5, 0.5]), torch.tensor([0.75, 0.25])
    smoothed = 3.5 / 5, 1.5 / 5  # counts 3 and 1 of 4, half a sample more in each class
    by_hand = -sum(0.5 * (math.log(c_hat) - math.log(0.5)) for c_hat in smoothed)
    reverse = sum(c_hat * math.log(c_hat / 0.5) for c_hat in smoothed)
    found = class_cross_entropy(true, generated, 4)
    assert found == pytest.approx(by_hand, abs=1e-12)
    assert found != pytest.approx(reverse, rel=0.01)


@pytest.mark.parametrize("n", [100, 1000, 10_000])
def test_a_single_generated_class_reads_the_stated_worst_case(n: int) -> None:
    uniform, collapsed = torch.full((10,), 0.1), F.one_hot(torch.tensor(3), 10).double()
    found = class_cross_entropy(uniform, collapsed, n)
    assert found == pytest.approx(0.9 * math.log(2 * n + 10) - math.log(10), abs=1 / n)


@pytest.mark.parametrize("n", [500, 2000])
def test_samples_of_the_true_distribution_read_the_stated_bias(n: int) -> None:
    true = torch.tensor([0.0987, 0.1124, 0.0993, 0.1022, 0.0974, 0.0904, 0.0986, 0.1044, 0.0975, 0.0991]).double()
    counts = np.random.default_rng(0).multinomial(n, true / true.sum(), size=2000)
    values = [class_cross_entropy(true / true.sum(), torch.from_numpy(count / n), n) for count in counts]
    assert np.mean(values) == pytest.approx(9 / (2 * n), rel=0.06)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=12).filter(any), st.data())
def test_class_cross_entropy_is_a_divergence(counts: list[int], data: st.DataObject) -> None:
    c_hat = torch.tensor(counts).double()
    c = torch.tensor(data.draw(st.permutations(counts))).double()
    n = sum(counts)
    assert class_cross_entropy(c / n, c_hat / n, n) >= -1e-12
    smoothed = (c_hat + samples.PSEUDO_COUNT) / (n + samples.PSEUDO_COUNT * len(counts))
    assert class_cross_entropy(smoothed, c_hat / n, n) == pytest.approx(0, abs=1e-12)


def test_class_cross_entropy_refuses_what_is_no_distribution() -> None:
    uniform = torch.full((10,), 0.1)
    with pytest.raises(ValueError, match="generated distribution must be non-negative and sum to 1"):
        class_cross_entropy(uniform, uniform * 100, 100)
    with pytest.raises(ValueError, match="shape"):
        class_cross_entropy(uniform, torch.tensor([0.5, 0.5]), 100)


# --- Frechet distance


def features_with(mu: Tensor, covariance: Tensor, n: int = 50) -> Tensor:
    """Features whose sample mean and unbiased covariance are exactly those given."""
    noise = torch.randn(n, len(mu), generator=generator(), dtype=torch.double)
    basis = torch.linalg.qr(noise - noise.mean(0)).Q * math.sqrt(n - 1)
    return mu + basis @ torch.linalg.cholesky(covariance).T


def test_frechet_distance_in_one_dimension() -> None:
    one = torch.ones(1, 1, dtype=torch.double)
    a, b = features_with(torch.tensor([1.0]), 4 * one), features_with(torch.tensor([-2.0]), 9 * one, n=80)
    assert frechet_distance(a, b) == pytest.approx(3**2 + (3 - 2) ** 2)


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    s_a = torch.tensor([[2.0, 0.8, 0.1], [0.8, 1.0, -0.2], [0.1, -0.2, 0.5]], dtype=torch.double)
    s_b = torch.tensor([[0.7, -0.3, 0.2], [-0.3, 1.5, 0.4], [0.2, 0.4, 3.0]], dtype=torch.double)
    root = scipy.linalg.sqrtm((s_a @ s_b).numpy())
    assert not torch.allclose(s_a @ s_b, s_b @ s_a)
    expected = 5.0 + float(torch.trace(s_a + s_b)) - 2 * float(np.trace(root).real)
    found = frechet_distance(features_with(torch.zeros(3), s_a), features_with(torch.tensor([1.0, 0, 2]), s_b, n=90))
    assert found == pytest.approx(expected, rel=1e-9)


@given(st.integers(0, 2**31), st.integers(2, 12), st.integers(2, 12), st.integers(1, 6))
def test_frechet_distance_is_a_metric_squared(seed: int, n_a: int, n_b: int, dim: int) -> None:
    # fewer rows than dimensions included: singular covariances
    rng = generator(seed)
    a, b, c = (torch.randn(n, dim, generator=rng, dtype=torch.double) for n in (n_a, n_b, n_a))
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 3) == pytest.approx(9 * dim, rel=1e-6, abs=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-6, abs=1e-6)
    assert frechet_distance(2 * a, 2 * b) == pytest.approx(4 * frechet_distance(a, b), rel=1e-6, abs=1e-6)
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=rng, dtype=torch.double)).Q
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(frechet_distance(a, b), rel=1e-6, abs=1e-6)
    sides = [math.sqrt(frechet_distance(*pair)) for pair in ((a, c), (a, b), (b, c))]
    assert sides[0] <= sides[1] + sides[2] + 1e-4


def test_frechet_distance_of_equal_distributions_reads_the_stated_bias() -> None:
    eigenvalues = torch.tensor([4.0, 2.0, 1.0, 0.5, 0.25], dtype=torch.double)
    n_a, n_b, rng = 400, 800, generator()
    values = []
    for _ in range(300):
        a, b = (torch.randn(n, 5, generator=rng, dtype=torch.double) * eigenvalues.sqrt() for n in (n_a, n_b))
        values.append(frechet_distance(a, b))
    product, total = eigenvalues[:, None] * eigenvalues, eigenvalues[:, None] + eigenvalues
    pairs = (product * (1 + torch.eye(5)) / (2 * total)).sum()
    assert np.mean(values) == pytest.approx(float((1 / n_a + 1 / n_b) * (eigenvalues.sum() + pairs)), rel=0.05)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (torch.zeros(1, 3), "at least 2 rows"),
        (torch.zeros(5, 2), r"\(n_b, d\)"),
        (torch.full((5, 3), math.nan), "finite"),
    ],
)
def test_frechet_distance_refuses_bad_features(features: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        frechet_distance(torch.randn(9, 3, generator=generator()), features)


# --- sharpness


def test_sharpness_by_hand() -> None:
    assert sharpness(torch.full((2, 1, 3, 3), 0.5)) == pytest.approx(0)
    assert sharpness(torch.eye(4)) == 1
    bits = -(0.25 * math.log2(0.25) + 0.75 * math.log2(0.75))
    assert sharpness(torch.tensor([0.25, 0.75, 1.0, 0.0])) == pytest.approx(1 - bits / 2)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9), st.floats(0, 1))
def test_averaging_with_a_shifted_image_never_sharpens(pixels: list[float], weight: float) -> None:
    p = torch.tensor(pixels, dtype=torch.double)
    assert sharpness((1 - weight) * p + weight * p.roll(1)) <= sharpness(p) + 1e-9


@pytest.mark.parametrize("values", [[-0.1, 0.5], [0.5, 255.0], [math.nan], []])
def test_sharpness_refuses_what_is_no_probability(values: list[float]) -> None:
    with pytest.raises(ValueError, match="probabilities"):
        sharpness(torch.tensor(values))


# --- classifier


@pytest.fixture(scope="module")
def digits() -> ImageData:
    return load("digits")


@pytest.fixture(scope="module")
def trained(digits: ImageData) -> Classifier:
    return train(digits, steps=250)


def train(data: ImageData, steps: int, seed: int = 0, labels: Tensor | None = None) -> Classifier:
    labels = data.train_labels if labels is None else labels
    return train_classifier(
        data.train_images, labels, steps=steps, batch_size=64, learning_rate=6e-3, seed=seed, device=CPU
    )


def test_classifier_reads_digits_and_no_labels_that_are_noise(digits: ImageData, trained: Classifier) -> None:
    x = binarize(digits.test_images, generator())
    shuffled = digits.train_labels[torch.randperm(len(digits.train_labels), generator=generator())]
    misled = train(digits, steps=60, labels=shuffled)
    # 8x8 images lose much of what they show when binarised: 0.91 is what longer training reaches
    assert (classify(trained, x) == digits.test_labels).double().mean() > 0.87
    assert 0.03 < (classify(misled, x) == digits.test_labels).double().mean() < 0.2


def test_frechet_distance_in_its_features_ranks_images(digits: ImageData, trained: Classifier) -> None:
    real, others = (binarize(images, generator()) for images in (digits.test_images, digits.train_images[:497]))
    blank = torch.zeros_like(real)
    blank[:10] = real[:10]
    sevens = binarize(digits.train_images[digits.train_labels == 7], generator())
    distance = [
        frechet_distance(extract_features(trained, real), extract_features(trained, x)) for x in (others, sevens, blank)
    ]
    assert 5 * distance[0] < distance[1]
    assert 5 * distance[0] < distance[2]


def test_labels_follow_from_features_and_not_from_the_batch(digits: ImageData, trained: Classifier) -> None:
    x = binarize(digits.test_images[:70], generator())
    features = extract_features(trained, x)
    assert features.shape == (70, trained.n_features)
    assert torch.equal(trained.head(features).argmax(1), classify(trained, x))
    assert torch.allclose(torch.cat([extract_features(trained, image[None]) for image in x]), features, atol=1e-5)
    with pytest.raises(ValueError, match=r"\.eval\(\)"):
        classify(Classifier((8, 8), n_classes=10), x)


def test_there_are_as_many_classes_as_labels(digits: ImageData) -> None:
    few = digits.train_labels < 3
    classifier = train_classifier(
        digits.train_images[few],
        digits.train_labels[few],
        steps=2,
        batch_size=9,
        learning_rate=1e-3,
        seed=0,
        device=CPU,
    )
    assert classifier(binarize(digits.test_images[:5], generator())).shape == (5, 3)


def test_training_depends_on_its_arguments_alone(digits: ImageData) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (train(digits, 12, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_images_of_28_pixels_train_and_report_progress(digits: ImageData) -> None:
    large = digits.train_images[:400].repeat_interleave(3, 1).repeat_interleave(3, 2)
    large, calls = F.pad(large, (2, 2, 2, 2)), []
    classifier = train_classifier(
        large,
        digits.train_labels[:400],
        steps=60,
        batch_size=64,
        learning_rate=6e-3,
        seed=0,
        device=CPU,
        progress=lambda step, loss: calls.append((step, loss)),
    )
    assert [step for step, _ in calls] == list(range(3, 61, 3))
    assert calls[0][1] > 1.5  # nats per image: log 10 before training
    assert calls[-1][1] < 0.8
    assert (classify(classifier, binarize(large, generator())) == digits.train_labels[:400]).double().mean() > 0.85


def test_learning_rate_is_one_cycle() -> None:
    factors = [samples._one_cycle((step + 0.5) / 1000) for step in range(1000)]
    assert np.argmax(factors) in (199, 200)
    assert max(factors) == pytest.approx(1, abs=0.01)
    assert 0 < factors[-1] < factors[0] < 0.01
    assert np.mean(factors) == pytest.approx(0.5, abs=1e-3)


def test_windows_are_shifts_by_one_pixel_and_tiny_images_stay() -> None:
    images = torch.randint(256, (3, 28, 28), generator=generator(), dtype=torch.uint8)
    windows = samples._shifted_windows(images)
    assert windows.shape == (3, 3, 3, 28, 28)
    assert torch.equal(windows[:, 1, 1], images)
    assert torch.equal(windows[:, 2, 1, :-1], images[:, 1:])
    assert torch.equal(windows[:, 1, 0, :, 1:], images[:, :, :-1])
    tiny = images[:, :8, :8]
    assert torch.equal(samples._shifted_windows(tiny), tiny[:, None, None])


def test_drawn_shifts_are_uniform() -> None:
    image = torch.zeros(1, 28, 28, dtype=torch.uint8)
    image[0, 14, 14] = 1
    drawn = samples._draw_shifts(samples._shifted_windows(image), torch.zeros(9000, dtype=torch.long), generator())
    where = drawn.double().mean(0)[13:16, 13:16]
    assert torch.allclose(where, torch.full((3, 3), 1 / 9, dtype=torch.double), atol=0.015)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.zeros(9, dtype=torch.long)}, "label for each"),
        ({"labels": torch.full((10,), -1)}, r"labels must be 0 or more"),
        ({"batch_size": 1}, "batch_size"),
        ({"steps": 0}, "steps"),
        ({"images": torch.zeros(10, 7, 8, dtype=torch.uint8)}, "divisible by 4"),
    ],
)
def test_training_refuses_bad_arguments(change: dict[str, Tensor | int], message: str) -> None:
    arguments = {
        "images": torch.zeros(10, 8, 8, dtype=torch.uint8),
        "labels": torch.zeros(10, dtype=torch.long),
        "steps": 2,
        "batch_size": 4,
    }
    with pytest.raises(ValueError, match=message):
        train_classifier(**(arguments | change), learning_rate=1e-3, seed=0, device=CPU)  # type: ignore[arg-type]
