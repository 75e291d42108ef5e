"""Each variation against what it says, on pictures whose result is known."""

import cv2
import numpy as np
import pytest

from spherekeras.data import augmentation
from spherekeras.data.augmentation import DRAWS, Augmentation, augment


@pytest.fixture
def noise() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 32, 3), np.uint8)


@pytest.fixture
def smooth() -> np.ndarray:
    y, x = np.mgrid[0:40, 0:32]
    return np.stack([60 + 3 * x, 30 + 4 * y, 100 + x + y], axis=-1).astype(np.uint8)


def test_a_cut_of_whole_pixels(noise: np.ndarray) -> None:
    np.testing.assert_array_equal(augmentation.place(noise, (36, 28)), noise[2:38, 2:30])
    shifted = augmentation.place(noise, (36, 28), shift=(1.2, -1.9))
    np.testing.assert_array_equal(shifted, noise[3:39, 0:28])
    mirrored = augmentation.place(noise, (36, 28), True)
    np.testing.assert_array_equal(mirrored, noise[2:38, 2:30][:, ::-1])


def test_beyond_the_border_edge_pixels_repeat(noise: np.ndarray) -> None:
    padded = np.pad(noise, ((9, 9), (9, 9), (0, 0)), mode="edge")
    for down, right in ((-5, 4), (7, -9), (0, 3), (9, 0)):
        shifted = augmentation.place(noise, (40, 32), shift=(down, right))
        wanted = padded[9 + down : 49 + down, 9 + right : 41 + right]
        np.testing.assert_array_equal(shifted, wanted)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("zoom, turn", [(1.1, 0.0), (0.9, 12.0), (1.0, -30.0)])
def test_a_window_that_is_turned_and_zoomed(
    smooth: np.ndarray, mirrored: bool, zoom: float, turn: float
) -> None:
    size, shift = (20, 16), (1.5, -2.25)
    window = augmentation.place(smooth, size, mirrored, shift, zoom, turn)
    angle = np.deg2rad(turn)
    for row in range(2, 18, 5):
        for column in range(2, 14, 4):
            x, y = column - 7.5, row - 9.5
            x = -x if mirrored else x
            sx = 8 + 7.5 + shift[1] + zoom * (np.cos(angle) * x - np.sin(angle) * y)
            sy = 10 + 9.5 + shift[0] + zoom * (np.sin(angle) * x + np.cos(angle) * y)
            wanted = [60 + 3 * sx, 30 + 4 * sy, 100 + sx + sy]
            np.testing.assert_allclose(window[row, column], wanted, atol=1.0)


def test_light(noise: np.ndarray) -> None:
    mean = noise.mean()
    wanted = np.clip(np.rint(mean + (noise - mean) * 1.3 + 25.5), 0, 255)
    np.testing.assert_array_equal(augmentation.relight(noise, 0.1, 1.3), wanted)


def test_colour(noise: np.ndarray) -> None:
    grey = noise @ np.array([0.299, 0.587, 0.114])
    grey_picture = augmentation.saturate(noise, 0.0)
    np.testing.assert_allclose(grey_picture, np.repeat(grey[..., None], 3, -1), atol=0.6)
    for factor in (0.5, 1.4):
        wanted = np.clip(grey[..., None] + factor * (noise - grey[..., None]), 0, 255)
        np.testing.assert_allclose(augmentation.saturate(noise, factor), wanted, atol=1.1)


def test_blur_is_a_gaussian(noise: np.ndarray) -> None:
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    blurred = augmentation.blur(np.maximum(point, 0), 1.0).astype(float)[..., 0]
    wanted = 255 * np.exp(-(np.subtract.outer(range(41), [20]) ** 2) / 2)[:, 0]
    kernel = np.outer(wanted, wanted) / 255
    np.testing.assert_allclose(blurred, kernel / kernel.sum() * 255, atol=1.0)
    assert augmentation.blur(noise, 2.0).std() < noise.std() / 2


def test_low_resolution_keeps_the_mean_and_loses_detail(
    noise: np.ndarray, smooth: np.ndarray
) -> None:
    coarse = augmentation.coarsen(noise, 0.25)
    assert abs(coarse.mean() - noise.mean()) < 2 and coarse.std() < noise.std() / 2
    difference = np.abs(augmentation.coarsen(smooth, 0.5).astype(int) - smooth)
    assert difference[2:-2, 2:-2].max() <= 3


def test_compression_is_jpeg_with_colours_in_place(smooth: np.ndarray) -> None:
    close = np.abs(augmentation.compress(smooth, 95).astype(int) - smooth)
    rough = np.abs(augmentation.compress(smooth, 10).astype(int) - smooth)
    assert close.mean() < 2 and rough.mean() > 2 * close.mean()
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 200
    assert (augmentation.compress(red, 90).mean((0, 1)) > 100).tolist() == [True, False, False]


def test_erasing_paints_the_rectangle_alone(noise: np.ndarray) -> None:
    erased = augmentation.erase(noise, np.array([-3.0, 10.0]), np.array([8.0, 30.0]))
    changed = (erased != noise).any(-1)
    assert (erased[:5, 10:] == 127).all()
    changed[:5, 10:] = False
    assert not changed.any() and (noise != 127).any()


def test_nothing_asked_is_nothing_done(noise: np.ndarray) -> None:
    draws = np.random.default_rng(1).random(DRAWS)
    still = augment(noise, (36, 28), Augmentation(mirror=False), draws)
    np.testing.assert_array_equal(still, noise[2:38, 2:30])


@pytest.mark.parametrize(
    "name", ["grey", "blur", "low_resolution", "jpeg", "erase", "saturation", "contrast"]
)
def test_each_setting_changes_pictures_and_only_its_share(noise: np.ndarray, name: str) -> None:
    plan = Augmentation(mirror=False, **{name: 0.3})
    before = noise.copy()
    changed = 0
    for draws in np.random.default_rng(2).random((200, DRAWS)):
        picture = augment(noise, (40, 32), plan, draws)
        assert picture.shape == (40, 32, 3) and picture.dtype == np.uint8
        changed += bool((picture != noise).any())
    np.testing.assert_array_equal(noise, before)
    low, high = (190, 200) if name in ("saturation", "contrast") else (40, 80)
    assert low <= changed <= high


def test_the_recipes_ranges(noise: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, object]] = []
    for name in ("blur", "coarsen", "compress"):
        monkeypatch.setattr(
            augmentation, name, lambda p, value, name=name: seen.append((name, value)) or p
        )
    plan = Augmentation(blur=1.0, low_resolution=1.0, jpeg=1.0)
    for value in (0.0, 1 - 1e-9):
        augment(noise, (36, 28), plan, np.full(DRAWS, value))
    assert seen == [
        ("blur", 0.5),
        ("coarsen", 0.25),
        ("compress", 15),
        ("blur", pytest.approx(2.0)),
        ("coarsen", pytest.approx(0.5)),
        ("compress", 75),
    ]


def test_a_decoded_crop_may_be_a_view(noise: np.ndarray) -> None:
    _, data = cv2.imencode(".png", noise)
    picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
    picture.flags.writeable = False
    plan = Augmentation(True, 2, 0.1, 5, 0.1, 0.1, 0.1, 0.5, 1.0, 1.0, 1.0, 1.0)
    assert augment(picture, (36, 28), plan, np.full(DRAWS, 0.4)).shape == (36, 28, 3)
