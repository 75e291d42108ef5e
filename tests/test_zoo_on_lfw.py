"""The published weights on real faces. Needs the research data; prints why where it skips."""

import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import spherekeras as sk
from spherekeras import presets
from spherekeras.data.detection import YuNetDetector
from spherekeras.evaluation import metrics
from spherekeras.evaluation.lfw import read_pairs

ROOT = pathlib.Path(__file__).resolve().parent.parent
NAMES = sorted(p.parent.name for p in (ROOT / "zoo").glob("*/config.json"))
DETECTOR = "models/face_detection_yunet_2026may.onnx"


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_tells_people_of_view_1_apart(name: str, data_folder: pathlib.Path) -> None:
    archive = data_folder / "lfw-deepfunneled.zip"
    pairs = read_pairs(archive, "pairsDevTest.txt")[::12]
    faces = sk.FaceEmbedder.from_preset(name, YuNetDetector(data_folder / DETECTOR))
    pictures = sorted({picture for pair in pairs for picture in (pair.first, pair.second)})
    with zipfile.ZipFile(archive) as zipped:
        crops = [faces.crop(zipped.read(f"lfw-deepfunneled/{p}")) for p in pictures]
    embeddings = dict(zip(pictures, faces.embed(np.stack(crops)), strict=True))
    similarities = [float(embeddings[p.first] @ embeddings[p.second]) for p in pairs]
    same = [pair.same for pair in pairs]
    assert 30 <= sum(same) <= len(same) - 30
    known = presets.read_metadata(ROOT / "zoo" / name)["metrics"][1]
    assert known["name"] == "LFW view 1"
    assert metrics.auc(similarities, same) > known["auc"] - 0.01


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", NAMES)
def test_evaluate_prints_the_cards_accuracy(name: str, data_folder: pathlib.Path) -> None:
    published = presets.read_metadata(ROOT / "zoo" / name)["metrics"][0]
    out = subprocess.run(
        [
            *(sys.executable, "-m", "spherekeras", "evaluate", name, "--protocol", "lfw"),
            *([] if published.get("subtract_mean", True) else ["--keep-mean"]),
            *("--data", str(data_folder / "lfw-deepfunneled.zip")),
            *("--detector-model", str(data_folder / DETECTOR)),
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    got = float(out.split("accuracy ")[1].split("%")[0])
    assert abs(got - 100 * published["accuracy"]) <= 0.2
