"""What decides one training run, and what decides one evaluation of it.

Owns every default of the package, the objectives by name and the validation of both. Knows nothing of tensors: it
is imported before torch, so that a wrong parameter is refused within a second.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from infovae.data import sources

SCHEMA_VERSION = 4
"""Part of every run's id: raise it when a change alters the result of an unchanged configuration."""

EMPTY_CODE = 1.0
"""Nats of I(x;z) below which a code counts as empty (posterior collapse): its match with the prior decides nothing."""

N_MEASURED = 5000
"""Validation images that are watched in training for I(x;z), which is at most the logarithm of this, and log det."""


def all_training_images(values: dict[str, Any]) -> int:
    """Return how many training images the data set among some validated settings has."""
    return sources.facts(values["dataset"]).n_train


Dataset = Annotated[str, AfterValidator(sources.dataset_name)]
DecoderName = Literal["pixelcnn", "gated_pixelcnn", "conv", "dense", "scalar"]
DivergenceName = Literal[
    "none", "mmd", "stein", "jensen", "wasserstein", "chi2", "kl", "sinkhorn", "sliced_wasserstein"
]  # fmt: skip

Count = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
TrainingSize = Annotated[Count, Field(ge=2)]  # of one image there is no distribution of codes
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
LatentDim = Annotated[int, Field(strict=True, ge=1, le=1024)]
Alpha = Annotated[float, Field(strict=True, le=1, ge=-1e6, allow_inf_nan=False)]
Lambda = Annotated[float, Field(strict=True, ge=0, le=1e6, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, le=1e6, allow_inf_nan=False)]
Draws = Literal[10, 100, 1000, 10_000]
BatchSize = Annotated[int, Field(strict=True, ge=2, le=100_000)]
Maps = Annotated[int, Field(strict=True, ge=1, le=512)]
Layers = Annotated[int, Field(strict=True, ge=1, le=16)]
Radius = Annotated[int, Field(strict=True, ge=2, le=28)]
EncoderNorm = Literal["batch", "none", "spread"]
Precision = Literal["auto", "float32", "bfloat16"]
Samples = Annotated[int, Field(strict=True, ge=10, le=100_000)]
FewImages = Annotated[int, Field(strict=True, ge=2, le=10_000)]
FitSteps = Annotated[int, Field(strict=True, ge=1, le=10_000)]

AUTOREGRESSIVE = ("pixelcnn", "gated_pixelcnn")
"""Decoders that model each pixel from those before it, and can do without a code."""

PIXELS = 784
"""Pixels of an image in the authors' experiments. A loss that averages the reconstruction over them, as theirs does,
gives every other term this weight in nats per image."""

OBJECTIVES: dict[str, dict[str, Any]] = {
    "elbo": {"alpha": 0.0, "lambda_": 1.0, "divergence": "none"},
    "averaged_elbo": {"divergence": "none"},  # alpha = 1 - 784 / latent_dim, lambda_ = 784 / latent_dim
    "beta_vae": {"alpha": -3.0, "lambda_": 4.0, "divergence": "none"},
    "unregularized": {"alpha": 1.0, "lambda_": 0.0, "divergence": "none"},
    "mmd": {"alpha": 1.0, "lambda_": float(PIXELS), "divergence": "mmd", "bandwidth": "prior"},
    "stein": {
        "alpha": 1.0, "lambda_": 100.0 * PIXELS, "divergence": "stein", "stein_bandwidth": "prior",
        "stein_include_self": True,
    },
    "wasserstein": {"alpha": 1.0, "lambda_": 10.0, "divergence": "wasserstein"},
    "jensen": {"alpha": 1.0, "lambda_": 10.0, "divergence": "jensen"},
    "aae": {"alpha": 1.0, "lambda_": 1.0, "divergence": "jensen"},
    "kl": {"alpha": 1.0, "lambda_": 1.0, "divergence": "kl"},
    "mmd_annealed": {"alpha": 1.0, "lambda_": 300.0, "divergence": "mmd", "kernel": "imq", "lambda_start": 1.0},
    "chi2": {"alpha": 1.0, "lambda_": 1.0, "divergence": "chi2"},
    "energy": {"alpha": 1.0, "lambda_": 150.0, "divergence": "mmd", "kernel": "energy", "lambda_start": 1.0},
    "sinkhorn": {"alpha": 1.0, "lambda_": 30.0, "divergence": "sinkhorn", "lambda_start": 1.0},
    "sliced_wasserstein": {"alpha": 1.0, "lambda_": 300.0, "divergence": "sliced_wasserstein", "lambda_start": 1.0},
    "mmd_adaptive": {
        "alpha": 1.0, "lambda_": 10_000.0, "divergence": "mmd", "kernel": "imq", "lambda_start": 1.0, "mmd_target": 1.5
    },
    "free_bits": {"alpha": 0.0, "lambda_": 1.0, "divergence": "none", "free_bits": 0.5},
    "bn_vae": {"alpha": 0.0, "lambda_": 1.0, "divergence": "none", "mean_scale": 0.6},
    "unconditional": {"alpha": 0.0, "lambda_": 1.0, "divergence": "none", "latent_dim": 0},
}  # fmt: skip
"""The named points of the (alpha, lambda_, D) family, paper section "Special cases". Any field may be overridden.

`averaged_elbo` is what the authors' code calls ELBO: it averages the rate over the latent dimensions and the
reconstruction over the pixels, which is a beta-VAE with beta = 784 / latent_dim. `mmd` and `stein` have the weights and
kernels of the authors' code. `aae` is the paper's special case, Jensen at alpha = lambda_ = 1.

DEVIATION: `jensen` and `wasserstein` have the weight 10. Beside a reconstruction of about 90 nats the weight 1 counts
for little near a match; the authors' adversary has the weight 784 and a critic so slow (learning rate 2e-5) that q(z)
is far from p(z) for the first 25,000 steps. The variants `jensen_784` and `wasserstein_slow` of
`sensitivity` are trained with these.

DEVIATION: `mmd_annealed` and the objectives from `chi2` on are not the paper's, and are not tuned. `free_bits`,
`bn_vae` and `unconditional` are baselines. The weights of `energy`, `sinkhorn` and `sliced_wasserstein` make the
gradient in the mean of a code N(m, I), 100 samples in 10 dimensions with |m| = 1, as long as that of `mmd_annealed`
(67; theirs 67, 64 and 67); `chi2`, twice the KL divergence near a match, has the weight of `kl`.
"""

if TYPE_CHECKING:
    ObjectiveName = str
else:
    ObjectiveName = Literal[tuple(OBJECTIVES)]


def divergence_weight(alpha: float, lambda_: float) -> float:
    """Return lambda_ + alpha - 1, and 0 where it differs from 0 by rounding alone: 4.1 + (1 - 4.1) is not 1."""
    return 0.0 if math.isclose(lambda_, 1 - alpha, rel_tol=1e-12) else lambda_ + alpha - 1


class Settings(BaseModel):
    """Frozen, validated settings; unknown names are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    FORMER: ClassVar[dict[str, Any]] = {}
    """Settings that are gone, with the value that all work on disk was done under: they stay in the fingerprint."""

    def fingerprint(self, *context: str) -> str:
        """Return 16 hexadecimal digits that identify these settings, defaults expanded, in the given context."""
        payload = [type(self).__name__, SCHEMA_VERSION, {**self.model_dump(mode="json"), **self.FORMER}, *context]
        return hashlib.sha256(json.dumps(payload, sort_keys=True).encode()).hexdigest()[:16]


class RunConfig(Settings):
    """Everything that decides one training run.

    What is left out is what `OBJECTIVES` gives to `objective`, where it gives something.

    Attributes
    ----------
    alpha, lambda_ : float
        Weights of the InfoVAE objective (paper, eq. 6): (1 - alpha) on the rate KL(q(z|x)||p(z)), (lambda_ + alpha - 1)
        on the divergence D(q(z)||p(z)). Both weights must be non-negative.
    lambda_start : float or None
        Where lambda_ starts from; None: it is constant. DEVIATION: the objectives with a `lambda_start` let lambda_
        rise geometrically from it over the first `lambda_warmup` of the steps; the paper's is constant.
    kernel, bandwidth : kernel of the MMD in the training loss, see `divergences.make_kernel`; Stein's is rbf with
        `stein_bandwidth`.
    n_prior_draws : draws of the prior that the MMD compares the codes of a batch with.
    stein_include_self : whether a code's own kernel term is in its Stein direction, see `divergences.stein_direction`.
    critic_learning_rate, critic_steps : the adversary's own optimiser, and its updates per step of the model.
    saturating : whether the Jensen adversary's loss is that of minimax, see `adversarial.jensen_code_loss`.
    sinkhorn_blur, n_projections : of the Sinkhorn and the sliced Wasserstein divergence.
    mmd_target : when given, lambda_ is steered between `lambda_start` and `lambda_` so that the MMD of a batch stays at
        this multiple of its null level, see `objective.AdaptiveLambda`; `lambda_warmup` limits how fast.
    free_bits : nats per latent dimension below which the rate is not charged (Kingma et al. 2016, eq. 15).
    encoder_width, encoder_norm : of the convolutional encoder, see `networks.conv_encoder`. `batch` is the authors'
        batch normalisation. `spread` has none; before training the means of one batch are shifted and scaled to mean 0
        and standard deviation 1 in each dimension, see `networks.spread_means`.
    posterior_std : how the encoder's output becomes a standard deviation; `sigmoid` is the authors', at most 1.
    mean_scale : when given, E[z|x] is batch-normalised to this standard deviation, see `networks.Encoder`.
    latent_dim : 0 makes the decoder unconditional: with `pixelcnn` the control that has no code at all.
    decoder_min_std : floor of the standard deviation of the `scalar` decoder's p(x|z), in units of the data.
    binarization : `dynamic` draws the pixels afresh in every batch, `static` once; `none` leaves images grey, in
        [0, 1], under Gaussian pixels, whose mean and standard deviation the decoder gives.
    conditioning : how z reaches the PixelCNN: `global`, one shift for all places; `spatial`, a map of shifts.
    pixelcnn_channels, pixelcnn_layers : of either PixelCNN; `receptive_radius` is how far the small one sees, in
        pixels; exactly, see `pixelcnn.PixelCNN`.
    optimizer, gradient_clip, learning_rate_decay : Adam as in its paper, or RMSProp; each gradient entry is clipped to
        [-gradient_clip, gradient_clip]; the learning rate may fall to 0 over the second half, see `training.decay`.
    precision : of the networks in training; weights, loss and optimiser are float32. So are codes as a convolutional
        encoder gives them and a PixelCNN reads them; a decoder of independent pixels rounds them. `auto` is bfloat16
        where the device computes faster in it, else float32; a run's record says which it was.
    dataset : a name, or the path of one's own images, see `parsers.read_own_images`; what is kept of a path is the name
        that their content gives them.
    n_train : the first n_train images of the shuffled training set, by default all; subsets are nested.
    """

    dataset: Dataset = "mnist"
    binarization: Literal["dynamic", "static", "none"] = "dynamic"
    n_train: TrainingSize = Field(default_factory=all_training_images)

    objective: ObjectiveName = "elbo"
    alpha: Alpha = None  # type: ignore[assignment]  # filled from OBJECTIVES before validation
    lambda_: Lambda = None  # type: ignore[assignment]
    divergence: DivergenceName = None  # type: ignore[assignment]
    lambda_start: Lambda | None = None
    lambda_warmup: Annotated[float, Field(gt=0, le=1)] = 0.4
    kernel: Literal["rbf", "imq", "energy"] = "rbf"
    bandwidth: Literal["paper", "prior", "median"] | Positive = "paper"
    n_prior_draws: Annotated[int, Field(strict=True, ge=2, le=100_000)] = 200
    stein_bandwidth: Literal["paper", "prior", "median"] | Positive = "median"
    stein_include_self: bool = False
    critic_learning_rate: Positive = 1e-3
    critic_steps: Annotated[int, Field(strict=True, ge=1, le=100)] = 1
    saturating: bool = False
    sinkhorn_blur: Positive = 0.5
    n_projections: Annotated[int, Field(strict=True, ge=1, le=10_000)] = 50
    mmd_target: Annotated[float, Field(strict=True, gt=1, le=1e6)] | None = None
    free_bits: Annotated[float, Field(strict=True, ge=0, le=100)] = 0.0

    encoder: Literal["conv", "dense", "scalar"] = "conv"
    encoder_width: Maps = 32
    encoder_norm: EncoderNorm = "batch"
    posterior_std: Literal["sigmoid", "exp", "softplus"] = "sigmoid"
    mean_scale: Positive | None = None
    latent_dim: Annotated[int, Field(strict=True, ge=0, le=1024)] = 10
    decoder: DecoderName = "pixelcnn"
    decoder_min_std: Positive = 0.1
    conditioning: Literal["global", "spatial"] = "global"
    pixelcnn_channels: Maps = 32
    pixelcnn_layers: Layers = 4
    receptive_radius: Radius = 12

    steps: Count = 1000
    batch_size: BatchSize = 100
    learning_rate: Positive = 1e-3
    learning_rate_decay: bool = True
    optimizer: Literal["adam", "rmsprop"] = "adam"
    gradient_clip: Positive | None = None
    precision: Precision = "auto"
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _fill_from_objective(cls, values: Any) -> Any:
        if isinstance(values, dict):
            name, dim = str(values.get("objective", "elbo")), values.get("latent_dim", 10)
            preset = OBJECTIVES.get(name, OBJECTIVES["elbo"])
            if name == "averaged_elbo":
                beta = PIXELS / dim if isinstance(dim, int) and dim > 0 else 1.0  # a wrong latent_dim is refused below
                preset = {**preset, "alpha": 1 - beta, "lambda_": beta}
            if values.get("kernel", "rbf") not in ("rbf", None):  # the preset's bandwidth is that of its own kernel
                preset = {name: value for name, value in preset.items() if name != "bandwidth"}
            named = ("alpha", "lambda_", "divergence")  # of others None is a value
            values = {**preset, **{name: v for name, v in values.items() if v is not None or name not in named}}
        return values

    @model_validator(mode="after")
    def _check_weights(self) -> RunConfig:
        if self.divergence_weight < 0:
            raise ValueError(
                f"alpha + lambda_ - 1 must not be negative (it would reward a mismatch of q(z) and p(z)), "
                f"got alpha={self.alpha:g}, lambda_={self.lambda_:g}"
            )
        if self.divergence == "none" and self.divergence_weight > 0:
            raise ValueError(
                f"objective {self.objective!r} has no divergence, so alpha + lambda_ must be 1, "
                f"got alpha={self.alpha:g}, lambda_={self.lambda_:g}; choose an objective with one, such as 'mmd'"
            )
        if self.kernel != "rbf" and self.bandwidth != "paper":
            raise ValueError(f"kernel {self.kernel!r} has no bandwidth: leave it out, got {self.bandwidth!r}")
        if self.lambda_start is not None and not 0 < self.lambda_start <= self.lambda_:
            raise ValueError(f"lambda_start must lie in (0, lambda_={self.lambda_:g}], got {self.lambda_start:g}")
        if self.lambda_start is not None and divergence_weight(self.alpha, self.lambda_start) < 0:
            given = f"got alpha={self.alpha:g}, lambda_start={self.lambda_start:g}"
            raise ValueError(f"alpha + lambda_start - 1 must not be negative, {given}")
        if self.mmd_target is not None and (self.divergence != "mmd" or self.lambda_start is None):
            raise ValueError(f"mmd_target={self.mmd_target:g} needs divergence 'mmd' and a lambda_start to begin at")
        return self

    @model_validator(mode="after")
    def _check_networks(self) -> RunConfig:
        autoregressive = self.decoder in AUTOREGRESSIVE
        no_code = self.latent_dim == 0
        if no_code != (self.objective == "unconditional") or (no_code and not autoregressive):
            given = f"latent_dim={self.latent_dim}, objective {self.objective!r}, decoder {self.decoder!r}"
            needs = "it needs latent_dim=0 and a decoder such as 'pixelcnn', and nothing else may have latent_dim=0"
            raise ValueError(f"objective 'unconditional' has no code: {needs}, got {given}")
        if len({self.dataset == "two_points", self.encoder == "scalar", self.decoder == "scalar"}) > 1:
            raise ValueError(
                "encoder 'scalar' and decoder 'scalar' are for dataset 'two_points', and it for them, "
                f"got dataset {self.dataset!r}, encoder {self.encoder!r}, decoder {self.decoder!r}"
            )
        if self.binarization == "none" and self.decoder not in ("conv", "dense"):
            raise ValueError(f"binarization 'none' (grey images) needs decoder 'conv' or 'dense', got {self.decoder!r}")
        if self.conditioning == "spatial" and self.decoder != "pixelcnn":
            raise ValueError(f"conditioning 'spatial' needs decoder 'pixelcnn', got decoder {self.decoder!r}")
        if self.decoder == "pixelcnn" and self.receptive_radius <= self.pixelcnn_layers:
            raise ValueError(
                f"receptive_radius must exceed pixelcnn_layers={self.pixelcnn_layers} (each layer adds one "
                f"pixel to the first layer's window), got {self.receptive_radius}"
            )
        return self

    def fingerprint(self, *context: str) -> str:
        """Return what identifies these settings; of grey images also which decoder they have."""
        return super().fingerprint(*context, *(["sigmoid pixels"] if self.binarization == "none" else []))

    @property
    def divergence_weight(self) -> float:
        """Weight lambda_ + alpha - 1 of D(q(z)||p(z))."""
        return divergence_weight(self.alpha, self.lambda_)


class PixelConfig(Settings):
    """The baseline whose code is the image itself: nothing is trained, the classifier of codes sees the pixels."""

    objective: Literal["pixels"] = "pixels"
    dataset: Dataset = "mnist"
    n_train: TrainingSize = Field(default_factory=all_training_images)
    seed: Seed = 0


class ClassifierConfig(Settings):
    """The classifier that labels generated images; trained once per data set, on binarised training images."""

    dataset: Dataset = "mnist"
    steps: Count = 1400
    batch_size: BatchSize = 128
    learning_rate: Positive = 6e-3
    seed: Seed = 0


class LatentEvaluation(Settings):
    """Match of q(z) and p(z), information in the code and its use by the decoder (paper, section 5).

    Attributes
    ----------
    revision : of this evaluation's code; raised where a change alters or adds a number, so that it is made again.
    split : whose images; what is chosen by looking at results is chosen on validation images.
    """

    revision: Literal[3] = 3
    split: Literal["test", "validation"] = "test"
    n_images: Annotated[int, Field(strict=True, ge=100, le=60_000)] = 10_000
    n_likelihood: Annotated[int, Field(strict=True, ge=10, le=10_000)] = 1000


class SampleEvaluation(Settings):
    """Generated images, labelled by a classifier (paper, "Class distribution"); by none for images without labels."""

    revision: Literal[2] = 2
    classifier: ClassifierConfig | None = ClassifierConfig()
    n_samples: Samples = 1000

    @classmethod
    def for_dataset(cls, dataset: Dataset, n_samples: int) -> SampleEvaluation:
        """Return the evaluation by the data set's own classifier, with its default budget."""
        labelled = sources.facts(dataset).n_classes > 0
        return cls(classifier=ClassifierConfig(dataset=dataset) if labelled else None, n_samples=n_samples)


class SemiSupervisedEvaluation(Settings):
    """Error of (transductive) support vector machines with few labels on E[z|x], of the former on z too."""

    revision: Literal[2] = 2
    n_labels: Annotated[int, Field(strict=True, ge=20, le=50_000)] = 1000
    n_draws: Annotated[int, Field(strict=True, ge=1, le=100)] = 3
    n_unlabelled: Annotated[int, Field(strict=True, ge=0, le=60_000)] = 2000
    n_pool: Annotated[int, Field(strict=True, ge=20, le=60_000)] = 10_000  # training images that both are drawn from


class PosteriorEvaluation(Settings):
    """The exact posterior of a one-dimensional code, on a grid, beside q(z|x) (paper, amortised inference)."""

    z_max: Annotated[float, Field(gt=0, le=100)] = 10.0
    n_grid: Annotated[int, Field(strict=True, ge=101, le=1_000_001)] = 5001


class LikelihoodEvaluation(Settings):
    """Bounds on log p(x): importance-weighted, with a proposal fitted to the frozen decoder (Table 1).

    Attributes
    ----------
    n_images : test images, drawn by the run's seed.
    n_train_images : training images of the run, so drawn, for the gap between them and test images; 0 for no gap.
    n_draws : K of the tightest bound; those of every lower power of ten are given too.
    fit_steps : of the proposal, for each image.
    n_searched : how many of the test images are estimated again by fits that do not start from the encoder; 0 for none.
        Costs about ten times what the bound itself costs for these images.
    """

    FORMER = {"n_annealed": 0, "n_temperatures": 300}  # annealed importance sampling

    revision: Literal[2] = 2
    n_images: FewImages = 100
    n_train_images: Annotated[int, Field(strict=True, ge=0, le=50_000)] = 0
    n_draws: Draws = 100
    fit_steps: FitSteps = 100
    n_searched: Annotated[int, Field(strict=True, ge=0, le=10_000)] = 20

    def fingerprint(self, *context: str) -> str:
        """Return what identifies these settings; of a search also that both sides of it have as many draws."""
        return super().fingerprint(*context, *(["equal draws"] if self.n_searched else []))


Evaluation = LatentEvaluation | SampleEvaluation | SemiSupervisedEvaluation | PosteriorEvaluation | LikelihoodEvaluation
