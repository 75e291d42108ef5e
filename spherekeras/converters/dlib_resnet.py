"""dlib's face recognition ResNet: its weight file read without dlib, as a Keras model.

The file `dlib_face_recognition_resnet_model_v1.dat` (public domain, CC0) holds a ResNet of 29
convolutions trained with a metric loss on some 3 million faces; its author gives 99.38 % on
Labeled Faces in the Wild. Source: King, "High Quality Face Recognition with Deep Metric
Learning", blog.dlib.net, 2017; the network is that of dlib's `dnn_face_recognition_ex.cpp`.
"""

import math
import os
import pathlib

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from spherekeras.backbones.dlib_resnet import DlibResNet, blocks
from spherekeras.errors import DataError

_SIDE = 150
_MEAN = (122.782, 117.001, 104.298)


def convert_dlib(path: str | os.PathLike[str]) -> keras.Model:
    """Turns dlib's face recognition weights into a `DlibResNet`.

    Args:
        path: `dlib_face_recognition_resnet_model_v1.dat`, for example from the Python package
            `face_recognition_models`.

    Raises:
        DataError: see `read_dlib`.

    Example::

        model = convert_dlib("dlib_face_recognition_resnet_model_v1.dat")
        embeddings = model.predict((crops - 127.5) / 128)
    """
    arrays = read_dlib(path)
    stages = range(1, 6)
    widths = tuple(len(arrays[f"stage{stage}_block1_conv1/filters"]) for stage in stages)
    weights = arrays["embedding/weights"]
    model = DlibResNet(weights.shape[1], widths=widths)
    model.get_layer("embedding").set_weights([weights])
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            filters, bias, gamma, beta = (
                arrays[f"{layer.name}/{part}"].astype(np.float64)
                for part in ("filters", "bias", "gamma", "beta")
            )
            kernel, bias = filters.transpose(2, 3, 1, 0) * gamma, bias * gamma + beta
            if layer.name == "stem":  # dlib gives it (pixel - mean) / 256
                offset = (127.5 - np.array(_MEAN)) / 256
                kernel, bias = kernel / 2, bias + np.einsum("ijcd,c->d", kernel, offset)
            layer.set_weights([kernel, bias])
    return model


def read_dlib(path: str | os.PathLike[str]) -> dict[str, NDArray[np.float32]]:
    """Reads the weights of dlib's face recognition network. Nothing in the file is executed.

    Versions, names, shapes, strides and paddings must be those of this one network. The file has
    no checksum: a weight that is damaged and still finite goes unnoticed.

    Args:
        path: the `.dat` file.

    Returns:
        By name, from the input on: for `stem` and each `stage1_block1_conv1` to
        `stage5_block1_conv2` `/filters` (outputs, inputs, rows, columns) and `/bias`, `/gamma`,
        `/beta` (outputs,), the layer being `gamma * (filters * x + bias) + beta`; at last
        `embedding/weights` (inputs, outputs).

    Raises:
        DataError: no such file, another file, one cut short or damaged, or a weight that is not
            finite.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}). Pass the path of "
            "dlib_face_recognition_resnet_model_v1.dat."
        ) from error
    if data.startswith(b"BZh"):
        raise DataError(f"{path} is compressed. Unpack it first: `bunzip2 {path}`.")
    reader = _Reader(data, str(path))
    arrays: dict[str, NDArray[np.float32]] = {}

    # The versions of the nested layers, from the loss down to the input, come before all else.
    reader.expect("the version of the loss", 1)
    reader.name("loss_metric_2")
    reader.floats(2)  # margin and distance threshold
    reader.expect("the versions of fc, pooling", 2, 2)
    for _, _, halves in reversed(blocks()):
        after = (2, 1, 1) if halves else ()  # avg_pool, skip1, tag2
        reader.expect("the versions of a block", 2, 2, *after, 2, 2, 2, 2, 2, 1)
    reader.expect("the versions of the stem", 2, 2, 2, 3)

    reader.name("input_rgb_image_sized")
    if not np.allclose(reader.floats(3), _MEAN, atol=1e-3, rtol=0):
        raise reader.refusal(f"the mean colour is not {_MEAN}")
    reader.expect("the input's size", _SIDE, _SIDE)

    width = _convolution(reader, arrays, "stem", 3, stride=2, size=7)
    reader.layer("relu_")
    reader.layer("max_pool_2", 3, 3, 2, 2, 0, 0)
    for _, block, halves in blocks():
        wanted = None if halves else width
        stride = 2 if halves else 1
        inputs, width = width, _convolution(reader, arrays, f"{block}_conv1", width, wanted, stride)
        if width < inputs:
            raise reader.refusal(f"{block} has {width} channels after {inputs}")
        reader.layer("relu_")
        _convolution(reader, arrays, f"{block}_conv2", width, width)
        if halves:
            reader.layer("avg_pool_2", 2, 2, 2, 2, 0, 0)
        reader.layer("add_prev_")
        reader.layer("relu_")
    reader.layer("avg_pool_2", 0, 0, 1, 1, 0, 0)
    arrays["embedding/weights"] = _fully_connected(reader, width)
    if reader.position != len(data):
        raise reader.refusal(f"{len(data) - reader.position} bytes follow its end")
    return arrays


class _Reader:
    """dlib's serialisation: each read says what must come, and refuses anything else."""

    def __init__(self, data: bytes, path: str) -> None:
        self.data = data
        self.path = path
        self.position = 0

    def refusal(self, what: str) -> DataError:
        return DataError(
            f"{self.path} is not dlib's face recognition network, or is damaged: before byte "
            f"{self.position} of {len(self.data)} {what}. Fetch "
            "dlib_face_recognition_resnet_model_v1.dat again."
        )

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.position:
            raise self.refusal("the file ends too early")
        self.position += count
        return self.data[self.position - count : self.position]

    def integer(self) -> int:
        """A byte with the sign (bit 7) and the count of the little-endian bytes that follow."""
        control = self.take(1)[0]
        if not 1 <= control & 0x7F <= 8:
            raise self.refusal("there is no integer")
        value = int.from_bytes(self.take(control & 0x7F), "little")
        return -value if control & 0x80 else value

    def expect(self, what: str, *wanted: int) -> None:
        got = tuple(self.integer() for _ in wanted)
        if got != wanted:
            raise self.refusal(f"{what} should be {wanted}, and is {got}")

    def name(self, wanted: str) -> None:
        length = self.integer()
        got = self.take(length) if 0 <= length <= 64 else b""
        if got != wanted.encode():
            raise self.refusal(f"the name should be {wanted}, and is {got!r}")

    def floats(self, count: int) -> list[float]:
        """Each a mantissa and a power of two."""
        values = []
        for _ in range(count):
            mantissa, power = self.integer(), self.integer()
            if abs(power) > 900:
                raise self.refusal("a number is not finite")
            values.append(math.ldexp(mantissa, power))
        return values

    def tensor(self) -> NDArray[np.float32]:
        """The values, little-endian float32 after a version and four sizes; flat."""
        self.expect("the version of a tensor", 2)
        shape = tuple(self.integer() for _ in range(4))
        if min(shape) < 0:
            raise self.refusal(f"a tensor has the sizes {shape}")
        return np.frombuffer(self.take(4 * math.prod(shape)), "<f4").astype(np.float32)

    def weights(self) -> NDArray[np.float32]:
        values = self.tensor()
        if not np.isfinite(values).all():
            raise self.refusal("a weight is not finite")
        return values

    def parts(
        self, weights: NDArray[np.float32], *shapes: tuple[int, ...]
    ) -> list[NDArray[np.float32]]:
        """Cuts the weights into parts whose shapes must come next."""
        parts, start = [], 0
        for shape in shapes:
            self.expect("the version and sizes of a part of the weights", 1, *shape)
            parts.append(weights[start : start + math.prod(shape)])
            start += math.prod(shape)
        if start != len(weights):
            raise self.refusal(f"there should be {start} weights, and are {len(weights)}")
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]

    def layer(self, name: str, *settings: int) -> None:
        """A layer without weights."""
        self.name(name)
        if settings:
            self.expect(f"the settings of {name}", *settings)
        self.end()

    def end(self) -> None:
        """What follows each layer: three flags, and three tensors of a past step."""
        if set(self.take(3)) - set(b"01"):
            raise self.refusal("there is no flag")
        for _ in range(3):
            self.tensor()


def _convolution(
    reader: _Reader,
    arrays: dict[str, NDArray[np.float32]],
    name: str,
    inputs: int,
    outputs: int | None = None,
    stride: int = 1,
    size: int = 3,
) -> int:
    """Reads a convolution and its folded batch norm; returns its channels."""
    reader.name("con_4")
    values = reader.weights()
    width = reader.integer()
    if width < 1 or (outputs or width) != width:
        raise reader.refusal(f"{name} has {width} outputs in place of {outputs or 'some'}")
    padding = size // 2 if stride == 1 else 0
    reader.expect(f"the settings of {name}", size, size, stride, stride, padding, padding)
    filters, bias = reader.parts(values, (width, inputs, size, size), (1, width, 1, 1))
    reader.floats(4)  # learning rate and weight decay of each
    reader.end()
    if name == "stem":
        reader.expect("the input's expansion", 1)

    reader.name("affine_")
    values = reader.weights()
    gamma, beta = reader.parts(values, (1, width, 1, 1), (1, width, 1, 1))
    reader.expect("the mode of affine", 0)
    reader.end()
    arrays[f"{name}/filters"] = filters
    for key, array in (("bias", bias), ("gamma", gamma), ("beta", beta)):
        arrays[f"{name}/{key}"] = array.reshape(width)
    return width


def _fully_connected(reader: _Reader, inputs: int) -> NDArray[np.float32]:
    reader.name("fc_2")
    outputs = reader.integer()
    if outputs < 1:
        raise reader.refusal(f"the embedding has {outputs} dimensions")
    reader.expect("the inputs of the embedding", inputs)
    values = reader.weights()
    weights, _ = reader.parts(values, (inputs, outputs, 1, 1), (0, 0, 0, 0))
    reader.expect("the bias mode of the embedding", 1)
    reader.floats(4)
    reader.end()
    return weights.reshape(inputs, outputs)
