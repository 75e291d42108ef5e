"""Drawn faces: the same bytes for the same numbers, exact landmarks, a task worth learning."""

import os
import pathlib

import cv2
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from spherekeras.data import alignment
from spherekeras.data.drawn_faces import draw_face, draw_faces, drawn_crops
from spherekeras.errors import DataError

DATA = pathlib.Path(
    os.environ.get("SPHEREKERAS_DATA") or pathlib.Path(__file__).parents[3] / "shared" / "data"
)


def test_same_numbers_give_the_same_bytes_whatever_the_global_generator():
    np.random.seed(1)
    first = draw_face(5, 3)
    draw_face(6, 1)
    np.random.seed(2)
    state = np.random.get_state()[1].copy()
    again = draw_face(np.int64(5), np.uint8(3))
    assert again.image.tobytes() == first.image.tobytes()
    assert again.landmarks.tobytes() == first.landmarks.tobytes()
    assert again.identity == 5
    np.testing.assert_array_equal(np.random.get_state()[1], state)


@pytest.mark.parametrize("size", [(160, 160), (64, 48), (33, 95), (250, 250)])
def test_shapes_and_types(size):
    face = draw_face(2**70, 0, size)
    assert face.image.shape == (*size, 3) and face.image.dtype == np.uint8
    assert face.landmarks.shape == (5, 2) and face.landmarks.dtype == np.float64
    assert (face.landmarks > 0).all() and (face.landmarks < size[::-1]).all()


def test_landmarks_scale_with_the_picture():
    small, large = draw_face(8, 1, (80, 80)), draw_face(8, 1, (320, 320))
    np.testing.assert_allclose(4 * (small.landmarks + 0.5), large.landmarks + 0.5, atol=1e-9)
    shrunk = cv2.resize(large.image, (80, 80), interpolation=cv2.INTER_AREA)
    soft = [cv2.GaussianBlur(p, (0, 0), 2).astype(float) for p in (shrunk, small.image)]
    assert np.abs(soft[0] - soft[1]).mean() < 4


def test_landmarks_stand_in_the_order_of_the_templates():
    _, landmarks, _ = draw_faces(range(60), 1)
    left, right, nose, mouth_left, mouth_right = landmarks.transpose(1, 0, 2)
    assert (left[:, 0] < right[:, 0]).all() and (mouth_left[:, 0] < mouth_right[:, 0]).all()
    eyes, mouth = (left + right) / 2, (mouth_left + mouth_right) / 2
    assert (eyes[:, 1] < nose[:, 1]).all() and (nose[:, 1] < mouth[:, 1]).all()


def test_the_mean_crop_shows_its_features_at_the_template():
    """Averaged over people, the pupils are darkest and the lips reddest."""
    crops, _ = drawn_crops(range(150), 1)
    mean = cv2.GaussianBlur(crops.mean((0, 3)), (0, 0), 1.5)
    template = np.array(alignment.find_template("sphereface_112x96").landmarks)
    for x, y in template[:2]:
        window = mean[round(y) - 7 : round(y) + 8, round(x) - 9 : round(x) + 10]
        row, column = np.unravel_index(window.argmin(), window.shape)
        assert abs(row - 7) <= 2 and abs(column - 9) <= 2
    x, y = template[3:].mean(0)
    red, green, _ = crops.mean(0)[:, round(x) - 8 : round(x) + 9].mean(1).T
    assert abs((red / green)[round(y) - 12 : round(y) + 13].argmax() - 12) <= 4


def test_an_independent_detector_finds_the_same_landmarks():
    model = DATA / "models" / "yunet_n_320_320.onnx"
    if not model.exists():
        pytest.skip(f"no detector to compare with: {model} is missing")
    detector = cv2.FaceDetectorYN.create(str(model), "", (320, 320), 0.6)
    distances = []
    for identity in range(24):
        face = draw_face(identity, 1, (320, 320))
        _, found = detector.detect(face.image[..., ::-1].copy())
        assert found is not None, f"no face found in the picture of identity {identity}"
        between_eyes = np.linalg.norm(face.landmarks[0] - face.landmarks[1])
        offset = found[0][4:14].reshape(5, 2) - face.landmarks
        distances.append(np.linalg.norm(offset, axis=1) / between_eyes)
    assert (np.median(distances, axis=0) < [0.1, 0.1, 0.2, 0.2, 0.2]).all()


def test_pixels_alone_are_neither_hopeless_nor_enough():
    crops, labels = drawn_crops(range(60), 4)
    grey = [
        cv2.resize(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), (16, 16), interpolation=cv2.INTER_AREA)
        for crop in crops
    ]
    vectors = np.reshape(grey, (len(grey), -1)).astype(float)
    vectors -= vectors.mean(1, keepdims=True)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    a, b = np.triu_indices(len(labels), 1)
    auc = roc_auc_score(labels[a] == labels[b], (vectors[a] * vectors[b]).sum(1))
    assert 0.65 < auc < 0.92


def test_what_stays_and_what_changes():
    """Two pictures of a person differ in pose and light, and differ less than two people do."""
    crops, _ = drawn_crops(range(40), 2)
    pixels = crops[:, 16:104:8, 8:88:8].astype(float).reshape(len(crops), -1)
    same = np.abs(pixels[::2] - pixels[1::2]).mean()
    different = np.abs(pixels[::2] - np.roll(pixels[1::2], 1, axis=0)).mean()
    assert 5 < same < 0.85 * different


def test_arrays_labels_and_seeds():
    images, landmarks, labels = draw_faces([9, 4], 3, size=(64, 64), seed=1)
    assert images.shape == (6, 64, 64, 3) and landmarks.shape == (6, 5, 2)
    assert labels.dtype == np.int32 and labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert len({image.tobytes() for image in images}) == 6
    other, _, _ = draw_faces([9, 4], 3, size=(64, 64), seed=2)
    assert not {image.tobytes() for image in images} & {image.tobytes() for image in other}


def test_crops_are_the_aligned_pictures():
    crops, labels = drawn_crops([11, 3], 2, template="arcface_112x112", seed=7)
    images, landmarks, expected = draw_faces([11, 3], 2, seed=7)
    assert labels.tolist() == expected.tolist()
    for crop, image, points in zip(crops, images, landmarks, strict=True):
        np.testing.assert_array_equal(crop, alignment.align(image, points, "arcface_112x112"))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_face(-1), "`identity` expects an integer from 0 up. Received: -1."),
        (lambda: draw_face(1.5), "`identity` expects an integer from 0 up. Received: 1.5."),
        (lambda: draw_face(True), "`identity` expects an integer from 0 up. Received: True."),
        (lambda: draw_face(0, -2), "`picture` expects an integer from 0 up. Received: -2."),
        (lambda: draw_face(0, size=(16, 160)), "at least 32. Received: (16, 160)."),
        (lambda: draw_face(0, size=160), "at least 32. Received: 160."),
        (lambda: draw_faces([], 1), "at least one identity. Received: none."),
        (lambda: draw_faces(3, 1), "a sequence of integers. Received: 3."),
        (
            lambda: draw_faces([0, "1"], 1),
            "`identity` expects an integer from 0 up. Received: '1'.",
        ),
        (lambda: draw_faces([0], 0), "an integer in [1, 1000000]. Received: 0."),
        (
            lambda: drawn_crops([0], 1, seed=-1),
            "`seed` expects an integer from 0 up. Received: -1.",
        ),
        (lambda: drawn_crops([0], 1, template="x"), "There is no template 'x'."),
    ],
)
def test_errors_say_what_was_wanted(call, message):
    with pytest.raises(DataError) as error:
        call()
    assert message in str(error.value)
