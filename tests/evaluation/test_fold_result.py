import json
import math

import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation import kfold_accuracy, metrics
from spherekeras.evaluation.fold_result import FoldResult, consecutive_folds, fold_result

RANDOM = np.random.default_rng(2)
SAME = np.arange(60) % 2 == 0
FIRST = RANDOM.normal(size=(60, 5)) + 1
SECOND = np.where(SAME[:, None], FIRST, -FIRST) + 1.5 * RANDOM.normal(size=(60, 5))
FOLDS = consecutive_folds(60, 4)


def result(subtract_mean: bool = True) -> FoldResult:
    return fold_result("Set", FIRST, SECOND, SAME, FOLDS, subtract_mean, 99, "seen in a dream")


@pytest.mark.parametrize("subtract_mean", [False, True])
def test_the_numbers_are_those_of_the_k_fold(subtract_mean: bool) -> None:
    ours = result(subtract_mean)
    wanted = kfold_accuracy(FIRST, SECOND, SAME, FOLDS, subtract_mean)
    np.testing.assert_array_equal(ours.similarities, wanted.similarities)
    np.testing.assert_array_equal(ours.folds, wanted.accuracies)
    np.testing.assert_array_equal(ours.thresholds, wanted.thresholds)
    np.testing.assert_array_equal(ours.same, SAME)
    assert (ours.accuracy, ours.std) == (wanted.accuracy, wanted.std)
    assert ours.auc == metrics.auc(wanted.similarities, SAME)
    assert ours.eer == metrics.eer(wanted.similarities, SAME)
    assert ours.tar_at_far[0.1] == metrics.tar_at_far(wanted.similarities, SAME, 0.1)
    assert math.isnan(ours.tar_at_far[0.01])
    assert ours.interval[0] < ours.accuracy < ours.interval[1]
    assert (ours.pairs, ours.pictures, ours.name) == (60, 99, "Set")


def test_it_prints_its_protocol_and_becomes_json() -> None:
    ours = result()
    assert ours.protocol == (
        "Set, 60 pairs (30 same) in 4 folds, seen in a dream; mean embedding of the other folds' "
        "pairs subtracted, L2 normalisation, cosine; the most accurate threshold on the other "
        "folds' pairs decides each fold; accuracy is the mean of the folds, ± their sample "
        "standard deviation; AUC, EER and TAR@FAR pool the cosines that the pairs have in their "
        "own test fold; interval: 95 % bootstrap of the pairs with thresholds fixed."
    )
    assert "; no mean subtracted, L2" in result(False).protocol
    lines = str(ours).splitlines()
    assert lines[0] == f"Set: accuracy {ours.accuracy:.2%} ± {ours.std:.2%} (60 pairs)"
    assert lines[-2] == (
        "TAR@FAR=0.001: FAR 0.001 needs at least 1000 different pairs, there are 30"
    )
    assert lines[-1] == f"Protocol: {ours.protocol}"
    values = json.loads(json.dumps(ours.to_dict(), allow_nan=False))
    assert values["tar_at_far"] == {"0.1": ours.tar_at_far[0.1], "0.01": None, "0.001": None}
    assert values["unmeasured"]["0.01"].startswith("FAR 0.01 needs")
    assert values["folds"] == ours.folds.tolist()


@pytest.mark.parametrize("pairs", [10, 14, 6000, 7000])
def test_folds_are_blocks_as_scikit_learn_cuts_them(pairs: int) -> None:
    model_selection = pytest.importorskip(
        "sklearn.model_selection", reason="scikit-learn is the oracle here"
    )
    folds = consecutive_folds(pairs)
    splits = model_selection.KFold(10, shuffle=False).split(np.zeros(pairs))
    for fold, (_, test) in enumerate(splits):
        np.testing.assert_array_equal(np.flatnonzero(folds == fold), test)


def test_too_few_pairs_are_refused() -> None:
    with pytest.raises(DataError, match="Expected at least 10 pairs for 10 folds. Received: 9."):
        consecutive_folds(9)
