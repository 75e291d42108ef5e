"""What embeddings have in common, against the cosines and means that it should give."""

import keras
import numpy as np
import pytest

from spherekeras.common_part import keep_length, start_around, start_centred
from spherekeras.data.drawn_faces import drawn_crops
from spherekeras.embedder import FaceEmbedder
from spherekeras.recipe import BACKBONES, Backbone, Recipe
from spherekeras.training import build_backbone, preset_config

DIM = 5


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return drawn_crops(range(6), 2)[0]


def tiny(last: str) -> FaceEmbedder:
    """A network whose outputs differ in four of five dimensions, around a mean far from zero."""
    image = keras.Input((112, 96, 3), name="image")
    small = keras.layers.Flatten()(keras.layers.AveragePooling2D(16)(image))
    narrow = keras.layers.Dense(DIM - 1, kernel_initializer=keras.initializers.Orthogonal(seed=1))
    start = keras.initializers.RandomNormal(seed=2)
    end = keras.layers.Dense(DIM, kernel_initializer=start, use_bias=last == "dense")(narrow(small))
    if last == "batch norm":
        end = keras.layers.BatchNormalization()(end)
    config = preset_config(Recipe("tiny", backbone=Backbone("MobileFaceNet", embedding_dim=DIM)))
    return FaceEmbedder(keras.Model(image, end), config)


def raw(faces: FaceEmbedder, crops: np.ndarray) -> np.ndarray:
    return faces.embed_crops(crops, normalize=False).astype(np.float64)


def spread(rows: np.ndarray) -> float:
    return np.linalg.norm(rows - rows.mean(axis=0), axis=1).mean()


@pytest.mark.parametrize("last", ["batch norm", "dense", "no bias"])
def test_a_network_starts_around_the_mean_of_its_targets(last: str, crops: np.ndarray) -> None:
    faces, random = tiny(last), np.random.default_rng(0)
    targets = random.normal(size=(len(crops), DIM)) + 3
    targets = (targets / np.linalg.norm(targets, axis=1, keepdims=True)).astype(np.float32)
    before = raw(faces, crops)
    start_around(faces, crops, targets)
    after = raw(faces, crops)
    if last == "no bias":
        np.testing.assert_array_equal(after, before)
        return
    np.testing.assert_allclose(after - after.mean(axis=0), before - before.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(
        after.mean(axis=0) / spread(after), targets.mean(axis=0) / spread(targets), rtol=1e-4
    )


@pytest.mark.parametrize("last", ["batch norm", "dense"])
def test_a_network_starts_centred(last: str, crops: np.ndarray) -> None:
    faces = tiny(last)
    before = raw(faces, crops)
    assert np.linalg.norm(before.mean(axis=0)) > 0.1 * spread(before)
    start_centred(faces, crops)
    after = raw(faces, crops)
    np.testing.assert_allclose(after.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(after, before - before.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("last", ["batch norm", "dense"])
def test_a_constant_component_keeps_length_in_the_cosine(last: str, crops: np.ndarray) -> None:
    faces = tiny(last)
    start_centred(faces, crops)
    x = raw(faces, crops)
    keep_length(faces, crops, 0.75)
    unit = faces.embed_crops(crops).astype(np.float64)
    c = 0.75 * np.linalg.norm(x, axis=1).mean()
    for i, a in enumerate(x):  # as the docstring writes it, for every pair
        for j, b in enumerate(x):
            wanted = (a @ b + c**2) / np.sqrt((a @ a + c**2) * (b @ b + c**2))
            assert unit[i] @ unit[j] == pytest.approx(wanted, abs=1e-5)


def test_a_constant_component_has_nowhere_to_stand(crops: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"in the bias of the last layer. Received: functional.*"):
        keep_length(tiny("no bias"), crops, 0.75)


@pytest.mark.parametrize("name", BACKBONES)
def test_every_network_of_a_recipe_takes_one(name: str, crops: np.ndarray) -> None:
    depth = {"MobileFaceNet": None, "IResNet": 18}.get(name, 4)
    plan = Recipe("a", backbone=Backbone(name, depth=depth, embedding_dim=16))
    faces = FaceEmbedder(build_backbone(plan.backbone), preset_config(plan))
    before = raw(faces, crops[:3])
    keep_length(faces, crops[:3], 2.0)
    moved = raw(faces, crops[:3]) - before
    np.testing.assert_allclose(moved, moved[:1].repeat(3, axis=0), rtol=1e-3, atol=1e-4)
    assert np.linalg.norm(moved[0]) == pytest.approx(2 * spread(before), rel=1e-2)
