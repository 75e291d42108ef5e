import dataclasses
import json
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation.calibration import (
    Calibration,
    fit_calibration,
    out_of_fold,
    reliability,
)

sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn fits calibrations")

METHODS = ["logistic", "isotonic"]


def planted(pairs: int, slope: float, intercept: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(pairs)
    scores = random.uniform(-0.2, 1, pairs)
    return scores, random.random(pairs) < 1 / (1 + np.exp(-(slope * scores + intercept)))


def overlapping(pairs: int, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(pairs)
    same = random.random(pairs) < 0.4
    scores = 0.2 * random.normal(size=pairs) + 0.3 * same
    return (scores if levels is None else np.round(scores * levels) / levels), same


def test_a_planted_logistic_truth_is_recovered() -> None:
    scores, same = planted(40_000, 14.0, -5.0)
    fitted = fit_calibration(scores, same)
    chance = 1 / (1 + np.exp(-(14 * scores - 5)))
    weight = chance * (1 - chance)
    design = np.stack([scores, np.ones_like(scores)])
    errors = np.sqrt(np.diag(np.linalg.inv((design * weight) @ design.T)))
    assert abs(fitted.slope - 14) < 4 * errors[0] < 1
    assert abs(fitted.intercept + 5) < 4 * errors[1] < 0.5
    assert np.abs(fitted.probability(scores) - chance).max() < 0.02


def test_isotonic_comes_near_a_planted_truth_that_is_not_logistic() -> None:
    random = np.random.default_rng(0)
    scores = random.random(40_000)
    chance = 0.1 + 0.6 * (scores > 0.5)
    same = random.random(40_000) < chance
    for method, holds in (("isotonic", True), ("logistic", False)):
        error = np.abs(fit_calibration(scores, same, method).probability(scores) - chance).mean()
        assert (error < 0.02) == holds, method


@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_logistic_is_newtons_optimum_of_platts_targets(levels: int | None, scale: float) -> None:
    scores, same = overlapping(200, levels)
    positive, negative = int(same.sum()), int((~same).sum())
    target = np.where(same, (positive + 1) / (positive + 2), 1 / (negative + 2))
    slope = intercept = 0.0
    for _ in range(50):
        chance = 1 / (1 + np.exp(-(slope * scores + intercept)))
        weight = chance * (1 - chance)
        hessian = np.array([[weight @ scores**2, weight @ scores], [weight @ scores, weight.sum()]])
        step = np.linalg.solve(hessian, [(target - chance) @ scores, (target - chance).sum()])
        slope, intercept = slope + step[0], intercept + step[1]
    fitted = fit_calibration(scores * scale + 2, same)  # units of the similarity do not matter
    assert fitted.slope * scale == pytest.approx(slope, rel=1e-6)
    assert fitted.intercept + 2 * fitted.slope == pytest.approx(intercept, rel=1e-6)


def pool_adjacent_violators(scores: np.ndarray, same: np.ndarray) -> dict[float, float]:
    """Mean of `same` at each similarity; neighbours that fall are pooled until none does."""
    blocks = [
        [float(same[scores == level].sum()), int((scores == level).sum()), [level]]
        for level in sorted(set(scores.tolist()))
    ]
    at = 0
    while at + 1 < len(blocks):
        low, high = blocks[at], blocks[at + 1]
        if low[0] / low[1] >= high[0] / high[1]:
            blocks[at : at + 2] = [[a + b for a, b in zip(low, high, strict=True)]]
            at = max(at - 1, 0)
        else:
            at += 1
    return {level: total / count for total, count, levels in blocks for level in levels}


@pytest.mark.parametrize("levels", [None, 10, 2])
def test_isotonic_is_pool_adjacent_violators(levels: int | None) -> None:
    scores, same = overlapping(300, levels)
    fitted = fit_calibration(scores, same, "isotonic")
    wanted = pool_adjacent_violators(scores, same)
    got = fitted.probability(list(wanted))
    np.testing.assert_allclose(got, list(wanted.values()), rtol=0, atol=1e-12)
    assert 3 < len(set(wanted.values())) < len(wanted) or levels == 2


def test_isotonic_by_hand() -> None:
    scores, same = [0.1, 0.2, 0.2, 0.4, 0.6, 0.8], [0, 1, 0, 0, 1, 1]
    fitted = fit_calibration(scores, same, "isotonic")
    # 0.2 (one of two) and 0.4 (none of one) fall, and are pooled to one of three.
    np.testing.assert_allclose(
        fitted.probability([-1, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 2]),
        [0, 0, 1 / 6, 1 / 3, 1 / 3, 1 / 3, 2 / 3, 1, 1],
        atol=1e-15,
    )


@pytest.mark.parametrize("method", METHODS)
def test_probabilities_never_fall(method: Any) -> None:
    for levels in (None, 4):
        fitted = fit_calibration(*overlapping(400, levels), method, prior=0.003)
        probabilities = fitted.probability(np.linspace(-3, 3, 5001))
        assert (np.diff(probabilities) >= 0).all()
        assert probabilities[0] < 0.003 < probabilities[-1]
        assert ((probabilities >= 0) & (probabilities <= 1)).all()


@pytest.mark.parametrize("method", METHODS)
def test_similarities_that_tell_nothing_or_the_opposite_give_the_share(method: Any) -> None:
    same = np.arange(90) % 3 == 0
    for scores in (np.ones(90), -1.0 * same):
        fitted = fit_calibration(scores, same, method)
        np.testing.assert_allclose(fitted.probability([-1, 0, 1]), 1 / 3, atol=0.01)


def test_pairs_without_error_stay_finite() -> None:
    fitted = fit_calibration([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0])
    # Platt's targets with two of each: 3 / 4 and 1 / 4; by symmetry 1 / 2 in the middle.
    assert fitted.probability(0.5) == pytest.approx(0.5, abs=1e-9)
    assert 0.6 < fitted.probability(0.8) < 0.75 < fitted.probability(0.9) < 0.85


@pytest.mark.parametrize("method", METHODS)
def test_another_prior_moves_the_odds_as_bayes_says(method: Any) -> None:
    random = np.random.default_rng(3)
    same = np.arange(60_000) % 2 == 0
    scores = random.normal(size=same.size) + 1.5 * same
    fitted = fit_calibration(scores, same, method, prior=0.1)
    assert (fitted.fitted_prior, fitted.prior) == (0.5, 0.1)
    assert fitted == fit_calibration(scores, same, method).with_prior(0.1)
    at = np.array([-0.5, 0.5, 1.5])
    ratio = np.exp(-((at - 1.5) ** 2) / 2) / np.exp(-(at**2) / 2)
    np.testing.assert_allclose(fitted.probability(at), ratio / (ratio + 9), atol=0.02)
    # Data in which one pair of ten is same leads to the same probabilities.
    rare = np.flatnonzero(same)[::9].tolist() + np.flatnonzero(~same).tolist()
    again = fit_calibration(scores[rare], same[rare], method)
    np.testing.assert_allclose(again.probability(at), fitted.probability(at), atol=0.03)
    # Odds of 1 to 9 in place of 1 to 1.
    even, moved = fitted.with_prior(0.5).probability(0.5), fitted.probability(0.5)
    assert moved / (1 - moved) == pytest.approx(even / (1 - even) / 9, rel=1e-9)


def test_extreme_probabilities_keep_their_precision() -> None:
    steep = Calibration("logistic", 0.5, 0.5, slope=100.0, intercept=0.0)
    np.testing.assert_allclose(steep.probability([-1, 1]), [math.exp(-100), 1], rtol=1e-14)
    assert steep.probability([-1e9, 1e9]).tolist() == [0, 1]
    knots = Calibration("isotonic", 0.5, 0.01, knots=((0.0, 0.0), (1.0, 1.0)))
    assert knots.probability([[0.0], [1.0]]).tolist() == [[0], [1]]


@pytest.mark.parametrize("method", METHODS)
def test_json_brings_it_back(method: Any) -> None:
    fitted = fit_calibration(*overlapping(100), method, prior=0.01)
    again = Calibration.from_dict(json.loads(json.dumps(fitted.to_dict(), allow_nan=False)))
    assert again == fitted
    assert hash(again) == hash(fitted)
    np.testing.assert_array_equal(again.probability([0.1, 0.3]), fitted.probability([0.1, 0.3]))


LOGISTIC = {"method": "logistic", "fitted_prior": 0.5, "prior": 0.5, "slope": 1, "intercept": 0}
ISOTONIC = {"method": "isotonic", "fitted_prior": 0.5, "prior": 0.5, "knots": [[0, 0.1], [1, 0.9]]}


@pytest.mark.parametrize(
    "values",
    [
        {},
        [LOGISTIC],
        {"method": "logistic"},
        LOGISTIC | {"method": "neural"},
        LOGISTIC | {"method": []},
        LOGISTIC | {"slope": -1},
        LOGISTIC | {"slope": math.inf},
        LOGISTIC | {"intercept": math.nan},
        LOGISTIC | {"intercept": "x"},
        LOGISTIC | {"prior": 1},
        LOGISTIC | {"fitted_prior": 0},
        LOGISTIC | {"knots": [[0, 1]]},
        ISOTONIC | {"slope": 1},
        ISOTONIC | {"knots": []},
        ISOTONIC | {"knots": 3},
        ISOTONIC | {"knots": [[0, 0.1, 0.2]]},
        ISOTONIC | {"knots": [[0, 0.1], [0, 0.9]]},
        ISOTONIC | {"knots": [[0, 0.9], [1, 0.1]]},
        ISOTONIC | {"knots": [[0, -0.1], [1, 0.9]]},
        ISOTONIC | {"knots": [[0, 0.1], [1, math.nan]]},
    ],
)
def test_a_calibration_that_was_tampered_with_is_refused(values: Any) -> None:
    for good in (LOGISTIC, ISOTONIC):
        assert Calibration.from_dict(good).prior == 0.5
    message = r"Expected a calibration as `to_dict` .* Received: .*. Write it anew: `json.dumps"
    with pytest.raises(DataError, match=message):
        Calibration.from_dict(values)


@pytest.mark.parametrize("method", METHODS)
def test_out_of_fold_is_each_fold_by_the_others(method: Any) -> None:
    scores, same = overlapping(90, 20)
    folds = np.random.default_rng(1).integers(4, 7, 90)
    got = out_of_fold(scores, same.astype(int), folds, method)
    for each in (4, 5, 6):
        own = folds == each
        fitted = fit_calibration(scores[~own], same[~own], method)
        np.testing.assert_array_equal(got[own], fitted.probability(scores[own]))


@pytest.mark.parametrize("method", METHODS)
def test_a_folds_own_labels_never_reach_its_probabilities(method: Any) -> None:
    scores, same = overlapping(120)
    folds = np.arange(120) % 3
    before = out_of_fold(scores, same, folds, method)
    own = folds == 1
    after = out_of_fold(scores, np.where(own, ~same, same), folds, method)
    np.testing.assert_array_equal(after[own], before[own])
    assert (after[~own] != before[~own]).any()


@pytest.mark.parametrize(("bins", "count"), [(15, 5000), (1, 40), (4, 40)])
def test_reliability_is_a_naive_count(bins: int, count: int) -> None:
    random = np.random.default_rng(bins)
    given = np.concatenate([random.random(count), [0.0, 0.25, 0.5, 0.75, 1.0]])
    same = random.random(given.size) < given**2
    same[-5:] = [0, 0, 1, 1, 1]
    found = reliability(given, same, bins)
    error = 0.0
    for each in range(bins):
        low, high = each / bins, (each + 1) / bins
        inside = [
            i for i, p in enumerate(given) if low <= p < high or (each == bins - 1 and p == 1)
        ]
        assert found.counts[each] == len(inside)
        if inside:
            mean = sum(given[inside]) / len(inside)
            share = sum(same[inside]) / len(inside)
            assert found.probabilities[each] == pytest.approx(mean, abs=1e-12)
            assert found.shares[each] == pytest.approx(share, abs=1e-12)
            error += len(inside) / given.size * abs(mean - share)
    assert found.calibration_error == pytest.approx(error, abs=1e-12)
    assert found.brier == pytest.approx(sklearn_metrics.brier_score_loss(same, given), abs=1e-12)
    assert found.log_loss == pytest.approx(sklearn_metrics.log_loss(same, given), abs=1e-12)


def test_reliability_by_hand() -> None:
    found = reliability([1.0, 0.5, 0.5, 0.0], [1, 1, 0, 0], bins=2)
    assert (found.counts.tolist(), found.shares.tolist()) == ([1, 3], [0, 2 / 3])
    assert found.calibration_error == pytest.approx(0, abs=1e-15)
    assert (found.brier, found.log_loss) == (0.125, pytest.approx(math.log(2) / 2))
    empty = reliability([0.9], [1], bins=2)
    assert empty.counts.tolist() == [0, 1]
    assert math.isnan(empty.shares[0]) and math.isnan(empty.probabilities[0])
    assert empty.calibration_error == pytest.approx(0.1)
    wrong = reliability([1.0], [0])
    assert wrong.log_loss == pytest.approx(52 * math.log(2))


def test_what_was_planted_is_reliable_and_what_is_overconfident_is_not() -> None:
    scores, same = planted(20_000, 14.0, -5.0)
    folds = np.arange(20_000) % 5
    for method in METHODS:
        good = reliability(out_of_fold(scores, same, folds, method), same)
        assert good.calibration_error < 0.015, method
    steep = Calibration("logistic", 0.5, 0.5, slope=60.0, intercept=-60 * 5 / 14)
    bad = reliability(steep.probability(scores), same)
    assert bad.calibration_error > 0.05
    assert bad.brier > good.brier and bad.log_loss > good.log_loss


def test_a_calibration_is_frozen_and_predicts_by_numpy_alone() -> None:
    fitted = Calibration.from_dict(LOGISTIC)
    with pytest.raises(dataclasses.FrozenInstanceError):
        fitted.prior = 0.1  # type: ignore[misc]
    code = (
        "import sys; from spherekeras.evaluation.calibration import Calibration, reliability\n"
        f"p = Calibration.from_dict({ISOTONIC!r}).probability([0.5]); reliability(p, [1])\n"
        "print(p, 'sklearn' in sys.modules, 'scipy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[0.5] False False"


def test_a_missing_scikit_learn_is_named_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.isotonic", None)
    message = r'fitted by scikit-learn.*Run `pip install "spherekeras\[calibration\]"`'
    with pytest.raises(DataError, match=message):
        fit_calibration([0.9, 0.1], [1, 0], "isotonic")


@pytest.mark.parametrize("method", METHODS)
def test_errors_say_what_came(method: Any) -> None:
    fits: list[tuple[Any, str]] = [
        (([0.9, 0.8], [1, 1]), "Received: 2 same, 0 different. Add pairs of the missing kind."),
        (([0.9, 0.8], [0, 0]), "Received: 0 same, 2 different. Add pairs of the missing kind."),
        (([0.9, math.nan], [1, 0]), "Received: 1 of 2 are NaN or infinite. Check the embeddings"),
        (([0.9, 0.1], [1]), r"Received: shapes \(2,\) and \(1,\). Pass one number and one true/fa"),
        (([0.9, 0.1], [1, 2]), "Expected `same` as true/false or 1/0."),
    ]
    for arguments, message in fits:
        with pytest.raises(DataError, match=message):
            fit_calibration(*arguments, method)
    for prior in (0.0, 1.0, math.nan):
        with pytest.raises(DataError, match=rf"`prior`, .* in \(0, 1\). Received: {prior}. Pass"):
            fit_calibration([0.9, 0.1], [1, 0], method, prior)
    fitted = fit_calibration([0.9, 0.1], [1, 0], method)
    with pytest.raises(DataError, match="Received: 1 of 2 are NaN or infinite. Check the embeddin"):
        fitted.probability([0.5, math.inf])
    for folds in ([0, 0, 0, 0], [0.5, 1, 1, 2], [0, 1]):
        with pytest.raises(DataError, match=r"`folds` as \(4,\) integers .* Number the folds 0, 1"):
            out_of_fold([0.9, 0.1, 0.8, 0.2], [1, 0, 1, 0], folds, method)
    with pytest.raises(DataError, match="Received: 2 same, 0 different."):
        out_of_fold([0.9, 0.1, 0.8, 0.7], [1, 0, 1, 1], [0, 0, 1, 1], method)


def test_other_errors_say_what_came() -> None:
    unknown: Any = "platt"
    with pytest.raises(DataError, match='method "logistic" or "isotonic". Received: \'platt\'.'):
        fit_calibration([0.9, 0.1], [1, 0], unknown)
    with pytest.raises(DataError, match="from 0 to 1. Received: from -0.5 to 1.5. Pass `calibra"):
        reliability([-0.5, 1.5], [0, 1])
    with pytest.raises(DataError, match="Received: from nan to nan"):
        reliability([math.nan, 0.5], [0, 1])
    with pytest.raises(
        DataError, match=r"Received: shapes \(2,\) and \(1,\), bins=15. Pass one of"
    ):
        reliability([0.5, 0.5], [0])
    with pytest.raises(DataError, match="bins=0"):
        reliability([0.5, 0.5], [0, 1], bins=0)
