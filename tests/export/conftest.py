"""A small network of SphereFace's kind, the embedder around it, and its float64 oracle."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import pytest

from spherekeras.embedder import FaceEmbedder
from spherekeras.presets import PresetConfig


def network(name="tiny"):
    keras.utils.set_random_seed(7)
    layers = keras.layers

    def convolution(x, name, **options):
        x = layers.ZeroPadding2D(1, name=f"{name}_pad")(x)
        x = layers.Conv2D(8, 3, name=name, **options)(x)
        slope = keras.initializers.RandomUniform(0.1, 0.4)
        return layers.PReLU(slope, shared_axes=[1, 2], name=f"{name}_prelu")(x)

    crop = keras.Input((32, 28, 3), name="crop")
    x = convolution(crop, "open", strides=2, bias_initializer="random_normal")
    x = layers.Add(name="add")([x, convolution(x, "unit", use_bias=False)])
    embedding = layers.Dense(16, name="fc")(layers.Flatten(name="flatten")(x))
    return keras.Model(crop, embedding, name=name)


def config(**changes):
    values = {
        "backbone": "SphereFaceNet",
        "template": "sphereface_112x96",
        "height": 32,
        "width": 28,
    }
    values |= {"scale": 1 / 128, "offset": 127.5, "channel_order": "BGR", "mirror": "none"}
    values |= changes
    shape = [values["height"], values["width"], 3]
    return PresetConfig(**values, arguments={"input_shape": shape})


@pytest.fixture(scope="session")
def configured():
    return config


@pytest.fixture(scope="session")
def backbone():
    return network()


@pytest.fixture(scope="session")
def embedder(backbone):
    return FaceEmbedder(backbone, config())


@pytest.fixture(scope="session")
def crops():
    """Twelve smooth RGB pictures, uint8."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[0:1:32j, 0:1:28j][..., None]
    waves = rng.uniform(1, 9, (3, 12, 1, 1, 3))
    values = np.sin(waves[0] * x + waves[1] * y + waves[2])
    return np.round(127.5 + 127 * values).astype("uint8")


@pytest.fixture(scope="session")
def oracle(backbone):
    """From RGB pixels to unit embeddings, in float64 NumPy."""
    weights = {w.path.removeprefix("tiny/"): np.asarray(w, "float64") for w in backbone.weights}

    def convolution(x, name, stride):
        x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))
        x = np.einsum(
            "nyxcij,ijco->nyxo", windows[:, ::stride, ::stride], weights[f"{name}/kernel"]
        )
        x = x + weights.get(f"{name}/bias", 0.0)
        return np.where(x > 0, x, weights[f"{name}_prelu/alpha"] * x)

    def raw(pixels):
        x = (np.asarray(pixels, "float64")[..., ::-1] - 127.5) / 128
        x = convolution(x, "open", 2)
        x = x + convolution(x, "unit", 1)
        return x.reshape(len(x), -1) @ weights["fc/kernel"] + weights["fc/bias"]

    def embed(pixels, mirror="none"):
        x = raw(pixels)
        if mirror == "sum":
            x = x + raw(pixels[:, :, ::-1])
        if mirror == "concat":
            x = np.concatenate([x, raw(pixels[:, :, ::-1])], axis=1)
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    return embed
