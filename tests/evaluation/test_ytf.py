import pathlib

import numpy as np
import pytest

from spherekeras.errors import DataError
from spherekeras.evaluation import kfold_accuracy
from spherekeras.evaluation.ytf import VideoPair, read_video_pairs, video_verification

RANDOM = np.random.default_rng(12)
HEADER = "split number, pair number, first name, second name, is same\n"


def write(folder: pathlib.Path, text: str) -> pathlib.Path:
    path = folder / "splits.txt"
    path.write_text(text)
    return path


def test_pairs_are_read_by_the_names_of_the_columns(tmp_path: pathlib.Path) -> None:
    wanted = [VideoPair("Ann_Lee/0", "Ann_Lee/4", True, 0), VideoPair("Bo/1", "Al/2", False, 9)]
    text = HEADER + "1, 1, Ann_Lee/0, Ann_Lee/4, 1\n10, 500, Bo/1, Al/2, 0\n\n"
    assert read_video_pairs(write(tmp_path, text)) == wanted
    turned = "is same,second name , First Name,split number\r\n1,Ann_Lee/4,Ann_Lee/0,1\r\n"
    assert read_video_pairs(write(tmp_path, turned)) == wanted[:1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Line 1 of .*splits.txt: expected columns with the names split number, .*nothing. Wr"),
        (
            "1, 1, Ann/0, Ann/4, 1\n",
            "Line 1 of .*Received: 1, 1, ann/0, ann/4, 1. Write `split num",
        ),
        (
            HEADER + "1, 1, A/0, B/1\n",
            "Line 2 of .*: expected a split from 1, .*'1, 1, A/0, B/1'. Us",
        ),
        (HEADER + "0, 1, A/0, B/1, 1\n", "Line 2 of .*Received: '0, 1, A/0, B/1, 1'"),
        (HEADER + "x, 1, A/0, B/1, 1\n", "Line 2 of "),
        (HEADER + "1, 1, A/0, B/1, 1\n1, 2, A/0, , 1\n", "Line 3 of "),
        (HEADER + "1, 1, A/0, B/1, 2\n", "Line 2 of "),
        (HEADER + "1, 1, A/0, B/1, 1, 1\n", "Line 2 of "),
    ],
)
def test_a_malformed_list_names_its_line(tmp_path: pathlib.Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_video_pairs(write(tmp_path, text))


def test_a_missing_or_binary_list_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(
        DataError, match=r"nothing.txt cannot be read as a list of pairs \(.*No suc"
    ):
        read_video_pairs(tmp_path / "nothing.txt")
    (tmp_path / "splits.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read as a list of pairs"):
        read_video_pairs(tmp_path / "splits.txt")


def videos() -> tuple[np.ndarray, list[str], list[VideoPair]]:
    people = RANDOM.normal(size=(8, 6)) + 1
    frames, names = [], []
    for person in range(8):
        for video in range(2):
            for _ in range(1 + (person + video) % 4):
                frames.append(people[person] + 1.2 * RANDOM.normal(size=6))
                names.append(f"P{person}/{video}")
    pairs = []
    for person in range(8):
        pairs.append(VideoPair(f"P{person}/0", f"P{person}/1", True, person % 4))
        pairs.append(VideoPair(f"P{person}/0", f"P{(person + 1) % 8}/1", False, person % 4))
    order = RANDOM.permutation(len(frames))
    return np.array(frames)[order], [names[place] for place in order], pairs


@pytest.mark.parametrize("subtract_mean", [False, True])
def test_a_video_is_the_mean_of_its_frames(subtract_mean: bool) -> None:
    frames, names, pairs = videos()
    result = video_verification(frames, names, pairs, subtract_mean)

    def mean(video: str) -> np.ndarray:
        rows = [frame for frame, name in zip(frames, names, strict=True) if name == video]
        return sum(rows) / len(rows)

    wanted = kfold_accuracy(
        [mean(pair.first) for pair in pairs],
        [mean(pair.second) for pair in pairs],
        [pair.same for pair in pairs],
        [pair.fold for pair in pairs],
        subtract_mean,
    )
    np.testing.assert_allclose(result.similarities, wanted.similarities, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(result.folds, wanted.accuracies)
    assert (result.pairs, result.pictures) == (16, len(frames))
    assert result.protocol.startswith(
        "YTF, 16 pairs (8 same) in 4 folds, 16 videos, each the mean of its frames' raw "
        f"embeddings, {len(frames)} frames in all; "
    )
    named = video_verification(frames, names, pairs, name="Toy", how="every frame").protocol
    assert named.startswith("Toy, 16") and "frames in all, every frame; mean embedding of" in named


def test_frames_that_do_not_fit_are_refused() -> None:
    frames, names, pairs = videos()
    left = [name for name in names if name != "P3/1"]
    with pytest.raises(
        DataError, match="Received: none of 1 videos, the first P3/1. Embed at least"
    ):
        video_verification(frames[: len(left)], left, pairs)
    with pytest.raises(DataError, match=r"Received: shapes \(\d+, 6\) and \(3,\), 16 pairs. Pass"):
        video_verification(frames, names[:3], pairs)
    with pytest.raises(DataError, match="0 pairs. Pass the video of each frame"):
        video_verification(frames, names, [])
