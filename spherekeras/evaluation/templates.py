"""Templates: sets of pictures and video frames that stand for one person (IJB-B, IJB-C).

The embeddings of a template are pooled as the IARPA Janus Benchmarks have it: the frames of a
video are one medium, so their mean counts as much as one still picture. Whitelam et al., "IARPA
Janus Benchmark-B Face Dataset", CVPR workshops 2017; Maze et al., "IARPA Janus Benchmark - C",
ICB 2018.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.errors import DataError
from spherekeras.evaluation import identification, metrics
from spherekeras.evaluation.identification import OpenSetPoint
from spherekeras.evaluation.metrics import OperatingPoint
from spherekeras.evaluation.operating_points import HighestScores, allowed, operating_points, plain

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
_ROWS = 8192


class Templates(NamedTuple):
    """Pooled templates, in ascending order of their ids.

    Attributes:
        ids: (templates,) integers or text.
        embeddings: (templates, dim) of unit length.
    """

    ids: NDArray[np.generic]
    embeddings: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class TemplateVerification:
    """1:1 verification of templates.

    Attributes:
        points: the `OperatingPoint` of each FAR, in the order asked for.
        genuine, impostors: pairs of each kind.
        templates: how many there are.
        protocol: one sentence with all that the numbers depend on.
    """

    points: tuple[OperatingPoint, ...]
    genuine: int
    impostors: int
    templates: int
    protocol: str

    def __str__(self) -> str:
        lines = [
            f"TAR@FAR={point.wanted_far:g}: "
            + (point.reason or f"{point.tar:.2%} (threshold {point.threshold:.4f})")
            for point in self.points
        ]
        return "\n".join([*lines, f"Protocol: {self.protocol}"])

    def to_dict(self) -> dict[str, Any]:
        """Returns everything, ready for JSON; NaN becomes None."""
        return {
            "points": [plain(point) for point in self.points],
            "genuine": self.genuine,
            "impostors": self.impostors,
            "templates": self.templates,
            "protocol": self.protocol,
        }


class GallerySearch(NamedTuple):
    """1:N identification in one gallery.

    Attributes:
        ranks: {k: share of the mated probes of rank k or better}.
        points: the `OpenSetPoint` of each FPIR.
        mated, nonmated: probes of each kind.
        identities: in the gallery.
    """

    ranks: dict[int, float]
    points: tuple[OpenSetPoint, ...]
    mated: int
    nonmated: int
    identities: int


@dataclasses.dataclass(frozen=True, eq=False)
class TemplateIdentification:
    """1:N identification, each gallery apart and then their mean.

    Attributes:
        ranks: {k: mean of the galleries' shares of mated probes of rank k or better}.
        fnir: {FPIR: mean of the galleries' FNIR}; NaN where a gallery's `points` say why.
        galleries: {name: the numbers of that gallery}.
        protocol: one sentence with all that the numbers depend on.
    """

    ranks: dict[int, float]
    fnir: dict[float, float]
    galleries: dict[str, GallerySearch]
    protocol: str

    def __str__(self) -> str:
        lines = [f"Rank {rank}: {share:.2%}" for rank, share in self.ranks.items()]
        for place, (fpir, fnir) in enumerate(self.fnir.items()):
            reasons = {
                found.points[place].reason: None for found in self.galleries.values()
            }.keys() - {""}
            lines.append(f"FNIR@FPIR={fpir:g}: " + ("; ".join(sorted(reasons)) or f"{fnir:.2%}"))
        return "\n".join([*lines, f"Protocol: {self.protocol}"])

    def to_dict(self) -> dict[str, Any]:
        """Returns everything, ready for JSON; NaN becomes None."""
        return {
            "ranks": {str(rank): share for rank, share in self.ranks.items()},
            "fnir": {
                f"{fpir:g}": None if math.isnan(fnir) else fnir for fpir, fnir in self.fnir.items()
            },
            "galleries": {
                name: {
                    **found._asdict(),
                    "ranks": {str(rank): share for rank, share in found.ranks.items()},
                    "points": [plain(point) for point in found.points],
                }
                for name, found in self.galleries.items()
            },
            "protocol": self.protocol,
        }


def pool_templates(
    embeddings: ArrayLike,
    template_ids: ArrayLike,
    media_ids: ArrayLike,
    weights: ArrayLike | None = None,
) -> Templates:
    """Pools embeddings into templates: mean of each medium, mean of the media, unit length.

    Weights multiply the embeddings before the plain means, as the field does with the detector's
    scores, so a medium of poor pictures counts less. Pass raw embeddings to let their lengths
    weigh too, unit ones to keep them out.

    Args:
        embeddings: (n, dim), one for each picture of each template.
        template_ids: (n,) integers or text.
        media_ids: (n,) integers or text; a still picture has its own, frames of a video share one.
        weights: (n,) finite, not negative; by default all 1.

    Raises:
        DataError: on shapes that do not fit, numbers that are not finite, or a template whose mean
            has no direction.

    Example:

    >>> frames = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
    >>> pool_templates(frames, [7, 7, 7], [1, 1, 2]).embeddings.round(4).tolist()
    [[0.7071, 0.7071]]
    """
    vectors = np.asarray(embeddings)
    ids, media = np.asarray(template_ids), np.asarray(media_ids)
    factors = np.ones(len(ids)) if weights is None else np.asarray(weights, np.float64)
    if (
        vectors.ndim != 2
        or not vectors.size
        or not ids.shape == media.shape == factors.shape == vectors.shape[:1]
    ):
        raise DataError(
            "Expected `embeddings` (n, dim) and `template_ids`, `media_ids` and `weights` (n,). "
            f"Received: shapes {vectors.shape}, {ids.shape}, {media.shape} and {factors.shape}. "
            "Pass one of each for each picture."
        )
    if not (np.isfinite(factors).all() and (factors >= 0).all()):
        raise DataError(
            "Expected finite weights, not negative. Received: others. Pass the detector's scores, "
            "or none."
        )
    _, medium = np.unique(media, return_inverse=True)
    names, template = np.unique(ids, return_inverse=True)
    order = np.lexsort((medium, template))
    pooled = np.empty((len(names), vectors.shape[1]))
    bounds = np.searchsorted(template[order], np.arange(len(names) + 1))
    first = 0
    while first < len(names):
        # As many whole templates at a time as fit into _ROWS rows, and at least one.
        last = max(first + 1, int(np.searchsorted(bounds, bounds[first] + _ROWS, "right")) - 1)
        rows = order[bounds[first] : bounds[last]]
        weighted = vectors[rows].astype(np.float64) * factors[rows, None]
        group = np.stack([template[rows], medium[rows]])
        starts = np.flatnonzero(np.r_[True, (group[:, 1:] != group[:, :-1]).any(axis=0)])
        means = np.add.reduceat(weighted, starts) / np.diff(np.r_[starts, len(rows)])[:, None]
        media_starts = np.searchsorted(group[0, starts], np.arange(first, last))
        pooled[first:last] = np.add.reduceat(means, media_starts)  # its direction is the mean's
        first = last
    lengths = np.linalg.norm(pooled, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        raise DataError(
            "Expected finite embeddings whose means have a direction. Received: template "
            f"{names[bad[0]]} without. Check the model, `numpy.isfinite(embeddings).all()`, and "
            "that not all weights of the template are 0."
        )
    return Templates(names, pooled / lengths)


def template_verification(
    templates: Templates,
    first: ArrayLike,
    second: ArrayLike,
    same: ArrayLike,
    fars: Sequence[float] = FARS,
    how: str = "",
) -> TemplateVerification:
    """Measures TAR at FAR over pairs of templates.

    Each TAR is the largest whose measured FAR is at most the wanted one; fewer than `1 / far`
    impostor pairs cannot measure it.

    Args:
        templates: of `pool_templates`.
        first, second: (pairs,) ids of templates.
        same: (pairs,) booleans.
        fars: wanted FARs, each in (0, 1].
        how: the part of the protocol on the lists and the embeddings.

    Raises:
        DataError: on lengths that do not fit, an unknown template, or no pair of one subject.

    Example:

    >>> templates = pool_templates([[1, 0], [1, 1], [0, 1]], [1, 2, 3], [1, 2, 3])
    >>> result = template_verification(templates, [1, 1], [2, 3], [1, 0], fars=[1.0, 0.1])
    >>> [point.tar for point in result.points], result.points[1].reason
    ([1.0, nan], 'FAR 0.1 needs at least 10 different pairs, there are 1')
    """
    left, right = _rows(templates, first, "first"), _rows(templates, second, "second")
    truth = metrics.booleans(same)
    if not left.shape == right.shape == truth.shape:
        raise DataError(
            "Expected `first`, `second` and `same` of one length. Received: shapes "
            f"{left.shape}, {right.shape} and {truth.shape}. Pass two ids and one true/false for "
            "each pair."
        )
    count = int(np.count_nonzero(~truth))
    impostors = HighestScores(max(allowed(far, count) for far in fars) + 1 if count else 1)
    genuine = [np.zeros(0)]
    for start in range(0, truth.size, _ROWS):
        part = slice(start, start + _ROWS)
        cosines = np.einsum(
            "pd,pd->p", templates.embeddings[left[part]], templates.embeddings[right[part]]
        )
        genuine.append(cosines[truth[part]])
        impostors.add(cosines[~truth[part]])
    points = operating_points(np.concatenate(genuine), impostors, fars)
    return TemplateVerification(
        points=tuple(points),
        genuine=truth.size - count,
        impostors=count,
        templates=len(templates.ids),
        protocol=(
            f"1:1 verification of {len(templates.ids)} templates, {truth.size} pairs "
            f"({truth.size - count} genuine, {count} impostor); {_joined(how)}cosine; each TAR is "
            "the largest whose FAR on these pairs is at most the wanted one"
        )
        + ".",
    )


def template_identification(
    probes: Templates,
    probe_subjects: ArrayLike,
    galleries: Mapping[str, tuple[Templates, ArrayLike]],
    ranks: Sequence[int] = (1, 5, 10),
    fpirs: Sequence[float] = (0.01, 0.1),
    how: str = "",
) -> TemplateIdentification:
    """Measures 1:N identification: every probe against each gallery apart, then the mean.

    A probe whose subject a gallery lacks is non-mated there. See `identification` for rank, FNIR
    and FPIR, with ties against the system.

    Args:
        probes: of `pool_templates`.
        probe_subjects: (probes,) subjects, integers or text.
        galleries: {name: (templates, their subjects)}; IJB has two, G1 and G2, of different
            subjects, one template each.
        ranks: of the closed set.
        fpirs: wanted FPIRs of the open set, each in (0, 1].
        how: the part of the protocol on the lists and the embeddings.

    Raises:
        DataError: as `search_gallery`, `cmc` and `fnir_at_fpir`, or without a gallery.

    Example:

    >>> probes = pool_templates([[1, 0.2], [0, 1]], [1, 2], [1, 2])
    >>> gallery = pool_templates([[1, 0]], [3], [3])
    >>> result = template_identification(probes, [5, 6], {"G1": (gallery, [5])}, [1], [1.0])
    >>> result.ranks, result.fnir
    ({1: 1.0}, {1.0: 0.0})
    """
    if not galleries:
        raise DataError('Expected a gallery. Received: none. Pass `{"G1": (templates, subjects)}`.')
    found = {}
    for name, (gallery, subjects) in galleries.items():
        searches = identification.search_gallery(
            probes.embeddings, probe_subjects, gallery.embeddings, subjects
        )
        mated = int(np.count_nonzero(searches.mated))
        found[name] = GallerySearch(
            ranks=identification.cmc(searches, ranks),
            points=tuple(identification.fnir_at_fpir(searches, fpirs)),
            mated=mated,
            nonmated=searches.mated.size - mated,
            identities=len(np.unique(np.asarray(subjects))),
        )
    sizes = "; ".join(
        f"{name}: {each.identities} identities, {each.mated} mated and {each.nonmated} non-mated "
        "probes"
        for name, each in found.items()
    )
    return TemplateIdentification(
        ranks={
            rank: float(np.mean([each.ranks[rank] for each in found.values()])) for rank in ranks
        },
        fnir={
            fpir: float(np.mean([each.points[place].fnir for each in found.values()]))
            for place, fpir in enumerate(fpirs)
        },
        galleries=found,
        protocol=(
            f"1:N identification of {len(probes.ids)} probe templates in each gallery apart "
            f"({sizes}), then the mean of the galleries; {_joined(how)}cosine; rank among the "
            "gallery's identities, ties against the system; FPIR from the best score of the "
            "non-mated probes, FNIR from the mate's score whatever its rank"
        )
        + ".",
    )


def _rows(templates: Templates, ids: ArrayLike, name: str) -> NDArray[np.int64]:
    wanted = np.asarray(ids)
    place = np.minimum(np.searchsorted(templates.ids, wanted), len(templates.ids) - 1)
    unknown = np.flatnonzero(templates.ids[place] != wanted)
    if unknown.size:
        raise DataError(
            f"Expected `{name}` as ids of templates. Received: {unknown.size} others, the first "
            f"{wanted.ravel()[unknown[0]]}. Pool the pictures of every template that a pair names."
        )
    return place


def _joined(how: str) -> str:
    return f"{how}; " if how else ""
