import concurrent.futures
import hashlib
import importlib.util
import os
import pathlib
import zipfile

import cv2
import numpy as np
import pytest

from spherekeras.data import alignment, detection, images
from spherekeras.data.detection import Face
from spherekeras.data.drawn_faces import draw_face
from spherekeras.errors import DataError, ImageError

DATA = pathlib.Path(
    os.environ.get("SPHEREKERAS_DATA", pathlib.Path(__file__).parents[3] / "shared" / "data")
)
MODELS = ("face_detection_yunet_2026may", "yunet_n_320_320")
# LFW view 1 (pairsDevTrain) names these.
PEOPLE = ("Aaron_Peirsol_0001", "AJ_Lamas_0001", "Aaron_Tippin_0001", "Abbas_Kiarostami_0001")
SWAP = [1, 0, 2, 4, 3]


def model(name):
    path = DATA / "models" / f"{name}.onnx"
    if not path.is_file():
        pytest.skip(f"no {path}; set SPHEREKERAS_DATA")
    return path


@pytest.fixture(scope="module")
def photographs():
    path = DATA / "lfw-deepfunneled.zip"
    if not path.is_file():
        pytest.skip(f"no {path}; set SPHEREKERAS_DATA")
    with zipfile.ZipFile(path) as archive:
        return [
            images.read_image(archive.read(f"lfw-deepfunneled/{name[:-5]}/{name}.jpg"))
            for name in PEOPLE
        ]


@pytest.fixture(scope="module", params=MODELS)
def yunet(request):
    return detection.YuNetDetector(model(request.param))


def subject(detector, image):
    return detection.choose_face(detector.detect(image), image.shape)


def scaled(image, factor):
    mode = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, None, fx=factor, fy=factor, interpolation=mode)


def test_the_subject_of_a_photograph_is_found(yunet, photographs):
    for image in photographs:
        face = subject(yunet, image)
        x, y, width, height = face.box
        assert 50 < x < x + width < 200 and 40 < y < y + height < 220
        left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
        assert left_eye[0] < nose[0] < right_eye[0]
        assert left_mouth[0] < right_mouth[0]
        assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
        assert 0.6 < face.score <= 1.0
        assert face.landmarks.dtype == np.float64


def test_a_mirrored_photograph_has_mirrored_landmarks(yunet, photographs):
    for image in photographs:
        there = subject(yunet, image).landmarks
        back = subject(yunet, np.ascontiguousarray(image[:, ::-1])).landmarks[SWAP]
        back = back * [-1, 1] + [image.shape[1] - 1, 0]
        np.testing.assert_allclose(there, back, atol=3.5)


@pytest.mark.parametrize("factor", [0.2, 0.5, 2.0, 8.0])
def test_tiny_and_huge_pictures_give_the_same_landmarks(yunet, photographs, factor):
    for image in photographs[:2]:
        there = subject(yunet, image).landmarks
        back = (subject(yunet, scaled(image, factor)).landmarks + 0.5) / factor - 0.5
        np.testing.assert_allclose(there, back, atol=7 if factor == 0.2 else 3.5)


def test_a_tilted_face_gives_tilted_landmarks(yunet, photographs):
    for image in photographs[:2]:
        turn = cv2.getRotationMatrix2D((124.5, 124.5), 30, 1.0)
        tilted = cv2.warpAffine(image, turn, (250, 250))
        there = subject(yunet, image).landmarks @ turn[:, :2].T + turn[:, 2]
        np.testing.assert_allclose(subject(yunet, tilted).landmarks, there, atol=4)


def test_a_small_face_in_a_large_photograph_is_found(yunet, photographs):
    photograph = np.full((2000, 3000, 3), 90, np.uint8)
    photograph[1500:1750, 2400:2650] = photographs[0]
    there = subject(yunet, photographs[0]).landmarks + np.array([2400, 1500])
    np.testing.assert_allclose(subject(yunet, photograph).landmarks, there, atol=4)


@pytest.mark.parametrize("place", ["fills the picture", "is tiny"])
def test_a_face_not_found_at_first_is_looked_for_smaller_and_larger(
    yunet, photographs, place, monkeypatch
):
    there = subject(yunet, photographs[2]).landmarks
    if place == "is tiny":
        picture = np.full((1600, 2000, 3), 90, np.uint8)
        picture[400:475, 700:775] = scaled(photographs[2], 0.3)
        there, tolerance = (there + 0.5) * 0.3 + [699.5, 399.5], 1.5
    else:  # from the brows to the mouth
        x, y = (there.mean(axis=0) - 26).astype(int)
        picture = np.ascontiguousarray(photographs[2][y : y + 52, x : x + 52])
        there, tolerance = there - [x, y], 12
    np.testing.assert_allclose(subject(yunet, picture).landmarks, there, atol=tolerance)
    monkeypatch.setattr(detection, "_LOOKS", detection._LOOKS[:1])
    assert yunet.detect(picture) == []


@pytest.mark.parametrize("name", MODELS)
def test_views_halve_the_jitter(name, photographs):
    """Landmarks under known shifts and scales are mapped back; their scatter must fall by half."""

    def jitter(views):
        detector = detection.YuNetDetector(model(name), views)
        scatter = []
        for image in photographs:
            found = []
            for shift, scale in [(0, 1), (3, 0.95), (-5, 1.04), (6, 0.9), (-2, 1.08)]:
                move = np.array([[scale, 0, shift], [0, scale, -shift]], np.float64)
                moved = cv2.warpAffine(image, move, (250, 250), borderMode=cv2.BORDER_REFLECT_101)
                found.append((subject(detector, moved).landmarks - move[:, 2]) / scale)
            scatter.append(np.std(found, axis=0))
        return np.mean(scatter)

    assert jitter(4) < 0.5 * jitter(0)


@pytest.fixture(scope="module")
def drawn():
    return [draw_face(identity, 1, (250, 250)) for identity in range(30)]


def errors(detector, faces):
    """Of the landmarks, in percent of the distance between the eyes: with the mean offset of each
    landmark and without (drawn noses and mouths lie elsewhere than people's); and how far the true
    landmarks lie from where the best transform brings them, in pixels of the crop."""
    offsets, crops = [], []
    target = np.array(alignment.TEMPLATES["sphereface_112x96"].landmarks)
    for face in faces:
        found = subject(detector, face.image).landmarks
        eyes = np.linalg.norm(face.landmarks[1] - face.landmarks[0])
        offsets.append((found - face.landmarks) / eyes * 100)
        there, best = (
            face.landmarks @ transform[:, :2].T + transform[:, 2]
            for transform in (
                alignment.similarity_transform(points, target) for points in (found, face.landmarks)
            )
        )
        crops.append(np.linalg.norm(there - best, axis=1))
    centred = np.linalg.norm(offsets - np.mean(offsets, axis=0), axis=2)
    return np.linalg.norm(offsets, axis=2).mean(), centred.mean(), np.mean(crops)


# Measured on these faces: (8.06, 6.27, 2.70) and (11.07, 6.25, 4.33).
@pytest.mark.parametrize(
    ("name", "bounds"), [(MODELS[0], (8.9, 6.9, 3.0)), (MODELS[1], (12.2, 6.9, 4.8))]
)
def test_the_error_on_drawn_faces_stays_within_its_bounds_and_views_lower_it(name, bounds, drawn):
    found = np.array(errors(detection.YuNetDetector(model(name)), drawn))
    assert (found < bounds).all(), found
    if name == MODELS[0]:
        without = np.array(errors(detection.YuNetDetector(model(name), views=0), drawn))
        assert (found < [0.9, 0.85, 0.9] * without).all(), (found, without)


def test_a_model_of_fixed_size_agrees(yunet, photographs, monkeypatch):
    there = subject(yunet, photographs[0]).landmarks
    monkeypatch.setattr(yunet, "_any_size", False)
    np.testing.assert_allclose(subject(yunet, photographs[0]).landmarks, there, atol=2.5)


def test_threads_share_a_detector(yunet, photographs):
    alone = [subject(yunet, image).landmarks for image in photographs]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda image: subject(yunet, image).landmarks, photographs * 3))
    np.testing.assert_array_equal(together, alone * 3)


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (250, 250), (2000, 1500)])
def test_no_face_in_an_empty_picture(yunet, shape):
    assert yunet.detect(np.full((*shape, 3), 255, np.uint8)) == []


def test_detect_refuses_what_is_no_picture(yunet):
    with pytest.raises(ImageError, match=r"Expected an RGB picture.*Received: float64, shape"):
        yunet.detect(np.zeros((250, 250, 3)))


def test_faces_come_best_first(yunet, photographs):
    pair = np.concatenate([photographs[0], photographs[1]], axis=1)
    scores = [face.score for face in yunet.detect(pair)]
    assert len(scores) >= 2
    assert scores == sorted(scores, reverse=True)


def test_the_name_says_what_the_landmarks_depend_on():
    detector = detection.YuNetDetector(model(MODELS[0]), views=2)
    digest = hashlib.sha256(pathlib.Path(model(MODELS[0])).read_bytes()).hexdigest()[:8]
    assert detector.name == f"yunet:face_detection_yunet_2026may:{digest}:views=2"


def test_building_prints_nothing(capfd):
    detection.YuNetDetector(model(MODELS[0]))
    assert capfd.readouterr() == ("", "")


def test_missing_model_file(tmp_path):
    with pytest.raises(DataError) as error:
        detection.YuNetDetector(tmp_path / "no.onnx")
    assert str(error.value) == (
        f"There is no YuNet model file {tmp_path / 'no.onnx'}. Check the path."
    )


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", "half"])
def test_damaged_model_file(tmp_path, content, capfd):
    if content == "half":
        content = model(MODELS[0]).read_bytes()[:100_000]
    path = tmp_path / "yunet.onnx"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        detection.YuNetDetector(path)
    assert str(error.value) == (
        f"{path} is not a YuNet face detector, or is damaged. Expected an .onnx file for "
        "`cv2.FaceDetectorYN`, such as face_detection_yunet_2026may.onnx."
    )
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("views", [-1, 9])
def test_views_out_of_range(views):
    with pytest.raises(DataError, match=rf"`views` must lie in 0 to 8\. Received: {views}\."):
        detection.YuNetDetector(model(MODELS[0]), views)


def test_load_detector_takes_the_model_from_argument_or_environment(monkeypatch):
    monkeypatch.delenv("SPHEREKERAS_YUNET", raising=False)
    path = model(MODELS[0])
    assert detection.load_detector("yunet", path).name.startswith("yunet:")
    assert detection.load_detector("auto", path).name.startswith("yunet:")
    monkeypatch.setenv("SPHEREKERAS_YUNET", str(path))
    assert detection.load_detector().name.startswith("yunet:")


def test_auto_without_a_model_is_mtcnn(monkeypatch):
    monkeypatch.delenv("SPHEREKERAS_YUNET", raising=False)
    monkeypatch.setattr(detection, "MtcnnDetector", lambda: "the MTCNN detector")
    assert detection.load_detector() == "the MTCNN detector"


def test_yunet_without_a_model(monkeypatch):
    monkeypatch.delenv("SPHEREKERAS_YUNET", raising=False)
    with pytest.raises(DataError) as error:
        detection.load_detector("yunet")
    assert str(error.value) == (
        "The detector 'yunet' needs its model file. Give its path as `model`, or set "
        "SPHEREKERAS_YUNET=path/to/face_detection_yunet.onnx."
    )


def test_unknown_detector_suggests_the_nearest():
    with pytest.raises(DataError) as error:
        detection.load_detector("mtcn")
    assert str(error.value) == (
        "There is no detector 'mtcn'. Did you mean 'mtcnn'? Known: auto, mtcnn, yunet."
    )


def test_mtcnn_without_its_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "mtcnn", None)
    with pytest.raises(
        DataError, match=r"needs the package `mtcnn`\. Install it: `pip install mtcnn=="
    ):
        detection.MtcnnDetector()


@pytest.fixture(scope="module")
def mtcnn():
    if importlib.util.find_spec("mtcnn") is None:
        pytest.skip("the package mtcnn is not installed")
    return detection.MtcnnDetector()


def test_mtcnn_agrees_with_yunet(mtcnn, photographs, capfd):
    yunet = detection.YuNetDetector(model(MODELS[0]))
    for image in photographs[:3]:
        face = subject(mtcnn, image)
        np.testing.assert_allclose(face.landmarks, subject(yunet, image).landmarks, atol=8)
        assert detection._overlap(*map(corners, (face, subject(yunet, image)))) > 0.5
        assert 0.8 < face.score <= 1.0
    assert capfd.readouterr() == ("", "")


def corners(face):
    x, y, width, height = face.box
    return np.array([[x, y], [x + width, y + height]])


@pytest.mark.parametrize("factor", [0.25, 5.0])
def test_mtcnn_scales_landmarks_back(mtcnn, photographs, factor):
    there = subject(mtcnn, photographs[0]).landmarks
    back = (subject(mtcnn, scaled(photographs[0], factor)).landmarks + 0.5) / factor - 0.5
    np.testing.assert_allclose(there, back, atol=6)


def test_the_error_of_mtcnn_on_drawn_faces_stays_within_its_bounds(mtcnn, drawn):
    found = errors(mtcnn, drawn[:12])  # measured: 6.83, 5.17, 2.05
    assert (np.array(found) < (7.5, 5.7, 2.3)).all(), found


def test_mtcnn_looks_again_at_other_sizes_and_then_less_sure():
    """A stand-in for the cascade finds a face at the last look only."""
    seen = []

    def cascade(image, thresholds):
        seen.append((image.shape[:2], thresholds))
        count = int(len(seen) == 6)
        corners, landmarks = [[[9.5, 9.5], [19.5, 19.5]]], [[[11.5, 13.5]] * 5]
        return np.array(corners)[:count], np.array(landmarks)[:count], np.array([0.7])[:count]

    detector = detection.MtcnnDetector.__new__(detection.MtcnnDetector)
    detector._cascade = cascade
    (face,) = detector.detect(np.zeros((100, 200, 3), np.uint8))
    sizes = [(100, 200), (50, 100), (200, 400)]
    assert seen == [
        (size, thresholds) for thresholds in ((0.6, 0.7, 0.8), (0.5, 0.6, 0.6)) for size in sizes
    ]
    assert face.box == (4.5, 4.5, 5.0, 5.0)
    np.testing.assert_allclose(face.landmarks, [[5.5, 6.5]] * 5)


@pytest.mark.parametrize("shape", [(1, 1), (3, 900), (250, 250)])
def test_mtcnn_finds_no_face_in_an_empty_picture(mtcnn, shape):
    assert mtcnn.detect(np.full((*shape, 3), 255, np.uint8)) == []


def face(x, y, width, height, score=0.9):
    return Face((x, y, width, height), np.zeros((5, 2)), score)


# A picture of 300 x 200; centre (150, 100).
LARGE = face(0, 0, 100, 144, 0.8)  # size 120, distance hypot(100, 28) = 103.8: merit 16.2
MIDDLE = face(130, 80, 40, 40, 0.7)  # size 40, distance 0: merit 40
SHARP = face(200, 90, 30, 30, 0.99)  # size 30, distance hypot(65, 5) = 65.2: merit -35.2
HUGE = face(10, 10, 160, 160, 0.6)  # size 160, distance hypot(60, 10) = 60.8: merit 99.2


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [("central-largest", MIDDLE), ("largest", LARGE), ("central", MIDDLE), ("best", SHARP)],
)
def test_rules_by_hand(rule, chosen):
    faces = [SHARP, LARGE, MIDDLE]
    assert detection.choose_face(faces, (200, 300, 3), rule) is chosen
    assert detection.choose_face(faces[::-1], (200, 300, 3), rule) is chosen


def test_size_outweighs_the_centre_for_a_portrait():
    assert detection.choose_face([SHARP, MIDDLE, HUGE], (200, 300)) is HUGE


def test_the_first_of_equal_faces():
    twins = [face(0, 0, 10, 10), face(0, 0, 10, 10)]
    assert detection.choose_face(twins, (200, 300)) is twins[0]


def test_unknown_rule_suggests_the_nearest():
    with pytest.raises(DataError) as error:
        detection.choose_face([LARGE], (200, 300), "centre")
    assert str(error.value) == (
        "There is no rule 'centre'. Did you mean 'central'? "
        "Known: central-largest, largest, central, best."
    )


def test_no_faces_to_choose_from():
    with pytest.raises(DataError, match=r"expects at least one face\. Received: none\."):
        detection.choose_face([], (200, 300))


@pytest.mark.parametrize(
    ("second", "expected"),
    [([[0, 0], [4, 4]], 1.0), ([[2, 0], [6, 4]], 1 / 3), ([[4, 4], [8, 8]], 0.0)],
)
def test_overlap_by_hand(second, expected):
    first = np.array([[0.0, 0], [4, 4]])
    assert detection._overlap(first, np.array(second, float)) == pytest.approx(expected)
