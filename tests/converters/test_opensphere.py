"""OpenSphere's networks on random weights: against PyTorch where it is, and against NumPy."""

import itertools
import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from spherekeras import presets, zoo
from spherekeras.cli import main
from spherekeras.converters import convert_opensphere, opensphere
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import DataError

try:
    import torch
except ImportError:
    torch: Any = None  # type: ignore[no-redef]

needs_torch = pytest.mark.skipif(
    torch is None, reason="PyTorch is not installed: `pip install torch`"
)
DIM = 8
CHANNELS = (64, 128, 256, 512)
UNITS = {4: (0, 0, 0, 0), 10: (0, 1, 2, 0), 20: (1, 2, 4, 1)}
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
Weights = dict[str, np.ndarray]
Read = Callable[..., None]


class Maker:
    """Random arrays under PyTorch's names."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)
        self.arrays: Weights = {}

    def put(self, name: str, value: np.ndarray) -> None:
        self.arrays[name] = value.astype(np.float32)

    def conv(self, name: str, outputs: int, inputs: int, size: int = 3, bias: bool = False) -> None:
        std = (inputs * size * size) ** -0.5
        self.put(f"{name}.weight", self.random.normal(0, std, (outputs, inputs, size, size)))
        if bias:
            self.put(f"{name}.bias", self.random.normal(0, 0.3, outputs))

    def norm(self, name: str, size: int) -> None:
        self.put(f"{name}.weight", self.random.uniform(0.5, 1.5, size))
        self.put(f"{name}.bias", self.random.normal(0, 0.3, size))
        self.put(f"{name}.running_mean", self.random.normal(0, 0.3, size))
        self.put(f"{name}.running_var", self.random.uniform(0.5, 2.0, size))
        self.put(f"{name}.num_batches_tracked", np.array(7))

    def prelu(self, name: str, size: int) -> None:
        self.put(f"{name}.weight", self.random.uniform(-0.2, 0.6, size))

    def fc(self) -> None:
        flat = 512 * 7 * 7
        self.put("fc.weight", self.random.normal(0, flat**-0.5, (DIM, flat)))
        self.put("fc.bias", self.random.normal(0, 0.3, DIM))


def sfnet(depth: int, batch_norm: bool = False, first: str = "conv1") -> Weights:
    make, inputs = Maker(), 3
    for stage, (units, outputs) in enumerate(zip(UNITS[depth], CHANNELS, strict=True), 1):
        names = [f"layer{stage}.0.{first}"]
        names += [f"layer{stage}.{u}.conv{half}" for u in range(1, units + 1) for half in (1, 2)]
        for name in names:
            make.conv(name, outputs, inputs, bias=not batch_norm)
            if batch_norm:
                make.norm(name.replace("conv", "bn"), outputs)
            inputs = outputs
    make.fc()
    if batch_norm:
        make.norm("features", DIM)
    return make.arrays


def iresnet(depth: int) -> Weights:
    make, inputs = Maker(), 64
    make.conv("conv1", 64, 3)
    make.norm("bn1", 64)
    make.prelu("prelu", 64)
    for stage, (blocks, outputs) in enumerate(zip(BLOCKS[depth], CHANNELS, strict=True), 1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}."
            make.norm(f"{prefix}bn1", inputs)
            make.conv(f"{prefix}conv1", outputs, inputs)
            make.norm(f"{prefix}bn2", outputs)
            make.prelu(f"{prefix}prelu", outputs)
            make.conv(f"{prefix}conv2", outputs, outputs)
            make.norm(f"{prefix}bn3", outputs)
            if block == 0:
                make.conv(f"{prefix}downsample.0", outputs, inputs, 1)
                make.norm(f"{prefix}downsample.1", outputs)
            inputs = outputs
    make.norm("bn2", 512)
    make.fc()
    make.norm("features", DIM)
    return make.arrays


class ByTorch:
    """The operations of a network in PyTorch's own functions."""

    def __init__(self, weights: Weights) -> None:
        self.weights = {name: torch.from_numpy(value) for name, value in weights.items()}
        self.functional = torch.nn.functional

    def start(self, images: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))

    def conv(self, x: Any, name: str, stride: int) -> Any:
        weight = self.weights[f"{name}.weight"]
        bias, padding = self.weights.get(f"{name}.bias"), weight.shape[-1] // 2
        return self.functional.conv2d(x, weight, bias, stride=stride, padding=padding)

    def norm(self, x: Any, name: str) -> Any:
        mean, var, weight, bias = (
            self.weights[f"{name}.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return self.functional.batch_norm(x, mean, var, weight, bias, eps=1e-5)

    def prelu(self, x: Any, name: str) -> Any:
        return self.functional.prelu(x, self.weights[f"{name}.weight"])

    def relu(self, x: Any) -> Any:
        return self.functional.relu(x)

    def fc(self, x: Any) -> Any:
        return self.functional.linear(
            x.flatten(1), self.weights["fc.weight"], self.weights["fc.bias"]
        )


class ByNumpy:
    """The same operations by their definitions."""

    def __init__(self, weights: Weights) -> None:
        self.weights = weights

    def start(self, images: np.ndarray) -> np.ndarray:
        return images.transpose(3, 0, 1, 2)  # channels first of all

    def channels(self, name: str, x: np.ndarray) -> np.ndarray:
        return self.weights[name].reshape(-1, *[1] * (x.ndim - 1))

    def conv(self, x: np.ndarray, name: str, stride: int) -> np.ndarray:
        weight = self.weights[f"{name}.weight"]
        size = weight.shape[-1]
        x = np.pad(x, ((0, 0), (0, 0), *[(size // 2, size // 2)] * 2))
        rows, columns = ((n - size) // stride + 1 for n in x.shape[2:])
        y = np.zeros((len(weight), x.shape[1], rows, columns), np.float32)
        for i, j in itertools.product(range(size), range(size)):
            window = x[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride]
            y += np.tensordot(weight[:, :, i, j], window, 1)
        return y + self.channels(f"{name}.bias", y) if f"{name}.bias" in self.weights else y

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = x if x.ndim == 4 else x.T
        mean, var, weight, bias = (
            self.channels(f"{name}.{part}", x)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        y = (x - mean) / np.sqrt(var + 1e-5) * weight + bias
        return y if y.ndim == 4 else y.T

    def prelu(self, x: np.ndarray, name: str) -> np.ndarray:
        return np.where(x > 0, x, x * self.channels(f"{name}.weight", x))

    def relu(self, x: np.ndarray) -> np.ndarray:
        return np.maximum(x, 0)

    def fc(self, x: np.ndarray) -> np.ndarray:
        flat = x.transpose(1, 0, 2, 3).reshape(x.shape[1], -1)
        return flat @ self.weights["fc.weight"].T + self.weights["fc.bias"]


def sfnet_forward(by: Any, images: np.ndarray, add_first: bool) -> np.ndarray:
    def unit(x: Any, name: str, stride: int) -> Any:
        norm = re.sub(r"conv(\d?)$", lambda found: "bn" + (found[1] or "1"), name)
        x = by.conv(x, name, stride)
        return by.norm(x, norm) if f"{norm}.weight" in by.weights else x

    x = by.start(images)
    for stage in (1, 2, 3, 4):
        first = "conv" if f"layer{stage}.0.conv.weight" in by.weights else "conv1"
        x = by.relu(unit(x, f"layer{stage}.0.{first}", 2))
        number = 1
        while f"layer{stage}.{number}.conv1.weight" in by.weights:
            y = by.relu(unit(x, f"layer{stage}.{number}.conv1", 1))
            y = unit(y, f"layer{stage}.{number}.conv2", 1)
            x = by.relu(y + x) if add_first else by.relu(y) + x
            number += 1
    x = by.fc(x)
    return np.asarray(by.norm(x, "features") if "features.weight" in by.weights else x)


def iresnet_forward(by: Any, images: np.ndarray) -> np.ndarray:
    x = by.prelu(by.norm(by.conv(by.start(images), "conv1", 1), "bn1"), "prelu")
    for stage in (1, 2, 3, 4):
        number = 0
        while f"layer{stage}.{number}.bn1.weight" in by.weights:
            prefix, stride = f"layer{stage}.{number}.", 1 if number else 2
            y = by.conv(by.norm(x, f"{prefix}bn1"), f"{prefix}conv1", 1)
            y = by.prelu(by.norm(y, f"{prefix}bn2"), f"{prefix}prelu")
            y = by.norm(by.conv(y, f"{prefix}conv2", stride), f"{prefix}bn3")
            if number == 0:
                x = by.norm(by.conv(x, f"{prefix}downsample.0", stride), f"{prefix}downsample.1")
            x, number = x + y, number + 1
    return np.asarray(by.norm(by.fc(by.norm(x, "bn2")), "features"))


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, 112, 112, 3), dtype=np.uint8)


def normalised(crops: np.ndarray) -> np.ndarray:
    return (crops.astype(np.float32) - 127.5) / 127.5


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Read:
    """Lets the converter find these arrays in any file, whether PyTorch is there or not."""

    def replace(weights: Weights, left_out: tuple[str, ...] = ()) -> None:
        arrays = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
        monkeypatch.setattr(opensphere, "read_state_dict", lambda *_: (arrays, left_out))

    return replace


def assert_agrees(got: Any, wanted: np.ndarray) -> None:
    for ours, theirs in zip(np.asarray(got), wanted, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-4 * np.linalg.norm(theirs)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_sfnet_agrees_with_numpy(batch_norm: bool, read: Read, crops: np.ndarray) -> None:
    weights = sfnet(10, batch_norm)
    read(weights)
    model = convert_opensphere("backbone.pth", "sfnet10").model
    images = normalised(crops[:1])
    got = np.asarray(model.predict_on_batch(images))
    assert_agrees(got, sfnet_forward(ByNumpy(weights), images, add_first=True))
    if not batch_norm:  # the comparison sees which comes first
        other = sfnet_forward(ByNumpy(weights), images, add_first=False)
        assert np.abs(got - other).max() > 1e-2 * np.linalg.norm(other)


def test_iresnet_agrees_with_numpy(read: Read, crops: np.ndarray) -> None:
    weights = iresnet(18)
    read(weights)
    model = convert_opensphere("backbone.pth").model
    images = normalised(crops[:1])
    assert_agrees(model.predict_on_batch(images), iresnet_forward(ByNumpy(weights), images))


@needs_torch
@pytest.mark.parametrize(
    ("network", "weights", "told"),
    [
        ("sfnet20", lambda: sfnet(20), True),
        ("sfnet20_deprecated", lambda: sfnet(20), True),
        ("sfnet20_deprecated", lambda: sfnet(20, first="conv"), False),
        ("sfnet20", lambda: sfnet(20, batch_norm=True), False),
        ("sfnet4", lambda: sfnet(4), False),
        ("iresnet18", lambda: iresnet(18), False),
        *(
            pytest.param(f"iresnet{n}", lambda n=n: iresnet(n), False, marks=pytest.mark.slow)
            for n in (34, 50, 100)
        ),
    ],
)
def test_models_agree_with_pytorch(
    network: str,
    weights: Callable[[], Weights],
    told: bool,
    crops: np.ndarray,
    tmp_path: pathlib.Path,
) -> None:
    arrays, path = weights(), tmp_path / "backbone_70000.pth"
    torch.save({f"module.{k}": torch.from_numpy(v) for k, v in arrays.items()}, path)
    converted = convert_opensphere(path, network if told else None)
    assert converted.metadata["description"].startswith(f"{network} of OpenSphere")
    images = normalised(crops)
    if network.startswith("iresnet"):
        wanted = iresnet_forward(ByTorch(arrays), images)
    else:
        wanted = sfnet_forward(ByTorch(arrays), images, not network.endswith("_deprecated"))
    assert_agrees(converted.model.predict_on_batch(images), wanted)


@needs_torch
@pytest.mark.parametrize("wrap", [lambda b: {"model": b, "step": 3}, lambda b: b])
def test_heads_and_optimisers_are_left_out(
    wrap: Callable[[Any], Any], tmp_path: pathlib.Path
) -> None:
    backbone = {name: torch.from_numpy(value) for name, value in sfnet(4).items()}
    path = tmp_path / "checkpoint_70000.pth"
    torch.save(wrap({"backbone": backbone, "head": {"w": torch.ones(5, DIM)}}), path)
    assert set(convert_opensphere(path).left_out) - {"step"} == {"head"}


def test_two_networks_of_one_shape_are_told_apart(read: Read) -> None:
    read(sfnet(10))
    message = (
        r"b.pth fits two networks of OpenSphere that compute different things: sfnet10 \(the sum, "
        r"then ReLU\) and sfnet10_deprecated \(ReLU, then the sum\). The `type` of the backbone in "
        r"the config.yml beside it says which; pass it, as in `--network sfnet10_deprecated`\."
    )
    with pytest.raises(DataError, match=message):
        convert_opensphere("b.pth")
    for network in ("sfnet20", "iresnet18", "nothing"):
        with pytest.raises(DataError, match=f"b.pth fits sfnet10, not {network}. Leave"):
            convert_opensphere("b.pth", network)
    read(sfnet(4, batch_norm=True))
    with pytest.raises(DataError, match="fits sfnet4, not sfnet4_deprecated"):
        convert_opensphere("b.pth", "sfnet4_deprecated")
    read(sfnet(4, first="conv"))
    with pytest.raises(DataError, match="fits sfnet4_deprecated, not sfnet4"):
        convert_opensphere("b.pth", "sfnet4")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fc.weight": None}, r"one of OpenSphere's networks: fc.weight is missing\."),
        ({"fc.weight": (8, 99)}, "fc has 99 inputs in place of 25088, those of a crop of 112x112"),
        ({"layer3.0.conv1.bias": None}, r"OpenSphere's sfnet4: layer3.0.conv1.bias is missing\."),
        ({"layer2.1.conv1.weight": (1,)}, "1, 2, 1, 1 blocks in its stages are those of no sfnet"),
        ({"prelu.weight": (64,)}, "1, 1, 1, 1 blocks in its stages are those of no iresnet"),
        ({"layer1.0.bn1.weight": (64,)}, r"sfnet4: layer1.0.bn1.weight is unexpected\."),
        ({"features.weight": (8,)}, r"sfnet4: layer1.0.bn1.weight, layer1.0.bn1.bias, .*missing"),
    ],
)
def test_other_weights_are_named(change: dict[str, Any], message: str, read: Read) -> None:
    changes = {name: shape and np.zeros(shape) for name, shape in change.items()}
    read({name: value for name, value in {**sfnet(4), **changes}.items() if value is not None})
    with pytest.raises(DataError, match=message):
        convert_opensphere("b.pth")


def test_the_command_writes_a_preset(
    read: Read, crops: np.ndarray, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = sfnet(10)
    read(weights, ("head",))
    path, out = tmp_path / "backbone.pth", tmp_path / "sfnet"
    path.write_bytes(b"any")
    command = ["zoo", "convert", str(path), "--from", "opensphere", "--out", str(out)]
    assert main(command) == 1
    assert "--network sfnet10_deprecated" in capsys.readouterr().err
    assert main([*command, "--network", "sfnet10_deprecated"]) == 0
    assert capsys.readouterr().out == f"Left out: head.\nPreset in {out}.\n"
    config, metadata = presets.read_config(out), presets.read_metadata(out)
    assert (config.channel_order, config.scale, config.offset) == ("RGB", 1 / 127.5, 127.5)
    assert (config.template, config.mirror) == ("arcface_112x112", "sum")
    assert config.arguments["add_first"] is False
    assert metadata["weights_licence"].startswith("unknown: see the source")
    assert "VGGFace2" in metadata["terms"] and "MIT" in metadata["terms"]
    assert metadata["converted_from"]["left_out"] == ["head"]
    [name] = zoo.check([str(out)])
    assert name[2], name
    [got] = FaceEmbedder.from_preset(out).embed(crops[:1])
    both = normalised(np.concatenate([crops[:1], crops[:1, :, ::-1]]))
    wanted = sfnet_forward(ByNumpy(weights), both, add_first=False).sum(axis=0)
    assert got @ wanted / np.linalg.norm(wanted) > 0.9999
