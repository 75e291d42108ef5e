"""TFLite files, run in LiteRT."""

import collections
import hashlib

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from spherekeras.backbones import MobileFaceNet
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import ExportError
from spherekeras.export import parity, to_tflite
from spherekeras.litert import LiteRTModel


def run(path, batch, output="embedding", **options):
    interpreter = Interpreter(model_path=str(path), **options)
    runner = interpreter.get_signature_runner()
    (name,) = runner.get_input_details()
    return np.concatenate([runner(**{name: x[None].astype("float32")})[output] for x in batch])


@pytest.mark.parametrize(
    ("quantization", "atol"), [("float32", 2e-6), ("float16", 2e-3), ("dynamic", 2e-2)]
)
def test_file_computes_the_embedding(embedder, crops, oracle, tmp_path, quantization, atol):
    path = tmp_path / "faces.tflite"
    report = to_tflite(embedder, path, quantization)
    actual = run(path, crops)
    np.testing.assert_allclose(actual, oracle(crops), atol=atol)
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, atol=1e-6)
    assert (report.path, report.format, report.quantization) == (str(path), "TFLite", quantization)
    assert report.size_bytes == path.stat().st_size
    assert report.min_cosine >= report.tolerance == parity.TOLERANCES[quantization]
    assert report.inputs == (parity.Tensor("image", (1, 32, 28, 3), "float32"),)
    assert report.outputs == (parity.Tensor("embedding", (1, 16), "float32"),)
    assert (report.operators.pop("DEQUANTIZE", 0) > 0) == (quantization == "float16")
    assert report.operators == {
        "CONV_2D": 3,  # the first orders and scales the channels
        "PRELU": 2,
        "ADD": 1,
        "FULLY_CONNECTED": 2,  # the second sums the squares
        "MUL": 2,
        "MAXIMUM": 1,
        "RSQRT": 1,
        "PAD": 1,
        "RESHAPE": 1,
    }
    assert report.runs == "XNNPACK, 1 piece, the whole graph"
    assert list(tmp_path.iterdir()) == [path]


def test_mirror_rule_in_the_file(backbone, configured, crops, oracle, tmp_path):
    embedder = FaceEmbedder(backbone, configured(mirror="concat"))
    to_tflite(embedder, tmp_path / "a.tflite")
    actual = run(tmp_path / "a.tflite", crops)
    np.testing.assert_allclose(actual, oracle(crops, "concat"), atol=2e-6)


def test_sizes_fall(embedder, crops, tmp_path):
    sizes = [
        to_tflite(embedder, tmp_path / "a.tflite", quantization, crops).size_bytes
        for quantization in ("float32", "float16", "dynamic")
    ]
    assert sizes[1] < 0.6 * sizes[0] and sizes[2] < 0.4 * sizes[0]


def test_xnnpack_takes_the_graph_whole(embedder, tmp_path):
    to_tflite(embedder, tmp_path / "a.tflite")
    assert LiteRTModel(tmp_path / "a.tflite").delegation == (1, ())


def test_int8_is_integer_inside_and_float_at_both_ends(embedder, crops, oracle, tmp_path):
    path = tmp_path / "faces.tflite"
    report = to_tflite(embedder, path, "int8", crops)
    assert report.samples == len(crops)
    actual, expected = run(path, crops), oracle(crops)
    assert (actual * expected).sum(1).min() >= 0.99
    # A quantised normalisation would miss length 1 by up to 1%.
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, atol=1e-6)

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (graph,) = model.subgraphs
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    for operator in graph.operators:
        name = names[model.operatorCodes[operator.opcodeIndex].builtinCode]
        kind = graph.tensors[operator.outputs[0]].type
        in_float = name in ("DEQUANTIZE", "L2_NORMALIZATION")
        assert kind == (schema.TensorType.FLOAT32 if in_float else schema.TensorType.INT8), name
    # The input's, and one for each PReLU: MAXIMUM reads its maps in the range of what it gives.
    assert report.operators["QUANTIZE"] == 1 + report.operators["MAXIMUM"] == 3
    assert report.operators["DEQUANTIZE"] == 1
    assert {t.dtype for t in report.inputs + report.outputs} == {"float32"}


def test_dynamic_keeps_depthwise_kernels_and_the_normalisation_in_float(configured, tmp_path):
    keras.utils.set_random_seed(0)
    faces = FaceEmbedder(MobileFaceNet(), configured(height=112, width=96))
    path = tmp_path / "a.tflite"
    report = to_tflite(faces, path, "dynamic")
    assert report.runs == "XNNPACK, 1 piece, the whole graph"
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    (graph,) = model.subgraphs
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    kinds = collections.Counter()
    for operator in graph.operators:
        name = names[model.operatorCodes[operator.opcodeIndex].builtinCode]
        if name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            kernel = graph.tensors[operator.inputs[1]]
            many = name == "CONV_2D" and np.prod(kernel.shape) >= 1024
            wanted = schema.TensorType.INT8 if many else schema.TensorType.FLOAT32
            assert kernel.type == wanted, (name, kernel.shape)
            if many:
                assert len(kernel.quantization.scale) == kernel.shape[0]  # one an output channel
            kinds[name] += 1
    assert kinds == {"CONV_2D": 34, "DEPTHWISE_CONV_2D": 17, "FULLY_CONNECTED": 1}


def test_plain_model_is_written_as_it_is(backbone, crops, tmp_path):
    values = (crops / 127.5 - 1).astype("float32")
    report = to_tflite(backbone, tmp_path / "backbone.tflite", representative=values)
    actual = run(tmp_path / "backbone.tflite", values, "output")
    np.testing.assert_allclose(actual, backbone(values), atol=1e-5)
    assert report.inputs[0].name == "input" and report.outputs[0].name == "output"
    assert "L2_NORMALIZATION" not in report.operators
    assert report.operators["CONV_2D"] == 2


def test_mixed_precision_is_written_in_float32(backbone, embedder, tmp_path):
    def mixed(layer):
        return type(layer).from_config({**layer.get_config(), "dtype": "mixed_float16"})

    trained = keras.models.clone_model(backbone, clone_function=mixed)
    trained.set_weights(backbone.get_weights())
    assert trained.get_layer("open").compute_dtype == "float16"
    both = FaceEmbedder(trained, embedder.config)
    to_tflite(both, tmp_path / "mixed.tflite")
    to_tflite(embedder, tmp_path / "float.tflite")
    assert (tmp_path / "mixed.tflite").read_bytes() == (tmp_path / "float.tflite").read_bytes()


def test_ranges_hold_rare_pictures_and_cut_off_what_does_not_matter(tmp_path):
    image = keras.Input((8, 8, 3))
    dense = keras.layers.Dense(64)
    model = keras.Model(image, dense(keras.layers.Flatten()(image)))
    rng = np.random.default_rng(0)
    unread = np.arange(8 * 8 * 3) == 0
    dense.set_weights([rng.normal(size=(192, 64)) * ~unread[:, None], np.zeros(64)])
    rare, spiked = rng.normal(size=(2, 40, 8, 8, 3)).astype("float32")
    rare[[6, 31]] *= 4  # one among the samples that set the ranges, one among the others
    spiked[:, 0, 0, 0] = np.where(np.isin(np.arange(40), [6, 31]), 60, 6)

    def reach(pictures):
        to_tflite(model, tmp_path / "a.tflite", "int8", pictures)
        file = schema.ModelT.InitFromPackedBuf((tmp_path / "a.tflite").read_bytes(), 0)
        (graph,) = file.subgraphs
        quantized = graph.tensors[graph.operators[0].outputs[0]].quantization
        return (127 - quantized.zeroPoint[0]) * quantized.scale[0]

    assert reach(rare) == pytest.approx(rare.max(), rel=0.02)
    assert reach(spiked) == pytest.approx(np.quantile(spiked[:, 0, 0, 0], 0.95), rel=0.02)


@pytest.mark.parametrize("quantization", list(parity.TOLERANCES))
def test_two_exports_are_the_same_bytes(embedder, crops, tmp_path, quantization):
    digests = set()
    for name in ("a.tflite", "b.tflite"):
        to_tflite(embedder, tmp_path / name, quantization, crops)
        digests.add(hashlib.sha256((tmp_path / name).read_bytes()).hexdigest())
    assert len(digests) == 1


@pytest.mark.parametrize("quantization", ["dynamic", "int8"])
def test_no_chatter(embedder, crops, tmp_path, capfd, quantization):
    to_tflite(embedder, tmp_path / "a.tflite", quantization, crops)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("existing", [None, b"kept"])
def test_out_of_tolerance_leaves_nothing(embedder, tmp_path, monkeypatch, existing):
    path = tmp_path / "faces.tflite"
    if existing:
        path.write_bytes(existing)
    monkeypatch.setitem(parity.TOLERANCES, "dynamic", 0.9999999)
    with pytest.raises(ExportError) as error:
        to_tflite(embedder, path, "dynamic")
    message = str(error.value)
    assert message.startswith("The dynamic TFLite file is out of tolerance and was not kept: min ")
    assert "(at least 0.9999999)" in message
    assert message.endswith('over 8 samples. Export with quantization="float16".')
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([existing] if existing else [])


def test_weights_that_are_not_finite_are_refused(backbone, tmp_path):
    broken = keras.models.clone_model(backbone)
    broken.set_weights([np.full_like(w, np.nan) for w in backbone.get_weights()])
    with pytest.raises(ExportError, match="min cosine nan .* weights that are not finite"):
        to_tflite(broken, tmp_path / "a.tflite")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        (
            "faces.tfl",
            {},
            "The file name must end in .tflite. Received: {path!r}. Pass 'faces.tflite'.",
        ),
        (
            "faces.tflite",
            {"quantization": "flaot16"},
            "quantization expects one of 'float32', 'float16', 'dynamic', 'int8'. "
            "Received: 'flaot16'. Did you mean 'float16'?",
        ),
        (
            "faces.tflite",
            {"quantization": "int8"},
            'quantization="int8" expects representative crops to set its ranges. Received: '
            "representative=None. Pass representative=crops, 100 or more of shape "
            "(n, height, width, 3).",
        ),
    ],
)
def test_wrong_arguments(embedder, tmp_path, name, arguments, message):
    path = str(tmp_path / name)
    with pytest.raises(ExportError) as error:
        to_tflite(embedder, path, **arguments)
    assert str(error.value) == message.format(path=path)
    assert not list(tmp_path.iterdir())


def test_unwritable_path(embedder, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match="cannot be written: .* folder that you may write to"):
        to_tflite(embedder, tmp_path / "file" / "faces.tflite")


def test_training_model_is_refused(backbone, tmp_path):
    label = keras.Input((), dtype="int32", name="label")
    image = keras.Input((32, 28, 3), name="image")
    logits = keras.layers.Add()([backbone(image), keras.layers.Embedding(4, 16)(label)])
    training = keras.Model([image, label], logits)
    with pytest.raises(ExportError, match="2 inputs .* Export the backbone"):
        to_tflite(training, tmp_path / "a.tflite")
