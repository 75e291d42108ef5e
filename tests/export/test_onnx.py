"""ONNX files, run in ONNX Runtime."""

import hashlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import onnx
import onnxruntime
import pytest

import spherekeras as sk
from spherekeras import presets
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import ExportError
from spherekeras.export import parity, to_onnx
from spherekeras.presets import PresetConfig


def run(path, batch):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (name,) = (value.name for value in session.get_inputs())
    return session.run(None, {name: batch.astype("float32")})[0]


@pytest.mark.parametrize("opset", [13, 15, 18, 22])
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_file_computes_the_embedding_at_any_batch(embedder, crops, oracle, tmp_path, opset, layout):
    path = tmp_path / "faces.onnx"
    report = to_onnx(embedder, path, opset, layout=layout)
    given = crops if layout == "NHWC" else crops.transpose(0, 3, 1, 2)
    for size in (1, 2, len(crops)):
        np.testing.assert_allclose(run(path, given[:size]), oracle(crops[:size]), atol=2e-6)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert (report.path, report.format, report.quantization) == (str(path), "ONNX", "float32")
    assert report.size_bytes == path.stat().st_size
    assert report.min_cosine >= report.tolerance == 0.999999
    shape = (32, 28, 3) if layout == "NHWC" else (3, 32, 28)
    assert report.inputs == (parity.Tensor("image", ("batch", *shape), "float32"),)
    assert report.outputs == (parity.Tensor("embedding", ("batch", 16), "float32"),)
    assert (report.operators["Conv"], report.operators["PRelu"]) == (3, 2)
    assert report.operators.get("Transpose", 0) == (layout == "NHWC")
    assert "Pad" not in report.operators
    assert sum(report.operators.values()) == len(model.graph.node)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mirror", ["sum", "concat"])
def test_the_mirror_rule_is_inside(embedder, configured, crops, oracle, tmp_path, mirror):
    mirrored = FaceEmbedder(embedder.backbone, configured(mirror=mirror))
    to_onnx(mirrored, tmp_path / "a.onnx", layout="NCHW")
    got = run(tmp_path / "a.onnx", crops.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(got, oracle(crops, mirror), atol=2e-6)


def test_pixels_as_a_decoder_gives_them(embedder, crops, oracle, tmp_path):
    report = to_onnx(embedder, tmp_path / "a.onnx", pixels="uint8")
    assert report.inputs[0].dtype == "uint8"
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
    np.testing.assert_allclose(session.run(None, {"image": crops})[0], oracle(crops), atol=2e-6)


def test_a_wider_crop_is_cut_to_the_presets(tmp_path):
    config = PresetConfig(
        "SphereFaceNet",
        {"depth": 4, "embedding_dim": 16, "input_shape": [112, 96, 3]},
        "sphereface_112x96",
        112,
        96,
        1 / 128,
        127.5,
    )
    keras.utils.set_random_seed(0)
    faces = sk.FaceEmbedder(presets.build_backbone(config), config)
    report = to_onnx(faces, tmp_path / "a.onnx", layout="NCHW", template="arcface_112x112")
    assert report.inputs[0].shape == ("batch", 3, 112, 112)
    wide = np.random.default_rng(0).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)
    wanted = faces.embed(np.ascontiguousarray(wide[:, :, 8:104]))
    np.testing.assert_allclose(
        run(tmp_path / "a.onnx", wide.transpose(0, 3, 1, 2)), wanted, atol=2e-6
    )
    with pytest.raises(ExportError, match="template expects the preset's own, or 'arcface_1"):
        to_onnx(faces, tmp_path / "b.onnx", template="dlib_150x150")


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
    assert (graph.name, graph.doc_string, len(graph.value_info)) == ("tiny", "", 0)
    used = {name for node in graph.node for name in node.input}
    assert {constant.name for constant in graph.initializer} <= used


def test_the_file_says_what_it_is(embedder, tmp_path):
    thresholds = [{"far": 0.01, "threshold": 0.5, "tar": 0.7, "data": "a test"}]
    known = {"name": "tiny", "weights_licence": "CC0-1.0", "thresholds": thresholds}
    faces = FaceEmbedder(embedder.backbone, embedder.config, known)
    to_onnx(faces, tmp_path / "a.onnx", layout="NCHW", pixels="uint8")
    session = onnxruntime.InferenceSession(tmp_path / "a.onnx")
    told = session.get_modelmeta().custom_metadata_map
    assert (told["name"], told["license"]) == ("tiny", "CC0-1.0")
    assert told["thresholds"] == "Thresholds on the cosine: 0.5000 at FAR 0.01."
    note = json.loads(told["preset.json"])
    assert note["metadata"] == known and note["config"]["channel_order"] == "BGR"
    assert (note["layout"], note["pixels"], note["quantization"]) == ("NCHW", "uint8", "float32")


def test_two_exports_are_the_same_bytes_whatever_the_hash_seed(embedder, tmp_path):
    folder = pathlib.Path(__file__).parent
    code = (
        f"import sys; sys.path.insert(0, {str(folder)!r})\n"
        "import conftest\n"
        "from spherekeras.export import to_onnx\n"
        "from spherekeras.embedder import FaceEmbedder\n"
        "embedder = FaceEmbedder(conftest.network(), conftest.config())\n"
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


@pytest.mark.parametrize("opset", [23, 12, True, "15"])
def test_wrong_opset(embedder, tmp_path, opset):
    with pytest.raises(ExportError) as error:
        to_onnx(embedder, tmp_path / "a.onnx", opset=opset)
    assert str(error.value) == (
        f"opset expects an integer from 13 to 22. Received: {opset!r}. Leave it out for 15."
    )
    assert not list(tmp_path.iterdir())


def test_wrong_suffix_and_unwritable_path(embedder, tmp_path):
    with pytest.raises(ExportError, match=r"must end in \.onnx\. .* Pass 'faces\.onnx'\."):
        to_onnx(embedder, tmp_path / "faces.tflite")
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ExportError, match="cannot be written: .* folder that you may write to"):
        to_onnx(embedder, tmp_path / "file" / "faces.onnx")


@pytest.mark.parametrize(("name", "value"), [("layout", "CHW"), ("pixels", "int8")])
def test_wrong_settings(embedder, tmp_path, name, value):
    with pytest.raises(ExportError, match=f"^{name} expects '.*' or '.*'. Received: '{value}'"):
        to_onnx(embedder, tmp_path / "a.onnx", **{name: value})


def test_a_plain_model_has_no_pixels(backbone, tmp_path):
    with pytest.raises(ExportError, match="pixels are a preset's; a keras.Model is written as it"):
        to_onnx(backbone, tmp_path / "a.onnx", pixels="uint8")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("mirror", ["none", "sum"])
def test_an_embedding_that_is_a_flattened_map_keeps_its_order(configured, crops, tmp_path, mirror):
    image = keras.Input((32, 28, 3))
    flat = keras.layers.Flatten()(keras.layers.Conv2D(4, 9, strides=9)(image))
    faces = FaceEmbedder(keras.Model(image, flat), configured(mirror=mirror))
    to_onnx(faces, tmp_path / "a.onnx", layout="NCHW")
    scaled = (crops[..., ::-1] - 127.5).astype("float32") / 128
    wanted = np.asarray(faces.backbone(scaled))
    if mirror == "sum":
        wanted = wanted + np.asarray(faces.backbone(scaled[:, :, ::-1]))
    wanted = wanted / np.linalg.norm(wanted, axis=1, keepdims=True)
    got = run(tmp_path / "a.onnx", crops.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_without_tensorflow(tmp_path):
    """On another backend, TensorFlow and its converter out of reach."""
    if importlib.util.find_spec("jax") is None:
        pytest.skip("jax is not installed, so the export was not tried without TensorFlow")
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "import spherekeras as sk\n"
        "from spherekeras.export.onnx import to_onnx\n"
        f"print(to_onnx(sk.backbones.MobileFaceNet(8, (32, 32, 3)), {str(tmp_path / 'a.onnx')!r}))"
    )
    environment = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    assert (tmp_path / "a.onnx").is_file()
