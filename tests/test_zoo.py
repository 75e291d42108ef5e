"""Publishing: measured on LFW by the project itself, written into the card and the table."""

import pathlib

import cv2
import numpy as np
import pytest

from spherekeras import presets, zoo
from spherekeras.data.detection import Face
from spherekeras.data.drawn_faces import draw_face, drawn_crops
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import PresetError
from spherekeras.presets import PresetConfig

CONFIG = PresetConfig(
    "SphereFaceNet",
    {"depth": 4, "embedding_dim": 16, "input_shape": [112, 96, 3]},
    "sphereface_112x96",
    112,
    96,
    1 / 128,
    127.5,
)


class Middle:
    """A detector that finds every face in the middle."""

    name = "middle"

    def detect(self, image: np.ndarray) -> list[Face]:
        landmarks = draw_face(0, 0, image.shape[:2]).landmarks
        return [Face((0.0, 0.0, 1.0, 1.0), landmarks, 1.0)]


@pytest.fixture
def lfw(tmp_path: pathlib.Path) -> pathlib.Path:
    root = tmp_path / "lfw"
    lines = ["10\t1"]
    for fold in range(10):
        for name, identity in ((f"A{fold}", 2 * fold), (f"B{fold}", 2 * fold + 1)):
            (root / name).mkdir(parents=True)
            for picture in (1, 2):
                image = draw_face(identity, picture, (120, 120)).image[..., ::-1]
                cv2.imwrite(str(root / name / f"{name}_{picture:04d}.jpg"), image)
        lines += [f"A{fold}\t1\t2", f"A{fold}\t1\tB{fold}\t1"]
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    for part, folds in (("Train", [0, 1]), ("Test", [1, 2, 3])):
        same = [f"{kind}{fold}\t1\t2" for fold in folds for kind in "AB"]
        different = [f"A{fold}\t{k}\tB{fold}\t1" for fold in folds for k in (1, 2)]
        text = "\n".join([str(len(same)), *same, *different]) + "\n"
        (root / f"pairsDev{part}.txt").write_text(text)
    return root


def test_publish_measures_and_writes_card_and_table(
    lfw: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    faces = FaceEmbedder(presets.build_backbone(CONFIG), CONFIG, {"terms": "None."})
    trained = faces.save_preset(tmp_path / "trained", recipe="[data]\n")
    folder = zoo.publish(trained, tmp_path / "zoo" / "mine", lfw, Middle())
    again = FaceEmbedder.from_preset(folder)
    metric = again.metadata["metrics"][0]
    assert metric["name"] == "LFW view 2" and metric["pairs"] == 20
    calibration = again.metadata["calibration"]
    assert calibration["data"].startswith(
        "the 12 pairs of LFW's pairsDevTest.txt, faces found by middle; expected calibration error"
    )
    assert calibration["prior"] == 0.5
    answer = again.verify(*drawn_crops(range(2), 1)[0], threshold=0.5)
    assert 0 < answer.probability < 1
    assert calibration["data"] in (folder / "README.md").read_text()
    assert again.metadata["name"] == "mine" and again.metadata["versions"]["keras"]
    card = (folder / "README.md").read_text()
    assert metric["value"] in card and "10 folds" in card and "middle" in card
    assert (folder / "recipe.toml").read_text() == "[data]\n"
    table = (tmp_path / "zoo" / "README.md").read_text()
    parameters = f"{again.metadata['parameters']:,}"
    assert f"| [mine](mine/README.md) | SphereFaceNet(4) | {parameters} |" in table
    assert metric["value"] in table


def test_a_page_that_is_no_table_is_left_alone(tmp_path: pathlib.Path) -> None:
    (tmp_path / "README.md").write_text("# My project\n")
    with pytest.raises(PresetError, match="is not a zoo's table and is left as it is"):
        zoo.write_table(tmp_path)
    assert (tmp_path / "README.md").read_text() == "# My project\n"


def test_a_table_without_rows_says_so() -> None:
    assert zoo.text_table([]) == "The zoo is empty."
