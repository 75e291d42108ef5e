"""PReLU spelled for integers: the same values, and operators that quantise well."""

import keras
import numpy as np
import pytest

from spherekeras.export import to_tflite
from spherekeras.export.integer_prelu import integer_prelu
from spherekeras.litert import LiteRTModel


@pytest.mark.parametrize("steepest", [0.9, 1.0, 1.7])
def test_the_values_stay(steepest):
    inner_in = keras.Input((5, 5, 4))
    inner_out = keras.layers.PReLU(shared_axes=[1, 2])(keras.layers.Conv2D(4, 3)(inner_in))
    inner = keras.Model(inner_in, keras.layers.BatchNormalization()(inner_out))
    image = keras.Input((5, 5, 4))
    flat = keras.layers.Flatten()(inner(keras.layers.PReLU()(image)))
    model = keras.Model(image, keras.layers.Dense(3)(flat))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if "alpha" in weight.path:
            weight.assign(rng.uniform(-0.5, steepest, weight.shape))
        else:
            weight.assign(rng.uniform(0.1, 1, weight.shape))
    pictures = rng.normal(size=(6, 5, 5, 4)).astype("float32")
    spelled = integer_prelu(model)
    np.testing.assert_allclose(spelled(pictures), model(pictures), rtol=1e-5, atol=1e-5)
    assert not any(isinstance(layer, keras.layers.PReLU) for layer in spelled.layers)


def test_int8_files_have_no_prelu(embedder, crops, tmp_path):
    report = to_tflite(embedder, tmp_path / "a.tflite", "int8", crops)
    assert "PRELU" not in report.operators and report.operators["MAXIMUM"] == 2
    assert LiteRTModel(tmp_path / "a.tflite").dtype == np.float32


def test_slopes_of_zero_are_relu_within_the_convolution(tmp_path):
    """Slopes of a fresh PReLU: times nothing, a map would have no range to be measured."""
    keras.utils.set_random_seed(0)
    stack = [keras.layers.Conv2D(4, 3), keras.layers.PReLU(shared_axes=[1, 2])]
    model = keras.Sequential([keras.Input((8, 8, 3)), *stack, keras.layers.Flatten()])
    model = keras.Model(model.inputs[0], model.outputs[0])
    pictures = np.random.default_rng(0).normal(size=(20, 8, 8, 3)).astype("float32")
    report = to_tflite(model, tmp_path / "a.tflite", "int8", pictures)
    assert report.operators == {"CONV_2D": 1, "DEQUANTIZE": 1, "QUANTIZE": 1, "RESHAPE": 1}
    assert report.runs == "XNNPACK, 1 piece, the whole graph"
