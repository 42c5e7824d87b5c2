"""Pictures of trained models: which models are shown, neighbours, and the still picture where there are no sliders."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import tiny
from fresh import GREY, conv, keep
from IPython.display import Image

from infovae.plotting import Captioned
from infovae.refusals import ParameterError
from infovae.runs.store import Store
from infovae.runs.sweep import task_id
from infovae.trained import explore


def test_each_objective_has_one_model_of_the_nearest_dimension(store: Store, tmp_path: Path) -> None:
    configs = [tiny(objective=name, latent_dim=dim, decoder="conv") for name in ("mmd", "elbo") for dim in (2, 6)]
    configs += [tiny(objective="mmd", latent_dim=6), tiny(objective="unconditional"), tiny(latent_dim=3)]
    for config in configs:
        keep(store, config)
    comparison = store.root / "divergence_comparison"
    comparison.mkdir()
    meant = [task_id(config) for config in configs if config.decoder == "conv"]
    (comparison / "runs.csv").write_text("\n".join(["run_id", *meant]))
    models = explore.load_each(store.root, 10)
    assert {name: m.config.latent_dim for name, m in models.items()} == {"elbo": 6, "mmd": 6}
    assert models["mmd"].config.decoder == "conv"  # of the comparison
    assert list(explore.load_each(store.root, 3)) == ["elbo", "mmd"]  # of the comparison's dimensions the nearest
    assert list(explore.load_each(store.root, 3, exactly=True)) == ["elbo"]
    assert explore.load_each(store.root, 5, exactly=True) == {}
    with pytest.raises(ParameterError, match=r"no model in .* has a code"):
        explore.load_each(store.root, 2, objective="unconditional")
    with pytest.raises(ParameterError, match=r"no model in .* is steps=3"):
        explore.load_each(store.root, 2, steps=3)
    assert list(explore.tabulate(models.values())["objective"]) == ["VAE", "MMD"]


def test_neighbours_and_distances_are_those_of_every_pair() -> None:
    rng = np.random.default_rng(0)
    images, others = rng.random((7, 8, 8)), rng.random((30, 8, 8))
    distances = np.sqrt(((images[:, None] - others[None]) ** 2).sum((2, 3)))
    places, found = explore.nearest(images, others)
    np.testing.assert_array_equal(places, distances.argmin(1))
    np.testing.assert_allclose(found, distances.min(1), rtol=1e-4)


def test_a_model_that_repeats_training_images_shows() -> None:
    rng = np.random.default_rng(0)
    train, test = ((rng.random((n, 8, 8)) < 0.5).astype(float) for n in (300, 200))
    _, of_tests = explore.nearest(test, train)
    new = (rng.random((200, 8, 8)) < 0.5).astype(float)
    of_samples = {"elbo": explore.nearest(train[:50], train)[1], "mmd": explore.nearest(new, train)[1]}
    table = explore.compare_distances(of_samples, of_tests).set_index("objective")
    assert table.loc["VAE", "near"] == 1 and table.loc["VAE", "median_distance"] == 0
    assert table["near"]["MMD"] < 0.1 and table["near"]["test images"] <= 0.01
    drawn = explore.plot_distances(of_samples, of_tests)
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["VAE", "MMD", "test images"]


def test_the_plane_has_z1_to_the_right_and_z2_upwards() -> None:
    codes = explore.grid(4)
    assert codes.shape == (16, 2)
    assert (codes[:4, 1] == codes[0, 1]).all() and (np.diff(codes[:4, 0]) > 0).all() and codes[0, 1] > codes[-1, 1]
    np.testing.assert_allclose(np.sort(np.unique(codes)), [-1.1503, -0.3186, 0.3186, 1.1503], atol=1e-4)
    assert len(explore.plot_plane({"elbo": conv(), "mmd": conv(objective="mmd")}, 3).axes) == 2
    assert "no run has a result" in [text.get_text() for text in explore.plot_plane({}).texts]


def test_a_traversal_changes_one_dimension_in_each_row() -> None:
    model, z = conv(), np.array([0.3, -0.2])
    rows = explore.traverse(model, z, steps=5)
    assert rows.shape == (10, 8, 8)
    expected = model.decode(np.array([(0.3, -2.0), (0.3, 2.0)]), expected=True, same_noise=True)
    np.testing.assert_allclose(rows[[5, 9]], expected, atol=1e-6)


def test_sliders_are_a_still_picture_without_ipywidgets(monkeypatch: pytest.MonkeyPatch) -> None:
    model = conv()
    z = model.encode(GREY[:1])[0]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    still = explore.sliders(model, z)
    assert isinstance(still, Captioned) and "With ipywidgets there are sliders here" in still.caption
    shown: list[object] = []
    monkeypatch.setattr("IPython.display.display", lambda *things: shown.extend(things))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    widgets = SimpleNamespace(interactive=lambda draw, **ranges: (draw, ranges))
    monkeypatch.setattr(explore, "import_module", lambda name: widgets)
    draw, ranges = explore.sliders(model, z)
    assert list(ranges) == ["z1", "z2"]
    draw(z1=0.0, z2=1.0)
    assert isinstance(shown[0], Image)
