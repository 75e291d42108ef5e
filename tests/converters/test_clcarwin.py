"""clcarwin's sphere20a: against the same network in PyTorch, on random weights."""

import pathlib
from typing import Any

import numpy as np
import pytest

from spherekeras import presets, zoo
from spherekeras.converters import convert_clcarwin
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import DataError

torch = pytest.importorskip("torch", reason="PyTorch is not installed: `pip install torch`")
DIM = 16
Weights = dict[str, Any]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Random weights of sphere20a with a short embedding, and a classifier of five people."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, std: float) -> Any:
        return torch.randn(*shape, generator=generator) * std

    made = {}
    inputs = 3
    for stage, (convolutions, outputs) in enumerate(((3, 64), (5, 128), (9, 256), (3, 512)), 1):
        for number in range(1, convolutions + 1):
            std = (9 * inputs) ** -0.5
            made[f"conv{stage}_{number}.weight"] = normal(outputs, inputs, 3, 3, std=std)
            made[f"conv{stage}_{number}.bias"] = normal(outputs, std=0.3)
            made[f"relu{stage}_{number}.weight"] = normal(outputs, std=0.3)
            inputs = outputs
    made["fc5.weight"] = normal(DIM, 512 * 7 * 6, std=(512 * 7 * 6) ** -0.5)
    made["fc5.bias"] = normal(DIM, std=0.3)
    made["fc6.weight"] = normal(DIM, 5, std=1.0)
    return made


def forward(weights: Weights, images: np.ndarray) -> np.ndarray:
    """The embeddings of (n, 112, 96, 3)."""
    functional = torch.nn.functional

    def unit(x: Any, name: str, stride: int) -> Any:
        kernel, bias = weights[f"conv{name}.weight"], weights[f"conv{name}.bias"]
        x = functional.conv2d(x, kernel, bias, stride=stride, padding=1)
        return functional.prelu(x, weights[f"relu{name}.weight"])

    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    for stage, units in ((1, 1), (2, 2), (3, 4), (4, 1)):
        x = unit(x, f"{stage}_1", 2)
        for first in range(2, 2 * units + 2, 2):
            x = x + unit(unit(x, f"{stage}_{first}", 1), f"{stage}_{first + 1}", 1)
    return functional.linear(x.flatten(1), weights["fc5.weight"], weights["fc5.bias"]).numpy()


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (2, 112, 96, 3), dtype=np.uint8)


def normalised(crops: np.ndarray) -> np.ndarray:
    return (crops.astype(np.float32) - 127.5) / 128


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("zipped", [True, False])
def test_model_agrees_with_pytorch(
    prefix: str, zipped: bool, weights: Weights, crops: np.ndarray, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "sphere20a.pth"
    named = {prefix + name: value for name, value in weights.items()}
    torch.save(named, path, _use_new_zipfile_serialization=zipped)
    converted = convert_clcarwin(path)
    assert converted.left_out == ("fc6.weight",)
    assert converted.config["arguments"] == {
        "depth": 20,
        "embedding_dim": DIM,
        "input_shape": [112, 96, 3],
        "residual_bias": True,
    }
    wanted = forward(weights, normalised(crops))
    got = np.asarray(converted.model.predict_on_batch(normalised(crops)))
    for ours, theirs in zip(got, wanted, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-4 * np.linalg.norm(theirs)


def test_a_preset_takes_rgb(weights: Weights, crops: np.ndarray, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "sphere20a.pth"
    torch.save(weights, path)
    out = zoo.convert(path, "clcarwin", tmp_path / "clcarwin20")
    config, metadata = presets.read_config(out), presets.read_metadata(out)
    assert (config.channel_order, config.scale, config.offset) == ("BGR", 1 / 128, 127.5)
    assert (config.template, config.mirror) == ("sphereface_112x96", "none")
    assert metadata["weights_licence"].startswith("unknown: see the source")
    assert "CASIA-WebFace, whose agreement allows research only" in metadata["terms"]
    assert metadata["converted_from"]["sha256"] == presets.sha256(path)
    got = FaceEmbedder.from_preset(out).embed(crops)
    wanted = forward(weights, normalised(crops[..., ::-1]))
    cosines = np.sum(got * wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    assert cosines.min() > 0.9999
    wrong = forward(weights, normalised(crops))
    assert (np.sum(got * wrong, axis=1) / np.linalg.norm(wrong, axis=1)).max() < 0.99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv4_3.bias": None}, r"is not clcarwin's sphere20a: conv4_3.bias is missing\."),
        ({"fc5.weight": None}, r"fc5.weight is missing\."),
        ({"bn.weight": (3,)}, r"sphere20a: bn.weight is unexpected\."),
        ({"relu2_1.weight": (1,)}, r"relu2_1.weight is \(1,\) in place of \(128,\)\."),
        ({"conv1_4.weight": (64, 64, 3, 3)}, "4, 5, 9, 3 convolutions in its stages are those of"),
    ],
)
def test_other_weights_are_named(
    change: dict[str, Any], message: str, weights: Weights, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "sphere20a.pth"
    changes = {name: shape and torch.zeros(*shape) for name, shape in change.items()}
    changed = {name: value for name, value in {**weights, **changes}.items() if value is not None}
    torch.save(changed, path)
    with pytest.raises(DataError, match=message):
        convert_clcarwin(path)
