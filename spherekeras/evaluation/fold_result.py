"""The numbers of a k-fold test on pairs, with the protocol that they hold under."""

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.errors import DataError
from spherekeras.evaluation import kfold, metrics

_FARS = (1e-1, 1e-2, 1e-3)


@dataclasses.dataclass(frozen=True, eq=False)
class FoldResult:
    """The numbers of one test set of pairs.

    Attributes:
        name: of the test set.
        accuracy: mean of the folds.
        std: sample standard deviation of the folds.
        interval: 95 % bootstrap interval of the accuracy over the pairs, thresholds fixed.
        folds: (folds,) accuracies.
        thresholds: (folds,) thresholds, each chosen on the other folds.
        auc, eer: over all pairs.
        tar_at_far: {FAR: TAR}; NaN where `unmeasured` says why.
        unmeasured: {FAR: reason}.
        pairs: how many.
        pictures: pictures that were embedded.
        protocol: one sentence with all that the numbers depend on.
        similarities: (pairs,) cosine of each pair while its own fold is the test fold.
        same: (pairs,) booleans.
    """

    name: str
    accuracy: float
    std: float
    interval: tuple[float, float]
    folds: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    auc: float
    eer: float
    tar_at_far: dict[float, float]
    unmeasured: dict[float, str]
    pairs: int
    pictures: int
    protocol: str
    similarities: NDArray[np.float64]
    same: NDArray[np.bool_]

    def __str__(self) -> str:
        low, high = self.interval
        least, most = self.thresholds.min(), self.thresholds.max()
        lines = [
            f"{self.name}: accuracy {self.accuracy:.2%} ± {self.std:.2%} ({self.pairs} pairs)",
            f"95 % interval {low:.2%} to {high:.2%}",
            f"AUC {self.auc:.5f}, EER {self.eer:.2%}, threshold {least:.4f} to {most:.4f}",
            *(
                f"TAR@FAR={far:g}: " + self.unmeasured.get(far, f"{tar:.2%}")
                for far, tar in self.tar_at_far.items()
            ),
            f"Protocol: {self.protocol}",
        ]
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        """Returns all but the arrays of the pairs, ready for JSON; NaN becomes None."""
        return {
            "name": self.name,
            "accuracy": self.accuracy,
            "std": self.std,
            "interval": list(self.interval),
            "folds": self.folds.tolist(),
            "thresholds": self.thresholds.tolist(),
            "auc": self.auc,
            "eer": self.eer,
            "tar_at_far": {
                f"{far:g}": None if far in self.unmeasured else tar
                for far, tar in self.tar_at_far.items()
            },
            "unmeasured": {f"{far:g}": reason for far, reason in self.unmeasured.items()},
            "pairs": self.pairs,
            "pictures": self.pictures,
            "protocol": self.protocol,
        }


def fold_result(
    name: str,
    first: ArrayLike,
    second: ArrayLike,
    same: ArrayLike,
    folds: ArrayLike,
    subtract_mean: bool,
    pictures: int,
    how: str,
) -> FoldResult:
    """Judges pairs of embeddings by `kfold_accuracy`; AUC, EER and TAR@FAR pool the test folds.

    Args:
        name: of the test set.
        first, second: (pairs, dim) raw embeddings.
        same: (pairs,) booleans.
        folds: (pairs,) integer fold ids.
        subtract_mean: subtract the mean embedding of the other folds' pairs before the cosine.
        pictures: pictures that were embedded, for the record.
        how: the part of the protocol on pictures and embeddings.

    Raises:
        DataError: as `kfold_accuracy`.
    """
    result = kfold.kfold_accuracy(first, second, same, folds, subtract_mean)
    truth = metrics.booleans(same)
    points = [metrics.operating_point(result.similarities, truth, far) for far in _FARS]
    mean = "mean embedding of the other folds' pairs" if subtract_mean else "no mean"
    return FoldResult(
        name=name,
        accuracy=result.accuracy,
        std=result.std,
        interval=metrics.bootstrap_interval(result.similarities, truth, result.pair_thresholds),
        folds=result.accuracies,
        thresholds=result.thresholds,
        auc=metrics.auc(result.similarities, truth),
        eer=metrics.eer(result.similarities, truth),
        tar_at_far={point.wanted_far: point.tar for point in points},
        unmeasured={point.wanted_far: point.reason for point in points if point.reason},
        pairs=truth.size,
        pictures=pictures,
        protocol=(
            f"{name}, {truth.size} pairs ({np.count_nonzero(truth)} same) in "
            f"{result.accuracies.size} folds, {how}; {mean} subtracted, L2 normalisation, cosine; "
            "the most accurate threshold on the other folds' pairs decides each fold; accuracy is "
            "the mean of the folds, ± their sample standard deviation; AUC, EER and TAR@FAR pool "
            "the cosines that the pairs have in their own test fold; interval: 95 % bootstrap of "
            "the pairs with thresholds fixed."
        ),
        similarities=result.similarities,
        same=truth,
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
