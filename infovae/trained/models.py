"""Trained models to use, on NumPy arrays: encode, sample, reconstruct, interpolate, log p(x).

Owns how arrays become what a network sees. Refuses to own which run is meant (`selection`), training, the networks, and
the estimate of log p(x) (`evaluation.likelihood`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from infovae.config import RunConfig
from infovae.data import sources
from infovae.data.datasets import ImageData
from infovae.data.parsers import MIN_IMAGES, DataError, grey_values, pad
from infovae.evaluation.images import encode, in_batches, measuring_device
from infovae.evaluation.likelihood import estimate_log_likelihood, powers_of_ten
from infovae.model.build import Model, build_model
from infovae.refusals import ParameterError, explain
from infovae.runs.store import read_record
from infovae.trained.selection import Found, choose
from infovae.training import choose_device, train

AT_ONCE = 500
"""Images in one call of a decoder."""

Array = NDArray[Any]


class TrainedModel:
    """A trained model on NumPy arrays.

    Images are (n, height, width): uint8 grey values, floats from 0 to 1, or bools. To a model of one's own images they
    are padded to multiples of 4 pixels, as those were. A model of binary images sees a grey pixel of value v as on
    where v exceeds a uniform number. There is one field of uniforms for each `seed`, so that an image is seen in the
    same way wherever it stands. What is returned is float32 unless said otherwise. A `DataError` says what is wrong
    with images.

    Attributes
    ----------
    model : the torch module, in evaluation mode, on `device`.
    config : the settings that it was trained with.
    image_shape : (height, width) of the images that it takes and gives.
    history : one row for each logged step of its training.
    """

    def __init__(
        self, model: Model, config: RunConfig, image_shape: tuple[int, int], history: Sequence[dict[str, float]] = ()
    ) -> None:
        self.device = measuring_device(next(model.parameters()).device)
        self.model, self.config, self.image_shape = model.eval().to(self.device), config, image_shape
        self.history = list(history)

    def __repr__(self) -> str:
        """Return the settings by which people tell models apart."""
        c = self.config
        weights = f"alpha={c.alpha:g}, lambda_={c.lambda_:g}"
        return (
            f"TrainedModel({c.objective!r}, {weights}, latent_dim={c.latent_dim}, decoder={c.decoder!r}, {c.dataset})"
        )

    @torch.no_grad()
    def encode(self, images: Array, seed: int = 0) -> Array:
        """Return the codes E[z|x] of images, (n, latent_dim)."""
        return encode(self.model, self._see(images, seed)).mu.cpu().numpy()

    def sample(self, n: int, seed: int = 0, expected: bool = False) -> Array:
        """Return n images of the model, (n, height, width), with z ~ N(0, I); see `decode`.

        Models of one latent dimension and image size have the same z, and the same noise of the pixels, for a seed.
        """
        if not isinstance(n, int | np.integer) or n < 0:
            raise ParameterError(f"n must be a whole number, 0 or more, got {n!r}")
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(int(n), self.config.latent_dim, generator=generator)
        return self._decode(z, torch.rand(len(z), 1, *self.image_shape, generator=generator), expected)

    def decode(self, z: Array, seed: int = 0, expected: bool = False, same_noise: bool = False) -> Array:
        """Return an image x ~ p(x|z) for each code (n, latent_dim): 0 or 1, grey in [0, 1] for models of grey images.

        Parameters
        ----------
        expected : return E[x|z] instead; of a PixelCNN, for each pixel of a drawn x, its expected value given z and the
            pixels before it.
        same_noise : draw all images with the same uniform numbers, so that they differ by z alone.
        """
        codes = torch.from_numpy(np.array(z, np.float32))
        if codes.ndim != 2 or codes.shape[1] != self.config.latent_dim:
            raise DataError(f"expected codes (n, {self.config.latent_dim}), found {tuple(codes.shape)}")
        if not codes.isfinite().all():
            raise DataError("expected codes that are finite numbers")
        n = 1 if same_noise else len(codes)
        uniforms = torch.rand(n, 1, *self.image_shape, generator=torch.Generator().manual_seed(seed))
        return self._decode(codes, uniforms.expand(len(codes), -1, -1, -1), expected)

    def reconstruct(self, images: Array, seed: int = 0, expected: bool = False) -> Array:
        """Return what the decoder makes of the codes E[z|x] of images, (n, height, width); see `decode`."""
        return self.decode(self.encode(images, seed), seed, expected)

    def interpolate(self, a: Array, b: Array, steps: int = 10, seed: int = 0, expected: bool = False) -> Array:
        """Return images on the straight line from a to b, (steps, height, width), ends included; see `decode`.

        Each end is a code (latent_dim,) or an image (height, width), which stands for its code E[z|x]. All steps have
        the same noise.
        """
        first, last = (self.encode(end[None], seed)[0] if end.ndim == 2 else end for end in map(np.asarray, (a, b)))
        return self.decode(np.linspace(first, last, steps), seed, expected, same_noise=True)

    def log_prob(self, images: Array, n_draws: int = 100, fit_steps: int = 100, seed: int = 0) -> NDArray[np.float64]:
        """Return a lower bound on log p(x) of each image in nats, float64, (n,), under z ~ N(0, I).

        It is the importance-weighted bound log (1/K) sum_k p(x|z_k) p(z_k) / r(z_k|x) with K = `n_draws` draws of a
        Student t r(z|x), fitted to the frozen decoder for each image in `fit_steps` steps, starting from the encoder;
        see `evaluation.likelihood`. In expectation it is below log p(x) and rises with K. x is the image as the model
        sees it: of a model of binary images the drawn one (then log p(x) is a log-probability), else the grey one (then
        it is a log-density). A decoder without a code gives log p(x) itself.

        Raises
        ------
        ParameterError
            When n_draws is no power of ten.
        """
        if n_draws < 1 or n_draws not in powers_of_ten(n_draws):
            raise ParameterError(f"n_draws must be 1, 10, 100, 1000, ..., got {n_draws}")
        x, generator = self._see(images, seed), torch.Generator(self.device).manual_seed(seed)
        if not len(x):
            return np.zeros(0)
        with torch.no_grad():
            q = encode(self.model, x)
        bounds = estimate_log_likelihood(self.model.decoder, q, x, generator, n_draws, fit_steps, chunk=100)
        return bounds.log_p_x[n_draws].cpu().numpy()

    def _see(self, images: Array, seed: int) -> Tensor:
        """Return images as the model sees them, float32 (n, 1, H, W), on its device."""
        values = grey_values(np.asarray(images))
        if self.config.dataset not in sources.DATASETS:  # its images were padded
            values = values if values.shape[1:] == self.image_shape else pad(values)
        grey = torch.from_numpy(values)[:, None].float() / 255
        if tuple(grey.shape[2:]) != self.image_shape:
            raise DataError(f"expected images of {self.image_shape}, found {np.shape(images)[1:]} (height, width)")
        if self.config.binarization != "none":
            uniforms = torch.rand(self.image_shape, generator=torch.Generator().manual_seed(seed))
            grey = (uniforms < grey).float()
        return grey.to(self.device)

    @torch.no_grad()
    def _decode(self, z: Tensor, uniforms: Tensor, expected: bool) -> Array:
        z, uniforms, decoder = z.to(self.device), uniforms.to(self.device), self.model.decoder
        images = in_batches(decoder.sample, z, uniforms, size=AT_ONCE) if len(z) else uniforms
        if expected and len(z):
            images = in_batches(decoder.expected, images, z, size=AT_ONCE)
        return images[:, 0].float().cpu().numpy()


def load(folder: str | Path, **selection: Any) -> TrainedModel:
    """Load the trained model of a folder that a selection names: `load("results/laptop", objective="mmd", seed=0)`.

    Parameters
    ----------
    folder : the results of a profile or of an experiment (`results/laptop`, `results/custom/latent_usage`), or a store
        (`.infovae`). What is published without weights is looked for in the user's own store. Published weights are
        rounded to half precision.
    selection : any fields of `RunConfig` and their values. Where runs of several experiments match, that of the first
        in `selection.PREFERRED` is meant.

    The device is the one that INFOVAE_DEVICE names, else the best one present.

    Raises
    ------
    ParameterError
        When there is no such run, or more than one: what there is.
    DataError
        When the record or the weights are damaged: which file.
    """
    return load_found(choose(folder, **selection))


def train_model(images: Array, **settings: Any) -> TrainedModel:
    """Train a model on all images of an array, (n, height, width), uint8 or floats from 0 to 1; nothing is stored.

    Parameters
    ----------
    settings : fields of `RunConfig`, apart from `dataset` and `n_train`.

    Raises
    ------
    ParameterError
        For settings, DataError for images, that cannot be used; TrainingDiverged when the loss is not finite.
    """
    grey = pad(grey_values(np.asarray(images)))
    if len(grey) < MIN_IMAGES:
        raise DataError(f"expected at least {MIN_IMAGES} images, found {len(grey)}")
    for name in ("dataset", "n_train"):
        if name in settings:
            raise ParameterError(f"{name} follows from the array of images: leave it out")
    try:
        plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in settings.items()}
        config = RunConfig(**plain).model_copy(update={"dataset": "array", "n_train": len(grey)})
    except ValidationError as error:
        raise ParameterError(explain(error, RunConfig)) from None
    x, y = torch.from_numpy(grey), torch.full((len(grey),), -1)
    few = slice(500)  # the history is of training images: there are no others
    data = ImageData("array", x, y, x[few], y[few], x[few], y[few], checksum="", source="an array")
    n_threads = torch.get_num_threads()
    try:
        trained = train(config, data, choose_device())
    finally:
        torch.set_num_threads(n_threads)  # training sets it
    return TrainedModel(trained.model, config, (grey.shape[1], grey.shape[2]), trained.history)


def load_found(run: Found) -> TrainedModel:
    """Load a run that `selection` has found; of its record and weights not a bit may differ from what was written.

    A `DataError` says which file is damaged.
    """
    record = read_record(run.record, run.place)
    if record is None:
        raise DataError(f"{run.record} is damaged: restore it, or run `make reproduce` again")
    content = run.weights.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    named = record.get("published_weights_sha256", record["weights_sha256"])
    if digest != named:
        expected = f"expected SHA-256 {named[:12]}..., found {digest[:12]}..."
        raise DataError(f"{run.weights} is damaged: {expected}; restore it, or run `make reproduce` again")
    try:
        config = RunConfig.model_validate(record["config"])
        shape = sources.facts(config.dataset).image_shape
        with torch.random.fork_rng(devices=[]):  # the caller's random state stays as it is
            model = build_model(config, shape)
        model.load_state_dict(load_tensors(content))
    except ValidationError as error:
        raise ParameterError(f"{run.record}: {explain(error, RunConfig)}") from None
    except (SafetensorError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"{run.weights} does not fit the model of {run.record.name}: {reason}") from error
    return TrainedModel(model.to(choose_device()), config, shape, record["history"])
