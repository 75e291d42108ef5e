import json
import math

import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation import metrics, templates
from spherekeras.evaluation.templates import (
    Templates,
    pool_templates,
    template_identification,
    template_verification,
)

RANDOM = np.random.default_rng(9)


def naive_pool(
    embeddings: np.ndarray, ids: np.ndarray, media: np.ndarray, weights: np.ndarray
) -> dict:
    """One template, one medium, one picture at a time."""
    pooled = {}
    for name in sorted(set(ids.tolist())):
        means = []
        for medium in sorted(
            {m for i, m in zip(ids.tolist(), media.tolist(), strict=True) if i == name}
        ):
            rows = [
                weights[row] * embeddings[row].astype(np.float64)
                for row in range(len(ids))
                if ids[row] == name and media[row] == medium
            ]
            means.append(sum(rows) / len(rows))
        mean = sum(means) / len(means)
        pooled[name] = mean / math.sqrt(float(mean @ mean))
    return pooled


@pytest.mark.parametrize("rows", [1, 5, 40, 8192])
@pytest.mark.parametrize("text", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_pooling_is_the_mean_of_means(
    rows: int, text: bool, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(templates, "_ROWS", rows)
    ids, media = RANDOM.integers(-5, 12, 150), RANDOM.integers(0, 6, 150)
    if text:
        ids, media = ids.astype(str), media.astype(str)
    embeddings = RANDOM.normal(size=(150, 4)).astype(np.float32)
    weights = RANDOM.random(150) if weighted else np.ones(150)
    pooled = pool_templates(embeddings, ids, media, weights if weighted else None)
    wanted = naive_pool(embeddings, ids, media, weights)
    assert pooled.ids.tolist() == list(wanted)
    np.testing.assert_allclose(pooled.embeddings, list(wanted.values()), rtol=0, atol=1e-12)


def test_pooling_by_hand() -> None:
    # Three frames of one video count as much as one still picture.
    frames = [[2.0, 0.0], [4.0, 0.0], [6.0, 0.0], [0.0, 4.0]]
    pooled = pool_templates(frames, [5] * 4, [1, 1, 1, 2])
    np.testing.assert_allclose(pooled.embeddings, [[math.sqrt(0.5)] * 2])
    # A weight multiplies; the mean stays plain: (2 x 0.5 + 0) / 2 against 4.
    weighted = pool_templates([[2, 0], [0, 4], [0, 0]], [5] * 3, [1, 2, 1], [0.5, 1, 1])
    np.testing.assert_allclose(weighted.embeddings, [np.array([0.5, 4]) / math.hypot(0.5, 4)])
    # The medium of another template is another medium.
    apart = pool_templates([[1, 0], [0, 1], [1, 0]], [1, 2, 2], [7, 7, 7])
    np.testing.assert_allclose(apart.embeddings, [[1, 0], [math.sqrt(0.5)] * 2])


@pytest.mark.parametrize(
    ("embeddings", "ids", "media", "weights", "message"),
    [
        (
            [[1, 0]],
            [1, 2],
            [1],
            None,
            r"Received: shapes \(1, 2\), \(2,\), \(1,\) and \(2,\). Pass",
        ),
        ([1, 0], [1, 2], [1, 2], None, r"Expected `embeddings` \(n, dim\)"),
        (np.zeros((0, 3)), [], [], None, r"Received: shapes \(0, 3\)"),
        ([[1, 0]], [1], [1], [1, 2], r"and \(2,\)"),
        ([[1, 0]], [1], [1], [-1], "Expected finite weights, not negative. Received: others. Pass"),
        ([[1, 0]], [1], [1], [math.nan], "Expected finite weights"),
        ([[1, 0], [-1, 0], [1, 0]], [3, 3, 4], [1, 2, 1], None, "Received: template 3 without. Ch"),
        ([[math.nan, 0]], ["a"], [1], None, "Received: template a without"),
        ([[1, 0]], [1], [1], [0], "Received: template 1 without"),
    ],
)
def test_pooling_refuses(
    embeddings: list, ids: list, media: list, weights: list | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        pool_templates(embeddings, ids, media, weights)


def people(count: int, each: int, spread: float, dim: int = 5) -> tuple[Templates, np.ndarray]:
    """`each` templates for each of `count` subjects, with ids that are not their places."""
    subjects = np.repeat(np.arange(count), each)
    centres = np.random.default_rng(1).normal(size=(count, dim))
    vectors = centres[subjects] + spread * RANDOM.normal(size=(subjects.size, dim))
    ids = 3 * np.arange(subjects.size) + 100
    return pool_templates(vectors, ids, ids), subjects


@pytest.mark.parametrize("rows", [7, 8192])
def test_verification_is_the_operating_point(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "_ROWS", rows)
    pooled, subjects = people(30, 4, 0.6)
    left, right = RANDOM.integers(0, 120, (2, 1500))
    same = subjects[left] == subjects[right]
    result = template_verification(pooled, pooled.ids[left], pooled.ids[right], same)
    cosines = [
        float(pooled.embeddings[a] @ pooled.embeddings[b]) for a, b in zip(left, right, strict=True)
    ]
    assert [point.wanted_far for point in result.points] == [1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1]
    for point in result.points:
        wanted = metrics.operating_point(cosines, same, point.wanted_far)
        assert point.reason == wanted.reason
        np.testing.assert_allclose(point[:3], wanted[:3], rtol=0, atol=1e-15)
        np.testing.assert_allclose(point.threshold, wanted.threshold, rtol=0, atol=1e-12)
    measured = [not point.reason for point in result.points]
    assert measured == [False, False, False, True, True, True]
    assert result.points[0].reason.startswith("FAR 1e-06 needs at least 1000000 different pairs,")
    assert (result.genuine, result.impostors) == (same.sum(), (~same).sum())


def test_verification_prints_and_becomes_json() -> None:
    pooled = pool_templates([[1, 0], [1, 1], [0, 1]], [1, 2, 3], [1, 2, 3])
    result = template_verification(pooled, [1, 1], [2, 3], [1, 0], [1.0, 0.1], how="drawn by hand")
    assert str(result) == (
        "TAR@FAR=1: 100.00% (threshold 0.0000)\n"
        "TAR@FAR=0.1: FAR 0.1 needs at least 10 different pairs, there are 1\n"
        "Protocol: 1:1 verification of 3 templates, 2 pairs (1 genuine, 1 impostor); drawn by "
        "hand; cosine; each TAR is the largest whose FAR on these pairs is at most the wanted one."
    )
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["points"][0]["tar"] == 1
    assert values["points"][1]["tar"] is None
    assert values["points"][1]["reason"].startswith("FAR 0.1 needs")


@pytest.mark.parametrize(
    ("first", "second", "same", "message"),
    [
        (
            [1, 9],
            [2, 2],
            [1, 0],
            "Expected `first` as ids of templates. Received: 1 others, the fi",
        ),
        (
            [1, 1],
            [0, 4],
            [1, 0],
            "Expected `second` as ids .* 2 others, the first 0. Pool the pict",
        ),
        ([1, 1], [2], [1, 0], r"Received: shapes \(2,\), \(1,\) and \(2,\). Pass two ids"),
        ([1, 1], [2, 3], [0, 0], "Expected genuine scores. Received: none"),
        ([1, 1], [2, 3], [0, 5], "Expected `same` as true/false or 1/0"),
    ],
)
def test_verification_refuses(first: list, second: list, same: list, message: str) -> None:
    pooled = pool_templates([[1, 0], [1, 1], [0, 1]], [1, 2, 3], [1, 2, 3])
    with pytest.raises(DataError, match=message):
        template_verification(pooled, first, second, same, [1.0])


def one_by_one(
    probes: Templates, who: np.ndarray, gallery: Templates, whom: np.ndarray, fpir: float
) -> tuple[dict[int, float], float]:
    """Rank shares and FNIR of one gallery, probe by probe and threshold by threshold."""
    ranks, mates, strangers = [], [], []
    for vector, subject in zip(probes.embeddings, who, strict=True):
        cosines = {s: float(vector @ g) for g, s in zip(gallery.embeddings, whom, strict=True)}
        mate = cosines.pop(subject, None)
        if mate is None:
            strangers.append(max(cosines.values()))
        else:
            mates.append(mate)
            ranks.append(1 + sum(score >= mate for score in cosines.values()))
    shares = {k: sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 5, 10)}
    candidates = [math.inf, *mates, *strangers]
    fnir = min(
        sum(mate < t for mate in mates) / len(mates)
        for t in candidates
        if sum(score >= t for score in strangers) / len(strangers) <= fpir
    )
    return shares, fnir


def galleries() -> tuple[Templates, np.ndarray, dict]:
    probes, who = people(40, 5, 0.8)
    everyone, subjects = people(40, 1, 0.8)
    halves = {}
    for name, part in (("G1", subjects < 15), ("G2", subjects >= 15)):
        halves[name] = Templates(everyone.ids[part], everyone.embeddings[part]), subjects[part]
    return probes, who, halves


def test_identification_is_each_gallery_apart_and_then_the_mean() -> None:
    probes, who, halves = galleries()
    result = template_identification(probes, who, halves, fpirs=(0.02, 0.1))
    shares, fnirs = zip(
        *(one_by_one(probes, who, *each, 0.1) for each in halves.values()), strict=True
    )
    for place, name in enumerate(halves):
        assert result.galleries[name].ranks == pytest.approx(shares[place])
        assert result.galleries[name].points[1].fnir == pytest.approx(fnirs[place])
    for rank in (1, 5, 10):
        assert result.ranks[rank] == pytest.approx((shares[0][rank] + shares[1][rank]) / 2)
    assert result.fnir[0.1] == pytest.approx(sum(fnirs) / 2)
    assert (result.galleries["G1"].mated, result.galleries["G1"].nonmated) == (75, 125)
    # Not an idle distinction: both galleries pooled read otherwise, as would pooled probes.
    both = Templates(
        *(np.concatenate(each) for each in zip(*(h[0] for h in halves.values()), strict=True))
    )
    whom = np.concatenate([halves[name][1] for name in halves])
    pooled = template_identification(probes, who, {"both": (both, whom)}, fpirs=(0.1,))
    assert pooled.ranks[1] < result.ranks[1]
    assert math.isnan(pooled.fnir[0.1])  # nobody is a stranger any more


def test_identification_prints_and_becomes_json() -> None:
    probes, who, halves = galleries()
    result = template_identification(probes, who, halves, [1], [0.1, 0.001], how="drawn")
    text = str(result)
    assert f"Rank 1: {result.ranks[1]:.2%}\nFNIR@FPIR=0.1: {result.fnir[0.1]:.2%}\n" in text
    assert (
        "FNIR@FPIR=0.001: FPIR 0.001 needs at least 1000 non-mated probes, there are 125; FPIR "
        "0.001 needs at least 1000 non-mated probes, there are 75\n"
    ) in text
    assert result.protocol == (
        "1:N identification of 200 probe templates in each gallery apart (G1: 15 identities, 75 "
        "mated and 125 non-mated probes; G2: 25 identities, 125 mated and 75 non-mated probes), "
        "then the mean of the galleries; drawn; cosine; rank among the gallery's identities, ties "
        "against the system; FPIR from the best score of the non-mated probes, FNIR from the "
        "mate's score whatever its rank."
    )
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["fnir"] == {"0.1": result.fnir[0.1], "0.001": None}
    assert values["galleries"]["G1"]["points"][0]["fnir"] == result.galleries["G1"].points[0].fnir
    assert values["galleries"]["G2"]["ranks"] == {"1": result.galleries["G2"].ranks[1]}


def test_identification_refuses() -> None:
    probes, who, halves = galleries()
    with pytest.raises(DataError, match="Expected a gallery. Received: none. Pass `{"):
        template_identification(probes, who, {})
    with pytest.raises(DataError, match="200 probes, none of whose identities is in the gallery"):
        template_identification(probes, who + 100, halves)
    with pytest.raises(DataError, match=r"Received: shapes \(200, 5\), \(199,\)"):
        template_identification(probes, who[1:], halves)
