"""How far embeddings are from their own class and from the nearest other one."""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from spherekeras.errors import DataError


@dataclasses.dataclass(frozen=True)
class ClassAngles:
    """Angles between embeddings and class weights, in radians.

    Attributes:
        target: to the embedding's own class, `(n,)`.
        nearest_other: to the nearest other class, `(n,)`.
        mean_target: mean of `target`.
        mean_nearest_other: mean of `nearest_other`.
        margin: mean of `nearest_other - target`: how far from being mistaken; negative where
            another class is nearer.
    """

    target: np.ndarray
    nearest_other: np.ndarray

    @property
    def mean_target(self) -> float:
        return float(self.target.mean())

    @property
    def mean_nearest_other(self) -> float:
        return float(self.nearest_other.mean())

    @property
    def margin(self) -> float:
        return float((self.nearest_other - self.target).mean())


def class_angles(
    embeddings: ArrayLike, kernel: ArrayLike, labels: ArrayLike, batch: int = 1024
) -> ClassAngles:
    """Measures the margin that training left between classes.

    Args:
        embeddings: `(n, dim)`, of any length above 0.
        kernel: class weights `(dim, units)`, as `head.kernel` holds them.
        labels: integers `(n,)` in `[0, units)`.
        batch: embeddings compared at a time.

    Raises:
        DataError: shapes that do not fit, a label out of range, a vector of length 0, or fewer
            than two classes.

    Example:

    >>> angles = class_angles([[1.0, 0.0]], [[1.0, 0.0], [0.0, 2.0]], [0])
    >>> round(angles.mean_target, 4), round(angles.mean_nearest_other, 4)
    (0.0, 1.5708)

    Source: SphereFace, arXiv 1704.08063, section 3.3 (the angular margin).
    """
    x, w = np.asarray(embeddings, np.float64), np.asarray(kernel, np.float64)
    y = np.asarray(labels)
    fits = x.ndim == 2 and w.ndim == 2 and x.shape[1] == w.shape[0] and y.shape == x.shape[:1]
    if not fits or not len(x) or w.shape[1] < 2:
        raise DataError(
            "Expected embeddings (n, dim), class weights (dim, units) of at least two classes and "
            f"labels (n,). Received: shapes {x.shape}, {w.shape} and {y.shape}."
        )
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= w.shape[1]:
        raise DataError(
            f"Expected integer labels in [0, {w.shape[1]}). Received: dtype {y.dtype}, from "
            f"{y.min()} to {y.max()}."
        )
    lengths, widths = np.linalg.norm(x, axis=1, keepdims=True), np.linalg.norm(w, axis=0)
    if not (lengths.all() and widths.all()):
        raise DataError("Expected vectors with a direction. Received: one of length 0.")
    x, w = x / lengths, w / widths
    target, other = np.empty(len(x)), np.empty(len(x))
    for start in range(0, len(x), batch):
        part = slice(start, start + batch)
        cosines = x[part] @ w
        rows = np.arange(len(cosines))
        target[part] = cosines[rows, y[part]]
        cosines[rows, y[part]] = -2.0
        other[part] = cosines.max(axis=1)
    return ClassAngles(np.arccos(np.clip(target, -1, 1)), np.arccos(np.clip(other, -1, 1)))
