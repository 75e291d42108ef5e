"""The authors' Caffe files: as the test writes them, a naive NumPy forward, and damage."""

import itertools
import pathlib
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from spherekeras import presets, zoo
from spherekeras.cli import main
from spherekeras.converters import convert_caffe, read_caffe
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import DataError, PresetError

UNITS = {4: (0, 0, 0, 0), 10: (0, 1, 2, 0)}
CHANNELS = (64, 128, 256, 512)
DIM = 8
Arrays = dict[str, np.ndarray]
Save = Callable[[bytes], pathlib.Path]


def weights(
    depth: int = 10, residual_bias: bool = False, columns: int = 6, seed: int = 0
) -> Arrays:
    """Random arrays of a network of the release, by layer and number of the blob."""
    random = np.random.default_rng(seed)
    arrays: Arrays = {}
    inputs = 3
    for stage, (units, outputs) in enumerate(zip(UNITS[depth], CHANNELS, strict=True), 1):
        for number in range(1, 2 * units + 2):
            fan_in = 9 * (inputs if number == 1 else outputs)
            shape = (outputs, fan_in // 9, 3, 3)
            arrays[f"conv{stage}_{number}.0"] = random.normal(0, fan_in**-0.5, shape)
            bias = random.normal(0, 0.3, outputs) * (number == 1 or residual_bias)
            arrays[f"conv{stage}_{number}.1"] = bias
            arrays[f"relu{stage}_{number}.0"] = random.uniform(-0.2, 0.6, outputs)
        inputs = outputs
    flat = 512 * 7 * columns
    arrays["fc5.0"] = random.normal(0, flat**-0.5, (DIM, flat))
    arrays["fc5.1"] = random.normal(0, 0.3, DIM)
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def forward(
    arrays: Arrays, image: np.ndarray, padding: tuple[int, int] = (1, 1), order: str = "CHW"
) -> np.ndarray:
    """The embedding of one image (rows, columns, channels), in float64, by the definition."""

    def convolution(x: np.ndarray, name: str, stride: int) -> np.ndarray:
        before, after = padding if stride == 2 else (1, 1)
        x = np.pad(x, ((0, 0), (before, after), (before, after)))
        rows, columns = ((size - 3) // stride + 1 for size in x.shape[1:])
        filters, bias = (arrays[f"{name}.{blob}"].astype(np.float64) for blob in (0, 1))
        y = np.zeros((len(filters), rows, columns)) + bias[:, None, None]
        for i, j in itertools.product(range(3), range(3)):
            window = x[:, i : i + stride * rows : stride, j : j + stride * columns : stride]
            y += np.tensordot(filters[:, :, i, j], window, 1)
        return y

    def prelu(x: np.ndarray, name: str) -> np.ndarray:
        return np.where(x > 0, x, x * arrays[f"{name}.0"].astype(np.float64)[:, None, None])

    x = image.astype(np.float64).transpose(2, 0, 1)
    for stage in (1, 2, 3, 4):
        x = prelu(convolution(x, f"conv{stage}_1", 2), f"relu{stage}_1")
        number = 2
        while f"conv{stage}_{number}.0" in arrays:
            y = x
            for name in (f"{stage}_{number}", f"{stage}_{number + 1}"):
                y = prelu(convolution(y, f"conv{name}", 1), f"relu{name}")
            x = x + y
            number += 2
    flat = (x if order == "CHW" else x.transpose(1, 2, 0)).ravel()
    return arrays["fc5.0"].astype(np.float64) @ flat + arrays["fc5.1"]


# Protocol buffers, as little of them as a NetParameter needs.


def varint(value: int) -> bytes:
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def content(field: int, value: bytes | str) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return varint(field << 3 | 2) + varint(len(value)) + value


def blob(array: np.ndarray, old: bool = False, double: bool = False) -> bytes:
    if old:
        sizes = [1] * (4 - array.ndim) + list(array.shape)
        shape = b"".join(number(field, size) for field, size in enumerate(sizes, 1))
    else:
        shape = content(7, content(1, b"".join(varint(size) for size in array.shape)))
    values = content(8, array.astype("<f8").tobytes()) if double else content(5, array.tobytes())
    return shape + values


class Net:
    """A network as Caffe writes it: PReLU in place, a Split before each sum."""

    def __init__(self, arrays: Arrays, old: bool = False, double: bool = False) -> None:
        self.arrays, self.old, self.double = arrays, old, double
        self.layers: list[bytes] = []
        self.fields = (4, 2, 3, 6, 10) if old else (1, 3, 4, 7, 106)

    def layer(
        self,
        name: str,
        bottoms: list[str],
        tops: list[str],
        kind: str = "",
        settings: bytes | None = None,
    ) -> None:
        field_name, bottom, top, blobs, convolution = self.fields
        data = content(field_name, name)
        data += number(5, 4) if self.old else content(2, kind)
        data += b"".join(content(bottom, value) for value in bottoms)
        data += b"".join(content(top, value) for value in tops)
        for key in (f"{name}.0", f"{name}.1"):
            if key in self.arrays:
                data += content(blobs, blob(self.arrays[key], self.old, self.double))
        if settings is not None:
            data += content(convolution, settings)
        self.layers.append(data)

    def convolution(self, name: str, bottom: str, stride: int, pad: int = 1) -> None:
        outputs = len(self.arrays[f"conv{name}.0"])
        settings = number(1, outputs) + number(3, pad) + number(4, 3) + number(6, stride)
        self.layer(f"conv{name}", [bottom], [f"conv{name}"], "Convolution", settings)
        self.layer(f"relu{name}", [f"conv{name}"], [f"conv{name}"], "PReLU")

    def build(self, stride: int = 2, pad: int = 1, skip: bool = True) -> bytes:
        bottom = "data"
        for stage in (1, 2, 3, 4):
            first = f"{stage}_1"
            self.convolution(first, bottom, stride if stage == 1 else 2, pad if stage == 1 else 1)
            bottom, half = f"conv{first}", 2
            while f"conv{stage}_{half}.0" in self.arrays:
                split = f"{bottom}_0_split"
                self.layer(split, [bottom], [f"{split}_0", f"{split}_1"], "Split")
                last = f"{stage}_{half + 1}"
                self.convolution(f"{stage}_{half}", f"{split}_0", 1)
                self.convolution(last, f"conv{stage}_{half}", 1)
                ends = [f"{split}_1", f"conv{last}"] if skip else [f"conv{last}", f"conv{last}"]
                self.layer(f"res{last}", ends, [f"res{last}"], "Eltwise")
                bottom, half = f"res{last}", half + 2
        self.layer("fc5", [bottom], ["fc5"], "InnerProduct")
        return self.data()

    def data(self) -> bytes:
        layer = 2 if self.old else 100
        head = content(1, "SpherefaceNet-20") + content(3, "data") + number(4, 1)
        return head + b"".join(content(layer, data) for data in self.layers)


@pytest.fixture
def save(tmp_path: pathlib.Path) -> Save:
    def write(data: bytes) -> pathlib.Path:
        path = tmp_path / "sphereface_model.caffemodel"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    return weights()


@pytest.fixture(scope="module")
def shallow() -> Arrays:
    return weights(4)


@pytest.fixture(scope="module")
def crop() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (112, 96, 3), dtype=np.uint8)


def normalised(crop: np.ndarray) -> np.ndarray:
    return (crop.astype(np.float32) - 127.5) / 128


def embedding(path: pathlib.Path, crop: np.ndarray) -> np.ndarray:
    return np.asarray(convert_caffe(path).model.predict_on_batch(normalised(crop)[None]))[0]


def test_model_agrees_with_a_naive_forward(arrays: Arrays, save: Save, crop: np.ndarray) -> None:
    wanted = forward(arrays, normalised(crop))
    got = embedding(save(Net(arrays).build()), crop)
    assert np.abs(got - wanted).max() <= 1e-4 * np.linalg.norm(wanted)


def test_the_comparison_sees_padding_and_orders(
    shallow: Arrays, save: Save, crop: np.ndarray
) -> None:
    got = embedding(save(Net(shallow).build()), crop)
    image, length = normalised(crop), np.linalg.norm(got)
    assert np.abs(got - forward(shallow, image)).max() <= 1e-4 * length
    for other in (
        forward(shallow, image, padding=(0, 1)),
        forward(shallow, image, order="HWC"),
        forward(shallow, image[..., ::-1]),
    ):
        assert np.abs(got - other).max() > 1e-2 * length


@pytest.mark.parametrize("form", [{"old": True}, {"double": True}])
def test_old_layers_and_double_values(
    form: dict[str, bool], shallow: Arrays, save: Save, crop: np.ndarray
) -> None:
    wanted = embedding(save(Net(shallow).build()), crop)
    np.testing.assert_array_equal(embedding(save(Net(shallow, **form).build()), crop), wanted)


def test_a_crop_of_112x112(save: Save) -> None:
    arrays = weights(4, columns=7)
    converted = convert_caffe(save(Net(arrays).build()))
    assert converted.config["template"] == "arcface_112x112" and converted.config["width"] == 112
    square = np.random.default_rng(2).normal(size=(112, 112, 3)).astype(np.float32)
    got = np.asarray(converted.model.predict_on_batch(square[None]))[0]
    np.testing.assert_allclose(got, forward(arrays, square), atol=1e-4)


def test_a_residual_bias_is_left_away_where_it_is_0_and_converted_where_not(
    arrays: Arrays, save: Save, crop: np.ndarray
) -> None:
    assert "residual_bias" not in convert_caffe(save(Net(arrays).build())).config["arguments"]
    zeros = {name for name, value in arrays.items() if name.endswith(".1") and not value.any()}
    assert len(zeros) == 6
    without = {name: value for name, value in arrays.items() if name not in zeros}
    assert "residual_bias" not in convert_caffe(save(Net(without).build())).config["arguments"]
    biased = weights(residual_bias=True)
    path = save(Net(biased).build())
    assert convert_caffe(path).config["arguments"]["residual_bias"] is True
    wanted = forward(biased, normalised(crop))
    assert np.abs(embedding(path, crop) - wanted).max() <= 1e-4 * np.linalg.norm(wanted)


def test_a_snapshot_of_training_loses_its_classifier(shallow: Arrays, save: Save) -> None:
    net = Net({**shallow, "fc6.0": np.ones((5, DIM), np.float32)})
    net.layer("data", [], ["data", "label"], "ImageData")
    net.build()
    net.layer("fc6", ["fc5", "label"], ["fc6", "lambda"], "MarginInnerProduct")
    net.layer("softmax_loss", ["fc6", "label"], ["softmax_loss"], "SoftmaxWithLoss")
    assert convert_caffe(save(net.data())).left_out == ("fc6.weight",)


def test_the_command_writes_a_preset_that_takes_rgb(
    shallow: Arrays,
    save: Save,
    crop: np.ndarray,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    net = Net({**shallow, "fc6.0": np.ones((5, DIM), np.float32)})
    net.build()
    net.layer("fc6", ["fc5", "label"], ["fc6"], "MarginInnerProduct")
    path, out = save(net.data()), tmp_path / "released"
    assert main(["zoo", "convert", str(path), "--from", "caffe", "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"Left out: fc6.weight.\nPreset in {out}.\n"
    config, metadata = presets.read_config(out), presets.read_metadata(out)
    assert (config.channel_order, config.scale, config.offset) == ("BGR", 1 / 128, 127.5)
    assert (config.template, config.mirror) == ("sphereface_112x96", "concat")
    assert metadata["converted_from"] == {
        "file": path.name,
        "sha256": presets.sha256(path),
        "left_out": ["fc6.weight"],
    }
    assert metadata["weights_licence"].startswith("MIT for the authors' own model")
    assert "CASIA-WebFace" in metadata["terms"]

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    [got] = FaceEmbedder.from_preset(out).embed(crop)
    sides = [forward(shallow, normalised(side[..., ::-1])) for side in (crop, crop[:, ::-1])]
    assert cosine(got, np.concatenate(sides)) > 0.9999
    assert cosine(got, np.concatenate(sides[::-1])) < 0.99
    wrong = [forward(shallow, normalised(side)) for side in (crop, crop[:, ::-1])]
    assert cosine(got, np.concatenate(wrong)) < 0.99


def test_google_reads_what_the_test_writes(shallow: Arrays) -> None:
    """The test's writer of the wire format is checked by protobuf itself."""
    descriptors = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    file = descriptors.FileDescriptorProto(name="net.proto", syntax="proto2")
    kinds = {"int": 5, "text": 9, "message": 11, "float": 2}
    schema: dict[str, list[tuple[str, int, str, str]]] = {
        "Shape": [("dim", 1, "int", "")],
        "Blob": [("data", 5, "float", ""), ("shape", 7, "message", "Shape")],
        "Conv": [("pad", 3, "int", ""), ("stride", 6, "int", "")],
        "Layer": [
            ("name", 1, "text", ""),
            ("bottom", 3, "text", ""),
            ("top", 4, "text", ""),
            ("blobs", 7, "message", "Blob"),
            ("convolution", 106, "message", "Conv"),
        ],
        "Net": [("name", 1, "text", ""), ("layer", 100, "message", "Layer")],
    }
    for name, fields in schema.items():
        message = file.message_type.add(name=name)
        for field, tag, kind, of in fields:
            made = message.field.add(name=field, number=tag, type=kinds[kind], label=3)
            if of:
                made.type_name = f".{of}"
            if field in ("dim", "data"):
                made.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    net = message_factory.GetMessageClass(pool.FindMessageTypeByName("Net"))()
    net.ParseFromString(Net(shallow).build())
    assert net.name == ["SpherefaceNet-20"] and len(net.layer) == 9
    first = net.layer[0]
    assert (first.name, first.bottom, first.top) == (["conv1_1"], ["data"], ["conv1_1"])
    assert (first.convolution[0].pad, first.convolution[0].stride) == ([1], [2])
    assert first.blobs[0].shape[0].dim == [64, 3, 3, 3]
    np.testing.assert_array_equal(first.blobs[1].data, shallow["conv1_1.1"])


def changed(arrays: Arrays, **changes: Any) -> Arrays:
    """With "conv1_1.0" written conv1_1__0; None takes it out."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return {name: value for name, value in {**arrays, **named}.items() if value is not None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv3_1__1": None}, r"release: conv3_1.bias is missing\."),
        (
            dict.fromkeys(("relu1_1__0", "relu2_1__0", "conv3_1__1", "relu4_1__0")),
            r"release: relu1_1.weight, relu2_1.weight, conv3_1.bias and 1 more are missing\.",
        ),
        (
            {"relu2_1__0": np.zeros((1,), np.float32)},
            r"relu2_1.weight is \(1,\) in place of \(128,\)",
        ),
        ({"fc5__0": None, "fc5__1": None}, "fc5.weight is missing"),
        ({"fc5__0": np.zeros(8, np.float32)}, r"fc5.weight is \(8,\)"),
        (
            {"fc5__0": np.zeros((8, 99), np.float32)},
            "fc5 has 99 inputs in place of 21504 or 25088, those of a crop of 112x96 or 112x112",
        ),
        ({"fc5__1": np.full(DIM, np.nan, np.float32)}, "damaged: fc5.bias is not finite"),
    ],
)
def test_other_weights_are_named(
    change: dict[str, Any], message: str, shallow: Arrays, save: Save
) -> None:
    with pytest.raises(DataError, match=message):
        convert_caffe(save(Net(changed(shallow, **change)).build()))


def test_other_networks_are_named(arrays: Arrays, shallow: Arrays, save: Save) -> None:
    net = Net(shallow)
    net.build()
    net.arrays = arrays
    net.convolution("2_2", "conv2_1", 1)
    with pytest.raises(DataError, match=r"1, 2, 1, 1 convolutions in its stages are those of no"):
        convert_caffe(save(net.data()))
    net = Net({**shallow, "fc7.0": np.ones((2, 2), np.float32)})
    net.build()
    net.layer("fc7", ["fc5"], ["fc7"])
    with pytest.raises(DataError, match=r"fc7.weight is unexpected\."):
        convert_caffe(save(net.data()))


@pytest.mark.parametrize(
    ("form", "name"),
    [({"stride": 1}, "conv1_1"), ({"pad": 0}, "conv1_1"), ({"skip": False}, "conv2_1|conv3_1")],
)
def test_other_strides_paddings_and_connections_are_named(
    form: dict[str, Any], name: str, arrays: Arrays, save: Save
) -> None:
    with pytest.raises(DataError, match=rf"({name}|conv3_2) has other inputs, stride or padding"):
        convert_caffe(save(Net(arrays).build(**form)))


def test_an_activation_after_the_sum_is_named(arrays: Arrays, save: Save) -> None:
    """Names, shapes and steps are the release's; only the order differs."""
    net = Net(arrays)
    net.build()
    swapped = [i for i, data in enumerate(net.layers) if data.startswith(content(1, "relu2_3"))]
    [position] = swapped
    net.layers[position], net.layers[position + 1] = net.layers[position + 1 : position - 1 : -1]
    with pytest.raises(DataError, match="conv3_1 has other inputs, stride or padding than there"):
        convert_caffe(save(net.data()))


def tiny() -> bytes:
    """A file of two layers whose every byte but the weights is structure."""
    random = np.random.default_rng(3)
    net = Net(
        {
            "conv1_1.0": random.normal(size=(2, 3, 3, 3)).astype(np.float32),
            "conv1_1.1": random.normal(size=2).astype(np.float32),
            "relu1_1.0": random.normal(size=2).astype(np.float32),
        }
    )
    net.convolution("1_1", "data", 2)
    return net.data()


def test_reads_layers(save: Save) -> None:
    convolution, prelu = read_caffe(save(tiny()))
    assert (convolution.name, convolution.bottoms, convolution.tops) == (
        "conv1_1",
        ["data"],
        ["conv1_1"],
    )
    assert (convolution.stride, convolution.pad) == (2, 1)
    assert [b.shape for b in convolution.blobs + prelu.blobs] == [(2, 3, 3, 3), (2,), (2,)]


def test_refuses_a_missing_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match=r"none cannot be read \(No such file or directory\)"):
        read_caffe(tmp_path / "none")
    with pytest.raises(DataError, match="Pass the path of a .caffemodel"):
        read_caffe(tmp_path)
    with pytest.raises(DataError, match="none cannot be read"):
        zoo.convert(tmp_path / "none", "caffe", tmp_path / "out")


def test_the_zoo_knows_its_kinds(tmp_path: pathlib.Path) -> None:
    with pytest.raises(PresetError, match="knows caffe, clcarwin, dlib, opensphere. .*'mxnet'"):
        zoo.convert("a", "mxnet", tmp_path)
    with pytest.raises(PresetError, match="A network is named for opensphere alone.*'sfnet20'"):
        zoo.convert("a", "caffe", tmp_path, "sfnet20")


def test_refuses_other_files(save: Save) -> None:
    for data in (
        b"",
        b"\0" * 99,
        b"\x89PNG\r\n\x1a\n",
        b"PK\x03\x04" * 9,
        b'name: "SpherefaceNet-20"\ninput: "data"\n',
        content(1, "a name alone"),
        np.random.default_rng(4).bytes(4096),
    ):
        with pytest.raises(DataError, match=r"is no .caffemodel, or is damaged: before byte \d+"):
            read_caffe(save(data))


def in_layer(data: bytes) -> bytes:
    return content(100, data)


def in_blob(data: bytes) -> bytes:
    return in_layer(content(7, data))


ONE = struct.pack("<f", 1.0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        # A length beyond the end, and one that only the outer message could hold.
        (varint(100 << 3 | 2) + varint(2**60), "a field ends after what it lies in"),
        (content(100, varint(1 << 3 | 2) + varint(9)) + b"x" * 99, "a field ends after"),
        # Sizes that lie.
        (in_blob(content(7, content(1, varint(2**40) * 2)) + content(5, ONE)), "and are 1"),
        (in_blob(content(7, content(1, varint(2**63))) + content(5, ONE)), "and are 1"),
        (in_blob(content(7, content(1, b"\1\0")) + content(5, ONE)), r"shape \[1, 0\], and are 1"),
        (in_blob(content(7, content(1, b"\1" * 9)) + content(5, ONE)), "more than 8 axes"),
        (in_blob(b"".join(number(f, 2**31) for f in (1, 2, 3, 4)) + content(5, ONE)), "are 1"),
        (in_blob(content(7, content(1, b"\0"))), r"shape \[0\], and are 0"),
        (in_blob(content(5, ONE[:3])), "weights end within a number"),
        (in_blob(content(8, ONE)), "weights end within a number"),
        # Wire types that the schema does not have.
        (number(100, 5), "wire type is 0 in place of 2"),
        (in_layer(number(1, 5)), "wire type is 0 in place of 2"),
        (in_layer(number(7, 5)), "wire type is 0 in place of 2"),
        (in_blob(number(5, 5)), "wire type is 0 in place of 2"),
        (in_blob(varint(5 << 3 | 5) + ONE), "wire type is 5 in place of 2"),
        (in_blob(content(1, "a")), "wire type is 2 in place of 0"),
        (in_blob(content(7, number(1, 1))), "wire type is 0 in place of 2"),
        (in_layer(content(106, content(6, "a"))), "wire type is 2 in place of 0"),
        (varint(1 << 3 | 3), "wire type 3 is none of Caffe's"),
        (varint(1 << 3 | 7), "wire type 7 is none of Caffe's"),
        (b"\xff" * 11, "a number is too long"),
        (b"\xff", "a number is cut short"),
        (in_layer(content(1, b"\xff\xfe")), "a name is no text"),
        (number(9, 1), "there is an unknown field 9"),
        (in_layer(content(1, "a") + content(7, content(7, b"") + content(5, ONE))) * 2, "'a' has"),
    ],
)
def test_refuses_what_is_no_caffemodel(data: bytes, message: str, save: Save) -> None:
    with pytest.raises(DataError, match=message):
        read_caffe(save(data))


def test_refuses_a_file_of_countless_fields(save: Save) -> None:
    with pytest.raises(DataError, match="there are more than 1000000 fields"):
        read_caffe(save(number(4, 1) * 1_000_001))


def damaged() -> Iterator[bytes]:
    data, random = tiny(), np.random.default_rng(5)
    for length in range(0, len(data), 2):
        yield data[:length]
    for _ in range(800):
        flipped = bytearray(data)
        for position in random.integers(0, len(data), random.integers(1, 4)):
            flipped[position] ^= 1 << random.integers(8)
        yield bytes(flipped)


def test_damage_is_refused_or_harmless_and_takes_no_memory(save: Save) -> None:
    path, refused = save(tiny()), 0
    tracemalloc.start()
    try:
        for data in damaged():
            path.write_bytes(data)
            try:
                read_caffe(path)
            except DataError:
                refused += 1
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert refused > 400
    assert peak < 1e6


def test_every_truncation_of_a_network_is_refused(shallow: Arrays, save: Save) -> None:
    data = Net(shallow).build()
    for length in np.random.default_rng(6).integers(0, len(data), 40):
        with pytest.raises(DataError):
            convert_caffe(save(data[:length]))
