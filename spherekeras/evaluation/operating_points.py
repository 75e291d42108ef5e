"""TAR at several FARs when the impostor scores are too many to keep.

A FAR of 1e-6 among a thousand million impostor pairs depends on the highest thousand of their
scores alone: these are kept, the others only counted. The numbers are those of
`metrics.operating_point` on all scores.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.errors import DataError
from spherekeras.evaluation.metrics import OperatingPoint

_CHUNK = 1 << 20


class HighestScores:
    """The highest scores of a long stream, and how many there were in all.

    Args:
        keep: how many to keep; `allowed(far, scores) + 1` is enough for a FAR.

    Attributes:
        seen: scores added so far.

    Example:

    >>> scores = HighestScores(2)
    >>> scores.add([0.1, 0.7, 0.3])
    >>> scores.add([0.5])
    >>> scores.descending().tolist(), scores.seen
    ([0.7, 0.5], 4)
    """

    def __init__(self, keep: int) -> None:
        self.seen = 0
        self._keep = keep
        self._kept: NDArray[np.floating] | None = None
        self._least = -math.inf
        self._waiting: list[NDArray[np.floating]] = []
        self._held = 0

    def add(self, scores: ArrayLike) -> None:
        """Adds finite scores of any shape."""
        new = np.asarray(scores).ravel()
        if not np.issubdtype(new.dtype, np.floating):
            new = new.astype(np.float64)
        self.seen += new.size
        if self._least > -math.inf:
            new = new[new > self._least]
        self._waiting.append(new.copy())
        self._held += new.size
        if self._held >= max(self._keep, _CHUNK):
            self._compact()

    def descending(self) -> NDArray[np.float64]:
        """Returns the highest `keep` scores (all where there are fewer), highest first."""
        self._compact()
        kept = np.zeros(0) if self._kept is None else self._kept
        return np.sort(kept.astype(np.float64))[::-1]

    def _compact(self) -> None:
        parts = self._waiting if self._kept is None else [self._kept, *self._waiting]
        merged = np.concatenate(parts) if parts else np.zeros(0)
        if merged.size > self._keep:
            merged = np.partition(merged, merged.size - self._keep)[-self._keep :].copy()
        if merged.size == self._keep:
            self._least = float(merged.min())
        self._kept, self._waiting, self._held = merged, [], 0


def allowed(far: float, impostors: int) -> int:
    """Returns how many of `impostors` may be accepted at a FAR of at most `far`.

    Example:

    >>> allowed(0.1, 25), allowed(0.1, 9)
    (2, 0)
    """
    if not 0 < far <= 1:
        raise DataError(
            f"Expected a rate in (0, 1]. Received: {far}. Pass a share, such as 0.001 for 0.1 %."
        )
    count = min(math.floor(far * impostors) + 1, impostors)
    while count and count / impostors > far:
        count -= 1
    return count


def operating_points(
    genuine: ArrayLike,
    impostors: HighestScores,
    fars: Sequence[float],
    names: tuple[str, str] = ("FAR", "different pairs"),
) -> list[OperatingPoint]:
    """Returns the `metrics.operating_point` of each FAR, in the order of `fars`.

    Args:
        genuine: (same pairs,) finite scores, at least one.
        impostors: the scores of the different pairs; it keeps more than `allowed` for each FAR.
        fars: wanted FARs, each in (0, 1].
        names: the rate and the things it counts, for the reason why one cannot be measured.

    Raises:
        DataError: on a FAR outside (0, 1], or no genuine score.

    Example:

    >>> impostors = HighestScores(10)
    >>> impostors.add([0.8, 0.1])
    >>> point = operating_points([0.9, 0.7, 0.2], impostors, [0.5])[0]
    >>> point.far, point.tar, round(point.threshold, 3)
    (0.5, 1.0, 0.15)
    """
    scores, highest = np.asarray(genuine, np.float64), impostors.descending()
    if not scores.size:
        raise DataError("Expected genuine scores. Received: none. Add pairs of one person.")
    return [_point(scores, highest, impostors.seen, far, names) for far in fars]


def plain(point: NamedTuple) -> dict[str, Any]:
    """Returns an operating point ready for JSON; NaN becomes None."""
    return {
        key: None if isinstance(value, float) and math.isnan(value) else value
        for key, value in point._asdict().items()
    }


def _point(
    genuine: NDArray[np.float64],
    highest: NDArray[np.float64],
    seen: int,
    far: float,
    names: tuple[str, str],
) -> OperatingPoint:
    accepted = allowed(far, seen)
    if not accepted:
        needed = math.ceil(round(1 / far, 6))
        reason = f"{names[0]} {far:g} needs at least {needed} {names[1]}, there are {seen}"
        return OperatingPoint(far, math.nan, math.nan, math.nan, reason)
    if accepted == seen:
        return OperatingPoint(far, 1.0, 1.0, float(min(genuine.min(), highest[seen - 1])))
    refused = highest[accepted]  # the highest impostor that must not pass
    passing, false = genuine[genuine > refused], highest[highest > refused]
    above = min((float(part.min()) for part in (passing, false) if part.size), default=math.inf)
    middle = above / 2 + refused / 2
    if above == math.inf:
        threshold = np.nextafter(max(genuine.max(), highest[0]), np.inf)
    else:
        threshold = middle if middle > refused else above
    return OperatingPoint(far, false.size / seen, passing.size / genuine.size, float(threshold))
