"""MTCNN's cascade: boxes proposed at all sizes, refined, and given landmarks. No TensorFlow.

A box is its corners `[[x0, y0], [x1, y1]]`, float64; a picture is float32, its pixels
(value - 127.5) / 128, as the networks were trained.
"""

import math
import threading

import numpy as np

from spherekeras.data.mtcnn_networks import Network, models
from spherekeras.terminal import silenced

_SMALLEST_FACE = 20
_CELL, _STRIDE = 12, 2  # PNet looks at squares of 12 pixels, every 2
_NEXT_SIZE = 0.709
_AT_ONCE = 256
_ROWS_AT_ONCE = 16  # stay in the processor's cache


class Mtcnn:
    """The three networks in a row: PNet proposes, RNet sifts, ONet says where the landmarks are.

    Each thread that calls it gets networks of its own (a millisecond to build, once).

    Raises:
        DataError: the package `mtcnn` is not installed, or its weights are not as expected.

    Source: Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded
    Convolutional Networks, 2016.
    """

    def __init__(self) -> None:
        self._models = models()
        self._local = threading.local()
        with silenced():  # LiteRT tells once that it runs
            self._networks()[0](np.zeros((1, _CELL, _CELL, 3), np.float32))

    def __call__(
        self, image: np.ndarray, thresholds: tuple[float, float, float] = (0.6, 0.7, 0.8)
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Finds the faces of 20 pixels and more.

        Args:
            image: RGB uint8 `(height, width, 3)`.
            thresholds: the score that a box must exceed in each network.

        Returns:
            Corners `(n, 2, 2)`, landmarks `(n, 5, 2)` and scores `(n,)`, float64, the best score
            first. Pixels; a box may reach beyond the picture.
        """
        proposing, sifting, marking = self._networks()
        picture = (image.astype(np.float32) - 127.5) / 128
        corners = _proposals(proposing, picture, thresholds[0])

        said, scores = _judged(sifting, picture, corners, 24)
        sure = scores > thresholds[1]
        corners, scores = _refined(corners, said)[sure], scores[sure]
        corners = _squared(corners[_distinct(corners, scores, 0.7)])

        said, scores = _judged(marking, picture, corners, 48)
        sizes = (corners[:, 1] - corners[:, 0])[:, None] + 1
        landmarks = said[:, 4:14].reshape(-1, 2, 5).swapaxes(1, 2) * sizes + corners[:, :1] - 1
        sure = scores > thresholds[2]
        corners, scores = _refined(corners, said)[sure], scores[sure]
        kept = _distinct(corners, scores, 0.7, of_smaller=True)
        return corners[kept], landmarks[sure][kept], scores[kept]

    def _networks(self) -> list[Network]:
        """Returns this thread's networks."""
        if not hasattr(self._local, "networks"):
            self._local.networks = [Network(model) for model in self._models]
        return list(self._local.networks)


def _scales(height: int, width: int) -> np.ndarray:
    """Returns the pyramid's scales: from one that makes a face of 20 pixels 12, down by 0.709."""
    count = round(math.log(min(height, width) / _CELL) / -math.log(_NEXT_SIZE) - 1)
    return _CELL / _SMALLEST_FACE * _NEXT_SIZE ** np.arange(count)


def _proposals(network: Network, picture: np.ndarray, threshold: float) -> np.ndarray:
    """Returns square boxes where PNet sees a face at some scale."""
    import cv2

    height, width = picture.shape[:2]
    sums = cv2.integral(picture, sdepth=cv2.CV_64F)
    corners, scores = [np.zeros((0, 2, 2))], [np.zeros(0)]
    for scale in _scales(height, width):
        said = network(_shrunk(sums, int(height * scale), int(width * scale))[None])[0]
        score = _scores(said)
        rows, columns = np.nonzero(score > threshold)
        cells = np.stack([columns, rows], axis=-1)[:, None] * _STRIDE + [[1], [_CELL]]
        boxes = (cells + said[rows, columns, :4].reshape(-1, 2, 2) * (_CELL - 1)) / scale
        kept = _distinct(boxes, score[rows, columns], 0.5)
        corners.append(boxes[kept])
        scores.append(score[rows, columns][kept])
    found = np.concatenate(corners)
    return _squared(found[_distinct(found, np.concatenate(scores), 0.7)])


def _shrunk(sums: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns a smaller picture, each pixel the mean over its area, as TensorFlow does.

    TensorFlow places the borders of these areas in float32, up to 0.00003 pixels off. OpenCV's
    `INTER_AREA` does not, and by that alone landmarks would differ by up to 0.02 pixels.

    Args:
        sums: `cv2.integral` of the picture, float64.
    """
    full = sums.shape[0] - 1, sums.shape[1] - 1
    rows, columns = (
        np.arange(size + 1, dtype=np.float32) * (np.float32(whole) / np.float32(size))
        for size, whole in zip((height, width), full, strict=True)
    )
    smaller = np.empty((height, width, 3), np.float32)
    for start in range(0, height, _ROWS_AT_ONCE):
        borders = rows[start : start + _ROWS_AT_ONCE + 1]
        strip = np.diff(_between(sums, borders, axis=0), axis=0)
        strip = np.diff(_between(strip, columns, axis=1), axis=1)
        smaller[start : start + _ROWS_AT_ONCE] = strip * (height / full[0] * width / full[1])
    return smaller


def _between(sums: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Interpolates running sums linearly at places along an axis."""
    first = np.minimum(places.astype(np.intp), sums.shape[axis] - 2)
    before, behind = sums.take(first, axis), sums.take(first + 1, axis)
    behind -= before
    behind *= np.expand_dims(places - first, (1 - axis, 2))
    before += behind
    return before


def _judged(
    network: Network, picture: np.ndarray, corners: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns what a network says of each box, and the scores."""
    parts = (corners[start : start + _AT_ONCE] for start in range(0, len(corners), _AT_ONCE))
    said = [network(_patches(picture, part, side))[:, 0, 0] for part in parts]
    together = np.concatenate(said) if said else np.zeros((0, 16), np.float32)
    return together, _scores(together)


def _scores(said: np.ndarray) -> np.ndarray:
    """Returns how sure a network is of a face: the softmax of the two logits, of float32."""
    other, face = said[..., -2], said[..., -1]
    return (1 / (1 + np.exp(np.minimum(other - face, 80)))).astype(np.float64)


def _patches(picture: np.ndarray, corners: np.ndarray, side: int) -> np.ndarray:
    """Cuts boxes out, by bilinear interpolation and in float32, as TensorFlow does.

    A box is taken in parts of the picture's size, of which 1 is the middle of the last pixel.

    Returns:
        `(n, side, side, 3)`; what lies beyond the picture is 0, a mean grey.
    """
    sizes = np.array(picture.shape[1::-1])
    low, high = (corners / sizes).astype(np.float32).swapaxes(0, 1)
    last = (sizes - 1).astype(np.float32)
    step = (high - low) * last / np.float32(side - 1)
    at = (low * last)[:, None] + np.arange(side, dtype=np.float32)[:, None] * step[:, None]
    inside = (at >= 0) & (at <= last)
    first = np.clip(np.floor(at), 0, last - 1)
    x_part, y_part = np.moveaxis(at - first, -1, 0)
    columns, rows = np.moveaxis(first.astype(np.intp), -1, 0)

    def mixed(one: np.ndarray, other: np.ndarray, part: np.ndarray) -> np.ndarray:
        return one + (other - one) * part[..., None]

    pixels = picture.reshape(-1, 3)
    index = rows[:, :, None] * sizes[0] + columns[:, None]
    above, below = (
        mixed(pixels.take(left, axis=0), pixels.take(left + 1, axis=0), x_part[:, None])
        for left in (index, index + sizes[0])
    )
    patches = mixed(above, below, y_part[:, :, None])
    return patches * (inside[:, :, None, 1] & inside[:, None, :, 0])[..., None]


def _refined(corners: np.ndarray, said: np.ndarray) -> np.ndarray:
    """Moves the corners by offsets in parts of the box."""
    sizes = corners[:, 1:] - corners[:, :1] + 1
    return corners + said[:, :4].reshape(-1, 2, 2) * sizes


def _squared(corners: np.ndarray) -> np.ndarray:
    """Makes boxes square about their centres, with the longer side."""
    half = (corners[:, 1] - corners[:, 0]).max(axis=1)[:, None] / 2
    centre = corners.mean(axis=1)
    return np.stack([centre - half, centre + half], axis=1)


def _distinct(
    corners: np.ndarray, scores: np.ndarray, threshold: float, of_smaller: bool = False
) -> np.ndarray:
    """Returns the indices, best score first, of the boxes that no better box overlaps.

    A box that gives way still makes others give way.

    Args:
        corners: `(n, 2, 2)`.
        scores: `(n,)`.
        threshold: overlap that is too much: the common area over that of both together.
        of_smaller: over that of the smaller box instead.
    """
    # PNet's score is often 1 to the last bit. Which of several such boxes comes first moves the
    # landmarks by a pixel or two; NumPy's own order is the one that the package takes.
    order = np.argsort(scores)[::-1]
    low, high = corners[order].swapaxes(0, 1)
    areas = (high - low).prod(axis=1)
    alone = np.ones(len(order), bool)
    for start in range(0, len(order), _AT_ONCE):
        these, end = slice(start, start + _AT_ONCE), start + _AT_ONCE
        width, height = (
            np.minimum(high[these, None, axis], high[:end, axis])
            - np.maximum(low[these, None, axis], low[:end, axis])
            for axis in (0, 1)
        )
        common = np.maximum(width, 0) * np.maximum(height, 0)
        if of_smaller:
            whole = np.minimum(areas[these, None], areas[:end])
        else:
            whole = areas[these, None] + areas[:end] - common
        too_much = common > np.maximum(threshold * whole, 0)
        count, better = common.shape
        too_much &= np.tri(count, better, start - 1, dtype=bool)
        alone[these] = ~too_much.any(axis=1)
    return order[alone]
