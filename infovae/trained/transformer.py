"""InfoVAE as a scikit-learn transformer, so that codes go into a Pipeline. Apart from `models`, which needs no
scikit-learn: importing it takes longer than loading a model."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from infovae.data.parsers import DataError
from infovae.trained.models import train_model


class InfoVAE(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Images to codes E[z|x]: `fit` trains on all images that it is given.

    X is (n, height * width) with square images, or (n, height, width): uint8, or floats from 0 to 1. They are padded to
    multiples of 4 pixels. `overrides` are further fields of `RunConfig`; `trained_` is the `models.TrainedModel`.
    """

    def __init__(
        self, objective: str = "mmd", latent_dim: int = 10, decoder: str = "conv", steps: int = 700, seed: int = 0,
        overrides: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        self.objective = objective
        self.latent_dim = latent_dim
        self.decoder = decoder
        self.steps = steps
        self.seed = seed
        self.overrides = overrides

    def fit(self, X: NDArray[Any], y: object = None) -> Self:
        """Train on the images; y is not looked at."""
        images = _as_images(X)
        settings = {name: value for name, value in self.get_params().items() if name != "overrides"}
        self.trained_ = train_model(images, **{**settings, **(self.overrides or {})})
        self.image_shape_, self.n_features_in_ = images.shape[1:], math.prod(images.shape[1:])
        self._n_features_out = self.trained_.config.latent_dim
        return self

    def transform(self, X: NDArray[Any]) -> NDArray[Any]:
        """Return the codes, float32, (n, latent_dim)."""
        check_is_fitted(self)
        images = _as_images(X)
        if images.shape[1:] != self.image_shape_:
            raise DataError(f"expected images of {self.image_shape_}, found {images.shape[1:]} (height, width)")
        return self.trained_.encode(images)


def _as_images(X: NDArray[Any]) -> NDArray[Any]:
    X = np.asarray(X)
    if X.ndim != 2:
        return X
    side = math.isqrt(X.shape[1])
    if side**2 != X.shape[1]:
        raise DataError(f"expected square images, (n, side * side), found {X.shape}: give (n, height, width)")
    return X.reshape(-1, side, side)
