import json
import pathlib
import re
import types
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from spherekeras.data import alignment
from spherekeras.errors import DataError, ImageError
from spherekeras.evaluation import (
    MediaList,
    ijb,
    ijb_identification,
    ijb_verification,
    read_media_list,
    read_subjects,
    read_template_pairs,
)
from spherekeras.evaluation import crops as shared
from spherekeras.evaluation.templates import (
    pool_templates,
    template_identification,
    template_verification,
)

RANDOM = np.random.default_rng(14)
# As NIST's lists of IJB-C have them.
COLUMNS = "TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"


def nist(lines: list[str], columns: str = COLUMNS) -> str:
    return "\n".join([columns, *(line + ",1,2,3,4" for line in lines)]) + "\n"


@pytest.fixture
def write(tmp_path: pathlib.Path) -> Callable[[str, str], pathlib.Path]:
    def to_file(name: str, text: str) -> pathlib.Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return to_file


Write = Callable[[str, str], pathlib.Path]


def test_media_are_read_from_both_packages(write: Write) -> None:
    plain = write("a_face_tid_mid.txt", "1.jpg 1 69544\r\n2.jpg 1 69544\r\n3.jpg 15 7\r\n\r\n")
    assert read_media_list(plain).files == ["1.jpg", "2.jpg", "3.jpg"]
    assert read_media_list(plain).template_ids.tolist() == [1, 1, 15]
    assert read_media_list(plain).media_ids.tolist() == [69544, 69544, 7]
    lines = ["7,1,img/1.jpg,30", "7,1,frames/2_1.png,31", "7,1,frames/2_2.png,31"]
    first = write("g1.csv", nist(lines))
    second = write("g2.csv", nist(['8,2,"img/a, b.jpg",9']))
    found = read_media_list(first, second)
    assert found.files == ["img/1.jpg", "frames/2_1.png", "frames/2_2.png", "img/a, b.jpg"]
    assert found.template_ids.tolist() == [7, 7, 7, 8]
    assert found.media_ids.tolist() == [30, 31, 31, 9]
    # Columns are found by their names, with the older name of the file's too.
    turned = write("old.csv", "sighting_id , FILE,TEMPLATE_ID\n5,a.jpg,4\n")
    assert read_media_list(turned) == (["a.jpg"], np.array([4]), np.array([5]))


def test_subjects_are_read(write: Write) -> None:
    first = write("g1.csv", nist(["7,1,img/1.jpg,30", "7,1,img/2.jpg,31", "9,2,img/3.jpg,32"]))
    second = write("probe.csv", "SUBJECT_ID,TEMPLATE_ID\n5,11\n")
    assert read_subjects(first, second) == {7: 1, 9: 2, 11: 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1.jpg 1\n", r"Line 1 of .*list: expected `1.jpg 1 69544` \(file, template, medium\). Re"),
        ("1.jpg 1 2\n2.jpg x 2\n", "Line 2 of .*Received: '2.jpg x 2'. Use the list as it is publ"),
        ("1.jpg 1 2\n\n2.jpg 1 2\n", "Line 2 of .*Received: ''"),
        ("1.jpg 1 -2\n", "Line 1 of "),
        ("1.jpg 1 2.0\n", "Line 1 of "),
        ("1.jpg 1 9999999999999999999\n", "Line 1 of "),
        ("a" * 99 + "\n", "Received: 'a{77}\\.\\.\\.'"),
        ("TEMPLATE_ID,FILENAME\n", "Line 1 of .*names FILENAME, TEMPLATE_ID, SIGHTING_ID. Receive"),
        (
            nist(["7,1,img/1.jpg"]),
            "Line 2 of .*: expected a file and whole numbers .*Received: '7,",
        ),
        (nist(["7,1,img/1.jpg,30", "7,1,img/1.jpg,x"]), "Line 3 of "),
        (nist(["7,1,,30"]), "Line 2 of "),
        (nist(["nan,1,img/1.jpg,30"]), "Line 2 of "),
        (nist(["7,1," + "a" * 200_000 + ",30"]), "Line 2 of "),
    ],
)
def test_a_malformed_media_list_names_its_line(write: Write, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_media_list(write("list", text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Line 1 of .*columns with the names TEMPLATE_ID, SUBJECT_ID. Received: nothing. Use"),
        ("7,1\n", "Received: 7, 1. Use the list"),
        ("TEMPLATE_ID,SUBJECT_ID\n7\n", "Line 2 of .*whole numbers as template and subject.*'7'"),
        ("TEMPLATE_ID,SUBJECT_ID\n7,a\n", "Line 2 of "),
        (
            "TEMPLATE_ID,SUBJECT_ID\n7,1\n7,2\n",
            "Line 3 of .*: expected one subject for template 7, which was 1. Received: '7,2'",
        ),
    ],
)
def test_malformed_subjects_name_their_line(write: Write, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_subjects(write("list.csv", text))


def test_files_that_are_no_lists_are_named(tmp_path: pathlib.Path) -> None:
    (tmp_path / "list").write_bytes(b"\xff\xd8\xff")
    for read in (read_media_list, read_subjects):
        with pytest.raises(DataError, match="cannot be read as a list: .*No such file"):
            read(tmp_path / "nothing")
        with pytest.raises(DataError, match="list cannot be read as a list: 'utf-8' codec"):
            read(tmp_path / "list")
    for name in ("nothing", "list"):
        with pytest.raises(DataError, match=f"{name} cannot be read as pairs of templates: "):
            read_template_pairs(tmp_path / name)


def test_pairs_with_labels_and_without(write: Write) -> None:
    labelled = read_template_pairs(write("a.txt", "1 11065 1\n1 11066 0\n\n"))
    assert [each.tolist() for each in labelled] == [[1, 1], [11065, 11066], [True, False]]
    bare = write("b.csv", "1,11065\n1,11066\n2,11066\n")
    found = read_template_pairs(bare, {1: 5, 2: 6, 11065: 5, 11066: 6})
    assert [each.tolist() for each in found] == [
        [1, 1, 2],
        [11065, 11066, 11066],
        [True, False, True],
    ]
    message = "has no labels, and the subjects of 2 of its templates are not known, the first 2. P"
    with pytest.raises(DataError, match=message):
        read_template_pairs(bare, {1: 5, 11065: 5})
    with pytest.raises(DataError, match="the subjects of 4 of its templates are not known"):
        read_template_pairs(bare)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "",
            "pairs cannot be read as pairs of templates: its first line is empty. Expected `1 110",
        ),
        ("1 2 x\n", "cannot be read as pairs of templates: could not convert string 'x' to int64 "),
        ("1 2 1\n1 2\n", "cannot be read as pairs of templates: .*columns changed from 3 to 2"),
        ("1 2 1.5\n", "could not convert"),
        ("1 2 3\n", "pairs has 3 columns, or labels other than 0 and 1. Expected `1 11065 1`"),
        ("1 2 0 0\n", "pairs has 4 columns"),
        ("1\n", "pairs has 1 columns"),
    ],
)
def test_malformed_pairs_are_refused(write: Write, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_template_pairs(write("pairs", text), {1: 1, 2: 1})


# Six subjects; template 10 s is a gallery's, 10 s + 1 and 10 s + 2 are probes.
SUBJECTS = {10 * subject + kind: subject for subject in range(1, 7) for kind in range(3)}
GALLERIES = {
    "G1": {t: s for t, s in SUBJECTS.items() if t % 10 == 0 and s < 3},
    "G2": {t: s for t, s in SUBJECTS.items() if t % 10 == 0 and s >= 3},
}
PROBES = {t: s for t, s in SUBJECTS.items() if t % 10}
PAIRS = [(a, b) for a in SUBJECTS if a % 10 == 0 for b in PROBES]


def media() -> MediaList:
    """Three pictures a template; the last two of each are frames of one video."""
    ids = RANDOM.permutation(np.repeat(list(SUBJECTS), 3))
    count = dict.fromkeys(SUBJECTS, 0)
    of = []
    for template in ids.tolist():
        count[template] += 1
        of.append(template * 10 + min(count[template], 2))
    return MediaList([f"{place}.png" for place in range(len(ids))], ids, np.array(of))


def test_the_lists_give_what_the_arrays_do(write: Write) -> None:
    listed = media()
    centres = np.random.default_rng(2).normal(size=(7, 5))
    subjects = [SUBJECTS[each] for each in listed.template_ids.tolist()]
    embeddings = centres[subjects] + RANDOM.normal(size=(len(subjects), 5))
    weights = RANDOM.random(len(subjects))
    pairs = read_template_pairs(write("m.csv", "".join(f"{a},{b}\n" for a, b in PAIRS)), SUBJECTS)
    pooled = pool_templates(embeddings, listed.template_ids, listed.media_ids, weights)
    wanted = template_verification(
        pooled,
        [a for a, _ in PAIRS],
        [b for _, b in PAIRS],
        [SUBJECTS[a] == SUBJECTS[b] for a, b in PAIRS],
        [0.1, 0.02],
    )
    ours = ijb_verification(embeddings, listed, pairs, weights, [0.1, 0.02], how="drawn")
    assert ours.points == wanted.points
    assert "; drawn; a template is the mean over its media of the means of their embeddings " in (
        ours.protocol
    )
    assert "embeddings times their weights; cosine" in ours.protocol
    assert "embeddings; cosine" in ijb_verification(embeddings, listed, pairs).protocol

    def chosen(subjects: dict[int, int]) -> tuple:
        place = np.searchsorted(pooled.ids, sorted(subjects))
        rows = type(pooled)(pooled.ids[place], pooled.embeddings[place])
        return rows, [subjects[each] for each in sorted(subjects)]

    each = {name: chosen(gallery) for name, gallery in GALLERIES.items()}
    expected = template_identification(*chosen(PROBES), each, [1, 2], [0.25])
    # The order in which a list names its templates is of no account.
    turned = dict(reversed(PROBES.items()))
    found = ijb_identification(embeddings, listed, turned, GALLERIES, weights, [1, 2], [0.25])
    assert (found.ranks, found.fnir) == (expected.ranks, expected.fnir)
    assert found.galleries == expected.galleries
    assert (found.galleries["G1"].mated, found.galleries["G2"].nonmated) == (4, 4)


def test_a_template_without_pictures_is_named() -> None:
    listed = MediaList(["a", "b"], np.array([1, 2]), np.array([1, 2]))
    message = "Received: none of 2 of 3 templates, the first 3. Pass a media list with the pictures"
    with pytest.raises(DataError, match=message):
        ijb_identification(np.eye(2), listed, {1: 1, 3: 2, 4: 2}, {"G1": {2: 1}})
    with pytest.raises(DataError, match="Received: none of 0 of 0 templates. Pass"):
        ijb_identification(np.eye(2), listed, {1: 1}, {"G1": {}})


class PixelFaces:
    """Stands in for the embedder: the embedding is some of the crop's pixels."""

    config = types.SimpleNamespace(template="sphereface_112x96")

    def __init__(self) -> None:
        self.seen: list[np.ndarray] = []

    def embed_crops(self, crops: np.ndarray, mirror: str, normalize: bool) -> np.ndarray:
        assert mirror == "sum" and not normalize
        self.seen.append(crops)
        return crops[:, 20::30, 10::25].reshape(len(crops), -1).astype(np.float32) - 100


@pytest.fixture
def package(write: Write, tmp_path: pathlib.Path) -> pathlib.Path:
    """A small package as insightface's: pictures, landmarks, lists."""
    listed = media()
    folder = tmp_path / "IJBC"
    points = np.array([[38, 52], [74, 52], [56, 72], [42, 92], [71, 92]], np.float64)
    lines = []
    (folder / "loose_crop").mkdir(parents=True)
    for file, template in zip(listed.files, listed.template_ids.tolist(), strict=True):
        coarse = np.random.default_rng(SUBJECTS[template]).integers(0, 256, (8, 8, 3))
        coarse = np.clip(coarse + RANDOM.integers(-150, 151, coarse.shape), 0, 255)
        picture = np.kron(coarse, np.ones((16, 16, 1))).astype(np.uint8)
        assert cv2.imwrite(str(folder / "loose_crop" / file), picture)
        moved = points + RANDOM.normal(size=(5, 2))
        numbers = " ".join(f"{value:.3f}" for value in moved.ravel())
        lines.append(f"{file} {numbers} {RANDOM.random():.3f}")
    columns = zip(*listed, strict=True)
    write("IJBC/meta/ijbc_name_5pts_score.txt", "\n".join(lines) + "\n")
    write("IJBC/meta/ijbc_face_tid_mid.txt", "".join(f"{f} {t} {m}\n" for f, t, m in columns))
    pairs = "".join(f"{a} {b} {int(SUBJECTS[a] == SUBJECTS[b])}\n" for a, b in PAIRS)
    write("IJBC/meta/ijbc_template_pair_label.txt", pairs)
    for name, subjects in {
        **{f"gallery_{n}": g for n, g in GALLERIES.items()},
        "probe_mixed": PROBES,
    }.items():
        text = nist([f"{t},{s},img/x.jpg,1" for t, s in subjects.items()])
        write(f"IJBC/meta/ijbc_1N_{name}.csv", text)
    return folder


def test_a_whole_package(package: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_BATCH", 20)
    faces = PixelFaces()
    steps: list[tuple[int, int]] = []
    result = ijb(faces, package, progress=lambda done, total: steps.append((done, total)))
    assert steps == [(20, 54), (40, 54), (54, 54)]
    crops, scores = [], []
    for line in (package / "meta/ijbc_name_5pts_score.txt").read_text().splitlines():
        name, *numbers = line.split()
        picture = cv2.imread(str(package / "loose_crop" / name))[..., ::-1]
        points = np.array(numbers[:10], float).reshape(5, 2)
        crops.append(alignment.align(np.ascontiguousarray(picture), points, "sphereface_112x96"))
        scores.append(float(numbers[10]))
    np.testing.assert_array_equal(np.concatenate(faces.seen), crops)
    embeddings = PixelFaces().embed_crops(np.array(crops), "sum", False)
    listed = read_media_list(package / "meta/ijbc_face_tid_mid.txt")
    pairs = read_template_pairs(package / "meta/ijbc_template_pair_label.txt")
    assert result.verification.points == ijb_verification(embeddings, listed, pairs, scores).points
    wanted = ijb_identification(embeddings, listed, PROBES, GALLERIES, scores)
    assert result.identification is not None
    assert result.identification.ranks == wanted.ranks
    assert list(result.identification.galleries) == ["G1", "G2"]
    assert (
        "; 54 pictures of IJBC aligned by its landmarks to sphereface_112x96; the embeddings of a "
        "crop and of its mirror image are added, none normalised; a template is"
    ) in result.verification.protocol
    text = str(result)
    assert str(result.verification) in text and str(result.identification) in text
    values = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert values["identification"]["ranks"]["1"] == wanted.ranks[1]


def test_the_protocol_tells_of_embeddings_that_come_with_unit_length(package: pathlib.Path) -> None:
    faces = PixelFaces()
    faces.unit_parts = True
    protocol = ijb(faces, package).verification.protocol
    assert "are added, each of unit length; a template is" in protocol


def test_a_package_for_verification_alone(package: pathlib.Path) -> None:
    for path in (package / "meta").glob("*_1N_*"):
        path.unlink()
    result = ijb(PixelFaces(), package)
    assert result.identification is None and result.to_dict()["identification"] is None
    assert str(result) == str(result.verification)


def test_a_package_that_lacks_something_is_named(package: pathlib.Path) -> None:
    faces, meta = PixelFaces(), package / "meta"
    landmarks = meta / "ijbc_name_5pts_score.txt"
    text = landmarks.read_text()
    for broken, message in (
        (text.splitlines()[0], "54 and 1 lines that do not. Use the lists of one package"),
        (text.replace(" ", ",", 1), "Line 1 of .*: expected a file, five points x y and a score"),
        (text.replace(" ", " nan ", 1), "Line 1 of "),
        (text.replace("0.png", "../../0.png", 1), "Line 1 of "),
        (text.replace("0.png", "/etc/0.png", 1), "Line 1 of "),
    ):
        landmarks.write_text(broken)
        with pytest.raises(DataError, match=message):
            ijb(faces, package)
    landmarks.write_text(text)
    picture = package / "loose_crop" / "30.png"
    picture.rename(package / "30.png")
    with pytest.raises(DataError, match="loose_crop lacks 1 of 54 pictures, the first 30.png. Un"):
        ijb(faces, package)
    (package / "30.png").rename(picture)
    for name in ("ijbc_template_pair_label.txt", "ijbc_1N_gallery_G2.csv"):
        whole = (meta / name).read_text()
        last = whole.splitlines()[-1]
        other = re.sub(r"^\d+", "777", last)
        (meta / name).write_text(f"{whole.rstrip()}\n{other}\n")
        with pytest.raises(DataError, match="none of 1 of .* templates, the first 777. Pass a med"):
            ijb(faces, package)
        (meta / name).write_text(whole)
    landmarks.write_text(re.sub(r" ([\d.]+)$", r" -\1", text, count=1, flags=re.M))
    with pytest.raises(DataError, match="Line 1 of .*five points x y and a score from 0"):
        ijb(faces, package)
    landmarks.write_text(text)
    picture.write_bytes(b"no picture")
    with pytest.raises(ImageError, match="30.png is not a picture"):
        ijb(faces, package)
    (meta / "ijbc_1N_probe_mixed.csv").unlink()
    with pytest.raises(
        DataError, match=r"Expected one \*_1N_probe_mixed.csv in .*meta. Received: 0"
    ):
        ijb(faces, package)
    (meta / "ijbb_face_tid_mid.txt").write_text("a 1 1\n")
    with pytest.raises(
        DataError, match=r"Expected one \*_face_tid_mid.txt in .*Received: 2. Point"
    ):
        ijb(faces, package)
