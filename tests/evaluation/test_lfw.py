import itertools
import math
import os
import pathlib
import shutil
import zipfile

import cv2
import numpy as np
import pytest

from spherekeras.errors import DataError, NoFaceError
from spherekeras.evaluation import crops as shared
from spherekeras.evaluation import kfold_accuracy, lfw, metrics, read_pairs, split_accuracy
from spherekeras.evaluation.bootstrap import bootstrap_intervals

DATA = pathlib.Path(
    os.environ.get("SPHEREKERAS_DATA") or pathlib.Path(__file__).parents[3] / "shared" / "data"
)
PEOPLE = [f"Person_{letter}" for letter in "ABCDEFGH"]
PICTURES = [f"{name}/{name}_{number:04d}.jpg" for name in PEOPLE for number in (1, 2, 3)]
# The pictures in which the stand-in for the detector finds nothing.
FACELESS = ["Person_B/Person_B_0002.jpg", "Person_G/Person_G_0003.jpg"]


def pairs_text(header: str, folds: list[list[str]]) -> str:
    """A list whose fold has two same pairs and two different ones of the people given."""
    lines = [header]
    for first, second in folds:
        lines += [f"{first}\t1\t2", f"{second}\t2\t3"]
        lines += [f"{first}\t3\t{second}\t1", f"{first}\t2\t{second}\t2"]
    return "\n".join(lines) + "\n"


LISTS = {
    "pairs.txt": pairs_text("4\t2", [PEOPLE[i : i + 2] for i in (0, 2, 4, 6)]),
    "pairsDevTrain.txt": pairs_text("2", [PEOPLE[:2]]),
    "pairsDevTest.txt": pairs_text("2", [PEOPLE[4:6]]),
}


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """A small LFW of random pictures: lists and people's folders one folder down."""
    root = tmp_path / "data" / "lfw-small"
    random = np.random.default_rng(3)
    for name in PICTURES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / name), random.integers(0, 256, (20, 20, 3), np.uint8))
    for name, text in LISTS.items():
        (root / name).write_text(text)
    return root.parent


def pack(folder: pathlib.Path) -> pathlib.Path:
    path = folder.parent / "lfw-small.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder))
        archive.writestr("__MACOSX/lfw-small/._pairs.txt", "junk")
    return path


class KnownFaces:
    """Stands in for the embedder: every picture has a number, and that number an embedding."""

    detector_name = "a known detector"

    def __init__(self, root: pathlib.Path, dim: int = 6) -> None:
        random = np.random.default_rng(5)
        self.number = {(root / name).read_bytes(): at for at, name in enumerate(PICTURES)}
        identity = np.repeat(random.normal(size=(len(PEOPLE), dim)), 3, axis=0)
        self.table = identity + 0.9 * random.normal(size=identity.shape) + 1.5
        self.centre_table = random.normal(size=identity.shape)
        self.cropped: list[str] = []
        self.mirrors: set[str] = set()

    def crop(self, source: bytes, name: str) -> np.ndarray:
        self.cropped.append(name)
        assert PICTURES[self.number[source]] == name
        if name in FACELESS:
            raise NoFaceError(name)
        return np.full((112, 96, 3), self.number[source], np.uint8)

    def centre_crop(self, source: bytes) -> np.ndarray:
        return np.full((112, 96, 3), 100 + self.number[source], np.uint8)

    def embed_crops(self, crops: np.ndarray, mirror: str, normalize: bool) -> np.ndarray:
        assert crops.dtype == np.uint8
        assert not normalize
        self.mirrors.add(mirror)
        return np.stack([self.embedding(int(crop[0, 0, 0])) for crop in crops])

    def embedding(self, code: int) -> np.ndarray:
        table = self.table if code < 100 else self.centre_table
        return table[code % 100].astype(np.float32)


def wanted_arrays(faces: KnownFaces, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings and truth straight from the list, without the code under test."""
    first: list[np.ndarray] = []
    second: list[np.ndarray] = []
    same = []
    for line in LISTS[name].splitlines()[1:]:
        fields = line.split("\t")
        one, other = (
            (fields[0], fields[1]),
            (fields[-2] if len(fields) == 4 else fields[0], fields[-1]),
        )
        same.append(one[0] == other[0])
        for side, (person, number) in ((first, one), (second, other)):
            picture = f"{person}/{person}_000{number}.jpg"
            code = PICTURES.index(picture) + 100 * (picture in FACELESS)
            side.append(faces.embedding(code))
    return np.array(first), np.array(second), np.array(same)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
@pytest.mark.parametrize("subtract", [False, True])
def test_view_2_is_the_k_fold_of_the_list(
    folder: pathlib.Path, packed: bool, subtract: bool
) -> None:
    faces = KnownFaces(folder / "lfw-small")
    source = pack(folder) if packed else folder
    result = lfw(faces, source, subtract_mean=subtract)
    first, second, same = wanted_arrays(faces, "pairs.txt")
    wanted = kfold_accuracy(first, second, same, np.repeat(np.arange(4), 4), subtract)
    np.testing.assert_array_equal(result.similarities, wanted.similarities)
    np.testing.assert_array_equal(result.same, same)
    np.testing.assert_array_equal(result.folds, wanted.accuracies)
    np.testing.assert_array_equal(result.thresholds, wanted.thresholds)
    assert (result.accuracy, result.std) == (wanted.accuracy, wanted.std)
    assert result.auc == metrics.auc(wanted.similarities, same)
    assert result.eer == metrics.eer(wanted.similarities, same)
    # Two people meet in each fold, and nobody in two folds.
    groups, limits = np.repeat(np.arange(4), 4), result.pair_thresholds
    drawn = bootstrap_intervals(result.similarities, same, groups=groups, thresholds=limits)
    assert {"accuracy", "auc", "eer"} < result.intervals.keys() == drawn.intervals.keys()
    for name, interval in drawn.intervals.items():
        np.testing.assert_array_equal(result.intervals[name], interval)
    assert result.intervals["auc"][0] < result.auc < result.intervals["auc"][1]
    assert (result.name, result.pairs, result.pictures) == ("LFW view 2", 16, 24)
    assert faces.cropped == sorted(PICTURES)
    assert faces.mirrors == {"concat"}


def test_view_1_fits_on_dev_train_and_judges_dev_test(folder: pathlib.Path) -> None:
    faces = KnownFaces(folder / "lfw-small")
    result = lfw(faces, folder, view=1, mirror="sum")
    parts = zip(
        wanted_arrays(faces, "pairsDevTrain.txt"),
        wanted_arrays(faces, "pairsDevTest.txt"),
        strict=True,
    )
    first, second, same = (np.concatenate(part) for part in parts)
    wanted = split_accuracy(first, second, same, np.arange(8) < 4)
    np.testing.assert_array_equal(result.similarities, wanted.similarities)
    assert result.same.tolist() == [True, True, False, False]
    assert (result.accuracy, result.thresholds.tolist()) == (wanted.accuracy, [wanted.threshold])
    assert math.isnan(result.std)
    assert (result.pairs, result.pictures) == (4, 12)
    assert faces.mirrors == {"sum"}
    assert result.no_face == FACELESS[:1]
    assert result.protocol == (
        "LFW view 1, 4 pairs (2 same) fitted on pairsDevTrain.txt, pairsDevTest.txt of data, "
        "12 photographs, faces found by a known detector and aligned to the 96x112 template "
        "(width x height), the centre crop where there was none (1 pictures); none dropped; the "
        "embeddings of a crop and of its mirror image are added; mean embedding of "
        "pairsDevTrain.txt subtracted, L2 normalisation, cosine; the most accurate threshold on "
        "pairsDevTrain.txt decides; intervals: 95 % bootstrap of 1 groups of pairs that share "
        "nobody, thresholds fixed."
    )


def test_the_protocol_says_what_was_done(folder: pathlib.Path) -> None:
    faces = KnownFaces(folder / "lfw-small")
    assert lfw(faces, folder / "lfw-small").protocol == (
        "LFW view 2, 16 pairs (8 same) in 4 folds, pairs.txt of lfw-small, 24 photographs, "
        "faces found by a known detector and aligned to the 96x112 template (width x "
        "height), the centre crop where there was none (2 pictures); none dropped; the "
        "embeddings of a crop and of its mirror image are concatenated; mean embedding of the "
        "other folds' pairs subtracted, L2 normalisation, cosine; the most accurate threshold on "
        "the other folds' pairs decides each fold; accuracy is the mean of the folds, ± their "
        "sample standard deviation; AUC, EER and TAR@FAR pool the cosines that the pairs have in "
        "their own test fold; intervals: 95 % bootstrap of 4 groups of pairs that share nobody, "
        "thresholds fixed."
    )
    faces.detector_name = "another"
    other = lfw(faces, folder, mirror="none", subtract_mean=False).protocol
    assert "found by another and" in other
    assert "; no mirror image; no mean subtracted, L2 normalisation, cosine;" in other


def test_it_prints_the_pictures_without_a_face(folder: pathlib.Path) -> None:
    result = lfw(KnownFaces(folder / "lfw-small"), folder)
    assert f"\nPictures without a face: {', '.join(FACELESS)}\n" in str(result)
    assert result.to_dict()["no_face"] == FACELESS
    assert max(map(len, str(result).splitlines()[:-1])) <= 100


def test_batches_change_nothing_and_report_progress(
    folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = lfw(KnownFaces(folder / "lfw-small"), folder)
    monkeypatch.setattr(shared, "_BATCH", 10)
    faces = KnownFaces(folder / "lfw-small")
    steps: list[tuple[int, int]] = []
    parts = lfw(faces, folder, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(10, 24), (20, 24), (24, 24)]
    assert faces.cropped == sorted(PICTURES)
    assert parts.to_dict() == whole.to_dict()


def test_pairs_are_read_in_order_with_their_fold(folder: pathlib.Path) -> None:
    pairs = read_pairs(folder)
    assert len(pairs) == 16
    assert pairs[1] == ("Person_B/Person_B_0002.jpg", "Person_B/Person_B_0003.jpg", True, 0)
    assert pairs[14] == ("Person_G/Person_G_0003.jpg", "Person_H/Person_H_0001.jpg", False, 3)
    assert read_pairs(pack(folder)) == pairs
    assert {pair.fold for pair in read_pairs(folder, "pairsDevTrain.txt")} == {0}


def test_lists_may_lie_beside_the_pictures_folder(folder: pathlib.Path) -> None:
    before = lfw(KnownFaces(folder / "lfw-small"), folder)
    for name in LISTS:
        shutil.move(folder / "lfw-small" / name, folder / name)
    faces = KnownFaces(folder / "lfw-small")
    np.testing.assert_array_equal(lfw(faces, folder).similarities, before.similarities)


def test_other_line_ends_a_byte_order_mark_and_blank_ends_are_fine(tmp_path: pathlib.Path) -> None:
    (tmp_path / "pairs.txt").write_bytes(b"\xef\xbb\xbf1\r\nA\t1\t2\r\nA\t3\tB\t10\r\n\r\n\r\n")
    assert read_pairs(tmp_path) == [
        ("A/A_0001.jpg", "A/A_0002.jpg", True, 0),
        ("A/A_0003.jpg", "B/B_0010.jpg", False, 0),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Line 1 of pairs.txt of list: expected the number of folds and .* Received: ''. Use"),
        ("ten 300\n", "Line 1 of .*Received: 'ten 300'. Use the list as LFW publishes it."),
        ("0\n", "Line 1 of .*Received: '0'"),
        ("1 2 3\n", "Line 1 of .*Received: '1 2 3'"),
        ("1 1\nA 1 2\n", "pairs.txt of list: line 1 announces 2 pairs. Received: 1 lines after it"),
        ("1\nA 1\nA 1 B 1\n", "Line 2 of .*: expected `Name 1 4` .one person.*Received: 'A 1'. Us"),
        ("1\nA 1 x\nA 1 B 1\n", "Line 2 of .*Received: 'A 1 x'"),
        ("1\nA 0 2\nA 1 B 1\n", "Line 2 of .*Received: 'A 0 2'"),
        ("1\nA 2 2\nA 1 B 1\n", "Line 2 of .*Received: 'A 2 2'"),
        ("1\nA 1 A 2\nA 1 B 1\n", "Line 2 of .*Received: 'A 1 A 2'"),
        ("1\nA 1 B 1\nA 1 2\n", "Line 2 of .*: expected `Name 1 4`.*Received: 'A 1 B 1'"),
        ("1\nA 1 2\nA 1 3\n", "Line 3 of .*: expected `Name 1 Other 2`. Received: 'A 1 3'"),
        ("1\nA 1 2\nA 1 A 3\n", "Line 3 of .*Received: 'A 1 A 3'"),
        ("1\nA 1 2\n\nA 1 B 3\n", "line 1 announces 2 pairs. Received: 3 lines after it"),
        ("1\n" + "A" * 99 + "\nA 1 B 1\n", "Received: 'A{77}\\.\\.\\.'"),
    ],
)
def test_a_malformed_list_names_its_line(tmp_path: pathlib.Path, text: str, message: str) -> None:
    root = tmp_path / "list"
    root.mkdir()
    (root / "pairs.txt").write_text(text)
    with pytest.raises(DataError, match=message):
        read_pairs(root)


def test_a_missing_source_list_or_picture_is_named(folder: pathlib.Path) -> None:
    faces = KnownFaces(folder / "lfw-small")
    with pytest.raises(DataError, match=r"Received: .*nowhere \(.*\). Pass the path of lfw-deepfu"):
        read_pairs(folder / "nowhere")
    with pytest.raises(DataError, match=r"Received: .*pairs.txt \(File is not a zip file\)"):
        read_pairs(folder / "lfw-small" / "pairs.txt")
    (folder / "lfw-small" / PICTURES[4]).unlink()
    (folder / "lfw-small" / PICTURES[9]).unlink()
    message = "data lacks 2 of 24 wanted files, the first Person_B/Person_B_0002.jpg. Expected LFW"
    with pytest.raises(DataError, match=message):
        lfw(faces, folder)
    assert faces.cropped == []
    text = (folder / "lfw-small" / "pairs.txt").read_text()
    first = [*text.splitlines()[1:]]
    count = int(text.split()[1])
    (folder / "lfw-small" / "pairs.txt").write_text("\n".join([f"{count}", *first[: 2 * count]]))
    with pytest.raises(DataError, match="pairs.txt of .*data has 1 fold; a fold's threshold is ch"):
        lfw(faces, folder)
    assert faces.cropped == []
    (folder / "lfw-small" / "pairsDevTest.txt").unlink()
    with pytest.raises(DataError, match="lacks 1 of 1 wanted files, the first pairsDevTest"):
        lfw(faces, folder, view=1)


def test_two_copies_are_refused(folder: pathlib.Path) -> None:
    shutil.copytree(folder / "lfw-small", folder / "lfw-twin")
    message = "holds pairs.txt more than once: lfw-small/pairs.txt, lfw-twin/pairs.txt. Point to a"
    with pytest.raises(DataError, match=message):
        read_pairs(folder)


def test_a_damaged_zip_is_named(folder: pathlib.Path) -> None:
    path = pack(folder)
    content = bytearray(path.read_bytes())
    content[content.index(b"Person_A\t1\t2")] ^= 0xFF  # breaks the list's checksum
    path.write_bytes(content)
    message = r"pairs.txt of lfw-small.zip cannot be read: Bad CRC-32 .* Fetch the data again."
    with pytest.raises(DataError, match=message):
        read_pairs(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_with_any_byte_changed_is_read_or_refused(
    tmp_path: pathlib.Path, method: int
) -> None:
    path = tmp_path / "lfw.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("lfw/pairs.txt", "1 1\nAnn\t1\t2\nAnn\t1\tBob\t1\n")
    whole, refused = path.read_bytes(), 0
    for at in range(len(whole)):
        for mask in (0x01, 0x80, 0xFF):
            damaged = bytearray(whole)
            damaged[at] ^= mask
            path.write_bytes(damaged)
            try:
                assert len(read_pairs(path)) == 2
            except DataError:
                refused += 1
    assert refused > len(whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"view": 3}, "Expected view 1 or 2. Received: view=3. Call `lfw"),
        ({"mirror": "flip"}, "\"concat\". Received: mirror='flip'."),
    ],
)
def test_unknown_options_are_refused(folder: pathlib.Path, options: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        lfw(KnownFaces(folder / "lfw-small"), folder, **options)


def test_the_published_lists() -> None:
    source = DATA / "lfw-deepfunneled.zip"
    if not source.exists():
        pytest.skip(f"{source} is missing; set SPHEREKERAS_DATA to the folder that holds it")
    pairs = read_pairs(source)
    assert [sum(pair.fold == fold and pair.same for pair in pairs) for fold in range(10)] == [
        300
    ] * 10
    assert len(pairs) == 6000
    assert len({name for pair in pairs for name in (pair.first, pair.second)}) == 7701
    people = [
        {name.split("/")[0] for pair in pairs if pair.fold == fold for name in pair[:2]}
        for fold in range(10)
    ]
    assert all(not one & other for one, other in itertools.combinations(people, 2))
    assert len(read_pairs(source, "pairsDevTrain.txt")) == 2200
    assert len(read_pairs(source, "pairsDevTest.txt")) == 1000
