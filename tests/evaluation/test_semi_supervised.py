"""Both machines on oracle codes, against scikit-learn's own search, and where unlabelled points must help."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import make_moons
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.svm import SVC

from infovae.data.datasets import load
from infovae.evaluation import semi_supervised
from infovae.evaluation.semi_supervised import (
    Array,
    Labels,
    SvmSettings,
    choose_settings,
    draw_labelled,
    make_draw_seeds,
    peeking_errors,
    semi_supervised_errors,
    svm_error,
)

SETTINGS = SvmSettings(penalty=10.0, gamma=0.3)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def balanced_labels(per_class: int) -> Labels:
    return np.tile(np.arange(10), per_class)


def identity_code(labels: Labels, noise: float = 0.1, seed: int = 0) -> Array:
    return np.eye(10)[labels] + noise * rng(seed).standard_normal((len(labels), 10))


def chosen_svm_error(train: Array, labels: Labels, test: Array, test_labels: Labels) -> float:
    return svm_error(train, labels, test, test_labels, choose_settings(train, labels, 0))


# --- draws


@given(st.integers(1, 8), st.integers(0, 2**31))
def test_a_draw_is_balanced_and_without_repetition(per_class: int, seed: int) -> None:
    labels = rng(seed).permutation(np.repeat([3, 5, 9], [8, 11, 30]))
    drawn = draw_labelled(labels, 3 * per_class, seed)
    assert len(set(drawn.tolist())) == 3 * per_class
    assert np.array_equal(np.unique(labels[drawn], return_counts=True)[1], [per_class] * 3)


def test_draws_follow_their_seed_and_reach_every_image() -> None:
    labels = balanced_labels(20)
    draws = [draw_labelled(labels, 50, seed) for seed in range(60)]
    assert np.array_equal(draws[0], draw_labelled(labels, 50, 0))
    assert not np.array_equal(draws[0], draws[1])
    assert len(np.unique(np.concatenate(draws))) == len(labels)


def test_a_draw_that_cannot_be_balanced_is_refused() -> None:
    labels = np.append(balanced_labels(5), 3)
    with pytest.raises(ValueError, match="multiple of the 10 classes, got 25"):
        draw_labelled(labels, 25, 0)
    with pytest.raises(ValueError, match="class 0 has 5: use at most 50 labels"):
        draw_labelled(labels, 60, 0)


# --- the choice of the settings


def test_settings_are_those_of_two_searches_of_a_library() -> None:
    digits = load("digits")
    features, labels = digits.train_images[:300].flatten(1).numpy() / 255.0, digits.train_labels[:300].numpy()
    features[:, ::2] *= 0.1  # scales differ between features, and must keep doing so
    gammas = [factor / (features.shape[1] * features.var(axis=0).mean()) for factor in (0.25, 0.5, 1, 2, 4)]

    def best(name: str, values: list[float], **fixed: float) -> float:
        search = GridSearchCV(SVC(**fixed), {name: values}, cv=StratifiedKFold(3, shuffle=True, random_state=7))
        scores = search.fit(features, labels).cv_results_["mean_test_score"]
        return values[int(np.flatnonzero(scores > scores.max() - 1e-9)[0])]  # rounding breaks no tie

    gamma = best("gamma", gammas, C=10)
    assert choose_settings(features, labels, seed=7) == pytest.approx((best("C", [1, 10, 100], gamma=gamma), gamma))


def test_settings_ignore_common_scale_and_position_and_so_does_the_error() -> None:
    labels, test_labels = balanced_labels(10), balanced_labels(50)
    train, test = identity_code(labels, 0.5, 0), identity_code(test_labels, 0.5, 1)
    error = chosen_svm_error(train, labels, test, test_labels)
    assert 0.1 < error < 0.5
    chosen, tiny = choose_settings(train, labels, 0), choose_settings(1e-7 * train + 5, labels, 0)
    assert tiny == pytest.approx((chosen.penalty, chosen.gamma * 1e14))
    assert chosen_svm_error(1e-7 * train + 5, labels, 1e-7 * test + 5, test_labels) == pytest.approx(error, abs=0.005)


def test_settings_adapt_to_fine_structure() -> None:
    x = rng().uniform(-1, 1, (400, 1))
    clean, stripes = (x[:, 0] > 0).astype(int), (np.sin(20 * x[:, 0]) > 0).astype(int)
    assert choose_settings(x, stripes, 0).gamma > 4 * choose_settings(x, clean, 0).gamma


def test_the_test_set_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[SvmSettings] = []

    def spy(*arguments: Any) -> SvmSettings:
        chosen.append(choose_settings(*arguments))
        return chosen[-1]

    monkeypatch.setattr(semi_supervised, "choose_settings", spy)
    labels, test_labels = balanced_labels(30), balanced_labels(30)
    pool, test = identity_code(labels, 0.5, 0), identity_code(test_labels, 0.5, 1)
    keywords: dict[str, Any] = {"n_labels": 50, "n_unlabelled": 100, "draw_seeds": make_draw_seeds(0, 2)}
    right = semi_supervised_errors(pool, labels, test, test_labels, **keywords)
    # every label is wrong in the same way: the right predictions are then all counted as mistakes
    wrong = semi_supervised_errors(pool, labels, test, (test_labels + 1) % 10, **keywords)
    semi_supervised_errors(pool, labels, rng().permuted(test), test_labels, **keywords)
    assert len(chosen) == 6
    assert chosen[:2] == chosen[2:4] == chosen[4:]
    for name in ("svm_error", "tsvm_error"):
        assert right[name] < 0.6 < 0.9 < wrong[name]


def test_predictions_do_not_read_test_labels() -> None:
    labels, test = balanced_labels(4), identity_code(balanced_labels(10), 0.5, 1)
    train = identity_code(labels, 0.5, 0)
    # the fractions predicted as class k, each seen through test labels that are all k, add up to one
    svm = [1 - chosen_svm_error(train, labels, test, np.full(100, k)) for k in range(10)]
    tsvm = [1 - svm_error(train, labels, test, np.full(100, k), SETTINGS, test) for k in range(10)]
    assert sum(svm) == pytest.approx(1)
    assert sum(tsvm) == pytest.approx(1)


# --- the machine


def test_identity_code_reads_zero_and_codes_without_information_chance() -> None:
    labels, test_labels = balanced_labels(100), balanced_labels(200)
    code, test_code = identity_code(labels, 0.05, 0), identity_code(test_labels, 0.05, 1)
    keywords: dict[str, Any] = {"n_labels": 200, "n_unlabelled": 300, "draw_seeds": make_draw_seeds(0, 2)}
    good = semi_supervised_errors(code, labels, test_code, test_labels, **keywords)
    constant = semi_supervised_errors(np.ones((1000, 3)), labels, np.ones((2000, 3)), test_labels, **keywords)
    # not tight clusters: they would all be right or all wrong, and the error a multiple of a tenth
    noise, test_noise = rng(2).standard_normal((1000, 10)), rng(3).standard_normal((2000, 10))
    independent = semi_supervised_errors(noise, labels, test_noise, test_labels, **keywords)
    for name in ("svm_error", "tsvm_error"):
        assert good[name] == 0
        assert constant[name] == pytest.approx(0.9)
        assert independent[name] == pytest.approx(0.9, abs=0.03)


def test_error_is_that_of_the_kernel_it_states() -> None:
    labels, test_labels = balanced_labels(10), balanced_labels(300)  # more test points than are held at once
    train, test = identity_code(labels, 0.4, 0), identity_code(test_labels, 0.4, 1)
    machine = SVC(C=SETTINGS.penalty, gamma=SETTINGS.gamma).fit(train, labels)
    expected = float(np.mean(machine.predict(test) != test_labels))
    assert svm_error(train, labels, test, test_labels, SETTINGS) == pytest.approx(expected, abs=1e-3)


def test_error_approaches_bayes_on_two_gaussians() -> None:
    labels = np.tile([0, 1], 400)
    test_labels = np.tile([0, 1], 5000)
    train, test = (
        2.0 * y[:, None] + rng(seed).standard_normal((len(y), 1)) for seed, y in enumerate((labels, test_labels))
    )
    bayes = 0.5 * math.erfc(1 / math.sqrt(2))  # Phi(-1): half the distance between the means
    assert chosen_svm_error(train, labels, test, test_labels) == pytest.approx(bayes, abs=0.012)


def test_bad_features_and_too_few_labels_are_refused() -> None:
    labels = balanced_labels(3)
    broken = identity_code(labels)
    broken[4, 2] = np.nan
    with pytest.raises(ValueError, match="finite"):
        choose_settings(broken, labels, 0)
    with pytest.raises(ValueError, match="at least 2 classes with 2 labels each"):
        choose_settings(identity_code(labels[:10]), labels[:10], 0)
    with pytest.raises(ValueError, match=r"labels \(n,\)"):
        svm_error(identity_code(labels), labels, identity_code(labels), labels[:-1], SETTINGS)


# --- the transductive machine


def test_unlabelled_points_move_the_boundary_into_the_gap() -> None:
    # the labels alone put the boundary at 0.25, halfway between the inner two; the points leave a gap at 1
    labelled, labels = np.array([[-2.0], [-1.0], [1.5], [2.5]]), np.array([0, 0, 1, 1])
    points = np.concatenate([np.linspace(-3, 0.8, 100), np.linspace(1.2, 3, 100)])[:, None]
    classes = (points[:, 0] > 1).astype(np.int64)
    assert svm_error(labelled, labels, points, classes, SETTINGS) > 0.05
    assert svm_error(labelled, labels, points, classes, SETTINGS, points) == 0


def test_unlabelled_points_help_on_two_moons_and_on_digits() -> None:
    x, y = make_moons(1000, noise=0.05, random_state=0)
    moons = SvmSettings(penalty=10.0, gamma=5.0)
    errors = []
    for seed in range(8):
        labelled = draw_labelled(y[:400], 6, seed)
        few = x[labelled], y[labelled]
        unlabelled = np.delete(x[:400], labelled, axis=0)
        errors.append(
            (
                svm_error(*few, x[400:], y[400:], moons),
                svm_error(*few, x[400:], y[400:], moons, unlabelled),
            )
        )
    svm, tsvm = np.mean(errors, axis=0)
    assert tsvm < svm - 0.02

    digits = load("digits")
    pool, test = (images.flatten(1).numpy() / 255.0 for images in (digits.train_images, digits.test_images))
    found = semi_supervised_errors(
        pool,
        digits.train_labels.numpy(),
        test,
        digits.test_labels.numpy(),
        n_labels=100,
        n_unlabelled=800,
        draw_seeds=make_draw_seeds(0, 2),
    )
    assert found["tsvm_error"] < 0.7 * found["svm_error"] < 0.1


def test_without_unlabelled_points_or_weight_it_is_the_plain_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    labels, test_labels = balanced_labels(5), balanced_labels(100)
    train, test = identity_code(labels, 0.5, 0), identity_code(test_labels, 0.5, 1)
    svm = svm_error(train, labels, test, test_labels, SETTINGS)
    assert svm_error(train, labels, test, test_labels, SETTINGS, test[:0]) == svm
    assert svm_error(train, labels, test, test_labels, SETTINGS, test) != svm
    monkeypatch.setattr(semi_supervised, "UNLABELLED_WEIGHTS", (1e-9,))
    assert svm_error(train, labels, test, test_labels, SETTINGS, test) == pytest.approx(svm, abs=0.005)


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=30, unique_by=abs), st.data())
def test_two_classes_of_given_sizes_are_split_as_joachims_does(decision: list[float], data: st.DataObject) -> None:
    n_positive = data.draw(st.integers(0, len(decision)))
    scores = np.stack([-np.array(decision), np.array(decision)], axis=1)
    room = np.array([len(decision) - n_positive, n_positive])
    choice = semi_supervised._balanced_choice(scores, room)
    highest = np.argsort(decision)[len(decision) - n_positive :]
    assert set(np.flatnonzero(choice == 1)) == set(highest)


@given(st.integers(0, 2**31))
@settings(max_examples=30)
def test_no_class_takes_more_than_its_room(seed: int) -> None:
    scores = rng(seed).standard_normal((40, 4)) + np.array([2, 1, 0, 0])
    preferred = np.bincount(scores.argmax(1), minlength=4)
    assert np.array_equal(semi_supervised._balanced_choice(scores, np.full(4, 40)), scores.argmax(1))
    chosen = np.bincount(semi_supervised._balanced_choice(scores, np.full(4, 12)), minlength=4)
    assert chosen.sum() == 40
    assert (chosen <= 12).all()
    assert (chosen[preferred >= 12] == 12).all()


# --- means over draws


def test_mean_and_spread_are_over_draws_that_do_not_depend_on_their_number() -> None:
    labels, test_labels = balanced_labels(40), balanced_labels(40)
    pool, test = identity_code(labels, 0.5, 0), identity_code(test_labels, 0.5, 1)

    def errors(n_draws: int, n_unlabelled: int = 0, seed: int = 3) -> dict[str, float]:
        return semi_supervised_errors(
            pool,
            labels,
            test,
            test_labels,
            n_labels=40,
            n_unlabelled=n_unlabelled,
            draw_seeds=make_draw_seeds(seed, n_draws),
        )

    one, two = errors(1), errors(2)
    first, second = one["svm_error"], 2 * two["svm_error"] - one["svm_error"]
    assert first != second
    assert set(one) == {"svm_error"}
    assert two["svm_error_std"] == pytest.approx(abs(first - second) / math.sqrt(2))
    assert errors(2) == two != errors(2, seed=4)
    both = errors(2, n_unlabelled=10_000)
    assert set(both) == {"svm_error", "svm_error_std", "tsvm_error", "tsvm_error_std"}
    assert both["svm_error"] == two["svm_error"]


def test_unlabelled_points_are_none_of_the_labelled_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[float], list[float]]] = []

    def spy(labelled: Array, labels: Labels, test: Array, test_labels: Labels, *others: Any) -> float:
        seen.extend((labelled[:, 0].tolist(), unlabelled[:, 0].tolist()) for unlabelled in others[1:])
        return 0.0

    monkeypatch.setattr(semi_supervised, "svm_error", spy)
    labels = balanced_labels(10)
    pool = np.arange(100.0)[:, None]
    for n_unlabelled in (30, 1000):
        semi_supervised_errors(pool, labels, pool, labels, n_labels=20, n_unlabelled=n_unlabelled, draw_seeds=[0])
    assert [len(unlabelled) for _, unlabelled in seen] == [30, 80]
    for labelled, unlabelled in seen:
        assert len({*labelled, *unlabelled}) == len(labelled) + len(unlabelled)


# --- the authors' machine


def test_authors_error_is_the_least_test_error_of_machines_with_c_1() -> None:
    labels, test_labels = balanced_labels(30), balanced_labels(30)
    pool, test = identity_code(labels, 0.5, 0), identity_code(test_labels, 0.5, 1)
    found = peeking_errors(pool, labels, test, test_labels, n_labels=60, draw_seeds=[4])
    drawn = rng(4).choice(300, 60, replace=False)
    assert len(set(np.bincount(labels[drawn], minlength=10))) > 1  # without regard to classes
    scale = pool[drawn].var(axis=0).sum()
    errors = [
        float(np.mean(SVC(gamma=2.0**k / scale).fit(pool[drawn], labels[drawn]).predict(test) != test_labels))
        for k in range(-4, 8)
    ]
    assert found["svm_error_authors"] == pytest.approx(min(errors), abs=1e-9)
    assert min(errors) <= found["svm_error_rbf_sampled"] <= max(errors)


def test_a_draw_that_misses_a_rare_class_has_its_error_too() -> None:
    """20 labels of 400, 13 of them of the second class: where it is missed, only the first can be predicted."""
    labels = np.repeat([0, 1], [387, 13])
    points = rng().normal(size=(400, 2)) + 4 * labels[:, None]
    missed = [seed for seed in range(40) if not labels[rng(seed).choice(400, 20, replace=False)].any()]
    seen_once = [seed for seed in range(40) if labels[rng(seed).choice(400, 20, replace=False)].sum() == 1]
    assert missed and seen_once
    found = peeking_errors(points, labels, points, labels, n_labels=20, draw_seeds=missed)
    assert found == {"svm_error_authors": pytest.approx(13 / 400), "svm_error_rbf_sampled": pytest.approx(13 / 400)}
    found = peeking_errors(points, labels, points, labels, n_labels=20, draw_seeds=seen_once)
    assert 0 <= found["svm_error_authors"] <= found["svm_error_rbf_sampled"] < 0.1


def test_looking_at_test_labels_gains_on_noise_and_the_honest_choice_does_not() -> None:
    """Codes without information: chance is 0.9, and the least of ten errors on 200 images lies a little below it."""
    labels, test_labels = balanced_labels(100), balanced_labels(20)
    noise, test_noise = rng(2).standard_normal((1000, 10)), rng(3).standard_normal((200, 10))
    found = peeking_errors(noise, labels, test_noise, test_labels, n_labels=100, draw_seeds=range(10))
    assert found["svm_error_rbf_sampled"] == pytest.approx(0.9, abs=0.02)
    assert found["svm_error_authors"] < found["svm_error_rbf_sampled"] - 0.008
