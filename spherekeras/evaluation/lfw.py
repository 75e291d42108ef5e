"""Labeled Faces in the Wild: the pairs lists, and the SphereFace release's protocol on them.

View 2 (`pairs.txt`, ten folds) is for reporting and nothing is ever tuned on it; view 1
(`pairsDevTrain.txt`, `pairsDevTest.txt`) is for tuning.
"""

import contextlib
import os
import pathlib
import zipfile
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spherekeras.errors import DataError
from spherekeras.evaluation.crops import Crops, Faces, check_mirror, embed
from spherekeras.evaluation.kfold import need_folds
from spherekeras.evaluation.verification import VerificationResult, verify_pairs
from spherekeras.files import DAMAGED_ZIP


class Pair(NamedTuple):
    """Two pictures, as `Name/Name_0001.jpg`, whether they show one person, and their fold."""

    first: str
    second: str
    same: bool
    fold: int


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
) -> VerificationResult:
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
    if view not in (1, 2):
        raise DataError(
            f"Expected view 1 or 2. Received: view={view!r}. Call `lfw(faces, source)` for the "
            "protocol that is reported."
        )
    check_mirror(mirror)
    lists = ["pairs.txt"] if view == 2 else ["pairsDevTrain.txt", "pairsDevTest.txt"]
    parts = [read_pairs(source, name) for name in lists]
    pairs = [pair for part in parts for pair in part]
    if view == 2:
        need_folds((pair.fold for pair in pairs), f"pairs.txt of {os.fspath(source)}")
    names = sorted({name for pair in pairs for name in pair[:2]})
    crops = Crops(faces)
    with _open(source) as archive:
        archive.require(names)
        rows = embed(
            faces, names, lambda name: crops.photograph(archive.read(name), name), mirror, progress
        )
        source_name = archive.name
    row = {name: index for index, name in enumerate(names)}

    def crop(name: str) -> NDArray[np.uint8]:
        with _open(source) as archive:
            return Crops(faces).photograph(archive.read(name), name)

    return verify_pairs(
        f"LFW view {view}",
        rows[[row[pair.first] for pair in pairs]],
        rows[[row[pair.second] for pair in pairs]],
        [pair.same for pair in pairs],
        [pair.fold for pair in pairs] if view == 2 else np.arange(len(pairs)) < len(parts[0]),
        subtract_mean,
        pictures=len(names),
        how=f"{lists[-1]} of {source_name}, {crops.how(mirror)}",
        fitting="" if view == 2 else lists[0],
        people=[[picture.split("/")[0] for picture in pair[:2]] for pair in pairs],
        names=[pair[:2] for pair in pairs],
        no_face=crops.no_face,
        crop=crop,
    )


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
        except (*DAMAGED_ZIP, RuntimeError) as error:
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
    except DAMAGED_ZIP as error:
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
