"""Verification metrics on plain arrays of pairs.

`similarities` has one number a pair, higher meaning more alike; `same` is true where both
pictures show one person. A threshold accepts every pair with `similarity >= threshold`, so
pairs of equal similarity are accepted or refused together. FAR is the share of different
pairs accepted, TAR the share of same pairs accepted.
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.errors import DataError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


class Roc(NamedTuple):
    """The ROC, one point for each distinct similarity, from strict to lenient.

    The first point is (0, 0) at threshold infinity, the last is (1, 1) at the lowest similarity.
    """

    far: Floats
    tar: Floats
    thresholds: Floats


class OperatingPoint(NamedTuple):
    """What a verification system does at a wanted FAR.

    Attributes:
        wanted_far: the FAR that was asked for.
        far: the measured FAR, at most `wanted_far`; NaN where it cannot be measured.
        tar: the TAR there; NaN where it cannot be measured.
        threshold: the threshold; NaN where it cannot be measured.
        reason: why it could not be measured, else empty.
    """

    wanted_far: float
    far: float
    tar: float
    threshold: float
    reason: str = ""


def booleans(same: ArrayLike) -> Bools:
    """Returns `same` as booleans; a `DataError` on other values than true/false and 1/0."""
    truth = np.asarray(same)
    if truth.dtype != np.bool_ and not np.isin(truth, (0, 1)).all():
        raise DataError(
            "Expected `same` as true/false or 1/0. Received: other values, dtype "
            f"{truth.dtype}. Pass `same == 1`, or whatever means one person in your list."
        )
    return truth.astype(np.bool_)


def _pairs(similarities: ArrayLike, same: ArrayLike) -> tuple[Floats, Bools]:
    scores, truth = np.asarray(similarities, np.float64), booleans(same)
    if scores.ndim != 1 or truth.shape != scores.shape or not scores.size:
        raise DataError(
            "Expected `similarities` and `same` as arrays of one shape (pairs,), with at least one "
            f"pair. Received: shapes {scores.shape} and {truth.shape}. Pass one number and one "
            "true/false for each pair."
        )
    if not np.isfinite(scores).all():
        raise DataError(
            f"Expected finite similarities. Received: {np.count_nonzero(~np.isfinite(scores))} of "
            f"{scores.size} are NaN or infinite. Check the embeddings they come from: "
            "`numpy.isfinite(embeddings).all()`."
        )
    return scores, truth


def _accepted(
    similarities: ArrayLike, same: ArrayLike
) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
    """Thresholds from infinity down, with the same and the different pairs that each accepts."""
    scores, truth = _pairs(similarities, same)
    if truth.all() or not truth.any():
        raise DataError(
            "Expected same and different pairs. Received: "
            f"{np.count_nonzero(truth)} same, {np.count_nonzero(~truth)} different. Add pairs of "
            "the missing kind."
        )
    levels, level = np.unique(scores, return_inverse=True)
    counts = [
        np.concatenate([[0], np.cumsum(np.bincount(level[kind], minlength=levels.size)[::-1])])
        for kind in (truth, ~truth)
    ]
    return np.concatenate([[np.inf], levels[::-1]]), counts[0], counts[1]


def _between(thresholds: Floats) -> Floats:
    """Moves each threshold of a ROC midway to the next lower one: the same pairs are accepted.

    Rounding noise in a similarity can then flip no pair. The strictest one stands just above the
    highest similarity, the most lenient one at the lowest.
    """
    upper, lower = thresholds[1:-1], thresholds[2:]
    middle = upper / 2 + lower / 2
    middle = np.where(middle > lower, middle, upper)
    return np.concatenate([[np.nextafter(thresholds[1], np.inf)], middle, thresholds[-1:]])


def roc(similarities: ArrayLike, same: ArrayLike) -> Roc:
    """Returns the receiver operating characteristic: FAR, TAR and threshold of every point.

    Args:
        similarities: (pairs,) finite numbers.
        same: (pairs,) booleans.

    Returns:
        A `Roc` of three float64 arrays, (distinct similarities + 1,) each.

    Raises:
        DataError: on unequal lengths, a similarity that is not finite, or one kind of pair only.

    Example:

    >>> far, tar, thresholds = roc([0.9, 0.5, 0.5, 0.1], [True, True, False, False])
    >>> far.tolist(), tar.tolist(), thresholds.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0], [inf, 0.9, 0.5, 0.1])
    """
    thresholds, true_accepts, false_accepts = _accepted(similarities, same)
    return Roc(false_accepts / false_accepts[-1], true_accepts / true_accepts[-1], thresholds)


def auc(similarities: ArrayLike, same: ArrayLike) -> float:
    """Returns the area under the ROC: the chance that a same pair outscores a different one.

    Equal similarities count half (the Mann-Whitney statistic). Arguments and errors as in `roc`.

    Example:

    >>> auc([0.9, 0.5, 0.5, 0.1], [True, True, False, False])
    0.875
    """
    far, tar, _ = roc(similarities, same)
    return float(np.diff(far) @ (tar[1:] + tar[:-1]) / 2)


def eer(similarities: ArrayLike, same: ArrayLike) -> float:
    """Returns the equal error rate: FAR where it equals 1 - TAR, linear between ROC points.

    Arguments and errors as in `roc`.

    Example:

    >>> eer([0.9, 0.3, 0.6, 0.1], [True, True, False, False])
    0.5
    """
    far, tar, _ = roc(similarities, same)
    excess = far + tar - 1  # rises from -1 to 1
    right = int(np.argmax(excess >= 0))
    left = right - 1
    share = -excess[left] / (excess[right] - excess[left])
    return float(far[left] + share * (far[right] - far[left]))


def operating_point(similarities: ArrayLike, same: ArrayLike, far: float) -> OperatingPoint:
    """Returns the TAR and the threshold at a wanted FAR.

    It is the most lenient point whose measured FAR is at most `far`, so its TAR is the largest
    such TAR. Its threshold lies midway to the next lower similarity. Fewer than `1 / far`
    different pairs cannot measure that FAR: then the numbers are NaN and `reason` says so.

    Args:
        similarities: (pairs,) finite numbers.
        same: (pairs,) booleans.
        far: the wanted FAR, in (0, 1].

    Raises:
        DataError: as `roc`, or on a `far` outside (0, 1].

    Example:

    >>> point = operating_point([0.9, 0.7, 0.2, 0.8, 0.1], [1, 1, 1, 0, 0], far=0.5)
    >>> point.far, point.tar, round(point.threshold, 3)
    (0.5, 1.0, 0.15)
    >>> operating_point([0.9, 0.1], [1, 0], far=0.01).reason
    'FAR 0.01 needs at least 100 different pairs, there are 1'
    """
    if not 0 < far <= 1:
        raise DataError(
            f"Expected a FAR in (0, 1]. Received: {far}. Pass a share, such as 0.001 for 0.1 %."
        )
    thresholds, true_accepts, false_accepts = _accepted(similarities, same)
    different = int(false_accepts[-1])
    if 1 / different > far:
        needed = math.ceil(round(1 / far, 6))
        reason = f"FAR {far:g} needs at least {needed} different pairs, there are {different}"
        return OperatingPoint(far, math.nan, math.nan, math.nan, reason)
    rates = false_accepts / different
    last = int(np.flatnonzero(rates <= far)[-1])
    return OperatingPoint(
        far,
        float(rates[last]),
        float(true_accepts[last] / true_accepts[-1]),
        float(_between(thresholds)[last]),
    )


def tar_at_far(similarities: ArrayLike, same: ArrayLike, far: float) -> float:
    """Returns the largest TAR whose measured FAR is at most `far`, NaN with too few pairs.

    `operating_point(...).reason` says why it is NaN. Arguments and errors as there.

    Example:

    >>> tar_at_far([0.9, 0.7, 0.2, 0.8, 0.1], [1, 1, 1, 0, 0], far=0.5)
    1.0
    """
    return operating_point(similarities, same, far).tar


def threshold_at_far(similarities: ArrayLike, same: ArrayLike, far: float) -> float:
    """Returns the threshold of `operating_point`; arguments as there.

    Raises:
        DataError: as `operating_point`, and where the pairs are too few to measure `far`, since a
            threshold with an unknown FAR must not be used.

    Example:

    >>> round(threshold_at_far([0.9, 0.7, 0.2, 0.8, 0.1], [1, 1, 1, 0, 0], far=0.5), 3)
    0.15
    """
    point = operating_point(similarities, same, far)
    if point.reason:
        raise DataError(f"No threshold: {point.reason}. Add different pairs or ask a larger FAR.")
    return point.threshold


def best_accuracy_threshold(similarities: ArrayLike, same: ArrayLike) -> float:
    """Returns the threshold of highest accuracy on these pairs.

    Candidates lie midway between neighbouring distinct similarities, plus one that accepts every
    pair (the lowest similarity) and one that accepts none (just above the highest). Where several
    are equally accurate, the middle one is taken, of two middle ones the higher. Choose it on
    other pairs than those it is judged on: see `kfold_accuracy`.

    Args:
        similarities: (pairs,) finite numbers.
        same: (pairs,) booleans.

    Raises:
        DataError: as `roc`.

    Example:

    >>> best_accuracy_threshold([0.75, 0.5, 0.25, 0.0], [True, True, False, False])
    0.375
    """
    thresholds, true_accepts, false_accepts = _accepted(similarities, same)
    gain = true_accepts - false_accepts
    best = np.flatnonzero(gain == gain.max())
    return float(_between(thresholds)[best[(best.size - 1) // 2]])


def accuracy(similarities: ArrayLike, same: ArrayLike, threshold: ArrayLike) -> float:
    """Returns the share of pairs that a threshold decides rightly.

    Args:
        similarities: (pairs,) finite numbers.
        same: (pairs,) booleans; one kind alone is fine here.
        threshold: one number, or (pairs,) numbers where folds have thresholds of their own.

    Raises:
        DataError: on unequal lengths, or numbers that are not finite.

    Example:

    >>> accuracy([0.9, 0.5, 0.5, 0.1], [True, True, False, False], threshold=0.5)
    0.75
    """
    return float(right(similarities, same, threshold).mean())


def right(similarities: ArrayLike, same: ArrayLike, threshold: ArrayLike) -> Bools:
    """Returns which pairs a threshold decides rightly; arguments and errors as in `accuracy`."""
    scores, truth = _pairs(similarities, same)
    limit = np.asarray(threshold, np.float64)
    if limit.shape not in ((), scores.shape) or not np.isfinite(limit).all():
        raise DataError(
            "Expected `threshold` as one finite number, or one for each of the "
            f"{scores.size} pairs. Received: shape {limit.shape}, "
            f"{np.count_nonzero(~np.isfinite(limit))} not finite. Take it from "
            "`best_accuracy_threshold` or `threshold_at_far`."
        )
    return (scores >= limit) == truth


def angular_fisher_score(embeddings: ArrayLike, labels: ArrayLike) -> float:
    """Returns within-class over between-class angular scatter; lower separates better.

    `S_w = sum_i sum_{x in class i} (1 - cos(x, m_i))`, `S_b = sum_i n_i (1 - cos(m_i, m))`,
    `AFS = S_w / S_b`, where `m_i` is the mean of the `n_i` embeddings of class i and `m` the mean
    of all, both of the embeddings as they are given (SphereFace, arXiv 1704.08063, appendix E).

    Args:
        embeddings: (n, dim) finite numbers, none of length 0.
        labels: (n,) integers of at least two classes.

    Returns:
        AFS; infinity where all class means point the same way.

    Raises:
        DataError: on shapes that do not fit, one class only, or a vector without a direction.

    Example:

    >>> round(angular_fisher_score([[1, 0], [1, 0], [0, 1], [0, 1]], [0, 0, 1, 1]), 6)
    0.0
    """
    vectors, classes = np.asarray(embeddings, np.float64), np.asarray(labels)
    if vectors.ndim != 2 or classes.shape != vectors.shape[:1]:
        raise DataError(
            "Expected `embeddings` (n, dim) and `labels` (n,). Received: shapes "
            f"{vectors.shape} and {classes.shape}. Pass one label for each embedding."
        )
    if not np.isfinite(vectors).all():
        raise DataError(
            "Expected finite embeddings. Received: NaN or infinity. Check the model: "
            "`numpy.isfinite(embeddings).all()`."
        )
    names, member, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    if names.size < 2:
        raise DataError(
            f"Expected labels of at least two classes. Received: {names.size}. Add embeddings of "
            "another identity."
        )
    sums = np.zeros((names.size, vectors.shape[1]))
    np.add.at(sums, member, vectors)
    means, mean = _unit(sums), _unit(vectors.sum(axis=0, keepdims=True))
    within = np.maximum(1 - np.sum(_unit(vectors) * means[member], axis=1), 0).sum()
    between = sizes @ np.maximum(1 - means @ mean[0], 0)
    return float(within / between) if between > 0 else math.inf


def _unit(vectors: Floats) -> Floats:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not lengths.all():
        raise DataError(
            "Expected embeddings and means with a direction. Received: a vector of length 0. "
            "Remove the embeddings that are all 0, or check the model that made them."
        )
    return vectors / lengths
