"""TFLite files on LiteRT: what is run, what is refused, and what a file says of itself."""

import io
import json
import pathlib
import threading
import zipfile

import keras
import numpy as np
import pytest

from spherekeras import litert, presets
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import PresetError
from spherekeras.export import to_tflite
from spherekeras.litert import LiteRTModel
from spherekeras.presets import build_backbone
from spherekeras.recipe import Backbone, Recipe
from spherekeras.training import preset_config

CONFIG = preset_config(Recipe("tiny", backbone=Backbone(depth=4, embedding_dim=8)))
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
    published = METADATA | {"metrics": [{"name": "LFW view 2", "subtract_mean": False}]}
    told = presets.note_of(CONFIG, published, {}, "float16")["metadata"]
    assert told == {**note["metadata"], "subtract_mean": False}
    assert [presets.subtracts_mean(known) for known in (METADATA, published, told)] == [1, 0, 0]
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
    with pytest.raises(PresetError, match=r"carries no preset\.json that can be read: it was"):
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
        PresetError, match=r"takes float32 of shape \(112, 96, 3\) and gives \(8,\); its preset"
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


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"metadata": []},
        {"metadata": {"thresholds": [1]}},
        {"metadata": {"thresholds": [{"far": 0.01}]}},
        {"metadata": {"thresholds": [{"far": 0.01, "threshold": "high"}]}},
        {"config": None},
        {"preset": None},
        {"name": "x" * (1 << 20)},
    ],
    ids=str,
)
def test_a_note_of_something_else_is_one_sentence(
    file: pathlib.Path, change: dict[str, object], tmp_path: pathlib.Path
) -> None:
    model = LiteRTModel(file)
    path = tmp_path / "a.tflite"
    path.write_bytes(litert.with_note(model.content[: model.note["bytes"]], model.note | change))
    with pytest.raises(PresetError, match=r"carries no preset\.json that can be read: it was not"):
        FaceEmbedder.from_tflite(path)


def test_a_note_that_no_reader_can_read_is_one_sentence(
    file: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    model = file.read_bytes()[: LiteRTModel(file).note["bytes"]]
    for method, text in ((zipfile.ZIP_STORED, "[" * 5000), (zipfile.ZIP_DEFLATED, "{}" * 100)):
        path = tmp_path / f"{method}.tflite"
        path.write_bytes(model)
        with zipfile.ZipFile(path, "a", method) as archive:
            archive.writestr("preset.json", text)
        content = bytearray(path.read_bytes())
        content[len(model) + 45] ^= 0xFF  # within what is packed
        for wrong in (path.read_bytes(), bytes(content)):
            with pytest.raises(PresetError, match=r"carries no preset\.json that can be read"):
                _ = LiteRTModel(wrong).note


def test_models_of_other_forms_are_refused(tmp_path: pathlib.Path, file: pathlib.Path) -> None:
    image = keras.Input((112, 96, 3))
    maps = keras.layers.Conv2D(8, 16, 16)(image)
    to_tflite(keras.Model(image, maps), tmp_path / "maps.tflite")
    content = (tmp_path / "maps.tflite").read_bytes()
    path = tmp_path / "a.tflite"
    path.write_bytes(litert.with_note(content, LiteRTModel(file).note))
    with pytest.raises(
        PresetError, match=r"gives \(7, 6, 8\); its preset makes crops of \(112, 96"
    ):
        FaceEmbedder.from_tflite(path)


def test_threads_may_share_a_model(file: pathlib.Path, crops: np.ndarray) -> None:
    model = LiteRTModel(file, threads=1)
    wanted = model(crops)
    found: dict[int, list[np.ndarray]] = {}

    def work(number: int) -> None:
        found[number] = [model(crops[number : number + 1])[0] for _ in range(60)]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(4):
        assert all(np.array_equal(row, wanted[number]) for row in found[number])
    assert sorted(found) == [0, 1, 2, 3]
