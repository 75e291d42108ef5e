import math

import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation import identification
from spherekeras.evaluation.identification import (
    Searches,
    cmc,
    fnir_at_fpir,
    score_searches,
    search_gallery,
)

RANDOM = np.random.default_rng(6)


def naive(scores: np.ndarray, probes: list, gallery: list, tie: float = 0.0) -> list[tuple]:
    """One probe at a time: (mated, mate's score, rank, best other score)."""
    found = []
    for row, who in zip(scores, probes, strict=True):
        best: dict = {}
        for score, name in zip(row, gallery, strict=True):
            best[name] = max(best.get(name, -math.inf), score)
        others = [score for name, score in best.items() if name != who]
        mate = best.get(who, math.nan)
        ahead = sum(score >= mate - tie for score in others)
        highest = max(others, default=-math.inf)
        found.append((who in best, mate, 1 + ahead if who in best else 0, highest))
    return found


def agree(ours: Searches, wanted: list[tuple], atol: float = 0) -> None:
    columns = list(zip(*wanted, strict=True))
    assert ours.mated.tolist() == list(columns[0])
    assert ours.rank.tolist() == list(columns[2])
    np.testing.assert_allclose(ours.mate, columns[1], rtol=0, atol=atol)
    np.testing.assert_allclose(ours.best, columns[3], rtol=0, atol=atol)


@pytest.mark.parametrize("levels", [None, 4, 1])
@pytest.mark.parametrize("entries", [1, 3])
@pytest.mark.parametrize("text", [False, True])
def test_searches_of_scores(levels: int | None, entries: int, text: bool) -> None:
    gallery = RANDOM.permutation(np.repeat(np.arange(20, 32), entries))
    probes = RANDOM.integers(15, 40, 50)
    scores = RANDOM.random((50, gallery.size))
    scores += 0.5 * (probes[:, None] == gallery)
    if levels:
        scores = np.round(scores * levels) / levels
    if text:
        gallery, probes = gallery.astype(str), probes.astype(str)
    ours = score_searches(scores, probes, gallery)
    agree(ours, naive(scores, probes.tolist(), gallery.tolist()))
    assert 0 < ours.mated.sum() < 50 and ours.rank.max() > 1


@pytest.mark.parametrize("rows", [3, 1024])
def test_searches_of_embeddings(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identification, "_ROWS", rows)
    people = RANDOM.normal(size=(30, 6))
    who, whom = RANDOM.integers(0, 30, 40), RANDOM.permutation(np.r_[np.arange(20), 3, 3])
    probes = people[who] + 0.7 * RANDOM.normal(size=(40, 6))
    gallery = (people[whom] + 0.7 * RANDOM.normal(size=(22, 6))) * 9
    scores = np.array([[p @ g / math.sqrt((p @ p) * (g @ g)) for g in gallery] for p in probes])
    ours = search_gallery(probes.astype(np.float64), who, gallery, whom)
    agree(ours, naive(scores, who.tolist(), whom.tolist(), identification.TIE), atol=1e-12)


def test_a_tie_counts_against_the_system() -> None:
    found = score_searches([[0.5, 0.5, 0.5], [0.5, 0.4, 0.5]], [1, 2], [1, 2, 3])
    assert found.rank.tolist() == [3, 3]
    # A stranger in the gallery with the very embedding of the mate, in any place.
    for gallery in ([[3, 4], [3, 4]], [[6, 8], [0.3, 0.4]]):
        for ids in ([1, 2], [2, 1]):
            assert search_gallery([[1, 2]], [1], gallery, ids).rank.tolist() == [2]
    far = 1 - 5e-7  # nearer than TIE
    near = search_gallery([[1, 0]], [1], [[1, 0], [far, math.sqrt(1 - far**2)]], [1, 2])
    assert near.rank.tolist() == [2]


def test_cmc_by_hand() -> None:
    scores = [[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1]]
    found = score_searches(scores, [1, 2, 3, 9], [1, 2, 3])
    assert cmc(found, [1, 2, 3, 10]) == {1: 1 / 3, 2: 2 / 3, 3: 1.0, 10: 1.0}


def naive_fnir(found: list[tuple], fpir: float) -> tuple[float, float]:
    """The lowest FNIR over all thresholds, and whatever passes none, with FPIR in reach."""
    mates = [mate for mated, mate, _, _ in found if mated]
    strangers = [best for mated, _, _, best in found if not mated]
    rates = []
    for threshold in [math.inf, *mates, *strangers]:
        false = sum(score >= threshold for score in strangers) / len(strangers)
        missed = sum(score < threshold for score in mates) / len(mates)
        if false <= fpir:
            rates.append((missed, -false))
    missed, false = min(rates)
    return missed, max(-f for m, f in rates if m == missed)


@pytest.mark.parametrize("levels", [None, 10, 2])
def test_fnir_at_fpir_is_the_best_threshold(levels: int | None) -> None:
    probes, gallery = RANDOM.integers(0, 30, 80), np.arange(15)
    scores = RANDOM.random((80, 15)) + 0.4 * (probes[:, None] == gallery)
    if levels:
        scores = np.round(scores * levels) / levels
    found = score_searches(scores, probes, gallery)
    one_by_one = naive(scores, probes.tolist(), gallery.tolist())
    wanted_fpirs = [1.0, 0.5, 0.2, 0.1, 0.05]
    for fpir, point in zip(wanted_fpirs, fnir_at_fpir(found, wanted_fpirs), strict=True):
        fnir, most = naive_fnir(one_by_one, fpir)
        assert (point.wanted_fpir, point.reason) == (fpir, "")
        assert point.fnir == pytest.approx(fnir, abs=1e-12)
        assert point.fpir <= min(fpir, most) + 1e-12
        # The threshold does what the point says.
        mates, strangers = found.mate[found.mated], found.best[~found.mated]
        assert np.mean(strangers >= point.threshold) == pytest.approx(point.fpir)
        assert np.mean(mates < point.threshold) == pytest.approx(point.fnir)


def test_fnir_by_hand() -> None:
    # Mates at 0.9, 0.6 and 0.3; strangers find 0.7 and 0.2 at best.
    scores = [[0.9, 0.1], [0.8, 0.6], [0.3, 0.2], [0.7, 0.5], [0.1, 0.2]]
    found = score_searches(scores, [1, 2, 1, 8, 9], [1, 2])
    lenient, strict = fnir_at_fpir(found, [1.0, 0.5])
    assert (lenient.fnir, lenient.fpir, lenient.threshold) == (0, 1, 0.2)
    assert (strict.fnir, strict.fpir) == (0, 0.5)
    assert strict.threshold == pytest.approx(0.25)
    # A stranger as high as a mate cannot be told from it.
    tied = score_searches([[0.9], [0.6], [0.6], [0.1]], [1, 1, 2, 3], [1])
    (point,) = fnir_at_fpir(tied, [0.49999])[:1]
    assert point.reason == "FPIR 0.49999 needs at least 3 non-mated probes, there are 2"
    more = score_searches([[0.9], [0.6], [0.6], [0.1], [0.6]], [1, 1, 2, 3, 4], [1])
    (point,) = fnir_at_fpir(more, [0.5])
    assert (point.fnir, point.fpir, point.threshold) == (0.5, 0.0, 0.75)


def test_too_few_strangers_are_said() -> None:
    found = score_searches([[0.9], [0.2]], [1, 1], [1])
    (point,) = fnir_at_fpir(found, [0.01])
    assert math.isnan(point.fnir) and math.isnan(point.threshold)
    assert point.reason == "FPIR 0.01 needs at least 100 non-mated probes, there are 0"


@pytest.mark.parametrize(
    ("scores", "probes", "gallery", "message"),
    [
        ([[1.0]], [1, 2], [1], r"Received: shapes \(1, 1\), \(2,\) and \(1,\). Pass the score of"),
        ([1.0], [1], [1], r"Expected `similarities` \(probes, gallery\)"),
        (np.zeros((0, 2)), [], [1, 2], r"Received: shapes \(0, 2\)"),
        ([[math.nan]], [1], [1], "Expected finite scores. Received: NaN or infinity. Check"),
        ([[1.0]], ["a"], [1], "both as text. Received: <U1 and int64. Convert one: `numpy.asarra"),
        ([[1.0]], [1.5], [1], "Received: float64 and int64"),
        ([[1.0]], [None], [None], "Received: object and object"),
    ],
)
def test_refuses_scores(scores: list, probes: list, gallery: list, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score_searches(scores, probes, gallery)


@pytest.mark.parametrize(
    ("probes", "who", "gallery", "whom", "message"),
    [
        (
            [[1, 2]],
            [1],
            [[1, 2, 3]],
            [1],
            r"Received: shapes \(1, 2\), \(1,\), \(1, 3\) and \(1,\)",
        ),
        ([[1, 2]], [1, 2], [[1, 2]], [1], "Pass embeddings of one model and an id for each"),
        (
            [[0, 0]],
            [1],
            [[1, 2]],
            [1],
            "Received: 1 of `probes` without, the first in row 0. Check",
        ),
        (
            [[1, 0]],
            [1],
            [[1, 2], [math.inf, 1]],
            [1, 2],
            "1 of `gallery` without, the first in row 1",
        ),
        (
            [1, 0],
            [1],
            [[1, 2]],
            [1],
            r"Expected `probes` as \(n, dim\), n at least 1. Received: sha",
        ),
        ([[1, 0]], [1], np.zeros((0, 2)), [], r"`gallery` as .* Received: shape \(0, 2\)"),
    ],
)
def test_refuses_embeddings(
    probes: list, who: list, gallery: list, whom: list, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        search_gallery(probes, who, gallery, whom)


def test_refuses_ranks_and_probes_without_mates() -> None:
    found = score_searches([[0.5]], [2], [1])
    with pytest.raises(DataError, match="Received: 1 probes, none of whose identities is in the"):
        cmc(found)
    with pytest.raises(DataError, match=r"Expected ranks from 1. Received: \[0, 1\]. Pass"):
        cmc(found, [0, 1])
    with pytest.raises(DataError, match="Expected ranks from 1"):
        cmc(found, [])
