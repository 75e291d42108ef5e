import cv2
import numpy as np
import pytest

from spherekeras.data import alignment
from spherekeras.errors import DataError, ImageError

FACE = np.array(alignment.TEMPLATES["sphereface_112x96"].landmarks)


def planted(scale, degrees, shift):
    angle = np.deg2rad(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([scale * turn, shift])


def apply(transform, points):
    return np.asarray(points) @ transform[:, :2].T + transform[:, 2]


def least_squares(source, target):
    """Solves for (a, b, x, y) of [[a, -b, x], [b, a, y]] as one linear system."""
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, -y, 1, 0], [y, x, 0, 1]]
        values += [u, v]
    a, b, x, y = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, x], [b, a, y]])


def umeyama(source, target):
    """The published form, by a singular value decomposition."""
    source_mean, target_mean = source.mean(0), target.mean(0)
    covariance = (target - target_mean).T @ (source - source_mean) / len(source)
    u, d, vt = np.linalg.svd(covariance)
    sign = np.diag([1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    turn = u @ sign @ vt
    scale = np.trace(np.diag(d) @ sign) / ((source - source_mean) ** 2).sum(1).mean()
    return np.column_stack([scale * turn, target_mean - scale * turn @ source_mean])


def gradient(height, width):
    """A picture that bilinear sampling and area averaging reproduce: value = place."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 250 / width, y * 250 / height, np.full((height, width), 9)], axis=-1)


@pytest.mark.parametrize("scale", [0.02, 0.8, 1.0, 35.0])
@pytest.mark.parametrize("degrees", [-170, -30, 0, 4, 90, 180])
def test_a_planted_transform_is_recovered(scale, degrees):
    plan = planted(scale, degrees, [123.4, -56.7])
    np.testing.assert_allclose(
        alignment.similarity_transform(FACE, apply(plan, FACE)), plan, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("count", [2, 3, 5, 68])
def test_noisy_points_agree_with_two_other_solutions(seed, count):
    random = np.random.default_rng(seed)
    source = random.normal(100, 40, (count, 2))
    target = apply(planted(0.7, 20, [5, 9]), source) + random.normal(0, 3, (count, 2))
    found = alignment.similarity_transform(source, target)
    np.testing.assert_allclose(found, least_squares(source, target), atol=1e-8)
    np.testing.assert_allclose(found, umeyama(source, target), atol=1e-8)


def test_landmarks_of_a_mirrored_face_are_not_mirrored_back():
    found = alignment.similarity_transform(FACE * [-1, 1], FACE)
    assert np.linalg.det(found[:, :2]) > 0


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (np.full((5, 2), 7.0), FACE),
        (FACE, np.full((5, 2), 7.0)),
        ([[0, 0], [1, 0], [1, 1], [0, 1]], [[0, 0], [-1, 0], [-1, 1], [0, 1]]),
    ],
    ids=["source in one place", "target in one place", "a square and its mirror image"],
)
def test_points_that_fix_no_transform(source, target):
    with pytest.raises(DataError, match="These points fix no similarity transform: they lie in"):
        alignment.similarity_transform(source, target)


def test_points_of_the_wrong_shape():
    for source, target in [(FACE, FACE[:4]), (FACE.T, FACE.T), (FACE[:1], FACE[:1]), ([], [])]:
        with pytest.raises(DataError, match=r"expects two arrays of the same shape \(n, 2\), n >="):
            alignment.similarity_transform(source, target)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_points_that_are_not_finite(value):
    with pytest.raises(DataError, match="expects finite points. Received: NaN or infinity."):
        alignment.similarity_transform(FACE * [1, value], FACE)


def test_unknown_template_suggests_the_nearest():
    with pytest.raises(DataError) as error:
        alignment.find_template("arcface")
    assert str(error.value) == (
        "There is no template 'arcface'. Did you mean 'arcface_112x112'? "
        "Known: arcface_112x112, dlib_150x150, sphereface_112x96."
    )


@pytest.mark.parametrize("name", alignment.TEMPLATES)
def test_template_names_state_their_size(name):
    template = alignment.TEMPLATES[name]
    assert name.endswith(f"_{template.height}x{template.width}")


def test_landmarks_on_the_template_give_the_corner_of_the_picture():
    image = np.random.default_rng(0).integers(0, 256, (150, 140, 3), np.uint8)
    np.testing.assert_array_equal(alignment.align(image, FACE), image[:112, :96])
    np.testing.assert_array_equal(
        alignment.align(image, FACE + np.array([44, 38])), image[38:, 44:]
    )


def test_the_two_templates_cut_the_same_face():
    image = np.rint(gradient(250, 250)).astype(np.uint8)
    landmarks = apply(planted(1.3, 12, [50, 40]), FACE)
    wide = alignment.align(image, landmarks, "arcface_112x112")
    assert wide.shape == (112, 112, 3)
    np.testing.assert_allclose(wide[:, 8:104], alignment.align(image, landmarks), atol=1)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.7, 2.0, 2.9, 3.0, 7.4])
@pytest.mark.parametrize("degrees", [0, -25, 140])
def test_every_pixel_of_the_crop_comes_from_its_place(scale, degrees):
    # The middle of the face in the middle of a picture with room around it.
    picture = gradient(1400, 1500)
    middle = apply(planted(scale, degrees, [0, 0]), [[48, 56]])[0]
    plan = planted(scale, degrees, [750, 700] - middle)
    crop = alignment.align(np.rint(picture).astype(np.uint8), apply(plan, FACE))
    y, x = np.mgrid[:112, :96]
    place = apply(plan, np.stack([x.ravel(), y.ravel()], axis=-1)) * [250 / 1500, 250 / 1400]
    np.testing.assert_allclose(crop[..., :2].reshape(-1, 2), place, atol=1.01)
    assert (crop[..., 2] == 9).all()


def test_shrinking_keeps_the_place_to_a_tenth_of_a_pixel_of_the_crop():
    # A steeper ramp than 8 bits hold over the whole picture, black elsewhere.
    plan = planted(6.3, 10, [300, 200])
    x = np.arange(1600.0)
    ramp = np.clip((x - 560) * 0.8, 0, 255)
    picture = np.repeat(np.repeat(np.rint(ramp).astype(np.uint8)[None, :, None], 3, 2), 1200, 0)
    crop = alignment.align(picture, apply(plan, FACE))
    v, u = np.mgrid[:112, :96]
    place = apply(plan, np.stack([u.ravel(), v.ravel()], axis=-1))[:, 0]
    expected = (place - 560) * 0.8
    inside = (expected > 15) & (expected < 240)
    assert inside.sum() > 1000
    error = crop[..., 0].ravel()[inside] - expected[inside]
    assert abs(error.mean()) < 0.1 * 6.3 * 0.8
    assert np.abs(error).max() < 0.25 * 6.3 * 0.8


@pytest.mark.parametrize("scale", [0.6, 1.0, 1.7])
def test_a_very_wide_picture_is_drawn_as_its_part_is(scale):
    """Wider than some versions of OpenCV draw from."""
    part = np.random.default_rng(3).integers(0, 256, (250, 900, 3), np.uint8)
    wide = np.zeros((250, 40_000, 3), np.uint8)
    wide[:, 35_000:35_900] = part
    transform = planted(scale, 10, (-300 * scale, 20))
    moved = transform - np.array([[0, 0, 1], [0, 0, 0]]) * 35_000 * transform[0, 0]
    moved[1, 2] -= 35_000 * transform[1, 0]
    drawn = alignment.warp(wide, moved, 112, 96).astype(int)
    assert np.abs(drawn - alignment.warp(part, transform, 112, 96)).max() <= 1  # rounding


def test_beyond_the_border_the_edge_repeats():
    image = np.full((60, 60, 3), 200, np.uint8)
    image[:, 0] = 10
    crop = alignment.align(image, FACE - [30, 0])
    assert (crop[:, :31] == 10).all()
    assert (crop[:, 31:] == 200).all()


@pytest.mark.parametrize("scale", [1.0, 9.0])
def test_a_face_outside_the_picture_is_its_edge(scale):
    image = np.full((300, 300, 3), 77, np.uint8)
    assert (alignment.align(image, FACE * scale + 5000) == 77).all()


def test_strong_shrinking_does_not_alias():
    y, x = np.mgrid[:1200, :1200]
    board = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[..., None], 3, axis=-1)
    landmarks = apply(planted(8.5, 7, [150, 100]), FACE)
    crop = alignment.align(board, landmarks)
    plain = cv2.warpAffine(board, alignment.similarity_transform(landmarks, FACE), (96, 112))
    assert np.abs(crop.astype(int) - 127).max() < 16
    assert plain.std() > 3 * crop.std()


def test_warp_mirrors():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    mirror = np.array([[-1.0, 0, 29], [0, 1, 0]])
    np.testing.assert_array_equal(alignment.warp(image, mirror, 20, 30), image[:, ::-1])


def test_warp_shrinks_by_whole_factors_to_the_mean():
    image = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    quarter = np.array([[0.25, 0, -0.375], [0, 0.25, -0.375]])
    means = image.reshape(10, 4, 15, 4, 3).mean(axis=(1, 3))
    np.testing.assert_allclose(alignment.warp(image, quarter, 10, 15), means, atol=0.51)


def test_align_refuses_what_is_no_picture():
    with pytest.raises(ImageError, match=r"Received: float64, shape \(4, 4, 3\)\. Read the file"):
        alignment.align(np.zeros((4, 4, 3)), FACE)


def test_align_refuses_the_wrong_number_of_landmarks():
    with pytest.raises(DataError, match=r"Received: \(4, 2\) and \(5, 2\)"):
        alignment.align(np.zeros((4, 4, 3), np.uint8), FACE[:4])
