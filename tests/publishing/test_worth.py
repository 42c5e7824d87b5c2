"""What codes are worth is said of differences of one seed, with intervals, and corrected where there are several."""

from typing import Any

import pandas as pd
from rows import runs_of

from infovae.publishing.worth import (
    classes_in_code,
    compare_objectives,
    sample_quality,
    samples_against_mmd,
    spread_against_mmd,
    worth_of_code,
    worth_of_mmd_where_images_are_few,
    worth_on_all_images,
)


def test_samples_of_an_empty_code_are_said_to_be_so() -> None:
    measured = {"frechet_distance_real": 3.0, "class_cross_entropy": 0.05}
    full = {"objective": "mmd", "frechet_distance": 140.0, "mutual_information": 9.0, **measured}
    empty = {"objective": "averaged_elbo", "frechet_distance": 145.0, "mutual_information": 0.0, **measured}
    several = [{**run, "seed": seed} for run in (full, empty) for seed in range(3)]
    expected = (
        "“ELBO” of the authors’ code 145 and 0.05, empty code; MMD 140 and 0.05. Validation images, as many as there"
    )
    assert expected in sample_quality(runs_of(full, empty))
    runs = runs_of(*several)
    said = sample_quality(runs)
    nothing = "paired by seed or not paired (Welch, all seeds): none is decided."
    fewer = "Fréchet distance less that of the empty code, after Holm’s correction, paired by seed or not"
    assert fewer in said and said.endswith(
        f"Class cross-entropy less that of the empty code, after Holm’s correction, {nothing}"
    )
    table = compare_objectives(runs).set_index("objective")
    assert table.loc["mmd", "Fréchet distance less the empty code’s"] == "-5 (-5 to -5) [P] [N]"
    assert table.loc["averaged_elbo", "Fréchet distance less MMD’s"] == "5 (5 to 5) [P] [N]"
    assert table.loc["mmd", "Fréchet distance less MMD’s"] == "–"


def test_errors_and_likelihoods_are_said() -> None:
    errors = {"svm_error_sampled": 0.07, "svm_error": 0.05}
    said = classes_in_code(runs_of({"objective": "elbo", **errors}, {"objective": "mmd", **errors, "svm_error": 0.06}))
    assert said.endswith("in 10 dimensions (1 seed), least first: VAE 7.0 (5.0) and MMD 7.0 (6.0).")
    pixels = runs_of({"objective": "mmd", **errors}).assign(objective="pixels", latent_dim=784, svm_error=0.087)
    both = pd.concat([runs_of({"objective": "elbo", **errors}), pixels])
    assert classes_in_code(both).endswith(
        "in 10 dimensions (1 seed), least first: VAE 7.0 (5.0). On binarised pixels it is 8.7."
    )
    models = [{"objective": "mmd", "seed": seed, "nll": 90.0 + seed} for seed in range(3)]
    control = [{"objective": "unconditional", "latent_dim": 0, "seed": seed, "nll": 91.5 + seed} for seed in range(3)]
    vae = [{"objective": "elbo", "seed": seed, "nll": 89.0 + seed} for seed in range(3)]
    runs = runs_of(*vae, *models, *control)
    decided = "After Holm’s correction, paired by seed: below 0 is"
    assert worth_of_code(runs[3:]).endswith(f"log p(x) is exact: MMD -1.5 (-1.5 to -1.5). {decided} MMD.")
    said = worth_of_code(runs)
    vae_too = "MMD -1.5 (-1.5 to -1.5). After Holm’s correction, paired by seed: below 0 are VAE and MMD."
    assert said.endswith(f"{vae_too} Less that of the VAE: MMD 1 (1 to 1). {decided.replace('below', 'above')} MMD.")
    assert worth_of_code(runs[:6]) == ""


def test_samples_are_compared_with_those_of_mmd() -> None:
    distances = {"mmd": (140.0, 141.0, 142.0), "jensen": (130.0, 131.0, 132.0), "stein": (141.0, 141.0, 141.0)}
    runs = runs_of(
        *(
            {"objective": name, "seed": seed, "frechet_distance": x}
            for name, by_seed in distances.items()
            for seed, x in enumerate(by_seed)
        )
    )
    said = samples_against_mmd(runs)
    assert said.endswith("after Holm’s correction, paired by seed or not paired (Welch, all seeds): below 0 is Jensen.")
    column = compare_objectives(runs.assign(mutual_information=9.0)).set_index("objective")[
        "Fréchet distance less MMD’s"
    ]
    assert column["stein"] == "0 (-2.48 to 2.48)" and column["jensen"] == "-10 (-10 to -10) [P] [N]"
    assert samples_against_mmd(runs[runs["objective"] != "mmd"]) == samples_against_mmd(runs[runs["seed"] == 0]) == ""


def test_bound_on_all_images_is_held_against_that_of_an_empty_code() -> None:
    """A rate of 3 nats that saves 5 in reconstruction is worth 2."""
    vae = {"objective": "elbo", "rate": 3.0, "reconstruction_nll": 85.0, "mutual_information": 2.9}
    empty = {"objective": "averaged_elbo", "rate": 0.0, "reconstruction_nll": 90.0, "mutual_information": 0.0}
    runs = runs_of(*({**choice, "seed": seed} for choice in (vae, empty) for seed in range(3)))
    assert "in 10 dimensions (3 seeds): -2 (-2 to -2) nats" in worth_on_all_images(runs)
    full = runs.assign(mutual_information=2.0)
    assert worth_on_all_images(full) == worth_on_all_images(runs[:4]) == worth_on_all_images(runs[:3]) == ""


def test_gain_and_price_where_images_are_few_are_said_for_each_size() -> None:
    binary: dict[str, Any] = {"binarization": "dynamic", "decoder": "conv", "latent_dim": 5}
    changes = {"elbo": (180.0, 100.0), "mmd": (90.0, 101.5)}
    choices = [
        {**binary, "objective": name, "seed": seed, "n_train": n, "frechet_distance": frechet + seed, "nll": nll - n}
        for name, (frechet, nll) in changes.items() for seed in range(3) for n in (500, 1000)
    ]  # fmt: skip
    runs = runs_of(*choices)
    said = worth_of_mmd_where_images_are_few(runs)
    assert "Fréchet distance of samples: -90 (-90 to -90) at 500, -90 (-90 to -90) at 1,000. Bound on" in said
    assert said.endswith("−log p(x), nats: 1.5 (1.5 to 1.5) at 500, 1.5 (1.5 to 1.5) at 1,000.")
    assert worth_of_mmd_where_images_are_few(runs.assign(binarization="none")) == ""
    assert worth_of_mmd_where_images_are_few(runs[runs["seed"] == 0]) == ""


def test_spread_is_compared_on_both_sides_of_the_prior() -> None:
    spreads = {"mmd": -0.05, "wasserstein": 0.01, "stein": -0.15}
    choices = [
        {"objective": name, "seed": seed, "log_det_cov_per_dim_test": x, "log_det_cov_total_authors": -x * 20}
        for name, x in spreads.items() for seed in range(3)
    ]  # fmt: skip
    runs = runs_of(*choices, mutual_information=9.0)
    said = spread_against_mmd(runs)
    sides = "below 0 is Wasserstein, above 0 is Stein"
    both = f"after Holm’s correction, paired by seed or not paired (Welch, all seeds): {sides}."
    assert "below 0 the other is nearer" in said and f"On test images, {both} Measured the authors’ way, {both}" in said
    assert spread_against_mmd(runs[:2]) == ""
    table = compare_objectives(runs).set_index("objective")
    assert list(table.index) == ["stein", "wasserstein"]
    column = table["|log det Cov[q(z)]| / dim less MMD’s, test images"]
    assert list(column) == ["0.1 (0.1 to 0.1) [P] [N]", "-0.04 (-0.04 to -0.04) [P] [N]"]
    assert compare_objectives(runs[:2]).empty
