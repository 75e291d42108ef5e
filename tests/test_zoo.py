"""A zoo's cards and table are made from what was measured, and stale numbers are refused."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

from spherekeras import card, presets, zoo
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import PresetError
from spherekeras.files import sha256
from spherekeras.presets import PresetConfig

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = PresetConfig(
    "SphereFaceNet",
    {"depth": 4, "embedding_dim": 16, "input_shape": [112, 96, 3]},
    "sphereface_112x96",
    112,
    96,
    1 / 128,
    127.5,
)
METRIC = {"name": "LFW view 2", "value": "77.00 % ± 1.00", "protocol": "Ten folds."}


@pytest.fixture
def measured(tmp_path: pathlib.Path) -> pathlib.Path:
    """A zoo of one measured preset."""
    folder = tmp_path / "zoo" / "mine"
    faces = FaceEmbedder(presets.build_backbone(CONFIG), CONFIG)
    faces.save_preset(folder)
    faces.save_preset(folder, metadata={"metrics": [METRIC], "measured": presets.stamp(folder)})
    return folder


def _sum(folder: pathlib.Path, name: str) -> None:
    """Makes the checksum of a file right again."""
    lines = (folder / presets.SUMS).read_text().splitlines()
    lines = [line for line in lines if not line.endswith(f"  {name}")]
    (folder / presets.SUMS).write_text(
        "\n".join([*lines, f"{sha256(folder / name)}  {name}"]) + "\n"
    )


def test_a_card_that_was_changed_by_hand_is_written_anew(measured: pathlib.Path) -> None:
    page = measured / "README.md"
    right = page.read_text()
    page.write_text(right.replace("77.00", "99.99"))
    assert zoo.write_cards(measured.parent) == ["mine"]
    assert page.read_text() == right
    presets.check_files(measured)
    assert "77.00 % ± 1.00" in (measured.parent / "README.md").read_text()
    assert zoo.write_cards(measured.parent) == []


@pytest.mark.parametrize("name", ["model.weights.h5", "config.json"])
def test_numbers_of_other_weights_are_refused(measured: pathlib.Path, name: str) -> None:
    if name == "config.json":
        changed = json.loads((measured / name).read_text()) | {"scale": 1 / 127.5}
        (measured / name).write_text(json.dumps(changed))
    else:
        faces = FaceEmbedder(presets.build_backbone(CONFIG), CONFIG)
        presets.write_weights(faces.backbone, measured / name)
    card_before = (measured / "README.md").read_bytes()
    with pytest.raises(PresetError, match="does not match its line in SHA256SUMS"):
        zoo.write_cards(measured.parent)
    _sum(measured, name)
    with pytest.raises(PresetError, match=f"The numbers of .*mine are stale: {name} is another"):
        zoo.write_cards(measured.parent)
    assert (measured / "README.md").read_bytes() == card_before


def test_a_preset_that_was_never_measured_gets_no_card(tmp_path: pathlib.Path) -> None:
    FaceEmbedder(presets.build_backbone(CONFIG), CONFIG).save_preset(tmp_path / "mine")
    with pytest.raises(PresetError, match="mine has no measurement to make a card of. Measure it:"):
        zoo.write_cards(tmp_path)
    assert not (tmp_path / "README.md").exists()


def test_the_cards_of_this_zoo_say_what_was_measured() -> None:
    folders = [path.parent for path in (ROOT / "zoo").glob("*/metadata.json")]
    assert folders
    for folder in folders:
        metadata = presets.read_metadata(folder)
        assert metadata["measured"] == presets.stamp(folder)
        text = card.card(metadata, presets.read_config(folder))
        assert (folder / "README.md").read_text(encoding="utf-8") == text


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_golden_vectors_hold_on_every_backend(backend: str) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed, so the zoo was not checked on it")
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "SPHEREKERAS_ZOO": str(ROOT / "zoo"),
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", "spherekeras", "zoo", "check"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    good = [line for line in done.stdout.splitlines() if line.startswith("good")]
    assert len(good) == len(list((ROOT / "zoo").glob("*/config.json")))


def test_latency_is_kept_beside_what_else_was_measured(measured: pathlib.Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is an extra")
    assert zoo.write_cards(measured.parent, latency=True) == ["mine"]
    metadata = presets.read_metadata(measured)
    assert metadata["latency"]["milliseconds"] > 0 and metadata["latency"]["ratio"] == 1
    assert metadata["metrics"] == [METRIC]
    assert (
        f"{metadata['latency']['milliseconds']} ms, 1.0 times"
        in (measured / "README.md").read_text()
    )
    FaceEmbedder.from_preset(measured).check_golden()


def test_presets_are_compared_side_by_side(
    measured: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is an extra")
    monkeypatch.setenv("SPHEREKERAS_ZOO", str(measured.parent))
    row = zoo.compare(["mine"])[0]
    assert row["ratio"] == "1.00" and float(row["here"].split(" ms")[0]) > 0
    assert row["multiplications"] == "154M"
    table = zoo.text_table([row]).splitlines()
    assert table[0].split()[-2:] == ["here", "ratio"] and table[1].startswith("mine ")


def test_a_page_that_is_no_table_is_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "README.md").write_text("# My project\n")
    with pytest.raises(PresetError, match="is not a zoo's table and is left as it is"):
        zoo.write_table(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My project\n"


def test_a_table_without_rows_says_so() -> None:
    assert zoo.text_table([]) == "The zoo is empty."
