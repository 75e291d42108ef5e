"""YouTube Faces: 5,000 pairs of videos in ten folds, a video being the mean of its frames.

Wolf, Hassner, Maoz, "Face Recognition in Unconstrained Videos with Matched Background
Similarity", CVPR 2011.
"""

import csv
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.errors import DataError
from spherekeras.evaluation.crops import Crops, Faces, check_mirror, embed, list_pictures
from spherekeras.evaluation.kfold import need_folds
from spherekeras.evaluation.verification import VerificationResult, verify_pairs

_COLUMNS = ("split number", "first name", "second name", "is same")


class VideoPair(NamedTuple):
    """Two videos, as `Name/3`, whether they show one person, and their fold, from 0."""

    first: str
    second: str
    same: bool
    fold: int


def read_video_pairs(path: str | os.PathLike[str]) -> list[VideoPair]:
    """Reads the list of pairs, `splits.txt`.

    Its first line names the columns, apart by commas; `split number`, `first name`,
    `second name` and `is same` are read, wherever they stand.

    Args:
        path: of the list.

    Returns:
        The pairs in the list's order.

    Raises:
        DataError: on a list that cannot be read, lacks a column, or has a malformed line, with
            its number.

    Example:

    >>> import pathlib, tempfile
    >>> path = pathlib.Path(tempfile.mkdtemp(), "splits.txt")
    >>> _ = path.write_text(
    ...     "split number, pair number, first name, second name, is same\\n1, 1, Ann/0, Bob/4, 0\\n"
    ... )
    >>> read_video_pairs(path)
    [VideoPair(first='Ann/0', second='Bob/4', same=False, fold=0)]
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.reader(file, skipinitialspace=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{path} cannot be read as a list of pairs ({error}). Use splits.txt as YouTube Faces "
            "publishes it."
        ) from None
    header = [field.strip().lower() for field in rows[0]] if rows else []
    missing = [column for column in _COLUMNS if column not in header]
    if missing:
        raise DataError(
            f"Line 1 of {path}: expected columns with the names {', '.join(_COLUMNS)}. Received: "
            f"{', '.join(header)[:80] or 'nothing'}. Write `split number, pair number, first name, "
            "second name, is same` above the pairs."
        )
    pairs = []
    for number, row in enumerate(rows[1:], 2):
        if not any(field.strip() for field in row):
            continue
        named = dict(zip(header, (field.strip() for field in row), strict=False))
        split, first, second, same = (named.get(column, "") for column in _COLUMNS)
        if not (
            split.isascii() and split.isdecimal() and len(split) < 9 and int(split) > 0
        ) or not (first and second and same in ("0", "1") and len(row) == len(header)):
            raise DataError(
                f"Line {number} of {path}: expected a split from 1, two videos and 0 or 1. "
                f"Received: {', '.join(row)[:80]!r}. Use the list as YouTube Faces publishes it."
            )
        pairs.append(VideoPair(first, second, same == "1", int(split) - 1))
    return pairs


def ytf(
    faces: Faces,
    folder: str | os.PathLike[str],
    mirror: str = "concat",
    subtract_mean: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> VerificationResult:
    """Measures a face embedder on YouTube Faces, every frame of the listed videos.

    A frame of the template's size is an aligned crop already (of 112x112 pixels too, for
    `sphereface_112x96`); in any other the face is found, and where there is none the centre crop
    is used.

    Args:
        faces: crops and embeds; see `Faces`.
        folder: with `splits.txt` and `<person>/<video>/<frame>.jpg`.
        mirror: "none", "sum" or "concat" of the embeddings of a crop and of its mirror image.
        subtract_mean: subtract the mean embedding of the other folds' videos before the cosine.
        progress: called with (videos done, videos in all).

    Raises:
        DataError: on an unknown mirror, as `read_video_pairs`, or on a video without frames.
        ImageError: a frame that cannot be decoded.

    Example::

        print(ytf(FaceEmbedder.from_preset("..."), "YouTubeFaces"))
    """
    check_mirror(mirror)
    splits = pathlib.Path(folder, "splits.txt")
    pairs = read_video_pairs(splits)
    need_folds((pair.fold for pair in pairs), str(splits))
    frames: dict[str, list[pathlib.Path]] = {}
    for path in list_pictures(folder, 3, "`<person>/<video>/<frame>.jpg`"):
        frames.setdefault(f"{path.parts[-3]}/{path.parts[-2]}", []).append(path)
    crops = Crops(faces)
    means = {}
    videos = _require(pairs, frames)
    for done, video in enumerate(videos, 1):
        rows = embed(faces, frames[video], crops.file, mirror)
        means[video] = rows.mean(axis=0, dtype=np.float64)
        if progress is not None:
            progress(done, len(videos))
    return _verify(
        means,
        pairs,
        subtract_mean,
        "YTF",
        sum(len(frames[video]) for video in videos),
        crops.how(mirror),
        no_face=crops.no_face,
        crop=lambda name: Crops(faces).file(frames.get(name, [pathlib.Path(folder, name)])[0]),
    )


def video_verification(
    embeddings: ArrayLike,
    video_ids: ArrayLike,
    pairs: list[VideoPair],
    subtract_mean: bool = True,
    name: str = "YTF",
    how: str = "",
) -> VerificationResult:
    """Measures verification of videos: each is the mean of its frames' raw embeddings.

    Args:
        embeddings: (frames, dim) raw embeddings.
        video_ids: (frames,) the video of each frame, as the pairs name it.
        pairs: of `read_video_pairs`, or of your own.
        subtract_mean: subtract the mean embedding of the other folds' videos before the cosine.
        name: of the test set.
        how: the part of the protocol on frames and embeddings.

    Raises:
        DataError: on shapes that do not fit, a video without frames, or as `kfold_accuracy`.

    Example:

    >>> frames = [[1, 0], [3, 1], [2, 0], [0, 1], [0, 2]]
    >>> pairs = [VideoPair("A/0", "A/1", True, f) for f in (0, 1)]
    >>> pairs += [VideoPair("A/0", "B/0", False, f) for f in (0, 1)]
    >>> result = video_verification(frames, ["A/0", "A/0", "A/1", "B/0", "B/0"], pairs, False)
    >>> result.accuracy, result.similarities.round(3).tolist()
    (1.0, [0.97, 0.97, 0.243, 0.243])
    """
    vectors, videos = np.asarray(embeddings, np.float64), np.asarray(video_ids)
    if vectors.ndim != 2 or videos.shape != vectors.shape[:1] or not vectors.size or not pairs:
        raise DataError(
            "Expected `embeddings` (frames, dim), `video_ids` (frames,) and pairs. Received: "
            f"shapes {vectors.shape} and {videos.shape}, {len(pairs)} pairs. Pass the video of "
            "each frame."
        )
    names, video, frames = np.unique(videos, return_inverse=True, return_counts=True)
    _require(pairs, names.tolist())
    sums = np.zeros((len(names), vectors.shape[1]))
    np.add.at(sums, video, vectors)
    means = dict(zip(names.tolist(), sums / frames[:, None], strict=True))
    return _verify(means, pairs, subtract_mean, name, len(vectors), how)


def _require(pairs: list[VideoPair], videos: Iterable[str]) -> list[str]:
    """The videos of the pairs, sorted; a `DataError` where one of them has no frames."""
    wanted = {video for pair in pairs for video in pair[:2]}
    missing = sorted(wanted.difference(videos))
    if missing:
        raise DataError(
            f"Expected frames of every video. Received: none of {len(missing)} videos, the first "
            f"{missing[0]}. Add at least one frame of each."
        )
    return sorted(wanted)


def _verify(
    means: Mapping[str, NDArray[np.float64]],
    pairs: list[VideoPair],
    subtract_mean: bool,
    name: str,
    frames: int,
    how: str,
    no_face: list[str] | None = None,
    crop: Callable[[str], NDArray[np.uint8]] | None = None,
) -> VerificationResult:
    names = [pair[:2] for pair in pairs]
    videos = {video for pair in names for video in pair}
    return verify_pairs(
        name,
        np.stack([means[first] for first, _ in names]),
        np.stack([means[second] for _, second in names]),
        [pair.same for pair in pairs],
        [pair.fold for pair in pairs],
        subtract_mean,
        pictures=frames,
        how=f"{len(videos)} videos, each the mean of its frames' embeddings as they come, "
        f"{frames} frames in all{', ' + how if how else ''}",
        people=[[video.rpartition("/")[0] or video for video in pair] for pair in names],
        names=names,
        no_face=no_face,
        crop=crop,
    )
