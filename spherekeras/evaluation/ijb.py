"""IJB-B and IJB-C: their lists, and the protocols of `templates` on them.

Read are the lists that NIST publishes (`ijbc_1N_gallery_G1.csv`, `ijbc_1N_gallery_G2.csv`,
`ijbc_1N_probe_mixed.csv`, `ijbc_11_G1_G2_matches.csv`) and those of insightface's package
(`meta/ijbc_face_tid_mid.txt`, `meta/ijbc_template_pair_label.txt`,
`meta/ijbc_name_5pts_score.txt`, with pictures in `loose_crop`).
"""

import csv
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.data import alignment, images
from spherekeras.errors import DataError
from spherekeras.evaluation import templates as pooling
from spherekeras.evaluation.crops import CropFaces, check_mirror, embed, mirrored
from spherekeras.evaluation.templates import (
    TemplateIdentification,
    Templates,
    TemplateVerification,
)

_HEADER = "TEMPLATE_ID"
_PUBLISHED = "Use the list as it is published."


class MediaList(NamedTuple):
    """The pictures of the templates, a line for each picture of each template.

    Attributes:
        files: (lines,) names of the pictures.
        template_ids: (lines,).
        media_ids: (lines,) a still picture has its own, frames of a video share one.
    """

    files: list[str]
    template_ids: NDArray[np.int64]
    media_ids: NDArray[np.int64]


class TemplatePairs(NamedTuple):
    """Pairs of templates to verify: (pairs,) ids, (pairs,) ids, (pairs,) booleans."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    same: NDArray[np.bool_]


class IjbResult(NamedTuple):
    """Both protocols; `identification` is None where the package lacks its lists."""

    verification: TemplateVerification
    identification: TemplateIdentification | None

    def __str__(self) -> str:
        return "\n".join(str(result) for result in self if result is not None)

    def to_dict(self) -> dict[str, Any]:
        """Returns everything, ready for JSON; NaN becomes None."""
        found = self.identification
        return {
            "verification": self.verification.to_dict(),
            "identification": None if found is None else found.to_dict(),
        }


def read_media_list(*paths: str | os.PathLike[str]) -> MediaList:
    """Reads lists of the templates' pictures, one after the other.

    A list is insightface's, `file template medium` apart by spaces, or NIST's, apart by commas,
    whose first line names the columns: TEMPLATE_ID, FILENAME and SIGHTING_ID (the medium) are
    read, wherever they stand.

    Raises:
        DataError: on a list that cannot be read or lacks a column, or a malformed line, with its
            number.

    Example:

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "ijbc_face_tid_mid.txt")
    >>> _ = path.write_text("1.jpg 1 69544\\n2.jpg 1 69544\\n")
    >>> read_media_list(path).media_ids.tolist()
    [69544, 69544]
    """
    read: list[tuple[str, int, int]] = []
    for path in paths:
        with_header = _HEADER in "".join(_lines(path)[:1]).upper()
        if with_header:
            columns = (("FILENAME", "FILE"), ("TEMPLATE_ID",), ("SIGHTING_ID",))
            rows = _named_columns(path, columns)
        else:
            rows = ((n, line.split(), line) for n, line in enumerate(_lines(path), 1))
        for number, fields, line in rows:
            if len(fields) != 3 or not (fields[0] and _is_id(fields[1]) and _is_id(fields[2])):
                form = "a file and whole numbers" if with_header else "`1.jpg 1 69544`"
                raise _malformed(path, number, line, f"{form} (file, template, medium)")
            read.append((fields[0], int(fields[1]), int(fields[2])))
    files, templates, media = zip(*read, strict=True) if read else ((), (), ())
    return MediaList(list(files), np.array(templates, np.int64), np.array(media, np.int64))


def read_subjects(*paths: str | os.PathLike[str]) -> dict[int, int]:
    """Reads the subject of each template from NIST's lists.

    Their first line names the columns: TEMPLATE_ID and SUBJECT_ID are read.

    Raises:
        DataError: as `read_media_list`, or on a template of two subjects.

    Example:

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "ijbc_1N_gallery_G1.csv")
    >>> _ = path.write_text("TEMPLATE_ID,SUBJECT_ID,FILENAME\\n7,1,img/1.jpg\\n7,1,img/2.jpg\\n")
    >>> read_subjects(path)
    {7: 1}
    """
    subjects: dict[int, int] = {}
    for path in paths:
        for number, fields, line in _named_columns(path, (("TEMPLATE_ID",), ("SUBJECT_ID",))):
            if len(fields) != 2 or not all(map(_is_id, fields)):
                raise _malformed(path, number, line, "whole numbers as template and subject")
            template, subject = map(int, fields)
            if subjects.setdefault(template, subject) != subject:
                known = f"one subject for template {template}, which was {subjects[template]}"
                raise _malformed(path, number, line, known)
    return subjects


def read_template_pairs(
    path: str | os.PathLike[str], subjects: Mapping[int, int] | None = None
) -> TemplatePairs:
    """Reads the pairs to verify: `first second label`, or NIST's `first,second`.

    Args:
        path: of the list.
        subjects: of the templates, of `read_subjects`, for a list without labels.

    Raises:
        DataError: on a list that cannot be read or has a malformed line, a label other than 0 and
            1, or a pair without a label of a template that `subjects` lacks.

    Example:

    >>> import tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "ijbc_template_pair_label.txt")
    >>> _ = path.write_text("1 11065 1\\n1 11066 0\\n")
    >>> read_template_pairs(path).same.tolist()
    [True, False]
    """
    form = f"Expected `1 11065 1` (first, second, label) or `1,11065` a line. {_PUBLISHED}"
    try:
        with open(path, encoding="utf-8") as file:
            start = file.readline()
            if not start.strip():
                raise ValueError("its first line is empty")
            file.seek(0)
            apart = "," if "," in start else None
            table = np.loadtxt(file, np.int64, comments=None, delimiter=apart, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as pairs of templates: {error}. {form}") from None
    if table.shape[1] == 3 and np.isin(table[:, 2], (0, 1)).all():
        return TemplatePairs(table[:, 0], table[:, 1], table[:, 2] == 1)
    if table.shape[1] != 2:
        raise DataError(
            f"{path} has {table.shape[1]} columns, or labels other than 0 and 1. {form}"
        )
    known = {} if subjects is None else subjects
    unknown = [each for each in np.unique(table).tolist() if each not in known]
    if unknown:
        raise DataError(
            f"{path} has no labels, and the subjects of {len(unknown)} of its templates are not "
            f"known, the first {unknown[0]}. Pass `subjects=read_subjects(gallery_1, gallery_2, "
            "probes)`."
        )
    first, second = (np.array([known[each] for each in side]) for side in table.T.tolist())
    return TemplatePairs(table[:, 0], table[:, 1], first == second)


def ijb_verification(
    embeddings: ArrayLike,
    media: MediaList,
    pairs: TemplatePairs,
    weights: ArrayLike | None = None,
    fars: Sequence[float] = pooling.FARS,
    how: str = "",
) -> TemplateVerification:
    """Measures 1:1 verification by the lists; see `pool_templates`, `template_verification`.

    Args:
        embeddings: (lines, dim), one for each line of `media`.
        media: the pictures of every template that the pairs name.
        pairs: of `read_template_pairs`.
        weights: (lines,) such as the detector's scores.
        fars: wanted FARs.
        how: the part of the protocol on pictures and embeddings.
    """
    pooled = pooling.pool_templates(embeddings, media.template_ids, media.media_ids, weights)
    return pooling.template_verification(pooled, *pairs, fars=fars, how=_how(how, weights))


def ijb_identification(
    embeddings: ArrayLike,
    media: MediaList,
    probes: Mapping[int, int],
    galleries: Mapping[str, Mapping[int, int]],
    weights: ArrayLike | None = None,
    ranks: Sequence[int] = (1, 5, 10),
    fpirs: Sequence[float] = (0.01, 0.1),
    how: str = "",
) -> TemplateIdentification:
    """Measures 1:N identification by the lists; see `template_identification`.

    Args:
        embeddings: (lines, dim), one for each line of `media`.
        media: the pictures of every template of the probes and the galleries.
        probes: subjects of the probe templates, of `read_subjects`.
        galleries: {"G1": subjects of its templates, "G2": ...}.
        weights: (lines,) such as the detector's scores.
        ranks: of the closed set.
        fpirs: wanted FPIRs of the open set.
        how: the part of the protocol on pictures and embeddings.

    Raises:
        DataError: as `template_identification`, or on a template without pictures in `media`.
    """
    pooled = pooling.pool_templates(embeddings, media.template_ids, media.media_ids, weights)
    return pooling.template_identification(
        *_chosen(pooled, probes),
        {name: _chosen(pooled, gallery) for name, gallery in galleries.items()},
        ranks=ranks,
        fpirs=fpirs,
        how=_how(how, weights),
    )


def ijb(
    faces: CropFaces,
    folder: str | os.PathLike[str],
    mirror: str = "sum",
    progress: Callable[[int, int], None] | None = None,
) -> IjbResult:
    """Measures a face embedder on insightface's package of IJB-B or IJB-C.

    Each picture of `loose_crop` is aligned by the landmarks of `meta/*_name_5pts_score.txt`.
    The lengths of the raw embeddings and the detector's scores weigh the pictures, as that
    package has it. Identification is measured where `meta` holds the `*_1N_*.csv` lists.

    Args:
        faces: embeds crops; see `CropFaces`.
        folder: `IJBB` or `IJBC`, with `meta` and `loose_crop` in it.
        mirror: "none", "sum" or "concat" of the embeddings of a crop and of its mirror image.
        progress: called with (pictures done, pictures in all).

    Raises:
        DataError: on a list or picture that is missing, a malformed list, or lists that name other
            pictures or templates.
        ImageError: a picture that cannot be decoded.

    Example::

        print(ijb(FaceEmbedder.from_preset("..."), "IJB_release/IJBC"))
    """
    check_mirror(mirror)
    meta = pathlib.Path(folder, "meta")
    # Every list is read, and compared with the others, before the hours of embedding begin.
    media = read_media_list(_only(meta, "*_face_tid_mid.txt"))
    pairs = read_template_pairs(_only(meta, "*_template_pair_label.txt"))
    galleries = {
        path.stem.rsplit("_", 1)[-1]: read_subjects(path)
        for path in sorted(meta.glob("*_1N_gallery_*.csv"))
    }
    probes = read_subjects(_only(meta, "*_1N_probe_mixed.csv")) if galleries else {}
    names, landmarks, scores = _read_landmarks(_only(meta, "*_name_5pts_score.txt"))
    if names != media.files or not names:
        raise DataError(
            f"{meta}: expected *_face_tid_mid.txt and *_name_5pts_score.txt to name the same "
            f"pictures in one order. Received: {len(media.files)} and {len(names)} lines that do "
            "not. Use the lists of one package."
        )
    subjects = [np.array(list(each), np.int64) for each in (probes, *galleries.values())]
    for ids in (pairs.first, pairs.second, *(subjects if galleries else [])):
        _require(media.template_ids, np.unique(ids))
    pictures = pathlib.Path(folder, "loose_crop")
    lost = [name for name in names if not os.path.isfile(pictures / name)]
    if lost:
        raise DataError(
            f"{pictures} lacks {len(lost)} of {len(names)} pictures, the first {lost[0]}. Unpack "
            "the package anew."
        )

    def crop(line: int) -> NDArray[np.uint8]:
        picture = images.read_image(pictures / names[line])
        return alignment.align(picture, landmarks[line], faces.config.template)

    embeddings = embed(faces, range(len(names)), crop, mirror, progress)
    how = (
        f"{len(names)} pictures of {pathlib.Path(folder).resolve().name} aligned by its landmarks "
        f"to {faces.config.template}; {mirrored(faces, mirror)}"
    )
    if not getattr(faces, "unit_parts", False):
        how += ", none normalised"
    return IjbResult(
        ijb_verification(embeddings, media, pairs, scores, how=how),
        ijb_identification(embeddings, media, probes, galleries, scores, how=how)
        if galleries
        else None,
    )


def _how(how: str, weights: ArrayLike | None) -> str:
    weighted = "" if weights is None else " times their weights"
    rule = f"a template is the mean over its media of the means of their embeddings{weighted}"
    return f"{how}; {rule}" if how else rule


def _chosen(pooled: Templates, subjects: Mapping[int, int]) -> tuple[Templates, NDArray[np.int64]]:
    ids = np.array(sorted(subjects), np.int64)
    _require(pooled.ids, ids)
    rows = pooled.embeddings[np.searchsorted(pooled.ids, ids)]
    return Templates(ids, rows), np.array([subjects[each] for each in ids.tolist()])


def _require(known: NDArray[Any], ids: NDArray[np.int64]) -> None:
    missing = np.setdiff1d(ids, known)
    if missing.size or not ids.size:
        raise DataError(
            f"Expected pictures of every template. Received: none of {missing.size} of {ids.size} "
            f"templates{f', the first {missing[0]}' if missing.size else ''}. Pass a media list "
            "with the pictures of the pairs, of the probes and of every gallery."
        )


def _read_landmarks(
    path: pathlib.Path,
) -> tuple[list[str], NDArray[np.float64], NDArray[np.float64]]:
    """Names, (lines, 5, 2) landmarks in pixels and detector's scores: `1.jpg x y ... score`."""
    names, numbers = [], []
    for number, line in enumerate(_lines(path), 1):
        fields = line.split()
        try:
            values = [float(field) for field in fields[1:]]
        except ValueError:
            values = []
        outside = {"/", ".."} & set(pathlib.PurePosixPath(*fields[:1]).parts)
        if outside or len(values) != 11 or not np.isfinite(values).all() or values[10] < 0:
            raise _malformed(path, number, line, "a file, five points x y and a score from 0")
        names.append(fields[0])
        numbers.append(values)
    table = np.array(numbers).reshape(-1, 11)
    return names, table[:, :10].reshape(-1, 5, 2), table[:, 10]


def _only(folder: pathlib.Path, pattern: str) -> pathlib.Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise DataError(
            f"Expected one {pattern} in {folder}. Received: {len(found)}. Point to the folder IJBB "
            "or IJBC of insightface's package."
        )
    return found[0]


def _named_columns(
    path: str | os.PathLike[str], columns: Sequence[Sequence[str]]
) -> Iterator[tuple[int, list[str], str]]:
    """Line numbers, wanted fields (none where the line is malformed) and lines after the header.

    Each column is given by its names, the first of them the usual one.
    """
    lines = _lines(path)
    header = [field.upper() for field in _fields("".join(lines[:1]))]
    places = [next((header.index(n) for n in names if n in header), -1) for names in columns]
    if min(places) < 0:
        wanted = ", ".join(names[0] for names in columns)
        raise DataError(
            f"Line 1 of {path}: expected columns with the names {wanted}. Received: "
            f"{', '.join(header)[:80] or 'nothing'}. {_PUBLISHED}"
        )
    for number, line in enumerate(lines[1:], 2):
        row = _fields(line)
        yield number, [row[place] for place in places] if len(row) == len(header) else [], line


def _fields(line: str) -> list[str]:
    try:
        return [field.strip() for field in next(csv.reader([line]), [])]
    except csv.Error:
        return []


def _lines(path: str | os.PathLike[str]) -> list[str]:
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as a list: {error}. {_PUBLISHED}") from None
    return text.rstrip().splitlines()


def _malformed(path: str | os.PathLike[str], number: int, line: str, wanted: str) -> DataError:
    shown = line if len(line) <= 80 else line[:77] + "..."
    return DataError(
        f"Line {number} of {path}: expected {wanted}. Received: {shown!r}. {_PUBLISHED}"
    )


def _is_id(field: str) -> bool:
    return field.isascii() and field.isdecimal() and len(field) < 19
