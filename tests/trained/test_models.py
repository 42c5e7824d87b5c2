"""Trained models to use: the run that a selection means, arrays in and out, and a scikit-learn pipeline."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny
from fresh import GREY, conv, keep
from safetensors.torch import save
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import infovae
from infovae.config import PixelConfig, RunConfig
from infovae.data.parsers import DataError
from infovae.evaluation.likelihood import estimate_log_likelihood
from infovae.model.build import build_model
from infovae.model.networks import Gaussian
from infovae.paths import PROJECT_ROOT
from infovae.refusals import ParameterError
from infovae.runs.store import Store
from infovae.runs.sweep import task_id
from infovae.trained.models import TrainedModel, load, train_model


@pytest.fixture
def published(store: Store, tmp_path: Path) -> Path:
    """The results of a profile: three runs, the second without weights here, the third one that differs in lambda_."""
    folder = tmp_path / "results" / "quick"
    configs = [tiny(objective="mmd"), tiny(objective="mmd", seed=1), tiny(objective="mmd", lambda_=10.0)]
    for config in configs:
        store.publish(keep(store, config), [], folder, weights=config.seed == 0)
    store.save_run(task_id(PixelConfig(dataset="digits")), PixelConfig(dataset="digits"), save({}), {"history": []})
    store.publish(task_id(PixelConfig(dataset="digits")), [], folder, weights=True)
    (tmp_path / "store").rename(tmp_path / "gone")
    return folder


def test_a_selection_names_one_published_run(published: Path) -> None:
    model = load(published, objective="mmd", latent_dim=2, seed=0, lambda_=10)
    assert (model.config.lambda_, model.config.dataset, model.image_shape) == (10.0, "digits", (8, 8))
    assert model.device.type == "cpu" and not model.model.training
    torch.manual_seed(0)
    fresh = build_model(tiny(objective="mmd", lambda_=10.0), (8, 8)).half()  # the precision of published weights
    assert all(torch.equal(a, b.float()) for a, b in zip(model.model.parameters(), fresh.parameters(), strict=True))


def test_what_matches_several_or_none_lists_what_there_is(published: Path) -> None:
    with pytest.raises(
        ParameterError, match=r"2 models in .*quick are objective='mmd': name more.*\n  lambda_: 10.0, 784"
    ):
        load(published, objective="mmd")
    with pytest.raises(
        ParameterError, match=r"no model in .* is objective='elbo'. There are 2, with\n  objective: 'mmd'\n"
    ):
        load(published, objective="elbo")
    with pytest.raises(ParameterError, match=r"weights of 1 that are so are not on this machine\. Published"):
        load(published, seed=1)
    with pytest.raises(ParameterError, match="unknown setting 'latent_dims'; did you mean 'latent_dim'"):
        load(published, latent_dims=2)
    with pytest.raises(ParameterError, match="unknown data set 'mnst'; did you mean 'mnist'"):
        load(published, dataset="mnst")
    with pytest.raises(ParameterError, match="there is no folder laptp; results are there of: quick"):
        load("laptp")
    (published.parent / "empty").mkdir()
    with pytest.raises(ParameterError, match="empty holds 0 runs and no weights of any"):
        load("empty")


def test_of_several_the_run_of_the_comparison_is_meant(published: Path) -> None:
    meant = task_id(tiny(objective="mmd"))
    (published / "divergence_comparison").mkdir()
    (published / "divergence_comparison" / "runs.csv").write_text(f"run_id,status\n{meant},done\n")
    assert load("quick", objective="mmd").config.lambda_ == 784
    assert load(published, lambda_=10.0).config.lambda_ == 10  # the others are still there
    assert load("quick/divergence_comparison").config.lambda_ == 784


def test_runs_of_ones_own_are_found_by_their_table_and_in_the_store(store: Store, tmp_path: Path) -> None:
    ids = [keep(store, tiny(objective=name)) for name in ("mmd", "elbo")]
    folder = tmp_path / "results" / "custom" / "latent_usage"
    folder.mkdir(parents=True)
    (folder / "runs.csv").write_text(f"status,run_id\ndone,{ids[0]}\nfailed,0123456789abcdef\n")
    for place in ("results/custom/latent_usage", "custom", folder):
        assert load(place).config.objective == "mmd"
    assert load(store.root, objective="elbo").config.objective == "elbo"


def test_weights_that_were_not_published_come_from_ones_own_store(published: Path, tmp_path: Path) -> None:
    (tmp_path / "gone").rename(tmp_path / "store")
    assert load("quick", seed=1).config.seed == 1


@pytest.mark.parametrize("damage", [lambda content: content[:-1] + b"\1", lambda content: content[:100]])
def test_damaged_weights_are_named(published: Path, damage: object) -> None:
    path = published / "weights" / f"{task_id(tiny(objective='mmd'))}.safetensors"
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(DataError, match=rf"{path.name} is damaged: expected SHA-256 .*; restore it"):
        load("quick", lambda_=784.0)


def test_a_damaged_or_foreign_record_is_named(published: Path) -> None:
    record = published / "runs" / f"{task_id(tiny(objective='mmd'))}.json"
    record.write_bytes(record.read_bytes().replace(b'"steps": 20', b'"steps": 21'))
    with pytest.raises(DataError, match=f"{record.name} is damaged"):
        load("quick", lambda_=784.0)
    for damaged in (b"{", b'{"config": null}'):
        record.write_bytes(damaged)
        assert load("quick").config.lambda_ == 10  # what cannot be read is left out


def test_weights_of_another_model_are_refused(store: Store) -> None:
    identity = keep(store, tiny(objective="mmd"), identity="0" * 16)
    store.save_run(identity, tiny(objective="mmd", latent_dim=3), store.load_weights(identity) or b"", {"history": []})
    with pytest.raises(DataError, match=r"model\.safetensors does not fit the model of record\.json"):
        load(store.root)


@pytest.mark.parametrize("decoder", [{}, {"pixelcnn_channels": 16, "pixelcnn_layers": 2, "receptive_radius": 8}])
def test_loading_and_sampling_takes_seconds(decoder: dict[str, int], store: Store, tmp_path: Path) -> None:
    """Processor seconds, whatever else the machine does: of 28 x 28 images, by the published decoders."""
    folder = tmp_path / "results" / "laptop"
    identity = keep(store, RunConfig(objective="mmd", **decoder), (28, 28), "0" * 16)  # type: ignore[arg-type]
    store.publish(identity, [], folder, weights=True)
    start = time.process_time()
    images = infovae.load("results/laptop", objective="mmd", latent_dim=10, seed=0).sample(100)
    assert time.process_time() - start < 5
    assert images.shape == (100, 28, 28) and set(np.unique(images)) == {0, 1}


def test_importing_the_package_and_loading_need_no_scikit_learn() -> None:
    code = "import sys, infovae; infovae.load; print('sklearn' in sys.modules); infovae.InfoVAE; infovae.nothing"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT_ROOT, text=True, capture_output=True)
    assert done.stdout == "False\n" and "module 'infovae' has no attribute 'nothing'" in done.stderr


def test_of_no_images_there_are_no_bounds() -> None:
    model = conv()
    assert model.encode(GREY[:0]).shape == (0, 2) and model.log_prob(GREY[:0]).shape == (0,)


def test_an_image_is_seen_in_the_same_way_wherever_it_stands() -> None:
    model = conv()
    z = model.encode(GREY)
    assert z.shape == (40, 2) and z.dtype == np.float32
    np.testing.assert_allclose(model.encode(GREY[5:6]), z[5:6], atol=1e-5)
    np.testing.assert_allclose(model.encode(GREY / 255), z, atol=1e-5)
    assert not np.allclose(model.encode(GREY, seed=1), z)
    binary = GREY > 127
    for same in (binary.astype(float), binary.astype(np.uint8) * 255):
        np.testing.assert_array_equal(model.encode(same), model.encode(binary))  # nothing is drawn of 0 and 1
    np.testing.assert_array_equal(model.encode(binary, seed=1), model.encode(binary))


def test_a_grey_pixel_is_on_as_often_as_it_is_bright() -> None:
    model, level = conv(), np.full((1, 8, 8), 64, np.uint8)
    on = np.mean([model._see(level, seed).mean().item() for seed in range(200)])
    assert on == pytest.approx(64 / 255, abs=0.015)  # 12,800 pixels: a standard error of 0.004


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (GREY[0], "expected grey images"),
        (GREY.astype(int), "expected grey values as uint8, or as floats from 0 to 1, found int64"),
        (np.zeros((3, 16, 16)), r"expected images of \(8, 8\), found \(16, 16\)"),
        ((GREY > 127).astype(np.uint8), "found uint8 of 0 and 1 alone: give those as floats"),
        (np.full((2, 8, 8), np.nan), "found float64 from nan to nan"),
    ],
)
def test_images_that_a_model_cannot_see_are_refused(images: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        conv().encode(images)


def test_samples_of_a_seed_have_the_same_noise_in_every_model() -> None:
    a, b = conv(), conv(objective="mmd")
    for name, parameter in b.model.named_parameters():
        parameter.data = dict(a.model.named_parameters())[name].data
    np.testing.assert_array_equal(a.sample(30, seed=3), b.sample(30, seed=3))
    assert (a.sample(30, seed=3) != a.sample(30, seed=4)).any()
    grey = a.sample(4000, seed=3, expected=True)
    assert np.unique(grey).size > 2
    assert a.sample(4000, seed=3).mean() == pytest.approx(grey.mean(), abs=0.01)
    assert a.sample(0).shape == (0, 8, 8)


def test_pixelcnn_draws_and_gives_its_expectation_of_each_pixel() -> None:
    torch.manual_seed(0)
    model = TrainedModel(build_model(tiny(), (8, 8)), tiny(), (8, 8))
    drawn, expected = model.sample(500), model.sample(500, expected=True)
    assert set(np.unique(drawn)) == {0, 1} and ((expected > 0) & (expected < 1)).all()
    assert drawn.mean() == pytest.approx(expected.mean(), abs=0.02)


def test_grey_models_see_and_give_grey_images() -> None:
    model = conv(binarization="none")
    np.testing.assert_array_equal(model.encode(GREY, seed=0), model.encode(GREY, seed=1))
    assert np.unique(model.sample(5)).size > 2 and model.log_prob(GREY[:3], 10, 5).shape == (3,)


def test_interpolation_goes_from_one_code_to_the_other() -> None:
    model = conv()
    path = model.interpolate(GREY[0], GREY[1], steps=5, expected=True)
    z = model.encode(GREY[:2])
    np.testing.assert_allclose(
        path[[0, 2, 4]], model.decode(np.stack([z[0], z.mean(0), z[1]]), expected=True), atol=1e-5
    )
    np.testing.assert_array_equal(model.interpolate(z[0], z[1], 5), model.interpolate(GREY[0], GREY[1], 5))
    assert (model.interpolate(z[0], z[0], 3) == model.decode(z[:1], same_noise=True)).all()  # one noise for all steps
    with pytest.raises(DataError, match=r"expected codes \(n, 2\), found \(1, 3\)"):
        model.decode(np.zeros((1, 3)))


def test_reconstruction_is_the_decoded_mean_code() -> None:
    model = conv()
    np.testing.assert_array_equal(
        model.reconstruct(GREY, expected=True), model.decode(model.encode(GREY), expected=True)
    )


def test_log_prob_is_the_bound_of_the_evaluation() -> None:
    """Beside a brute-force integral over the plane of codes."""
    model = conv()
    bound = model.log_prob(GREY[:4], n_draws=100, fit_steps=50)
    assert bound.dtype == np.float64
    x = model._see(GREY[:4], 0)
    generator = torch.Generator().manual_seed(0)
    q = Gaussian(*(part.detach() for part in model.model.encoder(x)))
    same = estimate_log_likelihood(model.model.decoder, q, x, generator, 100, 50, chunk=100)
    np.testing.assert_allclose(bound, same.log_p_x[100].numpy(), atol=1e-4)
    axis = torch.linspace(-5, 5, 201)
    z = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        log_p = torch.stack([model.model.decoder.log_prob(image.expand(len(z), 1, 8, 8), z) for image in x])
    log_prior = -z.square().sum(1) / 2 - np.log(2 * np.pi)
    exact = (log_p + log_prior).double().logsumexp(1) + 2 * np.log(0.05)
    np.testing.assert_allclose(bound, exact.numpy(), atol=0.1)
    with pytest.raises(ParameterError, match=r"n_draws must be 1, 10, 100, 1000, \.\.\., got 50"):
        model.log_prob(GREY[:1], n_draws=50)


def test_a_model_trains_on_all_of_an_array() -> None:
    threads = torch.get_num_threads()
    model = train_model(GREY[:, :7, :6], objective="elbo", latent_dim=3, decoder="conv", steps=4)
    assert (model.config.n_train, model.image_shape, model.encode(GREY[:5, :7, :6]).shape) == (40, (8, 8), (5, 3))
    assert model.history[-1]["step"] == 4 and torch.get_num_threads() == threads
    with pytest.raises(DataError, match="expected at least 20 images, found 3"):
        train_model(GREY[:3])
    with pytest.raises(ParameterError, match=r"parameter steps: .*greater than or equal to 1, got 0"):
        train_model(GREY, steps=0)
    with pytest.raises(ParameterError, match="n_train follows from the array"):
        train_model(GREY, n_train=3)


def test_codes_go_into_a_scikit_learn_pipeline() -> None:
    X, y = load_digits(return_X_y=True)
    X = X / 16
    pipeline = make_pipeline(infovae.InfoVAE(objective="mmd", latent_dim=8, steps=150, seed=0), LogisticRegression())
    pipeline.fit(X[:1200], y[:1200])
    assert pipeline.score(X[1200:], y[1200:]) > 0.6  # chance is 0.1
    unfitted = clone(pipeline[0])
    assert unfitted.get_params() == pipeline[0].get_params()
    images = X.reshape(-1, 8, 8)
    np.testing.assert_array_equal(pipeline[0].transform(images[:9]), pipeline[0].transform(X[:9]))
    with pytest.raises(ValueError, match="not fitted"):
        unfitted.transform(X)
    with pytest.raises(DataError, match=r"expected square images, .*\(1797, 63\)"):
        unfitted.fit(X[:, :63])
    with pytest.raises(DataError, match=r"floats from 0 to 1, found float64 from 0.0 to 16.0"):
        unfitted.fit(16 * X)
    with pytest.raises(ParameterError, match="encoder_width"):
        clone(unfitted).set_params(overrides={"encoder_width": 0}).fit(X)
    overridden = clone(unfitted).set_params(overrides={"steps": 2, "encoder_width": 4}).fit(X)
    assert overridden.trained_.config.steps == 2


def test_a_transformer_refuses_images_of_another_size_than_it_was_fitted_on() -> None:
    images = load_digits().images[:60].astype(np.float32) / 16
    vae = infovae.InfoVAE(steps=2, latent_dim=np.int64(2)).fit(images.reshape(60, -1))  # type: ignore[arg-type]
    assert list(vae.get_feature_names_out()) == ["infovae0", "infovae1"] and vae.n_features_in_ == 64
    with pytest.raises(DataError, match=r"expected images of \(8, 8\), found \(7, 7\)"):
        vae.transform(images[:, :7, :7].reshape(60, -1))
    assert vae.set_output(transform="default").transform(images).shape == (60, 2)


def test_a_model_of_a_named_data_set_pads_nothing(published: Path) -> None:
    model = load(published, objective="mmd", latent_dim=2, seed=0, lambda_=10)
    for images in (np.zeros((2, 7, 7), np.float32), [np.zeros((7, 7), np.float32)] * 2):
        with pytest.raises(DataError, match=r"expected images of \(8, 8\), found \(7, 7\)"):
            model.encode(images)  # type: ignore[arg-type]


def test_codes_and_numbers_that_mean_nothing_are_refused(published: Path) -> None:
    model = load(published, objective="mmd", latent_dim=2, seed=0, lambda_=10)
    with pytest.raises(DataError, match="codes that are finite"):
        model.decode(np.full((1, 2), np.nan))
    for n in (-1, 2.5):
        with pytest.raises(ParameterError, match=f"n must be a whole number, 0 or more, got {n}"):
            model.sample(n)  # type: ignore[arg-type]
    images = np.zeros((3, 8, 8), np.float32)
    np.testing.assert_array_equal(model.encode(images[:, None]), model.encode(images))  # as PyTorch has them


def test_loading_leaves_the_callers_random_state_alone(published: Path) -> None:
    torch.manual_seed(17)
    expected = torch.rand(3)
    torch.manual_seed(17)
    load(published, objective="mmd", latent_dim=2, seed=0, lambda_=10)
    assert torch.equal(torch.rand(3), expected)


def test_what_the_package_offers_is_listed() -> None:
    assert {"load", "InfoVAE"} <= set(dir(infovae)) and set(infovae.__all__) == {"load", "InfoVAE"}
