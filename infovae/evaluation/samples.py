"""How good generated images are: a classifier of binarised images, and one function per number reported on samples.

Owns the classifier (its network, its training, its labels and features), the distribution of classes among samples, the
Frechet distance between features, and the sharpness of reconstructions. Every number here means something only beside
the same number for real images.

The classifier has seen binary images alone. Grey samples, of models of grey images, are binarised before it sees them,
as real images are: pixel by pixel, on with the probability of their grey value.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from infovae.config import RunConfig, SampleEvaluation
from infovae.data.datasets import Batches, ImageData, binarize, observe
from infovae.evaluation.images import Evaluated, in_batches, see
from infovae.model.build import Model
from infovae.model.networks import GaussianDecoder, IndependentDecoder

N_PICTURES, N_RECONSTRUCTED = 100, 50
"""Samples and reconstructions kept to be looked at."""
AT_ONCE = 1000
"""Images in one call of a network."""
PSEUDO_COUNT = 0.5
"""Added to the count of every generated class: Jeffreys' prior, which defines the logarithm of a class never seen."""
N_REPORTS = 25
"""Calls of `progress` during training: the only points at which the host waits for the device."""
CLASSIFIER_METRICS = (
    "class_cross_entropy",
    "class_cross_entropy_real",
    "class_cross_entropy_authors",
    "frechet_distance",
    "frechet_distance_real",
    "classifier_accuracy",
)


def evaluate(
    evaluation: SampleEvaluation,
    config: RunConfig,
    model: Model,
    data: ImageData,
    generator: torch.Generator,
    weights: bytes | None,
) -> Evaluated:
    """Return the classes, the features and the sharpness of n_samples generated images, and some to be looked at.

    What ends in `_real` is the same number of real images. `weights` are the classifier's, in safetensors format;
    without them, for images without labels, its metrics are NaN.
    """
    n, device = evaluation.n_samples, generator.device
    z = torch.randn(n, model.latent_dim, generator=generator, device=device)
    uniforms = torch.rand(n, 1, *data.test_images.shape[1:], generator=generator, device=device)
    generated = in_batches(model.decoder.sample, z, uniforms, size=AT_ONCE)
    means = in_batches(model.decoder.expected, generated, z, size=AT_ONCE)
    if config.binarization == "none":
        generated = binarize((255 * generated).round().to(torch.uint8).squeeze(1), generator)
    metrics = dict.fromkeys(CLASSIFIER_METRICS, math.nan)
    if weights is not None:
        metrics = _judge(load_classifier(weights, data).to(device), generated, means, data, generator)
    if isinstance(model.decoder, IndependentDecoder):
        x = see(data, "test", config, generator, slice(n))
        codes = in_batches(lambda x: model.encoder(x).sample(generator), x, size=AT_ONCE)
        real = observe(data.test_images[:n], "none", generator)
        metrics |= {
            "sharpness_samples": sharpness(means),
            "sharpness_reconstructions": sharpness(in_batches(model.decoder.mean, codes, size=AT_ONCE)),
            "sharpness_real": sharpness(real),
        }
        # what is left to the binarisation when the grey image itself is the mean: no reconstruction can do better
        metrics["reconstruction_nll_real"] = (1 - metrics["sharpness_real"]) * math.log(2) * real[0].numel()
    return metrics, draw_pictures(config, model, data, device)


def _judge(
    classifier: Classifier, generated: Tensor, means: Tensor, data: ImageData, generator: torch.Generator
) -> dict[str, float]:
    """Return what a classifier says of generated images, as many as there are real ones or fewer.

    `class_cross_entropy_real` is that of test images, the first of them if there are more than generated ones;
    `frechet_distance_real` is the distance of validation images to the test images.

    `class_cross_entropy_authors` is that of the authors' code: c uniform, and the classifier is not given a sampled
    image but the probability of each of its pixels given those sampled before it. DEVIATION: the classifier is ours,
    trained on binary images, theirs was trained on grey ones; and zero counts are smoothed.
    """
    n = len(generated)
    test = binarize(data.test_images.to(generator.device), generator)
    validation = binarize(data.validation_images[:n].to(generator.device), generator)
    true = class_distribution(data.train_labels, classifier.n_classes)
    labels, features = classify(classifier, test), extract_features(classifier, test)

    def cross_entropy(c: Tensor, found: Tensor) -> float:
        return class_cross_entropy(c, class_distribution(found, classifier.n_classes), len(found))

    uniform = torch.full_like(true, 1 / len(true))
    return {
        "class_cross_entropy": cross_entropy(true, classify(classifier, generated)),
        "class_cross_entropy_real": cross_entropy(true, labels[:n]),
        "class_cross_entropy_authors": cross_entropy(uniform, classify(classifier, means)),
        "frechet_distance": frechet_distance(extract_features(classifier, generated), features),
        "frechet_distance_real": frechet_distance(extract_features(classifier, validation), features),
        "classifier_accuracy": (labels.cpu() == data.test_labels).double().mean().item(),
    }


def draw_pictures(config: RunConfig, model: Model, data: ImageData, device: torch.device) -> dict[str, Any]:
    """Return `samples`, `originals` and their `reconstructions` by one draw of z, arrays (n, 1, H, W).

    Draws of the decoder are 0 or 1, uint8. Of a decoder of independent pixels, whose draws are its mean with noise, the
    mean E[x|z] is kept instead: float32 in [0, 1], of 256 levels, in half as many samples. The generator has one fixed
    seed: the models of a latent dimension have the same z, the same originals and the same uniforms, whatever their
    objective and seed.
    """
    generator = torch.Generator(device).manual_seed(0)
    originals = see(data, "test", config, generator, slice(N_RECONSTRUCTED))
    uniforms = torch.rand(N_PICTURES, 1, *data.test_images.shape[1:], generator=generator, device=device)
    z = torch.randn(N_PICTURES, model.latent_dim, generator=generator, device=device)
    codes = model.encoder(originals).sample(generator)
    if isinstance(model.decoder, IndependentDecoder | GaussianDecoder):
        samples, reconstructions = (
            (255 * model.decoder.mean(each)).round() / 255 for each in (z[:N_RECONSTRUCTED], codes)
        )
    else:
        samples, reconstructions = (
            model.decoder.sample(each, uniforms[: len(each)]).to(torch.uint8) for each in (z, codes)
        )
    if config.binarization != "none":
        originals = originals.to(torch.uint8)
    pictures = {"samples": samples, "originals": originals, "reconstructions": reconstructions}
    return {name: images.cpu().numpy() for name, images in pictures.items()}


class Classifier(nn.Module):
    """A convolutional classifier of binary images, (n, 1, H, W) to n_classes logits; 127,000 weights at 28x28.

    `image_shape` is (height, width), both divisible by 4 and at least 8.
    """

    n_features = 64

    def __init__(self, image_shape: tuple[int, int], n_classes: int) -> None:
        super().__init__()
        if any(size % 4 or size < 8 for size in image_shape):
            raise ValueError(f"the classifier needs image sides divisible by 4 and at least 8, got {image_shape}")
        height, width = image_shape
        # small images keep their resolution in the first layer, where they have none to spare
        stride = 2 if min(image_shape) >= 16 else 1
        self.body = nn.Sequential(
            *(nn.Conv2d(1, 16, 5, stride=stride, padding=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 64, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(64 * (height // stride // 2 - 2) * (width // stride // 2 - 2), self.n_features), nn.ReLU()),
        )
        self.n_classes = n_classes
        self.head = nn.Linear(self.n_features, n_classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a fifth faster on a CPU

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the classes, (n, n_classes)."""
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        """Return the activations before the last layer, (n, 64)."""
        return self.body(x)


def load_classifier(weights: bytes, data: ImageData) -> Classifier:
    """Return the classifier of these weights, in safetensors format, in evaluation mode."""
    from safetensors.torch import load

    tensors = load(weights)
    classifier = Classifier((data.test_images.shape[1], data.test_images.shape[2]), len(tensors["head.bias"]))
    classifier.load_state_dict(tensors)
    return classifier.eval()


def train_classifier(
    images: Tensor,
    labels: Tensor,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    device: torch.device,
    progress: Callable[[int, float], None] | None = None,
) -> Classifier:
    """Train a classifier on images binarised afresh, and shifted by up to 1/28 of their side, in every batch.

    Images are grey values, uint8, (n, H, W), labels int64, (n,), from 0; the largest decides how many classes there
    are. AdamW; the learning rate rises linearly to `learning_rate` in the first fifth of training and falls linearly to
    0. On the CPU the result depends on the arguments alone: one thread, whatever else runs. torch's global generator is
    left as it was found. `progress` is called about `N_REPORTS` times with the number of steps done and the batch's
    mean cross-entropy in nats. The classifier is returned on `device`, in evaluation mode.
    """
    if len(images) != len(labels) or len(images) < 2:
        raise ValueError(f"need a label for each of at least 2 images, got {len(images)} images, {len(labels)} labels")
    if int(labels.min()) < 0:
        raise ValueError(f"labels must be 0 or more, got {int(labels.min())} to {int(labels.max())}")
    if steps < 1 or batch_size < 2:
        raise ValueError(f"steps must be at least 1 and batch_size at least 2, got {steps} and {batch_size}")
    if device.type == "cpu":
        torch.set_num_threads(1)
    generator = torch.Generator(device).manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        classifier = Classifier((images.shape[1], images.shape[2]), int(labels.max()) + 1).to(device)
    optimizer = torch.optim.AdamW(classifier.parameters(), lr=learning_rate, fused=True)
    windows, labels = _shifted_windows(images.to(device)), labels.to(device)
    batches = Batches(torch.arange(len(images), device=device), batch_size, generator)
    for step in range(steps):
        rows = batches.draw()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _one_cycle((step + 0.5) / steps)
        loss = F.cross_entropy(classifier(binarize(_draw_shifts(windows, rows, generator), generator)), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        done = step + 1
        if progress and (done == steps or done % math.ceil(steps / N_REPORTS) == 0):
            progress(done, loss.item())
    return classifier.eval()


def _shifted_windows(images: Tensor) -> Tensor:
    """Return a view of all small shifts of images (n, H, W): (n, shifts, shifts, H, W), just one for tiny images."""
    height, width = images.shape[1:]
    margin = min(height, width) // 28
    return F.pad(images, (margin,) * 4).unfold(1, height, 1).unfold(2, width, 1)


def _draw_shifts(windows: Tensor, rows: Tensor, generator: torch.Generator) -> Tensor:
    down, right = torch.randint(windows.shape[1], (2, len(rows)), generator=generator, device=generator.device)
    return windows[rows, down, right]


def _one_cycle(progress: float) -> float:
    """Return the learning rate's factor: linear from 0 to 1 at a fifth of training, then linear to 0 at its end."""
    return min(5 * progress, 1.25 * (1 - progress))


def classify(classifier: Classifier, x: Tensor) -> Tensor:
    """Return the most probable class of each image (n, 1, H, W): int64, (n,)."""
    return _in_evaluation_mode(classifier, classifier.forward, x).argmax(1)


def extract_features(classifier: Classifier, x: Tensor) -> Tensor:
    """Return the classifier's features of images (n, 1, H, W): (n, 64), at least 0, the input of its last layer."""
    return _in_evaluation_mode(classifier, classifier.features, x)


@torch.no_grad()
def _in_evaluation_mode(classifier: Classifier, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if classifier.training:
        raise ValueError("the classifier is in training mode, where a class depends on the batch: call .eval()")
    return in_batches(function, x, size=AT_ONCE)


def class_distribution(labels: Tensor, n_classes: int) -> Tensor:
    """Return the frequency of each class among labels (n,): float64, (n_classes,), on the CPU, summing to 1.

    Raises
    ------
    ValueError
        If there is no label, or one outside 0 .. n_classes - 1.
    """
    if labels.numel() == 0:
        raise ValueError("there are no labels, so no distribution of them: classify at least one image")
    if not 0 <= int(labels.min()) <= int(labels.max()) < n_classes:
        raise ValueError(f"labels must lie in 0..{n_classes - 1}, got {int(labels.min())} to {int(labels.max())}")
    return torch.bincount(labels.flatten().cpu(), minlength=n_classes).double() / labels.numel()


def class_cross_entropy(true_distribution: Tensor, generated_distribution: Tensor, n_samples: int) -> float:
    """Return the paper's -c^T (log c_hat - log c) = KL(c || c_hat), in nats (paper, "Class distribution").

    Frequencies c and c_hat are (K,); zeros in c contribute nothing; c_hat was counted from n_samples labels.

    DEVIATION: the paper's number is infinite once a class is missing from the samples. Here every class starts with
    `PSEUDO_COUNT` samples, c_hat = (count + 1/2) / (n + K/2) for K classes, so that the worst case, all n samples in
    one of ten equally frequent classes, reads 0.9 log(2n + 10) - log 10 to within 1/n: 4.5 nats at n = 1,000.

    Samples with exactly the true frequencies in expectation read (K - 1) / (2 n) on average, not 0: 0.0045 nats at
    n = 1,000 and K = 10. The reference is the same number for n real test images.
    """
    true, generated = true_distribution.double().cpu(), generated_distribution.double().cpu()
    if true.shape != generated.shape or true.ndim != 1:
        raise ValueError(f"both distributions must have shape (K,), got {tuple(true.shape)}, {tuple(generated.shape)}")
    for name, c in (("true", true), ("generated", generated)):
        if bool((c < 0).any()) or not math.isclose(float(c.sum()), 1, abs_tol=1e-6):
            raise ValueError(f"the {name} distribution must be non-negative and sum to 1, got {c.tolist()}")
    smoothed = (generated * n_samples + PSEUDO_COUNT) / (n_samples + PSEUDO_COUNT * len(true))
    return float((torch.xlogy(true, true) - true * smoothed.log()).sum())


def frechet_distance(features_a: Tensor, features_b: Tensor) -> float:
    """Return the squared Frechet distance between Gaussians fitted to features (n_a, d) and (n_b, d), as for the FID.

        |mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))

    (Heusel et al. 2017, eq. 6, with the features of a digit classifier in place of Inception's: comparable only between
    numbers from the same classifier.) The covariances may be singular.

    Two sets of n_a and n_b draws from one Gaussian with covariance eigenvalues e_i do not read 0 but, to first order,
    (1/n_a + 1/n_b) (sum_i e_i + sum_ij e_i e_j (1 + [i = j]) / (2 (e_i + e_j))): compare sets of one size, and real
    images against other real images for the value of a perfect model.
    """
    for name, features in (("features_a", features_a), ("features_b", features_b)):
        if features.ndim != 2 or len(features) < 2 or features.shape[1] != features_a.shape[1]:
            shapes = f"{tuple(features_a.shape)} and {tuple(features_b.shape)}"
            raise ValueError(f"features must be (n_a, d) and (n_b, d) with at least 2 rows each, got {shapes}")
        if not bool(features.isfinite().all()):
            raise ValueError(f"{name} must be finite")
    a, b = features_a.double(), features_b.double()
    root_a, root_b = _covariance_root(a), _covariance_root(b)
    # tr (S_a S_b)^(1/2) is the sum of the singular values of R_a^T R_b for any roots R R^T = S, singular or not
    overlap = torch.linalg.svdvals(root_a.T @ root_b).sum()
    squared = (a.mean(0) - b.mean(0)).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * overlap
    return max(0.0, float(squared))


def _covariance_root(features: Tensor) -> Tensor:
    """Return R, (d, d), with R R^T the unbiased covariance of features (n, d)."""
    eigenvalues, eigenvectors = torch.linalg.eigh(torch.cov(features.T).reshape(features.shape[1], -1))
    return eigenvectors * eigenvalues.clamp_min(0).sqrt()


def sharpness(images: Tensor) -> float:
    """Return 1 - mean pixel entropy in bits, of images given as probabilities of their pixels being on.

    1 if every pixel is 0 or 1, and 0 if every pixel is 1/2. The background counts, so that the scale is short: compare
    differences, and take the grey test images as the reference of a perfect blur-free decoder. For reconstructions
    pass the decoder's means; of an autoregressive decoder's samples, binary by construction, it says nothing.
    """
    p = images.double()
    if p.numel() == 0 or not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError("sharpness needs pixel probabilities in [0, 1]: pass means, not logits or grey values to 255")
    entropy_nats = -(torch.xlogy(p, p) + torch.xlogy(1 - p, 1 - p))
    return float(1 - entropy_nats.mean() / math.log(2))
