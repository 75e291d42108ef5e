import itertools
import math

import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation import kfold_accuracy, split_accuracy

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def pairs(seed: int, count: int = 90, dim: int = 5, folds: int = 3) -> Arrays:
    """Noisy embeddings far from the origin, so that the mean matters, in shuffled folds."""
    random = np.random.default_rng(seed)
    same = np.arange(count) % 2 == 0
    first = random.normal(size=(count, dim))
    other = random.normal(size=(count, dim))
    second = np.where(same[:, None], first + random.normal(size=(count, dim)), other)
    fold = random.permutation(np.repeat(np.arange(folds), count // folds))
    return first + 2, second + 2, same, fold


def on_circle(cosines: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of plane vectors with these cosines."""
    cosine = np.array(cosines)
    first = np.tile([1.0, 0.0], (cosine.size, 1))
    return first, np.stack([cosine, np.sqrt(1 - cosine**2)], axis=1)


def naive_fold(
    first: np.ndarray, second: np.ndarray, same: np.ndarray, test: np.ndarray, subtract: bool
) -> tuple[float, list[float], float]:
    """Accuracy, test cosines and threshold of one fold, one pair at a time."""
    dim = first.shape[1]
    fitting = [i for i in range(len(same)) if not test[i]]
    mean = [0.0] * dim
    if subtract:
        for i in fitting:
            for d in range(dim):
                mean[d] += (first[i, d] + second[i, d]) / (2 * len(fitting))

    def cosine(i: int) -> float:
        a = [first[i, d] - mean[d] for d in range(dim)]
        b = [second[i, d] - mean[d] for d in range(dim)]
        dot = sum(p * q for p, q in zip(a, b, strict=True))
        return dot / math.sqrt(sum(p * p for p in a) * sum(q * q for q in b))

    scores = {i: cosine(i) for i in range(len(same))}
    levels = sorted(scores[i] for i in fitting)
    middles = [(a + b) / 2 for a, b in itertools.pairwise(levels)]
    right = {t: sum((scores[i] >= t) == same[i] for i in fitting) for t in middles}
    best = sorted(t for t, count in right.items() if count == max(right.values()))
    threshold = best[len(best) // 2]
    judged = [i for i in range(len(same)) if test[i]]
    hits = sum((scores[i] >= threshold) == same[i] for i in judged)
    return hits / len(judged), [scores[i] for i in judged], threshold


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_one_pair_at_a_time(seed: int, subtract: bool) -> None:
    first, second, same, fold = pairs(seed)
    result = kfold_accuracy(first, second, same, fold, subtract_mean=subtract)
    for each in range(3):
        test = fold == each
        accuracy, scores, threshold = naive_fold(first, second, same, test, subtract)
        assert result.accuracies[each] == pytest.approx(accuracy, abs=1e-15)
        assert result.thresholds[each] == pytest.approx(threshold, abs=1e-12)
        np.testing.assert_allclose(result.similarities[test], scores, atol=1e-12)
        np.testing.assert_array_equal(result.pair_thresholds[test], result.thresholds[each])
        split = split_accuracy(first, second, same, ~test, subtract)
        assert (split.accuracy, split.threshold) == (
            result.accuracies[each],
            result.thresholds[each],
        )
    assert result.accuracy == pytest.approx(sum(result.accuracies) / 3)
    spread = sum((each - result.accuracy) ** 2 for each in result.accuracies) / 2
    assert result.std == pytest.approx(math.sqrt(spread))


@pytest.mark.parametrize("changed", ["labels", "embeddings", "both"])
def test_a_fold_moves_nothing_that_judges_it(changed: str) -> None:
    first, second, same, fold = pairs(11)
    before = kfold_accuracy(first, second, same, fold)
    test = fold == 1
    if changed != "embeddings":
        same = np.where(test, ~same, same)
    if changed != "labels":
        first = np.where(test[:, None], 50 - 3 * second, first)
    after = kfold_accuracy(first, second, same, fold)
    assert after.thresholds[1] == before.thresholds[1]
    np.testing.assert_array_equal(after.means[1], before.means[1])
    # Not an idle claim: the other folds do feel the change.
    assert (after.thresholds[[0, 2]] != before.thresholds[[0, 2]]).all()
    if changed == "labels":
        assert after.accuracies[1] == pytest.approx(1 - before.accuracies[1])
    else:
        assert (after.means[[0, 2]] != before.means[[0, 2]]).all()


def test_a_threshold_fitted_on_the_test_fold_would_read_otherwise() -> None:
    # Fold 0 alone puts the threshold at 0.5, where half of fold 1's same pairs are lost. One
    # threshold for both, at 0.2, would lose none.
    cosines = [0.9, 0.8, 0.1, 0.2, 0.95, 0.3, 0.1, 0.0]
    same = [True, True, False, False] * 2
    result = kfold_accuracy(*on_circle(cosines), same, [0] * 4 + [1] * 4, subtract_mean=False)
    np.testing.assert_allclose(result.thresholds, [0.2, 0.5], atol=1e-12)
    assert result.accuracies.tolist() == [0.75, 0.75]
    leaked = max(
        np.mean((np.array(cosines) >= threshold) == same) for threshold in np.linspace(0, 1, 1001)
    )
    assert leaked == 1.0


def test_a_mean_of_the_test_fold_would_read_otherwise() -> None:
    # The fitting fold stands around the origin, the test fold around (10, 0): seen from the origin
    # all its pairs look alike. Seen from the mean of both folds, (5, 0), no pair would be missed.
    around = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], float)
    first = np.concatenate([around, around + np.array([10, 0])])
    second = first[[0, 3, 2, 1, 4, 7, 6, 5]]
    same = [True, False] * 4
    fit = [True] * 4 + [False] * 4
    split = split_accuracy(first, second, same, fit)
    assert (split.mean.tolist(), split.threshold, split.accuracy) == ([0, 0], 0, 0.5)
    leaked = split_accuracy(first - [5, 0], second - [5, 0], same, fit, subtract_mean=False)
    assert leaked.accuracy == 1.0


def test_the_mean_leaves_before_the_lengths_do() -> None:
    first = np.array([[4.0, 1.0], [3.0, 2.0], [9.0, 5.0]])
    second = np.array([[2.0, 1.0], [3.0, 0.0], [3.0, 7.0]])
    split = split_accuracy(first, second, [True, False, True], [True, True, False])
    assert split.mean.tolist() == [3, 1]
    assert split.similarities == pytest.approx([24 / math.sqrt(52 * 36)])


def test_fold_ids_may_be_any_integers_and_folds_of_any_size() -> None:
    first, second, same, fold = pairs(5)
    fold = np.where(np.arange(fold.size) < 20, 0, fold)
    plain = kfold_accuracy(first, second, same, fold)
    named = kfold_accuracy(first, second, same, np.array([-7, 30, 400])[fold].astype(np.int16))
    np.testing.assert_array_equal(plain.accuracies, named.accuracies)
    np.testing.assert_array_equal(plain.pair_thresholds, named.pair_thresholds)


def test_single_precision_embeddings_are_computed_in_double() -> None:
    first, second, same, fold = pairs(6)
    first, second = first.astype(np.float32), second.astype(np.float32)
    single = kfold_accuracy(first, second, same, fold)
    double = kfold_accuracy(first.astype(np.float64), second.astype(np.float64), same, fold)
    np.testing.assert_array_equal(single.similarities, double.similarities)


def test_many_pairs_are_the_formula_on_the_whole_array() -> None:
    first, second, same, fold = pairs(8, count=2500, folds=2)
    result = kfold_accuracy(first, second, same, fold)
    for each in (0, 1):
        test = fold == each
        left, right = first[test] - result.means[each], second[test] - result.means[each]
        lengths = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
        wanted = np.einsum("pd,pd->p", left, right) / lengths
        np.testing.assert_allclose(result.similarities[test], wanted, rtol=0, atol=1e-13)


ONES = np.ones((4, 2))


@pytest.mark.parametrize(
    ("first", "second", "same", "folds", "message"),
    [
        (ONES, ONES[:3], [1, 0, 1, 0], [0, 0, 1, 1], r"shapes \(4, 2\), \(3, 2\) and \(4,\). Pass"),
        (ONES[0], ONES[0], [1, 0], [0, 1], r"Received: shapes \(2,\), \(2,\) and \(2,\)"),
        (ONES, ONES, [1, 0, 1], [0, 0, 1, 1], r"shapes \(4, 2\), \(4, 2\) and \(3,\)"),
        (ONES, ONES, [1, 0, 1, 3], [0, 0, 1, 1], "Expected `same` as true/false or 1/0"),
        (ONES * np.nan, ONES, [1, 0, 1, 0], [0, 0, 1, 1], "Expected finite embeddings. Received"),
        (ONES, ONES, [1, 0, 1, 0], [0, 0, 0, 0], r"shape \(4,\), dtype int64, 1 folds. Number the"),
        (ONES, ONES, [1, 0, 1, 0], [0.0, 0.0, 1.0, 1.0], "dtype float64, 2 folds. Number the fol"),
        (ONES, ONES, [1, 0, 1, 0], [0, 1], r"Expected `folds` as \(4,\) integers of at least two"),
        (ONES, ONES, [1, 0, 1, 0], [0, 0, 1, 1], "Received: pair 0 has one of length 0"),
    ],
)
def test_refuses(
    first: np.ndarray, second: np.ndarray, same: list, folds: list, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        kfold_accuracy(first, second, same, folds)


def test_names_the_pair_without_a_direction() -> None:
    first, second = np.ones((2000, 2)), np.ones((2000, 2))
    second[1500] = 0
    with pytest.raises(DataError, match="Received: pair 1500 has one of length 0"):
        kfold_accuracy(first, second, np.arange(2000) % 4 < 2, np.arange(2000) % 2, False)


def test_refuses_to_fit_on_one_kind_of_pair() -> None:
    first, second = on_circle([0.9, 0.1, 0.8, 0.7])
    with pytest.raises(DataError, match=r"Received: 2 same, 0 different. Add pairs of the missin"):
        kfold_accuracy(first, second, [1, 0, 1, 1], [0, 0, 1, 1], subtract_mean=False)


@pytest.mark.parametrize("fit", [[True] * 4, [True] * 3])
def test_refuses_a_split_without_test_pairs(fit: list[bool]) -> None:
    with pytest.raises(DataError, match=r"Expected `fit` as \(4,\) booleans, false for at least"):
        split_accuracy(*on_circle([0.9, 0.1, 0.8, 0.7]), [1, 0, 1, 0], fit)
