"""Our files in OpenCV: its `dnn` module, and its face recogniser fed our ONNX as a drop-in."""

import cv2
import numpy as np
import pytest

import spherekeras as sk
from spherekeras import presets
from spherekeras.export import to_onnx, to_tflite
from spherekeras.presets import PresetConfig


def faces(backbone, **arguments):
    arguments = {"embedding_dim": 16, "input_shape": [112, 96, 3], **arguments}
    config = PresetConfig(backbone, arguments, "sphereface_112x96", 112, 96, 1 / 128, 127.5)
    network = presets.build_backbone(config)
    noise = np.random.default_rng(0).normal(size=(8, 112, 96, 3)).astype("float32")
    for _ in range(30):  # batch norm learns its statistics, without which embeddings vanish
        network(noise, training=True)
    return sk.FaceEmbedder(network, config)


@pytest.fixture(
    scope="module",
    params=[("SphereFaceNet", {"depth": 10}), ("MobileFaceNet", {})],
    ids=lambda param: param[0],
)
def embedder(request):
    name, arguments = request.param
    return faces(name, **arguments)


@pytest.fixture(scope="module")
def wide():
    """Smooth RGB pictures of 112x112."""
    y, x = np.mgrid[0:112, 0:112][..., None] / 17.0
    shifts = np.random.default_rng(0).uniform(0, 6, (3, 1, 1, 3))
    return np.stack([127.5 + 127 * np.sin(x + s) * np.cos(y - s) for s in shifts]).astype("uint8")


def test_dnn_gives_the_embedding(embedder, wide, tmp_path):
    to_onnx(embedder, tmp_path / "a.onnx", layout="NCHW")
    crops = np.ascontiguousarray(wide[:, :, 8:104])
    net = cv2.dnn.readNetFromONNX(str(tmp_path / "a.onnx"))
    for crop, wanted in zip(crops, embedder.embed(crops), strict=True):
        net.setInput(crop.transpose(2, 0, 1)[None].astype("float32"))
        assert float(net.forward()[0] @ wanted) >= 0.999999


@pytest.mark.parametrize("quantization", ["float32", "float16"])
def test_dnn_runs_tflite_files_too(embedder, wide, tmp_path, quantization):
    to_tflite(embedder, tmp_path / "a.tflite", quantization)
    crops = np.ascontiguousarray(wide[:, :, 8:104])
    net = cv2.dnn.readNetFromTFLite(str(tmp_path / "a.tflite"))
    for crop, wanted in zip(crops, embedder.embed(crops), strict=True):
        net.setInput(crop.transpose(2, 0, 1)[None].astype("float32"))
        assert float(net.forward()[0] @ wanted) >= (
            0.9999 if quantization == "float16" else 0.999999
        )


def test_the_face_recogniser_takes_it_as_a_drop_in(embedder, wide, tmp_path):
    to_onnx(embedder, tmp_path / "a.onnx", layout="NCHW", template="arcface_112x112")
    recogniser = cv2.FaceRecognizerSF.create(str(tmp_path / "a.onnx"), "")
    wanted = embedder.embed(np.ascontiguousarray(wide[:, :, 8:104]))
    features = [recogniser.feature(np.ascontiguousarray(crop[..., ::-1])).copy() for crop in wide]
    for feature, embedding in zip(features, wanted, strict=True):
        assert float(feature[0] @ embedding) >= 0.999999
    cosine = recogniser.match(features[0], features[1], cv2.FaceRecognizerSF_FR_COSINE)
    assert cosine == pytest.approx(float(wanted[0] @ wanted[1]), abs=1e-5)
