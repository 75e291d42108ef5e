"""The graph in the file, and what an exporter refuses."""

import dataclasses
import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import ExportError
from spherekeras.export import serving


def test_serving_model_is_the_whole_computation(embedder, crops, oracle):
    model = serving.served(embedder).model
    assert model.input_shape == (None, 32, 28, 3)
    np.testing.assert_allclose(model(crops.astype("float32")), oracle(crops), atol=2e-6)


def test_reference_is_the_same_from_its_parts(embedder, crops, oracle):
    np.testing.assert_allclose(serving.served(embedder).reference(crops), oracle(crops), atol=2e-6)


@pytest.mark.parametrize(("mirror", "dim"), [("sum", 16), ("concat", 32)])
def test_the_mirror_rule_is_inside(backbone, configured, crops, oracle, mirror, dim):
    embedder = FaceEmbedder(backbone, configured(mirror=mirror))
    subject = serving.served(embedder)
    expected = oracle(crops, mirror)
    assert expected.shape == (12, dim)
    np.testing.assert_allclose(subject.model(crops.astype("float32")), expected, atol=2e-6)
    np.testing.assert_allclose(subject.reference(crops), expected, atol=2e-6)


def test_a_face_embedder_answers_the_same(backbone, crops):
    from spherekeras.embedder import FaceEmbedder
    from spherekeras.presets import PresetConfig

    shape = {"input_shape": [32, 28, 3]}
    config = PresetConfig("SphereFaceNet", shape, "sphereface_112x96", 32, 28, 1 / 128, 127.5)
    faces = FaceEmbedder(backbone, dataclasses.replace(config, mirror="sum", channel_order="BGR"))
    found = serving.served(faces).model(crops.astype("float32"))
    np.testing.assert_allclose(found, faces.embed(crops), atol=2e-6)


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_preprocessing_orders_and_scales(order, configured):
    """A backbone that only averages shows what reaches it."""
    crop = keras.Input((4, 4, 3))
    backbone = keras.Model(crop, keras.layers.GlobalAveragePooling2D()(crop))
    config = configured(height=4, width=4, scale=1 / 127.5, channel_order=order)
    pixels = np.broadcast_to(np.float32([255, 127.5, 0]), (1, 4, 4, 3))
    subject = serving.served(FaceEmbedder(backbone, config))
    seen = np.array([[1, 0, -1]]) if order == "RGB" else np.array([[-1, 0, 1]])
    np.testing.assert_allclose(subject.model(pixels), seen / np.sqrt(2), atol=1e-6)
    np.testing.assert_allclose(subject.reference(pixels), seen / np.sqrt(2), atol=1e-6)


def test_embedding_of_zero_stays_finite(embedder):
    crop = keras.Input((32, 28, 3))
    zeros = keras.layers.Dense(4, kernel_initializer="zeros")
    backbone = keras.Model(crop, zeros(keras.layers.Flatten()(crop)))
    subject = serving.served(FaceEmbedder(backbone, embedder.config))
    np.testing.assert_array_equal(subject.model(np.ones((1, 32, 28, 3), "float32")), 0)


def test_a_name_is_a_preset(embedder, monkeypatch):
    asked = []

    def load_preset(name):
        asked.append(name)
        return embedder

    monkeypatch.setattr("spherekeras.embedder.load_preset", load_preset)
    assert serving.served("tiny-preset").shape == (32, 28, 3)
    assert asked == ["tiny-preset"]


def _two_inputs():
    a, b = keras.Input((4,), name="image"), keras.Input((4,), name="label")
    return keras.Model([a, b], keras.layers.Add()([a, b]), name="training")


def _any_size():
    crop = keras.Input((None, None, 3))
    return keras.Model(crop, keras.layers.GlobalAveragePooling2D()(crop), name="any_size")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            _two_inputs,
            "An exporter expects one input and one output. Received: 'training' with 2 inputs and "
            "1 outputs. Export the backbone (crop in, embedding out), not the training model.",
        ),
        (
            _any_size,
            "An exporter expects a fixed input size. Received: 'any_size' with input (None, None, "
            "None, 3). Build it with a full shape: `keras.Input((112, 96, 3))`.",
        ),
        (
            lambda: keras.Sequential([keras.layers.Dense(2)], name="unbuilt"),
            "An exporter expects a model with a known input. Received: 'unbuilt', which is not "
            "built. Start it with `keras.Input((112, 96, 3))`.",
        ),
        (
            lambda: 3,
            "An exporter expects a preset name or folder, a FaceEmbedder or a keras.Model. "
            "Received: int. For a preset pass its name.",
        ),
    ],
)
def test_refused_models(model, message):
    with pytest.raises(ExportError) as error:
        serving.served(model())
    assert str(error.value) == message


def test_other_backends_are_refused(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ExportError, match="KERAS_BACKEND=tensorflow"):
        serving.need_tensorflow_backend()


def test_missing_packages_are_named():
    with pytest.raises(ExportError) as error:
        serving.need("numpy", "no_such_package")
    assert str(error.value) == (
        "This export needs numpy, no_such_package. Missing: no_such_package. "
        'Run `pip install "spherekeras[export]"`.'
    )


@pytest.mark.parametrize(
    ("present", "extras"), [(["numpy"], "export,tensorflow"), (["onnx"], "tensorflow")]
)
def test_tensorflow_is_named_where_it_is_missing(monkeypatch, present, extras):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in present else None)
    with pytest.raises(ExportError) as error:
        serving.need("tensorflow", "onnx")
    assert str(error.value).endswith(
        f'Run `pip install "spherekeras[{extras}]"`, with `gpu` in place of `tensorflow` for CUDA.'
    )


def test_writing_names_the_suffix(tmp_path):
    with (
        pytest.raises(ExportError, match=r"must end in \.onnx\..*Pass 'a\.onnx'\."),
        serving.writing(tmp_path / "a.bin", ".onnx"),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_refused_export_leaves_nothing(tmp_path):
    with (
        pytest.raises(ExportError, match="refused"),
        serving.writing(tmp_path / "new" / "folder" / "a.onnx", ".onnx") as temporary,
    ):
        temporary.write_bytes(b"half")
        raise ExportError("refused")
    assert not list(tmp_path.iterdir())


def test_writing_names_an_unwritable_path(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for folder in (tmp_path / "file", tmp_path / ("n" * 300)):
        with (
            pytest.raises(ExportError, match="cannot be written: .*folder that you may write to"),
            serving.writing(folder / "a.onnx", ".onnx"),
        ):
            pass


def test_quiet_hides_chatter_and_keeps_it_for_an_error(capfd):
    with serving.quiet():
        os.write(2, b"chatter")
        os.write(1, b"more")
    with pytest.raises(ValueError, match="broken") as error, serving.quiet():
        os.write(2, b"the reason")
        raise ValueError("broken")
    assert error.value.__notes__ == ["the reason"]
    assert capfd.readouterr() == ("", "")
    os.write(2, b"back")
    assert capfd.readouterr().err == "back"


def test_converter_errors_are_one_sentence():
    with (
        pytest.raises(ExportError) as error,
        serving.converting("tiny", "The converter"),
    ):
        raise RuntimeError("No kernel.\nA long\ntrace")
    assert str(error.value) == (
        "The converter could not convert 'tiny': No kernel. "
        "Build the model from stock Keras layers."
    )


def test_import_loads_no_framework():
    code = (
        "import sys, spherekeras.export as e; e.to_tflite, e.to_onnx;"
        "print({'tensorflow', 'keras', 'onnx', 'onnxruntime'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_what_fails_elsewhere_is_not_blamed_on_the_path(tmp_path):
    for named, words in ((None, "'.*a.onnx' cannot be written: No space"), ("/no/temp/x", "/no/t")):
        with (
            pytest.raises(ExportError, match=words),
            serving.writing(tmp_path / "a.onnx", ".onnx"),
        ):
            raise OSError(28, "No space left on device", *([named] if named else []))
    with (
        pytest.raises(ExportError, match="A converter had no room for 'm'.*set TMPDIR to another"),
        serving.converting("m", "A converter"),
    ):
        raise OSError(28, "No space left on device")
    import tensorflow as tf

    with (
        pytest.raises(ExportError, match="A converter had no room for 'm': /tmp/a; No space left"),
        serving.converting("m", "A converter"),
    ):
        raise tf.errors.ResourceExhaustedError(None, None, "/tmp/a; No space left on device")


def test_outputs_of_ones_own_need_no_more_than_write_and_flush(monkeypatch):
    class Tee:
        def write(self, text):
            pass

        def flush(self):
            flushed.append(self)

    flushed = []
    monkeypatch.setattr("sys.stdout", Tee())
    with serving.quiet():
        pass
    assert len(flushed) == 2


def test_closed_outputs_are_nothing_to_hold_back(tmp_path):
    code = """
import os, sys
from spherekeras.export import serving
os.close(1)
sys.stdout = None
with serving.quiet():
    os.write(2, b"held back")
os.write(2, b"told")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "told")
