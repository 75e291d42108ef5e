"""Error rates by kind of picture: how far one threshold holds for blurred or old photographs."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.errors import DataError
from spherekeras.evaluation import metrics

_LARGEST_TINT = 8.0  # mean of largest less smallest channel; sepia prints have more
_PARTS = ("least sharp", "middle", "sharpest")


class Kind(NamedTuple):
    """One kind of pairs at the threshold that all pairs share.

    Attributes:
        name: what its pairs have in common.
        same, different: pairs of each sort.
        tar: share of the same pairs that are accepted; NaN where there are none.
        far: share of the different pairs that are accepted; NaN where there are none.
    """

    name: str
    same: int
    tar: float
    different: int
    far: float


def sharpness(crop: NDArray[np.uint8]) -> float:
    """Returns the variance of a crop's Laplacian, in squared grey levels: small when blurred.

    Args:
        crop: RGB uint8 (height, width, 3). Crops of one size compare.

    Example:

    >>> sharpness(np.full((8, 8, 3), 90, np.uint8))
    0.0

    Source: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", 2000.
    """
    import cv2

    return float(cv2.Laplacian(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())


def is_grey(crop: NDArray[np.uint8]) -> bool:
    """Returns whether a crop is black and white.

    Args:
        crop: RGB uint8 (height, width, 3).

    Example:

    >>> is_grey(np.full((8, 8, 3), 90, np.uint8))
    True
    """
    tint = crop.max(axis=-1).astype(np.int16) - crop.min(axis=-1)
    return bool(tint.mean() < _LARGEST_TINT)


def quality_kinds(
    sharpnesses: ArrayLike, greys: ArrayLike, first: ArrayLike, second: ArrayLike
) -> dict[str, NDArray[np.bool_]]:
    """Sorts pairs by the quality of their pictures: thirds of sharpness, colour.

    Args:
        sharpnesses: (pictures,) as `sharpness` gives them.
        greys: (pictures,) booleans.
        first, second: (pairs,) positions of the two pictures.

    Returns:
        {name: (pairs,) booleans}. A pair is as sharp as its less sharp picture, and black and
        white where at least one is.

    Example:

    >>> kinds = quality_kinds([5.0, 9.0, 1.0], [0, 0, 1], [0, 0, 1], [1, 2, 2])
    >>> kinds["a black and white picture"].tolist()
    [False, True, True]
    """
    left, right = np.asarray(first, np.int64), np.asarray(second, np.int64)
    sharp = np.minimum(np.asarray(sharpnesses)[left], np.asarray(sharpnesses)[right])
    grey = metrics.booleans(greys)
    either = grey[left] | grey[right]
    low, high = np.quantile(sharp, [1 / 3, 2 / 3]) if sharp.size else (0.0, 0.0)
    part = (sharp > low).astype(int) + (sharp > high)
    return {
        **{f"sharpness: {name} third": part == place for place, name in enumerate(_PARTS)},
        "both in colour": ~either,
        "a black and white picture": either,
    }


def by_kind(
    similarities: ArrayLike,
    same: ArrayLike,
    thresholds: ArrayLike,
    kinds: Mapping[str, ArrayLike],
) -> list[Kind]:
    """Returns what a threshold accepts of each kind of pairs.

    Args:
        similarities: (pairs,) finite numbers.
        same: (pairs,) booleans.
        thresholds: one number, or (pairs,) numbers.
        kinds: {name: (pairs,) booleans}; a pair may be of several.

    Returns:
        A row a kind that has pairs, in the order of `kinds`.

    Raises:
        DataError: lengths that do not fit.

    Example:

    >>> by_kind([0.9, 0.2, 0.6], [1, 1, 0], 0.5, {"all": [1, 1, 1]})
    [Kind(name='all', same=2, tar=0.5, different=1, far=1.0)]
    """
    truth = metrics.booleans(same)
    scores, limits = np.asarray(similarities), np.asarray(thresholds)
    if limits.shape not in ((), scores.shape):
        raise DataError(
            f"Expected one threshold, or one for each of {scores.size} pairs. Received: "
            f"{limits.size}. Pass a number, or the pairs' own thresholds."
        )
    passed = scores >= limits
    rows = []
    for name, members in kinds.items():
        chosen = metrics.booleans(members)
        if not chosen.shape == truth.shape == passed.shape:
            raise DataError(
                f"Expected {truth.size} booleans for the kind {name!r} and as many similarities. "
                f"Received: {chosen.size} and {passed.size}. Pass one of each for every pair."
            )
        own, others = passed[chosen & truth], passed[chosen & ~truth]
        if own.size or others.size:
            rows.append(Kind(name, own.size, _share(own), others.size, _share(others)))
    return rows


def kinds_table(kinds: Sequence[Kind]) -> list[dict[str, Any]]:
    """Returns kinds ready for JSON; NaN becomes None."""
    return [
        {
            key: (None if value != value else round(value, 6)) if key in ("tar", "far") else value
            for key, value in kind._asdict().items()
        }
        for kind in kinds
    ]


def _share(passed: NDArray[np.bool_]) -> float:
    return float(passed.mean()) if passed.size else float("nan")
