"""A zoo's cards and table are made from what was measured, and stale numbers are refused."""

import importlib.util
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from spherekeras import card, presets, zoo, zoo_pages
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import PresetError
from spherekeras.files import sha256
from spherekeras.recipe import Backbone, Recipe
from spherekeras.training import preset_config

ROOT = pathlib.Path(__file__).resolve().parent.parent
CONFIG = preset_config(Recipe("tiny", backbone=Backbone(depth=4, embedding_dim=16)))
METRIC = {
    "name": "LFW view 2",
    "value": "77.00 % ± 1.00",
    "protocol": "Ten folds.",
    "pairs": 6000,
    "pictures": 7701,
    "no_face": 2,
    "accuracy": 0.77,
    "std": 0.01,
    "auc": 0.9,
    "eer": 0.2,
    "tar_at_far": {"0.1": 0.5, "0.001": None},
    "unmeasured": {"0.001": "too few pairs"},
    "intervals": {
        "accuracy": [0.76, 0.78],
        "auc": [0.89, 0.91],
        "eer": None,
        "tar_at_far_0.1": [0.4, 0.6],
    },
    "detector": "middle",
    "command": "spherekeras evaluate mine",
    "measured_with": "keras 3",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("made") / "mine"
    faces = FaceEmbedder(presets.build_backbone(CONFIG), CONFIG)
    faces.save_preset(folder)
    metadata = {"name": "mine", "metrics": [METRIC], "measured": presets.stamp(folder)}
    return faces.save_preset(folder, metadata=metadata)


@pytest.fixture
def measured(made: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    """A zoo of one measured preset."""
    return pathlib.Path(shutil.copytree(made, tmp_path / "zoo" / "mine"))


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
    assert zoo_pages.write_cards(measured.parent) == ["mine"]
    assert page.read_text() == right
    presets.check_files(measured)
    assert "77.00 % ± 1.00" in (measured.parent / "README.md").read_text()
    assert zoo_pages.write_cards(measured.parent) == []


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
        zoo_pages.write_cards(measured.parent)
    _sum(measured, name)
    with pytest.raises(PresetError, match=f"The numbers of .*mine are stale: {name} is another"):
        zoo_pages.write_cards(measured.parent)
    assert (measured / "README.md").read_bytes() == card_before


def test_a_preset_that_was_never_measured_gets_no_card(tmp_path: pathlib.Path) -> None:
    FaceEmbedder(presets.build_backbone(CONFIG), CONFIG).save_preset(tmp_path / "mine")
    with pytest.raises(PresetError, match="mine has no measurement to make a card of. Measure it:"):
        zoo_pages.write_cards(tmp_path)
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
    assert zoo_pages.write_cards(measured.parent, latency=True) == ["mine"]
    metadata = presets.read_metadata(measured)
    assert metadata["latency"]["milliseconds"] > 0 and metadata["latency"]["ratio"] == 1
    assert metadata["metrics"] == [METRIC]
    assert (
        f"{metadata['latency']['milliseconds']} ms, 1.00 times that of the zoo's fastest"
        in (measured / "README.md").read_text()
    )
    FaceEmbedder.from_preset(measured).check_golden()


def test_presets_are_compared_side_by_side(
    measured: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is an extra")
    monkeypatch.setenv("SPHEREKERAS_ZOO", str(measured.parent))
    row = zoo.compare(["mine"])[0]
    assert row["ratio"] == 1 and row["here"] > 0
    table = zoo.text_table([row]).splitlines()
    assert table[0].split()[-2:] == ["here", "ratio"]
    assert table[1].startswith("mine ") and " 154M " in table[1]


def test_a_damaged_preset_is_shown_and_does_not_stop_the_others(
    measured: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is an extra")
    monkeypatch.setenv("SPHEREKERAS_ZOO", str(measured.parent))
    lame = shutil.copytree(measured, measured.parent / "lame")
    (lame / "model.weights.h5").unlink()
    odd = shutil.copytree(measured, measured.parent / "odd")
    (odd / "metadata.json").write_text('{"metrics": [{}]}')
    rows = {row["name"]: row for row in zoo.rows(["lame", "mine", "odd"])}
    assert rows["lame"]["lfw"].startswith("damaged: FileNotFoundError")
    assert rows["odd"]["lfw"] == "damaged: KeyError 'name'"
    assert set(rows["odd"]) == set(rows["mine"])
    here = shutil.copytree(measured, tmp_path / "here" / "mine")
    (here / "model.weights.h5").unlink()
    monkeypatch.chdir(here.parent)  # a folder of that name is not the zoo's
    assert [row["name"] for row in zoo.compare(["lame", "mine", "odd"])] == ["mine"]
    assert zoo.fetch("mine") == measured
    for path in ("./mine", str(here)):  # a path is no name
        with pytest.raises(PresetError, match=r"Unknown preset '.*mine': a folder, not a name in"):
            zoo.fetch(path)
    assert "damaged: KeyError" in zoo.text_table(list(rows.values()))
    half = shutil.copytree(measured, measured.parent / "half")
    (half / "metadata.json").unlink()
    zoo_pages.write_table(measured.parent)
    table = (measured.parent / "README.md").read_text()
    assert "| [half](half/README.md) | - | - | - | - | damaged | - |" in table
    assert "| [mine](mine/README.md) | SphereFaceNet(4) | " in table and str(tmp_path) not in table


def test_latency_among_other_presets_is_stale(measured: pathlib.Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is an extra")
    zoo_pages.write_cards(measured.parent, latency=True)
    other = shutil.copytree(measured, measured.parent / "other")
    metadata = presets.read_metadata(other) | {"name": "other"}
    presets.write_preset(other, {"metadata.json": presets.to_json(metadata)})
    with pytest.raises(PresetError, match="mine was measured among other presets .* --latency"):
        zoo_pages.write_cards(measured.parent)
    assert sorted(zoo_pages.write_cards(measured.parent, latency=True)) == ["mine", "other"]
    assert zoo_pages.write_cards(measured.parent) == []


def test_a_copied_preset_needs_its_own_name(measured: pathlib.Path) -> None:
    shutil.copytree(measured, measured.parent / "other")
    with pytest.raises(PresetError, match="other is the preset 'mine'. Give it its own name"):
        zoo_pages.write_cards(measured.parent)


def test_check_tells_of_every_copy_and_goes_on(
    measured: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(measured, cache / "presets" / "mine")
    shutil.copytree(measured, measured.parent / "other")
    monkeypatch.setattr(presets, "_zoos", lambda: [measured.parent, cache / "presets"])
    (cache / "presets" / "mine" / "model.weights.h5").write_bytes(b"half")
    first, second, other = zoo.check()
    assert (first[0], first[2]) == (str(measured), True)
    assert (second[0], second[2]) == (str(cache / "presets" / "mine"), False)
    assert "model.weights.h5 does not match its line" in second[1]
    assert (other[0], other[2]) == ("other", True)
    assert list(zoo.check(["o*"])) == [other]
    rows = zoo.rows(["o*"])
    lame = shutil.copytree(measured, tmp_path / "here" / "other")
    (lame / "config.json").unlink()
    monkeypatch.chdir(tmp_path / "here")  # a folder of that name is not the zoo's
    assert list(zoo.check(["o*"])) == [other] and zoo.rows(["o*"]) == rows
    with pytest.raises(
        PresetError, match=r"No name of a preset .* fits 'x\*'. Known presets: mine, other"
    ):
        list(zoo.check(["x*"]))
    [unknown] = zoo.check(["mime"])
    assert not unknown[2] and "Did you mean 'mine'?" in unknown[1]
    (cache / "presets" / "mine" / "config.json").unlink()
    (measured.parent / "other" / "config.json").unlink()
    assert [good for _, _, good in zoo.check()] == [True, False, False]
    assert [row["place"] for row in zoo.rows()] == ["zoo", "damaged"]
    odd = pathlib.Path(shutil.copytree(measured, tmp_path / "runs [2]" / "mine"))
    assert zoo.spelled(str(odd)) == [str(odd)]
    assert [good for _, _, good in zoo.check([str(odd)])] == [True]
    monkeypatch.setattr(presets, "_zoos", lambda: [tmp_path / "nowhere"])
    with pytest.raises(PresetError, match="No presets are here"):
        list(zoo.check())


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (None, "does not hold crops and an embedding of each"),
        ({}, "does not hold crops and an embedding of each"),
        ({"crops": np.zeros((2, 112, 96, 3), np.uint8)}, "does not hold crops and an embedding"),
        (
            {"crops": np.zeros((0, 112, 96, 3), np.uint8), "embeddings": np.zeros((0, 16))},
            "does not hold crops and an embedding",
        ),
        ({"crops": np.uint8(0), "embeddings": np.zeros(())}, "does not hold crops and an embed"),
        (
            {"crops": np.zeros((1, 112, 96, 3), np.uint8), "embeddings": np.array(["x"])},
            "does not hold crops and an embedding",
        ),
        (
            {"crops": np.zeros((2, 112, 96, 3), np.uint8), "embeddings": np.zeros((2, 8))},
            r"embeddings of shape \(2, 8\); the network gives \(2, 16\)",
        ),
    ],
)
def test_golden_vectors_that_are_none_are_a_bad_preset(
    measured: pathlib.Path, arrays: dict[str, np.ndarray] | None, message: str
) -> None:
    if arrays is None:
        np.save(measured / "golden.npy", np.zeros(3))  # an array, no archive of them
        (measured / "golden.npy").rename(measured / "golden.npz")
    elif not arrays:
        (measured / "golden.npz").write_text("no archive")
    else:
        np.savez(measured / "golden.npz", **arrays)
    _sum(measured, "golden.npz")
    [(name, verdict, good)] = zoo.check([str(measured)])
    assert not good and name == str(measured)
    assert re.search(message, verdict), verdict


def test_a_headline_that_its_own_figures_do_not_make_is_refused(measured: pathlib.Path) -> None:
    metadata = (measured / "metadata.json").read_text(encoding="utf-8")
    better = metadata.replace("77.00 % ", "97.00 % ")
    assert better != metadata
    (measured / "metadata.json").write_text(better, encoding="utf-8")
    _sum(measured, "metadata.json")
    with pytest.raises(PresetError, match="2 97.00 % ± 1.00, but accuracy .* make 77.00 % ± "):
        zoo_pages.write_cards(measured.parent)


def test_a_wrong_checksum_of_a_card_is_mended(measured: pathlib.Path) -> None:
    sums = measured / presets.SUMS
    lines = sums.read_text().splitlines()
    sums.write_text("\n".join("0" * 64 + n[64:] if "README" in n else n for n in lines) + "\n")
    assert zoo_pages.write_cards(measured.parent) == ["mine"]
    presets.check_files(measured)


def test_a_folder_without_presets_is_no_zoo(tmp_path: pathlib.Path) -> None:
    with pytest.raises(PresetError, match="holds no preset. Give the folder that holds their fold"):
        zoo_pages.write_cards(tmp_path)
    with pytest.raises(PresetError, match="nowhere is no folder. Give the one that holds the pres"):
        zoo_pages.write_cards(tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


def test_a_card_reads_as_markdown(measured: pathlib.Path) -> None:
    lines = (measured / "README.md").read_text().split("\n")
    for number, line in enumerate(lines):
        if line.startswith("#") and number:
            assert lines[number - 1] == "" == lines[number + 1], line
        if line.startswith("| | |"):
            assert lines[number - 1] == ""
        assert not (line == "" and number + 2 < len(lines) and lines[number + 1] == "")
    text = "\n".join(lines)
    assert "| accuracy | 77.00 % (76.00 to 78.00 %) |" in text
    assert "| EER | 20.00 % |" in text and "| AUC | 0.90000 (0.89000 to 0.91000) |" in text
    assert "| TAR at FAR 0.001 | not measured: too few pairs |" in text
    assert "| pictures without a face | 2 of 7,701; detector middle |" in text


def test_a_page_that_is_no_table_is_left_alone(tmp_path: pathlib.Path) -> None:
    page = tmp_path / "README.md"
    for content in (b"# My project\n", b"# ZooKeeper client\n", b"# Zoo\n\nOf my town.\n", b"\xff"):
        page.write_bytes(content)
        with pytest.raises(PresetError, match="is not a zoo's table and is left as it is"):
            zoo_pages.write_table(tmp_path)
        assert page.read_bytes() == content
    page.write_text("# Zoo\n\nOf an older version.\n\n| preset | backbone | parameters | LFW |\n")
    zoo_pages.write_table(tmp_path)
    zoo_pages.write_table(tmp_path)  # over its own


def test_the_table_says_of_what_was_measured_alone_how(measured: pathlib.Path) -> None:
    new = shutil.copytree(measured, measured.parent / "new")
    metadata = presets.read_metadata(new)
    presets.write_preset(
        new, {"metadata.json": presets.to_json(presets.unmeasured({**metadata, "name": "new"}))}
    )
    zoo_pages.write_table(measured.parent)
    text = (measured.parent / "README.md").read_text()
    assert "| [new](new/README.md) |" in text and "does: `mine`." in text


def test_a_table_without_rows_says_so() -> None:
    assert zoo.text_table([]) == "The zoo is empty."


def test_a_row_holds_the_accuracy_as_a_number_too(measured: pathlib.Path) -> None:
    row = zoo.row(measured)
    assert row["lfw"] == "77.00 % ± 1.00"
    assert (row["lfw_accuracy"], row["lfw_interval"]) == (0.77, [0.76, 0.78])
    (measured / "config.json").write_text("{")
    damaged = zoo.row(measured)
    assert (damaged["lfw_accuracy"], damaged["lfw_interval"]) == (None, None)
    assert damaged["lfw"].startswith("damaged: ")
