"""How well a few labels suffice on given features: errors of a support vector machine and of a transductive one.

Owns the draw of labelled images, the choice of the machine's two settings on the labelled features alone, both machines
and their average over draws. Codes and pixels are treated alike, as arrays of shape (n, dim), with labels of shape
(n,). Errors are fractions of test images, in [0, 1].

Nothing here reads a test label before the error is counted, nor a test feature before it is classified, with one
exception: `svm_error_authors`, which chooses gamma by the test labels as the authors' code does. All machines use
scikit-learn's SVC (one against one) on a kernel matrix computed once, which makes the cost almost independent of the
dimension.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.svm import SVC
from torch import Tensor

from infovae.config import PixelConfig, RunConfig, SemiSupervisedEvaluation
from infovae.data import ImageData
from infovae.evaluation.images import Evaluated, encode, see
from infovae.model import Model, PixelModel

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

PENALTIES = (1.0, 10.0, 100.0)
GAMMA_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
FIRST_PENALTY = 10.0  # with which gamma is chosen
N_FOLDS = 3

UNLABELLED_WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Penalty of an unlabelled point's slack, relative to a labelled one's, round by round."""
BALANCE_SLACK = 0.25
"""A class may take this fraction more of the unlabelled points than its share of the labelled ones."""

_TEST_ROWS = 2000  # rows of the kernel matrix against test points held at once


AUTHORS_PENALTY = 1.0  # scikit-learn's default, which they left
AUTHORS_GAMMA_FACTORS = tuple(2.0**exponent for exponent in range(-4, 6))
"""They go from 1e-4 over the features' range to 100 in steps of 2; outside of these the error rose."""


def evaluate(
    evaluation: SemiSupervisedEvaluation,
    config: RunConfig | PixelConfig,
    model: Model | PixelModel,
    data: ImageData,
    generator: torch.Generator,
) -> Evaluated:
    """Return test errors of machines that see `n_labels` labels, means over `n_draws` draws of the labelled images.

    `svm_error` and `tsvm_error` are given E[z|x]; `svm_error_sampled` is the former on z ~ q(z|x). The machine does not
    see the scale of its features: means that vary by a thousandth of the posterior's standard deviation classify well
    though the code holds nothing. `svm_error_authors` and `svm_error_rbf_sampled`: see `peeking_errors`.
    """
    n_pool = min(config.n_train, evaluation.n_pool)
    pool = encode(model, see(data.train_images[:n_pool], config, "train", generator))
    test = encode(model, see(data.test_images, config, "test", generator))
    labels, test_labels = data.train_labels[:n_pool].numpy(), data.test_labels.numpy()
    n_labels, n_draws, seed = evaluation.n_labels, evaluation.n_draws, config.seed

    def errors(features_pool: Tensor, features_test: Tensor, n_unlabelled: int) -> dict[str, float]:
        return semi_supervised_errors(
            features_pool.cpu().numpy(),
            labels,
            features_test.cpu().numpy(),
            test_labels,
            n_labels=n_labels,
            n_draws=n_draws,
            n_unlabelled=n_unlabelled,
            seed=seed,
        )

    metrics = errors(pool.mu, test.mu, evaluation.n_unlabelled)
    z_pool, z_test = (
        (pool.mu, test.mu) if isinstance(model, PixelModel) else (pool.sample(generator), test.sample(generator))
    )
    sampled = metrics if z_pool is pool.mu else errors(z_pool, z_test, 0)
    peeking = peeking_errors(z_pool.cpu().numpy(), labels, z_test.cpu().numpy(), test_labels, n_labels, n_draws, seed)
    return {**metrics, "svm_error_sampled": sampled["svm_error"], **peeking}, {}


class SvmSettings(NamedTuple):
    """A machine with kernel exp(-gamma |a - b|^2): its penalty C of a labelled point's slack, and gamma."""

    penalty: float
    gamma: float


def draw_labelled(labels: Labels, n_labels: int, seed: int) -> NDArray[np.intp]:
    """Draw the images whose labels may be seen: the same number of each class, without replacement.

    Returns
    -------
    Indices into `labels`, sorted, (n_labels,).

    Raises
    ------
    ValueError
        If the classes do not divide `n_labels`, or a class has too few images.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if n_labels < 1 or n_labels % len(classes):
        raise ValueError(f"n_labels must be a positive multiple of the {len(classes)} classes, got {n_labels}")
    per_class = n_labels // len(classes)
    if counts.min() < per_class:
        raise ValueError(
            f"n_labels={n_labels} needs {per_class} images of each class, but class {classes[counts.argmin()]} has "
            f"{counts.min()}: use at most {counts.min() * len(classes)} labels, or more images"
        )
    rng = np.random.default_rng(seed)
    drawn = [rng.choice(np.flatnonzero(labels == label), per_class, replace=False) for label in classes]
    return np.sort(np.concatenate(drawn))


def choose_settings(features: NDArray[np.floating], labels: Labels, seed: int) -> SvmSettings:
    """Choose gamma, then C, by stratified cross-validation on labelled points; on a tie the smaller value.

    First gamma with C = `FIRST_PENALTY`, then C with that gamma: 7 settings tried instead of the grid's 15.

    gamma is a factor of 1 / (dim * mean variance of a feature), so that the choice, and hence the machine, ignores
    where the features lie and their common scale. Features keep their scales relative to each other: standardising each
    would blow up latent dimensions, and pixels of the margin, that hold nothing.

    Parameters
    ----------
    seed : decides the folds.

    Raises
    ------
    ValueError
        If a class has fewer than two points, or there is only one class.
    """
    _check(features, labels)
    features = _centred(features, features)
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or counts.min() < 2:
        found = dict(zip(classes.tolist(), counts.tolist(), strict=True))
        raise ValueError(f"cross-validation needs at least 2 classes with 2 labels each, got labels per class {found}")
    folds = StratifiedKFold(min(N_FOLDS, int(counts.min())), shuffle=True, random_state=seed)
    splits = list(folds.split(features, labels))
    squared = _squared_distances(features, features)
    gammas = [factor * _scale_gamma(features) for factor in GAMMA_FACTORS]

    def n_mistakes(penalty: float, gamma: float) -> int:
        kernel = np.exp(-gamma * squared)
        return sum(_n_mistakes(penalty, kernel, labels, *split) for split in splits)

    gamma = min(gammas, key=lambda gamma: n_mistakes(FIRST_PENALTY, gamma))
    return SvmSettings(min(PENALTIES, key=lambda penalty: n_mistakes(penalty, gamma)), gamma)


def svm_error(
    features_train: NDArray[np.floating],
    labels_train: Labels,
    features_test: NDArray[np.floating],
    labels_test: Labels,
    seed: int,
    settings: SvmSettings | None = None,
) -> float:
    """Test error of a support vector machine with an RBF kernel, trained on labelled points.

    Parameters
    ----------
    settings : by default those that `choose_settings` chooses on the training points with `seed`.
    """
    _check(features_test, labels_test)
    settings = settings or choose_settings(features_train, labels_train, seed)
    train = _centred(features_train, features_train)
    machine = _machine(settings.penalty).fit(_kernel(train, train, settings.gamma), labels_train)
    predicted = _predict(machine, _centred(features_test, features_train), train, settings.gamma)
    return float(np.mean(predicted != labels_test))


def transductive_svm_error(
    features_labelled: NDArray[np.floating],
    labels: Labels,
    features_unlabelled: NDArray[np.floating],
    features_test: NDArray[np.floating],
    labels_test: Labels,
    seed: int,
    settings: SvmSettings | None = None,
) -> float:
    """Test error of a transductive support vector machine: unlabelled points, too, keep away from its boundary.

    A support vector machine labels the unlabelled points. Then, once for each of `UNLABELLED_WEIGHTS`, a machine is
    trained on all points, with the penalty of the unlabelled ones' slack multiplied by that weight, and labels the
    unlabelled points afresh. Every labelling gives no class more than (1 + `BALANCE_SLACK`) times its share of the
    labelled points: points choose in order of certainty, each the best class that still has room.

    DEVIATION: Kingma et al. (2014) and the paper do not name their implementation. This one differs from SVMlight
    (Joachims 1999) in that it is one machine for all classes (one against one) instead of a binary one per class; all
    points are relabelled at once, in five rounds, instead of swapped in pairs until the objective stops falling; and
    class sizes are bounded instead of prescribed, because an exactly balanced labelling of digits, which are not
    exactly balanced, would be wrong for at least 2 % of them.

    Parameters
    ----------
    features_unlabelled
        (m, dim); m may be 0. With `features_test` itself the machine is transductive in the strict sense; with other
        images, as in `semi_supervised_errors`, it is inductive, and the test images decide nothing. The cost grows with
        (n + m)^2 in memory (8 bytes each) and time.
    settings : by default those that `choose_settings` chooses on the labelled points alone with `seed`.
    """
    _check(features_test, labels_test)
    settings = settings or choose_settings(features_labelled, labels, seed)
    labelled, unlabelled, test = (
        _centred(features, features_labelled) for features in (features_labelled, features_unlabelled, features_test)
    )
    points = np.concatenate([labelled, unlabelled])
    machine = _train_transductive(_kernel(points, points, settings.gamma), labels, settings.penalty)
    return float(np.mean(_predict(machine, test, points, settings.gamma) != labels_test))


def semi_supervised_errors(
    features_pool: NDArray[np.floating],
    labels_pool: Labels,
    features_test: NDArray[np.floating],
    labels_test: Labels,
    *,
    n_labels: int,
    n_draws: int,
    n_unlabelled: int,
    seed: int,
) -> dict[str, float]:
    """Mean error on the test set over draws of the labelled points (paper, "Semi-supervised", M1+TSVM protocol).

    Draw k is the same for every array of features with the same labels and seed, and whatever `n_draws` is.

    Parameters
    ----------
    n_unlabelled
        Points of the pool, other than the labelled ones, drawn for the transductive machine; all there are if fewer. 0
        leaves that machine out.

    Returns
    -------
    dict
        `svm_error` and `tsvm_error`, means over draws, in [0, 1]; with at least two draws also `svm_error_std` and
        `tsvm_error_std`, standard deviations over draws (n - 1 in the denominator), not of the mean.
    """
    if n_draws < 1 or n_unlabelled < 0:
        raise ValueError(f"need n_draws >= 1 and n_unlabelled >= 0, got {n_draws} and {n_unlabelled}")
    errors: dict[str, list[float]] = {"svm_error": [], "tsvm_error": []}
    for draw_seed in map(int, np.random.SeedSequence(seed).generate_state(n_draws)):
        labelled = draw_labelled(labels_pool, n_labels, draw_seed)
        points, labels = features_pool[labelled], labels_pool[labelled]
        settings = choose_settings(points, labels, draw_seed)
        errors["svm_error"].append(svm_error(points, labels, features_test, labels_test, draw_seed, settings))
        if n_unlabelled:
            others = np.setdiff1d(np.arange(len(features_pool)), labelled)
            order = np.random.default_rng(draw_seed).permutation(others)
            unlabelled = features_pool[order[:n_unlabelled]]
            errors["tsvm_error"].append(
                transductive_svm_error(points, labels, unlabelled, features_test, labels_test, draw_seed, settings)
            )
    means = {name: float(np.mean(values)) for name, values in errors.items() if values}
    spreads = {f"{name}_std": float(np.std(values, ddof=1)) for name, values in errors.items() if len(values) > 1}
    return means | spreads


def peeking_errors(
    features_pool: NDArray[np.floating],
    labels_pool: Labels,
    features_test: NDArray[np.floating],
    labels_test: Labels,
    n_labels: int,
    n_draws: int,
    seed: int,
) -> dict[str, float]:
    """Mean test error of the authors' machine over draws of the labels, and what their choice of gamma is worth.

    The authors' code draws the labelled points without regard to their classes, and trains machines with an RBF kernel
    and C = 1 for a grid of gamma. `svm_error_authors` is the least *test* error over that grid, draw by draw, which is
    what they report: it has seen the test labels and is no estimate of an error. `svm_error_rbf_sampled` is the error
    of the same machines on the same draws with gamma chosen by `N_FOLDS`-fold cross-validation on the labelled points.
    The second is never below the first; the difference is what looking at the test labels is worth.
    """
    least, honest = [], []
    for draw_seed in map(int, np.random.SeedSequence(seed).generate_state(n_draws)):
        drawn = np.random.default_rng(draw_seed).choice(len(labels_pool), n_labels, replace=False)
        points, labels = _centred(features_pool[drawn], features_pool[drawn]), labels_pool[drawn]
        test = _centred(features_test, features_pool[drawn])
        splits = list(KFold(N_FOLDS, shuffle=True, random_state=draw_seed).split(points))
        squared, squared_test = _squared_distances(points, points), _squared_distances(test, points)
        errors, mistakes = [], []
        for gamma in (factor * _scale_gamma(points) for factor in AUTHORS_GAMMA_FACTORS):
            kernel = np.exp(-gamma * squared)
            mistakes.append(sum(_n_mistakes(AUTHORS_PENALTY, kernel, labels, *split) for split in splits))
            machine = _machine(AUTHORS_PENALTY).fit(kernel, labels)
            errors.append(float(np.mean(machine.predict(np.exp(-gamma * squared_test)) != labels_test)))
        least.append(min(errors))
        honest.append(errors[int(np.argmin(mistakes))])
    return {"svm_error_authors": float(np.mean(least)), "svm_error_rbf_sampled": float(np.mean(honest))}


def _train_transductive(kernel: Array, labels: Labels, penalty: float) -> SVC:
    """Train on the kernel matrix of the labelled points, which come first, and the unlabelled ones."""
    n, n_unlabelled = len(labels), len(kernel) - len(labels)
    machine = _machine(penalty).fit(kernel[:n, :n], labels)
    if not n_unlabelled:
        return machine
    classes, counts = np.unique(labels, return_counts=True)
    room = np.ceil((1 + BALANCE_SLACK) * n_unlabelled * counts / n).astype(np.int64)
    guessed = classes[_balanced_choice(_scores(machine, kernel[n:, :n]), room)]
    for weight in UNLABELLED_WEIGHTS:
        weights = np.concatenate([np.ones(n), np.full(n_unlabelled, weight)])
        machine = _machine(penalty).fit(kernel, np.concatenate([labels, guessed]), sample_weight=weights)
        guessed = classes[_balanced_choice(_scores(machine, kernel[n:]), room)]
    return machine


def _balanced_choice(scores: Array, room: Labels) -> NDArray[np.intp]:
    """Choose a class for each row of scores (n, n_classes), class k at most room[k] times, most certain rows first."""
    best, second = np.sort(scores, axis=1)[:, :-3:-1].T
    preferences = np.argsort(-scores, axis=1, kind="stable")
    left = room.copy()
    choice = np.empty(len(scores), dtype=np.intp)
    for row in np.argsort(second - best, kind="stable"):
        choice[row] = next(k for k in preferences[row] if left[k])
        left[choice[row]] -= 1
    return choice


def _scores(machine: SVC, kernel: Array) -> Array:
    """Return a score per class, (n, n_classes); SVC gives a single column for two classes."""
    decision = machine.decision_function(kernel)
    return np.stack([-decision, decision], axis=1) if decision.ndim == 1 else decision


def _machine(penalty: float) -> SVC:
    return SVC(C=penalty, kernel="precomputed", decision_function_shape="ovr", cache_size=500)


def _n_mistakes(
    penalty: float, kernel: Array, labels: Labels, train: NDArray[np.intp], held_out: NDArray[np.intp]
) -> int:
    machine = _machine(penalty).fit(kernel[np.ix_(train, train)], labels[train])
    return int(np.sum(machine.predict(kernel[np.ix_(held_out, train)]) != labels[held_out]))


def _predict(machine: SVC, test: Array, points: Array, gamma: float) -> Labels:
    chunks = [test[first : first + _TEST_ROWS] for first in range(0, len(test), _TEST_ROWS)]
    return np.concatenate([machine.predict(_kernel(chunk, points, gamma)) for chunk in chunks])


def _kernel(a: Array, b: Array, gamma: float) -> Array:
    return np.exp(-gamma * _squared_distances(a, b))


def _squared_distances(a: Array, b: Array) -> Array:
    squared = (a * a).sum(1)[:, None] + (b * b).sum(1) - 2 * (a @ b.T)
    return np.maximum(squared, 0, out=squared)


def _scale_gamma(features: Array) -> float:
    """Return 1 / (dim * mean variance of a feature); 1 for points that are all the same, where no value matters."""
    total_variance = float(features.var(axis=0).sum())
    return 1 / total_variance if total_variance > 0 else 1.0


def _centred(features: NDArray[np.floating], reference: NDArray[np.floating]) -> Array:
    # the expansion of squared distances loses digits to a common offset: codes may lie far from 0 but close together
    return features.astype(np.float64) - reference.astype(np.float64).mean(axis=0)


def _check(features: NDArray[np.floating], labels: Labels) -> None:
    if features.ndim != 2 or len(features) != len(labels) or len(labels) == 0:
        raise ValueError(f"features must be (n, dim) and labels (n,), n >= 1, got {features.shape} and {labels.shape}")
    if not np.isfinite(features).all():
        raise ValueError("features must be finite: some are nan or infinite, so the encoder that gave them is broken")
