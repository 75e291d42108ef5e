"""Records: equal content gives equal bytes, damage is found and named, other readers can read."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

import cv2
import numpy as np
import pytest

from spherekeras.data.records import fingerprint, open_records, pack
from spherekeras.errors import DataError


@pytest.fixture
def crops(tmp_path: pathlib.Path) -> pathlib.Path:
    rng = np.random.default_rng(0)
    for person, count in (("ann", 3), ("bob", 2), ("cyd", 4)):
        (tmp_path / "crops" / person).mkdir(parents=True)
        for number in range(count):
            picture = rng.integers(0, 256, (24, 20, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "crops" / person / f"{number}.png"), picture)
    return tmp_path / "crops"


def test_pictures_come_back_with_their_labels(crops: pathlib.Path, tmp_path: pathlib.Path) -> None:
    records = pack(crops, tmp_path / "records")
    assert (len(records), records.identities) == (9, ["ann", "bob", "cyd"])
    assert records.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert (records.height, records.width, records.skipped) == (24, 20, [])
    assert records.read([4, 0]) == [
        (crops / "bob" / "1.png").read_bytes(),
        (crops / "ann" / "0.png").read_bytes(),
    ]
    wanted = cv2.imread(str(crops / "cyd" / "3.png"))[..., ::-1]
    np.testing.assert_array_equal(records.crops([8])[0], wanted)


def test_tensorflow_reads_the_shards_as_plain_tfrecord(
    crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    import tensorflow as tf

    pack(crops, tmp_path / "records")
    shard = tmp_path / "records" / "shard-00000.tfrecord"
    people = []
    for raw in tf.data.TFRecordDataset(str(shard)):
        features = tf.train.Example.FromString(raw.numpy()).features.feature
        people.append(features["identity"].bytes_list.value[0].decode())
        assert features["image"].bytes_list.value[0].startswith(b"\x89PNG")
    assert people == ["ann"] * 3 + ["bob"] * 2 + ["cyd"] * 4


def test_a_zip_and_its_folder_give_the_same_bytes(
    crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with zipfile.ZipFile(tmp_path / "crops.zip", "w") as archive:
        for path in sorted(crops.rglob("*.png"), reverse=True):
            archive.write(path, pathlib.Path("set") / path.relative_to(crops))
    one = pack(crops, tmp_path / "one")
    other = pack(tmp_path / "crops.zip", tmp_path / "other")
    assert one.checksum == other.checksum
    for name in ("records.json", "index.npz", "shard-00000.tfrecord"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_bad_pictures_are_listed_and_nothing_else_is_lost(
    crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (crops / "ann" / "text.jpg").write_text("no picture")
    (crops / "bob" / "empty.jpg").write_bytes(b"")
    cv2.imwrite(str(crops / "cyd" / "wide.png"), np.zeros((24, 30, 3), np.uint8))
    records = pack(crops, tmp_path / "records")
    assert len(records) == 9
    reasons = {pathlib.Path(s["picture"]).name: s["reason"] for s in records.skipped}
    assert set(reasons) == {"text.jpg", "empty.jpg", "wide.png"}
    assert "is 24x30, most are 24x20" in reasons["wide.png"]
    assert open_records(tmp_path / "records").skipped == records.skipped


@pytest.mark.parametrize("name", ["shard-00000.tfrecord", "index.npz"])
def test_a_flipped_byte_is_found_and_named(
    crops: pathlib.Path, tmp_path: pathlib.Path, name: str
) -> None:
    pack(crops, tmp_path / "records")
    path = tmp_path / "records" / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=f"{name} does not match its checksum. Delete"):
        open_records(tmp_path / "records")
    path.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        open_records(tmp_path / "records")


def test_a_killed_run_is_written_anew(crops: pathlib.Path, tmp_path: pathlib.Path) -> None:
    whole = pack(crops, tmp_path / "records").checksum
    (tmp_path / "records" / "records.json").unlink()
    (tmp_path / "records" / "shard-00007.tfrecord").write_bytes(b"of another run")
    with pytest.raises(DataError, match=r"not a finished records folder.*spherekeras pack CROPS"):
        open_records(tmp_path / "records")
    assert pack(crops, tmp_path / "records").checksum == whole
    files = json.loads((tmp_path / "records" / "records.json").read_text())["files"]
    assert set(files) == {"index.npz", "shard-00000.tfrecord"}
    assert not (tmp_path / "records" / "shard-00007.tfrecord").exists()


KILLED = """
import contextlib, os, pathlib, random, signal, sys
import tensorflow
from spherekeras.data import records

source, out, seed = sys.argv[1:]
records._SHARD = 7
records.pack(source, out + "-whole")
chance = random.Random(int(seed))
(began, begin), (allowed, allow) = os.pipe(), os.pipe()
whole = records.atomic_path

@contextlib.contextmanager
def step_by_step(path):  # every file waits for leave, so the parent knows which one a kill meets
    with whole(path) as temporary:
        os.write(begin, b".")
        os.read(allowed, 1)
        yield temporary

for _ in range(12):
    child = os.fork()
    if not child:
        records.atomic_path = step_by_step
        records.pack(source, out)
        os._exit(0)
    for _ in range(chance.randrange(31)):
        os.read(began, 1)
        os.write(allow, b".")
    os.read(began, 1)
    if chance.random() < 0.5:
        os.write(allow, b".")  # killed while or after it writes, else before
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    for pipe in (began, allowed):  # what neither of them read
        os.set_blocking(pipe, False)
        with contextlib.suppress(BlockingIOError):
            os.read(pipe, 99)
        os.set_blocking(pipe, True)
    left = sorted(path.name for path in pathlib.Path(out).glob("*"))
    print(len([name for name in left if name.startswith("shard")]), "records.json" in left)
    try:
        records.open_records(out)
    except records.DataError as error:
        assert "is not a finished records folder" in str(error), error
records.pack(source, out)
"""


def test_a_run_killed_at_any_moment_and_run_again_gives_the_same_bytes(
    tmp_path: pathlib.Path,
) -> None:
    rng = np.random.default_rng(1)
    for person in range(20):
        (tmp_path / "crops" / f"p{person}").mkdir(parents=True)
        for number in range(10):
            picture = rng.integers(0, 256, (12, 10, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "crops" / f"p{person}" / f"{number}.png"), picture)
    out = tmp_path / "out"
    run = subprocess.run(  # of its own, since it forks
        [sys.executable, "-c", KILLED, str(tmp_path / "crops"), str(out), "5"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    moments = run.stdout.splitlines()
    assert len(moments) == 12 and len(set(moments)) >= 5, moments  # killed at different stages
    whole = {path.name: path.read_bytes() for path in pathlib.Path(f"{out}-whole").iterdir()}
    assert len(whole) == 29 + 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == whole


def test_people_of_one_name_in_two_folders_are_two(tmp_path: pathlib.Path) -> None:
    for folder in ("F1/MID1", "F1/MID2", "F2/MID1"):
        (tmp_path / "set" / "all" / folder).mkdir(parents=True)
        picture = np.zeros((4, 4, 3), np.uint8)
        cv2.imwrite(str(tmp_path / "set" / "all" / folder / "1.png"), picture)
    records = pack(tmp_path / "set", tmp_path / "records")
    assert records.identities == ["F1/MID1", "F1/MID2", "F2/MID1"]


def test_hidden_and_homeless_pictures_are_no_people(
    crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    picture = (crops / "ann" / "0.png").read_bytes()
    (crops / "__MACOSX").mkdir()
    (crops / "__MACOSX" / "1.png").write_bytes(picture)
    (crops / "ann" / ".hidden.png").write_bytes(picture)
    (crops / "root.png").write_bytes(picture)
    records = pack(crops, tmp_path / "records")
    assert len(records) == 9 and records.identities == ["ann", "bob", "cyd"]
    assert records.skipped[0]["reason"] == "root.png lies in no person's folder."


def test_a_wrong_source_leaves_finished_records_alone(
    crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    whole = pack(crops, tmp_path / "records").checksum
    with pytest.raises(DataError, match="does not exist"):
        pack(tmp_path / "typo", tmp_path / "records")
    assert open_records(tmp_path / "records").checksum == whole


def test_names_in_another_encoding_are_listed(crops: pathlib.Path, tmp_path: pathlib.Path) -> None:
    whole = pack(crops, tmp_path / "whole")
    old = os.path.join(os.fsencode(crops), b"Jos\xe9")
    try:
        os.mkdir(old)
    except OSError as error:
        pytest.skip(f"this file system takes no names that are not UTF-8: {error}")
    shutil.copy(crops / "ann" / "0.png", os.path.join(old, b"0.png"))
    records = pack(crops, tmp_path / "records")
    assert records.identities == whole.identities and len(records) == len(whole)
    assert records.skipped == [
        {
            "picture": "Jos\\udce9/0.png",
            "reason": "Jos\\udce9/0.png is not named in UTF-8. Rename it.",
        }
    ]
    assert records.source == fingerprint(crops) != whole.source


def test_linked_people_are_packed_and_dead_links_listed(
    crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    whole = pack(crops, tmp_path / "whole")
    linked = tmp_path / "linked"
    linked.mkdir()
    for person in crops.iterdir():
        (linked / person.name).symlink_to(person)
    same = pack(linked, tmp_path / "same")
    assert (same.checksum, same.identities) == (whole.checksum, whole.identities)
    (linked / "dead").mkdir()
    (linked / "dead" / "1.png").symlink_to(tmp_path / "nothing")
    told = pack(linked, tmp_path / "told")
    assert [entry["picture"] for entry in told.skipped] == ["dead/1.png"]


def test_a_folder_that_may_not_be_listed_is_named(
    crops: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = os.scandir

    def refused(path: str) -> object:
        if pathlib.Path(path).name in closed:
            raise PermissionError(13, "Permission denied", path)
        return scan(path)

    whole, closed = pack(crops, tmp_path / "whole"), {".Trashes"}
    monkeypatch.setattr(os, "scandir", refused)
    (crops / ".Trashes").mkdir()  # where nothing is looked for
    assert pack(crops, tmp_path / "records").checksum == whole.checksum
    closed.add("bob")
    with pytest.raises(DataError, match="bob may not be listed, and what lies in it is not known"):
        pack(crops, tmp_path / "records")


def test_pictures_of_other_formats_are_listed(crops: pathlib.Path, tmp_path: pathlib.Path) -> None:
    whole = pack(crops, tmp_path / "whole")
    (crops / "web").mkdir()
    (crops / "web" / "1.webp").write_bytes(b"RIFF")
    (crops / "ann" / "notes.txt").write_text("no picture")
    told = pack(crops, tmp_path / "told")
    assert (len(told), told.identities) == (len(whole), whole.identities)
    assert told.source == whole.source
    nested = tmp_path / "nested"
    shutil.copytree(crops, nested / "crops")
    (nested / "crops" / "overview.gif").write_bytes(b"GIF8")  # does not change who is who
    assert pack(nested, tmp_path / "nested records").identities == whole.identities
    reason = "web/1.webp is neither JPEG nor PNG by its name. Convert it."
    assert told.skipped == [{"picture": "web/1.webp", "reason": reason}]


def test_zip_members_that_cannot_be_read_are_listed(
    crops: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    path = tmp_path / "crops.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for picture in crops.rglob("*.png"):
            archive.write(picture, picture.relative_to(crops))
        place = archive.getinfo("bob/0.png").header_offset
    data = bytearray(path.read_bytes())
    data[place + 45 : place + 90] = bytes(45)
    path.write_bytes(data)
    records = pack(path, tmp_path / "records")
    assert len(records) == 8
    assert "bob/0.png" in records.skipped[0]["reason"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"format": 1', '"format": 2'),
        ('"files": {', '"files": [], "x": {'),
        ("shard-00000.tfrecord", "../outside"),
        ('"index.npz"', '"other.npz"'),
    ],
)
def test_a_list_of_other_files_is_refused(
    crops: pathlib.Path, tmp_path: pathlib.Path, old: str, new: str
) -> None:
    pack(crops, tmp_path / "records")
    path = tmp_path / "records" / "records.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match="not a finished records folder"):
        open_records(tmp_path / "records")


def test_sources_that_cannot_be_used_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(DataError, match=r"none.zip does not exist. Expected a folder or zip"):
        pack(tmp_path / "none.zip", tmp_path / "out")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(DataError, match=r"text.zip is neither a folder nor a zip"):
        pack(tmp_path / "text.zip", tmp_path / "out")
    (tmp_path / "one" / "ann").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "one" / "ann" / "1.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"pictures of 1 people; training needs at least 2"):
        pack(tmp_path / "one", tmp_path / "out")
