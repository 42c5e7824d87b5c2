"""What this replication found by itself, in plain sentences: each computed from published runs, and from nothing else.

A finding compares runs that differ in one thing and agree in every other field of their configuration, seed included.
Where no such runs are published there is no sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from infovae.claims import authors
from infovae.claims.intervals import SEEDS_FOR_INTERVAL
from infovae.claims.statements import EMPTY_TOY_CODE
from infovae.config import AUTOREGRESSIVE, EMPTY_CODE, OBJECTIVES, RunConfig
from infovae.experiments import HEADLINE_DIM
from infovae.experiments.tuning import charged_loss, size_in_words
from infovae.experiments.variance_overestimation import KINDS
from infovae.labels import as_markdown, format_number, join, objective_name
from infovae.plotting import PALETTE, by_objective, count_seeds, finished
from infovae.publishing.report import Published
from infovae.publishing.tables import AT_CAP
from infovae.publishing.ways import (
    batch_statistics,
    excess_on_test_images,
    nearest_to_prior,
)
from infovae.publishing.wording import say, say_dimensions, say_information, say_interval, say_match
from infovae.publishing.worth import (
    classes_in_code,
    sample_quality,
    samples_against_mmd,
    spread_against_mmd,
    worth_of_code,
    worth_of_mmd_where_images_are_few,
    worth_on_all_images,
)

Variants = Mapping[str, Mapping[str, Any]]
"""Words for each variant -> the fields that tell it from the others, and their values."""


def pool(published: Mapping[str, Published], *names: str) -> pd.DataFrame:
    """Return the finished runs with a PixelCNN of all or some experiments, each once, with all that was measured of it.

    In the dimension nearest to `HEADLINE_DIM`, with the `squared_mmd_validation` that they ended with. The choice of
    settings is left out: it measures on validation images.
    """
    chosen = [published[name].runs for name in names or published if name in published and name != "tuning"]
    done = [runs[(runs["status"] == "done") & runs["decoder"].isin(AUTOREGRESSIVE)] for runs in chosen]
    frames = [runs for runs in done if len(runs)]
    if not frames:
        return pd.DataFrame(columns=["run_id", "status", *RunConfig.model_fields])
    runs = pd.concat(frames).groupby("run_id", sort=False, as_index=False).first()
    watched = [published[name].history for name in published if "squared_mmd" in published[name].history]
    if watched:  # at the end of training, on 5,000 validation images
        last = (
            pd.concat(watched).dropna(subset="squared_mmd").sort_values("step").groupby("run_id")["squared_mmd"].last()
        )
        runs["squared_mmd_validation"] = runs["run_id"].map(last)
    distance = (runs["latent_dim"] - HEADLINE_DIM).abs()
    return runs[distance == distance.min()]


def match(runs: pd.DataFrame, variants: Variants) -> dict[str, pd.DataFrame]:
    """Return the runs of each variant that have a partner in every other one, equal in all that tells none apart.

    Variants without any run are left out; empty where fewer than two remain.
    """
    varied = {field for fields in variants.values() for field in fields}
    same = [field for field in RunConfig.model_fields if field in runs and field not in varied]
    keys = runs[same].map(str).agg("|".join, axis=1) if len(runs) else pd.Series(dtype=str)
    found = {}
    for words, fields in variants.items():
        chosen = pd.Series(True, runs.index)
        for field, value in fields.items():
            chosen &= runs[field] == value
        if chosen.any():
            found[words] = chosen
    partners = [set(keys[chosen]) for chosen in found.values()]
    common = keys.isin(set.intersection(*partners)) if len(found) > 1 else pd.Series(False, runs.index)
    return {words: runs[chosen & common] for words, chosen in found.items()} if common.any() else {}


def tell(about: str, found: Mapping[str, pd.DataFrame], say: Callable[[pd.DataFrame], str] = say_match) -> str:
    """Return what is said of each variant that `match` found, after what it is about; empty where it found none."""
    if not found:
        return ""
    listed = ". ".join(f"{words}: {say(group)}" for words, group in found.items())
    return f"{about} ({count_seeds(next(iter(found.values())))}). {listed}."


def toy_posterior(runs: pd.DataFrame) -> str:
    """Whether inference is right in the toy."""
    compared = finished(runs, "posterior_kl", "mutual_information")
    compared = compared[compared["objective"].isin(["elbo", "mmd"])]
    used = compared[compared["mutual_information"] >= EMPTY_TOY_CODE].set_index("seed")
    vae, mmd = (used[used["objective"] == name] for name in ("elbo", "mmd"))
    parts = []
    for alpha, of_alpha in mmd.groupby("alpha", sort=False):
        said = []
        for floor, group in of_alpha.groupby("decoder_min_std", sort=False):
            excess = (group["posterior_kl"] - vae.loc[vae["decoder_min_std"] == floor, "posterior_kl"]).dropna()
            if len(excess) >= SEEDS_FOR_INTERVAL:
                said.append(f"{say_interval(excess)} at the floor {floor:g}")
        if said:
            parts.append(f"At α = {alpha:g}: {', '.join(said)}; there its code holds {_nats_at_lowest_floor(of_alpha)}")
    if not parts:
        return ""
    n_empty = len(compared) - len(used)
    return (
        "KL(q(z|x) ‖ p(z|x)) of MMD less that of the VAE, in nats, with 95 % intervals over seeds, each by itself. "
        f"{'. '.join(parts)}, the VAE’s {_nats_at_lowest_floor(vae)}."
        + (f" {n_empty} of {len(compared)} models have an empty code and are left out." if n_empty else "")
    )


def _nats_at_lowest_floor(runs: pd.DataFrame) -> str:
    lowest = runs[runs["decoder_min_std"] == runs["decoder_min_std"].min()]
    return f"{format_number(lowest['mutual_information'].mean())} nats"


def spread_of_codes(runs: pd.DataFrame) -> str:
    """How far the codes spread where images are few."""
    parts = [f"log_det_cov_per_dim_{part}" for part in ("train", "test")]
    done, theirs = finished(runs, *parts).dropna(subset=parts), authors.runs("variance_overestimation")
    assert theirs is not None
    theirs = theirs[: None if (done["dataset"] == "mnist").all() else 0]
    ends = done["n_train"].isin(done.groupby("binarization")["n_train"].agg(["min", "max"]).to_numpy().ravel())
    done, said = done[ends], []
    for kind, of_kind in done.groupby("binarization", sort=False):
        for objective, group in by_objective(of_kind):
            at = []
            for keys, same in group.groupby(["latent_dim", "n_train"]):
                key = [objective, *keys, kind]
                known = theirs[(theirs[["objective", "latent_dim", "n_train", "binarization"]] == key).all(axis=1)]
                beside = f" (authors’ code {' and '.join(say(known[p]) for p in parts)})" if len(known) else ""
                at.append(f"{' and '.join(format_number(same[p].mean()) for p in parts)} at {keys[1]:,} images{beside}")
            said.append(f"{objective_name(objective)}, {KINDS[str(kind)]}: {'; '.join(at)}")
    where = f"log det Cov[q(z)] / dim on training and on test images ({count_seeds(done)})."
    return f"{where} {'. '.join(said)}." if said else ""


def code_used(runs: pd.DataFrame) -> str:
    """Whether the code is used."""
    cap = finished(runs, "mutual_information_cap")["mutual_information_cap"].min()
    said = {name: group["mutual_information"] for name, group in by_objective(runs)}
    said = {name: nats for name, nats in said.items() if not nats.isna().any()}
    full = [objective_name(name) for name, nats in said.items() if (nats > cap - AT_CAP).all()]
    below = [f"{objective_name(name)} {say_information(v)}" for name, v in said.items() if not (v > cap - AT_CAP).all()]
    if not said:
        return ""
    parts = [*below, *([f"{join(full)} {format_number(cap)} nats or more, the cap of the estimate"] if full else [])]
    return f"I(x;z) on test images, in {say_dimensions(runs)}: {'; '.join(parts)}."


def encoder_start(runs: pd.DataFrame) -> str:
    """How the encoder starts."""
    variants = {"With batch norm": "batch", "Without a norm": "none", "With means spread before training": "spread"}
    chosen: Variants = {words: {"encoder_norm": norm} for words, norm in variants.items()}
    parts = []
    for name, weight in (("mmd", True), ("elbo", False)):
        of_name = runs[(runs["objective"] == name) & (runs["alpha"] == OBJECTIVES[name]["alpha"])]
        for lambda_, group in of_name.groupby("lambda_"):
            about = objective_name(name) + (f" at λ = {lambda_:g}" if weight else "")
            parts.append(tell(about, match(group, chosen), lambda g: say_information(g["mutual_information"])))
    return f"I(x;z) of the code. {' '.join(filter(None, parts))}" if any(parts) else ""


def averaged_rate(runs: pd.DataFrame) -> str:
    """What the authors' code calls ELBO."""
    weights = {name: {"objective": name} for name in ("elbo", "averaged_elbo")}
    found = match(runs.assign(alpha=0, lambda_=0), weights)  # these follow from the name
    if not found:
        return ""
    beta = runs.loc[runs["objective"] == "averaged_elbo", "lambda_"].iloc[0]
    elbo, averaged = found["elbo"], found["averaged_elbo"]
    return (
        "It averages the KL term over the dimensions of z and the reconstruction over the 784 pixels, which is a β-VAE "
        f"with β = {beta:g}. Its code holds "
        f"{say_information(averaged['mutual_information'])}; that of the ELBO itself "
        f"{say_information(elbo['mutual_information'])} ({count_seeds(elbo)})."
    )


def kernel(runs: pd.DataFrame) -> str:
    """The kernel."""
    variants: Variants = {
        "exp(−d²/(2 dim)) at λ = 784": {"bandwidth": "prior", "lambda_": 784.0},
        "exp(−d²/dim²) at λ = 1000": {"bandwidth": "paper", "lambda_": 1000.0},
    }
    return tell("MMD", match(runs[runs["objective"] == "mmd"], variants))


def gamma(runs: pd.DataFrame) -> str:
    """Choosing on the test set."""
    metrics = ["svm_error_authors", "svm_error_rbf_sampled"]
    both = finished(runs, *metrics).dropna(subset=metrics)
    both = both[both["mutual_information"] >= EMPTY_CODE]  # of an empty code the choice fits chance
    if both.empty:
        return ""
    gain = 100 * (both["svm_error_rbf_sampled"] - both["svm_error_authors"])
    return (
        "The authors’ code chooses the width of the support vector machine by its accuracy on the test images. On the "
        f"same draws its error rises by {say(gain)} percentage points where the width is chosen on the labelled images "
        f"alone ({len(both)} models in {both['latent_dim'].max():g} dimensions whose code is not empty)."
    )


def adversary_weight(runs: pd.DataFrame) -> str:
    """The weight of the adversary."""
    fast, slow = RunConfig.model_fields["critic_learning_rate"].default, 2e-5
    settings = {"jensen": [(1, fast), (10, fast), (784, fast)], "wasserstein": [(10, fast), (784, fast), (784, slow)]}
    parts = []
    for divergence, pairs in settings.items():
        variants: Variants = {
            f"λ = {weight}{', critic 50 times slower (the authors’)' if rate == slow else ''}": {
                "lambda_": weight, "critic_learning_rate": rate,
            }
            for weight, rate in pairs
        }  # fmt: skip
        found = match(runs[runs["divergence"] == divergence].assign(objective=divergence), variants)
        parts.append(tell(objective_name(divergence), found))
    return " ".join(filter(None, parts))


def length(runs: pd.DataFrame) -> str:
    """The length of training."""
    parts = []
    for name in ("mmd", "elbo"):
        group = runs[runs["objective"] == name]
        steps = sorted(set(group["steps"]))
        variants: Variants = {f"{n:,} steps": {"steps": n} for n in (steps[0], steps[-1])} if len(steps) > 1 else {}
        parts.append(tell(objective_name(name), match(group, variants), _epochs_and_match))
    return " ".join(filter(None, parts))


def _epochs_and_match(runs: pd.DataFrame) -> str:
    epochs = (runs["steps"] * runs["batch_size"] / runs["n_train"]).iloc[0]
    return f"{format_number(epochs)} epochs; {say_match(runs)}"


def place(runs: pd.DataFrame) -> str:
    """How z enters the decoder."""
    variants: Variants = {
        "As one shift for the whole image": {"conditioning": "global"},
        "As a map that depends on the place": {"conditioning": "spatial"},
    }
    parts = [
        tell(objective_name(name), match(runs[runs["objective"] == name], variants), _information_and_reconstruction)
        for name in ("mmd", "elbo")
    ]
    return " ".join(filter(None, parts))


def _information_and_reconstruction(runs: pd.DataFrame) -> str:
    return (
        f"I(x;z) {say_information(runs['mutual_information'])}; reconstruction {say(runs['reconstruction_nll'])} nats"
    )


def learning_rate(runs: pd.DataFrame) -> str:
    """The learning rate."""
    done, used = charged_loss(runs), RunConfig.model_fields["learning_rate"].default
    usual = done[size_in_words(done) == size_in_words(done).iloc[-1]] if len(done) else done
    losses = usual.pivot_table(index="learning_rate", columns="objective", values="loss").dropna()
    if used not in losses.index or len(losses) < 2:
        return ""
    best = float(str(losses.mean(axis=1).idxmin()))
    text = (
        f"The models of the comparison are trained at {used:g}. After {usual['steps'].max():,.0f} steps the loss on "
        f"validation images is least at {best:g}, of {len(losses)} rates that were tried"
    )
    if best == used:
        return f"{text}."
    gains = losses.loc[used] - losses.loc[best]
    said = [f"{format_number(gains[name])} nats for {objective_name(name)}" for name in PALETTE if name in gains]
    at_edge = "" if losses.index.min() < best < losses.index.max() else " The least may lie beyond those tried."
    return f"{text}: lower by {join(said)}.{at_edge}"


FINDINGS: dict[str, tuple[Callable[[pd.DataFrame], str], ...]] = {
    "comparison": (
        code_used,
        nearest_to_prior,
        spread_against_mmd,
        excess_on_test_images,
        batch_statistics,
        sample_quality,
        samples_against_mmd,
        worth_on_all_images,
    ),
    "toy": (toy_posterior,),
    "variance": (spread_of_codes, worth_of_mmd_where_images_are_few),
    "labels": (classes_in_code,),
    "likelihood": (worth_of_code,),
    "tuning": (learning_rate,),
    "all": (encoder_start, averaged_rate, kernel, gamma, adversary_weight, length, place),
}
"""Functions of the runs of the comparison, of the toy, ..., or of all, a sentence each; docstrings are their titles."""


def list_findings(published: Mapping[str, Published]) -> str:
    """Return the findings in Markdown, and a line with those that there are no runs for."""
    runs = {"comparison": pool(published, "divergence_comparison"), "all": pool(published)}
    runs["labels"] = pool(published, "semi_supervised")
    if "semi_supervised" in published:
        labelled = published["semi_supervised"].runs
        runs["labels"] = pd.concat([runs["labels"], labelled[labelled["objective"] == "pixels"]])
    named = {
        "toy": "amortized_inference", "variance": "variance_overestimation", "likelihood": "log_likelihood",
        "tuning": "tuning",
    }  # fmt: skip
    runs |= {kind: published[name].runs for kind, name in named.items() if name in published}
    said = {
        str(finding.__doc__).strip("."): finding(runs[kind]) if len(runs.get(kind, ())) else ""
        for kind, findings in FINDINGS.items()
        for finding in findings
    }
    lines = [f"- **{title}.** {as_markdown(text)}" for title, text in said.items() if text]
    left_out = [title for title, text in said.items() if not text]
    if left_out:
        lines.append(f"- Left out, since no runs for it are published here, or too few: *{'*, *'.join(left_out)}*.")
    return "\n".join(lines)
