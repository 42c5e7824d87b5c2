"""The authors' own numbers in the shape of our runs, so that one function gives their effect and ours.

README.md beside the tables says where they are from.
"""

from __future__ import annotations

import math
from functools import lru_cache
from importlib import resources

import pandas as pd


def read(name: str) -> pd.DataFrame:
    """Return one of the tables, with our names of their objectives: under a PixelCNN their "ELBO" is none."""
    names = {"adversarial": "wasserstein"}
    if name in ("figure", "training_curves"):
        names["elbo"] = "averaged_elbo"
    with resources.files(__name__).joinpath(f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file).replace({"objective": names})


def beside(name: str, ours: pd.DataFrame) -> pd.DataFrame:
    """Return one of the tables to stand beside runs of ours; without rows where these are not of MNIST."""
    found = read(name)
    return found if (ours["dataset"] == "mnist").all() else found[:0]


@lru_cache
def runs(experiment: str) -> pd.DataFrame | None:
    """Return their numbers as an experiment's runs, a single seed; None where they have none. I(x;z) is NaN."""
    if experiment in ("divergence_comparison", "semi_supervised"):
        figure = read("figure")
        table = figure.pivot(index=["objective", "latent_dim"], columns="metric", values="value").reset_index()
        table["log_det_cov_per_dim_test"] = table["log_det_cov_total"] / table["latent_dim"]
        table["svm_error_sampled"] = 1 - table["accuracy_1000_labels"]
        table = pd.concat([table, pd.DataFrame({"objective": history()["run_id"].unique()})])
    elif experiment == "variance_overestimation":
        spread = read("variance").assign(latent_dim=5, binarization="none")
        spread["value"] = spread["log_det_cov_total"] / spread["latent_dim"]
        keys = ["objective", "n_train", "latent_dim", "binarization"]
        table = spread.pivot(index=keys, columns="split", values="value").add_prefix("log_det_cov_per_dim_")
        table = table.reset_index()
    elif experiment == "log_likelihood":
        table = read("likelihood")
    else:
        return None
    table["run_id"] = table["objective"].where(table.get("latent_dim", pd.Series(0, table.index)).isna())
    return table.assign(seed=0, status="done", dataset="mnist", decoder="pixelcnn", mutual_information=math.nan)


def history() -> pd.DataFrame:
    """Return their training curves as a history, up to the last step of the shortest; their dimension is not stated."""
    curves = read("training_curves").rename(columns={"objective": "run_id"})
    return curves[curves["step"] <= curves.groupby("run_id")["step"].max().min()]
