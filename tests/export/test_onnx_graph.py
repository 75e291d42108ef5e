"""Every layer that the ONNX exporter knows, run in ONNX Runtime against Keras."""

import dataclasses

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers, ops

import spherekeras as sk
from spherekeras.backbones.prelu import PReLU
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import ExportError
from spherekeras.export import to_onnx, to_tflite
from spherekeras.presets import PresetConfig

SLOPE = keras.initializers.RandomUniform(0.1, 0.4, seed=1)
SHAPE = (13, 10, 4)


def shaken(model):
    """Random weights everywhere: a fresh batch norm would hide a slip."""
    random = np.random.default_rng(0)
    for weight in model.weights:
        if "kernel" not in weight.name:
            middle = 1.0 if weight.name in ("moving_variance", "gamma") else 0.1
            weight.assign(random.uniform(middle - 0.3, middle + 0.3, weight.shape))
    return model


def check(model, tmp_path, layout="NHWC"):
    """Exports, compares on five inputs, returns the operators."""
    report = to_onnx(shaken(model), tmp_path / "a.onnx", layout=layout)
    x = np.random.default_rng(1).normal(size=(5, *model.inputs[0].shape[1:])).astype("float32")
    wanted = ops.convert_to_numpy(model(x, training=False))
    given = x.transpose(0, 3, 1, 2) if layout == "NCHW" and x.ndim == 4 else x
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
    got = session.run(None, {"input": np.ascontiguousarray(given)})[0]
    if layout == "NCHW" and got.ndim == 4:
        got = got.transpose(0, 2, 3, 1)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(got, wanted, atol=1e-5 * scale)
    return report.operators


MAPS = {
    "conv": layers.Conv2D(6, 3),
    "conv same": layers.Conv2D(6, 3, padding="same", activation="relu"),
    "conv same strided": layers.Conv2D(6, (3, 2), strides=2, padding="same"),
    "conv dilated": layers.Conv2D(6, 3, dilation_rate=2, padding="same"),
    "conv grouped": layers.Conv2D(6, 3, groups=2, use_bias=False),
    "depthwise": layers.DepthwiseConv2D(3, strides=2),
    "depthwise same": layers.DepthwiseConv2D((5, 3), padding="same", use_bias=False),
    "batch norm": layers.BatchNormalization(epsilon=0.01),
    "bare batch norm": layers.BatchNormalization(scale=False, center=False),
    "prelu": layers.PReLU(SLOPE, shared_axes=[1, 2]),
    "own prelu": PReLU(SLOPE, shared_axes=[1, 2]),
    "relu": layers.ReLU(),
    "activation": layers.Activation("relu"),
    "padding": layers.ZeroPadding2D(((1, 2), (0, 3))),
    "largest": layers.MaxPooling2D(3, strides=2),
    "mean": layers.AveragePooling2D(2),
    "mean of all": layers.GlobalAveragePooling2D(),
    "mean of all kept": layers.GlobalAveragePooling2D(keepdims=True),
    "flat": layers.Flatten(),
    "dropout": layers.Dropout(0.5),
}


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_a_layer_on_a_map(name, layout, tmp_path):
    layer = MAPS[name].from_config(MAPS[name].get_config())
    after = [layers.ReLU()] if name in ("flat", "padding") else []  # which others may take in
    check(keras.Sequential([keras.Input(SHAPE), layer, *after]), tmp_path, layout)


def test_what_follows_a_flattened_map_sees_its_order(tmp_path):
    image = keras.Input(SHAPE)
    flat = layers.Flatten()(layers.Conv2D(6, 3)(image))
    both = layers.Add()([layers.Dense(7)(flat), layers.Dense(7)(layers.ReLU()(flat))])
    unit = layers.UnitNormalization()(layers.PReLU(SLOPE)(both))
    assert check(keras.Model(image, unit), tmp_path)["Gemm"] == 2


def test_batch_norm_and_padding_go_into_the_convolution(tmp_path):
    stack = [layers.ZeroPadding2D(1), layers.Conv2D(6, 3), layers.BatchNormalization()]
    head = [layers.Flatten(), layers.Dense(5, use_bias=False), layers.BatchNormalization()]
    model = keras.Sequential([keras.Input(SHAPE), *stack, *head])
    assert check(model, tmp_path, "NCHW") == {"Conv": 1, "Flatten": 1, "Gemm": 1}


def test_what_others_read_is_not_changed(tmp_path):
    """A convolution whose output is read twice keeps its weights; padding read twice is a node."""
    image = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, padding="same")(image)
    y = layers.Add()([x, layers.BatchNormalization()(x)])
    padded = layers.ZeroPadding2D(1)(y)
    z = layers.Add()([layers.Conv2D(4, 3)(padded), layers.Conv2D(4, 3)(padded)])
    operators = check(keras.Model(image, layers.ReLU()(layers.ZeroPadding2D(2)(z))), tmp_path)
    assert operators["BatchNormalization"] == 1 and operators["Pad"] == 1


def test_zeros_after_a_map_and_in_its_channels(tmp_path):
    image = keras.Input(SHAPE)
    check(keras.Model(image, ops.pad(image, [(0, 0), (0, 1), (2, 0), (0, 3)])), tmp_path)


def test_models_inside_models(tmp_path):
    inner = keras.Sequential([keras.Input(SHAPE), layers.Conv2D(6, 3), layers.ReLU()], name="inner")
    image = keras.Input(SHAPE)
    model = keras.Model(image, layers.Add()([inner(image), layers.Conv2D(6, 3)(image)]))
    check(model, tmp_path)


@pytest.mark.parametrize(
    ("make", "gone"),
    [
        (lambda: sk.backbones.SphereFaceNet(20, 8, (32, 32, 3)), "Pad"),
        (lambda: sk.backbones.MobileFaceNet(8, (32, 32, 3)), "BatchNormalization"),
        (lambda: sk.backbones.MobileFaceNet(8, (32, 32, 3), "relu"), "PRelu"),
        (lambda: sk.backbones.SFNet(20, 8, (32, 32, 3), batch_norm=True), "BatchNormalization"),
        (lambda: sk.backbones.IResNet(18, 8, (32, 32, 3)), "Transpose"),
        (lambda: sk.backbones.DlibResNet(8, (120, 120, 3), (4, 6, 8, 10, 12)), "Transpose"),
    ],
)
def test_every_backbone(make, gone, tmp_path):
    keras.utils.set_random_seed(0)
    operators = check(make(), tmp_path, "NCHW")
    assert gone not in operators and "Transpose" not in operators


def test_the_file_is_a_function_of_the_weights_alone(tmp_path):
    for name in "ab":
        keras.utils.set_random_seed(3)
        to_onnx(sk.backbones.MobileFaceNet(8, (32, 32, 3)), tmp_path / f"{name}.onnx")
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    names = [node.name for node in onnx.load(tmp_path / "a.onnx").graph.node]
    assert names == [f"{n.rsplit('_', 1)[0]}_{place}" for place, n in enumerate(names)]


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (layers.GaussianNoise(0.1), "knows no GaussianNoise, which 'odd' of 'model' is. Build the"),
        (layers.Conv2D(2, 3, activation="tanh"), "does not know 'odd' with the activation 'tanh'"),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), "with channels first, or a depth mult"),
        (layers.PReLU(), r"with a slope for every place \(set shared_axes=\[1, 2\]\)"),
        (layers.ReLU(6.0), "with a limit, threshold or slope"),
        (layers.MaxPooling2D(2, padding="same"), "with padding or channels first"),
        (layers.Dense(3), "with an input that is not flat"),
    ],
)
def test_what_is_not_known_is_named(layer, words, tmp_path):
    layer.name = "odd"
    model = keras.Sequential([keras.Input(SHAPE), layer], name="model")
    with pytest.raises(ExportError, match=words):
        to_onnx(model, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())


class Clipped(layers.ReLU):
    def call(self, inputs):
        return ops.minimum(super().call(inputs), 6.0)


class MineOnly(layers.Layer):
    def call(self, inputs):
        return inputs * 2.0


MineOnly.__name__ = "PReLU"


def relu(x):
    return ops.clip(x, 0.0, 6.0)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (Clipped(), "knows no Clipped, which 'odd' of 'model' is. Build the"),
        (MineOnly(), "knows no PReLU, which 'odd' of 'model' is. Build the"),
        (layers.Conv2D(2, 3, activation=relu), "does not know 'odd' with the activation 'relu'"),
        (layers.BatchNormalization(axis=1), "does not know 'odd' with axis=1"),
    ],
)
def test_what_only_looks_like_a_known_layer_is_named(layer, words, tmp_path):
    layer.name = "odd"
    model = keras.Sequential([keras.Input(SHAPE), layer], name="model")
    with pytest.raises(ExportError, match=words):
        to_onnx(model, tmp_path / "a.onnx")


def test_the_relu_of_another_library_is_relu(tmp_path):
    import tensorflow as tf

    stack = [layers.Conv2D(4, 3, activation=tf.nn.relu), layers.Activation(keras.ops.relu)]
    assert check(keras.Sequential([keras.Input(SHAPE), *stack]), tmp_path)["Relu"] == 2


def test_what_a_call_was_given_beside_tensors_is_named(tmp_path):
    image = keras.Input(SHAPE)
    bias = np.arange(4.0, dtype="float32")
    odd = {
        "beside its input": image + bias,
        "with 3.0 beside its input": ops.pad(
            image, [(0, 0), (1, 1), (1, 1), (0, 0)], "constant", 3.0
        ),
        "with True beside its input": layers.BatchNormalization()(image, training=True),
    }
    for words, output in odd.items():
        with pytest.raises(ExportError, match=words):
            to_onnx(keras.Model(image, output), tmp_path / "a.onnx")
    adapted = layers.Conv2D(2, 3)
    model = keras.Sequential([keras.Input(SHAPE), adapted])
    adapted.enable_lora(2)
    with pytest.raises(ExportError, match="with LoRA weights of its own"):
        to_onnx(model, tmp_path / "a.onnx")
    model = keras.Sequential([keras.Input((6,)), layers.Dense(4)])
    model.layers[0].quantize("int8")
    with pytest.raises(ExportError, match="with weights that Keras has quantised"):
        to_onnx(model, tmp_path / "a.onnx")

    class Own(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ExportError, match="knows no Own, which"):
        to_onnx(keras.Model(image, Own()(image)), tmp_path / "a.onnx")


def test_batch_norm_does_not_change_what_others_read_elsewhere(tmp_path):
    inner = keras.Input((11, 8, 4))
    block = keras.Model(inner, layers.Conv2D(4, 1)(layers.BatchNormalization()(inner)))
    image = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3)(image)
    y = layers.Add()([x, block(x)])  # the norm inside reads what the sum reads
    y = layers.Add()([y, layers.BatchNormalization()(layers.Dropout(0.5)(y))])
    check(keras.Model(image, y), tmp_path)


@pytest.mark.parametrize("nested", [False, True])
def test_a_shared_convolution_is_folded_for_each_call_alone(nested, tmp_path):
    shared = layers.Conv2D(6, 3)
    if nested:
        shared = keras.Sequential([keras.Input(SHAPE), shared])
    image = keras.Input(SHAPE)
    first, second = shared(image), shared(layers.ReLU()(image))
    both = [layers.BatchNormalization()(x) for x in (first, second)]
    apart = layers.BatchNormalization()(layers.ZeroPadding2D(0)(shared(image)))
    check(keras.Model(image, layers.Add()([*both, apart])), tmp_path)
    x = layers.Conv2D(4, 3)(image)
    norm = layers.BatchNormalization()(layers.ZeroPadding2D(0)(x))
    check(keras.Model(image, layers.Add()([x, norm])), tmp_path)


def test_a_layer_that_is_called_as_a_part_of_the_file(tmp_path):
    crop = keras.Input((32, 28, 3))
    x = layers.Conv2D(4, 3, name="preprocessing")(crop)
    x = layers.Dense(8, name="length")(layers.GlobalAveragePooling2D()(x))
    config = PresetConfig(
        "SphereFaceNet", {"input_shape": [32, 28, 3]}, "sphereface_112x96", 32, 28, 1 / 128, 127.5
    )
    faces = FaceEmbedder(shaken(keras.Model(crop, x)), config)
    assert to_onnx(faces, tmp_path / "a.onnx").min_cosine > 0.999999
    with pytest.raises(ExportError) as error:
        to_onnx(faces, tmp_path / "a.onnx", template="arcface_112x112")
    assert str(error.value) == (
        "template expects the preset's own, or 'arcface_112x112' for a preset of "
        "'sphereface_112x96' with crops of 112x96. Received: 'arcface_112x112' for "
        "'sphereface_112x96' with crops of 32x28. Leave it out."
    )


@pytest.mark.parametrize("mirror", ["sum", "concat"])
def test_a_network_that_begins_with_batch_norm_sees_the_mirror_image_once(mirror, tmp_path):
    crop = keras.Input((32, 28, 3))
    x = layers.Conv2D(4, 3)(layers.BatchNormalization()(crop))
    x = layers.Dense(8)(layers.Flatten()(x))
    config = PresetConfig(
        "SphereFaceNet", {"input_shape": [32, 28, 3]}, "sphereface_112x96", 32, 28, 1 / 128, 127.5
    )
    config = dataclasses.replace(config, mirror=mirror)
    faces = FaceEmbedder(shaken(keras.Model(crop, x)), config)
    assert to_onnx(faces, tmp_path / "a.onnx").min_cosine > 0.999999


def test_a_renamed_depthwise_convolution_and_a_matrix_flattened(tmp_path):
    class Depthwise(layers.DepthwiseConv2D):
        pass

    image, points = keras.Input(SHAPE), keras.Input((68, 2))
    check(keras.Model(image, Depthwise(3)(image)), tmp_path)
    check(keras.Model(points, layers.Dense(8)(layers.Flatten()(points))), tmp_path)


def test_an_output_in_a_dict_and_samples_of_ones_own(tmp_path):
    image = keras.Input(SHAPE)
    model = keras.Model(image, {"embedding": layers.Conv2D(2, 3)(image)})
    samples = np.random.default_rng(0).uniform(0, 255, (3, *SHAPE))
    report = to_onnx(model, tmp_path / "a.onnx", representative=samples)
    assert report.samples == 3
    assert to_tflite(model, tmp_path / "a.tflite").min_cosine > 0.999999
    with pytest.raises(ExportError, match="representative expects an array of shape"):
        to_onnx(model, tmp_path / "a.onnx", representative=samples[:, 1:])
