"""1:N identification metrics: which of a gallery's identities does a probe show, if any?

A probe is mated where its identity is in the gallery. Closed set: the rank of the mate among
the gallery's identities. Open set: at a threshold, FPIR is the share of non-mated probes whose
best score reaches it (a stranger is named), FNIR the share of mated probes whose mate's score
does not, whatever its rank (the terms of Grother et al., "Face Recognition Vendor Test part 2:
Identification", NIST IR 8271). A tie counts against the system everywhere.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.errors import DataError
from spherekeras.evaluation.operating_points import HighestScores, operating_points

TIE = 1e-6
"""Cosines of embeddings that are nearer than this count as a tie: rounding would decide them."""
_ROWS = 1024


class Searches(NamedTuple):
    """What every probe found in the gallery.

    Attributes:
        mated: (probes,) whether the probe's identity is in the gallery.
        mate: (probes,) the score of that identity; NaN without a mate.
        rank: (probes,) 1 + the other identities that score as high or higher; 0 without a mate.
        best: (probes,) the best score among the other identities; -inf where there are none.
    """

    mated: NDArray[np.bool_]
    mate: NDArray[np.float64]
    rank: NDArray[np.int64]
    best: NDArray[np.float64]


class OpenSetPoint(NamedTuple):
    """What an identification system does at a wanted FPIR.

    Attributes:
        wanted_fpir: the FPIR that was asked for.
        fpir: the measured FPIR, at most `wanted_fpir`; NaN where it cannot be measured.
        fnir: the FNIR there; NaN where it cannot be measured.
        threshold: the threshold; NaN where it cannot be measured.
        reason: why it could not be measured, else empty.
    """

    wanted_fpir: float
    fpir: float
    fnir: float
    threshold: float
    reason: str = ""


def score_searches(
    similarities: ArrayLike, probe_ids: ArrayLike, gallery_ids: ArrayLike
) -> Searches:
    """Searches a matrix of scores.

    An identity with several gallery entries counts once, by the best of them.

    Args:
        similarities: (probes, gallery) finite scores, higher meaning more alike.
        probe_ids: (probes,) identities, integers or text.
        gallery_ids: (gallery,) identities of the same kind.

    Raises:
        DataError: on shapes or kinds that do not fit, nothing to search, or scores not finite.

    Example:

    >>> found = score_searches([[0.9, 0.4], [0.6, 0.6], [0.3, 0.5]], [1, 1, 3], [1, 2])
    >>> found.mated.tolist(), found.rank.tolist(), found.best.tolist()
    ([True, True, False], [1, 2, 0], [0.4, 0.6, 0.5])
    """
    scores = np.asarray(similarities, np.float64)
    probes, gallery = np.asarray(probe_ids), np.asarray(gallery_ids)
    if scores.ndim != 2 or scores.shape != (*probes.shape, *gallery.shape) or not scores.size:
        raise DataError(
            "Expected `similarities` (probes, gallery) with one id for each row and column. "
            f"Received: shapes {scores.shape}, {probes.shape} and {gallery.shape}. Pass the score "
            "of every probe with every gallery entry."
        )
    if not np.isfinite(scores).all():
        raise DataError(
            "Expected finite scores. Received: NaN or infinity. Check the embeddings they come "
            "from: `numpy.isfinite(embeddings).all()`."
        )
    order, starts, mates = _columns(probes, gallery)
    return _search(np.maximum.reduceat(scores[:, order], starts, axis=1), mates, 0.0)


def search_gallery(
    probes: ArrayLike, probe_ids: ArrayLike, gallery: ArrayLike, gallery_ids: ArrayLike
) -> Searches:
    """Searches a gallery of embeddings by cosine, some probes at a time to spare memory.

    As `score_searches`; another identity within `TIE` of the mate is a tie.

    Args:
        probes: (probes, dim) embeddings of any length but 0.
        probe_ids: (probes,) identities, integers or text.
        gallery: (gallery, dim) embeddings.
        gallery_ids: (gallery,) identities of the same kind.

    Raises:
        DataError: as `score_searches`, or on an embedding without a direction.

    Example:

    >>> found = search_gallery([[1, 0.1], [0, 2]], ["a", "c"], [[1, 0], [0, 1]], ["a", "b"])
    >>> found.rank.tolist(), found.best.round(3).tolist()
    ([1, 0], [0.1, 1.0])
    """
    rows, columns = unit_rows(probes, "probes"), unit_rows(gallery, "gallery")
    who, whom = np.asarray(probe_ids), np.asarray(gallery_ids)
    if (
        rows.shape[1] != columns.shape[1]
        or who.shape != rows.shape[:1]
        or whom.shape != columns.shape[:1]
    ):
        raise DataError(
            "Expected `probes` (probes, dim) and `gallery` (gallery, dim) with one id a row. "
            f"Received: shapes {rows.shape}, {who.shape}, {columns.shape} and {whom.shape}. Pass "
            "embeddings of one model and an id for each."
        )
    order, starts, mates = _columns(who, whom)
    columns = columns[order].T
    parts = []
    for first in range(0, len(rows), _ROWS):
        part = slice(first, first + _ROWS)
        scores = np.maximum.reduceat(rows[part] @ columns, starts, axis=1)
        parts.append(_search(scores, mates[part], TIE))
    return Searches(*(np.concatenate(field) for field in zip(*parts, strict=True)))


def cmc(searches: Searches, ranks: Sequence[int] = (1, 5, 10)) -> dict[int, float]:
    """Returns the cumulative match characteristic: {k: share of mated probes of rank k or better}.

    Args:
        searches: of `score_searches` or `search_gallery`.
        ranks: from 1.

    Raises:
        DataError: on a rank below 1, or no mated probe.

    Example:

    >>> found = score_searches([[0.9, 0.4], [0.6, 0.6]], [1, 1], [1, 2])
    >>> cmc(found, [1, 2])
    {1: 0.5, 2: 1.0}
    """
    if min(ranks, default=0) < 1:
        raise DataError(f"Expected ranks from 1. Received: {list(ranks)}. Pass `ranks=(1, 5, 10)`.")
    mates = searches.rank[searches.mated]
    if not mates.size:
        raise DataError(
            f"Expected mated probes. Received: {searches.mated.size} probes, none of whose "
            "identities is in the gallery. Check that both lists name identities alike."
        )
    return {rank: float(np.mean(mates <= rank)) for rank in ranks}


def fnir_at_fpir(searches: Searches, fpirs: Sequence[float] = (0.01, 0.1)) -> list[OpenSetPoint]:
    """Returns the lowest FNIR whose measured FPIR is at most each wanted one.

    A threshold stands midway between the scores around it. Fewer than `1 / fpir` non-mated probes
    cannot measure an FPIR: then the numbers are NaN and `reason` says so. TPIR is 1 - FNIR.

    Args:
        searches: of `score_searches` or `search_gallery`.
        fpirs: wanted FPIRs, each in (0, 1].

    Raises:
        DataError: on an FPIR outside (0, 1], or no mated probe.

    Example:

    >>> found = score_searches([[0.9], [0.6], [0.7], [0.2]], [1, 1, 2, 3], [1])
    >>> fnir_at_fpir(found, [0.5])[0].fnir, fnir_at_fpir(found, [0.1])[0].reason
    (0.0, 'FPIR 0.1 needs at least 10 non-mated probes, there are 2')
    """
    strangers = searches.best[~searches.mated]
    impostors = HighestScores(max(strangers.size, 1))
    impostors.add(strangers)
    points = operating_points(
        searches.mate[searches.mated], impostors, fpirs, ("FPIR", "non-mated probes")
    )
    return [
        OpenSetPoint(point.wanted_far, point.far, 1 - point.tar, point.threshold, point.reason)
        for point in points
    ]


def unit_rows(embeddings: ArrayLike, name: str) -> NDArray[np.float64]:
    """Returns embeddings (n, dim) at unit length; a `DataError` on one without a direction."""
    rows = np.asarray(embeddings, np.float64)
    if rows.ndim != 2 or not rows.size:
        raise DataError(
            f"Expected `{name}` as (n, dim), n at least 1. Received: shape {rows.shape}. Pass one "
            "embedding a row."
        )
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        raise DataError(
            f"Expected finite embeddings with a direction. Received: {bad.size} of `{name}` "
            f"without, the first in row {bad[0]}. Check the model: "
            "`numpy.isfinite(embeddings).all()`."
        )
    return rows / lengths


def _columns(
    probe_ids: NDArray[np.generic], gallery_ids: NDArray[np.generic]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Gallery entries by identity, where each identity starts, each probe's identity or -1."""
    kinds = {
        ("i" if ids.dtype.kind in "iu" else ids.dtype.kind) for ids in (probe_ids, gallery_ids)
    }
    if len(kinds) != 1 or not kinds <= {"i", "U"}:
        raise DataError(
            "Expected the ids of probes and gallery as integers, or both as text. Received: "
            f"{probe_ids.dtype} and {gallery_ids.dtype}. Convert one: `numpy.asarray(ids, str)`."
        )
    order = np.argsort(gallery_ids, kind="stable")
    names, starts = np.unique(gallery_ids[order], return_index=True)
    place = np.minimum(np.searchsorted(names, probe_ids), len(names) - 1)
    return order, starts, np.where(names[place] == probe_ids, place, -1)


def _search(scores: NDArray[np.float64], mates: NDArray[np.int64], tie: float) -> Searches:
    """Searches (probes, identities) scores; `mates` is each probe's column or -1."""
    rows, mated = np.arange(len(scores)), mates >= 0
    mate = np.where(mated, scores[rows, mates], math.nan)
    others = scores.copy()
    others[rows[mated], mates[mated]] = -math.inf
    ahead = np.count_nonzero(others >= (mate - tie)[:, None], axis=1)
    return Searches(mated, mate, np.where(mated, 1 + ahead, 0), others.max(axis=1))
