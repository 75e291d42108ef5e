"""People held out: every pair, against naive loops."""

import json
from typing import Any

import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation import held_out, metrics

NAMES = [f"fiw_F{n // 8:04d}_MID{n // 4}" for n in range(24)] + [f"web_{n // 4}" for n in range(24)]


class Faces:
    """Crops whose first pixels are their embedding."""

    class config:
        mirror = "none"

    def embed_crops(self, crops: np.ndarray, mirror: str, normalize: bool) -> np.ndarray:
        assert mirror == "none" and normalize
        vectors = crops.reshape(len(crops), -1)[:, :12].astype(np.float32) - 127.5
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    random = np.random.default_rng(0)
    _, person = np.unique(NAMES, return_inverse=True)
    centres = random.normal(0, 60, (person.max() + 1, 12))
    crops = random.integers(0, 256, (len(NAMES), 6, 5, 3), dtype=np.uint8)
    values = np.clip(centres[person] + random.normal(0, 50, (len(NAMES), 12)) + 127.5, 0, 255)
    crops.reshape(len(NAMES), -1)[:, :12] = values
    crops[:4] = crops[:4, ..., :1]  # black and white
    return crops


def test_numbers_are_those_of_a_naive_loop(crops: np.ndarray) -> None:
    result = held_out(Faces(), crops, NAMES, fars=(0.1, 1e-2, 1e-4))
    vectors = Faces().embed_crops(crops, "none", True)
    scores, same, kind = [], [], []
    for i in range(len(NAMES)):
        for j in range(i + 1, len(NAMES)):
            scores.append(float(vectors[i] @ vectors[j]))
            same.append(NAMES[i] == NAMES[j])
            kind.append(NAMES[i][:9] == NAMES[j][:9] and NAMES[i].startswith("fiw"))
    assert (result.crops, result.people) == (48, 12)
    assert (result.same, result.different) == (sum(same), len(same) - sum(same))
    assert result.auc == pytest.approx(metrics.auc(scores, same), abs=1e-6)
    point = result.points[1]
    others = [s for s, one in zip(scores, same, strict=True) if not one]
    own = [s for s, one in zip(scores, same, strict=True) if one]
    assert sum(s >= point.threshold for s in others) <= 0.01 * len(others)
    assert point.tar == pytest.approx(sum(s >= point.threshold for s in own) / len(own))
    assert result.points[2].reason.startswith("FAR 0.0001 needs at least 10000 different pairs")
    rows = {row.name: row for row in result.kinds}
    family = rows["two people of one family"]
    assert family.same == 0
    strangers = [s for s, one, k in zip(scores, same, kind, strict=True) if k and not one]
    assert family.different == len(strangers)
    assert family.far == pytest.approx(np.mean([s >= point.threshold for s in strangers]))
    assert rows["both of web"].same == rows["both of fiw"].same == 36
    assert rows["a black and white picture"].same == 6
    low, high = result.intervals["auc"]
    assert low < result.auc < high
    assert (
        "All 1,128 pairs (72 same) of 48 crops of people held out from training; no mir"
        in result.protocol
    )
    assert "bootstrap of 12 people" in result.protocol


def test_what_a_preset_keeps_is_json(crops: np.ndarray) -> None:
    kept: dict[str, Any] = held_out(Faces(), crops, NAMES).to_metadata()
    assert json.loads(json.dumps(kept)) == kept
    assert [row["far"] for row in kept["thresholds"]] == [0.1, 0.01, 0.001]
    assert kept["thresholds"][0]["data"] == "1,056 pairs of 12 people held out from training"
    assert list(kept["held_out"]["unmeasured"]) == ["0.0001"]


def test_names_without_sources_or_families_make_no_such_kinds(crops: np.ndarray) -> None:
    people = [f"p{n // 4}" for n in range(48)], ["Ann_Lee", "Bob_Ray", "Cy_Orr", "Di_Fox"] * 12
    strangers = [f"{'ab'[n // 24]}/{n // 4 % 6}" for n in range(48)]  # two sources' folders
    for names in (*people, strangers):
        rows = held_out(Faces(), crops, names).kinds
        assert all(not row.name.startswith(("both of", "two people")) for row in rows)


def test_families_in_folders_of_their_own_are_found(crops: np.ndarray) -> None:
    names = [f"F{n // 8}/MID{n // 4 % 2 + 1}" for n in range(48)]
    rows = {row.name: row for row in held_out(Faces(), crops, names).kinds}
    assert rows["two people of one family"].different == 6 * 16
    assert not any(name.startswith("both of") for name in rows)


def test_what_cannot_be_compared_is_named(crops: np.ndarray) -> None:
    with pytest.raises(DataError, match="Received: 48 crops and 2 names"):
        held_out(Faces(), crops, ["a", "b"])
    with pytest.raises(DataError, match="Expected pairs of one person and pairs of two. Rec"):
        held_out(Faces(), crops, ["a"] * 48)
    with pytest.raises(DataError, match="Hold out more people with two crops or more"):
        held_out(Faces(), crops, [str(n) for n in range(48)])
