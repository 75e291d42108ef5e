"""A network on people that it was not trained on: thresholds, and how they hold."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.data.records import family
from spherekeras.errors import DataError
from spherekeras.evaluation import metrics, picture_kinds
from spherekeras.evaluation.bootstrap import bootstrap_intervals
from spherekeras.evaluation.crops import MIRRORS, CropFaces

_FARS = (1e-1, 1e-2, 1e-3, 1e-4)
_USUAL = 1e-2  # the FAR at which kinds of pictures are compared
MOST_CROPS = 4000  # eight million pairs
_SOURCES = 5


@dataclasses.dataclass(frozen=True, eq=False)
class HeldOut:
    """The numbers of people held out.

    Attributes:
        crops, people: how many.
        who: whose crops they are.
        same, different: pairs.
        auc, eer: over all pairs.
        points: the operating point of each FAR.
        intervals: {name: 95 % interval} of "auc", "eer" and "tar_at_far_..." of each FAR, whose
            threshold each resample chooses.
        kinds: pairs by kind, at the threshold of FAR 1e-2; none where that is not measured.
        protocol: one sentence with all that the numbers depend on.
    """

    crops: int
    people: int
    who: str
    same: int
    different: int
    auc: float
    eer: float
    points: list[metrics.OperatingPoint]
    intervals: dict[str, tuple[float, float]]
    kinds: list[picture_kinds.Kind]
    protocol: str

    def to_metadata(self) -> dict[str, Any]:
        """Returns what a preset keeps: "held_out", the numbers, and "thresholds"."""
        intervals = {
            name: None if math.isnan(low) else [round(low, 6), round(high, 6)]
            for name, (low, high) in self.intervals.items()
        }
        return {
            "held_out": {
                **{key: getattr(self, key) for key in ("crops", "people", "same", "different")},
                "title": self.who[0].upper() + self.who[1:],
                "auc": round(self.auc, 6),
                "eer": round(self.eer, 6),
                "intervals": intervals,
                "unmeasured": {f"{p.wanted_far:g}": p.reason for p in self.points if p.reason},
                "kinds": picture_kinds.kinds_table(self.kinds),
                "protocol": self.protocol,
            },
            "thresholds": [
                {
                    "far": point.wanted_far,
                    "threshold": round(point.threshold, 6),
                    "tar": round(point.tar, 6),
                    "data": f"{self.different:,} pairs of {self.people:,} {self.who}",
                }
                for point in self.points
                if not point.reason
            ],
        }


def held_out(
    faces: CropFaces,
    crops: NDArray[np.uint8],
    identities: Sequence[str],
    fars: Sequence[float] = _FARS,
    who: str = "people held out from training",
    how: str = "",
) -> HeldOut:
    """Compares every crop with every other, as `verify` does: cosine, no mean, the mirror rule.

    Kinds are told from the pictures (`picture_kinds.quality_kinds`) and from the names: people of
    one source (`<source>_...`), two people of one family (`<family>_MID<member>`).

    Args:
        faces: embeds crops.
        crops: (n, height, width, 3), 4,000 at most.
        identities: (n,) the name of each crop's person.
        fars: wanted FARs, each in (0, 1].
        who: whose crops these are, for protocol and thresholds.
        how: what was done to the crops, for the protocol.

    Raises:
        DataError: too many crops, or pairs of one sort only.

    Source: intervals as `bootstrap_intervals` draws them over people.
    """
    if len(crops) > MOST_CROPS or len(crops) != len(identities):
        raise DataError(
            f"Expected at most {MOST_CROPS} crops and a name for each. Received: {len(crops)} "
            f"crops and {len(identities)} names. Hold out fewer people."
        )
    names = np.asarray(identities, np.str_)
    embeddings = faces.embed_crops(crops, faces.config.mirror, True)
    first, second = np.triu_indices(len(crops), 1)
    similarities, same = all_pairs(embeddings, names)
    if not same.any() or same.all():
        raise DataError(
            "Expected pairs of one person and pairs of two. Received: "
            f"{same.sum()} and {(~same).sum()}. Hold out more people with two crops or more."
        )
    points = [metrics.operating_point(similarities, same, far) for far in fars]
    usual = metrics.operating_point(similarities, same, _USUAL)
    number = np.unique(names, return_inverse=True)[1]
    people = np.stack([number[first], number[second]], axis=1)
    drawn = bootstrap_intervals(similarities, same, fars, people, samples=200)
    sharp = [picture_kinds.sharpness(crop) for crop in crops]
    greys = [picture_kinds.is_grey(crop) for crop in crops]
    kinds = {
        "all": np.ones(same.size, np.bool_),
        **picture_kinds.quality_kinds(sharp, greys, first, second),
        **_named_kinds(names, first, second),
    }
    return HeldOut(
        crops=len(crops),
        people=int(number.max()) + 1,
        who=who,
        same=int(same.sum()),
        different=int((~same).sum()),
        auc=metrics.auc(similarities, same),
        eer=metrics.eer(similarities, same),
        points=points,
        intervals=drawn.intervals,
        kinds=[]
        if usual.reason
        else picture_kinds.by_kind(similarities, same, usual.threshold, kinds),
        protocol=(
            f"All {same.size:,} pairs ({same.sum():,} same) of {len(crops):,} crops of {who}"
            f"{f', {how}' if how else ''}; {MIRRORS[faces.config.mirror]}, no mean subtracted, "
            f"cosine; intervals: 95 % bootstrap of {drawn.unit}, drawn as if families were "
            "strangers."
        ),
    )


def all_pairs(
    embeddings: NDArray[np.floating], names: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns the cosines of all pairs of unit-length embeddings, and which are of one name.

    Args:
        embeddings: (n, dim).
        names: (n,).

    Example:

    >>> similarities, same = all_pairs(np.eye(3), ["a", "b", "a"])
    >>> similarities.tolist(), same.tolist()
    ([0.0, 0.0, 0.0], [False, True, False])
    """
    first, second = np.triu_indices(len(embeddings), 1)
    known = np.asarray(names)
    similarities = (embeddings @ embeddings.T)[first, second].astype(np.float64)
    return similarities, known[first] == known[second]


def _named_kinds(
    names: NDArray[np.str_], first: NDArray[np.int64], second: NDArray[np.int64]
) -> dict[str, NDArray[np.bool_]]:
    """Kinds that the names tell: both of one source (`fiw_F0001_MID2`), of one family."""
    sources = np.array([name.split("/")[-1].partition("_")[0] for name in names])
    families = np.array([family(name) for name in names])
    known = {source: set(names[sources == source]) for source in np.unique(sources).tolist()}
    several = all(
        len(people) > 1 and all(f"{source}_" in name for name in people)  # else it names a person
        for source, people in known.items()
    )
    kinds = {}
    if several and 1 < len(known) <= _SOURCES:
        for source in known:
            ours = sources == source
            kinds[f"both of {source}"] = ours[first] & ours[second]
    stated = families != np.array([name.split("/")[-1] for name in names])
    relatives = (families[first] == families[second]) & (names[first] != names[second])
    relatives &= stated[first] & stated[second]  # not two sources' folders of one name
    if relatives.any():
        kinds["two people of one family"] = relatives
    return kinds
