"""PReLU against the stock layer and numeric gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from spherekeras.backbones.prelu import PReLU

SLOPE = keras.initializers.Constant(0.25)


def _pair(shape, dtype="float32"):
    ours = PReLU(SLOPE, shared_axes=[1, 2], dtype=dtype)
    stock = keras.layers.PReLU(SLOPE, shared_axes=[1, 2], dtype=dtype)
    slopes = np.random.default_rng(1).normal(0.2, 0.4, (1, 1, shape[-1])).astype("float32")
    for layer in (ours, stock):
        layer.build(shape)
        layer.set_weights([slopes])
    return ours, stock


def _gradients(layer, x, upstream, eagerly=False):
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True) if isinstance(layer, PReLU) else layer(x)
            total = tf.reduce_sum(tf.cast(y, upstream.dtype) * upstream)
        return y, *tape.gradient(total, [x, layer.alpha.value])

    run = run if eagerly else tf.function(run)
    return [value.numpy() for value in run(tf.constant(x))]


@pytest.mark.parametrize("dtype, tolerance", [("float32", 2e-6), ("float64", 1e-14)])
def test_value_and_gradients_are_the_stock_layers(dtype, tolerance):
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 5, 4, 6)).astype(dtype)
    upstream = random.normal(size=x.shape).astype(dtype)
    ours, stock = (_gradients(layer, x, upstream) for layer in _pair(x.shape, dtype))
    for a, b in zip(ours, stock, strict=True):
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, atol=tolerance * 40, rtol=tolerance)


def test_training_compiles_the_layer_and_nothing_else_does():
    ours, _ = _pair((2, 4, 4, 3))

    def compiled(training):
        graph = tf.function(lambda x: ours(x, training=training)).get_concrete_function(
            tf.TensorSpec((None, 4, 4, 3))
        )
        functions = [*graph.graph.as_graph_def().library.function]
        return any("_XlaMustCompile" in f.attr and f.attr["_XlaMustCompile"].b for f in functions)

    assert compiled(True) and not compiled(False)


def test_run_eagerly_it_is_the_stock_layer():
    x = np.random.default_rng(6).normal(size=(2, 3, 3, 4)).astype("float32")
    ours, stock = (_gradients(layer, x, np.ones_like(x), eagerly=True) for layer in _pair(x.shape))
    for a, b in zip(ours, stock, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_trains_on_batches_of_every_size():
    inputs = keras.Input((4, 4, 3))
    outputs = PReLU(SLOPE, shared_axes=[1, 2])(keras.layers.Conv2D(3, 3, padding="same")(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse", jit_compile=False)
    x = np.random.default_rng(7).normal(size=(10, 4, 4, 3)).astype("float32")
    history = model.fit(x, x, batch_size=4, epochs=20, verbose=0)  # 4, 4 and 2
    assert history.history["loss"][-1] < 0.9 * history.history["loss"][0]


def test_numeric_gradient():
    random = np.random.default_rng(2)
    x = random.normal(size=(2, 3, 2, 3))
    upstream = random.normal(size=x.shape)
    layer, _ = _pair(x.shape, "float64")
    _, by_x, by_slope = _gradients(layer, x, upstream)
    slopes = layer.get_weights()[0]

    def total(x, slopes):
        return np.sum(np.where(x > 0, x, slopes * x) * upstream)

    step = 1e-6
    for place in np.ndindex(*x.shape):
        moved = x.copy()
        moved[place] += step
        numeric = (total(moved, slopes) - total(x, slopes)) / step
        assert by_x[place] == pytest.approx(numeric, abs=1e-6)
    for place in np.ndindex(*slopes.shape):
        moved = slopes.astype("float64")
        moved[place] += step
        numeric = (total(x, moved) - total(x, slopes.astype("float64"))) / step
        assert by_slope[place] == pytest.approx(numeric, abs=1e-6)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision(policy):
    x = np.random.default_rng(3).normal(size=(2, 4, 4, 8)).astype("float32")
    ours, stock = (_gradients(layer, x, np.ones_like(x)) for layer in _pair(x.shape, policy))
    for a, b in zip(ours, stock, strict=True):
        np.testing.assert_allclose(a.astype("float32"), b.astype("float32"), atol=0.2, rtol=0.03)


def test_slopes_that_are_not_a_channels_take_the_stock_form():
    x = np.random.default_rng(4).normal(size=(2, 3, 3, 2)).astype("float32")
    ours, stock = PReLU(SLOPE), keras.layers.PReLU(SLOPE)
    np.testing.assert_array_equal(ours(x, training=True), stock(x))


def test_stored_and_loaded(tmp_path):
    model = keras.Sequential([keras.Input((4, 4, 3)), PReLU(SLOPE, shared_axes=[1, 2], name="p")])
    model.layers[0].set_weights([np.array([[[0.1, -0.2, 0.3]]], "float32")])
    x = np.random.default_rng(5).normal(size=(2, 4, 4, 3)).astype("float32")
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert type(again.layers[0]) is PReLU
    np.testing.assert_array_equal(again(x), model(x))
    stock = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.PReLU(SLOPE, shared_axes=[1, 2], name="p")]
    )
    model.save_weights(tmp_path / "m.weights.h5")
    stock.load_weights(tmp_path / "m.weights.h5")  # weights go from one to the other
    np.testing.assert_array_equal(stock(x), model(x))
