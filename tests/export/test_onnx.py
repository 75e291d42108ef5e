"""ONNX files, run in ONNX Runtime."""

import hashlib
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

from spherekeras.errors import ExportError
from spherekeras.export import parity, to_onnx


def run(path, batch):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return session.run(None, {name: batch.astype("float32")})[0]


@pytest.mark.parametrize("opset", [None, 13, 18])
def test_file_computes_the_embedding_at_any_batch(embedder, crops, oracle, tmp_path, opset):
    path = tmp_path / "faces.onnx"
    report = to_onnx(embedder, path, opset)
    for size in (1, 2, len(crops)):
        np.testing.assert_allclose(run(path, crops[:size]), oracle(crops[:size]), atol=2e-6)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    assert versions[""] == (opset or 15)
    assert (report.path, report.format, report.quantization) == (str(path), "ONNX", "float32")
    assert report.size_bytes == path.stat().st_size
    assert report.min_cosine >= report.tolerance == 0.999999
    assert report.inputs == (parity.Tensor("image", ("batch", 32, 28, 3), "float32"),)
    assert report.outputs == (parity.Tensor("embedding", ("batch", 16), "float32"),)
    assert report.operators["Conv"] == 3 and report.operators["Transpose"] == 2
    assert sum(report.operators.values()) == len(model.graph.node)
    assert list(tmp_path.iterdir()) == [path]


def test_plain_model_is_written_as_it_is(backbone, crops, tmp_path):
    values = (crops / 127.5 - 1).astype("float32")
    report = to_onnx(backbone, tmp_path / "backbone.onnx")
    actual = run(tmp_path / "backbone.onnx", values)
    np.testing.assert_allclose(actual, backbone(values), atol=1e-5)
    assert report.inputs[0].name == "input" and report.outputs[0].name == "output"


def test_names_are_those_of_the_structure(embedder, tmp_path):
    to_onnx(embedder, tmp_path / "a.onnx")
    graph = onnx.load(tmp_path / "a.onnx").graph
    assert [node.name for node in graph.node] == [
        f"{node.op_type}_{place}" for place, node in enumerate(graph.node)
    ]
    assert (graph.name, graph.doc_string, len(graph.value_info)) == ("serving", "", 0)
    used = {name for node in graph.node for name in node.input}
    assert {constant.name for constant in graph.initializer} <= used


def test_two_exports_are_the_same_bytes_whatever_the_hash_seed(embedder, tmp_path):
    folder = pathlib.Path(__file__).parent
    code = (
        f"import sys, types; sys.path.insert(0, {str(folder)!r})\n"
        "import conftest\n"
        "from spherekeras.export import to_onnx\n"
        "embedder = types.SimpleNamespace(backbone=conftest.network(), config=conftest.config())\n"
        f"to_onnx(embedder, {str(tmp_path / 'other.onnx')!r})\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "3"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    for name in ("a.onnx", "b.onnx"):
        to_onnx(embedder, tmp_path / name)
    digests = {hashlib.sha256(p.read_bytes()).hexdigest() for p in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 3 and len(digests) == 1


def test_no_chatter(embedder, tmp_path, capfd):
    to_onnx(embedder, tmp_path / "a.onnx")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("existing", [None, b"kept"])
def test_out_of_tolerance_leaves_nothing(embedder, tmp_path, existing):
    path = tmp_path / "faces.onnx"
    if existing:
        path.write_bytes(existing)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ExportError) as error:
        patch.setattr(parity, "compare", lambda expected, actual: (0.5, 0.8))
        to_onnx(embedder, path)
    assert str(error.value) == (
        "The float32 ONNX file is out of tolerance and was not kept: min cosine 0.800000 (at least "
        "0.999999), max difference 5.0e-01 (at most 1.4e-03) over 8 samples. Look for a layer "
        "whose inference is random or keeps a state, or for weights that are not finite."
    )
    assert [p.read_bytes() for p in tmp_path.iterdir()] == ([existing] if existing else [])


@pytest.mark.parametrize("opset", [19, 12, True, "15"])
def test_wrong_opset(embedder, tmp_path, opset):
    with pytest.raises(ExportError) as error:
        to_onnx(embedder, tmp_path / "a.onnx", opset=opset)
    assert str(error.value) == (
        "opset expects an integer from 13 to 18, the newest that tf2onnx writes. "
        f"Received: {opset!r}. Leave it out for 15."
    )
    assert not list(tmp_path.iterdir())


def test_wrong_suffix_and_unwritable_path(embedder, tmp_path):
    with pytest.raises(ExportError, match=r"must end in \.onnx\. .* Pass 'faces\.onnx'\."):
        to_onnx(embedder, tmp_path / "faces.tflite")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match="cannot be written: .* folder that you may write to"):
        to_onnx(embedder, tmp_path / "file" / "faces.onnx")


class Bessel(keras.layers.Layer):
    def call(self, x):
        import tensorflow as tf

        return tf.math.bessel_i0e(x)


def test_a_model_that_does_not_convert(tmp_path):
    model = keras.Sequential([keras.Input((4,)), Bessel()], name="bessel")
    with pytest.raises(ExportError, match="tf2onnx could not convert 'bessel': .* stock Keras"):
        to_onnx(model, tmp_path / "a.onnx")
    assert not list(tmp_path.iterdir())
