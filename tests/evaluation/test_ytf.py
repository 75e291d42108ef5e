import pathlib
import shutil
import types

import cv2
import numpy as np
import pytest

from spherekeras.errors import DataError, NoFaceError
from spherekeras.evaluation import kfold_accuracy
from spherekeras.evaluation.ytf import VideoPair, read_video_pairs, video_verification, ytf

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
        "YTF, 16 pairs (8 same) in 4 folds, 16 videos, each the mean of its frames' "
        f"embeddings as they come, {len(frames)} frames in all; "
    )
    named = video_verification(frames, names, pairs, name="Toy", how="every frame").protocol
    assert named.startswith("Toy, 16") and "frames in all, every frame; mean embedding of" in named


def test_frames_that_do_not_fit_are_refused() -> None:
    frames, names, pairs = videos()
    left = [name for name in names if name != "P3/1"]
    with pytest.raises(DataError, match="Received: none of 1 videos, the first P3/1. Add at least"):
        video_verification(frames[: len(left)], left, pairs)
    with pytest.raises(DataError, match=r"Received: shapes \(\d+, 6\) and \(3,\), 16 pairs. Pass"):
        video_verification(frames, names[:3], pairs)
    with pytest.raises(DataError, match="0 pairs. Pass the video of each frame"):
        video_verification(frames, names, [])


class GreyFaces:
    """Stands in for the embedder: crops are drawn grey, a photograph's crop is its corner."""

    config = types.SimpleNamespace(template="sphereface_112x96")
    detector_name = "a lamp"

    def crop(self, source: np.ndarray, name: str) -> np.ndarray:
        if name == "P1/0/0.png":
            raise NoFaceError(name)
        return source[:112, :96]

    def centre_crop(self, source: np.ndarray) -> np.ndarray:
        return source[-112:, -96:]

    def embed_crops(self, crops: np.ndarray, mirror: str, normalize: bool) -> np.ndarray:
        assert mirror == "concat" and not normalize
        return crops[:, ::16, ::16, 0].reshape(len(crops), -1).astype(np.float32)


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """Eight people with two videos each: crops of both sizes, and photographs of 200x200."""
    sizes = [(112, 96), (112, 112), (200, 200)]
    for person in range(8):
        coarse = RANDOM.integers(0, 256, (25, 25, 1))
        for video in range(2):
            (tmp_path / f"P{person}" / str(video)).mkdir(parents=True)
            for frame in range(1 + (person + video) % 3):
                noisy = np.clip(coarse + RANDOM.integers(-120, 121, coarse.shape), 0, 255)
                height, width = sizes[0 if person else 1] if person != 1 else sizes[2]
                pixels = noisy.repeat(8, 0).repeat(8, 1)[:height, :width].repeat(3, 2)
                path = tmp_path / f"P{person}" / str(video) / f"{frame}.png"
                assert cv2.imwrite(str(path), pixels.astype(np.uint8))
    lines = []
    for person in range(8):
        lines.append(f"{person % 4 + 1}, 1, P{person}/0, P{person}/1, 1")
        lines.append(f"{person % 4 + 1}, 2, P{person}/0, P{(person + 4) % 8}/1, 0")
    (tmp_path / "splits.txt").write_text(HEADER + "\n".join(lines) + "\n")
    (tmp_path / "P9" / "0").mkdir(parents=True)
    shutil.copy(tmp_path / "P0" / "0" / "0.png", tmp_path / "P9" / "0")  # of no pair
    return tmp_path


def test_a_folder_of_videos(folder: pathlib.Path) -> None:
    faces = GreyFaces()
    steps: list[tuple[int, int]] = []
    result = ytf(faces, folder, progress=lambda done, total: steps.append((done, total)))
    assert steps[0] == (1, 16) and steps[-1] == (16, 16)
    rows, videos = [], []
    for path in sorted(folder.glob("P[0-7]/*/*.png")):
        pixels = cv2.imread(str(path))
        left = {112: 8, 200: 0, 96: 0}[pixels.shape[1]]
        crop = pixels[:112, left : left + 96]
        if path.relative_to(folder).as_posix() == "P1/0/0.png":
            crop = pixels[-112:, -96:]
        rows.append(crop[::16, ::16, 0].ravel().astype(np.float64))
        videos.append(f"{path.parent.parent.name}/{path.parent.name}")
    wanted = video_verification(rows, videos, read_video_pairs(folder / "splits.txt"))
    np.testing.assert_allclose(result.similarities, wanted.similarities, atol=1e-9)
    assert (result.accuracy, result.pictures) == (wanted.accuracy, len(rows))
    assert result.intervals == wanted.intervals
    assert result.no_face == ["P1/0/0.png"]
    lines = (folder / "splits.txt").read_text().splitlines()
    kept = [lines[0], *(line for line in lines[1:] if line.startswith("1,"))]
    (folder / "splits.txt").write_text("\n".join(kept))
    with pytest.raises(DataError, match="splits.txt has 1 fold; a fold's threshold is chosen on"):
        ytf(None, folder)
    for part in (
        "16 videos, each the mean of its frames' embeddings as they come, "
        f"{len(rows)} frames in all, ",
        " aligned crops as they are and columns 8 to 103 of ",
        " photographs, faces found by a lamp and aligned to the 96x112 template (width x height), "
        "the centre crop where there was none (1 pictures); none dropped; the embeddings of a crop "
        "and of its mirror image are concatenated; mean embedding of the other folds' pairs sub",
        "95 % bootstrap of 4 groups of pairs that share nobody",
    ):
        assert part in result.protocol, result.protocol
    # The page shows a video by its first frame, and a frame without a face by itself.
    first = cv2.imread(str(folder / "P0" / "1" / "0.png"))
    np.testing.assert_array_equal(result.crop("P0/1"), first[:, 8:104])
    faceless = cv2.imread(str(folder / "P1" / "0" / "0.png"))
    np.testing.assert_array_equal(result.crop("P1/0/0.png"), faceless[-112:, -96:])


def test_a_video_without_frames_is_named_before_the_work(folder: pathlib.Path) -> None:
    shutil.rmtree(folder / "P3" / "1")
    with pytest.raises(DataError, match="none of 1 videos, the first P3/1. Add at least"):
        ytf(None, folder)
    (folder / "splits.txt").unlink()
    with pytest.raises(DataError, match=r"splits.txt cannot be read as a list of pairs"):
        ytf(None, folder)
