import importlib
import json
import math
import pathlib
import shutil
import types

import cv2
import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation import metrics
from spherekeras.evaluation.identification import TIE
from spherekeras.evaluation.megaface import MegaFaceResult, megaface, megaface_folders

module = importlib.import_module("spherekeras.evaluation.megaface")  # the function hides it
RANDOM = np.random.default_rng(21)


def draw(people: int, distractors: int, dim: int = 6) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """People with one to four pictures, in no order, of any length."""
    who = RANDOM.permutation(np.repeat(np.arange(people) + 50, RANDOM.integers(1, 5, people)))
    centres = np.random.default_rng(people).normal(size=(people, dim))
    probes = centres[who - 50] + 0.9 * RANDOM.normal(size=(who.size, dim))
    probes *= RANDOM.uniform(0.1, 9, (who.size, 1))
    return probes, who, RANDOM.normal(size=(distractors, dim)) * 3


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))


def naive(
    probes: np.ndarray, who: np.ndarray, distractors: np.ndarray, size: int, rank: int
) -> float:
    """Every gallery picture, every probe, every distractor in turn."""
    hits = searches = 0
    for person in set(who.tolist()):
        members = [row for row in range(len(who)) if who[row] == person]
        for entry in members:
            for probe in members:
                if probe == entry:
                    continue
                mate = cosine(probes[probe], probes[entry])
                ahead = sum(
                    cosine(probes[probe], distractors[each]) >= mate - TIE for each in range(size)
                )
                searches += 1
                hits += 1 + ahead <= rank
    return hits / searches


@pytest.mark.parametrize("block", [1, 7, 1 << 14])
@pytest.mark.parametrize("text", [False, True])
def test_ranks_are_those_of_plain_loops(
    block: int, text: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    probes, who, distractors = draw(9, 60)
    result = megaface(
        probes, who.astype(str) if text else who, distractors, sizes=(1, 5, 60), ranks=(1, 2, 5)
    )
    assert list(result.ranks) == [1, 5, 60]
    shares = []
    for size, found in result.ranks.items():
        for rank, share in found.items():
            assert share == pytest.approx(naive(probes, who, distractors, size, rank), abs=1e-12)
            shares.append(share)
    assert len(set(shares)) > 4  # the loops told the cases apart
    counts = np.unique(who, return_counts=True)[1]
    assert result.searches == (counts * (counts - 1)).sum()
    assert (result.probes, result.people) == (len(who), (counts > 1).sum())


@pytest.mark.parametrize("block", [3, 1 << 14])
def test_verification_is_the_operating_point_of_all_pairs(
    block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    probes, who, distractors = draw(12, 200)
    fars = (0.5, 0.1, 0.01, 1e-3, 1e-6)
    result = megaface(probes, who, distractors, sizes=(10, 200), fars=fars)
    rows = (probes / np.linalg.norm(probes, axis=1, keepdims=True)).astype(np.float32)
    others = distractors / np.linalg.norm(distractors, axis=1, keepdims=True)
    genuine = [rows[a] @ rows[b] for a in range(len(who)) for b in range(a) if who[a] == who[b]]
    for size, points in result.points.items():
        impostors = (rows @ others[:size].astype(np.float32).T).ravel()
        scores = np.concatenate([genuine, impostors])
        same = np.arange(scores.size) < len(genuine)
        for far, point in zip(fars, points, strict=True):
            wanted = metrics.operating_point(scores, same, far)
            assert point.reason == wanted.reason
            np.testing.assert_allclose(point[:4], wanted[:4], rtol=0, atol=1e-6)
    assert result.points[200][-1].reason.startswith("FAR 1e-06 needs at least 1000000 different")


def test_a_distractor_like_the_mate_stands_before_it() -> None:
    probes = [[1.0, 0.2, 0.1], [1.0, -0.1, 0.3]]
    for factor in (1.0, 0.7, 13.0):
        twin = factor * np.array(probes)
        assert megaface(probes, [1, 1], twin, [1, 2], [1, 2]).ranks == {
            1: {1: 0.0, 2: 1.0},
            # Each probe is its own best distractor, then comes the twin of its mate.
            2: {1: 0.0, 2: 0.0},
        }


@pytest.mark.parametrize(("further", "share"), [(1.5e-6, 0.5), (1e-4, 1.0), (-1e-4, 0.5)])
def test_nearer_than_rounding_is_a_tie(further: float, share: float) -> None:
    # The distractor lies across the first picture from its mate, an angle `further` away.
    angle = 0.35
    probes = [[1.0, 0.0], [math.cos(angle), math.sin(angle)]]
    across = [[math.cos(angle + further), -math.sin(angle + further)]]
    assert megaface(probes, [1, 1], across, [1], [1]).ranks == {1: {1: share}}


def test_by_hand() -> None:
    # A's two pictures lie 20 degrees apart, B's 45; C has one. Distractors come at 30 and 95.
    def at(degrees: float) -> list[float]:
        return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees))]

    probes = [at(0), at(20), at(120), at(165), at(250)]
    result = megaface(probes, list("AABBC"), [at(30), at(95)], [1, 2], [1, 2], [0.5, 0.1])
    # At 20 degrees A's second picture has the distractor nearer than its mate; B's first has the
    # one at 95.
    assert result.ranks == {1: {1: 0.75, 2: 1.0}, 2: {1: 0.5, 2: 1.0}}
    assert (result.searches, result.probes, result.people) == (4, 5, 2)
    # Genuine at 20 and 45 degrees; impostors at 10, 25, 30, 70, 75, 90, 95, 135, 140 and 155.
    half, tenth = result.points[2]
    assert (half.tar, half.far) == (1.0, 0.5)
    assert (tenth.tar, tenth.far) == (0.5, 0.1)
    for point, inner, outer in ((half, 75, 90), (tenth, 20, 25)):
        middle = (at(inner)[0] + at(outer)[0]) / 2
        assert point.threshold == pytest.approx(middle, abs=1e-6)


def test_default_sizes_are_powers_of_ten_and_all(tmp_path: pathlib.Path) -> None:
    probes, who, distractors = draw(5, 120)
    steps: list[tuple[int, int]] = []
    result = megaface(
        probes, who, distractors, progress=lambda done, total: steps.append((done, total))
    )
    assert list(result.ranks) == [10, 100, 120]
    assert steps == [(10, 120), (100, 120), (120, 120)]
    assert list(megaface(probes, who, distractors[:100]).ranks) == [10, 100]
    assert list(megaface(probes, who, distractors[:3]).ranks) == [3]
    # A memory map gives the same as the array; only what the largest size needs is read.
    mapped = np.memmap(tmp_path / "distractors", np.float32, "w+", shape=(200, 6))
    mapped[:] = np.nan
    mapped[:120] = distractors
    again = megaface(probes, who, mapped, sizes=(120, 10, 100))
    assert again.ranks == result.ranks


def same_numbers(first: MegaFaceResult, second: MegaFaceResult) -> bool:
    return json.dumps(first.to_dict()) == json.dumps(second.to_dict())


def test_the_same_input_gives_the_same_numbers_in_any_order_of_people() -> None:
    probes, who, distractors = draw(9, 100)
    once = megaface(probes, who, distractors, fars=(0.1,))
    assert same_numbers(once, megaface(probes, who, distractors, fars=(0.1,)))
    assert same_numbers(once, megaface(probes, -who, distractors, fars=(0.1,)))


def test_it_prints_its_protocol_and_becomes_json() -> None:
    probes = [[1, 0.1], [1, -0.1], [0, 1]]
    result = megaface(probes, [1, 1, 2], [[0.5, 1], [1, 0]], [1, 2], [1], how="drawn")
    assert str(result).splitlines() == [
        "1 distractors: rank 1 100.00%",
        "  TAR@FAR=1e-06: FAR 1e-06 needs at least 1000000 different pairs, there are 3",
        "2 distractors: rank 1 0.00%",
        "  TAR@FAR=1e-06: FAR 1e-06 needs at least 1000000 different pairs, there are 6",
        "Protocol: 2 searches with 3 pictures of 1 people: each picture is in turn its person's "
        "one gallery entry among the first D distractors, for the person's other pictures; "
        "verification on 1 genuine pairs and on every picture with every one of the D "
        "distractors; drawn; cosine in float32, a distractor within 1e-06 of the mate stands "
        "before it; each TAR is the largest whose FAR is at most the wanted one.",
    ]
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["ranks"] == {"1": {"1": 1.0}, "2": {"1": 0.0}}
    assert values["points"]["2"][0]["tar"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"people": [1, 1]},
            r"Received: shapes \(3, 2\), \(2,\) and \(2, 2\). Pass embeddings of o",
        ),
        ({"distractors": [[1, 2, 3]]}, r"and \(1, 3\)"),
        ({"distractors": [1, 2]}, r"and \(2,\)"),
        (
            {"sizes": [3]},
            r"from 1 to the 2 distractors, .*Received: sizes=\[3\], ranks=\[1, 10\]. ",
        ),
        ({"sizes": [0, 1]}, r"sizes=\[0, 1\]"),
        ({"sizes": []}, r"sizes=\[\]"),
        ({"distractors": np.zeros((0, 2))}, "from 1 to the 0 distractors"),
        ({"ranks": [0]}, r"ranks=\[0\]. Leave `sizes` out"),
        ({"people": [1, 2, 3]}, "Received: 3 people with one. Pass the same id for all pictures"),
        ({"fars": [2]}, r"Expected a rate in \(0, 1\]. Received: 2"),
        ({"probes": [[0, 0]] * 3}, "Received: 3 of `probes` without, the first in row 0"),
        (
            {"distractors": [[1, 1], [math.nan, 1]]},
            r"1 of `distractors\[0:2\]` without, the first in row 1. Check the model",
        ),
    ],
)
def test_refuses(changes: dict, message: str) -> None:
    given = {"probes": [[1, 0.1], [1, -0.1], [0, 1]], "people": [1, 1, 2]}
    with pytest.raises(DataError, match=message):
        megaface(**{**given, "distractors": [[0.5, 1], [1, 0]], "sizes": [2], **changes})


class GreyFaces:
    """Stands in for the embedder: the embedding is some of the crop's pixels."""

    config = types.SimpleNamespace(template="sphereface_112x96")

    def embed_crops(self, crops: np.ndarray, mirror: str, normalize: bool) -> np.ndarray:
        assert mirror == "sum" and not normalize
        return crops[:, ::16, ::16, 0].reshape(len(crops), -1).astype(np.float32) - 128


def test_folders_of_probes_and_distractors(tmp_path: pathlib.Path) -> None:
    def write(name: str, coarse: np.ndarray) -> np.ndarray:
        noisy = np.clip(coarse + RANDOM.integers(-140, 141, coarse.shape), 0, 255)
        pixels = noisy.repeat(16, 0).repeat(16, 1).astype(np.uint8)
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(tmp_path / name), pixels)
        return pixels[::16, ::16].ravel() - 128.0

    people = RANDOM.integers(0, 256, (4, 7, 6))
    probes = [write(f"probes/P{k}/{n}.png", people[k]) for k in range(4) for n in range(2)]
    names = [f"others/{k % 3}/{k:02}.png" for k in range(12)] + ["others/99.png"]
    others = [write(name, people[k % 4]) for k, name in enumerate(names)]  # much like the probes
    order = np.random.default_rng(0).permutation(13)  # of the names in order
    others = np.array(others)[np.argsort(names)][order]
    for k, name in enumerate(names):
        (tmp_path / "alone" / str(k)).mkdir(parents=True)
        shutil.copy(tmp_path / name, tmp_path / "alone" / str(k))
    steps: list[int] = []
    result = megaface_folders(
        GreyFaces(), tmp_path / "probes", tmp_path / "others", progress=lambda n, _: steps.append(n)
    )
    wanted = megaface(probes, np.repeat(np.arange(4), 2), others)
    assert steps == [21]
    assert (result.ranks, result.searches) == (wanted.ranks, wanted.searches)
    assert list(result.ranks) == [10, 13]
    assert 0 < result.ranks[13][1] < 1
    assert (
        "; distractors in a fixed shuffled order; 21 aligned crops as they are; none dropped; the "
        "embeddings of a crop and of its mirror image are added; cosine in float32"
    ) in result.protocol
    with pytest.raises(DataError, match="Received: 13 people with one"):  # before the hours
        megaface_folders(None, tmp_path / "alone", tmp_path / "others")
    with pytest.raises(DataError, match="none holds no pictures. Expected `<person>/<picture>.jp"):
        megaface_folders(GreyFaces(), tmp_path / "none", tmp_path / "others")
    with pytest.raises(DataError, match="none holds no pictures. Expected distractors, "):
        megaface_folders(GreyFaces(), tmp_path / "probes", tmp_path / "none")
