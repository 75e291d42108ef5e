"""Accuracy on pairs with nothing fitted on the pairs that are judged.

The protocol of the SphereFace release (arXiv 1704.08063): in each fold the mean embedding and
the threshold come from the other folds alone. One thing is finer than there: the release tries
thresholds in steps of 1e-4, takes the mean of the best and counts a pair at the threshold as wrong;
here every cosine is a candidate, the middle one of the best is taken, and a pair at it is accepted.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.errors import DataError
from spherekeras.evaluation import metrics

_ROWS = 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One split into fitting and test pairs.

    Attributes:
        accuracy: share of the test pairs decided rightly.
        threshold: chosen on the fitting pairs.
        mean: (dim,) subtracted from every embedding, of the fitting pairs; zeros without it.
        similarities: (test pairs,) cosines.
    """

    accuracy: float
    threshold: float
    mean: NDArray[np.float64]
    similarities: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class KFold:
    """Accuracy by cross-validation; folds in ascending order of their ids.

    Attributes:
        accuracies: (folds,) accuracy of each fold.
        thresholds: (folds,) each chosen on the other folds.
        accuracy: mean of `accuracies`.
        std: their sample standard deviation (divisor folds - 1).
        means: (folds, dim) subtracted from the embeddings, each of the other folds.
        similarities: (pairs,) cosine of every pair while its own fold is the test fold.
        pair_thresholds: (pairs,) the threshold that decided each pair.
    """

    accuracies: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    accuracy: float
    std: float
    means: NDArray[np.float64]
    similarities: NDArray[np.float64]
    pair_thresholds: NDArray[np.float64]


def split_accuracy(
    first: ArrayLike,
    second: ArrayLike,
    same: ArrayLike,
    fit: ArrayLike,
    subtract_mean: bool = True,
) -> Split:
    """Fits mean and threshold on some pairs and judges the others.

    The mean runs over both embeddings of every fitting pair; it is subtracted before the L2
    normalisation. The threshold is `best_accuracy_threshold` of the fitting pairs' cosines.

    Args:
        first: (pairs, dim) raw embeddings (not normalised) of the first pictures.
        second: (pairs, dim) those of the second pictures.
        same: (pairs,) booleans.
        fit: (pairs,) booleans, true for the pairs to fit on; the others are the test pairs.
        subtract_mean: False leaves the embeddings where they are.

    Raises:
        DataError: on shapes that do not fit, embeddings that are not finite or have no direction,
            no test pair, or only one kind of pair to fit on.

    Example:

    >>> first, second = [[1, 0]] * 4, [[1, 0], [0, 1], [3, 4], [0, 1]]
    >>> split = split_accuracy(first, second, [1, 0, 1, 0], [1, 1, 0, 0], subtract_mean=False)
    >>> split.threshold, split.accuracy
    (0.5, 1.0)
    """
    left, right, truth = _embeddings(first, second, same)
    chosen = np.asarray(fit, np.bool_)
    if chosen.shape != truth.shape or chosen.all():
        raise DataError(
            f"Expected `fit` as ({truth.size},) booleans, false for at least one test pair. "
            f"Received: shape {chosen.shape}, {np.count_nonzero(~chosen)} test pairs. Leave pairs "
            "to judge on."
        )
    return _split(left, right, truth, chosen, subtract_mean)


def need_folds(folds: Iterable[int], source: str) -> None:
    """Refuses a list of pairs with fewer than two folds, before the pictures are embedded.

    Raises:
        DataError: such a list.
    """
    count = len(set(folds))
    if count < 2:
        raise DataError(
            f"{source} has {count} fold; a fold's threshold is chosen on the others. Give a list "
            "of two folds or more."
        )


def kfold_accuracy(
    first: ArrayLike,
    second: ArrayLike,
    same: ArrayLike,
    folds: ArrayLike,
    subtract_mean: bool = True,
) -> KFold:
    """Returns the cross-validated accuracy: `split_accuracy` with each fold as the test pairs.

    Args:
        first: (pairs, dim) raw embeddings (not normalised) of the first pictures.
        second: (pairs, dim) those of the second pictures.
        same: (pairs,) booleans.
        folds: (pairs,) integer fold ids, at least two different ones.
        subtract_mean: False leaves the embeddings where they are.

    Raises:
        DataError: as `split_accuracy`, or on fold ids that are not integers of two folds or more.

    Example:

    >>> first, second = [[1, 0]] * 4, [[1, 0], [0, 1], [3, 4], [0, 1]]
    >>> result = kfold_accuracy(first, second, [1, 0, 1, 0], [0, 0, 1, 1], subtract_mean=False)
    >>> result.accuracy, result.accuracies.tolist(), result.thresholds.tolist()
    (1.0, [1.0, 1.0], [0.3, 0.5])
    """
    left, right, truth = _embeddings(first, second, same)
    fold = np.asarray(folds)
    ids = np.unique(fold)
    if fold.shape != truth.shape or not np.issubdtype(fold.dtype, np.integer) or ids.size < 2:
        raise DataError(
            f"Expected `folds` as ({truth.size},) integers of at least two folds. Received: shape "
            f"{fold.shape}, dtype {fold.dtype}, {ids.size} folds. Number the folds 0, 1, 2, ..."
        )
    splits = [_split(left, right, truth, fold != each, subtract_mean) for each in ids]
    accuracies = np.array([split.accuracy for split in splits])
    thresholds = np.array([split.threshold for split in splits])
    similarities = np.empty(truth.size)
    for each, split in zip(ids, splits, strict=True):
        similarities[fold == each] = split.similarities
    return KFold(
        accuracies=accuracies,
        thresholds=thresholds,
        accuracy=float(accuracies.mean()),
        std=float(accuracies.std(ddof=1)),
        means=np.stack([split.mean for split in splits]),
        similarities=similarities,
        pair_thresholds=thresholds[np.searchsorted(ids, fold)],
    )


def _split(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    same: NDArray[np.bool_],
    fit: NDArray[np.bool_],
    subtract_mean: bool,
) -> Split:
    mean = np.zeros(first.shape[1])
    if subtract_mean:
        mean = (first[fit].mean(axis=0) + second[fit].mean(axis=0)) / 2
    cosines = _cosine(first, second, mean)
    threshold = metrics.best_accuracy_threshold(cosines[fit], same[fit])
    test = cosines[~fit]
    return Split(metrics.accuracy(test, same[~fit], threshold), threshold, mean, test)


def _cosine(
    first: NDArray[np.float64], second: NDArray[np.float64], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Cosines of the pairs seen from `mean`, some rows at a time to spare memory."""
    cosines = np.empty(len(first))
    for start in range(0, len(first), _ROWS):
        rows = slice(start, start + _ROWS)
        left, right = first[rows] - mean, second[rows] - mean
        lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
        if not lengths.all():
            raise DataError(
                "Expected embeddings with a direction. Received: pair "
                f"{start + int(np.argmin(lengths))} has one of length 0 (after the mean was "
                "subtracted, where that was asked). Check the model: distinct pictures must give "
                "distinct embeddings."
            )
        cosines[rows] = np.sum(left * right, axis=1) / lengths
    return cosines


def _embeddings(
    first: ArrayLike, second: ArrayLike, same: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    left, right = np.asarray(first, np.float64), np.asarray(second, np.float64)
    truth = metrics.booleans(same)
    if left.ndim != 2 or left.shape != right.shape or truth.shape != left.shape[:1]:
        raise DataError(
            "Expected `first` and `second` (pairs, dim) and `same` (pairs,). Received: shapes "
            f"{left.shape}, {right.shape} and {truth.shape}. Pass two embeddings and one "
            "true/false for each pair."
        )
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        raise DataError(
            "Expected finite embeddings. Received: NaN or infinity. Check the model: "
            "`numpy.isfinite(embeddings).all()`."
        )
    return left, right, truth
