"""Verdicts on made-up runs whose truth is known: both directions, too few seeds, missing conditions."""

import pandas as pd
import pytest

from infovae import claims, objective
from infovae.claims import CLAIMS, judge, ledger
from infovae.experiments import MODULES

BY_NAME = {claim.name: claim for claim in CLAIMS}


def semi(elbo: list[float], mmd: list[float]) -> pd.DataFrame:
    rows = [("elbo", seed, value) for seed, value in enumerate(elbo)]
    rows += [("mmd_annealed", seed, value) for seed, value in enumerate(mmd)]
    frame = pd.DataFrame(rows, columns=["objective", "seed", "svm_error"])
    frame["svm_error_sampled"] = frame["svm_error"]
    return frame.assign(latent_dim=10, decoder="pixelcnn", status="done", dataset="mnist", mutual_information=5.0)


def test_claim_that_holds_is_reproduced() -> None:
    row = judge(BY_NAME["mmd_annealed_beats_elbo_semi_supervised"], semi([0.9, 0.88, 0.91], [0.1, 0.12, 0.11]))
    assert row["verdict"] == "reproduced" and row["n_seeds"] == 3
    assert row["mean"] == pytest.approx((0.1 - 0.9 + 0.12 - 0.88 + 0.11 - 0.91) / 3)
    # t(0.975, 2) = 4.302653 times the standard error of the three paired differences
    mean = -0.7866666666666667
    assert row["ci95_high"] == pytest.approx(mean + 4.302653 * pd.Series([-0.8, -0.76, -0.8]).std() / 3**0.5)


def test_claim_that_is_turned_round_is_not_reproduced() -> None:
    row = judge(BY_NAME["mmd_annealed_beats_elbo_semi_supervised"], semi([0.1, 0.12, 0.11], [0.9, 0.88, 0.91]))
    assert row["verdict"] == "not reproduced"


def test_seeds_that_disagree_are_inconclusive() -> None:
    row = judge(BY_NAME["mmd_annealed_beats_elbo_semi_supervised"], semi([0.5, 0.1, 0.5], [0.1, 0.5, 0.45]))
    assert row["verdict"] == "inconclusive"


def test_interval_over_dimensions_is_that_of_one_dimension() -> None:
    """Each seed's own worst dimension has nearly the same information: an interval of those would be far too narrow."""
    runs = comparison({"mmd": 0.0}, {"mmd": 9.0})
    runs["mutual_information"] = [3.0, 9.0, 9.0, 3.1, 3.2, 9.0]  # seed 0: dimensions 2 and 10, seed 1, seed 2
    row = judge(BY_NAME["mmd_keeps_z"], runs)
    assert row["verdict"] == "inconclusive"
    assert row["mean"] == pytest.approx(1 - (3.0 + 9.0 + 3.2) / 3)  # dimension 2, whose interval reaches higher


def test_noisy_dimension_does_not_hide_one_that_refutes() -> None:
    runs = comparison({"mmd": 0.0}, {"mmd": 9.0})
    runs["mutual_information"] = [0.0, 0.0, 0.01, 9.0, 0.02, 9.0]  # dimension 2 is empty, 10 holds 0 or 9 nats
    row = judge(BY_NAME["mmd_keeps_z"], runs)
    assert row["verdict"] == "not reproduced" and row["mean"] == pytest.approx(1 - 0.01)
    classes = runs.assign(class_cross_entropy_real=0.01, class_cross_entropy=[0.2, 0.02, 0.21, 9.0, 0.22, 0.02])
    row = judge(BY_NAME["mmd_class_distribution"], classes)
    assert row["verdict"] == "not reproduced" and row["mean"] == pytest.approx(0.21 - 0.01 - 0.05)
    within = classes.assign(class_cross_entropy=[0.03, 0.02, 0.031, 0.05, 0.032, 0.02])  # the bound is not 0
    row = judge(BY_NAME["mmd_class_distribution"], within)
    assert row["verdict"] == "inconclusive" and row["mean"] == pytest.approx(0.03 - 0.01 - 0.05)  # dimension 10


def test_failed_rival_might_have_been_the_best() -> None:
    values = {"mmd": 0.01, "unregularized": 0.5, "stein": 0.001, "jensen": 0.3}
    runs = comparison(values, dict.fromkeys(values, 5.0))
    assert judge(BY_NAME["mmd_squared_mmd_best"], runs)["verdict"] == "not reproduced"
    runs.loc[runs["objective"] == "stein", ["status", "squared_mmd", "mutual_information"]] = ["failed: x", None, None]
    row = judge(BY_NAME["mmd_squared_mmd_best"], runs)
    assert (row["verdict"], row["n_dropped_seeds"]) == ("inconclusive", 3)
    runs = usage(0.05, [(10.0, 9.2, 0.4), (1000.0, 0.01, 0.001)])
    best = (runs["objective"] == "mmd") & (runs["lambda_"] == 1000)
    runs.loc[best, ["status", "squared_mmd_validation", "mutual_information"]] = ["failed: x", None, None]
    row = judge(BY_NAME["infovae_keeps_z"], runs)
    assert (row["verdict"], row["n_dropped_seeds"]) == ("inconclusive", 3)


def test_generalising_is_judged_on_the_less_favourable_metric_not_on_each_seeds_own() -> None:
    rows = [("elbo", seed, 0.0, 0.0) for seed in range(3)]
    rows += [("mmd", seed, *pair) for seed, pair in enumerate([(1.0, -0.9), (-1.0, 1.0), (0.1, 0.9)])]
    runs = pd.DataFrame(rows, columns=["objective", "seed", "nll_gap", "nll"])
    runs = runs.assign(n_train=500, latent_dim=10, status="done", dataset="mnist", mutual_information=5.0)
    row = judge(BY_NAME["mmd_generalises"], runs)  # each seed's larger: 1, 1, 0.9, which would refute
    assert row["verdict"] == "inconclusive" and row["mean"] == pytest.approx((-0.9 + 1.0 + 0.9) / 3)


def test_toy_that_ignores_z_shows_no_growth() -> None:
    runs = toy({("elbo", 0.1): 0.0, ("elbo", 0.01): 4.0})
    runs.loc[runs["decoder_min_std"] == 0.1, "mutual_information"] = 0.0
    assert judge(BY_NAME["toy_elbo_worsens"], runs)["n_dropped_seeds"] == 3


def test_one_seed_never_decides() -> None:
    assert judge(BY_NAME["mmd_annealed_beats_elbo_semi_supervised"], semi([0.9], [0.1]))["verdict"] == "inconclusive"


def test_missing_condition_is_not_measured() -> None:
    runs = semi([0.9, 0.9], [0.1, 0.1])
    only_elbo = runs[runs["objective"] == "elbo"]
    assert judge(BY_NAME["mmd_annealed_beats_elbo_semi_supervised"], only_elbo)["verdict"] == "not measured"
    assert judge(BY_NAME["mmd_annealed_beats_elbo_semi_supervised"], None)["verdict"] == "not measured"


def test_seed_with_a_failed_run_drops_out_and_keeps_the_verdict_open() -> None:
    runs = semi([0.9, 0.88, 0.91], [0.1, 0.12, 0.11])
    runs.loc[5, "status"] = "failed: loss is nan"
    row = judge(BY_NAME["mmd_annealed_beats_elbo_semi_supervised"], runs)
    assert (row["n_seeds"], row["n_dropped_seeds"], row["verdict"]) == (2, 1, "inconclusive")


def comparison(squared_mmd: dict[str, float], information: dict[str, float]) -> pd.DataFrame:
    rows = [
        (objective, seed, dim, value * (1 + 0.01 * seed), information[objective])
        for objective, value in squared_mmd.items()
        for seed in range(3)
        for dim in (2, 10)
    ]
    names = ["objective", "seed", "latent_dim", "squared_mmd", "mutual_information"]
    return pd.DataFrame(rows, columns=names).assign(status="done", dataset="mnist", decoder="pixelcnn")


def test_best_match_is_judged_against_the_best_rival() -> None:
    values = {"mmd": 0.01, "unregularized": 0.5, "stein": 0.02, "jensen": 0.3}
    used = dict.fromkeys(values, 5.0)
    assert judge(BY_NAME["mmd_squared_mmd_best"], comparison(values, used))["verdict"] == "reproduced"
    values["stein"] = 0.001
    assert judge(BY_NAME["mmd_squared_mmd_best"], comparison(values, used))["verdict"] == "not reproduced"
    values["stein"] = -0.001  # an unbiased estimate may be negative: it is the distance from 0 that counts
    assert judge(BY_NAME["mmd_squared_mmd_best"], comparison(values, used))["verdict"] == "not reproduced"


def test_empty_code_wins_nothing_by_matching_the_prior() -> None:
    values = {"mmd": 0.0001, "unregularized": 0.5, "stein": 0.02, "jensen": 0.3}
    information = {**dict.fromkeys(values, 5.0), "mmd": 0.1}
    row = judge(BY_NAME["mmd_squared_mmd_best"], comparison(values, information))
    assert (row["verdict"], row["n_seeds"], row["n_dropped_seeds"]) == ("inconclusive", 0, 3)
    runs = comparison(
        {"stein": 0.0001, **{k: v for k, v in values.items() if k != "stein"}}, dict.fromkeys(values, 5.0)
    )
    assert judge(BY_NAME["mmd_squared_mmd_best"], runs)["n_seeds"] == 3


def test_dimension_whose_runs_all_failed_does_not_vanish_from_the_mean() -> None:
    values = {"mmd": 0.01, "unregularized": 0.5, "stein": 0.02, "jensen": 0.3}
    runs = comparison(values, dict.fromkeys(values, 5.0))
    failed = (runs["objective"] == "mmd") & (runs["latent_dim"] == 10)
    runs.loc[failed, "status"] = "failed: loss is nan"
    row = judge(BY_NAME["mmd_squared_mmd_best"], runs)
    assert (row["verdict"], row["n_seeds"]) == ("inconclusive", 0)


def test_few_and_many_dimensions_are_absolute() -> None:
    runs = semi([0.9, 0.9], [0.1, 0.1]).replace({"elbo": "unregularized", "mmd_annealed": "mmd"})
    for name in ("unregularized_better_in_few_dimensions", "mmd_catches_up_in_many_dimensions"):
        assert judge(BY_NAME[name], runs)["verdict"] == "not measured"  # 10 dimensions are neither
    assert judge(BY_NAME["mmd_catches_up_in_many_dimensions"], runs.assign(latent_dim=40))["verdict"] == "reproduced"
    few = judge(BY_NAME["unregularized_better_in_few_dimensions"], runs.assign(latent_dim=2))
    assert few["verdict"] == "not reproduced"
    empty = runs.assign(latent_dim=2, mutual_information=0.1)
    assert judge(BY_NAME["unregularized_better_in_few_dimensions"], empty)["n_dropped_seeds"] == 2


def test_worst_dimension_decides_on_the_class_distribution() -> None:
    runs = comparison({"mmd": 0.0}, {"mmd": 5.0}).assign(class_cross_entropy_real=0.01, class_cross_entropy=0.02)
    assert judge(BY_NAME["mmd_class_distribution"], runs)["mean"] == pytest.approx(0.01 - 0.05)
    runs.loc[runs["latent_dim"] == 10, "class_cross_entropy"] = 0.51
    assert judge(BY_NAME["mmd_class_distribution"], runs)["mean"] == pytest.approx(0.5 - 0.05)


def usage(elbo: float, infovae: list[tuple[float, float, float]]) -> pd.DataFrame:
    rows = []
    for seed in range(3):
        jitter = 0.01 * seed
        rows.append(("elbo", 0.0, 1.0, seed, 12, elbo + jitter, 0.0))
        rows.append(("elbo", 0.0, 1.0, seed, 4, 5.0 + jitter, 0.0))
        rows += [("mmd", 1.0, lambda_, seed, 12, i + jitter, mmd) for lambda_, i, mmd in infovae]
    names = [
        "objective",
        "alpha",
        "lambda_",
        "seed",
        "receptive_radius",
        "mutual_information",
        "squared_mmd_validation",
    ]
    return pd.DataFrame(rows, columns=names).assign(status="done", dataset="mnist", decoder="pixelcnn")


def test_information_is_judged_at_the_largest_field_and_not_bought_by_giving_up_the_prior() -> None:
    runs = usage(0.05, [(10.0, 9.2, 0.4), (1000.0, 0.01, 0.001)])
    assert judge(BY_NAME["elbo_ignores_z"], runs)["verdict"] == "reproduced"
    assert judge(BY_NAME["infovae_keeps_z"], runs)["verdict"] == "not reproduced"  # the one that matches is empty
    runs = usage(4.0, [(10.0, 9.2, 0.4), (1000.0, 9.0, 0.001)])
    assert judge(BY_NAME["elbo_ignores_z"], runs)["verdict"] == "not reproduced"
    assert judge(BY_NAME["infovae_keeps_z"], runs)["verdict"] == "reproduced"
    assert judge(BY_NAME["elbo_ignores_z"], runs.assign(decoder="conv"))["verdict"] == "not measured"


def toy(posterior_kl: dict[tuple[str, float], float]) -> pd.DataFrame:
    rows = [
        (objective, floor, seed, value * (1 + 0.01 * seed))
        for (objective, floor), value in posterior_kl.items()
        for seed in range(3)
    ]
    names = ["objective", "decoder_min_std", "seed", "posterior_kl"]
    return pd.DataFrame(rows, columns=names).assign(status="done", dataset="two_points", mutual_information=0.6)


def test_toy_is_judged_at_the_smallest_floor() -> None:
    runs = toy({("elbo", 0.1): 0.1, ("mmd", 0.1): 5.0, ("elbo", 0.01): 4.0, ("mmd", 0.01): 0.2})
    row = judge(BY_NAME["toy_mmd_posterior"], runs)
    assert row["verdict"] == "reproduced" and row["mean"] == pytest.approx((0.2 - 4.0) * 1.01)
    row = judge(BY_NAME["toy_elbo_worsens"], runs)
    assert row["verdict"] == "reproduced" and row["mean"] == pytest.approx((0.1 - 4.0) * 1.01)
    one_floor = runs[runs["decoder_min_std"] == 0.1]
    assert judge(BY_NAME["toy_elbo_worsens"], one_floor)["verdict"] == "not measured"  # one floor shows no growth
    assert judge(BY_NAME["toy_mmd_posterior"], one_floor)["verdict"] == "not reproduced"
    empty = runs.assign(mutual_information=0.05)  # of log 2 = 0.69 nats
    assert judge(BY_NAME["toy_mmd_posterior"], empty)["n_dropped_seeds"] == 3


def spread(log_det: dict[tuple[str, int], float]) -> pd.DataFrame:
    rows = [
        (objective, n, dim, seed, value + 0.001 * seed)
        for (objective, n), value in log_det.items()
        for dim in (2, 10)
        for seed in range(3)
    ]
    names = ["objective", "n_train", "latent_dim", "seed", "log_det_cov_per_dim_test"]
    return pd.DataFrame(rows, columns=names).assign(status="done", dataset="mnist", mutual_information=5.0)


def test_variance_is_judged_with_its_sign_and_at_the_smallest_set() -> None:
    runs = spread({("elbo", 500): 0.3, ("elbo", 5000): 0.1, ("mmd", 500): -0.05, ("mmd", 5000): 0.02})
    verdicts = {
        name: judge(BY_NAME[name], runs)
        for name in (
            "elbo_overestimates_variance",
            "variance_grows_as_data_shrink",
            "mmd_variance_test",
            "mmd_variance_closer_than_elbo",
        )
    }
    assert {row["verdict"] for row in verdicts.values()} == {"reproduced"}
    assert verdicts["elbo_overestimates_variance"]["mean"] == pytest.approx(0.05 - 0.301)
    assert verdicts["variance_grows_as_data_shrink"]["mean"] == pytest.approx(0.1 - 0.3)
    assert verdicts["mmd_variance_test"]["mean"] == pytest.approx((0.05 + 0.049 + 0.048) / 3 - 0.1)  # at 500 images
    assert verdicts["mmd_variance_closer_than_elbo"]["mean"] == pytest.approx(0.049 - 0.301)
    runs.loc[runs["objective"] == "mmd", "mutual_information"] = 0.1
    for name in ("mmd_variance_test", "mmd_variance_closer_than_elbo"):  # an empty code wins nothing by its match
        assert judge(BY_NAME[name], runs)["n_dropped_seeds"] == 3
    # a code that is as far from 0 on the narrow side does not over-estimate
    narrow = spread({("elbo", 500): -0.3, ("elbo", 5000): -0.1, ("mmd", 500): 0.0, ("mmd", 5000): 0.0})
    assert judge(BY_NAME["elbo_overestimates_variance"], narrow)["verdict"] == "not reproduced"
    assert judge(BY_NAME["variance_grows_as_data_shrink"], narrow)["verdict"] == "not reproduced"


def test_failed_run_keeps_the_largest_distance_open() -> None:
    runs = spread({("mmd", 500): -0.05, ("mmd", 5000): 0.02})
    runs.loc[0, "status"] = "failed: loss is nan"
    row = judge(BY_NAME["mmd_variance_test"], runs)
    assert (row["n_seeds"], row["n_dropped_seeds"], row["verdict"]) == (2, 1, "inconclusive")


def test_log_likelihood_on_a_par_is_within_half_a_nat_under_the_same_decoder() -> None:
    rows = [("elbo", s, 90.0 + s, "pixelcnn") for s in range(3)] + [("mmd", s, 90.3 + s, "pixelcnn") for s in range(3)]
    rows += [("elbo", s, 50.0, "dense") for s in range(3)]
    runs = pd.DataFrame(rows, columns=["objective", "seed", "nll", "decoder"])
    runs = runs.assign(latent_dim=5, status="done", dataset="mnist", mutual_information=5.0)
    row = judge(BY_NAME["mmd_log_likelihood"], runs)
    assert row["verdict"] == "reproduced" and row["mean"] == pytest.approx(-0.2)
    runs.loc[runs["objective"] == "elbo", "mutual_information"] = 0.0  # the reference may be empty
    assert judge(BY_NAME["mmd_log_likelihood"], runs)["verdict"] == "reproduced"
    runs["mutual_information"] = 0.0
    assert judge(BY_NAME["mmd_log_likelihood"], runs)["verdict"] == "inconclusive"


def test_gap_that_is_small_because_the_model_is_poor_is_no_generalisation() -> None:
    rows = [(o, s, dim, nll + s, gap) for o, nll, gap in (("elbo", 100.0, 20.0), ("mmd", 99.0, 5.0))
            for s in range(3) for dim in (2, 10)]  # fmt: skip
    names = ["objective", "seed", "latent_dim", "nll", "nll_gap"]
    runs = pd.DataFrame(rows, columns=names)
    runs = runs.assign(status="done", dataset="mnist", n_train=500, mutual_information=5.0)
    row = judge(BY_NAME["mmd_generalises"], runs)
    assert row["verdict"] == "reproduced" and row["mean"] == pytest.approx(-1)
    runs.loc[runs["objective"] == "mmd", "nll"] += 80
    assert judge(BY_NAME["mmd_generalises"], runs)["verdict"] == "not reproduced"


def test_code_that_is_empty_in_one_dimension_is_not_kept() -> None:
    runs = comparison({"mmd": 0.0}, {"mmd": 9.0})
    assert judge(BY_NAME["mmd_keeps_z"], runs)["verdict"] == "reproduced"
    runs.loc[runs["latent_dim"] == 2, "mutual_information"] = 0.0
    assert judge(BY_NAME["mmd_keeps_z"], runs)["verdict"] == "not reproduced"


def test_special_cases_are_identities_and_a_wrong_weight_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {row["claim"]: row for row in claims._identities.__wrapped__()}
    assert set(rows) == {"special_case_vae", "special_case_beta_vae", "special_case_aae"}
    assert {row["verdict"] for row in rows.values()} == {"exact"}
    right = objective.info_vae_loss
    monkeypatch.setattr(objective, "info_vae_loss", lambda terms, alpha, lambda_: right(terms, alpha, lambda_ + 1e-5))
    wrong = {row["claim"]: row["verdict"] for row in claims._identities.__wrapped__()}
    assert set(wrong.values()) == {"not reproduced"}


def test_ledger_has_every_claim_and_every_claim_an_experiment() -> None:
    frame = ledger({})
    measured = frame[frame["experiment"] != ""]
    assert list(measured["claim"]) == [claim.name for claim in CLAIMS]
    assert frame["claim"].is_unique
    assert set(measured["experiment"]) <= set(MODULES)
    assert set(measured["verdict"]) == {"not measured"}
