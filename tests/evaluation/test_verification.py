import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation import kfold_accuracy, metrics, split_accuracy
from spherekeras.evaluation.bootstrap import bootstrap_intervals
from spherekeras.evaluation.verification import (
    VerificationResult,
    consecutive_folds,
    verify_pairs,
)

RANDOM = np.random.default_rng(2)
SAME = np.arange(60) % 2 == 0
FIRST = RANDOM.normal(size=(60, 5)) + 1
SECOND = np.where(SAME[:, None], FIRST, -FIRST) + 1.5 * RANDOM.normal(size=(60, 5))
FOLDS = consecutive_folds(60, 4)


def result(subtract_mean: bool = True, **options: Any) -> VerificationResult:
    how = "seen in a dream"
    return verify_pairs("Set", FIRST, SECOND, SAME, FOLDS, subtract_mean, 99, how, **options)


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
    np.testing.assert_array_equal(ours.pair_thresholds, wanted.pair_thresholds)
    assert (ours.pairs, ours.pictures, ours.name) == (60, 99, "Set")


def test_intervals_are_drawn_over_what_is_independent() -> None:
    people = np.stack([np.arange(60) // 3, np.where(SAME, np.arange(60) // 3, 20)], axis=1)
    people[1::2] = people[1::2, :1]  # pairs 3 i to 3 i + 2 share a person, and nobody else
    for known, groups in ((None, None), (people, np.arange(60) // 3)):
        ours = result(people=known)
        drawn = bootstrap_intervals(
            ours.similarities, SAME, groups=groups, thresholds=ours.pair_thresholds
        )
        assert ours.intervals.keys() == drawn.intervals.keys() > {"accuracy", "auc"}
        for name, interval in drawn.intervals.items():
            np.testing.assert_array_equal(ours.intervals[name], interval)
        low, high = ours.intervals["accuracy"]
        assert low < ours.accuracy < high
    assert "; intervals: 95 % bootstrap of 20 groups of pairs that share nobody, thresholds" in (
        ours.protocol
    )


def test_one_split_fits_on_one_part_and_judges_the_other() -> None:
    fit = FOLDS < 3
    names = [(f"a{pair}", f"b{pair}") for pair in range(60)]
    people = np.stack([np.arange(60), np.arange(60)], axis=1)
    ours = verify_pairs(
        "Set", FIRST, SECOND, SAME, fit, True, 99, "seen", "another list", people, names
    )
    wanted = split_accuracy(FIRST, SECOND, SAME, fit)
    np.testing.assert_array_equal(ours.similarities, wanted.similarities)
    np.testing.assert_array_equal(ours.same, SAME[45:])
    np.testing.assert_array_equal(ours.pair_thresholds, np.full(15, wanted.threshold))
    assert (ours.accuracy, ours.folds.tolist()) == (wanted.accuracy, [wanted.accuracy])
    assert math.isnan(ours.std) and ours.to_dict()["std"] is None
    assert ours.names == names[45:] and ours.pairs == 15
    assert str(ours).splitlines()[1].startswith(f"accuracy {ours.accuracy:.2%} (")
    assert ours.protocol == (
        "Set, 15 pairs (7 same) fitted on another list, seen; mean embedding of another list "
        "subtracted, L2 normalisation, cosine; the most accurate threshold on another list "
        "decides; intervals: 95 % bootstrap of 15 groups of pairs that share nobody, thresholds "
        "fixed."
    )


def test_it_prints_its_protocol_and_becomes_json() -> None:
    ours = result()
    assert ours.protocol == (
        "Set, 60 pairs (30 same) in 4 folds, seen in a dream; mean embedding of the other folds' "
        "pairs subtracted, L2 normalisation, cosine; the most accurate threshold on the other "
        "folds' pairs decides each fold; accuracy is the mean of the folds, ± their sample "
        "standard deviation; AUC, EER and TAR@FAR pool the cosines that the pairs have in their "
        "own test fold; intervals: 95 % bootstrap of 30 same and 30 different pairs, drawn apart "
        "as if no two shared a person, thresholds fixed."
    )
    assert "; no mean subtracted, L2" in result(False).protocol
    lines = str(ours).splitlines()
    between = {name: ours.between(name, ".2%") for name in ("accuracy", "eer", "tar_at_far_0.1")}
    assert lines[0] == "Set: 60 pairs; in brackets 95 % intervals"
    assert lines[1] == (
        f"accuracy {ours.accuracy:.2%} ± {ours.std:.2%} ({between['accuracy']}), threshold "
        f"{ours.thresholds.min():.4f} to {ours.thresholds.max():.4f}"
    )
    low, high = ours.intervals["auc"]
    assert lines[2].startswith(f"AUC {ours.auc:.5f} ({low:.5f} to {high:.5f}), EER {ours.eer:.2%}")
    assert lines[3] == f"TAR@FAR=0.1: {ours.tar_at_far[0.1]:.2%} ({between['tar_at_far_0.1']})"
    assert lines[-2] == (
        "TAR@FAR=0.001: FAR 0.001 needs at least 1000 different pairs, there are 30"
    )
    assert lines[-1] == f"Protocol: {ours.protocol}"
    values = json.loads(json.dumps(ours.to_dict(), allow_nan=False))
    assert values["tar_at_far"] == {"0.1": ours.tar_at_far[0.1], "0.01": None, "0.001": None}
    assert values["unmeasured"]["0.01"].startswith("FAR 0.01 needs")
    assert values["folds"] == ours.folds.tolist()
    assert values["intervals"]["auc"] == [low, high]
    assert values["intervals"]["tar_at_far_0.001"] is None


def test_numbers_without_an_interval_and_many_pictures_without_a_face() -> None:
    # All pairs share a person: there is nothing to resample.
    ours = result(people=np.zeros((60, 2), int), no_face=[f"{k}.jpg" for k in range(23)])
    assert all(math.isnan(low) for low, _ in ours.intervals.values())
    lines = str(ours).splitlines()
    assert lines[1].startswith(f"accuracy {ours.accuracy:.2%} ± {ours.std:.2%}, threshold ")
    assert f"AUC {ours.auc:.5f}, EER {ours.eer:.2%}" in lines
    assert lines[-2].endswith(", 18.jpg, 19.jpg and 3 more")
    few = dataclasses.replace(ours, no_face=[])
    assert str(few).splitlines()[-2] == "Pictures without a face: none"


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
