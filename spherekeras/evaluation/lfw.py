"""Labeled Faces in the Wild: the pairs lists, and the SphereFace release's protocol on them.

View 2 (`pairs.txt`, ten folds) is for reporting and nothing is ever tuned on it; view 1
(`pairsDevTrain.txt`, `pairsDevTest.txt`) is for tuning.
"""

import contextlib
import dataclasses
import math
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spherekeras.errors import DataError, NoFaceError
from spherekeras.evaluation import kfold, metrics
from spherekeras.evaluation.bootstrap import bootstrap_intervals, linked_groups

_BATCH = 64
_FARS = (1e-1, 1e-2, 1e-3)
_MIRRORS = {
    "none": "no mirror image",
    "sum": "the embeddings of a crop and of its mirror image are added",
    "concat": "the embeddings of a crop and of its mirror image are concatenated",
}


class Faces(Protocol):
    """What `lfw` asks of a face embedder. An optional `detector_name` goes into the protocol."""

    def crop(self, source: Any, name: str) -> NDArray[np.uint8]:
        """Returns the aligned crop (height, width, 3); raises `NoFaceError`."""

    def centre_crop(self, source: Any) -> NDArray[np.uint8]:
        """Returns the fixed central crop for a picture without a face."""

    def embed_crops(
        self, crops: NDArray[np.uint8], mirror: str, normalize: bool
    ) -> NDArray[np.float32]:
        """Returns the embeddings (n, dim) of crops (n, height, width, 3)."""


class Pair(NamedTuple):
    """Two pictures, as `Name/Name_0001.jpg`, whether they show one person, and their fold."""

    first: str
    second: str
    same: bool
    fold: int


@dataclasses.dataclass(frozen=True, eq=False)
class LfwResult:
    """The numbers of one LFW view and the protocol that they hold under.

    Attributes:
        view: 1 or 2.
        accuracy: view 2: mean of the folds; view 1: of the pairs in `pairsDevTest.txt`.
        std: sample standard deviation of the folds; NaN in view 1.
        interval: 95 % bootstrap interval of the accuracy over the pairs, thresholds fixed.
        intervals: {name: 95 % interval} of "auc", "eer" and "tar_at_far_0.001", over groups of
            pairs that share nobody; NaN where it cannot be measured.
        folds: (folds,) accuracies.
        thresholds: (folds,) thresholds, each chosen on other pairs.
        auc, eer: over all test pairs.
        tar_at_far: {FAR: TAR}; NaN where `unmeasured` says why.
        unmeasured: {FAR: reason}.
        no_face: pictures without a detected face, in which the centre crop was used.
        pairs: test pairs, none dropped.
        pictures: different pictures that were embedded, for fitting too.
        protocol: one sentence with all that the numbers depend on.
        similarities: (pairs,) cosine of each test pair.
        same: (pairs,) booleans.
        pair_thresholds: (pairs,) the threshold that decided each pair.
        names: (pairs,) the two pictures of each pair, as `Name/Name_0001.jpg`.
    """

    view: int
    accuracy: float
    std: float
    interval: tuple[float, float]
    intervals: dict[str, tuple[float, float]]
    folds: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    auc: float
    eer: float
    tar_at_far: dict[float, float]
    unmeasured: dict[float, str]
    no_face: list[str]
    pairs: int
    pictures: int
    protocol: str
    similarities: NDArray[np.float64]
    same: NDArray[np.bool_]
    pair_thresholds: NDArray[np.float64]
    names: list[tuple[str, str]]

    def __str__(self) -> str:
        spread = "" if math.isnan(self.std) else f" ± {self.std:.2%}"
        low, high = self.interval
        lines = [
            f"LFW view {self.view}: accuracy {self.accuracy:.2%}{spread} ({self.pairs} pairs)",
            f"95 % interval {low:.2%} to {high:.2%}",
            f"AUC {self.auc:.5f}{self._within('auc', '.5f')}, EER {self.eer:.2%}"
            f"{self._within('eer', '.2%')}, threshold {_span(self.thresholds)}",
            *(
                f"TAR@FAR={far:g}: "
                + self.unmeasured.get(far, f"{tar:.2%}{self._within(f'tar_at_far_{far:g}', '.2%')}")
                for far, tar in self.tar_at_far.items()
            ),
            f"Pictures without a face: {', '.join(self.no_face) or 'none'}",
            f"Protocol: {self.protocol}",
        ]
        return "\n".join(lines)

    def _within(self, name: str, form: str) -> str:
        low, high = self.intervals[name]
        return "" if math.isnan(low) else f" ({low:{form}} to {high:{form}})"

    def to_dict(self) -> dict[str, Any]:
        """Returns all but the arrays of the pairs, ready for JSON; NaN becomes None."""
        return {
            "view": self.view,
            "accuracy": self.accuracy,
            "std": _number(self.std),
            "interval": list(self.interval),
            "intervals": {
                name: None if math.isnan(low) else [low, high]
                for name, (low, high) in self.intervals.items()
            },
            "folds": self.folds.tolist(),
            "thresholds": self.thresholds.tolist(),
            "auc": self.auc,
            "eer": self.eer,
            "tar_at_far": {f"{far:g}": _number(tar) for far, tar in self.tar_at_far.items()},
            "unmeasured": {f"{far:g}": reason for far, reason in self.unmeasured.items()},
            "no_face": list(self.no_face),
            "pairs": self.pairs,
            "pictures": self.pictures,
            "protocol": self.protocol,
        }


def read_pairs(source: str | os.PathLike[str], name: str = "pairs.txt") -> list[Pair]:
    """Reads one of LFW's pairs lists.

    The first line is `folds<TAB>count`, or a count alone for one fold. Each fold has `count`
    lines `Name<TAB>1<TAB>4` (one person) and then `count` lines `Name<TAB>1<TAB>Other<TAB>2`.

    Args:
        source: folder or zip that holds the list, at its top or one folder down.
        name: the list: `pairs.txt`, `pairsDevTrain.txt` or `pairsDevTest.txt`.

    Returns:
        The pairs in the list's order; folds count from 0.

    Raises:
        DataError: on a source or list that is not there, or a malformed line, with its number.

    Example:

    >>> import pathlib, tempfile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> _ = (folder / "pairs.txt").write_text("1\\t1\\nAnn\\t1\\t2\\nAnn\\t1\\tBob\\t3\\n")
    >>> read_pairs(folder)[1]
    Pair(first='Ann/Ann_0001.jpg', second='Bob/Bob_0003.jpg', same=False, fold=0)
    """
    with _open(source) as archive:
        return _parse(archive.read(name), f"{name} of {archive.name}")


def lfw(
    faces: Faces,
    source: str | os.PathLike[str],
    view: int = 2,
    mirror: str = "concat",
    subtract_mean: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> LfwResult:
    """Measures a face embedder on Labeled Faces in the Wild.

    Each picture is cropped and embedded once. Where no face is found the centre crop is used, so
    that no pair is dropped. The pictures go through in small batches, so memory holds only their
    embeddings. View 2: `kfold_accuracy` on `pairs.txt`; AUC, EER and TAR@FAR pool the cosine that
    each pair has while its fold is the test fold. View 1: mean and threshold come from
    `pairsDevTrain.txt`, every number from `pairsDevTest.txt`. The lists and views are those of
    Huang et al., "Labeled Faces in the Wild", 2007 (unrestricted training, outside data).

    Args:
        faces: crops and embeds; see `Faces`.
        source: folder or zip with the pairs lists and `Name/Name_0001.jpg` pictures, at its top or
            one folder down.
        view: 2 to report, 1 to tune.
        mirror: "none", "sum" or "concat" of the embeddings of a crop and of its mirror image.
        subtract_mean: subtract the mean embedding of the fitting pairs before the cosine.
        progress: called with (pictures done, pictures in all).

    Raises:
        DataError: on an unknown view or mirror, a missing list or picture, or a malformed line.
        ImageError: from `faces`, on a damaged picture.

    Example::

        print(lfw(FaceEmbedder.from_preset("..."), "lfw-deepfunneled.zip"))
    """
    if view not in (1, 2) or mirror not in _MIRRORS:
        raise DataError(
            f'Expected view 1 or 2 and mirror "none", "sum" or "concat". Received: view={view!r}, '
            f"mirror={mirror!r}. Call `lfw(faces, source)` for the protocol that is reported."
        )
    if view == 2:
        pairs = read_pairs(source)
    else:
        train, test = (read_pairs(source, f"pairsDev{part}.txt") for part in ("Train", "Test"))
        pairs = [pair._replace(fold=0) for pair in train] + [pair._replace(fold=1) for pair in test]

    names = sorted({name for pair in pairs for name in (pair.first, pair.second)})
    with _open(source) as archive:
        archive.require(names)
        embeddings, no_face, size = _embed(faces, archive, names, mirror, progress)
        source_name = archive.name
    row = {name: index for index, name in enumerate(names)}
    first = embeddings[[row[pair.first] for pair in pairs]]
    second = embeddings[[row[pair.second] for pair in pairs]]
    same = np.array([pair.same for pair in pairs])
    fold = np.array([pair.fold for pair in pairs])

    if view == 2:
        result = kfold.kfold_accuracy(first, second, same, fold, subtract_mean)
        accuracy, std = result.accuracy, result.std
        accuracies, thresholds = result.accuracies, result.thresholds
        similarities, limits = result.similarities, result.pair_thresholds
    else:
        split = kfold.split_accuracy(first, second, same, fold == 0, subtract_mean)
        accuracy, std = split.accuracy, math.nan
        accuracies, thresholds = np.array([accuracy]), np.array([split.threshold])
        similarities, same = split.similarities, same[fold == 1]
        pairs = [pair for pair in pairs if pair.fold == 1]
        limits = np.full(same.size, split.threshold)

    people = [[picture.split("/")[0] for picture in pair[:2]] for pair in pairs]
    bootstrap = bootstrap_intervals(similarities, same, _FARS, linked_groups(people))
    points = [metrics.operating_point(similarities, same, far) for far in _FARS]
    rules = _rules(view, len(accuracies), subtract_mean)
    return LfwResult(
        view=view,
        accuracy=accuracy,
        std=std,
        interval=metrics.bootstrap_interval(similarities, same, limits),
        intervals=bootstrap.intervals,
        folds=accuracies,
        thresholds=thresholds,
        auc=metrics.auc(similarities, same),
        eer=metrics.eer(similarities, same),
        tar_at_far={point.wanted_far: point.tar for point in points},
        unmeasured={point.wanted_far: point.reason for point in points if point.reason},
        no_face=no_face,
        pairs=same.size,
        pictures=len(names),
        protocol=(
            f"LFW view {view} of {source_name}, {same.size} test pairs "
            f"({np.count_nonzero(same)} same), {rules[0]}, {len(names)} pictures in all; faces "
            f"found by {getattr(faces, 'detector_name', 'an unnamed detector')} and aligned to "
            f"the {size[1]}x{size[0]} template (width x height), the centre crop where there was "
            f"none ({len(no_face)} pictures), no pair dropped; {_MIRRORS[mirror]}; {rules[1]}, "
            f"L2 normalisation, cosine; {rules[2]}; interval: 95 % bootstrap of the test pairs "
            f"with thresholds fixed, for AUC, EER and TAR@FAR of {bootstrap.unit} that share "
            "nobody."
        ),
        similarities=similarities,
        same=same,
        pair_thresholds=limits,
        names=[(pair.first, pair.second) for pair in pairs],
    )


@contextlib.contextmanager
def lfw_crops(
    faces: Faces, source: str | os.PathLike[str]
) -> Iterator[Callable[[str], NDArray[np.uint8]]]:
    """Opens LFW and yields a function from a picture's name to the crop that `lfw` judges.

    Args:
        faces: crops; see `Faces`.
        source: as in `lfw`.

    Raises:
        DataError, ImageError: as `lfw`.

    Example::

        with lfw_crops(faces, "lfw-deepfunneled.zip") as crop:
            first, second = map(crop, result.names[0])
    """
    with _open(source) as archive:
        yield lambda name: _crop(faces, archive, name)[0]


def _rules(view: int, folds: int, subtract_mean: bool) -> tuple[str, str, str]:
    """The parts of the protocol on the list, the mean and the threshold."""
    if view == 2:
        lists, others = f"pairs.txt in {folds} folds", "the other folds' pairs"
        summary = (
            f"the most accurate threshold on {others} decides each fold; accuracy is the mean of "
            "the folds, ± their sample standard deviation; AUC, EER and TAR@FAR pool the cosines "
            "that the pairs have in their own test fold"
        )
    else:
        lists, others = "fitted on pairsDevTrain.txt, tested on pairsDevTest.txt", "pairsDevTrain"
        summary = f"the most accurate threshold on {others} decides"
    mean = f"mean embedding of {others} subtracted" if subtract_mean else "no mean subtracted"
    return lists, mean, summary


def _embed(
    faces: Faces,
    archive: "_Archive",
    names: list[str],
    mirror: str,
    progress: Callable[[int, int], None] | None,
) -> tuple[NDArray[np.float32], list[str], tuple[int, int]]:
    """Raw embeddings of the pictures, the names without a face, the crops' height and width."""
    parts, no_face = [], []
    for start in range(0, len(names), _BATCH):
        crops = []
        for name in names[start : start + _BATCH]:
            crop, found = _crop(faces, archive, name)
            crops.append(crop)
            if not found:
                no_face.append(name)
        batch = np.stack(crops)
        parts.append(faces.embed_crops(batch, mirror=mirror, normalize=False))
        if progress is not None:
            progress(start + len(crops), len(names))
    return np.concatenate(parts), no_face, (batch.shape[1], batch.shape[2])


def _crop(faces: Faces, archive: "_Archive", name: str) -> tuple[NDArray[np.uint8], bool]:
    """The crop of a picture, and whether a face was found in it."""
    picture = archive.read(name)
    try:
        return faces.crop(picture, name), True
    except NoFaceError:
        return faces.centre_crop(picture), False


class _Archive:
    """The lists and pictures of a folder or zip, found by `pairs.txt` and `Name/Name_0001.jpg`."""

    def __init__(self, name: str, files: list[str], read: Callable[[str], bytes]) -> None:
        self.name = name
        self._read = read
        self._files: dict[str, list[str]] = {}
        for file in files:
            parts = file.split("/")
            depth = 1 if file.endswith(".txt") else 2
            if depth <= len(parts) <= depth + 1:
                self._files.setdefault("/".join(parts[-depth:]), []).append(file)

    def read(self, name: str) -> bytes:
        self.require([name])
        try:
            return self._read(self._files[name][0])
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
            raise DataError(
                f"{name} of {self.name} cannot be read: {error}. Fetch the data again."
            ) from error

    def require(self, names: list[str]) -> None:
        missing = [name for name in names if name not in self._files]
        if missing:
            raise DataError(
                f"{self.name} lacks {len(missing)} of {len(names)} wanted files, the first "
                f"{missing[0]}. Expected LFW's lists (pairs.txt, pairsDevTrain.txt, "
                "pairsDevTest.txt) and pictures (Name/Name_0001.jpg) at its top or one folder "
                "down. Point to the folder or zip that holds both."
            )
        double = next((name for name in names if len(self._files[name]) > 1), None)
        if double is not None:
            raise DataError(
                f"{self.name} holds {double} more than once: {', '.join(self._files[double])}. "
                "Point to a folder with one copy of LFW."
            )


@contextlib.contextmanager
def _open(source: str | os.PathLike[str]) -> Iterator[_Archive]:
    path = pathlib.Path(source)
    if path.is_dir():
        depths = ("*.txt", "*/*.txt", "*/*.jpg", "*/*/*.jpg")
        found = [file for depth in depths for file in path.glob(depth)]
        files = sorted(file.relative_to(path).as_posix() for file in found)
        yield _Archive(path.resolve().name, files, lambda file: (path / file).read_bytes())
        return
    try:
        opened = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"Expected a folder or a zip with LFW. Received: {path} ({error}). Pass the path of "
            "lfw-deepfunneled.zip, or of the folder it unpacks to."
        ) from error
    with opened:
        yield _Archive(path.name, opened.namelist(), opened.read)


def _parse(content: bytes, where: str) -> list[Pair]:
    lines = content.decode("utf-8-sig", "replace").rstrip().splitlines()
    header = lines[0].split() if lines else []
    if len(header) not in (1, 2) or not all(_is_count(field) for field in header):
        raise DataError(
            f"Line 1 of {where}: expected the number of folds and of pairs of each kind, such as "
            f"`10 300`, or that of pairs alone. Received: {_shown(lines[0] if lines else '')}. "
            "Use the list as LFW publishes it."
        )
    folds, count = (1, int(header[0])) if len(header) == 1 else (int(header[0]), int(header[1]))
    if len(lines) - 1 != 2 * folds * count:
        raise DataError(
            f"{where}: line 1 announces {2 * folds * count} pairs. Received: {len(lines) - 1} "
            "lines after it. Use the list as LFW publishes it."
        )
    return [
        _parse_line(
            line, f"Line {index + 2} of {where}", index % (2 * count) < count, index // (2 * count)
        )
        for index, line in enumerate(lines[1:])
    ]


def _parse_line(line: str, where: str, same: bool, fold: int) -> Pair:
    fields = line.split()
    if len(fields) == 3:
        fields.insert(2, fields[0])
    elif len(fields) == 4 and fields[0] == fields[2]:
        fields = []
    if (
        len(fields) != 4
        or not (_is_count(fields[1]) and _is_count(fields[3]))
        or (fields[0] == fields[2]) != same
        or fields[:2] == fields[2:]
    ):
        wanted = "`Name 1 4` (one person, two pictures)" if same else "`Name 1 Other 2`"
        raise DataError(
            f"{where}: expected {wanted}. Received: {_shown(line)}. "
            "Use the list as LFW publishes it."
        )
    first, second = (
        f"{name}/{name}_{int(index):04d}.jpg" for name, index in (fields[:2], fields[2:])
    )
    return Pair(first, second, same, fold)


def _is_count(field: str) -> bool:
    return field.isascii() and field.isdecimal() and len(field) < 9 and int(field) > 0


def _shown(line: str) -> str:
    return repr(line if len(line) <= 80 else line[:77] + "...")


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _span(values: NDArray[np.float64]) -> str:
    low, high = values.min(), values.max()
    return f"{low:.4f}" if low == high else f"{low:.4f} to {high:.4f}"
