"""How a crop is varied in training: plain functions on RGB uint8 pictures.

They run in NumPy and OpenCV, so a picture comes out the same from `tf.data`, from a
`keras.utils.PyDataset` and called by hand, with or without TensorFlow. Nothing here draws random
numbers: `augment` is given them.
"""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

DRAWS = 20
"""How many uniform random numbers one crop takes."""


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How much crops are varied, in the order in which it is done.

    Attributes:
        mirror: mirror half of the crops, left to right.
        shift: largest shift, in pixels, each way.
        zoom: largest change of scale, as a fraction.
        turn: largest rotation, in degrees, either way.
        brightness: largest change of brightness, as a fraction of the full range.
        contrast: largest change of contrast, as a fraction.
        saturation: largest change of colourfulness, as a fraction.
        grey: fraction of the crops turned grey.
        blur: fraction blurred, by a Gaussian of 0.5 to 2 pixels.
        low_resolution: fraction shrunk to between a half and a quarter of the size, and enlarged.
        jpeg: fraction compressed as JPEG of quality 15 to 75.
        erase: fraction in which a random rectangle (a tenth to a half of each side) is painted
            mid-grey; it may lie partly outside, so borders are covered often.
    """

    mirror: bool = True
    shift: float = 0.0
    zoom: float = 0.0
    turn: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    low_resolution: float = 0.0
    jpeg: float = 0.0
    erase: float = 0.0


def augment(
    crop: Picture, size: tuple[int, int], plan: Augmentation, draws: NDArray[np.float64]
) -> Picture:
    """Returns one varied crop.

    Args:
        crop: RGB uint8 `(height, width, 3)`.
        size: (height, width) of the result; cut from the centre, then shifted.
        plan: how much is varied.
        draws: `DRAWS` numbers in [0, 1), which decide everything.

    Returns:
        RGB uint8 `(*size, 3)`.

    Example:

    >>> crop = np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)
    >>> same = augment(crop, (4, 4), Augmentation(mirror=False), np.zeros(DRAWS))
    >>> bool((same == crop[1:5, 1:5]).all())
    True
    """
    signed = 2.0 * draws - 1.0
    picture = place(
        crop,
        size,
        plan.mirror and draws[0] < 0.5,
        (plan.shift * signed[1], plan.shift * signed[2]),
        1.0 + plan.zoom * signed[3],
        plan.turn * signed[4],
    )
    if plan.brightness or plan.contrast:
        picture = relight(picture, plan.brightness * signed[5], 1.0 + plan.contrast * signed[6])
    if draws[8] < plan.grey:
        picture = saturate(picture, 0.0)
    elif plan.saturation:
        picture = saturate(picture, 1.0 + plan.saturation * signed[7])
    if draws[9] < plan.blur:
        picture = blur(picture, 0.5 + 1.5 * draws[10])
    if draws[11] < plan.low_resolution:
        picture = coarsen(picture, 0.25 + 0.25 * draws[12])
    if draws[13] < plan.jpeg:
        picture = compress(picture, int(15 + 61 * draws[14]))
    if draws[15] < plan.erase:
        side = np.multiply(size, 0.1 + 0.4 * draws[16:18])
        picture = erase(picture, np.multiply(size, draws[18:20]) - side / 2, side)
    return picture


def place(
    crop: Picture,
    size: tuple[int, int],
    mirrored: bool = False,
    shift: tuple[float, float] = (0.0, 0.0),
    zoom: float = 1.0,
    turn: float = 0.0,
) -> Picture:
    """Cuts a window out of a crop, in one step; beyond the border edge pixels repeat.

    Args:
        crop: RGB uint8.
        size: (height, width) of the window.
        mirrored: left to right.
        shift: (down, right) of the window, in pixels; whole ones, where it is only shifted.
        zoom: of the window: over 1 shows more, smaller.
        turn: of the window, in degrees.
    """
    height, width = crop.shape[:2]
    import cv2

    edge = cv2.BORDER_REPLICATE
    if zoom == 1.0 and turn == 0.0:
        top = (height - size[0]) // 2 + round(shift[0])
        left = (width - size[1]) // 2 + round(shift[1])
        rows, columns = _inside(top, size[0], height), _inside(left, size[1], width)
        window = crop[rows[0] : rows[1], columns[0] : columns[1]]
        if window.shape[:2] != size:
            above, before = rows[0] - top, columns[0] - left
            below, after = size[0] - above - len(window), size[1] - before - window.shape[1]
            window = _bytes(cv2.copyMakeBorder(window, above, below, before, after, edge))
        return _bytes(cv2.flip(window, 1)) if mirrored else window
    angle = np.deg2rad(turn)
    linear = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = np.array([(size[1] - 1) / 2, (size[0] - 1) / 2])
    corner = np.array([(width - size[1]) // 2 + shift[1], (height - size[0]) // 2 + shift[0]])
    centre = corner + middle  # without a shift that of the whole-pixel cut
    if mirrored:
        linear = linear @ np.diag([-1.0, 1.0])
    matrix = np.column_stack([linear, centre - linear @ middle])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    side = (size[1], size[0])
    return _bytes(cv2.warpAffine(crop, matrix, side, flags=flags, borderMode=edge))


def relight(picture: Picture, brightness: float, contrast: float) -> Picture:
    """Scales the distance to the mean by `contrast`, then adds `brightness` times 255."""
    import cv2

    mean = float(picture.mean())
    values = np.rint(mean + (np.arange(256) - mean) * contrast + 255.0 * brightness)
    return np.asarray(cv2.LUT(picture, np.clip(values, 0, 255).astype(np.uint8)), np.uint8)


def saturate(picture: Picture, factor: float) -> Picture:
    """Scales the distance of each pixel to its grey by `factor`: 0 is grey, 1 no change."""
    import cv2

    grey = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if factor == 0.0:
        return _bytes(grey)
    return _bytes(cv2.addWeighted(picture, factor, grey, 1.0 - factor, 0.0))


def blur(picture: Picture, sigma: float) -> Picture:
    """Blurs by a Gaussian of `sigma` pixels."""
    import cv2

    return _bytes(cv2.GaussianBlur(picture, (0, 0), sigma))


def coarsen(picture: Picture, scale: float) -> Picture:
    """Shrinks to `scale` by area and enlarges again, as a face far away is enlarged."""
    import cv2

    height, width = picture.shape[:2]
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    shrunk = cv2.resize(picture, small, interpolation=cv2.INTER_AREA)
    return _bytes(cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR))


def compress(picture: Picture, quality: int) -> Picture:
    """Compresses as JPEG, quality 0 to 100, and decodes."""
    import cv2

    blue_first = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".jpg", blue_first, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return _bytes(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB))


def erase(picture: Picture, corner: NDArray[np.float64], side: NDArray[np.float64]) -> Picture:
    """Paints a rectangle mid-grey: `corner` (top, left) and `side` (height, width) in pixels."""
    start = np.maximum(np.ceil(corner), 0).astype(int)
    stop = np.maximum(np.ceil(np.add(corner, side)), 0).astype(int)
    picture = picture.copy()
    picture[start[0] : stop[0], start[1] : stop[1]] = 127
    return picture


def _bytes(picture: Any) -> Picture:
    return np.asarray(picture, np.uint8)


def _inside(start: int, length: int, limit: int) -> tuple[int, int]:
    """The part of `start` to `start + length` that lies in `[0, limit)`, one pixel at least."""
    first = min(max(start, 0), limit - 1)
    return first, max(min(start + length, limit), first + 1)
