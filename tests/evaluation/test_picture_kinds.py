"""Kinds of pictures against naive loops."""

import math

import cv2
import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation import by_kind, is_grey, kinds_table, quality_kinds, sharpness


def test_sharpness_is_the_variance_of_the_laplacian() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (7, 6, 3), dtype=np.uint8)
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(float)
    padded = np.pad(grey, 1, mode="reflect")
    values = [
        padded[i - 1, j] + padded[i + 1, j] + padded[i, j - 1] + padded[i, j + 1] - 4 * padded[i, j]
        for i in range(1, 8)
        for j in range(1, 7)
    ]
    mean = sum(values) / len(values)
    assert sharpness(crop) == pytest.approx(sum((v - mean) ** 2 for v in values) / len(values))


def test_a_blurred_crop_is_less_sharp() -> None:
    crop = np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    assert sharpness(cv2.GaussianBlur(crop, (5, 5), 1)) < 0.2 * sharpness(crop)


def test_black_and_white_is_told_from_colour() -> None:
    grey = np.repeat(np.random.default_rng(2).integers(0, 256, (20, 20, 1), np.uint8), 3, axis=2)
    _, coded = cv2.imencode(".jpg", grey)
    assert is_grey(grey) and is_grey(cv2.imdecode(coded, cv2.IMREAD_COLOR))
    skin = np.full((20, 20, 3), (200, 160, 140), np.uint8)
    assert not is_grey(skin)


def test_thirds_of_sharpness_part_all_pairs() -> None:
    random = np.random.default_rng(3)
    values, greys = random.normal(size=60), random.random(60) < 0.2
    first, second = np.triu_indices(60, 1)
    kinds = quality_kinds(values, greys, first, second)
    thirds = [kinds[f"sharpness: {n} third"] for n in ("least sharp", "middle", "sharpest")]
    assert np.all(np.sum(thirds, axis=0) == 1)
    assert all(abs(t.mean() - 1 / 3) < 0.05 for t in thirds)
    less = [min(values[a], values[b]) for a, b in zip(first, second, strict=True)]
    parts = [[less[i] for i in np.flatnonzero(t)] for t in thirds]
    assert max(parts[0]) <= min(parts[1]) and max(parts[1]) <= min(parts[2])
    wanted = [bool(greys[a] or greys[b]) for a, b in zip(first, second, strict=True)]
    assert kinds["a black and white picture"].tolist() == wanted
    assert kinds["both in colour"].tolist() == [not either for either in wanted]


def test_rates_of_each_kind_are_a_naive_count() -> None:
    random = np.random.default_rng(4)
    scores, same = random.normal(size=50), random.random(50) < 0.4
    limits, member = random.normal(size=50), random.random(50) < 0.5
    rows = by_kind(scores, same, limits, {"some": member, "none": np.zeros(50), "all": [1] * 50})
    assert [row.name for row in rows] == ["some", "all"]
    counts = {True: [0, 0], False: [0, 0]}
    for score, one, limit, inside in zip(scores, same, limits, member, strict=True):
        if inside:
            counts[bool(one)][0] += 1
            counts[bool(one)][1] += score >= limit
    some = rows[0]
    assert (some.same, some.different) == (counts[True][0], counts[False][0])
    assert some.tar == pytest.approx(counts[True][1] / counts[True][0])
    assert some.far == pytest.approx(counts[False][1] / counts[False][0])


def test_a_kind_without_one_sort_of_pairs_has_no_rate() -> None:
    row = by_kind([0.9, 0.1], [1, 1], 0.5, {"x": [1, 1]})[0]
    assert row.tar == 0.5 and math.isnan(row.far)
    assert kinds_table([row]) == [{"name": "x", "same": 2, "tar": 0.5, "different": 0, "far": None}]


def test_lengths_that_do_not_fit_are_named() -> None:
    with pytest.raises(
        DataError, match=r"Expected 2 booleans for the kind 'x'.* Received: 3 and 2"
    ):
        by_kind([0.9, 0.1], [1, 0], 0.5, {"x": [1, 1, 0]})
    with pytest.raises(DataError, match="Expected one threshold, or one for each of 2 pairs"):
        by_kind([0.9, 0.1], [1, 0], [0.5] * 3, {"x": [1, 1]})
