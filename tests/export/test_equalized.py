"""Channels made alike in range: the same outputs, and integers that keep them."""

import keras
import numpy as np
import pytest
from keras import layers

from spherekeras.errors import ExportError
from spherekeras.export import tflite, to_tflite
from spherekeras.export.equalized import equalized

PICTURES = np.random.default_rng(0).normal(size=(40, 8, 8, 3)).astype("float32")


def unlike(model, seed=1):
    """Gives the channels of every layer very different ranges, as training does."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        value = rng.normal(size=weight.shape) * 0.4
        if "alpha" in weight.path:
            value = rng.uniform(0, 0.5, weight.shape)
        elif "variance" in weight.path:
            value = rng.uniform(0.5, 2, weight.shape)
        elif weight.path.endswith("gamma"):
            value = np.exp(rng.normal(size=weight.shape) * 1.5)
        weight.assign(value)
    return model


def built(*stack):
    image = x = keras.Input((8, 8, 3))
    for layer in stack:
        x = layer(x)
    return unlike(keras.Model(image, layers.Dense(5)(layers.Flatten()(x))))


def prelu():
    return layers.PReLU(shared_axes=[1, 2])


STACKS = {
    "norm, prelu, depthwise": lambda: built(
        *(layers.Conv2D(6, 1, use_bias=False), layers.BatchNormalization(), prelu()),
        *(layers.ZeroPadding2D(1), layers.DepthwiseConv2D(3, name="reader")),
    ),
    "bias, relu, convolution": lambda: built(
        layers.Conv2D(6, 3), layers.ReLU(), layers.Conv2D(4, 3, strides=2, name="reader")
    ),
    "depthwise, norm, convolution": lambda: built(
        *(layers.DepthwiseConv2D(3), layers.BatchNormalization(), prelu()),
        layers.Conv2D(4, 1, name="reader"),
    ),
    "depthwise, leaky relu, depthwise": lambda: built(
        *(layers.DepthwiseConv2D(3), layers.ReLU(negative_slope=0.1)),
        layers.DepthwiseConv2D(3, name="reader"),
    ),
}


def kernels(model):
    return [layer.get_weights()[0] for layer in model.layers if "conv2d" in layer.name]


@pytest.mark.parametrize("stack", STACKS)
def test_the_outputs_stay_and_the_ranges_are_alike(stack):
    model = STACKS[stack]()
    before = [weight.copy() for weight in model.get_weights()]
    copy = equalized(model, PICTURES)
    wanted = np.asarray(model(PICTURES))
    np.testing.assert_allclose(copy(PICTURES), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    for kept, weight in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(kept, weight)

    def spread(network):
        reader = network.get_layer("reader")
        given = keras.Model(network.inputs[0], reader.input)(PICTURES)
        reach = np.abs(given).max((0, 1, 2))
        return reach.max() / reach.min()

    assert spread(copy) < 0.8 * spread(model)


def test_a_depthwise_reader_sees_every_channel_reach_as_far():
    copy = equalized(STACKS["norm, prelu, depthwise"](), PICTURES)
    [norm] = [layer for layer in copy.layers if isinstance(layer, layers.BatchNormalization)]
    reach = np.abs(keras.Model(copy.inputs[0], norm.output)(PICTURES)).max((0, 1, 2))
    np.testing.assert_allclose(reach, reach.max(), rtol=1e-4)


def test_a_channel_that_is_never_there_stays_finite():
    model = built(layers.Conv2D(4, 1), layers.ReLU(), layers.Conv2D(3, 1))
    first = model.layers[1]
    kernel, bias = first.get_weights()
    first.set_weights([kernel * [0, 1, 1, 1], np.array([-1.0, *bias[1:]])])
    copy = equalized(model, PICTURES)
    assert all(np.isfinite(weight).all() for weight in copy.get_weights())
    np.testing.assert_allclose(copy(PICTURES), model(PICTURES), rtol=1e-4, atol=1e-4)


def two_readers():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(image)
    y = layers.Add()([x, layers.Conv2D(4, 1)(x)])
    return unlike(keras.Model(image, layers.Flatten()(y)))


def called_twice():
    image = keras.Input((8, 8, 3))
    shared = layers.Conv2D(3, 1)
    return unlike(keras.Model(image, layers.Flatten()(layers.Conv2D(2, 1)(shared(shared(image))))))


UNTOUCHED = {
    "a map that an addition reads, too": two_readers,
    "a layer called twice": called_twice,
    "tanh": lambda: built(layers.Conv2D(4, 1), layers.Activation("tanh"), layers.Conv2D(4, 1)),
    "ReLU with a ceiling": lambda: built(
        layers.Conv2D(4, 1), layers.ReLU(max_value=6.0), layers.Conv2D(4, 1)
    ),
    "an activation inside the convolution": lambda: built(
        layers.Conv2D(4, 1, activation="tanh"), layers.Conv2D(4, 1)
    ),
    "batch norm without an offset": lambda: built(
        layers.Conv2D(4, 1), layers.BatchNormalization(center=False), layers.Conv2D(4, 1)
    ),
    "groups": lambda: built(layers.Conv2D(4, 1), layers.Conv2D(4, 1, groups=2)),
    "one convolution": lambda: built(layers.Conv2D(4, 1)),
}


@pytest.mark.parametrize("kind", UNTOUCHED)
def test_what_a_factor_does_not_go_through_stays(kind):
    model = UNTOUCHED[kind]()
    for kept, weight in zip(kernels(model), kernels(equalized(model, PICTURES)), strict=True):
        np.testing.assert_array_equal(kept, weight)


def test_integers_keep_more_of_it(monkeypatch, tmp_path):
    """A network put out of balance, its function the same, is as good in integers as before."""
    keras.utils.set_random_seed(3)
    norm, reader = layers.BatchNormalization(), layers.DepthwiseConv2D(3)
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), layers.Conv2D(16, 1), norm, prelu(), reader, layers.Flatten()]
    )
    model = keras.Model(model.inputs[0], model.outputs[0])
    factor = np.geomspace(1, 1000, 16)
    for weight in (norm.gamma, norm.beta):
        weight.assign(np.asarray(weight) * factor)
    reader.kernel.assign(np.asarray(reader.kernel) / factor[:, None])
    report = to_tflite(model, tmp_path / "a.tflite", "int8", PICTURES)
    assert report.min_cosine > 0.999
    monkeypatch.setattr(tflite, "equalized", lambda network, inputs: network)
    with pytest.raises(ExportError, match="out of tolerance"):
        to_tflite(model, tmp_path / "b.tflite", "int8", PICTURES)
