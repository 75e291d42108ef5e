"""dlib's network: its file format as the test writes it, damage, and a naive NumPy forward."""

import os
import pathlib
import struct
import time
from collections.abc import Callable

import keras
import numpy as np
import pytest

from spherekeras import presets, zoo
from spherekeras.backbones import DlibResNet
from spherekeras.cli import main
from spherekeras.converters.dlib_resnet import convert_dlib, read_dlib
from spherekeras.data.alignment import TEMPLATES
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import DataError, PresetError

WIDTHS = (2, 3, 4, 5, 5)
DIM = 6
BLOCKS = (3, 4, 3, 3, 1)


class Writer:
    """dlib's serialisation, as little of it as the network needs."""

    def __init__(self, seed: int = 0, widths: tuple[int, ...] = WIDTHS) -> None:
        self.random = np.random.default_rng(seed)
        self.data = bytearray()
        self.arrays: dict[str, np.ndarray] = {}
        self.spans: list[range] = []  # where weights lie
        self.network(widths)

    def ints(self, *values: int) -> None:
        for value in values:
            size = max(1, (abs(value).bit_length() + 7) // 8)
            self.data += bytes([size | (0x80 if value < 0 else 0)])
            self.data += abs(value).to_bytes(size, "little")

    def text(self, value: str) -> None:
        self.ints(len(value))
        self.data += value.encode()

    def floating(self, value: float) -> None:
        mantissa, power = np.frexp(value)
        self.ints(int(mantissa * 2**24), int(power) - 24)

    def tensor(self, values: np.ndarray) -> None:
        self.ints(2, *values.shape)
        start = len(self.data)
        self.data += struct.pack(f"<{values.size}f", *values.ravel())
        self.spans.append(range(start, len(self.data)))

    def end(self) -> None:
        self.data += b"110"
        for _ in range(3):
            self.tensor(np.zeros((0, 0, 0, 0)))

    def plain(self, name: str, *settings: int) -> None:
        self.text(name)
        self.ints(*settings)
        self.end()

    def convolution(self, name: str, inputs: int, outputs: int, size: int, stride: int) -> None:
        filters = self.random.normal(0, 0.7 / size, (outputs, inputs, size, size))
        bias, gamma, beta = self.random.normal(0, 1, (3, outputs))
        for key, array in (("filters", filters), ("bias", bias), ("gamma", gamma), ("beta", beta)):
            self.arrays[f"{name}/{key}"] = array.astype(np.float32)
        self.text("con_4")
        self.tensor(np.concatenate([filters.ravel(), bias]).reshape(-1, 1, 1, 1))
        padding = 0 if stride > 1 else size // 2
        self.ints(outputs, size, size, stride, stride, padding, padding)
        self.ints(1, *filters.shape, 1, 1, outputs, 1, 1)
        for value in (1.0, 1.0, 1.0, 0.0):
            self.floating(value)
        self.end()
        if name == "stem":
            self.ints(1)
        self.text("affine_")
        self.tensor(np.concatenate([gamma, beta]).reshape(-1, 1, 1, 1))
        self.ints(1, 1, outputs, 1, 1, 1, 1, outputs, 1, 1, 0)
        self.end()

    def network(self, widths: tuple[int, ...]) -> None:
        blocks = [(s, b) for s, count in enumerate(BLOCKS) for b in range(count)]
        self.ints(1)
        self.text("loss_metric_2")
        self.floating(0.04)
        self.floating(0.6)
        self.ints(2, 2)
        for stage, block in reversed(blocks):
            self.ints(2, 2)
            if stage and not block:
                self.ints(2, 1, 1)
            self.ints(2, 2, 2, 2, 2, 1)
        self.ints(2, 2, 2, 3)
        self.text("input_rgb_image_sized")
        for value in (122.782, 117.001, 104.298):
            self.floating(value)
        self.ints(150, 150)
        self.convolution("stem", 3, widths[0], 7, 2)
        self.plain("relu_")
        self.plain("max_pool_2", 3, 3, 2, 2, 0, 0)
        width = widths[0]
        for stage, block in blocks:
            halves = stage > 0 and block == 0
            name = f"stage{stage + 1}_block{block + 1}"
            self.convolution(f"{name}_conv1", width, widths[stage], 3, 2 if halves else 1)
            width = widths[stage]
            self.plain("relu_")
            self.convolution(f"{name}_conv2", width, width, 3, 1)
            if halves:
                self.plain("avg_pool_2", 2, 2, 2, 2, 0, 0)
            self.plain("add_prev_")
            self.plain("relu_")
        self.plain("avg_pool_2", 0, 0, 1, 1, 0, 0)
        weights = self.random.normal(0, 1, (width, DIM)).astype(np.float32)
        self.arrays["embedding/weights"] = weights
        self.text("fc_2")
        self.ints(DIM, width)
        self.tensor(weights.reshape(width, DIM, 1, 1))
        self.ints(1, width, DIM, 1, 1, 1, 0, 0, 0, 0, 1)
        for value in (1.0, 1.0, 1.0, 0.0):
            self.floating(value)
        self.end()


def forward(arrays: dict[str, np.ndarray], pixels: np.ndarray) -> np.ndarray:
    """The embedding of one crop in float64, straight from dlib's definition."""

    def patches(x: np.ndarray, size: int, stride: int) -> np.ndarray:
        """(rows, columns, size, size, channels)"""
        rows, columns = ((n - size) // stride + 1 for n in x.shape[:2])
        return np.array(
            [
                [x[r : r + size, c : c + size] for c in range(0, columns * stride, stride)]
                for r in range(0, rows * stride, stride)
            ]
        )

    def convolution(x: np.ndarray, name: str, stride: int, padding: int) -> np.ndarray:
        filters, bias, gamma, beta = (
            arrays[f"{name}/{key}"].astype(np.float64)
            for key in ("filters", "bias", "gamma", "beta")
        )
        x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
        window = patches(x, filters.shape[-1], stride)
        y = np.einsum("rcijk,okij->rco", window, filters, optimize=True)
        return gamma * (y + bias) + beta

    x = (pixels.astype(np.float64) - [122.782, 117.001, 104.298]) / 256
    x = np.maximum(convolution(x, "stem", 2, 0), 0)
    x = patches(x, 3, 2).max(axis=(2, 3))
    for stage, count in enumerate(BLOCKS, 1):
        for block in range(1, count + 1):
            name = f"stage{stage}_block{block}"
            halves = stage > 1 and block == 1
            y = np.maximum(
                convolution(x, f"{name}_conv1", 2 if halves else 1, 0 if halves else 1), 0
            )
            y = convolution(y, f"{name}_conv2", 1, 1)
            if halves:
                x = patches(x, 2, 2).mean(axis=(2, 3))
            total = np.zeros(np.maximum(x.shape, y.shape))
            for part in (x, y):
                total[tuple(slice(n) for n in part.shape)] += part
            x = np.maximum(total, 0)
    return x.mean(axis=(0, 1)) @ arrays["embedding/weights"].astype(np.float64)


def normalised(crops: np.ndarray) -> np.ndarray:
    return (crops.astype(np.float32) - 127.5) / 128


@pytest.fixture(scope="module")
def written() -> Writer:
    return Writer()


@pytest.fixture
def save(tmp_path: pathlib.Path) -> Callable[[bytes | bytearray], pathlib.Path]:
    def write(data: bytes | bytearray) -> pathlib.Path:
        path = tmp_path / "network.dat"
        path.write_bytes(data)
        return path

    return write


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, 150, 150, 3), dtype=np.uint8)


def test_reads_what_was_written(
    written: Writer, save: Callable[[bytes | bytearray], pathlib.Path]
) -> None:
    arrays = read_dlib(save(written.data))
    assert list(arrays) == list(written.arrays)
    for name, array in written.arrays.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert arrays[name].dtype == np.float32


def test_model_agrees_with_naive_forward(
    written: Writer, save: Callable[[bytes | bytearray], pathlib.Path], crops: np.ndarray
) -> None:
    embeddings = convert_dlib(save(written.data)).predict_on_batch(normalised(crops))
    assert embeddings.shape == (2, DIM)
    for embedding, crop in zip(np.asarray(embeddings), crops, strict=True):
        wanted = forward(written.arrays, crop)
        assert np.abs(wanted).max() > 0.01
        assert np.abs(embedding - wanted).max() <= 1e-4 * np.linalg.norm(wanted)


def test_model_saves_and_loads_with_stock_keras_alone(
    written: Writer,
    save: Callable[[bytes | bytearray], pathlib.Path],
    crops: np.ndarray,
    tmp_path: pathlib.Path,
) -> None:
    model = convert_dlib(save(written.data))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = normalised(crops)
    np.testing.assert_array_equal(model.predict_on_batch(images), loaded.predict_on_batch(images))


def test_other_weights_become_a_preset_of_unknown_licence(
    written: Writer,
    save: Callable[[bytes | bytearray], pathlib.Path],
    crops: np.ndarray,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, out = save(written.data), tmp_path / "small"
    command = ["zoo", "convert", str(path), "--from", "dlib", "--out", str(out)]
    assert main(command) == 0
    faces = FaceEmbedder.from_preset(out)
    assert faces.config.arguments["widths"] == list(WIDTHS)
    assert faces.metadata["weights_licence"].startswith("unknown: this is not the file")
    assert not faces.metadata.keys() & {"terms", "overlap"}
    for embedding, crop in zip(faces.embed_crops(crops), crops, strict=True):
        wanted = forward(written.arrays, crop)
        wanted /= np.linalg.norm(wanted)
        assert np.abs(embedding - wanted).max() <= 1e-3  # weights are stored in float16
    before = (out / presets.SUMS).read_bytes()
    capsys.readouterr()
    assert main(command) == 1
    assert "small is there already and is left as it is" in capsys.readouterr().err
    assert (out / presets.SUMS).read_bytes() == before
    with pytest.raises(PresetError, match="data is there already"):
        zoo.convert(path, "dlib", path.rename(tmp_path / "data"))


def test_full_size() -> None:
    model = DlibResNet()
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    assert len(convolutions) == 29
    assert model.input_shape == (None, 150, 150, 3)
    assert model.get_layer("stage5_block1_relu").output.shape == (None, 2, 2, 256)


@pytest.mark.parametrize("widths", [(32, 64, 128, 256), (32, 64, 128, 256, 128)])
def test_refuses_widths(widths: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="five widths, none less than the one before"):
        DlibResNet(widths=widths)


def test_landmarks_lie_near_the_mean_face_of_dlib() -> None:
    """Means of points 36-41 and 42-47, points 30, 48 and 54 of dlib's mean face."""
    eyes = ((0.225492, 0.215992), (0.754758, 0.215992))
    mean = np.array([*eyes, (0.490127, 0.515625), (0.254149, 0.780233), (0.726104, 0.780233)])
    distance = np.linalg.norm(
        np.array(TEMPLATES["dlib_150x150"].landmarks) - (mean + 0.25) / 1.5 * 149, axis=1
    )
    assert (distance < 3).all()


def test_refuses_a_missing_file(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match=r"none.dat cannot be read \(No such file or directory\)"):
        read_dlib(tmp_path / "none.dat")
    with pytest.raises(DataError, match="cannot be read"):
        read_dlib(tmp_path)


def test_refuses_other_files(
    written: Writer, save: Callable[[bytes | bytearray], pathlib.Path]
) -> None:
    refusal = "is not dlib's face recognition network, or is damaged: before byte"
    for data in (
        b"",
        b"\0" * 999,
        b"\x01" * 999,
        b"\x89PNG\r\n",
        np.random.default_rng(4).bytes(4096),
    ):
        with pytest.raises(DataError, match=refusal):
            read_dlib(save(data))
    with pytest.raises(DataError, match=r"compressed. Unpack it first: `bunzip2 .*network.dat`"):
        read_dlib(save(b"BZh91AY"))
    detector = bytes(written.data).replace(
        b"\x15input_rgb_image_sized", b"\x18input_rgb_image_pyramid"
    )
    with pytest.raises(DataError, match="name should be input_rgb_image_sized"):
        read_dlib(save(detector))
    with pytest.raises(DataError, match="5 bytes follow its end"):
        read_dlib(save(bytes(written.data) + b"after"))


def test_refuses_narrowing_and_weights_that_are_not_finite(
    written: Writer, save: Callable[[bytes | bytearray], pathlib.Path]
) -> None:
    with pytest.raises(DataError, match="stage3_block1 has 2 channels after 3"):
        read_dlib(save(Writer(widths=(2, 3, 2, 5, 5)).data))
    data = bytearray(written.data)
    start = next(span.start for span in written.spans if span)
    data[start : start + 4] = struct.pack("<f", np.nan)
    with pytest.raises(DataError, match="a weight is not finite"):
        read_dlib(save(data))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        # The loss's margin times 2 to the 32000, which is dlib's infinity; times 2 to the 1000.
        (b"\x81\x1c", b"\x02\x00\x7d", "a number is not finite"),
        (b"\x81\x1c", b"\x02\xe8\x03", "a number is not finite"),
        # A tensor of absurd sizes, one of a negative size, and a flag that is none.
        (
            b"110" + b"\1\2" + b"\1\0" * 4,
            b"110" + b"\1\2" + (b"\x08" + b"\xff" * 8) * 4,
            "the file ends too early",
        ),
        (b"110" + b"\1\2" + b"\1\0", b"110" + b"\1\2" + b"\x81\1", "a tensor has the sizes"),
        (b"110" + b"\1\2", b"1x0" + b"\1\2", "there is no flag"),
    ],
)
def test_refuses_absurd_numbers(
    old: bytes,
    new: bytes,
    message: str,
    written: Writer,
    save: Callable[[bytes | bytearray], pathlib.Path],
) -> None:
    assert old in written.data
    with pytest.raises(DataError, match=message):
        read_dlib(save(bytes(written.data).replace(old, new, 1)))


def test_refuses_every_truncation(
    written: Writer, save: Callable[[bytes | bytearray], pathlib.Path]
) -> None:
    for length in np.random.default_rng(2).integers(0, len(written.data), 150):
        with pytest.raises(DataError, match="the file ends too early"):
            read_dlib(save(written.data[:length]))


def test_a_flipped_bit_of_the_structure_is_refused_or_harmless(
    written: Writer, save: Callable[[bytes | bytearray], pathlib.Path]
) -> None:
    """Harmless: flags of training, learning rates, the loss's margin."""
    structure = sorted(set(range(len(written.data))).difference(*written.spans))
    random = np.random.default_rng(3)
    refused = 0
    for position in random.choice(structure, 400, replace=False):
        data = bytearray(written.data)
        data[position] ^= 1 << random.integers(8)
        try:
            arrays = read_dlib(save(data))
        except DataError as error:
            refused += 1
            assert str(error).endswith("dlib_face_recognition_resnet_model_v1.dat again.")
        else:
            for name, array in written.arrays.items():
                np.testing.assert_array_equal(arrays[name], array)
    assert refused > 250


def test_real_file(crops: np.ndarray) -> None:
    path = os.environ.get("SPHEREKERAS_DLIB")
    if not path:
        pytest.skip("set SPHEREKERAS_DLIB to dlib_face_recognition_resnet_model_v1.dat")
    start = time.perf_counter()
    arrays = read_dlib(path)
    assert time.perf_counter() - start < 5
    assert sum(array.size for array in arrays.values()) == 5_614_592
    embedding = np.asarray(convert_dlib(path).predict_on_batch(normalised(crops[:1])))[0]
    wanted = forward(arrays, crops[0])
    assert np.abs(embedding - wanted).max() <= 1e-4 * np.linalg.norm(wanted)
