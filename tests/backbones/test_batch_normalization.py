"""Batch normalisation against the stock layer."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from spherekeras.backbones.batch_normalization import BatchNormalization


def _layers(shape, **arguments):
    random = np.random.default_rng(1)
    weights = [random.uniform(0.5, 2.0, shape[-1]).astype("float32") for _ in range(4)]
    made = []
    for kind in (BatchNormalization, keras.layers.BatchNormalization):
        layer = kind(momentum=0.9, epsilon=1e-5, **arguments)
        layer.build(shape)
        layer.set_weights(weights)
        made.append(layer)
    return made


def _step(layer, x, upstream):
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        total = tf.reduce_sum(tf.cast(y, "float32") * upstream)
    gradients = tape.gradient(total, [x, layer.gamma.value, layer.beta.value])
    return [y.numpy(), *(g.numpy() for g in gradients), *layer.get_weights()]


@pytest.mark.parametrize("shape", [(2, 1, 1, 5), (3, 4, 2, 6), (16, 7, 6, 8)])
def test_value_gradients_and_moving_averages_are_the_stock_layers(shape):
    random = np.random.default_rng(0)
    x = random.normal(3.0, 2.0, shape).astype("float32")
    upstream = random.normal(size=shape).astype("float32")
    ours, stock = (_step(layer, x, upstream) for layer in _layers(shape))
    for a, b in zip(ours, stock, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=2e-4, rtol=2e-5)


def test_the_fused_operation_serves_training_alone():
    x = np.random.default_rng(2).normal(size=(2, 4, 4, 3)).astype("float32")
    layer, stock = _layers(x.shape)

    def operations(training):
        graph = tf.function(lambda x: layer(x, training=training)).get_concrete_function(x).graph
        return {operation.type for operation in graph.get_operations()}

    assert "FusedBatchNormV3" in operations(True)
    assert "FusedBatchNormV3" not in operations(False)
    np.testing.assert_array_equal(layer(x), stock(x))
    layer.trainable = False
    stock.trainable = False
    np.testing.assert_array_equal(layer(x, training=True), stock(x, training=True))


def test_a_file_is_read_on_every_backend(monkeypatch):
    for wanted in (True, False):
        config = BatchNormalization(synchronized=wanted).get_config()
        for backend in ("jax", "tensorflow"):
            monkeypatch.setattr(keras.backend, "backend", lambda backend=backend: backend)
            layer = BatchNormalization.from_config(config)
            assert layer.synchronized == (wanted and backend == "tensorflow")
            config = layer.get_config()
            assert config["synchronized"] == wanted


def test_keras_before_renorm_is_no_hindrance():
    x = np.random.default_rng(2).normal(size=(2, 4, 4, 3)).astype("float32")
    layer, stock = _layers(x.shape)
    vars(layer).pop("renorm", None)  # as before Keras 3.14
    np.testing.assert_allclose(layer(x, training=True), stock(x, training=True), atol=1e-5)


def test_bfloat16_keeps_its_statistics_in_float32():
    x = np.random.default_rng(3).normal(100.0, 1.0, (8, 4, 4, 3)).astype("float32")
    layer, _ = _layers(x.shape, dtype="mixed_bfloat16")
    layer.set_weights([np.ones(3), np.zeros(3), np.zeros(3), np.ones(3)])
    y = layer(tf.cast(x, "bfloat16"), training=True)
    assert y.dtype == "bfloat16"
    rounded = tf.cast(tf.cast(x, "bfloat16"), "float32").numpy()
    mean = layer.get_weights()[2] / 0.1
    np.testing.assert_allclose(mean, rounded.mean((0, 1, 2)), rtol=1e-4)


def test_other_ranks_take_the_stock_form():
    x = np.random.default_rng(4).normal(size=(6, 5)).astype("float32")
    layer, stock = _layers(x.shape)
    np.testing.assert_array_equal(layer(x, training=True), stock(x, training=True))


@pytest.mark.parametrize("dtype", ["float64", "float16"])
def test_types_that_the_fused_operation_does_not_know_take_the_stock_form(dtype):
    x = np.random.default_rng(0).normal(3.0, 2.0, (4, 3, 2, 6)).astype(dtype)
    ours, stock = (
        kind(momentum=0.9, epsilon=1e-5, dtype=dtype)
        for kind in (BatchNormalization, keras.layers.BatchNormalization)
    )
    np.testing.assert_array_equal(ours(x, training=True), stock(x, training=True))
    np.testing.assert_array_equal(ours.moving_variance, stock.moving_variance)
