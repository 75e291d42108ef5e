"""Identification and verification among distractors, up to millions of them (MegaFace).

Kemelmacher-Shlizerman et al., "The MegaFace Benchmark: 1 Million Faces for Recognition at Scale",
CVPR 2016. The distractors go through in blocks: memory holds the probes, one block of cosines
and the highest scores that the wanted numbers depend on.
"""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.errors import DataError
from spherekeras.evaluation.crops import Crops, Faces, check_mirror, embed, list_pictures
from spherekeras.evaluation.identification import TIE, unit_rows
from spherekeras.evaluation.metrics import OperatingPoint
from spherekeras.evaluation.operating_points import HighestScores, allowed, operating_points, plain

_CELLS = 1 << 24  # of a block of cosines
_BLOCK = 1 << 14  # distractors


@dataclasses.dataclass(frozen=True, eq=False)
class MegaFaceResult:
    """Identification and verification among growing numbers of distractors.

    Attributes:
        ranks: {distractors: {k: share of the searches with the mate at rank k or better}}.
        points: {distractors: the `OperatingPoint` of each FAR}.
        searches: ordered pairs of two pictures of one person.
        probes: pictures.
        people: with two pictures or more.
        protocol: one sentence with all that the numbers depend on.
    """

    ranks: dict[int, dict[int, float]]
    points: dict[int, tuple[OperatingPoint, ...]]
    searches: int
    probes: int
    people: int
    protocol: str

    def __str__(self) -> str:
        lines = []
        for size, shares in self.ranks.items():
            lines.append(
                f"{size} distractors: "
                + ", ".join(f"rank {rank} {share:.2%}" for rank, share in shares.items())
            )
            lines += [
                f"  TAR@FAR={point.wanted_far:g}: " + (point.reason or f"{point.tar:.2%}")
                for point in self.points[size]
            ]
        return "\n".join([*lines, f"Protocol: {self.protocol}"])

    def to_dict(self) -> dict[str, Any]:
        """Returns everything, ready for JSON; NaN becomes None."""
        return {
            "ranks": {
                str(size): {str(rank): share for rank, share in shares.items()}
                for size, shares in self.ranks.items()
            },
            "points": {
                str(size): [plain(point) for point in points]
                for size, points in self.points.items()
            },
            "searches": self.searches,
            "probes": self.probes,
            "people": self.people,
            "protocol": self.protocol,
        }


def megaface(
    probes: ArrayLike,
    people: ArrayLike,
    distractors: ArrayLike,
    sizes: Sequence[int] | None = None,
    ranks: Sequence[int] = (1, 10),
    fars: Sequence[float] = (1e-6,),
    how: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> MegaFaceResult:
    """Measures identification and verification among distractors.

    Identification: each picture of a person is in turn the one gallery entry of that person,
    together with the first D distractors; every other picture of the person searches this
    gallery, and a distractor within `TIE` of the mate stands before it. Verification: genuine
    pairs are two pictures of one person, impostor pairs a probe and one of the first D
    distractors. Each TAR is the largest whose measured FAR is at most the wanted one.

    Args:
        probes: (probes, dim) embeddings of any length but 0.
        people: (probes,) who they show, integers or text; a person with one picture takes part in
            impostor pairs alone.
        distractors: (distractors, dim) embeddings of other people; an array of float16 or
            float32, a memory map included, is read block by block.
        sizes: numbers D of distractors; by default 10, 100, 1000 and so on, and all.
        ranks: from 1.
        fars: wanted FARs, each in (0, 1]; a large one among many distractors needs memory.
        how: the part of the protocol on the sets and the embeddings.
        progress: called with (distractors done, distractors in all).

    Raises:
        DataError: on shapes, sizes or ranks that do not fit, an embedding without a direction, or
            no person with two pictures.

    Example:

    >>> result = megaface([[1, 0.1], [1, -0.1], [0, 1]], [1, 1, 2], [[0.5, 1], [1, 0]], [1, 2], [1])
    >>> result.ranks
    {1: {1: 1.0}, 2: {1: 0.0}}
    """
    rows = unit_rows(probes, "probes").astype(np.float32)
    who, others = np.asarray(people), np.asanyarray(distractors)
    if others.ndim != 2 or others.shape[1:] != rows.shape[1:] or who.shape != rows.shape[:1]:
        raise DataError(
            "Expected `probes` (probes, dim), `people` (probes,) and `distractors` (distractors, "
            f"dim). Received: shapes {rows.shape}, {who.shape} and {others.shape}. Pass embeddings "
            "of one model."
        )
    steps = _sizes(len(others)) if sizes is None else sorted(set(sizes))
    if not steps or not 1 <= steps[0] <= steps[-1] <= len(others) or min(ranks, default=0) < 1:
        raise DataError(
            f"Expected sizes from 1 to the {len(others)} distractors, and ranks from 1. Received: "
            f"sizes={steps}, ranks={list(ranks)}. Leave `sizes` out to take 10, 100, 1000 and all."
        )
    mates, probe, persons = _mates(rows, who)
    best = np.full((len(rows), max(ranks)), -np.inf, np.float32)  # per probe, in ascending order
    keep = max(allowed(far, len(rows) * steps[-1]) for far in fars) + 1 if fars else 1
    impostors = HighestScores(keep)
    found: dict[int, dict[int, float]] = {}
    points: dict[int, tuple[OperatingPoint, ...]] = {}
    block = max(1, min(_BLOCK, _CELLS // len(rows)))
    first = 0
    for size in steps:
        while first < size:
            last = min(size, first + block)
            part = unit_rows(others[first:last], f"distractors[{first}:{last}]")
            cosines = rows @ part.astype(np.float32).T
            _raise_best(best, cosines)
            impostors.add(cosines)
            first = last
            if progress is not None:
                progress(first, steps[-1])
        found[size] = {
            rank: float(np.mean(mates - np.float32(TIE) > best[probe, -rank])) for rank in ranks
        }
        # Both orders of a pair are searches, one of them is a genuine pair.
        points[size] = tuple(operating_points(np.sort(mates)[::2], impostors, fars))
    return MegaFaceResult(
        ranks=found,
        points=points,
        searches=mates.size,
        probes=len(rows),
        people=persons,
        protocol=(
            f"{mates.size} searches with {len(rows)} pictures of {persons} people: each picture is "
            "in turn its person's one gallery entry among the first D distractors, for the "
            f"person's other pictures; verification on {mates.size // 2} genuine pairs and on "
            f"every picture with every one of the D distractors; {how + '; ' if how else ''}cosine "
            f"in float32, a distractor within {TIE:g} of the mate stands before it; each TAR is "
            "the largest whose FAR is at most the wanted one."
        ),
    )


def megaface_folders(
    faces: Faces,
    probes: str | os.PathLike[str],
    distractors: str | os.PathLike[str],
    mirror: str = "sum",
    progress: Callable[[int, int], None] | None = None,
) -> MegaFaceResult:
    """Measures a face embedder by `megaface` on two folders of pictures.

    A picture of the template's size is an aligned crop already (of 112x112 pixels too, for
    `sphereface_112x96`); in any other the face is found, and where there is none the centre crop
    is used. The distractors come in a shuffled order of their names, always the same.

    Args:
        faces: crops and embeds; see `Faces`.
        probes: folder with `<person>/<picture>.jpg`.
        distractors: folder with pictures of other people, at any depth.
        mirror: "none", "sum" or "concat" of the embeddings of a crop and of its mirror image.
        progress: called with (pictures done, pictures in all).

    Raises:
        DataError: on an unknown mirror, a folder without pictures, or as `megaface`.
        ImageError: a picture that cannot be decoded.

    Example::

        print(megaface_folders(FaceEmbedder.from_preset("..."), "facescrub", "megaface"))
    """
    check_mirror(mirror)
    paths = list_pictures(probes, 2, "`<person>/<picture>.jpg`")
    who = [path.parent.name for path in paths]
    if len(set(who)) == len(who):
        raise _no_mates(len(who))
    others = list_pictures(distractors, None, "distractors, `<picture>.jpg` at any depth,")
    order = np.random.default_rng(0).permutation(len(others))
    crops = Crops(faces)
    pictures = [*paths, *(others[place] for place in order)]
    rows = embed(faces, pictures, crops.file, mirror, progress)
    how = f"distractors in a fixed shuffled order; {crops.how(mirror)}"
    return megaface(rows[: len(paths)], who, rows[len(paths) :], how=how)


def _sizes(distractors: int) -> list[int]:
    powers = [10**power for power in range(1, 19) if 10**power < distractors]
    return [*powers, *([distractors] if distractors else [])]


def _mates(
    rows: NDArray[np.float32], who: NDArray[np.generic]
) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """Cosines of all ordered pairs of two pictures of one person, their probes, the people."""
    order = np.argsort(who, kind="stable")
    _, starts, counts = np.unique(who[order], return_index=True, return_counts=True)
    cosines, probe = [], []
    for start, count in zip(starts, counts, strict=True):
        if count > 1:
            members = order[start : start + count]
            upper = np.triu(rows[members] @ rows[members].T, 1)
            scores = upper + upper.T  # one number for both orders
            apart = ~np.eye(count, dtype=bool)
            cosines.append(scores[apart])
            probe.append(np.repeat(members, count - 1))
    if not cosines:
        raise _no_mates(len(starts))
    return np.concatenate(cosines), np.concatenate(probe), len(cosines)


def _no_mates(people: int) -> DataError:
    return DataError(
        f"Expected people with two pictures or more. Received: {people} people with one. Pass the "
        "same id for all pictures of a person."
    )


def _raise_best(best: NDArray[np.float32], cosines: NDArray[np.float32]) -> None:
    """Replaces each row of `best` by the highest of it and of the row of `cosines`."""
    rows = np.flatnonzero(cosines.max(axis=1) > best[:, 0])
    if rows.size:
        merged = np.concatenate([best[rows], cosines[rows]], axis=1)
        keep = best.shape[1]
        highest = np.partition(merged, merged.shape[1] - keep, axis=1)[:, -keep:]
        best[rows] = np.sort(highest, axis=1)
