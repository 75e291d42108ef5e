import math
import time
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation import metrics
from spherekeras.evaluation.bootstrap import bootstrap_intervals, linked_groups

NORMAL = NormalDist()
FARS = [0.5, 0.1, 0.02]
LIMITS = 0.4  # of the accuracy
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "accuracy": lambda s, y: metrics.accuracy(s, y, LIMITS),
    "auc": metrics.auc,
    "eer": metrics.eer,
    **{f"tar_at_far_{far}": lambda s, y, far=far: metrics.tar_at_far(s, y, far) for far in FARS},
}


def draw(pairs: int, levels: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Overlapping scores; `levels` rounds them so that many are equal."""
    random = np.random.default_rng(pairs)
    same = random.permutation(np.arange(pairs) % 3 == 0)
    scores = random.normal(size=pairs) + same
    return (scores if levels is None else np.round(scores * levels) / levels), same


def by_pair(same: np.ndarray, random: np.random.Generator) -> list[int]:
    chosen: list[int] = []
    for kind in (True, False):
        members = [i for i, each in enumerate(same) if each == kind]
        chosen += [members[j] for j in random.integers(0, len(members), len(members))]
    return chosen


def by_group(groups: np.ndarray, random: np.random.Generator) -> list[int]:
    names = sorted(set(groups.tolist()))
    drawn = [names[j] for j in random.integers(0, len(names), len(names))]
    return [i for name in drawn for i, each in enumerate(groups) if each == name]


def by_people(persons: np.ndarray, random: np.random.Generator) -> list[int]:
    """All pairs of the places that were filled with drawn people, each with its place."""
    names = sorted(set(persons.ravel().tolist()))
    drawn = [names[j] for j in random.integers(0, len(names), len(names))]
    chosen = []
    for one in range(len(drawn)):
        for other in range(len(drawn)):
            for i, (left, right) in enumerate(persons.tolist()):
                people_fit = (left, right) == (drawn[one], drawn[other])
                if people_fit and (left != right or one == other):
                    chosen.append(i)
    return chosen


def naive(
    scores: np.ndarray, same: np.ndarray, choose: Callable[[np.random.Generator], list[int]]
) -> dict[str, tuple[float, float]]:
    """Draws 40 resamples as lists of pairs and asks `metrics` about each."""
    random = np.random.default_rng(3)
    found: dict[str, list[float]] = {name: [] for name in METRICS}
    for _ in range(40):
        chosen = choose(random)
        for name, metric in METRICS.items():
            found[name].append(metric(scores[chosen], same[chosen]))
    tails = [0.05, 0.95]
    return {name: tuple(np.quantile(values, tails)) for name, values in found.items()}


@pytest.mark.parametrize(("pairs", "levels"), [(300, None), (300, 2), (200, 1)])
def test_pairs_as_a_naive_loop_over_resampled_lists(pairs: int, levels: int | None) -> None:
    scores, same = draw(pairs, levels)
    wanted = naive(scores, same, lambda random: by_pair(same, random))
    plain = bootstrap_intervals(
        scores, same, FARS, thresholds=LIMITS, confidence=0.9, samples=40, seed=3
    )
    for name, interval in wanted.items():
        assert plain.intervals[name] == pytest.approx(interval, abs=1e-12), name
    assert plain.unmeasured == {}
    assert plain.unit == f"{same.sum()} same and {(~same).sum()} different pairs, drawn apart"


@pytest.mark.parametrize("kind", [int, str])
def test_groups_as_a_naive_loop_over_resampled_lists(kind: type) -> None:
    scores, same = draw(400, 4)
    groups = np.array([kind(each) for each in np.random.default_rng(0).integers(0, 30, 400)])
    ours = bootstrap_intervals(
        scores, same, FARS, groups, LIMITS, confidence=0.9, samples=40, seed=3
    )
    wanted = naive(scores, same, lambda random: by_group(groups, random))
    for name, interval in wanted.items():
        assert ours.intervals[name] == pytest.approx(interval, abs=1e-12), name
    assert ours.unit == "30 groups of pairs"


def test_people_as_a_naive_loop_over_resampled_lists() -> None:
    owner = np.repeat(np.arange(12), 3)
    first, second = np.triu_indices(owner.size, 1)
    persons = np.stack([owner[first], owner[second]], axis=1)
    same = owner[first] == owner[second]
    scores = np.round(np.random.default_rng(1).normal(size=same.size) + same, 1)
    ours = bootstrap_intervals(
        scores, same, FARS, persons, np.full(same.size, LIMITS), 0.9, samples=40, seed=3
    )
    wanted = naive(scores, same, lambda random: by_people(persons, random))
    for name, interval in wanted.items():
        assert ours.intervals[name] == pytest.approx(interval, abs=1e-12), name
    assert ours.unit == "12 people"


def covered(
    truth: dict[str, float],
    simulate: Callable[[np.random.Generator], tuple[np.ndarray, np.ndarray]],
    groups: np.ndarray | None = None,
    runs: int = 200,
) -> dict[str, float]:
    """How often an 80 % interval holds the truth of the distribution that it was drawn from."""
    random = np.random.default_rng(11)
    hits = dict.fromkeys(truth, 0)
    for _ in range(runs):
        scores, same = simulate(random)
        intervals = bootstrap_intervals(
            scores, same, [0.1], groups=groups, confidence=0.8, samples=100
        ).intervals
        for name, value in truth.items():
            hits[name] += intervals[name][0] <= value <= intervals[name][1]
    return {name: count / runs for name, count in hits.items()}


# Of 200 runs at 80 % the standard deviation is 2.8 %; 10 % is 3.5 of them.
TRUTH = {
    "auc": NORMAL.cdf(1.5 / math.sqrt(2)),
    "eer": NORMAL.cdf(-0.75),
    "tar_at_far_0.1": NORMAL.cdf(1.5 - NORMAL.inv_cdf(0.9)),
}


def test_intervals_hold_the_known_truth_as_often_as_they_say() -> None:
    same = np.arange(300) % 2 == 0
    shares = covered(TRUTH, lambda random: (random.normal(size=300) + 1.5 * same, same))
    assert all(abs(share - 0.8) < 0.1 for share in shares.values()), shares


def test_intervals_hold_the_known_truth_under_ties() -> None:
    same = np.arange(300) % 2 == 0
    edges = np.arange(-8, 9) / 1.0
    chance = {
        shift: np.diff([0.0, *(NORMAL.cdf(edge + 0.5 - shift) for edge in edges[:-1]), 1.0])
        for shift in (0.0, 1.5)
    }
    below = np.cumsum(chance[0.0]) - chance[0.0]
    truth = {"auc": float(chance[1.5] @ (below + chance[0.0] / 2))}
    shares = covered(
        truth, lambda random: (np.round(random.normal(size=300) + 1.5 * same).clip(-8, 8), same)
    )
    assert abs(shares["auc"] - 0.8) < 0.1


def test_only_groups_hold_the_truth_where_pairs_are_dependent() -> None:
    groups = np.repeat(np.arange(60), 8)
    same = np.arange(groups.size) % 2 == 0

    def simulate(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Subjects differ in how alike their pictures are, and in how like others they are."""
        shared = random.normal(size=(60, 2))[groups, same.astype(int)]
        own = random.normal(size=groups.size)
        return 1.5 * same + math.sqrt(0.7) * shared + math.sqrt(0.3) * own, same

    by_subject, by_pair = (covered(TRUTH, simulate, each) for each in (groups, None))
    assert all(abs(share - 0.8) < 0.1 for share in by_subject.values()), by_subject
    assert all(share < 0.65 for share in by_pair.values()), by_pair


def test_only_people_hold_the_truth_where_everyone_meets_everyone() -> None:
    owner = np.repeat(np.arange(25), 4)
    first, second = np.triu_indices(owner.size, 1)
    persons = np.stack([owner[first], owner[second]], axis=1)
    same = owner[first] == owner[second]
    assert linked_groups(persons).max() == 0

    def simulate(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        people, pictures = random.normal(size=(25, 4)), random.normal(size=(owner.size, 4))
        vectors = people[owner] + pictures * np.exp(0.8 * random.normal(size=(25, 1)))[owner]
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return np.sum(vectors[first] * vectors[second], axis=1), same

    random = np.random.default_rng(2)
    truth = {"auc": float(np.mean([metrics.auc(*simulate(random)) for _ in range(300)]))}
    assert abs(covered(truth, simulate, persons, runs=100)["auc"] - 0.8) < 0.14  # 3.5 of 4 %
    assert covered(truth, simulate, None, runs=100)["auc"] < 0.65


def test_the_seed_decides() -> None:
    scores, same = draw(90, None)
    first, again, other = (
        bootstrap_intervals(scores, same, [0.1], samples=50, seed=seed) for seed in (0, 0, 1)
    )
    assert first == again
    assert first.intervals["auc"] != other.intervals["auc"]


def test_confidence_widens_and_perfect_scores_collapse() -> None:
    scores, same = draw(90, None)
    narrow, wide = (
        bootstrap_intervals(scores, same, [], confidence=share).intervals["auc"]
        for share in (0.5, 0.99)
    )
    assert wide[0] < narrow[0] < narrow[1] < wide[1]
    perfect = bootstrap_intervals([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], [0.5]).intervals
    assert perfect == {"auc": (1, 1), "eer": (0, 0), "tar_at_far_0.5": (1, 1)}


def test_the_accuracy_is_that_of_each_pairs_own_threshold() -> None:
    scores, same = draw(90, None)
    limits = np.linspace(-1, 2, 90)
    own = bootstrap_intervals(scores, same, [], thresholds=limits).intervals
    # A shift of scores and thresholds alike moves nothing.
    shifted = bootstrap_intervals(scores - limits, same, [], thresholds=0).intervals
    assert own["accuracy"] == shifted["accuracy"]
    assert own["accuracy"][0] < metrics.accuracy(scores, same, limits) < own["accuracy"][1]
    assert "accuracy" not in bootstrap_intervals(scores, same, []).intervals


def test_a_far_that_the_pairs_cannot_measure_is_said() -> None:
    scores, same = draw(60, None)
    result = bootstrap_intervals(scores, same, [0.1, 0.001], samples=30)
    assert not math.isnan(result.intervals["tar_at_far_0.1"][0])
    assert all(map(math.isnan, result.intervals["tar_at_far_0.001"]))
    assert result.unmeasured == {
        "tar_at_far_0.001": "FAR 0.001 needs at least 1000 different pairs, there are 40"
    }


def test_a_far_that_many_resamples_cannot_measure_is_said() -> None:
    scores, same = draw(60, None)
    groups = np.arange(60)  # half of the resamples draw fewer than 40 different pairs
    result = bootstrap_intervals(scores, same, [0.1, 1 / 40], groups=groups, samples=200)
    assert list(result.unmeasured) == ["tar_at_far_0.025"]
    assert all(map(math.isnan, result.intervals["tar_at_far_0.025"]))
    reason = result.unmeasured["tar_at_far_0.025"]
    missing = int(reason.removeprefix("could not be measured in ").split()[0])
    assert 60 < missing < 140
    assert reason.endswith(f" {missing} of 200 resamples of 60 groups of pairs")


def test_resamples_without_one_kind_are_left_out_and_counted() -> None:
    scores, same = np.arange(8.0), np.arange(8) >= 4
    result = bootstrap_intervals(scores, same, [], groups=np.arange(8) // 4, samples=100)
    assert math.isnan(result.intervals["auc"][0])
    # One of two groups alone, in half of the draws.
    assert 30 < int(result.unmeasured["auc"].split(" of 100")[0].split()[-1]) < 70
    rare = np.arange(80) < 6  # no same pair: (74 / 80) ** 80, 0.2 %
    kept = bootstrap_intervals(np.arange(80.0), rare, [], groups=np.arange(80), samples=2000)
    assert kept.unmeasured == {}
    assert kept.intervals["auc"] == (0, 0)


def test_one_group_has_no_interval() -> None:
    scores, same = draw(60, None)
    result = bootstrap_intervals(scores, same, [0.1], groups=np.zeros(60, int), samples=10)
    assert set(result.unmeasured.values()) == {"a single group leaves nothing to resample"}
    assert result.unmeasured.keys() == result.intervals.keys() == {"auc", "eer", "tar_at_far_0.1"}
    assert all(math.isnan(value) for pair in result.intervals.values() for value in pair)


def test_a_thousand_resamples_of_six_thousand_pairs_are_quick() -> None:
    scores, same = draw(6000, None)
    started = time.process_time()
    bootstrap_intervals(scores, same)
    assert time.process_time() - started < 3  # 0.3 s on an idle machine


def test_links_are_followed_through_other_pairs() -> None:
    persons = [["e", "e"], ["a", "b"], ["c", "d"], ["f", "e"], ["b", "c"], ["g", "g"]]
    groups = linked_groups(persons)
    assert groups.dtype == np.int64
    assert [groups.tolist().index(each) for each in groups] == [0, 1, 1, 0, 1, 5]
    assert groups.max() == 2


def test_links_are_those_of_a_naive_closure() -> None:
    persons = np.random.default_rng(4).integers(0, 90, (60, 2))
    linked = (persons[:, None, :, None] == persons[None, :, None, :]).any(axis=(2, 3))
    for _ in range(6):  # 2 ** 6 steps
        linked = linked @ linked
    groups = linked_groups(persons)
    assert 5 < groups.max() < 59
    np.testing.assert_array_equal(groups[:, None] == groups[None], linked)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"confidence": 1.0},
            r"`confidence` in \(0, 1\) .* Received: confidence=1.0, samples=1000.",
        ),
        ({"samples": 0}, "Received: confidence=0.95, samples=0. Pass `confidence=0.95`."),
        ({"thresholds": [0.5]}, r"one for each of the 4 pairs. Received: shape \(1,\)"),
        ({"fars": [0.0]}, r"Expected a FAR in \(0, 1\]. Received: 0.0."),
        (
            {"groups": [1, 2]},
            r"`groups` as integers or strings, \(4,\) or \(4, 2\). Received: shape \(2,\), dtype "
            "int64. Pass one group for each pair, or the persons on both sides.",
        ),
        ({"groups": [0.5, 1, 2, 3]}, r"Received: shape \(4,\), dtype float64."),
        (
            {"groups": [[1, 1], [1, 2], [3, 3], [1, 3]]},
            "Received: 2 pairs where `same` says otherwise. Pass the person in each picture.",
        ),
    ],
)
def test_errors_say_what_came(options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        bootstrap_intervals([0.9, 0.8, 0.2, 0.1], [1, 1, 0, 0], **({"fars": [0.5]} | options))


def test_pairs_are_checked_without_a_far_too() -> None:
    with pytest.raises(DataError, match="Received: 2 same, 0 different. Add pairs of the missing"):
        bootstrap_intervals([0.9, 0.8], [1, 1], fars=[])
    with pytest.raises(
        DataError, match=r"`persons` .*\(pairs, 2\). Received: shape \(2,\), dtype <U"
    ):
        linked_groups(["Ann", "Bob"])
