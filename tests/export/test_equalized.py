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


def prelu(slope=0.0):
    return layers.PReLU(keras.initializers.Constant(slope), shared_axes=[1, 2])


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
    "norm without an offset, relu, flatten, dense": lambda: built(
        *(layers.Conv2D(6, 3, use_bias=False), layers.BatchNormalization(center=False)),
        *(layers.ReLU(), layers.Flatten(name="reader")),
    ),
    "convolution, one with an activation of its own": lambda: built(
        layers.Conv2D(6, 1), layers.Conv2D(4, 3, activation="tanh", name="reader")
    ),
    "depthwise, leaky relu, depthwise": lambda: built(
        *(layers.DepthwiseConv2D(3), layers.ReLU(negative_slope=0.1)),
        layers.DepthwiseConv2D(3, name="reader"),
    ),
}


def kernels(model):
    return [layer.get_weights()[0] for layer in model.layers if isinstance(layer, layers.Conv2D)]


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


def shared_with_a_nested_model():
    image = keras.Input((8, 8, 3))
    shared = layers.Conv2D(3, 1)
    inner = keras.Sequential([keras.Input((8, 8, 3)), shared, layers.ReLU()])
    return unlike(keras.Model(image, layers.Flatten()(inner(layers.ReLU()(shared(image))))))


class Standardised(layers.Conv2D):
    def call(self, inputs):
        kernel = self.kernel / (1e-6 + keras.ops.std(self.kernel, (0, 1, 2)))
        return keras.ops.conv(inputs, kernel) + self.bias


class Shifted(layers.ReLU):
    def call(self, inputs):
        return super().call(inputs) + 1.0


class PReLU(layers.Layer):
    """Another thing by the same name."""

    def call(self, inputs):
        return keras.ops.softplus(inputs)


@keras.saving.register_keras_serializable("tests")
def linear(x):
    return x * x


def with_lora():
    model = built(layers.Conv2D(4, 1), layers.ReLU(), layers.Conv2D(4, 1))
    model.layers[1].enable_lora(2)
    model.layers[3].enable_lora(2)
    return model


def between(*stack):
    return lambda: built(layers.Conv2D(4, 1), *(make() for make in stack), layers.Conv2D(4, 1))


UNTOUCHED = {
    "a map that an addition reads, too": two_readers,
    "a layer called twice": called_twice,
    "a layer that a nested model has, too": shared_with_a_nested_model,
    "tanh": between(lambda: layers.Activation("tanh")),
    "ReLU with a ceiling": between(lambda: layers.ReLU(max_value=6.0)),
    "a ReLU of somebody's own": between(lambda: Shifted()),
    "a PReLU by name alone": between(lambda: PReLU()),
    "batch norm over rows": between(lambda: layers.BatchNormalization(axis=1)),
    "batch norm without gamma": between(lambda: layers.BatchNormalization(scale=False)),
    "an activation inside the convolution": lambda: built(
        layers.Conv2D(4, 1, activation="tanh"), layers.Conv2D(4, 1)
    ),
    "an activation that is a layer": lambda: built(
        layers.Conv2D(4, 1, activation=layers.LeakyReLU()), layers.Conv2D(4, 1)
    ),
    "an activation by the name of none": lambda: built(
        layers.Conv2D(4, 1, activation=linear), layers.Conv2D(4, 1)
    ),
    "a convolution of somebody's own": lambda: built(
        Standardised(4, 1), layers.ReLU(), Standardised(4, 1)
    ),
    "groups": lambda: built(layers.Conv2D(4, 1), layers.Conv2D(4, 1, groups=2), layers.Dropout(0)),
}


@pytest.mark.parametrize("kind", UNTOUCHED)
def test_what_a_factor_does_not_go_through_is_left_alone(kind):
    model = UNTOUCHED[kind]()
    copy = equalized(model, PICTURES)
    wanted = np.asarray(model(PICTURES))
    np.testing.assert_allclose(copy(PICTURES), wanted, rtol=1e-4, atol=1e-5 * np.abs(wanted).max())
    [first, *_] = [k for k in kernels(model) if k.ndim == 4]
    np.testing.assert_array_equal(kernels(copy)[0], first)


def test_adapters_stay():
    model = with_lora()
    np.testing.assert_allclose(equalized(model, PICTURES)(PICTURES), model(PICTURES), rtol=1e-5)


def test_a_channel_hardly_seen_in_calibration_keeps_room():
    """However little of it was seen, it is enlarged 64 times at most."""
    model = built(layers.Conv2D(2, 1), layers.ReLU(), layers.DepthwiseConv2D(3))
    model.layers[1].set_weights([np.array([[[[1.0, 0], [0, 1e-4], [0, 0]]]]), np.zeros(2)])
    before, after = (
        network.layers[1].get_weights()[0] for network in (model, equalized(model, PICTURES))
    )
    np.testing.assert_allclose(after, before * [1, 64], rtol=1e-6)


@pytest.mark.parametrize(("slope", "cosine"), [(0.0, 0.999), (0.25, 0.998)])
def test_integers_keep_more_of_it(monkeypatch, tmp_path, slope, cosine):
    """A network put out of balance, its function the same, stays good in integers."""
    keras.utils.set_random_seed(3)
    norm, reader = layers.BatchNormalization(), layers.DepthwiseConv2D(3)
    stack = [layers.Conv2D(16, 1), norm, prelu(slope), reader, layers.Flatten()]
    model = keras.Sequential([keras.Input((8, 8, 3)), *stack])
    model = keras.Model(model.inputs[0], model.outputs[0])
    factor = np.geomspace(1, 1000, 16)
    for weight in (norm.gamma, norm.beta):
        weight.assign(np.asarray(weight) * factor)
    reader.kernel.assign(np.asarray(reader.kernel) / factor[:, None])
    report = to_tflite(model, tmp_path / "a.tflite", "int8", PICTURES)
    assert report.min_cosine > cosine
    monkeypatch.setattr(tflite, "equalized", lambda network, inputs: network)
    with pytest.raises(ExportError, match="out of tolerance"):
        to_tflite(model, tmp_path / "b.tflite", "int8", PICTURES)
