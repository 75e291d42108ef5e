import math
from collections.abc import Callable

import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation import metrics

RANDOM = np.random.default_rng(7)


def draw(pairs: int, levels: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping scores; `levels` rounds them so that many are equal."""
    same = RANDOM.permutation(np.arange(pairs) % 3 == 0)
    scores = RANDOM.normal(size=pairs) + same
    return (scores if levels is None else np.round(scores * levels) / levels), same


CASES = [draw(60, None), draw(200, 4), draw(50, 1), draw(7, 2)]


def rates(scores: np.ndarray, same: np.ndarray, threshold: float) -> tuple[float, float]:
    false = true = 0
    for score, one_person in zip(scores, same, strict=True):
        if score >= threshold:
            true, false = true + bool(one_person), false + (not one_person)
    return false / int((~same).sum()), true / int(same.sum())


@pytest.mark.parametrize(("scores", "same"), CASES)
def test_roc_is_the_count_at_every_threshold(scores: np.ndarray, same: np.ndarray) -> None:
    far, tar, thresholds = metrics.roc(scores, same)
    assert thresholds.tolist() == [math.inf, *sorted(set(scores.tolist()), reverse=True)]
    for point in zip(far, tar, thresholds, strict=True):
        assert point[:2] == rates(scores, same, point[2])


@pytest.mark.parametrize(("scores", "same"), CASES)
def test_roc_and_auc_agree_with_scikit_learn(scores: np.ndarray, same: np.ndarray) -> None:
    oracle = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the oracle here")
    for ours, theirs in zip(
        metrics.roc(scores, same),
        oracle.roc_curve(same, scores, drop_intermediate=False),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-15)
    assert metrics.auc(scores, same) == pytest.approx(oracle.roc_auc_score(same, scores), abs=1e-12)


@pytest.mark.parametrize(("scores", "same"), CASES)
def test_auc_is_the_mann_whitney_count(scores: np.ndarray, same: np.ndarray) -> None:
    wins = [(high > low) + 0.5 * (high == low) for high in scores[same] for low in scores[~same]]
    assert metrics.auc(scores, same) == pytest.approx(np.mean(wins), abs=1e-12)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0]])
def test_equal_scores_move_together_in_any_order(order: list[int]) -> None:
    same = np.array([True, False, True, False])[order]
    curve = metrics.roc([0.5] * 4, same)
    assert [part.tolist() for part in curve] == [[0, 1], [0, 1], [math.inf, 0.5]]
    assert metrics.auc([0.5] * 4, same) == 0.5
    assert metrics.eer([0.5] * 4, same) == 0.5


@pytest.mark.parametrize(
    ("scores", "same", "wanted"),
    [
        ([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], 0.0),
        ([0.1, 0.2, 0.8, 0.9], [1, 1, 0, 0], 1.0),
        ([0.9, 0.8, 0.3, 0.7, 0.2, 0.1], [1, 1, 1, 0, 0, 0], 1 / 3),
        # From (FAR 0, TAR 1/2) straight to (1/3, 1): FAR = 1 - TAR at 0.2.
        ([0.9, 0.5, 0.5, 0.2, 0.1], [1, 1, 0, 0, 0], 0.2),
    ],
)
def test_eer_by_hand(scores: list[float], same: list[int], wanted: float) -> None:
    assert metrics.eer(scores, same) == pytest.approx(wanted, abs=1e-15)


@pytest.mark.parametrize(("scores", "same"), CASES)
def test_eer_is_where_the_interpolated_roc_meets_the_diagonal(
    scores: np.ndarray, same: np.ndarray
) -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="scipy finds the crossing")
    # Along the ROC's arc, since a vertical step has no TAR as a function of FAR.
    far, tar, _ = metrics.roc(scores, same)
    steps = np.arange(far.size)
    crossing = optimize.brentq(
        lambda at: np.interp(at, steps, far) + np.interp(at, steps, tar) - 1, 0, far.size - 1
    )
    assert metrics.eer(scores, same) == pytest.approx(np.interp(crossing, steps, far), abs=1e-9)


@pytest.mark.parametrize("far", [0.05, 0.1, 0.3, 0.5, 1.0])
@pytest.mark.parametrize(("scores", "same"), CASES[:3])
def test_tar_at_far_is_the_largest_within_the_far(
    scores: np.ndarray, same: np.ndarray, far: float
) -> None:
    candidates = [rates(scores, same, at) for at in [math.inf, *scores]]
    wanted = max(tar for measured, tar in candidates if measured <= far)
    point = metrics.operating_point(scores, same, far)
    assert point.tar == metrics.tar_at_far(scores, same, far) == wanted
    assert rates(scores, same, point.threshold) == (point.far, point.tar)
    assert point.far == max(measured for measured, _ in candidates if measured <= far)
    assert metrics.threshold_at_far(scores, same, far) == point.threshold


def test_tar_at_far_counts_whole_pairs() -> None:
    scores = np.concatenate([np.linspace(0.0, 1.0, 1000), np.linspace(0.0005, 1.0005, 1000)])
    same = np.arange(2000) >= 1000
    point = metrics.operating_point(scores, same, 0.003)
    assert point.far == 0.003  # exactly three of 1,000, not two by rounding
    assert point.tar == 0.004  # and the fourth best same pair, above the third best different one


def test_tar_at_far_with_ties_at_the_limit() -> None:
    # Both different pairs tie, so a FAR of one half cannot be reached; none may pass.
    point = metrics.operating_point([0.75, 0.5, 0.5, 0.5], [1, 1, 0, 0], 0.5)
    assert point == (0.5, 0, 0.5, 0.625, "")
    highest = metrics.operating_point([0.5, 0.5, 0.5], [1, 0, 0], 0.5)
    assert highest[:3] == (0.5, 0, 0)
    assert highest.threshold > 0.5


@pytest.mark.parametrize(
    ("different", "far", "measurable"),
    [(999, 1e-3, False), (1000, 1e-3, True), (49, 1 / 49, True), (9, 0.1, False), (1, 1.0, True)],
)
def test_a_far_needs_its_reciprocal_in_different_pairs(
    different: int, far: float, measurable: bool
) -> None:
    scores, same = np.arange(different + 1.0), np.arange(different + 1) == different
    point = metrics.operating_point(scores, same, far)
    if measurable:
        assert (point.far, point.tar, point.reason) == (far, 1.0, "")
        return
    assert math.isnan(metrics.tar_at_far(scores, same, far))
    assert point.reason == (
        f"FAR {far:g} needs at least {round(1 / far)} different pairs, there are {different}"
    )
    with pytest.raises(DataError, match=f"^No threshold: {point.reason}. Add different pairs or"):
        metrics.threshold_at_far(scores, same, far)


@pytest.mark.parametrize("far", [0, -0.1, 1.5, math.nan])
def test_a_far_is_a_share(far: float) -> None:
    with pytest.raises(DataError, match=r"^Expected a FAR in \(0, 1\]. Received: .*Pass a share"):
        metrics.tar_at_far([0.9, 0.1], [1, 0], far)


@pytest.mark.parametrize(("scores", "same"), CASES)
def test_best_threshold_beats_every_other(scores: np.ndarray, same: np.ndarray) -> None:
    threshold = metrics.best_accuracy_threshold(scores, same)
    candidates = [*scores, scores.max() + 1]
    best = max(np.mean((scores >= at) == same) for at in candidates)
    assert metrics.accuracy(scores, same, threshold) == pytest.approx(best, abs=1e-15)
    order = RANDOM.permutation(scores.size)
    assert metrics.best_accuracy_threshold(scores[order], same[order]) == threshold


@pytest.mark.parametrize(
    ("scores", "same", "wanted"),
    [
        ([0.75, 0.25], [1, 0], 0.5),
        # Right at 0.625 and 0.125, wrong in between: the higher of two middle ones.
        ([0.75, 0.5, 0.25, 0.0], [1, 0, 1, 0], 0.625),
        # Worst order: none accepted or all accepted are equally good.
        ([0.5, 0.75], [1, 0], np.nextafter(0.75, 1)),
        # Three equally good: above 0.875, at 0.625 and at the lowest. The middle one.
        ([0.875, 0.75, 0.5, 0.25], [0, 1, 0, 1], 0.625),
        ([0.75, 0.5, 0.25], [1, 1, 0], 0.375),
        ([0.75, 0.5, 0.25, 0.25], [0, 1, 1, 1], 0.25),
    ],
)
def test_best_threshold_by_hand(scores: list[float], same: list[int], wanted: float) -> None:
    assert metrics.best_accuracy_threshold(scores, same) == wanted


def test_best_threshold_between_neighbouring_floats() -> None:
    high = np.nextafter(0.5, 1)
    assert metrics.best_accuracy_threshold([high, 0.5], [1, 0]) == high
    assert math.isfinite(metrics.best_accuracy_threshold([1.7e308, 1.6e308], [1, 0]))


def test_accuracy_counts_the_threshold_as_accepted() -> None:
    scores, same = [0.9, 0.5, 0.5, 0.1], [True, True, False, False]
    assert metrics.accuracy(scores, same, 0.5) == 0.75
    assert metrics.accuracy(scores, same, np.nextafter(0.5, 1)) == 0.75
    assert metrics.accuracy(scores, same, [0.5, 0.5, 0.6, 0.6]) == 1.0
    assert metrics.accuracy([0.2], [False], 0.5) == 1.0


def test_accuracy_compares_in_double_precision() -> None:
    # A threshold between two neighbouring float32 numbers must not round onto one of them.
    low = np.float32(0.3)
    scores = np.array([np.nextafter(low, np.float32(1)), low])
    assert metrics.accuracy(scores, [1, 0], metrics.best_accuracy_threshold(scores, [1, 0])) == 1


@pytest.mark.parametrize("function", [metrics.roc, metrics.auc, metrics.eer])
@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [
        ([0.1, 0.2], [1], r"Received: shapes \(2,\) and \(1,\). Pass one number and one true/fal"),
        ([], [], r"with at least one pair. Received: shapes \(0,\) and \(0,\)"),
        ([[0.1, 0.2]], [[1, 0]], r"Received: shapes \(1, 2\) and \(1, 2\)"),
        ([0.1, math.nan, math.inf], [1, 0, 0], "Received: 2 of 3 are NaN or infinite. Check the"),
        ([0.1, 0.2], [1, 2], "Expected `same` as true/false or 1/0. Received: other values, dtype"),
        ([0.1, 0.2], [1, 1], "Received: 2 same, 0 different. Add pairs of the missing kind."),
        ([0.1, 0.2], [0, 0], "Received: 0 same, 2 different. Add pairs of the missing kind."),
    ],
)
def test_pairs_are_checked(function: Callable, scores: list, same: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        function(scores, same)


@pytest.mark.parametrize("threshold", [math.nan, [0.5], [0.5, math.inf]])
def test_thresholds_are_checked(threshold: float | list[float]) -> None:
    with pytest.raises(DataError, match=r"one finite number, or one for each of the 2 pairs. Rec"):
        metrics.accuracy([0.9, 0.1], [1, 0], threshold)


def test_angular_fisher_score_is_the_definition() -> None:
    embeddings = RANDOM.normal(size=(40, 6)) + 1
    labels = np.array([5, 9, 9, 2] * 10)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return sum(p * q for p, q in zip(a, b, strict=True)) / math.hypot(*a) / math.hypot(*b)

    mean = embeddings.mean(axis=0)
    within = between = 0.0
    for label in (2, 5, 9):
        members = [x for x, each in zip(embeddings, labels, strict=True) if each == label]
        centre = np.mean(members, axis=0)
        within += sum(1 - cosine(x, centre) for x in members)
        between += len(members) * (1 - cosine(centre, mean))
    wanted = within / between
    assert metrics.angular_fisher_score(embeddings, labels) == pytest.approx(wanted, rel=1e-12)


def test_angular_fisher_score_by_hand() -> None:
    # Classes at 0 and 90 degrees, each spread by +-30: (1 - cos 30) / (1 - cos 45).
    at = np.radians([-30, 30, 60, 120])
    embeddings = np.stack([np.cos(at), np.sin(at)], axis=1)
    wanted = (1 - math.sqrt(3) / 2) / (1 - math.sqrt(0.5))
    assert metrics.angular_fisher_score(embeddings, list("aabb")) == pytest.approx(wanted)
    assert metrics.angular_fisher_score([[1, 0], [2, 0]], [0, 1]) == math.inf


@pytest.mark.parametrize(
    ("embeddings", "labels", "message"),
    [
        ([1, 2], [0, 1], r"Received: shapes \(2,\) and \(2,\). Pass one label for each embedding."),
        ([[1, 2]], [0, 1], r"Received: shapes \(1, 2\) and \(2,\)"),
        ([[1, 2], [3, 4]], [1, 1], "labels of at least two classes. Received: 1. Add embeddings"),
        ([[1, math.nan], [3, 4]], [0, 1], "Expected finite embeddings. Received: NaN or infinity"),
        ([[0, 0], [3, 4]], [0, 1], "Received: a vector of length 0. Remove the embeddings that"),
        ([[1, 0], [-1, 0]], [0, 1], "Received: a vector of length 0."),
    ],
)
def test_angular_fisher_score_refuses(embeddings: list, labels: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        metrics.angular_fisher_score(embeddings, labels)
