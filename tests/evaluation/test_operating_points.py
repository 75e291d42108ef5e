import math

import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation import metrics, operating_points
from spherekeras.evaluation.operating_points import HighestScores, allowed

RANDOM = np.random.default_rng(3)
FARS = (1.0, 0.5, 0.3, 0.1, 0.03, 0.01, 0.001)


def draw(genuine: int, impostors: int, levels: int | None) -> tuple[np.ndarray, np.ndarray]:
    pair = RANDOM.normal(size=genuine) + 1, RANDOM.normal(size=impostors)
    return pair if levels is None else tuple(np.round(each * levels) / levels for each in pair)


@pytest.mark.parametrize("levels", [None, 8, 1])
@pytest.mark.parametrize("sizes", [(30, 200), (5, 1000), (200, 7), (1, 1)])
@pytest.mark.parametrize("spare", [0, 1, 1000])
def test_agrees_with_all_scores(sizes: tuple[int, int], levels: int | None, spare: int) -> None:
    genuine, impostors = draw(*sizes, levels)
    scores = np.concatenate([genuine, impostors])
    same = np.arange(scores.size) < genuine.size
    for far in FARS:
        stream = HighestScores(allowed(far, impostors.size) + 1 + spare)
        for part in np.array_split(impostors, 4):
            stream.add(part)
        (ours,) = operating_points.operating_points(genuine, stream, [far])
        wanted = metrics.operating_point(scores, same, far)
        assert ours.reason == wanted.reason
        np.testing.assert_array_equal(ours[:4], wanted[:4])


def test_perfect_and_hopeless_scores() -> None:
    for genuine in ([5.0, 6.0], [-5.0, -6.0]):
        stream = HighestScores(3)
        stream.add([0.0, 0.1, 0.2, 0.3])
        (ours,) = operating_points.operating_points(genuine, stream, [0.25])
        wanted = metrics.operating_point([*genuine, 0, 0.1, 0.2, 0.3], [1, 1, 0, 0, 0, 0], 0.25)
        np.testing.assert_array_equal(ours[:4], wanted[:4])


@pytest.mark.parametrize("keep", [1, 7, 100, 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_stream_keeps_its_highest(
    keep: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(operating_points, "_CHUNK", 64)
    scores = np.round(RANDOM.normal(size=3000), 2).astype(dtype)
    stream = HighestScores(keep)
    for part in np.split(scores, [10, 10, 900, 901]):
        stream.add(part.reshape(1, -1))
    wanted = np.sort(scores.astype(np.float64))[::-1][:keep]
    np.testing.assert_array_equal(stream.descending(), wanted)
    assert stream.seen == 3000
    stream.add([9, 8])
    np.testing.assert_array_equal(stream.descending()[:1], [9])
    assert stream.seen == 3002


def test_the_stream_holds_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(operating_points, "_CHUNK", 1000)
    stream = HighestScores(10)
    for _ in range(300):
        stream.add(RANDOM.random(500, np.float32))
        assert sum(part.size for part in stream._waiting) <= 1500
    assert stream._kept is not None and stream._kept.size == 10


def test_what_is_added_may_change_later() -> None:
    scores = np.array([1.0, 2.0])
    stream = HighestScores(2)
    stream.add(scores)
    scores[:] = 7
    assert stream.descending().tolist() == [2, 1]


def test_allowed_is_the_largest_count_within_the_rate() -> None:
    for impostors in (*range(1, 60), 999, 1000, 1001):
        for far in (1.0, 0.7, 0.1, 0.3, 1 / 3, 0.001, 1e-6):
            wanted = max(c for c in range(impostors + 1) if c / impostors <= far)
            assert allowed(far, impostors) == wanted
    assert allowed(1e-6, 3_530_000_000) == 3530
    assert allowed(0.1, 0) == 0


@pytest.mark.parametrize("far", [0, -0.1, 1.1, math.nan])
def test_a_rate_outside_is_refused(far: float) -> None:
    with pytest.raises(DataError, match=r"Expected a rate in \(0, 1\]. Received: .*. Pass a share"):
        allowed(far, 10)


def test_what_cannot_be_measured_says_why() -> None:
    stream = HighestScores(5)
    (point,) = operating_points.operating_points([1.0], stream, [0.1])
    assert point.reason == "FAR 0.1 needs at least 10 different pairs, there are 0"
    assert math.isnan(point.tar)
    stream.add(np.zeros(9))
    names = ("FPIR", "non-mated probes")
    (point,) = operating_points.operating_points([1.0], stream, [0.1], names)
    assert point.reason == "FPIR 0.1 needs at least 10 non-mated probes, there are 9"
    with pytest.raises(DataError, match="Expected genuine scores. Received: none. Add pairs of"):
        operating_points.operating_points([], stream, [0.5])
