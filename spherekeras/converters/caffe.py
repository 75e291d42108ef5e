"""The weights that the SphereFace authors released, read without Caffe."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from spherekeras.backbones.sphereface_net import UNITS
from spherekeras.converters.channels_first import Converted
from spherekeras.converters.release_names import release_network
from spherekeras.errors import DataError

_NETWORK = "a SphereFace network of the authors' release"
_VARINT, _BYTES = 0, 2  # wire types of protocol buffers
_SIZES = {1: 8, 5: 4}  # bytes of those of a fixed size
_FIELDS = 1_000_000  # more than any network has, less than fills a memory
_PARTS = ("weight", "bias", "third", "fourth")  # of a layer's blobs


@dataclasses.dataclass
class Layer:
    """A layer of a Caffe network.

    Attributes:
        name: of the layer.
        bottoms, tops: names of what it takes and gives.
        blobs: its weights, float32 views of the file's content.
        stride, pad: of a convolution.
    """

    name: str = ""
    bottoms: list[str] = dataclasses.field(default_factory=list)
    tops: list[str] = dataclasses.field(default_factory=list)
    blobs: list[NDArray[np.floating]] = dataclasses.field(default_factory=list)
    stride: int = 1
    pad: int = 0


def convert_caffe(path: str | os.PathLike[str]) -> Converted:
    """Turns a SphereFace `.caffemodel` into a `SphereFaceNet`.

    The released SphereFace-20 is trained on CASIA-WebFace; its authors give 99.30 % on Labeled
    Faces in the Wild, with the mirrored crop's embedding appended. The classifier `fc6` is
    left out. The residual convolutions' bias, which the release freezes at 0, is left away
    where it is 0, and converted too where it is not.

    Args:
        path: `sphereface_model.caffemodel`, or a snapshot of a training with the released files.

    Raises:
        DataError: see `read_caffe`; or the layers' names, shapes, strides or connections are not
            those of these networks.

    Example::

        converted = convert_caffe("sphereface_model.caffemodel")
        embeddings = converted.model.predict((crops[..., ::-1] - 127.5) / 128)

    Source: github.com/wy1iu/sphereface (train/code/sphereface_deploy.prototxt,
    test/code/evaluation.m).
    """
    path = str(path)
    found = read_caffe(path)
    arrays = {
        f"{layer.name}.{part}": _plain(blob, layer.name, part)
        for layer in found
        for part, blob in zip(_PARTS, layer.blobs, strict=False)
    }
    converted = release_network(arrays, _NETWORK, path)
    _check_wiring(found, converted.config["arguments"]["depth"], path)
    metadata = {
        "description": "SphereFace network in the form of the authors' Caffe release, converted.",
        "weights_licence": "MIT for the authors' own model, as they say at "
        "github.com/wy1iu/sphereface; for others unknown: see the source",
        "terms": "The authors' model is trained on CASIA-WebFace, whose agreement allows research "
        "only.",
    }
    config = {**converted.config, "mirror": "concat"}
    return dataclasses.replace(converted, config=config, metadata=metadata)


def read_caffe(path: str | os.PathLike[str]) -> list[Layer]:
    """Reads the layers of a `.caffemodel`. Nothing in the file is executed.

    The file is a protocol buffer, a NetParameter of `caffe.proto`, its layers in the new form
    (field 100) or the old (field 2). It has no checksum: a weight that is damaged and still
    finite goes unnoticed.

    Args:
        path: the file.

    Raises:
        DataError: no such file, another file, or one cut short or damaged.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}). Pass the path of a .caffemodel."
        ) from error
    reader = _Reader(data, str(path))
    layers = []
    for number, wire, start, end in reader.fields(0, len(data)):
        if number not in (1, 2, 3, 4, 5, 6, 7, 8, 100):
            raise reader.refusal(start, f"there is an unknown field {number}")
        if number in (2, 100):
            reader.expect(wire, _BYTES, start)
            layers.append(reader.layer(start, end, new=number == 100))
    if not layers:
        raise reader.refusal(len(data), "there is no layer")
    seen: set[str] = set()
    for layer in layers:
        if layer.blobs and (layer.name in seen or len(layer.blobs) > len(_PARTS)):
            raise reader.refusal(len(data), f"{layer.name!r} has weights twice, or too many")
        seen.add(layer.name)
    return layers


class _Reader:
    """The wire format: each field a number, a wire type, and its content from start to end."""

    def __init__(self, data: bytes, path: str) -> None:
        self.data = data
        self.path = path
        self.count = 0

    def refusal(self, position: int, what: str) -> DataError:
        return DataError(
            f"{self.path} is no .caffemodel, or is damaged: before byte {position} of "
            f"{len(self.data)} {what}. Fetch it again; a .prototxt holds no weights."
        )

    def expect(self, wire: int, wanted: int, position: int) -> None:
        if wire != wanted:
            raise self.refusal(position, f"the wire type is {wire} in place of {wanted}")

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """A number in groups of seven bits, the lowest first, and the position after it."""
        value = 0
        for shift in range(0, 70, 7):
            if position >= end:
                raise self.refusal(position, "a number is cut short")
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, position
        raise self.refusal(position, "a number is too long")

    def fields(self, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
        """(number, wire type, start, end) of each field of a message; of a varint the value."""
        while start < end:
            self.count += 1
            if self.count > _FIELDS:
                raise self.refusal(start, f"there are more than {_FIELDS} fields")
            key, start = self.varint(start, end)
            number, wire = key >> 3, key & 7
            if wire == _VARINT:
                value, start = self.varint(start, end)
                yield number, wire, start, value
                continue
            if wire == _BYTES:
                size, start = self.varint(start, end)
            elif wire in _SIZES:
                size = _SIZES[wire]
            else:
                raise self.refusal(start, f"the wire type {wire} is none of Caffe's")
            if size > end - start:
                raise self.refusal(start, "a field ends after what it lies in")
            yield number, wire, start, start + size
            start += size

    def layer(self, start: int, end: int, new: bool) -> Layer:
        """A LayerParameter, or the old V1LayerParameter."""
        name, bottom, top, blobs, convolution = (1, 3, 4, 7, 106) if new else (4, 2, 3, 6, 10)
        layer = Layer()
        for number, wire, first, last in self.fields(start, end):
            if number in (name, bottom, top, blobs, convolution):
                self.expect(wire, _BYTES, first)
            if number == name:
                layer.name = self.text(first, last)
            elif number == bottom:
                layer.bottoms.append(self.text(first, last))
            elif number == top:
                layer.tops.append(self.text(first, last))
            elif number == blobs:
                layer.blobs.append(self.blob(first, last))
            elif number == convolution:
                for setting, kind, place, value in self.fields(first, last):
                    if setting in (3, 6):
                        self.expect(kind, _VARINT, place)
                        setattr(layer, "pad" if setting == 3 else "stride", value)
        return layer

    def text(self, start: int, end: int) -> str:
        try:
            return self.data[start:end].decode()
        except UnicodeDecodeError:
            raise self.refusal(start, "a name is no text") from None

    def blob(self, start: int, end: int) -> NDArray[np.floating]:
        """A BlobProto: its shape, or its four sizes in the old form, and its values."""
        sizes = {1: 0, 2: 0, 3: 0, 4: 0}
        shape: list[int] | None = None
        values: list[NDArray[np.floating]] = []
        for number, wire, first, last in self.fields(start, end):
            if number in sizes:
                self.expect(wire, _VARINT, first)
                sizes[number] = last
            elif number == 7:
                self.expect(wire, _BYTES, first)
                shape = self.shape(first, last)
            elif number in (5, 8):
                self.expect(wire, _BYTES, first)
                kind = np.dtype("<f4" if number == 5 else "<f8")
                count, rest = divmod(last - first, kind.itemsize)
                if rest:
                    raise self.refusal(first, "weights end within a number")
                values.append(np.frombuffer(self.data, kind, count, first))
        shape = list(sizes.values()) if shape is None else shape
        count = sum(map(len, values))
        if not values or math.prod(shape) != count:
            raise self.refusal(end, f"there should be weights of shape {shape}, and are {count}")
        return (values[0] if len(values) == 1 else np.concatenate(values)).reshape(shape)

    def shape(self, start: int, end: int) -> list[int]:
        """A BlobShape."""
        shape: list[int] = []
        for number, wire, first, last in self.fields(start, end):
            if number == 1:
                self.expect(wire, _BYTES, first)
                while first < last:
                    size, first = self.varint(first, last)
                    shape.append(size)
                    if len(shape) > 8:
                        raise self.refusal(first, "weights have more than 8 axes")
        return shape


def _plain(blob: NDArray[np.floating], name: str, part: str) -> NDArray[np.floating]:
    """In the old form every blob has four sizes, those that it does not need being 1."""
    axes = 1 if part == "bias" else {"c": 4, "f": 2}.get(name[:1], 1)
    if blob.ndim != 4 or set(blob.shape[: 4 - axes]) - {1}:
        return blob
    return blob.reshape(blob.shape[4 - axes :])


def _check_wiring(found: list[Layer], depth: int, path: str) -> None:
    """Compares each layer with the release's: what it takes, and a convolution's steps.

    Each layer's output is a number that stands for all that leads to it: equal computations have
    equal numbers, whatever the blobs between them are called.
    """
    numbers: dict[tuple[object, ...], int] = {}

    def number(*computation: object) -> int:
        return numbers.setdefault(computation, len(numbers))

    blobs: dict[str, int] = {}
    got: dict[str, int] = {}
    image = number("image")
    for layer in found:
        inputs = [blobs.get(bottom, image) for bottom in layer.bottoms]
        if layer.name.endswith("_split") and len(inputs) == 1:
            output = inputs[0]
        elif layer.name.startswith("conv"):
            output = number(layer.name, layer.stride, layer.pad, *inputs)
        elif layer.name.startswith("res"):
            output = number("sum", *sorted(inputs))
        elif layer.name.startswith(("relu", "fc5")):
            output = number(layer.name, *inputs)
        else:
            output = image if not inputs else number(layer.name, *inputs)
        got[layer.name] = output
        blobs.update(dict.fromkeys(layer.tops, output))

    def check(name: str, *computation: object) -> int:
        if got[name] != number(*computation):
            raise DataError(
                f"{path} is not {_NETWORK}: {name} has other inputs, stride or padding than there."
            )
        return got[name]

    x = image
    for stage, units in enumerate(UNITS[depth], 1):
        name = f"{stage}_1"
        x = check(f"conv{name}", f"conv{name}", 2, 1, x)
        x = check(f"relu{name}", f"relu{name}", x)
        for unit in range(1, units + 1):
            y = x
            for half in (2 * unit, 2 * unit + 1):
                name = f"{stage}_{half}"
                y = check(f"conv{name}", f"conv{name}", 1, 1, y)
                y = check(f"relu{name}", f"relu{name}", y)
            x = number("sum", *sorted((x, y)))
    check("fc5", "fc5", x)
