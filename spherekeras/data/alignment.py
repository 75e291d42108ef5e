"""Five landmarks to a crop: least-squares similarity onto a template, then one warp."""

import dataclasses
import difflib

import numpy as np

from spherekeras.data import images
from spherekeras.errors import DataError

_MOST_SIDE = 32_000  # OpenCV 4 draws from pictures of fewer pixels a side than 32,767


@dataclasses.dataclass(frozen=True)
class Template:
    """Where the five landmarks lie in a crop of a given size.

    Attributes:
        height: height of the crop in pixels.
        width: width of the crop in pixels.
        landmarks: (x, y) in pixels of left eye, right eye, nose, left and right mouth corner,
            as seen in the picture; the centre of the top left pixel is (0, 0).
    """

    height: int
    width: int
    landmarks: tuple[tuple[float, float], ...]


_SPHEREFACE = (
    (30.2946, 51.6963),
    (65.5318, 51.5014),
    (48.0252, 71.7366),
    (33.5493, 92.3655),
    (62.7299, 92.2041),
)

# The median of YuNet's landmarks in the crops that dlib's 68 landmarks give
# (`get_face_chip_details`, padding 0.25) for 796 pictures of LFW view 1, made symmetric. The
# 68-point mean face itself (an eye is the mean of its six points, then points 30, 48 and 54, at
# `(point + 0.25) / 1.5 * 149`) lies within 3 pixels, its eyes closer together: cropped by it,
# faces are 4 % smaller than dlib's.
_DLIB = ((45.8, 44.4), (101.2, 44.4), (73.5, 76.9), (49.9, 102.6), (97.1, 102.6))

TEMPLATES: dict[str, Template] = {
    "sphereface_112x96": Template(112, 96, _SPHEREFACE),
    "arcface_112x112": Template(112, 112, tuple((x + 8.0, y) for x, y in _SPHEREFACE)),
    "dlib_150x150": Template(150, 150, _DLIB),
}
"""The field's templates, named `network_height x width`. The columns 8 to 103 of an
`arcface_112x112` crop are the `sphereface_112x96` crop."""

INNER_COLUMNS = slice(8, 104)


def find_template(name: str) -> Template:
    """Returns the template of that name.

    Raises:
        DataError: no such template; the nearest name is suggested.

    Example:

    >>> find_template("sphereface_112x96").width
    96
    """
    if name not in TEMPLATES:
        near = difflib.get_close_matches(name, TEMPLATES, n=1, cutoff=0.0)[0]
        raise DataError(
            f"There is no template {name!r}. Did you mean {near!r}? "
            f"Known: {', '.join(sorted(TEMPLATES))}."
        )
    return TEMPLATES[name]


def similarity_transform(source_points: np.ndarray, target_points: np.ndarray) -> np.ndarray:
    """Finds the rotation, scale and shift that best lay one set of points on another.

    With centred points as complex numbers z and w the least-squares solution of a z = w is
    a = <z, w> / <z, z>: its modulus is the scale, its argument the rotation. Mirroring is
    ruled out by form. Equal to Umeyama's solution (PAMI 1991, eqs. 40-42) in the plane.

    Args:
        source_points: `(n, 2)` x and y in pixels, n at least 2.
        target_points: `(n, 2)`, the same points where they should come to lie.

    Returns:
        float64 matrix M of shape `(2, 3)`: `target = M[:, :2] @ source + M[:, 2]`.

    Raises:
        DataError: shapes that do not match, a value that is not finite, or points that fix no
            scale (all in one place).

    Example:

    >>> square = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    >>> similarity_transform(square, 2 * square + [5, 7]).round(6) + 0.0
    array([[2., 0., 5.],
           [0., 2., 7.]])
    """
    source = np.asarray(source_points, np.float64)
    target = np.asarray(target_points, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 2 or len(source) < 2:
        raise DataError(
            "`similarity_transform` expects two arrays of the same shape (n, 2), n >= 2. "
            f"Received: {source.shape} and {target.shape}."
        )
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise DataError("`similarity_transform` expects finite points. Received: NaN or infinity.")
    source_centre, target_centre = source.mean(axis=0), target.mean(axis=0)
    z = (source - source_centre) @ np.array([1, 1j])
    w = (target - target_centre) @ np.array([1, 1j])
    spread, product = np.vdot(z, z).real, np.vdot(z, w)
    extent = np.abs(source).max() ** 2 + 1.0
    if spread <= 1e-12 * extent or abs(product) <= 1e-12 * (spread + np.vdot(w, w).real):
        raise DataError(
            "These points fix no similarity transform: they lie in one place, or one set is the "
            f"other's mirror image. Received: {source.tolist()} for {target.tolist()}."
        )
    a = product / spread
    linear = np.array([[a.real, -a.imag], [a.imag, a.real]])
    return np.column_stack([linear, target_centre - linear @ source_centre])


def warp(image: np.ndarray, transform: np.ndarray, height: int, width: int) -> np.ndarray:
    """Draws a picture through a similarity transform, without aliasing.

    Bilinear. Where the transform shrinks by 2 or more, the picture is first shrunk by the
    whole part of that factor with area averaging. Beyond its border its edge pixels repeat.

    Args:
        image: uint8 `(h, w, 3)`.
        transform: `(2, 3)` from pixels of `image` to pixels of the result; mirroring is allowed.
        height: height of the result in pixels.
        width: width of the result in pixels.

    Returns:
        uint8 `(height, width, 3)`.
    """
    import cv2

    scale = np.sqrt(abs(np.linalg.det(transform[:, :2])))
    shrink = int(1.0 / scale + 1e-9)
    if shrink >= 2 or max(image.shape[:2]) > _MOST_SIDE:
        # Shrink only the part that is drawn, a margin around it included.
        shrink = max(shrink, 1)
        corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], np.float64)
        inside = cv2.invertAffineTransform(transform)
        corners = corners @ inside[:, :2].T + inside[:, 2]
        limits = np.array(image.shape[1::-1])
        low = np.clip(np.floor(corners.min(axis=0)).astype(int) - 2 * shrink, 0, limits - 1)
        high = np.clip(np.ceil(corners.max(axis=0)).astype(int) + 2 * shrink, low + 1, limits)
        part = image[low[1] : high[1], low[0] : high[0]]
        size = np.maximum((high - low) // shrink, 1)
        if shrink > 1:
            part = cv2.resize(part, tuple(size.tolist()), interpolation=cv2.INTER_AREA)
        image = part
        ratio = (high - low) / size  # pixels of the picture in one of the shrunk part
        # Pixel centres: full = (small + 0.5) * ratio - 0.5 + low.
        linear = transform[:, :2] * ratio
        transform = np.column_stack(
            [linear, transform[:, 2] + transform[:, :2] @ (0.5 * ratio - 0.5 + low)]
        )
    return cv2.warpAffine(
        image,
        transform,
        (width, height),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )


def align(
    image: np.ndarray, landmarks: np.ndarray, template: str = "sphereface_112x96"
) -> np.ndarray:
    """Cuts the aligned crop of one face out of a picture.

    Alignment decides accuracy as much as the loss does, so training and use must share the
    template. See `warp` for interpolation, shrinking and the border.

    Args:
        image: RGB uint8 `(h, w, 3)`.
        landmarks: `(5, 2)` x and y in pixels: left eye, right eye, nose, left and right mouth
            corner, as seen in the picture.
        template: a name in `TEMPLATES`.

    Returns:
        RGB uint8 crop of the template's size.

    Raises:
        ImageError: `image` is not RGB uint8.
        DataError: unknown template, or landmarks that fix no transform.

    Example:

    >>> image = np.zeros((250, 250, 3), np.uint8)
    >>> eyes_nose_mouth = [[105, 112], [145, 112], [125, 135], [110, 155], [140, 155]]
    >>> align(image, eyes_nose_mouth).shape
    (112, 96, 3)
    """
    images.check_image(image)
    target = find_template(template)
    transform = similarity_transform(landmarks, np.array(target.landmarks))
    return warp(image, transform, target.height, target.width)
