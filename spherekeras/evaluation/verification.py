"""The numbers of a verification test on pairs, with the protocol that they hold under."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.errors import DataError
from spherekeras.evaluation import kfold, metrics
from spherekeras.evaluation.bootstrap import bootstrap_intervals, linked_groups

_FARS = (1e-1, 1e-2, 1e-3)
_NAMED = 20


@dataclasses.dataclass(frozen=True, eq=False)
class VerificationResult:
    """The numbers of one test set of pairs.

    Attributes:
        name: of the test set, such as "LFW view 2".
        accuracy: mean of the folds.
        std: sample standard deviation of the folds; NaN where there is but one.
        folds: (folds,) accuracies.
        thresholds: (folds,) thresholds, each chosen on other pairs.
        auc, eer: over all test pairs.
        tar_at_far: {FAR: TAR}; NaN where `unmeasured` says why.
        unmeasured: {FAR: reason}.
        intervals: {name: 95 % interval} of "accuracy", "auc", "eer" and "tar_at_far_0.001", the
            thresholds of the accuracy fixed; NaN where it cannot be measured.
        pairs: test pairs, none dropped.
        pictures: different pictures that were embedded.
        protocol: one sentence with all that the numbers depend on.
        similarities: (pairs,) cosine of each pair while its own fold is the test fold.
        same: (pairs,) booleans.
        pair_thresholds: (pairs,) the threshold that decided each pair.
        names: (pairs,) the two pictures of each pair; None where they have none.
        no_face: photographs without a detected face, in which the centre crop was used; None
            where no detector was used.
        crop: from a picture's name to the crop that was judged; None where there is none to show.
    """

    name: str
    accuracy: float
    std: float
    folds: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    auc: float
    eer: float
    tar_at_far: dict[float, float]
    unmeasured: dict[float, str]
    intervals: dict[str, tuple[float, float]]
    pairs: int
    pictures: int
    protocol: str
    similarities: NDArray[np.float64]
    same: NDArray[np.bool_]
    pair_thresholds: NDArray[np.float64]
    names: list[tuple[str, str]] | None = None
    no_face: list[str] | None = None
    crop: Callable[[str], NDArray[np.uint8]] | None = None

    def __str__(self) -> str:
        def number(name: str, value: float, form: str) -> str:
            between = self.between(name, form)
            return f"{value:{form}}{f' ({between})' if between else ''}"

        spread = "" if math.isnan(self.std) else f" ± {self.std:.2%}"
        between = self.between("accuracy", ".2%")
        limits = dict.fromkeys(f"{f(self.thresholds):.4f}" for f in (np.min, np.max))
        lines = [
            f"{self.name}: {self.pairs} pairs; in brackets 95 % intervals",
            f"accuracy {self.accuracy:.2%}{spread}{f' ({between})' if between else ''}, threshold "
            f"{' to '.join(limits)}",
            f"AUC {number('auc', self.auc, '.5f')}, EER {number('eer', self.eer, '.2%')}",
            *(
                f"TAR@FAR={far:g}: "
                + (self.unmeasured.get(far) or number(f"tar_at_far_{far:g}", tar, ".2%"))
                for far, tar in self.tar_at_far.items()
            ),
        ]
        if self.no_face is not None:
            named, more = ", ".join(self.no_face[:_NAMED]), len(self.no_face) - _NAMED
            named += f" and {more} more" if more > 0 else ""
            lines.append(f"Pictures without a face: {named or 'none'}")
        return "\n".join([*lines, f"Protocol: {self.protocol}"])

    def between(self, name: str, form: str) -> str:
        """Returns an interval as text, such as "91.52% to 92.98%"; empty where it is NaN."""
        low, high = self.intervals[name]
        return "" if math.isnan(low) else f"{low:{form}} to {high:{form}}"

    def to_dict(self) -> dict[str, Any]:
        """Returns all but the arrays of the pairs, ready for JSON; NaN becomes None."""
        return {
            "name": self.name,
            "accuracy": self.accuracy,
            "std": _number(self.std),
            "folds": self.folds.tolist(),
            "thresholds": self.thresholds.tolist(),
            "auc": self.auc,
            "eer": self.eer,
            "tar_at_far": {f"{far:g}": _number(tar) for far, tar in self.tar_at_far.items()},
            "unmeasured": {f"{far:g}": reason for far, reason in self.unmeasured.items()},
            "intervals": {
                name: None if math.isnan(low) else [low, high]
                for name, (low, high) in self.intervals.items()
            },
            "no_face": self.no_face,
            "pairs": self.pairs,
            "pictures": self.pictures,
            "protocol": self.protocol,
        }


def verify_pairs(
    name: str,
    first: ArrayLike,
    second: ArrayLike,
    same: ArrayLike,
    folds: ArrayLike,
    subtract_mean: bool,
    pictures: int,
    how: str,
    fitting: str = "",
    people: ArrayLike | None = None,
    names: list[tuple[str, str]] | None = None,
    no_face: list[str] | None = None,
    crop: Callable[[str], NDArray[np.uint8]] | None = None,
) -> VerificationResult:
    """Judges pairs of embeddings by `kfold_accuracy`, or by `split_accuracy` where `fitting` says.

    AUC, EER and TAR@FAR pool the test folds. Intervals are drawn over groups of pairs that share
    nobody where `people` are known, else over the pairs, as if no two shared a person.

    Args:
        name: of the test set.
        first, second: (pairs, dim) raw embeddings.
        same: (pairs,) booleans.
        folds: (pairs,) integer fold ids; with `fitting` booleans, true for the pairs to fit on.
        subtract_mean: subtract the mean embedding of the other folds' pairs before the cosine.
        pictures: pictures that were embedded, for the record.
        how: the part of the protocol on pictures and embeddings.
        fitting: what the pairs to fit on are called; the numbers are then of the others alone.
        people: (pairs, 2), who is in the two pictures; integers or strings.
        names, no_face, crop: as in the result; names of all the pairs.

    Raises:
        DataError: as `kfold_accuracy`, `split_accuracy` or `linked_groups`.
    """
    truth, test = metrics.booleans(same), np.ones(np.shape(same), np.bool_)
    others, rule = "the other folds' pairs", "decides each fold"
    if fitting:
        split = kfold.split_accuracy(first, second, truth, folds, subtract_mean)
        test, others, rule = ~np.asarray(folds, np.bool_), fitting, "decides"
        accuracies, thresholds = np.array([split.accuracy]), np.array([split.threshold])
        std, similarities = math.nan, split.similarities
        limits = np.full(similarities.size, split.threshold)
    else:
        result = kfold.kfold_accuracy(first, second, truth, folds, subtract_mean)
        accuracies, thresholds = result.accuracies, result.thresholds
        std, similarities, limits = result.std, result.similarities, result.pair_thresholds
        rule += (
            "; accuracy is the mean of the folds, ± their sample standard deviation; AUC, EER and "
            "TAR@FAR pool the cosines that the pairs have in their own test fold"
        )
    truth = truth[test]
    groups = None if people is None else linked_groups(np.asarray(people)[test])
    drawn = bootstrap_intervals(similarities, truth, _FARS, groups, limits)
    apart = "as if no two shared a person" if people is None else "that share nobody"
    points = [metrics.operating_point(similarities, truth, far) for far in _FARS]
    return VerificationResult(
        name=name,
        accuracy=float(accuracies.mean()),
        std=std,
        folds=accuracies,
        thresholds=thresholds,
        auc=metrics.auc(similarities, truth),
        eer=metrics.eer(similarities, truth),
        tar_at_far={point.wanted_far: point.tar for point in points},
        unmeasured={point.wanted_far: point.reason for point in points if point.reason},
        intervals=drawn.intervals,
        pairs=truth.size,
        pictures=pictures,
        protocol=(
            f"{name}, {truth.size} pairs ({np.count_nonzero(truth)} same) "
            f"{f'fitted on {fitting}' if fitting else f'in {accuracies.size} folds'}, {how}; "
            f"{f'mean embedding of {others}' if subtract_mean else 'no mean'} subtracted, L2 "
            f"normalisation, cosine; the most accurate threshold on {others} {rule}; intervals: "
            f"95 % bootstrap of {drawn.unit} {apart}, thresholds fixed."
        ),
        similarities=similarities,
        same=truth,
        pair_thresholds=limits,
        names=None if names is None else [names[pair] for pair in np.flatnonzero(test)],
        no_face=no_face,
        crop=crop,
    )


def consecutive_folds(pairs: int, folds: int = 10) -> NDArray[np.int64]:
    """Returns fold ids of consecutive blocks, the first ones a pair longer where it must be.

    Raises:
        DataError: on fewer pairs than folds.

    Example:

    >>> consecutive_folds(5, folds=2).tolist()
    [0, 0, 0, 1, 1]
    """
    if pairs < folds:
        raise DataError(f"Expected at least {folds} pairs for {folds} folds. Received: {pairs}.")
    return np.concatenate(
        [
            np.full(len(block), fold)
            for fold, block in enumerate(np.array_split(np.arange(pairs), folds))
        ]
    )


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
