"""The graph that an exported file holds: RGB pixels in, unit-length embedding out.

A backbone alone leaves channel order, scaling, mirroring and normalisation to the program that
runs the file, and each is a silent loss of accuracy when it is wrong. So all of them go inside.
"""

import contextlib
import dataclasses
import errno
import functools
import importlib.util
import logging
import os
import pathlib
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from spherekeras import presets
from spherekeras.errors import ExportError
from spherekeras.export.copies import again, copied
from spherekeras.files import atomic_path
from spherekeras.litert import LiteRTModel
from spherekeras.terminal import alone

if TYPE_CHECKING:
    import keras

CHANNELS = {"RGB": [0, 1, 2], "BGR": [2, 1, 0]}
_LOGGERS = ("absl", "tensorflow")
_THIRD_PARTY_WARNINGS = (
    (".*experimental_preserve_all_tensors", UserWarning),  # of the calibration for int8
)


@dataclasses.dataclass(frozen=True)
class Served:
    """What goes into a file, and what its output is measured against.

    Attributes:
        backbone: the network, in float32.
        config: of the preset; None for a plain model.
        reference: the same computation from its parts, `(n, ...)` inputs to `(n, ...)` outputs.
        input_name: the name of the input in the file.
        output_name: the name of the output in the file.
        low: the smallest value of an ordinary input.
        high: the largest value of an ordinary input.
        known: metadata and stamp of the preset.
    """

    backbone: "keras.Model"
    config: Any
    reference: Callable[[np.ndarray], np.ndarray]
    input_name: str
    output_name: str
    low: float
    high: float
    known: tuple[dict[str, Any], dict[str, str]] = ({}, {})

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input, without the batch."""
        return tuple(self.backbone.inputs[0].shape[1:])

    @functools.cached_property
    def model(self) -> "keras.Model":
        """The Keras model that TensorFlow's converter takes."""
        if self.config is None:
            return self.backbone
        return serving_model(self.backbone, self.config)

    def prepared(self, samples: np.ndarray) -> np.ndarray:
        """Returns what the backbone takes for inputs of the file, float32."""
        return samples if self.config is None else _prepared(samples, self.config)

    def note_of(self, quantization: str) -> dict[str, Any] | None:
        """Returns what a file of the preset says of it; None for a plain model.

        Args:
            quantization: of the file.
        """
        if self.config is None:
            return None
        return presets.note_of(self.config, *self.known, quantization)


def serving_model(backbone: "keras.Model", config: Any, fused: bool = False) -> "keras.Model":
    """Returns a `keras.Model` from RGB pixels to unit-length embeddings.

    One 1x1 convolution orders the channels and computes `(x - offset) * scale`, since every
    converter and accelerator takes it as it is. The sum of squares is a product with ones: XNNPACK
    and OpenCV run that, and neither `L2_NORMALIZATION`.

    Args:
        backbone: from scaled crops `(n, height, width, 3)` to embeddings `(n, dim)`, float32.
        config: a `PresetConfig`; its mirror rule goes into the graph as well.
        fused: normalise in the one operator `L2_NORMALIZATION` all the same, which a quantiser can
            leave in float.

    Returns:
        A model from `(n, height, width, 3)` float32 in 0..255 to `(n, dim)` float32.
    """
    import keras
    from keras import ops

    channels = CHANNELS[config.channel_order]
    kernel = np.eye(3, dtype="float32")[channels].T[None, None] * config.scale
    bias = np.full(3, -config.offset * config.scale, "float32")
    preprocessing = keras.layers.Conv2D(3, 1, dtype="float32", name="preprocessing")
    image = keras.Input((config.height, config.width, 3), dtype="float32", name="image")
    crop = preprocessing(image)
    preprocessing.set_weights([kernel, bias])
    embedding = backbone(crop)
    if config.mirror == "sum":
        embedding = embedding + backbone(ops.flip(crop, axis=2))
    elif config.mirror == "concat":
        embedding = ops.concatenate([embedding, backbone(ops.flip(crop, axis=2))], axis=-1)
    if fused or embedding.shape[-1] >= 1024:  # ones of that many would be quantised
        squared = ops.sum(ops.square(embedding), axis=-1, keepdims=True)
        embedding = embedding * ops.rsqrt(ops.maximum(squared, 1e-12))
    else:
        squared = ops.matmul(embedding * embedding, np.ones((embedding.shape[-1], 1), "float32"))
        embedding = embedding * ops.rsqrt(ops.maximum(squared, 1e-30))
    return keras.Model(image, embedding, name="serving")


def served(preset_or_model: Any) -> Served:
    """Returns what to write for a preset name or folder, a `FaceEmbedder` or a `keras.Model`.

    Raises:
        ExportError: if it is none of these, or a model without one input and one output of
            fixed size.
    """
    from spherekeras.embedder import FaceEmbedder, load_preset

    if isinstance(preset_or_model, (str, os.PathLike)):
        preset_or_model = load_preset(os.fspath(preset_or_model))
    import keras

    if isinstance(preset_or_model, keras.Model):
        plain = _float32(preset_or_model)
        return Served(
            plain,
            None,
            lambda x: _output(plain, x),
            input_name="input",
            output_name="output",
            low=-1.0,
            high=1.0,
        )
    if not isinstance(preset_or_model, FaceEmbedder):
        raise ExportError(
            "An exporter expects a preset name or folder, a FaceEmbedder or a keras.Model. "
            f"Received: {type(preset_or_model).__name__}. For a preset pass its name."
        )
    config = preset_or_model.config
    if isinstance(preset_or_model.backbone, LiteRTModel):
        raise ExportError(
            "An exporter expects the Keras model of a preset. Received: a FaceEmbedder that runs "
            'on LiteRT. Load it with `runtime="keras"`.'
        )
    backbone = _float32(preset_or_model.backbone)

    def reference(pixels: np.ndarray) -> np.ndarray:
        crops = _prepared(pixels, config)
        raw = _output(backbone, crops).astype("float64")
        if config.mirror != "none":
            turned = _output(backbone, crops[:, :, ::-1]).astype("float64")
            raw = raw + turned if config.mirror == "sum" else np.concatenate([raw, turned], axis=1)
        return raw / np.maximum(np.linalg.norm(raw, axis=-1, keepdims=True), 1e-15)

    known = preset_or_model.stated()
    return Served(
        backbone, config, reference, "image", "embedding", low=0.0, high=255.0, known=known
    )


def _prepared(pixels: np.ndarray, config: Any) -> np.ndarray:
    crops = (pixels[..., CHANNELS[config.channel_order]] - config.offset) * config.scale
    return np.asarray(crops, np.float32)


def _output(model: "keras.Model", values: np.ndarray) -> np.ndarray:
    import keras

    [output] = keras.tree.flatten(model(values, training=False))  # in a dict or not
    return np.asarray(keras.ops.convert_to_numpy(output))


def _float32(model: "keras.Model") -> "keras.Model":
    """The model, checked; one trained in mixed precision is rebuilt to compute in float32."""
    import keras

    def layers(parent: "keras.Model") -> Iterator["keras.layers.Layer"]:
        for layer in parent.layers:
            yield layer
            if isinstance(layer, keras.Model):
                yield from layers(layer)

    _check_single(model)
    if all(layer.compute_dtype == "float32" for layer in layers(model)):
        return model
    return copied(model, lambda layer: again(layer, dtype="float32"))


def _check_single(model: "keras.Model") -> None:
    try:
        inputs, outputs = model.inputs, model.outputs
    except (AttributeError, ValueError):
        inputs = outputs = None
    if not inputs or not outputs:
        raise ExportError(
            f"An exporter expects a model with a known input. Received: {model.name!r}, which is "
            "not built. Start it with `keras.Input((112, 96, 3))`."
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise ExportError(
            f"An exporter expects one input and one output. Received: {model.name!r} with "
            f"{len(inputs)} inputs and {len(outputs)} outputs. Export the backbone (crop in, "
            "embedding out), not the training model."
        )
    if None in inputs[0].shape[1:]:
        raise ExportError(
            f"An exporter expects a fixed input size. Received: {model.name!r} with input "
            f"{inputs[0].shape}. Build it with a full shape: `keras.Input((112, 96, 3))`."
        )


def need_tensorflow_backend() -> None:
    """Raises `ExportError` where Keras runs on another backend."""
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            "The TFLite exporter needs Keras on TensorFlow. Received: the "
            f"{keras.backend.backend()} backend. Run again with KERAS_BACKEND=tensorflow; weights "
            "trained on another backend load there unchanged."
        )


def need(*packages: str) -> None:
    """Raises `ExportError` with the install line if one of the packages is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        extras, hint = ["export"] if missing != ["tensorflow"] else [], ""
        if "tensorflow" in missing:
            extras.append("tensorflow")
            hint = ", with `gpu` in place of `tensorflow` for CUDA"
        raise ExportError(
            f"This export needs {', '.join(packages)}. Missing: {', '.join(missing)}. "
            f'Run `pip install "spherekeras[{",".join(extras)}]"`{hint}.'
        )


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], suffix: str) -> Iterator[pathlib.Path]:
    """Yields the temporary path of `atomic_path`, with the errors a user can mend named.

    Raises:
        ExportError: if the path has another suffix or cannot be written.
    """
    target = pathlib.Path(path)
    if target.suffix != suffix:
        raise ExportError(
            f"The file name must end in {suffix}. Received: {os.fspath(path)!r}. "
            f"Pass {target.stem + suffix!r}."
        )
    made = [folder for folder in target.absolute().parents if not os.path.exists(folder)]
    try:
        with _unmade(made), atomic_path(target) as temporary:
            yield temporary
    except OSError as error:
        named = error.filename if isinstance(error.filename, str | os.PathLike) else None
        if named is not None and not _within(named, target):
            raise ExportError(
                f"{os.fspath(named)} cannot be used: {error.strerror or error}. The exporters work "
                f"in {tempfile.gettempdir()}; make room there, or set TMPDIR to another folder."
            ) from error
        raise ExportError(
            f"{os.fspath(path)!r} cannot be written: {error.strerror or error}. "
            "Pass a path in a folder that you may write to."
        ) from error


@contextlib.contextmanager
def _unmade(folders: list[pathlib.Path]) -> Iterator[None]:
    """Removes folders that were made, the innermost first, where what they were made for fails."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # not there, or not empty
            for folder in folders:
                folder.rmdir()
        raise


def _within(path: str | os.PathLike[str], target: pathlib.Path) -> bool:
    """Whether a file that failed is the target, its folder, or beside it."""
    here = pathlib.Path(os.path.realpath(target)).parent
    return pathlib.Path(os.path.realpath(path)).is_relative_to(here) or here.is_relative_to(
        os.path.realpath(path)
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the converters' chatter off the terminal, down to their C++.

    An error that passes through carries the last of what was held back as a note. One thread at a
    time, for the outputs are the process'.
    """
    with alone, _held_back():
        yield


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    _flush()
    kept = {}
    for descriptor in (1, 2):
        with contextlib.suppress(OSError):  # it is closed: nothing to hold back
            kept[descriptor] = os.dup(descriptor)
    with tempfile.TemporaryFile() as chatter, warnings.catch_warnings():
        for message, category in _THIRD_PARTY_WARNINGS:
            warnings.filterwarnings("ignore", message, category)
        try:
            for name in _LOGGERS:
                logging.getLogger(name).setLevel(logging.ERROR)
            for descriptor in kept:
                os.dup2(chatter.fileno(), descriptor)
            yield
        except Exception as error:
            chatter.seek(0)
            if held_back := chatter.read().decode(errors="replace").strip():
                error.add_note(held_back[-2000:])
            raise
        finally:
            _flush()
            for descriptor, copy in kept.items():
                os.dup2(copy, descriptor)
                os.close(copy)
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()


@contextlib.contextmanager
def converting(name: str, converter: str) -> Iterator[None]:
    """Runs a converter quietly and turns what it raises into an `ExportError`."""
    try:
        with quiet():
            yield
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200].rstrip(". ")
        full = os.strerror(errno.ENOSPC) in str(error)  # TensorFlow's errors are no `OSError`
        if full or isinstance(error, OSError | MemoryError):
            raise ExportError(
                f"{converter} had no room for {name!r}: {reason}. It works in memory and in "
                f"{tempfile.gettempdir()}; make room there, or set TMPDIR to another folder."
            ) from error
        raise ExportError(
            f"{converter} could not convert {name!r}: {reason}. "
            "Build the model from stock Keras layers."
        ) from error
