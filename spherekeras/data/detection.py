"""Faces and five landmarks in a photograph: MTCNN or YuNet, and which face is meant."""

import contextlib
import dataclasses
import difflib
import os
import pathlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from spherekeras.data import alignment, images, mtcnn
from spherekeras.errors import DataError
from spherekeras.files import sha256

_MIRROR_ORDER = [1, 0, 2, 4, 3]
_LANDMARKS = np.array(alignment.TEMPLATES["arcface_112x112"].landmarks) - [55.5, 55.5]
# The views of a face: shift x, shift y (in hundredths of the view's side), scale, mirrored.
_VIEWS = (
    (0.0, 0.0, 0.90, False),
    (2.0, 1.2, 0.97, True),
    (1.2, -2.0, 1.04, False),
    (-1.6, -1.6, 1.12, True),
    (-1.6, -1.6, 1.12, False),
    (1.2, -2.0, 1.04, True),
    (2.0, 1.2, 0.97, False),
    (0.0, 0.0, 0.90, True),
)
# Each look at a picture until one finds a face: its size against the first look's, and whether
# the detector must be sure.
_LOOKS = tuple((size, sure) for sure in (True, False) for size in (1.0, 0.5, 2.0))
_log_level = threading.RLock()


@dataclasses.dataclass(frozen=True)
class Face:
    """One face found in a picture, in the picture's pixels.

    Attributes:
        box: x, y of the top left corner, width, height.
        landmarks: float64 `(5, 2)`: left eye, right eye, nose, left and right mouth corner as
            seen in the picture (the left eye of a frontal face has the smaller x).
        score: the detector's confidence in [0, 1].
    """

    box: tuple[float, float, float, float]
    landmarks: np.ndarray
    score: float


class Detector(Protocol):
    """What finds faces. Anything with these three can stand in for the two below.

    Attributes:
        name: says all that the landmarks depend on; stored with every crop.
        thread_safe: whether several threads may call `detect` at once.
    """

    name: str
    thread_safe: bool

    def detect(self, image: np.ndarray) -> list[Face]:
        """Returns the faces of an RGB uint8 `(h, w, 3)` picture, the best score first."""


class MtcnnDetector:
    """The three-stage detector that SphereFace was trained and tested with.

    Its weights lie in the package `mtcnn`, which is read and not imported: LiteRT runs the
    networks, with no TensorFlow. Pictures are brought to a long side of 160 to 1024 pixels, and
    faces of 20 pixels there are found. Where none is, it looks again at half and twice that size,
    then at all three sizes with the thresholds of its stages lowered from 0.6, 0.7, 0.8 to 0.5,
    0.6, 0.6.

    One `MtcnnDetector` can be shared by all threads; each that calls `detect` gets its own
    networks (a millisecond to build, once).

    Raises:
        DataError: the package `mtcnn` is not installed, or its weights are not as expected.

    Source: Zhang et al., Joint Face Detection and Alignment using Multi-task Cascaded
    Convolutional Networks, 2016.
    """

    name = "mtcnn"
    thread_safe = True

    def __init__(self) -> None:
        self._cascade = mtcnn.Mtcnn()

    def detect(self, image: np.ndarray) -> list[Face]:
        """Returns the faces of an RGB uint8 `(h, w, 3)` picture, the best score first."""
        images.check_image(image)
        long = min(max(*image.shape[:2], 160), 1024)
        for size, sure in _LOOKS:
            small, ratio = _resized(image, round(long * size))
            thresholds = (0.6, 0.7, 0.8) if sure else (0.5, 0.6, 0.6)
            corners, landmarks, scores = self._cascade(small, thresholds)
            if len(scores):
                break
        corners, landmarks = ((pixels + 0.5) * ratio - 0.5 for pixels in (corners, landmarks))
        return _faces(corners, landmarks, scores)


class YuNetDetector:
    """A small and fast detector over `cv2.FaceDetectorYN`, with steadied landmarks.

    One pass over the picture finds the faces. Its landmarks jitter by some 2% of the face with
    the picture's position on the network's grid, so every face is looked at again, upright and
    large, in several views (shifted, scaled, mirrored), and what they say is averaged. Four
    views cut the jitter to about a quarter.

    Pictures are brought to a long side of 320 to 640 pixels. Where no face scores 0.6 there, it
    looks again at half that size (a face may fill the picture) and at twice (it may be small),
    then at all three sizes for a score of 0.45.

    `cv2.FaceDetectorYN` is not thread-safe. Each thread that calls `detect` gets its own
    (some 5 ms to build, once), so one `YuNetDetector` can be shared by all threads.

    Args:
        model: path of a YuNet `.onnx` file.
        views: 0 to 8 views a face; 0 keeps the landmarks of the first pass.

    Raises:
        DataError: no such file, not a YuNet file, or `views` out of range.

    Source: Wu et al., YuNet: A Tiny Millisecond-level Face Detector, 2023.
    """

    thread_safe = True

    def __init__(self, model: str | os.PathLike[str], views: int = 4) -> None:
        self._model = pathlib.Path(model)
        if not self._model.is_file():
            raise DataError(f"There is no YuNet model file {self._model}. Check the path.")
        if not 0 <= views <= len(_VIEWS):
            raise DataError(f"`views` must lie in 0 to {len(_VIEWS)}. Received: {views}.")
        self._views = _VIEWS[:views]
        self.name = f"yunet:{self._model.stem}:{sha256(self._model)[:8]}:views={views}"
        self._local = threading.local()
        self._any_size = self._takes(160)
        if not self._any_size and not self._takes(320):
            raise DataError(
                f"{self._model} is not a YuNet face detector, or is damaged. Expected an .onnx "
                "file for `cv2.FaceDetectorYN`, such as face_detection_yunet_2026may.onnx."
            )

    def detect(self, image: np.ndarray) -> list[Face]:
        """Returns the faces of an RGB uint8 `(h, w, 3)` picture, the best score first."""
        images.check_image(image)
        side = 320
        if self._any_size:
            side = min(max(-(-max(image.shape[:2]) // 32) * 32, 320), 640)
        for size, sure in _LOOKS:
            if size > 1.0 and not self._any_size:
                continue
            small, ratio = _resized(image, round(side * size))
            frame = round(side * max(size, 1.0))
            corner = (frame - max(small.shape)) // 2  # 0, unless the picture is smaller
            canvas = np.zeros((frame, frame, 3), np.uint8)
            canvas[corner:, corner:][: small.shape[0], : small.shape[1]] = small
            to_canvas = np.column_stack([np.diag(1.0 / ratio), 0.5 / ratio - 0.5 + corner])
            corners, landmarks, scores = self._look(canvas, to_canvas, 0.6 if sure else 0.45)
            if len(scores):
                break
        steady = [self._steadied(image, *face) for face in zip(corners, landmarks, strict=True)]
        return _faces(corners, steady, scores)

    def _steadied(
        self, image: np.ndarray, corners: np.ndarray, landmarks: np.ndarray
    ) -> np.ndarray:
        """Returns the landmarks averaged over the views that find this face again.

        Each view is drawn by what the views before it say, so that a tilted face is upright.
        """
        side = 256 if self._any_size else 320
        found: list[np.ndarray] = []
        for right, down, scale, mirrored in self._views:
            target = _LANDMARKS * (side / 122 * scale)
            if mirrored:
                target = target[_MIRROR_ORDER] * [-1, 1]
            transform = alignment.similarity_transform(landmarks, target)
            if mirrored:
                transform[0] *= -1
            transform[:, 2] += side / 2 + np.array([right, down]) * (side / 100)
            view = alignment.warp(image, transform, side, side)
            boxes, points, _ = self._look(view, transform)
            overlaps = [_overlap(corners, box) for box in boxes]
            best = int(np.argmax([0.3, *overlaps])) - 1
            if best >= 0:
                found.append(points[best])
                landmarks = np.mean(found, axis=0)
        return landmarks

    def _look(
        self, view: np.ndarray, transform: np.ndarray, score: float = 0.6
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns corners `(n, 2, 2)`, landmarks `(n, 5, 2)` and scores, in the picture's pixels.

        `transform` is the one that drew the RGB `view` from the picture; `score` is the lowest.
        """
        import cv2

        network = self._network(view.shape[0])
        network.setScoreThreshold(score)
        rows = network.detect(cv2.cvtColor(view, cv2.COLOR_RGB2BGR))[1]
        rows = np.zeros((0, 15)) if rows is None else rows.astype(np.float64)
        corners = rows[:, :4].reshape(-1, 2, 2)
        corners[:, 1] += corners[:, 0]
        landmarks = rows[:, 4:14].reshape(-1, 5, 2)
        linear = np.linalg.inv(transform[:, :2])
        corners = (corners - transform[:, 2]) @ linear.T
        landmarks = (landmarks - transform[:, 2]) @ linear.T
        if np.linalg.det(linear) < 0:
            landmarks = landmarks[:, _MIRROR_ORDER]
        corners = np.stack([corners.min(axis=1), corners.max(axis=1)], axis=1)
        return corners, landmarks, rows[:, 14]

    def _network(self, side: int) -> Any:
        """Returns this thread's network, set to square pictures of that side."""
        import cv2

        if not hasattr(self._local, "network"):
            with _quiet_opencv():
                self._local.network = cv2.FaceDetectorYN.create(
                    str(self._model), "", (side, side), 0.6, 0.3, 500
                )
        self._local.network.setInputSize((side, side))
        return self._local.network

    def _takes(self, side: int) -> bool:
        """Tells whether the model file works on square pictures of that side."""
        import cv2

        try:
            with _quiet_opencv():
                self._network(side).detect(np.zeros((side, side, 3), np.uint8))
        except cv2.error:
            return False
        return True


def load_detector(name: str = "auto", model: str | os.PathLike[str] | None = None) -> Detector:
    """Builds a detector by name.

    Args:
        name: "mtcnn", "yunet", or "auto": YuNet where a model file is given, else MTCNN.
        model: YuNet's `.onnx` file. Default: the environment variable `SPHEREKERAS_YUNET`.

    Raises:
        DataError: unknown name, "yunet" with no model file, a missing or damaged one, or
            the package `mtcnn` is not installed or damaged.
    """
    model = model or os.environ.get("SPHEREKERAS_YUNET")
    if name == "auto":
        name = "yunet" if model else "mtcnn"
    if name == "mtcnn":
        return MtcnnDetector()
    if name == "yunet":
        if not model:
            raise DataError(
                "The detector 'yunet' needs its model file. Give its path as `model`, or set "
                "SPHEREKERAS_YUNET=path/to/face_detection_yunet.onnx."
            )
        return YuNetDetector(model)
    near = difflib.get_close_matches(name, ("auto", "mtcnn", "yunet"), n=1, cutoff=0.0)[0]
    raise DataError(
        f"There is no detector {name!r}. Did you mean {near!r}? Known: auto, mtcnn, yunet."
    )


RULES = ("central-largest", "largest", "central", "best")


def check_rule(rule: str) -> None:
    """Refuses a rule that `choose_face` does not know.

    Raises:
        DataError: unknown rule; the nearest is suggested.
    """
    if rule not in RULES:
        near = difflib.get_close_matches(rule, RULES, n=1, cutoff=0.0)[0]
        raise DataError(
            f"There is no rule {rule!r}. Did you mean {near!r}? Known: {', '.join(RULES)}."
        )


def choose_face(
    faces: Sequence[Face], image_shape: Sequence[int], rule: str = "central-largest"
) -> Face:
    """Chooses the face that is meant, where a picture shows several.

    - "central-largest": the greatest size minus distance, both in pixels: the square root of
      the box's area less the distance of its centre from the picture's. The subject of a
      photograph is large or central, mostly both; in a portrait with a passer-by behind, size
      decides, and among people of one size the middle one is taken, as LFW means it.
    - "largest": the greatest box.
    - "central": the box centre nearest to the picture's centre.
    - "best": the detector's best score.

    Equal faces: the first in `faces`.

    Args:
        faces: what `detect` returned, at least one.
        image_shape: height and width first.
        rule: one of the four.

    Raises:
        DataError: unknown rule, or no faces.

    Example:

    >>> small = Face((100, 100, 20, 20), np.zeros((5, 2)), 0.99)
    >>> large = Face((10, 90, 90, 90), np.zeros((5, 2)), 0.9)
    >>> choose_face([small, large], (220, 220, 3)) is large
    True
    """
    check_rule(rule)
    if not faces:
        raise DataError("`choose_face` expects at least one face. Received: none.")

    def merit(face: Face) -> float:
        x, y, width, height = face.box
        size = float(np.sqrt(width * height))
        distance = float(
            np.hypot(x + width / 2 - image_shape[1] / 2, y + height / 2 - image_shape[0] / 2)
        )
        return {
            "central-largest": size - distance,
            "largest": size,
            "central": -distance,
            "best": face.score,
        }[rule]

    return max(faces, key=merit)


def _faces(corners: np.ndarray, landmarks: Sequence[np.ndarray], scores: np.ndarray) -> list[Face]:
    faces = [
        Face((*low.tolist(), *(high - low).tolist()), points, float(score))
        for (low, high), points, score in zip(corners, landmarks, scores, strict=True)
        if np.isfinite(points).all()
    ]
    return sorted(faces, key=lambda face: (-face.score, face.box))


def _overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Returns intersection over union of two boxes given as `[[x0, y0], [x1, y1]]`."""
    low, high = np.maximum(first[0], second[0]), np.minimum(first[1], second[1])
    common = np.prod(np.maximum(high - low, 0.0))
    return float(common / (np.prod(first[1] - first[0]) + np.prod(second[1] - second[0]) - common))


def _resized(image: np.ndarray, long: int) -> tuple[np.ndarray, np.ndarray]:
    """Brings the long side to `long` pixels.

    Returns:
        The picture, and how many of the original's pixels (x, y) one of its pixels spans.
    """
    import cv2

    height, width = image.shape[:2]
    factor = long / max(height, width)
    if factor == 1.0:
        return image, np.ones(2)
    size = np.maximum(np.rint(np.array([width, height]) * factor), 1).astype(int)
    mode = cv2.INTER_AREA if factor < 1.0 else cv2.INTER_LINEAR
    return cv2.resize(image, tuple(size.tolist()), interpolation=mode), [width, height] / size


@contextlib.contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keeps OpenCV's log off standard error; one thread at a time, its level is global."""
    import cv2

    logging = cv2.utils.logging
    with _log_level:
        level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
        try:
            yield
        finally:
            logging.setLogLevel(level)
