"""TFLite files on LiteRT: what is run, what is refused, and what a file says of itself."""

import io
import json
import pathlib
import zipfile

import keras
import numpy as np
import pytest

from spherekeras import litert
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import PresetError
from spherekeras.export import to_tflite
from spherekeras.litert import LiteRTModel
from spherekeras.presets import PresetConfig, build_backbone

CONFIG = PresetConfig(
    "SphereFaceNet",
    {"depth": 4, "embedding_dim": 8, "input_shape": [112, 96, 3]},
    "sphereface_112x96",
    112,
    96,
    1 / 128,
    127.5,
)
METADATA = {
    "name": "tiny",
    "weights_licence": "CC0-1.0",
    "thresholds": [{"far": 0.01, "threshold": 0.5, "tar": 0.7, "data": "a test"}],
    "not_for_files": True,
}


@pytest.fixture(scope="module")
def faces() -> FaceEmbedder:
    return FaceEmbedder(build_backbone(CONFIG), CONFIG, METADATA)


@pytest.fixture(scope="module")
def file(faces: FaceEmbedder, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("files") / "face.tflite"
    to_tflite(faces, path, "float16")
    return path


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 112, 96, 3), np.uint8)


def test_it_computes_what_keras_computes(
    faces: FaceEmbedder, file: pathlib.Path, crops: np.ndarray
) -> None:
    model = LiteRTModel(file)
    assert (model.input_shape, model.output_shape, model.batch) == ((112, 96, 3), (None, 8), 1)
    assert model(crops).dtype == np.float32 and model(crops[:0]).shape == (0, 8)
    np.testing.assert_allclose(model(crops), faces.embed(crops), atol=2e-3)
    np.testing.assert_array_equal(LiteRTModel(file.read_bytes(), threads=1)(crops), model(crops))


@pytest.mark.parametrize("batch", [3, None])
def test_other_batches(
    faces: FaceEmbedder, crops: np.ndarray, tmp_path: pathlib.Path, batch: int | None
) -> None:
    report = to_tflite(faces, tmp_path / "a.tflite", batch=batch)
    assert report.inputs[0].shape == (batch or "batch", 112, 96, 3)
    model = LiteRTModel(tmp_path / "a.tflite")
    assert model.batch == batch
    for count in (5, 1, 3):
        np.testing.assert_allclose(model(crops[:count]), faces.embed(crops[:count]), atol=1e-5)


def test_the_note_says_what_the_file_is(file: pathlib.Path) -> None:
    note = LiteRTModel(file).note
    assert note["metadata"] == {k: v for k, v in METADATA.items() if k != "not_for_files"}
    assert note["quantization"] == "float16" and note["config"]["template"] == CONFIG.template
    with zipfile.ZipFile(file) as archive:  # anyone's unzip reads it
        assert json.loads(archive.read("preset.json")) == note
    assert note["bytes"] < file.stat().st_size


@pytest.mark.parametrize("place", [0.1, 0.35, 0.6, 0.9])
def test_a_flipped_byte_of_the_model_is_found(file: pathlib.Path, place: float) -> None:
    content = bytearray(file.read_bytes())
    content[int(place * LiteRTModel(file).note["bytes"])] ^= 1
    with pytest.raises(PresetError, match=r"damaged|cannot be run by LiteRT"):
        _ = LiteRTModel(bytes(content)).note


@pytest.mark.parametrize("left", [0.0, 0.4, 0.999])
def test_a_file_cut_short_is_refused(
    file: pathlib.Path, tmp_path: pathlib.Path, left: float
) -> None:
    path = tmp_path / "cut.tflite"
    path.write_bytes(file.read_bytes()[: int(left * file.stat().st_size)])
    with pytest.raises(PresetError, match=r"cut\.tflite (is not|cannot be run|carries no)"):
        FaceEmbedder.from_tflite(path)


def test_what_is_no_tflite_file(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "a.tflite"
    with pytest.raises(PresetError, match=r"a\.tflite cannot be read: No such file"):
        LiteRTModel(path)
    path.write_bytes(b"\x89PNG" * 50)
    with pytest.raises(PresetError, match=r"is not a TFLite file\. Give one that `spherekeras exp"):
        LiteRTModel(path)
    path.write_bytes(b"\0\0\0\x1cTFL3" + b"\x07" * 500)
    with pytest.raises(PresetError, match=r"cannot be run by LiteRT: The model is not a valid"):
        LiteRTModel(path)


def test_a_plain_model_has_no_note(tmp_path: pathlib.Path) -> None:
    value = keras.Input((4,))
    to_tflite(keras.Model(value, keras.layers.Dense(3)(value)), tmp_path / "a.tflite")
    model = LiteRTModel(tmp_path / "a.tflite")
    assert model(np.zeros((2, 4), np.float32)).shape == (2, 3)
    with pytest.raises(PresetError, match=r"carries no preset\.json: it was not written from a"):
        _ = model.note
    with pytest.raises(PresetError, match=r"spherekeras export PRESET --out FILE"):
        FaceEmbedder.from_tflite(tmp_path / "a.tflite")


def test_a_note_of_another_shape_is_refused(file: pathlib.Path, tmp_path: pathlib.Path) -> None:
    model = LiteRTModel(file)
    note = json.loads(json.dumps(model.note))
    note["config"] |= {"height": 150, "width": 150}
    note["config"]["arguments"]["input_shape"] = [150, 150, 3]
    other = tmp_path / "other.tflite"
    other.write_bytes(litert.with_note(model.content[: note["bytes"]], note))
    with pytest.raises(
        PresetError, match=r"takes inputs of shape \(112, 96, 3\), its preset makes"
    ):
        FaceEmbedder.from_tflite(other)


def test_a_note_is_always_the_same_bytes() -> None:
    first = litert.with_note(b"model", {"b": 1, "a": "ä"})
    assert first == litert.with_note(b"model", {"a": "ä", "b": 1})
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.testzip() is None


def test_delegation_of_a_whole_graph(file: pathlib.Path) -> None:
    assert LiteRTModel(file).delegation == (1, ())


def test_delegation_names_an_operator_that_it_does_not_know(tmp_path: pathlib.Path) -> None:
    value = keras.Input((4, 4, 8))
    x = keras.layers.Conv2D(8, 1)(value)
    x = keras.layers.Conv2D(8, 1)(keras.ops.cumsum(x, axis=1))
    to_tflite(keras.Model(value, x), tmp_path / "a.tflite")
    assert LiteRTModel(tmp_path / "a.tflite").delegation == (2, ("CUMSUM",))
