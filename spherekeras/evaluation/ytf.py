"""YouTube Faces: 5,000 pairs of videos in ten folds, a video being the mean of its frames.

Wolf, Hassner, Maoz, "Face Recognition in Unconstrained Videos with Matched Background
Similarity", CVPR 2011.
"""

import csv
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spherekeras.errors import DataError
from spherekeras.evaluation.fold_result import FoldResult, fold_result

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


def video_verification(
    embeddings: ArrayLike,
    video_ids: ArrayLike,
    pairs: list[VideoPair],
    subtract_mean: bool = True,
    name: str = "YTF",
    how: str = "",
) -> FoldResult:
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
    sums = np.zeros((len(names), vectors.shape[1]))
    np.add.at(sums, video, vectors)
    means = sums / frames[:, None]
    place = {str(each): row for row, each in enumerate(names)}
    wanted = {video for pair in pairs for video in (pair.first, pair.second)}
    missing = sorted(wanted - place.keys())
    if missing:
        raise DataError(
            f"Expected frames of every video. Received: none of {len(missing)} videos, the first "
            f"{missing[0]}. Embed at least one frame of each."
        )
    return fold_result(
        name,
        _taken(means, place, [pair.first for pair in pairs]),
        _taken(means, place, [pair.second for pair in pairs]),
        [pair.same for pair in pairs],
        [pair.fold for pair in pairs],
        subtract_mean,
        len(vectors),
        f"{len(wanted)} videos, each the mean of its frames' raw embeddings, {len(vectors)} frames "
        f"in all{', ' + how if how else ''}",
    )


def _taken(
    means: NDArray[np.float64], place: dict[str, int], videos: list[str]
) -> NDArray[np.float64]:
    return means[[place[video] for video in videos]]
