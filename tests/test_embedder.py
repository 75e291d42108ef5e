"""From pictures to embeddings and answers, with a network and a detector that are known."""

import pathlib
from typing import Any

import cv2
import keras
import numpy as np
import pytest

from spherekeras.data.detection import Face
from spherekeras.data.drawn_faces import draw_face, drawn_crops
from spherekeras.embedder import FaceEmbedder
from spherekeras.errors import DataError, ImageError, NoFaceError, PresetError
from spherekeras.presets import PresetConfig, build_backbone
from spherekeras.recipe import Backbone, Recipe
from spherekeras.training import preset_config

CONFIG = preset_config(Recipe("tiny", backbone=Backbone(depth=4, embedding_dim=16)))
THRESHOLDS = [
    {"far": 0.1, "threshold": 0.2, "tar": 0.9, "data": "a test"},
    {"far": 0.01, "threshold": 0.5, "tar": 0.7, "data": "a test"},
]


class Oracle:
    """Knows where the drawn faces are; finds nothing in a plain picture."""

    name = "oracle"

    def detect(self, image: np.ndarray) -> list[Face]:
        for identity in range(2):
            drawn = draw_face(identity)
            if image.shape == drawn.image.shape and np.array_equal(image, drawn.image):
                low, high = drawn.landmarks.min(axis=0), drawn.landmarks.max(axis=0)
                return [Face((*low, *(high - low)), drawn.landmarks, 1.0)]
        return []


@pytest.fixture(scope="module")
def faces() -> FaceEmbedder:
    metadata = {"thresholds": THRESHOLDS}
    keras.utils.set_random_seed(0)
    return FaceEmbedder(build_backbone(CONFIG), CONFIG, metadata, detector=Oracle())


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("photographs")
    for identity in range(2):
        image = draw_face(identity).image[..., ::-1]
        cv2.imwrite(str(folder / f"{identity}.png"), image)
    cv2.imwrite(str(folder / "empty.png"), np.full((160, 160, 3), 90, np.uint8))
    return [str(folder / name) for name in ("0.png", "1.png", "empty.png")]


def test_photographs_crops_and_lists_give_the_same_embeddings(
    faces: FaceEmbedder, photographs: list[str]
) -> None:
    crops = drawn_crops(range(2), 1)[0]
    by_path = faces.embed(photographs[:2])
    assert by_path.shape == (2, 16) and by_path.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(by_path, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(by_path, faces.embed(crops), atol=5e-6)
    np.testing.assert_allclose(by_path, faces.embed(list(crops)), atol=5e-6)
    np.testing.assert_allclose(by_path[:1], faces.embed(photographs[0]), atol=5e-6)
    np.testing.assert_allclose(by_path[:1], faces.embed(pathlib.Path(photographs[0])), atol=5e-6)
    np.testing.assert_allclose(by_path[:1], faces.embed(crops[0]), atol=5e-6)
    assert faces.embed([]).shape == (0, 16)


def test_preprocessing_is_the_configs(faces: FaceEmbedder) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (9, 112, 96, 3), np.uint8)
    raw = faces.backbone.predict((crops.astype("float64") - 127.5) / 128, verbose=0)
    got = faces.embed_crops(crops, normalize=False)
    np.testing.assert_allclose(got, raw, atol=1e-5)
    values = {**CONFIG.__dict__, "channel_order": "BGR"}
    swapped = FaceEmbedder(faces.backbone, PresetConfig(**values))
    np.testing.assert_allclose(
        swapped.embed_crops(crops[..., ::-1], normalize=False), raw, atol=1e-5
    )


def test_mirror_rules(faces: FaceEmbedder) -> None:
    crops = np.random.default_rng(0).integers(0, 256, (3, 112, 96, 3), np.uint8)
    plain = faces.embed_crops(crops, normalize=False)
    turned = faces.embed_crops(np.ascontiguousarray(crops[:, :, ::-1]), normalize=False)
    both = faces.embed_crops(crops, "sum", normalize=False)
    np.testing.assert_allclose(both, plain + turned, atol=1e-5)
    both = faces.embed_crops(crops, "concat", normalize=False)
    np.testing.assert_allclose(both, np.concatenate([plain, turned], axis=1), atol=1e-5)
    with pytest.raises(ValueError, match="'none', 'sum' or 'concat'. Received: 'both'"):
        faces.embed_crops(crops, "both")


def test_verification_says_what_the_threshold_says(
    faces: FaceEmbedder, photographs: list[str]
) -> None:
    a, b = faces.embed(photographs[:2])
    answer = faces.verify(photographs[0], photographs[1])
    assert answer.similarity == pytest.approx(float(a @ b), abs=5e-6)
    assert (answer.threshold, answer.far, answer.data) == (0.5, 0.01, "a test")
    assert answer.same == (answer.similarity >= 0.5)
    assert faces.verify(photographs[0], photographs[0]).same
    assert faces.verify(*photographs[:2], far=0.1).threshold == 0.2
    assert not faces.verify(*photographs[:2], threshold=1.01).same
    with pytest.raises(ImageError, match="one face with one face. Received: 2 and 1"):
        faces.verify(drawn_crops(range(2), 1)[0], photographs[0])
    with pytest.raises(PresetError, match="a FAR or a threshold .*far=0.1, threshold=0.3"):
        faces.verify(*photographs[:2], far=0.1, threshold=0.3)
    with pytest.raises(PresetError, match="threshold=nan"):
        faces.verify(*photographs[:2], threshold=float("nan"))
    assert faces.verify(*photographs[:2], threshold=-1.0).far is None
    with pytest.raises(PresetError, match=r"no threshold at FAR 0.5; it has 0.1, 0.01"):
        faces.verify(*photographs[:2], far=0.5)
    with pytest.raises(PresetError, match=r"carries no threshold. Give one: `faces.verify"):
        FaceEmbedder(faces.backbone, CONFIG).verify(*drawn_crops(range(2), 1)[0])


def test_verification_gives_the_calibrated_probability(
    faces: FaceEmbedder, photographs: list[str], tmp_path: pathlib.Path
) -> None:
    assert faces.verify(*photographs[:2]).probability is None
    calibration = {
        **{"method": "logistic", "fitted_prior": 0.4, "prior": 0.25},
        **{"slope": 3.0, "intercept": -1.0, "data": "a test"},
    }
    known = FaceEmbedder(
        faces.backbone, CONFIG, {**faces.metadata, "calibration": calibration}, Oracle()
    )
    answer = known.verify(*photographs[:2])
    # Bayes: odds at the fitted prior, times what the prior's odds are of the fitted prior's.
    odds = np.exp(3 * answer.similarity - 1) * (0.25 / 0.75) / (0.4 / 0.6)
    assert answer.probability == pytest.approx(odds / (1 + odds), rel=1e-9)
    assert known.verify(*photographs[:2], threshold=0.9).probability == answer.probability
    known.save_preset(tmp_path / "preset")
    card = (tmp_path / "preset" / "README.md").read_text()
    assert (
        "\n`verify` gives a probability too (logistic), where 25% of all pairs are one person's; "
        "fitted on a test.\n"
    ) in card
    broken = FaceEmbedder(faces.backbone, CONFIG, {**known.metadata, "calibration": {}}, Oracle())
    with pytest.raises(DataError, match="Expected a calibration as `to_dict` writes it"):
        broken.verify(*photographs[:2])


def test_a_picture_without_a_face_is_named(faces: FaceEmbedder, photographs: list[str]) -> None:
    with pytest.raises(NoFaceError, match=r"No face was found in .*empty.png") as caught:
        faces.verify(photographs[0], photographs[2])
    assert caught.value.source == photographs[2]


@pytest.mark.parametrize(
    "crop",
    [
        np.zeros((96, 112, 3), np.uint8),
        np.zeros((112, 96, 3), np.float32),
        np.zeros((112, 96), np.uint8),
        np.zeros((2, 112, 96, 4), np.uint8),
        np.zeros((1, 2, 112, 96, 3), np.uint8),
    ],
)
def test_arrays_that_are_no_crops_are_named(faces: FaceEmbedder, crop: Any) -> None:
    with pytest.raises(ImageError, match=r"112.*96.*uint8|uint8.*112.*96"):
        faces.embed(crop)


def test_files_that_are_no_pictures_are_named(faces: FaceEmbedder, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ImageError, match=r"none.jpg"):
        faces.embed(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("no picture")
    with pytest.raises(ImageError, match=r"text.jpg"):
        faces.embed(str(tmp_path / "text.jpg"))
    image = cv2.imencode(".jpg", draw_face(0).image)[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(image[: len(image) // 2])
    with pytest.raises(ImageError, match=r"cut.jpg"):
        faces.embed(tmp_path / "cut.jpg")


def test_centre_crop_has_the_crops_size(faces: FaceEmbedder) -> None:
    picture = np.zeros((250, 250, 3), np.uint8)
    picture[69:181, 77:173] = 200
    crop = faces.centre_crop(picture)
    assert crop.shape == (112, 96, 3) and crop.dtype == np.uint8
    assert (crop == 200).mean() > 0.95
