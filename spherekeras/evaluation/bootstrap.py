"""Bootstrap intervals for the numbers of verification, with a stated unit of resampling."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.errors import DataError
from spherekeras.evaluation import metrics

_TOLERATED = 0.01  # of the resamples: so few cannot move a percentile by much, wherever they lie


@dataclasses.dataclass(frozen=True)
class Bootstrap:
    """Percentile intervals and what they were drawn from.

    Attributes:
        intervals: {name: (low, high)}; (NaN, NaN) where `unmeasured` says why.
        unmeasured: {name: reason}.
        unit: what was resampled, in words.
    """

    intervals: dict[str, tuple[float, float]]
    unmeasured: dict[str, str]
    unit: str


def bootstrap_intervals(
    similarities: ArrayLike,
    same: ArrayLike,
    fars: Sequence[float] = (1e-1, 1e-2, 1e-3),
    groups: ArrayLike | None = None,
    thresholds: ArrayLike | None = None,
    confidence: float = 0.95,
    samples: int = 1000,
    seed: int = 0,
) -> Bootstrap:
    """Returns percentile bootstrap intervals of AUC, EER, TAR@FAR, and of the accuracy.

    The unit of resampling decides how wide they are; it must be what is independent:

    - pairs (`groups=None`): right where no two pairs share a picture or a person, elsewhere too
      narrow. Same and different pairs are drawn apart, since a list fixes their numbers.
    - `groups` of shape (pairs,): whole groups are drawn. Right where pairs of different groups
      share nobody and the groups are many: subjects, `linked_groups` of the persons. Few groups,
      such as ten folds, make it rough and too narrow.
    - `groups` of shape (pairs, 2), the persons on both sides: people are drawn. A different pair
      counts the product of how often its two people were drawn, a same pair how often its person
      was. Right where everyone is compared with everyone, too wide where people are in few pairs.

    A resample that lacks one kind of pair, or has too few different pairs for a FAR, is left out
    of that number; where that befalls more than 1 % of the resamples the interval is NaN and
    `unmeasured` says so.

    Args:
        similarities: (pairs,) finite numbers.
        same: (pairs,) booleans.
        fars: wanted FARs, each in (0, 1].
        groups: None, (pairs,) or (pairs, 2) integers or strings; see above.
        thresholds: one number, or (pairs,) numbers, for the accuracy at these fixed thresholds.
        confidence: coverage, in (0, 1).
        samples: resamples.
        seed: the same seed gives the same intervals.

    Returns:
        A `Bootstrap` of "auc", "eer", "tar_at_far_0.001", ..., and with thresholds "accuracy".

    Raises:
        DataError: as `metrics.roc` and `metrics.accuracy`, on a FAR, `confidence` or `samples` out
            of range, or on groups that do not fit the pairs.

    Example:

    >>> scores, same = [0.9, 0.8, 0.4, 0.5, 0.2, 0.1], [1, 1, 1, 0, 0, 0]
    >>> result = bootstrap_intervals(scores, same, fars=[0.5])
    >>> low, high = result.intervals["auc"]
    >>> low < metrics.auc(scores, same) < high, result.unit
    (True, '3 same and 3 different pairs, drawn apart')

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13; for groups
    Bolle, Ratha and Pankanti, "Error analysis of pattern recognition systems: the subsets
    bootstrap", 2004; for people Owen, "The pigeonhole bootstrap", 2007.
    """
    if not 0 < confidence < 1 or samples < 1:
        raise DataError(
            "Expected `confidence` in (0, 1) and `samples` of at least 1. Received: "
            f"confidence={confidence}, samples={samples}. Pass `confidence=0.95`."
        )
    points = {far: metrics.operating_point(similarities, same, far) for far in fars}
    metrics.roc(similarities, same)  # checks the pairs where no FAR is asked for
    scores, truth = np.asarray(similarities, np.float64), metrics.booleans(same)
    right = None if thresholds is None else metrics.right(scores, truth, thresholds)
    unit, weights = _resamples(truth, groups, samples, np.random.default_rng(seed))

    order = np.argsort(-scores, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of equal similarities
    sorted_truth = truth[order]
    names = ["auc", "eer", *(f"tar_at_far_{far:g}" for far in fars)]
    names += [] if right is None else ["accuracy"]
    drawn = np.full((samples, len(names)), math.nan)
    for row, weight in zip(drawn, weights, strict=True):
        accepted = weight[order]
        true = np.append(0, np.cumsum(accepted * sorted_truth)[ends])
        false = np.append(0, np.cumsum(accepted * ~sorted_truth)[ends])
        if true[-1] and false[-1]:
            accuracy = [] if right is None else [weight @ right / weight.sum()]
            row[:] = [*_numbers(true, false, fars), *accuracy]

    reasons = {f"tar_at_far_{far:g}": point.reason for far, point in points.items()}
    if groups is not None and np.unique(groups).size < 2:
        reasons = dict.fromkeys(names, "a single group leaves nothing to resample")
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    intervals, unmeasured = {}, {}
    for name, column in zip(names, drawn.T, strict=True):
        missing = np.count_nonzero(np.isnan(column))
        if reasons.get(name) or missing > _TOLERATED * samples:
            intervals[name] = (math.nan, math.nan)
            unmeasured[name] = reasons.get(name) or (
                f"could not be measured in {missing} of {samples} resamples of {unit}"
            )
        else:
            low, high = np.nanquantile(column, tails)
            intervals[name] = (float(low), float(high))
    return Bootstrap(intervals, unmeasured, unit)


def linked_groups(persons: ArrayLike) -> NDArray[np.int64]:
    """Returns for each pair its group: pairs that share a person, directly or through others.

    Pairs of different groups share nobody. Where everyone is compared with everyone there is one
    group, from which no interval can be drawn: pass the persons themselves as `groups`.

    Args:
        persons: (pairs, 2), who is in the first and in the second picture; integers or strings.

    Returns:
        (pairs,) integers from 0.

    Raises:
        DataError: on another shape or kind of array.

    Example:

    >>> linked_groups([["Ann", "Ann"], ["Ann", "Bob"], ["Cid", "Dan"]]).tolist()
    [0, 0, 1]
    """
    names = np.asarray(persons)
    if names.ndim != 2 or names.shape[1] != 2 or names.dtype.kind not in "iuU":
        raise DataError(
            "Expected `persons` as integers or strings, (pairs, 2). Received: shape "
            f"{names.shape}, dtype {names.dtype}. Pass who is in the two pictures of each pair."
        )
    count, numbers = _numbered(names)
    sides = numbers.tolist()
    leader = list(range(count))

    def head(person: int) -> int:
        while leader[person] != person:
            leader[person] = person = leader[leader[person]]
        return person

    for first, second in sides:
        leader[head(second)] = head(first)
    return _numbered(np.array([head(first) for first, _ in sides]))[1]


def _numbered(values: NDArray[Any]) -> tuple[int, NDArray[np.int64]]:
    """How many different values there are, and each as its number."""
    names, index = np.unique(values, return_inverse=True)
    return names.size, index.reshape(values.shape).astype(np.int64)


def _resamples(
    same: NDArray[np.bool_], groups: ArrayLike | None, samples: int, random: np.random.Generator
) -> tuple[str, Iterator[NDArray[np.int64]]]:
    """The unit in words, and for each resample how often it holds each pair, (pairs,)."""

    def draws(units: int) -> NDArray[np.int64]:
        return np.bincount(random.integers(0, units, units), minlength=units)

    if groups is None:
        kinds = [np.flatnonzero(same), np.flatnonzero(~same)]

        def by_pair() -> NDArray[np.int64]:
            weights = np.empty(same.size, np.int64)
            for kind in kinds:
                weights[kind] = draws(kind.size)
            return weights

        unit = f"{kinds[0].size} same and {kinds[1].size} different pairs, drawn apart"
        return unit, (by_pair() for _ in range(samples))

    names = np.asarray(groups)
    if names.shape not in ((same.size,), (same.size, 2)) or names.dtype.kind not in "iuU":
        raise DataError(
            f"Expected `groups` as integers or strings, ({same.size},) or ({same.size}, 2). "
            f"Received: shape {names.shape}, dtype {names.dtype}. Pass one group for each pair, or "
            "the persons on both sides."
        )
    count, member = _numbered(names)
    if names.ndim == 1:
        return f"{count} groups of pairs", (draws(count)[member] for _ in range(samples))
    left, right = member.T
    if not np.array_equal(left == right, same):
        raise DataError(
            "Expected equal persons in the two columns of `groups` for same pairs alone. Received: "
            f"{np.count_nonzero((left == right) != same)} pairs where `same` says otherwise. Pass "
            "the person in each picture."
        )

    def by_people() -> NDArray[np.int64]:
        times = draws(count)
        return times[left] * np.where(same, 1, times[right])

    return f"{count} people", (by_people() for _ in range(samples))


def _numbers(
    true: NDArray[np.int64], false: NDArray[np.int64], fars: Sequence[float]
) -> list[float]:
    """AUC, EER and TAR@FAR as `metrics` defines them, of the pairs that each threshold accepts."""
    tar, far = true / true[-1], false / false[-1]
    excess = far + tar - 1
    right = int(np.argmax(excess >= 0))
    share = -excess[right - 1] / (excess[right] - excess[right - 1])
    return [
        float(np.diff(far) @ (tar[1:] + tar[:-1]) / 2),
        float(far[right - 1] + share * (far[right] - far[right - 1])),
        *(
            float(tar[np.searchsorted(far, wanted, "right") - 1])
            if 1 / false[-1] <= wanted
            else math.nan
            for wanted in fars
        ),
    ]
